//! States on the card: key and value caches, and state buffers.

use std::sync::Arc;

use super::context::{Context, Memory};
use super::driver::PlaneCopy;
use crate::device::CacheShape;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Storage behind a [`KvCache`](crate::KvCache): for each layer the keys of all positions, then their values.
pub(super) struct CudaCache {
    pub memory: Memory,
    /// As kernels number formats (`kernels/states.cuh`).
    pub format: u32,
    /// Bytes of the keys of a position.
    row_bytes: usize,
    shape: CacheShape,
}

impl CudaCache {
    pub fn new(context: &Arc<Context>, shape: CacheShape) -> Result<Self> {
        let (format, row_bytes) = match shape.dtype {
            DType::F32 => (0, shape.kv_dim.saturating_mul(4)),
            DType::F16 => (1, shape.kv_dim.saturating_mul(2)),
            DType::Bf16 => (2, shape.kv_dim.saturating_mul(2)),
            DType::I8 => (3, scaled_row_bytes(shape)?),
            other => {
                return Err(Error::Unsupported {
                    what: format!("a key/value cache of {other}"),
                    reason: "it can be f32, f16, bf16 or i8".into(),
                });
            }
        };
        let what = "a key/value cache";
        let total = [row_bytes, shape.capacity, 2, shape.n_layers]
            .into_iter()
            .try_fold(1_usize, usize::checked_mul)
            .ok_or_else(|| Error::OutOfMemory {
                bytes: usize::MAX,
                what: what.into(),
            })?;
        Ok(Self {
            memory: context.zeros(total, what)?,
            format,
            row_bytes,
            shape,
        })
    }

    /// Copy positions `from..to` of every layer from a cache of the same shape, or of another capacity that holds them.
    pub fn copy_from(&mut self, source: &Self, from: usize, to: usize) -> Result<()> {
        let context = self.memory.context();
        if !self.belongs_to(source.memory.context()) {
            return Err(Error::Unsupported {
                what: "copying a cache to another device".into(),
                reason: "both must be made by the same one".into(),
            });
        }
        let rows = 2 * self.shape.n_layers;
        let (first, bytes) = (from * self.row_bytes, (to - from) * self.row_bytes);
        if bytes == 0 || rows == 0 {
            return Ok(());
        }
        let side = |cache: &Self| {
            let pitch = cache.shape.capacity * cache.row_bytes;
            (cache.memory.address + first as u64, pitch)
        };
        let copy = PlaneCopy::on_device(side(source), side(self), bytes, rows);
        context.with_stream("copying a cache", |functions, stream| {
            // SAFETY: both caches have as many rows of at least as many bytes, and live until the stream is waited for.
            unsafe { (functions.copy_plane)(&raw const copy, stream) }
        })
    }

    /// Whether it belongs to `context`.
    pub fn belongs_to(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(self.memory.context(), context)
    }

    /// Whether heads of so many columns are those that have factors of their own, if there are any.
    pub fn has_heads_of(&self, head_dim: usize) -> bool {
        self.shape.dtype != DType::I8 || self.shape.head_dim == head_dim
    }
}

/// Bytes of the keys of a position, and behind them the factors of its heads.
fn scaled_row_bytes(shape: CacheShape) -> Result<usize> {
    let n_heads = shape.kv_dim.checked_div(shape.head_dim).unwrap_or(0);
    if n_heads == 0 || n_heads * shape.head_dim != shape.kv_dim {
        return Err(Error::Shape {
            what: "a key/value cache of bytes".into(),
            expected: "whole heads".into(),
            found: format!("{} columns of {}", shape.kv_dim, shape.head_dim),
        });
    }
    Ok(shape.kv_dim.next_multiple_of(16) + 16 * n_heads.div_ceil(4))
}

/// Storage behind a [`StateBuffer`](crate::StateBuffer).
pub(super) struct CudaState {
    pub memory: Memory,
}

impl CudaState {
    pub fn new(context: &Arc<Context>, len: usize) -> Result<Self> {
        let memory = context.zeros(len.saturating_mul(4), "a state buffer")?;
        Ok(Self { memory })
    }

    pub fn write(&mut self, values: &[f32]) -> Result<()> {
        let bytes = bytemuck::cast_slice(values);
        self.memory.context().write(self.memory.address, bytes)
    }

    pub fn read(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0_f32; self.memory.bytes / 4];
        let bytes = bytemuck::cast_slice_mut(&mut values);
        self.memory.context().read(self.memory.address, bytes)?;
        Ok(values)
    }

    /// Whether it belongs to `context`.
    pub fn belongs_to(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(self.memory.context(), context)
    }
}
