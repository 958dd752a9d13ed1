//! Weights on a graphics processor: the panels of the processor's own packing, in as many buffers as it takes.
//!
//! A panel of 32 outputs with the inputs outermost is what neighbouring threads like to read, too: see
//! [`crate::cpu::packed`] for the orders, and `shaders/weights_*.wgsl` for how they are read.

use std::ops::Range;

use half::{bf16, f16};

use super::context::Context;
use crate::cpu::matrix::CpuMatrix;
use crate::cpu::packed::blocks::{Q4_BYTES, Q8_BYTES, SCALE_BYTES};
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
    /// The power of two that they are multiplied with before they become f16, for cooperative matrices.
    pub scale: f32,
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
        let scaled = context.matrices.iter().any(|kind| kind.half);
        Ok(Part {
            scale: if scaled {
                scale_of(largest(packed, first..end))
            } else {
                1.0
            },
            weights,
            scales,
            first_row,
            rows: packed.n().min(end * PANEL) - first_row,
        })
    }
}

/// What no finite weight of some panels exceeds, padding included; about twice the largest of them at most. Not for f32.
fn largest(packed: &PackedMatrix, panels: Range<usize>) -> f32 {
    // Without signs, numbers are in the order of their bits; from `infinite` on they are none.
    let largest_bits = |bytes: &[u8], infinite: u16| -> u16 {
        (bytes.as_chunks::<2>().0.iter())
            .map(|&bytes| u16::from_le_bytes(bytes) & 0x7fff)
            .map(|bits| if bits < infinite { bits } else { 0 })
            .max()
            .unwrap_or(0)
    };
    let half = |bytes: &[u8]| f16::from_bits(largest_bits(bytes, 0x7c00)).to_f32();
    let of_panel = |panel: usize| -> f32 {
        let bytes = packed.panel(panel);
        match packed.weight_type() {
            WeightType::F32 => 0.0,
            WeightType::F16 => half(bytes),
            WeightType::Bf16 => bf16::from_bits(largest_bits(bytes, 0x7f80)).to_f32(),
            WeightType::Int8 => {
                let scales = packed.panel_scales(panel).into_iter().flatten();
                128.0 * scales.fold(0.0, |most: f32, scale| most.max(scale.abs()))
            }
            WeightType::Q8 => (bytes.chunks(Q8_BYTES))
                .map(|block| 128.0 * half(&block[..SCALE_BYTES]))
                .fold(0.0, f32::max),
            WeightType::Q4 => (bytes.chunks(Q4_BYTES))
                .map(|block| {
                    let (scales, minimums) = block[..2 * SCALE_BYTES].split_at(SCALE_BYTES);
                    15.0 * half(scales) + half(minimums)
                })
                .fold(0.0, f32::max),
        }
    };
    panels.map(of_panel).fold(0.0, f32::max)
}

/// The power of two that brings a number to between 128 and 256, as far as 120 of them do.
fn scale_of(largest: f32) -> f32 {
    let exponent = (largest.to_bits() >> 23) & 0xff;
    f32::from_bits(261_u32.saturating_sub(exponent).clamp(7, 247) << 23)
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
