//! Audio of any length, one window after the other.
//!
//! Follows the main loop of openai-whisper's `transcribe.py`: each window starts where the last complete segment of
//! the one before ended, and sees the text so far.

use std::time::Instant;

use crate::Control;
use crate::Result;
use crate::features::Mel;
use crate::tokenizer::WhisperTokenizer;
use crate::trace;

use super::fallback::{decode_with_fallback, is_silence};
use super::language::Spoken;
use super::timings::Timings;
use super::token_rules::{TIME_PRECISION, TokenRules};
use super::window_decoder::Decoded;
use super::window_prompt::PromptTemplate;
use super::words::{Aligner, is_anomalous};
use super::workspace::Workspace;
use super::{Segment, TranscribeOptions};

/// Mel frames per second.
pub(super) const FRAMES_PER_SECOND: f64 = 100.0;

/// The state of a transcription between two windows.
#[derive(Debug)]
pub(super) struct LongForm<'a> {
    pub tokenizer: &'a WhisperTokenizer,
    pub alignment_heads: &'a [(usize, usize)],
    pub options: TranscribeOptions,
    pub control: Control,
    pub mel: Mel,
    /// Frames of the mel that stem from the file; the rest is padding.
    pub content_frames: usize,
    /// Frames that a window takes from the file, at most the encoder's.
    pub window_frames: usize,
    /// Stretches to decode, in frames.
    pub clips: Vec<(usize, usize)>,
    pub rules: TokenRules,
    pub prompts: PromptTemplate,
    pub spoken: Spoken,
    progress: Position,
}

/// Where a transcription is.
#[derive(Debug, Clone, Default)]
struct Position {
    clip: usize,
    seek: usize,
    started: bool,
    n_segments: usize,
    all_tokens: Vec<u32>,
    prompt_reset_since: usize,
    last_speech: f64,
}

/// One window: where it is and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// In mel frames.
    seek: usize,
    n_frames: usize,
    /// In seconds.
    time_offset: f64,
    duration: f64,
}

impl Span {
    pub fn new(seek: usize, n_frames: usize, time_offset: f64, duration: f64) -> Self {
        Self {
            seek,
            n_frames,
            time_offset,
            duration,
        }
    }

    fn of_frames(seek: usize, n_frames: usize) -> Self {
        // The reference's order of operations: times are compared to the last bit.
        let seconds = |frames: usize| (frames * 160) as f64 / 16000.0;
        Self::new(seek, n_frames, seconds(seek), seconds(n_frames))
    }
}

