//! Checkpoints with random weights: the files of the published models for measurements without them, and tiny ones for
//! tests.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::codec;
use super::config::{
    CodecTokens, GenerationDefaults, Qwen3TtsConfig, Speaker, StackConfig, TextTokens, TtsKind,
};
use crate::models::random::{RandomTensor, Spread, write_file, write_json, write_tensors};
use crate::{Control, Error, Result};

/// Added tokens of the published vocabularies, in the order of their ids.
const ADDED: [&str; 33] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<tts_pad>",
    "<tts_text_bos>",
    "<tts_text_eod>",
    "<tts_text_bos_single>",
    "<|audio_pad|>",
];

/// Languages and their entries of the codec vocabulary.
const LANGUAGES: [(&str, u32); 10] = [
    ("chinese", 2055),
    ("english", 2050),
    ("german", 2053),
    ("italian", 2070),
    ("portuguese", 2071),
    ("spanish", 2054),
    ("japanese", 2058),
    ("korean", 2064),
    ("french", 2061),
    ("russian", 2069),
];

/// The same of CustomVoice checkpoints.
const DIALECTS: [(&str, u32); 2] = [("beijing_dialect", 2074), ("sichuan_dialect", 2062)];

/// The voices of CustomVoice checkpoints.
const SPEAKERS: [(&str, u32, Option<&str>); 9] = [
    ("serena", 3066, None),
    ("vivian", 3065, None),
    ("uncle_fu", 3010, None),
    ("ryan", 3061, None),
    ("aiden", 2861, None),
    ("ono_anna", 2873, None),
    ("sohee", 2864, None),
    ("eric", 2875, Some("sichuan_dialect")),
    ("dylan", 2878, Some("beijing_dialect")),
];

/// Channels of the speaker encoder, and its mel bands.
const SPEAKER_CHANNELS: usize = 512;
const SPEAKER_MELS: usize = 128;

/// The published sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// 0.6B.
    Small,
    /// 1.7B.
    Large,
}

/// What `Qwen/Qwen3-TTS-12Hz-{size}-{kind}` has in its settings.
pub fn published(size: Size, kind: TtsKind) -> Qwen3TtsConfig {
    let (name, dim, ffn_dim) = match size {
        Size::Small => ("0b6", 1024, 3072),
        Size::Large => ("1b7", 2048, 6144),
    };
    let stack = StackConfig {
        dim,
        n_layers: 28,
        n_heads: 16,
        n_kv_heads: 8,
        head_dim: 128,
        ffn_dim,
        rope_theta: 1e6,
        norm_eps: 1e-6,
    };
    let dialects = match kind {
        TtsKind::CustomVoice => &DIALECTS[..],
        _ => &[],
    };
    let speakers = match kind {
        TtsKind::CustomVoice => &SPEAKERS[..],
        _ => &[],
    };
    let languages = LANGUAGES.iter().chain(dialects);
    let speaker = |(name, id, dialect): &(&str, u32, Option<&str>)| Speaker {
        name: (*name).to_owned(),
        id: *id,
        dialect: dialect.map(str::to_owned),
    };
    Qwen3TtsConfig {
        kind,
        size: name.to_owned(),
        talker: stack,
        code_predictor: StackConfig {
            dim: 1024,
            n_layers: 5,
            ffn_dim: 3072,
            ..stack
        },
        n_codes: 16,
        codebook_size: 2048,
        codec_vocab: 3072,
        text_vocab: 151_936,
        text_dim: 2048,
        max_positions: 32_768,
        codec_tokens: CodecTokens {
            pad: 2148,
            bos: 2149,
            eos: 2150,
            think: 2154,
            nothink: 2155,
            think_bos: 2156,
            think_eos: 2157,
        },
        text_tokens: TextTokens {
            tts_pad: 151_671,
            tts_bos: 151_672,
            tts_eos: 151_673,
            im_start: 151_644,
            im_end: 151_645,
            assistant: 77_091,
        },
        languages: languages
            .map(|(name, id)| ((*name).to_owned(), *id))
            .collect(),
        speakers: speakers.iter().map(speaker).collect(),
        speaker_sample_rate: 24_000,
        generation: GenerationDefaults {
            temperature: 0.9,
            top_k: 50,
            top_p: 1.0,
            repetition_penalty: 1.05,
            subtalker_temperature: 0.9,
            subtalker_top_k: 50,
            subtalker_top_p: 1.0,
            max_new_tokens: 8192,
        },
    }
}

