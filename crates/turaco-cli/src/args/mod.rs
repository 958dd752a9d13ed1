//! Every option of the command line, declared once; help, completions, man pages and the reference are made from it.

mod bench;
mod chat;
mod listen;
mod models;
mod serve;
mod speak;
mod stream;
mod transcribe;
pub mod values;
mod voice;

use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{ArgAction, Args, Command, CommandFactory, Parser, Subcommand, ValueEnum};
use turaco::ComputeType;

use crate::env;

pub use bench::BenchArgs;
pub use chat::ChatArgs;
pub use listen::ListenArgs;
pub use models::{ModelsArgs, ModelsCommand, PlainFormat, RandomModel, WeightFormat};
pub use serve::ServeArgs;
pub use speak::{SpeakArgs, VoiceArgs, VoicesArgs, VoicesCommand};
pub use transcribe::{InputArgs, Recognition, TranscribeArgs};
use values::parse_bool;
pub use values::{PortOrSocket, socket_path};
pub use voice::{EndpointArgs, TalkArgs};

/// The model that writes down what is said when nothing names one: small, English, fetched in seconds.
pub const DEFAULT_MODEL: &str = "tiny.en";

/// The model that converses when nothing names one: the small one that hears.
pub const CHAT_MODEL: &str = "voxtral-mini";

/// The model that speaks when nothing names one.
pub const SPEECH_MODEL: &str = "qwen3-tts-0.6b-customvoice";

/// The same where the voice is that of a recording.
pub const CLONING_MODEL: &str = "qwen3-tts-0.6b-base";

/// The same where the voice is described.
pub const DESIGN_MODEL: &str = "qwen3-tts-1.7b-voicedesign";

/// What `--model` is in commands where it is something else than in most.
const MODELS: [(&[&str], &str); 5] = [
    (
        &["speak"],
        "Path, name such as qwen3-tts-1.7b-voicedesign, or Hugging Face id org/name [default: qwen3-tts-0.6b-customvoice; \
         qwen3-tts-0.6b-base for the voice of a recording]",
    ),
    (
        &["voices", "list"],
        "Path, name such as qwen3-tts-1.7b-customvoice, or Hugging Face id org/name [default: qwen3-tts-0.6b-customvoice]",
    ),
    (
        &["voices", "create"],
        "Path, name such as qwen3-tts-1.7b-base, or Hugging Face id org/name [default: qwen3-tts-0.6b-base]",
    ),
    (
        &["chat"],
        "Path, name such as voxtral-small, or Hugging Face id org/name [default: voxtral-mini]",
    ),
    (
        &["listen"],
        "Path, name such as voxtral-realtime, or Hugging Face id org/name of a model that listens",
    ),
];

/// A local speech engine: speech to text on your own machine
#[derive(Debug, Clone, Parser)]
#[command(
    name = "turaco",
    bin_name = "turaco",
    version,
    disable_help_subcommand = true,
    disable_help_flag = true,
    disable_version_flag = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Run `turaco help COMMAND` for the options of a command, `turaco help environment` for variables."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = "Global options")]
    pub version: Option<bool>,

    #[command(subcommand)]
    pub command: Subcommands,
}

