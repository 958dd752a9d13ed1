//! A report as text for people.

use std::fmt::Write as _;

use super::baseline::{Change, Comparison};
use super::frame_table;
use super::report::{Kind, Limits, Report, TranscriptionReport};
use super::statistics::Percentiles;

/// The report as lines of text.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    head(&mut text, report);
    if let Some(transcription) = &report.transcription {
        clips(&mut text, transcription);
        corpus(&mut text, report, transcription);
        steps(&mut text, transcription);
    }
    if let Some(speech) = &report.speech {
        frame_table::frames(&mut text, report, speech);
    }
    if report.kind == Kind::Kernels {
        kernels(&mut text, report);
    }
    text
}

/// A comparison as lines of text: the changes that matter, then a verdict.
pub fn comparison_table(comparison: &Comparison) -> String {
    let mut text = String::new();
    for note in &comparison.notes {
        line(&mut text, format!("note: {note}"));
    }
    let mut rows = vec![row(&["against the baseline", "then", "now", "ratio", ""])];
    for finding in &comparison.findings {
        let value = |value: Option<f64>| {
            value.map_or_else(
                || "-".into(),
                |value| format!("{} {}", number(value), finding.unit).trim().into(),
            )
        };
        rows.push(vec![
            finding.name.clone(),
            value(finding.before),
            value(finding.now),
            finding
                .ratio
                .map_or_else(|| "-".into(), |r| format!("{r:.2}")),
            finding.change.name().into(),
        ]);
    }
    columns(&mut text, &rows, &[1, 2, 3]);
    let count = |change| comparison.of(change).count();
    line(
        &mut text,
        format!(
            "{} failed, {} warnings, {} better, of {}",
            count(Change::Failure),
            count(Change::Warning),
            count(Change::Better),
            comparison.findings.len()
        ),
    );
    text
}

fn head(text: &mut String, report: &Report) {
    let machine = &report.machine;
    let commit = report.commit.as_deref().unwrap_or("unknown commit");
    line(text, format!("turaco {} ({commit})", report.version));
    line(
        text,
        format!(
            "{}, {}, {} cores; {} with {} thread{}",
            machine.processor,
            machine.system,
            machine.cores,
            machine.instructions,
            machine.threads,
            plural(machine.threads)
        ),
    );
    line(text, limits(&report.limits));
    if let Some(model) = &report.model {
        let options = if report.options.is_empty() {
            "default options".to_owned()
        } else {
            let options: Vec<String> = report
                .options
                .iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect();
            options.join(", ")
        };
        line(
            text,
            format!("model {} ({}); {options}", model.name, model.weights),
        );
    }
    text.push('\n');
}

fn limits(limits: &Limits) -> String {
    let mut parts = vec![format!("reads {:.1} GB/s", limits.memory * 1e-9)];
    if limits.step_bytes > 0 {
        parts.push(format!(
            "{:.1} GB/s of the {:.1} MB of a decode step",
            limits.step_memory * 1e-9,
            limits.step_bytes as f64 * 1e-6
        ));
    }
    parts.extend(limits.peaks.iter().map(|peak| {
        format!(
            "{:.0} GFLOP/s by {} ({})",
            peak.rate * 1e-9,
            peak.instruction,
            peak.weights
        )
    }));
    format!("measured between the passes: {}", parts.join(", "))
}

fn clips(text: &mut String, report: &TranscriptionReport) {
    let mut rows = vec![row(&[
        "clip",
        "seconds",
        "wall p50",
        "p95",
        "p99",
        "first run",
        "rtf",
        "encoder",
        "prefill",
        "ms/step",
        "steps",
        "tokens",
        "1st token",
        "WER",
    ])];
    for clip in &report.clips {
        rows.push(vec![
            format!("{}{}", clip.name, if clip.long { " (long)" } else { "" }),
            format!("{:.1}", clip.seconds),
            seconds(clip.wall_seconds.p50),
            seconds(clip.wall_seconds.p95),
            seconds(clip.wall_seconds.p99),
            clip.warm_up_seconds
                .first()
                .map_or_else(|| "-".into(), |&first| seconds(first)),
            format!("{:.4}", clip.rtf),
            milliseconds(clip.encoder_ms),
            milliseconds(clip.prefill_ms),
            format!("{:.2}", clip.step_ms.p50),
            clip.steps.to_string(),
            clip.tokens.to_string(),
            milliseconds(clip.first_token_ms),
            percent(clip.word_error_rate),
        ]);
    }
    columns(text, &rows, &(1..14).collect::<Vec<_>>());
    text.push('\n');
}

