//! Speech to text.

use serde_json::{Value, json};
use tokio::sync::mpsc;
use turaco::audio::Resampler;

use super::frame::Frame;
use crate::app::App;
use crate::error::ApiError;
use crate::family::family;
use crate::realtime::{Ear, EarEvent, EarOptions};
use crate::upload::SAMPLE_RATE;

/// What a client lets be heard.
pub struct Hearing {
    app: App,
    options: EarOptions,
    /// Given back with the text.
    context: Option<Value>,
    format: Option<Format>,
    ear: Option<Ear>,
    events: mpsc::UnboundedSender<EarEvent>,
    text: String,
    began: bool,
    /// All was said, and the text is not there yet.
    finishing: bool,
    failed: Failed,
}

/// What is missing of a text since something failed: clients wait for a transcript whatever was said of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failed {
    /// Nothing.
    No,
    /// All of it; the sound still comes.
    Unheard,
    /// All of it, and the sound is over.
    Owed,
}

struct Format {
    width: usize,
    channels: usize,
    resampler: Option<Resampler>,
    /// Bytes that do not fill a sample of all channels yet.
    rest: Vec<u8>,
}

impl Hearing {
    /// Nothing was heard yet.
    pub fn new(app: &App, events: mpsc::UnboundedSender<EarEvent>) -> Self {
        Self {
            app: app.clone(),
            options: EarOptions {
                model: app.recognizer_name(None),
                ..EarOptions::default()
            },
            context: None,
            format: None,
            ear: None,
            events,
            text: String::new(),
            began: false,
            finishing: false,
            failed: Failed::No,
        }
    }

    /// Whether all was said, and the text is not there yet.
    pub fn is_finishing(&self) -> bool {
        self.finishing
    }

    /// There is no more sound: what is being said is over.
    pub fn finish(&mut self) {
        if let Some(ear) = self.ear.as_mut().filter(|_| !self.finishing) {
            ear.end_utterance();
            self.finishing = true;
        }
    }

    /// `transcribe`: which model, and what it may know.
    ///
    /// # Errors
    /// A model that is not here.
    pub fn transcribe(&mut self, frame: &Frame) -> Result<(), ApiError> {
        let model = self.app.recognizer_name(frame.text("name"));
        // What is said next is not for the model that was asked for before.
        self.failed = Failed::Unheard;
        family(&self.app, &model)?;
        self.failed = Failed::No;
        let mut keywords = Vec::new();
        for key in ["transcript_names", "transcript_terms"] {
            let words = frame.data.get(key).and_then(Value::as_array);
            let words = words.into_iter().flatten().filter_map(Value::as_str);
            keywords.extend(words.map(str::to_owned));
        }
        self.options = EarOptions {
            model,
            language: frame.text("language").map(|language| {
                // `de-DE` and `de_DE` are `de`.
                let end = language.find(['-', '_']).unwrap_or(language.len());
                language[..end].to_owned()
            }),
            keywords,
            ..EarOptions::default()
        };
        self.context = frame.data.get("context").cloned();
        Ok(())
    }

    /// `audio-start`.
    ///
    /// # Errors
    /// Sound that cannot be read.
    pub fn start(&mut self, frame: &Frame) -> Result<(), ApiError> {
        self.ear = None;
        self.text.clear();
        self.began = false;
        self.format = Some(self.known(Format::new(frame))?);
        Ok(())
    }

    /// A value, or an error after which the rest of the sound is not heard.
    fn known<T>(&mut self, value: Result<T, ApiError>) -> Result<T, ApiError> {
        if value.is_err() && self.failed == Failed::No {
            self.failed = Failed::Unheard;
        }
        value
    }

    /// `audio-chunk`.
    ///
    /// # Errors
    /// Sound that cannot be read, more than may wait, or a model that cannot be loaded.
    pub async fn hear(&mut self, frame: &Frame) -> Result<(), ApiError> {
        if self.failed == Failed::Unheard {
            return Ok(());
        }
        let format = match self.format.take() {
            Some(format) => format,
            None => self.known(Format::new(frame))?,
        };
        let format = self.format.insert(format);
        let samples = format.read(&frame.payload);
        let waiting = self.ear.as_ref().map_or(0.0, Ear::waiting);
        if waiting > self.app.config().max_buffer {
            let mut error = ApiError::malformed("more sound waits to be heard than may");
            error.code = "input_buffer_full";
            return Err(error);
        }
        if let Err(error) = self.ear().await.map(|ear| ear.hear(&samples)) {
            self.failed = Failed::Unheard;
            return Err(error);
        }
        Ok(())
    }

    /// `audio-stop`: everything was said.
    ///
    /// # Errors
    /// A model that cannot be loaded.
    pub async fn stop(&mut self) -> Result<(), ApiError> {
        self.format = None;
        if self.failed != Failed::No {
            self.failed = Failed::Owed;
            return Ok(());
        }
        match self.ear().await {
            Ok(ear) => {
                ear.end_utterance();
                self.app.metrics().utterance();
            }
            Err(error) => {
                self.failed = Failed::Owed;
                return Err(error);
            }
        }
        self.finishing = true;
        Ok(())
    }

