//! The part of a report's table that is about frames of speech.

use super::frames::FrameReport;
use super::report::Report;
use super::table::{columns, line, row};

/// What frames took, for each number of utterances.
pub fn frames(text: &mut String, report: &Report, speech: &FrameReport) {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    line(
        text,
        format!(
            "talker {:.0} MB, code predictor {:.0} MB, {:.0} MB read per frame; {} frames {} times",
            megabytes(speech.talker_bytes),
            megabytes(speech.predictor_bytes),
            megabytes(speech.talker_bytes + speech.predictor_frame_bytes),
            speech.frames,
            report.repeats,
        ),
    );
    let mut rows = vec![row(&[
        "utterances",
        "ms/frame",
        "p95",
        "talker",
        "predictor",
        "prompt ms",
        "frames/s",
        "GB/s",
        "cache GB/s",
        "floor ms",
        "of floor",
        "cached floor",
    ])];
    rows.extend(speech.batches.iter().map(|batch| {
        vec![
            batch.utterances.to_string(),
            format!("{:.1}", batch.frame_ms.p50),
            format!("{:.1}", batch.frame_ms.p95),
            format!("{:.1}", batch.talker_ms),
            format!("{:.1}", batch.predictor_ms),
            format!("{:.1}", batch.prompt_ms),
            format!("{:.1}", batch.frames_per_second),
            format!("{:.1}", batch.memory / 1e9),
            format!("{:.1}", batch.predictor_memory / 1e9),
            format!("{:.1}", batch.floor_ms),
            format!("{:.2}x", batch.frame_ms.p50 / batch.floor_ms),
            format!("{:.1}", batch.cached_floor_ms),
        ]
    }));
    let right: Vec<usize> = (0..rows[0].len()).collect();
    columns(text, &rows, &right);
    if let Some(peak) = report.peak_memory {
        line(text, format!("peak memory {:.0} MB", megabytes(peak)));
    }
}
