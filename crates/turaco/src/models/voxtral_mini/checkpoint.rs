//! The model's checkpoints: names of tensors in Mistral's layout, and how each is written.

use std::path::Path;

use super::config::VoxtralMiniConfig;
use crate::Result;
use crate::models::voxtral::{DECODER_LAYER, Voxtral, VoxtralCheckpoint, encoder_type, layer_name};
use crate::tokenizer::tekken::TekkenAudio;
use crate::weights::{DType, Sidecars, Tensor, WeightType, Weights};

/// An opened checkpoint, in either layout.
pub type VoxtralMiniCheckpoint = VoxtralCheckpoint<VoxtralMiniConfig>;

/// The table of positions, which Mistral's layout does not hold.
const POSITIONS: &str = "audio_tower.embed_positions.weight";

/// The parts of an encoder layer: Mistral's names, and Hugging Face's.
const ENCODER_LAYER: [(&str, &str); 8] = [
    ("attention.wq", "self_attn.q_proj"),
    ("attention.wk", "self_attn.k_proj"),
    ("attention.wv", "self_attn.v_proj"),
    ("attention.wo", "self_attn.out_proj"),
    ("attention_norm", "self_attn_layer_norm"),
    ("ffn_norm", "final_layer_norm"),
    ("feed_forward.w1", "fc1"),
    ("feed_forward.w2", "fc2"),
];

impl Voxtral for VoxtralMiniConfig {
    const MODEL: &'static str = "Voxtral";

    fn read(sidecars: &Sidecars) -> Result<Option<Self>> {
        VoxtralMiniConfig::read(sidecars)
    }

    fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    fn with_audio(self, path: &Path, audio: &TekkenAudio) -> Result<Self> {
        self.check_audio(path, audio)?;
        Ok(self)
    }

    fn hugging_face_name(name: &str) -> Option<String> {
        hugging_face_name(name)
    }

    /// The table of positions is a formula, which Mistral's layout does not hold.
    fn complete(&self, mut weights: Weights) -> Result<Weights> {
        if weights.find(POSITIONS).is_none() {
            let encoder = &self.encoder;
            let table = sinusoids(encoder.n_ctx, encoder.n_state);
            let table = Tensor::from_f32(&[encoder.n_ctx, encoder.n_state], &table);
            weights.insert(POSITIONS.into(), table)?;
        }
        Ok(weights)
    }

    fn rotated_head_dim(&self, name: &str) -> Option<usize> {
        let rotated = name.starts_with("language_model.")
            && (name.contains(".q_proj.") || name.contains(".k_proj."));
        rotated.then_some(self.decoder.head_dim)
    }

    fn stored_type(name: &str, dtype: DType) -> DType {
        stored_type(name, dtype)
    }
}

/// What Hugging Face calls a tensor of Mistral's layout.
fn hugging_face_name(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix("layers.") {
        let layer = layer_name(rest, &DECODER_LAYER)?;
        return Some(format!("language_model.model.layers.{layer}"));
    }
    let known = match name {
        "norm.weight" => Some("language_model.model.norm.weight"),
        "output.weight" => Some("language_model.lm_head.weight"),
        "tok_embeddings.weight" => Some("language_model.model.embed_tokens.weight"),
        _ => None,
    };
    if let Some(known) = known {
        return Some(known.into());
    }
    let name = name.strip_prefix("mm_whisper_embeddings.")?;
    if let Some(rest) = name.strip_prefix("whisper_encoder.transformer.layers.") {
        return Some(format!(
            "audio_tower.layers.{}",
            layer_name(rest, &ENCODER_LAYER)?
        ));
    }
    if let Some(rest) = name.strip_prefix("whisper_encoder.conv_layers.") {
        // Some files have a part `conv` in between.
        let (index, rest) = rest.split_once('.')?;
        let leaf = rest.strip_prefix("conv.").unwrap_or(rest);
        return Some(format!(
            "audio_tower.conv{}.{leaf}",
            index.parse::<u8>().ok()? + 1
        ));
    }
    let name = match name {
        "tok_embeddings.weight" => "language_model.model.embed_tokens.weight",
        "whisper_encoder.transformer.norm.weight" => "audio_tower.layer_norm.weight",
        "whisper_encoder.transformer.norm.bias" => "audio_tower.layer_norm.bias",
        "audio_language_projection.0.weight" => "multi_modal_projector.linear_1.weight",
        "audio_language_projection.2.weight" => "multi_modal_projector.linear_2.weight",
        _ => return None,
    };
    Some(name.into())
}

/// Sines of every position at falling frequencies, then cosines: `[n_positions, dim]`. In single precision throughout, as the
/// reference computes them: at the last positions the rounding of an angle shows.
fn sinusoids(n_positions: usize, dim: usize) -> Vec<f32> {
    let half = dim / 2;
    let step = -(10_000.0_f64.ln() / (half.max(2) - 1) as f64) as f32;
    let frequencies: Vec<f32> = (0..half)
        .map(|index| f64::from(step * index as f32).exp() as f32)
        .collect();
    let row = |position: usize| {
        let angles = frequencies
            .iter()
            .map(move |w| f64::from(position as f32 * w));
        let sines = angles.clone().map(|angle| angle.sin() as f32);
        sines.chain(angles.map(|angle| angle.cos() as f32))
    };
    (0..n_positions).flat_map(row).collect()
}

/// How tensor `name` is written: panels are for the matrices of the layers and the head. The embedding is looked into row by
/// row; norms, biases and positions are used as they are, and the convolutions are rearranged while loading.
fn stored_type(name: &str, dtype: DType) -> DType {
    let DType::Panels(packed) = dtype else {
        return match name.ends_with("embed_positions.weight") {
            true => DType::F32,
            false => dtype,
        };
    };
    let matrices = [
        "_proj.weight",
        "fc1.weight",
        "fc2.weight",
        "lm_head.weight",
        "linear_1.weight",
        "linear_2.weight",
    ];
    if matrices.iter().any(|ending| name.ends_with(ending)) {
        return DType::Panels(match name.starts_with("language_model.") {
            true => packed,
            false => encoder_type(packed),
        });
    }
    let is_large = name.contains("embed_tokens") || name.contains(".conv");
    match packed {
        WeightType::F32 => DType::F32,
        WeightType::F16 if is_large && name.ends_with(".weight") => DType::F16,
        _ if is_large && name.ends_with(".weight") => DType::Bf16,
        _ => DType::F32,
    }
}
