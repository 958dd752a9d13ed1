//! Writing a checkpoint with smaller or packed weights, as a Hugging Face folder.

use serde_json::json;

use super::checkpoint::VoxtralRealtimeCheckpoint;
use super::config::{StackConfig, VoxtralRealtimeConfig};
use crate::models::voxtral::encoder_type;
use crate::nn::{RotaryPairs, halves_of_pairs};
use crate::weights::new_folder::NewFolder;
use crate::weights::{DType, Tensor, WeightType};
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
    let ordered = checkpoint
        .weights
        .iter()
        .map(|(name, tensor)| {
            let head_dim = match name.starts_with("audio_tower.") {
                true => config.encoder.head_dim,
                false => config.decoder.head_dim,
            };
            let rotated = name.contains(".q_proj.") || name.contains(".k_proj.");
            let tensor = match checkpoint.pairs {
                RotaryPairs::Neighbours if rotated => halves_of_pairs(tensor, head_dim)?,
                _ => tensor.clone(),
            };
            Ok((name, tensor))
        })
        .collect::<Result<Vec<(&str, Tensor)>>>()?;
    let tensors: Vec<_> = ordered
        .iter()
        .map(|(name, tensor)| ((*name).to_owned(), tensor, stored_type(name, dtype)))
        .collect();
    folder.write_weights(&tensors, control)?;
    folder.write_json("config.json", &config_json(config), control)?;
    folder.write_json("processor_config.json", &processor_json(config), control)?;
    let vocabulary = checkpoint.sidecars.path("tekken.json");
    folder.copy(&vocabulary, "tekken.json", control)?;
    folder.publish()
}

/// How tensor `name` is written: panels are for the matrices of the layers and the token embedding. Norms and biases are used
/// as they are, the convolutions and the network of the delay are rearranged while loading.
fn stored_type(name: &str, dtype: DType) -> DType {
    let DType::Panels(packed) = dtype else {
        return dtype;
    };
    let matrices = [
        "_proj.weight",
        "embed_tokens.weight",
        "linear_1.weight",
        "linear_2.weight",
    ];
    if matrices.iter().any(|ending| name.ends_with(ending)) {
        return DType::Panels(match name.starts_with("language_model.") {
            true => packed,
            false => encoder_type(packed),
        });
    }
    match packed {
        WeightType::F32 => DType::F32,
        _ if name.contains("conv") && name.ends_with(".weight") => DType::Bf16,
        _ => DType::F32,
    }
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
