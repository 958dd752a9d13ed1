//! Where and how a model runs.

use turaco_compute::Device;
use turaco_compute::cpu::CpuOptions;

use crate::{Error, Result};

use super::ComputeType;

/// Where and how a model runs.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LoadOptions {
    /// `auto` or `cpu`.
    pub device: Option<String>,
    /// How weights are kept.
    pub compute_type: ComputeType,
    /// Threads; 0 = one per physical core.
    pub threads: usize,
}

/// More threads than this are a mistake; some systems end the program when memory for their stacks is short.
const MAX_THREADS: usize = 1024;

impl LoadOptions {
    /// All defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// `auto` or `cpu`.
    #[must_use]
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.device = Some(device.into());
        self
    }

    /// How weights are kept.
    #[must_use]
    pub fn compute_type(mut self, compute_type: ComputeType) -> Self {
        self.compute_type = compute_type;
        self
    }

    /// Threads; 0 = one per physical core.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// The device that these options name.
    pub(super) fn open_device(&self) -> Result<Device> {
        if self.threads > MAX_THREADS {
            return Err(Error::InvalidOption {
                option: "threads",
                message: format!("{} is outside 0 to {MAX_THREADS}", self.threads),
            });
        }
        match self.device.as_deref().unwrap_or("auto") {
            "auto" | "cpu" => Ok(Device::cpu(CpuOptions {
                threads: self.threads,
                ..CpuOptions::default()
            })),
            other => Err(Error::Compute(turaco_compute::Error::Unsupported {
                what: format!("device `{other}`"),
                reason: "this build has auto and cpu".into(),
            })),
        }
    }
}
