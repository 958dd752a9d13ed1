//! Whisper's tokenizer: text tokens, special tokens, timestamps and languages.
//!
//! Behaves as `whisper/tokenizer.py` of openai-whisper; ids are taken from the vocabulary, never assumed.

use std::collections::BTreeMap;
use std::path::Path;

use super::bpe::TokenTable;
use super::languages::{LANGUAGES, language_code};
use super::split::split_gpt2;
use super::vocabulary::{END_OF_TEXT, Vocabulary};
use crate::asr::Task;
use crate::text::python;
use crate::{Error, Result};

/// Timestamp tokens: 0.00 to 30.00 seconds in steps of 0.02.
pub const N_TIMESTAMPS: u32 = 1501;
/// Seconds between two timestamp tokens.
pub const TIMESTAMP_STEP: f64 = 0.02;

/// A model with at least this many rows in its token table is multilingual (openai-whisper's rule).
const MIN_MULTILINGUAL_VOCAB: usize = 51865;
/// Special tokens that are neither languages nor timestamps.
const N_FIXED_SPECIAL: usize = 8;

/// Ids of the special tokens; see [`WhisperTokenizer::special`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `<|endoftext|>`: the end, and the first id that is not text.
    pub eot: u32,
    /// `<|startoftranscript|>`.
    pub sot: u32,
    /// `<|translate|>`.
    pub translate: u32,
    /// `<|transcribe|>`.
    pub transcribe: u32,
    /// `<|startoflm|>`.
    pub sot_lm: u32,
    /// `<|startofprev|>`: what follows is the text before this window.
    pub sot_prev: u32,
    /// `<|nospeech|>`.
    pub no_speech: u32,
    /// `<|notimestamps|>`.
    pub no_timestamps: u32,
    /// `<|0.00|>`; later times follow.
    pub timestamp_begin: u32,
}

/// Text to token ids and back for one Whisper model.
#[derive(Debug, Clone)]
pub struct WhisperTokenizer {
    vocabulary: Vocabulary,
    special: SpecialTokens,
    /// Codes and tokens in the order of the vocabulary.
    languages: Vec<(String, u32)>,
    multilingual: bool,
}

impl WhisperTokenizer {
    /// The bundled vocabulary for a model file that holds none (`.pt`, `.apr`), chosen by `n_vocab` as openai-whisper
    /// does. `model` is only used in errors.
    pub fn bundled(model: &Path, n_vocab: usize) -> Result<Self> {
        let vocabulary = if n_vocab >= MIN_MULTILINGUAL_VOCAB {
            Vocabulary::multilingual()
        } else {
            Vocabulary::english()
        };
        Self::new(model, vocabulary, n_vocab)
    }

    /// Finds the special tokens of a vocabulary: by name if the vocabulary names them, else by their usual order after
    /// the text tokens. `path` is only used in errors.
    pub fn new(path: &Path, mut vocabulary: Vocabulary, n_vocab: usize) -> Result<Self> {
        let n_text = vocabulary.bpe.tokens().len();
        let named = vocabulary
            .special
            .values()
            .any(|name| name == "<|startoftranscript|>");
        if !named {
            vocabulary.special = usual_special_tokens(path, n_text, n_vocab)?;
        }
        // Names of the first release, which old conversions still have.
        for name in vocabulary.special.values_mut() {
            match name.as_str() {
                "<|nocaptions|>" => *name = "<|nospeech|>".to_owned(),
                "<|iw|>" => *name = "<|he|>".to_owned(),
                _ => {}
            }
        }
        let (special, languages) = find_special_tokens(path, &vocabulary.special)?;
        let last = u64::from(special.timestamp_begin) + u64::from(N_TIMESTAMPS) - 1;
        if last >= n_vocab as u64 {
            return Err(Error::Model {
                path: path.to_owned(),
                message: format!(
                    "the tokenizer does not belong to this model: its last timestamp has id {last}, the model has {n_vocab} tokens"
                ),
            });
        }
        // The English-only vocabulary is GPT-2's, one text token shorter than the multilingual one.
        let multilingual = special.eot != 50256;
        Ok(Self {
            vocabulary,
            special,
            languages,
            multilingual,
        })
    }

    /// Overrides what the vocabulary says about being multilingual (`is_multilingual` of a `generation_config.json`).
    pub fn with_multilingual(mut self, multilingual: bool) -> Self {
        self.multilingual = multilingual;
        self
    }

    /// Ids of all special tokens.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// `<|endoftext|>`; all text tokens are below it.
    pub fn eot(&self) -> u32 {
        self.special.eot
    }

