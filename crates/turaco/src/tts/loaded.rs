//! A speaking model on one device, and what its streams leave to each other.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use turaco_compute::WeightType;

use crate::idle::Idle;
use crate::load::device_choice::Devices;
use crate::load::memory::{bits, check_weights};
use crate::models::qwen3_tts::codec::{CodecCheckpoint, CodecDecoder, CodecRunner, CodecStream};
use crate::models::qwen3_tts::{Qwen3Tts, Qwen3TtsCheckpoint, Runner};
use crate::{Control, Error, LoadOptions, Result};

use super::voice::ClonedVoice;

/// What runs a model for one thread: compiled steps and their memory, used by one stream after the other.
#[derive(Debug)]
pub(super) struct Engine {
    pub talker: Runner,
    pub codec: CodecRunner,
}

impl Engine {
    /// Let `stream` hear `codes` that were said already. A long recording takes a while, in which `control` may end it.
    pub fn go_through(
        &mut self,
        stream: &mut CodecStream,
        codes: &[u32],
        control: &Control,
    ) -> Result<()> {
        self.codec.skip(stream, codes, || control.check())
    }
}

/// The networks on a device.
#[derive(Debug)]
pub(super) struct Loaded {
    pub model: Arc<Qwen3Tts>,
    pub codec: Arc<CodecDecoder>,
    /// Bytes of the codec's weights.
    pub codec_bytes: u64,
    /// Compiled steps that no stream uses at the moment.
    idle: Idle<Engine>,
    /// The frames of recordings that the codec has gone through, and where it was behind them; what was used last is last.
    heard: Mutex<Vec<(Vec<u32>, CodecStream)>>,
}

impl Loaded {
    /// Load the networks of a checkpoint.
    pub fn load(
        devices: &Devices,
        checkpoint: &Qwen3TtsCheckpoint,
        options: &LoadOptions,
        control: &Control,
    ) -> Result<Self> {
        let codec = checkpoint.codec()?;
        let weights = &checkpoint.weights;
        let weight_type = options.compute_type.weight_type(weights, devices.graphics);
        check_weights(&checkpoint.name, weights, weight_type)?;
        // First the codec, whose convolutions take twice their memory while they are rearranged: nothing else is there yet.
        let quiet = control.without_progress();
        let codec_bytes = codec_bytes(&codec, codec_type(weight_type));
        let codec = CodecDecoder::load(&codec, &devices.model, codec_type(weight_type), &quiet)?;
        let model = Qwen3Tts::load(checkpoint, &devices.model, weight_type, control)?;
        let (ours, its) = (model.config().n_codes, codec.config().n_groups);
        if ours != its {
            return Err(Error::Model {
                path: checkpoint.codec_path(),
                message: format!(
                    "this codec has {its} codes in a frame, the model beside it {ours}"
                ),
            });
        }
        Ok(Self {
            model,
            codec,
            codec_bytes,
            idle: Idle::default(),
            heard: Mutex::default(),
        })
    }

    /// The networks of the model in a folder.
    pub fn load_path(
        devices: &Devices,
        path: &Path,
        options: &LoadOptions,
        control: &Control,
    ) -> Result<Self> {
        Self::load(devices, &Qwen3TtsCheckpoint::open(path)?, options, control)
    }

    /// Compiled steps that nobody uses, or new ones.
    pub fn engine(&self) -> Engine {
        self.idle.take().unwrap_or_else(|| Engine {
            talker: Runner::new(&self.model),
            codec: CodecRunner::new(&self.codec),
        })
    }

    /// Steps that a stream has no more use for.
    pub fn give_back(&self, engine: Engine) {
        self.idle.give_back(engine);
    }

    /// As [`Synthesizer::release_unused`](super::Synthesizer::release_unused).
    pub fn release_unused(&self) {
        self.idle.release_unused();
    }

    /// The codec behind the sound of `codes`.
    pub fn stream_behind(
        engine: &mut Engine,
        codes: &[u32],
        control: &Control,
    ) -> Result<CodecStream> {
        let mut stream = engine.codec.new_stream()?;
        engine.go_through(&mut stream, codes, control)?;
        Ok(stream)
    }

    /// The codec behind the recording of a voice, which it goes through once: also for a server, where each request reads a saved
    /// voice anew.
    pub fn stream_behind_voice(
        &self,
        engine: &mut Engine,
        voice: &ClonedVoice,
        control: &Control,
    ) -> Result<CodecStream> {
        let mut kept = lock(&self.heard);
        if let Some(index) = kept.iter().position(|(codes, _)| *codes == voice.codes) {
            let known = kept.remove(index);
            let stream = engine.codec.copy_stream(&known.1);
            kept.push(known);
            return stream;
        }
        drop(kept);
        let stream = Self::stream_behind(engine, &voice.codes, control)?;
        let copy = engine.codec.copy_stream(&stream)?;
        let mut kept = lock(&self.heard);
        if kept.len() >= KEPT_RECORDINGS {
            kept.remove(0);
        }
        kept.push((voice.codes.clone(), copy));
        Ok(stream)
    }
}

/// Bytes of the codec's way from codes to sound, kept as `weight_type`.
fn codec_bytes(codec: &CodecCheckpoint, weight_type: WeightType) -> u64 {
    let decoder = (codec.weights.iter()).filter(|(name, _)| name.starts_with("decoder."));
    let n_weights: usize = decoder.map(|(_, tensor)| tensor.len()).sum();
    n_weights as u64 * bits(weight_type) / 8
}

/// How the codec is stored when the talker is `weight_type`: it multiplies many rows, where bytes are of no use, and sound
/// shows every error.
pub(super) fn codec_type(weight_type: WeightType) -> WeightType {
    match weight_type {
        WeightType::Int8 | WeightType::Q8 | WeightType::Q4 => {
            match turaco_compute::cpu::has_bf16_products() {
                true => WeightType::Bf16,
                false => WeightType::F32,
            }
        }
        other => other,
    }
}

/// Recordings behind which the codec is kept, some megabytes each.
const KEPT_RECORDINGS: usize = 8;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::qwen3_tts::codec::MAX_FRAMES;

    #[test]
    fn a_long_recording_can_be_left_in_the_middle() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/qwen3-tts/base");
        let (options, control) = (LoadOptions::new(), Control::new());
        let load = |devices: &Devices| Loaded::load_path(devices, &path, &options, &control);
        let loaded = options.load(load).unwrap();
        let mut engine = loaded.engine();
        let codes = vec![1; 3 * MAX_FRAMES * loaded.codec.config().n_groups];
        let stream = Loaded::stream_behind(&mut engine, &codes, &control).unwrap();
        assert_eq!(stream.position(), 3 * MAX_FRAMES);

        let mut stream = engine.codec.new_stream().unwrap();
        control.cancel();
        let left = engine.go_through(&mut stream, &codes, &control);
        assert!(matches!(left, Err(Error::Cancelled)) && stream.position() == 0);
    }
}
