//! An open card: its memory, its kernels, and what it has done.

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::CudaOptions;
use super::compiler::{self, Program};
use super::driver::{Address, Driver, Handle, device_error};
use super::kernels::Module;
use super::plan::grids::Card;
use crate::device::Activity;
use crate::error::Result;

/// How long a run may take before it is given up.
const PATIENCE: Duration = Duration::from_mins(2);

/// Time in which the host asks without a pause whether the card is done: most steps of a decoder end within it.
const EAGER: Duration = Duration::from_millis(20);

/// How often the driver is asked whether something has gone wrong in a run.
const ASKED_EVERY: Duration = Duration::from_millis(2);

/// The first driver that keeps in a graph that a call may begin before the one before it has ended (12.3).
const EARLY_IN_GRAPHS: c_int = 12_030;

/// What the driver calls the numbers of an attribute.
pub(super) const MULTIPROCESSORS: c_int = 16;
pub(super) const CAPABILITY_MAJOR: c_int = 75;
pub(super) const CAPABILITY_MINOR: c_int = 76;
const SECOND_CACHE: c_int = 38;

/// What it calls the attributes of a kernel: shared memory that a call may ask for, and the share of the first cache that is to be
/// shared memory.
const MOST_SHARED: c_int = 8;
const SHARED_SHARE: c_int = 9;

/// A card that is open.
pub(super) struct Context {
    pub driver: &'static Driver,
    pub name: String,
    /// Compute capability: 90 for 9.0.
    pub capability: u32,
    pub multiprocessors: u32,
    /// Bytes of the cache that all its processors share.
    pub second_cache: usize,
    device: c_int,
    context: Handle,
    /// For weights, states and copies; runs have streams of their own.
    stream: Mutex<Stream>,
    modules: Mutex<HashMap<Module, Loaded>>,
    /// Where compiled kernels are kept.
    cubins: Option<PathBuf>,
    patience: Duration,
    /// Whether calls begin before the ones before them have ended.
    overlaps: AtomicBool,
    /// Whether a run did not end: everything that waits for the card would wait for ever.
    given_up: AtomicBool,
    pub counters: Counters,
}

// SAFETY: the driver's handles may be used from any thread that has made the context its own, which every call here does first.
unsafe impl Send for Context {}
// SAFETY: as above; what changes is behind locks.
unsafe impl Sync for Context {}

/// A module on the card.
struct Loaded {
    module: Handle,
    functions: HashMap<String, Handle>,
}

// SAFETY: handles of the driver belong to no thread.
unsafe impl Send for Loaded {}

/// What was done since the card was opened.
#[derive(Default)]
pub(super) struct Counters {
    pub submissions: AtomicU64,
    pub dispatches: AtomicU64,
    pub pipelines: AtomicU64,
    pub readbacks: AtomicU64,
    pub read_bytes: AtomicU64,
    pub allocated_bytes: AtomicU64,
    pub device_nanoseconds: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub fn activity(&self) -> Activity {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Activity {
            submissions: count(&self.submissions),
            dispatches: count(&self.dispatches),
            pipelines: count(&self.pipelines),
            readbacks: count(&self.readbacks),
            read_bytes: count(&self.read_bytes),
            allocated_bytes: count(&self.allocated_bytes),
            device_nanoseconds: count(&self.device_nanoseconds),
        }
    }
}

/// A card that the driver shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardSummary {
    /// Its name.
    pub name: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Compute capability: 90 for 9.0.
    pub capability: u32,
    /// Processors that run blocks of threads.
    pub multiprocessors: u32,
}

/// Whether the system shows traces of a card; false where looking for one is a waste of time.
pub fn is_likely() -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    // NVIDIA's driver, and Windows' in its Linux subsystem.
    ["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"]
        .iter()
        .any(|path| std::path::Path::new(path).exists())
}

