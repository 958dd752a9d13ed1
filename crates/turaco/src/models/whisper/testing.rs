//! Small random checkpoints in every format, for tests.

use std::path::{Path, PathBuf};

use super::WhisperCheckpoint;
use super::config::WhisperConfig;
use super::names::{Scheme, expected_tensors, name_in};
use crate::weights::{DType, Tensor, apr, ct2, ggml, safetensors, torch};

/// A random model with the smallest vocabulary, whose values are exact in f16.
pub(super) struct RandomModel {
    pub(super) config: WhisperConfig,
    /// Canonical name, shape, values.
    pub(super) tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

/// The first tokens of a vocabulary; 220 of them stand before the space.
pub(super) const TOKENS: [&[u8]; 3] = [b"!", b" a", &[0xe2, 0x80]];

impl RandomModel {
    pub(super) fn new(seed: u64) -> Self {
        let config = WhisperConfig {
            n_mels: 5,
            n_audio_ctx: 6,
            n_audio_state: 32,
            n_audio_heads: 4,
            n_audio_layers: 2,
            n_audio_ffn: 64,
            n_text_ctx: 7,
            n_text_state: 32,
            n_text_heads: 2,
            n_text_layers: 3,
            n_text_ffn: 96,
            n_vocab: 51_866,
        };
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            half::f16::from_f32((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0).to_f32()
        };
        let tensors = expected_tensors(&config)
            .into_iter()
            .map(|(name, shape)| {
                let values = (0..shape.iter().product()).map(|_| next()).collect();
                (name, shape, values)
            })
            .collect();
        Self { config, tensors }
    }

    fn values(&self, canonical: &str) -> &(String, Vec<usize>, Vec<f32>) {
        self.tensors
            .iter()
            .find(|(name, _, _)| name == canonical)
            .unwrap()
    }

    fn sizes(&self) -> [usize; 10] {
        let config = &self.config;
        [
            config.n_vocab,
            config.n_audio_ctx,
            config.n_audio_state,
            config.n_audio_heads,
            config.n_audio_layers,
            config.n_text_ctx,
            config.n_text_state,
            config.n_text_heads,
            config.n_text_layers,
            config.n_mels,
        ]
    }

    /// whisper.cpp: `ftype` 0 (f32) or 1 (f16), or 7 for q8_0.
    pub(super) fn write_ggml(&self, path: &Path, ftype: i32) -> PathBuf {
        let mut sizes = [0; 11];
        for (to, from) in sizes.iter_mut().zip(self.sizes()) {
            *to = from as i32;
        }
        sizes[10] = ftype;
        let mut bytes = ggml::tests::begin(&sizes, &TOKENS);
        for (canonical, shape, values) in &self.tensors {
            let name = name_in(&self.config, Scheme::OpenAi, canonical);
            let mut shape = shape.clone();
            if canonical.contains("conv") && shape.len() == 1 {
                shape.push(1);
            }
            let always_f32 = shape.len() == 1
                || name.ends_with("positional_embedding")
                || shape.last() == Some(&1);
            let (type_id, data) = match ftype {
                _ if ftype == 0 || always_f32 => (0, f32_bytes(values)),
                7 if shape.len() == 2 => (8, q8_0_bytes(values)),
                _ => (1, f16_bytes(values)),
            };
            ggml::tests::push(&mut bytes, &name, type_id, &shape, &data);
        }
        std::fs::write(path, bytes).unwrap();
        path.to_path_buf()
    }

    /// OpenAI, f32.
    pub(super) fn write_torch(&self, path: &Path) -> PathBuf {
        let dims: Vec<(&str, usize)> = [
            "n_vocab",
            "n_audio_ctx",
            "n_audio_state",
            "n_audio_head",
            "n_audio_layer",
            "n_text_ctx",
            "n_text_state",
            "n_text_head",
            "n_text_layer",
            "n_mels",
        ]
        .into_iter()
        .zip(self.sizes())
        .collect();
        let bytes = self.torch_bytes(&dims, Scheme::OpenAi);
        std::fs::write(path, bytes).unwrap();
        path.to_path_buf()
    }

