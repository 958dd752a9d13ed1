//! The thread in which a session's mind answers.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use super::answer::TurnClock;
use super::events::AnswerEnd;
use super::mind::Mind;
use super::shared::Shared;
use super::speaker::SpeakerMessage;

/// Something to be answered: what the conversation ends with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    pub utterance: u64,
    pub clock: TurnClock,
    /// When it was there as text, and how long the recogniser worked.
    pub heard: (Option<f64>, f64),
    /// The moment in which it was asked; later ones make it void.
    pub epoch: u64,
}

/// Answers one question after the other.
pub(super) struct Thinker {
    pub mind: Box<dyn Mind>,
    pub shared: Arc<Shared>,
    /// Where text goes that is to be said.
    pub speaker: Option<Sender<SpeakerMessage>>,
}

impl Thinker {
    /// Work until nobody asks any more.
    pub fn run(mut self, questions: &Receiver<Question>) {
        while let Ok(question) = questions.recv() {
            if self.shared.control.is_cancelled() {
                break;
            }
            self.answer(question);
        }
    }

    fn answer(&mut self, question: Question) {
        let shared = &self.shared;
        let context = shared.conversation().context();
        let about = context.last().map(|message| message.id);
        let Some(answer) = shared.begin_answer(&question, about) else {
            return;
        };
        let send = |message| {
            if let Some(speaker) = &self.speaker {
                // The speaker is gone only when the session ends.
                let _ = speaker.send(message);
            }
        };
        send(SpeakerMessage::Begin(Arc::clone(&answer)));
        let started = Instant::now();
        let mut say = |text: &str| {
            answer.text(text, started.elapsed().as_secs_f64(), shared.sink())?;
            send(SpeakerMessage::Text(text.to_owned()));
            Ok(())
        };
        match self.mind.answer(&context, &answer.control, &mut say) {
            Ok(answered) => {
                answer.answered(answered);
                send(SpeakerMessage::End);
                if self.speaker.is_none() {
                    shared.end(&answer, AnswerEnd::Completed);
                }
            }
            Err(error) => {
                if !answer.is_over() {
                    shared.fail(&error);
                }
                shared.end(&answer, AnswerEnd::Failed);
                send(SpeakerMessage::End);
            }
        }
        answer.wait();
    }
}
