//! The loaded model that streams of speech share.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use turaco_compute::WeightType;

use crate::asr::LoadOptions;
use crate::asr::device_choice::Devices;
use crate::asr::memory_guard::check_model;
use crate::audio::Audio;
use crate::models::qwen3_tts::codec::{
    CodecCheckpoint, CodecDecoder, CodecEncoder, CodecRunner, CodecStream,
};
use crate::models::qwen3_tts::speaker_encoder::SpeakerEncoder;
use crate::models::qwen3_tts::{
    PromptRequest, Qwen3Tts, Qwen3TtsCheckpoint, Reference, Runner, Sampling, TtsKind, Turn,
    VoicePrompt,
};
use crate::tokenizer::language_name;
use crate::weights::DType;
use crate::{Control, Error, Result};

use super::guard::frame_budget;
use super::options::{SpeakOptions, TextLayout};
use super::sentences::SentenceSplitter;
use super::speech::{Speech, SpeechStream, SpeechTimings};
use super::utterance::{Engine, Limits, Utterance};
use super::voice::{ClonedVoice, Voice};

/// A loaded Qwen3-TTS model; any number of streams share its weights.
#[derive(Debug)]
pub struct Synthesizer {
    name: String,
    /// The checkpoint, for encoders that are loaded when they are needed.
    path: PathBuf,
    model: Arc<Qwen3Tts>,
    codec: Arc<CodecDecoder>,
    /// Compiled steps that no stream uses at the moment.
    idle: Mutex<Vec<Engine>>,
    /// Recordings whose sound the codec has gone through, the latest last.
    heard: Mutex<Vec<(Weak<ClonedVoice>, CodecStream)>>,
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
        let codec = CodecCheckpoint::open(&checkpoint.codec_path())?;
        let weights = &checkpoint.weights;
        let weight_type = options.compute_type.weight_type(weights, devices.graphics);
        let packed = DType::Panels(weight_type);
        if !weights.iter().any(|(_, tensor)| tensor.dtype == packed) {
            let values = weights.iter().map(|(_, tensor)| tensor.len()).sum();
            check_model(&checkpoint.name, values, weight_type)?;
        }
        let model = Qwen3Tts::load(&checkpoint, &devices.model, weight_type, control)?;
        let codec_type = codec_type(weight_type);
        let quiet = control.without_progress();
        let codec = CodecDecoder::load(&codec, &devices.model, codec_type, &quiet)?;
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
            name: checkpoint.name.clone(),
            path: checkpoint.path.clone(),
            model,
            codec,
            idle: Mutex::default(),
            heard: Mutex::default(),
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
        &self.model
    }

    /// The way from codes to sound.
    pub fn codec(&self) -> &Arc<CodecDecoder> {
        &self.codec
    }

    /// What the model was trained for.
    pub fn kind(&self) -> TtsKind {
        self.model.config().kind
    }

    /// Samples per second of what comes out.
    pub fn sample_rate(&self) -> u32 {
        self.codec.sample_rate()
    }

    /// Voices that the model knows by name.
    pub fn voices(&self) -> Vec<&str> {
        let speakers = self.model.config().speakers.iter();
        speakers.map(|speaker| speaker.name.as_str()).collect()
    }

    /// Languages that may be asked for.
    pub fn languages(&self) -> Vec<&str> {
        self.model.config().language_names().collect()
    }

    /// Where the model runs.
    pub fn device_description(&self) -> String {
        self.model.device().description()
    }

    /// How the weights are kept.
    pub fn weight_type(&self) -> WeightType {
        self.model.weight_type()
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

    /// What is not quite as it was asked for.
    pub fn notices(&self, options: &SpeakOptions) -> Vec<String> {
        let config = self.model.config();
        let ignored = config.kind == TtsKind::CustomVoice
            && !config.takes_instructions()
            && options
                .instruct
                .as_ref()
                .is_some_and(|instruct| !instruct.is_empty());
        let notice = || {
            format!(
                "`{}` was not trained for instructions, which are ignored",
                self.name
            )
        };
        ignored.then(notice).into_iter().collect()
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
            for piece in SentenceSplitter::split(text) {
                stream.push_piece(&piece);
            }
        } else if !text.trim().is_empty() {
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

    /// Compiled steps that nobody uses, or new ones.
    pub(super) fn engine(&self) -> Engine {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop().unwrap_or_else(|| Engine {
            talker: Runner::new(&self.model),
            codec: CodecRunner::new(&self.codec),
        })
    }

    pub(super) fn give_back(&self, engine: Engine) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(engine);
    }

    /// Begin piece number `piece` of a text.
    pub(super) fn begin(
        &self,
        engine: &mut Engine,
        (text, piece): (&str, usize),
        (plan, options): (&Plan, &SpeakOptions),
        anchor: Option<&Anchor>,
        timings: &mut SpeechTimings,
    ) -> Result<Utterance> {
        let config = self.model.config();
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
        let stream = self.stream_behind(engine, plan, anchor)?;
        timings.decode += started.elapsed().as_secs_f64();
        let request = PromptRequest {
            turn: &self.model.turn(text.trim_start()),
            instruct: &plan.instruct,
            language: plan.language,
            voice,
            streams_text: plan.streams_text,
        };
        let budget =
            frame_budget(text).min(config.generation.max_new_tokens.saturating_sub(1).max(1));
        let limits = Limits {
            budget,
            max_frames: options.max_frames,
            exact_frames: options.exact_frames,
        };
        let sampling = Sampling {
            seed: plan.sampling.seed.wrapping_add((piece as u64) << 32),
            ..plan.sampling
        };
        Utterance::new(engine, &request, stream, (sampling, limits), timings)
    }

    /// Where the sound of an utterance goes on: behind the recording in its prompt, if there is one.
    fn stream_behind(
        &self,
        engine: &mut Engine,
        plan: &Plan,
        anchor: Option<&Anchor>,
    ) -> Result<CodecStream> {
        let heard = |engine: &mut Engine, codes: &[u32]| {
            let mut stream = engine.codec.new_stream()?;
            engine.codec.decode(&mut stream, codes, &mut Vec::new())?;
            Ok::<_, Error>(stream)
        };
        let voice = match (&plan.voice, anchor) {
            (PlannedVoice::Cloned(voice, _), _) => voice,
            (PlannedVoice::None, Some(anchor)) => return heard(engine, &anchor.codes),
            _ => return engine.codec.new_stream(),
        };
        let lock = || self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock()
            .iter()
            .find(|(known, _)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(voice)))
            .map(|(_, stream)| engine.codec.copy_stream(stream));
        if let Some(stream) = known {
            return stream;
        }
        let stream = heard(engine, &voice.codes)?;
        let copy = engine.codec.copy_stream(&stream)?;
        let mut kept = lock();
        // What nobody uses any more can not be asked for again.
        kept.retain(|(known, _)| known.strong_count() > 0);
        if kept.len() >= KEPT_RECORDINGS {
            kept.remove(0);
        }
        kept.push((Arc::downgrade(voice), copy));
        Ok(stream)
    }

    /// What options come to, or why they do not go with this model.
    fn plan(&self, options: &SpeakOptions) -> Result<Plan> {
        let config = self.model.config();
        let instruct = options.instruct.as_deref().unwrap_or_default();
        let cannot = |task: &str, message: &str| {
            Err(Error::UnsupportedTask {
                model: self.name.clone(),
                task: task.into(),
                message: message.into(),
            })
        };
        if config.kind == TtsKind::Base && !instruct.is_empty() {
            return cannot(
                "follow an instruction",
                "a Base model speaks in the voice of a recording as it is; instructions are for \
                 Qwen3-TTS-12Hz-1.7B-CustomVoice and Qwen3-TTS-12Hz-1.7B-VoiceDesign",
            );
        }
        let (voice, dialect) = match (&options.voice, config.kind) {
            (Voice::Named(_), TtsKind::Base) => {
                return cannot(
                    "speak in a voice by name",
                    "it speaks in the voice of a recording; named voices are in Qwen3-TTS-12Hz-0.6B-CustomVoice and \
                     Qwen3-TTS-12Hz-1.7B-CustomVoice",
                );
            }
            (Voice::Named(_), TtsKind::VoiceDesign) => {
                return cannot(
                    "speak in a voice by name",
                    "its voices are described by an instruction; named voices are in Qwen3-TTS-12Hz-1.7B-CustomVoice",
                );
            }
            (Voice::Cloned(_), TtsKind::CustomVoice | TtsKind::VoiceDesign) => {
                return cannot(
                    "speak in the voice of a recording",
                    "Qwen3-TTS-12Hz-0.6B-Base and Qwen3-TTS-12Hz-1.7B-Base can",
                );
            }
            (Voice::Default, TtsKind::Base) => {
                return cannot(
                    "speak without a voice",
                    "it needs a recording of the voice (and what is said in it), or a saved voice",
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
                    PlannedVoice::Cloned(Arc::clone(voice), self.model.turn(&voice.text)),
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
                instruct if !instruct.is_empty() && config.takes_instructions() => {
                    self.model.instruct_tokens(instruct)
                }
                _ => Vec::new(),
            },
            language: self.language(options.language.as_deref(), dialect)?,
            streams_text,
            sampling: options.sampling(config.generation)?,
        })
    }

    fn check_voice(&self, voice: &ClonedVoice) -> Result<()> {
        let config = self.model.config();
        let fits = voice.vector.len() == config.talker.dim
            && (voice.codes.is_empty() || voice.n_codes == config.n_codes);
        if fits {
            return Ok(());
        }
        Err(Error::InvalidOption {
            option: "voice",
            message: format!(
                "this voice was made with a model of another size ({} values instead of {}); make it again from the recording",
                voice.vector.len(),
                config.talker.dim
            ),
        })
    }

    /// The codec's entry of a language; `dialect` is what the voice speaks where Chinese or nothing is asked for.
    fn language(&self, language: Option<&str>, dialect: Option<&str>) -> Result<Option<u32>> {
        let config = self.model.config();
        let asked = language.unwrap_or("auto").to_lowercase();
        let name = language_name(&asked).map_or(asked.clone(), str::to_lowercase);
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

/// How the codec is stored when the talker is `weight_type`: it multiplies many rows, where bytes are of no use, and sound
/// shows every error.
fn codec_type(weight_type: WeightType) -> WeightType {
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

impl Synthesizer {
    /// Make a voice of a recording: some seconds of one person speaking, and what is said in it. Without the text only the
    /// sound of the voice is taken, not its manner.
    ///
    /// Half a second of silence is put behind the recording, so that speech does not go on with its last sound.
    ///
    /// # Errors
    /// A model that speaks in other voices, a recording that is too short or silent, cancellation, or a failed device.
    pub fn clone_voice(
        &self,
        audio: &Audio,
        text: Option<&str>,
        control: &Control,
    ) -> Result<ClonedVoice> {
        let config = self.model.config();
        if config.kind != TtsKind::Base {
            return Err(Error::UnsupportedTask {
                model: self.name.clone(),
                task: "speak in the voice of a recording".into(),
                message: "Qwen3-TTS-12Hz-0.6B-Base and Qwen3-TTS-12Hz-1.7B-Base can".into(),
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
        let device = self.model.device();
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
                let codec = CodecCheckpoint::open(&checkpoint.codec_path())?;
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

/// Recordings in use whose sound is kept.
const KEPT_RECORDINGS: usize = 8;

/// Seconds of a recording at least.
const SHORTEST_REFERENCE: f64 = 0.5;

/// What is not louder is no voice.
const SILENCE: f32 = 1e-3;
