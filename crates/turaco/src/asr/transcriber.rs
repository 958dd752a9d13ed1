//! The recogniser that users load.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use turaco_compute::{Device, WeightType};

use crate::audio::Audio;
use crate::features::{HOP_LENGTH, LogMel};
use crate::idle::Idle;
use crate::load::device_choice::Devices;
use crate::load::rescue::Rescue;
use crate::models::silero_vad::SileroVad;
use crate::models::whisper::{Whisper, WhisperCheckpoint};
use crate::tokenizer::WhisperTokenizer;
use crate::{Control, Error, LoadOptions, Result, trace};

use super::batched::Batched;
use super::language::{Spoken, language_probabilities, unknown_language};
use super::long_form::{LongForm, pad_rows};
use super::memory_guard::{check_states, check_weights};
use super::token_rules::TokenRules;
use super::vad::{Span, SpeechParameters, clip_spans, find_speech};
use super::vad_time_map::{TimeMap, collect_speech, pack_spans};
use super::window_prompt::PromptTemplate;
use super::workspace::Workspace;
use super::{Info, Segment, Task, Timings, TranscribeOptions};

/// Samples per second of the model's input.
const SAMPLE_RATE: u32 = 16_000;

/// A loaded Whisper model; share it between threads and transcribe as many files at once as you like.
#[derive(Debug)]
pub struct Transcriber {
    name: String,
    model: Arc<Whisper>,
    tokenizer: WhisperTokenizer,
    alignment_heads: Vec<(usize, usize)>,
    alignment_heads_replaced: bool,
    log_mel: LogMel,
    /// Loaded when it is first needed.
    speech_detector: OnceLock<SileroVad>,
    idle: Idle<Workspace>,
    n_transcriptions: AtomicU64,
    threads: usize,
    load_seconds: f64,
    notes: Vec<String>,
    warnings: Vec<String>,
    /// For networks that are too small for another device.
    processor: Device,
    /// The model's file or folder.
    path: PathBuf,
    /// What happens when the model's device fails, if anything can be done.
    rescue: Option<Rescue<Whisper>>,
}

