//! Vocabulary files: Hugging Face `tokenizer.json`, `vocab.json` + `merges.txt`, CTranslate2 token lists, the raw
//! token lists of ggml files, and the two vocabularies that come with this crate.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Deserialize;

use super::bpe::{Bpe, Merge, TokenTable, byte_of_gpt2_char};
use crate::{Error, Result};

/// The first special token: text tokens have smaller ids.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// More ids than any vocabulary of this kind has; keeps a hostile id from asking for memory.
const MAX_TOKENS: u32 = 1 << 20;

/// Text tokens with their merge rules, and special tokens by id. `special` is empty if the source names none.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// The text tokens.
    pub bpe: Bpe,
    /// Special tokens, [`END_OF_TEXT`] and all ids above it.
    pub special: BTreeMap<u32, String>,
}

impl Vocabulary {
    /// Reads a Hugging Face `tokenizer.json` of type BPE. `path` is only used in errors.
    pub fn from_tokenizer_json(path: &Path, json: &[u8]) -> Result<Self> {
        let file: TokenizerFile = serde_json::from_slice(json).map_err(|error| {
            let kind = serde_json::from_slice::<TokenizerKind>(json)
                .ok()
                .and_then(|file| file.model.kind);
            match kind.as_deref() {
                None | Some("BPE") => {
                    invalid(path, format!("not a Hugging Face tokenizer: {error}"))
                }
                Some(kind) => invalid(
                    path,
                    format!("tokenizer model of type `{kind}`; Whisper's is `BPE`"),
                ),
            }
        })?;
        let added = file
            .added_tokens
            .into_iter()
            .map(|token| (token.content, token.id));
        Self::from_maps(
            path,
            file.model.vocab,
            added.collect(),
            path,
            &file.model.merges,
        )
    }

    /// Reads the older Hugging Face files: `vocab.json`, `merges.txt` and, where there is one, `added_tokens.json`.
    pub fn from_vocab_and_merges(
        (vocab_path, vocab): (&Path, &[u8]),
        (merges_path, merges): (&Path, &[u8]),
        added: Option<(&Path, &[u8])>,
    ) -> Result<Self> {
        let vocab: HashMap<String, u32> = parse_json(vocab_path, vocab)?;
        let added: HashMap<String, u32> = match added {
            Some((path, bytes)) => parse_json(path, bytes)?,
            None => HashMap::new(),
        };
        let merges: Vec<MergeText> = merge_lines(merges_path, merges)?
            .map(|line| MergeText::Joined(line.to_owned()))
            .collect();
        Self::from_maps(vocab_path, vocab, added, merges_path, &merges)
    }

    /// Reads a CTranslate2 `vocabulary.txt` (one token per line, in GPT-2's printable alphabet).
    pub fn from_vocabulary_txt(path: &Path, text: &[u8]) -> Result<Self> {
        let text = text_of(path, text)?;
        // An empty line is a token (the last text token of multilingual models is empty), the end of the file is not.
        let text = text.strip_suffix('\n').unwrap_or(text);
        let tokens: Vec<&str> = text
            .split('\n')
            .map(|line| line.strip_suffix('\r').unwrap_or(line))
            .collect();
        Self::from_printable_tokens(path, &tokens)
    }

    /// Reads a CTranslate2 `vocabulary.json` (a list of tokens in GPT-2's printable alphabet).
    pub fn from_vocabulary_json(path: &Path, json: &[u8]) -> Result<Self> {
        let tokens: Vec<String> = parse_json(path, json)?;
        Self::from_printable_tokens(path, &tokens)
    }

    /// Takes tokens in id order, as raw bytes (ggml files). Special tokens may follow the text tokens by name or be
    /// left out.
    pub fn from_raw_tokens<T: AsRef<[u8]>>(path: &Path, tokens: &[T]) -> Result<Self> {
        check_count(path, tokens.len())?;
        let n_text = tokens
            .iter()
            .position(|token| token.as_ref() == END_OF_TEXT.as_bytes())
            .unwrap_or(tokens.len());
        let special = (0u32..)
            .zip(tokens)
            .skip(n_text)
            .map(|(id, token)| (id, String::from_utf8_lossy(token.as_ref()).into_owned()))
            .collect();
        Ok(Self {
            bpe: Bpe::from_ranked_tokens(tokens[..n_text].iter().collect()),
            special,
        })
    }

    /// The vocabulary of the English-only models (GPT-2's, 50256 text tokens).
    pub fn english() -> Self {
        Self::bundled(include_bytes!("../../data/whisper_gpt2.bin"))
    }

