//! Answers that come in pieces.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use turaco::{Control, Error, Result};

use crate::app::{App, CancelOnDrop};
use crate::config::LogLevel;
use crate::deadline;
use crate::error::ApiError;
use crate::traces;

/// The type of event streams.
pub const EVENT_STREAM: &str = "text/event-stream";

/// Pieces that wait for a slow reader.
const WAITING: usize = 16;

/// How long a reader may take for a piece before it counts as gone.
const PATIENCE: Duration = Duration::from_secs(60);

type Headers = Vec<(HeaderName, HeaderValue)>;

/// Sends the pieces of an answer from a thread that may block.
pub struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    runtime: tokio::runtime::Handle,
    begin: Option<oneshot::Sender<Headers>>,
}

impl Pieces {
    /// The answer begins: what fails from now on no longer changes its status.
    pub fn begin(&mut self, headers: Headers) {
        if let Some(begin) = self.begin.take() {
            // Who is gone is noticed at the first piece.
            let _ = begin.send(headers);
        }
    }

    /// Send bytes; waits for a slow reader, so no turn on a device may be held.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when nobody reads.
    pub fn send(&mut self, bytes: impl Into<Bytes>) -> Result<()> {
        self.begin(Vec::new());
        self.put(Ok(bytes.into()))
    }

    /// Send one event of `text/event-stream`.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn event(&mut self, data: &Value) -> Result<()> {
        self.send(format!("data: {data}\n\n"))
    }

    fn put(&self, piece: io::Result<Bytes>) -> Result<()> {
        let sent = self.sender.send_timeout(piece, PATIENCE);
        self.runtime.block_on(sent).map_err(|_| Error::Cancelled)
    }

    /// Say that the answer is not whole.
    fn fail(&self, error: &ApiError, content_type: &str) {
        // Nobody reads it if this fails too.
        let _ = self.put(last_piece(error, content_type));
    }
}

/// Says that an answer is not whole: in words where there are events, else by breaking off.
fn last_piece(error: &ApiError, content_type: &str) -> io::Result<Bytes> {
    match content_type {
        EVENT_STREAM => {
            let data = json!({"type": "error", "error": error.body()});
            Ok(format!("data: {data}\n\n").into())
        }
        _ => Err(io::Error::other(error.message.clone())),
    }
}

/// An answer whose body is what `work` sends. `work` runs on a thread of its own and is cancelled when nobody reads any more.
///
/// # Errors
/// That of `work`, if it fails before it begins.
pub async fn in_pieces(
    app: &App,
    content_type: &'static str,
    work: impl FnOnce(&App, &Control, &mut Pieces) -> std::result::Result<(), ApiError> + Send + 'static,
) -> std::result::Result<Response, ApiError> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let (begin, begun) = oneshot::channel();
    let mut pieces = Pieces {
        sender,
        runtime: tokio::runtime::Handle::current(),
        begin: Some(begin),
    };
    let guard = CancelOnDrop::new(app);
    let (control, worker) = (guard.control(), app.clone());
    let trace = traces::current();
    let running = tokio::task::spawn_blocking(move || {
        let done = traces::recorded(trace.as_ref(), || work(&worker, &control, &mut pieces));
        if pieces.begin.is_none()
            && let Err(error) = &done
        {
            worker.metrics().error(error.code);
            worker.log(
                LogLevel::Warning,
                &format!("in the middle of an answer: {error}"),
            );
            pieces.fail(error, content_type);
        }
        done
    });
    let deadline = deadline::of_request(app);
    let begun = deadline::until(deadline, begun).await;
    let begun = begun.map_err(|error| guard.timed_out(error))?;
    let Ok(headers) = begun else {
        let done = deadline::until(deadline, running).await?;
        let done = done.unwrap_or_else(|panic| Err(ApiError::internal(panic.to_string())));
        return Err(done
            .err()
            .unwrap_or_else(|| ApiError::internal("an empty answer")));
    };
    let (worker, state) = (app.clone(), Some((receiver, guard)));
    let stream = futures_util::stream::unfold(state, move |state| {
        let worker = worker.clone();
        async move {
            let (mut receiver, mut guard) = state?;
            match deadline::until(deadline, receiver.recv()).await {
                Ok(Some(piece)) => Some((piece, Some((receiver, guard)))),
                Ok(None) => {
                    guard.finish();
                    None
                }
                // The work ends with its guard.
                Err(error) => {
                    worker.metrics().error(error.code);
                    let line = format!("in the middle of an answer: {error}");
                    worker.log(LogLevel::Warning, &line);
                    Some((last_piece(&error, content_type), None))
                }
            }
        }
    });
    let mut response = Response::new(Body::from_stream(stream));
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies would collect what is meant to come at once.
    out.insert("x-accel-buffering", HeaderValue::from_static("no"));
    out.extend(headers);
    Ok(response)
}
