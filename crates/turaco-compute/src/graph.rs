//! The closed list of operations, and a recording of them.
//!
//! A model's forward pass calls methods of [`StepBuilder`](crate::StepBuilder); each appends one [`Op`] to a [`Graph`].
//! A device turns the finished graph into something it can replay: a flat list of kernel calls on the CPU, one
//! command buffer on a GPU. Nothing in a graph depends on the device.
//!
//! Every activation is a matrix of f32 `[rows, cols]`, rows outermost. A batch of sequences is stacked by rows:
//! sequence `s` with `t` rows each occupies rows `s * t .. (s + 1) * t`.

use std::sync::Arc;

use crate::device::{Matrix, Vector, WeightType};
use crate::trace::Detail;

/// An f32 matrix `[rows, cols]` that exists while a step runs. A value can be a window of columns of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Value {
    pub(crate) id: u32,
    pub(crate) rows: u32,
    pub(crate) cols: u32,
}

impl Value {
    /// Number of rows.
    pub const fn rows(self) -> usize {
        self.rows as usize
    }

    /// Number of columns.
    pub const fn cols(self) -> usize {
        self.cols as usize
    }
}

/// A list of u32 numbers `[rows, cols]` that the host gives to a run (token ids, positions, bit masks) or gets from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ids {
    pub(crate) id: u32,
    pub(crate) rows: u32,
    pub(crate) cols: u32,
}

impl Ids {
    /// Number of rows.
    pub const fn rows(self) -> usize {
        self.rows as usize
    }

    /// Number of columns.
    pub const fn cols(self) -> usize {
        self.cols as usize
    }
}

/// Where a value's storage comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueSource {
    /// Written by the host before each run; the number counts the float inputs.
    Input(usize),
    /// Written by an operation.
    Computed,
    /// Columns `offset..offset + cols` of another value.
    Columns { of: u32, offset: u32 },
    /// The storage of another value, cut into rows of another length.
    Reshaped { of: u32 },
    /// Rows `first..first + rows` of another value.
    Rows { of: u32, first: u32 },
}

/// Where a u32 list comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdsSource {
    /// Written by the host before each run; the number counts the u32 inputs.
    Input(usize),
    /// Written by an operation.
    Computed,
}

/// Element-wise function after a linear map or convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `x / 2 * (1 + erf(x / sqrt 2))`, the exact form.
    Gelu,
    /// `x * sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x` above 0, `exp(x) - 1` below.
    Elu,
    /// Hyperbolic tangent.
    Tanh,
}

/// SnakeBeta (BigVGAN, arXiv:2206.04658): `x + gain * sin(rate * x)^2`, with a rate and a gain for each column.
///
/// A checkpoint has their logarithms: `rate = exp(alpha)` and `gain = 1 / (exp(beta) + 1e-9)`.
#[derive(Debug, Clone)]
pub struct Snake {
    /// Multiplies `x` inside the sine.
    pub rate: Arc<Vector>,
    /// Multiplies the squared sine.
    pub gain: Arc<Vector>,
}

/// Which keys a query may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    Full,
    /// Those at its own position and before.
    Causal,
    /// Those at its own position and the `n - 1` before it.
    Window(usize),
}

/// Sizes of an attention operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads; the query has `n_heads * head_dim` columns.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Multiplies the scores, usually `head_dim^-0.5`.
    pub scale: f32,
    /// Which keys a query may see.
    pub mask: Mask,
}

/// Index of a state slot of a step: what a run binds to it differs from run to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot(pub(crate) usize);

/// What kind of state a slot takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotKind {
    /// One [`KvCache`](crate::KvCache) per sequence that the step appends to.
    CacheWrite,
    /// One `KvCache` per sequence that the step only reads; sequences may share one.
    CacheRead,
    /// One [`StateBuffer`](crate::StateBuffer) that the step reads and writes.
    Buffer,
}

