//! Decode steps of a stream by its length: what a long memory costs.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use turaco_compute::measure::Machine;

use super::statistics::Percentiles;
use crate::asr::realtime::RealtimeRecognizer;
use crate::models::voxtral_realtime::{DecoderState, Rows, Runner};
use crate::{Control, Error, Result};

/// Positions that go through the decoder at once on the way to the next length.
const FILL: usize = 64;

/// Time that is given to measuring the bandwidth, once per length.
const BUDGET: Duration = Duration::from_millis(80);

/// Larger than what a step leaves in a cache of usual size.
const MEMORY_BYTES: usize = 256 << 20;

/// Decode steps behind so many positions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PositionReport {
    /// Positions before the first of the steps; their keys and values are remembered as far as the model looks back.
    pub position: usize,
    /// Milliseconds of a step.
    pub step_ms: Percentiles,
    /// Bytes per second of reading memory.
    pub memory: f64,
}

/// Measure `repeats` decode steps of one stream behind each of `positions`, which must grow; `say` is told what comes next. On the
/// way there, positions go through the decoder many at a time, which for thousands of a large model takes minutes.
///
/// # Errors
/// Positions that do not grow, a failed device, or cancellation.
pub fn positions(
    recognizer: &RealtimeRecognizer,
    positions: &[usize],
    repeats: usize,
    control: &Control,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<PositionReport>> {
    let apart = |pair: &[usize]| pair[1] > pair[0] + repeats;
    if repeats == 0 || !positions.windows(2).all(apart) {
        return Err(Error::InvalidOption {
            option: "positions",
            message: format!("these have to grow by at least {} each time", repeats + 1),
        });
    }
    let machine = Machine::new(recognizer.threads(), None);
    let config = recognizer.config();
    let mut runner = Runner::new(recognizer.model());
    let mut state = runner.new_decoder_state(config.default_delay, FILL)?;
    // Any sound and any token do: what a step reads does not depend on them.
    let audio: Vec<f32> = (0..FILL * config.decoder.dim)
        .map(|index| (index as f32 * 0.37).sin())
        .collect();
    let tokens = [1; FILL];
    let mut advance = |state: &mut DecoderState, n: usize, candidates: usize| -> Result<()> {
        let rows = Rows {
            audio: &audio[..n * config.decoder.dim],
            tokens: &tokens[..n],
            candidates,
            every: false,
        };
        runner.decode(&mut [state], rows).map(|_| ())
    };
    let mut reports = Vec::new();
    for &position in positions {
        say(&format!("{position} positions"));
        while state.position() < position {
            control.check()?;
            let missing = position - state.position();
            // Few sizes, so that few steps are compiled.
            advance(&mut state, if missing >= FILL { FILL } else { 1 }, 0)?;
        }
        let mut seconds = Vec::with_capacity(repeats);
        // The first one is compiled, or finds its weights gone from the caches.
        for index in 0..=repeats {
            control.check()?;
            let started = Instant::now();
            advance(&mut state, 1, 1)?;
            if index > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
        reports.push(PositionReport {
            position,
            step_ms: Percentiles::new(seconds).times(1e3),
            memory: machine.bandwidth(MEMORY_BYTES, BUDGET)?,
        });
    }
    Ok(reports)
}
