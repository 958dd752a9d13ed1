//! Running a loaded [`CodecDecoder`]: compiled steps, and the state of a stream.

use std::sync::Arc;

use turaco_compute::{
    Bindings, CacheShape, DType, KvCache, SlotBinding, StateBuffer, Step, StepBuilder, WeightType,
    trace,
};

use super::decoder::{CodecDecoder, DecoderInputs};
use crate::Result;

/// Most frames that go through the decoder at once. More would hardly be faster, and take more memory.
pub const MAX_FRAMES: usize = 16;

/// Frames whose samples are made at once, with what a layer gives still in the caches when the next one reads it.
const SLICE_FRAMES: usize = 2;

/// What the decoder has to know of the frames before: keys and values of a window, and what convolutions look back on.
#[derive(Debug)]
pub struct CodecStream {
    cache: KvCache,
    state: StateBuffer,
}

impl CodecStream {
    /// Frames so far.
    pub fn position(&self) -> usize {
        self.cache.len()
    }
}

/// Named values of a forward pass, for comparison with the reference.
pub type Stages = Vec<(String, Vec<f32>)>;

/// Runs a decoder for one thread; holds the compiled steps and their scratch memory.
#[derive(Debug)]
pub struct CodecRunner {
    decoder: Arc<CodecDecoder>,
    /// One for each number of frames: the powers of two up to [`MAX_FRAMES`].
    steps: Vec<(usize, DecodeStep)>,
    /// For frames whose sound nobody needs.
    silent_steps: Vec<(usize, DecodeStep)>,
}

#[derive(Debug)]
struct DecodeStep {
    step: Step,
    semantic: Vec<u32>,
    acoustic: Vec<u32>,
    positions: Vec<u32>,
    /// Outputs with samples.
    n_slices: usize,
}

impl CodecRunner {
    /// A runner without compiled steps.
    pub fn new(decoder: &Arc<CodecDecoder>) -> Self {
        Self {
            decoder: Arc::clone(decoder),
            steps: Vec::new(),
            silent_steps: Vec::new(),
        }
    }

    /// The decoder.
    pub fn decoder(&self) -> &Arc<CodecDecoder> {
        &self.decoder
    }

    /// A stream that begins with silence.
    ///
    /// # Errors
    /// No memory.
    pub fn new_stream(&self) -> Result<CodecStream> {
        self.stream_for(MAX_FRAMES)
    }

    fn stream_for(&self, max_frames: usize) -> Result<CodecStream> {
        let (decoder, config) = (&self.decoder, self.decoder.config());
        let shape = CacheShape {
            n_layers: config.n_layers,
            capacity: config.window + max_frames - 1,
            kv_dim: config.n_kv_heads * config.head_dim,
            head_dim: config.head_dim,
            dtype: match decoder.weight_type() {
                WeightType::F32 => DType::F32,
                _ => DType::F16,
            },
        };
        Ok(CodecStream {
            cache: decoder.device().ring_cache(shape)?,
            state: decoder.device().state_buffer(decoder.state_len())?,
        })
    }

    /// A stream that goes on where `stream` is.
    ///
    /// # Errors
    /// No memory, or a failed device.
    pub fn copy_stream(&self, stream: &CodecStream) -> Result<CodecStream> {
        let device = self.decoder.device();
        let mut copy = CodecStream {
            cache: device.ring_cache(stream.cache.shape())?,
            state: device.state_buffer(stream.state.len())?,
        };
        device.copy_cache(&stream.cache, &mut copy.cache, 0)?;
        let values = device.read_buffer(&stream.state)?;
        device.write_buffer(&mut copy.state, &values)?;
        Ok(copy)
    }

    /// Begin a stream anew.
    ///
    /// # Errors
    /// A failed device.
    pub fn restart(&self, stream: &mut CodecStream) -> Result<()> {
        stream.cache.truncate(0);
        let silence = vec![0.0; stream.state.len()];
        self.decoder
            .device()
            .write_buffer(&mut stream.state, &silence)?;
        Ok(())
    }

