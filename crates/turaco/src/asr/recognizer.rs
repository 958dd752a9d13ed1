//! A recogniser of any family, loaded from whatever the user has.

use std::path::Path;
use std::sync::Arc;

use turaco_compute::WeightType;

use super::ChatTranscription;
use super::realtime::{RealtimeRecognizer, RealtimeTranscription};
use super::{Info, Segment, Task, Timings, TranscribeOptions};
use super::{Transcriber, Transcription};
use crate::chat::ChatModel;
use crate::device_queue::{DeviceQueue, Urgency};
use crate::models::voxtral_mini::VoxtralMiniCheckpoint;
use crate::models::voxtral_realtime::VoxtralRealtimeCheckpoint;
use crate::models::whisper::WhisperConfig;
use crate::{Audio, Control, Error, LoadOptions, Result, weights};

/// A loaded model that writes down what is said.
#[derive(Debug)]
pub enum Recognizer {
    /// Whisper.
    Whisper(Box<Transcriber>),
    /// Voxtral Realtime.
    Realtime(Arc<RealtimeRecognizer>),
    /// Voxtral Mini or Small.
    Chat(Arc<ChatModel>),
}

impl Recognizer {
    /// Load a model file or folder; which family it is of is found out from its settings.
    ///
    /// # Errors
    /// As [`Transcriber::load_path`].
    pub fn load_path(path: &Path, options: &LoadOptions, control: &Control) -> Result<Self> {
        if path.is_dir() || path.is_file() {
            let checkpoint = weights::open(path)?;
            if VoxtralRealtimeCheckpoint::is_one(&checkpoint)? {
                let checkpoint = VoxtralRealtimeCheckpoint::from_checkpoint(checkpoint)?;
                let loaded = RealtimeRecognizer::load(&checkpoint, options, control)?;
                return Ok(Self::Realtime(loaded));
            }
            if VoxtralMiniCheckpoint::is_one(&checkpoint)? {
                let checkpoint = VoxtralMiniCheckpoint::from_checkpoint(checkpoint)?;
                return Ok(Self::Chat(ChatModel::load(&checkpoint, options, control)?));
            }
        }
        let loaded = Transcriber::load_path(path, options, control)?;
        Ok(Self::Whisper(Box::new(loaded)))
    }

    /// Give back the memory of those who worked at the same time, once it was of no use for a while.
    pub(crate) fn release_unused(&self) {
        match self {
            Self::Whisper(transcriber) => transcriber.release_unused(),
            Self::Realtime(recognizer) => recognizer.release_unused(),
            Self::Chat(model) => model.release_unused(),
        }
    }

    /// Bytes of the keys and values that are kept for sequences at the moment.
    pub fn cache_bytes(&self) -> u64 {
        match self {
            Self::Whisper(transcriber) => transcriber.cache_bytes(),
            Self::Realtime(recognizer) => recognizer.cache_bytes(),
            Self::Chat(model) => model.cache_bytes(),
        }
    }

    /// The Whisper inside.
    pub fn whisper(&self) -> Option<&Transcriber> {
        match self {
            Self::Whisper(transcriber) => Some(transcriber),
            Self::Realtime(_) | Self::Chat(_) => None,
        }
    }

    /// The streaming model inside.
    pub fn realtime(&self) -> Option<&Arc<RealtimeRecognizer>> {
        match self {
            Self::Whisper(_) | Self::Chat(_) => None,
            Self::Realtime(recognizer) => Some(recognizer),
        }
    }

    /// The model inside that also converses.
    pub fn chat(&self) -> Option<&Arc<ChatModel>> {
        match self {
            Self::Whisper(_) | Self::Realtime(_) => None,
            Self::Chat(model) => Some(model),
        }
    }

    /// The model's name, for people.
    pub fn model_name(&self) -> &str {
        match self {
            Self::Whisper(transcriber) => transcriber.model_name(),
            Self::Realtime(recognizer) => recognizer.model_name(),
            Self::Chat(model) => model.model_name(),
        }
    }

    /// Where the model runs.
    pub fn device_description(&self) -> String {
        match self {
            Self::Whisper(transcriber) => transcriber.device_description(),
            Self::Realtime(recognizer) => recognizer.device_description(),
            Self::Chat(model) => model.device_description(),
        }
    }

    /// How the weights are kept.
    pub fn weight_type(&self) -> WeightType {
        match self {
            Self::Whisper(transcriber) => transcriber.weight_type(),
            Self::Realtime(recognizer) => recognizer.weight_type(),
            Self::Chat(model) => model.weight_type(),
        }
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        match self {
            Self::Whisper(transcriber) => transcriber.threads(),
            Self::Realtime(recognizer) => recognizer.threads(),
            Self::Chat(model) => model.threads(),
        }
    }

    /// Seconds that loading took.
    pub fn load_seconds(&self) -> f64 {
        match self {
            Self::Whisper(transcriber) => transcriber.load_seconds(),
            Self::Realtime(recognizer) => recognizer.load_seconds(),
            Self::Chat(model) => model.load_seconds(),
        }
    }

    /// What was noticed about the model files while loading.
    pub fn notes(&self) -> &[String] {
        match self {
            Self::Whisper(transcriber) => transcriber.notes(),
            Self::Realtime(_) | Self::Chat(_) => &[],
        }
    }

    /// What users should know about how the model was loaded.
    pub fn warnings(&self) -> &[String] {
        match self {
            Self::Whisper(transcriber) => transcriber.warnings(),
            Self::Realtime(recognizer) => recognizer.warnings(),
            Self::Chat(model) => model.warnings(),
        }
    }

