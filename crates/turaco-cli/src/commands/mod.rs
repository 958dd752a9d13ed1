//! One file per command.

mod announce;
pub mod bench;
mod bench_voice;
pub mod chat;
mod chat_endpoint;
pub mod completions;
pub mod doctor;
mod ear;
pub mod help;
pub mod lines;
pub mod listen;
pub mod man;
pub mod models;
pub mod plan;
pub mod reference;
mod script;
pub mod serve;
mod sound_sink;
pub mod speak;
pub mod talk;
pub mod transcribe;
pub mod vad;
pub mod voices;

use std::sync::Arc;

use turaco::Control;
use turaco::asr::Task;
use turaco::models::qwen3_tts::TtsKind;

use crate::args::{
    CHAT_MODEL, CLONING_MODEL, Cli, DESIGN_MODEL, GlobalArgs, SPEECH_MODEL, Subcommands,
};
use crate::exit::Outcome;
use crate::printer::Printer;

/// What every command works with.
pub struct Context {
    /// Options of all commands.
    pub global: GlobalArgs,
    /// The way to the user.
    pub printer: Arc<Printer>,
    /// Cancelled by Ctrl-C.
    pub control: Control,
}

/// Do what the command line says.
pub fn run(cli: Cli, printer: &Arc<Printer>, control: &Control) -> Outcome {
    let context = Context {
        global: cli.global,
        printer: Arc::clone(printer),
        control: control.clone(),
    };
    match cli.command {
        Subcommands::Transcribe(args) => transcribe::run(&args, Task::Transcribe, &context),
        Subcommands::Translate(args) => transcribe::run(&args, Task::Translate, &context),
        Subcommands::Listen(args) => listen::run(&args, &context),
        Subcommands::Speak(args) => speak::run(&args, &context),
        Subcommands::Chat(args) => chat::run(&args, &context),
        Subcommands::Serve(args) => serve::run(&args, &context),
        Subcommands::Voices(args) => voices::run(&args, &context),
        Subcommands::Vad(args) => vad::run(&args, &context),
        Subcommands::Models(args) => models::run(&args, &context),
        Subcommands::Bench(args) => bench::run(&args, &context),
        Subcommands::Doctor(args) => doctor::run(&args, &context),
        Subcommands::Completions(args) => completions::run(&args, &context),
        Subcommands::Man(args) => man::run(&args, &context),
        Subcommands::Help(args) => help::run(&args, &context),
    }
}

/// The model to converse with: the one that was named, or the small one that hears.
pub fn chat_model(global: &GlobalArgs) -> &str {
    global.model.as_deref().unwrap_or(CHAT_MODEL)
}

/// The model to speak with: the one that was named, or the small one that can do what is asked for.
pub fn speech_model(global: &GlobalArgs, kind: TtsKind) -> &str {
    global.model.as_deref().unwrap_or(match kind {
        TtsKind::Base => CLONING_MODEL,
        TtsKind::CustomVoice => SPEECH_MODEL,
        TtsKind::VoiceDesign => DESIGN_MODEL,
    })
}