impl Transcriber {
    /// Load a model file or folder; the format is found out from the content.
    ///
    /// # Errors
    /// [`Error::Model`] for files that are broken or of an unsupported kind, [`Error::Memory`] for a model that is
    /// larger than the memory that is left, [`Error::Compute`] for a device that is not there or has no memory.
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
        let checkpoint = WhisperCheckpoint::open(path)?;
        let n_vocab = checkpoint.config.n_vocab;
        let tokenizer = match &checkpoint.vocab {
            Some(source) => source.tokenizer(&checkpoint.path, n_vocab)?,
            None => WhisperTokenizer::bundled(&checkpoint.path, n_vocab)?,
        };
        let weight_type = options
            .compute_type
            .weight_type(&checkpoint.weights, devices.graphics);
        check_weights(&checkpoint, weight_type)?;
        let model = Whisper::load(&checkpoint, &devices.model, weight_type, control)?;
        let threads = options.n_threads();
        Ok(Self {
            name: checkpoint.name.clone(),
            log_mel: LogMel::new(model.config().n_mels),
            model,
            tokenizer,
            alignment_heads: checkpoint.generation.alignment_heads.clone(),
            alignment_heads_replaced: checkpoint.generation.alignment_heads_replaced,
            speech_detector: OnceLock::new(),
            idle: Idle::default(),
            n_transcriptions: AtomicU64::new(0),
            threads,
            load_seconds: started.elapsed().as_secs_f64(),
            notes: checkpoint.notes.clone(),
            warnings: devices.note.iter().cloned().collect(),
            processor: devices.processor.clone(),
            rescue: Rescue::new(devices, options),
            path: path.to_path_buf(),
        })
    }

    /// The model's name, for people.
    pub fn model_name(&self) -> &str {
        &self.name
    }

    /// The network.
    pub fn model(&self) -> &Arc<Whisper> {
        &self.model
    }

    /// Bytes of the keys and values that are kept for sequences at the moment.
    pub fn cache_bytes(&self) -> u64 {
        let instead = self.rescue.as_ref().and_then(Rescue::model);
        self.model.cache_bytes() + instead.map_or(0, |model| model.cache_bytes())
    }

    /// The tokens.
    pub fn tokenizer(&self) -> &WhisperTokenizer {
        &self.tokenizer
    }

    /// The features.
    pub fn log_mel(&self) -> &LogMel {
        &self.log_mel
    }

    /// Whether the model knows other languages than English.
    pub fn is_multilingual(&self) -> bool {
        self.tokenizer.is_multilingual()
    }

    /// Codes of the languages that the model knows.
    pub fn languages(&self) -> Vec<&str> {
        if !self.is_multilingual() {
            return vec!["en"];
        }
        self.tokenizer
            .languages()
            .iter()
            .map(|(code, _)| code.as_str())
            .collect()
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

    /// Seconds that loading took.
    pub fn load_seconds(&self) -> f64 {
        self.load_seconds
    }

    /// What was noticed about the model files while loading.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What users should know about how the model was loaded, such as a device that was passed over.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What happened since the last call that users should know: a graphics processor that failed, whose work the processor
    /// goes on with.
    pub fn take_late_warning(&self) -> Option<String> {
        self.rescue.as_ref()?.take_warning()
    }

    /// Transcribe or translate; segments come out of the returned iterator as soon as they are final.
    ///
    /// Silent, very short and empty audio gives no segments.
    ///
    /// # Errors
    /// Options that contradict each other, that this model cannot honour or for which there is no memory, a failed
    /// device, or cancellation. The iterator ends after the first error.
    pub fn transcribe(
        &self,
        audio: &Audio,
        options: &TranscribeOptions,
        control: &Control,
    ) -> Result<Transcription<'_>> {
        let mut options = options.clone();
        let mut warnings = self.check(&mut options)?;
        let batched = options.batch_size > 1;
        let resampled;
        let audio = if audio.sample_rate() == SAMPLE_RATE {
            audio
        } else {
            resampled = audio.clone().resampled(SAMPLE_RATE)?;
            &resampled
        };
        let duration = audio.duration();
        let mut timings = Timings::default();

        let window_seconds = options
            .chunk_length
            .unwrap_or(self.window_frames() as f64 / 100.0);
        let vad = options.vad_filter.unwrap_or(batched) && options.clip_timestamps.is_empty();
        let spans = if vad {
            let started = Instant::now();
            let _span = trace::span("vad");
            let window_seconds = batched.then_some(window_seconds);
            let spans = self.find_speech(audio.samples(), &options, window_seconds, control)?;
            timings.vad = started.elapsed().as_secs_f64();
            Some(spans)
        } else if batched {
            Some(clip_spans(
                &options.clip_timestamps,
                audio.samples().len(),
                SAMPLE_RATE,
            ))
        } else {
            None
        };
        let chunks = spans
            .as_ref()
            .filter(|_| batched)
            .map(|spans| pack_spans(spans, SAMPLE_RATE, window_seconds));
        let n_windows = chunks
            .as_ref()
            .map_or(1, |chunks| chunks.len().min(options.batch_size));
        let number = self.n_transcriptions.fetch_add(1, Ordering::Relaxed) + 1;
        let mut workspace = match self.take_workspace(number) {
            Err(error) => self.rescue(number, error, control)?,
            taken => taken?,
        };
        let held = workspace.decoder.n_sequences();
        let weight_type = self.model.weight_type();
        check_states(
            &self.name,
            self.model.config(),
            weight_type,
            &options,
            n_windows,
            held,
        )?;

        let speech = spans
            .as_ref()
            .map(|spans| collect_speech(audio.samples(), spans));
        let samples = speech.as_deref().unwrap_or(audio.samples());
        let duration_after_vad = samples.len() as f64 / f64::from(SAMPLE_RATE);

        let started = Instant::now();
        // Thirty seconds of silence behind the file, as the reference: the loudest value and language detection see it.
        let padding = self.window_frames() * HOP_LENGTH;
        // The windows of batched mode have features of their own; only the language is heard in these.
        let heard = if batched {
            &samples[..self.samples_for_language(&options).min(samples.len())]
        } else {
            samples
        };
        let span = trace::span("mel");
        let mel = self
            .log_mel
            .compute_with_threads(heard, padding, self.threads);
        drop(span);
        let content_frames = mel.n_frames.saturating_sub(self.window_frames());
        timings.features = started.elapsed().as_secs_f64();
        control.check()?;

        let started = Instant::now();
        let span = trace::span("language");
        let n_warnings = warnings.len();
        let choose = |workspace: &mut Workspace, warnings: &mut Vec<String>| {
            self.choose_language(&mel, content_frames, &options, workspace, warnings)
        };
        let chosen = match choose(&mut workspace, &mut warnings) {
            Err(error) => {
                workspace = self.rescue(number, error, control)?;
                warnings.truncate(n_warnings);
                choose(&mut workspace, &mut warnings)
            }
            chosen => chosen,
        };
        let (language, language_probability, all_language_probs) = chosen?;
        self.give_back(workspace);
        drop(span);
        timings.language = started.elapsed().as_secs_f64();

        let timestamps = !options.without_timestamps.unwrap_or(batched);
        let config = self.model.config();
        let rules = TokenRules::new(&options, timestamps, &self.tokenizer, config.n_vocab);
        let prompts = PromptTemplate::new(&options, timestamps, &self.tokenizer, config.n_text_ctx);
        let sot_sequence = self.tokenizer.sot_sequence(Some(&language), options.task)?;
        let several_languages = options.multilingual && self.is_multilingual();
        let spoken = Spoken {
            language: language.clone(),
            sot_sequence,
            task: options.task,
            detect_among: several_languages
                .then(|| self.language_tokens(&options.languages))
                .transpose()?,
        };
        let info = Info {
            language,
            language_probability,
            duration,
            duration_after_vad,
            all_language_probs,
            warnings,
        };
        let time_map = spans.as_ref().map(|spans| TimeMap::new(spans, SAMPLE_RATE));
        let engine = match (chunks, time_map.clone()) {
            (Some(chunks), Some(time_map)) => Engine::Batched(Box::new(Batched {
                tokenizer: &self.tokenizer,
                alignment_heads: &self.alignment_heads,
                log_mel: &self.log_mel,
                chunks: chunks.into(),
                options,
                control: control.clone(),
                samples: audio.samples().to_vec(),
                time_map,
                rules,
                prompts,
                spoken,
                duration,
                n_segments: 0,
                started: false,
            })),
            _ => Engine::Sequential(Box::new(LongForm::new(
                &self.tokenizer,
                &self.alignment_heads,
                options,
                control.clone(),
                (mel, content_frames),
                (rules, prompts),
                spoken,
                self.window_frames(),
            ))),
        };
        Ok(Transcription {
            transcriber: self,
            number,
            time_map: if batched { None } else { time_map },
            engine,
            control: control.clone(),
            ready: VecDeque::new(),
            ended: false,
            info,
            timings,
        })
    }

    /// Probabilities of all languages that come into question, best first: the ones that
    /// [`transcribe`](Self::transcribe) would choose from.
    ///
    /// # Errors
    /// As [`transcribe`](Self::transcribe).
    pub fn detect_language(
        &self,
        audio: &Audio,
        options: &TranscribeOptions,
        control: &Control,
    ) -> Result<Vec<(String, f64)>> {
        if !self.is_multilingual() {
            return Ok(vec![("en".into(), 1.0)]);
        }
        let options = TranscribeOptions {
            language: None,
            task: Task::Transcribe,
            ..options.clone()
        };
        // Nothing is decoded before the first segment is asked for.
        let Info {
            language,
            language_probability,
            all_language_probs,
            ..
        } = self.transcribe(audio, &options, control)?.info().clone();
        Ok(all_language_probs.unwrap_or_else(|| vec![(language, language_probability)]))
    }

    /// Mel frames of a full window.
    fn window_frames(&self) -> usize {
        2 * self.model.config().n_audio_ctx
    }

    /// Check options against each other and the model; returns what cannot be honoured but does no harm.
    fn check(&self, options: &mut TranscribeOptions) -> Result<Vec<String>> {
        let invalid = |option: &'static str, message: &str| {
            Err(Error::InvalidOption {
                option,
                message: message.into(),
            })
        };
        let mut warnings = Vec::new();
        for (option, value) in [
            ("beam_size", options.beam_size),
            ("best_of", options.best_of),
            ("batch_size", options.batch_size),
        ] {
            if value == 0 {
                return invalid(option, "expected at least 1");
            }
        }
        if options.temperature.is_empty() {
            return invalid("temperature", "expected at least one number");
        }
        if !options
            .temperature
            .iter()
            .all(|t| t.is_finite() && *t >= 0.0)
        {
            return invalid("temperature", "expected numbers from 0 upwards");
        }
        if !(options.patience.is_finite() && options.patience > 0.0) {
            return invalid("patience", "expected a number above 0");
        }
        if options
            .length_penalty
            .is_some_and(|alpha| !(0.0..=1.0).contains(&alpha))
        {
            return invalid("length_penalty", "expected a number from 0 to 1");
        }
        if !(options.repetition_penalty.is_finite() && options.repetition_penalty > 0.0) {
            return invalid("repetition_penalty", "expected a number above 0");
        }
        if options
            .chunk_length
            .is_some_and(|s| !(s.is_finite() && s >= 1.0))
        {
            return invalid("chunk_length", "expected at least 1 second");
        }
        let clips = &options.clip_timestamps;
        if !clips.iter().all(|t| t.is_finite() && *t >= 0.0)
            || clips.windows(2).any(|w| w[1] < w[0])
        {
            return invalid(
                "clip_timestamps",
                "expected seconds in rising order: start,end,start,end",
            );
        }
        if options.clip_timestamps == [0.0] {
            // The spelling of "the whole file" that users of openai-whisper know.
            options.clip_timestamps.clear();
        }
        if options.max_new_tokens == Some(0) {
            return invalid("max_new_tokens", "expected at least 1");
        }
        let config = self.model.config();
        if let Some(tokens) = &options.initial_prompt_tokens
            && tokens.iter().any(|&token| token as usize >= config.n_vocab)
        {
            return invalid(
                "initial_prompt_tokens",
                "expected ids below the vocabulary's size",
            );
        }
        let is_token = |id: &i64| (-1..config.n_vocab as i64).contains(id);
        if !options.suppress_tokens.iter().all(is_token) {
            return invalid(
                "suppress_tokens",
                "expected ids below the vocabulary's size, or -1",
            );
        }
        if options.task == Task::Translate {
            // large-v3-turbo and the distilled models have few decoder layers under a deep encoder, and were never
            // trained to translate; they write down the original language instead.
            let message = if !self.is_multilingual() {
                Some("it knows English only; use a multilingual one such as `base` or `large-v3`")
            } else if config.n_text_layers <= 4 && config.n_audio_layers > 2 * config.n_text_layers
            {
                Some("it was not trained for it; use a full one such as `medium` or `large-v3`")
            } else {
                None
            };
            if let Some(message) = message {
                return Err(Error::UnsupportedTask {
                    model: self.name.clone(),
                    task: "translate".into(),
                    message: message.into(),
                });
            }
            if options.word_timestamps {
                warnings.push("word timestamps of translations may not be reliable".into());
            }
        }
        if options.hallucination_silence_threshold.is_some() && !options.word_timestamps {
            warnings.push("hallucination_silence_threshold needs word_timestamps: ignored".into());
        }
        if options.word_timestamps && self.alignment_heads.is_empty() {
            warnings.push("this model names no alignment heads: no word timestamps".into());
            options.word_timestamps = false;
        } else if options.word_timestamps && self.alignment_heads_replaced {
            warnings.push(
                "the alignment heads in this model's files do not exist in it: word times use default ones and may be less exact".into(),
            );
        }
        Ok(warnings)
    }

    fn find_speech(
        &self,
        samples: &[f32],
        options: &TranscribeOptions,
        window_seconds: Option<f64>,
        control: &Control,
    ) -> Result<Vec<Span>> {
        let parameters = SpeechParameters::from_options(&options.vad_parameters, window_seconds)?;
        let detector = match self.speech_detector.get() {
            Some(detector) => detector,
            None => {
                let detector = SileroVad::new(&self.processor, SAMPLE_RATE)?;
                self.speech_detector.get_or_init(|| detector)
            }
        };
        find_speech(detector, samples, &parameters, control)
    }

    /// Samples in which [`choose_language`](Self::choose_language) listens; none if nothing is to be detected.
    fn samples_for_language(&self, options: &TranscribeOptions) -> usize {
        if !self.is_multilingual() || given_language(options).is_some() {
            return 0;
        }
        let windows = options.language_detection_segments.max(1);
        windows.saturating_mul(self.window_frames() * HOP_LENGTH)
    }

    /// Given, or detected: the code, its probability, and all probabilities if there are any.
    #[expect(clippy::type_complexity, reason = "three facts about one choice")]
    fn choose_language(
        &self,
        mel: &crate::features::Mel,
        content_frames: usize,
        options: &TranscribeOptions,
        workspace: &mut Workspace,
        warnings: &mut Vec<String>,
    ) -> Result<(String, f64, Option<Vec<(String, f64)>>)> {
        let given = given_language(options);
        if !self.is_multilingual() {
            if let Some(given) = given {
                if crate::tokenizer::language_code(given).is_none() {
                    return Err(unknown_language(given));
                }
                if crate::tokenizer::language_code(given) != Some("en") {
                    warnings.push(format!(
                        "{} knows English only: language `{given}` is ignored",
                        self.name
                    ));
                }
            }
            return Ok(("en".into(), 1.0, None));
        }
        if let Some(given) = given {
            let token = self
                .tokenizer
                .language_token(given)
                .ok_or_else(|| unknown_language(given))?;
            let code = self
                .tokenizer
                .language_of(token)
                .unwrap_or(given)
                .to_owned();
            return Ok((code, 1.0, None));
        }
        let among = self.language_tokens(&options.languages)?;
        if content_frames == 0 {
            return Ok(("en".into(), 0.0, None));
        }
        // One window decides if it is sure; else the most frequent winner of several.
        let mut votes: Vec<Vec<(String, f64)>> = Vec::new();
        for i in 0..options.language_detection_segments.max(1) {
            let start = i * self.window_frames();
            if start >= content_frames {
                break;
            }
            let found = self.probabilities_at(mel, start, &among, workspace)?;
            let sure = found
                .first()
                .is_some_and(|(_, p)| *p >= options.language_detection_threshold);
            votes.push(found);
            if sure {
                break;
            }
        }
        let last_is_sure = votes
            .last()
            .and_then(|vote| vote.first())
            .is_some_and(|(_, p)| *p >= options.language_detection_threshold);
        let chosen = if last_is_sure {
            votes.len() - 1
        } else {
            let winner = |vote: &Vec<(String, f64)>| vote.first().map(|(code, _)| code.clone());
            let count = |i: usize| {
                votes
                    .iter()
                    .filter(|v| winner(v) == winner(&votes[i]))
                    .count()
            };
            (0..votes.len())
                .rev()
                .max_by_key(|&i| count(i))
                .unwrap_or(0)
        };
        let probabilities = votes.swap_remove(chosen);
        let (code, probability) = probabilities
            .first()
            .cloned()
            .unwrap_or_else(|| ("en".into(), 0.0));
        Ok((code, probability, Some(probabilities)))
    }

    fn probabilities_at(
        &self,
        mel: &crate::features::Mel,
        start: usize,
        among: &[u32],
        workspace: &mut Workspace,
    ) -> Result<Vec<(String, f64)>> {
        let n = self.window_frames();
        let kept = n.min(mel.n_frames.saturating_sub(start));
        let features = pad_rows(mel.window(start, kept, 0.0), kept, n);
        workspace.encode(features)?;
        let (session, _, window) = workspace.parts();
        language_probabilities(session, &self.tokenizer, window, among)
    }

    fn language_tokens(&self, languages: &[String]) -> Result<Vec<u32>> {
        languages
            .iter()
            .map(|name| {
                self.tokenizer
                    .language_token(name)
                    .ok_or_else(|| unknown_language(name))
            })
            .collect()
    }

    /// Somewhere for the transcription of this number to work: transcriptions that take turns need no more than one.
    fn take_workspace(&self, number: u64) -> Result<Workspace> {
        if let Some(workspace) = self.idle.take() {
            return Ok(workspace.of(number));
        }
        let model = Rescue::active(self.rescue.as_ref(), &self.model);
        self.new_workspace(&model, number)
    }

    fn new_workspace(&self, model: &Arc<Whisper>, number: u64) -> Result<Workspace> {
        Ok(Workspace::new(model, self.tokenizer.timestamp_begin())?.of(number))
    }

    /// Somewhere to go on after `error`; the error itself if there is nowhere.
    fn rescue(&self, number: u64, error: Error, control: &Control) -> Result<Workspace> {
        let rescue = self.rescue.as_ref();
        let model = Rescue::go_on(rescue, error, control, |devices, options, control| {
            let checkpoint = WhisperCheckpoint::open(&self.path)?;
            let weight_type = options
                .compute_type
                .weight_type(&checkpoint.weights, devices.graphics);
            Whisper::load(&checkpoint, &devices.model, weight_type, control)
        })?;
        // What is left of the failed device is of no use.
        self.idle
            .retain(|workspace| Arc::ptr_eq(workspace.session.model(), &model));
        self.new_workspace(&model, number)
    }

    fn give_back(&self, workspace: Workspace) {
        let rescued = self.rescue.as_ref().and_then(Rescue::model);
        if rescued.is_some_and(|model| !Arc::ptr_eq(workspace.session.model(), &model)) {
            return;
        }
        self.idle.give_back(workspace);
    }

    /// Give back the memory of those who worked at the same time, once it was of no use for a while.
    pub(crate) fn release_unused(&self) {
        self.idle.release_unused();
    }
}

