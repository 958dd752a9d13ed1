//! Counters and distributions in the text form of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use turaco::engine::{Engine, LiveRound};
use turaco::voice::TurnTimings;

use crate::stats::Stats;

/// Upper bounds in seconds of whole requests and waits.
const SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Upper bounds in seconds of one step, close to the 80 ms in which live models have to be done.
const STEPS: &[f64] = &[
    0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.16, 0.24, 0.48, 1.0, 5.0,
];

/// Upper bounds of processing time over audio time.
const FACTORS: &[f64] = &[
    0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0,
];

/// What is counted, and its explanation.
const COUNTERS: &[(&str, &str)] = &[
    ("requests_total", "Requests by route and status"),
    ("audio_seconds_total", "Seconds of sound heard or made"),
    (
        "cancelled_total",
        "Work given up because its client went away",
    ),
    ("errors_total", "Failures by code"),
    ("turns_total", "Answers in conversations"),
    ("interruptions_total", "Answers that speech ended"),
    ("utterances_total", "Utterances that were heard live"),
    (
        "vad_filtered_total",
        "Sound that began like speech and was none: too short, or no interruption of an answer (passed)",
    ),
];

/// Those of them that have no labels.
const UNLABELLED: &[&str] = &[
    "cancelled_total",
    "turns_total",
    "interruptions_total",
    "utterances_total",
];

/// Distributions, their explanation and bounds.
const HISTOGRAMS: &[(&str, &str, &[f64])] = &[
    ("request_seconds", "Duration of requests", SECONDS),
    ("rtf", "Processing time over audio time", FACTORS),
    (
        "ttft_seconds",
        "From the request to the first text",
        SECONDS,
    ),
    (
        "ttfa_seconds",
        "From the request to the first sound",
        SECONDS,
    ),
    ("step_seconds", "Duration of one turn on a device", STEPS),
    ("queue_wait_seconds", "Wait for the first turn", SECONDS),
    (
        "turn_seconds",
        "Where the time of a turn in a conversation went, by stage",
        SECONDS,
    ),
    (
        "vad_seconds",
        "Work of the detector of speech for an utterance",
        STEPS,
    ),
    (
        "eot_seconds",
        "From the last sound of speech to the decision that the turn is over",
        SECONDS,
    ),
    (
        "asr_final_seconds",
        "From that decision to the whole text of the turn",
        SECONDS,
    ),
    (
        "e2e_seconds",
        "From the last sound of speech to the first sound of the answer, or to the text where none is said",
        SECONDS,
    ),
    (
        "transcript_seconds",
        "From the end of an utterance of a live session to its text",
        SECONDS,
    ),
];

