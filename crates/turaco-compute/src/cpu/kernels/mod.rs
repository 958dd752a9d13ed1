//! Kernels of the CPU backend, one operation per file.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod choose_tokens;
pub(crate) mod conv1d;
pub(crate) mod elementwise;
pub mod linear;
pub(crate) mod lstm;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod softmax;
pub(crate) mod transpose;

/// A read-only f32 matrix whose rows lie `stride` values apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a> Rows<'a> {
    /// `rows` rows of `cols` values, `stride` apart, from the start of `data`.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        let stride = if cols == 0 { 0 } else { stride };
        debug_assert!(rows == 0 || data.len() >= (rows - 1) * stride + cols);
        Self {
            data,
            rows,
            cols,
            stride,
        }
    }

    /// The values of all rows, if nothing lies between them.
    pub(crate) fn contiguous(&self) -> Option<&'a [f32]> {
        let whole = self.stride == self.cols || self.rows <= 1;
        whole.then(|| &self.data[..self.rows * self.cols])
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Row `index`.
    pub(crate) fn row(&self, index: usize) -> &'a [f32] {
        debug_assert!(index < self.rows);
        &self.data[index * self.stride..][..self.cols]
    }

    /// All rows in order.
    pub(crate) fn iter(self) -> impl Iterator<Item = &'a [f32]> {
        (0..self.rows).map(move |index| self.row(index))
    }

    /// Rows `start..start + len`.
    pub(crate) fn slice(self, start: usize, len: usize) -> Self {
        debug_assert!(start + len <= self.rows);
        let data = if len == 0 {
            &[]
        } else {
            &self.data[start * self.stride..]
        };
        Self {
            data,
            rows: len,
            ..self
        }
    }
}
