//! Weights on the card: the panels of the processor's own packing, see [`crate::cpu::packed`].

use std::sync::Arc;

use super::context::{Context, Memory};
use crate::cpu::matrix::CpuMatrix;
use crate::cpu::pool::Pool;
use crate::device::{HostMatrix, WeightType};
use crate::error::Result;

/// A matrix.
pub(super) struct CudaMatrix {
    pub weights: Memory,
    /// Factors of the rows, int8 only.
    pub scales: Option<Memory>,
    pub weight_type: WeightType,
    pub panel_bytes: usize,
    pub bytes: usize,
}

/// Bytes that are copied at a time: panels are small, and every copy is waited for.
const AT_ONCE: usize = 64 << 20;

impl CudaMatrix {
    /// Pack the stacked sources and upload them.
    pub fn new(
        context: &Arc<Context>,
        pool: &Pool,
        sources: &[HostMatrix<'_>],
        weight_type: WeightType,
    ) -> Result<Self> {
        let matrix = CpuMatrix::new(sources, weight_type, pool)?;
        let packed = matrix.packed();
        let panel_bytes = packed.panel(0).len();
        let panels = packed.n_panels();
        let weights = context.allocate(panels * panel_bytes, "weights")?;
        let mut staged = Vec::new();
        let mut at = weights.address;
        for panel in 0..panels {
            staged.extend_from_slice(packed.panel(panel));
            if staged.len() >= AT_ONCE || panel + 1 == panels {
                context.write(at, &staged)?;
                at += staged.len() as u64;
                staged.clear();
            }
        }
        let scales: Vec<f32> = match weight_type {
            WeightType::Int8 => {
                let scales = (0..panels).filter_map(|panel| packed.panel_scales(panel));
                scales.flatten().copied().collect()
            }
            _ => Vec::new(),
        };
        let scales = match scales.is_empty() {
            true => None,
            false => {
                let memory = context.allocate(4 * scales.len(), "scales of weights")?;
                context.write(memory.address, bytemuck::cast_slice(&scales))?;
                Some(memory)
            }
        };
        Ok(Self {
            weights,
            scales,
            weight_type,
            panel_bytes,
            bytes: packed.bytes(),
        })
    }
}

/// A vector.
pub(super) struct CudaVector(pub Memory);

impl CudaVector {
    pub fn new(context: &Arc<Context>, values: &[f32]) -> Result<Self> {
        let memory = context.allocate(4 * values.len(), "a vector")?;
        context.write(memory.address, bytemuck::cast_slice(values))?;
        Ok(Self(memory))
    }
}
