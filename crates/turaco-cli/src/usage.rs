//! The parser's complaints in the words and form of all other errors.

use clap::Command;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use crate::exit::Failure;

/// What the parser found wrong.
pub fn failure(error: &Error, command: Option<&str>) -> Failure {
    let argument = text(error, ContextKind::InvalidArg);
    let option = argument.as_deref().map(option_name);
    let value = text(error, ContextKind::InvalidValue);
    let failure = match (error.kind(), option, value) {
        (ErrorKind::UnknownArgument, Some(option), _) if option.starts_with('-') => {
            Failure::usage(format!("unknown option `{option}`"))
        }
        (ErrorKind::UnknownArgument, Some(_), _) => Failure::usage(format!(
            "unexpected argument `{}`",
            argument.as_deref().unwrap_or_default()
        )),
        (ErrorKind::InvalidSubcommand, ..) => Failure::usage(format!(
            "unknown command `{}`",
            text(error, ContextKind::InvalidSubcommand).unwrap_or_default()
        )),
        (ErrorKind::InvalidValue, Some(option), None) => {
            Failure::usage(format!("option `{option}` needs a value"))
        }
        (ErrorKind::InvalidValue, Some(option), Some(value)) if value.is_empty() => {
            Failure::usage(format!("option `{option}` needs a value"))
        }
        (ErrorKind::InvalidValue | ErrorKind::ValueValidation, Some(option), Some(value)) => {
            let mut message = format!("invalid value `{value}` for `{option}`");
            if let Some(source) = std::error::Error::source(error) {
                message.push_str(&format!(": {}", for_people(&source.to_string())));
            } else if let Some(values) = list(error, ContextKind::ValidValue) {
                message.push_str(&format!(": expected {values}"));
            }
            Failure::usage(message)
        }
        (ErrorKind::MissingRequiredArgument, ..) => Failure::usage(format!(
            "missing {}",
            list(error, ContextKind::InvalidArg).unwrap_or_else(|| "argument".into())
        )),
        (ErrorKind::ArgumentConflict, Some(option), _) => {
            match list(error, ContextKind::PriorArg) {
                Some(other) => Failure::usage(format!(
                    "`{option}` cannot be used with `{}`",
                    option_name(&other)
                )),
                None => Failure::usage(format!("`{option}` cannot be used here")),
            }
        }
        (ErrorKind::MissingSubcommand, ..) => Failure::usage("missing command"),
        _ => Failure::usage(first_line(error)),
    };
    let suggestion = [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedValue,
    ]
    .into_iter()
    .find_map(|kind| best(error, kind));
    failure.hint(match (suggestion, command) {
        (Some(suggestion), _) => format!("did you mean `{suggestion}`?"),
        (None, Some(command)) => format!("`turaco help {command}` shows what is accepted"),
        (None, None) => "`turaco help` lists the commands".into(),
    })
}

/// The words of the command that was meant, as far as they name one (`models pull`).
pub fn command_path(root: &Command, words: &[&str]) -> Option<String> {
    let mut command = root;
    let mut path = Vec::new();
    for word in words {
        match command.find_subcommand(word) {
            Some(next) => {
                path.push(*word);
                command = next;
            }
            None => break,
        }
    }
    (!path.is_empty()).then(|| path.join(" "))
}

/// The name in what the parser calls an argument: `--option <VALUE>`, `--switch[=<BOOL>]`, `[ARGUMENT]`.
fn option_name(argument: &str) -> &str {
    let argument = argument.trim_start_matches(['[', '<']);
    let end = argument.find([' ', '=', '[', ']', '>']);
    &argument[..end.unwrap_or(argument.len())]
}

fn text(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}

fn list(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) if texts.is_empty() => None,
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        _ => None,
    }
}

/// The parser lists the likeliest suggestion last.
fn best(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.last().cloned(),
        _ => None,
    }
}

fn first_line(error: &Error) -> String {
    let text = error.render().to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_string()
}

/// What the standard library and the parser say about a number that is none, in other words.
fn for_people(reason: &str) -> String {
    if let Some((_, range)) = reason.split_once(" is not in ")
        && let Some((from, to)) = range.split_once("..=")
    {
        return format!("expected a whole number from {from} to {to}");
    }
    match reason {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "expected a whole number".into()
        }
        "number too large to fit in target type" => "expected a smaller number".into(),
        _ => reason.into(),
    }
}
