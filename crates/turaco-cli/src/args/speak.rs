//! Options of `speak` and `voices`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use turaco::audio::SoundFormat;
use turaco::models::qwen3_tts::TtsKind;
use turaco::tts::{SpeakOptions, TextLayout};

use super::values::{Number, parse_bool, parse_count};

/// What `turaco speak` accepts.
#[derive(Debug, Clone, Args)]
pub struct SpeakArgs {
    /// What to say [default: what comes in through a pipe, sentence by sentence]
    #[arg(value_name = "TEXT", conflicts_with_all = ["file", "script"])]
    pub text: Option<String>,

    /// Say what is in FILE ("-" = stdin)
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Several speakers: lines of "VOICE: text" in FILE, a voice with spaces (of a VoiceDesign model: its description) in quotes; NAME = "VOICE" gives it a short name; empty lines and lines with # at the start are left out
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub script: Option<PathBuf>,

    #[command(flatten)]
    pub who: VoiceArgs,

    /// How to speak, in words; with a VoiceDesign model also who speaks
    #[arg(long, visible_alias = "instructions", value_name = "TEXT")]
    pub instruct: Option<String>,

    /// Refuse a model that was made for something else: CustomVoice (voices by name), VoiceDesign (described ones) or Base (of recordings); without -m it chooses the model
    #[arg(long, value_name = "TYPE", value_parser = parse_task)]
    pub task_type: Option<TtsKind>,

    /// Language of the text: a name such as english, a code such as en or zh-CN, or auto
    #[arg(short, long, value_name = "LANGUAGE")]
    pub language: Option<String>,

    /// Above 1 is faster, at the same pitch
    #[arg(long, value_name = "X", default_value_t = Number(1.0))]
    pub speed: Number,

    /// Print the voices and languages of the model, and the saved voices
    #[arg(long)]
    pub list_voices: bool,

    /// Write to FILE instead: .wav, .flac, .opus, .mp3 or .pcm (raw 16-bit samples); "-" = stdout [default: the speaker, or stdout if that is a pipe]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// wav, flac, opus, pcm, or mp3 in builds that have it, whatever the file is called
    #[arg(
        long,
        visible_alias = "response-format",
        value_name = "FORMAT",
        help_heading = "Output"
    )]
    pub format: Option<SoundFormat>,

    /// Samples per second of what is written, 8000 to 48000 [default: the model's, 24000]
    #[arg(long, value_name = "HZ", value_parser = clap::value_parser!(u32).range(8_000..=48_000), help_heading = "Output")]
    pub sample_rate: Option<u32>,

    /// Let the file grow under its name while the sound is made, in chunks that begin with one frame (80 ms); pipes and speakers always get it so
    #[arg(long, help_heading = "Output")]
    pub stream: bool,

    /// Also draw the waveform and the spectrogram to FILE (SVG); "-" = stdout
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub plot: Option<PathBuf>,

    /// Print on stderr where the time went
    #[arg(long, help_heading = "Output")]
    pub timing: bool,

    /// Print one JSON object about the result on stdout (needs -o FILE)
    #[arg(long, requires = "output", help_heading = "Output")]
    pub json: bool,

    #[command(flatten)]
    pub sampling: SamplingArgs,

    /// Frames of 80 ms that a sentence may take at most [default: by the length of the text]
    #[arg(long, value_name = "N", value_parser = parse_count, help_heading = "Sampling")]
    pub max_frames: Option<usize>,

    /// The same, with the token that ends a sentence counted: N of the reference are N-1 frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..), conflicts_with = "max_frames", help_heading = "Sampling")]
    pub max_new_tokens: Option<u32>,

    /// Say long texts in one go instead of in pieces of some sentences
    #[arg(long)]
    pub no_split: bool,

    /// Leave out Markdown, emoji and addresses; in English also say numbers, dates, money and signs in words
    #[arg(long)]
    pub normalize: bool,

    /// Where the model sees the text: in front of the sound, or a token beside each frame
    #[arg(
        long,
        value_name = "LAYOUT",
        value_enum,
        default_value = "auto",
        help_heading = "Sampling"
    )]
    pub text_layout: Layout,

    /// The same as upstream spells it: true = --text-layout whole, false = beside
    #[arg(
        long,
        value_name = "BOOL",
        value_parser = parse_bool,
        conflicts_with = "text_layout",
        help_heading = "Sampling"
    )]
    pub non_streaming_mode: Option<bool>,
}

fn parse_task(text: &str) -> Result<TtsKind, String> {
    text.parse()
}

/// Who speaks.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Voice")]
pub struct VoiceArgs {
    /// A voice of the model, a saved voice, or a voice file
    #[arg(long, value_name = "NAME", conflicts_with_all = ["ref_audio", "voice_file"])]
    pub voice: Option<String>,

    /// Speak in the voice of a recording (Base models): a file, an http(s) address or a data URL; "-" = stdin
    #[arg(long, value_name = "FILE")]
    pub ref_audio: Option<PathBuf>,

