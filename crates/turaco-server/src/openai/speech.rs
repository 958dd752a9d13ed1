//! `/v1/audio/speech`: sound while it is made.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use serde_json::json;
use turaco::Control;
use turaco::audio::{Resampler, SoundWriter};
use turaco::engine::Urgency;

use crate::app::App;
use crate::deadline;
use crate::error::ApiError;
use crate::layer::fresh_seed;
use crate::openai::speech_request::{Container, SpeechRequest};
use crate::pieces::{Pieces, in_pieces};
use crate::sound_room::Share;
use crate::synthesis::{Text, speak};
use crate::upload::{discard, is_of_type};

/// Bytes of a body; recordings of voices are in it.
const MAX_BODY: usize = 64 << 20;

/// Bytes of a body that count as nothing: there are only so many requests.
const SMALL: usize = 64 << 10;

/// How long a body may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// `POST /v1/audio/speech`.
pub async fn speech(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (place, request) = app.admit(request).await?;
    let (body, share) = json_body(&app, request).await?;
    let mut asked = SpeechRequest::read(&body)?;
    let seed = *asked.seed.get_or_insert_with(fresh_seed);
    drop(body);
    asked.text(app.config().max_text)?;
    asked.check_limit()?;
    let container = asked.container()?;
    if let Some(rate) = asked.sample_rate()? {
        // What cannot be written is refused before a model is loaded.
        Out::new(container, rate, rate)?;
    }
    in_pieces(
        &app,
        container.content_type(),
        move |app, control, pieces| {
            let _place = (place, share);
            asked.hear(app, control)?;
            answer(app, (&asked, seed), container, control, pieces)
                .map_err(|error| asked.about_its_texts(error))
        },
    )
    .await
}

/// The body of a request with JSON in it, and its share of the memory that all requests have, to be kept as long as what is read
/// of it.
///
/// # Errors
/// Another kind of body, or one that is too large, by itself or beside those of others.
pub async fn json_body(app: &App, request: Request) -> Result<(Vec<u8>, Share), ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok());
    if !kind.is_some_and(|kind| is_of_type(kind, "application/json")) {
        discard(request.into_body()).await;
        return Err(ApiError::wrong_type("application/json"));
    }
    let mut share = app.sound_share();
    let body = tokio::time::timeout(PATIENCE, receive(request.into_body(), &mut share));
    match deadline::until(deadline::of_request(app), body).await? {
        Ok(body) => Ok((body?, share)),
        Err(_) => Err(ApiError::timed_out("the body did not come")),
    }
}

async fn receive(body: Body, share: &mut Share) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|error| ApiError::malformed(format!("the body is cut off: {error}")))?;
        bytes.extend_from_slice(&chunk);
        let refused = match bytes.len() {
            0..SMALL => continue,
            length if length > MAX_BODY => Err(ApiError::too_large(MAX_BODY as u64)),
            // The texts in it are there twice for a moment.
            length => share.hold(2 * length as u64),
        };
        if let Err(mut error) = refused {
            error.param = None;
            drop(bytes);
            discard(Body::new(chunks)).await;
            return Err(error);
        }
    }
    Ok(bytes)
}

fn answer(
    app: &App,
    (asked, seed): (&SpeechRequest, u64),
    container: Container,
    control: &Control,
    pieces: &mut Pieces,
) -> Result<(), ApiError> {
    let started = Instant::now();
    let text = Text::Whole(asked.text(app.config().max_text)?.to_owned());
    let model = asked.model(app);
    let failed = |error: std::io::Error| ApiError::internal(error.to_string());
    let mut out: Option<Out> = None;
    let options = |synthesizer: &_| asked.options(app, synthesizer, control);
    let urgency = (Urgency::Normal, control);
    let spoken = speak(app, &model, text, options, urgency, |chunk, native| {
        let out = match &mut out {
            Some(out) => out,
            None => {
                app.metrics().first_audio(started.elapsed().as_secs_f64());
                let rate = asked.sample_rate.unwrap_or(native);
                let made = Out::new(container, native, rate)?;
                pieces.begin(vec![
                    (
                        HeaderName::from_static("x-sample-rate"),
                        HeaderValue::from(rate),
                    ),
                    (HeaderName::from_static("x-seed"), HeaderValue::from(seed)),
                ]);
                out.insert(made)
            }
        };
        let bytes = out.write(chunk).map_err(failed)?;
        out.send(bytes, pieces)
    })?;
    let Some(mut out) = out else {
        return Err(ApiError::invalid("input", "there is nothing in it to say"));
    };
    let rest = out.finish().map_err(failed)?;
    out.send(rest, pieces)?;
    if container.events {
        pieces.event(&json!({
            "type": "speech.audio.done",
            "seed": seed,
            "stopped": spoken.stopped.iter().map(|reason| reason.name()).collect::<Vec<_>>(),
            "usage": {
                "input_tokens": spoken.text_tokens,
                "output_tokens": spoken.frames,
                "total_tokens": spoken.text_tokens + spoken.frames,
            },
        }))?;
    }
    Ok(())
}

/// Sound on its way to bytes.
struct Out {
    events: bool,
    resampler: Option<Resampler>,
    writer: Option<SoundWriter<Vec<u8>>>,
}

impl Out {
    fn new(container: Container, native: u32, rate: u32) -> Result<Self, ApiError> {
        let writer = SoundWriter::new(Vec::new(), container.format, rate)
            .map_err(|error| ApiError::invalid("sample_rate", error.to_string()))?;
        Ok(Self {
            events: container.events,
            resampler: match rate == native {
                true => None,
                false => Some(Resampler::new(native, rate)?),
            },
            writer: Some(writer),
        })
    }

    fn write(&mut self, samples: &[f32]) -> std::io::Result<Vec<u8>> {
        let Some(writer) = &mut self.writer else {
            return Ok(Vec::new());
        };
        match &mut self.resampler {
            None => writer.write(samples)?,
            Some(resampler) => {
                let mut resampled = Vec::new();
                resampler.push(samples, &mut resampled);
                writer.write(&resampled)?;
            }
        }
        Ok(std::mem::take(writer.get_mut()))
    }

    fn finish(&mut self) -> std::io::Result<Vec<u8>> {
        let Some(mut writer) = self.writer.take() else {
            return Ok(Vec::new());
        };
        if let Some(resampler) = self.resampler.take() {
            let mut rest = Vec::new();
            resampler.finish(&mut rest);
            writer.write(&rest)?;
        }
        writer.finish()
    }

    fn send(&self, bytes: Vec<u8>, pieces: &mut Pieces) -> Result<(), ApiError> {
        if bytes.is_empty() {
            return Ok(());
        }
        match self.events {
            false => pieces.send(bytes)?,
            true => pieces.event(&json!({
                "type": "speech.audio.delta",
                "audio": STANDARD.encode(&bytes),
            }))?,
        }
        Ok(())
    }
}
