//! Devices, and what they keep: weights and states.
//!
//! A [`Device`] is a handle that models receive; which hardware is behind it they cannot ask. Weights are opaque and
//! packed by the device; states ([`KvCache`], [`StateBuffer`]) are opaque too and live as long as their owner likes.

use std::any::Any;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Graph, Work};
use crate::step::Bindings;
use crate::storage::Bytes;

/// How a device stores the weight matrices of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightType {
    /// Single precision; exact.
    F32,
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Signed bytes with one scale per output row; activations are quantised per row where that is faster.
    Int8,
    /// Signed bytes with one scale per 32 inputs of a row; activations are quantised alike.
    Q8,
    /// Four bits with one scale and one minimum per 32 inputs of a row; activations are quantised to bytes.
    Q4,
}

impl WeightType {
    /// All types, the most exact first.
    pub const ALL: [Self; 6] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Int8,
        Self::Q8,
        Self::Q4,
    ];

    /// The short name that options and tables use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }
}

/// A row-major matrix `[rows, cols]` on the host, in any stored format.
#[derive(Debug, Clone, Copy)]
pub struct HostMatrix<'a> {
    /// Number format of `bytes`.
    pub dtype: DType,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// The numbers, row after row, no padding.
    pub bytes: &'a [u8],
    /// One factor per row for integer types: value = q * scale.
    pub row_scales: Option<&'a [f32]>,
    /// The storage of `bytes`, for devices that can keep it instead of a copy.
    pub storage: Option<&'a Bytes>,
}

/// A weight matrix on a device; made by [`Device::matrix`].
pub struct Matrix {
    rows: usize,
    cols: usize,
    weight_type: WeightType,
    bytes: usize,
    storage: Box<dyn Any + Send + Sync>,
}

impl Matrix {
    pub(crate) fn new(
        (rows, cols): (usize, usize),
        weight_type: WeightType,
        bytes: usize,
        storage: Box<dyn Any + Send + Sync>,
    ) -> Self {
        Self {
            rows,
            cols,
            weight_type,
            bytes,
            storage,
        }
    }

    /// How the numbers are stored.
    pub fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// Bytes that a product with the whole matrix reads.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Outputs (or entries of an embedding table).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs (or width of an embedding table).
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn storage<T: 'static>(&self) -> Result<&T> {
        self.storage.downcast_ref().ok_or_else(wrong_device)
    }
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matrix[{}, {}]", self.rows, self.cols)
    }
}

/// A short f32 vector on a device (bias, norm gain); made by [`Device::vector`].
pub struct Vector {
    len: usize,
    storage: Box<dyn Any + Send + Sync>,
}

impl Vector {
    pub(crate) fn new(len: usize, storage: Box<dyn Any + Send + Sync>) -> Self {
        Self { len, storage }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn storage<T: 'static>(&self) -> Result<&T> {
        self.storage.downcast_ref().ok_or_else(wrong_device)
    }
}

impl std::fmt::Debug for Vector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vector[{}]", self.len)
    }
}

/// Sizes of a [`KvCache`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers.
    pub n_layers: usize,
    /// Positions that fit.
    pub capacity: usize,
    /// Columns of a key (and of a value): `n_kv_heads * head_dim`.
    pub kv_dim: usize,
    /// Columns of one head. In a cache of bytes they share a scale at each position.
    pub head_dim: usize,
    /// `F32`, `F16`, `Bf16` or `I8`; a device without caches of bytes keeps `F16` instead.
    pub dtype: DType,
}

/// Keys and values of one sequence, for every layer.
///
/// An ordinary cache is full when [`CacheShape::capacity`] positions were appended. A ring (see
/// [`Device::ring_cache`]) never is: new positions take the place of the oldest, and its length keeps counting.
pub struct KvCache {
    shape: CacheShape,
    len: usize,
    /// The oldest position that a ring still holds.
    first: usize,
    ring: bool,
    storage: Box<dyn Any + Send + Sync>,
}

impl KvCache {
    pub(crate) fn new(shape: CacheShape, storage: Box<dyn Any + Send + Sync>) -> Self {
        Self {
            shape,
            len: 0,
            first: 0,
            ring: false,
            storage,
        }
    }

    /// Positions that were appended and not truncated again; a ring holds the last of them.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether new positions take the place of the oldest.
    pub fn is_ring(&self) -> bool {
        self.ring
    }

