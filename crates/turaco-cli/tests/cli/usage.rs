//! What is wrong with a command line, and the spellings that are right.

use crate::support::Home;

#[test]
fn mistakes_name_the_option_and_the_nearest_right_one() {
    let home = Home::new();
    for (line, words) in [
        (
            "transcribe --ouput_dir x a.wav",
            &[
                "unknown option `--ouput_dir`",
                "did you mean `--output-dir`?",
            ][..],
        ),
        (
            "transcrbe a.wav",
            &["unknown command `transcrbe`", "`transcribe`?"],
        ),
        ("talk --voice ryan", &["unknown command `talk`"]),
        ("transcribe", &["missing <AUDIO>"]),
        (
            "transcribe a.wav --beam-size",
            &["option `--beam-size` needs a value"],
        ),
        (
            "transcribe a.wav --beam-size many",
            &["invalid value `many` for `--beam-size`", "whole number"],
        ),
        (
            "transcribe a.wav --threads -2",
            &["invalid value `-2` for `--threads`: expected a whole number"],
        ),
        (
            "vad a.wav --vad-speech-pad-ms=-5",
            &["`--vad-speech-pad-ms`: expected a whole number from 0 to"],
        ),
        (
            "transcribe a.wav --device gpu",
            &["invalid value `gpu` for `--device`", "cuda[:N]"],
        ),
        (
            "transcribe a.wav --compute-type int3",
            &[
                "invalid value `int3` for `--compute-type`: expected one of",
                "int8",
            ],
        ),
        (
            "transcribe a.wav --language klingon",
            &["unknown language `klingon`"],
        ),
        (
            "transcribe a.wav --task sing",
            &["invalid value `sing` for `--task`"],
        ),
        (
            "transcribe a.wav --timestamps --no-timestamps",
            &["`--timestamps` cannot be used with `--no-timestamps`"],
        ),
        (
            "transcribe a.wav -f srt,vtt",
            &["several output formats", "hint: add `-o DIR`"],
        ),
        (
            "transcribe a.wav --skip-existing",
            &["`--skip-existing` needs `--output-dir`"],
        ),
        (
            "transcribe a.wav --initial-prompt x --initial-prompt-tokens 1",
            &["cannot be used with"],
        ),
        ("transcribe a.wav --raw s17le:1:1", &["s17le"]),
        (
            "transcribe a.wav -0",
            &["`--null` has no meaning without `--from-file`"],
        ),
        (
            "transcribe - -",
            &["standard input (`-`) can be read only once"],
        ),
        (
            "translate a.wav --task transcribe",
            &["`translate` cannot be used with"],
        ),
        ("models", &[]),
        ("models pull", &["missing <MODEL>"]),
        ("completions tcsh", &["invalid value `tcsh`", "bash"]),
        ("help nothing", &["no help for `nothing`"]),
    ] {
        let run = home.run(line.split(' '));
        if line == "models" {
            // Help, but on stderr: nobody asked for it.
            assert_eq!((run.code, run.stdout.as_str()), (2, ""));
            assert!(run.stderr.contains("Usage: turaco models"));
            continue;
        }
        run.fails(2, words);
    }
}

#[test]
fn several_inputs_cannot_share_stdout_as_subtitles() {
    let home = Home::new();
    home.write("a.wav", "x");
    home.write("b.wav", "x");
    home.run(["transcribe", "-f", "srt", "a.wav", "b.wav"])
        .fails(2, &["2 inputs in format srt cannot share stdout"]);
}

#[test]
fn json_errors_are_one_object_per_line() {
    let home = Home::new();
    for (line, code) in [
        ("--log-format json transcribe --nope", 2),
        ("transcribe --log_format=json gone.wav", 4),
    ] {
        let run = home.run(line.split(' '));
        assert_eq!(run.code, code);
        assert_eq!(run.stdout, "");
        let object: serde_json::Value = serde_json::from_str(&run.stderr).unwrap();
        assert_eq!(object["level"], "error");
        assert!(object["code"].is_string() && object["message"].is_string());
        if code == 4 {
            assert_eq!(object["path"], "gone.wav");
        }
    }
}

#[test]
fn spellings_of_other_programs_are_understood() {
    let home = Home::new();
    home.write(
        "args.txt",
        "# what we always say\n--beam_size 1 --initial_prompt 'two words'",
    );
    for line in [
        "transcribe gone.wav --model tiny --output_format srt --word_timestamps True --fp16 False --verbose False",
        "transcribe gone.wav --condition_on_previous_text False --temperature_increment_on_fallback None",
        "transcribe gone.wav --log_prob_threshold -1.0 --vad_filter True --vad_min_silence_duration_ms 500",
        "transcribe gone.wav --suppress_tokens -1 --length_penalty None --patience 2 --clip_timestamps 0,5",
        "transcribe gone.wav -l en -t 2 -tr -bs 3 -bo 2 -nt -nf --prompt hi",
        "transcribe gone.wav @args.txt",
        "@args.txt transcribe gone.wav",
        "-m tiny transcribe gone.wav --no-suppress-blank",
    ] {
        // Understood: only the input is missing. (`@args.txt` before the command is not, its options are the command's.)
        let expected = if line.starts_with('@') { 2 } else { 4 };
        assert_eq!(home.run(line.split(' ')).code, expected, "{line}");
    }
    home.run(["transcribe", "@gone.txt"])
        .fails(2, &["cannot read response file [gone.txt]"]);
}

#[test]
fn colours_are_for_those_who_want_them() {
    let home = Home::new();
    let colored = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = home.command(args);
        command.envs(variables.iter().copied());
        crate::support::run(&mut command).stderr.contains('\x1b')
    };
    let line = ["transcribe", "gone.wav"];
    assert!(!colored(&line, &[]));
    assert!(colored(&line, &[("CLICOLOR_FORCE", "1")]));
    assert!(!colored(
        &line,
        &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]
    ));
    assert!(colored(
        &["--color=always", "transcribe", "gone.wav"],
        &[("NO_COLOR", "1")]
    ));
    assert!(!colored(
        &["--color=never", "transcribe", "gone.wav"],
        &[("CLICOLOR_FORCE", "1")]
    ));
}