/// One recorded operation. Shapes are in the values; all of them were checked when the operation was recorded.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// `out[r] = sum of table[ids[r][..]] + positional[positions[r]]`.
    Embedding {
        table: Arc<Matrix>,
        ids: Ids,
        positional: Option<(Arc<Matrix>, Ids)>,
        out: Value,
    },
    /// `out = activation(x W^T + bias) * scale + residual`, W `[out cols, x cols]`.
    Linear {
        x: Value,
        weight: Arc<Matrix>,
        bias: Option<Arc<Vector>>,
        activation: Activation,
        scale: f32,
        residual: Option<Value>,
        out: Value,
    },
    /// Convolution over rows (time) of each of `n_sequences` stacked sequences; the weight is `[c_out, kernel * c_in]`
    /// with the kernel position outermost. Zero padding of `padding.0` rows before and `padding.1` after; the rows that a
    /// window sees are `dilation` apart.
    Conv1d {
        x: Value,
        n_sequences: usize,
        weight: Arc<Matrix>,
        bias: Option<Arc<Vector>>,
        kernel: usize,
        stride: usize,
        dilation: usize,
        padding: (usize, usize),
        activation: Activation,
        /// Follows instead of an activation.
        snake: Option<Snake>,
        out: Value,
    },
    /// `out = (x - mean) / sqrt(var + eps) * gamma + beta`, per row.
    LayerNorm {
        x: Value,
        gamma: Arc<Vector>,
        beta: Arc<Vector>,
        eps: f32,
        out: Value,
    },
    /// `out = x / sqrt(mean(x^2) + eps) * gamma`, per row (and per `gamma.len()` columns, so that heads can be normed).
    /// With `gain`, row `s` of it multiplies the rows of stacked sequence `s`.
    RmsNorm {
        x: Value,
        gamma: Arc<Vector>,
        gain: Option<Value>,
        eps: f32,
        out: Value,
    },
    /// Rotary embedding in place of `x`'s heads at `positions`; halves are rotated against each other (NeoX order)
    /// or neighbours (`interleaved`).
    Rope {
        x: Value,
        positions: Ids,
        head_dim: usize,
        theta: f32,
        interleaved: bool,
        out: Value,
    },
    /// Attention inside each of `n_sequences` stacked sequences without a cache.
    Attention {
        q: Value,
        k: Value,
        v: Value,
        n_sequences: usize,
        shape: AttentionShape,
        out: Value,
    },
    /// Append `k` and `v` (rows of each sequence) to layer `layer` of the caches bound to `slot`.
    CacheAppend {
        slot: Slot,
        layer: usize,
        k: Value,
        v: Value,
    },
    /// Attention of `q` over layer `layer` of the caches bound to `slot`. For a written slot the rows appended so far are
    /// part of the keys, and row `i` of a sequence sits at the position of row `i` of the last append; for a read slot every query sees all keys
    /// (`Mask::Full`). `scores` gets the softmax input of the listed heads: `[heads * q rows, capacity]`.
    CachedAttention {
        q: Value,
        slot: Slot,
        layer: usize,
        n_sequences: usize,
        shape: AttentionShape,
        scores: Option<(Arc<[usize]>, Value)>,
        out: Value,
    },
    /// `out = silu(gate) * up`.
    SwiGlu { gate: Value, up: Value, out: Value },
    /// `out = activation(x)`.
    Activate {
        x: Value,
        activation: Activation,
        out: Value,
    },
    /// `out = a * a_scale + b * b_scale`; `b` may have fewer rows and then repeats.
    Add {
        a: Value,
        a_scale: f32,
        b: Value,
        b_scale: f32,
        out: Value,
    },
    /// `out[r] = x[r] + table[r % table.rows]`: a learned or sinusoidal position table over stacked sequences.
    AddTable {
        x: Value,
        table: Arc<Matrix>,
        out: Value,
    },
    /// `out[r] = x[ids[r]]`.
    GatherRows { x: Value, rows: Ids, out: Value },
    /// Each of `n_sequences` stacked `[rows / n, cols]` matrices transposed: out `[n * cols, rows / n]`.
    Transpose {
        x: Value,
        n_sequences: usize,
        out: Value,
    },
    /// Softmax per row.
    Softmax { x: Value, out: Value },
    /// `out[r][c] = sqrt(x[r][c]^2 + x[r][c + cols]^2)`: magnitude of a spectrum stored as real and imaginary halves.
    Magnitude { x: Value, out: Value },
    /// LSTM over the rows of `x` in order; gates i, f, g, o; state = h then c, `[2 * hidden]`.
    Lstm {
        x: Value,
        w_ih: Arc<Matrix>,
        w_hh: Arc<Matrix>,
        bias: Arc<Vector>,
        state: Slot,
        out: Value,
    },
    /// What sampling may still choose from, see [`FilterTokens`].
    FilterTokens {
        logits: Value,
        filter: FilterTokens,
        out: Value,
    },
    /// `out = [rows of the state; snake(x)]`, and the last `rows` rows of it become the state: values
    /// `offset..offset + rows * cols` of the buffer bound to `state`.
    History {
        x: Value,
        snake: Option<Snake>,
        state: Slot,
        offset: usize,
        rows: usize,
        out: Value,
    },
    /// `out = x + gain * sin(rate * x)^2`, see [`Snake`].
    Snake { x: Value, snake: Snake, out: Value },
    /// Every column convolved with its own taps: `out[r][c] = bias[c] + sum over t of x[r + t][c] * weight[t][c]`.
    DepthwiseConv1d {
        x: Value,
        weight: Arc<Vector>,
        bias: Option<Arc<Vector>>,
        kernel: usize,
        out: Value,
    },
    /// `out = a * b`; `b` may have fewer rows and then repeats.
    Multiply { a: Value, b: Value, out: Value },
    /// The columns of several values side by side.
    Concat { parts: Arc<[Value]>, out: Value },
    /// One row: for each column the mean over all rows, then for each column the standard deviation
    /// `sqrt(max(variance, floor))`. `weights` of the same shape weigh every value; they add up to 1 in each column.
    Statistics {
        x: Value,
        weights: Option<Value>,
        floor: f32,
        out: Value,
    },
    /// Constrained token choice, see [`ChooseTokens`].
    ChooseTokens {
        logits: Value,
        choose: ChooseTokens,
        tokens: Ids,
        logprobs: Value,
    },
}

