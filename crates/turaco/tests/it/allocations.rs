//! Decoding a token allocates no memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use turaco::models::voxtral_realtime::{
    EncoderState, Runner, VoxtralRealtime, VoxtralRealtimeCheckpoint,
};
use turaco::models::whisper::{Choice, Session};
use turaco::weights::WeightType;
use turaco::{Audio, ComputeType, Control, LoadOptions, TranscribeOptions, Transcriber};
use turaco_compute::{CpuOptions, Device};

use crate::support::testdata;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting what each thread asks for.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count() {
    // A thread that is ending has no counter any more, and nobody asks for it.
    let _ = ALLOCATIONS.try_with(|counter| counter.set(counter.get() + 1));
}

// SAFETY: everything is left to the system's allocator; the counter is a plain number without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

/// A small random model on one thread, so that this thread's counter sees everything.
fn on_one_thread() -> Transcriber {
    let options = LoadOptions::new().compute_type(ComputeType::F32).threads(1);
    let path = testdata("whisper/tiny-random");
    Transcriber::load_path(&path, &options, &Control::new()).unwrap()
}

/// Allocations of one window that decodes exactly `n_tokens` tokens per hypothesis, when everything has been done
/// once before.
fn allocations(transcriber: &Transcriber, options: &TranscribeOptions, n_tokens: usize) -> usize {
    let mut options = options.clone();
    let eot = transcriber.tokenizer().eot();
    options.language = Some("en".into());
    options.without_timestamps = Some(true);
    let timestamps = transcriber.tokenizer().timestamp_begin()..u32::MAX;
    let timestamps = timestamps.take(1501);
    options.suppress_tokens = timestamps.chain([eot]).map(i64::from).collect();
    options.compression_ratio_threshold = None;
    options.logprob_threshold = None;
    options.no_speech_threshold = None;
    options.max_new_tokens = Some(n_tokens);
    let audio = Audio::open(testdata("audio/jfk.wav")).unwrap();
    let run = || {
        let mut transcription = transcriber
            .transcribe(&audio, &options, &Control::new())
            .unwrap();
        let before = ALLOCATIONS.get();
        let segment = transcription.next().unwrap().unwrap();
        assert_eq!(segment.tokens.len(), n_tokens);
        ALLOCATIONS.get() - before
    };
    run();
    run()
}

#[test]
fn allocations_do_not_grow_with_the_number_of_tokens() {
    // One thread, so that this thread's counter sees everything.
    let options = LoadOptions::new().compute_type(ComputeType::F32).threads(1);
    let path = testdata("whisper/tiny-random");
    let transcriber = Transcriber::load_path(&path, &options, &Control::new()).unwrap();
    let n_text_ctx = transcriber.model().config().n_text_ctx;
    let (few, many) = (n_text_ctx / 8, n_text_ctx / 2);
    for (beam_size, temperature, repetition_penalty) in [
        (1, 0.0, 1.0),
        (1, 0.0, 1.5),
        (1, 1.0, 1.0),
        (5, 0.0, 1.0),
        (16, 0.0, 1.0),
    ] {
        let mut options = TranscribeOptions::default();
        options.beam_size = beam_size;
        options.temperature = vec![temperature];
        options.repetition_penalty = repetition_penalty;
        let short = allocations(&transcriber, &options, few);
        let long = allocations(&transcriber, &options, many);
        eprintln!(
            "beam size {beam_size}, temperature {temperature}, penalty {repetition_penalty}: {short} for {few} tokens, {long} for {many}"
        );
        // Only the buffers that the text is put together in have to grow a few times more.
        assert!(
            long - short < (many - few) / 5,
            "beam size {beam_size}, temperature {temperature}: {short} allocations for {few} tokens, {long} for {many}"
        );
    }
}

#[test]
fn a_step_allocates_nothing() {
    let transcriber = on_one_thread();
    let config = transcriber.model().config();
    let mut session = Session::new(
        transcriber.model(),
        transcriber.tokenizer().timestamp_begin(),
    );
    let mut window = session.new_window().unwrap();
    let mel = vec![0.0; config.n_mels * 2 * config.n_audio_ctx];
    session.encode(&mel, &mut [&mut window]).unwrap();
    let allowed = vec![u32::MAX >> 1; 2 * config.n_vocab.div_ceil(32)];
    let choice = Choice {
        allowed: &allowed,
        seen: Some(&allowed),
        controls: &[0.0, 1.1, 0.0, 0.7, 1.1, 1.0],
        seeds: &[1, 2, 3, 4],
        k: 3,
    };
    let (mut one, mut two) = (
        session.new_sequence().unwrap(),
        session.new_sequence().unwrap(),
    );
    let prompt = [50258, 50259, 50359, 50258, 50259, 50359];
    session
        .prefill(
            &mut [&mut one, &mut two],
            &[&window; 2],
            &prompt,
            0,
            &choice,
        )
        .unwrap();
    let mut before = 0;
    for step in 0..100 {
        if step == 1 {
            // The first step was compiled.
            before = ALLOCATIONS.get();
        }
        session
            .step(&mut [&mut one, &mut two], &[&window; 2], &[7, 8], &choice)
            .unwrap();
    }
    assert_eq!(ALLOCATIONS.get(), before);
}

#[test]
fn an_encoder_run_of_several_streams_allocates_nothing() {
    let folder = crate::golden_voxtral_realtime::fixtures().join("mistral");
    let checkpoint = VoxtralRealtimeCheckpoint::open(&folder).unwrap();
    let device = Device::cpu(CpuOptions {
        threads: 1,
        ..CpuOptions::default()
    });
    let control = Control::new();
    let model = VoxtralRealtime::load(&checkpoint, &device, WeightType::F32, &control).unwrap();
    let (n_streams, n_tokens) = (3, 2);
    let mut runner = Runner::new(&model);
    let mut states: Vec<EncoderState> = (0..n_streams)
        .map(|_| runner.new_encoder_state(n_tokens).unwrap())
        .collect();
    let config = model.config();
    let frames = vec![0.3; n_streams * n_tokens * config.frames_per_token() * config.n_mels];
    let mut list: Vec<&mut EncoderState> = states.iter_mut().collect();
    let mut before = 0;
    for round in 0..200 {
        if round == 2 {
            // Both steps were compiled: the one at the start of streams, and the one behind it.
            before = ALLOCATIONS.get();
        }
        runner.encode(&mut list, &frames).unwrap();
    }
    assert_eq!(ALLOCATIONS.get(), before);
}
