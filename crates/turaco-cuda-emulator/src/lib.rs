//! A card for tests on machines that have none: a library that imitates NVIDIA's driver and the compiler NVRTC. Kernels are
//! compiled as C++ and run on the processor, thread by thread; what is asked of the driver is counted, and it fails where a
//! test wants it to.

use std::path::{Path, PathBuf};

use libloading::Library;

/// The library, both driver and compiler; `None` where no C++ compiler was found to build it with.
pub fn library() -> Option<PathBuf> {
    let path = env!("TURACO_CUDA_EMULATOR");
    (!path.is_empty()).then(|| PathBuf::from(path))
}

/// What was asked of the driver since it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counts {
    /// Kernels that ran, one by one or in graphs.
    pub kernels: u64,
    /// Graphs that were handed over.
    pub graphs: u64,
    /// Copies to the card.
    pub uploads: u64,
    /// Bytes of them.
    pub uploaded: u64,
    /// Copies from the card.
    pub downloads: u64,
    /// Bytes of them.
    pub downloaded: u64,
    /// Requests for memory.
    pub allocations: u64,
    /// Runs that were recorded.
    pub captures: u64,
    /// Programs that were compiled.
    pub compilations: u64,
}

impl Counts {
    /// What was asked since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            kernels: self.kernels - earlier.kernels,
            graphs: self.graphs - earlier.graphs,
            uploads: self.uploads - earlier.uploads,
            uploaded: self.uploaded - earlier.uploaded,
            downloads: self.downloads - earlier.downloads,
            downloaded: self.downloaded - earlier.downloaded,
            allocations: self.allocations - earlier.allocations,
            captures: self.captures - earlier.captures,
            compilations: self.compilations - earlier.compilations,
        }
    }
}

/// How the emulator behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// It has so many bytes of memory.
    Memory(u64),
    /// It shows so many cards.
    Cards(u32),
    /// They have this compute capability: 90 for 9.0.
    Capability(u32),
    /// They have so many multiprocessors; 4 at first, as more of them take more threads, which an emulator runs one by one.
    Processors(u32),
    /// Threads and blocks run in this order, where nothing makes them wait.
    Order(Order),
    /// The card is lost at a launch, after so many that go well.
    Lost(u32),
    /// A kernel never ends, after so many that do.
    Hanging(u32),
    /// The card is as new.
    Well,
}

/// Orders that a kernel's result may not depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Each in turn; the quickest, and what happens unless another is asked for.
    Forward = 0,
    /// The last ones first.
    Backward = 1,
    /// Any, the same in every run.
    Shuffled = 2,
}

/// The emulator as this process has loaded it.
pub struct Emulator {
    library: Library,
}

impl Emulator {
    /// The library at `path`, loaded.
    ///
    /// # Errors
    /// It cannot be loaded.
    pub fn open(path: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: the library is this crate's own.
        let library = unsafe { Library::new(path) }?;
        Ok(Self { library })
    }

    /// What was asked of the driver.
    ///
    /// # Errors
    /// It is another library.
    pub fn counts(&self) -> Result<Counts, libloading::Error> {
        let mut counts = Counts::default();
        // SAFETY: the function writes as many numbers as `Counts` has.
        unsafe {
            let read = self
                .library
                .get::<unsafe extern "C" fn(*mut Counts)>(b"turaco_emulator_counts\0")?;
            read(&raw mut counts);
        }
        Ok(counts)
    }

    /// Let it behave.
    ///
    /// # Errors
    /// It is another library.
    pub fn behave(&self, behaviour: Behaviour) -> Result<(), libloading::Error> {
        let (what, value) = match behaviour {
            Behaviour::Memory(bytes) => (0, i64::try_from(bytes).unwrap_or(i64::MAX)),
            Behaviour::Cards(count) => (1, i64::from(count)),
            Behaviour::Capability(capability) => (2, i64::from(capability)),
            Behaviour::Lost(after) => (3, i64::from(after)),
            Behaviour::Hanging(after) => (4, i64::from(after)),
            Behaviour::Well => (5, 0),
            Behaviour::Order(order) => (7, order as i64),
            Behaviour::Processors(count) => (6, i64::from(count)),
        };
        // SAFETY: the function takes two numbers.
        unsafe {
            let set = self
                .library
                .get::<unsafe extern "C" fn(i32, i64)>(b"turaco_emulator_set\0")?;
            set(what, value);
        }
        Ok(())
    }
}
