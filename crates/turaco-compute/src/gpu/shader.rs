//! The shaders: which there are, what each binds, and the WGSL of each.
//!
//! The text of a shader is put together from the files in `shaders/`. A line that begins with `@name` is repeated as
//! often as the shader says for that name, with `$i` being the number of the repetition: registers have names in WGSL, and
//! loops over them would become memory.

use crate::device::WeightType;

/// Inputs of a linear map that the recurrent part of an LSTM has room for.
pub(super) const LSTM_HIDDEN: usize = 1024;

/// Most rows that [`Shader::Matvec`] takes at a time.
pub(super) const MATVEC_ROWS: u32 = 4;

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
    /// Of complex numbers.
    Magnitude,
    /// Rows by number.
    Gather,
    /// Of every sequence.
    Transpose,
    /// Rotary embedding with a table of cosines and sines.
    Rotate,
}

/// A compute shader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Shader {
    /// A linear map of few rows, `rows` at a time.
    Matvec { weights: WeightType, rows: u32 },
    /// A linear map of many rows, or a convolution.
    Matmul { weights: WeightType, windows: bool },
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
    },
    /// What attention puts into its softmax.
    Scores { keys: Keys },
    /// New keys and values of a cache.
    Append { keys: Keys },
    /// The recurrent part of an LSTM.
    Lstm { weights: WeightType },
    /// Constrained choice of tokens.
    ChooseTokens,
}

/// What a shader binds, after the uniform parameters at binding 0 of group 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Layout {
    /// Bindings of group 0 that are read.
    pub reads: &'static [u32],
    /// Bindings of group 0 that are written.
    pub writes: &'static [u32],
    /// Whether group 1 is a state: a layer of a cache, or a buffer.
    pub state: bool,
    /// Whether group 2 says which sequence of a batch it is about.
    pub sequence: bool,
}

impl Shader {
    /// Every shader that a step may ask for.
    #[cfg(test)]
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::Norm { layer: false },
            Self::Norm { layer: true },
            Self::Softmax,
            Self::ChooseTokens,
        ];
        all.extend(
            [
                Function::Add,
                Function::Activate,
                Function::SwiGlu,
                Function::Magnitude,
                Function::Gather,
                Function::Transpose,
                Function::Rotate,
            ]
            .map(Self::Map),
        );
        for weights in WeightType::ALL {
            all.extend([1, 2, MATVEC_ROWS].map(|rows| Self::Matvec { weights, rows }));
            all.extend([false, true].map(|windows| Self::Matmul { weights, windows }));
            all.extend([Self::Lookup { weights }, Self::Lstm { weights }]);
        }
        for keys in [Keys::Rows, Keys::F32, Keys::F16, Keys::Bf16] {
            for queries in [1, ATTENTION_QUERIES] {
                for columns in [1, 2, 4] {
                    all.extend([false, true].map(|odd| Self::Attention {
                        keys,
                        queries,
                        columns,
                        odd,
                    }));
                }
            }
            if keys != Keys::Rows {
                all.extend([Self::Scores { keys }, Self::Append { keys }]);
            }
        }
        all
    }

    /// What it binds.
    pub fn layout(self) -> Layout {
        let (reads, writes): (&[u32], &[u32]) = match self {
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
            Self::Map(_) | Self::Norm { .. } => (&[1, 2, 3], &[4]),
            Self::Softmax => (&[1], &[2]),
            Self::Attention {
                keys: Keys::Rows, ..
            } => (&[1, 2, 3], &[4]),
            Self::Attention { .. } | Self::Scores { .. } => (&[1], &[4]),
            Self::Append { .. } => (&[1, 2], &[]),
            Self::ChooseTokens => (&[1, 2, 3], &[4, 5]),
        };
        let cached = match self {
            Self::Attention { keys, .. } => keys != Keys::Rows,
            Self::Scores { .. } | Self::Append { .. } => true,
            _ => false,
        };
        Layout {
            reads,
            writes,
            state: cached || matches!(self, Self::Lstm { .. }),
            sequence: cached,
        }
    }

    /// The text.
    pub fn source(self) -> String {
        match self {
            Self::Matvec { weights, rows } => Template::new()
                .number("ROWS", rows)
                .repeat("rows", rows)
                .part(COMMON)
                .part(LINEAR)
                .weights(weights)
                .part(include_str!("shaders/input_rows.wgsl"))
                .part(include_str!("shaders/matvec.wgsl")),
            Self::Matmul { weights, windows } => Template::new()
                .repeat("4", 4)
                .part(COMMON)
                .part(LINEAR)
                .weights(weights)
                .part(if windows {
                    include_str!("shaders/input_windows.wgsl")
                } else {
                    include_str!("shaders/input_rows.wgsl")
                })
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
            Self::Map(function) => Template::new()
                .word("FUNCTION", function.name())
                .part(COMMON)
                .part(include_str!("shaders/map.wgsl")),
            Self::Norm { layer } => Template::new()
                .number("THREADS", 128)
                .word("LAYER", if layer { "true" } else { "false" })
                .part(COMMON)
                .part(REDUCE)
                .part(include_str!("shaders/norm.wgsl")),
            Self::Softmax => Template::new()
                .number("THREADS", 256)
                .part(COMMON)
                .part(REDUCE)
                .part(include_str!("shaders/softmax.wgsl")),
            Self::ChooseTokens => Template::new()
                .number("THREADS", 256)
                .part(COMMON)
                .part(REDUCE)
                .part(include_str!("shaders/choose_tokens.wgsl")),
            Self::Attention {
                keys,
                queries,
                columns,
                odd,
            } => Template::new()
                .number("QUERIES", queries)
                .number("PAIRS", 32 * columns)
                .repeat("queries", queries)
                .repeat("columns", columns)
                .word("Columns", ["f32", "f32", "vec2<f32>", "", "vec4<f32>"][columns as usize])
                .word("COLUMN", if columns == 1 { "" } else { "[$i]" })
                .word(
                    "BOTH_OF_KEY",
                    if odd {
                        "vec2<f32>(key(index, key_position, base + 2u * pair), select(0.0, key(index, key_position, base + 2u * pair + 1u), 2u * pair + 1u < p.head_dim))"
                    } else {
                        "key_pair(index, key_position, base + 2u * pair)"
                    },
                )
                .part(COMMON)
                .part(ATTENTION)
                .keys(keys)
                .part(include_str!("shaders/attention.wgsl")),
            Self::Scores { keys } => Template::new()
                .part(COMMON)
                .part(ATTENTION)
                .keys(keys)
                .part(include_str!("shaders/scores.wgsl")),
            Self::Append { keys } => Template::new()
                .part(COMMON)
                .cache(keys)
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
            Self::Magnitude => "magnitude",
            Self::Gather => "gathered",
            Self::Transpose => "transposed",
            Self::Rotate => "rotated",
        }
    }
}

