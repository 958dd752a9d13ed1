//! `/v1/chat/completions`: answers of a language model that hears.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use turaco::Control;
use turaco::chat::{Delta, Summary, ToolCall};
use turaco::engine::{ModelKind, Urgency};

use crate::app::{App, blocking};
use crate::config::LogLevel;
use crate::error::ApiError;
use crate::layer::new_id;
use crate::openai::chat_request::ChatRequest;
use crate::openai::speech::json_body;
use crate::pieces::{EVENT_STREAM, Pieces, in_pieces};

/// `POST /v1/chat/completions`.
pub async fn completions(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (place, request) = app.admit(request).await?;
    let (body, share) = json_body(&app, request).await?;
    let asked = ChatRequest::read(&body)?;
    drop(body);
    if asked.stream {
        return in_pieces(&app, EVENT_STREAM, move |app, control, pieces| {
            let _place = (place, share);
            stream(app, &asked, control, pieces)
        })
        .await;
    }
    blocking(&app, move |app, control| {
        let _place = (place, share);
        let head = Head::new(app, &asked)?;
        let mut text = String::new();
        let mut calls = Vec::new();
        let summary = answer(app, &head.model, &asked, control, |delta| {
            match delta {
                Delta::Text { text: more } => text.push_str(&more),
                Delta::ToolCall(call) => calls.push(call_json(&call, None)),
                _ => {}
            }
            Ok(())
        })?;
        let mut message = json!({"role": "assistant", "content": text});
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        let mut body = head.json("chat.completion");
        body["choices"] = json!([{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": summary.reason.name(),
        }]);
        body["usage"] = usage(&summary);
        Ok(Json(body).into_response())
    })
    .await
}

/// What all pieces of an answer have in common.
struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn new(app: &App, asked: &ChatRequest) -> Result<Self, ApiError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Self {
            id: new_id("chatcmpl"),
            created: now.map_or(0, |now| now.as_secs()),
            model: model_name(app, asked.model.as_deref())?,
        })
    }

    fn json(&self, object: &str) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model})
    }
}

/// The model that was named, or the first that can answer.
fn model_name(app: &App, named: Option<&str>) -> Result<String, ApiError> {
    if let Some(name) = named.map(str::trim).filter(|name| !name.is_empty()) {
        return Ok(name.to_owned());
    }
    let models = app.engine().catalog().list()?;
    let model = models.iter().find(|model| model.kind == ModelKind::Chat);
    match model {
        Some(model) => Ok(model.shown()),
        None => Err(ApiError::missing("model")),
    }
}

/// Generate the answer, in turns on the device; answers that are generated at the same time share their steps. `on_delta` gets its
/// pieces between turns.
fn answer(
    app: &App,
    model: &str,
    asked: &ChatRequest,
    control: &Control,
    mut on_delta: impl FnMut(Delta) -> Result<(), ApiError>,
) -> Result<Summary, ApiError> {
    let started = Instant::now();
    let mut share = app.sound_share();
    let messages = asked.messages((app, control), &mut share)?;
    let options = asked.options()?;
    let (lease, chat) = app.engine().chat_model(model, control)?;
    // What was said to it before is not read again.
    let mut session = chat.session_for(&messages, &options)?;
    session.take_turns(lease.queue(), Urgency::Normal);
    let mut generation = session.generate(&messages, &options, control)?;
    let mut is_first = true;
    loop {
        let before = generation.timings().work();
        let delta = generation.next();
        let seconds = generation.timings().work() - before;
        app.metrics().step(lease.id(), "token", seconds);
        match delta.transpose()? {
            Some(Delta::End(summary)) => {
                if let Some(warning) = chat.take_late_warning() {
                    app.log(LogLevel::Warning, &warning);
                }
                return Ok(summary);
            }
            Some(delta) => {
                if std::mem::take(&mut is_first) {
                    app.metrics().first_text(started.elapsed().as_secs_f64());
                }
                on_delta(delta)?;
            }
            None => return Err(ApiError::internal("an answer without an end")),
        }
    }
}

/// The answer as events.
fn stream(
    app: &App,
    asked: &ChatRequest,
    control: &Control,
    pieces: &mut Pieces,
) -> Result<(), ApiError> {
    let head = Head::new(app, asked)?;
    let chunk = |delta: Value, reason: Option<&str>| {
        let mut chunk = head.json("chat.completion.chunk");
        chunk["choices"] =
            json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}]);
        chunk
    };
    let mut n_calls = 0;
    let mut began = false;
    let summary = answer(app, &head.model, asked, control, |delta| {
        if !std::mem::replace(&mut began, true) {
            pieces.event(&chunk(json!({"role": "assistant", "content": ""}), None))?;
        }
        match delta {
            Delta::Text { text } => pieces.event(&chunk(json!({"content": text}), None))?,
            Delta::ToolCall(call) => {
                let call = call_json(&call, Some(n_calls));
                n_calls += 1;
                pieces.event(&chunk(json!({"tool_calls": [call]}), None))?;
            }
            _ => {}
        }
        Ok(())
    })?;
    if !began {
        pieces.event(&chunk(json!({"role": "assistant", "content": ""}), None))?;
    }
    pieces.event(&chunk(json!({}), Some(summary.reason.name())))?;
    let wants_usage = asked.stream_options.as_ref();
    if wants_usage.is_some_and(|options| options.include_usage) {
        let mut last = head.json("chat.completion.chunk");
        last["choices"] = json!([]);
        last["usage"] = usage(&summary);
        pieces.event(&last)?;
    }
    Ok(pieces.send("data: [DONE]\n\n")?)
}

fn call_json(call: &ToolCall, index: Option<usize>) -> Value {
    let mut json = json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    });
    if let Some(index) = index {
        json["index"] = index.into();
    }
    json
}

fn usage(summary: &Summary) -> Value {
    let usage = summary.usage;
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
}
