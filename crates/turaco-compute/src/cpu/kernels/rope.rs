//! Rotary position embedding (Su et al. 2021).

use super::Rows;
use super::elementwise::plain_kernel;
use crate::cpu::simd::{Kernel, Simd};

/// The angles by which the pairs of a head turn from one position to the next: `theta^(-2 i / head_dim)`, rounded to
/// f32 as the common implementations have them.
pub(crate) fn frequencies(head_dim: usize, theta: f32) -> Vec<f64> {
    (0..head_dim / 2)
        .map(|i| f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64))
        .map(|frequency| f64::from(frequency as f32))
        .collect()
}

/// Cosines, then sines of every frequency, for each position: `[positions, 2, head_dim / 2]`.
///
/// Angles are formed in f64, so that only the distance of two positions matters, however far they are from the start:
/// a stream never has to begin again. (In f32, as the common implementations have it, an angle after a million
/// positions is off by a sixteenth.)
pub(crate) fn table(positions: &[u32], frequencies: &[f64], out: &mut [f32]) {
    let half = frequencies.len();
    for (&position, out) in positions.iter().zip(out.chunks_exact_mut(2 * half.max(1))) {
        let (cosines, sines) = out.split_at_mut(half);
        for ((&frequency, cosine), sine) in frequencies.iter().zip(cosines).zip(sines) {
            let (sin, cos) = (f64::from(position) * frequency).sin_cos();
            *cosine = cos as f32;
            *sine = sin as f32;
        }
    }
}

/// Rotate every head of row `r` by row `r` of the table.
pub(crate) struct Rope<'a> {
    pub x: Rows<'a>,
    /// From [`table`], for these rows.
    pub table: Rows<'a>,
    pub head_dim: usize,
    /// Rotate neighbours against each other, not halves.
    pub interleaved: bool,
    pub out: &'a mut [f32],
}

impl Rope<'_> {
    #[inline(always)]
    fn plain(self) {
        let head_dim = self.head_dim;
        let rows = self
            .x
            .iter()
            .zip(self.out.chunks_exact_mut(self.x.cols().max(1)));
        for ((x, out), table) in rows.zip(self.table.iter()) {
            let (cos, sin) = table.split_at(head_dim / 2);
            for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
                if self.interleaved {
                    let pairs = x.as_chunks::<2>().0.iter().zip(out.as_chunks_mut::<2>().0);
                    for (([a, b], out), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                        *out = [a * cos - b * sin, b * cos + a * sin];
                    }
                } else {
                    let (a, b) = x.split_at(head_dim / 2);
                    let (out_a, out_b) = out.split_at_mut(head_dim / 2);
                    for i in 0..a.len() {
                        out_a[i] = a[i] * cos[i] - b[i] * sin[i];
                        out_b[i] = b[i] * cos[i] + a[i] * sin[i];
                    }
                }
            }
        }
    }
}

plain_kernel!(Rope);
