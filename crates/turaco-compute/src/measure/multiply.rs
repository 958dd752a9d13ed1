//! Loops of nothing but multiply instructions.

use std::hint::black_box;

use crate::cpu::isa::Isa;
use crate::device::WeightType;

/// What is multiplied with what, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    F32,
    Bf16,
    Bytes,
    /// Bytes without an instruction that adds four of their products.
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "for Arm"))]
    BytesWidened,
    /// Two rows of bytes with two.
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "for Arm"))]
    ByteMatrices,
    Bf16Tiles,
    ByteTiles,
}

/// What matrix products with weights of this type multiply.
fn numbers(isa: Isa, weight_type: WeightType) -> Numbers {
    match weight_type {
        WeightType::F32 | WeightType::F16 => Numbers::F32,
        #[cfg(target_arch = "aarch64")]
        _ if isa == Isa::Neon => arm_numbers(weight_type),
        WeightType::Int8 if isa >= Isa::Amx => Numbers::ByteTiles,
        _ if isa >= Isa::Amx => Numbers::Bf16Tiles,
        WeightType::Bf16 if isa == Isa::Avx512Dot => Numbers::Bf16,
        WeightType::Bf16 => Numbers::F32,
        WeightType::Int8 | WeightType::Q8 | WeightType::Q4 => Numbers::Bytes,
    }
}

/// The choice of `linear`'s kernels.
#[cfg(target_arch = "aarch64")]
fn arm_numbers(weight_type: WeightType) -> Numbers {
    let dot = std::arch::is_aarch64_feature_detected!("dotprod");
    match weight_type {
        WeightType::F32 | WeightType::F16 => Numbers::F32,
        WeightType::Bf16 if crate::cpu::has_bf16_products() => Numbers::Bf16,
        WeightType::Bf16 => Numbers::F32,
        _ if !dot => Numbers::BytesWidened,
        WeightType::Q8 | WeightType::Q4 if std::arch::is_aarch64_feature_detected!("i8mm") => {
            Numbers::ByteMatrices
        }
        _ => Numbers::Bytes,
    }
}

/// The instruction, for people.
pub fn instruction(isa: Isa, weight_type: WeightType) -> &'static str {
    match numbers(isa, weight_type) {
        Numbers::F32 => "f32 FMA",
        Numbers::Bf16 => "bf16 dot",
        Numbers::Bytes => "int8 dot",
        Numbers::BytesWidened => "int8 multiply",
        Numbers::ByteMatrices => "int8 matrix",
        Numbers::Bf16Tiles => "bf16 tiles",
        Numbers::ByteTiles => "int8 tiles",
    }
}

/// Runs `steps` rounds of independent multiply-adds; gives the number of multiplications and additions.
#[cfg(target_arch = "x86_64")]
pub fn in_registers(isa: Isa, weight_type: WeightType, steps: usize) -> usize {
    use crate::cpu::isa::{Amx, Avx2, Avx512, Avx512Dot};
    if isa >= Isa::Amx && Amx::new().is_some() {
        match numbers(isa, weight_type) {
            // SAFETY: the token proves the instructions.
            Numbers::Bf16Tiles => return unsafe { x86::bf16_tiles(steps) },
            // SAFETY: as above.
            Numbers::ByteTiles => return unsafe { x86::byte_tiles(steps) },
            _ => {}
        }
    }
    let (dot, wide, narrow) = (
        (isa >= Isa::Avx512Dot).then(Avx512Dot::new).flatten(),
        (isa >= Isa::Avx512).then(Avx512::new).flatten(),
        (isa >= Isa::Avx2).then(Avx2::new).flatten(),
    );
    match (numbers(isa, weight_type), dot, wide, narrow) {
        // SAFETY: the token proves the instructions.
        (Numbers::Bf16, Some(_), ..) => unsafe { x86::bf16_dot(steps) },
        // SAFETY: as above.
        (Numbers::Bytes, Some(_), ..) => unsafe { x86::bytes_dot(steps) },
        // Without dot products each type has another way to the same sums.
        (Numbers::Bytes, _, _, Some(_)) => match weight_type {
            // SAFETY: the token proves the instructions.
            WeightType::Q8 => unsafe { x86::words(steps) },
            // SAFETY: as above.
            WeightType::Q4 => unsafe { x86::nibbles(steps) },
            // SAFETY: as above.
            _ => unsafe { x86::bytes_pairs(steps) },
        },
        // SAFETY: as above.
        (_, _, Some(_), _) => unsafe { x86::fma512(steps) },
        // SAFETY: as above.
        (_, _, _, Some(_)) => unsafe { x86::fma256(steps) },
        _ => plain(steps),
    }
}

