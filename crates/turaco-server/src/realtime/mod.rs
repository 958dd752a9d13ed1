//! `/v1/realtime`: live sound over a WebSocket.

mod answers;
mod awaited;
mod connection;
mod conversation;
mod ear;
mod history;
mod items;
mod protocol;
mod response;
mod saying;
mod session;
mod settings;
mod sound;
mod sound_out;
mod talking;
mod utterances;
mod vllm;

use axum::extract::rejection::QueryRejection;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use turaco::engine::ModelKind;

use crate::app::App;
use crate::error::ApiError;
use crate::family::check_language;
use connection::{MAX_MESSAGE, run};
pub use ear::{Ear, EarEvent, EarOptions};
use session::Opening;
use settings::Settings;
pub use talking::tool_choice;

/// What the address says.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    model: Option<String>,
    intent: Option<String>,
    language: Option<String>,
    protocol: Option<String>,
}

/// `GET /v1/realtime`.
pub async fn realtime(
    State(app): State<App>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = asked.map_err(|rejection| ApiError::malformed(rejection.body_text()))?;
    let upgrade = upgrade.map_err(|rejection| ApiError::malformed(rejection.body_text()))?;
    let (mut talks, mut writes) = (false, true);
    // Who says what the session is for is not taken by the model's kind for something else.
    let mut is_open = true;
    match asked.intent.as_deref() {
        None | Some("") => {}
        Some("transcription") => is_open = false,
        Some("conversation") => talks = true,
        Some(other) => {
            let message = format!("`{other}` is none of transcription, conversation");
            return Err(ApiError::invalid("intent", message));
        }
    }
    if let Some(model) = &asked.model {
        let catalog = app.engine().catalog();
        let known = catalog.find(&app.recognizer_name(Some(model)));
        // An endpoint answers under any name; whoever asks for a model that talks wants to talk.
        let kind = known.as_ref().ok().map(|known| known.kind);
        let endpoint = app.config().llm.as_ref();
        let is_its_model =
            endpoint.is_some_and(|endpoint| kind.is_none() || endpoint.model == *model);
        talks |= is_open && (kind == Some(ModelKind::Chat) || is_its_model);
        if !(talks && endpoint.is_some()) {
            known?;
        }
        if kind == Some(ModelKind::Synthesizer) {
            let message = format!("`{model}` speaks; a session wants a model that hears");
            return Err(ApiError::invalid("model", message));
        }
        writes = !talks || kind == Some(ModelKind::Recognizer);
    }
    check_language(asked.language.as_deref()).map_err(|error| error.about("language"))?;
    let is_vllm = match asked.protocol.as_deref() {
        None | Some("" | "openai") => false,
        Some("vllm") => true,
        Some(other) => {
            let message = format!("`{other}` is none of openai, vllm");
            return Err(ApiError::invalid("protocol", message));
        }
    };
    let place = app.open_session()?;
    let beta = headers.get("openai-beta");
    let beta =
        beta.is_some_and(|value| value.as_bytes().windows(8).any(|part| part == b"realtime"));
    let opening = match (talks, is_vllm) {
        (true, _) => Opening::Conversation,
        (false, true) => Opening::Vllm,
        (false, false) => Opening::Undecided,
    };
    let mut settings = Settings::new(&app, asked.model, asked.language);
    if !writes {
        // It answers; what is said is written down by another, if at all.
        settings.transcription.model = None;
    }
    Ok(upgrade
        .protocols(["realtime"])
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .on_upgrade(move |socket| run(socket, app, settings, (opening, beta), place)))
}
