//! Help, manual pages, completions and reference pages.

use std::path::Path;

use crate::support::Home;

#[test]
fn help_of_every_command() {
    let home = Home::new();
    for command in [
        "",
        "transcribe",
        "vad",
        "models",
        "models list",
        "models pull",
        "models info",
        "models path",
        "models convert",
        "models quantize",
        "models remove",
        "bench",
        "doctor",
        "completions",
        "man",
        "environment",
    ] {
        let words: Vec<&str> = command.split_whitespace().collect();
        let help = home.run(std::iter::once("help").chain(words.iter().copied()));
        let help = help.succeeds();
        let name = match words.is_empty() {
            true => "turaco".to_string(),
            false => words.join("-"),
        };
        insta::assert_snapshot!(format!("help-{name}"), help);
        if command != "environment" {
            for flag in ["-h", "--help"] {
                let same = home.run(words.iter().copied().chain([flag]));
                assert_eq!(same.succeeds(), help, "{command} {flag}");
            }
        }
    }
    // The same options, another name and summary.
    let options = |command: &str| {
        let help = home.run(["help", command]).stdout;
        let start = help.find("Arguments:").unwrap();
        let end = help.find("Examples:").unwrap_or(help.len());
        help[start..end].trim_end().to_string()
    };
    assert_eq!(options("transcribe"), options("translate"));
}

#[test]
fn the_version_is_the_package_s() {
    let home = Home::new();
    for flag in ["-V", "--version"] {
        assert_eq!(
            home.run([flag]).succeeds(),
            concat!("turaco ", env!("CARGO_PKG_VERSION"), "\n")
        );
    }
}

#[test]
fn completions_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let run = home.run(["completions", shell]);
        assert!(run.succeeds().contains("output-format"), "{shell}");
    }
}

#[test]
fn manual_pages() {
    let home = Home::new();
    let page = home.run(["man"]);
    for part in [
        ".TH turaco",
        "EXIT STATUS",
        "ENVIRONMENT",
        "TURACO_MODEL",
        "130",
    ] {
        assert!(page.succeeds().contains(part), "{part}");
    }
    home.run(["man", "pages/man1"]).succeeds();
    for name in ["turaco.1", "turaco-transcribe.1", "turaco-models-pull.1"] {
        assert!(home.path("pages/man1").join(name).is_file(), "{name}");
    }
}

/// After a change of options: `turaco man --markdown docs/reference` writes the pages anew.
#[test]
fn reference_pages_are_up_to_date() {
    let home = Home::new();
    home.run(["man", "--markdown", "pages"]).succeeds();
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    let mut count = 0;
    for entry in std::fs::read_dir(home.path("pages")).unwrap() {
        let entry = entry.unwrap();
        let expected = std::fs::read_to_string(entry.path()).unwrap();
        let found = std::fs::read_to_string(reference.join(entry.file_name())).unwrap_or_default();
        assert!(
            found == expected,
            "docs/reference/{} is out of date: run `turaco man --markdown docs/reference`",
            entry.file_name().display()
        );
        count += 1;
    }
    assert!(count >= 3);
}
