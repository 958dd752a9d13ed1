//! How queries meet keys, and weights meet values: as f32, as pairs of bf16, or keys as bytes and values as pairs.

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
    /// The same for queries and keys.
    const KEY_GROUP: usize = Self::GROUP;
    /// Bytes of a number of a query, and of a key.
    const QUERY_SIZE: usize = size_of::<Self::Left>();
    const KEY_SIZE: usize = size_of::<Self::Number>();

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

    /// Store a query times `factor` as the left side of scores: what [`Self::begin`] and [`Self::end`] want for it.
    ///
    /// # Safety
    /// `to` must be writable for as many numbers as the query has, which is whole vectors.
    #[inline(always)]
    unsafe fn store_query(self, s: S, to: *mut Self::Left, query: &[f32], factor: f32) -> [f32; 2] {
        for column in (0..query.len()).step_by(S::LANES) {
            let numbers = s.mul(s.load(&query[column..]), s.splat(factor));
            // SAFETY: the caller's promise.
            unsafe { self.store(s, to.add(column), numbers) };
        }
        [0.0, 1.0]
    }
    /// What the sum of a score begins with.
    #[inline(always)]
    fn begin(self, s: S, _of_query: [f32; 2]) -> S::F32 {
        s.splat(0.0)
    }
    /// As [`Self::add`], for scores.
    #[inline(always)]
    fn add_score(self, s: S, left: Self::Vector, right: Self::Vector, sum: S::F32) -> S::F32 {
        self.add(s, left, right, sum)
    }
    /// The score that a sum stands for.
    #[inline(always)]
    fn end(self, _s: S, sum: S::F32, _of_query: [f32; 2]) -> S::F32 {
        sum
    }
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

/// As [`Pairs`], but keys and queries are bytes, of which an instruction takes four: twice as fast again. A query is rounded as the
/// keys of a cache of bytes are, by its largest number; keys have 128 added.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct BytesAndPairs(pub Pairs);

#[cfg(target_arch = "x86_64")]
mod pairs {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::{BytesAndPairs, Pairs, Product};
    use crate::cpu::cache::byte_scale;
    use crate::cpu::isa::Avx512;
    use crate::cpu::simd::Simd;

    impl Product<Avx512> for BytesAndPairs {
        type Number = bf16;
        type Left = bf16;
        type Vector = __m512i;
        const GROUP: usize = 2;
        const KEY_GROUP: usize = 4;
        const QUERY_SIZE: usize = 1;
        const KEY_SIZE: usize = 1;

        #[inline(always)]
        unsafe fn broadcast(self, s: Avx512, from: *const bf16) -> __m512i {
            // SAFETY: the caller's promise.
            unsafe { self.0.broadcast(s, from) }
        }

        #[inline(always)]
        unsafe fn load(self, s: Avx512, from: *const bf16) -> __m512i {
            // SAFETY: the caller's promise.
            unsafe { self.0.load(s, from) }
        }

        #[inline(always)]
        fn add(self, s: Avx512, left: __m512i, right: __m512i, sum: __m512) -> __m512 {
            self.0.add(s, left, right, sum)
        }

        #[inline(always)]
        unsafe fn store(self, s: Avx512, to: *mut bf16, numbers: __m512) {
            // SAFETY: the caller's promise.
            unsafe { self.0.store(s, to, numbers) };
        }

        #[inline(always)]
        unsafe fn store_query(
            self,
            s: Avx512,
            to: *mut bf16,
            query: &[f32],
            factor: f32,
        ) -> [f32; 2] {
            let (inverse, scale) = byte_scale(query);
            let to: *mut i8 = to.cast();
            // SAFETY: the token of `self` proves the instructions, the caller the memory: bytes are fewer than numbers.
            unsafe {
                let mut sums = _mm512_setzero_si512();
                for column in (0..query.len()).step_by(Avx512::LANES) {
                    let numbers = s.mul(s.load(&query[column..]), s.splat(inverse));
                    let numbers = _mm512_cvtps_epi32(numbers);
                    _mm_storeu_si128(to.add(column).cast(), _mm512_cvtsepi32_epi8(numbers));
                    sums = _mm512_add_epi32(sums, numbers);
                }
                let excess = _mm512_reduce_add_epi32(sums).wrapping_mul(-128);
                [f32::from_bits(excess as u32), scale * factor]
            }
        }

        #[inline(always)]
        fn begin(self, _: Avx512, [excess, _]: [f32; 2]) -> __m512 {
            // SAFETY: the token of `self` proves the instructions.
            unsafe { _mm512_castsi512_ps(_mm512_set1_epi32(excess.to_bits() as i32)) }
        }

        #[inline(always)]
        fn add_score(self, _: Avx512, left: __m512i, right: __m512i, sum: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe {
                let sum = _mm512_dpbusd_epi32(_mm512_castps_si512(sum), right, left);
                _mm512_castsi512_ps(sum)
            }
        }

        #[inline(always)]
        fn end(self, s: Avx512, sum: __m512, [_, scale]: [f32; 2]) -> __m512 {
            // SAFETY: as above.
            let sum = unsafe { _mm512_cvtepi32_ps(_mm512_castps_si512(sum)) };
            s.mul(sum, s.splat(scale))
        }
    }

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
