//! What a graphics processor did in some runs of a step, as means.

use std::fmt;

use serde::{Deserialize, Serialize};
use turaco_compute::Activity;

/// Means over runs of a step on a graphics processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunReport {
    /// Milliseconds by the device's own clock, 0 if it has none.
    pub ms: f64,
    /// Kernels that are called.
    pub dispatches: f64,
    /// Command buffers that are submitted.
    pub submissions: f64,
    /// Times that the host waits for numbers.
    pub readbacks: f64,
    /// Bytes of them.
    pub read_bytes: f64,
    /// Bytes of device memory that are allocated.
    pub allocated_bytes: f64,
}

impl RunReport {
    /// Of these runs; `None` if there were none, as on the processor.
    pub(super) fn new(runs: &[Activity]) -> Option<Self> {
        let mean = |what: fn(&Activity) -> u64| mean(runs.iter(), what);
        (!runs.is_empty()).then(|| Self {
            ms: mean(|run| run.device_nanoseconds) * 1e-6,
            dispatches: mean(|run| run.dispatches),
            submissions: mean(|run| run.submissions),
            readbacks: mean(|run| run.readbacks),
            read_bytes: mean(|run| run.read_bytes),
            allocated_bytes: mean(|run| run.allocated_bytes),
        })
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} ms by its own clock; {:.0} kernels in {:.2} submissions, {:.2} reads of {:.0} bytes, {:.0} bytes allocated",
            self.ms,
            self.dispatches,
            self.submissions,
            self.readbacks,
            self.read_bytes,
            self.allocated_bytes
        )
    }
}

/// The mean of a number; 0 of no runs.
pub(super) fn mean<'a>(
    runs: impl Iterator<Item = &'a Activity>,
    what: fn(&Activity) -> u64,
) -> f64 {
    let (sum, count) = runs.fold((0, 0_u64), |(sum, n), run| (sum + what(run), n + 1));
    sum as f64 / count.max(1) as f64
}
