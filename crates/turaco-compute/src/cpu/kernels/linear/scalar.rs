//! Plain loops: the reference for every other instruction set, and the fallback.

use super::epilogue::{self, Block};
use super::left::{self, Left};
use crate::cpu::packed::PANEL;
use half::f16;

/// Rows of a tile. The accumulators of four rows still fit the cache lines at hand.
pub(super) const ROWS: usize = 4;

/// Rows of a streaming kernel.
pub(super) const STREAM_ROWS: usize = 4;

/// # Safety
/// See [`super::StreamFn`].
pub(super) unsafe fn stream_f32(
    rows: usize,
    k: usize,
    x: *const f32,
    stride: usize,
    b: *const u8,
    state: *mut f32,
) {
    // SAFETY: the caller's promise, for panels of f32.
    unsafe {
        stream(rows, k, x, stride, state, |input, lane| {
            b.cast::<f32>().add(input * PANEL + lane).read_unaligned()
        });
    }
}

/// # Safety
/// See [`super::StreamFn`].
pub(super) unsafe fn stream_f16(
    rows: usize,
    k: usize,
    x: *const f32,
    stride: usize,
    b: *const u8,
    state: *mut f32,
) {
    // SAFETY: the caller's promise, for panels of f16.
    unsafe {
        stream(rows, k, x, stride, state, |input, lane| {
            f16::from_bits(b.cast::<u16>().add(input * PANEL + lane).read_unaligned()).to_f32()
        });
    }
}

/// # Safety
/// See [`super::StreamFn`].
pub(super) unsafe fn stream_bf16(
    rows: usize,
    k: usize,
    x: *const f32,
    stride: usize,
    b: *const u8,
    state: *mut f32,
) {
    // SAFETY: the caller's promise, for panels of bf16 pairs.
    unsafe {
        stream(rows, k, x, stride, state, |input, lane| {
            bf16(
                b.cast::<u16>()
                    .add((input / 2 * PANEL + lane) * 2 + input % 2)
                    .read_unaligned(),
            )
        });
    }
}

/// # Safety
/// `x` and `state` as in [`super::StreamFn`]; `weight` must be sound for inputs below `k` and lanes below 32.
unsafe fn stream(
    rows: usize,
    k: usize,
    x: *const f32,
    stride: usize,
    state: *mut f32,
    weight: impl Fn(usize, usize) -> f32,
) {
    for input in 0..k {
        let weights: [f32; PANEL] = std::array::from_fn(|lane| weight(input, lane));
        for row in 0..rows {
            // SAFETY: `row` and `input` are within the rows of `x`, and the sums within `[rows][2][32]`.
            let (value, sums) = unsafe {
                (
                    *x.add(row * stride + input),
                    &mut *state
                        .add((row * 2 + input % 2) * PANEL)
                        .cast::<[f32; PANEL]>(),
                )
            };
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += value * weight;
            }
        }
    }
}

/// # Safety
/// See [`super::WidenFn`].
pub(super) unsafe fn widen_f16(inputs: usize, b: *const u8, out: *mut f32) {
    for i in 0..inputs * PANEL {
        // SAFETY: the caller's promise.
        unsafe { *out.add(i) = f16::from_bits(b.cast::<u16>().add(i).read_unaligned()).to_f32() };
    }
}

/// # Safety
/// See [`super::WidenFn`].
pub(super) unsafe fn widen_bf16(inputs: usize, b: *const u8, out: *mut f32) {
    for input in 0..inputs {
        for lane in 0..PANEL {
            // SAFETY: the caller's promise.
            unsafe {
                let at = (input / 2 * PANEL + lane) * 2 + input % 2;
                *out.add(input * PANEL + lane) = bf16(b.cast::<u16>().add(at).read_unaligned());
            }
        }
    }
}

/// # Safety
/// See [`super::TileFn`].
pub(super) unsafe fn tile_f32(rows: usize, steps: usize, a: *const u32, b: *const u8, c: *mut u32) {
    for step in 0..steps {
        // SAFETY: within the panel.
        let weights = unsafe {
            b.add(step * PANEL * 4)
                .cast::<[f32; PANEL]>()
                .read_unaligned()
        };
        for row in 0..rows {
            // SAFETY: within the strip and the sums.
            let (value, sums) = unsafe {
                (
                    f32::from_bits(*a.add(step * rows + row)),
                    &mut *c.add(row * PANEL).cast::<[f32; PANEL]>(),
                )
            };
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += value * weight;
            }
        }
    }
}

/// # Safety
/// See [`super::TileFn`].
pub(super) unsafe fn tile_int8(
    rows: usize,
    groups: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    for group in 0..groups {
        // SAFETY: a group of the panel is 32 quads.
        let weights = unsafe { &*b.add(group * PANEL * 4).cast::<[[i8; 4]; PANEL]>() };
        for row in 0..rows {
            // SAFETY: within the strip and the sums.
            let (quad, sums) = unsafe {
                (
                    (*a.add(group * rows + row)).to_le_bytes(),
                    &mut *c.add(row * PANEL).cast::<[i32; PANEL]>(),
                )
            };
            for (sum, weights) in sums.iter_mut().zip(weights) {
                for (value, &weight) in quad.into_iter().zip(weights) {
                    *sum = sum.wrapping_add(i32::from(value as i8) * i32::from(weight));
                }
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

fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
