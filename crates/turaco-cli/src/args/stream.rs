//! Options of models that hear a stream, of every command that recognises speech.

use clap::Args;
use turaco::asr::RealtimeOptions;

use super::values::{Number, OrNone};

/// How a streaming model listens.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Streaming models (voxtral-realtime)")]
pub struct StreamArgs {
    /// By how many milliseconds the text follows the sound, 80 to 2400 in steps of 80; later is more exact [default: the model's, 480]
    #[arg(long, value_name = "MS", aliases = ["transcription-delay-ms", "target-streaming-delay-ms"])]
    pub delay: Option<u32>,

    /// Seconds of sound to encode at a time; more is less work
    #[arg(short = 'I', long, value_name = "SEC", default_value_t = Number(RealtimeOptions::default().interval))]
    pub interval: Number,

    /// Go on when the model ends its text in the middle of the sound [default: false for files, true for listen]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = super::values::parse_bool)]
    pub continuous: Option<bool>,

    /// Guess at most N tokens ahead, 0 to 3: the same text, sooner where memory is the limit
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=3))]
    pub guesses: u8,

    /// Show what else a token could have been, [best|other], if it is less likely by at most this share (0 to 1)
    #[arg(long = "alt", value_name = "SHARE")]
    pub alternatives: Option<OrNone<Number>>,
}

impl StreamArgs {
    /// Put what was given over `options`.
    pub fn apply(&self, options: &mut RealtimeOptions) {
        options.delay_ms = self.delay;
        options.interval = self.interval.0;
        options.guesses = usize::from(self.guesses);
        options.alternatives = self
            .alternatives
            .and_then(|share| share.0)
            .map(|share| share.0);
        if let Some(continuous) = self.continuous {
            options.continuous = continuous;
        }
    }
}