    /// `<|startoftranscript|>`.
    pub fn sot(&self) -> u32 {
        self.special.sot
    }

    /// `<|translate|>`.
    pub fn translate(&self) -> u32 {
        self.special.translate
    }

    /// `<|transcribe|>`.
    pub fn transcribe(&self) -> u32 {
        self.special.transcribe
    }

    /// `<|startoflm|>`.
    pub fn sot_lm(&self) -> u32 {
        self.special.sot_lm
    }

    /// `<|startofprev|>`.
    pub fn sot_prev(&self) -> u32 {
        self.special.sot_prev
    }

    /// `<|nospeech|>`.
    pub fn no_speech(&self) -> u32 {
        self.special.no_speech
    }

    /// `<|notimestamps|>`.
    pub fn no_timestamps(&self) -> u32 {
        self.special.no_timestamps
    }

    /// `<|0.00|>`; every id from here on is a time.
    pub fn timestamp_begin(&self) -> u32 {
        self.special.timestamp_begin
    }

    /// Whether the model knows languages and tasks; an English-only model has tokens for them but never saw them.
    pub fn is_multilingual(&self) -> bool {
        self.multilingual
    }

    /// Codes and tokens of the languages, in the order of the vocabulary.
    pub fn languages(&self) -> &[(String, u32)] {
        &self.languages
    }

    /// The token of a language given by code, English name or alias; `None` if this model has none for it.
    pub fn language_token(&self, language: &str) -> Option<u32> {
        let code =
            language_code(language).map_or_else(|| language.trim().to_lowercase(), str::to_owned);
        self.languages
            .iter()
            .find(|(known, _)| *known == code)
            .map(|(_, token)| *token)
    }

    /// The code of a language token.
    pub fn language_of(&self, token: u32) -> Option<&str> {
        self.languages
            .iter()
            .find(|(_, known)| *known == token)
            .map(|(code, _)| code.as_str())
    }

    /// The tokens that start a transcript: `[sot]` for English-only models, `[sot, language, task]` for others, where
    /// `None` stands for English.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a language that this model does not have.
    pub fn sot_sequence(&self, language: Option<&str>, task: Task) -> Result<Vec<u32>> {
        if !self.multilingual {
            return Ok(vec![self.special.sot]);
        }
        let language = language.unwrap_or("en");
        let token = self
            .language_token(language)
            .ok_or_else(|| Error::InvalidOption {
                option: "language",
                message: format!(
                    "this model does not know `{language}`; it knows {}",
                    self.languages
                        .iter()
                        .map(|(code, _)| code.as_str())
                        .collect::<Vec<_>>()
                        .join(" ")
                ),
            })?;
        let task = match task {
            Task::Transcribe => self.special.transcribe,
            Task::Translate => self.special.translate,
        };
        Ok(vec![self.special.sot, token, task])
    }

