//! The code predictor: all codes of a frame but the first, each from the ones before it.

use std::sync::Arc;

use turaco_compute::{Epilogue, Ids, Matrix, Slot, StepBuilder, Value};

use super::config::Qwen3TtsConfig;
use super::layers;
use crate::Result;
use crate::nn::{CacheAt, LayerProgress, LayerStack, Linear, Loader};

/// Hidden state and first code of a frame to logits of the second, and so on.
#[derive(Debug)]
pub(super) struct CodePredictor {
    /// From the talker's width to the predictor's; `None` where they are the same.
    small_to_mtp_projection: Option<Linear>,
    /// Of the second code and those after it, in the talker's width.
    codec_embeddings: Vec<Arc<Matrix>>,
    stack: LayerStack,
    lm_heads: Vec<Arc<Matrix>>,
}

/// What the predictor meets in a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct PredictorRows {
    /// Position of every row, `[n_sequences * rows, 1]`.
    pub positions: Ids,
    /// Stacked sequences.
    pub n_sequences: usize,
    /// Their caches, empty before a frame.
    pub slot: Slot,
    /// The rows whose hidden states are wanted, `[n_sequences, 1]`; `None` = all.
    pub wanted: Option<Ids>,
}

impl CodePredictor {
    /// From below `talker.code_predictor`; tables are stored by `tables`.
    pub fn load(
        loader: &Loader<'_>,
        tables: &Loader<'_>,
        config: &Qwen3TtsConfig,
        progress: &mut LayerProgress<'_>,
    ) -> Result<Self> {
        let (talker_dim, dim) = (config.talker.dim, config.code_predictor.dim);
        let projection = "small_to_mtp_projection";
        let small_to_mtp_projection =
            match talker_dim == dim && !loader.has(&format!("{projection}.weight")) {
                true => None,
                false => Some(Linear::load(loader, projection, talker_dim, dim)?),
            };
        let n_heads = config.n_codes - 1;
        let embeddings = (0..n_heads).map(|index| {
            let name = format!("model.codec_embedding.{index}.weight");
            tables.matrix(&[&name], config.codebook_size, talker_dim)
        });
        let heads = (0..n_heads).map(|index| {
            let name = format!("lm_head.{index}.weight");
            loader.matrix(&[&name], config.codebook_size, dim)
        });
        Ok(Self {
            small_to_mtp_projection,
            codec_embeddings: embeddings.collect::<Result<_>>()?,
            stack: LayerStack::load(
                &loader.at("model"),
                config.code_predictor.n_layers,
                layers(&config.code_predictor),
                progress,
            )?,
            lm_heads: heads.collect::<Result<_>>()?,
        })
    }

    /// The embedding of code number `index` (from 1) of a frame, in the talker's width.
    pub fn embed(&self, step: &mut StepBuilder, index: usize, ids: Ids) -> Result<Value> {
        Ok(step.embedding(&self.codec_embeddings[index - 1], ids, None)?)
    }

    /// `x [rows, talker width]` to hidden states of the wanted rows, `[n_sequences, dim]`.
    pub fn forward(&self, step: &mut StepBuilder, x: Value, rows: PredictorRows) -> Result<Value> {
        let x = match &self.small_to_mtp_projection {
            Some(projection) => projection.forward(step, x)?,
            None => x,
        };
        let at = |layer| CacheAt {
            positions: rows.positions,
            slot: rows.slot,
            n_sequences: rows.n_sequences,
            layer,
        };
        self.stack
            .forward(step, "code_predictor", x, at, |step, x| {
                Ok(match rows.wanted {
                    Some(wanted) => step.gather_rows(x, wanted)?,
                    None => x,
                })
            })
    }

    /// Hidden states to the logits of code number `index` (from 1), `[rows, codebook_size]`.
    pub fn logits(&self, step: &mut StepBuilder, index: usize, states: Value) -> Result<Value> {
        Ok(step.linear(states, &self.lm_heads[index - 1], Epilogue::default())?)
    }
}
