//! What the hub cache holds, and taking models out of it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::complete::{Format, check_folder, is_present, is_whole_zip, model_type, sniff_file};
use super::layout::{RepoFolder, files_below};
use super::names::{ModelId, ModelName, alias_of};
use super::{ModelCache, Resolved};
use crate::{Error, Result};

/// One model in the cache or in the openai folder.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachedModel {
    /// What to call it: `org/name`, `org/name:file`, or the file name of an openai checkpoint.
    pub id: String,
    /// Its short name, if it has one.
    pub alias: Option<&'static str>,
    /// The commit of the snapshot; `None` for openai checkpoints and downloads that never got that far.
    pub revision: Option<String>,
    /// Branches and tags that stand for the snapshot.
    pub references: Vec<String>,
    /// The snapshot folder, the file, or the repository folder if there is no snapshot.
    pub path: PathBuf,
    /// Bytes on disk.
    pub size: u64,
    /// The format, if it is recognised.
    pub format: Option<Format>,
    /// `model_type` of its `config.json`: `whisper`, `voxtral`, …
    pub model_type: Option<String>,
    /// What is not there; empty if the model is complete.
    pub missing: Vec<String>,
}

impl CachedModel {
    /// Whether all files are there.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

/// What [`ModelCache::remove`] took away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The id that was removed.
    pub id: String,
    /// Bytes freed.
    pub bytes: u64,
}

