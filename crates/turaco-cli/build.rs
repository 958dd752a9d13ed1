//! Notes the commit that the program is built from, for the baselines of `turaco bench`.

use std::process::Command;

fn main() {
    // Sources that change make a commit with a `+`; git's own files tell when the commit changes.
    for path in [
        "src",
        "../turaco/src",
        "../turaco-compute/src",
        "build.rs",
        "Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    println!("cargo::rustc-env=TURACO_COMMIT={}", commit());
}

/// Such as `0123456789ab`, with a `+` if files of the sources differ; nothing outside a checkout of this repository.
fn commit() -> String {
    // Unpacked into somebody else's repository, the commit would be theirs.
    let ours = git(&["ls-files", "build.rs"]).is_some_and(|files| files == "build.rs");
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]).filter(|_| ours) else {
        return String::new();
    };
    let sources = ["..", ":!../*/tests"];
    let changed = git(&["status", "--porcelain", "--", sources[0], sources[1]])
        .is_some_and(|changes| !changes.is_empty());
    format!("{commit}{}", if changed { "+" } else { "" })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim().to_owned();
    output.status.success().then_some(text)
}
