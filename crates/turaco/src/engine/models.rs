//! Loading once, sharing, and unloading.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::asr::RealtimeOptions;
use crate::device_queue::{DeviceQueue, Job, QueueLimits, Urgency};
use crate::{ChatModel, Control, Error, LoadOptions, Recognizer, Result, Synthesizer};

use super::catalog::{Catalog, KnownModel, ModelKind};
use super::live::{LiveEvent, LiveRound, LiveSession, LiveSessions};

/// How models are loaded and kept.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Where and how models run.
    pub load: LoadOptions,
    /// How long a model that nobody uses stays loaded; `None` = for ever.
    pub keep_alive: Option<Duration>,
    /// Models that are loaded at once; the one that was unused for longest makes room.
    pub max_loaded: usize,
    /// Work at once on each device.
    pub queue: QueueLimits,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            load: LoadOptions::new(),
            keep_alive: Some(Duration::from_secs(300)),
            max_loaded: 4,
            queue: QueueLimits::default(),
        }
    }
}

/// A model in memory.
#[derive(Debug, Clone)]
pub enum LoadedModel {
    /// Speech to text.
    Recognizer(Arc<Recognizer>),
    /// Text to speech.
    Synthesizer(Arc<Synthesizer>),
}

impl LoadedModel {
    fn load(known: &KnownModel, options: &LoadOptions, control: &Control) -> Result<Self> {
        match known.kind {
            ModelKind::Synthesizer => Synthesizer::load_path(&known.path, options, control)
                .map(|model| Self::Synthesizer(Arc::new(model))),
            ModelKind::Recognizer | ModelKind::Chat => {
                Recognizer::load_path(&known.path, options, control)
                    .map(|model| Self::Recognizer(Arc::new(model)))
            }
        }
    }

    fn release_unused(&self) {
        match self {
            Self::Recognizer(model) => model.release_unused(),
            Self::Synthesizer(model) => model.release_unused(),
        }
    }

    fn cache_bytes(&self) -> u64 {
        match self {
            Self::Recognizer(model) => model.cache_bytes(),
            Self::Synthesizer(model) => model.cache_bytes(),
        }
    }

    fn device_description(&self) -> String {
        match self {
            Self::Recognizer(model) => model.device_description(),
            Self::Synthesizer(model) => model.device_description(),
        }
    }
}

/// What is known of a loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedFacts {
    /// Its name as it is shown: requests find it by that, and it tells nobody where files lie.
    pub id: String,
    /// What it does.
    pub kind: ModelKind,
    /// Where it runs.
    pub device: String,
    /// Bytes of its weights on disk.
    pub bytes: u64,
    /// Bytes of the keys and values that it keeps for sequences.
    pub cache_bytes: u64,
    /// Seconds that loading took.
    pub load_seconds: f64,
    /// Leases at the moment.
    pub in_use: usize,
    /// How long nobody has used it.
    pub idle: Duration,
}

#[derive(Debug)]
enum Slot {
    Loading,
    Ready(Box<Ready>),
}

#[derive(Debug)]
struct Ready {
    known: KnownModel,
    model: LoadedModel,
    queue: Arc<DeviceQueue>,
    device: String,
    bytes: u64,
    load_seconds: f64,
    leases: usize,
    last_used: Instant,
    /// Streams of sound that it hears.
    live: Option<LiveSessions>,
}

#[derive(Debug)]
struct Shared {
    options: EngineOptions,
    catalog: Mutex<Catalog>,
    slots: Mutex<HashMap<PathBuf, Slot>>,
    /// Whose work waits for a model to be loaded.
    waiting: Mutex<Vec<Control>>,
    changed: Condvar,
    /// By the description of the device.
    queues: Mutex<HashMap<String, Arc<DeviceQueue>>>,
    watching: Arc<Watching>,
}

/// Takes what every round of live streams took.
type Watch = Box<dyn Fn(&LiveRound) + Send + Sync>;

/// Who is told of every round of live streams.
#[derive(Default)]
pub(super) struct Watching(OnceLock<Watch>);

