//! Arm NEON: tiles of 6 rows by half a panel, which are 24 of the 32 registers.
//!
//! Int8 uses the dot-product instruction where the machine has it. It is written as assembly because Rust's
//! intrinsic for it is not stable yet.

#![allow(
    clippy::needless_range_loop,
    reason = "rows index several arrays, and are unrolled"
)]

use super::epilogue::{self, Block};
use super::left::{self, Left};
use crate::cpu::packed::PANEL;
use std::arch::aarch64::*;

/// Rows of a tile.
pub(super) const ROWS: usize = 6;

/// Most rows for which streaming beats tiles, which read weights once for all of them.
pub(super) const STREAM_UP_TO: usize = 2;

/// Rows of a streaming kernel: one row against a whole panel takes sixteen sums.
pub(super) const STREAM_ROWS: usize = 1;

/// Defines the streaming product for one weight type, which `$load(b, input, part)` widens: four weights of outputs
/// `4 * part..`, of the first or second of two inputs.
macro_rules! stream {
    ($name:ident, $load:ident, $size:literal) => {
        /// # Safety
        /// See [`super::StreamFn`]; needs NEON. One row only.
        #[target_feature(enable = "neon")]
        pub(super) unsafe fn $name(
            rows: usize,
            k: usize,
            x: *const f32,
            _stride: usize,
            mut b: *const u8,
            state: *mut f32,
        ) {
            debug_assert_eq!(rows, STREAM_ROWS);
            // SAFETY: the caller's promise: `x` has `k` values, `b` holds `k` inputs (rounded up to whole groups), `state`
            // is `[2][32]`.
            unsafe {
                let mut sums = [vdupq_n_f32(0.0); 16];
                for part in 0..16 {
                    sums[part] = vld1q_f32(state.add(part * 4));
                }
                for pair in 0..k / 2 {
                    for input in 0..2 {
                        let value = vdupq_n_f32(*x.add(2 * pair + input));
                        for part in 0..8 {
                            let sum = &mut sums[input * 8 + part];
                            *sum = vfmaq_f32(*sum, value, $load(b, input, part));
                        }
                    }
                    b = b.add($size);
                }
                if k % 2 == 1 {
                    let last = vdupq_n_f32(*x.add(k - 1));
                    for part in 0..8 {
                        sums[part] = vfmaq_f32(sums[part], last, $load(b, 0, part));
                    }
                }
                for part in 0..16 {
                    vst1q_f32(state.add(part * 4), sums[part]);
                }
            }
        }
    };
}

stream!(stream_f32, weights_f32, 256);
stream!(stream_f16, weights_f16, 128);
stream!(stream_bf16, weights_bf16, 128);

/// # Safety
/// See [`super::TileFn`]; needs NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn tile_f32(
    rows: usize,
    groups: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(tile_f32_rows, rows, [1 2 3 4 5 6], (groups, a, b, c));
}

/// # Safety
/// As above.
#[target_feature(enable = "neon")]
unsafe fn tile_f32_rows<const ROWS: usize>(
    groups: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    for half in 0..2 {
        let (mut a, mut b) = (a.cast::<f32>(), b);
        let c = c.cast::<f32>().wrapping_add(half * 16);
        // SAFETY: the caller's promise: `a` is `[groups][ROWS]`, `b` holds `groups` inputs, `c` is `[ROWS][32]`.
        unsafe {
            let mut sums = [[vdupq_n_f32(0.0); 4]; ROWS];
            for row in 0..ROWS {
                for part in 0..4 {
                    sums[row][part] = vld1q_f32(c.add(row * PANEL + part * 4));
                }
            }
            for _ in 0..groups {
                let mut weights = [vdupq_n_f32(0.0); 4];
                for part in 0..4 {
                    weights[part] = weights_f32(b, 0, half * 4 + part);
                }
                for row in 0..ROWS {
                    let value = *a.add(row);
                    for part in 0..4 {
                        sums[row][part] = vfmaq_n_f32(sums[row][part], weights[part], value);
                    }
                }
                a = a.add(ROWS);
                b = b.add(128);
            }
            for row in 0..ROWS {
                for part in 0..4 {
                    vst1q_f32(c.add(row * PANEL + part * 4), sums[row][part]);
                }
            }
        }
    }
}

