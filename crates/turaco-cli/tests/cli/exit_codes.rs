//! Every exit code, and silence on stdout when something is wrong.

use std::process::Stdio;

use crate::support::{Home, SHORT, english_model, model, run, wav};

#[test]
fn success_is_0() {
    let home = Home::new();
    home.run(["models", "list"]).succeeds();
}

#[test]
fn one_of_several_inputs_that_fails_is_1_and_the_others_are_done() {
    let home = Home::new();
    home.write("good.wav", wav(1.0));
    home.write("bad.wav", b"RIFF....WAVE");
    let mut command = home.command(["transcribe", "bad.wav", "good.wav", "gone.wav", "-o", "out"]);
    let run = run(command.args(SHORT).arg("-m").arg(model()));
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert!(home.path("out/good.srt").is_file());
    assert!(!home.path("out/bad.srt").exists());
    for word in ["bad.wav", "gone.wav", "2 of 3 inputs failed"] {
        assert!(run.stderr.contains(word), "{run:?}");
    }
}

#[test]
fn wrong_usage_is_2() {
    Home::new()
        .run(["transcribe", "--nope"])
        .fails(2, &["unknown option `--nope`"]);
}

#[test]
fn absurd_numbers_are_no_crash() {
    let home = Home::new();
    home.write("a.wav", wav(0.5));
    let transcribe = |option: &str, value: &str| {
        let mut command = home.command(["transcribe", "a.wav", option, value, "-m"]);
        run(command.arg(model()))
    };
    transcribe("--threads", "100000").fails(2, &["--threads", "is outside"]);
    for option in ["--beam-size", "--best-of", "--batch-size"] {
        transcribe(option, "0").fails(2, &[option, "1 or more"]);
    }
    if cfg!(target_os = "linux") {
        for option in ["--beam-size", "--best-of"] {
            transcribe(option, "1000000000000").fails(
                6,
                &[
                    option,
                    "needs about",
                    "GB of memory",
                    "are available",
                    "hint:",
                ],
            );
        }
    }
}

#[test]
fn a_broken_tokenizer_is_3_and_named_where_it_is() {
    let home = Home::new();
    home.write("a.wav", wav(0.5));
    for file in ["model.safetensors", "config.json"] {
        home.write(
            &format!("m/{file}"),
            std::fs::read(model().join(file)).unwrap(),
        );
    }
    home.write("m/tokenizer.json", "{");
    home.run(["transcribe", "a.wav", "-m", "m"])
        .fails(3, &["m/tokenizer.json]"]);
    // A copy would be as broken.
    home.run(["models", "convert", "m", "copy"])
        .fails(3, &["m/tokenizer.json]"]);
    assert!(!home.path("copy").exists());
}

#[test]
fn alignment_heads_that_do_not_exist_are_a_warning() {
    let home = Home::new();
    home.write("a.wav", wav(0.5));
    for file in ["model.safetensors", "config.json"] {
        home.write(
            &format!("m/{file}"),
            std::fs::read(model().join(file)).unwrap(),
        );
    }
    home.write(
        "m/generation_config.json",
        r#"{"alignment_heads": [[9, 9]]}"#,
    );
    let words = |more: &[&str]| {
        let mut command = home.command(["transcribe", "a.wav", "-m", "m", "--word-timestamps"]);
        run(command.args(SHORT).args(more))
    };
    for more in [&[][..], &["-q"]] {
        let run = words(more);
        run.succeeds();
        assert_eq!(
            run.stderr.matches("warning: the alignment heads").count(),
            1
        );
    }
}

