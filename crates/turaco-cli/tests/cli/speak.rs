//! `turaco speak` and `turaco voices`.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Stdio};
use std::time::{Duration, Instant};

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
    let shown = speak(&["-o", wav.to_str().unwrap(), "--plot", "-"]);
    assert!(shown.succeeds().contains("<svg"));
    for more in [&["-o", "b.wav", "--json"][..], &["-o", "-"], &[]] {
        speak(&[more, &["--plot", "-"]].concat()).fails(2, &["picture", "stdout"]);
    }
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
    assert!(trace.contains("codec.block.1"));
    let baseline = fs::read_to_string(home.path("base.json")).unwrap();
    let mut baseline: serde_json::Value = serde_json::from_str(&baseline).unwrap();
    assert_eq!(baseline["kind"], "speech");
    // Four for each number of utterances, and the codec, which has chunks beside frames on two threads alone.
    let codec = baseline["speech"]["codec"].as_array().unwrap();
    let chunks: Vec<u64> = codec.iter().map(|c| c["chunk"].as_u64().unwrap()).collect();
    assert!(
        chunks == [1, 8, 16] || chunks == [1, 8, 8, 16],
        "{chunks:?}"
    );
    assert!(codec.iter().all(|c| c["floor_ms"].as_f64() > Some(0.0)));
    let n_measures = 8 + codec.len();
    assert_eq!(baseline["measures"].as_array().unwrap().len(), n_measures);
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
    let texts = bench(&["--texts", "--save=texts.json"]);
    for word in ["RTF", "short", "medium", "long", "115", "% more"] {
        assert!(texts.succeeds().contains(word), "no {word} in {texts:?}");
    }
    let texts = fs::read_to_string(home.path("texts.json")).unwrap();
    let texts: serde_json::Value = serde_json::from_str(&texts).unwrap();
    assert_eq!(texts["measures"].as_array().unwrap().len(), n_measures + 3);
    let short = &texts["speech"]["texts"][0];
    assert_eq!(
        (&short["words"], &short["frames"]),
        (&13.into(), &58.into())
    );
    assert!((short["audio"].as_f64().unwrap() - 58.0 * 0.08).abs() < 1e-9);
    let shares = ["prefill", "generate", "decode"].map(|part| short[part].as_f64().unwrap());
    assert!((0.5..1.01).contains(&shares.iter().sum::<f64>()), "{short}");
    bench(&["--against=base.json", "--compute-type=q8"]).fails(2, &["compute type", "base.json"]);
    home.run(["bench", "--kernels", "--texts"])
        .fails(2, &["--texts"]);
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

