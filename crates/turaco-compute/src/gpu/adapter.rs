//! Graphics processors of this machine, and opening one.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;

use super::cooperative::Cooperative;
use super::shader::Extras;
use crate::error::{Error, Result};

/// How long drivers may take to say what there is, and to open it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which graphics processor to use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GpuOptions {
    /// Through which interface; `None` = any.
    pub interface: Option<Interface>,
    /// Which of the processors that this interface shows, in the order of [`adapters`]; `None` = the fastest kind.
    pub index: Option<usize>,
    /// Whether a processor that is only imitated in software will do. One that is asked for by its number always does.
    pub software: bool,
    /// Largest buffer to keep weights in, in bytes; `None` = the largest that the processor can see. What is larger is split.
    pub max_weights_buffer: Option<u64>,
    /// A folder that keeps compiled shaders from one start to the next, for drivers that do not do it themselves.
    pub shader_cache: Option<PathBuf>,
    /// Use nothing but what every processor has, as `TURACO_GPU_PLAIN=1` in the environment asks for too;
    /// `TURACO_GPU_PLAIN=matrices` there only forbids cooperative matrices.
    pub plain: bool,
    /// How long to wait for a run before it is given up; `None` = two minutes, an hour in software.
    pub patience: Option<Duration>,
    /// A failure to show, to test what follows from it; `None` = what `TURACO_GPU_FAULT` says: `lost:N`, `memory:N`,
    /// `buffers:N`, `patience:N`, `matrices:N`.
    pub fault: Option<Fault>,
}

/// A failure that a device shows on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is lost at this submission, counted from 0.
    Lost(u64),
    /// It has no memory beyond this many bytes, whether they were given back or not.
    Memory(u64),
    /// Its kernels see no buffer of more bytes.
    Buffers(u64),
    /// It is given up when a run takes more milliseconds.
    Patience(u64),
    /// So many kinds of its cooperative matrices give wrong products when they are tried.
    Matrices(u64),
}

impl Fault {
    /// What the environment asks for.
    pub(super) fn asked_for() -> Option<Self> {
        let text = std::env::var("TURACO_GPU_FAULT").ok()?;
        let (kind, count) = text.split_once(':')?;
        let count = count.parse().ok()?;
        match kind {
            "lost" => Some(Self::Lost(count)),
            "memory" => Some(Self::Memory(count)),
            "buffers" => Some(Self::Buffers(count)),
            "patience" => Some(Self::Patience(count)),
            "matrices" => Some(Self::Matrices(count)),
            _ => None,
        }
    }
}

/// How a graphics processor is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// Linux, Windows, Android.
    Vulkan,
    /// macOS and iOS.
    Metal,
    /// Windows.
    Dx12,
    /// Browsers.
    WebGpu,
}

impl Interface {
    /// The short name that options and tables use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Dx12 => "dx12",
            Self::WebGpu => "webgpu",
        }
    }

    fn of(backend: wgpu::Backend) -> Option<Self> {
        match backend {
            wgpu::Backend::Vulkan => Some(Self::Vulkan),
            wgpu::Backend::Metal => Some(Self::Metal),
            wgpu::Backend::Dx12 => Some(Self::Dx12),
            wgpu::Backend::BrowserWebGpu => Some(Self::WebGpu),
            _ => None,
        }
    }
}

/// A graphics processor, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterSummary {
    /// Its name.
    pub name: String,
    /// How it is spoken to.
    pub interface: Interface,
    /// The driver and its version.
    pub driver: String,
    /// Whether it is only imitated in software.
    pub software: bool,
    /// Whether it has memory of its own, beside the processor's.
    pub own_memory: bool,
    /// Largest buffer that a kernel can see, in bytes.
    pub max_binding: u64,
    /// What it can do beyond the least, of what matters here.
    pub features: Vec<&'static str>,
}

/// Whether the system shows traces of a graphics processor; false where looking for one is a waste of time.
pub fn is_likely() -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let rendering = std::fs::read_dir("/dev/dri").is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("renderD"))
        })
    });
    // NVIDIA's driver, and Windows' in its Linux subsystem.
    let others = ["/dev/nvidiactl", "/dev/dxg"].map(std::path::Path::new);
    rendering || others.iter().any(|path| path.exists())
}

/// The graphics processors of this machine, those that computing is fastest on first. None in a browser, which has to be
/// asked with [`adapters_async`].
pub fn adapters() -> Vec<AdapterSummary> {
    if CAN_WAIT {
        // A driver that hangs shows nothing.
        answered(|| wait(adapters_async())).unwrap_or_default()
    } else {
        Vec::new()
    }
}

