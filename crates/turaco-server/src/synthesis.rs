//! One text to sound, for every protocol.

use std::time::Instant;

use tokio::sync::mpsc;
use turaco::engine::{ModelLease, Urgency};
use turaco::tts::{SpeakOptions, SpeechStream, StopReason};
use turaco::{Control, Synthesizer};

use crate::app::App;
use crate::config::LogLevel;
use crate::error::ApiError;

/// What a text came to.
#[derive(Debug, Clone, Default)]
pub struct Spoken {
    /// Tokens of the text.
    pub text_tokens: usize,
    /// Frames of 80 ms.
    pub frames: usize,
    /// Why each piece of the text was over.
    pub stopped: Vec<StopReason>,
}

/// What is to be said.
pub enum Text {
    Whole(String),
    /// Pieces of a text that still comes; the sender is dropped at its end.
    Arriving(mpsc::UnboundedReceiver<String>),
}

/// Say a text; `on_chunk` gets the samples and their rate as soon as they are there, between turns on the device.
///
/// # Errors
/// Those of loading and of the model, and of `options` and `on_chunk`.
pub fn speak(
    app: &App,
    model: &str,
    text: Text,
    options: impl FnOnce(&Synthesizer) -> Result<SpeakOptions, ApiError>,
    (urgency, control): (Urgency, &Control),
    mut on_chunk: impl FnMut(&[f32], u32) -> Result<(), ApiError>,
) -> Result<Spoken, ApiError> {
    let asked = Instant::now();
    let (lease, synthesizer) = app.engine().synthesizer(model, control)?;
    let mut job = lease.job(urgency, control)?;
    // A voice may have to be made of a recording first.
    let turn = job.turn(control)?;
    app.metrics().queue_wait(asked.elapsed().as_secs_f64());
    let options = options(&synthesizer)?;
    let (mut stream, mut more) = match text {
        Text::Whole(text) => (synthesizer.stream(&text, &options, control)?, None),
        Text::Arriving(more) => (synthesizer.open_stream(&options, control)?, Some(more)),
    };
    drop(turn);
    drop(job);
    let mut voice = Speaking {
        app,
        lease: &lease,
        rate: synthesizer.sample_rate(),
        work: (urgency, control),
        n_samples: 0,
        seconds: 0.0,
    };
    voice.drain(&mut stream, &mut on_chunk)?;
    while let Some(pieces) = &mut more {
        // No place among the jobs is held while the text is awaited.
        match pieces.blocking_recv() {
            Some(piece) => stream.push(&piece),
            None => {
                stream.finish();
                more = None;
            }
        }
        voice.drain(&mut stream, &mut on_chunk)?;
    }
    let audio = voice.n_samples as f64 / f64::from(voice.rate);
    app.metrics()
        .audio("speak", lease.id(), audio, voice.seconds);
    let tokenizer = synthesizer.model().tokenizer();
    let stopped: Vec<StopReason> = stream.said().iter().map(|(_, reason)| *reason).collect();
    let is_guarded =
        |reason: &&StopReason| matches!(reason, StopReason::Budget | StopReason::Repetition);
    if let Some(reason) = stopped.iter().find(is_guarded) {
        let line = format!(
            "{} did not end a piece of text by itself ({}); another seed may help",
            lease.id(),
            reason.name()
        );
        app.log(LogLevel::Warning, &line);
    }
    let said = stream.said().iter();
    Ok(Spoken {
        stopped,
        text_tokens: said.map(|(text, _)| tokenizer.encode(text).len()).sum(),
        frames: stream.n_frames(),
    })
}

/// A text on its way to sound.
struct Speaking<'a> {
    app: &'a App,
    lease: &'a ModelLease,
    rate: u32,
    work: (Urgency, &'a Control),
    n_samples: usize,
    /// Time on the device.
    seconds: f64,
}

impl Speaking<'_> {
    /// Say what is there of the text.
    fn drain(
        &mut self,
        stream: &mut SpeechStream<'_>,
        on_chunk: &mut impl FnMut(&[f32], u32) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        let (urgency, control) = self.work;
        let mut job = self.lease.job(urgency, control)?;
        loop {
            let turn = job.turn(control)?;
            let started = Instant::now();
            let chunk = stream.next_chunk();
            drop(turn);
            let seconds = started.elapsed().as_secs_f64();
            self.app.metrics().step(self.lease.id(), "frames", seconds);
            self.seconds += seconds;
            let Some(chunk) = chunk? else {
                return Ok(());
            };
            self.n_samples += chunk.samples.len();
            if !chunk.samples.is_empty() {
                on_chunk(&chunk.samples, self.rate)?;
            }
        }
    }
}
