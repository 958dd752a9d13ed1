//! Sizes, fixed tokens and voices of a Qwen3-TTS checkpoint: its `config.json` and `generation_config.json`.

use std::path::Path;

use crate::Result;
use crate::models::settings::{Settings, check_limits};
use crate::weights::{Sidecars, invalid};

/// What a checkpoint was trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TtsKind {
    /// Speaks in the voice of a recording.
    Base,
    /// Speaks in voices of its own, by name.
    CustomVoice,
    /// Speaks in a voice that is described.
    VoiceDesign,
}

impl TtsKind {
    /// As in the names of the published checkpoints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "Base",
            Self::CustomVoice => "CustomVoice",
            Self::VoiceDesign => "VoiceDesign",
        }
    }

    /// The published models of this kind, for messages.
    pub const fn models(self) -> &'static str {
        match self {
            Self::Base => "`qwen3-tts-0.6b-base` and `qwen3-tts-1.7b-base`",
            Self::CustomVoice => "`qwen3-tts-0.6b-customvoice` and `qwen3-tts-1.7b-customvoice`",
            Self::VoiceDesign => "`qwen3-tts-1.7b-voicedesign`",
        }
    }
}

impl std::str::FromStr for TtsKind {
    type Err = String;

    /// As [`name`](Self::name), in any letter case, also `custom_voice` and `custom-voice` as settings write it.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let plain = text.trim().replace(['_', '-'], "");
        let known = [Self::CustomVoice, Self::VoiceDesign, Self::Base];
        (known.into_iter())
            .find(|kind| kind.name().eq_ignore_ascii_case(&plain))
            .ok_or_else(|| format!("`{text}` is none of CustomVoice, VoiceDesign, Base"))
    }
}

/// Sizes of a stack of decoder layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StackConfig {
    /// Width of the hidden states.
    pub dim: usize,
    /// Layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of one head; `n_heads * head_dim` need not be `dim`.
    pub head_dim: usize,
    /// Width inside the feed-forward network.
    pub ffn_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
}

/// Entries of the talker's codec vocabulary that are no codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodecTokens {
    /// Beside text.
    pub pad: u32,
    /// In front of the first frame.
    pub bos: u32,
    /// Behind the last frame.
    pub eos: u32,
    /// Before a language.
    pub think: u32,
    /// Instead of a language.
    pub nothink: u32,
    /// Around the language.
    pub think_bos: u32,
    /// Around the language.
    pub think_eos: u32,
}

/// Text tokens with a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextTokens {
    /// Beside codes without text.
    pub tts_pad: u32,
    /// In front of the text.
    pub tts_bos: u32,
    /// Behind the text.
    pub tts_eos: u32,
    /// Opens a turn.
    pub im_start: u32,
    /// Closes a turn.
    pub im_end: u32,
    /// The role that speaks.
    pub assistant: u32,
}

/// A voice that a checkpoint knows by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    /// In lower case.
    pub name: String,
    /// Its row of the codec embedding.
    pub id: u32,
    /// The dialect that it speaks where Chinese is asked for.
    pub dialect: Option<String>,
}

/// How tokens are chosen unless a request says otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerationDefaults {
    /// Divides the talker's logits; 0 = always the most probable code.
    pub temperature: f32,
    /// Only the most probable codes; 0 = all.
    pub top_k: usize,
    /// Only the most probable codes that together have this probability; 1 = all.
    pub top_p: f32,
    /// Divides the logits of codes that were there before.
    pub repetition_penalty: f32,
    /// The same for the code predictor.
    pub subtalker_temperature: f32,
    /// The same for the code predictor.
    pub subtalker_top_k: usize,
    /// The same for the code predictor.
    pub subtalker_top_p: f32,
    /// Tokens of the talker at most, the one that ends included.
    pub max_new_tokens: usize,
}

impl GenerationDefaults {
    /// Frames at most: the last token becomes none.
    pub fn max_frames(&self) -> usize {
        self.max_new_tokens.saturating_sub(1).max(1)
    }
}

