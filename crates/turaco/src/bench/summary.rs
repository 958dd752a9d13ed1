//! From runs to a report.

use std::sync::Arc;

use turaco_compute::{Activity, Work};

use super::activity;
use super::baseline::Subject;
use super::clip::Clip;
use super::limits::{Measured, machine_facts};
use super::report::{
    ClipReport, DeviceReport, FORMAT, Kind, Measure, ModelFacts, Report, Role, StepRow,
    TranscriptionReport,
};
use super::run::{Bench, Protocol, Run};
use super::statistics::{Percentiles, mean, median};
use super::steps::{Extra, Shares, Step};
use super::targets::{self, Amount, ModelTargets};
use crate::Recognizer;
use crate::asr::TranscribeOptions;
use crate::text::Errors;

/// How far above the recorded peak memory may go before a comparison fails.
const MEMORY_HEADROOM: f64 = 1.10;

impl Bench<'_> {
    /// Everything that is known about these passes.
    pub fn report(
        &self,
        warm_up: &[Vec<Run>],
        passes: &[Vec<Run>],
        limits: &Measured,
        memory: Option<u64>,
    ) -> Report {
        let load_seconds = self.recognizer.load_seconds();
        let summary = self.summary(warm_up, passes, limits, load_seconds);
        let subject = subject(self.recognizer, self.clips, self.protocol);
        Report {
            format: FORMAT,
            kind: subject.kind,
            time: now(),
            version: env!("CARGO_PKG_VERSION").into(),
            commit: self.protocol.commit.clone(),
            machine: machine_facts(&self.machine),
            limits: limits.limits.clone(),
            model: subject.model,
            options: subject.options,
            inputs: subject.inputs,
            repeats: passes.len(),
            peak_memory: memory,
            memory_limit: memory.map(|bytes| (bytes as f64 * MEMORY_HEADROOM) as u64),
            measures: measures(
                &summary,
                &ModelTargets::new(self.recognizer.whisper_config()),
                limits,
                passes,
                self.rows(),
            ),
            transcription: Some(summary),
            speech: None,
            kernels: Vec::new(),
        }
    }

    /// Sequences that a decode step advances at temperature 0.
    fn rows(&self) -> usize {
        let options = &self.protocol.options;
        options.beam_size.max(1) * options.batch_size.max(1)
    }

    fn summary(
        &self,
        warm_up: &[Vec<Run>],
        passes: &[Vec<Run>],
        limits: &Measured,
        load_seconds: f64,
    ) -> TranscriptionReport {
        let runs: Vec<&Run> = passes.iter().flatten().collect();
        let is_long = |run: &Run| run.audio.round() >= self.protocol.long_from;
        let sum = |of: &dyn Fn(&Run) -> f64, long: Option<bool>| -> f64 {
            let chosen = runs
                .iter()
                .filter(|run| long.is_none_or(|l| l == is_long(run)));
            chosen.map(|run| of(run)).sum()
        };
        let wall = |run: &Run| run.wall;
        let audio = |run: &Run| run.audio;
        let rtf = |long: bool| {
            let audio = sum(&audio, Some(long));
            (audio > 0.0).then(|| sum(&wall, Some(long)) / audio)
        };
        let average_step = |long: bool| {
            let chosen = runs.iter().filter(|run| is_long(run) == long);
            mean(chosen.filter_map(|run| mean(run.steps.iter().copied())))
                .map(|seconds| seconds * 1e3)
        };
        let all = |of: &dyn Fn(&Run) -> Vec<f64>| -> Percentiles {
            Percentiles::new(runs.iter().flat_map(|run| of(run)).collect()).times(1e3)
        };
        let audio_seconds = sum(&audio, None);
        let runtime_seconds = sum(&wall, None);
        let n_steps = sum(&|run| run.steps.len() as f64, None);
        let decoder = sum(&|run| run.shares.of(Step::H) + run.shares.of(Step::I), None);
        let per_audio = |seconds: f64| seconds / audio_seconds.max(f64::MIN_POSITIVE);
        let mut errors: Option<Errors> = None;
        let clips = (0..self.clips.len())
            .map(|index| {
                let of_clip = |passes: &[Vec<Run>]| -> Vec<Run> {
                    passes.iter().map(|pass| pass[index].clone()).collect()
                };
                let runs = of_clip(passes);
                let found = self.clips[index].errors(&runs[0].language, &runs[0].text);
                if let Some(found) = found {
                    *errors.get_or_insert_with(Errors::default) += found;
                }
                let warm_up = of_clip(warm_up).iter().map(|run| run.wall).collect();
                let rate = found.map(|errors| errors.rate());
                clip_report(
                    &self.clips[index],
                    (is_long(&runs[0]), rate),
                    warm_up,
                    &runs,
                )
            })
            .collect();
        TranscriptionReport {
            load_seconds,
            audio_seconds,
            runtime_seconds,
            overall_rtf: per_audio(runtime_seconds),
            overall_rtf_with_load: per_audio(runtime_seconds + load_seconds * passes.len() as f64),
            short_rtf: rtf(false),
            long_rtf: rtf(true),
            long_from: self.protocol.long_from,
            weighted_step_ms: 1e3 * sum(&|run| run.steps.iter().sum(), None) / n_steps.max(1.0),
            short_avg_step_ms: average_step(false),
            long_avg_step_ms: average_step(true),
            step_ms: all(&|run| run.steps.clone()),
            prefill_ms: all(&|run| run.prefills.clone()),
            encoder_ms: all(&|run| run.encoders.clone()),
            first_token_ms: all(&|run| run.first_token.into_iter().collect()),
            first_text_ms: all(&|run| run.first_text.into_iter().collect()),
            pass_seconds: Percentiles::new(
                passes
                    .iter()
                    .map(|pass| pass.iter().map(wall).sum())
                    .collect(),
            ),
            tokens_per_second: if decoder > 0.0 {
                sum(&|run| run.tokens as f64, None) / decoder
            } else {
                0.0
            },
            device: device_report(&runs),
            word_error_rate: errors.map(|errors| errors.rate()),
            steps: step_rows(
                passes,
                limits,
                &ModelTargets::new(self.recognizer.whisper_config()),
                self.rows(),
            ),
            clips,
        }
    }
}

