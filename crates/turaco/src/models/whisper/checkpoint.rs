//! From a file or folder of any format to everything that a Whisper model is built from, validated.

use std::path::{Path, PathBuf};

use super::config::{GenerationDefaults, WhisperConfig};
use super::names::{self, Scheme};
use super::vocabulary::{self, VocabularySource};
use crate::Result;
use crate::weights::{self, Checkpoint, Extras, Format, Tensor, Weights, invalid};

/// Everything that is needed to build a Whisper model.
///
/// A checkpoint that has been opened holds every tensor of [`super::expected_tensors`] in the shape that its configuration
/// demands, and finite.
#[derive(Debug, Clone)]
pub struct WhisperCheckpoint {
    /// What to call the model: its Hugging Face id where the path is inside the hub's cache, else from the file name.
    pub name: String,
    /// The file or folder that holds the weights.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Sizes.
    pub config: WhisperConfig,
    /// Stored or default generation settings.
    pub generation: GenerationDefaults,
    /// All tensors under their canonical names.
    pub weights: Weights,
    /// Where the vocabulary can be had, if the checkpoint brings one. OpenAI's files do not.
    pub vocab: Option<VocabularySource>,
    /// The filter bank `[n_mels, 201]`, in the formats that store it.
    pub mel_filters: Option<Tensor>,
    /// Oddities that were passed over, for the user to know.
    pub notes: Vec<String>,
}

impl WhisperCheckpoint {
    /// Opens a Whisper model of any readable format.
    ///
    /// # Errors
    /// When it cannot be read, is no Whisper model, or lacks anything; names file, tensor or key.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_checkpoint(weights::open(path)?)
    }

    /// As [`WhisperCheckpoint::open`], from weights that are open already.
    ///
    /// # Errors
    /// When it is no Whisper model, or lacks anything; names file, tensor or key.
    pub fn from_checkpoint(checkpoint: Checkpoint) -> Result<Self> {
        let name = crate::models::display_name(&checkpoint.path);
        let path = checkpoint.weights.path().to_path_buf();
        let (scheme, config) = config(&checkpoint)?;
        let weights = names::rename(&checkpoint.weights, scheme, &config)?;

        let mut notes = Vec::new();
        let mut generation = GenerationDefaults::for_model(&config, &name);
        if has_settings(&checkpoint) {
            let mut heads_known = false;
            for file in ["generation_config.json", "config.json"] {
                if let Some(json) = checkpoint.sidecars.json(file)? {
                    let file_path = checkpoint.sidecars.path(file);
                    notes.extend(generation.merge(&config, &file_path, &json, &mut heads_known)?);
                }
            }
        }
        let vocab = vocabulary::find(&checkpoint, &config, &mut notes)?;
        let mel_filters = match checkpoint.extras {
            Extras::Ggml(header) => Some(header.mel_filters),
            Extras::Apr(header) => header.mel_filters,
            _ => None,
        };
        Ok(Self {
            name,
            path,
            format: checkpoint.format,
            config,
            generation,
            weights,
            vocab,
            mel_filters,
            notes,
        })
    }
}

/// Whether the JSON files beside the weights belong to them: files that say everything themselves are often kept in a folder
/// with others.
fn has_settings(checkpoint: &Checkpoint) -> bool {
    match &checkpoint.extras {
        Extras::None | Extras::CTranslate2(_) => true,
        Extras::PyTorch(dimensions) => dimensions.is_empty(),
        _ => false,
    }
}

