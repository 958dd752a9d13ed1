//! Silero VAD v5/v6: the probability that a 32 ms chunk of sound holds speech.
//!
//! Architecture, for sound at 16 kHz (8 kHz: half of every length in samples):
//!
//! ```text
//! 512 new samples after the 64 before them, reflected by 64 on the right only    [640]
//! windowed DFT of 256 every 128 samples as a convolution; magnitude              [4, 129]
//! conv k3 s1 -> 128, conv k3 s2 -> 64, conv k3 s2 -> 64, conv k3 s1 -> 128, each ReLU   [1, 128]
//! LSTM 128 -> 128, one step per chunk; ReLU; linear -> 1; sigmoid                [1]
//! ```
//!
//! What differs from the textbook: no normalisation of the samples, no mel scale, and the two rates are two separate
//! networks. Everything before the LSTM depends on one chunk alone, so files are computed many chunks at a time; the
//! same recording with one chunk serves streams.
//!
//! Follows the package `silero-vad` 6.2 (MIT): `src/silero_vad/data/silero_vad.jit`. The weights in `data/` are that
//! package's, values unchanged.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use turaco_compute::{
    Activation, Bindings, ConvShape, DType, Device, Epilogue, HostMatrix, Matrix, SlotBinding,
    StateBuffer, Step, StepBuilder, Value, Vector, WeightType,
};

use crate::control::Control;
use crate::error::{Error, Result};
use crate::weights::{Weights, invalid, safetensors};

/// The weights for both rates, shipped with the library.
const WEIGHTS: &[u8] = include_bytes!("../../../data/silero_vad_v6.safetensors");

/// What error messages call them.
const WEIGHTS_NAME: &str = "silero_vad_v6.safetensors (built in)";

/// Chunks that [`SileroVad::probabilities`] computes together: enough rows for full matrix kernels, few enough that
/// the activations stay in cache.
const BATCH: usize = 64;

/// Louder samples are limited to this, so that no sum in the network can overflow. Sound belongs in -1..1.
const LOUDEST: f32 = 1e6;

/// Taps of every convolution in the file.
const KERNEL: usize = 3;

/// Hops of the DFT in one chunk with its context and reflection.
const HOPS: usize = 5;

/// The network for one sample rate; clones share the weights.
///
/// Sound that is not a finite number counts as zero.
#[derive(Debug, Clone)]
pub struct SileroVad {
    network: Arc<Network>,
}

impl SileroVad {
    /// The built-in network for sound at `sample_rate`, 16000 or 8000 Hz.
    ///
    /// # Errors
    /// Another rate, or no memory on the device.
    pub fn new(device: &Device, sample_rate: u32) -> Result<Self> {
        let prefix = match sample_rate {
            16_000 => "16k",
            8_000 => "8k",
            _ => {
                return Err(Error::InvalidOption {
                    option: "sample_rate",
                    message: format!(
                        "voice activity detection works at 16000 or 8000 Hz, not {sample_rate}; resample the sound first"
                    ),
                });
            }
        };
        let weights = safetensors::parse(Path::new(WEIGHTS_NAME), &WEIGHTS.to_vec().into())?;
        Self::from_weights(device, &weights, prefix, sample_rate)
    }

    /// Another training of the network, for sound at `sample_rate`; the tensors are called `<prefix>.stft.basis`,
    /// `<prefix>.conv1.weight` and so on, as in the built-in file. The length of a chunk follows from the basis.
    ///
    /// # Errors
    /// Missing tensors, shapes that do not fit each other, or no memory on the device.
    pub fn from_weights(
        device: &Device,
        weights: &Weights,
        prefix: &str,
        sample_rate: u32,
    ) -> Result<Self> {
        Ok(Self {
            network: Arc::new(Network::load(device, weights, prefix, sample_rate)?),
        })
    }

    /// Samples per second.
    pub fn sample_rate(&self) -> u32 {
        self.network.sample_rate
    }

    /// Samples per chunk: 512 at 16 kHz, 256 at 8 kHz.
    pub fn chunk_len(&self) -> usize {
        self.network.chunk_len()
    }

    /// One probability per chunk of `samples`, the last chunk filled up with zeros.
    ///
    /// # Errors
    /// A failed device.
    pub fn probabilities(&self, samples: &[f32]) -> Result<Vec<f32>> {
        let n_chunks = samples.len().div_ceil(self.chunk_len());
        self.probabilities_of_chunks(samples, n_chunks, &Control::new())
    }

