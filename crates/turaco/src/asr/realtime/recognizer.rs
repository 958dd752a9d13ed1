//! The loaded model that sessions share.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use turaco_compute::WeightType;

use crate::features::LogMelStreamer;
use crate::idle::Idle;
use crate::load::device_choice::Devices;
use crate::load::memory::check_weights;
use crate::load::rescue::Rescue;
use crate::models::voxtral_realtime::{
    DecoderState, Runner, VoxtralRealtime, VoxtralRealtimeCheckpoint, VoxtralRealtimeConfig,
};
use crate::tokenizer::Tekken;
use crate::weights::invalid;
use crate::{Control, Error, LoadOptions, Result};

use super::options::{Plan, RealtimeOptions};
use super::prefix::{MAX_ROWS, SilentPrompt, SilentStart};
use super::schedule::Worker;
use super::session::RealtimeSession;

/// A loaded Voxtral Realtime model; any number of sessions share its weights.
#[derive(Debug)]
pub struct RealtimeRecognizer {
    name: String,
    model: Arc<VoxtralRealtime>,
    tokenizer: Tekken,
    control: ControlTokens,
    log_mel: LogMelStreamer,
    prefixes: Mutex<Prefixes>,
    /// Compiled steps that no session uses at the moment.
    idle: Idle<Worker>,
    path: PathBuf,
    rescue: Option<Rescue<Self>>,
    load_seconds: f64,
    threads: usize,
    warnings: Vec<String>,
}

/// Tokens that stand for no text.
#[derive(Debug, Clone, Copy)]
pub(super) struct ControlTokens {
    pub start: u32,
    pub end: u32,
    pub pad: u32,
    /// Comes before words.
    pub word: u32,
}

#[derive(Debug, Default)]
struct Prefixes {
    start: Option<Arc<SilentStart>>,
    /// By the delay.
    prompts: Vec<(usize, Arc<SilentPrompt>)>,
}

impl ControlTokens {
    fn new(tokenizer: &Tekken, path: &Path) -> Result<Self> {
        let find = |name: &str, usual: u32| {
            let id = tokenizer.special(name).unwrap_or(usual);
            if (id as usize) < tokenizer.n_special() {
                return Ok(id);
            }
            Err(invalid(
                path,
                format!("the vocabulary has no token `{name}`"),
            ))
        };
        Ok(Self {
            start: find("<s>", 1)?,
            end: find("</s>", 2)?,
            pad: find("[STREAMING_PAD]", 32)?,
            word: find("[STREAMING_WORD]", 33)?,
        })
    }
}

impl RealtimeRecognizer {
    /// Load a model folder in either layout.
    ///
    /// # Errors
    /// [`crate::Error::Model`] for files that are broken or of another model, [`crate::Error::Memory`] for a model that is larger than
    /// the memory that is left, [`crate::Error::Compute`] for a device that is not there or has no memory.
    pub fn load_path(path: &Path, options: &LoadOptions, control: &Control) -> Result<Arc<Self>> {
        let checkpoint = VoxtralRealtimeCheckpoint::open(path)?;
        Self::load(&checkpoint, options, control)
    }

    /// Load an opened checkpoint.
    ///
    /// # Errors
    /// As [`load_path`](Self::load_path).
    pub fn load(
        checkpoint: &VoxtralRealtimeCheckpoint,
        options: &LoadOptions,
        control: &Control,
    ) -> Result<Arc<Self>> {
        options.load(|devices| Self::load_on(devices, checkpoint, options, control))
    }

    fn load_on(
        devices: &Devices,
        checkpoint: &VoxtralRealtimeCheckpoint,
        options: &LoadOptions,
        control: &Control,
    ) -> Result<Arc<Self>> {
        let started = Instant::now();
        let weight_type = options
            .compute_type
            .weight_type(&checkpoint.weights, devices.graphics);
        check_weights(&checkpoint.name, &checkpoint.weights, weight_type)?;
        let model = VoxtralRealtime::load(checkpoint, &devices.model, weight_type, control)?;
        let tokenizer = checkpoint.tokenizer.clone();
        Ok(Arc::new(Self {
            name: checkpoint.name.clone(),
            control: ControlTokens::new(&tokenizer, &checkpoint.path)?,
            log_mel: LogMelStreamer::new(model.config().log_mel()),
            model,
            tokenizer,
            prefixes: Mutex::default(),
            idle: Idle::default(),
            path: checkpoint.path.clone(),
            rescue: Rescue::new(devices, options),
            load_seconds: started.elapsed().as_secs_f64(),
            threads: options.n_threads(),
            warnings: devices.note.iter().cloned().collect(),
        }))
    }

    /// A new stream of sound.
    ///
    /// # Errors
    /// Options that the model does not have, no memory, or a failed device.
    pub fn session(self: &Arc<Self>, options: &RealtimeOptions) -> Result<RealtimeSession> {
        let plan = Plan::new(options, self.config())?;
        RealtimeSession::new(Arc::clone(self), plan)
    }

