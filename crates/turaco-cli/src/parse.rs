//! The command line, the config file and the environment become one set of options.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::ErrorKind;
use clap::{ArgMatches, Command, FromArgMatches};

use crate::args::{self, Cli, Color};
use crate::argv::{self, Line};
use crate::config::{self, Words};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::usage;

/// What the command line asks for.
pub enum Parsed {
    /// Do this.
    Run(Box<Cli>),
    /// Show this and end.
    Help {
        /// The help or version.
        text: String,
        /// Success if it was asked for.
        exit: Exit,
        /// For it.
        printer: Printer,
    },
    /// It cannot be understood.
    Failed(Failure, Printer),
}

/// Read the words of the shell; the first one is the program's name.
pub fn command_line(words: impl IntoIterator<Item = OsString>) -> Parsed {
    let mut words = words.into_iter();
    let program = words.next().unwrap_or_else(|| "turaco".into());
    let words: Vec<OsString> = words.collect();
    let mut root = args::command();
    root.build();
    let printer = || early_printer(&words);
    match read(&root, program, words.iter().cloned()) {
        Ok(cli) => Parsed::Run(Box::new(cli)),
        Err(Refusal::Failure(failure)) => Parsed::Failed(*failure, printer()),
        Err(Refusal::Help { error, line }) => {
            let printer = printer();
            let (text, exit) = match error.kind() {
                ErrorKind::DisplayVersion => (error.render(), Exit::Success),
                ErrorKind::DisplayHelp => (help(&line), Exit::Success),
                _ => (help(&line), Exit::Usage),
            };
            let text = if exit == Exit::Success && printer.stdout_color() {
                text.ansi().to_string()
            } else {
                text.to_string()
            };
            Parsed::Help {
                text,
                exit,
                printer,
            }
        }
    }
}

enum Refusal {
    Failure(Box<Failure>),
    Help { error: clap::Error, line: Box<Line> },
}

/// Help of the command that the line names.
fn help(line: &Line) -> StyledStr {
    let mut root = args::shown_command();
    root.build();
    let mut command = &root;
    let words = line.command.iter().map(String::as_str);
    for word in words.chain(line.after.iter().filter_map(|word| word.to_str())) {
        if let Some(next) = command.find_subcommand(word) {
            command = next;
        } else if !word.starts_with('-') {
            break;
        }
    }
    command.clone().render_help()
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failure(Box::new(failure))
    }
}

fn read(
    root: &Command,
    program: OsString,
    words: impl Iterator<Item = OsString>,
) -> Result<Cli, Refusal> {
    let line = argv::normalise(root, words)?;
    let without = parse(root, &program, Words::default(), &line);
    let without = match without {
        Err(error) if is_help(&error) => {
            return Err(Refusal::Help {
                error,
                line: Box::new(line),
            });
        }
        other => other,
    };
    let Some(path) = config::file(&line) else {
        return without
            .map_err(|error| complaint(&error, root, &line).into())
            .and_then(cli(&line));
    };
    // The line's own mistakes first; what is wrong only together with the config file is the file's.
    let alone = without.map_err(|error| Refusal::from(complaint(&error, root, &line)))?;
    let words = config::read(&path, root, &line)?;
    if words == Words::default() {
        return cli(&line)(alone);
    }
    parse(root, &program, words, &line)
        .map_err(|error| complaint(&error, root, &line).at(&path).into())
        .and_then(cli(&line))
}

fn parse(
    root: &Command,
    program: &OsString,
    config: Words,
    line: &Line,
) -> Result<ArgMatches, clap::Error> {
    let words = std::iter::once(program.clone())
        .chain(config.before)
        .chain(line.before.iter().cloned())
        .chain(line.command.iter().map(OsString::from))
        .chain(config.after)
        .chain(line.after.iter().cloned());
    root.clone().try_get_matches_from(words)
}

fn cli(line: &Line) -> impl Fn(ArgMatches) -> Result<Cli, Refusal> {
    let command = line.command.clone();
    move |matches| {
        Cli::from_arg_matches(&matches)
            .map_err(|error| usage::failure(&error, command.as_deref()).into())
    }
}

fn is_help(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

fn complaint(error: &clap::Error, root: &Command, line: &Line) -> Failure {
    let words: Vec<&str> = line
        .command
        .as_deref()
        .into_iter()
        .chain(line.after.iter().filter_map(|word| word.to_str()))
        .collect();
    let command = usage::command_path(root, &words);
    let failure = usage::failure(error, command.as_deref());
    match variable_at_fault(error, root, line) {
        Some(name) => failure.hint(format!("the environment variable {name} sets this")),
        None => failure,
    }
}

/// The variable that set a value which the parser refused, if the line did not give that option.
fn variable_at_fault(error: &clap::Error, root: &Command, line: &Line) -> Option<String> {
    use clap::error::{ContextKind, ContextValue};
    if !matches!(
        error.kind(),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue
    ) {
        return None;
    }
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let long = argument.strip_prefix("--")?.split([' ', '=', '[']).next()?;
    let arg = root
        .get_arguments()
        .find(|arg| arg.get_long() == Some(long))?;
    let name = arg.get_env()?;
    let set = std::env::var_os(name).is_some();
    (set && !line.given.contains(arg.get_id().as_str()))
        .then(|| name.to_string_lossy().into_owned())
}

/// How to speak when the options are not known: the words are looked at one by one.
fn early_printer(words: &[OsString]) -> Printer {
    let value = |option: &str| {
        words.iter().enumerate().rev().find_map(|(index, word)| {
            let word = word.to_str()?.replace('_', "-");
            match word.strip_prefix(option)? {
                "" => words.get(index + 1)?.to_str().map(String::from),
                rest => rest.strip_prefix('=').map(String::from),
            }
        })
    };
    let color = match value("--color").as_deref() {
        Some("always") => Color::Always,
        Some("never") => Color::Never,
        _ => Color::Auto,
    };
    Printer::before_options(value("--log-format").as_deref() == Some("json"), color)
}
