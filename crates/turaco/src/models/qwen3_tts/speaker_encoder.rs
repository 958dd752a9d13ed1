//! A recording of a voice to one vector: ECAPA-TDNN (arXiv:2005.07143), as the Base checkpoints of Qwen3-TTS have it.
//!
//! - Front end: magnitudes of 1024 samples every 256 at 24 kHz, 128 mel bands, natural logarithm.
//! - A convolution, then blocks: a map of each row, Res2Net (parts of the columns one after the other, each with what the one
//!   before gave), another map, squeeze-excitation, and the input added.
//! - All blocks side by side through a map; attentive statistics over time; a map to the vector, which is not normalised.
//!
//! Convolutions reflect their input at both ends. Behaviour follows `qwen_tts/core/models/modeling_qwen3_tts.py`.

use std::sync::Arc;

use turaco_compute::{
    Activation, Bindings, Device, Epilogue, Ids, Step, StepBuilder, Value, WeightType,
};

use crate::features::SpeakerMel;
use crate::models::settings::Settings;
use crate::nn::{Conv1d, Linear, Loader};
use crate::weights::{Sidecars, Tensor, Weights, invalid};
use crate::{Control, Error, Result};

/// Smallest variance that counts.
const VARIANCE_FLOOR: f32 = 1e-12;

/// Sizes of a speaker encoder; the published files give only the first two, the others are the defaults of its class.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeakerEncoderConfig {
    /// Width of the vector.
    pub dim: usize,
    /// Samples per second.
    pub sample_rate: u32,
    /// Mel bands.
    pub n_mels: usize,
    /// Width of the first convolution, of each block, and of what all blocks become.
    pub channels: Vec<usize>,
    /// Taps of the same.
    pub kernels: Vec<usize>,
    /// Rows between taps of the same.
    pub dilations: Vec<usize>,
    /// Width inside the attention over time.
    pub attention_dim: usize,
    /// Parts of a block's columns.
    pub scale: usize,
    /// Width inside squeeze-excitation.
    pub squeeze_dim: usize,
}

impl SpeakerEncoderConfig {
    /// Reads `speaker_encoder_config` of a checkpoint's `config.json`; `None` if it has none (only Base checkpoints have).
    ///
    /// # Errors
    /// Settings that are no sizes, or contradict each other.
    pub fn read(sidecars: &Sidecars) -> Result<Option<Self>> {
        let Some(json) = Settings::read(sidecars, "config.json")? else {
            return Ok(None);
        };
        if !json.has("speaker_encoder_config") {
            return Ok(None);
        }
        let json = json.at("speaker_encoder_config");
        let sizes = |key: &str, default: &[usize]| match json.has(key) {
            true => json.sizes(key),
            false => Ok(default.to_vec()),
        };
        let config = Self {
            dim: json.size("enc_dim", Some(1024))?,
            sample_rate: json.size("sample_rate", Some(24_000))? as u32,
            n_mels: json.size("mel_dim", Some(128))?,
            channels: sizes("enc_channels", &[512, 512, 512, 512, 1536])?,
            kernels: sizes("enc_kernel_sizes", &[5, 3, 3, 3, 1])?,
            dilations: sizes("enc_dilations", &[1, 2, 3, 4, 1])?,
            attention_dim: json.size("enc_attention_channels", Some(128))?,
            scale: json.size("enc_res2net_scale", Some(8))?,
            squeeze_dim: json.size("enc_se_channels", Some(128))?,
        };
        let n = config.channels.len();
        let alike = config.kernels.len() == n && config.dilations.len() == n && n >= 3;
        let blocks = config.channels.get(1..n.saturating_sub(1)).unwrap_or(&[]);
        // A block is added to its input.
        let one_width = blocks.iter().all(|&width| width == config.channels[0]);
        let divided = blocks
            .iter()
            .all(|width| width.is_multiple_of(config.scale));
        if !alike || !one_width || !divided {
            return Err(invalid(
                json.path(),
                format!(
                    "the speaker encoder has {:?} channels, {:?} taps and {:?} dilations in parts of {}, which do not fit \
                     each other",
                    config.channels, config.kernels, config.dilations, config.scale
                ),
            ));
        }
        let widest = config.channels.iter().chain([&config.dim, &config.n_mels]);
        let far = config.kernels.iter().zip(&config.dilations);
        if widest.max().is_some_and(|&width| width > 1 << 16)
            || config.attention_dim.max(config.squeeze_dim) > 1 << 16
            || far
                .into_iter()
                .any(|(&kernel, &dilation)| kernel > 256 || dilation > 256)
        {
            return Err(invalid(
                json.path(),
                "sizes of the speaker encoder are larger than this program runs",
            ));
        }
        Ok(Some(config))
    }
}