    fn torch_bytes(&self, dims: &[(&str, usize)], scheme: Scheme) -> Vec<u8> {
        let named: Vec<(String, Vec<usize>)> = self
            .tensors
            .iter()
            .map(|(name, shape, _)| {
                let strides = (0..shape.len())
                    .map(|axis| shape[axis + 1..].iter().product())
                    .collect();
                (name_in(&self.config, scheme, name), strides)
            })
            .collect();
        let described: Vec<torch::tests::Described<'_>> = self
            .tensors
            .iter()
            .zip(&named)
            .map(|((_, shape, values), (name, strides))| {
                (name.as_str(), 0, &shape[..], &strides[..], &values[..])
            })
            .collect();
        torch::tests::write(dims, &described, true)
    }

    /// whisper.apr: quantisation 0 (f32) or 2 (int8).
    pub(super) fn write_apr(&self, path: &Path, quantisation: u8) -> PathBuf {
        let sizes = self.sizes().map(|size| size as u32);
        let named: Vec<String> = self
            .tensors
            .iter()
            .map(|(name, _, _)| name_in(&self.config, Scheme::Apr, name))
            .collect();
        let tensors: Vec<_> = self
            .tensors
            .iter()
            .zip(&named)
            .map(|((_, shape, values), name)| (name.as_str(), &shape[..], values.clone()))
            .collect();
        let mut tokens: Vec<&[u8]> = vec![b"x"; 220];
        tokens.push(b" ");
        let bytes = apr::tests::write(&sizes, quantisation, &tensors, Some(&tokens));
        std::fs::write(path, bytes).unwrap();
        path.to_path_buf()
    }

