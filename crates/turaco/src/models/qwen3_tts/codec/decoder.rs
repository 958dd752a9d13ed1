//! Codes to samples.

use std::sync::Arc;

use turaco_compute::{
    Activation, Device, Epilogue, Ids, Mask, Slot, Snake, StepBuilder, Value, WeightType,
};

use super::checkpoint::CodecCheckpoint;
use super::config::CodecDecoderConfig;
use super::quantizer::Quantizer;
use crate::nn::{
    AttentionConfig, CacheAt, CachedSelfAttention, CausalConv1d, CausalDepthwiseConv1d,
    CausalOutputConv1d, CausalUpsample1d, LayerNorm, Linear, Loader, RmsNorm, RotaryPairs,
    StateLayout, SwiGluMlp, Taps, load_snake,
};
use crate::{Control, Result};

/// Taps of the convolution in front of the transformer.
const PRE_CONV_KERNEL: usize = 3;

/// Taps of all other convolutions but those of one row.
const KERNEL: usize = 7;

/// Rows between what the convolutions of a block's residual units see.
const DILATIONS: [usize; 3] = [1, 3, 9];

/// Epsilon of the layer norms of ConvNeXt blocks.
const CONV_NEXT_EPS: f32 = 1e-6;

/// How much wider ConvNeXt blocks are inside.
const CONV_NEXT_EXPANSION: usize = 4;

/// Blocks of the last part that always go over all frames of a step: they have most of the weights.
const WHOLE_BLOCKS: usize = 2;

/// Most samples that the last convolution makes side by side.
const MOST_SIDE_BY_SIDE: usize = 16;

/// The decoder of a codec on a device. Immutable: what changes while a stream is decoded is in its
/// [`CodecStream`](super::CodecStream), so one loaded decoder serves any number of streams.
#[derive(Debug)]
pub struct CodecDecoder {
    config: CodecDecoderConfig,
    device: Device,
    weight_type: WeightType,
    sample_rate: u32,
    pub(super) quantizer: Quantizer,
    pre_conv: CausalConv1d,
    transformer: Transformer,
    upsample: Vec<UpsampleStage>,
    conv_in: CausalConv1d,
    blocks: Vec<Block>,
    snake_out: Snake,
    conv_out: CausalOutputConv1d,
    /// What all convolutions keep of the past.
    state: StateLayout,
}

/// A transformer over frames, between two projections.
#[derive(Debug)]
struct Transformer {
    input_proj: Linear,
    layers: Vec<Layer>,
    norm: RmsNorm,
    output_proj: Linear,
}

/// `x += scale * attention(norm(x)); x += scale * mlp(norm(x))`; the layer scales are part of the last linear maps.
#[derive(Debug)]
struct Layer {
    attn_norm: RmsNorm,
    attention: CachedSelfAttention,
    ffn_norm: RmsNorm,
    mlp: SwiGluMlp,
}

/// A transposed convolution and a ConvNeXt block (arXiv:2201.03545).
#[derive(Debug)]
struct UpsampleStage {
    upsample: CausalUpsample1d,
    depthwise: CausalDepthwiseConv1d,
    norm: LayerNorm,
    pwconv1: Linear,
    /// With the block's gamma.
    pwconv2: Linear,
}

/// SnakeBeta, a transposed convolution, residual units.
#[derive(Debug)]
struct Block {
    snake: Snake,
    upsample: CausalUpsample1d,
    units: Vec<ResidualUnit>,
}

/// `x + conv2(snake2(conv1(snake1(x))))`.
#[derive(Debug)]
struct ResidualUnit {
    snake1: Snake,
    conv1: CausalConv1d,
    snake2: Snake,
    conv2: CausalConv1d,
}

/// What a step of the decoder reads.
pub(super) struct DecoderInputs {
    /// Rows of the tables of codebooks.
    pub semantic: Ids,
    pub acoustic: Ids,
    /// Number of every frame.
    pub positions: Ids,
    pub cache: Slot,
    pub state: Slot,
}

/// What a step of the decoder gives.
pub(super) struct DecoderOutputs {
    /// Named values after the stages.
    pub stages: Vec<(String, Value)>,
    /// The samples, `[rows, 1]` each, one slice after the other.
    pub samples: Vec<Value>,
}