/// Options that every command accepts.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Path, name such as base.en or large-v3-turbo, or Hugging Face id org/name [default: tiny.en]
    #[arg(short, long, global = true, value_name = "MODEL", env = env::TURACO_MODEL)]
    pub model: Option<String>,

    /// Also look for models in DIR
    #[arg(long, global = true, value_name = "DIR")]
    pub model_dir: Option<PathBuf>,

    /// auto, cpu, wgpu[:N] (any graphics processor), vulkan[:N], metal[:N], dx12[:N] or cuda[:N]; auto = the best that works
    #[arg(long, global = true, value_name = "DEVICE", env = env::TURACO_DEVICE, default_value = "auto", value_parser = values::parse_device)]
    pub device: String,

    /// Number format of the weights in memory: auto, f32, bf16, f16, q8 (int8) or q4
    #[arg(long, global = true, value_name = "TYPE", env = env::TURACO_COMPUTE_TYPE, default_value = "auto", value_parser = values::parse_compute_type)]
    pub compute_type: ComputeType,

    /// Threads to compute with; 0 = one per physical core
    #[arg(short, long, global = true, value_name = "N", env = env::TURACO_THREADS, default_value_t = 0)]
    pub threads: usize,

    /// Never use the network
    #[arg(long, global = true, env = env::TURACO_OFFLINE)]
    pub offline: bool,

    /// Read defaults of options from FILE [default: $XDG_CONFIG_HOME/turaco/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Less on stderr; twice = errors only
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub quiet: u8,

    /// More on stderr: a summary per file; twice = timings
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// How messages on stderr are written
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "text",
        value_enum
    )]
    pub log_format: LogFormat,

    /// When to use colours
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        value_enum
    )]
    pub color: Color,

    /// No progress bar
    #[arg(long, global = true)]
    pub no_progress: bool,

    /// Print help
    #[arg(short, long, global = true, action = ArgAction::Help)]
    pub help: Option<bool>,
}

impl GlobalArgs {
    /// The model that was named, or the one that writes down what is said.
    pub fn recogniser(&self) -> &str {
        self.model.as_deref().unwrap_or(DEFAULT_MODEL)
    }
}

/// How messages on stderr are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    // No doc comments on the values: they would make the help of every command twice as long.
    Text,
    Json,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Subcommands {
    /// Speech to text
    #[command(after_help = TRANSCRIBE_EXAMPLES)]
    Transcribe(Box<TranscribeArgs>),
    /// Speech in any language to English text (= transcribe --task translate)
    Translate(Box<TranscribeArgs>),
    /// Speech to text while it is said: from the microphone, a pipe or a stream
    #[command(after_help = LISTEN_EXAMPLES)]
    Listen(Box<ListenArgs>),
    /// Text to speech, in voices by name, by description, or of a recording
    #[command(after_help = SPEAK_EXAMPLES)]
    Speak(Box<SpeakArgs>),
    /// Talk with a model that hears: text and sound in, text out
    #[command(after_help = CHAT_EXAMPLES)]
    Chat(Box<ChatArgs>),
    /// Answer over the network: OpenAI's HTTP and realtime interfaces, Wyoming, and a web page
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// List, save and remove voices
    Voices(VoicesArgs),
    /// Find where there is speech
    Vad(VadArgs),
    /// List, download, inspect and convert models
    Models(ModelsArgs),
    /// Measure this machine and a model
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(Box<BenchArgs>),
    /// Show version, hardware, chosen kernels and caches, and run a short self test
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write all pages to a directory
    Man(ManArgs),
    /// Show help for a command or a topic
    Help(HelpArgs),
}

const TRANSCRIBE_EXAMPLES: &str = "Examples:
  turaco transcribe talk.mp3
  turaco transcribe -m large-v3-turbo -f srt,txt -o subtitles/ recordings/
  turaco transcribe --word-timestamps -f json interview.wav > interview.json
  ffmpeg -i film.mkv -f wav - | turaco transcribe --timestamps -";

const LISTEN_EXAMPLES: &str = "Examples:
  turaco listen -m voxtral-realtime --compute-type q4
  arecord -f S16_LE -r 16000 -c 1 -t raw | turaco listen -m voxtral-realtime -
  ffmpeg -i https://example.org/radio -ac 1 -ar 16000 -f wav - | turaco listen -m voxtral-realtime --jsonl
  turaco listen -m voxtral-realtime --delay 960 --draft-delay 160 --partial --save meeting.wav";

const SPEAK_EXAMPLES: &str = "Examples:
  turaco speak \"Good morning\" --voice ryan
  turaco speak -m qwen3-tts-1.7b-voicedesign --instruct \"an old sailor, slow and hoarse\" -o story.wav --file story.txt
  turaco voices create anna --ref-audio anna.wav --ref-text \"It was a calm morning.\"
  some-language-model | turaco speak --voice anna | aplay";

