//! Attention with online softmax (Milakov and Gimelshein 2018; Dao et al. 2022): keys are visited in tiles, and the
//! sum so far is rescaled when a tile raises the maximum, so that no matrix of all scores exists.
//!
//! The vector kernel takes up to six rows of queries at a time over tiles of 64 keys. A row is one query head; heads
//! that share keys are rows of the same tile, so that every key is loaded once for all of them.
//!
//! With many queries a task is one head of some of them. With few queries and many keys, as in a decode step, memory is
//! the limit: a task is then a range of keys under all heads, which lie together in memory, and the results of the
//! ranges are merged. Ranges depend on the number of keys alone, so results do not depend on the number of threads.

#[cfg(target_arch = "x86_64")]
mod amx;
mod merge;
mod product;
mod source;
#[cfg(test)]
mod tests;
mod tiles;

use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;

use crate::cpu::cache::{
    BLOCK, CacheNumber, Panels, PanelsMut, Scales, TILE_KEYS, head_panel_len, pack, pack_pairs,
};
use crate::cpu::executor::Engine;
use crate::cpu::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::cpu::isa::{Avx512, Avx512Dot};
use crate::cpu::packed::Shared;
use crate::cpu::simd::{Kernel, Simd, dispatch};
use crate::graph::{AttentionShape, Mask};

use self::merge::Merge;
use self::product::Widened;
use self::source::Stored;
use self::tiles::Tiles;
use super::{Rows, over_rows};

/// Rows of one register tile.
const TILE_ROWS: usize = 6;

/// Most rows of one task: enough that keys and values come seldom from beyond the second cache.
const TASK_ROWS: usize = 192;

/// Sums that a task holds.
const TASK_SUMS: usize = 192 * 64;

/// Multiply-adds worth waking another thread.
const WORTH_A_TASK: usize = 40_000;

/// Fewest queries of a sequence for which the tiles of a cache are copied as bf16.
#[cfg(target_arch = "x86_64")]
const COPY_FROM: usize = 12;

/// Most queries of a sequence whose keys are cut into ranges.
const SPLIT_QUERIES: usize = 4;

/// Most ranges of keys, and the fewest tiles of keys in one.
const MAX_PARTS: usize = 16;
const PART_TILES: usize = 2;

/// Tiles of keys below which heads are tasks enough.
const SPLIT_TILES: usize = 8;

/// Values of working memory that [`attention`] wants for `queries` queries in sequences of `each`.
pub(crate) fn split_len(queries: usize, each: usize, shape: &AttentionShape) -> usize {
    if each > SPLIT_QUERIES {
        return 0;
    }
    MAX_PARTS * merge::part_len(queries * shape.n_heads, shape.head_dim)
}

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

/// The queries of one sequence and the keys they meet, mostly [`Panels`].
#[derive(Clone, Copy)]
pub(crate) struct Sequence<'a, P> {
    pub q: Rows<'a>,
    pub panels: P,
    /// Positions of the keys that there are.
    pub keys: (usize, usize),
    /// Position of the first query among the keys.
    pub first_position: usize,
}

impl<'a, P> Sequence<'a, P> {
    /// The same, whatever the keys are.
    #[inline(always)]
    fn without_panels(&self) -> Sequence<'a, ()> {
        Sequence {
            q: self.q,
            panels: (),
            keys: self.keys,
            first_position: self.first_position,
        }
    }

    /// Keys that the query at `position` sees.
    fn visible(&self, mask: Mask, position: usize) -> Range<usize> {
        let seen = visible(mask, position, self.keys.1);
        seen.start.max(self.keys.0).min(seen.end)..seen.end
    }
}

/// Queries, keys and values of several sequences, one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Stacked<'a> {
    pub q: Rows<'a>,
    pub k: Rows<'a>,
    pub v: Rows<'a>,
    pub n_sequences: usize,
}