fn clip_report(
    clip: &Clip,
    (long, word_error_rate): (bool, Option<f64>),
    warm_up_seconds: Vec<f64>,
    runs: &[Run],
) -> ClipReport {
    let walls: Vec<f64> = runs.iter().map(|run| run.wall).collect();
    let wall = Percentiles::new(walls.clone());
    let all = |of: &dyn Fn(&Run) -> &[f64]| -> Percentiles {
        let values = runs.iter().flat_map(|run| of(run).iter().copied());
        Percentiles::new(values.collect()).times(1e3)
    };
    let first = &runs[0];
    ClipReport {
        name: clip.name().to_owned(),
        seconds: first.audio,
        long,
        warm_up_seconds,
        run_seconds: walls,
        wall_seconds: wall,
        rtf: wall.p50 / first.audio.max(f64::MIN_POSITIVE),
        encoder_ms: all(&|run| &run.encoders).p50,
        prefill_ms: all(&|run| &run.prefills).p50,
        step_ms: all(&|run| &run.steps),
        steps: first.steps.len(),
        windows: first.encoders.len(),
        tokens: first.tokens,
        first_token_ms: 1e3 * median(runs.iter().filter_map(|run| run.first_token)),
        word_error_rate,
        language: first.language.clone(),
        text: first.text.clone(),
    }
}

