//! What comes out: sound, and how it came about.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::audio::{Audio, TimeStretcher};
use crate::{Control, Error, Result};

use super::guard::StopReason;
use super::loaded::{Engine, Loaded};
use super::normalize::spoken_text;
use super::options::SpeakOptions;
use super::sentences::{Pieces, SentenceSplitter};
use super::synthesizer::{Anchor, Plan, Synthesizer};
use super::utterance::Utterance;

/// Where the time went, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SpeechTimings {
    /// Until the first sound.
    pub first_audio: f64,
    /// Prompts and first frames.
    pub prefill: f64,
    /// All other frames.
    pub generate: f64,
    /// From codes to sound.
    pub decode: f64,
    /// All of it.
    pub total: f64,
}

/// A text that was said.
#[derive(Debug, Clone)]
pub struct Speech {
    /// The sound.
    pub audio: Audio,
    /// Every piece that the text was cut into, and why each was over.
    pub pieces: Vec<(String, StopReason)>,
    /// Frames of 80 ms.
    pub n_frames: usize,
    /// Where the time went.
    pub timings: SpeechTimings,
}

/// Some of the sound of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Samples at the model's rate.
    pub samples: Vec<f32>,
    /// The number of the piece of text.
    pub piece: usize,
    /// Why the piece is over, in its last chunk.
    pub stopped: Option<StopReason>,
}

/// The voice that a stream spoke in where nothing but what it said tells which: that of a VoiceDesign model, which makes
/// somebody up who goes with the description. Another stream of the same model goes on in it, see
/// [`SpeechStream::carry_on`].
#[derive(Debug, Clone)]
pub struct CarriedVoice(Anchor);

/// The sound of a text while it is made. Text may still come with [`push`](Self::push).
#[derive(Debug)]
pub struct SpeechStream<'a> {
    synthesizer: &'a Synthesizer,
    plan: Plan,
    options: SpeakOptions,
    control: Control,
    loaded: Arc<Loaded>,
    splitter: SentenceSplitter,
    /// What is left of a text that came as a whole.
    whole: Option<Pieces>,
    pieces: VecDeque<String>,
    said: Vec<(String, StopReason)>,
    current: Option<(String, Utterance)>,
    /// What later pieces take their voice from, where nothing else says who speaks.
    anchor: Option<Anchor>,
    stretcher: TimeStretcher,
    next_chunk: usize,
    n_frames: usize,
    /// Whether there was sound.
    is_begun: bool,
    finished: bool,
    failed: bool,
    started: Instant,
    timings: SpeechTimings,
}

impl<'a> SpeechStream<'a> {
    pub(super) fn new(
        synthesizer: &'a Synthesizer,
        plan: Plan,
        options: SpeakOptions,
        control: &Control,
    ) -> Result<Self> {
        let loaded = synthesizer.loaded();
        Ok(Self {
            stretcher: TimeStretcher::new(synthesizer.sample_rate(), options.speed)?,
            loaded,
            synthesizer,
            plan,
            next_chunk: options.first_chunk.max(1),
            options,
            control: control.clone(),
            splitter: SentenceSplitter::new(),
            whole: None,
            pieces: VecDeque::new(),
            said: Vec::new(),
            current: None,
            anchor: None,
            n_frames: 0,
            is_begun: false,
            finished: false,
            failed: false,
            started: Instant::now(),
            timings: SpeechTimings::default(),
        })
    }

    /// More text; what is a sentence by now can be said.
    pub fn push(&mut self, text: &str) {
        self.splitter.push(text);
        while let Some(piece) = self.splitter.next() {
            self.add_piece(piece);
        }
    }

    /// A whole piece of text, said by itself.
    pub fn push_piece(&mut self, text: &str) {
        self.end_piece();
        self.add_piece(text.replace("\r\n", "\n"));
    }

    /// There is no more text.
    pub fn finish(&mut self) {
        self.end_piece();
        self.finished = true;
    }

    /// All of the text at once; pieces are found when they are to be said, as a book has many of them.
    pub(super) fn say_whole(&mut self, text: &str) {
        self.whole = Some(Pieces::new(text));
        self.finished = true;
    }

    /// Let there be a piece to say, if there is one in what came as a whole.
    fn find_piece(&mut self) -> Result<()> {
        while self.pieces.is_empty()
            && let Some(piece) = self.whole.as_mut().and_then(Iterator::next)
        {
            self.control.check()?;
            self.add_piece(piece);
        }
        Ok(())
    }

    fn end_piece(&mut self) {
        if let Some(piece) = self.splitter.finish() {
            self.add_piece(piece);
        }
    }

    fn add_piece(&mut self, mut piece: String) {
        if self.options.normalize {
            piece = spoken_text(&piece, self.options.language_name().as_deref());
            // A rule or a picture leaves nothing to say.
            if !piece.contains(char::is_alphanumeric) {
                return;
            }
        }
        self.pieces.push_back(piece);
    }

    /// The voice that was made up for this text, after its first piece; `None` where options say who speaks.
    pub fn carried_voice(&self) -> Option<CarriedVoice> {
        self.anchor.clone().map(CarriedVoice)
    }

