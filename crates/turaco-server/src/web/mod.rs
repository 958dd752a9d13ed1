//! The page, its description for programs, and the one for people: files that are part of the program.

use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::error::ApiError;

/// What pages of this server may do: nothing that is not their own.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; connect-src 'self' ws: wss:; base-uri 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// `GET /`.
pub async fn page(State(app): State<App>) -> Result<Response, ApiError> {
    shown(&app, HTML, include_str!("index.html"))
}

/// `GET /docs`.
pub async fn docs(State(app): State<App>) -> Result<Response, ApiError> {
    shown(&app, HTML, include_str!("docs.html"))
}

/// `GET /openapi.json`.
pub async fn openapi() -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, include_str!("openapi.json")).into_response()
}

/// `GET /ui/{file}`.
pub async fn file(State(app): State<App>, Path(name): Path<String>) -> Result<Response, ApiError> {
    match name.as_str() {
        "app.js" => shown(&app, SCRIPT, include_str!("app.js")),
        "audio.js" => shown(&app, SCRIPT, include_str!("audio.js")),
        "capture.js" => shown(&app, SCRIPT, include_str!("capture.js")),
        "captions.js" => shown(&app, SCRIPT, include_str!("captions.js")),
        "docs.js" => shown(&app, SCRIPT, include_str!("docs.js")),
        "files.js" => shown(&app, SCRIPT, include_str!("files.js")),
        "server.js" => shown(&app, SCRIPT, include_str!("server.js")),
        "talk.js" => shown(&app, SCRIPT, include_str!("talk.js")),
        "transcript.js" => shown(&app, SCRIPT, include_str!("transcript.js")),
        "voices.js" => shown(&app, SCRIPT, include_str!("voices.js")),
        "style.css" => shown(&app, "text/css; charset=utf-8", include_str!("style.css")),
        _ => Err(ApiError::not_found("the page has no such file")),
    }
}

fn shown(app: &App, kind: &'static str, text: &'static str) -> Result<Response, ApiError> {
    if !app.config().ui {
        return Err(ApiError::not_found("this server has no page"));
    }
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, text).into_response())
}
