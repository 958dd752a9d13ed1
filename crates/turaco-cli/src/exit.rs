//! How the program ends: exit codes, and failures that know what to say.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use turaco::Error;

/// The exit codes of the command line, by what went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All went well, or the reader of stdout went away.
    Success,
    /// At least one input failed while running.
    InputFailed,
    /// Wrong usage.
    Usage,
    /// Model not found, incomplete, unsupported or corrupt.
    Model,
    /// No input could be read.
    NoInput,
    /// Network or download failure, or the network was needed and is forbidden.
    Network,
    /// Device unavailable or out of memory.
    Device,
    /// Interrupted by the user.
    Interrupted,
}

impl Exit {
    /// Every code in order, for the reference page.
    pub const ALL: [Self; 8] = [
        Self::Success,
        Self::InputFailed,
        Self::Usage,
        Self::Model,
        Self::NoInput,
        Self::Network,
        Self::Device,
        Self::Interrupted,
    ];

    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::InputFailed => 1,
            Self::Usage => 2,
            Self::Model => 3,
            Self::NoInput => 4,
            Self::Network => 5,
            Self::Device => 6,
            Self::Interrupted => 130,
        }
    }

    /// What it means, for help and man page.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Success => "success (also when the reader of stdout went away)",
            Self::InputFailed => {
                "at least one input failed while running; the others were done and the failures are listed at the end"
            }
            Self::Usage => "wrong usage (unknown option, bad value, contradictory options)",
            Self::Model => {
                "model not found, incomplete, unsupported or corrupt; a saved voice that is broken or of another model"
            }
            Self::NoInput => {
                "no input could be read (missing, unreadable, no audio track, unknown codec)"
            }
            Self::Network => {
                "network or download failure, including \"needed network but offline\""
            }
            Self::Device => "device unavailable or out of memory",
            Self::Interrupted => "interrupted; finished files stay, partial files are removed",
        }
    }
}

/// What failed, in the parts that text and JSON reports are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How the program ends if this stops it.
    pub exit: Exit,
    /// Stable machine-readable name.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The file or folder in question.
    pub path: Option<PathBuf>,
    /// Underlying errors, outermost first.
    pub causes: Vec<String>,
    /// What can be done about it.
    pub hint: Option<String>,
}

impl Failure {
    fn new(exit: Exit, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code,
            message: message.into(),
            path: None,
            causes: Vec::new(),
            hint: None,
        }
    }

    /// Wrong usage of the command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "invalid_usage", message)
    }

    /// A model that cannot be used.
    pub fn model(message: impl Into<String>) -> Self {
        Self::new(Exit::Model, "model_invalid", message)
    }

    /// An input that cannot be read.
    pub fn input(path: &Path, message: impl Into<String>) -> Self {
        Self::new(Exit::NoInput, "audio_decode_failed", message).at(path)
    }

    /// A result that cannot be written.
    pub fn write(path: &Path, error: &io::Error) -> Self {
        Self::new(Exit::InputFailed, "io_error", "cannot write")
            .at(path)
            .caused_by(error)
    }

    /// Name the file or folder.
    #[must_use]
    pub fn at(mut self, path: &Path) -> Self {
        self.path = Some(path.to_path_buf());
        self
    }

    /// Add an underlying error and everything below it.
    #[must_use]
    pub fn caused_by(mut self, error: &dyn std::error::Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Say what can be done about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure with another way to end.
    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(path) = &self.path {
            write!(f, " [{}]", path.display())?;
        }
        Ok(())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = error.hint();
        let code = error.code();
        let mut failure = match &error {
            Error::InvalidOption {
                option: "text",
                message,
            } => Self::new(
                Exit::Usage,
                code,
                format!("this text cannot be said: {message}"),
            ),
            Error::InvalidOption { option, message } => Self::new(
                Exit::Usage,
                code,
                format!("invalid value for `{}`: {message}", spelling(option)),
            ),
            Error::Model { path, message } | Error::Voice { path, message } => {
                Self::new(Exit::Model, code, message).at(path)
            }
            Error::ModelNotFound { .. } | Error::UnsupportedTask { .. } => {
                Self::new(Exit::Model, code, error.to_string())
            }
            Error::Audio { path, message } => Self::new(Exit::NoInput, code, message).at(path),
            Error::Io {
                action,
                path,
                source,
            } => Self::new(Exit::InputFailed, code, format!("cannot {action}"))
                .at(path)
                .caused_by(source),
            Error::Network { .. } | Error::Offline { .. } => {
                Self::new(Exit::Network, code, error.to_string())
            }
            Error::Memory { option, .. } => {
                let message = error.to_string();
                let message = message.replacen(option, &spelling(option), 1);
                Self::new(Exit::Device, code, message)
            }
            Error::Compute(_) => Self::new(Exit::Device, code, error.to_string()),
            Error::Cancelled => Self::new(Exit::Interrupted, code, "interrupted"),
            _ => Self::new(Exit::InputFailed, code, error.to_string()),
        };
        failure.hint = hint;
        failure
    }
}

