//! One recording to text, for every protocol.

use std::time::Instant;

use serde_json::{Value, json};
use turaco::asr::{Segment, TranscribeOptions};
use turaco::engine::{Job, Turn, Urgency};
use turaco::output::Transcript;
use turaco::{Audio, Control, Result};

use crate::app::App;

/// What is told of a text while it is written.
pub enum Piece<'a> {
    /// More of the segment that comes next, from models that write token by token.
    Text(&'a str),
    /// A segment that is final.
    Segment(&'a Segment),
}

/// Write down a recording; `on_piece` gets every segment as soon as it is final, and its text before that where the model tells it,
/// between turns on the device.
///
/// # Errors
/// Those of loading and of recognition, and of `on_piece`.
pub fn recognize(
    app: &App,
    model: &str,
    audio: &Audio,
    options: &TranscribeOptions,
    (urgency, control): (Urgency, &Control),
    mut on_piece: impl FnMut(Piece<'_>) -> Result<()>,
) -> Result<Transcript> {
    let asked = Instant::now();
    let (lease, recognizer) = app.engine().recognizer(model, control)?;
    // Who converses has turns of its own, one for each token.
    let mut job = match recognizer.chat() {
        Some(_) => None,
        None => Some(lease.job(urgency, control)?),
    };
    let metrics = app.metrics();
    let turn = turn(&mut job, control)?;
    metrics.queue_wait(asked.elapsed().as_secs_f64());
    let started = Instant::now();
    let mut running = recognizer.transcribe(audio, options, control)?;
    running.take_turns(lease.queue(), urgency);
    drop(turn);
    metrics.step(lease.id(), "features", started.elapsed().as_secs_f64());
    let mut transcript = Transcript {
        task: options.task,
        duration: audio.duration(),
        ..Transcript::default()
    };
    let mut is_first = true;
    let mut tell = |piece: Piece<'_>| {
        if std::mem::take(&mut is_first) {
            metrics.first_text(asked.elapsed().as_secs_f64());
        }
        on_piece(piece)
    };
    loop {
        let turn = self::turn(&mut job, control)?;
        let started = Instant::now();
        let segment = running.next_with(&mut |text| tell(Piece::Text(text)));
        drop(turn);
        metrics.step(lease.id(), "segment", started.elapsed().as_secs_f64());
        let Some(segment) = segment.transpose()? else {
            break;
        };
        transcript.text.push_str(&segment.text);
        tell(Piece::Segment(&segment))?;
        transcript.segments.push(segment);
    }
    let info = running.info();
    transcript.language.clone_from(&info.language);
    transcript.warnings.clone_from(&info.warnings);
    transcript.warnings.extend(recognizer.take_late_warning());
    let timings = running.timings();
    let own = timings.vad + timings.features + timings.encoder + timings.decoder;
    let seconds = job.map_or(own, |job| job.served().as_secs_f64());
    metrics.audio("transcribe", lease.id(), audio.duration(), seconds);
    Ok(transcript)
}

/// Wait until the device is this job's, if it takes turns.
fn turn<'a>(job: &'a mut Option<Job>, control: &Control) -> Result<Option<Turn<'a>>> {
    job.as_mut().map(|job| job.turn(control)).transpose()
}

/// What OpenAI counts: started seconds of sound.
pub fn usage(seconds: f64) -> Value {
    json!({"type": "duration", "seconds": seconds.max(0.0).ceil() as u64})
}
