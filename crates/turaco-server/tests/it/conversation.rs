//! `/v1/realtime` with somebody who answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use turaco::voice::EndpointOptions;
use turaco_server::LogLevel;

use crate::realtime::{Socket, speech};
use crate::support::TestServer;

/// A chat endpoint whose answer to a request is this one, a word at a time.
pub fn endpoint(answer: impl Fn(&str) -> String + Send + 'static, pause: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                    break;
                }
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
            );
            let answer = answer(&String::from_utf8(body).unwrap());
            for word in answer.split_inclusive(' ') {
                std::thread::sleep(pause);
                let event = json!({"choices": [{"delta": {"content": word}}]});
                if write!(stream, "data: {event}\n\n").is_err() {
                    break;
                }
            }
            let last = json!({"choices": [{"delta": {}, "finish_reason": "stop"}]});
            let _ = write!(stream, "data: {last}\n\ndata: [DONE]\n\n");
        }
    });
    url
}

fn server(answer: &str, pause: Duration) -> TestServer {
    let answer = answer.to_owned();
    let url = endpoint(move |_| answer.clone(), pause);
    TestServer::start(|config| config.llm = Some(EndpointOptions::new(url, "m")))
}

fn kinds(events: &[Value]) -> Vec<&str> {
    let kinds = events.iter().map(|event| event["type"].as_str().unwrap());
    kinds.collect()
}

fn update(socket: &mut Socket, session: Value) -> Value {
    socket.say(json!({"type": "session.update", "session": session}));
    socket.until("session.updated").pop().unwrap()
}

static SILENCE: [u8; 96_000] = [0; 96_000];

#[test]
fn a_question_is_answered_with_text_and_sound() {
    let server = server("Of course, that is easy. Ask again!", Duration::ZERO);
    let mut socket = Socket::open(&server, "?model=tiny.en");
    let updated = update(
        &mut socket,
        json!({"type": "realtime", "instructions": "Be brief.", "output_modalities": ["audio"],
            "audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000},
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 1500}},
                "output": {"format": {"type": "audio/pcm", "rate": 16000}}}}),
    );
    let session = &updated["session"];
    assert_eq!(
        (&session["type"], &session["instructions"]),
        (&json!("realtime"), &json!("Be brief."))
    );
    for piece in speech().chunks(6_400) {
        socket.append(piece);
    }
    socket.append(&SILENCE);
    let events = socket.until("response.done");
    let kinds = kinds(&events);
    let place = |kind: &str| {
        kinds
            .iter()
            .position(|known| *known == kind)
            .unwrap_or_else(|| panic!("no {kind}: {kinds:?}"))
    };
    let order = [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.input_audio_transcription.completed",
        "response.created",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ];
    for pair in order.windows(2) {
        assert!(place(pair[0]) < place(pair[1]), "{pair:?}: {kinds:?}");
    }
    let transcript =
        &events[place("conversation.item.input_audio_transcription.completed")]["transcript"];
    let deltas = events
        .iter()
        .filter(|event| event["type"] == "conversation.item.input_audio_transcription.delta");
    let sum: String = deltas
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(*transcript, sum);
    assert!(
        transcript.as_str().unwrap().contains("fellow Americans"),
        "{transcript}"
    );
    let done = &events.last().unwrap()["response"];
    assert_eq!(done["status"], "completed");
    let text = "Of course, that is easy. Ask again!";
    assert_eq!(done["output"][0]["content"][0]["transcript"], text);
    assert!(done["timings"]["first_audio"].as_f64().unwrap() > 0.0);
    let deltas = |kind: &str| -> Vec<String> {
        let of = events.iter().filter(|event| event["type"] == kind);
        of.map(|event| event["delta"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        deltas("response.output_audio_transcript.delta").concat(),
        text
    );
    let bytes: usize = deltas("response.output_audio.delta")
        .iter()
        .map(|delta| STANDARD.decode(delta).unwrap().len())
        .sum();
    assert!(bytes > 16_000 / 4 && bytes.is_multiple_of(2), "{bytes}");
    // The item can be asked for again.
    let item_id = &done["output"][0]["id"];
    socket.say(json!({"type": "conversation.item.retrieve", "item_id": item_id}));
    let item = socket.until("conversation.item.retrieved").pop().unwrap();
    assert_eq!(item["item"]["role"], "assistant");
}

#[test]
fn why_nobody_answers_is_in_the_log_and_the_client_knows_what_failed() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let lines = Arc::clone(&log);
    let server = TestServer::start(|config| {
        // Nobody listens there.
        config.llm = Some(EndpointOptions::new("http://127.0.0.1:1/v1", "m"));
        config.log =
            Arc::new(move |_: LogLevel, line: &str| lines.lock().unwrap().push(line.to_owned()));
    });
    let mut socket = Socket::open(&server, "?intent=conversation");
    update(
        &mut socket,
        json!({"type": "realtime", "output_modalities": ["text"]}),
    );
    let content = json!([{"type": "input_text", "text": "Is it so?"}]);
    socket.say(json!({"type": "conversation.item.create",
        "item": {"type": "message", "role": "user", "content": content}}));
    socket.until("conversation.item.added");
    socket.say(json!({"type": "response.create"}));
    let mut events = vec![socket.hear()];
    while events.last().unwrap()["type"] != "response.done" {
        events.push(socket.hear());
    }
    let error = events
        .iter()
        .find(|event| event["type"] == "error")
        .unwrap();
    assert_eq!(error["error"]["code"], "llm_error");
    let response = &events.last().unwrap()["response"];
    assert_eq!(response["status"], "failed");
    let details = &response["status_details"]["error"];
    assert_eq!(details["code"], "llm_error");
    assert_eq!(details["message"], error["error"]["message"]);
    let log = log.lock().unwrap().join("\n");
    assert!(
        log.contains("llm_error") && log.contains("127.0.0.1:1"),
        "{log}"
    );
    let metrics = server.get("/metrics", &[]);
    assert!(metrics.text().contains("llm_error"), "{}", metrics.text());
}

