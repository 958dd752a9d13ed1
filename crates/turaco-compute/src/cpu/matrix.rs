//! Weights of the CPU backend.

use std::sync::OnceLock;

use crate::cpu::packed::{MatrixSource, PackedMatrix};
use crate::cpu::pool::Pool;
use crate::device::{HostMatrix, WeightType};
use crate::error::Result;

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
        let sources: Vec<MatrixSource<'_>> = sources
            .iter()
            .map(|source| MatrixSource {
                dtype: source.dtype,
                n: source.rows,
                k: source.cols,
                bytes: source.bytes,
                row_scales: source.row_scales,
            })
            .collect();
        let packed = PackedMatrix::pack_stacked(&sources, weight_type, pool)?;
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
        self.table.get_or_init(|| {
            let (rows, cols) = (self.packed.n(), self.packed.k());
            let mut values = vec![0.0; rows * cols];
            for (row, out) in values.chunks_exact_mut(cols).enumerate() {
                self.packed.row_f32(row, out);
            }
            values
        })
    }
}
