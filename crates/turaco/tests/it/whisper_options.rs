//! Options that the reference's goldens do not cover, and properties that hold for all of them.

use turaco::text::{normalize_english, word_errors};
use turaco::{Audio, ComputeType, Control, LoadOptions, Segment, TranscribeOptions, Transcriber};

use crate::support::{clip, loaded, real_model};

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

fn text(segments: &[Segment]) -> String {
    segments
        .iter()
        .map(|segment| segment.text.as_str())
        .collect()
}

fn greedy() -> TranscribeOptions {
    let mut options = TranscribeOptions::default();
    options.temperature = vec![0.0];
    options.beam_size = 1;
    options
}

/// Speech, two seconds of silence, other speech, silence, and the first again.
fn three_clips() -> Audio {
    let pause = vec![0.0; 32_000];
    let mut samples = Vec::new();
    for name in ["jfk", "test_speech", "jfk"] {
        samples.extend_from_slice(clip(name).unwrap().samples());
        samples.extend_from_slice(&pause);
    }
    Audio::from_samples(samples, 16_000).unwrap()
}

#[test]
fn every_compute_type_writes_the_same_words() {
    let audio = clip("jfk").unwrap();
    let reference = text(&transcribe(
        loaded("tiny.en"),
        &audio,
        &TranscribeOptions::default(),
    ));
    for compute_type in [
        ComputeType::Bf16,
        ComputeType::F16,
        ComputeType::Q8,
        ComputeType::Q4,
    ] {
        let options = LoadOptions::new().compute_type(compute_type);
        let transcriber =
            Transcriber::load_path(&real_model("tiny.en"), &options, &Control::new()).unwrap();
        let found = text(&transcribe(
            &transcriber,
            &audio,
            &TranscribeOptions::default(),
        ));
        let errors = word_errors(&normalize_english(&reference), &normalize_english(&found));
        assert_eq!(errors.total(), 0, "{compute_type}: {found}");
    }
}

#[test]
fn threads_do_not_change_the_result() {
    let audio = clip("test_speech").unwrap();
    for compute_type in [ComputeType::F32, ComputeType::Q8] {
        let of_threads = |threads| {
            let options = LoadOptions::new()
                .compute_type(compute_type)
                .threads(threads);
            let transcriber =
                Transcriber::load_path(&real_model("tiny.en"), &options, &Control::new()).unwrap();
            transcribe(&transcriber, &audio, &TranscribeOptions::default())
        };
        assert_eq!(of_threads(1), of_threads(3), "{compute_type}");
    }
}

#[test]
fn sampling_repeats_with_its_seed() {
    let mut options = TranscribeOptions::default();
    options.temperature = vec![1.0];
    let audio = clip("test_speech").unwrap();
    let run = |seed| {
        let mut options = options.clone();
        options.seed = seed;
        transcribe(loaded("tiny.en"), &audio, &options)
    };
    assert_eq!(run(1), run(1));
    let one = run(1);
    assert!(
        (2..12).any(|seed| run(seed) != one),
        "no seed changed anything"
    );
}

#[test]
fn batch_size_does_not_change_what_is_heard() {
    let audio = three_clips();
    let of_batch = |batch_size, word_timestamps| {
        let mut options = greedy();
        options.batch_size = batch_size;
        options.chunk_length = Some(12.0);
        options.word_timestamps = word_timestamps;
        transcribe(loaded("tiny.en"), &audio, &options)
    };
    let two = of_batch(2, false);
    assert!(two.len() >= 3, "{two:?}");
    assert_eq!(text(&two), text(&of_batch(8, false)));
    assert!(
        text(&two).to_lowercase().matches("your country").count() >= 2,
        "{two:?}"
    );
    let last_word = of_batch(3, true)
        .pop()
        .unwrap()
        .words
        .unwrap()
        .pop()
        .unwrap();
    // The last clip starts at 18.6 s and its last word ends about 10.5 s later.
    assert!((28.4..30.0).contains(&last_word.end), "{last_word:?}");
}

#[test]
fn detected_silence_is_left_out_and_times_stay_right() {
    let mut options = greedy();
    options.vad_filter = Some(true);
    let audio = three_clips();
    let transcription = loaded("tiny.en")
        .transcribe(&audio, &options, &Control::new())
        .unwrap();
    let info = transcription.info().clone();
    assert!(info.duration_after_vad < info.duration - 1.0, "{info:?}");
    let segments: Vec<Segment> = transcription.collect::<Result<_, _>>().unwrap();
    assert!(
        segments
            .windows(2)
            .all(|pair| pair[0].start <= pair[1].start),
        "{segments:?}"
    );
    let last = segments.last().unwrap();
    assert!((28.0..=31.7).contains(&last.end), "{last:?}");
}

#[test]
fn a_prefix_is_continued_and_hotwords_are_heard() {
    let audio = clip("jfk").unwrap();
    let mut options = greedy();
    options.prefix = Some("And so, my fellow Americans,".into());
    let continued = text(&transcribe(loaded("tiny.en"), &audio, &options));
    assert!(
        continued.starts_with(" And so, my fellow Americans,")
            && continued.to_lowercase().contains("ask what you can do"),
        "{continued}"
    );
    let mut options = greedy();
    options.hotwords = Some("Kennedy".into());
    let heard = text(&transcribe(loaded("tiny.en"), &audio, &options));
    assert!(heard.to_lowercase().contains("your country"), "{heard}");
}

