//! An open graphics processor: its memory, its compiled shaders, and what went wrong on it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use super::adapter::{AdapterSummary, GpuOptions, Opened, open, wait};
use super::shader::{Layout, Shader};
use super::shader_cache::ShaderCache;
use crate::error::{Error, Result};

/// A run that takes longer than this will not end; where the processor does all the work, it may.
const PATIENCE: Duration = Duration::from_secs(120);
const PATIENCE_WITH_SOFTWARE: Duration = Duration::from_secs(3600);

/// Workgroups that fit one dimension of a grid.
const GRID_WIDTH: u32 = 65_535;

/// An open graphics processor.
pub(super) struct Context {
    pub summary: AdapterSummary,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    /// Bound where a shader finds nothing to read.
    pub nothing: wgpu::Buffer,
    /// Group 1 of shaders with a state.
    pub state_layout: wgpu::BindGroupLayout,
    /// Group 2 of shaders for one sequence.
    pub sequence_layout: wgpu::BindGroupLayout,
    /// The largest buffer that a shader can see, in bytes.
    max_buffer: u64,
    /// The largest for weights.
    pub max_weights: u64,
    kernels: Mutex<HashMap<Shader, Arc<Kernel>>>,
    shader_cache: Option<ShaderCache>,
    /// How often something was submitted, and read.
    pub submissions: AtomicU64,
    pub reads: AtomicU64,
    /// The first thing that went wrong outside of anybody's call.
    failure: Arc<Mutex<Option<String>>>,
}

/// A compiled shader.
pub(super) struct Kernel {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    pub binds: Layout,
}

