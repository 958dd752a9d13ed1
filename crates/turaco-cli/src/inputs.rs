//! Which files are meant: paths, directories, globs, lists, standard input.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::args::InputArgs;
use crate::exit::{Exit, Failure};

/// One input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The file; `-` is standard input.
    pub path: PathBuf,
    /// Name of its output files without extension.
    pub stem: String,
}

impl Input {
    /// Standard input, not a file.
    pub fn is_stdin(&self) -> bool {
        self.path == Path::new("-")
    }

    /// As messages name it.
    pub fn name(&self) -> String {
        if self.is_stdin() {
            "standard input".into()
        } else {
            self.path.display().to_string()
        }
    }
}

/// What was found, in the order given.
#[derive(Debug, Default)]
pub struct Inputs {
    /// What can be tried.
    pub found: Vec<Input>,
    /// What is not there.
    pub failures: Vec<Failure>,
}

/// Endings of files that a directory is searched for; other files in it are looked into.
const EXTENSIONS: &[&str] = &[
    "wav", "wave", "flac", "mp3", "mp2", "aac", "m4a", "m4b", "mp4", "m4v", "mov", "3gp", "ogg",
    "oga", "ogv", "opus", "webm", "mkv", "mka", "aif", "aiff", "aifc", "caf", "avi", "wma", "wmv",
    "amr", "au", "w64", "rf64",
];

/// Expand the arguments. A list that cannot be read is a failure of the whole; a missing file is one among others.
pub fn collect(args: &InputArgs) -> Result<Inputs, Failure> {
    let mut paths = args.audio.clone();
    if args.null && args.from_file.is_none() {
        return Err(Failure::usage(
            "`--null` has no meaning without `--from-file`",
        ));
    }
    if let Some(list) = &args.from_file {
        paths.extend(read_list(list, args.null)?);
    }
    let stdin = |path: &Path| path == Path::new("-");
    let readers = paths.iter().filter(|path| stdin(path)).count()
        + usize::from(args.from_file.as_deref().is_some_and(stdin));
    if readers > 1 {
        return Err(Failure::usage("standard input (`-`) can be read only once"));
    }

    let mut inputs = Inputs::default();
    let mut seen = HashSet::new();
    for path in paths {
        if stdin(&path) {
            inputs.found.push(input(path));
            continue;
        }
        // A path that is named twice is done once.
        let mut add = |path: PathBuf| {
            if seen.insert(path.clone()) {
                inputs.found.push(input(path));
            }
        };
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                let mut files = Vec::new();
                match search(&path, args.recursive, &mut files) {
                    Ok(()) if files.is_empty() => inputs.failures.push(
                        Failure::input(&path, "no audio files in this directory").hint(
                            if args.recursive {
                                "files are found by their extension or content"
                            } else {
                                "`--recursive` also reads the directories below"
                            },
                        ),
                    ),
                    Ok(()) => files.into_iter().for_each(add),
                    Err(error) => inputs.failures.push(unreadable(&path, &error)),
                }
            }
            Ok(_) => add(path),
            Err(error) => match matches(&path) {
                Some(files) if !files.is_empty() => files.into_iter().for_each(add),
                Some(_) => inputs
                    .failures
                    .push(Failure::input(&path, "no file matches this pattern")),
                None => inputs.failures.push(unreadable(&path, &error)),
            },
        }
    }
    name_outputs(&mut inputs.found)?;
    Ok(inputs)
}

/// An input that the system does not give.
pub fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure {
        code: "input_not_found",
        ..Failure::input(path, "cannot read")
    }
    .caused_by(error)
    .exit(Exit::NoInput)
}

fn input(path: PathBuf) -> Input {
    let stem = if path == Path::new("-") {
        "stdin".into()
    } else {
        text(path.file_stem())
    };
    Input { path, stem }
}