const CHAT_EXAMPLES: &str = "Examples:
  turaco chat --audio meeting.m4a \"What was decided, and who does what?\"
  turaco chat --audio a.wav --audio b.wav \"Is this the same speaker?\"
  turaco chat --system \"Answer in one sentence.\"                # a conversation, line by line
  turaco chat --audio order.wav --tools functions.json --json    # calls of functions from speech";

const SERVE_EXAMPLES: &str = "Examples:
  turaco serve
  turaco serve -m large-v3-turbo --preload large-v3-turbo --keep-alive -1
  turaco serve --host 0.0.0.0 --api-key \"$KEY\" --cors https://app.example.org
  curl http://127.0.0.1:8000/v1/audio/transcriptions -F file=@talk.mp3 -F response_format=srt";

const BENCH_EXAMPLES: &str = "Examples:
  turaco bench -m base --beam-size 1 -n 10
  turaco bench --save tiny.json talk.wav       # talk.txt beside it holds what is said
  turaco bench --against tiny.json talk.wav    # exit code 1 if a part became slower
  turaco bench --trace trace.json --plot chart.svg
  turaco bench --kernels --filter matrix-vector --filter bf16";

/// What `turaco vad` accepts.
#[derive(Debug, Clone, Args)]
pub struct VadArgs {
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub speech: transcribe::SpeechArgs,
    /// Print one JSON object per file
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// What `turaco doctor` accepts.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// Only compile the kernels for NVIDIA's cards of a compute capability (9.0, say), so that a machine without NVRTC finds them
    /// in the cache folder
    #[arg(long, value_name = "CAPABILITY", value_parser = values::capability, conflicts_with = "json")]
    pub compile_kernels: Option<u32>,
}

/// What `turaco completions` accepts.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// What `turaco man` accepts.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Write one page per command to DIR instead of one page to stdout
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Write the reference pages of the documentation (Markdown) instead
    #[arg(long, hide = true, requires = "dir")]
    pub markdown: bool,
}

/// What `turaco help` accepts.
#[derive(Debug, Clone, Args)]
pub struct HelpArgs {
    /// A command (`models pull`) or the topic `environment`
    #[arg(value_name = "TOPIC")]
    pub topic: Vec<String>,
}

/// The command line as the parser reads it.
pub fn command() -> Command {
    let command = Cli::command().args_override_self(true);
    variables_that_are_set(valued_switches(command, false))
}

/// The command line as help, completions and manual pages show it: switches that are off by default have no value.
pub fn shown_command() -> Command {
    let command = Cli::command().max_term_width(100);
    let mut command = valued_switches(without_values_of_variables(command), true);
    // Only now every command has the options of all.
    command.build();
    with_models(command, &[])
}

/// What `--model` is in a command, for its help.
fn with_models(command: Command, path: &[&str]) -> Command {
    let said = MODELS.iter().find(|(known, _)| *known == path);
    command
        .mut_args(|arg| match said {
            Some((_, help)) if arg.get_id() == "model" => arg.help(*help),
            _ => arg,
        })
        .mut_subcommands(|command| {
            let name = command.get_name().to_owned();
            let path: Vec<&str> = path.iter().copied().chain([name.as_str()]).collect();
            with_models(command, &path)
        })
}

/// Help shows the names of variables, never what they are set to.
fn without_values_of_variables(command: Command) -> Command {
    command
        .mut_args(|arg| arg.hide_env_values(true))
        .mut_subcommands(without_values_of_variables)
}

/// Switches take `=true` and `=false` as well, so that scripts and config files can turn a default around.
fn valued_switches(command: Command, only_on: bool) -> Command {
    command
        .mut_args(|arg| {
            let on = arg
                .get_default_values()
                .first()
                .is_some_and(|v| v == "true");
            if matches!(arg.get_action(), ArgAction::Set) && !arg.is_require_equals_set() {
                // `-1` after an option is its value, right or wrong.
                return arg.allow_negative_numbers(true);
            }
            if !matches!(arg.get_action(), ArgAction::SetTrue) || (only_on && !on) {
                return arg;
            }
            let arg = arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(ValueParser::new(parse_bool))
                .value_name("BOOL");
            if on {
                arg
            } else {
                arg.default_value("false").hide_default_value(true)
            }
        })
        .mut_subcommands(|command| valued_switches(command, only_on))
}