impl<'a> LongForm<'a> {
    #[expect(
        clippy::too_many_arguments,
        reason = "the one place that puts a transcription together"
    )]
    pub fn new(
        tokenizer: &'a WhisperTokenizer,
        alignment_heads: &'a [(usize, usize)],
        options: TranscribeOptions,
        control: Control,
        (mel, content_frames): (Mel, usize),
        (rules, prompts): (TokenRules, PromptTemplate),
        spoken: Spoken,
        n_window_frames: usize,
    ) -> Self {
        let clips = clip_frames(&options.clip_timestamps, content_frames);
        let window_frames = options
            .chunk_length
            .map_or(n_window_frames, |s| (s * FRAMES_PER_SECOND) as usize)
            .clamp(1, n_window_frames);
        let progress = Position {
            all_tokens: prompts.initial().to_vec(),
            ..Position::default()
        };
        Self {
            tokenizer,
            alignment_heads,
            options,
            control,
            mel,
            content_frames,
            window_frames,
            clips,
            rules,
            prompts,
            spoken,
            progress,
        }
    }

    /// Seconds of the file that are done, and in all.
    pub fn progress(&self) -> (f64, f64) {
        let total = self.content_frames as f64 / FRAMES_PER_SECOND;
        (
            (self.progress.seek as f64 / FRAMES_PER_SECOND).min(total),
            total,
        )
    }

    /// Decode the next window; `None` at the end. A window can give no segments. After an error the same window is the
    /// next one again.
    pub fn next_window(
        &mut self,
        workspace: &mut Workspace,
        timings: &mut Timings,
    ) -> Result<Option<Vec<Segment>>> {
        let before = self.progress.clone();
        let decoded = self.decode_window(workspace, timings);
        if decoded.is_err() {
            self.progress = before;
        }
        decoded
    }

    fn decode_window(
        &mut self,
        workspace: &mut Workspace,
        timings: &mut Timings,
    ) -> Result<Option<Vec<Segment>>> {
        let Some(span) = self.next_span() else {
            return Ok(None);
        };
        self.control.check()?;
        let n_ctx_frames = 2 * workspace.session.model().config().n_audio_ctx;
        let started = Instant::now();
        let cut = trace::span("window");
        let features = self.mel.window(span.seek, span.n_frames, 0.0);
        let features = pad_rows(features, span.n_frames, n_ctx_frames);
        drop(cut);
        workspace.encode(features)?;
        timings.encoder += started.elapsed().as_secs_f64();

        let started = Instant::now();
        let (session, _, window) = workspace.parts();
        self.spoken.listen(session, self.tokenizer, window)?;
        let position = &self.progress;
        let prompt = self.prompts.prompt(
            &self.spoken.sot_sequence,
            self.tokenizer,
            &position.all_tokens,
            position.prompt_reset_since,
            !position.started,
        );
        self.progress.started = true;
        let (session, decoder, window) = workspace.parts();
        let decoded = decode_with_fallback(
            decoder,
            session,
            self.tokenizer,
            window,
            &prompt,
            &self.rules,
            &self.options,
            (None, span.seek as u64),
            &self.control,
        )?;
        timings.decoder += started.elapsed().as_secs_f64();
        timings.tokens += decoded.tokens.len();
        timings.windows += 1;
        let _span = trace::span("assemble");
        if is_silence(&decoded, &self.options) {
            self.progress.seek = span.seek + span.n_frames;
            return Ok(Some(Vec::new()));
        }

        let Cut {
            mut segments,
            next_seek,
            single_timestamp_ending,
        } = cut_segments(&decoded, self.tokenizer, span);
        self.progress.seek = next_seek;
        if self.options.word_timestamps {
            let started = Instant::now();
            let skipped =
                self.add_words(workspace, &mut segments, span, single_timestamp_ending)?;
            timings.words += started.elapsed().as_secs_f64();
            if skipped {
                return Ok(Some(Vec::new()));
            }
        }
        for segment in &mut segments {
            if segment.start == segment.end || segment.text.trim().is_empty() {
                segment.text.clear();
                segment.tokens.clear();
                if let Some(words) = &mut segment.words {
                    words.clear();
                }
            }
        }
        let position = &mut self.progress;
        for segment in &mut segments {
            segment.id = position.n_segments;
            position.n_segments += 1;
            position.all_tokens.extend_from_slice(&segment.tokens);
        }
        if !self.options.condition_on_previous_text
            || decoded.temperature > self.options.prompt_reset_on_temperature
        {
            position.prompt_reset_since = position.all_tokens.len();
        }
        self.forget_old_tokens(workspace.session.model().config().n_text_ctx);
        Ok(Some(segments))
    }

    /// The next stretch to decode.
    fn next_span(&mut self) -> Option<Span> {
        let position = &mut self.progress;
        while let Some(&(start, end)) = self.clips.get(position.clip) {
            position.seek = position.seek.max(start);
            let end = end.min(self.content_frames);
            if position.seek < end {
                let n_frames = self.window_frames.min(end - position.seek);
                return Some(Span::of_frames(position.seek, n_frames));
            }
            position.clip += 1;
            if let Some(&(start, _)) = self.clips.get(position.clip) {
                position.seek = start;
            }
        }
        None
    }

    /// Word times, and the seek position that follows from them. Returns whether the window is thrown away because its
    /// beginning looks made up over silence.
    fn add_words(
        &mut self,
        workspace: &mut Workspace,
        segments: &mut Vec<Segment>,
        span: Span,
        single_timestamp_ending: bool,
    ) -> Result<bool> {
        let aligner = Aligner {
            heads: self.alignment_heads,
            tokenizer: self.tokenizer,
            sot_sequence: &self.spoken.sot_sequence,
            language: &self.spoken.language,
            options: &self.options,
        };
        let mut last_speech = self.progress.last_speech;
        let (session, _, window) = workspace.parts();
        aligner.add_words(session, window, segments, span.n_frames, &mut last_speech)?;
        let time_offset = span.time_offset;
        let after_offset =
            |segments: &[Segment]| end_of_words(segments).filter(|&e| e > time_offset);
        if !single_timestamp_ending && let Some(end) = after_offset(segments) {
            self.progress.seek = to_frames(end);
        }
        if let Some(threshold) = self.options.hallucination_silence_threshold {
            let window_end = (span.seek + self.window_frames) as f64 / FRAMES_PER_SECOND;
            if !single_timestamp_ending && let Some(end) = after_offset(segments) {
                self.progress.seek = if window_end - end > threshold {
                    to_frames(end)
                } else {
                    span.seek + span.n_frames
                };
            }
            // Leading silence before something made up: start after it.
            let first = next_with_words(segments);
            if is_anomalous(first) {
                let gap = first.map_or(0.0, |segment| segment.start) - time_offset;
                if gap > threshold {
                    self.progress.seek = span.seek + to_frames(gap);
                    return Ok(true);
                }
            }
            self.drop_hallucination(segments, span, window_end, threshold);
        }
        if let Some(end) = end_of_words(segments) {
            self.progress.last_speech = end;
        }
        Ok(false)
    }

    /// Cut off the segments from the first one that looks made up and lies between silences or other such segments.
    fn drop_hallucination(
        &mut self,
        segments: &mut Vec<Segment>,
        span: Span,
        window_end: f64,
        threshold: f64,
    ) {
        let time_offset = span.time_offset;
        let content_duration = self.content_frames as f64 / FRAMES_PER_SECOND;
        let mut last_end = self.progress.last_speech;
        for i in 0..segments.len() {
            let segment = &segments[i];
            if segment.words.as_ref().is_none_or(Vec::is_empty) {
                continue;
            }
            if is_anomalous(Some(segment)) {
                let next = next_with_words(&segments[i + 1..]);
                let next_start = next
                    .and_then(|next| next.words.as_ref()?.first())
                    .map_or(time_offset + span.duration, |word| word.start);
                let silence_before = segment.start - last_end > threshold
                    || segment.start < threshold
                    || segment.start - time_offset < 2.0;
                let silence_after = next_start - segment.end > threshold
                    || is_anomalous(next)
                    || window_end - segment.end < 2.0;
                if silence_before && silence_after {
                    self.progress.seek = to_frames((time_offset + 1.0).max(segment.start));
                    if content_duration - segment.end < threshold {
                        self.progress.seek = self.content_frames;
                    }
                    segments.truncate(i);
                    return;
                }
            }
            last_end = segment.end;
        }
    }

    /// Keep only as much text as a prompt can hold, so that memory stays flat over hours.
    fn forget_old_tokens(&mut self, n_text_ctx: usize) {
        let position = &mut self.progress;
        let n_initial = if self.options.carry_initial_prompt {
            self.prompts.initial().len()
        } else {
            0
        };
        let surplus = position
            .all_tokens
            .len()
            .saturating_sub(n_initial + 2 * n_text_ctx);
        if surplus > 0 && n_initial + surplus <= position.all_tokens.len() {
            position.all_tokens.drain(n_initial..n_initial + surplus);
            position.prompt_reset_since = position.prompt_reset_since.saturating_sub(surplus);
        }
    }
}

