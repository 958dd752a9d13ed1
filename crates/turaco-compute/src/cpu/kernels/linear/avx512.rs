//! AVX-512: tiles of 12 rows by a whole panel, which are 24 of the 32 registers.

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
pub(super) const ROWS: usize = 12;

/// Rows of a streaming kernel.
pub(super) const STREAM_ROWS: usize = 6;

/// Distance in bytes at which the streaming kernels ask for weights in advance.
const AHEAD: usize = 4096;

/// Most bytes of a part of a panel that several strips go over: the part behind it is asked for meanwhile.
const MAX_PART: usize = 16 << 10;

/// How far ahead a tile asks for weights that are `part` bytes long: the next part, so that every strip after the first finds it
/// near, or a little if this is a whole panel for a single strip.
#[inline]
pub(super) fn distance(part: usize) -> usize {
    if part > MAX_PART { AHEAD } else { part }
}

/// Inputs ahead of which packing asks for activations.
const PACK_AHEAD: usize = 128;

/// Defines the streaming product for one weight type: `$load(b)` gives the weights of two consecutive inputs as
/// four vectors (first input low and high outputs, second input low and high) and `$size` is their bytes.
macro_rules! stream {
    ($name:ident, $rows_name:ident, $load:ident, $load_one:ident, $size:expr) => {
        /// # Safety
        /// See [`super::StreamFn`]; needs AVX-512.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
        pub(super) unsafe fn $name(rows: usize, k: usize, x: *const f32, stride: usize, b: *const u8, state: *mut f32) {
            by_rows!($rows_name, rows, [1 2 3 4 5 6], (k, x, stride, b, state));
        }

        /// # Safety
        /// As above.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
        unsafe fn $rows_name<const ROWS: usize>(
            k: usize,
            x: *const f32,
            stride: usize,
            mut b: *const u8,
            state: *mut f32,
        ) {
            // SAFETY: the caller's promise: `x` has `ROWS` rows of `k` values, `b` holds `k` inputs (rounded up to whole
            // groups), `state` is `[ROWS][2][32]`. Prefetches may point anywhere.
            unsafe {
                let mut sums = [[_mm512_setzero_ps(); 4]; ROWS];
                for row in 0..ROWS {
                    for part in 0..4 {
                        sums[row][part] = _mm512_loadu_ps(state.add(row * 2 * PANEL + part * 16));
                    }
                }
                for pair in 0..k / 2 {
                    for line in 0..$size / 64 {
                        _mm_prefetch::<_MM_HINT_T1>(b.wrapping_add(AHEAD + line * 64).cast());
                    }
                    let weights = $load(b);
                    for row in 0..ROWS {
                        let first = _mm512_set1_ps(*x.add(row * stride + 2 * pair));
                        let second = _mm512_set1_ps(*x.add(row * stride + 2 * pair + 1));
                        sums[row][0] = _mm512_fmadd_ps(first, weights[0], sums[row][0]);
                        sums[row][1] = _mm512_fmadd_ps(first, weights[1], sums[row][1]);
                        sums[row][2] = _mm512_fmadd_ps(second, weights[2], sums[row][2]);
                        sums[row][3] = _mm512_fmadd_ps(second, weights[3], sums[row][3]);
                    }
                    b = b.add($size);
                }
                if k % 2 == 1 {
                    let weights = $load_one(b);
                    for row in 0..ROWS {
                        let last = _mm512_set1_ps(*x.add(row * stride + k - 1));
                        sums[row][0] = _mm512_fmadd_ps(last, weights[0], sums[row][0]);
                        sums[row][1] = _mm512_fmadd_ps(last, weights[1], sums[row][1]);
                    }
                }
                for row in 0..ROWS {
                    for part in 0..4 {
                        _mm512_storeu_ps(state.add(row * 2 * PANEL + part * 16), sums[row][part]);
                    }
                }
            }
        }
    };
}

