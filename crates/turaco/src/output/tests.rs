//! The writers against files of openai-whisper's writers, and as streams.

use std::path::PathBuf;

use super::*;
use crate::asr::Word;

fn testdata(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../testdata/whisper", name]
        .iter()
        .collect()
}

fn transcripts() -> Vec<(String, Transcript)> {
    let json = std::fs::read(testdata("transcripts.json")).expect("testdata");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    json.as_object()
        .expect("object")
        .iter()
        .map(|(name, value)| {
            let transcript = Transcript {
                text: value["text"].as_str().expect("text").to_owned(),
                segments: serde_json::from_value(value["segments"].clone()).expect("segments"),
                language: value["language"].as_str().expect("language").to_owned(),
                ..Transcript::default()
            };
            (name.clone(), transcript)
        })
        .collect()
}

fn written(transcript: &Transcript, format: OutputFormat, options: &WriteOptions) -> String {
    let mut out = Vec::new();
    write(transcript, format, options, &mut out).expect("written to memory");
    String::from_utf8(out).expect("UTF-8")
}

fn segment(start: f64, end: f64, text: &str) -> Segment {
    Segment {
        id: 0,
        seek: 0,
        start,
        end,
        text: text.to_owned(),
        tokens: vec![50364, 2425, 50414],
        temperature: 0.0,
        avg_logprob: -0.25,
        compression_ratio: 1e-5,
        no_speech_prob: 0.1,
        words: None,
    }
}

