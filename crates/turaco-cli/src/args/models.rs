//! Options of `turaco models`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// What `turaco models` accepts.
#[derive(Debug, Clone, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct ModelsArgs {
    #[command(subcommand)]
    pub command: ModelsCommand,
}

/// What to do with models.
#[derive(Debug, Clone, Subcommand)]
pub enum ModelsCommand {
    /// List known models and what the cache holds
    List {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
        /// Only models that are complete on this machine
        #[arg(long)]
        cached: bool,
    },
    /// Download models into the cache
    Pull {
        /// Names, or Hugging Face ids org/name[@revision]
        #[arg(value_name = "MODEL", required = true)]
        models: Vec<String>,
    },
    /// Show what a model file or folder holds
    Info {
        /// Path, name or Hugging Face id [default: --model]
        #[arg(value_name = "MODEL")]
        name: Option<String>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print where a model's files are
    Path {
        /// Path, name or Hugging Face id [default: --model]
        #[arg(value_name = "MODEL")]
        name: Option<String>,
    },
    /// Write a model in another file format
    Convert(ConvertArgs),
    /// Write a model with smaller weights
    Quantize {
        /// Path, name or Hugging Face id
        #[arg(value_name = "IN")]
        input: String,
        /// Folder to write; must not exist or be empty
        #[arg(value_name = "OUT")]
        output: PathBuf,
        /// Number format of the weights [default: that of --compute-type, else q8]
        #[arg(long = "type", value_name = "TYPE", value_enum)]
        weight_type: Option<WeightFormat>,
    },
    /// Write a model of known sizes with random weights, to measure with when the real ones are not at hand
    Random {
        /// What to imitate
        #[arg(value_name = "NAME", value_enum)]
        name: RandomModel,
        /// Folder to write; must not exist or be empty
        #[arg(value_name = "OUT")]
        output: PathBuf,
        /// The weights depend on this alone
        #[arg(long, value_name = "N", default_value_t = 0)]
        seed: u64,
    },
    /// Remove downloaded models from the cache
    Remove {
        /// Names, or Hugging Face ids org/name
        #[arg(value_name = "MODEL", required = true)]
        models: Vec<String>,
    },
}

/// What `turaco models convert` accepts.
#[derive(Debug, Clone, Args)]
pub struct ConvertArgs {
    /// Path, name or Hugging Face id
    #[arg(value_name = "IN")]
    pub input: String,
    /// Folder to write; must not exist or be empty
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// File format to write
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "safetensors")]
    pub to: FileFormat,
    /// Number format of the weights; `models quantize` writes smaller ones
    #[arg(long, value_name = "TYPE", value_enum, default_value = "f32")]
    pub dtype: PlainFormat,
}

/// Models that can be written with random weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RandomModel {
    /// The published sizes, 8.9 GB.
    VoxtralRealtime,
    /// Two layers each, for tests.
    VoxtralRealtimeTiny,
    /// The published sizes, 9.4 GB.
    VoxtralMini,
    /// The published sizes, 49 GB.
    VoxtralSmall,
    /// Two layers each, for tests.
    VoxtralMiniTiny,
    /// The published sizes, 2.5 GB with the codec.
    #[value(name = "qwen3-tts-0.6b-base")]
    Qwen3Tts06bBase,
    /// The same without a speaker encoder.
    #[value(name = "qwen3-tts-0.6b-customvoice")]
    Qwen3Tts06bCustomVoice,
    /// The published sizes, 4.5 GB with the codec.
    #[value(name = "qwen3-tts-1.7b-base")]
    Qwen3Tts17bBase,
    /// The same without a speaker encoder.
    #[value(name = "qwen3-tts-1.7b-customvoice")]
    Qwen3Tts17bCustomVoice,
    /// The same without a speaker encoder.
    #[value(name = "qwen3-tts-1.7b-voicedesign")]
    Qwen3Tts17bVoiceDesign,
    /// Two layers each, for tests.
    #[value(name = "qwen3-tts-tiny")]
    Qwen3TtsTiny,
    /// The published sizes, 1.6 GB.
    #[value(name = "whisper-large-v3-turbo")]
    WhisperLargeV3Turbo,
}

/// File formats that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileFormat {
    Safetensors,
}

/// Number formats that every program reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlainFormat {
    #[value(alias = "float32")]
    F32,
    #[value(alias = "float16")]
    F16,
    #[value(alias = "bfloat16")]
    Bf16,
}

/// Number formats of packed models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightFormat {
    #[value(alias = "float32")]
    F32,
    #[value(alias = "float16")]
    F16,
    #[value(alias = "bfloat16")]
    Bf16,
    #[value(alias = "q8_0", alias = "int8")]
    Q8,
    #[value(alias = "q4_0", alias = "q4_1", alias = "q4_k")]
    Q4,
}
