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
    /// 0 = always the most probable token [default: 0.2; what the endpoint of --llm-url likes]
    #[arg(long, value_name = "T")]
    pub temperature: Option<Number>,

    /// Choose among the most probable tokens that together have this probability [default: 0.95]
    #[arg(long, value_name = "P")]
    pub top_p: Option<Number>,

    /// Choose among the K most probable tokens, 0 = all [default: 0]
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,

    /// The same seed gives the same answers [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Tokens of an answer at most [default: 4096; what the endpoint of --llm-url likes]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub max_tokens: Option<usize>,

    /// End an answer in front of TEXT (may be repeated)
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

impl ChatArgs {
    /// The library's options but the tools.
    pub fn options(&self) -> ChatOptions {
        let sampling = &self.sampling;
        let usual = ChatOptions::new();
        let given = |number: Option<Number>, usual: f32| number.map_or(usual, |Number(x)| x as f32);
        ChatOptions::new()
            .temperature(given(sampling.temperature, usual.temperature))
            .top_p(given(sampling.top_p, usual.top_p))
            .top_k(sampling.top_k.unwrap_or(usual.top_k))
            .seed(sampling.seed.unwrap_or(usual.seed))
            .max_tokens(sampling.max_tokens.unwrap_or(ChatOptions::MAX_TOKENS))
            .stop(sampling.stop.clone())
            .system_as_text(self.system_as_text)
    }
}