/// The segments of a decoded window and where the next one starts.
pub(super) struct Cut {
    pub segments: Vec<Segment>,
    next_seek: usize,
    single_timestamp_ending: bool,
}

/// Cut a window's tokens at pairs of timestamps.
pub(super) fn cut_segments(decoded: &Decoded, tokenizer: &WhisperTokenizer, span: Span) -> Cut {
    let tokens = &decoded.tokens;
    let begin = tokenizer.timestamp_begin();
    let is_timestamp = |token: u32| token >= begin;
    let seconds = |token: u32| f64::from(token - begin) * TIME_PRECISION;
    let time_offset = span.time_offset;
    let segment = |start: f64, end: f64, tokens: &[u32]| {
        let text_tokens: Vec<u32> = tokens
            .iter()
            .copied()
            .filter(|&token| token < tokenizer.eot())
            .collect();
        Segment {
            id: 0,
            seek: span.seek,
            start,
            end,
            text: tokenizer.decode(&text_tokens),
            tokens: tokens.to_vec(),
            temperature: decoded.temperature,
            avg_logprob: decoded.avg_logprob,
            compression_ratio: decoded.compression_ratio,
            no_speech_prob: decoded.no_speech_prob,
            words: None,
        }
    };
    let single_timestamp_ending = match tokens.as_slice() {
        [.., before, last] => !is_timestamp(*before) && is_timestamp(*last),
        _ => false,
    };
    let mut cuts: Vec<usize> = (1..tokens.len())
        .filter(|&i| is_timestamp(tokens[i - 1]) && is_timestamp(tokens[i]))
        .collect();
    let mut segments = Vec::with_capacity(cuts.len() + 1);
    if cuts.is_empty() {
        let last = tokens
            .iter()
            .rev()
            .copied()
            .find(|&token| is_timestamp(token));
        let duration = match last {
            Some(last) if last != begin => seconds(last),
            _ => span.duration,
        };
        segments.push(segment(time_offset, time_offset + duration, tokens));
        let next_seek = span.seek + span.n_frames;
        return Cut {
            segments,
            next_seek,
            single_timestamp_ending,
        };
    }
    if single_timestamp_ending {
        cuts.push(tokens.len());
    }
    let mut from = 0;
    for &to in &cuts {
        let slice = &tokens[from..to];
        // The user's list of suppressed tokens may forbid the opening timestamp: then it starts with the window.
        let start = if is_timestamp(slice[0]) {
            seconds(slice[0])
        } else {
            0.0
        };
        let end = seconds(slice[slice.len() - 1]);
        segments.push(segment(time_offset + start, time_offset + end, slice));
        from = to;
    }
    let next_seek = if single_timestamp_ending {
        span.seek + span.n_frames
    } else {
        // A timestamp counts encoder positions, two frames each.
        span.seek + 2 * (tokens[from - 1] - begin) as usize
    };
    Cut {
        segments,
        next_seek,
        single_timestamp_ending,
    }
}