/// A variable that is set to nothing counts as not set.
fn variables_that_are_set(command: Command) -> Command {
    command
        .mut_args(|arg| {
            let empty = arg
                .get_env()
                .and_then(std::env::var_os)
                .is_some_and(|value| value.is_empty());
            if empty {
                arg.env(clap::builder::Resettable::Reset)
            } else {
                arg
            }
        })
        .mut_subcommands(variables_that_are_set)
}

/// The arguments of `transcribe` as the program reads them.
#[cfg(test)]
pub fn parse_for_test(line: &[&str]) -> TranscribeArgs {
    use clap::FromArgMatches;
    let line = std::iter::once("turaco").chain(line.iter().copied());
    let matches = command().try_get_matches_from(line).unwrap();
    match Cli::from_arg_matches(&matches).unwrap().command {
        Subcommands::Transcribe(args) | Subcommands::Translate(args) => *args,
        other => panic!("not a transcription: {other:?}"),
    }
}

/// The options of a `listen` line without the program's name.
#[cfg(test)]
pub fn listen_for_test(line: &[&str]) -> ListenArgs {
    use clap::FromArgMatches;
    let line = std::iter::once("turaco").chain(line.iter().copied());
    let matches = command().try_get_matches_from(line).unwrap();
    match Cli::from_arg_matches(&matches).unwrap().command {
        Subcommands::Listen(args) => *args,
        other => panic!("not listening: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_consistent() {
        command().debug_assert();
        shown_command().debug_assert();
    }

    #[test]
    fn help_names_the_model_that_a_command_takes() {
        let command = shown_command();
        let model = |path: &[&str]| {
            let command = path
                .iter()
                .try_fold(&command, |command, name| command.find_subcommand(name));
            let mut args = command.unwrap().get_arguments();
            let model = args.find(|arg| arg.get_id() == "model").unwrap();
            model.get_help().unwrap().to_string()
        };
        for (path, _) in MODELS {
            assert!(!model(path).contains(DEFAULT_MODEL), "{path:?}");
        }
        assert!(model(&["speak"]).contains(SPEECH_MODEL));
        assert!(model(&["speak"]).contains(CLONING_MODEL));
        assert!(model(&["voices", "list"]).contains(SPEECH_MODEL));
        assert!(model(&["voices", "create"]).contains(CLONING_MODEL));
        assert!(model(&["chat"]).contains(CHAT_MODEL));
        assert!(model(&["transcribe"]).contains(DEFAULT_MODEL));
    }

    #[test]
    fn every_option_of_the_library_is_an_option_here() {
        let command = command();
        let transcribe = command.find_subcommand("transcribe").unwrap();
        let options = serde_json::to_value(turaco::asr::TranscribeOptions::default()).unwrap();
        for name in options.as_object().unwrap().keys() {
            if ["vad_parameters", "realtime"].contains(&name.as_str()) {
                continue;
            }
            assert!(
                transcribe
                    .get_arguments()
                    .any(|arg| arg.get_id() == name.as_str()),
                "no option for `{name}`"
            );
        }
        let listen = command.find_subcommand("listen").unwrap();
        for name in options["realtime"].as_object().unwrap().keys() {
            let name = name.trim_end_matches("_ms");
            assert!(
                listen.get_arguments().any(|arg| arg.get_id() == name),
                "no option for `{name}`"
            );
        }
        for name in options["vad_parameters"].as_object().unwrap().keys() {
            let name = format!("vad_{name}");
            assert!(
                transcribe
                    .get_arguments()
                    .any(|arg| arg.get_id() == name.as_str()),
                "no option for `{name}`"
            );
        }
    }

    #[test]
    fn every_option_is_described() {
        fn check(command: &Command) {
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                assert!(
                    arg.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    arg.get_id()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&command());
    }
}