/// The speaker encoder on a device. Immutable; one loaded encoder serves any number of recordings.
#[derive(Debug)]
pub struct SpeakerEncoder {
    config: SpeakerEncoderConfig,
    device: Device,
    mel: SpeakerMel,
    conv_in: ReflectConv,
    blocks: Vec<Block>,
    mfa: Linear,
    asp_tdnn: Linear,
    asp_conv: Linear,
    fc: Linear,
}

/// A convolution that keeps the number of rows and reflects them at both ends.
#[derive(Debug)]
struct ReflectConv {
    conv: Conv1d,
    padding: (usize, usize),
}

#[derive(Debug)]
struct Block {
    tdnn1: Linear,
    /// One for each part of the columns but the first.
    parts: Vec<ReflectConv>,
    tdnn2: Linear,
    squeeze: Linear,
    excite: Linear,
    width: usize,
}

/// Named values of a forward pass, for comparison with the reference.
pub type Stages = Vec<(String, Vec<f32>)>;

/// A convolution of one row is a linear map.
fn linear(loader: &Loader<'_>, name: &str, n_in: usize, n_out: usize) -> Result<Linear> {
    let at = loader.at(name);
    let weight = at.tensor("weight", &[n_out, n_in, 1])?.to_f32();
    let weight = at.stacked(&[Tensor::from_f32(&[n_out, n_in], &weight)])?;
    Ok(Linear::of(weight, at.optional_vector("bias", n_out)?))
}

impl SpeakerEncoder {
    /// Upload the speaker encoder of a checkpoint to `device`, its matrices stored as `weight_type`.
    ///
    /// # Errors
    /// The checkpoint has none; a tensor is missing, has a wrong shape or a value that is no number; or no memory.
    pub fn load(
        weights: &Weights,
        sidecars: &Sidecars,
        device: &Device,
        weight_type: WeightType,
    ) -> Result<Arc<Self>> {
        let config = SpeakerEncoderConfig::read(sidecars)?.ok_or_else(|| {
            invalid(
                &sidecars.path("config.json"),
                "this checkpoint has no speaker encoder; voices are cloned with a Base checkpoint",
            )
        })?;
        let loader = Loader::new(weights, device, weight_type).checking();
        let loader = loader.at("speaker_encoder");
        let width = config.channels[0];
        let last = config.channels.len() - 1;
        let mut blocks = Vec::new();
        for index in 1..last {
            let at = loader.at("blocks").at(index);
            let taps = (config.kernels[index], config.dilations[index]);
            blocks.push(Block::load(&at, &config, taps)?);
        }
        let wide = config.channels[last];
        let joined = blocks.len() * width;
        if config.kernels[last] != 1 {
            return Err(invalid(
                &sidecars.path("config.json"),
                format!(
                    "the last convolution of the speaker encoder has {} taps, expected 1",
                    config.kernels[last]
                ),
            ));
        }
        let taps = (config.kernels[0], config.dilations[0]);
        Ok(Arc::new(Self {
            mel: SpeakerMel::new(config.sample_rate, config.n_mels),
            conv_in: ReflectConv::load(&loader, "blocks.0.conv", (config.n_mels, width), taps)?,
            blocks,
            mfa: linear(&loader, "mfa.conv", joined, wide)?,
            asp_tdnn: linear(&loader, "asp.tdnn.conv", 3 * wide, config.attention_dim)?,
            asp_conv: linear(&loader, "asp.conv", config.attention_dim, wide)?,
            fc: linear(&loader, "fc", 2 * wide, config.dim)?,
            device: device.clone(),
            config,
        }))
    }

    /// Sizes.
    pub fn config(&self) -> &SpeakerEncoderConfig {
        &self.config
    }