/// The library's name of an option as the user writes it.
fn spelling(option: &str) -> String {
    if option.starts_with(|first: char| first.is_ascii_uppercase()) {
        // An environment variable.
        return option.to_string();
    }
    if option == "name" {
        // That of a voice, an argument.
        return "NAME".into();
    }
    let prefix = if is_vad_parameter(option) { "vad-" } else { "" };
    let name = match option {
        "delay_ms" => "delay",
        "draft_delay_ms" => "draft-delay",
        "alternatives" => "alt",
        name => name,
    };
    format!("--{prefix}{}", name.replace('_', "-"))
}

/// Whether an option is one of `vad_parameters`, which have a prefix on the command line.
fn is_vad_parameter(option: &str) -> bool {
    [
        "threshold",
        "neg_threshold",
        "min_speech_duration_ms",
        "max_speech_duration_s",
        "min_silence_duration_ms",
        "speech_pad_ms",
    ]
    .contains(&option)
}

/// Why a command ended before its end.
#[derive(Debug)]
pub enum Stop {
    /// The reader of stdout went away; that is success, and nothing is said.
    ClosedPipe,
    /// It failed, and this has not been said yet.
    Failed(Box<Failure>),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Failure::from(error).into()
    }
}

/// What a command returns.
pub type Outcome = Result<Exit, Stop>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_errors_end_with_the_documented_codes() {
        let cases = [
            (
                Error::InvalidOption {
                    option: "beam_size",
                    message: "0 is too small".into(),
                },
                2,
            ),
            (
                Error::ModelNotFound {
                    model: "nope".into(),
                    message: "nowhere".into(),
                },
                3,
            ),
            (
                Error::Model {
                    path: "m".into(),
                    message: "broken".into(),
                },
                3,
            ),
            (
                Error::Voice {
                    path: "anna.safetensors".into(),
                    message: "of another size".into(),
                },
                3,
            ),
            (
                Error::UnsupportedTask {
                    model: "tiny.en".into(),
                    task: "translate".into(),
                    message: "English only".into(),
                },
                3,
            ),
            (
                Error::Audio {
                    path: "a".into(),
                    message: "no audio".into(),
                },
                4,
            ),
            (
                Error::Network {
                    url: "http://x".into(),
                    message: "down".into(),
                },
                5,
            ),
            (
                Error::Offline {
                    model: "tiny".into(),
                },
                5,
            ),
            (
                Error::Memory {
                    option: "beam_size",
                    value: "99".into(),
                    needed: 2,
                    available: 1,
                },
                6,
            ),
            (Error::Cancelled, 130),
        ];
        for (error, code) in cases {
            let text = error.to_string();
            assert_eq!(Failure::from(error).exit.code(), code, "{text}");
        }
    }

    #[test]
    fn option_names_are_shown_as_the_command_line_spells_them() {
        for (option, shown) in [
            ("beam_size", "--beam-size"),
            ("neg_threshold", "--vad-neg-threshold"),
            ("delay_ms", "--delay"),
            ("HF_ENDPOINT", "HF_ENDPOINT"),
        ] {
            let failure = Failure::from(Error::InvalidOption {
                option,
                message: "0 is too small".into(),
            });
            assert_eq!(
                failure.to_string(),
                format!("invalid value for `{shown}`: 0 is too small")
            );
        }
    }
}
