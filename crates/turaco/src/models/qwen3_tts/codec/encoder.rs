//! Samples to codes: Mimi's encoder (arXiv:2410.00037), as `transformers/models/mimi` 4.57 runs it.
//!
//! - SEANet: a convolution, stages of residual units and strided convolutions (ELU between), a convolution.
//! - A transformer: pre-norm layers (LayerNorm, rotary self-attention, GELU), layer scales, no norm at the end. Every row
//!   sees all rows before it, as upstream does but in its flash-attention path.
//! - A strided convolution to the frame rate, whose edges repeat the outermost rows.
//! - Residual quantisation by nearest neighbours, semantic and acoustic codebooks each by themselves.
//!
//! All convolutions are causal, so that long recordings go through in pieces.

use std::sync::Arc;

use turaco_compute::{
    Activation, Bindings, CacheShape, ChooseTokens, ConvShape, DType, Device, Epilogue, Ids, Mask,
    Matrix, SlotBinding, Step, StepBuilder, Value, Vector, WeightType,
};

use super::checkpoint::CodecCheckpoint;
use super::config::{CodecEncoderConfig, DOWNSAMPLE};
use super::quantizer::entries;
use super::runner::Stages;
use crate::nn::{
    AttentionConfig, CacheAt, CachedSelfAttention, CausalConv1d, LayerNorm, Linear, Loader,
    RotaryPairs, StateLayout, Taps,
};
use crate::weights::Tensor;
use crate::{Control, Error, Result};

/// Frames that go through the convolutions at once.
const PIECE_FRAMES: usize = 8;

/// Taps of the last strided convolution.
const DOWNSAMPLE_KERNEL: usize = 4;

/// The encoder of a codec on a device. Immutable; one loaded encoder serves any number of recordings.
#[derive(Debug)]
pub struct CodecEncoder {
    config: CodecEncoderConfig,
    device: Device,
    sample_rate: u32,
    conv_in: CausalConv1d,
    stages: Vec<Stage>,
    conv_out: CausalConv1d,
    layers: Vec<Layer>,
    downsample: Arc<Matrix>,
    semantic: Quantizer,
    acoustic: Quantizer,
    state: StateLayout,
}

/// Residual units, then a strided convolution.
#[derive(Debug)]
struct Stage {
    units: Vec<Unit>,
    down: CausalConv1d,
}

/// `x + wide(elu(narrow(elu(x))))`.
#[derive(Debug)]
struct Unit {
    narrow: CausalConv1d,
    wide: CausalConv1d,
}

/// `x += scale * attention(norm(x)); x += scale * fc2(gelu(fc1(norm(x))))`.
#[derive(Debug)]
struct Layer {
    attn_norm: LayerNorm,
    attention: CachedSelfAttention,
    ffn_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

/// Codebooks that each take what the ones before left over.
#[derive(Debug)]
struct Quantizer {
    input_proj: Linear,
    codebooks: Vec<Codebook>,
}

/// Entries, and half of their squared lengths, negative: the nearest entry has the largest `x e + offset`.
#[derive(Debug)]
struct Codebook {
    entries: Arc<Matrix>,
    offsets: Arc<Vector>,
}

impl CodecEncoder {
    /// Upload the encoder of a codec to `device`, its matrices (but the codebooks) stored as `weight_type`.
    ///
    /// # Errors
    /// A tensor is missing, has a wrong shape or a value that is no number, or the device has no memory.
    pub fn load(
        checkpoint: &CodecCheckpoint,
        device: &Device,
        weight_type: WeightType,
        control: &Control,
    ) -> Result<Arc<Self>> {
        let config = checkpoint.config.encoder.clone();
        let loader = Loader::new(&checkpoint.weights, device, weight_type).checking();
        let loader = loader.at("encoder");
        let mut state = StateLayout::default();
        let convs = loader.at("encoder").at("layers");
        let mut width = config.n_filters;
        let conv_in = CausalConv1d::load(
            &convs,
            "0.conv",
            (1, width),
            Taps::new(config.kernel),
            &mut state,
        )?;
        let mut stages = Vec::new();
        let mut index = 1;
        for &ratio in config.upsampling_ratios.iter().rev() {
            control.check()?;
            let narrow = width / config.compress;
            let mut units = Vec::new();
            let mut dilation = 1;
            for _ in 0..config.n_residual {
                let block = convs.at(index).at("block");
                let taps = Taps::new(config.residual_kernel).dilated(dilation);
                units.push(Unit {
                    narrow: CausalConv1d::load(
                        &block,
                        "1.conv",
                        (width, narrow),
                        taps,
                        &mut state,
                    )?,
                    wide: CausalConv1d::load(
                        &block,
                        "3.conv",
                        (narrow, width),
                        Taps::new(1),
                        &mut state,
                    )?,
                });
                index += 1;
                dilation *= config.dilation_growth;
            }
            // An activation has a number of its own.
            let down = CausalConv1d::load(
                &convs,
                &format!("{}.conv", index + 1),
                (width, 2 * width),
                Taps::new(2 * ratio).strided(ratio),
                &mut state,
            )?;
            stages.push(Stage { units, down });
            width *= 2;
            index += 2;
        }
        let d = config.hidden_dim;
        let conv_out = CausalConv1d::load(
            &convs,
            &format!("{}.conv", index + 1),
            (width, d),
            Taps::new(config.last_kernel),
            &mut state,
        )?;
        let transformer = loader.at("encoder_transformer").at("layers");
        let layers = (0..config.n_layers)
            .map(|layer| {
                control.check()?;
                Layer::load(&transformer.at(layer), &config)
            })
            .collect::<Result<_>>()?;
        let quantizer = loader.at("quantizer");
        let load_quantizer = |name: &str, count: usize| {
            let at = quantizer.at(format!("{name}_residual_vector_quantizer"));
            Quantizer::load(&at, &config, count)
        };
        Ok(Arc::new(Self {
            conv_in,
            stages,
            conv_out,
            layers,
            downsample: downsample_weight(&loader, d)?,
            semantic: load_quantizer("semantic", config.n_semantic)?,
            acoustic: load_quantizer("acoustic", config.n_groups - config.n_semantic)?,
            sample_rate: checkpoint.config.input_sample_rate,
            device: device.clone(),
            config,
            state,
        }))
    }