    /// Token ids of a text, which is taken literally: `<|…|>` makes no special token.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        for piece in split_gpt2(text) {
            self.vocabulary.bpe.encode_piece(piece.as_bytes(), &mut ids);
        }
        ids
    }

    /// Text of the text tokens among `tokens`; special tokens and times are left out. Bytes that are no UTF-8 become
    /// U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let _span = crate::trace::span("detokenise");
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|&token| self.token_bytes(token))
            .copied()
            .collect();
        into_text(bytes)
    }

    /// Text of all tokens; special tokens come out by name (`<|en|>`) and times as `<|1.08|>`.
    pub fn decode_with_timestamps(&self, tokens: &[u32]) -> String {
        let mut bytes = Vec::new();
        for &token in tokens {
            match self.special_name(token) {
                Some(name) => bytes.extend_from_slice(name.as_bytes()),
                None => bytes.extend_from_slice(self.token_bytes(token)),
            }
        }
        into_text(bytes)
    }

    /// The bytes of a text token; empty for special tokens, times and ids beyond the vocabulary.
    pub fn token_bytes(&self, token: u32) -> &[u8] {
        self.text_tokens().get(token).unwrap_or_default()
    }

    /// The bytes of all text tokens, by id.
    pub fn text_tokens(&self) -> &TokenTable {
        self.vocabulary.bpe.tokens()
    }

    /// The name of a special token or time; `None` for text and unknown ids.
    pub fn special_name(&self, token: u32) -> Option<String> {
        if let Some(step) = token.checked_sub(self.special.timestamp_begin) {
            return (step < N_TIMESTAMPS).then(|| timestamp_name(step));
        }
        self.vocabulary.special.get(&token).cloned()
    }

    /// Tokens of speaker tags and other things that are not spoken, sorted: suppressing them avoids annotations such as
    /// `[DAVID]` or music notes.
    pub fn non_speech_tokens(&self) -> Vec<u32> {
        const SYMBOLS: &str = "\" # ( ) * + / : ; < = > @ [ \\ ] ^ _ ` { | } ~ 「 」 『 』 \
            << >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪";
        // Notes and accidentals are one token or several depending on the vocabulary. Their first token is suppressed
        // in either case: it only occurs in the symbols U+2640 to U+267F.
        const MUSIC: &str = "♩ ♪ ♫ ♬ ♭ ♮ ♯";
        let mut tokens = Vec::new();
        for (symbols, first_of_several) in [(SYMBOLS, false), (MUSIC, true)] {
            for symbol in symbols.split_whitespace() {
                for ids in [self.encode(symbol), self.encode(&format!(" {symbol}"))] {
                    if ids.len() == 1 || first_of_several {
                        tokens.extend(ids.first());
                    }
                }
            }
        }
        // Within a word they are fine, at its beginning they start a list or a quotation.
        for symbol in [" -", " '"] {
            tokens.extend(self.encode(symbol).first());
        }
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// Splits tokens into words with the tokens of each: at spaces and punctuation, or, in languages that are written
    /// without spaces, wherever characters are complete.
    pub fn split_to_word_tokens(
        &self,
        tokens: &[u32],
        language: &str,
    ) -> (Vec<String>, Vec<Vec<u32>>) {
        if matches!(language, "zh" | "ja" | "th" | "lo" | "my" | "yue") {
            self.split_at_characters(tokens)
        } else {
            self.split_at_spaces(tokens)
        }
    }

    fn split_at_characters(&self, tokens: &[u32]) -> (Vec<String>, Vec<Vec<u32>>) {
        let whole: Vec<char> = self.decode_with_timestamps(tokens).chars().collect();
        let mut words = Vec::new();
        let mut word_tokens = Vec::new();
        let mut current = Vec::new();
        let mut offset = 0;
        for &token in tokens {
            current.push(token);
            let text = self.decode_with_timestamps(&current);
            // A U+FFFD that is also in the text of all tokens is not the beginning of a character.
            let complete = match text
                .chars()
                .position(|character| character == char::REPLACEMENT_CHARACTER)
            {
                None => true,
                Some(place) => whole.get(offset + place) == Some(&char::REPLACEMENT_CHARACTER),
            };
            if complete {
                offset += text.chars().count();
                words.push(text);
                word_tokens.push(std::mem::take(&mut current));
            }
        }
        (words, word_tokens)
    }

    fn split_at_spaces(&self, tokens: &[u32]) -> (Vec<String>, Vec<Vec<u32>>) {
        let (pieces, piece_tokens) = self.split_at_characters(tokens);
        let mut words: Vec<String> = Vec::new();
        let mut word_tokens: Vec<Vec<u32>> = Vec::new();
        for (piece, tokens) in pieces.into_iter().zip(piece_tokens) {
            let starts_word = tokens[0] >= self.special.eot
                || piece.starts_with(' ')
                || is_ascii_punctuation_run(python::strip(&piece));
            match (words.last_mut(), word_tokens.last_mut()) {
                (Some(word), Some(of_word)) if !starts_word => {
                    word.push_str(&piece);
                    of_word.extend(tokens);
                }
                _ => {
                    words.push(piece);
                    word_tokens.push(tokens);
                }
            }
        }
        (words, word_tokens)
    }
}

/// Python's `piece in string.punctuation`: a substring of the 32 symbols in their order, the empty one included.
fn is_ascii_punctuation_run(piece: &str) -> bool {
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~".contains(piece)
}

fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn timestamp_name(step: u32) -> String {
    format!("<|{:.2}|>", f64::from(step) * TIMESTAMP_STEP)
}