    /// The oldest position whose keys are still there.
    pub(crate) fn first_position(&self) -> usize {
        self.first.min(self.len)
    }

    /// Whether nothing was appended yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sizes.
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Forget everything after the first `len` positions. What a ring has overwritten does not come back.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        if self.len == 0 {
            self.first = 0;
        }
    }

    /// An error unless positions from `from_position` on can be copied to `to`.
    pub(crate) fn check_copy(&self, to: &Self, from_position: usize) -> Result<()> {
        let room = CacheShape {
            capacity: to.shape.capacity,
            ..self.shape
        };
        // Where a ring has gone around decides its size.
        let fits = self.first == 0 && self.len <= to.shape.capacity;
        let alike = room == to.shape && self.ring == to.ring && (self.shape == to.shape || fits);
        if alike && from_position <= self.len && from_position <= to.len {
            return Ok(());
        }
        Err(Error::Shape {
            what: "cache copy".into(),
            expected: format!(
                "{:?} with at least {from_position} positions in use",
                self.shape
            ),
            found: format!(
                "{:?}, {} positions copied to {}",
                to.shape, self.len, to.len
            ),
        })
    }

    /// The places of storage that a copy from `from_position` on has to take; `None` = all, as a ring has gone around.
    pub(crate) fn places(&self, from_position: usize) -> Option<std::ops::Range<usize>> {
        (self.first == 0).then_some(from_position..self.len)
    }

    /// Count what was appended.
    pub(crate) fn set_len(&mut self, len: usize) {
        debug_assert!(self.ring || len <= self.shape.capacity);
        self.len = len;
        self.first = self.first.max(len.saturating_sub(self.shape.capacity));
    }

    /// Take over the positions of a cache whose storage was copied.
    pub(crate) fn set_positions_of(&mut self, other: &Self) {
        self.len = other.len;
        self.first = other.first;
    }

    pub(crate) fn storage<T: 'static>(&self) -> Result<&T> {
        self.storage.downcast_ref().ok_or_else(wrong_device)
    }

    pub(crate) fn storage_mut<T: 'static>(&mut self) -> Result<&mut T> {
        self.storage.downcast_mut().ok_or_else(wrong_device)
    }
}

impl std::fmt::Debug for KvCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvCache")
            .field("shape", &self.shape)
            .field("len", &self.len)
            .finish()
    }
}

/// A few f32 numbers that a step carries over to its next run (recurrent state, convolution tails).
pub struct StateBuffer {
    len: usize,
    storage: Box<dyn Any + Send + Sync>,
}

impl StateBuffer {
    pub(crate) fn new(len: usize, storage: Box<dyn Any + Send + Sync>) -> Self {
        Self { len, storage }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn storage<T: 'static>(&self) -> Result<&T> {
        self.storage.downcast_ref().ok_or_else(wrong_device)
    }

    pub(crate) fn storage_mut<T: 'static>(&mut self) -> Result<&mut T> {
        self.storage.downcast_mut().ok_or_else(wrong_device)
    }
}

impl std::fmt::Debug for StateBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StateBuffer[{}]", self.len)
    }
}

fn wrong_device() -> Error {
    Error::Unsupported {
        what: "mixing devices".into(),
        reason: "a weight or state belongs to another device than the step that uses it".into(),
    }
}

