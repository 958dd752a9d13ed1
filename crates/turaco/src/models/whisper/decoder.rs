//! Whisper's text decoder.

use std::sync::Arc;

use turaco_compute::{
    Activation, Epilogue, Ids, Mask, Matrix, Slot, StepBuilder, Value, WeightType,
};

use super::config::WhisperConfig;
use super::{NORM_EPS, attention_shape, careful_type};
use crate::Result;
use crate::nn::{LayerNorm, LayerProgress, Linear, Loader};

/// Tokens and encoder states to logits.
#[derive(Debug)]
pub(super) struct Decoder {
    token_embedding: Arc<Matrix>,
    positions: Arc<Matrix>,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

/// `x += self_attention(norm(x)); x += cross_attention(norm(x)); x += mlp(norm(x))`.
#[derive(Debug)]
struct Block {
    attn_norm: LayerNorm,
    /// Query, key and value projections in one matrix.
    qkv_proj: Linear,
    out_proj: Linear,
    cross_norm: LayerNorm,
    cross_q_proj: Linear,
    /// Key and value projections of the encoder states in one matrix.
    cross_kv_proj: Linear,
    cross_out_proj: Linear,
    mlp_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    n_state: usize,
    n_heads: usize,
}

/// Where the decoder's states are bound.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecoderSlots {
    /// One cache per sequence: keys and values of its tokens.
    pub tokens: Slot,
    /// One cache per sequence, possibly shared: keys and values of its window's encoder states.
    pub window: Slot,
}

impl Decoder {
    pub fn load(
        loader: &Loader<'_>,
        config: &WhisperConfig,
        progress: &mut LayerProgress<'_>,
    ) -> Result<Self> {
        let d = config.n_text_state;
        let exact = loader.with_weight_type(WeightType::F32);
        Ok(Self {
            token_embedding: loader
                .with_weight_type(careful_type(loader.weight_type(), config))
                .matrix(&["embed_tokens.weight"], config.n_vocab, d)?,
            positions: exact.matrix(&["embed_positions.weight"], config.n_text_ctx, d)?,
            blocks: (0..config.n_text_layers)
                .map(|layer| {
                    progress.next_layer()?;
                    Block::load(&loader.at("layers").at(layer), config)
                })
                .collect::<Result<_>>()?,
            norm: LayerNorm::load(loader, "layer_norm", d, NORM_EPS)?,
        })
    }

    /// Project encoder states once per window: keys and values of every block's cross-attention go to `slot`.
    pub fn append_cross_keys(
        &self,
        step: &mut StepBuilder,
        encoder_states: Value,
        slot: Slot,
    ) -> Result<()> {
        for (layer, block) in self.blocks.iter().enumerate() {
            step.scope(&format!("cross_keys.layer.{layer}"), |step| -> Result<_> {
                let kv = block.cross_kv_proj.forward(step, encoder_states)?;
                let [k, v] = [
                    step.columns(kv, 0, block.n_state)?,
                    step.columns(kv, block.n_state, block.n_state)?,
                ];
                Ok(step.cache_append(slot, layer, k, v)?)
            })?;
        }
        Ok(())
    }

    /// `tokens` and their `positions` `[n_sequences * n, 1]` to hidden states `[n_sequences * n, n_text_state]`, and the
    /// cross-attention scores of `capture`'s heads `(layer, heads)`, each `[heads * n, window capacity]`.
    pub fn forward(
        &self,
        step: &mut StepBuilder,
        (tokens, positions): (Ids, Ids),
        slots: DecoderSlots,
        n_sequences: usize,
        capture: Option<&CaptureHeads>,
    ) -> Result<(Value, Vec<Value>)> {
        let mut x = step.scope("decoder.embedding", |step| {
            step.embedding(
                &self.token_embedding,
                tokens,
                Some((&self.positions, positions)),
            )
        })?;
        let mut scores = Vec::new();
        for (layer, block) in self.blocks.iter().enumerate() {
            let heads = capture.and_then(|c| Some((c.heads.get(layer)?.as_slice(), c.capacity)));
            let heads = heads.filter(|(heads, _)| !heads.is_empty());
            x = step.scope(&format!("decoder.layer.{layer}"), |step| {
                block.forward(step, x, layer, slots, n_sequences, heads, &mut scores)
            })?;
        }
        let x = step.scope("decoder.norm", |step| self.norm.forward(step, x))?;
        Ok((x, scores))
    }

