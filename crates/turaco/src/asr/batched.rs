//! Batched mode: independent windows of speech, several at once.
//!
//! Follows `BatchedInferencePipeline` of faster-whisper 1.2.1: speech is packed into windows, each is decoded without
//! the text of the others, by default without timestamps.

use std::collections::VecDeque;
use std::time::Instant;

use crate::features::LogMel;
use crate::models::whisper::Window;
use crate::tokenizer::WhisperTokenizer;
use crate::{Control, Result, trace};

use super::fallback::{decode_with_fallback, is_silence, search_options};
use super::language::Spoken;
use super::long_form::{FRAMES_PER_SECOND, Span, cut_segments, pad_rows};
use super::timings::Timings;
use super::token_rules::TokenRules;
use super::vad_time_map::{SpeechChunk, TimeMap, collect_speech};
use super::window_decoder::Prompt;
use super::window_prompt::PromptTemplate;
use super::words::Aligner;
use super::workspace::Workspace;
use super::{Segment, TranscribeOptions};

/// Zeros behind each chunk, as faster-whisper.
const PADDING: usize = 160;

/// The state of a batched transcription.
#[derive(Debug)]
pub(super) struct Batched<'a> {
    pub tokenizer: &'a WhisperTokenizer,
    pub alignment_heads: &'a [(usize, usize)],
    pub log_mel: &'a LogMel,
    pub options: TranscribeOptions,
    pub control: Control,
    /// 16 kHz.
    pub samples: Vec<f32>,
    pub chunks: VecDeque<SpeechChunk>,
    pub time_map: TimeMap,
    pub rules: TokenRules,
    pub prompts: PromptTemplate,
    pub spoken: Spoken,
    pub duration: f64,
    pub n_segments: usize,
    /// The prefix belongs to the first window only.
    pub started: bool,
}

impl Batched<'_> {
    /// Decode the next batch; `None` at the end. After an error the same batch is the next one again.
    pub fn next_batch(
        &mut self,
        workspace: &mut Workspace,
        timings: &mut Timings,
    ) -> Result<Option<Vec<Segment>>> {
        let first = !self.started;
        let mut n = self.chunks.len().min(self.options.batch_size);
        if first && self.prompts.has_prefix() {
            // Prompts that are decoded together have the same length.
            n = n.min(1);
        }
        if n == 0 {
            return Ok(None);
        }
        self.control.check()?;
        let chunks: Vec<SpeechChunk> = self.chunks.drain(..n).collect();
        let n_segments = self.n_segments;
        let decoded = self.decode_batch(workspace, timings, &chunks, first);
        match &decoded {
            Ok(_) => self.started = true,
            Err(_) => {
                self.n_segments = n_segments;
                for chunk in chunks.into_iter().rev() {
                    self.chunks.push_front(chunk);
                }
            }
        }
        decoded
    }

    fn decode_batch(
        &mut self,
        workspace: &mut Workspace,
        timings: &mut Timings,
        chunks: &[SpeechChunk],
        first: bool,
    ) -> Result<Option<Vec<Segment>>> {
        let n = chunks.len();
        let n_ctx_frames = 2 * workspace.session.model().config().n_audio_ctx;
        let started = Instant::now();
        let cut = trace::span("window");
        let mut features = Vec::with_capacity(n * self.log_mel.n_mels() * n_ctx_frames);
        for chunk in chunks {
            self.control.check()?;
            let speech = collect_speech(&self.samples, &chunk.spans);
            let mel = {
                let _span = trace::span("mel");
                self.log_mel.compute(&speech, PADDING)
            };
            let n_frames = mel.n_frames.saturating_sub(1).min(n_ctx_frames);
            features.extend(pad_rows(
                mel.window(0, n_frames, 0.0),
                n_frames,
                n_ctx_frames,
            ));
        }
        drop(cut);
        timings.features += started.elapsed().as_secs_f64();

        let started = Instant::now();
        while workspace.windows.len() < n {
            let window = workspace.session.new_window()?;
            workspace.windows.push(window);
        }
        let mut windows: Vec<&mut Window> = workspace.windows[..n].iter_mut().collect();
        self.control.check()?;
        workspace.session.encode(&features, &mut windows)?;
        self.control.check()?;
        timings.encoder += started.elapsed().as_secs_f64();

        let started = Instant::now();
        let windows: Vec<&Window> = workspace.windows[..n].iter().collect();
        let mut spoken = vec![self.spoken.clone(); n];
        for (spoken, window) in spoken.iter_mut().zip(&windows) {
            spoken.listen(&mut workspace.session, self.tokenizer, window)?;
        }
        let prompts: Vec<Prompt> = spoken
            .iter()
            .map(|spoken| {
                self.prompts.prompt(
                    &spoken.sot_sequence,
                    self.tokenizer,
                    self.prompts.initial(),
                    0,
                    first,
                )
            })
            .collect();
        let temperature = self.options.temperature.first().copied().unwrap_or(0.0);
        let seed = self.options.seed ^ (chunks[0].offset * FRAMES_PER_SECOND) as u64;
        let search = search_options(
            &self.options,
            temperature,
            &self.rules,
            &prompts[0],
            seed,
            &workspace.session,
        );
        let decoded = workspace.decoder.decode(
            &mut workspace.session,
            self.tokenizer,
            &windows,
            &prompts,
            &search,
            &self.control,
        )?;
        timings.windows += n;

        let mut all = Vec::new();
        for (i, (chunk, first)) in chunks.iter().zip(decoded).enumerate() {
            let seek = (chunk.offset * FRAMES_PER_SECOND) as usize;
            let decoded = decode_with_fallback(
                &mut workspace.decoder,
                &mut workspace.session,
                self.tokenizer,
                &workspace.windows[i],
                &prompts[i],
                &self.rules,
                &self.options,
                (Some(first), seek as u64),
                &self.control,
            )?;
            timings.tokens += decoded.tokens.len();
            let _span = trace::span("assemble");
            if is_silence(&decoded, &self.options) {
                continue;
            }
            let n_frames = (chunk.duration * FRAMES_PER_SECOND).ceil() as usize;
            let span = Span::new(seek, n_frames, chunk.offset, chunk.duration);
            let mut segments = cut_segments(&decoded, self.tokenizer, span).segments;
            if self.options.word_timestamps {
                let aligner = Aligner {
                    heads: self.alignment_heads,
                    tokenizer: self.tokenizer,
                    sot_sequence: &spoken[i].sot_sequence,
                    language: &spoken[i].language,
                    options: &self.options,
                };
                let mut last_speech = 0.0;
                aligner.add_words(
                    &mut workspace.session,
                    &workspace.windows[i],
                    &mut segments,
                    n_frames.min(n_ctx_frames),
                    &mut last_speech,
                )?;
            }
            for mut segment in segments {
                if segment.text.trim().is_empty() {
                    continue;
                }
                self.time_map.restore(&mut segment);
                segment.end = segment.end.min(self.duration);
                segment.id = self.n_segments;
                self.n_segments += 1;
                all.push(segment);
            }
        }
        timings.decoder += started.elapsed().as_secs_f64();
        Ok(Some(all))
    }

    /// Seconds of the file up to the next chunk.
    pub fn progress(&self) -> (f64, f64) {
        let next = self.chunks.front().and_then(|chunk| chunk.spans.first());
        (next.map_or(self.duration, |span| span.start), self.duration)
    }
}
