//! Embedding tables that the host looks into while it puts a prompt together. They stay in the mapped file.

use crate::Result;
use crate::weights::{DType, Tensor, Weights, invalid};

/// `[rows, cols]`, read row by row.
#[derive(Debug)]
pub struct EmbeddingTable {
    tensor: Tensor,
    cols: usize,
}

impl EmbeddingTable {
    /// The tensor `name`.
    ///
    /// # Errors
    /// It is missing, has another shape, or is packed so that rows are no longer to be had.
    pub fn new(weights: &Weights, name: &str, rows: usize, cols: usize) -> Result<Self> {
        let tensor = weights.get(name, &[rows, cols])?;
        if matches!(tensor.dtype, DType::Panels(_)) {
            let message = format!("tensor `{name}` is packed; expected rows of plain numbers");
            return Err(invalid(weights.path(), message));
        }
        Ok(Self { tensor, cols })
    }

    /// Adds row `id` to `to [cols]`.
    ///
    /// # Panics
    /// No such row: the caller checks what comes from outside.
    pub fn add_row(&self, id: u32, to: &mut [f32]) {
        let id = id as usize;
        let row = self.tensor.rows(id..id + 1);
        let row = row.expect("the id is below the table's rows").to_f32();
        for (to, value) in to.iter_mut().zip(row) {
            *to += value;
        }
    }

    /// Row `id`, `[cols]`.
    ///
    /// # Panics
    /// As [`add_row`](Self::add_row).
    pub fn row(&self, id: u32) -> Vec<f32> {
        let mut row = vec![0.0; self.cols];
        self.add_row(id, &mut row);
        row
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.tensor.n_rows()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
