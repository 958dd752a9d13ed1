//! How the decoder knows by how many tokens the text follows the audio.
//!
//! The delay `t` becomes a vector of cosines and sines, `cos(t f_i)` then `sin(t f_i)` with `f_i = 10000^(-i / (dim/2))`;
//! each layer maps it through a narrow network to factors of its feed-forward norm: `1 + U gelu(D t_cond)`.

use crate::Result;
use crate::nn::Loader;

/// The longest delay in tokens (2.4 s).
pub const MAX_DELAY: usize = 30;

/// The frequencies' base.
const BASE: f64 = 10_000.0;

/// What the delays 1 to [`MAX_DELAY`] are to the network: `[MAX_DELAY][dim]`.
pub(super) fn time_embeddings(dim: usize) -> Vec<Vec<f32>> {
    let delays = 1..=MAX_DELAY;
    delays.map(|t| time_embedding(t as f64, dim)).collect()
}

/// `cos(t f_i)`, then `sin(t f_i)`: `[dim]`.
fn time_embedding(t: f64, dim: usize) -> Vec<f32> {
    let half = dim / 2;
    let angles = (0..half).map(|i| {
        let frequency = BASE.powf(-(i as f64) / half as f64);
        // As the reference rounds it.
        t * f64::from(frequency as f32)
    });
    let angles: Vec<f64> = angles.collect();
    let cosines = angles.iter().map(|angle| angle.cos() as f32);
    let sines = angles.iter().map(|angle| angle.sin() as f32);
    cosines.chain(sines).collect()
}

/// The factors of one layer's norm for each of the [`time_embeddings`]: `[MAX_DELAY][dim]`.
pub(super) fn layer_gains(
    loader: &Loader<'_>,
    embeddings: &[Vec<f32>],
    dim: usize,
) -> Result<Vec<Vec<f32>>> {
    let at = loader.at("ada_rms_norm");
    let inner = at.first_size("linear1.weight")?;
    let down = at.tensor("linear1.weight", &[inner, dim])?.to_f32();
    let up = at.tensor("linear2.weight", &[dim, inner])?.to_f32();
    let gains = embeddings.iter().map(|t_cond| {
        let hidden: Vec<f32> = down
            .chunks_exact(dim.max(1))
            .map(|row| gelu(dot(row, t_cond)))
            .collect();
        let scales = up.chunks_exact(inner.max(1)).map(|row| dot(row, &hidden));
        scales.map(|scale| 1.0 + scale).collect()
    });
    Ok(gains.collect())
}

/// In eight sums, so that it vectorises and rounding stays small.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a8, b8) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0f32; 8];
    for (a, b) in a8.0.iter().zip(b8.0) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f32 = a8.1.iter().zip(b8.1).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// `x / 2 * (1 + erf(x / sqrt 2))`, with the error function as its series (|x| is small here) or continued by symmetry.
fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))) as f32
}

/// Within 1e-15: `erf(x) = 2 / sqrt(pi) * exp(-x^2) * sum of 2^n x^(2n+1) / (2n+1)!!`, a series of positive terms.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let mut term = x;
    let mut sum = x;
    let mut n = 0.0;
    while term.abs() > 1e-17 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_has_its_known_values() {
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (-2.0, -0.995_322_265_018_952_7),
            (7.0, 1.0),
        ] {
            assert!((erf(x) - expected).abs() < 1e-14, "{x}");
        }
    }

    #[test]
    fn the_time_embedding_has_cosines_first() {
        let embedding = time_embedding(6.0, 4);
        let expected = [6f64.cos(), 0.06f64.cos(), 6f64.sin(), 0.06f64.sin()];
        for (found, expected) in embedding.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6);
        }
    }
}
