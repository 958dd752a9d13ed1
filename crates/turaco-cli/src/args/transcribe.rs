//! Options of `transcribe` and `translate`. Names and defaults are those of [`TranscribeOptions`].

use std::path::PathBuf;

use clap::Args;
use turaco::asr::{Task, TranscribeOptions, VadOptions};

use super::stream::StreamArgs;
use super::values::{List, Number, OrNone, Seconds, parse_bool, parse_count, parse_limit};

/// What `turaco transcribe` accepts.
#[derive(Debug, Clone, Args)]
pub struct TranscribeArgs {
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub language: LanguageArgs,

    /// Print the language and its probability, then stop
    #[arg(long, help_heading = "Language and task")]
    pub detect_language: bool,

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
    pub ignored: IgnoredArgs,
}

/// Which sound to read.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Input")]
pub struct InputArgs {
    /// Audio or video files, directories, glob patterns, or "-" for standard input
    #[arg(value_name = "AUDIO", required_unless_present = "from_file", help_heading = None)]
    pub audio: Vec<PathBuf>,

    /// Also read the directories below the given ones
    #[arg(long)]
    pub recursive: bool,

    /// Read more inputs from FILE, one path per line ("-" = standard input)
    #[arg(long, value_name = "FILE")]
    pub from_file: Option<PathBuf>,

    /// Paths in --from-file end with NUL instead of a line end
    #[arg(short = '0', long)]
    pub null: bool,

    /// Input is raw PCM, for example s16le:16000:1 (sample format:rate:channels)
    #[arg(long, value_name = "FORMAT")]
    pub raw: Option<String>,

    /// Use only channel N (from 0) instead of the mean of all channels
    #[arg(long, value_name = "N")]
    pub channel: Option<usize>,

    /// Start this far into the file (seconds or h:mm:ss)
    #[arg(long, value_name = "SEC")]
    pub offset: Option<Seconds>,

    /// Stop this long after the start (seconds or h:mm:ss)
    #[arg(long, value_name = "SEC")]
    pub duration: Option<Seconds>,
}

/// Where the text goes and how it looks.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Write <stem>.<ext> files to DIR instead of the result to stdout
    #[arg(short, long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,

    /// txt, srt, vtt, tsv, json (all = these five), jsonl, csv, lrc, verbose_json [default: txt; all with -o]
    #[arg(short = 'f', long, value_name = "F[,F...]")]
    pub output_format: Option<List<String>>,

    /// Print "[00:00.000 --> 00:04.000] text" lines on stdout as they become final
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub timestamps: Option<bool>,

    /// Print text only
    #[arg(long)]
    pub no_timestamps: bool,

    /// Underline each word while it is spoken (srt and vtt; needs --word-timestamps)
    #[arg(long)]
    pub highlight_words: bool,

    /// Break subtitle lines after N characters (needs --word-timestamps)
    #[arg(long, value_name = "N")]
    pub max_line_width: Option<OrNone<usize>>,

    /// At most N lines per subtitle (needs --max-line-width)
    #[arg(long, value_name = "N")]
    pub max_line_count: Option<OrNone<usize>>,

    /// At most N words per subtitle (needs --word-timestamps)
    #[arg(long, value_name = "N")]
    pub max_words_per_line: Option<OrNone<usize>>,

    /// Print special tokens too
    #[arg(long)]
    pub print_special: bool,

    /// Colour words by their probability (finds word times)
    #[arg(long)]
    pub print_colors: bool,

    /// Mark words of low confidence (finds word times)
    #[arg(long)]
    pub print_confidence: bool,

    /// Work on N files at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_count)]
    pub jobs: usize,

    /// Leave out inputs whose output files exist already (needs -o)
    #[arg(long)]
    pub skip_existing: bool,
}

/// Which language is spoken and which is written.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Language and task")]
pub struct LanguageArgs {
    /// ISO 639-1 code or English name in any case; auto = detect
    #[arg(short, long, value_name = "L", default_value = "auto")]
    pub language: String,

    /// Detect among these languages only
    #[arg(long, value_name = "L,L...")]
    pub languages: Option<List<String>>,

    /// transcribe, or translate (to English) [default: transcribe]
    #[arg(long, value_name = "TASK", value_parser = parse_task)]
    pub task: Option<Task>,

    /// Detect the language of every window
    #[arg(long)]
    pub multilingual: bool,

