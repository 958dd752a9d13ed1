//! Sessions of Voxtral Realtime: streamed and offline alike, delays, ends of text, batches.

use std::path::Path;
use std::sync::Arc;

use turaco::asr::realtime::{
    RealtimeBatch, RealtimeEvent, RealtimeOptions, RealtimeRecognizer, RealtimeSession, TrackKind,
};
use turaco::models::voxtral_realtime::random;
use turaco::{ComputeType, Control, LoadOptions, Recognizer, TranscribeOptions};

use crate::golden_voxtral_realtime::fixtures;
use crate::support::tensors;

const RATE: u32 = 16_000;

fn recognizer(fixtures: &Path) -> Arc<RealtimeRecognizer> {
    let options = LoadOptions::new()
        .compute_type(ComputeType::F32)
        .device("cpu");
    RealtimeRecognizer::load_path(&fixtures.join("mistral"), &options, &Control::new()).unwrap()
}

fn cases(fixtures: &Path) -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_slice(&std::fs::read(fixtures.join("golden/cases.json")).unwrap()).unwrap()
}

fn audio(fixtures: &Path, case: &str) -> Vec<f32> {
    let case = if case.starts_with("delay") {
        "synth"
    } else {
        case
    };
    let file = tensors(&fixtures.join(format!("golden/{case}.safetensors")));
    file.find("audio").unwrap().to_f32()
}