    async fn ear(&mut self) -> Result<&mut Ear, ApiError> {
        if self.ear.is_none() {
            let ear = Ear::open(&self.app, &self.options, self.events.clone()).await?;
            self.ear = Some(ear);
        }
        self.ear
            .as_mut()
            .ok_or_else(|| ApiError::internal("no ear"))
    }

    /// What came of it, for the client, and why what was said is not written down, if it is not.
    pub fn heard(&mut self, event: EarEvent) -> (Vec<Frame>, Option<ApiError>) {
        let mut frames = Vec::new();
        match event {
            EarEvent::Delta { text, .. } => {
                let chunk = match self.text.is_empty() {
                    true => text.trim_start(),
                    false => text.as_str(),
                };
                if !chunk.is_empty() {
                    self.begin(&mut frames);
                    self.text.push_str(chunk);
                    frames.push(Frame::new("transcript-chunk", json!({"text": chunk})));
                }
            }
            EarEvent::Segment(_) => {}
            EarEvent::Done { language } => self.end(language, &mut frames),
            EarEvent::Failed(error) | EarEvent::Broken(error) => {
                self.failed = match self.finishing {
                    true => Failed::Owed,
                    false => Failed::Unheard,
                };
                return (frames, Some(error));
            }
        }
        (frames, None)
    }

    /// The end of a text that failed, once its sound is over.
    pub fn owed(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        if self.failed == Failed::Owed {
            self.failed = Failed::No;
            self.end(None, &mut frames);
        }
        frames
    }

    fn end(&mut self, language: Option<String>, frames: &mut Vec<Frame>) {
        self.begin(frames);
        frames.push(Frame::new("transcript-stop", json!({})));
        let mut transcript = json!({"text": self.text.trim()});
        if let Some(language) = language.or(self.options.language.clone()) {
            transcript["language"] = language.into();
        }
        if let Some(context) = &self.context {
            transcript["context"] = context.clone();
        }
        frames.push(Frame::new("transcript", transcript));
        self.ear = None;
        self.finishing = false;
        self.text.clear();
        self.began = false;
    }

    fn begin(&mut self, frames: &mut Vec<Frame>) {
        if !self.began {
            self.began = true;
            let mut data = json!({});
            if let Some(language) = &self.options.language {
                data["language"] = language.as_str().into();
            }
            frames.push(Frame::new("transcript-start", data));
        }
    }
}

impl Format {
    fn new(frame: &Frame) -> Result<Self, ApiError> {
        let wrong = |key: &str, expected: &str| {
            ApiError::invalid(key, format!("`{key}` has to be {expected}"))
        };
        let rate = frame
            .number("rate")
            .filter(|rate| (4_000..=192_000).contains(rate));
        let rate = rate.ok_or_else(|| wrong("rate", "4000 to 192000"))? as u32;
        let width = frame
            .number("width")
            .filter(|width| [1, 2, 3, 4].contains(width));
        let channels = frame
            .number("channels")
            .filter(|count| (1..=16).contains(count));
        Ok(Self {
            width: width.ok_or_else(|| wrong("width", "1 to 4"))? as usize,
            channels: channels.ok_or_else(|| wrong("channels", "1 to 16"))? as usize,
            resampler: match rate == SAMPLE_RATE {
                true => None,
                false => Some(Resampler::new(rate, SAMPLE_RATE)?),
            },
            rest: Vec::new(),
        })
    }

    /// Mono samples at [`SAMPLE_RATE`].
    fn read(&mut self, bytes: &[u8]) -> Vec<f32> {
        self.rest.extend_from_slice(bytes);
        let frame = self.width * self.channels;
        let whole = self.rest.len() / frame * frame;
        let mean = |frame: &[u8]| {
            let sum: f32 = frame.chunks_exact(self.width).map(sample).sum();
            sum / self.channels as f32
        };
        let samples: Vec<f32> = self.rest[..whole].chunks_exact(frame).map(mean).collect();
        self.rest.drain(..whole);
        match &mut self.resampler {
            None => samples,
            Some(resampler) => {
                let mut out = Vec::new();
                resampler.push(&samples, &mut out);
                out
            }
        }
    }
}

/// A little-endian sample of 1 to 4 bytes, full scale 1.
fn sample(bytes: &[u8]) -> f32 {
    match *bytes {
        // As in WAV files, a single byte has no sign.
        [a] => (f32::from(a) - 128.0) / 128.0,
        [a, b] => f32::from(i16::from_le_bytes([a, b])) / 32_768.0,
        [a, b, c] => (i32::from_le_bytes([0, a, b, c]) >> 8) as f32 / 8_388_608.0,
        [a, b, c, d] => i32::from_le_bytes([a, b, c, d]) as f32 / 2_147_483_648.0,
        _ => 0.0,
    }
}
