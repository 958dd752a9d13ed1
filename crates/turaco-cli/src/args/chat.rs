//! Options of `chat`.

use std::path::PathBuf;

use clap::Args;
use turaco::chat::ChatOptions;

use super::values::{Number, parse_count};
use super::voice::TalkArgs;

/// What `turaco chat` accepts.
#[derive(Debug, Clone, Args)]
pub struct ChatArgs {
    /// What to say; one answer comes [default: lines of standard input, an answer to each]
    #[arg(value_name = "TEXT")]
    pub text: Option<String>,

    /// Sound that the first message begins with (may be repeated; "-" = stdin, which needs TEXT)
    #[arg(short, long, value_name = "FILE")]
    pub audio: Vec<PathBuf>,

    /// How the model is to behave
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,

    /// Where the model takes no --system beside sound, put it in front of the first message
    #[arg(long, requires = "system")]
    pub system_as_text: bool,

    /// Functions that the model may call: a JSON list as in OpenAI's API; calls are printed
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,

    /// Print one JSON object per answer instead of its text
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Print on stderr how many tokens each answer took, and where the time went
    #[arg(long, help_heading = "Output")]
    pub timing: bool,

    #[command(flatten)]
    pub sampling: ChatSamplingArgs,
    #[command(flatten)]
    pub talking: TalkArgs,
}

/// How tokens are chosen.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub struct ChatSamplingArgs {
    /// 0 = always the most probable token
    #[arg(long, value_name = "T", default_value_t = Number(0.2))]
    pub temperature: Number,

    /// Choose among the most probable tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = Number(0.95))]
    pub top_p: Number,

    /// Choose among the K most probable tokens, 0 = all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,

    /// The same seed gives the same answers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Tokens of an answer at most
    #[arg(long, value_name = "N", value_parser = parse_count, default_value_t = ChatOptions::MAX_TOKENS)]
    pub max_tokens: usize,

    /// End an answer in front of TEXT (may be repeated)
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

impl ChatArgs {
    /// The library's options but the tools.
    pub fn options(&self) -> ChatOptions {
        let sampling = &self.sampling;
        ChatOptions::new()
            .temperature(sampling.temperature.0 as f32)
            .top_p(sampling.top_p.0 as f32)
            .top_k(sampling.top_k)
            .seed(sampling.seed)
            .max_tokens(sampling.max_tokens)
            .stop(sampling.stop.clone())
            .system_as_text(self.system_as_text)
    }
}
