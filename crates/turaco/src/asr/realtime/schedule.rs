//! The order of the work: encode what is ready, then bring every text as far as its sound goes, sessions side by side.

use std::mem::take;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::models::voxtral_realtime::{DecoderState, EncoderState, Rows, Runner, VoxtralRealtime};
use crate::recycle::recycle;
use crate::trace;
use crate::{Error, Result};

use super::prefix::MAX_ROWS;
use super::recognizer::RealtimeRecognizer;
use super::session::RealtimeSession;
use super::track::{CANDIDATES, Candidates};

/// Advances several sessions of one model together: each run of the encoder and each step of the decoder reads the weights
/// once for all of them.
#[derive(Debug)]
pub struct RealtimeBatch {
    recognizer: Arc<RealtimeRecognizer>,
}

impl RealtimeBatch {
    /// For sessions of this model.
    pub fn new(recognizer: &Arc<RealtimeRecognizer>) -> Self {
        Self {
            recognizer: Arc::clone(recognizer),
        }
    }

    /// Do all the work that the sound fed so far allows; the sessions hold the events.
    ///
    /// # Errors
    /// A session of another model, or a failed device.
    pub fn advance(&self, sessions: &mut [&mut RealtimeSession]) -> Result<()> {
        if let Some(stranger) = sessions
            .iter()
            .find(|session| !Arc::ptr_eq(&session.recognizer, &self.recognizer))
        {
            return Err(Error::InvalidOption {
                option: "sessions",
                message: format!(
                    "one is of the model {}, not of {}",
                    stranger.recognizer.model_name(),
                    self.recognizer.model_name()
                ),
            });
        }
        let mut worker = self.recognizer.take_worker();
        let done = worker.advance(sessions);
        self.recognizer.give_back(worker);
        done
    }

    /// Bring out what some sessions (`which` are their places) have heard so far, as
    /// [`RealtimeSession::flush`] does, while the others advance too.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn flush(&self, sessions: &mut [&mut RealtimeSession], which: &[usize]) -> Result<()> {
        for &index in which {
            at(sessions, index)?.feed_silence()?;
        }
        self.advance(sessions)?;
        for &index in which {
            sessions[index].close_texts();
        }
        Ok(())
    }

    /// The end of the sound of some sessions (`which` are their places): their rest, while the others advance too.
    ///
    /// # Errors
    /// As [`advance`](Self::advance); a session that was finished, or a place where there is none.
    pub fn finish(&self, sessions: &mut [&mut RealtimeSession], which: &[usize]) -> Result<()> {
        for &index in which {
            at(sessions, index)?.feed_end()?;
        }
        self.advance(sessions)?;
        for &index in which {
            sessions[index].close_texts();
        }
        Ok(())
    }
}

fn at<'a>(
    sessions: &'a mut [&mut RealtimeSession],
    index: usize,
) -> Result<&'a mut RealtimeSession> {
    let session = sessions.get_mut(index);
    let session = session.ok_or_else(|| Error::InvalidOption {
        option: "sessions",
        message: format!("there is no session {index}"),
    })?;
    Ok(session)
}

/// What a thread works with; kept from one call to the next, so that a token takes no new memory.
#[derive(Debug)]
pub(super) struct Worker {
    pub runner: Runner,
    buffers: Buffers,
}

impl Worker {
    pub fn new(model: &Arc<VoxtralRealtime>) -> Self {
        Self {
            runner: Runner::new(model),
            buffers: Buffers::default(),
        }
    }

    /// Everything that can be done now.
    pub fn advance(&mut self, sessions: &mut [&mut RealtimeSession]) -> Result<()> {
        advance(&mut self.runner, &mut self.buffers, sessions)
    }
}

fn advance(
    runner: &mut Runner,
    buffers: &mut Buffers,
    sessions: &mut [&mut RealtimeSession],
) -> Result<()> {
    loop {
        let mut worked = encode_ready(runner, sessions, buffers)?;
        for session in sessions.iter_mut() {
            worked |= feed_prompts(runner, session, buffers)?;
        }
        while decode_batch(runner, sessions, buffers)? {
            worked = true;
        }
        if !worked {
            return Ok(());
        }
    }
}

