//! Word times from cross-attention.
//!
//! Follows `timing.py` of openai-whisper: attention of the alignment heads, normalised and smoothed, aligned by
//! dynamic time warping; then the clean-up that makes cuts at punctuation and pauses plausible.

use crate::Result;
use crate::models::whisper::{Session, Window};
use crate::tokenizer::WhisperTokenizer;

use super::dtw::{dtw, median_filter};
use super::{Segment, TranscribeOptions, Word};

/// Width of the median filter over time, in encoder positions.
const MEDIAN_FILTER_WIDTH: usize = 7;
/// Encoder positions per second.
const POSITIONS_PER_SECOND: f64 = 50.0;
/// Mel frames per second.
const FRAMES_PER_SECOND: f64 = 100.0;
/// No ordinary word is longer than twice this.
const LONGEST_MEDIAN_WORD: f64 = 0.7;

/// What alignment needs to know besides the segments.
#[derive(Debug)]
pub struct Aligner<'a> {
    /// Heads whose attention follows time, as `(layer, head)`.
    pub heads: &'a [(usize, usize)],
    /// Tokens of the model.
    pub tokenizer: &'a WhisperTokenizer,
    /// Start of transcript, language, task.
    pub sot_sequence: &'a [u32],
    /// Language code.
    pub language: &'a str,
    /// Options with the punctuation sets.
    pub options: &'a TranscribeOptions,
}

/// A word in a window: times in seconds from the window's start.
#[derive(Debug, Clone, PartialEq)]
struct Timing {
    word: String,
    tokens: Vec<u32>,
    start: f64,
    end: f64,
    probability: f64,
}

impl Aligner<'_> {
    /// Give every segment of a window its words, and pull the segments' times to them. `n_frames` is the window's length
    /// in mel frames; `last_speech` is the end of the last word before and is moved on.
    ///
    /// # Errors
    /// A failed device.
    pub fn add_words(
        &self,
        session: &mut Session,
        window: &Window,
        segments: &mut [Segment],
        n_frames: usize,
        last_speech: &mut f64,
    ) -> Result<()> {
        let _span = crate::trace::span("words");
        let Some(first) = segments.first() else {
            return Ok(());
        };
        let time_offset = first.seek as f64 / FRAMES_PER_SECOND;
        let eot = self.tokenizer.eot();
        let texts: Vec<Vec<u32>> = segments
            .iter()
            .map(|segment| {
                segment
                    .tokens
                    .iter()
                    .copied()
                    .filter(|&token| token < eot)
                    .collect()
            })
            .collect();
        let mut timings = self.align(session, window, &texts.concat(), n_frames)?;
        let (median, max) = typical_durations(&timings);
        shorten_at_sentence_ends(&mut timings, max);
        let PunctuationSets { prepend, append } = PunctuationSets::of(self.options);
        merge_punctuations(&mut timings, prepend, append);
        let mut timings = timings.into_iter().peekable();
        for (segment, text) in segments.iter_mut().zip(&texts) {
            let mut words = Vec::new();
            let mut used = 0;
            while used < text.len() {
                let Some(timing) = timings.next() else { break };
                used += timing.tokens.len();
                if !timing.word.is_empty() {
                    words.push(Word {
                        word: timing.word,
                        start: round2(time_offset + timing.start),
                        end: round2(time_offset + timing.end),
                        probability: timing.probability,
                    });
                }
            }
            fit_to_segment(&mut words, segment, median, max, last_speech);
            segment.words = Some(words);
        }
        Ok(())
    }

    /// Times of the words of `text_tokens`.
    fn align(
        &self,
        session: &mut Session,
        window: &Window,
        text_tokens: &[u32],
        n_frames: usize,
    ) -> Result<Vec<Timing>> {
        if text_tokens.is_empty() {
            return Ok(Vec::new());
        }
        let eot = self.tokenizer.eot();
        let (words, word_tokens) = {
            let tokens = [text_tokens, &[eot]].concat();
            self.tokenizer.split_to_word_tokens(&tokens, self.language)
        };
        if word_tokens.len() <= 1 {
            return Ok(Vec::new());
        }
        let n_sot = self.sot_sequence.len();
        let n_text_ctx = session.model().config().n_text_ctx;
        let mut tokens = self.sot_sequence.to_vec();
        tokens.push(self.tokenizer.no_timestamps());
        tokens.extend_from_slice(text_tokens);
        tokens.push(eot);
        if tokens.len() > n_text_ctx {
            // More text than the decoder's context holds cannot be aligned (windows never sample that much).
            return Ok(Vec::new());
        }
        let alignment = session.align(
            window,
            &tokens,
            self.heads,
            (n_sot, text_tokens),
            eot as usize,
        )?;
        let n_columns = (n_frames / 2).min(alignment.n_positions);
        if n_columns == 0 {
            return Ok(Vec::new());
        }
        let matrix = mean_attention(
            &alignment.scores,
            (alignment.n_heads, alignment.n_tokens, alignment.n_positions),
            n_columns,
        );
        // Row i of these is the prediction of text token i; the last is that of the end.
        let rows = n_sot..alignment.n_tokens - 1;
        let cost: Vec<f32> = matrix[rows.start * n_columns..rows.end * n_columns]
            .iter()
            .map(|w| -w)
            .collect();
        let (text_indices, time_indices) = dtw(&cost, rows.len(), n_columns);
        let mut token_starts = Vec::with_capacity(rows.len());
        for (i, &time) in time_indices.iter().enumerate() {
            if i == 0 || text_indices[i] != text_indices[i - 1] {
                token_starts.push(time as f64 / POSITIONS_PER_SECOND);
            }
        }
        let mut timings = Vec::with_capacity(words.len() - 1);
        let mut begin = 0;
        for (word, tokens) in words.into_iter().zip(word_tokens) {
            let end = begin + tokens.len();
            if end > text_tokens.len() {
                break;
            }
            let probs = &alignment.token_probs[begin..end];
            timings.push(Timing {
                word,
                start: token_starts[begin],
                end: token_starts[end],
                probability: probs.iter().map(|&p| f64::from(p)).sum::<f64>() / probs.len() as f64,
                tokens,
            });
            begin = end;
        }
        Ok(timings)
    }
}