stream!(stream_f32, stream_f32_rows, two_f32, one_f32, 256);
stream!(stream_f16, stream_f16_rows, two_f16, one_f16, 128);
stream!(stream_bf16, stream_bf16_rows, two_bf16, one_bf16, 128);

/// # Safety
/// See [`super::TileFn`]; needs AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
pub(super) unsafe fn tile_f32(
    rows: usize,
    groups: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(tile_f32_rows, rows, [1 2 3 4 5 6 7 8 9 10 11 12], (groups, a, b, c));
}

/// # Safety
/// As above.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
unsafe fn tile_f32_rows<const ROWS: usize>(
    groups: usize,
    a: *const u32,
    mut b: *const u8,
    c: *mut u32,
) {
    let mut a = a.cast::<f32>();
    let c = c.cast::<f32>();
    // SAFETY: the caller's promise: `a` is `[groups][ROWS]`, `b` holds `groups` inputs, `c` is `[ROWS][32]`.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for row in 0..ROWS {
            sums[row][0] = _mm512_loadu_ps(c.add(row * PANEL));
            sums[row][1] = _mm512_loadu_ps(c.add(row * PANEL + 16));
        }
        for _ in 0..groups {
            let weights = one_f32(b);
            for row in 0..ROWS {
                let value = _mm512_set1_ps(*a.add(row));
                sums[row][0] = _mm512_fmadd_ps(value, weights[0], sums[row][0]);
                sums[row][1] = _mm512_fmadd_ps(value, weights[1], sums[row][1]);
            }
            a = a.add(ROWS);
            b = b.add(128);
        }
        for row in 0..ROWS {
            _mm512_storeu_ps(c.add(row * PANEL), sums[row][0]);
            _mm512_storeu_ps(c.add(row * PANEL + 16), sums[row][1]);
        }
    }
}

/// # Safety
/// See [`super::RowsFn`]; needs AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
pub(super) unsafe fn rows_f32(
    rows: usize,
    inputs: usize,
    x: *const f32,
    distance: usize,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(rows_f32_rows, rows, [1 2 3 4 5 6 7 8 9 10 11 12], (inputs, x, distance, b, c));
}

/// # Safety
/// As above.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
unsafe fn rows_f32_rows<const ROWS: usize>(
    inputs: usize,
    x: *const f32,
    distance: usize,
    mut b: *const u8,
    c: *mut u32,
) {
    let c = c.cast::<f32>();
    // SAFETY: the caller's promise: `ROWS` rows of `inputs` values, `b` holds as many inputs, `c` is `[ROWS][32]`.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for row in 0..ROWS {
            sums[row][0] = _mm512_loadu_ps(c.add(row * PANEL));
            sums[row][1] = _mm512_loadu_ps(c.add(row * PANEL + 16));
        }
        // Every third row has a pointer; processors add the distance once or twice by themselves.
        let starts: [*const f32; 4] = std::array::from_fn(|i| x.wrapping_add(3 * i * distance));
        for input in 0..inputs {
            let weights = one_f32(b);
            for row in 0..ROWS {
                let at = starts[row / 3].wrapping_add(row % 3 * distance + input);
                let value = _mm512_set1_ps(*at);
                sums[row][0] = _mm512_fmadd_ps(value, weights[0], sums[row][0]);
                sums[row][1] = _mm512_fmadd_ps(value, weights[1], sums[row][1]);
            }
            b = b.add(128);
        }
        for row in 0..ROWS {
            _mm512_storeu_ps(c.add(row * PANEL), sums[row][0]);
            _mm512_storeu_ps(c.add(row * PANEL + 16), sums[row][1]);
        }
    }
}

