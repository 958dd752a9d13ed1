//! AVX-512 BF16: the tiles of `avx512` for pairs of bf16.
//!
//! The windows of a convolution are taken from an image, rows rounded where they lie: neighbouring windows share nearly all
//! of their rows, so that laying out each as a row of its own would write everything as often as there are taps.

#![allow(
    clippy::needless_range_loop,
    reason = "rows index several arrays, and are unrolled"
)]

use super::avx512::distance;
use crate::cpu::packed::PANEL;
use std::arch::x86_64::*;

/// Sums of `ROWS` rows, low and high outputs.
type Tile<const ROWS: usize> = [[__m512; 2]; ROWS];

/// The sums at `c`, or zeros where this is the beginning.
///
/// # Safety
/// `c` must be `[ROWS][32]` sums, unless `begins`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load<const ROWS: usize>(begins: bool, c: *const f32) -> Tile<ROWS> {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    if !begins {
        for row in 0..ROWS {
            // SAFETY: the caller's promise.
            unsafe {
                sums[row][0] = _mm512_loadu_ps(c.add(row * PANEL));
                sums[row][1] = _mm512_loadu_ps(c.add(row * PANEL + 16));
            }
        }
    }
    sums
}

/// # Safety
/// `c` must have room for `[ROWS][32]` sums.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const ROWS: usize>(sums: &Tile<ROWS>, c: *mut f32) {
    for row in 0..ROWS {
        // SAFETY: the caller's promise.
        unsafe {
            _mm512_storeu_ps(c.add(row * PANEL), sums[row][0]);
            _mm512_storeu_ps(c.add(row * PANEL + 16), sums[row][1]);
        }
    }
}

/// The weights of a pair of inputs; asks for those `ahead` bytes behind.
///
/// # Safety
/// 128 readable bytes at `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn weights(b: *const u8, ahead: usize) -> [__m512bh; 2] {
    // SAFETY: the caller's promise; prefetches may point anywhere; vectors of 64 bytes.
    unsafe {
        _mm_prefetch::<_MM_HINT_T1>(b.wrapping_add(ahead).cast());
        _mm_prefetch::<_MM_HINT_T1>(b.wrapping_add(ahead + 64).cast());
        [
            std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(b.cast())),
            std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(b.add(64).cast())),
        ]
    }
}

/// A pair of inputs in all places.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pair(bits: u32) -> __m512bh {
    let pairs = _mm512_set1_epi32(bits as i32);
    // SAFETY: vectors of 64 bytes.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(pairs) }
}

/// Goes on with sums.
///
/// # Safety
/// See [`super::TileFn`]; needs AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn tile(rows: usize, groups: usize, a: *const u32, b: *const u8, c: *mut u32) {
    by_rows!(tile_rows, rows, [1 2 3 4 5 6 7 8 9 10 11 12], (groups, a, b, c, false));
}

/// Begins sums.
///
/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn first_tile(
    rows: usize,
    groups: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(tile_rows, rows, [1 2 3 4 5 6 7 8 9 10 11 12], (groups, a, b, c, true));
}

/// # Safety
/// As above.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn tile_rows<const ROWS: usize>(
    groups: usize,
    mut a: *const u32,
    mut b: *const u8,
    c: *mut u32,
    begins: bool,
) {
    let ahead = distance(groups * 128);
    // SAFETY: the caller's promise: `a` is `[groups][ROWS]` pairs, `b` is `[groups][32]` pairs, `c` is `[ROWS][32]`.
    unsafe {
        let mut sums = load::<ROWS>(begins, c.cast());
        for _ in 0..groups {
            let [low, high] = weights(b, ahead);
            for row in 0..ROWS {
                let pair = pair(*a.add(row));
                sums[row][0] = _mm512_dpbf16_ps(sums[row][0], pair, low);
                sums[row][1] = _mm512_dpbf16_ps(sums[row][1], pair, high);
            }
            a = a.add(ROWS);
            b = b.add(128);
        }
        store(&sums, c.cast());
    }
}

/// Goes on with the sums of rows of an image.
///
/// # Safety
/// See [`super::ImageFn`]; needs AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn next_image(
    rows: usize,
    steps: usize,
    image: *const u8,
    row_bytes: usize,
    offsets: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(image_rows, rows, [1 2 3 4 5 6 7 8 9 10 11 12], (steps, image, row_bytes, offsets, b, c, false));
}

/// Begins the sums of rows of an image.
///
/// # Safety
/// As [`next_image`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn first_image(
    rows: usize,
    steps: usize,
    image: *const u8,
    row_bytes: usize,
    offsets: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(image_rows, rows, [1 2 3 4 5 6 7 8 9 10 11 12], (steps, image, row_bytes, offsets, b, c, true));
}

/// # Safety
/// As above.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn image_rows<const ROWS: usize>(
    steps: usize,
    image: *const u8,
    row_bytes: usize,
    offsets: *const u32,
    mut b: *const u8,
    c: *mut u32,
    begins: bool,
) {
    let ahead = distance(steps * 128);
    // SAFETY: the caller's promise: each row has a pair behind each of the `steps` offsets, `b` is `[steps][32]` pairs, `c` is
    // `[ROWS][32]`.
    unsafe {
        let mut sums = load::<ROWS>(begins, c.cast());
        for step in 0..steps {
            let [low, high] = weights(b, ahead);
            let first = image.add(*offsets.add(step) as usize);
            // Every third row has a pointer; processors add the distance once or twice by themselves.
            let starts: [*const u8; 4] =
                std::array::from_fn(|i| first.wrapping_add(3 * i * row_bytes));
            for row in 0..ROWS {
                let at = starts[row / 3].wrapping_add(row % 3 * row_bytes);
                let pair = pair(*at.cast::<u32>());
                sums[row][0] = _mm512_dpbf16_ps(sums[row][0], pair, low);
                sums[row][1] = _mm512_dpbf16_ps(sums[row][1], pair, high);
            }
            b = b.add(128);
        }
        store(&sums, c.cast());
    }
}

/// Rounds values to bf16, in pairs.
///
/// # Safety
/// See [`super::RoundFn`]; needs AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn round(x: &[f32], out: &mut [u32]) {
    debug_assert_eq!(x.len(), 2 * out.len());
    let (lines, rest) = out.as_chunks_mut::<16>();
    let (whole, last) = x.split_at(32 * lines.len());
    for (values, line) in whole.as_chunks::<32>().0.iter().zip(lines) {
        *line = rounded(values);
    }
    let mut values = [0.0; 32];
    values[..last.len()].copy_from_slice(last);
    rest.copy_from_slice(&rounded(&values)[..rest.len()]);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(values: &[f32; 32]) -> [u32; 16] {
    // SAFETY: 32 values, and vectors of 64 bytes.
    unsafe {
        let (low, high) = (values.as_ptr(), values.as_ptr().add(16));
        let pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(high), _mm512_loadu_ps(low));
        std::mem::transmute::<__m512bh, [u32; 16]>(pairs)
    }
}
