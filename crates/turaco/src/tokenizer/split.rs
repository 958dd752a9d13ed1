//! Cutting text into the pieces that byte pair encoding merges within.

use std::sync::LazyLock;

use regex::Regex;

/// The last parts of nearly every pattern: white space before a word leaves its last character to the word.
const LOOK_AHEAD: &str = r"\s+(?!\S)|";

/// The part by which patterns that know line ends match white space up to the last of them.
const LINES: &str = r"[\r\n]+";

/// A pattern whose matches are the pieces of a text.
///
/// Patterns are written for engines with look-ahead, which the regex crate does not have: `\s+(?!\S)|\s+` becomes `\s+`,
/// and what the look-ahead would have left to the next piece is taken off afterwards.
#[derive(Debug, Clone)]
pub(super) struct Splitter {
    pattern: Regex,
    looks_ahead: bool,
    knows_lines: bool,
}

impl Splitter {
    /// # Errors
    /// What the regex crate says against the pattern: look-around elsewhere, for example.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let plain = pattern.replace(LOOK_AHEAD, "");
        Ok(Self {
            pattern: Regex::new(&plain).map_err(|error| error.to_string())?,
            looks_ahead: plain.len() < pattern.len(),
            knows_lines: pattern.contains(LINES),
        })
    }

    /// The pieces of a text, one behind the other. What no part of the pattern matches belongs to none.
    pub fn split<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        let mut start = 0;
        std::iter::from_fn(move || {
            loop {
                let found = self.pattern.find_at(text, start)?;
                let piece = self.without_look_ahead(found.as_str(), found.end() == text.len());
                start = found.start() + piece.len();
                if !piece.is_empty() {
                    return Some(piece);
                }
                // A pattern that matches nothing at all goes on behind the next character.
                start += text[start..].chars().next()?.len_utf8();
            }
        })
    }

    /// What look-ahead would have left of a match.
    fn without_look_ahead<'a>(&self, piece: &'a str, at_end: bool) -> &'a str {
        if !self.looks_ahead || at_end {
            return piece;
        }
        match piece.char_indices().next_back() {
            Some((last, character))
                if last > 0
                    && !(self.knows_lines && matches!(character, '\r' | '\n'))
                    && piece.chars().all(char::is_whitespace) =>
            {
                &piece[..last]
            }
            _ => piece,
        }
    }
}

/// Splits text as GPT-2 does before merging.
pub(super) fn split_gpt2(text: &str) -> impl Iterator<Item = &str> {
    static SPLITTER: LazyLock<Splitter> = LazyLock::new(|| {
        Splitter::new(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
            .expect("the pattern is valid")
    });
    SPLITTER.split(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_concatenate_to_the_text(text in "\\PC*|[ \\n\\ta'x9.é]*") {
            let pieces: Vec<&str> = split_gpt2(&text).collect();
            prop_assert_eq!(pieces.concat(), text.as_str());
            prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
        }
    }

    #[test]
    fn white_space_before_a_word_is_split_off() {
        let split = |text| split_gpt2(text).collect::<Vec<_>>();
        assert_eq!(
            split("  two  spaces  "),
            [" ", " two", " ", " spaces", "  "]
        );
        assert_eq!(split("a\nb \n c"), ["a", "\n", "b", " \n", " c"]);
        assert_eq!(
            split("I'll don'T 12½x"),
            ["I", "'ll", " don", "'", "T", " 12½", "x"]
        );
        assert_eq!(split(""), [""; 0]);
    }

    #[test]
    fn patterns_without_look_ahead_are_taken_as_they_are() {
        let words = Splitter::new(r"\s+|\S+").unwrap();
        let split: Vec<&str> = words.split("a  b ").collect();
        assert_eq!(split, ["a", "  ", "b", " "]);
        let nothing = Splitter::new("").unwrap();
        assert_eq!(nothing.split("añb").count(), 0);
        let letters = Splitter::new(r"\p{L}*").unwrap();
        assert_eq!(letters.split("1ab 2c").collect::<Vec<_>>(), ["ab", "c"]);
        assert!(Splitter::new("(?=a)b").unwrap_err().contains("look"));
    }
}
