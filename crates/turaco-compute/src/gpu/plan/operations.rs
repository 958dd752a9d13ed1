//! The dispatches of each operation.

use std::sync::Arc;

use super::super::memory::View;
use super::super::shader::{
    ATTENTION_QUERIES, Function, Keys, LSTM_HIDDEN, MATVEC_ROWS, Shader, TILE,
};
use super::super::weights::{GpuMatrix, GpuVector, Part};
use super::{CachedShader, Call, Params, Planner};
use crate::device::{Matrix, Vector};
use crate::error::{Error, Result};
use crate::graph::{Activation, AttentionShape, ChooseTokens, Ids, Mask, Op, Slot, Value};

/// Rows from which on a linear map is a matrix product of tiles.
const MATMUL_ROWS: usize = 16;

impl Planner<'_> {
    /// Record an operation; `appended`: for an attention, whether the step appended keys to its layer before.
    pub(super) fn op(&mut self, op: &Op, appended: bool) -> Result<()> {
        match op {
            Op::Embedding {
                table,
                ids,
                positional,
                out,
            } => {
                let list = self.indices("token ids", *ids, table.rows());
                self.lookup(table, Some(list), None, false, *out)?;
                if let Some((table, positions)) = positional {
                    let list = self.indices("positions", *positions, table.rows());
                    self.lookup(table, Some(list), None, true, *out)?;
                }
                Ok(())
            }
            Op::Linear {
                x,
                weight,
                bias,
                activation,
                scale,
                residual,
                out,
            } => self.linear(LinearMap {
                x: self.view(*x),
                rows: x.rows(),
                weight,
                bias: bias.as_deref(),
                activation: *activation,
                scale: *scale,
                residual: residual.map(|residual| self.view(residual)),
                out: self.view(*out),
                windows: None,
            }),
            Op::Conv1d {
                x,
                n_sequences,
                weight,
                bias,
                stride,
                padding,
                activation,
                out,
                ..
            } => self.linear(LinearMap {
                x: self.view(*x),
                rows: out.rows(),
                weight,
                bias: bias.as_deref(),
                activation: *activation,
                scale: 1.0,
                residual: None,
                out: self.view(*out),
                windows: Some([
                    x.rows() / n_sequences,
                    out.rows() / n_sequences,
                    x.cols(),
                    *stride,
                    padding.0,
                ]),
            }),
            Op::LayerNorm {
                x,
                gamma,
                beta,
                eps,
                out,
            } => self.norm(*x, (gamma, Some(beta)), *eps, *out),
            Op::RmsNorm { gain: Some(_), .. } => Err(Error::Unsupported {
                what: "rms_norm with a gain on a graphics processor".into(),
                reason: "its kernel does not take one yet".into(),
            }),
            Op::RmsNorm {
                x, gamma, eps, out, ..
            } => self.norm(*x, (gamma, None), *eps, *out),
            Op::Rope {
                x,
                positions,
                head_dim,
                theta,
                interleaved,
                out,
            } => {
                let offset = self.ids[positions.id as usize].1;
                let table = self.tables.iter().find(|table| {
                    (table.positions.0, table.head_dim) == (offset, *head_dim)
                        && table.theta.to_bits() == theta.to_bits()
                });
                let table = View {
                    buffer: self.inputs.clone(),
                    offset: table.map_or(0, |table| table.to),
                    stride: *head_dim,
                };
                let kind = head_dim + usize::from(*interleaved);
                let x = self.view(*x);
                self.map(
                    Function::Rotate,
                    *out,
                    &x,
                    Some((&table, 1)),
                    kind,
                    (0.0, 0.0),
                )
            }
            Op::Attention {
                q,
                k,
                v,
                n_sequences,
                shape,
                out,
            } => self.attention((*q, *k, *v), *n_sequences, shape, *out),
            Op::CacheAppend { slot, layer, k, v } => {
                let columns = k.cols();
                let (k, v) = (self.view(*k), self.view(*v));
                let params = Params::default().counts([columns]).view(&k).view(&v);
                self.cached(
                    CachedShader::Append { columns },
                    (*slot, *layer),
                    params,
                    vec![k.buffer, v.buffer],
                );
                Ok(())
            }
            Op::CachedAttention {
                q,
                slot,
                layer,
                n_sequences,
                shape,
                scores,
                out,
            } => {
                let place = (*slot, *layer);
                let rows = q.rows() / n_sequences;
                let read_only = self.graph.slots[slot.0] == crate::graph::SlotKind::CacheRead;
                let mask = if read_only { Mask::Full } else { shape.mask };
                let shape = AttentionShape { mask, ..*shape };
                let tiled = tiled(&shape, rows)?;
                let make = CachedShader::Attention {
                    queries: tiled.queries,
                    columns: tiled.columns,
                    odd: tiled.odd,
                    workgroups: tiled.workgroups,
                };
                let query = self.view(*q);
                let params = |sequences, captured: [usize; 3]| {
                    attention_params(&shape, rows, usize::from(appended))
                        .view(&query)
                        .counts([0; 4])
                        .counts([sequences])
                        .counts(captured)
                };
                let out = self.view(*out).buffer;
                let buffers = vec![query.buffer.clone(), out];
                self.cached(make, place, params(1, [0; 3]), buffers);
                if let Some((heads, value)) = scores {
                    let captured = self.view(*value).buffer;
                    for (nth, &head) in heads.iter().enumerate() {
                        let params = params(1, [head, nth * q.rows(), value.cols()]);
                        let buffers = vec![query.buffer.clone(), captured.clone()];
                        self.cached(CachedShader::Scores { rows }, place, params, buffers);
                    }
                }
                Ok(())
            }
            Op::SwiGlu { gate, up, out } => {
                let (gate, up) = (self.view(*gate), self.view(*up));
                self.map(Function::SwiGlu, *out, &gate, Some((&up, 1)), 0, (0.0, 0.0))
            }
            Op::Activate { x, activation, out } => {
                let x = self.view(*x);
                let kind = number(*activation);
                self.map(Function::Activate, *out, &x, None, kind, (0.0, 0.0))
            }
            Op::Add {
                a,
                a_scale,
                b,
                b_scale,
                out,
            } => {
                let rows = b.rows();
                let (a, b) = (self.view(*a), self.view(*b));
                let scales = (*a_scale, *b_scale);
                self.map(Function::Add, *out, &a, Some((&b, rows)), 0, scales)
            }
            Op::AddTable { x, table, out } => {
                let x = self.view(*x);
                self.lookup(table, None, Some(&x), false, *out)
            }
            Op::GatherRows { x, rows, out } => {
                let (numbers, offset) = self.indices("gather_rows", *rows, x.rows());
                let view = self.view(*x);
                let params = map_params(*out, &view, None, 0, (0.0, 0.0), (x.rows(), offset));
                let buffers = vec![
                    view.buffer,
                    self.context.nothing.clone(),
                    numbers,
                    self.view(*out).buffer,
                ];
                let workgroups = (out.rows() * out.cols()).div_ceil(256);
                self.call(Shader::Map(Function::Gather), workgroups, params, buffers)
            }
            Op::Transpose {
                x,
                n_sequences,
                out,
            } => {
                let rows = x.rows() / n_sequences;
                let view = self.view(*x);
                let empty = View {
                    buffer: self.context.nothing.clone(),
                    offset: 0,
                    stride: 0,
                };
                let cols = Some((&empty, x.cols()));
                self.map(Function::Transpose, *out, &view, cols, rows, (0.0, 0.0))
            }
            Op::Softmax { x, out } => {
                let view = self.view(*x);
                let params = Params::default().counts([x.rows(), x.cols()]).view(&view);
                let buffers = vec![view.buffer, self.view(*out).buffer];
                let rows = if x.cols() == 0 { 0 } else { x.rows() };
                self.call(Shader::Softmax, rows, params, buffers)
            }
            Op::Magnitude { x, out } => {
                let x = self.view(*x);
                self.map(Function::Magnitude, *out, &x, None, 0, (0.0, 0.0))
            }
            Op::Lstm {
                x,
                w_ih,
                w_hh,
                bias,
                state,
                out,
            } => self.lstm(*x, (w_ih, w_hh), bias, *state, *out),
            Op::ChooseTokens {
                logits,
                choose,
                tokens,
                logprobs,
            } => self.choose_tokens(*logits, choose, *tokens, *logprobs),
        }
    }

    /// Rows of a table, given by number or one after the other, written to or added to a contiguous result.
    fn lookup(
        &mut self,
        table: &Matrix,
        list: Option<(wgpu::Buffer, usize)>,
        x: Option<&View>,
        accumulate: bool,
        out: Value,
    ) -> Result<()> {
        let weights = matrix(table)?;
        let shader = Shader::Lookup {
            weights: weights.weight_type,
        };
        let flags = usize::from(list.is_some())
            + 2 * usize::from(x.is_some())
            + 4 * usize::from(accumulate);
        let nothing = self.context.nothing.clone();
        let (numbers, offset) = list.unwrap_or((nothing.clone(), 0));
        let target = self.view(out).buffer;
        for part in &weights.parts {
            let params = Params::default()
                .counts([out.rows(), table.cols(), weights.panel_words])
                .counts([part.rows, part.first_row, table.rows(), offset, flags])
                .counts(x.map_or([0, 0], |x| [x.offset, x.stride]));
            let mut buffers = part_buffers(part);
            buffers.extend([
                numbers.clone(),
                x.map_or(nothing.clone(), |x| x.buffer.clone()),
                target.clone(),
            ]);
            self.call(shader, out.rows(), params, buffers)?;
        }
        Ok(())
    }

    fn linear(&mut self, map: LinearMap<'_>) -> Result<()> {
        let weights = matrix(map.weight)?;
        let inputs = map.weight.cols();
        let outputs = map.weight.rows();
        let nothing = self.context.nothing.clone();
        let bias = match map.bias {
            Some(bias) => Some(vector(bias)?),
            None => None,
        };
        for part in &weights.parts {
            let (shader, workgroups) = if map.windows.is_some() || map.rows >= MATMUL_ROWS {
                let shader = Shader::Matmul {
                    weights: weights.weight_type,
                    windows: map.windows.is_some(),
                };
                (shader, map.rows.div_ceil(TILE) * part.rows.div_ceil(TILE))
            } else {
                let rows = match map.rows {
                    0 | 1 => 1,
                    2 => 2,
                    _ => MATVEC_ROWS,
                };
                let shader = Shader::Matvec {
                    weights: weights.weight_type,
                    rows,
                };
                (
                    shader,
                    map.rows.div_ceil(rows as usize) * part.rows.div_ceil(32),
                )
            };
            let residual = map.residual.as_ref();
            let params = Params::default()
                .counts([map.rows, inputs, part.rows, weights.panel_words])
                .view(&map.x)
                .counts([map.out.offset + part.first_row, outputs])
                .counts(residual.map_or([0, 0], |r| [r.offset + part.first_row, r.stride]))
                .bits(if bias.is_some() {
                    part.first_row as u32 | 1 << 31
                } else {
                    0
                })
                .counts([usize::from(residual.is_some()), number(map.activation)])
                .number(map.scale)
                .counts(map.windows.unwrap_or([1; 5]));
            let mut buffers = part_buffers(part);
            buffers.extend([
                map.x.buffer.clone(),
                bias.map_or(nothing.clone(), |bias| bias.0.clone()),
                residual.map_or(nothing.clone(), |r| r.buffer.clone()),
                map.out.buffer.clone(),
            ]);
            self.call(shader, workgroups, params, buffers)?;
        }
        Ok(())
    }

    fn norm(
        &mut self,
        x: Value,
        (gamma, beta): (&Vector, Option<&Arc<Vector>>),
        eps: f32,
        out: Value,
    ) -> Result<()> {
        let cols = gamma.len();
        if cols == 0 {
            return Ok(());
        }
        let groups = x.cols() / cols;
        let view = self.view(x);
        let params = Params::default()
            .counts([x.rows() * groups, cols, groups])
            .view(&view)
            .number(eps);
        let gamma = vector(gamma)?.0.clone();
        let shader = Shader::Norm {
            layer: beta.is_some(),
        };
        let beta = match beta {
            Some(beta) => vector(beta)?.0.clone(),
            None => gamma.clone(),
        };
        let buffers = vec![view.buffer, gamma, beta, self.view(out).buffer];
        self.call(shader, x.rows() * groups, params, buffers)
    }

    fn map(
        &mut self,
        function: Function,
        out: Value,
        a: &View,
        b: Option<(&View, usize)>,
        kind: usize,
        scales: (f32, f32),
    ) -> Result<()> {
        let rows = b.map_or(1, |(_, rows)| rows);
        let view = b.map(|(view, _)| view);
        let params = map_params(out, a, view, kind, scales, (rows, 0));
        let nothing = self.context.nothing.clone();
        let buffers = vec![
            a.buffer.clone(),
            view.map_or(nothing.clone(), |b| b.buffer.clone()),
            nothing,
            self.view(out).buffer,
        ];
        let workgroups = (out.rows() * out.cols()).div_ceil(256);
        self.call(Shader::Map(function), workgroups, params, buffers)
    }

    /// A window of columns without the gaps between its rows.
    pub(super) fn copy_rows(&mut self, value: Value, from: &View, to: &wgpu::Buffer) -> Result<()> {
        let params = map_params(value, from, None, 0, (0.0, 0.0), (1, 0));
        let nothing = self.context.nothing.clone();
        let buffers = vec![from.buffer.clone(), nothing.clone(), nothing, to.clone()];
        let workgroups = (value.rows() * value.cols()).div_ceil(256);
        self.call(Shader::Map(Function::Activate), workgroups, params, buffers)
    }

    fn attention(
        &mut self,
        (q, k, v): (Value, Value, Value),
        n_sequences: usize,
        shape: &AttentionShape,
        out: Value,
    ) -> Result<()> {
        let rows = q.rows() / n_sequences;
        let tiled = tiled(shape, rows)?;
        let [q, keys, values] = [q, k, v].map(|value| self.view(value));
        let params = attention_params(shape, rows, k.rows() / n_sequences)
            .view(&q)
            .view(&keys)
            .view(&values)
            .counts([n_sequences, 0, 0, 0]);
        let shader = Shader::Attention {
            keys: Keys::Rows,
            queries: tiled.queries,
            columns: tiled.columns,
            odd: tiled.odd,
        };
        let buffers = vec![q.buffer, keys.buffer, values.buffer, self.view(out).buffer];
        self.call(shader, tiled.workgroups * n_sequences, params, buffers)
    }

    fn cached(
        &mut self,
        make: CachedShader,
        (slot, layer): (Slot, usize),
        params: Params,
        buffers: Vec<wgpu::Buffer>,
    ) {
        let binds = make.shader(Keys::F16).layout();
        let layout = self.context.layout(binds);
        let call = Call::PerCache { make, slot, layer };
        self.push(call, (layout, binds), params, buffers);
    }

    fn lstm(
        &mut self,
        x: Value,
        (w_ih, w_hh): (&Arc<Matrix>, &Arc<Matrix>),
        bias: &Arc<Vector>,
        state: Slot,
        out: Value,
    ) -> Result<()> {
        let hidden = w_hh.cols();
        let weights = matrix(w_hh)?;
        let [part] = &weights.parts[..] else {
            return too_wide(hidden);
        };
        if hidden > LSTM_HIDDEN {
            return too_wide(hidden);
        }
        let gates = View {
            buffer: self.memory.take(x.rows() * 4 * hidden)?,
            offset: 0,
            stride: 4 * hidden,
        };
        self.linear(LinearMap {
            x: self.view(x),
            rows: x.rows(),
            weight: w_ih,
            bias: Some(bias),
            activation: Activation::None,
            scale: 1.0,
            residual: None,
            out: gates.clone(),
            windows: None,
        })?;
        let kernel = self.context.kernel(Shader::Lstm {
            weights: weights.weight_type,
        })?;
        let params = Params::default().counts([x.rows(), hidden, weights.panel_words]);
        let mut buffers = part_buffers(part);
        buffers.extend([gates.buffer.clone(), self.view(out).buffer]);
        let layout = (kernel.layout.clone(), kernel.binds);
        let call = Call::WithState {
            kernel,
            grid: [1, 1],
            slot: state,
        };
        self.push(call, layout, params, buffers);
        self.memory.give(gates.buffer);
        Ok(())
    }

    fn choose_tokens(
        &mut self,
        logits: Value,
        choose: &ChooseTokens,
        tokens: Ids,
        logprobs: Value,
    ) -> Result<()> {
        let place = |list: Ids| self.ids[list.id as usize].1;
        let values = self.view(logits);
        let controls = self.view(choose.controls);
        let params = Params::default()
            .counts([logits.rows(), logits.cols(), choose.k])
            .counts([(choose.prefer_from as usize).min(logits.cols())])
            .view(&values)
            .view(&controls)
            .counts([place(choose.allowed)])
            .bits(choose.seen.map_or(u32::MAX, |seen| place(seen) as u32))
            .counts([place(choose.seeds), place(tokens)])
            .number(f32::NEG_INFINITY);
        let buffers = vec![
            values.buffer,
            controls.buffer,
            self.inputs.clone(),
            self.computed.clone(),
            self.view(logprobs).buffer,
        ];
        self.call(Shader::ChooseTokens, logits.rows(), params, buffers)
    }
}

