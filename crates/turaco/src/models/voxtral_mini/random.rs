//! Checkpoints with random weights: the exact files of the published models for measurements without them, and tiny ones for
//! tests.

use std::path::Path;

use serde_json::json;

use super::config::{DecoderConfig, VoxtralMiniConfig};
use crate::features::{HOP_LENGTH, N_FFT, SAMPLE_RATE};
use crate::models::random::{RandomTensor, Spread, tekken_json, write_json, write_tensors};
use crate::models::whisper::EncoderConfig;
use crate::{Control, Result};

/// How the published vocabularies cut text.
const PATTERN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Control tokens with a meaning.
const SPECIAL: [(usize, &str); 23] = [
    (0, "<unk>"),
    (1, "<s>"),
    (2, "</s>"),
    (3, "[INST]"),
    (4, "[/INST]"),
    (5, "[AVAILABLE_TOOLS]"),
    (6, "[/AVAILABLE_TOOLS]"),
    (7, "[TOOL_RESULTS]"),
    (8, "[/TOOL_RESULTS]"),
    (9, "[TOOL_CALLS]"),
    (10, "[IMG]"),
    (11, "<pad>"),
    (12, "[IMG_BREAK]"),
    (13, "[IMG_END]"),
    (14, "[PREFIX]"),
    (15, "[MIDDLE]"),
    (16, "[SUFFIX]"),
    (17, "[SYSTEM_PROMPT]"),
    (18, "[/SYSTEM_PROMPT]"),
    (19, "[TOOL_CONTENT]"),
    (24, "[AUDIO]"),
    (25, "[BEGIN_AUDIO]"),
    (34, "[TRANSCRIBE]"),
];

/// The sizes of `mistralai/Voxtral-Mini-3B-2507`.
pub fn published_mini() -> VoxtralMiniConfig {
    VoxtralMiniConfig {
        encoder: EncoderConfig {
            n_mels: 128,
            n_ctx: 1500,
            n_state: 1280,
            n_heads: 20,
            n_layers: 32,
            n_ffn: 5120,
        },
        downsample: 4,
        decoder: DecoderConfig {
            dim: 3072,
            n_layers: 30,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 128,
            ffn_dim: 8192,
            rope_theta: 1e8,
            norm_eps: 1e-5,
        },
        n_vocab: 131_072,
        max_positions: 131_072,
    }
}

/// The sizes of `mistralai/Voxtral-Small-24B-2507`.
pub fn published_small() -> VoxtralMiniConfig {
    let mini = published_mini();
    VoxtralMiniConfig {
        decoder: DecoderConfig {
            dim: 5120,
            n_layers: 40,
            ffn_dim: 32_768,
            ..mini.decoder
        },
        ..mini
    }
}

/// Two small layers on each side, and chunks of 2 s.
pub fn tiny() -> VoxtralMiniConfig {
    let published = published_mini();
    VoxtralMiniConfig {
        encoder: EncoderConfig {
            n_mels: 32,
            n_ctx: 100,
            n_state: 64,
            n_heads: 4,
            n_layers: 2,
            n_ffn: 256,
        },
        decoder: DecoderConfig {
            dim: 48,
            n_layers: 2,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 16,
            ffn_dim: 96,
            ..published.decoder
        },
        n_vocab: 600,
        max_positions: 4096,
        ..published
    }
}

/// Writes a checkpoint in Mistral's layout (`consolidated.safetensors`, `params.json`, `tekken.json`) into an existing
/// folder: bf16 weights that depend on `seed` alone, and a vocabulary of bytes and made-up words.
///
/// # Errors
/// When the file system refuses, or on cancellation.
pub fn write_random(
    config: &VoxtralMiniConfig,
    folder: &Path,
    seed: u64,
    control: &Control,
) -> Result<()> {
    write_json(folder, "params.json", &params(config))?;
    write_json(folder, "tekken.json", &tekken(config))?;
    let file = "consolidated.safetensors";
    write_tensors(folder, file, &tensors(config), false, seed, control)
}

