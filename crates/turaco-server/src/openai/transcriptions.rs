//! `/v1/audio/transcriptions`, `/v1/audio/translations`, and whisper.cpp's `/inference`.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use turaco::asr::{Segment, Task, TranscribeOptions, Word};
use turaco::engine::Urgency;
use turaco::output::{self, OutputFormat, Transcript, WriteOptions};
use turaco::{Audio, Control};

use crate::app::{App, blocking};
use crate::error::ApiError;
use crate::openai::options::{lists, transcribe_options};
use crate::pieces::{EVENT_STREAM, Pieces, in_pieces};
use crate::recognition::{Piece, recognize, usage};
use crate::sent;
use crate::sound_room::Share;
use crate::upload::{Form, SAMPLE_RATE};

/// `POST /v1/audio/transcriptions`.
pub async fn transcriptions(
    State(app): State<App>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(app, request, Dialect::OpenAi, Task::Transcribe).await
}

/// `POST /v1/audio/translations`.
pub async fn translations(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    answer(app, request, Dialect::OpenAi, Task::Translate).await
}

/// `POST /inference`.
pub async fn inference(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    answer(app, request, Dialect::WhisperCpp, Task::Transcribe).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    OpenAi,
    WhisperCpp,
}

/// Where the sound is.
enum Recording {
    Here(Audio, Share),
    /// At an address, as Groq's clients send it.
    At(String),
}

impl Recording {
    fn get(self, app: &App, control: &Control) -> Result<(Audio, Share), ApiError> {
        match self {
            Self::Here(audio, share) => Ok((audio, share)),
            Self::At(url) => {
                let mut share = app.sound_share();
                let how = (Some(SAMPLE_RATE), &mut share);
                let audio = sent::fetch((app, control), &url, "url", how)?;
                Ok((audio, share))
            }
        }
    }
}

/// What a form asks for.
struct Asked {
    model: String,
    options: TranscribeOptions,
    format: ResponseFormat,
    logprobs: bool,
    stream: bool,
}

async fn answer(
    app: App,
    request: Request,
    dialect: Dialect,
    task: Task,
) -> Result<Response, ApiError> {
    let (place, request) = app.admit(request).await?;
    let form = Form::receive(&app, request).await?;
    let (asked, recording) = Asked::new(&app, form, dialect, task)?;
    if asked.stream {
        return in_pieces(&app, EVENT_STREAM, move |app, control, pieces| {
            let _place = place;
            let (audio, _share) = recording.get(app, control)?;
            stream(app, (&asked, &audio), control, pieces)
        })
        .await;
    }
    blocking(&app, move |app, control| {
        let _place = place;
        let (audio, _share) = recording.get(app, control)?;
        let work = (Urgency::Normal, control);
        let (model, options) = (&asked.model, &asked.options);
        let transcript = recognize(app, model, &audio, options, work, |_| Ok(()))?;
        asked.format.answer(&transcript, asked.logprobs, dialect)
    })
    .await
}

impl Asked {
    fn new(
        app: &App,
        mut form: Form,
        dialect: Dialect,
        task: Task,
    ) -> Result<(Self, Recording), ApiError> {
        let url = form
            .text("url")
            .map(str::trim)
            .filter(|url| !url.is_empty());
        let recording = match (url.map(str::to_owned), form.audio.take()) {
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid(
                    "url",
                    "there is a `file`, too; send one of both",
                ));
            }
            (Some(url), None) => Recording::At(url),
            (None, Some(audio)) => {
                let share = std::mem::replace(&mut form.share, app.sound_share());
                Recording::Here(audio, share)
            }
            (None, None) => return Err(ApiError::missing("file")),
        };
        let task = match form.text("task").or(form.text("translate")) {
            Some("translate" | "true" | "1") => Task::Translate,
            None | Some("transcribe" | "" | "false" | "0") => task,
            Some(other) => {
                let message = format!("`{other}` is none of transcribe, translate");
                return Err(ApiError::invalid("task", message));
            }
        };
        let mut options = transcribe_options(&form, task)?;
        let format = ResponseFormat::new(form.text("response_format"))?;
        let mut logprobs = false;
        for include in lists(&form, "include") {
            match include.as_str() {
                "logprobs" => logprobs = true,
                other => {
                    let message = format!("`{other}` is none of logprobs");
                    return Err(ApiError::invalid("include", message));
                }
            }
        }
        let stream = match form.text("stream").map(str::trim) {
            None | Some("" | "false" | "False" | "0" | "none" | "null") => false,
            Some("true" | "True" | "1") => dialect == Dialect::OpenAi,
            Some(_) => return Err(ApiError::invalid("stream", "expected true or false")),
        };
        // Probabilities are known of words.
        options.word_timestamps |= logprobs && (stream || format == ResponseFormat::Json);
        let asked = Self {
            model: app.recognizer_name(form.text("model")),
            options,
            format,
            logprobs,
            stream,
        };
        Ok((asked, recording))
    }
}

