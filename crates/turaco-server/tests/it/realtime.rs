//! `/v1/realtime` in both dialects.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};
use turaco::voice::Detection;

use crate::support::{TestServer, testdata, wait_until};

pub const TRANSCRIPTION: &str = "conversation.item.input_audio_transcription.";

/// A client of the test server.
pub struct Socket(pub WebSocket<TcpStream>);

impl Socket {
    pub fn open(server: &TestServer, query: &str) -> Self {
        let stream = TcpStream::connect(server.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(300)))
            .unwrap();
        let address = format!("ws://{}/v1/realtime{query}", server.address);
        let request = address.into_client_request().unwrap();
        Self(client(request, stream).unwrap().0)
    }

    pub fn say(&mut self, event: Value) {
        self.0.send(Message::text(event.to_string())).unwrap();
    }

    pub fn append(&mut self, bytes: &[u8]) {
        let audio = STANDARD.encode(bytes);
        self.say(json!({"type": "input_audio_buffer.append", "audio": audio}));
    }

    /// The next event.
    pub fn hear(&mut self) -> Value {
        loop {
            let message = match self.0.read() {
                // Whoever stops this program for a while interrupts it.
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => continue,
                message => message.unwrap(),
            };
            match message {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Close(frame) => {
                    return json!({"closed": frame.map(|f| f.reason.to_string())});
                }
                _ => {}
            }
        }
    }

    /// Events up to the first of this type.
    #[track_caller]
    pub fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event = self.hear();
            assert!(event["type"] != "error" || kind == "error", "{event}");
            assert!(event.get("closed").is_none(), "{event}");
            let found = event["type"] == kind;
            events.push(event);
            if found {
                return events;
            }
        }
    }

    pub fn update(&mut self, input: Value) -> Value {
        let session = json!({"type": "transcription", "audio": {"input": input}});
        self.say(json!({"type": "session.update", "session": session}));
        self.until("session.updated").pop().unwrap()
    }
}

/// The speech as 16-bit samples at 16 kHz.
pub fn speech() -> Vec<u8> {
    let audio = turaco::Audio::open(testdata("audio/jfk.wav")).unwrap();
    let bytes = audio
        .samples()
        .iter()
        .flat_map(|x| ((x * 32_768.0) as i16).to_le_bytes());
    bytes.collect()
}

pub fn texts(events: &[Value], of: &str) -> Vec<String> {
    let kind = format!("{TRANSCRIPTION}{of}");
    let field = if of == "delta" { "delta" } else { "transcript" };
    events
        .iter()
        .filter(|event| event["type"] == kind)
        .map(|event| event[field].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_client_says_what_an_utterance_is() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "?model=tiny.en&intent=transcription");
    let created = socket.hear();
    assert_eq!(created["type"], "session.created");
    assert!(created["id"].is_string() && created["created"].is_u64());
    let updated = socket.update(json!({
        "format": {"type": "audio/pcm", "rate": 16000},
        "turn_detection": null,
        "transcription": {"timestamps": true},
        "noise_reduction": {"type": "near_field"},
    }));
    assert_eq!(
        updated["session"]["audio"]["input"]["transcription"]["model"],
        "tiny.en"
    );
    assert_eq!(
        updated["session"]["warnings"][0],
        "noise_reduction has no effect"
    );
    for piece in speech().chunks(7_777) {
        socket.append(piece);
    }
    socket.say(json!({"type": "input_audio_buffer.commit"}));
    let events = socket.until(&format!("{TRANSCRIPTION}completed"));
    let completed = texts(&events, "completed").remove(0);
    assert!(
        completed.to_lowercase().contains("fellow americans"),
        "{completed}"
    );
    assert_eq!(texts(&events, "delta").concat().trim(), completed);
    assert_eq!(events.last().unwrap()["usage"]["seconds"], 11);
    let kinds: Vec<_> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds[0], "input_audio_buffer.committed");
    assert!(kinds.contains(&"conversation.item.added"));
    assert!(kinds.contains(&"conversation.item.input_audio_transcription.segment"));
    let item = &events[0]["item_id"];
    socket.say(json!({"type": "conversation.item.retrieve", "item_id": item}));
    let item = socket.until("conversation.item.retrieved").pop().unwrap();
    assert_eq!(item["item"]["content"][0]["transcript"], completed.as_str());
}

