//! AVX2 with FMA and F16C: tiles of 6 rows by half a panel, which are 12 of the 16 registers.

#![allow(
    clippy::needless_range_loop,
    reason = "rows index several arrays, and are unrolled"
)]

use super::blocks;
use super::epilogue::{self, Block};
use super::left::{self, Left};
use crate::cpu::packed::PANEL;
use std::arch::x86_64::*;

/// Rows of a tile.
pub(super) const ROWS: usize = 6;

/// Rows of an integer tile, which needs registers for unpacked weights too.
pub(super) const INTEGER_ROWS: usize = 4;

/// Most rows for which streaming beats tiles, which read weights once for all of them.
pub(super) const STREAM_UP_TO: usize = 2;

/// Rows of a streaming kernel: one row against a whole panel takes eight sums.
pub(super) const STREAM_ROWS: usize = 1;

/// Distance in bytes at which the streaming kernels ask for weights in advance.
const AHEAD: usize = 4096;

/// Defines the streaming product for one weight type, which `$load(b, input, part)` widens: eight weights of outputs
/// `8 * part..`, of the first or second of two inputs.
macro_rules! stream {
    ($name:ident, $load:ident, $size:literal) => {
        /// # Safety
        /// See [`super::StreamFn`]; needs AVX2, FMA and F16C. One row only.
        #[target_feature(enable = "avx2,fma,f16c")]
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
            // is `[2][32]`. Prefetches may point anywhere.
            unsafe {
                let mut sums = [_mm256_setzero_ps(); 8];
                for part in 0..8 {
                    sums[part] = _mm256_loadu_ps(state.add(part * 8));
                }
                for pair in 0..k / 2 {
                    for line in 0..$size / 64 {
                        _mm_prefetch::<_MM_HINT_T1>(b.wrapping_add(AHEAD + line * 64).cast());
                    }
                    for input in 0..2 {
                        let value = _mm256_set1_ps(*x.add(2 * pair + input));
                        for part in 0..4 {
                            let sum = &mut sums[input * 4 + part];
                            *sum = _mm256_fmadd_ps(value, $load(b, input, part), *sum);
                        }
                    }
                    b = b.add($size);
                }
                if k % 2 == 1 {
                    let last = _mm256_set1_ps(*x.add(k - 1));
                    for part in 0..4 {
                        sums[part] = _mm256_fmadd_ps(last, $load(b, 0, part), sums[part]);
                    }
                }
                for part in 0..8 {
                    _mm256_storeu_ps(state.add(part * 8), sums[part]);
                }
            }
        }
    };
}

stream!(stream_f32, weights_f32, 256);
stream!(stream_f16, weights_f16, 128);
stream!(stream_bf16, weights_bf16, 128);

/// # Safety
/// See [`super::TileFn`]; needs AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
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
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            for row in 0..ROWS {
                sums[row][0] = _mm256_loadu_ps(c.add(row * PANEL));
                sums[row][1] = _mm256_loadu_ps(c.add(row * PANEL + 8));
            }
            for _ in 0..groups {
                let low = weights_f32(b, 0, half * 2);
                let high = weights_f32(b, 0, half * 2 + 1);
                for row in 0..ROWS {
                    let value = _mm256_set1_ps(*a.add(row));
                    sums[row][0] = _mm256_fmadd_ps(value, low, sums[row][0]);
                    sums[row][1] = _mm256_fmadd_ps(value, high, sums[row][1]);
                }
                a = a.add(ROWS);
                b = b.add(128);
            }
            for row in 0..ROWS {
                _mm256_storeu_ps(c.add(row * PANEL), sums[row][0]);
                _mm256_storeu_ps(c.add(row * PANEL + 8), sums[row][1]);
            }
        }
    }
}

/// # Safety
/// See [`super::RowsFn`]; needs AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn rows_f32(
    rows: usize,
    inputs: usize,
    x: *const f32,
    distance: usize,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(rows_f32_rows, rows, [1 2 3 4 5 6], (inputs, x, distance, b, c));
}

/// # Safety
/// As above.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows_f32_rows<const ROWS: usize>(
    inputs: usize,
    x: *const f32,
    distance: usize,
    b: *const u8,
    c: *mut u32,
) {
    for half in 0..2 {
        let mut b = b;
        let c = c.cast::<f32>().wrapping_add(half * 16);
        // SAFETY: the caller's promise: `ROWS` rows of `inputs` values, `b` holds as many inputs, `c` is `[ROWS][32]`.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            for row in 0..ROWS {
                sums[row][0] = _mm256_loadu_ps(c.add(row * PANEL));
                sums[row][1] = _mm256_loadu_ps(c.add(row * PANEL + 8));
            }
            let starts: [*const f32; 2] = std::array::from_fn(|i| x.wrapping_add(3 * i * distance));
            for input in 0..inputs {
                let low = weights_f32(b, 0, half * 2);
                let high = weights_f32(b, 0, half * 2 + 1);
                for row in 0..ROWS {
                    let at = starts[row / 3].wrapping_add(row % 3 * distance + input);
                    let value = _mm256_set1_ps(*at);
                    sums[row][0] = _mm256_fmadd_ps(value, low, sums[row][0]);
                    sums[row][1] = _mm256_fmadd_ps(value, high, sums[row][1]);
                }
                b = b.add(128);
            }
            for row in 0..ROWS {
                _mm256_storeu_ps(c.add(row * PANEL), sums[row][0]);
                _mm256_storeu_ps(c.add(row * PANEL + 8), sums[row][1]);
            }
        }
    }
}

