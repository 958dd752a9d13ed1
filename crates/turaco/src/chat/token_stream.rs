//! Tokens behind a prompt, one by one.

use std::sync::Arc;
use std::time::Instant;

use super::model::ChatModel;
use super::session::{ChatSession, Row};
use crate::device_queue::Job;
use crate::features::Mel;
use crate::models::voxtral_mini::{Draw, Runner};
use crate::{Control, Error, Result, trace};

/// Rows of a prompt that go through the decoder at a time.
const BLOCK: usize = 512;

/// Positions beyond the prompt that a conversation gets room for at once.
const ROOM: usize = 256;

/// Where the time of a turn went, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct ChatTimings {
    /// Log-mel features.
    pub features: f64,
    /// Audio encoder.
    pub encoder: f64,
    /// The prompt in the decoder, and the first token.
    pub prefill: f64,
    /// All other tokens.
    pub decode: f64,
    /// Until the first token.
    pub first_token: f64,
    /// Chunks of sound that were encoded.
    pub chunks: usize,
}

impl ChatTimings {
    /// Seconds of work so far; waiting for the device is none.
    pub fn work(&self) -> f64 {
        self.features + self.encoder + self.prefill + self.decode
    }
}

/// Tokens on their way.
#[derive(Debug)]
pub(crate) struct TokenStream<'a> {
    session: &'a mut ChatSession,
    model: Arc<ChatModel>,
    runner: Option<Runner>,
    /// Its turns on the device.
    job: Option<Job>,
    /// The whole prompt, and what was generated on a device that has failed since.
    prompt: Vec<Row>,
    n_prompt: usize,
    /// Rows of it that were there already.
    n_shared: usize,
    draw: Draw,
    max_tokens: usize,
    /// What was generated.
    said: Vec<u32>,
    last: Option<u32>,
    /// Whether other conversations wait for this one before a step.
    has_joined: bool,
    hearing: Hearing,
    control: Control,
    started: Option<Instant>,
    timings: ChatTimings,
}

/// The sound that is being listened to.
#[derive(Debug, Default)]
struct Hearing {
    /// Features of a clip.
    mel: Option<(u32, Mel)>,
    /// A chunk of it, `[tokens_per_chunk, dim]`.
    vectors: Vec<f32>,
    chunk: Option<(u32, usize)>,
    /// What a chunk of nothing but one value becomes: digital silence is encoded once.
    silence: Option<(f32, Vec<f32>)>,
}

impl<'a> TokenStream<'a> {
    pub(super) fn new(
        session: &'a mut ChatSession,
        prompt: Vec<Row>,
        (draw, max_tokens): (Draw, usize),
        (job, control): (Option<Job>, &Control),
    ) -> Self {
        let model = Arc::clone(session.model());
        Self {
            n_shared: session.rows.len(),
            runner: Some(model.take_runner()),
            model,
            session,
            job,
            n_prompt: prompt.len(),
            prompt,
            draw,
            max_tokens,
            said: Vec::new(),
            last: None,
            has_joined: false,
            hearing: Hearing::default(),
            control: control.clone(),
            started: None,
            timings: ChatTimings::default(),
        }
    }

    pub fn model(&self) -> &Arc<ChatModel> {
        &self.model
    }

    /// Tokens of the prompt, and how many of them were there already.
    pub fn prompt_tokens(&self) -> (usize, usize) {
        (self.n_prompt, self.n_shared)
    }

    /// Tokens that were chosen.
    pub fn n_tokens(&self) -> usize {
        self.said.len()
    }

    /// Where the time went so far.
    pub fn timings(&self) -> ChatTimings {
        self.timings
    }

    /// Take some more of the prompt in, all but the last rows. Chunks of sound that are heard by now, or `None` if the rest goes
    /// with the first token.
    pub fn prefill(&mut self) -> Result<Option<usize>> {
        match self.prefill_block() {
            Err(error) => {
                self.rescue(error)?;
                self.prefill_block()
            }
            done => done,
        }
    }

    fn prefill_block(&mut self) -> Result<Option<usize>> {
        let done = self.session.rows.len();
        if self.last.is_some() || self.prompt.len().saturating_sub(done) <= BLOCK {
            return Ok(None);
        }
        self.in_turn(|stream, runner| {
            let x = stream.embed(runner, done..done + BLOCK)?;
            let started = Instant::now();
            let state = stream.session.reserve(runner, stream.room())?;
            runner.prefill(state, &x)?;
            let rows = &stream.prompt[done..done + BLOCK];
            stream.session.rows.extend_from_slice(rows);
            stream.timings.prefill += started.elapsed().as_secs_f64();
            Ok(Some(stream.timings.chunks))
        })
    }

