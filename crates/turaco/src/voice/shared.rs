//! What the threads of a session share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::DeviceQueue;
use crate::{Control, Error, Result, Synthesizer};

use super::answer::{About, Answer, Outcome, Sink};
use super::conversation::{Conversation, Message, Role};
use super::events::{AnswerEnd, VoiceEvent};
use super::options::{Answering, VoiceOptions};
use super::thinker::Question;

/// Who says answers.
#[derive(Debug, Clone)]
pub(super) struct VoiceModel {
    pub synthesizer: Arc<Synthesizer>,
    /// The turns in which it speaks.
    pub queue: Option<Arc<DeviceQueue>>,
}

/// What the threads of a session share.
pub(super) struct Shared {
    sink: Box<Sink>,
    options: Mutex<VoiceOptions>,
    conversation: Mutex<Conversation>,
    /// The newest answer; what was said of it may be corrected after its end.
    answer: Mutex<Option<Arc<Answer>>>,
    /// An answer that was interrupted, until it is known whether it goes on.
    kept: Mutex<Option<Arc<Answer>>>,
    n_answers: AtomicU64,
    /// Goes up when whatever was asked so far is no longer to be answered.
    epoch: AtomicU64,
    /// Questions that nobody has begun to answer.
    n_asked: AtomicU64,
    /// Samples that are to be written down.
    pub unwritten: AtomicUsize,
    /// What was heard of the turn that is going on.
    live_text: Mutex<String>,
    /// Who says answers, if anybody.
    voice: Mutex<Option<VoiceModel>>,
    /// Ends the session.
    pub control: Control,
}

impl Shared {
    pub fn new(sink: Box<Sink>, options: VoiceOptions, voice: Option<VoiceModel>) -> Self {
        Self {
            sink,
            conversation: Mutex::new(Conversation::new(options.conversation.clone())),
            options: Mutex::new(options),
            answer: Mutex::default(),
            kept: Mutex::default(),
            n_answers: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            n_asked: AtomicU64::new(0),
            unwritten: AtomicUsize::new(0),
            live_text: Mutex::default(),
            voice: Mutex::new(voice),
            control: Control::new(),
        }
    }

    pub fn tell(&self, event: VoiceEvent) {
        (self.sink)(event);
    }

    /// Something failed that ends neither the session nor an answer.
    pub fn fail(&self, error: &Error) {
        self.fail_as(error.code(), error);
    }

    /// The same under another name.
    pub fn fail_as(&self, code: &'static str, error: &Error) {
        if !matches!(error, Error::Cancelled) {
            self.tell(VoiceEvent::Failed {
                code,
                message: error.to_string(),
            });
        }
    }

