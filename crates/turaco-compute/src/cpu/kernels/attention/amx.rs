//! Attention of many queries by the tiles of AMX: queries, keys, weights and values as bf16, sums as f32. Keys and values
//! come from rows that are packed into tiles once, or from a cache, of which each strip of queries packs what it sees.
//!
//! 32 rows of queries meet 256 keys at a time. Their scores lie in the first-level cache until they are weights, in the
//! order in which tiles take them, and the weighted values are rescaled only where a later block of keys raised a maximum.

#![allow(
    clippy::needless_range_loop,
    reason = "rows index several arrays side by side"
)]

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use super::{AttentionShape, Rows, Sequence};
use crate::cpu::cache::{BLOCK, CacheNumber, Panels};
use crate::cpu::executor::Engine;
use crate::cpu::isa::{Amx, Avx512};
use crate::cpu::kernels::linear::amx::{self, Operands};
use crate::cpu::kernels::linear::transpose_avx512;
use crate::cpu::packed::Shared;

/// Rows of queries that two tiles take.
const STRIP: usize = 32;

/// Keys whose scores are held at a time.
const CHUNK: usize = 256;

/// Values between rows of scores: a little more than a chunk, so that rows do not share the same few places of the cache.
const SCORES: usize = CHUNK + 16;

/// Numbers of a tile: 16 rows of 32 bf16.
const TILE: usize = 16 * 32;

/// Bytes of such a row, and of a tile.
const TILE_ROW: usize = 64;
const TILE_BYTES: usize = 16 * TILE_ROW;

/// Rows that a task takes.
const TASK_ROWS: usize = 4 * STRIP;

/// The widest head.
const MAX_HEAD_DIM: usize = 256;

/// The widest head whose keys and values are packed strip by strip.
const MAX_CACHED_HEAD_DIM: usize = 128;

/// Below every score that matters.
const LOWEST: f32 = -1e30;

/// Fewest queries that are worth the packing.
const FROM: usize = 16;

/// Whether this kernel takes such an attention.
pub(super) fn takes(engine: &Engine, shape: &AttentionShape, queries: usize) -> Option<Amx> {
    let fits = shape.head_dim.is_multiple_of(32) && shape.head_dim <= MAX_HEAD_DIM;
    if engine.isa >= crate::cpu::isa::Isa::Amx && fits && queries >= FROM {
        Amx::new()
    } else {
        None
    }
}

