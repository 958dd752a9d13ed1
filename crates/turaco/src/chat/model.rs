//! The loaded model that conversations share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use turaco_compute::WeightType;

use super::memories::{KeptSession, Memories};
use super::message::Message;
use super::options::ChatOptions;
use super::prompt::{PromptLayout, PromptOptions};
use super::session::{ChatSession, Memory};
use super::shared_steps::SharedSteps;
use crate::features::LogMel;
use crate::idle::Idle;
use crate::load::device_choice::Devices;
use crate::load::memory::check_weights;
use crate::load::rescue::Rescue;
use crate::models::display_name;
use crate::models::voxtral_mini::{Runner, VoxtralMini, VoxtralMiniCheckpoint, VoxtralMiniConfig};
use crate::tokenizer::Tekken;
use crate::{Control, Error, LoadOptions, Result, weights};

/// A loaded Voxtral Mini or Small; any number of conversations share its weights.
#[derive(Debug)]
pub struct ChatModel {
    name: String,
    model: Arc<VoxtralMini>,
    tokenizer: Tekken,
    layout: PromptLayout,
    log_mel: LogMel,
    steps: SharedSteps,
    /// Compiled steps that no conversation uses at the moment.
    idle: Idle<Runner>,
    /// What conversations that are over knew.
    memories: Memories,
    /// Where the model's files are.
    path: PathBuf,
    rescue: Option<Rescue<Self>>,
    load_seconds: f64,
    threads: usize,
    warnings: Vec<String>,
}

impl ChatModel {
    /// Load a model folder in either layout.
    ///
    /// # Errors
    /// [`crate::Error::Model`] for files that are broken or of another model, [`crate::Error::Memory`] for a model that is
    /// larger than the memory that is left, [`crate::Error::Compute`] for a device that is not there or has no memory,
    /// [`crate::Error::UnsupportedTask`] for models that do something else.
    pub fn load_path(path: &Path, options: &LoadOptions, control: &Control) -> Result<Arc<Self>> {
        let checkpoint = weights::open(path)?;
        let settings = ["config.json", "params.json"].map(|name| checkpoint.sidecars.get(name));
        let has_settings = settings.iter().any(|file| matches!(file, Ok(Some(_))));
        if has_settings && !VoxtralMiniCheckpoint::is_one(&checkpoint)? {
            return Err(Error::UnsupportedTask {
                model: display_name(path),
                task: "converse".into(),
                message: "it is made to write down or to say something; voxtral-mini and voxtral-small converse".into(),
            });
        }
        let checkpoint = VoxtralMiniCheckpoint::from_checkpoint(checkpoint)?;
        Self::load(&checkpoint, options, control)
    }

    /// Load an opened checkpoint.
    ///
    /// # Errors
    /// As [`load_path`](Self::load_path).
    pub fn load(
        checkpoint: &VoxtralMiniCheckpoint,
        options: &LoadOptions,
        control: &Control,
    ) -> Result<Arc<Self>> {
        options.load(|devices| Self::load_on(devices, checkpoint, options, control))
    }

    fn load_on(
        devices: &Devices,
        checkpoint: &VoxtralMiniCheckpoint,
        options: &LoadOptions,
        control: &Control,
    ) -> Result<Arc<Self>> {
        let started = Instant::now();
        let vocabulary = checkpoint.sidecars.path("tekken.json");
        let layout = PromptLayout::new(&vocabulary, &checkpoint.tokenizer)?;
        let weight_type = options
            .compute_type
            .weight_type(&checkpoint.weights, devices.graphics);
        check_weights(&checkpoint.name, &checkpoint.weights, weight_type)?;
        let model = VoxtralMini::load(checkpoint, &devices.model, weight_type, control)?;
        Ok(Arc::new(Self {
            name: checkpoint.name.clone(),
            tokenizer: checkpoint.tokenizer.clone(),
            layout,
            log_mel: LogMel::new(model.config().encoder.n_mels),
            steps: SharedSteps::new(&model),
            model,
            idle: Idle::default(),
            memories: Memories::default(),
            path: checkpoint.path.clone(),
            rescue: Rescue::new(devices, options),
            load_seconds: started.elapsed().as_secs_f64(),
            threads: options.n_threads(),
            warnings: devices.note.iter().cloned().collect(),
        }))
    }

