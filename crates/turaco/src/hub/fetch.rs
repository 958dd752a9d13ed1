//! One file from the hub to a finished blob: resumed, verified, renamed into place.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::hash::ContentHash;
use super::http::{Client, Failure, FileFacts, Range, Reply};
use super::retry::{Retry, is_transient, retry_after};
use super::{Meter, Notice, PullError, lock, refusal};
use crate::cache::{RepoFolder, create_parent};
use crate::{Control, Error, Result};

/// A file on the hub.
pub struct RemoteFile<'a> {
    /// `org/name`.
    pub repo: &'a str,
    /// Commit that the download is pinned to.
    pub commit: &'a str,
    /// Path in the repository.
    pub name: &'a str,
    /// Address that answers with the content or a redirect to it.
    pub url: &'a str,
    /// What the listing said about the content, if it did.
    pub hash: Option<ContentHash>,
    /// Bytes, likewise.
    pub size: Option<u64>,
}

/// Downloads the files of one repository.
pub struct Fetch<'a> {
    /// Makes the requests.
    pub client: &'a Client,
    /// Where the blobs go.
    pub folder: &'a RepoFolder,
    /// Counts bytes over all files.
    pub meter: &'a Meter<'a>,
    /// Stops the download.
    pub control: &'a Control,
    /// Tells the user.
    pub notice: Notice<'a>,
    /// First pause before a retry.
    pub pause: Duration,
}

/// How one request ended.
enum Outcome {
    /// All bytes are in the partial file, as far as is known.
    Whole,
    /// The connection broke after so many new bytes.
    Broken { fresh: u64, why: String },
    /// The partial file cannot be continued; it was emptied.
    Restart,
}

