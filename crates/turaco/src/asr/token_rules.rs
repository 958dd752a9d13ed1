//! Which tokens may come next: suppression lists and the timestamp rules.
//!
//! The rules follow `SuppressBlank`, `SuppressTokens` and `ApplyTimestampRules` of openai-whisper's `decoding.py`. The
//! part that depends on the logits (timestamps are preferred when they are together more probable than any text) runs
//! where the logits are: see `ChooseTokens` of `turaco-compute`.

use super::TranscribeOptions;
use crate::tokenizer::WhisperTokenizer;

/// Seconds per timestamp token.
pub const TIME_PRECISION: f64 = 0.02;

/// The rules of one window; the same for every hypothesis of it.
#[derive(Debug)]
pub struct TokenRules {
    /// Everything that is never allowed is 0 here.
    base: Vec<u32>,
    /// Tokens that must not come first.
    not_first: Vec<u32>,
    n_vocab: u32,
    eot: u32,
    timestamp_begin: u32,
    timestamps: bool,
    max_initial_timestamp: Option<u32>,
    no_repeat_ngram_size: usize,
}

impl TokenRules {
    /// Rules of `options` for a vocabulary of `n_vocab` tokens. `model_suppressed` is the model file's own list for
    /// `-1`, if it has one.
    pub fn new(
        options: &TranscribeOptions,
        timestamps: bool,
        tokenizer: &WhisperTokenizer,
        n_vocab: usize,
    ) -> Self {
        let n_vocab = n_vocab as u32;
        let mut base = vec![u32::MAX; (n_vocab as usize).div_ceil(32)];
        clear(&mut base, n_vocab..u32::MAX);
        let mut suppressed: Vec<u32> = options
            .suppress_tokens
            .iter()
            .filter_map(|&token| u32::try_from(token).ok())
            .collect();
        if options.suppress_tokens.contains(&-1) {
            suppressed.extend(tokenizer.non_speech_tokens());
        }
        suppressed.extend([
            tokenizer.transcribe(),
            tokenizer.translate(),
            tokenizer.sot(),
            tokenizer.sot_prev(),
            tokenizer.sot_lm(),
            tokenizer.no_speech(),
        ]);
        if timestamps {
            suppressed.push(tokenizer.no_timestamps());
        }
        for token in suppressed {
            if token < n_vocab {
                clear(&mut base, token..token + 1);
            }
        }
        let mut not_first = Vec::new();
        if options.suppress_blank {
            not_first.extend(tokenizer.encode(" "));
            not_first.push(tokenizer.eot());
        }
        let max_initial_timestamp = options
            .max_initial_timestamp
            .map(|seconds| (seconds / TIME_PRECISION).round().max(0.0) as u32);
        Self {
            base,
            not_first,
            n_vocab,
            eot: tokenizer.eot(),
            timestamp_begin: tokenizer.timestamp_begin(),
            timestamps,
            max_initial_timestamp,
            no_repeat_ngram_size: options.no_repeat_ngram_size,
        }
    }

    /// Whether timestamps are preferred over less probable text.
    pub fn timestamps(&self) -> bool {
        self.timestamps
    }

    /// u32 words of a bit set over the vocabulary.
    pub fn words(&self) -> usize {
        self.base.len()
    }

    /// Write the bit set of allowed tokens after `sampled` into `allowed`. `forced` tokens at the start of `sampled`
    /// were given (a prefix): the rules for the first sampled position hold only if there are none.
    pub fn allowed(&self, sampled: &[u32], forced: usize, allowed: &mut [u32]) {
        allowed.copy_from_slice(&self.base);
        let first = sampled.len() == forced;
        if first {
            for &token in &self.not_first {
                clear(allowed, token..token + 1);
            }
        }
        if self.timestamps {
            self.apply_timestamp_rules(sampled, allowed);
        }
        if self.no_repeat_ngram_size > 0 {
            self.forbid_repeated_ngrams(sampled, allowed);
        }
    }

    fn apply_timestamp_rules(&self, sampled: &[u32], allowed: &mut [u32]) {
        let begin = self.timestamp_begin;
        let is_timestamp = |token: &u32| *token >= begin;
        let last_was_timestamp = sampled.last().is_some_and(is_timestamp);
        // One sampled token counts as if a timestamp had come before it.
        let penultimate_was_timestamp =
            sampled.len() < 2 || is_timestamp(&sampled[sampled.len() - 2]);
        if last_was_timestamp {
            if penultimate_was_timestamp {
                // A pair is complete: text has to follow.
                clear(allowed, begin..self.n_vocab);
            } else {
                // A segment has ended: a timestamp or the end has to follow.
                clear(allowed, 0..self.eot);
            }
        }
        // Times never run backwards, and a segment is never empty.
        if let Some(&last) = sampled.iter().rev().find(|token| is_timestamp(token)) {
            let lowest = if last_was_timestamp && !penultimate_was_timestamp {
                last
            } else {
                last + 1
            };
            clear(allowed, begin..lowest.min(self.n_vocab));
        }
        if sampled.is_empty() {
            clear(allowed, 0..begin);
            if let Some(max) = self.max_initial_timestamp {
                clear(
                    allowed,
                    begin.saturating_add(max).saturating_add(1)..self.n_vocab,
                );
            }
        }
    }