/// As [`adapters`], in a browser too: the one that the browser offers to its pages.
pub async fn adapters_async() -> Vec<AdapterSummary> {
    let found = found(None).await;
    found.fit.iter().filter_map(summary).collect()
}

fn summary(adapter: &wgpu::Adapter) -> Option<AdapterSummary> {
    let info = adapter.get_info();
    let features = adapter.features();
    let known = [
        (wgpu::Features::SHADER_F16, "f16"),
        (wgpu::Features::SUBGROUP, "subgroups"),
        (wgpu::Features::TIMESTAMP_QUERY, "timestamps"),
        (wgpu::Features::PIPELINE_CACHE, "pipeline cache"),
        (
            wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
            "cooperative matrices",
        ),
    ];
    Some(AdapterSummary {
        name: info.name,
        interface: Interface::of(info.backend)?,
        driver: format!("{} {}", info.driver, info.driver_info)
            .trim()
            .to_owned(),
        software: info.device_type == wgpu::DeviceType::Cpu,
        own_memory: info.device_type == wgpu::DeviceType::DiscreteGpu,
        max_binding: adapter.limits().max_storage_buffer_binding_size,
        features: known
            .into_iter()
            .filter_map(|(feature, name)| features.contains(feature).then_some(name))
            .collect(),
    })
}

/// What there is.
struct Found {
    /// Adapters that can compute, the fastest kinds first.
    fit: Vec<wgpu::Adapter>,
    /// The names of the others.
    unfit: Vec<String>,
}

async fn found(interface: Option<Interface>) -> Found {
    let backends = match interface {
        None => {
            wgpu::Backends::VULKAN
                | wgpu::Backends::METAL
                | wgpu::Backends::DX12
                | wgpu::Backends::BROWSER_WEBGPU
        }
        Some(Interface::Vulkan) => wgpu::Backends::VULKAN,
        Some(Interface::Metal) => wgpu::Backends::METAL,
        Some(Interface::Dx12) => wgpu::Backends::DX12,
        Some(Interface::WebGpu) => wgpu::Backends::BROWSER_WEBGPU,
    };
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    // Validation layers are for people who write drivers and shaders; they cost time.
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor);
    let adapters = instance.enumerate_adapters(backends).await;
    let (mut fit, unfit): (Vec<_>, Vec<_>) = adapters
        .into_iter()
        .partition(|adapter| can_compute(&adapter.get_downlevel_capabilities()));
    fit.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    Found {
        fit,
        unfit: unfit
            .iter()
            .map(|adapter| adapter.get_info().name)
            .collect(),
    }
}

/// Whether an adapter runs what the shaders need at least.
fn can_compute(capabilities: &wgpu::DownlevelCapabilities) -> bool {
    let needed = wgpu::DownlevelFlags::COMPUTE_SHADERS | wgpu::DownlevelFlags::SHADER_F16_IN_F32;
    capabilities.flags.contains(needed)
}

/// Why there is none of those that were asked for.
fn nothing_found(unfit: &[String], only_software: bool) -> String {
    if only_software {
        "only one that is imitated in software was found".to_owned()
    } else if unfit.is_empty() {
        "no graphics processor (or no driver of one) was found".to_owned()
    } else {
        format!("{} cannot run compute shaders", unfit.join(", "))
    }
}

/// An open processor.
pub(super) struct Opened {
    pub summary: AdapterSummary,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    /// What compiled shaders are good for; `None` if the driver keeps them.
    pub cache_key: Option<String>,
    pub extras: Extras,
    /// Cooperative matrices to be tried, the best first.
    pub matrices: Vec<Cooperative>,
}

/// How a user names what the options ask for.
pub(super) fn asked_for(options: &GpuOptions) -> String {
    let interface = options.interface.map_or("wgpu", Interface::name);
    match options.index {
        Some(index) => format!("{interface}:{index}"),
        None => interface.to_owned(),
    }
}

/// What drivers answer, asked on a thread of its own: one that is broken may never do it. `None` after a minute.
pub(super) fn answered<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    answered_within(PATIENCE, ask)
}

fn answered_within<T: Send + 'static>(
    patience: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let asking = std::thread::Builder::new().name("turaco-driver".into());
    // The thread of a driver that hangs ends with the program.
    asking
        .spawn(move || drop(sender.send(ask())))
        .ok()
        .and_then(|_| receiver.recv_timeout(patience).ok())
}

