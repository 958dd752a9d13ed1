//! Elementary functions on vectors.
//!
//! The polynomials are minimax fits in the relative error of the function, made for this file.

use super::Simd;

/// Adding this to a number of moderate size rounds it to an integer, halves to even.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// `(exp(r) - 1 - r) / r^2` for `|r|` up to `ln 2 / 2`.
const EXP: [f32; 6] = [
    0.5,
    0.166_666_66,
    0.041_666_29,
    0.008_333_499,
    0.001_394_487_1,
    0.000_197_901_54,
];

/// `2^r` for `|r|` up to 1/2, exact at 0.
#[expect(
    clippy::approx_constant,
    reason = "the best coefficient of five is not quite the first of infinitely many"
)]
const EXP2: [f32; 6] = [
    1.0,
    0.693_147,
    0.240_222_42,
    0.055_507_336,
    0.009_671_513,
    0.001_326_473,
];

/// `(ln(1 + r) - r + r^2 / 2) / r^3` for `1 + r` from `sqrt(1/2)` to `sqrt(2)`.
const LN: [f32; 9] = [
    0.333_333_13,
    -0.250_000_1,
    0.200_021_19,
    -0.166_679_95,
    0.142_195_46,
    -0.124_055_974,
    0.118_882_11,
    -0.116_756_156,
    0.067_464_92,
];

/// `erfc(z) exp(z^2) / t` in powers of `t = 1 / (1 + z 0.4)`, for `z` from 0 to 10.
const ERFC: [f32; 10] = [
    0.225_706_9,
    0.224_951_98,
    0.214_919_5,
    0.129_677_64,
    0.272_072_35,
    -0.284_378_83,
    0.547_450_96,
    -0.498_823_85,
    0.198_018_76,
    -0.029_595_409,
];

/// `sin(r)^2 / r^2` in powers of `r^2` for `|r|` up to `pi / 2`, smallest error of the squared sine.
pub(crate) const SINE_SQUARED: [f32; 6] = [
    0.999_999_8,
    -0.333_332_15,
    0.044_441_294,
    -0.003_170_765,
    0.000_138_716_41,
    -3.540_782_5e-6,
];

/// Polynomial, lowest coefficient first.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, coefficients: [f32; N], x: S::F32) -> S::F32 {
    let mut sum = s.splat(coefficients[N - 1]);
    let mut index = N - 1;
    while index > 0 {
        index -= 1;
        sum = s.fma(sum, x, s.splat(coefficients[index]));
    }
    sum
}

/// The exponential function, relative error below 2e-7. Below -87.3 it is 0, above 88.7 it stays there; NaN gives either.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let too_small = s.less(x, s.splat(-87.3));
    let x = s.max(s.min(x, s.splat(88.7)), s.splat(-87.3));
    // 88.7 is 127.97 ln 2: rounding must not reach 128, whose power is no finite number.
    let shifted = s.min(
        s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND)),
        s.splat(ROUND + 127.0),
    );
    let n = s.sub(shifted, s.splat(ROUND));
    // ln 2 in two parts; the first has trailing zeros, so that its product with n is exact.
    let rest = s.fma(n, s.splat(-0.693_145_75), x);
    let rest = s.fma(n, s.splat(-1.428_606_8e-6), rest);
    let tail = s.mul(polynomial(s, EXP, rest), rest);
    let mantissa = s.add(s.fma(tail, rest, rest), s.splat(1.0));
    s.select(
        too_small,
        s.splat(0.0),
        s.mul(mantissa, s.power_of_two(shifted)),
    )
}

/// 2 to the power of `x` for `x` up to 127, relative error below 2e-7, exact at 0; 0 below -126.5, NaN for NaN.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let x = s.max(s.splat(-127.0), x);
    let shifted = s.add(x, s.splat(ROUND));
    let rest = s.sub(x, s.sub(shifted, s.splat(ROUND)));
    s.mul(polynomial(s, EXP2, rest), s.power_of_two(shifted))
}

