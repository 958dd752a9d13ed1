//! Listening against the clock: how long after a word its text is there, and how many streams a machine keeps up with.
//!
//! Sound arrives in real time, but nobody waits for it: a clock is kept that jumps to when the next piece of sound is
//! there if the work before is done, and advances by what the work takes.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::clip::Clip;
use super::statistics::Percentiles;
use crate::asr::realtime::{
    RealtimeBatch, RealtimeEvent, RealtimeOptions, RealtimeRecognizer, RealtimeSession, TrackKind,
};
use crate::{Control, Error, Result};

/// Seconds of sound that arrive at a time.
const PIECE: f64 = 0.08;

/// How some streams at once went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveReport {
    /// Streams that ran side by side.
    pub sessions: usize,
    /// Seconds of sound of one stream.
    pub seconds: f64,
    /// Seconds of work for each second of sound of all streams together: below 1 the machine keeps up.
    pub factor: f64,
    /// Milliseconds from the last sample of a token's sound to its text.
    pub latency_ms: Percentiles,
    /// The same for words: until the word is known to be complete.
    pub word_latency_ms: Percentiles,
    /// Seconds that the text was behind at the end of the sound.
    pub behind: f64,
    /// Tokens of all streams per second of work in the decoder.
    pub tokens_per_second: f64,
    /// Decoder steps per second of work in the decoder.
    pub steps_per_second: f64,
    /// Milliseconds of a decoder step.
    pub step_ms: f64,
    /// Seconds of work in the encoder for each second of sound of one stream.
    pub encoder_factor: f64,
    /// Milliseconds of a run of the encoder, which takes the pieces of several streams.
    pub encoder_run_ms: f64,
    /// Streams whose pieces one run of the encoder takes.
    pub encoder_streams: f64,
    /// Milliseconds of the encoder for a piece of one stream.
    pub encoder_piece_ms: f64,
    /// Milliseconds of all the work whenever sound arrives (every 80 ms, for all streams): the encoder and the tokens of
    /// all streams that have a piece ready. They begin together, so all have it at the same moment: the hardest case.
    pub round_ms: Percentiles,
}

impl LiveReport {
    /// Whether the machine keeps up with so many streams.
    pub fn keeps_up(&self) -> bool {
        self.factor < 1.0
    }
}

/// Let `n_sessions` streams hear all `clips`, one behind the other, each from the start.
///
/// # Errors
/// A clip that cannot be read, options that the model does not have, a failed device, or cancellation.
pub fn live(
    recognizer: &Arc<RealtimeRecognizer>,
    clips: &[Clip],
    options: &RealtimeOptions,
    n_sessions: usize,
    control: &Control,
) -> Result<LiveReport> {
    if clips.is_empty() || n_sessions == 0 {
        return Err(Error::InvalidOption {
            option: "sessions",
            message: "listening needs at least one clip and one session".into(),
        });
    }
    let rate = recognizer.config().sample_rate;
    let mut sound = Vec::new();
    for clip in clips {
        sound.extend_from_slice(clip.read()?.resampled(rate)?.samples());
    }
    let mut sessions = (0..n_sessions)
        .map(|_| recognizer.session(options))
        .collect::<Result<Vec<_>>>()?;
    let batch = RealtimeBatch::new(recognizer);
    let piece = (PIECE * f64::from(rate)) as usize;
    let (mut clock, mut work) = (0.0f64, 0.0);
    let (mut tokens, mut words, mut rounds) = (Vec::new(), Vec::new(), Vec::new());
    let mut heard = 0;
    let mut behind = 0.0;
    let n_pieces = sound.len().div_ceil(piece.max(1));
    for index in 0..=n_pieces {
        control.check()?;
        let started = Instant::now();
        let mut all: Vec<&mut RealtimeSession> = sessions.iter_mut().collect();
        if index < n_pieces {
            let samples = &sound[index * piece..sound.len().min((index + 1) * piece)];
            heard += samples.len();
            for session in &mut all {
                session.feed(samples, rate)?;
            }
            batch.advance(&mut all)?;
        } else {
            let every: Vec<usize> = (0..n_sessions).collect();
            batch.finish(&mut all, &every)?;
        }
        let took = started.elapsed().as_secs_f64();
        let arrived = heard as f64 / f64::from(rate);
        clock = clock.max(arrived) + took;
        work += took;
        if index < n_pieces {
            rounds.push(1e3 * took);
        }
        behind = clock - arrived;
        for event in sessions.iter_mut().flat_map(RealtimeSession::take_events) {
            // What comes out after the end is not late: the sound that it waited for is silence that nobody spoke.
            match event {
                RealtimeEvent::Text {
                    track: TrackKind::Settled,
                    time,
                    ..
                } if index < n_pieces => {
                    tokens.push(1e3 * (clock - time));
                }
                RealtimeEvent::Word {
                    track: TrackKind::Settled,
                    word,
                } if index < n_pieces => {
                    words.push(1e3 * (clock - word.end));
                }
                _ => {}
            }
        }
        control.report(arrived, Some(sound.len() as f64 / f64::from(rate)));
    }
    let seconds = sound.len() as f64 / f64::from(rate);
    let timings: Vec<_> = sessions.iter().map(RealtimeSession::timings).collect();
    let sum = |of: &dyn Fn(&crate::asr::realtime::RealtimeTimings) -> f64| -> f64 {
        timings.iter().map(of).sum()
    };
    let decoder = sum(&|t| t.decoder).max(f64::MIN_POSITIVE);
    // A step of several streams counts in each of them.
    let steps = sum(&|t| t.passes as f64) / n_sessions as f64;
    let encoder_ms = 1e3 * sum(&|t| t.encoder);
    let runs = sum(&|t| t.encoder_runs).max(1.0);
    let pieces = sum(&|t| t.chunks as f64);
    Ok(LiveReport {
        sessions: n_sessions,
        seconds,
        factor: work / seconds.max(f64::MIN_POSITIVE),
        latency_ms: Percentiles::new(tokens),
        word_latency_ms: Percentiles::new(words),
        behind,
        tokens_per_second: sum(&|t| t.steps as f64) / decoder,
        steps_per_second: steps / decoder,
        step_ms: 1e3 * decoder / steps.max(1.0),
        encoder_factor: encoder_ms / 1e3 / seconds.max(f64::MIN_POSITIVE) / n_sessions as f64,
        encoder_run_ms: encoder_ms / runs,
        encoder_streams: pieces / runs,
        encoder_piece_ms: encoder_ms / pieces.max(1.0),
        round_ms: Percentiles::new(rounds),
    })
}
