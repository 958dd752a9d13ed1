//! WebAssembly `simd128`: four rows by a quarter of a panel at a time. Products and sums are not fused.

#![allow(
    clippy::needless_range_loop,
    reason = "rows index several arrays, and are unrolled"
)]

use super::epilogue::{self, Block};
use super::left::{self, Left};
use crate::cpu::packed::PANEL;
use half::f16;
use std::arch::wasm32::*;

/// Rows of a tile.
pub(super) const ROWS: usize = 4;

/// Rows of a streaming kernel.
pub(super) const STREAM_ROWS: usize = 1;

/// Most rows for which streaming beats tiles, which read weights once for all of them.
pub(super) const STREAM_UP_TO: usize = 2;

/// Defines the streaming product for one weight type, which `$load(b, input, part)` widens: four weights of outputs
/// `4 * part..`, of the first or second of two inputs.
macro_rules! stream {
    ($name:ident, $load:ident, $size:literal) => {
        /// # Safety
        /// See [`super::StreamFn`]. One row only.
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
                let mut sums = [f32x4_splat(0.0); 16];
                for part in 0..16 {
                    sums[part] = v128_load(state.add(part * 4).cast());
                }
                for pair in 0..k / 2 {
                    for input in 0..2 {
                        let value = f32x4_splat(*x.add(2 * pair + input));
                        for part in 0..8 {
                            let sum = &mut sums[input * 8 + part];
                            *sum = f32x4_add(*sum, f32x4_mul(value, $load(b, input, part)));
                        }
                    }
                    b = b.add($size);
                }
                if k % 2 == 1 {
                    let last = f32x4_splat(*x.add(k - 1));
                    for part in 0..8 {
                        sums[part] = f32x4_add(sums[part], f32x4_mul(last, $load(b, 0, part)));
                    }
                }
                for part in 0..16 {
                    v128_store(state.add(part * 4).cast(), sums[part]);
                }
            }
        }
    };
}

stream!(stream_f32, weights_f32, 256);
stream!(stream_f16, weights_f16, 128);
stream!(stream_bf16, weights_bf16, 128);

/// # Safety
/// See [`super::TileFn`].
pub(super) unsafe fn tile_f32(
    rows: usize,
    groups: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(tile_f32_rows, rows, [1 2 3 4], (groups, a, b, c));
}

/// # Safety
/// As above.
unsafe fn tile_f32_rows<const ROWS: usize>(
    groups: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    for quarter in 0..4 {
        let (mut a, mut b) = (a.cast::<f32>(), b);
        let c = c.cast::<f32>().wrapping_add(quarter * 8);
        // SAFETY: the caller's promise: `a` is `[groups][ROWS]`, `b` holds `groups` inputs, `c` is `[ROWS][32]`.
        unsafe {
            let mut sums = [[f32x4_splat(0.0); 2]; ROWS];
            for row in 0..ROWS {
                for part in 0..2 {
                    sums[row][part] = v128_load(c.add(row * PANEL + part * 4).cast());
                }
            }
            for _ in 0..groups {
                let low = weights_f32(b, 0, quarter * 2);
                let high = weights_f32(b, 0, quarter * 2 + 1);
                for row in 0..ROWS {
                    let value = f32x4_splat(*a.add(row));
                    sums[row][0] = f32x4_add(sums[row][0], f32x4_mul(value, low));
                    sums[row][1] = f32x4_add(sums[row][1], f32x4_mul(value, high));
                }
                a = a.add(ROWS);
                b = b.add(128);
            }
            for row in 0..ROWS {
                for part in 0..2 {
                    v128_store(c.add(row * PANEL + part * 4).cast(), sums[row][part]);
                }
            }
        }
    }
}

/// Defines the widening for one weight type, which `$load(b, input, part)` does for four weights.
macro_rules! widen {
    ($name:ident, $load:ident, $size:literal) => {
        /// # Safety
        /// See [`super::WidenFn`].
        pub(super) unsafe fn $name(inputs: usize, mut b: *const u8, out: *mut f32) {
            for pair in 0..inputs.div_ceil(2) {
                for input in 0..2.min(inputs - 2 * pair) {
                    for part in 0..8 {
                        // SAFETY: the caller's promise.
                        unsafe {
                            let weights = $load(b, input, part);
                            v128_store(
                                out.add((2 * pair + input) * PANEL + part * 4).cast(),
                                weights,
                            );
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

/// # Safety
/// See [`super::TileFn`].
pub(super) unsafe fn tile_int8(
    rows: usize,
    groups: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(tile_int8_rows, rows, [1 2 3 4], (groups, a, b, c));
}

/// # Safety
/// As above.
unsafe fn tile_int8_rows<const ROWS: usize>(
    groups: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    for part in 0..PANEL / 4 {
        let (mut a, mut b) = (a, b.wrapping_add(part * 16));
        let c = c.wrapping_add(part * 4);
        // SAFETY: the caller's promise: `a` is `[groups][ROWS]` quads, `b` is `[groups][32]` quads, `c` is `[ROWS][32]`.
        unsafe {
            // Two sums for each output, of the first and second halves of its quads.
            let mut sums = [[i32x4_splat(0); 2]; ROWS];
            for _ in 0..groups {
                let weights = v128_load(b.cast());
                let (low, high) = (
                    i16x8_extend_low_i8x16(weights),
                    i16x8_extend_high_i8x16(weights),
                );
                for row in 0..ROWS {
                    let quad = i16x8_extend_low_i8x16(u32x4_splat(*a.add(row)));
                    sums[row][0] = i32x4_add(sums[row][0], i32x4_dot_i16x8(low, quad));
                    sums[row][1] = i32x4_add(sums[row][1], i32x4_dot_i16x8(high, quad));
                }
                a = a.add(ROWS);
                b = b.wrapping_add(128);
            }
            for row in 0..ROWS {
                let [low, high] = sums[row];
                let sum = i32x4_add(
                    i32x4_shuffle::<0, 2, 4, 6>(low, high),
                    i32x4_shuffle::<1, 3, 5, 7>(low, high),
                );
                let c = c.add(row * PANEL).cast::<v128>();
                v128_store(c, i32x4_add(v128_load(c), sum));
            }
        }
    }
}

/// # Safety
/// See [`super::StoreFn`].
pub(super) unsafe fn store(block: &Block<'_>) {
    // SAFETY: the caller's promise.
    unsafe { epilogue::store(block) };
}

/// # Safety
/// None beyond the types.
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
#[inline(always)]
unsafe fn weights_f32(b: *const u8, input: usize, part: usize) -> v128 {
    // SAFETY: the caller's promise.
    unsafe { v128_load(b.add(input * 128 + part * 16).cast()) }
}

/// # Safety
/// As [`weights_f32`].
#[inline(always)]
unsafe fn weights_f16(b: *const u8, input: usize, part: usize) -> v128 {
    // SAFETY: the caller's promise. There is no instruction for halves.
    let halves = unsafe {
        b.add(input * 64 + part * 8)
            .cast::<[u16; 4]>()
            .read_unaligned()
    };
    let [w0, w1, w2, w3] = halves.map(|bits| f16::from_bits(bits).to_f32());
    f32x4(w0, w1, w2, w3)
}

/// # Safety
/// As [`weights_f32`].
#[inline(always)]
unsafe fn weights_bf16(b: *const u8, input: usize, part: usize) -> v128 {
    // SAFETY: the caller's promise.
    let pairs = unsafe { v128_load(b.add(part * 16).cast()) };
    if input == 0 {
        i32x4_shl(pairs, 16)
    } else {
        v128_and(pairs, u32x4_splat(0xffff_0000))
    }
}