/// Defines the widening for one weight type, which `$load(b, input, part)` does for eight weights.
macro_rules! widen {
    ($name:ident, $load:ident, $size:literal) => {
        /// # Safety
        /// See [`super::WidenFn`]; needs AVX2 and F16C.
        #[target_feature(enable = "avx2,f16c")]
        pub(super) unsafe fn $name(inputs: usize, mut b: *const u8, out: *mut f32) {
            for pair in 0..inputs.div_ceil(2) {
                for line in 0..$size / 64 {
                    _mm_prefetch::<_MM_HINT_T1>(b.wrapping_add(AHEAD + line * 64).cast());
                }
                for input in 0..2.min(inputs - 2 * pair) {
                    for part in 0..4 {
                        // SAFETY: the caller's promise.
                        unsafe {
                            let weights = $load(b, input, part);
                            _mm256_storeu_ps(
                                out.add((2 * pair + input) * PANEL + part * 8),
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
/// See [`super::TileFn`]; needs AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn tile_int8(
    rows: usize,
    groups: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(tile_int8_rows, rows, [1 2 3 4], (groups, a, b, c));
}

/// The multiplying instruction takes one operand without sign, so it gets the magnitude of the weight, and the
/// activation takes the sign of the weight. Magnitudes are at most 128 and 127: two products fit 16 bits.
///
/// # Safety
/// As above.
#[target_feature(enable = "avx2")]
unsafe fn tile_int8_rows<const ROWS: usize>(
    groups: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    let ones = _mm256_set1_epi16(1);
    for half in 0..2 {
        let (mut a, mut b) = (a, b.wrapping_add(half * 64));
        let c = c.wrapping_add(half * 16);
        // SAFETY: the caller's promise: `a` is `[groups][ROWS]` quads, `b` is `[groups][32]` quads, `c` is `[ROWS][32]`.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
            for row in 0..ROWS {
                sums[row][0] = _mm256_loadu_si256(c.add(row * PANEL).cast());
                sums[row][1] = _mm256_loadu_si256(c.add(row * PANEL + 8).cast());
            }
            for _ in 0..groups {
                for part in 0..2 {
                    let weights = _mm256_loadu_si256(b.add(part * 32).cast());
                    let magnitudes = _mm256_abs_epi8(weights);
                    for row in 0..ROWS {
                        let quad = _mm256_set1_epi32(*a.add(row) as i32);
                        let pairs =
                            _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(quad, weights));
                        sums[row][part] =
                            _mm256_add_epi32(sums[row][part], _mm256_madd_epi16(pairs, ones));
                    }
                }
                a = a.add(ROWS);
                b = b.wrapping_add(128);
            }
            for row in 0..ROWS {
                _mm256_storeu_si256(c.add(row * PANEL).cast(), sums[row][0]);
                _mm256_storeu_si256(c.add(row * PANEL + 8).cast(), sums[row][1]);
            }
        }
    }
}

/// # Safety
/// See [`super::StoreFn`]; needs AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn store(block: &Block<'_>) {
    // SAFETY: the caller's promise.
    unsafe { epilogue::store(block) };
}

/// # Safety
/// Needs AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn pack(
    left: Left,
    x: &[f32],
    rows: usize,
    k: usize,
    out: &mut [u32],
    scales: &mut [f32],
) {
    if let Left::Blocks(form, correction) = left {
        // SAFETY: the caller's promise.
        return unsafe { blocks::avx2::pack(form, correction, x, rows, k, out) };
    }
    left::pack(left, x, rows, k, out, scales);
}

/// # Safety
/// `input` (0 or 1) must be within the panel at `b`.
#[inline]
#[target_feature(enable = "avx")]
unsafe fn weights_f32(b: *const u8, input: usize, part: usize) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu_ps(b.add(input * 128 + part * 32).cast()) }
}

/// # Safety
/// As [`weights_f32`].
#[inline]
#[target_feature(enable = "avx,f16c")]
unsafe fn weights_f16(b: *const u8, input: usize, part: usize) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(b.add(input * 64 + part * 16).cast())) }
}

/// # Safety
/// As [`weights_f32`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn weights_bf16(b: *const u8, input: usize, part: usize) -> __m256 {
    // SAFETY: the caller's promise.
    let pairs = unsafe { _mm256_loadu_si256(b.add(part * 32).cast()) };
    _mm256_castsi256_ps(if input == 0 {
        _mm256_slli_epi32::<16>(pairs)
    } else {
        _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32))
    })
}
