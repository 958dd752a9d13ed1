//! What is transcribed.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::audio::Audio;
use crate::text::{Errors, normalize_basic, normalize_english, word_errors};
use crate::{Error, Result, trace};

/// A recording to transcribe.
#[derive(Debug, Clone)]
pub struct Clip {
    name: String,
    source: Source,
    reference: Option<String>,
}

#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    Bytes(Cow<'static, [u8]>),
}

impl Clip {
    /// A file; its reference text is looked for in a `.txt` of the same name beside it.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self {
            name: name.into_owned(),
            reference: std::fs::read_to_string(path.with_extension("txt")).ok(),
            source: Source::File(path),
        }
    }

    /// A file that is in memory, and what is said in it.
    pub fn bytes(
        name: impl Into<String>,
        bytes: impl Into<Cow<'static, [u8]>>,
        reference: Option<String>,
    ) -> Self {
        Self {
            name: name.into(),
            source: Source::Bytes(bytes.into()),
            reference,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A clip's samples at its own rate.
    pub(super) fn read(&self) -> Result<Audio> {
        let bytes = match &self.source {
            Source::File(path) => {
                let failed = |source| Error::Io {
                    action: "read",
                    path: path.clone(),
                    source,
                };
                {
                    let _span = trace::span("find");
                    std::fs::metadata(path).map_err(failed)?;
                }
                let _span = trace::span("read");
                std::fs::read(path).map_err(failed)?
            }
            Source::Bytes(bytes) => {
                let _span = trace::span("read");
                bytes.to_vec()
            }
        };
        let name = match &self.source {
            Source::File(path) => path.as_path(),
            Source::Bytes(_) => Path::new(&self.name),
        };
        let _span = trace::span("decode audio");
        Audio::from_bytes(bytes, name)
    }

    /// Word errors of a text in this language, where a reference is known.
    pub(super) fn errors(&self, language: &str, text: &str) -> Option<Errors> {
        let reference = self.reference.as_deref()?;
        let normalize = |text: &str| {
            if language == "en" {
                normalize_english(text)
            } else {
                normalize_basic(text, false)
            }
        };
        Some(word_errors(&normalize(reference), &normalize(text)))
    }
}
