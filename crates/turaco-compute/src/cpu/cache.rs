//! Key and value storage of one sequence.
//!
//! Both lie in blocks of [`BLOCK`] positions. Keys are transposed inside a block, `[block][column][position]`; values
//! are cut into groups of 16 columns, `[block][column / 16][position][column % 16]`. So the scores of neighbouring
//! keys against one query are a sum over contiguous vectors without any horizontal addition, a head's part of a block
//! is contiguous for every head width that is a multiple of 16, and a block is directly the right-hand panel of a
//! matrix product with many queries. [`Panels`] describes this order; the keys of an attention without cache are
//! brought into it too.

use std::ops::Range;

use half::{bf16, f16};

use crate::cpu::isa::Isa;
use crate::cpu::memory::Buffer;
use crate::cpu::packed::Shared;
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Element, Kernel, Simd, dispatch};
use crate::device::CacheShape;
use crate::dtype::DType;
use crate::error::{Error, Result};

use super::kernels::Rows;

/// Positions of one block.
pub(crate) const BLOCK: usize = 16;

/// Positions that an attention kernel reads at a time; storage is padded to a multiple of it.
pub(crate) const TILE_KEYS: usize = 64;

/// Positions that one task packs.
const PACK_POSITIONS: usize = 64;

/// Numbers worth waking another thread.
const WORTH_A_TASK: usize = 16_384;

/// A number format of a cache.
pub(crate) trait CacheNumber: Element + bytemuck::Pod {
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

/// Where the keys and values of some columns of a layer are.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a, T> {
    /// Key of position `p`, column `c`: `[p / 16 * stride + c * 16 + p % 16]`.
    pub keys: &'a [T],
    /// Value of position `p`, column `c`: `[p / 16 * stride + c / 16 * 256 + p % 16 * 16 + c % 16]`.
    pub values: &'a [T],
    /// Numbers from one block of positions to the next.
    pub stride: usize,
    /// Numbers from all blocks of one head to those of the next; 0 if heads are columns of the same blocks.
    pub head_stride: usize,
    /// Positions, a multiple of [`TILE_KEYS`], after which storage begins again: position `p` is where `p % period` is.
    pub period: usize,
}

impl<'a, T> Panels<'a, T> {
    /// Where the block of position `position` begins.
    pub(crate) fn place(&self, position: usize) -> usize {
        position % self.period / BLOCK * self.stride
    }

    /// Where head `head` is, and its first column there.
    pub(crate) fn head(self, head: usize, head_dim: usize) -> (Self, usize) {
        if self.head_stride == 0 {
            return (self, head * head_dim);
        }
        let range = head * self.head_stride..(head + 1) * self.head_stride;
        let panels = Self {
            keys: &self.keys[range.clone()],
            values: &self.values[range],
            ..self
        };
        (panels, 0)
    }

    /// From column `column` on, a multiple of 16.
    pub(crate) fn columns(self, column: usize) -> Self {
        debug_assert_eq!(column % BLOCK, 0);
        Self {
            keys: &self.keys[column * BLOCK..],
            values: &self.values[column * BLOCK..],
            ..self
        }
    }
}

/// Keys and values in one number format, layer after layer.
pub(crate) struct Planes<T> {
    keys: Buffer,
    values: Buffer,
    /// Numbers of one layer.
    layer: usize,
    /// Numbers of one block.
    stride: usize,
    /// Positions.
    period: usize,
    format: std::marker::PhantomData<T>,
}

/// Storage behind a [`KvCache`](crate::KvCache) of the CPU.
pub(crate) enum CpuCache {
    F32(Planes<f32>),
    F16(Planes<f16>),
    Bf16(Planes<bf16>),
}

/// Evaluates `$body` with `$planes` bound to the planes of the cache's format.
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

    /// Copy these places of storage (`None` = all) of every layer from a cache of the same shape, or of another capacity that holds them.
    pub(crate) fn copy_from(&mut self, source: &Self, places: Option<Range<usize>>) -> Result<()> {
        match (self, source) {
            (Self::F32(target), Self::F32(source)) => target.copy_from(source, places),
            (Self::F16(target), Self::F16(source)) => target.copy_from(source, places),
            (Self::Bf16(target), Self::Bf16(source)) => target.copy_from(source, places),
            _ => {
                return Err(Error::Unsupported {
                    what: "copying between caches of different formats".into(),
                    reason: "both must be made with the same shape".into(),
                });
            }
        }
        Ok(())
    }
}

