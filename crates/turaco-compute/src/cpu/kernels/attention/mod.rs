//! Attention with online softmax (Milakov and Gimelshein 2018; Dao et al. 2022): keys are visited in tiles, and the
//! sum so far is rescaled when a tile raises the maximum, so that no matrix of all scores exists.
//!
//! The vector kernel takes up to six rows of queries at a time over tiles of 64 keys. A row is one query head; heads
//! that share keys are rows of the same tile, so that every key is loaded once for all of them.

mod product;
mod tiles;

use std::marker::PhantomData;
#[cfg(target_arch = "x86_64")]
use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use crate::cpu::cache::{BLOCK, CacheNumber, Panels, PanelsMut, head_panel_len, pack, pack_pairs};
use crate::cpu::executor::Engine;
use crate::cpu::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::cpu::isa::{Avx512, Avx512Dot};
use crate::cpu::packed::Shared;
use crate::cpu::simd::{Kernel, Simd, dispatch};
use crate::graph::{AttentionShape, Mask};

#[cfg(target_arch = "x86_64")]
use self::product::Product as _;
use self::product::Widened;
use self::tiles::Tiles;
use super::{Rows, over_rows};

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
        if rounded && takes_pairs(engine, shape) {
            let mut panels = HeadPanels::new(bytemuck::cast_slice_mut(scratch), keys, shape);
            pack_pairs(engine.isa, &engine.pool, k, v, panels.writable());
            attention_of_pairs(engine, panels.sequence(q), shape, out);
        } else {
            let mut panels = HeadPanels::new(&mut *scratch, keys, shape);
            pack(engine.isa, &engine.pool, k, v, 0, panels.writable());
            attention(engine, panels.sequence(q), shape, out);
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

    fn sequence<'b>(&'b self, q: Rows<'b>) -> Sequence<'b, T> {
        Sequence {
            q,
            panels: Panels {
                keys: self.keys,
                values: self.values,
                stride: self.stride,
                head_stride: self.head_stride,
            },
            n_keys: self.n_keys,
            first_position: 0,
        }
    }
}

/// Attention of one sequence. `out` is `[q rows, n_heads * head_dim]`.
pub(crate) fn attention<T: CacheNumber>(
    engine: &Engine,
    sequence: Sequence<'_, T>,
    shape: &AttentionShape,
    out: &mut [f32],
) {
    let isa = if vectorised(shape) {
        engine.isa
    } else {
        Isa::Scalar
    };
    over_pieces(engine, sequence, shape, out, |piece| dispatch(isa, piece));
}

