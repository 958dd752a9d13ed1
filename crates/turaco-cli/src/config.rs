//! Defaults from a TOML file: keys are option names, tables are commands.
//!
//! ```toml
//! model = "base"
//! [transcribe]
//! beam_size = 1
//! output_format = ["srt", "txt"]
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use crate::argv::Line;
use crate::env;
use crate::exit::{Exit, Failure};

/// Options from a config file as words for the parser.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// For all commands.
    pub before: Vec<OsString>,
    /// For the command of the line.
    pub after: Vec<OsString>,
}

/// The file to read: `--config`, else the user's own if there is one.
pub fn file(line: &Line) -> Option<PathBuf> {
    if let Some(path) = &line.config {
        return Some(path.into());
    }
    let folder = match std::env::var_os(env::XDG_CONFIG_HOME).filter(|path| !path.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => std::env::home_dir()?.join(".config"),
    };
    Some(folder.join("turaco").join("config.toml")).filter(|path| path.is_file())
}

/// Read `path` for the command of `line`; what the environment sets is left out. `root` has to be built.
pub fn read(path: &Path, root: &Command, line: &Line) -> Result<Words, Failure> {
    let wrong = |message: String| {
        Failure {
            code: "invalid_config",
            ..Failure::usage(message)
        }
        .at(path)
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure {
            exit: Exit::Usage,
            ..wrong("cannot read config file".into())
        }
        .caused_by(&error)
    })?;
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| wrong(error.to_string().trim_end().to_string()))?;

    let mut words = Words::default();
    let current = line.command.as_deref().unwrap_or_default();
    // `translate` is `transcribe` with another task, so it listens to both tables; later words win.
    let sections: &[&str] = match current {
        "translate" => &["transcribe", "translate"],
        other => &[other],
    };
    let mut tables: Vec<(&str, &Table)> = Vec::new();
    for (name, value) in &table {
        let Value::Table(section) = value else {
            continue;
        };
        if root.find_subcommand(name).is_none() {
            return Err(wrong(format!("unknown table `[{name}]`"))
                .hint("tables have the names of commands, such as [transcribe]"));
        }
        // Read even when another command runs, so that a wrong key shows at once.
        for key in section.keys() {
            find(root, Some(name), key)
                .ok_or_else(|| unknown_key(&wrong, root, Some(name), key))?;
        }
        tables.push((name, section));
    }
    for (key, value) in &table {
        if value.is_table() {
            continue;
        }
        let known = root
            .get_subcommands()
            .any(|command| find(root, Some(command.get_name()), key).is_some());
        if !known {
            return Err(unknown_key(&wrong, root, None, key));
        }
        if let Some(found) = find(root, Some(current), key) {
            add(&mut words, found, value, line).map_err(wrong)?;
        }
    }
    for section in sections {
        for (_, table) in tables.iter().filter(|(name, _)| name == section) {
            for (key, value) in *table {
                if let Some(found) = find(root, Some(current), key) {
                    add(&mut words, found, value, line).map_err(wrong)?;
                }
            }
        }
    }
    Ok(words)
}

/// An option and whether all commands have it.
struct Found<'a> {
    arg: &'a Arg,
    long: &'a str,
    global: bool,
}

fn find<'a>(root: &'a Command, command: Option<&str>, key: &str) -> Option<Found<'a>> {
    let name = key.replace('_', "-");
    let in_command = |command: &'a Command| {
        command.get_arguments().find(|arg| {
            arg.get_long() == Some(&name)
                || arg
                    .get_all_aliases()
                    .is_some_and(|aliases| aliases.contains(&name.as_str()))
        })
    };
    let arg = command
        .and_then(|name| root.find_subcommand(name))
        .and_then(in_command)
        .or_else(|| in_command(root))?;
    if ["config", "help", "version"].contains(&arg.get_id().as_str()) {
        return None;
    }
    Some(Found {
        long: arg.get_long()?,
        global: arg.is_global_set(),
        arg,
    })
}