/// Runs `steps` rounds of independent multiply-adds; gives the number of multiplications and additions.
#[cfg(target_arch = "aarch64")]
pub fn in_registers(isa: Isa, weight_type: WeightType, steps: usize) -> usize {
    if isa != Isa::Neon {
        return plain(steps);
    }
    // SAFETY: NEON is part of every aarch64, and the others are chosen where they were found.
    unsafe {
        match numbers(isa, weight_type) {
            Numbers::Bf16 => arm::bf16_dot(steps),
            Numbers::Bytes => arm::bytes_dot(steps),
            Numbers::BytesWidened => arm::bytes_widened(steps),
            Numbers::ByteMatrices => arm::byte_matrices(steps),
            Numbers::F32 | Numbers::Bf16Tiles | Numbers::ByteTiles => arm::fma(steps),
        }
    }
}

/// Runs `steps` rounds of independent multiply-adds; gives the number of multiplications and additions.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn in_registers(_isa: Isa, _weight_type: WeightType, steps: usize) -> usize {
    plain(steps)
}

fn plain(steps: usize) -> usize {
    let mut sums = black_box([0.5_f32; 64]);
    let factor = black_box(0.5);
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = *sum * factor + factor;
        }
    }
    black_box(sums);
    steps * sums.len() * 2
}