    /// The vector of a voice, of a recording of mono samples at the sample rate of the [`config`](Self::config).
    ///
    /// # Errors
    /// Too few samples, cancellation, no memory or a failed device.
    pub fn embed(&self, samples: &[f32], control: &Control) -> Result<Vec<f32>> {
        let (mel, n_frames) = self.mel.compute(samples);
        control.check()?;
        let mut run = self.compile(n_frames, None)?;
        run.step(&mel)?;
        Ok(run.step.output(0)?.to_vec())
    }

    /// [`embed`](Self::embed), and the values after every stage, rows of time: `mel`, `block{i}_out`, `mfa_out`, `asp_out`,
    /// `xvector`.
    ///
    /// # Errors
    /// As there.
    pub fn stages(&self, samples: &[f32]) -> Result<Stages> {
        let (mel, n_frames) = self.mel.compute(samples);
        let mut names = Vec::new();
        let mut run = self.compile(n_frames, Some(&mut names))?;
        run.step(&mel)?;
        let mut stages = vec![("mel".to_owned(), mel)];
        for (index, name) in names.into_iter().enumerate() {
            stages.push((name, run.step.output(index)?.to_vec()));
        }
        Ok(stages)
    }

    /// With `names`, every stage is an output.
    fn compile(&self, n_frames: usize, names: Option<&mut Vec<String>>) -> Result<Run> {
        let convs = self.blocks.iter().flat_map(|block| &block.parts);
        let furthest = convs.chain([&self.conv_in]).map(ReflectConv::reach).max();
        let least = furthest.unwrap_or(0) + 1;
        if n_frames < least {
            return Err(Error::Compute(turaco_compute::Error::Shape {
                what: "a recording of a voice".into(),
                expected: format!("at least {} samples", self.mel.samples_for(least)),
                found: format!("enough for {n_frames} of {least} frames"),
            }));
        }
        let mut step = StepBuilder::new(&self.device).named("speaker_encoder");
        let mel = step.input(n_frames, self.config.n_mels);
        let mut mirrors = Mirrors {
            n_rows: n_frames,
            lists: Vec::new(),
        };
        let mut stages: Vec<(String, Value)> = Vec::new();
        let relu = || Epilogue::default().activation(Activation::Relu);
        let mut x = self.conv_in.forward(&mut step, mel, &mut mirrors)?;
        stages.push(("block0_out".into(), x));
        let mut outs = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            x = step.scope(&format!("speaker_encoder.block.{index}"), |step| {
                block.forward(step, x, &mut mirrors)
            })?;
            stages.push((format!("block{}_out", index + 1), x));
            outs.push(x);
        }
        let joined = step.concat(&outs)?;
        let h = self.mfa.forward_with(&mut step, joined, relu())?;
        stages.push(("mfa_out".into(), h));
        let wide = h.cols();
        let alike = step.statistics(h, None, VARIANCE_FLOOR)?;
        let (mean, deviation) = (
            step.columns(alike, 0, wide)?,
            step.columns(alike, wide, wide)?,
        );
        let context = step.concat(&[h, mean, deviation])?;
        let scores = self.asp_tdnn.forward_with(&mut step, context, relu())?;
        let scores = step.activate(scores, Activation::Tanh);
        let scores = self.asp_conv.forward(&mut step, scores)?;
        let scores = step.transpose(scores, 1)?;
        let weights = step.softmax(scores);
        let weights = step.transpose(weights, 1)?;
        let pooled = step.statistics(h, Some(weights), VARIANCE_FLOOR)?;
        stages.push(("asp_out".into(), pooled));
        let vector = self.fc.forward(&mut step, pooled)?;
        match names {
            Some(names) => {
                stages.push(("xvector".into(), vector));
                for (name, value) in stages {
                    step.output(value);
                    names.push(name);
                }
            }
            None => {
                step.output(vector);
            }
        }
        Ok(Run {
            step: step.finish()?,
            mirrors: mirrors.lists.into_iter().map(|list| list.rows).collect(),
        })
    }
}

/// A compiled step and the rows that its reflections take.
struct Run {
    step: Step,
    mirrors: Vec<Vec<u32>>,
}

impl Run {
    fn step(&mut self, mel: &[f32]) -> Result<()> {
        let ids: Vec<&[u32]> = self.mirrors.iter().map(Vec::as_slice).collect();
        self.step.run(&mut Bindings {
            inputs: &[mel],
            ids: &ids,
            slots: &mut [],
        })?;
        Ok(())
    }
}

