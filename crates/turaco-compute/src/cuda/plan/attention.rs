//! The calls of attention and of what it does with caches.

use super::super::kernels::Module;
use super::super::params::{AppendParams, AttentionParams, DecodeParams};
use super::Planner;
use super::grids::{
    APPEND_THREADS, ATTENTION_THREADS, DECODE_THREADS, FEW_QUERIES, MOST_DECODE_QUERIES,
    SCORES_THREADS, append_grid, attention_queries, decode_cut, head_columns, scores_grid,
};
use super::operations::vector;
use crate::error::{Error, Result};
use crate::fuse::Task;
use crate::graph::{AttentionShape, Mask, Op, Root, Slot, SlotKind, Value};
use crate::slots::NewRows;

/// Widest heads.
const MOST_HEAD_DIM: usize = 256;

impl Planner<'_> {
    pub(super) fn attention(
        &mut self,
        (q, k, v): (Value, Value, Value),
        n_sequences: usize,
        shape: &AttentionShape,
        out: Value,
    ) -> Result<()> {
        check_heads(shape)?;
        let rows = q.rows() / n_sequences;
        let [query, keys, values] = [q, k, v].map(|value| self.view(value));
        let params = AttentionParams {
            q: query.address,
            k: keys.address,
            v: values.address,
            out: self.view(out).address,
            q_stride: query.stride as u32,
            k_stride: keys.stride as u32,
            v_stride: values.stride as u32,
            keys: (k.rows() / n_sequences) as u32,
            ..attention_params(shape, rows, n_sequences)
        };
        self.queries(rows, n_sequences, shape, params, None)
    }

    /// Attention of so many queries of each sequence, with what it appends to their caches itself.
    fn queries(
        &mut self,
        rows: usize,
        n_sequences: usize,
        shape: &AttentionShape,
        params: AttentionParams,
        append: Option<AppendParams>,
    ) -> Result<()> {
        let columns = head_columns(shape);
        let of_head = rows * (shape.n_heads / shape.n_kv_heads);
        if of_head > FEW_QUERIES && append.is_none() {
            // Split into parts, products of tf32 lose nothing that counts; older cards have none.
            let exact = self.context.capability < 80 || columns > 128;
            let grid = [
                rows.div_ceil(attention_queries(columns, exact)),
                shape.n_heads,
                n_sequences,
            ];
            let module = Module::Attention(columns, exact);
            return self.call((module, "attention"), grid, ATTENTION_THREADS, params);
        }
        let cut = decode_cut(
            rows,
            n_sequences,
            shape,
            self.context.multiprocessors as usize,
            self.graph.uniform,
        );
        let room = self.places.take(n_sequences * cut.room(columns));
        let params = AttentionParams {
            parts: self.places.address_of(room),
            counters: self.counters(n_sequences * cut.blocks),
            splits: cut.splits as u32,
            ..params
        };
        let grid = [n_sequences, cut.blocks, cut.splits];
        match append {
            None => {
                let module = Module::Decode(columns, cut.queries);
                self.call((module, "decode"), grid, DECODE_THREADS, params)?;
            }
            Some(append) => {
                let module = Module::DecodeAppend(columns, cut.queries);
                let attention = params;
                let params = DecodeParams { attention, append };
                self.call((module, "decode"), grid, DECODE_THREADS, params)?;
            }
        }
        self.places.give(room);
        Ok(())
    }

    /// Append keys and values to caches, keys and perhaps queries after a norm of their heads and their rotation.
    pub(super) fn append(
        &mut self,
        place: (Slot, usize),
        (k, v): (Value, Value),
        task: &Task<'_>,
        new_rows: NewRows,
    ) -> Result<()> {
        let params = self.append_params(place, (k, v), task, new_rows)?;
        let grid = append_grid(k.rows(), 2 * k.cols() + params.q_columns as usize);
        self.call((Module::Append, "append"), grid, APPEND_THREADS, params)
    }

    /// What an append is told, or an attention that does it itself, which leaves rotated queries nowhere.
    fn append_params(
        &self,
        (slot, layer): (Slot, usize),
        (k, v): (Value, Value),
        task: &Task<'_>,
        new_rows: NewRows,
    ) -> Result<AppendParams> {
        let values = self.view(v);
        let mut params = AppendParams {
            slot: self.slot(slot),
            v: values.address,
            v_stride: values.stride as u32,
            layer: layer as u32,
            rows: k.rows() as u32,
            columns: k.cols() as u32,
            before: new_rows.before as u32,
            total: new_rows.total.max(1) as u32,
            ..AppendParams::default()
        };
        let mut keys = self.view(k);
        if let Some((query, key)) = task.rotations
            && let Op::Rope {
                x,
                positions,
                head_dim,
                theta,
                interleaved,
                out,
            } = key
        {
            params.table = self.angles(*positions, *head_dim, *theta);
            params.head_dim = *head_dim as u32;
            params.interleaved = u32::from(*interleaved);
            // What comes before the keys in the same rotation.
            let before = keys.address - self.view(*out).address;
            keys = self.view(*x);
            keys.address += before;
            if let Some(Op::Rope { x, out, .. }) = query {
                let (queries, target) = (self.view(*x), self.view(*out));
                params.q = queries.address;
                params.q_stride = queries.stride as u32;
                params.q_columns = match before {
                    0 => x.cols() as u32,
                    bytes => bytes as u32 / 4,
                };
                params.q_out = target.address;
                params.q_out_stride = target.stride as u32;
            }
            let (query_norm, key_norm) = task.head_norms;
            if let Some(Op::RmsNorm { x, gamma, eps, .. }) = key_norm {
                keys = self.view(*x);
                params.k_gamma = vector(gamma)?;
                params.k_eps = *eps;
            }
            if let Some(Op::RmsNorm { x, gamma, eps, .. }) = query_norm {
                let queries = self.view(*x);
                params.q = queries.address;
                params.q_stride = queries.stride as u32;
                params.q_gamma = vector(gamma)?;
                params.q_eps = *eps;
            }
        }
        params.k = keys.address;
        params.k_stride = keys.stride as u32;
        Ok(params)
    }

    /// Attention over caches, with the append before it where it does that itself.
    pub(super) fn cached_attention(&mut self, task: &Task<'_>, new_rows: NewRows) -> Result<()> {
        let &Op::CachedAttention {
            q,
            slot,
            layer,
            n_sequences,
            ref shape,
            ref scores,
            out,
        } = task.op
        else {
            return Ok(());
        };
        check_heads(shape)?;
        let rows = q.rows() / n_sequences;
        let append = match task.append {
            Some(&Op::CacheAppend { k, v, .. }) => {
                let mut params = self.append_params((slot, layer), (k, v), task, new_rows)?;
                if task.rotations.is_none() {
                    let queries = self.view(q);
                    params.q = queries.address;
                    params.q_stride = queries.stride as u32;
                }
                Some(params)
            }
            _ => None,
        };
        let mask = match self.graph.slots[slot.0] {
            SlotKind::CacheRead => Mask::Full,
            _ => shape.mask,
        };
        let shape = &AttentionShape { mask, ..*shape };
        let query = self.view(q);
        let params = AttentionParams {
            slot: self.slot(slot),
            q: query.address,
            out: self.view(out).address,
            layer: layer as u32,
            q_stride: query.stride as u32,
            before: new_rows.before as u32,
            until: new_rows.until as u32,
            total: new_rows.total as u32,
            ..attention_params(shape, rows, n_sequences)
        };
        self.queries(rows, n_sequences, shape, params, append)?;
        if let Some((heads, value)) = scores {
            for (nth, &head) in heads.iter().enumerate() {
                let params = AttentionParams {
                    out: self.view(*value).address,
                    head: head as u32,
                    out_row: (nth * q.rows()) as u32,
                    capacity: value.cols() as u32,
                    ..params
                };
                let grid = scores_grid(rows, value.cols(), n_sequences);
                self.call(
                    (Module::Scores(head_columns(shape)), "scores"),
                    grid,
                    SCORES_THREADS,
                    params,
                )?;
            }
        }
        Ok(())
    }
}

