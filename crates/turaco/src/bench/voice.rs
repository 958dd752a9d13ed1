//! Conversations against the clock: how long a user waits for an answer, and what of it is not the models' work.

use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::clip::Clip;
use super::statistics::Percentiles;
use crate::voice::{
    AnswerEnd, Answered, Brief, LISTENING_RATE, Mind, TurnTimings, VoiceEvent, VoiceModels,
    VoiceOptions, VoiceSession,
};
use crate::{Control, Error, Result};

/// Milliseconds from the end of a turn to the first text of the answer that users should not have to wait longer for.
pub const GOAL_MS: f64 = 100.0;

/// How a conversation is measured.
#[derive(Debug, Clone, Copy)]
pub struct VoiceProtocol {
    /// Questions that count.
    pub turns: usize,
    /// Questions before that, which do not.
    pub warm_up: usize,
}

/// What users wait for, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VoiceReport {
    /// Questions that were measured.
    pub turns: usize,
    /// From the last sound of speech until the turn was taken to be over.
    pub turn_end_ms: Percentiles,
    /// From then until the question was there as text.
    pub transcript_ms: Percentiles,
    /// From the end of the turn until the first text of the answer.
    pub first_text_ms: Percentiles,
    /// From the end of the turn until the first sound of the answer.
    pub first_audio_ms: Percentiles,
    /// From the last sound of speech until the first sound of the answer.
    pub user_wait_ms: Percentiles,
    /// In the recogniser.
    pub recognition_ms: Percentiles,
    /// In the mind, until its first text.
    pub thinking_ms: Percentiles,
    /// In the voice, until its first sound.
    pub speaking_ms: Percentiles,
    /// What is none of these, until the first text.
    pub text_overhead_ms: Percentiles,
    /// What is none of these, until the first sound.
    pub audio_overhead_ms: Percentiles,
    /// From the sound with which speech counted until nothing of the interrupted answer came any more.
    pub interruption_ms: Percentiles,
    /// The share of answers whose first text came within [`GOAL_MS`].
    pub within_goal: f64,
}

/// A mind that needs no time: what remains is the pipeline.
#[derive(Debug, Clone)]
pub struct ReadyMind {
    /// What it answers.
    pub text: String,
}

impl Mind for ReadyMind {
    fn answer(
        &mut self,
        _: Brief<'_>,
        control: &Control,
        say: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Answered> {
        for word in self.text.split_inclusive(' ') {
            control.check()?;
            say(word)?;
        }
        Ok(Answered::default())
    }
}

/// Samples that arrive at a time.
const PIECE: usize = LISTENING_RATE as usize / 50;
/// And how long they take.
const PIECE_TIME: Duration = Duration::from_millis(20);
/// Samples at both ends of a question that arrive as fast as they are spoken; those between come at once.
const PACED: usize = LISTENING_RATE as usize / 2;
/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(600);

/// Ask what is said in `clips`, one behind the other and up to the first pause that ends a turn, again and again. Every question
/// but the first interrupts the answer before it.
///
/// # Errors
/// A question that is not heard or not answered, a failed device, or cancellation.
pub fn voice(
    models: &VoiceModels,
    mind: Box<dyn Mind>,
    options: VoiceOptions,
    clips: &[Clip],
    protocol: VoiceProtocol,
    control: &Control,
) -> Result<VoiceReport> {
    let question = &question(models, clips, &options)?[..];
    let with_sound = models.sample_rate().is_some();
    let (sender, events) = mpsc::channel();
    let session = VoiceSession::start(models, Some(mind), options, move |event| {
        // Nobody listens any more when the measurement is over.
        let _ = sender.send((Instant::now(), event));
    })?;
    let mut run = Run {
        session: &session,
        events: &events,
        control,
        last_push: Instant::now(),
        interruptions: Vec::new(),
        timings: Vec::new(),
    };
    let n_turns = protocol.warm_up + protocol.turns;
    for turn in 0..n_turns {
        run.ask(question, with_sound)?;
        control.report((turn + 1) as f64, Some(n_turns as f64));
    }
    session.cancel();
    run.collect_ended();
    // An answer is counted with its question, and is interrupted by the next one.
    let skip = protocol.warm_up.min(run.timings.len());
    let interruptions = run.interruptions.iter();
    let interruptions = interruptions.filter(|(answer, _)| *answer >= skip);
    let interruptions: Vec<f64> = interruptions.map(|(_, took)| *took).collect();
    Ok(report(&run.timings[skip..], &interruptions))
}

/// The sound of the first turn in `clips`, at [`LISTENING_RATE`].
fn question(models: &VoiceModels, clips: &[Clip], options: &VoiceOptions) -> Result<Vec<f32>> {
    let mut sound = Vec::new();
    for clip in clips {
        sound.extend_from_slice(clip.read()?.resampled(LISTENING_RATE)?.samples());
    }
    match models.first_turn(&options.turns, &sound)? {
        Some(end) => sound.truncate(end),
        None => {
            return Err(Error::InvalidOption {
                option: "audio",
                message: "nobody speaks in it".into(),
            });
        }
    }
    Ok(sound)
}

struct Run<'a> {
    session: &'a VoiceSession,
    events: &'a Receiver<(Instant, VoiceEvent)>,
    control: &'a Control,
    last_push: Instant,
    /// Which answers were interrupted, and how long that took.
    interruptions: Vec<(usize, f64)>,
    timings: Vec<TurnTimings>,
}

