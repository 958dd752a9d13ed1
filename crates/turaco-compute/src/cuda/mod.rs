//! The backend for NVIDIA's cards: kernels of our own in CUDA C (`kernels/`), compiled for the card at first use by NVRTC and
//! kept in files. Driver and compiler are looked for when the program runs; nothing of CUDA is needed to build it.
//!
//! A recorded graph becomes a list of calls whose kernels, grids and parameters are settled when it is compiled ([`plan`]);
//! the driver records them at the first run, with the copies of inputs and results, as one graph that every later run hands
//! over with a single call ([`executable`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cpu::physical_cores;
use crate::cpu::pool::Pool;
use crate::device::{
    Backend, CacheShape, Device, Executable, HostMatrix, KernelChoice, KvCache, Matrix,
    StateBuffer, Vector, WeightType,
};
use crate::error::{Error, Result};
use crate::graph::Graph;

use self::context::Context;
use self::executable::CudaExecutable;
use self::state::{CudaCache, CudaState};
use self::weights::{CudaMatrix, CudaVector};

pub use self::ahead::{KernelSet, compile_ahead};
pub use self::context::{CardSummary, cards, is_likely};
pub use self::driver::Libraries;

mod ahead;
mod compiler;
mod context;
mod driver;
mod executable;
mod kernels;
mod memory;
mod params;
mod plan;
mod state;
mod weights;

/// Rows for which tensor cores have as much to do as reading bf16 weights takes: a card does some 200 to 300 operations in the
/// time of a byte, two for each row and weight.
const FILLING_ROWS: usize = 512;

/// Which card to use, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CudaOptions {
    /// Which of the cards that the driver shows, in the order of [`cards`]; `None` = the first.
    pub index: Option<usize>,
    /// A folder that keeps compiled kernels from one start to the next; `None` = they are compiled at every start.
    pub kernel_cache: Option<PathBuf>,
    /// How long to wait for a run before it is given up; `None` = two minutes.
    pub patience: Option<Duration>,
}

/// A card as a device.
struct CudaBackend {
    context: Arc<Context>,
    /// Packs weights.
    pool: Pool,
}

impl Device {
    /// A card of NVIDIA's.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no driver, no card as asked for, or it cannot be opened.
    pub fn cuda(options: &CudaOptions) -> Result<Self> {
        Ok(Self(Arc::new(CudaBackend {
            context: Context::open(options)?,
            pool: Pool::new(physical_cores()),
        })))
    }
}

impl Backend for CudaBackend {
    fn description(&self) -> String {
        self.context.name.clone()
    }

    fn kernels(&self) -> Vec<KernelChoice> {
        plan::choices(&self.context)
    }

    fn matrix(&self, sources: &[HostMatrix<'_>], weight_type: WeightType) -> Result<Matrix> {
        let matrix = CudaMatrix::new(&self.context, &self.pool, sources, weight_type)?;
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
        let vector = CudaVector::new(&self.context, values)?;
        Ok(Vector::new(values.len(), Box::new(vector)))
    }

    fn kv_cache(&self, shape: CacheShape) -> Result<KvCache> {
        let cache = CudaCache::new(&self.context, shape)?;
        Ok(KvCache::new(shape, Box::new(cache)))
    }

    fn copy_cache(&self, from: &KvCache, to: &mut KvCache, from_position: usize) -> Result<()> {
        from.check_copy(to, from_position)?;
        let positions = from
            .places(from_position)
            .unwrap_or(0..from.shape().capacity);
        let source = from.storage::<CudaCache>()?;
        to.storage_mut::<CudaCache>()?
            .copy_from(source, positions.start, positions.end)?;
        to.set_positions_of(from);
        Ok(())
    }

    fn state_buffer(&self, len: usize) -> Result<StateBuffer> {
        let state = CudaState::new(&self.context, len)?;
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
        buffer.storage_mut::<CudaState>()?.write(values)
    }

    fn read_buffer(&self, buffer: &StateBuffer) -> Result<Vec<f32>> {
        let mut values = buffer.storage::<CudaState>()?.read()?;
        values.truncate(buffer.len());
        Ok(values)
    }

    fn rows_at_once(&self) -> usize {
        plan::FEW_ROWS_IN_TILES
    }

    fn sequences_at_once(&self) -> usize {
        FILLING_ROWS / 2
    }

    fn rows_that_fill(&self) -> usize {
        FILLING_ROWS
    }

    fn compile(&self, graph: Graph) -> Result<Box<dyn Executable>> {
        Ok(Box::new(CudaExecutable::new(&self.context, graph)?))
    }
}
