//! Weights of the CPU backend.

use half::{bf16, f16};

use crate::device::HostMatrix;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// A matrix widened to f32, row after row.
pub(crate) struct CpuMatrix {
    cols: usize,
    values: Vec<f32>,
}

impl CpuMatrix {
    /// Widen and stack the sources. Returns the number of rows and columns too.
    pub(crate) fn new(sources: &[HostMatrix<'_>]) -> Result<(usize, usize, Self)> {
        let cols = sources.first().map_or(0, |source| source.cols);
        let rows = sources.iter().map(|source| source.rows).sum();
        let mut values = Vec::new();
        let refused = || Error::OutOfMemory {
            bytes: usize::MAX,
            what: "a weight matrix".into(),
        };
        let len = cols.checked_mul(rows).ok_or_else(refused)?;
        values.try_reserve_exact(len).map_err(|_| refused())?;
        for source in sources {
            widen(source, cols, &mut values)?;
        }
        Ok((rows, cols, Self { cols, values }))
    }

    /// Row `index` as f32.
    pub(crate) fn row_f32(&self, index: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.values[index * self.cols..][..self.cols]);
    }

    /// All values.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }
}

fn widen(source: &HostMatrix<'_>, cols: usize, values: &mut Vec<f32>) -> Result<()> {
    let expected = source
        .rows
        .checked_mul(source.cols)
        .and_then(|len| source.dtype.bytes_for(len));
    let scales_fit = source
        .row_scales
        .is_none_or(|scales| scales.len() == source.rows);
    if source.cols != cols || expected != Some(source.bytes.len()) || !scales_fit {
        return Err(Error::Shape {
            what: "weight matrix".into(),
            expected: format!(
                "{cols} columns and {expected:?} bytes for {} rows",
                source.rows
            ),
            found: format!("{} columns and {} bytes", source.cols, source.bytes.len()),
        });
    }
    let first = values.len();
    let bytes = source.bytes;
    match source.dtype {
        DType::F32 => values.extend(
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|&b| f32::from_le_bytes(b)),
        ),
        DType::F64 => values.extend(
            bytes
                .as_chunks::<8>()
                .0
                .iter()
                .map(|&b| f64::from_le_bytes(b) as f32),
        ),
        DType::F16 => values.extend(
            bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|&b| f16::from_le_bytes(b).to_f32()),
        ),
        DType::Bf16 => values.extend(
            bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|&b| bf16::from_le_bytes(b).to_f32()),
        ),
        DType::I8 => values.extend(bytes.iter().map(|&b| f32::from(b as i8))),
        DType::I16 => values.extend(
            bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|&b| f32::from(i16::from_le_bytes(b))),
        ),
        other => {
            return Err(Error::Unsupported {
                what: format!("a weight matrix stored as {other}"),
                reason: "the CPU reads f32, f64, f16, bf16, i8 and i16".into(),
            });
        }
    }
    if let (Some(scales), true) = (source.row_scales, cols > 0) {
        for (row, &scale) in values[first..].chunks_exact_mut(cols).zip(scales) {
            row.iter_mut().for_each(|value| *value *= scale);
        }
    }
    Ok(())
}