/// Attention inside one sequence. `memory` takes keys and values, `head_dim` numbers for each head and position, rounded
/// up to whole chunks of 32 positions.
pub(super) fn attention(
    _proof: Amx,
    engine: &Engine,
    (q, k, v): (Rows<'_>, Rows<'_>, Rows<'_>),
    shape: &AttentionShape,
    memory: &mut [bf16],
    out: &mut [f32],
) {
    let n_keys = k.len();
    let head_len = shape.head_dim * n_keys.next_multiple_of(32);
    let heads = shape.n_kv_heads;
    assert!(memory.len() >= 2 * heads * head_len && v.len() == n_keys);
    assert_eq!(out.len(), q.len() * shape.n_heads * shape.head_dim);
    let (keys, values) = memory.split_at_mut(heads * head_len);
    let (to_keys, to_values) = (Shared::new(keys), Shared::new(values));
    let parts = n_keys.div_ceil(CHUNK);
    engine.pool.run(heads * parts, &|task| {
        let (head, part) = (task / parts, task % parts);
        let positions = part * CHUNK..n_keys.min((part + 1) * CHUNK);
        let place = head * head_len + positions.start * shape.head_dim;
        let len = positions.len().next_multiple_of(32) * shape.head_dim;
        // SAFETY: each task has positions of its own, within the memory of its head.
        let (keys, values) = unsafe {
            (
                std::slice::from_raw_parts_mut(to_keys.get().add(place), len),
                std::slice::from_raw_parts_mut(to_values.get().add(place), len),
            )
        };
        let columns = head * shape.head_dim..(head + 1) * shape.head_dim;
        // SAFETY: the token proves the instructions.
        unsafe {
            pack_keys(k, columns.clone(), positions.clone(), keys);
            pack_values(v, columns, positions, values);
        }
    });
    let (keys, values) = (&*keys, &*values);
    let sequence = Sequence {
        q,
        panels: (),
        keys: (0, n_keys),
        first_position: 0,
    };
    over_strips(engine, sequence, shape, out, |head| Packed {
        keys: &keys[head * head_len..(head + 1) * head_len],
        values: &values[head * head_len..(head + 1) * head_len],
        head_dim: shape.head_dim,
    });
}

/// Whether this kernel takes such an attention to a cache.
pub(super) fn takes_cached(engine: &Engine, shape: &AttentionShape, each: usize) -> Option<Amx> {
    if shape.head_dim > MAX_CACHED_HEAD_DIM {
        return None;
    }
    takes(engine, shape, each)
}

/// Attention of one sequence to the keys and values of a cache.
pub(super) fn attention_to_cache<T: CacheNumber>(
    _proof: Amx,
    engine: &Engine,
    sequence: Sequence<'_, Panels<'_, T>>,
    shape: &AttentionShape,
    out: &mut [f32],
) {
    assert_eq!(out.len(), sequence.q.len() * shape.n_heads * shape.head_dim);
    let Some(simd) = Avx512::new() else {
        unreachable!("part of the proof");
    };
    let panels = sequence.panels;
    let sequence = sequence.without_panels();
    over_strips(engine, sequence, shape, out, |head| {
        let (panels, column) = panels.head(head, shape.head_dim);
        Cached {
            simd,
            head,
            panels: panels.columns(column),
            head_dim: shape.head_dim,
        }
    });
}

/// Shares out heads and rows of queries; `tiles` gives the keys and values of a head.
fn over_strips<T: Tiles>(
    engine: &Engine,
    sequence: Sequence<'_, ()>,
    shape: &AttentionShape,
    out: &mut [f32],
    tiles: impl Fn(usize) -> T + Sync,
) {
    thread_local! {
        static MEMORY: RefCell<Box<Memory>> = RefCell::new(Memory::new());
    }
    let heads = shape.n_kv_heads;
    let rows = sequence.q.len() * (shape.n_heads / heads);
    let out = Shared::new(out);
    let tasks = rows.div_ceil(TASK_ROWS);
    engine.pool.run(heads * tasks, &|task| {
        let (head, part) = (task / tasks, task % tasks);
        let piece = Piece {
            sequence,
            shape,
            head,
            tiles: tiles(head),
            out,
        };
        let rows = part * TASK_ROWS..rows.min((part + 1) * TASK_ROWS);
        MEMORY.with_borrow_mut(|memory| {
            // SAFETY: the callers have the proof of the instructions; every task has rows of its own.
            unsafe {
                amx::begin();
                piece.run(memory, rows);
                amx::end();
            }
        });
    });
}

/// Where the tiles of one head's keys and values are.
trait Tiles {
    /// The tiles of the positions of a chunk that begins at `chunk`: those of keys `[block of 16 keys][32 columns]`, those
    /// of values `[block of 32 positions][16 columns]`; only positions in `seen` count. `room` has as many numbers as
    /// keys and values of a chunk.
    ///
    /// # Safety
    /// Needs AVX-512 with BF16.
    unsafe fn chunk<'a>(
        &'a self,
        room: &'a mut Room,
        chunk: Range<usize>,
        seen: Range<usize>,
    ) -> (&'a [bf16], &'a [bf16]);
}

/// All of them, packed before.
struct Packed<'a> {
    keys: &'a [bf16],
    values: &'a [bf16],
    head_dim: usize,
}

impl Tiles for Packed<'_> {
    #[inline(always)]
    unsafe fn chunk<'a>(
        &'a self,
        _: &'a mut Room,
        chunk: Range<usize>,
        _: Range<usize>,
    ) -> (&'a [bf16], &'a [bf16]) {
        let place = chunk.start * self.head_dim..chunk.end * self.head_dim;
        (&self.keys[place.clone()], &self.values[place])
    }
}

/// In a cache, in another order and perhaps another format.
struct Cached<'a, T> {
    simd: Avx512,
    head: usize,
    panels: Panels<'a, T>,
    head_dim: usize,
}