#[test]
fn the_server_hears_where_speech_is() {
    let server = TestServer::start(|_| {});
    for model in ["tiny.en", "voxtral-realtime"] {
        let mut socket = Socket::open(&server, &format!("?model={model}"));
        socket.hear();
        socket.update(json!({
            "format": {"type": "audio/pcm", "rate": 16000},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 200},
            "transcription": {"timestamps": true},
        }));
        let sound = [speech(), vec![0; 32_000]].concat();
        // Also without base64.
        for (index, piece) in sound.chunks(6_400).enumerate() {
            match index % 2 {
                0 => socket.append(piece),
                _ => socket.0.send(Message::binary(piece.to_vec())).unwrap(),
            }
        }
        socket.say(json!({"type": "input_audio_buffer.clear"}));
        let mut events = socket.until("input_audio_buffer.cleared");
        let count = |events: &[Value], kind: &str| {
            events.iter().filter(|event| event["type"] == kind).count()
        };
        let started = count(&events, "input_audio_buffer.speech_started");
        assert!(started > 1, "{model}: {started}");
        assert_eq!(count(&events, "input_audio_buffer.speech_stopped"), started);
        while texts(&events, "completed").len() < started {
            events.extend(socket.until(&format!("{TRANSCRIPTION}completed")));
        }
        assert_eq!(
            texts(&events, "delta").concat().replace(' ', ""),
            texts(&events, "completed").concat().replace(' ', ""),
        );
        let starts: Vec<_> = events
            .iter()
            .filter_map(|event| event["audio_start_ms"].as_u64())
            .collect();
        assert!(starts.is_sorted() && starts[0] < 1_000 && *starts.last().unwrap() < 11_000);
        let segments = events.iter().filter(|event| event["start"].is_f64());
        for segment in segments {
            // Of what was sent: the silence that brings out the end of a text is none of it.
            assert!(segment["end"].as_f64().unwrap() <= 12.0, "{segment}");
            assert!(segment["start"].as_f64() <= segment["end"].as_f64());
        }
    }
    wait_until("all streams end", || {
        server.app.engine().live_sessions() == 0
    });
}

#[test]
fn telephone_sound_and_the_older_form_are_taken() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "");
    socket.hear();
    let session = json!({"input_audio_format": "g711_ulaw", "turn_detection": null,
        "input_audio_transcription": {"model": "whisper-1"}});
    socket.say(json!({"type": "transcription_session.update", "session": session}));
    let updated = socket.until("session.updated").pop().unwrap();
    assert_eq!(
        updated["session"]["audio"]["input"]["format"]["type"],
        "audio/pcmu"
    );
    socket.append(&[0xff; 8_000]);
    socket.say(json!({"type": "input_audio_buffer.commit"}));
    let done = socket
        .until(&format!("{TRANSCRIPTION}completed"))
        .pop()
        .unwrap();
    assert_eq!(done["usage"]["seconds"], 1);
}

#[test]
fn vllm_s_dialect_is_spoken() {
    let server = TestServer::start(|_| {});
    for model in ["tiny.en", "voxtral-realtime"] {
        let mut socket = Socket::open(&server, "");
        assert!(socket.hear()["id"].is_string());
        socket.append(&speech()[..20_000]);
        socket.say(json!({"type": "session.update", "model": model, "timestamp_granularities": ["segment"]}));
        socket.say(json!({"type": "input_audio_buffer.commit", "final": false}));
        for piece in speech()[20_000..].chunks(4_095) {
            socket.append(piece);
        }
        socket.say(json!({"type": "input_audio_buffer.commit", "final": true}));
        let events = socket.until("transcription.done");
        let deltas: String = events
            .iter()
            .filter_map(|event| event["delta"].as_str())
            .collect();
        let done = events.last().unwrap();
        assert_eq!(done["text"].as_str().unwrap(), deltas.trim());
        assert!(
            done["segments"].is_array() && done["usage"]["prompt_tokens"].as_u64().unwrap() >= 137
        );
        if model == "tiny.en" {
            assert!(
                deltas.to_lowercase().contains("fellow americans"),
                "{deltas}"
            );
        }
        // Another one on the same connection.
        socket.say(json!({"type": "input_audio_buffer.commit", "final": false}));
        socket.say(json!({"type": "input_audio_buffer.commit", "final": true}));
        socket.until("transcription.done");
        socket.0.send(Message::text("{")).unwrap();
        assert_eq!(socket.until("error").pop().unwrap()["code"], "invalid_json");
    }
}

