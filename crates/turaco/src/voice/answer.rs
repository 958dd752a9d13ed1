//! One answer on its way out: what was written and said of it, and that nothing follows its end.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::chat::ToolCall;
use crate::{Control, Error, Result};

use super::events::{AnswerEnd, VoiceEvent};
use super::mind::Answered;
use super::timings::TurnTimings;

/// Where events go. It is called from several threads, and has to be quick.
pub(super) type Sink = dyn Fn(VoiceEvent) + Send + Sync;

/// Moments of the user's turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct TurnClock {
    /// The last sound of speech came in.
    pub last_sound: Instant,
    /// The turn was taken to be over.
    pub decided: Instant,
    /// Seconds of looking for speech.
    pub detection: f64,
}

impl TurnClock {
    /// A turn that is over by word, not by silence.
    pub fn now() -> Self {
        let now = Instant::now();
        Self {
            last_sound: now,
            decided: now,
            detection: 0.0,
        }
    }
}

/// An answer, shared by the one who writes it, the one who says it, and the one who may interrupt.
#[derive(Debug)]
pub(super) struct Answer {
    pub number: u64,
    /// The message that it is about.
    question: Option<u64>,
    /// It is no part of the conversation.
    pub aside: bool,
    /// Ends the work on it.
    pub control: Control,
    clock: TurnClock,
    /// Samples per second of its sound, if it has any.
    sample_rate: Option<u32>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    text: String,
    /// Where pieces begin in the sound, in samples, and where they end in the text, in bytes.
    pieces: Vec<(u64, usize)>,
    n_samples: u64,
    /// Whether the newest piece has all of its sound.
    piece_done: bool,
    first_audio: Option<Instant>,
    timings: TurnTimings,
    answered: Answered,
    ended: bool,
}

/// What remains of an answer when it is over.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub question: Option<u64>,
    pub text: String,
    pub calls: Vec<ToolCall>,
    pub interrupted: bool,
    pub latency_ms: Option<u64>,
}

