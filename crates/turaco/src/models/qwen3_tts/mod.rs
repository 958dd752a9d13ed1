//! Qwen3-TTS: speech from text, in voices by name, by description, or of a recording.
//!
//! - Text: byte-level tokens, a text embedding, a two-layer projection to the talker's width.
//! - [`talker`]: a Qwen3 decoder (grouped-query attention with norms of query and key heads, SwiGLU), one step per 80 ms
//!   frame. Beside each text vector stands one of the codec: the sum of the embeddings of a frame's codes. Its head chooses the
//!   first code of the next frame.
//! - [`code_predictor`]: a small decoder of the same kind that goes through the other codes of a frame one by one.
//! - [`codec`]: 16 codes to 1920 samples at 24 kHz, causal.
//!
//! The network here ends at codes. Follows the `qwen-tts` package (0.1.1).

pub mod checkpoint;
mod code_predictor;
pub mod codec;
pub mod config;
pub mod convert;
mod prompt;
pub mod random;
mod runner;
pub mod speaker_encoder;
mod talker;
mod text_projection;

use std::sync::Arc;

use turaco_compute::cpu::packed::panels_len;
use turaco_compute::{Device, Mask, WeightType};

use crate::nn::{
    AttentionConfig, CacheMeter, EmbeddingTable, LayerConfig, LayerProgress, Loader, RotaryPairs,
};
use crate::tokenizer::QwenTokenizer;
use crate::{Control, Result};

use code_predictor::CodePredictor;
use config::StackConfig;
use talker::Talker;
use text_projection::TextProjection;

pub use checkpoint::{Qwen3TtsCheckpoint, SPEAKING};
pub use config::{GenerationDefaults, Qwen3TtsConfig, Speaker, TtsKind};
pub use prompt::{Prompt, PromptRequest, Reference, Turn, VoicePrompt};
pub use runner::{Codes, FrameInput, FrameStages, Runner, Sampling, TalkerState};

/// The network on a device. Immutable: what changes while it speaks is in its [`TalkerState`], so one loaded model serves
/// any number of utterances at a time.
#[derive(Debug)]
pub struct Qwen3Tts {
    config: Qwen3TtsConfig,
    tokenizer: Arc<QwenTokenizer>,
    device: Device,
    weight_type: WeightType,
    caches: CacheMeter,
    /// `[text_vocab, text_dim]`.
    text_embedding: EmbeddingTable,
    /// `[codec_vocab, dim]`, and for each further code `[codebook_size, dim]`.
    codec_embeddings: Vec<EmbeddingTable>,
    text_projection: TextProjection,
    talker: Talker,
    code_predictor: CodePredictor,
}

impl Qwen3Tts {
    /// Upload a checkpoint to `device`, its matrices stored as `weight_type`.
    ///
    /// # Errors
    /// A tensor is missing, has a wrong shape or a value that is no number, or the device has no memory.
    pub fn load(
        checkpoint: &Qwen3TtsCheckpoint,
        device: &Device,
        weight_type: WeightType,
        control: &Control,
    ) -> Result<Arc<Self>> {
        let config = checkpoint.config.clone();
        let n_layers = config.talker.n_layers + config.code_predictor.n_layers;
        let mut progress = LayerProgress::new(control, n_layers);
        let weights = &checkpoint.weights;
        let root = Loader::new(weights, device, weight_type).checking();
        // Only a few rows of them are read at a time: there is nothing to gain from fewer bits.
        let tables = root.with_weight_type(table_type(weight_type));
        let (loader, tables) = (root.at("talker"), tables.at("talker"));
        let dim = config.talker.dim;
        let text_embedding = EmbeddingTable::new(
            weights,
            "talker.model.text_embedding.weight",
            config.text_vocab,
            config.text_dim,
        )?;
        let first = EmbeddingTable::new(
            weights,
            "talker.model.codec_embedding.weight",
            config.codec_vocab,
            dim,
        );
        let others = (0..config.n_codes - 1).map(|index| {
            let name = format!("talker.code_predictor.model.codec_embedding.{index}.weight");
            EmbeddingTable::new(weights, &name, config.codebook_size, dim)
        });
        let codec_embeddings = std::iter::once(first)
            .chain(others)
            .collect::<Result<_>>()?;
        let text_projection = TextProjection::load(&tables.at("text_projection"), &config)?;
        let talker = Talker::load(&loader, &tables, &config, &mut progress)?;
        let code_predictor = CodePredictor::load(
            &loader.at("code_predictor"),
            &tables.at("code_predictor"),
            &config,
            &mut progress,
        )?;
        progress.finish();
        Ok(Arc::new(Self {
            config,
            tokenizer: Arc::clone(&checkpoint.tokenizer),
            device: device.clone(),
            weight_type,
            caches: CacheMeter::default(),
            text_embedding,
            codec_embeddings,
            text_projection,
            talker,
            code_predictor,
        }))
    }

