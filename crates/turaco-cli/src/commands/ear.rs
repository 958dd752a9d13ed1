//! A live session that goes on with the processor when the graphics processor of `auto` fails.

use turaco::asr::realtime::{RealtimeEvent, RealtimeTimings, TrackKind};
use turaco::asr::{RealtimeOptions, RealtimeSession};
use turaco::{Error, Recognizer};

use super::Context;
use crate::engine;
use crate::exit::{Failure, Stop};

/// Samples per second.
const RATE: u32 = 16_000;

/// Seconds of sound that are kept to be heard again.
const KEPT: usize = 10;

/// Hears sound at 16 kHz.
pub struct Ear<'a> {
    context: &'a Context,
    options: RealtimeOptions,
    session: RealtimeSession,
    /// Whether there is another device to go on with.
    replaceable: bool,
    /// Seconds of sound before the session.
    offset: f64,
    /// The last sound, beginning where the words are not complete.
    recent: Vec<f32>,
    /// Samples before that.
    before: usize,
}

impl<'a> Ear<'a> {
    /// With the model that was loaded.
    pub fn new(
        recognizer: &Recognizer,
        options: RealtimeOptions,
        context: &'a Context,
    ) -> Result<Self, Failure> {
        let Some(realtime) = recognizer.realtime() else {
            return Err(not_streaming(recognizer.model_name()));
        };
        let on_processor = recognizer.device_description().starts_with("cpu");
        let mut replaceable = context.global.device == "auto" && !on_processor;
        let session = match realtime.session(&options) {
            Err(Error::Compute(error)) if replaceable => {
                replaceable = false;
                instead(&error, &options, context)?
            }
            session => session?,
        };
        Ok(Self {
            context,
            session,
            options,
            replaceable,
            offset: 0.0,
            recent: Vec::new(),
            before: 0,
        })
    }

    /// Seconds of sound so far.
    pub fn seconds(&self) -> f64 {
        self.offset + self.session.seconds()
    }

    /// Seconds by which the text follows the sound.
    pub fn delay(&self) -> f64 {
        let config = self.session.recognizer().config();
        match self.options.delay_ms {
            Some(delay_ms) => f64::from(delay_ms) / 1e3,
            None => config.default_delay as f64 * config.token_seconds(),
        }
    }

    /// Where the time of the session went.
    pub fn timings(&self) -> RealtimeTimings {
        self.session.timings()
    }

    /// See [`RealtimeSession::hurry`].
    pub fn hurry(&mut self, hurried: bool) {
        self.session.hurry(hurried);
    }

    /// More sound.
    pub fn push(&mut self, samples: &[f32]) -> Result<Vec<RealtimeEvent>, Stop> {
        if self.replaceable {
            self.recent.extend_from_slice(samples);
        }
        match self.session.push(samples, RATE) {
            Err(Error::Compute(error)) if self.replaceable => self.go_on_without(&error),
            events => Ok(self.heard(events?)),
        }
    }

    /// The end of the sound.
    pub fn finish(&mut self) -> Result<Vec<RealtimeEvent>, Stop> {
        match self.session.finish() {
            Err(Error::Compute(error)) if self.replaceable => {
                let mut events = self.go_on_without(&error)?;
                let rest = self.session.finish()?;
                events.extend(self.heard(rest));
                Ok(events)
            }
            events => Ok(self.heard(events?)),
        }
    }

    /// Another session on the processor hears the sound again from the end of the last word on.
    fn go_on_without(&mut self, error: &dyn std::error::Error) -> Result<Vec<RealtimeEvent>, Stop> {
        self.replaceable = false;
        let open = self.session.close();
        let mut events = self.heard(open);
        self.session = instead(error, &self.options, self.context)?;
        self.offset = self.before as f64 / f64::from(RATE);
        let again = self.session.push(&std::mem::take(&mut self.recent), RATE)?;
        events.extend(self.heard(again));
        Ok(events)
    }

    /// Events with times from the start of the sound; sound behind which words are complete is forgotten.
    fn heard(&mut self, mut events: Vec<RealtimeEvent>) -> Vec<RealtimeEvent> {
        for event in &mut events {
            event.shift(self.offset);
            if let RealtimeEvent::Word {
                track: TrackKind::Settled,
                word,
            } = event
            {
                let end = (word.end * f64::from(RATE)) as usize;
                self.forget(end.saturating_sub(self.before));
            }
        }
        self.forget(self.recent.len().saturating_sub(KEPT * RATE as usize));
        events
    }

    fn forget(&mut self, samples: usize) {
        let count = samples.min(self.recent.len());
        self.recent.drain(..count);
        self.before += count;
    }
}

/// A session on the processor.
fn instead(
    error: &dyn std::error::Error,
    options: &RealtimeOptions,
    context: &Context,
) -> Result<RealtimeSession, Failure> {
    context.printer.warning(&format!(
        "the graphics processor failed ({error}): the processor is used from here on"
    ));
    let load = engine::load_options(&context.global).device("cpu");
    let recognizer = engine::load(&load, context)?;
    match recognizer.realtime() {
        Some(realtime) => Ok(realtime.session(options)?),
        None => Err(not_streaming(recognizer.model_name())),
    }
}

/// A model that needs whole recordings.
pub fn not_streaming(name: &str) -> Failure {
    Failure::model(format!(
        "model `{name}` needs whole recordings and cannot listen"
    ))
    .hint("`turaco listen -m voxtral-realtime` uses one that can; `turaco transcribe` is for recordings")
}