/// `start, end, start, end, …` in seconds to frames; an open end is the end of the file.
fn clip_frames(clip_timestamps: &[f64], content_frames: usize) -> Vec<(usize, usize)> {
    let mut points: Vec<usize> = clip_timestamps
        .iter()
        .map(|&seconds| to_frames(seconds))
        .collect();
    if points.is_empty() {
        points.push(0);
    }
    if points.len() % 2 == 1 {
        points.push(content_frames);
    }
    points
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect()
}

/// Rows of `n_frames` values to rows of `n_padded`, with zeros behind: the reference pads windows in the feature
/// domain, where 0 is *not* silence.
pub(super) fn pad_rows(features: Vec<f32>, n_frames: usize, n_padded: usize) -> Vec<f32> {
    if n_frames == n_padded {
        return features;
    }
    let mut padded = vec![0.0; features.len() / n_frames.max(1) * n_padded];
    for (padded, row) in padded
        .chunks_exact_mut(n_padded)
        .zip(features.chunks_exact(n_frames))
    {
        padded[..n_frames].copy_from_slice(row);
    }
    padded
}

fn to_frames(seconds: f64) -> usize {
    (seconds * FRAMES_PER_SECOND).round_ties_even().max(0.0) as usize
}

/// End of the last word, or of the last segment if there are no words.
fn end_of_words(segments: &[Segment]) -> Option<f64> {
    let words = segments
        .iter()
        .rev()
        .filter_map(|segment| segment.words.as_ref()?.last());
    words
        .map(|word| word.end)
        .next()
        .or(segments.last().map(|segment| segment.end))
}

fn next_with_words(segments: &[Segment]) -> Option<&Segment> {
    segments.iter().find(|segment| {
        segment
            .words
            .as_ref()
            .is_some_and(|words| !words.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_are_pairs_of_frames() {
        assert_eq!(clip_frames(&[], 1100), [(0, 1100)]);
        assert_eq!(clip_frames(&[1.5, 4.25], 1100), [(150, 425)]);
        assert_eq!(
            clip_frames(&[1.5, 4.25, 6.0], 1100),
            [(150, 425), (600, 1100)]
        );
    }

    #[test]
    fn padding_keeps_rows_apart() {
        assert_eq!(
            pad_rows(vec![1.0, 2.0, 3.0, 4.0], 2, 3),
            [1.0, 2.0, 0.0, 3.0, 4.0, 0.0]
        );
    }
}
