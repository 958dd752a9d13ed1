//! Servers that tests start, and a small client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use turaco::cache::ModelCache;
use turaco::engine::{Catalog, Engine, EngineOptions};
use turaco::tts::VoiceStore;
use turaco::{Control, LoadOptions};
use turaco_server::{App, Config, Listeners, Server, Tls};

/// A file of `testdata/`.
pub fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata")
        .join(name)
}

/// Real weights, from the cache or fetched as a user's first run would.
pub fn real_model(name: &'static str) -> PathBuf {
    static LOCK: Mutex<()> = Mutex::new(());
    let _one_download_at_a_time = LOCK.lock().unwrap();
    turaco::hub::ensure(name, false, &Control::new(), &|notice| {
        eprintln!("{notice}")
    })
    .unwrap_or_else(|error| panic!("the tests need the weights of {name}: {error}"))
}

/// A small model with random weights; all of them share a codec.
fn speaking_model(home: &TempDir, variant: &str) -> PathBuf {
    let folder = home.path().join(variant);
    for (from, to) in [
        (format!("qwen3-tts/{variant}"), folder.clone()),
        (
            "qwen3-tts/base/speech_tokenizer".to_owned(),
            folder.join("speech_tokenizer"),
        ),
    ] {
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(testdata(&from)).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
    folder
}

/// Tests that keep the whole machine busy come one after the other.
pub fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server with the models that the tests use, on ports of its own.
pub struct TestServer {
    pub address: SocketAddr,
    pub wyoming_address: SocketAddr,
    pub app: App,
    /// Models that speak, and saved voices.
    _voices: TempDir,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl TestServer {
    /// With the default options, `change`d.
    pub fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_with(None, change)
    }

    /// The same with encrypted connections.
    pub fn start_with(tls: Option<Tls>, change: impl FnOnce(&mut Config)) -> Self {
        let mut catalog = Catalog::new(ModelCache::new("/nonexistent"));
        catalog.add("tiny.en", real_model("tiny.en"));
        catalog.add("voxtral-realtime", testdata("voxtral-realtime/mistral"));
        catalog.add("voxtral-mini", testdata("voxtral-mini/mistral"));
        catalog.add("multilingual", testdata("whisper/tiny-random"));
        let voices = TempDir::new().unwrap();
        for variant in ["base", "voice_design"] {
            catalog.add(variant, speaking_model(&voices, variant));
        }
        let mut config = Config::default();
        config.grace = Duration::from_secs(5);
        config.tts_model = "voice_design".into();
        config.voices = Some(VoiceStore::new(voices.path().join("saved")));
        change(&mut config);
        let mut options = EngineOptions::default();
        options.load = LoadOptions::new().device("cpu");
        let app = App::new(Engine::new(catalog, options), config);
        let runtime = Runtime::new().unwrap();
        let http = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = http.local_addr().unwrap();
        let wyoming = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let wyoming_address = wyoming.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let listeners = Listeners {
            http: http.into(),
            tls,
            wyoming: Some(wyoming.into()),
            metrics: None,
        };
        let server = Server::new(app.clone(), Vec::new());
        let running = runtime.spawn(server.run(listeners, async {
            let _ = stopped.await;
        }));
        Self {
            address,
            wyoming_address,
            app,
            _voices: voices,
            runtime: Some(runtime),
            stop: Some(stop),
            running: Some(running),
        }
    }

    /// Send bytes, and read the answer until the connection ends.
    pub fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(300)))
            .unwrap();
        stream.write_all(request).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        Answer::new(&bytes)
    }

    /// A request without a body.
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.raw(request("GET", path, headers, &[]).as_slice())
    }

    /// A form.
    pub fn form(&self, path: &str, fields: &[(&str, &str)], file: Option<(&str, &[u8])>) -> Answer {
        self.raw(&form(path, fields, file))
    }

    /// A body of JSON.
    pub fn json(&self, path: &str, body: &Value) -> Answer {
        let kind = [("Content-Type", "application/json")];
        self.raw(&request("POST", path, &kind, body.to_string().as_bytes()))
    }

    /// End as a signal ends it, and wait for that.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let (Some(runtime), Some(running)) = (&self.runtime, self.running.take()) {
            runtime.block_on(running).unwrap();
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

/// The bytes of a request whose connection ends with its answer.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

/// The bytes of a request with a form.
pub fn form(path: &str, fields: &[(&str, &str)], file: Option<(&str, &[u8])>) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend(
            format!("--cut\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
                .into_bytes(),
        );
    }
    if let Some((name, bytes)) = file {
        body.extend(
            format!(
                "--cut\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n"
            )
            .into_bytes(),
        );
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--cut--\r\n");
    let kind = [("Content-Type", "multipart/form-data; boundary=cut")];
    request("POST", path, &kind, &body)
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    fn new(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8(bytes[..end].to_vec())
            .unwrap()
            .to_lowercase();
        let mut body = bytes[end + 4..].to_vec();
        if head.contains("transfer-encoding: chunked") {
            body = unchunked(&body);
        }
        Self {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head,
            body,
        }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// It is this failure.
    #[track_caller]
    pub fn fails(&self, status: u16, code: &str) {
        let error = &self.json()["error"];
        assert_eq!(
            (self.status, error["code"].as_str()),
            (status, Some(code)),
            "{self:?}"
        );
        for field in ["message", "type", "param"] {
            assert!(error.get(field).is_some(), "no {field} in {error}");
        }
    }

    /// The events of an event stream.
    pub fn events(&self) -> Vec<Value> {
        let lines = self.text().split("\n\n").filter(|event| !event.is_empty());
        lines
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let len = std::str::from_utf8(&bytes[..end]).unwrap();
        let len = usize::from_str_radix(len, 16).unwrap();
        if len == 0 {
            break;
        }
        body.extend_from_slice(&bytes[end + 2..end + 2 + len]);
        bytes = &bytes[end + 4 + len..];
    }
    body
}

/// Wait for something that another thread does.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed() < Duration::from_secs(300),
            "{what}: never"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Mono WAV of 16-bit samples.
pub fn wav(samples: &[f32], rate: u32) -> Vec<u8> {
    turaco::audio::wav(samples, rate, turaco::audio::WavFormat::S16)
}
