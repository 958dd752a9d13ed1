//! Options of `serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use turaco::voice::Detection;

use super::values::{
    Number, PortOrSocket, parse_bytes, parse_count, parse_duration, parse_keep_alive,
};
use super::voice::{EndpointArgs, MemoryArgs};
use crate::env;

/// What `turaco serve` accepts.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address to listen on; 0.0.0.0 = all networks of this machine, unix:///PATH = a socket in the file system, for programs of
    /// this machine
    #[arg(long, value_name = "ADDRESS", env = env::TURACO_HOST, default_value = "127.0.0.1")]
    pub host: String,

    /// Port for HTTP and WebSockets; 0 = any that is free
    #[arg(long, value_name = "N", env = env::TURACO_PORT, default_value_t = 8000)]
    pub port: u16,

    /// Port (or unix:///PATH) for Wyoming, the protocol of Home Assistant; it knows no keys
    #[arg(long, value_name = "N", env = env::TURACO_WYOMING_PORT)]
    pub wyoming_port: Option<PortOrSocket>,

    /// Port for the counters alone [default: /metrics on the main port]
    #[arg(long, value_name = "N", env = env::TURACO_METRICS_PORT)]
    pub metrics_port: Option<u16>,

    /// Announce the Wyoming port in the local network, so that Home Assistant finds it
    #[arg(long, env = env::TURACO_ZEROCONF, requires = "wyoming_port")]
    pub zeroconf: bool,

    /// Certificate in PEM, with those that vouch for it: HTTPS in place of HTTP; new files are noticed within a minute
    #[arg(long, value_name = "FILE", env = env::TURACO_TLS_CERT, requires = "tls_key", help_heading = "Who may come in")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", env = env::TURACO_TLS_KEY, requires = "tls_cert", help_heading = "Who may come in")]
    pub tls_key: Option<PathBuf>,

    /// Let in only who brings KEY; may be given several times
    #[arg(long, value_name = "KEY", env = env::TURACO_API_KEY, hide_env_values = true, help_heading = "Who may come in")]
    pub api_key: Vec<String>,

    /// Let web pages of ORIGIN (https://app.example.org, or *) use the server; may be given several times
    #[arg(long, value_name = "ORIGIN", env = env::TURACO_CORS, help_heading = "Who may come in")]
    pub cors: Vec<String>,

    /// Let clients download, remove and replace models
    #[arg(long, env = env::TURACO_ALLOW_MODEL_MANAGEMENT, help_heading = "Who may come in")]
    pub allow_model_management: bool,

    /// Fetch recordings that requests name by address, from HOST only if one is given; without it from wherever this machine
    /// reaches, its own network included; may be given several times
    #[arg(
        long, value_name = "HOST", env = env::TURACO_ALLOW_URL_INPUT, num_args = 0..=1, require_equals = true,
        default_missing_value = "*", value_delimiter = ',', help_heading = "Who may come in"
    )]
    pub allow_url_input: Vec<String>,

    /// No web page
    #[arg(long, env = env::TURACO_NO_UI, help_heading = "Who may come in")]
    pub no_ui: bool,

    /// Model for requests for speech that name none
    #[arg(long, value_name = "MODEL", env = env::TURACO_TTS_MODEL, default_value = "qwen3-tts-0.6b-customvoice", help_heading = "Models")]
    pub tts_model: String,

    /// Load MODEL before saying that the server is ready; may be given several times
    #[arg(long, value_name = "MODEL", env = env::TURACO_PRELOAD, help_heading = "Models")]
    pub preload: Vec<String>,

    /// How long a model that nobody uses stays loaded (90, 5m, 1h); 0 = not at all, -1 = for ever
    #[arg(long, value_name = "TIME", env = env::TURACO_KEEP_ALIVE, default_value = "5m", value_parser = parse_keep_alive, help_heading = "Models")]
    pub keep_alive: KeepAlive,

    /// Models that are loaded at once; the one unused for longest makes room
    #[arg(long, value_name = "N", env = env::TURACO_MAX_LOADED, default_value_t = 4, value_parser = parse_count, help_heading = "Models")]
    pub max_loaded: usize,

    /// Largest upload (bytes, or with KiB, MiB, GiB)
    #[arg(long, value_name = "SIZE", env = env::TURACO_MAX_UPLOAD, default_value = "1GiB", value_parser = parse_bytes, help_heading = "Limits")]
    pub max_upload: u64,

    /// Requests that may wait; more are refused
    #[arg(long, value_name = "N", env = env::TURACO_MAX_QUEUE, default_value_t = 64, help_heading = "Limits")]
    pub max_queue: usize,

    /// Live sessions at once; more are refused
    #[arg(long, value_name = "N", env = env::TURACO_MAX_SESSIONS, default_value_t = 256, help_heading = "Limits")]
    pub max_sessions: usize,

    /// Close a live session that says nothing for so long
    #[arg(long, value_name = "TIME", env = env::TURACO_SESSION_TIMEOUT, default_value = "15m", value_parser = parse_duration, help_heading = "Limits")]
    pub session_timeout: Duration,

    /// Sound of a live session that may wait to be heard, in seconds
    #[arg(long, value_name = "SEC", env = env::TURACO_MAX_BUFFER, default_value_t = Number(300.0), help_heading = "Limits")]
    pub max_buffer: Number,

    /// Longest text to be spoken, in characters
    #[arg(long, value_name = "N", env = env::TURACO_MAX_TEXT, default_value_t = 100_000, help_heading = "Limits")]
    pub max_text: usize,

    /// How long work may go on when the server is asked to end
    #[arg(long, value_name = "TIME", env = env::TURACO_GRACE, default_value = "30s", value_parser = parse_duration, help_heading = "Limits")]
    pub grace: Duration,

    /// How long a request may take; 0 = as long as it takes
    #[arg(long, value_name = "TIME", env = env::TURACO_REQUEST_TIMEOUT, default_value = "0", value_parser = parse_duration, help_heading = "Limits")]
    pub request_timeout: Duration,

    /// What tells speech from other sound in live sessions that do not choose for themselves: silero, energy, or none (clients say
    /// when an utterance is over)
    #[arg(long, value_name = "NAME", env = env::TURACO_VAD, default_value = "silero", help_heading = "Live")]
    pub vad: Detection,

    /// Send traces of requests to the OpenTelemetry collector at URL (OTLP over HTTP, as on port 4318)
    #[arg(long, value_name = "URL", env = env::OTEL_EXPORTER_OTLP_ENDPOINT, help_heading = "Watching")]
    pub otlp_endpoint: Option<String>,

    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub memory: MemoryArgs,
}

/// How long a model that nobody uses stays loaded; `None` = for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive(pub Option<Duration>);
