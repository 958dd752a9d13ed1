//! From a checkpoint of any format to Whisper's tensors under one set of names.
//!
//! Inside the engine, tensors have the names of Hugging Face's `WhisperForConditionalGeneration` without the leading
//! `model.`; the tables here say what OpenAI (also whisper.cpp) and CTranslate2 call them. A checkpoint that has passed
//! [`WhisperCheckpoint::open`] holds every tensor in the shape that its configuration demands, and finite.

use std::path::{Path, PathBuf};

use super::config::{GenerationDefaults, WhisperConfig};
use super::vocabulary::{self, VocabularySource};
use crate::weights::{self, Checkpoint, Extras, Format, Tensor, Weights, invalid};
use crate::{Error, Result};

/// Everything that is needed to build a Whisper model, validated.
#[derive(Debug, Clone)]
pub struct WhisperCheckpoint {
    /// What to call the model: its Hugging Face id where the path is inside the hub's cache, else from the file name.
    pub name: String,
    /// The file or folder.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Sizes.
    pub config: WhisperConfig,
    /// Stored or default generation settings.
    pub generation: GenerationDefaults,
    /// All tensors under their canonical names; see [`expected_tensors`].
    pub weights: Weights,
    /// Where the vocabulary can be had, if the checkpoint brings one.
    pub vocab: Option<VocabularySource>,
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
        let name = display_name(&checkpoint.path);
        let path = checkpoint.weights.path().to_path_buf();
        let stored_config = match checkpoint.format {
            Format::SafeTensors => checkpoint.sidecars.json("config.json")?,
            _ => None,
        };
        if let Some(json) = &stored_config
            && json.contains_key("model_type")
        {
            // Says the family before complaining about its tensor names.
            WhisperConfig::from_hugging_face(&checkpoint.sidecars.path("config.json"), json)?;
        }
        let scheme = Scheme::of(&checkpoint)?;
        let config = config(&checkpoint, scheme, stored_config.as_ref())?;
        let weights = rename(&checkpoint.weights, scheme, &config)?;

        let mut notes = Vec::new();
        let mut generation = GenerationDefaults::for_model(&config, &name);
        if matches!(checkpoint.format, Format::SafeTensors | Format::CTranslate2) {
            let mut heads_known = false;
            for file in ["generation_config.json", "config.json"] {
                if let Some(json) = checkpoint.sidecars.json(file)? {
                    let file_path = checkpoint.sidecars.path(file);
                    notes.extend(generation.merge(&config, &file_path, &json, &mut heads_known)?);
                }
            }
        }
        let vocab = vocabulary::find(&checkpoint, &config)?;
        Ok(Self {
            name,
            path,
            format: checkpoint.format,
            config,
            generation,
            weights,
            vocab,
            notes,
        })
    }
}

/// Canonical names and shapes of all tensors of a model of that size.
#[must_use]
pub fn expected_tensors(config: &WhisperConfig) -> Vec<(String, Vec<usize>)> {
    slots(config)
        .into_iter()
        .map(|slot| (slot.canonical(), slot.shape))
        .collect()
}

/// Who named the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    /// Hugging Face transformers, with or without `model.` in front.
    HuggingFace { prefix: &'static str },
    /// openai/whisper, also whisper.cpp.
    OpenAi,
    /// CTranslate2.
    CTranslate2,
}

