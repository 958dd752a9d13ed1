//! Output files that are either complete or not there.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::exit::Failure;
use crate::signals::Unfinished;

/// Write all of `files`, or none: each is complete under a temporary name in its folder before any gets its own name. Pipes
/// and devices are written to when all files are complete.
pub fn write_all(files: &[(PathBuf, Vec<u8>)]) -> Result<(), Failure> {
    let (special, plain): (Vec<_>, Vec<_>) = files.iter().partition(|(path, _)| is_special(path));
    let mut written = Vec::new();
    for (path, bytes) in plain {
        let real = replaced_by(path);
        let temporary = Temporary::write(&real, bytes);
        written.push((
            temporary.map_err(|error| Failure::write(path, &error))?,
            real,
        ));
    }
    for (temporary, real) in written {
        temporary.rename(&real)?;
    }
    for (path, bytes) in special {
        let written = fs::File::create(path).and_then(|mut file| file.write_all(bytes));
        written.map_err(|error| Failure::write(path, &error))?;
    }
    Ok(())
}

/// Whether this is no file that another could take the place of: a device, a pipe, or what the shell opened.
pub fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|known| !known.is_file())
        || ["/dev", "/proc"]
            .iter()
            .any(|folder| path.starts_with(folder))
}

/// The file that is replaced when `path` is written: what a link leads to, not the link.
pub fn replaced_by(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

/// [`write_all`]; what cannot be written where it belongs is kept in the folder for temporary files, because it may have
/// taken hours to make.
pub fn write_all_or_keep(files: &[(PathBuf, Vec<u8>)]) -> Result<(), Failure> {
    let Err(failure) = write_all(files) else {
        return Ok(());
    };
    let folder = std::env::temp_dir().join(format!("turaco-{}", std::process::id()));
    let elsewhere: Vec<_> = files
        .iter()
        .filter_map(|(path, bytes)| Some((folder.join(path.file_name()?), bytes.clone())))
        .collect();
    let kept = create_folder(&folder).is_ok() && write_all(&elsewhere).is_ok();
    Err(if kept {
        failure.hint(format!("the results were kept in {}", folder.display()))
    } else {
        let _ = fs::remove_dir(&folder);
        failure
    })
}

/// Create a folder for output, parents included.
pub fn create_folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|error| {
        let mut failure = Failure::write(path, &error);
        failure.message = "cannot create folder".into();
        failure
    })
}

/// Whether a file can be written, before the work that it is for: its folder is there and takes files.
pub fn check_writable(path: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::write(path, &error);
    if path.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    if is_special(path) && path.exists() {
        return Ok(());
    }
    let path = &replaced_by(path);
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    if !fs::metadata(folder).map_err(failed)?.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    let probe = temporary_name(path);
    let _unfinished = Unfinished::new(&probe);
    let created = OpenOptions::new().write(true).create_new(true).open(&probe);
    drop(created.map_err(failed)?);
    fs::remove_file(&probe).map_err(failed)
}

/// A file under a temporary name; removed when dropped.
struct Temporary {
    path: Option<PathBuf>,
    _unfinished: Unfinished,
}

impl Temporary {
    /// Write it beside `target`.
    fn write(target: &Path, bytes: &[u8]) -> io::Result<Self> {
        let path = temporary_name(target);
        let temporary = Self {
            _unfinished: Unfinished::new(&path),
            path: Some(path.clone()),
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        file.write_all(bytes)?;
        // Some file systems notice only here that they are full.
        file.sync_all()?;
        Ok(temporary)
    }

    fn rename(mut self, target: &Path) -> Result<(), Failure> {
        if let Some(path) = &self.path {
            fs::rename(path, target).map_err(|error| Failure::write(target, &error))?;
            self.path = None;
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// A name beside `target` that nothing has.
pub fn temporary_name(target: &Path) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // Not derived from the target's name: that may already be as long as the file system allows.
    target.with_file_name(format!(".turaco-{}-{count}.tmp", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn either_all_files_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let good = folder.path().join("a.txt");
        fs::write(&good, "old").unwrap();
        let bad = folder.path().join("missing").join("b.txt");
        let failure =
            write_all(&[(good.clone(), b"new".to_vec()), (bad.clone(), vec![1])]).unwrap_err();
        assert_eq!(failure.path, Some(bad));
        assert_eq!(names(folder.path()), ["a.txt"]);
        assert_eq!(fs::read(&good).unwrap(), b"old");

        let other = folder.path().join("b.txt");
        write_all(&[(good.clone(), b"new".to_vec()), (other, vec![1])]).unwrap();
        assert_eq!(names(folder.path()), ["a.txt", "b.txt"]);
        assert_eq!(fs::read(&good).unwrap(), b"new");
    }

    #[cfg(unix)]
    #[test]
    fn links_and_pipes_stay_what_they_are() {
        use std::os::unix::fs::FileTypeExt as _;
        let folder = tempfile::tempdir().unwrap();
        let [far, link, pipe] = ["far/a.svg", "a.svg", "pipe"].map(|name| folder.path().join(name));
        fs::create_dir(folder.path().join("far")).unwrap();
        fs::write(&far, "old").unwrap();
        std::os::unix::fs::symlink(&far, &link).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        check_writable(&link).unwrap();
        check_writable(&pipe).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_all(&[(pipe.clone(), vec![1, 2]), (link.clone(), b"new".to_vec())]).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&far).unwrap(), b"new");
        assert_eq!(names(&folder.path().join("far")), ["a.svg"]);
        let kind = fs::symlink_metadata(&pipe).unwrap().file_type();
        // Nobody writes to a file that took its place.
        assert!(kind.is_fifo());
        assert_eq!(reader.join().unwrap(), [1, 2]);
    }
}
