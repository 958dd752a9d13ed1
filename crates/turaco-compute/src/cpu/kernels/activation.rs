//! Element-wise activations.

use super::Rows;
use crate::cpu::simd::{Kernel, Simd, math};
use crate::graph::Activation;

/// `out = activation(x)`.
pub(crate) struct Activate<'a> {
    pub x: Rows<'a>,
    pub activation: Activation,
    pub out: &'a mut [f32],
}

/// `out = silu(gate) * up`.
pub(crate) struct SwiGlu<'a> {
    pub gate: Rows<'a>,
    pub up: Rows<'a>,
    pub out: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Output = ();

    fn run_scalar(self) {
        for (x, out) in self
            .x
            .iter()
            .zip(self.out.chunks_exact_mut(self.x.cols().max(1)))
        {
            for (out, &x) in out.iter_mut().zip(x) {
                *out = activate_scalar(x, self.activation);
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
            let mut at = 0;
            while at + S::LANES <= x.len() {
                let value = activate(s, s.load(&x[at..]), self.activation);
                s.store(&mut out[at..], value);
                at += S::LANES;
            }
            let value = activate(s, s.load_part(&x[at..], 0.0), self.activation);
            s.store_part(&mut out[at..], value);
        }
    }
}

impl Kernel for SwiGlu<'_> {
    type Output = ();

    fn run_scalar(self) {
        let rows = self.gate.iter().zip(self.up.iter());
        for ((gate, up), out) in rows.zip(self.out.chunks_exact_mut(self.gate.cols().max(1))) {
            for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                *out = activate_scalar(gate, Activation::Silu) * up;
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.gate.iter().zip(self.up.iter());
        for ((gate, up), out) in rows.zip(self.out.chunks_exact_mut(self.gate.cols().max(1))) {
            let mut at = 0;
            while at + S::LANES <= gate.len() {
                let value = activate(s, s.load(&gate[at..]), Activation::Silu);
                s.store(&mut out[at..], s.mul(value, s.load(&up[at..])));
                at += S::LANES;
            }
            let value = activate(s, s.load_part(&gate[at..], 0.0), Activation::Silu);
            s.store_part(&mut out[at..], s.mul(value, s.load_part(&up[at..], 0.0)));
        }
    }
}

/// One vector.
#[inline(always)]
fn activate<S: Simd>(s: S, x: S::F32, activation: Activation) -> S::F32 {
    match activation {
        Activation::None => x,
        Activation::Gelu => math::gelu(s, x),
        Activation::Silu => s.mul(x, math::sigmoid(s, x)),
        // The order of operands lets a NaN pass.
        Activation::Relu => s.select(s.less(x, s.splat(0.0)), s.splat(0.0), x),
        Activation::Sigmoid => math::sigmoid(s, x),
        Activation::Elu => {
            let below = s.sub(math::exp(s, s.min(x, s.splat(0.0))), s.splat(1.0));
            s.select(s.less(x, s.splat(0.0)), below, x)
        }
        Activation::Tanh => math::tanh(s, x),
    }
}

/// One value.
fn activate_scalar(x: f32, activation: Activation) -> f32 {
    match activation {
        Activation::None => x,
        Activation::Gelu => {
            (0.5 * f64::from(x) * erfc(-f64::from(x) * std::f64::consts::FRAC_1_SQRT_2)) as f32
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Elu if x < 0.0 => x.exp_m1(),
        Activation::Elu => x,
        Activation::Tanh => x.tanh(),
    }
}

/// Complementary error function: its Taylor series near zero, its continued fraction (Lentz from below) further out.
pub(crate) fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x > 27.0 {
        return 0.0;
    }
    let square = x * x;
    if x < 2.5 {
        // erf(x) = 2 x / sqrt(pi) * exp(-x^2) * sum (2 x^2)^n / (1 * 3 * ... * (2 n + 1)), all terms positive.
        let (mut term, mut sum, mut n) = (1.0, 1.0, 1.0);
        while term > sum * 1e-17 {
            n += 2.0;
            term *= 2.0 * square / n;
            sum += term;
        }
        return 1.0 - std::f64::consts::FRAC_2_SQRT_PI * x * (-square).exp() * sum;
    }
    // erfc(x) = exp(-x^2) / sqrt(pi) / (x + (1/2) / (x + (2/2) / (x + (3/2) / (x + ...)))).
    let fraction = (1..=60)
        .rev()
        .fold(x, |below, i| x + 0.5 * f64::from(i) / below);
    0.5 * std::f64::consts::FRAC_2_SQRT_PI * (-square).exp() / fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erfc_has_the_tabled_values() {
        // DLMF 7.4 and standard tables.
        for (x, expected) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_13),
            (2.0, 0.004_677_734_981_047_266),
            (3.0, 2.209_049_699_858_544e-5),
            (5.0, 1.537_459_794_428_034_8e-12),
            (-1.0, 1.842_700_792_949_715),
        ] {
            let found = erfc(x);
            assert!(
                (found - expected).abs() <= 2e-13 * expected,
                "erfc({x}) = {found}, not {expected}"
            );
        }
    }

    #[test]
    fn activations_at_known_points() {
        let close = |a: f32, b: f32| (a - b).abs() <= 1e-6 * b.abs().max(1e-6);
        assert!(close(activate_scalar(1.0, Activation::Gelu), 0.841_344_8));
        assert!(close(
            activate_scalar(-1.0, Activation::Gelu),
            -0.158_655_25
        ));
        assert!(close(activate_scalar(1.0, Activation::Silu), 0.731_058_6));
        assert_eq!(activate_scalar(-2.0, Activation::Relu), 0.0);
        assert_eq!(activate_scalar(0.0, Activation::Sigmoid), 0.5);
    }
}
