//! Where a tile of keys and values comes from: the panels that keep them, or a copy as pairs of bf16 or fours of bytes.

use crate::cpu::cache::{BLOCK, CacheNumber, Panels, TILE_KEYS};

/// The scales of a tile of keys, and those of its values.
#[derive(Clone, Copy)]
pub(super) struct TileScales<'a> {
    pub keys: [&'a [f32; BLOCK]; TILE_KEYS / BLOCK],
    pub values: [&'a [f32; BLOCK]; TILE_KEYS / BLOCK],
}

impl<'a> TileScales<'a> {
    /// Those of head `head` for the tile that begins at `key`, if such numbers have scales.
    #[inline(always)]
    fn new<T: CacheNumber>(panels: &Panels<'a, T>, head: usize, key: usize) -> Option<Self> {
        if !T::SCALED {
            return None;
        }
        let both: [_; TILE_KEYS / BLOCK] =
            std::array::from_fn(|block| panels.scales(head, key + block * BLOCK));
        Some(Self {
            keys: both.map(|(keys, _)| keys),
            values: both.map(|(_, values)| values),
        })
    }
}

/// A tile that comes after the one at hand, to be asked for while that is worked on.
pub(super) struct Ahead {
    /// Its first blocks of keys and of values, and bytes of a block, of which none are asked for if this is 0.
    planes: [*const u8; 2],
    len: usize,
    /// Bytes from one block to the next.
    stride: usize,
}

impl Ahead {
    /// Nothing.
    const NONE: Self = Self {
        planes: [std::ptr::null(); 2],
        len: 0,
        stride: 0,
    };

    /// Asks for a share of the tile. The lines of all of it at once are more than a core can ask for, so that all else waits.
    #[inline(always)]
    pub fn ask(&self, part: std::ops::Range<usize>, of: usize) {
        const LINE: usize = 64;
        let lines = self.len / LINE;
        if lines == 0 {
            return;
        }
        let all = 2 * TILE_KEYS / BLOCK * lines;
        let (first, end) = (all * part.start / of, all * part.end / of);
        let (mut block, mut line) = (first / lines, first % lines);
        for _ in first..end {
            let at = self.planes[block % 2].wrapping_add(block / 2 * self.stride + line * LINE);
            // SAFETY: a prefetch may point anywhere.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T1>(at.cast());
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = at;
            line += 1;
            if line == lines {
                (block, line) = (block + 1, 0);
            }
        }
    }
}

/// What a [`Source`] gives for a tile.
type Tile<'a, N> = (Panels<'a, N>, Option<TileScales<'a>>, Ahead);

/// Gives tiles of keys and values as numbers of type `N`.
pub(super) trait Source<N> {
    /// Head `head` of the tile that begins at position `key`: panels that begin with its first column.
    fn tile(&mut self, head: usize, key: usize) -> Tile<'_, N>;
}

/// Panels as they are.
pub(super) struct Stored<'a, T> {
    pub panels: Panels<'a, T>,
    pub head_dim: usize,
}

impl<T: CacheNumber> Source<T> for Stored<'_, T> {
    #[inline(always)]
    fn tile(&mut self, head: usize, key: usize) -> Tile<'_, T> {
        let (panels, column) = self.panels.head(head, self.head_dim);
        let scales = TileScales::new(&panels, head, key);
        (panels.columns(column), scales, Ahead::NONE)
    }
}

/// The widest head whose tiles are copied.
#[cfg(target_arch = "x86_64")]
pub(super) const MAX_COPIED_HEAD_DIM: usize = 128;

/// Copies of the tiles of a cache, whatever it is made of, as pairs of bf16: neighbouring columns of a key, neighbouring positions of
/// a value. Both are neighbouring vectors of a cache. Scales stay apart, so that bytes are copied without rounding; keys of bytes
/// stay bytes, four neighbouring columns side by side, with 128 added.
#[cfg(target_arch = "x86_64")]
pub(super) mod pairs {
    use std::arch::x86_64::*;
    use std::mem::MaybeUninit;

    use half::bf16;

    use super::{Ahead, MAX_COPIED_HEAD_DIM, Source, Tile, TileScales};
    use crate::cpu::cache::{BLOCK, CacheNumber, Panels, TILE_KEYS};
    use crate::cpu::isa::{Avx512, Avx512Dot};
    use crate::cpu::kernels::linear::amx;

    /// Numbers of a tile of the widest head.
    const ROOM: usize = TILE_KEYS * MAX_COPIED_HEAD_DIM;

    /// Room for a tile, in whole cache lines.
    #[repr(align(64))]
    struct Room([MaybeUninit<bf16>; ROOM]);