    /// Speak in the voice of another stream of this model. Without effect where options say who speaks.
    pub fn carry_on(&mut self, voice: &CarriedVoice) {
        if self.plan.needs_anchor() && self.said.is_empty() && self.current.is_none() {
            self.anchor = Some(voice.0.clone());
        }
    }

    /// Why each piece of text that is over was over.
    pub fn said(&self) -> &[(String, StopReason)] {
        &self.said
    }

    /// Frames so far.
    pub fn n_frames(&self) -> usize {
        self.n_frames
    }

    /// Where the time went so far.
    pub fn timings(&self) -> SpeechTimings {
        self.timings
    }

    /// The next sound; `None` if there is no text left to say, for now or (after [`finish`](Self::finish)) at all.
    ///
    /// # Errors
    /// A text that is too long for the model, or a failed device. The stream is over then.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        if std::mem::replace(&mut self.failed, true) {
            return Ok(None);
        }
        // Many streams that take turns need no more steps than one.
        let mut engine = self.loaded.engine();
        let chunk = match self.chunk(&mut engine) {
            Err(error) => {
                engine = self.move_on(error)?;
                self.chunk(&mut engine)?
            }
            chunk => chunk?,
        };
        self.loaded.give_back(engine);
        self.failed = false;
        self.timings.total = self.started.elapsed().as_secs_f64();
        if chunk.is_some() && self.timings.first_audio == 0.0 {
            self.timings.first_audio = self.timings.total;
        }
        Ok(chunk)
    }

    /// Go on where the device that failed with `error` was left, without a seam: frames are what the talker follows, and they
    /// are known.
    fn move_on(&mut self, error: Error) -> Result<Engine> {
        if self.synthesizer.is_spare(&self.loaded) {
            return Err(error);
        }
        self.loaded = self.synthesizer.rescue(error, &self.control)?;
        let mut engine = self.loaded.engine();
        if let Some((_, utterance)) = &mut self.current {
            let stream = self.synthesizer.stream_behind(
                (&self.loaded, &mut engine),
                &self.plan,
                self.anchor.as_ref(),
                &self.control,
            )?;
            utterance.move_to(&mut engine, stream, &self.control)?;
        }
        Ok(engine)
    }

    /// What is still held back when all was said.
    fn last_chunk(&mut self) -> Option<Chunk> {
        let mut samples = Vec::new();
        if self.finished {
            self.stretcher.finish(&mut samples);
        }
        let chunk = Chunk {
            samples,
            piece: self.said.len().saturating_sub(1),
            stopped: None,
        };
        Some(chunk).filter(|chunk| !chunk.samples.is_empty())
    }

    fn chunk(&mut self, engine: &mut Engine) -> Result<Option<Chunk>> {
        if self.current.is_none() {
            self.find_piece()?;
            let Some(text) = self.pieces.front() else {
                return Ok(self.last_chunk());
            };
            let utterance = self.synthesizer.begin(
                (&self.loaded, engine),
                (text, self.said.len()),
                (&self.plan, &self.options),
                self.anchor.as_ref(),
                (&self.control, &mut self.timings),
            )?;
            self.current = self.pieces.pop_front().map(|text| (text, utterance));
        }
        let Some((_, utterance)) = &mut self.current else {
            return Ok(None);
        };
        let n_codes = self.synthesizer.model().config().n_codes;
        while utterance.n_waiting(n_codes) < self.next_chunk {
            self.control.check()?;
            if !utterance.next_frame(engine, &mut self.timings)? {
                break;
            }
            self.n_frames += 1;
        }
        self.next_chunk =
            (2 * self.next_chunk).min(SpeakOptions::MAX_CHUNK.max(self.options.first_chunk));
        // The piece is over when its last sound was made: what was found out beside that is told with the next chunk.
        let stopped = utterance.stopped();
        let mut made = Vec::new();
        if self.is_begun && stopped.is_none() {
            self.n_frames +=
                utterance.decode_beside(engine, self.next_chunk, &mut made, &mut self.timings)?;
        } else {
            // Somebody waits for the first sound.
            utterance.decode(engine, &mut made, &mut self.timings)?;
            self.is_begun = true;
        }
        let mut samples = Vec::with_capacity(made.len());
        self.stretcher.push(&made, &mut samples);
        let chunk = Chunk {
            samples,
            piece: self.said.len(),
            stopped,
        };
        if let Some(reason) = stopped
            && let Some((text, utterance)) = self.current.take()
        {
            // Who went in circles, or did not find an end, is no example for what follows.
            let is_good = matches!(reason, StopReason::End | StopReason::MaxFrames);
            if self.anchor.is_none() && self.plan.needs_anchor() && is_good {
                let model = self.synthesizer.model();
                self.anchor = Some(Anchor::new(model, &text, utterance.codes()));
            }
            self.said.push((text, reason));
        }
        Ok(Some(chunk))
    }
}

impl Iterator for SpeechStream<'_> {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_chunk().transpose()
    }
}
