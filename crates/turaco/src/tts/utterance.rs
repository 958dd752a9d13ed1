//! One piece of text, frame by frame.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::models::qwen3_tts::codec::CodecStream;
use crate::models::qwen3_tts::{FrameInput, Prompt, PromptRequest, Runner, Sampling, TalkerState};
use crate::{Control, Error, Result};

use super::guard::{FrameGuard, StopReason};
use super::loaded::Engine;
use super::speech::SpeechTimings;

/// When a piece of text has to be over.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// Frames that its text may take.
    Budget(usize),
    /// Frames that its text could take, and the model's settings do not allow.
    Settings(usize),
    /// Frames that were asked for at most, as far as the model has positions.
    Asked(usize),
    /// Frames that are said whatever the model says.
    Exact(usize),
}

/// A piece of text that is being said.
#[derive(Debug)]
pub(super) struct Utterance {
    frames: Frames,
    stream: CodecStream,
    /// Frames whose sound was made.
    n_decoded: usize,
}

/// What the talker says.
#[derive(Debug)]
struct Frames {
    prompt: Prompt,
    /// What the talker is given before its next frame, if not just the last one: `[positions, dim]`.
    unread: Option<Vec<f32>>,
    sampling: Sampling,
    state: TalkerState,
    limit: Limit,
    guard: FrameGuard,
    /// All frames so far.
    codes: Vec<u32>,
    stopped: Option<StopReason>,
}

impl Utterance {
    /// `stream`: where its sound goes on.
    pub fn new(
        engine: &mut Engine,
        request: &PromptRequest<'_>,
        stream: CodecStream,
        (sampling, mut limit): (Sampling, Limit),
        (timings, control): (&mut SpeechTimings, &Control),
    ) -> Result<Self> {
        let started = Instant::now();
        let most = engine.talker.model().config().max_positions;
        let n_tokens = request.n_tokens();
        if n_tokens > most {
            // Nothing of it is looked at: a vector for each of many tokens takes more memory than there may be.
            return Err(Error::InvalidOption {
                option: "text",
                message: format!(
                    "text, instruction and the text of the recording are {n_tokens} tokens, and the model has {most} positions: \
                     shorter ones are needed"
                ),
            });
        }
        let prompt = engine.talker.prompt(request, control)?;
        let config = engine.talker.model().config();
        let n_prompt = prompt.rows.len() / config.talker.dim;
        let room = config.max_positions.saturating_sub(n_prompt);
        if let Limit::Asked(asked) = &mut limit {
            *asked = (*asked).min(room.max(1));
        }
        let n_frames = limit.n_frames();
        if n_frames > room {
            return Err(Error::InvalidOption {
                option: "text",
                message: format!(
                    "the prompt takes {n_prompt} of the model's {} positions, which leaves {room} frames and {n_frames} may be \
                     needed: a shorter text, recording or instruction is needed",
                    config.max_positions
                ),
            });
        }
        let state = engine.talker.new_state(n_prompt + n_frames, sampling)?;
        timings.prefill += started.elapsed().as_secs_f64();
        let frames = Frames {
            unread: Some(prompt.rows.clone()),
            prompt,
            sampling,
            state,
            limit,
            guard: FrameGuard::new(),
            codes: Vec::new(),
            stopped: None,
        };
        Ok(Self {
            frames,
            stream,
            n_decoded: 0,
        })
    }

    /// Go on with an engine on another device, where nothing of this piece is known; `stream` as in [`new`](Self::new).
    pub fn move_to(
        &mut self,
        engine: &mut Engine,
        mut stream: CodecStream,
        control: &Control,
    ) -> Result<()> {
        let model = engine.talker.model().clone();
        let (dim, n_codes) = (model.config().talker.dim, model.config().n_codes);
        let frames = &mut self.frames;
        let n_positions = frames.prompt.rows.len() / dim + frames.limit.n_frames();
        let mut state = engine.talker.new_state(n_positions, frames.sampling)?;
        state.resume(&frames.codes);
        let made = &frames.codes[..self.n_decoded * n_codes];
        engine.go_through(&mut stream, made, control)?;
        frames.unread = Some(frames.prompt.rows_behind(&model, &frames.codes));
        frames.state = state;
        self.stream = stream;
        Ok(())
    }

    /// Why it is over, if it is.
    pub fn stopped(&self) -> Option<StopReason> {
        self.frames.stopped
    }

    /// All frames so far.
    pub fn codes(&self) -> &[u32] {
        &self.frames.codes
    }

    /// The next frame; `false` if there is none.
    pub fn next_frame(&mut self, engine: &mut Engine, timings: &mut SpeechTimings) -> Result<bool> {
        self.frames.next(&mut engine.talker, timings)
    }

