//! Opening a checkpoint in either layout.
//!
//! Inside the engine, tensors have the names of the Hugging Face layout. What differs besides is the order of the rows of
//! query and key projections, see [`RotaryPairs`].

use std::path::{Path, PathBuf};

use super::names::{renamed, usual_name};
use crate::Result;
use crate::nn::RotaryPairs;
use crate::tokenizer::Tekken;
use crate::tokenizer::tekken::TekkenAudio;
use crate::weights::{self, Checkpoint, DType, Sidecars, Weights, invalid};

/// The sizes of a model of the family, and what its checkpoints have of their own.
pub trait Voxtral: Sized {
    /// The model, for messages.
    const MODEL: &'static str;

    /// Reads the settings of either layout; `None` if there are none, or of another model.
    ///
    /// # Errors
    /// Settings that are missing, no sizes, or contradict each other.
    fn read(sidecars: &Sidecars) -> Result<Option<Self>>;

    /// Tokens of the vocabulary.
    fn n_vocab(&self) -> usize;

    /// Takes over, or compares, what the vocabulary's file at `path` says about audio.
    ///
    /// # Errors
    /// The model does not fit it.
    fn with_audio(self, path: &Path, audio: &TekkenAudio) -> Result<Self>;

    /// What Hugging Face calls a tensor of Mistral's layout; `None` for one that is no part of the model.
    fn hugging_face_name(name: &str) -> Option<String>;

    /// Adds tensors that one of the layouts leaves out.
    ///
    /// # Errors
    /// As [`Weights::insert`].
    fn complete(&self, weights: Weights) -> Result<Weights> {
        Ok(weights)
    }

    /// The size of a head of projection `name`, if its rows are rotated.
    fn rotated_head_dim(&self, name: &str) -> Option<usize>;

    /// How tensor `name` is written into a file of `dtype`.
    fn stored_type(name: &str, dtype: DType) -> DType;
}

/// An opened checkpoint.
#[derive(Debug)]
pub struct VoxtralCheckpoint<Config> {
    /// A name for people.
    pub name: String,
    /// The file or folder.
    pub path: PathBuf,
    /// Sizes.
    pub config: Config,
    /// Tensors, under their names in here.
    pub weights: Weights,
    /// Which order the rows of rotated query and key projections have.
    pub pairs: RotaryPairs,
    /// The vocabulary.
    pub tokenizer: Tekken,
    /// The files beside the weights.
    pub sidecars: Sidecars,
}

impl<Config: Voxtral> VoxtralCheckpoint<Config> {
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
        Ok(Config::read(&checkpoint.sidecars)?.is_some())
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
        let config = Config::read(&sidecars)?.ok_or_else(|| {
            let message = format!(
                "no config.json or params.json of a {} model beside the weights",
                Config::MODEL
            );
            invalid(&path, message)
        })?;
        let (tekken_path, tokenizer) = read_vocabulary(&sidecars, config.n_vocab())?;
        let config = match tokenizer.audio() {
            Some(audio) => config.with_audio(&tekken_path, audio)?,
            None => config,
        };
        let is_mistral = weights.find("norm.weight").is_some();
        let (weights, pairs) = if is_mistral {
            let weights = renamed(&weights, Config::MODEL, Config::hugging_face_name)?;
            (weights, RotaryPairs::Neighbours)
        } else {
            let weights = renamed(&weights, Config::MODEL, usual_name)?;
            (weights, RotaryPairs::Halves)
        };
        Ok(Self {
            name: crate::models::display_name(&path),
            path,
            weights: config.complete(weights)?,
            config,
            pairs,
            tokenizer,
            sidecars,
        })
    }
}

/// The vocabulary beside the weights of a model with `n_vocab` tokens, and where it is.
///
/// # Errors
/// It is missing or broken.
fn read_vocabulary(sidecars: &Sidecars, n_vocab: usize) -> Result<(PathBuf, Tekken)> {
    let path = sidecars.path("tekken.json");
    let json = sidecars.get("tekken.json")?.ok_or_else(|| {
        let message = "this file is missing; the vocabulary of a Voxtral model is in it";
        invalid(&path, message)
    })?;
    let vocabulary = Tekken::from_json(&path, &json, n_vocab)?;
    Ok((path, vocabulary))
}
