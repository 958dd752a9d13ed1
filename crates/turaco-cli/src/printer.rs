//! Who may write to stdout and stderr, and how: results on stdout, everything else on stderr.

use std::collections::HashSet;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::MultiProgress;
use serde_json::{Map, Value, json};

use crate::args::{Color, GlobalArgs, LogFormat};
use crate::env;
use crate::exit::{Failure, Stop};

/// How much is said on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Only what failed.
    Error,
    /// And what may surprise.
    Warning,
    /// And what was done.
    Normal,
    /// And how well.
    Verbose,
    /// And where the time went.
    Debug,
}

/// The one writer of stdout and stderr.
pub struct Printer {
    level: Level,
    log_format: LogFormat,
    stderr_color: bool,
    stdout_color: bool,
    colors_on_request: bool,
    /// Progress bars are drawn: stderr is a terminal and nobody forbade it.
    bars: Option<MultiProgress>,
    stdout_is_terminal: bool,
    warned: Mutex<HashSet<String>>,
}

impl Printer {
    /// The code of failures to write results to stdout.
    pub const STDOUT_FAILED: &str = "stdout_failed";

    /// A printer that does what the options and the environment say.
    pub fn new(options: &GlobalArgs) -> Self {
        let level = level(options.verbose, options.quiet);
        let stderr_is_terminal = io::stderr().is_terminal();
        let dumb = env::value(env::TERM).is_some_and(|term| term == "dumb");
        let text = options.log_format == LogFormat::Text;
        let bars =
            stderr_is_terminal && !dumb && text && !options.no_progress && level >= Level::Normal;
        Self {
            level,
            log_format: options.log_format,
            stderr_color: text && colored(options.color, stderr_is_terminal),
            stdout_color: colored(options.color, io::stdout().is_terminal()),
            colors_on_request: colored(options.color, true),
            bars: bars.then(MultiProgress::new),
            stdout_is_terminal: io::stdout().is_terminal(),
            warned: Mutex::new(HashSet::new()),
        }
    }

    /// A printer for when the options could not be read; `json` and `color` as far as they are known.
    pub fn before_options(json: bool, color: Color) -> Self {
        let log_format = if json {
            LogFormat::Json
        } else {
            LogFormat::Text
        };
        Self {
            level: Level::Normal,
            log_format,
            stderr_color: !json && colored(color, io::stderr().is_terminal()),
            stdout_color: colored(color, io::stdout().is_terminal()),
            colors_on_request: false,
            bars: None,
            stdout_is_terminal: io::stdout().is_terminal(),
            warned: Mutex::new(HashSet::new()),
        }
    }

    /// Whether messages of this level are shown.
    pub fn shows(&self, level: Level) -> bool {
        level <= self.level
    }

    /// Whether text on stdout may be coloured.
    pub const fn stdout_color(&self) -> bool {
        self.stdout_color
    }

    /// Whether colours that were asked for by name may be used: also in a pipe, unless something forbids them.
    pub const fn colors_on_request(&self) -> bool {
        self.colors_on_request
    }

    /// Where progress bars are drawn, if they are.
    pub const fn bars(&self) -> Option<&MultiProgress> {
        self.bars.as_ref()
    }

