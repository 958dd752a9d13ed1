//! The activations of a matrix product in the order in which the tiles read them.
//!
//! A strip of up to a dozen rows is stored `[groups][rows]`, each element the 32 bits that a tile broadcasts at
//! a time: one f32, two bf16 or four bytes of consecutive inputs. Inputs beyond the end are zeros.
//!
//! For weights in blocks the activations are blocks of 32 inputs too, each with its own scale: `[blocks][words][rows]`,
//! where the first word is the scale, the second what [`Correction`] says and the others are the inputs.

/// How a kernel wants its activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// One f32 per group.
    Float,
    /// Two bf16 per group, rounded halves to even.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64", test)),
        expect(dead_code, reason = "only x86 and Arm have kernels for it")
    )]
    Bf16,
    /// Four bytes per group, `round(x * 127 / largest)` of each row, halves to even. With `shifted`, 128 is
    /// added, for instructions that want one operand without sign.
    Int8 { shifted: bool },
    /// Blocks of 32 inputs: `round(x * 127 / largest)` of each block.
    Blocks(BlockForm, Correction),
    /// As [`Left::Bf16`], with 32 inputs of a row side by side: rows of the tiles of AMX.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for AMX"))]
    Bf16Rows,
    /// As [`Left::Int8`] without a shift, with 64 inputs of a row side by side.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for AMX"))]
    Int8Rows,
}

/// Inputs that a panel of f32 has room for in half of a first-level cache.
const WIDE_STEPS: usize = 128;

/// Steps of AMX whose part of a panel and of a strip have room together in the first-level cache.
const TILE_STEPS: usize = 8;

/// Words of 32 bits that a widened part of a panel takes.
pub(super) const WIDE_WORDS: usize = if WIDE_STEPS > TILE_STEPS * 16 {
    WIDE_STEPS * PANEL
} else {
    TILE_STEPS * 16 * PANEL
};

/// How the inputs of a block are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockForm {
    /// Eight words of four bytes.
    Quads,
    /// Sixteen words of two numbers of 16 bits: of each four inputs the first and third, then the second and fourth.
    /// That is the order in which the bytes of a word of weights come apart with a mask and a shift.
    Pairs,
}

/// What the second word of a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Correction {
    /// -128 times the sum of the rounded inputs, where sums start: q8 stores its weights with 128 added.
    Zero,
    /// The scale times the sum of the rounded inputs, as f32: the factor of q4's minimums.
    Sum,
}

impl Left {
    /// Inputs per step, the smallest part that a product can be cut into.
    pub(super) const fn step_inputs(self) -> usize {
        match self {
            Self::Float => 1,
            Self::Bf16 => 2,
            Self::Int8 { .. } => 4,
            Self::Blocks(..) | Self::Bf16Rows => BLOCK,
            Self::Int8Rows => 2 * BLOCK,
        }
    }

    /// Words of 32 bits per step and row.
    pub(super) const fn step_words(self) -> usize {
        match self {
            Self::Float | Self::Bf16 | Self::Int8 { .. } => 1,
            Self::Bf16Rows | Self::Int8Rows => 16,
            Self::Blocks(BlockForm::Quads, _) => 2 + BLOCK / 4,
            Self::Blocks(BlockForm::Pairs, _) => 2 + BLOCK / 2,
        }
    }

    /// Steps that a tile runs over at a time, so that this part of a panel stays in the first-level cache for all tiles
    /// of a block of rows.
    pub(super) const fn tile_steps(self) -> usize {
        match self {
            Self::Float | Self::Bf16 | Self::Int8 { .. } => WIDE_STEPS,
            Self::Blocks(..) => 12,
            Self::Bf16Rows | Self::Int8Rows => TILE_STEPS,
        }
    }
}

use crate::cpu::packed::PANEL;
pub(super) use crate::cpu::packed::blocks::BLOCK;
use crate::cpu::packed::blocks::Q8_ZERO;

/// Groups converted at a time, so that the lines being written stay in the first-level cache.
const CHUNK: usize = 64;

/// Below this a row counts as zero when it is quantised: 127 over it would not be finite.
const SMALLEST: f32 = 1e-35;

