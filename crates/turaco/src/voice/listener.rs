//! The thread that listens: it finds the user's turns in the sound, and lets speech interrupt answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use crate::Result;
use crate::asr::vad_stream::{SpeechDetector, SpeechEvent};
use crate::models::silero_vad::SileroVad;

use super::answer::TurnClock;
use super::conversation::{Message, Place, Role, Which};
use super::ear::{EarMessage, Utterance};
use super::events::{AnswerEnd, VoiceEvent};
use super::options::{Answering, Detection};
use super::request::AnswerRequest;
use super::shared::Shared;
use super::thinker::Question;

/// Samples per second of what a session listens to.
pub const LISTENING_RATE: u32 = 16_000;

/// What the listener is told, in order.
pub(super) enum Input {
    /// Sound, and when it came.
    Sound(Vec<f32>, Instant),
    /// The turn is over, whatever the sound says; whether it is answered.
    Commit { answer: bool },
    /// What was said since the last turn is forgotten.
    Clear,
    /// Options have changed that say how speech is found.
    Reconfigure,
    /// Something that was written, and where.
    Add(Message, Place),
    /// Something that was never said.
    Remove(Which),
    /// Answer what the conversation ends with, or as it was asked for.
    Respond(Option<(u64, Arc<AnswerRequest>)>),
}

/// Listens until nobody sends any more.
pub(super) struct Listener {
    pub shared: Arc<Shared>,
    pub network: Arc<SileroVad>,
    /// Samples that were sent and not listened to.
    pub waiting: Arc<AtomicUsize>,
    /// Where utterances are written down, if anywhere.
    pub ear: Option<Sender<EarMessage>>,
    /// Whether the ear wants sound while it comes.
    pub ear_is_live: bool,
    /// Where questions go.
    pub thinker: Option<Sender<Question>>,
    /// Whether the one who answers hears for itself.
    pub mind_hears: bool,
    /// Samples of an utterance at most.
    pub most_samples: usize,
}

/// What changes while listening.
struct Hearing {
    /// `None` = the caller says when a turn is over.
    detector: Option<SpeechDetector>,
    /// Samples before the detector's first.
    base: u64,
    /// Samples so far.
    position: u64,
    /// Ends of pieces, and when they came.
    arrivals: VecDeque<(u64, Instant)>,
    /// The utterance that is going on.
    utterance: Option<Open>,
    n_utterances: u64,
    /// Where speech or an answer was last.
    active_until: u64,
    idle_told: bool,
    /// Time in the detector since the last turn.
    detecting: Duration,
}

struct Open {
    number: u64,
    sound: Vec<f32>,
    /// An answer was given when it began, and goes on unless so many words are said; 0 = any at all.
    may_pass: Option<usize>,
}

/// Arrivals are remembered for so long; speech ends by silence that is shorter.
const REMEMBERED: u64 = 10 * LISTENING_RATE as u64;

impl Listener {
    /// Work until nobody sends any more.
    pub fn run(&self, inputs: &Receiver<Input>) {
        let mut hearing = match self.hearing(0) {
            Ok(hearing) => hearing,
            Err(error) => return self.shared.fail(&error),
        };
        while let Ok(input) = inputs.recv() {
            if self.shared.control.is_cancelled() {
                return;
            }
            let done = match input {
                Input::Sound(samples, came) => {
                    let done = self.listen(&mut hearing, &samples, came);
                    self.waiting.fetch_sub(samples.len(), Ordering::Relaxed);
                    done
                }
                Input::Commit { answer } => self.commit(&mut hearing, answer),
                Input::Clear => self.clear(&mut hearing),
                Input::Reconfigure => self.reconfigure(&mut hearing),
                Input::Add(message, place) => {
                    match self.writes() {
                        true => self.tell_ear(|| EarMessage::Add(message, place)),
                        false => self.shared.conversation().put(message, &place),
                    }
                    Ok(())
                }
                Input::Remove(which) => {
                    match self.writes() {
                        true => self.tell_ear(|| EarMessage::Remove(which)),
                        false => drop(self.shared.conversation().remove(&which)),
                    }
                    Ok(())
                }
                Input::Respond(request) => {
                    self.ask(hearing.n_utterances, TurnClock::now(), request);
                    Ok(())
                }
            };
            if let Err(error) = done {
                self.shared.fail(&error);
            }
        }
        if self.shared.control.is_cancelled() {
            return;
        }
        // The sound is over: what is being said is a whole turn.
        if let Err(error) = self.finish(&mut hearing) {
            self.shared.fail(&error);
        }
    }

    fn hearing(&self, position: u64) -> Result<Hearing> {
        let turns = self.shared.options().turns.clone();
        let options = turns.detector();
        let detector = match turns.detection {
            Detection::Silero => Some(SpeechDetector::new(&self.network, &options)?),
            Detection::Energy => Some(SpeechDetector::by_energy(LISTENING_RATE, &options)?),
            Detection::None => None,
        };
        Ok(Hearing {
            detector,
            base: position,
            position,
            arrivals: VecDeque::new(),
            utterance: None,
            n_utterances: 0,
            active_until: position,
            idle_told: false,
            detecting: Duration::ZERO,
        })
    }

