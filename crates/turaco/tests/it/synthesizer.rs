//! Speech as users of the library get it: the reference's waveforms, streams, seeds, stops.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use turaco::tts::{ClonedVoice, SpeakOptions, StopReason, Voice};
use turaco::{Audio, ComputeType, Control, Error, LoadOptions, Synthesizer};

use crate::golden_qwen3_tts::{cases, fixtures, integers, tensors};

/// A model's folder; in the repository one codec serves all of them.
struct Folder {
    path: PathBuf,
    _copy: Option<tempfile::TempDir>,
}

impl Folder {
    fn of(variant: &str) -> Option<Self> {
        let folder = fixtures().join(variant);
        if !folder.exists() {
            return None;
        }
        if folder.join("speech_tokenizer").exists() {
            return Some(Self {
                path: folder,
                _copy: None,
            });
        }
        let copy = tempfile::tempdir().unwrap();
        let codec = fixtures().join("base/speech_tokenizer");
        copy_files(&folder, copy.path());
        copy_files(&codec, &copy.path().join("speech_tokenizer"));
        Some(Self {
            path: copy.path().to_owned(),
            _copy: Some(copy),
        })
    }
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn load(variant: &str, threads: usize) -> Option<Synthesizer> {
    let folder = Folder::of(variant)?;
    let options = LoadOptions::new()
        .compute_type(ComputeType::F32)
        .device("cpu")
        .threads(threads);
    Some(Synthesizer::load_path(&folder.path, &options, &Control::new()).unwrap())
}

/// A voice for tests that are about something else.
pub fn designed_voice() -> Synthesizer {
    load("voice_design", 1).expect("this model is in the repository")
}

/// The same on a graphics processor, if there is one (an imitated one will do).
#[cfg(feature = "wgpu")]
pub fn designed_voice_on_gpu() -> Option<Synthesizer> {
    let folder = Folder::of("voice_design").expect("this model is in the repository");
    let options = LoadOptions::new()
        .compute_type(ComputeType::F32)
        .device("wgpu");
    match Synthesizer::load_path(&folder.path, &options, &Control::new()) {
        Ok(synthesizer) => Some(synthesizer),
        Err(Error::Compute(error)) => {
            eprintln!("SKIPPED on graphics processors: {error}");
            None
        }
        Err(error) => panic!("the model loads: {error}"),
    }
}

fn greedy() -> SpeakOptions {
    SpeakOptions::new()
        .temperature(0.0)
        .subtalker_temperature(0.0)
        .split(false)
}

#[test]
fn waveforms_are_the_references() {
    for variant in ["custom_voice", "voice_design", "base"] {
        let Some(synthesizer) = load(variant, 0) else {
            continue;
        };
        for case in cases().iter().filter(|case| case["variant"] == variant) {
            let name = case["name"].as_str().unwrap();
            let Some(expected) = tensors(name) else {
                continue;
            };
            let n_utterances = case["frames"].as_array().unwrap().len();
            for index in 0..n_utterances {
                let text = |key: &str| {
                    let value = &case[key];
                    let value = if value.is_array() {
                        &value[index]
                    } else {
                        value
                    };
                    value.as_str().unwrap_or_default().to_owned()
                };
                let mut options = greedy().language(text("language"));
                options.layout = match case["non_streaming_mode"] == true {
                    true => turaco::tts::TextLayout::Whole,
                    false => turaco::tts::TextLayout::Beside,
                };
                options.max_frames = Some(case["max_new_tokens"].as_u64().unwrap() as usize - 1);
                if variant != "base" {
                    options.instruct = Some(text("instruct"));
                }
                if case.get("speaker").is_some() {
                    options.voice = Voice::Named(text("speaker"));
                }
                if let Some(mode) = case.get("mode") {
                    let golden = tensors("speaker").unwrap();
                    let voice = ClonedVoice {
                        vector: golden.find("xvector").unwrap().to_f32(),
                        codes: match mode == "icl" {
                            true => integers(&golden, "ref_codes"),
                            false => Vec::new(),
                        },
                        n_codes: 16,
                        text: text("ref_text"),
                    };
                    options.voice = Arc::new(voice).into();
                }
                let control = Control::new();
                let speech = synthesizer
                    .speak(&text("text"), &options, &control)
                    .unwrap();
                let wav = match n_utterances {
                    1 => "wav".to_owned(),
                    _ => format!("wav{index}"),
                };
                let wav = expected.find(&wav).unwrap().to_f32();
                assert_eq!(speech.audio.samples().len(), wav.len(), "{name}");
                let difference = (speech.audio.samples().iter().zip(&wav))
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                println!("{name}: {difference:e}");
                assert!(difference < 5e-4, "{name}: {difference}");
                let stopped = match case["stops_by_eos"] == true {
                    true => StopReason::End,
                    false => StopReason::MaxFrames,
                };
                assert_eq!(speech.pieces, [(text("text"), stopped)], "{name}");

                // However the sound is cut.
                for first in [1, 3, 50] {
                    let mut options = options.clone();
                    options.first_chunk = first;
                    let stream = synthesizer
                        .stream(&text("text"), &options, &control)
                        .unwrap();
                    let mut samples = Vec::new();
                    for chunk in stream {
                        samples.extend(chunk.unwrap().samples);
                    }
                    let same = (samples.iter().zip(speech.audio.samples()))
                        .all(|(a, b)| (a - b).abs() < 1e-5);
                    assert!(
                        same && samples.len() == wav.len(),
                        "{name}: first chunk {first}"
                    );
                }
            }
        }
    }
}

#[test]
fn seeds_repeat_and_differ() {
    let text = "The boats came home before the storm.";
    let samples = |threads: usize, seed: u64| {
        let synthesizer = load("voice_design", threads).unwrap();
        let options = SpeakOptions::new().seed(seed).exact_frames(12_usize);
        let speech = synthesizer.speak(text, &options, &Control::new()).unwrap();
        assert_eq!(speech.n_frames, 12);
        speech.audio.into_samples()
    };
    let first = samples(1, 7);
    assert!(first == samples(1, 7) && first == samples(3, 7));
    assert!(first != samples(1, 8));
}

#[test]
fn sound_that_is_made_beside_frames_is_the_same() {
    let text = "The boats came home before the storm.";
    let mut said = [1, 2, 3].map(|threads| {
        let synthesizer = load("voice_design", threads).unwrap();
        let options = SpeakOptions::new().seed(7).exact_frames(37_usize);
        let mut stream = synthesizer.stream(text, &options, &Control::new()).unwrap();
        let mut samples = Vec::new();
        let mut stopped = Vec::new();
        while let Some(chunk) = stream.next_chunk().unwrap() {
            samples.extend(chunk.samples);
            stopped.extend(chunk.stopped);
        }
        assert_eq!(stopped, [StopReason::MaxFrames]);
        assert_eq!(stream.n_frames(), 37);
        assert_eq!(samples.len(), 37 * 1920);
        let timings = stream.timings();
        let parts = timings.prefill + timings.generate + timings.decode;
        assert!(parts <= 1.01 * timings.total, "{timings:?}");
        samples
    });
    let first = said[0].split_off(0);
    assert!(said[1..].iter().all(|samples| *samples == first));
}

#[test]
fn long_texts_are_said_in_pieces_and_one_at_a_time() {
    let synthesizer = load("voice_design", 0).unwrap();
    let mut options = SpeakOptions::new().seed(1);
    options.max_frames = Some(5);
    let text = "The boats came home before the storm, and all of them were full of fish. Nobody had thought that they would \
                come home so early in the year, least of all the old sailor with the lamp! It was calm.";
    let speech = synthesizer.speak(text, &options, &Control::new()).unwrap();
    assert_eq!(speech.pieces.len(), 2);
    assert_eq!(speech.n_frames, 10);
    assert!(
        speech
            .pieces
            .iter()
            .all(|(_, reason)| *reason == StopReason::MaxFrames)
    );

    // Faster, in all.
    let fast = synthesizer
        .speak(text, &options.clone().speed(1.5), &Control::new())
        .unwrap();
    assert_eq!(fast.audio.samples().len(), 10 * 1920 * 2 / 3);

    // The same text as it comes from a language model.
    let mut stream = synthesizer.open_stream(&options, &Control::new()).unwrap();
    let mut n_samples = 0;
    for word in text.split_inclusive(' ') {
        stream.push(word);
        while let Some(chunk) = stream.next_chunk().unwrap() {
            n_samples += chunk.samples.len();
        }
    }
    stream.finish();
    while let Some(chunk) = stream.next_chunk().unwrap() {
        n_samples += chunk.samples.len();
    }
    assert_eq!(n_samples, stream.n_frames() * 1920);
    let said: Vec<&str> = stream
        .said()
        .iter()
        .map(|(text, _)| text.as_str())
        .collect();
    assert_eq!(said.join(" "), text);
}

#[test]
fn a_voice_that_was_made_up_is_carried_from_stream_to_stream() {
    let synthesizer = load("voice_design", 0).unwrap();
    let mut options = SpeakOptions::new()
        .temperature(0.0)
        .instruct("an old sailor");
    options.max_frames = Some(5);
    let pieces = [
        "The boats came home before the storm, and all of them were full of fish.",
        "Nobody had thought that they would come home so early in the year.",
    ];
    let whole = synthesizer
        .speak(&pieces.join(" "), &options, &Control::new())
        .unwrap();
    assert_eq!(whole.pieces.len(), 2);
    let mut carried = None;
    let mut samples = Vec::new();
    for text in pieces {
        let mut stream = synthesizer.stream(text, &options, &Control::new()).unwrap();
        assert!(stream.carried_voice().is_none());
        if let Some(voice) = &carried {
            stream.carry_on(voice);
        }
        while let Some(chunk) = stream.next_chunk().unwrap() {
            samples.extend(chunk.samples);
        }
        carried = stream.carried_voice();
        assert!(carried.is_some());
    }
    assert!(samples == whole.audio.samples());
    // Anew it is somebody else.
    let alone = synthesizer.speak(pieces[1], &options, &Control::new());
    assert!(alone.unwrap().audio.samples() != &samples[5 * 1920..]);
}

#[test]
fn marks_and_numbers_are_said_as_words_where_that_is_asked_for() {
    let synthesizer = load("voice_design", 0).unwrap();
    let said = |options: &SpeakOptions, text: &str| -> Vec<String> {
        let speech = synthesizer.speak(text, options, &Control::new()).unwrap();
        speech.pieces.into_iter().map(|(text, _)| text).collect()
    };
    let written = "**The** 3 boats \u{1f6a4}";
    let mut options = SpeakOptions::new().seed(1);
    options.max_frames = Some(2);
    assert_eq!(said(&options, written), [written]);
    let options = options.normalize(true);
    assert_eq!(said(&options, written), ["The three boats"]);
    assert_eq!(said(&options, "\u{1f6a4}"), [""; 0]);

    // The same as it comes.
    let mut stream = synthesizer.open_stream(&options, &Control::new()).unwrap();
    for character in written.chars() {
        stream.push(&character.to_string());
    }
    stream.finish();
    while stream.next_chunk().unwrap().is_some() {}
    assert_eq!(stream.said()[0].0, "The three boats");
}

#[test]
fn speech_that_does_not_end_is_ended() {
    let synthesizer = load("voice_design", 0).unwrap();
    // Random weights do not know when to stop.
    let options = greedy().language("english");
    let speech = synthesizer.speak("Hi.", &options, &Control::new()).unwrap();
    assert!(speech.n_frames < 80, "{}", speech.n_frames);
    assert!(matches!(
        speech.pieces[0].1,
        StopReason::Budget | StopReason::Repetition | StopReason::End
    ));
    let nothing = synthesizer.speak("  ", &options, &Control::new()).unwrap();
    assert!(nothing.audio.samples().is_empty() && nothing.pieces.is_empty());

    let control = Control::new();
    control.cancel();
    assert!(matches!(
        synthesizer.speak("Hi.", &options, &control),
        Err(Error::Cancelled)
    ));
}

#[test]
fn what_a_user_asks_for_goes_before_settings_and_budget() {
    let folder = tempfile::tempdir().unwrap();
    copy_files(&fixtures().join("voice_design"), folder.path());
    let codec = fixtures().join("base/speech_tokenizer");
    copy_files(&codec, &folder.path().join("speech_tokenizer"));
    let settings = r#"{"max_new_tokens": 5, "temperature": 3.0, "top_k": 0}"#;
    fs::write(folder.path().join("generation_config.json"), settings).unwrap();
    let load = LoadOptions::new()
        .compute_type(ComputeType::F32)
        .device("cpu");
    let synthesizer = Synthesizer::load_path(folder.path(), &load, &Control::new()).unwrap();
    let said = |seed: u64, max_frames: Option<usize>| {
        let mut options = SpeakOptions::new().seed(seed);
        options.max_frames = max_frames;
        let speech = synthesizer.speak("hi", &options, &Control::new());
        let speech = speech.unwrap();
        (speech.n_frames, speech.pieces[0].1)
    };
    assert_eq!(said(3, None), (4, StopReason::MaxFrames));
    assert_eq!(said(3, Some(20)), (20, StopReason::MaxFrames));
    // The text alone would have some 55; random weights end it at any time.
    assert!((0..40).any(|seed| said(seed, Some(70)) == (70, StopReason::MaxFrames)));
    let options = SpeakOptions::new().max_new_tokens(9);
    assert_eq!(options.max_frames, Some(8));
}

#[test]
fn what_a_model_cannot_do_is_said_with_the_one_that_can() {
    let design = load("voice_design", 0).unwrap();
    let base = load("base", 0).unwrap();
    let voice = |len: usize| ClonedVoice {
        vector: vec![0.1; len],
        codes: Vec::new(),
        n_codes: 16,
        text: String::new(),
    };
    let error = |synthesizer: &Synthesizer, options: SpeakOptions| {
        synthesizer
            .speak("Hi.", &options, &Control::new())
            .unwrap_err()
            .to_string()
    };
    let named = SpeakOptions::new().voice("ryan");
    assert!(error(&design, named.clone()).contains("CustomVoice"));
    assert!(error(&base, named).contains("CustomVoice"));
    assert!(error(&base, SpeakOptions::new()).contains("recording"));
    let instructed = SpeakOptions::new()
        .voice(Arc::new(voice(64)))
        .instruct("slowly");
    assert!(error(&base, instructed).contains("qwen3-tts-1.7b-voicedesign"));
    assert!(error(&design, SpeakOptions::new().voice(Arc::new(voice(64)))).contains("Base"));
    assert!(error(&base, SpeakOptions::new().voice(Arc::new(voice(63)))).contains("another size"));
    assert!(error(&design, SpeakOptions::new().language("klingon")).contains("english"));
    assert!(error(&design, SpeakOptions::new().temperature(-1.0)).contains("temperature"));
    assert!(error(&design, SpeakOptions::new().temperature(f32::NAN)).contains("temperature"));
}

#[test]
fn a_recording_becomes_a_voice() {
    let synthesizer = load("base", 0).unwrap();
    let golden = tensors("speaker").unwrap();
    let samples = golden.find("wav24k").unwrap().to_f32();
    let audio = Audio::from_samples(samples, 24_000).unwrap();
    let control = Control::new();
    let voice = synthesizer
        .clone_voice(&audio, Some("it was a calm morning"), &control)
        .unwrap();
    let expected = golden.find("xvector").unwrap().to_f32();
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 2e-4;
    assert!(voice.vector.iter().zip(&expected).all(close));
    // Silence is put behind the recording; what was said before stays as it is, but for the frame with its end.
    let codes = integers(&golden, "ref_codes");
    let common = codes.len() - 16;
    assert_eq!(voice.codes[..common], codes[..common]);
    assert!(voice.codes.len() > codes.len() && voice.is_in_context());
    let only_sound = synthesizer.clone_voice(&audio, None, &control).unwrap();
    assert!(only_sound.vector == voice.vector && !only_sound.is_in_context());

    let mut options = greedy().voice(Arc::new(voice));
    options.max_frames = Some(4);
    let speech = synthesizer
        .speak("It was calm.", &options, &control)
        .unwrap();
    assert_eq!(speech.audio.samples().len(), 4 * 1920);

    let silence = Audio::from_samples(vec![0.0; 48_000], 24_000).unwrap();
    let short = Audio::from_samples(vec![0.5; 1000], 24_000).unwrap();
    for audio in [silence, short] {
        let error = synthesizer
            .clone_voice(&audio, None, &control)
            .unwrap_err()
            .to_string();
        assert!(error.contains("not enough"), "{error}");
    }
    let design = load("voice_design", 0).unwrap();
    assert!(
        design
            .clone_voice(&audio, None, &control)
            .unwrap_err()
            .to_string()
            .contains("Base")
    );
}
