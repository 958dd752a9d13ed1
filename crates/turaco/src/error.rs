//! The one error type of the library.

use std::path::PathBuf;

/// Anything that can go wrong, by who can mend it.
///
/// Every variant says what was wrong and where; [`Error::hint`] says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option has a value that cannot be used, or contradicts another.
    #[error("invalid value for `{option}`: {message}")]
    InvalidOption {
        /// The option's name in `snake_case`.
        option: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// No local file and no known name matches the model that was asked for.
    #[error("model `{model}` not found: {message}")]
    ModelNotFound {
        /// The name or path as given.
        model: String,
        /// Where was looked.
        message: String,
    },
    /// A weight, config or tokenizer file is broken, incomplete or of an unsupported kind.
    #[error("{message} [{}]", path.display())]
    Model {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong: tensor, key or byte offset, and what would be right.
        message: String,
    },
    /// The file of a saved voice is broken, or was made for another model.
    #[error("{message} [{}]", path.display())]
    Voice {
        /// The file.
        path: PathBuf,
        /// What is wrong: tensor, code or size, and what would be right.
        message: String,
    },
    /// The model is fine but cannot do what was asked (for example translate).
    #[error("model `{model}` cannot {task}: {message}")]
    UnsupportedTask {
        /// Model name.
        model: String,
        /// The task in the infinitive.
        task: String,
        /// Why, and which model can.
        message: String,
    },
    /// An audio input cannot be read.
    #[error("{message} [{}]", path.display())]
    Audio {
        /// The file, or `-` for standard input.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The operating system refused to read or write.
    #[error("cannot {action} [{}]", path.display())]
    Io {
        /// `read`, `write`, `create`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A download failed.
    #[error("{message} [{url}]")]
    Network {
        /// The address.
        url: String,
        /// What happened.
        message: String,
    },
    /// Files are missing and the network may not be used.
    #[error("model `{model}` is not complete in the local cache and offline mode is on")]
    Offline {
        /// Model name.
        model: String,
    },
    /// What was asked for would need more memory than there is; nothing was allocated.
    #[error(
        "`{option}` {value} needs about {} of memory, and {} are available",
        gigabytes(*needed),
        gigabytes(*available)
    )]
    Memory {
        /// The option that needs most of it, in `snake_case`.
        option: &'static str,
        /// Its value.
        value: String,
        /// Estimate in bytes.
        needed: u64,
        /// Bytes that this process may still take.
        available: u64,
    },
    /// The device is missing, failed, or out of memory.
    #[error(transparent)]
    Compute(#[from] turaco_compute::Error),
    /// More is asked for at once than there is room for; later there may be.
    #[error("{message}")]
    Busy {
        /// What there is too much of.
        message: String,
    },
    /// [`Control::cancel`](crate::Control) was called.
    #[error("cancelled")]
    Cancelled,
}

/// Whether a path lies in a hub cache (`models--ORG--NAME/...`), whose files can be fetched again.
fn is_cached(path: &std::path::Path) -> bool {
    path.components()
        .any(|part| part.as_os_str().to_string_lossy().starts_with("models--"))
}

/// Bytes for people, rounded up.
pub(crate) fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", (bytes as f64 / 1e8).ceil() / 10.0)
}

/// Whether the disk, or what the user may have of it, is full.
fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

impl Error {
    /// What the user can do about it, if that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ModelNotFound { .. } => Some(
                "give a path, a name or a Hugging Face id `org/name`; `turaco models list` shows all names".into(),
            ),
            Self::Model { path, .. } if is_cached(path) => {
                Some("the file may be incomplete: remove it and run `turaco models pull` again".into())
            }
            // It may be something else that the user holds dear: no advice to remove it.
            Self::Model { .. } => Some(
                "the file may be incomplete or of another kind: get it again, or give one of the names that `turaco models list` shows".into(),
            ),
            Self::Voice { .. } => Some(
                "`turaco voices create` makes the voice again from its recording".into(),
            ),
            Self::Audio { .. } => Some(
                "supported: wav flac mp3 aac/m4a ogg/vorbis opus webm/mkv aiff caf, and what `ffmpeg` reads if it is on PATH; for raw PCM say `--raw s16le:16000:1`".into(),
            ),
            Self::Offline { model } => Some(format!(
                "run `turaco models pull {model}` with network access, or leave out --offline / HF_HUB_OFFLINE"
            )),
            Self::Io { source, path, .. } if is_full(source) => Some(if is_cached(path) {
                "the disk is full: free some space, or let HF_HUB_CACHE name a folder with room; a download continues where it stopped".into()
            } else {
                "the disk is full: free some space, or write to a folder on another disk".into()
            }),
            Self::Memory { option: "model", .. } => Some(
                "use a smaller model, or keep its weights in fewer bytes, as with `--compute-type int8`".into(),
            ),
            Self::Memory { .. } => Some("choose a smaller value".into()),
            Self::Network { .. } => Some(
                "check the connection, HTTPS_PROXY and HF_ENDPOINT; a download that broke off continues where it stopped".into(),
            ),
            _ => None,
        }
    }

    /// A stable machine-readable name (the `code` field of JSON logs).
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidOption { .. } => "invalid_value",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::Model { .. } => "model_invalid",
            Self::Voice { .. } => "voice_invalid",
            Self::UnsupportedTask { .. } => "unsupported_model_task",
            Self::Audio { .. } => "audio_decode_failed",
            Self::Io { .. } => "io_error",
            Self::Network { .. } => "network_error",
            Self::Offline { .. } => "offline",
            Self::Memory { .. } => "out_of_memory",
            Self::Compute(_) => "device_error",
            Self::Busy { .. } => "queue_full",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
