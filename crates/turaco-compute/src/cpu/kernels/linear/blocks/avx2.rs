//! AVX2: products of 16 bits for q8, of 8 bits for q4.
//!
//! The instruction that multiplies bytes adds two products in 16 bits. Those of q4 (at most 15 * 127) leave room for all
//! eight that one output gets from a block; those of q8 do not fit at all, so its weights are widened, which a mask and a
//! shift do.

#![allow(
    clippy::needless_range_loop,
    reason = "rows index several arrays, and are unrolled"
)]

use super::super::left::{BLOCK, BlockForm, Correction, Left, scales_up_to};
use crate::cpu::packed::PANEL;
use crate::cpu::packed::blocks::{Q4_BYTES, Q8_BYTES, Q8_ZERO, SCALE_BYTES};
use std::arch::x86_64::*;

/// Activations as these tiles want them.
pub(in super::super) const LEFT_Q8: Left = Left::Blocks(BlockForm::Pairs, Correction::Zero);

/// Activations as these tiles want them.
pub(in super::super) const LEFT_Q4: Left = Left::Blocks(BlockForm::Quads, Correction::Sum);

/// Distance in bytes at which weights are asked for in advance when there are few rows.
const AHEAD: usize = 4096;

/// Calls the tile for a number of rows: a whole panel at a time for few rows, so that memory is read in one stream, half
/// of it for more, so that the sums fit the registers.
macro_rules! by_rows_and_parts {
    ($tile:ident, $rows:expr, ($blocks:expr, $a:expr, $b:expr, $c:expr)) => {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match $rows {
                1 => $tile::<1, 4>($blocks, $a, $b, $c, 0),
                2 => $tile::<2, 4>($blocks, $a, $b, $c, 0),
                3 => {
                    $tile::<3, 2>($blocks, $a, $b, $c, 0);
                    $tile::<3, 2>($blocks, $a, $b, $c, 2);
                }
                4 => {
                    $tile::<4, 2>($blocks, $a, $b, $c, 0);
                    $tile::<4, 2>($blocks, $a, $b, $c, 2);
                }
                rows => debug_assert!(false, "no kernel for {rows} rows"),
            }
        }
    };
}

/// # Safety
/// See [`super::super::TileFn`], for panels of q8; needs AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) unsafe fn tile_q8(
    rows: usize,
    blocks: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows_and_parts!(q8, rows, (blocks, a, b, c));
}

/// # Safety
/// See [`super::super::TileFn`], for panels of q4; needs AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) unsafe fn tile_q4(
    rows: usize,
    blocks: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows_and_parts!(q4, rows, (blocks, a, b, c));
}

/// # Safety
/// As [`tile_q8`]. Does parts `first..first + PARTS` of 8 outputs.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q8<const ROWS: usize, const PARTS: usize>(
    blocks: usize,
    mut a: *const u32,
    mut b: *const u8,
    c: *mut u32,
    first: usize,
) {
    let low_bytes = _mm256_set1_epi16(0xff);
    for _ in 0..blocks {
        // SAFETY: the caller's promise: a block of the strip is `[2 + 16][ROWS]` words, one of the panel `Q8_BYTES`.
        // Prefetches may point anywhere.
        unsafe {
            if ROWS <= 2 {
                ask_ahead(b);
            }
            let mut dots = [[_mm256_setzero_si256(); PARTS]; ROWS];
            for row in 0..ROWS {
                dots[row] = [_mm256_set1_epi32(*a.add(ROWS + row) as i32); PARTS];
            }
            for quad in 0..BLOCK / 4 {
                let line = b.add(SCALE_BYTES + quad * PANEL * 4 + first * 32);
                if ROWS <= 2 {
                    ask_ahead(line);
                }
                let (mut even, mut odd) = (
                    [_mm256_setzero_si256(); PARTS],
                    [_mm256_setzero_si256(); PARTS],
                );
                for part in 0..PARTS {
                    let weights = _mm256_loadu_si256(line.add(part * 32).cast());
                    even[part] = _mm256_and_si256(weights, low_bytes);
                    odd[part] = _mm256_srli_epi16::<8>(weights);
                }
                for row in 0..ROWS {
                    let x = a.add((2 + 2 * quad) * ROWS + row);
                    let (x_even, x_odd) = (
                        _mm256_set1_epi32(*x as i32),
                        _mm256_set1_epi32(*x.add(ROWS) as i32),
                    );
                    for part in 0..PARTS {
                        let dot = &mut dots[row][part];
                        *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(even[part], x_even));
                        *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(odd[part], x_odd));
                    }
                }
            }
            let scales = halves::<PARTS>(b.add(first * 16));
            for row in 0..ROWS {
                let scale = _mm256_set1_ps(f32::from_bits(*a.add(row)));
                for part in 0..PARTS {
                    let sum = c.add(row * PANEL + (first + part) * 8).cast::<f32>();
                    let dot = _mm256_cvtepi32_ps(dots[row][part]);
                    let factor = _mm256_mul_ps(scale, scales[part]);
                    _mm256_storeu_ps(sum, _mm256_fmadd_ps(dot, factor, _mm256_loadu_ps(sum)));
                }
            }
            a = a.add(LEFT_Q8.step_words() * ROWS);
            b = b.add(Q8_BYTES);
        }
    }
}