/// Who named the tensors, and the sizes from the place where this format keeps them.
fn config(checkpoint: &Checkpoint) -> Result<(Scheme, WhisperConfig)> {
    let weights = &checkpoint.weights;
    let path = weights.path();
    let hugging_face = |scheme: Result<Scheme>| -> Result<(Scheme, WhisperConfig)> {
        let json_path = checkpoint.sidecars.path("config.json");
        match checkpoint.sidecars.json("config.json")? {
            // The family of another model is said before its tensor names are found wrong.
            Some(json) => {
                let config = WhisperConfig::from_hugging_face(&json_path, &json)?;
                Ok((scheme?, config))
            }
            None => {
                scheme?;
                Err(invalid(
                    &json_path,
                    format!(
                        "config.json is missing beside the {} weights",
                        checkpoint.format
                    ),
                ))
            }
        }
    };
    // Sizes as eleven numbers, as OpenAI orders them.
    let from_sizes = |sizes: [usize; 10]| -> Result<(Scheme, WhisperConfig)> {
        let scheme = Scheme::of(weights)?;
        let [
            n_vocab,
            n_audio_ctx,
            n_audio_state,
            n_audio_heads,
            n_audio_layers,
            n_text_ctx,
            n_text_state,
            n_text_heads,
            n_text_layers,
            n_mels,
        ] = sizes;
        let config = WhisperConfig {
            n_mels,
            n_audio_ctx,
            n_audio_state,
            n_audio_heads,
            n_audio_layers,
            n_audio_ffn: scheme.ffn_width(weights, "encoder")?,
            n_text_ctx,
            n_text_state,
            n_text_heads,
            n_text_layers,
            n_text_ffn: scheme.ffn_width(weights, "decoder")?,
            n_vocab,
        };
        config.validate(path)?;
        Ok((scheme, config))
    };
    match &checkpoint.extras {
        Extras::None => hugging_face(Scheme::of(weights)),
        Extras::CTranslate2(header) if header.spec != "WhisperSpec" => Err(invalid(
            path,
            format!(
                "this is a CTranslate2 model of kind `{}`, expected `WhisperSpec`",
                weights::printable(&header.spec)
            ),
        )),
        Extras::CTranslate2(_) => {
            let scheme = Scheme::of(weights)?;
            Ok((scheme, ct2_config(weights, scheme)?))
        }
        Extras::PyTorch(dimensions) if dimensions.is_empty() => hugging_face(Scheme::of(weights)),
        Extras::PyTorch(dimensions) => {
            let size = |key: &str| {
                let value = dimensions
                    .get(key)
                    .ok_or_else(|| invalid(path, format!("`dims` has no `{key}`")))?;
                usize::try_from(*value).map_err(|_| {
                    invalid(
                        path,
                        format!("`{key}` in `dims` is {value}, expected a size"),
                    )
                })
            };
            from_sizes([
                size("n_vocab")?,
                size("n_audio_ctx")?,
                size("n_audio_state")?,
                size("n_audio_head")?,
                size("n_audio_layer")?,
                size("n_text_ctx")?,
                size("n_text_state")?,
                size("n_text_head")?,
                size("n_text_layer")?,
                size("n_mels")?,
            ])
        }
        Extras::Ggml(header) => {
            let sizes = header.hyperparameters;
            from_sizes([
                sizes.n_vocab,
                sizes.n_audio_ctx,
                sizes.n_audio_state,
                sizes.n_audio_head,
                sizes.n_audio_layer,
                sizes.n_text_ctx,
                sizes.n_text_state,
                sizes.n_text_head,
                sizes.n_text_layer,
                sizes.n_mels,
            ])
        }
        Extras::Apr(header) => from_sizes([
            header.n_vocab,
            header.n_audio_ctx,
            header.n_audio_state,
            header.n_audio_head,
            header.n_audio_layer,
            header.n_text_ctx,
            header.n_text_state,
            header.n_text_head,
            header.n_text_layer,
            header.n_mels,
        ]),
    }
}

