//! What is this file or folder? Decided from the content, never from the name's ending.

use std::path::{Path, PathBuf};

use super::{
    Bytes, Weights, apr, ct2, ggml, invalid, map, printable, safetensors, torch, unreadable, zip,
};
use crate::Result;

/// The weight formats that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Hugging Face safetensors, one file or shards.
    SafeTensors,
    /// A CTranslate2 folder (`model.bin`, `config.json`, vocabulary).
    CTranslate2,
    /// whisper.cpp's `.bin`.
    Ggml,
    /// OpenAI's `.pt` or Hugging Face's `pytorch_model.bin`.
    PyTorch,
    /// `.apr` version 1.
    Apr,
}

impl Format {
    /// The name that messages and `turaco models info` use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SafeTensors => "safetensors",
            Self::CTranslate2 => "CTranslate2",
            Self::Ggml => "ggml",
            Self::PyTorch => "PyTorch",
            Self::Apr => "apr",
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// An opened weight file or folder: tensors under the names of the file, and what else it says.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Which format it turned out to be.
    pub format: Format,
    /// The file or folder as given.
    pub path: PathBuf,
    /// All tensors; nothing is copied, they lie in the mapped file.
    pub weights: Weights,
    /// The files beside the weights.
    pub sidecars: Sidecars,
    /// What the format stores besides tensors.
    pub extras: Extras,
}

/// What a format stores besides tensors.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Extras {
    /// Nothing.
    None,
    /// The header of a CTranslate2 file.
    CTranslate2(ct2::Header),
    /// Sizes, filter bank and vocabulary of a whisper.cpp file.
    Ggml(ggml::Header),
    /// OpenAI's `dims`, empty for a plain state dictionary.
    PyTorch(torch::Dimensions),
    /// Sizes and vocabulary of an `.apr` file.
    Apr(apr::Header),
}

/// Files in the folder of the weights: configuration and vocabulary.
#[derive(Debug, Clone)]
pub struct Sidecars {
    folder: PathBuf,
}

impl Sidecars {
    /// Largest sidecar that is read; tokenizers have some megabytes.
    const MAX_BYTES: usize = 256 << 20;

    /// The files of `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_path_buf(),
        }
    }

    /// Where the file of that name is or would be.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The content of the file of that name, or `None` if there is none.
    ///
    /// # Errors
    /// When the file exists but cannot be read, or is absurdly large.
    pub fn get(&self, name: &str) -> Result<Option<Bytes>> {
        let path = self.path(name);
        match Bytes::map(&path) {
            Ok(bytes) if bytes.len() > Self::MAX_BYTES => Err(invalid(
                &path,
                format!("{} bytes are too many for this file", bytes.len()),
            )),
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(unreadable(&path, source)),
        }
    }

    /// The JSON object in the file of that name, or `None` if there is no such file.
    pub(crate) fn json(
        &self,
        name: &str,
    ) -> Result<Option<serde_json::Map<String, serde_json::Value>>> {
        let Some(bytes) = self.get(name)? else {
            return Ok(None);
        };
        let path = self.path(name);
        if let Some(what) = foreign(&bytes) {
            return Err(invalid(&path, format!("expected JSON, found {what}")));
        }
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| invalid(&path, format!("invalid JSON: {error}")))
    }
}

/// Opens a model file or folder of any known format.
///
/// # Errors
/// When nothing is there, when it is something else (the message says what), or when the file is broken.
pub fn open(path: &Path) -> Result<Checkpoint> {
    let metadata = std::fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if metadata.is_dir() {
        open_folder(path)
    } else {
        open_file(path, path)
    }
}

fn open_folder(folder: &Path) -> Result<Checkpoint> {
    const KNOWN: [&str; 5] = [
        "model.safetensors",
        "model.safetensors.index.json",
        "consolidated.safetensors",
        "model.bin",
        "pytorch_model.bin",
    ];
    if let Some(known) = KNOWN.iter().find(|name| folder.join(name).is_file()) {
        return open_file(&folder.join(known), folder);
    }
    // One weight file under any name, for example what a user unpacked into a folder of its own.
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|source| unreadable(folder, source))? {
        let entry = entry.map_err(|source| unreadable(folder, source))?;
        names.push(entry.file_name());
    }
    names.sort();
    let mut candidates = Vec::new();
    for name in &names {
        let path = folder.join(name);
        if path.is_file() && sniff(&map(&path)?).is_some() {
            candidates.push(path);
        }
    }
    match candidates.as_slice() {
        [one] => open_file(one, folder),
        [] => Err(invalid(
            folder,
            format!(
                "no weights in this folder (expected model.safetensors, model.bin or one other weight file; {})",
                listing(&names)
            ),
        )),
        several => Err(invalid(
            folder,
            format!(
                "several weight files in this folder, name one of them: {}",
                listing(
                    &several
                        .iter()
                        .filter_map(|path| path.file_name())
                        .map(ToOwned::to_owned)
                        .collect::<Vec<_>>()
                )
            ),
        )),
    }
}