/// # Safety
/// As [`tile_q4`]. Does parts `first..first + PARTS` of 8 outputs.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q4<const ROWS: usize, const PARTS: usize>(
    blocks: usize,
    mut a: *const u32,
    mut b: *const u8,
    c: *mut u32,
    first: usize,
) {
    let low_halves = _mm256_set1_epi8(15);
    let ones = _mm256_set1_epi16(1);
    // Unknown to the compiler, which would unroll the loop, interleave all of it and run out of registers.
    let groups = std::hint::black_box(BLOCK / 8);
    for _ in 0..blocks {
        // SAFETY: the caller's promise: a block of the strip is `[2 + 8][ROWS]` words, one of the panel `Q4_BYTES`.
        // Prefetches may point anywhere.
        unsafe {
            if ROWS <= 2 {
                ask_ahead(b);
            }
            let mut dots = [[_mm256_setzero_si256(); PARTS]; ROWS];
            for group in 0..groups {
                let line = b.add(2 * SCALE_BYTES + group * PANEL * 4 + first * 32);
                if ROWS <= 2 {
                    ask_ahead(line);
                }
                let (mut low, mut high) = (
                    [_mm256_setzero_si256(); PARTS],
                    [_mm256_setzero_si256(); PARTS],
                );
                for part in 0..PARTS {
                    let weights = _mm256_loadu_si256(line.add(part * 32).cast());
                    low[part] = _mm256_and_si256(weights, low_halves);
                    high[part] = _mm256_and_si256(_mm256_srli_epi16::<4>(weights), low_halves);
                }
                for row in 0..ROWS {
                    let x = a.add((2 + 2 * group) * ROWS + row);
                    let (x_low, x_high) = (
                        _mm256_set1_epi32(*x as i32),
                        _mm256_set1_epi32(*x.add(ROWS) as i32),
                    );
                    for part in 0..PARTS {
                        let dot = &mut dots[row][part];
                        *dot = _mm256_add_epi16(*dot, _mm256_maddubs_epi16(low[part], x_low));
                        *dot = _mm256_add_epi16(*dot, _mm256_maddubs_epi16(high[part], x_high));
                    }
                }
            }
            let scales = halves::<PARTS>(b.add(first * 16));
            let minimums = halves::<PARTS>(b.add(SCALE_BYTES + first * 16));
            for row in 0..ROWS {
                let scale = _mm256_set1_ps(f32::from_bits(*a.add(row)));
                let correction = _mm256_set1_ps(f32::from_bits(*a.add(ROWS + row)));
                for part in 0..PARTS {
                    let sum = c.add(row * PANEL + (first + part) * 8).cast::<f32>();
                    let dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(dots[row][part], ones));
                    let factor = _mm256_mul_ps(scale, scales[part]);
                    let scaled = _mm256_fmadd_ps(dot, factor, _mm256_loadu_ps(sum));
                    _mm256_storeu_ps(sum, _mm256_fmadd_ps(minimums[part], correction, scaled));
                }
            }
            a = a.add(LEFT_Q4.step_words() * ROWS);
            b = b.add(Q4_BYTES);
        }
    }
}

/// Asks for weights some way ahead of `line`.
#[inline]
fn ask_ahead(line: *const u8) {
    // SAFETY: a prefetch may point anywhere.
    unsafe {
        _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(AHEAD).cast());
        _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(AHEAD + 64).cast());
    }
}

/// Widens `PARTS` times eight f16.
///
/// # Safety
/// As many must be readable at `at`.
#[inline]
#[target_feature(enable = "avx,f16c")]
unsafe fn halves<const PARTS: usize>(at: *const u8) -> [__m256; PARTS] {
    let mut wide = [_mm256_setzero_ps(); PARTS];
    for part in 0..PARTS {
        // SAFETY: the caller's promise.
        wide[part] = unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.add(part * 16).cast())) };
    }
    wide
}