#[derive(Debug, Default)]
struct Values {
    /// By name and labels.
    counters: BTreeMap<(&'static str, String), f64>,
    histograms: BTreeMap<(&'static str, String), Histogram>,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: Vec<u64>,
    sum: f64,
    count: u64,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    values: Mutex<Values>,
    /// For people.
    stats: Mutex<Stats>,
    started: Instant,
}

impl Metrics {
    /// All zero.
    pub fn new() -> Self {
        Self {
            values: Mutex::default(),
            stats: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// A request was answered.
    pub fn request(&self, route: &str, status: u16, seconds: f64) {
        let labels = labels(&[("route", route), ("status", &status.to_string())]);
        self.add("requests_total", labels, 1.0);
        self.observe("request_seconds", labels_of("route", route), seconds);
        self.took(&format!("request{route}"), seconds);
    }

    /// Something failed.
    pub fn error(&self, code: &str) {
        self.add("errors_total", labels_of("code", code), 1.0);
    }

    /// A client went away.
    pub fn cancelled(&self) {
        self.add("cancelled_total", String::new(), 1.0);
    }

    /// `audio` seconds of sound were heard or made in `seconds`.
    pub fn audio(&self, task: &str, model: &str, audio: f64, seconds: f64) {
        self.add("audio_seconds_total", labels_of("task", task), audio);
        if audio > 0.0 {
            let labels = labels(&[("task", task), ("model", model)]);
            self.observe("rtf", labels, seconds / audio);
        }
    }

    /// The first text of a request.
    pub fn first_text(&self, seconds: f64) {
        self.observe("ttft_seconds", String::new(), seconds);
        self.took("first_text", seconds);
    }

    /// The first sound of a request.
    pub fn first_audio(&self, seconds: f64) {
        self.observe("ttfa_seconds", String::new(), seconds);
        self.took("first_audio", seconds);
    }

    /// An answer in a conversation.
    pub fn turn(&self, timings: &TurnTimings) {
        self.add("turns_total", String::new(), 1.0);
        for (stage, seconds) in timings.stages() {
            self.observe("turn_seconds", labels_of("stage", stage), seconds);
            self.took(&format!("turn/{stage}"), seconds);
        }
        self.vad(timings.detection);
        if let Some(waited) = timings.turn_end {
            self.end_of_turn(waited);
        }
        if let Some(seconds) = timings.transcript {
            self.observe("asr_final_seconds", String::new(), seconds);
        }
        let first = timings.first_audio.or(timings.first_text);
        if let Some((waited, seconds)) = timings.turn_end.zip(first) {
            self.end_to_end(waited + seconds);
        }
        timings
            .first_text
            .into_iter()
            .for_each(|seconds| self.first_text(seconds));
        timings
            .first_audio
            .into_iter()
            .for_each(|seconds| self.first_audio(seconds));
    }

    /// Speech ended an answer.
    pub fn interruption(&self) {
        self.add("interruptions_total", String::new(), 1.0);
    }

    /// An utterance of a live session is over.
    pub fn utterance(&self) {
        self.add("utterances_total", String::new(), 1.0);
    }

    /// So often, something began like speech and was none.
    pub fn vad_filtered(&self, reason: &str, count: u64) {
        if count > 0 {
            let labels = labels_of("reason", reason);
            self.add("vad_filtered_total", labels, count as f64);
        }
    }

    /// What looking for speech took, of an utterance.
    pub fn vad(&self, seconds: f64) {
        self.observe("vad_seconds", String::new(), seconds);
        self.took("vad", seconds);
    }

    /// An utterance of a live session is written down, so long after its end; that took `waited` seconds of silence, if it was
    /// silence that ended it.
    pub fn transcript(&self, waited: Option<f64>, seconds: f64) {
        self.observe("transcript_seconds", String::new(), seconds);
        self.observe("asr_final_seconds", String::new(), seconds);
        self.took("transcript", seconds);
        if let Some(waited) = waited {
            self.end_of_turn(waited);
            self.end_to_end(waited + seconds);
        }
    }

    fn end_of_turn(&self, waited: f64) {
        self.observe("eot_seconds", String::new(), waited);
        self.took("eot", waited);
    }

    fn end_to_end(&self, seconds: f64) {
        self.observe("e2e_seconds", String::new(), seconds);
        self.took("e2e", seconds);
    }

    /// A turn on a device.
    pub fn step(&self, model: &str, stage: &str, seconds: f64) {
        let labels = labels(&[("model", model), ("stage", stage)]);
        self.observe("step_seconds", labels, seconds);
        self.took(&format!("step/{stage}"), seconds);
    }

    /// A step that all live streams of a model took together.
    pub fn live_round(&self, round: &LiveRound) {
        self.step(&round.model, "live", round.seconds);
        self.audio("live", &round.model, round.audio, round.seconds);
    }

    /// A wait for the first turn.
    pub fn queue_wait(&self, seconds: f64) {
        self.observe("queue_wait_seconds", String::new(), seconds);
        self.took("queue_wait", seconds);
    }

    /// What has happened in live sessions and conversations, by name.
    pub fn counts(&self) -> Value {
        let values = self.lock();
        let sum = |name: &str| {
            let of_name = values.counters.iter().filter(|((n, _), _)| *n == name);
            of_name.map(|(_, value)| *value).sum::<f64>() as u64
        };
        let names = [
            "utterances",
            "turns",
            "interruptions",
            "vad_filtered",
            "errors",
        ];
        let counts =
            names.map(|name| (name.to_owned(), Value::from(sum(&format!("{name}_total")))));
        counts.into_iter().collect()
    }

    /// How long things have taken lately.
    pub fn stats(&self) -> Value {
        let stats = self.stats.lock();
        stats.unwrap_or_else(PoisonError::into_inner).to_json()
    }

    /// Since the start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn took(&self, operation: &str, seconds: f64) {
        let stats = self.stats.lock();
        let mut stats = stats.unwrap_or_else(PoisonError::into_inner);
        stats.add(operation, seconds);
    }

    /// All values, with those that are looked up now.
    pub fn text(&self, engine: &Engine, sessions: usize) -> String {
        let mut out = String::new();
        let values = self.lock();
        for (name, help) in COUNTERS {
            head(&mut out, name, help, "counter");
            // What is always there can be compared with what was before.
            let has_no_labels = UNLABELLED.contains(name);
            let is_counted = values.counters.contains_key(&(*name, String::new()));
            if has_no_labels && !is_counted {
                line(&mut out, name, "", 0.0);
            }
            for ((_, labels), value) in values.counters.iter().filter(|((n, _), _)| n == name) {
                line(&mut out, name, labels, *value);
            }
        }
        for (name, help, bounds) in HISTOGRAMS {
            head(&mut out, name, help, "histogram");
            let of_name = values.histograms.iter().filter(|((n, _), _)| n == name);
            for ((_, labels), histogram) in of_name {
                histogram.write(&mut out, name, labels, bounds);
            }
        }
        drop(values);
        gauges(&mut out, engine, sessions);
        process(&mut out, self.started);
        out
    }

    fn add(&self, name: &'static str, labels: String, value: f64) {
        *self.lock().counters.entry((name, labels)).or_default() += value;
    }

    fn observe(&self, name: &'static str, labels: String, value: f64) {
        let Some((_, _, bounds)) = HISTOGRAMS.iter().find(|(known, _, _)| *known == name) else {
            return;
        };
        let mut values = self.lock();
        let histogram = values.histograms.entry((name, labels)).or_default();
        histogram.buckets.resize(bounds.len(), 0);
        for (bucket, bound) in histogram.buckets.iter_mut().zip(*bounds) {
            *bucket += u64::from(value <= *bound);
        }
        histogram.sum += value;
        histogram.count += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Histogram {
    fn write(&self, out: &mut String, name: &str, labels: &str, bounds: &[f64]) {
        let with = |more: &str| match labels.is_empty() {
            true => more.to_owned(),
            false => format!("{labels},{more}"),
        };
        let bucket = format!("{name}_bucket");
        for (count, bound) in self.buckets.iter().zip(bounds) {
            line(
                out,
                &bucket,
                &with(&labels_of("le", &bound.to_string())),
                *count as f64,
            );
        }
        line(out, &bucket, &with("le=\"+Inf\""), self.count as f64);
        line(out, &format!("{name}_sum"), labels, self.sum);
        line(out, &format!("{name}_count"), labels, self.count as f64);
    }
}

fn gauges(out: &mut String, engine: &Engine, sessions: usize) {
    head(
        out,
        "queue_depth",
        "Requests that wait for a device",
        "gauge",
    );
    for (device, queue) in engine.queues() {
        let labels = labels_of("device", &device);
        line(out, "queue_depth", &labels, queue.depth() as f64);
    }
    head(out, "sessions_open", "Live sessions", "gauge");
    line(out, "sessions_open", "", sessions as f64);
    let loaded = engine.loaded();
    head(out, "models_loaded", "Models in memory", "gauge");
    line(out, "models_loaded", "", loaded.len() as f64);
    head(
        out,
        "model_bytes",
        "Bytes of a loaded model's files",
        "gauge",
    );
    for model in &loaded {
        let labels = labels(&[("model", &model.id), ("device", &model.device)]);
        line(out, "model_bytes", &labels, model.bytes as f64);
    }
    head(
        out,
        "kv_cache_bytes",
        "Bytes of keys and values that a loaded model keeps for sequences",
        "gauge",
    );
    for model in &loaded {
        let labels = labels_of("model", &model.id);
        line(out, "kv_cache_bytes", &labels, model.cache_bytes as f64);
    }
    head(
        out,
        "load_seconds",
        "Seconds that loading a model took",
        "gauge",
    );
    for model in &loaded {
        let labels = labels_of("model", &model.id);
        line(out, "load_seconds", &labels, model.load_seconds);
    }
}

/// What Linux tells of the process; other systems tell the age only.
fn process(out: &mut String, started: Instant) {
    head(out, "uptime_seconds", "Since the start", "gauge");
    line(out, "uptime_seconds", "", started.elapsed().as_secs_f64());
    if let Some(kilobytes) = status_field("VmRSS:") {
        head(
            out,
            "process_resident_memory_bytes",
            "Memory in use",
            "gauge",
        );
        line(out, "process_resident_memory_bytes", "", kilobytes * 1024.0);
    }
    if let Some(threads) = status_field("Threads:") {
        head(out, "process_threads", "Threads", "gauge");
        line(out, "process_threads", "", threads);
    }
}

fn status_field(name: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "# HELP turaco_{name} {help}\n# TYPE turaco_{name} {kind}"
    );
}

fn line(out: &mut String, name: &str, labels: &str, value: f64) {
    let _ = match labels.is_empty() {
        true => writeln!(out, "turaco_{name} {value}"),
        false => writeln!(out, "turaco_{name}{{{labels}}} {value}"),
    };
}

fn labels_of(name: &str, value: &str) -> String {
    let value = value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

fn labels(all: &[(&str, &str)]) -> String {
    let all: Vec<_> = all
        .iter()
        .map(|(name, value)| labels_of(name, value))
        .collect();
    all.join(",")
}

#[cfg(test)]
mod tests {
    use turaco::cache::ModelCache;
    use turaco::engine::{Catalog, EngineOptions};

    use super::*;

    #[test]
    fn only_silence_is_waited_for() {
        let metrics = Metrics::new();
        let mut timings = TurnTimings::default();
        timings.first_text = Some(0.1);
        metrics.turn(&timings);
        assert!(metrics.stats().get("eot").is_none() && metrics.stats().get("e2e").is_none());
        timings.turn_end = Some(0.5);
        metrics.turn(&timings);
        let stats = metrics.stats();
        assert_eq!(
            (&stats["eot"]["count"], &stats["eot"]["within_target"]),
            (&1.into(), &1.0.into())
        );
        assert_eq!(stats["e2e"]["avg_ms"], 600.0);
    }

    #[test]
    fn what_happened_is_counted() {
        let metrics = Metrics::new();
        metrics.request("/v1/models", 200, 0.02);
        metrics.request("/v1/models", 200, 400.0);
        metrics.error("queue\"full");
        let catalog = Catalog::new(ModelCache::new("/nowhere"));
        let text = metrics.text(&Engine::new(catalog, EngineOptions::default()), 3);
        for line in [
            "turaco_requests_total{route=\"/v1/models\",status=\"200\"} 2",
            "turaco_request_seconds_bucket{route=\"/v1/models\",le=\"0.025\"} 1",
            "turaco_request_seconds_bucket{route=\"/v1/models\",le=\"+Inf\"} 2",
            "turaco_errors_total{code=\"queue\\\"full\"} 1",
            "turaco_sessions_open 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