    /// The probabilities of the first `n_chunks` chunks; where `samples` are too few, zeros follow.
    ///
    /// # Errors
    /// A failed device, or cancellation.
    pub fn probabilities_of_chunks(
        &self,
        samples: &[f32],
        n_chunks: usize,
        control: &Control,
    ) -> Result<Vec<f32>> {
        let network = &*self.network;
        let mut probabilities = Vec::with_capacity(n_chunks);
        let batch = n_chunks.clamp(1, BATCH);
        let mut step = network.record(batch)?;
        let mut state = network.device.state_buffer(network.state_len())?;
        let mut input = vec![0.0; batch * network.input_len()];
        for first in (0..n_chunks).step_by(batch) {
            control.check()?;
            for (i, row) in input.chunks_exact_mut(network.input_len()).enumerate() {
                network.fill_input(row, samples, (first + i) * network.chunk_len());
            }
            step.run(&mut Bindings {
                inputs: &[&input],
                ids: &[],
                slots: &mut [SlotBinding::Buffer(&mut state)],
            })?;
            let n_wanted = batch.min(n_chunks - first);
            probabilities.extend_from_slice(&step.output(0)?[..n_wanted]);
        }
        Ok(probabilities)
    }

    /// Start listening to a stream.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn stream(&self) -> Result<VadStream> {
        let network = self.network.clone();
        let step = network.record(1)?;
        let state = network.device.state_buffer(network.state_len())?;
        let recent = vec![0.0; network.context_len() + network.chunk_len()];
        let input = vec![0.0; network.input_len()];
        Ok(VadStream {
            network,
            step,
            state,
            recent,
            input,
        })
    }
}

/// One stream of sound: the network's memory between chunks.
#[derive(Debug)]
pub struct VadStream {
    network: Arc<Network>,
    step: Step,
    state: StateBuffer,
    /// The end of the chunk before, then the newest chunk.
    recent: Vec<f32>,
    input: Vec<f32>,
}

impl VadStream {
    /// Samples per chunk: 512 at 16 kHz, 256 at 8 kHz.
    pub fn chunk_len(&self) -> usize {
        self.network.chunk_len()
    }

    /// The probability that the next chunk is speech. Zeros follow a chunk that is too short, which makes sense only
    /// at the end of the stream.
    ///
    /// # Errors
    /// A chunk longer than [`chunk_len`](Self::chunk_len), or a failed device.
    pub fn push(&mut self, chunk: &[f32]) -> Result<f32> {
        let (context_len, chunk_len) = (self.network.context_len(), self.network.chunk_len());
        if chunk.len() > chunk_len {
            return Err(turaco_compute::Error::Shape {
                what: "chunk for voice activity detection".into(),
                expected: format!("{chunk_len} samples"),
                found: format!("{}", chunk.len()),
            }
            .into());
        }
        self.recent.copy_within(chunk_len.., 0);
        self.recent[context_len..][..chunk.len()].copy_from_slice(chunk);
        self.recent[context_len + chunk.len()..].fill(0.0);
        // The context is all that lies before the chunk, so the chunk sits at `context_len`.
        self.network
            .fill_input(&mut self.input, &self.recent, context_len);
        self.step.run(&mut Bindings {
            inputs: &[&self.input],
            ids: &[],
            slots: &mut [SlotBinding::Buffer(&mut self.state)],
        })?;
        Ok(self.step.output(0)?[0])
    }

    /// Forget everything heard.
    ///
    /// # Errors
    /// A failed device.
    pub fn reset(&mut self) -> Result<()> {
        self.recent.fill(0.0);
        let zeros = vec![0.0; self.state.len()];
        Ok(self.network.device.write_buffer(&mut self.state, &zeros)?)
    }
}

/// A convolution over time with its ReLU.
#[derive(Debug)]
struct Convolution {
    /// `[c_out, kernel * c_in]`, kernel position outermost.
    weight: Arc<Matrix>,
    bias: Arc<Vector>,
    kernel: usize,
    stride: usize,
    padding: (usize, usize),
}

/// Weights of one rate on a device.
#[derive(Debug)]
struct Network {
    device: Device,
    sample_rate: u32,
    /// Length of the DFT; all other lengths in samples follow from it.
    n_fft: usize,
    /// Windowed DFT `[n_fft + 2, n_fft]`: real rows, then imaginary rows.
    basis: Arc<Matrix>,
    convolutions: Vec<Convolution>,
    lstm_ih: Arc<Matrix>,
    lstm_hh: Arc<Matrix>,
    lstm_bias: Arc<Vector>,
    out_weight: Arc<Matrix>,
    out_bias: Arc<Vector>,
}

