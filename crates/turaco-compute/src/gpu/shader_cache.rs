//! Compiled shaders in a file, so that a second start compiles nothing.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::context::lock;

/// What a driver made of shaders, read when a device is opened and written when it is closed.
pub(super) struct ShaderCache {
    pipelines: wgpu::PipelineCache,
    path: PathBuf,
    /// What the file holds, by a hash.
    stored: Mutex<Option<u64>>,
    /// Bytes that the driver kept when they were last counted.
    size: AtomicUsize,
}

/// Bytes of a cache with nothing in it: wgpu's header and Vulkan's.
const HEADERS: usize = 64 + 32;

impl ShaderCache {
    /// The cache of devices of kind `key` in `folder`; `None` if the device cannot keep one.
    pub fn open(device: &wgpu::Device, folder: &Path, key: &str) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let path = folder.join(format!("{key}.shaders"));
        let stored = std::fs::read(&path).ok();
        let descriptor = wgpu::PipelineCacheDescriptor {
            label: None,
            data: stored.as_deref(),
            fallback: true,
        };
        // SAFETY: the bytes were written by this type for the same kind of device and driver, which the name of the file
        // and wgpu's own header say; bytes that do not look like it are dropped (`fallback`).
        let pipelines = unsafe { device.create_pipeline_cache(&descriptor) };
        let size = pipelines.get_data().map_or(0, |bytes| bytes.len());
        Some(Self {
            pipelines,
            size: AtomicUsize::new(size),
            path,
            stored: Mutex::new(stored.as_deref().map(hash)),
        })
    }

    /// Where it is kept.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What pipelines are made with.
    pub fn pipelines(&self) -> &wgpu::PipelineCache {
        &self.pipelines
    }

    /// Whether the driver has kept something since this was last asked: it compiled a shader that it did not have.
    pub fn has_grown(&self) -> bool {
        let size = self.pipelines.get_data().map_or(0, |bytes| bytes.len());
        self.size.swap(size, Ordering::Relaxed) != size
    }

    /// Whether the driver keeps anything here. Mesa's software one does not, and has a cache of its own.
    pub fn keeps_shaders(&self) -> bool {
        self.size.load(Ordering::Relaxed) > HEADERS
    }

    /// What the driver has now, if that is not what the file held: it compiled something, or could not use the file.
    pub fn news(&self) -> Option<Vec<u8>> {
        let bytes = self.pipelines.get_data()?;
        (Some(hash(&bytes)) != *lock(&self.stored)).then_some(bytes)
    }

    /// Write what is new. Without a file, the next start takes longer; that is all.
    pub fn store(&self) -> std::io::Result<()> {
        let Some(bytes) = self.news() else {
            return Ok(());
        };
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Under a name of its own first: another process may be reading.
        let unfinished = self.path.with_extension(std::process::id().to_string());
        let written = std::fs::write(&unfinished, &bytes)
            .and_then(|()| std::fs::rename(&unfinished, &self.path));
        match written {
            Ok(()) => *lock(&self.stored) = Some(hash(&bytes)),
            Err(_) => {
                // A full disk: nothing half-written is left on it.
                let _ = std::fs::remove_file(&unfinished);
            }
        }
        written
    }
}

/// What tells texts and files apart, for one version of the program.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

impl Drop for ShaderCache {
    fn drop(&mut self) {
        let _ = self.store();
    }
}
