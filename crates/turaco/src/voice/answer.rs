//! One answer on its way out: what was written and said of it, and that nothing follows its end.

use std::collections::VecDeque;
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
    /// The last sound of speech came in, if it is silence behind it that ended the turn.
    pub last_sound: Option<Instant>,
    /// The turn was taken to be over.
    pub decided: Instant,
    /// Seconds of looking for speech.
    pub detection: f64,
}

impl TurnClock {
    /// A turn that is over by word, not by silence.
    pub fn now() -> Self {
        Self {
            last_sound: None,
            decided: Instant::now(),
            detection: 0.0,
        }
    }
}

/// What an answer is to the conversation.
#[derive(Debug, Clone, Default)]
pub(super) struct About {
    /// The message that it is about.
    pub question: Option<u64>,
    /// It is no part of the conversation.
    pub aside: bool,
    /// The answer whose rest it is,
    pub goes_on: Option<u64>,
    /// and what was heard of that.
    pub before: String,
}

/// What was not heard of an answer.
#[derive(Debug)]
pub(super) struct Rest {
    pub about: About,
    pub text: String,
    pub answered: Answered,
    /// Sound of its first pieces that was made already, from the sample on at which it was stopped: where the pieces begin and
    /// where they end in the text, as in an answer of its own.
    pub sound: Vec<(Vec<f32>, usize)>,
}

