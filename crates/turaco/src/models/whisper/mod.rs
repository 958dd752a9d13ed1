//! Whisper: an encoder-decoder transformer over 30 s of log-mel spectrogram.
//!
//! - Encoder: two convolutions (kernel 3, strides 1 and 2, GELU), sinusoidal positions, pre-norm blocks of full
//!   self-attention and a GELU MLP, final layer norm.
//! - Decoder: token and learned position embeddings, pre-norm blocks of causal self-attention, cross-attention over the
//!   encoder states, GELU MLP, final layer norm, logits through the tied token embedding.
//! - All attention projections have a bias except the key's; layer norm eps is 1e-5; GELU is the exact form.
//! - The encoder's padding is *not* masked in cross-attention: the reference does not, and masking changes the text.
//!
//! "Robust Speech Recognition via Large-Scale Weak Supervision" (Radford et al., 2022); the behaviour follows
//! `whisper/model.py` of openai-whisper 20250625.

pub mod checkpoint;
pub mod config;
pub mod convert;
mod decoder;
pub(super) mod encoder;
pub mod names;
pub mod random;
mod session;
#[cfg(test)]
mod testing;
pub mod vocabulary;

use std::sync::Arc;

use turaco_compute::{AttentionShape, Device, Mask, WeightType};

use crate::nn::{CacheMeter, LayerProgress, Loader};
use crate::{Control, Result};

use decoder::Decoder;
use encoder::Encoder;

pub use checkpoint::WhisperCheckpoint;
pub use config::{GenerationDefaults, WhisperConfig};
pub use encoder::EncoderConfig;
pub use names::expected_tensors;
pub use vocabulary::{TokenEncoding, VocabularySource};

pub use session::{Alignment, Choice, Chosen, Sequence, Session, Window};

/// Layer normalisation's epsilon, everywhere.
const NORM_EPS: f32 = 1e-5;

/// The network on a device. Immutable: everything that changes while decoding is in a [`Session`] and its
/// [`Window`]s and [`Sequence`]s, so one loaded model serves any number of them.
#[derive(Debug)]
pub struct Whisper {
    config: WhisperConfig,
    device: Device,
    weight_type: WeightType,
    caches: CacheMeter,
    encoder: Encoder,
    decoder: Decoder,
}

impl Whisper {
    /// Upload a checkpoint to `device`, its matrices stored as `weight_type`.
    ///
    /// # Errors
    /// A tensor is missing or has a wrong shape, or the device has no memory.
    pub fn load(
        checkpoint: &WhisperCheckpoint,
        device: &Device,
        weight_type: WeightType,
        control: &Control,
    ) -> Result<Arc<Self>> {
        let config = checkpoint.config.clone();
        let loader = Loader::new(&checkpoint.weights, device, weight_type);
        let n_layers = config.n_audio_layers + config.n_text_layers;
        let mut progress = LayerProgress::new(control, n_layers);
        let careful = loader.with_weight_type(careful_type(weight_type, &config));
        let encoder = Encoder::load(&careful.at("encoder"), &config.encoder(), &mut progress)?;
        let decoder = Decoder::load(&loader.at("decoder"), &config, &mut progress)?;
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
    pub fn config(&self) -> &WhisperConfig {
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
}

/// How the encoder and the token embedding are stored when the rest is `weight_type`: small models lose words when those
/// have four bits (measured in `docs/weights.md`), and are small anyway.
fn careful_type(weight_type: WeightType, config: &WhisperConfig) -> WeightType {
    match weight_type {
        WeightType::Q4 if config.n_text_state < 1024 => WeightType::Q8,
        other => other,
    }
}

/// Attention of `n_heads` equal heads over a width of `n_state`.
fn attention_shape(n_state: usize, n_heads: usize, mask: Mask) -> AttentionShape {
    let head_dim = n_state / n_heads;
    AttentionShape {
        n_heads,
        n_kv_heads: n_heads,
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
        mask,
    }
}
