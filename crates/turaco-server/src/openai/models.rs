//! `/v1/models`, and the loaded ones under `/api/ps`.

use std::path::Path;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use turaco::engine::{KnownModel, ModelKind};
use turaco::hub::Hub;

use crate::app::{App, blocking};
use crate::config::LogLevel;
use crate::error::ApiError;
use crate::upload::Form;

/// `GET /v1/models`.
pub async fn list(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    blocking(&app, |app, _| {
        let models = app.engine().catalog().list()?;
        let mut data: Vec<Value> = Vec::with_capacity(models.len());
        for model in models.iter().map(|model| entry(app, model)) {
            // A model that was given by its path may be in the cache too.
            if data.iter().all(|known| known["id"] != model["id"]) {
                data.push(model);
            }
        }
        Ok(Json(
            json!({"object": "list", "data": data, "defaults": defaults(app)}),
        ))
    })
    .await
}

/// What stands for models that requests do not name, as far as it is here: by task, and who answers if it is an endpoint.
fn defaults(app: &App) -> Value {
    let id = |name: String| {
        app.engine()
            .catalog()
            .find(&name)
            .ok()
            .map(|model| model.shown())
    };
    let mut defaults = json!({
        "endpoint": app.config().llm.as_ref().map(|endpoint| &endpoint.model),
    });
    defaults[ModelKind::Recognizer.task()] = id(app.recognizer_name(None)).into();
    defaults[ModelKind::Synthesizer.task()] = id(app.synthesizer_name(None)).into();
    defaults
}

/// What stands behind `prefix` in a path: names of models have slashes in them.
fn name_in_path(request: &Request, prefix: &str) -> String {
    let path = request.uri().path();
    percent_decoded(path.strip_prefix(prefix).unwrap_or(path))
}

/// `%2F` and the like as what they stand for.
pub fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = bytes.get(index + 1..index + 3);
        let hex = hex.filter(|_| bytes[index] == b'%');
        let value = hex
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(value.unwrap_or(bytes[index]));
        index += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `GET /v1/models/{id}`.
pub async fn get(State(app): State<App>, request: Request) -> Result<Json<Value>, ApiError> {
    let name = name_in_path(&request, "/v1/models/");
    blocking(&app, move |app, _| Ok(Json(entry(app, &find(app, &name)?)))).await
}

/// `POST /v1/models/{id}`: download a model.
pub async fn pull(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    check_management(&app)?;
    let name = name_in_path(&request, "/v1/models/");
    blocking(&app, move |app, control| {
        let cache = app.engine().catalog().cache().clone();
        let note = |line: &str| app.log(LogLevel::Info, line);
        let offline = app.config().offline;
        Hub::from_env()?.ensure(&cache, &name, offline, control, &note)?;
        let model = app.engine().catalog().find(&name)?;
        Ok((StatusCode::CREATED, Json(entry(app, &model))).into_response())
    })
    .await
}

/// `DELETE /v1/models/{id}`: remove a model from the cache.
pub async fn remove(State(app): State<App>, request: Request) -> Result<Json<Value>, ApiError> {
    check_management(&app)?;
    let name = name_in_path(&request, "/v1/models/");
    blocking(&app, move |app, _| {
        let model = app.engine().catalog().find(&name)?;
        app.engine().unload(&name)?;
        app.engine().catalog().cache().remove(&name)?;
        Ok(Json(
            json!({"id": model.shown(), "object": "model", "deleted": true}),
        ))
    })
    .await
}

/// `GET /api/ps`: what is loaded.
pub async fn loaded(State(app): State<App>) -> Json<Value> {
    let models: Vec<Value> = app
        .engine()
        .loaded()
        .iter()
        .map(|model| {
            json!({
                "id": model.id,
                "task": model.kind.task(),
                "device": model.device,
                "size": model.bytes,
                "in_use": model.in_use,
                "idle_seconds": model.idle.as_secs_f64(),
                "load_seconds": model.load_seconds,
            })
        })
        .collect();
    Json(json!({"models": models}))
}

/// `POST /api/ps/{id}`: load a model.
pub async fn load(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let name = name_in_path(&request, "/api/ps/");
    blocking(&app, move |app, control| {
        let model = find(app, &name)?;
        drop(app.engine().load(&model.id, control)?);
        Ok((StatusCode::CREATED, Json(entry(app, &model))).into_response())
    })
    .await
}

/// `DELETE /api/ps/{id}`: unload a model.
pub async fn unload(State(app): State<App>, request: Request) -> Result<Json<Value>, ApiError> {
    let name = name_in_path(&request, "/api/ps/");
    blocking(&app, move |app, _| {
        let model = find(app, &name)?;
        if !app.engine().unload(&model.id)? {
            return Err(ApiError::not_found(format!("model `{name}` is not loaded")));
        }
        Ok(Json(json!({"id": model.shown(), "unloaded": true})))
    })
    .await
}

/// whisper.cpp's `POST /load`: another model for requests that name none.
pub async fn replace_default(State(app): State<App>, request: Request) -> Result<String, ApiError> {
    check_management(&app)?;
    let form = Form::receive(&app, request).await?;
    let name = form
        .text("model")
        .ok_or_else(|| ApiError::missing("model"))?;
    let name = name.to_owned();
    blocking(&app, move |app, control| {
        drop(app.engine().recognizer(&name, control)?);
        app.set_default_recognizer(&name);
        Ok("Load was successful!".to_owned())
    })
    .await
}

fn check_management(app: &App) -> Result<(), ApiError> {
    match app.config().allow_model_management {
        true => Ok(()),
        false => Err(ApiError::not_found(
            "models are not managed over the network here; whoever runs the server can allow it",
        )),
    }
}

/// The model of a name, also of one of OpenAI's.
fn find(app: &App, name: &str) -> Result<KnownModel, ApiError> {
    let name = match name {
        "whisper-1" => app.recognizer_name(None),
        "tts-1" | "tts-1-hd" | "gpt-4o-mini-tts" => app.synthesizer_name(None),
        other => other.to_owned(),
    };
    Ok(app.engine().catalog().find(&name)?)
}

fn entry(app: &App, model: &KnownModel) -> Value {
    let loaded = app.engine().loaded();
    let shown = model.shown();
    json!({
        "id": shown,
        "object": "model",
        "created": changed(&model.path),
        "owned_by": shown.split_once('/').map_or("turaco", |(owner, _)| owner),
        "task": model.kind.task(),
        "loaded": loaded.iter().any(|loaded| loaded.id == shown),
    })
}

/// When a model came here, in seconds since 1970.
fn changed(path: &Path) -> u64 {
    let time = std::fs::metadata(path).and_then(|facts| facts.modified());
    let since = time
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_in_names_may_be_escaped() {
        for (text, name) in [
            ("openai%2Fwhisper-tiny", "openai/whisper-tiny"),
            ("openai/whisper-tiny", "openai/whisper-tiny"),
            ("100%", "100%"),
            ("%zz%2", "%zz%2"),
            ("%C3%A4", "ä"),
        ] {
            assert_eq!(percent_decoded(text), name);
        }
    }
}