/// The natural logarithm of positive normal numbers, relative error below 2e-7 (absolute near 1 the same relative to `x - 1`).
#[inline(always)]
pub(crate) fn ln<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let (mantissa, exponent) = s.split_exponent(x);
    let large = s.less(s.splat(std::f32::consts::SQRT_2), mantissa);
    let mantissa = s.select(large, s.mul(mantissa, s.splat(0.5)), mantissa);
    let exponent = s.select(large, s.add(exponent, s.splat(1.0)), exponent);
    let r = s.sub(mantissa, s.splat(1.0));
    let square = s.mul(r, r);
    let tail = s.mul(s.mul(polynomial(s, LN, r), r), square);
    let tail = s.fma(square, s.splat(-0.5), tail);
    let tail = s.fma(exponent, s.splat(1.428_606_8e-6), tail);
    s.fma(exponent, s.splat(0.693_145_75), s.add(r, tail))
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// `x / 2 * erfc(-x / sqrt 2)`, accurate relative to itself for negative `x` too.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let z = s.mul(x, s.splat(-std::f32::consts::FRAC_1_SQRT_2));
    let negative = s.less(z, s.splat(0.0));
    let magnitude = s.max(z, s.sub(s.splat(0.0), z));
    let t = s.div(s.splat(1.0), s.fma(magnitude, s.splat(0.4), s.splat(1.0)));
    let power = exp(s, s.mul(s.sub(s.splat(0.0), magnitude), magnitude));
    let erfc = s.mul(s.mul(polynomial(s, ERFC, t), t), power);
    let erfc = s.select(negative, s.sub(s.splat(2.0), erfc), erfc);
    s.mul(s.mul(x, s.splat(0.5)), erfc)
}

/// `tanh(x)`, absolute error below 3e-7.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let one = s.splat(1.0);
    let e = exp(s, s.mul(x, s.splat(-2.0)));
    s.sub(s.div(s.splat(2.0), s.add(one, e)), one)
}

