//! From the words of the shell to the words that the parser knows.
//!
//! Scripts written for the `whisper` command and for whisper.cpp work: underscores in option names, a separate `True`
//! or `False` after a switch, response files, and the multi-letter short options that cannot mean anything else.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Arg, ArgAction, Command};

use crate::exit::Failure;

/// A command line in the parser's spelling, cut where options from a config file go in.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Options before the command.
    pub before: Vec<OsString>,
    /// The command, if there is one.
    pub command: Option<String>,
    /// Everything after the command.
    pub after: Vec<OsString>,
    /// Ids of the options that occur.
    pub given: BTreeSet<String>,
    /// The value of `--config`.
    pub config: Option<OsString>,
}

impl Line {
    fn push(&mut self, word: OsString) {
        if self.command.is_none() {
            self.before.push(word);
        } else {
            self.after.push(word);
        }
    }
}

/// whisper.cpp's spellings that no other option can have.
const WHISPER_CPP: &[(&str, &[&str])] = &[
    ("-tr", &["--task=translate"]),
    ("--translate", &["--task=translate"]),
    ("-nt", &["--no-timestamps"]),
    ("-bs", &["--beam-size"]),
    ("-bo", &["--best-of"]),
    ("-tp", &["--temperature"]),
    ("-tpi", &["--temperature-increment-on-fallback"]),
    ("-nf", &["--temperature-increment-on-fallback=none"]),
    (
        "--no-fallback",
        &["--temperature-increment-on-fallback=none"],
    ),
    ("-nth", &["--no-speech-threshold"]),
    ("-dl", &["--detect-language"]),
    ("-ps", &["--print-special"]),
    ("-pc", &["--print-colors"]),
    ("-np", &["--quiet"]),
    ("--no-prints", &["--quiet"]),
];

/// Response files may name response files, but not without end.
const MAX_RESPONSE_FILES: usize = 64;

/// Bring a command line (without the program's name) into the parser's spelling. `root` has to be built.
pub fn normalise(
    root: &Command,
    words: impl IntoIterator<Item = OsString>,
) -> Result<Line, Failure> {
    let mut pending: VecDeque<OsString> = words.into_iter().collect();
    let mut line = Line::default();
    let mut command = root;
    let mut response_files = 0;
    while let Some(word) = pending.pop_front() {
        let Some(text) = word.to_str() else {
            line.push(word);
            continue;
        };
        if text == "--" {
            line.push(word);
            pending.drain(..).for_each(|word| line.push(word));
        } else if let Some(file) = text.strip_prefix('@').filter(|file| !file.is_empty()) {
            response_files += 1;
            if response_files > MAX_RESPONSE_FILES {
                return Err(Failure::usage("too many response files")
                    .at(Path::new(file))
                    .hint("does one name itself? A file called `@name` is written `./@name`"));
            }
            for word in read_response_file(Path::new(file))?.into_iter().rev() {
                pending.push_front(word.into());
            }
        } else if let Some(replacement) = whisper_cpp(command, text) {
            for &word in replacement.iter().rev() {
                pending.push_front(word.into());
            }
        } else if let Some(option) = text.strip_prefix("--") {
            long_option(command, option, &mut pending, &mut line);
        } else if text.len() > 1 && text.starts_with('-') {
            short_options(command, text, &mut pending, &mut line);
        } else if let Some(subcommand) = command.find_subcommand(text) {
            if line.command.is_none() {
                line.command = Some(text.to_string());
            } else {
                line.after.push(word.clone());
            }
            command = subcommand;
        } else if line.command.is_none() {
            // An unknown command: the parser says so.
            line.command = Some(text.to_string());
        } else {
            line.push(word);
        }
    }
    Ok(line)
}

fn long_option(command: &Command, option: &str, pending: &mut VecDeque<OsString>, line: &mut Line) {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    let dashed = name.replace('_', "-");
    let Some((name, arg)) = find_long(command, name)
        .map(|arg| (name, arg))
        .or_else(|| find_long(command, &dashed).map(|arg| (dashed.as_str(), arg)))
    else {
        line.push(negated(command, &dashed).unwrap_or_else(|| format!("--{option}").into()));
        return;
    };
    line.given.insert(arg.get_id().to_string());
    let is_config = arg.get_id() == "config";
    if let Some(value) = value {
        if is_config {
            line.config = Some(value.into());
        }
        line.push(format!("--{name}={value}").into());
        return;
    }
    let next_is = |pending: &VecDeque<OsString>, text: &str| {
        pending.front().is_some_and(|next| next == OsStr::new(text))
    };
    let python = ["True", "False"]
        .into_iter()
        .find(|text| next_is(pending, text));
    match (kind(arg), python) {
        (Kind::Value, _) => {
            line.push(format!("--{name}").into());
            if let Some(value) = pending.pop_front() {
                if is_config {
                    line.config = Some(value.clone());
                }
                line.push(value);
            }
        }
        (Kind::Switch, Some(value)) => {
            pending.pop_front();
            line.push(format!("--{name}={value}").into());
        }
        (Kind::Count, Some(value)) => {
            pending.pop_front();
            if value == "True" {
                line.push(format!("--{name}").into());
            }
        }
        (_, None) | (Kind::Other, Some(_)) => line.push(format!("--{name}").into()),
    }
}

