//! Opening a checkpoint in either layout.
//!
//! Inside the engine, tensors have the names of the Hugging Face layout. What differs besides is the order of the rows of
//! query and key projections, see [`RotaryPairs`].

use std::path::{Path, PathBuf};

use super::config::VoxtralRealtimeConfig;
use crate::Result;
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

/// The parts of a transformer layer: Hugging Face's name for the encoder's and the decoder's, and Mistral's.
const LAYER: [(&str, &str, &str); 9] = [
    ("self_attn.q_proj", "self_attn.q_proj", "attention.wq"),
    ("self_attn.k_proj", "self_attn.k_proj", "attention.wk"),
    ("self_attn.v_proj", "self_attn.v_proj", "attention.wv"),
    ("self_attn.o_proj", "self_attn.o_proj", "attention.wo"),
    ("self_attn_layer_norm", "input_layernorm", "attention_norm"),
    ("final_layer_norm", "post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "mlp.gate_proj", "feed_forward.w1"),
    ("mlp.down_proj", "mlp.down_proj", "feed_forward.w2"),
    ("mlp.up_proj", "mlp.up_proj", "feed_forward.w3"),
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
        let vocabulary = sidecars.get("tekken.json")?.ok_or_else(|| {
            let path = sidecars.path("tekken.json");
            invalid(
                &path,
                "this file is missing; the vocabulary of a Voxtral model is in it",
            )
        })?;
        let tekken_path = sidecars.path("tekken.json");
        let tokenizer = Tekken::from_json(&tekken_path, &vocabulary, config.n_vocab)?;
        let config = match tokenizer.audio() {
            Some(audio) => config.with_audio(&tekken_path, audio)?,
            None => config,
        };
        let (weights, pairs) = if weights.find("norm.weight").is_some() {
            (from_mistral(&weights)?, RotaryPairs::Neighbours)
        } else {
            (from_hugging_face(&weights)?, RotaryPairs::Halves)
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

/// Newer versions of transformers put `model.` in front and leave out the decoder's inner `model.`.
fn from_hugging_face(weights: &Weights) -> Result<Weights> {
    let mut renamed = Weights::new(weights.path());
    for (name, tensor) in weights.iter() {
        let name = name.strip_prefix("model.").unwrap_or(name);
        let name = match name.strip_prefix("language_model.") {
            Some(rest) if !rest.starts_with("model.") => format!("language_model.model.{rest}"),
            _ => name.to_owned(),
        };
        renamed.insert(name, tensor.clone())?;
    }
    Ok(renamed)
}

fn from_mistral(weights: &Weights) -> Result<Weights> {
    let mut renamed = Weights::new(weights.path());
    for (name, tensor) in weights.iter() {
        let name = hugging_face_name(name).ok_or_else(|| {
            let name = weights::printable(name);
            invalid(
                weights.path(),
                format!("tensor `{name}` is no part of a Voxtral Realtime model"),
            )
        })?;
        renamed.insert(name, tensor.clone())?;
    }
    Ok(renamed)
}

/// What Hugging Face calls a tensor of Mistral's layout.
fn hugging_face_name(name: &str) -> Option<String> {
    let layer = |rest: &str, is_encoder: bool| {
        let (index, rest) = rest.split_once('.')?;
        let (part, leaf) = rest.rsplit_once('.')?;
        let part = match part {
            "ada_rms_norm_t_cond.0" if !is_encoder => "ada_rms_norm.linear1",
            "ada_rms_norm_t_cond.2" if !is_encoder => "ada_rms_norm.linear2",
            part => {
                let known = LAYER.iter().find(|(_, _, mistral)| *mistral == part);
                let (encoder, decoder, _) = known?;
                if is_encoder { encoder } else { decoder }
            }
        };
        Some(format!("{index}.{part}.{leaf}"))
    };
    if let Some(rest) = name.strip_prefix("layers.") {
        return Some(format!(
            "language_model.model.layers.{}",
            layer(rest, false)?
        ));
    }
    if name == "norm.weight" {
        return Some("language_model.model.norm.weight".into());
    }
    let name = name.strip_prefix(MISTRAL_EMBEDDING)?;
    if let Some(rest) = name.strip_prefix("whisper_encoder.transformer.layers.") {
        return Some(format!("audio_tower.layers.{}", layer(rest, true)?));
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
