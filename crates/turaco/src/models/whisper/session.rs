//! Running a loaded [`Whisper`]: compiled steps, and the states that change while decoding.

use std::mem::take;
use std::sync::Arc;

use turaco_compute::{
    Bindings, CacheShape, ChooseTokens, DType, Ids, KvCache, SlotBinding, Step, StepBuilder, Value,
    WeightType, trace,
};

use super::Whisper;
use super::decoder::{CaptureHeads, DecoderSlots};
use crate::nn::MeteredCache;
use crate::recycle::recycle;
use crate::{Error, Result};

/// Prompts have many lengths; this many compiled ones are kept.
const KEPT_PREFILLS: usize = 4;

/// Texts to align have many lengths too: they are rounded up to this many tokens, and as many steps are kept.
const ALIGNMENT_GRANULARITY: usize = 32;
const KEPT_ALIGNMENTS: usize = 4;

/// The cross-attention keys and values of one encoded window of audio.
#[derive(Debug)]
pub struct Window(MeteredCache);

/// The self-attention keys and values of one sequence of tokens.
#[derive(Debug)]
pub struct Sequence(MeteredCache);

impl Sequence {
    /// Tokens fed so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was fed yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forget all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }
}

/// What the host decides about the next token of each row; see [`ChooseTokens`] for the exact meaning.
#[derive(Debug)]
pub struct Choice<'a> {
    /// Bit sets of allowed tokens, `[rows, ceil(n_vocab / 32)]`.
    pub allowed: &'a [u32],
    /// Bit sets of tokens under the repetition penalty, same shape.
    pub seen: Option<&'a [u32]>,
    /// Temperature, penalty, prefer timestamps (0 or 1), `[rows, 3]`.
    pub controls: &'a [f32],
    /// Seeds, `[rows, 2]`.
    pub seeds: &'a [u32],
    /// Candidates per row.
    pub k: usize,
}

/// The candidates for the next token of each row, best first.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// `[rows, k]`.
    pub tokens: &'a [u32],
    /// Their log-probabilities among the allowed tokens, `[rows, k]`.
    pub logprobs: &'a [f32],
    step: &'a Step,
    logits: usize,
}

impl<'a> Chosen<'a> {
    /// Unfiltered logits `[rows, n_vocab]`; after a prefill `[rows, 2, n_vocab]`: at the probed position and at the last.
    /// After a step they may still be on a device, which takes a moment.
    ///
    /// # Errors
    /// A failed device.
    pub fn logits(&self) -> Result<&'a [f32]> {
        Ok(self.step.output(self.logits)?)
    }
}

/// How tokens lie over the encoder's positions.
#[derive(Debug, Clone)]
pub struct Alignment {
    /// Cross-attention scores before the softmax, `[n_heads, n_tokens, n_positions]`.
    pub scores: Vec<f32>,
    /// Alignment heads.
    pub n_heads: usize,
    /// Tokens that were fed.
    pub n_tokens: usize,
    /// Positions of a window.
    pub n_positions: usize,
    /// Probability of each target token among the text tokens.
    pub token_probs: Vec<f32>,
}

/// Runs a model for one thread; holds the compiled steps and their scratch memory.
#[derive(Debug)]
pub struct Session {
    model: Arc<Whisper>,
    encoders: Vec<(usize, Step)>,
    prefills: Vec<(PrefillKey, DecoderStep)>,
    decoders: Vec<(DecodeKey, DecoderStep)>,
    alignments: Vec<AlignmentStep>,
    /// What alignments feed their tokens to.
    alignment_sequence: Option<Sequence>,
    timestamp_begin: u32,
}

/// Sequences, tokens of each, candidates, repetition penalty.
type PrefillKey = (usize, usize, usize, bool);
/// Sequences, candidates, repetition penalty.
type DecodeKey = (usize, usize, bool);

#[derive(Debug)]
struct DecoderStep {
    step: Step,
    /// Host side of the `positions` input, reused by every run.
    positions: Vec<u32>,
    /// After a prefill, the row of each sequence's last logits.
    lasts: Vec<u32>,
    /// Always empty between runs, as is `windows`.
    sequences: Vec<&'static mut KvCache>,
    windows: Vec<&'static KvCache>,
    logits: usize,
    tokens: usize,
    logprobs: usize,
}