impl Watching {
    pub(super) fn tell(&self, round: &LiveRound) {
        if let Some(watch) = self.0.get() {
            watch(round);
        }
    }
}

impl std::fmt::Debug for Watching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watching")
            .field(&self.0.get().is_some())
            .finish()
    }
}

/// Loaded models, shared by all who ask; clones are the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

impl Engine {
    /// An engine that has loaded nothing yet.
    pub fn new(catalog: Catalog, options: EngineOptions) -> Self {
        Self {
            shared: Arc::new(Shared {
                options,
                catalog: Mutex::new(catalog),
                slots: Mutex::default(),
                waiting: Mutex::default(),
                changed: Condvar::new(),
                queues: Mutex::default(),
                watching: Arc::default(),
            }),
        }
    }

    /// The names of models, as they are now.
    pub fn catalog(&self) -> Catalog {
        let catalog = self.shared.catalog.lock();
        catalog.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Be told of every round of the models that hear streams, by the thread that does the work; `watch` has to be quick. Only
    /// the first who asks is told.
    pub fn watch_live(&self, watch: impl Fn(&LiveRound) + Send + Sync + 'static) {
        // Who is told already stays.
        let _ = self.shared.watching.0.set(Box::new(watch));
    }

    /// A model, loaded if it is not there. Loading goes on when `control` is cancelled: whoever asks again needs the model, and might
    /// never have it otherwise.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] for a name that stands for nothing here, [`Error::Busy`] when as many models as may be loaded
    /// are all in use, cancellation, and those of loading.
    pub fn load(&self, name: &str, control: &Control) -> Result<ModelLease> {
        let known = self.catalog().find(name)?;
        let mut slots = self.shared.lock();
        let mut waiting = None;
        loop {
            match slots.get_mut(&known.path) {
                Some(Slot::Ready(ready)) => {
                    ready.leases += 1;
                    return Ok(self.lease(&known.path, ready));
                }
                Some(Slot::Loading) => {
                    waiting.get_or_insert_with(|| Waiting::new(&self.shared, control));
                    let waited = (self.shared.changed).wait_timeout(slots, LOOK);
                    slots = waited.unwrap_or_else(PoisonError::into_inner).0;
                    control.check()?;
                }
                None => {
                    waiting.get_or_insert_with(|| Waiting::new(&self.shared, control));
                    let evicted = self.make_room(&mut slots)?;
                    slots.insert(known.path.clone(), Slot::Loading);
                    drop(slots);
                    // Memory is given back before more is taken.
                    drop(evicted);
                    self.load_beside(&known, control)?;
                    slots = self.shared.lock();
                }
            }
        }
    }

    /// Load a model on a thread of its own, and wait for it until `control` is cancelled.
    fn load_beside(&self, known: &KnownModel, control: &Control) -> Result<()> {
        let (engine, known) = (self.clone(), known.clone());
        let progress = control.progress_alone();
        let (told, outcome) = mpsc::channel();
        let unfinished = Unfinished {
            shared: Arc::clone(&self.shared),
            path: known.path.clone(),
        };
        let thread = std::thread::Builder::new().name("turaco-load".into());
        let spawned = thread.spawn(move || {
            // Should loading panic, nobody waits for it for ever.
            let unfinished = unfinished;
            let loaded = engine.load_now(&known, &progress);
            drop(unfinished);
            // Whoever asked may have gone.
            let _ = told.send(loaded);
        });
        let loading = spawned.map_err(|source| Error::Io {
            action: "start a thread",
            path: "turaco-load".into(),
            source,
        })?;
        loop {
            match outcome.recv_timeout(LOOK) {
                Ok(loaded) => return loaded,
                Err(mpsc::RecvTimeoutError::Timeout) => control.check()?,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    if let Err(panic) = loading.join() {
                        std::panic::resume_unwind(panic);
                    }
                    return Err(Error::Cancelled);
                }
            }
        }
    }

