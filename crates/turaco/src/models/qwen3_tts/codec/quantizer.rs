//! From codes to vectors: the entries of the codebooks, added up.

use std::sync::Arc;

use turaco_compute::{Epilogue, Ids, Matrix, StepBuilder, Value, WeightType};

use super::config::CodecDecoderConfig;
use crate::nn::{Linear, Loader};
use crate::weights::Tensor;
use crate::{Error, Result};

/// Least number of uses that an entry is divided by, as upstream (`EuclideanCodebook`).
const LEAST_USAGE: f32 = 1e-5;

/// The entries of a codebook that is stored as sums over the vectors that chose them, and how often each was chosen:
/// `[codebook_size, dim]`.
///
/// # Errors
/// A tensor is missing or has another shape.
pub(super) fn entries(
    loader: &Loader<'_>,
    sums: &str,
    codebook_size: usize,
    dim: usize,
) -> Result<Vec<f32>> {
    let usage = loader.tensor("cluster_usage", &[codebook_size])?.to_f32();
    let mut entries = loader.tensor(sums, &[codebook_size, dim])?.to_f32();
    for (entry, usage) in entries.chunks_exact_mut(dim.max(1)).zip(usage) {
        let usage = usage.max(LEAST_USAGE);
        entry.iter_mut().for_each(|value| *value /= usage);
    }
    Ok(entries)
}

/// Codebooks whose entries are added up and then projected.
#[derive(Debug)]
struct Group {
    /// All codebooks of the group, one below the other.
    table: Arc<Matrix>,
    output_proj: Linear,
    n_codebooks: usize,
}

/// `semantic_proj(sum of semantic entries) + acoustic_proj(sum of the others)`.
#[derive(Debug)]
pub(super) struct Quantizer {
    semantic: Group,
    acoustic: Group,
    codebook_size: usize,
}

impl Group {
    fn load(loader: &Loader<'_>, config: &CodecDecoderConfig, n_codebooks: usize) -> Result<Self> {
        let layers = loader.at("vq").at("layers");
        let codebook = |index: usize| layers.at(index).at("_codebook");
        let sums = codebook(0).tensor_of_any_shape("embedding_sum")?;
        let dim = sums.len() / config.codebook_size.max(1);
        let mut table = Vec::with_capacity(n_codebooks * config.codebook_size * dim);
        for index in 0..n_codebooks {
            let codebook = codebook(index);
            table.extend(entries(
                &codebook,
                "embedding_sum",
                config.codebook_size,
                dim,
            )?);
        }
        // Small, and every error of theirs is in all that follows.
        let weight_type = match loader.weight_type() {
            WeightType::F32 => WeightType::F32,
            _ => WeightType::F16,
        };
        let rows = n_codebooks * config.codebook_size;
        let exact = loader.with_weight_type(weight_type);
        // A convolution of one row.
        let shape = [config.codebook_dim, dim, 1];
        let proj = exact.tensor("output_proj.weight", &shape)?.to_f32();
        let proj = Tensor::from_f32(&[config.codebook_dim, dim], &proj);
        Ok(Self {
            table: exact.stacked(&[Tensor::from_f32(&[rows, dim], &table)])?,
            output_proj: Linear::of(exact.stacked(&[proj])?, None),
            n_codebooks,
        })
    }

    fn forward(&self, step: &mut StepBuilder, ids: Ids, epilogue: Epilogue) -> Result<Value> {
        let sum = step.embedding(&self.table, ids, None)?;
        self.output_proj.forward_with(step, sum, epilogue)
    }
}

impl Quantizer {
    /// Below `loader`: `rvq_first` and `rvq_rest`.
    pub fn load(loader: &Loader<'_>, config: &CodecDecoderConfig) -> Result<Self> {
        let n_acoustic = config.n_groups - config.n_semantic;
        Ok(Self {
            semantic: Group::load(&loader.at("rvq_first"), config, config.n_semantic)?,
            acoustic: Group::load(&loader.at("rvq_rest"), config, n_acoustic)?,
            codebook_size: config.codebook_size,
        })
    }

    /// Entries of both groups (see [`rows`](Self::rows)) to `[frames, codebook_dim]`.
    pub fn forward(&self, step: &mut StepBuilder, semantic: Ids, acoustic: Ids) -> Result<Value> {
        let first = self.semantic.forward(step, semantic, Epilogue::default())?;
        let epilogue = Epilogue::default().residual(first);
        self.acoustic.forward(step, acoustic, epilogue)
    }

    /// # Errors
    /// A code of frames `[frames, n_groups]` that no codebook has.
    pub fn check(&self, codes: &[u32]) -> Result<()> {
        let wrong = |code: &u32| *code as usize >= self.codebook_size;
        let Some(index) = codes.iter().position(wrong) else {
            return Ok(());
        };
        let n_groups = self.semantic.n_codebooks + self.acoustic.n_codebooks;
        Err(Error::Compute(turaco_compute::Error::Shape {
            what: format!("code {} of frame {}", index % n_groups, index / n_groups),
            expected: format!("a number below {}", self.codebook_size),
            found: format!("{}", codes[index]),
        }))
    }

    /// The rows of both tables that frames of codes `[frames, n_groups]` stand for.
    pub fn rows(&self, codes: &[u32], semantic: &mut Vec<u32>, acoustic: &mut Vec<u32>) {
        semantic.clear();
        acoustic.clear();
        let n_semantic = self.semantic.n_codebooks;
        for frame in codes.chunks_exact(n_semantic + self.acoustic.n_codebooks) {
            let (first, rest) = frame.split_at(n_semantic);
            for (codes, rows) in [(first, &mut *semantic), (rest, &mut *acoustic)] {
                let codes = codes.iter().zip(0..);
                rows.extend(codes.map(|(&code, nth)| nth * self.codebook_size as u32 + code));
            }
        }
    }
}
