//! Mistral's Tekken vocabulary (`tekken.json`): text to ids and back, and the control tokens by name.
//!
//! Ids below the number of special tokens are control tokens; ordinary token `id` is rank `id - n_special`, and ranks are
//! the order in which neighbours merge. Follows `mistral_common/tokens/tokenizers/tekken.py`.

use std::borrow::Cow;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::split::Splitter;
use super::{Bpe, TokenTable};
use crate::Result;
use crate::weights::{invalid, printable};

/// Most control tokens; published vocabularies have 1000. Each has a name in memory, also where the file says none.
const MAX_SPECIAL: usize = 1 << 18;

/// A Tekken vocabulary.
#[derive(Debug, Clone)]
pub struct Tekken {
    /// Names of the control tokens, by id.
    special: Vec<String>,
    bpe: Bpe,
    splitter: Splitter,
    version: Option<u32>,
    audio: Option<TekkenAudio>,
}

/// What `tekken.json` says about audio.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct TekkenAudio {
    /// Samples per second.
    pub sampling_rate: usize,
    /// Audio tokens per second.
    pub frame_rate: f64,
    /// Seconds that the encoder hears at a time, where it hears whole chunks.
    #[serde(default)]
    pub chunk_length_s: Option<f64>,
    /// Milliseconds by which the text follows the audio, where the model streams.
    #[serde(default)]
    pub transcription_delay_ms: Option<f64>,
    /// Audio tokens of silence that go before a stream.
    #[serde(default)]
    pub streaming_n_left_pad_tokens: Option<usize>,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    config: Config<'a>,
    #[serde(borrow)]
    vocab: Vec<Entry<'a>>,
    #[serde(borrow, default)]
    special_tokens: Vec<Special<'a>>,
    #[serde(default)]
    audio: Option<TekkenAudio>,
}

#[derive(Deserialize)]
struct Config<'a> {
    #[serde(borrow)]
    pattern: Cow<'a, str>,
    default_vocab_size: usize,
    default_num_special_tokens: usize,
    #[serde(borrow, default)]
    version: Option<Cow<'a, str>>,
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
    /// JSON of another kind, a pattern that this program cannot run, ranks out of order, tokens that are not base64, or too
    /// few of them.
    pub fn from_json(path: &Path, json: &[u8], n_vocab: usize) -> Result<Self> {
        let file: File<'_> = serde_json::from_slice(json)
            .map_err(|error| invalid(path, format!("not a Tekken vocabulary: {error}")))?;
        let n_special = file.config.default_num_special_tokens;
        let wanted = n_vocab
            .checked_sub(n_special)
            .filter(|&n| n <= file.vocab.len() && n_special <= MAX_SPECIAL);
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
        let splitter = Splitter::new(&file.config.pattern)
            .map_err(|error| invalid(path, format!("key `config.pattern`: {error}")))?;
        let mut special: Vec<String> = (0..n_special).map(|id| format!("<SPECIAL_{id}>")).collect();
        for token in file.special_tokens {
            if let Some(name) = special.get_mut(token.rank) {
                *name = token.token_str.into_owned();
            }
        }
        let version = file.config.version.as_deref().and_then(version_number);
        Ok(Self {
            special,
            bpe: Bpe::from_ranked_tokens(tokens),
            splitter,
            version,
            audio: file.audio,
        })
    }

    /// Text to ids, which are never those of control tokens: `[INST]` is ordinary text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        for piece in self.splitter.split(text) {
            self.bpe.encode_piece(piece.as_bytes(), &mut ids);
        }
        let n_special = self.special.len() as u32;
        ids.iter_mut().for_each(|id| *id += n_special);
        ids
    }

    /// Ids to text. Control tokens are left out or shown by their names; either way they end what may be a character, so
    /// that broken ones (U+FFFD) do not reach across them.
    pub fn decode(&self, ids: &[u32], show_special: bool) -> String {
        let mut text = String::new();
        for run in ids.chunk_by(|&a, &b| self.is_text(a) == self.is_text(b)) {
            let bytes: Vec<&[u8]> = run.iter().filter_map(|&id| self.text(id)).collect();
            text.push_str(&String::from_utf8_lossy(&bytes.concat()));
            if show_special {
                run.iter()
                    .filter_map(|&id| self.special_name(id))
                    .for_each(|name| text.push_str(name));
            }
        }
        text
    }

    /// Tokens of all kinds.
    pub fn len(&self) -> usize {
        self.special.len() + self.bpe.tokens().len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Control tokens; their ids come first.
    pub fn n_special(&self) -> usize {
        self.special.len()
    }

    /// The id of a control token such as `[STREAMING_PAD]`.
    pub fn special(&self, name: &str) -> Option<u32> {
        let id = self.special.iter().position(|known| known == name)?;
        u32::try_from(id).ok()
    }

    /// The name of a control token.
    pub fn special_name(&self, id: u32) -> Option<&str> {
        let name = self.special.get(usize::try_from(id).ok()?)?;
        Some(name)
    }

    /// The version of the vocabulary, which decides how prompts are laid out: 7 for `v7`.
    pub fn version(&self) -> Option<u32> {
        self.version
    }

    /// Whether a token stands for text.
    pub fn is_text(&self, id: u32) -> bool {
        self.text(id).is_some()
    }

    /// The bytes of an ordinary token; `None` for control tokens and unknown ids. They need not be whole characters.
    pub fn text(&self, id: u32) -> Option<&[u8]> {
        let rank = id.checked_sub(u32::try_from(self.special.len()).ok()?)?;
        self.bpe.tokens().get(rank)
    }

    /// What the file says about audio.
    pub fn audio(&self) -> Option<&TekkenAudio> {
        self.audio.as_ref()
    }
}

