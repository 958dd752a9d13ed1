//! Options of recognition: one table for every surface (command line, HTTP, Python, Rust).

use serde::{Deserialize, Serialize};

use super::realtime::RealtimeOptions;

/// What to do with speech.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Write down what is said, in its own language.
    #[default]
    Transcribe,
    /// Write it in English.
    Translate,
}

/// When speech counts as speech (Silero VAD); defaults are faster-whisper's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct VadOptions {
    /// Probability above which a chunk is speech.
    pub threshold: f64,
    /// Probability below which speech ends; `None` = `max(threshold - 0.15, 0.01)`.
    pub neg_threshold: Option<f64>,
    /// Shorter speech is dropped.
    pub min_speech_duration_ms: u32,
    /// Longer speech is cut; `None` = no limit (batched mode: the window length).
    pub max_speech_duration_s: Option<f64>,
    /// Silence that ends speech; `None` = 2000, batched mode 160.
    pub min_silence_duration_ms: Option<u32>,
    /// Added on both sides of speech.
    pub speech_pad_ms: u32,
}

impl Default for VadOptions {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            neg_threshold: None,
            min_speech_duration_ms: 0,
            max_speech_duration_s: None,
            min_silence_duration_ms: None,
            speech_pad_ms: 400,
        }
    }
}

/// Punctuation that joins the word after it (openai-whisper's default).
pub const PREPEND_PUNCTUATIONS: &str = "\"'“¿([{-";
/// Punctuation that joins the word before it (openai-whisper's default).
pub const APPEND_PUNCTUATIONS: &str = "\"'.。,，!！?？:：”)]}、";

/// Options of [`Transcriber::transcribe`](crate::Transcriber::transcribe). Names and defaults are the same on
/// every surface; `docs/reference/cli.md` lists them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TranscribeOptions {
    /// ISO 639-1 code or English name; `None` = detect.
    pub language: Option<String>,
    /// Restrict detection to these languages; empty = all.
    pub languages: Vec<String>,
    /// Transcribe or translate.
    pub task: Task,
    /// Beams at temperature 0; 1 = greedy.
    pub beam_size: usize,
    /// Samples at temperature > 0.
    pub best_of: usize,
    /// Beam search ends after `round(beam_size * patience)` finished hypotheses.
    pub patience: f64,
    /// Exponent of Google's length normalisation; `None` = divide by length.
    pub length_penalty: Option<f64>,
    /// Divides the logits of tokens that were already chosen; 1 = off.
    pub repetition_penalty: f64,
    /// Forbids repeating an n-gram of this many tokens; 0 = off.
    pub no_repeat_ngram_size: usize,
    /// Temperatures to try in order.
    pub temperature: Vec<f64>,
    /// More repetitive text is decoded again at the next temperature; `None` = off.
    pub compression_ratio_threshold: Option<f64>,
    /// Less certain text is decoded again at the next temperature; `None` = off.
    pub logprob_threshold: Option<f64>,
    /// Windows above this probability (and below `logprob_threshold`) count as silence; `None` = off.
    pub no_speech_threshold: Option<f64>,
    /// Give the text so far to the next window.
    pub condition_on_previous_text: bool,
    /// Forget the text so far after a window that needed a higher temperature than this.
    pub prompt_reset_on_temperature: f64,
    /// Text that comes before the first window.
    pub initial_prompt: Option<String>,
    /// The same as token ids; wins over `initial_prompt`.
    pub initial_prompt_tokens: Option<Vec<u32>>,
    /// Repeat the initial prompt before every window.
    pub carry_initial_prompt: bool,
    /// Text that the first window has to start with.
    pub prefix: Option<String>,
    /// Words to expect, given to every window.
    pub hotwords: Option<String>,
    /// Forbid a blank or the end as the first token.
    pub suppress_blank: bool,
    /// Token ids that never come out; -1 stands for the model's non-speech list.
    pub suppress_tokens: Vec<i64>,
    /// Text only, no timestamp tokens; `None` = false, batched mode true.
    pub without_timestamps: Option<bool>,
    /// Latest first timestamp in seconds.
    pub max_initial_timestamp: Option<f64>,
    /// Find the time of every word.
    pub word_timestamps: bool,
    /// See [`PREPEND_PUNCTUATIONS`].
    pub prepend_punctuations: String,
    /// See [`APPEND_PUNCTUATIONS`].
    pub append_punctuations: String,
    /// Detect the language of every window.
    pub multilingual: bool,
    /// Detection over several windows stops at this probability.
    pub language_detection_threshold: f64,
    /// How many windows detection may look at.
    pub language_detection_segments: usize,
    /// Limit of new tokens per window.
    pub max_new_tokens: Option<usize>,
    /// Window length in seconds; `None` = the model's.
    pub chunk_length: Option<f64>,
    /// `start, end, start, end, …` in seconds; an open last end is the end of the file.
    pub clip_timestamps: Vec<f64>,
    /// Silence longer than this around improbable words is skipped; needs `word_timestamps`.
    pub hallucination_silence_threshold: Option<f64>,
    /// Only decode what voice activity detection keeps; `None` = false, batched mode true.
    pub vad_filter: Option<bool>,
    /// Voice activity detection.
    pub vad_parameters: VadOptions,
    /// Windows that are decoded together; > 1 = batched mode.
    pub batch_size: usize,
    /// Seed of sampling.
    pub seed: u64,
    /// For models that hear a stream.
    pub realtime: RealtimeOptions,
}

impl Default for TranscribeOptions {
    fn default() -> Self {
        Self {
            language: None,
            languages: Vec::new(),
            task: Task::Transcribe,
            beam_size: 5,
            best_of: 5,
            patience: 1.0,
            length_penalty: None,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            temperature: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            compression_ratio_threshold: Some(2.4),
            logprob_threshold: Some(-1.0),
            no_speech_threshold: Some(0.6),
            condition_on_previous_text: true,
            prompt_reset_on_temperature: 0.5,
            initial_prompt: None,
            initial_prompt_tokens: None,
            carry_initial_prompt: false,
            prefix: None,
            hotwords: None,
            suppress_blank: true,
            suppress_tokens: vec![-1],
            without_timestamps: None,
            max_initial_timestamp: Some(1.0),
            word_timestamps: false,
            prepend_punctuations: PREPEND_PUNCTUATIONS.into(),
            append_punctuations: APPEND_PUNCTUATIONS.into(),
            multilingual: false,
            language_detection_threshold: 0.5,
            language_detection_segments: 1,
            max_new_tokens: None,
            chunk_length: None,
            clip_timestamps: Vec::new(),
            hallucination_silence_threshold: None,
            vad_filter: None,
            vad_parameters: VadOptions::default(),
            batch_size: 1,
            seed: 0,
            // As the reference does with a file; a text that ends early brings a warning.
            realtime: RealtimeOptions::default().continuous(false),
        }
    }
}
