//! From one probability per chunk to spans of speech, for whole files.
//!
//! The rules are those of `get_speech_timestamps_from_probs` in the package `silero-vad` 6.2
//! (`src/silero_vad/utils_vad.py`). faster-whisper 1.2.1 (`faster_whisper/vad.py`) keeps an older version of them, which
//! is the same with [`LongSpeechCut::LatestSilence`].

use super::vad::SpeechParameters;

/// Where speech that lasts too long is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LongSpeechCut {
    /// In the longest silence so far; without one, where the limit was reached. silero-vad 6.2.
    #[default]
    LongestSilence,
    /// In the latest silence; without one, where the limit was reached. silero-vad 5 and faster-whisper.
    LatestSilence,
}

/// The state machine. Positions are in samples; a span is `(start, end)`.
#[derive(Debug)]
pub(super) struct Segmenter<'a> {
    parameters: &'a SpeechParameters,
    sample_rate: u32,
    chunk_len: usize,
    /// Start of the next chunk.
    position: usize,
    /// Start of the open span.
    start: Option<usize>,
    /// Where the silence began that lasts up to now inside the open span.
    silence_start: Option<usize>,
    /// Longest finished silence of the open span, `(start, length)`; only for `LongestSilence`.
    longest_silence: Option<(usize, usize)>,
    /// Start of the latest silence long enough to cut in, and where speech went on; only for `LatestSilence`.
    latest_silence: Option<usize>,
    resumed: Option<usize>,
    spans: Vec<(usize, usize)>,
}

impl<'a> Segmenter<'a> {
    pub(super) fn new(
        parameters: &'a SpeechParameters,
        sample_rate: u32,
        chunk_len: usize,
    ) -> Self {
        Self {
            parameters,
            sample_rate,
            chunk_len,
            position: 0,
            start: None,
            silence_start: None,
            longest_silence: None,
            latest_silence: None,
            resumed: None,
            spans: Vec::new(),
        }
    }

    /// Take the probability of the next chunk.
    pub(super) fn push(&mut self, probability: f32) {
        let probability = f64::from(probability);
        let position = self.position;
        self.position += self.chunk_len;
        let is_speech = probability >= self.parameters.threshold;

        if is_speech && let Some(silence_start) = self.silence_start.take() {
            self.note_silence(silence_start, position);
        }
        let Some(start) = self.start else {
            if is_speech {
                self.start = Some(position);
            }
            return;
        };
        if (position - start) as f64 > self.longest_speech() {
            self.cut_long_speech(start, position);
        }
        if let Some(start) = self.start
            && probability < self.parameters.neg_threshold
        {
            let silence_start = *self.silence_start.get_or_insert(position);
            let silence = position - silence_start;
            if silence > self.shortest_cut()
                && self.parameters.long_speech_cut == LongSpeechCut::LatestSilence
            {
                self.latest_silence = Some(silence_start);
            }
            if silence >= self.samples(self.parameters.min_silence_ms) {
                if silence_start - start > self.samples(self.parameters.min_speech_ms) {
                    self.spans.push((start, silence_start));
                }
                self.restart_at(None);
            }
        }
    }

    /// Close the last span and add the padding.
    pub(super) fn finish(mut self, n_samples: usize) -> Vec<(usize, usize)> {
        if let Some(start) = self.start
            && n_samples.saturating_sub(start) > self.samples(self.parameters.min_speech_ms)
        {
            self.spans.push((start, n_samples));
        }
        let pad = self.samples(self.parameters.speech_pad_ms);
        pad_spans(&mut self.spans, pad, n_samples);
        self.spans
    }

    /// Speech goes on at `position` after a silence.
    fn note_silence(&mut self, silence_start: usize, position: usize) {
        let length = position - silence_start;
        match self.parameters.long_speech_cut {
            LongSpeechCut::LongestSilence => {
                if length > self.shortest_cut()
                    && self
                        .longest_silence
                        .is_none_or(|(_, longest)| length > longest)
                {
                    self.longest_silence = Some((silence_start, length));
                }
            }
            LongSpeechCut::LatestSilence => {
                if let Some(latest) = self.latest_silence
                    && self.resumed.is_none_or(|resumed| resumed < latest)
                {
                    self.resumed = Some(position);
                }
            }
        }
    }

    fn cut_long_speech(&mut self, start: usize, position: usize) {
        if let Some((silence_start, length)) = self.longest_silence {
            self.spans.push((start, silence_start));
            self.restart_at(Some(silence_start + length));
        } else if let Some(silence_start) = self.latest_silence {
            self.spans.push((start, silence_start));
            let resumed = self.resumed.filter(|&resumed| resumed >= silence_start);
            self.restart_at(resumed);
        } else {
            self.spans.push((start, position));
            self.restart_at(None);
        }
    }

    fn restart_at(&mut self, start: Option<usize>) {
        self.start = start;
        self.silence_start = None;
        self.longest_silence = None;
        self.latest_silence = None;
        self.resumed = None;
    }

    fn samples(&self, milliseconds: u32) -> usize {
        // At 8 and 16 kHz a millisecond is a whole number of samples.
        let samples = u64::from(milliseconds) * u64::from(self.sample_rate) / 1000;
        usize::try_from(samples).unwrap_or(usize::MAX)
    }

    /// Silences up to this length are no place to cut.
    fn shortest_cut(&self) -> usize {
        self.samples(self.parameters.min_silence_at_max_speech_ms)
    }

    /// Longer speech is cut; room is left for the padding. Can be negative.
    fn longest_speech(&self) -> f64 {
        f64::from(self.sample_rate) * self.parameters.max_speech_s
            - self.chunk_len as f64
            - 2.0 * self.samples(self.parameters.speech_pad_ms) as f64
    }
}

/// Widen every span by `pad` on both sides; neighbours with less than `2 * pad` between them share the gap.
fn pad_spans(spans: &mut [(usize, usize)], pad: usize, n_samples: usize) {
    if let Some(first) = spans.first_mut() {
        first.0 = first.0.saturating_sub(pad);
    }
    for i in 1..spans.len() {
        let gap = spans[i].0 - spans[i - 1].1;
        if gap < pad.saturating_mul(2) {
            spans[i - 1].1 += gap / 2;
            spans[i].0 -= gap / 2;
        } else {
            spans[i - 1].1 += pad;
            spans[i].0 -= pad;
        }
    }
    if let Some(last) = spans.last_mut() {
        last.1 = last.1.saturating_add(pad).min(n_samples);
    }
}
