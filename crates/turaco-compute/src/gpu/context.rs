//! An open graphics processor: its memory, its compiled shaders, and what went wrong on it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use super::adapter::{AdapterSummary, CAN_WAIT, Fault, GpuOptions, Opened, open, wait};
use super::arrival::Arrival;
use super::cooperative::{Cooperative, Trials, Verdicts};
use super::shader::{Extras, Layout, MAX_BATCH, Shader};
use super::shader_cache::ShaderCache;
use crate::device::{Activity, WeightType};
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
    /// Group 1 of shaders with a state buffer.
    pub state_layout: wgpu::BindGroupLayout,
    /// Group 1 of shaders for batches of sequences.
    pub sequences_layout: wgpu::BindGroupLayout,
    /// Group 2 of shaders for one cache, and for several.
    cache_layouts: [wgpu::BindGroupLayout; 2],
    /// Most caches that are bound at once, and what is bound where there are fewer.
    pub max_caches: usize,
    unused_caches: Vec<wgpu::Buffer>,
    /// What shaders use beyond the least.
    pub extras: Extras,
    /// Cooperative matrices that the adapter offers, the best first.
    pub matrices: Vec<Cooperative>,
    trials: OnceLock<Trials>,
    verdicts: Option<Verdicts>,
    /// The largest buffer that a shader can see, in bytes.
    pub max_buffer: u64,
    /// The largest for weights.
    pub max_weights: u64,
    kernels: Mutex<HashMap<Shader, Arc<Kernel>>>,
    /// Copies that the next submission begins with.
    copies: Mutex<Vec<BufferCopy>>,
    pub shader_cache: Option<ShaderCache>,
    pub counters: Counters,
    /// Nanoseconds of a tick of the device's clock, if it can be asked.
    pub tick: Option<f32>,
    patience: Duration,
    fault: Option<Fault>,
    /// The first thing that went wrong outside of anybody's call.
    failure: Arc<Mutex<Option<String>>>,
}

/// The answer to a request for a buffer.
pub(super) type Answer = mpsc::Receiver<std::result::Result<(), wgpu::BufferAsyncError>>;

/// What has been done since the device was opened; see [`Activity`].
#[derive(Default)]
pub(super) struct Counters {
    pub submissions: AtomicU64,
    pub dispatches: AtomicU64,
    pub pipelines: AtomicU64,
    /// Of these pipelines, those that left something new in the driver's cache; see [`ShaderCache`].
    pub compiled: AtomicU64,
    pub reads: AtomicU64,
    pub read_bytes: AtomicU64,
    pub allocated: AtomicU64,
    pub device_nanoseconds: AtomicU64,
}

impl Counters {
    pub fn activity(&self) -> Activity {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Activity {
            submissions: read(&self.submissions),
            dispatches: read(&self.dispatches),
            pipelines: read(&self.pipelines),
            readbacks: read(&self.reads),
            read_bytes: read(&self.read_bytes),
            allocated_bytes: read(&self.allocated),
            device_nanoseconds: read(&self.device_nanoseconds),
        }
    }
}

/// Bytes of a buffer that take the place of another's.
pub(super) struct BufferCopy {
    pub from: wgpu::Buffer,
    pub from_byte: u64,
    pub to: wgpu::Buffer,
    pub to_byte: u64,
    pub bytes: u64,
}

/// A compiled shader.
pub(super) struct Kernel {
    pub label: String,
    /// Whether it has come to an end once.
    pub proven: AtomicBool,
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    pub binds: Layout,
}

