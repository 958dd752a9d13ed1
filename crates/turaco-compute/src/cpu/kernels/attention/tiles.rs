//! The vector kernel of attention: register tiles of up to six rows against tiles of 64 keys.

#![allow(
    clippy::needless_range_loop,
    reason = "register tiles are indexed by row and vector throughout"
)]

use std::mem::MaybeUninit;

use super::product::Product;
use super::{Piece, TASK_ROWS, TASK_SUMS, TILE_ROWS};
use crate::cpu::cache::{BLOCK, Panels, TILE_KEYS};
use crate::cpu::simd::{Simd, math};

/// The running state of a piece under the vector kernel.
pub(super) struct Tiles<'a, S: Simd, P: Product<S>> {
    product: P,
    piece: &'a Piece<'a, P::Number>,
    panels: Panels<'a, P::Number>,
    head_dim: usize,
    queries: [*const P::Left; TASK_ROWS],
    /// Keys that each row sees.
    seen: [(usize, usize); TASK_ROWS],
    max: [f32; TASK_ROWS],
    sum: [f32; TASK_ROWS],
    /// Weighted sums of values, `[row][head_dim]`; initialised for the rows of the piece.
    sums: [MaybeUninit<f32>; TASK_SUMS],
}

impl<'a, S: Simd, P: Product<S>> Tiles<'a, S, P> {
    /// `queries` holds a pointer to the `head_dim` numbers of every row of the piece.
    #[inline(always)]
    pub(super) fn new(
        product: P,
        piece: &'a Piece<'a, P::Number>,
        queries: [*const P::Left; TASK_ROWS],
    ) -> Self {
        let head_dim = piece.shape.head_dim;
        let (panels, column) = piece.sequence.panels.head(piece.kv_head, head_dim);
        let mut sums = [const { MaybeUninit::uninit() }; TASK_SUMS];
        for sum in &mut sums[..piece.rows.len() * head_dim] {
            sum.write(0.0);
        }
        let mut seen = [(0, 0); TASK_ROWS];
        for (index, row) in piece.rows.clone().enumerate() {
            let range = piece.visible(row);
            seen[index] = (range.start, range.end);
        }
        Self {
            product,
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

    /// Everything.
    ///
    /// # Safety
    /// The queries must be readable.
    #[inline(always)]
    pub(super) unsafe fn run(&mut self, s: S) {
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
                    1 => self.tile::<1>(s, row, key),
                    2 => self.tile::<2>(s, row, key),
                    3 => self.tile::<3>(s, row, key),
                    4 => self.tile::<4>(s, row, key),
                    5 => self.tile::<5>(s, row, key),
                    _ => self.tile::<TILE_ROWS>(s, row, key),
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
    fn tile<const R: usize>(&mut self, s: S, row: usize, key: usize) {
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
            self.scores::<R, 4>(s, row, key, last, &mut scores);
        } else {
            self.scores::<R, 2>(s, row, key, last, &mut scores);
        }
        let mut corrections = [1.0_f32; R];
        let mut weights = [[self.product.zero(); TILE_KEYS]; R];
        for index in 0..R {
            let (scores, weights) = (&mut scores[index], &mut weights[index]);
            corrections[index] = self.weigh(s, row + index, seen[index], scores, weights);
        }
        let wide = if S::MANY_REGISTERS { 4 } else { 2 } * S::LANES;
        let mut column = 0;
        while column + wide <= self.head_dim {
            if S::MANY_REGISTERS {
                self.values::<R, 4>(s, row, (key, last), column, &weights, &corrections);
            } else {
                self.values::<R, 2>(s, row, (key, last), column, &weights, &corrections);
            }
            column += wide;
        }
        while column < self.head_dim {
            self.values::<R, 1>(s, row, (key, last), column, &weights, &corrections);
            column += S::LANES;
        }
    }

    /// Scaled products of the queries with the first `last` keys of the tile (and some more).
    #[inline(always)]
    fn scores<const R: usize, const V: usize>(
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
            let keys: [*const P::Number; V] = std::array::from_fn(|vector| {
                let position = key + start + vector * S::LANES;
                // SAFETY: within the panels as just checked.
                unsafe {
                    self.panels
                        .keys
                        .as_ptr()
                        .add(position / BLOCK * blocks + position % BLOCK * P::GROUP)
                }
            });
            for step in 0..self.head_dim / P::GROUP {
                // SAFETY: a block has `head_dim` rows of 16 keys, a query `head_dim` numbers.
                unsafe {
                    let vectors = self.product.load(s, keys, step * P::GROUP * BLOCK);
                    for index in 0..R {
                        let q = self
                            .product
                            .broadcast(s, queries[index].add(step * P::GROUP));
                        for vector in 0..V {
                            let sum = &mut sums[index][vector];
                            *sum = self.product.add(s, q, vectors[vector], *sum);
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
    fn weigh(
        &mut self,
        s: S,
        row: usize,
        seen: (usize, usize),
        scores: &mut [f32; TILE_KEYS],
        weights: &mut [P::Left; TILE_KEYS],
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
            return 1.0;
        }
        let (mut total, subtract) = (s.splat(0.0), s.splat(max));
        for start in (0..TILE_KEYS).step_by(S::LANES) {
            let weight = math::exp(s, s.sub(s.load(&scores[start..]), subtract));
            total = s.add(total, weight);
            // SAFETY: 64 is a multiple of the lanes.
            unsafe {
                self.product
                    .store(s, weights.as_mut_ptr().add(start), weight)
            };
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
    fn values<const R: usize, const V: usize>(
        &mut self,
        s: S,
        row: usize,
        (key, last): (usize, usize),
        column: usize,
        weights: &[[P::Left; TILE_KEYS]; R],
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
                column / BLOCK * BLOCK * BLOCK + column % BLOCK * P::GROUP
            };
            assert!(
                self.panels.values.len()
                    >= block + group(V - 1) + (BLOCK - P::GROUP) * BLOCK + S::LANES * P::GROUP
            );
            // SAFETY: just checked.
            let values: [*const P::Number; V] = std::array::from_fn(|vector| unsafe {
                self.panels.values.as_ptr().add(block + group(vector))
            });
            let mut lane = 0;
            while lane < end {
                // SAFETY: 16 positions of 16 columns each.
                let vectors = unsafe { self.product.load(s, values, lane * BLOCK) };
                for index in 0..R {
                    let from = &raw const weights[index][position + lane];
                    // SAFETY: 64 is a multiple of the group.
                    let weight = unsafe { self.product.broadcast(s, from) };
                    for vector in 0..V {
                        let sum = &mut sums[index][vector];
                        *sum = self.product.add(s, weight, vectors[vector], *sum);
                    }
                }
                lane += P::GROUP;
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
