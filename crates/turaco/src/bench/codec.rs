//! From codes to sound: how long the codec takes for a frame, by itself in chunks of several lengths, and beside the talker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use turaco_compute::measure::{Machine, instruction};
use turaco_compute::trace::{Detail, Recorder, Span};
use turaco_compute::{Activity, WeightType, Work};

use super::activity::RunReport;
use super::frames::Begun;
use super::limits::{Measured, measure};
use super::report::{Limits, Measure, Peak, Role};
use super::statistics::Percentiles;
use crate::models::qwen3_tts::codec::{CodecRunner, CodecStream, MAX_FRAMES};
use crate::models::qwen3_tts::{FrameInput, Runner};
use crate::tts::{SpeakOptions, Synthesizer};
use crate::{Control, Error, Result};

/// Frames of a pass, whatever the length of its chunks.
const FRAMES: usize = 4 * SpeakOptions::MAX_CHUNK;

/// Frames before the first pass, so that attention sees as much as it ever will.
const BEFORE: usize = 6 * MAX_FRAMES;

/// What the codec should take at most, in multiples of its floor.
const TARGET: f64 = 1.4;

/// What the codec took for frames of some chunks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CodecRow {
    /// Frames of a chunk.
    pub chunk: usize,
    /// Whether the talker made further frames meanwhile, as it does where there are two threads: the codec has one of them then.
    pub beside: bool,
    /// Threads of the codec.
    pub threads: usize,
    /// Milliseconds of a frame.
    pub frame_ms: Percentiles,
    /// Milliseconds that the multiplications of a frame take at the peak of their instruction, or that reading the weights of a
    /// chunk does for each of its frames, whichever takes longer.
    pub floor_ms: f64,
    /// Multiplications and additions of a frame.
    pub operations: u64,
    /// Bytes of weights that a chunk reads.
    pub weight_bytes: u64,
    /// What multiplies.
    pub instruction: String,
    /// Operations per second of that, with these threads.
    pub peak: f64,
    /// What a graphics processor did for a chunk, if the codec ran on one.
    #[serde(default)]
    pub device: Option<RunReport>,
}

impl CodecRow {
    /// What a comparison looks at.
    pub(super) fn measure(&self) -> Measure {
        let beside = if self.beside { ", beside frames" } else { "" };
        Measure {
            name: format!("codec, chunks of {}{beside}", self.chunk),
            role: Role::Component,
            value: self.frame_ms.p50,
            unit: "ms".into(),
            floor: Some(self.floor_ms),
            target: Some(TARGET * self.floor_ms),
        }
    }
}

/// Measure the codec of a model that speaks; also the peaks of all threads that its floors come from.
pub(super) fn codec(
    synthesizer: &Synthesizer,
    (warm_up, repeats): (usize, usize),
    control: &Control,
    say: &mut dyn FnMut(&str),
) -> Result<(Vec<CodecRow>, Vec<Peak>)> {
    let (mut rows, mut peaks) = (Vec::new(), Vec::new());
    let mut codec = Codec::new(synthesizer)?;
    for chunk in [1, SpeakOptions::MAX_CHUNK, MAX_FRAMES] {
        for beside in [false, true] {
            if beside && (chunk != SpeakOptions::MAX_CHUNK || !codec.can_go_beside()) {
                continue;
            }
            let threads = if beside { 1 } else { synthesizer.threads() };
            let machine = Machine::new(threads, None);
            let (mut times, mut limits, mut work) = (Vec::new(), Vec::new(), None);
            let mut activity = Vec::new();
            for index in 0..warm_up + repeats {
                let what = if beside { ", beside frames" } else { "" };
                say(&match index.checked_sub(warm_up) {
                    Some(pass) => format!("codec, chunks of {chunk}{what}, pass {}", pass + 1),
                    None => format!("codec, chunks of {chunk}{what}, warm-up"),
                });
                let pass = codec.pass(chunk, beside, control)?;
                if index >= warm_up {
                    times.extend(pass.seconds);
                    let types = pass.work.operations.iter().map(|(t, _)| *t);
                    let types: Vec<WeightType> = types.collect();
                    limits.push(measure(&machine, pass.work.weight_bytes, &types)?);
                    work = Some(pass.work);
                    activity.extend(pass.activity);
                }
            }
            let Some(work) = work else { continue };
            rows.push(CodecRow {
                device: RunReport::new(&activity),
                ..row(&machine, (chunk, beside), times, &limits, &work)
            });
            if !beside {
                peaks = Measured::new(&limits).limits.peaks;
            }
        }
    }
    Ok((rows, peaks))
}

/// The spans of a chunk by itself, for a trace.
pub(super) fn trace(synthesizer: &Synthesizer, detail: Detail) -> Result<Vec<Span>> {
    let mut codec = Codec::new(synthesizer)?;
    let mut recorder = recorder(detail)?;
    // What comes first is compiled first.
    for _ in 0..2 {
        recorder.take();
        codec.decode(SpeakOptions::MAX_CHUNK)?;
    }
    Ok(recorder.take())
}

