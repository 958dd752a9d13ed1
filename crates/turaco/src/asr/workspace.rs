//! What a transcription needs to run, and the next one can use again.

use std::sync::Arc;

use crate::Result;
use crate::models::whisper::{Session, Whisper, Window};

use super::window_decoder::WindowDecoder;

/// A session with its windows.
#[derive(Debug)]
pub(super) struct Workspace {
    pub session: Session,
    pub decoder: WindowDecoder,
    window: Window,
    /// What `window` was encoded from, and for which transcription.
    encoded: Vec<f32>,
    owner: u64,
    /// Batched mode's windows.
    pub windows: Vec<Window>,
}

impl Workspace {
    pub fn new(model: &Arc<Whisper>, timestamp_begin: u32) -> Result<Self> {
        let session = Session::new(model, timestamp_begin);
        let window = session.new_window()?;
        Ok(Self {
            session,
            decoder: WindowDecoder::new(),
            window,
            encoded: Vec::new(),
            owner: 0,
            windows: Vec::new(),
        })
    }

    /// Encode the features of one window, unless they are those that it holds already: language detection and the
    /// first window of a long file see the same thirty seconds.
    ///
    /// # Errors
    /// A failed device.
    pub fn encode(&mut self, features: Vec<f32>) -> Result<()> {
        if self.encoded == features {
            return Ok(());
        }
        self.encoded.clear();
        self.session.encode(&features, &mut [&mut self.window])?;
        self.encoded = features;
        Ok(())
    }

    /// Work for the transcription of this number. Another one than before starts from its sound, also of the same file. (Else
    /// a second run would seem to have a faster encoder.)
    #[must_use]
    pub fn of(mut self, owner: u64) -> Self {
        if self.owner != owner {
            self.encoded = Vec::new();
            self.owner = owner;
        }
        self
    }

    /// The session, the decoder and the window that was encoded last.
    pub fn parts(&mut self) -> (&mut Session, &mut WindowDecoder, &Window) {
        (&mut self.session, &mut self.decoder, &self.window)
    }
}
