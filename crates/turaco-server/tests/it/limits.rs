//! Who may come in, how much, and what happens when somebody leaves.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;
use turaco::Control;

use crate::support::{TestServer, form, request, testdata, wait_until, wav};

#[test]
fn a_key_is_needed_where_there_are_keys() {
    let server = TestServer::start(|config| config.api_keys = vec!["secret".into()]);
    for path in ["/health", "/health/live", "/ready", "/metrics"] {
        assert_eq!(server.get(path, &[]).status, 200, "{path}");
    }
    let wrong = server.get("/v1/models", &[("Authorization", "Bearer wrong")]);
    wrong.fails(401, "invalid_api_key");
    assert_eq!(wrong.json()["error"]["type"], "authentication_error");
    server.get("/v1/models", &[]).fails(401, "invalid_api_key");
    let right = server.get("/v1/models", &[("Authorization", "Bearer secret")]);
    assert_eq!(right.status, 200);
}

#[test]
fn requests_have_ids_and_pages_their_origins() {
    let server = TestServer::start(|config| config.cors = vec!["https://app.example".into()]);
    let answer = server.get("/health", &[("X-Request-Id", "mine-7")]);
    assert!(answer.head.contains("x-request-id: mine-7"));
    assert!(
        server
            .get("/health", &[])
            .head
            .contains("x-request-id: req_")
    );
    let friend = [("Origin", "https://app.example")];
    let shared = "access-control-allow-origin: https://app.example";
    assert!(server.get("/v1/models", &friend).head.contains(shared));
    let wished = "x-stainless-os, authorization, content-type";
    let asks = [friend[0], ("Access-Control-Request-Headers", wished)];
    let preflight = server.raw(&request("OPTIONS", "/v1/audio/speech", &asks, b""));
    let allowed = format!("access-control-allow-headers: {wished}");
    assert!(preflight.head.contains(&allowed), "{}", preflight.head);
    assert_eq!(preflight.status, 204);
    assert!(preflight.head.contains(shared));
    let stranger = [("Origin", "https://evil.example")];
    assert!(
        !server
            .get("/v1/models", &stranger)
            .head
            .contains("access-control")
    );
    server
        .raw(&request(
            "POST",
            "/v1/audio/transcriptions",
            &stranger,
            b"x",
        ))
        .fails(403, "origin_not_allowed");
}

#[test]
fn a_name_that_anybody_can_give_out_is_not_the_servers_own() {
    let server = TestServer::start(|_| {});
    let post = |host: &str| {
        let request = format!(
            "POST /v1/audio/speech HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nConnection: close\r\n\
             Content-Type: text/plain\r\nContent-Length: 1\r\n\r\nx"
        );
        server.raw(request.as_bytes())
    };
    post("rebound.example:8000").fails(403, "origin_not_allowed");
    for host in ["localhost:8000", "127.0.0.1:8000"] {
        post(host).fails(415, "unsupported_media_type");
    }
}

#[test]
fn what_could_not_be_loaded_first_is_told_to_those_who_ask_whether_the_server_is_ready() {
    let server = TestServer::start(|_| {});
    assert_eq!(server.get("/ready", &[]).status, 200);
    server.app.not_loaded("x was not loaded".into());
    for path in ["/ready", "/health"] {
        let answer = server.get(path, &[]);
        assert_eq!(
            (answer.status, answer.json()["status"].as_str()),
            (503, Some("failed"))
        );
        assert_eq!(answer.json()["message"], "x was not loaded");
    }
    assert_eq!(server.get("/health/live", &[]).status, 200);
}

