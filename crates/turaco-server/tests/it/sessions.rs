//! Live sessions whose client changes its mind, is ahead, or waits while the server ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, HandshakeError, Message, client};
use turaco::voice::EndpointOptions;

use crate::realtime::{Socket, TRANSCRIPTION, speech, texts};
use crate::support::TestServer;

/// A client of Wyoming.
struct Wyoming(BufReader<TcpStream>);

impl Wyoming {
    fn open(server: &TestServer) -> Self {
        let stream = TcpStream::connect(server.wyoming_address).unwrap();
        let patience = Some(Duration::from_secs(300));
        stream.set_read_timeout(patience).unwrap();
        Self(BufReader::new(stream))
    }

    fn say(&mut self, kind: &str, data: Value, payload: &[u8]) {
        let mut head = json!({"type": kind, "data": data, "payload_length": payload.len()});
        if payload.is_empty() {
            head["payload_length"] = Value::Null;
        }
        let line = format!("{head}\n");
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
        self.0.get_mut().write_all(payload).unwrap();
    }

    fn utter(&mut self, sound: &[u8]) {
        let format = json!({"rate": 16000, "width": 2, "channels": 1});
        self.say("audio-start", format.clone(), &[]);
        for piece in sound.chunks(8_000) {
            self.say("audio-chunk", format.clone(), piece);
        }
        self.say("audio-stop", json!({}), &[]);
    }

    /// The data of the next message of this type.
    fn until(&mut self, kind: &str) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "no {kind}");
            let head: Value = serde_json::from_str(&line).unwrap();
            let length = |key: &str| head[key].as_u64().unwrap_or(0) as usize;
            let mut data = vec![0; length("data_length")];
            self.0.read_exact(&mut data).unwrap();
            let mut payload = vec![0; length("payload_length")];
            self.0.read_exact(&mut payload).unwrap();
            assert!(kind == "error" || head["type"] != "error", "{head}");
            if head["type"] == kind {
                return match data.is_empty() {
                    true => head["data"].clone(),
                    false => serde_json::from_slice(&data).unwrap(),
                };
            }
        }
    }
}

fn update(input: Value) -> Value {
    json!({"type": "session.update", "session": {"audio": {"input": input}}})
}

fn metric(server: &TestServer, name: &str) -> f64 {
    let answer = server.get("/metrics", &[]);
    let text = answer.text();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value
        .unwrap_or_else(|| panic!("no {name} in {text}"))
        .parse()
        .unwrap()
}

#[test]
fn who_waits_for_a_text_is_not_idle_and_the_next_one_comes_too() {
    let server = TestServer::start(|config| config.session_timeout = Duration::from_secs(1));
    for model in ["tiny.en", "voxtral-realtime"] {
        let mut socket = Socket::open(&server, "?protocol=vllm");
        socket.say(json!({"type": "session.update", "model": model}));
        for _ in 0..2 {
            socket.append(&speech());
            socket.say(json!({"type": "input_audio_buffer.commit", "final": true}));
        }
        socket.say(json!({"type": "input_audio_buffer.commit", "final": false}));
        socket.append(&speech()[..32_000]);
        socket.say(json!({"type": "input_audio_buffer.commit", "final": true}));
        let first = socket.until("transcription.done").pop().unwrap();
        let second = socket.until("transcription.done").pop().unwrap();
        assert_eq!(first["text"], second["text"]);
        assert_eq!(first["usage"]["prompt_tokens"], 138);
        let third = socket.until("transcription.done").pop().unwrap();
        assert_eq!(third["usage"]["prompt_tokens"], 13);
    }
    assert_eq!(metric(&server, "turaco_transcript_seconds_count"), 6.0);
    let live = metric(&server, "turaco_audio_seconds_total{task=\"live\"}");
    assert!((live - 23.0).abs() < 0.1, "{live}");
    metric(
        &server,
        "turaco_step_seconds_count{model=\"voxtral-realtime\",stage=\"live\"}",
    );
    metric(&server, "turaco_rtf_count{task=\"live\"");
}

