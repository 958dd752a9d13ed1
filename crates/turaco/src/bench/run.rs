//! The protocol: every clip from its file to its text, several times, with the limits of the machine in between.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use turaco_compute::measure::{Machine, peak_memory};
use turaco_compute::{Activity, WeightType, Work};

use super::clip::Clip;
use super::limits::{self, Measured};
use super::report::{Limits, Report};
use super::steps::Shares;
use super::targets::Amount;
use crate::asr::TranscribeOptions;
use crate::output::{OutputFormat, Transcript, WriteOptions};
use crate::trace::{self, Detail, Recorder, Span};
use crate::{Control, Error, Recognizer, Result};

/// Samples per second of models.
const SAMPLE_RATE: u32 = 16_000;

/// How to measure.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Protocol {
    /// Passes over all clips that count.
    pub repeats: usize,
    /// Passes before that, which do not count.
    pub warm_up: usize,
    /// Clips of this many seconds, rounded to whole ones, and more are long.
    pub long_from: f64,
    /// Options of the transcriptions.
    pub options: TranscribeOptions,
    /// Run one more pass with spans of this detail, for a trace file; it does not count.
    pub trace: Option<Detail>,
    /// Commit that the program was built from.
    pub commit: Option<String>,
}

impl Default for Protocol {
    fn default() -> Self {
        Self {
            repeats: 5,
            warm_up: 1,
            long_from: 60.0,
            options: TranscribeOptions::default(),
            trace: None,
            commit: None,
        }
    }
}

/// What a benchmark gives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// The numbers.
    pub report: Report,
    /// The spans of the traced pass, if one was asked for.
    pub spans: Vec<Span>,
}

/// Transcribe `clips` with `recognizer` by the protocol. `pass` is called before every pass with what is about to
/// happen.
///
/// # Errors
/// A clip that cannot be read, options that the model cannot honour, no clip at all, another recording on this thread,
/// or cancellation.
pub fn transcription(
    recognizer: &Recognizer,
    clips: &[Clip],
    protocol: &Protocol,
    control: &Control,
    pass: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    if clips.is_empty() || protocol.repeats == 0 {
        return Err(Error::InvalidOption {
            option: "repeats",
            message: "a benchmark needs at least one clip and one repeat".into(),
        });
    }
    let mut bench = Bench {
        recognizer,
        clips,
        protocol,
        control,
        machine: Machine::new(recognizer.threads(), None),
        recorder: Some(start(Detail::Stages)?),
    };
    let mut warm_up = Vec::new();
    for index in 0..protocol.warm_up {
        pass(&format!("warm-up {} of {}", index + 1, protocol.warm_up));
        warm_up.push(bench.pass()?);
    }
    let mut passes = Vec::new();
    let mut memory = None;
    let mut limits = Vec::new();
    for index in 0..protocol.repeats {
        pass(&format!("pass {} of {}", index + 1, protocol.repeats));
        passes.push(bench.pass()?);
        // Before the limits are measured, whose buffers are not the model's.
        memory = memory.or_else(peak_memory);
        limits.push(bench.limits(&passes[0])?);
    }
    let mut spans = Vec::new();
    if let Some(detail) = protocol.trace {
        pass("a pass for the trace");
        bench.recorder = None;
        bench.recorder = Some(start(detail)?);
        spans = bench.traced_pass()?;
    }
    let limits = Measured::new(&limits);
    Ok(Outcome {
        report: bench.report(&warm_up, &passes, &limits, memory),
        spans,
    })
}

fn start(detail: Detail) -> Result<Recorder> {
    Recorder::start(detail).ok_or_else(|| Error::InvalidOption {
        option: "trace",
        message: "another recording runs on this thread".into(),
    })
}

/// One run: a clip from its file to its text.
#[derive(Debug, Clone, Default)]
pub(super) struct Run {
    pub audio: f64,
    pub samples: usize,
    pub resampled: bool,
    pub wall: f64,
    pub shares: Shares,
    pub encoders: Vec<f64>,
    pub prefills: Vec<f64>,
    pub steps: Vec<f64>,
    pub encoder_work: Vec<Arc<Work>>,
    pub prefill_work: Vec<Arc<Work>>,
    pub step_work: Vec<Arc<Work>>,
    /// What a graphics processor did in encoder runs, prefills and steps.
    pub encoder_activity: Vec<Activity>,
    pub prefill_activity: Vec<Activity>,
    pub step_activity: Vec<Activity>,
    pub first_token: Option<f64>,
    pub first_text: Option<f64>,
    pub tokens: usize,
    pub language: String,
    pub text: String,
}

pub(super) struct Bench<'a> {
    pub recognizer: &'a Recognizer,
    pub clips: &'a [Clip],
    pub protocol: &'a Protocol,
    control: &'a Control,
    pub machine: Machine,
    recorder: Option<Recorder>,
}

