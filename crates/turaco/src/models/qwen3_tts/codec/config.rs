//! Sizes of a codec, from its `config.json`.

use std::path::Path;

use crate::Result;
use crate::models::settings::Settings;
use crate::weights::{Sidecars, invalid};

/// Everything about a codec that is not a weight.
#[derive(Debug, Clone, PartialEq)]
pub struct CodecConfig {
    /// Samples per second of what is encoded.
    pub input_sample_rate: u32,
    /// Samples per second of what is decoded.
    pub output_sample_rate: u32,
    /// The way from codes to samples.
    pub decoder: CodecDecoderConfig,
    /// The way from samples to codes.
    pub encoder: CodecEncoderConfig,
}

/// Sizes of the way from samples to codes (Mimi, arXiv:2410.00037).
#[derive(Debug, Clone, PartialEq)]
pub struct CodecEncoderConfig {
    /// Codes in a frame that are kept.
    pub n_groups: usize,
    /// Codebooks of the semantic quantizer; the others belong to the acoustic one.
    pub n_semantic: usize,
    /// Entries in a codebook.
    pub codebook_size: usize,
    /// Width of an entry.
    pub codebook_dim: usize,
    /// Width of the first convolution; every stage doubles it.
    pub n_filters: usize,
    /// How many rows become one in each stage, the last stage first.
    pub upsampling_ratios: Vec<usize>,
    /// Taps of the first convolution.
    pub kernel: usize,
    /// Taps of the last convolution.
    pub last_kernel: usize,
    /// Taps of the residual units.
    pub residual_kernel: usize,
    /// Residual units of a stage.
    pub n_residual: usize,
    /// Factor of the dilation from one residual unit to the next.
    pub dilation_growth: usize,
    /// How much narrower residual units are inside.
    pub compress: usize,
    /// Width of the transformer.
    pub hidden_dim: usize,
    /// Width inside its feed-forward networks.
    pub ffn_dim: usize,
    /// Its layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Epsilon of the layer norms.
    pub norm_eps: f32,
}

/// Sizes of the way from codes to samples.
#[derive(Debug, Clone, PartialEq)]
pub struct CodecDecoderConfig {
    /// Codes in a frame.
    pub n_groups: usize,
    /// Of these, how many have the first output projection (the others have the second).
    pub n_semantic: usize,
    /// Entries in a codebook.
    pub codebook_size: usize,
    /// Width of the sum of all entries, after the output projections.
    pub codebook_dim: usize,
    /// Width between the first convolution and the last upsampling.
    pub latent_dim: usize,
    /// Width of the transformer.
    pub hidden_dim: usize,
    /// Width inside its feed-forward networks.
    pub ffn_dim: usize,
    /// Its layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Frames that a query sees, its own included.
    pub window: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
    /// Rows that each frame becomes in the ConvNeXt stages, stage by stage.
    pub upsampling_ratios: Vec<usize>,
    /// Width of the first convolution of the last part; every block after it halves it.
    pub decoder_dim: usize,
    /// Rows that each row becomes in the blocks of the last part.
    pub upsample_rates: Vec<usize>,
}

impl CodecConfig {
    /// Reads `config.json`; `None` if there is none or it is about another model.
    ///
    /// # Errors
    /// Settings that are missing, no sizes, or contradict each other.
    pub fn read(sidecars: &Sidecars) -> Result<Option<Self>> {
        let Some(json) = Settings::read(sidecars, "config.json")? else {
            return Ok(None);
        };
        if json.text("model_type") != Some("qwen3_tts_tokenizer_12hz") {
            return Ok(None);
        }
        let decoder = CodecDecoderConfig::read(&json.at("decoder_config"))?;
        let rate = |key: &str| json.sample_rate(key, Some(24_000));
        let config = Self {
            input_sample_rate: rate("input_sample_rate")?,
            output_sample_rate: rate("output_sample_rate")?,
            decoder,
            encoder: CodecEncoderConfig::read(
                &json.at("encoder_config"),
                json.size("encoder_valid_num_quantizers", Some(16))?,
            )?,
        };
        let stated = json.size(
            "decode_upsample_rate",
            Some(config.decoder.samples_per_frame()),
        )?;
        if stated != config.decoder.samples_per_frame() {
            return Err(invalid(
                json.path(),
                format!(
                    "key `decode_upsample_rate` is {stated}, but the upsampling ratios multiply to {}",
                    config.decoder.samples_per_frame()
                ),
            ));
        }
        let stated = json.size(
            "encode_downsample_rate",
            Some(config.encoder.samples_per_frame()),
        )?;
        if stated != config.encoder.samples_per_frame() {
            return Err(invalid(
                json.path(),
                format!(
                    "key `encode_downsample_rate` is {stated}, but the ratios of the encoder multiply to {}",
                    config.encoder.samples_per_frame()
                ),
            ));
        }
        config.decoder.validate(json.path())?;
        config.encoder.validate(json.path())?;
        Ok(Some(config))
    }
}

