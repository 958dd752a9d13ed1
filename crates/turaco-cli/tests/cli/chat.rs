//! `turaco chat`, and what other commands do with its models.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Home, has_graphics, run, speech};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/voxtral-mini/mistral")
}

/// The program with a model that says nonsense, but always the same.
fn chat(home: &Home, args: &[&str]) -> std::process::Command {
    let mut command = home.command(["chat", "--temperature", "0", "--max-tokens", "8"]);
    command
        .args(["--compute-type", "f32", "-m"])
        .arg(model())
        .args(args);
    command
}

fn typed(command: &mut std::process::Command, lines: &str) -> crate::support::Run {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn text_and_sound_are_answered() {
    let home = Home::new();
    let text = run(&mut chat(&home, &["Hello"]));
    assert!(text.succeeds().ends_with('\n'));
    let json = run(chat(&home, &["Hello", "--json", "--audio"]).arg(speech()));
    let answer: Value = serde_json::from_str(json.succeeds()).unwrap();
    // Two chunks of 100 audio tokens.
    assert!(
        answer["usage"]["prompt_tokens"].as_u64().unwrap() > 200,
        "{answer}"
    );
    assert_eq!(answer["usage"]["cached_tokens"], 0);
    assert_eq!(answer["timings"]["chunks"], 2);
    // Sound alone is a question too, and lines are a conversation.
    let alone = run(chat(&home, &["--timing", "--audio"]).arg(speech()));
    assert!(alone.stderr.contains("tokens of prompt"), "{alone:?}");
    alone.succeeds();
    let talk = typed(&mut chat(&home, &["--json"]), "Hello\n\nAnd you?\n");
    let answers: Vec<Value> = talk
        .succeeds()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 2);
    assert_eq!(
        format!("{}\n", answers[0]["text"].as_str().unwrap()),
        text.stdout
    );
    assert!(
        answers[1]["usage"]["cached_tokens"].as_u64().unwrap() > 3,
        "{answers:?}"
    );
}

/// A chat endpoint that answers every request with the same words; what it was asked.
fn endpoint(n_requests: usize) -> (String, std::thread::JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let asked = (0..n_requests).map(|_| {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let (mut line, mut length) = (String::new(), 0);
            while stream.read_line(&mut line).unwrap() > 2 {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let answer = "data: {\"choices\": [{\"delta\": {\"content\": \"Good day.\"}}]}\n\ndata: [DONE]\n\n";
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
            let answer = format!("{head}{answer}");
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
            serde_json::from_slice(&body).unwrap()
        });
        asked.collect()
    });
    (url, serving)
}

