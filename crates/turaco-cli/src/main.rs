//! The `turaco` command.
#![forbid(unsafe_code)]

mod args;
mod argv;
mod batch;
mod commands;
mod config;
mod engine;
mod env;
mod exit;
mod files;
mod hearing;
mod inbox;
mod inputs;
mod microphone;
mod parse;
mod printer;
mod progress;
mod recording;
mod signals;
mod sound;
mod speaker;
mod typed;
mod usage;

use std::process::ExitCode;
use std::sync::Arc;

use turaco::Control;

use exit::{Exit, Outcome, Stop};
use parse::Parsed;
use printer::Printer;

fn main() -> ExitCode {
    turaco::return_freed_memory();
    let (printer, outcome) = run();
    let exit = match outcome {
        Ok(exit) => exit,
        Err(Stop::ClosedPipe) => Exit::Success,
        Err(Stop::Failed(failure)) => {
            if failure.exit == Exit::Interrupted {
                printer.warning(&failure.to_string());
            } else {
                printer.error(&failure);
            }
            failure.exit
        }
    };
    ExitCode::from(exit.code())
}

fn run() -> (Arc<Printer>, Outcome) {
    match parse::command_line(std::env::args_os()) {
        Parsed::Failed(failure, printer) => (Arc::new(printer), Err(failure.into())),
        Parsed::Help {
            text,
            exit,
            printer,
        } => {
            let shown = if exit == Exit::Success {
                printer.result(text.as_bytes())
            } else {
                printer.help(&text);
                Ok(())
            };
            (Arc::new(printer), shown.map(|()| exit))
        }
        Parsed::Run(cli) => {
            let printer = Arc::new(Printer::new(&cli.global));
            let control = Control::new();
            signals::install(&control, &printer);
            let outcome = commands::run(*cli, &printer, &control);
            (printer, outcome)
        }
    }
}
