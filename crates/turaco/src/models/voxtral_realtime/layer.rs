//! The layer that encoder and decoder have in common.

use turaco_compute::{StepBuilder, Value};

use super::attention;
use super::config::StackConfig;
use crate::Result;
use crate::nn::{CacheAt, CachedSelfAttention, Loader, RmsNorm, RotaryPairs, SwiGluMlp};

/// `x += attention(norm(x)); x += mlp(norm(x) * gain)`.
#[derive(Debug)]
pub(super) struct Layer {
    attn_norm: RmsNorm,
    attention: CachedSelfAttention,
    ffn_norm: RmsNorm,
    mlp: SwiGluMlp,
}

impl Layer {
    /// `norms` names the norm in front of the attention, then the one in front of the feed-forward part.
    pub fn load(
        loader: &Loader<'_>,
        norms: [&str; 2],
        config: &StackConfig,
        pairs: RotaryPairs,
    ) -> Result<Self> {
        let (d, eps) = (config.dim, config.norm_eps);
        Ok(Self {
            attn_norm: RmsNorm::load(loader, norms[0], d, eps)?,
            attention: CachedSelfAttention::load(
                &loader.at("self_attn"),
                attention(config, pairs),
            )?,
            ffn_norm: RmsNorm::load(loader, norms[1], d, eps)?,
            mlp: SwiGluMlp::load(&loader.at("mlp"), d, config.ffn_dim)?,
        })
    }

    /// `x [rows, dim]`; `gain [n_sequences, dim]`, where there is one.
    pub fn forward(
        &self,
        step: &mut StepBuilder,
        x: Value,
        at: CacheAt,
        gain: Option<Value>,
    ) -> Result<Value> {
        let h = self.attn_norm.forward(step, x)?;
        let x = self.attention.forward(step, h, at, x)?;
        let h = match gain {
            Some(gain) => self.ffn_norm.forward_with_gain(step, x, gain)?,
            None => self.ffn_norm.forward(step, x)?,
        };
        self.mlp.forward(step, h, x)
    }
}