/// The special tokens below the times in the order of all known models, after `n_text` text tokens.
fn usual_special_tokens(
    path: &Path,
    n_text: usize,
    n_vocab: usize,
) -> Result<BTreeMap<u32, String>> {
    let fixed = n_text + N_FIXED_SPECIAL + N_TIMESTAMPS as usize;
    let n_languages = n_vocab.checked_sub(fixed).ok_or_else(|| Error::Model {
        path: path.to_owned(),
        message: format!(
            "{n_vocab} tokens are too few for a Whisper model with {n_text} text tokens: at least {fixed} are needed"
        ),
    })?;
    // More than the known languages means that tokens were added at the end, as fine-tunes of v1 and v2 models do.
    let n_languages = if n_languages > LANGUAGES.len() {
        99
    } else {
        n_languages
    };
    let names = [END_OF_TEXT.to_owned(), "<|startoftranscript|>".to_owned()]
        .into_iter()
        .chain(
            LANGUAGES[..n_languages]
                .iter()
                .map(|(code, _)| format!("<|{code}|>")),
        )
        .chain(
            [
                "translate",
                "transcribe",
                "startoflm",
                "startofprev",
                "nospeech",
                "notimestamps",
            ]
            .map(|name| format!("<|{name}|>")),
        );
    // The number of ids was bounded when the vocabulary was read.
    Ok((n_text as u32..).zip(names).collect())
}

