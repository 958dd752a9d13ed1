//! Writing a checkpoint with smaller or packed weights, as a Hugging Face folder.

use super::checkpoint::{Voxtral, VoxtralCheckpoint};
use crate::nn::{RotaryPairs, halves_of_pairs};
use crate::weights::new_folder::NewFolder;
use crate::weights::{DType, Tensor};
use crate::{Control, Result};

/// Writes `checkpoint` into `folder`: `model.safetensors` with numbers as `dtype` says (`F32`, `F16`, `Bf16`, or `Panels` for
/// packed matrices), `more` tensors of the model at its end, `settings` under their names, and the vocabulary.
///
/// # Errors
/// When the file system refuses (full disk, no permission), naming the file, or on cancellation.
pub(in crate::models) fn write_folder<Config: Voxtral>(
    checkpoint: &VoxtralCheckpoint<Config>,
    more: Vec<(&str, Tensor)>,
    settings: &[(&str, serde_json::Value)],
    folder: NewFolder,
    dtype: DType,
    control: &Control,
) -> Result<()> {
    let mut ordered = checkpoint
        .weights
        .iter()
        .map(|(name, tensor)| {
            let head_dim = checkpoint.config.rotated_head_dim(name);
            let tensor = match (checkpoint.pairs, head_dim) {
                (RotaryPairs::Neighbours, Some(head_dim)) => halves_of_pairs(tensor, head_dim)?,
                _ => tensor.clone(),
            };
            Ok((name, tensor))
        })
        .collect::<Result<Vec<(&str, Tensor)>>>()?;
    ordered.extend(more);
    let tensors: Vec<_> = ordered
        .iter()
        .map(|(name, tensor)| {
            let stored = Config::stored_type(name, dtype);
            ((*name).to_owned(), tensor, stored)
        })
        .collect();
    folder.write_weights(&tensors, control)?;
    for (name, json) in settings {
        folder.write_json(name, json, control)?;
    }
    let vocabulary = checkpoint.sidecars.path("tekken.json");
    folder.copy(&vocabulary, "tekken.json", control)?;
    folder.publish()
}