fn corpus(text: &mut String, report: &Report, summary: &TranscriptionReport) {
    let ratio = |name: &str| {
        let measure = report.measures.iter().find(|measure| measure.name == name);
        let floor = measure.and_then(|measure| Some((measure.floor?, measure.ratio()?)));
        let target = measure.and_then(|measure| measure.target);
        let mut notes = Vec::new();
        if let Some((floor, ratio)) = floor {
            notes.push(format!("{ratio:.1} x the floor of {} ms", number(floor)));
        }
        if let (Some(target), Some(measure)) = (target, measure) {
            let verdict = if measure.value <= target {
                "met"
            } else {
                "missed"
            };
            notes.push(format!("target {} ms {verdict}", number(target)));
        }
        notes.join("; ")
    };
    let split = |short: Option<f64>, long: Option<f64>, digits: usize| {
        let side = |name: &str, value: Option<f64>| {
            value.map(|value| format!("{name} (from {} s) {value:.digits$}", summary.long_from))
        };
        let short = short.map(|value| format!("short {value:.digits$}"));
        let sides: Vec<String> = short.into_iter().chain(side("long", long)).collect();
        sides.join(", ")
    };
    let p = |p: &Percentiles| format!("p50 {:.2}, p95 {:.2}, p99 {:.2}", p.p50, p.p95, p.p99);
    let mut rows = vec![
        vec![
            "overall_rtf".into(),
            format!("{:.4}", summary.overall_rtf),
            format!(
                "{:.1} s for {:.1} s of sound; {}",
                summary.runtime_seconds,
                summary.audio_seconds,
                split(summary.short_rtf, summary.long_rtf, 4)
            ),
        ],
        vec![
            "  with loading".into(),
            format!("{:.4}", summary.overall_rtf_with_load),
            format!("the model loads in {:.2} s", summary.load_seconds),
        ],
        vec![
            "pass".into(),
            format!("{} s", seconds(summary.pass_seconds.p50)),
            format!("{} passes; {}", report.repeats, {
                let p = summary.pass_seconds;
                format!("p95 {}, p99 {}", seconds(p.p95), seconds(p.p99))
            }),
        ],
        vec![
            "encoder".into(),
            format!("{} ms", number(summary.encoder_ms.p50)),
            join(&[p(&summary.encoder_ms), ratio("encoder per window")]),
        ],
        vec![
            "prefill".into(),
            format!("{} ms", number(summary.prefill_ms.p50)),
            join(&[p(&summary.prefill_ms), ratio("prefill")]),
        ],
        vec![
            "ms/step".into(),
            format!("{:.2} ms", summary.weighted_step_ms),
            join(&[
                p(&summary.step_ms),
                ratio("decode step"),
                split(summary.short_avg_step_ms, summary.long_avg_step_ms, 2),
            ]),
        ],
        vec![
            "first token".into(),
            format!("{} ms", number(summary.first_token_ms.p50)),
            join(&[p(&summary.first_token_ms), ratio("first token")]),
        ],
        vec![
            "first text".into(),
            format!("{} ms", number(summary.first_text_ms.p50)),
            p(&summary.first_text_ms),
        ],
        vec![
            "tokens/s".into(),
            format!("{:.0}", summary.tokens_per_second),
            "tokens of the text per second of decoder".into(),
        ],
    ];
    if let Some(device) = &summary.device {
        rows.push(vec![
            "device step".into(),
            format!("{:.2} ms", device.step_ms),
            format!(
                "by its own clock; {:.0} kernels in {:.2} submissions, {:.2} reads of {:.0} bytes, {:.0} bytes allocated; encoder {} ms, \
                 prefill {} ms",
                device.step_dispatches,
                device.step_submissions,
                device.step_readbacks,
                device.step_read_bytes,
                device.step_allocated_bytes,
                number(device.encoder_ms),
                number(device.prefill_ms)
            ),
        ]);
    }
    if let Some(bytes) = report.peak_memory {
        let limit = report
            .memory_limit
            .map(|limit| format!("a comparison fails above {:.0} MB", limit as f64 * 1e-6));
        rows.push(vec![
            "peak memory".into(),
            format!("{:.0} MB", bytes as f64 * 1e-6),
            limit.unwrap_or_default(),
        ]);
    }
    if let Some(rate) = summary.word_error_rate {
        rows.push(vec![
            "WER".into(),
            percent(Some(rate)),
            "of the clips with a reference".into(),
        ]);
    }
    columns(text, &rows, &[1]);
    text.push('\n');
}

