//! Which path leads where.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};

use crate::app::App;
use crate::error::ApiError;
use crate::openai::{chat, models, speech, transcriptions, voices};
use crate::{health, layer, realtime, web};

/// All routes.
pub fn router(app: App) -> Router {
    let limit = usize::try_from(app.config().max_upload).unwrap_or(usize::MAX);
    Router::new()
        .route(
            "/v1/audio/transcriptions",
            post(transcriptions::transcriptions),
        )
        .route("/v1/audio/translations", post(transcriptions::translations))
        .route("/v1/audio/speech", post(speech::speech))
        .route("/v1/audio/speech/timestamps", post(voices::timestamps))
        .route("/v1/audio/voices", get(voices::list).post(voices::create))
        .route("/v1/audio/voices/{id}", delete(voices::remove))
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/realtime", get(realtime::realtime))
        .route("/v1/models", get(models::list))
        .route(
            "/v1/models/{*id}",
            get(models::get).post(models::pull).delete(models::remove),
        )
        .route("/api/ps", get(models::loaded))
        .route("/api/ps/{*id}", post(models::load).delete(models::unload))
        .route("/inference", post(transcriptions::inference))
        .route("/load", post(models::replace_default))
        .route("/health", get(health::ready))
        .route("/health/live", get(health::alive))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/v1/stats", get(health::stats))
        .route("/", get(web::page))
        .route("/ui/{file}", get(web::file))
        .route("/docs", get(web::docs))
        .route("/openapi.json", get(web::openapi))
        .fallback(|| async { ApiError::not_found("there is nothing at this path") })
        .method_not_allowed_fallback(|| async { ApiError::wrong_method() })
        .layer(DefaultBodyLimit::max(limit))
        .layer(from_fn_with_state(app.clone(), layer::around))
        .with_state(app)
}

/// Counters alone, for a port of their own.
pub fn metrics_router(app: App) -> Router {
    Router::new().route(
        "/metrics",
        get(move || async move { health::metrics_text(&app) }),
    )
}
