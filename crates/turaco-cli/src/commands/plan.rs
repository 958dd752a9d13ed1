//! What `transcribe` is to do, with every contradiction between options found before work starts.

use std::path::PathBuf;

use turaco::asr::{Task, TranscribeOptions};
use turaco::output::{OutputFormat, WriteOptions};

use crate::args::{Recognition, TranscribeArgs};
use crate::exit::Failure;
use crate::sound::Reading;

/// Whether the output of several inputs can be told apart on one stream: JSON is one line per input, text has headings.
const fn can_follow_another(format: OutputFormat) -> bool {
    matches!(
        format,
        OutputFormat::Txt | OutputFormat::Json | OutputFormat::Jsonl | OutputFormat::VerboseJson
    )
}

/// Where results go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One format on stdout.
    Stdout(OutputFormat),
    /// Files, one per input and format.
    Folder {
        /// The folder.
        path: PathBuf,
        /// The formats.
        formats: Vec<OutputFormat>,
        /// Leave out inputs that have all their files.
        skip_existing: bool,
    },
    /// Only the language, on stdout; as JSON if asked for.
    Language {
        /// One JSON object per input.
        json: bool,
    },
}

/// The whole job.
#[derive(Debug, Clone)]
pub struct Plan {
    /// For the recogniser.
    pub options: TranscribeOptions,
    /// For the reader of sound.
    pub reading: Reading,
    /// Where results go.
    pub target: Target,
    /// Lines with times on stdout.
    pub timestamps: bool,
    /// Special tokens are shown.
    pub print_special: bool,
    /// Words are coloured by probability.
    pub print_colors: bool,
    /// Words of low probability are marked.
    pub print_confidence: bool,
    /// Layout of subtitles.
    pub layout: WriteOptions,
    /// Files at once.
    pub jobs: usize,
    /// What is accepted but has no effect.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Decide. `command_task` is what the command's name says.
    pub fn new(args: &TranscribeArgs, command_task: Task) -> Result<Self, Failure> {
        let mut warnings = Vec::new();
        let task = match (command_task, args.language.task) {
            (Task::Translate, Some(Task::Transcribe)) => {
                return Err(contradiction("`translate`", "`--task transcribe`"));
            }
            (task, None) => task,
            (_, Some(task)) => task,
        };
        check_recognition(args.recognition())?;
        check_clips(args)?;
        let mut options = args.options(task);
        let target = target(args)?;
        let timestamps = timestamps(args, &target)?;
        let layout = layout(args, &mut warnings)?;
        if options.hallucination_silence_threshold.is_some() && !options.word_timestamps {
            // Said once, here: without the option the recogniser has nothing to add for each file.
            options.hallucination_silence_threshold = None;
            warnings.push(
                "--hallucination-silence-threshold has no effect without --word-timestamps".into(),
            );
        }
        let words_on_stdout = args.output.print_colors || args.output.print_confidence;
        if words_on_stdout && target != Target::Stdout(OutputFormat::Txt) && !timestamps {
            warnings
                .push("--print-colors and --print-confidence change only text on stdout".into());
        }
        Ok(Self {
            options,
            reading: Reading::new(&args.input)?,
            target,
            timestamps,
            print_special: args.output.print_special,
            print_colors: args.output.print_colors,
            print_confidence: args.output.print_confidence,
            layout,
            jobs: args.output.jobs,
            warnings,
        })
    }

    /// Refuse a number of inputs that the target cannot keep apart.
    pub fn check_count(&self, inputs: usize) -> Result<(), Failure> {
        match &self.target {
            Target::Stdout(format) if inputs > 1 && !can_follow_another(*format) => {
                Err(Failure::usage(format!(
                    "{inputs} inputs in format {} cannot share stdout",
                    format.name()
                ))
                .hint("add `-o DIR` to write one file per input"))
            }
            _ => Ok(()),
        }
    }
}

fn contradiction(first: &str, second: &str) -> Failure {
    Failure::usage(format!("{first} cannot be used with {second}"))
}

/// Refuse options about the text that contradict each other.
pub fn check_recognition(args: Recognition<'_>) -> Result<(), Failure> {
    check_language(args)?;
    check_decoding(args)
}

fn check_language(args: Recognition<'_>) -> Result<(), Failure> {
    let given = args.given_language().is_some();
    if given && args.language.languages.is_some() {
        return Err(contradiction("`--language`", "`--languages`")
            .hint("`--language L` says which one it is, `--languages A,B` restricts detection"));
    }
    if given && args.language.multilingual {
        return Err(contradiction("`--language`", "`--multilingual`")
            .hint("`--multilingual` detects the language of every window"));
    }
    let listed = args.language.languages.iter().flat_map(|list| &list.0);
    for language in args
        .given_language()
        .into_iter()
        .chain(listed.map(String::as_str))
    {
        if turaco::tokenizer::languages::language_code(language).is_none() {
            return Err(Failure::usage(format!("unknown language `{language}`"))
                .hint("use an ISO 639-1 code such as `de` or an English name such as `german`"));
        }
    }
    Ok(())
}

