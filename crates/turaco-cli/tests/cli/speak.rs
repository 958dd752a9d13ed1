//! `turaco speak` and `turaco voices`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::{Home, Run, has_graphics, run, speech};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/qwen3-tts")
        .join(name)
}

/// A small model with random weights; all of them share a codec.
pub fn model(home: &Home, variant: &str) -> String {
    let folder = home.path(variant);
    for (from, to) in [
        (testdata(variant), folder.clone()),
        (
            testdata("base/speech_tokenizer"),
            folder.join("speech_tokenizer"),
        ),
    ] {
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
    folder.to_str().unwrap().to_owned()
}

const TEXT: &str = "The boats came home before the storm.";

#[test]
fn text_becomes_a_file_a_stream_and_json() {
    let home = Home::new();
    let model = model(&home, "voice_design");
    let (wav, pcm) = (home.path("a.wav"), home.path("a.pcm"));
    let common = ["-m", &model, TEXT, "--seed", "3", "--max-frames", "6"];
    let speak = |more: &[&str]| home.run(["speak"].iter().chain(&common).chain(more).copied());
    let plot = home.path("a.svg");
    let result = speak(&[
        "-o",
        wav.to_str().unwrap(),
        "--json",
        "--plot",
        plot.to_str().unwrap(),
    ]);
    let json: serde_json::Value = serde_json::from_str(result.succeeds()).unwrap();
    assert_eq!(json["frames"], 6);
    assert_eq!(json["pieces"][0]["stopped"], "max_frames");
    assert_eq!(json["pieces"][0]["text"], TEXT);
    assert!(fs::read_to_string(plot).unwrap().contains("<svg"));
    let wav = fs::read(wav).unwrap();
    assert_eq!(wav.len(), 44 + 2 * 6 * 1920);
    assert_eq!(wav[40..44], (2 * 6 * 1920_u32).to_le_bytes());

    // Raw samples, and what goes to a pipe, are the same sound.
    speak(&["-o", pcm.to_str().unwrap()]).succeeds();
    assert!(fs::read(&pcm).unwrap() == wav[44..]);
    let piped = home
        .command(["speak"].iter().chain(&common).copied())
        .output()
        .unwrap();
    assert!(piped.stdout.starts_with(b"RIFF") && piped.stdout[44..].len() == wav[44..].len());
    let other = home.path("b.pcm");
    let other_seed = ["-o", other.to_str().unwrap(), "--seed", "4"];
    speak(&other_seed).succeeds();
    assert!(fs::read(other).unwrap() != wav[44..]);
}

#[test]
fn text_is_said_while_it_comes_in() {
    let home = Home::new();
    let model = model(&home, "voice_design");
    let out = home.path("a.wav");
    let mut child = home
        .command([
            "speak",
            "-m",
            &model,
            "--max-frames",
            "3",
            "--json",
            "-o",
            out.to_str().unwrap(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Characters are cut in two, too.
    for bytes in "Good morning, dear all! C'était calme, là-bas — 今天天气很好。Yes."
        .as_bytes()
        .chunks(5)
    {
        stdin.write_all(bytes).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let pieces = json["pieces"].as_array().unwrap();
    assert_eq!(pieces[0]["text"], "Good morning, dear all!");
    assert_eq!(json["frames"], 3 * pieces.len());
}

const TWO_PIECES: &str = "The boats came home before the storm, all of them, and late. Nobody was lost that night, they said.";

/// Say two pieces of text on a graphics processor that fails; the samples that came out.
fn speak_with_fault(
    home: &Home,
    model: &str,
    device: &str,
    fault: Option<&str>,
) -> (Run, Vec<i16>) {
    let out = home.path("fault.wav");
    let _ = fs::remove_file(&out);
    let arguments = [
        "speak",
        TWO_PIECES,
        "-m",
        model,
        "--device",
        device,
        "--compute-type",
        "f32",
        "--seed",
        "3",
        "--max-frames",
        "6",
        "-o",
        out.to_str().unwrap(),
    ];
    let mut command = home.command(arguments);
    command.env("TURACO_GPU_AUTO", "1");
    if let Some(fault) = fault {
        command.env("TURACO_GPU_FAULT", fault);
    }
    let result = run(&mut command);
    let bytes = fs::read(out).unwrap_or_default();
    let samples = bytes.get(44..).unwrap_or_default().chunks_exact(2);
    let samples = samples.map(|two| i16::from_le_bytes([two[0], two[1]]));
    (result, samples.collect())
}

#[test]
fn the_processor_goes_on_without_a_seam_where_a_graphics_processor_fails() {
    if !has_graphics() {
        return;
    }
    let home = Home::new();
    let model = model(&home, "voice_design");
    let (spoken, expected) = speak_with_fault(&home, &model, "cpu", None);
    spoken.succeeds();
    assert!(expected.len() > 8 * 1920);
    // At once, within the first piece, within the second, and while memory is taken.
    for fault in ["lost:0", "lost:60", "lost:74", "lost:84", "memory:1500000"] {
        let (spoken, samples) = speak_with_fault(&home, &model, "auto", Some(fault));
        assert_eq!(spoken.code, 0, "{fault}: {spoken:?}");
        assert_eq!(samples.len(), expected.len(), "{fault}");
        let differs = samples
            .iter()
            .zip(&expected)
            .map(|(a, b)| a.abs_diff(*b))
            .max();
        assert!(differs.unwrap() <= 30, "{fault}: {differs:?}");
        let warnings = spoken.stderr.matches("the processor is used").count();
        assert_eq!(warnings, 1, "{fault}: {}", spoken.stderr);
    }
}

#[test]
fn speech_that_fails_in_the_middle_leaves_what_was_said() {
    if !has_graphics() {
        return;
    }
    let home = Home::new();
    let model = model(&home, "voice_design");
    let (spoken, samples) = speak_with_fault(&home, &model, "wgpu", Some("lost:80"));
    spoken.fails(
        6,
        &["it was lost", "what was said until then is in", "fault.wav"],
    );
    assert!(
        !samples.is_empty() && samples.len() < 2 * 6 * 1920,
        "{}",
        samples.len()
    );
}

#[test]
fn what_was_there_is_kept_until_there_is_something_else() {
    let home = Home::new();
    let model = model(&home, "voice_design");
    let kept = home.path("keep.wav");
    fs::write(&kept, "precious").unwrap();
    let speak = |text: &[u8]| {
        let out = kept.to_str().unwrap();
        let line = [
            "speak",
            "-m",
            &model,
            "--stream",
            "--max-frames",
            "2",
            "-o",
            out,
        ];
        let mut child = home
            .command(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text).unwrap();
        Run::from(child.wait_with_output().unwrap())
    };
    speak(b"").fails(2, &["nothing came in"]);
    speak(b"caf\xc3").fails(4, &["in the middle of a character"]);
    assert_eq!(fs::read(&kept).unwrap(), b"precious");
    speak(b"Good morning.").succeeds();
    assert!(fs::read(&kept).unwrap().starts_with(b"RIFF"));
}

#[test]
fn voices_are_saved_listed_used_and_removed() {
    let home = Home::new();
    let model = model(&home, "base");
    let recording = speech();
    let recording = recording.to_str().unwrap();
    let create = [
        "voices",
        "create",
        "anna",
        "-m",
        &model,
        "--ref-audio",
        recording,
    ];
    home.run(create).fails(2, &["--ref-text"]);
    home.run(create.iter().chain(&["--x-vector-only"]).copied())
        .succeeds();
    home.run(create.iter().chain(&["--ref-text", "ask not"]).copied())
        .fails(2, &["--force"]);
    let listed = home.run(["voices", "list", "--json", "-m", &model]);
    let json: serde_json::Value = serde_json::from_str(listed.succeeds()).unwrap();
    assert_eq!(json["saved"], serde_json::json!(["anna"]));
    assert_eq!(json["model"]["kind"], "Base");
    let out = home.path("a.wav");
    let speak = |more: &[&str]| {
        let common = [
            "speak",
            "-m",
            &model,
            TEXT,
            "--max-frames",
            "2",
            "-o",
            out.to_str().unwrap(),
        ];
        home.run(common.iter().chain(more).copied())
    };
    speak(&["--voice", "anna"]).succeeds();
    speak(&["--voice", "berta"]).fails(2, &["no saved voice `berta`"]);
    speak(&[]).fails(3, &["recording"]);
    let script = home.path("talk.txt");
    fs::write(&script, "anna: Good morning.\nIt was calm.\n").unwrap();
    let said = home.run([
        "speak",
        "-m",
        &model,
        "--script",
        script.to_str().unwrap(),
        "--max-frames",
        "2",
        "--json",
        "-o",
        out.to_str().unwrap(),
    ]);
    // Nobody is given for other lines, but there are none.
    let json: serde_json::Value = serde_json::from_str(said.succeeds()).unwrap();
    assert_eq!(json["frames"], 4);
    home.run(["voices", "remove", "anna"]).succeeds();
    home.run(["voices", "remove", "anna"]).fails(2, &["anna"]);
}

#[test]
fn frames_are_measured_traced_and_compared() {
    let home = Home::new();
    let model = model(&home, "voice_design");
    let bench = |more: &[&str]| {
        let common = [
            "bench",
            "-m",
            &model,
            "--frames=4",
            "-n=1",
            "--utterances=1,2",
        ];
        home.run(common.iter().chain(more).copied())
    };
    let saved = bench(&["--save=base.json", "--trace=trace.json"]);
    assert!(saved.succeeds().contains("ms/frame"), "{saved:?}");
    let trace = fs::read_to_string(home.path("trace.json")).unwrap();
    assert!(trace.contains("code_predictor") && trace.contains("talker"));
    let baseline = fs::read_to_string(home.path("base.json")).unwrap();
    let mut baseline: serde_json::Value = serde_json::from_str(&baseline).unwrap();
    assert_eq!(baseline["kind"], "speech");
    assert_eq!(baseline["measures"].as_array().unwrap().len(), 8);
    for measure in baseline["measures"].as_array_mut().unwrap() {
        measure["value"] = (measure["value"].as_f64().unwrap() * 1e6).into();
    }
    let mut against = |limit: u64| {
        baseline["memory_limit"] = limit.into();
        home.write("base.json", baseline.to_string());
        bench(&["--against=base.json"])
    };
    let run = against(1 << 50);
    assert!(run.succeeds().contains("0 failed"), "{run:?}");
    assert!(run.stdout.contains("talker, 1 at once"), "{run:?}");
    // The parts of a model as small as this one take less time than the clock tells; its memory does not.
    let run = against(1);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("peak memory"), "{run:?}");
    bench(&["--against=base.json", "--compute-type=q8"]).fails(2, &["compute type", "base.json"]);
    bench(&["--plot=a.svg"]).fails(2, &["--plot"]);
    bench(&["--positions=1,9"]).fails(3, &["model"]);
}

#[test]
fn what_cannot_be_done_is_said() {
    let home = Home::new();
    let model = model(&home, "voice_design");
    let out = home.path("a.wav");
    let out = out.to_str().unwrap();
    home.run(["speak", "-m", &model, " ", "-o", out])
        .fails(2, &["no text"]);
    home.run(["speak", "-m", &model, TEXT, "--voice", "ryan", "-o", out])
        .fails(3, &["CustomVoice"]);
    home.run(["speak", "-m", &model, TEXT, "-o", "a.wma"])
        .fails(2, &["wma", "ffmpeg"]);
    if !cfg!(feature = "mp3") {
        for option in [["-o", "a.mp3"], ["--format", "mp3"]] {
            home.run(["speak", "-m", &model, TEXT].into_iter().chain(option))
                .fails(2, &["--features mp3", "ffmpeg"]);
        }
    }
    home.run(["speak", "-m", &model, TEXT, "-o", "/nowhere/a.wav"])
        .fails(1, &["/nowhere/a.wav"]);
    home.run([
        "speak",
        "-m",
        &model,
        TEXT,
        "--temperature",
        "-1",
        "-o",
        out,
    ])
    .fails(2, &["temperature"]);
    home.run(["speak", "-m", &model, "--file", "missing.txt", "-o", out])
        .fails(4, &["missing.txt"]);
    assert!(!Path::new(out).exists());
    fs::remove_file(Path::new(&model).join("speech_tokenizer/model.safetensors")).unwrap();
    home.run(["speak", "-m", &model, TEXT, "-o", out])
        .fails(3, &["speech_tokenizer"]);
}