/// Speak, with the text through a pipe that stays open until `is_there` says that there is sound; then the rest.
fn while_it_is_said(home: &Home, more: &[&str], is_there: impl Fn(&mut ChildStdout) -> bool) {
    let model = model(home, "voice_design");
    let common = ["speak", "-m", &model, "--seed", "3", "--max-frames", "12"];
    let mut child = home
        .command(common.iter().chain(more).copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdin.write_all(b"Good morning, dear all! And").unwrap();
    stdin.flush().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !is_there(&mut stdout) {
        assert!(Instant::now() < until, "{more:?}: nothing came");
        assert!(child.try_wait().unwrap().is_none(), "{more:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(stdin);
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn every_format_grows_while_it_is_said() {
    let home = Home::new();
    for name in ["a.wav", "a.flac", "a.opus", "a.pcm"] {
        let file = home.path(name);
        // More than what comes before the sound.
        while_it_is_said(&home, &["--stream", "-o", name], |_| {
            fs::metadata(&file).is_ok_and(|known| known.len() > 1000)
        });
        let whole = turaco::audio::DecodeOptions::new();
        let whole = match name {
            "a.pcm" => whole.raw("s16le:24000:1".parse().unwrap()),
            _ => whole,
        };
        let sound = turaco::audio::decode(&file, &whole).unwrap();
        assert!(sound.duration() > 0.3, "{name}: {}", sound.duration());
    }
}

#[test]
fn a_short_line_is_said_when_no_other_comes() {
    let home = Home::new();
    let model = model(&home, "voice_design");
    let mut child = home
        .command([
            "speak",
            "-m",
            &model,
            "--seed",
            "3",
            "--max-frames",
            "2",
            "--format",
            "pcm",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    for line in [
        "\u{feff}Good morning, dear all!\n",
        "Yes.\n",
        "No sail anywhere\n",
    ] {
        stdin.write_all(line.as_bytes()).unwrap();
        stdin.flush().unwrap();
        // Standard input stays open.
        let mut sound = [0; 2 * 2 * 1920];
        stdout.read_exact(&mut sound).unwrap();
    }
    drop(stdin);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert!(child.wait().unwrap().success() && rest.is_empty());
}

#[test]
fn flac_comes_through_a_pipe_block_by_block() {
    let home = Home::new();
    while_it_is_said(&home, &["--format", "flac"], |stdout| {
        let mut bytes = [0; 3000];
        stdout.read_exact(&mut bytes).unwrap();
        bytes.starts_with(b"fLaC")
    });
}

#[test]
fn a_file_without_sound_does_not_stay() {
    let home = Home::new();
    let model = model(&home, "voice_design");
    for text in ["\u{26f5}", " --- \u{1f600} ---\n"] {
        for more in [&["-o", "a.wav"][..], &["--stream", "-o", "a.wav"], &[]] {
            let common = ["speak", "-m", &model, "--normalize"];
            let given = home.run(common.iter().chain(&[text]).chain(more).copied());
            given.fails(2, &["no text to say", "--normalize"]);
            let piped = home
                .command(common.iter().chain(more).copied())
                .stdin(fs::File::open(home.write("text.txt", text)).unwrap())
                .output()
                .unwrap();
            Run::from(piped).fails(2, &["no text to say", "--normalize"]);
            assert!(!home.path("a.wav").exists() && !home.path("a.wav.part").exists());
        }
    }
    home.write("talk.txt", "ryan: \u{26f5}\n");
    home.run([
        "speak",
        "--normalize",
        "--script",
        "talk.txt",
        "-o",
        "a.wav",
    ])
    .fails(2, &["no text to say"]);
}

#[test]
fn a_model_that_hears_is_no_model_that_speaks() {
    let home = Home::new();
    let right = [
        "cannot speak",
        "qwen3-tts-0.6b-customvoice",
        "qwen3-tts-0.6b-base",
    ];
    for name in ["tiny.en", "large-v3-turbo", "voxtral-mini"] {
        home.run(["speak", "-m", name, TEXT, "-o", "a.wav"])
            .fails(3, &right);
        home.run(["voices", "list", "-m", name]).fails(3, &right);
    }
    let named = home
        .command(["speak", TEXT])
        .env("TURACO_MODEL", "tiny.en")
        .output();
    Run::from(named.unwrap()).fails(3, &right);
    // A folder tells by its settings, whatever it is called.
    fs::rename(model(&home, "voice_design"), home.path("tiny.en")).unwrap();
    home.run([
        "speak",
        "-m",
        "tiny.en",
        TEXT,
        "--max-frames",
        "2",
        "-o",
        "b.wav",
    ])
    .succeeds();
    let folder = model(&home, "voice_design");
    let config = Path::new(&folder).join("config.json");
    fs::write(&config, "{\"model_type\": \"whisper\"}").unwrap();
    home.run(["speak", "-m", &folder, TEXT, "-o", "a.wav"])
        .fails(3, &right);
    home.run(["voices", "list", "-m", &folder]).fails(3, &right);
    fs::remove_file(config).unwrap();
    home.run(["speak", "-m", &folder, TEXT, "-o", "a.wav"])
        .fails(3, &right);
    // Without a name it is one that can do what is asked for, and no advice is about others.
    let speech = home.path("a.wav");
    fs::copy(crate::support::speech(), &speech).unwrap();
    for (more, model) in [
        (&["--voice", "ryan"][..], "qwen3-tts-0.6b-customvoice"),
        (&["--ref-audio", "a.wav"], "qwen3-tts-0.6b-base"),
    ] {
        let run = home.run(["speak", TEXT].iter().chain(more).copied());
        run.fails(5, &[model]);
        assert!(!run.stderr.contains("tiny.en"), "{run:?}");
    }
    let run = home.run(["speak", "-m", "qwen3-tts", TEXT]);
    run.fails(3, &["qwen3-tts"]);
    assert!(!run.stderr.contains("tiny.en"), "{run:?}");
}

#[test]
fn settings_that_are_wrong_are_told_by_file_and_key() {
    let home = Home::new();
    let folder = model(&home, "voice_design");
    let speak = || {
        home.run([
            "speak",
            "-m",
            &folder,
            TEXT,
            "--max-frames",
            "2",
            "-o",
            "a.wav",
        ])
    };
    let path = |name: &str| Path::new(&folder).join(name);
    let generation = path("generation_config.json");
    for (key, value) in [
        ("top_p", "7"),
        ("subtalker_top_p", "1.5"),
        ("temperature", "11"),
        ("repetition_penalty", "0.01"),
    ] {
        fs::write(&generation, format!("{{\"{key}\": {value}}}")).unwrap();
        let refused = speak();
        refused.fails(3, &[key, value, "generation_config.json"]);
        assert!(!refused.stderr.contains("--"), "{refused:?}");
    }
    fs::remove_file(generation).unwrap();
    let config = fs::read_to_string(path("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    for (place, value) in [
        ("/talker_config/hidden_act", "gelu"),
        ("/talker_config/code_predictor_config/hidden_act", "relu"),
        ("/talker_config/rope_scaling/rope_type", "yarn"),
    ] {
        let mut changed = config.clone();
        *changed.pointer_mut(place).unwrap() = value.into();
        fs::write(path("config.json"), changed.to_string()).unwrap();
        let key = place.rsplit('/').next().unwrap();
        speak().fails(3, &[key, value, "config.json"]);
    }
    fs::write(path("config.json"), config.to_string()).unwrap();
    speak().succeeds();
    let merges = fs::read_to_string(path("merges.txt")).unwrap();
    let lines: Vec<&str> = merges.lines().collect();
    fs::write(path("merges.txt"), lines[..lines.len() / 2].join("\n")).unwrap();
    speak().fails(3, &["merges.txt", "cut off"]);
}

#[test]
fn arguments_that_exclude_each_other_have_names() {
    let home = Home::new();
    for line in [
        &["speak", "Hello", "--script", "a.txt"][..],
        &["speak", "--script", "a.txt", "Hello"],
    ] {
        home.run(line)
            .fails(2, &["`TEXT`", "`--script`", "cannot be used with"]);
    }
    let model = model(&home, "voice_design");
    let long = "word ".repeat(20_000);
    home.write("long.txt", long);
    let run = home.run([
        "speak",
        "-m",
        &model,
        "--no-split",
        "--file",
        "long.txt",
        "-o",
        "a.wav",
    ]);
    run.fails(2, &["this text cannot be said", "positions"]);
    assert!(!run.stderr.contains("--text"), "{run:?}");
}

#[test]
fn a_codec_whose_rate_is_none_is_told_by_its_file() {
    let home = Home::new();
    let model = model(&home, "base");
    let config = Path::new(&model).join("speech_tokenizer/config.json");
    let settings = fs::read_to_string(&config).unwrap();
    for key in ["input_sample_rate", "output_sample_rate"] {
        let mut settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
        settings[key] = 7.into();
        fs::write(&config, settings.to_string()).unwrap();
        let speech = speech();
        let create = [
            "voices",
            "create",
            "anna",
            "-m",
            &model,
            "--ref-text",
            "ask",
            "--ref-audio",
        ];
        home.run(create.iter().copied().chain([speech.to_str().unwrap()]))
            .fails(3, &[key, "7 Hz", "config.json"]);
    }
}

/// Save a voice of the Base model for tests, in context; its file.
fn save_voice(home: &Home, model: &str, name: &str) -> PathBuf {
    let speech = speech();
    home.run([
        "voices",
        "create",
        name,
        "-m",
        model,
        "--ref-text",
        "ask not",
        "--ref-audio",
        speech.to_str().unwrap(),
    ])
    .succeeds();
    home.path(".local/share/turaco/voices")
        .join(format!("{name}.safetensors"))
}

#[test]
fn voice_files_that_are_none_are_told_by_name() {
    let home = Home::new();
    let model = model(&home, "base");
    let file = save_voice(&home, &model, "anna");
    let good = fs::read(&file).unwrap();
    let header_len = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&good[8..8 + header_len])
        .unwrap()
        .to_owned();
    let with_header = |from: &str, to: &str| {
        assert!(header.contains(from) && from.len() == to.len(), "{header}");
        [
            &good[..8],
            header.replace(from, to).as_bytes(),
            &good[8 + header_len..],
        ]
        .concat()
    };
    let mut too_large = good.clone();
    let end = too_large.len();
    too_large[end - 4..].copy_from_slice(&70_000_u32.to_le_bytes());
    let mut negative = good.clone();
    negative[end - 4..].copy_from_slice(&(-1_i32).to_le_bytes());
    let json: serde_json::Value = serde_json::from_str(&header).unwrap();
    let shape = &json["ref_code"]["shape"];
    let (n_frames, n_codes) = (shape[0].to_string(), shape[1].to_string());
    let other_codes = with_header(
        &format!("[{n_frames},{n_codes}]"),
        &format!("[{n_codes},{n_frames}]"),
    );
    let width = json["ref_spk_embedding"]["shape"][0].as_u64().unwrap() as usize;
    for (bytes, words) in [
        (too_large, &["70000", "codes below"][..]),
        (negative, &["negative"]),
        (with_header("I32", "F32"), &["ref_code", "f32", "I32"]),
        (other_codes, &["another codec", &n_frames, &n_codes]),
        (good[..end - 5].to_vec(), &["anna"]),
        (b"RIFF".to_vec(), &["no voice file"]),
    ] {
        fs::write(&file, bytes).unwrap();
        let path = file.to_str().unwrap();
        for voice in [
            ["--voice", "anna"],
            ["--voice-file", path],
            ["--voice", path],
        ] {
            let run = home.run(
                ["speak", "-m", &model, TEXT, "-o", "a.wav"]
                    .into_iter()
                    .chain(voice),
            );
            run.fails(3, words);
            run.fails(3, &["anna.safetensors", "voices create"]);
        }
    }
    fs::write(&file, &good).unwrap();
    // A model of another size.
    let small = turaco::tts::ClonedVoice {
        vector: vec![0.5; width - 1],
        codes: Vec::new(),
        n_codes: 16,
        text: String::new(),
    };
    small.save(&home.path("small.safetensors")).unwrap();
    home.run([
        "speak",
        "-m",
        &model,
        TEXT,
        "--voice-file",
        "small.safetensors",
        "-o",
        "a.wav",
    ])
    .fails(3, &["another size", "small.safetensors"]);
    home.run([
        "speak",
        "-m",
        &model,
        TEXT,
        "--voice-file",
        "nobody.safetensors",
        "-o",
        "a.wav",
    ])
    .fails(4, &["nobody.safetensors"]);
    home.run([
        "speak",
        "-m",
        &model,
        TEXT,
        "--ref-audio",
        "nobody.wav",
        "-o",
        "a.wav",
    ])
    .fails(4, &["nobody.wav"]);
    assert!(!home.path("a.wav").exists());
}

#[test]
fn all_voices_of_a_script_are_known_before_anything_is_said() {
    let home = Home::new();
    let model = model(&home, "base");
    save_voice(&home, &model, "Aunt Anna");
    home.write(
        "talk.txt",
        "Aunt Anna: Good morning.\n\"Aunt Anna\": It was calm.\nberta: Who is that?\n",
    );
    let speak = |more: &[&str]| {
        let common = [
            "speak",
            "--script",
            "talk.txt",
            "--max-frames",
            "2",
            "--json",
            "-o",
            "a.wav",
        ];
        home.run(common.iter().chain(more).copied())
    };
    let run = speak(&["-m", &model, "--stream"]);
    run.fails(2, &["line 3 of talk.txt", "no saved voice `berta`"]);
    assert!(!home.path("a.wav").exists());
    home.write(
        "talk.txt",
        "# Who?\nGood morning.\nAunt Anna: It was calm.\n",
    );
    speak(&["-m", &model]).fails(3, &["line 2 of talk.txt", "recording"]);
    home.write(
        "talk.txt",
        "Aunt Anna: Good morning.\n\"Aunt Anna\": It was calm.\n",
    );
    let said = speak(&["-m", &model]);
    let json: serde_json::Value = serde_json::from_str(said.succeeds()).unwrap();
    assert_eq!(json["frames"], 4);
    assert_eq!(json["pieces"][0]["text"], "Good morning.");
    // Saved voices need a Base model, whatever is the default otherwise.
    speak(&[]).fails(5, &["qwen3-tts-0.6b-base"]);
    let custom = self::model(&home, "voice_design");
    let config = Path::new(&custom).join("config.json");
    let settings = fs::read(&config).unwrap();
    let mut settings: serde_json::Value = serde_json::from_slice(&settings).unwrap();
    settings["tts_model_type"] = "custom_voice".into();
    settings["talker_config"]["spk_id"]["Vivian"] = 3.into();
    fs::write(&config, settings.to_string()).unwrap();
    home.write("talk.txt", "Vivian: Good morning.\nnobody: Yes.\n");
    speak(&["-m", &custom]).fails(2, &["line 2 of talk.txt", "no voice `nobody`", "vivian"]);
    speak(&[]).fails(5, &["qwen3-tts-0.6b-customvoice"]);
}