    /// Stop looking at more windows once a language is this probable
    #[arg(long, value_name = "P", default_value_t = Number(defaults().language_detection_threshold))]
    pub language_detection_threshold: Number,

    /// Look at no more than N windows to detect the language
    #[arg(long, value_name = "N", default_value_t = defaults().language_detection_segments, value_parser = parse_count)]
    pub language_detection_segments: usize,
}

/// How text is searched for.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Decoding")]
pub struct DecodingArgs {
    /// Beams at temperature 0; 1 = greedy
    #[arg(long, value_name = "N", default_value_t = defaults().beam_size, value_parser = parse_count)]
    pub beam_size: usize,

    /// Samples at temperatures above 0
    #[arg(long, value_name = "N", default_value_t = defaults().best_of, value_parser = parse_count)]
    pub best_of: usize,

    /// Beam search ends after beam size x patience finished texts
    #[arg(long, value_name = "X", default_value_t = Number(defaults().patience))]
    pub patience: Number,

    /// Exponent of the length normalisation; none = divide by the length
    #[arg(long, value_name = "X", allow_negative_numbers = true, default_value_t = number_or_none(defaults().length_penalty))]
    pub length_penalty: OrNone<Number>,

    /// Divide the scores of tokens already chosen; 1 = off
    #[arg(long, value_name = "X", default_value_t = Number(defaults().repetition_penalty))]
    pub repetition_penalty: Number,

    /// Forbid repeating N tokens in a row; 0 = off
    #[arg(long, value_name = "N", default_value_t = defaults().no_repeat_ngram_size)]
    pub no_repeat_ngram_size: usize,

    /// Temperatures to try in order; one number is increased by the option below
    #[arg(long, value_name = "T[,T...]", default_value_t = List(defaults().temperature.iter().copied().map(Number).collect()))]
    pub temperature: List<Number>,

    /// Step between temperatures when --temperature is one number; none = no fallback [default: 0.2]
    #[arg(long, value_name = "X", alias = "temperature-inc")]
    pub temperature_increment_on_fallback: Option<OrNone<Number>>,

    /// Decode again when the text compresses better than this; none = off
    #[arg(long, value_name = "X", default_value_t = number_or_none(defaults().compression_ratio_threshold))]
    pub compression_ratio_threshold: OrNone<Number>,

    /// Decode again when the mean log-probability is below this; none = off
    #[arg(long, value_name = "X", allow_negative_numbers = true, aliases = ["log-prob-threshold", "logprob-thold"], default_value_t = number_or_none(defaults().logprob_threshold))]
    pub logprob_threshold: OrNone<Number>,

    /// Above this probability of no speech a failed window counts as silence; none = off
    #[arg(long, value_name = "P", alias = "no-speech-thold", default_value_t = number_or_none(defaults().no_speech_threshold))]
    pub no_speech_threshold: OrNone<Number>,

    /// Forbid a blank as first token
    #[arg(long, default_value = "true")]
    pub suppress_blank: bool,

    /// Token ids that never come out; -1 = the model's list of non-speech tokens
    #[arg(long, value_name = "ID[,ID...]", allow_hyphen_values = true, default_value_t = List(defaults().suppress_tokens))]
    pub suppress_tokens: List<i64>,

    /// Decode without timestamp tokens [default: false; true in batched mode]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub without_timestamps: Option<bool>,

    /// Latest first timestamp of a window in seconds; none = no limit
    #[arg(long, value_name = "SEC", default_value_t = number_or_none(defaults().max_initial_timestamp))]
    pub max_initial_timestamp: OrNone<Number>,

    /// At most N new tokens per window [default: what the model can hold]
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<OrNone<usize>>,

    /// Window length in seconds [default: the model's, 30]
    #[arg(long, value_name = "SEC")]
    pub chunk_length: Option<OrNone<Number>>,

    /// Decode only start,end,start,end,... (seconds); the last end may be left out
    #[arg(long, value_name = "LIST", default_value = "0")]
    pub clip_timestamps: List<Seconds>,

    /// Windows decoded together; more than 1 = batched mode over the speech that VAD finds
    #[arg(long, value_name = "N", default_value_t = defaults().batch_size, value_parser = parse_count)]
    pub batch_size: usize,

    /// Seed of sampling at temperatures above 0
    #[arg(long, value_name = "N", default_value_t = defaults().seed)]
    pub seed: u64,
}

/// What the model is told before it listens.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Context")]
pub struct PromptArgs {
    /// Give the text so far to the next window
    #[arg(long, default_value = "true")]
    pub condition_on_previous_text: bool,