    /// Sizes.
    pub fn config(&self) -> &CodecEncoderConfig {
        &self.config
    }

    /// Samples per second of what is encoded.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// Codes `[frames, n_groups]` of a recording of mono samples at [`sample_rate`](Self::sample_rate): one frame for each
    /// [`samples_per_frame`](CodecEncoderConfig::samples_per_frame) that were begun.
    ///
    /// # Errors
    /// No samples, cancellation, no memory or a failed device.
    pub fn encode(&self, samples: &[f32], control: &Control) -> Result<Vec<u32>> {
        self.run(samples, control, None)
    }

    /// [`encode`](Self::encode), and the values after every stage, rows of time: `seanet_out`, `transformer_out`,
    /// `downsample_out`.
    ///
    /// # Errors
    /// As there.
    pub fn stages(&self, samples: &[f32]) -> Result<(Vec<u32>, Stages)> {
        let mut stages = Stages::new();
        let codes = self.run(samples, &Control::new(), Some(&mut stages))?;
        Ok((codes, stages))
    }

    fn run(
        &self,
        samples: &[f32],
        control: &Control,
        stages: Option<&mut Stages>,
    ) -> Result<Vec<u32>> {
        if samples.is_empty() {
            return Err(Error::Compute(turaco_compute::Error::Shape {
                what: "a recording to encode".into(),
                expected: "at least one sample".into(),
                found: "none".into(),
            }));
        }
        let config = &self.config;
        let n_rows = samples.len().div_ceil(config.samples_per_row());
        let mut cache = self.device.kv_cache(CacheShape {
            n_layers: config.n_layers,
            capacity: n_rows,
            kv_dim: config.n_kv_heads * config.head_dim,
            head_dim: config.head_dim,
            dtype: DType::F32,
        })?;
        let mut state = self.device.state_buffer(self.state.len())?;
        let (mut convolved, mut rows) = (Vec::new(), Vec::new());
        let mut compiled: Option<(usize, Step)> = None;
        for piece in samples.chunks(PIECE_FRAMES * config.samples_per_frame()) {
            control.check()?;
            let step = match &mut compiled {
                Some((len, step)) if *len == piece.len() => step,
                _ => {
                    let step = self.compile_rows(piece.len())?;
                    &mut compiled.insert((piece.len(), step)).1
                }
            };
            let first = cache.len() as u32;
            let count = piece.len().div_ceil(config.samples_per_row()) as u32;
            let positions: Vec<u32> = (first..first + count).collect();
            let mut caches = [&mut cache];
            step.run(&mut Bindings {
                inputs: &[piece],
                ids: &[&positions],
                slots: &mut [
                    SlotBinding::Write(&mut caches),
                    SlotBinding::Buffer(&mut state),
                ],
            })?;
            rows.extend_from_slice(step.output(0)?);
            if stages.is_some() {
                convolved.extend_from_slice(step.output(1)?);
            }
        }
        self.quantize(convolved, rows, stages)
    }

