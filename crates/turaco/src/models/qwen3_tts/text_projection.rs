//! Text tokens to vectors of the talker's width.

use turaco_compute::{Activation, Epilogue, StepBuilder, Value};

use super::config::Qwen3TtsConfig;
use crate::Result;
use crate::nn::{Linear, Loader};

/// `fc2(silu(fc1(x)))`.
#[derive(Debug)]
pub(super) struct TextProjection {
    linear_fc1: Linear,
    linear_fc2: Linear,
}

impl TextProjection {
    /// From below `talker.text_projection`.
    pub fn load(loader: &Loader<'_>, config: &Qwen3TtsConfig) -> Result<Self> {
        let (text, dim) = (config.text_dim, config.talker.dim);
        Ok(Self {
            linear_fc1: Linear::load(loader, "linear_fc1", text, text)?,
            linear_fc2: Linear::load(loader, "linear_fc2", text, dim)?,
        })
    }

    /// Rows of the text embedding `[rows, text width]` to `[rows, talker width]`.
    pub fn forward(&self, step: &mut StepBuilder, x: Value) -> Result<Value> {
        let activation = Epilogue::default().activation(Activation::Silu);
        let h = self.linear_fc1.forward_with(step, x, activation)?;
        self.linear_fc2.forward(step, h)
    }
}