    /// Forget the text so far after a window that needed a higher temperature
    #[arg(long, value_name = "T", default_value_t = Number(defaults().prompt_reset_on_temperature))]
    pub prompt_reset_on_temperature: Number,

    /// Text that comes before the first window: names, style, topic
    #[arg(
        long,
        value_name = "TEXT",
        alias = "prompt",
        allow_hyphen_values = true
    )]
    pub initial_prompt: Option<String>,

    /// The same as token ids
    #[arg(long, value_name = "ID[,ID...]", conflicts_with = "initial_prompt")]
    pub initial_prompt_tokens: Option<List<u32>>,

    /// Repeat the initial prompt before every window
    #[arg(long)]
    pub carry_initial_prompt: bool,

    /// Text that the first window starts with
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prefix: Option<String>,

    /// Words to expect, given to every window
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub hotwords: Option<String>,
}

/// Times of words.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Word timestamps")]
pub struct WordArgs {
    /// Find the time of every word
    #[arg(long)]
    pub word_timestamps: bool,

    /// Punctuation that belongs to the word after it
    #[arg(long, value_name = "CHARS", allow_hyphen_values = true, default_value_t = defaults().prepend_punctuations)]
    pub prepend_punctuations: String,

    /// Punctuation that belongs to the word before it
    #[arg(long, value_name = "CHARS", allow_hyphen_values = true, default_value_t = defaults().append_punctuations)]
    pub append_punctuations: String,

    /// Skip silences longer than this around improbable words (needs --word-timestamps) [default: none]
    #[arg(long, value_name = "SEC")]
    pub hallucination_silence_threshold: Option<OrNone<Number>>,
}

/// Leaving out silence before recognition.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Voice activity detection")]
pub struct VadFilterArgs {
    /// Decode only what holds speech [default: false; true in batched mode]
    #[arg(long = "vad", alias = "vad-filter", id = "vad_filter", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub vad_filter: Option<bool>,

    #[command(flatten)]
    pub speech: SpeechArgs,
}

/// When sound counts as speech.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Voice activity detection")]
pub struct SpeechArgs {
    /// Probability above which a chunk is speech
    #[arg(long, alias = "threshold", value_name = "P", default_value_t = Number(VadOptions::default().threshold))]
    pub vad_threshold: Number,

    /// Probability below which speech ends [default: threshold - 0.15, at least 0.01]
    #[arg(long, alias = "neg-threshold", value_name = "P")]
    pub vad_neg_threshold: Option<OrNone<Number>>,

    /// Drop speech shorter than this
    #[arg(long, alias = "min-speech-duration-ms", value_name = "MS", default_value_t = VadOptions::default().min_speech_duration_ms)]
    pub vad_min_speech_duration_ms: u32,

    /// Cut speech longer than this [default: no limit; batched: the window length]
    #[arg(long, alias = "max-speech-duration-s", value_name = "SEC", value_parser = parse_limit)]
    pub vad_max_speech_duration_s: Option<OrNone<Number>>,

    /// Silence that ends speech [default: 2000; batched: 160]
    #[arg(long, alias = "min-silence-duration-ms", value_name = "MS")]
    pub vad_min_silence_duration_ms: Option<OrNone<u32>>,

    /// Added on both sides of speech
    #[arg(long, alias = "speech-pad-ms", value_name = "MS", default_value_t = VadOptions::default().speech_pad_ms)]
    pub vad_speech_pad_ms: u32,
}

/// Options of the `whisper` command that have no meaning here but appear in many scripts.
#[derive(Debug, Clone, Args)]
pub struct IgnoredArgs {
    #[arg(long, hide = true)]
    pub fp16: Option<String>,
}

impl SpeechArgs {
    /// As the library takes them.
    pub fn options(&self) -> VadOptions {
        let mut options = VadOptions::default();
        options.threshold = self.vad_threshold.0;
        options.neg_threshold = flatten(self.vad_neg_threshold);
        options.min_speech_duration_ms = self.vad_min_speech_duration_ms;
        options.max_speech_duration_s = flatten(self.vad_max_speech_duration_s);
        options.min_silence_duration_ms = self.vad_min_silence_duration_ms.and_then(|v| v.0);
        options.speech_pad_ms = self.vad_speech_pad_ms;
        options
    }
}

impl TranscribeArgs {
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