/// Defines the widening for one weight type; `$load(b)` gives two inputs, low and high outputs.
macro_rules! widen {
    ($name:ident, $load:ident, $one:ident, $size:literal) => {
        /// # Safety
        /// See [`super::WidenFn`]; needs AVX-512.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
        pub(super) unsafe fn $name(inputs: usize, mut b: *const u8, mut out: *mut f32) {
            for _ in 0..inputs / 2 {
                // SAFETY: the caller's promise; a prefetch may point anywhere.
                unsafe {
                    for line in 0..$size / 64 {
                        _mm_prefetch::<_MM_HINT_T1>(b.wrapping_add(AHEAD + line * 64).cast());
                    }
                    for (part, weights) in $load(b).into_iter().enumerate() {
                        _mm512_storeu_ps(out.add(part * 16), weights);
                    }
                    (b, out) = (b.add($size), out.add(2 * PANEL));
                }
            }
            if inputs % 2 == 1 {
                // SAFETY: as above.
                unsafe {
                    for (part, weights) in $one(b).into_iter().enumerate() {
                        _mm512_storeu_ps(out.add(part * 16), weights);
                    }
                }
            }
        }
    };
}

widen!(widen_f16, two_f16, one_f16, 128);
widen!(widen_bf16, two_bf16, one_bf16, 128);

/// Expects activations shifted by 128.
///
/// # Safety
/// See [`super::TileFn`]; needs AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn tile_int8(
    rows: usize,
    groups: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(tile_int8_rows, rows, [1 2 3 4 5 6 7 8 9 10 11 12], (PANEL, groups, a, b, c));
}

/// The same, where the sums of all rows begin with those of the first.
///
/// # Safety
/// As above.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn first_int8(
    rows: usize,
    groups: usize,
    a: *const u32,
    b: *const u8,
    c: *mut u32,
) {
    by_rows!(tile_int8_rows, rows, [1 2 3 4 5 6 7 8 9 10 11 12], (0, groups, a, b, c));
}

/// # Safety
/// As above.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile_int8_rows<const ROWS: usize>(
    from_row: usize,
    groups: usize,
    mut a: *const u32,
    mut b: *const u8,
    c: *mut u32,
) {
    // SAFETY: the caller's promise: `a` is `[groups][ROWS]` quads, `b` is `[groups][32]` quads, `c` is `[ROWS][32]`.
    // Prefetches may point anywhere.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
        for row in 0..ROWS {
            sums[row][0] = _mm512_loadu_si512(c.add(row * from_row).cast());
            sums[row][1] = _mm512_loadu_si512(c.add(row * from_row + 16).cast());
        }
        let ahead = distance(groups * 128);
        for _ in 0..groups {
            let low = _mm512_loadu_si512(b.cast());
            let high = _mm512_loadu_si512(b.add(64).cast());
            _mm_prefetch::<_MM_HINT_T1>(b.wrapping_add(ahead).cast());
            _mm_prefetch::<_MM_HINT_T1>(b.wrapping_add(ahead + 64).cast());
            for row in 0..ROWS {
                let quad = _mm512_set1_epi32(*a.add(row) as i32);
                sums[row][0] = _mm512_dpbusd_epi32(sums[row][0], quad, low);
                sums[row][1] = _mm512_dpbusd_epi32(sums[row][1], quad, high);
            }
            a = a.add(ROWS);
            b = b.add(128);
        }
        for row in 0..ROWS {
            _mm512_storeu_si512(c.add(row * PANEL).cast(), sums[row][0]);
            _mm512_storeu_si512(c.add(row * PANEL + 16).cast(), sums[row][1]);
        }
    }
}

/// # Safety
/// See [`super::StoreFn`]; needs AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
pub(super) unsafe fn store(block: &Block<'_>) {
    // SAFETY: the caller's promise.
    unsafe { epilogue::store(block) };
}

/// # Safety
/// Needs AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
pub(super) unsafe fn pack(
    left: Left,
    x: &[f32],
    rows: usize,
    k: usize,
    out: &mut [u32],
    scales: &mut [f32],
) {
    if left != Left::Float {
        return left::pack(left, x, rows, k, out, scales);
    }
    let strip = Strip::new(x, rows, k);
    strip.transpose(1, out, |row, input| {
        _mm512_castps_si512(strip.load(row, input))
    });
}

