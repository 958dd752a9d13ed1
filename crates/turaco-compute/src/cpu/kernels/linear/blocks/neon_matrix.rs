//! Arm NEON with `i8mm`: an instruction multiplies two rows of eight inputs with two outputs of eight inputs.

#![allow(
    clippy::needless_range_loop,
    reason = "rows index several arrays, and are unrolled"
)]

use super::super::left::BLOCK;
use super::neon::{LEFT_Q4, LEFT_Q8, halves_of_eight, tile_q4_dot, tile_q8_dot};
use crate::cpu::packed::PANEL;
use crate::cpu::packed::blocks::{Q4_BYTES, Q8_BYTES, SCALE_BYTES};
use std::arch::aarch64::*;

/// Outputs of one pass over the blocks.
const OUTPUTS: usize = 8;

/// # Safety
/// See [`super::super::TileFn`], for panels of q8; needs NEON with `dotprod` and `i8mm`.
#[target_feature(enable = "neon")]
pub(in super::super) unsafe fn tile_q8(
    rows: usize,
    blocks: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match rows {
            1 => tile_q8_dot(rows, blocks, a, b, c),
            2 => q8::<1>(rows, blocks, a, b, c),
            3 | 4 => q8::<2>(rows, blocks, a, b, c),
            _ => q8::<3>(rows, blocks, a, b, c),
        }
    }
}

/// # Safety
/// See [`super::super::TileFn`], for panels of q4; needs NEON with `dotprod` and `i8mm`.
#[target_feature(enable = "neon")]
pub(in super::super) unsafe fn tile_q4(
    rows: usize,
    blocks: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match rows {
            1 => tile_q4_dot(rows, blocks, a, b, c),
            2 => q4::<1>(rows, blocks, a, b, c),
            3 | 4 => q4::<2>(rows, blocks, a, b, c),
            _ => q4::<3>(rows, blocks, a, b, c),
        }
    }
}

/// Sums of `PAIRS` pairs of rows with eight outputs: in each vector two outputs of the first row, then of the second.
type Dots<const PAIRS: usize> = [[int32x4_t; OUTPUTS / 2]; PAIRS];

/// # Safety
/// As [`tile_q8`]; `rows` is `2 * PAIRS` or one less.
#[target_feature(enable = "neon")]
unsafe fn q8<const PAIRS: usize>(
    rows: usize,
    blocks: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    let sign = vdupq_n_u8(0x80);
    for first in (0..PANEL).step_by(OUTPUTS) {
        for block in 0..blocks {
            // SAFETY: the caller's promise: a block of the strip is `[2 + 8][rows]` words, one of the panel `Q8_BYTES`, and
            // the sums are `[rows][32]`.
            unsafe {
                let a = a.add(block * LEFT_Q8.step_words() * rows);
                let b = b.add(block * Q8_BYTES);
                let mut dots: Dots<PAIRS> = [[vdupq_n_s32(0); OUTPUTS / 2]; PAIRS];
                for octet in 0..BLOCK / 8 {
                    let mut weights = [vdupq_n_s8(0); OUTPUTS / 2];
                    for four in 0..OUTPUTS / 4 {
                        let quads = |quad: usize| {
                            let at = SCALE_BYTES + (quad * PANEL + first + four * 4) * 4;
                            veorq_u8(vld1q_u8(b.add(at)), sign)
                        };
                        let [low, high] = octets(quads(2 * octet), quads(2 * octet + 1));
                        (weights[2 * four], weights[2 * four + 1]) = (low, high);
                    }
                    multiply(&mut dots, &weights, a, octet, rows);
                }
                store(&dots, rows, first, a, b, None, c);
            }
        }
    }
}

