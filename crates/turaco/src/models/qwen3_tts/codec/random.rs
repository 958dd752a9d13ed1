//! Codecs with random weights: the exact sizes of the published one for measurements without it, and tiny ones for tests.

use std::path::Path;

use serde_json::json;

use super::config::{CodecConfig, CodecDecoderConfig, CodecEncoderConfig};
use crate::models::random::{RandomTensor, Spread, write_json, write_tensors};
use crate::{Control, Result};

/// Residual units of a decoder block.
const N_UNITS: usize = 3;

/// Codebooks of the encoder's file beyond those that are used.
const UNUSED_CODEBOOKS: usize = 16;

/// The sizes of `Qwen/Qwen3-TTS-Tokenizer-12Hz`.
pub fn published() -> CodecConfig {
    CodecConfig {
        input_sample_rate: 24_000,
        output_sample_rate: 24_000,
        decoder: CodecDecoderConfig {
            n_groups: 16,
            n_semantic: 1,
            codebook_size: 2048,
            codebook_dim: 512,
            latent_dim: 1024,
            hidden_dim: 512,
            ffn_dim: 1024,
            n_layers: 8,
            n_heads: 16,
            n_kv_heads: 16,
            head_dim: 64,
            window: 72,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
            upsampling_ratios: vec![2, 2],
            decoder_dim: 1536,
            upsample_rates: vec![8, 5, 4, 3],
        },
        encoder: CodecEncoderConfig {
            n_groups: 16,
            n_semantic: 1,
            codebook_size: 2048,
            codebook_dim: 256,
            n_filters: 64,
            upsampling_ratios: vec![8, 6, 5, 4],
            kernel: 7,
            last_kernel: 3,
            residual_kernel: 3,
            n_residual: 1,
            dilation_growth: 2,
            compress: 2,
            hidden_dim: 512,
            ffn_dim: 2048,
            n_layers: 8,
            n_heads: 8,
            n_kv_heads: 8,
            head_dim: 64,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
        },
    }
}

/// Small widths and other ratios than the published ones.
pub fn tiny() -> CodecConfig {
    let published = published();
    CodecConfig {
        decoder: CodecDecoderConfig {
            n_groups: 6,
            codebook_size: 40,
            codebook_dim: 24,
            latent_dim: 32,
            hidden_dim: 32,
            ffn_dim: 48,
            n_layers: 2,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 16,
            window: 5,
            upsampling_ratios: vec![3],
            decoder_dim: 64,
            upsample_rates: vec![4, 2],
            ..published.decoder
        },
        encoder: CodecEncoderConfig {
            n_groups: 6,
            codebook_size: 40,
            codebook_dim: 12,
            n_filters: 4,
            upsampling_ratios: vec![4, 3],
            hidden_dim: 32,
            ffn_dim: 48,
            n_layers: 2,
            n_heads: 4,
            n_kv_heads: 4,
            head_dim: 8,
            ..published.encoder
        },
        ..published
    }
}

/// Writes `config.json`, `preprocessor_config.json` and `model.safetensors` (f32, values that depend on `seed` alone) into an
/// existing folder: what a checkpoint has as `speech_tokenizer`.
///
/// # Errors
/// When the file system refuses, or on cancellation.
pub fn write_random(
    config: &CodecConfig,
    folder: &Path,
    seed: u64,
    control: &Control,
) -> Result<()> {
    write_json(folder, "config.json", &settings(config))?;
    write_json(
        folder,
        "preprocessor_config.json",
        &json!({
            "feature_extractor_type": "EncodecFeatureExtractor",
            "feature_size": 1,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": true,
            "sampling_rate": config.input_sample_rate,
        }),
    )?;
    let mut tensors = decoder_tensors(&config.decoder);
    tensors.extend(encoder_tensors(&config.encoder));
    write_tensors(folder, "model.safetensors", &tensors, true, seed, control)
}

