//! Sizes of a Whisper model and the generation settings that come with it.

use std::path::Path;

use serde_json::{Map, Value};

use super::encoder::EncoderConfig;
use crate::weights::invalid;
use crate::{Error, Result};

/// Sizes of one Whisper model. All numbers come from the file; [`WhisperConfig::validate`] has accepted them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhisperConfig {
    /// Mel bands of the input, 80 or 128 in the published models.
    pub n_mels: usize,
    /// Encoder positions of a window (1500).
    pub n_audio_ctx: usize,
    /// Width of the encoder.
    pub n_audio_state: usize,
    /// Attention heads of the encoder.
    pub n_audio_heads: usize,
    /// Encoder blocks.
    pub n_audio_layers: usize,
    /// Inner width of the encoder's MLPs.
    pub n_audio_ffn: usize,
    /// Decoder positions (448).
    pub n_text_ctx: usize,
    /// Width of the decoder, equal to the encoder's.
    pub n_text_state: usize,
    /// Attention heads of the decoder.
    pub n_text_heads: usize,
    /// Decoder blocks.
    pub n_text_layers: usize,
    /// Inner width of the decoder's MLPs.
    pub n_text_ffn: usize,
    /// Rows of the token embedding.
    pub n_vocab: usize,
}

/// The smallest vocabulary: that of the English models, up to the last timestamp.
const MIN_VOCAB: usize = 51_864;