impl Scheme {
    fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let weights = &checkpoint.weights;
        let schemes = [
            Self::HuggingFace { prefix: "model." },
            Self::HuggingFace { prefix: "" },
            Self::OpenAi,
            Self::CTranslate2,
        ];
        let found = schemes.into_iter().find(|scheme| {
            // The position table is named differently by each.
            let slot = Slot::top(
                "encoder.embed_positions",
                "encoder.positional_embedding",
                "encoder/position_encodings/encodings",
                Leaf::Table,
                vec![],
            );
            weights.find(&scheme.name(&slot)).is_some()
        });
        if let Extras::CTranslate2(header) = &checkpoint.extras
            && header.spec != "WhisperSpec"
        {
            return Err(invalid(
                weights.path(),
                format!(
                    "this is a CTranslate2 model of kind `{}`, expected `WhisperSpec`",
                    weights::printable(&header.spec)
                ),
            ));
        }
        found.ok_or_else(|| {
            let some: Vec<String> = weights
                .names()
                .take(3)
                .map(|name| format!("`{}`", weights::printable(name)))
                .collect();
            invalid(
                weights.path(),
                format!(
                    "this is no Whisper model: of its {} tensors none is an encoder position table (first: {})",
                    weights.len(),
                    if some.is_empty() { "none".into() } else { some.join(", ") }
                ),
            )
        })
    }

    fn name(self, slot: &Slot) -> String {
        let leaf = |weight: &'static str, bias: &'static str| match slot.leaf {
            Leaf::Weight => weight,
            Leaf::Bias => bias,
            Leaf::Table => "",
        };
        match self {
            Self::HuggingFace { prefix } => format!("{prefix}{}", slot.canonical()),
            Self::OpenAi => {
                let module = slot.module.openai;
                let leaf = leaf(".weight", ".bias");
                match slot.layer {
                    Some((side, i)) => format!("{side}.blocks.{i}.{module}{leaf}"),
                    None => format!("{module}{leaf}"),
                }
            }
            Self::CTranslate2 => {
                let module = slot.module.ct2;
                let leaf = if module.ends_with("layer_norm") {
                    leaf("/gamma", "/beta")
                } else {
                    leaf("/weight", "/bias")
                };
                match slot.layer {
                    Some((side, i)) => format!("{side}/layer_{i}/{module}{leaf}"),
                    None => format!("{module}{leaf}"),
                }
            }
        }
    }
}

/// What a tensor is within its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Weight,
    Bias,
    /// The only tensor of a table of positions or tokens.
    Table,
}

/// A module's name in every scheme, without the layer's prefix.
#[derive(Debug, Clone, Copy)]
struct Module {
    canonical: &'static str,
    openai: &'static str,
    ct2: &'static str,
    /// CTranslate2 stacks the rows of several projections: which of how many this is.
    stacked: Option<(usize, usize)>,
}

/// One tensor that a model has to have.
struct Slot {
    layer: Option<(&'static str, usize)>,
    module: Module,
    leaf: Leaf,
    shape: Vec<usize>,
}

impl Slot {
    fn top(
        canonical: &'static str,
        openai: &'static str,
        ct2: &'static str,
        leaf: Leaf,
        shape: Vec<usize>,
    ) -> Self {
        Self {
            layer: None,
            module: Module {
                canonical,
                openai,
                ct2,
                stacked: None,
            },
            leaf,
            shape,
        }
    }

