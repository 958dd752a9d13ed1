//! The talker: one step per frame, from what was said so far to the first code of the next frame.

use std::sync::Arc;

use turaco_compute::{Epilogue, Ids, Matrix, Slot, StepBuilder, Value};

use super::config::Qwen3TtsConfig;
use super::layers;
use crate::Result;
use crate::nn::{CacheAt, LayerProgress, LayerStack, Loader};

/// Prompt or frame vectors to hidden states, and those to logits of the first code.
#[derive(Debug)]
pub(super) struct Talker {
    codec_embedding: Arc<Matrix>,
    stack: LayerStack,
    codec_head: Arc<Matrix>,
}

/// Where the rows of a step stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct TalkerRows {
    /// Position of every row, `[n_sequences * rows, 1]`.
    pub positions: Ids,
    /// Stacked sequences.
    pub n_sequences: usize,
    /// Their caches.
    pub slot: Slot,
    /// The rows whose hidden states are wanted, `[n_sequences, 1]`; `None` = all.
    pub wanted: Option<Ids>,
}

impl Talker {
    /// From below `talker`; tables are stored by `tables`.
    pub fn load(
        loader: &Loader<'_>,
        tables: &Loader<'_>,
        config: &Qwen3TtsConfig,
        progress: &mut LayerProgress<'_>,
    ) -> Result<Self> {
        let dim = config.talker.dim;
        let embedding = ["model.codec_embedding.weight"];
        Ok(Self {
            codec_embedding: tables.matrix(&embedding, config.codec_vocab, dim)?,
            stack: LayerStack::load(
                &loader.at("model"),
                config.talker.n_layers,
                layers(&config.talker),
                progress,
            )?,
            codec_head: loader.matrix(&["codec_head.weight"], config.codec_vocab, dim)?,
        })
    }

    /// Rows of the codec embedding, `[ids.rows, dim]`.
    pub fn embed(&self, step: &mut StepBuilder, ids: Ids) -> Result<Value> {
        Ok(step.embedding(&self.codec_embedding, ids, None)?)
    }

    /// `x [rows, dim]` to normalised hidden states of the wanted rows.
    pub fn forward(&self, step: &mut StepBuilder, x: Value, rows: TalkerRows) -> Result<Value> {
        let at = |layer| CacheAt {
            positions: rows.positions,
            slot: rows.slot,
            n_sequences: rows.n_sequences,
            layer,
        };
        self.stack.forward(step, "talker", x, at, |step, x| {
            Ok(match rows.wanted {
                Some(wanted) => step.gather_rows(x, wanted)?,
                None => x,
            })
        })
    }

    /// Logits of the first code, `[rows, codec_vocab]`.
    pub fn logits(&self, step: &mut StepBuilder, hidden_states: Value) -> Result<Value> {
        Ok(step.linear(hidden_states, &self.codec_head, Epilogue::default())?)
    }
}