    pub(in super::super) struct Copied<'a, T> {
        simd: Avx512,
        panels: Panels<'a, T>,
        head_dim: usize,
        /// Positions there are: what lies behind them must not be multiplied, even by zero.
        end: usize,
        keys: Room,
        values: Room,
    }

    impl<'a, T: CacheNumber> Copied<'a, T> {
        #[inline(always)]
        pub fn new(
            (_dot, simd): (Avx512Dot, Avx512),
            panels: Panels<'a, T>,
            head_dim: usize,
            end: usize,
        ) -> Self {
            assert!(head_dim.is_multiple_of(BLOCK) && head_dim <= MAX_COPIED_HEAD_DIM);
            Self {
                simd,
                panels,
                head_dim,
                end,
                keys: Room([MaybeUninit::uninit(); ROOM]),
                values: Room([MaybeUninit::uninit(); ROOM]),
            }
        }
    }

    /// Copies `pairs` pairs of vectors: the numbers of each lie side by side then.
    ///
    /// # Safety
    /// Needs AVX-512 with BF16; `from` must be readable and `to` writable for as many numbers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn copy<T: CacheNumber>(simd: Avx512, from: *const T, to: *mut bf16, pairs: usize) {
        let order = amx::interleaved();
        for pair in 0..pairs {
            // SAFETY: the caller's promise.
            unsafe {
                let first = T::load(simd, from.add(pair * 2 * BLOCK));
                let second = T::load(simd, from.add(pair * 2 * BLOCK + BLOCK));
                let both = amx::pairs(first, second, order);
                _mm512_storeu_si512(to.add(pair * 2 * BLOCK).cast(), both);
            }
        }
    }

    /// Copies `fours` times four vectors of keys: the numbers of each four lie side by side then.
    ///
    /// # Safety
    /// As [`copy`], for bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    unsafe fn copy_bytes(from: *const u8, to: *mut u8, fours: usize) {
        // Words of four positions of one column go where those positions are, then bytes change places within four words.
        let words = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let bytes = _mm512_broadcast_i32x4(_mm_setr_epi8(
            0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
        ));
        let more = _mm512_set1_epi8(-128);
        for at in (0..fours).map(|four| four * 4 * BLOCK) {
            // SAFETY: the caller's promise.
            unsafe {
                let columns = _mm512_loadu_si512(from.add(at).cast());
                let positions = _mm512_permutexvar_epi32(words, columns);
                let positions = _mm512_shuffle_epi8(positions, bytes);
                _mm512_storeu_si512(to.add(at).cast(), _mm512_xor_si512(positions, more));
            }
        }
    }

    impl<T: CacheNumber> Source<bf16> for Copied<'_, T> {
        #[inline(always)]
        fn tile(&mut self, head: usize, key: usize) -> Tile<'_, bf16> {
            let (panels, column) = self.panels.head(head, self.head_dim);
            let scales = TileScales::new(&panels, head, key);
            if T::SCALED {
                for block in 0..TILE_KEYS / BLOCK {
                    let (keys, values) = panels.scales(head, key + TILE_KEYS + block * BLOCK);
                    for next in [keys, values] {
                        // SAFETY: the tokens of `new` prove the instruction.
                        unsafe { _mm_prefetch::<_MM_HINT_T0>(next.as_ptr().cast()) };
                    }
                }
            }
            let panels = panels.columns(column);
            let len = self.head_dim * BLOCK;
            for block in 0..TILE_KEYS / BLOCK {
                let position = key + block * BLOCK;
                let to_keys = &mut self.keys.0[block * len..][..len];
                let to_values = &mut self.values.0[block * len..][..len];
                if position >= self.end {
                    to_keys.fill(MaybeUninit::new(bf16::ZERO));
                    to_values.fill(MaybeUninit::new(bf16::ZERO));
                    continue;
                }
                let place = panels.place(position);
                let keys = &panels.keys[place..][..len];
                let values = &panels.values[place..][..len];
                let to_keys: *mut bf16 = to_keys.as_mut_ptr().cast();
                let to_values: *mut bf16 = to_values.as_mut_ptr().cast();
                let pairs = len / (2 * BLOCK);
                // SAFETY: the tokens of `new` prove the instructions; both sides have `len` numbers.
                unsafe {
                    if T::SCALED {
                        copy_bytes(keys.as_ptr().cast(), to_keys.cast(), pairs / 2);
                    } else {
                        copy(self.simd, keys.as_ptr(), to_keys, pairs);
                    }
                    copy(self.simd, values.as_ptr(), to_values, pairs);
                }
                let left = self.end - position;
                if left < BLOCK && left % 2 == 1 {
                    // The last value has no neighbour.
                    for group in (0..len).step_by(BLOCK * BLOCK) {
                        for column in 0..BLOCK {
                            let at = group + left / 2 * 2 * BLOCK + 2 * column + 1;
                            // SAFETY: below `len`.
                            unsafe { to_values.add(at).write(bf16::ZERO) };
                        }
                    }
                }
            }
            let of = |room: &Room| -> *const bf16 { room.0.as_ptr().cast() };
            // SAFETY: all blocks were written just now.
            let (keys, values) = unsafe {
                (
                    std::slice::from_raw_parts(of(&self.keys), TILE_KEYS / BLOCK * len),
                    std::slice::from_raw_parts(of(&self.values), TILE_KEYS / BLOCK * len),
                )
            };
            let copied = Panels {
                keys,
                values,
                stride: len,
                head_stride: 0,
                period: TILE_KEYS,
                scales: Default::default(),
            };
            // The next tile lies elsewhere, behind all other layers of these positions.
            let ahead = if key + TILE_KEYS < self.end {
                let next = panels.place(key + TILE_KEYS);
                Ahead {
                    planes: [
                        panels.keys.as_ptr().wrapping_add(next).cast(),
                        panels.values.as_ptr().wrapping_add(next).cast(),
                    ],
                    len: len * size_of::<T>(),
                    stride: panels.stride * size_of::<T>(),
                }
            } else {
                Ahead::NONE
            };
            (copied, scales, ahead)
        }
    }
}