fn text(name: Option<&OsStr>) -> String {
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// `a.wav` and `a.mp3` would write the same files: both then keep their extension.
fn name_outputs(inputs: &mut [Input]) -> Result<(), Failure> {
    let mut stems = HashSet::new();
    let repeated: HashSet<String> = inputs
        .iter()
        .filter(|input| !stems.insert(input.stem.clone()))
        .map(|input| input.stem.clone())
        .collect();
    for input in inputs.iter_mut() {
        if repeated.contains(&input.stem) && !input.is_stdin() {
            input.stem = text(input.path.file_name());
        }
    }
    // The same name in several directories: the directories go into the name.
    let mut stems = HashSet::new();
    let repeated: HashSet<String> = inputs
        .iter()
        .filter(|input| !stems.insert(input.stem.clone()))
        .map(|input| input.stem.clone())
        .collect();
    for input in inputs.iter_mut() {
        if repeated.contains(&input.stem) && !input.is_stdin() {
            let parts: Vec<_> = input
                .path
                .components()
                .filter_map(|part| match part {
                    std::path::Component::Normal(part) => Some(text(Some(part))),
                    _ => None,
                })
                .collect();
            input.stem = parts.join("_");
        }
    }
    let mut stems = HashSet::new();
    match inputs.iter().find(|input| !stems.insert(&input.stem)) {
        None => Ok(()),
        Some(input) => Err(
            Failure::usage("two inputs would write the same output files")
                .at(&input.path)
                .hint("transcribe them one after another into different directories"),
        ),
    }
}

fn read_list(path: &Path, null: bool) -> Result<Vec<PathBuf>, Failure> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|error| unreadable(path, &error))?;
    let separator = if null { 0 } else { b'\n' };
    Ok(bytes
        .split(|&byte| byte == separator)
        .map(|line| match line {
            [rest @ .., b'\r'] if !null => rest,
            line => line,
        })
        .filter(|line| !line.is_empty())
        .map(path_of)
        .collect())
}

#[cfg(unix)]
fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    OsStr::from_bytes(bytes).into()
}

#[cfg(not(unix))]
fn path_of(bytes: &[u8]) -> PathBuf {
    String::from_utf8_lossy(bytes).into_owned().into()
}

/// The files of a directory in the order of their names. Hidden ones are left out, linked directories not followed.
fn search(folder: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?
        .filter_map(Result::ok)
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            if recursive {
                // A directory below that cannot be read does not spoil the rest.
                let _ = search(&path, recursive, files);
            }
        } else if path.is_file() && (has_audio_extension(&path) || starts_like_audio(&path)) {
            files.push(path);
        }
    }
    Ok(())
}

fn has_audio_extension(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        EXTENSIONS
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// Whether the first bytes are those of a container with sound.
fn starts_like_audio(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(12).read_to_end(&mut head));
    if read.is_err() || head.len() < 12 {
        return false;
    }
    let form = &head[8..12];
    match &head[..4] {
        b"RIFF" | b"RF64" => form == b"WAVE",
        b"FORM" => form == b"AIFF" || form == b"AIFC",
        b"fLaC" | b"OggS" | b"caff" | [0x1a, 0x45, 0xdf, 0xa3] => true,
        [b'I', b'D', b'3', _] => true,
        _ => &head[4..8] == b"ftyp",
    }
}

/// The files that a pattern names, or nothing if this is no pattern.
fn matches(path: &Path) -> Option<Vec<PathBuf>> {
    let pattern = path.to_str()?;
    if !pattern.contains(['*', '?', '[']) {
        return None;
    }
    // Not `require_literal_leading_dot`: with it, glob 0.3 panics in a directory that holds a name which is not UTF-8.
    let paths = glob::glob(pattern).ok()?;
    Some(
        paths
            .filter_map(Result::ok)
            .filter(|found| path_is_meant(path, found) && found.is_file())
            .collect(),
    )
}