impl CodecDecoder {
    /// Upload the decoder of a codec to `device`, its matrices stored as `weight_type`.
    ///
    /// # Errors
    /// A tensor is missing, has a wrong shape or a value that is no number, or the device has no memory.
    pub fn load(
        checkpoint: &CodecCheckpoint,
        device: &Device,
        weight_type: WeightType,
        control: &Control,
    ) -> Result<Arc<Self>> {
        let config = checkpoint.config.decoder.clone();
        let loader = Loader::new(&checkpoint.weights, device, weight_type).checking();
        let loader = loader.at("decoder");
        let mut state = StateLayout::default();
        let latent = config.latent_dim;
        let quantizer = Quantizer::load(&loader.at("quantizer"), &config)?;
        let pre_conv = CausalConv1d::load(
            &loader,
            "pre_conv.conv",
            (config.codebook_dim, latent),
            Taps::new(PRE_CONV_KERNEL),
            &mut state,
        )?;
        control.check()?;
        let transformer = Transformer::load(&loader.at("pre_transformer"), &config)?;
        control.check()?;
        let mut upsample = Vec::new();
        for (index, &ratio) in config.upsampling_ratios.iter().enumerate() {
            let at = loader.at("upsample").at(index);
            upsample.push(UpsampleStage::load(&at, latent, ratio, &mut state)?);
        }
        let parts = loader.at("decoder");
        let mut width = config.decoder_dim;
        let conv_in = CausalConv1d::load(
            &parts,
            "0.conv",
            (latent, width),
            Taps::new(KERNEL),
            &mut state,
        )?;
        let mut blocks = Vec::new();
        for (index, &rate) in config.upsample_rates.iter().enumerate() {
            control.check()?;
            let at = parts.at(index + 1).at("block");
            blocks.push(Block::load(&at, (width, width / 2), rate, &mut state)?);
            width /= 2;
        }
        let last = blocks.len() + 1;
        let snake_out = load_snake(&parts.at(last), width)?;
        let rows = config.samples_per_frame();
        let side_by_side = (1..=MOST_SIDE_BY_SIDE)
            .rev()
            .find(|block| rows.is_multiple_of(*block))
            .unwrap_or(1);
        let conv_out = CausalOutputConv1d::load(
            // A small part of the work, and the end of it.
            &parts.with_weight_type(careful(weight_type)),
            &format!("{}.conv", last + 1),
            width,
            KERNEL,
            side_by_side,
            &mut state,
        )?;
        Ok(Arc::new(Self {
            config,
            device: device.clone(),
            weight_type,
            sample_rate: checkpoint.config.output_sample_rate,
            quantizer,
            pre_conv,
            transformer,
            upsample,
            conv_in,
            blocks,
            snake_out,
            conv_out,
            state,
        }))
    }

    /// Sizes.
    pub fn config(&self) -> &CodecDecoderConfig {
        &self.config
    }

    /// Samples per second of what is decoded.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How the matrices are stored.
    pub fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// Values that the convolutions of a stream keep.
    pub(super) fn state_len(&self) -> usize {
        self.state.len()
    }

    /// How many frames lie between a frame and the first one whose sound is still in what the convolutions behind the
    /// transformer keep of it: what they see is a part of the past, the transformer sees all of it.
    pub(super) fn frames_seen_by_convolutions(&self) -> usize {
        let samples = self.config.samples_per_frame();
        let mut per_frame = 1;
        let mut seen = 0;
        let mut look_back = |rows: usize, per_frame: usize| seen += rows * samples / per_frame;
        for ratio in &self.config.upsampling_ratios {
            per_frame *= ratio;
            look_back(KERNEL - 1, per_frame);
        }
        look_back(KERNEL - 1, per_frame);
        for rate in &self.config.upsample_rates {
            look_back(1, per_frame);
            per_frame *= rate;
            look_back((KERNEL - 1) * DILATIONS.iter().sum::<usize>(), per_frame);
        }
        look_back(KERNEL - 1, per_frame);
        seen.div_ceil(samples)
    }

    /// Frames to what the transformer makes of them, `[frames, latent]`.
    fn hidden_states(
        &self,
        step: &mut StepBuilder,
        given: &DecoderInputs,
        named: &mut impl FnMut(&str, Value) -> Value,
    ) -> Result<Value> {
        let x = step.scope("codec.quantizer", |step| {
            self.quantizer.forward(step, given.semantic, given.acoustic)
        })?;
        named("quantized", x);
        let x = step.scope("codec.pre_conv", |step| {
            self.pre_conv.forward(step, x, None, given.state)
        })?;
        named("pre_conv_out", x);
        let x = step.scope("codec.transformer", |step| {
            self.transformer.forward(step, x, given)
        })?;
        Ok(named("pre_transformer_out", x))
    }