    /// The vocabulary of the multilingual models (50257 text tokens).
    pub fn multilingual() -> Self {
        Self::bundled(include_bytes!("../../data/whisper_multilingual.bin"))
    }

    /// Unpacks a bundled vocabulary: a deflated `u32` count, one length byte per token, and the tokens' bytes.
    fn bundled(packed: &[u8]) -> Self {
        let raw = miniz_oxide::inflate::decompress_to_vec(packed)
            .expect("the bundled vocabulary is well-formed");
        let (count, rest) = raw
            .split_first_chunk::<4>()
            .expect("the bundled vocabulary has a header");
        let (lengths, mut bytes) = rest.split_at(u32::from_le_bytes(*count) as usize);
        let mut tokens = TokenTable::default();
        for &length in lengths {
            let (token, rest) = bytes.split_at(length.into());
            tokens.push(token);
            bytes = rest;
        }
        Self {
            bpe: Bpe::from_ranked_tokens(tokens),
            special: BTreeMap::new(),
        }
    }

    fn from_printable_tokens<T: AsRef<str>>(path: &Path, tokens: &[T]) -> Result<Self> {
        check_count(path, tokens.len())?;
        let n_text = tokens
            .iter()
            .position(|token| token.as_ref() == END_OF_TEXT)
            .ok_or_else(|| {
                invalid(
                    path,
                    format!("the token `{END_OF_TEXT}` is missing: not a Whisper vocabulary"),
                )
            })?;
        let mut table = TokenTable::default();
        for (id, token) in tokens[..n_text].iter().enumerate() {
            table.push(&bytes_of_printable(path, token.as_ref(), id)?);
        }
        let special = (0u32..)
            .zip(tokens)
            .skip(n_text)
            .map(|(id, token)| (id, token.as_ref().to_owned()))
            .collect();
        Ok(Self {
            bpe: Bpe::from_ranked_tokens(table),
            special,
        })
    }

    fn from_maps(
        vocab_path: &Path,
        vocab: HashMap<String, u32>,
        added: HashMap<String, u32>,
        merges_path: &Path,
        merges: &[MergeText],
    ) -> Result<Self> {
        if let Some((token, id)) = vocab
            .iter()
            .chain(&added)
            .find(|(_, id)| **id >= MAX_TOKENS)
        {
            return Err(invalid(
                vocab_path,
                format!("token `{token}` has id {id}; ids end below {MAX_TOKENS}"),
            ));
        }
        let n_text = match added.get(END_OF_TEXT).or_else(|| vocab.get(END_OF_TEXT)) {
            Some(&id) => id,
            // Only text tokens are listed: the special ones follow them.
            None => vocab.values().max().map_or(0, |id| id + 1),
        };
        let mut by_id: Vec<&str> = vec![""; n_text as usize];
        let mut special = BTreeMap::new();
        for (token, &id) in vocab.iter().chain(&added) {
            match by_id.get_mut(id as usize) {
                Some(slot) => *slot = token,
                None => {
                    special.insert(id, token.clone());
                }
            }
        }
        let mut table = TokenTable::default();
        for (id, token) in by_id.iter().enumerate() {
            table.push(&bytes_of_printable(vocab_path, token, id)?);
        }
        let mut rules = Vec::with_capacity(merges.len());
        let id_of = |token: &str, number: usize| {
            vocab.get(token).copied().ok_or_else(|| {
                invalid(
                    merges_path,
                    format!("merge {number} uses `{token}`, which is not in the vocabulary"),
                )
            })
        };
        for (number, merge) in merges.iter().enumerate() {
            let (left, right) = merge.parts().ok_or_else(|| {
                invalid(
                    merges_path,
                    format!("merge {number} is not two tokens with one space between them"),
                )
            })?;
            rules.push(Merge {
                left: id_of(left, number)?,
                right: id_of(right, number)?,
                merged: id_of(&format!("{left}{right}"), number)?,
            });
        }
        // Whisper's ids are in merge order. Going by them instead of the rules makes up for the multilingual files, which
        // lack the rule for " t", their first one, and so would not encode text as openai-whisper does.
        let in_id_order = rules.windows(2).all(|pair| pair[0].merged < pair[1].merged);
        let bpe = if in_id_order {
            Bpe::from_ranked_tokens(table)
        } else {
            Bpe::from_merges(table, &rules)
        };
        Ok(Self { bpe, special })
    }
}

