//! Checkpoints with random weights: the sizes of a published model, for measurements without its file.

use std::path::Path;

use super::config::WhisperConfig;
use super::names::expected_tensors;
use crate::models::random::{RandomTensor, Spread, write_json, write_tensors};
use crate::{Control, Result};

/// The sizes of `openai/whisper-large-v3-turbo`.
pub fn published_turbo() -> WhisperConfig {
    WhisperConfig {
        n_mels: 128,
        n_audio_ctx: 1500,
        n_audio_state: 1280,
        n_audio_heads: 20,
        n_audio_layers: 32,
        n_audio_ffn: 5120,
        n_text_ctx: 448,
        n_text_state: 1280,
        n_text_heads: 20,
        n_text_layers: 4,
        n_text_ffn: 5120,
        n_vocab: 51_866,
    }
}

/// Writes a checkpoint in Hugging Face's layout (`model.safetensors`, `config.json`) into an existing folder: bf16 weights that
/// depend on `seed` alone. Its vocabulary is that of the published models.
///
/// # Errors
/// When the file system refuses, or on cancellation.
pub fn write_random(
    config: &WhisperConfig,
    folder: &Path,
    seed: u64,
    control: &Control,
) -> Result<()> {
    write_json(folder, "config.json", &config.to_json())?;
    let tensors = tensors(config);
    let file = "model.safetensors";
    write_tensors(folder, file, &tensors, false, seed, control)
}

/// All tensors in the order of the file.
fn tensors(config: &WhisperConfig) -> Vec<RandomTensor> {
    let spread = |name: &str| match name {
        _ if name.ends_with(".bias") || name.contains("embed_positions") => Spread::Bias,
        _ if name.ends_with("layer_norm.weight") => Spread::Around(1.0),
        _ => Spread::Matrix,
    };
    let all = expected_tensors(config).into_iter();
    all.map(|(name, shape)| {
        let spread = spread(&name);
        (format!("model.{name}"), shape, spread)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sizes_are_those_of_the_published_file() {
        let tensors = tensors(&published_turbo());
        let count: usize = (tensors.iter())
            .map(|(_, shape, _)| shape.iter().product::<usize>())
            .sum();
        assert_eq!(count, 808_878_080);
    }
}
