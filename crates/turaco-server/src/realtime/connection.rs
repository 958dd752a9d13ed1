//! The two sides of a connection of `/v1/realtime`: the socket, which is read and written all the time, and the session, which may
//! take a while over a message, such as one that needs a model first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use serde_json::Value;
use tokio::sync::{Notify, mpsc};

use super::protocol::ServerEvent;
use super::session::{Opening, Receivers, Session};
use super::settings::Settings;
use crate::app::{App, SessionPlace};
use crate::connections::{FAREWELL, ended};
use crate::error::ApiError;

/// Between two pings.
const PING: Duration = Duration::from_secs(20);

/// Between two looks at the time at least.
const SHORTEST: Duration = Duration::from_millis(100);

/// How long a client may take to receive a message.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of one message: 15 MiB of base64, as OpenAI takes, and some.
pub const MAX_MESSAGE: usize = 16 << 20;

/// Bytes of base64 of a second of sound in the usual format.
const SECOND: f64 = 64_000.0;

/// Events between the two sides.
const EVENTS: usize = 64;

/// The codes of RFC 6455 that clients are told at the end.
mod code {
    pub const NORMAL: u16 = 1000;
    pub const AWAY: u16 = 1001;
    pub const TOO_LARGE: u16 = 1009;
}

/// What the session wants done.
enum Out {
    Event(Value),
    Close(u16, &'static str),
}

/// What came in and is not looked at yet.
struct Waiting {
    bytes: AtomicUsize,
    most: usize,
    taken: Notify,
    last_word: Mutex<Instant>,
}

impl Waiting {
    fn new(app: &App) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            most: (app.config().max_buffer * SECOND) as usize,
            taken: Notify::new(),
            last_word: Mutex::new(Instant::now()),
        }
    }

    fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) <= self.most
    }

    fn put(&self, message: &Message) {
        self.bytes.fetch_add(length(message), Ordering::Relaxed);
        *self
            .last_word
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn take(&self, message: &Message) {
        self.bytes.fetch_sub(length(message), Ordering::Relaxed);
        self.taken.notify_one();
    }

    /// Since the client said something.
    fn quiet(&self) -> Duration {
        let last_word = self.last_word.lock();
        last_word.unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

fn length(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.len(),
        Message::Binary(bytes) => bytes.len(),
        _ => 0,
    }
}

/// Until one of the two goes.
pub async fn run(
    socket: WebSocket,
    app: App,
    settings: Settings,
    dialect: (Opening, bool),
    place: SessionPlace,
) {
    let (mut session, news) = Session::new(&app, settings, dialect, place);
    let waiting = Waiting::new(&app);
    let (said, messages) = mpsc::unbounded_channel();
    let (out, outgoing) = mpsc::channel(EVENTS);
    let talking = async {
        talk(&mut session, news, (&app, &waiting), messages, out).await;
        // The other side still brings out what was said last.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = wire(socket, &app, &waiting, said, outgoing) => {}
        () = talking => {}
    }
}

fn ticks(app: &App) -> tokio::time::Interval {
    tokio::time::interval(PING.min(app.config().session_timeout).max(SHORTEST))
}

/// The side of the socket.
async fn wire(
    mut socket: WebSocket,
    app: &App,
    waiting: &Waiting,
    said: mpsc::UnboundedSender<Message>,
    mut outgoing: mpsc::Receiver<Out>,
) {
    let mut ping = ticks(app);
    loop {
        tokio::select! {
            out = outgoing.recv() => match out {
                Some(Out::Event(event)) => {
                    let text = Message::Text(event.to_string().into());
                    if send(&mut socket, text).await.is_err() {
                        return;
                    }
                }
                Some(Out::Close(code, reason)) => return close(socket, code, reason).await,
                None => return,
            },
            message = socket.recv(), if waiting.has_room() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    waiting.put(&message);
                    // Nothing more is taken when the server ends.
                    let _ = said.send(message);
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Err(error)) if is_too_large(&error) => {
                    let mut error = ApiError::malformed(format!(
                        "the message is larger than the limit of {MAX_MESSAGE} bytes"
                    ));
                    error.code = "message_too_large";
                    app.metrics().error(error.code);
                    let error = ServerEvent::Error { error: error.body() };
                    let text = Message::Text(error.to_json().to_string().into());
                    if send(&mut socket, text).await.is_ok() {
                        close(socket, code::TOO_LARGE, "message_too_large").await;
                    }
                    return;
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
            () = waiting.taken.notified() => {}
            _ = ping.tick() => {
                if send(&mut socket, Message::Ping(Vec::new().into())).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The side of the session.
async fn talk(
    session: &mut Session,
    mut news: Receivers,
    (app, waiting): (&App, &Waiting),
    mut messages: mpsc::UnboundedReceiver<Message>,
    out: mpsc::Sender<Out>,
) {
    let mut ending = app.ending();
    let mut look = ticks(app);
    let mut events = vec![session.greeting()];
    // When the server ends: until when it waits, and whether all that came in was looked at.
    let (mut until, mut is_over) = (None, false);
    let reason = loop {
        if let Some(heard) = session.take_fresh() {
            news.heard = heard;
        }
        for event in events.drain(..) {
            if out.send(Out::Event(event)).await.is_err() {
                return;
            }
        }
        if is_over && !session.is_busy() {
            break (code::AWAY, "shutting_down");
        }
        let deadline = until.unwrap_or_else(tokio::time::Instant::now);
        tokio::select! {
            biased;
            Some(event) = news.heard.recv() => session.heard(event, &mut events).await,
            Some(event) = news.told.recv() => session.told(event, &mut events),
            () = ended(&mut ending), if until.is_none() => {
                until = Some(tokio::time::Instant::now() + app.config().grace);
                messages.close();
            }
            () = tokio::time::sleep_until(deadline), if until.is_some() => {
                break (code::AWAY, "shutting_down");
            }
            message = messages.recv(), if !is_over && !session.is_settling() => match message {
                Some(message) => {
                    waiting.take(&message);
                    match message {
                        Message::Text(text) => session.text(&text, &mut events).await,
                        Message::Binary(bytes) => session.binary(&bytes, &mut events).await,
                        _ => {}
                    }
                }
                None => {
                    is_over = true;
                    session.finish(&mut events).await;
                }
            },
            _ = look.tick() => {
                let is_idle = waiting.quiet() >= app.config().session_timeout;
                if is_idle && !session.is_working() && until.is_none() {
                    break (code::NORMAL, "idle_timeout");
                }
            }
        }
    };
    // Who is gone needs no farewell.
    let _ = out.send(Out::Close(reason.0, reason.1)).await;
}

/// A message over the limit; the library that reads them tells it in words only.
fn is_too_large(error: &axum::Error) -> bool {
    error.to_string().contains("too long")
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
    if send(&mut socket, Message::Close(Some(frame)))
        .await
        .is_err()
    {
        return;
    }
    // A connection that ends with something unread takes the farewell with it: the client has a moment to answer.
    let until = tokio::time::Instant::now() + FAREWELL;
    loop {
        match tokio::time::timeout_at(until, socket.recv()).await {
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(_))) if code == self::code::TOO_LARGE => {
                return tokio::time::sleep_until(until).await;
            }
            _ => return,
        }
    }
}
