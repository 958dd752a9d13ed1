//! `/v1/audio/speech` and voices, with small models of random weights.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::{TestServer, request, testdata, wait_until, wav};

const PATH: &str = "/v1/audio/speech";
const TEXT: &str = "The boats came home before the storm.";

#[test]
fn what_cannot_be_made_is_refused_before_anything_is_made() {
    let server = TestServer::start(|config| config.max_text = 1_000_000);
    let refused = |more: serde_json::Value, param: &str| {
        let mut body = json!({"input": TEXT, "max_new_tokens": 6});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let answer = server.json(PATH, &body);
        answer.fails(400, "invalid_value");
        let error = answer.json()["error"].clone();
        assert_eq!(error["param"], param, "{error}");
        error["message"].as_str().unwrap().to_owned()
    };
    refused(
        json!({"response_format": "opus", "sample_rate": 44_100}),
        "sample_rate",
    );
    refused(
        json!({"response_format": "wav", "sample_rate": 7}),
        "sample_rate",
    );
    for most in [0, 1] {
        refused(json!({"max_new_tokens": most}), "max_new_tokens");
    }
    assert!(server.app.engine().loaded().is_empty());
    refused(
        json!({"instructions": "x".repeat(1_000_001)}),
        "instructions",
    );
    refused(json!({"ref_text": "x".repeat(1_000_001)}), "ref_text");
    // More tokens than the model has positions.
    let message = refused(
        json!({"instructions": "slowly and ".repeat(40_000)}),
        "instructions",
    );
    assert!(message.contains("positions"), "{message}");
    // More sound than a voice is made of.
    let noise: Vec<f32> = (0..8_000 * 121).map(|n| (n % 7) as f32 / 10.0).collect();
    let long = STANDARD.encode(wav(&noise, 8_000));
    let message = refused(json!({"model": "base", "ref_audio": long}), "ref_audio");
    assert!(message.contains("at most 120 s"), "{message}");
}

#[test]
fn speech_comes_in_every_format_and_is_the_same() {
    let server = TestServer::start(|_| {});
    let say = |more: serde_json::Value| {
        let mut body = json!({"input": TEXT, "voice": "alloy", "seed": 3, "max_new_tokens": 7});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        server.json(PATH, &body)
    };
    let wav = say(json!({}));
    assert!(wav.head.contains("content-type: audio/wav"), "{}", wav.head);
    assert_eq!(wav.body.len(), 44 + 2 * 6 * 1920);
    // Its length was not known when it began.
    assert_eq!(wav.body[40..44], [0xff; 4]);
    let pcm = say(json!({"response_format": "pcm"}));
    assert!(pcm.head.contains("x-sample-rate: 24000"));
    assert!(pcm.body == wav.body[44..]);
    for (format, kind, start) in [
        ("flac", "audio/flac", b"fLaC"),
        ("opus", "audio/ogg", b"OggS"),
    ] {
        let answer = say(json!({"response_format": format}));
        assert!(answer.head.contains(&format!("content-type: {kind}")));
        assert!(answer.body.starts_with(start));
        if format == "opus" {
            let audio = turaco::Audio::from_bytes(answer.body, "speech").unwrap();
            let off = (audio.duration() - 0.48).abs();
            assert!(off < 0.03, "{}", audio.duration());
        } else {
            // Its length was not known when it began.
            assert_eq!(answer.body[22..26], [0; 4]);
            let audio = turaco::Audio::from_bytes(answer.body, "speech").unwrap();
            assert!((audio.duration() - 0.48).abs() < 1e-6);
        }
    }
    let events = say(json!({"response_format": "pcm", "stream_format": "sse"})).events();
    let mut sound = Vec::new();
    for event in events
        .iter()
        .filter(|event| event["type"] == "speech.audio.delta")
    {
        sound.extend(STANDARD.decode(event["audio"].as_str().unwrap()).unwrap());
    }
    assert!(sound == pcm.body);
    assert_eq!(events.last().unwrap()["usage"]["output_tokens"], 6);
    assert_eq!(events.last().unwrap()["stopped"], json!(["max_frames"]));
    let slow = say(json!({"response_format": "pcm", "sample_rate": 8000}));
    assert_eq!(slow.body.len(), pcm.body.len() / 3);
}

#[test]
fn what_cannot_be_said_is_said() {
    let server = TestServer::start(|config| config.max_text = 10);
    let say = |body: serde_json::Value| server.json(PATH, &body);
    say(json!({})).fails(400, "missing_required_parameter");
    say(json!({"input": " "})).fails(400, "invalid_value");
    say(json!({"input": "12345678901"})).fails(400, "invalid_value");
    say(json!({"input": "x", "response_format": "mp3"})).fails(400, "unsupported_value");
    say(json!({"input": "x", "response_format": "xyz"})).fails(400, "invalid_value");
    say(json!({"input": "x", "voice": "nobody"})).fails(404, "voice_not_found");
    say(json!({"input": "x", "model": "nothing"})).fails(404, "model_not_found");
    say(json!({"input": "x", "model": "tiny.en"})).fails(400, "unsupported_model_task");
    say(json!({"input": "x", "task_type": "Base"})).fails(400, "unsupported_model_task");
    say(json!({"input": "x", "speed": 9})).fails(400, "invalid_value");
    say(json!({"input": "x", "language": "klingon"})).fails(400, "invalid_value");
    say(json!({"input": "x", "sample_rate": 1})).fails(400, "invalid_value");
    say(json!({"input": 3})).fails(400, "invalid_value");
    server
        .form(PATH, &[("input", "x")], None)
        .fails(415, "unsupported_media_type");
}