impl<T: CacheNumber> Planes<T> {
    fn new(shape: CacheShape) -> Result<Self> {
        let refused = || Error::OutOfMemory {
            bytes: usize::MAX,
            what: format!("a key/value cache of {shape:?}"),
        };
        let stride = shape
            .kv_dim
            .checked_next_multiple_of(BLOCK)
            .and_then(|width| width.checked_mul(BLOCK))
            .ok_or_else(refused)?;
        let positions = shape.capacity.checked_next_multiple_of(TILE_KEYS);
        let layer = positions
            .and_then(|positions| (positions / BLOCK).checked_mul(stride))
            .ok_or_else(refused)?;
        let bytes = layer
            .checked_mul(shape.n_layers)
            .and_then(|len| len.checked_mul(size_of::<T>()))
            .ok_or_else(refused)?;
        Ok(Self {
            keys: Buffer::zeroed(bytes, "a key cache")?,
            values: Buffer::zeroed(bytes, "a value cache")?,
            layer,
            stride,
            period: positions.unwrap_or(0),
            format: std::marker::PhantomData,
        })
    }

    /// One layer.
    pub(crate) fn layer(&self, layer: usize) -> Panels<'_, T> {
        let range = layer * self.layer..(layer + 1) * self.layer;
        Panels {
            keys: &self.keys.as_slice()[range.clone()],
            values: &self.values.as_slice()[range],
            stride: self.stride,
            head_stride: 0,
            period: self.period,
        }
    }

    /// Write rows of keys and values to layer `layer` from position `start` on; behind the last place of storage comes
    /// the first.
    pub(crate) fn append(
        &mut self,
        (isa, pool): (Isa, &Pool),
        layer: usize,
        start: usize,
        k: Rows<'_>,
        v: Rows<'_>,
    ) {
        let range = layer * self.layer..(layer + 1) * self.layer;
        let mut done = 0;
        while done < k.len() {
            let place = (start + done) % self.period;
            let count = (k.len() - done).min(self.period - place);
            let target = PanelsMut::<T> {
                keys: &mut self.keys.as_slice_mut()[range.clone()],
                values: &mut self.values.as_slice_mut()[range.clone()],
                stride: self.stride,
                n_heads: 1,
            };
            let (k, v) = (k.slice(done, count), v.slice(done, count));
            pack(isa, pool, k, v, place, target);
            done += count;
        }
    }

    fn copy_from(&mut self, source: &Self, places: Option<Range<usize>>) {
        if self.layer == 0 || source.layer == 0 {
            return;
        }
        // Whole blocks: the positions before are equal already, those after hold nothing.
        let places = places.unwrap_or(0..self.period);
        let range = places.start / BLOCK * self.stride..places.end.div_ceil(BLOCK) * self.stride;
        for (to, from) in [
            (&mut self.keys, &source.keys),
            (&mut self.values, &source.values),
        ] {
            let layers = to.as_slice_mut::<T>().chunks_exact_mut(self.layer);
            for (to, from) in layers.zip(from.as_slice::<T>().chunks_exact(source.layer)) {
                to[range.clone()].copy_from_slice(&from[range.clone()]);
            }
        }
    }
}

/// [`Panels`] to write.
pub(crate) struct PanelsMut<'a, T> {
    pub keys: &'a mut [T],
    pub values: &'a mut [T],
    pub stride: usize,
    /// Equal parts of the columns that each get an equal part of the memory for themselves.
    pub n_heads: usize,
}

/// Numbers of all blocks of one head with `positions` positions.
pub(crate) fn head_panel_len(head_dim: usize, positions: usize) -> usize {
    head_dim.next_multiple_of(BLOCK) * positions.next_multiple_of(TILE_KEYS)
}

/// Bring rows of keys and values into the order of panels, at positions from `start` on.
pub(crate) fn pack<T: CacheNumber>(
    isa: Isa,
    pool: &Pool,
    k: Rows<'_>,
    v: Rows<'_>,
    start: usize,
    target: PanelsMut<'_, T>,
) {
    pack_as::<T, 1>(isa, pool, k, v, start, target);
}

/// Bring rows of keys and values into the order of panels whose neighbours along the summed dimension lie in pairs:
/// two columns of a key, two positions of a value. An odd last position gets a zero neighbour.
pub(crate) fn pack_pairs(
    isa: Isa,
    pool: &Pool,
    k: Rows<'_>,
    v: Rows<'_>,
    target: PanelsMut<'_, bf16>,
) {
    let PanelsMut {
        keys,
        values,
        stride,
        n_heads,
    } = target;
    if k.len() % 2 == 1 {
        let head_stride = values.len() / n_heads;
        let width = (k.cols() / n_heads).next_multiple_of(BLOCK);
        let (block, lane) = (k.len() / BLOCK, k.len() % BLOCK);
        for head in 0..n_heads {
            let base = head * head_stride + block * stride;
            for column in 0..width {
                let group = column / BLOCK * BLOCK * BLOCK;
                values[base + group + lane / 2 * 2 * BLOCK + column % BLOCK * 2 + 1] = bf16::ZERO;
            }
        }
    }
    let target = PanelsMut {
        keys,
        values,
        stride,
        n_heads,
    };
    pack_as::<bf16, 2>(isa, pool, k, v, 0, target);
}