    /// Samples to rows of the transformer, the convolutions' result on demand.
    fn compile_rows(&self, n_samples: usize) -> Result<Step> {
        let mut step = StepBuilder::new(&self.device).named("codec.encode");
        let samples = step.input(n_samples, 1);
        let n_rows = n_samples.div_ceil(self.config.samples_per_row());
        let positions = step.input_ids(n_rows, 1);
        let slot = step.cache_slot();
        let state = step.buffer_slot();
        let mut x = self.conv_in.forward(&mut step, samples, None, state)?;
        for stage in &self.stages {
            for unit in &stage.units {
                let h = step.activate(x, Activation::Elu);
                let elu = Activation::Elu;
                let h = unit.narrow.forward_activated(&mut step, h, elu, state)?;
                let epilogue = Epilogue::default().residual(x);
                x = unit.wide.forward_with(&mut step, h, epilogue)?;
            }
            let h = step.activate(x, Activation::Elu);
            x = stage.down.forward(&mut step, h, None, state)?;
        }
        let h = step.activate(x, Activation::Elu);
        let convolved = self.conv_out.forward(&mut step, h, None, state)?;
        let mut x = convolved;
        for (index, layer) in self.layers.iter().enumerate() {
            let at = CacheAt {
                positions,
                slot,
                n_sequences: 1,
                layer: index,
            };
            x = layer.forward(&mut step, x, at)?;
        }
        step.output(x);
        step.output_on_demand(convolved);
        Ok(step.finish()?)
    }

    /// Rows of the transformer to codes.
    fn quantize(
        &self,
        convolved: Vec<f32>,
        rows: Vec<f32>,
        stages: Option<&mut Stages>,
    ) -> Result<Vec<u32>> {
        let config = &self.config;
        let d = config.hidden_dim;
        let n_rows = rows.len() / d;
        let frames = n_rows.div_ceil(DOWNSAMPLE);
        // The outermost rows once more for every one that is missing.
        let before = DOWNSAMPLE_KERNEL - DOWNSAMPLE;
        let after = frames * DOWNSAMPLE - n_rows;
        let mut padded = rows[..d].repeat(before);
        padded.extend_from_slice(&rows);
        padded.extend(rows[rows.len() - d..].repeat(after));

        let mut step = StepBuilder::new(&self.device).named("codec.quantize");
        let x = step.input(padded.len() / d, d);
        let words = config.codebook_size.div_ceil(32);
        let given = ChooseInputs {
            allowed: step.input_ids(frames, words),
            controls: step.input(frames, 3),
            seeds: step.input_ids(frames, 2),
        };
        let shape = ConvShape {
            kernel: DOWNSAMPLE_KERNEL,
            stride: DOWNSAMPLE,
            ..ConvShape::default()
        };
        let x = step.conv1d(x, &self.downsample, None, Activation::None, shape)?;
        step.output_on_demand(x);
        for quantizer in [&self.semantic, &self.acoustic] {
            quantizer.forward(&mut step, x, &given)?;
        }
        let mut step = step.finish()?;
        // Every entry may be chosen, the likeliest one is.
        let mut row = vec![u32::MAX; words];
        if let (Some(last), over @ 1..) = (row.last_mut(), config.codebook_size % 32) {
            *last = (1 << over) - 1;
        }
        step.run(&mut Bindings {
            inputs: &[&padded, &[0.0, 1.0, 0.0].repeat(frames)],
            ids: &[&row.repeat(frames), &vec![0; 2 * frames]],
            slots: &mut [],
        })?;
        let mut codes = vec![0; frames * config.n_groups];
        for group in 0..config.n_groups {
            for (frame, &code) in step.output_ids(group)?.iter().enumerate() {
                codes[frame * config.n_groups + group] = code;
            }
        }
        if let Some(stages) = stages {
            stages.push(("seanet_out".into(), convolved));
            stages.push(("transformer_out".into(), rows));
            stages.push(("downsample_out".into(), step.output(0)?.to_vec()));
        }
        Ok(codes)
    }
}

/// `[c_out, kernel * c_in]`.
fn downsample_weight(loader: &Loader<'_>, d: usize) -> Result<Arc<Matrix>> {
    let shape = [d, d, DOWNSAMPLE_KERNEL];
    let stored = loader.tensor("downsample.conv.weight", &shape)?.to_f32();
    let taps = crate::nn::taps_outermost(&stored, d, DOWNSAMPLE_KERNEL);
    loader.stacked(&[Tensor::from_f32(&[d, DOWNSAMPLE_KERNEL * d], &taps)])
}

/// What every choice of an entry is told.
struct ChooseInputs {
    allowed: Ids,
    controls: Value,
    seeds: Ids,
}

impl Layer {
    fn load(loader: &Loader<'_>, config: &CodecEncoderConfig) -> Result<Self> {
        let (d, eps) = (config.hidden_dim, config.norm_eps);
        let scale = |name: &str| -> Result<Vec<f32>> {
            Ok(loader.at(name).tensor("scale", &[d])?.to_f32())
        };
        let attention = AttentionConfig {
            dim: d,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            rope_theta: config.rope_theta,
            mask: Mask::Causal,
            pairs: RotaryPairs::Halves,
            qk_norm_eps: None,
        };
        let (attn_scale, mlp_scale) = (scale("self_attn_layer_scale")?, scale("mlp_layer_scale")?);
        let mlp = loader.at("mlp");
        let has_bias = mlp.has("fc1.bias");
        Ok(Self {
            attn_norm: LayerNorm::load(loader, "input_layernorm", d, eps)?,
            attention: CachedSelfAttention::load_scaled(
                &loader.at("self_attn"),
                attention,
                Some(&attn_scale),
            )?,
            ffn_norm: LayerNorm::load(loader, "post_attention_layernorm", d, eps)?,
            fc1: Linear::load_stacked(&mlp, &[("fc1", has_bias)], d, config.ffn_dim)?,
            fc2: Linear::load_scaled(&mlp, "fc2", config.ffn_dim, d, &mlp_scale)?,
        })
    }

