//! What the server is told when it starts.

use std::sync::Arc;
use std::time::Duration;

use turaco::address::Hosts;
use turaco::tts::VoiceStore;
use turaco::voice::{ConversationOptions, Detection, EndpointOptions};

use crate::traces::Traces;

/// Takes one line for the log.
pub type Log = Arc<dyn Fn(LogLevel, &str) + Send + Sync>;

/// How much a line of the log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Something is wrong with the server.
    Error,
    /// Something was refused.
    Warning,
    /// A request was answered.
    Info,
}

/// Options of the server; the names are those of `turaco serve`.
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// The model for requests that name none, or `whisper-1`.
    pub model: String,
    /// The model that speaks for requests that name none, or `tts-1`.
    pub tts_model: String,
    /// Who answers in conversations, if it is not a model of this server.
    pub llm: Option<EndpointOptions>,
    /// Keys of which one is needed; none = everybody may.
    pub api_keys: Vec<String>,
    /// Origins of web pages that may use the server; `*` = all.
    pub cors: Vec<String>,
    /// Bytes of an upload.
    pub max_upload: u64,
    /// Requests that may wait.
    pub max_queue: usize,
    /// Live sessions at once.
    pub max_sessions: usize,
    /// A session that says nothing for so long is closed.
    pub session_timeout: Duration,
    /// Seconds of sound that a session may be ahead.
    pub max_buffer: f64,
    /// Characters of a text to be spoken.
    pub max_text: usize,
    /// What tells speech from other sound in live sessions that do not say it; [`Detection::None`] = clients say
    /// what an utterance is.
    pub vad: Detection,
    /// Tokens of a conversation that whoever answers is given at most.
    pub context_tokens: usize,
    /// Bytes of memory for the decoded recordings of all requests together; `None` = half of what is left.
    pub max_sound: Option<u64>,
    /// How long work may go on after the server was asked to end.
    pub grace: Duration,
    /// How long a request may take; `None` = as long as it takes.
    pub request_timeout: Option<Duration>,
    /// Whether clients may download, remove and replace models.
    pub allow_model_management: bool,
    /// Never use the network for models.
    pub offline: bool,
    /// Where recordings are fetched from when a request has an address in place of one; `None` = they are not.
    pub fetch_from: Option<Hosts>,
    /// Whether the web page is there.
    pub ui: bool,
    /// Whether `/metrics` is on this port.
    pub metrics: bool,
    /// Takes traces of requests; `None` = there are none.
    pub traces: Option<Traces>,
    /// Where saved voices are; `None` = there are none.
    pub voices: Option<VoiceStore>,
    /// Takes the log.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: "tiny.en".into(),
            tts_model: "qwen3-tts-0.6b-customvoice".into(),
            llm: None,
            api_keys: Vec::new(),
            cors: Vec::new(),
            max_upload: 1 << 30,
            max_queue: 64,
            max_sessions: 256,
            session_timeout: Duration::from_secs(15 * 60),
            max_buffer: 300.0,
            max_text: 100_000,
            vad: Detection::Silero,
            context_tokens: ConversationOptions::default().context_tokens,
            max_sound: None,
            grace: Duration::from_secs(30),
            request_timeout: None,
            allow_model_management: false,
            offline: false,
            fetch_from: None,
            ui: true,
            metrics: true,
            traces: None,
            voices: None,
            log: Arc::new(|_, _| {}),
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("Config")
            .field("model", &self.model)
            .field("tts_model", &self.tts_model)
            .field("api_keys", &self.api_keys.len())
            .finish_non_exhaustive()
    }
}