#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: TokenizerModel,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct TokenizerModel {
    vocab: HashMap<String, u32>,
    merges: Vec<MergeText>,
}

/// As much of the file as tells which kind it is.
#[derive(Deserialize)]
struct TokenizerKind {
    model: ModelKind,
}

#[derive(Deserialize)]
struct ModelKind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// A merge rule: `"a b"` in older files, `["a", "b"]` in newer ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum MergeText {
    Joined(String),
    Pair([String; 2]),
}

impl MergeText {
    fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Self::Joined(text) => text.trim_end().split_once(' '),
            Self::Pair([left, right]) => Some((left, right)),
        }
    }
}

pub(super) fn bytes_of_printable(path: &Path, token: &str, id: usize) -> Result<Vec<u8>> {
    token
        .chars()
        .map(|character| {
            byte_of_gpt2_char(character).ok_or_else(|| {
                invalid(
                    path,
                    format!(
                        "token {id} (`{}`) contains {character:?}, which stands for no byte in the alphabet of byte-level \
                         vocabularies",
                        token.escape_debug()
                    ),
                )
            })
        })
        .collect()
}

pub(super) fn parse_json<T: for<'a> Deserialize<'a>>(path: &Path, json: &[u8]) -> Result<T> {
    serde_json::from_slice(json)
        .map_err(|error| invalid(path, format!("not a vocabulary: {error}")))
}

/// The rules of a `merges.txt`: number, left and right token.
pub(super) fn read_merges<'a>(
    path: &Path,
    bytes: &'a [u8],
) -> Result<Vec<(usize, &'a str, &'a str)>> {
    merge_lines(path, bytes)?
        .enumerate()
        .map(|(number, line)| match line.trim_end().split_once(' ') {
            Some((left, right)) => Ok((number, left, right)),
            None => Err(invalid(
                path,
                format!("merge {number} is not two tokens with one space between them"),
            )),
        })
        .collect()
}

fn merge_lines<'a>(path: &Path, bytes: &'a [u8]) -> Result<impl Iterator<Item = &'a str>> {
    let lines = text_of(path, bytes)?.lines().enumerate();
    Ok(lines
        .filter(|(number, line)| *number > 0 || !line.starts_with("#version"))
        .map(|(_, line)| line)
        .filter(|line| !line.is_empty()))
}

fn text_of<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|error| {
        invalid(
            path,
            format!("not UTF-8 text from byte {} on", error.valid_up_to()),
        )
    })
}

pub(super) fn check_count(path: &Path, count: usize) -> Result<()> {
    if count > MAX_TOKENS as usize {
        return Err(invalid(
            path,
            format!("{count} tokens; at most {MAX_TOKENS} make sense"),
        ));
    }
    Ok(())
}

