//! A whole recording through a session.

use std::collections::VecDeque;

use crate::asr::{Info, Segment, Timings, TranscribeOptions};
use crate::trace;
use crate::{Audio, Control, Error, Result};

use super::events::RealtimeEvent;
use super::session::RealtimeSession;

/// Seconds of sound that are pushed at a time: the next look at the control.
const PIECE_SECONDS: f64 = 2.0;

/// Seconds of sound without text behind the end of the text that are worth a warning.
const UNHEARD: f64 = 0.2;

/// Segments of a recording, in order, as they become final.
#[derive(Debug)]
pub struct RealtimeTranscription<'a> {
    session: RealtimeSession,
    audio: &'a Audio,
    done: usize,
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
        session: RealtimeSession,
        audio: &'a Audio,
        options: &TranscribeOptions,
        warnings: Vec<String>,
        control: &Control,
    ) -> Self {
        let duration = audio.duration();
        Self {
            session,
            audio,
            done: 0,
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
        }
    }

    /// Facts that are known from the start.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Where the time went so far.
    pub fn timings(&self) -> Timings {
        self.session.timings().into()
    }

    fn advance(&mut self) -> Result<()> {
        self.control.check()?;
        let sample_rate = self.audio.sample_rate();
        let samples = self.audio.samples();
        let piece = (PIECE_SECONDS * f64::from(sample_rate)) as usize;
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
        for event in events {
            match event {
                RealtimeEvent::Segment(mut segment) => {
                    if !self.keep_words {
                        segment.words = None;
                    }
                    // Text may come a moment after the sound has ended.
                    segment.end = segment.end.min(self.info.duration);
                    segment.start = segment.start.min(segment.end);
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
