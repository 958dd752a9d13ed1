//! Writing down what the user says, beside everything else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use crate::Result;
use crate::asr::realtime::{RealtimeEvent, TrackKind};
use crate::asr::{RealtimeSession, Recognizer};
use crate::audio::Audio;

use super::answer::TurnClock;
use super::conversation::{Message, Role};
use super::events::VoiceEvent;
use super::listener::LISTENING_RATE;
use super::shared::Shared;
use super::thinker::Question;

/// What the ear is told.
pub(super) enum EarMessage {
    /// An utterance begins.
    Begin(u64),
    /// Some of its sound, for recognisers that write while they listen.
    Sound(Vec<f32>),
    /// It is over.
    End(Utterance),
    /// It is forgotten; so many samples were to be written down.
    Forget(usize),
    /// Something that was written, which comes behind what was said before.
    Add(Message),
    /// Something to be answered when all that was said before is written down.
    Ask(Question),
}

/// An utterance that is over.
#[derive(Debug, Clone)]
pub(super) struct Utterance {
    pub number: u64,
    /// Its sound at [`LISTENING_RATE`].
    pub sound: Arc<[f32]>,
    pub clock: TurnClock,
    /// Whether it is answered.
    pub answer: bool,
    /// When it was over.
    pub epoch: u64,
}

/// Writes down utterances in the order in which they come.
pub(super) struct Ear {
    pub recognizer: Arc<Recognizer>,
    pub shared: Arc<Shared>,
    /// Where questions go whose text is awaited; `None` = nobody answers, or the mind hears for itself.
    pub questions: Option<Sender<Question>>,
    /// Whether the sound of questions is in the conversation already.
    pub mind_hears: bool,
}

impl Ear {
    /// Work until nobody sends any more.
    pub fn run(&self, messages: &Receiver<EarMessage>) {
        let mut live = None;
        while let Ok(message) = messages.recv() {
            if self.shared.control.is_cancelled() {
                break;
            }
            match message {
                EarMessage::Begin(utterance) => live = self.begin(utterance),
                EarMessage::Sound(sound) => {
                    self.shared
                        .unwritten
                        .fetch_sub(sound.len(), Ordering::Relaxed);
                    if let Some(Err(error)) = live.as_mut().map(|live| live.push(&sound, self)) {
                        self.shared.fail(&error);
                        live = None;
                    }
                }
                EarMessage::End(utterance) => {
                    let unwritten = match self.recognizer.realtime() {
                        Some(_) => 0,
                        None => utterance.sound.len(),
                    };
                    self.end(&utterance, live.take());
                    self.shared
                        .unwritten
                        .fetch_sub(unwritten, Ordering::Relaxed);
                }
                EarMessage::Forget(samples) => {
                    live = None;
                    self.shared.unwritten.fetch_sub(samples, Ordering::Relaxed);
                }
                EarMessage::Add(message) => self.shared.conversation().push(message),
                EarMessage::Ask(question) => self.ask(question),
            }
        }
    }

    fn begin(&self, utterance: u64) -> Option<Live> {
        self.shared.live_text().clear();
        let recognizer = self.recognizer.realtime()?;
        let options = self.shared.options().recognition.realtime.clone();
        match recognizer.session(&options) {
            Ok(session) => Some(Live {
                utterance,
                session,
                text: String::new(),
            }),
            Err(error) => {
                self.shared.fail(&error);
                None
            }
        }
    }

    fn end(&self, utterance: &Utterance, live: Option<Live>) {
        let started = Instant::now();
        let text = match live {
            Some(live) => live.finish(self),
            None => self.transcribe(&utterance.sound),
        };
        self.shared.live_text().clear();
        let number = utterance.number;
        let text = match text {
            Ok(text) => text,
            Err(crate::Error::Cancelled) => return,
            Err(error) => {
                self.shared.tell(VoiceEvent::HearingFailed {
                    utterance: number,
                    message: error.to_string(),
                });
                return;
            }
        };
        self.shared.tell(VoiceEvent::Heard {
            utterance: number,
            text: text.clone(),
            seconds: utterance.sound.len() as f64 / f64::from(LISTENING_RATE),
        });
        let questions = &self.questions;
        if self.mind_hears {
            self.shared.conversation().complete(number, text);
            return;
        }
        if !text.is_empty() {
            let message = Message::new(Role::User, text);
            self.shared.conversation().push(message);
        }
        // Noise is no question, but the one before it may have been interrupted by it.
        if utterance.answer && questions.is_some() && self.shared.conversation().is_open() {
            self.shared.asked();
            self.ask(Question {
                utterance: number,
                clock: utterance.clock,
                heard: (
                    Some(utterance.clock.decided.elapsed().as_secs_f64()),
                    started.elapsed().as_secs_f64(),
                ),
                epoch: utterance.epoch,
            });
        }
    }

    fn ask(&self, question: Question) {
        if let Some(questions) = &self.questions {
            // The thinker is gone only when the session ends.
            let _ = questions.send(question);
        }
    }

    fn transcribe(&self, sound: &[f32]) -> Result<String> {
        let audio = Audio::from_samples(sound.to_vec(), LISTENING_RATE)?;
        let options = self.shared.options().recognition.clone();
        let running = self
            .recognizer
            .transcribe(&audio, &options, &self.shared.control)?;
        let mut text = String::new();
        for segment in running {
            text.push_str(&segment?.text);
        }
        Ok(text.trim().to_owned())
    }
}

/// An utterance that is written down while it is spoken.
struct Live {
    utterance: u64,
    session: RealtimeSession,
    text: String,
}

impl Live {
    fn push(&mut self, sound: &[f32], ear: &Ear) -> Result<()> {
        let events = self.session.push(sound, LISTENING_RATE)?;
        self.take(events, ear);
        Ok(())
    }

    fn finish(mut self, ear: &Ear) -> Result<String> {
        let events = self.session.finish()?;
        self.take(events, ear);
        Ok(self.text.trim().to_owned())
    }

    fn take(&mut self, events: Vec<RealtimeEvent>, ear: &Ear) {
        for event in events {
            if let RealtimeEvent::Text {
                track: TrackKind::Settled,
                text,
                ..
            } = event
            {
                self.text.push_str(&text);
                ear.shared.live_text().push_str(&text);
                ear.shared.tell(VoiceEvent::Hearing {
                    utterance: self.utterance,
                    text,
                });
            }
        }
    }
}
