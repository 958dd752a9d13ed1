//! Kernels from their source: NVRTC, found when the program runs, and the files that keep what it made.

use std::ffi::{CStr, CString, c_char, c_int};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libloading::Library;

use super::driver::{Handle, Libraries, device_error};
use crate::error::Result;

type Status = c_int;

/// The compiler.
struct Nvrtc {
    version: (c_int, c_int),
    functions: Functions,
}

macro_rules! functions {
    ($($name:ident = $symbol:literal ($($argument:ty),*);)*) => {
        /// Its functions, by the types of the NVRTC API.
        struct Functions {
            $($name: unsafe extern "system" fn($($argument),*) -> Status,)*
        }

        impl Functions {
            fn load(library: &Library) -> std::result::Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the types are those of the NVRTC API for these symbols, and the library is never unloaded.
                    $($name: *unsafe { library.get($symbol)? },)*
                })
            }
        }
    };
}

functions! {
    version = b"nvrtcVersion\0" (*mut c_int, *mut c_int);
    create = b"nvrtcCreateProgram\0" (
        *mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
    );
    destroy = b"nvrtcDestroyProgram\0" (*mut Handle);
    compile = b"nvrtcCompileProgram\0" (Handle, c_int, *const *const c_char);
    log_size = b"nvrtcGetProgramLogSize\0" (Handle, *mut usize);
    log = b"nvrtcGetProgramLog\0" (Handle, *mut c_char);
    image_size = b"nvrtcGetCUBINSize\0" (Handle, *mut usize);
    image = b"nvrtcGetCUBIN\0" (Handle, *mut c_char);
}

/// A program and how to compile it.
pub(super) struct Program<'a> {
    /// For messages.
    pub name: &'a str,
    pub source: &'a str,
    /// `NAME=VALUE`.
    pub defines: &'a [String],
    /// Compute capability: 90 for 9.0.
    pub capability: u32,
}

/// The image of a program for the card: from the folder if it was made before, else from the compiler. `true`: it was compiled
/// now.
///
/// # Errors
/// No compiler, or a program that it refuses.
pub(super) fn image(program: &Program<'_>, folder: Option<&Path>) -> Result<(Vec<u8>, bool)> {
    let path = folder.map(|folder| folder.join(program.file_name()));
    if let Some(path) = &path
        && let Ok(stored) = std::fs::read(path)
        && let Some(image) = sealed(&stored)
    {
        return Ok((image.to_vec(), false));
    }
    let image = Nvrtc::get()?.compile(program)?;
    if let Some(path) = &path {
        // Without a file the next start takes longer; that is all.
        let _ = store(path, &image);
    }
    Ok((image, true))
}

/// What an image is stored behind: a hash of it, so that a damaged file is made again.
fn seal(image: &[u8]) -> [u8; 8] {
    let mut hasher = DefaultHasher::new();
    image.hash(&mut hasher);
    hasher.finish().to_le_bytes()
}

fn sealed(stored: &[u8]) -> Option<&[u8]> {
    let (hash, image) = stored.split_first_chunk::<8>()?;
    (*hash == seal(image)).then_some(image)
}

fn store(path: &Path, image: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Under a name of its own first: another process or thread may be reading.
    let unfinished = path.with_extension(format!(
        "{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::write(&unfinished, [&seal(image)[..], image].concat())?;
    std::fs::rename(unfinished, path)
}

impl Program<'_> {
    fn options(&self) -> Vec<String> {
        let defines = self.defines.iter().map(|define| format!("-D{define}"));
        [
            format!("--gpu-architecture=sm_{}", self.capability),
            "--std=c++17".into(),
            "-default-device".into(),
        ]
        .into_iter()
        .chain(defines)
        .collect()
    }

    /// A name for what this becomes: it changes with everything that the image depends on but the compiler's version.
    fn file_name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.source.hash(&mut hasher);
        self.options().hash(&mut hasher);
        format!(
            "{}-sm{}-{:016x}.cubin",
            self.name,
            self.capability,
            hasher.finish()
        )
    }
}