    /// A conversation that nothing was said in. What it has heard and read is kept in it: messages that begin as those
    /// before are not computed again.
    pub fn session(self: &Arc<Self>) -> ChatSession {
        ChatSession::new(self)
    }

    /// A conversation that knows what one that is over knew, if that began like `messages`. What it knows is kept when it is
    /// dropped, for the next one.
    ///
    /// # Errors
    /// As [`ChatSession::generate`].
    pub fn session_for(
        self: &Arc<Self>,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<KeptSession> {
        let mut session = ChatSession::new(self);
        let model = Arc::clone(session.model());
        let layout = PromptOptions {
            tools: &options.tools,
            system_as_text: options.system_as_text,
        };
        let prompt = model.layout.chat(&model.tokenizer, messages, layout)?;
        if let Some(memory) = model.memories.take(&prompt) {
            session.recall(memory);
        }
        Ok(KeptSession::new(session))
    }

    /// The model, or where its work went on when its device failed.
    pub(super) fn active(self: &Arc<Self>) -> Arc<Self> {
        Rescue::active(self.rescue.as_ref(), self)
    }

    /// Where to go on after `error`; the error itself if there is nowhere.
    pub(super) fn rescue(&self, error: Error, control: &Control) -> Result<Arc<Self>> {
        let rescue = self.rescue.as_ref();
        let model = Rescue::go_on(rescue, error, control, |devices, options, control| {
            let checkpoint = VoxtralMiniCheckpoint::open(&self.path)?;
            Self::load_on(devices, &checkpoint, options, control)
        })?;
        // What is left of the failed device is of no use.
        self.memories.forget();
        self.idle.retain(|_| false);
        Ok(model)
    }

    /// What happened since the last call that users should know: a graphics processor that failed, whose work the processor
    /// goes on with.
    pub fn take_late_warning(&self) -> Option<String> {
        self.rescue.as_ref()?.take_warning()
    }

    /// Keep what a conversation knew.
    pub(super) fn keep(&self, memory: Memory) {
        let is_failed = self.rescue.as_ref().and_then(Rescue::model).is_some();
        if !is_failed && memory.len() > 0 {
            let runner = self.take_runner();
            let bytes = |memory: &Memory| runner.state_bytes(memory.capacity());
            self.memories.keep(memory, &bytes);
            self.give_back(runner);
        }
    }

    /// The model's name, for people.
    pub fn model_name(&self) -> &str {
        &self.name
    }

    /// The network.
    pub fn model(&self) -> &Arc<VoxtralMini> {
        &self.model
    }

    /// Sizes of the network.
    pub fn config(&self) -> &VoxtralMiniConfig {
        self.model.config()
    }

    /// The vocabulary.
    pub fn tokenizer(&self) -> &Tekken {
        &self.tokenizer
    }

    /// How prompts are laid out.
    pub fn layout(&self) -> &PromptLayout {
        &self.layout
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

    pub(super) fn log_mel(&self) -> &LogMel {
        &self.log_mel
    }

    pub(super) fn steps(&self) -> &SharedSteps {
        &self.steps
    }

    /// Compiled steps, new ones if all are in use.
    pub(super) fn take_runner(&self) -> Runner {
        let idle = self.idle.take();
        idle.unwrap_or_else(|| Runner::new(&self.model))
    }

    pub(super) fn give_back(&self, runner: Runner) {
        self.idle.give_back(runner);
    }

    /// Bytes of the keys and values that are kept for sequences at the moment.
    pub fn cache_bytes(&self) -> u64 {
        let instead = self.rescue.as_ref().and_then(Rescue::model);
        self.model.cache_bytes() + instead.map_or(0, |model| model.cache_bytes())
    }

    /// As [`Recognizer::release_unused`](crate::asr::Recognizer::release_unused).
    pub(crate) fn release_unused(&self) {
        self.idle.release_unused();
        if let Some(instead) = self.rescue.as_ref().and_then(Rescue::model) {
            instead.release_unused();
        }
    }
}
