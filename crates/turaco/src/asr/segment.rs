//! What a recogniser returns.

use serde::{Deserialize, Serialize};

/// One word with its time, in seconds on the time line of the original file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The word with its leading space, if it has one.
    pub word: String,
    /// Start in seconds.
    pub start: f64,
    /// End in seconds.
    pub end: f64,
    /// Mean probability of the word's tokens.
    pub probability: f64,
}

/// A stretch of speech with its text; the record of openai-whisper's `transcribe`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Counts from 0.
    pub id: usize,
    /// Start of the decoded window in mel frames (10 ms).
    pub seek: usize,
    /// Start in seconds.
    pub start: f64,
    /// End in seconds.
    pub end: f64,
    /// Text with its leading space.
    pub text: String,
    /// Token ids, timestamp tokens included.
    pub tokens: Vec<u32>,
    /// Temperature that the window was decoded with.
    pub temperature: f64,
    /// Mean log-probability of the window's tokens.
    pub avg_logprob: f64,
    /// Bytes of text over bytes of compressed text.
    pub compression_ratio: f64,
    /// Probability that the window holds no speech.
    pub no_speech_prob: f64,
    /// Words, when asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub words: Option<Vec<Word>>,
}

impl Segment {
    /// Bring its times and those of its words into a recording of so many seconds: models tell times in steps, of which the last may
    /// end behind the sound.
    pub(crate) fn keep_within(&mut self, duration: f64) {
        self.start = self.start.max(0.0).min(duration);
        self.end = self.end.max(self.start).min(duration);
        for word in self.words.iter_mut().flatten() {
            word.keep_within(duration);
        }
    }
}

impl Word {
    /// As [`Segment::keep_within`].
    pub(crate) fn keep_within(&mut self, duration: f64) {
        self.start = self.start.max(0.0).min(duration);
        self.end = self.end.max(self.start).min(duration);
    }
}

/// Facts about a whole transcription.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// ISO 639-1 code (or the model's own code, such as `yue`).
    pub language: String,
    /// Probability of that language; 1 when it was given.
    pub language_probability: f64,
    /// Seconds of audio.
    pub duration: f64,
    /// Seconds of audio that voice activity detection kept (equal to `duration` without it).
    pub duration_after_vad: f64,
    /// Probabilities of all languages, best first, when they were computed.
    pub all_language_probs: Option<Vec<(String, f64)>>,
    /// Options that this model could not honour.
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_behind_the_sound_are_brought_into_it() {
        let word = |start, end| Word {
            word: " a".into(),
            start,
            end,
            probability: 1.0,
        };
        let mut segment = Segment {
            id: 0,
            seek: 0,
            start: -0.01,
            end: 5.06,
            text: " a a".into(),
            tokens: Vec::new(),
            temperature: 0.0,
            avg_logprob: 0.0,
            compression_ratio: 1.0,
            no_speech_prob: 0.0,
            words: Some(vec![word(4.9, 5.04), word(5.04, 5.08)]),
        };
        segment.keep_within(5.0);
        assert_eq!((segment.start, segment.end), (0.0, 5.0));
        assert_eq!(segment.words, Some(vec![word(4.9, 5.0), word(5.0, 5.0)]));
    }
}
