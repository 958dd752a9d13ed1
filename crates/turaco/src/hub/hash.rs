//! The two hashes by which the hub names contents.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha1::Digest as _;

use crate::{Control, Error, Result};

/// The hash that a file's content must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentHash {
    /// SHA-256 of the content: files in large-file storage.
    Sha256(String),
    /// SHA-1 of `blob LENGTH\0` and the content, as git hashes it: small files.
    Git(String),
}

impl ContentHash {
    /// Read an ETag of the hub; `None` if it is no such hash.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        match text.len() {
            64 => Some(Self::Sha256(text)),
            40 => Some(Self::Git(text)),
            _ => None,
        }
    }

    /// The hexadecimal digits, which are also the name of the blob.
    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::Git(digits) => digits,
        }
    }

    /// Whether the file at `path` has this hash.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Cancelled`].
    pub fn matches(&self, path: &Path, control: &Control) -> Result<bool> {
        let failed = |source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut sha256 = sha2::Sha256::new();
        let mut sha1 = sha1::Sha1::new();
        sha1.update(format!("blob {length}\0"));
        let mut buffer = vec![0u8; 1 << 20];
        loop {
            control.check()?;
            let count = file.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                break;
            }
            match self {
                Self::Sha256(_) => sha256.update(&buffer[..count]),
                Self::Git(_) => sha1.update(&buffer[..count]),
            }
        }
        Ok(match self {
            Self::Sha256(digits) => *digits == hex(&sha256.finalize()),
            Self::Git(digits) => *digits == hex(&sha1.finalize()),
        })
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_hashes_match_their_tools() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "hello\n").unwrap();
        // `git hash-object` and `sha256sum` of the same file.
        let git = ContentHash::parse("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        let sha256 =
            ContentHash::parse("5891B5B522D5DF086D0FF0B110FBD9D21BB4FC7163AF34D08286A2E846F6BE03")
                .unwrap();
        assert!(git.matches(&path, &Control::new()).unwrap());
        assert!(sha256.matches(&path, &Control::new()).unwrap());
        std::fs::write(&path, "hello!").unwrap();
        assert!(!git.matches(&path, &Control::new()).unwrap());
        assert!(!sha256.matches(&path, &Control::new()).unwrap());
        for text in [
            "",
            "abc",
            "../../../../../../../../../../../../../etc",
            &"g".repeat(64),
        ] {
            assert!(ContentHash::parse(text).is_none());
        }
    }
}