/// All cards that the driver shows; none where there is no driver.
pub fn cards() -> Vec<CardSummary> {
    let Ok(driver) = Driver::get("cuda") else {
        return Vec::new();
    };
    let mut count = 0;
    // SAFETY: the count is written.
    if unsafe { (driver.functions.device_count)(&raw mut count) } != 0 {
        return Vec::new();
    }
    (0..count)
        .filter_map(|index| summary(driver, index).ok())
        .map(|(_, summary)| summary)
        .collect()
}

/// Whether every call shall wait for the one before it to end.
fn is_plain() -> bool {
    std::env::var_os("TURACO_CUDA_PLAIN_LAUNCH")
        .is_some_and(|value| !value.is_empty() && value != "0")
}

fn summary(driver: &Driver, index: c_int) -> Result<(c_int, CardSummary)> {
    let mut device = 0;
    let functions = &driver.functions;
    // SAFETY: the device is written.
    let status = unsafe { (functions.device_get)(&raw mut device, index) };
    driver.check(status, &format!("cuda:{index}"), "opening it")?;
    let mut name = [0_u8; 256];
    // SAFETY: there is room for as many bytes as is said.
    let status = unsafe { (functions.device_name)(name.as_mut_ptr().cast(), 255, device) };
    driver.check(status, &format!("cuda:{index}"), "asking for its name")?;
    let length = name.iter().position(|&byte| byte == 0).unwrap_or(0);
    let name = String::from_utf8_lossy(&name[..length]).into_owned();
    let mut memory = 0;
    // SAFETY: the number of bytes is written.
    let status = unsafe { (functions.device_memory)(&raw mut memory, device) };
    driver.check(status, &name, "asking for its memory")?;
    let attribute = |attribute| {
        let mut value = 0;
        // SAFETY: the value is written.
        let status = unsafe { (functions.device_attribute)(&raw mut value, attribute, device) };
        driver
            .check(status, &name, "asking what it can do")
            .map(|()| value.max(0) as u32)
    };
    let summary = CardSummary {
        memory: memory as u64,
        capability: 10 * attribute(CAPABILITY_MAJOR)? + attribute(CAPABILITY_MINOR)?,
        multiprocessors: attribute(MULTIPROCESSORS)?.max(1),
        name: name.clone(),
    };
    Ok((device, summary))
}

impl Context {
    /// Open a card.
    pub fn open(options: &CudaOptions) -> Result<Arc<Self>> {
        let index = options.index.unwrap_or(0);
        let driver = Driver::get(&format!("cuda:{index}"))?;
        let (device, summary) = summary(driver, c_int::try_from(index).unwrap_or(c_int::MAX))?;
        let name = format!("{} (cuda:{index})", summary.name);
        if summary.capability < 75 {
            let reason = format!(
                "it has compute capability {}.{}, and 7.5 or later is needed",
                summary.capability / 10,
                summary.capability % 10
            );
            return Err(device_error(&name, reason));
        }
        let mut context = std::ptr::null_mut();
        // SAFETY: the context is written; it is given back when this is dropped.
        let status = unsafe { (driver.functions.context_retain)(&raw mut context, device) };
        driver.check(status, &name, "opening it")?;
        let mut second_cache = 0;
        // SAFETY: the value is written. Without one nothing is brought there ahead.
        unsafe { (driver.functions.device_attribute)(&raw mut second_cache, SECOND_CACHE, device) };
        let second_cache = usize::try_from(second_cache).unwrap_or(0);
        let opened = Self {
            driver,
            name,
            capability: summary.capability,
            multiprocessors: summary.multiprocessors,
            second_cache,
            device,
            context,
            stream: Mutex::new(Stream {
                handle: std::ptr::null_mut(),
            }),
            modules: Mutex::default(),
            cubins: options.kernel_cache.clone(),
            patience: options.patience.unwrap_or(PATIENCE),
            overlaps: AtomicBool::new(
                summary.capability >= 90 && driver.version() >= EARLY_IN_GRAPHS && !is_plain(),
            ),
            given_up: AtomicBool::new(false),
            counters: Counters::default(),
        };
        let stream = opened.new_stream()?;
        *opened.stream.lock().unwrap_or_else(PoisonError::into_inner) = stream;
        // Without kernels the card is of no use: better said now than when weights have been loaded.
        opened.kernel(Module::Map, "map_activate")?;
        Ok(Arc::new(opened))
    }

