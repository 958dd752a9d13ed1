//! SnakeBeta, `x + gain * sin(rate * x)^2`.

use super::Rows;
use crate::cpu::simd::{Kernel, Simd, math};

/// `out = snake(x)` per row; a rate and a gain for each column.
pub(crate) struct Apply<'a> {
    pub x: Rows<'a>,
    pub rate: &'a [f32],
    pub gain: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    fn run_scalar(self) {
        let Self { x, rate, gain, out } = self;
        for (x, out) in x.iter().zip(out.chunks_exact_mut(x.cols().max(1))) {
            for (((out, &x), &rate), &gain) in out.iter_mut().zip(x).zip(rate).zip(gain) {
                let sine = (rate * x).sin();
                *out = x + gain * (sine * sine);
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, rate, gain, out } = self;
        for (x, out) in x.iter().zip(out.chunks_exact_mut(x.cols().max(1))) {
            let mut at = 0;
            while at + S::LANES <= x.len() {
                let value = one(
                    s,
                    s.load(&x[at..]),
                    s.load(&rate[at..]),
                    s.load(&gain[at..]),
                );
                s.store(&mut out[at..], value);
                at += S::LANES;
            }
            if at < x.len() {
                let part = |of: &[f32]| s.load_part(&of[at..], 0.0);
                s.store_part(&mut out[at..], one(s, part(x), part(rate), part(gain)));
            }
        }
    }
}

/// One vector.
#[inline(always)]
fn one<S: Simd>(s: S, x: S::F32, rate: S::F32, gain: S::F32) -> S::F32 {
    s.fma(gain, math::sine_squared(s, s.mul(rate, x)), x)
}
