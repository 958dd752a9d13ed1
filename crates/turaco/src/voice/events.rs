//! What a session tells.

use std::sync::Arc;

use serde::Serialize;

use crate::asr::Word;
use crate::chat::ToolCall;

use super::timings::TurnTimings;

/// Why an answer is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AnswerEnd {
    /// All of it was given.
    Completed,
    /// The mind reached its limit.
    Cut,
    /// The user spoke.
    Interrupted,
    /// It was asked to stop.
    Cancelled,
    /// It failed; an event tells why.
    Failed,
}

/// One thing that happened. Positions are milliseconds of sound since the session began; utterances and answers are numbered from 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum VoiceEvent {
    /// The user began to speak.
    SpeechStarted {
        /// Number of the utterance.
        utterance: u64,
        /// Where its sound begins, what is kept from before included.
        at_ms: u64,
    },
    /// The user stopped.
    SpeechStopped {
        /// Number of the utterance.
        utterance: u64,
        /// Where the silence began.
        at_ms: u64,
    },
    /// Something began like speech and was too short to count.
    Ignored {
        /// Where it was over.
        at_ms: u64,
    },
    /// The user's turn is over, by silence or because the caller said so; an answer may follow.
    Committed {
        /// Number of the utterance.
        utterance: u64,
        /// Seconds of sound.
        seconds: f64,
        /// The sound at 16 kHz.
        #[serde(skip)]
        sound: Arc<[f32]>,
    },
    /// More of what the user says, while it is said.
    Hearing {
        /// Number of the utterance.
        utterance: u64,
        /// New characters.
        text: String,
    },
    /// What the user said.
    Heard {
        /// Number of the utterance.
        utterance: u64,
        /// All of it; empty for sound without words.
        text: String,
        /// Of speech, in seconds.
        seconds: f64,
        /// Its words with times and probabilities, where those were asked for and the recogniser tells them.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        words: Vec<Word>,
    },
    /// What was said while an answer was heard does not interrupt it: the answer that begins next is the rest of it.
    Passed {
        /// Number of the utterance.
        utterance: u64,
    },
    /// A [`commit`](super::VoiceSession::commit) was heeded, and whatever it ended was told.
    CommitHeeded {
        /// Whether anything was said since the turn before.
        found: bool,
    },
    /// The utterance could not be written down.
    HearingFailed {
        /// Number of the utterance.
        utterance: u64,
        /// Why.
        message: String,
    },
    /// The sound of something that was added is written down.
    Read {
        /// The name under which it was added.
        tag: Option<String>,
        /// All of it.
        text: String,
        /// Of sound, in seconds.
        seconds: f64,
        /// As of [`Heard`](Self::Heard).
        #[serde(skip_serializing_if = "Vec::is_empty")]
        words: Vec<Word>,
    },
    /// Somebody begins to answer.
    AnswerStarted {
        /// Number of the answer.
        answer: u64,
        /// The question.
        utterance: u64,
        /// Number of the request, for answers that were asked for in so many words.
        #[serde(skip_serializing_if = "Option::is_none")]
        request: Option<u64>,
        /// Samples per second, of answers that are said.
        #[serde(skip_serializing_if = "Option::is_none")]
        sample_rate: Option<u32>,
        /// The answer whose rest this is.
        #[serde(skip_serializing_if = "Option::is_none")]
        goes_on: Option<u64>,
    },
    /// More text of an answer.
    AnswerText {
        /// Number of the answer.
        answer: u64,
        /// New characters.
        text: String,
    },
    /// More sound of an answer, at the voice's rate.
    AnswerAudio {
        /// Number of the answer.
        answer: u64,
        /// Mono samples.
        #[serde(skip)]
        samples: Vec<f32>,
    },
    /// The mind waits for the result of a function; the answer ends without it, and another one follows it.
    AnswerCall {
        /// Number of the answer.
        answer: u64,
        /// The call.
        call: ToolCall,
    },
    /// An answer is over. Nothing of it comes after this.
    AnswerEnded {
        /// Number of the answer.
        answer: u64,
        /// Why.
        end: AnswerEnd,
        /// Its whole text; of one that was interrupted, what was heard of it.
        text: String,
        /// Milliseconds of its sound that were given out (and, after an interruption, could have been heard).
        audio_ms: u64,
        /// Tokens read and written, if known.
        tokens: Option<(usize, usize)>,
        /// How long everything took.
        timings: TurnTimings,
    },
    /// Something that users should know, such as a device that failed and another that goes on.
    Warning {
        /// What.
        message: String,
    },
    /// Something failed; the session goes on.
    Failed {
        /// A stable machine-readable name: `llm_error` if it was the one who answers, else that of the [`Error`](crate::Error).
        code: &'static str,
        /// What.
        message: String,
    },
    /// Nobody has said anything for as long as was asked for.
    Idle {
        /// Where the waiting was over.
        at_ms: u64,
    },
}
