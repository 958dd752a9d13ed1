//! `/v1/realtime`: live sound over a WebSocket.

mod answers;
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

use std::time::{Duration, Instant};

use axum::extract::rejection::QueryRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use turaco::engine::ModelKind;

use crate::app::{App, SessionPlace};
use crate::connections::ended;
use crate::error::ApiError;
pub use ear::{Ear, EarEvent, EarOptions};
use session::{Opening, Session};
use settings::Settings;

/// Between two pings.
const PING: Duration = Duration::from_secs(20);

/// Between two looks at the time at least.
const SHORTEST: Duration = Duration::from_millis(100);

/// How long a client may take to receive a message.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of one message: 15 MiB of base64, as OpenAI takes, and some.
const MAX_MESSAGE: usize = 16 << 20;

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
    match asked.intent.as_deref() {
        None | Some("" | "transcription") => {}
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
        talks |= kind == Some(ModelKind::Chat);
        if !(talks && app.config().llm.is_some()) {
            known?;
        }
        writes = !talks || kind == Some(ModelKind::Recognizer);
    }
    let place = app.open_session()?;
    let beta = headers.get("openai-beta");
    let beta =
        beta.is_some_and(|value| value.as_bytes().windows(8).any(|part| part == b"realtime"));
    let opening = match (talks, asked.protocol.as_deref()) {
        (true, _) => Opening::Conversation,
        (false, Some("vllm")) => Opening::Vllm,
        (false, _) => Opening::Undecided,
    };
    let mut settings = Settings::new(asked.model, asked.language);
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

/// Until one of the two goes.
async fn run(
    mut socket: WebSocket,
    app: App,
    settings: Settings,
    dialect: (Opening, bool),
    place: SessionPlace,
) {
    let (mut session, mut news) = Session::new(&app, settings, dialect, place);
    let mut ending = app.ending();
    let mut ping = tokio::time::interval(PING.min(app.config().session_timeout).max(SHORTEST));
    let mut last_word = Instant::now();
    let mut out = vec![session.greeting()];
    loop {
        for event in out.drain(..) {
            if send(&mut socket, Message::Text(event.to_string().into()))
                .await
                .is_err()
            {
                return;
            }
        }
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    last_word = Instant::now();
                    session.text(&text, &mut out).await;
                }
                Some(Ok(Message::Binary(bytes))) => {
                    last_word = Instant::now();
                    session.binary(&bytes, &mut out).await;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
            Some(event) = news.heard.recv() => session.heard(event, &mut out),
            Some(event) = news.told.recv() => session.told(event, &mut out),
            _ = ping.tick() => {
                let idle = last_word.elapsed() >= app.config().session_timeout;
                if idle && !session.is_working() {
                    close(socket, 1000, "idle_timeout").await;
                    return;
                }
                if send(&mut socket, Message::Ping(Vec::new().into())).await.is_err() {
                    return;
                }
            }
            () = ended(&mut ending) => {
                close(socket, 1001, "shutting_down").await;
                return;
            }
        }
    }
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), ()> {
    match tokio::time::timeout(PATIENCE, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(()),
    }
}

async fn close(mut socket: WebSocket, code: u16, reason: &'static str) {
    let frame = CloseFrame {
        code,
        reason: reason.into(),
    };
    // Who is gone needs no farewell.
    let _ = send(&mut socket, Message::Close(Some(frame))).await;
}
