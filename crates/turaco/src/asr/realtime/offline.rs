//! A whole recording through a session.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::asr::{Info, Segment, Timings, TranscribeOptions};
use crate::trace;
use crate::{Audio, Control, Error, Result};

use super::events::{RealtimeEvent, TrackKind};
use super::options::RealtimeOptions;
use super::recognizer::RealtimeRecognizer;
use super::session::RealtimeSession;

/// Seconds of sound that are pushed at a time, at least: the next look at the control.
const PIECE_SECONDS: f64 = 2.0;

/// Seconds of sound without text behind the end of the text that are worth a warning.
const UNHEARD: f64 = 0.2;

/// Segments of a recording, in order, as they become final.
#[derive(Debug)]
pub struct RealtimeTranscription<'a> {
    recognizer: &'a RealtimeRecognizer,
    session: RealtimeSession,
    options: RealtimeOptions,
    audio: &'a Audio,
    done: usize,
    /// Samples before the session: more than none if another one went on for it.
    first: usize,
    /// Samples whose words are complete.
    settled: usize,
    /// Of sessions that failed.
    spent: Timings,
    ended: bool,
    keep_words: bool,
    ready: VecDeque<Segment>,
    /// What ended it before its time, told behind the last segment.
    stopped: Option<Error>,
    control: Control,
    info: Info,
}

impl<'a> RealtimeTranscription<'a> {
    pub(crate) fn new(
        recognizer: &'a Arc<RealtimeRecognizer>,
        audio: &'a Audio,
        options: &TranscribeOptions,
        warnings: Vec<String>,
        control: &Control,
    ) -> Result<Self> {
        let duration = audio.duration();
        let session = match recognizer.active().session_of_recording(&options.realtime) {
            Err(error) => {
                let instead = recognizer.rescue(error, control)?;
                instead.session_of_recording(&options.realtime)?
            }
            Ok(session) => session,
        };
        Ok(Self {
            recognizer,
            session,
            options: options.realtime.clone(),
            audio,
            done: 0,
            first: 0,
            settled: 0,
            spent: Timings::default(),
            ended: false,
            keep_words: options.word_timestamps,
            ready: VecDeque::new(),
            stopped: None,
            control: control.clone(),
            info: Info {
                // The model does not say which it heard.
                language: options.language.clone().unwrap_or_default(),
                language_probability: if options.language.is_some() { 1.0 } else { 0.0 },
                duration,
                duration_after_vad: duration,
                all_language_probs: None,
                warnings,
            },
        })
    }

    /// Facts that are known from the start.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Where the time went so far.
    pub fn timings(&self) -> Timings {
        let (before, now) = (&self.spent, Timings::from(self.session.timings()));
        Timings {
            features: before.features + now.features,
            encoder: before.encoder + now.encoder,
            decoder: before.decoder + now.decoder,
            windows: before.windows + now.windows,
            tokens: before.tokens + now.tokens,
            ..now
        }
    }

    /// Hear more; where the device fails and another one can go on, that one hears again what had no complete words.
    fn advance(&mut self) -> Result<()> {
        self.control.check()?;
        let Err(error) = self.hear() else {
            return Ok(());
        };
        if !std::ptr::eq(Arc::as_ptr(self.session.recognizer()), self.recognizer) {
            // The other one failed too.
            return Err(error);
        }
        let instead = self.recognizer.rescue(error, &self.control)?;
        let session = instead.session_of_recording(&self.options)?;
        self.spent = self.timings();
        let events = self.session.close();
        self.take(events);
        self.session = session;
        self.first = self.settled;
        self.done = self.settled;
        self.ended = false;
        Ok(())
    }

    fn hear(&mut self) -> Result<()> {
        let sample_rate = self.audio.sample_rate();
        let samples = self.audio.samples();
        let seconds = PIECE_SECONDS.max(self.session.most_seconds());
        let piece = (seconds * f64::from(sample_rate)) as usize;
        let end = samples.len().min(self.done + piece);
        let events = if self.done < end && !self.session.is_over() {
            let piece = &samples[self.done..end];
            self.session.push(piece, sample_rate)?
        } else {
            self.ended = true;
            self.session.finish()?
        };
        self.done = end;
        self.take(events);
        let done = self.done as f64 / f64::from(sample_rate.max(1));
        self.control.report(done, Some(self.info.duration));
        Ok(())
    }

    fn take(&mut self, events: Vec<RealtimeEvent>) {
        let _span = trace::span("assemble");
        let rate = f64::from(self.audio.sample_rate().max(1));
        for mut event in events {
            event.shift(self.first as f64 / rate);
            match event {
                RealtimeEvent::Word {
                    track: TrackKind::Settled,
                    word,
                } => {
                    let end = (word.end * rate) as usize;
                    self.settled = end.clamp(self.settled, self.audio.samples().len());
                }
                RealtimeEvent::Segment(mut segment) => {
                    if !self.keep_words {
                        segment.words = None;
                    }
                    // Text may come a moment after the sound has ended.
                    segment.keep_within(self.info.duration);
                    self.ready.push_back(segment);
                }
                RealtimeEvent::End {
                    time,
                    continues: false,
                    ..
                } if time + UNHEARD < self.info.duration => {
                    self.info.warnings.push(format!(
                        "the model ended its text at {time:.1} s of {:.1} s; `continuous` goes on",
                        self.info.duration
                    ));
                }
                _ => {}
            }
        }
    }
}

impl Iterator for RealtimeTranscription<'_> {
    type Item = Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(segment) = self.ready.pop_front() {
                return Some(Ok(segment));
            }
            if self.ended {
                return self.stopped.take().map(Err);
            }
            if let Err(error) = self.advance() {
                self.ended = true;
                self.stopped = Some(error);
                // What was heard comes out.
                let events = self.session.close();
                self.take(events);
            }
        }
    }
}
