//! Normalisation layers.

use std::sync::Arc;

use turaco_compute::{StepBuilder, Value, Vector};

use super::Loader;
use crate::Result;

/// Layer normalisation with gain and offset.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    gamma: Arc<Vector>,
    beta: Arc<Vector>,
    eps: f32,
}

impl LayerNorm {
    /// `{name}.weight` and `{name}.bias`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(loader: &Loader<'_>, name: &str, width: usize, eps: f32) -> Result<Self> {
        let at = loader.at(name);
        Ok(Self {
            gamma: at.vector("weight", width)?,
            beta: at.vector("bias", width)?,
            eps,
        })
    }

    /// `x [rows, width]`, normalised per row.
    ///
    /// # Errors
    /// `x` has another width.
    pub fn forward(&self, step: &mut StepBuilder, x: Value) -> Result<Value> {
        Ok(step.layer_norm(x, &self.gamma, &self.beta, self.eps)?)
    }
}
