//! Search and replace with Python's notion of words, which differs from the regex crate's in combining marks and
//! in numbers that are not decimal.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Compiles a pattern that is known to be valid.
pub(super) fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is valid")
}

/// Python's `\w`: letters, numbers of any kind and the underscore.
fn is_word(character: char) -> bool {
    static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"[\p{L}\p{N}]"));
    if character.is_ascii() {
        return character.is_ascii_alphanumeric() || character == '_';
    }
    WORD.is_match(character.encode_utf8(&mut [0; 4]))
}

/// Whether no word goes on across the byte position `start`, to its left.
fn starts_word(text: &str, start: usize) -> bool {
    !text[..start].chars().next_back().is_some_and(is_word)
}

/// Whether no word goes on across the byte position `end`, to its right.
fn ends_word(text: &str, end: usize) -> bool {
    !text[end..].chars().next().is_some_and(is_word)
}

/// Where a match has to be at the edge of a word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    /// At its beginning and its end.
    Both,
    /// At its end.
    End,
}

/// Replaces every occurrence of a literal.
pub(super) fn replace_literal(text: &mut String, literal: &str, edge: Edge, replacement: &str) {
    if !text.contains(literal) {
        return;
    }
    let mut replaced = String::with_capacity(text.len());
    let mut copied = 0;
    let mut from = 0;
    while let Some(offset) = text[from..].find(literal) {
        let start = from + offset;
        let end = start + literal.len();
        if (edge == Edge::End || starts_word(text, start)) && ends_word(text, end) {
            replaced.push_str(&text[copied..start]);
            replaced.push_str(replacement);
            copied = end;
            from = end;
        } else {
            // Literals begin with an ASCII character.
            from = start + 1;
        }
    }
    replaced.push_str(&text[copied..]);
    *text = replaced;
}

/// Replaces every match of a pattern at the edge of a word by what `replacement` makes of it.
pub(super) fn replace_pattern(
    text: &str,
    pattern: &Regex,
    edge: Edge,
    replacement: impl Fn(&Captures<'_>) -> String,
) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut copied = 0;
    let mut from = 0;
    while let Some(captures) = pattern.captures_at(text, from) {
        let Some(found) = captures.get(0) else {
            break;
        };
        if (edge == Edge::End || starts_word(text, found.start())) && ends_word(text, found.end()) {
            replaced.push_str(&text[copied..found.start()]);
            replaced.push_str(&replacement(&captures));
            copied = found.end();
            from = found.end();
        } else {
            from = found.start() + found.as_str().chars().next().map_or(1, char::len_utf8);
        }
    }
    replaced.push_str(&text[copied..]);
    replaced
}

/// The text between matches of a pattern that are whole words.
pub(super) fn split_at_words<'a>(text: &'a str, pattern: &Regex) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let mut part_start = 0;
    let mut from = 0;
    while let Some(found) = pattern.find_at(text, from) {
        if starts_word(text, found.start()) && ends_word(text, found.end()) {
            parts.push(&text[part_start..found.start()]);
            part_start = found.end();
            from = found.end();
        } else {
            from = found.start() + 1;
        }
    }
    parts.push(&text[part_start..]);
    parts
}