impl Fetch<'_> {
    /// Get one file; returns the name of its blob. A blob that is already there is not fetched again.
    pub fn file(&self, file: &RemoteFile<'_>) -> std::result::Result<String, PullError> {
        let mut hash = file.hash.clone();
        let mut size = file.size;
        let mut held = None;
        let mut etag = None;
        let mut retry = Retry::new(self.pause);
        let mut mismatches = 0;
        loop {
            self.control.check()?;
            if let Some(known) = &hash {
                if held.is_none() {
                    let path = self.folder.lock_file(known.digits());
                    held = Some(lock::acquire(&path, file.name, self.control, self.notice)?);
                }
                let blob = self.folder.blobs().join(known.digits());
                if std::fs::metadata(&blob)
                    .is_ok_and(|found| size.is_none_or(|size| size == found.len()))
                {
                    self.meter.file_done(size.unwrap_or(0));
                    return Ok(known.digits().to_owned());
                }
                // All bytes may be there from an earlier run that was stopped before it could check them.
                let partial = self.partial(known);
                if size.is_some_and(|size| length(&partial) == size) && length(&partial) > 0 {
                    match self.finish(file, known, &partial, &blob)? {
                        true => return Ok(known.digits().to_owned()),
                        false => {
                            mismatches += 1;
                            self.mismatch(file, known, mismatches)?;
                            continue;
                        }
                    }
                }
            }
            let resume = |facts: &FileFacts| -> Option<Range> {
                let known = hash
                    .clone()
                    .or_else(|| ContentHash::parse(facts.hash.as_deref()?))?;
                let from = length(&self.partial(&known));
                (from > 0).then(|| Range {
                    from,
                    etag: etag.clone(),
                })
            };
            let reply = match self.client.get(file.url, &resume) {
                Ok(reply) => reply,
                Err(Failure::Unreachable(why)) => {
                    retry.unreachable(self.control, file.url, why)?;
                    continue;
                }
                Err(Failure::Broken(why)) => {
                    retry.failed(self.control, file.url, why, None)?;
                    continue;
                }
                Err(Failure::Refused(why)) => return Err(network(file.url, why).into()),
            };
            let status = reply.status();
            if is_transient(status) {
                let after = retry_after(reply.header("Retry-After"));
                retry.failed(
                    self.control,
                    &reply.url,
                    format!("HTTP status {status}"),
                    after,
                )?;
                continue;
            }
            if status == 416 {
                // What is here is no beginning of what is there.
                if let Some(known) = &hash {
                    empty(&self.partial(known))?;
                }
                retry.failed(
                    self.control,
                    &reply.url,
                    "the server cannot continue the file".to_owned(),
                    None,
                )?;
                continue;
            }
            if status != 200 && status != 206 {
                return Err(refusal(
                    file.repo,
                    Some(file.name),
                    file.commit,
                    self.client.has_token(),
                    &reply,
                )
                .into());
            }
            self.check_commit(file, &reply)?;
            if hash.is_none() {
                let found = reply.facts.hash.as_deref().and_then(ContentHash::parse);
                let Some(found) = found else {
                    let message = format!(
                        "the server gives no hash for {}, so it cannot be verified",
                        file.name
                    );
                    return Err(network(&reply.url, message).into());
                };
                size = size.or(reply.facts.size);
                let waiting = std::fs::exists(self.folder.blobs().join(found.digits()))
                    .unwrap_or(false)
                    || (reply.range.is_none() && length(&self.partial(&found)) > 0);
                hash = Some(found);
                if waiting {
                    // It is here already, or a part of it is: ask again knowing that.
                    continue;
                }
            }
            let Some(known) = &hash else { continue };
            if held.is_none() {
                match lock::try_acquire(&self.folder.lock_file(known.digits()))? {
                    Some(taken) => held = Some(taken),
                    // Another process is at it; the response would not survive the wait.
                    None => continue,
                }
            }
            if status == 200 {
                let total = reply.response.body().content_length();
                if let (Some(expected), Some(total)) = (size, total)
                    && expected != total
                {
                    let message = format!(
                        "{} should have {expected} bytes, but the server sends {total}",
                        file.name
                    );
                    return Err(network(&reply.url, message).into());
                }
                size = size.or(total);
            }
            // A redirected response has the ETag of the storage behind the hub; it is good for If-Range there only.
            etag = reply
                .header("ETag")
                .filter(|etag| !etag.starts_with("W/"))
                .map(str::to_owned);
            let url = reply.url.clone();
            let partial = self.partial(known);
            match self.receive(file, reply, &partial, size)? {
                Outcome::Broken { fresh, why } => {
                    retry.progressed(fresh);
                    retry.failed(self.control, &url, why, None)?;
                }
                Outcome::Restart => {
                    retry.failed(
                        self.control,
                        &url,
                        "the server sent another part than was asked for".to_owned(),
                        None,
                    )?;
                }
                Outcome::Whole => {
                    let blob = self.folder.blobs().join(known.digits());
                    if self.finish(file, known, &partial, &blob)? {
                        return Ok(known.digits().to_owned());
                    }
                    mismatches += 1;
                    self.mismatch(file, known, mismatches)?;
                }
            }
        }
    }

    /// Write a response's body to the end of the partial file.
    fn receive(
        &self,
        file: &RemoteFile<'_>,
        reply: Reply,
        partial: &Path,
        size: Option<u64>,
    ) -> Result<Outcome> {
        create_parent(partial)?;
        let write_failed = |source| Error::Io {
            action: "write",
            path: partial.to_owned(),
            source,
        };
        let mut from = 0;
        if reply.status() == 206 {
            from = length(partial);
            let continues = reply
                .header("Content-Range")
                .and_then(parse_content_range)
                .is_some_and(|(first, total)| {
                    first == from && (total.is_none() || size.is_none() || total == size)
                });
            if !continues {
                empty(partial)?;
                return Ok(Outcome::Restart);
            }
        }
        let mut output = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(from == 0)
            .open(partial)
            .map_err(write_failed)?;
        std::io::Seek::seek(&mut output, std::io::SeekFrom::Start(from)).map_err(write_failed)?;
        let url = reply.url;
        let mut body = reply
            .response
            .into_body()
            .into_with_config()
            .limit(u64::MAX)
            .reader();
        let mut buffer = vec![0u8; 1 << 17];
        let mut position = from;
        self.meter.file_at(position);
        let end = loop {
            self.control.check()?;
            match body.read(&mut buffer) {
                Ok(0) => break None,
                Ok(count) => {
                    position += count as u64;
                    if let Some(size) = size.filter(|size| position > *size) {
                        drop(output);
                        empty(partial)?;
                        let message = format!(
                            "{} should have {size} bytes, but the server sends more",
                            file.name
                        );
                        return Err(network(&url, message));
                    }
                    output.write_all(&buffer[..count]).map_err(write_failed)?;
                    self.meter.file_at(position);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error.to_string()),
            }
        };
        // A full disk may show only now.
        output.sync_all().map_err(write_failed)?;
        let fresh = position - from;
        Ok(match end {
            Some(why) => Outcome::Broken { fresh, why },
            None if size.is_some_and(|size| position < size) => Outcome::Broken {
                fresh,
                why: "the connection ended early".to_owned(),
            },
            None => Outcome::Whole,
        })
    }

    /// Check the partial file and make it the blob; `false` if its content is wrong, and then it is deleted.
    fn finish(
        &self,
        file: &RemoteFile<'_>,
        hash: &ContentHash,
        partial: &Path,
        blob: &Path,
    ) -> Result<bool> {
        if !hash.matches(partial, self.control)? {
            std::fs::remove_file(partial).map_err(|source| Error::Io {
                action: "delete",
                path: partial.to_owned(),
                source,
            })?;
            self.meter.file_at(0);
            return Ok(false);
        }
        let size = length(partial);
        std::fs::rename(partial, blob).map_err(|source| Error::Io {
            action: "create",
            path: blob.to_owned(),
            source,
        })?;
        self.meter.file_done(file.size.unwrap_or(size));
        Ok(true)
    }

    /// Wrong content is fetched once more, from the start; then it is the server's.
    fn mismatch(&self, file: &RemoteFile<'_>, hash: &ContentHash, count: u32) -> Result<()> {
        if count == 1 {
            (self.notice)(&format!(
                "{}: the content does not match its hash; downloading it again",
                file.name
            ));
            return Ok(());
        }
        let message = format!(
            "{} does not match its hash {} after two downloads; the server or a proxy sends wrong content",
            file.name,
            hash.digits()
        );
        Err(network(file.url, message))
    }

    fn check_commit(&self, file: &RemoteFile<'_>, reply: &Reply) -> Result<()> {
        match &reply.facts.commit {
            Some(commit) if commit != file.commit => {
                let message = format!("commit {} was asked for and {commit} was sent", file.commit);
                Err(network(&reply.url, message))
            }
            _ => Ok(()),
        }
    }

    fn partial(&self, hash: &ContentHash) -> PathBuf {
        self.folder
            .blobs()
            .join(format!("{}.incomplete", hash.digits()))
    }
}

fn network(url: &str, message: String) -> Error {
    Error::Network {
        url: super::http::without_query(url),
        message,
    }
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn empty(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Io {
            action: "delete",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// First byte and, if given, the whole length of `bytes FIRST-LAST/TOTAL`.
fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text
        .trim()
        .strip_prefix("bytes")?
        .trim_start()
        .split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    (first <= last).then_some((first, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, None)));
        for text in [
            "",
            "bytes",
            "bytes */10",
            "bytes 9-5/10",
            "bytes a-b/c",
            "bytes 5-99999999999999999999/10",
        ] {
            assert_eq!(parse_content_range(text), None, "{text}");
        }
    }
}