impl Run<'_> {
    /// Ask once, and wait until the answer can be heard (or read, without a voice).
    fn ask(&mut self, question: &[f32], with_sound: bool) -> Result<()> {
        let head = question.len().min(PACED);
        let tail = question.len().saturating_sub(PACED).max(head);
        self.paced(&question[..head])?;
        self.push(&question[head..tail])?;
        while self.session.waiting_seconds() > 0.0 {
            self.control.check()?;
            thread::sleep(Duration::from_millis(1));
        }
        self.paced(&question[tail..])?;
        // Silence, until somebody answers.
        let silence = [0.0; PIECE];
        let deadline = Instant::now() + PATIENCE;
        loop {
            thread::sleep(PIECE_TIME);
            while let Ok((at, event)) = self.events.try_recv() {
                match event {
                    VoiceEvent::AnswerAudio { .. } if with_sound => return Ok(()),
                    VoiceEvent::AnswerText { .. } if !with_sound => return Ok(()),
                    event => self.take(at, event)?,
                }
            }
            self.push(&silence)?;
            if Instant::now() > deadline {
                return Err(self.unanswered());
            }
        }
    }

    fn unanswered(&self) -> Error {
        Error::InvalidOption {
            option: "audio",
            message: "this question was not answered; it has to be speech with words".into(),
        }
    }

    fn take(&mut self, at: Instant, event: VoiceEvent) -> Result<()> {
        match event {
            VoiceEvent::AnswerEnded { end, timings, .. } => {
                self.timings.push(timings);
                if end == AnswerEnd::Interrupted {
                    let took = at.saturating_duration_since(self.last_push);
                    let answer = self.timings.len() - 1;
                    self.interruptions.push((answer, 1e3 * took.as_secs_f64()));
                }
                Ok(())
            }
            VoiceEvent::Failed { message, .. } | VoiceEvent::HearingFailed { message, .. } => {
                Err(Error::InvalidOption {
                    option: "audio",
                    message: format!("the conversation failed: {message}"),
                })
            }
            _ => Ok(()),
        }
    }

    fn collect_ended(&mut self) {
        while let Ok((_, event)) = self.events.try_recv() {
            if let VoiceEvent::AnswerEnded { timings, .. } = event {
                self.timings.push(timings);
            }
        }
    }

    /// Sound as fast as it is spoken.
    fn paced(&mut self, samples: &[f32]) -> Result<()> {
        for piece in samples.chunks(PIECE) {
            thread::sleep(PIECE_TIME);
            while let Ok((at, event)) = self.events.try_recv() {
                self.take(at, event)?;
            }
            self.push(piece)?;
        }
        Ok(())
    }

    fn push(&mut self, samples: &[f32]) -> Result<()> {
        self.control.check()?;
        self.last_push = Instant::now();
        match samples.is_empty() || self.session.push(samples) {
            true => Ok(()),
            false => Err(Error::InvalidOption {
                option: "audio",
                message: "the question is longer than what may wait".into(),
            }),
        }
    }
}

fn report(timings: &[TurnTimings], interruptions: &[f64]) -> VoiceReport {
    let of = |what: &dyn Fn(&TurnTimings) -> Option<f64>| {
        let seconds = timings.iter().filter_map(what);
        Percentiles::new(seconds.map(|seconds| 1e3 * seconds).collect())
    };
    let within = timings
        .iter()
        .filter(|timings| timings.first_text.is_some_and(|text| 1e3 * text <= GOAL_MS));
    VoiceReport {
        turns: timings.len(),
        turn_end_ms: of(&|t| t.turn_end),
        transcript_ms: of(&|t| t.transcript),
        first_text_ms: of(&|t| t.first_text),
        first_audio_ms: of(&|t| t.first_audio),
        user_wait_ms: of(&|t| Some(t.turn_end? + t.first_audio?)),
        recognition_ms: of(&|t| t.transcript.map(|_| t.recognition)),
        thinking_ms: of(&|t| t.first_text.map(|_| t.thinking)),
        speaking_ms: of(&|t| t.first_audio.map(|_| t.speaking)),
        text_overhead_ms: of(&TurnTimings::text_overhead),
        audio_overhead_ms: of(&TurnTimings::audio_overhead),
        interruption_ms: Percentiles::new(interruptions.to_vec()),
        within_goal: within.count() as f64 / timings.len().max(1) as f64,
    }
}
