//! `turaco chat --talk`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::speak;
use crate::support::{Home, model, run};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata")
        .join(name)
}

/// The program with a small model of random weights that hears, listening to five seconds of speech.
fn talk(home: &Home, args: &[&str]) -> std::process::Command {
    let mut command = home.command(["chat", "--talk", "--temperature", "0", "--max-tokens", "12"]);
    command
        .args(["--turn-silence", "1500", "--device", "cpu", "-m"])
        .arg(testdata("voxtral-mini/mistral"))
        .arg("--listen")
        .arg(testdata("audio/5s_dont_worry_about_him.wav"))
        .args(args);
    command
}

#[test]
fn speech_is_answered_with_speech() {
    let home = Home::new();
    let voice = speak::model(&home, "voice_design");
    let (sound, history) = (home.path("a.wav"), home.path("c.json"));
    let mut command = talk(
        &home,
        &["--events", "--tts-model", &voice, "--system", "Be brief."],
    );
    command.arg("--answers").arg(&sound);
    command.arg("--transcript").arg(&history);
    // An ear that writes nonsense will do.
    command.arg("--ear").arg(model());
    let result = run(&mut command);
    let events: Vec<Value> = (result.succeeds().lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let place = |kind: &str| {
        let found = events.iter().position(|event| event["type"] == kind);
        found.unwrap_or_else(|| panic!("no {kind}: {events:?}"))
    };
    assert!(place("speech_started") < place("committed"));
    assert!(place("committed") < place("answer_started"));
    assert!(place("answer_started") < place("answer_ended"));
    place("heard");
    let ended = &events[place("answer_ended")];
    assert!(
        ["completed", "cut"].contains(&ended["end"].as_str().unwrap()),
        "{ended}"
    );
    assert!(ended["timings"]["total"].as_f64().unwrap() > 0.0);
    let bytes = fs::read(&sound).unwrap();
    assert!(bytes.starts_with(b"RIFF"));
    let said = events.iter().any(|event| event["type"] == "answer_audio");
    assert_eq!(bytes.len() > 44, said);
    let history: Value = serde_json::from_slice(&fs::read(&history).unwrap()).unwrap();
    assert_eq!(history["messages"][0]["role"], "user");
    assert_eq!(history["summary"]["user_messages"], 1);
}

#[test]
fn text_is_shown_and_what_cannot_be_done_is_said() {
    let home = Home::new();
    let shown = run(&mut talk(&home, &["-v"]));
    // The sound ends behind the question, so that no silence is waited for.
    assert!(shown.stderr.contains("first text"), "{shown:?}");
    assert!(!shown.stderr.contains("turn over after"), "{shown:?}");
    shown.succeeds();
    home.run(["chat", "--talk", "Hello", "-m", "nowhere"])
        .fails(2, &["TEXT cannot be used with --talk"]);
    home.run(["chat", "--talk", "--llm-url", "nowhere"])
        .fails(2, &["llm-url", "http://host:port"]);
    run(&mut talk(&home, &["--answers", "a.wav"])).fails(2, &["--tts-model"]);
    home.run(["chat", "--events", "Hello"])
        .fails(2, &["--talk"]);
}