/// Attention inside each sequence. `scratch` takes the repacked keys and values of one sequence, twice
/// [`head_panel_len`] for each key head; `rounded` allows bf16.
pub(crate) fn attention_of_rows(
    engine: &Engine,
    inputs: Stacked<'_>,
    shape: &AttentionShape,
    rounded: bool,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let Stacked {
        q,
        k,
        v,
        n_sequences,
    } = inputs;
    let (queries, keys) = (q.len() / n_sequences, k.len() / n_sequences);
    let each = queries * q.cols();
    for index in 0..n_sequences {
        let q = q.slice(index * queries, queries);
        let (k, v) = (k.slice(index * keys, keys), v.slice(index * keys, keys));
        let out = &mut out[index * each..][..each];
        #[cfg(target_arch = "x86_64")]
        if rounded && let Some(proof) = amx::takes(engine, shape, queries) {
            let memory = bytemuck::cast_slice_mut(scratch);
            amx::attention(proof, engine, (q, k, v), shape, memory, out);
            continue;
        }
        if rounded && takes_pairs(engine, shape) {
            let mut panels = HeadPanels::new(bytemuck::cast_slice_mut(scratch), keys, shape);
            pack_pairs(engine.isa, &engine.pool, k, v, panels.writable());
            attention_of_pairs(engine, panels.sequence(q), shape, out);
        } else {
            let mut panels = HeadPanels::new(&mut *scratch, keys, shape);
            pack(engine.isa, &engine.pool, k, v, 0, panels.writable());
            attention_in_f32(engine, panels.sequence(q), queries, shape, &mut [], out);
        }
    }
}

/// Panels of one sequence, head after head, so that a head's keys and values stay together in the cache of a core.
struct HeadPanels<'a, T> {
    keys: &'a mut [T],
    values: &'a mut [T],
    stride: usize,
    head_stride: usize,
    n_heads: usize,
    n_keys: usize,
}

impl<'a, T> HeadPanels<'a, T> {
    fn new(memory: &'a mut [T], n_keys: usize, shape: &AttentionShape) -> Self {
        let head_stride = head_panel_len(shape.head_dim, n_keys);
        let len = shape.n_kv_heads * head_stride;
        let (keys, rest) = memory.split_at_mut(len);
        Self {
            keys,
            values: &mut rest[..len],
            stride: shape.head_dim.next_multiple_of(BLOCK) * BLOCK,
            head_stride,
            n_heads: shape.n_kv_heads,
            n_keys,
        }
    }

    fn writable(&mut self) -> PanelsMut<'_, T> {
        PanelsMut {
            keys: self.keys,
            values: self.values,
            stride: self.stride,
            n_heads: self.n_heads,
        }
    }

    fn sequence<'b>(&'b self, q: Rows<'b>) -> Sequence<'b, Panels<'b, T>> {
        Sequence {
            q,
            panels: Panels {
                keys: self.keys,
                values: self.values,
                stride: self.stride,
                head_stride: self.head_stride,
                period: self.n_keys.next_multiple_of(TILE_KEYS),
                scales: Scales::default(),
            },
            keys: (0, self.n_keys),
            first_position: 0,
        }
    }
}

