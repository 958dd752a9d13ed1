//! The loaded model that streams of speech share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use turaco_compute::WeightType;

use crate::audio::Audio;
use crate::load::device_choice::Devices;
use crate::load::rescue::Rescue;
use crate::models::qwen3_tts::codec::{CodecDecoder, CodecEncoder, CodecStream};
use crate::models::qwen3_tts::speaker_encoder::SpeakerEncoder;
use crate::models::qwen3_tts::{
    PromptRequest, Qwen3Tts, Qwen3TtsCheckpoint, Reference, Sampling, TtsKind, Turn, VoicePrompt,
};
use crate::{Control, Error, LoadOptions, Result};

use super::guard::frame_budget;
use super::loaded::{Engine, Loaded, codec_type};
use super::options::{SpeakOptions, TextLayout, spoken_language};
use super::speech::{Speech, SpeechStream, SpeechTimings};
use super::utterance::{Limit, Utterance};
use super::voice::{ClonedVoice, Voice};

/// A loaded Qwen3-TTS model; any number of streams share its weights.
#[derive(Debug)]
pub struct Synthesizer {
    name: String,
    /// The checkpoint, for encoders that are loaded when they are needed.
    path: PathBuf,
    loaded: Arc<Loaded>,
    /// What happens when the model's device fails, if anything can be done.
    rescue: Option<Rescue<Loaded>>,
    load_seconds: f64,
    threads: usize,
    warnings: Vec<String>,
}

/// What options come to for a model.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    voice: PlannedVoice,
    instruct: Vec<u32>,
    language: Option<u32>,
    streams_text: bool,
    sampling: Sampling,
}

#[derive(Debug, Clone)]
enum PlannedVoice {
    None,
    Speaker(u32),
    Cloned(Arc<ClonedVoice>, Turn),
}

impl Plan {
    /// Whether nothing but what was said before tells who speaks.
    pub fn needs_anchor(&self) -> bool {
        matches!(self.voice, PlannedVoice::None)
    }
}

/// The first piece of a text in a voice that was made up for it.
#[derive(Debug, Clone)]
pub(super) struct Anchor {
    turn: Turn,
    codes: Vec<u32>,
}

impl Anchor {
    /// A piece of text and the frames that it became.
    pub fn new(model: &Qwen3Tts, text: &str, codes: &[u32]) -> Self {
        Self {
            turn: model.turn(text),
            codes: codes.to_vec(),
        }
    }
}

impl Synthesizer {
    /// Load a model's folder; the codec is in its subfolder `speech_tokenizer`.
    ///
    /// # Errors
    /// [`Error::Model`] for files that are missing, broken or of another model, [`Error::Memory`] for a model that is larger
    /// than the memory that is left, [`Error::Compute`] for a device that is not there or has no memory.
    pub fn load_path(path: &Path, options: &LoadOptions, control: &Control) -> Result<Self> {
        options.load(|devices| Self::load_on(devices, path, options, control))
    }

    fn load_on(
        devices: &Devices,
        path: &Path,
        options: &LoadOptions,
        control: &Control,
    ) -> Result<Self> {
        let started = Instant::now();
        let checkpoint = Qwen3TtsCheckpoint::open(path)?;
        Ok(Self {
            name: checkpoint.name.clone(),
            path: checkpoint.path.clone(),
            loaded: Arc::new(Loaded::load(devices, &checkpoint, options, control)?),
            rescue: Rescue::new(devices, options),
            load_seconds: started.elapsed().as_secs_f64(),
            threads: options.n_threads(),
            warnings: devices.note.iter().cloned().collect(),
        })
    }

    /// The model's name, for people.
    pub fn model_name(&self) -> &str {
        &self.name
    }

    /// The network.
    pub fn model(&self) -> &Arc<Qwen3Tts> {
        &self.loaded.model
    }

    /// The way from codes to sound.
    pub fn codec(&self) -> &Arc<CodecDecoder> {
        &self.loaded.codec
    }

    /// What the model was trained for.
    pub fn kind(&self) -> TtsKind {
        self.model().config().kind
    }

    /// Samples per second of what comes out.
    pub fn sample_rate(&self) -> u32 {
        self.codec().sample_rate()
    }

    /// Voices that the model knows by name.
    pub fn voices(&self) -> Vec<&str> {
        let speakers = self.model().config().speakers.iter();
        speakers.map(|speaker| speaker.name.as_str()).collect()
    }