    /// Decode the next frames of a stream, `codes [frames, n_groups]`, and append their samples, within ±1, to `samples`. How
    /// frames are divided among calls makes no difference.
    ///
    /// # Errors
    /// Codes that are no whole frames or that no codebook has, or a failed device. In the first two cases nothing was
    /// decoded.
    pub fn decode(
        &mut self,
        stream: &mut CodecStream,
        codes: &[u32],
        samples: &mut Vec<f32>,
    ) -> Result<()> {
        self.check(codes)?;
        let config = self.decoder.config();
        let n_groups = config.n_groups;
        let mut rest = codes;
        samples.reserve(codes.len() / n_groups * config.samples_per_frame());
        while !rest.is_empty() {
            let frames = chunk(rest.len() / n_groups);
            let (now, later) = rest.split_at(frames * n_groups);
            let step = step_for(&mut self.steps, frames, || {
                DecodeStep::compile(&self.decoder, frames, None)
            })?;
            step.run(&self.decoder, stream, now)?;
            for slice in 0..step.n_slices {
                let made = step.step.output(slice)?;
                samples.extend(made.iter().map(|sample| sample.clamp(-1.0, 1.0)));
            }
            rest = later;
        }
        Ok(())
    }

    /// Let a stream that has just begun hear `codes`, frames that were said already. It is then as if they had been decoded, for less
    /// than half of the work: the convolutions, which look back a few frames only, leave out all but the last. Before each run
    /// `check` may end it.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), and those of `check`.
    pub fn skip(
        &mut self,
        stream: &mut CodecStream,
        codes: &[u32],
        check: impl Fn() -> Result<()>,
    ) -> Result<()> {
        self.check(codes)?;
        let n_groups = self.decoder.config().n_groups;
        let heard = self.decoder.frames_seen_by_convolutions();
        // What convolutions keep of a stream that has begun would be from another time.
        let n_silent = match stream.position() {
            0 => (codes.len() / n_groups).saturating_sub(heard),
            _ => 0,
        };
        let (mut silent, last) = codes.split_at(n_silent * n_groups);
        while !silent.is_empty() {
            check()?;
            let frames = chunk(silent.len() / n_groups);
            let (now, later) = silent.split_at(frames * n_groups);
            let step = step_for(&mut self.silent_steps, frames, || {
                DecodeStep::compile_silent(&self.decoder, frames)
            })?;
            step.run(&self.decoder, stream, now)?;
            silent = later;
        }
        for codes in last.chunks(MAX_FRAMES * n_groups) {
            check()?;
            self.decode(stream, codes, &mut Vec::new())?;
        }
        Ok(())
    }

    fn check(&self, codes: &[u32]) -> Result<()> {
        let n_groups = self.decoder.config().n_groups;
        if !codes.len().is_multiple_of(n_groups) {
            return Err(turaco_compute::Error::Shape {
                what: "codes to decode".into(),
                expected: format!("whole frames of {n_groups}"),
                found: format!("{}", codes.len()),
            }
            .into());
        }
        self.decoder.quantizer.check(codes)
    }

    /// Bytes of scratch memory of all compiled steps.
    pub fn scratch_bytes(&self) -> usize {
        let steps = self.steps.iter().chain(&self.silent_steps);
        steps.map(|(_, step)| step.step.scratch_bytes()).sum()
    }

    /// Decode frames as a stream of their own, in one run; the values after every stage, rows of time: `quantized`,
    /// `pre_conv_out`, `pre_transformer_out`, `upsample{i}_out`, `decoder{i}_out`, `wav` (not clamped).
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn stages(&self, codes: &[u32]) -> Result<Stages> {
        let frames = codes.len() / self.decoder.config().n_groups;
        let mut stream = self.stream_for(frames.max(1))?;
        let mut names = Vec::new();
        let mut step = DecodeStep::compile(&self.decoder, frames, Some(&mut names))?;
        step.run(&self.decoder, &mut stream, codes)?;
        let values = names.into_iter().enumerate();
        values
            .map(|(index, name)| Ok((name, step.step.output(index)?.to_vec())))
            .collect()
    }
}

