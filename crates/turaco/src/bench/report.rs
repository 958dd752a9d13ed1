//! What a benchmark found, as it is printed, saved and compared.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::frames::FrameReport;
use super::statistics::Percentiles;

/// The version of the layout below; another one cannot be compared.
pub const FORMAT: u32 = 1;

/// Everything about one benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// What was measured.
    pub kind: Kind,
    /// When, in seconds since 1970.
    pub time: u64,
    /// Version of the program.
    pub version: String,
    /// Commit that the program was built from, if known.
    pub commit: Option<String>,
    /// Where it ran.
    pub machine: MachineFacts,
    /// What the machine could do at that moment.
    pub limits: Limits,
    /// The model, for a transcription.
    pub model: Option<ModelFacts>,
    /// Options that differ from the defaults.
    pub options: Map<String, Value>,
    /// Inputs, by name.
    pub inputs: Vec<String>,
    /// Times that everything was measured.
    pub repeats: usize,
    /// Most memory in bytes that the process held by the end of the first pass, loading included.
    pub peak_memory: Option<u64>,
    /// More than this fails a comparison with this report.
    pub memory_limit: Option<u64>,
    /// What a comparison compares.
    pub measures: Vec<Measure>,
    /// Details of a transcription.
    pub transcription: Option<TranscriptionReport>,
    /// Details of a model that speaks.
    #[serde(default)]
    pub speech: Option<FrameReport>,
    /// Details of kernels.
    pub kernels: Vec<KernelRow>,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Files to text with a model.
    Transcription,
    /// Frames of a model that speaks.
    Speech,
    /// Kernels by themselves.
    Kernels,
}

impl Kind {
    /// As messages say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transcription => "speech to text",
            Self::Speech => "frames of speech",
            Self::Kernels => "kernels",
        }
    }
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MachineFacts {
    /// Name of the processor.
    pub processor: String,
    /// Operating system and architecture.
    pub system: String,
    /// Instruction set of the kernels.
    pub instructions: String,
    /// Cores of the machine.
    pub cores: usize,
    /// Threads that computed.
    pub threads: usize,
}

/// The model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelFacts {
    /// Its name.
    pub name: String,
    /// How its weights are kept.
    pub weights: String,
    /// Where it runs.
    pub device: String,
}

/// What the machine could do, measured between the passes with as many threads: medians.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes per second of reading memory, huge pages.
    pub memory: f64,
    /// Bytes that a decode step reads.
    pub step_bytes: u64,
    /// Bytes per second of reading a buffer of that size again and again; part of it may come from a cache.
    pub step_memory: f64,
    /// Operations per second of the multiply instruction, by weight type.
    pub peaks: Vec<Peak>,
}

/// The arithmetic peak for one type of weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Peak {
    /// Weight type.
    pub weights: String,
    /// What multiplies them.
    pub instruction: String,
    /// Multiplications and additions per second.
    pub rate: f64,
}

/// One number that a comparison looks at; smaller is better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// What.
    pub name: String,
    /// How it is judged.
    pub role: Role,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// What it would be at the limit of the machine.
    pub floor: Option<f64>,
    /// What it should be at most.
    pub target: Option<f64>,
}

impl Measure {
    /// How many times the floor it is.
    pub fn ratio(&self) -> Option<f64> {
        self.floor
            .filter(|&floor| floor > 0.0)
            .map(|floor| self.value / floor)
    }
}

/// How a change of a measure is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// A part: much slower fails.
    Component,
    /// The sum: slower warns.
    Whole,
    /// Errors in the text: more warn.
    Quality,
}