    /// New options: what is being said goes on as it was, with the detector of the new ones.
    fn reconfigure(&self, hearing: &mut Hearing) -> Result<()> {
        let fresh = self.hearing(hearing.position)?;
        let had_detector = hearing.detector.is_some();
        let answer = self.shared.options().turns.answer;
        self.end_utterance(hearing, None, answer && had_detector);
        hearing.detector = fresh.detector;
        hearing.base = fresh.base;
        Ok(())
    }

    fn listen(&self, hearing: &mut Hearing, samples: &[f32], came: Instant) -> Result<()> {
        hearing.position += samples.len() as u64;
        hearing.arrivals.push_back((hearing.position, came));
        let old = hearing.position.saturating_sub(REMEMBERED);
        while hearing.arrivals.front().is_some_and(|(end, _)| *end < old) {
            hearing.arrivals.pop_front();
        }
        let Some(mut detector) = hearing.detector.take() else {
            return self.collect(hearing, samples);
        };
        let answering = self.shared.answering();
        {
            let options = self.shared.options();
            let patience = options.turns.patience(&self.shared.live_text());
            detector.set_min_silence_ms(patience);
            let (threshold, min_speech_ms) = options.turns.onset(answering);
            detector.set_onset(threshold, min_speech_ms);
        }
        let base = hearing.base;
        let (started, before) = (Instant::now(), hearing.detecting);
        let n_ignored = detector.n_ignored();
        let pushed = detector.push(samples, |event| {
            if matches!(event, SpeechEvent::Ended { .. }) {
                hearing.detecting = before + started.elapsed();
            }
            self.heed(hearing, base, event, None);
        });
        hearing.detecting = match hearing.utterance {
            Some(_) => before + started.elapsed(),
            None => Duration::ZERO,
        };
        for _ in n_ignored..detector.n_ignored() {
            self.shared.tell(VoiceEvent::Ignored {
                at_ms: milliseconds(hearing.position),
            });
        }
        hearing.detector = Some(detector);
        pushed?;
        self.watch_idleness(hearing, answering);
        Ok(())
    }

    /// Without a detector all sound is what the user says.
    fn collect(&self, hearing: &mut Hearing, samples: &[f32]) -> Result<()> {
        if hearing.utterance.is_none() {
            self.open(hearing);
        }
        self.add(hearing, samples.to_vec());
        let is_long = hearing
            .utterance
            .as_ref()
            .is_some_and(|open| open.sound.len() >= self.most_samples);
        if is_long {
            self.end_utterance(hearing, None, false);
        }
        Ok(())
    }

    /// What the detector found; a turn that the caller ends is answered as it says.
    fn heed(&self, hearing: &mut Hearing, base: u64, event: SpeechEvent, committed: Option<bool>) {
        match event {
            SpeechEvent::Started { sample } => {
                let at = base + sample;
                let number = self.open(hearing);
                self.shared.tell(VoiceEvent::SpeechStarted {
                    utterance: number,
                    at_ms: milliseconds(at),
                });
                let answering = self.shared.answering();
                let (interrupts, n_words, resumes) = {
                    let turns = &self.shared.options().turns;
                    let n_words = turns.words_to_interrupt(answering);
                    (turns.interrupt, n_words, turns.resume)
                };
                if interrupts {
                    let may_pass = (n_words > 0 || resumes) && self.ear.is_some();
                    self.shared.interrupt(AnswerEnd::Interrupted, may_pass);
                    if let Some(open) = &mut hearing.utterance {
                        let may_pass = may_pass && self.shared.has_kept();
                        open.may_pass = may_pass.then_some(n_words);
                    }
                }
            }
            SpeechEvent::Sound(sound) => self.add(hearing, sound),
            SpeechEvent::Ended {
                sample,
                cut,
                silent_until,
            } => {
                let at = base + sample;
                let number = hearing.utterance.as_ref().map_or(0, |open| open.number);
                self.shared.tell(VoiceEvent::SpeechStopped {
                    utterance: number,
                    at_ms: milliseconds(at),
                });
                let last_sound = silent_until.and_then(|_| hearing.came(at));
                let answer = committed.unwrap_or(self.shared.options().turns.answer && !cut);
                self.end_utterance(hearing, last_sound, answer);
            }
        }
    }

    fn open(&self, hearing: &mut Hearing) -> u64 {
        hearing.n_utterances += 1;
        let number = hearing.n_utterances;
        hearing.utterance = Some(Open {
            number,
            sound: Vec::new(),
            may_pass: None,
        });
        self.tell_ear(|| EarMessage::Begin(number));
        number
    }

    fn add(&self, hearing: &mut Hearing, sound: Vec<f32>) {
        hearing.active_until = hearing.position;
        hearing.idle_told = false;
        if let Some(open) = &mut hearing.utterance {
            open.sound.extend_from_slice(&sound);
        }
        if self.ear.is_some() {
            self.shared
                .unwritten
                .fetch_add(sound.len(), Ordering::Relaxed);
        }
        if self.ear_is_live {
            self.tell_ear(|| EarMessage::Sound(sound));
        }
    }

