//! Scripts of several speakers: lines of who says what.

use std::collections::HashMap;
use std::path::Path;

use super::voices::is_path;
use crate::exit::Failure;

/// A line that is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number in the file, from 1.
    pub number: usize,
    /// Who says it; `None` = who the options name.
    pub voice: Option<String>,
    /// What.
    pub text: String,
}

/// The lines of a script, `VOICE: text` each; one without a voice is said by the voice of the line before. Empty lines and lines
/// with # at the start are left out.
///
/// A voice is one word, a path, a name in double quotes, or one that `is_saved` knows. A line `NAME = "VOICE"` says nothing: from
/// there on NAME is short for that voice, which may be a long description.
pub fn lines(
    path: &Path,
    script: &str,
    is_saved: impl Fn(&str) -> bool,
) -> Result<Vec<Line>, Failure> {
    let mut lines: Vec<Line> = Vec::new();
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut voice = None;
    for (number, line) in (1..).zip(script.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some((name, meant)) = definition(line) {
            names.insert(name, meant);
            continue;
        }
        let text = match speaker(line, &is_saved) {
            Some((name, text)) => {
                voice = Some((*names.get(name).unwrap_or(&name)).to_owned());
                text
            }
            None => line,
        };
        if !text.is_empty() {
            lines.push(Line {
                number,
                voice: voice.clone(),
                text: text.to_owned(),
            });
        }
    }
    match lines.is_empty() {
        true => Err(Failure::input(
            path,
            "this script says nothing; its lines are `VOICE: text`",
        )),
        false => Ok(lines),
    }
}

/// The short name and the voice of a line that gives one.
fn definition(line: &str) -> Option<(&str, &str)> {
    let (name, meant) = line.split_once('=')?;
    let (name, meant) = (name.trim(), meant.trim());
    let meant = meant.strip_prefix('"')?.strip_suffix('"')?.trim();
    let is_word = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || "_-".contains(c));
    (is_word && !meant.is_empty() && !meant.contains('"')).then_some((name, meant))
}

/// Who says a line, and what; `None` for a line that is all text.
fn speaker<'a>(line: &'a str, is_saved: &dyn Fn(&str) -> bool) -> Option<(&'a str, &'a str)> {
    if let Some(quoted) = line.strip_prefix('"') {
        // A text may begin with a quotation, too; no colon follows that.
        let (name, rest) = quoted.split_once('"')?;
        let text = rest.trim_start().strip_prefix(':')?;
        return Some((name.trim(), text.trim())).filter(|(name, _)| !name.is_empty());
    }
    let is_drive = |at: usize| {
        at == 1
            && line.starts_with(|c: char| c.is_ascii_alphabetic())
            && line[2..].starts_with(['\\', '/'])
    };
    let mut colons = line.match_indices(':').map(|(at, _)| at);
    let at = colons.find(|at| !is_drive(*at))?;
    let (name, text) = (line[..at].trim(), line[at + 1..].trim());
    // "Note well: this" in the middle of a text is not to be told from a voice otherwise.
    let is_voice = !name.contains(char::is_whitespace) || is_path(name) || is_saved(name);
    (is_voice && !name.is_empty()).then_some((name, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(script: &str) -> Vec<(usize, String, String)> {
        let lines = lines(Path::new("a.txt"), script, |name| name == "Aunt Anna").unwrap();
        let said = lines.into_iter();
        said.map(|line| (line.number, line.voice.unwrap_or_default(), line.text))
            .collect()
    }

    #[test]
    fn scripts_have_voices_and_texts() {
        let script = "# a talk\nRyan: Good morning.\nHow are you?\n\nvoices/anna.safetensors: Fine: thanks.\r\nSo be it: yes.";
        let line = |number: usize, voice: &str, text: &str| (number, voice.into(), text.into());
        assert_eq!(
            said(script),
            [
                line(2, "Ryan", "Good morning."),
                line(3, "Ryan", "How are you?"),
                line(5, "voices/anna.safetensors", "Fine: thanks."),
                line(6, "voices/anna.safetensors", "So be it: yes."),
            ]
        );
        assert!(lines(Path::new("a.txt"), "# nothing\n\n", |_| false).is_err());
    }

    #[test]
    fn long_voices_have_short_names() {
        let script = "sailor = \"an old sailor: slow, hoarse\"\nsailor: Good morning.\nRyan: x = \"y\"\nsailor : Fine.";
        let line = |number: usize, voice: &str, text: &str| (number, voice.into(), text.into());
        assert_eq!(
            said(script),
            [
                line(2, "an old sailor: slow, hoarse", "Good morning."),
                line(3, "Ryan", "x = \"y\""),
                line(4, "an old sailor: slow, hoarse", "Fine."),
            ]
        );
    }

    #[test]
    fn names_may_have_spaces() {
        for (script, voice, text) in [
            ("Aunt Anna: Yes.", "Aunt Anna", "Yes."),
            ("\"Uncle Ben\": Yes.", "Uncle Ben", "Yes."),
            ("\"Uncle Ben\" : Yes: no.", "Uncle Ben", "Yes: no."),
            (
                "my voices/b.safetensors: Yes.",
                "my voices/b.safetensors",
                "Yes.",
            ),
            (r"C:\v\b.safetensors: Yes.", r"C:\v\b.safetensors", "Yes."),
            ("Uncle Ben: Yes.", "", "Uncle Ben: Yes."),
            ("\"Yes,\" he said: no.", "", "\"Yes,\" he said: no."),
            ("\"\": no.", "", "\"\": no."),
            (": no.", "", ": no."),
        ] {
            assert_eq!(
                said(script),
                [(1, voice.to_owned(), text.to_owned())],
                "{script}"
            );
        }
    }
}