/// What transcriptions took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TranscriptionReport {
    /// Seconds to load the model, which count nowhere else.
    pub load_seconds: f64,
    /// Sound in seconds of all measured runs.
    pub audio_seconds: f64,
    /// Wall time in seconds of all measured runs, from the file to the text.
    pub runtime_seconds: f64,
    /// Runtime over sound.
    pub overall_rtf: f64,
    /// The same with the model's loading counted once per pass, as if each pass were a process.
    pub overall_rtf_with_load: f64,
    /// The same of clips under the limit, and from it up.
    pub short_rtf: Option<f64>,
    /// See `short_rtf`.
    pub long_rtf: Option<f64>,
    /// Seconds (rounded to whole ones) from which on a clip counts as long.
    pub long_from: f64,
    /// Milliseconds of all decode steps over their number.
    pub weighted_step_ms: f64,
    /// Mean over the runs of short and of long clips of their mean step.
    pub short_avg_step_ms: Option<f64>,
    /// See `short_avg_step_ms`.
    pub long_avg_step_ms: Option<f64>,
    /// Milliseconds of decode steps, the choice of the token included.
    pub step_ms: Percentiles,
    /// Milliseconds of prefills.
    pub prefill_ms: Percentiles,
    /// Milliseconds of encoder runs, one window (or batch) each.
    pub encoder_ms: Percentiles,
    /// Milliseconds from sound in memory to the first token.
    pub first_token_ms: Percentiles,
    /// Milliseconds from sound in memory to the first segment of text.
    pub first_text_ms: Percentiles,
    /// Seconds of whole passes over all clips.
    pub pass_seconds: Percentiles,
    /// Tokens of the text per second of decoder (prefills, steps, token choice, attempts that were thrown away).
    pub tokens_per_second: f64,
    /// What a graphics processor did, if the model ran on one.
    #[serde(default)]
    pub device: Option<DeviceReport>,
    /// Word errors over words of all clips that have a reference.
    pub word_error_rate: Option<f64>,
    /// Per step of the list A to L.
    pub steps: Vec<StepRow>,
    /// Per clip.
    pub clips: Vec<ClipReport>,
}

/// What a graphics processor did: means over the runs of a step of the model. Times are by its own clock, 0 if it has none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeviceReport {
    /// Milliseconds of an encoder run.
    pub encoder_ms: f64,
    /// Milliseconds of a prefill.
    pub prefill_ms: f64,
    /// Milliseconds of a decode step.
    pub step_ms: f64,
    /// Kernels that a decode step calls.
    #[serde(default)]
    pub step_dispatches: f64,
    /// Command buffers that a decode step submits.
    pub step_submissions: f64,
    /// Times that the host waits for numbers in a decode step.
    pub step_readbacks: f64,
    /// Bytes of them.
    pub step_read_bytes: f64,
    /// Bytes of device memory that a decode step allocates.
    pub step_allocated_bytes: f64,
}

/// A row of the table of steps; times are of one pass over all clips, medians of the passes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepRow {
    /// The letter, or nothing for work beside the list.
    pub letter: Option<char>,
    /// A short name.
    pub name: String,
    /// Milliseconds of a pass.
    pub ms: f64,
    /// 95 and 99 of 100 passes take at most this.
    pub p95_ms: f64,
    /// See `p95_ms`.
    pub p99_ms: f64,
    /// Share of the pass.
    pub share: f64,
    /// Milliseconds at the limit of the machine.
    pub floor_ms: Option<f64>,
    /// Milliseconds that it should take at most.
    pub target_ms: Option<f64>,
}

impl StepRow {
    /// How many times the floor it takes.
    pub fn ratio(&self) -> Option<f64> {
        self.floor_ms
            .filter(|&floor| floor > 0.0)
            .map(|floor| self.ms / floor)
    }
}

/// What one clip took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClipReport {
    /// Its name.
    pub name: String,
    /// Its length in seconds.
    pub seconds: f64,
    /// Whether it counts as long.
    pub long: bool,
    /// Seconds of the runs before the measured ones.
    pub warm_up_seconds: Vec<f64>,
    /// Seconds of the measured runs.
    pub run_seconds: Vec<f64>,
    /// Their distribution.
    pub wall_seconds: Percentiles,
    /// Median wall time over length.
    pub rtf: f64,
    /// Milliseconds of encoder runs.
    pub encoder_ms: f64,
    /// Milliseconds of prefills.
    pub prefill_ms: f64,
    /// Milliseconds of decode steps.
    pub step_ms: Percentiles,
    /// Decode steps of a run.
    pub steps: usize,
    /// Encoded windows of a run.
    pub windows: usize,
    /// Tokens of the text.
    pub tokens: usize,
    /// Milliseconds from sound in memory to the first token.
    pub first_token_ms: f64,
    /// Word errors over words of the reference.
    pub word_error_rate: Option<f64>,
    /// Language of the text.
    pub language: String,
    /// The text.
    pub text: String,
}

/// What one kernel took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KernelRow {
    /// Kind of kernel.
    pub group: String,
    /// Weight type, or nothing.
    pub variant: String,
    /// Sizes.
    pub name: String,
    /// Microseconds of a call.
    pub us: f64,
    /// Bytes of weights (or keys and values) per second, in GB/s.
    pub gbytes_per_second: Option<f64>,
    /// Multiplications and additions per second, in GFLOP/s.
    pub gflops: Option<f64>,
    /// What limits it, with its unit.
    pub limit: Option<String>,
    /// Achieved share of the limit.
    pub share: Option<f64>,
    /// Microseconds that it should take at most.
    pub target_us: Option<f64>,
}