#[test]
fn the_end_lets_live_work_finish() {
    let mut server = TestServer::start(|config| config.grace = Duration::from_secs(120));
    let mut socket = Socket::open(&server, "?model=tiny.en&intent=transcription");
    socket.hear();
    let idle = Socket::open(&server, "?model=tiny.en");
    socket.update(json!({"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": null}));
    socket.append(&speech());
    socket.say(json!({"type": "input_audio_buffer.commit"}));
    // What is open is written down too.
    socket.append(&speech()[..128_000]);
    let mut wyoming = Wyoming::open(&server);
    wyoming.utter(&speech());
    // When these are answered, all sound has come in.
    wyoming.say("ping", json!({}), &[]);
    wyoming.until("pong");
    socket.say(json!({"type": "nothing"}));
    let mut events = socket.until("error");
    let reading = std::thread::spawn(move || {
        while events
            .last()
            .is_none_or(|event: &Value| event.get("closed").is_none())
        {
            events.push(socket.hear());
        }
        (events, wyoming.until("transcript"))
    });
    server.stop();
    drop(idle);
    let (events, transcript) = reading.join().unwrap();
    let texts = texts(&events, "completed");
    assert_eq!(texts.len(), 2, "{events:?}");
    assert!(texts[0].contains("fellow Americans"), "{texts:?}");
    assert_eq!(events.last().unwrap()["closed"], "shutting_down");
    assert!(
        transcript["text"]
            .as_str()
            .unwrap()
            .contains("fellow Americans")
    );
}

#[test]
fn another_model_writes_what_comes_after_the_change() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "?model=voxtral-realtime&intent=transcription");
    socket.hear();
    socket.update(json!({"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": null}));
    socket.append(&speech()[..64_000]);
    socket.say(update(json!({"transcription": {"model": "tiny.en"}})));
    for sound in [&speech()[64_000..96_000], &speech()] {
        socket.append(sound);
        socket.say(json!({"type": "input_audio_buffer.commit"}));
    }
    let mut events = socket.until(&format!("{TRANSCRIPTION}completed"));
    events.extend(socket.until(&format!("{TRANSCRIPTION}completed")));
    let texts = texts(&events, "completed");
    assert!(!texts[0].contains("fellow"), "{texts:?}");
    assert!(texts[1].contains("fellow Americans"), "{texts:?}");
}

#[test]
fn an_utterance_ends_with_its_detector() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "?model=tiny.en&intent=transcription");
    socket.hear();
    socket.update(json!({"format": {"type": "audio/pcm", "rate": 16000}}));
    socket.append(&speech()[..48_000]);
    socket.say(update(
        json!({"turn_detection": {"type": "server_vad", "silence_duration_ms": 700}}),
    ));
    socket.append(&speech()[48_000..]);
    socket.append(&[0; 64_000]);
    socket.say(json!({"type": "input_audio_buffer.clear"}));
    let mut events = socket.until("input_audio_buffer.cleared");
    let ids = |events: &[Value], kind: &str| -> Vec<String> {
        let of = events.iter().filter(|event| event["type"] == kind);
        of.map(|event| event["item_id"].as_str().unwrap().to_owned())
            .collect()
    };
    let started = ids(&events, "input_audio_buffer.speech_started");
    assert!(started.len() > 1, "{events:?}");
    assert_eq!(ids(&events, "input_audio_buffer.committed"), started);
    let completed = format!("{TRANSCRIPTION}completed");
    while ids(&events, &completed).len() < started.len() {
        events.extend(socket.until(&completed));
    }
    assert_eq!(ids(&events, &completed), started);
}

