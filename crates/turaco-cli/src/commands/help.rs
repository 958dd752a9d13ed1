//! `turaco help [COMMAND | environment]`.

use clap::Command;

use super::Context;
use crate::args::{self, HelpArgs};
use crate::env;
use crate::exit::{Exit, Failure, Outcome};

/// Print help for a command or a topic.
pub fn run(args: &HelpArgs, context: &Context) -> Outcome {
    if let ["environment"] = args.topic.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        context.printer.result(env::help().as_bytes())?;
        return Ok(Exit::Success);
    }
    let mut root = args::shown_command();
    root.build();
    let mut command: &Command = &root;
    for name in &args.topic {
        command = command.find_subcommand(name).ok_or_else(|| {
            let known: Vec<_> = command
                .get_subcommands()
                .map(|command| command.get_name().to_string())
                .collect();
            let hint = if known.is_empty() {
                "`turaco help` lists the commands".into()
            } else {
                format!("topics: {}, environment", known.join(", "))
            };
            Failure::usage(format!("no help for `{}`", args.topic.join(" "))).hint(hint)
        })?;
    }
    let help = command.clone().render_help();
    let text = if context.printer.stdout_color() {
        help.ansi().to_string()
    } else {
        help.to_string()
    };
    context.printer.result(text.as_bytes())?;
    Ok(Exit::Success)
}
