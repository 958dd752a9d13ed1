//! What is done for every request: its id, keys, origins, counting and the log.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::auth;
use crate::config::LogLevel;
use crate::deadline;
use crate::error::ApiError;
use crate::traces;
use crate::upload::discard;

/// Paths that need no key.
const OPEN: &[&str] = &[
    "/",
    "/health",
    "/health/live",
    "/ready",
    "/metrics",
    "/docs",
    "/openapi.json",
];

/// Pass a request on if it may come in, and write down what became of it.
pub async fn around(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("other", MatchedPath::as_str).to_owned();
    let origin = request.headers().get(header::ORIGIN).cloned();
    let wished = request
        .headers()
        .get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let wished = wished.cloned();

    let trace = match &app.config().traces {
        Some(traces) if !is_watching(&route) => {
            Some(traces.request(method.as_str(), &route, request.headers()))
        }
        _ => None,
    };
    let checked = check(&app, &request, origin.as_ref());
    let mut response = match checked {
        Err(error) => {
            discard(request.into_body()).await;
            error.into_response()
        }
        Ok(()) if method == Method::OPTIONS && origin.is_some() => preflight(),
        Ok(()) => {
            // Counted as cancelled if the client goes away before there is an answer.
            let unanswered = Unanswered {
                app: &app,
                line: format!("{id} {method} {path}"),
                done: false,
            };
            let answered = deadline::within(&app, next.run(request));
            let response = traces::within(trace.clone(), answered).await;
            unanswered.answered();
            response
        }
    };
    share(&app, origin.as_ref(), wished, &mut response);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    let seconds = started.elapsed().as_secs_f64();
    let status = response.status().as_u16();
    app.metrics().request(&route, status, seconds);
    if let Some(trace) = trace {
        trace.answered(status, &id);
        response = response.map(|body| trace.around(body));
    }
    let line = format!("{id} {method} {path} {status} {:.0} ms", seconds * 1e3);
    match response.extensions().get::<ApiError>() {
        // Whoever watches the server would fill the log.
        None if is_watching(&route) => {}
        None => app.log(LogLevel::Info, &line),
        Some(error) => {
            app.metrics().error(error.code);
            let level = match status {
                500.. => LogLevel::Error,
                _ => LogLevel::Warning,
            };
            app.log(level, &format!("{line}: {error}"));
        }
    }
    response
}

/// Routes of those who watch the server again and again.
fn is_watching(route: &str) -> bool {
    route.starts_with("/health") || route == "/ready" || route == "/metrics" || route == "/v1/stats"
}

struct Unanswered<'a> {
    app: &'a App,
    line: String,
    done: bool,
}

impl Unanswered<'_> {
    fn answered(mut self) {
        self.done = true;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.app.metrics().error("cancelled");
            let line = format!(
                "{} {}: the client went away",
                self.line,
                crate::error::CLIENT_GONE
            );
            self.app.log(LogLevel::Info, &line);
        }
    }
}

fn check(app: &App, request: &Request, origin: Option<&HeaderValue>) -> Result<(), ApiError> {
    let config = app.config();
    let (method, path) = (request.method(), request.uri().path());
    let is_websocket = request.headers().contains_key(header::SEC_WEBSOCKET_KEY);
    // A browser sends simple posts and opens WebSockets for any page, and keeps only answers from it.
    let acts = is_websocket || !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if let Some(origin) = origin.filter(|_| acts) {
        let origin = origin.to_str().unwrap_or_default();
        // A key is a secret that no page of another origin has.
        let only_local = app.is_local() && config.api_keys.is_empty();
        if !auth::allows_origin(&config.cors, origin, request.headers(), only_local) {
            return Err(ApiError::foreign_origin());
        }
    }
    let open = OPEN.contains(&path) || path.starts_with("/ui/") || method == Method::OPTIONS;
    match open {
        true => Ok(()),
        false => auth::check_key(
            &config.api_keys,
            request.headers(),
            request.uri(),
            is_websocket,
        ),
    }
}

fn preflight() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Let pages of named origins read the answer, and send the headers that they wish to: clients of OpenAI's have some of their own.
fn share(
    app: &App,
    origin: Option<&HeaderValue>,
    wished: Option<HeaderValue>,
    response: &mut Response,
) {
    let Some(origin) = origin else { return };
    let named = |text| auth::is_named(&app.config().cors, text);
    if !origin.to_str().is_ok_and(named) {
        return;
    }
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    for (name, value) in [
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            "GET, POST, DELETE, OPTIONS",
        ),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, x-request-id, openai-beta",
        ),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "x-request-id, x-sample-rate",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Some(wished) = wished {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wished);
    }
}

/// The client's own id if it can stand in a log, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get("x-request-id").and_then(|id| id.to_str().ok());
    let plain =
        |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    given
        .filter(plain)
        .map_or_else(|| new_id("req"), str::to_owned)
}

/// `PREFIX_` and letters that nobody has seen before. They are no secret.
pub fn new_id(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(count);
    format!("{prefix}_{:016x}{count:06x}", hasher.finish())
}

/// A number that nobody has seen before, short enough to be typed.
pub fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 24
}
