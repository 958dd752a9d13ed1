//! Arm NEON: tiles of 6 rows by half a panel, with the dot-product instruction where the machine has it.

#![allow(
    clippy::needless_range_loop,
    reason = "rows index several arrays, and are unrolled"
)]

use super::super::left::{BLOCK, BlockForm, Correction, Left};
use super::super::neon::{dot, widen_dot};
use crate::cpu::packed::PANEL;
use crate::cpu::packed::blocks::{Q4_BYTES, Q8_BYTES, SCALE_BYTES};
use std::arch::aarch64::*;

/// Activations as these tiles want them. (The correction goes unused: the bytes get their signs back here.)
pub(in super::super) const LEFT_Q8: Left = Left::Blocks(BlockForm::Quads, Correction::Zero);

/// Activations as these tiles want them.
pub(in super::super) const LEFT_Q4: Left = Left::Blocks(BlockForm::Quads, Correction::Sum);

/// Defines both tiles on top of `$dot(sum, weights, quad)`, which adds four products to each of four sums.
macro_rules! tiles {
    ($tile_q8:ident, $q8:ident, $tile_q4:ident, $q4:ident, $dot:ident) => {
        /// # Safety
        /// See [`super::super::TileFn`], for panels of q8; needs NEON and what the dot product needs.
        #[target_feature(enable = "neon")]
        pub(in super::super) unsafe fn $tile_q8(rows: usize, blocks: usize, a: *const u32, b: *const u8, c: *mut u32) {
            by_rows!($q8, rows, [1 2 3 4 5 6], (blocks, a, b, c));
        }

        /// # Safety
        /// See [`super::super::TileFn`], for panels of q4; needs NEON and what the dot product needs.
        #[target_feature(enable = "neon")]
        pub(in super::super) unsafe fn $tile_q4(rows: usize, blocks: usize, a: *const u32, b: *const u8, c: *mut u32) {
            by_rows!($q4, rows, [1 2 3 4 5 6], (blocks, a, b, c));
        }

        /// # Safety
        /// As the tile of q8.
        #[target_feature(enable = "neon")]
        unsafe fn $q8<const ROWS: usize>(blocks: usize, a: *const u32, b: *const u8, c: *mut u32) {
            let sign = vdupq_n_u8(0x80);
            for half in 0..2 {
                for block in 0..blocks {
                    // SAFETY: the caller's promise: a block of the strip is `[2 + 8][ROWS]` words, one of the panel
                    // `Q8_BYTES`, and the sums are `[ROWS][32]`.
                    unsafe {
                        let a = a.add(block * LEFT_Q8.step_words() * ROWS);
                        let b = b.add(block * Q8_BYTES);
                        let mut dots = [[vdupq_n_s32(0); 4]; ROWS];
                        for quad in 0..BLOCK / 4 {
                            let line = b.add(SCALE_BYTES + quad * PANEL * 4 + half * 64);
                            let mut weights = [vdupq_n_s8(0); 4];
                            for part in 0..4 {
                                weights[part] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(line.add(part * 16)), sign));
                            }
                            for row in 0..ROWS {
                                let x = vreinterpretq_s8_u32(vdupq_n_u32(*a.add((2 + quad) * ROWS + row)));
                                for part in 0..4 {
                                    dots[row][part] = $dot(dots[row][part], weights[part], x);
                                }
                            }
                        }
                        let scales = halves(b.add(half * 32));
                        for row in 0..ROWS {
                            let scale = f32::from_bits(*a.add(row));
                            for part in 0..4 {
                                let sum = c.add(row * PANEL + half * 16 + part * 4).cast::<f32>();
                                let dot = vcvtq_f32_s32(dots[row][part]);
                                let factor = vmulq_n_f32(scales[part], scale);
                                vst1q_f32(sum, vfmaq_f32(vld1q_f32(sum), dot, factor));
                            }
                        }
                    }
                }
            }
        }

        /// # Safety
        /// As the tile of q4.
        #[target_feature(enable = "neon")]
        unsafe fn $q4<const ROWS: usize>(blocks: usize, a: *const u32, b: *const u8, c: *mut u32) {
            let low_halves = vdupq_n_u8(15);
            for half in 0..2 {
                for block in 0..blocks {
                    // SAFETY: the caller's promise: a block of the strip is `[2 + 8][ROWS]` words, one of the panel
                    // `Q4_BYTES`, and the sums are `[ROWS][32]`.
                    unsafe {
                        let a = a.add(block * LEFT_Q4.step_words() * ROWS);
                        let b = b.add(block * Q4_BYTES);
                        let mut dots = [[vdupq_n_s32(0); 4]; ROWS];
                        for group in 0..BLOCK / 8 {
                            let line = b.add(2 * SCALE_BYTES + group * PANEL * 4 + half * 64);
                            for part in 0..4 {
                                let weights = vld1q_u8(line.add(part * 16));
                                let low = vreinterpretq_s8_u8(vandq_u8(weights, low_halves));
                                let high = vreinterpretq_s8_u8(vshrq_n_u8::<4>(weights));
                                for row in 0..ROWS {
                                    let x = a.add((2 + 2 * group) * ROWS + row);
                                    let x_low = vreinterpretq_s8_u32(vdupq_n_u32(*x));
                                    let x_high = vreinterpretq_s8_u32(vdupq_n_u32(*x.add(ROWS)));
                                    dots[row][part] = $dot(dots[row][part], low, x_low);
                                    dots[row][part] = $dot(dots[row][part], high, x_high);
                                }
                            }
                        }
                        let scales = halves(b.add(half * 32));
                        let minimums = halves(b.add(SCALE_BYTES + half * 32));
                        for row in 0..ROWS {
                            let scale = f32::from_bits(*a.add(row));
                            let correction = f32::from_bits(*a.add(ROWS + row));
                            for part in 0..4 {
                                let sum = c.add(row * PANEL + half * 16 + part * 4).cast::<f32>();
                                let dot = vcvtq_f32_s32(dots[row][part]);
                                let factor = vmulq_n_f32(scales[part], scale);
                                let scaled = vfmaq_f32(vld1q_f32(sum), dot, factor);
                                vst1q_f32(sum, vfmaq_n_f32(scaled, minimums[part], correction));
                            }
                        }
                    }
                }
            }
        }
    };
}

tiles!(tile_q8_dot, q8_dot, tile_q4_dot, q4_dot, dot);
tiles!(tile_q8_widen, q8_widen, tile_q4_widen, q4_widen, widen_dot);

/// Widens 16 f16.
///
/// # Safety
/// As many must be readable at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn halves(at: *const u8) -> [float32x4_t; 4] {
    let mut wide = [vdupq_n_f32(0.0); 4];
    for part in 0..4 {
        // SAFETY: the caller's promise.
        wide[part] = unsafe { super::super::neon::widen_halves(at.add(part * 8)) };
    }
    wide
}

/// Widens eight f16.
///
/// # Safety
/// As many must be readable at `at`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn halves_of_eight(at: *const u8) -> [float32x4_t; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            super::super::neon::widen_halves(at),
            super::super::neon::widen_halves(at.add(8)),
        ]
    }
}
