//! AVX-512 VNNI: tiles of 12 rows by a whole panel, products of four bytes at a time.

#![allow(
    clippy::needless_range_loop,
    reason = "rows index several arrays, and are unrolled"
)]

use super::super::left::{BLOCK, BlockForm, Correction, Left};
use crate::cpu::packed::PANEL;
use crate::cpu::packed::blocks::{Q4_BYTES, Q8_BYTES, SCALE_BYTES};
use std::arch::x86_64::*;

/// Activations as these tiles want them.
pub(in super::super) const LEFT_Q8: Left = Left::Blocks(BlockForm::Quads, Correction::Zero);

/// Activations as these tiles want them.
pub(in super::super) const LEFT_Q4: Left = Left::Blocks(BlockForm::Quads, Correction::Sum);

/// Distance in bytes at which weights are asked for in advance when there are few rows.
const AHEAD: usize = 4096;

/// # Safety
/// See [`super::super::TileFn`], for panels of q8; needs AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) unsafe fn tile_q8(
    rows: usize,
    blocks: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(q8, rows, [1 2 3 4 5 6 7 8 9 10 11 12], (blocks, a, b, c));
}

/// # Safety
/// See [`super::super::TileFn`], for panels of q4; needs AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) unsafe fn tile_q4(
    rows: usize,
    blocks: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(q4, rows, [1 2 3 4 5 6 7 8 9 10 11 12], (blocks, a, b, c));
}

/// # Safety
/// As [`tile_q8`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn q8<const ROWS: usize>(blocks: usize, mut a: *const u32, mut b: *const u8, c: *mut u32) {
    for _ in 0..blocks {
        // SAFETY: the caller's promise: a block of the strip is `[2 + 8][ROWS]` words, one of the panel `Q8_BYTES`, and
        // the sums are `[ROWS][32]`. Prefetches may point anywhere.
        unsafe {
            let mut dots = [[_mm512_setzero_si512(); 2]; ROWS];
            for row in 0..ROWS {
                dots[row] = [_mm512_set1_epi32(*a.add(ROWS + row) as i32); 2];
            }
            for quad in 0..BLOCK / 4 {
                let line = b.add(SCALE_BYTES + quad * PANEL * 4);
                ask_ahead::<ROWS>(line);
                let low = _mm512_loadu_si512(line.cast());
                let high = _mm512_loadu_si512(line.add(64).cast());
                for row in 0..ROWS {
                    let x = _mm512_set1_epi32(*a.add((2 + quad) * ROWS + row) as i32);
                    dots[row][0] = _mm512_dpbusd_epi32(dots[row][0], low, x);
                    dots[row][1] = _mm512_dpbusd_epi32(dots[row][1], high, x);
                }
            }
            let scales = halves(b);
            for row in 0..ROWS {
                let scale = _mm512_set1_ps(f32::from_bits(*a.add(row)));
                for part in 0..2 {
                    let sum = c.add(row * PANEL + part * 16).cast::<f32>();
                    let dot = _mm512_cvtepi32_ps(dots[row][part]);
                    let factor = _mm512_mul_ps(scale, scales[part]);
                    _mm512_storeu_ps(sum, _mm512_fmadd_ps(dot, factor, _mm512_loadu_ps(sum)));
                }
            }
            a = a.add(LEFT_Q8.step_words() * ROWS);
            b = b.add(Q8_BYTES);
        }
    }
}

/// # Safety
/// As [`tile_q4`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn q4<const ROWS: usize>(blocks: usize, mut a: *const u32, mut b: *const u8, c: *mut u32) {
    let low_halves = _mm512_set1_epi8(15);
    for _ in 0..blocks {
        // SAFETY: the caller's promise: a block of the strip is `[2 + 8][ROWS]` words, one of the panel `Q4_BYTES`, and
        // the sums are `[ROWS][32]`. Prefetches may point anywhere.
        unsafe {
            let mut dots = [[_mm512_setzero_si512(); 2]; ROWS];
            for group in 0..BLOCK / 8 {
                let line = b.add(2 * SCALE_BYTES + group * PANEL * 4);
                ask_ahead::<ROWS>(line);
                for part in 0..2 {
                    let weights = _mm512_loadu_si512(line.add(part * 64).cast());
                    let low = _mm512_and_si512(weights, low_halves);
                    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(weights), low_halves);
                    for row in 0..ROWS {
                        let x = a.add((2 + 2 * group) * ROWS + row);
                        let (x_low, x_high) = (
                            _mm512_set1_epi32(*x as i32),
                            _mm512_set1_epi32(*x.add(ROWS) as i32),
                        );
                        let dot = &mut dots[row][part];
                        *dot = _mm512_dpbusd_epi32(*dot, low, x_low);
                        *dot = _mm512_dpbusd_epi32(*dot, high, x_high);
                    }
                }
            }
            let scales = halves(b);
            let minimums = halves(b.add(SCALE_BYTES));
            for row in 0..ROWS {
                let scale = _mm512_set1_ps(f32::from_bits(*a.add(row)));
                let correction = _mm512_set1_ps(f32::from_bits(*a.add(ROWS + row)));
                for part in 0..2 {
                    let sum = c.add(row * PANEL + part * 16).cast::<f32>();
                    let dot = _mm512_cvtepi32_ps(dots[row][part]);
                    let factor = _mm512_mul_ps(scale, scales[part]);
                    let scaled = _mm512_fmadd_ps(dot, factor, _mm512_loadu_ps(sum));
                    _mm512_storeu_ps(sum, _mm512_fmadd_ps(minimums[part], correction, scaled));
                }
            }
            a = a.add(LEFT_Q4.step_words() * ROWS);
            b = b.add(Q4_BYTES);
        }
    }
}

/// Asks for weights some way ahead of `line`, if there are so few rows that memory is the limit.
#[inline]
fn ask_ahead<const ROWS: usize>(line: *const u8) {
    if ROWS <= 4 {
        // SAFETY: a prefetch may point anywhere.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(AHEAD).cast());
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(AHEAD + 64).cast());
        }
    }
}

/// Widens 32 f16.
///
/// # Safety
/// As many must be readable at `at`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn halves(at: *const u8) -> [__m512; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())),
            _mm512_cvtph_ps(_mm256_loadu_si256(at.add(32).cast())),
        ]
    }
}