/// `file` holds the weights, `path` is what the user named.
fn open_file(file: &Path, path: &Path) -> Result<Checkpoint> {
    let bytes = map(file)?;
    let sidecars = Sidecars::new(file.parent().unwrap_or(Path::new("")));
    let Some(kind) = sniff(&bytes) else {
        let what = foreign(&bytes).unwrap_or_else(|| {
            if let Some(b'{' | b'[') = bytes.first() {
                return "a JSON file".into();
            }
            format!(
                "a file of an unknown kind (first bytes {})",
                hex(&bytes[..bytes.len().min(8)])
            )
        });
        return Err(invalid(
            file,
            format!(
                "this is {what}; expected safetensors, CTranslate2, whisper.cpp ggml, OpenAI .pt or .apr"
            ),
        ));
    };
    let (format, weights, extras) = match kind {
        Kind::SafeTensors => (
            Format::SafeTensors,
            safetensors::parse(file, &bytes)?,
            Extras::None,
        ),
        Kind::SafeTensorsIndex => (
            Format::SafeTensors,
            safetensors::read_sharded(file)?,
            Extras::None,
        ),
        Kind::CTranslate2 => {
            let (header, weights) = ct2::parse(file, &bytes)?;
            (Format::CTranslate2, weights, Extras::CTranslate2(header))
        }
        Kind::Ggml => {
            let (header, weights) = ggml::parse(file, &bytes)?;
            (Format::Ggml, weights, Extras::Ggml(header))
        }
        Kind::Zip => {
            let (dimensions, weights) = torch::parse(file, &bytes)?;
            (Format::PyTorch, weights, Extras::PyTorch(dimensions))
        }
        Kind::Apr => {
            let (header, weights) = apr::parse(file, &bytes)?;
            (Format::Apr, weights, Extras::Apr(header))
        }
    };
    Ok(Checkpoint {
        format,
        path: path.to_path_buf(),
        weights,
        sidecars,
        extras,
    })
}

enum Kind {
    SafeTensors,
    SafeTensorsIndex,
    CTranslate2,
    Ggml,
    Zip,
    Apr,
}

/// Which readable format the bytes are, from their beginning.
fn sniff(bytes: &[u8]) -> Option<Kind> {
    for (magic, kind) in [
        (ggml::MAGIC, Kind::Ggml),
        (zip::MAGIC, Kind::Zip),
        (apr::MAGIC, Kind::Apr),
    ] {
        if bytes.starts_with(&magic) {
            return Some(kind);
        }
    }
    if let Some((len, rest)) = bytes.split_first_chunk::<8>()
        && rest.first() == Some(&b'{')
        && (u64::from_le_bytes(*len) < 1 << 40 || len[0] != b'{')
    {
        return Some(Kind::SafeTensors);
    }
    if ct2::looks_like(bytes) {
        return Some(Kind::CTranslate2);
    }
    let is_index = bytes.first() == Some(&b'{')
        && bytes[..bytes.len().min(4096)]
            .windows(12)
            .any(|window| window == b"\"weight_map\"");
    is_index.then_some(Kind::SafeTensorsIndex)
}

