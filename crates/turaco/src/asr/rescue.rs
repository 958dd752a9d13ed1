//! When the graphics processor that `auto` chose fails while it works: the processor goes on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::models::whisper::{Whisper, WhisperCheckpoint};
use crate::{Control, Error, Result};

use super::LoadOptions;
use super::device_choice::Devices;

/// What it takes to load a model once more.
#[derive(Debug)]
pub(super) struct Rescue {
    path: PathBuf,
    options: LoadOptions,
    /// The model on the processor, once it was needed.
    model: Mutex<Option<Arc<Whisper>>>,
    /// What users have not been told yet.
    warning: Mutex<Option<String>>,
}

impl Rescue {
    /// For a model that `auto` put on a graphics processor.
    pub fn new(path: &Path, options: &LoadOptions) -> Self {
        Self {
            path: path.to_path_buf(),
            options: options.clone(),
            model: Mutex::new(None),
            warning: Mutex::new(None),
        }
    }

    /// The model on the processor, if it is needed already.
    pub fn model(&self) -> Option<Arc<Whisper>> {
        lock(&self.model).clone()
    }

    /// The model on the processor, from now on.
    ///
    /// # Errors
    /// A model that cannot be loaded any more.
    pub fn load(&self, reason: &Error, control: &Control) -> Result<Arc<Whisper>> {
        let mut model = lock(&self.model);
        if let Some(model) = &*model {
            return Ok(Arc::clone(model));
        }
        let devices = Devices::instead(self.options.threads, reason);
        let checkpoint = WhisperCheckpoint::open(&self.path)?;
        let weight_type = self
            .options
            .compute_type
            .weight_type(&checkpoint.weights, devices.graphics);
        // Cancelling works; the progress is that of the transcription.
        let control = control.without_progress();
        let loaded = Whisper::load(&checkpoint, &devices.model, weight_type, &control)?;
        *model = Some(Arc::clone(&loaded));
        *lock(&self.warning) = devices.note;
        Ok(loaded)
    }

    /// What happened, for people; once.
    pub fn take_warning(&self) -> Option<String> {
        lock(&self.warning).take()
    }
}

/// Whether a device failed, not what was asked of it.
pub(super) fn is_device_failure(error: &Error) -> bool {
    matches!(
        error,
        Error::Compute(
            turaco_compute::Error::Device { .. } | turaco_compute::Error::OutOfMemory { .. }
        )
    )
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
