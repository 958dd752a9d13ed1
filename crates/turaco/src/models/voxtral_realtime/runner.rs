//! Running a loaded [`VoxtralRealtime`]: compiled steps, and the states that change while a stream runs.

use std::mem::take;
use std::sync::Arc;

use turaco_compute::{
    Bindings, CacheShape, ChooseTokens, DType, KvCache, SlotBinding, Step, StepBuilder, Value,
    WeightType, trace,
};

use super::VoxtralRealtime;
use super::config::StackConfig;
use super::decoder::DecoderInputs;
use super::encoder::{EncoderInputs, FRAMES_BEFORE};
use crate::nn::MeteredCache;
use crate::recycle::recycle;
use crate::{Error, Result};

/// Steps of the decoder with several rows per sequence come in many sizes; this many compiled ones are kept, or more where
/// a step has more rows.
const KEPT_STEPS: usize = 8;

/// Steps of the encoder: as many as the numbers of streams of an interval, and a few for what is left at an end.
const KEPT_ENCODERS: usize = 16;

/// The audio side of one stream.
#[derive(Debug)]
pub struct EncoderState {
    cache: MeteredCache,
    /// The last [`FRAMES_BEFORE`] frames that were encoded.
    frames_before: Vec<f32>,
}

impl EncoderState {
    /// Encoder positions so far.
    pub fn n_positions(&self) -> usize {
        self.cache.len()
    }

    /// Whether it has heard anything.
    pub fn has_begun(&self) -> bool {
        !self.cache.is_empty()
    }
}

/// The text side of one stream.
#[derive(Debug)]
pub struct DecoderState {
    cache: MeteredCache,
    delay: usize,
}

impl DecoderState {
    /// Positions so far.
    pub fn position(&self) -> usize {
        self.cache.len()
    }

    /// Tokens by which the text follows the audio.
    pub fn delay(&self) -> usize {
        self.delay
    }

    /// Forget the last `count` positions: what went in there turned out to be wrong.
    pub fn forget(&mut self, count: usize) {
        let len = self.cache.len();
        self.cache.truncate(len.saturating_sub(count));
    }

    /// Begin anew.
    pub fn restart(&mut self) {
        self.cache.truncate(0);
    }
}

/// What goes through the decoder in one step: for each of several streams the same number of positions.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Audio vectors, `[streams * positions, dim]`.
    pub audio: &'a [f32],
    /// The token before each position, `[streams * positions]`.
    pub tokens: &'a [u32],
    /// Candidates for the token behind the last position of each stream; 0 = none is wanted (a part of a prompt).
    pub candidates: usize,
    /// Candidates behind every position, not only the last.
    pub every: bool,
}

/// The candidates for the next token of each stream (or behind each position), best first.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// `[streams, candidates]`, or `[streams, positions, candidates]`.
    pub tokens: &'a [u32],
    /// Their log-probabilities, of the same shape.
    pub logprobs: &'a [f32],
}

/// Named values of a forward pass, for comparison with the reference.
pub type Stages = Vec<(String, Vec<f32>)>;

/// Runs a model for one thread; holds the compiled steps and their scratch memory.
#[derive(Debug)]
pub struct Runner {
    model: Arc<VoxtralRealtime>,
    encoders: Vec<(EncoderKey, EncoderStep)>,
    decoders: Vec<(DecoderKey, DecoderStep)>,
}

/// Streams, audio tokens of each, and whether they are a stream's first.
type EncoderKey = (usize, usize, bool);

/// Streams, positions of each, candidates, whether behind every position.
type DecoderKey = (usize, usize, usize, bool);

#[derive(Debug)]
struct EncoderStep {
    step: Step,
    /// Host side of the inputs, reused by every run.
    mel: Vec<f32>,
    positions: Vec<u32>,
    /// Always empty between runs.
    caches: Vec<&'static mut KvCache>,
}

#[derive(Debug)]
struct DecoderStep {
    step: Step,
    positions: Vec<u32>,
    delays: Vec<u32>,
    /// The last row of each stream.
    lasts: Vec<u32>,
    allowed: Vec<u32>,
    controls: Vec<f32>,
    seeds: Vec<u32>,
    /// Whether tokens are chosen behind every position.
    is_step: bool,
    /// Always empty between runs.
    caches: Vec<&'static mut KvCache>,
}

impl Runner {
    /// A runner without compiled steps.
    pub fn new(model: &Arc<VoxtralRealtime>) -> Self {
        Self {
            model: Arc::clone(model),
            encoders: Vec::new(),
            decoders: Vec::new(),
        }
    }