    /// Hugging Face, with `config.json`, in one file or two shards.
    pub(super) fn write_safetensors(&self, folder: &Path, sharded: bool) -> PathBuf {
        std::fs::create_dir_all(folder).unwrap();
        self.write_config(folder);
        let tensors: Vec<(String, Tensor)> = self
            .tensors
            .iter()
            .map(|(name, shape, values)| (format!("model.{name}"), Tensor::from_f32(shape, values)))
            .collect();
        let write = |file: &str, part: &[(String, Tensor)]| {
            let mut bytes = Vec::new();
            let part: Vec<_> = part
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor, DType::F32))
                .collect();
            safetensors::write(&mut bytes, &part).unwrap();
            std::fs::write(folder.join(file), bytes).unwrap();
        };
        if sharded {
            let (one, two) = tensors.split_at(20);
            write("one.safetensors", one);
            write("two.safetensors", two);
            let mut map = serde_json::Map::new();
            for (part, file) in [(one, "one.safetensors"), (two, "two.safetensors")] {
                map.extend(part.iter().map(|(name, _)| (name.clone(), file.into())));
            }
            let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
            std::fs::write(
                folder.join("model.safetensors.index.json"),
                index.to_string(),
            )
            .unwrap();
        } else {
            write("model.safetensors", &tensors);
        }
        folder.to_path_buf()
    }

    /// Hugging Face's older files: a plain state dictionary as a pickle.
    pub(super) fn write_pytorch_folder(&self, folder: &Path) -> PathBuf {
        std::fs::create_dir_all(folder).unwrap();
        self.write_config(folder);
        let bytes = self.torch_bytes(&[], Scheme::HuggingFace { prefix: "model." });
        std::fs::write(folder.join("pytorch_model.bin"), bytes).unwrap();
        folder.to_path_buf()
    }

    pub(super) fn write_config(&self, folder: &Path) {
        let config = &self.config;
        let json = serde_json::json!({
            "model_type": "whisper", "d_model": config.n_audio_state, "vocab_size": config.n_vocab,
            "num_mel_bins": config.n_mels, "encoder_layers": config.n_audio_layers,
            "decoder_layers": config.n_text_layers, "encoder_attention_heads": config.n_audio_heads,
            "decoder_attention_heads": config.n_text_heads, "encoder_ffn_dim": config.n_audio_ffn,
            "decoder_ffn_dim": config.n_text_ffn, "max_source_positions": config.n_audio_ctx,
            "max_target_positions": config.n_text_ctx,
        });
        std::fs::write(folder.join("config.json"), json.to_string()).unwrap();
    }

    /// CTranslate2: linear and convolution weights as `kind` 1 (int8), 2 (int16), 4 (f16) or 0 (f32).
    pub(super) fn write_ct2(&self, folder: &Path, kind: u8) -> PathBuf {
        std::fs::create_dir_all(folder).unwrap();
        let mut writer = ct2::tests::Writer::new("WhisperSpec");
        let config = &self.config;
        let heads = [
            ("encoder", config.n_audio_heads),
            ("decoder", config.n_text_heads),
        ];
        for (side, n_heads) in heads {
            let name = format!("{side}/num_heads");
            writer.variable(&name, &[], 2, &(n_heads as i16).to_le_bytes());
        }
        let mut put = |name: &str, shape: &[usize], values: &[f32]| {
            let dims: Vec<u32> = shape.iter().map(|&size| size as u32).collect();
            let is_weight = name.ends_with("/weight");
            let row_len = values.len() / shape[0];
            match kind {
                1 if is_weight => {
                    let mut data = Vec::new();
                    let mut scales = Vec::new();
                    for row in values.chunks_exact(row_len) {
                        let scale = 127.0 / row.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                        scales.push(scale);
                        data.extend(row.iter().map(|value| (value * scale).round() as i8 as u8));
                    }
                    writer.variable(name, &dims, 1, &data);
                    let dims = [scales.len() as u32];
                    writer.variable(&format!("{name}_scale"), &dims, 0, &f32_bytes(&scales));
                }
                2 if is_weight => {
                    let scale = 1024.0 / values.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                    let data: Vec<u8> = values
                        .iter()
                        .flat_map(|value| ((value * scale).round() as i16).to_le_bytes())
                        .collect();
                    writer.variable(name, &dims, 2, &data);
                    writer.variable(&format!("{name}_scale"), &[], 0, &scale.to_le_bytes());
                }
                4 => writer.variable(name, &dims, 4, &f16_bytes(values)),
                _ => writer.variable(name, &dims, 0, &f32_bytes(values)),
            }
        };
        let mut done = std::collections::BTreeSet::new();
        for (canonical, shape, values) in &self.tensors {
            let name = name_in(config, Scheme::CTranslate2, canonical);
            if !done.insert(name.clone()) {
                continue;
            }
            let parts: &[&str] = if name.contains("self_attention/linear_0") {
                &["q_proj", "k_proj", "v_proj"]
            } else if name.contains("/attention/linear_1") {
                &["k_proj", "v_proj"]
            } else {
                &[]
            };
            if parts.is_empty() {
                put(&name, shape, values);
                continue;
            }
            let mut stacked = Vec::new();
            for part in parts {
                let (module, leaf) = canonical.rsplit_once('.').unwrap();
                let module = module.rsplit_once('.').unwrap().0;
                if *part == "k_proj" && leaf == "bias" {
                    stacked.extend(vec![0.0; shape[0]]);
                } else {
                    stacked.extend(&self.values(&format!("{module}.{part}.{leaf}")).2);
                }
            }
            let mut shape = shape.clone();
            shape[0] *= parts.len();
            put(&name, &shape, &stacked);
        }
        let aliases = [("decoder/projection/weight", "decoder/embeddings/weight")];
        let bytes = writer.finish("WhisperSpec", &aliases);
        std::fs::write(folder.join("model.bin"), bytes).unwrap();
        folder.to_path_buf()
    }
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn f16_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&value| half::f16::from_f32(value).to_le_bytes())
        .collect()
}

fn q8_0_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in values.chunks_exact(32) {
        let scale = half::f16::from_f32(block.iter().fold(0.0f32, |a, b| a.max(b.abs())) / 127.0);
        bytes.extend(scale.to_le_bytes());
        bytes.extend(
            block
                .iter()
                .map(|value| (value / scale.to_f32()).round() as i8 as u8),
        );
    }
    bytes
}

/// Every tensor of `found` equals that of `expected`, up to `tolerance` times its largest value.
pub(super) fn assert_same_tensors(
    expected: &WhisperCheckpoint,
    found: &WhisperCheckpoint,
    tolerance: f32,
) {
    assert_eq!(expected.config, found.config);
    for (name, shape) in expected_tensors(&expected.config) {
        let a = expected.weights.get(&name, &shape).unwrap().to_f32();
        let b = found.weights.get(&name, &shape).unwrap().to_f32();
        let largest = a.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        for (i, (a, b)) in a.iter().zip(&b).enumerate() {
            assert!(
                (a - b).abs() <= largest * tolerance,
                "{name} value {i}: {a} and {b}"
            );
        }
    }
}