    pub fn options(&self) -> MutexGuard<'_, VoiceOptions> {
        lock(&self.options)
    }

    pub fn voice(&self) -> Option<VoiceModel> {
        lock(&self.voice).clone()
    }

    /// Answers that begin from now on are said by `voice`.
    pub fn set_voice(&self, voice: Option<VoiceModel>) {
        *lock(&self.voice) = voice;
    }

    pub fn conversation(&self) -> MutexGuard<'_, Conversation> {
        lock(&self.conversation)
    }

    pub fn live_text(&self) -> MutexGuard<'_, String> {
        lock(&self.live_text)
    }

    /// What a question has to bear to be answered.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Something is asked.
    pub fn asked(&self) {
        self.n_asked.fetch_add(1, Ordering::SeqCst);
    }

    /// A new answer, the one before being over; `None` if nobody waits for it any more.
    pub fn begin_answer(
        &self,
        question: &Question,
        about: About,
        sample_rate: Option<u32>,
    ) -> Option<Arc<Answer>> {
        self.n_asked.fetch_sub(1, Ordering::SeqCst);
        self.end_answer(AnswerEnd::Cancelled);
        let goes_on = about.goes_on;
        let (answer, is_void) = {
            let mut newest = lock(&self.answer);
            let is_void = question.epoch != self.epoch();
            if is_void && question.request.is_none() {
                return None;
            }
            let number = 1 + self.n_answers.fetch_add(1, Ordering::Relaxed);
            let (clock, heard) = (question.clock, question.heard);
            let answer = Answer::new(number, clock, about, sample_rate, heard);
            let answer = Arc::new(answer.keeping_sound(self.options().turns.resume));
            if !is_void {
                *newest = Some(Arc::clone(&answer));
            }
            (answer, is_void)
        };
        let (number, utterance) = (answer.number, question.utterance);
        answer.announce(|| {
            self.tell(VoiceEvent::AnswerStarted {
                answer: number,
                utterance,
                request: question.request.as_ref().map(|(number, _)| *number),
                sample_rate,
                goes_on,
            });
        });
        if is_void {
            // Who asked for it in so many words is told.
            self.end(&answer, AnswerEnd::Cancelled);
            return None;
        }
        if self.control.is_cancelled() {
            self.end(&answer, AnswerEnd::Cancelled);
        }
        Some(answer)
    }

    /// Nothing that was asked so far is to be answered any more; whether anything was. What is interrupted may be `kept` to be gone
    /// on with.
    pub fn interrupt(&self, end: AnswerEnd, kept: bool) -> bool {
        if !kept {
            self.give_up_kept();
        }
        let newest = {
            let newest = lock(&self.answer);
            self.epoch.fetch_add(1, Ordering::SeqCst);
            newest.clone()
        };
        let was_asked = self.n_asked.load(Ordering::SeqCst) > 0;
        let Some(newest) = newest else {
            return was_asked;
        };
        let (was_given, was_heard) = (self.end_as(&newest, (end, kept)), newest.still_heard());
        // It is over, but what was said of it may still be on its way to the ear.
        if let Some(heard) = was_heard.filter(|_| !was_given) {
            self.cut(&newest, heard);
        }
        if kept && (was_given || was_heard.is_some()) {
            *lock(&self.kept) = Some(newest);
        }
        was_given || was_asked
    }

    /// Whether there is an answer that may go on.
    pub fn has_kept(&self) -> bool {
        lock(&self.kept).is_some()
    }

    /// The answer that is to go on, if nothing was said after `epoch`.
    pub fn take_kept(&self, epoch: u64) -> Option<Arc<Answer>> {
        let mut kept = lock(&self.kept);
        kept.take_if(|_| epoch == self.epoch())
    }

    /// The answer that was interrupted does not go on.
    pub fn give_up_kept(&self) {
        if let Some(answer) = lock(&self.kept).take() {
            answer.give_up();
        }
    }

    /// A question that nobody answers after all.
    pub fn not_answered(&self) {
        self.n_asked.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether an answer is being given, or heard.
    pub fn answering(&self) -> Answering {
        let newest = lock(&self.answer).clone();
        match newest {
            Some(answer) if answer.still_heard().is_some() => Answering::Heard,
            Some(answer) if !answer.is_over() => match answer.is_begun() {
                true => Answering::Heard,
                false => Answering::Thought,
            },
            _ => Answering::Nothing,
        }
    }

    /// The answer that is going on.
    pub fn current(&self) -> Option<Arc<Answer>> {
        lock(&self.answer)
            .clone()
            .filter(|answer| !answer.is_over())
    }

    /// End the answer that is going on; whether there was one.
    pub fn end_answer(&self, end: AnswerEnd) -> bool {
        self.current().is_some_and(|answer| self.end(&answer, end))
    }

    /// End an answer; `false` if it was over. What was said of it goes into the conversation.
    pub fn end(&self, answer: &Answer, end: AnswerEnd) -> bool {
        self.end_as(answer, (end, false))
    }

    fn end_as(&self, answer: &Answer, how: (AnswerEnd, bool)) -> bool {
        let (number, aside) = (answer.number, answer.about().aside);
        answer.end(how, &*self.sink, |outcome| {
            if !aside {
                self.remember(number, outcome);
            }
        })
    }

    fn remember(&self, number: u64, outcome: Outcome) {
        if outcome.text.trim().is_empty() && outcome.calls.is_empty() {
            return;
        }
        let mut message = Message::new(Role::Assistant, outcome.text);
        message.calls = outcome.calls;
        message.interrupted = outcome.interrupted;
        message.latency_ms = outcome.latency_ms;
        message.answer = Some(number);
        self.conversation().push_behind(outcome.question, message);
    }

    /// The listener of answer `number` heard only `audio_ms` of it.
    pub fn truncate(&self, number: u64, audio_ms: u64) -> Result<String> {
        let newest = lock(&self.answer).clone();
        let Some(answer) = newest.filter(|answer| answer.number == number) else {
            return Err(Error::InvalidOption {
                option: "item_id",
                message: "only the newest answer can be cut".into(),
            });
        };
        let there = answer.audio_ms();
        if audio_ms > there + SPARE_MS {
            return Err(Error::InvalidOption {
                option: "audio_end_ms",
                message: format!("{audio_ms} ms are more than the {there} ms that the answer has"),
            });
        }
        self.end(&answer, AnswerEnd::Cancelled);
        Ok(self.cut(&answer, audio_ms))
    }

    /// Nothing of an answer was heard after `audio_ms`; what was.
    fn cut(&self, answer: &Answer, audio_ms: u64) -> String {
        let text = answer.cut_at(audio_ms);
        let all = answer.with_before(&text);
        self.conversation().correct_answer(answer.number, &all);
        text
    }

    pub fn sink(&self) -> &Sink {
        &*self.sink
    }
}

/// Whoever plays an answer counts in blocks, or in samples of another rate.
const SPARE_MS: u64 = 100;

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