    fn canonical(&self) -> String {
        let module = self.module.canonical;
        let leaf = match self.leaf {
            Leaf::Weight | Leaf::Table => "weight",
            Leaf::Bias => "bias",
        };
        match self.layer {
            Some((side, i)) => format!("{side}.layers.{i}.{module}.{leaf}"),
            None => format!("{module}.{leaf}"),
        }
    }
}

/// All tensors of a model, in the order of its tree.
fn slots(config: &WhisperConfig) -> Vec<Slot> {
    let WhisperConfig {
        n_mels,
        n_audio_ctx,
        n_text_ctx,
        n_vocab,
        ..
    } = *config;
    let state = config.n_audio_state;
    let mut slots = vec![
        Slot::top(
            "encoder.embed_positions",
            "encoder.positional_embedding",
            "encoder/position_encodings/encodings",
            Leaf::Table,
            vec![n_audio_ctx, state],
        ),
        Slot::top(
            "decoder.embed_positions",
            "decoder.positional_embedding",
            "decoder/position_encodings/encodings",
            Leaf::Table,
            vec![n_text_ctx, state],
        ),
        // OpenAI and CTranslate2 have a module with a weight here, not a bare table.
        Slot::top(
            "decoder.embed_tokens",
            "decoder.token_embedding",
            "decoder/embeddings",
            Leaf::Weight,
            vec![n_vocab, state],
        ),
        Slot::top(
            "encoder.conv1",
            "encoder.conv1",
            "encoder/conv1",
            Leaf::Weight,
            vec![state, n_mels, 3],
        ),
        Slot::top(
            "encoder.conv1",
            "encoder.conv1",
            "encoder/conv1",
            Leaf::Bias,
            vec![state],
        ),
        Slot::top(
            "encoder.conv2",
            "encoder.conv2",
            "encoder/conv2",
            Leaf::Weight,
            vec![state, state, 3],
        ),
        Slot::top(
            "encoder.conv2",
            "encoder.conv2",
            "encoder/conv2",
            Leaf::Bias,
            vec![state],
        ),
    ];
    for leaf in [Leaf::Weight, Leaf::Bias] {
        slots.push(Slot::top(
            "encoder.layer_norm",
            "encoder.ln_post",
            "encoder/layer_norm",
            leaf,
            vec![state],
        ));
        slots.push(Slot::top(
            "decoder.layer_norm",
            "decoder.ln",
            "decoder/layer_norm",
            leaf,
            vec![state],
        ));
    }
    let module = |canonical, openai, ct2, stacked| Module {
        canonical,
        openai,
        ct2,
        stacked,
    };
    for (side, n_layers, ffn) in [
        ("encoder", config.n_audio_layers, config.n_audio_ffn),
        ("decoder", config.n_text_layers, config.n_text_ffn),
    ] {
        let mut modules = vec![
            (
                module(
                    "self_attn_layer_norm",
                    "attn_ln",
                    "self_attention/layer_norm",
                    None,
                ),
                None,
            ),
            (
                module(
                    "self_attn.q_proj",
                    "attn.query",
                    "self_attention/linear_0",
                    Some((0, 3)),
                ),
                Some((state, state)),
            ),
            (
                module(
                    "self_attn.k_proj",
                    "attn.key",
                    "self_attention/linear_0",
                    Some((1, 3)),
                ),
                Some((state, state)),
            ),
            (
                module(
                    "self_attn.v_proj",
                    "attn.value",
                    "self_attention/linear_0",
                    Some((2, 3)),
                ),
                Some((state, state)),
            ),
            (
                module(
                    "self_attn.out_proj",
                    "attn.out",
                    "self_attention/linear_1",
                    None,
                ),
                Some((state, state)),
            ),
            (
                module("final_layer_norm", "mlp_ln", "ffn/layer_norm", None),
                None,
            ),
            (
                module("fc1", "mlp.0", "ffn/linear_0", None),
                Some((ffn, state)),
            ),
            (
                module("fc2", "mlp.2", "ffn/linear_1", None),
                Some((state, ffn)),
            ),
        ];
        if side == "decoder" {
            modules.extend([
                (
                    module(
                        "encoder_attn_layer_norm",
                        "cross_attn_ln",
                        "attention/layer_norm",
                        None,
                    ),
                    None,
                ),
                (
                    module(
                        "encoder_attn.q_proj",
                        "cross_attn.query",
                        "attention/linear_0",
                        None,
                    ),
                    Some((state, state)),
                ),
                (
                    module(
                        "encoder_attn.k_proj",
                        "cross_attn.key",
                        "attention/linear_1",
                        Some((0, 2)),
                    ),
                    Some((state, state)),
                ),
                (
                    module(
                        "encoder_attn.v_proj",
                        "cross_attn.value",
                        "attention/linear_1",
                        Some((1, 2)),
                    ),
                    Some((state, state)),
                ),
                (
                    module(
                        "encoder_attn.out_proj",
                        "cross_attn.out",
                        "attention/linear_2",
                        None,
                    ),
                    Some((state, state)),
                ),
            ]);
        }
        for i in 0..n_layers {
            for &(module, linear) in &modules {
                let weight_shape =
                    linear.map_or_else(|| vec![state], |(out, inner)| vec![out, inner]);
                let n_out = weight_shape[0];
                let slot = |leaf, shape| Slot {
                    layer: Some((side, i)),
                    module,
                    leaf,
                    shape,
                };
                slots.push(slot(Leaf::Weight, weight_shape));
                // Keys have no bias: softmax would cancel it.
                if !module.canonical.ends_with("k_proj") {
                    slots.push(slot(Leaf::Bias, vec![n_out]));
                }
            }
        }
    }
    slots
}

/// The sizes, from the place where this format keeps them.
fn config(
    checkpoint: &Checkpoint,
    scheme: Scheme,
    stored: Option<&serde_json::Map<String, serde_json::Value>>,
) -> Result<WhisperConfig> {
    match &checkpoint.extras {
        Extras::None => {
            let path = checkpoint.sidecars.path("config.json");
            let json = stored.ok_or_else(|| {
                invalid(
                    &path,
                    format!(
                        "config.json is missing beside the {} weights",
                        checkpoint.format
                    ),
                )
            })?;
            WhisperConfig::from_hugging_face(&path, json)
        }
        Extras::CTranslate2(_) => ct2_config(&checkpoint.weights, scheme),
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
    let audio = shape("encoder/position_encodings/encodings", 2)?;
    let text = shape("decoder/position_encodings/encodings", 2)?;
    let heads = |side: &str, state: usize| -> Result<usize> {
        let name = format!("{side}/num_heads");
        match weights.find(&name) {
            Some(tensor) if tensor.len() == 1 => {
                let value = tensor.to_f32()[0];
                // Whole and small numbers are exact in f32.
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
    let count_layers = |side: &str| {
        (0..)
            .take_while(|i| {
                weights
                    .find(&format!("{side}/layer_{i}/ffn/linear_0/weight"))
                    .is_some()
            })
            .count()
    };
    debug_assert_eq!(scheme, Scheme::CTranslate2);
    let config = WhisperConfig {
        n_mels: shape("encoder/conv1/weight", 3)?[1],
        n_audio_ctx: audio[0],
        n_audio_state: audio[1],
        n_audio_heads: heads("encoder", audio[1])?,
        n_audio_layers: count_layers("encoder"),
        n_audio_ffn: shape("encoder/layer_0/ffn/linear_0/weight", 2)?[0],
        n_text_ctx: text[0],
        n_text_state: text[1],
        n_text_heads: heads("decoder", text[1])?,
        n_text_layers: count_layers("decoder"),
        n_text_ffn: shape("decoder/layer_0/ffn/linear_0/weight", 2)?[0],
        n_vocab: shape("decoder/embeddings/weight", 2)?[0],
    };
    config.validate(weights.path())?;
    Ok(config)
}

/// Takes every tensor of the model out of `source`, under canonical names.
fn rename(source: &Weights, scheme: Scheme, config: &WhisperConfig) -> Result<Weights> {
    let path = source.path();
    let mut renamed = Weights::new(path);
    for slot in slots(config) {
        let name = scheme.name(&slot);
        let tensor = match slot.module.stacked {
            Some((index, parts)) if scheme == Scheme::CTranslate2 => {
                unstack(source, &name, &slot, index, parts)?
            }
            _ => squeeze_to(source.require(&name)?, &slot.shape, &name, path)?,
        };
        if !tensor.is_finite() {
            return Err(invalid(
                path,
                format!("tensor `{name}` holds infinite values or NaN"),
            ));
        }
        renamed.insert(slot.canonical(), tensor)?;
    }
    reject_surplus(source, scheme, config)?;
    Ok(renamed)
}

/// The tensor in the expected shape; axes of size 1 do not matter (whisper.cpp stores biases of convolutions as columns).
fn squeeze_to(tensor: &Tensor, shape: &[usize], name: &str, path: &Path) -> Result<Tensor> {
    if tensor.shape == shape {
        return Ok(tensor.clone());
    }
    let without_ones = |shape: &[usize]| {
        shape
            .iter()
            .copied()
            .filter(|&size| size != 1)
            .collect::<Vec<_>>()
    };
    (without_ones(&tensor.shape) == without_ones(shape))
        .then(|| tensor.reshape(shape))
        .flatten()
        .ok_or_else(|| shape_error(tensor, shape, name, path))
}

fn shape_error(tensor: &Tensor, shape: &[usize], name: &str, path: &Path) -> Error {
    invalid(
        path,
        format!(
            "tensor `{name}` has shape {}, expected {}",
            weights::shape_text(&tensor.shape),
            weights::shape_text(shape)
        ),
    )
}

/// Part `index` of `parts` tensors whose rows CTranslate2 has stacked under `name`.
fn unstack(
    source: &Weights,
    name: &str,
    slot: &Slot,
    index: usize,
    parts: usize,
) -> Result<Tensor> {
    let path = source.path();
    let n_rows = slot.shape[0];
    let mut stacked_shape = slot.shape.clone();
    stacked_shape[0] = n_rows * parts;
    let stacked = source.get(name, &stacked_shape)?;
    let rows = |index: usize| {
        stacked
            .rows(index * n_rows..(index + 1) * n_rows)
            .ok_or_else(|| shape_error(&stacked, &stacked_shape, name, path))
    };
    // The converter fills the keys' share of the bias with zeros, since there is none.
    let key_index = parts - 2;
    if slot.leaf == Leaf::Bias && rows(key_index)?.to_f32().iter().any(|&value| value != 0.0) {
        return Err(invalid(
            path,
            format!("tensor `{name}` has a bias for the keys, which Whisper does not have"),
        ));
    }
    rows(index)
}

/// Refuses layers beyond the configured number and an output projection that is not the token embedding: both mean that
/// configuration and weights do not belong together.
fn reject_surplus(source: &Weights, scheme: Scheme, config: &WhisperConfig) -> Result<()> {
    for (side, n_layers) in [
        ("encoder", config.n_audio_layers),
        ("decoder", config.n_text_layers),
    ] {
        let prefix = match scheme {
            Scheme::HuggingFace { prefix } => format!("{prefix}{side}.layers.{n_layers}."),
            Scheme::OpenAi => format!("{side}.blocks.{n_layers}."),
            Scheme::CTranslate2 => format!("{side}/layer_{n_layers}/"),
        };
        if let Some(name) = source.names().find(|name| name.starts_with(&prefix)) {
            return Err(invalid(
                source.path(),
                format!(
                    "tensor `{}` exists although the configuration says {n_layers} {side} layers",
                    weights::printable(name)
                ),
            ));
        }
    }
    let (projection, embedding) = match scheme {
        Scheme::HuggingFace { prefix } => (
            "proj_out.weight",
            format!("{prefix}decoder.embed_tokens.weight"),
        ),
        Scheme::CTranslate2 => (
            "decoder/projection/weight",
            "decoder/embeddings/weight".to_owned(),
        ),
        Scheme::OpenAi => return Ok(()),
    };
    if let (Some(projection_tensor), Some(embedding_tensor)) =
        (source.find(projection), source.find(&embedding))
    {
        let same = projection_tensor.dtype == embedding_tensor.dtype
            && projection_tensor.shape == embedding_tensor.shape
            && (projection_tensor.bytes.as_ptr() == embedding_tensor.bytes.as_ptr()
                || projection_tensor.bytes[..] == embedding_tensor.bytes[..]);
        if !same {
            return Err(invalid(
                source.path(),
                format!("`{projection}` differs from `{embedding}`; Whisper shares them"),
            ));
        }
    }
    Ok(())
}

/// A name for people: `org/name` for a path in the hub's cache, else the name of the folder or file without what every
/// such name has (`ggml-`, the ending).
fn display_name(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let hub_id = absolute.components().find_map(|component| {
        component
            .as_os_str()
            .to_str()?
            .strip_prefix("models--")
            .map(|id| id.replacen("--", "/", 1))
    });
    if let Some(id) = hub_id {
        return id;
    }
    let generic = [
        "model.safetensors",
        "model.safetensors.index.json",
        "model.bin",
        "pytorch_model.bin",
    ];
    let file_name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let name = file_name(&absolute);
    if generic.contains(&name.as_str()) {
        return absolute.parent().map(file_name).unwrap_or_default();
    }
    let stem = [".safetensors", ".bin", ".pt", ".apr"]
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(&name);
    stem.strip_prefix("ggml-").unwrap_or(stem).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
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
        for (path, format) in [("ct2-int8", Format::CTranslate2)] {
            let other = WhisperCheckpoint::open(&folder.join(path)).unwrap();
            assert_eq!(other.format, format);
            assert_eq!(other.config, reference.config);
            assert_eq!(
                other.generation.suppress_tokens,
                reference.generation.suppress_tokens
            );
            assert_eq!(other.weights.len(), reference.weights.len());
            for (name, shape) in expected_tensors(&reference.config) {
                let expected = reference.weights.get(&name, &shape).unwrap().to_f32();
                let tensor = other.weights.get(&name, &shape).unwrap();
                let found = tensor.to_f32();
                let step = match tensor.dtype {
                    DType::I8 => 1.0 / 127.0,
                    _ => 0.0,
                };
                let row_len = expected.len() / shape[0];
                for (row, (expected, found)) in expected
                    .chunks_exact(row_len)
                    .zip(found.chunks_exact(row_len))
                    .enumerate()
                {
                    let largest = expected.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                    for (a, b) in expected.iter().zip(found) {
                        assert!(
                            (a - b).abs() <= largest * step * 0.501,
                            "{format} {name} row {row}: {a} and {b}"
                        );
                    }
                }
            }
        }
    }
}
