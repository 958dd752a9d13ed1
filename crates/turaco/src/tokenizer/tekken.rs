//! Mistral's Tekken vocabulary (`tekken.json`): ids to bytes, and the control tokens by name.
//!
//! Ids below the number of special tokens are control tokens; ordinary token `id` is rank `id - n_special`. Follows
//! `mistral_common/tokens/tokenizers/tekken.py`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::TokenTable;
use crate::Result;
use crate::weights::{invalid, printable};

/// A Tekken vocabulary.
#[derive(Debug, Clone)]
pub struct Tekken {
    n_special: usize,
    special: HashMap<String, u32>,
    tokens: TokenTable,
    audio: Option<TekkenAudio>,
}

/// What `tekken.json` says about audio (the part that streaming recognition needs).
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct TekkenAudio {
    /// Samples per second.
    pub sampling_rate: usize,
    /// Audio tokens per second.
    pub frame_rate: f64,
    /// Milliseconds by which the text follows the audio, where the model streams.
    #[serde(default)]
    pub transcription_delay_ms: Option<f64>,
    /// Audio tokens of silence that go before a stream.
    #[serde(default)]
    pub streaming_n_left_pad_tokens: Option<usize>,
}

#[derive(Deserialize)]
struct File<'a> {
    config: Config,
    #[serde(borrow)]
    vocab: Vec<Entry<'a>>,
    #[serde(borrow, default)]
    special_tokens: Vec<Special<'a>>,
    #[serde(default)]
    audio: Option<TekkenAudio>,
}

#[derive(Deserialize)]
struct Config {
    default_vocab_size: usize,
    default_num_special_tokens: usize,
}

#[derive(Deserialize)]
struct Entry<'a> {
    rank: usize,
    #[serde(borrow)]
    token_bytes: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Special<'a> {
    rank: usize,
    #[serde(borrow)]
    token_str: Cow<'a, str>,
}

impl Tekken {
    /// Reads the content of a `tekken.json` for a model with `n_vocab` tokens; `path` is for messages.
    ///
    /// # Errors
    /// JSON of another kind, ranks out of order, tokens that are not base64, or too few of them.
    pub fn from_json(path: &Path, json: &[u8], n_vocab: usize) -> Result<Self> {
        let file: File<'_> = serde_json::from_slice(json)
            .map_err(|error| invalid(path, format!("not a Tekken vocabulary: {error}")))?;
        let n_special = file.config.default_num_special_tokens;
        let wanted = n_vocab
            .checked_sub(n_special)
            .filter(|&n| n <= file.vocab.len());
        let Some(wanted) = wanted else {
            return Err(invalid(
                path,
                format!(
                    "{} tokens and {n_special} special ones (the file says {} in all) do not fit a model of {n_vocab}",
                    file.vocab.len(),
                    file.config.default_vocab_size
                ),
            ));
        };
        let mut tokens = TokenTable::default();
        let mut bytes = Vec::new();
        for (rank, entry) in file.vocab.iter().take(wanted).enumerate() {
            bytes.clear();
            let decoded = STANDARD.decode_vec(entry.token_bytes.as_bytes(), &mut bytes);
            if entry.rank != rank || decoded.is_err() {
                return Err(invalid(
                    path,
                    format!(
                        "entry {rank} of the vocabulary has rank {} and bytes `{}`, expected rank {rank} and base64",
                        entry.rank,
                        printable(&entry.token_bytes)
                    ),
                ));
            }
            tokens.push(&bytes);
        }
        let special = file
            .special_tokens
            .iter()
            .filter(|token| token.rank < n_special)
            .map(|token| (token.token_str.clone().into_owned(), token.rank as u32))
            .collect();
        Ok(Self {
            n_special,
            special,
            tokens,
            audio: file.audio,
        })
    }

    /// Tokens of all kinds.
    pub fn len(&self) -> usize {
        self.n_special + self.tokens.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Control tokens; their ids come first.
    pub fn n_special(&self) -> usize {
        self.n_special
    }

    /// The id of a control token such as `[STREAMING_PAD]`.
    pub fn special(&self, name: &str) -> Option<u32> {
        self.special.get(name).copied()
    }

    /// Whether a token stands for text.
    pub fn is_text(&self, id: u32) -> bool {
        self.text(id).is_some()
    }

    /// The bytes of an ordinary token; `None` for control tokens and unknown ids. They need not be whole characters.
    pub fn text(&self, id: u32) -> Option<&[u8]> {
        let rank = id.checked_sub(u32::try_from(self.n_special).ok()?)?;
        self.tokens.get(rank)
    }

    /// What the file says about audio.
    pub fn audio(&self) -> Option<&TekkenAudio> {
        self.audio.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(vocab: &str) -> String {
        format!(
            r#"{{"config": {{"pattern": "", "num_vocab_tokens": 3, "default_vocab_size": 12, "default_num_special_tokens": 10, "version": "v7"}},
                "vocab": [{vocab}],
                "special_tokens": [{{"rank": 0, "token_str": "<unk>", "is_control": true}}, {{"rank": 7, "token_str": "[STREAMING_PAD]", "is_control": true}}],
                "audio": {{"sampling_rate": 16000, "frame_rate": 12.5, "transcription_delay_ms": 480.0, "streaming_n_left_pad_tokens": 32}}}}"#
        )
    }

    const TWO: &str = r#"{"rank": 0, "token_bytes": "AA==", "token_str": null}, {"rank": 1, "token_bytes": "IGE=", "token_str": " a"}, {"rank": 2, "token_bytes": "4g==", "token_str": null}"#;

    #[test]
    fn ids_are_ranks_behind_the_special_tokens() {
        let tekken = Tekken::from_json(Path::new("x"), json(TWO).as_bytes(), 12).unwrap();
        assert_eq!((tekken.len(), tekken.n_special()), (12, 10));
        assert_eq!(tekken.special("[STREAMING_PAD]"), Some(7));
        assert_eq!(tekken.special("[NO]"), None);
        assert_eq!(tekken.text(10), Some(&b"\0"[..]));
        assert_eq!(tekken.text(11), Some(&b" a"[..]));
        // More entries than the model has tokens are not used.
        assert_eq!((tekken.text(12), tekken.text(9)), (None, None));
        assert_eq!(
            tekken.audio().unwrap().streaming_n_left_pad_tokens,
            Some(32)
        );
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let read = |text: &str, n_vocab| {
            Tekken::from_json(Path::new("x"), text.as_bytes(), n_vocab)
                .unwrap_err()
                .to_string()
        };
        assert!(read(&json(TWO), 14).contains("do not fit a model of 14"));
        assert!(read(&json(TWO), 5).contains("do not fit"));
        assert!(read(&json(&TWO.replace("IGE=", "I*E=")), 12).contains("base64"));
        assert!(read(&json(&TWO.replace("\"rank\": 1", "\"rank\": 5")), 12).contains("rank 5"));
        assert!(read("[]", 12).contains("not a Tekken vocabulary"));
    }
}
