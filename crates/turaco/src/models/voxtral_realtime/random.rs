//! Checkpoints with random weights: the exact files of the published model for measurements without it, and tiny ones for
//! tests.

use std::path::Path;

use serde_json::json;

use super::config::{StackConfig, VoxtralRealtimeConfig};
use crate::models::random::{RandomTensor, Spread, tekken_json, write_json, write_tensors};
use crate::{Control, Result};

/// Width of the network that maps a delay to factors.
const DELAY_DIM: usize = 32;

/// The sizes of `mistralai/Voxtral-Mini-4B-Realtime-2602`.
pub fn published() -> VoxtralRealtimeConfig {
    VoxtralRealtimeConfig {
        n_mels: 128,
        sample_rate: 16_000,
        hop_length: 160,
        n_fft: 400,
        log_mel_max: 1.5,
        encoder: StackConfig {
            dim: 1280,
            n_layers: 32,
            n_heads: 32,
            n_kv_heads: 32,
            head_dim: 64,
            ffn_dim: 5120,
            window: 750,
            rope_theta: 1e6,
            norm_eps: 1e-5,
        },
        downsample: 4,
        decoder: StackConfig {
            dim: 3072,
            n_layers: 26,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 128,
            ffn_dim: 9216,
            window: 8192,
            rope_theta: 1e6,
            norm_eps: 1e-5,
        },
        n_vocab: 131_072,
        default_delay: 6,
        n_left_pad: 32,
    }
}

/// Two small layers on each side, with windows that a few seconds fill.
pub fn tiny() -> VoxtralRealtimeConfig {
    let published = published();
    let stack = StackConfig {
        dim: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        ffn_dim: 96,
        window: 100,
        ..published.encoder
    };
    VoxtralRealtimeConfig {
        n_mels: 32,
        encoder: StackConfig {
            n_kv_heads: 4,
            ..stack
        },
        decoder: StackConfig {
            dim: 48,
            window: 40,
            ..stack
        },
        n_vocab: 600,
        ..published
    }
}

/// Writes a checkpoint in Mistral's layout (`consolidated.safetensors`, `params.json`, `tekken.json`) into an existing
/// folder: bf16 weights that depend on `seed` alone, and a vocabulary of bytes and made-up words.
///
/// # Errors
/// When the file system refuses, or on cancellation.
pub fn write_random(
    config: &VoxtralRealtimeConfig,
    folder: &Path,
    seed: u64,
    control: &Control,
) -> Result<()> {
    write_json(folder, "params.json", &params(config))?;
    write_json(folder, "tekken.json", &tekken(config))?;
    let tensors = tensors(config);
    write_tensors(
        folder,
        "consolidated.safetensors",
        &tensors,
        false,
        seed,
        control,
    )
}