#[test]
fn a_client_of_vllm_s_dialect_may_send_its_sound_first() {
    let server = TestServer::start(|_| {});
    let name_model = json!({"type": "session.update", "model": "tiny.en"});
    let end = json!({"type": "input_audio_buffer.commit", "final": true});
    // The text, and how many utterances were told of before.
    let done = |socket: &mut Socket| {
        let mut n_committed = 0;
        loop {
            // What came before may have been heard in the other dialect.
            let event = socket.hear();
            assert!(event["type"] != "error", "{event}");
            n_committed += u64::from(event["type"] == "input_audio_buffer.committed");
            if event["type"] == "transcription.done" {
                return (event, n_committed);
            }
        }
    };
    let mut usual = Socket::open(&server, "?protocol=vllm");
    usual.say(name_model.clone());
    usual.append(&speech());
    usual.say(end.clone());
    let (expected, _) = done(&mut usual);
    assert!(
        expected["text"]
            .as_str()
            .unwrap()
            .contains("fellow Americans")
    );
    let usage = &expected["usage"];
    let counted = usage["completion_tokens"].as_u64().unwrap();
    assert!((20..60).contains(&counted), "{usage}");
    assert_eq!(usage["total_tokens"], 138 + counted);
    let mut late = Socket::open(&server, "");
    // Cut in the middle of a sample.
    for piece in speech().chunks(6_401) {
        late.append(piece);
    }
    late.say(name_model);
    late.say(end);
    let (event, n_committed) = done(&mut late);
    assert_eq!(
        (&event["text"], &event["usage"]),
        (&expected["text"], &expected["usage"])
    );
    // What was told of in the other dialect does not count again.
    let counts = server.get("/v1/stats", &[]).json()["counts"]["utterances"].clone();
    assert_eq!(counts, 1 + n_committed.max(1));
    // Without a model it is told so in that dialect.
    let mut nameless = Socket::open(&server, "");
    nameless.append(&speech()[..64_000]);
    nameless.say(json!({"type": "input_audio_buffer.commit", "final": true}));
    let error = nameless.until("error").pop().unwrap();
    assert_eq!(error["code"], "model_not_validated");
}

#[test]
fn who_sends_sound_alone_is_heard_in_openai_s_dialect() {
    let server = TestServer::start(|config| config.max_buffer = 30.0);
    let mut socket = Socket::open(&server, "?model=tiny.en&intent=transcription");
    socket.hear();
    let audio = turaco::Audio::open(testdata("audio/jfk.wav")).unwrap();
    let mut samples = Vec::new();
    let mut resampler = turaco::audio::Resampler::new(16_000, 24_000).unwrap();
    resampler.push(audio.samples(), &mut samples);
    let bytes: Vec<u8> = samples
        .iter()
        .flat_map(|x| ((x * 32_768.0) as i16).to_le_bytes())
        .collect();
    for piece in bytes.chunks(24_000) {
        socket.append(piece);
    }
    // An update of this dialect changes nothing of it.
    socket.update(json!({"transcription": {"model": "tiny.en"}}));
    socket.append(&[0; 96_000]);
    let mut text = String::new();
    while !text.contains("country") {
        let events = socket.until(&format!("{TRANSCRIPTION}completed"));
        text.push_str(&texts(&events, "completed").concat());
    }
}