impl ModelCache {
    /// Every model of the cache and of the openai folder, complete or not, sorted by id. A cache that does not exist
    /// is empty.
    ///
    /// # Errors
    /// [`Error::Io`] if the cache folder exists but cannot be read.
    pub fn list(&self) -> Result<Vec<CachedModel>> {
        let mut models = Vec::new();
        match std::fs::read_dir(self.root()) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    let Some(id) = entry.file_name().to_str().and_then(RepoFolder::id_of) else {
                        continue;
                    };
                    list_repo(&RepoFolder::new(self.root(), &id), &id, &mut models);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(Error::Io {
                    action: "read",
                    path: self.root().to_owned(),
                    source,
                });
            }
        }
        if let Some(folder) = &self.openai {
            for name in files_below(folder) {
                let path = folder.join(&name);
                if sniff_file(&path) == Some(Format::Pt) {
                    let cut_off = !is_whole_zip(&path);
                    models.push(CachedModel {
                        alias: super::ALIASES
                            .iter()
                            .find(|alias| alias.openai_file == Some(name.as_str()))
                            .map(|alias| alias.names[0]),
                        id: name,
                        revision: None,
                        references: Vec::new(),
                        size: size_of(&path),
                        path,
                        format: Some(Format::Pt),
                        model_type: None,
                        missing: if cut_off {
                            vec!["the end of the file".to_owned()]
                        } else {
                            Vec::new()
                        },
                    });
                }
            }
        }
        models.sort_by(|a, b| (&a.id, &a.revision).cmp(&(&b.id, &b.revision)));
        Ok(models)
    }

    /// Delete a model from the hub cache: the whole repository for `org/name`, one snapshot for `org/name@revision`,
    /// one file for `org/name:file`, and for an alias the copy that [`resolve`](Self::resolve) would use (or the
    /// first incomplete one). Contents that another snapshot still uses stay.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] if the cache has no such model, or it is a path or a file outside the cache, which is
    /// never deleted; [`Error::Io`] if a file cannot be deleted.
    pub fn remove(&self, name: &str) -> Result<Removed> {
        let not_here = |message: String| Error::ModelNotFound {
            model: name.to_owned(),
            message,
        };
        // The name is taken as a name first: a folder `tiny` in the working directory must not shield the model.
        let model = ModelName::parse(name).map_err(|error| match Path::new(name).exists() {
            true => not_here(
                "only models of the cache are removed; delete other files yourself".to_owned(),
            ),
            false => error,
        })?;
        let candidates = model.candidates();
        let complete = candidates
            .iter()
            .find(|id| self.find_in_cache(name, id, &mut Vec::new()).is_some());
        let id = complete
            .or_else(|| candidates.iter().find(|id| self.holds(id)))
            .ok_or_else(|| match self.resolve(name) {
                Ok(Resolved { path, .. }) => not_here(format!(
                    "the only copy is outside the cache and is not removed: {}",
                    path.display()
                )),
                Err(_) => not_here(format!(
                    "it is not in the cache ({})",
                    self.root().display()
                )),
            })?;
        let bytes = self.remove_id(id)?;
        Ok(Removed {
            id: id.to_string(),
            bytes,
        })
    }

    /// Whether any part of `id` is in the cache.
    fn holds(&self, id: &ModelId) -> bool {
        let repo = RepoFolder::new(self.root(), &id.repo);
        match (&id.file, &id.revision) {
            (None, None) => repo.path().is_dir(),
            (None, Some(revision)) => repo.commit_of(revision).is_some(),
            (Some(file), _) => !links_of(&repo, id, file).is_empty(),
        }
    }

    fn remove_id(&self, id: &ModelId) -> Result<u64> {
        let repo = RepoFolder::new(self.root(), &id.repo);
        let folder = repo.path();
        self.refuse_outside(&folder)?;
        let before = tree_size(&folder);
        match (&id.file, &id.revision) {
            (None, None) => delete(&folder, |path| std::fs::remove_dir_all(path))?,
            (None, Some(revision)) => {
                let Some(commit) = repo.commit_of(revision) else {
                    return Ok(0);
                };
                for (reference, target) in repo.references() {
                    if target == commit {
                        delete(&folder.join("refs").join(reference), |path| {
                            std::fs::remove_file(path)
                        })?;
                    }
                }
                delete(&repo.snapshot(&commit), |path| {
                    std::fs::remove_dir_all(path)
                })?;
            }
            (Some(file), _) => {
                for link in links_of(&repo, id, file) {
                    delete(&link, |path| std::fs::remove_file(path))?;
                }
            }
        }
        if folder.exists() {
            drop_unused_blobs(&repo)?;
            if repo
                .commits()
                .iter()
                .all(|commit| files_below(&repo.snapshot(commit)).is_empty())
            {
                delete(&folder, |path| std::fs::remove_dir_all(path))?;
            }
        }
        // Locks are empty files; leaving one behind would do no harm.
        if !folder.exists()
            && let Some(locks) = repo.lock_file("x").parent()
        {
            let _ = std::fs::remove_dir_all(locks);
        }
        Ok(before.saturating_sub(tree_size(&folder)))
    }

    /// A repository folder that is a link, or whose real place is not directly in the cache, is not ours to delete.
    fn refuse_outside(&self, folder: &Path) -> Result<()> {
        let real = |path: &Path| {
            path.canonicalize().map_err(|source| Error::Io {
                action: "read",
                path: path.to_owned(),
                source,
            })
        };
        let is_link = std::fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_symlink());
        if is_link || real(folder)?.parent() != Some(real(self.root())?.as_path()) {
            return Err(Error::ModelNotFound {
                model: folder.display().to_string(),
                message: "it is a link out of the cache and is not removed".to_owned(),
            });
        }
        Ok(())
    }
}