    fn load_now(&self, known: &KnownModel, progress: &Control) -> Result<()> {
        let started = Instant::now();
        let model = LoadedModel::load(known, &self.shared.options.load, progress)?;
        let device = model.device_description();
        let ready = Ready {
            queue: self.queue(&device),
            device,
            bytes: weight_bytes(&known.path),
            load_seconds: started.elapsed().as_secs_f64(),
            leases: 0,
            last_used: Instant::now(),
            live: None,
            model,
            known: known.clone(),
        };
        let mut slots = self.shared.lock();
        slots.insert(known.path.clone(), Slot::Ready(Box::new(ready)));
        Ok(())
    }

    /// A model that writes down speech.
    ///
    /// # Errors
    /// As [`load`](Self::load); a model of another kind.
    pub fn recognizer(
        &self,
        name: &str,
        control: &Control,
    ) -> Result<(ModelLease, Arc<Recognizer>)> {
        self.check_kind(name, ModelKind::Recognizer)?;
        let lease = self.load(name, control)?;
        match lease.model() {
            LoadedModel::Recognizer(model) => {
                let model = Arc::clone(model);
                Ok((lease, model))
            }
            LoadedModel::Synthesizer(_) => Err(wrong_kind(name, ModelKind::Recognizer)),
        }
    }

    /// A model that speaks.
    ///
    /// # Errors
    /// As [`load`](Self::load); a model of another kind.
    pub fn synthesizer(
        &self,
        name: &str,
        control: &Control,
    ) -> Result<(ModelLease, Arc<Synthesizer>)> {
        self.check_kind(name, ModelKind::Synthesizer)?;
        let lease = self.load(name, control)?;
        match lease.model() {
            LoadedModel::Synthesizer(model) => {
                let model = Arc::clone(model);
                Ok((lease, model))
            }
            LoadedModel::Recognizer(_) => Err(wrong_kind(name, ModelKind::Synthesizer)),
        }
    }

    /// A model that talks about what it hears.
    ///
    /// # Errors
    /// As [`load`](Self::load); a model of another kind.
    pub fn chat_model(
        &self,
        name: &str,
        control: &Control,
    ) -> Result<(ModelLease, Arc<ChatModel>)> {
        let (lease, model) = self.recognizer(name, control)?;
        match model.chat() {
            Some(chat) => Ok((lease, Arc::clone(chat))),
            None => Err(wrong_kind(name, ModelKind::Chat)),
        }
    }

    /// Let a model that hears streams listen to one more. `on_event` is called from the thread that does the work, and has to be
    /// quick. Dropping the session frees all it holds at the next step.
    ///
    /// # Errors
    /// As [`recognizer`](Self::recognizer), a model that hears no streams, or options that it does not have.
    pub fn listen(
        &self,
        name: &str,
        options: &RealtimeOptions,
        control: &Control,
        on_event: impl FnMut(LiveEvent) + Send + 'static,
    ) -> Result<LiveSession> {
        let (lease, model) = self.recognizer(name, control)?;
        let Some(recognizer) = model.realtime().cloned() else {
            return Err(Error::UnsupportedTask {
                model: name.to_owned(),
                task: "hear a stream".into(),
                message: "voxtral-realtime can".into(),
            });
        };
        let mut slots = self.shared.lock();
        let Some(Slot::Ready(ready)) = slots.get_mut(&lease.path) else {
            return Err(Error::Cancelled);
        };
        let queue = Arc::clone(&ready.queue);
        let watching = (ready.known.id.as_str(), &self.shared.watching);
        let live = (ready
            .live
            .get_or_insert_with(|| LiveSessions::new(&recognizer, queue, watching)))
        .clone();
        drop(slots);
        live.open(lease, options, Box::new(on_event))
    }

    /// Whether the work of this control waits for a model to be loaded, by itself or by somebody else.
    pub fn is_loading_for(&self, control: &Control) -> bool {
        let waiting = self.shared.waiting();
        waiting.iter().any(|waiting| waiting.is_same(control))
    }

    /// Live streams of all models.
    pub fn live_sessions(&self) -> usize {
        let slots = self.shared.lock();
        let live = slots.values().filter_map(|slot| match slot {
            Slot::Ready(ready) => ready.live.as_ref(),
            Slot::Loading => None,
        });
        live.map(LiveSessions::len).sum()
    }

