//! Layer and root-mean-square normalisation.

use super::Rows;

/// `out = (x - mean) / sqrt(var + eps) * gamma + beta`, per row; variance around the mean, in two passes.
pub(crate) fn layer_norm(x: Rows<'_>, gamma: &[f32], beta: &[f32], eps: f32, out: &mut [f32]) {
    for (x, out) in x.iter().zip(out.chunks_exact_mut(x.cols().max(1))) {
        let n = x.len() as f32;
        let mean = x.iter().sum::<f32>() / n;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
        let factor = 1.0 / (variance + eps).sqrt();
        for (((out, &x), &gamma), &beta) in out.iter_mut().zip(x).zip(gamma).zip(beta) {
            *out = (x - mean) * factor * gamma + beta;
        }
    }
}

/// `out = x / sqrt(mean(x^2) + eps) * gamma`, per group of `gamma.len()` columns.
pub(crate) fn rms_norm(x: Rows<'_>, gamma: &[f32], eps: f32, out: &mut [f32]) {
    let group = gamma.len();
    for (x, out) in x.iter().zip(out.chunks_exact_mut(x.cols().max(1))) {
        for (x, out) in x.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
            let mean = x.iter().map(|x| x * x).sum::<f32>() / group as f32;
            let factor = 1.0 / (mean + eps).sqrt();
            for ((out, &x), &gamma) in out.iter_mut().zip(x).zip(gamma) {
                *out = x * factor * gamma;
            }
        }
    }
}