#[test]
fn settings_that_cannot_be_are_refused_and_change_nothing() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "?model=tiny.en&intent=transcription");
    let refused = |socket: &mut Socket, transcription: Value, param: &str| {
        socket.say(update(json!({"transcription": transcription})));
        let error = socket.until("error").pop().unwrap();
        let place = format!("session.audio.input.transcription.{param}");
        assert_eq!(error["error"]["param"], place, "{error}");
    };
    // Sound in front of the first update is kept until one is well.
    socket.append(&[1; 24_000]);
    for (transcription, param) in [
        (json!({"model": "nobody"}), "model"),
        (json!({"model": "voice_design"}), "model"),
        (json!({"delay_ms": 70}), "delay_ms"),
        (json!({"delay_ms": 0}), "delay_ms"),
        (json!({"language": "klingon"}), "language"),
    ] {
        refused(&mut socket, transcription, param);
    }
    let updated = socket.update(json!({"transcription": null, "turn_detection": null}));
    let session = &updated["session"];
    assert_eq!(
        session["audio"]["input"]["transcription"]["model"],
        "tiny.en"
    );
    assert_eq!(
        session["warnings"],
        json!(["transcription: null has no effect"])
    );
    socket.append(&[1; 24_000]);
    socket.say(json!({"type": "input_audio_buffer.commit"}));
    let done = socket.until(&format!("{TRANSCRIPTION}completed")).pop();
    assert_eq!(done.unwrap()["usage"]["seconds"], 1);
    let updated = socket.update(json!({"transcription": {"model": "voxtral-realtime",
        "language": "en", "prompt": "Names.", "delay_ms": 480}}));
    assert_eq!(
        updated["session"]["warnings"],
        json!([
            "transcription: null has no effect",
            "language has no effect on voxtral-realtime",
            "prompt has no effect on voxtral-realtime",
        ])
    );
    for (query, status) in [
        ("model=voice_design", 400),
        ("language=klingon", 400),
        ("model=nobody", 404),
    ] {
        let address = format!("ws://{}/v1/realtime?{query}", server.address);
        let stream = TcpStream::connect(server.address).unwrap();
        let refused = client(address.into_client_request().unwrap(), stream);
        let Err(HandshakeError::Failure(Error::Http(answer))) = refused else {
            panic!("{query} is taken");
        };
        assert_eq!(answer.status(), status, "{query}");
    }
}

#[test]
fn silence_is_nothing_to_commit() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "?model=tiny.en&intent=transcription");
    socket.update(json!({"format": {"type": "audio/pcm", "rate": 16000}}));
    let empty = |socket: &mut Socket| {
        socket.say(json!({"type": "input_audio_buffer.commit"}));
        let error = socket.until("error").pop().unwrap();
        assert_eq!(error["error"]["code"], "input_audio_buffer_commit_empty");
    };
    socket.append(&[0; 32_000]);
    empty(&mut socket);
    // What the detector has committed is not there to commit again, and its text comes all the same.
    socket.append(&speech()[..64_000]);
    socket.append(&[0; 64_000]);
    socket.until("input_audio_buffer.committed");
    empty(&mut socket);
    socket.until(&format!("{TRANSCRIPTION}completed"));
    socket.append(&[0; 32_000]);
    empty(&mut socket);
}

#[test]
fn an_endpoint_talks_under_any_name() {
    let server = TestServer::start(|config| {
        config.llm = Some(EndpointOptions::new("http://127.0.0.1:1/v1", "tiny"));
    });
    for (query, kind) in [
        ("?model=gpt-realtime", "realtime"),
        ("?model=tiny", "realtime"),
        ("?model=tiny.en", "transcription"),
        ("?model=voxtral-mini&intent=transcription", "transcription"),
    ] {
        let created = Socket::open(&server, query).hear();
        assert_eq!(created["session"]["type"], kind, "{query}");
    }
}

#[test]
fn pings_are_answered_while_the_session_works() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "?model=tiny.en&intent=transcription");
    socket.update(json!({"format": {"type": "audio/pcm", "rate": 16000}}));
    let sound = speech().repeat(18);
    socket.0.send(Message::binary(sound)).unwrap();
    socket.0.send(Message::Ping(vec![7].into())).unwrap();
    loop {
        match socket.0.read().unwrap() {
            Message::Pong(bytes) if bytes.as_ref() == [7] => break,
            Message::Text(text) => panic!("first {text}"),
            _ => {}
        }
    }
}

