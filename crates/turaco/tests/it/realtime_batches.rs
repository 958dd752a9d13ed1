//! Live sessions side by side: what they share changes nothing of what each of them hears.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use proptest::collection::vec;
use proptest::prelude::*;
use turaco::asr::realtime::{
    RealtimeBatch, RealtimeEvent, RealtimeOptions, RealtimeRecognizer, RealtimeSession, TrackKind,
};
use turaco::models::voxtral_realtime::{
    EncoderState, Runner, VoxtralRealtime, VoxtralRealtimeCheckpoint,
};
use turaco::weights::WeightType;
use turaco::{ComputeType, Control, LoadOptions};
use turaco_compute::{CpuOptions, Device};

use crate::golden_voxtral_realtime::fixtures;
use crate::support::{Effort, graphics_processors, tensors};

const RATE: u32 = 16_000;

/// Loaded once.
fn recognizer() -> &'static Arc<RealtimeRecognizer> {
    static LOADED: OnceLock<Arc<RealtimeRecognizer>> = OnceLock::new();
    LOADED.get_or_init(|| {
        let options = LoadOptions::new()
            .compute_type(ComputeType::F32)
            .device("cpu");
        let folder = fixtures().join("mistral");
        RealtimeRecognizer::load_path(&folder, &options, &Control::new()).unwrap()
    })
}

/// Speech of a few seconds.
fn sound() -> &'static [f32] {
    static SOUND: OnceLock<Vec<f32>> = OnceLock::new();
    SOUND.get_or_init(|| {
        let file = tensors(&fixtures().join("golden/synth.safetensors"));
        file.find("audio").unwrap().to_f32()
    })
}

fn load(folder: &Path, device: &Device, weight_type: WeightType) -> Arc<VoxtralRealtime> {
    let checkpoint = VoxtralRealtimeCheckpoint::open(folder).unwrap();
    VoxtralRealtime::load(&checkpoint, device, weight_type, &Control::new()).unwrap()
}

/// The largest difference between what streams get together and what each gets alone, over rounds that fill the windows of
/// some and turn them over. Streams stand at different places, in rings of different sizes.
fn difference_of_a_run(model: &Arc<VoxtralRealtime>, n_tokens: usize) -> f32 {
    let config = model.config();
    let per_token = config.frames_per_token() * config.n_mels;
    let mut runner = Runner::new(model);
    let mut state = 7u32;
    let mut frames = |n_tokens: usize| -> Vec<f32> {
        (0..n_tokens * per_token)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    };
    let starts = [1, 2, 5, 11, 23];
    let mut alone: Vec<EncoderState> = Vec::new();
    let mut together: Vec<EncoderState> = Vec::new();
    for (index, start) in starts.into_iter().enumerate() {
        let before = frames(start);
        for states in [&mut alone, &mut together] {
            let mut state = runner
                .new_encoder_state(n_tokens.max(start) + index)
                .unwrap();
            runner.encode(&mut [&mut state], &before).unwrap();
            states.push(state);
        }
    }
    let mut difference = 0.0f32;
    for _ in 0..6 {
        let given: Vec<Vec<f32>> = starts.iter().map(|_| frames(n_tokens)).collect();
        let mut list: Vec<&mut EncoderState> = together.iter_mut().collect();
        let found = runner.encode(&mut list, &given.concat()).unwrap().to_vec();
        let mut expected = Vec::new();
        for (state, frames) in alone.iter_mut().zip(&given) {
            expected.extend_from_slice(runner.encode(&mut [state], frames).unwrap());
        }
        assert_eq!(found.len(), expected.len());
        let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        difference = differences.fold(difference, f32::max);
    }
    difference
}

#[test]
fn streams_of_an_encoder_run_get_what_they_get_alone() {
    let folder = fixtures().join("mistral");
    let cpu = Device::cpu(CpuOptions::default());
    for n_tokens in [1, 6] {
        let exact = difference_of_a_run(&load(&folder, &cpu, WeightType::F32), n_tokens);
        assert!(exact <= 1e-5, "{n_tokens} tokens in f32: {exact}");
    }
    // Sums of bytes are exact, in whichever order, and so many rows of the stem take the same way: not a bit differs.
    let bytes = difference_of_a_run(&load(&folder, &cpu, WeightType::Q8), 6);
    assert_eq!(bytes, 0.0, "in bytes");
    for gpu in graphics_processors(Effort::Small) {
        let found = difference_of_a_run(&load(&folder, &gpu, WeightType::F32), 6);
        assert!(found <= 1e-5, "{}: {found}", gpu.description());
    }
}