fn check_decoding(args: Recognition<'_>) -> Result<(), Failure> {
    let decoding = &args.decoding;
    let temperatures = &decoding.temperature.0;
    if temperatures.is_empty() || temperatures.iter().any(|t| t.0 < 0.0) {
        return Err(Failure::usage(
            "invalid value for `--temperature`: expected one or more numbers that are not negative",
        ));
    }
    if let Some(increment) = decoding.temperature_increment_on_fallback {
        let default = TranscribeOptions::default().temperature;
        let is_default = temperatures.iter().map(|t| t.0).eq(default);
        if temperatures.len() > 1 && !is_default {
            return Err(contradiction(
                "a list of `--temperature`",
                "`--temperature-increment-on-fallback`",
            ));
        }
        if increment.0.is_some_and(|step| step.0 <= 0.0) {
            return Err(Failure::usage(
                "invalid value for `--temperature-increment-on-fallback`: expected a number above 0, or `none`",
            ));
        }
    }
    Ok(())
}

fn check_clips(args: &TranscribeArgs) -> Result<(), Failure> {
    let decoding = &args.decoding;
    let clips = decoding.clip_timestamps.0.iter().any(|clip| clip.0 > 0.0);
    if clips && (args.input.offset.is_some() || args.input.duration.is_some()) {
        return Err(contradiction(
            "`--clip-timestamps`",
            "`--offset` and `--duration`",
        ));
    }
    Ok(())
}

fn target(args: &TranscribeArgs) -> Result<Target, Failure> {
    let output = &args.output;
    let formats = match &output.output_format {
        None => None,
        Some(names) => Some(formats(&names.0)?),
    };
    if output.skip_existing && output.output_dir.is_none() {
        return Err(Failure::usage("`--skip-existing` needs `--output-dir`"));
    }
    if args.detect_language {
        if args.recognition().given_language().is_some() {
            return Err(contradiction("`--language`", "`--detect-language`"));
        }
        if output.output_dir.is_some() {
            return Err(contradiction("`--detect-language`", "`--output-dir`"));
        }
        return match formats.as_deref() {
            None | Some([OutputFormat::Txt]) => Ok(Target::Language { json: false }),
            Some([OutputFormat::Json | OutputFormat::Jsonl | OutputFormat::VerboseJson]) => {
                Ok(Target::Language { json: true })
            }
            Some(_) => Err(Failure::usage(
                "`--detect-language` prints txt or json, no other format",
            )),
        };
    }
    match (&output.output_dir, formats) {
        (Some(path), formats) => Ok(Target::Folder {
            path: path.clone(),
            formats: formats.unwrap_or_else(|| OutputFormat::all().to_vec()),
            skip_existing: output.skip_existing,
        }),
        (None, None) => Ok(Target::Stdout(OutputFormat::Txt)),
        (None, Some(formats)) => match formats[..] {
            [format] => Ok(Target::Stdout(format)),
            _ => Err(Failure::usage("several output formats cannot share stdout")
                .hint("add `-o DIR` to write one file per format")),
        },
    }
}

fn formats(names: &[String]) -> Result<Vec<OutputFormat>, Failure> {
    let mut formats = Vec::new();
    for name in names {
        let lower = name.to_ascii_lowercase().replace('-', "_");
        let named = match lower.parse::<OutputFormat>() {
            Ok(format) => vec![format],
            Err(_) if lower == "all" => OutputFormat::all().to_vec(),
            Err(_) => {
                let known = OutputFormat::KNOWN.map(OutputFormat::name).join(", ");
                return Err(Failure::usage(format!(
                    "unknown output format `{name}`; known: {known}, all"
                )));
            }
        };
        for format in named {
            if !formats.contains(&format) {
                formats.push(format);
            }
        }
    }
    if formats.is_empty() {
        return Err(Failure::usage("option `--output-format` needs a value"));
    }
    Ok(formats)
}

fn timestamps(args: &TranscribeArgs, target: &Target) -> Result<bool, Failure> {
    let output = &args.output;
    match (output.timestamps, output.no_timestamps) {
        (Some(true), true) => return Err(contradiction("`--timestamps`", "`--no-timestamps`")),
        (Some(false), false) | (_, true) => {
            if let Target::Stdout(
                format @ (OutputFormat::Srt | OutputFormat::Vtt | OutputFormat::Lrc),
            ) = target
            {
                return Err(contradiction(
                    "`--no-timestamps`",
                    &format!("`--output-format {}`", format.name()),
                ));
            }
            return Ok(false);
        }
        (None, false) => return Ok(false),
        _ => {}
    }
    match target {
        Target::Stdout(OutputFormat::Txt) | Target::Folder { .. } => Ok(true),
        Target::Stdout(format) => Err(contradiction(
            "`--timestamps`",
            &format!("`--output-format {}`", format.name()),
        )
        .hint("`--timestamps` prints text lines; subtitle formats have times of their own")),
        Target::Language { .. } => Err(contradiction("`--timestamps`", "`--detect-language`")),
    }
}

