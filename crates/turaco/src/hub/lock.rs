//! Locks between processes, on the files that huggingface_hub locks too.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use super::Notice;
use crate::cache::create_parent;
use crate::{Control, Error, Result};

/// Take the lock, or say `None` if another process has it. It is released when the file is dropped.
pub fn try_acquire(path: &Path) -> Result<Option<File>> {
    create_parent(path)?;
    let failed = |source| Error::Io {
        action: "lock",
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        // Some network file systems have no locks; two downloads then cost bandwidth, and the hash still holds.
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
            Ok(Some(file))
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Take the lock, waiting for another process that downloads `what`.
pub fn acquire(path: &Path, what: &str, control: &Control, notice: Notice<'_>) -> Result<File> {
    let mut said = false;
    loop {
        if let Some(lock) = try_acquire(path)? {
            return Ok(lock);
        }
        if !said {
            notice(&format!(
                "waiting for another process that downloads {what}"
            ));
            said = true;
        }
        control.check()?;
        std::thread::sleep(Duration::from_millis(50));
    }
}