#[test]
fn a_prefix_begins_the_first_batched_window_only() {
    let audio = three_clips();
    let mut options = greedy();
    options.batch_size = 8;
    options.chunk_length = Some(12.0);
    let plain = transcribe(loaded("tiny.en"), &audio, &options);
    options.prefix = Some("Well,".into());
    let prefixed = transcribe(loaded("tiny.en"), &audio, &options);
    assert!(plain.len() > 1, "{plain:?}");
    let later = |segments: &[Segment]| text(&segments[1..]);
    assert_eq!(later(&prefixed), later(&plain));
    assert!(prefixed[0].text.starts_with(" Well,"), "{prefixed:?}");
}

#[test]
fn detection_among_one_language_is_that_language() {
    let audio = clip("test_speech").unwrap();
    for batch_size in [1, 4] {
        let mut given = greedy();
        given.batch_size = batch_size;
        given.language = Some("de".into());
        let mut detected = given.clone();
        detected.language = None;
        detected.languages = vec!["german".into()];
        detected.multilingual = true;
        assert_eq!(
            text(&transcribe(loaded("base"), &audio, &detected)),
            text(&transcribe(loaded("base"), &audio, &given)),
            "batches of {batch_size}"
        );
    }
}

#[test]
fn detecting_the_language_alone_finds_what_transcribing_does() {
    let mut samples = vec![0.0; 30 * 16_000];
    samples.extend_from_slice(clip("jfk").unwrap().samples());
    let audio = Audio::from_samples(samples, 16_000).unwrap();
    let mut options = TranscribeOptions::default();
    options.language_detection_segments = 2;
    options.language_detection_threshold = 0.9;
    let model = loaded("base");
    let found = model
        .detect_language(&audio, &options, &Control::new())
        .unwrap();
    let transcription = model.transcribe(&audio, &options, &Control::new()).unwrap();
    // The first window is silent, the second one decides.
    assert!(found[0].0 == "en" && found[0].1 > 0.9, "{:?}", found[0]);
    assert_eq!(transcription.info().all_language_probs, Some(found));
}

#[test]
fn limits_and_penalties_hold() {
    let audio = clip("jfk").unwrap();
    let mut options = greedy();
    options.max_new_tokens = Some(5);
    options.word_timestamps = false;
    let first = &transcribe(loaded("tiny.en"), &audio, &options)[0];
    assert!(first.tokens.len() <= 5, "{first:?}");

    let mut options = greedy();
    options.no_repeat_ngram_size = 2;
    options.without_timestamps = Some(true);
    let tokens: Vec<u32> = transcribe(loaded("tiny.en"), &audio, &options)
        .into_iter()
        .flat_map(|s| s.tokens)
        .collect();
    let mut pairs: Vec<&[u32]> = tokens.windows(2).collect();
    let n = pairs.len();
    pairs.sort_unstable();
    pairs.dedup();
    assert_eq!(pairs.len(), n, "a pair of tokens repeats: {tokens:?}");
}

#[test]
fn cancelling_ends_the_iterator_with_an_error() {
    let control = Control::new();
    control.cancel();
    let audio = clip("jfk").unwrap();
    let options = TranscribeOptions::default();
    let error = loaded("tiny.en").transcribe(&audio, &options, &control);
    assert_eq!(error.unwrap_err().code(), "cancelled");

    let control = Control::new();
    let mut transcription = loaded("tiny.en")
        .transcribe(&audio, &TranscribeOptions::default(), &control)
        .unwrap();
    control.cancel();
    assert_eq!(
        transcription.next().unwrap().unwrap_err().code(),
        "cancelled"
    );
    assert!(transcription.next().is_none());
}

#[test]
fn impossible_options_are_refused_by_name() {
    let audio = clip("test_speech").unwrap();
    let refused = |change: fn(&mut TranscribeOptions)| {
        let mut options = TranscribeOptions::default();
        change(&mut options);
        let error = loaded("tiny.en")
            .transcribe(&audio, &options, &Control::new())
            .unwrap_err();
        assert_eq!(error.code(), "invalid_value");
        error.to_string()
    };
    assert!(refused(|o| o.beam_size = 0).contains("beam_size"));
    assert!(refused(|o| o.temperature = vec![f64::NAN]).contains("temperature"));
    assert!(refused(|o| o.temperature.clear()).contains("temperature"));
    assert!(refused(|o| o.length_penalty = Some(2.0)).contains("length_penalty"));
    assert!(refused(|o| o.clip_timestamps = vec![4.0, 2.0]).contains("clip_timestamps"));
    assert!(refused(|o| o.language = Some("klingon".into())).contains("klingon"));
    for ids in [[-2, 0], [0, 51_864]] {
        let mut options = greedy();
        options.suppress_tokens = ids.to_vec();
        let error = loaded("tiny.en").transcribe(&audio, &options, &Control::new());
        assert!(error.unwrap_err().to_string().contains("suppress_tokens"));
    }
}
