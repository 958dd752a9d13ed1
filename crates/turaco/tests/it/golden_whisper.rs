//! Whisper against openai-whisper 20250625, stage by stage: features, encoder, logits, tokens, times, languages.
//!
//! Tolerances are those of the goldens' README; tokens are equal except where the reference's own margin between the
//! two best tokens is below 0.01.

use serde_json::Value;
use turaco::models::whisper::{Choice, Session};
use turaco::{Audio, Control, Segment, Task, TranscribeOptions, Transcriber};

use crate::support::{assert_close, clip, json, loaded, shared, tensors, testdata};

/// Features of the reference's first window: content, then zeros.
fn first_window(transcriber: &Transcriber, audio: &Audio) -> (Vec<f32>, usize) {
    let n_frames = 2 * transcriber.model().config().n_audio_ctx;
    let mel = transcriber
        .log_mel()
        .compute(audio.samples(), n_frames * 160);
    let content = mel.n_frames - n_frames;
    let mut features = vec![0.0; mel.n_mels * n_frames];
    for (row, out) in features.chunks_exact_mut(n_frames).enumerate() {
        let kept = content.min(n_frames);
        out[..kept].copy_from_slice(&mel.row(row)[..kept]);
    }
    (features, content)
}

/// Every stage of one window.
fn check_stages(transcriber: &Transcriber, golden: &std::path::Path, facts: &Value) {
    let golden = tensors(golden);
    let expected = |name: &str| golden.require(name).unwrap().to_f32();
    let audio = clip("jfk").unwrap();
    let (features, content) = first_window(transcriber, &audio);
    assert_eq!(content as u64, facts["content_frames"].as_u64().unwrap());
    let n_frames = 2 * transcriber.model().config().n_audio_ctx;
    let content_features: Vec<f32> = features
        .chunks_exact(n_frames)
        .flat_map(|row| &row[..content])
        .copied()
        .collect();
    assert_close("mel", &content_features, &expected("mel"), 1e-4);

    let config = transcriber.model().config().clone();
    let mut session = Session::new(
        transcriber.model(),
        transcriber.tokenizer().timestamp_begin(),
    );
    let rows: Vec<usize> = golden
        .require("rows")
        .unwrap()
        .bytes
        .chunks_exact(4)
        .map(|b| i32::from_le_bytes(b.try_into().unwrap()) as usize)
        .collect();
    for (name, values) in session.encoder_stages(&features).unwrap() {
        let name = if name == "encoder_out" {
            "encoder_out_rows".to_owned()
        } else {
            name
        };
        // The first convolution has two frames per position.
        let stride = if name == "conv1_gelu" { 2 } else { 1 };
        let width = config.n_audio_state;
        let kept: Vec<f32> = rows
            .iter()
            .flat_map(|row| &values[row * stride * width..][..width])
            .copied()
            .collect();
        assert_close(&name, &kept, &expected(&name), 2e-3);
    }

    let mut window = session.new_window().unwrap();
    session.encode(&features, &mut [&mut window]).unwrap();
    let prompt: Vec<u32> = facts["prompt"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_u64().unwrap() as u32)
        .collect();
    let allowed = vec![u32::MAX; config.n_vocab.div_ceil(32)];
    let choice = Choice {
        allowed: &allowed,
        seen: None,
        controls: &[0.0, 1.0, 0.0],
        seeds: &[0, 0],
        k: 1,
    };
    let mut sequence = session.new_sequence().unwrap();
    let chosen = session
        .prefill(&mut [&mut sequence], &[&window], &prompt, 0, &choice)
        .unwrap();
    let last = chosen.logits().unwrap()[config.n_vocab..].to_vec();
    assert_close(
        "logits_prompt_last",
        &last,
        &expected("logits_prompt_last"),
        5e-3,
    );

    // Feed the reference's own greedy tokens and compare the leading logits of every step.
    let mut logits = last;
    for (step, golden) in facts["greedy"].as_array().unwrap().iter().enumerate() {
        let ids = golden["raw_top5_ids"].as_array().unwrap();
        let values = golden["raw_top5_logits"].as_array().unwrap();
        let actual: Vec<f32> = ids
            .iter()
            .map(|id| logits[id.as_u64().unwrap() as usize])
            .collect();
        let values: Vec<f32> = values.iter().map(|v| v.as_f64().unwrap() as f32).collect();
        assert_close(&format!("logits of step {step}"), &actual, &values, 5e-3);
        let token = golden["token"].as_u64().unwrap() as u32;
        if token == transcriber.tokenizer().eot() || sequence.len() == config.n_text_ctx {
            break;
        }
        let chosen = session
            .step(&mut [&mut sequence], &[&window], &[token], &choice)
            .unwrap();
        logits = chosen.logits().unwrap().to_vec();
    }
}

