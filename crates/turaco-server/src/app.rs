//! What all handlers share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::extract::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use turaco::Control;
use turaco::engine::Engine;

use crate::config::{Config, LogLevel};
use crate::deadline;
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::sound_room::{Share, SoundRoom};
use crate::traces;
use crate::upload::discard;

/// Requests that are being received or worked on beyond those that may wait.
const WORKING: usize = 16;

/// What all handlers share; clones are the same.
#[derive(Clone)]
pub struct App {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    config: Config,
    metrics: Arc<Metrics>,
    /// The default model, which `/load` may replace.
    model: Mutex<String>,
    ready: AtomicBool,
    /// What is to be loaded before the server is ready.
    preload: OnceLock<Vec<String>>,
    /// Why what was to be loaded first is not.
    unready: Mutex<Vec<String>>,
    requests: Arc<Semaphore>,
    /// How many live sessions are open.
    sessions: watch::Sender<usize>,
    sound: Arc<SoundRoom>,
    /// Only programs of this machine reach the server.
    is_local: AtomicBool,
    ending: watch::Sender<bool>,
}

impl App {
    /// Handlers of this engine.
    pub fn new(engine: Engine, config: Config) -> Self {
        let metrics = Arc::new(Metrics::new());
        let counted = Arc::clone(&metrics);
        engine.watch_live(move |round| counted.live_round(round));
        Self {
            shared: Arc::new(Shared {
                engine,
                metrics,
                model: Mutex::new(config.model.clone()),
                ready: AtomicBool::new(true),
                preload: OnceLock::new(),
                unready: Mutex::default(),
                requests: Arc::new(Semaphore::new(config.max_queue + WORKING)),
                sessions: watch::Sender::new(0),
                sound: SoundRoom::new(config.max_sound),
                is_local: AtomicBool::new(false),
                ending: watch::Sender::new(false),
                config,
            }),
        }
    }

    /// The loaded models.
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// The options.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Write a line to the log.
    pub fn log(&self, level: LogLevel, line: &str) {
        (self.shared.config.log)(level, line);
    }

