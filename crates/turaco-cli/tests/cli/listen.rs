//! `turaco listen`, and a streaming model in the other commands.

use std::io::Write;
use std::process::Stdio;

use crate::support::{Home, Run, run, speech};

/// A small streaming model with random weights, made by the command itself.
fn model(home: &Home) -> String {
    let path = home.path("tiny");
    let path = path.to_str().unwrap();
    home.run([
        "models",
        "random",
        "voxtral-realtime-tiny",
        path,
        "--seed",
        "7",
    ])
    .succeeds();
    path.to_owned()
}

#[test]
fn a_pipe_and_a_file_give_the_same_text() {
    let home = Home::new();
    let model = model(&home);
    let jfk = speech();
    let jfk = jfk.to_str().unwrap();
    let transcribed = home.run([
        "transcribe",
        "-m",
        &model,
        "--continuous",
        "-f",
        "json",
        jfk,
    ]);
    let json: serde_json::Value = serde_json::from_str(transcribed.succeeds()).unwrap();
    let expected = json["text"].as_str().unwrap().trim().to_owned();
    assert!(!expected.is_empty());
    let listened = home.run(["listen", "-m", &model, jfk]);
    assert_eq!(listened.succeeds().trim(), expected);

    // Raw samples through a pipe, and what was heard kept.
    let kept = home.path("kept.wav");
    let bytes = std::fs::read(jfk).unwrap();
    let mut child = home
        .command([
            "listen",
            "-m",
            &model,
            "--jsonl",
            "--partial",
            "--save",
            kept.to_str().unwrap(),
            "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The file has a plain header of 44 bytes or more, ended by `data` and a length.
    let start = bytes.windows(4).position(|w| w == b"data").unwrap() + 8;
    for piece in bytes[start..].chunks(3001) {
        stdin.write_all(piece).unwrap();
    }
    drop(stdin);
    let piped: Run = child.wait_with_output().unwrap().into();
    let events: Vec<serde_json::Value> = piped
        .succeeds()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let text: String = events
        .iter()
        .filter(|event| event["type"] == "text")
        .map(|event| event["text"].as_str().unwrap())
        .collect();
    assert_eq!(text.trim(), expected);
    for kind in ["word", "segment"] {
        assert!(events.iter().any(|event| event["type"] == kind), "{kind}");
    }
    let samples = (bytes.len() - start) / 2;
    assert_eq!(
        std::fs::metadata(&kept).unwrap().len() as usize,
        44 + 2 * samples
    );
    let again = home.run(["listen", "-m", &model, kept.to_str().unwrap()]);
    assert_eq!(again.succeeds().trim(), expected);
}

#[test]
fn what_a_streaming_model_cannot_do_is_said() {
    let home = Home::new();
    let model = model(&home);
    let jfk = speech();
    let jfk = jfk.to_str().unwrap();
    for (line, code, part) in [
        (
            &["transcribe", "--detect-language", jfk][..],
            3,
            "cannot name the language",
        ),
        (&["translate", jfk], 3, "cannot translate"),
        (
            &["transcribe", "--delay", "100", jfk],
            2,
            "`--delay`: 100 ms is not possible: expected a multiple of 80",
        ),
        (&["transcribe", "--interval", "0", jfk], 2, "above 0"),
        (&["listen", "--draft-delay", "480", jfk], 2, "shorter delay"),
        (&["listen", "no-such-file.wav"], 4, "no-such-file.wav"),
        (&["listen", "--guesses", "4", jfk], 2, "--guesses"),
        (&["listen", "--mic", "no such device"], 4, ""),
    ] {
        let mut line = line.to_vec();
        line.extend(["-m", &model]);
        home.run(&line).fails(code, &[part]);
    }
    let whisper = home.run(["listen", "-m", "tiny.en", jfk]);
    whisper.fails(3, &["cannot listen", "voxtral-realtime"]);
    let warned = home.run(["transcribe", "-m", &model, "--hotwords", "Turaco", jfk]);
    warned.succeeds();
    assert!(
        warned.stderr.contains("hotwords has no effect"),
        "{warned:?}"
    );
}

#[test]
fn alternatives_stand_in_the_text_of_recordings_too() {
    let home = Home::new();
    let model = model(&home);
    let jfk = speech();
    let jfk = jfk.to_str().unwrap();
    let line = ["transcribe", "-m", &model, "--continuous", "-f", "txt", jfk];
    let plain = home.run(line);
    let shown = home.run([&line[..], &["--alt", "1"]].concat());
    let shown = shown.succeeds();
    assert!(shown.contains('[') && shown.contains('|'), "{shown}");
    let broken = |text: &str| text.matches('\u{fffd}').count();
    assert!(broken(shown) <= broken(plain.succeeds()), "{shown}");
    assert!(!plain.succeeds().contains('|'));
}

#[test]
fn the_processor_goes_on_where_a_graphics_processor_fails() {
    let home = Home::new();
    if !home.run(["doctor"]).stdout.contains("\ngraphics ") {
        eprintln!("SKIPPED: no graphics processor");
        return;
    }
    let model = model(&home);
    let jfk = speech();
    let jfk = jfk.to_str().unwrap();
    for fault in ["lost:0", "lost:40", "lost:90"] {
        let mut command = home.command(["listen", "-m", &model, "--jsonl", jfk]);
        command
            .env("TURACO_GPU_AUTO", "1")
            .env("TURACO_GPU_FAULT", fault);
        let run = run(&mut command);
        let words: Vec<serde_json::Value> = run
            .succeeds()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|event: &serde_json::Value| event["type"] == "word")
            .collect();
        let starts: Vec<f64> = words.iter().map(|w| w["start"].as_f64().unwrap()).collect();
        assert!(starts.is_sorted(), "{fault}: {starts:?}");
        assert!(
            starts.last().is_some_and(|&last| last > 9.0),
            "{fault}: {starts:?}"
        );
        let warnings = run.stderr.matches("the processor is used").count();
        assert_eq!(warnings, 1, "{fault}: {}", run.stderr);
    }
    // Recordings too. What a device fails with at once is heard by the processor alone.
    let transcribe = |device: &str, fault: &str| {
        let mut command = home.command(["transcribe", "-m", &model, "-f", "tsv", jfk]);
        command.args(["--continuous", "--compute-type", "f32", "--device", device]);
        command
            .env("TURACO_GPU_AUTO", "1")
            .env("TURACO_GPU_FAULT", fault);
        run(&mut command)
    };
    let expected = transcribe("cpu", "");
    for fault in ["lost:0", "buffers:50000", "lost:40"] {
        let run = transcribe("auto", fault);
        let rows = run.succeeds().lines().skip(1);
        let times = rows.flat_map(|row| row.split('\t').take(2));
        let times: Vec<u32> = times.map(|time| time.parse().unwrap()).collect();
        if fault == "lost:40" {
            assert!(times.is_sorted(), "{times:?}");
            assert!(times.last().is_some_and(|&last| last > 9_000), "{times:?}");
        } else {
            assert_eq!(run.stdout, expected.stdout, "{fault}");
        }
        let warnings = run.stderr.matches("the processor is used").count();
        assert_eq!(warnings, 1, "{fault}: {}", run.stderr);
    }
    transcribe("wgpu", "buffers:50000").fails(6, &["would take", "its largest buffer is"]);
}

#[test]
fn a_quantised_copy_listens_too() {
    let home = Home::new();
    let model = model(&home);
    let jfk = speech();
    let jfk = jfk.to_str().unwrap();
    for kind in ["bf16", "q8", "q4"] {
        let packed = home.path(kind);
        let packed = packed.to_str().unwrap();
        home.run(["models", "quantize", &model, packed, "--type", kind])
            .succeeds();
        let info = home.run(["models", "info", packed, "--json"]);
        let info: serde_json::Value = serde_json::from_str(info.succeeds()).unwrap();
        assert_eq!(info["kind"], "voxtral-realtime");
        let direct = home.run(["transcribe", "-m", &model, "--compute-type", kind, jfk]);
        let loaded = home.run(["transcribe", "-m", packed, jfk]);
        assert_eq!(loaded.succeeds(), direct.succeeds(), "{kind}");
    }
}

#[test]
fn broken_models_are_named() {
    let home = Home::new();
    let model = model(&home);
    let jfk = speech();
    let file = |name: &str| std::path::Path::new(&model).join(name);
    let check = |part: &str| {
        home.run(["transcribe", "-m", &model, jfk.to_str().unwrap()])
            .fails(3, &[part]);
    };
    let params = std::fs::read_to_string(file("params.json")).unwrap();
    let weights = std::fs::read(file("consolidated.safetensors")).unwrap();
    let tekken = std::fs::read_to_string(file("tekken.json")).unwrap();
    for (from, to, part) in [
        ("\"n_layers\": 2", "\"n_layers\": 3", "is missing"),
        ("\"head_dim\": 16", "\"head_dim\": 15", "width 15"),
        (
            "\"sliding_window\": 40",
            "\"sliding_window\": 0",
            "positive whole number",
        ),
        ("\"hidden_dim\": 96", "\"hidden_dim\": \"x\"", "hidden_dim"),
        (
            "\"hop_length\": 160",
            "\"hop_length\": 900000000",
            "900000000 samples between frames",
        ),
        (
            "\"sliding_window\": 40",
            "\"sliding_window\": 1000000000",
            "attention window",
        ),
    ] {
        assert!(params.contains(from), "{from}");
        std::fs::write(file("params.json"), params.replace(from, to)).unwrap();
        check(part);
    }
    std::fs::write(file("params.json"), &params).unwrap();
    std::fs::write(file("tekken.json"), &tekken[..tekken.len() / 2]).unwrap();
    check("tekken.json");
    std::fs::remove_file(file("tekken.json")).unwrap();
    check("tekken.json");
    std::fs::write(file("tekken.json"), &tekken).unwrap();
    std::fs::write(
        file("consolidated.safetensors"),
        &weights[..weights.len() - 100],
    )
    .unwrap();
    check("truncated");
    let mut nan = weights.clone();
    let at = nan.len() - 200;
    nan[at..at + 2].copy_from_slice(&[0xc0, 0x7f]);
    std::fs::write(file("consolidated.safetensors"), &nan).unwrap();
    check("NaN");
}

#[test]
fn a_cut_recording_is_told() {
    let home = Home::new();
    let model = model(&home);
    let cut = home.path("cut.wav");
    let mut bytes = std::fs::read(speech()).unwrap();
    bytes.truncate(100_000);
    std::fs::write(&cut, bytes).unwrap();
    let heard = home.run(["listen", "-m", &model, cut.to_str().unwrap()]);
    heard.succeeds();
    assert!(heard.stderr.contains("file is truncated"), "{heard:?}");
}