#[test]
fn a_message_that_is_too_large_is_told() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "?model=tiny.en");
    socket.hear();
    let mut head = vec![0x82, 0xff];
    head.extend((20_u64 << 20).to_be_bytes());
    head.extend([1, 2, 3, 4]);
    socket.0.get_mut().write_all(&head).unwrap();
    let error = socket.until("error").pop().unwrap();
    assert_eq!(error["error"]["code"], "message_too_large");
    let Message::Close(Some(frame)) = socket.0.read().unwrap() else {
        panic!("no farewell");
    };
    assert_eq!(u16::from(frame.code), 1009);
}

#[test]
fn every_utterance_over_wyoming_gets_its_transcript() {
    let server = TestServer::start(|_| {});
    let mut wyoming = Wyoming::open(&server);
    let mut languages = || {
        wyoming.say("describe", json!({}), &[]);
        let info = wyoming.until("info");
        let models = info["asr"][0]["models"].as_array().unwrap().iter();
        let count = |model: &Value| model["languages"].as_array().unwrap().len();
        let counts = models.map(|model| (model["name"].as_str().unwrap().to_owned(), count(model)));
        counts.collect::<Vec<_>>()
    };
    // The default one, and what is loaded.
    assert_eq!(languages(), [("tiny.en".to_owned(), 1)]);
    let control = turaco::Control::new();
    for (name, count) in [
        ("voxtral-realtime", 13),
        ("voxtral-mini", 9),
        ("multilingual", 100),
    ] {
        let _loaded = server.app.engine().load(name, &control).unwrap();
        let offered = languages();
        assert_eq!(offered[0].0, "tiny.en");
        assert!(offered.contains(&(name.to_owned(), count)), "{offered:?}");
    }
    wyoming.utter(&speech());
    wyoming.utter(&speech()[..64_000]);
    let mut heard = || {
        wyoming.until("transcript")["text"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (first, second) = (heard(), heard());
    assert!(
        first.contains("fellow Americans") && first.len() > second.len(),
        "{second}"
    );
}

#[test]
fn who_asks_over_wyoming_for_what_cannot_be_done_hears_the_end_of_it() {
    let server = TestServer::start(|_| {});
    let mut wyoming = Wyoming::open(&server);
    for transcribe in [
        json!({"name": "multilingual", "language": "xx"}),
        json!({"name": "nothing"}),
    ] {
        wyoming.say("transcribe", transcribe, &[]);
        wyoming.utter(&speech()[..64_000]);
        wyoming.until("error");
        assert_eq!(wyoming.until("transcript")["text"], "");
    }
    // Another one is heard then.
    wyoming.say("transcribe", json!({}), &[]);
    wyoming.utter(&speech());
    let text = wyoming.until("transcript")["text"].to_string();
    assert!(text.contains("fellow Americans"), "{text}");

    wyoming.say(
        "synthesize",
        json!({"text": "a", "voice": {"name": "nobody"}}),
        &[],
    );
    wyoming.until("error");
    wyoming.until("audio-stop");
    wyoming.say(
        "synthesize-start",
        json!({"voice": {"name": "nobody"}}),
        &[],
    );
    wyoming.say("synthesize-chunk", json!({"text": "a"}), &[]);
    wyoming.say("synthesize-stop", json!({}), &[]);
    wyoming.until("error");
    wyoming.until("synthesize-stopped");
}

#[test]
fn who_listens_over_wyoming_is_not_idle() {
    let server = TestServer::start(|config| {
        config.session_timeout = Duration::from_millis(100);
        config.grace = Duration::from_millis(100);
    });
    let mut wyoming = Wyoming::open(&server);
    let text = "It goes on and on, and nobody knows when it will end. ".repeat(40);
    wyoming.say("synthesize", json!({"text": text}), &[]);
    // Nothing more is asked for.
    wyoming.0.get_ref().shutdown(Shutdown::Write).unwrap();
    wyoming.until("audio-stop");
}
