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

/// Root-mean-square normalisation with gain.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    gamma: Arc<Vector>,
    eps: f32,
}

impl RmsNorm {
    /// `{name}.weight`.
    ///
    /// # Errors
    /// The tensor is missing or has another shape.
    pub fn load(loader: &Loader<'_>, name: &str, width: usize, eps: f32) -> Result<Self> {
        let gamma = loader.at(name).vector("weight", width)?;
        Ok(Self { gamma, eps })
    }

    /// `x [rows, width]`, normalised per row.
    ///
    /// # Errors
    /// `x` has another width.
    pub fn forward(&self, step: &mut StepBuilder, x: Value) -> Result<Value> {
        Ok(step.rms_norm(x, &self.gamma, self.eps)?)
    }

    /// The same times row `s` of `gain` for the rows of the `s`th stacked sequence.
    ///
    /// # Errors
    /// `x` or `gain` have other widths.
    pub fn forward_with_gain(
        &self,
        step: &mut StepBuilder,
        x: Value,
        gain: Value,
    ) -> Result<Value> {
        Ok(step.rms_norm_with_gain(x, &self.gamma, gain, self.eps)?)
    }
}