impl WhisperConfig {
    /// The sizes as `config.json` of Hugging Face has them.
    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "architectures": ["WhisperForConditionalGeneration"],
            "model_type": "whisper",
            "d_model": self.n_audio_state,
            "vocab_size": self.n_vocab,
            "num_mel_bins": self.n_mels,
            "encoder_layers": self.n_audio_layers,
            "decoder_layers": self.n_text_layers,
            "encoder_attention_heads": self.n_audio_heads,
            "decoder_attention_heads": self.n_text_heads,
            "encoder_ffn_dim": self.n_audio_ffn,
            "decoder_ffn_dim": self.n_text_ffn,
            "max_source_positions": self.n_audio_ctx,
            "max_target_positions": self.n_text_ctx,
            "activation_function": "gelu",
        })
    }

    /// Sizes of the encoder.
    pub fn encoder(&self) -> EncoderConfig {
        EncoderConfig {
            n_mels: self.n_mels,
            n_ctx: self.n_audio_ctx,
            n_state: self.n_audio_state,
            n_heads: self.n_audio_heads,
            n_layers: self.n_audio_layers,
            n_ffn: self.n_audio_ffn,
        }
    }

    /// Sizes from a Hugging Face `config.json` at `path`.
    ///
    /// # Errors
    /// Names the key that is missing or impossible; names the model family when it is another.
    pub(crate) fn from_hugging_face(path: &Path, json: &Map<String, Value>) -> Result<Self> {
        if let Some(family) = json.get("model_type").and_then(Value::as_str)
            && family != "whisper"
        {
            return Err(invalid(
                path,
                format!(
                    "this is a model of type `{}`, expected `whisper`",
                    crate::weights::printable(family)
                ),
            ));
        }
        let size = |key: &str| {
            let value = json
                .get(key)
                .ok_or_else(|| invalid(path, format!("key `{key}` is missing")))?;
            value
                .as_u64()
                .and_then(|value| usize::try_from(value).ok())
                .ok_or_else(|| {
                    invalid(
                        path,
                        format!("key `{key}` has to be a positive whole number"),
                    )
                })
        };
        let config = Self {
            n_mels: size("num_mel_bins")?,
            n_audio_ctx: size("max_source_positions")?,
            n_audio_state: size("d_model")?,
            n_audio_heads: size("encoder_attention_heads")?,
            n_audio_layers: size("encoder_layers")?,
            n_audio_ffn: size("encoder_ffn_dim")?,
            n_text_ctx: size("max_target_positions")?,
            n_text_state: size("d_model")?,
            n_text_heads: size("decoder_attention_heads")?,
            n_text_layers: size("decoder_layers")?,
            n_text_ffn: size("decoder_ffn_dim")?,
            n_vocab: size("vocab_size")?,
        };
        if let Some(activation) = json.get("activation_function").and_then(Value::as_str)
            && activation != "gelu"
        {
            return Err(invalid(
                path,
                format!(
                    "activation `{}` is not supported (gelu is)",
                    crate::weights::printable(activation)
                ),
            ));
        }
        if json.get("scale_embedding").and_then(Value::as_bool) == Some(true) {
            return Err(invalid(
                path,
                "`scale_embedding` is set, which Whisper does not have",
            ));
        }
        config.validate(path)?;
        Ok(config)
    }

    /// Checks that the sizes can be those of a Whisper model.
    ///
    /// # Errors
    /// Names the size that is impossible.
    pub(crate) fn validate(&self, path: &Path) -> Result<()> {
        // Upper bounds are far above every published model, and keep all products below in range.
        let bounds = [
            ("n_mels", self.n_mels, 1024),
            ("n_audio_ctx", self.n_audio_ctx, 1 << 20),
            ("n_audio_state", self.n_audio_state, 1 << 16),
            ("n_audio_heads", self.n_audio_heads, 1 << 12),
            ("n_audio_layers", self.n_audio_layers, 1 << 10),
            ("n_audio_ffn", self.n_audio_ffn, 1 << 20),
            ("n_text_ctx", self.n_text_ctx, 1 << 20),
            ("n_text_state", self.n_text_state, 1 << 16),
            ("n_text_heads", self.n_text_heads, 1 << 12),
            ("n_text_layers", self.n_text_layers, 1 << 10),
            ("n_text_ffn", self.n_text_ffn, 1 << 20),
            ("n_vocab", self.n_vocab, 1 << 20),
        ];
        for (name, value, most) in bounds {
            if value == 0 || value > most {
                return Err(invalid(
                    path,
                    format!("{name} is {value}, possible are 1 to {most}"),
                ));
            }
        }
        let error = |message: String| -> Result<()> { Err(invalid(path, message)) };
        if self.n_audio_state != self.n_text_state {
            return error(format!(
                "encoder width {} and decoder width {} differ",
                self.n_audio_state, self.n_text_state
            ));
        }
        for (side, state, heads) in [
            ("encoder", self.n_audio_state, self.n_audio_heads),
            ("decoder", self.n_text_state, self.n_text_heads),
        ] {
            if !state.is_multiple_of(heads) {
                return error(format!(
                    "{side} width {state} is not divisible by its {heads} heads"
                ));
            }
        }
        if self.n_vocab < MIN_VOCAB {
            return error(format!(
                "vocabulary of {} tokens is too small for Whisper (at least {MIN_VOCAB})",
                self.n_vocab
            ));
        }
        Ok(())
    }

    /// Whether the model knows languages other than English.
    #[must_use]
    pub const fn is_multilingual(&self) -> bool {
        self.n_vocab > MIN_VOCAB
    }

    /// Language tokens: 99, or 100 since large-v3.
    #[must_use]
    pub const fn num_languages(&self) -> usize {
        self.n_vocab - 51_765 - self.is_multilingual() as usize
    }

    /// Width of one attention head of the encoder.
    #[must_use]
    pub const fn audio_head_dim(&self) -> usize {
        self.n_audio_state / self.n_audio_heads
    }

    /// Width of one attention head of the decoder.
    #[must_use]
    pub const fn text_head_dim(&self) -> usize {
        self.n_text_state / self.n_text_heads
    }
}

/// Generation settings stored with a model, or the reference's where a format stores none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationDefaults {
    /// Cross-attention heads (decoder layer, head) whose weights follow time, for word timestamps. Never empty.
    pub alignment_heads: Vec<(usize, usize)>,
    /// Whether a file's own heads were not usable and others stand in.
    pub alignment_heads_replaced: bool,
    /// Token ids never sampled; `None` when the file says nothing, so that the list is computed from the vocabulary.
    pub suppress_tokens: Option<Vec<u32>>,
    /// Token ids not sampled first; `None` likewise.
    pub begin_suppress_tokens: Option<Vec<u32>>,
    /// Ids of the language tokens, ascending; `None` when the file says nothing.
    pub language_ids: Option<Vec<u32>>,
}