fn decoder_tensors(config: &CodecDecoderConfig) -> Vec<RandomTensor> {
    let mut all: Vec<RandomTensor> = Vec::new();
    let mut add = |name: String, shape: &[usize], kind| {
        all.push((format!("decoder.{name}"), shape.to_vec(), kind));
    };
    let dim = config.codebook_dim / 2;
    for (group, count) in [
        ("rvq_first", config.n_semantic),
        ("rvq_rest", config.n_groups - config.n_semantic),
    ] {
        let group = format!("quantizer.{group}");
        for index in 0..count {
            let codebook = format!("{group}.vq.layers.{index}._codebook");
            let size = config.codebook_size;
            add(format!("{codebook}.cluster_usage"), &[size], Spread::Usage);
            add(
                format!("{codebook}.embedding_sum"),
                &[size, dim],
                Spread::Inputs(count),
            );
        }
        add(
            format!("{group}.input_proj.weight"),
            &[dim, config.codebook_dim, 1],
            Spread::Inputs(config.codebook_dim),
        );
        add(
            format!("{group}.output_proj.weight"),
            &[config.codebook_dim, dim, 1],
            Spread::Inputs(dim),
        );
    }
    let mut conv = |name: String, shape: [usize; 3], inputs: usize, c_out: usize| {
        add(format!("{name}.weight"), &shape, Spread::Inputs(inputs));
        add(format!("{name}.bias"), &[c_out], Spread::Bias);
    };
    let (latent, hidden) = (config.latent_dim, config.hidden_dim);
    let causal = |c_out: usize, c_in: usize, k: usize| ([c_out, c_in, k], c_in * k, c_out);
    let (shape, inputs, outs) = causal(latent, config.codebook_dim, 3);
    conv("pre_conv.conv".into(), shape, inputs, outs);
    for (index, &ratio) in config.upsampling_ratios.iter().enumerate() {
        let stage = format!("upsample.{index}");
        conv(
            format!("{stage}.0.conv"),
            [latent, latent, ratio],
            latent,
            latent,
        );
        conv(format!("{stage}.1.dwconv.conv"), [latent, 1, 7], 7, latent);
    }
    let (shape, inputs, outs) = causal(config.decoder_dim, latent, 7);
    conv("decoder.0.conv".into(), shape, inputs, outs);
    let mut width = config.decoder_dim;
    let mut snakes = Vec::new();
    for (index, &rate) in config.upsample_rates.iter().enumerate() {
        let block = format!("decoder.{}.block", index + 1);
        let half = width / 2;
        snakes.push((format!("{block}.0"), width));
        conv(
            format!("{block}.1.conv"),
            [width, half, 2 * rate],
            2 * width,
            half,
        );
        for unit in 2..2 + N_UNITS {
            let unit = format!("{block}.{unit}");
            snakes.extend(["act1", "act2"].map(|act| (format!("{unit}.{act}"), half)));
            let (shape, inputs, outs) = causal(half, half, 7);
            // The sum of all units grows otherwise.
            conv(format!("{unit}.conv1.conv"), shape, 2 * inputs, outs);
            let (shape, inputs, outs) = causal(half, half, 1);
            conv(format!("{unit}.conv2.conv"), shape, 4 * inputs, outs);
        }
        width = half;
    }
    let last = config.upsample_rates.len() + 1;
    snakes.push((format!("decoder.{last}"), width));
    let (shape, inputs, outs) = causal(1, width, 7);
    conv(
        format!("decoder.{}.conv", last + 1),
        shape,
        4 * inputs,
        outs,
    );
    for (snake, width) in snakes {
        add(format!("{snake}.alpha"), &[width], Spread::Bias);
        add(format!("{snake}.beta"), &[width], Spread::Around(0.5));
    }
    for index in 0..config.upsampling_ratios.len() {
        let block = format!("upsample.{index}.1");
        let wide = 4 * latent;
        add(
            format!("{block}.norm.weight"),
            &[latent],
            Spread::Around(1.0),
        );
        add(format!("{block}.norm.bias"), &[latent], Spread::Bias);
        add(
            format!("{block}.pwconv1.weight"),
            &[wide, latent],
            Spread::Inputs(latent),
        );
        add(format!("{block}.pwconv1.bias"), &[wide], Spread::Bias);
        add(
            format!("{block}.pwconv2.weight"),
            &[latent, wide],
            Spread::Inputs(wide),
        );
        add(format!("{block}.pwconv2.bias"), &[latent], Spread::Bias);
        add(format!("{block}.gamma"), &[latent], Spread::Around(0.5));
    }
    let transformer = "pre_transformer";
    for (name, n_out, n_in) in [
        ("input_proj", hidden, latent),
        ("output_proj", latent, hidden),
    ] {
        let name = format!("{transformer}.{name}");
        add(
            format!("{name}.weight"),
            &[n_out, n_in],
            Spread::Inputs(n_in),
        );
        add(format!("{name}.bias"), &[n_out], Spread::Bias);
    }
    let (q, kv) = (
        config.n_heads * config.head_dim,
        config.n_kv_heads * config.head_dim,
    );
    for layer in 0..config.n_layers {
        let layer = format!("{transformer}.layers.{layer}");
        for (name, n_out, n_in) in [
            ("self_attn.q_proj", q, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, q),
            ("mlp.gate_proj", config.ffn_dim, hidden),
            ("mlp.up_proj", config.ffn_dim, hidden),
            ("mlp.down_proj", hidden, config.ffn_dim),
        ] {
            add(
                format!("{layer}.{name}.weight"),
                &[n_out, n_in],
                Spread::Inputs(n_in),
            );
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(
                format!("{layer}.{norm}.weight"),
                &[hidden],
                Spread::Around(1.0),
            );
        }
        for scale in ["self_attn_layer_scale", "mlp_layer_scale"] {
            add(
                format!("{layer}.{scale}.scale"),
                &[hidden],
                Spread::Around(0.5),
            );
        }
    }
    add(
        format!("{transformer}.norm.weight"),
        &[hidden],
        Spread::Around(1.0),
    );
    all
}