/// CTranslate2 stores only the numbers of heads; the rest is in the shapes.
fn ct2_config(weights: &Weights, scheme: Scheme) -> Result<WhisperConfig> {
    let shape = |name: &str, rank: usize| -> Result<&[usize]> {
        let tensor = weights.require(name)?;
        if tensor.shape.len() != rank {
            return Err(invalid(
                weights.path(),
                format!(
                    "tensor `{name}` has shape {}, expected {rank} axes",
                    weights::shape_text(&tensor.shape)
                ),
            ));
        }
        Ok(&tensor.shape)
    };
    let heads = |side: &str, state: usize| -> Result<usize> {
        let name = format!("{side}/num_heads");
        match weights.find(&name) {
            Some(tensor) if tensor.len() == 1 => {
                let value = tensor.to_f32()[0];
                // Whole numbers of this size are exact in f32.
                if (1.0..=4096.0).contains(&value) && value.fract() == 0.0 {
                    return Ok(value as usize);
                }
                Err(invalid(
                    weights.path(),
                    format!("`{name}` is {value}, expected a positive whole number"),
                ))
            }
            Some(_) => Err(invalid(
                weights.path(),
                format!("`{name}` is not a single number"),
            )),
            // Early conversions do not store it; every published Whisper has heads of 64.
            None => Ok((state / 64).max(1)),
        }
    };
    let audio = shape("encoder/position_encodings/encodings", 2)?;
    let text = shape("decoder/position_encodings/encodings", 2)?;
    let config = WhisperConfig {
        n_mels: shape("encoder/conv1/weight", 3)?[1],
        n_audio_ctx: audio[0],
        n_audio_state: audio[1],
        n_audio_heads: heads("encoder", audio[1])?,
        n_audio_layers: scheme.count_layers(weights, "encoder"),
        n_audio_ffn: scheme.ffn_width(weights, "encoder")?,
        n_text_ctx: text[0],
        n_text_state: text[1],
        n_text_heads: heads("decoder", text[1])?,
        n_text_layers: scheme.count_layers(weights, "decoder"),
        n_text_ffn: scheme.ffn_width(weights, "decoder")?,
        n_vocab: shape("decoder/embeddings/weight", 2)?[0],
    };
    config.validate(weights.path())?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::whisper::expected_tensors;
    use crate::models::whisper::testing::{self, RandomModel};
    use turaco_compute::DType;

    /// A file or folder outside of the repository, if it is there.
    fn shared(path: &str) -> Option<PathBuf> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../../shared")
            .join(path);
        if !path.exists() {
            eprintln!("skipped: {} is absent", path.display());
            return None;
        }
        Some(path)
    }

    #[test]
    fn tiny_random_has_the_same_tensors_in_every_format() {
        let Some(folder) = shared("golden/whisper/tiny-random") else {
            return;
        };
        let reference = WhisperCheckpoint::open(&folder).unwrap();
        assert_eq!(reference.format, Format::SafeTensors);
        assert_eq!(reference.config.n_mels, 128);
        assert_eq!(reference.config.n_text_layers, 3);
        assert_eq!(reference.generation.alignment_heads, [(1, 0), (2, 1)]);
        assert_eq!(
            reference.generation.language_ids.as_ref().map(Vec::len),
            Some(100)
        );
        assert!(matches!(
            reference.vocab,
            Some(VocabularySource::TokenizerJson(_))
        ));
        for (path, format) in [("ct2-int8", Format::CTranslate2), ("ggml", Format::Ggml)] {
            let other = WhisperCheckpoint::open(&folder.join(path)).unwrap();
            assert_eq!(other.format, format);
            assert_eq!(other.config, reference.config);
            match format {
                Format::Ggml => assert!(
                    matches!(&other.vocab, Some(VocabularySource::TokenList { tokens, .. }) if tokens.len() == 50_257)
                ),
                _ => assert_eq!(
                    other.generation.suppress_tokens,
                    reference.generation.suppress_tokens
                ),
            }
            assert_eq!(other.weights.len(), reference.weights.len());
            for (name, shape) in expected_tensors(&reference.config) {
                let expected = reference.weights.get(&name, &shape).unwrap().to_f32();
                let tensor = other.weights.get(&name, &shape).unwrap();
                let found = tensor.to_f32();
                // Half a step of the largest value of a row (int8) or of a block of 32 (q5_0 has 5 bits, signed).
                let (step, run) = match tensor.dtype {
                    DType::I8 => (0.501 / 127.0, expected.len() / shape[0]),
                    DType::Q5_0 => (1.02 / 16.0, 32),
                    _ => (0.0, expected.len()),
                };
                for (i, (expected, found)) in
                    expected.chunks(run).zip(found.chunks(run)).enumerate()
                {
                    let largest = expected.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                    for (a, b) in expected.iter().zip(found) {
                        assert!(
                            (a - b).abs() <= largest * step,
                            "{format} {name} run {i}: {a} and {b}"
                        );
                    }
                }
            }
        }
    }

    fn open_error(path: &Path) -> String {
        WhisperCheckpoint::open(path).unwrap_err().to_string()
    }

    #[test]
    fn every_format_gives_the_same_model() {
        let model = RandomModel::new(1);
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let reference =
            WhisperCheckpoint::open(&model.write_safetensors(&at("single"), false)).unwrap();
        assert_eq!(reference.config, model.config);
        assert_eq!(reference.name, "single");
        for (name, shape, values) in &model.tensors {
            assert_eq!(
                &reference.weights.get(name, shape).unwrap().to_f32(),
                values
            );
        }
        let step = 1.0 / 254.0 + 1e-3;
        for (path, format, tolerance) in [
            (
                model.write_safetensors(&at("sharded"), true),
                Format::SafeTensors,
                0.0,
            ),
            (model.write_pytorch_folder(&at("bin")), Format::PyTorch, 0.0),
            (model.write_torch(&at("x.pt")), Format::PyTorch, 0.0),
            (model.write_ggml(&at("ggml-a.bin"), 0), Format::Ggml, 0.0),
            (model.write_ggml(&at("ggml-b.bin"), 1), Format::Ggml, 0.0),
            (model.write_ggml(&at("ggml-c.bin"), 7), Format::Ggml, step),
            (model.write_apr(&at("a.apr"), 0), Format::Apr, 0.0),
            (model.write_apr(&at("b.apr"), 2), Format::Apr, step),
            (model.write_ct2(&at("ct2-f32"), 0), Format::CTranslate2, 0.0),
            (model.write_ct2(&at("ct2-f16"), 4), Format::CTranslate2, 0.0),
            (
                model.write_ct2(&at("ct2-int16"), 2),
                Format::CTranslate2,
                1.0 / 2000.0,
            ),
            (
                model.write_ct2(&at("ct2-int8"), 1),
                Format::CTranslate2,
                step,
            ),
        ] {
            let found = WhisperCheckpoint::open(&path).unwrap();
            assert_eq!(found.format, format);
            testing::assert_same_tensors(&reference, &found, tolerance);
            assert_eq!(found.generation, reference.generation);
            let is_listed = matches!(&found.vocab, Some(VocabularySource::TokenList { .. }));
            assert_eq!(is_listed, matches!(format, Format::Ggml | Format::Apr));
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let model = RandomModel::new(2);
        let path = model.write_safetensors(folder.path(), false);
        let config_path = path.join("config.json");
        let good = std::fs::read_to_string(&config_path).unwrap();
        let with = |from: &str, to: &str| {
            assert!(good.contains(from));
            std::fs::write(&config_path, good.replace(from, to)).unwrap();
            open_error(&path)
        };
        for (from, to, part) in [
            ("\"whisper\"", "\"voxtral\"", "of type `voxtral`"),
            ("\"d_model\"", "\"e_model\"", "key `d_model` is missing"),
            (
                "\"num_mel_bins\":5",
                "\"num_mel_bins\":-5",
                "key `num_mel_bins`",
            ),
            (
                "\"num_mel_bins\":5",
                "\"num_mel_bins\":6",
                "has shape [32, 5, 3], expected [32, 6, 3]",
            ),
            (
                "\"encoder_layers\":2",
                "\"encoder_layers\":1",
                "exists although",
            ),
            (
                "\"encoder_layers\":2",
                "\"encoder_layers\":3",
                "encoder.layers.2.self_attn_layer_norm.weight` is missing",
            ),
            (
                "\"encoder_attention_heads\":4",
                "\"encoder_attention_heads\":5",
                "not divisible",
            ),
            ("{", "[", "invalid JSON"),
        ] {
            let message = with(from, to);
            assert!(message.contains(part), "{message}");
        }
        std::fs::remove_file(&config_path).unwrap();
        assert!(open_error(&path).contains("config.json is missing"));
    }

    #[test]
    fn not_a_number_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (i, name) in ["decoder.layers.1.fc2.bias", "decoder.embed_tokens.weight"]
            .into_iter()
            .enumerate()
        {
            let mut model = RandomModel::new(3);
            let tensor = model
                .tensors
                .iter_mut()
                .find(|tensor| tensor.0 == name)
                .unwrap();
            let last = tensor.2.len() - 1;
            tensor.2[last] = if i == 0 { f32::NAN } else { f32::NEG_INFINITY };
            for path in [
                model.write_torch(&folder.path().join("x.pt")),
                model.write_ggml(&folder.path().join("x.bin"), 1),
            ] {
                let message = open_error(&path);
                assert!(message.contains("infinite values or NaN"), "{message}");
            }
        }
    }

    #[test]
    fn oddities_of_ctranslate2() {
        let folder = tempfile::tempdir().unwrap();
        let path = RandomModel::new(4).write_ct2(folder.path(), 1);
        std::fs::write(
            path.join("config.json"),
            r#"{"alignment_heads": [[9, 0]], "suppress_ids": [1, 99999], "suppress_ids_begin": [220], "lang_ids": [50259]}"#,
        )
        .unwrap();
        std::fs::write(path.join("vocabulary.txt"), "!\n\"\nĠa").unwrap();
        let checkpoint = WhisperCheckpoint::open(&path).unwrap();
        assert_eq!(checkpoint.generation.alignment_heads.len(), 4);
        assert_eq!(checkpoint.generation.suppress_tokens, Some(vec![1]));
        assert_eq!(checkpoint.generation.language_ids, Some(vec![50_259]));
        assert_eq!(checkpoint.notes.len(), 2);
        let Some(VocabularySource::TokenList { tokens, .. }) = checkpoint.vocab else {
            panic!("no vocabulary")
        };
        assert_eq!(tokens, [&b"!"[..], b"\"", "Ġa".as_bytes()]);

        // A bias for the keys: the middle third of the stacked bias.
        let mut bytes = std::fs::read(path.join("model.bin")).unwrap();
        let name = b"encoder/layer_0/self_attention/linear_0/bias\0";
        let at = bytes
            .windows(name.len())
            .position(|window| window == name)
            .unwrap();
        let data = at + name.len() + 1 + 4 + 1 + 4;
        bytes[data + 4 * 40..][..4].copy_from_slice(&1.0f32.to_le_bytes());
        std::fs::write(path.join("model.bin"), &bytes).unwrap();
        assert!(open_error(&path).contains("bias for the keys"));
        // Another family.
        let at = bytes.windows(11).position(|w| w == b"WhisperSpec").unwrap();
        bytes[at] = b'X';
        std::fs::write(path.join("model.bin"), &bytes).unwrap();
        assert!(open_error(&path).contains("of kind `XhisperSpec`"));
    }
}