impl Bench<'_> {
    /// Every clip once.
    fn pass(&mut self) -> Result<Vec<Run>> {
        let clips = self.clips;
        clips
            .iter()
            .map(|clip| {
                let mut run = self.run(clip)?;
                run.take_in(&self.take_spans());
                Ok(run)
            })
            .collect()
    }

    fn traced_pass(&mut self) -> Result<Vec<Span>> {
        for clip in self.clips {
            self.run(clip)?;
        }
        Ok(self.take_spans())
    }

    /// What was recorded since the last call.
    fn take_spans(&mut self) -> Vec<Span> {
        let recorder = self.recorder.as_mut();
        recorder.map(Recorder::take).unwrap_or_default()
    }

    fn run(&self, clip: &Clip) -> Result<Run> {
        let started = Instant::now();
        let _run = trace::span("run");
        let audio = clip.read()?;
        let (samples, rate) = (audio.samples().len(), audio.sample_rate());
        let audio = {
            let _span = trace::span("resample");
            audio.resampled(SAMPLE_RATE)?
        };

        let mut run = Run {
            audio: audio.duration(),
            samples,
            resampled: rate != SAMPLE_RATE,
            ..Run::default()
        };
        let in_memory = Instant::now();
        let span = trace::span("transcribe");
        let mut segments = Vec::new();
        let options = &self.protocol.options;
        let mut running = self.recognizer.transcribe(&audio, options, self.control)?;
        for segment in &mut running {
            segments.push(segment?);
            run.first_text
                .get_or_insert_with(|| in_memory.elapsed().as_secs_f64());
        }
        run.tokens = running.timings().tokens;
        drop(span);

        let _span = trace::span("write");
        let info = running.info();
        let transcript = Transcript {
            task: options.task,
            language: info.language.clone(),
            duration: info.duration,
            text: segments.iter().map(|segment| &*segment.text).collect(),
            segments,
            ..Transcript::default()
        };
        let mut out = Vec::new();
        crate::output::write(
            &transcript,
            OutputFormat::Txt,
            &WriteOptions::default(),
            &mut out,
        )
        .map_err(|source| Error::Io {
            action: "write",
            path: PathBuf::from(clip.name()),
            source,
        })?;
        run.language = transcript.language;
        run.text = transcript.text.trim().to_owned();
        run.wall = started.elapsed().as_secs_f64();
        Ok(run)
    }

    /// What the machine can do right now.
    fn limits(&self, runs: &[Run]) -> Result<Limits> {
        let works = || {
            runs.iter()
                .flat_map(|run| [&run.encoder_work, &run.prefill_work, &run.step_work])
                .flatten()
        };
        let step_bytes = runs
            .iter()
            .flat_map(|run| &run.step_work)
            .map(|work| work.weight_bytes)
            .max();
        let types = WeightType::ALL.into_iter().filter(|weight_type| {
            works().any(|work| work.operations.iter().any(|(used, _)| used == weight_type))
        });
        let types: Vec<WeightType> = types.collect();
        limits::measure(&self.machine, step_bytes.unwrap_or(0), &types)
    }
}

impl Run {
    /// Take from the spans of the run what statistics need.
    fn take_in(&mut self, spans: &[Span]) {
        self.shares = Shares::new(spans);
        let language = spans.iter().find(|span| &*span.name == "language");
        let begin = spans
            .iter()
            .find(|span| &*span.name == "transcribe")
            .map_or(0, |span| span.begin);
        for span in spans {
            let seconds = span.seconds();
            match &*span.name {
                "encoder" => self.encoder_activity.extend(span.activity),
                "decoder.prefill" => self.prefill_activity.extend(span.activity),
                "decoder.step" => self.step_activity.extend(span.activity),
                _ => {}
            }
            match (&*span.name, &span.work) {
                ("encoder", Some(work)) => {
                    self.encoder_work.push(Arc::clone(work));
                    self.encoders.push(seconds);
                }
                ("decoder.prefill", Some(work)) => self.prefill_work.push(Arc::clone(work)),
                ("decoder.step", Some(work)) => self.step_work.push(Arc::clone(work)),
                // Not the one that finds the language.
                ("prefill", _) if !language.is_some_and(|language| language.contains(span)) => {
                    self.prefills.push(seconds);
                    self.first_token
                        .get_or_insert((span.end - begin) as f64 * 1e-9);
                }
                ("step", _) => self.steps.push(seconds),
                _ => {}
            }
        }
    }

    pub fn amount(&self, limits: &Measured, rows: usize) -> Amount {
        Amount {
            audio: self.audio,
            samples: self.samples,
            resampled: self.resampled,
            windows: self.encoders.len(),
            steps: self.steps.len(),
            rows,
            encoder_floor: limits.floor(&self.encoder_work),
            prefill_floor: limits.floor(&self.prefill_work),
            step_floor: limits.floor(&self.step_work),
        }
    }
}
