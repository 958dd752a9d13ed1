//! What the machine can do, and how long work takes at that.

use std::sync::Arc;
use std::time::Duration;

use turaco_compute::measure::{Machine, instruction};
use turaco_compute::{WeightType, Work};

use super::report::{Limits, MachineFacts, Peak};
use super::statistics::median;
use crate::Result;

/// A large buffer: more than any cache holds.
const MEMORY_BYTES: usize = 256 << 20;

/// Time that is given to measuring each limit, once per pass.
const LIMIT_BUDGET: Duration = Duration::from_millis(60);

/// Measure what the machine can do right now. `step_bytes` is what a decode step reads, `types` are those that are
/// multiplied.
pub fn measure(machine: &Machine, step_bytes: u64, types: &[WeightType]) -> Result<Limits> {
    let step_memory = match step_bytes {
        0 => 0.0,
        bytes => machine.bandwidth(bytes as usize, LIMIT_BUDGET)?,
    };
    Ok(Limits {
        memory: machine.bandwidth(MEMORY_BYTES, LIMIT_BUDGET)?,
        step_bytes,
        step_memory,
        peaks: types
            .iter()
            .map(|&weight_type| Peak {
                weights: weight_type.name().into(),
                instruction: instruction(machine.isa(), weight_type).into(),
                rate: machine.peak(weight_type, LIMIT_BUDGET / 2),
            })
            .collect(),
    })
}

/// The medians of the limits, and floors from them.
pub struct Measured {
    /// The medians.
    pub limits: Limits,
}

impl Measured {
    /// The medians of `measured`, all of which know the same peaks.
    pub fn new(measured: &[Limits]) -> Self {
        let first = measured.first().cloned().unwrap_or_default();
        let of = |get: &dyn Fn(&Limits) -> f64| median(measured.iter().map(get));
        let peaks = first.peaks.iter().map(|peak| {
            let rate = |limits: &Limits| {
                let same = limits.peaks.iter().find(|p| p.weights == peak.weights);
                same.map_or(0.0, |peak| peak.rate)
            };
            Peak {
                rate: of(&rate),
                ..peak.clone()
            }
        });
        Self {
            limits: Limits {
                memory: of(&|limits| limits.memory),
                step_bytes: first.step_bytes,
                step_memory: of(&|limits| limits.step_memory),
                peaks: peaks.collect(),
            },
        }
    }

    /// Seconds that the machine needs for all of these at least.
    pub fn floor<'a>(&self, works: impl IntoIterator<Item = &'a Arc<Work>>) -> f64 {
        works.into_iter().map(|work| self.floor_of(work)).sum()
    }

    /// Seconds that the machine needs at least: to read the weights, or to multiply, whichever takes longer.
    pub fn floor_of(&self, work: &Work) -> f64 {
        let reading = if self.limits.step_memory > 0.0 {
            work.weight_bytes as f64 / self.limits.step_memory
        } else {
            0.0
        };
        let multiplying: f64 = work
            .operations
            .iter()
            .filter_map(|(weight_type, count)| {
                let peak = self
                    .limits
                    .peaks
                    .iter()
                    .find(|peak| peak.weights == weight_type.name())?;
                (peak.rate > 0.0).then(|| *count as f64 / peak.rate)
            })
            .sum();
        reading.max(multiplying)
    }
}

/// The machine as reports name it.
pub fn machine_facts(machine: &Machine) -> MachineFacts {
    MachineFacts {
        processor: crate::diagnostics::processor(),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        instructions: machine.isa().name().into(),
        cores: turaco_compute::cpu::physical_cores(),
        threads: machine.threads(),
    }
}
