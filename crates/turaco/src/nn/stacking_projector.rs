//! From encoder positions to vectors that stand in for the embeddings of text tokens.

use std::sync::Arc;

use turaco_compute::{Activation, ConvShape, Epilogue, Matrix, StepBuilder, Value};

use super::{Linear, Loader};
use crate::Result;

/// Neighbouring positions side by side, oldest first, through two linear maps with a GELU in between.
#[derive(Debug)]
pub struct StackingProjector {
    linear_1: Arc<Matrix>,
    linear_2: Linear,
    group: usize,
}

impl StackingProjector {
    /// `linear_1` and `linear_2` below `loader`, for groups of `group` positions of width `n_in`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(loader: &Loader<'_>, group: usize, n_in: usize, n_out: usize) -> Result<Self> {
        Ok(Self {
            linear_1: loader.matrix(&["linear_1.weight"], n_out, group * n_in)?,
            linear_2: Linear::load_stacked(loader, &[("linear_2", false)], n_out, n_out)?,
            group,
        })
    }

    /// `states [n_sequences * positions, n_in]` to `[n_sequences * positions / group, n_out]`.
    ///
    /// # Errors
    /// `states` has another width.
    pub fn forward(
        &self,
        step: &mut StepBuilder,
        states: Value,
        n_sequences: usize,
    ) -> Result<Value> {
        // A convolution whose stride is its width.
        let side_by_side = ConvShape {
            n_sequences,
            kernel: self.group,
            stride: self.group,
            padding: (0, 0),
            ..ConvShape::default()
        };
        let gelu = Activation::Gelu;
        let h = step.conv1d(states, &self.linear_1, None, gelu, side_by_side)?;
        self.linear_2.forward_with(step, h, Epilogue::default())
    }
}