impl Network {
    fn load(device: &Device, file: &Weights, prefix: &str, sample_rate: u32) -> Result<Self> {
        let weights = file.prefix(prefix);
        let n_fft = last_size(file, &weights.name_of("stft.basis"))?;
        let hidden = last_size(file, &weights.name_of("lstm.weight_hh"))?;
        let vector = |name: &str, len: usize| -> Result<Arc<Vector>> {
            Ok(device.vector(&weights.get(name, &[len])?.to_f32())?)
        };
        let basis = weights.get("stft.basis", &[n_fft + 2, 1, n_fft])?;

        // Taps that only ever see padding are left out: the third convolution gets two rows and makes one of them, the
        // fourth gets one row.
        let plans = [
            (0..3, 1, (1, 1)),
            (0..3, 2, (1, 1)),
            (1..3, 2, (0, 0)),
            (1..2, 1, (0, 0)),
        ];
        let mut convolutions = Vec::with_capacity(plans.len());
        let mut c_in = n_fft / 2 + 1;
        for (i, (taps, stride, padding)) in plans.into_iter().enumerate() {
            let name = format!("conv{}", i + 1);
            let c_out = last_size(file, &weights.name_of(&format!("{name}.bias")))?;
            let weight = weights.get(&format!("{name}.weight"), &[c_out, c_in, KERNEL])?;
            convolutions.push(Convolution {
                weight: matrix(
                    device,
                    &taps_outermost(&weight.to_f32(), c_in, taps.clone()),
                    taps.len() * c_in,
                )?,
                bias: vector(&format!("{name}.bias"), c_out)?,
                kernel: taps.len(),
                stride,
                padding,
            });
            c_in = c_out;
        }

        let gates = 4 * hidden;
        let lstm_ih = weights.get("lstm.weight_ih", &[gates, c_in])?.to_f32();
        let lstm_hh = weights.get("lstm.weight_hh", &[gates, hidden])?.to_f32();
        let mut lstm_bias = weights.get("lstm.bias_ih", &[gates])?.to_f32();
        let bias_hh = weights.get("lstm.bias_hh", &[gates])?.to_f32();
        for (sum, term) in lstm_bias.iter_mut().zip(bias_hh) {
            *sum += term;
        }
        let out_weight = weights.get("out.weight", &[1, hidden, 1])?.to_f32();
        Ok(Self {
            device: device.clone(),
            sample_rate,
            n_fft,
            basis: matrix(device, &basis.to_f32(), n_fft)?,
            convolutions,
            lstm_ih: matrix(device, &lstm_ih, c_in)?,
            lstm_hh: matrix(device, &lstm_hh, hidden)?,
            lstm_bias: device.vector(&lstm_bias)?,
            out_weight: matrix(device, &out_weight, hidden)?,
            out_bias: vector("out.bias", 1)?,
        })
    }

    fn hop_len(&self) -> usize {
        self.n_fft / 2
    }

    fn chunk_len(&self) -> usize {
        self.n_fft * 2
    }

    /// Samples before a chunk that the network sees again.
    fn context_len(&self) -> usize {
        self.n_fft / 4
    }

    /// Samples per chunk that the network gets: context, chunk, reflection.
    fn input_len(&self) -> usize {
        HOPS * self.hop_len()
    }

    /// Hidden values, then cell values.
    fn state_len(&self) -> usize {
        2 * self.lstm_hh.cols()
    }

    /// Write the chunk at `start` of `samples` with its context and its reflection into `input`.
    fn fill_input(&self, input: &mut [f32], samples: &[f32], start: usize) {
        let seen = self.context_len() + self.chunk_len();
        // Position in `samples` of `input[i]` is `start + i - context_len`.
        let before = self.context_len().saturating_sub(start);
        let from = (start + before).saturating_sub(self.context_len());
        let known = samples.get(from..).unwrap_or_default();
        let known = &known[..known.len().min(seen - before)];
        input[..before].fill(0.0);
        for (to, &sample) in input[before..].iter_mut().zip(known) {
            *to = if sample.is_finite() {
                sample.clamp(-LOUDEST, LOUDEST)
            } else {
                0.0
            };
        }
        input[before + known.len()..seen].fill(0.0);
        for i in seen..input.len() {
            input[i] = input[2 * (seen - 1) - i];
        }
    }