#[test]
fn reference_files_are_reproduced() {
    use OutputFormat::{Srt, Tsv, Txt, Vtt};
    let default = WriteOptions::default;
    let highlight = WriteOptions {
        highlight_words: true,
        ..default()
    };
    let narrow = WriteOptions {
        max_line_width: Some(32),
        max_line_count: Some(2),
        ..default()
    };
    let four_words = WriteOptions {
        max_words_per_line: Some(4),
        ..default()
    };
    let mut compared = 0;
    for (name, transcript) in transcripts() {
        let mut without_words = transcript.clone();
        without_words
            .segments
            .iter_mut()
            .for_each(|segment| segment.words = None);
        for (variant, transcript, options, formats) in [
            ("plain", &transcript, &default(), &[Txt, Srt, Vtt, Tsv][..]),
            ("highlight", &transcript, &highlight, &[Srt, Vtt]),
            ("width32_lines2", &transcript, &narrow, &[Srt, Vtt]),
            ("words4", &transcript, &four_words, &[Srt, Vtt]),
            ("nowords", &without_words, &default(), &[Srt, Vtt]),
        ] {
            for &format in formats {
                let file = format!("writers/{name}_{variant}.{format}");
                let expected = std::fs::read_to_string(testdata(&file)).expect("testdata");
                assert_eq!(written(transcript, format, options), expected, "{file}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 24);
}

#[test]
fn every_format_can_be_written_segment_by_segment() {
    for (_, transcript) in transcripts() {
        for format in OutputFormat::KNOWN {
            let mut writer = format.writer(&WriteOptions::default());
            let mut out = Vec::new();
            writer.begin(&mut out).expect("begin");
            for segment in &transcript.segments {
                let before = out.len();
                writer.segment(segment, &mut out).expect("segment");
                // A run that ends early keeps the text of this segment.
                let needs_all = matches!(format, OutputFormat::Json | OutputFormat::VerboseJson);
                assert_eq!(out.len() == before, needs_all, "{format}");
            }
            writer.finish(&transcript, &mut out).expect("finish");
            assert_eq!(
                String::from_utf8(out).expect("UTF-8"),
                written(&transcript, format, &WriteOptions::default())
            );
        }
    }
}

#[test]
fn json_is_written_as_python_writes_it() {
    let mut transcript = Transcript {
        text: " Ünï \"q\" \\ 日本 😀\n\t\u{7f}\u{1}".into(),
        segments: vec![segment(0.0, 1e16, " a/b")],
        language: "en".into(),
        ..Transcript::default()
    };
    transcript.segments[0].words = Some(vec![Word {
        word: " é".into(),
        start: 0.02,
        end: 1.0,
        probability: 0.5,
    }]);
    assert_eq!(
        written(&transcript, OutputFormat::Json, &WriteOptions::default()),
        "{\"text\": \" \\u00dcn\\u00ef \\\"q\\\" \\\\ \\u65e5\\u672c \\ud83d\\ude00\\n\\t\\u007f\\u0001\", \"segments\": [{\"id\": 0, \
         \"seek\": 0, \"start\": 0.0, \"end\": 1e+16, \"text\": \" a/b\", \"tokens\": [50364, 2425, 50414], \"temperature\": 0.0, \
         \"avg_logprob\": -0.25, \"compression_ratio\": 1e-05, \"no_speech_prob\": 0.1, \"words\": [{\"word\": \" \\u00e9\", \
         \"start\": 0.02, \"end\": 1.0, \"probability\": 0.5}]}], \"language\": \"en\"}"
    );
    assert_eq!(
        written(
            &Transcript::default(),
            OutputFormat::Json,
            &WriteOptions::default()
        ),
        r#"{"text": "", "segments": [], "language": ""}"#
    );
}

#[test]
fn verbose_json_has_the_fields_of_the_api() {
    let mut transcript = Transcript {
        text: " Hé. Du!".into(),
        segments: vec![segment(0.0, 1.5, " Hé."), segment(1.5, f64::NAN, " Du!")],
        language: "de".into(),
        duration: 10.25,
        ..Transcript::default()
    };
    let json = written(
        &transcript,
        OutputFormat::VerboseJson,
        &WriteOptions::default(),
    );
    assert!(json.starts_with(
        "{\"task\": \"transcribe\", \"language\": \"german\", \"language_code\": \"de\", \"duration\": 10.25, \"text\": \"Hé. Du!\", \
         \"segments\": [{\"id\": 0, "
    ));
    assert!(
        json.ends_with("}], \"usage\": {\"type\": \"duration\", \"seconds\": 11}}\n"),
        "{json}"
    );
    assert!(json.contains("\"end\": null"));
    transcript.segments[0].words = Some(vec![Word {
        word: " Hé.".into(),
        start: 0.5,
        end: 1.0,
        probability: 0.9,
    }]);
    transcript.warnings.push("w".into());
    let json = written(
        &transcript,
        OutputFormat::VerboseJson,
        &WriteOptions::default(),
    );
    assert!(
        json.ends_with(
            "}], \"words\": [{\"word\": \"Hé.\", \"start\": 0.5, \"end\": 1.0}], \"usage\": {\"type\": \"duration\", \"seconds\": 11}, \
             \"warnings\": [\"w\"]}\n"
        ),
        "{json}"
    );
}

#[test]
fn csv_lrc_and_jsonl() {
    let transcript = Transcript {
        segments: vec![
            segment(0.0, 2.5, " He said \"no\", then"),
            segment(61.239, 3700.0, " l1\nl2\té"),
        ],
        ..Transcript::default()
    };
    let written = |format| written(&transcript, format, &WriteOptions::default());
    assert_eq!(
        written(OutputFormat::Csv),
        "start,end,text\n0,2500,\" He said \"\"no\"\", then\"\n61239,3700000,\" l1\nl2\té\"\n"
    );
    assert_eq!(
        written(OutputFormat::Lrc),
        "[by:turaco]\n[00:00.00] He said \"no\", then\n[01:01.24] l1 l2\té\n"
    );
    let jsonl = written(OutputFormat::Jsonl);
    assert_eq!(jsonl.lines().count(), 2);
    for (line, segment) in jsonl.lines().zip(&transcript.segments) {
        assert_eq!(
            &serde_json::from_str::<Segment>(line).expect("a segment"),
            segment
        );
    }
}

#[test]
fn a_segment_without_words_among_others_keeps_its_text() {
    let mut first = segment(0.0, 1.0, " one");
    first.words = Some(vec![Word {
        word: " one".into(),
        start: 0.0,
        end: 1.0,
        probability: 1.0,
    }]);
    let transcript = Transcript {
        segments: vec![first, segment(1.0, 2.0, " two")],
        ..Transcript::default()
    };
    assert_eq!(
        written(&transcript, OutputFormat::Vtt, &WriteOptions::default()),
        "WEBVTT\n\n00:00.000 --> 00:01.000\none\n\n00:01.000 --> 00:02.000\ntwo\n\n"
    );
}

#[test]
fn formats_are_found_by_name() {
    for format in OutputFormat::KNOWN {
        assert_eq!(
            format.name().parse::<OutputFormat>().expect("known"),
            format
        );
    }
    let error = "docx"
        .parse::<OutputFormat>()
        .expect_err("unknown")
        .to_string();
    assert!(
        error.contains("`docx`")
            && error.contains("txt vtt srt tsv json jsonl csv lrc verbose_json"),
        "{error}"
    );
}
