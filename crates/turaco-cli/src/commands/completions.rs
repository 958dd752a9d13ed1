//! `turaco completions SHELL`.

use super::Context;
use crate::args::{self, CompletionsArgs};
use crate::exit::{Exit, Outcome};

/// Print the script.
pub fn run(args: &CompletionsArgs, context: &Context) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut args::shown_command(),
        "turaco",
        &mut script,
    );
    context.printer.result(&script)?;
    Ok(Exit::Success)
}
