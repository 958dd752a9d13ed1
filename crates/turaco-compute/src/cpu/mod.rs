//! The CPU backend.

use std::sync::{Arc, Mutex, PoisonError};

use crate::device::{
    Backend, CacheShape, Device, Executable, HostMatrix, KvCache, Matrix, StateBuffer, Task,
    Vector, WeightType,
};
use crate::error::{Error, Result};
use crate::graph::Graph;

use self::cache::CpuCache;
use self::executor::{CpuExecutable, Engine};
use self::isa::Isa;
use self::matrix::CpuMatrix;
use self::pool::Pool;

mod arena;
mod cache;
mod executor;
pub mod isa;
pub mod kernels;
pub(crate) mod matrix;
pub mod memory;
pub mod packed;
mod plan;
pub mod pool;
mod simd;

/// Rows for which the panels of a linear map are read once, as they are multiplied with a block of rows: for more, they are
/// read again.
const FILLING_ROWS: usize = 96;

/// How to use the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuOptions {
    /// Threads, the caller's included; 0 = as many as there are physical cores.
    pub threads: usize,
    /// Instruction set; `None` = the best one of this machine. One that the machine lacks is replaced by the best.
    pub isa: Option<Isa>,
    /// Whether operations without weights may round their inputs to bf16.
    pub precision: Precision,
}

/// Arithmetic of operations that have no weights of their own (attention inside a step). Linear maps follow the type
/// of their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// bf16 in steps whose linear maps all have bf16 or int8 weights, where the machine multiplies bf16; otherwise f32.
    #[default]
    Auto,
    /// f32 always.
    Exact,
    /// bf16 wherever the machine multiplies it.
    Fast,
}

/// The processor as a device.
pub(crate) struct CpuBackend {
    engine: Arc<Engine>,
}

impl Device {
    /// The processor.
    pub fn cpu(options: CpuOptions) -> Self {
        let isa = options
            .isa
            .filter(|isa| Isa::available().contains(isa))
            .unwrap_or_else(Isa::best);
        let threads = match options.threads {
            0 => physical_cores(),
            threads => threads,
        };
        let engine = Engine {
            isa,
            pool: Pool::new(threads),
            precision: options.precision,
        };
        Self(Arc::new(CpuBackend {
            engine: Arc::new(engine),
        }))
    }
}

impl Backend for CpuBackend {
    fn description(&self) -> String {
        let threads = self.engine.pool.n_threads();
        let plural = if threads == 1 { "" } else { "s" };
        format!("cpu ({}, {threads} thread{plural})", self.engine.isa.name())
    }

    fn matrix(&self, sources: &[HostMatrix<'_>], weight_type: WeightType) -> Result<Matrix> {
        let matrix = CpuMatrix::new(sources, weight_type, &self.engine.pool)?;
        let packed = matrix.packed();
        let (shape, bytes) = ((packed.n(), packed.k()), packed.bytes());
        Ok(Matrix::new(shape, weight_type, bytes, Box::new(matrix)))
    }

    fn vector(&self, values: &[f32]) -> Result<Vector> {
        Ok(Vector::new(values.len(), Box::new(values.to_vec())))
    }

    fn kv_cache(&self, shape: CacheShape) -> Result<KvCache> {
        Ok(KvCache::new(shape, Box::new(CpuCache::new(shape)?)))
    }

    fn copy_cache(&self, from: &KvCache, to: &mut KvCache, from_position: usize) -> Result<()> {
        from.check_copy(to, from_position)?;
        let source = from.storage::<CpuCache>()?;
        to.storage_mut::<CpuCache>()?
            .copy_from(source, from.places(from_position))?;
        to.set_positions_of(from);
        Ok(())
    }

    fn state_buffer(&self, len: usize) -> Result<StateBuffer> {
        let mut values: Vec<f32> = Vec::new();
        values
            .try_reserve_exact(len)
            .map_err(|_| Error::OutOfMemory {
                bytes: len.saturating_mul(4),
                what: "a state buffer".into(),
            })?;
        values.resize(len, 0.0);
        Ok(StateBuffer::new(len, Box::new(values)))
    }

    fn write_buffer(&self, buffer: &mut StateBuffer, values: &[f32]) -> Result<()> {
        if buffer.len() != values.len() {
            return Err(Error::Shape {
                what: "state buffer".into(),
                expected: format!("{} values", buffer.len()),
                found: format!("{}", values.len()),
            });
        }
        buffer.storage_mut::<Vec<f32>>()?.copy_from_slice(values);
        Ok(())
    }

    fn read_buffer(&self, buffer: &StateBuffer) -> Result<Vec<f32>> {
        buffer.storage::<Vec<f32>>().cloned()
    }

    fn rows_that_fill(&self) -> usize {
        FILLING_ROWS
    }

    fn compile(&self, graph: Graph) -> Result<Box<dyn Executable>> {
        Ok(Box::new(CpuExecutable::new(&self.engine, graph)?))
    }

    fn side_by_side(&self, first: Task<'_>, second: Task<'_>) -> bool {
        let pool = &self.engine.pool;
        if pool.n_threads() != 2 {
            return false;
        }
        // Regions that begin inside of this one run on the thread that begins them.
        let (first, second) = (Mutex::new(first), Mutex::new(second));
        pool.run(2, &|index| match index {
            0 => first.lock().unwrap_or_else(PoisonError::into_inner)(),
            _ => second.lock().unwrap_or_else(PoisonError::into_inner)(),
        });
        true
    }
}

/// Cores that this process may use, without the second threads of a core.
pub fn physical_cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Linux names the threads that share a core; elsewhere all of them count.
    let mut cores = std::collections::BTreeSet::new();
    for index in 0.. {
        let path = format!("/sys/devices/system/cpu/cpu{index}/topology/thread_siblings_list");
        match std::fs::read_to_string(path) {
            Ok(siblings) => cores.insert(siblings),
            Err(_) => break,
        };
    }
    if cores.is_empty() {
        logical
    } else {
        cores.len().min(logical)
    }
}

/// Whether the processor multiplies bf16 matrices by itself.
pub fn has_bf16_products() -> bool {
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("bf16")
    }
    #[cfg(not(target_arch = "aarch64"))]
    {
        isa::Isa::best() >= isa::Isa::Avx512Dot
    }
}
