//! The layer of language models of the Llama kind, and a stack of them.

use turaco_compute::{StepBuilder, Value};

use super::{
    AttentionConfig, CacheAt, CachedSelfAttention, LayerProgress, Loader, RmsNorm, SwiGluMlp,
};
use crate::Result;

/// Sizes of a [`RotaryLayer`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerConfig {
    /// The attention.
    pub attention: AttentionConfig,
    /// Width inside the feed-forward network.
    pub ffn_dim: usize,
    /// Epsilon of the norms in front of both.
    pub norm_eps: f32,
}

/// The norms of a layer as Hugging Face's decoders call them: in front of the attention, and in front of the feed-forward
/// network.
pub const DECODER_NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];

/// `x += attention(norm(x)); x += mlp(norm(x) * gain)`, with rotary positions and keys in a cache.
#[derive(Debug)]
pub struct RotaryLayer {
    attn_norm: RmsNorm,
    attention: CachedSelfAttention,
    ffn_norm: RmsNorm,
    mlp: SwiGluMlp,
}

impl RotaryLayer {
    /// `self_attn`, `mlp` and the norms of these names below `loader`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(loader: &Loader<'_>, norms: [&str; 2], config: LayerConfig) -> Result<Self> {
        let (dim, eps) = (config.attention.dim, config.norm_eps);
        Ok(Self {
            attn_norm: RmsNorm::load(loader, norms[0], dim, eps)?,
            attention: CachedSelfAttention::load(&loader.at("self_attn"), config.attention)?,
            ffn_norm: RmsNorm::load(loader, norms[1], dim, eps)?,
            mlp: SwiGluMlp::load(&loader.at("mlp"), dim, config.ffn_dim)?,
        })
    }

    /// `x [rows, dim]`; `gain [n_sequences, dim]`, where there is one.
    ///
    /// # Errors
    /// `x` or `gain` have other widths.
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

/// Layers and the norm behind them.
#[derive(Debug)]
pub struct LayerStack {
    layers: Vec<RotaryLayer>,
    norm: RmsNorm,
}

impl LayerStack {
    /// `layers.{i}` and `norm` below `loader`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or cancellation.
    pub fn load(
        loader: &Loader<'_>,
        n_layers: usize,
        config: LayerConfig,
        progress: &mut LayerProgress<'_>,
    ) -> Result<Self> {
        let layers = (0..n_layers).map(|layer| {
            progress.next_layer()?;
            RotaryLayer::load(&loader.at("layers").at(layer), DECODER_NORMS, config)
        });
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            norm: RmsNorm::load(loader, "norm", config.attention.dim, config.norm_eps)?,
        })
    }

    /// `x [rows, dim]` to what each layer makes of it, `[rows, dim]` each. `name` is for traces.
    ///
    /// # Errors
    /// `x` has another width.
    pub fn layers(
        &self,
        step: &mut StepBuilder,
        name: &str,
        mut x: Value,
        at: impl Fn(usize) -> CacheAt,
    ) -> Result<Vec<Value>> {
        let layers = self.layers.iter().enumerate().map(|(index, layer)| {
            x = step.scope(&format!("{name}.layer.{index}"), |step| {
                layer.forward(step, x, at(index), None)
            })?;
            Ok(x)
        });
        layers.collect()
    }

    /// The norm behind the last layer.
    ///
    /// # Errors
    /// `x` has another width.
    pub fn norm(&self, step: &mut StepBuilder, x: Value) -> Result<Value> {
        self.norm.forward(step, x)
    }

    /// `x [rows, dim]` through all layers, and the rows that are wanted (chosen by `keep`) through the norm.
    ///
    /// # Errors
    /// `x` has another width, or what `keep` says.
    pub fn forward(
        &self,
        step: &mut StepBuilder,
        name: &str,
        x: Value,
        at: impl Fn(usize) -> CacheAt,
        keep: impl FnOnce(&mut StepBuilder, Value) -> Result<Value>,
    ) -> Result<Value> {
        let last = self.layers(step, name, x, at)?.pop().unwrap_or(x);
        let kept = keep(step, last)?;
        self.norm(step, kept)
    }
}
