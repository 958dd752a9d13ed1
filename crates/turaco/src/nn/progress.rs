//! How far the loading of a model is.

use crate::{Control, Result};

/// Layers of a model that is being loaded: told to those who watch, and the moments at which they can stop it.
#[derive(Debug)]
pub struct LayerProgress<'a> {
    control: &'a Control,
    done: usize,
    total: usize,
}

impl<'a> LayerProgress<'a> {
    /// None of `total` layers is there yet.
    pub fn new(control: &'a Control, total: usize) -> Self {
        Self {
            control,
            done: 0,
            total,
        }
    }

    /// The next layer begins.
    ///
    /// # Errors
    /// Cancellation.
    pub fn next_layer(&mut self) -> Result<()> {
        self.control.check()?;
        self.report();
        self.done += 1;
        Ok(())
    }

    /// All layers are there.
    pub fn finish(mut self) {
        self.done = self.total;
        self.report();
    }

    fn report(&self) {
        self.control
            .report(self.done as f64, Some(self.total as f64));
    }
}
