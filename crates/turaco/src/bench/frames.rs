//! Frames of a model that speaks: how long talker and code predictor take, for one utterance and for several at once.
//!
//! All runs make as many frames, whether speech would have ended before or not, so that random weights do the same work as
//! trained ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use turaco_compute::measure::{Machine, peak_memory};
use turaco_compute::trace::{Detail, Recorder, Span};

use super::limits;
use super::report::{MachineFacts, ModelFacts};
use super::statistics::{Percentiles, median};
use crate::models::qwen3_tts::{FrameInput, Runner, Sampling, TalkerState};
use crate::tts::Synthesizer;
use crate::{Control, Error, Result};

/// Time that is given to measuring each bandwidth, once per pass.
const BUDGET: Duration = Duration::from_millis(80);

/// Larger than what a frame leaves in a cache of usual size.
const MEMORY_BYTES: usize = 256 << 20;

/// Text tokens of the prompt.
const PROMPT: usize = 16;

/// What is measured, and how often.
#[derive(Debug, Clone)]
pub struct FrameProtocol {
    /// Frames of an utterance.
    pub frames: usize,
    /// Passes that count.
    pub repeats: usize,
    /// Passes before them.
    pub warm_up: usize,
    /// Utterances at once.
    pub utterances: Vec<usize>,
}

/// What frames took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameReport {
    /// Where it ran.
    pub machine: MachineFacts,
    /// What was measured.
    pub model: ModelFacts,
    /// Seconds to load the model.
    pub load_seconds: f64,
    /// Most memory in bytes that the process held.
    pub peak_memory: Option<u64>,
    /// Frames of every pass.
    pub frames: usize,
    /// Passes that counted.
    pub repeats: usize,
    /// Bytes of the talker's weights, read once per frame.
    pub talker_bytes: u64,
    /// Bytes of the code predictor's weights, and how many are read per frame.
    pub predictor_bytes: u64,
    /// See `predictor_bytes`.
    pub predictor_frame_bytes: u64,
    /// For each number of utterances.
    pub batches: Vec<FrameBatch>,
}

/// Frames of some utterances at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameBatch {
    /// Utterances side by side.
    pub utterances: usize,
    /// Milliseconds of a frame of all of them.
    pub frame_ms: Percentiles,
    /// Milliseconds of its two parts: medians.
    pub talker_ms: f64,
    /// See `talker_ms`.
    pub predictor_ms: f64,
    /// Milliseconds of the prompt and the frame behind it.
    pub prompt_ms: f64,
    /// Frames of all utterances per second.
    pub frames_per_second: f64,
    /// Bytes per second of reading memory, huge pages, and of reading the predictor's weights again and again.
    pub memory: f64,
    /// See `memory`.
    pub predictor_memory: f64,
    /// Milliseconds to read the weights of a frame, all of them from memory.
    pub floor_ms: f64,
    /// The same with the predictor's from where a buffer of their size is read the fastest, after the first time.
    pub cached_floor_ms: f64,
}

