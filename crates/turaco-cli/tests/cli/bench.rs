//! `turaco bench`: numbers, files and verdicts.

use serde_json::Value;

use crate::support::{Home, SHORT, model, speech, wav};

/// One quick measurement of a random model.
fn quick<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let model = model().to_str().unwrap();
    let mut line = vec!["bench", "-m", model, "-n", "1", "--warm-up=0"];
    line.extend(SHORT);
    line.extend(more);
    line
}

fn object(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn tables_have_the_protocol_s_numbers() {
    let home = Home::new();
    let run = home.run(quick(&[]));
    let text = run.succeeds();
    for part in [
        "overall_rtf",
        "ms/step",
        "first token",
        "tokens/s",
        "x the floor",
        "jfk.wav",
        "A  find",
        "L  output",
        "WER",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(run.stderr.contains("pass 1 of 1"), "{}", run.stderr);
}

#[test]
fn numbers_traces_and_charts_are_files() {
    let home = Home::new();
    let clip = home.write("a b.wav", wav(1.0));
    home.write("a b.txt", "hello\n");
    let clip = clip.to_str().unwrap();
    let run = home.run(quick(&[
        clip,
        "--json",
        "--save=base.json",
        "--trace=trace.json",
        "--plot=chart.svg",
        "--memory-limit=5000",
    ]));
    let printed = object(run.succeeds());
    let saved = object(&std::fs::read_to_string(home.path("base.json")).unwrap());
    assert_eq!(printed, saved);
    assert_eq!(saved["inputs"][0], "a b.wav");
    assert_eq!(saved["memory_limit"], 5_000_000_000_u64);
    assert_eq!(saved["options"]["beam_size"], 1);
    let transcription = &saved["transcription"];
    assert_eq!(transcription["audio_seconds"], 1.0);
    for name in ["overall_rtf", "weighted_step_ms", "load_seconds"] {
        assert!(transcription[name].as_f64().unwrap() > 0.0, "{name}");
    }
    let letters: String = transcription["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|step| step["letter"].as_str())
        .collect();
    assert_eq!(letters, "ABCDEFGHIJKL");
    assert!(transcription["word_error_rate"].is_f64());

    let trace = object(&std::fs::read_to_string(home.path("trace.json")).unwrap());
    let events = trace["traceEvents"].as_array().unwrap();
    for name in ["run", "mel", "encoder.layer.0", "decoder.layer.0", "linear"] {
        assert!(events.iter().any(|e| e["name"] == name), "no span {name}");
    }
    let chart = std::fs::read_to_string(home.path("chart.svg")).unwrap();
    assert!(chart.starts_with("<svg ") && chart.trim_end().ends_with("</svg>"));
}

#[test]
fn a_baseline_is_the_judge() {
    let home = Home::new();
    home.run(quick(&["--save=base.json", "-q"])).succeeds();
    let saved = object(&std::fs::read_to_string(home.path("base.json")).unwrap());
    let with_times = |factor: f64, limit: u64| {
        let mut baseline = saved.clone();
        for measure in baseline["measures"].as_array_mut().unwrap() {
            measure["value"] = (measure["value"].as_f64().unwrap() * factor).into();
        }
        baseline["memory_limit"] = limit.into();
        home.write("base.json", baseline.to_string());
    };
    let against = quick(&["--against=base.json"]);

    // So slow that whatever this machine does meanwhile is faster.
    with_times(1e6, 1 << 50);
    let run = home.run(&against);
    assert!(run.succeeds().contains("0 failed"), "{run:?}");

    with_times(1e-6, 1 << 50);
    let run = home.run(&against);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("FAILED") && run.stdout.contains("WARNING"));
    assert!(run.stderr.contains("worse than the baseline"), "{run:?}");
    assert!(run.stderr.contains("encoder"), "{run:?}");

    with_times(1e6, 1);
    let run = home.run(&against);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("peak memory"), "{run:?}");

    // With --json, stdout stays one object.
    let mut line = against.clone();
    line.push("--json");
    let run = home.run(&line);
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(object(&run.stdout)["kind"], "transcription");

    // Another thing was measured.
    let mut line = against;
    line.extend(["--beam-size=2", "-q"]);
    home.run(&line).fails(2, &["options", "base.json"]);
}

#[test]
fn kernels_are_measured_by_themselves() {
    let home = Home::new();
    let line = ["bench", "--kernels", "-n1", "-t1", "--filter=1x384x384"];
    let run = home.run(line.iter().chain(&["--save=kernels.json"]));
    let text = run.succeeds();
    assert!(text.contains("matrix-vector") && text.contains("GB/s"));
    let saved = object(&std::fs::read_to_string(home.path("kernels.json")).unwrap());
    assert!(saved["kernels"].as_array().unwrap().len() >= 4);
    let run = home.run(
        line.iter()
            .chain(&["--isa=scalar", "--filter=f32", "--json"]),
    );
    let scalar = object(run.succeeds());
    assert_eq!(scalar["machine"]["instructions"], "scalar");
    assert_eq!(scalar["kernels"].as_array().unwrap().len(), 1);
    // Of other kernels, so not comparable.
    home.run([
        "bench",
        "--kernels",
        "-n1",
        "-t1",
        "--filter=layer",
        "--against=kernels.json",
    ])
    .fails(2, &["something else"]);
}

#[test]
fn mistakes_show_before_work_starts() {
    let home = Home::new();
    home.write("notes.json", "{\"a\": 1}");
    for (line, words) in [
        (&["--filter=x"][..], "--kernels"),
        (&["--isa=avx2"], "--kernels"),
        (&["--kernels", "a.wav"], "recordings"),
        (&["--kernels", "--trace=t.json"], "--trace"),
        (&["--kernels", "--filter=abacus"], "abacus"),
        (&["--kernels", "--isa=z80"], "scalar"),
        (&["--by-floor"], "--against"),
        (&["--memory-limit=5"], "--save"),
        (&["--memory-limit=0", "--save=x.json"], "above 0"),
        (&["--plot=chart.png"], ".svg"),
        (&["--against=notes.json"], "no baseline"),
        (&["--detect-language"], "--detect-language"),
        (&["--language=klingon"], "klingon"),
        (&["-n", "0"], "--repeats"),
        (&["-"], "standard input"),
    ] {
        let run = home.run(["bench"].iter().chain(line));
        run.fails(2, &[words]);
    }
    home.run(["bench", "--against=gone.json"])
        .fails(4, &["gone.json"]);
    let model = model().to_str().unwrap();
    let speech = speech();
    let line = ["bench", "-m", model, speech.to_str().unwrap(), "gone.wav"];
    home.run(line).fails(4, &["gone.wav"]);
}