    /// What decides how calls are cut.
    pub fn card(&self) -> Card {
        Card {
            processors: self.multiprocessors as usize,
            capability: self.capability,
        }
    }

    /// Make this context the calling thread's.
    pub fn enter(&self) -> Result<()> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(device_error(
                &self.name,
                "it did not answer, and was given up",
            ));
        }
        // SAFETY: the context lives as long as `self`.
        let status = unsafe { (self.driver.functions.context_set)(self.context) };
        self.check(status, "entering its context")
    }

    /// Whether a call may begin before the one before it has ended.
    pub fn overlaps(&self) -> bool {
        self.overlaps.load(Ordering::Relaxed)
    }

    /// No call begins early any more; whether any did.
    pub fn overlap_no_more(&self) -> bool {
        self.overlaps.swap(false, Ordering::Relaxed)
    }

    /// An error of `doing` something, unless it went well.
    pub fn check(&self, status: c_int, doing: &str) -> Result<()> {
        self.driver.check(status, &self.name, doing)
    }

    /// A stream of its own.
    pub fn new_stream(&self) -> Result<Stream> {
        /// `CU_STREAM_NON_BLOCKING`.
        const NON_BLOCKING: u32 = 1;
        self.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the stream is written.
        let status =
            unsafe { (self.driver.functions.stream_create)(&raw mut handle, NON_BLOCKING) };
        self.check(status, "making a stream")?;
        Ok(Stream { handle })
    }

    /// Memory of `bytes` bytes, of whatever content.
    pub fn allocate(self: &Arc<Self>, bytes: usize, what: &str) -> Result<Memory> {
        self.enter()?;
        let mut address = 0;
        // SAFETY: the address is written.
        let status =
            unsafe { (self.driver.functions.memory_alloc)(&raw mut address, bytes.max(1)) };
        self.driver
            .check_memory(status, &self.name, (bytes, what))?;
        Counters::add(&self.counters.allocated_bytes, bytes);
        Ok(Memory {
            context: Arc::clone(self),
            address,
            bytes,
        })
    }

    /// The same, of zeros.
    pub fn zeros(self: &Arc<Self>, bytes: usize, what: &str) -> Result<Memory> {
        let memory = self.allocate(bytes, what)?;
        if bytes > 0 {
            self.with_stream("filling memory", |functions, stream| {
                // SAFETY: the range was allocated above.
                unsafe { (functions.fill_bytes)(memory.address, 0, bytes, stream) }
            })?;
        }
        Ok(memory)
    }

    /// Memory of zeros that only the host will write: a kernel may read it before the kernels before it have ended.
    pub fn zeros_of_host(self: &Arc<Self>, bytes: usize, what: &str) -> Result<Memory> {
        let memory = self.allocate(bytes, what)?;
        self.write(memory.address, &vec![0; bytes])?;
        Ok(memory)
    }

    /// Do something in the stream that is not a run's, and wait for it.
    pub fn with_stream(
        &self,
        doing: &str,
        work: impl FnOnce(&super::driver::Functions, Handle) -> c_int,
    ) -> Result<()> {
        self.enter()?;
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        self.check(work(&self.driver.functions, stream.handle), doing)?;
        self.wait(stream.handle, doing)
    }

    /// Bring `bytes` to memory at `to`, which has room for them.
    pub fn write(&self, to: Address, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.with_stream("copying to it", |functions, stream| {
            // SAFETY: the source is read before the wait for the stream ends; the target has room, as the caller knows.
            unsafe { (functions.copy_to_device)(to, bytes.as_ptr().cast(), bytes.len(), stream) }
        })
    }

    /// Bring memory at `from`, which has as many bytes, to `bytes`.
    pub fn read(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (to, length) = (bytes.as_mut_ptr().cast::<c_void>(), bytes.len());
        self.with_stream("copying from it", |functions, stream| {
            // SAFETY: the target is written before the wait for the stream ends.
            unsafe { (functions.copy_to_host)(to, from, length, stream) }
        })?;
        Counters::add(&self.counters.readbacks, 1);
        Counters::add(&self.counters.read_bytes, length);
        Ok(())
    }

    /// Wait until a stream has done its work.
    pub fn wait(&self, stream: Handle, what: &str) -> Result<()> {
        let begin = Instant::now();
        while !self.driver.is_done(stream, &self.name, what)? {
            self.be_patient(begin.elapsed(), what)?;
        }
        Ok(())
    }

    /// Wait until the last kernel of a run in a stream has written the number of the run to `mark`: the driver, which takes longer to
    /// answer, is asked now and then whether all is well.
    pub fn wait_for(&self, mark: &AtomicU32, run: u32, stream: Handle, what: &str) -> Result<()> {
        let begin = Instant::now();
        let mut next = ASKED_EVERY;
        while mark.load(Ordering::Acquire) != run {
            let waited = begin.elapsed();
            if waited > next {
                next = waited + ASKED_EVERY;
                let is_done = self.driver.is_done(stream, &self.name, what)?;
                if is_done && mark.load(Ordering::Acquire) != run {
                    let reason = format!("{what} ended without its results");
                    return Err(device_error(&self.name, reason));
                }
            }
            self.be_patient(waited, what)?;
        }
        Ok(())
    }

    /// A moment of waiting, of which so much is over; an error when it has been enough.
    fn be_patient(&self, waited: Duration, what: &str) -> Result<()> {
        if waited > self.patience {
            self.given_up.store(true, Ordering::Relaxed);
            let patience = self.patience;
            let reason = format!("{what} did not end within {patience:.0?}; it is given up");
            return Err(device_error(&self.name, reason));
        }
        if waited < EAGER {
            std::hint::spin_loop();
        } else {
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    /// The kernel `name` of a module, which is compiled and loaded if it was not before.
    pub fn kernel(&self, module: Module, name: &str) -> Result<Handle> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = match modules.entry(module) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(self.load(module)?),
        };
        if let Some(&function) = loaded.functions.get(name) {
            return Ok(function);
        }
        self.enter()?;
        let symbol =
            CString::new(name).map_err(|error| device_error(&self.name, error.to_string()))?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is loaded, the name ends with a zero, and the function is written.
        let status = unsafe {
            (self.driver.functions.module_function)(
                &raw mut function,
                loaded.module,
                symbol.as_ptr(),
            )
        };
        self.check(status, &format!("finding the kernel {name}"))?;
        let set = |attribute, value: u32| {
            // SAFETY: the function was found above.
            unsafe {
                (self.driver.functions.function_attribute)(function, attribute, value as c_int)
            }
        };
        if module.shared_bytes() > 0 {
            let status = set(MOST_SHARED, module.shared_bytes());
            self.check(status, &format!("preparing the kernel {name}"))?;
        }
        // A kernel cannot begin on a processor while another one needs another share: all have the same. It is but a wish.
        set(SHARED_SHARE, 100);
        loaded.functions.insert(name.into(), function);
        Ok(function)
    }

    fn load(&self, module: Module) -> Result<Loaded> {
        let name = module.name();
        let program = Program {
            name: &name,
            source: &module.source(),
            defines: &module.defines(),
            capability: self.capability,
        };
        let folder = self.cubins.as_deref();
        let (image, compiled) = compiler::image(&program, folder)?;
        match self.load_image(&name, &image) {
            Ok(loaded) => {
                Counters::add(&self.counters.pipelines, usize::from(compiled));
                Ok(loaded)
            }
            // What was kept may be of another driver: once more from the source.
            Err(_) if !compiled => {
                let (image, _) = compiler::image(&program, None)?;
                Counters::add(&self.counters.pipelines, 1);
                self.load_image(&name, &image)
            }
            Err(error) => Err(error),
        }
    }

    fn load_image(&self, name: &str, image: &[u8]) -> Result<Loaded> {
        self.enter()?;
        // The driver is told no length.
        let mut terminated = image.to_vec();
        terminated.push(0);
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is whole, as its hash or the compiler says.
        let status = unsafe {
            (self.driver.functions.module_load)(&raw mut module, terminated.as_ptr().cast())
        };
        self.check(status, &format!("loading the kernels of {name}"))?;
        Ok(Loaded {
            module,
            functions: HashMap::new(),
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        let functions = &self.driver.functions;
        let stream = self
            .stream
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if !stream.handle.is_null() {
            // SAFETY: nobody uses the stream any more.
            unsafe { (functions.stream_destroy)(stream.handle) };
        }
        let modules = self
            .modules
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for loaded in modules.values() {
            // SAFETY: kernels are called by runs, which hold the context.
            unsafe { (functions.module_unload)(loaded.module) };
        }
        // SAFETY: everything that was made in the context holds it, so nothing is left.
        unsafe { (functions.context_release)(self.device) };
    }
}

/// Work that is done in order.
pub(super) struct Stream {
    pub handle: Handle,
}

// SAFETY: handles of the driver belong to no thread.
unsafe impl Send for Stream {}

/// Memory of the card.
pub(super) struct Memory {
    context: Arc<Context>,
    pub address: Address,
    pub bytes: usize,
}

impl Memory {
    /// Whose memory it is.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: runs that use the memory were waited for; the address was allocated once and is freed once.
            unsafe { (self.context.driver.functions.memory_free)(self.address) };
        }
    }
}

