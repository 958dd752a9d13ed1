//! Options of `listen`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use turaco::asr::RealtimeOptions;

use super::stream::StreamArgs;
use super::values::{Number, parse_count, parse_duration};

/// What `turaco listen` accepts.
#[derive(Debug, Clone, Args)]
pub struct ListenArgs {
    /// "-" (WAV, or raw 16-bit samples at 16 kHz), a FIFO or a file [default: "-" if something is piped in, else the microphone]
    #[arg(value_name = "AUDIO")]
    pub audio: Option<PathBuf>,

    /// Listen to the microphone, or to the input device whose name holds NAME or whose number it is
    #[arg(long, alias = "device-in", value_name = "NAME", num_args = 0..=1, default_missing_value = "", conflicts_with = "audio")]
    pub mic: Option<String>,

    /// Print the numbers and names of the input devices, and end
    #[arg(long)]
    pub list_devices: bool,

    /// The same as "-"
    #[arg(long, hide = true, conflicts_with_all = ["audio", "mic"])]
    pub stdin: bool,

    /// Input is raw PCM, for example s16le:48000:2 (sample format:rate:channels)
    #[arg(long, value_name = "FORMAT")]
    pub raw: Option<String>,

    /// Use only channel N (from 0) instead of the mean of all channels
    #[arg(long, value_name = "N")]
    pub channel: Option<usize>,

    #[command(flatten)]
    pub stream: StreamArgs,

    /// Also write a draft that follows the sound by only MS milliseconds (with --partial or --jsonl)
    #[arg(
        long,
        value_name = "MS",
        help_heading = "Streaming models (voxtral-realtime)"
    )]
    pub draft_delay: Option<u32>,

    /// Show text before it is settled: every event with --jsonl, the draft line on a terminal
    #[arg(long, help_heading = "Output")]
    pub partial: bool,

    /// One JSON object per event on stdout
    #[arg(long, help_heading = "Output")]
    pub jsonl: bool,

    /// Print "[00:00.000 --> 00:04.000] text" lines as sentences end, instead of text as it comes
    #[arg(long, help_heading = "Output")]
    pub timestamps: bool,

    /// Keep what was heard in FILE (WAV)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub save: Option<PathBuf>,

    /// Show on stderr what the engine does: ▶ encoder, ▪ text, ▫ no text, ▸ ▹ slower than the sound, ↺ fresh start
    #[arg(long, help_heading = "Output")]
    pub monitor: bool,

    /// End once no word was heard for SEC seconds of sound
    #[arg(long, value_name = "SEC", value_parser = parse_duration)]
    pub exit_on_silence: Option<Duration>,

    /// Seconds of sound to keep waiting when the machine is slower than the sound; a pipe waits then, a microphone cannot
    #[arg(long, value_name = "SEC", default_value_t = 60, value_parser = parse_count)]
    pub buffer: usize,
}

impl ListenArgs {
    /// The library's options.
    pub fn options(&self) -> RealtimeOptions {
        let mut options = RealtimeOptions::default();
        self.stream.apply(&mut options);
        options.draft_delay_ms = self.draft_delay;
        options
    }

    /// Seconds that are encoded at a time.
    pub fn interval(&self) -> f64 {
        let Number(seconds) = self.stream.interval;
        seconds
    }
}