/// Enough independent sums to hide the latency of two multipliers.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const CHAINS: usize = 12;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! chains {
    ($(#[$about:meta])* $name:ident, $features:literal, $vector:ty, $zero:expr, $step:expr, $ops:literal) => {
        $(#[$about])*
        ///
        /// # Safety
        /// The machine must have the instructions.
        #[target_feature(enable = $features)]
        pub unsafe fn $name(steps: usize) -> usize {
            let mut sums: [$vector; CHAINS] = black_box([$zero; CHAINS]);
            let factor: $vector = black_box($zero);
            for _ in 0..steps {
                for sum in &mut sums {
                    *sum = $step(*sum, factor);
                }
                // Keeps the rounds from being merged, at no cost.
                // SAFETY: no instruction.
                unsafe { std::arch::asm!("", options(nomem, nostack, preserves_flags)) };
            }
            black_box(sums);
            steps * CHAINS * $ops
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::CHAINS;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// A tile of numbers of many digits: zeros would take less power, and run faster than any real product.
    #[repr(align(64))]
    struct Tile([u32; 256]);

    static FULL: Tile = {
        let (mut tile, mut state, mut index) = ([0; 256], 1_u32, 0);
        while index < 256 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // As bf16 within [1, 2) with either sign.
            tile[index] = state.rotate_right(8) & 0x807f_807f | 0x3f80_3f80;
            index += 1;
        }
        Tile(tile)
    };

    /// Four tile products per step.
    macro_rules! tiles {
        ($name:ident, $multiply:literal, $inputs:literal) => {
            /// # Safety
            /// The machine must have AMX.
            pub unsafe fn $name(steps: usize) -> usize {
                use crate::cpu::kernels::linear::amx;
                let steps = steps.max(1);
                // SAFETY: the caller's promise; only tiles and a counter are written, and one tile of memory read.
                unsafe {
                    amx::begin();
                    std::arch::asm!(
                        "tileloadd tmm4, [{full} + {row}]",
                        "tileloadd tmm5, [{full} + {row}]",
                        "tileloadd tmm6, [{full} + {row}]",
                        "tileloadd tmm7, [{full} + {row}]",
                        "2:",
                        concat!($multiply, " tmm0, tmm4, tmm6"),
                        concat!($multiply, " tmm1, tmm4, tmm7"),
                        concat!($multiply, " tmm2, tmm5, tmm6"),
                        concat!($multiply, " tmm3, tmm5, tmm7"),
                        "dec {left}",
                        "jnz 2b",
                        left = inout(reg) steps => _,
                        full = in(reg) FULL.0.as_ptr(),
                        row = in(reg) 64_usize,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(readonly, nostack)
                    );
                    amx::end();
                }
                steps * 4 * 16 * 16 * $inputs * 2
            }
        };
    }

    tiles!(bf16_tiles, "tdpbf16ps", 32);
    tiles!(byte_tiles, "tdpbssd", 64);

    chains!(
        /// 8 f32 per instruction.
        fma256,
        "avx2,fma",
        __m256,
        _mm256_setzero_ps(),
        |s, f| _mm256_fmadd_ps(f, f, s),
        16
    );
    chains!(
        /// 16 f32 per instruction.
        fma512,
        "avx512f",
        __m512,
        _mm512_setzero_ps(),
        |s, f| _mm512_fmadd_ps(f, f, s),
        32
    );
    chains!(
        /// 64 products of bytes per instruction.
        bytes_dot,
        "avx512f,avx512vnni",
        __m512i,
        _mm512_setzero_si512(),
        |s, f| _mm512_dpbusd_epi32(s, f, f),
        128
    );
    chains!(
        /// 32 products of bf16 per instruction.
        bf16_dot,
        "avx512f,avx512bf16",
        __m512,
        _mm512_setzero_ps(),
        // SAFETY: vectors of 64 bytes.
        |s, f| unsafe {
            let f = std::mem::transmute::<__m512, __m512bh>(f);
            _mm512_dpbf16_ps(s, f, f)
        },
        64
    );
    chains!(
        /// 16 products of bytes that were widened before.
        words,
        "avx2",
        __m256i,
        _mm256_setzero_si256(),
        |s, f| _mm256_add_epi32(s, _mm256_madd_epi16(f, s)),
        32
    );
    chains!(
        /// 32 products of bytes and nibbles, whose sums of pairs fit 16 bits.
        nibbles,
        "avx2",
        __m256i,
        _mm256_setzero_si256(),
        |s, f| _mm256_add_epi16(s, _mm256_maddubs_epi16(f, s)),
        64
    );
    chains!(
        /// 32 products of bytes by the instructions that AVX2 has for them.
        bytes_pairs,
        "avx2",
        __m256i,
        _mm256_setzero_si256(),
        |s, f| {
            let pairs = _mm256_maddubs_epi16(f, _mm256_sign_epi8(f, s));
            _mm256_add_epi32(s, _mm256_madd_epi16(pairs, f))
        },
        64
    );
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::CHAINS;
    use std::arch::aarch64::*;
    use std::hint::black_box;

    chains!(
        /// 4 f32 per instruction.
        fma,
        "neon",
        float32x4_t,
        vdupq_n_f32(0.0),
        |s, f| vfmaq_f32(s, f, f),
        8
    );
    /// `s` and what an instruction without a stable intrinsic adds to it.
    macro_rules! instruction {
        ($extension:literal, $instruction:literal) => {
            |mut s: int32x4_t, f: int32x4_t| {
                // SAFETY: only registers are used.
                unsafe {
                    std::arch::asm!(
                        concat!(".arch_extension ", $extension),
                        $instruction,
                        s = inout(vreg) s,
                        f = in(vreg) f,
                        options(pure, nomem, nostack, preserves_flags)
                    );
                }
                s
            }
        };
    }

    chains!(
        /// 16 products of bytes per instruction.
        bytes_dot,
        "neon,dotprod",
        int32x4_t,
        vdupq_n_s32(0),
        instruction!("dotprod", "sdot {s:v}.4s, {f:v}.16b, {f:v}.16b"),
        32
    );
    chains!(
        /// 32 products of bytes per instruction.
        byte_matrices,
        "neon,i8mm",
        int32x4_t,
        vdupq_n_s32(0),
        instruction!("i8mm", "smmla {s:v}.4s, {f:v}.16b, {f:v}.16b"),
        64
    );
    chains!(
        /// 8 products of bf16 per instruction.
        bf16_dot,
        "neon,bf16",
        int32x4_t,
        vdupq_n_s32(0),
        instruction!("bf16", "bfdot {s:v}.4s, {f:v}.8h, {f:v}.8h"),
        16
    );
    chains!(
        /// 16 products of bytes by widening multiplications.
        bytes_widened,
        "neon",
        int32x4_t,
        vdupq_n_s32(0),
        |s, f| {
            let bytes = vreinterpretq_s8_s32(f);
            let low = vmull_s8(vget_low_s8(bytes), vget_low_s8(bytes));
            vpadalq_s16(s, vmlal_high_s8(low, bytes, bytes))
        },
        32
    );
}
