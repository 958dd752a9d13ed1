//! Sizes of a Voxtral Realtime checkpoint, from either layout's settings.

use std::path::Path;

use super::delay::MAX_DELAY;
use crate::Result;
use crate::features::LogMelSettings;
use crate::models::settings::{Settings, check_limits};
use crate::tokenizer::tekken::TekkenAudio;
use crate::weights::{Sidecars, invalid};

/// Sizes of a stack of transformer layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StackConfig {
    /// Width of the hidden states.
    pub dim: usize,
    /// Layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of one head; `n_heads * head_dim` need not be `dim`.
    pub head_dim: usize,
    /// Width inside the feed-forward network.
    pub ffn_dim: usize,
    /// Positions that a query sees, its own included.
    pub window: usize,
    /// Base of the rotary embedding's frequencies.
    pub rope_theta: f32,
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
}

/// Everything about the model that is not a weight.
#[derive(Debug, Clone, PartialEq)]
pub struct VoxtralRealtimeConfig {
    /// Mel bands.
    pub n_mels: usize,
    /// Samples per second.
    pub sample_rate: u32,
    /// Samples between mel frames.
    pub hop_length: usize,
    /// Samples per mel window.
    pub n_fft: usize,
    /// What the front end takes for the loudest value, in decades.
    pub log_mel_max: f32,
    /// The audio encoder.
    pub encoder: StackConfig,
    /// Encoder positions that become one audio token.
    pub downsample: usize,
    /// The text decoder.
    pub decoder: StackConfig,
    /// Tokens.
    pub n_vocab: usize,
    /// Tokens by which the text follows the audio unless a session says otherwise.
    pub default_delay: usize,
    /// Audio tokens of silence in front of every stream.
    pub n_left_pad: usize,
}

/// Mel frames that become one encoder position: the stride of the second convolution.
pub(super) const FRAMES_PER_POSITION: usize = 2;

impl VoxtralRealtimeConfig {
    /// Reads `params.json` (Mistral's layout) or `config.json` (Hugging Face's); `None` if neither is there or both are
    /// about another model.
    ///
    /// # Errors
    /// Settings that are missing, no sizes, or contradict each other.
    pub fn read(sidecars: &Sidecars) -> Result<Option<Self>> {
        if let Some(json) = Settings::read(sidecars, "config.json")?
            && json.text("model_type") == Some("voxtral_realtime")
        {
            return Self::from_hugging_face(&json, sidecars).map(Some);
        }
        if let Some(json) = Settings::read(sidecars, "params.json")?
            && is_realtime(&json)
        {
            return Self::from_mistral(&json).map(Some);
        }
        Ok(None)
    }

    fn from_mistral(json: &Settings) -> Result<Self> {
        let whisper = json.at("multimodal").at("whisper_model_args");
        let encoder = whisper.at("encoder_args");
        let audio = encoder.at("audio_encoding_args");
        let stack = |json: &Settings| -> Result<StackConfig> {
            let n_heads = json.size("n_heads", None)?;
            Ok(StackConfig {
                dim: json.size("dim", None)?,
                n_layers: json.size("n_layers", None)?,
                n_heads,
                n_kv_heads: json.size("n_kv_heads", Some(n_heads))?,
                head_dim: json.size("head_dim", None)?,
                ffn_dim: json.size("hidden_dim", None)?,
                window: json.size("sliding_window", None)?,
                rope_theta: json.number("rope_theta", Some(1e6))? as f32,
                norm_eps: json.number("norm_eps", Some(1e-5))? as f32,
            })
        };
        Self {
            n_mels: audio.size("num_mel_bins", Some(128))?,
            sample_rate: audio.size("sampling_rate", Some(16_000))? as u32,
            hop_length: audio.size("hop_length", Some(160))?,
            n_fft: audio.size("window_size", Some(400))?,
            log_mel_max: audio.number("global_log_mel_max", Some(1.5))? as f32,
            encoder: stack(&encoder)?,
            downsample: whisper
                .at("downsample_args")
                .size("downsample_factor", Some(4))?,
            decoder: stack(json)?,
            n_vocab: json.size("vocab_size", None)?,
            default_delay: 6,
            n_left_pad: 32,
        }
        .validated(json.path())
    }

    fn from_hugging_face(json: &Settings, sidecars: &Sidecars) -> Result<Self> {
        let (audio, text) = (json.at("audio_config"), json.at("text_config"));
        // What a file leaves out is as in the published model.
        let encoder = StackConfig {
            dim: audio.size("hidden_size", Some(1280))?,
            n_layers: audio.size("num_hidden_layers", Some(32))?,
            n_heads: audio.size("num_attention_heads", Some(32))?,
            n_kv_heads: audio.size(
                "num_key_value_heads",
                Some(audio.size("num_attention_heads", Some(32))?),
            )?,
            head_dim: audio.size("head_dim", Some(64))?,
            ffn_dim: audio.size("intermediate_size", Some(5120))?,
            window: audio.size("sliding_window", Some(750))?,
            rope_theta: audio.rope_theta(1e6)?,
            norm_eps: audio.number("rms_norm_eps", Some(1e-5))? as f32,
        };
        let decoder = StackConfig {
            dim: text.size("hidden_size", Some(3072))?,
            n_layers: text.size("num_hidden_layers", Some(26))?,
            n_heads: text.size("num_attention_heads", Some(32))?,
            n_kv_heads: text.size("num_key_value_heads", Some(8))?,
            head_dim: text.size("head_dim", Some(128))?,
            ffn_dim: text.size("intermediate_size", Some(9216))?,
            window: text.size("sliding_window", Some(8192))?,
            rope_theta: text.rope_theta(1e6)?,
            norm_eps: text.number("rms_norm_eps", Some(1e-5))? as f32,
        };
        let processor = Settings::read(sidecars, "processor_config.json")?;
        let features = match processor {
            Some(json) => Some(json.at("feature_extractor")),
            None => Settings::read(sidecars, "preprocessor_config.json")?,
        };
        let feature = |key: &str, default: usize| match &features {
            Some(json) => json.size(key, Some(default)),
            None => Ok(default),
        };
        Self {
            n_mels: audio.size("num_mel_bins", Some(128))?,
            sample_rate: feature("sampling_rate", 16_000)? as u32,
            hop_length: feature("hop_length", 160)?,
            n_fft: feature("n_fft", 400)?,
            log_mel_max: match &features {
                Some(json) => json.number("global_log_mel_max", Some(1.5))? as f32,
                None => 1.5,
            },
            encoder,
            downsample: json.size("downsample_factor", Some(4))?,
            decoder,
            n_vocab: text.size("vocab_size", Some(131_072))?,
            default_delay: json.size("default_num_delay_tokens", Some(6))?,
            n_left_pad: 32,
        }
        .validated(json.path())
    }