    /// What frames leave behind in the window of the transformer, without their sound.
    pub(super) fn forward_silently(
        &self,
        step: &mut StepBuilder,
        given: &DecoderInputs,
    ) -> Result<Value> {
        self.hidden_states(step, given, &mut |_, value| value)
    }

    /// Frames to samples. The last blocks go over `slice` frames at a time: they have few weights and many rows, which are
    /// still in the processor's caches then when the next layer reads them.
    pub(super) fn forward(
        &self,
        step: &mut StepBuilder,
        given: &DecoderInputs,
        slice: usize,
    ) -> Result<DecoderOutputs> {
        let state = given.state;
        let mut stages = Vec::new();
        let mut named = |name: &str, value: Value| {
            stages.push((name.to_owned(), value));
            value
        };
        let mut x = self.hidden_states(step, given, &mut named)?;
        for (index, stage) in self.upsample.iter().enumerate() {
            x = step.scope(&format!("codec.upsample.{index}"), |step| {
                stage.forward(step, x, state)
            })?;
            named(&format!("upsample{index}_out"), x);
        }
        x = step.scope("codec.conv_in", |step| {
            self.conv_in.forward(step, x, None, state)
        })?;
        named("decoder0_out", x);
        let (first, last) = self.blocks.split_at(self.blocks.len().min(WHOLE_BLOCKS));
        for (index, block) in first.iter().enumerate() {
            x = step.scope(&format!("codec.block.{index}"), |step| {
                block.forward(step, x, state)
            })?;
            named(&format!("decoder{}_out", index + 1), x);
        }
        let mut samples = Vec::new();
        let frames = given.positions.rows();
        let per_frame = x.rows() / frames;
        for begin in (0..frames).step_by(slice) {
            let count = slice.min(frames - begin);
            let mut part = step.rows(x, begin * per_frame, count * per_frame)?;
            for (index, block) in last.iter().enumerate() {
                let index = first.len() + index;
                part = step.scope(&format!("codec.block.{index}"), |step| {
                    block.forward(step, part, state)
                })?;
                named(&format!("decoder{}_out", index + 1), part);
            }
            let wav = step.scope("codec.conv_out", |step| {
                self.conv_out
                    .forward(step, part, Some(&self.snake_out), state)
            })?;
            samples.push(named("wav", wav));
        }
        Ok(DecoderOutputs { stages, samples })
    }
}

/// How a small layer is stored beside large ones of `weight_type`.
fn careful(weight_type: WeightType) -> WeightType {
    match weight_type {
        WeightType::Int8 | WeightType::Q8 | WeightType::Q4 => WeightType::Bf16,
        other => other,
    }
}

impl Transformer {
    fn load(loader: &Loader<'_>, config: &CodecDecoderConfig) -> Result<Self> {
        let (latent, hidden) = (config.latent_dim, config.hidden_dim);
        let layers = loader.at("layers");
        Ok(Self {
            input_proj: Linear::load(loader, "input_proj", latent, hidden)?,
            layers: (0..config.n_layers)
                .map(|index| Layer::load(&layers.at(index), config))
                .collect::<Result<_>>()?,
            norm: RmsNorm::load(loader, "norm", hidden, config.norm_eps)?,
            output_proj: Linear::load(loader, "output_proj", hidden, latent)?,
        })
    }

    fn forward(&self, step: &mut StepBuilder, x: Value, given: &DecoderInputs) -> Result<Value> {
        let mut x = self.input_proj.forward(step, x)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let at = CacheAt {
                positions: given.positions,
                slot: given.cache,
                n_sequences: 1,
                layer: index,
            };
            x = layer.forward(step, x, at)?;
        }
        let x = self.norm.forward(step, x)?;
        self.output_proj.forward(step, x)
    }
}

