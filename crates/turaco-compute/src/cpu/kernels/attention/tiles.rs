//! The vector kernel of attention: register tiles of up to six rows against tiles of 64 keys.

#![allow(
    clippy::needless_range_loop,
    reason = "register tiles are indexed by row and vector throughout"
)]

use std::mem::MaybeUninit;

use super::product::Product;
use super::source::{Source, TileScales};
use super::{Piece, TASK_ROWS, TASK_SUMS, TILE_ROWS};
use crate::cpu::cache::{BLOCK, Panels, TILE_KEYS};
use crate::cpu::simd::{Simd, math};

/// Steps of the inner loops that are written out, a divisor of the steps of every block.
const UNROLLED: usize = 4;

/// The running state of a piece under the vector kernel. Its rows are those of the first head, then of the second, ...
pub(super) struct Tiles<'a, S: Simd, P: Product<S>> {
    product: P,
    piece: Piece<'a, ()>,
    head_dim: usize,
    /// Queries `[row][head_dim]`, scaled so that scores are powers of two.
    queries: [MaybeUninit<P::Left>; TASK_SUMS],
    /// What [`Product::store_query`] gave.
    of_query: [[f32; 2]; TASK_ROWS],
    /// Keys that the rows of each head see.
    seen: [(usize, usize); TASK_ROWS],
    max: [f32; TASK_ROWS],
    /// Sums of weights, still spread over lanes.
    totals: [MaybeUninit<S::F32>; TASK_ROWS],
    /// Weighted sums of values, `[row][head_dim]`.
    sums: [MaybeUninit<f32>; TASK_SUMS],
}

/// The scores of the rows of a tile, and then their weights: those of each row lie where its scores were.
struct Scores<const R: usize>([[MaybeUninit<f32>; TILE_KEYS]; R]);

impl<const R: usize> Scores<R> {
    #[inline(always)]
    fn row(&mut self, row: usize) -> *mut f32 {
        self.0[row].as_mut_ptr().cast()
    }
}

impl<'a, S: Simd, P: Product<S>> Tiles<'a, S, P> {
    #[inline(always)]
    pub(super) fn new<A>(s: S, product: P, piece: &Piece<'a, A>) -> Self {
        let piece = piece.without_panels();
        let (rows, heads) = (piece.rows.len(), piece.kv_heads.len());
        let head_dim = piece.shape.head_dim;
        assert!(rows * heads <= TASK_ROWS && rows * heads * head_dim <= TASK_SUMS);
        assert!(head_dim.is_multiple_of(BLOCK));
        let mut tiles = Self {
            product,
            piece: piece.clone(),
            head_dim,
            queries: [const { MaybeUninit::uninit() }; TASK_SUMS],
            of_query: [[0.0; 2]; TASK_ROWS],
            seen: [(0, 0); TASK_ROWS],
            max: [f32::NEG_INFINITY; TASK_ROWS],
            totals: [const { MaybeUninit::uninit() }; TASK_ROWS],
            sums: [const { MaybeUninit::uninit() }; TASK_SUMS],
        };
        for (index, row) in piece.rows.clone().enumerate() {
            let range = piece.visible(row);
            tiles.seen[index] = (range.start, range.end);
        }
        let factor = piece.shape.scale * std::f32::consts::LOG2_E;
        let mut index = 0;
        for head in piece.kv_heads.clone() {
            for row in piece.rows.clone() {
                let query = piece.query(head, row);
                let to: *mut P::Left = tiles.queries[index * head_dim..].as_mut_ptr().cast();
                // SAFETY: the place has `head_dim` numbers, a multiple of the lanes.
                tiles.of_query[index] = unsafe { product.store_query(s, to, query, factor) };
                tiles.totals[index].write(s.splat(0.0));
                index += 1;
            }
        }
        for sum in &mut tiles.sums[..index * head_dim] {
            sum.write(0.0);
        }
        tiles
    }

