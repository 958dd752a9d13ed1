//! Whether the server is well, and what it has counted.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::ApiError;

/// `GET /health` and `GET /ready`: whether everything is loaded that was to be loaded first.
pub async fn ready(State(app): State<App>) -> Response {
    let unready = app.unready();
    let body = match app.is_ready() {
        true if unready.is_empty() => return Json(json!({"status": "ok"})).into_response(),
        true => json!({"status": "failed", "message": unready.join("; ")}),
        false => json!({"status": "loading"}),
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

/// `GET /health/live`.
pub async fn alive() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

/// `GET /metrics`.
pub async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    if !app.config().metrics {
        return Err(ApiError::not_found("metrics are on a port of their own"));
    }
    Ok(metrics_text(&app))
}

/// `GET /v1/stats`: how long things have taken lately.
pub async fn stats(State(app): State<App>) -> Json<Value> {
    let loaded = app.engine().loaded();
    let of_models = loaded.iter();
    let kv_cache_bytes: Value = of_models
        .map(|model| (model.id.clone(), Value::from(model.cache_bytes)))
        .collect();
    Json(json!({
        "uptime_seconds": app.metrics().uptime().as_secs_f64(),
        "sessions_open": app.open_sessions(),
        "counts": app.metrics().counts(),
        "kv_cache_bytes": kv_cache_bytes,
        "operations": app.metrics().stats(),
    }))
}

/// All counters.
pub fn metrics_text(app: &App) -> Response {
    let text = app.metrics().text(app.engine(), app.open_sessions());
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, text).into_response()
}