fn steps(text: &mut String, summary: &TranscriptionReport) {
    let mut rows = vec![row(&[
        "", "step", "ms/pass", "p95", "p99", "share", "target", "floor", "x floor", "",
    ])];
    for step in &summary.steps {
        let optional = |value: Option<f64>| value.map_or_else(|| "-".into(), number);
        rows.push(vec![
            step.letter.map(String::from).unwrap_or_default(),
            step.name.clone(),
            number(step.ms),
            number(step.p95_ms),
            number(step.p99_ms),
            format!("{:.1} %", 100.0 * step.share),
            optional(step.target_ms),
            optional(step.floor_ms),
            step.ratio()
                .map_or_else(|| "-".into(), |ratio| format!("{ratio:.1}")),
            match step.target_ms {
                Some(target) if step.ms > target => "missed".into(),
                _ => String::new(),
            },
        ]);
    }
    columns(text, &rows, &(2..9).collect::<Vec<_>>());
}

fn kernels(text: &mut String, report: &Report) {
    let mut rows = vec![row(&[
        "kernel",
        "type",
        "sizes",
        "us",
        "GB/s",
        "GFLOP/s",
        "share",
        "of",
        "target us",
        "",
    ])];
    for kernel in &report.kernels {
        let rate = |value: Option<f64>| value.map_or_else(|| "-".into(), |v| format!("{v:.1}"));
        rows.push(vec![
            kernel.group.clone(),
            kernel.variant.clone(),
            kernel.name.clone(),
            number(kernel.us),
            rate(kernel.gbytes_per_second),
            rate(kernel.gflops),
            kernel
                .share
                .map_or_else(|| "-".into(), |share| format!("{:.0} %", 100.0 * share)),
            kernel.limit.clone().unwrap_or_else(|| "-".into()),
            kernel.target_us.map_or_else(|| "-".into(), number),
            match kernel.target_us {
                Some(target) if kernel.us > target => "missed".into(),
                _ => String::new(),
            },
        ]);
    }
    columns(text, &rows, &(3..9).collect::<Vec<_>>());
}

pub(super) fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

pub(super) fn line(text: &mut String, line: String) {
    let _ = writeln!(text, "{line}");
}

/// Aligned columns, two blanks apart; those in `right` to the right.
pub(super) fn columns(text: &mut String, rows: &[Vec<String>], right: &[usize]) {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    for row in rows {
        let mut out = String::new();
        for (column, cell) in row.iter().enumerate() {
            if widths[column] == 0 {
                continue;
            }
            let gap = " ".repeat(widths[column] - cell.chars().count());
            let (before, after) = if right.contains(&column) {
                (gap, String::new())
            } else {
                (String::new(), gap)
            };
            let _ = write!(out, "{before}{cell}{after}  ");
        }
        line(text, out.trim_end().to_owned());
    }
}

fn join(parts: &[String]) -> String {
    let parts: Vec<&str> = parts
        .iter()
        .map(String::as_str)
        .filter(|part| !part.is_empty())
        .collect();
    parts.join("; ")
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn seconds(value: f64) -> String {
    format!("{value:.3}")
}

fn milliseconds(value: f64) -> String {
    format!("{value:.1}")
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".into(), |share| format!("{:.1} %", 100.0 * share))
}

/// Three digits that say something.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 || v == 0.0 => format!("{value:.2}"),
        v if v >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare;
    use super::super::testing::report;
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut text = String::new();
        let rows = [row(&["a", "", "1"]), row(&["long", "", "22"])];
        columns(&mut text, &rows, &[2]);
        assert_eq!(text, "a      1\nlong  22\n");
    }

    #[test]
    fn a_comparison_names_what_failed() {
        let mut now = report();
        now.measures[1].value *= 2.0;
        let comparison = compare(&report(), &now, false).unwrap();
        let text = comparison_table(&comparison);
        let failed = text.lines().find(|line| line.contains("FAILED")).unwrap();
        for part in ["decode step", "1.25 ms", "2.50 ms", "2.00"] {
            assert!(failed.contains(part), "{failed}");
        }
        assert!(
            text.ends_with("1 failed, 0 warnings, 0 better, of 3\n"),
            "{text}"
        );
    }

    #[test]
    fn kernels_are_listed_with_their_share() {
        let mut report = report();
        report.kind = Kind::Kernels;
        let text = table(&report);
        let kernel = text
            .lines()
            .find(|line| line.contains("1x384x1536"))
            .unwrap();
        for part in [
            "matrix-vector",
            "q8",
            "12.5",
            "47.0",
            "94 %",
            "50.0 GB/s",
            "13.0",
        ] {
            assert!(kernel.contains(part), "{kernel}");
        }
    }
}