/// Softmax over the first `n_columns` positions, normalised over tokens, smoothed over time, mean over heads:
/// `[n_tokens, n_columns]`.
fn mean_attention(
    scores: &[f32],
    (n_heads, n_tokens, n_positions): (usize, usize, usize),
    n_columns: usize,
) -> Vec<f32> {
    let mut mean = vec![0.0f32; n_tokens * n_columns];
    let mut weights = vec![0.0f32; n_tokens * n_columns];
    for head in scores.chunks_exact(n_tokens * n_positions) {
        for (row, scores) in weights
            .chunks_exact_mut(n_columns)
            .zip(head.chunks_exact(n_positions))
        {
            softmax_into(&scores[..n_columns], row);
        }
        normalise_columns(&mut weights, n_columns);
        let smooth = median_filter(&weights, n_columns, MEDIAN_FILTER_WIDTH);
        for (sum, value) in mean.iter_mut().zip(&smooth) {
            *sum += value;
        }
    }
    for value in &mut mean {
        *value /= n_heads.max(1) as f32;
    }
    mean
}

fn softmax_into(scores: &[f32], out: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f64;
    for (out, &score) in out.iter_mut().zip(scores) {
        *out = (score - max).exp();
        sum += f64::from(*out);
    }
    let factor = (1.0 / sum) as f32;
    out.iter_mut().for_each(|weight| *weight *= factor);
}

/// `(w - mean) / std` down every column, with the population's standard deviation.
fn normalise_columns(weights: &mut [f32], n_columns: usize) {
    let n_rows = (weights.len() / n_columns) as f64;
    let mut sums = vec![0.0f64; n_columns];
    for row in weights.chunks_exact(n_columns) {
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, &w)| *sum += f64::from(w));
    }
    let means: Vec<f64> = sums.iter().map(|sum| sum / n_rows).collect();
    let mut squares = vec![0.0f64; n_columns];
    for row in weights.chunks_exact(n_columns) {
        for ((square, &w), mean) in squares.iter_mut().zip(row).zip(&means) {
            *square += (f64::from(w) - mean).powi(2);
        }
    }
    let stds: Vec<f64> = squares
        .iter()
        .map(|square| (square / n_rows).sqrt())
        .collect();
    for row in weights.chunks_exact_mut(n_columns) {
        for ((w, mean), std) in row.iter_mut().zip(&means).zip(&stds) {
            *w = ((f64::from(*w) - mean) / std) as f32;
        }
    }
}