fn row(
    machine: &Machine,
    (chunk, beside): (usize, bool),
    times: Vec<f64>,
    limits: &[Limits],
    work: &Work,
) -> CodecRow {
    let measured = Measured::new(limits);
    let most = work.operations.iter().max_by_key(|(_, count)| *count);
    let weight_type = most.map_or(WeightType::F32, |(weight_type, _)| *weight_type);
    let mut peaks = measured.limits.peaks.iter();
    let peak = peaks.find(|peak| peak.weights == weight_type.name());
    CodecRow {
        chunk,
        beside,
        threads: machine.threads(),
        frame_ms: Percentiles::new(times).times(1e3),
        floor_ms: 1e3 * measured.floor_of(work) / chunk as f64,
        operations: work.total_operations() / chunk as u64,
        weight_bytes: work.weight_bytes,
        instruction: instruction(machine.isa(), weight_type).into(),
        peak: peak.map_or(0.0, |peak| peak.rate),
        device: None,
    }
}

/// A codec in the middle of a long stream, and a talker.
struct Codec {
    runner: CodecRunner,
    stream: CodecStream,
    talker: Runner,
}

/// Seconds of frames, and what a chunk of them was.
struct Pass {
    seconds: Vec<f64>,
    work: Arc<Work>,
    activity: Option<Activity>,
}

impl Codec {
    fn new(synthesizer: &Synthesizer) -> Result<Self> {
        let runner = CodecRunner::new(synthesizer.codec());
        let mut codec = Self {
            stream: runner.new_stream()?,
            runner,
            talker: Runner::new(synthesizer.model()),
        };
        let codes = codec.codes(BEFORE);
        let Self { runner, stream, .. } = &mut codec;
        runner.decode(stream, &codes, &mut Vec::new())?;
        Ok(codec)
    }

    /// Frames that are not all alike.
    fn codes(&self, frames: usize) -> Vec<u32> {
        let config = self.runner.decoder().config();
        let (first, size) = (self.stream.position(), config.codebook_size as u32);
        let codes = first * config.n_groups..(first + frames) * config.n_groups;
        codes
            .map(|at| (at as u32).wrapping_mul(7919) % size)
            .collect()
    }

    /// Seconds of the next chunk.
    fn decode(&mut self, chunk: usize) -> Result<f64> {
        let codes = self.codes(chunk);
        let mut samples = Vec::new();
        let started = Instant::now();
        self.runner.decode(&mut self.stream, &codes, &mut samples)?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Whether the device makes sound and frames at the same time.
    fn can_go_beside(&self) -> bool {
        let device = self.talker.model().device();
        device.side_by_side(&mut || {}, &mut || {})
    }

    fn pass(&mut self, chunk: usize, beside: bool, control: &Control) -> Result<Pass> {
        let (work, activity) = self.work(chunk)?;
        let chunks = FRAMES / chunk;
        let mut begun = match beside {
            true => Some(Begun::new(&mut self.talker, 1, FRAMES)?),
            false => None,
        };
        let mut seconds = Vec::with_capacity(chunks);
        for _ in 0..chunks {
            control.check()?;
            let time = match &mut begun {
                Some(begun) => self.decode_beside(chunk, begun)?,
                None => self.decode(chunk)?,
            };
            seconds.push(time / chunk as f64);
        }
        Ok(Pass {
            seconds,
            work,
            activity,
        })
    }

    /// Seconds of the next chunk while the talker goes on, as in a stream.
    fn decode_beside(&mut self, chunk: usize, begun: &mut Begun) -> Result<f64> {
        let codes = self.codes(chunk);
        let Self {
            runner,
            stream,
            talker,
        } = self;
        let device = talker.model().device().clone();
        let is_decoded = AtomicBool::new(false);
        let (mut decoded, mut said, mut seconds) = (Ok(()), Ok(()), 0.0);
        let mut talk = || {
            let mut n_frames = 0;
            while said.is_ok() && n_frames < chunk && !is_decoded.load(Ordering::Relaxed) {
                let mut states: Vec<_> = begun.states.iter_mut().collect();
                let frame = FrameInput::Text(&begun.next);
                said = talker.next_frames(&mut states, frame).map(|_| ());
                n_frames += 1;
            }
        };
        let mut decode = || {
            let started = Instant::now();
            decoded = runner.decode(stream, &codes, &mut Vec::new());
            seconds = started.elapsed().as_secs_f64();
            is_decoded.store(true, Ordering::Relaxed);
        };
        device.side_by_side(&mut talk, &mut decode);
        decoded.and(said).map(|()| seconds)
    }

    /// What a chunk has to do, and what a graphics processor does for it; it is decoded for that.
    fn work(&mut self, chunk: usize) -> Result<(Arc<Work>, Option<Activity>)> {
        let mut recorder = recorder(Detail::Stages)?;
        self.decode(chunk)?;
        let spans = recorder.take();
        let run = spans.iter().find(|span| span.work.is_some());
        let work = run.and_then(|run| run.work.clone());
        Ok((work.unwrap_or_default(), run.and_then(|run| run.activity)))
    }
}

fn recorder(detail: Detail) -> Result<Recorder> {
    Recorder::start(detail).ok_or(Error::InvalidOption {
        option: "frames",
        message: "this thread is being recorded already".into(),
    })
}