fn list_repo(repo: &RepoFolder, id: &str, models: &mut Vec<CachedModel>) {
    let references = repo.references();
    let commits = repo.commits();
    for commit in &commits {
        let snapshot = repo.snapshot(commit);
        let named: Vec<String> = references
            .iter()
            .filter(|(_, target)| target == commit)
            .map(|(reference, _)| reference.clone())
            .collect();
        let entry =
            |id: String, path: PathBuf, size: u64, format: Option<Format>, missing: Vec<String>| {
                CachedModel {
                    alias: alias_of(&id),
                    id,
                    revision: Some(commit.clone()),
                    references: named.clone(),
                    path,
                    size,
                    format,
                    model_type: model_type(&snapshot),
                    missing,
                }
            };
        let files = files_below(&snapshot);
        let check = check_folder(&snapshot);
        let singles: Vec<(&String, Format)> = files
            .iter()
            .filter_map(|file| Some((file, sniff_file(&snapshot.join(file))?)))
            // The weights of PyTorch folders are ZIP files too, but no openai checkpoint.
            .filter(|(file, format)| *format != Format::Pt || file.ends_with(".pt"))
            .collect();
        if check.format.is_some() || singles.is_empty() {
            let size = files.iter().map(|file| size_of(&snapshot.join(file))).sum();
            models.push(entry(
                id.to_owned(),
                snapshot.clone(),
                size,
                check.format,
                check.missing,
            ));
        }
        for (file, format) in singles {
            let path = snapshot.join(file);
            let size = size_of(&path);
            models.push(entry(
                format!("{id}:{file}"),
                path,
                size,
                Some(format),
                Vec::new(),
            ));
        }
    }
    if commits.is_empty() {
        models.push(CachedModel {
            id: id.to_owned(),
            alias: alias_of(id),
            revision: None,
            references: Vec::new(),
            path: repo.path(),
            size: tree_size(&repo.path()),
            format: None,
            model_type: None,
            missing: vec!["all files (a download has begun or broke off)".to_owned()],
        });
    }
}

/// The entries of `file` in the snapshots that `id` means.
fn links_of(repo: &RepoFolder, id: &ModelId, file: &str) -> Vec<PathBuf> {
    let commits = match &id.revision {
        Some(revision) => repo.commit_of(revision).into_iter().collect(),
        None => repo.commits(),
    };
    commits
        .iter()
        .map(|commit| repo.snapshot(commit).join(file))
        .filter(|path| std::fs::symlink_metadata(path).is_ok())
        .collect()
}

/// Delete finished blobs that no snapshot links to. Partial downloads stay: another process may be writing them.
fn drop_unused_blobs(repo: &RepoFolder) -> Result<()> {
    let used: HashSet<std::ffi::OsString> = repo
        .commits()
        .iter()
        .flat_map(|commit| {
            let snapshot = repo.snapshot(commit);
            files_below(&snapshot)
                .into_iter()
                .map(move |file| snapshot.join(file))
        })
        .filter_map(|link| Some(std::fs::read_link(link).ok()?.file_name()?.to_owned()))
        .collect();
    for blob in files_below(&repo.blobs()) {
        if !blob.ends_with(".incomplete") && !used.contains(std::ffi::OsStr::new(&blob)) {
            delete(&repo.blobs().join(blob), |path| std::fs::remove_file(path))?;
        }
    }
    Ok(())
}

fn delete(path: &Path, action: impl Fn(&Path) -> std::io::Result<()>) -> Result<()> {
    action(path).map_err(|source| Error::Io {
        action: "delete",
        path: path.to_owned(),
        source,
    })
}

fn size_of(path: &Path) -> u64 {
    if is_present(path) {
        std::fs::metadata(path).map_or(0, |metadata| metadata.len())
    } else {
        0
    }
}

