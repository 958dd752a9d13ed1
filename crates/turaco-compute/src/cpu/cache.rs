//! Key and value storage of one sequence.
//!
//! Both lie in blocks of [`BLOCK`] positions. Keys are transposed inside a block, `[block][column][position]`; values
//! are cut into groups of 16 columns, `[block][column / 16][position][column % 16]`. So the scores of neighbouring
//! keys against one query are a sum over contiguous vectors without any horizontal addition, a head's part of a block
//! is contiguous for every head width that is a multiple of 16, and a block is directly the right-hand panel of a
//! matrix product with many queries. [`Panels`] describes this order; the keys of an attention without cache are
//! brought into it too.
//!
//! The layers of a cache lie side by side inside each block of positions, so that a stream that has just begun touches
//! memory for the positions it has, not a page of each layer.

use std::ops::Range;

use half::{bf16, f16};

use crate::cpu::isa::Isa;
use crate::cpu::memory::Buffer;
use crate::cpu::packed::Shared;
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Element, Kernel, Simd, dispatch, round_to_byte};
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
    /// Whether the numbers of a head at a position are multiples of a scale.
    const SCALED: bool = false;
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

/// Bytes, of which 127 is the largest number of a head at a position.
impl CacheNumber for i8 {
    const SCALED: bool = true;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        round_to_byte(value)
    }
}

/// The scales of a cache of bytes, for each block of positions those of every head side by side: `[head][position]`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Scales<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    /// From one block of positions to the next.
    stride: usize,
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
    /// Of scaled numbers.
    pub scales: Scales<'a>,
}