impl GenerationDefaults {
    /// What a model of that name and size has when nothing is stored.
    #[must_use]
    pub fn for_model(config: &WhisperConfig, model_name: &str) -> Self {
        Self {
            alignment_heads: alignment_heads(config, model_name),
            alignment_heads_replaced: false,
            suppress_tokens: None,
            begin_suppress_tokens: None,
            language_ids: None,
        }
    }

    /// Takes over what a `generation_config.json`, a Hugging Face `config.json` or a CTranslate2 `config.json` at `path` says
    /// and is not known yet. Returns notes about entries that were not usable.
    pub(crate) fn merge(
        &mut self,
        config: &WhisperConfig,
        path: &Path,
        json: &Map<String, Value>,
        heads_known: &mut bool,
    ) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        if !*heads_known && let Some(heads) = present(json, &["alignment_heads"]) {
            let pairs: Option<Vec<(usize, usize)>> = heads.as_array().and_then(|heads| {
                heads
                    .iter()
                    .map(|pair| match pair.as_array()?.as_slice() {
                        [layer, head] => Some((
                            usize::try_from(layer.as_u64()?).ok()?,
                            usize::try_from(head.as_u64()?).ok()?,
                        )),
                        _ => None,
                    })
                    .collect()
            });
            let pairs = pairs.ok_or_else(|| {
                invalid(
                    path,
                    "key `alignment_heads` has to be a list of [layer, head]",
                )
            })?;
            // Distilled models are published with the list of the model that they were made from.
            let usable = pairs
                .iter()
                .all(|&(layer, head)| layer < config.n_text_layers && head < config.n_text_heads);
            if !usable {
                self.alignment_heads_replaced = true;
                notes.push(format!(
                    "`alignment_heads` of {} names layers or heads that the model does not have; the default is used",
                    path.display()
                ));
            } else if !pairs.is_empty() {
                self.alignment_heads = pairs;
                self.alignment_heads_replaced = false;
                *heads_known = true;
            }
        }
        let mut ids = |known: &mut Option<Vec<u32>>, keys: &[&str]| -> Result<()> {
            if known.is_none()
                && let Some(value) = present(json, keys)
            {
                let list = value
                    .as_array()
                    .and_then(|list| list.iter().map(Value::as_i64).collect::<Option<Vec<i64>>>());
                let list = list.ok_or_else(|| {
                    invalid(
                        path,
                        format!("key `{}` has to be a list of token ids", keys[0]),
                    )
                })?;
                let total = list.len();
                let inside: Vec<u32> = list
                    .into_iter()
                    .filter_map(|id| u32::try_from(id).ok())
                    .filter(|&id| (id as usize) < config.n_vocab)
                    .collect();
                if inside.len() < total {
                    notes.push(format!(
                        "`{}` of {} names {} tokens that the model does not have; they are left out",
                        keys[0],
                        path.display(),
                        total - inside.len()
                    ));
                }
                *known = Some(inside);
            }
            Ok(())
        };
        ids(
            &mut self.suppress_tokens,
            &["suppress_tokens", "suppress_ids"],
        )?;
        ids(
            &mut self.begin_suppress_tokens,
            &["begin_suppress_tokens", "suppress_ids_begin"],
        )?;
        ids(&mut self.language_ids, &["lang_ids"])?;
        if self.language_ids.is_none()
            && let Some(map) = present(json, &["lang_to_id"])
        {
            let found = map.as_object().and_then(|map| {
                map.values()
                    .map(|id| {
                        id.as_u64()
                            .and_then(|id| u32::try_from(id).ok())
                            .filter(|&id| (id as usize) < config.n_vocab)
                    })
                    .collect::<Option<Vec<u32>>>()
            });
            self.language_ids = Some(found.ok_or_else(|| -> Error {
                invalid(
                    path,
                    format!(
                        "key `lang_to_id` has to map language tokens to ids below {}",
                        config.n_vocab
                    ),
                )
            })?);
        }
        if let Some(ids) = &mut self.language_ids {
            ids.sort_unstable();
            ids.dedup();
        }
        Ok(notes)
    }
}