impl CodecDecoderConfig {
    fn read(json: &Settings) -> Result<Self> {
        let n_heads = json.size("num_attention_heads", None)?;
        Ok(Self {
            n_groups: json.size("num_quantizers", None)?,
            n_semantic: json.size("num_semantic_quantizers", Some(1))?,
            codebook_size: json.size("codebook_size", None)?,
            codebook_dim: json.size("codebook_dim", None)?,
            latent_dim: json.size("latent_dim", None)?,
            hidden_dim: json.size("hidden_size", None)?,
            ffn_dim: json.size("intermediate_size", None)?,
            n_layers: json.size("num_hidden_layers", None)?,
            n_heads,
            n_kv_heads: json.size("num_key_value_heads", Some(n_heads))?,
            head_dim: json.size("head_dim", None)?,
            window: json.size("sliding_window", None)?,
            rope_theta: json.number("rope_theta", Some(10_000.0))? as f32,
            norm_eps: json.number("rms_norm_eps", Some(1e-5))? as f32,
            upsampling_ratios: json.sizes("upsampling_ratios")?,
            decoder_dim: json.size("decoder_dim", None)?,
            upsample_rates: json.sizes("upsample_rates")?,
        })
    }

    /// Rows of the ConvNeXt stages' result for each frame.
    pub fn rows_per_frame(&self) -> usize {
        self.upsampling_ratios.iter().product()
    }

    /// Samples that a frame becomes.
    pub fn samples_per_frame(&self) -> usize {
        // The lists have few small numbers, see `validate`; until then a product may be anything but must not overflow.
        let ratios = self.upsampling_ratios.iter().chain(&self.upsample_rates);
        ratios.fold(1usize, |product, &ratio| product.saturating_mul(ratio))
    }

    fn validate(&self, path: &Path) -> Result<()> {
        // Far above the published model, and products of a few of them still fit into 64 bits.
        for (what, size, most) in [
            ("codes in a frame", self.n_groups, 1024),
            ("entries in a codebook", self.codebook_size, 1 << 20),
            ("columns", self.largest_width(), 1 << 16),
            ("layers", self.n_layers, 1024),
            ("heads", self.n_heads, 1024),
            ("columns in a head", self.head_dim, 1 << 12),
            ("frames in the attention window", self.window, 1 << 20),
            ("samples in a frame", self.samples_per_frame(), 1 << 20),
            ("upsampling blocks", self.upsample_rates.len(), 16),
        ] {
            if size > most {
                return Err(invalid(
                    path,
                    format!("{size} {what} are more than this program runs ({most})"),
                ));
            }
        }
        if self.n_semantic >= self.n_groups {
            return Err(invalid(
                path,
                format!(
                    "{} semantic codes leave nothing of the {} codes in a frame",
                    self.n_semantic, self.n_groups
                ),
            ));
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) || !self.head_dim.is_multiple_of(2) {
            return Err(invalid(
                path,
                format!(
                    "the decoder has {} query heads for {} key heads of width {}",
                    self.n_heads, self.n_kv_heads, self.head_dim
                ),
            ));
        }
        let halvings = 1usize << self.upsample_rates.len();
        if !self.decoder_dim.is_multiple_of(halvings) {
            return Err(invalid(
                path,
                format!(
                    "key `decoder_config.decoder_dim` is {}, which {} blocks cannot halve one after the other",
                    self.decoder_dim,
                    self.upsample_rates.len()
                ),
            ));
        }
        Ok(())
    }

