//! From the name of a device to the device.

use turaco_compute::{CpuOptions, Device};
#[cfg(feature = "wgpu")]
use turaco_compute::{GpuOptions, gpu::Interface};

use crate::{Error, Result};

/// The devices that a model runs on.
#[derive(Debug)]
pub(crate) struct Devices {
    /// For the model.
    pub model: Device,
    /// The processor, for networks that are too small for anything else.
    pub processor: Device,
    /// Whether the model's device is a graphics processor.
    pub graphics: bool,
    /// Why the model does not run where it could have, if so.
    pub note: Option<String>,
}

impl Devices {
    /// Only the processor.
    pub fn processor(threads: usize) -> Self {
        let device = Device::cpu(CpuOptions {
            threads,
            ..CpuOptions::default()
        });
        Self {
            model: device.clone(),
            processor: device,
            graphics: false,
            note: None,
        }
    }

    /// The processor instead of what failed with `error`.
    pub fn instead(threads: usize, error: &Error) -> Self {
        Self {
            note: Some(format!("the processor is used: {error}")),
            ..Self::processor(threads)
        }
    }

    /// The devices for a name as `--device` takes it. `auto` is a graphics processor with memory of its own (or
    /// Apple's) where there is one that works, else the processor.
    pub fn open(name: &str, threads: usize) -> Result<Self> {
        match name {
            "cpu" => Ok(Self::processor(threads)),
            "auto" => Ok(Self::best(threads)),
            other => Self::named(other, threads),
        }
    }

    #[cfg(feature = "wgpu")]
    fn best(threads: usize) -> Self {
        // Asking drivers takes longer than short clips do.
        if !any_is_wanted() && !turaco_compute::gpu::is_likely() {
            return Self::processor(threads);
        }
        // One that shares the processor's memory has no more bandwidth than the processor, except Apple's. Nothing is
        // timed: the first run on a device compiles its shaders and says nothing about the others.
        let adapters = turaco_compute::gpu::adapters();
        let any = any_is_wanted();
        let worth_it = adapters
            .iter()
            .position(|adapter| any || adapter.own_memory || adapter.interface == Interface::Metal);
        let Some(index) = worth_it else {
            return Self::processor(threads);
        };
        let options = GpuOptions {
            index: Some(index),
            shader_cache: shader_cache(),
            ..GpuOptions::default()
        };
        match Device::gpu(options) {
            Ok(device) => Self::graphics(device, threads),
            Err(error) => Self::instead(threads, &error.into()),
        }
    }

    #[cfg(not(feature = "wgpu"))]
    fn best(threads: usize) -> Self {
        Self::processor(threads)
    }

    #[cfg(feature = "wgpu")]
    fn named(name: &str, threads: usize) -> Result<Self> {
        let (kind, index) = match name.split_once(':') {
            Some((kind, index)) => (kind, index.parse().ok().map(Some)),
            None => (name, Some(None)),
        };
        let interface = match kind {
            "wgpu" => Some(None),
            "vulkan" => Some(Some(Interface::Vulkan)),
            "metal" => Some(Some(Interface::Metal)),
            "dx12" => Some(Some(Interface::Dx12)),
            _ => None,
        };
        let (Some(interface), Some(index)) = (interface, index) else {
            return unknown(name, "auto, cpu, wgpu, vulkan, metal and dx12");
        };
        let device = Device::gpu(GpuOptions {
            interface,
            index,
            software: true,
            shader_cache: shader_cache(),
            ..GpuOptions::default()
        })?;
        Ok(Self::graphics(device, threads))
    }

    #[cfg(not(feature = "wgpu"))]
    fn named(name: &str, _: usize) -> Result<Self> {
        unknown(name, "auto and cpu")
    }

    #[cfg(feature = "wgpu")]
    fn graphics(device: Device, threads: usize) -> Self {
        Self {
            model: device,
            graphics: true,
            ..Self::processor(threads)
        }
    }
}

/// Whether `TURACO_GPU_AUTO=1` lets `auto` take any graphics processor, also one in the processor or in software.
#[cfg(feature = "wgpu")]
fn any_is_wanted() -> bool {
    std::env::var_os("TURACO_GPU_AUTO").is_some_and(|value| value == "1")
}

/// Where compiled shaders are kept.
#[cfg(feature = "wgpu")]
fn shader_cache() -> Option<std::path::PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let caches = match variable("XDG_CACHE_HOME") {
        Some(folder) => folder.into(),
        None => std::env::home_dir()?.join(".cache"),
    };
    Some(caches.join("turaco"))
}

fn unknown<T>(name: &str, known: &str) -> Result<T> {
    Err(Error::Compute(turaco_compute::Error::Unsupported {
        what: format!("device `{name}`"),
        reason: format!("this build has {known}"),
    }))
}
