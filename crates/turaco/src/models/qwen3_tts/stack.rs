//! A stack of Qwen3 decoder layers, as the talker and the code predictor are.

use turaco_compute::{Mask, StepBuilder, Value};

use super::config::StackConfig;
use crate::Result;
use crate::nn::{
    AttentionConfig, CacheAt, CachedSelfAttention, Loader, RmsNorm, RotaryPairs, SwiGluMlp,
};

/// Layers and the norm behind them.
#[derive(Debug)]
pub(super) struct Stack {
    layers: Vec<Layer>,
    norm: RmsNorm,
}

/// `x += attention(norm(x)); x += mlp(norm(x))`, with norms of query and key heads.
#[derive(Debug)]
struct Layer {
    input_layernorm: RmsNorm,
    self_attn: CachedSelfAttention,
    post_attention_layernorm: RmsNorm,
    mlp: SwiGluMlp,
}

impl Stack {
    /// `layers.{i}` and `norm` below `loader`.
    pub fn load(
        loader: &Loader<'_>,
        config: &StackConfig,
        next_layer: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Self> {
        let layers = (0..config.n_layers).map(|layer| {
            next_layer()?;
            Layer::load(&loader.at("layers").at(layer), config)
        });
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            norm: RmsNorm::load(loader, "norm", config.dim, config.norm_eps)?,
        })
    }

    /// `x [rows, dim]` to normalised hidden states `[rows, dim]`; the last `kept` rows only, where fewer are wanted than
    /// there are, chosen by `keep` before the norm. `name` is for traces.
    pub fn forward(
        &self,
        step: &mut StepBuilder,
        name: &str,
        mut x: Value,
        at: impl Fn(usize) -> CacheAt,
        keep: impl FnOnce(&mut StepBuilder, Value) -> Result<Value>,
    ) -> Result<Value> {
        for (index, layer) in self.layers.iter().enumerate() {
            let name = format!("{name}.layer.{index}");
            x = step.scope(&name, |step| layer.forward(step, x, at(index)))?;
        }
        let x = keep(step, x)?;
        self.norm.forward(step, x)
    }
}

impl Layer {
    fn load(loader: &Loader<'_>, config: &StackConfig) -> Result<Self> {
        let (dim, eps) = (config.dim, config.norm_eps);
        let attention = AttentionConfig {
            dim,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            rope_theta: config.rope_theta,
            mask: Mask::Causal,
            pairs: RotaryPairs::Halves,
            qk_norm_eps: Some(eps),
        };
        Ok(Self {
            input_layernorm: RmsNorm::load(loader, "input_layernorm", dim, eps)?,
            self_attn: CachedSelfAttention::load(&loader.at("self_attn"), attention)?,
            post_attention_layernorm: RmsNorm::load(loader, "post_attention_layernorm", dim, eps)?,
            mlp: SwiGluMlp::load(&loader.at("mlp"), dim, config.ffn_dim)?,
        })
    }

    fn forward(&self, step: &mut StepBuilder, x: Value, at: CacheAt) -> Result<Value> {
        let h = self.input_layernorm.forward(step, x)?;
        let x = self.self_attn.forward(step, h, at, x)?;
        let h = self.post_attention_layernorm.forward(step, x)?;
        self.mlp.forward(step, h, x)
    }
}
