//! Options of `bench`.

use std::path::PathBuf;

use clap::Args;

use super::stream::StreamArgs;
use super::transcribe::{
    DecodingArgs, LanguageArgs, PromptArgs, Recognition, VadFilterArgs, WordArgs,
};
use super::values::{List, Number, parse_count};
use super::voice::VoiceBenchArgs;

/// What `turaco bench` accepts.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Recordings to transcribe; a .txt of the same name beside one is its reference [default: a built-in clip]
    #[arg(value_name = "AUDIO")]
    pub audio: Vec<PathBuf>,

    #[command(flatten)]
    pub measuring: MeasuringArgs,
    #[command(flatten)]
    pub results: ResultArgs,
    #[command(flatten)]
    pub language: LanguageArgs,
    #[command(flatten)]
    pub decoding: DecodingArgs,
    #[command(flatten)]
    pub prompt: PromptArgs,
    #[command(flatten)]
    pub words: WordArgs,
    #[command(flatten)]
    pub vad: VadFilterArgs,
    #[command(flatten)]
    pub stream: StreamArgs,
    #[command(flatten)]
    pub conversation: VoiceBenchArgs,
}

/// What is measured, and how often.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Measuring")]
pub struct MeasuringArgs {
    /// Measure everything N times; medians count
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5, value_parser = parse_count)]
    pub repeats: usize,

    /// Passes before that, which do not count
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub warm_up: usize,

    /// Clips of this many seconds (rounded to whole ones) and more are long
    #[arg(long, value_name = "SEC", default_value_t = Number(60.0))]
    pub long_from: Number,

    /// Let a streaming model hear the recordings in real time: how late its text is, and whether the machine keeps up
    #[arg(long)]
    pub live: bool,

    /// Streams at once (needs --live)
    #[arg(long, value_name = "N[,N...]", default_value = "1")]
    pub sessions: List<usize>,

    /// Measure decode steps of a streaming model behind so many positions (of 80 ms): what a long memory costs
    #[arg(long, value_name = "N[,N...]")]
    pub positions: Option<List<usize>>,

    /// Frames of each utterance of a model that speaks
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = parse_count)]
    pub frames: usize,

    /// Utterances at once of a model that speaks
    #[arg(long, value_name = "N[,N...]", default_value = "1,4,8")]
    pub utterances: List<usize>,

    /// Let a model that speaks also say a short, a medium and a long text: 13, 53 and 115 words
    #[arg(long)]
    pub texts: bool,

    /// Measure kernels by themselves instead of a model
    #[arg(long)]
    pub kernels: bool,

    /// Only kernels whose kind, type and sizes hold this text; all of several (needs --kernels)
    #[arg(long, value_name = "TEXT")]
    pub filter: Vec<String>,

    /// Instruction set of the kernels, one that `turaco doctor` lists (needs --kernels) [default: the best]
    #[arg(long, value_name = "NAME")]
    pub isa: Option<String>,
}

/// Where the numbers go.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Results")]
pub struct ResultArgs {
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub json: bool,

    /// Write the JSON object to FILE, to compare with later
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,

    /// With --save: a later comparison fails above this much memory [default: 10 % more than now]
    #[arg(long, value_name = "MB")]
    pub memory_limit: Option<Number>,

    /// Compare with FILE: exit code 1 if a part takes more than 1.2 times as long or memory exceeds its limit
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,

    /// Compare multiples of the machine's floor, where there is one, instead of times (needs --against)
    #[arg(long)]
    pub by_floor: bool,

    /// Write a Chrome trace of one more pass to FILE, with a span per stage, layer and operation
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Draw a chart to FILE, .svg or .html
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

impl BenchArgs {
    /// The options that decide about the text.
    pub fn recognition(&self) -> Recognition<'_> {
        Recognition {
            language: &self.language,
            decoding: &self.decoding,
            prompt: &self.prompt,
            words: &self.words,
            vad: &self.vad,
            stream: &self.stream,
        }
    }
}
