//! `x W^T + b`.

use std::sync::Arc;

use turaco_compute::{Epilogue, Matrix, StepBuilder, Value, Vector};

use super::Loader;
use crate::Result;
use crate::weights::Tensor;

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

    /// A map whose weights are on a device already.
    pub fn of(weight: Arc<Matrix>, bias: Option<Arc<Vector>>) -> Self {
        Self { weight, bias }
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

    /// `{name}.weight`, and `{name}.bias` where present, each output times its factor of `factors`: a layer scale behind the
    /// map becomes part of it.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load_scaled(
        loader: &Loader<'_>,
        name: &str,
        n_in: usize,
        n_out: usize,
        factors: &[f32],
    ) -> Result<Self> {
        let at = loader.at(name);
        let stored = at.tensor("weight", &[n_out, n_in])?;
        let mut weight = stored.to_f32();
        stored.bytes.release();
        for (row, factor) in weight.chunks_exact_mut(n_in.max(1)).zip(factors) {
            row.iter_mut().for_each(|value| *value *= factor);
        }
        let bias = if at.has("bias") {
            let mut bias = at.tensor("bias", &[n_out])?.to_f32();
            bias.iter_mut()
                .zip(factors)
                .for_each(|(value, factor)| *value *= factor);
            Some(at.device().vector(&bias)?)
        } else {
            None
        };
        Ok(Self {
            weight: at.stacked(&[Tensor::from_f32(&[n_out, n_in], &weight)])?,
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
