//! Convolution over rows as a matrix product: the windows it sees, one after the other.

use super::Rows;

/// Which rows a window covers: window `i` begins at row `i * stride - padding` and takes every `dilation`th.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub kernel: usize,
    pub stride: usize,
    pub dilation: usize,
    /// Zero rows before the first row.
    pub padding: usize,
}

/// Copy the `kernel` rows of window `index` to `out`; rows before and after the sequence are zeros.
pub(crate) fn window(x: Rows<'_>, geometry: Geometry, index: usize, out: &mut [f32]) {
    let Geometry {
        kernel,
        stride,
        dilation,
        padding,
    } = geometry;
    debug_assert_eq!(out.len(), kernel * x.cols());
    for (tap, target) in out.chunks_exact_mut(x.cols().max(1)).enumerate() {
        match (index * stride + tap * dilation).checked_sub(padding) {
            Some(row) if row < x.len() => target.copy_from_slice(x.row(row)),
            _ => target.fill(0.0),
        }
    }
}
