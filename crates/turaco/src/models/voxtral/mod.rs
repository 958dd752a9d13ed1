//! What the models of the Voxtral family have in common: checkpoints in two layouts, the vocabulary's file, and how weights are
//! kept.

mod checkpoint;
mod convert;
mod names;

pub use checkpoint::{Voxtral, VoxtralCheckpoint};
pub(super) use convert::write_folder;
pub(super) use names::{DECODER_LAYER, layer_name};

use turaco_compute::WeightType;

/// How the audio encoder is stored when the decoder is `weight_type`. It is a fifth of the weights or less and works on many
/// rows at a time: what counts is how fast they multiply, and bytes with a scale per row need no unpacking.
pub(super) fn encoder_type(weight_type: WeightType) -> WeightType {
    match weight_type {
        WeightType::Q8 | WeightType::Q4 => WeightType::Int8,
        other => other,
    }
}