#[test]
fn tiny_en_stages() {
    check_stages(
        loaded("tiny.en"),
        &testdata("whisper/stages_tiny.en_jfk.safetensors"),
        &json("whisper/stages_tiny.en_jfk.json"),
    );
}

#[test]
fn tiny_random_stages() {
    check_stages(
        loaded("tiny-random"),
        &testdata("whisper/tiny-random/stages_jfk.safetensors"),
        &json("whisper/tiny-random/stages_jfk.json"),
    );
}

#[test]
fn base_stages() {
    let Some(golden) = shared("golden/whisper/stages_base_jfk.safetensors") else {
        eprintln!(
            "the reference set is not here; tiny.en and the random checkpoint cover the same stages"
        );
        return;
    };
    let facts =
        serde_json::from_slice(&std::fs::read(golden.with_extension("json")).unwrap()).unwrap();
    check_stages(loaded("base"), &golden, &facts);
}

/// Options of the goldens' configurations.
fn options(config: &str) -> TranscribeOptions {
    let mut options = TranscribeOptions::default();
    options.temperature = vec![0.0];
    options.beam_size = 1;
    match config {
        "greedy" => {}
        "greedy_nocond" => options.condition_on_previous_text = false,
        "greedy_words" => options.word_timestamps = true,
        "greedy_notimestamps" => options.without_timestamps = Some(true),
        "greedy_clip" => options.clip_timestamps = vec![1.5, 4.25],
        "greedy_prompt" => {
            options.initial_prompt = Some("A speech of President Kennedy, 1961.".into());
        }
        "beam5" => options.beam_size = 5,
        "beam3_patience2" => (options.beam_size, options.patience) = (3, 2.0),
        "beam5_lenpen06" => (options.beam_size, options.length_penalty) = (5, Some(0.6)),
        "cli_default" => options = TranscribeOptions::default(),
        "cli_default_words" => {
            options = TranscribeOptions::default();
            options.word_timestamps = true;
        }
        other => panic!("no configuration {other}"),
    }
    options
}

fn transcribe(
    transcriber: &Transcriber,
    audio: &Audio,
    options: &TranscribeOptions,
) -> Vec<Segment> {
    let transcription = transcriber
        .transcribe(audio, options, &Control::new())
        .unwrap();
    transcription.collect::<Result<_, _>>().unwrap()
}

/// Every clip of a golden file: tokens and times equal, probabilities within 1e-3, words within 20 ms for 95 %.
fn check_transcripts(model: &'static str, config: &str) {
    let golden = json(&format!("whisper/openai/{model}_{config}.json"));
    let (mut n_words, mut n_close) = (0, 0);
    for (name, expected) in golden.as_object().unwrap() {
        let Some(audio) = clip(name) else {
            eprintln!("{model} {config}: {name} is not in this checkout");
            continue;
        };
        let mut options = options(config);
        options.language = Some("en".into());
        let segments = transcribe(loaded(model), &audio, &options);
        let label = format!("{model} {config} {name}");
        let expected = expected["segments"].as_array().unwrap();
        let texts = |s: &[Segment]| s.iter().map(|s| s.text.clone()).collect::<Vec<_>>();
        assert_eq!(
            segments.len(),
            expected.len(),
            "{label}: {:?}",
            texts(&segments)
        );
        for (segment, expected) in segments.iter().zip(expected) {
            // The reference lets a segment end behind the sound.
            let number = |key: &str| match key {
                "start" | "end" => expected[key].as_f64().unwrap().min(audio.duration()),
                key => expected[key].as_f64().unwrap(),
            };
            let tokens: Vec<u64> = segment.tokens.iter().map(|&t| u64::from(t)).collect();
            assert_eq!(
                Value::from(tokens),
                expected["tokens"],
                "{label}: {}",
                segment.text
            );
            assert_eq!(segment.text, expected["text"].as_str().unwrap(), "{label}");
            assert_eq!(
                segment.id as u64,
                expected["id"].as_u64().unwrap(),
                "{label}"
            );
            assert_eq!(
                segment.seek as u64,
                expected["seek"].as_u64().unwrap(),
                "{label}"
            );
            for (key, actual, tolerance) in [
                ("avg_logprob", segment.avg_logprob, 1e-3),
                ("no_speech_prob", segment.no_speech_prob, 1e-3),
                ("compression_ratio", segment.compression_ratio, 1e-9),
                ("temperature", segment.temperature, 0.0),
                (
                    "start",
                    segment.start,
                    if segment.words.is_some() { 0.02 } else { 0.0 },
                ),
                (
                    "end",
                    segment.end,
                    if segment.words.is_some() { 0.02 } else { 0.0 },
                ),
            ] {
                assert!(
                    (actual - number(key)).abs() <= tolerance + 1e-12,
                    "{label}: {key} is {actual} instead of {}",
                    number(key)
                );
            }
            let words = expected["words"].as_array();
            assert_eq!(segment.words.is_some(), words.is_some(), "{label}");
            for (word, expected) in segment
                .words
                .iter()
                .flatten()
                .zip(words.into_iter().flatten())
            {
                assert_eq!(word.word, expected["word"].as_str().unwrap(), "{label}");
                let off = |key: &str, actual: f64| (expected[key].as_f64().unwrap() - actual).abs();
                assert!(
                    off("probability", word.probability) <= 1e-3,
                    "{label}: {word:?}"
                );
                n_words += 1;
                n_close += usize::from(
                    off("start", word.start) <= 0.0201 && off("end", word.end) <= 0.0201,
                );
            }
            assert_eq!(
                segment.words.as_ref().map(Vec::len),
                words.map(Vec::len),
                "{label}"
            );
        }
    }
    if n_words > 0 {
        eprintln!("{model} {config}: {n_close} of {n_words} words within 20 ms");
        assert!(
            n_close * 100 >= n_words * 95,
            "{model} {config}: only {n_close} of {n_words} words within 20 ms"
        );
    }
}

