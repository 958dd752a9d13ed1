//! Sums, copies and magnitudes.

use super::Rows;

/// `out = a * a_scale + b * b_scale`; row `r` of `a` meets row `r % b.len()` of `b`.
pub(crate) fn add(a: Rows<'_>, a_scale: f32, b: Rows<'_>, b_scale: f32, out: &mut [f32]) {
    for (index, out) in out.chunks_exact_mut(a.cols().max(1)).enumerate() {
        let (a, b) = (a.row(index), b.row(index % b.len()));
        for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *out = a * a_scale + b * b_scale;
        }
    }
}

/// `out = x`.
pub(crate) fn copy(x: Rows<'_>, out: &mut [f32]) {
    for (x, out) in x.iter().zip(out.chunks_exact_mut(x.cols().max(1))) {
        out.copy_from_slice(x);
    }
}

/// `out[c] = sqrt(x[c]^2 + x[c + cols]^2)` per row.
pub(crate) fn magnitude(x: Rows<'_>, out: &mut [f32]) {
    let cols = x.cols() / 2;
    for (x, out) in x.iter().zip(out.chunks_exact_mut(cols.max(1))) {
        let (real, imaginary) = x.split_at(cols);
        for ((out, &re), &im) in out.iter_mut().zip(real).zip(imaginary) {
            *out = (re * re + im * im).sqrt();
        }
    }
}