#[test]
fn the_first_sound_comes_before_the_last_is_made_and_who_leaves_stops_it() {
    let server = TestServer::start(|_| {});
    let text = vec![TEXT; 400].join(" ");
    let body = json!({"input": text, "response_format": "pcm"}).to_string();
    let kind = [("Content-Type", "application/json")];
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream
        .write_all(&request("POST", PATH, &kind, body.as_bytes()))
        .unwrap();
    let mut first = [0; 2000];
    stream.read_exact(&mut first).unwrap();
    let in_use = || server.app.engine().loaded()[0].in_use;
    assert_eq!(in_use(), 1, "all was made before the first was sent");
    drop(stream);
    wait_until("speaking stopped", || in_use() == 0);
}

#[test]
fn what_a_recording_says_is_found_out_where_somebody_here_can() {
    let server = TestServer::start(|config| {
        config.tts_model = "base".into();
        config.model = "tiny.en".into();
    });
    let path = "/v1/audio/voices";
    let recording = std::fs::read(testdata("audio/jfk.wav")).unwrap();
    let create = |fields: &[(&str, &str)]| {
        let created = server.form(path, fields, Some(("a.wav", &recording)));
        assert_eq!(created.status, 201, "{created:?}");
        created.json()["text"].clone()
    };
    let heard = create(&[("name", "anna"), ("language", "en-US")]);
    let heard = heard.as_str().unwrap().to_lowercase();
    assert!(heard.contains("ask not what your country"), "{heard}");
    // Who knows English alone is not asked what is said in a language that nobody named.
    assert_eq!(create(&[("name", "berta")]), json!(null));
    let only_sound = [
        ("name", "carla"),
        ("language", "en"),
        ("x_vector_only_mode", "true"),
    ];
    assert_eq!(create(&only_sound), json!(null));
    assert_eq!(
        create(&[("name", "dora"), ("text", " ask not ")]),
        "ask not"
    );
    server
        .form(path, &[("name", "ryan")], Some(("a.wav", &recording)))
        .fails(400, "invalid_value");

    let inline = STANDARD.encode(&recording);
    let say = |more: serde_json::Value| {
        let mut body = json!({"input": TEXT, "ref_audio": inline, "max_new_tokens": 4, "seed": 3});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let spoken = server.json(PATH, &body);
        assert_eq!(spoken.status, 200, "{spoken:?}");
        spoken.body
    };
    let english = say(json!({"language": "en"}));
    assert!(english == say(json!({"language": "en", "ref_text": heard_as(&server, "anna")})));
    assert!(english != say(json!({"language": "en", "x_vector_only_mode": true})));
}

/// What is said in the recording of a saved voice.
fn heard_as(server: &TestServer, name: &str) -> String {
    let store = server.app.config().voices.clone().unwrap();
    store.find(name).unwrap().unwrap().text
}

#[test]
fn what_goes_with_another_model_names_it() {
    let server = TestServer::start(|_| {});
    for (body, right) in [
        (json!({"model": "base"}), "qwen3-tts-0.6b-customvoice"),
        (
            json!({"task_type": "CustomVoice"}),
            "qwen3-tts-0.6b-customvoice",
        ),
        (
            json!({"task_type": "Base", "model": "voice_design"}),
            "qwen3-tts-0.6b-base",
        ),
        (
            json!({"model": "base", "instructions": "slowly", "voice": "alloy"}),
            "qwen3-tts-1.7b-voicedesign",
        ),
    ] {
        let mut asked = json!({"input": TEXT});
        asked
            .as_object_mut()
            .unwrap()
            .extend(body.as_object().unwrap().clone());
        let answer = server.json(PATH, &asked);
        answer.fails(400, "unsupported_model_task");
        let message = answer.json()["error"]["message"].clone();
        assert!(message.as_str().unwrap().contains(right), "{message}");
    }
    let answer = server.json(
        PATH,
        &json!({"input": TEXT, "model": "base", "voice": "serena"}),
    );
    answer.fails(404, "voice_not_found");
    let message = answer.json()["error"]["message"].clone();
    let right = "qwen3-tts-0.6b-customvoice";
    assert!(message.as_str().unwrap().contains(right), "{message}");
}

