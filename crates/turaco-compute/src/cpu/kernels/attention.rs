//! Attention with online softmax (Milakov and Gimelshein 2018; Dao et al. 2022): keys are visited in tiles, and the
//! sum so far is rescaled when a tile raises the maximum, so that no matrix of all scores exists.
//!
//! The vector kernel takes up to six rows of queries at a time over tiles of 64 keys. A row is one query head; heads
//! that share keys are rows of the same tile, so that every key is loaded once for all of them.

#![allow(
    clippy::needless_range_loop,
    reason = "register tiles are indexed by row and vector throughout"
)]

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::cpu::cache::{BLOCK, CacheNumber, Panels, TILE_KEYS};
use crate::cpu::executor::Engine;
use crate::cpu::isa::Isa;
use crate::cpu::packed::Shared;
use crate::cpu::simd::{Kernel, Simd, dispatch, math};
use crate::graph::{AttentionShape, Mask};

use super::Rows;

/// Rows of one register tile.
const TILE_ROWS: usize = 6;

/// Most rows of one task.
const TASK_ROWS: usize = 48;

/// Sums that a task holds.
const TASK_SUMS: usize = 48 * 128;

/// Multiply-adds worth waking another thread.
const WORTH_A_TASK: usize = 40_000;

/// Keys that a query at `position` sees, of `n_keys`.
fn visible(mask: Mask, position: usize, n_keys: usize) -> Range<usize> {
    match mask {
        Mask::Full => 0..n_keys,
        Mask::Causal => 0..(position + 1).min(n_keys),
        Mask::Window(width) => {
            let end = (position + 1).min(n_keys);
            (position + 1).saturating_sub(width).min(end)..end
        }
    }
}

/// The queries of one sequence and the keys they meet.
#[derive(Clone, Copy)]
pub(crate) struct Sequence<'a, T> {
    pub q: Rows<'a>,
    pub panels: Panels<'a, T>,
    pub n_keys: usize,
    /// Position of the first query among the keys.
    pub first_position: usize,
}

/// Attention of one sequence. `out` is `[q rows, n_heads * head_dim]`.
pub(crate) fn attention<T: CacheNumber>(
    engine: &Engine,
    sequence: Sequence<'_, T>,
    shape: &AttentionShape,
    out: &mut [f32],
) {
    let group = shape.n_heads / shape.n_kv_heads;
    let rows = sequence.q.len() * group;
    // Equal tasks of whole tiles, as large as their sums allow.
    let fitting = (TASK_SUMS / shape.head_dim / TILE_ROWS * TILE_ROWS).clamp(TILE_ROWS, TASK_ROWS);
    let per_task = rows
        .div_ceil(rows.div_ceil(fitting).max(1))
        .next_multiple_of(TILE_ROWS);
    let per_head = rows.div_ceil(per_task.max(1));
    assert_eq!(out.len(), sequence.q.len() * shape.n_heads * shape.head_dim);
    if sequence.n_keys == 0 {
        out.fill(0.0);
        return;
    }
    let out = Shared::new(out);
    let isa = if vectorised(shape) {
        engine.isa
    } else {
        Isa::Scalar
    };
    let task = |index: usize| {
        let (kv_head, part) = (index / per_head, index % per_head);
        let piece = Piece {
            sequence,
            shape: *shape,
            kv_head,
            rows: part * per_task..rows.min((part + 1) * per_task),
            out,
        };
        dispatch(isa, piece);
    };
    let tasks = shape.n_kv_heads * per_head;
    let work = rows * shape.n_kv_heads * shape.head_dim * sequence.n_keys;
    if work < WORTH_A_TASK {
        (0..tasks).for_each(task);
    } else {
        engine.pool.run(tasks, &task);
    }
}

/// Whether vector kernels take heads of this width.
fn vectorised(shape: &AttentionShape) -> bool {
    shape.head_dim.is_multiple_of(BLOCK) && shape.head_dim * TILE_ROWS <= TASK_SUMS
}

