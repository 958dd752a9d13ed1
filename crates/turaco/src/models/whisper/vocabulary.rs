//! Where a Whisper checkpoint keeps its vocabulary.

use std::path::Path;

use super::config::WhisperConfig;
use crate::Result;
use crate::tokenizer::{Vocabulary, WhisperTokenizer};
use crate::weights::{Bytes, Checkpoint, Extras, invalid};

/// A vocabulary as the checkpoint stores it, for the tokenizer to read.
#[derive(Debug, Clone)]
pub enum VocabularySource {
    /// The content of a Hugging Face `tokenizer.json`.
    TokenizerJson(Bytes),
    /// The contents of Hugging Face's older files.
    VocabJsonMerges {
        /// `vocab.json`: an object of token text (in GPT-2's alphabet) to id.
        vocab: Bytes,
        /// `merges.txt`: one merge per line, in rank order.
        merges: Bytes,
        /// `added_tokens.json`: an object of special token to id, if there is one.
        added_tokens: Option<Bytes>,
    },
    /// All tokens in the order of their ids; special ones may be missing at the end.
    TokenList {
        /// The tokens.
        tokens: Vec<Vec<u8>>,
        /// What their bytes mean.
        encoding: TokenEncoding,
    },
}

/// How the bytes of a listed token stand for text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenEncoding {
    /// They are the text's bytes (whisper.cpp).
    RawBytes,
    /// UTF-8 of GPT-2's alphabet, in which every byte is one printable character (CTranslate2).
    Gpt2Alphabet,
}

/// The vocabulary of a checkpoint: of the weight file itself, else of the files beside it.
pub(super) fn find(
    checkpoint: &Checkpoint,
    config: &WhisperConfig,
    notes: &mut Vec<String>,
) -> Result<Option<VocabularySource>> {
    match &checkpoint.extras {
        Extras::None | Extras::CTranslate2(_) => beside(checkpoint, config),
        Extras::PyTorch(dimensions) if dimensions.is_empty() => beside(checkpoint, config),
        // OpenAI's files rely on the vocabularies of its package.
        Extras::PyTorch(_) => Ok(None),
        Extras::Ggml(header) if header.vocabulary.is_empty() => Ok(None),
        Extras::Ggml(header) => Ok(Some(VocabularySource::TokenList {
            tokens: header.vocabulary.clone(),
            encoding: TokenEncoding::RawBytes,
        })),
        Extras::Apr(header) => {
            let Some(tokens) = &header.vocabulary else {
                return Ok(None);
            };
            // The format does not say in which alphabet tokens are; the one of a single space tells.
            let encoding = match tokens.get(SPACE_TOKEN).map(Vec::as_slice) {
                Some(b" ") => TokenEncoding::RawBytes,
                Some(space) if space == "Ġ".as_bytes() => TokenEncoding::Gpt2Alphabet,
                _ => {
                    notes.push(format!(
                        "the vocabulary in {} is not in Whisper's order and is not used",
                        checkpoint.weights.path().display()
                    ));
                    return Ok(None);
                }
            };
            Ok(Some(VocabularySource::TokenList {
                tokens: tokens.iter().take(config.n_vocab).cloned().collect(),
                encoding,
            }))
        }
    }
}

/// Id of a single space in both of Whisper's vocabularies.
const SPACE_TOKEN: usize = 220;

/// The vocabulary in the files beside the weights.
fn beside(checkpoint: &Checkpoint, config: &WhisperConfig) -> Result<Option<VocabularySource>> {
    let sidecars = &checkpoint.sidecars;
    if let Some(json) = sidecars.get("tokenizer.json")? {
        return Ok(Some(VocabularySource::TokenizerJson(json)));
    }
    if let (Some(vocab), Some(merges)) = (sidecars.get("vocab.json")?, sidecars.get("merges.txt")?)
    {
        return Ok(Some(VocabularySource::VocabJsonMerges {
            vocab,
            merges,
            added_tokens: sidecars.get("added_tokens.json")?,
        }));
    }
    let list = |file: &str, tokens: Vec<Vec<u8>>| {
        if tokens.len() > config.n_vocab {
            return Err(invalid(
                &sidecars.path(file),
                format!(
                    "{} tokens, but the model has {}",
                    tokens.len(),
                    config.n_vocab
                ),
            ));
        }
        Ok(Some(VocabularySource::TokenList {
            tokens,
            encoding: TokenEncoding::Gpt2Alphabet,
        }))
    };
    if let Some(bytes) = sidecars.get("vocabulary.json")? {
        let tokens: Vec<String> = serde_json::from_slice(&bytes).map_err(|error| {
            invalid(
                &sidecars.path("vocabulary.json"),
                format!("expected a list of tokens: {error}"),
            )
        })?;
        return list(
            "vocabulary.json",
            tokens.into_iter().map(String::into_bytes).collect(),
        );
    }
    if let Some(bytes) = sidecars.get("vocabulary.txt")? {
        // One token per line; only a last line without content is no token.
        let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let tokens = lines
            .split(|&byte| byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec())
            .collect();
        return list("vocabulary.txt", tokens);
    }
    Ok(None)
}

impl VocabularySource {
    /// The tokenizer of a vocabulary found in `path`, a folder or the weights in it, for a model of `n_vocab` tokens.
    ///
    /// # Errors
    /// A vocabulary that is broken or belongs to another model.
    pub fn tokenizer(&self, path: &Path, n_vocab: usize) -> Result<WhisperTokenizer> {
        // Files beside the weights lie in their folder.
        let folder = if path.is_file() {
            path.parent().unwrap_or(path)
        } else {
            path
        };
        let vocabulary = match self {
            Self::TokenizerJson(json) => {
                Vocabulary::from_tokenizer_json(&folder.join("tokenizer.json"), json)?
            }
            Self::VocabJsonMerges {
                vocab,
                merges,
                added_tokens,
            } => {
                let added_path = folder.join("added_tokens.json");
                Vocabulary::from_vocab_and_merges(
                    (&folder.join("vocab.json"), vocab),
                    (&folder.join("merges.txt"), merges),
                    added_tokens
                        .as_ref()
                        .map(|json| (added_path.as_path(), &json[..])),
                )?
            }
            Self::TokenList {
                tokens,
                encoding: TokenEncoding::Gpt2Alphabet,
            } => Vocabulary::from_vocabulary_txt(path, &tokens.join(&b'\n'))?,
            Self::TokenList {
                tokens,
                encoding: TokenEncoding::RawBytes,
            } => Vocabulary::from_raw_tokens(path, tokens)?,
        };
        WhisperTokenizer::new(path, vocabulary, n_vocab)
    }
}
