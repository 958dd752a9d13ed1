//! Who may come in, how much, and what happens when somebody leaves.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

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
    let preflight = server.raw(&request("OPTIONS", "/v1/audio/speech", &friend, b""));
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
    let mut server = TestServer::start(|_| {});
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
