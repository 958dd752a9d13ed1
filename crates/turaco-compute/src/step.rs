//! Recording a forward pass once and replaying it for every token.

use std::sync::Arc;
use std::time::Instant;

use crate::device::{Device, Executable, KvCache, Matrix, StateBuffer, Vector};
use crate::error::{Error, Result};
use crate::graph::{
    Activation, AttentionShape, ChooseTokens, FilterTokens, Graph, Ids, IdsSource, Mask, Op, Scope,
    Slot, SlotKind, Value, ValueSource, Work,
};
use crate::trace::{self, Detail};

mod signal;

/// Records operations; [`finish`](Self::finish) turns them into a [`Step`].
///
/// Every method checks its shapes at once, so that a wrong model file fails where it is wrong, and a finished step
/// cannot go out of bounds.
#[derive(Debug)]
pub struct StepBuilder {
    device: Device,
    graph: Graph,
    name: Option<&'static str>,
    n_inputs: usize,
    n_id_inputs: usize,
}

/// How [`StepBuilder::linear`] finishes its result: `activation(x W^T + bias) * scale + residual`.
#[derive(Debug, Clone, Default)]
pub struct Epilogue {
    /// Added to every row.
    pub bias: Option<Arc<Vector>>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Factor before the residual is added; `None` = 1.
    pub scale: Option<f32>,
    /// Added last, `[rows, cols]` of the result.
    pub residual: Option<Value>,
}

impl Epilogue {
    /// Only a bias.
    pub fn bias(bias: &Arc<Vector>) -> Self {
        Self {
            bias: Some(bias.clone()),
            ..Self::default()
        }
    }

    /// Apply `activation` after the bias.
    #[must_use]
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// Add `residual` last.
    #[must_use]
    pub fn residual(mut self, residual: Value) -> Self {
        self.residual = Some(residual);
        self
    }
}

/// Sizes of [`StepBuilder::conv1d`].
#[derive(Debug, Clone, Copy)]
pub struct ConvShape {
    /// Stacked sequences in the input.
    pub n_sequences: usize,
    /// Taps.
    pub kernel: usize,
    /// Rows between two outputs.
    pub stride: usize,
    /// Zero rows before and after.
    pub padding: (usize, usize),
    /// Rows from one that a window sees to the next; 1 = neighbours.
    pub dilation: usize,
}

impl Default for ConvShape {
    /// One sequence, one tap, nothing added.
    fn default() -> Self {
        Self {
            n_sequences: 1,
            kernel: 1,
            stride: 1,
            padding: (0, 0),
            dilation: 1,
        }
    }
}