    /// A stream of sound that is all there: as much of it is encoded at a time as keeps the device busy.
    ///
    /// # Errors
    /// As [`session`](Self::session).
    pub(super) fn session_of_recording(
        self: &Arc<Self>,
        options: &RealtimeOptions,
    ) -> Result<RealtimeSession> {
        let mut plan = Plan::new(options, self.config())?;
        let tokens = self.model.device().rows_that_fill() / self.config().downsample;
        let most = plan.most_tokens.max(tokens);
        // Whole chunks, so that no rest is left that needs a step of its own.
        plan.most_tokens = most - most % plan.chunk_tokens;
        let mut session = RealtimeSession::new(Arc::clone(self), plan)?;
        session.hurry(true);
        Ok(session)
    }

    /// Whether the model has these options.
    ///
    /// # Errors
    /// Those that [`session`](Self::session) would have.
    pub fn check_options(&self, options: &RealtimeOptions) -> Result<()> {
        Plan::new(options, self.config()).map(|_| ())
    }

    /// The model's name, for people.
    pub fn model_name(&self) -> &str {
        &self.name
    }

    /// The network.
    pub fn model(&self) -> &Arc<VoxtralRealtime> {
        &self.model
    }

    /// Sizes of the network.
    pub fn config(&self) -> &VoxtralRealtimeConfig {
        self.model.config()
    }

    /// The vocabulary.
    pub fn tokenizer(&self) -> &Tekken {
        &self.tokenizer
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

    /// What users should know about how the model was loaded.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What happened since the last call that users should know: a graphics processor that failed in the middle of a recording, with
    /// which the processor goes on.
    pub fn take_late_warning(&self) -> Option<String> {
        self.rescue.as_ref()?.take_warning()
    }

    /// The model, or where recordings go on when its device failed.
    pub(super) fn active(self: &Arc<Self>) -> Arc<Self> {
        Rescue::active(self.rescue.as_ref(), self)
    }

    /// Where to go on after `error`; the error itself if there is nowhere.
    pub(super) fn rescue(&self, error: Error, control: &Control) -> Result<Arc<Self>> {
        let rescue = self.rescue.as_ref();
        Rescue::go_on(rescue, error, control, |devices, options, control| {
            let checkpoint = VoxtralRealtimeCheckpoint::open(&self.path)?;
            Self::load_on(devices, &checkpoint, options, control)
        })
    }

    pub(super) fn control(&self) -> ControlTokens {
        self.control
    }

    pub(super) fn log_mel(&self) -> &LogMelStreamer {
        &self.log_mel
    }

    pub(super) fn prompt_len(&self, delay: usize) -> usize {
        self.config().prompt_len(delay)
    }

    /// Compiled steps, new ones if all are in use.
    pub(super) fn take_worker(&self) -> Worker {
        let idle = self.idle.take();
        idle.unwrap_or_else(|| Worker::new(&self.model))
    }

    pub(super) fn give_back(&self, worker: Worker) {
        self.idle.give_back(worker);
    }

    /// Bytes of the keys and values that are kept for sequences at the moment.
    pub fn cache_bytes(&self) -> u64 {
        let instead = self.rescue.as_ref().and_then(Rescue::model);
        self.model.cache_bytes() + instead.map_or(0, |recognizer| recognizer.cache_bytes())
    }

    /// As [`Recognizer::release_unused`](crate::asr::Recognizer::release_unused).
    pub(crate) fn release_unused(&self) {
        self.idle.release_unused();
        if let Some(instead) = self.rescue.as_ref().and_then(Rescue::model) {
            instead.release_unused();
        }
    }

    /// The silence in front of a stream, computed when it is first needed.
    pub(super) fn silent_start(&self, runner: &mut Runner) -> Result<Arc<SilentStart>> {
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(start) = &prefixes.start {
            return Ok(Arc::clone(start));
        }
        let start = Arc::new(SilentStart::new(self, runner)?);
        prefixes.start = Some(Arc::clone(&start));
        Ok(start)
    }

    /// A decoder that has heard this silence.
    pub(super) fn silent_decoder(
        &self,
        runner: &mut Runner,
        delay: usize,
        vectors: &[f32],
    ) -> Result<DecoderState> {
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = prefixes.prompts.iter().find(|(d, _)| *d == delay);
        let prompt = match known {
            Some((_, prompt)) => Arc::clone(prompt),
            None => {
                let prompt = Arc::new(SilentPrompt::new(self, runner, delay, vectors)?);
                prefixes.prompts.push((delay, Arc::clone(&prompt)));
                prompt
            }
        };
        drop(prefixes);
        let mut decoder = runner.new_decoder_state(delay, MAX_ROWS)?;
        runner.copy_decoder_state(&prompt.decoder, &mut decoder)?;
        Ok(decoder)
    }
}
