//! From a model name to files on this machine; only the file system, never the network.
//!
//! The cache is the Hugging Face hub cache, shared with every other program that uses it. Two more places are searched
//! and never written: the folders of `TURACO_MODEL_PATH`, and the checkpoints of the `whisper` command.

mod complete;
mod inventory;
#[cfg_attr(
    not(feature = "hub"),
    allow(dead_code, reason = "only the downloader writes")
)]
mod layout;
mod names;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use complete::{Completeness, Format, check_folder};
pub use inventory::{CachedModel, Removed};
pub use names::{ALIASES, Alias, ModelId, ModelName, suggestions};

pub(crate) use layout::RepoFolder;
#[cfg(feature = "hub")]
pub(crate) use layout::{create_parent, files_below, is_commit};
#[cfg(feature = "hub")]
pub(crate) use names::is_safe_relative;

use complete::is_present;

use crate::{Error, Result};

/// Whisper models of many languages by their short names, the better ones first: who is asked where any recogniser that is
/// here will do.
pub const MULTILINGUAL: [&str; 6] = [
    "large-v3-turbo",
    "large-v3",
    "medium",
    "small",
    "base",
    "tiny",
];

/// Where models are looked for.
#[derive(Debug, Clone)]
pub struct ModelCache {
    root: PathBuf,
    search_path: Vec<PathBuf>,
    openai: Option<PathBuf>,
}

/// A model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// A model folder or a single model file.
    pub path: PathBuf,
    /// The name to show: the alias or id, else the file name.
    pub name: String,
    /// The hub id it is a copy of, if known.
    pub id: Option<String>,
}

/// A known model name whose files are not all here.
#[derive(Debug, Clone)]
pub struct Missing {
    /// The name as given.
    pub name: String,
    /// Hub copies that would do, best first; never empty.
    pub candidates: Vec<ModelId>,
    /// What was found in part, one line each: where and what is missing.
    pub partial: Vec<String>,
}

/// The answer to "is this model here?".
#[derive(Debug, Clone)]
pub enum Lookup {
    /// Yes.
    Found(Resolved),
    /// Not or not wholly.
    Missing(Missing),
}