#[test]
fn streams_that_cannot_share_a_run_are_an_error() {
    let model = load(
        &fixtures().join("mistral"),
        &Device::cpu(CpuOptions::default()),
        WeightType::F32,
    );
    let config = model.config();
    let per_token = config.frames_per_token() * config.n_mels;
    let mut runner = Runner::new(&model);
    let (mut one, mut two) = (
        runner.new_encoder_state(2).unwrap(),
        runner.new_encoder_state(2).unwrap(),
    );
    assert!(runner.encode(&mut [], &[]).is_err());
    assert!(runner.encode(&mut [&mut one], &[]).is_err());
    assert!(
        runner
            .encode(&mut [&mut one], &vec![0.0; per_token - 1])
            .is_err()
    );
    runner
        .encode(&mut [&mut one], &vec![0.0; per_token])
        .unwrap();
    // One has begun, the other not.
    let frames = vec![0.0; 2 * per_token];
    assert!(runner.encode(&mut [&mut one, &mut two], &frames).is_err());
    runner.encode(&mut [&mut two], &frames).unwrap();
    let frames = vec![0.0; 3 * per_token];
    assert!(runner.encode(&mut [&mut one, &mut two], &frames).is_err());
    assert_eq!((one.n_positions(), two.n_positions()), (4, 8));
}

#[test]
fn sessions_in_step_share_runs_of_the_encoder() {
    let recognizer = recognizer();
    let run = |n: usize| {
        let options = RealtimeOptions::new();
        let mut sessions: Vec<RealtimeSession> = (0..n)
            .map(|_| recognizer.session(&options).unwrap())
            .collect();
        let batch = RealtimeBatch::new(recognizer);
        for samples in sound().chunks(1280) {
            let mut all: Vec<_> = sessions.iter_mut().collect();
            for session in &mut all {
                session.feed(samples, RATE).unwrap();
            }
            batch.advance(&mut all).unwrap();
        }
        let every: Vec<usize> = (0..n).collect();
        let mut all: Vec<_> = sessions.iter_mut().collect();
        batch.finish(&mut all, &every).unwrap();
        let timings: Vec<_> = sessions.iter().map(RealtimeSession::timings).collect();
        let runs: f64 = timings.iter().map(|timings| timings.encoder_runs).sum();
        (runs.round() as usize, timings[0].chunks)
    };
    let (alone, chunks) = run(1);
    assert_eq!(alone, chunks);
    assert_eq!(run(2), (alone, chunks));
    assert_eq!(run(4), (alone, chunks));
    // No more rows in a run than keep the processor busy.
    let (runs, _) = run(9);
    assert!(runs > alone && runs <= 4 * alone, "{runs} of {alone}");
}

/// A session of the property below.
#[derive(Debug, Clone)]
struct Speaker {
    delay_ms: u32,
    draft: bool,
    interval: f64,
    guesses: usize,
    /// The round in which it begins to speak.
    joins: usize,
    /// Where in the sound, and for how many samples.
    from: usize,
    samples: usize,
    /// Samples of each push, in turns.
    pieces: Vec<usize>,
    /// The round in which it is dropped without an end.
    leaves: Option<usize>,
    /// The push behind which it flushes.
    flushes: Option<usize>,
}

fn speaker() -> impl Strategy<Value = Speaker> {
    (
        (
            1..=8u32,
            any::<bool>(),
            prop_oneof![Just(0.08), Just(0.24), Just(0.48), Just(0.8)],
        ),
        (0..=3usize, 0..6usize, 0..20_000usize, 0..40_000usize),
        (
            vec(1..12_000usize, 1..5),
            prop::option::weighted(0.2, 0..8usize),
        ),
        prop::option::weighted(0.3, 0..5usize),
    )
        .prop_map(
            |(
                (delay, draft, interval),
                (guesses, joins, from, samples),
                (pieces, leaves),
                flushes,
            )| {
                Speaker {
                    delay_ms: 80 * delay,
                    draft: draft && delay > 1,
                    interval,
                    guesses,
                    joins,
                    from,
                    samples,
                    pieces,
                    leaves,
                    flushes,
                }
            },
        )
}

impl Speaker {
    fn session(&self) -> RealtimeSession {
        let mut options = RealtimeOptions::new()
            .delay_ms(self.delay_ms)
            .interval(self.interval)
            .guesses(self.guesses);
        if self.draft {
            options = options.draft_delay_ms(80);
        }
        recognizer().session(&options).unwrap()
    }