/// Packs `rows` rows of `k` inputs as a strip. `scales` receives the factor of each row for [`Left::Int8`].
///
/// A row with a value that is not finite gets the scale NaN.
#[inline(always)]
pub(super) fn pack(
    left: Left,
    x: &[f32],
    rows: usize,
    k: usize,
    out: &mut [u32],
    scales: &mut [f32],
) {
    if k == 0 {
        scales.fill(0.0);
        return;
    }
    match left {
        Left::Float => floats(x, rows, k, out),
        Left::Bf16 => pairs(x, rows, k, out),
        Left::Int8 { shifted } => quads(
            x,
            rows,
            k,
            if shifted { 0x8080_8080 } else { 0 },
            out,
            scales,
        ),
        Left::Blocks(form, correction) => blocks(x, rows, k, form, correction, out),
        // `amx::pack` does these by itself.
        Left::Bf16Rows | Left::Int8Rows => debug_assert!(false, "no plain form of {left:?}"),
    }
}

#[inline(always)]
fn floats(x: &[f32], rows: usize, k: usize, out: &mut [u32]) {
    let groups = out.len() / rows;
    for start in (0..groups).step_by(CHUNK) {
        for (row, values) in x.chunks_exact(k).take(rows).enumerate() {
            for group in start..groups.min(start + CHUNK) {
                out[group * rows + row] = values.get(group).map_or(0, |v| v.to_bits());
            }
        }
    }
}

#[inline(always)]
fn pairs(x: &[f32], rows: usize, k: usize, out: &mut [u32]) {
    let groups = out.len() / rows;
    for start in (0..groups).step_by(CHUNK) {
        for (row, values) in x.chunks_exact(k).take(rows).enumerate() {
            for group in start..groups.min(start + CHUNK) {
                let at = |i: usize| values.get(2 * group + i).map_or(0, |&v| bf16_bits(v));
                out[group * rows + row] = at(0) | at(1) << 16;
            }
        }
    }
}

/// The upper half of the nearest value that has only one, halves to even.
#[inline(always)]
fn bf16_bits(value: f32) -> u32 {
    let bits = value.to_bits();
    if value.is_nan() {
        bits >> 16 | 0x40
    } else {
        (bits + 0x7fff + (bits >> 16 & 1)) >> 16
    }
}

/// Factor from values to bytes, and back.
#[inline(always)]
pub(super) fn scales_of(values: &[f32]) -> (f32, f32) {
    // As integers, magnitudes order like the numbers, with infinity and NaN on top.
    let largest = values
        .iter()
        .fold(0, |largest: u32, v| largest.max(v.to_bits() & 0x7fff_ffff));
    scales_up_to(largest)
}

/// As [`scales_of`], from the bits of the largest magnitude.
#[inline(always)]
pub(super) fn scales_up_to(largest: u32) -> (f32, f32) {
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        (0.0, f32::NAN)
    } else if largest < SMALLEST {
        (0.0, 0.0)
    } else {
        (127.0 / largest, largest / 127.0)
    }
}

#[inline(always)]
fn quads(x: &[f32], rows: usize, k: usize, shift: u32, out: &mut [u32], scales: &mut [f32]) {
    let groups = out.len() / rows;
    let mut inverses = [0.0; super::MAX_TILE_ROWS];
    for (row, values) in x.chunks_exact(k).take(rows).enumerate() {
        (inverses[row], scales[row]) = scales_of(values);
    }
    for start in (0..groups).step_by(CHUNK) {
        for (row, values) in x.chunks_exact(k).take(rows).enumerate() {
            let inverse = inverses[row];
            for group in start..groups.min(start + CHUNK) {
                let at = |i: usize| values.get(4 * group + i).map_or(0, |&v| byte(v * inverse));
                out[group * rows + row] = (at(0) | at(1) << 8 | at(2) << 16 | at(3) << 24) ^ shift;
            }
        }
    }
}

#[inline(always)]
fn blocks(
    x: &[f32],
    rows: usize,
    k: usize,
    form: BlockForm,
    correction: Correction,
    out: &mut [u32],
) {
    let words = Left::Blocks(form, correction).step_words();
    for (row, values) in x.chunks_exact(k).take(rows).enumerate() {
        let (whole, rest) = values.as_chunks::<BLOCK>();
        let mut out = out.chunks_exact_mut(words * rows);
        for (values, out) in whole.iter().zip(&mut out) {
            one_block(values, rows, row, form, correction, out);
        }
        if let Some(out) = out.next() {
            let mut values = [0.0; BLOCK];
            values[..rest.len()].copy_from_slice(rest);
            one_block(&values, rows, row, form, correction, out);
        }
    }
}