/// Whether an attention can do the append that belongs to it: `decode.cu` takes all queries of a key head in one block, and moves
/// what is new in vectors, of which a warp has whole heads.
pub(super) fn appends(task: &Task<'_>, roots: &[Root]) -> bool {
    /// Columns of a vector, and of a head those that a warp moves.
    const VECTOR: usize = 4;
    const WARP_COLUMNS: usize = 256;
    let Op::CachedAttention { shape, .. } = task.op else {
        return false;
    };
    let width = shape.head_dim;
    let rotates_heads = match task.rotations {
        Some((_, Op::Rope { head_dim, .. })) => *head_dim == width,
        _ => true,
    };
    let comes_in_vectors = |value: &Value| {
        let root = roots[value.id as usize];
        root.column.is_multiple_of(VECTOR) && root.stride.is_multiple_of(VECTOR)
    };
    shape.n_heads / shape.n_kv_heads <= MOST_DECODE_QUERIES
        && width.is_power_of_two()
        && (2 * VECTOR..=WARP_COLUMNS).contains(&width)
        && rotates_heads
        && task.values().0.iter().all(comes_in_vectors)
}

fn check_heads(shape: &AttentionShape) -> Result<()> {
    if shape.head_dim <= MOST_HEAD_DIM {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!(
            "attention heads of {} columns on a graphics processor",
            shape.head_dim
        ),
        reason: format!("at most {MOST_HEAD_DIM} are"),
    })
}

/// What is the same for all kinds of attention.
fn attention_params(shape: &AttentionShape, rows: usize, n_sequences: usize) -> AttentionParams {
    AttentionParams {
        rows: rows as u32,
        n_heads: shape.n_heads as u32,
        group: (shape.n_heads / shape.n_kv_heads) as u32,
        head_dim: shape.head_dim as u32,
        sequences: n_sequences as u32,
        scale: shape.scale,
        window: match shape.mask {
            Mask::Full => 0,
            Mask::Causal => u32::MAX,
            Mask::Window(width) => u32::try_from(width).unwrap_or(u32::MAX).max(1),
        },
        splits: 1,
        ..AttentionParams::default()
    }
}
