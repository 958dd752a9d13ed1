//! The backend for graphics processors: Vulkan, Metal and DirectX 12 through wgpu, with shaders of our own.
//!
//! A recorded graph becomes a list of dispatches whose pipelines, parameters and buffers are settled when it is compiled
//! ([`plan`]); a run writes its inputs with one copy, submits one command buffer, and reads back what the step's outputs
//! ask for ([`executable`]).

use std::sync::Arc;

use crate::cpu::physical_cores;
use crate::cpu::pool::Pool;
use crate::device::{
    Backend, CacheShape, Device, Executable, HostMatrix, KvCache, Matrix, StateBuffer, Vector,
    WeightType,
};
use crate::error::{Error, Result};
use crate::graph::Graph;

use self::context::Context;
use self::executable::GpuExecutable;
use self::state::{GpuCache, GpuState};
use self::weights::{GpuMatrix, GpuVector};

pub use self::adapter::{AdapterSummary, GpuOptions, Interface, adapters, is_likely};

mod adapter;
mod context;
mod executable;
mod memory;
mod plan;
mod shader;
mod shader_cache;
mod state;
#[cfg(all(test, any(target_arch = "x86_64", target_vendor = "apple")))]
mod translation;
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
        Ok(Self(Arc::new(GpuBackend {
            context: Arc::new(Context::open(&options)?),
            pool: Pool::new(physical_cores()),
        })))
    }
}

impl Backend for GpuBackend {
    fn description(&self) -> String {
        let summary = &self.context.summary;
        format!("{} ({})", summary.interface.name(), summary.name)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::device::CacheShape;
    use crate::dtype::DType;
    use crate::graph::{AttentionShape, Mask};
    use crate::step::{Bindings, SlotBinding, StepBuilder};

    #[test]
    fn a_run_is_one_submission_and_one_read() {
        let options = GpuOptions {
            software: true,
            ..GpuOptions::default()
        };
        let context = match Context::open(&options) {
            Ok(context) => Arc::new(context),
            Err(error) => {
                eprintln!("SKIPPED: {error}");
                return;
            }
        };
        let device = Device(Arc::new(GpuBackend {
            context: Arc::clone(&context),
            pool: Pool::new(1),
        }));
        let shape = CacheShape {
            n_layers: 2,
            capacity: 8,
            kv_dim: 16,
            dtype: DType::F16,
        };
        let mut caches = [
            device.kv_cache(shape).unwrap(),
            device.kv_cache(shape).unwrap(),
        ];
        let mut builder = StepBuilder::new(&device);
        let x = builder.input(2, 16);
        let slot = builder.cache_slot();
        let heads = AttentionShape {
            n_heads: 2,
            n_kv_heads: 2,
            head_dim: 8,
            scale: 1.0,
            mask: Mask::Causal,
        };
        for layer in 0..2 {
            builder.cache_append(slot, layer, x, x).unwrap();
            let out = builder.cached_attention(x, slot, layer, 2, heads).unwrap();
            builder.output(out);
        }
        let mut step = builder.finish().unwrap();
        for token in 1..5 {
            let [first, second] = &mut caches;
            step.run(&mut Bindings {
                inputs: &[&[1.0; 32]],
                ids: &[],
                slots: &mut [SlotBinding::Write(&mut [first, second])],
            })
            .unwrap();
            assert_eq!(context.submissions.load(Ordering::Relaxed), token);
            assert_eq!(context.reads.load(Ordering::Relaxed), token);
            // Keys and values are all ones, and so is every mixture of them.
            assert!(
                step.output(1)
                    .unwrap()
                    .iter()
                    .all(|x| (x - 1.0).abs() < 1e-6)
            );
        }
    }

    #[test]
    fn adapters_that_are_not_there_are_errors() {
        let options = GpuOptions {
            index: Some(1000),
            ..GpuOptions::default()
        };
        let error = Device::gpu(options).unwrap_err().to_string();
        assert!(error.contains("1000"), "{error}");
    }
}
