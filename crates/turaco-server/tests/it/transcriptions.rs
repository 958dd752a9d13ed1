//! `/v1/audio/transcriptions` and its relatives, with real speech.

use crate::support::{TestServer, testdata, wav};

const TEXT: &str = "And so, my fellow Americans";

fn speech() -> Vec<u8> {
    std::fs::read(testdata("audio/jfk.wav")).unwrap()
}

#[test]
fn a_recording_comes_back_in_every_format() {
    let server = TestServer::start(|_| {});
    let speech = speech();
    let ask = |fields: &[(&str, &str)]| {
        server.form(
            "/v1/audio/transcriptions",
            fields,
            Some(("jfk.wav", &speech)),
        )
    };
    let json = ask(&[("model", "whisper-1")]).json();
    assert!(json["text"].as_str().unwrap().starts_with(TEXT), "{json}");
    assert_eq!(
        json["usage"],
        serde_json::json!({"type": "duration", "seconds": 11})
    );
    for (format, kind, start) in [
        ("text", "text/plain; charset=utf-8", TEXT),
        ("srt", "application/x-subrip", "1\n00:00:00,000 --> "),
        ("vtt", "text/vtt; charset=utf-8", "WEBVTT\n\n00:00.000 --> "),
        (
            "tsv",
            "text/tab-separated-values; charset=utf-8",
            "start\tend\ttext\n0\t",
        ),
        ("jsonl", "application/x-ndjson", "{\"id\": 0, "),
    ] {
        let answer = ask(&[("response_format", format)]);
        assert_eq!(answer.status, 200);
        assert!(
            answer.head.contains(&format!("content-type: {kind}")),
            "{answer:?}"
        );
        assert!(
            answer.text().starts_with(start),
            "{format}: {}",
            answer.text()
        );
    }
    let words = [
        ("response_format", "verbose_json"),
        ("timestamp_granularities[]", "word"),
        ("timestamp_granularities[]", "segment"),
    ];
    let verbose = ask(&words).json();
    assert_eq!(
        (&verbose["language"], &verbose["language_code"]),
        (&"english".into(), &"en".into())
    );
    assert_eq!(verbose["segments"][0].as_object().unwrap().len(), 10);
    assert_eq!(verbose["words"][0]["word"], "And");
}

#[test]
fn a_stream_of_events_is_the_same_text() {
    let server = TestServer::start(|_| {});
    // A model that converses writes token by token.
    let fields = [
        ("stream", "true"),
        ("model", "voxtral-mini"),
        ("language", "en"),
        ("max_new_tokens", "16"),
    ];
    let sound = std::fs::read(testdata("audio/jfk.wav")).unwrap();
    let answer = server.form("/v1/audio/transcriptions", &fields, Some(("a.wav", &sound)));
    let events = answer.events();
    let deltas = events.iter().filter_map(|event| event["delta"].as_str());
    let deltas: Vec<&str> = deltas.collect();
    assert!(deltas.len() > 3, "{events:?}");
    assert_eq!(deltas.concat().trim(), events.last().unwrap()["text"]);
    let fields = [("stream", "true"), ("response_format", "verbose_json")];
    let answer = server.form(
        "/v1/audio/transcriptions",
        &fields,
        Some(("a.wav", &speech())),
    );
    assert!(answer.head.contains("content-type: text/event-stream"));
    let events = answer.events();
    let of = |kind: &str| {
        events
            .iter()
            .filter(|event| event["type"] == kind)
            .collect::<Vec<_>>()
    };
    let deltas: String = of("transcript.text.delta")
        .iter()
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    let done = events.last().unwrap();
    assert_eq!(done["type"], "transcript.text.done");
    assert_eq!(done["text"].as_str().unwrap(), deltas.trim());
    assert!(deltas.starts_with(TEXT));
    assert_eq!(of("transcript.text.segment")[0]["start"], 0.0);
    assert!(!answer.text().contains("[DONE]"));
}

