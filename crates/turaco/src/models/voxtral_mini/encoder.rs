//! From log-mel frames to vectors in the place of text.

use turaco_compute::{StepBuilder, Value};

use super::config::VoxtralMiniConfig;
use crate::Result;
use crate::models::whisper::encoder;
use crate::nn::{LayerProgress, Loader, StackingProjector};

/// Whisper's encoder and the projector behind it.
#[derive(Debug)]
pub(super) struct Encoder {
    tower: encoder::Encoder,
    projector: StackingProjector,
}

/// The values at the end of every stage.
pub(super) struct EncoderStages {
    /// Those of the encoder.
    pub tower: encoder::EncoderStages,
    /// One vector for each audio token.
    pub audio: Value,
}

impl Encoder {
    /// `audio_tower` and `multi_modal_projector` below `loader`.
    pub fn load(
        loader: &Loader<'_>,
        config: &VoxtralMiniConfig,
        progress: &mut LayerProgress<'_>,
    ) -> Result<Self> {
        let tower = encoder::Encoder::load(&loader.at("audio_tower"), &config.encoder, progress)?;
        let projector = StackingProjector::load(
            &loader.at("multi_modal_projector"),
            config.downsample,
            config.encoder.n_state,
            config.decoder.dim,
        )?;
        Ok(Self { tower, projector })
    }

    /// `mel [n_mels, frames_per_chunk]` of one chunk to `[tokens_per_chunk, dim]`.
    pub fn forward(&self, step: &mut StepBuilder, mel: Value) -> Result<EncoderStages> {
        let tower = self.tower.forward(step, mel, 1)?;
        let audio = step.scope("projector", |step| {
            self.projector.forward(step, tower.states, 1)
        })?;
        Ok(EncoderStages { tower, audio })
    }
}
