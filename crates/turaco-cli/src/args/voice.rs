//! Options of conversations by voice.

use std::path::PathBuf;

use clap::Args;
use turaco::asr::energy_gate::EnergyLimits;
use turaco::voice::{Detection, Eagerness, TurnOptions};

use super::values::{Number, parse_count};
use crate::env;

/// Who answers, if it is not a model of this program.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Answers from elsewhere")]
pub struct EndpointArgs {
    /// Let the chat endpoint at URL answer (anything that speaks OpenAI's protocol)
    #[arg(long, value_name = "URL", env = env::TURACO_LLM_URL)]
    pub llm_url: Option<String>,

    /// Model that the endpoint is asked for
    #[arg(long, value_name = "NAME", env = env::TURACO_LLM_MODEL, default_value = "default")]
    pub llm_model: String,

    /// Key of the endpoint
    #[arg(long, value_name = "KEY", env = env::TURACO_LLM_KEY, hide_env_values = true)]
    pub llm_key: Option<String>,
}

/// How conversations are measured.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Conversations")]
pub struct VoiceBenchArgs {
    /// Hold a conversation: how long after the end of speech the first text and the first sound of an answer are there. The
    /// recording is the question, --model writes it down
    #[arg(long)]
    pub voice: bool,

    /// Questions that count (needs --voice)
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = parse_count)]
    pub turns: usize,

    /// Model that says the answers (needs --voice) [default: they are only written]
    #[arg(long, value_name = "MODEL", env = env::TURACO_TTS_MODEL)]
    pub tts_model: Option<String>,

    /// What is answered at once, without a model that thinks
    #[arg(long, value_name = "TEXT", default_value = READY_ANSWER)]
    pub answer: String,

    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub turn: TurnArgs,
}

/// A sentence that is said soon, and more of them, so that there is something to interrupt.
const READY_ANSWER: &str = "Of course, I can help you with that. Let me think about it for a moment, and then I will tell you \
                            everything that I know, from the beginning to the end, as well as I can.";

/// When the user's turn begins and ends.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Turns")]
pub struct TurnArgs {
    /// What tells speech from other sound: silero, energy, or none (Enter ends a turn)
    #[arg(long, value_name = "NAME", default_value = "silero")]
    pub vad: Detection,

    /// Probability from which a moment is speech
    #[arg(long, value_name = "P", default_value_t = Number(0.5))]
    pub turn_threshold: Number,

    /// Speech has to last this long before it counts
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub min_speech: u32,

    /// Silence that ends a turn
    #[arg(long, value_name = "MS", default_value_t = 500)]
    pub turn_silence: u32,

    /// Whether what was said moves the end of a turn (fixed, low, auto, high); needs a model that listens, such as voxtral-realtime
    #[arg(long, value_name = "HOW", default_value = "fixed")]
    pub eagerness: Eagerness,

    /// Root mean square below which sound is silence, without asking the network [default: no gate]
    #[arg(long, value_name = "LEVEL")]
    pub energy_gate: Option<Number>,

    /// Speech during an answer has to be clearer and longer: for loudspeakers that the microphone hears
    #[arg(long)]
    pub echo_guard: bool,

    /// Let answers finish when somebody speaks
    #[arg(long)]
    pub no_interrupt: bool,

    /// Words that an interruption has at least; after fewer (a cough, "mhm") the answer goes on where it was. Needs a model that
    /// writes questions down; 0 = whatever counts as speech ends an answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub interrupt_words: usize,

    /// An answer that was interrupted by sound without words (a cough, a door) does not go on. It does otherwise, where it was
    /// stopped, if a model writes down what is said
    #[arg(long)]
    pub no_resume: bool,

    /// Speech has to last this long to end an answer that can be heard; what is shorter does not count meanwhile
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub interrupt_ms: u32,

    /// The same for an answer of which nothing was heard yet [default: as --interrupt-ms]
    #[arg(long, value_name = "MS")]
    pub interrupt_thinking_ms: Option<u32>,

    /// Words that it takes then [default: as --interrupt-words]
    #[arg(long, value_name = "N")]
    pub interrupt_thinking_words: Option<usize>,
}

impl TurnArgs {
    /// The library's options.
    pub fn options(&self) -> TurnOptions {
        let mut options = TurnOptions::default();
        options.detection = self.vad;
        options.threshold = self.turn_threshold.0;
        options.min_speech_ms = self.min_speech;
        options.silence_ms = self.turn_silence;
        options.eagerness = self.eagerness;
        options.energy_gate = self
            .energy_gate
            .map(|level| EnergyLimits::default().rms(level.0 as f32));
        options.echo_guard = self.echo_guard;
        options.interrupt = !self.no_interrupt;
        options.interrupt_words = self.interrupt_words;
        options.resume = !self.no_resume;
        options.interrupt_ms = self.interrupt_ms;
        options.interrupt_thinking_ms = self.interrupt_thinking_ms;
        options.interrupt_thinking_words = self.interrupt_thinking_words;
        options
    }
}

/// How far back conversations go.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Talking")]
pub struct MemoryArgs {
    /// Tokens of a conversation by voice that whoever answers is reminded of at most; beyond, the older half is left out
    #[arg(long, value_name = "N", env = env::TURACO_CONTEXT_TOKENS, value_parser = parse_count, default_value_t = 8192)]
    pub context_tokens: usize,
}

/// A conversation by voice instead of text.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Talking")]
pub struct TalkArgs {
    /// Talk: the microphone in, the loudspeaker out
    #[arg(long)]
    pub talk: bool,

    /// Listen to "-" (WAV, or raw 16-bit samples at 16 kHz), a FIFO or a file instead of the microphone
    #[arg(long, value_name = "AUDIO", requires = "talk")]
    pub listen: Option<PathBuf>,

    /// Listen to the input device whose name holds NAME
    #[arg(
        long,
        value_name = "NAME",
        requires = "talk",
        conflicts_with = "listen"
    )]
    pub mic: Option<String>,

    /// Input is raw PCM, for example s16le:48000:2 (sample format:rate:channels)
    #[arg(long, value_name = "FORMAT", requires = "listen")]
    pub raw: Option<String>,

    /// Model that says the answers [default: they are only written]
    #[arg(long, value_name = "MODEL", env = env::TURACO_TTS_MODEL)]
    pub tts_model: Option<String>,

    /// Voice of the answers: a name that the model knows, a saved voice, or a voice file
    #[arg(long, value_name = "NAME", requires = "talk")]
    pub voice: Option<String>,

    /// Model that writes down what is said; a chat endpoint is asked in text [default with --llm-url: base]
    #[arg(long, value_name = "MODEL", requires = "talk")]
    pub ear: Option<String>,

    /// Write the sound of the answers to FILE (WAV) instead of the loudspeaker
    #[arg(long, value_name = "FILE", requires = "talk")]
    pub answers: Option<PathBuf>,

    /// One JSON object per event on stdout
    #[arg(long, requires = "talk")]
    pub events: bool,

    #[command(flatten)]
    pub memory: MemoryArgs,

    /// Write the conversation to FILE (JSON) at the end
    #[arg(long, value_name = "FILE", requires = "talk")]
    pub transcript: Option<PathBuf>,

    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub turn: TurnArgs,
}
