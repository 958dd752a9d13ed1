//! How long things have taken lately, for people: the counters of [`metrics`](crate::metrics) are for programs.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

/// Durations of each operation that are remembered.
const REMEMBERED: usize = 1000;

/// What operations should take at most, in milliseconds.
const TARGETS: &[(&str, f64)] = &[
    // From the end of a turn, as far as the machine is fast enough for the models at all.
    ("first_text", 100.0),
    ("first_audio", 100.0),
    ("turn/first_text", 100.0),
    ("turn/first_audio", 100.0),
    ("turn/transcript", 300.0),
    ("transcript", 300.0),
    // Without the time to know that a turn is over, nobody has an answer: half a second of silence, to the end of a piece that the
    // detector takes, and a while for the sound to come.
    ("eot", 600.0),
    ("e2e", 1000.0),
    // Beside the models.
    ("turn/text_overhead", 15.0),
    ("turn/audio_overhead", 15.0),
    // A live model hears so much at a time.
    ("step/live", 80.0),
];

/// Durations by operation.
#[derive(Debug, Default)]
pub struct Stats {
    operations: BTreeMap<String, Durations>,
}

#[derive(Debug, Default)]
struct Durations {
    count: u64,
    /// In milliseconds, the newest last.
    recent: VecDeque<f64>,
}

impl Stats {
    /// Something took so long.
    pub fn add(&mut self, operation: &str, seconds: f64) {
        let durations = match self.operations.get_mut(operation) {
            Some(durations) => durations,
            None => self.operations.entry(operation.to_owned()).or_default(),
        };
        durations.count += 1;
        if durations.recent.len() == REMEMBERED {
            durations.recent.pop_front();
        }
        durations.recent.push_back(1e3 * seconds);
    }

    /// All operations, with figures about their newest durations.
    pub fn to_json(&self) -> Value {
        let operations = self.operations.iter();
        operations
            .map(|(name, durations)| (name.clone(), durations.to_json(target_of(name))))
            .collect()
    }
}

fn target_of(operation: &str) -> Option<f64> {
    let found = TARGETS.iter().find(|(name, _)| *name == operation);
    found.map(|(_, milliseconds)| *milliseconds)
}

impl Durations {
    fn to_json(&self, target: Option<f64>) -> Value {
        let mut sorted: Vec<f64> = self.recent.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len().max(1);
        // The nearest rank.
        let percentile = |p: usize| sorted.get((p * n).div_ceil(100) - 1).map(rounded);
        let mean = rounded(&(sorted.iter().sum::<f64>() / n as f64));
        let within = target.map(|target| {
            let within = sorted.iter().filter(|duration| **duration <= target);
            within.count() as f64 / n as f64
        });
        json!({
            "count": self.count,
            "recent": sorted.len(),
            "avg_ms": mean,
            "min_ms": sorted.first().map(rounded),
            "max_ms": sorted.last().map(rounded),
            "p50_ms": percentile(50),
            "p95_ms": percentile(95),
            "target_ms": target,
            "within_target": within,
        })
    }
}

/// To microseconds.
fn rounded(milliseconds: &f64) -> f64 {
    (milliseconds * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_about_the_newest_durations() {
        let mut stats = Stats::default();
        for _ in 0..5 {
            stats.add("first_text", 9.0);
        }
        for milliseconds in 1..=1000 {
            stats.add("first_text", f64::from(milliseconds) / 5e3);
        }
        stats.add("queue_wait", 0.25);
        let json = stats.to_json();
        assert_eq!(
            json["first_text"],
            json!({"count": 1005, "recent": 1000, "avg_ms": 100.1, "min_ms": 0.2, "max_ms": 200.0, "p50_ms": 100.0,
                "p95_ms": 190.0, "target_ms": 100.0, "within_target": 0.5})
        );
        let wait = &json["queue_wait"];
        assert_eq!(
            (&wait["p50_ms"], &wait["p95_ms"], &wait["within_target"]),
            (&json!(250.0), &json!(250.0), &Value::Null)
        );
    }
}
