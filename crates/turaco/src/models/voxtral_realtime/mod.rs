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
pub mod random;
mod runner;

use std::sync::Arc;

use turaco_compute::{Device, Mask, WeightType};

use super::voxtral::encoder_type;
use crate::nn::{AttentionConfig, CacheMeter, LayerConfig, LayerProgress, Loader, RotaryPairs};
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
    caches: CacheMeter,
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
        let n_layers = config.encoder.n_layers + config.decoder.n_layers;
        let mut progress = LayerProgress::new(control, n_layers);
        let loader = Loader::new(&checkpoint.weights, device, weight_type).checking();
        let careful = loader.with_weight_type(encoder_type(weight_type));
        let encoder = Encoder::load(&careful, &config, checkpoint.pairs, &mut progress)?;
        let language = loader.at("language_model").at("model");
        let decoder = Decoder::load(&language, &config, checkpoint.pairs, &mut progress)?;
        progress.finish();
        Ok(Arc::new(Self {
            config,
            device: device.clone(),
            weight_type,
            caches: CacheMeter::default(),
            encoder,
            decoder,
        }))
    }

    /// Bytes of the keys and values that are kept for sequences at the moment.
    pub fn cache_bytes(&self) -> u64 {
        self.caches.bytes()
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

/// The layers of a stack.
fn layers(stack: &StackConfig, pairs: RotaryPairs) -> LayerConfig {
    LayerConfig {
        attention: AttentionConfig {
            dim: stack.dim,
            n_heads: stack.n_heads,
            n_kv_heads: stack.n_kv_heads,
            head_dim: stack.head_dim,
            rope_theta: stack.rope_theta,
            mask: Mask::Window(stack.window),
            pairs,
            qk_norm_eps: None,
        },
        ffn_dim: stack.ffn_dim,
        norm_eps: stack.norm_eps,
    }
}
