//! Running a loaded [`Qwen3Tts`]: compiled steps, and the states that change while it speaks.

use std::mem::take;
use std::sync::Arc;

use turaco_compute::{
    Bindings, CacheShape, DType, Ids, KvCache, SlotBinding, Step, StepBuilder, WeightType, trace,
};

use super::Qwen3Tts;
use super::code_predictor::PredictorRows;
use super::config::{GenerationDefaults, N_CONTROL, StackConfig};
use super::talker::TalkerRows;
use crate::nn::{MeteredCache, TokenChoice};
use crate::recycle::recycle;
use crate::{Control, Result};

/// Prompts come in many lengths; this many compiled steps are kept.
const KEPT_STEPS: usize = 8;

/// Rows that one run of the text projection takes.
const TEXT_ROWS: [usize; 3] = [1, 8, 64];

/// Frames before which speech may not end (`min_new_tokens` of the reference).
const MIN_FRAMES: usize = 2;

/// How codes are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Temperatures, top-k, top-p, penalty.
    pub values: GenerationDefaults,
    /// Where the noise begins: the same seed gives the same codes.
    pub seed: u64,
}

/// One utterance in progress.
#[derive(Debug)]
pub struct TalkerState {
    cache: MeteredCache,
    /// Of the code predictor; empty between frames.
    frame_cache: MeteredCache,
    sampling: Sampling,
    /// First codes so far, as bits.
    seen: Vec<u32>,
    /// Frames that were chosen, the one that ends included.
    n_frames: usize,
    /// The last frame.
    codes: Vec<u32>,
}

impl TalkerState {
    /// The codes of the last frame.
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// Take frames as chosen that another state chose. What follows from them comes with the next prompt
    /// ([`Prompt::rows_behind`](super::Prompt::rows_behind)).
    pub fn resume(&mut self, codes: &[u32]) {
        for frame in codes.chunks_exact(self.codes.len()) {
            self.take(frame);
        }
    }

    /// A frame was chosen.
    fn take(&mut self, codes: &[u32]) {
        self.codes.copy_from_slice(codes);
        self.n_frames += 1;
        let first = codes[0] as usize;
        self.seen[first / 32] |= 1 << (first % 32);
    }

    /// Frames that were chosen.
    pub fn n_frames(&self) -> usize {
        self.n_frames
    }

    /// Positions so far.
    pub fn position(&self) -> usize {
        self.cache.len()
    }
}

/// What the next frames follow from.
#[derive(Debug, Clone, Copy)]
pub enum FrameInput<'a> {
    /// A prompt, `[positions, dim]`, for a new utterance (or several with prompts of one length, one after the other).
    Prompt(&'a [f32]),
    /// The last frame of each utterance, and a text vector for each, `[utterances, dim]`.
    Text(&'a [f32]),
}

/// The frames that were chosen, `[utterances, n_codes]`. One whose first code is the codec's end is none.
pub type Codes<'a> = &'a [u32];

/// Values inside a frame, for comparison with the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameStages {
    /// What goes into the talker, `[positions, dim]`.
    pub inputs: Vec<f32>,
    /// The normalised hidden states behind the last position, `[dim]`.
    pub hidden_state: Vec<f32>,
    /// The talker's logits, `[codec_vocab]`.
    pub logits: Vec<f32>,
    /// The predictor's logits, `[n_codes - 1, codebook_size]`.
    pub sub_logits: Vec<f32>,
}

