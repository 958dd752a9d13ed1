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

    /// A card of NVIDIA's, else a graphics processor that is worth it, else the processor.
    fn best(threads: usize) -> Self {
        #[cfg(feature = "cuda")]
        let failed = match Self::best_card(threads) {
            Some(Ok(devices)) => return devices,
            Some(Err(error)) => Some(error),
            None => None,
        };
        #[cfg(not(feature = "cuda"))]
        let failed: Option<Error> = None;
        #[cfg(feature = "wgpu")]
        let found = Self::best_processor(threads);
        #[cfg(not(feature = "wgpu"))]
        let found = Self::processor(threads);
        match failed {
            Some(error) if found.note.is_none() => Self {
                note: Some(format!("{} is used: {error}", found.model.description())),
                ..found
            },
            _ => found,
        }
    }

    /// NVIDIA's first card, if there is one.
    #[cfg(feature = "cuda")]
    fn best_card(threads: usize) -> Option<Result<Self>> {
        if !any_is_wanted() && !turaco_compute::cuda::is_likely() {
            return None;
        }
        turaco_compute::cuda::cards().first()?;
        let opened = Device::cuda(&cuda_options(None));
        Some(
            opened
                .map(|device| Self::graphics(device, threads))
                .map_err(Error::from),
        )
    }

    #[cfg(feature = "wgpu")]
    fn best_processor(threads: usize) -> Self {
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
            shader_cache: kernel_cache(),
            ..GpuOptions::default()
        };
        match Device::gpu(options) {
            Ok(device) => Self::graphics(device, threads),
            Err(error) => Self::instead(threads, &error.into()),
        }
    }

    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    fn named(name: &str, threads: usize) -> Result<Self> {
        let (kind, index) = match name.split_once(':') {
            Some((kind, index)) => (kind, index.parse().ok().map(Some)),
            None => (name, Some(None)),
        };
        let Some(index) = index else {
            return unknown(name);
        };
        let device = match kind {
            #[cfg(feature = "cuda")]
            "cuda" => Device::cuda(&cuda_options(index))?,
            #[cfg(feature = "wgpu")]
            "wgpu" => graphics_processor(None, index)?,
            #[cfg(feature = "wgpu")]
            "vulkan" => graphics_processor(Some(Interface::Vulkan), index)?,
            #[cfg(feature = "wgpu")]
            "metal" => graphics_processor(Some(Interface::Metal), index)?,
            #[cfg(feature = "wgpu")]
            "dx12" => graphics_processor(Some(Interface::Dx12), index)?,
            _ => return unknown(name),
        };
        Ok(Self::graphics(device, threads))
    }

    #[cfg(not(any(feature = "cuda", feature = "wgpu")))]
    fn named(name: &str, _threads: usize) -> Result<Self> {
        unknown(name)
    }

    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    fn graphics(device: Device, threads: usize) -> Self {
        Self {
            model: device,
            graphics: true,
            ..Self::processor(threads)
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda_options(index: Option<usize>) -> turaco_compute::CudaOptions {
    turaco_compute::CudaOptions {
        index,
        kernel_cache: kernel_cache(),
        ..turaco_compute::CudaOptions::default()
    }
}

#[cfg(feature = "wgpu")]
fn graphics_processor(interface: Option<Interface>, index: Option<usize>) -> Result<Device> {
    Ok(Device::gpu(GpuOptions {
        interface,
        index,
        software: true,
        shader_cache: kernel_cache(),
        ..GpuOptions::default()
    })?)
}

/// Whether `TURACO_GPU_AUTO=1` lets `auto` take any graphics processor, also one in the processor or in software.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn any_is_wanted() -> bool {
    std::env::var_os("TURACO_GPU_AUTO").is_some_and(|value| value == "1")
}

/// Where compiled shaders and kernels are kept.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) fn kernel_cache() -> Option<std::path::PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let caches = match variable("XDG_CACHE_HOME") {
        Some(folder) => folder.into(),
        None => std::env::home_dir()?.join(".cache"),
    };
    Some(caches.join("turaco"))
}

/// The names of devices that this build knows.
const NAMES: &str = if cfg!(all(feature = "cuda", feature = "wgpu")) {
    "auto, cpu, cuda, wgpu, vulkan, metal and dx12"
} else if cfg!(feature = "wgpu") {
    "auto, cpu, wgpu, vulkan, metal and dx12"
} else if cfg!(feature = "cuda") {
    "auto, cpu and cuda"
} else {
    "auto and cpu"
};

fn unknown<T>(name: &str) -> Result<T> {
    Err(Error::Compute(turaco_compute::Error::Unsupported {
        what: format!("device `{name}`"),
        reason: format!("this build has {NAMES}"),
    }))
}
