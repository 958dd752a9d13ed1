//! Opening a checkpoint in either layout.
//!
//! Inside the engine, tensors have the names of the Hugging Face layout. What differs besides is the order of the rows of the
//! decoder's query and key projections, see [`RotaryPairs`].

use std::path::{Path, PathBuf};

use super::config::VoxtralMiniConfig;
use crate::Result;
use crate::models::voxtral::{DECODER_LAYER, layer_name, read_vocabulary, renamed, usual_name};
use crate::nn::RotaryPairs;
use crate::tokenizer::Tekken;
use crate::weights::{self, Checkpoint, Sidecars, Tensor, Weights, invalid};

/// An opened checkpoint.
#[derive(Debug)]
pub struct VoxtralMiniCheckpoint {
    /// A name for people.
    pub name: String,
    /// The file or folder.
    pub path: PathBuf,
    /// Sizes.
    pub config: VoxtralMiniConfig,
    /// Tensors, under their names in here.
    pub weights: Weights,
    /// Which order the rows of the decoder's query and key projections have.
    pub pairs: RotaryPairs,
    /// The vocabulary.
    pub tokenizer: Tekken,
    /// The files beside the weights.
    pub sidecars: Sidecars,
}

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

impl VoxtralMiniCheckpoint {
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
        Ok(VoxtralMiniConfig::read(&checkpoint.sidecars)?.is_some())
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
        let config = VoxtralMiniConfig::read(&sidecars)?.ok_or_else(|| {
            let message = "no config.json or params.json of a Voxtral model beside the weights";
            invalid(&path, message)
        })?;
        let (tekken_path, tokenizer) = read_vocabulary(&sidecars, config.n_vocab)?;
        if let Some(audio) = tokenizer.audio() {
            config.check_audio(&tekken_path, audio)?;
        }
        let is_mistral = weights.find("norm.weight").is_some();
        let mut weights = match is_mistral {
            true => renamed(&weights, "Voxtral", hugging_face_name)?,
            false => renamed(&weights, "Voxtral", usual_name)?,
        };
        if weights.find(POSITIONS).is_none() {
            let encoder = &config.encoder;
            let table = sinusoids(encoder.n_ctx, encoder.n_state);
            let table = Tensor::from_f32(&[encoder.n_ctx, encoder.n_state], &table);
            weights.insert(POSITIONS.into(), table)?;
        }
        Ok(Self {
            name: crate::models::display_name(&path),
            path,
            config,
            weights,
            pairs: match is_mistral {
                true => RotaryPairs::Neighbours,
                false => RotaryPairs::Halves,
            },
            tokenizer,
            sidecars,
        })
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
