//! The byte-level tokenizer of Qwen models: `vocab.json`, `merges.txt` and the added tokens of `tokenizer_config.json`.
//!
//! Follows `Qwen2Tokenizer` of transformers: NFC, Qwen's own split of text, GPT-2's byte alphabet, merges by rank.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::Value;
use unicode_normalization::UnicodeNormalization;

use super::bpe::{Bpe, Merge, TokenTable};
use super::split::Splitter;
use super::vocabulary::{bytes_of_printable, check_count, invalid, parse_json, read_merges};
use crate::Result;
use crate::weights::Sidecars;

/// Text to token ids.
#[derive(Debug, Clone)]
pub struct QwenTokenizer {
    bpe: Bpe,
    /// Added tokens, the longest first.
    special: Vec<(String, u32)>,
}

impl QwenTokenizer {
    /// Reads the files of a model's folder.
    ///
    /// # Errors
    /// A file is missing or broken.
    pub fn read(sidecars: &Sidecars) -> Result<Self> {
        let required = |name: &str| {
            sidecars.get(name)?.ok_or_else(|| {
                let path = sidecars.path(name);
                let message = "this file is missing; the vocabulary is in vocab.json, merges.txt and \
                               tokenizer_config.json";
                invalid(&path, message.into())
            })
        };
        let vocab = required("vocab.json")?;
        let merges = required("merges.txt")?;
        let (vocab_path, merges_path) = (sidecars.path("vocab.json"), sidecars.path("merges.txt"));
        let config_path = sidecars.path("tokenizer_config.json");
        let config = sidecars.json("tokenizer_config.json")?.unwrap_or_default();
        let mut special = Vec::new();
        let added = config
            .get("added_tokens_decoder")
            .and_then(Value::as_object);
        for (id, token) in added.into_iter().flatten() {
            let content = token.get("content").and_then(Value::as_str);
            match (id.parse(), content) {
                (Ok(id), Some(content)) if !content.is_empty() => {
                    special.push((content.to_owned(), id));
                }
                _ => {
                    let message = format!("added token `{}` has no text or id", id.escape_debug());
                    return Err(invalid(&config_path, message));
                }
            }
        }
        let is_special = |token: &str| special.iter().any(|(content, _)| content == token);
        let bpe = read_bpe((&vocab_path, &vocab), (&merges_path, &merges), is_special)?;
        special.sort_by_key(|(content, _)| std::cmp::Reverse(content.len()));
        Ok(Self { bpe, special })
    }

    /// Text as text: what looks like an added token is spelled out.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.append(text, &mut ids);
        ids
    }

    /// Text with added tokens, as the reference encodes it.
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let next = (self.special.iter())
                .filter_map(|(content, id)| Some((rest.find(content.as_str())?, content, id)))
                .min_by_key(|(at, content, _)| (*at, std::cmp::Reverse(content.len())));
            let Some((at, content, id)) = next else { break };
            self.append(&rest[..at], &mut ids);
            ids.push(*id);
            rest = &rest[at + content.len()..];
        }
        self.append(rest, &mut ids);
        ids
    }

    /// The id of an added token.
    pub fn special(&self, content: &str) -> Option<u32> {
        let found = self.special.iter().find(|(known, _)| known == content);
        found.map(|(_, id)| *id)
    }

    /// The first id behind all tokens.
    pub fn len(&self) -> usize {
        let special = self.special.iter().map(|(_, id)| *id as usize + 1).max();
        self.bpe.tokens().len().max(special.unwrap_or(0))
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn append(&self, text: &str, ids: &mut Vec<u32>) {
        let text: String = text.nfc().collect();
        for piece in split(&text) {
            self.bpe.encode_piece(piece.as_bytes(), ids);
        }
    }
}

/// Qwen2's split: single digits, punctuation with the line ends behind it, line ends by themselves, words with one
/// character of something else before them.
fn split(text: &str) -> impl Iterator<Item = &str> {
    // The cases of `(?i:'s|'t|…)`, whose tables the regex crate is built without, are spelled out; U+017F is a small s.
    static SPLITTER: LazyLock<Splitter> = LazyLock::new(|| {
        Splitter::new(concat!(
            r"'(?:[sS\u{17F}]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])",
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ))
        .expect("the pattern is valid")
    });
    SPLITTER.split(text)
}

/// The merge rules as they are, unlike [`Vocabulary`](super::Vocabulary), which mends Whisper's.
fn read_bpe(
    (vocab_path, vocab): (&Path, &[u8]),
    (merges_path, merges): (&Path, &[u8]),
    is_special: impl Fn(&str) -> bool,
) -> Result<Bpe> {
    let vocab: HashMap<String, u32> = parse_json(vocab_path, vocab)?;
    let len = vocab.values().max().map_or(0, |&id| id as usize + 1);
    check_count(vocab_path, len)?;
    let mut by_id: Vec<&str> = vec![""; len];
    for (token, &id) in &vocab {
        by_id[id as usize] = token;
    }
    let mut table = TokenTable::default();
    for (id, token) in by_id.iter().enumerate() {
        table.push(&bytes_of_printable(vocab_path, token, id)?);
    }
    let mut rules: Vec<Merge> = Vec::new();
    let mut is_made = vec![false; len];
    for (number, left, right) in read_merges(merges_path, merges)? {
        let id_of = |token: &str| {
            vocab.get(token).copied().ok_or_else(|| {
                let token = token.escape_debug();
                let what = format!("merge {number} needs `{token}`, which is not in vocab.json");
                invalid(merges_path, what)
            })
        };
        let merged = id_of(&format!("{left}{right}"))?;
        is_made[merged as usize] = true;
        rules.push(Merge {
            left: id_of(left)?,
            right: id_of(right)?,
            merged,
        });
    }
    // A file that was cut off would spell words out which the model knows as one token. (A few that were added by hand are
    // nobody's loss.)
    let words = by_id.iter().zip(is_made);
    let words = words.filter(|(token, _)| token.chars().nth(1).is_some() && !is_special(token));
    let (made, lost): (Vec<_>, Vec<_>) = words.partition(|(_, is_made)| *is_made);
    if let Some((token, _)) = lost.first()
        && lost.len() * 100 > made.len()
    {
        let token = token.escape_debug();
        let what = format!(
            "no merge of the {} makes `{token}`, which vocab.json has; is the file cut off?",
            rules.len()
        );
        return Err(invalid(merges_path, what));
    }
    Ok(Bpe::from_merges(table, &rules))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_split_as_qwen2_does() {
        let split = |text| split(text).collect::<Vec<_>>();
        assert_eq!(
            split("Don'T say 123 (now)!!\n\n  ok"),
            [
                "Don", "'T", " say", " ", "1", "2", "3", " (", "now", ")!!\n\n", " ", " ok"
            ]
        );
        assert_eq!(
            split("a  \n  x\t\ty \r\n"),
            ["a", "  \n", " ", " x", "\t", "\ty", " \r\n"]
        );
        assert_eq!(split("今天 le vent"), ["今天", " le", " vent"]);
        assert_eq!(split("end   "), ["end", "   "]);
    }
}