/// The number in `v7` or `v7-mm`.
fn version_number(name: &str) -> Option<u32> {
    let digits = name.trim_start_matches('v');
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits[..end.unwrap_or(digits.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(vocab: &str) -> String {
        format!(
            r#"{{"config": {{"pattern": "\\s+|\\S+", "num_vocab_tokens": 3, "default_vocab_size": 12, "default_num_special_tokens": 10, "version": "v7"}},
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
        // A file of a few hundred bytes could ask for names without end.
        let many = json("").replace("special_tokens\": 10", "special_tokens\": 1000000000");
        assert!(read(&many, 1_000_000_000).contains("do not fit"));
    }

    /// What holds for every vocabulary that was read.
    fn check(tekken: &Tekken) {
        assert!(tekken.n_special() <= tekken.len() && tekken.len() == 12);
        let text = "a \u{e9}\u{1f99c} [STREAMING_PAD]  a\0";
        let ids = tekken.encode(text);
        assert!(ids.iter().all(|&id| tekken.is_text(id)), "{ids:?}");
        let all: Vec<u32> = (0..14).chain([u32::MAX]).collect();
        let _ = (tekken.decode(&all, true), tekken.decode(&ids, false));
        for id in all {
            assert!(tekken.text(id).is_none() || tekken.special_name(id).is_none());
        }
    }

    #[test]
    fn broken_files_are_errors_or_vocabularies() {
        const BYTES: &[u8] = b"0-.e[]{}\",:\\ tn\0\xff\x80\xc3";
        const NUMBERS: [&str; 9] = [
            "-1",
            "0.5",
            "3",
            "4294967296",
            "18446744073709551615",
            "18446744073709551616",
            "1e308",
            "null",
            "\"7\"",
        ];
        let whole = json(TWO);
        let mut n_read = 0;
        let mut read = |bytes: &[u8]| {
            if let Ok(tekken) = Tekken::from_json(Path::new("x"), bytes, 12) {
                check(&tekken);
                n_read += 1;
            }
        };
        for at in 0..whole.len() {
            let (before, after) = whole.as_bytes().split_at(at);
            // Cut off, a byte less, a byte more, another byte.
            read(before);
            read(&[before, &after[1..]].concat());
            for &byte in BYTES {
                read(&[before, &[byte], after].concat());
                read(&[before, &[byte], &after[1..]].concat());
            }
            let is_digit = |byte: &u8| byte.is_ascii_digit();
            let digits = after.iter().take_while(|byte| is_digit(byte)).count();
            if digits > 0 && !before.last().is_some_and(is_digit) {
                for number in NUMBERS {
                    read(&[before, number.as_bytes(), &after[digits..]].concat());
                }
            }
        }
        assert!(n_read > 100, "{n_read}");
    }

    #[test]
    fn what_is_said_twice_or_not_at_all() {
        let read = |text: &str| Tekken::from_json(Path::new("x"), text.as_bytes(), 12);
        // The same rank twice is no order; the same bytes twice are the first token's.
        let twice = TWO.replace("\"rank\": 1", "\"rank\": 0");
        let error = read(&json(&twice)).unwrap_err().to_string();
        assert!(
            error.contains("entry 1") && error.contains("rank 0"),
            "{error}"
        );
        let same = read(&json(&TWO.replace("IGE=", "AA=="))).unwrap();
        assert_eq!(same.encode("\0"), [10]);
        assert_eq!(same.decode(&[11], false), "\0");
        // A name behind the last control token names nothing, and one that is missing gets a number.
        let far = json(TWO).replace("\"rank\": 7", "\"rank\": 18446744073709551615");
        let far = read(&far).unwrap();
        assert_eq!(far.special("[STREAMING_PAD]"), None);
        assert_eq!(far.special_name(7), Some("<SPECIAL_7>"));
        let none = json(TWO).replace("special_tokens\": [", "others\": [");
        assert_eq!(read(&none).unwrap().n_special(), 10);
        // Names are text: half of a character is none.
        let half = json(TWO).replace("<unk>", "\\ud83e");
        assert!(
            read(&half)
                .unwrap_err()
                .to_string()
                .contains("not a Tekken")
        );
        let nested = format!("{{\"config\": {}", "[".repeat(100_000));
        assert!(read(&nested).is_err());
    }
}
