//! Caches of keys and values that are counted while they are there.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use turaco_compute::{CacheShape, DType, KvCache};

/// Bytes of all caches of one model; clones count together.
#[derive(Debug, Clone, Default)]
pub struct CacheMeter(Arc<AtomicU64>);

impl CacheMeter {
    /// Bytes at the moment.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Count a cache for as long as it is there.
    pub fn count(&self, cache: KvCache) -> MeteredCache {
        let bytes = bytes_of(cache.shape());
        self.0.fetch_add(bytes, Ordering::Relaxed);
        MeteredCache {
            cache,
            bytes,
            meter: self.clone(),
        }
    }
}

/// A cache that its model counts.
pub struct MeteredCache {
    cache: KvCache,
    bytes: u64,
    meter: CacheMeter,
}

impl Deref for MeteredCache {
    type Target = KvCache;

    fn deref(&self) -> &KvCache {
        &self.cache
    }
}

impl DerefMut for MeteredCache {
    fn deref_mut(&mut self) -> &mut KvCache {
        &mut self.cache
    }
}

impl std::fmt::Debug for MeteredCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.cache.fmt(f)
    }
}

impl Drop for MeteredCache {
    fn drop(&mut self) {
        self.meter.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Keys and values of all layers; with bytes, one scale for each head as well.
fn bytes_of(shape: CacheShape) -> u64 {
    let row = match shape.dtype {
        DType::F32 => 4 * shape.kv_dim,
        DType::I8 => shape.kv_dim + 4 * (shape.kv_dim / shape.head_dim.max(1)),
        _ => 2 * shape.kv_dim,
    };
    (2 * shape.n_layers * row) as u64 * shape.capacity as u64
}

#[cfg(test)]
mod tests {
    use turaco_compute::{CpuOptions, Device};

    use super::*;

    #[test]
    fn caches_are_counted_while_they_are_there() {
        let device = Device::cpu(CpuOptions::default());
        let shape = CacheShape {
            n_layers: 3,
            capacity: 10,
            kv_dim: 8,
            head_dim: 4,
            dtype: DType::F16,
        };
        let meter = CacheMeter::default();
        let first = meter.count(device.kv_cache(shape).unwrap());
        assert_eq!(meter.bytes(), 2 * 3 * 10 * 8 * 2);
        let second = meter.clone().count(device.kv_cache(shape).unwrap());
        assert_eq!(meter.bytes(), 2 * 2 * 3 * 10 * 8 * 2);
        drop((first, second));
        assert_eq!(meter.bytes(), 0);
    }
}
