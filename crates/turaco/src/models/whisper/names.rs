//! What each format calls Whisper's tensors.
//!
//! Inside the engine, tensors have the names of Hugging Face's `WhisperForConditionalGeneration` without the leading
//! `model.`; the tables here say what OpenAI (also whisper.cpp), CTranslate2 and whisper.apr call them.

use std::path::Path;

use super::config::WhisperConfig;
use crate::weights::{self, Tensor, Weights, invalid};
use crate::{Error, Result};

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
pub(super) enum Scheme {
    /// Hugging Face transformers, with or without `model.` in front.
    HuggingFace { prefix: &'static str },
    /// openai/whisper, also whisper.cpp.
    OpenAi,
    /// CTranslate2.
    CTranslate2,
    /// whisper.apr: Hugging Face's modules, OpenAI's tables without a leaf.
    Apr,
}

impl Scheme {
    /// Recognises the scheme by one tensor that every Whisper has.
    pub(super) fn of(weights: &Weights) -> Result<Self> {
        let schemes = [
            Self::HuggingFace { prefix: "model." },
            Self::Apr,
            Self::HuggingFace { prefix: "" },
            Self::OpenAi,
            Self::CTranslate2,
        ];
        let telling = [
            Slot::in_layer("encoder", 0, &LAYER[6], Leaf::Weight, vec![]),
            Slot::outside(&TOP[0], Leaf::Table, vec![]),
        ];
        schemes
            .into_iter()
            .find(|scheme| {
                telling
                    .iter()
                    .all(|slot| weights.find(&scheme.name(slot)).is_some())
            })
            .ok_or_else(|| {
                let some: Vec<String> = weights
                    .names()
                    .take(3)
                    .map(|name| format!("`{}`", weights::printable(name)))
                    .collect();
                invalid(
                    weights.path(),
                    format!(
                        "this is no Whisper model: none of its {} tensors has the name of an encoder's (first: {})",
                        weights.len(),
                        if some.is_empty() { "none".into() } else { some.join(", ") }
                    ),
                )
            })
    }

    /// The name of a tensor in this scheme.
    fn name(self, slot: &Slot) -> String {
        let leaf = |weight: &'static str, bias: &'static str| match slot.leaf {
            Leaf::Weight => weight,
            Leaf::Bias => bias,
            Leaf::Table => "",
        };
        match self {
            Self::HuggingFace { prefix } => format!("{prefix}{}", slot.canonical()),
            Self::Apr if slot.layer.is_none() && slot.module.canonical.contains("embed") => {
                slot.module.openai.to_owned()
            }
            Self::Apr => slot.canonical(),
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

    /// What the tensors of a layer begin with.
    fn layer_prefix(self, side: &str, i: usize) -> String {
        match self {
            Self::HuggingFace { prefix } => format!("{prefix}{side}.layers.{i}."),
            Self::Apr => format!("{side}.layers.{i}."),
            Self::OpenAi => format!("{side}.blocks.{i}."),
            Self::CTranslate2 => format!("{side}/layer_{i}/"),
        }
    }

    /// Number of layers that the file has on one side, counted from 0 without gaps.
    pub(super) fn count_layers(self, weights: &Weights, side: &'static str) -> usize {
        (0..)
            .take_while(|&i| {
                let slot = Slot::in_layer(side, i, &LAYER[6], Leaf::Weight, vec![]);
                weights.find(&self.name(&slot)).is_some()
            })
            .count()
    }

    /// Inner width of the MLPs on one side: no format but Hugging Face's stores it as a number.
    pub(super) fn ffn_width(self, weights: &Weights, side: &'static str) -> Result<usize> {
        let slot = Slot::in_layer(side, 0, &LAYER[6], Leaf::Weight, vec![]);
        Ok(weights.require(&self.name(&slot))?.n_rows())
    }
}

/// What a tensor is within its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Weight,
    Bias,
    /// The only tensor of a table of positions.
    Table,
}

/// A module's name in every scheme, without the layer's prefix.
#[derive(Debug)]
struct Module {
    canonical: &'static str,
    openai: &'static str,
    ct2: &'static str,
    /// CTranslate2 stacks the rows of several projections: which of how many this is.
    stacked: Option<(usize, usize)>,
}

const fn module(canonical: &'static str, openai: &'static str, ct2: &'static str) -> Module {
    Module {
        canonical,
        openai,
        ct2,
        stacked: None,
    }
}

const fn stacked(
    canonical: &'static str,
    openai: &'static str,
    ct2: &'static str,
    index: usize,
    parts: usize,
) -> Module {
    Module {
        canonical,
        openai,
        ct2,
        stacked: Some((index, parts)),
    }
}

/// Outside of the layers.
#[rustfmt::skip]
static TOP: [Module; 7] = [
    module("encoder.embed_positions", "encoder.positional_embedding", "encoder/position_encodings/encodings"),
    module("decoder.embed_positions", "decoder.positional_embedding", "decoder/position_encodings/encodings"),
    module("decoder.embed_tokens", "decoder.token_embedding", "decoder/embeddings"),
    module("encoder.conv1", "encoder.conv1", "encoder/conv1"),
    module("encoder.conv2", "encoder.conv2", "encoder/conv2"),
    module("encoder.layer_norm", "encoder.ln_post", "encoder/layer_norm"),
    module("decoder.layer_norm", "decoder.ln", "decoder/layer_norm"),
];

/// In each layer; the encoder has no cross attention, the last five.
#[rustfmt::skip]
static LAYER: [Module; 13] = [
    module("self_attn_layer_norm", "attn_ln", "self_attention/layer_norm"),
    stacked("self_attn.q_proj", "attn.query", "self_attention/linear_0", 0, 3),
    stacked("self_attn.k_proj", "attn.key", "self_attention/linear_0", 1, 3),
    stacked("self_attn.v_proj", "attn.value", "self_attention/linear_0", 2, 3),
    module("self_attn.out_proj", "attn.out", "self_attention/linear_1"),
    module("final_layer_norm", "mlp_ln", "ffn/layer_norm"),
    module("fc1", "mlp.0", "ffn/linear_0"),
    module("fc2", "mlp.2", "ffn/linear_1"),
    module("encoder_attn_layer_norm", "cross_attn_ln", "attention/layer_norm"),
    module("encoder_attn.q_proj", "cross_attn.query", "attention/linear_0"),
    stacked("encoder_attn.k_proj", "cross_attn.key", "attention/linear_1", 0, 2),
    stacked("encoder_attn.v_proj", "cross_attn.value", "attention/linear_1", 1, 2),
    module("encoder_attn.out_proj", "cross_attn.out", "attention/linear_2"),
];

/// One tensor that a model has to have.
struct Slot {
    layer: Option<(&'static str, usize)>,
    module: &'static Module,
    leaf: Leaf,
    shape: Vec<usize>,
}

impl Slot {
    fn outside(module: &'static Module, leaf: Leaf, shape: Vec<usize>) -> Self {
        Self {
            layer: None,
            module,
            leaf,
            shape,
        }
    }

