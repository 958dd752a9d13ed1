//! Many clients at once, and clients that break off, send nonsense or do not read.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::realtime::{Socket, speech};
use crate::support::{TestServer, alone, form, request, wait_until};

/// Megabytes that this process holds.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}

/// One stream of the speech through the streaming model; its text.
fn listen(server: &TestServer, sound: &[u8]) -> String {
    let mut socket = Socket::open(server, "?protocol=vllm");
    socket.hear();
    socket.say(json!({"type": "session.update", "model": "voxtral-realtime"}));
    socket.say(json!({"type": "input_audio_buffer.commit", "final": false}));
    for piece in sound.chunks(3_200) {
        socket.append(piece);
    }
    socket.say(json!({"type": "input_audio_buffer.commit", "final": true}));
    let done = socket.until("transcription.done").pop().unwrap();
    done["text"].as_str().unwrap().to_owned()
}

#[test]
fn many_streams_at_once_lose_nothing() {
    let _alone = alone();
    let server = TestServer::start(|_| {});
    let sound = &speech()[..4 * 32_000];
    let alone = listen(&server, sound);
    for count in [8, 64] {
        let started = Instant::now();
        let texts: Vec<String> = thread::scope(|scope| {
            let clients: Vec<_> = (0..count)
                .map(|_| scope.spawn(|| listen(&server, sound)))
                .collect();
            clients
                .into_iter()
                .map(|client| client.join().unwrap())
                .collect()
        });
        assert!(texts.iter().all(|text| *text == alone));
        eprintln!(
            "{count} streams of 4 s: {:.2} s",
            started.elapsed().as_secs_f64()
        );
    }
    wait_until("all streams end", || {
        server.app.engine().live_sessions() == 0 && server.app.open_sessions() == 0
    });
}

#[test]
fn sessions_that_are_dropped_leave_nothing_behind() {
    const ALONE: &str = "TURACO_TEST_ALONE";
    let _alone = alone();
    // Memory is counted by process, and other tests run beside this one in the same.
    if std::env::var_os(ALONE).is_none() {
        let name = "faults::sessions_that_are_dropped_leave_nothing_behind";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let server = TestServer::start(|_| {});
    let sound = speech();
    let stay_for = |events: usize, model: &str| {
        let mut socket = Socket::open(&server, &format!("?model={model}"));
        socket.hear();
        for piece in sound[..64_000].chunks(16_000) {
            socket.append(piece);
        }
        socket.say(json!({"type": "input_audio_buffer.commit"}));
        for _ in 0..events {
            socket.hear();
        }
        // Gone in the middle of everything.
    };
    let all_gone = || {
        wait_until("all are gone", || {
            let in_use: usize = server
                .app
                .engine()
                .loaded()
                .iter()
                .map(|model| model.in_use)
                .sum();
            server.app.open_sessions() == 0
                && server.app.engine().live_sessions() == 0
                && in_use == 0
        });
    };
    let models = ["tiny.en", "voxtral-realtime"];
    for model in models {
        // Whole ones, so that everything is loaded that will be.
        let mut socket = Socket::open(&server, &format!("?model={model}"));
        socket.append(&sound[..64_000]);
        socket.say(json!({"type": "input_audio_buffer.commit"}));
        socket.until("conversation.item.input_audio_transcription.completed");
        drop(socket);
        for events in 0..6 {
            stay_for(events, model);
        }
    }
    all_gone();
    let before = resident();
    for events in 0..50 {
        for model in models {
            stay_for(events % 4, model);
        }
    }
    all_gone();
    // Those who worked at the same time leave memory behind, which is given back when nobody took it for a while.
    wait_until("their memory is back", || resident() - before < 48.0);
}

#[test]
fn nonsense_on_every_port_breaks_nothing() {
    let _alone = alone();
    let server = TestServer::start(|_| {});
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = |len: usize| -> Vec<u8> {
        (0..len)
            .map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                noise as u8
            })
            .collect()
    };
    for address in [server.address, server.wyoming_address] {
        for len in [1, 100, 70_000] {
            let mut stream = TcpStream::connect(address).unwrap();
            // The server may have closed it by then.
            let _ = stream.write_all(&bytes(len));
        }
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .write_all(b"{\"type\":\"audio-chunk\",\"payload_length\":16000000}\n")
            .unwrap();
    }
    for _ in 0..20 {
        let mut socket = Socket::open(&server, "?model=voxtral-realtime");
        let text = String::from_utf8_lossy(&bytes(300)).into_owned();
        socket.0.send(Message::text(text)).unwrap();
        socket.0.send(Message::binary(bytes(3_333))).unwrap();
        socket.append(&bytes(60_001));
        // A broken frame: the rest of the connection is noise.
        let _ = socket.0.get_mut().write_all(&bytes(500));
    }
    for cut in [10, 200, 5_000] {
        let upload = form(
            "/v1/audio/transcriptions",
            &[("model", "tiny.en")],
            Some(("a.wav", &bytes(9_000))),
        );
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(&upload[..cut]).unwrap();
    }
    wait_until("all are gone", || server.app.open_sessions() == 0);
    assert_eq!(server.get("/health", &[]).status, 200);
    let errors = server.get("/metrics", &[]);
    assert!(
        !errors.text().contains("internal_error"),
        "{}",
        errors.text()
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_folder_for_voices_that_takes_none_breaks_nothing() {
    let folder = tempfile::TempDir::new().unwrap();
    let saved = folder.path().join("saved");
    // No files can be made there.
    std::os::unix::fs::symlink("/proc", &saved).unwrap();
    let server = TestServer::start(|config| {
        config.voices = Some(turaco::tts::VoiceStore::new(&saved));
        config.tts_model = "base".into();
    });
    let sound = std::fs::read(crate::support::testdata("audio/jfk.wav")).unwrap();
    let save = || {
        server.form(
            "/v1/audio/voices",
            &[("name", "anna"), ("text", "And so.")],
            Some(("a.wav", &sound)),
        )
    };
    let refused = save();
    assert_eq!(refused.status, 500, "{refused:?}");
    let message = refused.json()["error"]["message"].to_string();
    assert!(!message.contains(saved.to_str().unwrap()), "{message}");
    let listed = || server.get("/v1/audio/voices", &[]).json()["voices"].clone();
    assert_eq!(listed(), json!([]));
    std::fs::remove_file(&saved).unwrap();
    std::fs::create_dir(&saved).unwrap();
    let taken = save();
    assert!(taken.status < 300, "{taken:?}");
    assert_eq!(listed()[0]["id"], "anna");
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody() {
    let _alone = alone();
    let server = TestServer::start(|_| {});
    let body =
        json!({"input": "The boats came home. ".repeat(300), "response_format": "pcm"}).to_string();
    let kind = [("Content-Type", "application/json")];
    let slow = request("POST", "/v1/audio/speech", &kind, body.as_bytes());
    let mut lazy = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(&slow).unwrap();
        lazy.push(stream);
    }
    thread::sleep(Duration::from_millis(500));
    let quick = json!({"input": "Hello.", "max_new_tokens": 4});
    let started = Instant::now();
    assert_eq!(server.json("/v1/audio/speech", &quick).status, 200);
    assert!(started.elapsed() < Duration::from_secs(20));
    drop(lazy);
    wait_until("they are given up", || {
        server
            .app
            .engine()
            .loaded()
            .iter()
            .all(|model| model.in_use == 0)
    });
}