/// Runs a model for one thread; holds the compiled steps and their scratch memory.
#[derive(Debug)]
pub struct Runner {
    model: Arc<Qwen3Tts>,
    text: Vec<(usize, Step)>,
    frames: Vec<(FrameKey, FrameStep)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameKey {
    n_sequences: usize,
    /// Rows of each, of a prompt; `None` = the row of a frame.
    prompt: Option<usize>,
    /// Whether anything is drawn by chance.
    draws: bool,
}

#[derive(Debug)]
struct FrameStep {
    step: Step,
    key: FrameKey,
    /// Host side of the inputs, reused by every run.
    positions: Vec<u32>,
    /// The last row of each sequence.
    lasts: Vec<u32>,
    /// Of the predictor's passes, the first of which has two rows per sequence.
    frame_positions: Vec<Vec<u32>>,
    /// The second row of each sequence in that pass.
    seconds: Vec<u32>,
    allowed: Vec<u32>,
    seen: Vec<u32>,
    all: Vec<u32>,
    /// Of the talker and of the predictor: for the choice, and for the filter before it.
    choice: [Vec<f32>; 2],
    filter: [Vec<f32>; 2],
    /// For every code, `[n_sequences, 2]`.
    seeds: Vec<Vec<u32>>,
    /// For every code, `[n_sequences]`.
    last_codes: Vec<Vec<u32>>,
    codes: Vec<u32>,
    /// Always empty between runs.
    caches: [Vec<&'static mut KvCache>; 2],
}

impl Runner {
    /// A runner without compiled steps.
    pub fn new(model: &Arc<Qwen3Tts>) -> Self {
        Self {
            model: Arc::clone(model),
            text: Vec::new(),
            frames: Vec::new(),
        }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Qwen3Tts> {
        &self.model
    }

    /// A new utterance of at most `n_positions`, prompt and frames.
    ///
    /// # Errors
    /// No memory.
    pub fn new_state(&self, n_positions: usize, sampling: Sampling) -> Result<TalkerState> {
        let config = &self.model.config;
        Ok(TalkerState {
            cache: self.cache(&config.talker, n_positions)?,
            frame_cache: self.cache(&config.code_predictor, config.n_codes)?,
            sampling,
            seen: vec![0; config.codec_vocab.div_ceil(32)],
            n_frames: 0,
            codes: vec![0; config.n_codes],
        })
    }

    fn cache(&self, stack: &StackConfig, capacity: usize) -> Result<MeteredCache> {
        let shape = CacheShape {
            n_layers: stack.n_layers,
            capacity,
            kv_dim: stack.n_kv_heads * stack.head_dim,
            head_dim: stack.head_dim,
            dtype: match self.model.weight_type {
                WeightType::F32 => DType::F32,
                _ => DType::F16,
            },
        };
        Ok(self.model.caches.count(self.model.device.kv_cache(shape)?))
    }

    /// The vectors of text tokens, `[tokens, dim]`.
    ///
    /// # Errors
    /// Tokens that the model does not know, cancellation, or a failed device.
    pub fn project_text(&mut self, tokens: &[u32], control: &Control) -> Result<Vec<f32>> {
        let model = Arc::clone(&self.model);
        let (dim, width) = (model.config.talker.dim, model.config.text_dim);
        let limit = model.text_embedding.len();
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= limit) {
            return Err(turaco_compute::Error::Shape {
                what: "text token".into(),
                expected: format!("below {limit}"),
                found: format!("{token}"),
            }
            .into());
        }
        let mut vectors = Vec::with_capacity(tokens.len() * dim);
        let mut rest = tokens;
        while !rest.is_empty() {
            control.check()?;
            let most = TEXT_ROWS[TEXT_ROWS.len() - 1];
            let n_rows = TEXT_ROWS.into_iter().find(|&rows| rows >= rest.len());
            let n_rows = n_rows.unwrap_or(most);
            let (now, later) = rest.split_at(rest.len().min(n_rows));
            let mut x = vec![0.0; n_rows * width];
            for (row, &token) in x.chunks_exact_mut(width).zip(now) {
                model.text_embedding.add_row(token, row);
            }
            let step = self.text_step(n_rows)?;
            step.run(&mut Bindings {
                inputs: &[&x],
                ids: &[],
                slots: &mut [],
            })?;
            vectors.extend_from_slice(&step.output(0)?[..now.len() * dim]);
            rest = later;
        }
        Ok(vectors)
    }

    fn text_step(&mut self, n_rows: usize) -> Result<&mut Step> {
        let index = match self.text.iter().position(|(rows, _)| *rows == n_rows) {
            Some(index) => index,
            None => {
                let model = &self.model;
                let mut step = StepBuilder::new(&model.device).named("text");
                let x = step.input(n_rows, model.config.text_dim);
                let vectors = model.text_projection.forward(&mut step, x)?;
                step.output(vectors);
                self.text.push((n_rows, step.finish()?));
                self.text.len() - 1
            }
        };
        Ok(&mut self.text[index].1)
    }

