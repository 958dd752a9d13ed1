//! The gated feed-forward network.

use turaco_compute::{Epilogue, StepBuilder, Value};

use super::{Linear, Loader};
use crate::Result;

/// `down(silu(gate(x)) * up(x)) + residual` (Shazeer 2020).
#[derive(Debug)]
pub struct SwiGluMlp {
    /// Both maps of the input in one matrix.
    gate_up_proj: Linear,
    down_proj: Linear,
    ffn_dim: usize,
}

impl SwiGluMlp {
    /// `gate_proj`, `up_proj` and `down_proj` below `loader`, the last with the bias that the checkpoint has.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(loader: &Loader<'_>, dim: usize, ffn_dim: usize) -> Result<Self> {
        Self::load_scaled(loader, dim, ffn_dim, None)
    }

    /// The same with each column of the result (before the residual) times its factor of `factors`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load_scaled(
        loader: &Loader<'_>,
        dim: usize,
        ffn_dim: usize,
        factors: Option<&[f32]>,
    ) -> Result<Self> {
        let gate_up = [("gate_proj", false), ("up_proj", false)];
        let down_proj = match factors {
            Some(factors) => Linear::load_scaled(loader, "down_proj", ffn_dim, dim, factors)?,
            None => {
                let down = [("down_proj", loader.has("down_proj.bias"))];
                Linear::load_stacked(loader, &down, ffn_dim, dim)?
            }
        };
        Ok(Self {
            gate_up_proj: Linear::load_stacked(loader, &gate_up, dim, ffn_dim)?,
            down_proj,
            ffn_dim,
        })
    }

    /// `x [rows, dim]` to `[rows, dim]`, `residual` added.
    ///
    /// # Errors
    /// `x` has another width.
    pub fn forward(&self, step: &mut StepBuilder, x: Value, residual: Value) -> Result<Value> {
        let gate_up = self.gate_up_proj.forward(step, x)?;
        let gate = step.columns(gate_up, 0, self.ffn_dim)?;
        let up = step.columns(gate_up, self.ffn_dim, self.ffn_dim)?;
        let gated = step.swiglu(gate, up)?;
        self.down_proj
            .forward_with(step, gated, Epilogue::default().residual(residual))
    }
}
