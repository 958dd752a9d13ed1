//! Writing a checkpoint with smaller or packed weights, as a Hugging Face folder.

use serde_json::json;

use super::checkpoint::VoxtralRealtimeCheckpoint;
use super::config::{StackConfig, VoxtralRealtimeConfig};
use crate::models::voxtral::write_folder;
use crate::weights::DType;
use crate::weights::new_folder::NewFolder;
use crate::{Control, Result};

/// Writes `checkpoint` into `folder`: `model.safetensors` with all numbers as `dtype` (`F32`, `F16` or `Bf16`; or `Panels`,
/// which packs the matrices of all layers and keeps the rest plain), its settings and the vocabulary.
///
/// # Errors
/// When the file system refuses (full disk, no permission), naming the file, or on cancellation.
pub fn write_hugging_face(
    checkpoint: &VoxtralRealtimeCheckpoint,
    folder: NewFolder,
    dtype: DType,
    control: &Control,
) -> Result<()> {
    let config = &checkpoint.config;
    let settings = [
        ("config.json", config_json(config)),
        ("processor_config.json", processor_json(config)),
    ];
    write_folder(checkpoint, Vec::new(), &settings, folder, dtype, control)
}

fn config_json(config: &VoxtralRealtimeConfig) -> serde_json::Value {
    let stack = |stack: &StackConfig, model_type: &str| {
        json!({
            "model_type": model_type,
            "hidden_size": stack.dim,
            "num_hidden_layers": stack.n_layers,
            "num_attention_heads": stack.n_heads,
            "num_key_value_heads": stack.n_kv_heads,
            "head_dim": stack.head_dim,
            "intermediate_size": stack.ffn_dim,
            "sliding_window": stack.window,
            "rope_parameters": {"rope_theta": stack.rope_theta, "rope_type": "default"},
            "rms_norm_eps": stack.norm_eps,
            "hidden_act": "silu",
            "vocab_size": config.n_vocab,
        })
    };
    let mut audio = stack(&config.encoder, "voxtral_realtime_encoder");
    audio["num_mel_bins"] = json!(config.n_mels);
    let mut text = stack(&config.decoder, "voxtral_realtime_text");
    text["tie_word_embeddings"] = json!(true);
    json!({
        "architectures": ["VoxtralRealtimeForConditionalGeneration"],
        "model_type": "voxtral_realtime",
        "audio_config": audio,
        "text_config": text,
        "audio_length_per_tok": config.frames_per_token(),
        "default_num_delay_tokens": config.default_delay,
        "downsample_factor": config.downsample,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": true,
    })
}

fn processor_json(config: &VoxtralRealtimeConfig) -> serde_json::Value {
    json!({
        "feature_extractor": {
            "feature_extractor_type": "VoxtralRealtimeFeatureExtractor",
            "feature_size": config.n_mels,
            "sampling_rate": config.sample_rate,
            "hop_length": config.hop_length,
            "n_fft": config.n_fft,
            "win_length": config.n_fft,
            "global_log_mel_max": config.log_mel_max,
        },
        "processor_class": "VoxtralRealtimeProcessor",
    })
}