    /// Logits `[rows, n_vocab]` of normed hidden states.
    pub fn logits(&self, step: &mut StepBuilder, hidden_states: Value) -> Result<Value> {
        Ok(step.scope("decoder.logits", |step| {
            step.linear(hidden_states, &self.token_embedding, Epilogue::default())
        })?)
    }
}

/// Which cross-attention heads' scores to keep.
#[derive(Debug)]
pub(super) struct CaptureHeads {
    /// Heads per layer.
    pub heads: Vec<Vec<usize>>,
    /// Positions of a window's cache.
    pub capacity: usize,
}

impl Block {
    fn load(loader: &Loader<'_>, config: &WhisperConfig) -> Result<Self> {
        let (d, d_audio, ffn) = (config.n_text_state, config.n_audio_state, config.n_text_ffn);
        let attention = loader.at("self_attn");
        let cross = loader.at("encoder_attn");
        Ok(Self {
            attn_norm: LayerNorm::load(loader, "self_attn_layer_norm", d, NORM_EPS)?,
            qkv_proj: Linear::load_stacked(
                &attention,
                &[("q_proj", true), ("k_proj", false), ("v_proj", true)],
                d,
                d,
            )?,
            out_proj: Linear::load(&attention, "out_proj", d, d)?,
            cross_norm: LayerNorm::load(loader, "encoder_attn_layer_norm", d, NORM_EPS)?,
            cross_q_proj: Linear::load(&cross, "q_proj", d, d)?,
            cross_kv_proj: Linear::load_stacked(
                &cross,
                &[("k_proj", false), ("v_proj", true)],
                d_audio,
                d,
            )?,
            cross_out_proj: Linear::load(&cross, "out_proj", d, d)?,
            mlp_norm: LayerNorm::load(loader, "final_layer_norm", d, NORM_EPS)?,
            fc1: Linear::load(loader, "fc1", d, ffn)?,
            fc2: Linear::load(loader, "fc2", ffn, d)?,
            n_state: d,
            n_heads: config.n_text_heads,
        })
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one block of the forward pass, called in one place"
    )]
    fn forward(
        &self,
        step: &mut StepBuilder,
        x: Value,
        layer: usize,
        slots: DecoderSlots,
        n_sequences: usize,
        capture: Option<(&[usize], usize)>,
        scores: &mut Vec<Value>,
    ) -> Result<Value> {
        let d = self.n_state;
        let h = self.attn_norm.forward(step, x)?;
        let qkv = self.qkv_proj.forward(step, h)?;
        let [q, k, v] = [
            step.columns(qkv, 0, d)?,
            step.columns(qkv, d, d)?,
            step.columns(qkv, 2 * d, d)?,
        ];
        step.cache_append(slots.tokens, layer, k, v)?;
        let shape = attention_shape(d, self.n_heads, Mask::Causal);
        let attended = step.cached_attention(q, slots.tokens, layer, n_sequences, shape)?;
        let x = self
            .out_proj
            .forward_with(step, attended, Epilogue::default().residual(x))?;

        let h = self.cross_norm.forward(step, x)?;
        let q = self.cross_q_proj.forward(step, h)?;
        let shape = attention_shape(d, self.n_heads, Mask::Full);
        let attended = match capture {
            None => step.cached_attention(q, slots.window, layer, n_sequences, shape)?,
            Some((heads, capacity)) => {
                let (attended, captured) = step.cached_attention_scores(
                    q,
                    slots.window,
                    layer,
                    n_sequences,
                    shape,
                    heads,
                    capacity,
                )?;
                scores.push(captured);
                attended
            }
        };
        let x =
            self.cross_out_proj
                .forward_with(step, attended, Epilogue::default().residual(x))?;

        let h = self.mlp_norm.forward(step, x)?;
        let h = self
            .fc1
            .forward_with(step, h, Epilogue::default().activation(Activation::Gelu))?;
        self.fc2
            .forward_with(step, h, Epilogue::default().residual(x))
    }
}