    /// Choose the next frame of each utterance.
    ///
    /// # Errors
    /// Inputs of another size, a prompt or utterance that is longer than its state was made for, logits that are no
    /// numbers, or a failed device.
    pub fn next_frames(
        &mut self,
        states: &mut [&mut TalkerState],
        input: FrameInput<'_>,
    ) -> Result<Codes<'_>> {
        let key = self.key(states, input);
        let index = match self.frames.iter().position(|(known, _)| *known == key) {
            Some(index) => {
                // The last one is the one that was used last.
                self.frames[index..].rotate_left(1);
                self.frames.len() - 1
            }
            None => {
                let step = FrameStep::compile(&self.model, key, false)?;
                if self.frames.len() >= KEPT_STEPS {
                    self.frames.remove(0);
                }
                self.frames.push((key, step));
                self.frames.len() - 1
            }
        };
        let model = Arc::clone(&self.model);
        let step = &mut self.frames[index].1;
        step.run(&model, states, input)?;
        Ok(&step.codes)
    }

    /// [`next_frames`](Self::next_frames) of one utterance, and the values inside.
    ///
    /// # Errors
    /// As there.
    pub fn frame_stages(
        &mut self,
        state: &mut TalkerState,
        input: FrameInput<'_>,
    ) -> Result<FrameStages> {
        let key = self.key(&[state], input);
        let mut step = FrameStep::compile(&self.model, key, true)?;
        step.run(&self.model, &mut [state], input)?;
        let mut sub_logits = Vec::new();
        for index in 3..self.model.config.n_codes + 2 {
            sub_logits.extend_from_slice(step.step.output(index)?);
        }
        Ok(FrameStages {
            inputs: step.step.output(0)?.to_vec(),
            hidden_state: step.step.output(1)?.to_vec(),
            logits: step.step.output(2)?.to_vec(),
            sub_logits,
        })
    }