/// Defines the widening for one weight type, which `$load(b, input, part)` does for four weights.
macro_rules! widen {
    ($name:ident, $load:ident, $size:literal) => {
        /// # Safety
        /// See [`super::WidenFn`]; needs NEON.
        #[target_feature(enable = "neon")]
        pub(super) unsafe fn $name(inputs: usize, mut b: *const u8, out: *mut f32) {
            for pair in 0..inputs.div_ceil(2) {
                for input in 0..2.min(inputs - 2 * pair) {
                    for part in 0..8 {
                        // SAFETY: the caller's promise.
                        unsafe {
                            let weights = $load(b, input, part);
                            vst1q_f32(out.add((2 * pair + input) * PANEL + part * 4), weights);
                        }
                    }
                }
                b = b.wrapping_add($size);
            }
        }
    };
}

widen!(widen_f16, weights_f16, 128);
widen!(widen_bf16, weights_bf16, 128);

/// Defines the int8 tile on top of `$dot(sum, weights, quad)`, which adds four products to each of four sums.
macro_rules! tile_int8 {
    ($name:ident, $rows_name:ident, $dot:ident) => {
        /// # Safety
        /// See [`super::TileFn`]; needs NEON and what the dot product needs.
        #[target_feature(enable = "neon")]
        pub(super) unsafe fn $name(rows: usize, groups: usize, a: *const u32, b: *const u8, c: *mut u32) {
            by_rows!($rows_name, rows, [1 2 3 4 5 6], (groups, a, b, c));
        }

        /// # Safety
        /// As above.
        #[target_feature(enable = "neon")]
        unsafe fn $rows_name<const ROWS: usize>(groups: usize, a: *const u32, b: *const u8, c: *mut u32) {
            for half in 0..2 {
                let (mut a, mut b) = (a, b.wrapping_add(half * 64));
                let c = c.cast::<i32>().wrapping_add(half * 16);
                // SAFETY: the caller's promise: `a` is `[groups][ROWS]` quads, `b` is `[groups][32]` quads, `c` is
                // `[ROWS][32]`.
                unsafe {
                    let mut sums = [[vdupq_n_s32(0); 4]; ROWS];
                    for row in 0..ROWS {
                        for part in 0..4 {
                            sums[row][part] = vld1q_s32(c.add(row * PANEL + part * 4));
                        }
                    }
                    for _ in 0..groups {
                        let mut weights = [vdupq_n_s8(0); 4];
                        for part in 0..4 {
                            weights[part] = vld1q_s8(b.add(part * 16).cast());
                        }
                        for row in 0..ROWS {
                            let quad = vreinterpretq_s8_u32(vdupq_n_u32(*a.add(row)));
                            for part in 0..4 {
                                sums[row][part] = $dot(sums[row][part], weights[part], quad);
                            }
                        }
                        a = a.add(ROWS);
                        b = b.wrapping_add(128);
                    }
                    for row in 0..ROWS {
                        for part in 0..4 {
                            vst1q_s32(c.add(row * PANEL + part * 4), sums[row][part]);
                        }
                    }
                }
            }
        }
    };
}

tile_int8!(tile_int8_dot, tile_int8_dot_rows, dot);
tile_int8!(tile_int8_widen, tile_int8_widen_rows, widen_dot);

/// # Safety
/// The machine must have the dot-product instructions.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn dot(mut sum: int32x4_t, weights: int8x16_t, quad: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; the instruction is there by the caller's promise.
    unsafe {
        std::arch::asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {weights:v}.16b, {quad:v}.16b",
            sum = inout(vreg) sum,
            weights = in(vreg) weights,
            quad = in(vreg) quad,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// # Safety
/// See [`super::TileFn`], for pairs of bf16; needs NEON with `bf16`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn tile_bf16_dot(
    rows: usize,
    pairs: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(tile_bf16_dot_rows, rows, [1 2 3 4 5 6], (pairs, a, b, c));
}

