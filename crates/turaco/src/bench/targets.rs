//! What each step should take at most.
//!
//! The numbers are those of the project's issue on speed where it names any, else the stretch goals of the step list that it
//! grew from, else a share of the floor: 75 % of the arithmetic peak, 90 % of the read bandwidth.

use super::steps::Step;
use crate::models::whisper::WhisperConfig;

/// Share of the arithmetic peak that matrix products have to reach.
pub const PEAK_SHARE: f64 = 0.75;

/// Share of the read bandwidth that decode steps have to reach.
pub const BANDWIDTH_SHARE: f64 = 0.90;

/// Seconds of log-mel per second of sound: 30 s in 4 ms on one core.
pub const MEL: f64 = 0.004 / 30.0;

/// Seconds of a parse per sample: a hundred million samples per second.
const PARSE: f64 = 1e-8;

/// Seconds of resampling per second of sound: 1.5 s in 5 ms.
const RESAMPLE: f64 = 0.005 / 1.5;

/// How much more a step with several beams may take than one without.
const BEAMS: f64 = 2.5;

/// Targets that are set for a model as a whole, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelTargets {
    /// Encoder, one window.
    pub encoder: Option<f64>,
    /// Decode step of one sequence, the choice of the token included.
    pub step: Option<f64>,
    /// From sound in memory to the first token.
    pub first_token: Option<f64>,
}

impl ModelTargets {
    /// Of a Whisper of these sizes; other models have only the floor.
    pub fn new(config: Option<&WhisperConfig>) -> Self {
        let sizes = config.map(|config| {
            (
                config.n_audio_state,
                config.n_audio_layers,
                config.n_text_layers,
            )
        });
        let (encoder, step, first_token) = match sizes {
            Some((384, 4, 4)) => (Some(0.110), Some(0.001), Some(0.120)),
            Some((512, 6, 6)) => (Some(0.250), Some(0.0018), None),
            _ => (None, None, None),
        };
        Self {
            encoder,
            step,
            first_token,
        }
    }
}

/// How much there was to do in a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Amount {
    /// Seconds of sound.
    pub audio: f64,
    /// Samples in the file, of one channel.
    pub samples: usize,
    /// The file has another rate than the model.
    pub resampled: bool,
    /// Encoded windows.
    pub windows: usize,
    /// Decode steps.
    pub steps: usize,
    /// Beams or samples at once.
    pub rows: usize,
    /// Seconds of the encoder runs at the floor.
    pub encoder_floor: f64,
    /// Seconds of the prefills at the floor.
    pub prefill_floor: f64,
    /// Seconds of the decode steps at the floor.
    pub step_floor: f64,
}

/// Seconds that a step should take at most.
pub fn target(step: Step, model: &ModelTargets, amount: &Amount) -> Option<f64> {
    let windows = amount.windows as f64;
    Some(match step {
        Step::A | Step::B | Step::L => 0.001,
        Step::C => amount.samples as f64 * PARSE,
        Step::D if amount.resampled => amount.audio * RESAMPLE,
        Step::D => return None,
        Step::E | Step::J | Step::K => windows * 0.001,
        Step::F => amount.audio * MEL,
        Step::G => match model.encoder {
            Some(seconds) => windows * seconds,
            None if amount.encoder_floor > 0.0 => amount.encoder_floor / PEAK_SHARE,
            None => return None,
        },
        Step::H => prefill(amount)? + decode(model, amount)?,
        Step::I => amount.steps as f64 * if amount.rows > 1 { 0.001 } else { 0.0001 },
    })
}

/// Seconds that the prefills should take at most.
pub fn prefill(amount: &Amount) -> Option<f64> {
    (amount.prefill_floor > 0.0).then_some(amount.prefill_floor / PEAK_SHARE)
}

/// Seconds that the decode steps should take at most.
pub fn decode(model: &ModelTargets, amount: &Amount) -> Option<f64> {
    match step_target(model, amount.rows) {
        Some(seconds) => Some(amount.steps as f64 * seconds),
        None => (amount.step_floor > 0.0).then_some(amount.step_floor / BANDWIDTH_SHARE),
    }
}

/// Seconds that one decode step of so many rows should take at most.
pub fn step_target(model: &ModelTargets, rows: usize) -> Option<f64> {
    let factor = if rows > 1 { BEAMS } else { 1.0 };
    model.step.map(|seconds| seconds * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount() -> Amount {
        Amount {
            audio: 30.0,
            samples: 480_000,
            resampled: false,
            windows: 2,
            steps: 100,
            rows: 1,
            encoder_floor: 0.03,
            prefill_floor: 0.003,
            step_floor: 0.09,
        }
    }

    const TINY: ModelTargets = ModelTargets {
        encoder: Some(0.110),
        step: Some(0.001),
        first_token: Some(0.120),
    };
    const UNKNOWN: ModelTargets = ModelTargets {
        encoder: None,
        step: None,
        first_token: None,
    };

    #[track_caller]
    fn is(found: Option<f64>, expected: f64) {
        let found = found.expect("a target");
        assert!((found - expected).abs() < 1e-9, "{found} {expected}");
    }

    #[test]
    fn targets_grow_with_the_work() {
        is(target(Step::F, &TINY, &amount()), 0.004);
        is(target(Step::G, &TINY, &amount()), 0.22);
        is(target(Step::H, &TINY, &amount()), 0.004 + 0.1);
        is(target(Step::I, &TINY, &amount()), 0.01);
        assert_eq!(target(Step::D, &TINY, &amount()), None);
        let resampled = Amount {
            resampled: true,
            ..amount()
        };
        is(target(Step::D, &TINY, &resampled), 0.1);
        let beams = Amount {
            rows: 5,
            ..amount()
        };
        is(decode(&TINY, &beams), 0.25);
        is(target(Step::I, &TINY, &beams), 0.1);
    }

    #[test]
    fn other_models_have_targets_from_their_floors() {
        is(target(Step::G, &UNKNOWN, &amount()), 0.04);
        is(decode(&UNKNOWN, &amount()), 0.1);
        let no_floor = Amount {
            encoder_floor: 0.0,
            ..amount()
        };
        assert_eq!(target(Step::G, &UNKNOWN, &no_floor), None);
    }
}