/// # Safety
/// Needs AVX-512 BF16 and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")]
pub(super) unsafe fn pack_dot(
    left: Left,
    x: &[f32],
    rows: usize,
    k: usize,
    out: &mut [u32],
    scales: &mut [f32],
) {
    if let Left::Blocks(form, correction) = left {
        // SAFETY: AVX-512 includes AVX2.
        return unsafe { blocks::avx2::pack(form, correction, x, rows, k, out) };
    }
    let strip = Strip::new(x, rows, k);
    match left {
        // Blocks went above, rows are packed by `amx::pack`.
        Left::Blocks(..) | Left::Bf16Rows | Left::Int8Rows => {}
        Left::Float => strip.transpose(1, out, |row, input| {
            _mm512_castps_si512(strip.load(row, input))
        }),
        Left::Bf16 => strip.transpose(2, out, |row, input| {
            let pairs = _mm512_cvtne2ps_pbh(strip.load(row, input + 16), strip.load(row, input));
            // SAFETY: vectors of 64 bytes.
            unsafe { std::mem::transmute::<__m512bh, __m512i>(pairs) }
        }),
        Left::Int8 { shifted } => {
            let mut inverses = [0.0; super::MAX_TILE_ROWS];
            for (row, values) in x.chunks_exact(k).take(rows).enumerate() {
                (inverses[row], scales[row]) = left::scales_of(values);
            }
            let shift = _mm512_set1_epi8(if shifted { -128 } else { 0 });
            strip.transpose(4, out, |row, input| {
                let inverse = _mm512_set1_ps(inverses[row]);
                let bytes = |part: usize| {
                    let scaled = _mm512_mul_ps(strip.load(row, input + 16 * part), inverse);
                    _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled))
                };
                let low = _mm256_set_m128i(bytes(1), bytes(0));
                let high = _mm256_set_m128i(bytes(3), bytes(2));
                _mm512_xor_si512(
                    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high),
                    shift,
                )
            });
        }
    }
}

/// Rows of activations on their way into a strip.
struct Strip<'a> {
    x: &'a [f32],
    rows: usize,
    k: usize,
}

impl<'a> Strip<'a> {
    fn new(x: &'a [f32], rows: usize, k: usize) -> Self {
        assert!((1..=ROWS).contains(&rows) && x.len() >= rows * k);
        Self { x, rows, k }
    }

    /// Sixteen inputs of a row, zeros beyond its end.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(&self, row: usize, input: usize) -> __m512 {
        let left = self.k.saturating_sub(input);
        let start = self.x.as_ptr().wrapping_add(row * self.k + input);
        debug_assert!(row < self.rows);
        if left >= 16 {
            // SAFETY: the row has sixteen more values.
            unsafe { _mm512_loadu_ps(start) }
        } else {
            // SAFETY: the mask ends with the row.
            unsafe { _mm512_maskz_loadu_ps((1_u16 << left) - 1, start) }
        }
    }

    /// Writes `out: [groups][rows]` from `elements(row, input)`, which gives 16 groups of `group` inputs.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transpose(&self, group: usize, out: &mut [u32], elements: impl Fn(usize, usize) -> __m512i) {
        let (rows, groups) = (self.rows, out.len() / self.rows);
        let lanes = ((1_u32 << rows) - 1) as u16;
        // So many rows at a time are too much for the hardware to follow, so the lines are asked for here: the first
        // ones now, the others some way ahead.
        let fetch = |row: usize, input: usize| {
            let line = self.x.as_ptr().wrapping_add(row * self.k + input);
            _mm_prefetch::<_MM_HINT_T0>(line.cast());
        };
        for row in 0..rows {
            for input in (0..PACK_AHEAD).step_by(16) {
                fetch(row, input);
            }
        }
        for first in (0..groups).step_by(16) {
            let mut block = [_mm512_setzero_si512(); 16];
            for row in 0..rows {
                for line in 0..group {
                    fetch(row, first * group + line * 16 + PACK_AHEAD);
                }
                block[row] = elements(row, first * group);
            }
            let block = transpose(block);
            for (i, column) in block.iter().enumerate().take(groups - first) {
                // SAFETY: `rows` lanes of a group that exists.
                unsafe {
                    _mm512_mask_storeu_epi32(
                        out.as_mut_ptr().add((first + i) * rows).cast(),
                        lanes,
                        *column,
                    )
                };
            }
        }
    }
}