    /// Rows of a step up to which reading the weights is what takes the time.
    pub fn rows_at_once(&self) -> usize {
        self.model.device.rows_at_once()
    }

    /// How many of `most` texts are best gone on with in one step: all that reading the weights pays for, and of more as many as
    /// the device takes, of numbers so far apart that few steps are compiled.
    pub fn texts_at_once(&self, most: usize) -> usize {
        let device = &self.model.device;
        match most <= device.rows_at_once() {
            true => most,
            false => stepped(most.min(device.sequences_at_once())),
        }
    }

    /// The model.
    pub fn model(&self) -> &Arc<VoxtralRealtime> {
        &self.model
    }

    /// The audio side of a new stream that is encoded in chunks of at most `max_tokens`.
    ///
    /// # Errors
    /// No memory.
    pub fn new_encoder_state(&self, max_tokens: usize) -> Result<EncoderState> {
        let config = &self.model.config;
        let rows = max_tokens * config.downsample;
        // The silence in front fits too, however short the window is.
        let silence = config.n_left_pad * config.downsample;
        self.encoder_state((config.encoder.window + rows.max(1) - 1).max(silence))
    }

    /// The audio side of a stream that ends after `n_tokens`: the beginning of others.
    ///
    /// # Errors
    /// No memory.
    pub fn new_encoder_beginning(&self, n_tokens: usize) -> Result<EncoderState> {
        self.encoder_state(n_tokens * self.model.config.downsample)
    }

    fn encoder_state(&self, capacity: usize) -> Result<EncoderState> {
        Ok(EncoderState {
            cache: self.ring(&self.model.config.encoder, capacity)?,
            frames_before: Vec::new(),
        })
    }

    /// The text side of a new stream; at most `max_rows` positions go through the decoder at once.
    ///
    /// # Errors
    /// No memory.
    pub fn new_decoder_state(&self, delay: usize, max_rows: usize) -> Result<DecoderState> {
        let config = &self.model.config;
        let capacity = config.decoder.window + max_rows.max(1) - 1;
        self.decoder_state(delay, capacity.max(config.n_left_pad))
    }

    /// The text side of a stream that ends after `n_positions`: the beginning of others.
    ///
    /// # Errors
    /// No memory.
    pub fn new_decoder_beginning(&self, delay: usize, n_positions: usize) -> Result<DecoderState> {
        self.decoder_state(delay, n_positions)
    }

    fn decoder_state(&self, delay: usize, capacity: usize) -> Result<DecoderState> {
        Ok(DecoderState {
            cache: self.ring(&self.model.config.decoder, capacity)?,
            delay,
        })
    }

    fn ring(&self, stack: &StackConfig, capacity: usize) -> Result<MeteredCache> {
        let shape = CacheShape {
            n_layers: stack.n_layers,
            capacity,
            kv_dim: stack.n_kv_heads * stack.head_dim,
            head_dim: stack.head_dim,
            dtype: match self.model.weight_type {
                WeightType::F32 => DType::F32,
                // The longer the context, the more of a step is reading its keys and values.
                WeightType::Int8 | WeightType::Q8 | WeightType::Q4 => DType::I8,
                _ => DType::F16,
            },
        };
        Ok(self
            .model
            .caches
            .count(self.model.device.ring_cache(shape)?))
    }

    /// Make `to` what `from` is.
    ///
    /// # Errors
    /// States of different models or sizes.
    pub fn copy_encoder_state(&self, from: &EncoderState, to: &mut EncoderState) -> Result<()> {
        self.model
            .device
            .copy_cache(&from.cache, &mut to.cache, 0)?;
        to.frames_before.clone_from(&from.frames_before);
        Ok(())
    }

    /// Make `to` what `from` is.
    ///
    /// # Errors
    /// States of different models or sizes.
    pub fn copy_decoder_state(&self, from: &DecoderState, to: &mut DecoderState) -> Result<()> {
        self.model
            .device
            .copy_cache(&from.cache, &mut to.cache, 0)?;
        to.delay = from.delay;
        Ok(())
    }

    /// How many of `most` streams are best encoded in one run, each a piece of `n_tokens`: as many as keep the device busy, of
    /// numbers so far apart that few steps are compiled.
    pub fn streams_at_once(&self, n_tokens: usize, most: usize) -> usize {
        let rows = n_tokens * self.model.config.downsample;
        let fill = self.model.device.rows_that_fill() / rows.max(1);
        stepped(most.min(fill.max(1)))
    }

