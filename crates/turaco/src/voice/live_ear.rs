//! Writing down an utterance while it is spoken: alone, or in steps that all streams of a model share.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::asr::realtime::{RealtimeEvent, RealtimeRecognizer, TrackKind};
use crate::asr::{RealtimeOptions, RealtimeSession, Word};
use crate::engine::{DeviceQueue, Engine, Job, LiveEvent, LiveSession, Turn, Urgency};
use crate::{Control, Error, Result};

use super::events::VoiceEvent;
use super::listener::LISTENING_RATE;
use super::shared::Shared;

/// Between two looks whether the session is over.
const LOOK: Duration = Duration::from_millis(20);

/// Seconds of sound that may wait in a shared stream before nothing more is taken.
const MOST_WAITING: f64 = 2.0;

/// Wait until the device is this job's, where turns are taken.
pub(super) fn turn<'a>(job: &'a mut Option<Job>, control: &Control) -> Result<Option<Turn<'a>>> {
    job.as_mut().map(|job| job.turn(control)).transpose()
}

/// An utterance that is written down while it is spoken.
pub(super) struct LiveEar {
    shared: Arc<Shared>,
    text: Arc<Text>,
    stream: Stream,
}

/// What was heard of an utterance.
struct Text {
    utterance: u64,
    so_far: Mutex<(String, Vec<Word>)>,
}

enum Stream {
    Alone {
        session: Box<RealtimeSession>,
        /// Its turns on the device.
        job: Option<Job>,
    },
    Together {
        session: LiveSession,
        /// Tells of the end.
        over: Receiver<Result<()>>,
    },
}

impl LiveEar {
    /// Hear alone, in turns of `queue`.
    pub fn alone(
        shared: &Arc<Shared>,
        utterance: u64,
        recognizer: &Arc<RealtimeRecognizer>,
        queue: Option<&Arc<DeviceQueue>>,
    ) -> Result<Self> {
        let options = shared.options().recognition.realtime.clone();
        let job = queue.map(|queue| queue.enter(Urgency::Live, &shared.control));
        Ok(Self {
            shared: Arc::clone(shared),
            text: Arc::new(Text::new(utterance)),
            stream: Stream::Alone {
                session: Box::new(recognizer.session(&options)?),
                job: job.transpose()?,
            },
        })
    }

    /// Hear together with all others whom this model of an engine hears.
    pub fn together(
        shared: &Arc<Shared>,
        utterance: u64,
        (engine, model): &(Engine, String),
    ) -> Result<Self> {
        let options: RealtimeOptions = shared.options().recognition.realtime.clone();
        let text = Arc::new(Text::new(utterance));
        let (ended, over) = mpsc::channel();
        let (told, heard) = (Arc::clone(shared), Arc::clone(&text));
        let on_event = move |event| {
            // Who has gone waits for nothing.
            match event {
                LiveEvent::Heard(event) => heard.take(event, &told),
                LiveEvent::Finished => drop(ended.send(Ok(()))),
                LiveEvent::Failed(error) => drop(ended.send(Err(error))),
                LiveEvent::Flushed(_) => {}
            }
        };
        Ok(Self {
            shared: Arc::clone(shared),
            text,
            stream: Stream::Together {
                session: engine.listen(model, &options, &shared.control, on_event)?,
                over,
            },
        })
    }

    /// Hear more.
    pub fn push(&mut self, sound: &[f32]) -> Result<()> {
        let control = &self.shared.control;
        match &mut self.stream {
            Stream::Alone { session, job } => {
                let turn = turn(job, control)?;
                let events = session.push(sound, LISTENING_RATE)?;
                drop(turn);
                for event in events {
                    self.text.take(event, &self.shared);
                }
            }
            Stream::Together { session, over } => {
                session.push(sound);
                while session.waiting() > MOST_WAITING {
                    control.check()?;
                    if let Ok(Err(error)) = over.try_recv() {
                        return Err(error);
                    }
                    thread::sleep(LOOK);
                }
            }
        }
        Ok(())
    }

    /// The utterance is over: all of its text, and its words.
    pub fn finish(self) -> Result<(String, Vec<Word>)> {
        let control = &self.shared.control;
        match self.stream {
            Stream::Alone {
                mut session,
                mut job,
            } => {
                let turn = turn(&mut job, control)?;
                let events = session.finish()?;
                drop(turn);
                for event in events {
                    self.text.take(event, &self.shared);
                }
            }
            Stream::Together { session, over } => {
                session.finish();
                loop {
                    control.check()?;
                    match over.recv_timeout(LOOK) {
                        Ok(done) => break done?,
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return Err(Error::Cancelled),
                    }
                }
            }
        }
        let so_far = self.text.so_far.lock();
        let mut so_far = so_far.unwrap_or_else(PoisonError::into_inner);
        let words = std::mem::take(&mut so_far.1);
        Ok((so_far.0.trim().to_owned(), words))
    }
}

impl Text {
    fn new(utterance: u64) -> Self {
        Self {
            utterance,
            so_far: Mutex::default(),
        }
    }

    fn take(&self, event: RealtimeEvent, shared: &Shared) {
        let so_far = self.so_far.lock();
        let mut so_far = so_far.unwrap_or_else(PoisonError::into_inner);
        let text = match event {
            RealtimeEvent::Text {
                track: TrackKind::Settled,
                text,
                ..
            } => text,
            RealtimeEvent::Segment(segment) => {
                return so_far.1.extend(segment.words.unwrap_or_default());
            }
            _ => return,
        };
        so_far.0.push_str(&text);
        drop(so_far);
        shared.live_text().push_str(&text);
        shared.tell(VoiceEvent::Hearing {
            utterance: self.utterance,
            text,
        });
    }
}
