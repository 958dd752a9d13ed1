//! What the models of the Voxtral family have in common: names of tensors in Mistral's layout, the vocabulary's file, and how
//! weights are kept.

use std::path::PathBuf;

use turaco_compute::WeightType;

use crate::Result;
use crate::tokenizer::Tekken;
use crate::weights::{Sidecars, Weights, invalid, printable};

/// The parts of a decoder layer: Mistral's names, and Hugging Face's.
pub(super) const DECODER_LAYER: [(&str, &str); 9] = [
    ("attention.wq", "self_attn.q_proj"),
    ("attention.wk", "self_attn.k_proj"),
    ("attention.wv", "self_attn.v_proj"),
    ("attention.wo", "self_attn.o_proj"),
    ("attention_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("feed_forward.w1", "mlp.gate_proj"),
    ("feed_forward.w2", "mlp.down_proj"),
    ("feed_forward.w3", "mlp.up_proj"),
];

/// What Hugging Face calls the tensor `INDEX.PART.LEAF` of a layer, whose parts are in `table`.
pub(super) fn layer_name(name: &str, table: &[(&str, &str)]) -> Option<String> {
    let (index, rest) = name.split_once('.')?;
    let (part, leaf) = rest.rsplit_once('.')?;
    let (_, part) = table.iter().find(|(mistral, _)| *mistral == part)?;
    Some(format!("{index}.{part}.{leaf}"))
}

/// The name of a tensor of Hugging Face's layout in its older form: newer versions of transformers put `model.` in front, and
/// the decoder's inner `model.` and the place of its head are different.
pub(super) fn usual_name(name: &str) -> Option<String> {
    let name = name.strip_prefix("model.").unwrap_or(name);
    let inside = name.strip_prefix("language_model.").unwrap_or(name);
    Some(match inside {
        "lm_head.weight" => "language_model.lm_head.weight".into(),
        _ if inside.len() < name.len() && !inside.starts_with("model.") => {
            format!("language_model.model.{inside}")
        }
        _ => name.to_owned(),
    })
}

/// All tensors under the names that `rename` gives them.
///
/// # Errors
/// A tensor that is no part of a `model`, or two of one name.
pub(super) fn renamed(
    weights: &Weights,
    model: &str,
    rename: impl Fn(&str) -> Option<String>,
) -> Result<Weights> {
    let mut renamed = Weights::new(weights.path());
    for (name, tensor) in weights.iter() {
        let name = rename(name).ok_or_else(|| {
            let message = format!("tensor `{}` is no part of a {model} model", printable(name));
            invalid(weights.path(), message)
        })?;
        renamed.insert(name, tensor.clone())?;
    }
    Ok(renamed)
}

/// The vocabulary beside the weights of a model with `n_vocab` tokens, and where it is.
///
/// # Errors
/// It is missing or broken.
pub(super) fn read_vocabulary(sidecars: &Sidecars, n_vocab: usize) -> Result<(PathBuf, Tekken)> {
    let path = sidecars.path("tekken.json");
    let json = sidecars.get("tekken.json")?.ok_or_else(|| {
        let message = "this file is missing; the vocabulary of a Voxtral model is in it";
        invalid(&path, message)
    })?;
    let vocabulary = Tekken::from_json(&path, &json, n_vocab)?;
    Ok((path, vocabulary))
}

/// How the audio encoder is stored when the decoder is `weight_type`. It is a fifth of the weights or less and works on many
/// rows at a time: what counts is how fast they multiply, and bytes with a scale per row need no unpacking.
pub(super) fn encoder_type(weight_type: WeightType) -> WeightType {
    match weight_type {
        WeightType::Q8 | WeightType::Q4 => WeightType::Int8,
        other => other,
    }
}
