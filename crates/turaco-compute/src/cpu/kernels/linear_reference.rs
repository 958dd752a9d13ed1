//! Linear maps with f32 weights in plain loops.

use super::Rows;
use super::activation::activate_scalar;
use crate::graph::Activation;

/// What happens to `x W^T` before it is stored; see [`Op::Linear`](crate::graph::Op).
pub(crate) struct Finish<'a> {
    pub bias: Option<&'a [f32]>,
    pub activation: Activation,
    pub scale: f32,
    /// `Some(None)`: the residual is what `out` holds already.
    pub residual: Option<Option<Rows<'a>>>,
}

/// `out = activation(x W^T + bias) * scale + residual` for `weight` `[out_cols, x.cols]`.
pub(crate) fn linear(x: Rows<'_>, weight: &[f32], finish: &Finish<'_>, out: &mut [f32]) {
    let k = x.cols();
    if x.len() == 0 || out.is_empty() {
        return;
    }
    let n = out.len() / x.len();
    // A few rows of x at once, so that a weight row is read once for all of them.
    const BLOCK: usize = 4;
    for first in (0..x.len()).step_by(BLOCK) {
        let count = BLOCK.min(x.len() - first);
        for column in 0..n {
            let w = &weight[column * k..][..k];
            for row in first..first + count {
                let sum = dot(x.row(row), w) + finish.bias.map_or(0.0, |b| b[column]);
                let value = activate_scalar(sum, finish.activation) * finish.scale;
                let target = &mut out[row * n + column];
                *target = match finish.residual {
                    None => value,
                    Some(None) => value + *target,
                    Some(Some(residual)) => value + residual.row(row)[column],
                };
            }
        }
    }
}

/// Dot product in 16 partial sums.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a16
        .remainder()
        .iter()
        .zip(b16.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a16.zip(b16) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}