/// The table of steps: medians over the passes of what a pass takes.
fn step_rows(
    passes: &[Vec<Run>],
    limits: &Measured,
    model: &ModelTargets,
    rows: usize,
) -> Vec<StepRow> {
    let whole = median(passes.iter().map(|pass| {
        let walls = pass.iter().map(|run| run.shares.total());
        walls.sum()
    }));
    let row = |letter: Option<char>,
               name: &str,
               of: &dyn Fn(&Shares) -> f64,
               floor: Option<f64>,
               target: Option<f64>| {
        let times = passes
            .iter()
            .map(|pass| pass.iter().map(|run| of(&run.shares)).sum());
        let times = Percentiles::new(times.collect()).times(1e3);
        StepRow {
            letter,
            name: name.into(),
            ms: times.p50,
            p95_ms: times.p95,
            p99_ms: times.p99,
            share: if whole > 0.0 {
                times.p50 * 1e-3 / whole
            } else {
                0.0
            },
            floor_ms: floor.filter(|&floor| floor > 0.0).map(|floor| floor * 1e3),
            target_ms: target.map(|target| target * 1e3),
        }
    };
    let amounts: Vec<Amount> = passes[0]
        .iter()
        .map(|run| run.amount(limits, rows))
        .collect();
    // A sum of targets, as far as there are any.
    let sum = |of: &dyn Fn(&Amount) -> Option<f64>| -> Option<f64> {
        let known: Vec<f64> = amounts.iter().filter_map(of).collect();
        (!known.is_empty()).then(|| known.iter().sum())
    };
    let mut table = Vec::new();
    for step in Step::ALL {
        let floor = match step {
            Step::G => sum(&|amount| Some(amount.encoder_floor)),
            Step::H => sum(&|amount| Some(amount.prefill_floor + amount.step_floor)),
            _ => None,
        };
        let target = sum(&|amount| targets::target(step, model, amount));
        table.push(row(
            Some(step.letter()),
            step.name(),
            &|shares| shares.of(step),
            floor,
            target,
        ));
        if step == Step::H {
            table.push(row(
                None,
                "of it: prefill",
                &|shares| shares.prefill,
                sum(&|amount| Some(amount.prefill_floor)),
                sum(&targets::prefill),
            ));
            table.push(row(
                None,
                "of it: steps",
                &|shares| shares.decode,
                sum(&|amount| Some(amount.step_floor)),
                sum(&|amount| targets::decode(model, amount)),
            ));
        }
    }
    for extra in Extra::ALL {
        let extra = row(
            None,
            extra.name(),
            &|shares| shares.extra(extra),
            None,
            None,
        );
        if extra.ms > 0.0 {
            table.push(extra);
        }
    }
    table
}

