//! The part of a report's table that is about frames of speech.

use super::codec::CodecRow;
use super::frames::FrameReport;
use super::report::Report;
use super::spoken_texts::SpokenText;
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
    for batch in &speech.batches {
        if let Some(frame) = &batch.device {
            let at_once = batch.utterances;
            line(text, format!("device frame, {at_once} at once: {frame}"));
        }
        if let Some(prompt) = &batch.device_prompt {
            let at_once = batch.utterances;
            line(text, format!("device prompt, {at_once} at once: {prompt}"));
        }
    }
    if !speech.codec.is_empty() {
        line(text, String::new());
        codec(text, &speech.codec);
    }
    if !speech.texts.is_empty() {
        line(text, String::new());
        texts(text, &speech.texts, speech.weight_bytes);
    }
    if let Some(peak) = report.peak_memory {
        line(text, format!("peak memory {:.0} MB", megabytes(peak)));
    }
}

/// From codes to sound.
fn codec(text: &mut String, codec: &[CodecRow]) {
    let mut rows = vec![row(&[
        "codec: chunks of",
        "threads",
        "ms/frame",
        "p95",
        "GFLOP",
        "MB/chunk",
        "GFLOP/s",
        "floor ms",
        "of floor",
        "instruction",
    ])];
    rows.extend(codec.iter().map(|part| {
        let beside = if part.beside { ", beside frames" } else { "" };
        vec![
            format!("{}{beside}", part.chunk),
            part.threads.to_string(),
            format!("{:.2}", part.frame_ms.p50),
            format!("{:.2}", part.frame_ms.p95),
            format!("{:.2}", part.operations as f64 / 1e9),
            format!("{:.0}", part.weight_bytes as f64 / 1e6),
            format!("{:.0}", part.peak / 1e9),
            format!("{:.2}", part.floor_ms),
            format!("{:.2}x", part.frame_ms.p50 / part.floor_ms),
            part.instruction.clone(),
        ]
    }));
    let right: Vec<usize> = (1..rows[0].len() - 1).collect();
    columns(text, &rows, &right);
    for part in codec {
        if let Some(device) = part.device.as_ref().filter(|_| !part.beside) {
            line(
                text,
                format!("device codec, chunks of {}: {device}", part.chunk),
            );
        }
    }
}

/// Whole texts: means, and beside them standard deviations.
fn texts(text: &mut String, texts: &[SpokenText], weight_bytes: u64) {
    let mut rows = vec![row(&[
        "text",
        "words",
        "frames",
        "audio s",
        "wall s",
        "±",
        "RTF",
        "±",
        "frames/s",
        "±",
        "first ms",
        "prefill",
        "generate",
        "decode",
        "memory MB",
    ])];
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    rows.extend(texts.iter().map(|said| {
        vec![
            said.name.clone(),
            said.words.to_string(),
            said.frames.to_string(),
            format!("{:.2}", said.audio),
            format!("{:.2}", said.wall.mean),
            format!("{:.2}", said.wall.deviation),
            format!("{:.3}", said.real_time_factor.mean),
            format!("{:.3}", said.real_time_factor.deviation),
            format!("{:.1}", said.frames_per_second.mean),
            format!("{:.1}", said.frames_per_second.deviation),
            format!("{:.0}", 1e3 * said.first_audio.mean),
            percent(said.prefill),
            percent(said.generate),
            percent(said.decode),
            said.peak_memory
                .map_or("-".into(), |bytes| format!("{:.0}", bytes as f64 / 1e6)),
        ]
    }));
    let right: Vec<usize> = (1..rows[0].len()).collect();
    columns(text, &rows, &right);
    if let Some(peak) = texts.iter().filter_map(|said| said.peak_memory).max() {
        let weights = weight_bytes.max(1);
        line(
            text,
            format!(
                "memory of the texts: {:.0} MB of weights and {:.0} % more; measuring takes more",
                weights as f64 / 1e6,
                100.0 * (peak as f64 / weights as f64 - 1.0),
            ),
        );
    }
}
