//! The thread in which a session's mind answers.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use crate::tts::SpeakOptions;

use super::answer::{About, Answer, Rest, TurnClock};
use super::conversation::Which;
use super::events::{AnswerEnd, VoiceEvent};
use super::mind::{Brief, Mind};
use super::request::AnswerRequest;
use super::shared::{Shared, VoiceModel};
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
    /// It was none: the answer before it goes on.
    pub goes_on: bool,
}

/// Answers one question after the other.
pub(super) struct Thinker {
    pub mind: Box<dyn Mind>,
    pub shared: Arc<Shared>,
    /// Where text goes that is to be said.
    pub speaker: Sender<SpeakerMessage>,
    /// The newest answer, and how it is said, if it is.
    pub newest: (u64, Option<(VoiceModel, SpeakOptions)>),
}

impl Thinker {
    /// Work until nobody asks any more.
    pub fn run(mut self, questions: &Receiver<Question>) {
        self.shared.conversation().set_room(self.mind.room());
        while let Ok(question) = questions.recv() {
            if self.shared.control.is_cancelled() {
                break;
            }
            match question.goes_on {
                false => self.answer(&question),
                true => self.go_on(&question),
            }
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
        let about = About {
            question: about,
            aside: request.aside,
            ..About::default()
        };
        // What is asked in another way is not about what was said before.
        shared.give_up_kept();
        let Some(answer) = shared.begin_answer(question, about, sample_rate) else {
            return;
        };
        self.newest = (answer.number, voice.map(|voice| (voice, speech)));
        let is_said = self.begin_saying(&answer, 0);
        let send = |message| {
            if is_said {
                // The speaker is gone only when the session ends.
                let _ = self.speaker.send(message);
            }
        };
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

    /// Have an answer said as the newest is, but for the first bytes of its text; whether anybody says it.
    fn begin_saying(&self, answer: &Arc<Answer>, said: usize) -> bool {
        let Some((voice, options)) = self.newest.1.clone() else {
            return false;
        };
        let saying = Saying {
            answer: Arc::clone(answer),
            voice,
            options,
            said,
        };
        let sent = self.speaker.send(SpeakerMessage::Begin(Box::new(saying)));
        // The speaker is gone only when the session ends.
        sent.is_ok()
    }

    /// Give what was not heard of the newest answer, which has been written to its end meanwhile.
    fn go_on(&mut self, question: &Question) {
        let shared = &self.shared;
        let kept = shared.take_kept(question.epoch);
        let kept = kept.filter(|kept| kept.number == self.newest.0);
        let rest = kept.map(|kept| kept.rest());
        let is_whole = |rest: &Rest| rest.text.is_empty() && rest.answered.calls.is_empty();
        let Some(rest) = rest.filter(|rest| !is_whole(rest)) else {
            return shared.not_answered();
        };
        let voice = self.newest.1.as_ref();
        let sample_rate = voice.map(|(voice, _)| voice.synthesizer.sample_rate());
        if let Some(before) = rest.about.goes_on {
            // It is one answer with its rest.
            shared.conversation().remove(&Which::Answer(before));
        }
        let Some(answer) = shared.begin_answer(question, rest.about, sample_rate) else {
            return;
        };
        self.newest.0 = answer.number;
        let said = rest.sound.last().map_or(0, |(_, end)| *end);
        let is_said = self.begin_saying(&answer, said);
        let mut written = match rest.text.is_empty() {
            true => Ok(()),
            false => answer.text(&rest.text, 0.0, shared.sink()),
        };
        // The sound that was on its way when it was stopped.
        for (samples, end) in rest.sound {
            answer.piece(end);
            let sent = answer.audio(samples, (0.0, 0.0), shared.sink());
            answer.piece_done();
            written = written.and(sent);
        }
        answer.answered(rest.answered, shared.sink());
        match is_said && written.is_ok() {
            true => {
                let unsaid = rest.text[said..].to_owned();
                let _ = self.speaker.send(SpeakerMessage::Text(unsaid));
                let _ = self.speaker.send(SpeakerMessage::End);
            }
            false => drop(shared.end(&answer, AnswerEnd::Completed)),
        }
        answer.wait();
    }
}