#[test]
fn text_is_answered_with_text_and_beta_clients_hear_their_names() {
    let server = server("Yes.", Duration::ZERO);
    let mut socket = Socket::open(&server, "?intent=conversation");
    update(
        &mut socket,
        json!({"type": "realtime", "output_modalities": ["text"]}),
    );
    let content = json!([{"type": "input_text", "text": "Is it so?"}]);
    socket.say(json!({"type": "conversation.item.create",
        "item": {"type": "message", "role": "user", "content": content}}));
    socket.until("conversation.item.added");
    socket.say(json!({"type": "response.create"}));
    let events = socket.until("response.done");
    let text: Vec<_> = events
        .iter()
        .filter(|event| event["type"] == "response.output_text.done")
        .collect();
    assert_eq!(text[0]["text"], "Yes.");
    assert!(!kinds(&events).contains(&"response.output_audio.delta"));
    // The type of a session does not change, and what is no conversation has no answers.
    socket.say(json!({"type": "session.update", "session": {"type": "transcription"}}));
    assert_eq!(
        socket.until("error").pop().unwrap()["error"]["param"],
        "session.type"
    );
    let mut other = Socket::open(&server, "?model=tiny.en");
    other.say(json!({"type": "session.update", "session": {"type": "transcription"}}));
    other.until("session.updated");
    other.say(json!({"type": "response.create"}));
    other.until("error");
}

#[test]
fn speech_and_clients_end_answers() {
    let server = server(
        &"word after word, and so on. ".repeat(100),
        Duration::from_millis(5),
    );
    let mut socket = Socket::open(&server, "?intent=conversation");
    let input = json!({"format": {"type": "audio/pcm", "rate": 16000},
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 1500}});
    update(
        &mut socket,
        json!({"type": "realtime", "audio": {"input": input}}),
    );
    socket.append(&speech());
    socket.append(&SILENCE);
    socket.until("response.output_audio.delta");
    // Somebody speaks.
    socket.append(&speech()[..64_000]);
    let events = socket.until("response.done");
    let done = &events.last().unwrap()["response"];
    assert_eq!(done["status"], "cancelled");
    assert_eq!(done["status_details"]["reason"], "turn_detected");
    let item_id = done["output"][0]["id"].clone();
    socket.say(json!({"type": "conversation.item.truncate", "item_id": item_id, "content_index": 0, "audio_end_ms": 0}));
    socket.until("conversation.item.truncated");
    socket.say(json!({"type": "conversation.item.truncate", "item_id": item_id, "content_index": 0, "audio_end_ms": 9_999_999}));
    let error = socket.until("error").pop().unwrap();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["param"]),
        (&json!("invalid_value"), &json!("audio_end_ms"))
    );
    // The client has heard enough.
    socket.append(&SILENCE);
    socket.until("response.output_audio_transcript.delta");
    socket.say(json!({"type": "response.cancel"}));
    let events = socket.until("response.done");
    let done = &events.last().unwrap()["response"];
    assert_eq!(done["status_details"]["reason"], "client_cancelled");
    socket.say(json!({"type": "response.cancel"}));
    assert_eq!(
        socket.until("error").pop().unwrap()["error"]["code"],
        "response_cancel_not_active"
    );
}