    /// What users should know since the last call, such as a device that failed in the middle of the work.
    pub fn take_late_warning(&self) -> Option<String> {
        match self {
            Self::Whisper(transcriber) => transcriber.take_late_warning(),
            Self::Chat(model) => model.take_late_warning(),
            Self::Realtime(recognizer) => recognizer.take_late_warning(),
        }
    }

    /// Sizes, of a Whisper.
    pub(crate) fn whisper_config(&self) -> Option<&WhisperConfig> {
        self.whisper()
            .map(|transcriber| transcriber.model().config())
    }

    /// Transcribe or translate; segments come out of the returned iterator as soon as they are final.
    ///
    /// # Errors
    /// As [`Transcriber::transcribe`]; also a task that this family does not know.
    pub fn transcribe<'a>(
        &'a self,
        audio: &'a Audio,
        options: &TranscribeOptions,
        control: &Control,
    ) -> Result<Running<'a>> {
        match self {
            Self::Whisper(transcriber) => transcriber
                .transcribe(audio, options, control)
                .map(|running| Running::Whisper(Box::new(running))),
            Self::Realtime(recognizer) => {
                let warnings = check_realtime(recognizer, options)?;
                let running =
                    RealtimeTranscription::new(recognizer, audio, options, warnings, control)?;
                Ok(Running::Realtime(Box::new(running)))
            }
            Self::Chat(model) => {
                let running = ChatTranscription::new(model, audio, options, control)?;
                Ok(Running::Chat(Box::new(running)))
            }
        }
    }

    /// Probabilities of all languages that come into question, best first.
    ///
    /// # Errors
    /// As [`Transcriber::detect_language`]; a family that does not tell.
    pub fn detect_language(
        &self,
        audio: &Audio,
        options: &TranscribeOptions,
        control: &Control,
    ) -> Result<Vec<(String, f64)>> {
        match self {
            Self::Whisper(transcriber) => transcriber.detect_language(audio, options, control),
            Self::Realtime(_) | Self::Chat(_) => Err(Error::UnsupportedTask {
                model: self.model_name().into(),
                task: "name the language".into(),
                message: "it writes what it hears in any of its languages; a Whisper model tells"
                    .into(),
            }),
        }
    }
}

/// A transcription that is under way.
#[derive(Debug)]
pub enum Running<'a> {
    /// By a Whisper.
    Whisper(Box<Transcription<'a>>),
    /// By a streaming model.
    Realtime(Box<RealtimeTranscription<'a>>),
    /// By a model that also converses.
    Chat(Box<ChatTranscription>),
}

impl Running<'_> {
    /// Facts that are known from the start.
    pub fn info(&self) -> &Info {
        match self {
            Self::Whisper(running) => running.info(),
            Self::Realtime(running) => running.info(),
            Self::Chat(running) => running.info(),
        }
    }

    /// Where the time went so far.
    pub fn timings(&self) -> Timings {
        match self {
            Self::Whisper(running) => running.timings(),
            Self::Realtime(running) => running.timings(),
            Self::Chat(running) => running.timings(),
        }
    }

    /// Let the device be waited for inside, before every step, if this family does that; else whether there is a turn is the
    /// business of whoever asks for the next segment, and this is `false`.
    pub fn take_turns(&mut self, queue: &Arc<DeviceQueue>, urgency: Urgency) -> bool {
        match self {
            Self::Whisper(_) | Self::Realtime(_) => false,
            Self::Chat(running) => {
                running.take_turns(queue, urgency);
                true
            }
        }
    }

    /// The next segment. `on_text` gets its text while it is written, where the family writes it token by token (a model that also
    /// converses), and then has no turn on a device; the others tell whole segments alone.
    pub fn next_with(
        &mut self,
        on_text: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Option<Result<Segment>> {
        match self {
            Self::Chat(running) => running.next_with(on_text),
            _ => self.next(),
        }
    }
}

impl Iterator for Running<'_> {
    type Item = Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Whisper(running) => running.next(),
            Self::Realtime(running) => running.next(),
            Self::Chat(running) => running.next(),
        }
    }
}

/// What a streaming model cannot do is an error where the text would be another, else a warning.
fn check_realtime(
    recognizer: &RealtimeRecognizer,
    options: &TranscribeOptions,
) -> Result<Vec<String>> {
    if options.task == Task::Translate {
        return Err(Error::UnsupportedTask {
            model: recognizer.model_name().into(),
            task: "translate".into(),
            message:
                "it writes what is said in its own language; a multilingual Whisper translates"
                    .into(),
        });
    }
    if !options.clip_timestamps.is_empty() && options.clip_timestamps != [0.0] {
        return Err(Error::InvalidOption {
            option: "clip_timestamps",
            message: "a streaming model hears the whole recording; give it the part alone".into(),
        });
    }
    let default = TranscribeOptions::default();
    let without_effect = [
        ("language", options.language.is_some()),
        ("languages", !options.languages.is_empty()),
        ("initial_prompt", options.initial_prompt.is_some()),
        ("prefix", options.prefix.is_some()),
        ("hotwords", options.hotwords.is_some()),
        ("vad_filter", options.vad_filter == Some(true)),
        ("batch_size", options.batch_size != default.batch_size),
        ("max_new_tokens", options.max_new_tokens.is_some()),
        ("chunk_length", options.chunk_length.is_some()),
        (
            "suppress_tokens",
            options.suppress_tokens != default.suppress_tokens,
        ),
        ("multilingual", options.multilingual),
    ];
    let warnings = without_effect
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(option, _)| format!("{option} has no effect on this model"));
    Ok(warnings.collect())
}