fn unknown_key(
    wrong: &dyn Fn(String) -> Failure,
    root: &Command,
    table: Option<&str>,
    key: &str,
) -> Failure {
    let failure = wrong(format!("unknown key `{key}`"));
    let elsewhere = root
        .get_subcommands()
        .find(|command| find(root, Some(command.get_name()), key).is_some());
    match (table, elsewhere) {
        (Some(table), Some(command)) => failure.hint(format!(
            "`{table}` has no such option, but `{}` has",
            command.get_name()
        )),
        _ => {
            failure.hint("keys are the long names of options; `turaco help transcribe` lists them")
        }
    }
}

/// Options of which a config file must not contradict the command line.
const EXCLUDES: &[(&str, &str)] = &[
    ("timestamps", "no_timestamps"),
    ("no_timestamps", "timestamps"),
    ("language", "languages"),
    ("languages", "language"),
    ("initial_prompt", "initial_prompt_tokens"),
    ("quiet", "verbose"),
    ("verbose", "quiet"),
];

fn add(words: &mut Words, found: Found<'_>, value: &Value, line: &Line) -> Result<(), String> {
    let Found { arg, long, global } = found;
    let id = arg.get_id().as_str();
    let excluded = EXCLUDES
        .iter()
        .any(|(option, other)| *option == id && line.given.contains(*other));
    let in_environment = arg
        .get_env()
        .and_then(std::env::var_os)
        .is_some_and(|value| !value.is_empty());
    // Counters add up, so a config's count would add to the line's.
    let counted = matches!(arg.get_action(), ArgAction::Count) && line.given.contains(id);
    if excluded || in_environment || counted {
        return Ok(());
    }
    let target = if global {
        &mut words.before
    } else {
        &mut words.after
    };
    if matches!(arg.get_action(), ArgAction::Count) {
        let count = match value {
            Value::Boolean(on) => usize::from(*on),
            Value::Integer(count @ 0..=9) => *count as usize,
            _ => return Err(format!("`{long}` has to be true, false or a count")),
        };
        target.extend(std::iter::repeat_n(format!("--{long}").into(), count));
        return Ok(());
    }
    let text = text_of(value).ok_or_else(|| {
        format!("`{long}` has to be a text, a number, true, false or a list of these")
    })?;
    target.push(format!("--{long}={text}").into());
    Ok(())
}

fn text_of(value: &Value) -> Option<String> {
    Some(match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(on) => on.to_string(),
        Value::Array(values) => {
            let texts: Option<Vec<String>> = values.iter().map(text_of).collect();
            texts?.join(",")
        }
        Value::Datetime(_) | Value::Table(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;
    use crate::argv::normalise;

    fn config(text: &str, line: &str) -> Result<String, Failure> {
        let mut command = args::command();
        command.build();
        let line = normalise(&command, line.split(' ').map(OsString::from)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        let words = read(&path, &command, &line)?;
        let all: Vec<_> = words
            .before
            .iter()
            .chain(&words.after)
            .map(|word| word.to_str().unwrap())
            .collect();
        Ok(all.join(" "))
    }

    #[test]
    fn tables_win_over_the_top_and_other_commands_are_left_out() {
        let text = "beam_size = 2\noutput-format = ['srt', 'txt']\n[transcribe]\nbeam-size = 1\nvad = true\nmodel = 'base'\n[vad]\njson = true\n";
        assert_eq!(
            config(text, "transcribe a.wav").unwrap(),
            "--model=base --beam-size=2 --output-format=srt,txt --beam-size=1 --vad=true"
        );
        assert_eq!(config(text, "vad a.wav").unwrap(), "--json=true");
        assert_eq!(config(text, "doctor").unwrap(), "");
    }

    #[test]
    fn mistakes_name_the_key() {
        for (text, part) in [
            ("beam_sise = 2", "unknown key `beam_sise`"),
            ("[transcribe]\njson = true", "unknown key `json`"),
            ("[speek]\nx = 1", "unknown table `[speek]`"),
            ("model = 1979-05-27", "`model` has to be"),
            ("model = ", "TOML parse error"),
            ("verbose = 'very'", "`verbose` has to be"),
        ] {
            let failure = config(text, "transcribe a.wav").unwrap_err();
            assert!(failure.message.contains(part), "{failure}");
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.path.is_some());
        }
    }

    #[test]
    fn the_command_line_is_not_contradicted() {
        assert_eq!(
            config(
                "timestamps = true\nquiet = 1",
                "transcribe --no-timestamps -q a.wav"
            )
            .unwrap(),
            ""
        );
    }
}