impl<'a, T> Panels<'a, T> {
    /// The scales of the keys of head `head` in the block of position `position`, then those of the values.
    pub(crate) fn scales(
        &self,
        head: usize,
        position: usize,
    ) -> (&'a [f32; BLOCK], &'a [f32; BLOCK]) {
        let start = position % self.period / BLOCK * self.scales.stride + head * BLOCK;
        let of = |scales: &'a [f32]| -> &'a [f32; BLOCK] {
            scales[start..].first_chunk().unwrap_or(&[0.0; BLOCK])
        };
        (of(self.scales.keys), of(self.scales.values))
    }

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

/// Keys and values in one number format, `[block][layer][column * position]`.
pub(crate) struct Planes<T> {
    keys: Buffer,
    values: Buffer,
    /// Numbers of one layer of a block.
    layer: usize,
    /// Numbers of one block.
    stride: usize,
    /// Positions.
    period: usize,
    /// Of scaled numbers, `[block][layer][head][position]`.
    key_scales: Buffer,
    value_scales: Buffer,
    /// Columns that share a scale.
    head_dim: usize,
    /// Scales of one layer of a block, and of one block.
    scales_layer: usize,
    scales_stride: usize,
    format: std::marker::PhantomData<T>,
}

/// Storage behind a [`KvCache`](crate::KvCache) of the CPU.
pub(crate) enum CpuCache {
    F32(Planes<f32>),
    F16(Planes<f16>),
    Bf16(Planes<bf16>),
    I8(Planes<i8>),
}

/// Evaluates `$body` with `$planes` bound to the planes of the cache's format.
macro_rules! with_planes {
    ($cache:expr, $planes:ident => $body:expr) => {
        match $cache {
            $crate::cpu::cache::CpuCache::F32($planes) => $body,
            $crate::cpu::cache::CpuCache::F16($planes) => $body,
            $crate::cpu::cache::CpuCache::Bf16($planes) => $body,
            $crate::cpu::cache::CpuCache::I8($planes) => $body,
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
            DType::I8 => Self::I8(Planes::new(shape)?),
            other => {
                return Err(Error::Unsupported {
                    what: format!("a key/value cache of {other}"),
                    reason: "it can be f32, f16, bf16 or i8".into(),
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
            (Self::I8(target), Self::I8(source)) => target.copy_from(source, places),
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
        let layer = shape
            .kv_dim
            .checked_next_multiple_of(BLOCK)
            .and_then(|width| width.checked_mul(BLOCK))
            .ok_or_else(refused)?;
        let stride = layer.checked_mul(shape.n_layers).ok_or_else(refused)?;
        let head = shape.head_dim.clamp(1, shape.kv_dim.max(1));
        let head = head.next_multiple_of(BLOCK) * BLOCK;
        let stride = apart::<T>(stride, head).ok_or_else(refused)?;
        let positions = shape.capacity.checked_next_multiple_of(TILE_KEYS);
        let bytes = positions
            .and_then(|positions| (positions / BLOCK).checked_mul(stride))
            .and_then(|len| len.checked_mul(size_of::<T>()))
            .ok_or_else(refused)?;
        let n_heads = shape.kv_dim.checked_div(shape.head_dim).unwrap_or(0);
        if T::SCALED && (n_heads == 0 || n_heads * shape.head_dim != shape.kv_dim) {
            return Err(Error::Shape {
                what: "a key/value cache of bytes".into(),
                expected: "whole heads".into(),
                found: format!("{} columns of {}", shape.kv_dim, shape.head_dim),
            });
        }
        let scales_layer = if T::SCALED { n_heads * BLOCK } else { 0 };
        // No more than there are keys.
        let scales_stride = scales_layer * shape.n_layers;
        let scales_stride = apart::<f32>(scales_stride, BLOCK).ok_or_else(refused)?;
        let scales_bytes = positions
            .and_then(|positions| (positions / BLOCK).checked_mul(4 * scales_stride))
            .ok_or_else(refused)?;
        Ok(Self {
            keys: Buffer::zeroed(bytes, "a key cache")?,
            values: Buffer::zeroed(bytes, "a value cache")?,
            layer,
            stride,
            period: positions.unwrap_or(0),
            key_scales: Buffer::zeroed(scales_bytes, "the scales of a key cache")?,
            value_scales: Buffer::zeroed(scales_bytes, "the scales of a value cache")?,
            head_dim: shape.head_dim,
            scales_layer,
            scales_stride,
            format: std::marker::PhantomData,
        })
    }

    /// One layer.
    pub(crate) fn layer(&self, layer: usize) -> Panels<'_, T> {
        let start = layer * self.layer;
        Panels {
            keys: &self.keys.as_slice()[start..],
            values: &self.values.as_slice()[start..],
            stride: self.stride,
            head_stride: 0,
            period: self.period,
            scales: Scales {
                keys: &self.key_scales.as_slice()[layer * self.scales_layer..],
                values: &self.value_scales.as_slice()[layer * self.scales_layer..],
                stride: self.scales_stride,
            },
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
        let first = layer * self.layer;
        let first_scale = layer * self.scales_layer;
        let mut done = 0;
        while done < k.len() {
            let place = (start + done) % self.period;
            let count = (k.len() - done).min(self.period - place);
            let target = PanelsMut::<T> {
                keys: &mut self.keys.as_slice_mut()[first..],
                values: &mut self.values.as_slice_mut()[first..],
                stride: self.stride,
                n_heads: 1,
            };
            let (k, v) = (k.slice(done, count), v.slice(done, count));
            if T::SCALED {
                let scales = PackedScales {
                    head_dim: self.head_dim,
                    keys: Shared::new(&mut self.key_scales.as_slice_mut()[first_scale..]),
                    values: Shared::new(&mut self.value_scales.as_slice_mut()[first_scale..]),
                    stride: self.scales_stride,
                };
                pack_as::<T, 1>((isa, pool), k, v, place, target, Some(scales));
            } else {
                pack(isa, pool, k, v, place, target);
            }
            done += count;
        }
    }

    fn copy_from(&mut self, source: &Self, places: Option<Range<usize>>) {
        // Whole blocks: the positions before are equal already, those after hold nothing.
        let places = places.unwrap_or(0..self.period);
        let range = places.start / BLOCK * self.stride..places.end.div_ceil(BLOCK) * self.stride;
        for (to, from) in [
            (&mut self.keys, &source.keys),
            (&mut self.values, &source.values),
        ] {
            to.as_slice_mut::<T>()[range.clone()].copy_from_slice(&from.as_slice()[range.clone()]);
        }
        let blocks = places.start / BLOCK..places.end.div_ceil(BLOCK);
        let range = blocks.start * self.scales_stride..blocks.end * self.scales_stride;
        for (to, from) in [
            (&mut self.key_scales, &source.key_scales),
            (&mut self.value_scales, &source.value_scales),
        ] {
            let from = &from.as_slice::<f32>()[range.clone()];
            to.as_slice_mut()[range.clone()].copy_from_slice(from);
        }
    }
}

/// The distance of blocks of positions, so lengthened that a head's numbers in neighbouring blocks do not all fall into the same
/// few places of a cache of the processor, as they would at a distance of whole pages: attention to a head reads nothing else.
fn apart<T>(stride: usize, head: usize) -> Option<usize> {
    const PAGE: usize = 4096;
    let bytes = stride.checked_mul(size_of::<T>())?;
    let aligned = bytes > 0 && bytes.is_multiple_of(PAGE);
    stride.checked_add(if aligned { head } else { 0 })
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
    pack_as::<T, 1>((isa, pool), k, v, start, target, None);
}

/// [`Scales`] to write.
#[derive(Clone, Copy)]
struct PackedScales {
    head_dim: usize,
    keys: Shared<f32>,
    values: Shared<f32>,
    stride: usize,
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
    pack_as::<bf16, 2>((isa, pool), k, v, 0, target, None);
}

fn pack_as<T: CacheNumber, const GROUP: usize>(
    (isa, pool): (Isa, &Pool),
    k: Rows<'_>,
    v: Rows<'_>,
    start: usize,
    target: PanelsMut<'_, T>,
    scales: Option<PackedScales>,
) {
    let PanelsMut {
        keys,
        values,
        stride,
        n_heads,
    } = target;
    if k.len() == 0 {
        return;
    }
    let end = start + k.len();
    let width = k.cols() / n_heads;
    let head_stride = keys.len() / n_heads;
    let padded = width.next_multiple_of(BLOCK) * BLOCK;
    let last_block = end.div_ceil(BLOCK).saturating_sub(1) * stride;
    assert!(values.len() == keys.len() && head_stride >= last_block + padded && padded <= stride);
    assert!(v.len() == k.len() && v.cols() == k.cols());
    let (keys, values) = (Shared::new(keys), Shared::new(values));
    let first = start / PACK_POSITIONS;
    let parts = end.div_ceil(PACK_POSITIONS) - first;
    // With few positions the columns are shared out too.
    let pieces = pool.n_threads().div_ceil(n_heads * parts);
    let whole = match scales {
        // A head's scale is found by one of them; a block of 16 columns is written by one.
        Some(scales) if scales.head_dim.is_multiple_of(BLOCK) => scales.head_dim,
        Some(_) => width,
        None => BLOCK,
    };
    let piece_width = width.div_ceil(pieces).next_multiple_of(whole);
    let pieces = width.div_ceil(piece_width.max(1));
    let task = |index: usize| {
        let (index, piece) = (index / pieces, index % pieces);
        let (head, part) = (index / parts, first + index % parts);
        let begin = piece * piece_width;
        let positions = part * PACK_POSITIONS..(part + 1) * PACK_POSITIONS;
        let piece = Pack::<T, GROUP> {
            k,
            v,
            columns: head * width + begin..head * width + width.min(begin + piece_width),
            start,
            positions: positions.start.max(start)..positions.end.min(end),
            // SAFETY: heads are equal parts of the panels, and 16 columns of a head follow the 16 before.
            keys: unsafe { keys.get().add(head * head_stride + begin * BLOCK) },
            // SAFETY: as above.
            values: unsafe { values.get().add(head * head_stride + begin * BLOCK) },
            stride,
            scales,
        };
        dispatch(isa, piece);
    };
    if k.len() * k.cols() < WORTH_A_TASK {
        (0..n_heads * parts * pieces).for_each(task);
    } else {
        pool.run(n_heads * parts * pieces, &task);
    }
}

/// Some positions and columns of [`pack`]; different tasks touch different ones, or different heads.
struct Pack<'a, T, const GROUP: usize> {
    k: Rows<'a>,
    v: Rows<'a>,
    columns: Range<usize>,
    start: usize,
    positions: Range<usize>,
    keys: *mut T,
    values: *mut T,
    stride: usize,
    scales: Option<PackedScales>,
}

/// What turns the numbers of a head into bytes, and the scale that turns them back; not finite if a number is not.
#[inline(always)]
pub(crate) fn byte_scale(values: &[f32]) -> (f32, f32) {
    let bits = values.iter().fold(0, |largest: u32, value| {
        largest.max(value.to_bits() & 0x7fff_ffff)
    });
    let largest = f32::from_bits(bits);
    let inverse = 127.0 / largest;
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    (inverse, largest / 127.0)
}

impl<T: CacheNumber, const GROUP: usize> Pack<'_, T, GROUP> {
    /// Finds and writes the scales of a position; gives what the numbers of the head of column `column` of this piece
    /// have to be multiplied with.
    #[inline(always)]
    fn head_factors(&self, scales: &PackedScales, position: usize, column: usize) -> (f32, f32) {
        let row = position - self.start;
        let first = self.columns.start + column;
        let (head, columns) = (first / scales.head_dim, first..first + scales.head_dim);
        let (k_factor, k_scale) = byte_scale(&self.k.row(row)[columns.clone()]);
        let (v_factor, v_scale) = byte_scale(&self.v.row(row)[columns]);
        let at = position / BLOCK * scales.stride + head * BLOCK + position % BLOCK;
        // SAFETY: `append` gave scales for every block and head; each position and head is of one task.
        unsafe {
            scales.keys.get().add(at).write(k_scale);
            scales.values.get().add(at).write(v_scale);
        }
        (k_factor, v_factor)
    }

    /// `narrow` rounds 16 columns of a key and of a value. It is called in one place, so that it is inlined there: it would not be
    /// compiled for the instruction set otherwise.
    #[inline(always)]
    fn all(
        self,
        narrow: impl Fn([&[f32; BLOCK]; 2]) -> [[T; BLOCK]; 2],
        prefetch: impl Fn(*const u8),
    ) {
        let width = self.columns.len();
        // Head after head, so that the lines of a head's keys stay at hand for all positions.
        let (part, whole_groups) = match &self.scales {
            Some(scales) if scales.head_dim.is_multiple_of(BLOCK) => (scales.head_dim, true),
            Some(_) => (width, false),
            None => (4 * BLOCK, true),
        };
        let parts = (0..width).step_by(part.max(1));
        let places = parts.flat_map(|first| self.positions.clone().map(move |p| (first, p)));
        for (first, position) in places {
            let row = position - self.start;
            let columns =
                self.columns.start + first..self.columns.end.min(self.columns.start + first + part);
            let k = &self.k.row(row)[columns.clone()];
            let v = &self.v.row(row)[columns];
            let block = position / BLOCK * self.stride + first * BLOCK;
            let lane = position % BLOCK;
            if position == self.positions.start || lane == 0 {
                // What the next part writes to in this block: each line would be waited for by itself.
                let size = size_of::<T>();
                for line in (0..part * BLOCK * size).step_by(64) {
                    for plane in [self.keys, self.values] {
                        let next = plane.wrapping_add(block + part * BLOCK).cast::<u8>();
                        prefetch(next.wrapping_add(line));
                    }
                }
            }
            let mut factors = (1.0, 1.0);
            if let (Some(scales), true) = (&self.scales, whole_groups) {
                factors = self.head_factors(scales, position, first);
            }
            for (group, (k, v)) in k.chunks(BLOCK).zip(v.chunks(BLOCK)).enumerate() {
                let width = k.len();
                let (mut k, mut v) = (padded(k), padded(v));
                match &self.scales {
                    None => {}
                    Some(_) if whole_groups => {
                        k.iter_mut().for_each(|k| *k *= factors.0);
                        v.iter_mut().for_each(|v| *v *= factors.1);
                    }
                    // Heads begin inside a group of columns.
                    Some(scales) => {
                        for lane in 0..width {
                            let column = group * BLOCK + lane;
                            if column.is_multiple_of(scales.head_dim) {
                                factors = self.head_factors(scales, position, column);
                            }
                            k[lane] *= factors.0;
                            v[lane] *= factors.1;
                        }
                    }
                }
                let [k, v] = narrow([&k, &v]);
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
        let narrow = |both: [&[f32; BLOCK]; 2]| {
            let mut out = [[T::zeroed(); BLOCK]; 2];
            for (values, out) in both.into_iter().zip(&mut out) {
                for start in (0..BLOCK).step_by(S::LANES) {
                    // SAFETY: lanes divide 16.
                    unsafe {
                        let value = s.load_ptr(values.as_ptr().add(start));
                        T::store(s, out.as_mut_ptr().add(start), value);
                    }
                }
            }
            out
        };
        self.all(narrow, |line| s.prefetch(line));
    }

    fn run_scalar(self) {
        self.all(|both| both.map(|values| values.map(T::narrow)), |_| {});
    }
}
