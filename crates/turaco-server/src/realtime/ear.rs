//! What hears a session: a model that hears a stream, or one that is given whole utterances.

use std::sync::Arc;

use tokio::sync::mpsc;
use turaco::asr::realtime::{RealtimeEvent, TrackKind};
use turaco::asr::{RealtimeOptions, Segment, TranscribeOptions, Word};
use turaco::engine::{LiveEvent, LiveSession, Urgency};
use turaco::{Audio, Error};

use crate::app::{App, blocking};
use crate::error::ApiError;
use crate::recognition::{Piece, recognize};
use crate::upload::SAMPLE_RATE;

/// What came of the sound, in order: everything of one utterance before [`EarEvent::Done`] of it.
#[derive(Debug)]
pub enum EarEvent {
    /// More text, with its words where they are wanted and known so soon.
    Delta { text: String, words: Vec<Word> },
    /// A stretch of text that is final; times in seconds of the sound that the ear was given.
    Segment(Box<Segment>),
    /// The utterance is written down as a whole; the language, where the model tells.
    Done { language: Option<String> },
    /// The utterance is not written down.
    Failed(ApiError),
    /// The ear hears nothing any more.
    Broken(ApiError),
}

impl EarEvent {
    fn text(text: String) -> Self {
        let words = Vec::new();
        Self::Delta { text, words }
    }
}

/// How an ear listens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EarOptions {
    pub model: String,
    pub language: Option<String>,
    pub prompt: Option<String>,
    pub keywords: Vec<String>,
    pub delay_ms: Option<u32>,
    /// Whether words with their probabilities are wanted.
    pub words: bool,
}

/// A listener with a loaded model.
pub enum Ear {
    /// Hears while it is said.
    Stream(LiveSession),
    /// Hears what was said.
    Turns(Turns),
}

type Events = mpsc::UnboundedSender<EarEvent>;

impl Ear {
    /// Load the model and listen.
    ///
    /// # Errors
    /// Those of loading, and options that the model does not have.
    pub async fn open(app: &App, options: &EarOptions, events: Events) -> Result<Self, ApiError> {
        let wanted = options.clone();
        let (turns_app, turns_events) = (app.clone(), events.clone());
        let stream = blocking(app, move |app, control| {
            let (lease, model) = app.engine().recognizer(&wanted.model, control)?;
            if model.realtime().is_none() {
                // Loaded for the first utterance, which may come at any moment.
                return Ok((None, Some(lease)));
            }
            let mut realtime = RealtimeOptions::new();
            realtime.delay_ms = wanted.delay_ms;
            let told = move |event| tell(event, &events);
            let engine = app.engine();
            let session = engine.listen(&wanted.model, &realtime, control, told)?;
            Ok((Some(session), None))
        })
        .await?;
        Ok(match stream {
            (Some(session), _) => Self::Stream(session),
            (None, lease) => {
                let (sender, receiver) = mpsc::unbounded_channel();
                let work = write_down(turns_app, options.clone(), receiver, turns_events);
                Self::Turns(Turns {
                    sound: Vec::new(),
                    sender,
                    waiting: Arc::default(),
                    task: tokio::spawn(work),
                    _lease: lease,
                })
            }
        })
    }

    /// Hear more of the utterance.
    pub fn hear(&mut self, samples: &[f32]) {
        match self {
            Self::Stream(session) => session.push(samples),
            Self::Turns(turns) => turns.sound.extend_from_slice(samples),
        }
    }

    /// The utterance is over.
    pub fn end_utterance(&mut self) {
        match self {
            Self::Stream(session) => drop(session.flush()),
            Self::Turns(turns) => turns.end_utterance(),
        }
    }

    /// Seconds of sound that wait to be written down.
    pub fn waiting(&self) -> f64 {
        match self {
            Self::Stream(session) => session.waiting(),
            Self::Turns(turns) => turns.waiting(),
        }
    }
}

