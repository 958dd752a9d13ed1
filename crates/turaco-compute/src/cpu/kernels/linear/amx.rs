//! AMX: tiles of 16 rows by 64 bytes of inputs (32 bf16 or 64 bytes) meet tiles of as many inputs by 16 outputs.
//!
//! Two by two of them fill a strip of 32 rows by a whole panel. The instructions have no stable intrinsics yet, hence the
//! assembly. Weights of fewer bits than bf16 are widened to it once for all strips of a block, so that q8 and q4 lose
//! nothing but the rounding of the activations; bytes with a scale per row stay bytes, and their sums exact.

use super::left::{self, Left};
use crate::cpu::packed::blocks::{BLOCK, Q4_BYTES, Q8_BYTES, Q8_ZERO, SCALE_BYTES};
use crate::cpu::packed::{PANEL, WeightType};
use std::arch::asm;
use std::arch::x86_64::*;

/// Rows of a strip.
pub(super) const ROWS: usize = 32;

/// Rows of one tile, to which strips are padded.
pub(super) const TILE_ROWS: usize = 16;

/// Rows from which tiles are worth their while: where weights have to be widened first, dot products of bytes are as fast
/// for longer.
pub(super) fn from(weight_type: WeightType) -> usize {
    match weight_type {
        WeightType::Q4 => 17,
        WeightType::Q8 | WeightType::Int8 => 12,
        WeightType::F32 | WeightType::F16 | WeightType::Bf16 => 9,
    }
}

/// Bytes that a step has of each row, and that a tile has in a row.
const STEP_BYTES: usize = 64;

/// Bytes that a step has of a panel.
const PANEL_STEP: usize = 16 * 4 * PANEL;

/// Bytes between rows of the sums and of widened panels.
const PANEL_ROW: usize = 4 * PANEL;

/// Distance in bytes at which weights are asked for in advance.
const AHEAD: usize = 4096;

/// What `ldtilecfg` reads: eight tiles of 16 rows by 64 bytes.
#[repr(C, align(64))]
struct TileShapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static SHAPES: TileShapes = TileShapes {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Makes this thread's tiles ready.
///
/// # Safety
/// Needs AMX.
pub(crate) unsafe fn begin() {
    // SAFETY: the shapes are valid; the caller promises the instruction. The tiles hold nothing that anybody wants.
    unsafe {
        asm!(
            "ldtilecfg [{shapes}]",
            shapes = in(reg) &raw const SHAPES,
            options(nostack, preserves_flags, readonly)
        );
    }
}

/// Frees this thread's tiles, so that the system need not save them.
///
/// # Safety
/// Needs AMX.
pub(crate) unsafe fn end() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
}

/// Where the operands of a product are. Tiles of `a` have rows of [`STEP_BYTES`], one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    /// Steps of inputs, at least one.
    pub steps: usize,
    /// One or two tiles of rows in each step.
    pub a: *const u8,
    /// Two tiles of outputs in each step.
    pub b: *const u8,
    /// Bytes between those two.
    pub b_gap: usize,
    /// Bytes between the rows of such a tile.
    pub b_row: usize,
    /// Bytes between steps.
    pub b_step: usize,
    /// Sums, 32 for each row.
    pub c: *mut u8,
    /// Bytes between their rows.
    pub c_row: usize,
}

/// Defines the product of one (no `$lower`) or two tiles of rows with two of outputs. `$ahead` asks for what comes later.
macro_rules! product {
    (
        $name:ident, $multiply:literal, [$($open:literal),*], [$($ahead:literal),*], $a_step:literal,
        [$($lower_load:literal),*], [$($lower:literal),*], [$($lower_store:literal),*]
    ) => {
        /// Between [`begin`] and [`end`].
        ///
        /// # Safety
        /// All operands must be readable and `c` writable. Needs AMX.
        #[inline]
        pub(crate) unsafe fn $name(operands: Operands) {
            let Operands { steps, a, b, b_gap, b_row, b_step, c, c_row } = operands;
            debug_assert!(steps > 0);
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    $($open,)*
                    "2:",
                    "tileloadd tmm6, [{b} + {b_row}]",
                    "tileloadd tmm4, [{a} + {a_row}]",
                    "tileloadd tmm7, [{b2} + {b_row}]",
                    $($lower_load,)*
                    $($ahead,)*
                    concat!($multiply, " tmm0, tmm4, tmm6"),
                    concat!($multiply, " tmm1, tmm4, tmm7"),
                    $(concat!($multiply, $lower),)*
                    concat!("add {a}, ", $a_step),
                    "add {b}, {b_step}",
                    "add {b2}, {b_step}",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{c} + {c_row}], tmm0",
                    "tilestored [{c} + {c_row} + 64], tmm1",
                    $($lower_store,)*
                    "/* {c2} */",
                    steps = inout(reg) steps => _,
                    a = inout(reg) a => _,
                    a_row = in(reg) STEP_BYTES,
                    b = inout(reg) b => _,
                    b2 = inout(reg) b.wrapping_add(b_gap) => _,
                    b_row = in(reg) b_row,
                    b_step = in(reg) b_step,
                    c = in(reg) c,
                    c2 = in(reg) c.wrapping_add(TILE_ROWS * c_row),
                    c_row = in(reg) c_row,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            }
        }
    };
}