    /// Encode the next frames of several streams, as many of each: `[streams][tokens * frames_per_token][n_mels]` to audio
    /// vectors `[streams * tokens, dim]`.
    ///
    /// # Errors
    /// Frames that are no whole tokens or more than a state was made for, streams of which only some have begun, or a
    /// failed device.
    pub fn encode(&mut self, states: &mut [&mut EncoderState], frames: &[f32]) -> Result<&[f32]> {
        let config = &self.model.config;
        let n = states.len();
        let per_token = config.frames_per_token() * config.n_mels;
        let n_tokens = frames.len() / (per_token * n.max(1));
        if n_tokens * n * per_token != frames.len() || n_tokens == 0 {
            return Err(shape(
                "frames to encode",
                format!("whole tokens of {per_token} values for each of {n}"),
                format!("{}", frames.len()),
            ));
        }
        let is_first = states.iter().any(|state| state.cache.is_empty());
        if is_first && states.iter().any(|state| !state.cache.is_empty()) {
            return Err(shape(
                "streams to encode",
                "all at their start, or none".into(),
                "some of each".into(),
            ));
        }
        let key = (n, n_tokens, is_first);
        match self.encoders.iter().position(|(k, _)| *k == key) {
            // The last is the one that was used last.
            Some(index) => self.encoders[index..].rotate_left(1),
            None => {
                let step = EncoderStep::compile(&self.model, key, None)?;
                make_room(&mut self.encoders, KEPT_ENCODERS);
                self.encoders.push((key, step));
            }
        }
        let n_mels = config.n_mels;
        let index = self.encoders.len() - 1;
        let step = &mut self.encoders[index].1;
        step.run(states, frames, n_mels)?;
        Ok(step.step.output(0)?)
    }

    /// Feed the next positions of several streams, and choose the token behind the last one of each.
    ///
    /// # Errors
    /// Rows that are not the same number for every stream, more than a state was made for, or a failed device.
    pub fn decode(
        &mut self,
        states: &mut [&mut DecoderState],
        rows: Rows<'_>,
    ) -> Result<Chosen<'_>> {
        let n = states.len();
        let n_positions = rows.tokens.len() / n.max(1);
        let every = rows.every && n_positions > 1;
        let key = (n, n_positions, rows.candidates, every);
        let index = match self.decoders.iter().position(|(k, _)| *k == key) {
            Some(index) => {
                // The last one is the one that was used last.
                self.decoders[index..].rotate_left(1);
                self.decoders.len() - 1
            }
            None => {
                let step = DecoderStep::compile(&self.model, key, None)?;
                let kept = KEPT_STEPS.max(self.rows_at_once());
                make_room(&mut self.decoders, kept);
                self.decoders.push((key, step));
                self.decoders.len() - 1
            }
        };
        let step = &mut self.decoders[index].1;
        step.run(states, rows)?;
        if rows.candidates == 0 {
            return Ok(Chosen {
                tokens: &[],
                logprobs: &[],
            });
        }
        Ok(Chosen {
            tokens: step.step.output_ids(0)?,
            logprobs: step.step.output(0)?,
        })
    }

    /// [`encode`](Self::encode) of one stream, and the values after every stage: `conv_stem`, `enc_layer.{i}`, `enc_out`, `adapter_out`.
    ///
    /// # Errors
    /// As there.
    pub fn encoder_stages(&mut self, state: &mut EncoderState, frames: &[f32]) -> Result<Stages> {
        let config = &self.model.config;
        let n_tokens = frames.len() / (config.frames_per_token() * config.n_mels);
        let mut names = Vec::new();
        let key = (1, n_tokens, state.cache.is_empty());
        let mut step = EncoderStep::compile(&self.model, key, Some(&mut names))?;
        step.run(&mut [state], frames, config.n_mels)?;
        let values = names.into_iter().enumerate();
        values
            .map(|(index, name)| Ok((name, step.step.output(index + 1)?.to_vec())))
            .collect()
    }

    /// [`decode`](Self::decode) of one stream, and the values after every stage, for all positions: `dec_layer.{i}`,
    /// `dec_final_hidden`, `logits`.
    ///
    /// # Errors
    /// As there.
    pub fn decoder_stages(
        &mut self,
        state: &mut DecoderState,
        audio: &[f32],
        tokens: &[u32],
    ) -> Result<Stages> {
        let mut names = Vec::new();
        let key = (1, tokens.len(), 0, false);
        let mut step = DecoderStep::compile(&self.model, key, Some(&mut names))?;
        let rows = Rows {
            audio,
            tokens,
            candidates: 0,
            every: false,
        };
        step.run(&mut [state], rows)?;
        let values = names.into_iter().enumerate();
        values
            .map(|(index, name)| Ok((name, step.step.output(index)?.to_vec())))
            .collect()
    }
}

