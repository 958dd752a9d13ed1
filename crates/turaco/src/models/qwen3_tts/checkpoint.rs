//! Opening a checkpoint's folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::codec::CodecCheckpoint;
use super::config::Qwen3TtsConfig;
use crate::tokenizer::QwenTokenizer;
use crate::weights::{self, Checkpoint, Sidecars, Weights, invalid};
use crate::{Error, Result};

/// Who does what others cannot, for messages.
pub const SPEAKING: &str = "`qwen3-tts-0.6b-customvoice` speaks in voices by name, `qwen3-tts-0.6b-base` in that of a recording, \
                            `qwen3-tts-1.7b-voicedesign` in one that is described";

/// An opened checkpoint; the codec in its subfolder `speech_tokenizer` is opened by itself.
#[derive(Debug)]
pub struct Qwen3TtsCheckpoint {
    /// A name for people.
    pub name: String,
    /// The file or folder.
    pub path: PathBuf,
    /// Sizes.
    pub config: Qwen3TtsConfig,
    /// Tensors.
    pub weights: Weights,
    /// Text to tokens.
    pub tokenizer: Arc<QwenTokenizer>,
    /// The files beside the weights.
    pub sidecars: Sidecars,
}

impl Qwen3TtsCheckpoint {
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
        Ok(Qwen3TtsConfig::read(&checkpoint.sidecars)?.is_some())
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
        let Some(config) = Qwen3TtsConfig::read(&sidecars)? else {
            return Err(Error::UnsupportedTask {
                model: crate::models::display_name(&path),
                task: "speak".into(),
                message: format!(
                    "there is no config.json of a Qwen3-TTS model beside its weights; {SPEAKING}"
                ),
            });
        };
        let tokenizer = QwenTokenizer::read(&sidecars)?;
        if tokenizer.len() > config.text_vocab {
            let message = format!(
                "{} tokens, but the model knows {}",
                tokenizer.len(),
                config.text_vocab
            );
            return Err(invalid(&sidecars.path("vocab.json"), message));
        }
        Ok(Self {
            name: crate::models::display_name(&path),
            path,
            config,
            weights,
            tokenizer: Arc::new(tokenizer),
            sidecars,
        })
    }

    /// Where the codec is: the folder `speech_tokenizer` beside the weights.
    pub fn codec_path(&self) -> PathBuf {
        self.sidecars.path("speech_tokenizer")
    }

    /// The codec, which makes sound of codes.
    ///
    /// # Errors
    /// Its folder or a file in it is missing, or broken.
    pub fn codec(&self) -> Result<CodecCheckpoint> {
        let folder = self.codec_path();
        let missing = |what: &str| {
            Err(invalid(
                &folder,
                format!(
                    "{what}: without the codec in the subfolder `speech_tokenizer` (config.json and model.safetensors) \
                     there is no sound; get the model again with all of its files, or put the files of \
                     Qwen/Qwen3-TTS-Tokenizer-12Hz, which are the same for all of these models, into that folder"
                ),
            ))
        };
        if !folder.is_dir() {
            return missing("this folder is missing");
        }
        if !folder.join("config.json").is_file() {
            return missing("there is no config.json in this folder");
        }
        let is_weights = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.is_ok_and(|entry| entry.path().extension().is_some_and(|e| e == "safetensors"))
        };
        let has_weights = std::fs::read_dir(&folder).map(|mut entries| entries.any(is_weights));
        match has_weights {
            Ok(false) => missing("there is no model.safetensors in this folder"),
            _ => CodecCheckpoint::open(&folder),
        }
    }
}
