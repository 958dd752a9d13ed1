//! Tokens to text, words and segments.

use super::events::Alternative;
use crate::asr::{Segment, Word};
use crate::text::compression_ratio;
use crate::tokenizer::TextAssembler;

/// A pause between two words that ends a segment, in seconds.
const PAUSE: f64 = 1.0;

/// Seconds after which a segment ends at the next word.
const LONG: f64 = 30.0;

/// Tokens without text after which a word is complete although none follows.
const WORD_IS_OVER: usize = 3;

/// One token of text with what is known about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextToken<'a> {
    pub id: u32,
    pub bytes: &'a [u8],
    /// What it could have been, itself first, when that is to be shown.
    pub alternatives: &'a [Alternative],
    pub logprob: f64,
    /// Seconds where the token's stretch of sound begins and ends.
    pub start: f64,
    pub end: f64,
}

/// What came of a token.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// New characters.
    pub text: String,
    /// Words that are complete now.
    pub words: Vec<Word>,
    /// Segments that are complete now.
    pub segments: Vec<Segment>,
}

/// The text of one track as it grows. What is complete is given out and forgotten, so that memory does not grow.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    assembler: TextAssembler,
    /// Whether anything but blanks was said.
    begun: bool,
    /// Blanks that come out only when something follows.
    blanks: String,
    /// Where a group of words was announced: its time, until its first token comes.
    announced: Option<f64>,
    word: Option<OpenWord>,
    silent_tokens: usize,
    segment: Option<OpenSegment>,
    n_segments: usize,
}

#[derive(Debug)]
struct OpenWord {
    text: String,
    /// The same with alternatives.
    shown: String,
    start: f64,
    end: f64,
    probability: f64,
    n_tokens: usize,
}

#[derive(Debug)]
struct OpenSegment {
    words: Vec<Word>,
    /// The text of these words, with alternatives.
    shown: String,
    tokens: Vec<u32>,
    logprob: f64,
    /// Tokens of the word that is still open: `(token, logprob)`.
    pending: Vec<(u32, f64)>,
}

impl Transcript {
    /// A marker says that words begin; its stretch of sound starts at `start`.
    pub fn announce(&mut self, start: f64) {
        self.announced = Some(start);
    }

    /// A stretch of sound without text.
    pub fn silence(&mut self, progress: &mut Progress) {
        self.announced = None;
        self.silent_tokens += 1;
        if self.silent_tokens == WORD_IS_OVER {
            self.close_word(progress);
        }
    }

    /// A token of text.
    pub fn token(&mut self, token: TextToken<'_>, progress: &mut Progress) {
        self.silent_tokens = 0;
        let start = self.announced.take().unwrap_or(token.start);
        let text = self.assembler.push(token.bytes);
        let from = self.add(&text, start, token.end, token.logprob.exp(), progress);
        if let (Some(word), Some(from), Some(others)) =
            (&mut self.word, from, token.alternatives.get(1..))
            && !others.is_empty()
        {
            word.shown.insert(from, '[');
            for other in others {
                word.shown.push('|');
                word.shown.push_str(other.text.trim());
            }
            word.shown.push(']');
        }
        // Behind what the token has completed.
        let segment = self.segment.get_or_insert_with(OpenSegment::new);
        segment.pending.push((token.id, token.logprob));
    }

    /// Nothing follows for now: the rest becomes complete.
    pub fn close(&mut self, progress: &mut Progress) {
        let rest = self.assembler.finish();
        let end = self.word.as_ref().map(|word| (word.start, word.end));
        if let (false, Some((start, end))) = (rest.is_empty(), end) {
            self.add(&rest, start, end, 0.0, progress);
        }
        self.close_word(progress);
        self.close_segment(progress);
        self.announced = None;
        self.silent_tokens = 0;
    }