/// Median duration of the words, at most 0.7 s, and the longest that is believed.
fn typical_durations(timings: &[Timing]) -> (f64, f64) {
    let mut durations: Vec<f64> = timings
        .iter()
        .map(|t| t.end - t.start)
        .filter(|&duration| duration != 0.0)
        .collect();
    durations.sort_by(f64::total_cmp);
    let median = match durations.len() {
        0 => 0.0,
        n if n % 2 == 1 => durations[n / 2],
        n => (durations[n / 2 - 1] + durations[n / 2]) / 2.0,
    };
    let median = median.min(LONGEST_MEDIAN_WORD);
    (median, median * 2.0)
}

/// A long "word" at the end of a sentence is a pause: cut it.
fn shorten_at_sentence_ends(timings: &mut [Timing], max: f64) {
    const SENTENCE_END: &str = ".。!！?？";
    if !timings.iter().any(|t| t.end != t.start) {
        return;
    }
    for i in 1..timings.len() {
        if timings[i].end - timings[i].start > max {
            if SENTENCE_END.contains(timings[i].word.as_str()) {
                timings[i].end = timings[i].start + max;
            } else if SENTENCE_END.contains(timings[i - 1].word.as_str()) {
                timings[i].start = timings[i].end - max;
            }
        }
    }
}

struct PunctuationSets<'a> {
    prepend: &'a str,
    append: &'a str,
}

impl<'a> PunctuationSets<'a> {
    fn of(options: &'a TranscribeOptions) -> Self {
        Self {
            prepend: &options.prepend_punctuations,
            append: &options.append_punctuations,
        }
    }
}

/// Join opening punctuation with the word after it and closing punctuation with the word before it. The emptied
/// entries stay, with no tokens.
fn merge_punctuations(timings: &mut [Timing], prepend: &str, append: &str) {
    let n = timings.len();
    let mut following = n.wrapping_sub(1);
    for i in (0..n.saturating_sub(1)).rev() {
        let word = &timings[i].word;
        if word.starts_with(' ') && prepend.contains(word.trim()) {
            let word = std::mem::take(&mut timings[i].word);
            let mut tokens = std::mem::take(&mut timings[i].tokens);
            let next = &mut timings[following];
            next.word.insert_str(0, &word);
            tokens.append(&mut next.tokens);
            next.tokens = tokens;
        } else {
            following = i;
        }
    }
    let mut previous = 0;
    for j in 1..n {
        if !timings[previous].word.ends_with(' ') && append.contains(timings[j].word.as_str()) {
            let word = std::mem::take(&mut timings[j].word);
            let mut tokens = std::mem::take(&mut timings[j].tokens);
            timings[previous].word.push_str(&word);
            timings[previous].tokens.append(&mut tokens);
        } else {
            previous = j;
        }
    }
}

/// The first words after a pause are no longer than words are, and segment and words agree about their ends.
fn fit_to_segment(
    words: &mut [Word],
    segment: &mut Segment,
    median: f64,
    max: f64,
    last_speech: &mut f64,
) {
    let Some(first) = words.first() else {
        return;
    };
    let after_pause = first.end - *last_speech > median * 4.0;
    let first_too_long = first.end - first.start > max;
    let both_too_long = words
        .get(1)
        .is_some_and(|second| second.end - first.start > max * 2.0);
    if after_pause && (first_too_long || both_too_long) {
        if let [first, second, ..] = words
            && second.end - second.start > max
        {
            let boundary = (second.end / 2.0).max(second.end - max);
            first.end = boundary;
            second.start = boundary;
        }
        words[0].start = (words[0].end - max).max(0.0);
    }
    let first = &mut words[0];
    if segment.start < first.end && segment.start - 0.5 > first.start {
        first.start = (first.end - median).min(segment.start).max(0.0);
    } else {
        segment.start = first.start;
    }
    let last = words.last_mut().expect("there is a first word");
    if segment.end > last.start && segment.end + 0.5 < last.end {
        last.end = (last.start + median).max(segment.end);
    } else {
        segment.end = last.end;
    }
    *last_speech = segment.end;
}

/// Rounded to hundredths as Python's `round(x, 2)`: to the decimal that is nearest to the exact binary value.
pub(super) fn round2(seconds: f64) -> f64 {
    format!("{seconds:.2}").parse().unwrap_or(seconds)
}

/// How strange a word is: improbable, very short or very long.
fn word_anomaly(word: &Word) -> f64 {
    let duration = word.end - word.start;
    let improbable = if word.probability < 0.15 { 1.0 } else { 0.0 };
    let short = if duration < 0.133 {
        (0.133 - duration) * 15.0
    } else {
        0.0
    };
    let long = if duration > 2.0 { duration - 2.0 } else { 0.0 };
    improbable + short + long
}