    /// Whether all that was to be loaded first is loaded.
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Relaxed)
    }

    /// Say whether all that was to be loaded first is loaded.
    pub fn set_ready(&self, ready: bool) {
        self.shared.ready.store(ready, Ordering::Relaxed);
    }

    /// What is loaded before the server is ready.
    pub fn preload(&self) -> &[String] {
        self.shared.preload.get().map_or(&[], Vec::as_slice)
    }

    /// Say what is loaded before the server is ready; once.
    pub(crate) fn set_preload(&self, names: Vec<String>) {
        // The first list stays.
        let _ = self.shared.preload.set(names);
    }

    /// Something that was to be loaded first cannot be.
    pub fn not_loaded(&self, why: String) {
        let unready = self.shared.unready.lock();
        unready.unwrap_or_else(PoisonError::into_inner).push(why);
    }

    /// What was to be loaded first and cannot be, each with its reason.
    pub fn unready(&self) -> Vec<String> {
        let unready = self.shared.unready.lock();
        unready.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether only programs of this machine reach the server.
    pub fn is_local(&self) -> bool {
        self.shared.is_local.load(Ordering::Relaxed)
    }

    /// Say whether only programs of this machine reach the server.
    pub fn set_local(&self, is_local: bool) {
        self.shared.is_local.store(is_local, Ordering::Relaxed);
    }

    /// The recogniser that a request means.
    pub fn recognizer_name(&self, named: Option<&str>) -> String {
        match named.map(str::trim) {
            None | Some("" | "whisper-1") => {
                let model = self.shared.model.lock();
                model.unwrap_or_else(PoisonError::into_inner).clone()
            }
            Some(name) => name.to_owned(),
        }
    }

    /// Let another model stand for the one that is not named.
    pub fn set_default_recognizer(&self, name: &str) {
        let mut model = (self.shared.model.lock()).unwrap_or_else(PoisonError::into_inner);
        name.clone_into(&mut model);
    }

    /// The model that speaks which a request means.
    pub fn synthesizer_name(&self, named: Option<&str>) -> String {
        match named.map(str::trim) {
            None | Some("" | "tts-1" | "tts-1-hd" | "gpt-4o-mini-tts") => {
                self.config().tts_model.clone()
            }
            Some(name) => name.to_owned(),
        }
    }

    /// A place among the requests, for as long as it is kept.
    ///
    /// # Errors
    /// All places are taken, or the server ends.
    pub async fn admit(
        &self,
        request: Request,
    ) -> Result<(OwnedSemaphorePermit, Request), ApiError> {
        let error = match *self.shared.ending.borrow() {
            true => ApiError::shutting_down(),
            false => match Arc::clone(&self.shared.requests).try_acquire_owned() {
                Ok(place) => return Ok((place, request)),
                Err(_) => ApiError::queue_full(),
            },
        };
        discard(request.into_body()).await;
        Err(error)
    }

    /// A place among the live sessions.
    pub fn open_session(&self) -> Result<SessionPlace, ApiError> {
        if *self.shared.ending.borrow() {
            return Err(ApiError::shutting_down());
        }
        let place = SessionPlace(self.clone());
        let mut before = 0;
        self.shared.sessions.send_modify(|open| {
            before = *open;
            *open += 1;
        });
        if before >= self.config().max_sessions {
            return Err(ApiError::too_many_sessions());
        }
        Ok(place)
    }

    /// Live sessions that are open.
    pub fn open_sessions(&self) -> usize {
        *self.shared.sessions.borrow()
    }

    /// Resolves when no live session is open.
    pub async fn sessions_closed(&self) {
        // The sender lives as long as the server.
        let _ = self
            .shared
            .sessions
            .subscribe()
            .wait_for(|open| *open == 0)
            .await;
    }

    /// What the recordings of a request take of the memory that there is for them.
    pub fn sound_share(&self) -> Share {
        self.shared.sound.share()
    }

    /// Tell everybody that the server ends.
    pub fn end(&self) {
        self.shared.ending.send_replace(true);
    }

    /// Becomes true when the server ends.
    pub fn ending(&self) -> watch::Receiver<bool> {
        self.shared.ending.subscribe()
    }
}

/// A place among the live sessions, free again when dropped.
pub struct SessionPlace(App);

impl Drop for SessionPlace {
    fn drop(&mut self) {
        self.0.shared.sessions.send_modify(|open| *open -= 1);
    }
}

/// Cancels its work when dropped: a handler whose client went away is dropped too.
pub struct CancelOnDrop {
    control: Control,
    finished: bool,
    app: App,
}

impl CancelOnDrop {
    /// A control for work that nobody wants any more when this is dropped.
    pub fn new(app: &App) -> Self {
        Self {
            control: Control::new(),
            finished: false,
            app: app.clone(),
        }
    }

    /// For the work.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The work came to its end.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// What to say of work that took longer than it may.
    pub fn timed_out(&self, error: ApiError) -> ApiError {
        error.while_loading(self.app.engine().is_loading_for(&self.control))
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.control.cancel();
        if !self.finished {
            self.app.metrics().cancelled();
        }
    }
}

/// Do blocking work on a thread of its own; it is cancelled when the future is dropped, or takes longer than a request may.
pub async fn blocking<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&App, &Control) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let mut guard = CancelOnDrop::new(app);
    let (control, app) = (guard.control(), app.clone());
    let deadline = deadline::of_request(&app);
    let trace = traces::current();
    let running = tokio::task::spawn_blocking(move || {
        traces::recorded(trace.as_ref(), || work(&app, &control))
    });
    let done = deadline::until(deadline, running).await;
    let done = done.map_err(|error| guard.timed_out(error))?;
    guard.finish();
    done.unwrap_or_else(|panic| Err(ApiError::internal(panic.to_string())))
}