    /// Languages that may be asked for.
    pub fn languages(&self) -> Vec<&str> {
        self.model().config().language_names().collect()
    }

    /// Where the model runs.
    pub fn device_description(&self) -> String {
        self.model().device().description()
    }

    /// How the weights are kept.
    pub fn weight_type(&self) -> WeightType {
        self.model().weight_type()
    }

    /// Bytes of the weights that stay in memory. Tables of which single rows are read are not among them: they are used where
    /// their file is mapped.
    pub fn weight_bytes(&self) -> u64 {
        let frame = self.model().frame_bytes();
        frame.talker + frame.predictor + self.loaded.codec_bytes
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// How long loading took, in seconds.
    pub fn load_seconds(&self) -> f64 {
        self.load_seconds
    }

    /// What the user should know about how the model was loaded.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether this is a model for a task, as requests name it: `CustomVoice`, `VoiceDesign` or `Base`.
    ///
    /// # Errors
    /// It is not, which names the models that are, or there is no such task.
    pub fn check_task(&self, task: &str) -> Result<()> {
        let asked: TtsKind = task.parse().map_err(|message| Error::InvalidOption {
            option: "task_type",
            message,
        })?;
        if asked == self.kind() {
            return Ok(());
        }
        Err(Error::UnsupportedTask {
            model: self.name.clone(),
            task: format!("do {}", asked.name()),
            message: format!(
                "it is a {} model; {} are for that",
                self.kind().name(),
                asked.models()
            ),
        })
    }

    /// Say a text.
    ///
    /// # Errors
    /// Options that the model does not have, a text that is too long for it, cancellation, or a failed device.
    pub fn speak(&self, text: &str, options: &SpeakOptions, control: &Control) -> Result<Speech> {
        let mut options = options.clone();
        options.first_chunk = SpeakOptions::MAX_CHUNK;
        let mut stream = self.stream(text, &options, control)?;
        let mut samples = Vec::new();
        while let Some(chunk) = stream.next_chunk()? {
            samples.extend(chunk.samples);
        }
        Ok(Speech {
            audio: Audio::from_samples(samples, self.sample_rate())?,
            pieces: stream.said().to_vec(),
            n_frames: stream.n_frames(),
            timings: stream.timings(),
        })
    }

    /// The sound of a text while it is made.
    ///
    /// # Errors
    /// Options that the model does not have.
    pub fn stream(
        &self,
        text: &str,
        options: &SpeakOptions,
        control: &Control,
    ) -> Result<SpeechStream<'_>> {
        let mut stream = self.open_stream(options, control)?;
        if options.split {
            stream.say_whole(text);
            return Ok(stream);
        }
        if !text.trim().is_empty() {
            stream.push_piece(text);
        }
        stream.finish();
        Ok(stream)
    }

