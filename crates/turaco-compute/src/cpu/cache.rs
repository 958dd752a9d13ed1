//! Key and value storage of one sequence.
//!
//! Values lie as they come, `[layer][position][kv_dim]`. Keys lie in blocks of [`KEY_BLOCK`] positions, transposed:
//! `[layer][position / 16][kv_dim][position % 16]`. So the scores of 16 neighbouring keys against one query are a sum
//! over contiguous vectors without any horizontal addition, a head's keys of one block are contiguous whatever the
//! head width is, and a block is directly the right-hand panel of a matrix product with many queries.

use half::{bf16, f16};

use crate::device::CacheShape;
use crate::dtype::DType;
use crate::error::{Error, Result};

use super::kernels::Rows;

/// Positions in one transposed block of keys.
pub(crate) const KEY_BLOCK: usize = 16;

/// A number format of a cache.
pub(crate) trait CacheNumber: Copy + Send + Sync + 'static {
    /// To single precision, exactly.
    fn widen(self) -> f32;
    /// From single precision, to the nearest.
    fn narrow(value: f32) -> Self;
}

impl CacheNumber for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
}

impl CacheNumber for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl CacheNumber for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// Keys and values in one number format.
pub(crate) struct Planes<T> {
    keys: Vec<T>,
    values: Vec<T>,
}

/// Storage behind a [`KvCache`](crate::KvCache) of the CPU.
pub(crate) enum CpuCache {
    F32(Planes<f32>),
    F16(Planes<f16>),
    Bf16(Planes<bf16>),
}

/// The keys and values of one layer.
#[derive(Clone, Copy)]
pub(crate) struct Layer<'a, T> {
    /// `[position / 16][kv_dim][position % 16]`.
    pub keys: &'a [T],
    /// `[position][kv_dim]`.
    pub values: &'a [T],
    pub kv_dim: usize,
}

/// Calls `$body` with `$planes` bound to the planes of the cache's format.
macro_rules! with_planes {
    ($cache:expr, $planes:ident => $body:expr) => {
        match $cache {
            $crate::cpu::cache::CpuCache::F32($planes) => $body,
            $crate::cpu::cache::CpuCache::F16($planes) => $body,
            $crate::cpu::cache::CpuCache::Bf16($planes) => $body,
        }
    };
}
pub(crate) use with_planes;

impl CpuCache {
    /// Empty storage.
    pub(crate) fn new(shape: CacheShape) -> Result<Self> {
        Ok(match shape.dtype {
            DType::F32 => Self::F32(Planes::new(shape)?),
            DType::F16 => Self::F16(Planes::new(shape)?),
            DType::Bf16 => Self::Bf16(Planes::new(shape)?),
            other => {
                return Err(Error::Unsupported {
                    what: format!("a key/value cache of {other}"),
                    reason: "it can be f32, f16 or bf16".into(),
                });
            }
        })
    }

    /// Copy positions `from..to` of every layer from a cache of the same shape.
    pub(crate) fn copy_from(
        &mut self,
        source: &Self,
        shape: CacheShape,
        from: usize,
        to: usize,
    ) -> Result<()> {
        match (self, source) {
            (Self::F32(target), Self::F32(source)) => target.copy_from(source, shape, from, to),
            (Self::F16(target), Self::F16(source)) => target.copy_from(source, shape, from, to),
            (Self::Bf16(target), Self::Bf16(source)) => target.copy_from(source, shape, from, to),
            _ => {
                return Err(Error::Unsupported {
                    what: "copying between caches of different formats".into(),
                    reason: "both must be made with the same shape".into(),
                });
            }
        }
        Ok(())
    }

    /// Write rows of keys and values to layer `layer` from position `start` on.
    pub(crate) fn append(
        &mut self,
        shape: CacheShape,
        layer: usize,
        start: usize,
        k: Rows<'_>,
        v: Rows<'_>,
    ) {
        with_planes!(self, planes => planes.append(shape, layer, start, k, v));
    }
}

/// Positions of a cache rounded up to whole blocks.
fn padded(capacity: usize) -> usize {
    capacity.next_multiple_of(KEY_BLOCK)
}

impl<T: CacheNumber> Planes<T> {
    fn new(shape: CacheShape) -> Result<Self> {
        let allocate = |positions: usize| -> Result<Vec<T>> {
            let len = shape
                .n_layers
                .checked_mul(positions)
                .and_then(|n| n.checked_mul(shape.kv_dim));
            let refused = || Error::OutOfMemory {
                bytes: len.unwrap_or(usize::MAX).saturating_mul(size_of::<T>()),
                what: "a key/value cache".into(),
            };
            let len = len.ok_or_else(refused)?;
            let mut numbers = Vec::new();
            numbers.try_reserve_exact(len).map_err(|_| refused())?;
            numbers.resize(len, T::narrow(0.0));
            Ok(numbers)
        };
        let positions = shape
            .capacity
            .checked_next_multiple_of(KEY_BLOCK)
            .unwrap_or(usize::MAX);
        Ok(Self {
            keys: allocate(positions)?,
            values: allocate(shape.capacity)?,
        })
    }

    /// One layer.
    pub(crate) fn layer(&self, shape: CacheShape, layer: usize) -> Layer<'_, T> {
        let keys = padded(shape.capacity) * shape.kv_dim;
        let values = shape.capacity * shape.kv_dim;
        Layer {
            keys: &self.keys[layer * keys..][..keys],
            values: &self.values[layer * values..][..values],
            kv_dim: shape.kv_dim,
        }
    }

    fn append(&mut self, shape: CacheShape, layer: usize, start: usize, k: Rows<'_>, v: Rows<'_>) {
        let width = shape.kv_dim;
        let keys = &mut self.keys[layer * padded(shape.capacity) * width..]
            [..padded(shape.capacity) * width];
        let values = &mut self.values[layer * shape.capacity * width..][..shape.capacity * width];
        for (index, (k, v)) in k.iter().zip(v.iter()).enumerate() {
            let position = start + index;
            let (block, lane) = (position / KEY_BLOCK, position % KEY_BLOCK);
            let block = &mut keys[block * KEY_BLOCK * width..][..KEY_BLOCK * width];
            for (target, &key) in block.chunks_exact_mut(KEY_BLOCK).zip(k) {
                target[lane] = T::narrow(key);
            }
            for (target, &value) in values[position * width..][..width].iter_mut().zip(v) {
                *target = T::narrow(value);
            }
        }
    }

    fn copy_from(&mut self, source: &Self, shape: CacheShape, from: usize, to: usize) {
        let width = shape.kv_dim;
        for layer in 0..shape.n_layers {
            // Whole blocks: the lanes before `from` are equal already, those after `to` hold nothing.
            let base = layer * padded(shape.capacity) * width;
            let keys = base + from / KEY_BLOCK * KEY_BLOCK * width..base + padded(to) * width;
            self.keys[keys.clone()].copy_from_slice(&source.keys[keys]);
            let base = layer * shape.capacity * width;
            let values = base + from * width..base + to * width;
            self.values[values.clone()].copy_from_slice(&source.values[values]);
        }
    }
}
