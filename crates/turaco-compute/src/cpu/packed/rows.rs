//! From the rows of a file to a panel.

use std::marker::PhantomData;

use super::blocks::{BLOCK, Block};
use super::{MatrixSource, PANEL, WeightType};
use crate::cpu::simd::{Kernel, Simd, round_to_byte};
use crate::{DType, quant};

/// Inputs converted at a time while packing: a whole number of ggml blocks, small enough for the first-level cache.
const CHUNK: usize = 256;

/// The source rows of one panel.
pub(super) struct Rows<'a> {
    pub(super) k: usize,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) sources: &'a [MatrixSource<'a>],
}

impl Rows<'_> {
    /// The matrix that row `row` of the panel comes from, and its row there.
    fn source(&self, row: usize) -> (&MatrixSource<'_>, usize) {
        let mut row = self.first + row;
        let mut sources = self.sources.iter();
        loop {
            let source = sources
                .next()
                .expect("panels have only rows that their sources have");
            if row < source.n {
                return (source, row);
            }
            row -= source.n;
        }
    }

    /// The stored values of columns `start..start + out.len()` of row `row`, without the row scale.
    fn stored(&self, row: usize, start: usize, out: &mut [f32]) {
        let bytes = self.bytes(row, start, out.len());
        // Lengths were checked for the whole matrix, and chunks are whole blocks.
        let converted = quant::dequantize(self.source(row).0.dtype, bytes, out);
        debug_assert!(converted.is_ok());
    }

    /// The stored bytes of columns `start..start + len` of row `row`; both whole numbers of blocks.
    fn bytes(&self, row: usize, start: usize, len: usize) -> &[u8] {
        let (source, row) = self.source(row);
        let dtype = source.dtype;
        let at = |column: usize| column / dtype.block_len() * dtype.block_bytes();
        let row_start = row * at(self.k);
        &source.bytes[row_start + at(start)..row_start + at(start + len)]
    }

    fn scale(&self, row: usize) -> f32 {
        let (source, row) = self.source(row);
        source.row_scales.map_or(1.0, |scales| scales[row])
    }

    /// Chunks of columns as (start, length).
    fn chunks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let k = self.k;
        (0..k)
            .step_by(CHUNK)
            .map(move |start| (start, CHUNK.min(k - start)))
    }

    pub(super) fn pack_floats<const SIZE: usize>(
        &self,
        out: &mut [u8],
        group: usize,
        store: impl Fn(f32) -> [u8; SIZE],
    ) {
        let mut values = [0.0; CHUNK];
        let out = out.as_chunks_mut::<SIZE>().0;
        for (start, len) in self.chunks() {
            for row in 0..self.count {
                self.stored(row, start, &mut values[..len]);
                let scale = self.scale(row);
                for (i, &value) in values[..len].iter().enumerate() {
                    let column = start + i;
                    let value = if scale == 1.0 { value } else { value * scale };
                    out[(column / group * PANEL + row) * group + column % group] = store(value);
                }
            }
        }
    }

    pub(super) fn pack_int8(&self, out: &mut [u8], scales: &mut [f32], sums: &mut [i32]) {
        let group = WeightType::Int8.step_inputs();
        let mut values = [0.0; CHUNK];
        for row in 0..self.count {
            let (mut inverse, mut scale) = (1.0, self.scale(row));
            if self.source(row).0.dtype != DType::I8 {
                let mut largest = 0.0_f32;
                for (start, len) in self.chunks() {
                    self.stored(row, start, &mut values[..len]);
                    for value in &values[..len] {
                        // Not `max`, which would drop a NaN.
                        largest = if value.abs() <= largest {
                            largest
                        } else {
                            value.abs()
                        };
                        if largest.is_nan() {
                            break;
                        }
                    }
                }
                inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                scale *= largest / 127.0;
            }
            scales[row] = scale;
            let mut sum = 0_i32;
            for (start, len) in self.chunks() {
                self.stored(row, start, &mut values[..len]);
                for (i, &value) in values[..len].iter().enumerate() {
                    let quantised = round_to_byte(value * inverse);
                    sum += i32::from(quantised);
                    let column = start + i;
                    out[(column / group * PANEL + row) * group + column % group] = quantised as u8;
                }
            }
            sums[row] = sum;
        }
    }

    /// Packs blocks of 32 inputs: those that are stored as they are wanted are kept, others made from their values by
    /// `store_rows(values of all rows, which of them, panel's block)`. False if one could not be made.
    #[inline(always)]
    fn pack_blocks<T: Block>(
        &self,
        out: &mut [u8],
        store_rows: impl Fn(&[[f32; BLOCK]; PANEL], u32, &mut [u8]) -> bool,
    ) -> bool {
        let mut values = [[0.0; BLOCK]; PANEL];
        for (index, out) in out.chunks_exact_mut(T::BYTES).enumerate() {
            let start = index * BLOCK;
            let len = BLOCK.min(self.k - start);
            let mut wanted = 0;
            for row in 0..self.count {
                let scale = self.scale(row);
                let kept = (scale == 1.0 && len == BLOCK)
                    .then(|| T::from_stored(self.source(row).0.dtype, self.bytes(row, start, len)));
                if let Some(block) = kept.flatten() {
                    block.store(row, out);
                    continue;
                }
                let values = &mut values[row];
                values[len..].fill(0.0);
                self.stored(row, start, &mut values[..len]);
                for value in values {
                    *value *= scale;
                }
                wanted |= 1 << row;
            }
            if wanted != 0 && !store_rows(&values, wanted, out) {
                return false;
            }
        }
        true
    }
}

/// [`Rows::pack_blocks`] with the widest registers there are: the search for a q4 block is arithmetic on its 32 values.
/// The same numbers come out with all of them.
pub(super) struct PackBlocks<'a, T> {
    pub rows: Rows<'a>,
    pub out: &'a mut [u8],
    pub block: PhantomData<T>,
}

impl<T: Block> Kernel for PackBlocks<'_, T> {
    type Output = bool;

    fn run_scalar(self) -> bool {
        self.rows.pack_blocks::<T>(self.out, T::store_each)
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let store_rows = |rows: &_, wanted, out: &mut _| T::store_rows(s, rows, wanted, out);
        self.rows.pack_blocks::<T>(self.out, store_rows)
    }
}