impl<T: CacheNumber> Cached<'_, T> {
    /// Sixteen numbers.
    ///
    /// # Safety
    /// As many must be readable.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    unsafe fn load(&self, from: *const T) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { T::load(self.simd, from) }
    }

    /// # Safety
    /// Needs AVX-512 with BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn pack(&self, room: &mut Room, chunk: Range<usize>, seen: Range<usize>) {
        let (head_dim, order) = (self.head_dim, amx::interleaved());
        let groups = head_dim / BLOCK;
        assert!(chunk.len() <= CHUNK && head_dim <= MAX_CACHED_HEAD_DIM);
        let zeros = _mm512_setzero_si512();
        for position in chunk.clone().step_by(BLOCK) {
            let place = self.panels.place(position);
            let keys = &self.panels.keys[place..][..head_dim * BLOCK];
            let values = &self.panels.values[place..][..head_dim * BLOCK];
            let first = position - chunk.start;
            let tiles = &mut room.keys[first * head_dim..][..head_dim * BLOCK];
            let is_seen = position < seen.end && position + BLOCK > seen.start;
            let (key_scales, value_scales) = match T::SCALED {
                true => self.panels.scales(self.head, position),
                false => (&[1.0; BLOCK], &[1.0; BLOCK]),
            };
            // SAFETY: sixteen scales.
            let key_scales = unsafe { _mm512_loadu_ps(key_scales.as_ptr()) };
            // A pair of columns of sixteen keys is a row of a tile, and tiles of a block follow each other.
            for (keys, row) in keys.chunks_exact(2 * BLOCK).zip(tiles.chunks_exact_mut(32)) {
                // SAFETY: pairs of sixteen numbers; a row is a vector.
                unsafe {
                    let pair = if is_seen {
                        let (even, odd) = (keys.as_ptr(), keys[BLOCK..].as_ptr());
                        let (mut even, mut odd) = (self.load(even), self.load(odd));
                        if T::SCALED {
                            even = _mm512_mul_ps(even, key_scales);
                            odd = _mm512_mul_ps(odd, key_scales);
                        }
                        amx::pairs(even, odd, order)
                    } else {
                        zeros
                    };
                    _mm512_storeu_si512(row.as_mut_ptr().cast(), pair);
                }
            }
            // Eight pairs of positions are half of a tile of each group of columns.
            for group in 0..groups {
                let tile = (first / 32 * groups + group) * TILE + first % 32 / BLOCK * (TILE / 2);
                let half = &mut room.values[tile..][..TILE / 2];
                let values = &values[group * BLOCK * BLOCK..][..BLOCK * BLOCK];
                let pairs = values
                    .chunks_exact(2 * BLOCK)
                    .zip(half.chunks_exact_mut(32));
                for (index, (values, row)) in pairs.enumerate() {
                    let number = |lane: usize| {
                        // What was never written, or is long forgotten, must not be multiplied, even by zero.
                        if seen.contains(&(position + 2 * index + lane)) {
                            // SAFETY: sixteen numbers.
                            let number = unsafe { self.load(values[lane * BLOCK..].as_ptr()) };
                            let scale = value_scales[(2 * index + lane) % BLOCK];
                            match T::SCALED {
                                true => _mm512_mul_ps(number, _mm512_set1_ps(scale)),
                                false => number,
                            }
                        } else {
                            _mm512_setzero_ps()
                        }
                    };
                    let pair = amx::pairs(number(0), number(1), order);
                    // SAFETY: a row is a vector.
                    unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), pair) };
                }
            }
        }
    }
}

impl<T: CacheNumber> Tiles for Cached<'_, T> {
    #[inline(always)]
    unsafe fn chunk<'a>(
        &'a self,
        room: &'a mut Room,
        chunk: Range<usize>,
        seen: Range<usize>,
    ) -> (&'a [bf16], &'a [bf16]) {
        let len = chunk.len() * self.head_dim;
        // SAFETY: the caller's promise.
        unsafe { self.pack(room, chunk, seen) };
        (&room.keys[..len], &room.values[..len])
    }
}

/// Sixteen columns of a row.
///
/// # Safety
/// Needs AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(row: &[f32]) -> __m512 {
    assert!(row.len() >= 16);
    // SAFETY: just checked.
    unsafe { _mm512_loadu_ps(row.as_ptr()) }
}

/// 32 columns of a row as bf16.
///
/// # Safety
/// Needs AVX-512 with BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn narrow(low: __m512, high: __m512) -> __m512i {
    let narrow = _mm512_cvtne2ps_pbh(high, low);
    // SAFETY: vectors of 64 bytes.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(narrow) }
}