    fn key(&self, states: &[&mut TalkerState], input: FrameInput<'_>) -> FrameKey {
        let dim = self.model.config.talker.dim;
        FrameKey {
            n_sequences: states.len(),
            prompt: match input {
                FrameInput::Prompt(rows) => Some(rows.len() / (dim * states.len().max(1))),
                FrameInput::Text(_) => None,
            },
            draws: states.iter().any(|state| {
                let values = &state.sampling.values;
                values.temperature > 0.0 || values.subtalker_temperature > 0.0
            }),
        }
    }
}

impl FrameStep {
    /// With `stages`, the values of [`FrameStages`] are outputs.
    fn compile(model: &Qwen3Tts, key: FrameKey, stages: bool) -> Result<Self> {
        let _span = trace::span("compile");
        let config = &model.config;
        let FrameKey {
            n_sequences: n,
            prompt,
            draws,
        } = key;
        let (dim, n_codes) = (config.talker.dim, config.n_codes);
        let n_rows = prompt.unwrap_or(1);
        let words = [config.codec_vocab, config.codebook_size].map(|size| size.div_ceil(32));
        let name = match prompt {
            Some(_) => "talker.prompt",
            None => "talker.frame",
        };
        let mut step = StepBuilder::new(&model.device).named(name);
        let step = &mut step;

        // Inputs, in the order in which `run` binds them.
        let given = step.input(n * n_rows, dim);
        let choice = [step.input(n, 3), step.input(n, 3)];
        let filter = match draws {
            true => [Some(step.input(n, 4)), Some(step.input(n, 4))],
            false => [None, None],
        };
        let positions = step.input_ids(n * n_rows, 1);
        let wanted = (n_rows > 1).then(|| step.input_ids(n, 1));
        let allowed = step.input_ids(n, words[0]);
        let seen = step.input_ids(n, words[0]);
        let all = [step.input_ids(n, words[0]), step.input_ids(n, words[1])];
        let frame_positions: Vec<Ids> = (1..n_codes)
            .map(|index| step.input_ids(n * rows_of_pass(index), 1))
            .collect();
        let seconds = step.input_ids(n, 1);
        let seeds: Vec<Ids> = (0..n_codes).map(|_| step.input_ids(n, 2)).collect();
        let last_codes: Vec<Ids> = match prompt {
            Some(_) => Vec::new(),
            None => (0..n_codes).map(|_| step.input_ids(n, 1)).collect(),
        };
        let (slot, frame_slot) = (step.cache_slot(), step.cache_slot());
        let first_choice = TokenChoice {
            allowed,
            seen: Some(seen),
            controls: choice[0],
            filter: filter[0],
        };
        let other_choice = TokenChoice {
            allowed: all[1],
            seen: None,
            controls: choice[1],
            filter: filter[1],
        };

        let mut x = given;
        for (index, &codes) in last_codes.iter().enumerate() {
            let embedded = match index {
                0 => model.talker.embed(step, codes)?,
                index => model.code_predictor.embed(step, index, codes)?,
            };
            x = step.add(x, 1.0, embedded, 1.0)?;
        }
        let rows = TalkerRows {
            positions,
            n_sequences: n,
            slot,
            wanted,
        };
        let (hidden_state, logits, first) = step.stage("talker", |step| {
            let hidden_state = model.talker.forward(step, x, rows)?;
            let logits = model.talker.logits(step, hidden_state)?;
            let (first, _) = first_choice.record(step, logits, seeds[0], all[0])?;
            Ok::<_, crate::Error>((hidden_state, logits, first))
        })?;
        if stages {
            step.output(x);
            step.output(hidden_state);
            step.output(logits);
        }
        step.output_ids(first);
        step.stage("code_predictor", |step| {
            let mut code = first;
            for index in 1..n_codes {
                // Both rows of a sequence in one pass: the hidden state, and the code that followed from it.
                let (x, wanted) = match index {
                    1 => {
                        let embedded = model.talker.embed(step, code)?;
                        let both = step.concat(&[hidden_state, embedded])?;
                        (step.reshape(both, dim)?, Some(seconds))
                    }
                    _ => (model.code_predictor.embed(step, index - 1, code)?, None),
                };
                let rows = PredictorRows {
                    positions: frame_positions[index - 1],
                    n_sequences: n,
                    slot: frame_slot,
                    wanted,
                };
                let states = model.code_predictor.forward(step, x, rows)?;
                let logits = model.code_predictor.logits(step, index, states)?;
                code = other_choice.record(step, logits, seeds[index], all[1])?.0;
                step.output_ids(code);
                if stages {
                    step.output(logits);
                }
            }
            Ok::<_, crate::Error>(())
        })?;
        let finished = std::mem::replace(step, StepBuilder::new(&model.device)).finish()?;
        Ok(Self {
            step: finished,
            key,
            positions: vec![0; n * n_rows],
            lasts: (1..=n).map(|n| (n * n_rows - 1) as u32).collect(),
            frame_positions: (1..n_codes)
                .map(|index| match rows_of_pass(index) {
                    1 => vec![index as u32; n],
                    _ => [0, 1].repeat(n),
                })
                .collect(),
            seconds: (0..n).map(|n| (2 * n + 1) as u32).collect(),
            allowed: codes_only(config.codec_vocab).repeat(n),
            seen: vec![0; n * words[0]],
            all: vec![u32::MAX; n * words[0].max(words[1])],
            choice: [vec![0.0; 3 * n], vec![0.0; 3 * n]],
            filter: [vec![0.0; 4 * n], vec![0.0; 4 * n]],
            seeds: vec![vec![0; 2 * n]; n_codes],
            last_codes: vec![vec![0; n]; last_codes.len()],
            codes: vec![0; n * n_codes],
            caches: [Vec::with_capacity(n), Vec::with_capacity(n)],
        })
    }

    /// What this run is told about one of its utterances.
    fn describe(&mut self, model: &Qwen3Tts, index: usize, state: &TalkerState) {
        let config = &model.config;
        let words = config.codec_vocab.div_ceil(32);
        let n_rows = self.key.prompt.unwrap_or(1);
        let positions = &mut self.positions[index * n_rows..][..n_rows];
        for (position, number) in positions.iter_mut().zip(state.cache.len() as u32..) {
            *position = number;
        }
        self.seen[index * words..][..words].copy_from_slice(&state.seen);
        let allowed = &mut self.allowed[index * words..][..words];
        let end = config.codec_tokens.eos as usize;
        allowed[end / 32] &= !(1 << (end % 32));
        if state.n_frames >= MIN_FRAMES {
            allowed[end / 32] |= 1 << (end % 32);
        }
        let values = &state.sampling.values;
        let talker = (
            values.temperature,
            values.repetition_penalty,
            values.top_k,
            values.top_p,
        );
        let predictor = (
            values.subtalker_temperature,
            1.0,
            values.subtalker_top_k,
            values.subtalker_top_p,
        );
        for (which, (temperature, penalty, top_k, top_p)) in
            [talker, predictor].into_iter().enumerate()
        {
            // With a filter the penalty is its.
            let choice = [temperature, penalty, 0.0];
            self.choice[which][3 * index..][..3].copy_from_slice(&choice);
            let filter = [temperature, penalty, top_k as f32, top_p];
            self.filter[which][4 * index..][..4].copy_from_slice(&filter);
        }
        for (code, seeds) in self.seeds.iter_mut().enumerate() {
            let number = (state.n_frames * config.n_codes + code) as u64;
            let seed = state
                .sampling
                .seed
                .wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            seeds[2 * index] = seed as u32;
            seeds[2 * index + 1] = (seed >> 32) as u32;
        }
        for (code, last) in state.codes.iter().zip(&mut self.last_codes) {
            last[index] = *code;
        }
    }

