//! The causal audio encoder and the adapter behind it.

use turaco_compute::{Activation, Ids, Slot, StepBuilder, Value, WeightType};

use super::config::{FRAMES_PER_POSITION, VoxtralRealtimeConfig};
use super::layers;
use crate::Result;
use crate::nn::{
    CacheAt, Conv1d, LayerProgress, Loader, RmsNorm, RotaryLayer, RotaryPairs, StackingProjector,
};

/// Taps of both convolutions.
const KERNEL: usize = 3;

/// Frames before a chunk that its first position is made of: the second convolution looks back on one output of the first,
/// that one on two frames more.
pub(super) const FRAMES_BEFORE: usize = KERNEL;

/// The norms of a layer.
const NORMS: [&str; 2] = ["self_attn_layer_norm", "final_layer_norm"];

/// Log-mel frames to audio vectors.
#[derive(Debug)]
pub(super) struct Encoder {
    conv1: Conv1d,
    conv2: Conv1d,
    layers: Vec<RotaryLayer>,
    norm: RmsNorm,
    /// To the decoder's width.
    projector: StackingProjector,
}

/// What a forward pass of the encoder is given: chunks of the same length of several streams.
#[derive(Debug, Clone, Copy)]
pub(super) struct EncoderInputs {
    /// `[n_sequences * frames, n_mels]`. Unless the streams start here, the frames of each chunk come after the
    /// [`FRAMES_BEFORE`] frames before it.
    pub mel: Value,
    /// Whether the streams start here.
    pub is_first: bool,
    /// Of the encoder's positions, `[n_sequences * positions, 1]`.
    pub positions: Ids,
    /// Stacked streams.
    pub n_sequences: usize,
    /// Their caches.
    pub slot: Slot,
}

/// The values at the end of every stage, those of each stream behind those of the one before.
pub(super) struct EncoderStages {
    /// After the second convolution.
    pub conv_stem: Value,
    /// After each layer.
    pub layers: Vec<Value>,
    /// After the final norm.
    pub states: Value,
    /// One vector for each audio token.
    pub audio: Value,
}

impl Encoder {
    pub fn load(
        loader: &Loader<'_>,
        config: &VoxtralRealtimeConfig,
        pairs: RotaryPairs,
        progress: &mut LayerProgress<'_>,
    ) -> Result<Self> {
        let (stack, dim) = (&config.encoder, config.decoder.dim);
        let tower = loader.at("audio_tower");
        // The stem sees raw features and is a small part of the work: fewer bits would cost accuracy for nothing.
        let stem = match loader.weight_type() {
            WeightType::Int8 | WeightType::Q8 | WeightType::Q4 => {
                tower.with_weight_type(WeightType::Bf16)
            }
            _ => tower.clone(),
        };
        let stem = stem.at("embedder");
        let d = stack.dim;
        let projector = loader.at("multi_modal_projector");
        Ok(Self {
            conv1: Conv1d::load(&stem, "conv1", (config.n_mels, d), (KERNEL, 1, 0))?,
            conv2: Conv1d::load(&stem, "conv2", (d, d), (KERNEL, FRAMES_PER_POSITION, 0))?,
            layers: (0..stack.n_layers)
                .map(|layer| {
                    progress.next_layer()?;
                    RotaryLayer::load(&tower.at("layers").at(layer), NORMS, layers(stack, pairs))
                })
                .collect::<Result<_>>()?,
            norm: RmsNorm::load(&tower, "norm", d, stack.norm_eps)?,
            projector: StackingProjector::load(&projector, config.downsample, d, dim)?,
        })
    }

    /// Log-mel frames to one audio vector for each token of each stream.
    pub fn forward(&self, step: &mut StepBuilder, given: EncoderInputs) -> Result<EncoderStages> {
        let n = given.n_sequences;
        // In front of the first frame come zeros, not silence, for each convolution.
        let (before_1, before_2) = if given.is_first { (2, 1) } else { (0, 0) };
        let conv_stem = step.scope("encoder.stem", |step| {
            let gelu = Activation::Gelu;
            let x = self
                .conv1
                .forward_padded(step, given.mel, n, gelu, (before_1, 0))?;
            self.conv2.forward_padded(step, x, n, gelu, (before_2, 0))
        })?;
        let mut x = conv_stem;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let at = CacheAt {
                positions: given.positions,
                slot: given.slot,
                n_sequences: n,
                layer: index,
            };
            x = step.scope(&format!("encoder.layer.{index}"), |step| {
                layer.forward(step, x, at, None)
            })?;
            layers.push(x);
        }
        let states = step.scope("encoder.norm", |step| self.norm.forward(step, x))?;
        let audio = step.scope("adapter", |step| self.projector.forward(step, states, n))?;
        Ok(EncoderStages {
            conv_stem,
            layers,
            states,
            audio,
        })
    }
}
