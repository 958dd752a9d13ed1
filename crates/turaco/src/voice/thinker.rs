//! The thread in which a session's mind answers.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use super::answer::TurnClock;
use super::events::{AnswerEnd, VoiceEvent};
use super::mind::{Brief, Mind};
use super::request::AnswerRequest;
use super::shared::Shared;
use super::speaker::{Saying, SpeakerMessage};

/// Something to be answered: what the conversation ends with.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub utterance: u64,
    pub clock: TurnClock,
    /// When it was there as text, and how long the recogniser worked.
    pub heard: (Option<f64>, f64),
    /// The moment in which it was asked; later ones make it void.
    pub epoch: u64,
    /// How it was asked for, and the number of that, if it was in so many words.
    pub request: Option<(u64, Arc<AnswerRequest>)>,
}

/// Answers one question after the other.
pub(super) struct Thinker {
    pub mind: Box<dyn Mind>,
    pub shared: Arc<Shared>,
    /// Where text goes that is to be said.
    pub speaker: Sender<SpeakerMessage>,
}

impl Thinker {
    /// Work until nobody asks any more.
    pub fn run(mut self, questions: &Receiver<Question>) {
        self.shared.conversation().set_room(self.mind.room());
        while let Ok(question) = questions.recv() {
            if self.shared.control.is_cancelled() {
                break;
            }
            self.answer(&question);
        }
    }

    fn answer(&mut self, question: &Question) {
        let shared = &self.shared;
        let usual = AnswerRequest::default();
        let request = question.request.as_ref();
        let request = request.map_or(&usual, |(_, request)| &**request);
        let (context, about) = {
            let conversation = shared.conversation();
            (conversation.context_for(request), conversation.last_id())
        };
        let (options, speech) = {
            let session = shared.options();
            let options = request.options.as_ref().unwrap_or(&session.answers);
            let speech = request.speech.as_ref().unwrap_or(&session.speech);
            (options.clone(), speech.clone())
        };
        let voice = shared.voice().filter(|_| options.speak);
        let sample_rate = voice.as_ref().map(|voice| voice.synthesizer.sample_rate());
        let about = (about, request.aside);
        let Some(answer) = shared.begin_answer(question, about, sample_rate) else {
            return;
        };
        let is_said = voice.is_some();
        let send = |message| {
            if is_said {
                // The speaker is gone only when the session ends.
                let _ = self.speaker.send(message);
            }
        };
        if let Some(voice) = voice {
            send(SpeakerMessage::Begin(Box::new(Saying {
                answer: Arc::clone(&answer),
                voice,
                options: speech,
            })));
        }
        let started = Instant::now();
        let mut say = |text: &str| {
            answer.text(text, started.elapsed().as_secs_f64(), shared.sink())?;
            send(SpeakerMessage::Text(text.to_owned()));
            Ok(())
        };
        let brief = Brief::new(&context, &options);
        let answered = self.mind.answer(brief, &answer.control, &mut say);
        if let Some(message) = self.mind.take_warning() {
            shared.tell(VoiceEvent::Warning { message });
        }
        match answered {
            Ok(answered) => {
                answer.answered(answered, shared.sink());
                send(SpeakerMessage::End);
                if !is_said {
                    shared.end(&answer, AnswerEnd::Completed);
                }
            }
            Err(error) => {
                if !answer.is_over() {
                    shared.fail_as("llm_error", &error);
                }
                shared.end(&answer, AnswerEnd::Failed);
                send(SpeakerMessage::End);
            }
        }
        answer.wait();
    }
}
