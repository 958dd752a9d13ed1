//! The server among others: encrypted connections, recordings that are fetched, and traces that are sent.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use turaco::address::Hosts;
#[cfg(unix)]
use turaco_server::{Listener, Listeners, Server};
use turaco_server::{Tls, Traces};

use crate::support::{TestServer, request, testdata};

/// A certificate for `localhost` and its key, in files.
fn certificate(folder: &TempDir) -> (Tls, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (Tls::from_files(&certificate, &key).unwrap(), roots)
}

#[test]
#[cfg(unix)]
fn sockets_in_the_file_system_are_listened_to() {
    use std::os::unix::net::{UnixListener, UnixStream};

    let folder = TempDir::new().unwrap();
    let (http, wyoming) = (folder.path().join("http"), folder.path().join("wyoming"));
    // What an earlier server has left there is in nobody's way; what answers is, and what is no socket.
    drop(UnixListener::bind(&http).unwrap());
    std::fs::write(&wyoming, "mine").unwrap();
    let server = TestServer::start(|_| {});
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = {
        let _inside = runtime.enter();
        assert!(Listener::unix(&wyoming).is_err());
        std::fs::remove_file(&wyoming).unwrap();
        let listeners = Listeners {
            http: Listener::unix(&http).unwrap(),
            tls: None,
            wyoming: Some(Listener::unix(&wyoming).unwrap()),
            metrics: None,
        };
        assert!(Listener::unix(&http).is_err());
        let server = Server::new(server.app.clone(), Vec::new());
        runtime.spawn(server.run(listeners, async {
            let _ = stopped.await;
        }))
    };
    let mut stream = UnixStream::connect(&http).unwrap();
    stream
        .write_all(&request("GET", "/v1/models", &[], &[]))
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("tiny.en"),
        "{answer}"
    );
    let mut stream = UnixStream::connect(&wyoming).unwrap();
    stream.write_all(b"{\"type\":\"ping\"}\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"pong\""), "{answer}");
    drop(stop);
    runtime.block_on(running).unwrap();
    assert!(!http.exists() && !wyoming.exists());
}

#[test]
fn encrypted_connections_are_answered_and_others_are_not() {
    let folder = TempDir::new().unwrap();
    let (tls, roots) = certificate(&folder);
    let server = TestServer::start_with(Some(tls), |_| {});
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let ask = async {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.unwrap();
        let asked = request("GET", "/health", &[], &[]);
        stream.write_all(&asked).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answer = runtime.block_on(ask);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let mut plain = std::net::TcpStream::connect(server.address).unwrap();
    plain
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    plain
        .write_all(&request("GET", "/health", &[], &[]))
        .unwrap();
    let mut answer = Vec::new();
    // The connection may also be reset.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn files_that_are_no_certificate_are_named() {
    let folder = TempDir::new().unwrap();
    certificate(&folder);
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("empty.pem"), "").unwrap();
    for (certificate, key, named) in [
        ("missing.pem", "key.pem", "missing.pem"),
        ("empty.pem", "key.pem", "empty.pem"),
        ("cert.pem", "empty.pem", "empty.pem"),
        ("key.pem", "key.pem", "key.pem"),
    ] {
        let error = Tls::from_files(&path(certificate), &path(key)).unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
    let other = TempDir::new().unwrap();
    certificate(&other);
    let error = Tls::from_files(&path("cert.pem"), &other.path().join("key.pem")).unwrap_err();
    assert!(error.to_string().contains("cannot be used"), "{error}");
}

/// Answers every request with `body`, and passes on what it was sent.
fn web_server(body: Vec<u8>) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut text = Vec::new();
            let mut buffer = [0; 65536];
            let whole = loop {
                let n_read = stream.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..n_read]);
                let shown = String::from_utf8_lossy(&text).into_owned();
                let Some((head, sent)) = shown.split_once("\r\n\r\n") else {
                    continue;
                };
                let head = head.to_lowercase();
                let length = head.split("content-length: ").nth(1);
                let length = length.map_or(0, |rest| {
                    rest.lines().next().unwrap().parse::<usize>().unwrap()
                });
                if sent.len() >= length {
                    break sent.to_owned();
                }
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            // The test may have seen enough.
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
            let _ = sender.send(whole);
        }
    });
    (address, receiver)
}

#[test]
fn recordings_are_fetched_from_where_it_is_allowed() {
    let speech = std::fs::read(testdata("audio/jfk.wav")).unwrap();
    let (address, _sent) = web_server(speech.clone());
    let url = format!("{address}/jfk.wav");
    let path = "/v1/audio/transcriptions";
    let chat = |url: &str| {
        json!({"model": "voxtral-mini", "max_tokens": 2, "messages": [{"role": "user", "content": [
            {"type": "audio_url", "audio_url": {"url": url}}]}]})
    };

    let closed = TestServer::start(|_| {});
    let refused = closed.form(path, &[("url", url.as_str())], None);
    refused.fails(400, "unsupported_value");
    assert_eq!(refused.json()["error"]["param"], "url");
    let refused = closed.json("/v1/chat/completions", &chat(&url));
    refused.fails(400, "unsupported_value");

    let hosts = Hosts::Only(vec!["127.0.0.1".into()]);
    let open = TestServer::start(|config| config.fetch_from = Some(hosts));
    let heard = open.form(path, &[("url", url.as_str())], None);
    assert!(heard.text().contains("fellow Americans"), "{heard:?}");
    let both = open.form(path, &[("url", url.as_str())], Some(("a.wav", &speech)));
    both.fails(400, "invalid_value");
    let elsewhere = url.replace("127.0.0.1", "localhost");
    let refused = open.form(path, &[("url", elsewhere.as_str())], None);
    refused.fails(400, "invalid_value");
    assert!(refused.text().contains("may not be asked"), "{refused:?}");
    assert_eq!(open.json("/v1/chat/completions", &chat(&url)).status, 200);

    let small = TestServer::start(|config| {
        config.fetch_from = Some(Hosts::Any);
        config.max_upload = 1000;
    });
    assert_eq!(small.form(path, &[("url", url.as_str())], None).status, 400);
}

#[test]
fn requests_leave_traces() {
    let (collector, reports) = web_server(b"{}".to_vec());
    let traces = Traces::to(&collector, Vec::new(), "ear", |line| panic!("{line}")).unwrap();
    let server = TestServer::start(|config| config.traces = Some(traces));
    let speech = std::fs::read(testdata("audio/jfk.wav")).unwrap();
    let answer = server.form("/v1/audio/transcriptions", &[], Some(("jfk.wav", &speech)));
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-length: "), "{}", answer.head);
    let report = reports.recv_timeout(Duration::from_secs(60)).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let spans = report["resourceSpans"][0]["scopeSpans"][0]["spans"]
        .as_array()
        .unwrap();
    let names: Vec<&str> = spans
        .iter()
        .map(|span| span["name"].as_str().unwrap())
        .collect();
    assert_eq!(names[0], "POST /v1/audio/transcriptions");
    for stage in [
        "decode",
        "features",
        "encode",
        "prefill",
        "decode_steps",
        "send",
    ] {
        assert!(names.contains(&stage), "no {stage} in {names:?}");
    }
    let nanoseconds =
        |span: &Value, edge: &str| -> u64 { span[edge].as_str().unwrap().parse().unwrap() };
    for span in spans {
        assert!(
            nanoseconds(span, "startTimeUnixNano") >= nanoseconds(&spans[0], "startTimeUnixNano")
        );
        assert!(nanoseconds(span, "endTimeUnixNano") <= nanoseconds(&spans[0], "endTimeUnixNano"));
    }
}
