//! What the emulator refuses that a card would do wrong now and then.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};

use libloading::Library;

type Handle = *mut c_void;

/// A kernel that adds to memory which another kernel writes, three times: properly, without waiting for that one, and reading
/// before it waits. One that copies in the background and looks before it waits for the copy, and one that does not wait at all.
const SOURCE: &str = r#"
struct Params { unsigned *at; const unsigned *weights; };
KERNEL(32, waits, Params) {
    const unsigned weight = p.weights[threadIdx.x];
    wait_for_previous();
    p.at[threadIdx.x] += weight;
}
KERNEL(32, goes_on, Params) { p.at[threadIdx.x] += p.weights[threadIdx.x]; }
KERNEL(32, reads_early, Params) {
    const unsigned before = p.at[threadIdx.x];
    wait_for_previous();
    p.at[threadIdx.x] = before + p.weights[threadIdx.x];
}
KERNEL(32, looks_early, Params) {
    DYNAMIC_SHARED(unsigned, room);
    copy_once<4>(place_of(room + threadIdx.x), p.weights + threadIdx.x, true);
    copy_commit();
    const unsigned before = room[threadIdx.x];
    copy_wait<0>();
    p.at[threadIdx.x] = room[threadIdx.x] == 1 ? before : 2;
}
KERNEL(32, ends_early, Params) {
    DYNAMIC_SHARED(unsigned, room);
    copy_once<4>(place_of(room + threadIdx.x), p.weights + threadIdx.x, true);
    copy_commit();
}
"#;

const LAUNCH_FAILED: c_int = 719;

/// `CUlaunchConfig` and `CUlaunchAttribute`.
#[repr(C)]
struct Call {
    sizes: [c_uint; 7],
    stream: Handle,
    attributes: *const Attribute,
    n_attributes: c_uint,
}

#[repr(C)]
struct Attribute {
    id: c_int,
    value: [c_int; 17],
}

struct Card {
    library: Library,
    module: Handle,
    stream: Handle,
    at: u64,
    weights: u64,
}

/// Calls a function of the library and gives its status.
macro_rules! call {
    ($library:expr, $name:literal ($($argument:expr => $type:ty),*)) => {{
        // SAFETY: the types are those of the driver's function, and the arguments live as long as the call.
        unsafe {
            let name = concat!($name, "\0").as_bytes();
            let function = $library.get::<unsafe extern "C" fn($($type),*) -> c_int>(name).unwrap();
            function($($argument),*)
        }
    }};
}

impl Card {
    fn new() -> Option<Self> {
        let path = turaco_cuda_emulator::library()?;
        // SAFETY: the library is this crate's own.
        let library = unsafe { Library::new(path) }.unwrap();
        let (mut program, mut module, mut stream) = (
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        );
        let (mut at, mut weights, mut length) = (0_u64, 0_u64, 0_usize);
        let source = CString::new(SOURCE).unwrap();
        let none = std::ptr::null::<*const c_char>();
        let created = call!(library, "nvrtcCreateProgram" (
            &raw mut program => *mut Handle, source.as_ptr() => *const c_char, std::ptr::null() => *const c_char,
            0 => c_int, none => *const *const c_char, none => *const *const c_char
        ));
        let compiled = call!(library, "nvrtcCompileProgram" (program => Handle, 0 => c_int, none => *const *const c_char));
        call!(library, "nvrtcGetCUBINSize" (program => Handle, &raw mut length => *mut usize));
        let mut image = vec![0_u8; length];
        call!(library, "nvrtcGetCUBIN" (program => Handle, image.as_mut_ptr() => *mut u8));
        let loaded = call!(library, "cuModuleLoadData" (&raw mut module => *mut Handle, image.as_ptr() => *const u8));
        assert_eq!((created, compiled, loaded), (0, 0, 0));
        call!(library, "cuStreamCreate" (&raw mut stream => *mut Handle, 0 => c_uint));
        call!(library, "cuMemAlloc_v2" (&raw mut at => *mut u64, 128 => usize));
        call!(library, "cuMemAlloc_v2" (&raw mut weights => *mut u64, 128 => usize));
        call!(library, "cuMemsetD8Async" (at => u64, 0 => u8, 128 => usize, stream => Handle));
        let ones = [1_u32; 32];
        call!(library, "cuMemcpyHtoDAsync_v2" (
            weights => u64, ones.as_ptr() => *const u32, 128 => usize, stream => Handle
        ));
        Some(Self {
            library,
            module,
            stream,
            at,
            weights,
        })
    }