/// Bytes of the files below `folder`, links not followed.
fn tree_size(folder: &Path) -> u64 {
    files_below(folder)
        .iter()
        .filter_map(|file| std::fs::symlink_metadata(folder.join(file)).ok())
        .filter(|metadata| metadata.is_file())
        .map(|metadata| metadata.len())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const OTHER: &str = "89abcdef0123456789abcdef0123456789abcdef";

    fn install(
        root: &Path,
        repo: &str,
        revision: &str,
        commit: &str,
        files: &[(&str, &str, &str)],
    ) {
        let repo = RepoFolder::new(root, repo);
        for (name, hash, text) in files {
            let blob = repo.blobs().join(hash);
            super::super::layout::create_parent(&blob).unwrap();
            std::fs::write(blob, text).unwrap();
            repo.link(commit, name, hash).unwrap();
        }
        repo.write_ref(revision, commit).unwrap();
    }

    const CT2: &[(&str, &str, &str)] = &[
        ("config.json", "a1", r#"{"model_type":"whisper"}"#),
        ("model.bin", "a2", "weights"),
        ("vocabulary.txt", "a3", "a"),
    ];

    #[test]
    fn the_list_has_complete_and_incomplete_models() {
        let root = tempfile::tempdir().unwrap();
        let openai = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(root.path()).with_openai_folder(openai.path());
        assert!(
            ModelCache::new(root.path().join("none"))
                .list()
                .unwrap()
                .is_empty()
        );
        install(
            root.path(),
            "Systran/faster-whisper-tiny",
            "main",
            COMMIT,
            CT2,
        );
        install(
            root.path(),
            "Systran/faster-whisper-base",
            "main",
            COMMIT,
            &CT2[..2],
        );
        install(
            root.path(),
            "ggerganov/whisper.cpp",
            "main",
            COMMIT,
            &[("ggml-tiny.bin", "b", "lmgg")],
        );
        std::fs::create_dir_all(root.path().join("models--org--begun/blobs")).unwrap();
        std::fs::write(
            root.path().join("models--org--begun/blobs/x.incomplete"),
            "half",
        )
        .unwrap();
        std::fs::create_dir_all(root.path().join("datasets--org--data")).unwrap();
        std::fs::write(openai.path().join("base.pt"), "PK\x03\x04 PK\x05\x06").unwrap();
        let list = cache.list().unwrap();
        let shown: Vec<(&str, Option<&str>, bool, u64)> = list
            .iter()
            .map(|model| {
                (
                    model.id.as_str(),
                    model.alias,
                    model.is_complete(),
                    model.size,
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("Systran/faster-whisper-base", Some("base"), false, 31),
                ("Systran/faster-whisper-tiny", Some("tiny"), true, 32),
                ("base.pt", Some("base"), true, 9),
                ("ggerganov/whisper.cpp:ggml-tiny.bin", Some("tiny"), true, 4),
                ("org/begun", None, false, 4),
            ]
        );
        assert_eq!(list[1].references, ["main"]);
        assert_eq!(list[1].model_type.as_deref(), Some("whisper"));
    }

    #[test]
    fn removing_a_revision_keeps_what_others_use() {
        let root = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(root.path());
        install(root.path(), "org/name", "main", COMMIT, CT2);
        install(
            root.path(),
            "org/name",
            "old",
            OTHER,
            &[CT2[0], ("model.bin", "a4", "older weights")],
        );
        let removed = cache.remove("org/name@old").unwrap();
        assert_eq!(removed.bytes, 13 + 40);
        assert!(cache.resolve("org/name").is_ok());
        assert!(cache.remove("org/name@old").is_err());
        cache.remove("org/name").unwrap();
        assert!(!root.path().join("models--org--name").exists());
        assert!(cache.remove("org/name").is_err());
    }

    #[test]
    fn removing_an_alias_takes_one_file_out_of_a_shared_repository() {
        let root = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(root.path());
        let files = [
            ("ggml-tiny.bin", "b1", "lmgg1"),
            ("ggml-base.bin", "b2", "lmgg2"),
        ];
        install(root.path(), "ggerganov/whisper.cpp", "main", COMMIT, &files);
        assert_eq!(cache.remove("tiny").unwrap().bytes, 5);
        assert!(cache.resolve("base").is_ok());
        cache.remove("base").unwrap();
        assert!(!root.path().join("models--ggerganov--whisper.cpp").exists());
    }

    #[test]
    fn nothing_outside_the_cache_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(root.path()).with_openai_folder(outside.path());
        std::fs::write(outside.path().join("tiny.pt"), "PK\x03\x04 PK\x05\x06").unwrap();
        let error = cache.remove("tiny").unwrap_err();
        assert!(error.to_string().contains("outside the cache"), "{error}");
        assert!(cache.remove(outside.path().to_str().unwrap()).is_err());
        assert!(cache.remove("../..").is_err());
        assert!(outside.path().join("tiny.pt").exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_linked_repository_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        install(outside.path(), "org/name", "main", COMMIT, CT2);
        std::os::unix::fs::symlink(
            outside.path().join("models--org--name"),
            root.path().join("models--org--name"),
        )
        .unwrap();
        assert!(ModelCache::new(root.path()).remove("org/name").is_err());
        assert!(outside.path().join("models--org--name/refs/main").exists());
    }
}