/// Constrained choice of the next token(s), for every row of logits by itself.
///
/// In this order:
/// 1. If row control `penalty != 1`: logits of the tokens in `seen` are divided by it when positive, multiplied when negative.
/// 2. Tokens whose bit in `allowed` is 0 become minus infinity.
/// 3. If row control `prefer != 0`: when `logsumexp(logits[prefer_from..])` is greater than `max(logits[..prefer_from])`,
///    everything below `prefer_from` becomes minus infinity (Whisper's timestamp rule).
/// 4. `logprob = log_softmax(logits)` (at temperature 1).
/// 5. Temperature 0: the `k` most probable tokens, best first, ties to the lower id. Temperature > 0: one draw from
///    `softmax(logits / temperature)` by the Gumbel-max trick with noise that depends only on (seed, token id), so that
///    it is the same on every device; `k` is 1.
///
/// A row in which nothing is allowed gives token `u32::MAX` and log-probability minus infinity.
#[derive(Debug, Clone, Copy)]
pub struct ChooseTokens {
    /// Bit set `[rows, ceil(vocab / 32)]`: bit `i % 32` of word `i / 32` is token `i`.
    pub allowed: Ids,
    /// Bit set of the same shape for the repetition penalty.
    pub seen: Option<Ids>,
    /// Per row: temperature, penalty, prefer (0 or 1). `[rows, 3]`.
    pub controls: Value,
    /// Per row: seed of the noise, low and high word. `[rows, 2]`.
    pub seeds: Ids,
    /// First token of the preferred group.
    pub prefer_from: u32,
    /// How many tokens per row.
    pub k: usize,
}

/// The logits that sampling may choose from, for every row by itself; the others become minus infinity.
///
/// In this order: penalty and mask as the first two rules of [`ChooseTokens`]; then, at a temperature above 0, top-k (the `k`
/// highest logits and those equal to the last of them) and top-p (Holtzman et al. 2020: of what is left, by the
/// probabilities at the temperature, the fewest tokens that together have more than `p`; equal logits stay together). The most probable
/// token always stays. The result is not divided by the temperature.
#[derive(Debug, Clone, Copy)]
pub struct FilterTokens {
    /// Bit set `[rows, ceil(vocab / 32)]`: bit `i % 32` of word `i / 32` is token `i`.
    pub allowed: Ids,
    /// Bit set of the same shape for the repetition penalty.
    pub seen: Option<Ids>,
    /// Per row: temperature, penalty, top-k (0 = all), top-p (1 = all). `[rows, 4]`.
    pub controls: Value,
}

