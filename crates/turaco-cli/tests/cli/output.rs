//! Where text goes.

use std::ffi::OsString;

use crate::support::{Home, Run, SHORT, model, run, speech, wav};

/// `turaco transcribe` with the random model.
fn transcribe(home: &Home, args: &[&str]) -> Run {
    run(&mut command(home, args))
}

fn command(home: &Home, args: &[&str]) -> std::process::Command {
    let mut all: Vec<OsString> = vec!["transcribe".into(), "-m".into(), model().into()];
    all.extend(SHORT.map(Into::into));
    all.extend(args.iter().map(Into::into));
    home.command(all)
}

#[test]
fn formats_on_stdout_equal_those_in_files() {
    let home = Home::new();
    std::fs::copy(speech(), home.path("a.wav")).unwrap();
    let run = transcribe(
        &home,
        &[
            "a.wav",
            "-o",
            "out",
            "-f",
            "all,jsonl,csv,lrc,verbose_json",
            "-q",
        ],
    );
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    for (format, extension) in [
        ("txt", "txt"),
        ("srt", "srt"),
        ("vtt", "vtt"),
        ("tsv", "tsv"),
        ("json", "json"),
        ("jsonl", "jsonl"),
        ("csv", "csv"),
        ("lrc", "lrc"),
        ("verbose_json", "verbose.json"),
    ] {
        let file = std::fs::read_to_string(home.path(&format!("out/a.{extension}"))).unwrap();
        let run = transcribe(&home, &["a.wav", "-f", format, "-q"]);
        assert_eq!(
            run.succeeds().trim_end_matches('\n'),
            file.trim_end_matches('\n'),
            "{format}"
        );
        assert!(
            run.stdout.is_empty() || run.stdout.ends_with('\n'),
            "{format}"
        );
    }
    let names = std::fs::read_dir(home.path("out")).unwrap().count();
    assert_eq!(names, 9, "temporary files are gone");
}

#[test]
fn many_inputs_in_parallel_come_out_in_order() {
    let home = Home::new();
    for index in 0..4 {
        home.write(&format!("in/{index}.wav"), wav(0.2 + f64::from(index % 2)));
    }
    let one = transcribe(&home, &["in", "-f", "json", "-q"]);
    let three = transcribe(&home, &["in", "-f", "json", "-q", "--jobs", "3"]);
    assert_eq!(one.succeeds().lines().count(), 4);
    for (index, line) in one.stdout.lines().enumerate() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(object["file"], format!("in/{index}.wav"));
    }
    assert_eq!(one.stdout, three.stdout);
    let text = transcribe(&home, &["in", "-q"]).stdout;
    for index in 0..4 {
        assert!(text.contains(&format!("==> in/{index}.wav <==")), "{text}");
    }
}

#[test]
fn what_exists_is_skipped_and_what_collides_is_told_apart() {
    let home = Home::new();
    home.write("a.wav", wav(0.3));
    home.write("b/a.wav", wav(0.3));
    home.write("out/a.wav", "unrelated");
    let run = transcribe(&home, &["a.wav", "b/a.wav", "-o", "out", "-f", "txt"]);
    run.succeeds();
    assert_eq!(run.stderr.matches(" s audio in ").count(), 2, "{run:?}");
    assert!(home.path("out/b_a.wav.txt").is_file());

    home.write("out/a.txt", "mine");
    let run = transcribe(
        &home,
        &["a.wav", "-o", "out", "-f", "txt", "--skip-existing"],
    );
    run.succeeds();
    assert!(run.stderr.contains("skipped"), "{run:?}");
    assert_eq!(std::fs::read(home.path("out/a.txt")).unwrap(), b"mine");
    transcribe(&home, &["a.wav", "-o", "out", "-f", "txt"]).succeeds();
    assert_ne!(std::fs::read(home.path("out/a.txt")).unwrap(), b"mine");
}

#[test]
fn empty_and_silent_sound_is_no_error() {
    let home = Home::new();
    home.write("empty.wav", wav(0.0));
    home.write("silence.raw", vec![0u8; 32_000]);
    let run = transcribe(&home, &["empty.wav", "-f", "json", "-q"]);
    let object: serde_json::Value = serde_json::from_str(run.succeeds()).unwrap();
    assert_eq!(object["text"], "");
    let run = transcribe(
        &home,
        &[
            "silence.raw",
            "--raw",
            "s16le:16000:1",
            "--vad",
            "-f",
            "srt",
            "-q",
        ],
    );
    assert_eq!(run.succeeds(), "");
}

