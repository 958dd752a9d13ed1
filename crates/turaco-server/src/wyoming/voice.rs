//! Text to speech: texts are said one after the other, also while they still come.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use turaco::engine::Urgency;
use turaco::tts::SpeakOptions;
use turaco::{Control, Synthesizer};

use super::frame::Frame;
use crate::app::{App, blocking};
use crate::error::ApiError;
use crate::openai::speech_request::SpeechRequest;
use crate::synthesis::{Text, speak};

/// How long a client may take to receive a piece of sound.
const PATIENCE: Duration = Duration::from_secs(60);

/// A text and who says it.
pub struct Utterance {
    pub text: Text,
    pub voice: Voice,
    /// The text came in pieces, and the end is to be told.
    pub streamed: bool,
    /// Kept until it was said.
    pub speaking: Arc<()>,
}

/// A voice as Wyoming names it.
#[derive(Debug, Clone, Default)]
pub struct Voice {
    /// The model, or a voice of the default one.
    pub name: Option<String>,
    pub language: Option<String>,
    pub speaker: Option<String>,
}

impl Voice {
    /// Of `{"name", "language", "speaker"}`.
    pub fn new(value: Option<&Value>) -> Self {
        let text = |key: &str| Some(value?.get(key)?.as_str()?.to_owned());
        Self {
            name: text("name"),
            language: text("language"),
            speaker: text("speaker"),
        }
    }

    /// The model and what it is asked for.
    fn request(&self, app: &App) -> (String, SpeechRequest) {
        let name = self.name.as_deref();
        let is_model = name.is_some_and(|name| app.engine().catalog().find(name).is_ok());
        let voice = match (&self.speaker, is_model) {
            (Some(speaker), _) => Some(speaker.as_str()),
            (None, false) => name,
            (None, true) => None,
        };
        let mut request = SpeechRequest::of_voice(voice, self.language.as_deref());
        request.model = name.filter(|_| is_model).map(str::to_owned);
        (request.model(app), request)
    }
}

/// Say what comes in, in order.
pub async fn say(app: App, mut texts: mpsc::Receiver<Utterance>, out: mpsc::Sender<Frame>) {
    while let Some(utterance) = texts.recv().await {
        let streamed = utterance.streamed;
        let _speaking = Arc::clone(&utterance.speaking);
        let sender = Sender {
            out: out.clone(),
            runtime: tokio::runtime::Handle::current(),
        };
        let said = blocking(&app, move |app, control| {
            say_one(app, utterance, control, &sender)
        })
        .await;
        if let Err(error) = said
            && out.send(error_frame(&app, &error)).await.is_err()
        {
            return;
        }
        for end in ends(streamed) {
            if out.send(end).await.is_err() {
                return;
            }
        }
    }
}

/// What tells a client that no more sound comes, also where it failed: clients wait for it.
pub fn ends(streamed: bool) -> impl Iterator<Item = Frame> {
    let stopped = streamed.then(|| Frame::new("synthesize-stopped", json!({})));
    [Frame::new("audio-stop", json!({}))]
        .into_iter()
        .chain(stopped)
}

/// A failure as Wyoming tells it.
pub fn error_frame(app: &App, error: &ApiError) -> Frame {
    app.metrics().error(error.code);
    if error.details.is_some() {
        app.log(crate::config::LogLevel::Error, &format!("wyoming: {error}"));
    }
    Frame::new("error", json!({"text": error.message, "code": error.code}))
}

struct Sender {
    out: mpsc::Sender<Frame>,
    runtime: tokio::runtime::Handle,
}

impl Sender {
    fn send(&self, frame: Frame) -> Result<(), ApiError> {
        let sent = self.out.send_timeout(frame, PATIENCE);
        let sent = self.runtime.block_on(sent);
        Ok(sent.map_err(|_| turaco::Error::Cancelled)?)
    }
}

fn say_one(
    app: &App,
    utterance: Utterance,
    control: &Control,
    out: &Sender,
) -> Result<(), ApiError> {
    let (model, request) = utterance.voice.request(app);
    let options = |synthesizer: &Synthesizer| -> Result<SpeakOptions, ApiError> {
        request.options(app, synthesizer, control)
    };
    let mut rate = None;
    let urgency = (Urgency::Normal, control);
    speak(
        app,
        &model,
        utterance.text,
        options,
        urgency,
        |samples, native| {
            let format = json!({"rate": native, "width": 2, "channels": 1});
            if rate.is_none() {
                rate = Some(native);
                out.send(Frame::new("audio-start", format.clone()))?;
            }
            let mut chunk = Frame::new("audio-chunk", format);
            let bytes = samples
                .iter()
                .flat_map(|x| ((x * 32_768.0).round() as i16).to_le_bytes());
            chunk.payload = bytes.collect();
            out.send(chunk)
        },
    )?;
    if rate.is_none() {
        // Who waits for sound is told that there is none.
        out.send(Frame::new(
            "audio-start",
            json!({"rate": 24_000, "width": 2, "channels": 1}),
        ))?;
    }
    Ok(())
}