/// Segments of a file, in order, as they become final.
#[derive(Debug)]
pub struct Transcription<'a> {
    transcriber: &'a Transcriber,
    /// Which transcription of the transcriber it is.
    number: u64,
    time_map: Option<TimeMap>,
    engine: Engine<'a>,
    control: Control,
    ready: VecDeque<Segment>,
    ended: bool,
    info: Info,
    timings: Timings,
}

#[derive(Debug)]
enum Engine<'a> {
    Sequential(Box<LongForm<'a>>),
    Batched(Box<Batched<'a>>),
}

impl Transcription<'_> {
    /// Facts that are known from the start.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Where the time went so far.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// Decode one more window (or batch) into `ready`; false at the end.
    fn advance(&mut self) -> Result<bool> {
        let mut workspace = match self.transcriber.take_workspace(self.number) {
            Err(error) => self.transcriber.rescue(self.number, error, &self.control)?,
            taken => taken?,
        };
        let segments = self.next_segments(&mut workspace);
        self.transcriber.give_back(workspace);
        let Some(segments) = segments? else {
            return Ok(false);
        };
        for mut segment in segments {
            if let Some(time_map) = &self.time_map {
                time_map.restore(&mut segment);
            }
            self.ready.push_back(segment);
        }
        let (done, total) = match &self.engine {
            Engine::Sequential(long_form) => long_form.progress(),
            Engine::Batched(batched) => batched.progress(),
        };
        // With silence left out, progress counts speech; the listener knows only the file.
        let share = if total > 0.0 { done / total } else { 1.0 };
        self.control
            .report(share * self.info.duration, Some(self.info.duration));
        Ok(true)
    }

    fn next_segments(&mut self, workspace: &mut Workspace) -> Result<Option<Vec<Segment>>> {
        let before = self.timings;
        let mut next = |workspace: &mut Workspace, timings: &mut Timings| match &mut self.engine {
            Engine::Sequential(long_form) => long_form.next_window(workspace, timings),
            Engine::Batched(batched) => batched.next_batch(workspace, timings),
        };
        match next(workspace, &mut self.timings) {
            Err(error) if !is_on_processor(self.transcriber, workspace) => {
                *workspace = self.transcriber.rescue(self.number, error, &self.control)?;
                self.timings = before;
                next(workspace, &mut self.timings)
            }
            segments => segments,
        }
    }
}

impl Iterator for Transcription<'_> {
    type Item = Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(mut segment) = self.ready.pop_front() {
                segment.keep_within(self.info.duration);
                return Some(Ok(segment));
            }
            if self.ended {
                return None;
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Whether a transcription was brought to the processor already.
fn is_on_processor(transcriber: &Transcriber, workspace: &Workspace) -> bool {
    !Arc::ptr_eq(workspace.session.model(), &transcriber.model)
}

/// The language, if it is not to be detected.
fn given_language(options: &TranscribeOptions) -> Option<&str> {
    let name = options.language.as_deref()?;
    (!name.eq_ignore_ascii_case("auto")).then_some(name)
}
