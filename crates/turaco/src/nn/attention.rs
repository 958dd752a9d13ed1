//! Causal self-attention with rotary positions over a cache, its key heads shared by groups of query heads.

use std::sync::Arc;

use turaco_compute::{
    AttentionShape, Epilogue, Ids, Mask, Matrix, Slot, StepBuilder, Value, Vector,
};

use super::{Linear, Loader, RmsNorm};
use crate::weights::Tensor;
use crate::{Error, Result};

/// Sizes of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionConfig {
    /// Width of the hidden states.
    pub dim: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// What a query sees.
    pub mask: Mask,
    /// Which columns of a head a checkpoint pairs.
    pub pairs: RotaryPairs,
    /// Epsilon of the norms of every query and key head before their rotation; `None` without.
    pub qk_norm_eps: Option<f32>,
}

/// Which columns of a head are rotated against each other, in the order of a checkpoint's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RotaryPairs {
    /// Column `i` and column `i + head_dim / 2` (Hugging Face).
    #[default]
    Halves,
    /// Columns `2 i` and `2 i + 1` (Mistral, Meta). Brought into the other order at load, so that both orders give the
    /// same numbers.
    Neighbours,
}

/// `o(attention(rope(q(x)), rope(k(x)), v(x))) + residual`; heads of `q` and `k` may be normed before.
#[derive(Debug)]
pub struct CachedSelfAttention {
    config: AttentionConfig,
    /// Query, key and value projections in one matrix.
    qkv_weight: Arc<Matrix>,
    qkv_bias: Option<Arc<Vector>>,
    /// Of query and key heads.
    qk_norms: Option<(RmsNorm, RmsNorm)>,
    o_proj: Linear,
}

/// What an attention layer meets in a step.
#[derive(Debug, Clone, Copy)]
pub struct CacheAt {
    /// Position of every row.
    pub positions: Ids,
    /// Caches of the sequences.
    pub slot: Slot,
    /// Stacked sequences.
    pub n_sequences: usize,
    /// Layer of the caches.
    pub layer: usize,
}

impl CachedSelfAttention {
    /// `q_proj`, `k_proj`, `v_proj` and `o_proj` below `loader`, each with the bias that the checkpoint has.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(loader: &Loader<'_>, config: AttentionConfig) -> Result<Self> {
        Self::load_scaled(loader, config, None)
    }

    /// The same with each column of the result (before the residual) times its factor of `factors`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load_scaled(
        loader: &Loader<'_>,
        config: AttentionConfig,
        factors: Option<&[f32]>,
    ) -> Result<Self> {
        let (q_dim, kv_dim) = (
            config.n_heads * config.head_dim,
            config.n_kv_heads * config.head_dim,
        );
        let parts = [("q_proj", q_dim), ("k_proj", kv_dim), ("v_proj", kv_dim)];
        let mut weights = Vec::new();
        let mut bias = Vec::new();
        let mut any_bias = false;
        for (name, rows) in parts {
            let at = loader.at(name);
            let ordered = |tensor: Tensor| match config.pairs {
                RotaryPairs::Neighbours if name != "v_proj" => {
                    halves_of_pairs(&tensor, config.head_dim)
                }
                _ => Ok(tensor),
            };
            weights.push(ordered(at.tensor("weight", &[rows, config.dim])?)?);
            if at.has("bias") {
                bias.extend(ordered(at.tensor("bias", &[rows])?)?.to_f32());
                any_bias = true;
            } else {
                bias.resize(bias.len() + rows, 0.0);
            }
        }
        let qkv_bias = match any_bias {
            true => Some(loader.device().vector(&bias)?),
            false => None,
        };
        let norm = |name, eps| RmsNorm::load(loader, name, config.head_dim, eps);
        let qk_norms = match config.qk_norm_eps {
            Some(eps) => Some((norm("q_norm", eps)?, norm("k_norm", eps)?)),
            None => None,
        };
        let o_proj = match factors {
            Some(factors) => Linear::load_scaled(loader, "o_proj", q_dim, config.dim, factors)?,
            None => {
                let has_bias = loader.has("o_proj.bias");
                Linear::load_stacked(loader, &[("o_proj", has_bias)], q_dim, config.dim)?
            }
        };
        Ok(Self {
            config,
            qkv_weight: loader.stacked(&weights)?,
            qkv_bias,
            qk_norms,
            o_proj,
        })
    }

    /// Appends `x [rows, dim]` to the caches and attends to them; `residual` is added to the result.
    ///
    /// # Errors
    /// `x` has another width.
    pub fn forward(
        &self,
        step: &mut StepBuilder,
        x: Value,
        at: CacheAt,
        residual: Value,
    ) -> Result<Value> {
        let AttentionConfig {
            n_heads,
            n_kv_heads,
            head_dim,
            rope_theta,
            mask,
            ..
        } = self.config;
        let (q_dim, kv_dim) = (n_heads * head_dim, n_kv_heads * head_dim);
        let epilogue = Epilogue {
            bias: self.qkv_bias.clone(),
            ..Epilogue::default()
        };
        let qkv = step.linear(x, &self.qkv_weight, epilogue)?;
        let (q, k) = match &self.qk_norms {
            Some((q_norm, k_norm)) => {
                let q = step.columns(qkv, 0, q_dim)?;
                let q = q_norm.forward(step, q)?;
                let k = step.columns(qkv, q_dim, kv_dim)?;
                let k = k_norm.forward(step, k)?;
                (
                    step.rope(q, at.positions, head_dim, rope_theta, false)?,
                    step.rope(k, at.positions, head_dim, rope_theta, false)?,
                )
            }
            None => {
                let qk = step.columns(qkv, 0, q_dim + kv_dim)?;
                let qk = step.rope(qk, at.positions, head_dim, rope_theta, false)?;
                (
                    step.columns(qk, 0, q_dim)?,
                    step.columns(qk, q_dim, kv_dim)?,
                )
            }
        };
        let v = step.columns(qkv, q_dim + kv_dim, kv_dim)?;
        step.cache_append(at.slot, at.layer, k, v)?;
        let shape = AttentionShape {
            n_heads,
            n_kv_heads,
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
            mask,
        };
        let attended = step.cached_attention(q, at.slot, at.layer, at.n_sequences, shape)?;
        self.o_proj
            .forward_with(step, attended, Epilogue::default().residual(residual))
    }
}

/// Rows of every head reordered from pairs of neighbours `0 1 | 2 3 | …` to two halves `0 2 4 … | 1 3 5 …`.
pub(crate) fn halves_of_pairs(tensor: &Tensor, head_dim: usize) -> Result<Tensor> {
    let n_rows = tensor.n_rows();
    let row_bytes = tensor.bytes.len() / n_rows.max(1);
    let mut bytes = Vec::with_capacity(tensor.bytes.len());
    for head in tensor.bytes.chunks_exact(head_dim * row_bytes) {
        for parity in 0..2 {
            for pair in 0..head_dim / 2 {
                bytes.extend_from_slice(&head[(2 * pair + parity) * row_bytes..][..row_bytes]);
            }
        }
    }
    tensor.bytes.release();
    let reordered = Tensor::new(tensor.dtype, tensor.shape.clone(), bytes.into());
    reordered.map_err(|what| {
        // Not reached for tensors of a checkpoint's plain types.
        Error::Compute(turaco_compute::Error::Unsupported {
            what: "rotary pairs of neighbours in packed rows".into(),
            reason: what,
        })
    })
}
