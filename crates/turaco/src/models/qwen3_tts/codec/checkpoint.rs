//! Opening the folder of a codec.

use std::path::{Path, PathBuf};

use super::config::CodecConfig;
use crate::Result;
use crate::weights::{self, Weights, invalid};

/// An opened `speech_tokenizer` folder.
#[derive(Debug)]
pub struct CodecCheckpoint {
    /// The folder.
    pub path: PathBuf,
    /// Sizes.
    pub config: CodecConfig,
    /// Tensors, under their names in the file.
    pub weights: Weights,
}

impl CodecCheckpoint {
    /// Opens a folder with `config.json` and the weights, also one of the codec alone.
    ///
    /// # Errors
    /// Files that are missing or broken, or another model.
    pub fn open(path: &Path) -> Result<Self> {
        let checkpoint = weights::open(path)?;
        let config = CodecConfig::read(&checkpoint.sidecars)?.ok_or_else(|| {
            invalid(
                &checkpoint.sidecars.path("config.json"),
                "these are no settings of a Qwen3-TTS codec (model_type qwen3_tts_tokenizer_12hz)",
            )
        })?;
        Ok(Self {
            path: checkpoint.path,
            config,
            weights: checkpoint.weights,
        })
    }
}
