//! Writing a checkpoint with smaller or packed weights, as a folder of the published kind.

use super::checkpoint::Qwen3TtsCheckpoint;
use super::table_type;
use crate::weights::new_folder::NewFolder;
use crate::weights::{DType, WeightType};
use crate::{Control, Result};

/// Files beside the weights; what is missing is left out.
const BESIDE: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
];

/// Writes `checkpoint` into `folder`: `model.safetensors` with all numbers as `dtype` (`F32`, `F16` or `Bf16`; or `Panels`,
/// which packs the matrices of all layers and keeps the rest plain), and copies of the files beside it and of the codec.
///
/// # Errors
/// When the file system refuses (full disk, no permission), naming the file, or on cancellation.
pub fn write_hugging_face(
    checkpoint: &Qwen3TtsCheckpoint,
    folder: NewFolder,
    dtype: DType,
    control: &Control,
) -> Result<()> {
    let weights = checkpoint.weights.iter();
    let tensors: Vec<_> = weights
        .map(|(name, tensor)| (name.to_owned(), tensor, stored_type(name, dtype)))
        .collect();
    folder.write_weights(&tensors, control)?;
    for name in BESIDE {
        let path = checkpoint.sidecars.path(name);
        if path.exists() {
            folder.copy(&path, name, control)?;
        }
    }
    let codec = checkpoint.codec_path();
    if codec.is_dir() {
        folder.copy_folder(&codec, "speech_tokenizer", control)?;
    }
    folder.publish()
}

/// How tensor `name` is written: panels are for the matrices of the layers, of the heads and of the text projection. Embeddings
/// are looked into row by row; norms and biases are used as they are, and the speaker encoder is rearranged while loading.
fn stored_type(name: &str, dtype: DType) -> DType {
    let DType::Panels(packed) = dtype else {
        return dtype;
    };
    let matrices = ["_proj.weight", "_projection.weight", "codec_head.weight"];
    let is_matrix =
        matrices.iter().any(|ending| name.ends_with(ending)) || name.contains(".lm_head.");
    let rows = match table_type(packed) {
        WeightType::F32 => DType::F32,
        WeightType::F16 => DType::F16,
        _ => DType::Bf16,
    };
    match name {
        _ if !name.ends_with(".weight") || name.contains("norm") => DType::F32,
        _ if name.starts_with("speaker_encoder.") => rows,
        _ if is_matrix => dtype,
        _ if name.contains(".linear_fc") => DType::Panels(table_type(packed)),
        _ => rows,
    }
}