    /// Everything, with the keys and values of `source`.
    #[inline(always)]
    pub(super) fn run(&mut self, s: S, mut source: impl Source<P::Number>) {
        let (rows, heads) = (self.piece.rows.len(), self.piece.kv_heads.len());
        let (mut first, mut last) = (usize::MAX, 0);
        for &(start, end) in &self.seen[..rows] {
            if start < end {
                (first, last) = (first.min(start), last.max(end));
            }
        }
        // Tiles of nearly equal height.
        let height = rows.div_ceil(rows.div_ceil(TILE_ROWS).max(1));
        let mut key = first.min(last) / TILE_KEYS * TILE_KEYS;
        while key < last {
            for head in 0..heads {
                let (panels, scales, ahead) = source.tile(self.piece.kv_heads.start + head, key);
                let (panels, scales) = (&panels, scales.as_ref());
                let mut row = 0;
                while row < rows {
                    ahead.ask(row..rows.min(row + height), rows);
                    match height.min(rows - row) {
                        1 => self.tile::<1>(s, (head, row), key, panels, scales),
                        2 => self.tile::<2>(s, (head, row), key, panels, scales),
                        3 => self.tile::<3>(s, (head, row), key, panels, scales),
                        4 => self.tile::<4>(s, (head, row), key, panels, scales),
                        5 => self.tile::<5>(s, (head, row), key, panels, scales),
                        _ => self.tile::<TILE_ROWS>(s, (head, row), key, panels, scales),
                    }
                    row += height;
                }
            }
            key += TILE_KEYS;
        }
        for head in 0..heads {
            for row in 0..rows {
                self.finish(s, head, row);
            }
        }
    }

    /// Write the result of a row.
    #[inline(always)]
    fn finish(&self, s: S, head: usize, row: usize) {
        let piece = &self.piece;
        let index = head * piece.rows.len() + row;
        // SAFETY: `new` wrote the totals of all rows.
        let total = s.reduce_sum(unsafe { self.totals[index].assume_init() });
        let head = piece.kv_heads.start + head;
        let (target, weights) = piece.target(head, piece.rows.start + row);
        let factor = match weights {
            Some(weights) => {
                // SAFETY: this part of the output belongs to this piece.
                unsafe { weights.write([self.max[index], total]) };
                1.0
            }
            None if total > 0.0 => 1.0 / total,
            None => 0.0,
        };
        let factor = s.splat(factor);
        for column in (0..self.head_dim).step_by(S::LANES) {
            // SAFETY: the head width is a multiple of the lanes; sums of this row are initialised, and its output
            // belongs to this piece.
            unsafe {
                let from = self.sums.as_ptr().add(index * self.head_dim + column);
                s.store_ptr(target.add(column), s.mul(s.load_ptr(from.cast()), factor));
            }
        }
    }

    /// `R` rows from `row` on of head `head` against the 64 keys from `key` on.
    #[inline(always)]
    fn tile<const R: usize>(
        &mut self,
        s: S,
        (head, row): (usize, usize),
        key: usize,
        panels: &Panels<'_, P::Number>,
        scales: Option<&TileScales<'_>>,
    ) {
        let mut seen = [(0, 0); R];
        let (mut first, mut last) = (TILE_KEYS, 0);
        for (index, seen) in seen.iter_mut().enumerate() {
            let (start, end) = self.seen[row + index];
            let end = end.saturating_sub(key).min(TILE_KEYS);
            *seen = (start.saturating_sub(key).min(end), end);
            if seen.0 < seen.1 {
                (first, last) = (first.min(seen.0), last.max(end));
            }
        }
        if last == 0 {
            return;
        }
        let range = (key, first / BLOCK * BLOCK, last);
        let row = head * self.piece.rows.len() + row;
        let mut scores = Scores::<R>([[MaybeUninit::uninit(); TILE_KEYS]; R]);
        // As many sums as hide the time of an addition, in as many registers as there are.
        if S::LANES == BLOCK {
            if last <= TILE_KEYS / 2 {
                self.scores::<R, 2>(s, panels, row, (key, last), &mut scores);
            } else {
                self.scores::<R, 4>(s, panels, row, (key, last), &mut scores);
            }
            let corrections = self.weigh::<R>(s, row, &seen, last, scales, &mut scores);
            self.values::<R, 4>(s, panels, row, range, &mut scores, &corrections);
        } else if R == 1 || (S::MANY_REGISTERS && R == 2) {
            self.scores::<R, 8>(s, panels, row, (key, last), &mut scores);
            let corrections = self.weigh::<R>(s, row, &seen, last, scales, &mut scores);
            self.values::<R, 8>(s, panels, row, range, &mut scores, &corrections);
        } else if R <= 3 || S::MANY_REGISTERS {
            self.scores::<R, 4>(s, panels, row, (key, last), &mut scores);
            let corrections = self.weigh::<R>(s, row, &seen, last, scales, &mut scores);
            self.values::<R, 4>(s, panels, row, range, &mut scores, &corrections);
        } else {
            self.scores::<R, 2>(s, panels, row, (key, last), &mut scores);
            let corrections = self.weigh::<R>(s, row, &seen, last, scales, &mut scores);
            self.values::<R, 2>(s, panels, row, range, &mut scores, &corrections);
        }
    }