    fn tell_ear(&self, message: impl FnOnce() -> EarMessage) {
        if let Some(ear) = &self.ear {
            // The ear is gone only when the session ends.
            let _ = ear.send(message());
        }
    }

    /// The utterance is over; its last sound came at `last_sound`, if it was silence that ended it.
    fn end_utterance(&self, hearing: &mut Hearing, last_sound: Option<Instant>, answer: bool) {
        let Some(open) = hearing.utterance.take() else {
            return;
        };
        let mut clock = TurnClock::now();
        clock.last_sound = last_sound.map(|sound| sound.min(clock.decided));
        clock.detection = std::mem::take(&mut hearing.detecting).as_secs_f64();
        let sound: Arc<[f32]> = open.sound.into();
        let number = open.number;
        self.shared.tell(VoiceEvent::Committed {
            utterance: number,
            seconds: sound.len() as f64 / f64::from(LISTENING_RATE),
            sound: Arc::clone(&sound),
        });
        if self.mind_hears {
            let mut message = Message::new(Role::User, "").with_sound(Arc::clone(&sound));
            message.utterance = Some(number);
            self.shared.conversation().push(message);
            if answer && open.may_pass.is_none() {
                self.ask(number, clock, None);
            }
        }
        self.tell_ear(|| {
            EarMessage::End(Utterance {
                number,
                sound,
                clock,
                answer: answer && (open.may_pass.is_some() || !self.mind_hears),
                may_pass: open.may_pass,
                epoch: self.shared.epoch(),
            })
        });
    }

    fn ask(&self, utterance: u64, clock: TurnClock, request: Option<(u64, Arc<AnswerRequest>)>) {
        let Some(thinker) = &self.thinker else {
            return;
        };
        let question = Question {
            utterance,
            clock,
            heard: (None, 0.0),
            epoch: self.shared.epoch(),
            request,
            goes_on: false,
        };
        self.shared.asked();
        match self.writes() {
            true => self.tell_ear(|| EarMessage::Ask(question)),
            // The thinker is gone only when the session ends.
            false => drop(thinker.send(question)),
        }
    }

    /// Whether what is said reaches the conversation through the ear.
    fn writes(&self) -> bool {
        self.ear.is_some() && !self.mind_hears
    }

    /// The turn is over by word: what may have been the beginning of speech is speech.
    fn commit(&self, hearing: &mut Hearing, answer: bool) -> Result<()> {
        // Speech that begins only now is found by the last look of the detector.
        let mut found = hearing.utterance.is_some();
        match hearing.detector.take() {
            None => self.end_utterance(hearing, None, answer),
            Some(mut detector) => {
                let base = std::mem::replace(&mut hearing.base, hearing.position);
                let done = detector.commit(|event| {
                    found |= matches!(event, SpeechEvent::Started { .. });
                    self.heed(hearing, base, event, Some(answer));
                });
                hearing.detector = Some(detector);
                done?;
            }
        }
        self.shared.tell(VoiceEvent::CommitHeeded { found });
        Ok(())
    }

    fn clear(&self, hearing: &mut Hearing) -> Result<()> {
        self.restart_detector(hearing)?;
        hearing.detecting = Duration::ZERO;
        if let Some(open) = hearing.utterance.take() {
            let unwritten = match self.ear_is_live {
                true => 0,
                false => open.sound.len(),
            };
            self.tell_ear(|| EarMessage::Forget(unwritten));
        }
        Ok(())
    }

    fn restart_detector(&self, hearing: &mut Hearing) -> Result<()> {
        hearing.base = hearing.position;
        match &mut hearing.detector {
            Some(detector) => detector.reset(),
            None => Ok(()),
        }
    }

    fn finish(&self, hearing: &mut Hearing) -> Result<()> {
        let Some(mut detector) = hearing.detector.take() else {
            let answer = self.shared.options().turns.answer;
            self.end_utterance(hearing, None, answer);
            return Ok(());
        };
        let base = hearing.base;
        detector.finish(|event| self.heed(hearing, base, event, None))
    }

    fn watch_idleness(&self, hearing: &mut Hearing, answering: Answering) {
        if answering != Answering::Nothing || hearing.utterance.is_some() {
            hearing.active_until = hearing.position;
            hearing.idle_told = false;
        }
        let timeout = self.shared.options().turns.idle_timeout_ms;
        let is_due = timeout.is_some_and(|timeout| {
            let silence = hearing.position - hearing.active_until;
            milliseconds(silence) >= u64::from(timeout)
        });
        if is_due && !hearing.idle_told {
            hearing.idle_told = true;
            self.shared.tell(VoiceEvent::Idle {
                at_ms: milliseconds(hearing.position),
            });
        }
    }
}

impl Hearing {
    /// When a sample came in.
    fn came(&self, sample: u64) -> Option<Instant> {
        let arrival = self.arrivals.iter().find(|(end, _)| *end >= sample);
        arrival.map(|(_, came)| *came)
    }
}

fn milliseconds(samples: u64) -> u64 {
    samples * 1000 / u64::from(LISTENING_RATE)
}