    /// What is said in the recording [default: what a Whisper model hears, if one is here]
    #[arg(long, value_name = "TEXT", requires = "ref_audio")]
    pub ref_text: Option<String>,

    /// Take only the sound of the voice from the recording, not its manner; no text is needed
    #[arg(long, visible_alias = "x-vector-only-mode", requires = "ref_audio")]
    pub x_vector_only: bool,

    /// A voice that was saved to FILE
    #[arg(long, value_name = "FILE", conflicts_with = "ref_audio")]
    pub voice_file: Option<PathBuf>,
}

/// How codes are chosen.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// The same seed gives the same speech [default: another one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// false = always the most probable sound, as at temperature 0 [default: the model's, true]
    #[arg(
        long,
        value_name = "BOOL",
        value_parser = parse_bool
    )]
    pub do_sample: Option<bool>,

    /// --do-sample of the finer codes of a frame [default: as --do-sample]
    #[arg(
        long,
        value_name = "BOOL",
        value_parser = parse_bool
    )]
    pub subtalker_dosample: Option<bool>,

    /// 0 = always the most probable sound [default: the model's, 0.9]
    #[arg(long, value_name = "T")]
    pub temperature: Option<Number>,

    /// Choose among the K most probable, 0 = all [default: the model's, 50]
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,

    /// Choose among the most probable that together have this probability [default: the model's, 1]
    #[arg(long, value_name = "P")]
    pub top_p: Option<Number>,

    /// Makes what was there before less probable [default: the model's, 1.05]
    #[arg(long, value_name = "X")]
    pub repetition_penalty: Option<Number>,

    /// --temperature of the finer codes of a frame [default: 0 where --temperature is, else the model's, 0.9]
    #[arg(long, value_name = "T")]
    pub subtalker_temperature: Option<Number>,

    /// --top-k of the finer codes of a frame [default: the model's, 50]
    #[arg(long, value_name = "K")]
    pub subtalker_top_k: Option<usize>,

    /// --top-p of the finer codes of a frame [default: the model's, 1]
    #[arg(long, value_name = "P")]
    pub subtalker_top_p: Option<Number>,
}

/// Where the model sees the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    Auto,
    Whole,
    Beside,
}

impl SpeakArgs {
    /// The library's options but the voice.
    pub fn options(&self) -> SpeakOptions {
        let number = |number: Option<Number>| number.map(|Number(value)| value as f32);
        let mut options = SpeakOptions::new();
        options.instruct = self.instruct.clone();
        options.language = self.language.clone();
        options.split = !self.no_split;
        options.normalize = self.normalize;
        options.speed = self.speed.0 as f32;
        options.layout = match self.text_layout {
            Layout::Auto => TextLayout::Auto,
            Layout::Whole => TextLayout::Whole,
            Layout::Beside => TextLayout::Beside,
        };
        match self.non_streaming_mode {
            Some(true) => options.layout = TextLayout::Whole,
            Some(false) => options.layout = TextLayout::Beside,
            None => {}
        }
        options.max_frames = self.max_frames;
        if let Some(most) = self.max_new_tokens {
            options = options.max_new_tokens(most as usize);
        }
        let sampling = &self.sampling;
        options.do_sample = sampling.do_sample;
        options.subtalker_dosample = sampling.subtalker_dosample;
        options.temperature = number(sampling.temperature);
        options.top_k = sampling.top_k;
        options.top_p = number(sampling.top_p);
        options.repetition_penalty = number(sampling.repetition_penalty);
        options.subtalker_temperature = number(sampling.subtalker_temperature);
        options.subtalker_top_k = sampling.subtalker_top_k;
        options.subtalker_top_p = number(sampling.subtalker_top_p);
        options
    }
}

/// What `turaco voices` accepts.
#[derive(Debug, Clone, Args)]
pub struct VoicesArgs {
    #[command(subcommand)]
    pub command: VoicesCommand,
}

/// What to do with voices.
#[derive(Debug, Clone, Subcommand)]
pub enum VoicesCommand {
    /// List the voices of a model (with -m), and those that were saved
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Save the voice of a recording under a name
    Create {
        /// Name, or a file to write
        #[arg(value_name = "NAME")]
        name: String,
        /// The recording: some seconds of one person speaking, in a file, at an http(s) address or in a data URL; "-" = stdin
        #[arg(long, value_name = "FILE")]
        ref_audio: PathBuf,
        /// What is said in it [default: what a Whisper model hears, if one is here]
        #[arg(long, value_name = "TEXT")]
        ref_text: Option<String>,
        /// Take only the sound of the voice from the recording, not its manner; no text is needed
        #[arg(long)]
        x_vector_only: bool,
        /// Replace a voice of this name
        #[arg(long)]
        force: bool,
    },
    /// Remove saved voices
    Remove {
        /// Names
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}