    /// `sums += left * right` for `R` numbers on the left and `V` vectors on the right, which are queries and keys or weights and
    /// values.
    ///
    /// # Safety
    /// `left` must be readable for a group, and `right` for a vector.
    #[inline(always)]
    unsafe fn step<const R: usize, const V: usize, const SCORES: bool>(
        &self,
        s: S,
        left: impl Fn(usize) -> *const P::Left,
        right: impl Fn(usize) -> *const P::Number,
        sums: &mut [[S::F32; V]; R],
    ) {
        let product = self.product;
        // The side with fewer vectors stays in registers.
        // SAFETY: the caller's promise.
        unsafe {
            if R < V {
                let left: [P::Vector; R] =
                    std::array::from_fn(|index| product.broadcast(s, left(index)));
                for vector in 0..V {
                    let right = product.load(s, right(vector));
                    for index in 0..R {
                        let sum = &mut sums[index][vector];
                        *sum = self.add::<SCORES>(s, left[index], right, *sum);
                    }
                }
            } else {
                let right: [P::Vector; V] =
                    std::array::from_fn(|vector| product.load(s, right(vector)));
                for index in 0..R {
                    let left = product.broadcast(s, left(index));
                    for vector in 0..V {
                        let sum = &mut sums[index][vector];
                        *sum = self.add::<SCORES>(s, left, right[vector], *sum);
                    }
                }
            }
        }
    }

    /// One product, of a score or of a value.
    #[inline(always)]
    fn add<const SCORES: bool>(
        &self,
        s: S,
        left: P::Vector,
        right: P::Vector,
        sum: S::F32,
    ) -> S::F32 {
        if SCORES {
            self.product.add_score(s, left, right, sum)
        } else {
            self.product.add(s, left, right, sum)
        }
    }

    /// With few rows memory is the limit: ask for what the next head will read as the numbers from `at` on are now. Heads
    /// lie one after the other in the blocks of a cache.
    #[inline(always)]
    fn prefetch<const R: usize>(&self, s: S, from: *const P::Number, at: usize) {
        const LINE: usize = 64;
        if R < TILE_ROWS {
            let ahead = from.wrapping_add(self.head_dim * BLOCK + at).cast::<u8>();
            let bytes = UNROLLED * P::GROUP * BLOCK * size_of::<P::Number>();
            for line in (0..bytes).step_by(LINE) {
                s.prefetch(ahead.wrapping_add(line));
            }
        }
    }

    /// Products of the queries with the first `last` keys of the tile (and some more).
    #[inline(always)]
    fn scores<const R: usize, const V: usize>(
        &self,
        s: S,
        panels: &Panels<'_, P::Number>,
        row: usize,
        (key, last): (usize, usize),
        scores: &mut Scores<R>,
    ) {
        let head_dim = self.head_dim;
        assert!((row + R) * head_dim <= TASK_SUMS && row + R <= TASK_ROWS);
        let queries: *const u8 = self.queries[row * head_dim..].as_ptr().cast();
        let query_len = head_dim * size_of::<P::Left>();
        // Tiles are whole: storage is padded to them, and begins again only after one.
        let place = panels.place(key);
        let last_block = TILE_KEYS / BLOCK - 1;
        assert!(panels.keys.len() >= place + last_block * panels.stride + head_dim * BLOCK);
        let mut start = 0;
        while start < last {
            // SAFETY: within the tile as just checked.
            let blocks: [*const u8; V] = std::array::from_fn(|vector| unsafe {
                let position = start + vector * S::LANES;
                let block = panels
                    .keys
                    .as_ptr()
                    .add(place + position / BLOCK * panels.stride);
                block
                    .cast::<u8>()
                    .add(position % BLOCK * P::KEY_GROUP * P::KEY_SIZE)
            });
            let mut sums: [[S::F32; V]; R] =
                std::array::from_fn(|index| [self.product.begin(s, self.of_query[row + index]); V]);
            let mut column = 0;
            while column < head_dim {
                for block in blocks.iter().step_by(BLOCK / S::LANES) {
                    self.prefetch::<R>(s, block.cast(), column * BLOCK);
                }
                for unrolled in 0..UNROLLED {
                    let column = column + unrolled * P::KEY_GROUP;
                    // SAFETY: a block has `head_dim` rows of 16 keys, a query `head_dim` numbers.
                    unsafe {
                        self.step::<R, V, true>(
                            s,
                            |index| {
                                let query = queries.add(index * query_len);
                                query.add(column * P::QUERY_SIZE).cast()
                            },
                            |vector| blocks[vector].add(column * BLOCK * P::KEY_SIZE).cast(),
                            &mut sums,
                        );
                    }
                }
                column += UNROLLED * P::KEY_GROUP;
            }
            for index in 0..R {
                for vector in 0..V {
                    let sum = sums[index][vector];
                    let score = self.product.end(s, sum, self.of_query[row + index]);
                    // SAFETY: vectors of a round lie within the 64 keys.
                    unsafe {
                        let to = scores.row(index).add(start + vector * S::LANES);
                        s.store_ptr(to, score);
                    }
                }
            }
            start += V * S::LANES;
        }
    }