/// A forward pass over a whole text that keeps cross-attention scores.
#[derive(Debug)]
struct AlignmentStep {
    n_tokens: usize,
    n_targets: usize,
    n_text_tokens: usize,
    heads: Vec<(usize, usize)>,
    step: Step,
    /// Outputs with scores, and the heads in each.
    scores: Vec<(usize, usize)>,
    probs: Option<usize>,
}

impl Session {
    /// A session of `model`; `timestamp_begin` is the id of the token `<|0.00|>`.
    pub fn new(model: &Arc<Whisper>, timestamp_begin: u32) -> Self {
        Self {
            model: model.clone(),
            encoders: Vec::new(),
            prefills: Vec::new(),
            decoders: Vec::new(),
            alignments: Vec::new(),
            alignment_sequence: None,
            timestamp_begin,
        }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Whisper> {
        &self.model
    }

    /// Room for one encoded window.
    ///
    /// # Errors
    /// No memory.
    pub fn new_window(&self) -> Result<Window> {
        let config = &self.model.config;
        Ok(Window(self.new_cache(config.n_audio_ctx)?))
    }

    /// Room for one sequence of tokens.
    ///
    /// # Errors
    /// No memory.
    pub fn new_sequence(&self) -> Result<Sequence> {
        Ok(Sequence(self.new_cache(self.model.config.n_text_ctx)?))
    }

    /// Make `to` a copy of `from`; their first `common` tokens are known to be equal already.
    ///
    /// # Errors
    /// Sequences of different models.
    pub fn copy_sequence(&self, from: &Sequence, to: &mut Sequence, common: usize) -> Result<()> {
        Ok(self.model.device.copy_cache(&from.0, &mut to.0, common)?)
    }

    /// Encode windows of log-mel features, `mel [windows * n_mels, 2 * n_audio_ctx]`, each into one of `windows`.
    ///
    /// # Errors
    /// Features of another size, or a failed device.
    pub fn encode(&mut self, mel: &[f32], windows: &mut [&mut Window]) -> Result<()> {
        let n = windows.len();
        let step = match self.encoders.iter().position(|(size, _)| *size == n) {
            Some(index) => &mut self.encoders[index].1,
            None => {
                let step = self.compile_encoder(n)?;
                self.encoders.push((n, step));
                &mut self.encoders.last_mut().expect("just pushed").1
            }
        };
        let mut caches: Vec<&mut KvCache> = windows.iter_mut().map(|w| &mut *w.0).collect();
        for cache in &mut caches {
            cache.truncate(0);
        }
        let mut slots = [SlotBinding::Write(&mut caches)];
        step.run(&mut Bindings {
            inputs: &[mel],
            ids: &[],
            slots: &mut slots,
        })?;
        Ok(())
    }

    /// Feed a prompt of equal length to every (empty or truncated) sequence, `tokens [sequences, length]`, and choose
    /// the token after it. Logits are also given at position `probe` of the prompt.
    ///
    /// # Errors
    /// A prompt that does not fit the context, or a failed device.
    pub fn prefill(
        &mut self,
        sequences: &mut [&mut Sequence],
        windows: &[&Window],
        tokens: &[u32],
        probe: usize,
        choice: &Choice<'_>,
    ) -> Result<Chosen<'_>> {
        let n = sequences.len();
        let length = tokens.len() / n.max(1);
        let key = (n, length, choice.k, choice.seen.is_some());
        let index = match self.prefills.iter().position(|(k, _)| *k == key) {
            Some(index) => index,
            None => {
                if self.prefills.len() == KEPT_PREFILLS {
                    self.prefills.remove(0);
                }
                let step = self.compile_decoder(n, length, choice, true)?;
                self.prefills.push((key, step));
                self.prefills.len() - 1
            }
        };
        let rows: Vec<u32> = (0..n)
            .flat_map(|s| [s * length + probe, (s + 1) * length - 1])
            .map(|r| r as u32)
            .collect();
        self.prefills[index]
            .1
            .run(sequences, windows, tokens, Some(&rows), choice)
    }

