//! The calls of each operation.

use std::sync::Arc;

use super::super::driver::Address;
use super::super::kernels::Module;
use super::super::memory::View;
use super::super::params::{
    ChooseParams, FilterParams, LinearParams, LookupParams, LstmParams, MapParams, NormParams,
    SoftmaxParams,
};
use super::super::weights::{CudaMatrix, CudaVector};
use super::grids::{
    CHOICE_SLICE, CHOICE_THREADS, FILTER_THREADS, FewRows, GROUPS_AT_ONCE, LOOKUP_THREADS,
    LSTM_THREADS, MAP_THREADS, MOST_GROUP_COLUMNS, ROW_THREADS, choice_slices, choice_words,
    has_tiles, map_blocks, matmul_cut, matvec_cut, uniform_cut,
};
use super::{FEW_ROWS, FEW_ROWS_IN_TILES, Planner};
use crate::cpu::packed::PANEL;
use crate::device::{Matrix, Vector};
use crate::error::{Error, Result};
use crate::fuse::Task;
use crate::graph::{Activation, ChooseTokens, FilterTokens, Ids, Op, Slot, Value};
use crate::slots::NewRows;

/// Most inputs and outputs of an LSTM.
const MOST_HIDDEN: usize = 1024;

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
                let numbers = self.indices("token ids", *ids, table.rows());
                let list = Some((numbers, ids.cols(), ids.cols()));
                self.lookup(table, list, None, false, *out)?;
                if let Some((table, positions)) = positional {
                    let numbers = self.indices("positions", *positions, table.rows());
                    self.lookup(table, Some((numbers, 1, 1)), None, true, *out)?;
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
                norm: task.norm,
                gated: task.swiglu.is_some(),
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
                let (target, room) = match snake {
                    Some(_) => {
                        let room = self.places.take(out.rows() * out.cols());
                        let view = View {
                            address: self.places.address_of(room),
                            stride: out.cols(),
                        };
                        (view, Some(room))
                    }
                    None => (self.view(*out), None),
                };
                self.linear(LinearMap {
                    x: self.view(*x),
                    rows: out.rows(),
                    weight,
                    bias: bias.as_deref(),
                    activation: *activation,
                    scale: 1.0,
                    residual: None,
                    out: target,
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
                })?;
                if let (Some(snake), Some(room)) = (snake, room) {
                    self.snake(snake, target, *out)?;
                    self.places.give(room);
                }
                Ok(())
            }
            Op::LayerNorm { .. } | Op::RmsNorm { .. } => self.norm(task.op),
            Op::Rope {
                x,
                positions,
                head_dim,
                theta,
                interleaved,
                out,
            } => {
                let table = View {
                    address: self.angles(*positions, *head_dim, *theta),
                    stride: *head_dim,
                };
                let params = MapParams {
                    kind: *head_dim as u32,
                    x_rows: u32::from(*interleaved),
                    ..self.binary(self.view(*x), (table, 1), *out)
                };
                self.map("map_rotate", *out, params)
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
                self.append((*slot, *layer), (*k, *v), task, new_rows)
            }
            Op::CachedAttention { .. } => self.cached_attention(task, new_rows),
            Op::SwiGlu { gate, up, out } => {
                let params = self.binary(self.view(*gate), (self.view(*up), up.rows()), *out);
                self.map("map_swiglu", *out, params)
            }
            Op::Activate { x, activation, out } => {
                let params = MapParams {
                    kind: number(*activation),
                    ..self.unary(self.view(*x), *out)
                };
                self.map("map_activate", *out, params)
            }
            Op::Add {
                a,
                a_scale,
                b,
                b_scale,
                out,
            } => {
                let params = MapParams {
                    a_scale: *a_scale,
                    b_scale: *b_scale,
                    ..self.binary(self.view(*a), (self.view(*b), b.rows()), *out)
                };
                self.map("map_add", *out, params)
            }
            Op::AddTable { x, table, out } => {
                let x = self.view(*x);
                self.lookup(table, None, Some(x), false, *out)
            }
            Op::GatherRows { x, rows, out } => {
                let ids = self.indices("gather_rows", *rows, x.rows());
                let params = MapParams {
                    ids,
                    x_rows: x.rows() as u32,
                    ..self.unary(self.view(*x), *out)
                };
                self.map("map_gather", *out, params)
            }
            Op::Transpose {
                x,
                n_sequences,
                out,
            } => self.transpose(*x, *n_sequences, *out),
            Op::Softmax { x, out } => {
                let view = self.view(*x);
                let params = SoftmaxParams {
                    x: view.address,
                    out: self.view(*out).address,
                    rows: x.rows() as u32,
                    cols: x.cols() as u32,
                    x_stride: view.stride as u32,
                };
                let rows = if x.cols() == 0 { 0 } else { x.rows() };
                self.call(
                    (Module::Rows, "softmax_rows"),
                    [rows, 1, 1],
                    ROW_THREADS,
                    params,
                )
            }
            Op::Magnitude { x, out } => {
                let params = self.unary(self.view(*x), *out);
                self.map("map_magnitude", *out, params)
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
            Op::ChooseTokens {
                logits,
                choose,
                tokens,
                logprobs,
            } => self.choose_tokens((*logits, choose), (*tokens, *logprobs)),
            Op::History { .. }
            | Op::Snake { .. }
            | Op::DepthwiseConv1d { .. }
            | Op::Multiply { .. }
            | Op::Concat { .. }
            | Op::Statistics { .. } => self.signal(task.op),
        }
    }

    /// Rows of a table, given by a list (its address, numbers for each row of the result, and from one to the next) or one after
    /// the other, written to or added to a contiguous result.
    fn lookup(
        &mut self,
        table: &Matrix,
        list: Option<(Address, usize, usize)>,
        x: Option<View>,
        accumulate: bool,
        out: Value,
    ) -> Result<()> {
        let weights = matrix(table)?;
        let (ids, count, id_stride) = list.unwrap_or((0, 1, 0));
        let params = LookupParams {
            weights: weights.weights.address,
            scales: weights.scales.as_ref().map_or(0, |scales| scales.address),
            ids,
            x: x.map_or(0, |x| x.address),
            out: self.view(out).address,
            panel_bytes: weights.panel_bytes as u64,
            rows: out.rows() as u32,
            cols: out.cols() as u32,
            table_rows: table.rows() as u32,
            count: count as u32,
            id_stride: id_stride as u32,
            x_stride: x.map_or(0, |x| x.stride as u32),
            accumulate: u32::from(accumulate),
        };
        let module = Module::Lookup(weights.weight_type);
        let grid = [
            out.rows(),
            out.cols().div_ceil(4 * LOOKUP_THREADS as usize),
            1,
        ];
        self.call((module, "lookup"), grid, LOOKUP_THREADS, params)
    }

    fn linear(&mut self, map: LinearMap<'_>) -> Result<()> {
        let weights = matrix(map.weight)?;
        let outputs = map.weight.rows() / if map.gated { 2 } else { 1 };
        let inputs = map.weight.cols();
        let [rows_in, rows_out, channels, step, padding, dilation] =
            map.windows.unwrap_or([1; 6]).map(|number| number as u32);
        let mut params = LinearParams {
            weights: weights.weights.address,
            scales: weights.scales.as_ref().map_or(0, |scales| scales.address),
            x: map.x.address,
            out: map.out.address,
            bias: optional(map.bias)?,
            residual: map.residual.map_or(0, |residual| residual.address),
            panel_bytes: weights.panel_bytes as u64,
            rows: map.rows as u32,
            inputs: inputs as u32,
            outputs: outputs as u32,
            x_stride: map.x.stride as u32,
            out_stride: outputs as u32,
            residual_stride: map.residual.map_or(0, |residual| residual.stride as u32),
            activation: number(map.activation),
            scale: map.scale,
            rows_in,
            rows_out,
            channels,
            step,
            padding,
            dilation,
            splits: 1,
            ..LinearParams::default()
        };
        if let Some(norm) = map.norm {
            self.norm_before(norm, &mut params)?;
        }
        let card = self.context.card();
        let processors = card.processors;
        let most_rows = match has_tiles(weights.weight_type) && self.context.capability >= 80 {
            true => FEW_ROWS_IN_TILES,
            false => FEW_ROWS,
        };
        if map.windows.is_none() && map.rows <= most_rows && !self.graph.uniform {
            let panels = outputs.div_ceil(PANEL);
            let few = FewRows {
                rows: map.rows,
                weights: weights.weight_type,
                panels,
                inputs,
                gated: map.gated,
            };
            let cut = matvec_cut(&few, card);
            let blocks =
                outputs.div_ceil(cut.columns as usize) * map.rows.div_ceil(cut.rows as usize);
            let module = Module::Matvec(weights.weight_type, cut);
            let before = self.launches.len();
            self.call((module, "matvec"), [blocks, 1, 1], 32 * cut.warps, params)?;
            if self.launches.len() > before {
                self.read_ahead(cut, panels, &params);
            }
            return Ok(());
        }
        let cut = match self.graph.uniform {
            true => uniform_cut(map.rows, outputs, inputs, processors),
            false => matmul_cut(map.rows, outputs, inputs, processors),
        };
        let mut room = None;
        if cut.splits > 1 {
            let taken = self
                .places
                .take(cut.splits * cut.tiles * cut.tile * cut.tile);
            params.partial = self.places.address_of(taken);
            params.counters = self.counters(cut.tiles);
            params.splits = cut.splits as u32;
            room = Some(taken);
        }
        let module = Module::Matmul(weights.weight_type, cut.tile as u32);
        let name = match map.windows {
            Some(_) => "matmul_windows",
            None => "matmul",
        };
        self.call(
            (module, name),
            [cut.tiles, cut.splits, 1],
            2 * cut.tile as u32,
            params,
        )?;
        if let Some(room) = room {
            self.places.give(room);
        }
        Ok(())
    }

    /// What a linear map has to know of a norm that it does itself.
    fn norm_before(&self, norm: &Op, params: &mut LinearParams) -> Result<()> {
        let x = match norm {
            Op::LayerNorm {
                x,
                gamma,
                beta,
                eps,
                ..
            } => {
                params.norm = 1;
                params.gamma = vector(gamma)?;
                params.beta = vector(beta)?;
                params.eps = *eps;
                *x
            }
            Op::RmsNorm {
                x,
                gamma,
                gain,
                eps,
                ..
            } => {
                params.norm = 2;
                params.gamma = vector(gamma)?;
                params.eps = *eps;
                if let Some(gain) = gain {
                    let view = self.view(*gain);
                    params.gain = view.address;
                    params.gain_stride = view.stride as u32;
                    params.gain_each = each(*x, *gain);
                }
                *x
            }
            _ => return Ok(()),
        };
        let view = self.view(x);
        params.x = view.address;
        params.x_stride = view.stride as u32;
        Ok(())
    }

    fn norm(&mut self, op: &Op) -> Result<()> {
        let (x, gamma, beta, gain, eps, out) = match op {
            Op::LayerNorm {
                x,
                gamma,
                beta,
                eps,
                out,
            } => (*x, gamma, Some(beta), None, *eps, *out),
            Op::RmsNorm {
                x,
                gamma,
                gain,
                eps,
                out,
            } => (*x, gamma, None, *gain, *eps, *out),
            _ => return Ok(()),
        };
        let cols = gamma.len();
        if cols == 0 {
            return Ok(());
        }
        let groups = x.cols() / cols;
        let view = self.view(x);
        let gain_view = gain.map(|gain| self.view(gain));
        let params = NormParams {
            x: view.address,
            gamma: vector(gamma)?,
            beta: optional(beta.map(|beta| &**beta))?,
            gain: gain_view.map_or(0, |gain| gain.address),
            out: self.view(out).address,
            rows: x.rows() as u32,
            cols: cols as u32,
            groups: groups as u32,
            x_stride: view.stride as u32,
            gain_stride: gain_view.map_or(0, |gain| gain.stride as u32),
            gain_each: gain.map_or(1, |gain| each(x, gain)),
            layer: u32::from(beta.is_some()),
            eps,
        };
        let norms = x.rows() * groups;
        if cols <= MOST_GROUP_COLUMNS {
            let grid = [norms.div_ceil(GROUPS_AT_ONCE), 1, 1];
            return self.call((Module::Rows, "norm_groups"), grid, ROW_THREADS, params);
        }
        self.call(
            (Module::Rows, "norm_rows"),
            [norms, 1, 1],
            ROW_THREADS,
            params,
        )
    }

    /// Parameters of a function of one matrix.
    pub(super) fn unary(&self, a: View, out: Value) -> MapParams {
        MapParams {
            a: a.address,
            out: self.view(out).address,
            rows: out.rows() as u32,
            cols: out.cols() as u32,
            a_stride: a.stride as u32,
            b_rows: 1,
            out_stride: out.cols() as u32,
            x_rows: 1,
            ..MapParams::default()
        }
    }

    /// Parameters of a function of two matrices, the second of which has so many rows.
    pub(super) fn binary(&self, a: View, (b, b_rows): (View, usize), out: Value) -> MapParams {
        MapParams {
            b: b.address,
            b_stride: b.stride as u32,
            b_rows: b_rows as u32,
            ..self.unary(a, out)
        }
    }

    /// Call a function of `map.cu` for every value of `out`.
    pub(super) fn map(&mut self, name: &str, out: Value, params: MapParams) -> Result<()> {
        self.map_values(name, out.rows() * out.cols(), params)
    }

    /// Call a function of `map.cu` for so many values.
    pub(super) fn map_values(
        &mut self,
        name: &str,
        values: usize,
        params: MapParams,
    ) -> Result<()> {
        let blocks = map_blocks(values, self.context.multiprocessors as usize);
        self.call((Module::Map, name), [blocks, 1, 1], MAP_THREADS, params)
    }

    /// A window of columns without the gaps between its rows.
    pub(super) fn copy_rows(&mut self, value: Value, from: View, to: Address) -> Result<()> {
        let params = MapParams {
            out: to,
            ..self.unary(from, value)
        };
        self.map("map_activate", value, params)
    }

    fn transpose(&mut self, x: Value, n_sequences: usize, out: Value) -> Result<()> {
        /// Rows and columns of a tile.
        const TILE: usize = 32;
        let rows = x.rows() / n_sequences;
        let params = MapParams {
            b_rows: x.cols() as u32,
            x_rows: rows as u32,
            ..self.unary(self.view(x), out)
        };
        let tiles = n_sequences * x.cols().div_ceil(TILE) * rows.div_ceil(TILE);
        self.call(
            (Module::Map, "map_transpose"),
            [tiles, 1, 1],
            MAP_THREADS,
            params,
        )
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
        if hidden > MOST_HIDDEN {
            return Err(Error::Unsupported {
                what: format!("an LSTM of width {hidden} on a graphics processor"),
                reason: format!("at most {MOST_HIDDEN} is"),
            });
        }
        let room = self.places.take(x.rows() * 4 * hidden);
        let gates = View {
            address: self.places.address_of(room),
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
            out: gates,
            windows: None,
            norm: None,
            gated: false,
        })?;
        let params = LstmParams {
            weights: weights.weights.address,
            scales: weights.scales.as_ref().map_or(0, |scales| scales.address),
            gates: gates.address,
            out: self.view(out).address,
            slot: self.slot(state),
            panel_bytes: weights.panel_bytes as u64,
            rows: x.rows() as u32,
            hidden: hidden as u32,
        };
        self.call(
            (Module::Lstm(weights.weight_type), "lstm"),
            [1, 1, 1],
            LSTM_THREADS,
            params,
        )?;
        self.places.give(room);
        Ok(())
    }

    fn filter_tokens(&mut self, logits: Value, filter: &FilterTokens, out: Value) -> Result<()> {
        let (values, controls) = (self.view(logits), self.view(filter.controls));
        let params = FilterParams {
            logits: values.address,
            controls: controls.address,
            allowed: self.list(filter.allowed),
            seen: filter.seen.map_or(0, |seen| self.list(seen)),
            out: self.view(out).address,
            rows: logits.rows() as u32,
            cols: logits.cols() as u32,
            stride: values.stride as u32,
            controls_stride: controls.stride as u32,
        };
        self.call(
            (Module::Filter, "filter_tokens"),
            [logits.rows(), 1, 1],
            FILTER_THREADS,
            params,
        )
    }

    fn choose_tokens(
        &mut self,
        (logits, choose): (Value, &ChooseTokens),
        (tokens, logprobs): (Ids, Value),
    ) -> Result<()> {
        let (values, controls) = (self.view(logits), self.view(choose.controls));
        let split = (choose.prefer_from as usize).min(logits.cols());
        let slices = choice_slices(logits.cols(), split);
        let kept = choose.k.min(CHOICE_SLICE);
        let room = self
            .places
            .take(logits.rows() * slices * choice_words(kept));
        let params = ChooseParams {
            logits: values.address,
            controls: controls.address,
            allowed: self.list(choose.allowed),
            seen: choose.seen.map_or(0, |seen| self.list(seen)),
            seeds: self.list(choose.seeds),
            found: self.places.address_of(room),
            tokens: self.list(tokens),
            logprobs: self.view(logprobs).address,
            counters: self.counters(logits.rows()),
            rows: logits.rows() as u32,
            cols: logits.cols() as u32,
            stride: values.stride as u32,
            controls_stride: controls.stride as u32,
            k: choose.k as u32,
            split: split as u32,
            slices: slices as u32,
            kept: kept as u32,
        };
        self.call(
            (Module::Choose, "choose"),
            [slices, logits.rows(), 1],
            CHOICE_THREADS,
            params,
        )?;
        self.places.give(room);
        Ok(())
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
    /// Convolutions: rows of a sequence before and after, columns of a row, stride, padding, dilation.
    windows: Option<[usize; 6]>,
    /// A norm whose result is the input.
    norm: Option<&'a Op>,
    /// Whether the result is `silu(first half) * second half` of the outputs.
    gated: bool,
}

/// Whether a matrix may give both halves of a SwiGLU in one call: all can.
pub(super) fn is_gated(_: &Matrix) -> Result<bool> {
    Ok(true)
}

/// As the kernels number them.
fn number(activation: Activation) -> u32 {
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

/// Rows of `x` that one row of `gain` multiplies.
fn each(x: Value, gain: Value) -> u32 {
    x.rows().checked_div(gain.rows()).unwrap_or(1).max(1) as u32
}

fn matrix(matrix: &Matrix) -> Result<&CudaMatrix> {
    matrix.storage()
}

/// Where a vector is.
pub(super) fn vector(vector: &Vector) -> Result<Address> {
    Ok(vector.storage::<CudaVector>()?.0.address)
}

/// Where a vector is that may be left out.
pub(super) fn optional(wanted: Option<&Vector>) -> Result<Address> {
    wanted.map_or(Ok(0), vector)
}
