//! Writing down what the user says, beside everything else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use crate::Result;
use crate::asr::{Recognizer, Word};
use crate::audio::Audio;
use crate::engine::{DeviceQueue, Engine, Urgency};

use super::answer::TurnClock;
use super::conversation::{Message, Place, Role, Which};
use super::events::VoiceEvent;
use super::listener::LISTENING_RATE;
use super::live_ear::{LiveEar, turn};
use super::passing::{has_words, words_beside_signs};
use super::request::InputPart;
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
    Add(Message, Place),
    /// Something that was never said.
    Remove(Which),
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
    /// An answer that it has interrupted goes on unless it has so many words; 0 = any at all.
    pub may_pass: Option<usize>,
    /// When it was over.
    pub epoch: u64,
}

/// Writes down utterances in the order in which they come.
pub(super) struct Ear {
    pub recognizer: Arc<Recognizer>,
    /// The turns in which it works.
    pub queue: Option<Arc<DeviceQueue>>,
    /// An engine, and what it calls the recogniser, that hears all streams together.
    pub together: Option<(Engine, String)>,
    pub shared: Arc<Shared>,
    /// Where questions go whose text is awaited; `None` = nobody answers.
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
                    if let Some(Err(error)) = live.as_mut().map(|live| live.push(&sound)) {
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
                EarMessage::Add(message, place) => self.add(message, &place),
                EarMessage::Remove(which) => drop(self.shared.conversation().remove(&which)),
                EarMessage::Ask(question) => self.ask(question),
            }
        }
    }

    fn begin(&self, utterance: u64) -> Option<LiveEar> {
        self.shared.live_text().clear();
        let recognizer = self.recognizer.realtime()?;
        let live = match &self.together {
            Some(together) => LiveEar::together(&self.shared, utterance, together),
            None => {
                let queue = self.queue.as_ref();
                LiveEar::alone(&self.shared, utterance, recognizer, queue)
            }
        };
        live.map_err(|error| self.shared.fail(&error)).ok()
    }

    fn end(&self, utterance: &Utterance, live: Option<LiveEar>) {
        let started = Instant::now();
        let text = match live {
            Some(live) => live.finish(),
            None => self.transcribe(&utterance.sound),
        };
        self.shared.live_text().clear();
        let number = utterance.number;
        let question = || Question {
            utterance: number,
            clock: utterance.clock,
            heard: (
                Some(utterance.clock.decided.elapsed().as_secs_f64()),
                started.elapsed().as_secs_f64(),
            ),
            epoch: utterance.epoch,
            request: None,
            goes_on: false,
        };
        let (text, words) = match text {
            Ok(heard) => heard,
            Err(crate::Error::Cancelled) => return,
            Err(error) => {
                self.shared.give_up_kept();
                self.shared.tell(VoiceEvent::HearingFailed {
                    utterance: number,
                    message: error.to_string(),
                });
                // The mind hears the question for itself, and only waited for whether it is one.
                if self.mind_hears && utterance.answer {
                    self.shared.asked();
                    self.ask(question());
                }
                return;
            }
        };
        self.shared.tell(VoiceEvent::Heard {
            utterance: number,
            text: text.clone(),
            seconds: utterance.sound.len() as f64 / f64::from(LISTENING_RATE),
            words,
        });
        if let Some(n_words) = utterance.may_pass
            && self.shared.has_kept()
        {
            let passes = match n_words {
                0 => !has_words(&text),
                n_words => words_beside_signs(&text) < n_words,
            };
            if passes {
                if self.mind_hears {
                    let which = Which::Utterance(number);
                    self.shared.conversation().remove(&which);
                }
                self.shared.tell(VoiceEvent::Passed { utterance: number });
                self.shared.asked();
                return self.ask(Question {
                    goes_on: true,
                    ..question()
                });
            }
            self.shared.give_up_kept();
        }
        if self.mind_hears {
            self.shared.conversation().complete(number, text);
            if utterance.answer {
                self.shared.asked();
                self.ask(question());
            }
            return;
        }
        if !text.is_empty() {
            let mut message = Message::new(Role::User, text);
            message.utterance = Some(number);
            self.shared.conversation().push(message);
        }
        // Noise is no question, but the one before it may have been interrupted by it.
        if utterance.answer && self.questions.is_some() && self.shared.conversation().is_open() {
            self.shared.asked();
            self.ask(question());
        }
    }

    /// Sound that somebody adds is written down like sound that is heard.
    fn add(&self, mut message: Message, place: &Place) {
        if let Err(error) = self.read(&mut message) {
            return self.shared.fail(&error);
        }
        // Sound without words says nothing.
        if !message.text.is_empty() || message.sound.is_none() || self.mind_hears {
            self.shared.conversation().put(message, place);
        }
    }

    fn read(&self, message: &mut Message) -> Result<()> {
        let Some(sound) = message.sound.clone().filter(|_| message.text.is_empty()) else {
            return Ok(());
        };
        let (text, words) = self.transcribe(&sound)?;
        message.text = text;
        self.shared.tell(VoiceEvent::Read {
            tag: message.tag.clone(),
            text: message.text.clone(),
            seconds: sound.len() as f64 / f64::from(LISTENING_RATE),
            words,
        });
        Ok(())
    }

    fn ask(&self, mut question: Question) {
        let request = question.request.as_mut();
        let parts = request.and_then(|(_, request)| Arc::make_mut(request).input.as_mut());
        for part in parts.into_iter().flatten() {
            if let InputPart::Message(message) = part
                && let Err(error) = self.read(message)
            {
                self.shared.fail(&error);
            }
        }
        if let Some(questions) = &self.questions {
            // The thinker is gone only when the session ends.
            let _ = questions.send(question);
        }
    }

    fn transcribe(&self, sound: &[f32]) -> Result<(String, Vec<Word>)> {
        let audio = Audio::from_samples(sound.to_vec(), LISTENING_RATE)?;
        let options = self.shared.options().recognition.clone();
        let control = &self.shared.control;
        let queue = self.queue.as_ref();
        let mut job = queue
            .map(|queue| queue.enter(Urgency::Live, control))
            .transpose()?;
        let turn = turn(&mut job, control)?;
        let mut running = self.recognizer.transcribe(&audio, &options, control)?;
        drop(turn);
        if let Some(queue) = queue
            && running.take_turns(queue, Urgency::Live)
        {
            job = None;
        }
        let (mut text, mut words) = (String::new(), Vec::new());
        loop {
            let turn = self::turn(&mut job, control)?;
            let segment = running.next();
            drop(turn);
            match segment.transpose()? {
                Some(segment) => {
                    text.push_str(&segment.text);
                    words.extend(segment.words.unwrap_or_default());
                }
                None => return Ok((text.trim().to_owned(), words)),
            }
        }
    }
}
