//! Frames of a model that speaks: how long talker and code predictor take, for one utterance and for several at once.
//!
//! All runs make as many frames, whether speech would have ended before or not, so that random weights do the same work as
//! trained ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use turaco_compute::Activity;
use turaco_compute::measure::{Machine, peak_memory};
use turaco_compute::trace::{Detail, Recorder, Span};

use super::activity::RunReport;
use super::baseline::Subject;
use super::codec::{self, CodecRow};
use super::limits::machine_facts;
use super::report::{FORMAT, Kind, Limits, Measure, ModelFacts, Report, Role};
use super::run::Outcome;
use super::spoken_texts::{SpokenText, spoken_texts};
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
    /// Also say whole texts, codec included: a short, a medium and a long one.
    pub texts: bool,
    /// Run one more pass of the first number of utterances with spans of this detail; it does not count.
    pub trace: Option<Detail>,
    /// Commit that the program was built from.
    pub commit: Option<String>,
}

/// What frames took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameReport {
    /// Seconds to load the model.
    pub load_seconds: f64,
    /// Frames of every pass.
    pub frames: usize,
    /// Bytes of the talker's weights, read once per frame.
    pub talker_bytes: u64,
    /// Bytes of the code predictor's weights, and how many are read per frame.
    pub predictor_bytes: u64,
    /// See `predictor_bytes`.
    pub predictor_frame_bytes: u64,
    /// Bytes of all weights that stay in memory, those of the codec included; tables of which rows are read are used where their
    /// file is mapped.
    #[serde(default)]
    pub weight_bytes: u64,
    /// For each number of utterances.
    pub batches: Vec<FrameBatch>,
    /// From codes to sound.
    #[serde(default)]
    pub codec: Vec<CodecRow>,
    /// Whole texts, if they were asked for.
    #[serde(default)]
    pub texts: Vec<SpokenText>,
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
    /// What a graphics processor did for a frame, if the model ran on one; `talker_ms` and `predictor_ms` are by its clock then.
    #[serde(default)]
    pub device: Option<RunReport>,
    /// The same for the prompt and the frame behind it.
    #[serde(default)]
    pub device_prompt: Option<RunReport>,
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
) -> Result<Outcome> {
    if protocol.frames == 0 || protocol.repeats == 0 || protocol.utterances.contains(&0) {
        return Err(Error::InvalidOption {
            option: "frames",
            message: "measuring needs at least one frame, one pass and one utterance".into(),
        });
    }
    let machine = Machine::new(synthesizer.threads(), None);
    let model = synthesizer.model();
    let bytes = model.frame_bytes();
    // Before the machine is measured, which takes memory of its own.
    let texts = match protocol.texts {
        true => {
            let passes = (protocol.warm_up, protocol.repeats);
            spoken_texts(synthesizer, passes, control, say)?
        }
        false => Vec::new(),
    };
    let mut batches = Vec::new();
    for &utterances in &protocol.utterances {
        let mut runner = Runner::new(model);
        let (mut passes, mut limits) = (Vec::new(), Vec::new());
        for index in 0..protocol.warm_up + protocol.repeats {
            say(&match index.checked_sub(protocol.warm_up) {
                Some(pass) => format!("{utterances} at once, pass {}", pass + 1),
                None => format!("{utterances} at once, warm-up"),
            });
            let (pass, _) = pass(
                &mut runner,
                (utterances, protocol.frames),
                Detail::Stages,
                control,
            )?;
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
        let device = |of: fn(&Pass) -> &Vec<Activity>| {
            let runs: Vec<Activity> = passes.iter().flat_map(of).copied().collect();
            RunReport::new(&runs)
        };
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
            device: device(|pass| &pass.activity),
            device_prompt: device(|pass| &pass.prompt_activity),
        });
    }
    let passes = (protocol.warm_up, protocol.repeats);
    let (codec, peaks) = codec::codec(synthesizer, passes, control, say)?;
    let spans = match protocol.trace {
        None => Vec::new(),
        Some(detail) => {
            say("one more pass for the trace");
            let utterances = protocol.utterances.first().copied().unwrap_or(1);
            let mut runner = Runner::new(model);
            let passes = (utterances, protocol.frames);
            let mut spans = pass(&mut runner, passes, detail, control)?.1;
            spans.extend(codec::trace(synthesizer, detail)?);
            spans
        }
    };
    let subject = frame_subject(synthesizer, protocol);
    let report = Report {
        format: FORMAT,
        kind: subject.kind,
        time: super::summary::now(),
        version: env!("CARGO_PKG_VERSION").into(),
        commit: protocol.commit.clone(),
        machine: machine_facts(&machine),
        limits: Limits {
            memory: median(batches.iter().map(|batch| batch.memory)),
            step_bytes: bytes.talker + bytes.predictor_frame,
            step_memory: median(batches.iter().map(|batch| batch.memory)),
            peaks,
        },
        model: subject.model,
        options: subject.options,
        inputs: subject.inputs,
        repeats: protocol.repeats,
        peak_memory: peak_memory(),
        memory_limit: peak_memory().map(|bytes| bytes + bytes / 10),
        measures: (batches.iter().flat_map(measures))
            .chain(codec.iter().map(CodecRow::measure))
            .chain(texts.iter().map(SpokenText::measure))
            .collect(),
        transcription: None,
        speech: Some(FrameReport {
            load_seconds: synthesizer.load_seconds(),
            frames: protocol.frames,
            talker_bytes: bytes.talker,
            predictor_bytes: bytes.predictor,
            predictor_frame_bytes: bytes.predictor_frame,
            weight_bytes: synthesizer.weight_bytes(),
            batches,
            codec,
            texts,
        }),
        kernels: Vec::new(),
    };
    Ok(Outcome { report, spans })
}