impl StepBuilder {
    /// Start recording for `device`.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            graph: Graph::default(),
            name: None,
            n_inputs: 0,
            n_id_inputs: 0,
        }
    }

    /// Call the step `name`: its runs are spans of this name while [`trace`] records.
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// Let linear maps and convolutions treat any number of rows alike, so that what a row gives does not depend on how many go
    /// with it: the processor gives the same bits then. (Graphics processors add in other orders, as ever.) Steps of few rows lose a
    /// little speed.
    #[must_use]
    pub fn uniform(mut self) -> Self {
        self.graph.uniform = true;
        self
    }

    /// Call what `record` records `name`, for traces of layers ([`Detail::Layers`]). Scopes nest.
    pub fn scope<T, E>(
        &mut self,
        name: &str,
        record: impl FnOnce(&mut Self) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.named_part(name, Detail::Layers, record)
    }

    /// As [`scope`](Self::scope), for a part that is a stage of the whole work ([`Detail::Stages`]).
    pub fn stage<T, E>(
        &mut self,
        name: &str,
        record: impl FnOnce(&mut Self) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.named_part(name, Detail::Stages, record)
    }

    fn named_part<T, E>(
        &mut self,
        name: &str,
        detail: Detail,
        record: impl FnOnce(&mut Self) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let first = self.graph.ops.len();
        let index = self.graph.scopes.len();
        self.graph.scopes.push(Scope {
            name: name.into(),
            detail,
            first,
            end: first,
        });
        let recorded = record(self);
        self.graph.scopes[index].end = self.graph.ops.len();
        recorded
    }

    /// An f32 matrix that the host gives to every run, in the order of these calls.
    pub fn input(&mut self, rows: usize, cols: usize) -> Value {
        self.n_inputs += 1;
        self.value(rows, cols, ValueSource::Input(self.n_inputs - 1))
    }

    /// A u32 matrix that the host gives to every run, in the order of these calls.
    pub fn input_ids(&mut self, rows: usize, cols: usize) -> Ids {
        self.n_id_inputs += 1;
        self.ids(rows, cols, IdsSource::Input(self.n_id_inputs - 1))
    }

    /// A slot for one cache per sequence that this step appends to.
    pub fn cache_slot(&mut self) -> Slot {
        self.slot(SlotKind::CacheWrite)
    }

    /// A slot for one cache per sequence that this step only reads.
    pub fn shared_cache_slot(&mut self) -> Slot {
        self.slot(SlotKind::CacheRead)
    }

    /// A slot for a [`StateBuffer`].
    pub fn buffer_slot(&mut self) -> Slot {
        self.slot(SlotKind::Buffer)
    }

    /// Columns `offset..offset + cols` of `x`, without a copy.
    pub fn columns(&mut self, x: Value, offset: usize, cols: usize) -> Result<Value> {
        check("columns", offset + cols <= x.cols(), || {
            (
                format!("at most {} columns", x.cols()),
                format!("{offset} + {cols}"),
            )
        })?;
        let (of, base) = match self.graph.values[x.id as usize].1 {
            ValueSource::Columns { of, offset } => (of, offset as usize),
            _ => (x.id, 0),
        };
        Ok(self.value(
            x.rows(),
            cols,
            ValueSource::Columns {
                of,
                offset: (base + offset) as u32,
            },
        ))
    }

    /// `table[ids] + positional[positions]`, `[ids.rows, table.cols]`; of a row of several ids the sum. Ids out of range are clamped to the table by the
    /// run with an error, never read out of bounds.
    pub fn embedding(
        &mut self,
        table: &Arc<Matrix>,
        ids: Ids,
        positional: Option<(&Arc<Matrix>, Ids)>,
    ) -> Result<Value> {
        check("embedding ids", ids.cols() > 0, || {
            ("at least one column".into(), format!("{}", ids.cols()))
        })?;
        if let Some((p, positions)) = positional {
            check(
                "embedding positions",
                p.cols() == table.cols() && positions.rows == ids.rows && positions.cols == 1,
                || {
                    (
                        format!("[{}, 1] positions of width {}", ids.rows, table.cols()),
                        format!(
                            "[{}, {}] of width {}",
                            positions.rows,
                            positions.cols,
                            p.cols()
                        ),
                    )
                },
            )?;
        }
        let out = self.computed(ids.rows(), table.cols());
        let positional = positional.map(|(p, i)| (p.clone(), i));
        Ok(self.push(
            Op::Embedding {
                table: table.clone(),
                ids,
                positional,
                out,
            },
            out,
        ))
    }

    /// `activation(x W^T + bias) * scale + residual`.
    pub fn linear(&mut self, x: Value, weight: &Arc<Matrix>, epilogue: Epilogue) -> Result<Value> {
        check("linear input", x.cols() == weight.cols(), || {
            (
                format!("{} columns", weight.cols()),
                format!("{}", x.cols()),
            )
        })?;
        self.check_vector("linear bias", epilogue.bias.as_ref(), weight.rows())?;
        let out = self.computed(x.rows(), weight.rows());
        if let Some(r) = epilogue.residual {
            check(
                "linear residual",
                r.rows == out.rows && r.cols == out.cols,
                || (shape(out), shape(r)),
            )?;
        }
        let Epilogue {
            bias,
            activation,
            scale,
            residual,
        } = epilogue;
        let scale = scale.unwrap_or(1.0);
        Ok(self.push(
            Op::Linear {
                x,
                weight: weight.clone(),
                bias,
                activation,
                scale,
                residual,
                out,
            },
            out,
        ))
    }

    /// Convolution over time of stacked sequences; weight `[c_out, kernel * c_in]`, kernel position outermost.
    pub fn conv1d(
        &mut self,
        x: Value,
        weight: &Arc<Matrix>,
        bias: Option<&Arc<Vector>>,
        activation: Activation,
        conv: ConvShape,
    ) -> Result<Value> {
        let ConvShape {
            n_sequences,
            kernel,
            stride,
            padding,
            dilation,
        } = conv;
        check("conv1d weight", weight.cols() == kernel * x.cols(), || {
            (
                format!("{} columns", kernel * x.cols()),
                format!("{}", weight.cols()),
            )
        })?;
        check(
            "conv1d sequences",
            n_sequences > 0
                && stride > 0
                && dilation > 0
                && kernel > 0
                && x.rows().is_multiple_of(n_sequences),
            || {
                (
                    "whole sequences, a kernel, a stride and a dilation".into(),
                    format!(
                        "{n_sequences} in {} rows, kernel {kernel}, stride {stride}, dilation {dilation}",
                        x.rows()
                    ),
                )
            },
        )?;
        let rows = x.rows() / n_sequences + padding.0 + padding.1;
        let seen = (kernel - 1) * dilation + 1;
        check("conv1d length", rows >= seen, || {
            (format!("at least {seen} rows"), format!("{rows}"))
        })?;
        self.check_vector("conv1d bias", bias, weight.rows())?;
        let out = self.computed(n_sequences * ((rows - seen) / stride + 1), weight.rows());
        let op = Op::Conv1d {
            x,
            n_sequences,
            weight: weight.clone(),
            bias: bias.cloned(),
            kernel,
            stride,
            dilation,
            padding,
            activation,
            snake: None,
            out,
        };
        Ok(self.push(op, out))
    }

    /// Layer normalisation per row.
    pub fn layer_norm(
        &mut self,
        x: Value,
        gamma: &Arc<Vector>,
        beta: &Arc<Vector>,
        eps: f32,
    ) -> Result<Value> {
        self.check_vector("layer_norm gamma", Some(gamma), x.cols())?;
        self.check_vector("layer_norm beta", Some(beta), x.cols())?;
        let out = self.computed(x.rows(), x.cols());
        Ok(self.push(
            Op::LayerNorm {
                x,
                gamma: gamma.clone(),
                beta: beta.clone(),
                eps,
                out,
            },
            out,
        ))
    }

    /// Root-mean-square normalisation per row, or per group of `gamma.len()` columns.
    pub fn rms_norm(&mut self, x: Value, gamma: &Arc<Vector>, eps: f32) -> Result<Value> {
        check(
            "rms_norm gamma",
            !gamma.is_empty() && x.cols().is_multiple_of(gamma.len()),
            || {
                (
                    format!("a divisor of {}", x.cols()),
                    format!("{}", gamma.len()),
                )
            },
        )?;
        self.push_rms_norm(x, gamma, None, eps)
    }

    /// The same, and row `s` of `gain` multiplies the rows of the `s`th of as many stacked sequences (adaptive
    /// normalisation: the gain depends on what the network is conditioned on).
    pub fn rms_norm_with_gain(
        &mut self,
        x: Value,
        gamma: &Arc<Vector>,
        gain: Value,
        eps: f32,
    ) -> Result<Value> {
        check(
            "rms_norm gain",
            gamma.len() == x.cols()
                && gain.cols == x.cols
                && gain.rows > 0
                && x.rows.is_multiple_of(gain.rows),
            || {
                (
                    format!("a row of {} values for each sequence", x.cols()),
                    format!("{} for {} rows", shape(gain), x.rows),
                )
            },
        )?;
        self.push_rms_norm(x, gamma, Some(gain), eps)
    }

    fn push_rms_norm(
        &mut self,
        x: Value,
        gamma: &Arc<Vector>,
        gain: Option<Value>,
        eps: f32,
    ) -> Result<Value> {
        let out = self.computed(x.rows(), x.cols());
        Ok(self.push(
            Op::RmsNorm {
                x,
                gamma: gamma.clone(),
                gain,
                eps,
                out,
            },
            out,
        ))
    }

    /// Rotary position embedding of every head of `x`.
    pub fn rope(
        &mut self,
        x: Value,
        positions: Ids,
        head_dim: usize,
        theta: f32,
        interleaved: bool,
    ) -> Result<Value> {
        check(
            "rope",
            head_dim > 0
                && head_dim.is_multiple_of(2)
                && x.cols().is_multiple_of(head_dim)
                && positions.rows == x.rows
                && matches!(self.graph.ids[positions.id as usize].1, IdsSource::Input(_)),
            || {
                (
                    format!("even heads and {} positions from the host", x.rows()),
                    format!("head_dim {head_dim}, {} positions", positions.rows),
                )
            },
        )?;
        let out = self.computed(x.rows(), x.cols());
        Ok(self.push(
            Op::Rope {
                x,
                positions,
                head_dim,
                theta,
                interleaved,
                out,
            },
            out,
        ))
    }

    /// Attention inside each of `n_sequences` stacked sequences.
    pub fn attention(
        &mut self,
        q: Value,
        k: Value,
        v: Value,
        n_sequences: usize,
        shape: AttentionShape,
    ) -> Result<Value> {
        check_heads(q, Some(k.cols()), shape)?;
        check(
            "attention keys",
            k.rows == v.rows
                && k.cols == v.cols
                && n_sequences > 0
                && q.rows().is_multiple_of(n_sequences)
                && k.rows().is_multiple_of(n_sequences),
            || {
                (
                    "keys and values of one shape in whole sequences".into(),
                    format!(
                        "{}, {}, {n_sequences} sequences",
                        self::shape(k),
                        self::shape(v)
                    ),
                )
            },
        )?;
        check(
            "attention mask",
            shape.mask == Mask::Full || q.rows == k.rows,
            || {
                (
                    "as many queries as keys".into(),
                    format!("{} and {}", q.rows, k.rows),
                )
            },
        )?;
        let out = self.computed(q.rows(), q.cols());
        Ok(self.push(
            Op::Attention {
                q,
                k,
                v,
                n_sequences,
                shape,
                out,
            },
            out,
        ))
    }

    /// Append keys and values of every sequence to layer `layer` of the caches bound to `slot`. A step may append to a
    /// layer several times, positions behind positions, as often to one layer as to another.
    pub fn cache_append(&mut self, slot: Slot, layer: usize, k: Value, v: Value) -> Result<()> {
        check(
            "cache_append",
            k.rows == v.rows
                && k.cols == v.cols
                && self.graph.slots[slot.0] == SlotKind::CacheWrite,
            || {
                (
                    "keys and values of one shape and a writable slot".into(),
                    format!("{}, {}", self::shape(k), self::shape(v)),
                )
            },
        )?;
        self.graph.ops.push(Op::CacheAppend { slot, layer, k, v });
        Ok(())
    }

    /// Attention of the queries of `n_sequences` sequences over their caches. The first query of a sequence sits at the
    /// first position of the last append to the layer.
    pub fn cached_attention(
        &mut self,
        q: Value,
        slot: Slot,
        layer: usize,
        n_sequences: usize,
        shape: AttentionShape,
    ) -> Result<Value> {
        self.push_cached_attention(q, slot, layer, n_sequences, shape, None)
            .map(|(out, _)| out)
    }

    /// The same, and the scores before the softmax of the listed heads: `[heads.len() * q.rows, capacity]`, head
    /// outermost, columns past the cache's length undefined.
    #[expect(
        clippy::too_many_arguments,
        reason = "cached_attention's and what to capture"
    )]
    pub fn cached_attention_scores(
        &mut self,
        q: Value,
        slot: Slot,
        layer: usize,
        n_sequences: usize,
        shape: AttentionShape,
        heads: &[usize],
        capacity: usize,
    ) -> Result<(Value, Value)> {
        check(
            "attention score heads",
            heads.iter().all(|&h| h < shape.n_heads),
            || {
                (
                    format!("heads below {}", shape.n_heads),
                    format!("{heads:?}"),
                )
            },
        )?;
        let scores = self.computed(heads.len() * q.rows(), capacity);
        self.push_cached_attention(
            q,
            slot,
            layer,
            n_sequences,
            shape,
            Some((heads.into(), scores)),
        )
        .map(|(out, _)| (out, scores))
    }

    /// `silu(gate) * up`.
    pub fn swiglu(&mut self, gate: Value, up: Value) -> Result<Value> {
        check(
            "swiglu",
            gate.rows == up.rows && gate.cols == up.cols,
            || (shape(gate), shape(up)),
        )?;
        let out = self.computed(up.rows(), up.cols());
        Ok(self.push(Op::SwiGlu { gate, up, out }, out))
    }

    /// An activation by itself.
    pub fn activate(&mut self, x: Value, activation: Activation) -> Value {
        let out = self.computed(x.rows(), x.cols());
        self.push(Op::Activate { x, activation, out }, out)
    }

    /// `a * a_scale + b * b_scale`; `b` repeats if it has fewer rows.
    pub fn add(&mut self, a: Value, a_scale: f32, b: Value, b_scale: f32) -> Result<Value> {
        check(
            "add",
            a.cols == b.cols && b.rows > 0 && a.rows.is_multiple_of(b.rows),
            || (shape(a), shape(b)),
        )?;
        let out = self.computed(a.rows(), a.cols());
        Ok(self.push(
            Op::Add {
                a,
                a_scale,
                b,
                b_scale,
                out,
            },
            out,
        ))
    }

    /// `x[r] + table[r % period]` over the first `period` rows of a table, for stacked sequences of `period` rows.
    pub fn add_table(&mut self, x: Value, table: &Arc<Matrix>) -> Result<Value> {
        check(
            "add_table",
            x.cols() == table.cols() && table.rows() > 0 && x.rows().is_multiple_of(table.rows()),
            || {
                (
                    format!(
                        "rows in multiples of {}, {} columns",
                        table.rows(),
                        table.cols()
                    ),
                    shape(x),
                )
            },
        )?;
        let out = self.computed(x.rows(), x.cols());
        Ok(self.push(
            Op::AddTable {
                x,
                table: table.clone(),
                out,
            },
            out,
        ))
    }

    /// `x[rows]`.
    pub fn gather_rows(&mut self, x: Value, rows: Ids) -> Result<Value> {
        check("gather_rows", rows.cols() == 1, || {
            ("one column".into(), format!("{}", rows.cols()))
        })?;
        let out = self.computed(rows.rows(), x.cols());
        Ok(self.push(Op::GatherRows { x, rows, out }, out))
    }

    /// Each of `n_sequences` stacked matrices transposed.
    pub fn transpose(&mut self, x: Value, n_sequences: usize) -> Result<Value> {
        check(
            "transpose",
            n_sequences > 0 && x.rows().is_multiple_of(n_sequences),
            || {
                (
                    "whole sequences".into(),
                    format!("{n_sequences} in {} rows", x.rows()),
                )
            },
        )?;
        let out = self.computed(n_sequences * x.cols(), x.rows() / n_sequences);
        Ok(self.push(
            Op::Transpose {
                x,
                n_sequences,
                out,
            },
            out,
        ))
    }

    /// Softmax per row.
    pub fn softmax(&mut self, x: Value) -> Value {
        let out = self.computed(x.rows(), x.cols());
        self.push(Op::Softmax { x, out }, out)
    }

    /// Magnitude of rows that hold real parts, then imaginary parts.
    pub fn magnitude(&mut self, x: Value) -> Result<Value> {
        check("magnitude", x.cols().is_multiple_of(2), || {
            ("an even number of columns".into(), format!("{}", x.cols()))
        })?;
        let out = self.computed(x.rows(), x.cols() / 2);
        Ok(self.push(Op::Magnitude { x, out }, out))
    }

    /// LSTM over the rows of `x`; weights `[4 * hidden, …]` in the gate order i, f, g, o; both biases added up in `bias`.
    pub fn lstm(
        &mut self,
        x: Value,
        w_ih: &Arc<Matrix>,
        w_hh: &Arc<Matrix>,
        bias: &Arc<Vector>,
        state: Slot,
    ) -> Result<Value> {
        let hidden = w_hh.cols();
        check(
            "lstm",
            w_ih.cols() == x.cols()
                && w_hh.rows() == 4 * hidden
                && w_ih.rows() == 4 * hidden
                && self.graph.slots[state.0] == SlotKind::Buffer,
            || {
                (
                    format!("weights [4 h, {}] and [4 h, h]", x.cols()),
                    format!(
                        "[{}, {}] and [{}, {}]",
                        w_ih.rows(),
                        w_ih.cols(),
                        w_hh.rows(),
                        w_hh.cols()
                    ),
                )
            },
        )?;
        self.check_vector("lstm bias", Some(bias), 4 * hidden)?;
        let out = self.computed(x.rows(), hidden);
        Ok(self.push(
            Op::Lstm {
                x,
                w_ih: w_ih.clone(),
                w_hh: w_hh.clone(),
                bias: bias.clone(),
                state,
                out,
            },
            out,
        ))
    }

    /// What sampling may choose from; see [`FilterTokens`]. `[rows, vocab]`.
    pub fn filter_tokens(&mut self, logits: Value, filter: FilterTokens) -> Result<Value> {
        let words = logits.cols().div_ceil(32);
        let bitset_fits = |ids: Ids| ids.rows == logits.rows && ids.cols() == words;
        let FilterTokens {
            allowed,
            seen,
            controls,
        } = filter;
        check(
            "filter_tokens",
            bitset_fits(allowed)
                && seen.is_none_or(bitset_fits)
                && controls.rows == logits.rows
                && controls.cols == 4,
            || {
                (
                    format!("bit sets [{0}, {words}] and controls [{0}, 4]", logits.rows),
                    format!("[{}, {}], {}", allowed.rows, allowed.cols, shape(controls)),
                )
            },
        )?;
        let out = self.computed(logits.rows(), logits.cols());
        let op = Op::FilterTokens {
            logits,
            filter,
            out,
        };
        Ok(self.push(op, out))
    }

    /// Constrained token choice; see [`ChooseTokens`]. Returns token ids and log-probabilities, both `[rows, k]`.
    pub fn choose_tokens(&mut self, logits: Value, choose: ChooseTokens) -> Result<(Ids, Value)> {
        let words = logits.cols().div_ceil(32);
        let bitset_fits = |ids: Ids| ids.rows == logits.rows && ids.cols() == words;
        check(
            "choose_tokens",
            bitset_fits(choose.allowed) && choose.seen.is_none_or(bitset_fits),
            || {
                (
                    format!("bit sets [{}, {words}]", logits.rows),
                    format!("[{}, {}]", choose.allowed.rows, choose.allowed.cols),
                )
            },
        )?;
        check(
            "choose_tokens controls",
            choose.controls.rows == logits.rows
                && choose.controls.cols == 3
                && choose.seeds.rows == logits.rows
                && choose.seeds.cols == 2,
            || {
                (
                    format!("[{0}, 3] and [{0}, 2]", logits.rows),
                    shape(choose.controls),
                )
            },
        )?;
        check(
            "choose_tokens k",
            (1..=logits.cols()).contains(&choose.k),
            || (format!("1 to {}", logits.cols()), format!("{}", choose.k)),
        )?;
        let tokens = self.ids(logits.rows(), choose.k, IdsSource::Computed);
        let logprobs = self.computed(logits.rows(), choose.k);
        self.graph.ops.push(Op::ChooseTokens {
            logits,
            choose,
            tokens,
            logprobs,
        });
        Ok((tokens, logprobs))
    }

    /// Let the host read `x` after every run; returns the output's number.
    pub fn output(&mut self, x: Value) -> usize {
        self.declare_output(x, false)
    }

    /// As [`output`](Self::output), for a host that seldom reads it: the device keeps `x` until the next run, and
    /// [`Step::output`] brings it over when it is asked for.
    pub fn output_on_demand(&mut self, x: Value) -> usize {
        self.declare_output(x, true)
    }

    fn declare_output(&mut self, x: Value, on_demand: bool) -> usize {
        self.graph.outputs.push(x);
        self.graph.on_demand.push(on_demand);
        self.graph.outputs.len() - 1
    }

    /// Let the host read `x` after every run; returns the u32 output's number.
    pub fn output_ids(&mut self, x: Ids) -> usize {
        self.graph.id_outputs.push(x);
        self.graph.id_outputs.len() - 1
    }

    /// Prepare the recording for replay.
    ///
    /// # Errors
    /// No memory for the scratch space, or an operation that the device has no kernel for.
    pub fn finish(self) -> Result<Step> {
        let slots = self.graph.slots.clone();
        let inputs = self
            .graph
            .values
            .iter()
            .filter(|(_, s)| matches!(s, ValueSource::Input(_)))
            .map(|(v, _)| v.rows() * v.cols())
            .collect();
        let id_inputs = self
            .graph
            .ids
            .iter()
            .filter(|(_, s)| matches!(s, IdsSource::Input(_)))
            .map(|(v, _)| v.rows() * v.cols())
            .collect();
        let executable = self.device.0.compile(self.graph)?;
        Ok(Step {
            executable,
            name: self.name,
            slots,
            inputs,
            id_inputs,
        })
    }

    fn push_cached_attention(
        &mut self,
        q: Value,
        slot: Slot,
        layer: usize,
        n_sequences: usize,
        shape: AttentionShape,
        scores: Option<(Arc<[usize]>, Value)>,
    ) -> Result<(Value, ())> {
        check_heads(q, None, shape)?;
        check(
            "cached_attention",
            n_sequences > 0
                && q.rows().is_multiple_of(n_sequences)
                && self.graph.slots[slot.0] != SlotKind::Buffer,
            || {
                (
                    "whole sequences and a cache slot".into(),
                    format!("{n_sequences} in {} rows", q.rows()),
                )
            },
        )?;
        let out = self.computed(q.rows(), q.cols());
        self.graph.ops.push(Op::CachedAttention {
            q,
            slot,
            layer,
            n_sequences,
            shape,
            scores,
            out,
        });
        Ok((out, ()))
    }

    fn check_vector(&self, what: &str, vector: Option<&Arc<Vector>>, len: usize) -> Result<()> {
        vector.map_or(Ok(()), |v| {
            check(what, v.len() == len, || {
                (format!("{len} values"), format!("{}", v.len()))
            })
        })
    }

    fn push(&mut self, op: Op, out: Value) -> Value {
        self.graph.ops.push(op);
        out
    }

    fn computed(&mut self, rows: usize, cols: usize) -> Value {
        self.value(rows, cols, ValueSource::Computed)
    }

    fn value(&mut self, rows: usize, cols: usize, source: ValueSource) -> Value {
        let value = Value {
            id: self.graph.values.len() as u32,
            rows: rows as u32,
            cols: cols as u32,
        };
        self.graph.values.push((value, source));
        value
    }

    fn ids(&mut self, rows: usize, cols: usize, source: IdsSource) -> Ids {
        let ids = Ids {
            id: self.graph.ids.len() as u32,
            rows: rows as u32,
            cols: cols as u32,
        };
        self.graph.ids.push((ids, source));
        ids
    }

    fn slot(&mut self, kind: SlotKind) -> Slot {
        self.graph.slots.push(kind);
        Slot(self.graph.slots.len() - 1)
    }
}

