//! Convolution of every column with its own taps.

use super::Rows;
use super::elementwise::plain_kernel;
use crate::cpu::simd::{Kernel, Simd};

/// `out[r][c] = bias[c] + sum over t of x[r + t][c] * weight[t][c]`; `x` has the rows that the last window still sees.
pub(crate) struct Depthwise<'a> {
    pub x: Rows<'a>,
    /// `[kernel, cols]`.
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub out: &'a mut [f32],
}

impl Depthwise<'_> {
    #[inline(always)]
    fn plain(self) {
        let cols = self.x.cols().max(1);
        for (row, out) in self.out.chunks_exact_mut(cols).enumerate() {
            match self.bias {
                Some(bias) => out.copy_from_slice(bias),
                None => out.fill(0.0),
            }
            for (tap, weight) in self.weight.chunks_exact(cols).enumerate() {
                let x = self.x.row(row + tap);
                for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
                    *out += x * weight;
                }
            }
        }
    }
}

plain_kernel!(Depthwise);
