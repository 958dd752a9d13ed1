//! WebAssembly `simd128`. It has no fused multiply-add.

use std::arch::wasm32::*;

use half::{bf16, f16};

use super::Simd;
use super::math::ROUND;

/// Proof by compilation: this module only exists when the feature is on.
#[derive(Clone, Copy)]
pub(super) struct Simd128;

impl Simd for Simd128 {
    type F32 = v128;
    type Mask = v128;
    const LANES: usize = 4;
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> v128 {
        f32x4_splat(value)
    }
    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> v128 {
        // SAFETY: the caller's promise.
        unsafe { v128_load(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, value: v128) {
        // SAFETY: the caller's promise.
        unsafe { v128_store(to.cast(), value) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> v128 {
        // SAFETY: the caller's promise.
        let narrow: [f16; 4] = unsafe { from.cast::<[f16; 4]>().read() };
        let [a, b, c, d] = narrow.map(f16::to_f32_const);
        f32x4(a, b, c, d)
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> v128 {
        // SAFETY: the caller's promise.
        u32x4_shl(unsafe { u32x4_load_extend_u16x4(from.cast()) }, 16)
    }
    #[inline(always)]
    fn add(self, a: v128, b: v128) -> v128 {
        f32x4_add(a, b)
    }
    #[inline(always)]
    fn sub(self, a: v128, b: v128) -> v128 {
        f32x4_sub(a, b)
    }
    #[inline(always)]
    fn mul(self, a: v128, b: v128) -> v128 {
        f32x4_mul(a, b)
    }
    #[inline(always)]
    fn div(self, a: v128, b: v128) -> v128 {
        f32x4_div(a, b)
    }
    #[inline(always)]
    fn fma(self, a: v128, b: v128, c: v128) -> v128 {
        f32x4_add(f32x4_mul(a, b), c)
    }
    #[inline(always)]
    fn max(self, a: v128, b: v128) -> v128 {
        f32x4_pmax(b, a)
    }
    #[inline(always)]
    fn min(self, a: v128, b: v128) -> v128 {
        f32x4_pmin(a, b)
    }
    #[inline(always)]
    fn less(self, a: v128, b: v128) -> v128 {
        f32x4_lt(a, b)
    }
    #[inline(always)]
    fn select(self, mask: v128, a: v128, b: v128) -> v128 {
        v128_bitselect(a, b, mask)
    }
    #[inline(always)]
    fn mask_from_bits(self, bits: u32) -> v128 {
        let lanes = u32x4(1, 2, 4, 8);
        u32x4_eq(v128_and(u32x4_splat(bits), lanes), lanes)
    }
    #[inline(always)]
    fn mask_bits(self, mask: v128) -> u32 {
        u32::from(u32x4_bitmask(mask))
    }
    #[inline(always)]
    fn power_of_two(self, shifted: v128) -> v128 {
        u32x4_shl(u32x4_sub(shifted, u32x4_splat(ROUND.to_bits() - 127)), 23)
    }
    #[inline(always)]
    fn split_exponent(self, a: v128) -> (v128, v128) {
        let exponent = i32x4_sub(u32x4_shr(a, 23), i32x4_splat(127));
        let mantissa = v128_or(
            v128_and(a, u32x4_splat(0x007f_ffff)),
            u32x4_splat(0x3f80_0000),
        );
        (mantissa, f32x4_convert_i32x4(exponent))
    }
    #[inline(always)]
    fn reduce_sum(self, a: v128) -> f32 {
        (f32x4_extract_lane::<0>(a) + f32x4_extract_lane::<2>(a))
            + (f32x4_extract_lane::<1>(a) + f32x4_extract_lane::<3>(a))
    }
    #[inline(always)]
    fn reduce_max(self, a: v128) -> f32 {
        let low = f32x4_extract_lane::<0>(a).max(f32x4_extract_lane::<1>(a));
        low.max(f32x4_extract_lane::<2>(a).max(f32x4_extract_lane::<3>(a)))
    }
}