/// A CustomVoice model of two small layers on each side, with codes of 40 values.
pub fn tiny() -> Qwen3TtsConfig {
    let published = published(Size::Large, TtsKind::CustomVoice);
    let stack = StackConfig {
        dim: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        ffn_dim: 96,
        ..published.talker
    };
    // Control entries keep their distance from the end of the vocabulary.
    let (codebook_size, n_base) = (40, 512);
    let moved = |id: u32| id - published.codebook_size as u32 + codebook_size as u32;
    let tokens = published.codec_tokens;
    let added = |id: u32| n_base + id - published.text_tokens.im_start + 1;
    Qwen3TtsConfig {
        talker: stack,
        code_predictor: StackConfig { dim: 48, ..stack },
        n_codes: 6,
        codebook_size,
        codec_vocab: moved(published.codec_vocab as u32) as usize,
        text_vocab: 600,
        text_dim: 56,
        codec_tokens: CodecTokens {
            pad: moved(tokens.pad),
            bos: moved(tokens.bos),
            eos: moved(tokens.eos),
            think: moved(tokens.think),
            nothink: moved(tokens.nothink),
            think_bos: moved(tokens.think_bos),
            think_eos: moved(tokens.think_eos),
        },
        text_tokens: TextTokens {
            tts_pad: added(published.text_tokens.tts_pad),
            tts_bos: added(published.text_tokens.tts_bos),
            tts_eos: added(published.text_tokens.tts_eos),
            im_start: added(published.text_tokens.im_start),
            im_end: added(published.text_tokens.im_end),
            assistant: 280,
        },
        languages: (published.languages.iter())
            .map(|(name, id)| (name.clone(), moved(*id)))
            .collect(),
        speakers: (published.speakers.iter())
            .map(|speaker| Speaker {
                id: moved(speaker.id),
                ..speaker.clone()
            })
            .collect(),
        ..published
    }
}

/// Writes a checkpoint with the files of a published one into an existing folder, with its codec: bf16 weights that
/// depend on `seed` alone, and a vocabulary of bytes and made-up merges.
///
/// # Errors
/// When the file system refuses, or on cancellation.
pub fn write_random(
    config: &Qwen3TtsConfig,
    folder: &Path,
    seed: u64,
    control: &Control,
) -> Result<()> {
    write_json(folder, "config.json", &settings(config))?;
    write_json(folder, "generation_config.json", &generation(config))?;
    write_json(
        folder,
        "preprocessor_config.json",
        &json!({
            "padding_side": "left",
            "padding_value": 0.0,
            "processor_class": "Qwen3TTSProcessor",
            "return_attention_mask": true,
        }),
    )?;
    let text = &config.text_tokens;
    let n_base = text.im_start as usize - 1;
    let user = if n_base > 1000 { 872 } else { 270 };
    let merges = merges(n_base, user, text.assistant as usize);
    let vocab: Map<String, Value> = (byte_alphabet().map(String::from))
        .chain(
            merges
                .iter()
                .map(|(left, right)| [left.as_str(), right].concat()),
        )
        .zip(0..)
        .map(|(token, id): (String, usize)| (token, id.into()))
        .collect();
    write_json(folder, "vocab.json", &Value::Object(vocab))?;
    write_file(folder, "merges.txt", |out| {
        writeln!(out, "#version: 0.2")?;
        merges
            .iter()
            .try_for_each(|(left, right)| writeln!(out, "{left} {right}"))
    })?;
    let added: Map<String, Value> = (ADDED.iter().zip(n_base..))
        .map(|(content, id)| {
            let special = content.contains('|') || content.contains("tts");
            let token = json!({
                "content": content,
                "lstrip": false,
                "normalized": false,
                "rstrip": false,
                "single_word": false,
                "special": special,
            });
            (id.to_string(), token)
        })
        .collect();
    write_json(
        folder,
        "tokenizer_config.json",
        &json!({
            "add_bos_token": false,
            "add_prefix_space": false,
            "added_tokens_decoder": added,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "Qwen2Tokenizer",
        }),
    )?;
    let tensors = tensors(config);
    write_tensors(folder, "model.safetensors", &tensors, false, seed, control)?;
    let codec = match config.n_codes {
        16 => codec::random::published(),
        _ => codec::random::tiny(),
    };
    let inner = folder.join("speech_tokenizer");
    std::fs::create_dir(&inner).map_err(|source| Error::Io {
        action: "create",
        path: inner.clone(),
        source,
    })?;
    codec::random::write_random(&codec, &inner, seed, control)
}

/// GPT-2's characters for bytes, in the order of their ids: those that print first.
fn byte_alphabet() -> impl Iterator<Item = char> {
    let printing = [0x21..=0x7e, 0xa1..=0xac, 0xae..=0xff];
    printing
        .into_iter()
        .flatten()
        .chain(0x100..=0x143)
        .filter_map(char::from_u32)
}