impl Context {
    pub fn open(options: &GpuOptions) -> Result<Self> {
        let Opened {
            summary,
            device,
            queue,
            cache_key,
        } = open(options)?;
        let failure = Arc::new(Mutex::new(None));
        let note = |failure: &Arc<Mutex<Option<String>>>| {
            let failure = Arc::clone(failure);
            move |message: String| {
                lock(&failure).get_or_insert(message);
            }
        };
        let uncaptured = note(&failure);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            uncaptured(described(&error));
        }));
        let lost = note(&failure);
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                lost(format!("it was lost: {message}"));
            }
        });
        let limits = device.limits();
        let nothing = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("nothing"),
            size: 16,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        let one = |ty| {
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &[entry(0, ty)],
            })
        };
        let state_layout = one(storage(false));
        let sequence_layout = one(wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Uniform,
            has_dynamic_offset: true,
            min_binding_size: None,
        });
        let max_buffer = limits
            .max_buffer_size
            .min(limits.max_storage_buffer_binding_size);
        let shader_cache = match (&options.shader_cache, cache_key) {
            (Some(folder), Some(key)) => ShaderCache::open(&device, folder, &key),
            _ => None,
        };
        let context = Self {
            shader_cache,
            submissions: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            max_buffer,
            max_weights: max_buffer.min(options.max_weights_buffer.unwrap_or(u64::MAX)),
            summary,
            nothing,
            state_layout,
            sequence_layout,
            kernels: Mutex::new(HashMap::new()),
            failure,
            device,
            queue,
        };
        context.check()?;
        Ok(context)
    }

    /// A failure of this device.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        Error::Device {
            device: format!("{} ({})", self.summary.interface.name(), self.summary.name),
            reason: reason.into(),
        }
    }

    /// An error if something went wrong since the device was opened: nothing it says can be trusted then.
    pub fn check(&self) -> Result<()> {
        match &*lock(&self.failure) {
            None => Ok(()),
            Some(reason) => Err(self.error(reason.clone())),
        }
    }

    /// Memory for `bytes` bytes (at least 16), zeroed; `what` it is for.
    pub fn buffer(
        &self,
        bytes: u64,
        usage: wgpu::BufferUsages,
        what: &str,
    ) -> Result<wgpu::Buffer> {
        self.create(bytes, usage, what, false)
    }

    /// Memory with the given parts, one after the other.
    pub fn buffer_of<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
        usage: wgpu::BufferUsages,
        what: &str,
    ) -> Result<wgpu::Buffer> {
        let bytes = parts.clone().map(|part| part.len() as u64).sum();
        let buffer = self.create(bytes, usage, what, true)?;
        let mut range = buffer
            .get_mapped_range_mut(..)
            .map_err(|error| self.error(format!("{what} cannot be written: {error}")))?;
        let mut at = 0;
        for part in parts {
            range.slice(at..at + part.len()).copy_from_slice(part);
            at += part.len();
        }
        drop(range);
        buffer.unmap();
        Ok(buffer)
    }

    fn create(
        &self,
        bytes: u64,
        usage: wgpu::BufferUsages,
        what: &str,
        mapped: bool,
    ) -> Result<wgpu::Buffer> {
        let size = bytes.max(16).next_multiple_of(16);
        if size > self.max_buffer {
            return Err(Error::Unsupported {
                what: format!("{what} of {size} bytes on {}", self.summary.name),
                reason: format!("its largest buffer is {} bytes", self.max_buffer),
            });
        }
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: mapped,
        });
        if wait(memory.pop()).is_some() {
            return Err(Error::OutOfMemory {
                bytes: size as usize,
                what: format!("{what} on {}", self.summary.name),
            });
        }
        self.check()?;
        Ok(buffer)
    }

    /// The layout of group 0.
    pub fn layout(&self, binds: Layout) -> wgpu::BindGroupLayout {
        let uniform = wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Uniform,
            has_dynamic_offset: false,
            min_binding_size: None,
        };
        let mut entries = vec![entry(0, uniform)];
        entries.extend(binds.reads.iter().map(|&at| entry(at, storage(true))));
        entries.extend(binds.writes.iter().map(|&at| entry(at, storage(false))));
        self.device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &entries,
            })
    }

    /// A shader, compiled when it is first asked for.
    pub fn kernel(&self, shader: Shader) -> Result<Arc<Kernel>> {
        let mut kernels = lock(&self.kernels);
        if let Some(kernel) = kernels.get(&shader) {
            return Ok(Arc::clone(kernel));
        }
        let kernel = Arc::new(self.compile(shader)?);
        kernels.insert(shader, Arc::clone(&kernel));
        Ok(kernel)
    }

    fn compile(&self, shader: Shader) -> Result<Kernel> {
        let scopes = [
            wgpu::ErrorFilter::Validation,
            wgpu::ErrorFilter::Internal,
            wgpu::ErrorFilter::OutOfMemory,
        ]
        .map(|filter| self.device.push_error_scope(filter));
        let label = format!("{shader:?}");
        let module = self
            .device
            .create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(&label),
                source: wgpu::ShaderSource::Wgsl(shader.source().into()),
            });
        let binds = shader.layout();
        let layout = self.layout(binds);
        let groups = [
            Some(&layout),
            binds.state.then_some(&self.state_layout),
            binds.sequence.then_some(&self.sequence_layout),
        ];
        let used = groups.iter().filter(|group| group.is_some()).count();
        let pipeline_layout = self
            .device
            .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(&label),
                bind_group_layouts: &groups[..used],
                immediate_size: 0,
            });
        let pipeline = self
            .device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&label),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    // Every shader writes its workgroup memory before it reads it.
                    zero_initialize_workgroup_memory: false,
                    ..wgpu::PipelineCompilationOptions::default()
                },
                cache: self.shader_cache.as_ref().map(ShaderCache::pipelines),
            });
        let errors = scopes.into_iter().rev().map(|scope| wait(scope.pop()));
        if let Some(error) = errors.collect::<Vec<_>>().into_iter().flatten().next() {
            return Err(self.error(format!("shader {label}: {}", described(&error))));
        }
        Ok(Kernel {
            pipeline,
            layout,
            binds,
        })
    }

    /// Hand commands to the device.
    pub fn submit(&self, encoder: wgpu::CommandEncoder) {
        self.submissions.fetch_add(1, Ordering::Relaxed);
        self.queue.submit([encoder.finish()]);
    }

    fn patience(&self) -> Duration {
        if self.summary.software {
            PATIENCE_WITH_SOFTWARE
        } else {
            PATIENCE
        }
    }

    /// Wait until everything that was submitted is done.
    pub fn finish(&self) -> Result<()> {
        let polled = self.device.poll(wgpu::PollType::Wait {
            submission_index: None,
            timeout: Some(self.patience()),
        });
        self.check()?;
        match polled {
            Ok(_) => Ok(()),
            Err(wgpu::PollError::Timeout) => {
                Err(self.error(format!("it did not finish within {} s", PATIENCE.as_secs())))
            }
            Err(error) => Err(self.error(error.to_string())),
        }
    }

    /// Read the first `bytes.len()` bytes of a buffer that was made for reading.
    pub fn read(&self, buffer: &wgpu::Buffer, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return self.finish();
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        let len = bytes.len() as u64;
        let (sender, receiver) = mpsc::sync_channel(1);
        buffer.map_async(wgpu::MapMode::Read, ..len, move |result| {
            // Nobody listens any more if the wait was given up.
            let _ = sender.send(result);
        });
        self.finish()?;
        // Another thread that waits for the device may be the one that brings the news.
        if !matches!(receiver.recv_timeout(self.patience()), Ok(Ok(()))) {
            return Err(self.error("its results cannot be read"));
        }
        let range = buffer
            .get_mapped_range(..len)
            .map_err(|error| self.error(format!("its results cannot be read: {error}")))?;
        bytes.copy_from_slice(&range);
        drop(range);
        buffer.unmap();
        Ok(())
    }
}

/// A number of workgroups as the two dimensions of a grid.
pub(super) fn grid(workgroups: usize) -> [u32; 2] {
    let count = u32::try_from(workgroups).unwrap_or(u32::MAX);
    if count <= GRID_WIDTH {
        [count, 1]
    } else {
        [GRID_WIDTH, count.div_ceil(GRID_WIDTH)]
    }
}

/// A lock whose holder never leaves things half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn described(error: &wgpu::Error) -> String {
    match error {
        wgpu::Error::OutOfMemory { .. } => "it is out of memory".to_owned(),
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            description.clone()
        }
    }
}

fn entry(binding: u32, ty: wgpu::BindingType) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty,
        count: None,
    }
}

fn storage(read_only: bool) -> wgpu::BindingType {
    wgpu::BindingType::Buffer {
        ty: wgpu::BufferBindingType::Storage { read_only },
        has_dynamic_offset: false,
        min_binding_size: None,
    }
}
