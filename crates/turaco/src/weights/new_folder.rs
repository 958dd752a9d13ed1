//! Writing a model as a folder that appears whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{DType, Tensor, safetensors};
use crate::{Control, Error, Result};

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}

/// Who is told how much of a file is written, and may stop it.
#[derive(Clone, Copy)]
pub(crate) struct Watch<'a> {
    pub control: &'a Control,
    /// Bytes to come, where it is worth telling.
    pub total: Option<f64>,
}

/// A file that is written in pieces, with a look at the control before each.
pub(crate) struct WatchedFile<'a> {
    file: File,
    written: usize,
    watch: Watch<'a>,
}

impl Write for WatchedFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const PIECE: usize = 4 << 20;
        // Not `ErrorKind::Interrupted`, after which writers try again.
        self.watch.control.check().map_err(io::Error::other)?;
        let written = self.file.write(&bytes[..bytes.len().min(PIECE)])?;
        self.written += written;
        if self.watch.total.is_some() {
            let control = self.watch.control;
            control.report(self.written as f64, self.watch.total);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A folder that is filled under a hidden name beside it, which is removed when this is dropped, and gets its own name
/// when it is complete.
#[derive(Debug)]
pub struct NewFolder {
    target: PathBuf,
    hidden: PathBuf,
}

impl NewFolder {
    /// Makes a hidden sibling of `folder`, so that renaming stays on one file system.
    ///
    /// # Errors
    /// When `folder` exists and is not empty, or the file system refuses.
    pub fn create(folder: &Path) -> Result<Self> {
        let is_free = match fs::read_dir(folder) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if !is_free {
            let exists = io::Error::new(
                io::ErrorKind::AlreadyExists,
                "it exists already and is not empty",
            );
            return Err(failed("create", folder, exists));
        }
        let absolute =
            std::path::absolute(folder).map_err(|source| failed("create", folder, source))?;
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            let no_name = io::Error::new(io::ErrorKind::InvalidInput, "no name for a folder");
            return Err(failed("create", folder, no_name));
        };
        fs::create_dir_all(parent).map_err(|source| failed("create", parent, source))?;
        let mut attempt = 0u32;
        loop {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".partial-{}-{attempt}", std::process::id()));
            let hidden = parent.join(hidden);
            match fs::create_dir(&hidden) {
                Ok(()) => {
                    return Ok(Self {
                        target: folder.to_path_buf(),
                        hidden,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {
                    attempt += 1;
                }
                Err(source) => return Err(failed("create", &hidden, source)),
            }
        }
    }

    /// Where its files are until it is complete. A program that ends without dropping this removes it itself.
    pub fn hidden(&self) -> &Path {
        &self.hidden
    }

    /// Creates a file and makes sure that its content has reached the disk: a full one may only be noticed then.
    pub(crate) fn write(
        &self,
        name: &str,
        watch: Watch<'_>,
        content: impl FnOnce(&mut BufWriter<WatchedFile<'_>>) -> io::Result<()>,
    ) -> Result<()> {
        let write = || -> io::Result<()> {
            let file = WatchedFile {
                file: File::create_new(self.hidden.join(name))?,
                written: 0,
                watch,
            };
            let mut out = BufWriter::with_capacity(1 << 20, file);
            content(&mut out)?;
            out.into_inner()
                .map_err(io::IntoInnerError::into_error)?
                .file
                .sync_all()
        };
        let result = write();
        watch.control.check()?;
        // The name that the user knows.
        result.map_err(|source| failed("write", &self.target.join(name), source))
    }

    /// The weights, `model.safetensors`, each tensor as its type says; progress is in bytes of them.
    pub(crate) fn write_weights(
        &self,
        tensors: &[(String, &Tensor, DType)],
        control: &Control,
    ) -> Result<()> {
        let watch = Watch {
            control,
            total: Some(safetensors::data_len(tensors) as f64),
        };
        self.write("model.safetensors", watch, |out| {
            safetensors::write(out, tensors)
        })
    }

    /// A file of settings.
    pub(crate) fn write_json(
        &self,
        name: &str,
        value: &serde_json::Value,
        control: &Control,
    ) -> Result<()> {
        self.write_silently(name, control, |out| {
            serde_json::to_writer_pretty(&mut *out, value)?;
            out.write_all(b"\n")
        })
    }

    /// A copy of the file `from`.
    pub(crate) fn copy(&self, from: &Path, name: &str, control: &Control) -> Result<()> {
        let mut source = File::open(from).map_err(|source| failed("read", from, source))?;
        self.write_silently(name, control, |out| io::copy(&mut source, out).map(drop))
    }

    /// Copies of all files that are in the folder `from`, in a folder `name`.
    pub(crate) fn copy_folder(&self, from: &Path, name: &str, control: &Control) -> Result<()> {
        let unreadable = |source| failed("read", from, source);
        let inner = self.hidden.join(name);
        fs::create_dir(&inner).map_err(|source| failed("create", &inner, source))?;
        for entry in fs::read_dir(from).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if let (true, Some(file)) = (path.is_file(), path.file_name()) {
                let file = Path::new(name).join(file);
                self.copy(&path, &file.to_string_lossy(), control)?;
            }
        }
        Ok(())
    }

    /// [`write`](Self::write) of what is too little to tell how far it is.
    pub(crate) fn write_silently(
        &self,
        name: &str,
        control: &Control,
        content: impl FnOnce(&mut BufWriter<WatchedFile<'_>>) -> io::Result<()>,
    ) -> Result<()> {
        let watch = Watch {
            control,
            total: None,
        };
        self.write(name, watch, content)
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn publish(self) -> Result<()> {
        // An empty folder of that name is in the way on some systems; a full one stays and makes the renaming fail.
        let target = &self.target;
        if target.is_dir() {
            fs::remove_dir(target).map_err(|source| failed("replace", target, source))?;
        }
        fs::rename(&self.hidden, target).map_err(|source| failed("create", target, source))
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        // After publishing there is nothing left under this name. A failure here has nobody to tell.
        drop(fs::remove_dir_all(&self.hidden));
    }
}
