//! The backend for graphics processors: Vulkan, Metal, DirectX 12 and, in browsers, WebGPU through wgpu, with shaders of our own.
//!
//! A recorded graph becomes a list of dispatches whose pipelines, parameters and buffers are settled when it is compiled
//! ([`plan`]); a run writes its inputs with one copy, submits one command buffer, and reads back what the step's outputs
//! ask for ([`executable`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cpu::physical_cores;
use crate::cpu::pool::Pool;
use crate::device::{
    Backend, CacheShape, Device, Executable, HostMatrix, KeptKernels, KernelChoice, KvCache,
    Matrix, StateBuffer, Vector, WeightType,
};
use crate::error::{Error, Result};
use crate::graph::Graph;

use self::adapter::{CAN_WAIT, wait};
use self::context::Context;
use self::executable::GpuExecutable;
use self::shader::Extras;
use self::shader_cache::ShaderCache;
use self::state::{GpuCache, GpuState};
use self::weights::{GpuMatrix, GpuVector};

pub use self::adapter::{
    AdapterSummary, Fault, GpuOptions, Interface, adapters, adapters_async, is_likely,
};

mod adapter;
mod arrival;
mod batch;
mod choices;
mod context;
mod cooperative;
mod executable;
mod memory;
mod plan;
mod recording;
mod shader;
mod shader_cache;
mod state;
mod template;
#[cfg(all(test, any(target_arch = "x86_64", target_vendor = "apple")))]
mod translation;
mod upload;
mod weights;

/// A graphics processor as a device.
struct GpuBackend {
    context: Arc<Context>,
    /// Packs weights.
    pool: Pool,
}

impl Device {
    /// A graphics processor.
    ///
    /// # Errors
    /// [`Error::Device`] if there is none as asked for, or it cannot be opened.
    pub fn gpu(options: GpuOptions) -> Result<Self> {
        if !CAN_WAIT {
            return Err(Error::Unsupported {
                what: "opening a graphics processor in a browser at once".into(),
                reason: "a page must not block; `Device::gpu_async` does not".into(),
            });
        }
        let device = adapter::asked_for(&options);
        match adapter::answered(move || wait(Self::gpu_async(options))) {
            Some(opened) => opened,
            None => Err(Error::Device {
                device,
                reason: "its driver does not answer".into(),
            }),
        }
    }

    /// As [`gpu`](Self::gpu), in a browser too. There, models run with [`Step::run_async`](crate::Step::run_async), and a
    /// shader or buffer that the browser refuses is an error of the run after it.
    ///
    /// # Errors
    /// As [`gpu`](Self::gpu).
    pub async fn gpu_async(options: GpuOptions) -> Result<Self> {
        let context = Context::open(&options).await?;
        Ok(Self(Arc::new(GpuBackend {
            context: Arc::new(context),
            pool: Pool::new(physical_cores()),
        })))
    }
}

impl Backend for GpuBackend {
    fn description(&self) -> String {
        let summary = &self.context.summary;
        let plain = self.context.extras == Extras::default()
            && summary
                .features
                .iter()
                .any(|feature| ["subgroups", "f16"].contains(feature));
        let note = if plain { ", plain" } else { "" };
        format!("{} ({}{note})", summary.interface.name(), summary.name)
    }

    fn kernels(&self) -> Vec<KernelChoice> {
        choices::choices(&self.context)
    }

    fn keep_kernels(&self) -> Option<KeptKernels> {
        let (cache, counters) = (&self.context.shader_cache, &self.context.counters);
        let stored = cache.as_ref().map_or(Ok(()), ShaderCache::store);
        Some(KeptKernels {
            file: cache.as_ref().map(|cache| cache.path().to_path_buf()),
            made: counters.pipelines.load(Ordering::Relaxed),
            compiled: (cache.as_ref())
                .filter(|cache| cache.keeps_shaders())
                .map(|_| counters.compiled.load(Ordering::Relaxed)),
            failure: stored.err().map(|error| error.to_string()),
        })
    }

    fn matrix(&self, sources: &[HostMatrix<'_>], weight_type: WeightType) -> Result<Matrix> {
        let matrix = GpuMatrix::new(&self.context, &self.pool, sources, weight_type)?;
        let rows = sources.iter().map(|source| source.rows).sum();
        let cols = sources.first().map_or(0, |source| source.cols);
        let bytes = matrix.bytes;
        Ok(Matrix::new(
            (rows, cols),
            weight_type,
            bytes,
            Box::new(matrix),
        ))
    }

    fn vector(&self, values: &[f32]) -> Result<Vector> {
        let vector = GpuVector::new(&self.context, values)?;
        Ok(Vector::new(values.len(), Box::new(vector)))
    }

    fn kv_cache(&self, shape: CacheShape) -> Result<KvCache> {
        let cache = GpuCache::new(&self.context, shape)?;
        Ok(KvCache::new(shape, Box::new(cache)))
    }

    fn copy_cache(&self, from: &KvCache, to: &mut KvCache, from_position: usize) -> Result<()> {
        from.check_copy(to, from_position)?;
        let all = 0..from.shape().capacity;
        let places = from.places(from_position).unwrap_or(all);
        let source = from.storage::<GpuCache>()?;
        to.storage_mut::<GpuCache>()?
            .copy_from(source, places.start, places.end)?;
        to.set_positions_of(from);
        Ok(())
    }

    fn state_buffer(&self, len: usize) -> Result<StateBuffer> {
        let state = GpuState::new(&self.context, len)?;
        Ok(StateBuffer::new(len, Box::new(state)))
    }

    fn write_buffer(&self, buffer: &mut StateBuffer, values: &[f32]) -> Result<()> {
        if buffer.len() != values.len() {
            return Err(Error::Shape {
                what: "state buffer".into(),
                expected: format!("{} values", buffer.len()),
                found: format!("{}", values.len()),
            });
        }
        buffer.storage_mut::<GpuState>()?.write(values)
    }

    fn read_buffer(&self, buffer: &StateBuffer) -> Result<Vec<f32>> {
        buffer.storage::<GpuState>()?.read()
    }

    fn compile(&self, graph: Graph) -> Result<Box<dyn Executable>> {
        Ok(Box::new(GpuExecutable::new(&self.context, graph)?))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod browser;
#[cfg(test)]
mod tests;