#[test]
fn a_model_that_cannot_be_used_is_3() {
    let home = Home::new();
    home.write("a.wav", wav(0.5));
    home.run(["transcribe", "a.wav", "-m", "no-such-model"])
        .fails(3, &["no-such-model", "hint: "]);

    // Cut off, and not a model at all.
    let whole = std::fs::read(model().join("model.safetensors")).unwrap();
    home.write("cut/model.safetensors", &whole[..whole.len() / 2]);
    std::fs::copy(model().join("config.json"), home.path("cut/config.json")).unwrap();
    home.run(["transcribe", "a.wav", "-m", "cut"])
        .fails(3, &["model.safetensors"]);
    home.write("notes.txt", "no model");
    home.run(["transcribe", "a.wav", "-m", "notes.txt"])
        .fails(3, &["notes.txt"]);
    home.run(["models", "info", "notes.txt"])
        .fails(3, &["notes.txt"]);

    // Sound, but not able to do this.
    let mut command = home.command(["translate", "a.wav", "-m"]);
    run(command.arg(english_model())).fails(3, &["cannot translate"]);
}

#[test]
fn no_readable_input_is_4() {
    let home = Home::new();
    home.run(["transcribe", "gone.wav"])
        .fails(4, &["cannot read [gone.wav]", "caused by: "]);
    home.run(["transcribe", "no-*.wav"])
        .fails(4, &["no file matches this pattern [no-*.wav]"]);
    std::fs::create_dir(home.path("empty")).unwrap();
    home.run(["vad", "empty"])
        .fails(4, &["no audio files in this directory [empty]"]);
    // The model is looked for only once there is something to hear.
    for (name, bytes) in [
        ("zero.wav", &b""[..]),
        ("header.wav", b"RIFF\x24\0\0\0WAVE"),
        (
            "text.mp3",
            b"This is a text and no sound at all, whatever its name says.",
        ),
    ] {
        home.write(name, bytes);
        home.run(["transcribe", name]).fails(4, &[name]);
        home.run(["vad", name]).fails(4, &[name]);
    }
}

#[test]
fn what_one_file_lacks_does_not_stop_the_others() {
    let home = Home::new();
    home.write("mono.wav", wav(0.3));
    home.run(["vad", "--channel=1", "mono.wav"])
        .fails(2, &["--channel", "[mono.wav]"]);
    let mut stereo = wav(0.3);
    stereo[22] = 2;
    stereo[32] = 4;
    home.write("stereo.wav", stereo);
    let run = home.run(["vad", "--json", "--channel=1", "mono.wav", "stereo.wav"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("stereo.wav"), "{run:?}");
}

#[test]
fn the_network_is_5() {
    let home = Home::new();
    home.write("a.wav", wav(0.5));
    for line in [
        "transcribe a.wav --offline -m tiny",
        "transcribe a.wav -m tiny",
        "models pull tiny --offline",
        "models pull tiny",
    ] {
        home.run(line.split(' ')).fails(5, &["tiny", "offline"]);
    }
    // Nothing listens on the discard port of this machine.
    let run = run(home
        .command(["models", "pull", "openai/whisper-tiny.no-such-copy", "-q"])
        .env_remove("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", "http://127.0.0.1:9"));
    run.fails(5, &["127.0.0.1:9", "hint: check the connection"]);
}

#[test]
fn a_device_that_is_not_there_is_6() {
    let home = Home::new();
    home.write("a.wav", wav(0.5));
    let mut command = home.command(["transcribe", "a.wav", "--device", "cuda:7", "-m"]);
    run(command.arg(model())).fails(6, &["cuda:7"]);
}

#[cfg(unix)]
#[test]
fn an_interruption_is_130() {
    let home = Home::new();
    for command in ["transcribe", "vad"] {
        let mut child = home
            .command([command, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Long enough to be reading; too early would be no failure of this test but an untested path.
        std::thread::sleep(std::time::Duration::from_millis(700));
        let killed = std::process::Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        let stdin = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = Home::new();
    for line in ["help transcribe", "models list", "completions bash", "man"] {
        let mut child = home
            .command(line.split(' '))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
        assert!(output.stderr.is_empty(), "{line}: {output:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_stdout_is_1() {
    let home = Home::new();
    home.write("a.wav", wav(0.5));
    let full = || {
        std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    for line in ["models list", "man", "vad --json a.wav"] {
        let run = run(home.command(line.split(' ')).stdout(full()));
        run.fails(1, &["cannot write [standard output]", "caused by: "]);
    }
}