    /// Unload a model; whether it was loaded. One that is in use goes when the last lease on it is dropped.
    ///
    /// # Errors
    /// A name that stands for nothing here.
    pub fn unload(&self, name: &str) -> Result<bool> {
        let known = self.catalog().find(name)?;
        let mut slots = self.shared.lock();
        let was_ready = matches!(slots.get(&known.path), Some(Slot::Ready(_)));
        let removed = was_ready.then(|| slots.remove(&known.path));
        drop(slots);
        Ok(removed.is_some())
    }

    /// Unload what nobody has used for as long as the options say, and give back the memory in which models that stay worked
    /// for more at once than they do now.
    pub fn unload_idle(&self) {
        for model in self.ready() {
            model.release_unused();
        }
        let Some(keep_alive) = self.shared.options.keep_alive else {
            return;
        };
        let mut removed = Vec::new();
        let mut slots = self.shared.lock();
        slots.retain(|_, slot| match slot {
            Slot::Ready(ready) if ready.leases == 0 && ready.last_used.elapsed() >= keep_alive => {
                removed.push(Arc::clone(&ready.queue));
                false
            }
            _ => true,
        });
    }

    fn ready(&self) -> Vec<LoadedModel> {
        let slots = self.shared.lock();
        let ready = slots.values().filter_map(|slot| match slot {
            Slot::Ready(ready) => Some(ready.model.clone()),
            Slot::Loading => None,
        });
        ready.collect()
    }

    /// What is loaded, sorted by name.
    pub fn loaded(&self) -> Vec<LoadedFacts> {
        let slots = self.shared.lock();
        let ready = slots.values().filter_map(|slot| match slot {
            Slot::Ready(ready) => Some(ready),
            Slot::Loading => None,
        });
        let found: Vec<_> = ready
            .map(|ready| {
                let facts = LoadedFacts {
                    id: ready.known.shown(),
                    kind: ready.known.kind,
                    device: ready.device.clone(),
                    bytes: ready.bytes,
                    cache_bytes: 0,
                    load_seconds: ready.load_seconds,
                    in_use: ready.leases,
                    idle: match ready.leases {
                        0 => ready.last_used.elapsed(),
                        _ => Duration::ZERO,
                    },
                };
                (facts, ready.model.clone())
            })
            .collect();
        drop(slots);
        // Models have locks of their own, for which nobody else should wait.
        let with_caches = |(facts, model): (LoadedFacts, LoadedModel)| LoadedFacts {
            cache_bytes: model.cache_bytes(),
            ..facts
        };
        let mut facts: Vec<_> = found.into_iter().map(with_caches).collect();
        facts.sort_by(|a, b| a.id.cmp(&b.id));
        facts
    }

    /// The queues of all devices that models were loaded on.
    pub fn queues(&self) -> Vec<(String, Arc<DeviceQueue>)> {
        let queues = (self.shared.queues.lock()).unwrap_or_else(PoisonError::into_inner);
        let all = queues.iter();
        all.map(|(device, queue)| (device.clone(), Arc::clone(queue)))
            .collect()
    }

    /// A model of another kind is not worth loading.
    fn check_kind(&self, name: &str, wanted: ModelKind) -> Result<()> {
        let speaks = |kind| kind == ModelKind::Synthesizer;
        match speaks(self.catalog().find(name)?.kind) == speaks(wanted) {
            true => Ok(()),
            false => Err(wrong_kind(name, wanted)),
        }
    }

    fn lease(&self, path: &Path, ready: &mut Ready) -> ModelLease {
        ModelLease {
            shared: Arc::clone(&self.shared),
            path: path.to_owned(),
            id: ready.known.shown(),
            model: ready.model.clone(),
            queue: Arc::clone(&ready.queue),
        }
    }

    fn queue(&self, device: &str) -> Arc<DeviceQueue> {
        let mut queues = (self.shared.queues.lock()).unwrap_or_else(PoisonError::into_inner);
        let queue = queues
            .entry(device.to_owned())
            .or_insert_with(|| DeviceQueue::new(self.shared.options.queue));
        Arc::clone(queue)
    }