/// Exchanges rows and columns of 16 by 16 numbers: pairs, then pairs of pairs, then quarters of the vectors.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::cpu) fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut pairs = [_mm512_setzero_si512(); 16];
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // `fours[4 * i + j]`: rows `4 * i..` of columns `j`, `4 + j`, `8 + j` and `12 + j`.
    let mut fours = [_mm512_setzero_si512(); 16];
    for i in 0..4 {
        let p = &pairs[4 * i..4 * i + 4];
        fours[4 * i] = _mm512_unpacklo_epi64(p[0], p[2]);
        fours[4 * i + 1] = _mm512_unpackhi_epi64(p[0], p[2]);
        fours[4 * i + 2] = _mm512_unpacklo_epi64(p[1], p[3]);
        fours[4 * i + 3] = _mm512_unpackhi_epi64(p[1], p[3]);
    }
    let mut columns = [_mm512_setzero_si512(); 16];
    for j in 0..4 {
        let low_even = _mm512_shuffle_i32x4::<0b10_00_10_00>(fours[j], fours[4 + j]);
        let low_odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(fours[j], fours[4 + j]);
        let high_even = _mm512_shuffle_i32x4::<0b10_00_10_00>(fours[8 + j], fours[12 + j]);
        let high_odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(fours[8 + j], fours[12 + j]);
        columns[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low_even, high_even);
        columns[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low_even, high_even);
        columns[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low_odd, high_odd);
        columns[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low_odd, high_odd);
    }
    columns
}

/// The weights of one input, low and high outputs.
///
/// # Safety
/// 128 readable bytes at `b`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn one_f32(b: *const u8) -> [__m512; 2] {
    // SAFETY: the caller's promise.
    unsafe { [_mm512_loadu_ps(b.cast()), _mm512_loadu_ps(b.add(64).cast())] }
}

/// # Safety
/// 256 readable bytes at `b`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn two_f32(b: *const u8) -> [__m512; 4] {
    // SAFETY: the caller's promise.
    let ([w0, w1], [w2, w3]) = unsafe { (one_f32(b), one_f32(b.add(128))) };
    [w0, w1, w2, w3]
}

/// # Safety
/// 64 readable bytes at `b`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn one_f16(b: *const u8) -> [__m512; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            _mm512_cvtph_ps(_mm256_loadu_si256(b.cast())),
            _mm512_cvtph_ps(_mm256_loadu_si256(b.add(32).cast())),
        ]
    }
}

/// # Safety
/// 128 readable bytes at `b`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn two_f16(b: *const u8) -> [__m512; 4] {
    // SAFETY: the caller's promise.
    let ([w0, w1], [w2, w3]) = unsafe { (one_f16(b), one_f16(b.add(64))) };
    [w0, w1, w2, w3]
}

/// # Safety
/// 128 readable bytes at `b`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn two_bf16(b: *const u8) -> [__m512; 4] {
    // SAFETY: the caller's promise.
    let (low, high) = unsafe {
        (
            _mm512_loadu_si512(b.cast()),
            _mm512_loadu_si512(b.add(64).cast()),
        )
    };
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    [
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(low)),
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(high)),
        _mm512_castsi512_ps(_mm512_and_si512(low, upper)),
        _mm512_castsi512_ps(_mm512_and_si512(high, upper)),
    ]
}

/// The first input of a pair.
///
/// # Safety
/// 128 readable bytes at `b`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn one_bf16(b: *const u8) -> [__m512; 2] {
    // SAFETY: the caller's promise.
    let [w0, w1, ..] = unsafe { two_bf16(b) };
    [w0, w1]
}
