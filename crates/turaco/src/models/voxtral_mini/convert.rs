//! Writing a checkpoint with smaller or packed weights, as a Hugging Face folder.

use serde_json::json;

use super::checkpoint::VoxtralMiniCheckpoint;
use super::config::VoxtralMiniConfig;
use crate::features::{HOP_LENGTH, N_FFT, SAMPLE_RATE};
use crate::models::voxtral::write_folder;
use crate::weights::DType;
use crate::weights::new_folder::NewFolder;
use crate::{Control, Result};

/// Writes `checkpoint` into `folder`: `model.safetensors` with all numbers as `dtype` (`F32`, `F16` or `Bf16`; or `Panels`,
/// which packs the matrices of all layers and the head and keeps the rest plain), its settings and the vocabulary.
///
/// # Errors
/// When the file system refuses (full disk, no permission), naming the file, or on cancellation.
pub fn write_hugging_face(
    checkpoint: &VoxtralMiniCheckpoint,
    folder: NewFolder,
    dtype: DType,
    control: &Control,
) -> Result<()> {
    let mut more = Vec::new();
    // A head that is the embedding is packed, and rows of the embedding are still looked into.
    if checkpoint.weights.find(HEAD).is_none() {
        let embedding = "language_model.model.embed_tokens.weight";
        more.push((HEAD, checkpoint.weights.require(embedding)?.clone()));
    }
    let config = &checkpoint.config;
    let settings = [
        ("config.json", config_json(config)),
        ("preprocessor_config.json", features_json(config)),
    ];
    write_folder(checkpoint, more, &settings, folder, dtype, control)
}

const HEAD: &str = "language_model.lm_head.weight";

fn config_json(config: &VoxtralMiniConfig) -> serde_json::Value {
    let (encoder, decoder) = (&config.encoder, &config.decoder);
    json!({
        "architectures": ["VoxtralForConditionalGeneration"],
        "model_type": "voxtral",
        "audio_token_id": 24,
        "projector_hidden_act": "gelu",
        "hidden_size": decoder.dim,
        "vocab_size": config.n_vocab,
        "audio_config": {
            "model_type": "voxtral_encoder",
            "activation_function": "gelu",
            "hidden_size": encoder.n_state,
            "intermediate_size": config.downsample * encoder.n_state,
            "num_hidden_layers": encoder.n_layers,
            "num_attention_heads": encoder.n_heads,
            "num_key_value_heads": encoder.n_heads,
            "head_dim": encoder.n_state / encoder.n_heads,
            "num_mel_bins": encoder.n_mels,
            "max_source_positions": encoder.n_ctx,
        },
        "text_config": {
            "model_type": "llama",
            "hidden_act": "silu",
            "vocab_size": config.n_vocab,
            "hidden_size": decoder.dim,
            "intermediate_size": decoder.ffn_dim,
            "num_hidden_layers": decoder.n_layers,
            "num_attention_heads": decoder.n_heads,
            "num_key_value_heads": decoder.n_kv_heads,
            "head_dim": decoder.head_dim,
            "rope_theta": decoder.rope_theta,
            "rms_norm_eps": decoder.norm_eps,
            "max_position_embeddings": config.max_positions,
            "tie_word_embeddings": false,
        },
    })
}

fn features_json(config: &VoxtralMiniConfig) -> serde_json::Value {
    let n_samples = config.samples_per_chunk();
    json!({
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "VoxtralProcessor",
        "feature_size": config.encoder.n_mels,
        "sampling_rate": SAMPLE_RATE,
        "hop_length": HOP_LENGTH,
        "n_fft": N_FFT,
        "chunk_length": n_samples as f64 / f64::from(SAMPLE_RATE),
        "n_samples": n_samples,
        "nb_max_frames": config.frames_per_chunk(),
        "padding_side": "right",
        "padding_value": 0.0,
    })
}