/// What hardware has to offer: memory for weights and states, and replay of a recorded [`Graph`].
pub(crate) trait Backend: Send + Sync {
    /// Name for people, such as `cpu (avx512 vnni+bf16, 2 threads)`.
    fn description(&self) -> String;
    /// Which of several kernels does what here; nothing where the description says it.
    fn kernels(&self) -> Vec<KernelChoice> {
        Vec::new()
    }
    /// See [`Device::keep_kernels`].
    fn keep_kernels(&self) -> Option<KeptKernels> {
        None
    }
    /// Upload a matrix; `sources` are stacked by rows.
    fn matrix(&self, sources: &[HostMatrix<'_>], weight_type: WeightType) -> Result<Matrix>;
    /// Upload a vector.
    fn vector(&self, values: &[f32]) -> Result<Vector>;
    /// An empty cache.
    fn kv_cache(&self, shape: CacheShape) -> Result<KvCache>;
    /// Make `to` equal to `from` (same shape), copying only the positions in use from `from_position` on.
    fn copy_cache(&self, from: &KvCache, to: &mut KvCache, from_position: usize) -> Result<()>;
    /// A buffer of zeros.
    fn state_buffer(&self, len: usize) -> Result<StateBuffer>;
    /// Fill a buffer.
    fn write_buffer(&self, buffer: &mut StateBuffer, values: &[f32]) -> Result<()>;
    /// Read a buffer.
    fn read_buffer(&self, buffer: &StateBuffer) -> Result<Vec<f32>>;
    /// Prepare a graph for replay: plan scratch memory, build the flat list of calls. The scopes of the graph are
    /// measured by the device while [`crate::trace`] records.
    fn compile(&self, graph: Graph) -> Result<Box<dyn Executable>>;
    /// See [`Device::rows_at_once`].
    fn rows_at_once(&self) -> usize {
        8
    }
    /// See [`Device::sequences_at_once`].
    fn sequences_at_once(&self) -> usize {
        self.rows_at_once()
    }
    /// See [`Device::rows_that_fill`].
    fn rows_that_fill(&self) -> usize {
        192
    }
    /// See [`Device::side_by_side`].
    fn side_by_side(&self, _first: Task<'_>, _second: Task<'_>) -> bool {
        false
    }
}

/// Work that may be done on another thread.
pub(crate) type Task<'a> = &'a mut (dyn FnMut() + Send);

/// The kernel that a device chose for an operation, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelChoice {
    /// What it does.
    pub operation: &'static str,
    /// How: its variant and sizes.
    pub kernel: String,
}

/// What came of keeping compiled kernels from one start to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptKernels {
    /// The file that keeps them; `None` where the driver leaves that to nobody, or there is no folder for it.
    pub file: Option<PathBuf>,
    /// Kernels that were made ready since the device was opened.
    pub made: u64,
    /// Of these, those that were compiled because the file did not have them; `None` if the driver keeps nothing in it.
    pub compiled: Option<u64>,
    /// Why the file cannot be written, if so.
    pub failure: Option<String>,
}

/// What a device beside the processor has done, since it was opened or in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Activity {
    /// Times that work was handed over.
    pub submissions: u64,
    /// Kernels that were called in it.
    pub dispatches: u64,
    /// Kernels that were made ready to be called: none once everything has run.
    pub pipelines: u64,
    /// Times that the host waited for numbers.
    pub readbacks: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Bytes of device memory that were allocated.
    pub allocated_bytes: u64,
    /// Nanoseconds that the device worked by its own clock, in runs that are recorded, where it has one.
    pub device_nanoseconds: u64,
}

impl Activity {
    /// What was done since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            submissions: self.submissions - earlier.submissions,
            dispatches: self.dispatches - earlier.dispatches,
            pipelines: self.pipelines - earlier.pipelines,
            readbacks: self.readbacks - earlier.readbacks,
            read_bytes: self.read_bytes - earlier.read_bytes,
            allocated_bytes: self.allocated_bytes - earlier.allocated_bytes,
            device_nanoseconds: self.device_nanoseconds - earlier.device_nanoseconds,
        }
    }
}

/// What is ready later, on the thread that asked for it.
pub(crate) type Pending<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A graph that a device can replay.
pub(crate) trait Executable: Send {
    /// Run once; afterwards the outputs can be read. Advances the length of every written cache.
    fn run(&mut self, bindings: &mut Bindings<'_, '_>) -> Result<()>;
    /// As `run`, for threads that must not wait.
    fn run_async<'a>(&'a mut self, bindings: &'a mut Bindings<'_, '_>) -> Pending<'a> {
        Box::pin(std::future::ready(self.run(bindings)))
    }
    /// Have output number `index` of the last run at hand, for threads that must not wait.
    fn fetch_async<'a>(&'a mut self, _index: usize) -> Pending<'a> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// Output number `index` of the last run, `[rows * cols]`.
    fn output(&self, index: usize) -> Result<&[f32]>;
    /// u32 output number `index` of the last run.
    fn id_output(&self, index: usize) -> Result<&[u32]>;
    /// Bytes of scratch memory held.
    fn scratch_bytes(&self) -> usize;
    /// What a run has to do at least.
    fn work(&self) -> &Arc<Work>;
    /// What the device has done so far; nothing for the processor.
    fn activity(&self) -> Option<Activity> {
        None
    }
}