impl DecoderInputs {
    fn new(step: &mut StepBuilder, decoder: &CodecDecoder, frames: usize) -> Self {
        let config = decoder.config();
        Self {
            semantic: step.input_ids(frames, config.n_semantic),
            acoustic: step.input_ids(frames, config.n_groups - config.n_semantic),
            positions: step.input_ids(frames, 1),
            cache: step.cache_slot(),
            state: step.buffer_slot(),
        }
    }
}

/// How many of so many frames go through the decoder next: the largest power of two that there are.
fn chunk(frames: usize) -> usize {
    let floor = 1 << frames.max(1).ilog2();
    floor.min(MAX_FRAMES)
}

/// The step for so many frames, `compile`d when it is first needed.
fn step_for(
    steps: &mut Vec<(usize, DecodeStep)>,
    frames: usize,
    compile: impl FnOnce() -> Result<DecodeStep>,
) -> Result<&mut DecodeStep> {
    let index = match steps.iter().position(|(n, _)| *n == frames) {
        Some(index) => index,
        None => {
            steps.push((frames, compile()?));
            steps.len() - 1
        }
    };
    Ok(&mut steps[index].1)
}

impl DecodeStep {
    /// With `names`, every stage is an output.
    fn compile(
        decoder: &CodecDecoder,
        frames: usize,
        names: Option<&mut Vec<String>>,
    ) -> Result<Self> {
        let _span = trace::span("compile");
        let mut step = StepBuilder::new(decoder.device())
            .named("codec.decode")
            .uniform();
        let given = DecoderInputs::new(&mut step, decoder, frames);
        let slice = if names.is_some() {
            frames
        } else {
            SLICE_FRAMES
        };
        let outputs = decoder.forward(&mut step, &given, slice)?;
        match names {
            Some(names) => {
                for (name, value) in outputs.stages {
                    step.output(value);
                    names.push(name);
                }
            }
            None => {
                for &value in &outputs.samples {
                    step.output(value);
                }
            }
        }
        Ok(Self {
            step: step.finish()?,
            semantic: Vec::new(),
            acoustic: Vec::new(),
            positions: vec![0; frames],
            n_slices: outputs.samples.len(),
        })
    }

    /// Without samples: only what later frames see of these.
    fn compile_silent(decoder: &CodecDecoder, frames: usize) -> Result<Self> {
        let _span = trace::span("compile");
        let mut step = StepBuilder::new(decoder.device())
            .named("codec.skip")
            .uniform();
        let given = DecoderInputs::new(&mut step, decoder, frames);
        let hidden_states = decoder.forward_silently(&mut step, &given)?;
        step.output(hidden_states);
        Ok(Self {
            step: step.finish()?,
            semantic: Vec::new(),
            acoustic: Vec::new(),
            positions: vec![0; frames],
            n_slices: 0,
        })
    }

    fn run(
        &mut self,
        decoder: &CodecDecoder,
        stream: &mut CodecStream,
        codes: &[u32],
    ) -> Result<()> {
        decoder
            .quantizer
            .rows(codes, &mut self.semantic, &mut self.acoustic);
        let first = stream.cache.len();
        for (index, position) in self.positions.iter_mut().enumerate() {
            *position = (first + index) as u32;
        }
        let mut caches = [&mut stream.cache];
        self.step.run(&mut Bindings {
            inputs: &[],
            ids: &[&self.semantic, &self.acoustic, &self.positions],
            slots: &mut [
                SlotBinding::Write(&mut caches),
                SlotBinding::Buffer(&mut stream.state),
            ],
        })?;
        Ok(())
    }
}