/// Merge rules of a vocabulary of `n_base` tokens, in which `user` and `assistant` have these ids: rule `i` makes token
/// `256 + i`. Besides these two words there are all pairs of lower-case letters, a space with each, and pairs of pairs of the
/// commonest letters, so that a word is a few tokens.
fn merges(n_base: usize, user: usize, assistant: usize) -> Vec<(String, String)> {
    const LETTERS: &str = "etaoinshrdlucmfwygpbvkxqjz";
    let letters: Vec<String> = LETTERS.chars().map(String::from).collect();
    let n = letters.len();
    let pairs = || {
        (0..n)
            .flat_map(move |last| (0..=last).flat_map(move |other| [(last, other), (other, last)]))
    };
    let pair = |(a, b): (usize, usize)| (letters[a].clone(), letters[b].clone());
    let joined = |at: (usize, usize)| {
        let (left, right) = pair(at);
        left + &right
    };
    // What the two words are made of comes before everything that could take their letters away.
    let first = [
        ("u", "s"),
        ("e", "r"),
        ("a", "s"),
        ("s", "i"),
        ("s", "t"),
        ("a", "n"),
        ("as", "si"),
        ("st", "an"),
        ("assi", "stan"),
    ]
    .map(|(left, right)| (left.to_owned(), right.to_owned()));
    let spaced = letters
        .iter()
        .map(|letter| ("\u{120}".to_owned(), letter.clone()));
    let of_pairs = (0..n * n)
        .flat_map(|last| (0..=last).flat_map(move |other| [(last, other), (other, last)]));
    let all_pairs: Vec<(usize, usize)> = pairs().collect();
    let made_up = (pairs().map(pair)).chain(spaced).chain(
        of_pairs
            .filter_map(|(a, b)| Some((joined(*all_pairs.get(a)?), joined(*all_pairs.get(b)?)))),
    );
    let mut known: HashSet<String> = ["user", "assistant"].map(String::from).into();
    let mut merges: Vec<(String, String)> = Vec::with_capacity(n_base.saturating_sub(256));
    for rule in first.into_iter().chain(made_up) {
        for (id, left, right) in [(user, "us", "er"), (assistant, "assistan", "t")] {
            if 256 + merges.len() == id {
                merges.push((left.into(), right.into()));
            }
        }
        if 256 + merges.len() >= n_base {
            break;
        }
        if known.insert([rule.0.as_str(), &rule.1].concat()) {
            merges.push(rule);
        }
    }
    merges
}

/// All tensors in the order of the file.
fn tensors(config: &Qwen3TtsConfig) -> Vec<RandomTensor> {
    let mut all: Vec<RandomTensor> = Vec::new();
    let mut add = |name: String, shape: &[usize], spread| all.push((name, shape.to_vec(), spread));
    let (talker, predictor) = (&config.talker, &config.code_predictor);
    let mut matrix = |name: &str, rows: usize, cols: usize| {
        add(
            format!("talker.{name}.weight"),
            &[rows, cols],
            Spread::Matrix,
        );
    };
    matrix("model.text_embedding", config.text_vocab, config.text_dim);
    matrix("model.codec_embedding", config.codec_vocab, talker.dim);
    matrix("codec_head", config.codec_vocab, talker.dim);
    for index in 0..config.n_codes - 1 {
        let name = format!("code_predictor.model.codec_embedding.{index}");
        matrix(&name, config.codebook_size, talker.dim);
        let name = format!("code_predictor.lm_head.{index}");
        matrix(&name, config.codebook_size, predictor.dim);
    }
    let mut with_bias = |name: &str, rows: usize, cols: usize| {
        add(format!("{name}.weight"), &[rows, cols], Spread::Matrix);
        add(format!("{name}.bias"), &[rows], Spread::Bias);
    };
    let (text, dim) = (config.text_dim, talker.dim);
    with_bias("talker.text_projection.linear_fc1", text, text);
    with_bias("talker.text_projection.linear_fc2", dim, text);
    if dim != predictor.dim {
        let name = "talker.code_predictor.small_to_mtp_projection";
        with_bias(name, predictor.dim, dim);
    }
    for (prefix, stack) in [
        ("talker.model", talker),
        ("talker.code_predictor.model", predictor),
    ] {
        let (d, ffn) = (stack.dim, stack.ffn_dim);
        let q = stack.n_heads * stack.head_dim;
        let kv = stack.n_kv_heads * stack.head_dim;
        for layer in 0..stack.n_layers {
            let layer = format!("{prefix}.layers.{layer}");
            for (name, rows, cols) in [
                ("self_attn.q_proj", q, d),
                ("self_attn.k_proj", kv, d),
                ("self_attn.v_proj", kv, d),
                ("self_attn.o_proj", d, q),
                ("mlp.gate_proj", ffn, d),
                ("mlp.up_proj", ffn, d),
                ("mlp.down_proj", d, ffn),
            ] {
                let name = format!("{layer}.{name}.weight");
                add(name, &[rows, cols], Spread::Matrix);
            }
            for (name, len) in [
                ("self_attn.q_norm", stack.head_dim),
                ("self_attn.k_norm", stack.head_dim),
                ("input_layernorm", d),
                ("post_attention_layernorm", d),
            ] {
                add(
                    format!("{layer}.{name}.weight"),
                    &[len],
                    Spread::Around(1.0),
                );
            }
        }
        add(format!("{prefix}.norm.weight"), &[d], Spread::Around(1.0));
    }
    if config.kind == TtsKind::Base {
        speaker_tensors(dim, &mut add);
    }
    all
}