fn shape(what: &str, expected: String, found: String) -> Error {
    let what = what.into();
    Error::Compute(turaco_compute::Error::Shape {
        what,
        expected,
        found,
    })
}

/// The largest of 1, 2, 3, 4, 6, 8, 12, 16, 24, … that is not above `most` (at least 1).
fn stepped(most: usize) -> usize {
    let power = 1 << most.max(1).ilog2();
    match power + power / 2 {
        between if between <= most => between,
        _ => power,
    }
}

/// Drop the oldest compiled step if there are as many as are kept.
fn make_room<K, S>(steps: &mut Vec<(K, S)>, kept: usize) {
    if steps.len() >= kept {
        steps.remove(0);
    }
}

impl EncoderStep {
    /// With `names`, every stage is an output too.
    fn compile(
        model: &VoxtralRealtime,
        (n_sequences, n_tokens, is_first): EncoderKey,
        names: Option<&mut Vec<String>>,
    ) -> Result<Self> {
        let _span = trace::span("compile");
        let config = &model.config;
        let before = if is_first { 0 } else { FRAMES_BEFORE };
        let n_frames = n_sequences * (n_tokens * config.frames_per_token() + before);
        let n_positions = n_sequences * n_tokens * config.downsample;
        // How much sound goes through at once depends on how the machine keeps up; what is heard in it must not.
        let mut step = StepBuilder::new(&model.device).named("encoder").uniform();
        let given = EncoderInputs {
            mel: step.input(n_frames, config.n_mels),
            is_first,
            positions: step.input_ids(n_positions, 1),
            n_sequences,
            slot: step.cache_slot(),
        };
        let stages = model.encoder.forward(&mut step, given)?;
        step.output(stages.audio);
        if let Some(names) = names {
            let mut named = |name: String, value: Value| {
                step.output(value);
                names.push(name);
            };
            named("conv_stem".into(), stages.conv_stem);
            for (index, value) in stages.layers.iter().enumerate() {
                named(format!("enc_layer.{index}"), *value);
            }
            named("enc_out".into(), stages.states);
            named("adapter_out".into(), stages.audio);
        }
        Ok(Self {
            step: step.finish()?,
            mel: Vec::with_capacity(n_frames * config.n_mels),
            positions: vec![0; n_positions],
            caches: Vec::with_capacity(n_sequences),
        })
    }

    /// `frames` of one stream behind those of another, as many of each.
    fn run(
        &mut self,
        states: &mut [&mut EncoderState],
        frames: &[f32],
        n_mels: usize,
    ) -> Result<()> {
        let n = states.len().max(1);
        let n_values = (frames.len() / n).max(1);
        let n_positions = (self.positions.len() / n).max(1);
        self.mel.clear();
        let positions = self.positions.chunks_exact_mut(n_positions);
        let chunks = frames.chunks_exact(n_values);
        for ((state, chunk), positions) in states.iter().zip(chunks.clone()).zip(positions) {
            if !state.cache.is_empty() {
                self.mel.extend_from_slice(&state.frames_before);
            }
            self.mel.extend_from_slice(chunk);
            count_from(positions, state.cache.len());
        }
        let mut caches: Vec<&mut KvCache> = recycle(take(&mut self.caches));
        caches.extend(states.iter_mut().map(|state| &mut *state.cache));
        let ran = self.step.run(&mut Bindings {
            inputs: &[&self.mel],
            ids: &[&self.positions],
            slots: &mut [SlotBinding::Write(&mut caches)],
        });
        self.caches = recycle(caches);
        ran?;
        // A token has more frames than are looked back on.
        let kept = n_values.min(FRAMES_BEFORE * n_mels);
        for (state, chunk) in states.iter_mut().zip(chunks) {
            state.frames_before.clear();
            state
                .frames_before
                .extend_from_slice(&chunk[n_values - kept..]);
        }
        Ok(())
    }
}

