//! Whisper's audio encoder, which models that put another decoder behind it have too.

use std::sync::Arc;

use turaco_compute::{Activation, Epilogue, Mask, Matrix, StepBuilder, Value, WeightType};

use super::{NORM_EPS, attention_shape};
use crate::Result;
use crate::nn::{Conv1d, LayerNorm, LayerProgress, Linear, Loader};

/// Sizes of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderConfig {
    /// Mel bands.
    pub n_mels: usize,
    /// Positions; a window has twice as many frames.
    pub n_ctx: usize,
    /// Width of the hidden states.
    pub n_state: usize,
    /// Heads.
    pub n_heads: usize,
    /// Layers.
    pub n_layers: usize,
    /// Width inside the feed-forward network.
    pub n_ffn: usize,
}

/// Log-mel windows to encoder states.
#[derive(Debug)]
pub(in crate::models) struct Encoder {
    conv1: Conv1d,
    conv2: Conv1d,
    positions: Arc<Matrix>,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

/// `x += attention(norm(x)); x += mlp(norm(x))`.
#[derive(Debug)]
struct Block {
    attn_norm: LayerNorm,
    /// Query, key and value projections in one matrix.
    qkv_proj: Linear,
    out_proj: Linear,
    mlp_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    n_state: usize,
    n_heads: usize,
}

/// The values at the end of every stage, for comparison with the reference.
pub(in crate::models) struct EncoderStages {
    /// After each convolution's GELU.
    pub conv: [Value; 2],
    /// The second with positions added.
    pub positioned: Value,
    /// After each block.
    pub blocks: Vec<Value>,
    /// After the final norm.
    pub states: Value,
}

impl Encoder {
    pub fn load(
        loader: &Loader<'_>,
        config: &EncoderConfig,
        progress: &mut LayerProgress<'_>,
    ) -> Result<Self> {
        let d = config.n_state;
        // The stem sees raw features and is a small part of the work: fewer bits would cost accuracy for nothing.
        let stem = match loader.weight_type() {
            WeightType::Int8 | WeightType::Q8 | WeightType::Q4 => {
                loader.with_weight_type(WeightType::Bf16)
            }
            _ => loader.clone(),
        };
        let exact = loader.with_weight_type(WeightType::F32);
        Ok(Self {
            conv1: Conv1d::load(&stem, "conv1", (config.n_mels, d), (3, 1, 1))?,
            conv2: Conv1d::load(&stem, "conv2", (d, d), (3, 2, 1))?,
            positions: exact.matrix(&["embed_positions.weight"], config.n_ctx, d)?,
            blocks: (0..config.n_layers)
                .map(|layer| {
                    progress.next_layer()?;
                    Block::load(&loader.at("layers").at(layer), config)
                })
                .collect::<Result<_>>()?,
            norm: LayerNorm::load(loader, "layer_norm", d, NORM_EPS)?,
        })
    }

    /// `mel [n_sequences * n_mels, 2 * n_ctx]` to states `[n_sequences * n_ctx, n_state]`.
    pub fn forward(
        &self,
        step: &mut StepBuilder,
        mel: Value,
        n_sequences: usize,
    ) -> Result<EncoderStages> {
        let (conv, positioned) = step.scope("encoder.stem", |step| -> Result<_> {
            let x = step.transpose(mel, n_sequences)?;
            let conv1 = self.conv1.forward(step, x, n_sequences, Activation::Gelu)?;
            let conv2 = self
                .conv2
                .forward(step, conv1, n_sequences, Activation::Gelu)?;
            let positioned = step.add_table(conv2, &self.positions)?;
            Ok(([conv1, conv2], positioned))
        })?;
        let mut x = positioned;
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for (layer, block) in self.blocks.iter().enumerate() {
            x = step.scope(&format!("encoder.layer.{layer}"), |step| {
                block.forward(step, x, n_sequences)
            })?;
            blocks.push(x);
        }
        let states = step.scope("encoder.norm", |step| self.norm.forward(step, x))?;
        Ok(EncoderStages {
            conv,
            positioned,
            blocks,
            states,
        })
    }
}

impl Block {
    fn load(loader: &Loader<'_>, config: &EncoderConfig) -> Result<Self> {
        let (d, ffn) = (config.n_state, config.n_ffn);
        let attention = loader.at("self_attn");
        Ok(Self {
            attn_norm: LayerNorm::load(loader, "self_attn_layer_norm", d, NORM_EPS)?,
            qkv_proj: Linear::load_stacked(
                &attention,
                &[("q_proj", true), ("k_proj", false), ("v_proj", true)],
                d,
                d,
            )?,
            out_proj: Linear::load(&attention, "out_proj", d, d)?,
            mlp_norm: LayerNorm::load(loader, "final_layer_norm", d, NORM_EPS)?,
            fc1: Linear::load(loader, "fc1", d, ffn)?,
            fc2: Linear::load(loader, "fc2", ffn, d)?,
            n_state: d,
            n_heads: config.n_heads,
        })
    }

    fn forward(&self, step: &mut StepBuilder, x: Value, n_sequences: usize) -> Result<Value> {
        let d = self.n_state;
        let h = self.attn_norm.forward(step, x)?;
        let qkv = self.qkv_proj.forward(step, h)?;
        let [q, k, v] = [
            step.columns(qkv, 0, d)?,
            step.columns(qkv, d, d)?,
            step.columns(qkv, 2 * d, d)?,
        ];
        let shape = attention_shape(d, self.n_heads, Mask::Full);
        let attended = step.attention(q, k, v, n_sequences, shape)?;
        let x = self
            .out_proj
            .forward_with(step, attended, Epilogue::default().residual(x))?;

        let h = self.mlp_norm.forward(step, x)?;
        let h = self
            .fc1
            .forward_with(step, h, Epilogue::default().activation(Activation::Gelu))?;
        self.fc2
            .forward_with(step, h, Epilogue::default().residual(x))
    }
}
