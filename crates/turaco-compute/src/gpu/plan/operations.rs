//! The dispatches of each operation.

use std::sync::Arc;

use super::super::memory::View;
use super::super::shader::{
    CHOICE_SLICE, Function, LSTM_HIDDEN, MATVEC_ROWS, Normed, Shader, TILE, matvec_slices,
};
use super::super::weights::{GpuMatrix, GpuVector, Part};
use super::{Call, Params, Planner};
use crate::cpu::packed::PANEL;
use crate::device::{Matrix, Vector};
use crate::error::{Error, Result};
use crate::fuse::Task;
use crate::graph::{Activation, ChooseTokens, FilterTokens, Ids, Op, Slot, Value};
use crate::slots::NewRows;

/// Rows from which on a linear map is a matrix product of tiles.
pub(in super::super) const MATMUL_ROWS: usize = 16;

impl Planner<'_> {
    /// Record a task; `new_rows`: where an operation on a cache stands among the positions that are new.
    pub(super) fn task(&mut self, task: &Task<'_>, new_rows: NewRows) -> Result<()> {
        match task.op {
            Op::Embedding {
                table,
                ids,
                positional,
                out,
            } => {
                let (numbers, first) = self.indices("token ids", *ids, table.rows());
                let each = ids.cols();
                // Parts of a table cannot add to the same row in one go.
                let at_once = match matrix(table)?.parts.len() {
                    1 => each,
                    _ => 1,
                };
                for nth in (0..each).step_by(at_once.max(1)) {
                    let list = List {
                        numbers: numbers.clone(),
                        offset: first + nth,
                        count: at_once,
                        stride: each,
                    };
                    self.lookup(table, Some(list), None, nth > 0, *out)?;
                }
                if let Some((table, positions)) = positional {
                    let (numbers, offset) = self.indices("positions", *positions, table.rows());
                    let list = List {
                        numbers,
                        offset,
                        count: 1,
                        stride: 1,
                    };
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
                out: match task.swiglu {
                    Some(Op::SwiGlu { out, .. }) => self.view(*out),
                    _ => self.view(*out),
                },
                windows: None,
                norm: self.norm_of(task.norm)?,
                gated: task.swiglu.is_some(),
                choice: None,
            }),
            Op::Conv1d {
                x,
                n_sequences,
                weight,
                bias,
                stride,
                dilation,
                padding,
                activation,
                snake,
                out,
                ..
            } => {
                let target = match snake {
                    Some(_) => View {
                        buffer: self.memory.take(out.rows() * out.cols())?,
                        offset: 0,
                        stride: out.cols(),
                    },
                    None => self.view(*out),
                };
                self.linear(LinearMap {
                    x: self.view(*x),
                    rows: out.rows(),
                    weight,
                    bias: bias.as_deref(),
                    activation: *activation,
                    scale: 1.0,
                    residual: None,
                    out: target.clone(),
                    windows: Some([
                        x.rows() / n_sequences,
                        out.rows() / n_sequences,
                        x.cols(),
                        *stride,
                        padding.0,
                        *dilation,
                    ]),
                    norm: None,
                    gated: false,
                    choice: None,
                })?;
                let Some(snake) = snake else {
                    return Ok(());
                };
                self.snake(snake, &target, *out)?;
                self.memory.give(target.buffer);
                Ok(())
            }
            Op::LayerNorm {
                x,
                gamma,
                beta,
                eps,
                out,
            } => self.norm(*x, (gamma, Some(beta)), *eps, *out),
            Op::RmsNorm {
                x,
                gamma,
                gain,
                eps,
                out,
            } => match gain {
                None => self.norm(*x, (gamma, None), *eps, *out),
                Some(gain) => {
                    // Groups of columns are normed by themselves, whole rows multiplied.
                    let normed = View {
                        buffer: self.memory.take(x.rows() * x.cols())?,
                        offset: 0,
                        stride: x.cols(),
                    };
                    self.norm_to(*x, (gamma, None), *eps, normed.buffer.clone())?;
                    let each = x.rows().checked_div(gain.rows()).unwrap_or(1);
                    let gain = self.view(*gain);
                    let by = Some((&gain, each));
                    self.map(Function::Multiply, *out, &normed, by, 0, (0.0, 0.0))?;
                    self.memory.give(normed.buffer);
                    Ok(())
                }
            },
            Op::Rope {
                x,
                positions,
                head_dim,
                theta,
                interleaved,
                out,
            } => {
                let table = self.table_of(*positions, *head_dim, *theta);
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
                self.append((*slot, *layer), (*k, *v), task.rotations, new_rows)
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
                let captured = scores.as_ref().map(|(heads, scores)| (&heads[..], *scores));
                self.cached_attention((*q, *out), place, *n_sequences, shape, new_rows, captured)
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
            Op::FilterTokens {
                logits,
                filter,
                out,
            } => self.filter_tokens(*logits, filter, *out),
            Op::History { .. }
            | Op::Snake { .. }
            | Op::DepthwiseConv1d { .. }
            | Op::Multiply { .. }
            | Op::Concat { .. }
            | Op::Statistics { .. } => self.signal(task.op),
            Op::ChooseTokens {
                logits,
                choose,
                tokens,
                logprobs,
            } => self.choose_tokens(task, (*logits, choose), (*tokens, *logprobs)),
        }
    }

    /// Rows of a table, given by number or one after the other, written to or added to a contiguous result.
    fn lookup(
        &mut self,
        table: &Matrix,
        list: Option<List>,
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
        let List {
            numbers,
            offset,
            count,
            stride,
        } = list.unwrap_or(List {
            numbers: nothing.clone(),
            offset: 0,
            count: 1,
            stride: 0,
        });
        let target = self.view(out).buffer;
        for part in &weights.parts {
            let params = Params::default()
                .counts([out.rows(), table.cols(), weights.panel_words])
                .counts([part.rows, part.first_row, table.rows(), offset, flags])
                .counts(x.map_or([0, 0], |x| [x.offset, x.stride]))
                .counts([count, stride]);
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
        let outputs = map.weight.rows() / if map.gated { 2 } else { 1 };
        let nothing = self.context.nothing.clone();
        let bias = match map.bias {
            Some(bias) => Some(vector(bias)?),
            None => None,
        };
        let norm = map.norm.as_ref();
        let x = norm.map_or(&map.x, |norm| &norm.x);
        for part in &weights.parts {
            // A gated map has all its weights in one part.
            let part_outputs = part.rows.min(outputs);
            let (shader, workgroups) = if map.windows.is_some() || map.rows >= MATMUL_ROWS {
                let shader = Shader::Matmul {
                    weights: weights.weight_type,
                    windows: map.windows.is_some(),
                    cooperative: self.context.cooperative(weights.weight_type),
                };
                let tiles = map.rows.div_ceil(TILE) * part_outputs.div_ceil(TILE);
                (shader, tiles)
            } else {
                let rows = (map.rows as u32).next_power_of_two().clamp(1, MATVEC_ROWS);
                let shader = Shader::Matvec {
                    weights: weights.weight_type,
                    rows,
                    slices: matvec_slices(rows, inputs),
                    norm: norm.map_or(Normed::No, |norm| norm.kind),
                    gated: map.gated,
                    chosen: map.choice.is_some(),
                };
                let blocks = map.rows.div_ceil(rows as usize);
                (shader, blocks * part_outputs.div_ceil(PANEL))
            };
            let residual = map.residual.as_ref();
            let params = Params::default()
                .counts([map.rows, inputs, part_outputs, weights.panel_words])
                .view(x)
                .counts([map.out.offset + part.first_row, outputs])
                .counts(residual.map_or([0, 0], |r| [r.offset + part.first_row, r.stride]))
                .bits(if bias.is_some() {
                    part.first_row as u32 | 1 << 31
                } else {
                    0
                })
                .counts([usize::from(residual.is_some()), number(map.activation)])
                .number(map.scale)
                .counts(map.windows.unwrap_or([1; 6]))
                .number(norm.map_or(0.0, |norm| norm.eps))
                .counts(norm.map_or([0; 3], |norm| norm.gain))
                .counts([part.first_row])
                .counts(map.choice.as_ref().map_or([0; 8], |choice| choice.places))
                .number(part.scale);
            let mut buffers = part_buffers(part);
            buffers.push(x.buffer.clone());
            if map.choice.is_none() {
                buffers.extend([
                    bias.map_or(nothing.clone(), |bias| bias.0.clone()),
                    residual.map_or(nothing.clone(), |r| r.buffer.clone()),
                ]);
            }
            if let Some(norm) = norm {
                buffers.extend([norm.gamma.clone(), norm.beta.clone()]);
            }
            if map.choice.is_some() {
                buffers.push(self.inputs.clone());
            }
            buffers.push(map.out.buffer.clone());
            buffers.extend(map.choice.iter().map(|choice| choice.found.clone()));
            self.call(shader, workgroups, params, buffers)?;
        }
        Ok(())
    }

    /// What a linear map has to know of a norm that it does itself.
    fn norm_of(&self, norm: Option<&Op>) -> Result<Option<NormBefore>> {
        Ok(match norm {
            Some(Op::LayerNorm {
                x,
                gamma,
                beta,
                eps,
                ..
            }) => Some(NormBefore {
                kind: Normed::Layer,
                x: self.view(*x),
                gamma: vector(gamma)?.0.clone(),
                beta: vector(beta)?.0.clone(),
                eps: *eps,
                gain: [0; 3],
            }),
            Some(Op::RmsNorm {
                x,
                gamma,
                gain,
                eps,
                ..
            }) => {
                let view = gain.map(|gain| self.view(gain));
                let each = gain.map_or(0, |gain| x.rows() / gain.rows().max(1));
                Some(NormBefore {
                    kind: Normed::Rms,
                    x: self.view(*x),
                    gamma: vector(gamma)?.0.clone(),
                    gain: view
                        .as_ref()
                        .map_or([0; 3], |view| [view.offset, view.stride, each]),
                    beta: view.map_or(self.context.nothing.clone(), |view| view.buffer),
                    eps: *eps,
                })
            }
            _ => None,
        })
    }

    fn norm(
        &mut self,
        x: Value,
        (gamma, beta): (&Vector, Option<&Arc<Vector>>),
        eps: f32,
        out: Value,
    ) -> Result<()> {
        let out = self.view(out).buffer;
        self.norm_to(x, (gamma, beta), eps, out)
    }

    fn norm_to(
        &mut self,
        x: Value,
        (gamma, beta): (&Vector, Option<&Arc<Vector>>),
        eps: f32,
        out: wgpu::Buffer,
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
        let buffers = vec![view.buffer, gamma, beta, out];
        self.call(shader, x.rows() * groups, params, buffers)
    }

    /// The angles of a rotation.
    pub(super) fn table_of(&self, positions: Ids, head_dim: usize, theta: f32) -> View {
        let offset = self.ids[positions.id as usize].1;
        let table = self.tables.iter().find(|table| {
            (table.positions.0, table.head_dim) == (offset, head_dim)
                && table.theta.to_bits() == theta.to_bits()
        });
        View {
            buffer: self.inputs.clone(),
            offset: table.map_or(0, |table| table.to),
            stride: head_dim,
        }
    }

    pub(super) fn map(
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
            norm: None,
            gated: false,
            choice: None,
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

    fn filter_tokens(&mut self, logits: Value, filter: &FilterTokens, out: Value) -> Result<()> {
        let place = |list: Ids| self.ids[list.id as usize].1;
        let (values, controls) = (self.view(logits), self.view(filter.controls));
        let params = Params::default()
            .counts([logits.rows(), logits.cols(), 0, 0])
            .view(&values)
            .view(&controls)
            .counts([place(filter.allowed)])
            .bits(filter.seen.map_or(u32::MAX, |seen| place(seen) as u32))
            .counts([0, 0])
            .number(f32::NEG_INFINITY)
            .counts([0, 0]);
        let buffers = vec![
            values.buffer,
            controls.buffer,
            self.inputs.clone(),
            self.view(out).buffer,
        ];
        self.call(Shader::FilterTokens, logits.rows(), params, buffers)
    }

    /// Slices of the tokens first, or panels where the logits are made, then what was found in all of them.
    fn choose_tokens(
        &mut self,
        task: &Task<'_>,
        (logits, choose): (Value, &ChooseTokens),
        (tokens, logprobs): (Ids, Value),
    ) -> Result<()> {
        let place = |list: Ids| self.ids[list.id as usize].1;
        let values = self.view(logits);
        let controls = self.view(choose.controls);
        let slice = match task.logits {
            Some(_) => PANEL,
            None => CHOICE_SLICE,
        };
        let slices = logits.cols().div_ceil(slice);
        let kept = choose.k.min(slice);
        let split = (choose.prefer_from as usize).min(logits.cols());
        let seen = choose.seen.map_or(u32::MAX as usize, place);
        let params = || {
            Params::default()
                .counts([logits.rows(), logits.cols(), choose.k, split])
                .view(&values)
                .view(&controls)
                .counts([place(choose.allowed), seen])
                .counts([place(choose.seeds), place(tokens)])
                .number(f32::NEG_INFINITY)
                .counts([slices, kept])
        };
        let (slices_params, params) = (params(), params());
        let places = [
            logits.cols(),
            split,
            kept,
            controls.offset,
            controls.stride,
            place(choose.allowed),
            seen,
            place(choose.seeds),
        ];
        let found = self.memory.take(logits.rows() * slices * (4 + 4 * kept))?;
        let given = [
            values.buffer.clone(),
            controls.buffer.clone(),
            self.inputs.clone(),
            found.clone(),
        ];
        if let Some(Op::Linear {
            x, weight, scale, ..
        }) = task.logits
        {
            self.linear(LinearMap {
                x: self.view(*x),
                rows: x.rows(),
                weight,
                bias: None,
                activation: Activation::None,
                scale: *scale,
                residual: None,
                out: values,
                windows: None,
                norm: self.norm_of(task.norm)?,
                gated: false,
                choice: Some(ChoiceAfter {
                    places,
                    found: found.clone(),
                }),
            })?;
        } else {
            let workgroups = logits.rows() * slices;
            let buffers = given.to_vec();
            self.call(Shader::ChooseSlices, workgroups, slices_params, buffers)?;
        }
        let mut buffers = given.to_vec();
        buffers.extend([self.computed.clone(), self.view(logprobs).buffer]);
        self.call(Shader::ChooseTokens, logits.rows(), params, buffers)?;
        self.memory.give(found);
        Ok(())
    }
}

/// Numbers of rows of a table: `count` for each row of the result, `stride` from one row's to the next.
struct List {
    numbers: wgpu::Buffer,
    offset: usize,
    count: usize,
    stride: usize,
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
    /// Convolutions: rows of a sequence before and after, columns of a row, stride, padding, dilation.
    windows: Option<[usize; 6]>,
    /// A norm whose result is the input.
    norm: Option<NormBefore>,
    /// Whether the result is `silu(first half) * second half` of the outputs.
    gated: bool,
    /// The choice of tokens among the outputs.
    choice: Option<ChoiceAfter>,
}

/// A choice of tokens that begins in the linear map that gives their logits.
struct ChoiceAfter {
    /// Its parameters, from the vocabulary on in the order of `shaders/linear.wgsl`.
    places: [usize; 8],
    /// What each panel finds.
    found: wgpu::Buffer,
}

/// A norm that a linear map does itself.
struct NormBefore {
    kind: Normed,
    x: View,
    gamma: wgpu::Buffer,
    /// Or what multiplies the norm.
    beta: wgpu::Buffer,
    eps: f32,
    /// Where what multiplies the norm begins, how far its rows are apart, and the rows that each is for; 0 without.
    gain: [usize; 3],
}

pub(super) fn map_params(
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
        .counts([out.cols()])
}

/// As the shaders number them.
fn number(activation: Activation) -> usize {
    match activation {
        Activation::None => 0,
        Activation::Gelu => 1,
        Activation::Silu => 2,
        Activation::Relu => 3,
        Activation::Sigmoid => 4,
        Activation::Elu => 5,
        Activation::Tanh => 6,
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

pub(super) fn vector(vector: &Vector) -> Result<&GpuVector> {
    vector.storage()
}

fn too_wide<T>(hidden: usize) -> Result<T> {
    Err(Error::Unsupported {
        what: format!("an LSTM of width {hidden} on a graphics processor"),
        reason: format!("at most {LSTM_HIDDEN}, and its weights in one buffer, are"),
    })
}