/// # Safety
/// As above.
#[target_feature(enable = "neon")]
unsafe fn tile_bf16_dot_rows<const ROWS: usize>(
    pairs: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    for half in 0..2 {
        let (mut a, mut b) = (a, b.wrapping_add(half * 64));
        let c = c.cast::<f32>().wrapping_add(half * 16);
        // SAFETY: the caller's promise: `a` is `[pairs][ROWS]` pairs, `b` is `[pairs][32]` pairs, `c` is `[ROWS][32]`.
        unsafe {
            let mut sums = [[vdupq_n_f32(0.0); 4]; ROWS];
            for row in 0..ROWS {
                for part in 0..4 {
                    sums[row][part] = vld1q_f32(c.add(row * PANEL + part * 4));
                }
            }
            for _ in 0..pairs {
                let mut weights = [vdupq_n_u16(0); 4];
                for part in 0..4 {
                    weights[part] = vld1q_u16(b.add(part * 16).cast());
                }
                for row in 0..ROWS {
                    let pair = vreinterpretq_u16_u32(vdupq_n_u32(*a.add(row)));
                    for part in 0..4 {
                        sums[row][part] = dot_bf16(sums[row][part], weights[part], pair);
                    }
                }
                a = a.add(ROWS);
                b = b.wrapping_add(128);
            }
            for row in 0..ROWS {
                for part in 0..4 {
                    vst1q_f32(c.add(row * PANEL + part * 4), sums[row][part]);
                }
            }
        }
    }
}

/// Adds two products of bf16 to each of four sums.
///
/// # Safety
/// The machine must have the bf16 instructions.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn dot_bf16(mut sum: float32x4_t, weights: uint16x8_t, pair: uint16x8_t) -> float32x4_t {
    // SAFETY: registers only; the instruction is there by the caller's promise.
    unsafe {
        std::arch::asm!(
            ".arch_extension bf16",
            "bfdot {sum:v}.4s, {weights:v}.8h, {pair:v}.8h",
            sum = inout(vreg) sum,
            weights = in(vreg) weights,
            pair = in(vreg) pair,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// As [`dot`], by products of 16 bits; two of them added fit 16 bits because activations are at most 127.
///
/// # Safety
/// None beyond NEON.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn widen_dot(sum: int32x4_t, weights: int8x16_t, quad: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(weights), vget_low_s8(quad));
    let high = vmull_high_s8(weights, quad);
    vaddq_s32(sum, vpaddlq_s16(vpaddq_s16(low, high)))
}

/// # Safety
/// See [`super::StoreFn`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn store(block: &Block<'_>) {
    // SAFETY: the caller's promise.
    unsafe { epilogue::store(block) };
}

/// # Safety
/// Needs NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn pack(
    left: Left,
    x: &[f32],
    rows: usize,
    k: usize,
    out: &mut [u32],
    scales: &mut [f32],
) {
    left::pack(left, x, rows, k, out, scales);
}

/// # Safety
/// `input` (0 or 1) must be within the panel at `b`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn weights_f32(b: *const u8, input: usize, part: usize) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vld1q_f32(b.add(input * 128 + part * 16).cast()) }
}

/// # Safety
/// As [`weights_f32`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn weights_f16(b: *const u8, input: usize, part: usize) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { widen_halves(b.add(input * 64 + part * 8)) }
}

/// Four f16 as f32.
///
/// # Safety
/// As many must be readable at `at`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn widen_halves(at: *const u8) -> float32x4_t {
    // SAFETY: the caller's promise. (The conversion is part of NEON, its intrinsic is not stable.)
    unsafe {
        let halves = vld1_u16(at.cast());
        let wide: float32x4_t;
        std::arch::asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h",
            wide = lateout(vreg) wide,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
        wide
    }
}

/// # Safety
/// As [`weights_f32`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn weights_bf16(b: *const u8, input: usize, part: usize) -> float32x4_t {
    // SAFETY: the caller's promise.
    let pairs = unsafe { vld1q_u32(b.add(part * 16).cast()) };
    vreinterpretq_f32_u32(if input == 0 {
        vshlq_n_u32::<16>(pairs)
    } else {
        vandq_u32(pairs, vdupq_n_u32(0xffff_0000))
    })
}