    /// The forward pass over `n_chunks` chunks; the input is `[n_chunks * HOPS, hop]`, a row per hop. Returns all stages:
    /// magnitudes, the four convolutions, the hidden values, and last the probabilities `[n_chunks, 1]`.
    fn forward(&self, builder: &mut StepBuilder, n_chunks: usize) -> Result<Vec<Value>> {
        let samples = builder.input(n_chunks * HOPS, self.hop_len());
        // A filter of two hops at every hop is a convolution with two taps over rows of one hop.
        let spectrum = builder.conv1d(
            samples,
            &self.basis,
            None,
            Activation::None,
            ConvShape {
                n_sequences: n_chunks,
                kernel: 2,
                stride: 1,
                padding: (0, 0),
                ..ConvShape::default()
            },
        )?;
        let mut x = builder.magnitude(spectrum)?;
        let mut stages = vec![x];
        for convolution in &self.convolutions {
            x = builder.conv1d(
                x,
                &convolution.weight,
                Some(&convolution.bias),
                Activation::Relu,
                ConvShape {
                    n_sequences: n_chunks,
                    kernel: convolution.kernel,
                    stride: convolution.stride,
                    padding: convolution.padding,
                    ..ConvShape::default()
                },
            )?;
            stages.push(x);
        }
        let state = builder.buffer_slot();
        let hidden = builder.lstm(x, &self.lstm_ih, &self.lstm_hh, &self.lstm_bias, state)?;
        let rectified = builder.activate(hidden, Activation::Relu);
        let probability = builder.linear(
            rectified,
            &self.out_weight,
            Epilogue::bias(&self.out_bias).activation(Activation::Sigmoid),
        )?;
        stages.extend([hidden, probability]);
        Ok(stages)
    }

    fn record(&self, n_chunks: usize) -> Result<Step> {
        let mut builder = StepBuilder::new(&self.device);
        let stages = self.forward(&mut builder, n_chunks)?;
        builder.output(stages[stages.len() - 1]);
        Ok(builder.finish()?)
    }
}

/// Upload `values` as a matrix of `cols` columns.
fn matrix(device: &Device, values: &[f32], cols: usize) -> Result<Arc<Matrix>> {
    let source = HostMatrix {
        dtype: DType::F32,
        rows: values.len() / cols.max(1),
        cols,
        bytes: bytemuck::cast_slice(values),
        row_scales: None,
        storage: None,
    };
    Ok(device.matrix(&[source], WeightType::F32)?)
}

/// Filters `[c_out, c_in, KERNEL]` with only some of their taps, as `[c_out, taps, c_in]`.
fn taps_outermost(filters: &[f32], c_in: usize, taps: Range<usize>) -> Vec<f32> {
    let mut out = Vec::with_capacity(filters.len() / KERNEL * taps.len());
    for filter in filters.chunks_exact(c_in * KERNEL) {
        for tap in taps.clone() {
            out.extend(filter.iter().skip(tap).step_by(KERNEL));
        }
    }
    out
}

