//! What a conversation still owes when nobody says anything more.

use std::collections::HashSet;

use turaco::voice::VoiceEvent;

/// Utterances that are to be written down, and the question that is to be answered.
#[derive(Debug, Default)]
pub struct Awaited {
    unwritten: HashSet<u64>,
    unanswered: Option<u64>,
    /// Commits that were asked for and not heeded yet.
    commits: usize,
}

impl Awaited {
    /// Whether something is owed.
    pub fn is_busy(&self) -> bool {
        !self.unwritten.is_empty() || self.unanswered.is_some() || self.commits > 0
    }

    /// What is being said is to be a whole turn.
    pub fn commit(&mut self) {
        self.commits += 1;
    }

    /// Something happened in a conversation that `writes` down what is said, and `answers` without being asked.
    pub fn note(&mut self, event: &VoiceEvent, writes: bool, answers: bool) {
        match event {
            VoiceEvent::Committed { utterance, .. } => {
                if writes {
                    self.unwritten.insert(*utterance);
                }
                self.unanswered = Some(*utterance).filter(|_| answers);
            }
            VoiceEvent::Heard {
                utterance, text, ..
            } => {
                self.unwritten.remove(utterance);
                // Noise is not answered.
                if text.trim().is_empty() {
                    self.unanswered.take_if(|one| one == utterance);
                }
            }
            VoiceEvent::HearingFailed { utterance, .. } => {
                self.unwritten.remove(utterance);
                self.unanswered.take_if(|one| one == utterance);
            }
            VoiceEvent::AnswerStarted { .. } | VoiceEvent::AnswerEnded { .. } => {
                self.unanswered = None
            }
            // The rest of an answer is told of as an answer.
            VoiceEvent::Passed { utterance } => {
                self.unanswered.take_if(|one| one == utterance);
            }
            VoiceEvent::CommitHeeded { .. } => self.commits = self.commits.saturating_sub(1),
            VoiceEvent::Failed { .. } => *self = Self::default(),
            _ => {}
        }
    }
}
