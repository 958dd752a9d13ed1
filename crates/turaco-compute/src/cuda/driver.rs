//! NVIDIA's driver, found when the program runs: the functions of `libcuda` that are used here, by the names and types of the
//! CUDA driver API.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::Library;

use crate::error::{Error, Result};

/// An address in the memory of the card; 0 is none.
pub(super) type Address = u64;

/// Opaque objects of the driver.
pub(super) type Handle = *mut c_void;

/// What a call of the driver returns; 0 is success.
type Status = c_int;

/// Not enough memory on the card.
const OUT_OF_MEMORY: Status = 2;
/// Work of a stream is not done yet.
const NOT_READY: Status = 600;

macro_rules! functions {
    ($($name:ident = $symbol:literal ($($argument:ty),*);)*) => {
        /// The driver's functions.
        #[allow(clippy::type_complexity)]
        pub(super) struct Functions {
            $(pub $name: unsafe extern "system" fn($($argument),*) -> Status,)*
        }

        impl Functions {
            fn load(library: &Library) -> std::result::Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the types are those of the CUDA driver API for these symbols, and the library stays
                    // loaded as long as the program runs (`Driver` is never dropped).
                    $($name: *unsafe { library.get($symbol)? },)*
                })
            }
        }
    };
}

functions! {
    init = b"cuInit\0" (c_uint);
    version = b"cuDriverGetVersion\0" (*mut c_int);
    device_count = b"cuDeviceGetCount\0" (*mut c_int);
    device_get = b"cuDeviceGet\0" (*mut c_int, c_int);
    device_name = b"cuDeviceGetName\0" (*mut c_char, c_int, c_int);
    device_memory = b"cuDeviceTotalMem_v2\0" (*mut usize, c_int);
    device_attribute = b"cuDeviceGetAttribute\0" (*mut c_int, c_int, c_int);
    context_retain = b"cuDevicePrimaryCtxRetain\0" (*mut Handle, c_int);
    context_release = b"cuDevicePrimaryCtxRelease_v2\0" (c_int);
    context_set = b"cuCtxSetCurrent\0" (Handle);
    memory_alloc = b"cuMemAlloc_v2\0" (*mut Address, usize);
    memory_free = b"cuMemFree_v2\0" (Address);
    host_alloc = b"cuMemHostAlloc\0" (*mut *mut c_void, usize, c_uint);
    host_free = b"cuMemFreeHost\0" (*mut c_void);
    copy_to_device = b"cuMemcpyHtoDAsync_v2\0" (Address, *const c_void, usize, Handle);
    copy_to_host = b"cuMemcpyDtoHAsync_v2\0" (*mut c_void, Address, usize, Handle);
    copy_plane = b"cuMemcpy2DAsync_v2\0" (*const PlaneCopy, Handle);
    fill_bytes = b"cuMemsetD8Async\0" (Address, u8, usize, Handle);
    stream_create = b"cuStreamCreate\0" (*mut Handle, c_uint);
    stream_destroy = b"cuStreamDestroy_v2\0" (Handle);
    stream_query = b"cuStreamQuery\0" (Handle);
    capture_begin = b"cuStreamBeginCapture_v2\0" (Handle, c_int);
    capture_end = b"cuStreamEndCapture\0" (Handle, *mut Handle);
    graph_instantiate = b"cuGraphInstantiateWithFlags\0" (*mut Handle, Handle, u64);
    graph_destroy = b"cuGraphDestroy\0" (Handle);
    graph_exec_destroy = b"cuGraphExecDestroy\0" (Handle);
    graph_launch = b"cuGraphLaunch\0" (Handle, Handle);
    module_load = b"cuModuleLoadData\0" (*mut Handle, *const c_void);
    module_unload = b"cuModuleUnload\0" (Handle);
    module_function = b"cuModuleGetFunction\0" (*mut Handle, Handle, *const c_char);
    function_attribute = b"cuFuncSetAttribute\0" (Handle, c_int, c_int);
    launch = b"cuLaunchKernelEx\0" (*const Call, Handle, *mut *mut c_void, *mut *mut c_void);
    event_create = b"cuEventCreate\0" (*mut Handle, c_uint);
    event_destroy = b"cuEventDestroy_v2\0" (Handle);
    event_record = b"cuEventRecord\0" (Handle, Handle);
    event_elapsed = b"cuEventElapsedTime\0" (*mut f32, Handle, Handle);
    error_string = b"cuGetErrorString\0" (Status, *mut *const c_char);
}