/// Memory of the host that the card reads and writes by itself.
pub(super) struct HostMemory {
    context: Arc<Context>,
    at: *mut u32,
    words: usize,
}

// SAFETY: it is memory like any other, with one owner.
unsafe impl Send for HostMemory {}

impl HostMemory {
    /// So many 32-bit words of zeros.
    pub fn new(context: &Arc<Context>, words: usize) -> Result<Self> {
        /// `CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP`: kernels have it at the same address.
        const SHARED: u32 = 3;
        context.enter()?;
        let mut at = std::ptr::null_mut();
        let bytes = 4 * words.max(1);
        // SAFETY: the pointer is written.
        let status = unsafe { (context.driver.functions.host_alloc)(&raw mut at, bytes, SHARED) };
        let what = "memory of the host that it shares";
        context
            .driver
            .check_memory(status, &context.name, (bytes, what))?;
        // SAFETY: as many bytes were allocated.
        unsafe { std::ptr::write_bytes(at.cast::<u8>(), 0, bytes) };
        Ok(Self {
            context: Arc::clone(context),
            at: at.cast(),
            words,
        })
    }

    /// Where the card reads and writes.
    pub fn pointer(&self) -> *mut c_void {
        self.at.cast()
    }

    pub fn words(&self) -> &[u32] {
        // SAFETY: the words were allocated and filled, and the card writes them only in runs, which are waited for before anyone
        // reads.
        unsafe { std::slice::from_raw_parts(self.at, self.words) }
    }

    /// A word that a kernel may write at any time.
    pub fn mark(&self, at: usize) -> &AtomicU32 {
        assert!(at < self.words, "a mark is one of the words");
        // SAFETY: the word was allocated, is aligned, and lives as long as `self`; nobody has a mutable view of results.
        unsafe { AtomicU32::from_ptr(self.at.add(at)) }
    }

    pub fn words_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.words) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: it was allocated by the driver once and is freed once.
            unsafe { (self.context.driver.functions.host_free)(self.at.cast()) };
        }
    }
}