#[test]
fn sessions_choose_what_tells_speech_from_other_sound() {
    let server = TestServer::start(|config| config.vad = Detection::Energy);
    let mut socket = Socket::open(&server, "?model=tiny.en&intent=transcription");
    let created = socket.hear();
    let detection = |event: &Value| event["session"]["audio"]["input"]["turn_detection"].clone();
    assert_eq!(detection(&created)["vad"], "energy");
    let format = json!({"type": "audio/pcm", "rate": 16000});
    let with = |vad: Value| json!({"format": format, "turn_detection": vad});
    let updated = socket.update(with(json!({"type": "server_vad"})));
    assert_eq!(detection(&updated)["vad"], "energy");
    // A hum is speech for its energy alone.
    let hum: Vec<u8> = (0..32_000)
        .map(|n| 0.3 * (f64::from(n) * 700.0 * std::f64::consts::TAU / 16_000.0).sin())
        .flat_map(|x| ((x * 32_768.0) as i16).to_le_bytes())
        .collect();
    socket.append(&hum);
    socket.append(&[0; 32_000]);
    socket.until("input_audio_buffer.speech_stopped");
    let updated = socket.update(with(json!({"type": "semantic_vad", "vad": "silero"})));
    assert_eq!(detection(&updated)["vad"], "silero");
    socket.append(&hum);
    socket.append(&[0; 32_000]);
    socket.say(json!({"type": "input_audio_buffer.commit"}));
    let error = socket.until("error").pop().unwrap();
    assert_eq!(error["error"]["code"], "input_audio_buffer_commit_empty");
    let updated = socket.update(with(json!({"type": "server_vad", "vad": "none"})));
    assert_eq!(detection(&updated), Value::Null);
    let wrong = with(json!({"type": "server_vad", "vad": "telepathy"}));
    let session = json!({"audio": {"input": wrong}});
    socket.say(json!({"type": "session.update", "session": session}));
    let error = socket.until("error").pop().unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("`silero`, `energy`, `none`"), "{message}");

    let server = TestServer::start(|config| config.vad = Detection::None);
    let mut socket = Socket::open(&server, "?model=tiny.en&intent=transcription");
    assert_eq!(detection(&socket.hear()), Value::Null);
    // Who asks for turns to be found has them found.
    let updated = socket.update(with(json!({"type": "server_vad"})));
    assert_eq!(detection(&updated)["vad"], "silero");
}

#[test]
fn a_protocol_is_one_of_those_that_there_are() {
    let server = TestServer::start(|_| {});
    let upgrade = [
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    // The connection of an upgrade is no usual one; this client writes another.
    let mut request = String::from(
        "GET /v1/realtime?protocol=zzz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n",
    );
    for (name, value) in upgrade {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    std::io::Write::write_all(&mut stream, format!("{request}\r\n").as_bytes()).unwrap();
    let mut answer = [0; 4096];
    let length = std::io::Read::read(&mut stream, &mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("`zzz` is none of openai, vllm"), "{answer}");
    for query in ["?protocol=openai", "?protocol=vllm"] {
        Socket::open(&server, query).hear();
    }
}

#[test]
fn live_sessions_are_counted() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "?model=tiny.en&intent=transcription");
    socket.hear();
    socket.update(json!({
        "format": {"type": "audio/pcm", "rate": 16000},
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 300},
    }));
    socket.append(&speech()[..64_000]);
    socket.append(&[0; 48_000]);
    socket.until(&format!("{TRANSCRIPTION}completed"));
    // A piece of speech that is too short to be any.
    socket.append(&speech()[16_000..18_048]);
    socket.append(&[0; 48_000]);
    socket.say(json!({"type": "input_audio_buffer.clear"}));
    socket.until("input_audio_buffer.cleared");
    let metrics = server.get("/metrics", &[]);
    let value = |name: &str| -> f64 {
        let line = metrics.text().lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next());
        value
            .unwrap_or_else(|| panic!("no {name}: {}", metrics.text()))
            .parse()
            .unwrap()
    };
    let utterances = value("turaco_utterances_total");
    assert!(utterances >= 1.0);
    for histogram in ["vad", "eot", "asr_final", "e2e"] {
        let count = value(&format!("turaco_{histogram}_seconds_count"));
        assert!(count >= 1.0, "{histogram}: {count}");
    }
    assert!(value("turaco_eot_seconds_sum") >= 0.3);
    assert!(value("turaco_kv_cache_bytes{model=\"tiny.en\"}") > 0.0);
    assert_eq!(value("turaco_interruptions_total"), 0.0);
    let stats = server.get("/v1/stats", &[]).json();
    assert_eq!(stats["counts"]["utterances"].as_f64(), Some(utterances));
    assert!(stats["kv_cache_bytes"]["tiny.en"].as_u64().unwrap() > 0);
    assert!(stats["operations"]["e2e"]["p50_ms"].as_f64().unwrap() >= 300.0);
}