/// [`product`] of one and of two tiles of rows: `from zero` or `on top` of the sums that there are; `streamed`, from
/// memory that nobody else asks for, with `b` one stretch of whole steps of a panel.
macro_rules! products {
    ($one:ident, $two:ident, $multiply:literal, from zero) => {
        products!(
            $one,
            $two,
            $multiply,
            ["tilezero tmm0", "tilezero tmm1"],
            ["tilezero tmm2", "tilezero tmm3"],
            []
        );
    };
    ($one:ident, $two:ident, $multiply:literal, streamed) => {
        products!(
            $one,
            $two,
            $multiply,
            ["tilezero tmm0", "tilezero tmm1"],
            ["tilezero tmm2", "tilezero tmm3"],
            [
                // Written out, as the distance of each line is a part of its instruction.
                ".irp line, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
                "prefetcht1 [{b} + 4096 + 64 * \\line]",
                ".endr"
            ]
        );
    };
    ($one:ident, $two:ident, $multiply:literal, on top) => {
        products!(
            $one,
            $two,
            $multiply,
            [
                "tileloadd tmm0, [{c} + {c_row}]",
                "tileloadd tmm1, [{c} + {c_row} + 64]"
            ],
            [
                "tileloadd tmm2, [{c2} + {c_row}]",
                "tileloadd tmm3, [{c2} + {c_row} + 64]"
            ],
            []
        );
    };
    (
        $one:ident, $two:ident, $multiply:literal, [$($open:literal),*], [$($lower_open:literal),*],
        $ahead:tt
    ) => {
        product!($one, $multiply, [$($open),*], $ahead, "1024", [], [], []);
        product!(
            $two,
            $multiply,
            [$($open,)* $($lower_open),*],
            $ahead,
            "2048",
            ["tileloadd tmm5, [{a} + {a_row} + 1024]"],
            [" tmm2, tmm5, tmm6", " tmm3, tmm5, tmm7"],
            [
                "tilestored [{c2} + {c_row}], tmm2",
                "tilestored [{c2} + {c_row} + 64], tmm3"
            ]
        );
    };
}

products!(first_bf16_one, first_bf16_two, "tdpbf16ps", from zero);
products!(next_bf16_one, next_bf16_two, "tdpbf16ps", on top);
products!(first_int8_one, first_int8_two, "tdpbssd", from zero);
products!(next_int8_one, next_int8_two, "tdpbssd", on top);
products!(stream_bf16_one, stream_bf16_two, "tdpbf16ps", streamed);
products!(stream_int8_one, stream_int8_two, "tdpbssd", streamed);

/// Defines the product of a strip of one or two tiles of rows with a panel.
macro_rules! tile {
    ($name:ident, $one:ident, $two:ident) => {
        /// Between [`begin`] and [`end`].
        ///
        /// # Safety
        /// See [`super::TileFn`]; strip and sums have rows for whole tiles. Needs AMX.
        pub(super) unsafe fn $name(
            rows: usize,
            steps: usize,
            a: *const u32,
            b: *const u8,
            c: *mut u32,
        ) {
            debug_assert!(rows <= ROWS);
            let operands = Operands {
                steps,
                a: a.cast(),
                b,
                b_gap: STEP_BYTES,
                b_row: PANEL_ROW,
                b_step: PANEL_STEP,
                c: c.cast(),
                c_row: PANEL_ROW,
            };
            // SAFETY: the caller's promise: `a` is `[steps][rows, padded][64]` bytes, `b` is `[steps][16][128]`, `c` is
            // `[rows, padded][128]`.
            unsafe {
                if rows > TILE_ROWS {
                    $two(operands);
                } else {
                    $one(operands);
                }
            }
        }
    };
}