/// The value of the first of `keys` that is there and not null.
fn present<'a>(json: &'a Map<String, Value>, keys: &[&str]) -> Option<&'a Value> {
    keys.iter()
        .find_map(|&key| json.get(key))
        .filter(|value| !value.is_null())
}

/// The reference's heads (`_ALIGNMENT_HEADS` of openai/whisper), which most formats do not store; for models that it does not
/// know, all heads of the second half of the decoder, as the reference does.
fn alignment_heads(config: &WhisperConfig, model_name: &str) -> Vec<(usize, usize)> {
    let key = (config.n_text_layers, config.n_text_state, config.n_vocab);
    let list: &[(usize, usize)] = match key {
        (4, 384, 51_864) => &[
            (1, 0),
            (2, 0),
            (2, 5),
            (3, 0),
            (3, 1),
            (3, 2),
            (3, 3),
            (3, 4),
        ],
        (4, 384, 51_865) => &[(2, 2), (3, 0), (3, 2), (3, 3), (3, 4), (3, 5)],
        (6, 512, 51_864) => &[(3, 3), (4, 7), (5, 1), (5, 5), (5, 7)],
        (6, 512, 51_865) => &[
            (3, 1),
            (4, 2),
            (4, 3),
            (4, 7),
            (5, 1),
            (5, 2),
            (5, 4),
            (5, 6),
        ],
        (12, 768, 51_864) => &[
            (6, 6),
            (7, 0),
            (7, 3),
            (7, 8),
            (8, 2),
            (8, 5),
            (8, 7),
            (9, 0),
            (9, 4),
            (9, 8),
            (9, 10),
            (10, 0),
            (10, 1),
            (10, 2),
            (10, 3),
            (10, 6),
            (10, 11),
            (11, 2),
            (11, 4),
        ],
        (12, 768, 51_865) => &[
            (5, 3),
            (5, 9),
            (8, 0),
            (8, 4),
            (8, 7),
            (8, 8),
            (9, 0),
            (9, 7),
            (9, 9),
            (10, 5),
        ],
        (24, 1024, 51_864) => &[
            (11, 4),
            (14, 1),
            (14, 12),
            (14, 14),
            (15, 4),
            (16, 0),
            (16, 4),
            (16, 9),
            (17, 12),
            (17, 14),
            (18, 7),
            (18, 10),
            (18, 15),
            (20, 0),
            (20, 3),
            (20, 9),
            (20, 14),
            (21, 12),
        ],
        (24, 1024, 51_865) => &[(13, 15), (15, 4), (15, 15), (16, 1), (20, 0), (23, 4)],
        // The two older large models have the same sizes; only the name tells them apart.
        (32, 1280, 51_865) if model_name.contains("large-v1") => &[
            (9, 19),
            (11, 2),
            (11, 4),
            (11, 17),
            (22, 7),
            (22, 11),
            (22, 17),
            (23, 2),
            (23, 15),
        ],
        (32, 1280, 51_865) => &[
            (10, 12),
            (13, 17),
            (16, 11),
            (16, 12),
            (16, 13),
            (17, 15),
            (17, 16),
            (18, 4),
            (18, 11),
            (18, 19),
            (19, 11),
            (21, 2),
            (21, 3),
            (22, 3),
            (22, 9),
            (22, 12),
            (23, 5),
            (23, 7),
            (23, 13),
            (25, 5),
            (26, 1),
            (26, 12),
            (27, 15),
        ],
        (32, 1280, 51_866) => &[
            (7, 0),
            (10, 17),
            (12, 18),
            (13, 12),
            (16, 1),
            (17, 14),
            (19, 11),
            (21, 4),
            (24, 1),
            (25, 6),
        ],
        (4, 1280, 51_866) => &[(2, 4), (2, 11), (3, 3), (3, 6), (3, 11), (3, 14)],
        _ => &[],
    };
    let known = !list.is_empty() && list.iter().all(|&(_, head)| head < config.n_text_heads);
    if known {
        return list.to_vec();
    }
    (config.n_text_layers / 2..config.n_text_layers)
        .flat_map(|layer| (0..config.n_text_heads).map(move |head| (layer, head)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> WhisperConfig {
        WhisperConfig {
            n_mels: 80,
            n_audio_ctx: 1500,
            n_audio_state: 384,
            n_audio_heads: 6,
            n_audio_layers: 4,
            n_audio_ffn: 1536,
            n_text_ctx: 448,
            n_text_state: 384,
            n_text_heads: 6,
            n_text_layers: 4,
            n_text_ffn: 1536,
            n_vocab: 51_865,
        }
    }

    #[test]
    fn languages_follow_the_vocabulary() {
        let count = |n_vocab| {
            let config = WhisperConfig { n_vocab, ..tiny() };
            (config.is_multilingual(), config.num_languages())
        };
        assert_eq!(count(51_864), (false, 99));
        assert_eq!(count(51_865), (true, 99));
        assert_eq!(count(51_866), (true, 100));
    }

    #[test]
    fn impossible_sizes_are_named() {
        let path = Path::new("config.json");
        assert!(tiny().validate(path).is_ok());
        for (config, part) in [
            (
                WhisperConfig {
                    n_text_heads: 5,
                    ..tiny()
                },
                "decoder width 384 is not divisible by its 5 heads",
            ),
            (
                WhisperConfig {
                    n_mels: 0,
                    ..tiny()
                },
                "n_mels is 0",
            ),
            (
                WhisperConfig {
                    n_audio_layers: usize::MAX,
                    ..tiny()
                },
                "n_audio_layers is",
            ),
            (
                WhisperConfig {
                    n_audio_state: 768,
                    ..tiny()
                },
                "differ",
            ),
            (
                WhisperConfig {
                    n_vocab: 51_000,
                    ..tiny()
                },
                "too small",
            ),
        ] {
            let message = config.validate(path).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn unknown_models_use_the_second_half_of_the_layers() {
        let config = WhisperConfig {
            n_text_layers: 3,
            n_text_heads: 2,
            ..tiny()
        };
        let heads = GenerationDefaults::for_model(&config, "x").alignment_heads;
        assert_eq!(heads, [(1, 0), (1, 1), (2, 0), (2, 1)]);
        let large = WhisperConfig {
            n_text_layers: 32,
            n_text_heads: 20,
            n_text_state: 1280,
            ..tiny()
        };
        let count = |name| {
            GenerationDefaults::for_model(&large, name)
                .alignment_heads
                .len()
        };
        assert_eq!((count("large-v1"), count("large-v2")), (9, 23));
    }

    #[test]
    fn stored_settings_are_checked() {
        let config = tiny();
        let path = Path::new("generation_config.json");
        let merge = |text: &str| {
            let mut defaults = GenerationDefaults::for_model(&config, "tiny");
            let json: Map<String, Value> = serde_json::from_str(text).unwrap();
            let notes = defaults.merge(&config, path, &json, &mut false)?;
            Ok::<_, Error>((defaults, notes))
        };
        let (defaults, notes) = merge(
            r#"{"alignment_heads": [[3, 1]], "suppress_tokens": [1, 2, -1], "begin_suppress_tokens": null, "lang_to_id": {"<|de|>": 50261, "<|en|>": 50259}}"#,
        )
        .unwrap();
        assert_eq!(defaults.alignment_heads, [(3, 1)]);
        assert!(!defaults.alignment_heads_replaced);
        assert_eq!(defaults.suppress_tokens, Some(vec![1, 2]));
        assert_eq!(defaults.begin_suppress_tokens, None);
        assert_eq!(defaults.language_ids, Some(vec![50259, 50261]));
        assert_eq!(notes.len(), 1);
        let (defaults, notes) = merge(r#"{"alignment_heads": [[7, 1]]}"#).unwrap();
        assert_eq!(defaults.alignment_heads.len(), 6);
        assert!(defaults.alignment_heads_replaced);
        assert_eq!(notes.len(), 1);
        assert!(merge(r#"{"alignment_heads": 3}"#).is_err());
        assert!(merge(r#"{"lang_ids": ["x"]}"#).is_err());
        assert!(merge(r#"{"lang_to_id": {"<|en|>": 99999999}}"#).is_err());
    }
}
