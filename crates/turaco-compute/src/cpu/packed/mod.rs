//! Weight matrices in the order in which the kernels read them.
//!
//! A matrix of `n` outputs and `k` inputs is cut into panels of [`PANEL`] outputs. Inside a panel the inputs go
//! outermost, so that a matrix-vector product reads memory strictly forward, and a matrix-matrix product finds
//! the vectors of its tile next to each other. The order inside a panel is
//!
//! | type | order | why |
//! | --- | --- | --- |
//! | f32, f16 | `[k][32]` | one input times 32 outputs |
//! | bf16 | `[k / 2][32][2]` | `vdpbf16ps` takes pairs of inputs |
//! | int8 | `[k / 4][32][4]` | `vpdpbusd`, `sdot` take quads of inputs |
//! | q8, q4 | see [`blocks`] | the scales of 32 inputs lie before them |
//!
//! Missing outputs and inputs are zeros. This is the only copy of the weights: an embedding lookup reads its row
//! from here too.

pub(crate) mod blocks;
mod huge_pages;
mod panels;
mod q4_search;
mod rows;

use super::isa::Isa;
use super::memory::Buffer;
use super::pool::Pool;
use super::simd::dispatch;
use panels::Panels;

use crate::{DType, Error, Result};
use blocks::{BLOCK, Q4, Q4_BYTES, Q8, Q8_BYTES};
use half::{bf16, f16};
pub use panels::{panels_len, stored_values};
use rows::{PackBlocks, Rows};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};

/// Outputs per panel.
pub const PANEL: usize = 32;

/// Most inputs of an int8 matrix: sums of products of two bytes must fit 32 bits.
const MAX_INT8_INPUTS: usize = 131_072;

pub use crate::device::WeightType;

impl WeightType {
    /// Consecutive inputs of a panel that belong together; inputs are padded with zeros to a multiple.
    pub(crate) const fn step_inputs(self) -> usize {
        match self {
            Self::F32 | Self::F16 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 4,
            Self::Q8 | Self::Q4 => BLOCK,
        }
    }

    /// Bytes of a step of one panel, scales per block included.
    pub(crate) const fn step_bytes(self) -> usize {
        match self {
            Self::F16 => 2 * PANEL,
            Self::F32 | Self::Bf16 | Self::Int8 => 4 * PANEL,
            Self::Q8 => Q8_BYTES,
            Self::Q4 => Q4_BYTES,
        }
    }

    /// Whether a matrix product rounds activations to bytes.
    pub(crate) const fn is_integer(self) -> bool {
        matches!(self, Self::Int8 | Self::Q8 | Self::Q4)
    }
}

/// A row-major `[n, k]` matrix as a file has it.
#[derive(Debug, Clone, Copy)]
pub struct MatrixSource<'a> {
    /// Format of `bytes`.
    pub dtype: DType,
    /// Rows, the outputs of a linear layer.
    pub n: usize,
    /// Columns, the inputs.
    pub k: usize,
    /// The rows one after the other, at any alignment.
    pub bytes: &'a [u8],
    /// One factor per row: the true value is the stored value **times** the factor.
    pub row_scales: Option<&'a [f32]>,
}

/// A packed weight matrix.
#[derive(Debug)]
pub struct PackedMatrix {
    n: usize,
    k: usize,
    weight_type: WeightType,
    panel_bytes: usize,
    panels: Panels,
    /// Int8 only, padded to whole panels: the factor of each row.
    row_scales: Vec<f32>,
    /// Int8 only, padded to whole panels: the sum of each row's bytes, for kernels that shift their other operand.
    row_sums: Vec<i32>,
}

/// A pointer that tasks may share because each writes only its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T);

// SAFETY: whoever dereferences it has to keep the parts apart, and says so there.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

impl PackedMatrix {
    /// Packs `source` as `weight_type`.
    ///
    /// # Errors
    /// As [`PackedMatrix::pack_stacked`].
    pub fn pack(source: &MatrixSource<'_>, weight_type: WeightType, pool: &Pool) -> Result<Self> {
        Self::pack_stacked(std::slice::from_ref(source), weight_type, pool)
    }