    fn in_layer(
        side: &'static str,
        i: usize,
        module: &'static Module,
        leaf: Leaf,
        shape: Vec<usize>,
    ) -> Self {
        Self {
            layer: Some((side, i)),
            module,
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

/// All tensors of a model.
fn slots(config: &WhisperConfig) -> Vec<Slot> {
    let state = config.n_audio_state;
    let [
        audio_positions,
        text_positions,
        tokens,
        conv1,
        conv2,
        audio_norm,
        text_norm,
    ] = &TOP;
    let mut slots = vec![
        Slot::outside(
            audio_positions,
            Leaf::Table,
            vec![config.n_audio_ctx, state],
        ),
        Slot::outside(text_positions, Leaf::Table, vec![config.n_text_ctx, state]),
        Slot::outside(tokens, Leaf::Weight, vec![config.n_vocab, state]),
    ];
    for (module, weight_shape) in [
        (conv1, vec![state, config.n_mels, 3]),
        (conv2, vec![state, state, 3]),
        (audio_norm, vec![state]),
        (text_norm, vec![state]),
    ] {
        slots.push(Slot::outside(module, Leaf::Weight, weight_shape));
        slots.push(Slot::outside(module, Leaf::Bias, vec![state]));
    }
    for (side, n_layers, ffn, modules) in [
        (
            "encoder",
            config.n_audio_layers,
            config.n_audio_ffn,
            &LAYER[..8],
        ),
        (
            "decoder",
            config.n_text_layers,
            config.n_text_ffn,
            &LAYER[..],
        ),
    ] {
        for i in 0..n_layers {
            for module in modules {
                let weight_shape = match module.canonical {
                    norm if norm.ends_with("layer_norm") => vec![state],
                    "fc1" => vec![ffn, state],
                    "fc2" => vec![state, ffn],
                    _ => vec![state, state],
                };
                let bias_shape = vec![weight_shape[0]];
                slots.push(Slot::in_layer(side, i, module, Leaf::Weight, weight_shape));
                // Keys have no bias: softmax would cancel it.
                if !module.canonical.ends_with("k_proj") {
                    slots.push(Slot::in_layer(side, i, module, Leaf::Bias, bias_shape));
                }
            }
        }
    }
    slots
}

/// Takes every tensor of the model out of `source`, under canonical names.
///
/// # Errors
/// Names the tensor that is missing, has a wrong shape, is not finite, or does not belong to a model of that size.
pub(super) fn rename(source: &Weights, scheme: Scheme, config: &WhisperConfig) -> Result<Weights> {
    let path = source.path();
    reject_surplus(source, scheme, config)?;
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
    // The converter fills the keys' share of the bias (the last but one part) with zeros, since there is none.
    if slot.leaf == Leaf::Bias && rows(parts - 2)?.to_f32().iter().any(|&value| value != 0.0) {
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
        let prefix = scheme.layer_prefix(side, n_layers);
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
        Scheme::OpenAi | Scheme::Apr => return Ok(()),
    };
    if let (Some(stored), Some(shared)) = (source.find(projection), source.find(&embedding)) {
        let same = stored.dtype == shared.dtype
            && stored.shape == shared.shape
            && (stored.bytes.as_ptr() == shared.bytes.as_ptr()
                || stored.bytes[..] == shared.bytes[..]);
        if !same {
            return Err(invalid(
                source.path(),
                format!("`{projection}` differs from `{embedding}`; Whisper shares them"),
            ));
        }
    }
    Ok(())
}

/// The name in `scheme` of the tensor with that canonical name, for tests that write files.
#[cfg(test)]
pub(super) fn name_in(config: &WhisperConfig, scheme: Scheme, canonical: &str) -> String {
    slots(config)
        .iter()
        .find(|slot| slot.canonical() == canonical)
        .map(|slot| scheme.name(slot))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> WhisperConfig {
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
    fn axes_of_size_one_do_not_matter_but_the_others_and_their_order_do() {
        let values: Vec<f32> = (0..6u8).map(f32::from).collect();
        let squeeze = |stored: &[usize], wanted: &[usize]| {
            squeeze_to(
                &Tensor::from_f32(stored, &values),
                wanted,
                "a",
                Path::new("m"),
            )
        };
        for (stored, wanted) in [
            (&[6][..], &[6][..]),
            (&[6, 1], &[6]),
            (&[1, 6], &[6]),
            (&[6], &[1, 6, 1]),
            (&[2, 3], &[2, 3]),
            (&[1, 2, 1, 3], &[2, 3]),
            (&[2, 3], &[2, 1, 3]),
        ] {
            let tensor = squeeze(stored, wanted).unwrap();
            assert_eq!(
                (tensor.shape.as_slice(), tensor.to_f32()),
                (wanted, values.clone())
            );
        }
        for (stored, wanted) in [
            (&[2, 3][..], &[3, 2][..]),
            (&[2, 3], &[6]),
            (&[6], &[2, 3]),
            (&[1, 2, 3], &[3, 1, 2]),
            (&[6], &[5]),
            (&[6], &[]),
        ] {
            let message = squeeze(stored, wanted).unwrap_err().to_string();
            assert!(message.contains("tensor `a` has shape"), "{message}");
            assert!(message.contains(&weights::shape_text(wanted)), "{message}");
        }
    }

    #[test]
    fn tiny_has_167_tensors() {
        let tensors = expected_tensors(&config());
        assert_eq!(tensors.len(), 167);
        let values: usize = tensors
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        // 37.2 M learned ones and the encoder's table.
        assert_eq!(values, 37_184_640 + 1500 * 384);
    }

    #[test]
    fn names_of_every_scheme() {
        let slots = slots(&config());
        let find = |canonical: &str| {
            slots
                .iter()
                .find(|slot| slot.canonical() == canonical)
                .unwrap()
        };
        for (canonical, openai, ct2, apr) in [
            (
                "decoder.embed_tokens.weight",
                "decoder.token_embedding.weight",
                "decoder/embeddings/weight",
                "decoder.token_embedding",
            ),
            (
                "encoder.embed_positions.weight",
                "encoder.positional_embedding",
                "encoder/position_encodings/encodings",
                "encoder.positional_embedding",
            ),
            (
                "decoder.layers.3.encoder_attn.v_proj.bias",
                "decoder.blocks.3.cross_attn.value.bias",
                "decoder/layer_3/attention/linear_1/bias",
                "decoder.layers.3.encoder_attn.v_proj.bias",
            ),
            (
                "encoder.layers.0.final_layer_norm.bias",
                "encoder.blocks.0.mlp_ln.bias",
                "encoder/layer_0/ffn/layer_norm/beta",
                "encoder.layers.0.final_layer_norm.bias",
            ),
            (
                "decoder.layer_norm.weight",
                "decoder.ln.weight",
                "decoder/layer_norm/gamma",
                "decoder.layer_norm.weight",
            ),
        ] {
            let slot = find(canonical);
            assert_eq!(Scheme::OpenAi.name(slot), openai);
            assert_eq!(Scheme::CTranslate2.name(slot), ct2);
            assert_eq!(Scheme::Apr.name(slot), apr);
            let prefix = "model.";
            assert_eq!(
                Scheme::HuggingFace { prefix }.name(slot),
                format!("model.{canonical}")
            );
        }
    }
}