#[test]
fn whisper_cpp_s_clients_are_answered() {
    let server = TestServer::start(|_| {});
    let fields = [
        ("temperature", "0.0"),
        ("temperature_inc", "0.2"),
        ("response_format", "json"),
    ];
    let json = server
        .form("/inference", &fields, Some(("a.wav", &speech())))
        .json();
    assert!(json["text"].as_str().unwrap().starts_with(TEXT));
    server
        .form("/load", &[("model", "tiny.en")], None)
        .fails(404, "not_found");
}

#[test]
fn what_cannot_be_done_is_said() {
    let server = TestServer::start(|_| {});
    let speech = speech();
    let ask = |fields: &[(&str, &str)]| {
        server.form(
            "/v1/audio/transcriptions",
            fields,
            Some(("jfk.wav", &speech)),
        )
    };
    ask(&[("model", "nothing")]).fails(404, "model_not_found");
    ask(&[("model", "/etc/passwd")]).fails(404, "model_not_found");
    ask(&[("response_format", "pdf")]).fails(400, "invalid_value");
    ask(&[("response_format", "diarized_json")]).fails(400, "unsupported_value");
    ask(&[("beam_size", "0")]).fails(400, "invalid_value");
    ask(&[("language", "klingon")]).fails(400, "invalid_value");
    ask(&[("stream", "true"), ("model", "nothing")]).fails(404, "model_not_found");
    server
        .form("/v1/audio/translations", &[], Some(("a.wav", &speech)))
        .fails(400, "unsupported_model_task");
    let path = "/v1/audio/transcriptions";
    server
        .form(path, &[], None)
        .fails(400, "missing_required_parameter");
    for garbage in [
        &b"this is a text and no sound"[..],
        &[0, 1, 2, 250],
        b"",
        &speech[..20],
    ] {
        let answer = server.form(path, &[], Some(("../x/talk.mp3", garbage)));
        answer.fails(400, "audio_decode_failed");
        assert!(!answer.text().contains('/'), "{}", answer.text());
    }
    server.get("/v1/nothing", &[]).fails(404, "not_found");
    server.get(path, &[]).fails(405, "method_not_allowed");
    let json = [("Content-Type", "application/json")];
    server
        .raw(&crate::support::request("POST", path, &json, b"{}"))
        .fails(415, "unsupported_media_type");
}

#[test]
fn silence_and_nothing_are_no_errors() {
    let server = TestServer::start(|_| {});
    for seconds in [0, 3] {
        let silence = wav(&vec![0.0; seconds * 8_000], 8_000);
        let fields = [("response_format", "verbose_json")];
        let answer = server.form(
            "/v1/audio/transcriptions",
            &fields,
            Some(("a.wav", &silence)),
        );
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["duration"], seconds as f64);
    }
}

#[test]
fn models_are_listed_and_loaded_and_unloaded() {
    let server = TestServer::start(|_| {});
    let list = server.get("/v1/models", &[]).json();
    let data = list["data"].as_array().unwrap();
    let tiny = data.iter().find(|model| model["id"] == "tiny.en").unwrap();
    assert_eq!(tiny["loaded"], false);
    let voice = data
        .iter()
        .find(|model| model["id"] == "voice_design")
        .unwrap();
    assert_eq!(voice["task"], "text-to-speech");
    let defaults = &list["defaults"];
    assert_eq!(defaults["automatic-speech-recognition"], "tiny.en");
    assert_eq!(defaults["text-to-speech"], "voice_design");
    assert!(defaults["endpoint"].is_null(), "{defaults}");
    let one = server.get("/v1/models/tiny.en", &[]).json();
    assert_eq!(one["task"], "automatic-speech-recognition");
    server
        .get("/v1/models/other", &[])
        .fails(404, "model_not_found");
    let act = |method: &str| {
        server.raw(&crate::support::request(
            method,
            "/api/ps/tiny.en",
            &[],
            b"",
        ))
    };
    assert_eq!(act("POST").status, 201);
    assert_eq!(server.get("/api/ps", &[]).json()["models"][0]["in_use"], 0);
    assert_eq!(act("DELETE").status, 200);
    act("DELETE").fails(404, "not_found");
}