pub(super) fn invalid(path: &Path, message: String) -> Error {
    Error::Model {
        path: path.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: Result<Vocabulary>) -> String {
        result.expect_err("must be refused").to_string()
    }

    #[test]
    fn bundled_vocabularies_are_complete() {
        let english = Vocabulary::english();
        assert_eq!(english.bpe.tokens().len(), 50256);
        assert_eq!(english.bpe.tokens().get(50255), Some(&b" gazed"[..]));
        let multilingual = Vocabulary::multilingual();
        assert_eq!(multilingual.bpe.tokens().len(), 50257);
        assert_eq!(multilingual.bpe.tokens().get(50255), Some("场".as_bytes()));
        assert_eq!(multilingual.bpe.tokens().get(50256), Some(&b""[..]));
    }

    #[test]
    fn all_sources_give_the_same_vocabulary() {
        let path = Path::new("v");
        let tokenizer = r#"{"added_tokens": [{"id": 5, "content": "<|endoftext|>"}, {"id": 6, "content": "<|x|>"}],
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ġab": 4, "<|endoftext|>": 5},
            "merges": ["a b", ["Ġ", "ab"]]}}"#;
        let sources = [
            Vocabulary::from_tokenizer_json(path, tokenizer.as_bytes()),
            Vocabulary::from_vocab_and_merges(
                (
                    path,
                    r#"{"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ġab": 4}"#.as_bytes(),
                ),
                (path, "#version: 0.2\na b\nĠ ab\n".as_bytes()),
                Some((path, br#"{"<|endoftext|>": 5, "<|x|>": 6}"#)),
            ),
            Vocabulary::from_vocabulary_txt(
                path,
                "a\nb\nĠ\nab\nĠab\n<|endoftext|>\n<|x|>".as_bytes(),
            ),
            Vocabulary::from_vocabulary_txt(
                path,
                "a\r\nb\r\nĠ\r\nab\r\nĠab\r\n<|endoftext|>\r\n<|x|>\r\n".as_bytes(),
            ),
            Vocabulary::from_vocabulary_json(
                path,
                r#"["a","b","Ġ","ab","Ġab","<|endoftext|>","<|x|>"]"#.as_bytes(),
            ),
            Vocabulary::from_raw_tokens(
                path,
                &["a", "b", " ", "ab", " ab", "<|endoftext|>", "<|x|>"],
            ),
        ];
        for (number, source) in sources.into_iter().enumerate() {
            let vocabulary = source.expect("the source is valid");
            let tokens: Vec<&[u8]> = vocabulary.bpe.tokens().iter().collect();
            assert_eq!(
                tokens,
                [&b"a"[..], b"b", b" ", b"ab", b" ab"],
                "source {number}"
            );
            assert_eq!(vocabulary.special[&5], END_OF_TEXT, "source {number}");
            assert_eq!(vocabulary.special[&6], "<|x|>", "source {number}");
            let mut ids = Vec::new();
            vocabulary.bpe.encode_piece(b" abb", &mut ids);
            assert_eq!(ids, [4, 1], "source {number}");
        }
    }

    #[test]
    fn merges_out_of_id_order_are_obeyed() {
        let tokenizer = r#"{"model": {"vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4}, "merges": ["b c", "a b"]}}"#;
        let vocabulary =
            Vocabulary::from_tokenizer_json(Path::new("v"), tokenizer.as_bytes()).expect("valid");
        let mut ids = Vec::new();
        vocabulary.bpe.encode_piece(b"abcab", &mut ids);
        assert_eq!(ids, [0, 4, 3]);
    }

    #[test]
    fn broken_files_are_named_with_the_reason() {
        let path = Path::new("folder/tokenizer.json");
        let unigram = br#"{"model": {"type": "Unigram", "vocab": [["a", 0.5]]}}"#;
        let error = message(Vocabulary::from_tokenizer_json(path, unigram));
        assert!(
            error.contains("Unigram") && error.contains("folder/tokenizer.json"),
            "{error}"
        );
        for (json, reason) in [
            ("", "EOF"),
            ("[]", "not a Hugging Face tokenizer"),
            (r#"{"model": {"vocab": {"a": -1}, "merges": []}}"#, "-1"),
            (
                r#"{"model": {"vocab": {"a": 4294967295}, "merges": []}}"#,
                "4294967295",
            ),
            (
                r#"{"model": {"vocab": {"a": 18446744073709551616}, "merges": []}}"#,
                "vocab",
            ),
            (
                r#"{"model": {"vocab": {"a": 0}, "merges": ["a q"]}}"#,
                "`q`",
            ),
            (
                r#"{"model": {"vocab": {"a": 0}, "merges": ["aq"]}}"#,
                "merge 0",
            ),
            (r#"{"model": {"vocab": {"日": 0}, "merges": []}}"#, "'日'"),
        ] {
            let error = message(Vocabulary::from_tokenizer_json(path, json.as_bytes()));
            assert!(
                error.contains(reason) || reason == "vocab",
                "{json}: {error}"
            );
        }
        assert!(message(Vocabulary::from_vocabulary_txt(path, b"a\nb\n")).contains(END_OF_TEXT));
        assert!(message(Vocabulary::from_vocabulary_txt(path, b"a\n\xff")).contains("byte 2"));
        assert!(message(Vocabulary::from_vocabulary_txt(path, b"")).contains(END_OF_TEXT));
        assert!(
            message(Vocabulary::from_vocabulary_json(path, b"{}")).contains("not a vocabulary")
        );
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        let path = Path::new("v");
        let seed = br#"{"added_tokens":[{"id":1,"content":"<|endoftext|>"}],"model":{"vocab":{"a":0},"merges":["a a"]}}"#;
        for cut in 0..seed.len() {
            let mut bytes = seed.to_vec();
            bytes[cut] = bytes[cut].wrapping_mul(31).wrapping_add(7);
            for bytes in [&bytes[..], &seed[..cut]] {
                let _ = Vocabulary::from_tokenizer_json(path, bytes);
                let _ = Vocabulary::from_vocabulary_json(path, bytes);
                let _ = Vocabulary::from_vocabulary_txt(path, bytes);
                let _ = Vocabulary::from_vocab_and_merges((path, bytes), (path, bytes), None);
            }
        }
    }
}