#[test]
fn the_end_of_a_turn_is_where_silence_said_so() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "?model=tiny.en&intent=transcription");
    socket.hear();
    let update = |turn_detection: Value| json!({"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": turn_detection});
    socket.update(update(
        json!({"type": "server_vad", "silence_duration_ms": 300}),
    ));
    // However much sound a message brings behind it.
    socket.append(&[&speech()[..64_000], &[0; 320_000]].concat());
    socket.until(&format!("{TRANSCRIPTION}completed"));
    let eot = |server: &TestServer| {
        let stats = server.get("/v1/stats", &[]).json();
        let eot = &stats["operations"]["eot"];
        (
            eot["count"].as_u64().unwrap(),
            eot["max_ms"].as_f64().unwrap(),
            stats["counts"]["utterances"].as_u64().unwrap(),
        )
    };
    let (before, longest, utterances) = eot(&server);
    assert!((300.0..400.0).contains(&longest), "{longest}");
    // What is committed, nobody waited for; what is discarded is none.
    socket.update(update(Value::Null));
    socket.append(&speech()[..32_000]);
    socket.say(json!({"type": "input_audio_buffer.commit"}));
    socket.until(&format!("{TRANSCRIPTION}completed"));
    socket.append(&speech()[..32_000]);
    socket.say(json!({"type": "input_audio_buffer.clear"}));
    socket.until("input_audio_buffer.cleared");
    let (after, _, more) = eot(&server);
    assert_eq!((after, more), (before, utterances + 1));
}

#[test]
fn interruptions_that_take_too_long_are_refused() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "?model=tiny.en&intent=transcription");
    socket.hear();
    for name in ["interrupt_ms", "interrupt_thinking_ms"] {
        for (milliseconds, answer) in [(10_001, "error"), (10_000, "session.updated")] {
            let mut detection = json!({"type": "server_vad"});
            detection[name] = milliseconds.into();
            let input = json!({"turn_detection": detection});
            let session = json!({"type": "transcription", "audio": {"input": input}});
            socket.say(json!({"type": "session.update", "session": session}));
            let told = socket.hear();
            assert_eq!(told["type"], answer, "{told}");
            if answer == "error" {
                let place = format!("session.audio.input.turn_detection.{name}");
                assert_eq!(told["error"]["param"], place);
            }
        }
    }
}