/// What a linear map or a convolution works on.
struct LinearMap<'a> {
    x: View,
    rows: usize,
    weight: &'a Matrix,
    bias: Option<&'a Vector>,
    activation: Activation,
    scale: f32,
    residual: Option<View>,
    out: View,
    /// Convolutions: rows of a sequence before and after, columns of a row, stride, padding.
    windows: Option<[usize; 5]>,
}

/// How an attention is cut up.
struct Tiled {
    queries: u32,
    columns: u32,
    odd: bool,
    /// For one sequence.
    workgroups: usize,
}

fn tiled(shape: &AttentionShape, rows: usize) -> Result<Tiled> {
    let queries = if rows > 1 { ATTENTION_QUERIES } else { 1 };
    let columns = match shape.head_dim {
        0..=64 => 1,
        65..=128 => 2,
        129..=256 => 4,
        wide => {
            return Err(Error::Unsupported {
                what: format!("attention heads of {wide} columns on a graphics processor"),
                reason: "at most 256 are".into(),
            });
        }
    };
    Ok(Tiled {
        queries,
        columns,
        odd: !shape.head_dim.is_multiple_of(2),
        workgroups: rows.div_ceil(queries as usize) * shape.n_heads,
    })
}

/// The first parameters of an attention; `keys` of a sequence, or whether appended ones are seen.
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