/// Brings keys into tiles `[block of 16 keys][32 columns]`, a tile being `[pair of columns][key][2]`; zeros beyond the
/// last key.
///
/// # Safety
/// Needs AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_keys(k: Rows<'_>, columns: Range<usize>, positions: Range<usize>, out: &mut [bf16]) {
    let steps = columns.len() / 32;
    for (index, tile) in out.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
        let first = positions.start + index / steps * 16;
        let column = columns.start + index % steps * 32;
        let mut rows = [_mm512_setzero_si512(); 16];
        for (lane, row) in rows.iter_mut().enumerate() {
            if first + lane < positions.end {
                let key = &k.row(first + lane)[column..column + 32];
                // SAFETY: the caller's promise.
                *row = unsafe { narrow(load(key), load(&key[16..])) };
            }
        }
        // SAFETY: the caller's promise; a tile is sixteen vectors.
        unsafe {
            for (pair, lanes) in transpose_avx512(rows).into_iter().enumerate() {
                _mm512_storeu_si512(tile.as_mut_ptr().add(pair * 32).cast(), lanes);
            }
        }
    }
}

/// Brings values into tiles `[block of 32 positions][16 columns]`, a tile being `[pair of positions][column][2]`; zeros
/// beyond the last position.
///
/// # Safety
/// Needs AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_values(
    v: Rows<'_>,
    columns: Range<usize>,
    positions: Range<usize>,
    out: &mut [bf16],
) {
    let groups = columns.len() / 16;
    let order = amx::interleaved();
    for (index, tile) in out.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
        let first = positions.start + index / groups * 32;
        let column = columns.start + index % groups * 16;
        let row = |position: usize| {
            if position < positions.end {
                // SAFETY: the caller's promise.
                unsafe { load(&v.row(position)[column..]) }
            } else {
                _mm512_setzero_ps()
            }
        };
        for pair in 0..16 {
            let position = first + 2 * pair;
            let numbers = amx::pairs(row(position), row(position + 1), order);
            // SAFETY: a tile is sixteen vectors.
            unsafe { _mm512_storeu_si512(tile.as_mut_ptr().add(pair * 32).cast(), numbers) };
        }
    }
}

/// What a task works on: one head of keys and values, and the rows of queries that share it.
struct Piece<'a, T> {
    sequence: Sequence<'a, ()>,
    shape: &'a AttentionShape,
    head: usize,
    tiles: T,
    out: Shared<f32>,
}

/// The keys and values of a chunk, where they are packed by the strip.
#[repr(C, align(64))]
struct Room {
    keys: [bf16; CHUNK * MAX_CACHED_HEAD_DIM],
    values: [bf16; CHUNK * MAX_CACHED_HEAD_DIM],
}

/// Working memory of a strip.
#[repr(C, align(64))]
struct Strip {
    /// `[32 columns][row][32]`.
    queries: [bf16; STRIP * MAX_HEAD_DIM],
    scores: [f32; STRIP * SCORES],
    /// `[32 keys][row][32]`.
    weights: [bf16; STRIP * CHUNK],
    /// `[row][head_dim]`.
    sums: [f32; STRIP * MAX_HEAD_DIM],
    max: [f32; STRIP],
    corrections: [f32; STRIP],
}

/// What a thread keeps from one piece to the next.
struct Memory {
    strip: Strip,
    room: Room,
}

impl Memory {
    fn new() -> Box<Self> {
        Box::new(Self {
            strip: Strip {
                queries: [bf16::ZERO; STRIP * MAX_HEAD_DIM],
                scores: [0.0; STRIP * SCORES],
                weights: [bf16::ZERO; STRIP * CHUNK],
                sums: [0.0; STRIP * MAX_HEAD_DIM],
                max: [0.0; STRIP],
                corrections: [0.0; STRIP],
            },
            room: Room {
                keys: [bf16::ZERO; CHUNK * MAX_CACHED_HEAD_DIM],
                values: [bf16::ZERO; CHUNK * MAX_CACHED_HEAD_DIM],
            },
        })
    }
}

