//! Where the time of requests goes, sent to a collector as OpenTelemetry has it (OTLP over HTTP, in JSON).
//!
//! A request is a span; the stages of its work are spans inside it: what [`turaco::trace`] records on the threads that work for it.
//! Runs of one stage, such as the steps of a decoder, are one span that says how many they were and how long they took.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use hyper::body::{Frame, SizeHint};
use serde_json::{Value, json};
use turaco::address::Reports;
use turaco::trace::{Detail, Recorder, Span};
use turaco::voice::TurnTimings;

/// Traces that wait to be sent; more are dropped, as requests do not wait for a collector.
const WAITING: usize = 1024;

/// Traces in one report.
const TOGETHER: usize = 64;

/// Stages of one request that are told apart; those beyond are added to what is there.
const MOST_STAGES: usize = 1000;

/// Between two complaints about a collector that takes nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// What stages are called inside, and in traces.
const STAGES: &[(&str, &str)] = &[
    ("decode", "decode"),
    ("window", "features"),
    ("mel", "features"),
    ("vad", "vad"),
    ("language", "language"),
    ("compile", "compile"),
    ("encoder", "encode"),
    ("speaker_encoder", "encode"),
    ("codec.encode", "encode"),
    ("codec.quantize", "encode"),
    ("prefill", "prefill"),
    ("step", "decode_steps"),
    ("talker", "decode_steps"),
    ("code_predictor", "decode_steps"),
    ("codec.decode", "codec"),
    ("words", "words"),
];

tokio::task_local! {
    /// The request that the task answers.
    static CURRENT: Option<Trace>;
}

/// Takes a line about a collector that takes nothing.
type Complain = dyn Fn(&str) + Send;

/// Sends traces from a thread of its own; clones are the same.
#[derive(Clone)]
pub struct Traces {
    sender: SyncSender<Value>,
}

impl Traces {
    /// Send traces to the collector at `endpoint`, whose path `/v1/traces` takes them, as `service`; `complain` is told when it
    /// takes nothing.
    ///
    /// # Errors
    /// What is no address.
    pub fn to(
        endpoint: &str,
        headers: Vec<(String, String)>,
        service: &str,
        complain: impl Fn(&str) + Send + 'static,
    ) -> turaco::Result<Self> {
        let endpoint = endpoint.trim().trim_end_matches('/');
        let url = match endpoint.ends_with("/v1/traces") {
            true => endpoint.to_owned(),
            false => format!("{endpoint}/v1/traces"),
        };
        let reports = Reports::new(&url, headers)?;
        let (sender, receiver) = sync_channel(WAITING);
        let service = service.to_owned();
        let send = move || send_all(&receiver, &reports, &service, &complain);
        // It ends when the last sender does.
        drop(std::thread::spawn(send));
        Ok(Self { sender })
    }

    /// A request that came; its caller's trace goes on if it named one.
    pub(crate) fn request(&self, method: &str, route: &str, headers: &HeaderMap) -> Trace {
        let parent = headers
            .get("traceparent")
            .and_then(|text| text.to_str().ok());
        let (trace_id, parent) = match parent.and_then(parent_of) {
            Some((trace_id, parent)) => (trace_id, Some(parent)),
            None => (new_id(32), None),
        };
        Trace(Arc::new(Open {
            traces: self.clone(),
            trace_id,
            parent,
            id: new_id(16),
            name: format!("{method} {route}"),
            clock: Clock::now(),
            state: Mutex::default(),
        }))
    }

    /// A turn of a conversation that ended now.
    pub(crate) fn turn(&self, timings: &TurnTimings) {
        let clock = Clock::now();
        let begin = clock.before(timings.turn_end.unwrap_or_default() + timings.total);
        let attributes = timings
            .stages()
            .map(|(stage, seconds)| attribute(&format!("turaco.{stage}_seconds"), &seconds.into()));
        self.send(vec![json!({
            "traceId": new_id(32),
            "spanId": new_id(16),
            "name": "turn",
            "kind": INTERNAL,
            "startTimeUnixNano": begin,
            "endTimeUnixNano": clock.at(clock.instant),
            "attributes": attributes.collect::<Vec<_>>(),
        })]);
    }

