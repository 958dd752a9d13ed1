//! Spans as a Chrome trace, which `chrome://tracing` and <https://ui.perfetto.dev> open.

use serde_json::{Value, json};

use super::report::Report;
use crate::trace::{Detail, Span};

/// The trace as JSON text: complete events in microseconds under `traceEvents`.
pub fn chrome_trace(spans: &[Span], report: &Report) -> String {
    let mut events: Vec<Value> = vec![json!({
        "name": "process_name", "ph": "M", "pid": 1, "tid": 0, "args": {"name": "turaco"},
    })];
    events.extend(spans.iter().map(event));
    json!({
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "version": report.version,
            "commit": report.commit,
            "processor": report.machine.processor,
            "model": report.model.as_ref().map(|model| &model.name),
            "weights": report.model.as_ref().map(|model| &model.weights),
            "inputs": report.inputs,
        },
    })
    .to_string()
}

fn event(span: &Span) -> Value {
    let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    let mut event = json!({
        "name": &*span.name,
        "cat": match span.detail {
            Detail::Stages | Detail::Off => "stage",
            Detail::Layers => "layer",
            Detail::Operations => "operation",
        },
        "ph": "X",
        "pid": 1,
        "tid": span.thread,
        "ts": microseconds(span.begin),
        "dur": microseconds(span.end - span.begin),
    });
    if let Some(work) = &span.work {
        event["args"] = json!({
            "weight_bytes": work.weight_bytes,
            "operations": work.total_operations(),
        });
    }
    event
}

#[cfg(test)]
mod tests {
    use super::super::testing::{report, span};
    use super::*;

    #[test]
    fn events_have_what_viewers_ask_for() {
        let spans = [span("run \"1\"", 0, 50), span("encoder", 10, 30)];
        let trace: Value = serde_json::from_str(&chrome_trace(&spans, &report())).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), 3);
        assert_eq!(events[1]["name"], "run \"1\"");
        assert_eq!(events[2]["ph"], "X");
        assert_eq!(events[2]["ts"], 10_000.0);
        assert_eq!(events[2]["dur"], 20_000.0);
        for event in events {
            assert!(event["pid"].is_u64() && event["tid"].is_u64());
        }
    }
}