/// `sin(x)^2`, absolute error below 5e-7 for `|x|` up to 1e4.
#[inline(always)]
pub(crate) fn sine_squared<S: Simd>(s: S, x: S::F32) -> S::F32 {
    // Its period is pi, and it is even: what is left of x lies within pi / 2.
    let shifted = s.fma(x, s.splat(std::f32::consts::FRAC_1_PI), s.splat(ROUND));
    let n = s.sub(shifted, s.splat(ROUND));
    // pi in two parts; the first has trailing zeros, so that its product with n is exact.
    let rest = s.fma(n, s.splat(-3.140_625), x);
    let rest = s.fma(n, s.splat(-0.000_967_653_6), rest);
    let square = s.mul(rest, rest);
    s.mul(polynomial(s, SINE_SQUARED, square), square)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use crate::cpu::simd::{Kernel, dispatch};

    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Exp2,
        Ln,
        Gelu,
        Sigmoid,
        Tanh,
        SineSquared,
    }

    /// The function of up to 16 values; with plain Rust there is nothing to test.
    struct Apply(Function, [f32; 16]);

    impl Kernel for Apply {
        type Output = Option<[f32; 16]>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let mut out = [0.0; 16];
            for start in (0..16).step_by(S::LANES) {
                let x = s.load(&self.1[start..]);
                let value = match self.0 {
                    Function::Exp => exp(s, x),
                    Function::Exp2 => exp2(s, x),
                    Function::Ln => ln(s, x),
                    Function::Gelu => gelu(s, x),
                    Function::Sigmoid => sigmoid(s, x),
                    Function::Tanh => tanh(s, x),
                    Function::SineSquared => sine_squared(s, x),
                };
                s.store(&mut out[start..], value);
            }
            Some(out)
        }

        fn run_scalar(self) -> Self::Output {
            None
        }
    }

    /// The largest error over `points` from `low` to `high`; `error` gets the argument and the value.
    fn worst(function: Function, (low, high): (f64, f64), error: impl Fn(f64, f64) -> f64) -> f64 {
        let points = 200_000;
        let mut worst = 0.0_f64;
        for isa in Isa::available() {
            for first in (0..points).step_by(16) {
                let x: [f32; 16] = std::array::from_fn(|i| {
                    (low + (high - low) * (first + i) as f64 / f64::from(points as u32)) as f32
                });
                for (x, y) in x
                    .into_iter()
                    .zip(dispatch(isa, Apply(function, x)).into_iter().flatten())
                {
                    worst = worst.max(error(f64::from(x), f64::from(y)));
                }
            }
        }
        worst
    }

    #[test]
    fn exp_is_accurate() {
        let found = worst(Function::Exp, (-87.2, 88.6), |x, y| {
            (y / x.exp() - 1.0).abs()
        });
        assert!(found < 2e-7, "{found}");
        let edges = [
            f32::NEG_INFINITY,
            -1e30,
            -87.4,
            0.0,
            -0.0,
            1000.0,
            f32::INFINITY,
        ];
        let mut x = [0.0; 16];
        x[..7].copy_from_slice(&edges);
        for isa in Isa::available() {
            if let Some(y) = dispatch(isa, Apply(Function::Exp, x)) {
                assert_eq!(y[..5], [0.0, 0.0, 0.0, 1.0, 1.0], "{isa:?}");
                assert!(y[5] > 3e38 && y[6] > 3e38, "{isa:?}: {y:?}");
            }
        }
    }

    #[test]
    fn exp2_is_accurate() {
        let found = worst(Function::Exp2, (-126.0, 127.0), |x, y| {
            (y / x.exp2() - 1.0).abs()
        });
        assert!(found < 2e-7, "{found}");
        let mut x = [0.0; 16];
        x[..6].copy_from_slice(&[f32::NEG_INFINITY, -1e30, -127.0, -126.6, 0.0, 127.0]);
        for isa in Isa::available() {
            if let Some(y) = dispatch(isa, Apply(Function::Exp2, x)) {
                let expected = [0.0, 0.0, 0.0, 0.0, 1.0, 127.0_f32.exp2()];
                assert_eq!(y[..6], expected, "{isa:?}");
            }
            if let Some(y) = dispatch(isa, Apply(Function::Exp2, [f32::NAN; 16])) {
                assert!(y.iter().all(|y| y.is_nan()), "{isa:?}: {y:?}");
            }
        }
    }

    #[test]
    fn ln_is_accurate() {
        let relative = |x: f64, y: f64| (y - x.ln()).abs() / x.ln().abs().max(1e-30);
        for range in [
            (1e-7, 1e-3),
            (1e-3, 0.99),
            (0.999, 1.0),
            (1.001, 20.0),
            (20.0, 1e6),
        ] {
            let found = worst(Function::Ln, range, relative);
            assert!(found < 3e-7, "{range:?}: {found}");
        }
    }

    #[test]
    fn sine_squared_is_accurate() {
        for range in [(-4.0, 4.0), (-300.0, 300.0), (9_000.0, 10_000.0)] {
            let found = worst(Function::SineSquared, range, |x, y| {
                (y - x.sin() * x.sin()).abs()
            });
            assert!(found < 5e-7, "{range:?}: {found}");
        }
    }

    #[test]
    fn activations_are_accurate() {
        // Relative to the result for negative arguments too; there the square in the exponent costs some digits.
        let gelu = |x: f64| 0.5 * x * crate::cpu::kernels::activation::erfc(-x / 2.0_f64.sqrt());
        let found = worst(Function::Gelu, (-1.0, 30.0), |x, y| {
            (y - gelu(x)).abs() / gelu(x).abs().max(1e-30)
        });
        // Without fused multiply-adds (wasm) one more rounding shows.
        assert!(found < 5e-7, "{found}");
        let found = worst(Function::Gelu, (-6.0, 0.0), |x, y| {
            (y - gelu(x)).abs() / gelu(x).abs().max(1e-30)
        });
        assert!(found < 5e-6, "{found}");
        let found = worst(Function::Sigmoid, (-80.0, 30.0), |x, y| {
            (y * (1.0 + (-x).exp()) - 1.0).abs()
        });
        assert!(found < 3e-7, "{found}");
        let found = worst(Function::Tanh, (-20.0, 20.0), |x, y| (y - x.tanh()).abs());
        assert!(found < 3e-7, "{found}");
    }
}