    /// Packs matrices of equal row length, one below the other, as one matrix (queries, keys and values, for
    /// example).
    ///
    /// Int8 from signed bytes keeps the bytes and the scales of the file; from any other type each row is divided by
    /// its largest absolute value over 127 and rounded, halves to even. The blocks of ggml that fit q8 or q4 are kept
    /// as they are.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no row or column, if row lengths differ, if bytes or scales do not fit the
    /// dimensions, or if a row is no whole number of blocks; [`Error::Unsupported`] for int8 with more than 131072 inputs,
    /// and for int8, q8 and q4 with values that are not finite (or beyond the range of their scales);
    /// [`Error::OutOfMemory`].
    pub fn pack_stacked(
        sources: &[MatrixSource<'_>],
        weight_type: WeightType,
        pool: &Pool,
    ) -> Result<Self> {
        let (n, k) = check(sources)?;
        if weight_type == WeightType::Int8 && k > MAX_INT8_INPUTS {
            return Err(Error::Unsupported {
                what: format!("an int8 matrix with {k} inputs"),
                reason: format!("at most {MAX_INT8_INPUTS} are; use f16 or bf16"),
            });
        }
        let too_large = || Error::OutOfMemory {
            bytes: usize::MAX,
            what: format!("a {n} x {k} weight matrix"),
        };
        let panels = n.div_ceil(PANEL);
        let panel_bytes = k
            .div_ceil(weight_type.step_inputs())
            .checked_mul(weight_type.step_bytes())
            .ok_or_else(too_large)?;
        let total = panels.checked_mul(panel_bytes).ok_or_else(too_large)?;
        let mut data = Buffer::zeroed(total, "weights")?;
        let integer = weight_type == WeightType::Int8;
        let mut scales = vec![0.0_f32; if integer { panels * PANEL } else { 0 }];
        let mut sums = vec![0_i32; scales.len()];

        let finite = AtomicBool::new(true);
        let to = Shared::new(data.as_bytes_mut());
        let (to_scales, to_sums) = (Shared::new(&mut scales), Shared::new(&mut sums));
        let isa = Isa::best();
        let one_panel = |panel: usize| {
            // SAFETY: panel `panel` is `panel_bytes` bytes within the buffer and belongs to this task alone.
            let out = unsafe {
                std::slice::from_raw_parts_mut(to.get().add(panel * panel_bytes), panel_bytes)
            };
            let rows = panel * PANEL..n.min((panel + 1) * PANEL);
            let rows = Rows {
                k,
                first: rows.start,
                count: rows.len(),
                sources,
            };
            match weight_type {
                WeightType::F32 => rows.pack_floats(out, 1, |v| v.to_ne_bytes()),
                WeightType::F16 => rows.pack_floats(out, 1, |v| f16::from_f32(v).to_ne_bytes()),
                WeightType::Bf16 => rows.pack_floats(out, 2, |v| bf16::from_f32(v).to_ne_bytes()),
                WeightType::Int8 => {
                    // SAFETY: the 32 scales of this panel belong to this task alone.
                    let scales = unsafe {
                        std::slice::from_raw_parts_mut(to_scales.get().add(rows.first), PANEL)
                    };
                    // SAFETY: so do its sums.
                    let sums = unsafe {
                        std::slice::from_raw_parts_mut(to_sums.get().add(rows.first), PANEL)
                    };
                    rows.pack_int8(out, scales, sums);
                    if !scales.iter().all(|scale| scale.is_finite()) {
                        finite.store(false, Ordering::Relaxed);
                    }
                }
                WeightType::Q8 => {
                    let block = PhantomData::<Q8>;
                    if !dispatch(isa, PackBlocks { rows, out, block }) {
                        finite.store(false, Ordering::Relaxed);
                    }
                }
                WeightType::Q4 => {
                    let block = PhantomData::<Q4>;
                    if !dispatch(isa, PackBlocks { rows, out, block }) {
                        finite.store(false, Ordering::Relaxed);
                    }
                }
            }
        };
        pool.run(panels, &one_panel);
        if !finite.load(Ordering::Relaxed) {
            return Err(Error::Unsupported {
                what: format!("a {} copy of a {n} x {k} matrix", weight_type.name()),
                reason: "it holds values that are not finite or too large".to_owned(),
            });
        }
        Ok(Self {
            n,
            k,
            weight_type,
            panel_bytes,
            panels: Panels::Owned(data),
            row_scales: scales,
            row_sums: sums,
        })
    }

    /// Outputs (rows of the source).
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs (columns of the source).
    pub fn k(&self) -> usize {
        self.k
    }

    /// Format of the packed weights.
    pub fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// Bytes that a product with this matrix reads: panels, scales and sums.
    pub fn bytes(&self) -> usize {
        self.panels.len() + 4 * (self.row_scales.len() + self.row_sums.len())
    }

    /// Number of panels, the last one padded with zero rows.
    pub(crate) fn n_panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// Inputs with padding: a whole number of steps.
    pub(crate) fn padded_k(&self) -> usize {
        self.k.next_multiple_of(self.weight_type.step_inputs())
    }

    /// Where input `input`, the first of a step, begins in a panel.
    pub(crate) fn input_offset(&self, input: usize) -> usize {
        input / self.weight_type.step_inputs() * self.weight_type.step_bytes()
    }

    /// The bytes of one panel.
    pub(crate) fn panel(&self, panel: usize) -> &[u8] {
        self.panels.get(panel, self.panel_bytes)
    }

    /// The scales of one panel's outputs, int8 only.
    pub(crate) fn panel_scales(&self, panel: usize) -> Option<&[f32; PANEL]> {
        self.row_scales.as_chunks::<PANEL>().0.get(panel)
    }

    /// The byte sums of one panel's outputs, int8 only.
    pub(crate) fn panel_sums(&self, panel: usize) -> Option<&[i32; PANEL]> {
        self.row_sums.as_chunks::<PANEL>().0.get(panel)
    }

    /// Writes row `row` of the matrix, as the kernels see it, to `out` of length `k`.
    ///
    /// # Panics
    /// If `row` is not below `n` or `out` is not `k` long.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n, "row {row} of a matrix with {} rows", self.n);
        assert_eq!(
            out.len(),
            self.k,
            "a row has as many values as the matrix has inputs"
        );
        let panel = self.panel(row / PANEL);
        let lane = row % PANEL;
        let steps = panel.chunks_exact(self.weight_type.step_bytes());
        let chunks = out.chunks_mut(self.weight_type.step_inputs());
        match self.weight_type {
            WeightType::F32 => {
                for (values, step) in chunks.zip(steps) {
                    values[0] = f32::from_ne_bytes(step.as_chunks().0[lane]);
                }
            }
            WeightType::F16 => {
                for (values, step) in chunks.zip(steps) {
                    values[0] = f16::from_ne_bytes(step.as_chunks().0[lane]).to_f32();
                }
            }
            WeightType::Bf16 => {
                for (values, step) in chunks.zip(steps) {
                    for (value, bytes) in values.iter_mut().zip(&step.as_chunks().0[2 * lane..]) {
                        *value = bf16::from_ne_bytes(*bytes).to_f32();
                    }
                }
            }
            WeightType::Int8 => {
                let scale = self.row_scales[row];
                for (values, step) in chunks.zip(steps) {
                    for (value, &byte) in values.iter_mut().zip(&step[4 * lane..]) {
                        *value = f32::from(byte as i8) * scale;
                    }
                }
            }
            WeightType::Q8 => {
                for (values, step) in chunks.zip(steps) {
                    values.copy_from_slice(&Q8::load(lane, step)[..values.len()]);
                }
            }
            WeightType::Q4 => {
                for (values, step) in chunks.zip(steps) {
                    values.copy_from_slice(&Q4::load(lane, step)[..values.len()]);
                }
            }
        }
    }
}

