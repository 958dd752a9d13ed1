//! AVX-512 VNNI: tiles of 12 rows by a whole panel, products of four bytes at a time.

#![allow(
    clippy::needless_range_loop,
    reason = "rows index several arrays, and are unrolled"
)]

use super::super::left::{BLOCK, BlockForm, Correction, Left};
use crate::cpu::packed::PANEL;
use crate::cpu::packed::blocks::{Q4_BYTES, Q8_BYTES, SCALE_BYTES};
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// Activations as these tiles want them.
pub(in super::super) const LEFT_Q8: Left = Left::Blocks(BlockForm::Quads, Correction::Zero);

/// Activations as these tiles want them.
pub(in super::super) const LEFT_Q4: Left = Left::Blocks(BlockForm::Quads, Correction::Sum);

/// Distance in bytes at which `rows` rows, so few that each panel is read once, ask for weights in advance.
fn ahead_q8(_rows: usize) -> usize {
    4096
}

/// The same. One or two rows leave the prefetching of Zen 4 time enough, and requests for the next page are in its way: a step of a
/// large model took 64 ms with 4096, 58 with 512 (in turns); with four rows 66 with 4096, 61 with 8192, 77 with 512. On Zen 5 one row
/// took 43 and 44 ms with 4096, 48 and 52 with 512.
fn ahead_q4(rows: usize) -> usize {
    match rows {
        1 | 2 if is_zen4() => 512,
        1 | 2 => 4096,
        _ => 8192,
    }
}

/// Whether this is AMD's family 19h, of which those with AVX-512 are Zen 4.
fn is_zen4() -> bool {
    static IS_ZEN4: OnceLock<bool> = OnceLock::new();
    *IS_ZEN4.get_or_init(|| {
        let version = __cpuid(1).eax;
        let (family, more) = (version >> 8 & 15, version >> 20 & 255);
        family == 15 && family + more == 0x19
    })
}

/// Rows whose dots and sums have registers together.
const HALF: usize = 6;

/// Blocks of a panel that two halves go over one after the other, the second one in the first-level cache.
const BLOCKS: usize = 16;

/// Defines a tile of up to twelve rows, in two halves that go over some blocks one after the other, so that no sum has
/// to wait in memory for the next block.
macro_rules! tile {
    ($name:ident, $half:ident, $left:ident, $bytes:ident, $ahead:ident) => {
        /// # Safety
        /// See [`super::super::TileFn`], for panels of this type; needs AVX-512 VNNI.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        pub(in super::super) unsafe fn $name(
            rows: usize,
            blocks: usize,
            a: *const u32,
            b: *const u8,
            c: *mut u32,
        ) {
            let height = if rows > HALF {
                rows.div_ceil(2)
            } else {
                rows
            };
            let at_once = if rows > HALF { BLOCKS.min(blocks.max(1)) } else { blocks.max(1) };
            for start in (0..blocks).step_by(at_once) {
                let count = at_once.min(blocks - start);
                for first in (0..rows).step_by(height.max(1)) {
                    // The first half asks for what comes after the blocks that both go over.
                    let ahead = match (rows > HALF, first) {
                        (false, _) => $ahead(rows),
                        (true, 0) => at_once * $bytes,
                        _ => 0,
                    };
                    // SAFETY: the caller's promise, for blocks from `start` and rows from `first` on.
                    let (a, b, c) = unsafe {
                        (
                            a.add(start * $left.step_words() * rows + first),
                            b.add(start * $bytes),
                            c.add(first * PANEL),
                        )
                    };
                    by_rows!($half, height.min(rows - first), [1 2 3 4 5 6], (rows, ahead, count, a, b, c));
                }
            }
        }
    };
}

tile!(tile_q8, q8, LEFT_Q8, Q8_BYTES, ahead_q8);
tile!(tile_q4, q4, LEFT_Q4, Q4_BYTES, ahead_q4);

/// The sums of some rows.
///
/// # Safety
/// `c` is `[ROWS][32]`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_sums<const ROWS: usize>(c: *const u32) -> [[__m512; 2]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for row in 0..ROWS {
        for part in 0..2 {
            // SAFETY: the caller's promise.
            sums[row][part] = unsafe { _mm512_loadu_ps(c.add(row * PANEL + part * 16).cast()) };
        }
    }
    sums
}

