//! Running a loaded [`VoxtralMini`]: compiled steps, and the states that change while it answers.

use std::mem::take;
use std::sync::Arc;

use turaco_compute::{
    Bindings, CacheShape, DType, KvCache, SlotBinding, Step, StepBuilder, Value, WeightType, trace,
};

use super::VoxtralMini;
use super::decoder::DecoderRows;
use crate::Result;
use crate::nn::{MeteredCache, TokenChoice};
use crate::recycle::recycle;

/// Prompts come in many lengths; this many compiled steps are kept.
const KEPT_STEPS: usize = 16;

/// Caches grow in steps of so many positions.
const CACHE_STEP: usize = 256;

/// What a conversation has been told so far.
#[derive(Debug)]
pub struct DecoderState {
    cache: MeteredCache,
}

impl DecoderState {
    /// Positions so far.
    pub fn position(&self) -> usize {
        self.cache.len()
    }

    /// Positions that fit before the state has to grow.
    pub fn capacity(&self) -> usize {
        self.cache.shape().capacity
    }

    /// Forget everything behind the first `n_positions`.
    pub fn truncate(&mut self, n_positions: usize) {
        self.cache.truncate(n_positions);
    }
}

/// How the next token of a sequence is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Divides the logits; 0 = always the most probable token.
    pub temperature: f32,
    /// Only the most probable tokens; 0 = all.
    pub top_k: usize,
    /// Only the most probable tokens that together have this probability; 1 = all.
    pub top_p: f32,
    /// Where the noise begins: the same seed draws the same token from the same logits.
    pub seed: u64,
}

/// The token behind the last row of each sequence.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// One per sequence; `u32::MAX` where the logits are no numbers.
    pub tokens: &'a [u32],
    /// Their log-probabilities.
    pub logprobs: &'a [f32],
}

/// Named values of a forward pass, for comparison with the reference.
pub type Stages = Vec<(String, Vec<f32>)>;

/// Runs a model for one thread; holds the compiled steps and their scratch memory.
#[derive(Debug)]
pub struct Runner {
    model: Arc<VoxtralMini>,
    encoder: Option<Step>,
    decoders: Vec<(DecoderKey, DecoderStep)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DecoderKey {
    n_sequences: usize,
    /// Rows of each.
    n_rows: usize,
    /// Whether tokens are chosen, and whether anything is drawn by chance.
    choice: Option<bool>,
}

#[derive(Debug)]
struct DecoderStep {
    step: Step,
    key: DecoderKey,
    /// Host side of the inputs, reused by every run.
    positions: Vec<u32>,
    /// The last row of each sequence.
    lasts: Vec<u32>,
    /// Bits of all tokens.
    all: Vec<u32>,
    controls: Vec<f32>,
    filter: Vec<f32>,
    seeds: Vec<u32>,
    /// Always empty between runs.
    caches: Vec<&'static mut KvCache>,
}

impl Runner {
    /// A runner without compiled steps.
    pub fn new(model: &Arc<VoxtralMini>) -> Self {
        Self {
            model: Arc::clone(model),
            encoder: None,
            decoders: Vec::new(),
        }
    }

    /// The model.
    pub fn model(&self) -> &Arc<VoxtralMini> {
        &self.model
    }

    /// A conversation that nothing was said in, with room for `n_positions`.
    ///
    /// # Errors
    /// No memory.
    pub fn new_state(&self, n_positions: usize) -> Result<DecoderState> {
        let config = &self.model.config.decoder;
        let shape = CacheShape {
            n_layers: config.n_layers,
            capacity: n_positions.max(1).next_multiple_of(CACHE_STEP),
            kv_dim: config.n_kv_heads * config.head_dim,
            head_dim: config.head_dim,
            dtype: match self.model.weight_type {
                WeightType::F32 => DType::F32,
                // The longer the context, the more of a step is reading its keys and values.
                WeightType::Int8 | WeightType::Q8 | WeightType::Q4 => DType::I8,
                _ => DType::F16,
            },
        };
        Ok(DecoderState {
            cache: self.model.caches.count(self.model.device.kv_cache(shape)?),
        })
    }

    /// Bytes of a conversation of so many positions.
    pub fn state_bytes(&self, n_positions: usize) -> u64 {
        let config = &self.model.config.decoder;
        let n_values = 2 * config.n_layers * config.n_kv_heads * config.head_dim;
        let bytes = match self.model.weight_type {
            WeightType::F32 => 4,
            WeightType::Int8 | WeightType::Q8 | WeightType::Q4 => 1,
            _ => 2,
        };
        (n_values as u64 * bytes).saturating_mul(n_positions as u64)
    }

