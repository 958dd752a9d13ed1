//! Weights on a graphics processor: the panels of the processor's own packing, in as many buffers as it takes.
//!
//! A panel of 32 outputs with the inputs outermost is what neighbouring threads like to read, too: see
//! [`crate::cpu::packed`] for the orders, and `shaders/weights_*.wgsl` for how they are read.

use super::context::Context;
use crate::cpu::matrix::CpuMatrix;
use crate::cpu::packed::{PANEL, PackedMatrix};
use crate::cpu::pool::Pool;
use crate::device::{HostMatrix, WeightType};
use crate::error::{Error, Result};

/// A matrix, cut by rows.
pub(super) struct GpuMatrix {
    pub parts: Vec<Part>,
    pub weight_type: WeightType,
    /// 32-bit words of a panel.
    pub panel_words: usize,
    pub bytes: usize,
}

/// Some rows of a matrix.
pub(super) struct Part {
    pub weights: wgpu::Buffer,
    /// Factors of the rows, int8 only.
    pub scales: Option<wgpu::Buffer>,
    pub first_row: usize,
    pub rows: usize,
}

impl GpuMatrix {
    /// Pack the stacked sources and upload them.
    pub fn new(
        context: &Context,
        pool: &Pool,
        sources: &[HostMatrix<'_>],
        weight_type: WeightType,
    ) -> Result<Self> {
        let matrix = CpuMatrix::new(sources, weight_type, pool)?;
        let packed = matrix.packed();
        let panel_bytes = packed.panel(0).len();
        let at_once =
            usize::try_from(context.max_weights).unwrap_or(usize::MAX) / panel_bytes.max(1);
        if at_once == 0 {
            return Err(Error::Unsupported {
                what: format!("a matrix with {} inputs", packed.k()),
                reason: format!(
                    "32 of its rows are more than the largest buffer of {} has room for",
                    context.summary.name
                ),
            });
        }
        let parts = (0..packed.n_panels())
            .step_by(at_once)
            .map(|first| {
                let end = packed.n_panels().min(first + at_once);
                Self::upload(context, packed, first, end)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            parts,
            weight_type,
            panel_words: panel_bytes / 4,
            bytes: packed.bytes(),
        })
    }

    fn upload(context: &Context, packed: &PackedMatrix, first: usize, end: usize) -> Result<Part> {
        let usage = wgpu::BufferUsages::STORAGE;
        let panels = (first..end).map(|panel| packed.panel(panel));
        let weights = context.buffer_of(panels, usage, "weights")?;
        let scales = match packed.weight_type() {
            WeightType::Int8 => {
                let scales = (first..end)
                    .filter_map(|panel| packed.panel_scales(panel))
                    .map(|scales| bytemuck::cast_slice(scales));
                Some(context.buffer_of(scales, usage, "scales of weights")?)
            }
            _ => None,
        };
        let first_row = first * PANEL;
        Ok(Part {
            weights,
            scales,
            first_row,
            rows: packed.n().min(end * PANEL) - first_row,
        })
    }
}

/// A vector.
pub(super) struct GpuVector(pub wgpu::Buffer);

impl GpuVector {
    pub fn new(context: &Context, values: &[f32]) -> Result<Self> {
        let bytes = bytemuck::cast_slice(values);
        let usage = wgpu::BufferUsages::STORAGE;
        Ok(Self(context.buffer_of(
            std::iter::once(bytes),
            usage,
            "a vector",
        )?))
    }
}