/// All tensors in the order of the file.
fn tensors(config: &VoxtralMiniConfig) -> Vec<RandomTensor> {
    const EMBEDDINGS: &str = "mm_whisper_embeddings";
    let whisper = format!("{EMBEDDINGS}.whisper_encoder");
    let (encoder, decoder) = (&config.encoder, &config.decoder);
    let mut all: Vec<RandomTensor> = Vec::new();
    let mut add = |name: String, shape: &[usize], kind| all.push((name, shape.to_vec(), kind));
    let (d, ffn) = (encoder.n_state, encoder.n_ffn);
    for (index, c_in) in [encoder.n_mels, d].into_iter().enumerate() {
        let conv = format!("{whisper}.conv_layers.{index}");
        add(format!("{conv}.weight"), &[d, c_in, 3], Spread::Matrix);
        add(format!("{conv}.bias"), &[d], Spread::Bias);
    }
    for layer in 0..encoder.n_layers {
        let layer = format!("{whisper}.transformer.layers.{layer}");
        for (name, shape, has_bias) in [
            ("attention.wq", [d, d], true),
            ("attention.wk", [d, d], false),
            ("attention.wv", [d, d], true),
            ("attention.wo", [d, d], true),
            ("feed_forward.w1", [ffn, d], true),
            ("feed_forward.w2", [d, ffn], true),
        ] {
            add(format!("{layer}.{name}.weight"), &shape, Spread::Matrix);
            if has_bias {
                add(format!("{layer}.{name}.bias"), &shape[..1], Spread::Bias);
            }
        }
        for norm in ["attention_norm", "ffn_norm"] {
            add(format!("{layer}.{norm}.weight"), &[d], Spread::Around(1.0));
            add(format!("{layer}.{norm}.bias"), &[d], Spread::Bias);
        }
    }
    let norm = format!("{whisper}.transformer.norm");
    add(format!("{norm}.weight"), &[d], Spread::Around(1.0));
    add(format!("{norm}.bias"), &[d], Spread::Bias);
    let dim = decoder.dim;
    for (index, width) in [(0, config.downsample * d), (2, dim)] {
        let name = format!("{EMBEDDINGS}.audio_language_projection.{index}.weight");
        add(name, &[dim, width], Spread::Matrix);
    }
    let vocabulary = [config.n_vocab, dim];
    let embedding = format!("{EMBEDDINGS}.tok_embeddings.weight");
    add(embedding, &vocabulary, Spread::Matrix);
    let (q, kv) = (
        decoder.n_heads * decoder.head_dim,
        decoder.n_kv_heads * decoder.head_dim,
    );
    for layer in 0..decoder.n_layers {
        for (name, shape) in [
            ("attention.wq", [q, dim]),
            ("attention.wk", [kv, dim]),
            ("attention.wv", [kv, dim]),
            ("attention.wo", [dim, q]),
            ("feed_forward.w1", [decoder.ffn_dim, dim]),
            ("feed_forward.w2", [dim, decoder.ffn_dim]),
            ("feed_forward.w3", [decoder.ffn_dim, dim]),
        ] {
            let name = format!("layers.{layer}.{name}.weight");
            add(name, &shape, Spread::Matrix);
        }
        for norm in ["attention_norm", "ffn_norm"] {
            let name = format!("layers.{layer}.{norm}.weight");
            add(name, &[dim], Spread::Around(1.0));
        }
    }
    add("norm.weight".into(), &[dim], Spread::Around(1.0));
    add("output.weight".into(), &vocabulary, Spread::Matrix);
    all
}

fn params(config: &VoxtralMiniConfig) -> serde_json::Value {
    let (encoder, decoder) = (&config.encoder, &config.decoder);
    json!({
        "dim": decoder.dim,
        "n_layers": decoder.n_layers,
        "head_dim": decoder.head_dim,
        "hidden_dim": decoder.ffn_dim,
        "n_heads": decoder.n_heads,
        "n_kv_heads": decoder.n_kv_heads,
        "rope_theta": decoder.rope_theta,
        "norm_eps": decoder.norm_eps,
        "vocab_size": config.n_vocab,
        "tied_embeddings": false,
        "sliding_window": null,
        "max_position_embeddings": config.max_positions,
        "multimodal": {"whisper_model_args": {
            "encoder_args": {
                "audio_encoding_args": {
                    "sampling_rate": SAMPLE_RATE,
                    "num_mel_bins": encoder.n_mels,
                    "hop_length": HOP_LENGTH,
                    "window_size": N_FFT,
                },
                "dim": encoder.n_state,
                "n_layers": encoder.n_layers,
                "head_dim": encoder.n_state / encoder.n_heads,
                "hidden_dim": encoder.n_ffn,
                "n_heads": encoder.n_heads,
                "n_kv_heads": encoder.n_heads,
                "max_source_positions": encoder.n_ctx,
                "causal": false,
            },
            "downsample_args": {"downsample_factor": config.downsample},
        }},
    })
}

fn tekken(config: &VoxtralMiniConfig) -> serde_json::Value {
    let rate = f64::from(SAMPLE_RATE);
    let audio = json!({
        "sampling_rate": SAMPLE_RATE,
        "frame_rate": rate / config.samples_per_token() as f64,
        "audio_encoding_config": {
            "num_mel_bins": config.encoder.n_mels,
            "hop_length": HOP_LENGTH,
            "window_size": N_FFT,
        },
        "chunk_length_s": config.samples_per_chunk() as f64 / rate,
    });
    tekken_json(config.n_vocab, &SPECIAL, (PATTERN, "v7"), &audio)
}
