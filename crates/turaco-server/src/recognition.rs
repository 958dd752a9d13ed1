//! One recording to text, for every protocol.

use std::time::Instant;

use serde_json::{Value, json};
use turaco::asr::{Segment, TranscribeOptions};
use turaco::engine::Urgency;
use turaco::output::Transcript;
use turaco::{Audio, Control, Result};

use crate::app::App;

/// Write down a recording; `on_segment` gets every segment as soon as it is final, between turns on the device.
///
/// # Errors
/// Those of loading and of recognition, and of `on_segment`.
pub fn recognize(
    app: &App,
    model: &str,
    audio: &Audio,
    options: &TranscribeOptions,
    (urgency, control): (Urgency, &Control),
    mut on_segment: impl FnMut(&Segment) -> Result<()>,
) -> Result<Transcript> {
    let asked = Instant::now();
    let (lease, recognizer) = app.engine().recognizer(model, control)?;
    let mut job = lease.job(urgency, control)?;
    let metrics = app.metrics();
    let turn = job.turn(control)?;
    metrics.queue_wait(asked.elapsed().as_secs_f64());
    let started = Instant::now();
    let mut running = recognizer.transcribe(audio, options, control)?;
    drop(turn);
    metrics.step(lease.id(), "features", started.elapsed().as_secs_f64());
    let mut transcript = Transcript {
        task: options.task,
        duration: audio.duration(),
        ..Transcript::default()
    };
    loop {
        let turn = job.turn(control)?;
        let started = Instant::now();
        let segment = running.next();
        drop(turn);
        metrics.step(lease.id(), "segment", started.elapsed().as_secs_f64());
        let Some(segment) = segment.transpose()? else {
            break;
        };
        if transcript.segments.is_empty() {
            metrics.first_text(asked.elapsed().as_secs_f64());
        }
        transcript.text.push_str(&segment.text);
        on_segment(&segment)?;
        transcript.segments.push(segment);
    }
    let info = running.info();
    transcript.language.clone_from(&info.language);
    transcript.warnings.clone_from(&info.warnings);
    transcript.warnings.extend(recognizer.take_late_warning());
    let seconds = job.served().as_secs_f64();
    metrics.audio("transcribe", lease.id(), audio.duration(), seconds);
    Ok(transcript)
}

/// What OpenAI counts: started seconds of sound.
pub fn usage(seconds: f64) -> Value {
    json!({"type": "duration", "seconds": seconds.max(0.0).ceil() as u64})
}
