//! Options of `turaco speak` as users know them from elsewhere, and what goes with which model.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::speak::model;
use crate::support::{Home, Run, speech};

const TEXT: &str = "The boats came home before the storm.";

#[test]
fn options_have_the_names_and_meanings_of_the_other_interfaces() {
    let home = Home::new();
    let model = model(&home, "voice_design");
    let say = |more: &[&str]| {
        let common = ["speak", "-m", &model, TEXT, "-o", "a.pcm"];
        home.run(common.iter().chain(more).copied()).succeeds();
        fs::read(home.path("a.pcm")).unwrap()
    };
    let few = ["--max-frames", "6", "--seed", "3"];
    let with = |more: &[&str]| say(&[&few[..], more].concat());
    let plain = with(&["--instruct", "an old sailor"]);
    assert_eq!(plain.len(), 2 * 6 * 1920);
    assert!(plain == with(&["--instructions", "an old sailor"]));
    assert!(plain == with(&["--instruct", "an old sailor", "--task-type", "VoiceDesign"]));
    let whole = with(&[
        "--instruct",
        "an old sailor",
        "--non-streaming-mode",
        "true",
    ]);
    assert!(plain == whole);
    let beside = with(&[
        "--instruct",
        "an old sailor",
        "--non_streaming_mode",
        "False",
    ]);
    assert!(plain != beside);
    assert!(beside == with(&["--instruct", "an old sailor", "--text-layout", "beside"]));
    assert_eq!(with(&["--sample-rate", "8000"]).len(), 2 * 6 * 640);
    assert_eq!(with(&["--sample-rate", "48000"]).len(), 2 * 6 * 3840);
    // Without chance no seed matters.
    let greedy = with(&["--do-sample", "false"]);
    assert!(greedy == say(&["--max-frames", "6", "--seed", "4", "--do-sample=False"]));
    // The last token of the reference is no frame.
    assert!(greedy == say(&["--max-new-tokens", "7", "--do-sample=False"]));
    assert!(greedy == with(&["--temperature", "0"]));
    assert!(greedy != with(&["--temperature", "0", "--subtalker-temperature", "0.9"]));
    // Tags of locales are languages.
    let chinese = with(&["-l", "chinese"]);
    assert!(chinese == with(&["-l", "zh-CN"]) && chinese == with(&["-l", "zh_CN.UTF-8"]));
    for (more, words) in [
        (&["--sample-rate", "7000"][..], &["--sample-rate"][..]),
        (
            &["--format", "opus", "--sample-rate", "44100"],
            &["--sample-rate"],
        ),
        (
            &["--task-type", "Singing"],
            &["CustomVoice", "VoiceDesign", "Base"],
        ),
        (
            &["--text-layout", "whole", "--non-streaming-mode", "true"],
            &["cannot be used with"],
        ),
        (&["-l", "en-"], &["language", "english"]),
    ] {
        let common = ["speak", "-m", &model, TEXT, "-o", "b.pcm"];
        home.run(common.iter().chain(more).copied()).fails(2, words);
    }
}

/// The tiny model as one of another kind.
fn model_of_kind(home: &Home, name: &str, kind: &str, size: &str) -> String {
    let folder = model(home, "voice_design");
    let renamed = home.path(name);
    fs::rename(&folder, &renamed).unwrap();
    let path = renamed.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["tts_model_type"] = kind.into();
    config["tts_model_size"] = size.into();
    config["talker_config"]["spk_id"] = serde_json::json!({"ryan": 100});
    config["talker_config"]["spk_is_dialect"] = serde_json::json!({"ryan": false});
    fs::write(path, config.to_string()).unwrap();
    renamed.to_str().unwrap().to_owned()
}

#[test]
fn what_does_not_go_with_a_model_names_the_one_that_it_goes_with() {
    let home = Home::new();
    let custom = model_of_kind(&home, "custom", "custom_voice", "0b6");
    let (base, design) = (model(&home, "base"), model(&home, "voice_design"));
    let recording = speech();
    let recording = recording.to_str().unwrap();
    let by_name = "qwen3-tts-0.6b-customvoice";
    for (model, code, more, right) in [
        (&base, 2, &["--voice", "serena"][..], by_name),
        (&base, 3, &[], by_name),
        (
            &base,
            3,
            &[
                "--ref-audio",
                recording,
                "--x-vector-only",
                "--instruct",
                "slowly",
            ],
            "qwen3-tts-1.7b-voicedesign",
        ),
        (&base, 3, &["--task-type", "CustomVoice"], by_name),
        (&design, 3, &["--voice", "serena"], by_name),
        (
            &design,
            3,
            &["--ref-audio", recording],
            "qwen3-tts-0.6b-base",
        ),
        (&design, 3, &["--task-type", "Base"], "qwen3-tts-1.7b-base"),
        (
            &custom,
            3,
            &["--ref-audio", recording],
            "qwen3-tts-0.6b-base",
        ),
        (
            &custom,
            3,
            &["--instruct", "slowly"],
            "qwen3-tts-1.7b-customvoice",
        ),
        (
            &custom,
            2,
            &["--voice", "nobody"],
            "qwen3-tts-1.7b-voicedesign",
        ),
        (
            &custom,
            3,
            &["--task-type", "VoiceDesign"],
            "qwen3-tts-1.7b-voicedesign",
        ),
    ] {
        let common = ["speak", "-m", model.as_str(), TEXT, "-o", "a.wav"];
        home.run(common.iter().chain(more).copied())
            .fails(code, &[right]);
        assert!(!home.path("a.wav").exists());
    }
    let common = [
        "speak",
        "-m",
        &custom,
        TEXT,
        "-o",
        "a.wav",
        "--max-frames=2",
    ];
    home.run(common.iter().chain(&["--voice", "Ryan"]).copied())
        .succeeds();
    // Without a model the task chooses it.
    for (task, name) in [
        ("VoiceDesign", "qwen3-tts-1.7b-voicedesign"),
        ("base", "qwen3-tts-0.6b-base"),
        ("custom_voice", by_name),
    ] {
        home.run(["speak", TEXT, "--task-type", task, "-o", "b.wav"])
            .fails(5, &[name]);
    }
}