/// The only size of a vector, or the last size of a matrix, that the others follow from.
fn last_size(weights: &Weights, name: &str) -> Result<usize> {
    match weights.require(name)?.shape.last() {
        Some(&size) if size > 0 => Ok(size),
        _ => Err(invalid(weights.path(), format!("tensor `{name}` is empty"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::Audio;
    use turaco_compute::CpuOptions;

    const TESTDATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/silero");

    fn device() -> Device {
        Device::cpu(CpuOptions {
            threads: 1,
            ..CpuOptions::default()
        })
    }

    fn clip(name: &str) -> Vec<f32> {
        let audio = Audio::open(format!("{TESTDATA}/../audio/{name}.wav")).unwrap();
        audio.into_samples()
    }

    fn goldens() -> Weights {
        let path = format!("{TESTDATA}/vad.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        safetensors::parse(Path::new(&path), &bytes.into()).unwrap()
    }

    /// The largest difference, with its place for the message of a failure.
    fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
        assert_eq!(found.len(), expected.len(), "{what}: number of values");
        let worst = (0..found.len())
            .max_by(|&a, &b| {
                let difference = |i: usize| (found[i] - expected[i]).abs();
                difference(a).total_cmp(&difference(b))
            })
            .unwrap_or(0);
        if let (Some(found), Some(expected)) = (found.get(worst), expected.get(worst)) {
            assert!(
                (found - expected).abs() <= tolerance,
                "{what}[{worst}]: {found}, expected {expected}"
            );
        }
    }

    /// `[channels, times]` as `[times, channels]`.
    fn transposed(tensor: &crate::weights::Tensor) -> Vec<f32> {
        let values = tensor.to_f32();
        let times = tensor.shape.get(1).copied().unwrap_or(1);
        (0..times)
            .flat_map(|time| values.iter().skip(time).step_by(times).copied())
            .collect()
    }

    /// Every stage of three chunks of a clip against the package's own.
    fn assert_stages(signal: &str, clip_name: &str, rate: u32) {
        let vad = SileroVad::new(&device(), rate).unwrap();
        let network = &*vad.network;
        let mut builder = StepBuilder::new(&network.device);
        for stage in network.forward(&mut builder, 1).unwrap() {
            builder.output(stage);
        }
        let mut step = builder.finish().unwrap();
        let mut state = network.device.state_buffer(network.state_len()).unwrap();
        let mut input = vec![0.0; network.input_len()];
        let samples = clip(clip_name);
        let goldens = goldens();
        let mut n_compared = 0;
        for chunk in 0..samples.len().div_ceil(vad.chunk_len()) {
            network.fill_input(&mut input, &samples, chunk * vad.chunk_len());
            step.run(&mut Bindings {
                inputs: &[&input],
                ids: &[],
                slots: &mut [SlotBinding::Buffer(&mut state)],
            })
            .unwrap();
            let prefix = format!("{signal}.{rate}.chunk{chunk}");
            if goldens.find(&format!("{prefix}.prob")).is_none() {
                continue;
            }
            let golden = |name: &str| goldens.require(&format!("{prefix}.{name}")).unwrap();
            let seen = network.context_len() + network.chunk_len();
            assert_close("input", &input[..seen], &golden("input").to_f32(), 0.0);
            let stages = [
                ("stft_mag", 1e-4),
                ("conv1", 1e-4),
                ("conv2", 1e-4),
                ("conv3", 1e-4),
                ("conv4", 1e-4),
                ("h", 1e-4),
                ("prob", 1e-4),
            ];
            for (i, (name, tolerance)) in stages.into_iter().enumerate() {
                let expected = transposed(golden(name));
                let what = format!("{prefix}.{name}");
                assert_close(&what, step.output(i).unwrap(), &expected, tolerance);
            }
            let memory = network.device.read_buffer(&state).unwrap();
            let cell = &memory[memory.len() / 2..];
            assert_close("cell", cell, &golden("c").to_f32(), 1e-4);
            n_compared += 1;
        }
        assert_eq!(n_compared, 3);
    }

    #[test]
    fn stages_equal_the_reference_at_16_khz() {
        assert_stages("jfk", "jfk", 16_000);
    }

    #[test]
    fn stages_equal_the_reference_at_8_khz() {
        assert_stages("jfk-noise20s", "jfk-noise20s-8k", 8_000);
    }

    #[test]
    fn probabilities_equal_the_reference_in_files_and_streams() {
        for (signal, clip_name, rate) in [
            ("jfk.probs_16000", "jfk", 16_000),
            ("jfk-noise20s.probs_8000", "jfk-noise20s-8k", 8_000),
        ] {
            let vad = SileroVad::new(&device(), rate).unwrap();
            let samples = clip(clip_name);
            let expected = goldens().require(signal).unwrap().to_f32();
            let batched = vad.probabilities(&samples).unwrap();
            assert_close("batched", &batched, &expected, 1e-4);

            // Many rows and one row sum in different orders.
            let mut stream = vad.stream().unwrap();
            for pass in 0..2 {
                let streamed: Vec<f32> = samples
                    .chunks(vad.chunk_len())
                    .map(|chunk| stream.push(chunk).unwrap())
                    .collect();
                assert_close(&format!("stream {pass}"), &streamed, &batched, 5e-5);
                stream.reset().unwrap();
            }
        }
    }

    #[test]
    fn broken_sound_does_not_spread() {
        let vad = SileroVad::new(&device(), 16_000).unwrap();
        assert!(vad.probabilities(&[]).unwrap().is_empty());
        assert_eq!(vad.probabilities(&[0.1]).unwrap().len(), 1);
        let mut samples = vec![f32::NAN; 600];
        samples.extend([f32::INFINITY, f32::MIN, f32::MAX]);
        samples.extend(clip("jfk"));
        let probabilities = vad.probabilities(&samples).unwrap();
        assert!(probabilities.iter().all(|p| (0.0..=1.0).contains(p)));
        assert!(probabilities.iter().any(|&p| p > 0.9));
    }

    #[test]
    fn wrong_rates_and_chunks_are_errors() {
        assert!(SileroVad::new(&device(), 44_100).is_err());
        let mut stream = SileroVad::new(&device(), 8_000).unwrap().stream().unwrap();
        assert!(stream.push(&[0.0; 257]).is_err());
        assert!(stream.push(&[]).is_ok());
    }
}