/// Attention of one sequence to a cache, or of several to the same: `each` is the number of queries of one of them. `out`
/// is `[q rows, n_heads * head_dim]`; `scratch` has [`split_len`] values, or fewer if keys need not be cut into ranges.
/// `rounded` allows bf16, and where keys are bytes, queries of bytes.
pub(crate) fn attention<T: CacheNumber>(
    engine: &Engine,
    sequence: Sequence<'_, Panels<'_, T>>,
    (each, rounded): (usize, bool),
    shape: &AttentionShape,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if rounded && let Some(proof) = amx::takes_cached(engine, shape, each) {
        amx::attention_to_cache(proof, engine, sequence, shape, out);
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if rounded
        && takes_pairs(engine, shape)
        && each >= COPY_FROM
        && shape.head_dim <= source::MAX_COPIED_HEAD_DIM
        && let (Some(dot), Some(simd)) = (Avx512Dot::new(), Avx512::new())
    {
        over_pieces(engine, sequence, shape, &mut [], out, |piece| {
            // SAFETY: the tokens prove the features.
            unsafe { run_copied(dot, simd, &piece) };
        });
        return;
    }
    let _ = rounded;
    attention_in_f32(engine, sequence, each, shape, scratch, out);
}

fn attention_in_f32<T: CacheNumber>(
    engine: &Engine,
    sequence: Sequence<'_, Panels<'_, T>>,
    each: usize,
    shape: &AttentionShape,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let (isa, scratch) = if vectorised(shape) {
        (engine.isa, scratch)
    } else {
        (Isa::Scalar, &mut [][..])
    };
    let scratch = if each <= SPLIT_QUERIES {
        scratch
    } else {
        &mut []
    };
    over_pieces(engine, sequence, shape, scratch, out, |piece| {
        dispatch(isa, piece);
    });
}

/// The same with panels of bf16 pairs (see [`pack_pairs`](crate::cpu::cache::pack_pairs)), queries and weights rounded
/// to bf16, and sums in f32. Check [`takes_pairs`] before.
fn attention_of_pairs(
    engine: &Engine,
    sequence: Sequence<'_, Panels<'_, bf16>>,
    shape: &AttentionShape,
    out: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if let (Some(dot), Some(simd)) = (Avx512Dot::new(), Avx512::new()) {
        over_pieces(engine, sequence, shape, &mut [], out, |piece| {
            // SAFETY: the tokens prove the features.
            unsafe { run_pairs(dot, simd, &piece) };
        });
        return;
    }
    let _ = (engine, sequence, shape);
    unreachable!("`takes_pairs` said no: {} values left", out.len());
}

/// Whether [`attention_of_pairs`] works for such heads here.
fn takes_pairs(engine: &Engine, shape: &AttentionShape) -> bool {
    engine.isa >= Isa::Avx512Dot && vectorised(shape)
}

/// # Safety
/// The tokens prove the features; the function is only unsafe to call because compilers cannot see that.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn run_pairs<'a>(dot: Avx512Dot, simd: Avx512, piece: &Piece<'a, Panels<'a, bf16>>) {
    Tiles::new(simd, product::Pairs(dot), piece).run(simd, piece.stored());
}

/// The same from a cache of any format, whose tiles are copied.
///
/// # Safety
/// As above.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma,f16c")]
unsafe fn run_copied<'a, T: CacheNumber>(
    dot: Avx512Dot,
    simd: Avx512,
    piece: &Piece<'a, Panels<'a, T>>,
) {
    let sequence = &piece.sequence;
    let (panels, head_dim) = (sequence.panels, piece.shape.head_dim);
    let copied = source::pairs::Copied::new((dot, simd), panels, head_dim, sequence.keys.1);
    let pairs = product::Pairs(dot);
    if T::SCALED {
        Tiles::new(simd, product::BytesAndPairs(pairs), piece).run(simd, copied);
    } else {
        Tiles::new(simd, pairs, piece).run(simd, copied);
    }
}

/// Calls `task` with every piece of an attention.
fn over_pieces<'a, T: Copy + Sync>(
    engine: &Engine,
    sequence: Sequence<'a, Panels<'a, T>>,
    shape: &AttentionShape,
    scratch: &mut [f32],
    out: &mut [f32],
    task: impl Fn(Piece<'a, Panels<'a, T>>) + Sync,
) {
    let rows = sequence.q.len() * shape.n_heads / shape.n_kv_heads;
    assert_eq!(out.len(), sequence.q.len() * shape.n_heads * shape.head_dim);
    if rows == 0 {
        return;
    }
    let last = sequence.first_position + sequence.q.len() - 1;
    let seen = sequence.visible(shape.mask, sequence.first_position).start
        ..sequence.visible(shape.mask, last).end;
    if seen.is_empty() {
        out.fill(0.0);
        return;
    }
    let part_len = merge::part_len(sequence.q.len() * shape.n_heads, shape.head_dim);
    let cut = Cut::new(shape, rows, &seen, scratch.len() / part_len);
    let parts = Shared::new(&mut *scratch);
    let whole = Shared::new(&mut *out);
    let run = |index: usize| {
        let (part, rest) = (index / cut.per_part(), index % cut.per_part());
        let (heads, rest) = (rest / cut.row_tasks, rest % cut.row_tasks);
        let first_key = seen.start / TILE_KEYS * TILE_KEYS + part * cut.keys;
        task(Piece {
            sequence,
            shape: *shape,
            kv_heads: heads * cut.heads..shape.n_kv_heads.min((heads + 1) * cut.heads),
            rows: rest * cut.rows..rows.min((rest + 1) * cut.rows),
            keys: first_key..first_key + cut.keys,
            out: if cut.parts == 1 {
                Output::Whole(whole)
            } else {
                Output::Part(parts, part * part_len)
            },
        });
    };
    let tasks = cut.parts * cut.per_part();
    let work = rows * shape.n_kv_heads * shape.head_dim * seen.len();
    if work < WORTH_A_TASK {
        (0..tasks).for_each(run);
    } else {
        engine.pool.run(tasks, &run);
    }
    if cut.parts > 1 {
        let merge = Merge {
            parts: &scratch[..cut.parts * part_len],
            head_dim: shape.head_dim,
            out,
        };
        dispatch(engine.isa, merge);
    }
}