    /// The library's options. Contradictions between options of the command line are looked for elsewhere.
    pub fn options(&self, task: Task) -> TranscribeOptions {
        let mut options = self.recognition().options(task);
        options.word_timestamps |= self.output.print_colors || self.output.print_confidence;
        options
    }
}

/// The options that decide about the text, of every command that recognises speech.
#[derive(Debug, Clone, Copy)]
pub struct Recognition<'a> {
    pub language: &'a LanguageArgs,
    pub decoding: &'a DecodingArgs,
    pub prompt: &'a PromptArgs,
    pub words: &'a WordArgs,
    pub vad: &'a VadFilterArgs,
    pub stream: &'a StreamArgs,
}

impl Recognition<'_> {
    /// The value of `--language`, unless it asks for detection.
    pub fn given_language(&self) -> Option<&str> {
        let text = self.language.language.as_str();
        let detect = ["", "auto", "none"]
            .iter()
            .any(|word| text.eq_ignore_ascii_case(word));
        (!detect).then_some(text)
    }

    /// The library's options.
    pub fn options(&self, task: Task) -> TranscribeOptions {
        let Self {
            language,
            decoding,
            prompt,
            words,
            vad,
            stream,
        } = self;
        let mut options = TranscribeOptions::default();
        options.language = self.given_language().map(str::to_owned);
        options.languages = list(language.languages.as_ref());
        options.task = task;
        options.multilingual = language.multilingual;
        options.language_detection_threshold = language.language_detection_threshold.0;
        options.language_detection_segments = language.language_detection_segments;

        options.beam_size = decoding.beam_size;
        options.best_of = decoding.best_of;
        options.patience = decoding.patience.0;
        options.length_penalty = number(decoding.length_penalty);
        options.repetition_penalty = decoding.repetition_penalty.0;
        options.no_repeat_ngram_size = decoding.no_repeat_ngram_size;
        options.temperature = temperatures(
            &decoding.temperature,
            decoding.temperature_increment_on_fallback,
        );
        options.compression_ratio_threshold = number(decoding.compression_ratio_threshold);
        options.logprob_threshold = number(decoding.logprob_threshold);
        options.no_speech_threshold = number(decoding.no_speech_threshold);
        options.suppress_blank = decoding.suppress_blank;
        options.suppress_tokens = decoding.suppress_tokens.0.clone();
        options.without_timestamps = decoding.without_timestamps;
        options.max_initial_timestamp = number(decoding.max_initial_timestamp);
        options.max_new_tokens = decoding.max_new_tokens.and_then(|v| v.0);
        options.chunk_length = flatten(decoding.chunk_length);
        options.clip_timestamps = clips(&decoding.clip_timestamps);
        options.batch_size = decoding.batch_size;
        options.seed = decoding.seed;

        options.condition_on_previous_text = prompt.condition_on_previous_text;
        options.prompt_reset_on_temperature = prompt.prompt_reset_on_temperature.0;
        options.initial_prompt = prompt.initial_prompt.clone();
        options.initial_prompt_tokens = prompt
            .initial_prompt_tokens
            .as_ref()
            .map(|tokens| tokens.0.clone());
        options.carry_initial_prompt = prompt.carry_initial_prompt;
        options.prefix = prompt.prefix.clone();
        options.hotwords = prompt.hotwords.clone();

        options.word_timestamps = words.word_timestamps;
        options.prepend_punctuations = words.prepend_punctuations.clone();
        options.append_punctuations = words.append_punctuations.clone();
        options.hallucination_silence_threshold = flatten(words.hallucination_silence_threshold);

        options.vad_filter = vad.vad_filter;
        options.vad_parameters = vad.speech.options();
        stream.apply(&mut options.realtime);
        options
    }
}

fn defaults() -> TranscribeOptions {
    TranscribeOptions::default()
}

fn number_or_none(value: Option<f64>) -> OrNone<Number> {
    OrNone(value.map(Number))
}

fn number(value: OrNone<Number>) -> Option<f64> {
    value.0.map(|number| number.0)
}

fn flatten(value: Option<OrNone<Number>>) -> Option<f64> {
    value.and_then(number)
}

fn list(values: Option<&List<String>>) -> Vec<String> {
    values.map(|values| values.0.clone()).unwrap_or_default()
}