#[test]
fn lines_with_times_count_from_the_start_of_the_file() {
    let home = Home::new();
    std::fs::copy(speech(), home.path("a.wav")).unwrap();
    let run = transcribe(
        &home,
        &["a.wav", "--timestamps", "--offset", "1:00:05", "-q"],
    );
    assert_eq!(
        run.succeeds(),
        "",
        "an offset behind the end leaves nothing"
    );
    let run = transcribe(&home, &["a.wav", "--timestamps", "--offset=5", "-q"]);
    for line in run.succeeds().lines() {
        assert!(line.starts_with("[00:") && line.contains(" --> "), "{line}");
        assert!(&line[..10] >= "[00:05.000", "{line}");
    }
}

#[test]
fn reports_go_to_stderr_only_as_loud_as_asked() {
    let home = Home::new();
    home.write("a.wav", wav(0.5));
    let quiet = transcribe(&home, &["a.wav", "-q"]);
    assert_eq!(quiet.stderr, "");
    let normal = transcribe(&home, &["a.wav"]);
    assert_eq!(normal.stderr.lines().count(), 1, "{normal:?}");
    assert!(normal.stderr.contains("a.wav: 0.5 s audio in "));
    assert!(normal.stderr.contains("(rtf ") && normal.stderr.contains("language en (1.00)"));
    let verbose = transcribe(&home, &["a.wav", "-vv"]);
    assert!(verbose.stderr.contains("loaded in") && verbose.stderr.contains("encoder"));
    let json = transcribe(&home, &["a.wav", "--log-format=json"]);
    let object: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!(object["code"], "file_done");
    assert_eq!(object["language"], "en");
    assert_eq!(quiet.stdout, json.stdout);
}

#[test]
fn the_language_alone() {
    let home = Home::new();
    home.write("a.wav", wav(0.5));
    let mut line = vec!["transcribe", "a.wav", "--detect-language", "-q", "-m"];
    line.push(model().to_str().unwrap());
    let run = home.run(&line);
    let (language, probability) = run.succeeds().trim().split_once(' ').unwrap();
    assert!((2..=3).contains(&language.len()));
    assert!((0.0..=1.0).contains(&probability.parse::<f64>().unwrap()));
    line.extend(["-f", "json", "--languages", "de,fr"]);
    let run = home.run(&line);
    let object: serde_json::Value = serde_json::from_str(run.succeeds()).unwrap();
    assert!(object["language"] == "de" || object["language"] == "fr");
    assert_eq!(object["all_language_probs"].as_array().unwrap().len(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_no_partial_file_and_loses_no_finished_one() {
    let home = Home::new();
    home.write("a.wav", wav(0.5));
    home.write("out/b.txt", "finished before");
    // Files may not grow: every write fails as on a full disk.
    let inner = command(&home, &["a.wav", "-o", "out", "-f", "txt,json", "-q"]);
    let mut limited = home.command::<&str>([]);
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""])
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(home.path(""));
    for (name, value) in limited.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    limited.stdin(std::process::Stdio::null());
    let run = run(&mut shell);
    run.fails(1, &["cannot write [out/a.", "caused by: "]);
    let names: Vec<_> = std::fs::read_dir(home.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["b.txt"]);
}

#[test]
fn results_that_cannot_be_written_in_place_are_kept() {
    let home = Home::new();
    home.write("a.wav", wav(0.5));
    // A directory where the file should be.
    std::fs::create_dir_all(home.path("out/a.txt/x")).unwrap();
    std::fs::create_dir(home.path("tmp")).unwrap();
    let mut command = command(&home, &["a.wav", "-o", "out", "-f", "txt", "-q"]);
    let run = run(command.env("TMPDIR", home.path("tmp")));
    run.fails(
        1,
        &["cannot write [out/a.txt]", "the results were kept in "],
    );
    let kept = std::fs::read_dir(home.path("tmp"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert!(kept.path().join("a.txt").is_file());
}

/// With a real model at hand: what is said comes out.
#[test]
fn real_speech_becomes_its_text() {
    let found = std::process::Command::new(env!("CARGO_BIN_EXE_turaco"))
        .args(["models", "path", "tiny.en", "--offline"])
        .output()
        .unwrap();
    if !found.status.success() {
        eprintln!("skipped: tiny.en is not on this machine (`turaco models pull tiny.en`)");
        return;
    }
    let path = String::from_utf8(found.stdout).unwrap();
    let home = Home::new();
    let mut command = home.command(["transcribe", "-q", "-m", path.trim()]);
    let run = run(command.arg(speech()));
    let text = run.succeeds().replace('\n', " ");
    assert!(
        text.contains("ask not what your country can do for you"),
        "{text}"
    );
}
