//! vLLM's dialect of `/v1/realtime`: one utterance from the first commit to the last, PCM at 16 kHz.

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
    /// All sound of the utterance is there, and not all text.
    finishing: bool,
    text: String,
    n_deltas: u64,
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
        if !self.running || self.finishing {
            self.held.extend(samples);
            return None;
        }
        self.n_samples += samples.len() as u64;
        Some(samples)
    }

    /// Seconds of sound before the first commit.
    pub fn waiting(&self) -> f64 {
        self.held.len() as f64 / f64::from(SAMPLE_RATE)
    }

    /// It is time; the sound that came before. While the text of the last utterance is still coming, nothing happens.
    pub fn begin(&mut self) -> Vec<f32> {
        if self.finishing {
            return Vec::new();
        }
        self.running = true;
        std::mem::take(&mut self.held)
    }

    /// No more sound of this utterance.
    pub fn end(&mut self) {
        self.finishing = true;
    }

    /// Whether all sound of an utterance is there, and not all text.
    pub fn is_finishing(&self) -> bool {
        self.finishing
    }

    /// Ready for another utterance.
    pub fn reset(&mut self) {
        *self = Self {
            has_model: self.has_model,
            segments: self.segments,
            rest: self.rest.take(),
            held: std::mem::take(&mut self.held),
            ..Self::default()
        };
    }

    /// What the ear heard.
    pub fn heard(&mut self, event: EarEvent, out: &mut Outbox) {
        match event {
            EarEvent::Delta(text) => {
                let delta = match self.text.is_empty() {
                    true => text.trim_start(),
                    false => text.as_str(),
                };
                if delta.is_empty() {
                    return;
                }
                self.text.push_str(delta);
                self.n_deltas += 1;
                let mut event = json!({"type": "transcription.delta", "delta": delta});
                self.add_segments(&mut event);
                out.push(event);
            }
            EarEvent::Segment(segment) => {
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
                        "completion_tokens": self.n_deltas,
                        "total_tokens": prompt + self.n_deltas,
                    },
                });
                self.add_segments(&mut event);
                out.push(event);
                self.reset();
            }
            EarEvent::Failed(error) | EarEvent::Broken(error) => {
                out.push(Self::error(&error));
                self.reset();
            }
        }
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