/// State that one run binds to a [`Slot`].
#[derive(Debug)]
pub enum SlotBinding<'run, 'state> {
    /// One cache per sequence, appended to.
    Write(&'run mut [&'state mut KvCache]),
    /// One cache per sequence, only read; may repeat.
    Read(&'run [&'state KvCache]),
    /// A state buffer.
    Buffer(&'run mut StateBuffer),
}

/// Everything that one run needs from the host.
#[derive(Debug)]
pub struct Bindings<'run, 'state> {
    /// f32 inputs in the order in which they were declared.
    pub inputs: &'run [&'run [f32]],
    /// u32 inputs in the order in which they were declared.
    pub ids: &'run [&'run [u32]],
    /// States in the order in which the slots were declared.
    pub slots: &'run mut [SlotBinding<'run, 'state>],
}

/// A forward pass that can be replayed; owns its scratch memory and allocates nothing while it runs.
pub struct Step {
    executable: Box<dyn Executable>,
    name: Option<&'static str>,
    slots: Vec<SlotKind>,
    inputs: Vec<usize>,
    id_inputs: Vec<usize>,
}

impl Step {
    /// Run once. Written caches grow by the rows that were appended.
    ///
    /// # Errors
    /// Bindings that do not fit the recording, a full cache, an id out of range, or a failed device. Caches keep their
    /// length then.
    pub fn run(&mut self, bindings: &mut Bindings<'_, '_>) -> Result<()> {
        self.check_bindings(bindings)?;
        match self.name {
            Some(name) if trace::detail() != Detail::Off => self.run_recorded(name, bindings),
            _ => self.executable.run(bindings),
        }
    }

