//! The shaders: which there are, what each binds, and the WGSL of each, put together from the files in `shaders/`.

use super::batch::MAX_SPLITS;
use super::cooperative::Cooperative;
use super::template::Template;
use crate::device::WeightType;

/// Inputs of a linear map that the recurrent part of an LSTM has room for.
pub(super) const LSTM_HIDDEN: usize = 1024;

/// Most rows that [`Shader::Matvec`] takes at a time.
pub(super) const MATVEC_ROWS: u32 = 8;

/// Sequences that one dispatch of a shader for caches takes, and most caches that it binds.
pub(super) const MAX_BATCH: usize = 8;

/// Most query heads of a key head that [`Shader::Decode`] takes at a time.
pub(super) const DECODE_QUERIES: u32 = 8;

/// Most queries that [`Shader::Attention`] takes at a time.
pub(super) const ATTENTION_QUERIES: u32 = 8;

/// Rows and outputs of a tile of [`Shader::Matmul`].
pub(super) const TILE: usize = 64;

/// Where the keys and values of an attention are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Keys {
    /// In values of the same step.
    Rows,
    /// In a cache of f32.
    F32,
    /// In a cache of f16.
    F16,
    /// In a cache of bf16.
    Bf16,
}

/// What [`Shader::Map`] computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Function {
    /// `a * a_scale + b * b_scale`.
    Add,
    /// `activation(a)`; also a copy.
    Activate,
    /// `silu(a) * b`.
    SwiGlu,
    /// `a * b`, every row of `b` for as many rows of `a`.
    Multiply,
    /// Of complex numbers.
    Magnitude,
    /// Rows by number.
    Gather,
    /// Of every sequence.
    Transpose,
    /// Rotary embedding with a table of cosines and sines.
    Rotate,
    /// `a + gain * sin(rate * a)^2` for every column.
    Snake,
    /// Convolution of every column.
    Depthwise,
    /// `a * b`, all rows of `b` over and over.
    Product,
    /// All rows of `a` over and over.
    Repeat,
    /// Means and deviations of columns.
    Statistics,
}

/// The norm that a linear map begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Normed {
    /// None.
    No,
    /// Layer norm.
    Layer,
    /// Root-mean-square norm.
    Rms,
}

/// What shaders may use beyond the least; each has a plain path beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Extras {
    /// Sums and maxima over subgroups.
    pub subgroups: bool,
    /// Numbers of 16 bits in workgroup memory.
    pub half: bool,
}

/// A compute shader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Shader {
    /// A linear map of few rows, `rows` at a time, after a norm; `gated`: the outputs are `silu(first half) * second half`;
    /// `chosen`: they are logits of which tokens are chosen.
    Matvec {
        weights: WeightType,
        rows: u32,
        slices: u32,
        norm: Normed,
        gated: bool,
        chosen: bool,
    },
    /// A linear map of many rows, or a convolution; `cooperative`: the matrices that it is made of, if it is.
    Matmul {
        weights: WeightType,
        windows: bool,
        cooperative: Option<Cooperative>,
    },
    /// Rows of a table.
    Lookup { weights: WeightType },
    /// An element-wise function.
    Map(Function),
    /// Layer norm, or root-mean-square norm.
    Norm { layer: bool },
    /// Softmax of rows.
    Softmax,
    /// Attention of `queries` queries at a time with heads of at most `64 * columns` columns, an odd number if `odd`.
    Attention {
        keys: Keys,
        queries: u32,
        columns: u32,
        odd: bool,
        caches: u32,
    },
    /// Attention of one query per sequence over caches, `queries` query heads of a key head at a time.
    Decode {
        keys: Keys,
        queries: u32,
        columns: u32,
        odd: bool,
        caches: u32,
    },
    /// Parts of such an attention.
    Merge,
    /// What attention puts into its softmax.
    Scores { keys: Keys, caches: u32 },
    /// New keys and values of caches; `rotate`: with rotary embedding, of queries too.
    Append {
        keys: Keys,
        caches: u32,
        rotate: bool,
    },
    /// The recurrent part of an LSTM.
    Lstm { weights: WeightType },
    /// What sampling may choose from.
    FilterTokens,
    /// What a stream has seen before and sees now; `keep`: the last of it for the next run.
    History { keep: bool },
    /// The candidates of a slice of tokens.
    ChooseSlices,
    /// Constrained choice of tokens, of the candidates of all slices.
    ChooseTokens,
}

