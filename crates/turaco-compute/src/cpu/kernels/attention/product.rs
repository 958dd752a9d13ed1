//! How queries meet keys, and weights meet values: as f32, or as pairs of bf16.

use std::marker::PhantomData;

use crate::cpu::cache::CacheNumber;
use crate::cpu::simd::Simd;

/// Multiplication of two number formats with f32 sums.
pub(super) trait Product<S: Simd>: Copy {
    /// Number format of the panels.
    type Number: Copy;
    /// Number format of queries and weights.
    type Left: Copy;
    /// [`Self::GROUP`] numbers in each lane.
    type Vector: Copy;
    /// Neighbouring numbers (of the dimension that is summed over) that one instruction takes.
    const GROUP: usize;

    /// A group of numbers of the left side, in all lanes.
    ///
    /// # Safety
    /// `from` must be readable for a group.
    unsafe fn broadcast(self, s: S, from: *const Self::Left) -> Self::Vector;
    /// A vector of groups.
    ///
    /// # Safety
    /// `from` must be readable for a vector.
    unsafe fn load(self, s: S, from: *const Self::Number) -> Self::Vector;
    /// `sum + left * right`
    fn add(self, s: S, left: Self::Vector, right: Self::Vector, sum: S::F32) -> S::F32;
    /// Store numbers for the left side.
    ///
    /// # Safety
    /// `to` must be writable for as many numbers as a vector of f32 has.
    unsafe fn store(self, s: S, to: *mut Self::Left, numbers: S::F32);
}

/// f32 on the left, anything that widens to it on the right; exact products.
#[derive(Clone, Copy)]
pub(super) struct Widened<T>(pub PhantomData<T>);

impl<S: Simd, T: CacheNumber> Product<S> for Widened<T> {
    type Number = T;
    type Left = f32;
    type Vector = S::F32;
    const GROUP: usize = 1;

    #[inline(always)]
    unsafe fn broadcast(self, s: S, from: *const f32) -> S::F32 {
        // SAFETY: the caller's promise.
        s.splat(unsafe { *from })
    }

    #[inline(always)]
    unsafe fn load(self, s: S, from: *const T) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { T::load(s, from) }
    }

    #[inline(always)]
    fn add(self, s: S, left: S::F32, right: S::F32, sum: S::F32) -> S::F32 {
        s.fma(left, right, sum)
    }

    #[inline(always)]
    unsafe fn store(self, s: S, to: *mut f32, numbers: S::F32) {
        // SAFETY: the caller's promise.
        unsafe { s.store_ptr(to, numbers) };
    }
}

/// Pairs of bf16 on both sides, twice as fast; the numbers are rounded, the sums are f32.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Pairs(pub crate::cpu::isa::Avx512Dot);

#[cfg(target_arch = "x86_64")]
mod pairs {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::{Pairs, Product};
    use crate::cpu::isa::Avx512;
    use crate::cpu::simd::Simd;

    impl Product<Avx512> for Pairs {
        type Number = bf16;
        type Left = bf16;
        type Vector = __m512i;
        const GROUP: usize = 2;

        #[inline(always)]
        unsafe fn broadcast(self, _: Avx512, from: *const bf16) -> __m512i {
            // SAFETY: the token proves the instructions, the caller the memory.
            unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
        }

        #[inline(always)]
        unsafe fn load(self, _: Avx512, from: *const bf16) -> __m512i {
            // SAFETY: the token proves the instructions, the caller the memory.
            unsafe { _mm512_loadu_si512(from.cast()) }
        }

        #[inline(always)]
        fn add(self, _: Avx512, left: __m512i, right: __m512i, sum: __m512) -> __m512 {
            // SAFETY: `self` proves the instructions; both types are 64 bytes.
            unsafe {
                let left = std::mem::transmute::<__m512i, __m512bh>(left);
                let right = std::mem::transmute::<__m512i, __m512bh>(right);
                _mm512_dpbf16_ps(sum, left, right)
            }
        }

        #[inline(always)]
        unsafe fn store(self, _: Avx512, to: *mut bf16, numbers: <Avx512 as Simd>::F32) {
            // SAFETY: `self` proves the instructions, the caller the memory; both types are 32 bytes.
            unsafe {
                let narrow = _mm512_cvtneps_pbh(numbers);
                let narrow = std::mem::transmute::<__m256bh, __m256i>(narrow);
                _mm256_storeu_si256(to.cast(), narrow);
            }
        }
    }
}