fn tell(event: LiveEvent, events: &Events) {
    let event = match event {
        LiveEvent::Heard(RealtimeEvent::Text {
            track: TrackKind::Settled,
            text,
            ..
        }) => EarEvent::text(text),
        LiveEvent::Heard(RealtimeEvent::Segment(segment)) => EarEvent::Segment(Box::new(segment)),
        LiveEvent::Flushed(_) | LiveEvent::Finished => EarEvent::Done { language: None },
        LiveEvent::Failed(error) => EarEvent::Broken(error.into()),
        _ => return,
    };
    // Who is gone needs no news.
    let _ = events.send(event);
}

/// Utterances that are written down one after the other.
pub struct Turns {
    sound: Vec<f32>,
    sender: mpsc::UnboundedSender<Utterance>,
    /// Seconds that were given and are not written down.
    waiting: Arc<std::sync::atomic::AtomicU64>,
    task: tokio::task::JoinHandle<()>,
    /// The model stays loaded.
    _lease: Option<turaco::engine::ModelLease>,
}

struct Utterance {
    sound: Vec<f32>,
    /// Given back when it is written down.
    _waiting: Waiting,
}

struct Waiting {
    all: Arc<std::sync::atomic::AtomicU64>,
    samples: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let order = std::sync::atomic::Ordering::Relaxed;
        self.all.fetch_sub(self.samples, order);
    }
}

impl Turns {
    fn end_utterance(&mut self) {
        let sound = std::mem::take(&mut self.sound);
        let samples = sound.len() as u64;
        let order = std::sync::atomic::Ordering::Relaxed;
        self.waiting.fetch_add(samples, order);
        let waiting = Waiting {
            all: Arc::clone(&self.waiting),
            samples,
        };
        // The task takes them as long as this is there.
        let _ = self.sender.send(Utterance {
            sound,
            _waiting: waiting,
        });
    }

    fn waiting(&self) -> f64 {
        let order = std::sync::atomic::Ordering::Relaxed;
        let samples = self.sound.len() as u64 + self.waiting.load(order);
        samples as f64 / f64::from(SAMPLE_RATE)
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        // The work of an utterance is cancelled with its future.
        self.task.abort();
    }
}

async fn write_down(
    app: App,
    options: EarOptions,
    mut utterances: mpsc::UnboundedReceiver<Utterance>,
    events: Events,
) {
    let mut heard = 0.0;
    while let Some(utterance) = utterances.recv().await {
        let (options, events) = (options.clone(), events.clone());
        let offset = heard;
        heard += utterance.sound.len() as f64 / f64::from(SAMPLE_RATE);
        let told = events.clone();
        let done = blocking(&app, move |app, control| {
            let Utterance { sound, _waiting } = utterance;
            let audio = Audio::from_samples(sound, SAMPLE_RATE)?;
            let mut wanted = TranscribeOptions::default();
            wanted.language = options.language;
            wanted.initial_prompt = options.prompt;
            wanted.word_timestamps = options.words;
            wanted.hotwords = Some(options.keywords.join(", ")).filter(|all| !all.is_empty());
            let work = (Urgency::Normal, control);
            // Whether the text of the next segment was told while it was written.
            let mut is_told = false;
            let transcript = recognize(app, &options.model, &audio, &wanted, work, |piece| {
                let sent = match piece {
                    Piece::Text(text) => {
                        is_told = true;
                        told.send(EarEvent::text(text.to_owned()))
                    }
                    Piece::Segment(segment) => {
                        let mut segment = segment.clone();
                        segment.start += offset;
                        segment.end += offset;
                        let sent = match std::mem::take(&mut is_told) {
                            true => Ok(()),
                            false => told.send(EarEvent::Delta {
                                text: segment.text.clone(),
                                words: segment.words.clone().unwrap_or_default(),
                            }),
                        };
                        sent.and_then(|()| told.send(EarEvent::Segment(Box::new(segment))))
                    }
                };
                sent.map_err(|_| Error::Cancelled)
            })?;
            Ok(Some(transcript.language).filter(|language| !language.is_empty()))
        })
        .await;
        let event = match done {
            Ok(language) => EarEvent::Done { language },
            Err(error) => EarEvent::Failed(error),
        };
        if events.send(event).is_err() {
            break;
        }
    }
}