#[test]
fn voices_of_a_script_may_be_described() {
    let home = Home::new();
    let model = model(&home, "voice_design");
    let say = |script: &str, name: &str| {
        home.write("talk.txt", script);
        let common = ["speak", "-m", &model, "--script", "talk.txt", "--seed", "3"];
        let more = ["--max-frames", "3", "-o", name];
        home.run(common.iter().chain(&more).copied())
    };
    let sound = |script: &str| {
        say(script, "a.pcm").succeeds();
        fs::read(home.path("a.pcm")).unwrap()
    };
    let long = sound(
        "\"an old sailor, slow\": Good morning.\n\"a child\": Hello!\n\"an old sailor, slow\": It rains.",
    );
    assert_eq!(long.len(), 3 * 3 * 2 * 1920);
    let short = sound(
        "sailor = \"an old sailor, slow\"\nkid = \"a child\"\nsailor: Good morning.\nkid: Hello!\nsailor: It rains.",
    );
    assert!(short == long);
    // What somebody says does not depend on who speaks in between, and who speaks again goes on in the same voice.
    let line = 3 * 2 * 1920;
    let alone = sound("\"an old sailor, slow\": Good morning.\nIt rains.");
    assert!(alone[..line] == long[..line] && alone[line..] == long[2 * line..]);
    let anew = sound("\"an old sailor, slow\": It rains.");
    assert!(anew[..] != alone[line..]);
    say("Ryan: Hello!", "b.pcm").fails(3, &["line 1 of", "NAME = ", "CustomVoice"]);
}

#[test]
fn what_cannot_be_kept_or_read_is_told_before_the_work() {
    let home = Home::new();
    let recording = speech();
    let recording = recording.to_str().unwrap();
    // The model is not looked for before.
    let create = |name: &str| {
        let model = home.path("nothing");
        let model = model.to_str().unwrap().to_owned();
        home.run([
            "voices",
            "create",
            name,
            "-m",
            &model,
            "--ref-audio",
            recording,
        ])
    };
    create("/nowhere/anna.safetensors").fails(1, &["/nowhere/anna.safetensors"]);
    create("ryan").fails(2, &["ryan", "CustomVoice"]);
    create("a:b").fails(2, &["`NAME`", "no name for a voice"]);
    create("anna").fails(3, &["nothing"]);
    assert!(fs::read_dir(home.path(".")).unwrap().all(|entry| {
        let name = entry.unwrap().file_name();
        !name.to_string_lossy().ends_with(".tmp")
    }));

    let base = model(&home, "base");
    home.write("a.bin", [7; 5000]);
    let clone = |more: &[&str]| {
        let common = ["speak", "-m", &base, "--x-vector-only", "--max-frames", "2"];
        let mut command = home.command(common.iter().chain(more).copied());
        let stdin = fs::File::open(recording).unwrap();
        Run::from(command.stdin(stdin).output().unwrap())
    };
    let broken = clone(&[TEXT, "-o", "a.wav", "--ref-audio", "a.bin"]);
    broken.fails(4, &["a.bin", "ffmpeg"]);
    assert!(!broken.stderr.contains("--raw"), "{broken:?}");
    clone(&[TEXT, "-o", "a.wav", "--ref-audio", "-"]).succeeds();
    for more in [&["--file", "-"][..], &[], &["-"], &["--script", "-"]] {
        let line = [&["-o", "b.wav", "--ref-audio", "-"], more].concat();
        clone(&line).fails(2, &["both"]);
    }
    // In the text of the option itself.
    let short = crate::support::wav(1.0);
    let short = format!("data:audio/wav;base64,{}", STANDARD.encode(short));
    clone(&[TEXT, "-o", "a.wav", "--ref-audio", &short]).succeeds();
    let wrong = "data:audio/wav,abc";
    clone(&[TEXT, "-o", "b.wav", "--ref-audio", wrong]).fails(2, &["base64"]);
    let url = "http://127.0.0.1:9/a.wav";
    clone(&[TEXT, "-o", "b.wav", "--ref-audio", url]).fails(5, &["127.0.0.1:9"]);
    let offline = [TEXT, "-o", "b.wav", "--ref-audio", url, "--offline"];
    clone(&offline).fails(2, &["--offline"]);
    let codec = Path::new(&base).join("speech_tokenizer");
    let without = |words: &[&str]| {
        let line = [TEXT, "-o", "b.wav", "--ref-audio", recording];
        let words = [&["speech_tokenizer", "Qwen3-TTS-Tokenizer-12Hz"], words].concat();
        clone(&line).fails(3, &words);
    };
    fs::remove_file(codec.join("model.safetensors")).unwrap();
    without(&["no model.safetensors"]);
    fs::remove_file(codec.join("config.json")).unwrap();
    without(&["no config.json"]);
    fs::remove_dir_all(codec).unwrap();
    without(&["this folder is missing"]);
}