/// How an attention is cut into pieces.
struct Cut {
    /// Ranges of keys, and how many keys each has.
    parts: usize,
    keys: usize,
    /// Key heads of a piece, and how many tasks that makes.
    heads: usize,
    head_tasks: usize,
    /// Rows of each head of a piece, and how many tasks that makes.
    rows: usize,
    row_tasks: usize,
}

impl Cut {
    /// For `rows` rows per key head that see the keys `seen`, in at most `max_parts` parts.
    fn new(shape: &AttentionShape, rows: usize, seen: &Range<usize>, max_parts: usize) -> Self {
        // Rows of all heads of a piece: whole tiles, as many as their sums allow.
        let fitting =
            (TASK_SUMS / shape.head_dim / TILE_ROWS * TILE_ROWS).clamp(TILE_ROWS, TASK_ROWS);
        let tiles = seen.end.div_ceil(TILE_KEYS) - seen.start / TILE_KEYS;
        let parts = if tiles >= SPLIT_TILES && rows <= fitting {
            (tiles / PART_TILES).min(MAX_PARTS).min(max_parts).max(1)
        } else {
            1
        };
        if parts == 1 {
            let per_task = rows
                .div_ceil(rows.div_ceil(fitting))
                .next_multiple_of(TILE_ROWS);
            return Self {
                parts,
                keys: tiles * TILE_KEYS,
                heads: 1,
                head_tasks: shape.n_kv_heads,
                rows: per_task,
                row_tasks: rows.div_ceil(per_task),
            };
        }
        let part_tiles = tiles.div_ceil(parts);
        let head_tasks = shape.n_kv_heads.div_ceil(fitting / rows);
        let heads = shape.n_kv_heads.div_ceil(head_tasks);
        Self {
            parts: tiles.div_ceil(part_tiles),
            keys: part_tiles * TILE_KEYS,
            heads,
            head_tasks: shape.n_kv_heads.div_ceil(heads),
            rows,
            row_tasks: 1,
        }
    }

    /// Pieces of one range of keys.
    fn per_part(&self) -> usize {
        self.head_tasks * self.row_tasks
    }
}

/// Whether vector kernels take heads of this width.
fn vectorised(shape: &AttentionShape) -> bool {
    shape.head_dim.is_multiple_of(BLOCK) && shape.head_dim * TILE_ROWS <= TASK_SUMS
}

/// The scaled scores of one head of every query against all keys: `out[i][key]`, rows of `capacity` values.
pub(crate) fn capture_scores<T: CacheNumber>(
    engine: &Engine,
    sequence: Sequence<'_, Panels<'_, T>>,
    shape: &AttentionShape,
    head: usize,
    capacity: usize,
    out: &mut [f32],
) {
    let (rows, n_keys) = (sequence.q.len(), sequence.keys.1);
    assert!(n_keys <= capacity && n_keys <= sequence.panels.period && out.len() == rows * capacity);
    let kv_head = head / (shape.n_heads / shape.n_kv_heads);
    let (panels, column) = sequence.panels.head(kv_head, shape.head_dim);
    let weight = shape.head_dim / 8 + 1;
    over_rows(engine, rows, weight, out, |range, out| {
        for (row, out) in range.zip(out.chunks_exact_mut(capacity.max(1))) {
            let capture = Capture {
                q: &sequence.q.row(row)[head * shape.head_dim..][..shape.head_dim],
                panels,
                kv_head,
                column,
                scale: shape.scale,
                out: &mut out[..n_keys],
            };
            dispatch(engine.isa, capture);
        }
    });
}

