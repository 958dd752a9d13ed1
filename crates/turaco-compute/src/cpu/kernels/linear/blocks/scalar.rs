//! Plain loops: the reference.

use super::super::epilogue::fma;
use super::super::left::{BLOCK, BlockForm, Correction, Left};
use crate::cpu::packed::PANEL;
use crate::cpu::packed::blocks::{Q4_BYTES, Q8_BYTES, SCALE_BYTES};
use half::f16;

/// Activations as these tiles want them.
pub(in super::super) const LEFT_Q8: Left = Left::Blocks(BlockForm::Quads, Correction::Zero);

/// Activations as these tiles want them.
pub(in super::super) const LEFT_Q4: Left = Left::Blocks(BlockForm::Quads, Correction::Sum);

/// # Safety
/// See [`super::super::TileFn`], for panels of q8.
pub(in super::super) unsafe fn tile_q8(
    rows: usize,
    blocks: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    let words = LEFT_Q8.step_words() * rows;
    for block in 0..blocks {
        // SAFETY: the caller's promise: the panel has as many blocks.
        let weights = unsafe { &*b.add(block * Q8_BYTES).cast::<[u8; Q8_BYTES]>() };
        for row in 0..rows {
            // SAFETY: the strip has as many blocks, of as many rows; so have the sums.
            let (x, sums) = unsafe { (Row::new(a.add(block * words + row), rows), row_of(c, row)) };
            for (lane, sum) in sums.iter_mut().enumerate() {
                let mut dot = x.correction as i32;
                for i in 0..BLOCK {
                    let weight = weights[SCALE_BYTES + (i / 4 * PANEL + lane) * 4 + i % 4];
                    dot = dot.wrapping_add(i32::from(x.quants[i]) * i32::from(weight));
                }
                *sum = fma(dot as f32, x.scale * half_at(weights, lane), *sum);
            }
        }
    }
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
    let words = LEFT_Q4.step_words() * rows;
    for block in 0..blocks {
        // SAFETY: the caller's promise: the panel has as many blocks.
        let weights = unsafe { &*b.add(block * Q4_BYTES).cast::<[u8; Q4_BYTES]>() };
        for row in 0..rows {
            // SAFETY: the strip has as many blocks, of as many rows; so have the sums.
            let (x, sums) = unsafe { (Row::new(a.add(block * words + row), rows), row_of(c, row)) };
            for (lane, sum) in sums.iter_mut().enumerate() {
                let mut dot = 0_i32;
                for i in 0..BLOCK {
                    let byte = weights[2 * SCALE_BYTES + (i / 8 * PANEL + lane) * 4 + i % 4];
                    let quant = if i % 8 < 4 { byte & 15 } else { byte >> 4 };
                    dot += i32::from(x.quants[i]) * i32::from(quant);
                }
                *sum = fma(dot as f32, x.scale * half_at(weights, lane), *sum);
                let minimum = half_at(weights, PANEL + lane);
                *sum = fma(minimum, f32::from_bits(x.correction), *sum);
            }
        }
    }
}

/// One block of one row of activations.
struct Row {
    scale: f32,
    correction: u32,
    quants: [i8; BLOCK],
}

impl Row {
    /// # Safety
    /// `a` points to the first word of the row's block, the others follow at a distance of `rows`.
    unsafe fn new(a: *const u32, rows: usize) -> Self {
        // SAFETY: the caller's promise.
        let word = |i: usize| unsafe { *a.add(i * rows) };
        Self {
            scale: f32::from_bits(word(0)),
            correction: word(1),
            quants: std::array::from_fn(|i| word(2 + i / 4).to_le_bytes()[i % 4] as i8),
        }
    }
}

/// # Safety
/// `c` has more than `row` rows, which nobody else uses meanwhile.
unsafe fn row_of<'a>(c: *mut u32, row: usize) -> &'a mut [f32; PANEL] {
    // SAFETY: the caller's promise.
    unsafe { &mut *c.add(row * PANEL).cast::<[f32; PANEL]>() }
}

/// The f16 number `index` at the front of a block.
fn half_at(block: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([block[2 * index], block[2 * index + 1]]).to_f32()
}