/// The speaker encoder of Base checkpoints: its sizes are not in their settings.
fn speaker_tensors(dim: usize, add: &mut impl FnMut(String, &[usize], Spread)) {
    let mut conv = |name: &str, c_out: usize, c_in: usize, kernel: usize| {
        let name = format!("speaker_encoder.{name}");
        add(
            format!("{name}.weight"),
            &[c_out, c_in, kernel],
            Spread::Matrix,
        );
        add(format!("{name}.bias"), &[c_out], Spread::Bias);
    };
    let width = SPEAKER_CHANNELS;
    let (part, narrow, joined) = (width / 8, width / 4, 3 * width);
    conv("blocks.0.conv", width, SPEAKER_MELS, 5);
    for block in 1..=3 {
        conv(&format!("blocks.{block}.tdnn1.conv"), width, width, 1);
        conv(&format!("blocks.{block}.tdnn2.conv"), width, width, 1);
        for index in 0..7 {
            let name = format!("blocks.{block}.res2net_block.blocks.{index}.conv");
            conv(&name, part, part, 3);
        }
        conv(&format!("blocks.{block}.se_block.conv1"), narrow, width, 1);
        conv(&format!("blocks.{block}.se_block.conv2"), width, narrow, 1);
    }
    conv("mfa.conv", joined, joined, 1);
    conv("asp.tdnn.conv", narrow, 3 * joined, 1);
    conv("asp.conv", joined, narrow, 1);
    conv("fc", dim, 2 * joined, 1);
}

fn settings(config: &Qwen3TtsConfig) -> Value {
    let stack = |stack: &StackConfig| {
        json!({
            "attention_bias": false,
            "head_dim": stack.head_dim,
            "hidden_act": "silu",
            "hidden_size": stack.dim,
            "intermediate_size": stack.ffn_dim,
            "num_attention_heads": stack.n_heads,
            "num_hidden_layers": stack.n_layers,
            "num_key_value_heads": stack.n_kv_heads,
            "num_code_groups": config.n_codes,
            "rms_norm_eps": stack.norm_eps,
            "rope_theta": stack.rope_theta,
        })
    };
    let mut predictor = stack(&config.code_predictor);
    predictor["model_type"] = json!("qwen3_tts_talker_code_predictor");
    predictor["vocab_size"] = json!(config.codebook_size);
    let (codec, text) = (&config.codec_tokens, &config.text_tokens);
    let mut talker = stack(&config.talker);
    talker["model_type"] = json!("qwen3_tts_talker");
    for (key, value) in [
        ("vocab_size", config.codec_vocab),
        ("text_vocab_size", config.text_vocab),
        ("text_hidden_size", config.text_dim),
        ("max_position_embeddings", config.max_positions),
        ("position_id_per_seconds", 13),
    ] {
        talker[key] = json!(value);
    }
    for (key, id) in [
        ("codec_pad_id", codec.pad),
        ("codec_bos_id", codec.bos),
        ("codec_eos_token_id", codec.eos),
        ("codec_think_id", codec.think),
        ("codec_nothink_id", codec.nothink),
        ("codec_think_bos_id", codec.think_bos),
        ("codec_think_eos_id", codec.think_eos),
    ] {
        talker[key] = json!(id);
    }
    let object = |entries: Vec<(&String, Value)>| -> Value {
        let entries = entries.into_iter();
        Value::Object(entries.map(|(key, value)| (key.clone(), value)).collect())
    };
    let languages = config.languages.iter();
    talker["codec_language_id"] = object(languages.map(|(name, id)| (name, json!(id))).collect());
    let speakers = || config.speakers.iter();
    talker["spk_id"] = object(speakers().map(|s| (&s.name, json!(s.id))).collect());
    let dialect = |s: &Speaker| s.dialect.as_ref().map_or(json!(false), |name| json!(name));
    talker["spk_is_dialect"] = object(speakers().map(|s| (&s.name, dialect(s))).collect());
    let rotary = config.talker.head_dim / 2;
    let section = [
        rotary - 2 * (rotary * 5 / 16),
        rotary * 5 / 16,
        rotary * 5 / 16,
    ];
    talker["rope_scaling"] = json!({
        "interleaved": true,
        "mrope_section": section,
        "rope_type": "default",
        "type": "default",
    });
    talker["code_predictor_config"] = predictor;
    let mut settings = json!({
        "architectures": ["Qwen3TTSForConditionalGeneration"],
        "model_type": "qwen3_tts",
        "tokenizer_type": "qwen3_tts_tokenizer_12hz",
        "tts_model_size": config.size,
        "tts_model_type": match config.kind {
            TtsKind::Base => "base",
            TtsKind::CustomVoice => "custom_voice",
            TtsKind::VoiceDesign => "voice_design",
        },
        "assistant_token_id": text.assistant,
        "im_start_token_id": text.im_start,
        "im_end_token_id": text.im_end,
        "tts_pad_token_id": text.tts_pad,
        "tts_bos_token_id": text.tts_bos,
        "tts_eos_token_id": text.tts_eos,
        "talker_config": talker,
    });
    if config.kind == TtsKind::Base {
        settings["speaker_encoder_config"] = json!({
            "enc_dim": config.talker.dim,
            "sample_rate": config.speaker_sample_rate,
        });
    }
    settings
}

