//! Which models may be asked for, and where their files are.

use std::path::{Path, PathBuf};

use crate::cache::{Lookup, ModelCache, ModelName};
use crate::models::display_name;
use crate::models::qwen3_tts::Qwen3TtsConfig;
use crate::models::voxtral_mini::VoxtralMiniConfig;
use crate::weights::Sidecars;
use crate::{Error, Result};

/// What a model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    /// Speech to text.
    Recognizer,
    /// Text to speech.
    Synthesizer,
    /// Talks about what it hears.
    Chat,
}

impl ModelKind {
    /// As the hub names tasks.
    pub const fn task(self) -> &'static str {
        match self {
            Self::Recognizer => "automatic-speech-recognition",
            Self::Synthesizer => "text-to-speech",
            Self::Chat => "audio-text-to-text",
        }
    }

    /// What a folder or file holds, as far as its settings tell.
    pub fn of_path(path: &Path) -> Self {
        let folder = match path.is_dir() {
            true => path,
            false => path.parent().unwrap_or(path),
        };
        let sidecars = Sidecars::new(folder);
        // What is broken says so when it is loaded.
        if matches!(Qwen3TtsConfig::read(&sidecars), Ok(Some(_))) {
            Self::Synthesizer
        } else if matches!(VoxtralMiniConfig::read(&sidecars), Ok(Some(_))) {
            Self::Chat
        } else {
            Self::Recognizer
        }
    }
}

/// A model that can be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownModel {
    /// What to call it.
    pub id: String,
    /// A model folder or a single model file.
    pub path: PathBuf,
    /// What it does.
    pub kind: ModelKind,
}

impl KnownModel {
    /// What to show: the name under which requests find it too that do not know where it lies.
    pub fn shown(&self) -> String {
        let is_path = Path::new(&self.id).is_absolute() || Path::new(&self.id) == self.path;
        match is_path {
            true => display_name(&self.path),
            false => self.id.clone(),
        }
    }
}

/// The names that requests may use: those that were configured, also paths, and what is in the cache. A name in a request is
/// never taken for a path of its own.
#[derive(Debug, Clone)]
pub struct Catalog {
    cache: ModelCache,
    configured: Vec<KnownModel>,
}

impl Catalog {
    /// What is in `cache`.
    pub fn new(cache: ModelCache) -> Self {
        Self {
            cache,
            configured: Vec::new(),
        }
    }

    /// Offer the model at `path` under `name` too, and under the name that its files have.
    pub fn add(&mut self, name: &str, path: PathBuf) {
        if !self.configured.iter().any(|known| known.id == name) {
            let kind = ModelKind::of_path(&path);
            self.configured.push(KnownModel {
                id: name.to_owned(),
                path,
                kind,
            });
        }
    }

    /// Where models are kept.
    pub fn cache(&self) -> &ModelCache {
        &self.cache
    }

    /// The model that a request means.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] if there is none of this name here.
    pub fn find(&self, name: &str) -> Result<KnownModel> {
        let named = |known: &&KnownModel| known.id.eq_ignore_ascii_case(name);
        let shown = |known: &&KnownModel| display_name(&known.path).eq_ignore_ascii_case(name);
        let mut configured = self.configured.iter();
        if let Some(known) = configured
            .find(named)
            .or_else(|| self.configured.iter().find(shown))
        {
            return Ok(known.clone());
        }
        match self.cache.find_named(name, &ModelName::parse(name)?) {
            Lookup::Found(found) => Ok(KnownModel {
                id: name.to_owned(),
                kind: ModelKind::of_path(&found.path),
                path: found.path,
            }),
            Lookup::Missing(_) => Err(Error::ModelNotFound {
                model: name.to_owned(),
                message: "its files are not here".into(),
            }),
        }
    }

    /// Every model that is here as a whole.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn list(&self) -> Result<Vec<KnownModel>> {
        let mut models = self.configured.clone();
        for cached in self.cache.list()? {
            let known = ["whisper", "voxtral", "qwen3_tts"];
            let usable = match cached.model_type.as_deref() {
                Some(kind) => known.iter().any(|known| kind.starts_with(known)),
                // Files of other programs tell by their weights.
                None => cached.format.is_some(),
            };
            let id = cached.alias.map_or(cached.id.clone(), str::to_owned);
            if cached.is_complete() && usable && !models.iter().any(|known| known.id == id) {
                models.push(KnownModel {
                    kind: ModelKind::of_path(&cached.path),
                    path: cached.path,
                    id,
                });
            }
        }
        Ok(models)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_what_was_configured_and_never_paths() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, b"x").unwrap();
        let mut catalog = Catalog::new(ModelCache::new(folder.path().join("hub")));
        let path = secret.to_str().unwrap();
        assert!(catalog.find(path).is_err());
        catalog.add("mine", secret.clone());
        assert_eq!(catalog.find("MINE").unwrap().path, secret);
        assert_eq!(catalog.find("secret").unwrap().id, "mine");
        assert_eq!(catalog.list().unwrap().len(), 1);
        assert_eq!(catalog.find("mine").unwrap().shown(), "mine");
        catalog.add(path, secret.clone());
        assert_eq!(catalog.find(path).unwrap().shown(), "secret");
        assert!(catalog.find("secret").is_ok());
        let error = catalog.find("tiny").unwrap_err();
        assert_eq!(error.code(), "model_not_found");
        assert!(
            catalog
                .find("tini")
                .unwrap_err()
                .to_string()
                .contains("did you mean")
        );
    }
}