    /// Bytes of the keys and values that are kept for sequences at the moment.
    pub fn cache_bytes(&self) -> u64 {
        self.caches.bytes()
    }

    /// Sizes, fixed tokens and voices.
    pub fn config(&self) -> &Qwen3TtsConfig {
        &self.config
    }

    /// Text to tokens.
    pub fn tokenizer(&self) -> &QwenTokenizer {
        &self.tokenizer
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How the matrices are stored.
    pub fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// What a frame reads of the weights of linear maps; embeddings are a few rows.
    pub fn frame_bytes(&self) -> FrameBytes {
        let config = &self.config;
        let bytes = |rows, cols| panels_len(self.weight_type, rows, cols).unwrap_or(0) as u64;
        let (talker, predictor) = (&config.talker, &config.code_predictor);
        let projection = match talker.dim == predictor.dim {
            true => 0,
            false => bytes(predictor.dim, talker.dim),
        };
        let layers = projection + stack_bytes(predictor, &bytes);
        let n_heads = config.n_codes as u64 - 1;
        let heads = n_heads * bytes(config.codebook_size, predictor.dim);
        FrameBytes {
            talker: stack_bytes(talker, &bytes) + bytes(config.codec_vocab, talker.dim),
            predictor: layers + heads,
            predictor_frame: n_heads * layers + heads,
        }
    }
}

/// The layers of a stack.
fn layers(stack: &StackConfig) -> LayerConfig {
    LayerConfig {
        attention: AttentionConfig {
            dim: stack.dim,
            n_heads: stack.n_heads,
            n_kv_heads: stack.n_kv_heads,
            head_dim: stack.head_dim,
            rope_theta: stack.rope_theta,
            mask: Mask::Causal,
            pairs: RotaryPairs::Halves,
            qk_norm_eps: Some(stack.norm_eps),
        },
        ffn_dim: stack.ffn_dim,
        norm_eps: stack.norm_eps,
    }
}

/// Bytes of the matrices of a stack, where `bytes` are those of one.
fn stack_bytes(stack: &StackConfig, bytes: &dyn Fn(usize, usize) -> u64) -> u64 {
    let (q, kv) = (
        stack.n_heads * stack.head_dim,
        stack.n_kv_heads * stack.head_dim,
    );
    let layer = bytes(q + 2 * kv, stack.dim)
        + bytes(stack.dim, q)
        + bytes(2 * stack.ffn_dim, stack.dim)
        + bytes(stack.dim, stack.ffn_dim);
    stack.n_layers as u64 * layer
}

/// Bytes of weights that frames read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameBytes {
    /// The talker's, once per frame.
    pub talker: u64,
    /// The code predictor's.
    pub predictor: u64,
    /// What a frame reads of them: layers and projection once per code, every head once.
    pub predictor_frame: u64,
}

/// How tables and the text projection are stored when the other matrices are `weight_type`.
fn table_type(weight_type: WeightType) -> WeightType {
    match weight_type {
        WeightType::Int8 | WeightType::Q8 | WeightType::Q4 => WeightType::Bf16,
        other => other,
    }
}
