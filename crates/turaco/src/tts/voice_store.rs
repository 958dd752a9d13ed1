//! Voices that were saved under a name: files in one folder.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

use super::ClonedVoice;

/// The voices of the published CustomVoice models: a saved one of the same name could not be told from them.
const PRESETS: &[&str] = &[
    "vivian", "serena", "uncle_fu", "dylan", "eric", "ryan", "aiden", "ono_anna", "sohee",
];

/// A folder of voices, `NAME.safetensors` each.
#[derive(Debug, Clone)]
pub struct VoiceStore {
    folder: PathBuf,
}

impl VoiceStore {
    /// `$TURACO_VOICES`, else `turaco/voices` in the user's folder for data (`$XDG_DATA_HOME`, `~/.local/share`).
    ///
    /// # Errors
    /// There is no home folder.
    pub fn from_env() -> Result<Self> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(folder) = variable("TURACO_VOICES") {
            return Ok(Self::new(folder));
        }
        let data = match variable("XDG_DATA_HOME") {
            Some(folder) => Some(PathBuf::from(folder)),
            None => std::env::home_dir().map(|home| home.join(".local/share")),
        };
        let data = data.ok_or_else(|| Error::InvalidOption {
            option: "voice",
            message: "there is no home folder to keep voices in; TURACO_VOICES names another"
                .into(),
        })?;
        Ok(Self::new(data.join("turaco").join("voices")))
    }

    /// The voices in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All names, sorted.
    ///
    /// # Errors
    /// The folder is there but cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.failed("read", source)),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                Some(name.strip_suffix(".safetensors")?.to_owned())
            })
            .collect();
        names.sort();
        Ok(names)
    }

    /// Where a voice of this name is or would be.
    ///
    /// # Errors
    /// A name that is no plain file name.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let plain = !name.is_empty()
            && !name.starts_with('.')
            && !name.contains(['/', '\\', ':'])
            && !name.contains(char::is_control)
            && name.len() <= 100;
        if !plain {
            return Err(Error::InvalidOption {
                option: "name",
                message: format!("`{}` is no name for a voice", name.escape_debug()),
            });
        }
        Ok(self.folder.join(format!("{name}.safetensors")))
    }

    /// Where a voice would be kept under this name.
    ///
    /// # Errors
    /// A name that is no plain file name, or that of a voice that models have.
    pub fn path_to_save(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name)?;
        if PRESETS
            .iter()
            .any(|preset| preset.eq_ignore_ascii_case(name))
        {
            return Err(Error::InvalidOption {
                option: "name",
                message: format!("`{name}` is the name of a voice of CustomVoice models"),
            });
        }
        Ok(path)
    }

    /// The voice of this name, if there is one.
    ///
    /// # Errors
    /// Its file is broken.
    pub fn find(&self, name: &str) -> Result<Option<ClonedVoice>> {
        match self.path(name) {
            Ok(path) if path.is_file() => ClonedVoice::open(&path).map(Some),
            _ => Ok(None),
        }
    }

    /// Keep a voice under a name that has none. Of several at the same time one is first.
    ///
    /// # Errors
    /// A name that is no file name or has a voice already, or the file system refuses.
    pub fn save(&self, name: &str, voice: &ClonedVoice) -> Result<PathBuf> {
        let path = self.path_in_folder(name)?;
        match voice.save_new(&path) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
                Err(name_taken(name))
            }
            saved => saved.map(|()| path),
        }
    }

    /// Keep a voice instead of the one that the name may have.
    ///
    /// # Errors
    /// A name that is no file name, or the file system refuses.
    pub fn replace(&self, name: &str, voice: &ClonedVoice) -> Result<PathBuf> {
        let path = self.path_in_folder(name)?;
        voice.save(&path)?;
        Ok(path)
    }

    /// Whether a voice can be saved under this name, before one is made.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn check_new(&self, name: &str) -> Result<()> {
        match self.path_to_save(name)?.exists() {
            true => Err(name_taken(name)),
            false => Ok(()),
        }
    }

    fn path_in_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path_to_save(name)?;
        fs::create_dir_all(&self.folder).map_err(|source| self.failed("create", source))?;
        Ok(path)
    }

    /// Remove a voice; whether there was one.
    ///
    /// # Errors
    /// A name that is no file name, or the file system refuses.
    pub fn remove(&self, name: &str) -> Result<bool> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::Io {
                action: "remove",
                path,
                source,
            }),
        }
    }

    fn failed(&self, action: &'static str, source: std::io::Error) -> Error {
        Error::Io {
            action,
            path: self.folder.clone(),
            source,
        }
    }
}

fn name_taken(name: &str) -> Error {
    Error::InvalidOption {
        option: "name",
        message: format!("there is a voice `{name}` already"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voices_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let store = VoiceStore::new(folder.path().join("voices"));
        let voice = ClonedVoice {
            vector: vec![1.0; 4],
            codes: Vec::new(),
            n_codes: 16,
            text: String::new(),
        };
        assert!(store.names().unwrap().is_empty() && store.find("anna").unwrap().is_none());
        store.save("anna", &voice).unwrap();
        assert_eq!(store.names().unwrap(), ["anna"]);
        assert_eq!(store.find("anna").unwrap(), Some(voice.clone()));
        let other = ClonedVoice {
            vector: vec![2.0; 4],
            ..voice.clone()
        };
        let taken = store.save("anna", &other).unwrap_err().to_string();
        assert!(taken.contains("`anna` already"), "{taken}");
        assert!(store.check_new("anna").is_err() && store.check_new("berta").is_ok());
        assert_eq!(store.find("anna").unwrap(), Some(voice.clone()));
        store.replace("anna", &other).unwrap();
        assert_eq!(store.find("anna").unwrap(), Some(other));
        assert!(store.remove("anna").unwrap() && !store.remove("anna").unwrap());
        for name in ["", "../x", ".hidden", "a/b"] {
            assert!(store.save(name, &voice).is_err() && store.find(name).unwrap().is_none());
        }
    }
}