    /// A stream whose text is still to come.
    ///
    /// # Errors
    /// Options that the model does not have.
    pub fn open_stream(
        &self,
        options: &SpeakOptions,
        control: &Control,
    ) -> Result<SpeechStream<'_>> {
        let plan = self.plan(options)?;
        SpeechStream::new(self, plan, options.clone(), control)
    }

    /// Whether a text can be said so; nothing is computed.
    ///
    /// # Errors
    /// Options that the model does not have.
    pub fn check(&self, options: &SpeakOptions) -> Result<()> {
        self.plan(options).map(drop)
    }

    /// The voice in a file, for this model.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Voice`] if it is broken or was made for another model.
    pub fn open_voice(&self, path: &Path) -> Result<ClonedVoice> {
        let voice = ClonedVoice::open(path)?;
        // Models that speak in no voice of a recording say so when they are asked to.
        if self.kind() == TtsKind::Base
            && let Some(message) = self.misfit(&voice)
        {
            return Err(Error::Voice {
                path: path.to_owned(),
                message,
            });
        }
        Ok(voice)
    }

    /// Where streams begin: on the device of the model, or where its work went on when that failed.
    pub(super) fn loaded(&self) -> Arc<Loaded> {
        Rescue::active(self.rescue.as_ref(), &self.loaded)
    }

    /// Where to go on after `error`; the error itself if there is nowhere.
    pub(super) fn rescue(&self, error: Error, control: &Control) -> Result<Arc<Loaded>> {
        let rescue = self.rescue.as_ref();
        Rescue::go_on(rescue, error, control, |devices, options, control| {
            Loaded::load_path(devices, &self.path, options, control).map(Arc::new)
        })
    }

    /// Bytes of the keys and values that are kept for utterances at the moment.
    pub fn cache_bytes(&self) -> u64 {
        let instead = self.rescue.as_ref().and_then(Rescue::model);
        let instead = instead.map_or(0, |loaded| loaded.model.cache_bytes());
        self.loaded.model.cache_bytes() + instead
    }

    /// Give back the memory of those who spoke at the same time, once it was of no use for a while.
    pub(crate) fn release_unused(&self) {
        self.loaded.release_unused();
        if let Some(instead) = self.rescue.as_ref().and_then(Rescue::model) {
            instead.release_unused();
        }
    }

    /// Whether there is nowhere to go on when this fails.
    pub(super) fn is_spare(&self, loaded: &Arc<Loaded>) -> bool {
        !Arc::ptr_eq(loaded, &self.loaded)
    }

    /// What happened since the last call that users should know: a graphics processor that failed, whose work the processor
    /// goes on with.
    pub fn take_late_warning(&self) -> Option<String> {
        self.rescue.as_ref()?.take_warning()
    }

    /// Begin piece number `piece` of a text.
    pub(super) fn begin(
        &self,
        (loaded, engine): (&Loaded, &mut Engine),
        (text, piece): (&str, usize),
        (plan, options): (&Plan, &SpeakOptions),
        anchor: Option<&Anchor>,
        (control, timings): (&Control, &mut SpeechTimings),
    ) -> Result<Utterance> {
        let config = self.model().config();
        let voice = match (&plan.voice, anchor) {
            (PlannedVoice::Speaker(id), _) => VoicePrompt::Speaker(*id),
            (PlannedVoice::Cloned(voice, turn), _) if voice.is_in_context() => {
                let reference = Reference {
                    codes: &voice.codes,
                    text: &turn.text,
                };
                VoicePrompt::InContext(&voice.vector, reference)
            }
            (PlannedVoice::Cloned(voice, _), _) => VoicePrompt::Vector(&voice.vector),
            (PlannedVoice::None, Some(anchor)) => VoicePrompt::Continued(Reference {
                codes: &anchor.codes,
                text: &anchor.turn.text,
            }),
            (PlannedVoice::None, None) => VoicePrompt::None,
        };
        let started = Instant::now();
        let stream = self.stream_behind((loaded, engine), plan, anchor, control)?;
        timings.decode += started.elapsed().as_secs_f64();
        let request = PromptRequest {
            turn: &self.model().turn(text.trim_start()),
            instruct: &plan.instruct,
            language: plan.language,
            voice,
            streams_text: plan.streams_text,
        };
        let (budget, allowed) = (frame_budget(text), config.generation.max_frames());
        let limit = match (options.exact_frames, options.max_frames) {
            (Some(exact), _) => Limit::Exact(exact),
            (None, Some(asked)) => Limit::Asked(asked),
            (None, None) if allowed < budget => Limit::Settings(allowed),
            (None, None) => Limit::Budget(budget),
        };
        let sampling = Sampling {
            seed: plan.sampling.seed.wrapping_add((piece as u64) << 32),
            ..plan.sampling
        };
        let work = (timings, control);
        Utterance::new(engine, &request, stream, (sampling, limit), work)
    }

    /// Where the sound of an utterance goes on: behind the recording in its prompt, if there is one.
    pub(super) fn stream_behind(
        &self,
        (loaded, engine): (&Loaded, &mut Engine),
        plan: &Plan,
        anchor: Option<&Anchor>,
        control: &Control,
    ) -> Result<CodecStream> {
        match (&plan.voice, anchor) {
            (PlannedVoice::Cloned(voice, _), _) => {
                loaded.stream_behind_voice(engine, voice, control)
            }
            (PlannedVoice::None, Some(anchor)) => {
                Loaded::stream_behind(engine, &anchor.codes, control)
            }
            _ => engine.codec.new_stream(),
        }
    }

    /// What options come to, or why they do not go with this model.
    fn plan(&self, options: &SpeakOptions) -> Result<Plan> {
        let config = self.model().config();
        let instruct = options.instruct.as_deref().unwrap_or_default();
        let cannot = |task: &str, message: String| {
            Err(Error::UnsupportedTask {
                model: self.name.clone(),
                task: task.into(),
                message,
            })
        };
        if !instruct.trim().is_empty() && !config.takes_instructions() {
            let why = match config.kind {
                TtsKind::Base => "a Base model speaks in the voice of a recording as it is",
                _ => "it was not trained for instructions",
            };
            return cannot(
                "follow an instruction",
                format!(
                    "{why}; `qwen3-tts-1.7b-customvoice` has the same voices by name and does, `qwen3-tts-1.7b-voicedesign` \
                     speaks in a voice that is described"
                ),
            );
        }
        let (voice, dialect) = match (&options.voice, config.kind) {
            (Voice::Named(_), TtsKind::Base) => {
                return cannot(
                    "speak in a voice by name",
                    format!(
                        "it speaks in the voice of a recording; voices by name are in CustomVoice models, {}",
                        TtsKind::CustomVoice.models()
                    ),
                );
            }
            (Voice::Named(_), TtsKind::VoiceDesign) => {
                return cannot(
                    "speak in a voice by name",
                    format!(
                        "its voices are described by an instruction; voices by name are in CustomVoice models, {}",
                        TtsKind::CustomVoice.models()
                    ),
                );
            }
            (Voice::Cloned(_), TtsKind::CustomVoice | TtsKind::VoiceDesign) => {
                return Err(self.no_recordings());
            }
            (Voice::Default, TtsKind::Base) => {
                return cannot(
                    "speak without a voice",
                    format!(
                        "it needs a recording of the voice (and what is said in it), or a saved voice; {} have voices of their own",
                        TtsKind::CustomVoice.models()
                    ),
                );
            }
            (Voice::Default, TtsKind::VoiceDesign) => (PlannedVoice::None, None),
            (Voice::Default, TtsKind::CustomVoice) => match config.speakers.first() {
                Some(speaker) => (
                    PlannedVoice::Speaker(speaker.id),
                    speaker.dialect.as_deref(),
                ),
                None => (PlannedVoice::None, None),
            },
            (Voice::Named(name), TtsKind::CustomVoice) => match config.speaker(name) {
                Some(speaker) => (
                    PlannedVoice::Speaker(speaker.id),
                    speaker.dialect.as_deref(),
                ),
                None => {
                    return Err(Error::InvalidOption {
                        option: "voice",
                        message: format!(
                            "`{name}` is none of this model's: {}",
                            self.voices().join(", ")
                        ),
                    });
                }
            },
            (Voice::Cloned(voice), TtsKind::Base) => {
                self.check_voice(voice)?;
                (
                    PlannedVoice::Cloned(Arc::clone(voice), self.model().turn(&voice.text)),
                    None,
                )
            }
        };
        let streams_text = match options.layout {
            TextLayout::Auto => config.kind == TtsKind::Base,
            TextLayout::Whole => false,
            TextLayout::Beside => true,
        };
        Ok(Plan {
            voice,
            instruct: match instruct {
                instruct if !instruct.trim().is_empty() => self.model().instruct_tokens(instruct),
                _ => Vec::new(),
            },
            language: self.language(options.language.as_deref(), dialect)?,
            streams_text,
            sampling: options.sampling(config.generation)?,
        })
    }

    fn no_recordings(&self) -> Error {
        Error::UnsupportedTask {
            model: self.name.clone(),
            task: "speak in the voice of a recording".into(),
            message: format!("Base models can, {}", TtsKind::Base.models()),
        }
    }

    fn check_voice(&self, voice: &ClonedVoice) -> Result<()> {
        match self.misfit(voice) {
            None => Ok(()),
            Some(message) => Err(Error::InvalidOption {
                option: "voice",
                message,
            }),
        }
    }

    /// Why this model cannot speak in the voice of a recording, if it cannot.
    fn misfit(&self, voice: &ClonedVoice) -> Option<String> {
        let config = self.model().config();
        let (given, wanted) = (voice.vector.len(), config.talker.dim);
        if given != wanted {
            return Some(format!(
                "this voice was made with a model of another size ({given} values instead of {wanted}); make it again from \
                 the recording"
            ));
        }
        if voice.codes.is_empty() {
            return None;
        }
        let (given, wanted) = (voice.n_codes, config.n_codes);
        if given != wanted || !voice.codes.len().is_multiple_of(wanted) {
            return Some(format!(
                "this voice was made with another codec ({given} codes in a frame instead of {wanted})"
            ));
        }
        let codebook_size = (config.codebook_size).min(self.codec().config().codebook_size);
        let index = (voice.codes.iter()).position(|code| *code as usize >= codebook_size)?;
        Some(format!(
            "code {} of frame {} of this voice is {}, and the codec has codes below {codebook_size}",
            index % wanted,
            index / wanted,
            voice.codes[index]
        ))
    }

    /// The codec's entry of a language; `dialect` is what the voice speaks where Chinese or nothing is asked for.
    fn language(&self, language: Option<&str>, dialect: Option<&str>) -> Result<Option<u32>> {
        let config = self.model().config();
        let asked = language.unwrap_or("auto");
        let name = spoken_language(asked);
        if let (Some(dialect), "auto" | "chinese") = (dialect, name.as_str()) {
            return Ok(config.language_id(dialect));
        }
        if name == "auto" {
            return Ok(None);
        }
        let known = config.language_names().any(|known| known == name);
        match config.language_id(&name).filter(|_| known) {
            Some(id) => Ok(Some(id)),
            None => Err(Error::InvalidOption {
                option: "language",
                message: format!(
                    "`{asked}` is none of this model's: auto, {}",
                    self.languages().join(", ")
                ),
            }),
        }
    }
}

