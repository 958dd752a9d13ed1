//! One handle for progress and cancellation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How far a long piece of work has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Units done (seconds of audio, bytes of a download, tensors of a load).
    pub done: f64,
    /// Units in all, if known.
    pub total: Option<f64>,
}

type Callback = dyn Fn(Progress) + Send + Sync;

/// Watches and stops work that runs elsewhere; clones share their state.
#[derive(Clone, Default)]
pub struct Control {
    cancelled: Arc<AtomicBool>,
    on_progress: Option<Arc<Callback>>,
}

impl Control {
    /// A control that nobody has cancelled and nobody watches.
    pub fn new() -> Self {
        Self::default()
    }

    /// Call `callback` whenever work advances; it has to be quick.
    #[must_use]
    pub fn on_progress(mut self, callback: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(Arc::new(callback));
        self
    }

    /// The same for work that is not what the progress is about.
    pub(crate) fn without_progress(&self) -> Self {
        Self {
            cancelled: Arc::clone(&self.cancelled),
            on_progress: None,
        }
    }

    /// The same progress for work that goes on when this is cancelled.
    pub(crate) fn progress_alone(&self) -> Self {
        Self {
            cancelled: Arc::default(),
            on_progress: self.on_progress.clone(),
        }
    }

    /// Whether the other is a clone of this one.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.cancelled, &other.cancelled)
    }

    /// Ask the work to stop at its next step.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`cancel`](Self::cancel) was called on this control or a clone of it.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// [`Error::Cancelled`](crate::Error::Cancelled) once cancelled; long loops call this every step.
    pub fn check(&self) -> crate::Result<()> {
        if self.is_cancelled() {
            Err(crate::Error::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Report progress.
    pub fn report(&self, done: f64, total: Option<f64>) {
        if let Some(callback) = &self.on_progress {
            callback(Progress { done, total });
        }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}
