//! Progress bars on a terminal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use turaco::{Control, Progress};

use crate::printer::Printer;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds of audio.
    Audio,
    /// Bytes of a download.
    Bytes,
    /// Parts of a model.
    Layers,
}

/// A bar that is drawn while work reports to its control; nothing where bars are not drawn.
pub struct Bar {
    bar: Option<ProgressBar>,
    unit: Unit,
    start: Instant,
}

impl Bar {
    /// Start a bar with a label.
    pub fn new(printer: &Printer, label: &str, unit: Unit) -> Arc<Self> {
        let bar = printer.bars().map(|bars| {
            let bar = bars.add(ProgressBar::new(0));
            bar.set_style(spinner());
            bar.set_prefix(shortened(label, 32));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Arc::new(Self {
            bar,
            unit,
            start: Instant::now(),
        })
    }

    /// A control that shows its progress here and is cancelled together with `control`.
    pub fn watch(self: &Arc<Self>, control: &Control) -> Control {
        let bar = Arc::clone(self);
        control
            .clone()
            .on_progress(move |progress| bar.show(progress))
    }

    fn show(&self, progress: Progress) {
        let Some(bar) = &self.bar else { return };
        let Some(total) = progress.total.filter(|&total| total > 0.0) else {
            return;
        };
        if bar.length() == Some(0) {
            bar.set_style(style());
        }
        // Milliseconds of audio, so that short files move too.
        let scale = match self.unit {
            Unit::Audio => 1000.0,
            Unit::Bytes | Unit::Layers => 1.0,
        };
        bar.set_length(((total * scale) as u64).max(1));
        bar.set_position((progress.done * scale) as u64);
        bar.set_message(message(
            self.unit,
            progress.done,
            total,
            self.start.elapsed(),
        ));
    }

    /// Take the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}

fn spinner() -> ProgressStyle {
    template("{prefix} {spinner}")
}

fn style() -> ProgressStyle {
    template("{prefix} [{bar:24}] {percent:>3}% {msg}").progress_chars("=> ")
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Speed and time left.
fn message(unit: Unit, done: f64, total: f64, elapsed: Duration) -> String {
    let elapsed = elapsed.as_secs_f64();
    if done <= 0.0 || elapsed <= 0.0 {
        return String::new();
    }
    let speed = done / elapsed;
    let left = clock((total - done).max(0.0) / speed);
    match unit {
        Unit::Audio => format!(
            "{}/{} s, rtf {:.3}, {left} left",
            done.round(),
            total.round(),
            elapsed / done
        ),
        Unit::Bytes => format!(
            "{}/{}, {}/s, {left} left",
            size(done as u64),
            size(total as u64),
            size(speed as u64)
        ),
        Unit::Layers => format!("layers loaded, {left} left"),
    }
}

/// `1:05` or `2:00:00`.
fn clock(seconds: f64) -> String {
    let seconds = seconds.ceil().min(359_999.0) as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

/// Bytes for people, in powers of 1000 as downloads are counted.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            return if unit == "B" || value >= 99.95 {
                format!("{value:.0} {unit}")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// The end of a long name is what tells files apart.
fn shortened(label: &str, limit: usize) -> String {
    let length = label.chars().count();
    if length <= limit {
        return label.to_string();
    }
    let end: String = label.chars().skip(length - limit + 3).collect();
    format!("...{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(75_500_000), "75.5 MB");
        assert_eq!(size(151_000_000), "151 MB");
        assert_eq!(size(3_090_000_000), "3.1 GB");
        assert_eq!(clock(64.2), "1:05");
        assert_eq!(clock(7200.0), "2:00:00");
        assert_eq!(
            message(Unit::Audio, 30.0, 60.0, Duration::from_secs(3)),
            "30/60 s, rtf 0.100, 0:03 left"
        );
    }

    #[test]
    fn long_labels_keep_their_end() {
        assert_eq!(shortened("short.wav", 32), "short.wav");
        assert_eq!(shortened("a-very-long-name.wav", 10), "...ame.wav");
    }
}