    /// Turn scores into weights, and give the factors for what was summed before.
    #[inline(always)]
    fn weigh<const R: usize>(
        &mut self,
        s: S,
        row: usize,
        seen: &[(usize, usize); R],
        last: usize,
        scales: Option<&TileScales<'_>>,
        scores: &mut Scores<R>,
    ) -> [f32; 16] {
        // The vectors that hold the seen keys of any row: mostly all, and loops of known length are faster.
        let end = last.next_multiple_of(S::LANES);
        if S::LANES == BLOCK && end == TILE_KEYS {
            self.weigh_up_to::<R, true>(s, row, seen, end, scales, scores)
        } else {
            self.weigh_up_to::<R, false>(s, row, seen, end, scales, scores)
        }
    }

    /// The same for the keys before `end`, which are all if `WHOLE`.
    #[inline(always)]
    fn weigh_up_to<const R: usize, const WHOLE: bool>(
        &mut self,
        s: S,
        row: usize,
        seen: &[(usize, usize); R],
        end: usize,
        scales: Option<&TileScales<'_>>,
        scores: &mut Scores<R>,
    ) -> [f32; 16] {
        assert!(row + R <= TASK_ROWS && end <= TILE_KEYS && R <= 16);
        let end = if WHOLE { TILE_KEYS } else { end };
        // A row without keys has the maximum minus infinity; relative to 0 its weights are zeros too.
        let relative_to = |max: f32| if max == f32::NEG_INFINITY { 0.0 } else { max };
        let (mut before, mut after) = ([0.0_f32; 16], [0.0_f32; 16]);
        for index in 0..R {
            let row_scores = scores.row(index);
            let mut highest = s.splat(f32::NEG_INFINITY);
            // No closure: one that is not inlined would be compiled without the instructions.
            for start in (0..end).step_by(S::LANES) {
                // SAFETY: vectors within the 64 keys, of which `scores` wrote those up to `end`.
                let mut score = unsafe { s.load_ptr(row_scores.add(start)) };
                if let Some(scales) = scales {
                    score = s.mul(score, s.load(&scales.keys[start / BLOCK][start % BLOCK..]));
                    // SAFETY: as above.
                    unsafe { s.store_ptr(row_scores.add(start), score) };
                }
                highest = s.max(highest, score);
            }
            if seen[index] != (0, end) {
                for position in (0..seen[index].0).chain(seen[index].1..end) {
                    // SAFETY: within the 64 keys.
                    unsafe { row_scores.add(position).write(f32::NEG_INFINITY) };
                }
                highest = s.splat(f32::NEG_INFINITY);
                for start in (0..end).step_by(S::LANES) {
                    // SAFETY: as above.
                    highest = s.max(highest, unsafe { s.load_ptr(row_scores.add(start)) });
                }
            }
            before[index] = self.max[row + index];
            let max = before[index].max(s.reduce_max(highest));
            self.max[row + index] = max;
            after[index] = relative_to(max);
        }
        let mut corrections = [0.0_f32; 16];
        for start in (0..R).step_by(S::LANES) {
            let difference = s.sub(s.load(&before[start..]), s.load(&after[start..]));
            s.store(&mut corrections[start..], math::exp2(s, difference));
        }
        for index in 0..R {
            let subtract = s.splat(after[index]);
            let row_scores = scores.row(index);
            let weights: *mut P::Left = row_scores.cast();
            // SAFETY: `new` wrote the totals of all rows.
            let total = unsafe { self.totals[row + index].assume_init() };
            let mut total = s.mul(total, s.splat(corrections[index]));
            for start in (0..end).step_by(S::LANES) {
                // SAFETY: as above. Weights are no wider than scores, so that they replace only scores that were read.
                unsafe {
                    let score = s.load_ptr(row_scores.add(start));
                    let weight = math::exp2(s, s.sub(score, subtract));
                    total = s.add(total, weight);
                    let weight = match scales {
                        Some(scales) => {
                            let scale = &scales.values[start / BLOCK][start % BLOCK..];
                            s.mul(weight, s.load(scale))
                        }
                        None => weight,
                    };
                    self.product.store(s, weights.add(start), weight);
                }
            }
            self.totals[row + index].write(total);
        }
        corrections
    }

