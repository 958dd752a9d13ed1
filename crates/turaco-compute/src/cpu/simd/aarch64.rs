//! NEON.

use std::arch::aarch64::*;

use half::{bf16, f16};

use super::math::ROUND;
use super::{Kernel, Simd};
use crate::cpu::isa::Neon;

/// # Safety
/// The token proves the feature; the function is only unsafe to call because compilers cannot see that.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run_neon<K: Kernel>(token: Neon, kernel: K) -> K::Output {
    kernel.run(token)
}

/// Methods that are a few intrinsics each, all for the same reason sound.
macro_rules! intrinsics {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty = $body:expr;)*) => {
        $(
            #[inline(always)]
            fn $name(self, $($argument: $type),*) -> $result {
                // SAFETY: `self` proves the instructions.
                unsafe { $body }
            }
        )*
    };
}

impl Simd for Neon {
    type F32 = float32x4_t;
    type Mask = uint32x4_t;
    const LANES: usize = 4;
    const MANY_REGISTERS: bool = true;

    intrinsics! {
        splat(value: f32) -> float32x4_t = vdupq_n_f32(value);
        add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
        sub(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32(a, b);
        mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        div(a: float32x4_t, b: float32x4_t) -> float32x4_t = vdivq_f32(a, b);
        fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
        max(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmaxq_f32(a, b);
        min(a: float32x4_t, b: float32x4_t) -> float32x4_t = vminq_f32(a, b);
        less(a: float32x4_t, b: float32x4_t) -> uint32x4_t = vcltq_f32(a, b);
        select(mask: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(mask, a, b);
        mask_from_bits(bits: u32) -> uint32x4_t = vtstq_u32(vdupq_n_u32(bits), vld1q_u32([1, 2, 4, 8].as_ptr()));
        mask_bits(mask: uint32x4_t) -> u32 = vaddvq_u32(vandq_u32(mask, vld1q_u32([1, 2, 4, 8].as_ptr())));
        power_of_two(shifted: float32x4_t) -> float32x4_t = {
            let n = vsubq_u32(vreinterpretq_u32_f32(shifted), vdupq_n_u32(ROUND.to_bits() - 127));
            vreinterpretq_f32_u32(vshlq_n_u32::<23>(n))
        };
        split_exponent(a: float32x4_t) -> (float32x4_t, float32x4_t) = {
            let bits = vreinterpretq_u32_f32(a);
            let exponent = vsubq_s32(vreinterpretq_s32_u32(vshrq_n_u32::<23>(bits)), vdupq_n_s32(127));
            let mantissa = vorrq_u32(vandq_u32(bits, vdupq_n_u32(0x007f_ffff)), vdupq_n_u32(0x3f80_0000));
            (vreinterpretq_f32_u32(mantissa), vcvtq_f32_s32(exponent))
        };
        reduce_sum(a: float32x4_t) -> f32 = vaddvq_f32(a);
        reduce_max(a: float32x4_t) -> f32 = vmaxvq_f32(a);
    }

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        // SAFETY: a prefetch of any address has no effect but on speed; its intrinsic is not stable.
        unsafe {
            std::arch::asm!(
                "prfm pldl1keep, [{line}]",
                line = in(reg) line,
                options(nostack, readonly, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> float32x4_t {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, value: float32x4_t) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { vst1q_f32(to, value) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> float32x4_t {
        let wide: float32x4_t;
        // SAFETY: `self` proves the instructions, the caller the memory. FCVTL is part of NEON; its intrinsic is not stable.
        unsafe {
            let narrow = vld1_u16(from.cast());
            std::arch::asm!(
                "fcvtl {wide:v}.4s, {narrow:v}.4h",
                wide = lateout(vreg) wide,
                narrow = in(vreg) narrow,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        wide
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> float32x4_t {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, value: float32x4_t) {
        let narrow: uint16x4_t;
        // SAFETY: `self` proves the instructions, the caller the memory. FCVTN is part of NEON.
        unsafe {
            std::arch::asm!(
                "fcvtn {narrow:v}.4h, {value:v}.4s",
                narrow = lateout(vreg) narrow,
                value = in(vreg) value,
                options(pure, nomem, nostack, preserves_flags),
            );
            vst1_u16(to.cast(), narrow);
        }
    }
}
