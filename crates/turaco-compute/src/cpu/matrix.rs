//! Weights of the CPU backend.

use std::sync::OnceLock;

use crate::cpu::packed::{MatrixSource, PANEL, PackedMatrix};
use crate::cpu::pool::Pool;
use crate::device::{HostMatrix, WeightType};
use crate::dtype::DType;
use crate::error::Result;
use crate::storage::Bytes;

/// A packed matrix. Tables that are added as they are get widened once, when they are first used so.
pub(crate) struct CpuMatrix {
    packed: PackedMatrix,
    table: OnceLock<Vec<f32>>,
}

impl CpuMatrix {
    /// Pack the stacked sources.
    pub(crate) fn new(
        sources: &[HostMatrix<'_>],
        weight_type: WeightType,
        pool: &Pool,
    ) -> Result<Self> {
        let packed = match stored(sources, weight_type) {
            Some((cols, parts)) => PackedMatrix::from_stored(weight_type, cols, &parts, pool)?,
            None => pack(sources, weight_type, pool)?,
        };
        Ok(Self {
            packed,
            table: OnceLock::new(),
        })
    }

    /// The matrix as linear maps take it.
    pub(crate) fn packed(&self) -> &PackedMatrix {
        &self.packed
    }

    /// All values as f32, row after row.
    pub(crate) fn table(&self) -> &[f32] {
        self.table.get_or_init(|| self.packed.values())
    }
}

/// Columns and parts of sources that are packed as they are wanted, and can be kept where they are.
fn stored(
    sources: &[HostMatrix<'_>],
    weight_type: WeightType,
) -> Option<(usize, Vec<(usize, Bytes)>)> {
    let cols = sources.first()?.cols;
    let last = sources.len() - 1;
    let part = |(index, source): (usize, &HostMatrix<'_>)| {
        let whole_panels = index == last || source.rows.is_multiple_of(PANEL);
        let fits = source.dtype == DType::Panels(weight_type) && source.cols == cols;
        (fits && whole_panels).then(|| Some((source.rows, source.storage?.clone())))?
    };
    let parts = sources.iter().enumerate().map(part);
    Some((cols, parts.collect::<Option<_>>()?))
}

/// Packs row-major sources; those that are panels of another type are taken apart first.
fn pack(sources: &[HostMatrix<'_>], weight_type: WeightType, pool: &Pool) -> Result<PackedMatrix> {
    let opened = sources
        .iter()
        .map(|source| match source.dtype {
            DType::Panels(stored) => {
                let bytes = source.storage.cloned();
                let bytes = bytes.unwrap_or_else(|| source.bytes.to_vec().into());
                let parts = [(source.rows, bytes)];
                let matrix = PackedMatrix::from_stored(stored, source.cols, &parts, pool)?;
                Ok(Some(matrix.values()))
            }
            _ => Ok(None),
        })
        .collect::<Result<Vec<_>>>()?;
    let sources: Vec<MatrixSource<'_>> = sources
        .iter()
        .zip(&opened)
        .map(|(source, values)| MatrixSource {
            dtype: values.as_ref().map_or(source.dtype, |_| DType::F32),
            n: source.rows,
            k: source.cols,
            bytes: values.as_deref().map_or(source.bytes, bytemuck::cast_slice),
            row_scales: source.row_scales,
        })
        .collect();
    PackedMatrix::pack_stacked(&sources, weight_type, pool)
}