fn encoder_tensors(config: &CodecEncoderConfig) -> Vec<RandomTensor> {
    let mut all: Vec<RandomTensor> = Vec::new();
    let mut add = |name: String, shape: &[usize], kind| {
        all.push((format!("encoder.{name}"), shape.to_vec(), kind));
    };
    let mut conv = |index: String, c_out: usize, c_in: usize, kernel: usize| {
        let name = format!("encoder.layers.{index}.conv");
        add(
            format!("{name}.weight"),
            &[c_out, c_in, kernel],
            Spread::Inputs(c_in * kernel),
        );
        add(format!("{name}.bias"), &[c_out], Spread::Bias);
    };
    let mut width = config.n_filters;
    conv("0".into(), width, 1, config.kernel);
    let mut index = 1;
    for &ratio in config.upsampling_ratios.iter().rev() {
        let narrow = width / config.compress;
        for _ in 0..config.n_residual {
            conv(
                format!("{index}.block.1"),
                narrow,
                width,
                config.residual_kernel,
            );
            conv(format!("{index}.block.3"), width, narrow, 1);
            index += 1;
        }
        // An activation in between has a number of its own.
        conv(format!("{}", index + 1), 2 * width, width, 2 * ratio);
        width *= 2;
        index += 2;
    }
    conv(
        format!("{}", index + 1),
        config.hidden_dim,
        width,
        config.last_kernel,
    );
    let d = config.hidden_dim;
    let (q, kv) = (
        config.n_heads * config.head_dim,
        config.n_kv_heads * config.head_dim,
    );
    for layer in 0..config.n_layers {
        let layer = format!("encoder_transformer.layers.{layer}");
        for (name, n_out, n_in) in [
            ("self_attn.q_proj", q, d),
            ("self_attn.k_proj", kv, d),
            ("self_attn.v_proj", kv, d),
            ("self_attn.o_proj", d, q),
            ("mlp.fc1", config.ffn_dim, d),
            ("mlp.fc2", d, config.ffn_dim),
        ] {
            add(
                format!("{layer}.{name}.weight"),
                &[n_out, n_in],
                Spread::Inputs(n_in),
            );
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("{layer}.{norm}.weight"), &[d], Spread::Around(1.0));
            add(format!("{layer}.{norm}.bias"), &[d], Spread::Bias);
        }
        for scale in ["self_attn_layer_scale", "mlp_layer_scale"] {
            add(format!("{layer}.{scale}.scale"), &[d], Spread::Around(0.5));
        }
    }
    add(
        "downsample.conv.weight".into(),
        &[d, d, 4],
        Spread::Inputs(4 * d),
    );
    let unused = UNUSED_CODEBOOKS;
    for (group, count) in [
        ("semantic", config.n_semantic),
        ("acoustic", config.n_groups - config.n_semantic + unused),
    ] {
        let group = format!("quantizer.{group}_residual_vector_quantizer");
        let (size, dim) = (config.codebook_size, config.codebook_dim);
        for index in 0..count {
            let codebook = format!("{group}.layers.{index}.codebook");
            add(format!("{codebook}.initialized"), &[1], Spread::Around(1.0));
            add(format!("{codebook}.cluster_usage"), &[size], Spread::Usage);
            add(
                format!("{codebook}.embed_sum"),
                &[size, dim],
                Spread::Inputs(index + 1),
            );
        }
        add(
            format!("{group}.input_proj.weight"),
            &[dim, d, 1],
            Spread::Inputs(d),
        );
        add(
            format!("{group}.output_proj.weight"),
            &[d, dim, 1],
            Spread::Inputs(dim),
        );
    }
    all
}