fn map_params(
    out: Value,
    a: &View,
    b: Option<&View>,
    kind: usize,
    (a_scale, b_scale): (f32, f32),
    (rows, ids): (usize, usize),
) -> Params {
    Params::default()
        .counts([out.rows(), out.cols()])
        .view(a)
        .counts(b.map_or([0, 0], |b| [b.offset, b.stride]))
        .counts([rows, ids, 0, kind])
        .number(a_scale)
        .number(b_scale)
}

/// As the shaders number them.
fn number(activation: Activation) -> usize {
    match activation {
        Activation::None => 0,
        Activation::Gelu => 1,
        Activation::Silu => 2,
        Activation::Relu => 3,
        Activation::Sigmoid => 4,
    }
}

fn part_buffers(part: &Part) -> Vec<wgpu::Buffer> {
    std::iter::once(&part.weights)
        .chain(&part.scales)
        .cloned()
        .collect()
}

fn matrix(matrix: &Matrix) -> Result<&GpuMatrix> {
    matrix.storage()
}

fn vector(vector: &Vector) -> Result<&GpuVector> {
    vector.storage()
}

fn too_wide<T>(hidden: usize) -> Result<T> {
    Err(Error::Unsupported {
        what: format!("an LSTM of width {hidden} on a graphics processor"),
        reason: format!("at most {LSTM_HIDDEN}, and its weights in one buffer, are"),
    })
}
