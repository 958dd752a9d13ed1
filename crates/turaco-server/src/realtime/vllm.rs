//! vLLM's dialect of `/v1/realtime`: one utterance from the first commit to the last, PCM at 16 kHz.

use std::collections::VecDeque;
use std::time::Instant;

use serde_json::{Value, json};

use super::ear::EarEvent;
use super::session::Outbox;
use super::sound::SoundReader;
use crate::error::ApiError;
use crate::upload::SAMPLE_RATE;

/// Seconds of sound of one token of the prompt.
const TOKEN_SECONDS: f64 = 0.08;

/// What is peculiar to this dialect.
#[derive(Debug, Default)]
pub struct Vllm {
    /// A model was named.
    pub has_model: bool,
    /// The client wants to know when what was said.
    pub segments: bool,
    rest: Option<SoundReader>,
    /// Sound before the first commit.
    held: Vec<f32>,
    running: bool,
    /// When all sound of the utterance was there; not all text is.
    finishing: Option<Instant>,
    /// Whole utterances behind that one, and when they were.
    queued: VecDeque<(Vec<f32>, Instant)>,
    /// Another one was begun behind them.
    begun: bool,
    text: String,
    /// Tokens of the text.
    n_tokens: u64,
    n_samples: u64,
    spans: Vec<Value>,
}

impl Vllm {
    /// The samples of the next bytes.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<f32> {
        use super::protocol::AudioFormat;
        if self.rest.is_none() {
            self.rest = SoundReader::new(AudioFormat::Pcm { rate: SAMPLE_RATE }).ok();
        }
        let reader = self.rest.as_mut();
        reader.map(|reader| reader.read(bytes)).unwrap_or_default()
    }

    /// Sound to be heard now, if it is time.
    pub fn take(&mut self, samples: Vec<f32>) -> Option<Vec<f32>> {
        if !self.running || self.finishing.is_some() {
            self.held.extend(samples);
            return None;
        }
        self.n_samples += samples.len() as u64;
        Some(samples)
    }

    /// Seconds of sound that wait for their time.
    pub fn waiting(&self) -> f64 {
        let queued: usize = self.queued.iter().map(|(sound, _)| sound.len()).sum();
        (self.held.len() + queued) as f64 / f64::from(SAMPLE_RATE)
    }

    /// It is time; the sound that came before. While the text of the last utterance is still coming, nothing happens.
    pub fn begin(&mut self) -> Vec<f32> {
        if self.finishing.is_some() {
            return Vec::new();
        }
        self.running = true;
        std::mem::take(&mut self.held)
    }

    /// An utterance behind the one whose text is still coming begins, or is there as a whole.
    pub fn queue(&mut self, last: bool) {
        self.begun = !last;
        if last {
            let sound = std::mem::take(&mut self.held);
            self.queued.push_back((sound, Instant::now()));
        }
    }

    /// What is to be heard next, now that a text is there, and when that was all of it, if it is.
    pub fn next(&mut self) -> Option<(Vec<f32>, Option<Instant>)> {
        let (sound, ended) = match self.queued.pop_front() {
            Some((sound, ended)) => (sound, Some(ended)),
            None if std::mem::take(&mut self.begun) => (std::mem::take(&mut self.held), None),
            None => return None,
        };
        self.running = true;
        self.n_samples = sound.len() as u64;
        Some((sound, ended))
    }

    /// No more sound of this utterance since then.
    pub fn end(&mut self, when: Instant) {
        self.finishing = Some(when);
    }

    /// Whether all sound of an utterance is there, and not all text.
    pub fn is_finishing(&self) -> bool {
        self.finishing.is_some()
    }

    /// Whether an utterance is being heard that has no end yet.
    pub fn is_hearing(&self) -> bool {
        self.running && self.finishing.is_none()
    }

    /// Forget all sound.
    pub fn clear(&mut self) {
        self.held.clear();
        self.queued.clear();
        self.begun = false;
        self.reset();
    }

    /// Ready for another utterance.
    pub fn reset(&mut self) {
        *self = Self {
            has_model: self.has_model,
            segments: self.segments,
            rest: self.rest.take(),
            held: std::mem::take(&mut self.held),
            queued: std::mem::take(&mut self.queued),
            begun: self.begun,
            ..Self::default()
        };
    }

    /// What the ear heard; how long the client waited for a text that is there now.
    pub fn heard(&mut self, event: EarEvent, out: &mut Outbox) -> Option<f64> {
        match event {
            EarEvent::Delta { text, .. } => {
                let delta = match self.text.is_empty() {
                    true => text.trim_start(),
                    false => text.as_str(),
                };
                if delta.is_empty() {
                    return None;
                }
                self.text.push_str(delta);
                let mut event = json!({"type": "transcription.delta", "delta": delta});
                self.add_segments(&mut event);
                out.push(event);
            }
            EarEvent::Segment(segment) => {
                self.n_tokens += segment.tokens.len() as u64;
                self.spans
                    .push(json!({"text": segment.text.trim(), "end": segment.end}));
            }
            EarEvent::Done { .. } => {
                let prompt =
                    (self.n_samples as f64 / f64::from(SAMPLE_RATE) / TOKEN_SECONDS).ceil() as u64;
                let mut event = json!({
                    "type": "transcription.done",
                    "text": self.text.trim(),
                    "usage": {
                        "prompt_tokens": prompt,
                        "completion_tokens": self.n_tokens,
                        "total_tokens": prompt + self.n_tokens,
                    },
                });
                self.add_segments(&mut event);
                out.push(event);
                let waited = self.finishing.map(|ended| ended.elapsed().as_secs_f64());
                self.reset();
                return waited;
            }
            EarEvent::Failed(error) | EarEvent::Broken(error) => {
                out.push(Self::error(&error));
                self.reset();
            }
        }
        None
    }

    fn add_segments(&self, event: &mut Value) {
        if self.segments {
            event["segments"] = self.spans.clone().into();
        }
    }

    /// An error as this dialect writes it.
    pub fn error(error: &ApiError) -> Value {
        let code = match error.status.as_u16() {
            500.. => "processing_error",
            _ => error.code,
        };
        json!({"type": "error", "error": error.message, "code": code})
    }
}