    /// Take out the model that was unused for longest, if there are as many as there may be.
    fn make_room(&self, slots: &mut HashMap<PathBuf, Slot>) -> Result<Option<Slot>> {
        if slots.len() < self.shared.options.max_loaded.max(1) {
            return Ok(None);
        }
        let idle = slots.iter().filter_map(|(path, slot)| match slot {
            Slot::Ready(ready) if ready.leases == 0 => Some((ready.last_used, path)),
            _ => None,
        });
        let Some(path) = idle.min().map(|(_, path)| path.clone()) else {
            return Err(Error::Busy {
                message: format!("all {} loaded models are in use", slots.len()),
            });
        };
        Ok(slots.remove(&path))
    }
}

/// Between two looks at the control while another thread loads.
const LOOK: Duration = Duration::from_millis(50);

fn wrong_kind(name: &str, wanted: ModelKind) -> Error {
    let (task, message) = match wanted {
        ModelKind::Synthesizer => (
            "speak",
            "it writes down what is said; qwen3-tts-0.6b-customvoice speaks",
        ),
        ModelKind::Recognizer => (
            "write down speech",
            "it speaks; Whisper and Voxtral models can",
        ),
        ModelKind::Chat => ("answer", "it is no language model; voxtral-mini can"),
    };
    Error::UnsupportedTask {
        model: name.to_owned(),
        task: task.into(),
        message: message.into(),
    }
}

/// Bytes of a model's files.
fn weight_bytes(path: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |facts| facts.len());
    match std::fs::read_dir(path) {
        Err(_) => size(path),
        Ok(entries) => entries.flatten().map(|entry| size(&entry.path())).sum(),
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Control>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody's work waits for a model, as long as this is there.
struct Waiting<'a> {
    shared: &'a Shared,
    control: Control,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared, control: &Control) -> Self {
        shared.waiting().push(control.clone());
        Self {
            shared,
            control: control.clone(),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting();
        let place = (waiting.iter()).position(|waiting| waiting.is_same(&self.control));
        place.map(|place| waiting.swap_remove(place));
    }
}

/// Takes the mark of loading away unless a loaded model is in its place.
struct Unfinished {
    shared: Arc<Shared>,
    path: PathBuf,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut slots = self.shared.lock();
        if matches!(slots.get(&self.path), Some(Slot::Loading)) {
            slots.remove(&self.path);
        }
        drop(slots);
        self.shared.changed.notify_all();
    }
}

/// The right to use a loaded model, which stays while there is one.
#[derive(Debug)]
pub struct ModelLease {
    shared: Arc<Shared>,
    path: PathBuf,
    id: String,
    model: LoadedModel,
    queue: Arc<DeviceQueue>,
}

impl ModelLease {
    /// The model.
    pub fn model(&self) -> &LoadedModel {
        &self.model
    }

    /// Its name as it is shown.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The turns of the model's device.
    pub fn queue(&self) -> &Arc<DeviceQueue> {
        &self.queue
    }

    /// Begin a job on the model's device.
    ///
    /// # Errors
    /// As [`DeviceQueue::enter`].
    pub fn job(&self, urgency: Urgency, control: &Control) -> Result<Job> {
        self.queue.enter(urgency, control)
    }
}

impl Drop for ModelLease {
    fn drop(&mut self) {
        let mut slots = self.shared.lock();
        // It may have been unloaded, and loaded again, meanwhile.
        let Some(Slot::Ready(ready)) = slots.get_mut(&self.path) else {
            return;
        };
        if !same_model(&ready.model, &self.model) {
            return;
        }
        ready.leases -= 1;
        ready.last_used = Instant::now();
        let unload = ready.leases == 0 && self.shared.options.keep_alive == Some(Duration::ZERO);
        let removed = unload.then(|| slots.remove(&self.path));
        drop(slots);
        drop(removed);
    }
}

fn same_model(a: &LoadedModel, b: &LoadedModel) -> bool {
    match (a, b) {
        (LoadedModel::Recognizer(a), LoadedModel::Recognizer(b)) => Arc::ptr_eq(a, b),
        (LoadedModel::Synthesizer(a), LoadedModel::Synthesizer(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}