    fn send(&self, spans: Vec<Value>) {
        // Full: the collector is slower than the requests, or not there.
        let _ = self.sender.try_send(spans.into());
    }
}

impl std::fmt::Debug for Traces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Traces").finish_non_exhaustive()
    }
}

/// The kinds of spans that are used here, by OpenTelemetry's numbers.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;

/// A request on its way; it is sent when the last clone goes.
#[derive(Clone)]
pub struct Trace(Arc<Open>);

struct Open {
    traces: Traces,
    trace_id: String,
    parent: Option<String>,
    id: String,
    name: String,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stages: Vec<Stage>,
    attributes: Vec<Value>,
    failed: bool,
}

/// Runs of one stage, one after the other.
#[derive(Debug, Clone, PartialEq)]
struct Stage {
    name: &'static str,
    begin: u64,
    end: u64,
    runs: usize,
    busy: Duration,
}

impl Trace {
    /// The answer's head is there.
    pub fn answered(&self, status: u16, request_id: &str) {
        let mut state = self.0.state();
        let facts = [
            ("http.response.status_code", status.into()),
            ("turaco.request_id", request_id.into()),
        ];
        let facts = facts.map(|(name, value)| attribute(name, &value));
        state.attributes.extend(facts);
        state.failed = status >= 500;
    }

    /// The body, which belongs to the request until all of it is sent.
    pub fn around(self, body: Body) -> Body {
        let began = Instant::now();
        let _sending = Sending { trace: self, began };
        Body::new(Traced { body, _sending })
    }

    /// Do work of this request, and write down where its time goes.
    pub fn record<T>(&self, work: impl FnOnce() -> T) -> T {
        let Some(mut recorder) = Recorder::start(Detail::Stages) else {
            return work();
        };
        let began = self.0.clock.at(Instant::now());
        let done = work();
        let spans = recorder.take();
        self.0.state().add(began, &spans);
        done
    }
}