/// Text as it becomes final, as events.
fn stream(
    app: &App,
    (asked, audio): (&Asked, &Audio),
    control: &Control,
    pieces: &mut Pieces,
) -> Result<(), ApiError> {
    let mut text = String::new();
    // Whether the text of the next segment was sent while it was written.
    let mut is_sent = false;
    let work = (Urgency::Normal, control);
    let (model, options) = (&asked.model, &asked.options);
    let transcript = recognize(app, model, audio, options, work, |piece| {
        let (more, segment) = match piece {
            Piece::Text(more) => (more, None),
            Piece::Segment(segment) => (segment.text.as_str(), Some(segment)),
        };
        if !(segment.is_some() && std::mem::take(&mut is_sent)) {
            // The deltas together are the text without spaces around it.
            let delta = match text.is_empty() {
                true => more.trim_start(),
                false => more,
            };
            text.push_str(delta);
            let mut event = json!({"type": "transcript.text.delta", "delta": delta});
            if let (Some(segment), true) = (segment, asked.logprobs) {
                event["logprobs"] = logprobs(segment.words.iter().flatten());
            }
            pieces.event(&event)?;
        }
        is_sent = segment.is_none();
        if let Some(segment) = segment
            && asked.format == ResponseFormat::File(OutputFormat::VerboseJson)
        {
            pieces.event(&json!({
                "type": "transcript.text.segment",
                "id": segment.id.to_string(),
                "start": segment.start,
                "end": segment.end,
                "text": segment.text,
            }))?;
        }
        Ok(())
    })?;
    let mut done = json!({
        "type": "transcript.text.done",
        "text": text.trim(),
        "usage": usage(transcript.duration),
    });
    if asked.logprobs {
        done["logprobs"] = logprobs(words(&transcript.segments));
    }
    Ok(pieces.event(&done)?)
}

/// Probabilities of words, in the form of tokens.
pub fn logprobs<'a>(words: impl IntoIterator<Item = &'a Word>) -> Value {
    let entry = |word: &Word| {
        json!({
            "token": word.word,
            "logprob": word.probability.max(f64::MIN_POSITIVE).ln(),
            "bytes": word.word.as_bytes(),
        })
    };
    words.into_iter().map(entry).collect()
}

/// All words of segments.
fn words(segments: &[Segment]) -> impl Iterator<Item = &Word> {
    segments
        .iter()
        .filter_map(|segment| segment.words.as_ref())
        .flatten()
}

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResponseFormat {
    Json,
    File(OutputFormat),
}

impl ResponseFormat {
    fn new(name: Option<&str>) -> Result<Self, ApiError> {
        Ok(Self::File(match name.map(str::trim) {
            None | Some("" | "json") => return Ok(Self::Json),
            Some("text" | "txt") => OutputFormat::Txt,
            Some("srt") => OutputFormat::Srt,
            Some("verbose_json") => OutputFormat::VerboseJson,
            Some("vtt") => OutputFormat::Vtt,
            Some("tsv") => OutputFormat::Tsv,
            Some("lrc") => OutputFormat::Lrc,
            Some("csv") => OutputFormat::Csv,
            Some("jsonl") => OutputFormat::Jsonl,
            Some("diarized_json") => {
                let message = "who speaks is not told apart; verbose_json has segments";
                return Err(ApiError::unsupported("response_format", message));
            }
            Some(other) => {
                let message = format!(
                    "`{other}` is none of json, text, srt, verbose_json, vtt, tsv, lrc, csv, jsonl"
                );
                return Err(ApiError::invalid("response_format", message));
            }
        }))
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Json | Self::File(OutputFormat::VerboseJson) => "application/json",
            Self::File(OutputFormat::Srt) => "application/x-subrip",
            Self::File(OutputFormat::Vtt) => "text/vtt; charset=utf-8",
            Self::File(OutputFormat::Tsv) => "text/tab-separated-values; charset=utf-8",
            Self::File(OutputFormat::Csv) => "text/csv; charset=utf-8",
            Self::File(OutputFormat::Jsonl) => "application/x-ndjson",
            Self::File(_) => "text/plain; charset=utf-8",
        }
    }

    fn answer(
        self,
        transcript: &Transcript,
        with_logprobs: bool,
        dialect: Dialect,
    ) -> Result<Response, ApiError> {
        let Self::File(format) = self else {
            let mut body = json!({"text": transcript.text.trim()});
            if dialect == Dialect::OpenAi {
                body["usage"] = usage(transcript.duration);
            }
            if with_logprobs {
                body["logprobs"] = logprobs(words(&transcript.segments));
            }
            return Ok(Json(body).into_response());
        };
        let mut bytes = Vec::new();
        output::write(transcript, format, &WriteOptions::default(), &mut bytes)
            .map_err(|error| ApiError::internal(error.to_string()))?;
        let kind = [(header::CONTENT_TYPE, self.content_type())];
        Ok((kind, bytes).into_response())
    }
}
