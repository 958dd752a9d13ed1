//! Rotary position embedding (Su et al. 2021).

use super::Rows;

/// Cosine and sine of every position and frequency: `[positions, head_dim / 2, 2]`.
///
/// Angles are formed in f32 (`position * theta^(-2 i / head_dim)`), as the common implementations do.
pub(crate) fn table(positions: &[u32], head_dim: usize, theta: f32, out: &mut [f32]) {
    for (&position, out) in positions.iter().zip(out.chunks_exact_mut(head_dim.max(1))) {
        for (i, out) in out.chunks_exact_mut(2).enumerate() {
            let frequency = f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64) as f32;
            let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
            out[0] = cos as f32;
            out[1] = sin as f32;
        }
    }
}

/// Rotate every head of row `r` by row `r` of the table.
pub(crate) fn rope(
    x: Rows<'_>,
    table: &[f32],
    head_dim: usize,
    interleaved: bool,
    out: &mut [f32],
) {
    let half = head_dim / 2;
    for ((x, out), table) in x
        .iter()
        .zip(out.chunks_exact_mut(x.cols().max(1)))
        .zip(table.chunks_exact(head_dim.max(1)))
    {
        for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
            for i in 0..half {
                let (a, b) = if interleaved {
                    (2 * i, 2 * i + 1)
                } else {
                    (i, i + half)
                };
                let (cos, sin) = (table[2 * i], table[2 * i + 1]);
                out[a] = x[a] * cos - x[b] * sin;
                out[b] = x[b] * cos + x[a] * sin;
            }
        }
    }
}