impl DecoderStep {
    /// With `names`, the stages of all positions are the outputs.
    fn compile(
        model: &VoxtralRealtime,
        (n_sequences, n_positions, candidates, every): DecoderKey,
        names: Option<&mut Vec<String>>,
    ) -> Result<Self> {
        let _span = trace::span("compile");
        let config = &model.config;
        let n_rows = n_sequences * n_positions;
        let is_step = candidates > 0 && (n_positions == 1 || every);
        let name = if is_step {
            "decoder.step"
        } else {
            "decoder.prefill"
        };
        let mut step = StepBuilder::new(&model.device).named(name);
        let given = DecoderInputs {
            audio: step.input(n_rows, config.decoder.dim),
            tokens: step.input_ids(n_rows, 1),
            positions: step.input_ids(n_rows, 1),
            delays: step.input_ids(n_sequences, 1),
            n_sequences,
            slot: step.cache_slot(),
        };
        let hidden_states = model.decoder.forward(&mut step, given)?;
        let last_layer = hidden_states.last().copied().unwrap_or(given.audio);
        let mut n_choices = 0;
        if candidates > 0 {
            let wanted = if is_step {
                last_layer
            } else {
                let rows = step.input_ids(n_sequences, 1);
                step.gather_rows(last_layer, rows)?
            };
            n_choices = wanted.rows();
            let (_, logits) = model.decoder.logits(&mut step, wanted)?;
            let choose = ChooseTokens {
                allowed: step.input_ids(n_choices, config.n_vocab.div_ceil(32)),
                seen: None,
                controls: step.input(n_choices, 3),
                seeds: step.input_ids(n_choices, 2),
                prefer_from: 0,
                k: candidates.min(config.n_vocab),
            };
            let (tokens, logprobs) = step.choose_tokens(logits, choose)?;
            step.output_ids(tokens);
            step.output(logprobs);
        }
        if let Some(names) = names {
            let (states, logits) = model.decoder.logits(&mut step, last_layer)?;
            let layers = hidden_states.iter().enumerate();
            let named = layers
                .map(|(index, value)| (format!("dec_layer.{index}"), *value))
                .chain([
                    ("dec_final_hidden".into(), states),
                    ("logits".into(), logits),
                ]);
            for (name, value) in named {
                step.output(value);
                names.push(name);
            }
        }
        Ok(Self {
            step: step.finish()?,
            positions: vec![0; n_rows],
            delays: vec![0; n_sequences],
            lasts: (1..=n_sequences)
                .map(|n| (n * n_positions - 1) as u32)
                .collect(),
            allowed: vec![u32::MAX; n_choices * config.n_vocab.div_ceil(32)],
            controls: [0.0, 1.0, 0.0].repeat(n_choices),
            seeds: vec![0; 2 * n_choices],
            is_step,
            caches: Vec::with_capacity(n_sequences),
        })
    }

    fn run(&mut self, states: &mut [&mut DecoderState], rows: Rows<'_>) -> Result<()> {
        let n_positions = self.positions.len() / states.len().max(1);
        let each = self.positions.chunks_exact_mut(n_positions.max(1));
        for ((state, positions), delay) in states.iter().zip(each).zip(&mut self.delays) {
            count_from(positions, state.cache.len());
            *delay = (state.delay - 1) as u32;
        }
        let mut caches: Vec<&mut KvCache> = recycle(take(&mut self.caches));
        caches.extend(states.iter_mut().map(|state| &mut *state.cache));
        let common: [&[u32]; 3] = [rows.tokens, &self.positions, &self.delays];
        let [tokens, positions, delays] = common;
        let ids: &[&[u32]] = match (rows.candidates, self.is_step) {
            (0, _) => &common,
            (_, true) => &[tokens, positions, delays, &self.allowed, &self.seeds],
            _ => &[
                tokens,
                positions,
                delays,
                &self.lasts,
                &self.allowed,
                &self.seeds,
            ],
        };
        let inputs: &[&[f32]] = match rows.candidates {
            0 => &[rows.audio],
            _ => &[rows.audio, &self.controls],
        };
        let mut slots = [SlotBinding::Write(&mut caches)];
        let ran = self.step.run(&mut Bindings {
            inputs,
            ids,
            slots: &mut slots,
        });
        self.caches = recycle(caches);
        Ok(ran?)
    }
}

/// `first, first + 1, …`
fn count_from(positions: &mut [u32], first: usize) {
    for (position, number) in positions.iter_mut().zip(first as u32..) {
        *position = number;
    }
}

#[cfg(test)]
mod tests {
    use super::stepped;

    #[test]
    fn numbers_of_streams_are_few_and_near() {
        let sizes: Vec<usize> = (0..=50).map(stepped).collect();
        assert_eq!(sizes[..10], [1, 1, 2, 3, 4, 4, 6, 6, 8, 8]);
        let mut different = sizes.clone();
        different.dedup();
        assert_eq!(different, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]);
        for (most, size) in sizes.into_iter().enumerate().skip(1) {
            assert!(size <= most && 3 * size + 3 > 2 * most, "{size} of {most}");
        }
    }
}
