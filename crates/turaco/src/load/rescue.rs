//! When the graphics processor that `auto` chose fails while it works: the processor goes on.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::{Control, Error, Result};

use super::LoadOptions;
use super::device_choice::Devices;

/// A model that can be loaded once more, on the processor.
#[derive(Debug)]
pub(crate) struct Rescue<T> {
    options: LoadOptions,
    /// The model on the processor, once it was needed.
    model: OnceLock<Arc<T>>,
    /// One loads it.
    loading: Mutex<()>,
    /// What users have not been told yet.
    warning: Mutex<Option<String>>,
}

impl<T> Rescue<T> {
    /// For a model that `auto` put on a graphics processor; others stay where they were asked to be.
    pub fn new(devices: &Devices, options: &LoadOptions) -> Option<Self> {
        let is_ours = devices.graphics && options.device_name() == "auto";
        is_ours.then(|| Self {
            options: options.clone(),
            model: OnceLock::new(),
            loading: Mutex::new(()),
            warning: Mutex::new(None),
        })
    }

    /// The model on the processor, if it is there; never waits for one that is being loaded.
    pub fn model(&self) -> Option<Arc<T>> {
        self.model.get().cloned()
    }

    /// The model on the processor, from now on.
    ///
    /// # Errors
    /// Those of `load`, for a model that cannot be loaded any more.
    pub fn load(
        &self,
        reason: &Error,
        load: impl FnOnce(&Devices, &LoadOptions) -> Result<Arc<T>>,
    ) -> Result<Arc<T>> {
        let _alone = lock(&self.loading);
        if let Some(model) = self.model() {
            return Ok(model);
        }
        let devices = Devices::instead(self.options.threads, reason);
        let loaded = load(&devices, &self.options)?;
        *lock(&self.warning) = devices.note;
        Ok(Arc::clone(self.model.get_or_init(|| loaded)))
    }

    /// Where to go on after `error`; the error itself if the device is not to blame, or `rescue` is none. `load` can be cancelled; its
    /// progress is not that of the work, and not told.
    ///
    /// # Errors
    /// `error`, and as [`load`](Self::load).
    pub fn go_on(
        rescue: Option<&Self>,
        error: Error,
        control: &Control,
        load: impl FnOnce(&Devices, &LoadOptions, &Control) -> Result<Arc<T>>,
    ) -> Result<Arc<T>> {
        let Some(rescue) = rescue.filter(|_| is_device_failure(&error)) else {
            return Err(error);
        };
        let control = control.without_progress();
        rescue.load(&error, |devices, options| load(devices, options, &control))
    }

    /// `own`, or where its work went on when its device failed.
    pub fn active(rescue: Option<&Self>, own: &Arc<T>) -> Arc<T> {
        let instead = rescue.and_then(Self::model);
        instead.unwrap_or_else(|| Arc::clone(own))
    }

    /// What happened, for people; once.
    pub fn take_warning(&self) -> Option<String> {
        lock(&self.warning).take()
    }
}

/// Whether a device failed, not what was asked of it.
pub(crate) fn is_device_failure(error: &Error) -> bool {
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