tile!(first_bf16, first_bf16_one, first_bf16_two);
tile!(tile_bf16, next_bf16_one, next_bf16_two);
tile!(first_int8, first_int8_one, first_int8_two);
tile!(tile_int8, next_int8_one, next_int8_two);
tile!(stream_bf16, stream_bf16_one, stream_bf16_two);
tile!(stream_int8, stream_int8_one, stream_int8_two);

/// Defines the product of one (no `$lower`) or two tiles of rows of an image with a panel.
macro_rules! image_product {
    (
        $name:ident, [$($open:literal),*],
        [$($lower_load:literal),*], [$($lower:literal),*], [$($lower_store:literal),*]
    ) => {
        /// Between [`begin`] and [`end`].
        ///
        /// # Safety
        /// See [`super::ImageFn`]. Needs AMX.
        #[inline]
        unsafe fn $name(
            steps: usize,
            image: *const u8,
            row_bytes: usize,
            offsets: *const u32,
            b: *const u8,
            c: *mut u8,
        ) {
            debug_assert!(steps > 0);
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    $($open,)*
                    "2:",
                    "mov {at:e}, dword ptr [{offsets}]",
                    "add {at}, {image}",
                    "tileloadd tmm6, [{b} + {row}]",
                    "tileloadd tmm4, [{at} + {a_row}]",
                    "tileloadd tmm7, [{b} + {row} + 64]",
                    $($lower_load,)*
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    $($lower,)*
                    "add {offsets}, 4",
                    "add {b}, 2048",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{c} + {row}], tmm0",
                    "tilestored [{c} + {row} + 64], tmm1",
                    $($lower_store,)*
                    "/* {c2} {half} */",
                    steps = inout(reg) steps => _,
                    image = in(reg) image,
                    at = out(reg) _,
                    offsets = inout(reg) offsets => _,
                    a_row = in(reg) row_bytes,
                    half = in(reg) TILE_ROWS * row_bytes,
                    b = inout(reg) b => _,
                    row = in(reg) PANEL_ROW,
                    c = in(reg) c,
                    c2 = in(reg) c.wrapping_add(TILE_ROWS * PANEL_ROW),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            }
        }
    };
}

image_product!(
    first_image_one,
    ["tilezero tmm0", "tilezero tmm1"],
    [],
    [],
    []
);
image_product!(
    next_image_one,
    [
        "tileloadd tmm0, [{c} + {row}]",
        "tileloadd tmm1, [{c} + {row} + 64]"
    ],
    [],
    [],
    []
);
image_product!(
    first_image_two,
    [
        "tilezero tmm0",
        "tilezero tmm1",
        "tilezero tmm2",
        "tilezero tmm3"
    ],
    ["add {at}, {half}", "tileloadd tmm5, [{at} + {a_row}]"],
    ["tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7"],
    [
        "tilestored [{c2} + {row}], tmm2",
        "tilestored [{c2} + {row} + 64], tmm3"
    ]
);
image_product!(
    next_image_two,
    [
        "tileloadd tmm0, [{c} + {row}]",
        "tileloadd tmm1, [{c} + {row} + 64]",
        "tileloadd tmm2, [{c2} + {row}]",
        "tileloadd tmm3, [{c2} + {row} + 64]"
    ],
    ["add {at}, {half}", "tileloadd tmm5, [{at} + {a_row}]"],
    ["tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7"],
    [
        "tilestored [{c2} + {row}], tmm2",
        "tilestored [{c2} + {row} + 64], tmm3"
    ]
);

/// Defines the product of one or two tiles of rows of an image with a panel.
macro_rules! image_tile {
    ($name:ident, $one:ident, $two:ident) => {
        /// Between [`begin`] and [`end`].
        ///
        /// # Safety
        /// See [`super::ImageFn`]; the sums have rows for whole tiles. Needs AMX.
        pub(super) unsafe fn $name(
            rows: usize,
            steps: usize,
            image: *const u8,
            row_bytes: usize,
            offsets: *const u32,
            b: *const u8,
            c: *mut u32,
        ) {
            debug_assert!(rows <= ROWS);
            // SAFETY: the caller's promise.
            unsafe {
                if rows > TILE_ROWS {
                    $two(steps, image, row_bytes, offsets, b, c.cast());
                } else {
                    $one(steps, image, row_bytes, offsets, b, c.cast());
                }
            }
        }
    };
}

image_tile!(first_image, first_image_one, first_image_two);
image_tile!(next_image, next_image_one, next_image_two);

