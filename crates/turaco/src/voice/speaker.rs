//! The thread in which a session's answers become sound, while they are still being written.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::Result;
use crate::engine::{Job, Urgency};
use crate::tts::{SpeakOptions, SpeechStream, plain_text};

use super::answer::Answer;
use super::clauses::ClauseSplitter;
use super::events::{AnswerEnd, VoiceEvent};
use super::shared::{Shared, VoiceModel};

/// What the speaker is told.
pub(super) enum SpeakerMessage {
    /// An answer begins.
    Begin(Box<Saying>),
    /// More of its text.
    Text(String),
    /// There is no more text.
    End,
}

/// An answer that is to be said, and how.
pub(super) struct Saying {
    pub answer: Arc<Answer>,
    pub voice: VoiceModel,
    pub options: SpeakOptions,
    /// Bytes of its text that have their sound already.
    pub said: usize,
}

/// Without new text for so long, what is there is said.
const PATIENCE: Duration = Duration::from_millis(200);

/// Says one answer after the other.
pub(super) struct Speaker {
    pub shared: Arc<Shared>,
}

impl Speaker {
    /// Work until nobody sends any more.
    pub fn run(&self, messages: &Receiver<SpeakerMessage>) {
        let mut next = None;
        loop {
            let saying = match next.take() {
                Some(saying) => saying,
                None => match messages.recv() {
                    Ok(SpeakerMessage::Begin(saying)) => saying,
                    // What is left of an answer that was ended is passed over.
                    Ok(_) => continue,
                    Err(_) => break,
                },
            };
            let said = self.say(&saying, messages, &mut next);
            if let Some(message) = saying.voice.synthesizer.take_late_warning() {
                self.shared.tell(VoiceEvent::Warning { message });
            }
            match said {
                Ok(()) => self.shared.end(&saying.answer, AnswerEnd::Completed),
                Err(error) => {
                    if !saying.answer.is_over() {
                        self.shared.fail(&error);
                    }
                    self.shared.end(&saying.answer, AnswerEnd::Failed)
                }
            };
        }
    }

    /// Say an answer; `next` is one that began before it was known that this one is over.
    fn say(
        &self,
        what: &Saying,
        messages: &Receiver<SpeakerMessage>,
        next: &mut Option<Box<Saying>>,
    ) -> Result<()> {
        let (answer, voice) = (&*what.answer, &what.voice);
        let queue = voice.queue.as_ref();
        let job = queue.map(|queue| queue.enter(Urgency::Talk, &answer.control));
        let mut saying = Voicing {
            answer,
            shared: &self.shared,
            stream: voice
                .synthesizer
                .open_stream(&what.options, &answer.control)?,
            job: job.transpose()?,
            clauses: ClauseSplitter::new(),
            piece_ends: Vec::new(),
            begun: 0,
            text_len: what.said,
            first_text: None,
            writing: None,
            speaking: 0.0,
        };
        let mut complete = false;
        while !answer.is_over() {
            // All text that is there, without waiting while there is something to say.
            let message = match (complete, saying.has_work()) {
                (true, _) => None,
                (false, true) => messages.try_recv().ok(),
                (false, false) => match messages.recv_timeout(PATIENCE) {
                    Ok(message) => Some(message),
                    Err(RecvTimeoutError::Timeout) => {
                        saying.hurry();
                        None
                    }
                    Err(RecvTimeoutError::Disconnected) => Some(SpeakerMessage::End),
                },
            };
            match message {
                Some(SpeakerMessage::Text(text)) => {
                    saying.write(&text);
                    continue;
                }
                Some(SpeakerMessage::End) => {
                    complete = true;
                    saying.finish();
                }
                Some(SpeakerMessage::Begin(newer)) => {
                    *next = Some(newer);
                    break;
                }
                None => {}
            }
            if !saying.chunk()? && complete {
                break;
            }
        }
        Ok(())
    }
}

/// An answer that is being said.
struct Voicing<'a> {
    answer: &'a Answer,
    shared: &'a Shared,
    stream: SpeechStream<'a>,
    /// Its turns on the device.
    job: Option<Job>,
    clauses: ClauseSplitter,
    /// Where each piece that was given to the voice ends in the text, in bytes.
    piece_ends: Vec<usize>,
    /// Pieces whose sound has begun.
    begun: usize,
    text_len: usize,
    first_text: Option<Instant>,
    /// Seconds from the first text to the first piece.
    writing: Option<f64>,
    /// Seconds in the voice.
    speaking: f64,
}

impl Voicing<'_> {
    fn has_work(&self) -> bool {
        self.piece_ends.len() > self.stream.said().len()
    }

    fn write(&mut self, text: &str) {
        self.first_text.get_or_insert_with(Instant::now);
        self.clauses.push(text);
        while let Some(piece) = self.clauses.next() {
            self.piece(&piece);
        }
    }

    fn hurry(&mut self) {
        if let Some(piece) = self.clauses.hurry() {
            self.piece(&piece);
        }
    }

    fn finish(&mut self) {
        if let Some(piece) = self.clauses.finish() {
            self.piece(&piece);
        }
        self.stream.finish();
    }

    fn piece(&mut self, piece: &str) {
        self.text_len += piece.len();
        let plain = plain_text(piece);
        // Marks alone have no sound.
        if !plain.chars().any(char::is_alphanumeric) {
            return;
        }
        if let (None, Some(first)) = (self.writing, self.first_text) {
            self.writing = Some(first.elapsed().as_secs_f64());
        }
        self.stream.push_piece(plain.trim());
        self.piece_ends.push(self.text_len);
    }

    /// Make more sound; whether there was any.
    fn chunk(&mut self) -> Result<bool> {
        let started = Instant::now();
        let has_work = self.has_work();
        let job = self.job.as_mut().filter(|_| has_work);
        let turn = job.map(|job| job.turn(&self.answer.control)).transpose()?;
        let chunk = self.stream.next_chunk();
        drop(turn);
        self.speaking += started.elapsed().as_secs_f64();
        let chunk = chunk?;
        let Some(chunk) = chunk else {
            return Ok(false);
        };
        while self.begun <= chunk.piece {
            if let Some(&end) = self.piece_ends.get(self.begun) {
                self.answer.piece(end);
            }
            self.begun += 1;
        }
        if !chunk.samples.is_empty() {
            let first = (self.writing.unwrap_or_default(), self.speaking);
            self.answer
                .audio(chunk.samples, first, self.shared.sink())?;
        }
        if chunk.stopped.is_some() {
            self.answer.piece_done();
        }
        Ok(true)
    }
}
