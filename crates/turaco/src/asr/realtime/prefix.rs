//! The silence in front of every stream: the same for all, so it is computed once per model and delay.

use crate::Result;
use crate::features::LogMelStream;
use crate::models::voxtral_realtime::{DecoderState, EncoderState, Rows, Runner};

use super::recognizer::RealtimeRecognizer;

/// Most positions that go through the decoder of a session at once.
pub(super) const MAX_ROWS: usize = 16;

/// The audio side of a stream that has heard nothing but the silence in front.
#[derive(Debug)]
pub(super) struct SilentStart {
    pub stream: LogMelStream,
    /// Frames that are no whole token yet.
    pub frames: Vec<f32>,
    pub encoder: EncoderState,
    /// Audio vectors of the silence that no sound can change.
    pub vectors: Vec<f32>,
}

/// The text side of a stream after those vectors.
#[derive(Debug)]
pub(super) struct SilentPrompt {
    pub decoder: DecoderState,
}

impl SilentStart {
    pub fn new(recognizer: &RealtimeRecognizer, runner: &mut Runner) -> Result<Self> {
        let config = recognizer.config();
        let log_mel = recognizer.log_mel();
        let mut stream = log_mel.stream();
        let mut frames = Vec::new();
        let silence = vec![0.0; config.n_left_pad * config.samples_per_token()];
        log_mel.push(&mut stream, &silence, &mut frames);
        let per_token = config.frames_per_token() * config.n_mels;
        let whole = frames.len() / per_token * per_token;
        let mut encoder = runner.new_encoder_beginning(whole / per_token)?;
        let vectors = runner
            .encode(&mut [&mut encoder], &frames[..whole])?
            .to_vec();
        frames.drain(..whole);
        Ok(Self {
            stream,
            frames,
            encoder,
            vectors,
        })
    }
}

impl SilentPrompt {
    pub fn new(
        recognizer: &RealtimeRecognizer,
        runner: &mut Runner,
        delay: usize,
        vectors: &[f32],
    ) -> Result<Self> {
        let control = recognizer.control();
        let dim = recognizer.config().decoder.dim;
        let mut tokens = vec![control.pad; vectors.len() / dim];
        let mut decoder = runner.new_decoder_beginning(delay, tokens.len())?;
        if let Some(first) = tokens.first_mut() {
            *first = control.start;
        }
        let rows = Rows {
            audio: vectors,
            tokens: &tokens,
            candidates: 0,
            every: false,
        };
        runner.decode(&mut [&mut decoder], rows)?;
        Ok(Self { decoder })
    }
}