    fn run(
        &mut self,
        model: &Qwen3Tts,
        states: &mut [&mut TalkerState],
        input: FrameInput<'_>,
    ) -> Result<()> {
        for (index, state) in states.iter_mut().enumerate() {
            state.frame_cache.truncate(0);
            self.describe(model, index, state);
        }
        let n_codes = model.config.n_codes;
        let mut ids: [&[u32]; MAX_IDS] = [&[]; MAX_IDS];
        let words = self.key.n_sequences * model.config.codec_vocab.div_ceil(32);
        let sub_words = self.key.n_sequences * model.config.codebook_size.div_ceil(32);
        let lists = [&self.positions[..]]
            .into_iter()
            .chain((self.positions.len() > states.len()).then_some(&self.lasts[..]))
            .chain([
                &self.allowed[..],
                &self.seen,
                &self.all[..words],
                &self.all[..sub_words],
            ])
            .chain(self.frame_positions.iter().map(Vec::as_slice))
            .chain([&self.seconds[..]])
            .chain(self.seeds.iter().map(Vec::as_slice))
            .chain(self.last_codes.iter().map(Vec::as_slice));
        let mut n_ids = 0;
        for list in lists {
            ids[n_ids] = list;
            n_ids += 1;
        }
        let (FrameInput::Prompt(given) | FrameInput::Text(given)) = input;
        let inputs: [&[f32]; 5] = [
            given,
            &self.choice[0],
            &self.choice[1],
            &self.filter[0],
            &self.filter[1],
        ];
        let inputs = if self.key.draws {
            &inputs[..]
        } else {
            &inputs[..3]
        };
        let [caches, frame_caches] = &mut self.caches;
        let mut caches: Vec<&mut KvCache> = recycle(take(caches));
        let mut frame_caches: Vec<&mut KvCache> = recycle(take(frame_caches));
        for state in states.iter_mut() {
            let TalkerState {
                cache, frame_cache, ..
            } = &mut **state;
            caches.push(cache);
            frame_caches.push(frame_cache);
        }
        let mut slots = [
            SlotBinding::Write(&mut caches),
            SlotBinding::Write(&mut frame_caches),
        ];
        let ran = self.step.run(&mut Bindings {
            inputs,
            ids: &ids[..n_ids],
            slots: &mut slots,
        });
        self.caches = [recycle(caches), recycle(frame_caches)];
        ran?;
        for code in 0..n_codes {
            let chosen = self.step.output_ids(code)?;
            for (index, &code_of) in chosen.iter().enumerate() {
                self.codes[index * n_codes + code] = code_of;
            }
        }
        for (state, codes) in states.iter_mut().zip(self.codes.chunks_exact(n_codes)) {
            if codes.contains(&u32::MAX) {
                return Err(turaco_compute::Error::Unsupported {
                    what: "a frame without possible codes".into(),
                    reason: "the logits are no numbers: the weights are damaged, or too large for this weight type"
                        .into(),
                }
                .into());
            }
            state.take(codes);
        }
        Ok(())
    }
}

/// The entries of the talker's vocabulary that are codes, as bits.
fn codes_only(codec_vocab: usize) -> Vec<u32> {
    let mut allowed = vec![0; codec_vocab.div_ceil(32)];
    for code in 0..codec_vocab - N_CONTROL {
        allowed[code / 32] |= 1 << (code % 32);
    }
    allowed
}

/// Rows per sequence of the predictor's pass to code `index`.
fn rows_of_pass(index: usize) -> usize {
    if index == 1 { 2 } else { 1 }
}

/// Lists of numbers that a frame of the most codes takes.
const MAX_IDS: usize = 6 + 3 * 64;