/// Everything about the model that is not a weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Qwen3TtsConfig {
    /// What it was trained for.
    pub kind: TtsKind,
    /// `0b6` or `1b7`.
    pub size: String,
    /// One step per frame.
    pub talker: StackConfig,
    /// One step per further code of a frame.
    pub code_predictor: StackConfig,
    /// Codes of a frame.
    pub n_codes: usize,
    /// Values of a code: entries of the predictor's vocabulary.
    pub codebook_size: usize,
    /// Entries of the talker's codec vocabulary: codes, control entries, languages, speakers.
    pub codec_vocab: usize,
    /// Text tokens.
    pub text_vocab: usize,
    /// Width of the text embedding.
    pub text_dim: usize,
    /// Positions of the talker.
    pub max_positions: usize,
    /// Control entries of the codec vocabulary.
    pub codec_tokens: CodecTokens,
    /// Text tokens with a meaning.
    pub text_tokens: TextTokens,
    /// Languages and their entries of the codec vocabulary, in the file's order, names in lower case.
    pub languages: Vec<(String, u32)>,
    /// Voices by name, in the file's order.
    pub speakers: Vec<Speaker>,
    /// Samples per second of a reference recording, and width of its voice vector; only of a Base checkpoint.
    pub speaker_sample_rate: u32,
    /// How tokens are chosen.
    pub generation: GenerationDefaults,
}

/// Entries at the end of the codec vocabulary that are no codes.
pub(super) const N_CONTROL: usize = 1024;

impl Qwen3TtsConfig {
    /// Reads the settings of a folder; `None` if they are about another model.
    ///
    /// # Errors
    /// Settings that are missing, no sizes, or contradict each other.
    pub fn read(sidecars: &Sidecars) -> Result<Option<Self>> {
        let Some(json) = Settings::read(sidecars, "config.json")? else {
            return Ok(None);
        };
        if json.text("model_type") != Some("qwen3_tts") {
            return Ok(None);
        }
        let path = json.path();
        let tokenizer = json
            .text("tokenizer_type")
            .unwrap_or("qwen3_tts_tokenizer_12hz");
        if tokenizer != "qwen3_tts_tokenizer_12hz" {
            let message = format!(
                "this model uses the codec `{tokenizer}`; the published ones use qwen3_tts_tokenizer_12hz"
            );
            return Err(invalid(path, message));
        }
        let kind = match json.text("tts_model_type") {
            Some("base") => TtsKind::Base,
            Some("custom_voice") => TtsKind::CustomVoice,
            Some("voice_design") => TtsKind::VoiceDesign,
            other => {
                let message = format!(
                    "key `tts_model_type` is {}, expected base, custom_voice or voice_design",
                    other.map_or("missing".into(), |kind| format!(
                        "`{}`",
                        kind.escape_debug()
                    ))
                );
                return Err(invalid(path, message));
            }
        };
        let talker = json.at("talker_config");
        let predictor = talker.at("code_predictor_config");
        check_layers(&talker)?;
        check_layers(&predictor)?;
        let id = |json: &Settings, key: &str| Ok::<u32, crate::Error>(json.count(key)? as u32);
        let dialects = talker.texts("spk_is_dialect");
        let speakers = talker.counts("spk_id")?.into_iter().map(|(name, id)| {
            let dialect = dialects.iter().find(|(known, _)| *known == name);
            Speaker {
                dialect: dialect.map(|(_, dialect)| dialect.to_lowercase()),
                name: name.to_lowercase(),
                id,
            }
        });
        let languages = talker.counts("codec_language_id")?.into_iter();
        let config = Self {
            kind,
            size: json.text("tts_model_size").unwrap_or_default().to_owned(),
            talker: stack(&talker)?,
            code_predictor: stack(&predictor)?,
            n_codes: talker.size("num_code_groups", Some(16))?,
            codebook_size: predictor.size("vocab_size", Some(2048))?,
            codec_vocab: talker.size("vocab_size", Some(3072))?,
            text_vocab: talker.size("text_vocab_size", Some(151_936))?,
            text_dim: talker.size("text_hidden_size", Some(2048))?,
            max_positions: talker.size("max_position_embeddings", Some(32_768))?,
            codec_tokens: CodecTokens {
                pad: id(&talker, "codec_pad_id")?,
                bos: id(&talker, "codec_bos_id")?,
                eos: id(&talker, "codec_eos_token_id")?,
                think: id(&talker, "codec_think_id")?,
                nothink: id(&talker, "codec_nothink_id")?,
                think_bos: id(&talker, "codec_think_bos_id")?,
                think_eos: id(&talker, "codec_think_eos_id")?,
            },
            text_tokens: TextTokens {
                tts_pad: id(&json, "tts_pad_token_id")?,
                tts_bos: id(&json, "tts_bos_token_id")?,
                tts_eos: id(&json, "tts_eos_token_id")?,
                im_start: id(&json, "im_start_token_id")?,
                im_end: id(&json, "im_end_token_id")?,
                assistant: id(&json, "assistant_token_id")?,
            },
            languages: languages
                .map(|(name, id)| (name.to_lowercase(), id))
                .collect(),
            speakers: speakers.collect(),
            speaker_sample_rate: json
                .at("speaker_encoder_config")
                .size("sample_rate", Some(24_000))? as u32,
            generation: generation(sidecars)?,
        };
        config.validated(path).map(Some)
    }