/// # Safety
/// As [`tile_q4`]; `rows` is `2 * PAIRS` or one less.
#[target_feature(enable = "neon")]
unsafe fn q4<const PAIRS: usize>(
    rows: usize,
    blocks: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    let low_halves = vdupq_n_u8(15);
    for first in (0..PANEL).step_by(OUTPUTS) {
        for block in 0..blocks {
            // SAFETY: the caller's promise: a block of the strip is `[2 + 8][rows]` words, one of the panel `Q4_BYTES`, and
            // the sums are `[rows][32]`.
            unsafe {
                let a = a.add(block * LEFT_Q4.step_words() * rows);
                let b = b.add(block * Q4_BYTES);
                let mut dots: Dots<PAIRS> = [[vdupq_n_s32(0); OUTPUTS / 2]; PAIRS];
                for octet in 0..BLOCK / 8 {
                    let mut weights = [vdupq_n_s8(0); OUTPUTS / 2];
                    for four in 0..OUTPUTS / 4 {
                        let at = 2 * SCALE_BYTES + (octet * PANEL + first + four * 4) * 4;
                        let bytes = vld1q_u8(b.add(at));
                        let [low, high] =
                            octets(vandq_u8(bytes, low_halves), vshrq_n_u8::<4>(bytes));
                        (weights[2 * four], weights[2 * four + 1]) = (low, high);
                    }
                    multiply(&mut dots, &weights, a, octet, rows);
                }
                store(&dots, rows, first, a, b, Some(SCALE_BYTES), c);
            }
        }
    }
}

/// Two quads of four outputs each as eight inputs of the first two outputs, and of the last two.
#[inline]
#[target_feature(enable = "neon")]
fn octets(first: uint8x16_t, second: uint8x16_t) -> [int8x16_t; 2] {
    let (first, second) = (vreinterpretq_u32_u8(first), vreinterpretq_u32_u8(second));
    [
        vreinterpretq_s8_u32(vzip1q_u32(first, second)),
        vreinterpretq_s8_u32(vzip2q_u32(first, second)),
    ]
}

/// Adds the products of eight inputs.
///
/// # Safety
/// As [`tile_q8`]; `octet` is within the block at `a`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn multiply<const PAIRS: usize>(
    dots: &mut Dots<PAIRS>,
    weights: &[int8x16_t; OUTPUTS / 2],
    a: *const u32,
    octet: usize,
    rows: usize,
) {
    for pair in 0..PAIRS {
        // The last row of an odd number stands in for the one that is missing.
        let (one, two) = (2 * pair, (2 * pair + 1).min(rows - 1));
        // SAFETY: the caller's promise.
        unsafe {
            let quad = a.add((2 + 2 * octet) * rows);
            let words = [
                *quad.add(one),
                *quad.add(rows + one),
                *quad.add(two),
                *quad.add(rows + two),
            ];
            let x = vreinterpretq_s8_u32(vld1q_u32(words.as_ptr()));
            for i in 0..OUTPUTS / 2 {
                dots[pair][i] = matrix_product(dots[pair][i], x, weights[i]);
            }
        }
    }
}

/// Adds scaled sums of a block, and minimums if there are any.
///
/// # Safety
/// As [`tile_q8`], for one block at `a` and `b`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store<const PAIRS: usize>(
    dots: &Dots<PAIRS>,
    rows: usize,
    first: usize,
    a: *const u32,
    b: *const u8,
    minimums: Option<usize>,
    c: *mut u32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let scales = halves_of_eight(b.add(2 * first));
        let minimums = minimums.map(|at| halves_of_eight(b.add(at + 2 * first)));
        for row in 0..rows {
            let scale = f32::from_bits(*a.add(row));
            let correction = f32::from_bits(*a.add(rows + row));
            for four in 0..OUTPUTS / 4 {
                let low = vreinterpretq_s64_s32(dots[row / 2][2 * four]);
                let high = vreinterpretq_s64_s32(dots[row / 2][2 * four + 1]);
                let dot = vreinterpretq_s32_s64(if row % 2 == 0 {
                    vzip1q_s64(low, high)
                } else {
                    vzip2q_s64(low, high)
                });
                let sum = c.add(row * PANEL + first + four * 4).cast::<f32>();
                let factor = vmulq_n_f32(scales[four], scale);
                let mut scaled = vfmaq_f32(vld1q_f32(sum), vcvtq_f32_s32(dot), factor);
                if let Some(minimums) = minimums {
                    scaled = vfmaq_n_f32(scaled, minimums[four], correction);
                }
                vst1q_f32(sum, scaled);
            }
        }
    }
}

/// `sums [2][2] += x [2][8] * weights [2][8]ᵀ`. (The intrinsic is not stable.)
///
/// # Safety
/// The machine must have `i8mm`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn matrix_product(mut sums: int32x4_t, x: int8x16_t, weights: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; the instruction is there by the caller's promise.
    unsafe {
        std::arch::asm!(
            ".arch_extension i8mm",
            "smmla {sums:v}.4s, {x:v}.16b, {weights:v}.16b",
            sums = inout(vreg) sums,
            x = in(vreg) x,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