    fn largest_width(&self) -> usize {
        [
            self.codebook_dim,
            self.latent_dim,
            self.hidden_dim,
            self.ffn_dim,
            self.decoder_dim,
        ]
        .into_iter()
        .max()
        .unwrap_or(0)
    }
}

/// Rows of the encoder's transformer that become one frame.
pub(super) const DOWNSAMPLE: usize = 2;

impl CodecEncoderConfig {
    fn read(json: &Settings, n_groups: usize) -> Result<Self> {
        let n_heads = json.size("num_attention_heads", None)?;
        let hidden_dim = json.size("hidden_size", None)?;
        let codebook_dim = json.size("codebook_dim", None)?;
        Ok(Self {
            n_groups,
            n_semantic: json.size("num_semantic_quantizers", Some(1))?,
            codebook_size: json.size("codebook_size", None)?,
            codebook_dim: json.size("vector_quantization_hidden_dimension", Some(codebook_dim))?,
            n_filters: json.size("num_filters", None)?,
            upsampling_ratios: json.sizes("upsampling_ratios")?,
            kernel: json.size("kernel_size", Some(7))?,
            last_kernel: json.size("last_kernel_size", Some(3))?,
            residual_kernel: json.size("residual_kernel_size", Some(3))?,
            n_residual: json.size("num_residual_layers", Some(1))?,
            dilation_growth: json.size("dilation_growth_rate", Some(2))?,
            compress: json.size("compress", Some(2))?,
            hidden_dim,
            ffn_dim: json.size("intermediate_size", None)?,
            n_layers: json.size("num_hidden_layers", None)?,
            n_heads,
            n_kv_heads: json.size("num_key_value_heads", Some(n_heads))?,
            head_dim: json.size("head_dim", Some((hidden_dim / n_heads).max(1)))?,
            rope_theta: json.number("rope_theta", Some(10_000.0))? as f32,
            norm_eps: json.number("norm_eps", Some(1e-5))? as f32,
        })
    }

    /// Samples that become one row of the transformer.
    pub fn samples_per_row(&self) -> usize {
        let ratios = self.upsampling_ratios.iter();
        ratios.fold(1usize, |product, &ratio| product.saturating_mul(ratio))
    }

    /// Samples that become one frame.
    pub fn samples_per_frame(&self) -> usize {
        self.samples_per_row().saturating_mul(DOWNSAMPLE)
    }

    /// Width behind the last stage.
    pub fn last_width(&self) -> usize {
        self.n_filters << self.upsampling_ratios.len()
    }

    fn validate(&self, path: &Path) -> Result<()> {
        for (what, size, most) in [
            ("codes in a frame", self.n_groups, 1024),
            ("entries in a codebook", self.codebook_size, 1 << 20),
            (
                "columns",
                self.hidden_dim.max(self.ffn_dim).max(self.codebook_dim),
                1 << 16,
            ),
            ("filters", self.n_filters, 1 << 12),
            ("stages", self.upsampling_ratios.len(), 8),
            (
                "taps",
                self.kernel.max(self.last_kernel).max(self.residual_kernel),
                256,
            ),
            ("residual units", self.n_residual, 8),
            ("times more dilation", self.dilation_growth, 16),
            ("layers", self.n_layers, 1024),
            ("heads", self.n_heads, 1024),
            ("columns in a head", self.head_dim, 1 << 12),
            ("samples in a frame", self.samples_per_frame(), 1 << 20),
        ] {
            if size > most {
                return Err(invalid(
                    path,
                    format!(
                        "{size} {what} of the encoder are more than this program runs ({most})"
                    ),
                ));
            }
        }
        if self.n_semantic >= self.n_groups
            || !self.n_heads.is_multiple_of(self.n_kv_heads)
            || !self.head_dim.is_multiple_of(2)
            || !self.n_filters.is_multiple_of(self.compress)
        {
            return Err(invalid(
                path,
                format!(
                    "the encoder has {} semantic of {} codes, {} query heads for {} key heads of width {}, and {} filters \
                     compressed by {}, which do not fit each other",
                    self.n_semantic,
                    self.n_groups,
                    self.n_heads,
                    self.n_kv_heads,
                    self.head_dim,
                    self.n_filters,
                    self.compress
                ),
            ));
        }
        Ok(())
    }
}
