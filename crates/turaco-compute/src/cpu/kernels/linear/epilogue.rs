//! What happens to a product before it is stored.
//!
//! The code is plain Rust over 32 outputs at a time; each instruction set compiles it with its own vector registers.
//! Multiply-adds are fused everywhere (on wasm nowhere), so every instruction set gives the same bits.

use crate::cpu::packed::PANEL;
use crate::cpu::simd::math::SINE_SQUARED;

/// A function applied to each output of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// The output as it is.
    #[default]
    None,
    /// `x Φ(x)` with the error function, accurate to rounding.
    GeluErf,
    /// `x Φ(x)` with the usual approximation by a hyperbolic tangent.
    GeluTanh,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x` above 0, `exp(x) - 1` below.
    Elu,
    /// Hyperbolic tangent.
    Tanh,
}

/// The rest of a linear layer: `out = activation(x wᵀ + bias) * scale [+ residual] [+ out]`.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a> {
    /// `[n]`, added to each row.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Factor applied after the activation.
    pub scale: f32,
    /// `[m, n]`, added last.
    pub residual: Option<&'a [f32]>,
    /// Whether the result is added to what `out` holds.
    pub accumulate: bool,
    /// Rates and gains, `[n]` each: `x + gain sin(rate x)²` after the bias, before the activation.
    pub snake: Option<(&'a [f32], &'a [f32])>,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self {
            bias: None,
            activation: Activation::None,
            scale: 1.0,
            residual: None,
            accumulate: false,
            snake: None,
        }
    }
}

/// One block of a product on its way to the output.
pub(super) struct Block<'a> {
    /// `[rows][32]` sums.
    pub sums: Sums<'a>,
    /// First row and number of rows within the output.
    pub first_row: usize,
    pub rows: usize,
    /// First column and number of columns within the output, at most 32.
    pub first_column: usize,
    pub columns: usize,
    /// Row length of the output.
    pub n: usize,
    pub epilogue: &'a Epilogue<'a>,
    /// The whole output `[m, n]`; only this block of it is touched.
    pub out: *mut f32,
}

/// The sums of products, and what makes them real numbers.
pub(super) enum Sums<'a> {
    Float(&'a [[f32; PANEL]]),
    Integer {
        sums: &'a [[i32; PANEL]],
        row_scales: &'a [f32],
        column_scales: &'a [f32; PANEL],
    },
}

impl Sums<'_> {
    /// The sums of one row as real numbers.
    #[inline(always)]
    fn row(&self, row: usize) -> [f32; PANEL] {
        match self {
            Self::Float(sums) => sums[row],
            Self::Integer {
                sums,
                row_scales,
                column_scales,
            } => {
                let (sums, scale) = (&sums[row], row_scales[row]);
                let mut values = [0.0; PANEL];
                for i in 0..PANEL {
                    values[i] = sums[i] as f32 * (scale * column_scales[i]);
                }
                values
            }
        }
    }
}

/// Applies the epilogue to a block and stores it.
///
/// # Safety
/// `block.out` must be valid for the rows and columns of the block, which nobody else touches meanwhile; bias and
/// residual must have the lengths that the block implies.
#[inline(always)]
pub(super) unsafe fn store(block: &Block<'_>) {
    // One loop per activation, so that the compiler sees each as straight vector code.
    // SAFETY: the caller's promise, for all arms.
    unsafe {
        match block.epilogue.activation {
            Activation::None => store_with(block, |x| x),
            Activation::GeluErf => store_with(block, gelu_erf),
            Activation::GeluTanh => store_with(block, gelu_tanh),
            Activation::Silu => store_with(block, silu),
            Activation::Relu => store_with(block, |x| if x < 0.0 { 0.0 } else { x }),
            Activation::Sigmoid => store_with(block, |x| 1.0 / (1.0 + exp(-x))),
            Activation::Elu => store_with(block, |x| if x < 0.0 { exp(x) - 1.0 } else { x }),
            Activation::Tanh => store_with(block, |x| 2.0 / (1.0 + exp(-2.0 * x)) - 1.0),
        }
    }
}

/// # Safety
/// As [`store`].
#[inline(always)]
unsafe fn store_with(block: &Block<'_>, activation: impl Fn(f32) -> f32) {
    let &Block {
        n,
        columns,
        first_row,
        first_column,
        epilogue,
        ..
    } = block;
    let bias = epilogue
        .bias
        .map(|bias| widen(&bias[first_column..first_column + columns]));
    let snake = epilogue.snake.map(|(rate, gain)| {
        let part = first_column..first_column + columns;
        (widen(&rate[part.clone()]), widen(&gain[part]))
    });
    for row in 0..block.rows {
        let start = (first_row + row) * n + first_column;
        // SAFETY: within the block, which is ours.
        let out = unsafe { std::slice::from_raw_parts_mut(block.out.add(start), columns) };
        let residual = epilogue
            .residual
            .map(|residual| &residual[start..start + columns]);
        // Where all 32 outputs exist, everything stays in registers.
        if let Ok(out) = <&mut [f32; PANEL]>::try_from(&mut *out) {
            *out = finish(
                block,
                row,
                &activation,
                (bias.as_ref(), snake.as_ref()),
                residual.and_then(<[f32]>::first_chunk),
                out,
            );
        } else {
            let values = finish(
                block,
                row,
                &activation,
                (bias.as_ref(), snake.as_ref()),
                residual.map(widen).as_ref(),
                &widen(out),
            );
            out.copy_from_slice(&values[..columns]);
        }
    }
}

/// One number for each column of a block.
type Columns = [f32; PANEL];

/// One row of a block; `before` is what the output held.
#[inline(always)]
fn finish(
    block: &Block<'_>,
    row: usize,
    activation: &impl Fn(f32) -> f32,
    (bias, snake): (Option<&[f32; PANEL]>, Option<&(Columns, Columns)>),
    residual: Option<&[f32; PANEL]>,
    before: &[f32; PANEL],
) -> [f32; PANEL] {
    let mut values = block.sums.row(row);
    if let Some(bias) = bias {
        add(&mut values, bias);
    }
    if let Some((rate, gain)) = snake {
        for ((value, rate), gain) in values.iter_mut().zip(rate).zip(gain) {
            *value = fma(*gain, sine_squared(rate * *value), *value);
        }
    }
    for value in &mut values {
        *value = activation(*value);
    }
    if block.epilogue.scale != 1.0 {
        for value in &mut values {
            *value *= block.epilogue.scale;
        }
    }
    if let Some(residual) = residual {
        add(&mut values, residual);
    }
    if block.epilogue.accumulate {
        add(&mut values, before);
    }
    values
}

/// Up to 32 values, followed by zeros.
fn widen(values: &[f32]) -> [f32; PANEL] {
    let mut all = [0.0; PANEL];
    all[..values.len()].copy_from_slice(values);
    all
}

#[inline(always)]
fn add(values: &mut [f32; PANEL], addend: &[f32; PANEL]) {
    for (value, addend) in values.iter_mut().zip(addend) {
        *value += addend;
    }
}

/// `a b + c`, fused where the machine can (wasm cannot without a slow library call).
#[inline(always)]
pub(super) fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "wasm32") {
        a * b + c
    } else {
        a.mul_add(b, c)
    }
}

/// Polynomial with the given coefficients, lowest first.
#[inline(always)]
fn polynomial<const N: usize>(coefficients: [f32; N], x: f32) -> f32 {
    let mut sum = coefficients[N - 1];
    for i in (0..N - 1).rev() {
        sum = fma(sum, x, coefficients[i]);
    }
    sum
}

/// Adding and subtracting this rounds to an integer, halves to even; the integer is in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// 2 to the power of the integer that was added to [`ROUND`] to give `shifted`; exponents -126 to 127.
#[inline(always)]
fn power_of_two(shifted: f32) -> f32 {
    f32::from_bits(
        (shifted
            .to_bits()
            .wrapping_sub(ROUND.to_bits())
            .wrapping_add(127))
            << 23,
    )
}

/// The error function, absolute error below 1.3e-7.
///
/// Below 0.92 an odd polynomial; above it `1 - 2^p(|x|)` where `p` approximates the logarithm of the complementary
/// error function. Both are minimax fits in the relative error of what they approximate; beyond 3.95 the result
/// rounds to one.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let magnitude = x.abs();
    let small = fma(
        magnitude,
        polynomial(SMALL, magnitude * magnitude),
        magnitude,
    );
    let exponent = polynomial(LARGE, magnitude.min(3.95));
    let shifted = exponent + ROUND;
    let fraction = exponent - (shifted - ROUND);
    let large = 1.0 - fma(polynomial(EXP2, fraction), fraction, 1.0) * power_of_two(shifted);
    let magnitude = if magnitude < 0.92 { small } else { large };
    magnitude.copysign(x)
}

/// The exponential function, relative error below 2e-7; arguments are held within ±87.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 87.0);
    let shifted = fma(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with trailing zeros so that its product is exact.
    let rest = fma(n, -0.693_145_75, x);
    let rest = fma(n, -1.428_606_8e-6, rest);
    let tail = polynomial(EXP, rest);
    fma(tail * rest, rest, rest + 1.0) * power_of_two(shifted)
}

/// `sin(x)²`, as [`math::sine_squared`](crate::cpu::simd::math::sine_squared), to the bit.
#[inline(always)]
fn sine_squared(x: f32) -> f32 {
    let shifted = fma(x, std::f32::consts::FRAC_1_PI, ROUND);
    let n = shifted - ROUND;
    let rest = fma(n, -3.140_625, x);
    let rest = fma(n, -0.000_967_653_6, rest);
    let square = rest * rest;
    polynomial(SINE_SQUARED, square) * square
}

#[inline(always)]
fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    // (1 + tanh(u)) / 2 is the logistic function of 2 u; the factor is 2 sqrt(2 / π).
    let doubled = 1.595_769 * fma(0.044_715 * x * x, x, x);
    x / (1.0 + exp(-doubled))
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `(erf(x) - x) / x` by powers of `x²` up to 0.92².
const SMALL: [f32; 6] = [
    0.128_379_15,
    -0.376_124_98,
    0.112_818_46,
    -0.026_767_723,
    0.004_994_834_3,
    -0.000_599_942_3,
];
/// `log2(erfc(x))` by powers of `x` from 0.92 to 3.95.
const LARGE: [f32; 7] = [
    -0.000_298_660_92,
    -1.626_822_4,
    -0.919_380_25,
    -0.149_833,
    0.032_013_036,
    -0.004_376_681_5,
    0.000_281_247_46,
];
/// `(2^x - 1) / x` by powers of `x` within ±1/2.
#[allow(clippy::approx_constant, reason = "a fitted value near ln 2, not ln 2")]
const EXP2: [f32; 5] = [
    0.693_147,
    0.240_222_42,
    0.055_507_34,
    0.009_671_513,
    0.001_326_466_6,
];
/// `(exp(x) - 1 - x) / x²` by powers of `x` within ±0.35.
const EXP: [f32; 5] = [
    0.499_999_94,
    0.166_665_15,
    0.041_668_456,
    0.008_369_413,
    0.001_381_316_9,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The error function in double precision, by series of positive terms (Abramowitz and Stegun 7.1.6).
    fn erf_exact(x: f64) -> f64 {
        if x.abs() > 6.0 {
            return x.signum();
        }
        let (mut term, mut sum) = (x, x);
        for i in 1..200 {
            term *= 2.0 * x * x / f64::from(2 * i + 1);
            sum += term;
        }
        sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn erf_is_accurate() {
        let mut worst = 0.0_f64;
        for i in -60_000..=60_000 {
            let x = i as f32 * 1e-4;
            worst = worst.max((f64::from(erf(x)) - erf_exact(f64::from(x))).abs());
        }
        assert!(worst < 1.3e-7, "{worst}");
        assert_eq!(erf(f32::INFINITY), 1.0);
        assert_eq!(erf(-10.0), -1.0);
        assert_eq!(erf(0.0), 0.0);
    }

    #[test]
    fn exp_is_accurate() {
        let mut worst = 0.0_f64;
        for i in -86_999..=86_999 {
            let x = i as f32 * 1e-3;
            worst = worst.max((f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs());
        }
        assert!(worst < 2e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn activations_follow_their_formulas() {
        for i in -12_000..=12_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x);
            let cases = [
                (
                    gelu_erf(x),
                    exact * 0.5 * (1.0 + erf_exact(exact / 2.0_f64.sqrt())),
                ),
                (
                    gelu_tanh(x),
                    exact
                        * 0.5
                        * (1.0
                            + ((2.0 / std::f64::consts::PI).sqrt()
                                * (exact + 0.044715 * exact.powi(3)))
                            .tanh()),
                ),
                (silu(x), exact / (1.0 + (-exact).exp())),
            ];
            for (index, (found, expected)) in cases.into_iter().enumerate() {
                let error = (f64::from(found) - expected).abs();
                assert!(
                    error < 3e-7 * (1.0 + exact.abs()),
                    "function {index} at {x}: {found} {expected}"
                );
            }
        }
        assert!(
            gelu_erf(f32::NAN).is_nan() && gelu_tanh(f32::NAN).is_nan() && silu(f32::NAN).is_nan()
        );
    }
}