/// Whether a segment's words look made up.
pub(super) fn is_anomalous(segment: Option<&Segment>) -> bool {
    const PUNCTUATION: &str = "\"'“¿([{-\"'.。,，!！?？:：”)]}、";
    let Some(words) = segment.and_then(|segment| segment.words.as_deref()) else {
        return false;
    };
    if words.is_empty() {
        return false;
    }
    let scores: Vec<f64> = words
        .iter()
        .filter(|word| !PUNCTUATION.contains(word.word.as_str()))
        .take(8)
        .map(word_anomaly)
        .collect();
    let score: f64 = scores.iter().sum();
    score >= 3.0 || score + 0.01 >= scores.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(word: &str, start: f64, end: f64) -> Timing {
        let tokens = vec![word.len() as u32];
        Timing {
            word: word.into(),
            tokens,
            start,
            end,
            probability: 1.0,
        }
    }

    fn word(start: f64, end: f64, probability: f64) -> Word {
        Word {
            word: " w".into(),
            start,
            end,
            probability,
        }
    }

    fn segment(start: f64, end: f64) -> Segment {
        Segment {
            id: 0,
            seek: 0,
            start,
            end,
            text: String::new(),
            tokens: vec![],
            temperature: 0.0,
            avg_logprob: 0.0,
            compression_ratio: 1.0,
            no_speech_prob: 0.0,
            words: None,
        }
    }

    #[test]
    fn punctuation_joins_its_neighbours() {
        let words = [" \"", "Yes", ",", " he", " (", "said", ")", "."];
        let mut timings: Vec<Timing> = words.iter().map(|w| timing(w, 0.0, 1.0)).collect();
        merge_punctuations(
            &mut timings,
            super::super::options::PREPEND_PUNCTUATIONS,
            super::super::options::APPEND_PUNCTUATIONS,
        );
        let merged: Vec<&str> = timings.iter().map(|t| t.word.as_str()).collect();
        assert_eq!(merged, ["", " \"Yes,", "", " he", "", " (said).", "", ""]);
        assert_eq!(
            timings.iter().map(|t| t.tokens.len()).sum::<usize>(),
            words.len()
        );
    }

    #[test]
    fn one_word_and_none_are_fine() {
        merge_punctuations(&mut [], "(", ")");
        let mut one = [timing(" (", 0.0, 1.0)];
        merge_punctuations(&mut one, "(", ")");
        assert_eq!(one[0].word, " (");
        assert_eq!(typical_durations(&[]), (0.0, 0.0));
    }

    #[test]
    fn long_sentence_ends_are_cut() {
        let mut timings = [
            timing(" a", 0.0, 0.2),
            timing(".", 0.2, 3.0),
            timing(" b", 3.0, 6.0),
        ];
        shorten_at_sentence_ends(&mut timings, 0.4);
        assert!((timings[1].end - 0.6).abs() < 1e-9);
        assert!((timings[2].start - 5.6).abs() < 1e-9);
    }

    #[test]
    fn first_word_after_a_pause_is_shortened() {
        let mut words = vec![word(0.0, 5.0, 1.0), word(5.0, 5.3, 1.0)];
        let mut segment = segment(0.0, 5.3);
        let mut last_speech = 0.0;
        fit_to_segment(&mut words, &mut segment, 0.3, 0.6, &mut last_speech);
        assert!((words[0].start - 4.4).abs() < 1e-9);
        assert_eq!(
            (segment.start, segment.end, last_speech),
            (words[0].start, 5.3, 5.3)
        );
    }

    #[test]
    fn rounding_is_pythons() {
        for (x, expected) in [
            (2.675, 2.67),
            (1.005, 1.0),
            (0.125, 0.12),
            (0.375, 0.38),
            (7.74, 7.74),
        ] {
            assert_eq!(round2(x), expected);
        }
    }

    #[test]
    fn anomalies_are_improbable_short_or_long_words() {
        let mut odd = segment(0.0, 1.0);
        assert!(!is_anomalous(Some(&odd)));
        odd.words = Some(vec![word(0.0, 0.01, 0.05); 3]);
        assert!(is_anomalous(Some(&odd)));
        odd.words = Some(vec![word(0.0, 0.3, 0.9); 3]);
        assert!(!is_anomalous(Some(&odd)));
        odd.words = Some(vec![word(0.0, 9.0, 0.9)]);
        assert!(is_anomalous(Some(&odd)));
        assert!(!is_anomalous(None));
    }
}