#[test]
fn a_model_that_hears_answers_itself() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "?model=voxtral-mini");
    let created = socket.hear();
    assert_eq!(created["session"]["type"], "realtime");
    let input = json!({"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": null});
    update(
        &mut socket,
        json!({"type": "realtime", "output_modalities": ["text"], "max_output_tokens": 8,
            "audio": {"input": input}}),
    );
    socket.append(&speech()[..64_000]);
    socket.say(json!({"type": "input_audio_buffer.commit"}));
    socket.until("input_audio_buffer.committed");
    socket.say(json!({"type": "response.create"}));
    let events = socket.until("response.done");
    let done = &events.last().unwrap()["response"];
    // A model of random weights says anything, but it reads the sound and keeps the limit.
    assert!(
        ["completed", "incomplete"].contains(&done["status"].as_str().unwrap()),
        "{done}"
    );
    assert!(
        done["usage"]["input_tokens"].as_u64().unwrap() > 100,
        "{done}"
    );
    assert!(
        done["usage"]["output_tokens"].as_u64().unwrap() <= 8,
        "{done}"
    );
}

#[test]
fn without_anybody_who_answers_it_is_said() {
    let server = TestServer::start(|config| {
        config.llm = Some(EndpointOptions::new("http://127.0.0.1:1/v1", "m"));
    });
    let mut socket = Socket::open(&server, "?intent=conversation");
    update(
        &mut socket,
        json!({"type": "realtime", "output_modalities": ["text"]}),
    );
    let content = json!([{"type": "input_text", "text": "Is it so?"}]);
    socket.say(
        json!({"type": "conversation.item.create", "item": {"role": "user", "content": content}}),
    );
    socket.until("conversation.item.added");
    socket.say(json!({"type": "response.create"}));
    let events = socket.until("error");
    let all = format!("{events:?}");
    assert!(all.contains("server_error"), "{all}");
}

#[test]
fn silence_is_committed_without_a_detector_and_refused_with_one() {
    let server = server("Yes.", Duration::ZERO);
    let mut socket = Socket::open(&server, "?intent=conversation&model=gpt-realtime");
    let commit = json!({"type": "input_audio_buffer.commit"});
    let refused = |socket: &mut Socket| {
        socket.say(commit.clone());
        let error = socket.until("error").pop().unwrap();
        assert_eq!(error["error"]["code"], "input_audio_buffer_commit_empty");
    };
    let mut input = json!({"format": {"type": "audio/pcm", "rate": 16000}});
    update(
        &mut socket,
        json!({"type": "realtime", "output_modalities": ["text"], "audio": {"input": input}}),
    );
    socket.append(&SILENCE);
    refused(&mut socket);
    // What the detector has committed is not there to commit again.
    input["turn_detection"] = json!({"type": "server_vad", "create_response": false});
    update(&mut socket, json!({"audio": {"input": input}}));
    socket.append(&speech()[..64_000]);
    socket.append(&SILENCE);
    socket.until("conversation.item.input_audio_transcription.completed");
    refused(&mut socket);
    input["turn_detection"] = Value::Null;
    update(&mut socket, json!({"audio": {"input": input}}));
    refused(&mut socket);
    socket.append(&SILENCE);
    socket.say(commit.clone());
    socket.until("input_audio_buffer.committed");
    socket.until("conversation.item.input_audio_transcription.completed");
    socket.say(json!({"type": "response.create"}));
    let done = socket.until("response.done").pop().unwrap();
    assert_eq!(done["response"]["status"], "completed");
}