fn layout(args: &TranscribeArgs, warnings: &mut Vec<String>) -> Result<WriteOptions, Failure> {
    let output = &args.output;
    let layout = WriteOptions {
        highlight_words: output.highlight_words,
        max_line_width: output.max_line_width.and_then(|value| value.0),
        max_line_count: output.max_line_count.and_then(|value| value.0),
        max_words_per_line: output.max_words_per_line.and_then(|value| value.0),
    };
    let needs_words = [
        ("--highlight-words", layout.highlight_words),
        ("--max-line-width", layout.max_line_width.is_some()),
        ("--max-line-count", layout.max_line_count.is_some()),
        ("--max-words-per-line", layout.max_words_per_line.is_some()),
    ];
    for (option, given) in needs_words {
        if given && !args.words.word_timestamps {
            return Err(Failure::usage(format!(
                "`{option}` needs `--word-timestamps`"
            )));
        }
    }
    for (option, value) in [
        ("--max-line-width", layout.max_line_width),
        ("--max-line-count", layout.max_line_count),
        ("--max-words-per-line", layout.max_words_per_line),
    ] {
        if value == Some(0) {
            return Err(Failure::usage(format!(
                "invalid value `0` for `{option}`: expected 1 or more"
            )));
        }
    }
    if layout.max_line_count.is_some() && layout.max_line_width.is_none() {
        warnings.push("--max-line-count has no effect without --max-line-width".into());
    }
    if layout.max_words_per_line.is_some() && layout.max_line_width.is_some() {
        warnings.push("--max-words-per-line has no effect with --max-line-width".into());
    }
    Ok(layout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::parse_for_test;

    fn plan(line: &[&str]) -> Result<Plan, Failure> {
        let line: Vec<&str> = ["transcribe", "a.wav"]
            .iter()
            .chain(line)
            .copied()
            .collect();
        Plan::new(&parse_for_test(&line), Task::Transcribe)
    }

    #[test]
    fn defaults_follow_the_target() {
        assert_eq!(plan(&[]).unwrap().target, Target::Stdout(OutputFormat::Txt));
        let Target::Folder { formats, .. } = plan(&["-o", "out"]).unwrap().target else {
            panic!("not a folder");
        };
        assert_eq!(formats, OutputFormat::all());
        let Target::Folder { formats, .. } =
            plan(&["-o", "out", "-f", "lrc,all,srt"]).unwrap().target
        else {
            panic!("not a folder");
        };
        assert_eq!(formats.len(), 6);
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            &["--timestamps", "--no-timestamps"][..],
            &["--timestamps", "-f", "srt"],
            &["--no-timestamps", "-f", "vtt"],
            &["-f", "srt,vtt"],
            &["-f", "mp3"],
            &["--skip-existing"],
            &["--highlight-words"],
            &["--max-line-width", "40"],
            &["--word-timestamps", "--max-line-width", "0"],
            &["-l", "en", "--languages", "en,de"],
            &["-l", "en", "--detect-language"],
            &["-l", "klingon"],
            &["--languages", "en,xx"],
            &["--detect-language", "-f", "srt"],
            &["--detect-language", "-o", "x"],
            &[
                "--temperature",
                "0,1",
                "--temperature-increment-on-fallback",
                "0.1",
            ],
            &[
                "--temperature",
                "0",
                "--temperature-increment-on-fallback",
                "0",
            ],
            &["--clip-timestamps", "1,2", "--offset", "3"],
            &["--raw", "mp3:1"],
        ] {
            let failure = plan(line).expect_err(&format!("{line:?}"));
            assert_eq!(failure.exit.code(), 2, "{line:?}");
        }
        let args = parse_for_test(&["translate", "--task", "transcribe", "a.wav"]);
        assert!(Plan::new(&args, Task::Translate).is_err());
    }

    #[test]
    fn useless_options_are_named() {
        let plan_of = plan(&["--hallucination-silence-threshold", "2"]).unwrap();
        assert_eq!(plan_of.warnings.len(), 1);
        assert_eq!(plan_of.options.hallucination_silence_threshold, None);
        let warnings = plan(&["--word-timestamps", "--max-line-count", "2"])
            .unwrap()
            .warnings;
        assert_eq!(warnings.len(), 1);
    }
}