    fn forward(&self, step: &mut StepBuilder, x: Value, at: CacheAt) -> Result<Value> {
        let h = self.attn_norm.forward(step, x)?;
        let x = self.attention.forward(step, h, at, x)?;
        let h = self.ffn_norm.forward(step, x)?;
        let gelu = Epilogue::default().activation(Activation::Gelu);
        let h = self.fc1.forward_with(step, h, gelu)?;
        self.fc2
            .forward_with(step, h, Epilogue::default().residual(x))
    }
}

impl Quantizer {
    fn load(loader: &Loader<'_>, config: &CodecEncoderConfig, count: usize) -> Result<Self> {
        let (size, dim, d) = (config.codebook_size, config.codebook_dim, config.hidden_dim);
        // Which entry is nearest can be a close call.
        let exact = loader.with_weight_type(WeightType::F32);
        let proj = exact.tensor("input_proj.weight", &[dim, d, 1])?.to_f32();
        let proj = exact.stacked(&[Tensor::from_f32(&[dim, d], &proj)])?;
        let codebook = |index: usize| {
            let at = exact.at("layers").at(index).at("codebook");
            let values = entries(&at, "embed_sum", size, dim)?;
            let offsets: Vec<f32> = values
                .chunks_exact(dim)
                .map(|entry| {
                    let square: f64 = entry.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                    (-0.5 * square) as f32
                })
                .collect();
            Ok(Codebook {
                entries: exact.stacked(&[Tensor::from_f32(&[size, dim], &values)])?,
                offsets: exact.device().vector(&offsets)?,
            })
        };
        Ok(Self {
            input_proj: Linear::of(proj, None),
            codebooks: (0..count).map(codebook).collect::<Result<_>>()?,
        })
    }

    /// The codes of every codebook become outputs.
    fn forward(&self, step: &mut StepBuilder, x: Value, given: &ChooseInputs) -> Result<()> {
        let mut rest = self.input_proj.forward(step, x)?;
        for codebook in &self.codebooks {
            let epilogue = Epilogue::bias(&codebook.offsets);
            let closeness = step.linear(rest, &codebook.entries, epilogue)?;
            let choose = ChooseTokens {
                allowed: given.allowed,
                seen: None,
                controls: given.controls,
                seeds: given.seeds,
                prefer_from: codebook.entries.rows() as u32,
                k: 1,
            };
            let (codes, _) = step.choose_tokens(closeness, choose)?;
            step.output_ids(codes);
            let chosen = step.embedding(&codebook.entries, codes, None)?;
            rest = step.add(rest, 1.0, chosen, -1.0)?;
        }
        Ok(())
    }
}