/// Host side of steps, used again for each.
#[derive(Debug, Default)]
struct Buffers {
    audio: Vec<f32>,
    tokens: Vec<u32>,
    /// Session and track of each text of a batch.
    texts: Vec<(usize, usize)>,
    /// The best token of each row.
    best: Vec<u32>,
    /// Pieces of sound to encode.
    pieces: Vec<Piece>,
    frames: Vec<f32>,
    /// Always empty between steps.
    decoders: Vec<&'static mut DecoderState>,
    encoders: Vec<&'static mut EncoderState>,
}

/// Sound to encode. Those that can share a run stand side by side when sorted, in the order of their sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    has_begun: bool,
    len: usize,
    session: usize,
}

impl Piece {
    fn is_like(&self, other: &Self) -> bool {
        (self.has_begun, self.len) == (other.has_begun, other.len)
    }
}

/// The next piece of every session that has one ready; those of equal length share runs of the encoder. False if there is none.
fn encode_ready(
    runner: &mut Runner,
    sessions: &mut [&mut RealtimeSession],
    buffers: &mut Buffers,
) -> Result<bool> {
    buffers.pieces.clear();
    let ready = sessions.iter().enumerate().map(|(which, session)| Piece {
        has_begun: session.encoder_has_begun(),
        len: session.frames_ready(),
        session: which,
    });
    buffers.pieces.extend(ready.filter(|piece| piece.len > 0));
    buffers.pieces.sort_unstable();
    let config = runner.model().config();
    let per_token = config.frames_per_token() * config.n_mels;
    let mut done = 0;
    while let Some(first) = buffers.pieces.get(done) {
        let rest = buffers.pieces[done..].iter();
        let alike = rest.take_while(|piece| piece.is_like(first)).count();
        let count = runner.streams_at_once(first.len / per_token, alike);
        let together = done..done + count;
        encode_together(runner, sessions, buffers, together)?;
        done += count;
    }
    Ok(done > 0)
}

/// One run of the encoder for some of the pieces, which are equally long.
fn encode_together(
    runner: &mut Runner,
    sessions: &mut [&mut RealtimeSession],
    buffers: &mut Buffers,
    together: Range<usize>,
) -> Result<()> {
    let started = Instant::now();
    let pieces = &buffers.pieces[together];
    let mut encoders: Vec<&mut EncoderState> = recycle(take(&mut buffers.encoders));
    buffers.frames.clear();
    // Both go up by the session.
    let mut next = pieces.iter().peekable();
    for (which, session) in sessions.iter_mut().enumerate() {
        if let Some(piece) = next.next_if(|piece| piece.session == which) {
            let frames = &session.frames[..piece.len];
            buffers.frames.extend_from_slice(frames);
            encoders.push(&mut session.encoder);
        }
    }
    let vectors = runner.encode(&mut encoders, &buffers.frames);
    buffers.encoders = recycle(encoders);
    let vectors = vectors?;
    let seconds = started.elapsed().as_secs_f64();
    let each = vectors.len() / pieces.len().max(1);
    let share = 1.0 / pieces.len().max(1) as f64;
    for (piece, vectors) in pieces.iter().zip(vectors.chunks_exact(each)) {
        sessions[piece.session].encoded(piece.len, vectors, seconds, share);
    }
    Ok(())
}

fn candidates(session: &RealtimeSession) -> usize {
    match session.plan.alternatives {
        Some(_) => CANDIDATES,
        None => 1,
    }
}

