//! What the decoder reads before it writes: context, start of transcript, prefix.

use crate::tokenizer::WhisperTokenizer;

use super::TranscribeOptions;
use super::window_decoder::Prompt;

/// Positions that are always left for new tokens.
const LEAST_ROOM: usize = 8;

/// The parts of a prompt that stay the same for a whole file.
#[derive(Debug)]
pub struct PromptTemplate {
    initial: Vec<u32>,
    hotwords: Vec<u32>,
    prefix: Vec<u32>,
    carry_initial: bool,
    timestamps: bool,
    n_text_ctx: usize,
}

impl PromptTemplate {
    /// Tokenise the prompt texts of `options`.
    pub fn new(
        options: &TranscribeOptions,
        timestamps: bool,
        tokenizer: &WhisperTokenizer,
        n_text_ctx: usize,
    ) -> Self {
        let encode = |text: &Option<String>| {
            let text = text
                .as_deref()
                .map(str::trim)
                .filter(|text| !text.is_empty());
            text.map_or_else(Vec::new, |text| tokenizer.encode(&format!(" {text}")))
        };
        let initial = options
            .initial_prompt_tokens
            .clone()
            .unwrap_or_else(|| encode(&options.initial_prompt));
        let prefix = encode(&options.prefix);
        // As faster-whisper: a prefix says what to start with, which leaves hotwords no room to help.
        let hotwords = if prefix.is_empty() {
            encode(&options.hotwords)
        } else {
            Vec::new()
        };
        Self {
            initial,
            hotwords,
            prefix,
            carry_initial: options.carry_initial_prompt,
            timestamps,
            n_text_ctx,
        }
    }

    /// The initial prompt, which counts as text so far.
    pub fn initial(&self) -> &[u32] {
        &self.initial
    }

    /// Whether the first window has to start with something.
    pub fn has_prefix(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// The prompt of one window. `previous` is all text so far, the initial prompt included; text before
    /// `reset_since` is forgotten. `first` says whether the prefix applies.
    pub fn prompt(
        &self,
        sot_sequence: &[u32],
        tokenizer: &WhisperTokenizer,
        previous: &[u32],
        reset_since: usize,
        first: bool,
    ) -> Prompt {
        // Half the context is for the past, one token of which says so.
        let budget = self.n_text_ctx / 2 - 1;
        let hotwords = &self.hotwords[..self.hotwords.len().min(budget)];
        let mut context = hotwords.to_vec();
        let budget = budget - hotwords.len();
        if self.carry_initial {
            let initial = &self.initial[..self.initial.len().min(budget)];
            let since = reset_since.max(self.initial.len()).min(previous.len());
            context.extend_from_slice(initial);
            context.extend_from_slice(last(&previous[since..], budget - initial.len()));
        } else {
            context.extend_from_slice(last(&previous[reset_since.min(previous.len())..], budget));
        }

        let mut prefix = Vec::new();
        if first && !self.prefix.is_empty() {
            if self.timestamps {
                prefix.push(tokenizer.timestamp_begin());
            }
            let room = self.n_text_ctx / 2 - 1;
            prefix.extend_from_slice(&self.prefix[..self.prefix.len().min(room)]);
        }
        let fixed = 1 + sot_sequence.len() + 1 + prefix.len() + LEAST_ROOM;
        let context = last(&context, self.n_text_ctx.saturating_sub(fixed));

        let mut tokens = Vec::with_capacity(context.len() + fixed);
        if !context.is_empty() {
            tokens.push(tokenizer.sot_prev());
            tokens.extend_from_slice(context);
        }
        let sot_index = tokens.len();
        tokens.extend_from_slice(sot_sequence);
        if !self.timestamps {
            tokens.push(tokenizer.no_timestamps());
        }
        tokens.extend_from_slice(&prefix);
        Prompt {
            tokens,
            sot_index,
            n_prefix: prefix.len(),
        }
    }
}

fn last(tokens: &[u32], n: usize) -> &[u32] {
    &tokens[tokens.len() - n.min(tokens.len())..]
}
