//! What a session tells while sound arrives.

use serde::{Deserialize, Serialize};

use crate::asr::{Segment, Word};

/// Which of a session's texts an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrackKind {
    /// The text that counts.
    Settled,
    /// The same speech earlier and less certain.
    Draft,
}

/// Another text that a token could have been.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// The token's text.
    pub text: String,
    /// Its probability among all tokens.
    pub probability: f64,
}

impl RealtimeEvent {
    /// Move all times by this many seconds, for a stream that began later than the sound.
    pub fn shift(&mut self, seconds: f64) {
        let shift_word = |word: &mut Word| {
            word.start += seconds;
            word.end += seconds;
        };
        match self {
            Self::Text { time, .. } | Self::End { time, .. } => *time += seconds,
            Self::Word { word, .. } => shift_word(word),
            Self::Segment(segment) => {
                segment.start += seconds;
                segment.end += seconds;
                segment.seek = (segment.start * 100.0).round() as usize;
                segment.words.iter_mut().flatten().for_each(shift_word);
            }
        }
    }

    /// Bring all times into a stream of which so many seconds were heard.
    pub(super) fn keep_within(&mut self, heard: f64) {
        match self {
            Self::Text { time, .. } | Self::End { time, .. } => *time = time.min(heard),
            Self::Word { word, .. } => word.keep_within(heard),
            Self::Segment(segment) => segment.keep_within(heard),
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RealtimeEvent {
    /// More text: whole characters, to be put behind the text so far.
    Text {
        /// Whose text.
        track: TrackKind,
        /// The new characters.
        text: String,
        /// Seconds of sound that this text is about, from the start of the stream.
        time: f64,
        /// When alternatives were asked for and the text is one token's: what else it could have been, the token itself
        /// first.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        alternatives: Vec<Alternative>,
    },
    /// A word is complete.
    Word {
        /// Whose word.
        track: TrackKind,
        /// The word with its times and probability.
        #[serde(flatten)]
        word: Word,
    },
    /// A stretch of text that does not change any more (settled track only).
    Segment(Segment),
    /// The model ended its text here; whether the session goes on is an option.
    End {
        /// Whose text.
        track: TrackKind,
        /// Seconds from the start of the stream.
        time: f64,
        /// Whether the track listens on with a fresh start.
        continues: bool,
    },
}