/// Rounds values to bf16, in pairs.
///
/// # Safety
/// See [`super::RoundFn`]; needs AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn round(x: &[f32], out: &mut [u32]) {
    let lines = out.as_chunks_mut::<16>().0;
    for (step, line) in lines.iter_mut().enumerate() {
        let halves = _mm512_cvtne2ps_pbh(load(x, step * 32 + 16), load(x, step * 32));
        // SAFETY: vectors of 64 bytes, and as many to write.
        unsafe {
            let halves = std::mem::transmute::<__m512bh, __m512i>(halves);
            _mm512_storeu_si512(line.as_mut_ptr().cast(), halves);
        }
    }
}

/// Copies part of a panel of pairs of bf16 or of quads of bytes, to end with whole steps.
///
/// # Safety
/// `lines` lines of 128 bytes must be readable, and as many writable with those that complete a step.
#[target_feature(enable = "avx512f")]
unsafe fn copy(lines: usize, b: *const u8, out: *mut f32) {
    let out = out.cast::<u8>();
    for line in 0..lines {
        // SAFETY: the caller's promise; a prefetch may point anywhere.
        unsafe {
            let from = b.add(line * PANEL_ROW);
            _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(AHEAD).cast());
            _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(AHEAD + 64).cast());
            let to = out.add(line * PANEL_ROW);
            _mm512_storeu_si512(to.cast(), _mm512_loadu_si512(from.cast()));
            _mm512_storeu_si512(to.add(64).cast(), _mm512_loadu_si512(from.add(64).cast()));
        }
    }
    let whole = lines.next_multiple_of(PANEL_STEP / PANEL_ROW);
    // SAFETY: the caller's promise.
    unsafe {
        out.add(lines * PANEL_ROW)
            .write_bytes(0, (whole - lines) * PANEL_ROW);
    }
}

/// # Safety
/// See [`super::WidenFn`]; needs AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn widen_bf16(inputs: usize, b: *const u8, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { copy(inputs / 2, b, out) };
}

/// # Safety
/// See [`super::WidenFn`]; needs AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn widen_int8(inputs: usize, b: *const u8, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { copy(inputs / 4, b, out) };
}

/// Rounds sixteen pairs of values to bf16 and lays each pair side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn pairs(first: __m512, second: __m512, order: __m512i) -> __m512i {
    let halves = _mm512_cvtne2ps_pbh(second, first);
    // SAFETY: vectors of 64 bytes.
    let halves = unsafe { std::mem::transmute::<__m512bh, __m512i>(halves) };
    _mm512_permutexvar_epi16(order, halves)
}

/// The order of [`pairs`]: 0, 16, 1, 17, ...
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn interleaved() -> __m512i {
    let even = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_or_si512(
        even,
        _mm512_slli_epi32::<16>(_mm512_add_epi32(even, _mm512_set1_epi32(16))),
    )
}

/// Widens 16 f16.
///
/// # Safety
/// As many must be readable at `at`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn halves(at: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.cast()) })
}

/// # Safety
/// See [`super::WidenFn`], for panels of q8; needs AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn widen_q8(inputs: usize, mut b: *const u8, out: *mut f32) {
    let (order, low_byte) = (interleaved(), _mm512_set1_epi32(255));
    let mut out = out.cast::<u8>();
    for _ in 0..inputs / BLOCK {
        for part in 0..2 {
            // SAFETY: the caller's promise: the panel has as many blocks, and there is room for them widened. Prefetches
            // may point anywhere.
            unsafe {
                let scale = halves(b.add(part * 32));
                let zero = _mm512_mul_ps(scale, _mm512_set1_ps(-(Q8_ZERO as f32)));
                for quad in 0..BLOCK / 4 {
                    let line = b.add(SCALE_BYTES + quad * PANEL_ROW + part * 64);
                    _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(AHEAD).cast());
                    let quants = _mm512_loadu_si512(line.cast());
                    let value = |quant: __m512i| {
                        let quant = _mm512_cvtepi32_ps(_mm512_and_si512(quant, low_byte));
                        _mm512_fmadd_ps(quant, scale, zero)
                    };
                    let first = value(quants);
                    let second = value(_mm512_srli_epi32::<8>(quants));
                    let third = value(_mm512_srli_epi32::<16>(quants));
                    let fourth = value(_mm512_srli_epi32::<24>(quants));
                    let to = out.add(2 * quad * PANEL_ROW + part * 64);
                    _mm512_storeu_si512(to.cast(), pairs(first, second, order));
                    _mm512_storeu_si512(to.add(PANEL_ROW).cast(), pairs(third, fourth, order));
                }
            }
        }
        // SAFETY: as above.
        unsafe { (b, out) = (b.add(Q8_BYTES), out.add(PANEL_STEP)) };
    }
}

