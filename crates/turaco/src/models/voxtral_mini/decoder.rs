//! The text decoder.

use std::sync::Arc;

use turaco_compute::{Epilogue, Ids, Mask, Matrix, Slot, StepBuilder, Value};

use super::config::VoxtralMiniConfig;
use crate::Result;
use crate::nn::{
    AttentionConfig, CacheAt, LayerConfig, LayerProgress, LayerStack, Loader, RotaryPairs,
};

/// Rows of text and sound to logits.
#[derive(Debug)]
pub(super) struct Decoder {
    stack: LayerStack,
    lm_head: Arc<Matrix>,
}

/// Where the rows of a step stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecoderRows {
    /// Position of every row, `[n_sequences * rows, 1]`.
    pub positions: Ids,
    /// Stacked sequences.
    pub n_sequences: usize,
    /// Their caches.
    pub slot: Slot,
}

impl Decoder {
    /// `model` and `lm_head` below `loader`; without a head, the token embedding is one.
    pub fn load(
        loader: &Loader<'_>,
        config: &VoxtralMiniConfig,
        pairs: RotaryPairs,
        progress: &mut LayerProgress<'_>,
    ) -> Result<Self> {
        let decoder = &config.decoder;
        let layers = LayerConfig {
            attention: AttentionConfig {
                dim: decoder.dim,
                n_heads: decoder.n_heads,
                n_kv_heads: decoder.n_kv_heads,
                head_dim: decoder.head_dim,
                rope_theta: decoder.rope_theta,
                mask: Mask::Causal,
                pairs,
                qk_norm_eps: None,
            },
            ffn_dim: decoder.ffn_dim,
            norm_eps: decoder.norm_eps,
        };
        let head = match loader.has("lm_head.weight") {
            true => "lm_head.weight",
            false => "model.embed_tokens.weight",
        };
        Ok(Self {
            stack: LayerStack::load(&loader.at("model"), decoder.n_layers, layers, progress)?,
            lm_head: loader.matrix(&[head], config.n_vocab, decoder.dim)?,
        })
    }

    /// `x [rows, dim]` to what each layer makes of it, `[rows, dim]` each.
    pub fn layers(
        &self,
        step: &mut StepBuilder,
        x: Value,
        rows: DecoderRows,
    ) -> Result<Vec<Value>> {
        let at = |layer| CacheAt {
            positions: rows.positions,
            slot: rows.slot,
            n_sequences: rows.n_sequences,
            layer,
        };
        self.stack.layers(step, "decoder", x, at)
    }

    /// What the last layer makes to logits, `[rows, n_vocab]`.
    pub fn logits(&self, step: &mut StepBuilder, x: Value) -> Result<Value> {
        step.scope("decoder.logits", |step| {
            let states = self.stack.norm(step, x)?;
            Ok(step.linear(states, &self.lm_head, Epilogue::default())?)
        })
    }
}