    fn forbid_repeated_ngrams(&self, sampled: &[u32], allowed: &mut [u32]) {
        let n = self.no_repeat_ngram_size;
        let Some(start) = (sampled.len() + 1).checked_sub(n) else {
            return;
        };
        let tail = &sampled[start..];
        for ngram in sampled.windows(n) {
            let (next, context) = (ngram[n - 1], &ngram[..n - 1]);
            if context == tail && next < self.n_vocab {
                clear(allowed, next..next + 1);
            }
        }
    }
}

/// Clear the bits of `range`.
fn clear(bits: &mut [u32], range: std::ops::Range<u32>) {
    let mut start = range.start as usize;
    let end = (range.end as usize).min(bits.len() * 32);
    while start < end {
        let word = start / 32;
        let stop = ((word + 1) * 32).min(end);
        let width = stop - start;
        let mask = if width == 32 {
            u32::MAX
        } else {
            ((1u32 << width) - 1) << (start % 32)
        };
        bits[word] &= !mask;
        start = stop;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> TokenRules {
        // Text 0..10, eot 10, specials 11..20, timestamps 20..=40.
        let mut base = vec![u32::MAX; 2];
        clear(&mut base, 41..u32::MAX);
        TokenRules {
            base,
            not_first: vec![3, 10],
            n_vocab: 41,
            eot: 10,
            timestamp_begin: 20,
            timestamps: true,
            max_initial_timestamp: Some(5),
            no_repeat_ngram_size: 0,
        }
    }

    fn allowed(rules: &TokenRules, sampled: &[u32]) -> Vec<u32> {
        let mut bits = vec![0; rules.words()];
        rules.allowed(sampled, 0, &mut bits);
        (0..64)
            .filter(|&i| bits[i as usize / 32] >> (i % 32) & 1 == 1)
            .collect()
    }

    #[test]
    fn first_token_is_an_early_timestamp() {
        assert_eq!(allowed(&rules(), &[]), (20..=25).collect::<Vec<_>>());
    }

    #[test]
    fn a_limit_beyond_the_window_is_no_limit() {
        let mut rules = rules();
        rules.max_initial_timestamp = Some(u32::MAX);
        assert_eq!(allowed(&rules, &[]), (20..=40).collect::<Vec<_>>());
    }

    #[test]
    fn text_follows_a_pair_and_a_timestamp_or_the_end_follows_a_segment() {
        // One timestamp at the start counts as a pair.
        assert_eq!(allowed(&rules(), &[20]), (0..20).collect::<Vec<_>>());
        assert_eq!(
            allowed(&rules(), &[20, 1, 25]),
            (10..20).chain(25..41).collect::<Vec<_>>()
        );
        assert_eq!(
            allowed(&rules(), &[20, 1, 25, 25]),
            (0..20).collect::<Vec<_>>()
        );
        // Inside a segment everything later is open.
        assert_eq!(
            allowed(&rules(), &[20, 1]),
            (0..20).chain(21..41).collect::<Vec<_>>()
        );
    }

    #[test]
    fn repeated_ngrams_are_forbidden() {
        let rules = TokenRules {
            no_repeat_ngram_size: 3,
            timestamps: false,
            ..rules()
        };
        assert!(!allowed(&rules, &[1, 2, 4, 5, 1, 2]).contains(&4));
        assert!(allowed(&rules, &[1, 2, 4, 5, 1]).contains(&2));
        let unigram = TokenRules {
            no_repeat_ngram_size: 1,
            timestamps: false,
            ..rules
        };
        assert!(!allowed(&unigram, &[1]).contains(&1));
    }

    #[test]
    fn clearing_ranges_touches_nothing_else() {
        for (start, end) in [
            (0, 0),
            (0, 1),
            (31, 33),
            (0, 64),
            (5, 64),
            (63, 64),
            (32, 64),
            (60, 200),
        ] {
            let mut bits = vec![u32::MAX; 2];
            clear(&mut bits, start..end);
            for i in 0..64u32 {
                let bit = bits[i as usize / 32] >> (i % 32) & 1;
                assert_eq!(bit == 0, (start..end).contains(&i), "{start}..{end} at {i}");
            }
        }
    }
}