const COMMON: &str = include_str!("shaders/common.wgsl");
const LINEAR: &str = include_str!("shaders/linear.wgsl");
const REDUCE: &str = include_str!("shaders/reduce.wgsl");
const ATTENTION: &str = include_str!("shaders/attention_params.wgsl");

/// A shader that is being put together.
struct Template {
    text: String,
    words: Vec<(&'static str, String)>,
    repeats: Vec<(&'static str, u32)>,
}

impl Template {
    fn new() -> Self {
        Self {
            text: String::new(),
            words: Vec::new(),
            repeats: Vec::new(),
        }
    }

    /// A constant of the shader.
    fn number(mut self, name: &str, value: u32) -> Self {
        self.text
            .push_str(&format!("const {name}: u32 = {value}u;\n"));
        self
    }

    /// What stands for a word of the parts.
    fn word(mut self, name: &'static str, value: &str) -> Self {
        self.words.push((name, value.to_owned()));
        self
    }

    /// How often lines that begin with `@name` are repeated.
    fn repeat(mut self, name: &'static str, count: u32) -> Self {
        self.repeats.push((name, count));
        self
    }

    fn part(mut self, part: &str) -> Self {
        for line in part.lines() {
            let code = line.trim_start();
            match code.strip_prefix('@').and_then(|rest| rest.split_once(' ')) {
                Some((name, rest)) if self.repeats.iter().any(|(known, _)| *known == name) => {
                    let count = self.repeats.iter().find(|(known, _)| *known == name);
                    for i in 0..count.map_or(0, |(_, count)| *count) {
                        let line = self.replaced(rest).replace("$i", &i.to_string());
                        self.text.push_str(&line);
                        self.text.push('\n');
                    }
                }
                _ => {
                    let line = self.replaced(line);
                    self.text.push_str(&line);
                    self.text.push('\n');
                }
            }
        }
        self
    }

    fn replaced(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for (name, value) in &self.words {
            line = line.replace(name, value);
        }
        line
    }

    fn weights(self, weights: WeightType) -> Self {
        self.part(match weights {
            WeightType::F32 => include_str!("shaders/weights_f32.wgsl"),
            WeightType::F16 => include_str!("shaders/weights_f16.wgsl"),
            WeightType::Bf16 => include_str!("shaders/weights_bf16.wgsl"),
            WeightType::Int8 => include_str!("shaders/weights_int8.wgsl"),
            WeightType::Q8 => include_str!("shaders/weights_q8.wgsl"),
            WeightType::Q4 => include_str!("shaders/weights_q4.wgsl"),
        })
        .part(include_str!("shaders/quads.wgsl"))
    }

    fn cache(self, keys: Keys) -> Self {
        match keys {
            Keys::Rows => return self,
            Keys::F32 => self.part(include_str!("shaders/cache_f32.wgsl")),
            Keys::F16 => self.part(include_str!("shaders/cache_f16.wgsl")),
            Keys::Bf16 => self.part(include_str!("shaders/cache_bf16.wgsl")),
        }
        .part(include_str!("shaders/sequence.wgsl"))
    }

    fn keys(self, keys: Keys) -> Self {
        match keys {
            Keys::Rows => self.part(include_str!("shaders/keys_rows.wgsl")),
            _ => self
                .cache(keys)
                .part(include_str!("shaders/keys_cached.wgsl")),
        }
    }

    fn finish(self) -> String {
        self.text
    }
}