/// A handle to one piece of hardware; clones are the same device.
#[derive(Clone)]
pub struct Device(pub(crate) Arc<dyn Backend>);

impl Device {
    /// Name for people.
    pub fn description(&self) -> String {
        self.0.description()
    }

    /// Rows of a step up to which reading the weights is what takes the time: so many sequences cost little more than one.
    pub fn rows_at_once(&self) -> usize {
        self.0.rows_at_once()
    }

    /// Sequences whose next tokens are chosen in one step, where so many wait.
    pub fn sequences_at_once(&self) -> usize {
        self.0.sequences_at_once()
    }

    /// Rows of a step that keep the hardware busy: in a step of more, each costs as much as in one of these.
    pub fn rows_that_fill(&self) -> usize {
        self.0.rows_that_fill()
    }

    /// Which of several kernels this device uses for what; nothing where [`description`](Self::description) says it.
    pub fn kernels(&self) -> Vec<KernelChoice> {
        self.0.kernels()
    }

    /// Write to their file what kernels were compiled, which otherwise is done when the device is given up, and say what came of
    /// it. `None` where kernels are not kept in one file.
    pub fn keep_kernels(&self) -> Option<KeptKernels> {
        self.0.keep_kernels()
    }

    /// Upload a weight matrix, several sources stacked by rows (`q`, `k`, `v` of one attention, for example).
    ///
    /// # Errors
    /// Sources of different widths, bytes that do not fit the shape, or no memory.
    pub fn matrix(
        &self,
        sources: &[HostMatrix<'_>],
        weight_type: WeightType,
    ) -> Result<Arc<Matrix>> {
        self.0.matrix(sources, weight_type).map(Arc::new)
    }

    /// Upload a vector.
    ///
    /// # Errors
    /// No memory.
    pub fn vector(&self, values: &[f32]) -> Result<Arc<Vector>> {
        self.0.vector(values).map(Arc::new)
    }

    /// An empty cache.
    ///
    /// # Errors
    /// An unsupported dtype, or no memory.
    pub fn kv_cache(&self, shape: CacheShape) -> Result<KvCache> {
        self.0.kv_cache(shape)
    }

    /// An empty ring: it keeps the last `shape.capacity` positions and takes new ones without end. Attention over it
    /// needs a [`Mask::Window`](crate::Mask::Window), no wider than what is left of the capacity when a step has
    /// appended its rows: `capacity >= window + rows - 1`.
    ///
    /// # Errors
    /// An unsupported dtype, or no memory.
    pub fn ring_cache(&self, shape: CacheShape) -> Result<KvCache> {
        let mut cache = self.0.kv_cache(shape)?;
        cache.ring = true;
        Ok(cache)
    }

    /// Make `to` equal to `from`; both have the same shape, except that `to` may have another capacity as long as
    /// everything that was ever appended to `from` fits. Positions before `from_position` are known to be equal already (a
    /// common prompt) and are not copied.
    ///
    /// # Errors
    /// Caches of different shapes or devices.
    pub fn copy_cache(&self, from: &KvCache, to: &mut KvCache, from_position: usize) -> Result<()> {
        self.0.copy_cache(from, to, from_position)
    }

    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// No memory.
    pub fn state_buffer(&self, len: usize) -> Result<StateBuffer> {
        self.0.state_buffer(len)
    }

    /// Fill a state buffer with values of the same length.
    ///
    /// # Errors
    /// A different length or device.
    pub fn write_buffer(&self, buffer: &mut StateBuffer, values: &[f32]) -> Result<()> {
        self.0.write_buffer(buffer, values)
    }

    /// Do two things that run steps of this device, each on one thread, at the same time; `false` if nothing was done, because
    /// this device does not compute with just two threads. A step that waits for memory leaves room for one that computes, and
    /// with two threads neither loses much by having one.
    ///
    /// Where the other thread has no time, `second` may begin when `first` is over, or the other way round: neither may wait
    /// for the other.
    pub fn side_by_side(
        &self,
        first: &mut (dyn FnMut() + Send),
        second: &mut (dyn FnMut() + Send),
    ) -> bool {
        self.0.side_by_side(first, second)
    }

    /// Read a state buffer.
    ///
    /// # Errors
    /// A different device.
    pub fn read_buffer(&self, buffer: &StateBuffer) -> Result<Vec<f32>> {
        self.0.read_buffer(buffer)
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({})", self.description())
    }
}