    /// Add the weighted values, all columns.
    #[inline(always)]
    fn values<const R: usize, const V: usize>(
        &mut self,
        s: S,
        panels: &Panels<'_, P::Number>,
        row: usize,
        range: (usize, usize, usize),
        weights: &mut Scores<R>,
        corrections: &[f32; 16],
    ) {
        let mut column = 0;
        while column + V * S::LANES <= self.head_dim {
            self.columns::<R, V>(s, panels, row, range, column, weights, corrections);
            column += V * S::LANES;
        }
        while column < self.head_dim {
            if S::LANES == BLOCK / 2 {
                self.columns::<R, 2>(s, panels, row, range, column, weights, corrections);
                column += 2 * S::LANES;
            } else {
                self.columns::<R, 1>(s, panels, row, range, column, weights, corrections);
                column += S::LANES;
            }
        }
    }

    /// Add the weighted values of `V` vectors of columns from `column` on.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "the state of one inner loop")]
    fn columns<const R: usize, const V: usize>(
        &mut self,
        s: S,
        panels: &Panels<'_, P::Number>,
        row: usize,
        (key, first, last): (usize, usize, usize),
        column: usize,
        weights: &mut Scores<R>,
        corrections: &[f32; 16],
    ) {
        let head_dim = self.head_dim;
        assert!((row + R) * head_dim <= TASK_SUMS && column + V * S::LANES <= head_dim);
        let stored: *mut f32 = self.sums[row * head_dim + column..].as_mut_ptr().cast();
        let mut sums = [[s.splat(0.0); V]; R];
        for index in 0..R {
            let correction = s.splat(corrections[index]);
            for vector in 0..V {
                // SAFETY: within the sums of these rows, which are initialised.
                let sum = unsafe { s.load_ptr(stored.add(index * head_dim + vector * S::LANES)) };
                sums[index][vector] = s.mul(sum, correction);
            }
        }
        let place = panels.place(key);
        let last_block = TILE_KEYS / BLOCK - 1;
        assert!(panels.values.len() >= place + last_block * panels.stride + head_dim * BLOCK);
        let weights: *const P::Left = weights.row(0).cast_const().cast();
        let weights_stride = TILE_KEYS * size_of::<f32>() / size_of::<P::Left>();
        let mut position = first;
        while position < last {
            // SAFETY: just checked.
            let groups: [*const P::Number; V] = std::array::from_fn(|vector| unsafe {
                let column = column + vector * S::LANES;
                let group = column / BLOCK * BLOCK * BLOCK + column % BLOCK * P::GROUP;
                let block = place + position / BLOCK * panels.stride;
                panels.values.as_ptr().add(block + group)
            });
            let end = BLOCK.min(last - position);
            let mut lane = 0;
            while lane < end {
                let steps = if end - lane >= UNROLLED * P::GROUP {
                    UNROLLED
                } else {
                    1
                };
                let step = |sums: &mut _, lane: usize| {
                    // SAFETY: 16 positions of 16 columns each; weights of whole groups of positions were written.
                    unsafe {
                        self.step::<R, V, false>(
                            s,
                            |index| weights.add(index * weights_stride + position + lane),
                            |vector| groups[vector].add(lane * BLOCK),
                            sums,
                        );
                    }
                };
                if steps == UNROLLED {
                    for group in groups.iter().step_by(BLOCK / S::LANES) {
                        self.prefetch::<R>(s, *group, lane * BLOCK);
                    }
                    for unrolled in 0..UNROLLED {
                        step(&mut sums, lane + unrolled * P::GROUP);
                    }
                } else {
                    step(&mut sums, lane);
                }
                lane += steps * P::GROUP;
            }
            position += BLOCK;
        }
        for index in 0..R {
            for vector in 0..V {
                // SAFETY: as above.
                unsafe {
                    s.store_ptr(
                        stored.add(index * head_dim + vector * S::LANES),
                        sums[index][vector],
                    );
                }
            }
        }
    }
}
