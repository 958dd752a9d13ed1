//! States on a graphics processor: key and value caches, and state buffers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::context::{BufferCopy, Context};
use super::shader::Keys;
use crate::device::CacheShape;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Storage behind a [`KvCache`](crate::KvCache): a buffer for each layer, positions outermost, first all keys, then all
/// values. Numbers of 16 bits share words.
pub(super) struct GpuCache {
    pub keys: Keys,
    /// 32-bit words of the keys of a position.
    pub row_words: usize,
    /// Where the values begin.
    pub values: usize,
    pub layers: Vec<Layer>,
    identity: Arc<Identity>,
    /// Whose memory it is.
    context: Arc<Context>,
}

/// What tells a cache from all others, as long as it lives.
pub(super) struct Identity(u64);

/// One layer, ready to be bound.
pub(super) struct Layer {
    buffer: wgpu::Buffer,
    pub group: wgpu::BindGroup,
}

impl GpuCache {
    pub fn new(context: &Arc<Context>, shape: CacheShape) -> Result<Self> {
        let (keys, row_words) = match shape.dtype {
            DType::F32 => (Keys::F32, shape.kv_dim),
            DType::F16 | DType::I8 => (Keys::F16, shape.kv_dim.div_ceil(2)),
            DType::Bf16 => (Keys::Bf16, shape.kv_dim.div_ceil(2)),
            other => {
                return Err(Error::Unsupported {
                    what: format!("a key/value cache of {other}"),
                    reason: "it can be f32, f16, bf16 or i8".into(),
                });
            }
        };
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let what = "a layer of a key/value cache";
        let values = row_words
            .checked_mul(shape.capacity)
            .filter(|words| words.checked_mul(8).is_some())
            .ok_or_else(|| Error::OutOfMemory {
                bytes: usize::MAX,
                what: what.into(),
            })?;
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        let layers = (0..shape.n_layers)
            .map(|_| {
                let buffer = context.buffer(8 * values as u64, usage, what)?;
                let group = context.cache_group(1, std::iter::once(&buffer));
                Ok(Layer { buffer, group })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            keys,
            row_words,
            values,
            layers,
            identity: Arc::new(Identity(NEXT.fetch_add(1, Ordering::Relaxed))),
            context: Arc::clone(context),
        })
    }

    /// Copy positions `from..to` of every layer from a cache of the same shape, or of another capacity that holds them, at the
    /// beginning of the next submission.
    pub fn copy_from(&mut self, source: &Self, from: usize, to: usize) -> Result<()> {
        if !Arc::ptr_eq(&self.context, &source.context) {
            return Err(Error::Unsupported {
                what: "copying a cache to another device".into(),
                reason: "both must be made by the same one".into(),
            });
        }
        let (start, len) = (4 * from * self.row_words, 4 * (to - from) * self.row_words);
        if len == 0 {
            return Ok(());
        }
        let layers = source.layers.iter().zip(&self.layers);
        let copies = layers.flat_map(|(source_layer, layer)| {
            [(0, 0), (source.values, self.values)].map(|(from, to)| BufferCopy {
                from: source_layer.buffer.clone(),
                from_byte: (start + 4 * from) as u64,
                to: layer.buffer.clone(),
                to_byte: (start + 4 * to) as u64,
                bytes: len as u64,
            })
        });
        self.context.copy_later(copies);
        self.context.check()
    }

    /// Which cache it is.
    pub fn number(&self) -> u64 {
        self.identity.0
    }

    /// Lives as long as the cache.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The memory of a layer.
    pub fn buffer(&self, layer: usize) -> &wgpu::Buffer {
        &self.layers[layer].buffer
    }

    /// Whether it belongs to `context`.
    pub fn belongs_to(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(&self.context, context)
    }
}

impl Drop for GpuCache {
    fn drop(&mut self) {
        let buffers = self.layers.iter().map(|layer| &layer.buffer);
        self.context.release(buffers);
    }
}

/// Storage behind a [`StateBuffer`](crate::StateBuffer).
pub(super) struct GpuState {
    buffer: wgpu::Buffer,
    pub group: wgpu::BindGroup,
    len: usize,
    context: Arc<Context>,
}

impl GpuState {
    pub fn new(context: &Arc<Context>, len: usize) -> Result<Self> {
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        let buffer = context.buffer((len as u64).saturating_mul(4), usage, "a state buffer")?;
        Ok(Self {
            group: state_group(context, &buffer),
            buffer,
            len,
            context: Arc::clone(context),
        })
    }

    pub fn write(&mut self, values: &[f32]) -> Result<()> {
        if !values.is_empty() {
            let bytes = bytemuck::cast_slice(values);
            self.context.queue.write_buffer(&self.buffer, 0, bytes);
        }
        self.context.check()
    }

    pub fn read(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0_f32; self.len];
        let bytes = bytemuck::cast_slice_mut(&mut values);
        self.context.fetch(&self.buffer, 0, bytes)?;
        Ok(values)
    }

    /// Whether it belongs to `context`.
    pub fn belongs_to(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(&self.context, context)
    }
}

fn state_group(context: &Context, buffer: &wgpu::Buffer) -> wgpu::BindGroup {
    context
        .device
        .create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &context.state_layout,
            entries: &[wgpu::BindGroupEntry {
                binding: 0,
                resource: buffer.as_entire_binding(),
            }],
        })
}
