//! wasm simd128: products of 16 bits.

#![allow(
    clippy::needless_range_loop,
    reason = "rows index several arrays, and are unrolled"
)]

use super::super::left::{BLOCK, BlockForm, Correction, Left};
use crate::cpu::packed::PANEL;
use crate::cpu::packed::blocks::{Q4_BYTES, Q8_BYTES, SCALE_BYTES};
use half::f16;
use std::arch::wasm32::*;

/// Activations as these tiles want them.
pub(in super::super) const LEFT_Q8: Left = Left::Blocks(BlockForm::Pairs, Correction::Zero);

/// Activations as these tiles want them.
pub(in super::super) const LEFT_Q4: Left = Left::Blocks(BlockForm::Pairs, Correction::Sum);

/// # Safety
/// See [`super::super::TileFn`], for panels of q8.
pub(in super::super) unsafe fn tile_q8(
    rows: usize,
    blocks: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(q8, rows, [1 2 3 4], (blocks, a, b, c));
}

/// # Safety
/// See [`super::super::TileFn`], for panels of q4.
pub(in super::super) unsafe fn tile_q4(
    rows: usize,
    blocks: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(q4, rows, [1 2 3 4], (blocks, a, b, c));
}

/// # Safety
/// As [`tile_q8`].
unsafe fn q8<const ROWS: usize>(blocks: usize, a: *const u32, b: *const u8, c: *mut u32) {
    for part in 0..PANEL / 4 {
        for block in 0..blocks {
            // SAFETY: the caller's promise: a block of the strip is `[2 + 16][ROWS]` words, one of the panel `Q8_BYTES`,
            // and the sums are `[ROWS][32]`.
            unsafe {
                let a = a.add(block * LEFT_Q8.step_words() * ROWS);
                let b = b.add(block * Q8_BYTES);
                let mut dots = [i32x4_splat(0); ROWS];
                for row in 0..ROWS {
                    dots[row] = u32x4_splat(*a.add(ROWS + row));
                }
                for quad in 0..BLOCK / 4 {
                    let weights =
                        v128_load(b.add(SCALE_BYTES + quad * PANEL * 4 + part * 16).cast());
                    let even = v128_and(weights, u16x8_splat(0xff));
                    let odd = u16x8_shr(weights, 8);
                    for row in 0..ROWS {
                        let x = a.add((2 + 2 * quad) * ROWS + row);
                        let even = i32x4_dot_i16x8(even, u32x4_splat(*x));
                        let odd = i32x4_dot_i16x8(odd, u32x4_splat(*x.add(ROWS)));
                        dots[row] = i32x4_add(dots[row], i32x4_add(even, odd));
                    }
                }
                let scales = halves(b.add(part * 8));
                for row in 0..ROWS {
                    let sum = c.add(row * PANEL + part * 4).cast::<v128>();
                    let factor = f32x4_mul(u32x4_splat(*a.add(row)), scales);
                    let scaled = f32x4_mul(f32x4_convert_i32x4(dots[row]), factor);
                    v128_store(sum, f32x4_add(scaled, v128_load(sum)));
                }
            }
        }
    }
}

/// # Safety
/// As [`tile_q4`].
unsafe fn q4<const ROWS: usize>(blocks: usize, a: *const u32, b: *const u8, c: *mut u32) {
    let lowest = u16x8_splat(15);
    for part in 0..PANEL / 4 {
        for block in 0..blocks {
            // SAFETY: the caller's promise: a block of the strip is `[2 + 16][ROWS]` words, one of the panel `Q4_BYTES`,
            // and the sums are `[ROWS][32]`.
            unsafe {
                let a = a.add(block * LEFT_Q4.step_words() * ROWS);
                let b = b.add(block * Q4_BYTES);
                let mut dots = [i32x4_splat(0); ROWS];
                for group in 0..BLOCK / 8 {
                    let weights = v128_load(
                        b.add(2 * SCALE_BYTES + group * PANEL * 4 + part * 16)
                            .cast(),
                    );
                    let quarters = [
                        v128_and(weights, lowest),
                        v128_and(u16x8_shr(weights, 8), lowest),
                        v128_and(u16x8_shr(weights, 4), lowest),
                        u16x8_shr(weights, 12),
                    ];
                    for row in 0..ROWS {
                        for (i, &quarter) in quarters.iter().enumerate() {
                            let x = u32x4_splat(*a.add((2 + 4 * group + i) * ROWS + row));
                            dots[row] = i32x4_add(dots[row], i32x4_dot_i16x8(quarter, x));
                        }
                    }
                }
                let scales = halves(b.add(part * 8));
                let minimums = halves(b.add(SCALE_BYTES + part * 8));
                for row in 0..ROWS {
                    let sum = c.add(row * PANEL + part * 4).cast::<v128>();
                    let factor = f32x4_mul(u32x4_splat(*a.add(row)), scales);
                    let scaled = f32x4_mul(f32x4_convert_i32x4(dots[row]), factor);
                    let scaled = f32x4_add(scaled, v128_load(sum));
                    let least = f32x4_mul(minimums, u32x4_splat(*a.add(ROWS + row)));
                    v128_store(sum, f32x4_add(least, scaled));
                }
            }
        }
    }
}

/// Widens four f16, for which there is no instruction.
///
/// # Safety
/// As many must be readable at `at`.
#[inline(always)]
unsafe fn halves(at: *const u8) -> v128 {
    // SAFETY: the caller's promise.
    let halves = unsafe { at.cast::<[u16; 4]>().read_unaligned() };
    let [w0, w1, w2, w3] = halves.map(|bits| f16::from_bits(bits).to_f32());
    f32x4(w0, w1, w2, w3)
}