/// `CUDA_MEMCPY2D`: rows of bytes, some distance apart on either side.
#[repr(C)]
pub(super) struct PlaneCopy {
    source_x: usize,
    source_y: usize,
    source_kind: c_uint,
    source_host: *const c_void,
    source: Address,
    source_array: Handle,
    source_pitch: usize,
    target_x: usize,
    target_y: usize,
    target_kind: c_uint,
    target_host: *mut c_void,
    target: Address,
    target_array: Handle,
    target_pitch: usize,
    row_bytes: usize,
    rows: usize,
}

impl PlaneCopy {
    /// From one place on the card to another; each side is an address and the bytes from one row to the next.
    pub fn on_device(
        from: (Address, usize),
        to: (Address, usize),
        row_bytes: usize,
        rows: usize,
    ) -> Self {
        /// `CU_MEMORYTYPE_DEVICE`.
        const ON_DEVICE: c_uint = 2;
        Self {
            source_x: 0,
            source_y: 0,
            source_kind: ON_DEVICE,
            source_host: std::ptr::null(),
            source: from.0,
            source_array: std::ptr::null_mut(),
            source_pitch: from.1,
            target_x: 0,
            target_y: 0,
            target_kind: ON_DEVICE,
            target_host: std::ptr::null_mut(),
            target: to.0,
            target_array: std::ptr::null_mut(),
            target_pitch: to.1,
            row_bytes,
            rows,
        }
    }
}

/// `CUlaunchConfig`: the grid of a kernel's call, its blocks, and its stream.
#[repr(C)]
pub(super) struct Call {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    stream: Handle,
    attributes: *const Attribute,
    n_attributes: c_uint,
}

/// `CUlaunchAttribute`.
#[repr(C)]
pub(super) struct Attribute {
    id: c_int,
    padding: c_int,
    value: [u64; 8],
}