/// The scaled scores of one head of every query against all keys: `out[i][key]`, rows of `capacity` values.
pub(crate) fn capture_scores<T: CacheNumber>(
    sequence: Sequence<'_, T>,
    shape: &AttentionShape,
    head: usize,
    capacity: usize,
    out: &mut [f32],
) {
    let head_dim = shape.head_dim;
    let (panels, column) = sequence
        .panels
        .head(head / (shape.n_heads / shape.n_kv_heads), head_dim);
    for (q, out) in sequence.q.iter().zip(out.chunks_exact_mut(capacity.max(1))) {
        let q = &q[head * head_dim..][..head_dim];
        for (block, out) in out[..sequence.n_keys].chunks_mut(BLOCK).enumerate() {
            let scores = block_scores(q, &panels, column, block);
            for (out, score) in out.iter_mut().zip(scores) {
                *out = score * shape.scale;
            }
        }
    }
}

/// Products of a query with the 16 keys of a block.
#[inline(always)]
fn block_scores<T: CacheNumber>(
    q: &[f32],
    panels: &Panels<'_, T>,
    column: usize,
    block: usize,
) -> [f32; BLOCK] {
    let keys = &panels.keys[block * panels.stride + column * BLOCK..][..q.len() * BLOCK];
    let mut sums = [0.0_f32; BLOCK];
    for (&q, keys) in q.iter().zip(keys.as_chunks::<BLOCK>().0) {
        for (sum, key) in sums.iter_mut().zip(keys) {
            *sum += q * key.widen();
        }
    }
    sums
}

/// Some rows of the query heads that share one head of keys. Row `r` is head `r % group` of query `r / group`.
struct Piece<'a, T> {
    sequence: Sequence<'a, T>,
    shape: AttentionShape,
    kv_head: usize,
    rows: Range<usize>,
    /// All of the sequence's output; pieces write different parts.
    out: Shared<f32>,
}

impl<T: CacheNumber> Piece<'_, T> {
    fn group(&self) -> usize {
        self.shape.n_heads / self.shape.n_kv_heads
    }

    /// Query row `row`.
    #[inline(always)]
    fn query(&self, row: usize) -> &[f32] {
        let (query, head) = (row / self.group(), row % self.group());
        let column = (self.kv_head * self.group() + head) * self.shape.head_dim;
        &self.sequence.q.row(query)[column..][..self.shape.head_dim]
    }

    /// Keys that query row `row` sees.
    #[inline(always)]
    fn visible(&self, row: usize) -> Range<usize> {
        let position = self.sequence.first_position + row / self.group();
        visible(self.shape.mask, position, self.sequence.n_keys)
    }

    /// Where the result of query row `row` goes.
    #[inline(always)]
    fn target(&self, row: usize) -> *mut f32 {
        let (query, head) = (row / self.group(), row % self.group());
        let AttentionShape {
            n_heads, head_dim, ..
        } = self.shape;
        let head = self.kv_head * self.group() + head;
        // SAFETY: `attention` checked the length of the output.
        unsafe { self.out.get().add((query * n_heads + head) * head_dim) }
    }
}