    /// Feed one token to every sequence and choose the next one.
    ///
    /// # Errors
    /// A full sequence, or a failed device.
    pub fn step(
        &mut self,
        sequences: &mut [&mut Sequence],
        windows: &[&Window],
        tokens: &[u32],
        choice: &Choice<'_>,
    ) -> Result<Chosen<'_>> {
        let key = (sequences.len(), choice.k, choice.seen.is_some());
        let index = match self.decoders.iter().position(|(k, _)| *k == key) {
            Some(index) => index,
            None => {
                let step = self.compile_decoder(sequences.len(), 1, choice, false)?;
                self.decoders.push((key, step));
                self.decoders.len() - 1
            }
        };
        self.decoders[index]
            .1
            .run(sequences, windows, tokens, None, choice)
    }

    /// Feed `tokens` to an empty sequence and keep the cross-attention scores of `heads` `(layer, head)`. The logits at
    /// positions `first_target..` give the probability of each of `targets` among the tokens below `n_text_tokens`.
    ///
    /// # Errors
    /// Tokens that do not fit the context, heads that the model does not have, or a failed device.
    pub fn align(
        &mut self,
        window: &Window,
        tokens: &[u32],
        heads: &[(usize, usize)],
        (first_target, targets): (usize, &[u32]),
        n_text_tokens: usize,
    ) -> Result<Alignment> {
        let n = tokens.len();
        let end = first_target.saturating_add(targets.len());
        if end > n {
            return Err(turaco_compute::Error::Shape {
                what: "alignment targets".into(),
                expected: format!("positions of {n} tokens"),
                found: format!("{first_target} to {end}"),
            }
            .into());
        }
        let n_positions = self.model.config.n_audio_ctx;
        // What is fed after the text changes nothing before it.
        let n_rows = n
            .next_multiple_of(ALIGNMENT_GRANULARITY)
            .min(self.model.config.n_text_ctx)
            .max(n);
        let n_targets = targets.len().next_multiple_of(ALIGNMENT_GRANULARITY);
        let kept = self.alignments.iter().position(|kept| {
            (kept.n_tokens, kept.n_targets, kept.n_text_tokens)
                == (n_rows, n_targets, n_text_tokens)
                && kept.heads == heads
        });
        // The last one used is at the end.
        let aligner = match kept {
            Some(index) => self.alignments.remove(index),
            None => {
                if self.alignments.len() == KEPT_ALIGNMENTS {
                    self.alignments.remove(0);
                }
                self.compile_alignment(n_rows, n_targets, heads, n_text_tokens)?
            }
        };
        self.alignments.push(aligner);
        let mut sequence = match self.alignment_sequence.take() {
            Some(sequence) => sequence,
            None => self.new_sequence()?,
        };
        sequence.truncate(0);
        let aligner = self.alignments.last_mut().expect("just pushed");

        let mut fed = tokens.to_vec();
        fed.resize(n_rows, tokens.last().copied().unwrap_or_default());
        let positions: Vec<u32> = (0..n_rows as u32).collect();
        let rows: Vec<u32> = (first_target..first_target + n_targets)
            .map(|row| row.min(n_rows - 1) as u32)
            .collect();
        let ids: [&[u32]; 3] = [&fed, &positions, &rows];
        let mut write = [&mut *sequence.0];
        let mut slots = [
            SlotBinding::Write(&mut write),
            SlotBinding::Read(&[&*window.0]),
        ];
        aligner.step.run(&mut Bindings {
            inputs: &[],
            ids: if n_targets == 0 { &ids[..2] } else { &ids },
            slots: &mut slots,
        })?;

        let mut scores = Vec::with_capacity(heads.len() * n * n_positions);
        for &(output, n_heads) in &aligner.scores {
            let all = aligner.step.output(output)?;
            for head in all.chunks_exact(n_rows * n_positions).take(n_heads) {
                scores.extend_from_slice(&head[..n * n_positions]);
            }
        }
        let mut token_probs = Vec::with_capacity(targets.len());
        if let Some(output) = aligner.probs {
            let probs = aligner.step.output(output)?.chunks_exact(n_text_tokens);
            token_probs.extend(
                probs
                    .zip(targets)
                    .map(|(row, &t)| row.get(t as usize).copied().unwrap_or(0.0)),
            );
        }
        self.alignment_sequence = Some(sequence);
        Ok(Alignment {
            scores,
            n_heads: heads.len(),
            n_tokens: n,
            n_positions,
            token_probs,
        })
    }

    /// The encoder's values after every stage for one window, named as in the reference's goldens: `conv1_gelu`,
    /// `conv2_gelu_plus_pos`, `encoder_block{i}`, `encoder_out`, each `[positions, n_audio_state]`.
    ///
    /// # Errors
    /// Features of another size, or a failed device.
    pub fn encoder_stages(&mut self, mel: &[f32]) -> Result<Vec<(String, Vec<f32>)>> {
        let config = &self.model.config;
        let mut step = StepBuilder::new(&self.model.device);
        let input = step.input(config.n_mels, 2 * config.n_audio_ctx);
        let stages = self.model.encoder.forward(&mut step, input, 1)?;
        let mut named: Vec<(String, Value)> = vec![
            ("conv1_gelu".into(), stages.conv[0]),
            ("conv2_gelu_plus_pos".into(), stages.positioned),
        ];
        named.extend(
            stages
                .blocks
                .iter()
                .enumerate()
                .map(|(i, &block)| (format!("encoder_block{i}"), block)),
        );
        named.push(("encoder_out".into(), stages.states));
        let outputs: Vec<usize> = named.iter().map(|(_, value)| step.output(*value)).collect();
        let mut step = step.finish()?;
        step.run(&mut Bindings {
            inputs: &[mel],
            ids: &[],
            slots: &mut [],
        })?;
        named
            .into_iter()
            .zip(outputs)
            .map(|((name, _), output)| Ok((name, step.output(output)?.to_vec())))
            .collect()
    }

    fn new_cache(&self, capacity: usize) -> Result<MeteredCache> {
        let config = &self.model.config;
        let dtype = match self.model.weight_type {
            WeightType::F32 => DType::F32,
            _ => DType::F16,
        };
        let shape = CacheShape {
            n_layers: config.n_text_layers,
            capacity,
            kv_dim: config.n_text_state,
            head_dim: config.n_text_state / config.n_text_heads,
            dtype,
        };
        Ok(self.model.caches.count(self.model.device.kv_cache(shape)?))
    }

    fn compile_encoder(&self, n_windows: usize) -> Result<Step> {
        let _span = trace::span("compile");
        let config = &self.model.config;
        let mut step = StepBuilder::new(&self.model.device).named("encoder");
        let mel = step.input(n_windows * config.n_mels, 2 * config.n_audio_ctx);
        let slot = step.cache_slot();
        let states = self
            .model
            .encoder
            .forward(&mut step, mel, n_windows)?
            .states;
        self.model
            .decoder
            .append_cross_keys(&mut step, states, slot)?;
        Ok(step.finish()?)
    }

    /// A forward pass over `n_tokens` that keeps the scores of `heads`, and the probabilities of the tokens below
    /// `n_text_tokens` at `n_targets` positions that the host names.
    fn compile_alignment(
        &self,
        n_tokens: usize,
        n_targets: usize,
        heads: &[(usize, usize)],
        n_text_tokens: usize,
    ) -> Result<AlignmentStep> {
        let _span = trace::span("compile");
        let config = &self.model.config;
        let mut by_layer = vec![Vec::new(); config.n_text_layers];
        for &(layer, head) in heads {
            let fits = layer < config.n_text_layers && head < config.n_text_heads;
            if !fits {
                let message = format!("alignment head {layer}.{head} does not exist in this model");
                return Err(Error::InvalidOption {
                    option: "word_timestamps",
                    message,
                });
            }
            by_layer[layer].push(head);
        }
        let n_heads: Vec<usize> = by_layer.iter().map(Vec::len).filter(|&n| n > 0).collect();
        let capture = CaptureHeads {
            heads: by_layer,
            capacity: config.n_audio_ctx,
        };
        let mut step = StepBuilder::new(&self.model.device).named("decoder.align");
        let (ids, positions) = (step.input_ids(n_tokens, 1), step.input_ids(n_tokens, 1));
        let slots = DecoderSlots {
            tokens: step.cache_slot(),
            window: step.shared_cache_slot(),
        };
        let (hidden, scores) =
            self.model
                .decoder
                .forward(&mut step, (ids, positions), slots, 1, Some(&capture))?;
        let outputs = scores.iter().map(|&s| step.output(s));
        let scores = outputs.zip(n_heads).collect();
        let mut probs = None;
        if n_targets > 0 {
            let rows = step.input_ids(n_targets, 1);
            let hidden = step.gather_rows(hidden, rows)?;
            let logits = self.model.decoder.logits(&mut step, hidden)?;
            let text = step.columns(logits, 0, n_text_tokens)?;
            let softmax = step.softmax(text);
            probs = Some(step.output(softmax));
        }
        Ok(AlignmentStep {
            n_tokens,
            n_targets,
            n_text_tokens,
            heads: heads.to_vec(),
            step: step.finish()?,
            scores,
            probs,
        })
    }

    /// A step over `n_sequences` of `length` tokens each. A prefill computes logits only at two positions of each
    /// sequence, which the host names by row.
    fn compile_decoder(
        &self,
        n_sequences: usize,
        length: usize,
        choice: &Choice<'_>,
        prefill: bool,
    ) -> Result<DecoderStep> {
        let _span = trace::span("compile");
        let rows = n_sequences * length;
        let words = self.model.config.n_vocab.div_ceil(32);
        let name = if prefill {
            "decoder.prefill"
        } else {
            "decoder.step"
        };
        let mut step = StepBuilder::new(&self.model.device).named(name);
        let (ids, positions) = (step.input_ids(rows, 1), step.input_ids(rows, 1));
        let slots = DecoderSlots {
            tokens: step.cache_slot(),
            window: step.shared_cache_slot(),
        };
        let (hidden, _) =
            self.model
                .decoder
                .forward(&mut step, (ids, positions), slots, n_sequences, None)?;
        let (logits, last) = if prefill {
            let wanted = step.input_ids(2 * n_sequences, 1);
            let lasts = step.input_ids(n_sequences, 1);
            let hidden = step.gather_rows(hidden, wanted)?;
            let logits = self.model.decoder.logits(&mut step, hidden)?;
            (logits, step.gather_rows(logits, lasts)?)
        } else {
            let logits = self.model.decoder.logits(&mut step, hidden)?;
            (logits, logits)
        };
        let choose = ChooseTokens {
            allowed: step.input_ids(n_sequences, words),
            seen: choice.seen.map(|_| step.input_ids(n_sequences, words)),
            controls: step.input(n_sequences, 3),
            seeds: step.input_ids(n_sequences, 2),
            prefer_from: self.timestamp_begin,
            k: choice.k,
        };
        // The order of the u32 inputs is that of their declaration: tokens, positions, rows, lasts, allowed, seen, seeds.
        let (tokens, logprobs): (Ids, Value) =
            step.stage("token choice", |step| step.choose_tokens(last, choose))?;
        // Decoding looks at the logits of prompts; those of every token stay where they are.
        let logits = if prefill {
            step.output(logits)
        } else {
            step.output_on_demand(logits)
        };
        let logprobs = step.output(logprobs);
        let tokens = step.output_ids(tokens);
        Ok(DecoderStep {
            step: step.finish()?,
            positions: vec![0; rows],
            lasts: (0..n_sequences as u32).map(|s| 2 * s + 1).collect(),
            sequences: Vec::with_capacity(n_sequences),
            windows: Vec::with_capacity(n_sequences),
            logits,
            tokens,
            logprobs,
        })
    }
}

