//! The text decoder.

use std::sync::Arc;

use turaco_compute::{
    DType, Epilogue, HostMatrix, Ids, Matrix, Slot, StepBuilder, Value, WeightType,
};

use super::config::VoxtralRealtimeConfig;
use super::delay::{layer_gains, time_embeddings};
use super::layers;
use crate::Result;
use crate::nn::{CacheAt, DECODER_NORMS, LayerProgress, Loader, RmsNorm, RotaryLayer, RotaryPairs};

/// Tokens and audio vectors to logits.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Also what turns hidden states into logits.
    embed_tokens: Arc<Matrix>,
    layers: Vec<RotaryLayer>,
    norm: RmsNorm,
    /// For every delay the factors of all layers' feed-forward norms: `[MAX_DELAY, n_layers * dim]`.
    gain_table: Arc<Matrix>,
    gains: Vec<f32>,
    dim: usize,
}

/// What a forward pass of the decoder is given: tokens, positions and audio for all rows, delays for all sequences.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecoderInputs {
    /// Audio vectors, `[rows, dim]`.
    pub audio: Value,
    /// The token before each position, `[rows, 1]`.
    pub tokens: Ids,
    /// `[rows, 1]`.
    pub positions: Ids,
    /// Rows of the table of gains, `[n_sequences, 1]`.
    pub delays: Ids,
    /// Stacked sequences.
    pub n_sequences: usize,
    /// Their caches.
    pub slot: Slot,
}

impl Decoder {
    /// From below `language_model.model`.
    pub fn load(
        loader: &Loader<'_>,
        config: &VoxtralRealtimeConfig,
        pairs: RotaryPairs,
        progress: &mut LayerProgress<'_>,
    ) -> Result<Self> {
        let stack = &config.decoder;
        let mut loaded = Vec::with_capacity(stack.n_layers);
        // [layer][delay][dim]
        let mut by_layer = Vec::with_capacity(stack.n_layers);
        let embeddings = time_embeddings(stack.dim);
        for layer in 0..stack.n_layers {
            progress.next_layer()?;
            let at = loader.at("layers").at(layer);
            by_layer.push(layer_gains(&at, &embeddings, stack.dim)?);
            loaded.push(RotaryLayer::load(&at, DECODER_NORMS, layers(stack, pairs))?);
        }
        let n_delays = super::MAX_DELAY;
        let gains: Vec<f32> = (0..n_delays)
            .flat_map(|delay| by_layer.iter().flat_map(move |layer| &layer[delay]))
            .copied()
            .collect();
        let table = HostMatrix {
            dtype: DType::F32,
            rows: n_delays,
            cols: stack.n_layers * stack.dim,
            bytes: bytemuck::cast_slice(&gains),
            row_scales: None,
            storage: None,
        };
        Ok(Self {
            embed_tokens: loader.matrix(&["embed_tokens.weight"], config.n_vocab, stack.dim)?,
            layers: loaded,
            norm: RmsNorm::load(loader, "norm", stack.dim, stack.norm_eps)?,
            gain_table: loader.device().matrix(&[table], WeightType::F32)?,
            gains,
            dim: stack.dim,
        })
    }

    /// The gains of all layers for a delay, `[n_layers * dim]`.
    pub fn gains(&self, delay: usize) -> Vec<f32> {
        let width = self.layers.len() * self.dim;
        self.gains[(delay - 1) * width..][..width].to_vec()
    }

    /// Hidden states after every layer, `[rows, dim]` each.
    pub fn forward(&self, step: &mut StepBuilder, given: DecoderInputs) -> Result<Vec<Value>> {
        let embedded = step.embedding(&self.embed_tokens, given.tokens, None)?;
        let mut x = step.add(given.audio, 1.0, embedded, 1.0)?;
        let gains = step.embedding(&self.gain_table, given.delays, None)?;
        let mut hidden_states = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let at = CacheAt {
                positions: given.positions,
                slot: given.slot,
                n_sequences: given.n_sequences,
                layer: index,
            };
            let gain = step.columns(gains, index * self.dim, self.dim)?;
            x = step.scope(&format!("decoder.layer.{index}"), |step| {
                layer.forward(step, x, at, Some(gain))
            })?;
            hidden_states.push(x);
        }
        Ok(hidden_states)
    }

    /// `x [rows, dim]` to normalised states and logits `[rows, n_vocab]`.
    pub fn logits(&self, step: &mut StepBuilder, x: Value) -> Result<(Value, Value)> {
        step.scope("decoder.logits", |step| {
            let states = self.norm.forward(step, x)?;
            let logits = step.linear(states, &self.embed_tokens, Epilogue::default())?;
            Ok((states, logits))
        })
    }
}