macro_rules! transcript_tests {
    ($($test:ident: $model:literal $config:literal;)*) => {
        $(#[test]
        fn $test() {
            check_transcripts($model, $config);
        })*
    };
}

transcript_tests! {
    tiny_en_greedy: "tiny.en" "greedy";
    tiny_en_without_conditioning: "tiny.en" "greedy_nocond";
    tiny_en_words: "tiny.en" "greedy_words";
    tiny_en_without_timestamps: "tiny.en" "greedy_notimestamps";
    tiny_en_clip: "tiny.en" "greedy_clip";
    tiny_en_prompt: "tiny.en" "greedy_prompt";
    tiny_en_beam: "tiny.en" "beam5";
    tiny_en_patience: "tiny.en" "beam3_patience2";
    tiny_en_length_penalty: "tiny.en" "beam5_lenpen06";
    tiny_en_default: "tiny.en" "cli_default";
    tiny_en_default_words: "tiny.en" "cli_default_words";
    base_greedy: "base" "greedy";
    base_words: "base" "greedy_words";
    base_clip: "base" "greedy_clip";
    base_beam: "base" "beam5";
    base_default: "base" "cli_default";
}

/// Little audio, because the graphics processor may be one in software.
#[cfg(feature = "wgpu")]
mod on_graphics_processors {
    use super::*;
    use crate::support::{loaded_on_gpu, real_model};

    #[test]
    fn tiny_random_stages() {
        if let Some(transcriber) = loaded_on_gpu(&testdata("whisper/tiny-random")) {
            check_stages(
                &transcriber,
                &testdata("whisper/tiny-random/stages_jfk.safetensors"),
                &json("whisper/tiny-random/stages_jfk.json"),
            );
        }
    }

    #[test]
    fn tiny_en_tokens() {
        let Some(transcriber) = loaded_on_gpu(&real_model("tiny.en")) else {
            return;
        };
        let golden = json("whisper/openai/tiny.en_greedy.json");
        let mut options = options("greedy");
        options.language = Some("en".into());
        let segments = transcribe(&transcriber, &clip("jfk").unwrap(), &options);
        let tokens = segments.iter().flat_map(|segment| &segment.tokens);
        let expected = golden["jfk"]["segments"].as_array().unwrap().iter();
        let expected = expected.flat_map(|segment| segment["tokens"].as_array().unwrap());
        let tokens: Vec<Value> = tokens.map(|&token| Value::from(token)).collect();
        assert_eq!(tokens, expected.cloned().collect::<Vec<_>>());
    }

