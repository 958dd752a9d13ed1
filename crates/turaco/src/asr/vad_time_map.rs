//! Leaving silence out before recognition, and putting the times right afterwards.
//!
//! Follows faster-whisper 1.2.1: `collect_chunks` and `SpeechTimestampsMap` in `faster_whisper/vad.py`,
//! `restore_speech_timestamps` in `faster_whisper/transcribe.py`.

use super::segment::Segment;
use super::vad::Span;
use super::words::round2;

/// The samples of all spans, one after the other; what lies beyond the end of `samples` is left out.
pub fn collect_speech(samples: &[f32], spans: &[Span]) -> Vec<f32> {
    let mut speech = Vec::with_capacity(
        spans
            .iter()
            .map(Span::len)
            .sum::<usize>()
            .min(samples.len()),
    );
    for span in spans {
        let end = span.end_sample.min(samples.len());
        speech.extend_from_slice(samples.get(span.start_sample..end).unwrap_or_default());
    }
    speech
}

/// Spans that are recognised together, in one window.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeechChunk {
    /// Seconds of speech in the chunks before: where this one starts when all speech is strung together.
    pub offset: f64,
    /// Seconds of speech in this chunk.
    pub duration: f64,
    /// The spans, in order.
    pub spans: Vec<Span>,
}

/// Pack spans, in order, into as few chunks of at most `max_duration` seconds as that order allows. A span that is
/// longer itself is divided (faster-whisper would drop what is beyond its window).
pub fn pack_spans(spans: &[Span], sample_rate: u32, max_duration: f64) -> Vec<SpeechChunk> {
    let rate = f64::from(sample_rate);
    // Whole samples; a limit below one sample would never end.
    let most = (max_duration * rate).max(1.0);
    let mut chunks = Vec::new();
    let mut current: Vec<Span> = Vec::new();
    let (mut before, mut len) = (0, 0);
    let mut close = |spans: &mut Vec<Span>, len: &mut usize| {
        if !spans.is_empty() {
            chunks.push(SpeechChunk {
                offset: before as f64 / rate,
                duration: *len as f64 / rate,
                spans: std::mem::take(spans),
            });
            before += std::mem::take(len);
        }
    };
    for span in spans {
        let mut start = span.start_sample;
        while start < span.end_sample {
            let end = span.end_sample.min(start.saturating_add(most as usize));
            let piece = Span::from_samples(start, end, sample_rate);
            if (len + piece.len()) as f64 > most {
                close(&mut current, &mut len);
            }
            len += piece.len();
            current.push(piece);
            start = end;
        }
    }
    close(&mut current, &mut len);
    chunks
}

/// From time in the collected speech to time in the original file.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeMap {
    sample_rate: u32,
    /// Where each span ends in the collected speech, in samples.
    ends: Vec<usize>,
    /// Seconds left out before each span.
    silence_before: Vec<f64>,
}

impl TimeMap {
    /// The map for [`collect_speech`] with these spans.
    pub fn new(spans: &[Span], sample_rate: u32) -> Self {
        let mut ends = Vec::with_capacity(spans.len());
        let mut silence_before = Vec::with_capacity(spans.len());
        let (mut previous_end, mut silence, mut speech) = (0, 0, 0);
        for span in spans {
            silence += span.start_sample.saturating_sub(previous_end);
            previous_end = span.end_sample;
            speech += span.len();
            ends.push(speech);
            silence_before.push(silence as f64 / f64::from(sample_rate));
        }
        Self {
            sample_rate,
            ends,
            silence_before,
        }
    }

    /// Original start and end of a word: the span that holds its middle decides for both.
    pub fn word(&self, start: f64, end: f64) -> (f64, f64) {
        let span = self.span_at(f64::midpoint(start, end), false);
        (self.shift(start, span), self.shift(end, span))
    }

    /// Original start and end of a stretch that may cover several spans. An end that falls together with the end of a
    /// span belongs to that span, not to the next.
    pub fn stretch(&self, start: f64, end: f64) -> (f64, f64) {
        (
            self.shift(start, self.span_at(start, false)),
            self.shift(end, self.span_at(end, true)),
        )
    }

    /// Put the times of a segment and of its words right.
    pub fn restore(&self, segment: &mut Segment) {
        for word in segment.words.iter_mut().flatten() {
            (word.start, word.end) = self.word(word.start, word.end);
        }
        (segment.start, segment.end) = match segment.words.as_deref() {
            Some([first, .., last]) => (first.start, last.end),
            Some([only]) => (only.start, only.end),
            _ => self.stretch(segment.start, segment.end),
        };
    }

