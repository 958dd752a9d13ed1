//! Where and how a model runs.

use crate::{Error, Result};

use super::ComputeType;
use super::device_choice::Devices;

/// Where and how a model runs.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LoadOptions {
    /// `auto`, `cpu`, or a graphics processor: `cuda`, `wgpu`, `vulkan`, `metal`, `dx12`, each also with `:N` for the `N`th.
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

    /// `auto`, `cpu`, or a graphics processor: `cuda`, `wgpu`, `vulkan`, `metal`, `dx12`, each also with `:N` for the `N`th.
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

    /// The name of the device.
    pub(crate) fn device_name(&self) -> &str {
        self.device.as_deref().unwrap_or("auto")
    }

    /// Load on the devices that these options name. What `auto` chose may turn out to be too small for the model: the
    /// processor takes its place.
    pub(crate) fn load<T>(&self, load: impl Fn(&Devices) -> Result<T>) -> Result<T> {
        let devices = self.open_devices()?;
        match load(&devices) {
            Err(error @ Error::Compute(_)) if devices.graphics && self.device_name() == "auto" => {
                load(&Devices::instead(self.threads, &error))
            }
            loaded => loaded,
        }
    }

    /// Threads that compute.
    pub(crate) fn n_threads(&self) -> usize {
        match self.threads {
            0 => turaco_compute::cpu::physical_cores(),
            n => n,
        }
    }

    /// The devices that these options name.
    pub(crate) fn open_devices(&self) -> Result<Devices> {
        if self.threads > MAX_THREADS {
            return Err(Error::InvalidOption {
                option: "threads",
                message: format!("{} is outside 0 to {MAX_THREADS}", self.threads),
            });
        }
        Devices::open(self.device_name(), self.threads)
    }
}