impl Layer {
    fn load(loader: &Loader<'_>, config: &CodecDecoderConfig) -> Result<Self> {
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
            mask: Mask::Window(config.window),
            pairs: RotaryPairs::Halves,
            qk_norm_eps: None,
        };
        let (attn_scale, mlp_scale) = (scale("self_attn_layer_scale")?, scale("mlp_layer_scale")?);
        Ok(Self {
            attn_norm: RmsNorm::load(loader, "input_layernorm", d, eps)?,
            attention: CachedSelfAttention::load_scaled(
                &loader.at("self_attn"),
                attention,
                Some(&attn_scale),
            )?,
            ffn_norm: RmsNorm::load(loader, "post_attention_layernorm", d, eps)?,
            mlp: SwiGluMlp::load_scaled(&loader.at("mlp"), d, config.ffn_dim, Some(&mlp_scale))?,
        })
    }

    fn forward(&self, step: &mut StepBuilder, x: Value, at: CacheAt) -> Result<Value> {
        let h = self.attn_norm.forward(step, x)?;
        let x = self.attention.forward(step, h, at, x)?;
        let h = self.ffn_norm.forward(step, x)?;
        self.mlp.forward(step, h, x)
    }
}

impl UpsampleStage {
    fn load(
        loader: &Loader<'_>,
        width: usize,
        ratio: usize,
        state: &mut StateLayout,
    ) -> Result<Self> {
        let block = loader.at("1");
        let wide = CONV_NEXT_EXPANSION * width;
        let gamma = block.tensor("gamma", &[width])?.to_f32();
        Ok(Self {
            upsample: CausalUpsample1d::load(
                loader,
                "0.conv",
                (width, width),
                (ratio, ratio),
                state,
            )?,
            depthwise: CausalDepthwiseConv1d::load(&block, "dwconv.conv", width, KERNEL, state)?,
            norm: LayerNorm::load(&block, "norm", width, CONV_NEXT_EPS)?,
            pwconv1: Linear::load(&block, "pwconv1", width, wide)?,
            pwconv2: Linear::load_scaled(&block, "pwconv2", wide, width, &gamma)?,
        })
    }

    fn forward(&self, step: &mut StepBuilder, x: Value, state: Slot) -> Result<Value> {
        let x = self.upsample.forward(step, x, None, state)?;
        let h = self.depthwise.forward(step, x, state)?;
        let h = self.norm.forward(step, h)?;
        let gelu = Epilogue::default().activation(Activation::Gelu);
        let h = self.pwconv1.forward_with(step, h, gelu)?;
        self.pwconv2
            .forward_with(step, h, Epilogue::default().residual(x))
    }
}

impl Block {
    fn load(
        loader: &Loader<'_>,
        (c_in, c_out): (usize, usize),
        rate: usize,
        state: &mut StateLayout,
    ) -> Result<Self> {
        let upsample =
            CausalUpsample1d::load(loader, "1.conv", (c_in, c_out), (2 * rate, rate), state)?;
        let mut units = Vec::new();
        for (index, dilation) in DILATIONS.into_iter().enumerate() {
            let at = loader.at(index + 2);
            units.push(ResidualUnit::load(&at, c_out, dilation, state)?);
        }
        Ok(Self {
            snake: load_snake(&loader.at("0"), c_in)?,
            upsample,
            units,
        })
    }

    fn forward(&self, step: &mut StepBuilder, x: Value, state: Slot) -> Result<Value> {
        let mut x = self.upsample.forward(step, x, Some(&self.snake), state)?;
        for unit in &self.units {
            x = unit.forward(step, x, state)?;
        }
        Ok(x)
    }
}

impl ResidualUnit {
    fn load(
        loader: &Loader<'_>,
        width: usize,
        dilation: usize,
        state: &mut StateLayout,
    ) -> Result<Self> {
        let square = (width, width);
        Ok(Self {
            snake1: load_snake(&loader.at("act1"), width)?,
            conv1: CausalConv1d::load(
                loader,
                "conv1.conv",
                square,
                Taps::new(KERNEL).dilated(dilation),
                state,
            )?,
            snake2: load_snake(&loader.at("act2"), width)?,
            conv2: CausalConv1d::load(loader, "conv2.conv", square, Taps::new(1), state)?,
        })
    }

    fn forward(&self, step: &mut StepBuilder, x: Value, state: Slot) -> Result<Value> {
        let snakes = (&self.snake1, &self.snake2);
        let h = self.conv1.forward_between(step, x, snakes, state)?;
        self.conv2
            .forward_with(step, h, Epilogue::default().residual(x))
    }
}