    /// The sound of the frames that have none yet, appended to `samples`.
    pub fn decode(
        &mut self,
        engine: &mut Engine,
        samples: &mut Vec<f32>,
        timings: &mut SpeechTimings,
    ) -> Result<()> {
        let started = Instant::now();
        let n_codes = engine.talker.model().config().n_codes;
        let codes = &self.frames.codes[self.n_decoded * n_codes..];
        engine.codec.decode(&mut self.stream, codes, samples)?;
        self.n_decoded = self.frames.codes.len() / n_codes;
        timings.decode += started.elapsed().as_secs_f64();
        Ok(())
    }

    /// As [`decode`](Self::decode), and meanwhile up to `n_most` further frames, where the processor has two threads: one of
    /// them makes the sound in the time that the other would gain little by its help. Their number.
    pub fn decode_beside(
        &mut self,
        engine: &mut Engine,
        n_most: usize,
        samples: &mut Vec<f32>,
        timings: &mut SpeechTimings,
    ) -> Result<usize> {
        let started = Instant::now();
        let model = engine.talker.model().clone();
        let n_codes = model.config().n_codes;
        let codes = self.frames.codes[self.n_decoded * n_codes..].to_vec();
        let Engine { talker, codec } = engine;
        let Self { frames, stream, .. } = self;
        let is_decoded = AtomicBool::new(false);
        let (mut decoded, mut said) = (Ok(()), Ok(()));
        let (mut n_frames, mut talked) = (0, *timings);
        let mut decode = || {
            decoded = codec.decode(stream, &codes, samples);
            is_decoded.store(true, Ordering::Relaxed);
        };
        let mut talk = || {
            while n_frames < n_most && !is_decoded.load(Ordering::Relaxed) {
                match frames.next(talker, &mut talked) {
                    Ok(true) => n_frames += 1,
                    Ok(false) => break,
                    Err(error) => {
                        said = Err(error);
                        break;
                    }
                }
            }
        };
        if !model.device().side_by_side(&mut talk, &mut decode) {
            self.decode(engine, samples, timings)?;
            return Ok(0);
        }
        decoded?;
        self.n_decoded += codes.len() / n_codes;
        // What went on beside frames took no time of its own.
        let own = talked.prefill + talked.generate - timings.prefill - timings.generate;
        *timings = talked;
        timings.decode += (started.elapsed().as_secs_f64() - own).max(0.0);
        said.map(|()| n_frames)
    }

    /// Frames that have no sound yet.
    pub fn n_waiting(&self, n_codes: usize) -> usize {
        self.frames.codes.len() / n_codes - self.n_decoded
    }
}

impl Frames {
    /// The next frame; `false` if there is none.
    fn next(&mut self, talker: &mut Runner, timings: &mut SpeechTimings) -> Result<bool> {
        if self.stopped.is_some() {
            return Ok(false);
        }
        let n_frames = self.state.n_frames();
        if n_frames >= self.limit.n_frames() {
            self.stopped = Some(match self.limit {
                Limit::Budget(_) => StopReason::Budget,
                Limit::Settings(_) | Limit::Asked(_) | Limit::Exact(_) => StopReason::MaxFrames,
            });
            return Ok(false);
        }
        let is_exact = matches!(self.limit, Limit::Exact(_));
        let started = Instant::now();
        let end = talker.model().config().codec_tokens.eos;
        let dim = self.prompt.pad.len();
        let input = match &self.unread {
            Some(rows) => FrameInput::Prompt(rows),
            None => FrameInput::Text(self.prompt.word_beside(n_frames.saturating_sub(1), dim)),
        };
        let codes = talker.next_frames(&mut [&mut self.state], input)?;
        self.unread = None;
        match n_frames {
            0 => timings.prefill += started.elapsed().as_secs_f64(),
            _ => timings.generate += started.elapsed().as_secs_f64(),
        }
        if codes[0] == end {
            if !is_exact {
                self.stopped = Some(StopReason::End);
                return Ok(false);
            }
            // Any code will do for a measurement.
            self.codes.push(0);
            self.codes.extend_from_slice(&codes[1..]);
        } else {
            self.codes.extend_from_slice(codes);
        }
        if !is_exact && self.guard.push(codes) {
            self.stopped = Some(StopReason::Repetition);
        }
        Ok(true)
    }
}

impl Limit {
    /// Frames at most.
    fn n_frames(self) -> usize {
        match self {
            Self::Budget(most) | Self::Settings(most) | Self::Asked(most) | Self::Exact(most) => {
                most
            }
        }
    }
}