impl Synthesizer {
    /// Make a voice of a recording: some seconds of one person speaking, and what is said in it. Without the text only the
    /// sound of the voice is taken, not its manner.
    ///
    /// Half a second of silence is put behind the recording, so that speech does not go on with its last sound.
    ///
    /// # Errors
    /// A model that speaks in other voices, a recording that is too short, too long or silent, cancellation, or a failed device.
    pub fn clone_voice(
        &self,
        audio: &Audio,
        text: Option<&str>,
        control: &Control,
    ) -> Result<ClonedVoice> {
        let config = self.model().config();
        if config.kind != TtsKind::Base {
            return Err(self.no_recordings());
        }
        if audio.duration() > LONGEST_REFERENCE {
            return Err(Error::InvalidOption {
                option: "ref_audio",
                message: format!(
                    "{:.0} s are more than a voice is made of: at most {LONGEST_REFERENCE:.0} s, and 3 to 15 s are best",
                    audio.duration()
                ),
            });
        }
        let loudest = audio
            .samples()
            .iter()
            .fold(0.0_f32, |loudest, x| loudest.max(x.abs()));
        if audio.duration() < SHORTEST_REFERENCE || loudest < SILENCE {
            return Err(Error::InvalidOption {
                option: "ref_audio",
                message: format!(
                    "{:.1} s of {} are not enough to know a voice by; some seconds of speech are",
                    audio.duration(),
                    if loudest < SILENCE {
                        "silence"
                    } else {
                        "sound"
                    }
                ),
            });
        }
        // Encoders are seldom used, and only for a moment: nothing of them stays.
        let checkpoint = Qwen3TtsCheckpoint::open(&self.path)?;
        let device = self.model().device();
        let weight_type = match self.weight_type() {
            WeightType::F32 => WeightType::F32,
            _ => codec_type(WeightType::Q8),
        };
        let encoder = SpeakerEncoder::load(
            &checkpoint.weights,
            &checkpoint.sidecars,
            device,
            weight_type,
        )?;
        let sound = audio.clone().resampled(encoder.config().sample_rate)?;
        let vector = encoder.embed(sound.samples(), control)?;
        let text = text.map(str::trim).filter(|text| !text.is_empty());
        let codes = match text {
            None => Vec::new(),
            Some(_) => {
                let codec = checkpoint.codec()?;
                // Codes are choices: what is rounded here may become another one.
                let encoder = CodecEncoder::load(&codec, device, WeightType::F32, control)?;
                let mut sound = audio
                    .clone()
                    .resampled(encoder.sample_rate())?
                    .into_samples();
                sound.resize(sound.len() + encoder.sample_rate() as usize / 2, 0.0);
                encoder.encode(&sound, control)?
            }
        };
        Ok(ClonedVoice {
            vector,
            codes,
            n_codes: config.n_codes,
            text: text.unwrap_or_default().to_owned(),
        })
    }
}

/// Seconds of a recording at least.
const SHORTEST_REFERENCE: f64 = 0.5;

/// Seconds of a recording at most: what the encoders take grows with them, and a voice does not.
const LONGEST_REFERENCE: f64 = 120.0;

/// What is not louder is no voice.
const SILENCE: f32 = 1e-3;