/// 2 to the power of `x` for `x` up to 0, relative error about 1e-4, a fortieth of what rounding to bf16 costs; next to
/// nothing below -125, NaN for NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp2(x: __m512) -> __m512 {
    // Adding this leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // Of a NaN and a number this gives the second operand.
    let x = _mm512_max_ps(_mm512_set1_ps(-125.0), x);
    let shifted = _mm512_add_ps(x, _mm512_set1_ps(ROUND));
    let rest = _mm512_sub_ps(x, _mm512_sub_ps(shifted, _mm512_set1_ps(ROUND)));
    // A minimax fit within ±1/2.
    let mut power = _mm512_set1_ps(0.051_711_54);
    for factor in [0.242_611_12, 0.693_261, 0.999_928] {
        power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(factor));
    }
    let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
    _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(power), exponent))
}

impl<T: Tiles> Piece<'_, T> {
    /// # Safety
    /// Needs AMX with tiles that are ready; nobody else writes these rows of the output.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn run(&self, memory: &mut Memory, rows: Range<usize>) {
        for first in rows.clone().step_by(STRIP) {
            // SAFETY: the caller's promise.
            unsafe { self.strip(memory, first..rows.end.min(first + STRIP)) };
        }
    }

    /// # Safety
    /// As [`Self::run`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn strip(&self, memory: &mut Memory, rows: Range<usize>) {
        let Memory { strip, room } = memory;
        let head_dim = self.shape.head_dim;
        let group = self.shape.n_heads / self.shape.n_kv_heads;
        let head_of = |row: usize| self.head * group + row % group;
        let factor = _mm512_set1_ps(self.shape.scale * std::f32::consts::LOG2_E);
        let mut seen = [(0, 0); STRIP];
        let (mut start, mut end) = (usize::MAX, 0);
        for (index, row) in rows.clone().enumerate() {
            let position = self.sequence.first_position + row / group;
            let range = self.sequence.visible(self.shape.mask, position);
            seen[index] = (range.start, range.end);
            (start, end) = (start.min(range.start), end.max(range.end));
            let query = &self.sequence.q.row(row / group)[head_of(row) * head_dim..][..head_dim];
            for (step, columns) in query.as_chunks::<32>().0.iter().enumerate() {
                // SAFETY: the caller's promise; the place has a vector for each row and step.
                unsafe {
                    let low = _mm512_mul_ps(load(columns), factor);
                    let high = _mm512_mul_ps(load(&columns[16..]), factor);
                    let place = &mut strip.queries[(step * STRIP + index) * 32..][..32];
                    _mm512_storeu_si512(place.as_mut_ptr().cast(), narrow(low, high));
                }
            }
        }
        let n_rows = rows.len();
        strip.max = [f32::NEG_INFINITY; STRIP];
        let mut totals = [_mm512_setzero_ps(); STRIP];
        let steps = head_dim / 32;
        let all_seen = start.min(end)..end;
        let start = all_seen.start / CHUNK * CHUNK;
        for chunk in (start..end).step_by(CHUNK) {
            let width = (end - chunk).min(CHUNK).next_multiple_of(32);
            let positions = chunk..chunk + width;
            // SAFETY: the caller's promise.
            let (keys, values) = unsafe { self.tiles.chunk(room, positions, all_seen.clone()) };
            for key in (0..width).step_by(32) {
                let tiles = key / 16 * steps * TILE;
                assert!(keys.len() >= tiles + 2 * steps * TILE);
                // SAFETY: two blocks of keys as just checked, 32 columns of the scores; the rest is the caller's promise.
                unsafe {
                    amx::first_bf16_two(Operands {
                        steps,
                        a: strip.queries.as_ptr().cast(),
                        b: keys.as_ptr().add(tiles).cast(),
                        b_gap: steps * TILE_BYTES,
                        b_row: TILE_ROW,
                        b_step: TILE_BYTES,
                        c: strip.scores.as_mut_ptr().add(key).cast(),
                        c_row: SCORES * 4,
                    });
                }
            }
            // SAFETY: the caller's promise.
            let raised =
                unsafe { weigh(strip, &mut totals[..n_rows], &seen, chunk..chunk + width) };
            let first = chunk == start;
            if raised && !first {
                for (row, sums) in strip
                    .sums
                    .chunks_exact_mut(head_dim)
                    .take(n_rows)
                    .enumerate()
                {
                    for sum in sums {
                        *sum *= strip.corrections[row];
                    }
                }
            }
            let groups = head_dim / 16;
            for group in (0..groups).step_by(2) {
                let tiles = group * TILE;
                assert!(values.len() >= tiles + ((width / 32 - 1) * groups + 2) * TILE);
                // SAFETY: two groups of columns of so many blocks of positions as just checked; the rest is the caller's
                // promise.
                unsafe {
                    let operands = Operands {
                        steps: width / 32,
                        a: strip.weights.as_ptr().cast(),
                        b: values.as_ptr().add(tiles).cast(),
                        b_gap: TILE_BYTES,
                        b_row: TILE_ROW,
                        b_step: groups * TILE_BYTES,
                        c: strip.sums.as_mut_ptr().add(group * 16).cast(),
                        c_row: head_dim * 4,
                    };
                    if first {
                        amx::first_bf16_two(operands);
                    } else {
                        amx::next_bf16_two(operands);
                    }
                }
            }
        }
        for (index, row) in rows.enumerate() {
            let total = _mm512_reduce_add_ps(totals[index]);
            let place = (row / group * self.shape.n_heads + head_of(row)) * head_dim;
            // SAFETY: the output was checked to have all rows and heads; this one is ours.
            let out =
                unsafe { std::slice::from_raw_parts_mut(self.out.get().add(place), head_dim) };
            // A row that sees no keys is zeros.
            let inverse = if seen[index].0 < seen[index].1 {
                1.0 / total
            } else {
                0.0
            };
            for (out, sum) in out.iter_mut().zip(&strip.sums[index * head_dim..]) {
                *out = sum * inverse;
            }
        }
    }
}