fn find_special_tokens(
    path: &Path,
    special: &BTreeMap<u32, String>,
) -> Result<(SpecialTokens, Vec<(String, u32)>)> {
    let find = |name: &str| {
        special
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(id, _)| *id)
    };
    let need = |name: &str| {
        find(name).ok_or_else(|| Error::Model {
            path: path.to_owned(),
            message: format!("the special token `{name}` is missing: not a Whisper tokenizer"),
        })
    };
    let no_timestamps = need("<|notimestamps|>")?;
    let found = SpecialTokens {
        eot: need(END_OF_TEXT)?,
        sot: need("<|startoftranscript|>")?,
        translate: need("<|translate|>")?,
        transcribe: need("<|transcribe|>")?,
        sot_lm: need("<|startoflm|>")?,
        sot_prev: need("<|startofprev|>")?,
        no_speech: need("<|nospeech|>")?,
        no_timestamps,
        // Many tokenizers do not list the times.
        timestamp_begin: find("<|0.00|>").unwrap_or(no_timestamps + 1),
    };
    let languages = special
        .iter()
        .filter(|(id, _)| **id > found.sot && **id < found.translate.min(found.transcribe))
        .filter_map(|(id, name)| {
            let code = name.strip_prefix("<|")?.strip_suffix("|>")?;
            Some((code.to_owned(), *id))
        })
        .collect();
    Ok((found, languages))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn bundled(n_vocab: usize) -> WhisperTokenizer {
        WhisperTokenizer::bundled(Path::new("model.pt"), n_vocab).expect("bundled")
    }

    fn ids(value: &Value) -> Vec<u32> {
        value
            .as_array()
            .expect("list")
            .iter()
            .map(|id| id.as_u64().expect("id") as u32)
            .collect()
    }

    #[test]
    fn reference_vectors_are_reproduced() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../testdata/whisper/tokenizer_vectors.json"
        );
        let vectors: Value =
            serde_json::from_slice(&std::fs::read(path).expect("testdata")).expect("JSON");
        for (name, vectors) in vectors.as_object().expect("object") {
            let tokenizer = bundled(vectors["n_vocab"].as_u64().expect("n_vocab") as usize);
            for (key, id) in [
                ("eot", tokenizer.eot()),
                ("sot", tokenizer.sot()),
                ("translate", tokenizer.translate()),
                ("transcribe", tokenizer.transcribe()),
                ("sot_lm", tokenizer.sot_lm()),
                ("sot_prev", tokenizer.sot_prev()),
                ("no_speech", tokenizer.no_speech()),
                ("no_timestamps", tokenizer.no_timestamps()),
                ("timestamp_begin", tokenizer.timestamp_begin()),
            ] {
                assert_eq!(vectors[key], id, "{name} {key}");
            }
            assert_eq!(tokenizer.is_multilingual(), name != "en");
            assert_eq!(
                tokenizer.non_speech_tokens(),
                ids(&vectors["non_speech_tokens"]),
                "{name}"
            );
            assert_eq!(tokenizer.encode(" "), ids(&vectors["blank"]), "{name}");
            assert_eq!(
                tokenizer
                    .sot_sequence(None, Task::Transcribe)
                    .expect("English"),
                ids(&vectors["sot_sequence"])
            );
            let languages = vectors["language_tokens"].as_object().expect("object");
            assert_eq!(tokenizer.languages().len(), languages.len(), "{name}");
            for (code, id) in languages {
                let token = tokenizer.language_token(code).expect("known language");
                assert_eq!(*id, token, "{name} {code}");
                assert_eq!(tokenizer.language_of(token), Some(code.as_str()));
            }
            for vector in vectors["encode"].as_array().expect("list") {
                let text = vector["text"].as_str().expect("text");
                let mut tokens = tokenizer.encode(text);
                assert_eq!(tokens, ids(&vector["ids"]), "{name} {text:?}");
                assert_eq!(tokenizer.decode(&tokens), text, "{name}");
                tokens.push(tokenizer.eot());
                let (words, word_tokens) = tokenizer.split_to_word_tokens(&tokens, "en");
                let expected: Vec<&str> = vector["words"]
                    .as_array()
                    .expect("list")
                    .iter()
                    .filter_map(Value::as_str)
                    .collect();
                assert_eq!(words, expected, "{name} {text:?}");
                assert_eq!(word_tokens.concat(), tokens, "{name} {text:?}");
            }
        }
    }

    #[test]
    fn special_tokens_are_left_out_or_named() {
        let tokenizer = bundled(51865);
        let tokens = [50258, 50259, 50359, 50364, 2425, 50364 + 54, 50257, 60000];
        assert_eq!(tokenizer.decode(&tokens), " Hello");
        assert_eq!(
            tokenizer.decode_with_timestamps(&tokens),
            "<|startoftranscript|><|en|><|transcribe|><|0.00|> Hello<|1.08|><|endoftext|>"
        );
        assert_eq!(
            tokenizer.special_name(50364 + 1500).as_deref(),
            Some("<|30.00|>")
        );
        assert_eq!(tokenizer.special_name(50364 + 1501), None);
    }

    #[test]
    fn languages_by_name_and_tasks() {
        let tokenizer = bundled(51866);
        assert_eq!(
            tokenizer
                .sot_sequence(Some("Cantonese"), Task::Translate)
                .expect("known"),
            [50258, 50358, 50359]
        );
        let error = bundled(51865)
            .sot_sequence(Some("yue"), Task::Transcribe)
            .expect_err("not in v2");
        assert!(error.to_string().contains("`yue`"), "{error}");
        assert_eq!(
            bundled(51864)
                .sot_sequence(Some("de"), Task::Translate)
                .expect("ignored"),
            [50257]
        );
    }

    #[test]
    fn raw_token_lists_give_the_same_tokenizer() {
        for n_vocab in [51864, 51865, 51866] {
            let bundled = bundled(n_vocab);
            let raw: Vec<&[u8]> = bundled.text_tokens().iter().collect();
            let path = Path::new("ggml.bin");
            let vocabulary = Vocabulary::from_raw_tokens(path, &raw).expect("valid");
            let tokenizer = WhisperTokenizer::new(path, vocabulary, n_vocab).expect("valid");
            assert_eq!(tokenizer.special(), bundled.special());
            assert_eq!(tokenizer.languages(), bundled.languages());
            assert_eq!(tokenizer.is_multilingual(), bundled.is_multilingual());
        }
    }

    #[test]
    fn tokenizers_that_do_not_fit_are_refused() {
        let error = WhisperTokenizer::bundled(Path::new("x.pt"), 1000)
            .expect_err("too small")
            .to_string();
        assert!(
            error.contains("1000 tokens") && error.contains("x.pt"),
            "{error}"
        );
        let path = Path::new("vocabulary.json");
        let json = br#"["a", "<|endoftext|>", "<|startoftranscript|>"]"#;
        let vocabulary = Vocabulary::from_vocabulary_json(path, json).expect("a list");
        let error = WhisperTokenizer::new(path, vocabulary, 51865)
            .expect_err("incomplete")
            .to_string();
        assert!(
            error.contains("<|notimestamps|>") && error.contains("vocabulary.json"),
            "{error}"
        );
    }

    /// Real model folders, where they are at hand, hold the bundled vocabularies.
    #[test]
    fn reference_checkpoint_has_the_bundled_vocabulary() {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/golden/whisper/tiny-random"
        );
        let folder = Path::new(folder);
        if !folder.is_dir() {
            eprintln!("skipped: {} is not there", folder.display());
            return;
        }
        let path = folder.join("tokenizer.json");
        let json = std::fs::read(&path).expect("readable");
        let vocabulary = Vocabulary::from_tokenizer_json(&path, &json).expect("valid");
        let tokenizer = WhisperTokenizer::new(&path, vocabulary, 51866).expect("complete");
        let bundled = bundled(51866);
        assert_eq!(tokenizer.special(), bundled.special());
        assert_eq!(tokenizer.languages(), bundled.languages());
        for text in [
            "It's 12:30, isn't it?  \n\n  end ",
            "日本語のテキスト ١٢٣ ½ naïve",
        ] {
            assert_eq!(tokenizer.encode(text), bundled.encode(text));
        }
    }
}
