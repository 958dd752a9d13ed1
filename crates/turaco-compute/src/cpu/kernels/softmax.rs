//! Softmax per row.

use super::Rows;
use crate::cpu::simd::{Kernel, Simd, math};

/// `out = softmax(x)` per row. A row of only minus infinity becomes zeros.
pub(crate) struct Softmax<'a> {
    pub x: Rows<'a>,
    pub out: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    fn run_scalar(self) {
        for (x, out) in self
            .x
            .iter()
            .zip(self.out.chunks_exact_mut(self.x.cols().max(1)))
        {
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

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, out) in self
            .x
            .iter()
            .zip(self.out.chunks_exact_mut(self.x.cols().max(1)))
        {
            let whole = x.len() / S::LANES * S::LANES;
            let mut highest = s.load_part(&x[whole..], f32::NEG_INFINITY);
            for at in (0..whole).step_by(S::LANES) {
                highest = s.max(highest, s.load(&x[at..]));
            }
            let max = s.reduce_max(highest);
            if max == f32::NEG_INFINITY {
                out.fill(0.0);
                continue;
            }
            let max = s.splat(max);
            let tail = math::exp(s, s.sub(s.load_part(&x[whole..], f32::NEG_INFINITY), max));
            let mut sum = tail;
            for at in (0..whole).step_by(S::LANES) {
                let value = math::exp(s, s.sub(s.load(&x[at..]), max));
                sum = s.add(sum, value);
                s.store(&mut out[at..], value);
            }
            s.store_part(&mut out[whole..], tail);
            let factor = 1.0 / s.reduce_sum(sum);
            for out in out {
                *out *= factor;
            }
        }
    }
}