impl<T: CacheNumber> Kernel for Piece<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut tiles = Tiles::new(&self);
        tiles.run(s);
    }

    fn run_scalar(self) {
        let AttentionShape {
            head_dim, scale, ..
        } = self.shape;
        let (panels, column) = self.sequence.panels.head(self.kv_head, head_dim);
        let panels = &panels;
        for row in self.rows.clone() {
            let q = self.query(row);
            // SAFETY: this row of the output belongs to this piece.
            let out = unsafe { std::slice::from_raw_parts_mut(self.target(row), head_dim) };
            let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0_f32);
            out.fill(0.0);
            let seen = self.visible(row);
            for block in seen.start / BLOCK..seen.end.div_ceil(BLOCK) {
                let first = seen.start.saturating_sub(block * BLOCK);
                let last = BLOCK.min(seen.end - block * BLOCK);
                let scores = block_scores(q, panels, column, block).map(|score| score * scale);
                let highest = scores[first..last]
                    .iter()
                    .fold(max, |max, &score| max.max(score));
                if highest > max && max > f32::NEG_INFINITY {
                    let correction = (max - highest).exp();
                    sum *= correction;
                    out.iter_mut().for_each(|out| *out *= correction);
                }
                max = highest;
                for (lane, score) in scores.iter().enumerate().take(last).skip(first) {
                    let weight = (score - max).exp();
                    sum += weight;
                    for (index, out) in out.iter_mut().enumerate() {
                        let column = column + index;
                        let group = column / BLOCK * BLOCK * BLOCK;
                        let value = panels.values
                            [block * panels.stride + group + lane * BLOCK + column % BLOCK];
                        *out += weight * value.widen();
                    }
                }
            }
            if sum > 0.0 {
                out.iter_mut().for_each(|out| *out /= sum);
            }
        }
    }
}

/// The running state of a piece under the vector kernel.
struct Tiles<'a, T> {
    piece: &'a Piece<'a, T>,
    panels: Panels<'a, T>,
    head_dim: usize,
    queries: [*const f32; TASK_ROWS],
    /// Keys that each row sees.
    seen: [(usize, usize); TASK_ROWS],
    max: [f32; TASK_ROWS],
    sum: [f32; TASK_ROWS],
    /// Weighted sums of values, `[row][head_dim]`; initialised for the rows of the piece.
    sums: [MaybeUninit<f32>; TASK_SUMS],
}

impl<'a, T: CacheNumber> Tiles<'a, T> {
    #[inline(always)]
    fn new(piece: &'a Piece<'a, T>) -> Self {
        let head_dim = piece.shape.head_dim;
        let (panels, column) = piece.sequence.panels.head(piece.kv_head, head_dim);
        let mut sums = [const { MaybeUninit::uninit() }; TASK_SUMS];
        for sum in &mut sums[..piece.rows.len() * head_dim] {
            sum.write(0.0);
        }
        let mut queries = [std::ptr::null(); TASK_ROWS];
        let mut seen = [(0, 0); TASK_ROWS];
        for (index, row) in piece.rows.clone().enumerate() {
            queries[index] = piece.query(row).as_ptr();
            let range = piece.visible(row);
            seen[index] = (range.start, range.end);
        }
        Self {
            piece,
            panels: panels.columns(column),
            head_dim,
            queries,
            seen,
            max: [f32::NEG_INFINITY; TASK_ROWS],
            sum: [0.0; TASK_ROWS],
            sums,
        }
    }

    #[inline(always)]
    fn run<S: Simd>(&mut self, s: S) {
        let rows = self.piece.rows.clone();
        let (mut first, mut last) = (usize::MAX, 0);
        for &(start, end) in &self.seen[..rows.len()] {
            (first, last) = (first.min(start), last.max(end));
        }
        let mut key = first.min(last) / TILE_KEYS * TILE_KEYS;
        while key < last {
            let mut row = 0;
            while row < rows.len() {
                match rows.len() - row {
                    1 => self.tile::<S, 1>(s, row, key),
                    2 => self.tile::<S, 2>(s, row, key),
                    3 => self.tile::<S, 3>(s, row, key),
                    4 => self.tile::<S, 4>(s, row, key),
                    5 => self.tile::<S, 5>(s, row, key),
                    _ => self.tile::<S, TILE_ROWS>(s, row, key),
                }
                row += TILE_ROWS;
            }
            key += TILE_KEYS;
        }
        for row in 0..rows.len() {
            let factor = if self.sum[row] > 0.0 {
                1.0 / self.sum[row]
            } else {
                0.0
            };
            let target = self.piece.target(rows.start + row);
            let factor = s.splat(factor);
            for column in (0..self.head_dim).step_by(S::LANES) {
                // SAFETY: the head width is a multiple of the lanes; sums of this row are initialised, and its output
                // belongs to this piece.
                unsafe {
                    let from = self.sums.as_ptr().add(row * self.head_dim + column).cast();
                    s.store_ptr(target.add(column), s.mul(s.load_ptr(from), factor));
                }
            }
        }
    }