    /// Results. An error here means that nobody reads them (which is no failure) or that they are lost.
    pub fn result(&self, bytes: &[u8]) -> Result<(), Stop> {
        let write = || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        };
        let written = match &self.bars {
            Some(bars) if self.stdout_is_terminal => bars.suspend(write),
            _ => write(),
        };
        match written {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Stop::ClosedPipe),
            Err(error) => {
                let mut failure = Failure::write(Path::new("standard output"), &error);
                failure.code = Self::STDOUT_FAILED;
                Err(failure.into())
            }
        }
    }

    /// A line of results.
    pub fn result_line(&self, line: &str) -> Result<(), Stop> {
        self.result(format!("{line}\n").as_bytes())
    }

    /// What somebody at a terminal is asked with: no line end behind it.
    pub fn prompt(&self, text: &str) {
        if self.shows(Level::Normal) {
            let mut stderr = io::stderr().lock();
            // Without a terminal there is nobody to ask.
            drop(
                stderr
                    .write_all(text.as_bytes())
                    .and_then(|()| stderr.flush()),
            );
        }
    }

    /// Help that nobody asked for.
    pub fn help(&self, text: &str) {
        self.stderr(text.trim_end());
    }

    /// What failed.
    pub fn error(&self, failure: &Failure) {
        if self.log_format == LogFormat::Json {
            let mut object = Map::new();
            object.insert("level".into(), "error".into());
            object.insert("code".into(), failure.code.into());
            object.insert("message".into(), failure.message.clone().into());
            if let Some(path) = &failure.path {
                object.insert("path".into(), path.to_string_lossy().into());
            }
            if !failure.causes.is_empty() {
                object.insert("causes".into(), failure.causes.clone().into());
            }
            if let Some(hint) = &failure.hint {
                object.insert("hint".into(), hint.clone().into());
            }
            self.stderr(&Value::Object(object).to_string());
            return;
        }
        let mut text = format!("{} {failure}", self.paint("error:", "1;31"));
        for cause in &failure.causes {
            text.push_str(&format!("\n  caused by: {cause}"));
        }
        if let Some(hint) = &failure.hint {
            text.push_str(&format!("\n\n{} {hint}", self.paint("hint:", "1;36")));
        }
        self.stderr(&text);
    }

    /// What may surprise; the same words are said once.
    pub fn warning(&self, message: &str) {
        if !self.shows(Level::Warning) || !lock(&self.warned).insert(message.to_string()) {
            return;
        }
        self.line("warning", "1;33", message);
    }

    /// What is being done.
    pub fn note(&self, message: &str) {
        self.message(Level::Normal, message);
    }

    /// A message of the given level.
    pub fn message(&self, level: Level, message: &str) {
        if !self.shows(level) {
            return;
        }
        if self.log_format == LogFormat::Json {
            self.line("info", "", message);
        } else {
            self.stderr(message);
        }
    }

    /// A message with facts for machines.
    pub fn event(&self, level: Level, code: &str, message: &str, facts: Value) {
        if !self.shows(level) {
            return;
        }
        if self.log_format == LogFormat::Text {
            self.stderr(message);
            return;
        }
        let mut object = json!({"level": "info", "code": code, "message": message});
        if let (Some(object), Value::Object(facts)) = (object.as_object_mut(), facts) {
            object.extend(facts);
        }
        self.stderr(&object.to_string());
    }

    fn line(&self, level: &str, color: &str, message: &str) {
        if self.log_format == LogFormat::Json {
            self.stderr(&json!({"level": level, "message": message}).to_string());
        } else {
            let label = self.paint(&format!("{level}:"), color);
            self.stderr(&format!("{label} {message}"));
        }
    }

    fn paint(&self, text: &str, color: &str) -> String {
        if self.stderr_color {
            format!("\x1b[{color}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }

    /// One write per message, so that lines of several threads do not mix. Nothing can be done about an error here.
    fn stderr(&self, text: &str) {
        let write = || {
            let _ = io::stderr()
                .lock()
                .write_all(format!("{text}\n").as_bytes());
        };
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn level(verbose: u8, quiet: u8) -> Level {
    let level = match i32::from(verbose) - i32::from(quiet) {
        ..=-2 => Level::Error,
        -1 => Level::Warning,
        0 => Level::Normal,
        1 => Level::Verbose,
        2.. => Level::Debug,
    };
    if verbose == 0 && quiet == 0 {
        let filter = env::value(env::TURACO_LOG).or_else(|| env::value(env::RUST_LOG));
        filter
            .and_then(|filter| filter_level(&filter))
            .unwrap_or(level)
    } else {
        level
    }
}

/// The part of a log filter (`info`, `turaco=debug`, `warn,turaco=info`) that is about us.
fn filter_level(filter: &str) -> Option<Level> {
    let mut level = None;
    for part in filter.split(',') {
        let word = match part.trim().split_once('=') {
            Some((target, word)) if target.starts_with("turaco") => word,
            Some(_) => continue,
            None => part,
        };
        level = match word.trim().to_ascii_lowercase().as_str() {
            "off" | "error" => Some(Level::Error),
            "warn" => Some(Level::Warning),
            "info" => Some(Level::Normal),
            "debug" => Some(Level::Verbose),
            "trace" => Some(Level::Debug),
            _ => level,
        };
    }
    level
}

/// The option wins over the variables (<https://no-color.org>, <https://bixense.com/clicolors>), those over the terminal.
fn colored(option: Color, is_terminal: bool) -> bool {
    match option {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            if env::value(env::NO_COLOR).is_some() {
                false
            } else if env::value(env::CLICOLOR_FORCE).is_some_and(|value| value != "0") {
                true
            } else {
                is_terminal && env::value(env::TERM).is_none_or(|term| term != "dumb")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_other_programs_do_not_matter() {
        assert_eq!(filter_level("info"), Some(Level::Normal));
        assert_eq!(filter_level("hyper=trace"), None);
        assert_eq!(filter_level("warn,turaco=debug"), Some(Level::Verbose));
        assert_eq!(filter_level("nonsense"), None);
    }
}