impl DecoderStep {
    fn run(
        &mut self,
        sequences: &mut [&mut Sequence],
        windows: &[&Window],
        tokens: &[u32],
        prefill_rows: Option<&[u32]>,
        choice: &Choice<'_>,
    ) -> Result<Chosen<'_>> {
        let n = sequences.len();
        let length = self.positions.len() / n.max(1);
        for (positions, sequence) in self
            .positions
            .chunks_exact_mut(length.max(1))
            .zip(sequences.iter())
        {
            for (offset, position) in positions.iter_mut().enumerate() {
                *position = (sequence.len() + offset) as u32;
            }
        }
        let mut ids: [&[u32]; 7] = [&[]; 7];
        let mut n_ids = 0;
        let given = [
            Some(tokens),
            Some(&self.positions),
            prefill_rows,
            prefill_rows.map(|_| &self.lasts[..]),
            Some(choice.allowed),
            choice.seen,
            Some(choice.seeds),
        ];
        for list in given.into_iter().flatten() {
            ids[n_ids] = list;
            n_ids += 1;
        }
        let mut caches: Vec<&mut KvCache> = recycle(take(&mut self.sequences));
        caches.extend(sequences.iter_mut().map(|sequence| &mut *sequence.0));
        let mut shared: Vec<&KvCache> = recycle(take(&mut self.windows));
        shared.extend(windows.iter().map(|window| &*window.0));
        let mut slots = [SlotBinding::Write(&mut caches), SlotBinding::Read(&shared)];
        self.step.run(&mut Bindings {
            inputs: &[choice.controls],
            ids: &ids[..n_ids],
            slots: &mut slots,
        })?;
        self.sequences = recycle(caches);
        self.windows = recycle(shared);
        Ok(Chosen {
            tokens: self.step.output_ids(self.tokens)?,
            logprobs: self.step.output(self.logprobs)?,
            step: &self.step,
            logits: self.logits,
        })
    }
}
