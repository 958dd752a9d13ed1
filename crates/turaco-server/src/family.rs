//! What can be asked of a model that writes down speech, before it is loaded.

use turaco::engine::{KnownModel, ModelKind};
use turaco::models::voxtral_realtime::VoxtralRealtimeConfig;
use turaco::tokenizer::language_code;
use turaco::weights::Sidecars;

use crate::app::App;
use crate::error::ApiError;

/// How a model writes down speech, which decides what one can ask of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Whisper,
    VoxtralRealtime,
    VoxtralMini,
}

impl Family {
    /// That of a model that is here, as far as its settings tell; `None` for one that speaks.
    pub fn of(known: &KnownModel) -> Option<Self> {
        let folder = match known.path.is_dir() {
            true => known.path.as_path(),
            false => known.path.parent().unwrap_or(&known.path),
        };
        match known.kind {
            ModelKind::Synthesizer => None,
            ModelKind::Chat => Some(Self::VoxtralMini),
            // What is broken says so when it is loaded.
            ModelKind::Recognizer => match VoxtralRealtimeConfig::read(&Sidecars::new(folder)) {
                Ok(Some(_)) => Some(Self::VoxtralRealtime),
                _ => Some(Self::Whisper),
            },
        }
    }
}

/// That of the recogniser of this name.
///
/// # Errors
/// A model that is not here, or speaks.
pub fn family(app: &App, name: &str) -> Result<Family, ApiError> {
    let known = app.engine().catalog().find(name)?;
    Family::of(&known).ok_or_else(|| {
        let message = format!("`{name}` speaks; a model that hears is wanted");
        ApiError::invalid("model", message)
    })
}

/// Whether a language is one, by its code or its English name; none and an empty one are well.
///
/// # Errors
/// It is not.
pub fn check_language(language: Option<&str>) -> Result<(), ApiError> {
    match language
        .map(str::trim)
        .filter(|language| !language.is_empty())
    {
        Some(language) if language_code(language).is_none() => {
            let message = format!("`{language}` is no language that is known here");
            Err(ApiError::invalid("language", message))
        }
        _ => Ok(()),
    }
}