    fn validated(self, path: &Path) -> Result<Self> {
        for (name, stack) in [
            ("talker", &self.talker),
            ("code predictor", &self.code_predictor),
        ] {
            let sizes = [
                ("layers", stack.n_layers, 4096),
                ("heads", stack.n_heads, 4096),
                ("columns in a head", stack.head_dim, 1 << 14),
                ("columns", stack.dim.max(stack.ffn_dim), 1 << 20),
                ("codes in a frame", self.n_codes, 64),
                ("codes", self.codec_vocab.max(self.codebook_size), 1 << 20),
                ("text tokens", self.text_vocab, 1 << 24),
                ("columns of text", self.text_dim, 1 << 20),
                ("positions", self.max_positions, 1 << 24),
            ];
            check_limits(path, &sizes)?;
            if stack.n_heads % stack.n_kv_heads != 0 || stack.head_dim % 2 != 0 {
                let message = format!(
                    "the {name} has {} query heads for {} key heads of width {}",
                    stack.n_heads, stack.n_kv_heads, stack.head_dim
                );
                return Err(invalid(path, message));
            }
        }
        let controls = &self.codec_tokens;
        let codec_ids = [
            controls.pad,
            controls.bos,
            controls.eos,
            controls.think,
            controls.nothink,
            controls.think_bos,
            controls.think_eos,
        ];
        let codec_ids = codec_ids.into_iter();
        let named = (self.languages.iter().map(|(_, id)| *id))
            .chain(self.speakers.iter().map(|speaker| speaker.id));
        if let Some(id) = codec_ids
            .chain(named)
            .find(|&id| id as usize >= self.codec_vocab)
        {
            let message = format!(
                "entry {id} is outside of the {} of the codec",
                self.codec_vocab
            );
            return Err(invalid(path, message));
        }
        let text = &self.text_tokens;
        let text_ids = [
            text.tts_pad,
            text.tts_bos,
            text.tts_eos,
            text.im_start,
            text.im_end,
            text.assistant,
        ];
        if let Some(id) = text_ids
            .into_iter()
            .find(|&id| id as usize >= self.text_vocab)
        {
            let message = format!(
                "token {id} is outside of the {} of the text",
                self.text_vocab
            );
            return Err(invalid(path, message));
        }
        if self.n_codes < 2
            || self.codec_vocab < N_CONTROL + self.codebook_size
            || self.codebook_size == 0
        {
            let message = format!(
                "{} codes of {} values do not fit into a codec vocabulary of {}",
                self.n_codes, self.codebook_size, self.codec_vocab
            );
            return Err(invalid(path, message));
        }
        for speaker in &self.speakers {
            if let Some(dialect) = &speaker.dialect
                && self.language_id(dialect).is_none()
            {
                let message = format!(
                    "speaker `{}` speaks `{dialect}`, which is not listed",
                    speaker.name
                );
                return Err(invalid(path, message));
            }
        }
        Ok(self)
    }

    /// The codec entry of a language or dialect, in lower case.
    pub fn language_id(&self, name: &str) -> Option<u32> {
        let found = self.languages.iter().find(|(known, _)| known == name);
        found.map(|(_, id)| *id)
    }