/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`: the call may begin as soon as the one before it allows.
static EARLY: Attribute = Attribute {
    id: 6,
    padding: 0,
    value: [1, 0, 0, 0, 0, 0, 0, 0],
};

impl Call {
    /// Blocks of so many threads, with so many bytes of shared memory beside what the kernel has itself. `early`: it may begin
    /// before the kernel that is called before it has ended.
    pub fn new(
        stream: Handle,
        grid: [u32; 3],
        (threads, shared_bytes): (u32, u32),
        early: bool,
    ) -> Self {
        Self {
            grid,
            block: [threads, 1, 1],
            shared_bytes,
            stream,
            attributes: &raw const EARLY,
            n_attributes: c_uint::from(early),
        }
    }
}

/// Libraries to use in place of the system's.
static INSTEAD: OnceLock<Libraries> = OnceLock::new();

/// Where driver and compiler are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Libraries {
    /// `libcuda`.
    pub driver: PathBuf,
    /// `libnvrtc`.
    pub compiler: PathBuf,
}

impl Libraries {
    /// Use these libraries from now on; `false` if others are in use already. For programs that ship their own, and for tests.
    pub fn use_them(self) -> bool {
        let wanted = self.clone();
        *INSTEAD.get_or_init(|| self) == wanted
    }

    /// The ones to use in place of the system's.
    pub(super) fn instead() -> Option<&'static Self> {
        INSTEAD.get()
    }
}

/// The driver of this machine.
pub(super) struct Driver {
    pub functions: Functions,
}

/// What the library is called.
const LIBRARIES: &[&str] = if cfg!(windows) {
    &["nvcuda.dll"]
} else {
    &["libcuda.so.1", "libcuda.so"]
};

impl Driver {
    /// The driver, loaded once: the one that `TURACO_CUDA_DRIVER` names, else the system's.
    ///
    /// # Errors
    /// [`Error::Device`] if there is none, or no card that it can use.
    pub fn get(device: &str) -> Result<&'static Self> {
        static DRIVER: Mutex<Option<&'static Driver>> = Mutex::new(None);
        let mut driver = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(driver) = *driver {
            return Ok(driver);
        }
        // What failed may go well later, with other libraries.
        let loaded = Self::load().map_err(|reason| device_error(device, reason))?;
        Ok(driver.insert(Box::leak(Box::new(loaded))))
    }

    fn load() -> std::result::Result<Self, String> {
        let asked_for = std::env::var_os("TURACO_CUDA_DRIVER").filter(|value| !value.is_empty());
        let names: Vec<PathBuf> = match (Libraries::instead(), asked_for) {
            (Some(libraries), _) => vec![libraries.driver.clone()],
            (None, Some(path)) => vec![path.into()],
            (None, None) => LIBRARIES.iter().map(PathBuf::from).collect(),
        };
        let mut reason = String::new();
        for name in names {
            // SAFETY: loading the driver runs its initialisers, which is what it is made for.
            match unsafe { Library::new(&name) } {
                Ok(library) => {
                    let functions = Functions::load(&library).map_err(|error| {
                        format!(
                            "the driver {} is too old (12.0 or later is needed): {error}",
                            name.display()
                        )
                    })?;
                    // The functions are used until the program ends.
                    std::mem::forget(library);
                    let driver = Self { functions };
                    // SAFETY: the flags of `cuInit` must be 0.
                    let status = unsafe { (driver.functions.init)(0) };
                    return match status {
                        0 => Ok(driver),
                        failed => Err(format!(
                            "the driver finds no card to use: {}",
                            driver.words(failed)
                        )),
                    };
                }
                Err(error) => reason = format!("no NVIDIA driver: {error}"),
            }
        }
        Err(reason)
    }

    /// 12030 for 12.3; 0 if it does not say.
    pub fn version(&self) -> c_int {
        let mut version = 0;
        // SAFETY: the version is written.
        match unsafe { (self.functions.version)(&raw mut version) } {
            0 => version,
            _ => 0,
        }
    }

    /// What the driver calls an error.
    fn words(&self, status: Status) -> String {
        let mut words = std::ptr::null();
        // SAFETY: the function writes a pointer to a constant text, or returns an error.
        let known = unsafe { (self.functions.error_string)(status, &raw mut words) };
        if known != 0 || words.is_null() {
            return format!("error {status}");
        }
        // SAFETY: the driver's texts end with a zero and live as long as the driver.
        let words = unsafe { CStr::from_ptr(words) };
        format!("{} (CUDA error {status})", words.to_string_lossy())
    }

    /// An error of `doing` something, unless it went well.
    pub fn check(&self, status: Status, device: &str, doing: &str) -> Result<()> {
        match status {
            0 => Ok(()),
            failed => Err(device_error(
                device,
                format!("{doing} failed: {}", self.words(failed)),
            )),
        }
    }

    /// As [`check`](Self::check), for a request for memory.
    pub fn check_memory(
        &self,
        status: Status,
        device: &str,
        (bytes, what): (usize, &str),
    ) -> Result<()> {
        match status {
            OUT_OF_MEMORY => Err(Error::OutOfMemory {
                bytes,
                what: format!("{what} on {device}"),
            }),
            other => self.check(
                other,
                device,
                &format!("allocating {bytes} bytes for {what}"),
            ),
        }
    }

    /// Whether a stream has done all its work.
    pub fn is_done(&self, stream: Handle, device: &str, what: &str) -> Result<bool> {
        // SAFETY: the stream is one that lives.
        match unsafe { (self.functions.stream_query)(stream) } {
            NOT_READY => Ok(false),
            status => self.check(status, device, what).map(|()| true),
        }
    }
}

/// An error of a device.
pub(super) fn device_error(device: &str, reason: impl Into<String>) -> Error {
    Error::Device {
        device: device.into(),
        reason: reason.into(),
    }
}