/// Operations `first..end` of a graph under one name, for [`crate::trace`].
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub name: Arc<str>,
    pub detail: Detail,
    pub first: usize,
    pub end: usize,
}

/// What a run of a step has to do at least, whatever the device: the floor of its time is the larger of the bytes over
/// the bandwidth and the operations over the arithmetic peak.
///
/// Left out: activations, keys and values in caches and the operations on them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes of weights of linear maps and convolutions.
    pub weight_bytes: u64,
    /// Multiplications and additions, by the type of the numbers that are multiplied.
    pub operations: Vec<(WeightType, u64)>,
}

impl Work {
    /// Operations of all types.
    pub fn total_operations(&self) -> u64 {
        self.operations.iter().map(|(_, count)| count).sum()
    }

    fn add(&mut self, weight_type: WeightType, count: usize) {
        let count = count as u64;
        match self.operations.iter_mut().find(|(t, _)| *t == weight_type) {
            Some((_, sum)) => *sum += count,
            None => self.operations.push((weight_type, count)),
        }
    }

    fn add_product(&mut self, rows: usize, weight: &Matrix) {
        self.weight_bytes += weight.bytes() as u64;
        self.add(
            weight.weight_type(),
            2 * rows * weight.rows() * weight.cols(),
        );
    }
}

/// A recorded forward pass.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub ops: Vec<Op>,
    /// Named parts; an outer one comes before those inside.
    pub scopes: Vec<Scope>,
    pub values: Vec<(Value, ValueSource)>,
    pub ids: Vec<(Ids, IdsSource)>,
    pub slots: Vec<SlotKind>,
    /// Whether a row's results may not depend on how many rows there are.
    pub uniform: bool,
    /// Values that the host reads after a run, in order.
    pub outputs: Vec<Value>,
    /// Which of them the host seldom reads: they stay on the device until they are asked for.
    pub on_demand: Vec<bool>,
    /// u32 lists that the host reads after a run, in order.
    pub id_outputs: Vec<Ids>,
}

/// Whose storage a value is in, and where: see [`Graph::roots`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Root {
    /// The value that owns the storage.
    pub owner: usize,
    /// First column in it, or further on: values from the beginning of the storage.
    pub column: usize,
    /// Values from one row to the next.
    pub stride: usize,
}

impl Graph {
    /// Where the storage of every value is.
    pub fn roots(&self) -> Vec<Root> {
        let mut roots: Vec<Root> = Vec::with_capacity(self.values.len());
        for (id, (value, source)) in self.values.iter().enumerate() {
            // A value comes after the one that it is a part of.
            let root = match *source {
                ValueSource::Columns { of, offset } => {
                    let whole = roots[of as usize];
                    Root {
                        column: whole.column + offset as usize,
                        ..whole
                    }
                }
                ValueSource::Rows { of, first } => {
                    let whole = roots[of as usize];
                    Root {
                        column: whole.column + first as usize * whole.stride,
                        ..whole
                    }
                }
                ValueSource::Reshaped { of } => Root {
                    stride: value.cols(),
                    ..roots[of as usize]
                },
                ValueSource::Input(_) | ValueSource::Computed => Root {
                    owner: id,
                    column: 0,
                    stride: value.cols(),
                },
            };
            roots.push(root);
        }
        roots
    }