    /// The languages that may be asked for: all but dialects.
    pub fn language_names(&self) -> impl Iterator<Item = &str> {
        let names = self.languages.iter().map(|(name, _)| name.as_str());
        names.filter(|name| !name.ends_with("_dialect"))
    }

    /// A voice by its name, in any case.
    pub fn speaker(&self, name: &str) -> Option<&Speaker> {
        let name = name.to_lowercase();
        self.speakers.iter().find(|speaker| speaker.name == name)
    }

    /// Whether instructions change how this model speaks: the small CustomVoice model was not trained for them.
    pub fn takes_instructions(&self) -> bool {
        match self.kind {
            TtsKind::Base => false,
            TtsKind::CustomVoice => self.size != "0b6",
            TtsKind::VoiceDesign => true,
        }
    }
}

/// Refuses layers of a kind that is not computed here.
fn check_layers(json: &Settings) -> Result<()> {
    json.expect_text("hidden_act", &["silu"])?;
    // All three axes of a position are the same here, so that sections and their order come to nothing.
    let scaling = json.at("rope_scaling");
    for key in ["rope_type", "type"] {
        scaling.expect_text(key, &["default", "mrope"])?;
    }
    json.expect_flag("attention_bias", false)?;
    json.expect_flag("use_sliding_window", false)
}

fn stack(json: &Settings) -> Result<StackConfig> {
    let n_heads = json.size("num_attention_heads", Some(16))?;
    let dim = json.size("hidden_size", None)?;
    Ok(StackConfig {
        dim,
        n_layers: json.size("num_hidden_layers", None)?,
        n_heads,
        n_kv_heads: json.size("num_key_value_heads", Some(n_heads))?,
        head_dim: json.size("head_dim", Some(128))?,
        ffn_dim: json.size("intermediate_size", None)?,
        rope_theta: json.number("rope_theta", Some(1e6))? as f32,
        norm_eps: json.number("rms_norm_eps", Some(1e-6))? as f32,
    })
}

/// The file's values over those of the reference's code.
fn generation(sidecars: &Sidecars) -> Result<GenerationDefaults> {
    let json = Settings::read(sidecars, "generation_config.json")?;
    let json = json.as_ref();
    let number = |key: &str, default: f64| -> Result<f32> {
        Ok(json.map_or(Ok(default), |json| json.number(key, Some(default)))? as f32)
    };
    let size = |key: &str, default: usize| -> Result<usize> {
        json.map_or(Ok(default), |json| json.size(key, Some(default)))
    };
    // All tokens, and the most probable one: as everywhere else.
    let is_zero = |key: &str| json.is_some_and(|json| json.is_zero(key));
    let top_k = |key: &str| match is_zero(key) {
        true => Ok(0),
        false => size(key, 50),
    };
    let samples = |key: &str| json.is_none_or(|json| json.flag(key).unwrap_or(true));
    let temperature = |key: &str, samples: bool| match samples {
        true if !is_zero(key) => number(key, 0.9),
        _ => Ok(0.0),
    };
    let within = |key: &str, value: f32, least: f32, most: f32| match json {
        Some(json) if !(least..=most).contains(&value) => Err(json.outside(key, least, most)),
        _ => Ok(value),
    };
    let number_up_to = |key: &str, default: f64, least: f32, most: f32| {
        within(key, number(key, default)?, least, most)
    };
    let temperature = |key: &str, samples: bool| within(key, temperature(key, samples)?, 0.0, 10.0);
    Ok(GenerationDefaults {
        temperature: temperature("temperature", samples("do_sample"))?,
        top_k: top_k("top_k")?,
        top_p: number_up_to("top_p", 1.0, 0.0, 1.0)?,
        repetition_penalty: number_up_to("repetition_penalty", 1.05, 0.1, 10.0)?,
        subtalker_temperature: temperature("subtalker_temperature", samples("subtalker_dosample"))?,
        subtalker_top_k: top_k("subtalker_top_k")?,
        subtalker_top_p: number_up_to("subtalker_top_p", 1.0, 0.0, 1.0)?,
        max_new_tokens: size("max_new_tokens", 2048)?,
    })
}