impl ModelCache {
    /// The cache that the environment names: `HF_HUB_CACHE`, else `HF_HOME/hub`, else
    /// `XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`; with `TURACO_MODEL_PATH` and
    /// `~/.cache/whisper` to read from.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if none of the variables is set and there is no home folder.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| std::env::var_os(name), std::env::home_dir())
    }

    /// A cache at `root` that searches nowhere else.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            search_path: Vec::new(),
            openai: None,
        }
    }

    fn from_variables(
        variable: &dyn Fn(&str) -> Option<OsString>,
        home: Option<PathBuf>,
    ) -> Result<Self> {
        let folder = |name: &str| folder_variable(variable, name, home.as_deref());
        let caches = folder("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
        let root = folder("HF_HUB_CACHE")
            .or_else(|| Some(folder("HF_HOME")?.join("hub")))
            .or_else(|| Some(caches.as_ref()?.join("huggingface").join("hub")))
            .ok_or_else(|| Error::InvalidOption {
                option: "HF_HUB_CACHE",
                message: "there is no home folder to keep models in; set HF_HUB_CACHE to a folder"
                    .to_owned(),
            })?;
        let search_path = variable("TURACO_MODEL_PATH")
            .map(|paths| {
                std::env::split_paths(&paths)
                    .filter(|p| !p.as_os_str().is_empty())
                    .collect()
            })
            .unwrap_or_default();
        Ok(Self {
            root,
            search_path,
            openai: caches.map(|caches| caches.join("whisper")),
        })
    }

    /// Search these folders too, before the cache.
    #[must_use]
    pub fn with_search_path(mut self, folders: impl IntoIterator<Item = PathBuf>) -> Self {
        self.search_path = folders.into_iter().collect();
        self
    }

    /// Search this folder for the `.pt` files of openai-whisper too, after the cache.
    #[must_use]
    pub fn with_openai_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.openai = Some(folder.into());
        self
    }

    /// The hub cache folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The local files of a model.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] if the name means nothing (with the nearest names), or the model is not or not wholly
    /// here (with what is missing).
    pub fn resolve(&self, name: &str) -> Result<Resolved> {
        match self.find(name)? {
            Lookup::Found(resolved) => Ok(resolved),
            Lookup::Missing(missing) => Err(missing.into_error(&self.root)),
        }
    }

    /// The local path of a model; errors as [`resolve`](Self::resolve).
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        self.resolve(name).map(|resolved| resolved.path)
    }

    /// Look for a model: an existing path, then the copies of an alias or the one of a hub id, in the search path, the
    /// hub cache and the openai folder.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] if the name is neither a path, an alias nor an id.
    pub fn find(&self, name: &str) -> Result<Lookup> {
        let path = Path::new(name);
        if !name.is_empty() && path.exists() {
            return Ok(Lookup::Found(Resolved {
                path: path.to_owned(),
                name: display_name(path),
                id: None,
            }));
        }
        Ok(self.find_named(name, &ModelName::parse(name)?))
    }

    /// As [`find`](Self::find) for a name that is not meant as a path.
    pub(crate) fn find_named(&self, name: &str, model: &ModelName) -> Lookup {
        let candidates = model.candidates();
        let mut partial = Vec::new();
        let found = self
            .find_in_search_path(name, model, &candidates, &mut partial)
            .or_else(|| {
                candidates
                    .iter()
                    .find_map(|id| self.find_in_cache(name, id, &mut partial))
            })
            .or_else(|| self.find_openai(name, model, &mut partial));
        match found {
            Some(resolved) => Lookup::Found(resolved),
            None => Lookup::Missing(Missing {
                name: name.to_owned(),
                candidates,
                partial,
            }),
        }
    }

    /// A complete copy of one id in the hub cache.
    fn find_in_cache(
        &self,
        name: &str,
        id: &ModelId,
        partial: &mut Vec<String>,
    ) -> Option<Resolved> {
        let repo = RepoFolder::new(&self.root, &id.repo);
        let wanted = repo.commit_of(id.revision_or_main());
        // Without a revision any whole copy will do, should that of `main` be in pieces.
        let others = match id.revision {
            Some(_) => Vec::new(),
            None => repo.commits(),
        };
        let mut said = false;
        for commit in wanted.iter().chain(
            others
                .iter()
                .filter(|other| Some(*other) != wanted.as_ref()),
        ) {
            let snapshot = repo.snapshot(commit);
            let (path, missing) = match &id.file {
                Some(file) => {
                    let path = snapshot.join(file);
                    let missing = if is_present(&path) {
                        Vec::new()
                    } else {
                        vec![file.clone()]
                    };
                    (path, missing)
                }
                None => {
                    let missing = check_folder(&snapshot).missing;
                    (snapshot, missing)
                }
            };
            if missing.is_empty() {
                return Some(Resolved {
                    path,
                    name: name.to_owned(),
                    id: Some(id.to_string()),
                });
            }
            // A repository of many single files is not "partly there" because of another one of them.
            if id.file.is_none() && !said {
                partial.push(format!("{id} lacks {}", missing.join(", ")));
                said = true;
            }
        }
        None
    }

    fn find_in_search_path(
        &self,
        name: &str,
        model: &ModelName,
        candidates: &[ModelId],
        partial: &mut Vec<String>,
    ) -> Option<Resolved> {
        for folder in &self.search_path {
            let mut entries: Vec<(PathBuf, Option<String>)> = Vec::new();
            if let ModelName::Alias(alias) = model {
                for known in alias.names {
                    entries.push((folder.join(known), None));
                    for extension in ["apr", "gguf", "bin", "pt"] {
                        entries.push((folder.join(format!("{known}.{extension}")), None));
                    }
                }
            }
            for id in candidates.iter().filter(|id| id.revision.is_none()) {
                let (organisation, short) = id.repo.split_once('/').unwrap_or_default();
                let nested = folder.join(organisation).join(short);
                let flat = folder.join(short);
                let source = Some(id.to_string());
                match &id.file {
                    None => entries.extend([(nested, source.clone()), (flat, source)]),
                    Some(file) => entries.extend([
                        (nested.join(file), source.clone()),
                        (flat.join(file), source.clone()),
                        (folder.join(file), source),
                    ]),
                }
            }
            for (path, id) in entries {
                let missing = if path.is_dir() {
                    check_folder(&path).missing
                } else if is_present(&path) {
                    Vec::new()
                } else {
                    continue;
                };
                if missing.is_empty() {
                    return Some(Resolved {
                        path,
                        name: name.to_owned(),
                        id,
                    });
                }
                partial.push(format!("{} lacks {}", path.display(), missing.join(", ")));
            }
            let nested = Self::new(folder);
            if let Some(found) = candidates
                .iter()
                .find_map(|id| nested.find_in_cache(name, id, partial))
            {
                return Some(found);
            }
        }
        None
    }

    fn find_openai(
        &self,
        name: &str,
        model: &ModelName,
        partial: &mut Vec<String>,
    ) -> Option<Resolved> {
        let ModelName::Alias(alias) = model else {
            return None;
        };
        let path = self.openai.as_ref()?.join(alias.openai_file?);
        if !is_present(&path) {
            return None;
        }
        if !complete::is_whole_zip(&path) {
            partial.push(format!("{} is cut off", path.display()));
            return None;
        }
        Some(Resolved {
            path,
            name: name.to_owned(),
            id: None,
        })
    }
}