impl Context {
    pub async fn open(options: &GpuOptions) -> Result<Self> {
        let Opened {
            summary,
            device,
            queue,
            cache_key,
            extras,
            matrices,
        } = open(options).await?;
        let fault = options.fault.or_else(Fault::asked_for);
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
        let tiny = || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("nothing"),
                size: 16,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        };
        let nothing = tiny();
        let one = |ty| {
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &[entry(0, ty)],
            })
        };
        let state_layout = one(storage(false));
        let sequences_layout = one(wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Uniform,
            has_dynamic_offset: true,
            min_binding_size: None,
        });
        let bindings = limits.max_storage_buffers_per_shader_stage as usize;
        let max_caches = if bindings >= OTHER_BINDINGS + MAX_BATCH {
            MAX_BATCH
        } else {
            bindings.saturating_sub(OTHER_BINDINGS).max(1)
        };
        let cache_layouts = [1, max_caches].map(|count| {
            let entries: Vec<_> = (0..count as u32)
                .map(|binding| entry(binding, storage(false)))
                .collect();
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &entries,
            })
        });
        let unused_caches = (0..max_caches).map(|_| tiny()).collect();
        let max_buffer = limits
            .max_buffer_size
            .min(limits.max_storage_buffer_binding_size)
            .min(match fault {
                Some(Fault::Buffers(bytes)) => bytes,
                _ => u64::MAX,
            });
        let patience = match fault {
            Some(Fault::Patience(milliseconds)) => Some(Duration::from_millis(milliseconds)),
            _ => options.patience,
        };
        let kept = options.shader_cache.as_ref().zip(cache_key);
        // What a device does that fails on purpose is not its driver's fault.
        let verdicts = (kept.as_ref().filter(|_| fault.is_none()))
            .map(|(folder, key)| Verdicts::new(folder.join(key), &summary.driver));
        let shader_cache = kept.and_then(|(folder, key)| ShaderCache::open(&device, folder, &key));
        let context = Self {
            shader_cache,
            matrices,
            trials: OnceLock::new(),
            verdicts,
            counters: Counters::default(),
            tick: device
                .features()
                .contains(wgpu::Features::TIMESTAMP_QUERY)
                .then(|| queue.get_timestamp_period()),
            patience: patience.unwrap_or(if summary.software {
                PATIENCE_WITH_SOFTWARE
            } else {
                PATIENCE
            }),
            fault,
            extras,
            max_buffer,
            max_weights: max_buffer.min(options.max_weights_buffer.unwrap_or(u64::MAX)),
            summary,
            nothing,
            state_layout,
            sequences_layout,
            cache_layouts,
            max_caches,
            unused_caches,
            kernels: Mutex::new(HashMap::new()),
            copies: Mutex::default(),
            failure,
            device,
            queue,
        };
        context.check()?;
        Ok(context)
    }

    /// What came of trying the adapter's cooperative matrices, when somebody asks first.
    pub fn trials(&self) -> &Trials {
        let wrong = match self.fault {
            Some(Fault::Matrices(count)) => count as usize,
            _ => 0,
        };
        self.trials
            .get_or_init(|| Trials::make(self, self.verdicts.as_ref(), wrong))
    }

    /// The matrices that products with such weights are made of; `None`: another way.
    pub fn cooperative(&self, weights: WeightType) -> Option<Cooperative> {
        (self.trials().chosen).filter(|kind| kind.takes(weights))
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

    /// Memory that the host writes first.
    pub fn mapped_buffer(
        &self,
        bytes: u64,
        usage: wgpu::BufferUsages,
        what: &str,
    ) -> Result<wgpu::Buffer> {
        self.create(bytes, usage, what, true)
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
            // A failure of the device and not of what was asked of it: another one may do it.
            return Err(self.error(format!(
                "{what} would take {size} bytes, and its largest buffer is {} bytes",
                self.max_buffer
            )));
        }
        let so_far = self.counters.allocated.load(Ordering::Relaxed);
        if matches!(self.fault, Some(Fault::Memory(limit)) if so_far + size > limit) {
            return self.out_of_memory(size, what);
        }
        // Where nobody can wait for the answer, it comes as a failure of the device.
        let memory = CAN_WAIT.then(|| self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory));
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: mapped,
        });
        if memory.is_some_and(|memory| wait(memory.pop()).is_some()) {
            return self.out_of_memory(size, what);
        }
        self.check()?;
        self.counters.allocated.fetch_add(size, Ordering::Relaxed);
        Ok(buffer)
    }

    fn out_of_memory<T>(&self, size: u64, what: &str) -> Result<T> {
        Err(Error::OutOfMemory {
            bytes: size as usize,
            what: format!("{what} on {}", self.summary.name),
        })
    }

    fn cache_layout(&self, count: usize) -> &wgpu::BindGroupLayout {
        &self.cache_layouts[usize::from(count > 1)]
    }

    /// Group 2 for `count` caches, of which these are used.
    pub fn cache_group<'a>(
        &'a self,
        count: usize,
        buffers: impl Iterator<Item = &'a wgpu::Buffer>,
    ) -> wgpu::BindGroup {
        let all = buffers.chain(&self.unused_caches).take(count);
        let entries: Vec<_> = (0..)
            .zip(all)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: self.cache_layout(count),
            entries: &entries,
        })
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
        let filters = [
            wgpu::ErrorFilter::Validation,
            wgpu::ErrorFilter::Internal,
            wgpu::ErrorFilter::OutOfMemory,
        ];
        let filters = if CAN_WAIT { &filters[..] } else { &[] };
        let scopes: Vec<_> = (filters.iter())
            .map(|&filter| self.device.push_error_scope(filter))
            .collect();
        let label = format!("{shader:?}");
        let module = self
            .device
            .create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(&label),
                source: wgpu::ShaderSource::Wgsl(shader.source(self.extras).into()),
            });
        let binds = shader.layout();
        let layout = self.layout(binds);
        let groups = [
            Some(&layout),
            match binds {
                Layout { state: true, .. } => Some(&self.state_layout),
                Layout {
                    sequences: true, ..
                } => Some(&self.sequences_layout),
                _ => None,
            },
            match binds.caches {
                0 => None,
                count => Some(self.cache_layout(count as usize)),
            },
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
        self.counters.pipelines.fetch_add(1, Ordering::Relaxed);
        if let Some(cache) = &self.shader_cache
            && cache.has_grown()
        {
            self.counters.compiled.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Kernel {
            label,
            proven: AtomicBool::new(false),
            pipeline,
            layout,
            binds,
        })
    }

    /// Copy before anything that is submitted from now on: beams that change their parents cost no submission of their own.
    pub fn copy_later(&self, copies: impl Iterator<Item = BufferCopy>) {
        lock(&self.copies).extend(copies);
    }

    /// Do copies from and to a buffer that its owner gives up, so that nobody else keeps it.
    pub fn release<'a>(&self, mut buffers: impl Iterator<Item = &'a wgpu::Buffer>) {
        let mut copies = lock(&self.copies);
        if copies.is_empty() {
            return;
        }
        if self.check().is_err() {
            copies.clear();
        }
        let waits = |buffer: &wgpu::Buffer| {
            let mut copies = copies.iter();
            copies.any(|copy| copy.from == *buffer || copy.to == *buffer)
        };
        let some_wait = buffers.any(waits);
        drop(copies);
        if some_wait {
            self.submit(self.device.create_command_encoder(&Default::default()));
        }
    }

    /// Hand commands to the device, behind the copies that were asked for before.
    pub fn submit(&self, encoder: wgpu::CommandEncoder) {
        let submissions = self.counters.submissions.fetch_add(1, Ordering::Relaxed);
        if self.fault == Some(Fault::Lost(submissions)) {
            self.device.destroy();
            self.fail("it was lost, as was asked for".into());
        }
        // Kept until everything is handed over: what another thread submits meanwhile may rely on its own copies.
        let mut copies = lock(&self.copies);
        if copies.is_empty() {
            drop(copies);
            self.queue.submit([encoder.finish()]);
            return;
        }
        let mut first = self.device.create_command_encoder(&Default::default());
        for copy in copies.drain(..) {
            let (from, to) = (&copy.from, &copy.to);
            first.copy_buffer_to_buffer(from, copy.from_byte, to, copy.to_byte, Some(copy.bytes));
        }
        self.queue.submit([first.finish(), encoder.finish()]);
    }

    fn fail(&self, reason: String) {
        lock(&self.failure).get_or_insert(reason);
    }

    /// An error where a thread must not wait for the device.
    fn may_wait(&self) -> Result<()> {
        if CAN_WAIT {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: "waiting for a graphics processor in a browser".into(),
            reason: "a page must not block; `Step::run_async` and `Step::fetch_async` do not"
                .into(),
        })
    }

    /// Wait until everything that was submitted is done; `what` that is.
    pub fn finish(&self, what: &dyn Fn() -> String) -> Result<()> {
        self.may_wait()?;
        let polled = self.device.poll(wgpu::PollType::Wait {
            submission_index: None,
            timeout: Some(self.patience),
        });
        self.check()?;
        match polled {
            Ok(_) => Ok(()),
            Err(wgpu::PollError::Timeout) => {
                let seconds = self.patience.as_secs_f64();
                self.fail(format!("{} did not end within {seconds} s", what()));
                // Whoever drops the last handle waits for the device, which would be for ever.
                std::mem::forget((self.device.clone(), self.queue.clone()));
                self.check()
            }
            Err(error) => Err(self.error(error.to_string())),
        }
    }

    /// Wait for the answer to a request, which comes when the device has done what was submitted before.
    pub fn wait_for(&self, answer: &Answer, otherwise: &str) -> Result<()> {
        if let Ok(answer) = answer.try_recv() {
            return answer.map_err(|_| self.error(otherwise));
        }
        self.finish(&|| "what was asked of it before".into())?;
        self.arrived(answer, otherwise)
    }

    fn arrived(&self, answer: &Answer, otherwise: &str) -> Result<()> {
        // Another thread that waits for the device may be the one that brings the news.
        match answer.recv_timeout(self.patience) {
            Ok(Ok(())) => Ok(()),
            _ => Err(self.error(otherwise)),
        }
    }

    /// Read bytes of any buffer, from byte `from` on.
    pub fn fetch(&self, buffer: &wgpu::Buffer, from: u64, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return self.check();
        }
        let staging = self.copy_out(buffer, from, bytes.len() as u64)?;
        self.read(&staging, bytes, &|| "a copy".into())
    }

    /// As [`fetch`](Self::fetch), in a browser too.
    pub async fn fetch_async(
        &self,
        buffer: &wgpu::Buffer,
        from: u64,
        bytes: &mut [u8],
    ) -> Result<()> {
        let staging = self.copy_out(buffer, from, bytes.len() as u64)?;
        self.read_async(&staging, bytes, &|| "a copy".into()).await
    }

    /// A copy of some bytes, that the host can read when it is done.
    fn copy_out(&self, buffer: &wgpu::Buffer, from: u64, len: u64) -> Result<wgpu::Buffer> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.buffer(len, usage, "a copy of a result")?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, from, &staging, 0, Some(len));
        self.submit(encoder);
        Ok(staging)
    }

    /// Read the first `bytes.len()` bytes of a buffer that was made for reading.
    /// `what` has to be done before.
    pub fn read(
        &self,
        buffer: &wgpu::Buffer,
        bytes: &mut [u8],
        what: &dyn Fn() -> String,
    ) -> Result<()> {
        if bytes.is_empty() {
            return self.finish(what);
        }
        self.may_wait()?;
        let len = self.count_read(bytes);
        let (sender, receiver) = mpsc::sync_channel(1);
        buffer.map_async(wgpu::MapMode::Read, ..len, move |result| {
            // Nobody listens any more if the wait was given up.
            let _ = sender.send(result);
        });
        self.finish(what)?;
        self.arrived(&receiver, "its results cannot be read")?;
        self.copy_mapped(buffer, bytes)
    }

    /// As [`read`](Self::read), in a browser too.
    pub async fn read_async(
        &self,
        buffer: &wgpu::Buffer,
        bytes: &mut [u8],
        what: &dyn Fn() -> String,
    ) -> Result<()> {
        if bytes.is_empty() {
            return self.check();
        }
        let len = self.count_read(bytes);
        let arrival = Arrival::default();
        let settled = arrival.clone();
        buffer.map_async(wgpu::MapMode::Read, ..len, move |result| {
            settled.settle(result);
        });
        // Elsewhere, nothing happens until the device is asked.
        if CAN_WAIT {
            self.finish(what)?;
        }
        let arrived = arrival.await;
        self.check()?;
        arrived.map_err(|_| self.error("its results cannot be read"))?;
        self.copy_mapped(buffer, bytes)
    }

    fn count_read(&self, bytes: &[u8]) -> u64 {
        let len = bytes.len() as u64;
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        self.counters.read_bytes.fetch_add(len, Ordering::Relaxed);
        len
    }

    /// Copy what is mapped, and give it back.
    fn copy_mapped(&self, buffer: &wgpu::Buffer, bytes: &mut [u8]) -> Result<()> {
        let len = bytes.len() as u64;
        let range = buffer
            .get_mapped_range(..len)
            .map_err(|error| self.error(format!("its results cannot be read: {error}")))?;
        bytes.copy_from_slice(&range);
        drop(range);
        buffer.unmap();
        Ok(())
    }
}

/// Storage buffers that shaders for caches bind beside them.
const OTHER_BINDINGS: usize = 5;

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