/// The scores of one query.
struct Capture<'a, T> {
    q: &'a [f32],
    panels: Panels<'a, T>,
    kv_head: usize,
    column: usize,
    scale: f32,
    out: &'a mut [f32],
}

impl<T: CacheNumber> Capture<'_, T> {
    /// What the scores of a block are multiplied with.
    #[inline(always)]
    fn factors(&self, block: usize) -> [f32; BLOCK] {
        let key_scales = match T::SCALED {
            true => *self.panels.scales(self.kv_head, block * BLOCK).0,
            false => [1.0; BLOCK],
        };
        key_scales.map(|key_scale| self.scale * key_scale)
    }
}

impl<T: CacheNumber> Kernel for Capture<'_, T> {
    type Output = ();

    fn run_scalar(self) {
        for block in 0..self.out.len().div_ceil(BLOCK) {
            let place = self.panels.place(block * BLOCK);
            let scores = block_scores(self.q, &self.panels, self.column, place);
            let factors = self.factors(block);
            let out = self.out[block * BLOCK..].iter_mut();
            for (out, (score, factor)) in out.zip(scores.iter().zip(factors)) {
                *out = score * factor;
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for block in 0..self.out.len().div_ceil(BLOCK) {
            let start = self.panels.place(block * BLOCK) + self.column * BLOCK;
            let keys = &self.panels.keys[start..][..self.q.len() * BLOCK];
            let mut scores = [0.0; BLOCK];
            let factors = self.factors(block);
            for first in (0..BLOCK).step_by(S::LANES) {
                let mut sum = s.splat(0.0);
                for (q, keys) in self.q.iter().zip(keys.as_chunks::<BLOCK>().0) {
                    // SAFETY: lanes divide 16.
                    let keys = unsafe { T::load(s, keys.as_ptr().add(first)) };
                    sum = s.fma(s.splat(*q), keys, sum);
                }
                s.store(&mut scores[first..], s.mul(sum, s.load(&factors[first..])));
            }
            let out = &mut self.out[block * BLOCK..];
            let len = out.len().min(BLOCK);
            out[..len].copy_from_slice(&scores[..len]);
        }
    }
}

/// Products of a query with the 16 keys of the block that begins at `place`.
#[inline(always)]
fn block_scores<T: CacheNumber>(
    q: &[f32],
    panels: &Panels<'_, T>,
    column: usize,
    place: usize,
) -> [f32; BLOCK] {
    let keys = &panels.keys[place + column * BLOCK..][..q.len() * BLOCK];
    let mut sums = [0.0_f32; BLOCK];
    for (&q, keys) in q.iter().zip(keys.as_chunks::<BLOCK>().0) {
        for (sum, key) in sums.iter_mut().zip(keys) {
            *sum += q * key.widen();
        }
    }
    sums
}

/// Some rows of the query heads that share some heads of keys, and some of these keys. Row `r` is head `r % group` of
/// query `r / group`.
#[derive(Clone)]
struct Piece<'a, P> {
    sequence: Sequence<'a, P>,
    shape: AttentionShape,
    kv_heads: Range<usize>,
    rows: Range<usize>,
    keys: Range<usize>,
    out: Output,
}

/// Where the results of a piece go.
#[derive(Clone, Copy)]
enum Output {
    /// All of the output; pieces write different rows and heads.
    Whole(Shared<f32>),
    /// What [`Merge`] puts together: all parts, and where this one begins.
    Part(Shared<f32>, usize),
}

impl<'a, T> Piece<'a, Panels<'a, T>> {
    /// The panels, as tiles.
    #[inline(always)]
    fn stored(&self) -> Stored<'a, T>
    where
        T: Copy,
    {
        Stored {
            panels: self.sequence.panels,
            head_dim: self.shape.head_dim,
        }
    }
}

