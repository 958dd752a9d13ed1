//! A small HTTP server that speaks the part of the hub's protocol that downloads use.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha1::Digest as _;

/// The commit of every mock repository.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request as it came.
#[derive(Clone)]
pub struct Request {
    pub path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// A header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A response and how it goes wrong.
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    cut_after: Option<usize>,
    with_length: bool,
    slow: bool,
}

impl Answer {
    pub fn ok(body: Vec<u8>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body,
            cut_after: None,
            with_length: true,
            slow: false,
        }
    }

    pub fn status(status: u16) -> Self {
        let mut answer = Self::ok(b"no".to_vec());
        answer.status = status;
        answer
    }

    pub fn redirect(status: u16, location: &str) -> Self {
        Self::status(status).with("Location", location)
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Promise the whole body, send so many bytes, hang up.
    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.cut_after = Some(bytes);
        self
    }

    /// Let the end of the connection be the end of the body.
    pub fn without_length(mut self) -> Self {
        self.with_length = false;
        self
    }

    /// Send in pieces with pauses between them.
    pub fn slowly(mut self) -> Self {
        self.slow = true;
        self
    }

    fn send(self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", self.status);
        if self.with_length {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        let end = self
            .cut_after
            .unwrap_or(self.body.len())
            .min(self.body.len());
        for piece in self.body[..end].chunks(100_000) {
            stream.write_all(piece)?;
            if self.slow {
                std::thread::sleep(Duration::from_millis(30));
            }
        }
        Ok(())
    }
}

/// A repository with files.
pub struct Repository {
    id: String,
    files: Vec<(String, Vec<u8>, bool)>,
    lists_blobs: bool,
    ranges: bool,
}

impl Repository {
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            files: Vec::new(),
            lists_blobs: true,
            ranges: true,
        }
    }

    /// Add a file that git holds itself.
    pub fn small(mut self, name: &str, text: &str) -> Self {
        self.files
            .push((name.to_owned(), text.as_bytes().to_vec(), false));
        self
    }

    /// Add a file in large-file storage.
    pub fn large(mut self, name: &str, content: Vec<u8>) -> Self {
        self.files.push((name.to_owned(), content, true));
        self
    }

    /// Tell sizes and hashes only in the headers of a file.
    pub fn without_blob_listing(mut self) -> Self {
        self.lists_blobs = false;
        self
    }

    /// Always send whole files.
    pub fn without_ranges(mut self) -> Self {
        self.ranges = false;
        self
    }

    pub fn content(&self, name: &str) -> &[u8] {
        let found = self.files.iter().find(|(known, ..)| known == name);
        &found.expect("the test names a file it has added").1
    }

    pub fn is_large(&self, name: &str) -> bool {
        self.files
            .iter()
            .any(|(known, _, large)| known == name && *large)
    }

    /// Everything the hub answers for this repository.
    pub fn answer(&self, request: &Request) -> Answer {
        let path = request.path.split('?').next().unwrap_or_default();
        if path == format!("/api/models/{}/revision/main", self.id) {
            return Answer::ok(self.listing().into_bytes());
        }
        match path.strip_prefix(&format!("/{}/resolve/{COMMIT}/", self.id)) {
            Some(name) => self.resolve(request, name),
            None => Answer::status(404).with("X-Error-Code", "RepoNotFound"),
        }
    }

    /// A file with the hub's headers.
    pub fn resolve(&self, request: &Request, name: &str) -> Answer {
        if !self.files.iter().any(|(known, ..)| known == name) {
            return Answer::status(404).with("X-Error-Code", "EntryNotFound");
        }
        let content = self.content(name);
        let etag = if self.is_large(name) {
            sha256(content)
        } else {
            git(content)
        };
        let answer = self
            .part(request, content, &format!("\"{etag}\""))
            .with("X-Repo-Commit", COMMIT);
        if self.is_large(name) {
            answer
                .with("X-Linked-Etag", &format!("\"{etag}\""))
                .with("X-Linked-Size", &content.len().to_string())
        } else {
            answer
        }
    }

    /// A file as the storage behind the hub has it: `/NAME`, with an ETag of its own.
    pub fn stored(&self, request: &Request) -> Answer {
        let name = request
            .path
            .split('?')
            .next()
            .unwrap_or_default()
            .trim_start_matches('/');
        self.part(request, self.content(name), "\"storage-tag\"")
    }

    fn part(&self, request: &Request, content: &[u8], etag: &str) -> Answer {
        let from = request
            .header("range")
            .filter(|_| self.ranges)
            .filter(|_| {
                request
                    .header("if-range")
                    .is_none_or(|wanted| wanted == etag)
            })
            .and_then(|range| {
                range
                    .strip_prefix("bytes=")?
                    .strip_suffix('-')?
                    .parse::<usize>()
                    .ok()
            });
        let answer = match from {
            Some(from) if from >= content.len() => Answer::status(416),
            Some(from) => {
                let mut answer = Answer::ok(content[from..].to_vec());
                answer.status = 206;
                let last = content.len() - 1;
                answer.with(
                    "Content-Range",
                    &format!("bytes {from}-{last}/{}", content.len()),
                )
            }
            None => Answer::ok(content.to_vec()),
        };
        answer.with("ETag", etag)
    }

    fn listing(&self) -> String {
        let files: Vec<serde_json::Value> = self
            .files
            .iter()
            .map(|(name, content, large)| match (self.lists_blobs, large) {
                (false, _) => serde_json::json!({"rfilename": name}),
                (true, false) => {
                    serde_json::json!({"rfilename": name, "size": content.len(), "blobId": git(content)})
                }
                (true, true) => serde_json::json!({
                    "rfilename": name, "size": content.len(), "blobId": git(b"pointer"),
                    "lfs": {"sha256": sha256(content), "size": content.len(), "pointerSize": 134}
                }),
            })
            .collect();
        serde_json::json!({"id": self.id, "sha": COMMIT, "siblings": files}).to_string()
    }
}