/// Packs a block of row `row` into `out: [words][rows]`.
#[inline(always)]
fn one_block(
    values: &[f32; BLOCK],
    rows: usize,
    row: usize,
    form: BlockForm,
    correction: Correction,
    out: &mut [u32],
) {
    let (inverse, scale) = scales_of(values);
    let mut quants = [0_i32; BLOCK];
    // Wrapping: a block with a value that is not finite has quants without meaning, and a scale of NaN.
    let mut sum = 0_i32;
    for i in 0..BLOCK {
        // As in `byte`, with the sign of the whole number kept.
        quants[i] = (values[i] * inverse + 12_582_912.0).to_bits() as i32 - 0x4b40_0000;
        sum = sum.wrapping_add(quants[i]);
    }
    let correction = match correction {
        Correction::Zero => (-Q8_ZERO).wrapping_mul(sum) as u32,
        Correction::Sum => (scale * sum as f32).to_bits(),
    };
    let mut packed = [0_u32; BLOCK / 2];
    let used = match form {
        BlockForm::Quads => {
            for i in 0..BLOCK / 4 {
                let byte = |j: usize| quants[4 * i + j] as u32 & 0xff;
                packed[i] = byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24;
            }
            BLOCK / 4
        }
        BlockForm::Pairs => {
            for i in 0..BLOCK / 4 {
                let half = |j: usize| quants[4 * i + j] as u32;
                packed[2 * i] = half(0) & 0xffff | half(2) << 16;
                packed[2 * i + 1] = half(1) & 0xffff | half(3) << 16;
            }
            BLOCK / 2
        }
    };
    let mut out = out[row..].iter_mut().step_by(rows);
    for (word, out) in [scale.to_bits(), correction]
        .iter()
        .chain(&packed[..used])
        .zip(&mut out)
    {
        *out = *word;
    }
}

/// Rounds a value within ±127 to a byte, halves to even. (NaN, from a row whose result is NaN anyway, gives any byte.)
#[inline(always)]
fn byte(value: f32) -> u32 {
    // The integer appears in the low bits of the sum; unlike `round_ties_even` this is fast everywhere.
    (value + 12_582_912.0).to_bits() & 0xff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_are_transposed_and_padded() {
        let x = [1.0, 2.0, 3.0, -4.0, -5.0, -6.0];
        let mut out = [9; 8];
        pack(Left::Float, &x, 2, 3, &mut out, &mut []);
        assert_eq!(
            out.map(f32::from_bits),
            [1.0, -4.0, 2.0, -5.0, 3.0, -6.0, 0.0, 0.0]
        );
        let mut out = [9; 4];
        pack(Left::Bf16, &x, 2, 3, &mut out, &mut []);
        assert_eq!(out, [0x4000_3f80, 0xc0a0_c080, 0x0000_4040, 0x0000_c0c0]);
        let (mut out, mut scales) = ([9; 2], [0.0; 2]);
        pack(
            Left::Int8 { shifted: false },
            &x,
            2,
            3,
            &mut out,
            &mut scales,
        );
        // 127/3 * [1, 2, 3] = 42.3, 84.7, 127.
        assert_eq!(out[0], u32::from_le_bytes([42, 85, 127, 0]));
        assert_eq!(scales, [3.0 / 127.0, 6.0 / 127.0]);
        let plain = out;
        pack(
            Left::Int8 { shifted: true },
            &x,
            2,
            3,
            &mut out,
            &mut scales,
        );
        assert_eq!(out, plain.map(|quad| quad ^ 0x8080_8080));
    }

    #[test]
    fn bf16_rounds_halves_to_even() {
        for value in [
            0.0,
            -0.0,
            1.0,
            1.003_906_2,
            1.011_718_8,
            3.4e38,
            f32::INFINITY,
            f32::NAN,
            -1e-40,
            0.1,
        ] {
            let expected = half::bf16::from_f32(value);
            let found = half::bf16::from_bits(bf16_bits(value) as u16);
            assert!(
                found == expected || found.is_nan() && expected.is_nan(),
                "{value}"
            );
        }
    }

    #[test]
    fn rows_without_a_scale() {
        assert_eq!(scales_of(&[0.0, -0.0]), (0.0, 0.0));
        assert_eq!(scales_of(&[1e-38]), (0.0, 0.0));
        assert!(scales_of(&[1.0, f32::NAN, 2.0]).1.is_nan());
        assert!(scales_of(&[1.0, f32::NEG_INFINITY]).1.is_nan());
    }
}