    /// As [`run`](Self::run), for threads that must not wait, such as that of a page in a browser. Nothing is recorded.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_async(&mut self, bindings: &mut Bindings<'_, '_>) -> Result<()> {
        self.check_bindings(bindings)?;
        self.executable.run_async(bindings).await
    }

    /// Have an [output on demand](StepBuilder::output_on_demand) at hand before [`output`](Self::output) is called, for threads
    /// that must not wait.
    ///
    /// # Errors
    /// A failed device.
    pub async fn fetch_async(&mut self, index: usize) -> Result<()> {
        self.executable.fetch_async(index).await
    }

    fn check_bindings(&self, bindings: &Bindings<'_, '_>) -> Result<()> {
        let inputs_fit = bindings.inputs.len() == self.inputs.len()
            && bindings
                .inputs
                .iter()
                .zip(&self.inputs)
                .all(|(given, &len)| given.len() == len);
        let ids_fit = bindings.ids.len() == self.id_inputs.len()
            && bindings
                .ids
                .iter()
                .zip(&self.id_inputs)
                .all(|(given, &len)| given.len() == len);
        let slots_fit = bindings.slots.len() == self.slots.len()
            && bindings.slots.iter().zip(&self.slots).all(|(given, kind)| {
                matches!(
                    (given, kind),
                    (SlotBinding::Write(_), SlotKind::CacheWrite)
                        | (SlotBinding::Read(_), SlotKind::CacheRead)
                        | (SlotBinding::Buffer(_), SlotKind::Buffer)
                )
            });
        check("step bindings", inputs_fit && ids_fit && slots_fit, || {
            (
                format!(
                    "inputs {:?}, ids {:?}, slots {:?}",
                    self.inputs, self.id_inputs, self.slots
                ),
                format!(
                    "{} inputs, {} ids, {} slots",
                    bindings.inputs.len(),
                    bindings.ids.len(),
                    bindings.slots.len()
                ),
            )
        })
    }

    #[cold]
    fn run_recorded(&mut self, name: &'static str, bindings: &mut Bindings<'_, '_>) -> Result<()> {
        let before = self.executable.activity();
        let begin = Instant::now();
        self.executable.run(bindings)?;
        let times = (begin, Instant::now());
        let work = Arc::clone(self.executable.work());
        let activity = self.executable.activity().zip(before);
        let activity = activity.map(|(after, before)| after.since(&before));
        trace::record_run(name.into(), Detail::Stages, times, Some(work), activity);
        Ok(())
    }

    /// What a run has to do at least.
    pub fn work(&self) -> &Work {
        self.executable.work()
    }

    /// Output number `index` of the last run, rows after rows.
    ///
    /// # Errors
    /// No such output, or a failed device.
    pub fn output(&self, index: usize) -> Result<&[f32]> {
        self.executable.output(index)
    }

    /// u32 output number `index` of the last run.
    ///
    /// # Errors
    /// No such output, or a failed device.
    pub fn output_ids(&self, index: usize) -> Result<&[u32]> {
        self.executable.id_output(index)
    }

    /// Bytes of scratch memory.
    pub fn scratch_bytes(&self) -> usize {
        self.executable.scratch_bytes()
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step")
            .field("slots", &self.slots)
            .field("scratch_bytes", &self.scratch_bytes())
            .finish_non_exhaustive()
    }
}

fn check(what: &str, ok: bool, describe: impl FnOnce() -> (String, String)) -> Result<()> {
    if ok {
        return Ok(());
    }
    let (expected, found) = describe();
    Err(Error::Shape {
        what: what.into(),
        expected,
        found,
    })
}

fn check_heads(q: Value, kv_cols: Option<usize>, shape: AttentionShape) -> Result<()> {
    let AttentionShape {
        n_heads,
        n_kv_heads,
        head_dim,
        ..
    } = shape;
    let fits = n_kv_heads > 0
        && head_dim > 0
        && n_heads % n_kv_heads == 0
        && q.cols() == n_heads * head_dim
        && kv_cols.is_none_or(|cols| cols == n_kv_heads * head_dim);
    check("attention heads", fits, || {
        (
            format!("{n_heads} query and {n_kv_heads} key heads of {head_dim}"),
            format!("{} and {kv_cols:?} columns", q.cols()),
        )
    })
}

fn shape(v: Value) -> String {
    format!("[{}, {}]", v.rows, v.cols)
}
