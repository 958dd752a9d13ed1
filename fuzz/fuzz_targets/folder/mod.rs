//! A folder for parsers that read several files, or map one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("turaco-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for temporary files");
    folder
});

/// The folder with these files in it. Names that were given once are given every time.
pub fn with(files: &[(&str, &[u8])]) -> &'static Path {
    for (name, bytes) in files {
        fs::write(FOLDER.join(name), bytes).expect("room for temporary files");
    }
    &FOLDER
}