/// Lists of rows that continue an input beyond its ends, one for each width.
struct Mirrors {
    n_rows: usize,
    lists: Vec<Mirror>,
}

struct Mirror {
    padding: (usize, usize),
    ids: Ids,
    rows: Vec<u32>,
}

impl Mirrors {
    /// `x` with reflected rows in front and behind.
    fn reflected(
        &mut self,
        step: &mut StepBuilder,
        x: Value,
        padding: (usize, usize),
    ) -> Result<Value> {
        if padding == (0, 0) {
            return Ok(x);
        }
        let known = self.lists.iter().find(|list| list.padding == padding);
        let ids = match known {
            Some(list) => list.ids,
            None => {
                let (before, after) = padding;
                let last = self.n_rows - 1;
                let rows: Vec<u32> = (1..=before)
                    .rev()
                    .chain(0..=last)
                    .chain((last - after..last).rev())
                    .map(|row| row as u32)
                    .collect();
                let ids = step.input_ids(rows.len(), 1);
                self.lists.push(Mirror { padding, ids, rows });
                ids
            }
        };
        Ok(step.gather_rows(x, ids)?)
    }
}

impl ReflectConv {
    fn load(
        loader: &Loader<'_>,
        name: &str,
        widths: (usize, usize),
        (kernel, dilation): (usize, usize),
    ) -> Result<Self> {
        let missing = dilation * (kernel - 1);
        Ok(Self {
            conv: Conv1d::load(loader, name, widths, (kernel, 1, 0))?.dilated(dilation),
            padding: (missing / 2, missing - missing / 2),
        })
    }

    /// Rows beyond the ends that it looks at.
    fn reach(&self) -> usize {
        self.padding.0.max(self.padding.1)
    }

    fn forward(&self, step: &mut StepBuilder, x: Value, mirrors: &mut Mirrors) -> Result<Value> {
        let x = mirrors.reflected(step, x, self.padding)?;
        self.conv.forward(step, x, 1, Activation::Relu)
    }
}

impl Block {
    fn load(
        loader: &Loader<'_>,
        config: &SpeakerEncoderConfig,
        taps: (usize, usize),
    ) -> Result<Self> {
        let width = config.channels[0];
        let part = width / config.scale;
        let convs = loader.at("res2net_block").at("blocks");
        Ok(Self {
            tdnn1: linear(loader, "tdnn1.conv", width, width)?,
            parts: (0..config.scale - 1)
                .map(|index| ReflectConv::load(&convs.at(index), "conv", (part, part), taps))
                .collect::<Result<_>>()?,
            tdnn2: linear(loader, "tdnn2.conv", width, width)?,
            squeeze: linear(loader, "se_block.conv1", width, config.squeeze_dim)?,
            excite: linear(loader, "se_block.conv2", config.squeeze_dim, width)?,
            width,
        })
    }

    fn forward(&self, step: &mut StepBuilder, x: Value, mirrors: &mut Mirrors) -> Result<Value> {
        let relu = || Epilogue::default().activation(Activation::Relu);
        let h = self.tdnn1.forward_with(step, x, relu())?;
        let part = self.width / (self.parts.len() + 1);
        let mut outs = vec![step.columns(h, 0, part)?];
        for (index, conv) in self.parts.iter().enumerate() {
            let mut given = step.columns(h, (index + 1) * part, part)?;
            if index > 0 {
                given = step.add(given, 1.0, outs[index], 1.0)?;
            }
            outs.push(conv.forward(step, given, mirrors)?);
        }
        let h = step.concat(&outs)?;
        let h = self.tdnn2.forward_with(step, h, relu())?;
        let statistics = step.statistics(h, None, VARIANCE_FLOOR)?;
        let mean = step.columns(statistics, 0, self.width)?;
        let gate = self.squeeze.forward_with(step, mean, relu())?;
        let sigmoid = Epilogue::default().activation(Activation::Sigmoid);
        let gate = self.excite.forward_with(step, gate, sigmoid)?;
        let h = step.multiply(h, gate)?;
        Ok(step.add(h, 1.0, x, 1.0)?)
    }
}
