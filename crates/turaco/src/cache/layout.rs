//! Paths of one repository inside the Hugging Face cache, and the writes that keep it consistent.
//!
//! The layout is the one huggingface_hub documents: `models--ORG--NAME/blobs/HASH` holds contents,
//! `snapshots/COMMIT/FILE` are relative links to them, `refs/REVISION` is a text file with a commit.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::names::is_safe_relative;
use crate::{Error, Result};

/// One repository folder, whether it exists or not.
#[derive(Debug, Clone)]
pub struct RepoFolder {
    root: PathBuf,
    id: String,
}

impl RepoFolder {
    /// The folder of `id` (`org/name`, already checked) below the cache `root`.
    pub fn new(root: &Path, id: &str) -> Self {
        Self {
            root: root.to_owned(),
            id: id.to_owned(),
        }
    }

    /// `org/name` of a cache folder name, if it is one of a model.
    pub fn id_of(folder_name: &str) -> Option<String> {
        let (organisation, name) = folder_name.strip_prefix("models--")?.split_once("--")?;
        Some(format!("{organisation}/{name}"))
    }

    fn folder_name(&self) -> String {
        format!("models--{}", self.id.replace('/', "--"))
    }

    /// `ROOT/models--ORG--NAME`.
    pub fn path(&self) -> PathBuf {
        self.root.join(self.folder_name())
    }

    /// Where contents are.
    pub fn blobs(&self) -> PathBuf {
        self.path().join("blobs")
    }

    /// The folder of one commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.path().join("snapshots").join(commit)
    }

    /// The lock that huggingface_hub also takes while it writes the blob `hash`.
    pub fn lock_file(&self, hash: &str) -> PathBuf {
        self.root
            .join(".locks")
            .join(self.folder_name())
            .join(format!("{hash}.lock"))
    }

    /// The commit that a branch, tag or commit name stands for locally.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        if !is_safe_relative(revision) {
            return None;
        }
        let mut text = String::new();
        if let Ok(file) = std::fs::File::open(self.path().join("refs").join(revision)) {
            file.take(256).read_to_string(&mut text).ok()?;
            let commit = text.trim();
            return is_commit(commit).then(|| commit.to_owned());
        }
        (is_commit(revision) && self.snapshot(revision).is_dir()).then(|| revision.to_owned())
    }

    /// All commits that have a snapshot folder, newest first.
    pub fn commits(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path().join("snapshots")) else {
            return Vec::new();
        };
        let mut commits: Vec<(std::time::SystemTime, String)> = entries
            .flatten()
            .filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                let name = entry.file_name().into_string().ok()?;
                let modified = metadata.modified().unwrap_or(std::time::UNIX_EPOCH);
                (metadata.is_dir() && is_commit(&name)).then_some((modified, name))
            })
            .collect();
        commits.sort();
        commits.into_iter().rev().map(|(_, name)| name).collect()
    }

    /// Every `(revision, commit)` below `refs`, sorted.
    pub fn references(&self) -> Vec<(String, String)> {
        let refs = self.path().join("refs");
        let mut found: Vec<(String, String)> = files_below(&refs)
            .into_iter()
            .filter_map(|revision| {
                let commit = self.commit_of(&revision)?;
                Some((revision, commit))
            })
            .collect();
        found.sort();
        found
    }

    /// Make `snapshots/COMMIT/FILE` stand for the finished blob `hash`: a relative link, or where the file system has
    /// none a hard link or a copy.
    pub fn link(&self, commit: &str, file: &str, hash: &str) -> Result<PathBuf> {
        let link = self.snapshot(commit).join(file);
        let blob = self.blobs().join(hash);
        create_parent(&link)?;
        // FILE may be in folders; each one is a further step up, besides COMMIT and `snapshots`.
        let up = "../".repeat(file.matches('/').count() + 2);
        let target = format!("{up}blobs/{hash}");
        if std::fs::read_link(&link).is_ok_and(|old| old == Path::new(&target)) {
            return Ok(link);
        }
        // The new entry is made beside the old one and renamed over it, so that a reader always finds one of the two.
        let fresh = unshared_sibling(&link);
        let _ = std::fs::remove_file(&fresh);
        symlink_file(Path::new(&target), &fresh)
            .or_else(|_| std::fs::hard_link(&blob, &fresh))
            .or_else(|_| std::fs::copy(&blob, &fresh).map(drop))
            .and_then(|()| std::fs::rename(&fresh, &link))
            .map_err(|source| {
                let _ = std::fs::remove_file(&fresh);
                Error::Io {
                    action: "create",
                    path: link.clone(),
                    source,
                }
            })?;
        Ok(link)
    }

    /// Let `revision` stand for `commit`. Written last, when the snapshot is complete.
    pub fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        // huggingface_hub has no ref for a commit that is named by itself.
        if revision == commit {
            return Ok(());
        }
        let path = self.path().join("refs").join(revision);
        create_parent(&path)?;
        let fresh = unshared_sibling(&path);
        std::fs::write(&fresh, commit)
            .and_then(|()| std::fs::rename(&fresh, &path))
            .map_err(|source| {
                let _ = std::fs::remove_file(&fresh);
                Error::Io {
                    action: "write",
                    path,
                    source,
                }
            })
    }
}