    /// Takes over what the vocabulary's file says about audio.
    pub(super) fn with_delay_of(mut self, path: &Path, audio: &TekkenAudio) -> Result<Self> {
        if let Some(delay_ms) = audio.transcription_delay_ms {
            self.default_delay = self.delay_tokens(delay_ms).ok_or_else(|| {
                invalid(
                    path,
                    format!("a delay of {delay_ms} ms is no number of audio tokens"),
                )
            })?;
        }
        if let Some(n_left_pad) = audio.streaming_n_left_pad_tokens {
            self.n_left_pad = n_left_pad;
        }
        self.validated(path)
    }

    fn validated(self, path: &Path) -> Result<Self> {
        let stacks = [&self.encoder, &self.decoder];
        let largest = |of: fn(&StackConfig) -> usize| stacks.map(of).into_iter().max().unwrap_or(0);
        let sizes = [
            ("mel bands", self.n_mels, 4096),
            ("samples between frames", self.hop_length, 1 << 16),
            ("samples in a window", self.n_fft, 1 << 16),
            ("positions in an audio token", self.downsample, 256),
            ("layers", largest(|stack| stack.n_layers), 4096),
            ("heads", largest(|stack| stack.n_heads), 4096),
            (
                "columns in a head",
                largest(|stack| stack.head_dim),
                1 << 14,
            ),
            (
                "columns",
                largest(|stack| stack.dim.max(stack.ffn_dim)),
                1 << 20,
            ),
            (
                "positions in an attention window",
                largest(|stack| stack.window),
                1 << 24,
            ),
            ("tokens", self.n_vocab, 1 << 24),
            ("tokens of delay", self.default_delay, MAX_DELAY),
        ];
        check_limits(path, &sizes)?;
        for (name, stack) in [("encoder", &self.encoder), ("decoder", &self.decoder)] {
            if stack.n_heads % stack.n_kv_heads != 0 || stack.head_dim % 2 != 0 {
                return Err(invalid(
                    path,
                    format!(
                        "the {name} has {} query heads for {} key heads of width {}",
                        stack.n_heads, stack.n_kv_heads, stack.head_dim
                    ),
                ));
            }
        }
        if !self.n_fft.is_multiple_of(2) || !(2..=4096).contains(&self.n_left_pad) {
            return Err(invalid(
                path,
                format!(
                    "windows of {} samples and {} tokens of silence in front are not possible",
                    self.n_fft, self.n_left_pad
                ),
            ));
        }
        Ok(self)
    }

    /// Mel frames of an audio token.
    pub fn frames_per_token(&self) -> usize {
        FRAMES_PER_POSITION * self.downsample
    }

    /// Samples of an audio token.
    pub fn samples_per_token(&self) -> usize {
        self.frames_per_token() * self.hop_length
    }

    /// Seconds of an audio token.
    pub fn token_seconds(&self) -> f64 {
        self.samples_per_token() as f64 / f64::from(self.sample_rate)
    }

    /// The number of tokens that a delay is, if it is a whole one above zero.
    pub fn delay_tokens(&self, delay_ms: f64) -> Option<usize> {
        let tokens = delay_ms / 1000.0 / self.token_seconds();
        let whole = (tokens - tokens.round()).abs() < 1e-6 && (1.0..=1024.0).contains(&tokens);
        whole.then_some(tokens.round() as usize)
    }

    /// Tokens in front of the first that is heard: the start token, the silence, the delay.
    pub fn prompt_len(&self, delay: usize) -> usize {
        1 + self.n_left_pad + delay
    }

    /// Audio tokens of silence behind the last sound, so that all of the text comes out.
    pub fn right_pad(&self, delay: usize) -> usize {
        delay + 1 + 10
    }

    /// The front end.
    pub fn log_mel(&self) -> LogMelSettings {
        LogMelSettings {
            sample_rate: self.sample_rate,
            n_mels: self.n_mels,
            n_fft: self.n_fft,
            hop_length: self.hop_length,
            maximum: self.log_mel_max,
        }
    }
}

/// Whether a `params.json` is about this model: Voxtral Mini has one too.
fn is_realtime(json: &Settings) -> bool {
    let encoder = json
        .at("multimodal")
        .at("whisper_model_args")
        .at("encoder_args");
    let format = encoder.at("audio_encoding_args");
    format.text("transcription_format") == Some("streaming")
        || encoder.text("pos_embed") == Some("rope")
}