/// What the bytes are if they are one of the things that are often taken for weights.
fn foreign(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() {
        return Some("an empty file".into());
    }
    let text_start = bytes
        .iter()
        .position(|byte| !byte.is_ascii_whitespace())
        .map_or(&[][..], |start| &bytes[start..bytes.len().min(start + 512)])
        .to_ascii_lowercase();
    let is_html = [&b"<!doctype html"[..], b"<html", b"<head"]
        .iter()
        .any(|tag| text_start.starts_with(tag));
    if is_html {
        return Some("an HTML page (an error page saved instead of the file?)".into());
    }
    if text_start.starts_with(b"version https://git-lfs") {
        return Some(
            "a Git LFS pointer, not the file itself (run `git lfs pull` in the clone)".into(),
        );
    }
    let magics: [(&[u8], &str); 15] = [
        (b"GGUF", "a GGUF file"),
        (b"fmgg", "an old ggml file (ggmf) of another program"),
        (b"tjgg", "an old ggml file (ggjt) of another program"),
        (
            b"APR",
            "an .apr file of a later layout (version 1 is supported)",
        ),
        (b"\x1f\x8b", "gzip-compressed data (unpack it first)"),
        (
            b"\x28\xb5\x2f\xfd",
            "zstd-compressed data (unpack it first)",
        ),
        (b"\xfd7zXZ\0", "xz-compressed data (unpack it first)"),
        (b"BZh", "bzip2-compressed data (unpack it first)"),
        (b"\x89HDF", "an HDF5 file"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"RIFF", "a RIFF file (audio?)"),
        (b"fLaC", "FLAC audio"),
        (b"OggS", "Ogg audio"),
        (b"ID3", "MP3 audio"),
        (b"\x7fELF", "a program"),
    ];
    if let Some((_, what)) = magics.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some((*what).into());
    }
    if bytes.len() > 262 && &bytes[257..262] == b"ustar" {
        return Some("a tar archive (unpack it first)".into());
    }
    // Protocol 2 and later; the first opcode of what torch used to write is a long integer.
    if bytes[0] == 0x80
        && bytes
            .get(1)
            .is_some_and(|protocol| (2..=5).contains(protocol))
    {
        return Some(
            "a Python pickle or a PyTorch file of the old layout (load and save it again with a current PyTorch)".into(),
        );
    }
    None
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// At most eight names, or that there are none.
fn listing(names: &[std::ffi::OsString]) -> String {
    if names.is_empty() {
        return "it is empty".into();
    }
    let mut text = names
        .iter()
        .take(8)
        .map(|name| printable(&name.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > 8 {
        text.push_str(&format!(", … ({} files)", names.len()));
    }
    format!("found {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(content: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.bin");
        std::fs::write(&path, content).unwrap();
        open(&path).unwrap_err().to_string()
    }

    #[test]
    fn says_what_was_found_instead() {
        for (content, part) in [
            (&b""[..], "an empty file"),
            (b"GGUF\x03\0\0\0", "a GGUF file"),
            (b"<!DOCTYPE html><html>", "an HTML page"),
            (b"\n  <HTML><body>", "an HTML page"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "Git LFS pointer",
            ),
            (b"\x1f\x8b\x08\0\0", "gzip"),
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "old layout"),
            (b"{\"a\": 1}", "a JSON file"),
            (b"APR\0\0\0\0\0", "later layout"),
            (b"RIFF\0\0\0\0WAVE", "RIFF"),
            (b"\x01\x02\x03", "unknown kind (first bytes 01 02 03)"),
        ] {
            let message = message(content);
            assert!(message.contains(part), "{message}");
            assert!(message.contains("model.bin"), "{message}");
        }
        assert!(message(b"PK\x03\x04").contains("end record"));
    }

    #[test]
    fn folders_are_searched() {
        let folder = tempfile::tempdir().unwrap();
        let empty = open(folder.path()).unwrap_err().to_string();
        assert!(empty.contains("it is empty"), "{empty}");
        std::fs::write(folder.path().join("readme.txt"), "hello").unwrap();
        let text = open(folder.path()).unwrap_err().to_string();
        assert!(text.contains("found readme.txt"), "{text}");
        let safetensors = [&2u64.to_le_bytes()[..], b"{}"].concat();
        std::fs::write(folder.path().join("any.safetensors"), &safetensors).unwrap();
        let checkpoint = open(folder.path()).unwrap();
        assert_eq!(checkpoint.format, Format::SafeTensors);
        assert_eq!(checkpoint.path, folder.path());
        std::fs::write(folder.path().join("other.bin"), &safetensors).unwrap();
        let two = open(folder.path()).unwrap_err().to_string();
        assert!(two.contains("any.safetensors, other.bin"), "{two}");
        // A usual name wins over others.
        std::fs::write(folder.path().join("model.safetensors"), &safetensors).unwrap();
        assert!(open(folder.path()).is_ok());
        assert!(
            open(&folder.path().join("none"))
                .unwrap_err()
                .to_string()
                .contains("cannot read")
        );
    }
}