/// The same with panels of bf16 pairs (see [`pack_pairs`](crate::cpu::cache::pack_pairs)), queries and weights rounded
/// to bf16, and sums in f32. Check [`takes_pairs`] before.
fn attention_of_pairs(
    engine: &Engine,
    sequence: Sequence<'_, bf16>,
    shape: &AttentionShape,
    out: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if let (Some(dot), Some(simd)) = (Avx512Dot::new(), Avx512::new()) {
        over_pieces(engine, sequence, shape, out, |piece| {
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
    engine.isa == Isa::Avx512Dot && vectorised(shape)
}

/// # Safety
/// The tokens prove the features; the function is only unsafe to call because compilers cannot see that.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn run_pairs(dot: Avx512Dot, simd: Avx512, piece: &Piece<'_, bf16>) {
    let product = product::Pairs(dot);
    let head_dim = piece.shape.head_dim;
    let mut rounded = [const { MaybeUninit::<bf16>::uninit() }; TASK_SUMS];
    let mut queries = [std::ptr::null(); TASK_ROWS];
    let places = rounded.chunks_exact_mut(head_dim).zip(piece.rows.clone());
    for (pointer, (place, row)) in queries.iter_mut().zip(places) {
        let query = piece.query(row);
        let to: *mut bf16 = place.as_mut_ptr().cast();
        for column in (0..head_dim).step_by(Avx512::LANES) {
            let numbers = simd.load(&query[column..]);
            // SAFETY: the place has as many numbers as the query, a multiple of the lanes.
            unsafe { product.store(simd, to.add(column), numbers) };
        }
        *pointer = to.cast_const();
    }
    let mut tiles = Tiles::new(product, piece, queries);
    // SAFETY: the queries were just written.
    unsafe { tiles.run(simd) };
}

/// Calls `task` with every piece of an attention.
fn over_pieces<'a, T: Copy + Sync>(
    engine: &Engine,
    sequence: Sequence<'a, T>,
    shape: &AttentionShape,
    out: &mut [f32],
    task: impl Fn(Piece<'a, T>) + Sync,
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
    let run = |index: usize| {
        let (kv_head, part) = (index / per_head, index % per_head);
        task(Piece {
            sequence,
            shape: *shape,
            kv_head,
            rows: part * per_task..rows.min((part + 1) * per_task),
            out,
        });
    };
    let tasks = shape.n_kv_heads * per_head;
    let work = rows * shape.n_kv_heads * shape.head_dim * sequence.n_keys;
    if work < WORTH_A_TASK {
        (0..tasks).for_each(run);
    } else {
        engine.pool.run(tasks, &run);
    }
}

/// Whether vector kernels take heads of this width.
fn vectorised(shape: &AttentionShape) -> bool {
    shape.head_dim.is_multiple_of(BLOCK) && shape.head_dim * TILE_ROWS <= TASK_SUMS
}

/// The scaled scores of one head of every query against all keys: `out[i][key]`, rows of `capacity` values.
pub(crate) fn capture_scores<T: CacheNumber>(
    engine: &Engine,
    sequence: Sequence<'_, T>,
    shape: &AttentionShape,
    head: usize,
    capacity: usize,
    out: &mut [f32],
) {
    let (rows, n_keys) = (sequence.q.len(), sequence.n_keys);
    assert!(n_keys <= capacity && out.len() == rows * capacity);
    let kv_head = head / (shape.n_heads / shape.n_kv_heads);
    let (panels, column) = sequence.panels.head(kv_head, shape.head_dim);
    let weight = shape.head_dim / 8 + 1;
    over_rows(engine, rows, weight, out, |range, out| {
        for (row, out) in range.zip(out.chunks_exact_mut(capacity.max(1))) {
            let capture = Capture {
                q: &sequence.q.row(row)[head * shape.head_dim..][..shape.head_dim],
                panels,
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
    column: usize,
    scale: f32,
    out: &'a mut [f32],
}

impl<T: CacheNumber> Kernel for Capture<'_, T> {
    type Output = ();

    fn run_scalar(self) {
        for (block, out) in self.out.chunks_mut(BLOCK).enumerate() {
            let scores = block_scores(self.q, &self.panels, self.column, block);
            for (out, score) in out.iter_mut().zip(scores) {
                *out = score * self.scale;
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (block, out) in self.out.chunks_mut(BLOCK).enumerate() {
            let start = block * self.panels.stride + self.column * BLOCK;
            let keys = &self.panels.keys[start..][..self.q.len() * BLOCK];
            let mut scores = [0.0; BLOCK];
            for first in (0..BLOCK).step_by(S::LANES) {
                let mut sum = s.splat(0.0);
                for (q, keys) in self.q.iter().zip(keys.as_chunks::<BLOCK>().0) {
                    // SAFETY: lanes divide 16.
                    let keys = unsafe { T::load(s, keys.as_ptr().add(first)) };
                    sum = s.fma(s.splat(*q), keys, sum);
                }
                s.store(&mut scores[first..], s.mul(sum, s.splat(self.scale)));
            }
            out.copy_from_slice(&scores[..out.len()]);
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

impl<T> Piece<'_, T> {
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
        let mut queries = [std::ptr::null(); TASK_ROWS];
        for (pointer, row) in queries.iter_mut().zip(self.rows.clone()) {
            *pointer = self.query(row).as_ptr();
        }
        let mut tiles = Tiles::new(Widened(PhantomData), &self, queries);
        // SAFETY: the pointers are to slices of this length.
        unsafe { tiles.run(s) };
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
