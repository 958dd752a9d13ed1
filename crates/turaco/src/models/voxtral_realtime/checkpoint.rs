//! The model's checkpoints: names of tensors in Mistral's layout, and how each is written.

use std::path::Path;

use super::config::VoxtralRealtimeConfig;
use crate::Result;
use crate::models::voxtral::{DECODER_LAYER, Voxtral, VoxtralCheckpoint, encoder_type, layer_name};
use crate::tokenizer::tekken::TekkenAudio;
use crate::weights::{DType, Sidecars, WeightType};

/// An opened checkpoint, in either layout.
pub type VoxtralRealtimeCheckpoint = VoxtralCheckpoint<VoxtralRealtimeConfig>;

const MISTRAL_EMBEDDING: &str = "mm_streams_embeddings.embedding_module.";

/// The parts of an encoder layer: Mistral's names, and Hugging Face's.
const ENCODER_LAYER: [(&str, &str); 9] = [
    ("attention.wq", "self_attn.q_proj"),
    ("attention.wk", "self_attn.k_proj"),
    ("attention.wv", "self_attn.v_proj"),
    ("attention.wo", "self_attn.o_proj"),
    ("attention_norm", "self_attn_layer_norm"),
    ("ffn_norm", "final_layer_norm"),
    ("feed_forward.w1", "mlp.gate_proj"),
    ("feed_forward.w2", "mlp.down_proj"),
    ("feed_forward.w3", "mlp.up_proj"),
];

/// What decoder layers have besides.
const DELAY_LAYER: [(&str, &str); 2] = [
    ("ada_rms_norm_t_cond.0", "ada_rms_norm.linear1"),
    ("ada_rms_norm_t_cond.2", "ada_rms_norm.linear2"),
];

impl Voxtral for VoxtralRealtimeConfig {
    const MODEL: &'static str = "Voxtral Realtime";

    fn read(sidecars: &Sidecars) -> Result<Option<Self>> {
        VoxtralRealtimeConfig::read(sidecars)
    }

    fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    fn with_audio(self, path: &Path, audio: &TekkenAudio) -> Result<Self> {
        self.with_delay_of(path, audio)
    }

    fn hugging_face_name(name: &str) -> Option<String> {
        hugging_face_name(name)
    }

    fn rotated_head_dim(&self, name: &str) -> Option<usize> {
        let rotated = name.contains(".q_proj.") || name.contains(".k_proj.");
        rotated.then_some(match name.starts_with("audio_tower.") {
            true => self.encoder.head_dim,
            false => self.decoder.head_dim,
        })
    }

    fn stored_type(name: &str, dtype: DType) -> DType {
        stored_type(name, dtype)
    }
}

/// What Hugging Face calls a tensor of Mistral's layout.
fn hugging_face_name(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix("layers.") {
        let known = layer_name(rest, &DECODER_LAYER).or_else(|| layer_name(rest, &DELAY_LAYER));
        return Some(format!("language_model.model.layers.{}", known?));
    }
    if name == "norm.weight" {
        return Some("language_model.model.norm.weight".into());
    }
    let name = name.strip_prefix(MISTRAL_EMBEDDING)?;
    if let Some(rest) = name.strip_prefix("whisper_encoder.transformer.layers.") {
        return Some(format!(
            "audio_tower.layers.{}",
            layer_name(rest, &ENCODER_LAYER)?
        ));
    }
    let name = match name {
        "tok_embeddings.weight" => "language_model.model.embed_tokens.weight",
        "whisper_encoder.transformer.norm.weight" => "audio_tower.norm.weight",
        "whisper_encoder.conv_layers.0.conv.weight" => "audio_tower.embedder.conv1.weight",
        "whisper_encoder.conv_layers.0.conv.bias" => "audio_tower.embedder.conv1.bias",
        "whisper_encoder.conv_layers.1.conv.weight" => "audio_tower.embedder.conv2.weight",
        "whisper_encoder.conv_layers.1.conv.bias" => "audio_tower.embedder.conv2.bias",
        "audio_language_projection.0.weight" => "multi_modal_projector.linear_1.weight",
        "audio_language_projection.2.weight" => "multi_modal_projector.linear_2.weight",
        _ => return None,
    };
    Some(name.into())
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