    /// What a run has to do. `attention` is the type to which attention inside the step rounds its inputs.
    pub fn work(&self, attention: WeightType) -> Work {
        let mut work = Work::default();
        for op in &self.ops {
            match op {
                Op::Linear { x, weight, .. } => work.add_product(x.rows(), weight),
                Op::Conv1d { weight, out, .. } => work.add_product(out.rows(), weight),
                Op::Lstm { x, w_ih, w_hh, .. } => {
                    work.add_product(x.rows(), w_ih);
                    work.add_product(x.rows(), w_hh);
                }
                Op::Attention {
                    q,
                    k,
                    n_sequences,
                    shape,
                    ..
                } => {
                    let keys = k.rows() / n_sequences;
                    work.add(
                        attention,
                        4 * q.rows() * keys * shape.n_heads * shape.head_dim,
                    );
                }
                _ => {}
            }
        }
        work
    }
}

impl Op {
    /// The name of the method that records it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embedding { .. } => "embedding",
            Self::Linear { .. } => "linear",
            Self::Conv1d { .. } => "conv1d",
            Self::LayerNorm { .. } => "layer_norm",
            Self::RmsNorm { .. } => "rms_norm",
            Self::Rope { .. } => "rope",
            Self::Attention { .. } => "attention",
            Self::CacheAppend { .. } => "cache_append",
            Self::CachedAttention { .. } => "cached_attention",
            Self::SwiGlu { .. } => "swiglu",
            Self::Activate { .. } => "activate",
            Self::Add { .. } => "add",
            Self::AddTable { .. } => "add_table",
            Self::GatherRows { .. } => "gather_rows",
            Self::Transpose { .. } => "transpose",
            Self::Softmax { .. } => "softmax",
            Self::Magnitude { .. } => "magnitude",
            Self::Lstm { .. } => "lstm",
            Self::FilterTokens { .. } => "filter_tokens",
            Self::History { .. } => "history",
            Self::Snake { .. } => "snake",
            Self::DepthwiseConv1d { .. } => "depthwise_conv1d",
            Self::Multiply { .. } => "multiply",
            Self::Concat { .. } => "concat",
            Self::Statistics { .. } => "statistics",
            Self::ChooseTokens { .. } => "choose_tokens",
        }
    }

    /// The values that an operation reads, and those that it writes.
    pub fn values(&self) -> (Vec<Value>, Vec<Value>) {
        match self {
            Self::Embedding { out, .. } => (vec![], vec![*out]),
            Self::Linear {
                x, residual, out, ..
            } => (std::iter::once(*x).chain(*residual).collect(), vec![*out]),
            Self::Conv1d { x, out, .. }
            | Self::LayerNorm { x, out, .. }
            | Self::Rope { x, out, .. }
            | Self::Activate { x, out, .. }
            | Self::AddTable { x, out, .. }
            | Self::GatherRows { x, out, .. }
            | Self::Transpose { x, out, .. }
            | Self::Softmax { x, out }
            | Self::Magnitude { x, out }
            | Self::History { x, out, .. }
            | Self::Snake { x, out, .. }
            | Self::DepthwiseConv1d { x, out, .. }
            | Self::Lstm { x, out, .. } => (vec![*x], vec![*out]),
            Self::RmsNorm { x, gain, out, .. } => {
                (std::iter::once(*x).chain(*gain).collect(), vec![*out])
            }
            Self::Attention { q, k, v, out, .. } => (vec![*q, *k, *v], vec![*out]),
            Self::CacheAppend { k, v, .. } => (vec![*k, *v], vec![]),
            Self::CachedAttention { q, scores, out, .. } => (
                vec![*q],
                std::iter::once(*out)
                    .chain(scores.as_ref().map(|(_, scores)| *scores))
                    .collect(),
            ),
            Self::SwiGlu { gate, up, out } => (vec![*gate, *up], vec![*out]),
            Self::FilterTokens {
                logits,
                filter,
                out,
            } => (vec![*logits, filter.controls], vec![*out]),
            Self::Add { a, b, out, .. } | Self::Multiply { a, b, out } => {
                (vec![*a, *b], vec![*out])
            }
            Self::Concat { parts, out } => (parts.to_vec(), vec![*out]),
            Self::Statistics {
                x, weights, out, ..
            } => (std::iter::once(*x).chain(*weights).collect(), vec![*out]),
            Self::ChooseTokens {
                logits,
                choose,
                logprobs,
                ..
            } => (vec![*logits, choose.controls], vec![*logprobs]),
        }
    }
}