impl Answer {
    pub fn new(
        number: u64,
        clock: TurnClock,
        (question, aside): (Option<u64>, bool),
        sample_rate: Option<u32>,
        (transcript, recognition): (Option<f64>, f64),
    ) -> Self {
        let timings = TurnTimings {
            detection: clock.detection,
            turn_end: (clock.decided - clock.last_sound).as_secs_f64(),
            transcript,
            recognition,
            ..TurnTimings::default()
        };
        Self {
            number,
            question,
            aside,
            control: Control::new(),
            clock,
            sample_rate,
            state: Mutex::new(State {
                timings,
                ..State::default()
            }),
            ended: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn elapsed(&self) -> f64 {
        self.clock.decided.elapsed().as_secs_f64()
    }

    /// Tell of its beginning, unless it is over already.
    pub fn announce(&self, tell: impl FnOnce()) {
        let state = self.lock();
        if !state.ended {
            tell();
        }
    }

    /// More text was written; `thinking` is how long the mind has worked.
    pub fn text(&self, text: &str, thinking: f64, sink: &Sink) -> Result<()> {
        let mut state = self.lock();
        if state.ended {
            return Err(Error::Cancelled);
        }
        if state.timings.first_text.is_none() {
            state.timings.first_text = Some(self.elapsed());
            state.timings.thinking = thinking;
        }
        state.text.push_str(text);
        sink(VoiceEvent::AnswerText {
            answer: self.number,
            text: text.to_owned(),
        });
        Ok(())
    }

    /// All text was written; functions that are to be called are told of.
    pub fn answered(&self, answered: Answered, sink: &Sink) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        for call in &answered.calls {
            sink(VoiceEvent::AnswerCall {
                answer: self.number,
                call: call.clone(),
            });
        }
        state.answered = answered;
    }

    /// The next sound belongs to the text up to byte `end`.
    pub fn piece(&self, end: usize) {
        let mut state = self.lock();
        let n_samples = state.n_samples;
        state.pieces.push((n_samples, end));
        state.piece_done = false;
    }

    /// The newest piece has all of its sound.
    pub fn piece_done(&self) {
        self.lock().piece_done = true;
    }

    /// More sound; `writing` and `speaking` are how long it was waited for text and for the voice, of the first one.
    pub fn audio(
        &self,
        samples: Vec<f32>,
        (writing, speaking): (f64, f64),
        sink: &Sink,
    ) -> Result<()> {
        let mut state = self.lock();
        if state.ended {
            return Err(Error::Cancelled);
        }
        if state.first_audio.is_none() {
            state.first_audio = Some(Instant::now());
            state.timings.first_audio = Some(self.elapsed());
            state.timings.writing = writing;
            state.timings.speaking = speaking;
        }
        state.n_samples += samples.len() as u64;
        sink(VoiceEvent::AnswerAudio {
            answer: self.number,
            samples,
        });
        Ok(())
    }

    /// It is over; `false` if it was before. Interrupted, it is what can have been heard of it by now. `remember` is given what
    /// remains before anybody is told.
    pub fn end(&self, end: AnswerEnd, sink: &Sink, remember: impl FnOnce(Outcome)) -> bool {
        let mut state = self.lock();
        if state.ended {
            return false;
        }
        state.ended = true;
        self.control.cancel();
        let end = match end {
            AnswerEnd::Completed if state.answered.cut => AnswerEnd::Cut,
            end => end,
        };
        let interrupted = matches!(end, AnswerEnd::Interrupted | AnswerEnd::Cancelled);
        let mut audio_ms = self.milliseconds(state.n_samples);
        if interrupted && let Some(first) = state.first_audio {
            audio_ms = audio_ms.min(first.elapsed().as_millis() as u64);
        }
        let text = match interrupted {
            true => self.heard(&state, audio_ms),
            false => state.text.clone(),
        };
        state.timings.total = self.elapsed();
        let answered = std::mem::take(&mut state.answered);
        let latency = state.timings.first_text;
        remember(Outcome {
            question: self.question,
            text: text.clone(),
            calls: answered.calls,
            interrupted,
            latency_ms: latency.map(|seconds| (1000.0 * seconds).round() as u64),
        });
        sink(VoiceEvent::AnswerEnded {
            answer: self.number,
            end,
            text,
            audio_ms,
            tokens: answered.prompt_tokens.zip(answered.completion_tokens),
            timings: state.timings,
        });
        self.ended.notify_all();
        true
    }

    /// Whether nothing of it will come any more.
    pub fn is_over(&self) -> bool {
        self.lock().ended
    }

    /// Milliseconds of its sound that can have been heard by now, if there is more that is still to be heard.
    pub fn still_heard(&self) -> Option<u64> {
        let state = self.lock();
        let heard = state.first_audio?.elapsed().as_millis() as u64;
        (heard < self.milliseconds(state.n_samples)).then_some(heard)
    }

    /// Wait until it is over.
    pub fn wait(&self) {
        let mut state = self.lock();
        while !state.ended {
            let waited = self.ended.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Its text, as far as `audio_ms` of its sound go.
    pub fn heard_until(&self, audio_ms: u64) -> String {
        self.heard(&self.lock(), audio_ms)
    }

    fn heard(&self, state: &State, audio_ms: u64) -> String {
        let Some(rate) = self.sample_rate else {
            return state.text.clone();
        };
        let played = audio_ms.saturating_mul(u64::from(rate)) / 1000;
        let mut heard = 0;
        for (index, &(start, end)) in state.pieces.iter().enumerate() {
            if played <= start {
                break;
            }
            let next = state.pieces.get(index + 1).map(|piece| piece.0);
            let stop = match (next, state.piece_done) {
                (Some(next), _) => next,
                (None, true) => state.n_samples,
                // Its sound is not there as a whole: how long it will be, by how long people take.
                (None, false) => {
                    let characters = state.text[heard..end].chars().count() as u64;
                    let guess = characters * u64::from(rate) / CHARACTERS_PER_SECOND;
                    state.n_samples.max(start + guess)
                }
            };
            let stop = stop.max(start + 1);
            let share = (played - start) as f64 / (stop - start) as f64;
            heard = match share >= 1.0 {
                true => end,
                false => heard + whole_words(&state.text[heard..end], share),
            };
        }
        state.text[..heard].trim_end().to_owned()
    }

    fn milliseconds(&self, samples: u64) -> u64 {
        let rate = u64::from(self.sample_rate.unwrap_or(1)).max(1);
        samples * 1000 / rate
    }
}

/// As many are said in a second.
const CHARACTERS_PER_SECOND: u64 = 15;

/// How many bytes of `text` its whole words are that lie in the first `share` of it.
fn whole_words(text: &str, share: f64) -> usize {
    let limit = (share * text.len() as f64) as usize;
    text.char_indices()
        .filter(|(at, character)| character.is_whitespace() && *at <= limit)
        .map(|(at, _)| at)
        .next_back()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn nothing_follows_the_end_and_the_text_is_what_was_heard() {
        let events = Mutex::new(Vec::new());
        let events = std::sync::Arc::new(events);
        let seen = std::sync::Arc::clone(&events);
        let sink = move |event| seen.lock().unwrap().push(event);
        let answer = Answer::new(1, TurnClock::now(), (None, false), Some(1000), (None, 0.0));
        answer.text("One two three. ", 0.0, &sink).unwrap();
        answer.text("Four five six.", 0.0, &sink).unwrap();
        answer.piece(15);
        answer.audio(vec![0.0; 1000], (0.0, 0.0), &sink).unwrap();
        answer.piece(29);
        answer.audio(vec![0.0; 100], (0.0, 0.0), &sink).unwrap();
        // Fourteen characters take about a second, of which a tenth is there.
        assert_eq!(answer.heard_until(1100), "One two three.");
        answer.audio(vec![0.0; 900], (0.0, 0.0), &sink).unwrap();
        answer.piece_done();
        assert_eq!(answer.heard_until(0), "");
        assert_eq!(answer.heard_until(600), "One two");
        assert_eq!(answer.heard_until(1000), "One two three.");
        assert_eq!(answer.heard_until(1500), "One two three. Four");
        assert_eq!(answer.heard_until(9999), "One two three. Four five six.");
        let mut outcome = None;
        assert!(answer.end(AnswerEnd::Interrupted, &sink, |left| outcome = Some(left)));
        let outcome = outcome.unwrap();
        assert!(outcome.interrupted && outcome.text.len() < 29);
        assert!(answer.text("more", 0.0, &sink).is_err());
        assert!(answer.audio(vec![0.0], (0.0, 0.0), &sink).is_err());
        assert!(!answer.end(AnswerEnd::Completed, &sink, |_| unreachable!("it is over")));
        assert!(answer.control.is_cancelled() && answer.is_over());
        let events = events.lock().unwrap();
        assert!(matches!(
            events.last(),
            Some(VoiceEvent::AnswerEnded { .. })
        ));
        assert_eq!(events.len(), 6);
    }
}