fn generation(config: &Qwen3TtsConfig) -> Value {
    let values = &config.generation;
    json!({
        "do_sample": values.temperature > 0.0,
        "temperature": values.temperature,
        "top_k": values.top_k,
        "top_p": values.top_p,
        "repetition_penalty": values.repetition_penalty,
        "subtalker_dosample": values.subtalker_temperature > 0.0,
        "subtalker_temperature": values.subtalker_temperature,
        "subtalker_top_k": values.subtalker_top_k,
        "subtalker_top_p": values.subtalker_top_p,
        "max_new_tokens": values.max_new_tokens,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Qwen3TtsCheckpoint;
    use super::*;

    #[test]
    fn files_are_read_as_they_were_meant() {
        let folder = tempfile::tempdir().unwrap();
        let config = tiny();
        write_random(&config, folder.path(), 1, &Control::new()).unwrap();
        let checkpoint = Qwen3TtsCheckpoint::open(folder.path()).unwrap();
        let mut read = checkpoint.config.clone();
        // A 0.9 of 32 bits is none of 64.
        read.generation = config.generation;
        assert_eq!(read, config);
        let ids = checkpoint
            .tokenizer
            .encode_with_special("<|im_start|>assistant\nuser");
        let text = &config.text_tokens;
        assert_eq!(ids, [text.im_start, text.assistant, 198, 270]);
        let tts = ["<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"];
        let tts = tts.map(|token| checkpoint.tokenizer.special(token));
        let expected = [text.tts_pad, text.tts_bos, text.tts_eos];
        assert_eq!(tts, expected.map(Some));
    }

    #[test]
    fn the_published_vocabulary_is_imitated() {
        let merges = merges(151_643, 872, 77_091);
        assert_eq!(merges.len(), 151_387);
        assert_eq!(merges[872 - 256], ("us".into(), "er".into()));
        assert_eq!(merges[77_091 - 256], ("assistan".into(), "t".into()));
        let tokens: HashSet<String> = merges.iter().map(|(a, b)| format!("{a}{b}")).collect();
        assert_eq!(tokens.len(), merges.len());
    }

    #[test]
    fn published_sizes_have_their_parameters() {
        let count = |size, kind| -> usize {
            let tensors = tensors(&published(size, kind));
            let lens = tensors
                .iter()
                .map(|(_, shape, _)| shape.iter().product::<usize>());
            lens.sum()
        };
        // Millions, as the published files have them.
        let millions = |size, kind| (count(size, kind) as f64 / 1e5).round() / 10.0;
        assert_eq!(millions(Size::Small, TtsKind::Base), 914.6);
        assert_eq!(millions(Size::Small, TtsKind::CustomVoice), 905.8);
        assert_eq!(millions(Size::Large, TtsKind::Base), 1928.7);
        assert_eq!(millions(Size::Large, TtsKind::VoiceDesign), 1916.7);
    }
}