/// A server on a port of its own, until it is dropped.
pub struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<Request>>>,
    stopped: Arc<AtomicBool>,
}

impl Server {
    /// Serve a repository the way the hub does.
    pub fn of(repository: &Arc<Repository>) -> Self {
        let repository = Arc::clone(repository);
        Self::start(move |request, _| repository.answer(request))
    }

    /// Answer by `handler`, which also gets how many requests for the same path came before.
    pub fn start(handler: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free local port");
        let server = Self {
            port: listener.local_addr().expect("a bound port").port(),
            connections: Arc::default(),
            requests: Arc::default(),
            stopped: Arc::default(),
        };
        let (connections, requests) = (
            Arc::clone(&server.connections),
            Arc::clone(&server.requests),
        );
        let stopped = Arc::clone(&server.stopped);
        let handler = Arc::new(handler);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                connections.fetch_add(1, Ordering::SeqCst);
                let (requests, handler) = (Arc::clone(&requests), Arc::clone(&handler));
                std::thread::spawn(move || {
                    let _ = converse(stream, &requests, &*handler);
                });
            }
        });
        server
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no handler panicked").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn converse(
    mut stream: TcpStream,
    requests: &Mutex<Vec<Request>>,
    handler: &dyn Fn(&Request, usize) -> Answer,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut request = Request {
        path: first.split(' ').nth(1).unwrap_or_default().to_owned(),
        headers: Vec::new(),
    };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        request
            .headers
            .push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let earlier = {
        let mut requests = requests.lock().expect("no handler panicked");
        let earlier = requests
            .iter()
            .filter(|known| known.path == request.path)
            .count();
        requests.push(request.clone());
        earlier
    };
    handler(&request, earlier).send(&mut stream)
}

/// Hexadecimal SHA-256.
pub fn sha256(content: &[u8]) -> String {
    hex(&sha2::Sha256::digest(content))
}

/// The hash that git gives a file.
pub fn git(content: &[u8]) -> String {
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", content.len()));
    hash.update(content);
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