#[test]
fn what_is_being_said_when_the_server_ends_is_answered() {
    let answer = |_: &str| "Of course.".to_owned();
    let url = endpoint(answer, Duration::ZERO);
    let mut server = TestServer::start(|config| {
        config.llm = Some(EndpointOptions::new(url, "m"));
        config.grace = Duration::from_secs(120);
    });
    let mut socket = Socket::open(&server, "?intent=conversation");
    let input = json!({"format": {"type": "audio/pcm", "rate": 16000},
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 20_000}});
    update(
        &mut socket,
        json!({"type": "realtime", "output_modalities": ["text"], "audio": {"input": input}}),
    );
    socket.append(&speech()[..128_000]);
    socket.until("input_audio_buffer.speech_started");
    let reading = std::thread::spawn(move || {
        let mut events = Vec::new();
        while events
            .last()
            .is_none_or(|event: &Value| event.get("closed").is_none())
        {
            events.push(socket.hear());
        }
        events
    });
    server.stop();
    let events = reading.join().unwrap();
    let of = |kind: &str| {
        let found = events.iter().find(|event| event["type"] == kind);
        found.unwrap_or_else(|| panic!("no {kind}: {events:?}"))
    };
    let written = &of("conversation.item.input_audio_transcription.completed")["transcript"];
    assert!(written.as_str().unwrap().contains("fellow"), "{written}");
    assert_eq!(of("response.output_text.done")["text"], "Of course.");
    assert_eq!(of("response.done")["response"]["status"], "completed");
    assert_eq!(events.last().unwrap()["closed"], "shutting_down");
}

#[test]
fn probabilities_of_questions_are_told_where_they_are_asked_for() {
    let server = server("Yes.", Duration::ZERO);
    let mut socket = Socket::open(&server, "?intent=conversation&model=gpt-realtime");
    let input = json!({"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": null,
        "transcription": {"model": "tiny.en"}});
    let updated = update(
        &mut socket,
        json!({"type": "realtime", "include": ["item.input_audio_transcription.logprobs"], "audio": {"input": input}}),
    );
    assert_eq!(updated["session"]["warnings"], json!([]));
    socket.append(&speech());
    socket.say(json!({"type": "input_audio_buffer.commit"}));
    let completed = socket.until("conversation.item.input_audio_transcription.completed");
    let logprobs = completed.last().unwrap()["logprobs"].as_array().unwrap();
    assert!(logprobs.len() > 15, "{logprobs:?}");
    assert!(
        logprobs
            .iter()
            .all(|word| word["logprob"].as_f64().unwrap() <= 0.0 && word["bytes"].is_array())
    );
}

#[test]
fn a_question_that_is_committed_and_asked_at_once_is_written_down_first() {
    let server = server("Yes.", Duration::ZERO);
    let mut socket = Socket::open(&server, "?intent=conversation&model=gpt-realtime");
    let input = json!({"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": null});
    update(
        &mut socket,
        json!({"type": "realtime", "output_modalities": ["text"], "audio": {"input": input}}),
    );
    for round in 0..2 {
        socket.append(&speech()[..128_000]);
        socket.say(json!({"type": "input_audio_buffer.commit"}));
        socket.say(json!({"type": "response.create"}));
        let events = socket.until("response.done");
        let kinds = kinds(&events);
        let place = |kind: &str| kinds.iter().position(|known| *known == kind);
        let written = place("conversation.item.input_audio_transcription.completed");
        assert!(
            written.is_some() && written < place("response.created"),
            "{round}: {kinds:?}"
        );
        assert_eq!(events.last().unwrap()["response"]["status"], "completed");
    }
}

#[test]
fn a_session_is_changed_by_the_names_of_the_beta_too() {
    let server = server("Yes.", Duration::ZERO);
    let mut socket = Socket::open(&server, "?model=tiny.en");
    let session = update(
        &mut socket,
        json!({"type": "realtime", "voice": "alloy", "input_audio_format": "g711_ulaw",
            "output_audio_format": "g711_alaw", "turn_detection": null, "max_response_output_tokens": 7,
            "input_audio_transcription": {"language": "en"}, "mood": "good"}),
    );
    let session = &session["session"];
    let audio = &session["audio"];
    assert_eq!(audio["input"]["format"]["type"], "audio/pcmu");
    assert_eq!(audio["output"]["format"]["type"], "audio/pcma");
    assert_eq!(audio["input"]["turn_detection"], Value::Null);
    assert_eq!(audio["input"]["transcription"]["language"], "en");
    assert_eq!(audio["output"]["voice"], "alloy");
    assert_eq!(session["max_output_tokens"], 7);
    assert_eq!(session["warnings"], json!(["mood has no effect"]));
}