    /// Make room for `n_positions` in all; what is there stays. At least twice the room where more is needed, so that a
    /// conversation is seldom copied.
    ///
    /// # Errors
    /// No memory.
    pub fn reserve(&self, state: &mut DecoderState, n_positions: usize) -> Result<()> {
        let capacity = state.capacity();
        if n_positions <= capacity {
            return Ok(());
        }
        let most = self.model.config.max_positions.max(n_positions);
        let mut larger = self.new_state(n_positions.max(2 * capacity).min(most))?;
        let device = &self.model.device;
        device.copy_cache(&state.cache, &mut larger.cache, 0)?;
        *state = larger;
        Ok(())
    }

    /// Encode one chunk of sound, `mel [n_mels, frames_per_chunk]`, to audio vectors `[tokens_per_chunk, dim]`.
    ///
    /// # Errors
    /// A chunk of another size, or a failed device.
    pub fn encode(&mut self, mel: &[f32]) -> Result<&[f32]> {
        if self.encoder.is_none() {
            self.encoder = Some(encoder_step(&self.model, None)?);
        }
        let Some(step) = &mut self.encoder else {
            return Ok(&[]);
        };
        run_encoder(step, mel)?;
        Ok(step.output(0)?)
    }

    /// Feed rows of a prompt, `[rows, dim]`: embeddings of text and audio vectors.
    ///
    /// # Errors
    /// Rows that do not fit into the state, or a failed device.
    pub fn prefill(&mut self, state: &mut DecoderState, rows: &[f32]) -> Result<()> {
        let step = self.decoder(1, rows, None)?;
        step.run(&mut [state], rows, &[])
    }

    /// Feed as many rows to each conversation, `[conversations * rows, dim]`, and choose the token behind the last one of
    /// each.
    ///
    /// # Errors
    /// Rows that are not the same number for each or do not fit into a state, or a failed device.
    pub fn next_tokens(
        &mut self,
        states: &mut [&mut DecoderState],
        rows: &[f32],
        draws: &[Draw],
    ) -> Result<Chosen<'_>> {
        let is_drawn = draws.iter().any(|draw| draw.temperature > 0.0);
        let step = self.decoder(states.len(), rows, Some(is_drawn))?;
        step.run(states, rows, draws)?;
        Ok(Chosen {
            tokens: step.step.output_ids(0)?,
            logprobs: step.step.output(0)?,
        })
    }

    fn decoder(
        &mut self,
        n_sequences: usize,
        rows: &[f32],
        choice: Option<bool>,
    ) -> Result<&mut DecoderStep> {
        let dim = self.model.config.decoder.dim;
        let key = DecoderKey {
            n_sequences,
            n_rows: rows.len() / (dim * n_sequences.max(1)),
            choice,
        };
        let index = match self.decoders.iter().position(|(known, _)| *known == key) {
            Some(index) => {
                // The last one is the one that was used last.
                self.decoders[index..].rotate_left(1);
                self.decoders.len() - 1
            }
            None => {
                let step = DecoderStep::compile(&self.model, key, None)?;
                if self.decoders.len() >= KEPT_STEPS {
                    // Steps of one row are those of every token.
                    let oldest = self.decoders.iter().position(|(key, _)| key.n_rows > 1);
                    self.decoders.remove(oldest.unwrap_or(0));
                }
                self.decoders.push((key, step));
                self.decoders.len() - 1
            }
        };
        Ok(&mut self.decoders[index].1)
    }

    /// [`encode`](Self::encode), and the values after every stage: `conv2`, `enc_l{i}`, `enc`, `proj`.
    ///
    /// # Errors
    /// As there.
    pub fn encoder_stages(&self, mel: &[f32]) -> Result<Stages> {
        let mut names = Vec::new();
        let mut step = encoder_step(&self.model, Some(&mut names))?;
        run_encoder(&mut step, mel)?;
        outputs(&step, names, 1)
    }

    /// [`prefill`](Self::prefill), and the values after every stage, for all rows: `dec_l{i}`, `logits`.
    ///
    /// # Errors
    /// As there.
    pub fn decoder_stages(&self, state: &mut DecoderState, rows: &[f32]) -> Result<Stages> {
        let mut names = Vec::new();
        let key = DecoderKey {
            n_sequences: 1,
            n_rows: rows.len() / self.model.config.decoder.dim,
            choice: None,
        };
        let mut step = DecoderStep::compile(&self.model, key, Some(&mut names))?;
        step.run(&mut [state], rows, &[])?;
        outputs(&step.step, names, 0)
    }
}

fn outputs(step: &Step, names: Vec<String>, first: usize) -> Result<Stages> {
    let values = names.into_iter().enumerate();
    values
        .map(|(index, name)| Ok((name, step.output(first + index)?.to_vec())))
        .collect()
}