/// What a shader binds, after the uniform parameters at binding 0 of group 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Layout {
    /// Bindings of group 0 that are read.
    pub reads: &'static [u32],
    /// Bindings of group 0 that are written.
    pub writes: &'static [u32],
    /// Whether group 1 is a state buffer.
    pub state: bool,
    /// Whether group 1 says which sequences of a batch it is about.
    pub sequences: bool,
    /// Caches in group 2.
    pub caches: u32,
}

impl Shader {
    /// Every shader that a step may ask for.
    #[cfg(test)]
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::Norm { layer: false },
            Self::Norm { layer: true },
            Self::Softmax,
            Self::Merge,
            Self::FilterTokens,
            Self::History { keep: false },
            Self::History { keep: true },
            Self::ChooseSlices,
            Self::ChooseTokens,
        ];
        all.extend(
            [
                Function::Add,
                Function::Activate,
                Function::SwiGlu,
                Function::Multiply,
                Function::Magnitude,
                Function::Gather,
                Function::Transpose,
                Function::Rotate,
                Function::Snake,
                Function::Depthwise,
                Function::Product,
                Function::Repeat,
                Function::Statistics,
            ]
            .map(Self::Map),
        );
        for weights in WeightType::ALL {
            for rows in [1, 2, 4, MATVEC_ROWS] {
                for norm in [Normed::No, Normed::Layer, Normed::Rms] {
                    let after = [(false, false), (true, false), (false, true)];
                    all.extend(after.map(|(gated, chosen)| Self::Matvec {
                        weights,
                        rows,
                        slices: matvec_slices(rows, usize::MAX),
                        norm,
                        gated,
                        chosen,
                    }));
                }
            }
            for windows in [false, true] {
                let kinds = Cooperative::KINDS.into_iter().map(Some);
                let kinds = kinds.filter(|kind| kind.is_some_and(|kind| kind.takes(weights)));
                all.extend(kinds.chain([None]).map(|cooperative| Self::Matmul {
                    weights,
                    windows,
                    cooperative,
                }));
            }
            all.extend([Self::Lookup { weights }, Self::Lstm { weights }]);
        }
        for keys in [Keys::Rows, Keys::F32, Keys::F16, Keys::Bf16] {
            let bound: &[u32] = if keys == Keys::Rows {
                &[0]
            } else {
                &[1, MAX_BATCH as u32]
            };
            for &caches in bound {
                for columns in [1, 2, 4] {
                    for odd in [false, true] {
                        all.extend([1, ATTENTION_QUERIES].map(|queries| Self::Attention {
                            keys,
                            queries,
                            columns,
                            odd,
                            caches,
                        }));
                        if keys != Keys::Rows {
                            all.extend([1, 2, 4, DECODE_QUERIES].map(|queries| Self::Decode {
                                keys,
                                queries,
                                columns,
                                odd,
                                caches,
                            }));
                        }
                    }
                }
                if keys != Keys::Rows {
                    all.push(Self::Scores { keys, caches });
                    all.extend([false, true].map(|rotate| Self::Append {
                        keys,
                        caches,
                        rotate,
                    }));
                }
            }
        }
        all
    }

    /// The cooperative matrices that it is made of.
    #[cfg(test)]
    pub fn cooperative(self) -> Option<Cooperative> {
        match self {
            Self::Matmul { cooperative, .. } => cooperative,
            _ => None,
        }
    }

    /// What it binds.
    pub fn layout(self) -> Layout {
        let (reads, writes): (&[u32], &[u32]) = match self {
            Self::Matvec {
                weights,
                norm,
                chosen: true,
                ..
            } => match (weights, norm) {
                (WeightType::Int8, Normed::No) => (&[1, 2, 3, 9], &[6, 10]),
                (_, Normed::No) => (&[1, 3, 9], &[6, 10]),
                (WeightType::Int8, _) => (&[1, 2, 3, 7, 8, 9], &[6, 10]),
                (_, _) => (&[1, 3, 7, 8, 9], &[6, 10]),
            },
            Self::Matvec { weights, norm, .. } if norm != Normed::No => match weights {
                WeightType::Int8 => (&[1, 2, 3, 4, 5, 7, 8], &[6]),
                _ => (&[1, 3, 4, 5, 7, 8], &[6]),
            },
            Self::Matvec { weights, .. } | Self::Matmul { weights, .. } => match weights {
                WeightType::Int8 => (&[1, 2, 3, 4, 5], &[6]),
                _ => (&[1, 3, 4, 5], &[6]),
            },
            Self::Lookup { weights } => match weights {
                WeightType::Int8 => (&[1, 2, 3, 4], &[5]),
                _ => (&[1, 3, 4], &[5]),
            },
            Self::Lstm { weights } => match weights {
                WeightType::Int8 => (&[1, 2, 3], &[4]),
                _ => (&[1, 3], &[4]),
            },
            Self::Map(_) | Self::Norm { .. } | Self::History { keep: false } => (&[1, 2, 3], &[4]),
            Self::History { keep: true } => (&[1], &[]),
            Self::Softmax | Self::Merge => (&[1], &[2]),
            Self::Attention {
                keys: Keys::Rows, ..
            } => (&[1, 2, 3], &[4]),
            Self::Attention { .. } | Self::Scores { .. } => (&[1], &[4]),
            Self::Decode { .. } => (&[1], &[4, 5]),
            Self::Append { rotate: false, .. } => (&[1, 2], &[]),
            Self::Append { rotate: true, .. } => (&[1, 2, 3, 4], &[5]),
            Self::FilterTokens | Self::ChooseSlices => (&[1, 2, 3], &[4]),
            Self::ChooseTokens => (&[1, 2, 3, 4], &[5, 6]),
        };
        let caches = match self {
            Self::Attention { caches, .. }
            | Self::Decode { caches, .. }
            | Self::Scores { caches, .. }
            | Self::Append { caches, .. } => caches,
            _ => 0,
        };
        Layout {
            reads,
            writes,
            state: matches!(self, Self::Lstm { .. } | Self::History { .. }),
            sequences: caches > 0 || self == Self::Merge,
            caches,
        }
    }

    /// The text, for devices that have these extras.
    pub fn source(self, extras: Extras) -> String {
        let half = extras.half
            && matches!(
                self,
                Self::Matmul {
                    weights: WeightType::F16,
                    ..
                }
            );
        match self {
            Self::Matvec {
                weights,
                rows,
                slices,
                norm,
                gated,
                chosen,
            } => Template::new()
                .number("ROWS", rows)
                .number("SLICES", slices)
                .repeat("rows", rows)
                .when("normed", norm != Normed::No)
                .when("layer", norm == Normed::Layer)
                .when("gated", gated)
                .when("plain", !gated)
                .when("mapped", !chosen)
                .when("chosen", chosen)
                .when("minimum", weights == WeightType::Q4)
                .part(COMMON)
                .part(LINEAR)
                .lines(weights)
                .part(include_str!("shaders/input_rows.wgsl"))
                .reductions(norm != Normed::No, extras)
                .part(if chosen { CHOOSE } else { "" })
                .part(if chosen {
                    include_str!("shaders/choose_panel.wgsl")
                } else {
                    ""
                })
                .part(include_str!("shaders/matvec.wgsl")),
            Self::Matmul {
                weights,
                windows,
                cooperative: Some(kind),
            } => kind.template(weights, windows),
            Self::Matmul {
                weights, windows, ..
            } => Template::new()
                .extension("f16", half)
                .word("Staged", if half { "vec4<f16>" } else { "vec4<f32>" })
                .repeat("4", 4)
                .when("mapped", true)
                .part(COMMON)
                .part(LINEAR)
                .weights(weights)
                .inputs(windows)
                .part(include_str!("shaders/matmul.wgsl")),
            Self::Lookup { weights } => Template::new()
                .part(COMMON)
                .weights(weights)
                .part(include_str!("shaders/lookup.wgsl")),
            Self::Lstm { weights } => Template::new()
                .number("HIDDEN", LSTM_HIDDEN as u32)
                .part(COMMON)
                .weights(weights)
                .part(include_str!("shaders/lstm.wgsl")),
            Self::History { keep } => Template::new().part(COMMON).part(if keep {
                include_str!("shaders/history_keep.wgsl")
            } else {
                include_str!("shaders/history.wgsl")
            }),
            Self::Map(function) => Template::new()
                .word("FUNCTION", function.name())
                .part(COMMON)
                .part(include_str!("shaders/map.wgsl")),
            Self::Norm { layer } => Template::new()
                .number("THREADS", 128)
                .word("LAYER", if layer { "true" } else { "false" })
                .part(COMMON)
                .reductions(true, extras)
                .part(include_str!("shaders/norm.wgsl")),
            Self::Softmax => Template::new()
                .number("THREADS", 256)
                .part(COMMON)
                .reductions(true, extras)
                .part(include_str!("shaders/softmax.wgsl")),
            Self::FilterTokens => Template::new()
                .number("THREADS", 256)
                .part(COMMON)
                .part(CHOOSE)
                .part(include_str!("shaders/choose_rules.wgsl"))
                .reductions(true, extras)
                .part(include_str!("shaders/filter_tokens.wgsl")),
            Self::ChooseSlices => Template::new()
                .number("THREADS", 256)
                .part(COMMON)
                .part(CHOOSE)
                .part(include_str!("shaders/choose_rules.wgsl"))
                .reductions(true, extras)
                .part(include_str!("shaders/choose_slices.wgsl")),
            Self::ChooseTokens => Template::new()
                .number("THREADS", 256)
                .part(COMMON)
                .part(CHOOSE)
                .part(include_str!("shaders/choose_rules.wgsl"))
                .reductions(true, extras)
                .part(include_str!("shaders/choose_tokens.wgsl")),
            Self::Attention {
                keys,
                queries,
                columns,
                odd,
                caches,
            } => Template::new()
                .number("QUERIES", queries)
                .number("PAIRS", 32 * columns)
                .repeat("queries", queries)
                .repeat("columns", columns)
                .word(
                    "Columns",
                    ["f32", "f32", "vec2<f32>", "", "vec4<f32>"][columns as usize],
                )
                .word("COLUMN", if columns == 1 { "" } else { "[$i]" })
                .word("ODD", if odd { "true" } else { "false" })
                .part(COMMON)
                .part(ATTENTION)
                .keys(keys, caches)
                .part(include_str!("shaders/both.wgsl"))
                .part(include_str!("shaders/attention.wgsl")),
            Self::Decode {
                keys,
                queries,
                columns,
                odd,
                caches,
            } => Template::new()
                .number("QUERIES", queries)
                .number("PAIRS", 32 * columns)
                .number("THREADS", 128)
                .number("MAX_SPLITS", MAX_SPLITS as u32)
                .repeat("queries", queries)
                .word("ODD", if odd { "true" } else { "false" })
                .part(COMMON)
                .part(ATTENTION)
                .keys(keys, caches)
                .part(include_str!("shaders/both.wgsl"))
                .reductions(true, extras)
                .part(include_str!("shaders/decode.wgsl")),
            Self::Merge => Template::new()
                .number("MAX_SPLITS", MAX_SPLITS as u32)
                .part(COMMON)
                .sequences()
                .part(include_str!("shaders/merge.wgsl")),
            Self::Scores { keys, caches } => Template::new()
                .part(COMMON)
                .part(ATTENTION)
                .keys(keys, caches)
                .part(include_str!("shaders/scores.wgsl")),
            Self::Append {
                keys,
                caches,
                rotate,
            } => Template::new()
                .when("rotate", rotate)
                .when("plain", !rotate)
                .part(COMMON)
                .cache(keys, caches)
                .part(include_str!("shaders/append.wgsl")),
        }
        .finish()
    }
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Activate => "activated",
            Self::SwiGlu => "swiglu",
            Self::Multiply => "multiplied",
            Self::Magnitude => "magnitude",
            Self::Gather => "gathered",
            Self::Transpose => "transposed",
            Self::Rotate => "rotated",
            Self::Snake => "snake",
            Self::Depthwise => "depthwise",
            Self::Product => "product",
            Self::Repeat => "repeated",
            Self::Statistics => "statistic",
        }
    }
}

pub(super) const COMMON: &str = include_str!("shaders/common.wgsl");
const CHOOSE: &str = include_str!("shaders/choose_common.wgsl");
pub(super) const LINEAR: &str = include_str!("shaders/linear.wgsl");
const ATTENTION: &str = include_str!("shaders/attention_params.wgsl");

/// Tokens that a workgroup of [`Shader::ChooseSlices`] looks at.
pub(super) const CHOICE_SLICE: usize = 1024;

/// Tokens for each row up to which a choice begins in the linear map that gives the logits; for more, what a panel of 32 tokens
/// keeps would be longer than its logits.
pub(super) const CHOICES_IN_PANELS: usize = 7;

/// Groups of threads of [`Shader::Matvec`] that take a block of 32 inputs each: as many as workgroup memory has room for,
/// fewer for short rows.
pub(super) fn matvec_slices(rows: u32, inputs: usize) -> u32 {
    let most = match rows {
        1 | 2 => 32,
        4 => 16,
        _ => 8,
    };
    if inputs <= 512 { 8 } else { most }
}