/// As [`super::super::left::pack`], for blocks.
///
/// # Safety
/// Needs AVX2.
#[target_feature(enable = "avx2,fma")]
pub(in super::super) unsafe fn pack(
    form: BlockForm,
    correction: Correction,
    x: &[f32],
    rows: usize,
    k: usize,
    out: &mut [u32],
) {
    let words = Left::Blocks(form, correction).step_words();
    for (row, values) in x.chunks_exact(k).take(rows).enumerate() {
        let (whole, rest) = values.as_chunks::<BLOCK>();
        let mut out = out.chunks_exact_mut(words * rows);
        for (values, out) in whole.iter().zip(&mut out) {
            pack_block(values, rows, row, form, correction, out);
        }
        if let Some(out) = out.next() {
            let mut values = [0.0; BLOCK];
            values[..rest.len()].copy_from_slice(rest);
            pack_block(&values, rows, row, form, correction, out);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn pack_block(
    values: &[f32; BLOCK],
    rows: usize,
    row: usize,
    form: BlockForm,
    correction: Correction,
    out: &mut [u32],
) {
    let mut parts = [_mm256_setzero_ps(); 4];
    let mut largest = _mm256_setzero_si256();
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    for part in 0..4 {
        // SAFETY: eight of the 32 values.
        parts[part] = unsafe { _mm256_loadu_ps(values.as_ptr().add(part * 8)) };
        // As integers, magnitudes order like the numbers, with infinity and NaN on top.
        let bits = _mm256_and_si256(_mm256_castps_si256(parts[part]), magnitude);
        largest = _mm256_max_epi32(largest, bits);
    }
    let half = _mm_max_epi32(
        _mm256_castsi256_si128(largest),
        _mm256_extracti128_si256::<1>(largest),
    );
    let quarter = _mm_max_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
    let largest = _mm_max_epi32(quarter, _mm_shuffle_epi32::<0b10_11_00_01>(quarter));
    let (inverse, scale) = scales_up_to(_mm_cvtsi128_si32(largest) as u32);

    let inverse = _mm256_set1_ps(inverse);
    let mut quants = [_mm256_setzero_si256(); 4];
    let mut sum = _mm256_setzero_si256();
    for part in 0..4 {
        quants[part] = _mm256_cvtps_epi32(_mm256_mul_ps(parts[part], inverse));
        sum = _mm256_add_epi32(sum, quants[part]);
    }
    let half = _mm_add_epi32(
        _mm256_castsi256_si128(sum),
        _mm256_extracti128_si256::<1>(sum),
    );
    let quarter = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
    let sum = _mm_add_epi32(quarter, _mm_shuffle_epi32::<0b10_11_00_01>(quarter));
    let sum = _mm_cvtsi128_si32(sum);
    let correction = match correction {
        Correction::Zero => (-Q8_ZERO).wrapping_mul(sum) as u32,
        Correction::Sum => (scale * sum as f32).to_bits(),
    };

    let mut words = [0_u32; 2 + BLOCK / 2];
    (words[0], words[1]) = (scale.to_bits(), correction);
    let at = words[2..].as_mut_ptr();
    match form {
        BlockForm::Quads => {
            let bytes = _mm256_packs_epi16(
                _mm256_packs_epi32(quants[0], quants[1]),
                _mm256_packs_epi32(quants[2], quants[3]),
            );
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            // SAFETY: eight of the sixteen words.
            unsafe {
                _mm256_storeu_si256(at.cast(), _mm256_permutevar8x32_epi32(bytes, order));
            }
        }
        BlockForm::Pairs => {
            let pairs = |quants: __m256i| {
                let low = _mm256_and_si256(quants, _mm256_set1_epi32(0xffff));
                let high = _mm256_shuffle_epi32::<0b11_10_11_10>(quants);
                _mm256_or_si256(low, _mm256_slli_epi32::<16>(high))
            };
            for half in 0..2 {
                let both =
                    _mm256_unpacklo_epi64(pairs(quants[2 * half]), pairs(quants[2 * half + 1]));
                // SAFETY: eight of the sixteen words, then the other eight.
                unsafe {
                    _mm256_storeu_si256(
                        at.add(8 * half).cast(),
                        _mm256_permute4x64_epi64::<0b11_01_10_00>(both),
                    );
                }
            }
        }
    }
    for (word, out) in words.iter().zip(out[row..].iter_mut().step_by(rows)) {
        *out = *word;
    }
}