impl Open {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Add spans whose recording started at `origin`.
    fn add(&mut self, origin: u64, spans: &[Span]) {
        for span in spans {
            let known = STAGES.iter().find(|(inside, _)| **inside == *span.name);
            let Some((_, name)) = known else { continue };
            let (begin, end) = (origin + span.begin, origin + span.end);
            let busy = Duration::from_nanos(span.end - span.begin);
            let is_full = self.stages.len() >= MOST_STAGES;
            let before = match is_full {
                true => self
                    .stages
                    .iter_mut()
                    .rev()
                    .find(|stage| stage.name == *name),
                false => self.stages.last_mut().filter(|stage| stage.name == *name),
            };
            match before {
                Some(stage) => {
                    stage.end = stage.end.max(end);
                    stage.runs += 1;
                    stage.busy += busy;
                }
                None => self.stages.push(Stage {
                    name,
                    begin,
                    end,
                    runs: 1,
                    busy,
                }),
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let (end, begin) = (
            self.clock.at(Instant::now()),
            self.clock.at(self.clock.instant),
        );
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut root = json!({
            "traceId": self.trace_id,
            "spanId": self.id,
            "name": self.name,
            "kind": SERVER,
            "startTimeUnixNano": begin.to_string(),
            "endTimeUnixNano": end.to_string(),
            "attributes": std::mem::take(&mut state.attributes),
        });
        if let Some(parent) = &self.parent {
            root["parentSpanId"] = parent.as_str().into();
        }
        if state.failed {
            root["status"] = json!({"code": 2});
        }
        let stages = state.stages.iter().map(|stage| {
            json!({
                "traceId": self.trace_id,
                "spanId": new_id(16),
                "parentSpanId": self.id,
                "name": stage.name,
                "kind": INTERNAL,
                "startTimeUnixNano": stage.begin.to_string(),
                "endTimeUnixNano": stage.end.to_string(),
                "attributes": [
                    attribute("turaco.runs", &stage.runs.into()),
                    attribute("turaco.busy_seconds", &stage.busy.as_secs_f64().into()),
                ],
            })
        });
        let spans = std::iter::once(root).chain(stages).collect();
        self.traces.send(spans);
    }
}

/// The body of an answer, with what notices its end.
struct Traced {
    body: Body,
    _sending: Sending,
}

impl HttpBody for Traced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The way of an answer to its client.
struct Sending {
    trace: Trace,
    began: Instant,
}

impl Drop for Sending {
    fn drop(&mut self) {
        let (open, now) = (&self.trace.0, Instant::now());
        open.state().stages.push(Stage {
            name: "send",
            begin: open.clock.at(self.began),
            end: open.clock.at(now),
            runs: 1,
            busy: now - self.began,
        });
    }
}

/// Answer a request, whose trace the work that it starts finds with [`current`].
pub async fn within<T>(trace: Option<Trace>, answer: impl Future<Output = T>) -> T {
    CURRENT.scope(trace, answer).await
}

/// The trace of the request that this task answers, if there is one.
pub fn current() -> Option<Trace> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// Do work on a thread of its own for the request with this trace.
pub fn recorded<T>(trace: Option<&Trace>, work: impl FnOnce() -> T) -> T {
    match trace {
        Some(trace) => trace.record(work),
        None => work(),
    }
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
struct Clock {
    instant: Instant,
    nanoseconds: u64,
}

impl Clock {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            instant: Instant::now(),
            nanoseconds: since.map_or(0, |since| since.as_nanos() as u64),
        }
    }

    /// Nanoseconds of the calendar at `instant`.
    fn at(&self, instant: Instant) -> u64 {
        let later = instant.saturating_duration_since(self.instant);
        self.nanoseconds + later.as_nanos() as u64
    }

    /// The same so many seconds before, as text.
    fn before(&self, seconds: f64) -> String {
        let earlier = (seconds.max(0.0) * 1e9) as u64;
        self.nanoseconds.saturating_sub(earlier).to_string()
    }
}

fn attribute(name: &str, value: &Value) -> Value {
    let value = match value {
        Value::Number(number) if number.is_f64() => json!({"doubleValue": number}),
        // 64 bits are text in OTLP's JSON.
        Value::Number(number) => json!({"intValue": number.to_string()}),
        value => json!({"stringValue": value}),
    };
    json!({"key": name, "value": value})
}

/// Trace and span of W3C's `traceparent`.
fn parent_of(text: &str) -> Option<(String, String)> {
    let mut parts = text.trim().split('-');
    let _version = parts.next().filter(|version| version.len() == 2)?;
    let mut hex = |length: usize| {
        let part = parts.next()?;
        let is_id = part.len() == length
            && part.bytes().all(|byte| byte.is_ascii_hexdigit())
            && part.bytes().any(|byte| byte != b'0');
        is_id.then(|| part.to_ascii_lowercase())
    };
    Some((hex(32)?, hex(16)?))
}

/// So many hexadecimal digits that nobody has seen before.
fn new_id(digits: usize) -> String {
    let mut text = String::new();
    while text.len() < digits {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_usize(text.len());
        text.push_str(&format!("{:016x}", hasher.finish()));
    }
    text.truncate(digits);
    text
}

fn send_all(receiver: &Receiver<Value>, reports: &Reports, service: &str, complain: &Complain) {
    let mut complained: Option<Instant> = None;
    while let Ok(first) = receiver.recv() {
        let more = receiver.try_iter().take(TOGETHER - 1);
        let traces: Vec<Value> = std::iter::once(first).chain(more).collect();
        let spans: Vec<&Value> = traces
            .iter()
            .filter_map(Value::as_array)
            .flatten()
            .collect();
        let report = json!({"resourceSpans": [{
            "resource": {"attributes": [
                attribute("service.name", &service.into()),
                attribute("service.version", &env!("CARGO_PKG_VERSION").into()),
            ]},
            "scopeSpans": [{"scope": {"name": "turaco"}, "spans": spans}],
        }]});
        if let Err(error) = reports.send(&report.to_string())
            && complained.is_none_or(|last| last.elapsed() > SILENCE)
        {
            complained = Some(Instant::now());
            complain(&format!("traces are lost: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// A collector that takes one report, and what it was sent.
    fn collector() -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let taking = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = Vec::new();
            let mut buffer = [0; 65536];
            loop {
                let n_read = stream.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..n_read]);
                let shown = String::from_utf8_lossy(&text).into_owned();
                let Some((head, body)) = shown.split_once("\r\n\r\n") else {
                    continue;
                };
                let length = head.lines().find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length:")?
                        .trim()
                        .parse::<usize>()
                        .ok()
                });
                if length.is_some_and(|length| body.len() >= length) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
                    stream.write_all(answer).unwrap();
                    return shown;
                }
            }
        });
        (address, taking)
    }

    #[test]
    fn requests_and_their_stages_are_sent() {
        let (address, taking) = collector();
        let headers = vec![("x-key".to_owned(), "secret".to_owned())];
        let traces = Traces::to(&address, headers, "ear", |_| {}).unwrap();
        let mut incoming = HeaderMap::new();
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        incoming.insert("traceparent", parent.parse().unwrap());
        let trace = traces.request("POST", "/v1/audio/transcriptions", &incoming);
        let sum = trace.record(|| {
            for _ in 0..3 {
                drop(turaco::trace::span("step"));
            }
            drop(turaco::trace::span("mel"));
            drop(turaco::trace::span("nothing to tell"));
            7
        });
        assert_eq!(sum, 7);
        trace.answered(200, "req_1");
        drop(trace);
        let sent = taking.join().unwrap();
        let (head, body) = sent.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("POST /v1/traces ") && head.contains("x-key: secret"),
            "{head}"
        );
        let report: Value = serde_json::from_str(body).unwrap();
        let spans = report["resourceSpans"][0]["scopeSpans"][0]["spans"]
            .as_array()
            .unwrap();
        let names: Vec<_> = spans
            .iter()
            .map(|span| span["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            ["POST /v1/audio/transcriptions", "decode_steps", "features"]
        );
        assert_eq!(spans[0]["parentSpanId"], "b7ad6b7169203331");
        for span in spans {
            assert_eq!(span["traceId"], "0af7651916cd43dd8448eb211c80319c");
        }
        assert_eq!(spans[1]["parentSpanId"], spans[0]["spanId"]);
        assert_eq!(spans[1]["attributes"][0]["value"]["intValue"], "3");
    }

    #[test]
    fn long_work_has_no_endless_trace() {
        let mut state = State::default();
        let span = |index: u64| Span {
            name: if index.is_multiple_of(2) {
                "mel"
            } else {
                "step"
            }
            .into(),
            thread: 1,
            begin: index * 10,
            end: index * 10 + 5,
            detail: Detail::Stages,
            work: None,
            activity: None,
        };
        state.add(0, &(0..5000).map(span).collect::<Vec<_>>());
        assert_eq!(state.stages.len(), MOST_STAGES);
        assert_eq!(
            state.stages.iter().map(|stage| stage.runs).sum::<usize>(),
            5000
        );
    }

    #[test]
    fn foreign_headers_are_read_with_care() {
        for text in [
            "",
            "00-0-0-00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        ] {
            assert!(parent_of(text).is_none(), "{text}");
        }
    }
}
