//! Bytes of weight files: owned or memory-mapped, shared, sliced without copying.
//!
//! This is the only place that maps files.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

/// A cheaply cloned view of immutable bytes, in memory or in a mapped file.
///
/// Clones and slices share the storage; it is freed (or unmapped) with the last of them. Nothing is said about
/// alignment: tensors lie at odd offsets in most weight formats, so numbers are read with unaligned loads.
#[derive(Clone)]
pub struct Bytes {
    storage: Arc<Storage>,
    start: usize,
    len: usize,
}

enum Storage {
    Owned(Vec<u8>),
    Mapped(Mmap),
}

impl Storage {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Mapped(map) => map,
        }
    }
}

impl Bytes {
    /// Maps a regular file for reading. Pages are fetched on first access.
    ///
    /// A file of no bytes gives an empty view, since an empty range cannot be mapped.
    ///
    /// The file has to stay as it is while any view of it lives. Replacing it by renaming another over it is
    /// harmless (the old content stays mapped); *overwriting* it in place changes the bytes seen here, and *shortening*
    /// it makes the system end the process (SIGBUS) when a lost page is touched. Our own downloads and conversions
    /// only ever rename.
    ///
    /// # Errors
    /// The system's error; `InvalidInput` when the path is no regular file.
    pub fn map(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        if metadata.len() == 0 {
            return Ok(Self::default());
        }
        if cfg!(target_family = "wasm") {
            // Nothing can be mapped there.
            return std::fs::read(path).map(Self::from);
        }
        // SAFETY: the mapping is private and read-only, so Rust code cannot write through it. Another process that
        // truncates or rewrites the file while it is mapped breaks the immutability that `&[u8]` assumes; no API of
        // the system prevents that without copying gigabytes, and the documentation above makes it the caller's duty.
        let map = unsafe { Mmap::map(&file)? };
        let len = map.len();
        Ok(Self {
            storage: Arc::new(Storage::Mapped(map)),
            start: 0,
            len,
        })
    }

    /// The part `range` of this view, sharing its storage.
    ///
    /// # Panics
    /// When the range does not lie inside the view, like slicing does; [`Bytes::get`] is for ranges from files.
    #[must_use]
    #[track_caller]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "range {range:?} outside of {} bytes",
            self.len
        );
        Self {
            storage: Arc::clone(&self.storage),
            start: self.start + range.start,
            len: range.end - range.start,
        }
    }

    /// The part `range` of this view, or `None` when it does not lie inside.
    #[must_use]
    pub fn get(&self, range: Range<usize>) -> Option<Self> {
        (range.start <= range.end && range.end <= self.len).then(|| self.slice(range))
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.storage.as_slice()[self.start..self.start + self.len]
    }

    /// Say that these bytes are not needed soon: what of them was read from a mapped file no longer counts as this
    /// process's memory, and is read again if it is needed after all. Without effect on bytes in memory.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Storage::Mapped(map) = &*self.storage {
            // Only whole pages: their neighbours may belong to another view that is in use.
            const PAGE: usize = 4096;
            let start = self.start.next_multiple_of(PAGE);
            let end = (self.start + self.len) / PAGE * PAGE;
            if start < end {
                // SAFETY: the pages of a read-only file mapping are unchanged copies of the file; when they are
                // dropped, the next access reads the same bytes again. A refusal changes nothing.
                let advised = unsafe {
                    map.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        start,
                        end - start,
                    )
                };
                drop(advised);
            }
        }
    }

    /// Whether the bytes lie in a mapped file (and may have to be read from disk on first access).
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        matches!(*self.storage, Storage::Mapped(_))
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self {
            storage: Arc::new(Storage::Owned(bytes)),
            start: 0,
            len,
        }
    }
}

impl Default for Bytes {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::fmt::Debug for Bytes {
    /// Length and kind only: weights are too long to print.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.is_mapped() { "mapped" } else { "owned" };
        write!(f, "Bytes({} {kind})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_and_nest() {
        let bytes = Bytes::from((0..100u8).collect::<Vec<_>>());
        let middle = bytes.slice(10..20);
        assert_eq!(&middle[..], &(10..20).collect::<Vec<u8>>()[..]);
        assert_eq!(&middle.slice(3..5)[..], &[13, 14]);
        assert!(middle.get(3..11).is_none());
        assert_eq!(middle.get(10..10).map(|empty| empty.len()), Some(0));
        drop(bytes);
        assert_eq!(middle[9], 19);
    }

    #[test]
    #[cfg(panic = "unwind")]
    #[should_panic(expected = "outside of 3 bytes")]
    fn slicing_outside_panics() {
        let _ = Bytes::from(vec![1, 2, 3]).slice(2..4);
    }

    #[test]
    fn reads_files() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let bytes = Bytes::map(&folder.join("Cargo.toml")).unwrap();
        assert!(bytes.starts_with(b"[package]"));
        assert!(Bytes::map(folder).is_err());
    }

    #[test]
    #[cfg(not(target_family = "wasm"))]
    fn maps_files() {
        let path = std::env::temp_dir().join(format!("turaco-storage-{}", std::process::id()));
        std::fs::write(&path, b"weights").unwrap();
        let bytes = Bytes::map(&path).unwrap();
        assert!(bytes.is_mapped());
        assert_eq!(&bytes[..], b"weights");
        std::fs::write(&path, b"").unwrap();
        let empty = Bytes::map(&path).unwrap();
        assert!(empty.is_empty());
        std::fs::remove_file(&path).unwrap();
        assert!(Bytes::map(&path).is_err());
        assert!(Bytes::map(&std::env::temp_dir()).is_err());
    }
}