    fn function(&self, name: &str) -> Handle {
        let (mut function, name) = (std::ptr::null_mut(), CString::new(name).unwrap());
        let found = call!(self.library, "cuModuleGetFunction" (
            &raw mut function => *mut Handle, self.module => Handle, name.as_ptr() => *const c_char
        ));
        assert_eq!(found, 0);
        function
    }

    fn launch(&self, name: &str, early: bool) -> c_int {
        self.launch_with(name, early, 0)
    }

    /// With so many bytes of shared memory.
    fn launch_with(&self, name: &str, early: bool, shared: c_uint) -> c_int {
        let function = self.function(name);
        let mut value = [0; 17];
        value[1] = 1;
        let attribute = Attribute { id: 6, value };
        let call = Call {
            sizes: [2, 1, 1, 32, 1, 1, shared],
            stream: self.stream,
            attributes: &raw const attribute,
            n_attributes: c_uint::from(early),
        };
        let params = [self.at, self.weights];
        let mut list = [params.as_ptr().cast::<c_void>()];
        call!(self.library, "cuLaunchKernelEx" (
            &raw const call => *const Call, function => Handle, list.as_mut_ptr() => *mut *const c_void,
            std::ptr::null_mut() => *mut Handle
        ))
    }

    fn first(&self) -> u32 {
        let mut values = [0_u32; 32];
        call!(self.library, "cuMemcpyDtoHAsync_v2" (
            values.as_mut_ptr() => *mut u32, self.at => u64, 128 => usize, self.stream => Handle
        ));
        values[0]
    }
}

#[test]
fn a_kernel_that_does_not_wait_for_the_one_before_is_found() {
    let Some(card) = Card::new() else {
        eprintln!("SKIPPED: no C++ compiler to imitate a card with");
        return;
    };
    // What follows no kernel cannot begin before one has ended.
    assert_ne!(card.launch("waits", true), 0);
    assert_eq!(card.launch("goes_on", false), 0);
    assert_eq!(card.launch("waits", true), 0);
    // Two blocks each.
    assert_eq!(card.first(), 4);
    assert_eq!(card.launch("waits", false), 0);
    assert_eq!(card.launch("goes_on", true), LAUNCH_FAILED);
    assert_eq!(card.launch("reads_early", true), LAUNCH_FAILED);
    assert_eq!(card.launch("reads_early", false), 0);
}

#[test]
fn a_copy_in_the_background_comes_late_or_at_once() {
    let Some(card) = Card::new() else {
        eprintln!("SKIPPED: no C++ compiler to imitate a card with");
        return;
    };
    let order = |order: i64| call!(card.library, "turaco_emulator_set" (7 => c_int, order => i64));
    assert_eq!(card.launch_with("looks_early", false, 128), 0);
    // What shared memory holds at first.
    assert_eq!(card.first(), u32::MAX);
    // The last threads first: copies at once.
    order(1);
    assert_eq!(card.launch_with("looks_early", false, 128), 0);
    assert_eq!(card.first(), 1);
    order(0);
    // What comes when its place may be somebody else's.
    assert_eq!(card.launch_with("ends_early", false, 128), LAUNCH_FAILED);
}

#[test]
fn much_shared_memory_has_to_be_asked_for() {
    const INVALID_VALUE: c_int = 1;
    let Some(card) = Card::new() else {
        eprintln!("SKIPPED: no C++ compiler to imitate a card with");
        return;
    };
    let most = |bytes: c_int| {
        call!(card.library, "cuFuncSetAttribute" (
            card.function("looks_early") => Handle, 8 => c_int, bytes => c_int
        ))
    };
    assert_eq!(
        card.launch_with("looks_early", false, 64 << 10),
        INVALID_VALUE
    );
    assert_eq!(most(1 << 20), INVALID_VALUE);
    assert_eq!(most(64 << 10), 0);
    assert_eq!(card.launch_with("looks_early", false, 64 << 10), 0);
}