    /// What it says, push after push.
    fn pushes(&self) -> Vec<&'static [f32]> {
        let sound = sound();
        let from = self.from.min(sound.len());
        let mut rest = &sound[from..sound.len().min(from + self.samples)];
        let mut pushes = Vec::new();
        for &piece in self.pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(piece.min(rest.len()));
            pushes.push(now);
            rest = later;
        }
        pushes
    }

    /// What it is told when nobody else is there.
    fn alone(&self) -> Vec<RealtimeEvent> {
        let mut session = self.session();
        let mut events = Vec::new();
        for (index, samples) in self.pushes().into_iter().enumerate() {
            events.extend(session.push(samples, RATE).unwrap());
            if self.flushes == Some(index) {
                events.extend(session.flush().unwrap());
            }
        }
        events.extend(session.finish().unwrap());
        events
    }
}

/// Texts, words and segments of each track without their probabilities: those are rounded differently, depending on who
/// shares a step.
fn said(events: &[RealtimeEvent]) -> Vec<(TrackKind, String)> {
    let of = |kind: TrackKind| {
        events.iter().filter_map(move |event| match event {
            RealtimeEvent::Text {
                track, text, time, ..
            } if *track == kind => Some((kind, format!("text {text:?} {time}"))),
            RealtimeEvent::Word { track, word } if *track == kind => Some((
                kind,
                format!("word {:?} {} {}", word.word, word.start, word.end),
            )),
            RealtimeEvent::Segment(segment) if kind == TrackKind::Settled => Some((
                kind,
                format!(
                    "segment {:?} {} {}",
                    segment.text, segment.start, segment.end
                ),
            )),
            RealtimeEvent::End {
                track,
                time,
                continues,
            } if *track == kind => Some((kind, format!("end {time} {continues}"))),
            _ => None,
        })
    };
    of(TrackKind::Settled).chain(of(TrackKind::Draft)).collect()
}

/// What all of them are told side by side; `None` for those that leave before their end.
fn side_by_side(speakers: &[Speaker]) -> Vec<Option<Vec<RealtimeEvent>>> {
    let batch = RealtimeBatch::new(recognizer());
    let pushes: Vec<_> = speakers.iter().map(Speaker::pushes).collect();
    let mut sessions: Vec<Option<RealtimeSession>> = speakers.iter().map(|_| None).collect();
    let mut events = vec![Vec::new(); speakers.len()];
    let mut over = vec![false; speakers.len()];
    let mut left = vec![false; speakers.len()];
    let mut round = 0;
    while over.contains(&false) {
        let (mut flushing, mut ending) = (Vec::new(), Vec::new());
        for (index, speaker) in speakers.iter().enumerate() {
            if over[index] || round < speaker.joins {
                continue;
            }
            if speaker
                .leaves
                .is_some_and(|leaves| round >= speaker.joins + leaves)
            {
                sessions[index] = None;
                (over[index], left[index]) = (true, true);
                continue;
            }
            let session = sessions[index].get_or_insert_with(|| speaker.session());
            let nth = round - speaker.joins;
            match pushes[index].get(nth) {
                Some(samples) => session.feed(samples, RATE).unwrap(),
                None => ending.push(index),
            }
            if nth < pushes[index].len() && speaker.flushes == Some(nth) {
                flushing.push(index);
            }
        }
        let here: Vec<usize> = (0..speakers.len())
            .filter(|&index| sessions[index].is_some())
            .collect();
        let place = |index: &usize| here.iter().position(|other| other == index).unwrap();
        let flushing: Vec<usize> = flushing.iter().map(place).collect();
        let ends: Vec<usize> = ending.iter().map(place).collect();
        let mut all: Vec<&mut RealtimeSession> = sessions.iter_mut().flatten().collect();
        batch.flush(&mut all, &flushing).unwrap();
        batch.finish(&mut all, &ends).unwrap();
        for (events, session) in events.iter_mut().zip(&mut sessions) {
            events.extend(session.iter_mut().flat_map(RealtimeSession::take_events));
        }
        for index in ending {
            sessions[index] = None;
            over[index] = true;
        }
        round += 1;
    }
    let told = events.into_iter().zip(left);
    told.map(|(events, left)| (!left).then_some(events))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn sessions_that_come_and_go_say_what_they_say_alone(speakers in vec(speaker(), 2..7)) {
        for (speaker, together) in speakers.iter().zip(side_by_side(&speakers)) {
            let Some(together) = together else { continue };
            let alone = speaker.alone();
            prop_assert_eq!(said(&together), said(&alone), "{:?}", speaker);
        }
    }
}