/// With `names`, every stage is an output too.
fn encoder_step(model: &VoxtralMini, names: Option<&mut Vec<String>>) -> Result<Step> {
    let _span = trace::span("compile");
    let config = &model.config;
    let mut step = StepBuilder::new(&model.device).named("encoder");
    let mel = step.input(config.encoder.n_mels, config.frames_per_chunk());
    let stages = model.encoder.forward(&mut step, mel)?;
    step.output(stages.audio);
    if let Some(names) = names {
        let mut named = |name: String, value: Value| {
            step.output(value);
            names.push(name);
        };
        named("conv2".into(), stages.tower.conv[1]);
        for (index, value) in stages.tower.blocks.iter().enumerate() {
            named(format!("enc_l{index}"), *value);
        }
        named("enc".into(), stages.tower.states);
        named("proj".into(), stages.audio);
    }
    Ok(step.finish()?)
}

fn run_encoder(step: &mut Step, mel: &[f32]) -> Result<()> {
    Ok(step.run(&mut Bindings {
        inputs: &[mel],
        ids: &[],
        slots: &mut [],
    })?)
}

impl DecoderStep {
    /// With `names`, the stages of all rows are the outputs.
    fn compile(
        model: &VoxtralMini,
        key: DecoderKey,
        names: Option<&mut Vec<String>>,
    ) -> Result<Self> {
        let _span = trace::span("compile");
        let config = &model.config;
        let DecoderKey {
            n_sequences: n,
            n_rows,
            choice,
        } = key;
        let name = match (choice, n_rows) {
            (Some(_), 1) => "decoder.step",
            _ => "decoder.prefill",
        };
        let words = config.n_vocab.div_ceil(32);
        let mut step = StepBuilder::new(&model.device).named(name);
        // Inputs, in the order in which `run` binds them.
        let x = step.input(n * n_rows, config.decoder.dim);
        let positions = step.input_ids(n * n_rows, 1);
        let rows = DecoderRows {
            positions,
            n_sequences: n,
            slot: step.cache_slot(),
        };
        let layers = model.decoder.layers(&mut step, x, rows)?;
        let last = layers.last().copied().unwrap_or(x);
        if let Some(is_drawn) = choice {
            let controls = step.input(n, 3);
            let filter = is_drawn.then(|| step.input(n, 4));
            let lasts = step.input_ids(n, 1);
            let all = step.input_ids(n, words);
            let seeds = step.input_ids(n, 2);
            let wanted = match n_rows {
                1 => last,
                _ => step.gather_rows(last, lasts)?,
            };
            let logits = model.decoder.logits(&mut step, wanted)?;
            let choice = TokenChoice {
                allowed: all,
                seen: None,
                controls,
                filter,
            };
            let (tokens, logprobs) = choice.record(&mut step, logits, seeds, all)?;
            step.output_ids(tokens);
            step.output(logprobs);
        }
        if let Some(names) = names {
            let logits = model.decoder.logits(&mut step, last)?;
            for (index, value) in layers.iter().enumerate() {
                step.output(*value);
                names.push(format!("dec_l{index}"));
            }
            step.output(logits);
            names.push("logits".into());
        }
        Ok(Self {
            step: step.finish()?,
            key,
            positions: vec![0; n * n_rows],
            lasts: (1..=n)
                .map(|n| (n * n_rows).saturating_sub(1) as u32)
                .collect(),
            all: vec![u32::MAX; n * words],
            controls: [0.0, 1.0, 0.0].repeat(n),
            filter: vec![0.0; 4 * n],
            seeds: vec![0; 2 * n],
            caches: Vec::with_capacity(n),
        })
    }

    fn run(
        &mut self,
        states: &mut [&mut DecoderState],
        rows: &[f32],
        draws: &[Draw],
    ) -> Result<()> {
        let each = self.positions.chunks_exact_mut(self.key.n_rows.max(1));
        for (state, positions) in states.iter().zip(each) {
            for (position, number) in positions.iter_mut().zip(state.cache.len() as u32..) {
                *position = number;
            }
        }
        for (index, draw) in draws.iter().enumerate() {
            self.controls[3 * index] = draw.temperature;
            let filter = [draw.temperature, 1.0, draw.top_k as f32, draw.top_p];
            self.filter[4 * index..][..4].copy_from_slice(&filter);
            self.seeds[2 * index] = draw.seed as u32;
            self.seeds[2 * index + 1] = (draw.seed >> 32) as u32;
        }
        let mut caches: Vec<&mut KvCache> = recycle(take(&mut self.caches));
        caches.extend(states.iter_mut().map(|state| &mut *state.cache));
        let inputs: [&[f32]; 3] = [rows, &self.controls, &self.filter];
        let ids: [&[u32]; 4] = [&self.positions, &self.lasts, &self.all, &self.seeds];
        let (n_inputs, n_ids) = match self.key.choice {
            None => (1, 1),
            Some(false) => (2, 4),
            Some(true) => (3, 4),
        };
        let ran = self.step.run(&mut Bindings {
            inputs: &inputs[..n_inputs],
            ids: &ids[..n_ids],
            slots: &mut [SlotBinding::Write(&mut caches)],
        });
        self.caches = recycle(caches);
        Ok(ran?)
    }
}