#[test]
fn a_request_takes_no_longer_than_it_may_whatever_it_waits_for() {
    let limit = Duration::from_millis(700);
    let server = TestServer::start(|config| config.request_timeout = Some(limit));
    // For the end of the upload.
    let sound = wav(&[0.0; 16_000], 16_000);
    let upload = form("/v1/audio/speech/timestamps", &[], Some(("a.wav", &sound)));
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(&upload[..upload.len() / 2]).unwrap();
    let mut answer = String::new();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    // The connection may be reset behind the answer.
    let _ = std::io::Read::read_to_string(&mut stream, &mut answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    // For what is said meanwhile.
    let text = "The boats came home before the storm. ".repeat(100);
    let body = json!({"input": text, "stream_format": "sse", "response_format": "pcm"});
    let answer = server.json("/v1/audio/speech", &body);
    match answer.status {
        408 => answer.fails(408, "request_timeout"),
        _ => {
            let last = answer.events().pop().unwrap();
            assert_eq!(last["error"]["code"], "request_timeout", "{last}");
        }
    }
    let in_use = || {
        let loaded = server.app.engine().loaded();
        loaded.iter().map(|model| model.in_use).sum::<usize>()
    };
    wait_until("the work was given up", || in_use() == 0);
}

#[test]
fn who_waits_too_long_for_a_model_is_told_to_come_again_and_finds_it_then() {
    let server =
        TestServer::start(|config| config.request_timeout = Some(Duration::from_millis(15)));
    let mut is_told = false;
    wait_until("the model is there", || {
        let answer = server.raw(&request("POST", "/api/ps/tiny.en", &[], &[]));
        match answer.status {
            503 => {
                answer.fails(503, "model_loading");
                assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
                is_told = true;
            }
            408 => answer.fails(408, "request_timeout"),
            status => assert_eq!(status, 201),
        }
        answer.status == 201
    });
    assert!(is_told);
}

#[test]
fn who_no_longer_waits_for_a_model_holds_nothing_and_the_model_comes_all_the_same() {
    let server = TestServer::start(|_| ());
    let engine = server.app.engine();
    let control = Control::new();
    control.cancel();
    // It may be there before anybody looks whether it is still wanted.
    drop(engine.load("tiny.en", &control));
    assert!(!engine.is_loading_for(&control));
    wait_until("the model is there", || !engine.loaded().is_empty());
    assert!(engine.load("tiny.en", &Control::new()).is_ok());
}

#[test]
fn recordings_have_only_so_much_memory() {
    let server = TestServer::start(|config| config.max_sound = Some(5 << 20));
    let path = "/v1/audio/speech/timestamps";
    let long = wav(&[0.0; 1_600_000], 16_000);
    let short = wav(&[0.0; 16_000], 16_000);
    for _ in 0..2 {
        let answer = server.form(path, &[], Some(("a.wav", &long)));
        answer.fails(413, "file_too_large");
        let answer = server.form(path, &[], Some(("a.wav", &short)));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[test]
fn what_is_sent_in_json_has_only_so_much_memory() {
    let server = TestServer::start(|config| config.max_sound = Some(5 << 20));
    for path in ["/v1/audio/speech", "/v1/chat/completions"] {
        let body = json!({"input": "Hello.", "max_new_tokens": 2, "ref_audio": "A".repeat(3 << 20),
            "messages": [{"role": "user", "content": "B".repeat(1 << 10)}]});
        for _ in 0..2 {
            let answer = server.json(path, &body);
            answer.fails(413, "file_too_large");
            assert_eq!(answer.json()["error"]["param"], json!(null));
        }
    }
    // It is given back, and what is small takes nothing.
    let hello = json!({"input": "Hello.", "max_new_tokens": 2});
    assert_eq!(server.json("/v1/audio/speech", &hello).status, 200);
}

#[test]
fn large_and_broken_uploads_are_refused() {
    let server = TestServer::start(|config| config.max_upload = 100_000);
    let path = "/v1/audio/transcriptions";
    let large = wav(&vec![0.0; 200_000], 16_000);
    server
        .form(path, &[], Some(("a.wav", &large)))
        .fails(413, "file_too_large");
    // Cut off in the middle, with the rest of the connection gone.
    let small = form(path, &[], Some(("a.wav", &large[..90_000])));
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(&small[..40_000]).unwrap();
    drop(stream);
    let body = b"--cut\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc";
    let kind = [("Content-Type", "multipart/form-data; boundary=cut")];
    server
        .raw(&request("POST", path, &kind, body))
        .fails(400, "invalid_value");
    assert_eq!(server.get("/health", &[]).status, 200);
}

#[test]
fn whoever_sends_much_hears_why_it_is_refused() {
    let server = TestServer::start(|config| {
        config.max_upload = 1 << 20;
        config.api_keys = vec!["secret".into()];
    });
    let large = wav(&vec![0.0; 8 << 20], 16_000);
    let path = "/v1/audio/transcriptions";
    let request = form(path, &[], Some(("a.wav", &large)));
    server.raw(&request).fails(401, "invalid_api_key");
    let text = String::from_utf8_lossy(&request[..80]).into_owned();
    let end = text.find("\r\n").unwrap() + 2;
    let key = b"Authorization: Bearer secret\r\n";
    let request = [&request[..end], key, &request[end..]].concat();
    server.raw(&request).fails(413, "file_too_large");
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let server = TestServer::start(|_| {});
    let speech = turaco::Audio::open(testdata("audio/jfk.wav")).unwrap();
    let long = wav(&speech.samples().repeat(30), speech.sample_rate());
    let request = form("/v1/audio/transcriptions", &[], Some(("a.wav", &long)));
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(&request).unwrap();
    let in_use = || {
        let loaded = server.app.engine().loaded();
        loaded.iter().map(|model| model.in_use).sum::<usize>()
    };
    wait_until("the work began", || in_use() == 1);
    drop(stream);
    wait_until("the work was given up", || in_use() == 0);
    let metrics = server.get("/metrics", &[]);
    assert!(
        metrics.text().contains("turaco_cancelled_total 1"),
        "{}",
        metrics.text()
    );
}

#[test]
fn a_short_recording_is_not_stuck_behind_a_long_one() {
    let server = TestServer::start(|_| {});
    let speech = turaco::Audio::open(testdata("audio/jfk.wav")).unwrap();
    let path = "/v1/audio/transcriptions";
    let short = form(
        path,
        &[],
        Some(("a.wav", &wav(&speech.samples()[..48_000], 16_000))),
    );
    server.raw(&short);
    let long = form(
        path,
        &[],
        Some(("a.wav", &wav(&speech.samples().repeat(55), 16_000))),
    );
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(&long).unwrap();
    wait_until("the long one began", || {
        server.app.engine().loaded()[0].in_use == 1
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.raw(&short).status, 200);
    assert_eq!(
        server.app.engine().loaded()[0].in_use,
        1,
        "the long one was done first"
    );
    drop(stream);
}

#[test]
fn the_end_lets_work_finish() {
    let mut server = TestServer::start(|config| config.grace = Duration::from_secs(120));
    let speech = std::fs::read(testdata("audio/jfk.wav")).unwrap();
    let request = form("/v1/audio/transcriptions", &[], Some(("a.wav", &speech)));
    let address = server.address;
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&request).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        answer
    });
    wait_until("the work began", || {
        let loaded = server.app.engine().loaded();
        loaded.iter().any(|model| model.in_use == 1)
    });
    server.stop();
    let answer = client.join().unwrap();
    assert!(
        answer.contains("200 OK") && answer.contains("fellow Americans"),
        "{answer}"
    );
    assert!(TcpStream::connect(address).is_err());
}