    /// The next token and its log-probability; `None` if there have been as many as there may be.
    pub fn next_token(&mut self) -> Result<Option<(u32, f32)>> {
        if self.said.len() >= self.max_tokens {
            self.leave();
            return Ok(None);
        }
        let chosen = match self.choose() {
            Err(error) => {
                self.rescue(error)?;
                self.choose()?
            }
            chosen => chosen?,
        };
        let Some((token, _)) = chosen else {
            return Ok(None);
        };
        if token == u32::MAX {
            return Err(turaco_compute::Error::Unsupported {
                what: "a token without possible values".into(),
                reason: "the logits are no numbers: the weights are damaged, or too large for this weight type"
                    .into(),
            }
            .into());
        }
        self.said.push(token);
        self.last = Some(token);
        Ok(chosen)
    }

    /// No further token is wanted: others need not wait for this conversation.
    pub fn leave(&mut self) {
        if std::mem::take(&mut self.has_joined) {
            self.model.steps().leave();
        }
    }

    fn choose(&mut self) -> Result<Option<(u32, f32)>> {
        while self.prefill()?.is_some() {}
        match self.last {
            None => self.first_token(),
            Some(last) => self.token_behind(last),
        }
    }

    /// Go on where the model is loaded once more, after a device has failed: what was generated is read there like the prompt.
    fn rescue(&mut self, error: Error) -> Result<()> {
        let model = self.model.rescue(error, &self.control)?;
        self.leave();
        self.session.move_to(&model);
        self.prompt.truncate(self.n_prompt);
        self.prompt
            .extend(self.said.iter().map(|&id| Row::Token(id)));
        self.n_shared = 0;
        self.last = None;
        self.runner = Some(model.take_runner());
        self.model = model;
        Ok(())
    }

    /// The last rows of the prompt, and the token behind them.
    fn first_token(&mut self) -> Result<Option<(u32, f32)>> {
        self.in_turn(|stream, runner| {
            let done = stream.session.rows.len();
            let x = stream.embed(runner, done..stream.prompt.len())?;
            let started = Instant::now();
            let _span = trace::span("prefill");
            let draw = stream.next_draw();
            let state = stream.session.reserve(runner, stream.room())?;
            let chosen = runner.next_tokens(&mut [state], &x, &[draw])?;
            let (token, logprob) = (chosen.tokens.first(), chosen.logprobs.first());
            let chosen = token.copied().zip(logprob.copied());
            stream
                .session
                .rows
                .extend_from_slice(&stream.prompt[done..]);
            stream.timings.prefill += started.elapsed().as_secs_f64();
            if let Some(started) = stream.started.filter(|_| stream.said.is_empty()) {
                stream.timings.first_token = started.elapsed().as_secs_f64();
            }
            stream.model.steps().join();
            stream.has_joined = true;
            Ok(chosen)
        })
    }

    /// A step, maybe together with other conversations.
    fn token_behind(&mut self, last: u32) -> Result<Option<(u32, f32)>> {
        self.with_runner(|stream, runner| {
            let _span = trace::span("step");
            let mut row = Vec::new();
            stream.model.model().embed(last, &mut row);
            let draw = stream.next_draw();
            stream
                .session
                .reserve(runner, stream.session.rows.len() + 1)?;
            let Some(state) = stream.session.state.take() else {
                return Ok(None);
            };
            let turns = stream.job.as_mut().map(|job| (job, &stream.control));
            let steps = stream.model.steps();
            let (mut state, chosen) = steps.step(state, row.clone(), draw, turns);
            let chosen = match chosen {
                // What failed for others need not fail here.
                Ok(None) => {
                    let job = stream.job.as_mut();
                    let turn = job.map(|job| job.turn(&stream.control)).transpose();
                    turn.and_then(|_turn| {
                        let started = Instant::now();
                        let chosen = runner.next_tokens(&mut [&mut state], &row, &[draw])?;
                        let (token, logprob) = (chosen.tokens.first(), chosen.logprobs.first());
                        stream.timings.decode += started.elapsed().as_secs_f64();
                        Ok(token.copied().zip(logprob.copied()))
                    })
                }
                chosen => chosen.map(|chosen| {
                    let chosen = chosen?;
                    stream.timings.decode += chosen.time.as_secs_f64();
                    Some((chosen.token, chosen.logprob))
                }),
            };
            stream.session.state = Some(state);
            let chosen = chosen?;
            stream.session.rows.push(Row::Token(last));
            Ok(chosen)
        })
    }

