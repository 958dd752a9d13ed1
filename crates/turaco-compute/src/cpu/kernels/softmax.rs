//! Softmax per row.

use super::Rows;

/// `out = softmax(x)` per row. A row of only minus infinity becomes zeros.
pub(crate) fn softmax(x: Rows<'_>, out: &mut [f32]) {
    for (x, out) in x.iter().zip(out.chunks_exact_mut(x.cols().max(1))) {
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if max == f32::NEG_INFINITY {
            out.fill(0.0);
            continue;
        }
        let mut sum = 0.0;
        for (out, &x) in out.iter_mut().zip(x) {
            *out = (x - max).exp();
            sum += *out;
        }
        for out in out {
            *out /= sum;
        }
    }
}