/// Turns the scores of `keys` into weights, and sets the factors for what was summed before; gives whether any of those
/// is not 1.
///
/// # Safety
/// Needs AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn weigh(
    strip: &mut Strip,
    totals: &mut [__m512],
    seen: &[(usize, usize); STRIP],
    keys: Range<usize>,
) -> bool {
    let mut before = strip.max;
    for row in 0..totals.len() {
        let scores = &mut strip.scores[row * SCORES..][..keys.len()];
        let (start, end) = seen[row];
        if start > keys.start {
            let hidden = (start - keys.start).min(scores.len());
            scores[..hidden].fill(f32::NEG_INFINITY);
        }
        if end < keys.end {
            scores[end.saturating_sub(keys.start)..].fill(f32::NEG_INFINITY);
        }
        let mut highest = [_mm512_set1_ps(f32::NEG_INFINITY); 2];
        for scores in scores.as_chunks::<32>().0 {
            // SAFETY: the caller's promise.
            unsafe {
                highest[0] = _mm512_max_ps(highest[0], load(scores));
                highest[1] = _mm512_max_ps(highest[1], load(&scores[16..]));
            }
        }
        let highest = _mm512_reduce_max_ps(_mm512_max_ps(highest[0], highest[1]));
        // A row without keys so far stays relative to a number, so that its weights are nothing rather than NaN.
        strip.max[row] = strip.max[row].max(highest).max(LOWEST);
        before[row] = before[row].max(LOWEST);
    }
    let mut raised = false;
    for start in [0, 16] {
        // SAFETY: the caller's promise.
        unsafe {
            let difference = _mm512_sub_ps(load(&before[start..]), load(&strip.max[start..]));
            let same = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(difference, _mm512_setzero_ps());
            let factors = _mm512_mask_mov_ps(exp2(difference), same, _mm512_set1_ps(1.0));
            _mm512_storeu_ps(strip.corrections[start..].as_mut_ptr(), factors);
            raised |= same != u16::MAX;
        }
    }
    for (row, total) in totals.iter_mut().enumerate() {
        let subtract = _mm512_set1_ps(strip.max[row]);
        let correction = _mm512_set1_ps(strip.corrections[row]);
        let mut sums = [_mm512_mul_ps(*total, correction), _mm512_setzero_ps()];
        let scores = &strip.scores[row * SCORES..][..keys.len()];
        for (step, scores) in scores.as_chunks::<32>().0.iter().enumerate() {
            let place = &mut strip.weights[(step * STRIP + row) * 32..][..32];
            // SAFETY: the caller's promise; the place is a vector.
            unsafe {
                let low = exp2(_mm512_sub_ps(load(scores), subtract));
                let high = exp2(_mm512_sub_ps(load(&scores[16..]), subtract));
                sums = [_mm512_add_ps(sums[0], low), _mm512_add_ps(sums[1], high)];
                _mm512_storeu_si512(place.as_mut_ptr().cast(), narrow(low, high));
            }
        }
        *total = _mm512_add_ps(sums[0], sums[1]);
    }
    raised
}
