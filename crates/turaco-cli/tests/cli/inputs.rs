//! Where sound comes from.

use std::process::Stdio;

use crate::support::{Home, run, speech, wav};

#[test]
fn directories_globs_and_lists() {
    let home = Home::new();
    home.write("in/a ü.wav", wav(0.3));
    home.write("in/b.wav", wav(0.3));
    home.write("in/notes.txt", "no sound");
    home.write("in/deep/c.wav", wav(0.3));
    home.write("list", "in/b.wav\nin/deep/c.wav\n");
    home.write("list0", "in/a ü.wav\0in/b.wav\0");
    for (line, names) in [
        (&["in"][..], &["in/a ü.wav", "in/b.wav"][..]),
        (
            &["in", "--recursive"],
            &["in/a ü.wav", "in/b.wav", "in/deep/c.wav"],
        ),
        (&["in/*.wav"], &["in/a ü.wav", "in/b.wav"]),
        (&["--from-file", "list"], &["in/b.wav", "in/deep/c.wav"]),
        (&["--from-file", "list0", "-0"], &["in/a ü.wav", "in/b.wav"]),
        (
            &["in/b.wav", "--from-file=list"],
            &["in/b.wav", "in/deep/c.wav"],
        ),
    ] {
        let run = home.run(["vad", "--json"].iter().chain(line));
        let files: Vec<String> = run
            .succeeds()
            .lines()
            .map(|line| {
                let object: serde_json::Value = serde_json::from_str(line).unwrap();
                object["file"].as_str().unwrap().to_string()
            })
            .collect();
        assert_eq!(files, names, "{line:?}");
    }
}

#[test]
fn speech_is_found_and_times_count_from_the_start_of_the_file() {
    let home = Home::new();
    let spans = |args: &[&str]| {
        let mut command = home.command(["vad", "--json"].iter().chain(args));
        let run = run(command.arg(speech()));
        let object: serde_json::Value = serde_json::from_str(run.succeeds()).unwrap();
        let spans = object["speech"].as_array().unwrap();
        spans
            .iter()
            .map(|span| {
                (
                    span["start"].as_f64().unwrap(),
                    span["end"].as_f64().unwrap(),
                )
            })
            .collect::<Vec<_>>()
    };
    let all = spans(&["--vad-min-silence-duration-ms=200", "--vad-speech-pad-ms=0"]);
    assert!(all.len() > 1, "{all:?}");
    let late = spans(&[
        "--min-silence-duration-ms=200",
        "--speech-pad-ms=0",
        "--offset=5",
        "--duration=0:05",
    ]);
    assert!(
        late.iter()
            .all(|&(start, end)| start >= 5.0 && end <= 10.0 && start < end)
    );
    assert_eq!(spans(&["--vad-threshold=1"]), []);
}

#[cfg(unix)]
#[test]
fn standard_input_and_pipes() {
    let home = Home::new();
    let path = home.write("a.wav", wav(0.4));
    for name in ["-", "/dev/stdin"] {
        let file = std::fs::File::open(&path).unwrap();
        let run = run(home.command(["vad", "--json", name]).stdin(file));
        assert!(run.succeeds().contains("\"duration\":0.4"), "{run:?}");
    }
    // Raw samples need their format.
    let samples = wav(0.4).split_off(44);
    let raw = home.write("a.raw", &samples);
    let file = std::fs::File::open(raw).unwrap();
    let run_raw = run(home
        .command(["vad", "--json", "--raw", "s16le:16000:1", "-"])
        .stdin(file));
    assert!(run_raw.succeeds().contains("\"duration\":0.4"));

    let fifo = home.path("fi fo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let child = home
        .command(["vad", "--json"])
        .arg(&fifo)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::fs::write(&fifo, wav(0.4)).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("\"duration\":0.4")
    );
}

#[test]
fn long_and_strange_paths() {
    let home = Home::new();
    let name = format!(
        "{}/ {} 日本語 'q' \"d\" .wav",
        "d".repeat(200),
        "n".repeat(180)
    );
    let path = home.write(&name, wav(0.3));
    let run = run(home.command(["vad", "--json"]).arg(&path));
    assert!(run.succeeds().contains("日本語"));
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf_8() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new();
    let path = home
        .path("x")
        .with_file_name(std::ffi::OsStr::from_bytes(b"caf\xe9.wav"));
    std::fs::write(&path, wav(0.3)).unwrap();
    run(home.command(["vad"]).arg(&path)).succeeds();
}