fn text(events: &[RealtimeEvent], wanted: TrackKind) -> String {
    let texts = events.iter().filter_map(|event| match event {
        RealtimeEvent::Text { track, text, .. } if *track == wanted => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

fn run(mut session: RealtimeSession, audio: &[f32], piece: usize) -> (Vec<RealtimeEvent>, usize) {
    let mut events = Vec::new();
    for samples in audio.chunks(piece) {
        events.extend(session.push(samples, RATE).unwrap());
    }
    events.extend(session.finish().unwrap());
    (events, session.timings().steps)
}

#[test]
fn texts_are_the_references_however_the_sound_is_cut() {
    let fixtures = fixtures();
    let recognizer = recognizer(&fixtures);
    for (name, case) in cases(&fixtures) {
        let audio = audio(&fixtures, &name);
        let delay = case["delay_ms"].as_u64().unwrap() as u32;
        for interval in [0.08, 0.48, 2.0] {
            let options = RealtimeOptions::new()
                .delay_ms(delay)
                .continuous(false)
                .guesses(if interval < 1.0 { 3 } else { 0 })
                .interval(interval);
            let session = || recognizer.session(&options).unwrap();
            let (whole, steps) = run(session(), &audio, audio.len());
            let expected = case["text"].as_str().unwrap();
            assert_eq!(text(&whole, TrackKind::Settled), expected.trim(), "{name}");
            assert_eq!(steps as u64, case["steps"].as_u64().unwrap(), "{name}");
            let words: String = whole
                .iter()
                .filter_map(|event| match event {
                    RealtimeEvent::Word { word, .. } => Some(word.word.as_str()),
                    _ => None,
                })
                .collect();
            assert_eq!(words, expected.trim(), "{name}: words");
            let segments: String = whole
                .iter()
                .filter_map(|event| match event {
                    RealtimeEvent::Segment(segment) => Some(segment.text.as_str()),
                    _ => None,
                })
                .collect();
            assert_eq!(segments, expected.trim(), "{name}: segments");
            for piece in [1, 1280, 16_000] {
                if piece == 1 && name != "short" {
                    continue;
                }
                let (cut, _) = run(session(), &audio, piece);
                assert_eq!(cut, whole, "{name} in pieces of {piece}");
            }
        }
    }
}

/// Packed weights have other kernels for few rows than for many.
#[test]
fn every_weight_type_hears_the_same_however_often_the_encoder_runs() {
    let fixtures = fixtures();
    let audio = audio(&fixtures, "synth");
    for compute_type in [ComputeType::Bf16, ComputeType::Q8, ComputeType::Q4] {
        let options = LoadOptions::new().compute_type(compute_type).device("cpu");
        let path = fixtures.join("mistral");
        let recognizer = RealtimeRecognizer::load_path(&path, &options, &Control::new()).unwrap();
        let said = |interval: f64, guesses: usize, hurried: bool| {
            let options = RealtimeOptions::new()
                .alternatives(0.9)
                .guesses(guesses)
                .interval(interval);
            let mut session = recognizer.session(&options).unwrap();
            session.hurry(hurried);
            run(session, &audio, audio.len()).0
        };
        let whole = said(2.0, 0, false);
        assert!(whole.len() > 10);
        for (interval, guesses, hurried) in [
            (0.08, 0, false),
            (0.16, 3, false),
            (0.48, 3, false),
            (0.08, 3, true),
        ] {
            let found = said(interval, guesses, hurried);
            assert_eq!(
                found, whole,
                "{compute_type:?}: {interval} s, {guesses} guesses"
            );
        }
    }
}

#[test]
fn a_draft_runs_beside_the_settled_text() {
    let fixtures = fixtures();
    let recognizer = recognizer(&fixtures);
    let cases = cases(&fixtures);
    let audio = audio(&fixtures, "synth");
    let options = RealtimeOptions::new()
        .delay_ms(960)
        .draft_delay_ms(80)
        .continuous(false);
    let (events, _) = run(recognizer.session(&options).unwrap(), &audio, 1000);
    assert_eq!(
        text(&events, TrackKind::Settled),
        cases["delay960"]["text"].as_str().unwrap().trim()
    );
    assert_eq!(
        text(&events, TrackKind::Draft),
        cases["delay80"]["text"].as_str().unwrap().trim()
    );
    for wrong in [
        RealtimeOptions::new().delay_ms(100),
        RealtimeOptions::new().delay_ms(2480),
        RealtimeOptions::new().delay_ms(0),
        RealtimeOptions::new().draft_delay_ms(480),
        RealtimeOptions::new().interval(0.0),
        RealtimeOptions::new().interval(f64::NAN),
        RealtimeOptions::new().alternatives(1.5),
    ] {
        assert!(recognizer.session(&wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn sessions_of_a_batch_say_what_they_say_alone() {
    let fixtures = fixtures();
    let recognizer = recognizer(&fixtures);
    let names = ["synth", "eos", "short", "synth", "eos"];
    let options = RealtimeOptions::new().continuous(false);
    let sounds: Vec<_> = names.iter().map(|name| audio(&fixtures, name)).collect();
    let mut sessions: Vec<_> = names
        .iter()
        .map(|_| recognizer.session(&options).unwrap())
        .collect();
    let batch = RealtimeBatch::new(&recognizer);
    let mut events = vec![Vec::new(); names.len()];
    let mut open = vec![true; names.len()];
    for round in 0.. {
        for (index, sound) in sounds.iter().enumerate() {
            // Different paces.
            let piece = 4000 + 700 * index;
            let rest = &sound[(round * piece).min(sound.len())..];
            if !rest.is_empty() {
                sessions[index]
                    .feed(&rest[..piece.min(rest.len())], RATE)
                    .unwrap();
            } else if open[index] {
                let mut all: Vec<_> = sessions.iter_mut().collect();
                batch.finish(&mut all, &[index]).unwrap();
                open[index] = false;
            }
        }
        let mut all: Vec<_> = sessions.iter_mut().collect();
        batch.advance(&mut all).unwrap();
        for (events, session) in events.iter_mut().zip(&mut sessions) {
            events.extend(session.take_events());
        }
        if !open.contains(&true) {
            break;
        }
    }
    let cases = cases(&fixtures);
    for (name, events) in names.iter().zip(&events) {
        assert_eq!(
            text(events, TrackKind::Settled),
            cases[*name]["text"].as_str().unwrap().trim(),
            "{name}"
        );
    }
    assert!(batch.finish(&mut [], &[0]).is_err());
    // Another model's session is refused.
    let other = self::recognizer(&fixtures);
    let mut stranger = other.session(&options).unwrap();
    assert!(batch.advance(&mut [&mut stranger]).is_err());
}

#[test]
fn after_an_end_of_text_the_sound_goes_on() {
    let fixtures = fixtures();
    let recognizer = recognizer(&fixtures);
    let audio = audio(&fixtures, "eos");
    let stopping = RealtimeOptions::new().continuous(false);
    let (stopped, steps) = run(recognizer.session(&stopping).unwrap(), &audio, 1280);
    let ends = |events: &[RealtimeEvent]| {
        events
            .iter()
            .filter(|event| matches!(event, RealtimeEvent::End { .. }))
            .count()
    };
    assert_eq!(ends(&stopped), 1);
    let going = RealtimeOptions::new();
    let (whole, all_steps) = run(recognizer.session(&going).unwrap(), &audio, audio.len());
    assert!(ends(&whole) >= 1);
    let (before, after) = (
        text(&stopped, TrackKind::Settled),
        text(&whole, TrackKind::Settled),
    );
    assert!(
        after.starts_with(&before) && after.len() > before.len(),
        "{before} | {after}"
    );
    // A token for every vector: those behind the end were neither skipped nor heard twice.
    let case = &cases(&fixtures)["eos"];
    let n_tokens =
        case["audio_tokens"].as_u64().unwrap() - case["prompt_len"].as_u64().unwrap() + 1;
    assert!(
        all_steps > steps && all_steps as u64 == n_tokens,
        "{all_steps} of {n_tokens}"
    );
    let (cut, _) = run(recognizer.session(&going).unwrap(), &audio, 777);
    assert_eq!(cut, whole);
}

#[test]
fn a_text_that_ends_before_its_recording_is_told() {
    let fixtures = fixtures();
    let recognizer = Recognizer::Realtime(recognizer(&fixtures));
    let audio = turaco::Audio::from_samples(audio(&fixtures, "eos"), RATE).unwrap();
    for continuous in [false, true] {
        let mut options = TranscribeOptions::default();
        options.realtime.continuous = continuous;
        let control = Control::new();
        let mut running = recognizer.transcribe(&audio, &options, &control).unwrap();
        let segments: Vec<_> = running.by_ref().map(Result::unwrap).collect();
        assert!(!segments.is_empty());
        let warnings = &running.info().warnings;
        assert_eq!(warnings.len(), usize::from(!continuous), "{warnings:?}");
    }
}

#[test]
fn nothing_is_done_behind_the_end_of_the_text() {
    let fixtures = fixtures();
    let recognizer = recognizer(&fixtures);
    let mut options = RealtimeOptions::new();
    options.continuous = false;
    let mut session = recognizer.session(&options).unwrap();
    let sound = audio(&fixtures, "eos");
    let mut events = session.push(&sound, RATE).unwrap();
    assert!(!session.is_over(), "the end is said in the silence behind");
    events.extend(session.flush().unwrap());
    assert!(session.is_over());
    let worked = session.timings();
    for _ in 0..20 {
        events.extend(session.push(&sound, RATE).unwrap());
    }
    let seconds = 21.0 * sound.len() as f64 / f64::from(RATE);
    assert!((session.seconds() - seconds).abs() < 1e-6);
    events.extend(session.finish().unwrap());
    let after = session.timings();
    assert_eq!((after.steps, after.chunks), (worked.steps, worked.chunks));
    let ends = |event: &&RealtimeEvent| matches!(event, RealtimeEvent::End { .. });
    assert_eq!(events.iter().filter(ends).count(), 1);
}

#[test]
fn a_flush_brings_the_rest_and_the_stream_goes_on() {
    let fixtures = fixtures();
    let recognizer = recognizer(&fixtures);
    let audio = audio(&fixtures, "synth").repeat(3)[..144_000].to_vec();
    let mut session = recognizer.session(&RealtimeOptions::new()).unwrap();
    let mut events = session.push(&audio[..60_000], RATE).unwrap();
    events.extend(session.flush().unwrap());
    let at_flush = session.seconds();
    assert!((at_flush - 3.75).abs() < 1e-9);
    let last = |events: &[RealtimeEvent]| {
        events.iter().rev().find_map(|event| match event {
            RealtimeEvent::Word { word, .. } => Some(word.end),
            _ => None,
        })
    };
    assert!(last(&events).unwrap() <= at_flush + 1e-9);
    events.extend(session.push(&audio[60_000..], RATE).unwrap());
    events.extend(session.finish().unwrap());
    assert!((session.seconds() - 9.0).abs() < 1e-9);
    assert!(last(&events).unwrap() > 8.0, "the silence is no time");
    assert!(last(&events).unwrap() <= 9.0 + 1e-9);
    let mut previous = 0.0;
    for event in &events {
        if let RealtimeEvent::Word { word, .. } = event {
            assert!(
                word.start <= word.end && word.start >= previous - 0.081,
                "{word:?}"
            );
            previous = word.end;
        }
    }
    assert!(session.push(&[0.0], RATE).is_err(), "a finished stream");
}

#[test]
fn odd_streams() {
    let fixtures = fixtures();
    let recognizer = recognizer(&fixtures);
    let session = || recognizer.session(&RealtimeOptions::new()).unwrap();
    // No sound at all: eleven tokens are chosen all the same.
    let mut empty = session();
    empty.finish().unwrap();
    assert_eq!(empty.timings().steps, 11);
    // What is no number is silence.
    let mut broken = session();
    broken.push(&[f32::NAN; 2000], RATE).unwrap();
    broken.push(&[f32::INFINITY; 2000], RATE).unwrap();
    let broken = broken.finish().unwrap();
    let (silent, _) = run(session(), &[0.0; 4000], 4000);
    assert_eq!(
        text(&broken, TrackKind::Settled),
        text(&silent, TrackKind::Settled)
    );
    // Another rate is resampled as it comes; it cannot change, but behind a flush.
    let mut telephone = session();
    telephone.push(&[0.1; 8000], 8000).unwrap();
    assert!(telephone.push(&[0.1; 800], 16_000).is_err());
    telephone.flush().unwrap();
    telephone.push(&[0.1; 8000], 8000).unwrap();
    telephone.flush().unwrap();
    telephone.push(&[0.1; 44_100], 44_100).unwrap();
    assert!(telephone.push(&[0.1; 800], 8000).is_err());
    telephone.finish().unwrap();
    assert!((telephone.seconds() - 3.0).abs() < 1e-3);
    // One that is dropped in the middle leaves the others alone.
    let mut dropped = session();
    dropped.push(&[0.2; 30_000], RATE).unwrap();
    drop(dropped);
    session().finish().unwrap();
}

#[test]
fn alternatives_come_with_their_probabilities() {
    let fixtures = fixtures();
    let recognizer = recognizer(&fixtures);
    let options = RealtimeOptions::new().alternatives(1.0);
    let (events, _) = run(
        recognizer.session(&options).unwrap(),
        &audio(&fixtures, "synth"),
        1280,
    );
    let mut seen = 0;
    for event in &events {
        if let RealtimeEvent::Text {
            text, alternatives, ..
        } = event
            && !alternatives.is_empty()
        {
            assert!(alternatives.len() <= 3);
            assert!(
                alternatives
                    .windows(2)
                    .all(|pair| pair[0].probability >= pair[1].probability)
            );
            assert!(!text.is_empty() && alternatives[0].probability <= 1.0);
            seen += 1;
        }
    }
    assert!(seen > 10);
    let plain = run(
        recognizer.session(&RealtimeOptions::new()).unwrap(),
        &audio(&fixtures, "synth"),
        1280,
    )
    .0;
    assert_eq!(
        text(&plain, TrackKind::Settled),
        text(&events, TrackKind::Settled)
    );
}

#[test]
fn ten_hours_in_flat_memory() {
    const ALONE: &str = "TURACO_TEST_ALONE";
    // Memory is counted by process, and other tests run beside this one in the same.
    if std::env::var_os(ALONE).is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "realtime_sessions::ten_hours_in_flat_memory"])
            .arg("--nocapture")
            .env(ALONE, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let control = Control::new();
    random::write_random(&random::tiny(), folder.path(), 1, &control).unwrap();
    let options = LoadOptions::new().device("cpu");
    let recognizer = RealtimeRecognizer::load_path(folder.path(), &options, &control).unwrap();
    let options = RealtimeOptions::new().interval(2.0);
    let mut session = recognizer.session(&options).unwrap();
    // Every minute the same noise, then silence.
    let mut state = 1u32;
    let mut minute: Vec<f32> = (0..5 * RATE)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0 - 0.5
        })
        .collect();
    minute.resize(60 * RATE as usize, 0.0);
    let mut warm = None;
    let mut words = 0;
    for index in 0..600 {
        let events = session.push(&minute, RATE).unwrap();
        words += events
            .iter()
            .filter(|event| matches!(event, RealtimeEvent::Word { .. }))
            .count();
        if index == 20 {
            warm = resident_bytes();
        }
    }
    session.finish().unwrap();
    assert!((session.seconds() - 36_000.0).abs() < 1e-6);
    // A token for every 80 ms, to the end.
    assert_eq!(session.timings().steps, 450_000 + 11);
    assert!(words > 0);
    if let (Some(warm), Some(after)) = (warm, resident_bytes()) {
        eprintln!("resident: {warm} after 20 minutes, {after} after ten hours");
        assert!(after < warm + (8 << 20), "{warm} grew to {after}");
    }
}

/// Memory of this process, where the system tells.
fn resident_bytes() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(text.split(' ').nth(1)?.parse::<usize>().ok()? * 4096)
}