/// Measure frames of a model that speaks; `say` is told what comes next.
///
/// # Errors
/// A protocol without work, a failed device, or cancellation.
pub fn frames(
    synthesizer: &Synthesizer,
    protocol: &FrameProtocol,
    control: &Control,
    say: &mut dyn FnMut(&str),
) -> Result<FrameReport> {
    if protocol.frames == 0 || protocol.repeats == 0 || protocol.utterances.contains(&0) {
        return Err(Error::InvalidOption {
            option: "frames",
            message: "measuring needs at least one frame, one pass and one utterance".into(),
        });
    }
    let machine = Machine::new(synthesizer.threads(), None);
    let model = synthesizer.model();
    let bytes = model.frame_bytes();
    let mut batches = Vec::new();
    for &utterances in &protocol.utterances {
        let mut runner = Runner::new(model);
        let (mut passes, mut limits) = (Vec::new(), Vec::new());
        for index in 0..protocol.warm_up + protocol.repeats {
            say(&match index.checked_sub(protocol.warm_up) {
                Some(pass) => format!("{utterances} at once, pass {}", pass + 1),
                None => format!("{utterances} at once, warm-up"),
            });
            let pass = pass(&mut runner, utterances, protocol.frames, control)?;
            if index < protocol.warm_up {
                continue;
            }
            passes.push(pass);
            limits.push([
                machine.bandwidth(MEMORY_BYTES, BUDGET)?,
                machine.bandwidth(bytes.predictor as usize, BUDGET)?,
            ]);
        }
        let [memory, near] = [0, 1].map(|which| median(limits.iter().map(|l| l[which])));
        // What a cache gives is never slower than what is behind it.
        let near = near.max(memory);
        let all = (bytes.talker + bytes.predictor_frame) as f64;
        let again = bytes.predictor_frame.saturating_sub(bytes.predictor) as f64;
        let part = |of: fn(&Pass) -> &Vec<f64>| median(passes.iter().flat_map(of).copied());
        let frame_ms = passes.iter().flat_map(|pass| pass.frames.clone());
        let frame_ms = Percentiles::new(frame_ms.collect()).times(1e3);
        batches.push(FrameBatch {
            utterances,
            talker_ms: 1e3 * part(|pass| &pass.talker),
            predictor_ms: 1e3 * part(|pass| &pass.predictor),
            prompt_ms: 1e3 * median(passes.iter().map(|pass| pass.prompt)),
            frames_per_second: 1e3 * utterances as f64 / frame_ms.p50.max(f64::MIN_POSITIVE),
            frame_ms,
            memory,
            predictor_memory: near,
            floor_ms: 1e3 * all / memory,
            cached_floor_ms: 1e3 * ((all - again) / memory + again / near),
        });
    }
    Ok(FrameReport {
        machine: limits::machine_facts(&machine),
        model: ModelFacts {
            name: synthesizer.model_name().into(),
            weights: model.weight_type().name().into(),
            device: synthesizer.device_description(),
        },
        load_seconds: synthesizer.load_seconds(),
        peak_memory: peak_memory(),
        frames: protocol.frames,
        repeats: protocol.repeats,
        talker_bytes: bytes.talker,
        predictor_bytes: bytes.predictor,
        predictor_frame_bytes: bytes.predictor_frame,
        batches,
    })
}

/// Seconds of one pass.
struct Pass {
    prompt: f64,
    frames: Vec<f64>,
    talker: Vec<f64>,
    predictor: Vec<f64>,
}

/// One prompt, and `n_frames` frames after it.
fn pass(
    runner: &mut Runner,
    utterances: usize,
    n_frames: usize,
    control: &Control,
) -> Result<Pass> {
    let model = Arc::clone(runner.model());
    let config = model.config();
    // Any text will do: its tokens are all there is to a prompt here.
    let tokens: Vec<u32> = (0..PROMPT as u32).map(|token| token + 32).collect();
    let text = runner.project_text(&tokens)?;
    let one = &text[..config.talker.dim];
    let sampling = Sampling {
        values: config.generation,
        seed: 1,
    };
    let states = (0..utterances).map(|_| runner.new_state(PROMPT + n_frames, sampling));
    let mut states: Vec<TalkerState> = states.collect::<Result<_>>()?;
    let mut states: Vec<&mut TalkerState> = states.iter_mut().collect();
    let prompt = text.repeat(utterances);
    let started = Instant::now();
    runner.next_frames(&mut states, FrameInput::Prompt(&prompt))?;
    let prompt = started.elapsed().as_secs_f64();
    let next = one.repeat(utterances);
    let mut recorder = Recorder::start(Detail::Stages).ok_or(Error::InvalidOption {
        option: "frames",
        message: "this thread is being recorded already".into(),
    })?;
    let mut frames = Vec::with_capacity(n_frames);
    for _ in 0..n_frames {
        control.check()?;
        let started = Instant::now();
        runner.next_frames(&mut states, FrameInput::Text(&next))?;
        frames.push(started.elapsed().as_secs_f64());
    }
    let spans = recorder.take();
    let of = |name: &str| -> Vec<f64> {
        let named = spans.iter().filter(|span| &*span.name == name);
        named.map(Span::seconds).collect()
    };
    // The first frame of a new length is compiled.
    let skipped = usize::from(spans.iter().any(|span| &*span.name == "compile"));
    Ok(Pass {
        prompt,
        frames: frames.split_off(skipped.min(n_frames - 1)),
        talker: of("talker"),
        predictor: of("code_predictor"),
    })
}