#[test]
fn an_endpoint_is_asked_in_writing() {
    let home = Home::new();
    let (url, asked) = endpoint(3);
    let said = home.run([
        "chat",
        "--llm-url",
        &url,
        "--max-tokens",
        "3",
        "--system",
        "Be brief.",
        "Hello",
    ]);
    assert_eq!(said.succeeds(), "Good day.\n");
    let mut lines = home.command(["chat", "--llm-url", &url, "--json"]);
    let lines = typed(&mut lines, "Hello\nAnd you?\n");
    let answer: Value = serde_json::from_str(lines.succeeds().lines().next().unwrap()).unwrap();
    assert_eq!(
        (&answer["text"], &answer["finish_reason"]),
        (&"Good day.".into(), &"stop".into())
    );
    let asked = asked.join().unwrap();
    assert_eq!(asked[0]["max_tokens"], 3);
    assert!(asked[1]["max_tokens"].is_null() && asked[1]["temperature"].is_null());
    let said = |body: &Value| -> Vec<String> {
        let messages = body["messages"].as_array().unwrap().iter();
        messages
            .map(|message| message["content"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(said(&asked[0]), ["Be brief.", "Hello"]);
    assert_eq!(said(&asked[2]), ["Hello", "Good day.", "And you?"]);
    let sound = home
        .command(["chat", "--llm-url", &url, "--audio"])
        .arg(speech())
        .arg("What?")
        .output();
    crate::support::Run::from(sound.unwrap()).fails(2, &["--audio", "--talk"]);
    home.run(["chat", "--llm-url", &url, "--seed", "1", "Hello"])
        .fails(2, &["--seed"]);
}

#[test]
fn what_does_not_fit_is_not_said_and_the_conversation_goes_on() {
    let home = Home::new();
    // The model has 4096 positions, and a token for each of these letters.
    let long = |letter: &str| letter.repeat(1700) + "\n";
    let lines = [
        "hi\n".to_owned(),
        "x".repeat(9000) + "\n",
        long("a"),
        long("b"),
        long("c"),
        "bye\n".to_owned(),
    ];
    let run = typed(&mut chat(&home, &["--json"]), &lines.concat());
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert_eq!(run.stdout.lines().count(), 5, "{}", run.stdout);
    for said in ["not said", "no room for the oldest"] {
        assert!(run.stderr.contains(said), "{said}: {}", run.stderr);
    }
}

#[test]
fn mistakes_are_named() {
    let home = Home::new();
    run(&mut chat(&home, &["Hello", "--audio", "none.wav"])).fails(4, &["none.wav"]);
    run(&mut chat(&home, &["Hello", "--max-tokens", "0"])).fails(2, &["--max-tokens"]);
    run(&mut chat(&home, &["Hello", "--temperature", "11"])).fails(2, &["temperature"]);
    run(&mut chat(&home, &["--audio", "-"])).fails(2, &["--audio - "]);
    run(chat(&home, &["Hello", "--system", "Be brief.", "--audio"]).arg(speech()))
        .fails(2, &["system_as_text"]);
    run(chat(
        &home,
        &["Hello", "--system", "x", "--system-as-text", "--audio"],
    )
    .arg(speech()))
    .succeeds();
    home.write("tools.json", "{}");
    run(&mut chat(&home, &["Hello", "--tools", "tools.json"])).fails(2, &["tools.json", "list"]);
    let tools = r#"[{"type": "function", "function": {"name": "now", "parameters": {}}}]"#;
    home.write("tools.json", tools);
    run(&mut chat(&home, &["Hello", "--tools", "tools.json"])).succeeds();
    // Not here, and not to be fetched.
    home.run(["chat", "Hello"]).fails(5, &["voxtral-mini"]);
}

#[test]
fn recordings_are_written_down() {
    let home = Home::new();
    let transcribe = |args: &[&str]| {
        let mut command = home.command(["transcribe", "--max-new-tokens", "6", "-l", "en", "-m"]);
        run(command.arg(model()).args(args).arg(speech()))
    };
    assert!(transcribe(&[]).succeeds().ends_with('\n'));
    let json = transcribe(&["-f", "json"]);
    let facts: Value = serde_json::from_str(json.succeeds()).unwrap();
    assert_eq!(facts["segments"].as_array().unwrap().len(), 1);
    assert_eq!(facts["language"], "en");
    // Times are those of stretches.
    let srt = transcribe(&["-f", "srt", "--chunk-length", "5"]);
    assert!(srt.succeeds().matches("-->").count() >= 3, "{srt:?}");
    let warned = transcribe(&["--word-timestamps"]);
    assert!(
        warned.stderr.contains("word_timestamps has no effect"),
        "{warned:?}"
    );
    let mut translate = home.command(["translate", "-m"]);
    run(translate.arg(model()).arg(speech())).fails(3, &["translate"]);
}

#[test]
fn models_are_made_packed_and_described() {
    let home = Home::new();
    home.run(["models", "random", "voxtral-mini-tiny", "tiny"])
        .succeeds();
    home.run(["models", "quantize", "--type", "q8", "tiny", "tiny8"])
        .succeeds();
    let facts = |name: &str| -> Value {
        let info = home.run(["models", "info", "--json", name]);
        serde_json::from_str(info.succeeds()).unwrap()
    };
    let (plain, packed) = (facts("tiny"), facts("tiny8"));
    assert_eq!(plain["kind"], "voxtral-mini");
    assert_eq!(plain["prompts"], "v7");
    for key in [
        "encoder",
        "decoder",
        "parameters",
        "vocabulary",
        "positions",
    ] {
        assert_eq!(plain[key], packed[key], "{key}");
    }
    let say = |model: &str, compute_type: &str| {
        let args = [
            "chat",
            "-m",
            model,
            "--compute-type",
            compute_type,
            "Hi",
            "--max-tokens",
            "6",
        ];
        home.run(args).succeeds().to_owned()
    };
    assert_eq!(say("tiny", "q8"), say("tiny8", "auto"));
}

#[test]
fn the_processor_goes_on_with_an_answer_where_a_graphics_processor_fails() {
    if !has_graphics() {
        return;
    }
    let home = Home::new();
    let said = |device: &str, fault: Option<&str>| {
        let mut command = chat(
            &home,
            &["What is said?", "--json", "--device", device, "--audio"],
        );
        command.arg(speech()).env("TURACO_GPU_AUTO", "1");
        if let Some(fault) = fault {
            command.env("TURACO_GPU_FAULT", fault);
        }
        let run = run(&mut command);
        let answer: Value = serde_json::from_str(run.succeeds()).unwrap();
        let warnings = run.stderr.matches("the processor is used").count();
        (answer["text"].clone(), answer["usage"].clone(), warnings)
    };
    let (text, usage, _) = said("cpu", None);
    // While the sound is heard, with the prompt, and between tokens.
    for fault in ["lost:0", "lost:1", "lost:2", "lost:4", "lost:6"] {
        let (again, used, warnings) = said("auto", Some(fault));
        assert_eq!((&again, &used), (&text, &usage), "{fault}");
        assert_eq!(warnings, 1, "{fault}");
    }
}