impl Missing {
    /// The error for a caller that cannot or may not download.
    pub fn into_error(self, root: &Path) -> Error {
        let mut message = if self.partial.is_empty() {
            "it is not in the local cache".to_owned()
        } else {
            format!("the local copy is incomplete: {}", self.partial.join("; "))
        };
        message.push_str(&format!(" ({})", root.display()));
        Error::ModelNotFound {
            model: self.name,
            message,
        }
    }
}

/// The name to show for a model given by path: the file's or folder's name, or the id if it is a snapshot of the cache.
fn display_name(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let part = |path: Option<&Path>| Some(path?.file_name()?.to_string_lossy().into_owned());
    let snapshot = (part(full.parent()).as_deref() == Some("snapshots"))
        .then(|| part(full.parent().and_then(Path::parent)))
        .flatten()
        .and_then(|name| RepoFolder::id_of(&name));
    snapshot
        .or_else(|| part(Some(&full)))
        .unwrap_or_else(|| path.display().to_string())
}

/// A folder named by an environment variable, with a leading `~` replaced as huggingface_hub does; `None` if unset or empty.
pub(crate) fn folder_variable(
    variable: &dyn Fn(&str) -> Option<OsString>,
    name: &str,
    home: Option<&Path>,
) -> Option<PathBuf> {
    let value = variable(name).filter(|value| !value.is_empty())?;
    let path = PathBuf::from(value);
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => Some(home.join(rest)),
        _ => Some(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const OTHER: &str = "89abcdef0123456789abcdef0123456789abcdef";

    /// Put files into the cache the way huggingface_hub does.
    fn install(root: &Path, repo: &str, revision: &str, commit: &str, files: &[(&str, &str)]) {
        let repo = RepoFolder::new(root, repo);
        for (index, (name, text)) in files.iter().enumerate() {
            let hash = format!("{commit}{index}");
            let blob = repo.blobs().join(&hash);
            layout::create_parent(&blob).unwrap();
            std::fs::write(blob, text).unwrap();
            repo.link(commit, name, &hash).unwrap();
        }
        repo.write_ref(revision, commit).unwrap();
    }

    const WHISPER: &[(&str, &str)] = &[
        ("config.json", "{}"),
        ("model.safetensors", "x"),
        ("tokenizer.json", "{}"),
    ];
    const CT2: &[(&str, &str)] = &[
        ("config.json", "{}"),
        ("model.bin", "x"),
        ("vocabulary.txt", "a"),
    ];

    fn cache_of(pairs: &[(&str, &str)]) -> Result<ModelCache> {
        let home = pairs
            .iter()
            .find(|(name, _)| *name == "HOME")
            .map(|(_, v)| PathBuf::from(v));
        ModelCache::from_variables(
            &|name| {
                pairs
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, v)| OsString::from(v))
            },
            home,
        )
    }

    #[test]
    fn the_environment_chooses_the_folder() {
        let root = |pairs: &[(&str, &str)]| cache_of(pairs).unwrap().root;
        let home = ("HOME", "/home/u");
        assert_eq!(root(&[home]), Path::new("/home/u/.cache/huggingface/hub"));
        assert_eq!(
            root(&[home, ("XDG_CACHE_HOME", "/x")]),
            Path::new("/x/huggingface/hub")
        );
        assert_eq!(
            root(&[home, ("XDG_CACHE_HOME", "")]),
            Path::new("/home/u/.cache/huggingface/hub")
        );
        assert_eq!(
            root(&[home, ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")]),
            Path::new("/home/u/hf/hub")
        );
        assert_eq!(
            root(&[home, ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/hub")]),
            Path::new("/hub")
        );
        assert_eq!(root(&[("HF_HUB_CACHE", "/hub")]), Path::new("/hub"));
        assert!(cache_of(&[]).is_err());
        let cache = cache_of(&[home, ("TURACO_MODEL_PATH", "/a")]).unwrap();
        assert_eq!(cache.search_path, [Path::new("/a")]);
        assert_eq!(
            cache.openai.as_deref(),
            Some(Path::new("/home/u/.cache/whisper"))
        );
    }

    #[test]
    fn an_alias_finds_what_the_user_already_has() {
        let root = tempfile::tempdir().unwrap();
        let openai = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(root.path()).with_openai_folder(openai.path());
        let id = |cache: &ModelCache| cache.resolve("tiny.en").unwrap().id;
        assert!(cache.resolve("tiny.en").is_err());
        std::fs::write(openai.path().join("tiny.en.pt"), "PK\x03\x04 half").unwrap();
        let message = cache.resolve("tiny.en").unwrap_err().to_string();
        assert!(message.contains("cut off"), "{message}");
        std::fs::write(
            openai.path().join("tiny.en.pt"),
            "PK\x03\x04 whole PK\x05\x06",
        )
        .unwrap();
        assert_eq!(
            cache.resolve("tiny.en").unwrap().path,
            openai.path().join("tiny.en.pt")
        );
        install(
            root.path(),
            "ggerganov/whisper.cpp",
            "main",
            COMMIT,
            &[("ggml-tiny.en.bin", "lmgg")],
        );
        assert_eq!(
            id(&cache).as_deref(),
            Some("ggerganov/whisper.cpp:ggml-tiny.en.bin")
        );
        install(
            root.path(),
            "Systran/faster-whisper-tiny.en",
            "main",
            COMMIT,
            CT2,
        );
        assert_eq!(
            id(&cache).as_deref(),
            Some("Systran/faster-whisper-tiny.en")
        );
        install(
            root.path(),
            "openai/whisper-tiny.en",
            "main",
            COMMIT,
            WHISPER,
        );
        assert_eq!(id(&cache).as_deref(), Some("openai/whisper-tiny.en"));
        let resolved = cache.resolve("openai/whisper-tiny.en").unwrap();
        assert!(resolved.path.ends_with(Path::new("snapshots").join(COMMIT)));
        assert!(
            cache
                .resolve("base")
                .unwrap_err()
                .to_string()
                .contains("not in the local cache")
        );
    }

    #[test]
    fn a_missing_file_sends_the_search_on_and_is_named() {
        let root = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(root.path());
        install(
            root.path(),
            "openai/whisper-tiny",
            "main",
            COMMIT,
            &WHISPER[..2],
        );
        let message = cache.resolve("tiny").unwrap_err().to_string();
        assert!(
            message.contains("openai/whisper-tiny lacks tokenizer.json"),
            "{message}"
        );
        install(
            root.path(),
            "Systran/faster-whisper-tiny",
            "main",
            COMMIT,
            CT2,
        );
        assert_eq!(
            cache.resolve("tiny").unwrap().id.as_deref(),
            Some("Systran/faster-whisper-tiny")
        );
    }

    #[test]
    fn revisions_are_kept_apart() {
        let root = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(root.path());
        install(root.path(), "org/name", "v1", COMMIT, WHISPER);
        // No `main`, but a whole copy: good enough unless a revision is asked for.
        assert!(cache.resolve("org/name").unwrap().path.ends_with(COMMIT));
        assert!(cache.resolve("org/name@main").is_err());
        assert!(cache.resolve("org/name@v1").is_ok());
        assert!(cache.resolve(&format!("org/name@{COMMIT}")).is_ok());
        install(root.path(), "org/name", "main", OTHER, WHISPER);
        assert!(cache.resolve("org/name").unwrap().path.ends_with(OTHER));
        assert!(cache.resolve("org/name@v1").unwrap().path.ends_with(COMMIT));
        assert!(
            cache
                .resolve("org/name:config.json")
                .unwrap()
                .path
                .ends_with("config.json")
        );
        assert!(cache.resolve("org/name:other.bin").is_err());
    }

    #[test]
    fn the_search_path_knows_aliases_and_ids() {
        let root = tempfile::tempdir().unwrap();
        let extra = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(root.path()).with_search_path([extra.path().to_owned()]);
        let put = |folder: &str, files: &[(&str, &str)]| {
            for (name, text) in files {
                let path = extra.path().join(folder).join(name);
                layout::create_parent(&path).unwrap();
                std::fs::write(path, text).unwrap();
            }
        };
        put("base", CT2);
        assert_eq!(
            cache.resolve("base").unwrap().path,
            extra.path().join("base")
        );
        put("openai/whisper-small", WHISPER);
        assert_eq!(
            cache.resolve("small").unwrap().path,
            extra.path().join("openai/whisper-small")
        );
        put("", &[("ggml-medium.bin", "lmgg")]);
        assert_eq!(
            cache.resolve("medium").unwrap().path,
            extra.path().join("ggml-medium.bin")
        );
        put("tiny", &CT2[..2]);
        assert!(
            cache
                .resolve("tiny")
                .unwrap_err()
                .to_string()
                .contains("vocabulary.txt")
        );
        install(extra.path(), "org/name", "main", COMMIT, WHISPER);
        assert!(
            cache
                .resolve("org/name")
                .unwrap()
                .path
                .starts_with(extra.path())
        );
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        install(root.path(), "org/name", "main", COMMIT, WHISPER);
        let cache = ModelCache::new(root.path().join("elsewhere"));
        let snapshot = RepoFolder::new(root.path(), "org/name").snapshot(COMMIT);
        let resolved = cache.resolve(snapshot.to_str().unwrap()).unwrap();
        assert_eq!(resolved.path, snapshot);
        assert_eq!(resolved.name, "org/name");
        assert!(cache.resolve("").is_err());
    }
}
