//! Voxtral Realtime: a causal audio encoder and a text decoder that advance together, one text token per 80 ms.
//!
//! - Front end: log-mel frames at 100 per second, two causal convolutions (strides 1 and 2), 50 positions per second.
//! - Encoder: pre-norm layers (RMSNorm, rotary self-attention over a sliding window, SwiGLU), final RMSNorm.
//! - Adapter: four neighbouring positions side by side through two linear maps, 12.5 audio vectors per second.
//! - Decoder: at every position the audio vector *plus* the embedding of the token before it; grouped-query attention
//!   over a sliding window; the feed-forward norm is multiplied by a vector that depends on how far the text follows the
//!   audio. Logits through the tied embedding.
//!
//! There is no cross-attention and no end of a window: memory is two ring caches per stream. arXiv:2602.11298; behaviour
//! follows `transformers/models/voxtral_realtime`.

pub mod checkpoint;
pub mod config;
pub mod convert;
mod decoder;
mod delay;
mod encoder;
mod layer;
pub mod random;
mod runner;

use std::sync::Arc;

use turaco_compute::{Device, Mask, WeightType};

use crate::nn::{AttentionConfig, Loader, RotaryPairs};
use crate::{Control, Result};

use config::StackConfig;
use decoder::Decoder;
use encoder::Encoder;

pub use checkpoint::VoxtralRealtimeCheckpoint;
pub use config::VoxtralRealtimeConfig;
pub use delay::MAX_DELAY;
pub use runner::{Chosen, DecoderState, EncoderState, Rows, Runner, Stages};

/// The network on a device. Immutable: what changes while a stream runs is in its [`EncoderState`] and
/// [`DecoderState`], so one loaded model serves any number of streams.
#[derive(Debug)]
pub struct VoxtralRealtime {
    config: VoxtralRealtimeConfig,
    device: Device,
    weight_type: WeightType,
    encoder: Encoder,
    decoder: Decoder,
}

impl VoxtralRealtime {
    /// Upload a checkpoint to `device`, its matrices stored as `weight_type`.
    ///
    /// # Errors
    /// A tensor is missing, has a wrong shape or a value that is no number, or the device has no memory.
    pub fn load(
        checkpoint: &VoxtralRealtimeCheckpoint,
        device: &Device,
        weight_type: WeightType,
        control: &Control,
    ) -> Result<Arc<Self>> {
        let config = checkpoint.config.clone();
        let n_layers = (config.encoder.n_layers + config.decoder.n_layers) as f64;
        let mut done = 0.0;
        let mut next_layer = || {
            control.check()?;
            control.report(done, Some(n_layers));
            done += 1.0;
            Ok(())
        };
        let loader = Loader::new(&checkpoint.weights, device, weight_type).checking();
        let careful = loader.with_weight_type(encoder_type(weight_type));
        let encoder = Encoder::load(&careful, &config, checkpoint.pairs, &mut next_layer)?;
        let language = loader.at("language_model").at("model");
        let decoder = Decoder::load(&language, &config, checkpoint.pairs, &mut next_layer)?;
        control.report(n_layers, Some(n_layers));
        Ok(Arc::new(Self {
            config,
            device: device.clone(),
            weight_type,
            encoder,
            decoder,
        }))
    }

    /// Sizes.
    pub fn config(&self) -> &VoxtralRealtimeConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How the matrices are stored.
    pub fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// What multiplies the feed-forward norm of every layer for a delay of so many tokens, less 1: `[n_layers, dim]`.
    pub fn delay_scales(&self, delay: usize) -> Vec<f32> {
        let gains = self.decoder.gains(delay);
        gains.into_iter().map(|gain| gain - 1.0).collect()
    }
}

/// How the encoder is stored when the decoder is `weight_type`. It is a fifth of the weights and works on many rows at a
/// time: what counts is how fast they multiply, and bytes with a scale per row need no unpacking.
fn encoder_type(weight_type: WeightType) -> WeightType {
    match weight_type {
        WeightType::Q8 | WeightType::Q4 => WeightType::Int8,
        other => other,
    }
}

fn attention(config: &StackConfig, pairs: RotaryPairs) -> AttentionConfig {
    AttentionConfig {
        dim: config.dim,
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        head_dim: config.head_dim,
        rope_theta: config.rope_theta,
        mask: Mask::Window(config.window),
        pairs,
        qk_norm_eps: None,
    }
}
