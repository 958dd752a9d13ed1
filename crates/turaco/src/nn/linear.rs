//! `x W^T + b`.

use std::sync::Arc;

use turaco_compute::{Epilogue, Matrix, StepBuilder, Value, Vector};

use super::Loader;
use crate::Result;

/// A linear map with an optional bias; weight `[out, in]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Arc<Matrix>,
    bias: Option<Arc<Vector>>,
}

impl Linear {
    /// `{name}.weight` and `{name}.bias`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(loader: &Loader<'_>, name: &str, n_in: usize, n_out: usize) -> Result<Self> {
        Self::load_stacked(loader, &[(name, true)], n_in, n_out)
    }

    /// Several maps of the same input stacked by outputs; `false` marks one without a bias.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load_stacked(
        loader: &Loader<'_>,
        names: &[(&str, bool)],
        n_in: usize,
        n_out: usize,
    ) -> Result<Self> {
        let weights: Vec<_> = names
            .iter()
            .map(|(name, _)| format!("{name}.weight"))
            .collect();
        let biases: Vec<_> = names
            .iter()
            .map(|(name, has)| has.then(|| format!("{name}.bias")))
            .collect();
        let weights: Vec<_> = weights.iter().map(String::as_str).collect();
        let biases: Vec<_> = biases.iter().map(Option::as_deref).collect();
        let bias = if biases.iter().any(Option::is_some) {
            Some(loader.vectors(&biases, n_out)?)
        } else {
            None
        };
        Ok(Self {
            weight: loader.matrix(&weights, n_out, n_in)?,
            bias,
        })
    }

    /// `x [rows, in]` to `[rows, out]`.
    ///
    /// # Errors
    /// `x` has another width.
    pub fn forward(&self, step: &mut StepBuilder, x: Value) -> Result<Value> {
        self.forward_with(step, x, Epilogue::default())
    }

    /// The same with an activation or residual; the bias is filled in.
    ///
    /// # Errors
    /// `x` or the residual have another shape.
    pub fn forward_with(
        &self,
        step: &mut StepBuilder,
        x: Value,
        epilogue: Epilogue,
    ) -> Result<Value> {
        Ok(step.linear(
            x,
            &self.weight,
            Epilogue {
                bias: self.bias.clone(),
                ..epilogue
            },
        )?)
    }
}