    fn span_at(&self, time: f64, is_end: bool) -> usize {
        let sample = (time * f64::from(self.sample_rate)) as usize;
        if is_end && let Ok(first) = self.ends.binary_search(&sample) {
            return first;
        }
        self.ends.partition_point(|&end| end <= sample)
    }

    /// `time` with the silence before span number `span`; behind the last span the last one counts.
    fn shift(&self, time: f64, span: usize) -> f64 {
        let silence = self.silence_before.get(span).or(self.silence_before.last());
        round2(silence.unwrap_or(&0.0) + time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asr::segment::Word;

    fn segment(start: f64, end: f64, words: Option<Vec<Word>>) -> Segment {
        Segment {
            id: 0,
            seek: 0,
            start,
            end,
            text: String::new(),
            tokens: Vec::new(),
            temperature: 0.0,
            avg_logprob: 0.0,
            compression_ratio: 0.0,
            no_speech_prob: 0.0,
            words,
        }
    }

    /// faster-whisper's own results for made-up spans, segments and words.
    #[test]
    fn times_and_chunks_equal_upstream() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../testdata/silero/time_map.json"
        );
        let cases: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for (i, case) in cases.as_array().unwrap().iter().enumerate() {
            let spans: Vec<Span> = serde_json::from_value::<Vec<[usize; 2]>>(case["spans"].clone())
                .unwrap()
                .into_iter()
                .map(|[start, end]| Span::from_samples(start, end, 16_000))
                .collect();
            let map = TimeMap::new(&spans, 16_000);
            for given in case["segments"].as_array().unwrap() {
                let words = |key: &str| {
                    serde_json::from_value::<Option<Vec<[f64; 2]>>>(given[key].clone()).unwrap()
                };
                let mut segment = segment(
                    given["start"].as_f64().unwrap(),
                    given["end"].as_f64().unwrap(),
                    words("words").map(|words| {
                        words
                            .into_iter()
                            .map(|[start, end]| Word {
                                word: String::new(),
                                start,
                                end,
                                probability: 1.0,
                            })
                            .collect()
                    }),
                );
                map.restore(&mut segment);
                let to: [f64; 2] = serde_json::from_value(given["to"].clone()).unwrap();
                assert_eq!([segment.start, segment.end], to, "case {i}: {given}");
                let to_words = segment.words.map(|words| {
                    words
                        .iter()
                        .map(|word| [word.start, word.end])
                        .collect::<Vec<_>>()
                });
                assert_eq!(to_words, words("to_words"), "case {i}: {given}");
            }

            let Some(max_duration) = case["max_duration"].as_f64() else {
                continue;
            };
            let n_samples = spans.last().unwrap().end_sample;
            let samples: Vec<f32> = (0..n_samples).map(|i| i as f32).collect();
            let chunks = pack_spans(&spans, 16_000, max_duration);
            let expected = case["chunks"].as_array().unwrap();
            assert_eq!(chunks.len(), expected.len(), "case {i}");
            for (chunk, expected) in chunks.iter().zip(expected) {
                let speech = collect_speech(&samples, &chunk.spans);
                assert_eq!(chunk.offset, expected["offset"].as_f64().unwrap());
                assert_eq!(chunk.duration, expected["duration"].as_f64().unwrap());
                assert_eq!(speech.len() as u64, expected["samples"].as_u64().unwrap());
                assert_eq!(f64::from(speech[0]), expected["first"].as_f64().unwrap());
            }
        }
    }

    #[test]
    fn long_spans_are_divided_without_loss() {
        let spans = [
            Span::from_samples(0, 10, 1),
            Span::from_samples(20, 95, 1),
            Span::from_samples(100, 105, 1),
        ];
        let chunks = pack_spans(&spans, 1, 30.0);
        assert!(chunks.iter().all(|chunk| chunk.duration <= 30.0));
        let pieces: Vec<_> = chunks
            .iter()
            .map(|chunk| {
                let first = chunk.spans[0].start_sample;
                (chunk.offset, first, chunk.duration)
            })
            .collect();
        assert_eq!(
            pieces,
            [
                (0.0, 0, 10.0),
                (10.0, 20, 30.0),
                (40.0, 50, 30.0),
                (70.0, 80, 20.0)
            ]
        );
    }

    #[test]
    fn nothing_maps_to_itself() {
        assert!(pack_spans(&[], 16_000, 30.0).is_empty());
        assert_eq!(pack_spans(&[Span::from_samples(0, 3, 1)], 1, 0.0).len(), 3);
        assert!(collect_speech(&[], &[Span::from_samples(5, 9, 1)]).is_empty());
        let map = TimeMap::new(&[], 16_000);
        assert_eq!(map.word(1.0, 2.0), (1.0, 2.0));
        assert_eq!(map.stretch(f64::NAN, -1.0).1, -1.0);
    }
}