    /// Every token is drawn with noise of its own.
    fn next_draw(&self) -> Draw {
        let number = self.said.len() as u64;
        Draw {
            seed: (self.draw.seed).wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            ..self.draw
        }
    }

    /// Positions that the prompt and the beginning of the answer take.
    fn room(&self) -> usize {
        self.prompt.len() + self.max_tokens.min(ROOM)
    }

    /// Work while the device belongs to this conversation.
    fn in_turn<T>(&mut self, work: impl FnOnce(&mut Self, &mut Runner) -> Result<T>) -> Result<T> {
        let Some(mut job) = self.job.take() else {
            return self.with_runner(work);
        };
        let done = match job.turn(&self.control) {
            Ok(_turn) => self.with_runner(work),
            Err(error) => Err(error),
        };
        self.job = Some(job);
        done
    }

    fn with_runner<T>(
        &mut self,
        work: impl FnOnce(&mut Self, &mut Runner) -> Result<T>,
    ) -> Result<T> {
        self.control.check()?;
        self.started.get_or_insert_with(Instant::now);
        let Some(mut runner) = self.runner.take() else {
            return Err(Error::Cancelled);
        };
        let result = work(self, &mut runner);
        match &result {
            Ok(_) => self.runner = Some(runner),
            // Steps that failed are not used again.
            Err(_) => self.session.settle(),
        }
        result
    }

    /// The vectors of rows of the prompt, `[rows, dim]`.
    fn embed(&mut self, runner: &mut Runner, range: std::ops::Range<usize>) -> Result<Vec<f32>> {
        let dim = self.model.config().decoder.dim;
        let per_chunk = self.model.config().tokens_per_chunk();
        let mut x = Vec::with_capacity(range.len() * dim);
        for position in range {
            match self.prompt[position] {
                Row::Token(id) => self.model.model().embed(id, &mut x),
                Row::Audio { clip, index } => {
                    let (chunk, index) = (index as usize / per_chunk, index as usize % per_chunk);
                    if self.hearing.chunk != Some((clip, chunk)) {
                        self.hear(runner, clip, chunk)?;
                    }
                    x.extend_from_slice(&self.hearing.vectors[index * dim..][..dim]);
                }
            }
        }
        Ok(x)
    }

    /// Encode a chunk of a clip.
    fn hear(&mut self, runner: &mut Runner, number: u32, chunk: usize) -> Result<()> {
        self.control.check()?;
        let config = self.model.config();
        let frames = config.frames_per_chunk();
        let hearing = &mut self.hearing;
        let mel = match hearing.mel.take() {
            Some((known, mel)) if known == number => mel,
            _ => {
                let started = Instant::now();
                let _span = trace::span("mel");
                let samples = self
                    .session
                    .clip(number)
                    .map_or(&[][..], |clip| clip.samples());
                let padded = config.n_chunks(samples.len()) * config.samples_per_chunk();
                let log_mel = self.model.log_mel();
                let threads = self.model.threads();
                let mel = log_mel.compute_with_threads(samples, padded - samples.len(), threads);
                self.timings.features += started.elapsed().as_secs_f64();
                mel
            }
        };
        let window = mel.window(chunk * frames, frames, 0.0);
        hearing.mel = Some((number, mel));
        let constant = window.first().copied();
        let constant = constant.filter(|first| window.iter().all(|value| value == first));
        let started = Instant::now();
        match (&hearing.silence, constant) {
            // The encoder sees one chunk at a time and nothing else: the same chunk becomes the same vectors.
            (Some((value, vectors)), Some(constant)) if *value == constant => {
                hearing.vectors.clone_from(vectors);
            }
            _ => {
                hearing.vectors.clear();
                hearing.vectors.extend_from_slice(runner.encode(&window)?);
                hearing.silence = match constant {
                    Some(value) => Some((value, hearing.vectors.clone())),
                    None => hearing.silence.take(),
                };
            }
        }
        hearing.chunk = Some((number, chunk));
        self.timings.encoder += started.elapsed().as_secs_f64();
        self.timings.chunks += 1;
        Ok(())
    }
}

impl Drop for TokenStream<'_> {
    fn drop(&mut self) {
        self.leave();
        self.session.settle();
        if let Some(runner) = self.runner.take() {
            self.model.give_back(runner);
        }
    }
}