/// Checks sources against their dimensions; gives the rows and columns of the whole.
fn check(sources: &[MatrixSource<'_>]) -> Result<(usize, usize)> {
    let k = sources.first().map_or(0, |source| source.k);
    let mut rows = 0_usize;
    for source in sources {
        let MatrixSource {
            dtype,
            n,
            bytes,
            row_scales,
            ..
        } = *source;
        let shape = |expected: String, found: String| Error::Shape {
            what: format!("a {n} x {} {dtype} matrix", source.k),
            expected,
            found,
        };
        if source.k != k {
            return Err(shape(
                format!("{k} columns like the matrix above it"),
                source.k.to_string(),
            ));
        }
        let row_bytes = dtype.bytes_for(k).ok_or_else(|| {
            shape(
                format!("rows of a multiple of {} values", dtype.block_len()),
                k.to_string(),
            )
        })?;
        let too_many = || shape("fewer values".to_owned(), format!("{n} x {k}"));
        let expected = row_bytes.checked_mul(n).ok_or_else(too_many)?;
        if bytes.len() != expected {
            return Err(shape(
                format!("{expected} bytes"),
                format!("{} bytes", bytes.len()),
            ));
        }
        if let Some(scales) = row_scales
            && scales.len() != n
        {
            return Err(shape(format!("{n} row scales"), scales.len().to_string()));
        }
        rows = rows.checked_add(n).ok_or_else(too_many)?;
    }
    if rows == 0 || k == 0 {
        return Err(Error::Shape {
            what: "a weight matrix".to_owned(),
            expected: "at least one row and one column".to_owned(),
            found: format!("{rows} x {k}"),
        });
    }
    Ok((rows, k))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant;

    fn source(dtype: DType, n: usize, k: usize, bytes: &[u8]) -> MatrixSource<'_> {
        MatrixSource {
            dtype,
            n,
            k,
            bytes,
            row_scales: None,
        }
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn rows_come_back_as_the_format_rounds_them() {
        let pool = Pool::new(2);
        for (n, k) in [(1, 1), (1, 5), (31, 3), (32, 4), (33, 255), (65, 257)] {
            let values: Vec<f32> = (0..n * k)
                .map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0)
                .collect();
            let bytes = floats(&values);
            for weight_type in WeightType::ALL {
                let packed =
                    PackedMatrix::pack(&source(DType::F32, n, k, &bytes), weight_type, &pool)
                        .unwrap();
                assert_eq!(
                    (packed.n(), packed.k(), packed.weight_type()),
                    (n, k, weight_type)
                );
                let mut row = vec![0.0; k];
                for i in 0..n {
                    packed.row_f32(i, &mut row);
                    let original = &values[i * k..(i + 1) * k];
                    let largest = original.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                    for (j, (&found, &value)) in row.iter().zip(original).enumerate() {
                        let expected = match weight_type {
                            WeightType::F32 => value,
                            WeightType::F16 => f16::from_f32(value).to_f32(),
                            WeightType::Bf16 => bf16::from_f32(value).to_f32(),
                            WeightType::Int8 | WeightType::Q8 | WeightType::Q4 => {
                                let steps = if weight_type == WeightType::Q4 {
                                    12.0
                                } else {
                                    253.0
                                };
                                assert!(
                                    (found - value).abs() <= largest / steps,
                                    "{weight_type:?} {n}x{k} at {i},{j}: {found} {value}"
                                );
                                continue;
                            }
                        };
                        assert_eq!(found, expected, "{weight_type:?} {n}x{k} at {i},{j}");
                    }
                }
            }
        }
    }

    #[test]
    fn stored_bytes_and_scales_are_kept() {
        let pool = Pool::new(1);
        let bytes: Vec<u8> = [1_i8, -128, 127, 0, 5, -7].map(|v| v as u8).to_vec();
        let scales = [0.5, 2.0];
        let source = MatrixSource {
            dtype: DType::I8,
            n: 2,
            k: 3,
            bytes: &bytes,
            row_scales: Some(&scales),
        };
        for weight_type in [WeightType::Int8, WeightType::F32] {
            let packed = PackedMatrix::pack(&source, weight_type, &pool).unwrap();
            let mut row = [0.0; 3];
            packed.row_f32(0, &mut row);
            assert_eq!(row, [0.5, -64.0, 63.5]);
            packed.row_f32(1, &mut row);
            assert_eq!(row, [0.0, 10.0, -14.0]);
        }
        let packed = PackedMatrix::pack(&source, WeightType::Int8, &pool).unwrap();
        assert_eq!(packed.panel_sums(0).unwrap()[..3], [0, -2, 0]);
    }

    #[test]
    fn blocks_are_dequantised() {
        let pool = Pool::new(2);
        let (n, k) = (34, 288);
        let mut bytes = Vec::new();
        for block in 0..n * k / 32 {
            bytes.extend(f16::from_f32(0.25).to_le_bytes());
            bytes.extend((0..32).map(|i| ((i * 5 + block * 3) % 200) as u8));
        }
        let packed =
            PackedMatrix::pack(&source(DType::Q8_0, n, k, &bytes), WeightType::F32, &pool).unwrap();
        let (mut row, mut expected) = (vec![0.0; k], vec![0.0; k]);
        for i in 0..n {
            packed.row_f32(i, &mut row);
            let len = k / 32 * 34;
            quant::dequantize(DType::Q8_0, &bytes[i * len..(i + 1) * len], &mut expected).unwrap();
            assert_eq!(row, expected);
        }
    }

    /// What fits is kept bit for bit; the rest is as near as the type allows.
    #[test]
    fn stored_blocks_are_kept() {
        let pool = Pool::new(2);
        let (n, k) = (35, 96);
        for (dtype, exact) in [
            (DType::Q8_0, &[WeightType::Q8][..]),
            (DType::Q5_0, &[WeightType::Q8]),
            (DType::Q4_0, &[WeightType::Q8, WeightType::Q4]),
            (DType::Q4_1, &[WeightType::Q4]),
            (DType::Q5_1, &[]),
        ] {
            let mut bytes = Vec::new();
            for block in 0..n * k / 32 {
                let scale = if block % 3 == 0 { -0.37 } else { 0.21 };
                bytes.extend(f16::from_f32(scale).to_le_bytes());
                let rest = dtype.block_bytes() - 2;
                let mut payload: Vec<u8> = (0..rest).map(|i| (i * 53 + block * 31) as u8).collect();
                if matches!(dtype, DType::Q4_1 | DType::Q5_1) {
                    payload[..2].copy_from_slice(&f16::from_f32(-1.3).to_le_bytes());
                }
                bytes.extend(payload);
            }
            let mut expected = vec![0.0; n * k];
            quant::dequantize(dtype, &bytes, &mut expected).unwrap();
            for weight_type in [WeightType::Q8, WeightType::Q4] {
                let packed =
                    PackedMatrix::pack(&source(dtype, n, k, &bytes), weight_type, &pool).unwrap();
                let mut row = vec![0.0; k];
                for i in 0..n {
                    packed.row_f32(i, &mut row);
                    for (found, value) in row.iter().zip(&expected[i * k..]) {
                        let name = format!("{dtype} as {weight_type:?}: {found} {value}");
                        if exact.contains(&weight_type) {
                            assert!((found - value).abs() <= 1e-6 * value.abs(), "{name}");
                        } else {
                            let steps = if weight_type == WeightType::Q8 {
                                250.0
                            } else {
                                14.0
                            };
                            assert!((found - value).abs() <= 27.0 / steps * 2.0, "{name}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn wrong_sources_are_errors() {
        let pool = Pool::new(1);
        let pack = |source: &MatrixSource<'_>, to| PackedMatrix::pack(source, to, &pool);
        assert!(pack(&source(DType::F32, 2, 2, &[0; 15]), WeightType::F32).is_err());
        assert!(pack(&source(DType::Q8_0, 1, 33, &[0; 68]), WeightType::F32).is_err());
        assert!(pack(&source(DType::F32, usize::MAX, 2, &[]), WeightType::F32).is_err());
        assert!(pack(&source(DType::F32, usize::MAX, 0, &[]), WeightType::Int8).is_err());
        assert!(pack(&source(DType::F32, 0, usize::MAX / 2, &[]), WeightType::F32).is_err());
        assert!(pack(&source(DType::F32, 0, 3, &[]), WeightType::F32).is_err());
        let scales = [1.0];
        let scaled = MatrixSource {
            dtype: DType::I8,
            n: 2,
            k: 2,
            bytes: &[0; 4],
            row_scales: Some(&scales),
        };
        assert!(pack(&scaled, WeightType::Int8).is_err());
        for bad in [f32::NAN, f32::INFINITY] {
            let bytes = floats(&[1.0, bad, 2.0, 0.0]);
            assert!(pack(&source(DType::F32, 2, 2, &bytes), WeightType::Int8).is_err());
            assert!(pack(&source(DType::F32, 2, 2, &bytes), WeightType::Bf16).is_ok());
        }
    }
}