/// Prompts: the tokens are known, so many positions go in at once.
fn feed_prompts(
    runner: &mut Runner,
    session: &mut RealtimeSession,
    buffers: &mut Buffers,
) -> Result<bool> {
    let mut worked = false;
    for index in 0..session.tracks.len() {
        loop {
            let track = &session.tracks[index];
            let n_vectors = session.n_vectors();
            let prompt_len = session.recognizer.prompt_len(track.decoder.delay());
            let left = track.prompt_left(prompt_len);
            if left == 0 || track.n_ready(n_vectors) == 0 {
                break;
            }
            let started = Instant::now();
            let _span = trace::span("prefill");
            let count = left.min(track.n_ready(n_vectors)).min(MAX_ROWS);
            buffers.tokens.clear();
            track.tokens(count, &session.recognizer, &mut buffers.tokens);
            buffers.audio.clear();
            let audio = session.vectors_from(track.next, count);
            buffers.audio.extend_from_slice(audio);
            let is_last = count == left;
            let rows = Rows {
                audio: &buffers.audio,
                tokens: &buffers.tokens,
                candidates: if is_last { candidates(session) } else { 0 },
                every: false,
            };
            let decoder: &mut DecoderState = &mut session.tracks[index].decoder;
            let chosen = runner.decode(&mut [decoder], rows)?;
            if is_last {
                let candidates = Candidates {
                    tokens: chosen.tokens,
                    logprobs: chosen.logprobs,
                };
                session.choose(index, count, &candidates);
            } else {
                session.tracks[index].advance(count);
            }
            session.add_prefill(started.elapsed().as_secs_f64());
            worked = true;
        }
    }
    Ok(worked)
}

/// The next position of as many texts as one step takes, and more where tokens can be guessed; false if
/// there is none.
fn decode_batch(
    runner: &mut Runner,
    sessions: &mut [&mut RealtimeSession],
    buffers: &mut Buffers,
) -> Result<bool> {
    buffers.texts.clear();
    let most = runner.rows_at_once();
    let mut wanted = 1;
    let mut each = most;
    for (which, session) in sessions.iter().enumerate() {
        for (index, track) in session.tracks.iter().enumerate() {
            let prompt_len = session.recognizer.prompt_len(track.decoder.delay());
            let is_prompt = track.prompt_left(prompt_len) > 0;
            let ready = track.n_ready(session.n_vectors());
            if is_prompt || ready == 0 {
                continue;
            }
            buffers.texts.push((which, index));
            let guesses = track.n_guesses().min(session.plan.guesses);
            each = each.min(ready).min(1 + guesses);
            wanted = wanted.max(candidates(session));
        }
    }
    if buffers.texts.is_empty() {
        return Ok(false);
    }
    let texts = runner.texts_at_once(buffers.texts.len());
    buffers.texts.truncate(texts);
    each = each.min((most / texts).max(1));
    let started = Instant::now();
    let _span = trace::span("step");
    buffers.audio.clear();
    buffers.tokens.clear();
    for &(which, index) in &buffers.texts {
        let session = &sessions[which];
        let track = &session.tracks[index];
        track.guesses(each - 1, &session.recognizer, &mut buffers.tokens);
        let audio = session.vectors_from(track.next, each);
        buffers.audio.extend_from_slice(audio);
    }
    let mut decoders: Vec<&mut DecoderState> = recycle(take(&mut buffers.decoders));
    // Both go up by the session.
    let mut next = buffers.texts.iter().peekable();
    for (which, session) in sessions.iter_mut().enumerate() {
        for (index, track) in session.tracks.iter_mut().enumerate() {
            if next.next_if(|&&text| text == (which, index)).is_some() {
                decoders.push(&mut track.decoder);
            }
        }
    }
    let rows = Rows {
        audio: &buffers.audio,
        tokens: &buffers.tokens,
        candidates: wanted,
        every: true,
    };
    let chosen = runner.decode(&mut decoders, rows);
    buffers.decoders = recycle(decoders);
    let chosen = chosen?;
    let n_rows = buffers.tokens.len();
    let per_row = chosen.tokens.len() / n_rows;
    buffers.best.clear();
    let best = chosen.tokens.iter().step_by(per_row);
    buffers.best.extend(best);
    let share = started.elapsed().as_secs_f64() / buffers.texts.len() as f64;
    for (text, &(which, index)) in buffers.texts.iter().enumerate() {
        let rows = text * each..(text + 1) * each;
        let session = &mut sessions[which];
        let recognizer = Arc::clone(&session.recognizer);
        let track = &mut session.tracks[index];
        let kept = track.verify(
            &buffers.tokens[rows.clone()],
            &buffers.best[rows.clone()],
            &recognizer,
        );
        for row in rows.take(kept) {
            let candidates = Candidates {
                tokens: &chosen.tokens[row * per_row..][..per_row],
                logprobs: &chosen.logprobs[row * per_row..][..per_row],
            };
            session.choose(index, 1, &candidates);
        }
        session.add_decoder_step(share);
    }
    Ok(true)
}