#[test]
fn nonsense_is_answered_and_never_ends_the_session() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "?model=tiny.en");
    socket.hear();
    let mut complains = |event: Value, code: &str| {
        socket.say(event.clone());
        let error = socket.until("error").pop().unwrap();
        assert_eq!(error["error"]["code"], code, "{event}: {error}");
        assert_eq!(error["error"]["type"], "invalid_request_error");
        assert_eq!(error["error"]["event_id"], event["event_id"]);
    };
    complains(
        json!({"type": "session.destroy", "event_id": "e1"}),
        "unknown_event",
    );
    complains(
        json!({"type": "session.update", "event_id": "e2", "session": 3}),
        "invalid_value",
    );
    complains(json!([1]), "unknown_event");
    complains(
        json!({"type": "input_audio_buffer.commit"}),
        "input_audio_buffer_commit_empty",
    );
    complains(
        json!({"type": "input_audio_buffer.append", "audio": "***"}),
        "invalid_audio",
    );
    complains(json!({"type": "response.create"}), "unsupported_value");
    complains(
        json!({"type": "conversation.item.retrieve", "item_id": "x"}),
        "not_found",
    );
    let with =
        |input: Value| json!({"type": "session.update", "session": {"audio": {"input": input}}});
    complains(
        with(json!({"format": {"type": "audio/pcm", "rate": 11025}})),
        "invalid_value",
    );
    complains(
        with(json!({"turn_detection": {"type": "server_vad", "threshold": 7}})),
        "invalid_value",
    );
    complains(
        with(json!({"turn_detection": {"type": "telepathy"}})),
        "invalid_value",
    );
    complains(
        json!({"type": "session.update", "session": {"type": "realtime"}}),
        "invalid_value",
    );
    socket.update(json!({"turn_detection": null}));
}

#[test]
fn sessions_have_limits() {
    let server = TestServer::start(|config| {
        config.max_sessions = 1;
        config.max_buffer = 2.0;
        config.api_keys = vec!["secret".into()];
    });
    let answer = server.get("/v1/realtime", &[]);
    answer.fails(401, "invalid_api_key");
    server
        .get("/v1/realtime?api_key=secret", &[("Sec-WebSocket-Key", "x")])
        .fails(400, "invalid_value");
    let mut socket = Socket::open(&server, "?api_key=secret&model=tiny.en");
    socket.hear();
    let upgrade = [
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Authorization", "Bearer secret"),
    ];
    let refused = server.get("/v1/realtime", &upgrade);
    assert!(
        refused.status == 429 || refused.status == 400,
        "{refused:?}"
    );
    socket.update(json!({"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": null}));
    socket.append(&[0; 48_000]);
    socket.append(&[0; 48_000]);
    let error = socket.until("error").pop().unwrap();
    assert_eq!(error["error"]["code"], "input_buffer_full");
    drop(socket);
    wait_until("the place is free", || server.app.open_sessions() == 0);
}

#[test]
fn who_says_nothing_is_let_go() {
    let server = TestServer::start(|config| config.session_timeout = Duration::from_secs(1));
    let mut socket = Socket::open(&server, "?model=tiny.en");
    let closed = loop {
        let event = socket.hear();
        if event.get("closed").is_some() {
            break event;
        }
    };
    assert_eq!(closed["closed"], "idle_timeout");
    drop(socket);
    wait_until("the place is free", || server.app.open_sessions() == 0);
}

#[test]
fn probabilities_of_words_are_told_where_they_are_asked_for() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "?model=tiny.en&intent=transcription");
    let input = json!({"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": null});
    let session = json!({"type": "transcription", "audio": {"input": input},
        "include": ["item.input_audio_transcription.logprobs"]});
    socket.say(json!({"type": "session.update", "session": session}));
    let updated = socket.until("session.updated").pop().unwrap();
    assert_eq!(updated["session"]["warnings"], json!([]));
    socket.append(&speech()[..128_000]);
    socket.say(json!({"type": "input_audio_buffer.commit"}));
    let events = socket.until(&format!("{TRANSCRIPTION}completed"));
    let completed = events.last().unwrap();
    let words = completed["logprobs"].as_array().unwrap();
    let text: String = words
        .iter()
        .map(|word| word["token"].as_str().unwrap())
        .collect();
    assert_eq!(text.trim(), completed["transcript"].as_str().unwrap());
    assert!(
        words
            .iter()
            .all(|word| word["logprob"].as_f64().unwrap() <= 0.0)
    );
    // The deltas bring the same ones.
    let deltas = events
        .iter()
        .filter(|event| event["type"] == format!("{TRANSCRIPTION}delta"))
        .flat_map(|event| event["logprobs"].as_array().unwrap().clone());
    assert_eq!(deltas.collect::<Vec<_>>(), *words);
    let metrics = server.get("/metrics", &[]);
    assert!(metrics.text().contains("turaco_transcript_seconds_count 1"));
}