/// Hidden files and directories are meant only by a part of the pattern that itself starts with a dot.
fn path_is_meant(pattern: &Path, found: &Path) -> bool {
    let is_hidden = |part: &OsStr| part.to_string_lossy().starts_with('.');
    let dotted: Vec<_> = pattern
        .components()
        .filter(|part| is_hidden(part.as_os_str()))
        .filter_map(|part| glob::Pattern::new(&part.as_os_str().to_string_lossy()).ok())
        .collect();
    found
        .components()
        .map(std::path::Component::as_os_str)
        .filter(|part| is_hidden(part))
        .all(|part| {
            dotted
                .iter()
                .any(|dotted| dotted.matches(&part.to_string_lossy()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(audio: &[PathBuf]) -> InputArgs {
        InputArgs {
            audio: audio.to_vec(),
            recursive: false,
            from_file: None,
            null: false,
            raw: None,
            channel: None,
            offset: None,
            duration: None,
        }
    }

    fn stems(inputs: &Inputs) -> Vec<&str> {
        inputs
            .found
            .iter()
            .map(|input| input.stem.as_str())
            .collect()
    }

    #[test]
    fn directories_globs_and_lists() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        for name in ["b.wav", "a ü.MP3", "notes.txt", ".hidden.wav", "sub/c.ogg"] {
            fs::write(at(name), "x").unwrap();
        }
        fs::write(at("no extension"), b"fLaC\0\0\0\x22........").unwrap();

        let mut given = args(&[folder.path().to_path_buf()]);
        assert_eq!(
            stems(&collect(&given).unwrap()),
            ["a ü", "b", "no extension"]
        );
        given.recursive = true;
        assert_eq!(
            stems(&collect(&given).unwrap()),
            ["a ü", "b", "no extension", "c"]
        );

        let inputs = collect(&args(&[
            at("*.wav"),
            at("b.wav"),
            at("*.xyz"),
            at("gone.wav"),
        ]))
        .unwrap();
        assert_eq!(stems(&inputs), ["b"]);
        assert_eq!(inputs.failures.len(), 2);

        fs::write(
            at("list"),
            format!(
                "{}\r\n\n{}\n",
                at("b.wav").display(),
                at("a ü.MP3").display()
            ),
        )
        .unwrap();
        let mut given = args(&[]);
        given.from_file = Some(at("list"));
        assert_eq!(stems(&collect(&given).unwrap()), ["b", "a ü"]);
        fs::write(at("list"), format!("{}\0", at("b.wav").display())).unwrap();
        given.null = true;
        assert_eq!(stems(&collect(&given).unwrap()), ["b"]);
    }

    #[test]
    #[cfg(unix)]
    fn patterns_pass_by_names_that_are_not_utf8_and_hidden_ones() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at(".git")).unwrap();
        for name in ["a.wav", ".b.wav", ".git/c.wav"] {
            fs::write(at(name), "x").unwrap();
        }
        // Some file systems refuse such names.
        let _ = fs::write(folder.path().join(OsStr::from_bytes(b"\xff.wav")), "x");

        // The temporary directory's own name starts with a dot.
        let found = |pattern: &str| {
            let inputs = collect(&args(&[at(pattern)])).unwrap();
            inputs
                .found
                .iter()
                .map(|input| input.stem.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(found("*.wav"), ["a"]);
        assert_eq!(found("*/*.wav"), Vec::<String>::new());
        assert_eq!(found(".g*/*.wav"), ["c"]);
        assert_eq!(found(".*.wav"), [".b"]);
    }

    #[test]
    fn outputs_of_different_inputs_have_different_names() {
        let mut inputs: Vec<_> = ["x/a.wav", "x/a.mp3", "x/b.wav", "y/b.wav", "-"]
            .iter()
            .map(|path| input(path.into()))
            .collect();
        name_outputs(&mut inputs).unwrap();
        let stems: Vec<_> = inputs.iter().map(|input| input.stem.as_str()).collect();
        assert_eq!(stems, ["a.wav", "a.mp3", "x_b.wav", "y_b.wav", "stdin"]);
    }

    #[test]
    fn standard_input_is_read_once() {
        let failure = collect(&args(&["-".into(), "-".into()])).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
    }
}
