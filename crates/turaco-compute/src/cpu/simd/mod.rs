//! One set of vector operations, implemented for every instruction set.
//!
//! A kernel is written once as a [`Kernel`], generic over [`Simd`]; [`dispatch`] compiles it for each instruction set
//! and picks one. Everything on the way from there to the instructions is `#[inline(always)]`, because only code that
//! is inlined into the `#[target_feature]` function in `dispatch` is compiled with that feature.

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub(crate) mod math;
#[cfg(test)]
pub(crate) mod plain;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm32;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use half::{bf16, f16};

use crate::cpu::isa::Isa;

/// Vectors of f32 of one instruction set. A value of an implementing type is proof that the instructions are there.
///
/// Multiply-adds are fused where the machine can. Loads and stores need no alignment.
pub(crate) trait Simd: Copy {
    /// [`Self::LANES`] numbers.
    type F32: Copy;
    /// One truth value per lane.
    type Mask: Copy;
    /// Lanes of a vector, a divisor of 16.
    const LANES: usize;
    /// Whether there are 32 registers rather than 16.
    const MANY_REGISTERS: bool;

    /// The same number in all lanes.
    fn splat(self, value: f32) -> Self::F32;
    /// # Safety
    /// `from` must be readable for a whole vector.
    unsafe fn load_ptr(self, from: *const f32) -> Self::F32;
    /// # Safety
    /// `to` must be writable for a whole vector.
    unsafe fn store_ptr(self, to: *mut f32, value: Self::F32);
    /// Ask for a cache line that is going to be read; any address is allowed.
    #[inline(always)]
    fn prefetch(self, _line: *const u8) {}
    /// Widened to f32.
    ///
    /// # Safety
    /// `from` must be readable for a whole vector.
    unsafe fn load_f16(self, from: *const f16) -> Self::F32;
    /// Widened to f32.
    ///
    /// # Safety
    /// `from` must be readable for a whole vector.
    unsafe fn load_bf16(self, from: *const bf16) -> Self::F32;
    /// Widened to f32.
    ///
    /// # Safety
    /// `from` must be readable for a whole vector.
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::F32 {
        let mut values = [0.0; 16];
        for (lane, value) in values[..Self::LANES].iter_mut().enumerate() {
            // SAFETY: within the vector that the caller promised.
            *value = f32::from(unsafe { *from.add(lane) });
        }
        // SAFETY: a vector has at most 16 lanes.
        unsafe { self.load_ptr(values.as_ptr()) }
    }
    /// Numbers within ±127 rounded to bytes, halves to even; others give any byte.
    ///
    /// # Safety
    /// `to` must be writable for a whole vector.
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, value: Self::F32) {
        let values = self.to_array(value);
        for (lane, &value) in values[..Self::LANES].iter().enumerate() {
            // SAFETY: within the vector that the caller promised.
            unsafe { to.add(lane).write(round_to_byte(value)) };
        }
    }
    /// Rounded to f16, halves to even.
    ///
    /// # Safety
    /// `to` must be writable for a whole vector.
    unsafe fn store_f16(self, to: *mut f16, value: Self::F32) {
        let values = self.to_array(value);
        for (lane, &value) in values[..Self::LANES].iter().enumerate() {
            // SAFETY: within the vector that the caller promised.
            unsafe { to.add(lane).write(f16::from_f32_const(value)) };
        }
    }
    /// `a + b`
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a b`
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a b + c`
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The larger one; NaN if `b` is, and if only `a` is, either.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller one; if one of them is NaN, either.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a < b`, false for NaN.
    fn less(self, a: Self::F32, b: Self::F32) -> Self::Mask;
    /// `a` where the mask is true, otherwise `b`.
    fn select(self, mask: Self::Mask, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Lane `i` is true if bit `i` is one.
    fn mask_from_bits(self, bits: u32) -> Self::Mask;
    /// Bit `i` is lane `i`.
    fn mask_bits(self, mask: Self::Mask) -> u32;
    /// 2 to the power of the integer `n` that was added to [`math::ROUND`] to give `shifted`, for `n` of -126 to 127; 0
    /// for -127.
    fn power_of_two(self, shifted: Self::F32) -> Self::F32;
    /// For positive normal numbers: `(m, e)` with `a = m 2^e` and `m` from 1 to below 2.
    fn split_exponent(self, a: Self::F32) -> (Self::F32, Self::F32);
    /// The sum of all lanes.
    fn reduce_sum(self, a: Self::F32) -> f32;
    /// The largest lane.
    fn reduce_max(self, a: Self::F32) -> f32;

    /// All lanes, in the first elements.
    #[inline(always)]
    fn to_array(self, a: Self::F32) -> [f32; 16] {
        let mut values = [0.0; 16];
        // SAFETY: a vector has at most 16 lanes.
        unsafe { self.store_ptr(values.as_mut_ptr(), a) };
        values
    }

    /// The first values of a slice that has at least a vector of them.
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::F32 {
        assert!(from.len() >= Self::LANES);
        // SAFETY: just checked.
        unsafe { self.load_ptr(from.as_ptr()) }
    }

    /// To the start of a slice that has room for a vector.
    #[inline(always)]
    fn store(self, to: &mut [f32], value: Self::F32) {
        assert!(to.len() >= Self::LANES);
        // SAFETY: just checked.
        unsafe { self.store_ptr(to.as_mut_ptr(), value) };
    }

    /// The values of a slice shorter than a vector, then `fill`.
    #[inline(always)]
    fn load_part(self, from: &[f32], fill: f32) -> Self::F32 {
        let mut values = [fill; 16];
        values[..from.len()].copy_from_slice(from);
        // SAFETY: a vector has at most 16 lanes.
        unsafe { self.load_ptr(values.as_ptr()) }
    }

    /// The first lanes to a slice shorter than a vector.
    #[inline(always)]
    fn store_part(self, to: &mut [f32], value: Self::F32) {
        let values = self.to_array(value);
        to.copy_from_slice(&values[..to.len()]);
    }
}

/// A computation that is compiled for every instruction set.
pub(crate) trait Kernel {
    /// Its result.
    type Output;
    /// Run it. Implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
    /// The same in plain Rust: the reference, and what runs where there are no vectors.
    fn run_scalar(self) -> Self::Output;
}

/// Run a kernel with the instructions of `isa`, or of the best tier below it that this machine has vectors for.
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::cpu::isa::{Avx2, Avx512};
        if isa >= Isa::Avx512
            && let Some(token) = Avx512::new()
        {
            // SAFETY: the token proves the features.
            return unsafe { x86_64::run_avx512(token, kernel) };
        }
        if isa >= Isa::Avx2
            && let Some(token) = Avx2::new()
        {
            // SAFETY: the token proves the features.
            return unsafe { x86_64::run_avx2(token, kernel) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    if isa >= Isa::Neon
        && let Some(token) = crate::cpu::isa::Neon::new()
    {
        // SAFETY: the token proves the feature.
        return unsafe { aarch64::run_neon(token, kernel) };
    }
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    if isa >= Isa::Simd128 {
        return kernel.run(wasm32::Simd128);
    }
    let _ = isa;
    kernel.run_scalar()
}

/// A number that caches are made of, as vectors load it.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// A vector of them, widened.
    ///
    /// # Safety
    /// `from` must be readable for a whole vector.
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F32;
    /// A vector of them, rounded.
    ///
    /// # Safety
    /// `to` must be writable for a whole vector.
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, value: S::F32);
}

impl Element for i8 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load_i8(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, value: S::F32) {
        // SAFETY: the caller's promise.
        unsafe { simd.store_i8(to, value) };
    }
}

/// The nearest integer of a number within ±127, halves to even.
#[inline(always)]
pub(crate) fn round_to_byte(value: f32) -> i8 {
    // It appears in the low bits of this sum.
    (value + math::ROUND).to_bits() as i8
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load_ptr(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, value: S::F32) {
        // SAFETY: the caller's promise.
        unsafe { simd.store_ptr(to, value) };
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load_f16(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, value: S::F32) {
        // SAFETY: the caller's promise.
        unsafe { simd.store_f16(to, value) };
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, value: S::F32) {
        let values = simd.to_array(value);
        let mut lane = 0;
        while lane < S::LANES {
            // SAFETY: the caller's promise.
            unsafe { to.add(lane).write(Self::from_f32(values[lane])) };
            lane += 1;
        }
    }
}