/// A list is taken as it is; one number grows to 1 in steps, as in the `whisper` command.
fn temperatures(given: &List<Number>, increment: Option<OrNone<Number>>) -> Vec<f64> {
    let is_default = given
        .0
        .iter()
        .map(|number| number.0)
        .eq(defaults().temperature);
    let first = match given.0[..] {
        [Number(first)] => first,
        // An increment without a temperature starts where the default list starts.
        [Number(first), ..] if is_default && increment.is_some() => first,
        _ => return given.0.iter().map(|number| number.0).collect(),
    };
    let increment = match increment {
        None => 0.2,
        Some(OrNone(None)) => return vec![first],
        Some(OrNone(Some(Number(step)))) => step,
    };
    // A step that is not positive is refused before; the bound keeps a tiny one from making millions.
    (0..1000)
        // Rounded so that 3 x 0.2 is 0.6.
        .map(|index| ((first + f64::from(index) * increment) * 1e9).round() / 1e9)
        .take_while(|&temperature| temperature == first || temperature <= 1.0 + 1e-6)
        .collect()
}

/// `0` alone, the reference's default, means the whole file.
fn clips(given: &List<Seconds>) -> Vec<f64> {
    if given.0 == [Seconds(0.0)] {
        return Vec::new();
    }
    given.0.iter().map(|seconds| seconds.0).collect()
}

fn parse_task(text: &str) -> Result<Task, String> {
    match text {
        "transcribe" => Ok(Task::Transcribe),
        "translate" => Ok(Task::Translate),
        _ => Err("expected `transcribe` or `translate`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::parse_for_test;

    #[test]
    fn defaults_are_the_library_s() {
        let args = parse_for_test(&["transcribe", "a.wav"]);
        assert_eq!(args.options(Task::Transcribe), TranscribeOptions::default());
    }

    #[test]
    fn one_temperature_grows_by_the_increment() {
        for (line, expected) in [
            (
                &["--temperature", "0"][..],
                vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            ),
            (&["--temperature", "0.6"], vec![0.6, 0.8, 1.0]),
            (
                &[
                    "--temperature",
                    "0",
                    "--temperature-increment-on-fallback",
                    "none",
                ],
                vec![0.0],
            ),
            (
                &[
                    "--temperature",
                    "0",
                    "--temperature-increment-on-fallback",
                    "0.5",
                ],
                vec![0.0, 0.5, 1.0],
            ),
            (&["--temperature-increment-on-fallback", "None"], vec![0.0]),
            (&["--temperature", "0,0.3"], vec![0.0, 0.3]),
            (&["--temperature", "1.5"], vec![1.5]),
        ] {
            let line: Vec<&str> = ["transcribe", "a.wav"]
                .iter()
                .chain(line)
                .copied()
                .collect();
            let options = parse_for_test(&line).options(Task::Transcribe);
            assert_eq!(options.temperature, expected, "{line:?}");
        }
    }

    #[test]
    fn every_option_reaches_the_library() {
        let args = parse_for_test(&[
            "transcribe",
            "a.wav",
            "--language",
            "Italian",
            "--multilingual",
            "--best-of",
            "3",
            "--length-penalty",
            "0.6",
            "--compression-ratio-threshold",
            "none",
            "--logprob-threshold",
            "-0.5",
            "--suppress-tokens",
            "-1,50362",
            "--without-timestamps",
            "--condition-on-previous-text=false",
            "--initial-prompt",
            "-- dashes",
            "--clip-timestamps",
            "0,5,1:00",
            "--vad",
            "--vad-threshold",
            "0.3",
            "--vad-min-silence-duration-ms",
            "100",
            "--max-initial-timestamp",
            "none",
            "--seed",
            "7",
        ]);
        let options = args.options(Task::Translate);
        let mut expected = TranscribeOptions::default();
        expected.task = Task::Translate;
        expected.language = Some("Italian".into());
        expected.multilingual = true;
        expected.best_of = 3;
        expected.length_penalty = Some(0.6);
        expected.compression_ratio_threshold = None;
        expected.logprob_threshold = Some(-0.5);
        expected.suppress_tokens = vec![-1, 50362];
        expected.without_timestamps = Some(true);
        expected.condition_on_previous_text = false;
        expected.initial_prompt = Some("-- dashes".into());
        expected.clip_timestamps = vec![0.0, 5.0, 60.0];
        expected.vad_filter = Some(true);
        expected.vad_parameters.threshold = 0.3;
        expected.vad_parameters.min_silence_duration_ms = Some(100);
        expected.max_initial_timestamp = None;
        expected.seed = 7;
        assert_eq!(options, expected);
    }
}
