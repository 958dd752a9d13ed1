//! How long a user waits, and for what.

use serde::Serialize;

/// Times of one turn, in seconds. The clock begins when the last sound of speech had come in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TurnTimings {
    /// Until it was decided that the turn is over: the silence that it takes to know, if it was silence that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn_end: Option<f64>,
    /// From that decision until the question was there as text, if somebody wrote it down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transcript: Option<f64>,
    /// From that decision until the first text of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_text: Option<f64>,
    /// From that decision until the first sound of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_audio: Option<f64>,
    /// From that decision until the answer was complete.
    pub total: f64,
    /// While the user spoke: seconds in the detector of speech.
    pub detection: f64,
    /// Inside `transcript`: seconds in the recogniser.
    pub recognition: f64,
    /// Inside `first_text`: seconds in the mind before its first text.
    pub thinking: f64,
    /// Inside `first_audio`: seconds in the voice before its first sound.
    pub speaking: f64,
    /// Inside `first_audio`: seconds of waiting for the mind to write enough to be said.
    pub writing: f64,
}

impl TurnTimings {
    /// All times that were measured, by name.
    pub fn stages(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let heard = self.transcript.map(|_| self.recognition);
        let read = self.first_text.map(|_| self.thinking);
        let said = self.first_audio.map(|_| self.speaking);
        let all = [
            ("turn_end", self.turn_end),
            ("detection", Some(self.detection)),
            ("transcript", self.transcript),
            ("recognition", heard),
            ("first_text", self.first_text),
            ("thinking", read),
            ("first_audio", self.first_audio),
            ("writing", self.first_audio.map(|_| self.writing)),
            ("speaking", said),
            ("text_overhead", self.text_overhead()),
            ("audio_overhead", self.audio_overhead()),
            ("total", Some(self.total)),
        ];
        all.into_iter()
            .filter_map(|(name, seconds)| Some((name, seconds?)))
    }

    /// What the pipeline itself adds to the models' work until the first text.
    pub fn text_overhead(&self) -> Option<f64> {
        let before_mind = self.transcript.map_or(0.0, |_| self.recognition);
        let overhead = self.first_text? - before_mind - self.thinking;
        Some(overhead.max(0.0))
    }

    /// What the pipeline itself adds to the models' work until the first sound.
    pub fn audio_overhead(&self) -> Option<f64> {
        let waited = self.first_audio? - self.first_text?;
        let overhead = waited - self.writing - self.speaking;
        Some(self.text_overhead()? + overhead.max(0.0))
    }
}