/// # Safety
/// `c` is `[ROWS][32]`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store_sums<const ROWS: usize>(sums: [[__m512; 2]; ROWS], c: *mut u32) {
    for row in 0..ROWS {
        for part in 0..2 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_ps(c.add(row * PANEL + part * 16).cast(), sums[row][part]) };
        }
    }
}

/// `ROWS` rows of a strip of `rows`.
///
/// # Safety
/// A block of the strip is `[2 + 8][rows]` words, from which `a` is the first row; one of the panel is `Q8_BYTES`, and the
/// sums are `[ROWS][32]`. Needs AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn q8<const ROWS: usize>(
    rows: usize,
    ahead: usize,
    blocks: usize,
    mut a: *const u32,
    mut b: *const u8,
    c: *mut u32,
) {
    // SAFETY: the caller's promise. Prefetches may point anywhere.
    unsafe {
        let mut sums = load_sums::<ROWS>(c);
        for _ in 0..blocks {
            ask_ahead(ahead, b);
            let mut dots = [[_mm512_setzero_si512(); 2]; ROWS];
            for row in 0..ROWS {
                dots[row] = [_mm512_set1_epi32(*a.add(rows + row) as i32); 2];
            }
            for quad in 0..BLOCK / 4 {
                let line = b.add(SCALE_BYTES + quad * PANEL * 4);
                ask_ahead(ahead, line);
                let low = _mm512_loadu_si512(line.cast());
                let high = _mm512_loadu_si512(line.add(64).cast());
                for row in 0..ROWS {
                    let x = _mm512_set1_epi32(*a.add((2 + quad) * rows + row) as i32);
                    dots[row][0] = _mm512_dpbusd_epi32(dots[row][0], low, x);
                    dots[row][1] = _mm512_dpbusd_epi32(dots[row][1], high, x);
                }
            }
            let scales = halves(b);
            for row in 0..ROWS {
                let scale = _mm512_set1_ps(f32::from_bits(*a.add(row)));
                for part in 0..2 {
                    let dot = _mm512_cvtepi32_ps(dots[row][part]);
                    let factor = _mm512_mul_ps(scale, scales[part]);
                    sums[row][part] = _mm512_fmadd_ps(dot, factor, sums[row][part]);
                }
            }
            a = a.add(LEFT_Q8.step_words() * rows);
            b = b.add(Q8_BYTES);
        }
        store_sums(sums, c);
    }
}

/// `ROWS` rows of a strip of `rows`.
///
/// # Safety
/// As [`q8`], with blocks of `Q4_BYTES`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn q4<const ROWS: usize>(
    rows: usize,
    ahead: usize,
    blocks: usize,
    mut a: *const u32,
    mut b: *const u8,
    c: *mut u32,
) {
    let low_halves = _mm512_set1_epi8(15);
    // SAFETY: the caller's promise. Prefetches may point anywhere.
    unsafe {
        let mut sums = load_sums::<ROWS>(c);
        for _ in 0..blocks {
            ask_ahead(ahead, b);
            let mut dots = [[_mm512_setzero_si512(); 2]; ROWS];
            for group in 0..BLOCK / 8 {
                let line = b.add(2 * SCALE_BYTES + group * PANEL * 4);
                ask_ahead(ahead, line);
                for part in 0..2 {
                    let weights = _mm512_loadu_si512(line.add(part * 64).cast());
                    let low = _mm512_and_si512(weights, low_halves);
                    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(weights), low_halves);
                    for row in 0..ROWS {
                        let x = a.add((2 + 2 * group) * rows + row);
                        let (x_low, x_high) = (
                            _mm512_set1_epi32(*x as i32),
                            _mm512_set1_epi32(*x.add(rows) as i32),
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
                let correction = _mm512_set1_ps(f32::from_bits(*a.add(rows + row)));
                for part in 0..2 {
                    let dot = _mm512_cvtepi32_ps(dots[row][part]);
                    let factor = _mm512_mul_ps(scale, scales[part]);
                    let scaled = _mm512_fmadd_ps(dot, factor, sums[row][part]);
                    sums[row][part] = _mm512_fmadd_ps(minimums[part], correction, scaled);
                }
            }
            a = a.add(LEFT_Q4.step_words() * rows);
            b = b.add(Q4_BYTES);
        }
        store_sums(sums, c);
    }
}

/// Asks for the weights `ahead` bytes behind `line`, unless that is nothing.
#[inline]
fn ask_ahead(ahead: usize, line: *const u8) {
    if ahead > 0 {
        // SAFETY: a prefetch may point anywhere.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(ahead).cast());
            _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(ahead + 64).cast());
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
