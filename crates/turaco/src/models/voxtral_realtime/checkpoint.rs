//! Opening a checkpoint in either layout.
//!
//! Inside the engine, tensors have the names of the Hugging Face layout. What differs besides is the order of the rows of
//! query and key projections, see [`RotaryPairs`].

use std::path::{Path, PathBuf};

use super::config::VoxtralRealtimeConfig;
use crate::Result;
use crate::models::voxtral::{DECODER_LAYER, layer_name, read_vocabulary, renamed, usual_name};
use crate::nn::RotaryPairs;
use crate::tokenizer::Tekken;
use crate::weights::{self, Checkpoint, Sidecars, Weights, invalid};

/// An opened checkpoint.
#[derive(Debug)]
pub struct VoxtralRealtimeCheckpoint {
    /// A name for people.
    pub name: String,
    /// The file or folder.
    pub path: PathBuf,
    /// Sizes.
    pub config: VoxtralRealtimeConfig,
    /// Tensors, under their names in here.
    pub weights: Weights,
    /// Which order the rows of query and key projections have.
    pub pairs: RotaryPairs,
    /// The vocabulary.
    pub tokenizer: Tekken,
    /// The files beside the weights.
    pub sidecars: Sidecars,
}

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

impl VoxtralRealtimeCheckpoint {
    /// Opens a folder (or its weight file).
    ///
    /// # Errors
    /// Files that are missing or broken, or another model.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_checkpoint(weights::open(path)?)
    }

    /// Whether the settings beside the weights are those of this model.
    ///
    /// # Errors
    /// Settings of this model that are broken.
    pub fn is_one(checkpoint: &Checkpoint) -> Result<bool> {
        Ok(VoxtralRealtimeConfig::read(&checkpoint.sidecars)?.is_some())
    }

    /// Takes an opened checkpoint.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_checkpoint(checkpoint: Checkpoint) -> Result<Self> {
        let Checkpoint {
            path,
            weights,
            sidecars,
            ..
        } = checkpoint;
        let config = VoxtralRealtimeConfig::read(&sidecars)?.ok_or_else(|| {
            invalid(
                &path,
                "no params.json or config.json of a Voxtral Realtime model beside the weights",
            )
        })?;
        let (tekken_path, tokenizer) = read_vocabulary(&sidecars, config.n_vocab)?;
        let config = match tokenizer.audio() {
            Some(audio) => config.with_audio(&tekken_path, audio)?,
            None => config,
        };
        let (weights, pairs) = if weights.find("norm.weight").is_some() {
            (
                renamed(&weights, "Voxtral Realtime", hugging_face_name)?,
                RotaryPairs::Neighbours,
            )
        } else {
            (
                renamed(&weights, "Voxtral Realtime", usual_name)?,
                RotaryPairs::Halves,
            )
        };
        Ok(Self {
            name: crate::models::display_name(&path),
            path,
            config,
            weights,
            pairs,
            tokenizer,
            sidecars,
        })
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