fn pack_as<T: CacheNumber, const GROUP: usize>(
    isa: Isa,
    pool: &Pool,
    k: Rows<'_>,
    v: Rows<'_>,
    start: usize,
    target: PanelsMut<'_, T>,
) {
    let PanelsMut {
        keys,
        values,
        stride,
        n_heads,
    } = target;
    let end = start + k.len();
    let width = k.cols() / n_heads;
    let head_stride = keys.len() / n_heads;
    assert!(values.len() == keys.len() && head_stride >= end.div_ceil(BLOCK) * stride);
    assert!(width.next_multiple_of(BLOCK) * BLOCK <= stride);
    assert!(v.len() == k.len() && v.cols() == k.cols());
    let (keys, values) = (Shared::new(keys), Shared::new(values));
    let first = start / PACK_POSITIONS;
    let parts = end.div_ceil(PACK_POSITIONS) - first;
    let task = |index: usize| {
        let (head, part) = (index / parts, first + index % parts);
        let positions = part * PACK_POSITIONS..(part + 1) * PACK_POSITIONS;
        let piece = Pack::<T, GROUP> {
            k,
            v,
            columns: head * width..(head + 1) * width,
            start,
            positions: positions.start.max(start)..positions.end.min(end),
            // SAFETY: heads are equal parts of the panels.
            keys: unsafe { keys.get().add(head * head_stride) },
            // SAFETY: as above.
            values: unsafe { values.get().add(head * head_stride) },
            stride,
        };
        dispatch(isa, piece);
    };
    if k.len() * k.cols() < WORTH_A_TASK {
        (0..n_heads * parts).for_each(task);
    } else {
        pool.run(n_heads * parts, &task);
    }
}

/// Some positions of [`pack`]; different tasks touch different positions or heads.
struct Pack<'a, T, const GROUP: usize> {
    k: Rows<'a>,
    v: Rows<'a>,
    columns: Range<usize>,
    start: usize,
    positions: Range<usize>,
    keys: *mut T,
    values: *mut T,
    stride: usize,
}

impl<T: CacheNumber, const GROUP: usize> Pack<'_, T, GROUP> {
    #[inline(always)]
    fn all(self, narrow: impl Fn(&[f32; BLOCK]) -> [T; BLOCK]) {
        for position in self.positions.clone() {
            let row = position - self.start;
            let k = &self.k.row(row)[self.columns.clone()];
            let v = &self.v.row(row)[self.columns.clone()];
            let block = position / BLOCK * self.stride;
            let lane = position % BLOCK;
            for (group, (k, v)) in k.chunks(BLOCK).zip(v.chunks(BLOCK)).enumerate() {
                let width = k.len();
                let (k, v) = (narrow(&padded(k)), narrow(&padded(v)));
                let base = block + group * BLOCK * BLOCK;
                // SAFETY: `pack` checked that all positions and columns (rounded up to 16) are within the panels, and
                // each position of a head belongs to one task.
                unsafe {
                    for (column, &key) in k[..width].iter().enumerate() {
                        let place = column / GROUP * GROUP * BLOCK + lane * GROUP + column % GROUP;
                        self.keys.add(base + place).write(key);
                    }
                    if GROUP == 1 {
                        let to = self.values.add(base + lane * BLOCK);
                        to.cast::<[T; BLOCK]>().write_unaligned(v);
                    } else {
                        let to = self
                            .values
                            .add(base + lane / GROUP * GROUP * BLOCK + lane % GROUP);
                        for (column, &value) in v.iter().enumerate() {
                            to.add(column * GROUP).write(value);
                        }
                    }
                }
            }
        }
    }
}

/// Up to 16 values, then zeros.
#[inline(always)]
fn padded(values: &[f32]) -> [f32; BLOCK] {
    <[f32; BLOCK]>::try_from(values)
        .unwrap_or_else(|_| std::array::from_fn(|index| values.get(index).copied().unwrap_or(0.0)))
}

impl<T: CacheNumber, const GROUP: usize> Kernel for Pack<'_, T, GROUP> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.all(|values| {
            let mut out = [T::zeroed(); BLOCK];
            for start in (0..BLOCK).step_by(S::LANES) {
                // SAFETY: lanes divide 16.
                unsafe {
                    let value = s.load_ptr(values.as_ptr().add(start));
                    T::store(s, out.as_mut_ptr().add(start), value);
                }
            }
            out
        });
    }

    fn run_scalar(self) {
        self.all(|values| values.map(T::narrow));
    }
}
