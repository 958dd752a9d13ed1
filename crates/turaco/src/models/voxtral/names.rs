//! Names of tensors in Mistral's layout and in Hugging Face's.

use crate::Result;
use crate::weights::{Weights, invalid, printable};

/// The parts of a decoder layer: Mistral's names, and Hugging Face's.
pub(in crate::models) const DECODER_LAYER: [(&str, &str); 9] = [
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
pub(in crate::models) fn layer_name(name: &str, table: &[(&str, &str)]) -> Option<String> {
    let (index, rest) = name.split_once('.')?;
    let (part, leaf) = rest.rsplit_once('.')?;
    let (_, part) = table.iter().find(|(mistral, _)| *mistral == part)?;
    Some(format!("{index}.{part}.{leaf}"))
}

/// The name of a tensor of Hugging Face's layout in its older form: newer versions of transformers put `model.` in front, and
/// the decoder's inner `model.` and the place of its head are different.
pub(in crate::models) fn usual_name(name: &str) -> Option<String> {
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
pub(in crate::models) fn renamed(
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
