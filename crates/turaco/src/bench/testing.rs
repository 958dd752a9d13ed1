//! A report and spans to test with.

use super::report::{
    FORMAT, KernelRow, Kind, Limits, MachineFacts, Measure, ModelFacts, Peak, Report, Role,
};
use crate::trace::{Detail, Name, Span};

/// From `begin` to `end` milliseconds.
pub fn span(name: &'static str, begin: u64, end: u64) -> Span {
    Span {
        name: Name::Static(name),
        thread: 1,
        begin: begin * 1_000_000,
        end: end * 1_000_000,
        detail: Detail::Stages,
        work: None,
        activity: None,
    }
}

/// A small report of everything.
pub fn report() -> Report {
    let measure = |name: &str, role, value: f64, unit: &str| Measure {
        name: name.into(),
        role,
        value,
        unit: unit.into(),
        floor: Some(value / 2.0),
        target: Some(value * 1.5),
    };
    Report {
        format: FORMAT,
        kind: Kind::Transcription,
        time: 1_700_000_000,
        version: "0.1.0".into(),
        commit: Some("0123abc".into()),
        machine: MachineFacts {
            processor: "a <fast> & \"cheap\" one".into(),
            system: "linux x86_64".into(),
            instructions: "avx2+fma".into(),
            cores: 2,
            threads: 2,
        },
        limits: Limits {
            memory: 36e9,
            step_bytes: 29_000_000,
            step_memory: 60e9,
            peaks: vec![Peak {
                weights: "int8".into(),
                instruction: "int8 dot".into(),
                rate: 939e9,
            }],
        },
        model: Some(ModelFacts {
            name: "tiny".into(),
            weights: "int8".into(),
            device: "cpu".into(),
        }),
        options: serde_json::Map::new(),
        inputs: vec!["a.wav".into()],
        repeats: 5,
        peak_memory: Some(100_000_000),
        memory_limit: Some(110_000_000),
        measures: vec![
            measure("overall_rtf", Role::Whole, 0.02, ""),
            measure("decode step", Role::Component, 1.25, "ms"),
        ],
        transcription: None,
        speech: None,
        kernels: vec![KernelRow {
            group: "matrix-vector".into(),
            variant: "q8".into(),
            name: "1x384x1536".into(),
            us: 12.5,
            gbytes_per_second: Some(47.0),
            gflops: None,
            limit: Some("50.0 GB/s".into()),
            share: Some(0.94),
            target_us: Some(13.0),
        }],
    }
}
