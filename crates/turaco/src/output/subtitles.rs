//! Segments and words to subtitle cues: what SubRip and WebVTT have in common.

use super::WriteOptions;
use crate::asr::{Segment, Word};
use crate::text::python;

/// Silence before a word that ends a subtitle, in seconds, where subtitles do not follow segments.
const LONG_PAUSE: f64 = 3.0;

/// One text with its times as they are written.
pub(super) struct Cue {
    pub(super) start: String,
    pub(super) end: String,
    pub(super) text: String,
}

/// Lays out subtitles as segments arrive.
///
/// Segments without words are one cue each. Words are put into lines and lines into subtitles; a subtitle is given out
/// with the segment that completes it.
pub(super) struct Subtitles {
    max_line_width: usize,
    max_line_count: Option<usize>,
    max_words_per_line: usize,
    highlight_words: bool,
    /// Whether a segment begins a new subtitle.
    preserve_segments: bool,
    format_time: fn(f64) -> String,
    /// Whether the first segment had words, which decides for all.
    has_words: Option<bool>,
    /// Words of the subtitle that is being filled; line breaks are part of them.
    subtitle: Vec<Word>,
    /// Characters in the last line, and how many lines there are.
    line_length: usize,
    line_count: usize,
    /// Start of the last word.
    last_start: Option<f64>,
}

impl Subtitles {
    pub(super) fn new(options: &WriteOptions, format_time: fn(f64) -> String) -> Self {
        // Zero means no limit, as in the reference.
        let or_unlimited = |limit: Option<usize>| limit.filter(|&limit| limit > 0).unwrap_or(1000);
        Self {
            max_line_width: or_unlimited(options.max_line_width),
            max_line_count: options.max_line_count,
            max_words_per_line: or_unlimited(options.max_words_per_line),
            highlight_words: options.highlight_words,
            preserve_segments: options.max_line_count.is_none() || options.max_line_width.is_none(),
            format_time,
            has_words: None,
            subtitle: Vec::new(),
            line_length: 0,
            line_count: 1,
            last_start: None,
        }
    }

    /// Takes the next segment and returns what is complete.
    pub(super) fn push(&mut self, segment: &Segment) -> Vec<Cue> {
        if !*self.has_words.get_or_insert(segment.words.is_some()) {
            return vec![Cue {
                start: (self.format_time)(segment.start),
                end: (self.format_time)(segment.end),
                text: python::strip(&segment.text).replace("-->", "->"),
            }];
        }
        let whole;
        let words = match &segment.words {
            Some(words) => words.as_slice(),
            // A segment whose words are not known counts as one long word, so that its text is not lost.
            None => {
                whole = [Word {
                    word: segment.text.clone(),
                    start: segment.start,
                    end: segment.end,
                    probability: 0.0,
                }];
                &whole
            }
        };
        let mut cues = Vec::new();
        for line in words.chunks(self.max_words_per_line) {
            for (number, word) in line.iter().enumerate() {
                if self.add(word, number == 0) {
                    let last = self.subtitle.pop();
                    cues.extend(self.take_cues());
                    self.subtitle.extend(last);
                }
            }
        }
        if self.preserve_segments {
            // The next segment begins a new subtitle in any case, so this one need not wait for it.
            cues.extend(self.take_cues());
            self.line_length = 0;
            self.line_count = 1;
        }
        cues
    }

    /// What is left after the last segment.
    pub(super) fn finish(&mut self) -> Vec<Cue> {
        self.take_cues()
    }

    /// Adds a word, the first of a segment or group of words or a later one. Returns whether it begins a new subtitle
    /// and the words before it are complete.
    fn add(&mut self, word: &Word, first: bool) -> bool {
        let mut word = word.clone();
        let length = word.word.chars().count();
        let last_start = self.last_start.replace(word.start).unwrap_or(word.start);
        let long_pause = !self.preserve_segments && word.start - last_start > LONG_PAUSE;
        let has_room = self.line_length + length <= self.max_line_width;
        let breaks_segment = first && !self.subtitle.is_empty() && self.preserve_segments;
        let mut new_subtitle = false;
        if self.line_length > 0 && has_room && !long_pause && !breaks_segment {
            self.line_length += length;
        } else {
            let text = python::strip(&word.word).to_owned();
            let new_line_length = text.chars().count();
            let full = self
                .max_line_count
                .is_some_and(|max_line_count| long_pause || self.line_count >= max_line_count);
            if !self.subtitle.is_empty() && full || breaks_segment {
                new_subtitle = true;
                self.line_count = 1;
                word.word = text;
            } else if self.line_length > 0 {
                self.line_count += 1;
                word.word = format!("\n{text}");
            } else {
                word.word = text;
            }
            self.line_length = new_line_length;
        }
        self.subtitle.push(word);
        new_subtitle
    }

    fn take_cues(&mut self) -> Vec<Cue> {
        let words = std::mem::take(&mut self.subtitle);
        let (Some(first), Some(last)) = (words.first(), words.last()) else {
            return Vec::new();
        };
        let start = (self.format_time)(first.start);
        let text: String = words.iter().map(|word| word.word.as_str()).collect();
        if !self.highlight_words {
            let end = (self.format_time)(last.end);
            return vec![Cue { start, end, text }];
        }
        let mut cues = Vec::new();
        let mut shown_until = start;
        for (index, word) in words.iter().enumerate() {
            let start = (self.format_time)(word.start);
            let end = (self.format_time)(word.end);
            if shown_until != start {
                cues.push(Cue {
                    start: shown_until,
                    end: start.clone(),
                    text: text.clone(),
                });
            }
            let underlined = words.iter().enumerate().map(|(other, word)| {
                if other == index {
                    underline(&word.word)
                } else {
                    word.word.clone()
                }
            });
            cues.push(Cue {
                start,
                end: end.clone(),
                text: underlined.collect(),
            });
            shown_until = end;
        }
        cues
    }
}

/// Puts `<u>` around a word, after its leading white space and before a line break at its end. A word with a line break
/// within stays as it is (the reference's regular expression does not match it).
fn underline(word: &str) -> String {
    let text = word.trim_start_matches(python::is_space);
    let space = &word[..word.len() - text.len()];
    let (text, line_break) = match text.strip_suffix('\n') {
        Some(text) => (text, "\n"),
        None => (text, ""),
    };
    if text.contains('\n') {
        return word.to_owned();
    }
    format!("{space}<u>{text}</u>{line_break}")
}

#[cfg(test)]
mod tests {
    use super::underline;

    #[test]
    fn underlines_as_the_reference_expression() {
        for (word, underlined) in [
            (" word", " <u>word</u>"),
            ("\nword,", "\n<u>word,</u>"),
            ("", "<u></u>"),
            ("  ", "  <u></u>"),
            ("word\n", "<u>word</u>\n"),
            ("two\nlines", "two\nlines"),
            ("two words ", "<u>two words </u>"),
        ] {
            assert_eq!(underline(word), underlined, "{word:?}");
        }
    }
}