fn settings(config: &CodecConfig) -> serde_json::Value {
    let (decoder, encoder) = (&config.decoder, &config.encoder);
    json!({
        "architectures": ["Qwen3TTSTokenizerV2Model"],
        "model_type": "qwen3_tts_tokenizer_12hz",
        "encoder_valid_num_quantizers": encoder.n_groups,
        "input_sample_rate": config.input_sample_rate,
        "output_sample_rate": config.output_sample_rate,
        "decode_upsample_rate": decoder.samples_per_frame(),
        "encode_downsample_rate": encoder.samples_per_frame(),
        "decoder_config": {
            "num_quantizers": decoder.n_groups,
            "num_semantic_quantizers": decoder.n_semantic,
            "codebook_size": decoder.codebook_size,
            "codebook_dim": decoder.codebook_dim,
            "latent_dim": decoder.latent_dim,
            "hidden_size": decoder.hidden_dim,
            "intermediate_size": decoder.ffn_dim,
            "num_hidden_layers": decoder.n_layers,
            "num_attention_heads": decoder.n_heads,
            "num_key_value_heads": decoder.n_kv_heads,
            "head_dim": decoder.head_dim,
            "sliding_window": decoder.window,
            "rope_theta": decoder.rope_theta,
            "rms_norm_eps": decoder.norm_eps,
            "upsampling_ratios": decoder.upsampling_ratios,
            "decoder_dim": decoder.decoder_dim,
            "upsample_rates": decoder.upsample_rates,
            "hidden_act": "silu",
        },
        "encoder_config": {
            "num_semantic_quantizers": encoder.n_semantic,
            "num_quantizers": encoder.n_groups + UNUSED_CODEBOOKS,
            "codebook_size": encoder.codebook_size,
            "codebook_dim": encoder.codebook_dim,
            "vector_quantization_hidden_dimension": encoder.codebook_dim,
            "num_filters": encoder.n_filters,
            "upsampling_ratios": encoder.upsampling_ratios,
            "kernel_size": encoder.kernel,
            "last_kernel_size": encoder.last_kernel,
            "residual_kernel_size": encoder.residual_kernel,
            "num_residual_layers": encoder.n_residual,
            "dilation_growth_rate": encoder.dilation_growth,
            "compress": encoder.compress,
            "hidden_size": encoder.hidden_dim,
            "intermediate_size": encoder.ffn_dim,
            "num_hidden_layers": encoder.n_layers,
            "num_attention_heads": encoder.n_heads,
            "num_key_value_heads": encoder.n_kv_heads,
            "head_dim": encoder.head_dim,
            "rope_theta": encoder.rope_theta,
            "norm_eps": encoder.norm_eps,
            "hidden_act": "gelu",
            "use_causal_conv": true,
            "sampling_rate": config.input_sample_rate,
            "audio_channels": 1,
        },
    })
}