fn short_options(command: &Command, text: &str, pending: &mut VecDeque<OsString>, line: &mut Line) {
    line.push(text.into());
    let mut letters = text.chars().skip(1);
    while let Some(letter) = letters.next() {
        let Some(arg) = command
            .get_arguments()
            .find(|arg| arg.get_short() == Some(letter))
        else {
            return;
        };
        line.given.insert(arg.get_id().to_string());
        if kind(arg) == Kind::Value {
            if letters.next().is_none()
                && let Some(value) = pending.pop_front()
            {
                line.push(value);
            }
            return;
        }
    }
}

/// `--no-X` for a switch `--X`.
fn negated(command: &Command, name: &str) -> Option<OsString> {
    let name = name.strip_prefix("no-")?;
    let arg = find_long(command, name)?;
    (kind(arg) == Kind::Switch).then(|| format!("--{name}=false").into())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Takes a value, next word or after `=`.
    Value,
    /// Stands alone or takes `=true`, `=false`.
    Switch,
    /// Stands alone, several times.
    Count,
    /// Help and version.
    Other,
}

fn kind(arg: &Arg) -> Kind {
    match arg.get_action() {
        ArgAction::Count => Kind::Count,
        ArgAction::Set | ArgAction::Append => {
            if arg.is_require_equals_set() {
                Kind::Switch
            } else {
                Kind::Value
            }
        }
        _ => Kind::Other,
    }
}

fn find_long<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| {
        arg.get_long() == Some(name)
            || arg
                .get_all_aliases()
                .is_some_and(|aliases| aliases.contains(&name))
    })
}

fn whisper_cpp(command: &Command, text: &str) -> Option<&'static [&'static str]> {
    find_long(command, "beam-size")?;
    let (_, replacement) = WHISPER_CPP.iter().find(|(name, _)| *name == text)?;
    Some(replacement)
}

fn read_response_file(path: &Path) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage("cannot read response file")
            .at(path)
            .caused_by(&error)
            .hint("an input whose name starts with `@` is written `./@name`")
    })?;
    split_words(&text).ok_or_else(|| Failure::usage("a quote is not closed").at(path))
}

/// Words between white space; quotes keep white space, `#` at the start of a word comments out the rest of the line.
fn split_words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match quote {
            Some(open) if character == open => quote = None,
            Some(_) => word.get_or_insert_default().push(character),
            None if character == '"' || character == '\'' => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            None if character.is_whitespace() => words.extend(word.take()),
            None if character == '#' && word.is_none() => {
                characters.by_ref().find(|&character| character == '\n');
            }
            None => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;

    fn words(line: &str) -> String {
        let mut command = args::command();
        command.build();
        let line = normalise(&command, line.split(' ').map(OsString::from)).unwrap();
        let mut all = line.before;
        all.extend(line.command.map(OsString::from));
        all.extend(line.after);
        let all: Vec<_> = all.iter().map(|word| word.to_str().unwrap()).collect();
        all.join(" ")
    }

    #[test]
    fn openai_spelling_becomes_ours() {
        for (given, expected) in [
            (
                "transcribe --output_format srt a.wav",
                "transcribe --output-format srt a.wav",
            ),
            (
                "transcribe --word_timestamps True a.wav",
                "transcribe --word-timestamps=True a.wav",
            ),
            (
                "transcribe --condition_on_previous_text False --verbose False a.wav",
                "transcribe --condition-on-previous-text=False a.wav",
            ),
            // Only exactly so written: these are inputs.
            (
                "transcribe --word-timestamps true",
                "transcribe --word-timestamps true",
            ),
            // A value is a value, whatever it looks like.
            (
                "transcribe --initial_prompt --beam_size a_b.wav",
                "transcribe --initial-prompt --beam_size a_b.wav",
            ),
            (
                "-m base_x transcribe -o out_dir --fp16 False in_put.wav",
                "-m base_x transcribe -o out_dir --fp16 False in_put.wav",
            ),
            (
                "transcribe --no-suppress-blank a.wav",
                "transcribe --suppress-blank=false a.wav",
            ),
            ("transcribe -- --a_b True", "transcribe -- --a_b True"),
            ("models pull tiny", "models pull tiny"),
        ] {
            assert_eq!(words(given), expected);
        }
    }

    #[test]
    fn whisper_cpp_spelling_becomes_ours_where_it_has_one_meaning() {
        assert_eq!(
            words("transcribe -tr -bs 3 -nt a.wav"),
            "transcribe --task=translate --beam-size 3 --no-timestamps a.wav"
        );
        assert_eq!(
            words("transcribe -t4 -oout a.wav"),
            "transcribe -t4 -oout a.wav"
        );
    }

    #[test]
    fn response_files_are_split_like_a_shell_does() {
        assert_eq!(
            split_words("-m base # model\n --prompt 'Hello \"you\"'\ta\" b\".wav\r\n\"\""),
            Some(
                ["-m", "base", "--prompt", "Hello \"you\"", "a b.wav", ""]
                    .map(String::from)
                    .to_vec()
            )
        );
        assert_eq!(split_words("'open"), None);
    }

    #[test]
    fn the_config_file_and_what_was_given_are_noted() {
        let mut command = args::command();
        command.build();
        let line = normalise(
            &command,
            [
                "--config",
                "c.toml",
                "transcribe",
                "-ltrue",
                "--beam_size=2",
            ]
            .map(OsString::from),
        )
        .unwrap();
        assert_eq!(line.config, Some("c.toml".into()));
        assert!(line.given.contains("language") && line.given.contains("beam_size"));
    }
}