impl Nvrtc {
    fn get() -> Result<&'static Self> {
        static NVRTC: Mutex<Option<&'static Nvrtc>> = Mutex::new(None);
        let mut nvrtc = NVRTC.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(nvrtc) = *nvrtc {
            return Ok(nvrtc);
        }
        let loaded = Self::load().map_err(|reason| device_error("cuda", reason))?;
        Ok(nvrtc.insert(Box::leak(Box::new(loaded))))
    }

    fn load() -> std::result::Result<Self, String> {
        let mut tried = Vec::new();
        for path in candidates() {
            // SAFETY: loading the compiler runs its initialisers, which is what it is made for.
            let Ok(library) = (unsafe { Library::new(&path) }) else {
                tried.push(path.display().to_string());
                continue;
            };
            let functions = Functions::load(&library)
                .map_err(|error| format!("{} cannot be used: {error}", path.display()))?;
            std::mem::forget(library);
            let mut version = (0, 0);
            // SAFETY: both pointers are to integers.
            unsafe { (functions.version)(&raw mut version.0, &raw mut version.1) };
            return Ok(Self { version, functions });
        }
        tried.truncate(8);
        Err(format!(
            "the kernels have to be compiled once, and NVRTC is not to be found (tried {}); install the CUDA toolkit's \
             `libnvrtc` (in Python's index: nvidia-cuda-nvrtc-cu12), or name it in TURACO_NVRTC",
            tried.join(", ")
        ))
    }

    fn compile(&self, program: &Program<'_>) -> Result<Vec<u8>> {
        let failed = |reason: String| {
            let (major, minor) = self.version;
            let reason = format!(
                "NVRTC {major}.{minor} does not compile {}: {reason}",
                program.name
            );
            device_error("cuda", reason)
        };
        let text = |text: &str| CString::new(text).map_err(|error| failed(error.to_string()));
        let source = text(program.source)?;
        let name = text(&format!("{}.cu", program.name))?;
        let options = program.options();
        let options: Vec<CString> = options
            .iter()
            .map(|option| text(option))
            .collect::<Result<_>>()?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut made = Made {
            functions: &self.functions,
            program: std::ptr::null_mut(),
        };
        // SAFETY: both texts end with a zero, and there are no headers.
        let status = unsafe {
            (self.functions.create)(
                &raw mut made.program,
                source.as_ptr(),
                name.as_ptr(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        if status != 0 {
            return Err(failed(format!("error {status}")));
        }
        // SAFETY: the program was made above, and there are as many options as is said.
        let status = unsafe {
            (self.functions.compile)(made.program, options.len() as c_int, options.as_ptr())
        };
        if status != 0 {
            let log = made.log();
            // What comes first is the reason.
            let first: String = log
                .lines()
                .filter(|line| line.contains("error"))
                .take(3)
                .collect::<Vec<_>>()
                .join("; ");
            return Err(failed(format!("error {status}: {first}")));
        }
        made.image()
            .ok_or_else(|| failed("it gives no image".into()))
    }
}

/// A program in the compiler.
struct Made<'a> {
    functions: &'a Functions,
    program: Handle,
}

impl Made<'_> {
    fn log(&self) -> String {
        let mut size = 0;
        // SAFETY: the program lives, and the size is written.
        if unsafe { (self.functions.log_size)(self.program, &raw mut size) } != 0 || size == 0 {
            return String::new();
        }
        let mut log = vec![0_u8; size];
        // SAFETY: there is room for as many bytes as was said.
        unsafe { (self.functions.log)(self.program, log.as_mut_ptr().cast()) };
        CStr::from_bytes_until_nul(&log)
            .map_or_else(|_| String::new(), |log| log.to_string_lossy().into_owned())
    }

    fn image(&self) -> Option<Vec<u8>> {
        let mut size = 0;
        // SAFETY: the program lives, and the size is written.
        if unsafe { (self.functions.image_size)(self.program, &raw mut size) } != 0 || size == 0 {
            return None;
        }
        let mut image = vec![0_u8; size];
        // SAFETY: there is room for as many bytes as was said.
        (unsafe { (self.functions.image)(self.program, image.as_mut_ptr().cast()) } == 0)
            .then_some(image)
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: the program was made by `create` and is used no more.
            unsafe { (self.functions.destroy)(&raw mut self.program) };
        }
    }
}

/// Where the compiler may be: where `TURACO_NVRTC` says, where the system looks, in CUDA's folders, in Python's packages.
fn candidates() -> Vec<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(libraries) = Libraries::instead() {
        return vec![libraries.compiler.clone()];
    }
    if let Some(path) = variable("TURACO_NVRTC") {
        return vec![path];
    }
    let names: &[&str] = if cfg!(windows) {
        &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
    } else {
        &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
    };
    let mut folders = vec![PathBuf::new()];
    for toolkit in ["CUDA_PATH", "CUDA_HOME"].into_iter().filter_map(variable) {
        folders.extend(["lib64", "lib", "bin"].map(|folder| toolkit.join(folder)));
    }
    folders.push("/usr/local/cuda/lib64".into());
    for python in ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(variable)
    {
        let versions = std::fs::read_dir(python.join("lib"))
            .into_iter()
            .flatten()
            .flatten();
        for version in versions {
            let packages = version.path().join("site-packages/nvidia");
            folders.extend(["cu13/lib", "cuda_nvrtc/lib"].map(|folder| packages.join(folder)));
        }
    }
    folders
        .iter()
        .flat_map(|folder| names.iter().map(|name| folder.join(name)))
        .collect()
}
