//! Putting together what ranges of keys gave.

use crate::cpu::kernels::elementwise::plain_kernel;
use crate::cpu::simd::{Kernel, Simd};

/// Values of one part: the weighted sums of every row, then for every row the largest score (as a power of two) that its
/// weights are relative to, and the sum of the weights.
pub(super) const fn part_len(rows: usize, head_dim: usize) -> usize {
    rows * (head_dim + 2)
}

/// Where in a part the two numbers of row `row` are.
pub(super) const fn weights_at(rows: usize, head_dim: usize, row: usize) -> usize {
    rows * head_dim + 2 * row
}

/// The attention of all keys from that of every range of them. `parts` lie one after the other.
pub(super) struct Merge<'a> {
    pub parts: &'a [f32],
    pub head_dim: usize,
    pub out: &'a mut [f32],
}

impl Merge<'_> {
    #[inline(always)]
    fn plain(self) {
        let head_dim = self.head_dim;
        let rows = self.out.len() / head_dim;
        let len = part_len(rows, head_dim);
        for (row, out) in self.out.chunks_exact_mut(head_dim).enumerate() {
            let at = weights_at(rows, head_dim, row);
            let parts = || self.parts.chunks_exact(len);
            let max = parts().fold(f32::NEG_INFINITY, |max, part| max.max(part[at]));
            let relative = |part: &[f32]| {
                if part[at] == max {
                    1.0
                } else {
                    (part[at] - max).exp2()
                }
            };
            let total: f32 = parts().map(|part| relative(part) * part[at + 1]).sum();
            let factor = if total > 0.0 { 1.0 / total } else { 0.0 };
            out.fill(0.0);
            for part in parts() {
                let weight = relative(part) * factor;
                for (out, sum) in out.iter_mut().zip(&part[row * head_dim..][..head_dim]) {
                    *out += weight * sum;
                }
            }
        }
    }
}

plain_kernel!(Merge);