impl<'a, P> Piece<'a, P> {
    /// The same, whatever the keys are.
    #[inline(always)]
    fn without_panels(&self) -> Piece<'a, ()> {
        Piece {
            sequence: self.sequence.without_panels(),
            shape: self.shape,
            kv_heads: self.kv_heads.clone(),
            rows: self.rows.clone(),
            keys: self.keys.clone(),
            out: self.out,
        }
    }

    fn group(&self) -> usize {
        self.shape.n_heads / self.shape.n_kv_heads
    }

    /// Number of row `row` of head `kv_head` among all heads of all queries.
    #[inline(always)]
    fn index(&self, kv_head: usize, row: usize) -> usize {
        let (query, head) = (row / self.group(), row % self.group());
        query * self.shape.n_heads + kv_head * self.group() + head
    }

    /// The query of row `row`.
    #[inline(always)]
    fn query(&self, kv_head: usize, row: usize) -> &[f32] {
        let head = self.index(kv_head, row) % self.shape.n_heads;
        let query = self.sequence.q.row(row / self.group());
        &query[head * self.shape.head_dim..][..self.shape.head_dim]
    }

    /// Keys that row `row` sees.
    #[inline(always)]
    fn visible(&self, row: usize) -> Range<usize> {
        let position = self.sequence.first_position + row / self.group();
        let seen = self.sequence.visible(self.shape.mask, position);
        let end = seen.end.min(self.keys.end);
        seen.start.max(self.keys.start).min(end)..end
    }

    /// Where the result of a row goes, and for a part where the maximum and the sum of its weights go.
    #[inline(always)]
    fn target(&self, kv_head: usize, row: usize) -> (*mut f32, Option<*mut [f32; 2]>) {
        let (head_dim, index) = (self.shape.head_dim, self.index(kv_head, row));
        // SAFETY: `over_pieces` checked the length of the output and cut parts of the right length.
        unsafe {
            match self.out {
                Output::Whole(out) => (out.get().add(index * head_dim), None),
                Output::Part(parts, start) => {
                    let part = parts.get().add(start);
                    let rows = self.sequence.q.len() * self.shape.n_heads;
                    let weights = part.add(merge::weights_at(rows, head_dim, index));
                    (part.add(index * head_dim), Some(weights.cast()))
                }
            }
        }
    }
}

impl<'a, T: CacheNumber> Kernel for Piece<'a, Panels<'a, T>> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        Tiles::new(s, Widened(PhantomData), &self).run(s, self.stored());
    }

    fn run_scalar(self) {
        let AttentionShape {
            head_dim, scale, ..
        } = self.shape;
        for kv_head in self.kv_heads.clone() {
            let (panels, column) = self.sequence.panels.head(kv_head, head_dim);
            let panels = &panels;
            for row in self.rows.clone() {
                let q = self.query(kv_head, row);
                let (out, weights) = self.target(kv_head, row);
                // SAFETY: this row of the output belongs to this piece.
                let out = unsafe { std::slice::from_raw_parts_mut(out, head_dim) };
                let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0_f32);
                out.fill(0.0);
                let seen = self.visible(row);
                for block in seen.start / BLOCK..seen.end.div_ceil(BLOCK) {
                    let first = seen.start.saturating_sub(block * BLOCK);
                    let last = BLOCK.min(seen.end - block * BLOCK);
                    let place = panels.place(block * BLOCK);
                    let mut scores =
                        block_scores(q, panels, column, place).map(|score| score * scale);
                    let mut value_scales = &[1.0; BLOCK];
                    if T::SCALED {
                        let key_scales;
                        (key_scales, value_scales) = panels.scales(kv_head, block * BLOCK);
                        for (score, key_scale) in scores.iter_mut().zip(key_scales) {
                            *score *= key_scale;
                        }
                    }
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
                        let weight = weight * value_scales[lane];
                        for (index, out) in out.iter_mut().enumerate() {
                            let column = column + index;
                            let group = column / BLOCK * BLOCK * BLOCK;
                            let value =
                                panels.values[place + group + lane * BLOCK + column % BLOCK];
                            *out += weight * value.widen();
                        }
                    }
                }
                if let Some(weights) = weights {
                    // SAFETY: as above.
                    unsafe { weights.write([max * std::f32::consts::LOG2_E, sum]) };
                } else if sum > 0.0 {
                    out.iter_mut().for_each(|out| *out /= sum);
                }
            }
        }
    }
}
