//! Ctrl-C: the first one asks the work to finish, the second one ends the program at once.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use turaco::Control;

use crate::exit::Exit;
use crate::printer::Printer;

static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Cancel `control` on Ctrl-C (and on the signals that ask a program to end).
pub fn install(control: &Control, printer: &Arc<Printer>) {
    let control = control.clone();
    let printer = Arc::clone(printer);
    let count = AtomicUsize::new(0);
    let installed = ctrlc::set_handler(move || {
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            control.cancel();
            printer.note("interrupted: finishing; once more to quit at once");
        } else {
            remove_unfinished();
            std::process::exit(i32::from(Exit::Interrupted.code()));
        }
    });
    // Without a handler Ctrl-C still ends the program; only the tidy end is lost.
    drop(installed);
}

/// A file or folder that is being written; removed when the program is made to end before it is complete.
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// Register `path` before it is created.
    pub fn new(path: &Path) -> Self {
        UNFINISHED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(path.to_path_buf());
        Self(path.to_path_buf())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut paths = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
        paths.retain(|path| *path != self.0);
    }
}

fn remove_unfinished() {
    for path in UNFINISHED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
    {
        remove(path);
    }
}

fn remove(path: &Path) {
    let _ = std::fs::remove_file(path).or_else(|_| std::fs::remove_dir_all(path));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_files_and_folders_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let inner = folder.path().join("folder");
        std::fs::write(&file, "half").unwrap();
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("file"), "half").unwrap();
        for path in [&file, &inner, &folder.path().join("gone")] {
            remove(path);
            assert!(!path.exists());
        }
    }
}