    /// The tests above once more, with nothing but what every graphics processor has: no subgroups, no 16-bit numbers, no cooperative matrices.
    #[test]
    fn all_of_it_on_the_plain_path() {
        if std::env::var_os("TURACO_GPU_PLAIN").is_some() {
            return;
        }
        let mut tests = std::process::Command::new(std::env::current_exe().unwrap());
        tests.args(["golden_whisper::on_graphics_processors", "--nocapture"]);
        let run = tests.env("TURACO_GPU_PLAIN", "1").output().unwrap();
        let output = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{output}");
        assert!(output.contains("3 passed"), "{output}");
    }
}

/// The model with few dimensions, as the card may be an emulated one.
#[cfg(feature = "cuda")]
#[test]
fn tiny_random_stages_on_a_card() {
    if let Some(transcriber) = crate::support::loaded_on_card(&testdata("whisper/tiny-random")) {
        check_stages(
            &transcriber,
            &testdata("whisper/tiny-random/stages_jfk.safetensors"),
            &json("whisper/tiny-random/stages_jfk.json"),
        );
    }
}

#[test]
fn base_languages() {
    for (name, expected) in json("whisper/openai/language_probs_base.json")
        .as_object()
        .unwrap()
    {
        let Some(audio) = clip(name) else { continue };
        let found = loaded("base")
            .detect_language(&audio, &TranscribeOptions::default(), &Control::new())
            .unwrap();
        for (code, probability) in &found {
            let expected = expected[code].as_f64().unwrap();
            assert!(
                (probability - expected).abs() <= 1e-3,
                "{name}: {code} {probability} instead of {expected}"
            );
        }
        assert_eq!(found.len(), expected.as_object().unwrap().len());
    }
}

#[test]
fn tiny_random_multilingual_tokens_and_words() {
    let golden = json("whisper/tiny-random/goldens.json");
    let golden = &golden["clips"]["jfk"];
    let mut options = TranscribeOptions::default();
    options.language = Some("de".into());
    options.temperature = vec![0.0];
    options.beam_size = 1;
    options.compression_ratio_threshold = None;
    options.logprob_threshold = None;
    options.no_speech_threshold = None;
    options.max_new_tokens = Some(48);
    let audio = clip("jfk").unwrap();
    let transcriber = loaded("tiny-random");
    let languages = transcriber
        .detect_language(&audio, &TranscribeOptions::default(), &Control::new())
        .unwrap();
    for (code, expected) in golden["language_probs_top10"].as_object().unwrap() {
        let found = languages.iter().find(|(found, _)| found == code).unwrap().1;
        assert!(
            (found - expected.as_f64().unwrap()).abs() < 1e-3,
            "{code}: {found}"
        );
    }
    for (kind, words) in [("greedy", false), ("words", true)] {
        options.word_timestamps = words;
        let segments = transcribe(transcriber, &audio, &options);
        let expected = golden[kind].as_array().unwrap();
        assert_eq!(segments.len(), expected.len(), "{kind}");
        for (segment, expected) in segments.iter().zip(expected) {
            let tokens: Vec<u64> = segment.tokens.iter().map(|&t| u64::from(t)).collect();
            assert_eq!(Value::from(tokens), expected["tokens"], "{kind}");
            // The reference lets segments lie behind the sound.
            let time = |time: &Value| time.as_f64().unwrap().min(audio.duration());
            assert!(
                (segment.start - time(&expected["start"])).abs() < 0.021,
                "{kind}"
            );
            assert!(
                (segment.end - time(&expected["end"])).abs() < 0.021,
                "{kind}"
            );
            for (word, expected) in segment
                .words
                .iter()
                .flatten()
                .zip(expected["words"].as_array().into_iter().flatten())
            {
                assert_eq!(word.word, expected["word"].as_str().unwrap());
                assert!(
                    (word.start - time(&expected["start"])).abs() < 0.021,
                    "{word:?} {expected}"
                );
            }
        }
    }
}

#[test]
fn english_only_models_cannot_translate() {
    let mut options = TranscribeOptions::default();
    options.task = Task::Translate;
    let audio = clip("jfk").unwrap();
    let error = loaded("tiny.en")
        .transcribe(&audio, &options, &Control::new())
        .unwrap_err();
    assert_eq!(error.code(), "unsupported_model_task");
    assert!(error.to_string().contains("multilingual"), "{error}");
}

#[test]
fn empty_and_very_short_audio_gives_no_segments() {
    for n in [0, 1, 79, 100] {
        let audio = Audio::from_samples(vec![0.0; n], 16_000).unwrap();
        let segments = transcribe(loaded("tiny.en"), &audio, &TranscribeOptions::default());
        assert!(
            segments.iter().all(|s| s.text.trim().is_empty()),
            "{n}: {segments:?}"
        );
    }
}