/// An answer, shared by the one who writes it, the one who says it, and the one who may interrupt.
#[derive(Debug)]
pub(super) struct Answer {
    pub number: u64,
    about: About,
    /// Ends the work on it.
    pub control: Control,
    clock: TurnClock,
    /// Samples per second of its sound, if it has any.
    sample_rate: Option<u32>,
    /// It may be gone on with from where it was stopped: sound that was not heard yet is kept.
    keeps_sound: bool,
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
    /// Since when sound is played without a pause, and from which sample on.
    playing: Option<(Instant, u64)>,
    timings: TurnTimings,
    answered: Answered,
    ended: bool,
    /// It may be gone on with: what is written after its end is not for nothing.
    kept: bool,
    /// Bytes of the text that were heard, and samples of the sound, once it was cut off.
    cut: Option<(usize, u64)>,
    /// The newest samples, as far as they are kept.
    unheard: VecDeque<f32>,
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
        about: About,
        sample_rate: Option<u32>,
        (transcript, recognition): (Option<f64>, f64),
    ) -> Self {
        // The rest of an answer is no answer to the sound that interrupted it.
        let last_sound = clock.last_sound.filter(|_| about.goes_on.is_none());
        let timings = TurnTimings {
            detection: clock.detection,
            turn_end: last_sound.map(|sound| (clock.decided - sound).as_secs_f64()),
            transcript,
            recognition,
            ..TurnTimings::default()
        };
        Self {
            number,
            about,
            control: Control::new(),
            clock,
            sample_rate,
            keeps_sound: false,
            state: Mutex::new(State {
                timings,
                ..State::default()
            }),
            ended: Condvar::new(),
        }
    }

    /// The same, which can be gone on with from where it was stopped, if `keeps_sound`.
    #[must_use]
    pub fn keeping_sound(mut self, keeps_sound: bool) -> Self {
        self.keeps_sound = keeps_sound;
        self
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

    /// What it is to the conversation.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// More text was written; `thinking` is how long the mind has worked.
    pub fn text(&self, text: &str, thinking: f64, sink: &Sink) -> Result<()> {
        let mut state = self.lock();
        if state.ended {
            if !state.kept {
                return Err(Error::Cancelled);
            }
            state.text.push_str(text);
            return Ok(());
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
            if state.kept {
                state.answered = answered;
            }
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
    pub fn audio(&self, samples: Vec<f32>, waits: (f64, f64), sink: &Sink) -> Result<()> {
        self.audio_at(Instant::now(), samples, waits, sink)
    }

    fn audio_at(
        &self,
        now: Instant,
        samples: Vec<f32>,
        (writing, speaking): (f64, f64),
        sink: &Sink,
    ) -> Result<()> {
        let mut state = self.lock();
        if state.ended {
            return Err(Error::Cancelled);
        }
        if state.playing.is_none() {
            state.timings.first_audio = Some(self.elapsed());
            state.timings.writing = writing;
            state.timings.speaking = speaking;
        }
        // All that came before was played: until now nothing was to be heard.
        if self.played(&state, now) >= state.n_samples {
            state.playing = Some((now, state.n_samples));
        }
        state.n_samples += samples.len() as u64;
        if self.keeps_sound {
            state.unheard.extend(&samples);
            let heard = self.samples(self.heard_ms(&state, now));
            let ahead = state.n_samples.saturating_sub(heard) as usize;
            let old = state.unheard.len().saturating_sub(ahead);
            state.unheard.drain(..old);
        }
        sink(VoiceEvent::AnswerAudio {
            answer: self.number,
            samples,
        });
        Ok(())
    }

    /// It is over; `false` if it was before. Interrupted, it is what can have been heard of it by now. Where it is to be `kept`, the
    /// mind goes on writing. `remember` is given what remains before anybody is told.
    pub fn end(
        &self,
        (end, kept): (AnswerEnd, bool),
        sink: &Sink,
        remember: impl FnOnce(Outcome),
    ) -> bool {
        let mut state = self.lock();
        if state.ended {
            return false;
        }
        state.ended = true;
        state.kept = kept;
        if !kept {
            self.control.cancel();
        }
        let end = match end {
            AnswerEnd::Completed if state.answered.cut => AnswerEnd::Cut,
            end => end,
        };
        let interrupted = matches!(end, AnswerEnd::Interrupted | AnswerEnd::Cancelled);
        let audio_ms = match interrupted {
            true => self.heard_ms(&state, Instant::now()),
            false => self.milliseconds(state.n_samples),
        };
        let text = match interrupted {
            true => self.cut(&mut state, audio_ms),
            false => state.text.clone(),
        };
        state.timings.total = self.elapsed();
        let answered = std::mem::take(&mut state.answered);
        let latency = state.timings.first_text;
        remember(Outcome {
            question: self.about.question,
            text: self.with_before(&text),
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

    /// Whether anybody has heard or read any of it.
    pub fn is_begun(&self) -> bool {
        let state = self.lock();
        match self.sample_rate {
            Some(_) => state.playing.is_some(),
            None => state.timings.first_text.is_some(),
        }
    }

    /// Milliseconds of its sound that can have been heard by now, if there is more that is still to be heard.
    pub fn still_heard(&self) -> Option<u64> {
        let state = self.lock();
        if state.cut.is_some() {
            return None;
        }
        let heard = self.heard_ms(&state, Instant::now());
        (heard < self.milliseconds(state.n_samples)).then_some(heard)
    }

    /// Milliseconds of the sound that was given out, the last one begun included.
    pub fn audio_ms(&self) -> u64 {
        let state = self.lock();
        let rate = u64::from(self.sample_rate.unwrap_or(1)).max(1);
        (state.n_samples * 1000).div_ceil(rate)
    }

    /// Wait until it is over.
    pub fn wait(&self) {
        let mut state = self.lock();
        while !state.ended {
            let waited = self.ended.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing of it was heard after `audio_ms` of its sound; its text until then.
    pub fn cut_at(&self, audio_ms: u64) -> String {
        self.cut(&mut self.lock(), audio_ms)
    }

    fn cut(&self, state: &mut State, audio_ms: u64) -> String {
        let heard = self.heard(state, audio_ms);
        state.cut = Some((heard.len(), self.samples(audio_ms)));
        heard
    }

    /// A text of it, behind what was heard of the answer whose rest it is.
    pub fn with_before(&self, text: &str) -> String {
        match (self.about.before.as_str(), text) {
            ("", text) => text.to_owned(),
            (before, "") => before.to_owned(),
            (before, text) => format!("{before} {text}"),
        }
    }

    /// It will not be gone on with.
    pub fn give_up(&self) {
        self.lock().kept = false;
        self.control.cancel();
    }

    /// What nobody has heard of it.
    pub fn rest(&self) -> Rest {
        let mut state = self.lock();
        let (cut, stopped) = state.cut.unwrap_or_default();
        let (heard, rest) = state.text.split_at(cut);
        let about = About {
            goes_on: Some(self.number),
            before: self.with_before(heard),
            ..self.about.clone()
        };
        let text = rest.trim_start().to_owned();
        let begin = state.text.len() - text.len();
        Rest {
            about,
            text,
            sound: state.sound_behind(stopped, begin),
            answered: std::mem::take(&mut state.answered),
        }
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

    /// Samples that can have been played by `now`: sound is played as it comes, and not while there is none.
    fn played(&self, state: &State, now: Instant) -> u64 {
        let Some((since, from)) = state.playing else {
            return 0;
        };
        let played = now.saturating_duration_since(since).as_millis() as u64;
        state.n_samples.min(from + self.samples(played))
    }

    fn heard_ms(&self, state: &State, now: Instant) -> u64 {
        self.milliseconds(self.played(state, now))
    }

    fn samples(&self, milliseconds: u64) -> u64 {
        let rate = u64::from(self.sample_rate.unwrap_or_default());
        milliseconds.saturating_mul(rate) / 1000
    }

    fn milliseconds(&self, samples: u64) -> u64 {
        let rate = u64::from(self.sample_rate.unwrap_or(1)).max(1);
        samples * 1000 / rate
    }
}

impl State {
    /// What is kept of whole pieces behind a sample, each with the end of its text behind `begin`. Nothing if it is not known from
    /// that sample on: then it is said anew.
    fn sound_behind(&self, stopped: u64, begin: usize) -> Vec<(Vec<f32>, usize)> {
        let kept_from = self.n_samples - self.unheard.len() as u64;
        if stopped < kept_from {
            return Vec::new();
        }
        let mut sound = Vec::new();
        for (index, &(start, text_end)) in self.pieces.iter().enumerate() {
            let next = self.pieces.get(index + 1).map(|piece| piece.0);
            // What is not there as a whole is said anew.
            let Some(end) = next.or(self.piece_done.then_some(self.n_samples)) else {
                break;
            };
            if end <= stopped || text_end <= begin {
                continue;
            }
            let range = (start.max(stopped) - kept_from) as usize..(end - kept_from) as usize;
            sound.push((
                self.unheard.range(range).copied().collect(),
                text_end - begin,
            ));
        }
        sound
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_is_heard_while_no_sound_is_there() {
        let sink = |_: VoiceEvent| {};
        let about = About::default();
        let answer =
            Answer::new(1, TurnClock::now(), about, Some(1000), (None, 0.0)).keeping_sound(true);
        answer.text("One two. Three four.", 0.0, &sink).unwrap();
        let now = Instant::now();
        let sound = |from: u32, to: u32| (from..to).map(|n| n as f32).collect();
        // Two seconds of sound, a pause of three, and a burst of six, of which two have been played.
        for (ago, end, samples) in [(7, 8, sound(0, 2000)), (2, 20, sound(2000, 8000))] {
            answer.piece(end);
            let then = now - Duration::from_secs(ago);
            answer.audio_at(then, samples, (0.0, 0.0), &sink).unwrap();
        }
        answer.piece_done();
        // However long the machine takes for the rest of this test.
        let is_right = |heard_ms: u64| (4000..6500).contains(&heard_ms);
        assert!(is_right(answer.still_heard().unwrap()));
        let mut outcome = None;
        answer.end((AnswerEnd::Interrupted, true), &sink, |left| {
            outcome = Some(left);
        });
        assert!(!outcome.unwrap().text.contains("four"));
        let sound = answer.rest().sound;
        assert!(is_right(sound[0].0[0] as u64) && sound[0].0.last() == Some(&7999.0));
    }

    #[test]
    fn an_answer_goes_on_at_the_sample_where_it_was_stopped() {
        let sink = |_: VoiceEvent| {};
        let answer = |keeps_sound| {
            let about = About::default();
            let answer = Answer::new(1, TurnClock::now(), about, Some(1000), (None, 0.0))
                .keeping_sound(keeps_sound);
            let text = "One two three. Four five six. Seven eight.";
            answer.text(text, 0.0, &sink).unwrap();
            for (piece, end) in [15, 30, 42].into_iter().enumerate() {
                answer.piece(end);
                let samples = (0..1000).map(|n| (1000 * piece + n) as f32).collect();
                answer.audio(samples, (0.0, 0.0), &sink).unwrap();
            }
            // In the middle of a word of the second piece; the third is not there as a whole.
            assert_eq!(answer.cut_at(1500), "One two three. Four");
            answer
        };
        let rest = answer(true).rest();
        assert_eq!(rest.text, "five six. Seven eight.");
        let [(samples, end)] = &rest.sound[..] else {
            panic!("{} pieces", rest.sound.len());
        };
        let expected: Vec<f32> = (1500..2000).map(|n| n as f32).collect();
        assert_eq!(*samples, expected);
        assert_eq!(&rest.text[*end..], "Seven eight.");
        let whole = answer(true);
        whole.piece_done();
        let rest = whole.rest();
        assert_eq!(rest.sound.len(), 2);
        assert_eq!(rest.sound[1].1, rest.text.len());
        // What is not kept is said anew.
        assert!(answer(false).rest().sound.is_empty());
    }

    #[test]
    fn nothing_follows_the_end_and_the_text_is_what_was_heard() {
        let events = Mutex::new(Vec::new());
        let events = std::sync::Arc::new(events);
        let seen = std::sync::Arc::clone(&events);
        let sink = move |event| seen.lock().unwrap().push(event);
        let about = About::default();
        let answer = Answer::new(1, TurnClock::now(), about, Some(1000), (None, 0.0));
        answer.text("One two three. ", 0.0, &sink).unwrap();
        answer.text("Four five six.", 0.0, &sink).unwrap();
        answer.piece(15);
        answer.audio(vec![0.0; 1000], (0.0, 0.0), &sink).unwrap();
        answer.piece(29);
        answer.audio(vec![0.0; 100], (0.0, 0.0), &sink).unwrap();
        // Fourteen characters take about a second, of which a tenth is there.
        assert_eq!(answer.cut_at(1100), "One two three.");
        answer.audio(vec![0.0; 900], (0.0, 0.0), &sink).unwrap();
        answer.piece_done();
        assert_eq!(answer.cut_at(0), "");
        assert_eq!(answer.cut_at(600), "One two");
        assert_eq!(answer.cut_at(1000), "One two three.");
        assert_eq!(answer.cut_at(1500), "One two three. Four");
        assert_eq!(answer.cut_at(9999), "One two three. Four five six.");
        let mut outcome = None;
        assert!(answer.end((AnswerEnd::Interrupted, false), &sink, |left| {
            outcome = Some(left)
        }));
        let outcome = outcome.unwrap();
        assert!(outcome.interrupted && outcome.text.len() < 29);
        assert!(answer.text("more", 0.0, &sink).is_err());
        assert!(answer.audio(vec![0.0], (0.0, 0.0), &sink).is_err());
        let again = |_| unreachable!("it is over");
        assert!(!answer.end((AnswerEnd::Completed, false), &sink, again));
        assert!(answer.control.is_cancelled() && answer.is_over());
        let events = events.lock().unwrap();
        assert!(matches!(
            events.last(),
            Some(VoiceEvent::AnswerEnded { .. })
        ));
        assert_eq!(events.len(), 6);
    }

    #[test]
    fn an_answer_that_is_kept_is_written_to_its_end_and_knows_its_rest() {
        let sink = |_: VoiceEvent| {};
        let about = About {
            question: Some(3),
            before: "Zero.".into(),
            ..About::default()
        };
        let answer = Answer::new(7, TurnClock::now(), about, Some(1000), (None, 0.0));
        answer.text("One two three. ", 0.0, &sink).unwrap();
        answer.piece(15);
        answer.audio(vec![0.0; 1000], (0.0, 0.0), &sink).unwrap();
        answer.piece_done();
        let mut outcome = None;
        answer.end((AnswerEnd::Interrupted, true), &sink, |left| {
            outcome = Some(left)
        });
        // So soon nothing can have been heard.
        assert_eq!(outcome.unwrap().text, "Zero.");
        answer.text("Four five six.", 0.0, &sink).unwrap();
        assert!(answer.audio(vec![0.0], (0.0, 0.0), &sink).is_err());
        assert!(!answer.control.is_cancelled());
        assert_eq!(answer.cut_at(1000), "One two three.");
        let rest = answer.rest();
        assert_eq!(rest.text, "Four five six.");
        assert_eq!(rest.about.before, "Zero. One two three.");
        assert_eq!(
            (rest.about.goes_on, rest.about.question),
            (Some(7), Some(3))
        );
        answer.give_up();
        assert!(answer.control.is_cancelled() && answer.text("x", 0.0, &sink).is_err());
    }
}