#[test]
fn without_a_name_it_is_a_model_that_can_do_what_is_asked_for() {
    // The default speaks in a voice that is described.
    let server = TestServer::start(|_| {});
    let recording = std::fs::read(testdata("audio/jfk.wav")).unwrap();
    let fields = [("name", "anna"), ("text", "And so, my fellow Americans")];
    let created = server.form("/v1/audio/voices", &fields, Some(("a.wav", &recording)));
    assert_eq!(created.status, 201, "{created:?}");
    let inline = STANDARD.encode(&recording);
    for more in [
        json!({"voice": "anna"}),
        json!({"ref_audio": inline, "x_vector_only_mode": true}),
        json!({"voice": "anna", "task_type": "Base"}),
        json!({"voice": "alloy"}),
    ] {
        let mut body = json!({"input": TEXT, "max_new_tokens": 4});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let spoken = server.json(PATH, &body);
        assert_eq!(spoken.status, 200, "{spoken:?}");
    }
    // A model that is named is taken at its word.
    let named = json!({"input": TEXT, "voice": "anna", "model": "voice_design"});
    server
        .json(PATH, &named)
        .fails(400, "unsupported_model_task");
}

#[test]
fn the_seed_that_was_drawn_says_it_again() {
    let server = TestServer::start(|_| {});
    let mut body = json!({"input": TEXT, "max_new_tokens": 4, "response_format": "pcm"});
    let first = server.json(PATH, &body);
    let seed = first
        .head
        .lines()
        .find_map(|line| line.strip_prefix("x-seed: "));
    let seed: u64 = seed.unwrap().trim().parse().unwrap();
    body["seed"] = seed.into();
    assert!(server.json(PATH, &body).body == first.body);
    body["stream_format"] = "sse".into();
    let events = String::from_utf8(server.json(PATH, &body).body).unwrap();
    assert!(events.contains(&format!("\"seed\":{seed}")), "{events}");
}

#[test]
fn of_several_voices_of_a_name_at_the_same_time_one_is_saved() {
    let server = TestServer::start(|config| config.tts_model = "base".into());
    let path = "/v1/audio/voices";
    let recording = std::fs::read(testdata("audio/jfk.wav")).unwrap();
    let create = || {
        let fields = [("name", "anna"), ("x_vector_only_mode", "true")];
        server
            .form(path, &fields, Some(("a.wav", &recording)))
            .status
    };
    let mut answers: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(create)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    answers.sort_unstable();
    assert_eq!(answers, [201, 400, 400, 400]);
    let listed = server.get(path, &[]).json();
    assert_eq!(listed["voices"].as_array().unwrap().len(), 1);
}

#[test]
fn voices_are_saved_used_and_removed() {
    let server = TestServer::start(|config| config.tts_model = "base".into());
    let path = "/v1/audio/voices";
    assert_eq!(server.get(path, &[]).json(), json!({"voices": []}));
    let recording = std::fs::read(testdata("audio/jfk.wav")).unwrap();
    let fields = [("name", "anna"), ("text", "And so, my fellow Americans")];
    let created = server.form(path, &fields, Some(("a.wav", &recording)));
    assert_eq!(created.status, 201, "{created:?}");
    server
        .form(path, &fields, Some(("a.wav", &recording)))
        .fails(400, "invalid_value");
    let listed = server.get(path, &[]).json();
    assert_eq!(listed["voices"][0]["id"], "anna");
    assert_eq!(listed["voices"][0]["kind"], "saved");
    let body = json!({"input": TEXT, "voice": {"id": "anna"}, "max_new_tokens": 4});
    let spoken = server.json(PATH, &body);
    assert_eq!(spoken.status, 200, "{spoken:?}");
    let inline = STANDARD.encode(&recording);
    let both = json!({"input": TEXT, "voice": "anna", "ref_audio": inline});
    let refused = server.json(PATH, &both);
    refused.fails(400, "invalid_value");
    assert_eq!(refused.json()["error"]["param"], "voice");
    let body = json!({"input": TEXT, "ref_audio": format!("data:audio/wav;base64,{inline}"),
        "x_vector_only_mode": true, "max_new_tokens": 4});
    assert_eq!(server.json(PATH, &body).status, 200);
    let bad = [("name", "../x")];
    let refused = server.form(path, &bad, Some(("a.wav", &recording)));
    refused.fails(400, "invalid_value");
    assert_eq!(refused.json()["error"]["param"], "name");
    let remove = |name: &str| server.raw(&request("DELETE", &format!("{path}/{name}"), &[], b""));
    assert_eq!(remove("anna").status, 200);
    remove("anna").fails(404, "voice_not_found");
    remove("..%2Fx").fails(404, "voice_not_found");
}

#[test]
fn speech_is_found_in_a_recording() {
    let server = TestServer::start(|_| {});
    let recording = std::fs::read(testdata("audio/jfk.wav")).unwrap();
    let fields = [("vad_min_silence_duration_ms", "200")];
    let spans = server
        .form(
            "/v1/audio/speech/timestamps",
            &fields,
            Some(("a.wav", &recording)),
        )
        .json();
    let spans = spans.as_array().unwrap();
    assert!(spans.len() > 1, "{spans:?}");
    let end = |index: usize| spans[index]["end"].as_u64().unwrap();
    assert!(end(0) < spans[1]["start"].as_u64().unwrap() && end(spans.len() - 1) <= 11_000);
}