    /// Gives where in what is shown of the open word the text begins, if any of it belongs there.
    fn add(
        &mut self,
        text: &str,
        start: f64,
        end: f64,
        probability: f64,
        progress: &mut Progress,
    ) -> Option<usize> {
        let mut from = None;
        // Characters of one token can belong to two words.
        for character in text.chars() {
            if character.is_whitespace() {
                self.close_word(progress);
                from = None;
                if self.begun {
                    self.blanks.push(character);
                }
                continue;
            }
            let word = self.word.get_or_insert_with(|| {
                let text = std::mem::take(&mut self.blanks);
                OpenWord {
                    shown: text.clone(),
                    text,
                    start,
                    end,
                    probability: 0.0,
                    n_tokens: 0,
                }
            });
            from.get_or_insert(word.shown.len());
            if word.n_tokens == 0 {
                // Blanks before it, and the first character.
                progress.text.push_str(&word.text);
                word.n_tokens = 1;
                word.probability = probability;
            }
            word.text.push(character);
            word.shown.push(character);
            progress.text.push(character);
            self.begun = true;
        }
        if let Some(word) = &mut self.word {
            if word.end < end {
                // Another token of the same word.
                word.probability += probability;
                word.n_tokens += 1;
            }
            word.end = word.end.max(end);
        }
        from
    }

    fn close_word(&mut self, progress: &mut Progress) {
        let Some(open) = self.word.take() else {
            return;
        };
        let word = Word {
            word: open.text,
            start: open.start,
            end: open.end,
            probability: open.probability / open.n_tokens.max(1) as f64,
        };
        let ends_sentence = ends_sentence(&word.word);
        let pause = self.segment.as_ref().and_then(|segment| {
            let last = segment.words.last()?;
            let first = segment.words.first()?;
            Some(word.start - last.end >= PAUSE || word.end - first.start > LONG)
        });
        if pause == Some(true) {
            // The word's tokens go with it.
            let pending = self
                .segment
                .as_mut()
                .map(|s| std::mem::take(&mut s.pending));
            self.close_segment(progress);
            let mut next = OpenSegment::new();
            next.pending = pending.unwrap_or_default();
            self.segment = Some(next);
        }
        progress.words.push(word.clone());
        let segment = self.segment.get_or_insert_with(OpenSegment::new);
        for (token, logprob) in segment.pending.drain(..) {
            segment.tokens.push(token);
            segment.logprob += logprob;
        }
        segment.words.push(word);
        segment.shown.push_str(&open.shown);
        if ends_sentence {
            self.close_segment(progress);
        }
    }

    fn close_segment(&mut self, progress: &mut Progress) {
        let Some(segment) = self.segment.take() else {
            return;
        };
        let (Some(first), Some(last)) = (segment.words.first(), segment.words.last()) else {
            return;
        };
        let text: String = segment
            .words
            .iter()
            .map(|word| word.word.as_str())
            .collect();
        progress.segments.push(Segment {
            id: self.n_segments,
            seek: (first.start * 100.0).round() as usize,
            start: first.start,
            end: last.end,
            compression_ratio: compression_ratio(&text),
            text: segment.shown,
            avg_logprob: segment.logprob / segment.tokens.len().max(1) as f64,
            tokens: segment.tokens,
            temperature: 0.0,
            no_speech_prob: 0.0,
            words: Some(segment.words),
        });
        self.n_segments += 1;
    }
}

impl OpenSegment {
    fn new() -> Self {
        Self {
            words: Vec::new(),
            shown: String::new(),
            tokens: Vec::new(),
            logprob: 0.0,
            pending: Vec::new(),
        }
    }
}