/// All tensors in the order of the file.
fn tensors(config: &VoxtralRealtimeConfig) -> Vec<RandomTensor> {
    const EMBEDDING: &str = "mm_streams_embeddings.embedding_module";
    let whisper = format!("{EMBEDDING}.whisper_encoder");
    let mut all: Vec<RandomTensor> = Vec::new();
    let mut add = |name: String, shape: &[usize], kind| all.push((name, shape.to_vec(), kind));
    let (encoder, decoder) = (&config.encoder, &config.decoder);
    add(
        format!("{EMBEDDING}.tok_embeddings.weight"),
        &[config.n_vocab, decoder.dim],
        Spread::Matrix,
    );
    for (index, c_in) in [config.n_mels, encoder.dim].into_iter().enumerate() {
        let conv = format!("{whisper}.conv_layers.{index}.conv");
        add(
            format!("{conv}.weight"),
            &[encoder.dim, c_in, 3],
            Spread::Matrix,
        );
        add(format!("{conv}.bias"), &[encoder.dim], Spread::Bias);
    }
    let mut stack = |prefix: &str, stack: &StackConfig, is_encoder: bool| {
        let (d, q, kv) = (
            stack.dim,
            stack.n_heads * stack.head_dim,
            stack.n_kv_heads * stack.head_dim,
        );
        let ffn = stack.ffn_dim;
        for layer in 0..stack.n_layers {
            let matrices = [
                ("attention.wq", [q, d], true),
                ("attention.wk", [kv, d], false),
                ("attention.wv", [kv, d], true),
                ("attention.wo", [d, q], true),
                ("feed_forward.w1", [ffn, d], false),
                ("feed_forward.w2", [d, ffn], true),
                ("feed_forward.w3", [ffn, d], false),
            ];
            for (name, shape, has_bias) in matrices {
                let name = format!("{prefix}layers.{layer}.{name}");
                add(format!("{name}.weight"), &shape, Spread::Matrix);
                if is_encoder && has_bias {
                    add(format!("{name}.bias"), &shape[..1], Spread::Bias);
                }
            }
            for norm in ["attention_norm", "ffn_norm"] {
                add(
                    format!("{prefix}layers.{layer}.{norm}.weight"),
                    &[d],
                    Spread::Around(1.0),
                );
            }
            if !is_encoder {
                let ada = format!("{prefix}layers.{layer}.ada_rms_norm_t_cond");
                add(format!("{ada}.0.weight"), &[DELAY_DIM, d], Spread::Matrix);
                add(format!("{ada}.2.weight"), &[d, DELAY_DIM], Spread::Matrix);
            }
        }
        add(format!("{prefix}norm.weight"), &[d], Spread::Around(1.0));
    };
    stack(&format!("{whisper}.transformer."), encoder, true);
    stack("", decoder, false);
    let adapter = format!("{EMBEDDING}.audio_language_projection");
    let side_by_side = config.downsample * encoder.dim;
    add(
        format!("{adapter}.0.weight"),
        &[decoder.dim, side_by_side],
        Spread::Matrix,
    );
    add(
        format!("{adapter}.2.weight"),
        &[decoder.dim, decoder.dim],
        Spread::Matrix,
    );
    all
}

fn params(config: &VoxtralRealtimeConfig) -> serde_json::Value {
    let stack = |stack: &StackConfig| {
        json!({
            "dim": stack.dim,
            "n_layers": stack.n_layers,
            "head_dim": stack.head_dim,
            "hidden_dim": stack.ffn_dim,
            "n_heads": stack.n_heads,
            "n_kv_heads": stack.n_kv_heads,
            "rope_theta": stack.rope_theta,
            "norm_eps": stack.norm_eps,
            "sliding_window": stack.window,
            "vocab_size": config.n_vocab,
        })
    };
    let mut encoder = stack(&config.encoder);
    encoder["pos_embed"] = json!("rope");
    encoder["audio_encoding_args"] = json!({
        "sampling_rate": config.sample_rate,
        "frame_rate": 1.0 / config.token_seconds(),
        "num_mel_bins": config.n_mels,
        "hop_length": config.hop_length,
        "window_size": config.n_fft,
        "global_log_mel_max": config.log_mel_max,
        "transcription_format": "streaming",
    });
    let mut params = stack(&config.decoder);
    params["tied_embeddings"] = json!(true);
    params["ada_rms_norm_t_cond"] = json!(true);
    params["ada_rms_norm_t_cond_dim"] = json!(DELAY_DIM);
    params["multimodal"] = json!({
        "whisper_model_args": {
            "encoder_args": encoder,
            "downsample_args": {"downsample_factor": config.downsample},
        }
    });
    params
}

fn tekken(config: &VoxtralRealtimeConfig) -> serde_json::Value {
    let special = [
        (1, "<s>"),
        (2, "</s>"),
        (32, "[STREAMING_PAD]"),
        (33, "[STREAMING_WORD]"),
    ];
    let audio = json!({
        "sampling_rate": config.sample_rate,
        "frame_rate": 1.0 / config.token_seconds(),
        "transcription_format": "streaming",
        "transcription_delay_ms": config.default_delay as f64 * config.token_seconds() * 1000.0,
        "streaming_n_left_pad_tokens": config.n_left_pad,
    });
    tekken_json(config.n_vocab, &special, (r"\s+|\S+", "v13"), &audio)
}
