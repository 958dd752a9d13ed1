//! Voxtral Mini and Small (2507): a language model that hears. Text in, sound in, text out.
//!
//! - Front end: log-mel frames at 100 per second, over the whole recording padded to chunks of 30 s; what is quieter than the
//!   loudest value of *all* chunks by 8 decades is cut off.
//! - Encoder: Whisper's, one chunk at a time; its padding is not masked.
//! - Projector: four neighbouring positions side by side through two linear maps, 12.5 audio vectors per second.
//! - Decoder: a Llama (grouped-query attention with rotary positions, SwiGLU, RMSNorm) whose head is a matrix of its own. Audio
//!   vectors stand where the prompt has audio tokens.
//!
//! arXiv:2507.13264; behaviour follows `transformers/models/voxtral`.

pub mod checkpoint;
pub mod config;
pub mod convert;
mod decoder;
mod encoder;
pub mod random;
mod runner;

use std::sync::Arc;

use turaco_compute::cpu::packed::panels_len;
use turaco_compute::{Device, WeightType};

use super::voxtral::encoder_type;
use crate::nn::{CacheMeter, EmbeddingTable, LayerProgress, Loader};
use crate::{Control, Result};

use decoder::Decoder;
use encoder::Encoder;

pub use checkpoint::VoxtralMiniCheckpoint;
pub use config::{DecoderConfig, VoxtralMiniConfig};
pub use runner::{Chosen, DecoderState, Draw, Runner, Stages};

/// The network on a device. Immutable: what changes while it answers is in a [`DecoderState`], so one loaded model serves any
/// number of conversations.
#[derive(Debug)]
pub struct VoxtralMini {
    config: VoxtralMiniConfig,
    device: Device,
    weight_type: WeightType,
    caches: CacheMeter,
    encoder: Encoder,
    /// `[n_vocab, dim]`, looked into by the host: a few rows are read at a time.
    embed_tokens: EmbeddingTable,
    decoder: Decoder,
}

impl VoxtralMini {
    /// Upload a checkpoint to `device`, its matrices stored as `weight_type`.
    ///
    /// # Errors
    /// A tensor is missing, has a wrong shape or a value that is no number, or the device has no memory.
    pub fn load(
        checkpoint: &VoxtralMiniCheckpoint,
        device: &Device,
        weight_type: WeightType,
        control: &Control,
    ) -> Result<Arc<Self>> {
        let config = checkpoint.config.clone();
        let n_layers = config.encoder.n_layers + config.decoder.n_layers;
        let mut progress = LayerProgress::new(control, n_layers);
        let weights = &checkpoint.weights;
        let loader = Loader::new(weights, device, weight_type).checking();
        let careful = loader.with_weight_type(encoder_type(weight_type));
        let encoder = Encoder::load(&careful, &config, &mut progress)?;
        let language = loader.at("language_model");
        let decoder = Decoder::load(&language, &config, checkpoint.pairs, &mut progress)?;
        progress.finish();
        Ok(Arc::new(Self {
            embed_tokens: EmbeddingTable::new(
                weights,
                "language_model.model.embed_tokens.weight",
                config.n_vocab,
                config.decoder.dim,
            )?,
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
    pub fn config(&self) -> &VoxtralMiniConfig {
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

    /// Appends the embedding of a token, `[dim]`, to `to`. A token that the model does not have is all zeros.
    pub fn embed(&self, token: u32, to: &mut Vec<f32>) {
        let start = to.len();
        to.resize(start + self.config.decoder.dim, 0.0);
        if (token as usize) < self.embed_tokens.len() {
            self.embed_tokens.add_row(token, &mut to[start..]);
        }
    }

    /// Bytes of weights that a token reads: those of the decoder's layers and of its head.
    pub fn step_bytes(&self) -> u64 {
        let DecoderConfig {
            dim,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            ffn_dim,
            ..
        } = self.config.decoder;
        let bytes = |rows, cols| panels_len(self.weight_type, rows, cols).unwrap_or(0) as u64;
        let (q, kv) = (n_heads * head_dim, n_kv_heads * head_dim);
        let layer =
            bytes(q + 2 * kv, dim) + bytes(dim, q) + bytes(2 * ffn_dim, dim) + bytes(dim, ffn_dim);
        n_layers as u64 * layer + bytes(self.config.n_vocab, dim)
    }
}