/// Whether a sentence may end with this word. (`Mr.` and numbers with a point inside are told apart by nobody here: a
/// segment more does no harm.)
fn ends_sentence(word: &str) -> bool {
    let bare = word.trim_end_matches(['"', '\'', ')', ']', '»', '”', '’', '」', '』']);
    bare.ends_with(['.', '?', '!', '…', '。', '？', '！', '।', '؟'])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds tokens of 80 ms each; `None` is silence, `Some("")` a marker.
    fn feed(tokens: &[Option<&str>]) -> (String, Vec<Word>, Vec<Segment>) {
        let mut transcript = Transcript::default();
        let mut progress = Progress::default();
        for (index, token) in tokens.iter().enumerate() {
            let start = index as f64 * 0.08;
            match token {
                None => transcript.silence(&mut progress),
                Some("") => transcript.announce(start),
                Some(text) => transcript.token(
                    TextToken {
                        id: index as u32,
                        bytes: text.as_bytes(),
                        alternatives: &[],
                        logprob: 0.5f64.ln(),
                        start,
                        end: start + 0.08,
                    },
                    &mut progress,
                ),
            }
        }
        transcript.close(&mut progress);
        (progress.text, progress.words, progress.segments)
    }

    #[test]
    fn words_have_the_times_of_their_tokens() {
        let (text, words, segments) = feed(&[
            None,
            Some(""),
            Some(" Hel"),
            Some("lo,"),
            None,
            Some(""),
            Some(" you two"),
            Some("."),
        ]);
        assert_eq!(text, "Hello, you two.");
        let found: Vec<_> = words
            .iter()
            .map(|w| {
                (
                    w.word.as_str(),
                    (w.start * 100.0).round(),
                    (w.end * 100.0).round(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("Hello,", 8.0, 32.0),
                (" you", 40.0, 56.0),
                (" two.", 40.0, 64.0)
            ]
        );
        assert!(
            words
                .iter()
                .all(|word| (word.probability - 0.5).abs() < 1e-9)
        );
        assert_eq!(segments.len(), 1);
        assert_eq!(segments[0].text, text);
        assert_eq!(segments[0].tokens, [2, 3, 6, 7]);
        assert!((segments[0].avg_logprob - 0.5f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn segments_end_with_sentences_and_pauses() {
        let mut tokens = vec![Some(" One."), Some(" Two")];
        tokens.extend([None; 14]);
        tokens.extend([Some(" three"), Some("?\""), Some(" Four")]);
        let (text, _, segments) = feed(&tokens);
        assert_eq!(text, "One. Two three?\" Four");
        let texts: Vec<_> = segments.iter().map(|s| s.text.as_str()).collect();
        assert_eq!(texts, ["One.", " Two", " three?\"", " Four"]);
        let ids: Vec<_> = segments.iter().map(|s| (s.id, s.tokens.clone())).collect();
        assert_eq!(
            ids,
            [(0, vec![0]), (1, vec![1]), (2, vec![16, 17]), (3, vec![18])]
        );
    }

    #[test]
    fn alternatives_stand_in_the_text_of_a_segment_but_not_in_its_words() {
        let other = |text: &str| Alternative {
            text: text.into(),
            probability: 0.5,
        };
        let mut transcript = Transcript::default();
        let mut progress = Progress::default();
        for (text, others) in [
            (" right", &[" right", " write"][..]),
            (" thr", &[]),
            ("ough", &["ough", "ow", "ew"]),
            (" it.", &[" it."]),
        ] {
            let alternatives: Vec<_> = others.iter().map(|text| other(text)).collect();
            let token = TextToken {
                id: 0,
                bytes: text.as_bytes(),
                alternatives: &alternatives,
                logprob: 0.0,
                start: 0.0,
                end: 0.08,
            };
            transcript.token(token, &mut progress);
        }
        transcript.close(&mut progress);
        assert_eq!(progress.text, "right through it.");
        assert_eq!(
            progress.segments[0].text,
            "[right|write] thr[ough|ow|ew] it."
        );
        let words: Vec<_> = progress.words.iter().map(|w| w.word.as_str()).collect();
        assert_eq!(words, ["right", " through", " it."]);
    }

    #[test]
    fn characters_come_out_whole_and_blanks_at_the_ends_not_at_all() {
        let mut transcript = Transcript::default();
        let mut texts = Vec::new();
        for bytes in [&b"  "[..], b"a\xe6", b"\x97", b"\xa5 ", b" ", b"\xf0\x9f"] {
            let mut progress = Progress::default();
            let token = TextToken {
                id: 0,
                bytes,
                alternatives: &[],
                logprob: 0.0,
                start: 0.0,
                end: 0.08,
            };
            transcript.token(token, &mut progress);
            texts.push(progress.text);
        }
        assert_eq!(texts, ["", "a", "", "日", "", ""]);
        let mut progress = Progress::default();
        transcript.close(&mut progress);
        // A character that never was completed, with no word to belong to.
        assert_eq!(progress.text, "");
        assert_eq!(progress.segments.len(), 1);
    }
}