/// The numbers that comparisons look at.
fn measures(
    summary: &TranscriptionReport,
    model: &ModelTargets,
    limits: &Measured,
    passes: &[Vec<Run>],
    rows: usize,
) -> Vec<Measure> {
    let measure = |name: &str, role, value: f64, unit: &str, floor, target| Measure {
        name: name.into(),
        role,
        value,
        unit: unit.into(),
        floor,
        target,
    };
    let floor_per = |works: &dyn Fn(&Run) -> &Vec<Arc<Work>>| {
        let works: Vec<f64> = passes[0]
            .iter()
            .flat_map(|run| works(run).iter().map(|work| limits.floor_of(work)))
            .collect();
        let floor = median(works) * 1e3;
        (floor > 0.0).then_some(floor)
    };
    let milliseconds = |target: Option<f64>| target.map(|seconds| seconds * 1e3);
    let mut all = vec![
        measure(
            "overall_rtf",
            Role::Whole,
            summary.overall_rtf,
            "",
            None,
            None,
        ),
        measure(
            "pass",
            Role::Whole,
            summary.pass_seconds.p50 * 1e3,
            "ms",
            None,
            None,
        ),
        measure(
            "load model",
            Role::Component,
            summary.load_seconds * 1e3,
            "ms",
            None,
            None,
        ),
        measure(
            "encoder per window",
            Role::Component,
            summary.encoder_ms.p50,
            "ms",
            floor_per(&|run| &run.encoder_work),
            milliseconds(model.encoder),
        ),
        measure(
            "prefill",
            Role::Component,
            summary.prefill_ms.p50,
            "ms",
            floor_per(&|run| &run.prefill_work),
            None,
        ),
        measure(
            "decode step",
            Role::Component,
            summary.weighted_step_ms,
            "ms",
            floor_per(&|run| &run.step_work),
            milliseconds(targets::step_target(model, rows)),
        ),
        measure(
            "first token",
            Role::Component,
            summary.first_token_ms.p50,
            "ms",
            None,
            milliseconds(model.first_token),
        ),
    ];
    for step in &summary.steps {
        let Some(letter) = step.letter else { continue };
        all.push(Measure {
            name: format!("{letter} {}", step.name),
            role: Role::Component,
            value: step.ms,
            unit: "ms".into(),
            floor: step.floor_ms,
            target: step.target_ms,
        });
    }
    for clip in &summary.clips {
        all.push(measure(
            &format!("clip {}", clip.name),
            Role::Whole,
            clip.wall_seconds.p50 * 1e3,
            "ms",
            None,
            None,
        ));
    }
    if let Some(rate) = summary.word_error_rate {
        all.push(measure(
            "word error rate",
            Role::Quality,
            rate * 100.0,
            "%",
            None,
            None,
        ));
    }
    // What did not occur cannot be compared.
    all.retain(|measure| measure.value > 0.0 || measure.role == Role::Quality);
    all
}

/// What [`transcription`](super::transcription) of these would measure.
pub fn subject(recognizer: &Recognizer, clips: &[Clip], protocol: &Protocol) -> Subject {
    Subject {
        kind: Kind::Transcription,
        model: Some(ModelFacts {
            name: recognizer.model_name().into(),
            weights: recognizer.weight_type().name().into(),
            device: recognizer.device_description(),
        }),
        options: differing_options(&protocol.options),
        inputs: clips.iter().map(|clip| clip.name().to_owned()).collect(),
        threads: recognizer.threads(),
    }
}

/// The options that are not the defaults.
fn differing_options(options: &TranscribeOptions) -> serde_json::Map<String, serde_json::Value> {
    let object = |options: &TranscribeOptions| match serde_json::to_value(options) {
        Ok(serde_json::Value::Object(object)) => object,
        _ => serde_json::Map::new(),
    };
    let defaults = object(&TranscribeOptions::default());
    object(options)
        .into_iter()
        .filter(|(name, value)| defaults.get(name) != Some(value))
        .collect()
}

/// Seconds since 1970.
pub fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
/// What a graphics processor did, if one did anything.
fn device_report(runs: &[&Run]) -> Option<DeviceReport> {
    let mean = |of: fn(&Run) -> &[Activity], what: fn(&Activity) -> u64| {
        activity::mean(runs.iter().flat_map(|run| of(run)), what)
    };
    let milliseconds = |of| mean(of, |activity| activity.device_nanoseconds) * 1e-6;
    let steps: fn(&Run) -> &[Activity] = |run| &run.step_activity;
    runs.iter()
        .any(|run| !run.encoder_activity.is_empty())
        .then(|| DeviceReport {
            encoder_ms: milliseconds(|run| &run.encoder_activity),
            prefill_ms: milliseconds(|run| &run.prefill_activity),
            step_ms: milliseconds(steps),
            step_dispatches: mean(steps, |activity| activity.dispatches),
            step_submissions: mean(steps, |activity| activity.submissions),
            step_readbacks: mean(steps, |activity| activity.readbacks),
            step_read_bytes: mean(steps, |activity| activity.read_bytes),
            step_allocated_bytes: mean(steps, |activity| activity.allocated_bytes),
        })
}