    /// `R` rows from `row` on against the 64 keys from `key` on.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(&mut self, s: S, row: usize, key: usize) {
        let mut seen = [(0, 0); R];
        let mut last = 0;
        for (index, seen) in seen.iter_mut().enumerate() {
            let (start, end) = self.seen[row + index];
            let end = end.saturating_sub(key).min(TILE_KEYS);
            *seen = (start.saturating_sub(key).min(end), end);
            last = last.max(if seen.0 < seen.1 { end } else { 0 });
        }
        if last == 0 {
            return;
        }
        let mut scores = [[0.0_f32; TILE_KEYS]; R];
        if S::MANY_REGISTERS {
            self.scores::<S, R, 4>(s, row, key, last, &mut scores);
        } else {
            self.scores::<S, R, 2>(s, row, key, last, &mut scores);
        }
        let mut corrections = [1.0_f32; R];
        for index in 0..R {
            corrections[index] = self.weigh(s, row + index, seen[index], &mut scores[index]);
        }
        let wide = if S::MANY_REGISTERS { 4 } else { 2 } * S::LANES;
        let mut column = 0;
        while column + wide <= self.head_dim {
            if S::MANY_REGISTERS {
                self.values::<S, R, 4>(s, row, (key, last), column, &scores, &corrections);
            } else {
                self.values::<S, R, 2>(s, row, (key, last), column, &scores, &corrections);
            }
            column += wide;
        }
        while column < self.head_dim {
            self.values::<S, R, 1>(s, row, (key, last), column, &scores, &corrections);
            column += S::LANES;
        }
    }

    /// Scaled products of the queries with the first `last` keys of the tile (and some more).
    #[inline(always)]
    fn scores<S: Simd, const R: usize, const V: usize>(
        &self,
        s: S,
        row: usize,
        key: usize,
        last: usize,
        scores: &mut [[f32; TILE_KEYS]; R],
    ) {
        let mut queries = [std::ptr::null(); R];
        queries.copy_from_slice(&self.queries[row..row + R]);
        let blocks = self.panels.stride;
        // Every tile of keys that begins before the last key is within the panels, which are padded to whole tiles.
        let last_block = (key + TILE_KEYS) / BLOCK - 1;
        assert!(self.panels.keys.len() >= last_block * blocks + self.head_dim * BLOCK);
        let scale = s.splat(self.piece.shape.scale);
        let mut start = 0;
        while start < last {
            let mut sums = [[s.splat(0.0); V]; R];
            let keys: [*const T; V] = std::array::from_fn(|vector| {
                let position = key + start + vector * S::LANES;
                // SAFETY: within the panels as just checked.
                unsafe {
                    self.panels
                        .keys
                        .as_ptr()
                        .add(position / BLOCK * blocks + position % BLOCK)
                }
            });
            for dimension in 0..self.head_dim {
                // SAFETY: a block has `head_dim` rows of 16 keys, a query `head_dim` values.
                unsafe {
                    let mut vectors = [s.splat(0.0); V];
                    for vector in 0..V {
                        vectors[vector] = T::load(s, keys[vector].add(dimension * BLOCK));
                    }
                    for index in 0..R {
                        let q = s.splat(*queries[index].add(dimension));
                        for vector in 0..V {
                            sums[index][vector] = s.fma(q, vectors[vector], sums[index][vector]);
                        }
                    }
                }
            }
            for index in 0..R {
                for vector in 0..V {
                    let to = &mut scores[index][start + vector * S::LANES..];
                    s.store(to, s.mul(sums[index][vector], scale));
                }
            }
            start += V * S::LANES;
        }
    }

    /// Turn the scores of a row into weights, and give the factor for what was summed before.
    #[inline(always)]
    fn weigh<S: Simd>(
        &mut self,
        s: S,
        row: usize,
        seen: (usize, usize),
        scores: &mut [f32; TILE_KEYS],
    ) -> f32 {
        scores[..seen.0].fill(f32::NEG_INFINITY);
        scores[seen.1..].fill(f32::NEG_INFINITY);
        let mut highest = s.splat(f32::NEG_INFINITY);
        for start in (0..TILE_KEYS).step_by(S::LANES) {
            highest = s.max(highest, s.load(&scores[start..]));
        }
        let before = self.max[row];
        let max = before.max(s.reduce_max(highest));
        if max == f32::NEG_INFINITY {
            scores.fill(0.0);
            return 1.0;
        }
        let (mut total, subtract) = (s.splat(0.0), s.splat(max));
        for start in (0..TILE_KEYS).step_by(S::LANES) {
            let weight = math::exp(s, s.sub(s.load(&scores[start..]), subtract));
            total = s.add(total, weight);
            s.store(&mut scores[start..], weight);
        }
        let correction = if before == max {
            1.0
        } else {
            (before - max).exp()
        };
        self.max[row] = max;
        self.sum[row] = self.sum[row] * correction + s.reduce_sum(total);
        correction
    }

    /// Add the weighted values of `V` vectors of columns from `column` on.
    #[inline(always)]
    fn values<S: Simd, const R: usize, const V: usize>(
        &mut self,
        s: S,
        row: usize,
        (key, last): (usize, usize),
        column: usize,
        weights: &[[f32; TILE_KEYS]; R],
        corrections: &[f32; R],
    ) {
        assert!((row + R) * self.head_dim <= TASK_SUMS && column + V * S::LANES <= self.head_dim);
        let stored: *mut f32 = self.sums.as_mut_ptr().cast();
        // SAFETY: within the sums of these rows, which are initialised.
        let place = |index: usize, vector: usize| unsafe {
            stored.add((row + index) * self.head_dim + column + vector * S::LANES)
        };
        let mut sums = [[s.splat(0.0); V]; R];
        for index in 0..R {
            let correction = s.splat(corrections[index]);
            for vector in 0..V {
                // SAFETY: as above.
                let sum = unsafe { s.load_ptr(place(index, vector)) };
                sums[index][vector] = s.mul(sum, correction);
            }
        }
        let stride = self.panels.stride;
        let mut position = 0;
        while position < last {
            let block = (key + position) / BLOCK * stride;
            let end = BLOCK.min(last - position);
            let group = |vector: usize| {
                let column = column + vector * S::LANES;
                column / BLOCK * BLOCK * BLOCK + column % BLOCK
            };
            assert!(
                self.panels.values.len() >= block + group(V - 1) + (BLOCK - 1) * BLOCK + S::LANES
            );
            // SAFETY: just checked.
            let values: [*const T; V] = std::array::from_fn(|vector| unsafe {
                self.panels.values.as_ptr().add(block + group(vector))
            });
            for lane in 0..end {
                let mut vectors = [s.splat(0.0); V];
                for vector in 0..V {
                    // SAFETY: 16 positions of 16 columns each.
                    vectors[vector] = unsafe { T::load(s, values[vector].add(lane * BLOCK)) };
                }
                for index in 0..R {
                    let weight = s.splat(weights[index][position + lane]);
                    for vector in 0..V {
                        sums[index][vector] = s.fma(weight, vectors[vector], sums[index][vector]);
                    }
                }
            }
            position += BLOCK;
        }
        for index in 0..R {
            for vector in 0..V {
                // SAFETY: as above.
                unsafe { s.store_ptr(place(index, vector), sums[index][vector]) };
            }
        }
    }
}