/// # Safety
/// See [`super::WidenFn`], for panels of q4; needs AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn widen_q4(inputs: usize, mut b: *const u8, out: *mut f32) {
    let (order, low_half) = (interleaved(), _mm512_set1_epi32(15));
    let mut out = out.cast::<u8>();
    for _ in 0..inputs / BLOCK {
        for part in 0..2 {
            // SAFETY: as in `widen_q8`.
            unsafe {
                let scale = halves(b.add(part * 32));
                let minimum = halves(b.add(SCALE_BYTES + part * 32));
                for group in 0..BLOCK / 8 {
                    let line = b.add(2 * SCALE_BYTES + group * PANEL_ROW + part * 64);
                    _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(AHEAD).cast());
                    let quants = _mm512_loadu_si512(line.cast());
                    let value = |quant: __m512i| {
                        let quant = _mm512_cvtepi32_ps(_mm512_and_si512(quant, low_half));
                        _mm512_fmadd_ps(quant, scale, minimum)
                    };
                    let to = out.add(4 * group * PANEL_ROW + part * 64);
                    let store = |row: usize, first: __m512, second: __m512| {
                        let to = to.add(row * PANEL_ROW);
                        _mm512_storeu_si512(to.cast(), pairs(first, second, order));
                    };
                    // Low halves are the first four inputs, high halves the next four.
                    store(0, value(quants), value(_mm512_srli_epi32::<8>(quants)));
                    let (third, fourth) = (
                        _mm512_srli_epi32::<16>(quants),
                        _mm512_srli_epi32::<24>(quants),
                    );
                    store(1, value(third), value(fourth));
                    let quants = _mm512_srli_epi32::<4>(quants);
                    store(2, value(quants), value(_mm512_srli_epi32::<8>(quants)));
                    let (third, fourth) = (
                        _mm512_srli_epi32::<16>(quants),
                        _mm512_srli_epi32::<24>(quants),
                    );
                    store(3, value(third), value(fourth));
                }
            }
        }
        // SAFETY: as above.
        unsafe { (b, out) = (b.add(Q4_BYTES), out.add(PANEL_STEP)) };
    }
}

/// Sixteen inputs of a row from `at` on, zeros beyond its end.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(row: &[f32], at: usize) -> __m512 {
    match row.get(at..) {
        // SAFETY: sixteen more values.
        Some(rest) if rest.len() >= 16 => unsafe { _mm512_loadu_ps(rest.as_ptr()) },
        // SAFETY: the mask ends with the row.
        Some(rest) => unsafe { _mm512_maskz_loadu_ps((1_u16 << rest.len()) - 1, rest.as_ptr()) },
        None => _mm512_setzero_ps(),
    }
}

/// Packs rows as `[steps][rows, padded to whole tiles][64]` bytes. Rows of the padding keep what was there.
///
/// # Safety
/// Needs AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack(
    left: Left,
    x: &[f32],
    rows: usize,
    k: usize,
    out: &mut [u32],
    scales: &mut [f32],
) {
    let lines = out.as_chunks_mut::<{ STEP_BYTES / 4 }>().0;
    let padded = rows.next_multiple_of(TILE_ROWS);
    if k == 0 {
        scales.fill(0.0);
        return;
    }
    for (row, values) in x.chunks_exact(k).take(rows).enumerate() {
        let lines = lines[row..].iter_mut().step_by(padded);
        if left == Left::Bf16Rows {
            for (step, line) in lines.enumerate() {
                let low = load(values, step * 32);
                let pairs = _mm512_cvtne2ps_pbh(load(values, step * 32 + 16), low);
                // SAFETY: vectors of 64 bytes, and as many to write.
                unsafe {
                    let pairs = std::mem::transmute::<__m512bh, __m512i>(pairs);
                    _mm512_storeu_si512(line.as_mut_ptr().cast(), pairs);
                }
            }
        } else {
            let (inverse, scale) = left::scales_of(values);
            scales[row] = scale;
            let inverse = _mm512_set1_ps(inverse);
            for (step, line) in lines.enumerate() {
                for (part, line) in line.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let scaled = _mm512_mul_ps(load(values, step * 64 + part * 16), inverse);
                    let bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled));
                    // SAFETY: sixteen bytes.
                    unsafe { _mm_storeu_si128(line.as_mut_ptr().cast(), bytes) };
                }
            }
        }
    }
}
