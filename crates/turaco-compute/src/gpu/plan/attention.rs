//! The dispatches of attention and of what it does with caches.

use super::super::batch::MAX_SPLITS;
use super::super::shader::{ATTENTION_QUERIES, DECODE_QUERIES, Keys, Shader};
use super::{CachedShader, Call, Params, Planner};
use crate::error::{Error, Result};
use crate::graph::{AttentionShape, Mask, Op, Slot, SlotKind, Value};
use crate::slots::NewRows;

impl Planner<'_> {
    pub(super) fn attention(
        &mut self,
        (q, k, v): (Value, Value, Value),
        n_sequences: usize,
        shape: &AttentionShape,
        out: Value,
    ) -> Result<()> {
        let rows = q.rows() / n_sequences;
        let columns = head_columns(shape)?;
        let queries = if rows > 1 { ATTENTION_QUERIES } else { 1 };
        let [q, keys, values] = [q, k, v].map(|value| self.view(value));
        let params = attention_params(shape, rows, k.rows() / n_sequences)
            .view(&q)
            .view(&keys)
            .view(&values)
            .counts([n_sequences, 0, 0, 0, 0, 1]);
        let shader = Shader::Attention {
            keys: Keys::Rows,
            queries,
            columns,
            odd: is_odd(shape),
            caches: 0,
        };
        let workgroups = rows.div_ceil(queries as usize) * shape.n_heads * n_sequences;
        let buffers = vec![q.buffer, keys.buffer, values.buffer, self.view(out).buffer];
        self.call(shader, workgroups, params, buffers)
    }

    /// Append keys and values to caches, keys and perhaps queries after their rotation.
    pub(super) fn append(
        &mut self,
        place: (Slot, usize),
        (k, v): (Value, Value),
        rotations: Option<(Option<&Op>, &Op)>,
        new_rows: NewRows,
    ) -> Result<()> {
        let columns = k.cols();
        let NewRows { before, total, .. } = new_rows;
        let rows = [k.rows(), before, total.max(1)];
        let v = self.view(v);
        let Some((query, key)) = rotations else {
            let k = self.view(k);
            let params = Params::default()
                .counts([columns, 0, 0, 0])
                .view(&k)
                .view(&v)
                .counts([0; 3])
                .counts(rows);
            let make = CachedShader::Append {
                columns,
                rotated: None,
            };
            self.cached(make, place, params, vec![k.buffer, v.buffer]);
            return Ok(());
        };
        let Op::Rope {
            x,
            positions,
            head_dim,
            theta,
            interleaved,
            ..
        } = key
        else {
            return Ok(());
        };
        let k = self.view(*x);
        let table = self.table_of(*positions, *head_dim, *theta);
        // Without queries to rotate, buffers that are there anyway are bound in their place.
        let (q, q_columns, out) = match query {
            Some(Op::Rope { x, out, .. }) => (self.view(*x), x.cols(), self.view(*out).buffer),
            _ => (k.clone(), 0, self.context.nothing.clone()),
        };
        let params = Params::default()
            .counts([columns, q_columns])
            .view(&q)
            .view(&k)
            .view(&v)
            .counts([table.offset, *head_dim, usize::from(*interleaved)])
            .counts(rows);
        let make = CachedShader::Append {
            columns,
            rotated: Some(q_columns),
        };
        let buffers = vec![k.buffer, v.buffer, q.buffer, table.buffer, out];
        self.cached(make, place, params, buffers);
        Ok(())
    }

    /// Attention over caches; `captured`: heads whose scores are kept, and where.
    pub(super) fn cached_attention(
        &mut self,
        (q, out): (Value, Value),
        place: (Slot, usize),
        n_sequences: usize,
        shape: &AttentionShape,
        new_rows: NewRows,
        captured: Option<(&[usize], Value)>,
    ) -> Result<()> {
        let rows = q.rows() / n_sequences;
        let read_only = self.graph.slots[place.0.0] == SlotKind::CacheRead;
        let mask = if read_only { Mask::Full } else { shape.mask };
        let shape = &AttentionShape { mask, ..*shape };
        let (columns, odd) = (head_columns(shape)?, is_odd(shape));
        let query = self.view(q);
        let params = |captured: [usize; 3]| {
            attention_params(shape, rows, new_rows.until)
                .view(&query)
                .counts([0; 5])
                .counts(captured)
                .counts([new_rows.before, new_rows.total.max(1)])
        };
        let out = self.view(out).buffer;
        let mut buffers = vec![query.buffer.clone(), out.clone()];
        if rows == 1 {
            let group = shape.n_heads / shape.n_kv_heads;
            let queries = (group as u32).next_power_of_two().min(DECODE_QUERIES);
            let make = CachedShader::Decode {
                queries,
                columns,
                odd,
                workgroups: shape.n_kv_heads * group.div_ceil(queries as usize),
            };
            let places = n_sequences * shape.n_heads * MAX_SPLITS;
            let parts = self.memory.take(places * (shape.head_dim + 2))?;
            buffers.push(parts.clone());
            self.cached(make, place, params([0; 3]), buffers);
            let make = CachedShader::Merge {
                n_heads: shape.n_heads,
            };
            let sizes = Params::default().counts([shape.n_heads, shape.head_dim]);
            self.cached(make, place, sizes, vec![parts.clone(), out]);
            self.memory.give(parts);
        } else {
            let make = CachedShader::Attention {
                queries: ATTENTION_QUERIES,
                columns,
                odd,
                workgroups: rows.div_ceil(ATTENTION_QUERIES as usize) * shape.n_heads,
            };
            self.cached(make, place, params([0; 3]), buffers);
        }
        if let Some((heads, value)) = captured {
            let captured = self.view(value).buffer;
            for (nth, &head) in heads.iter().enumerate() {
                let params = params([head, nth * q.rows(), value.cols()]);
                let buffers = vec![query.buffer.clone(), captured.clone()];
                self.cached(CachedShader::Scores { rows }, place, params, buffers);
            }
        }
        Ok(())
    }

    fn cached(
        &mut self,
        make: CachedShader,
        (slot, layer): (Slot, usize),
        params: Params,
        buffers: Vec<wgpu::Buffer>,
    ) {
        // Group 0 is the same for every format and number of caches.
        let binds = make.shader(Keys::F16, 1).layout();
        let layout = self.context.layout(binds);
        let call = Call::Cached { make, slot, layer };
        self.push(call, (layout, binds), params, buffers);
    }
}

/// Columns of a head in units of 64.
fn head_columns(shape: &AttentionShape) -> Result<u32> {
    match shape.head_dim {
        0..=64 => Ok(1),
        65..=128 => Ok(2),
        129..=256 => Ok(4),
        wide => Err(Error::Unsupported {
            what: format!("attention heads of {wide} columns on a graphics processor"),
            reason: "at most 256 are".into(),
        }),
    }
}

fn is_odd(shape: &AttentionShape) -> bool {
    !shape.head_dim.is_multiple_of(2)
}

/// The first parameters of an attention; `keys` of a sequence, or rows of all sequences that were appended so far.
fn attention_params(shape: &AttentionShape, rows: usize, keys: usize) -> Params {
    let window = match shape.mask {
        Mask::Full => 0,
        Mask::Causal => u32::MAX,
        Mask::Window(width) => u32::try_from(width).unwrap_or(u32::MAX).max(1),
    };
    Params::default()
        .counts([rows, keys, shape.n_heads])
        .counts([shape.n_heads / shape.n_kv_heads, shape.head_dim])
        .counts([shape.n_kv_heads * shape.head_dim])
        .number(shape.scale)
        .bits(window)
}
