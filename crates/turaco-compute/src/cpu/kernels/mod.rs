//! Kernels of the CPU backend, one operation per file.
//!
//! Each is plain code first (the reference, and what runs without vector instructions), then the vector version.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod choose_tokens;
pub(crate) mod conv1d;
pub(crate) mod depthwise;
pub(crate) mod elementwise;
pub(crate) mod filter_tokens;
pub mod linear;
pub(crate) mod lstm;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod snake;
pub(crate) mod softmax;
pub(crate) mod statistics;
pub(crate) mod transpose;

use std::ops::Range;

use crate::cpu::executor::Engine;
use crate::cpu::packed::Shared;

/// Values worth waking another thread in an operation that does little with each.
const WORTH_A_TASK: usize = 16_384;

/// Call `task` with ranges of the rows of `out` (each `out.len() / rows` long) and their memory, on several threads if
/// there is enough work; `weight` is how many values' worth of work an output value is.
pub(crate) fn over_rows(
    engine: &Engine,
    rows: usize,
    weight: usize,
    out: &mut [f32],
    task: impl Fn(Range<usize>, &mut [f32]) + Sync,
) {
    if rows == 0 {
        return;
    }
    let cols = out.len() / rows;
    let work = (cols * weight).max(1);
    let shared = Shared::new(out);
    let least = WORTH_A_TASK.div_ceil(work);
    engine.pool.run_split(rows, least, &|range: Range<usize>| {
        // SAFETY: ranges of rows do not overlap and end within the output.
        let out = unsafe {
            std::slice::from_raw_parts_mut(shared.get().add(range.start * cols), range.len() * cols)
        };
        task(range, out);
    });
}

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