/// What [`frames`] of these would measure.
pub fn frame_subject(synthesizer: &Synthesizer, protocol: &FrameProtocol) -> Subject {
    let mut options = serde_json::Map::new();
    options.insert("frames".into(), protocol.frames.into());
    if protocol.texts {
        options.insert("texts".into(), true.into());
    }
    Subject {
        kind: Kind::Speech,
        model: Some(ModelFacts {
            name: synthesizer.model_name().into(),
            weights: synthesizer.model().weight_type().name().into(),
            device: synthesizer.device_description(),
        }),
        options,
        inputs: Vec::new(),
        threads: synthesizer.threads(),
    }
}

/// What a comparison looks at.
fn measures(batch: &FrameBatch) -> [Measure; 4] {
    let at_once = batch.utterances;
    let measure = |what: &str, role, value, floor| Measure {
        name: format!("{what}, {at_once} at once"),
        role,
        value,
        unit: "ms".into(),
        floor,
        target: None,
    };
    [
        measure(
            "frame",
            Role::Whole,
            batch.frame_ms.p50,
            Some(batch.floor_ms),
        ),
        measure("talker", Role::Component, batch.talker_ms, None),
        measure("code predictor", Role::Component, batch.predictor_ms, None),
        measure("prompt", Role::Component, batch.prompt_ms, None),
    ]
}

/// Seconds of one pass.
struct Pass {
    prompt: f64,
    frames: Vec<f64>,
    talker: Vec<f64>,
    predictor: Vec<f64>,
    /// What a graphics processor did for the frames, and for the prompt.
    activity: Vec<Activity>,
    prompt_activity: Vec<Activity>,
}

/// One prompt, and `n_frames` frames after it.
fn pass(
    runner: &mut Runner,
    (utterances, n_frames): (usize, usize),
    detail: Detail,
    control: &Control,
) -> Result<(Pass, Vec<Span>)> {
    let mut recorder = Recorder::start(detail).ok_or(Error::InvalidOption {
        option: "frames",
        message: "this thread is being recorded already".into(),
    })?;
    let Begun {
        mut states,
        next,
        prompt,
    } = Begun::new(runner, utterances, n_frames)?;
    let prompt_activity = activity(&recorder.take(), "talker.prompt");
    let mut states: Vec<&mut TalkerState> = states.iter_mut().collect();
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
    let skipped = skipped.min(n_frames - 1);
    let activity = activity(&spans, "talker.frame");
    let pass = Pass {
        prompt,
        frames: frames.split_off(skipped),
        activity: activity.into_iter().skip(skipped).collect(),
        prompt_activity,
        talker: of("talker"),
        predictor: of("code_predictor"),
    };
    Ok((pass, spans))
}

/// What a graphics processor did in the runs of a step.
fn activity(spans: &[Span], step: &str) -> Vec<Activity> {
    let runs = spans.iter().filter(|span| &*span.name == step);
    runs.filter_map(|span| span.activity).collect()
}

/// Utterances behind their prompts.
pub(super) struct Begun {
    pub states: Vec<TalkerState>,
    /// The text of the next frame of all of them.
    pub next: Vec<f32>,
    /// Seconds of the prompts.
    pub prompt: f64,
}

impl Begun {
    /// `utterances` at once, with room for `n_frames` frames.
    pub fn new(runner: &mut Runner, utterances: usize, n_frames: usize) -> Result<Self> {
        let model = Arc::clone(runner.model());
        let config = model.config();
        // Any text will do: its tokens are all there is to a prompt here.
        let tokens: Vec<u32> = (0..PROMPT as u32).map(|token| token + 32).collect();
        let text = runner.project_text(&tokens, &Control::new())?;
        let sampling = Sampling {
            values: config.generation,
            seed: 1,
        };
        let states = (0..utterances).map(|_| runner.new_state(PROMPT + n_frames, sampling));
        let mut states: Vec<TalkerState> = states.collect::<Result<_>>()?;
        let prompts = text.repeat(utterances);
        let started = Instant::now();
        let mut all: Vec<&mut TalkerState> = states.iter_mut().collect();
        runner.next_frames(&mut all, FrameInput::Prompt(&prompts))?;
        Ok(Self {
            prompt: started.elapsed().as_secs_f64(),
            next: text[..config.talker.dim].repeat(utterances),
            states,
        })
    }
}