/// Whether `text` can be the name of a snapshot: hexadecimal, as long as a git commit or longer.
pub fn is_commit(text: &str) -> bool {
    (40..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Create the folders above `path`.
pub fn create_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    std::fs::create_dir_all(parent).map_err(|source| Error::Io {
        action: "create",
        path: parent.to_owned(),
        source,
    })
}

/// Relative paths (with `/`) of the files and links below `folder`; folders behind links are not entered.
pub fn files_below(folder: &Path) -> Vec<String> {
    // Deep enough for every model layout, and an end for whatever else is there.
    const DEPTH: usize = 8;
    let mut found = Vec::new();
    let mut open = vec![(folder.to_owned(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else {
                continue;
            };
            let relative = format!("{prefix}{name}");
            if !kind.is_dir() {
                found.push(relative);
            } else if depth < DEPTH {
                open.push((entry.path(), format!("{relative}/"), depth + 1));
            }
        }
    }
    found.sort();
    found
}

/// `path` with `.suffix` added to its file name.
pub fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

/// A name beside `path` that nobody else writes to, neither another process nor another thread of this one.
fn unshared_sibling(path: &Path) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    sibling(path, &format!("{}-{count}.new", std::process::id()))
}

#[cfg(unix)]
fn symlink_file(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink_file(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink_file(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_linked_file_is_found_through_its_revision() {
        let root = tempfile::tempdir().unwrap();
        let repo = RepoFolder::new(root.path(), "org/name");
        std::fs::create_dir_all(repo.blobs()).unwrap();
        std::fs::write(repo.blobs().join("aa"), "content").unwrap();
        std::fs::write(repo.blobs().join("bb"), "other").unwrap();
        let flat = repo.link(COMMIT, "config.json", "aa").unwrap();
        let deep = repo
            .link(COMMIT, "speech_tokenizer/model.bin", "aa")
            .unwrap();
        assert_eq!(std::fs::read_to_string(&flat).unwrap(), "content");
        assert_eq!(std::fs::read_to_string(deep).unwrap(), "content");
        assert_eq!(repo.commit_of("main"), None);
        repo.write_ref("main", COMMIT).unwrap();
        repo.write_ref("refs/pr/1", COMMIT).unwrap();
        repo.write_ref(COMMIT, COMMIT).unwrap();
        assert_eq!(repo.commit_of("main").as_deref(), Some(COMMIT));
        assert_eq!(repo.commit_of(COMMIT).as_deref(), Some(COMMIT));
        assert_eq!(repo.commit_of("../../main"), None);
        assert_eq!(repo.references().len(), 2);
        assert_eq!(repo.commits(), [COMMIT]);
        repo.link(COMMIT, "config.json", "bb").unwrap();
        assert_eq!(std::fs::read_to_string(&flat).unwrap(), "other");
        assert_eq!(
            files_below(&repo.snapshot(COMMIT)),
            ["config.json", "speech_tokenizer/model.bin"]
        );
    }

    #[test]
    fn folder_names_give_ids_back() {
        assert_eq!(
            RepoFolder::id_of("models--org--na-me").as_deref(),
            Some("org/na-me")
        );
        assert_eq!(RepoFolder::id_of("datasets--org--name"), None);
        assert_eq!(RepoFolder::id_of("models--bert"), None);
    }

    #[test]
    fn a_ref_with_rubbish_is_no_ref() {
        let root = tempfile::tempdir().unwrap();
        let repo = RepoFolder::new(root.path(), "org/name");
        std::fs::create_dir_all(repo.path().join("refs")).unwrap();
        for text in ["", "../../../etc", "zz", &"a".repeat(10_000)] {
            std::fs::write(repo.path().join("refs/main"), text).unwrap();
            assert_eq!(repo.commit_of("main"), None);
        }
    }
}