/// Open the processor that the options ask for.
pub(super) async fn open(options: &GpuOptions) -> Result<Opened> {
    let unavailable = |reason: String| Error::Device {
        device: asked_for(options),
        reason,
    };
    let Found { fit, unfit } = found(options.interface).await;
    let count = fit.len();
    let is_real = |adapter: &wgpu::Adapter| {
        options.software || adapter.get_info().device_type != wgpu::DeviceType::Cpu
    };
    let adapter = match options.index {
        Some(index) => fit.into_iter().nth(index).ok_or_else(|| {
            unavailable(format!(
                "there is no such graphics processor ({count} found)"
            ))
        })?,
        None => fit
            .into_iter()
            .find(is_real)
            .ok_or_else(|| unavailable(nothing_found(&unfit, count > 0)))?,
    };
    let summary =
        summary(&adapter).ok_or_else(|| unavailable("its interface is not known".into()))?;
    let offered = adapter.features();
    let plain = if options.plain {
        Plain::All
    } else {
        Plain::asked_for()
    };
    let extras = if plain == Plain::All {
        Extras::default()
    } else {
        Extras {
            // Browsers want them announced in the text of a shader, in a way that no other system takes.
            subgroups: CAN_WAIT && offered.contains(wgpu::Features::SUBGROUP),
            half: offered.contains(wgpu::Features::SHADER_F16),
        }
    };
    let matrices = match plain {
        Plain::No => Cooperative::offered(&adapter, extras),
        _ => Vec::new(),
    };
    let mut optional = wgpu::Features::PIPELINE_CACHE;
    // Recorded runs wait for the device.
    let clock = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS;
    optional.set(clock, CAN_WAIT);
    optional.set(wgpu::Features::SUBGROUP, extras.subgroups);
    optional.set(wgpu::Features::SHADER_F16, extras.half);
    let experimental = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    optional.set(experimental, !matrices.is_empty());
    let experimental_features = if matrices.is_empty() {
        wgpu::ExperimentalFeatures::disabled()
    } else {
        // SAFETY: of wgpu's unfinished features only cooperative matrices are asked for. They appear in one shader, which
        // keeps to places within its workgroup memory, and is tried before it is used.
        unsafe { wgpu::ExperimentalFeatures::enabled() }
    };
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("turaco"),
        required_features: offered & optional,
        required_limits: adapter.limits(),
        experimental_features,
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = adapter
        .request_device(&descriptor)
        .await
        .map_err(|error| unavailable(format!("it cannot be opened: {error}")))?;
    Ok(Opened {
        summary,
        device,
        queue,
        extras,
        matrices,
        cache_key: wgpu::util::pipeline_cache_key(&adapter.get_info()),
    })
}

/// What the environment forbids, to see whether a driver has trouble with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plain {
    /// Nothing.
    No,
    /// Cooperative matrices.
    Matrices,
    /// These, subgroups and numbers of 16 bits.
    All,
}

impl Plain {
    fn asked_for() -> Self {
        match std::env::var_os("TURACO_GPU_PLAIN") {
            None => Self::No,
            Some(value) if value.is_empty() || value == "0" => Self::No,
            Some(value) if value == "matrices" => Self::Matrices,
            Some(_) => Self::All,
        }
    }
}

/// Whether a thread may wait for the device. A page in a browser may not: there, nothing happens until it gives the thread
/// back.
pub(super) const CAN_WAIT: bool = !cfg!(target_family = "wasm");

/// Wait for a future of wgpu. On systems with threads they are ready when they are made.
pub(super) fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut task = Task::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut task) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_that_do_not_answer_are_given_up() {
        assert_eq!(answered(|| 7), Some(7));
        let hanging = || std::thread::sleep(Duration::from_secs(3600));
        assert_eq!(answered_within(Duration::from_millis(20), hanging), None);
    }

    #[test]
    fn adapters_without_compute_shaders_are_named() {
        let mut capabilities = wgpu::DownlevelCapabilities::default();
        assert!(can_compute(&capabilities));
        capabilities.flags -= wgpu::DownlevelFlags::COMPUTE_SHADERS;
        assert!(!can_compute(&capabilities));
        let reason = nothing_found(&["Old Card".into()], false);
        assert_eq!(reason, "Old Card cannot run compute shaders");
        assert!(nothing_found(&[], false).contains("no graphics processor"));
        assert!(nothing_found(&[], true).contains("in software"));
    }
}
