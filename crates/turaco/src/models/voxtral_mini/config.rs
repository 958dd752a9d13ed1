//! Sizes of a Voxtral Mini or Small checkpoint, from either layout's settings.

use std::path::Path;

use crate::Result;
use crate::features::{HOP_LENGTH, N_FFT, SAMPLE_RATE};
use crate::models::settings::{Settings, check_limits};
use crate::models::whisper::EncoderConfig;
use crate::tokenizer::tekken::TekkenAudio;
use crate::weights::{Sidecars, invalid};

/// Sizes of the text decoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecoderConfig {
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
    /// Base of the rotary embedding's frequencies.
    pub rope_theta: f32,
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
}

/// Everything about the model that is not a weight.
#[derive(Debug, Clone, PartialEq)]
pub struct VoxtralMiniConfig {
    /// The audio encoder: Whisper's.
    pub encoder: EncoderConfig,
    /// Encoder positions that become one audio token.
    pub downsample: usize,
    /// The text decoder.
    pub decoder: DecoderConfig,
    /// Tokens.
    pub n_vocab: usize,
    /// Positions of the decoder.
    pub max_positions: usize,
}

/// Mel frames of an encoder position: the stride of the second convolution.
const FRAMES_PER_POSITION: usize = 2;

/// Positions where the settings do not say.
const USUAL_POSITIONS: usize = 131_072;

impl VoxtralMiniConfig {
    /// Reads `config.json` (Hugging Face's layout) or `params.json` (Mistral's); `None` if neither is there or both are about
    /// another model.
    ///
    /// # Errors
    /// Settings that are missing, no sizes, or contradict each other.
    pub fn read(sidecars: &Sidecars) -> Result<Option<Self>> {
        if let Some(json) = Settings::read(sidecars, "config.json")?
            && json.text("model_type") == Some("voxtral")
        {
            return Self::from_hugging_face(&json, sidecars).map(Some);
        }
        if let Some(json) = Settings::read(sidecars, "params.json")?
            && is_offline(&json)
        {
            return Self::from_mistral(&json).map(Some);
        }
        Ok(None)
    }

    fn from_hugging_face(json: &Settings, sidecars: &Sidecars) -> Result<Self> {
        let (audio, text) = (json.at("audio_config"), json.at("text_config"));
        let (path, n_state) = (json.path(), audio.size("hidden_size", None)?);
        if let Some(features) = Settings::read(sidecars, "preprocessor_config.json")? {
            check_front_end(
                &features,
                ["sampling_rate", "hop_length", "n_fft"],
                ("feature_size", audio.size("num_mel_bins", Some(128))?),
            )?;
        }
        let encoder = EncoderConfig {
            n_mels: audio.size("num_mel_bins", Some(128))?,
            n_ctx: audio.size("max_source_positions", Some(1500))?,
            n_state,
            n_heads: audio.size("num_attention_heads", None)?,
            n_layers: audio.size("num_hidden_layers", None)?,
            n_ffn: audio.size("intermediate_size", None)?,
        };
        // This layout does not name the number: it is how many states make a row as wide as the feed-forward network.
        if !encoder.n_ffn.is_multiple_of(n_state) {
            let message = format!(
                "key `audio_config.intermediate_size` is {}, expected a multiple of `hidden_size` {n_state}",
                encoder.n_ffn
            );
            return Err(invalid(path, message));
        }
        let head_dim = encoder.n_state / encoder.n_heads;
        refuse_others(
            path,
            "audio_config",
            audio.size("head_dim", Some(head_dim))?,
            head_dim,
        )?;
        let (dim, n_heads) = (
            text.size("hidden_size", None)?,
            text.size("num_attention_heads", None)?,
        );
        let decoder = DecoderConfig {
            dim,
            n_layers: text.size("num_hidden_layers", None)?,
            n_heads,
            n_kv_heads: text.size("num_key_value_heads", Some(n_heads))?,
            head_dim: text.size("head_dim", Some(dim / n_heads))?,
            ffn_dim: text.size("intermediate_size", None)?,
            rope_theta: text.rope_theta(1e8)?,
            norm_eps: text.number("rms_norm_eps", Some(1e-5))? as f32,
        };
        refuse_window(&text)?;
        Self {
            downsample: encoder.n_ffn / n_state,
            encoder,
            decoder,
            n_vocab: text.size("vocab_size", None)?,
            max_positions: text.size("max_position_embeddings", Some(USUAL_POSITIONS))?,
        }
        .validated(path)
    }

    fn from_mistral(json: &Settings) -> Result<Self> {
        let whisper = json.at("multimodal").at("whisper_model_args");
        let audio = whisper.at("encoder_args");
        let features = audio.at("audio_encoding_args");
        check_front_end(
            &features,
            ["sampling_rate", "hop_length", "window_size"],
            ("num_mel_bins", features.size("num_mel_bins", Some(128))?),
        )?;
        let path = json.path();
        let n_ctx = match audio.has("max_source_positions") {
            true => audio.size("max_source_positions", None)?,
            false => {
                let seconds = features.number("chunk_length_s", Some(30.0))?;
                positions_of(seconds).ok_or_else(|| {
                    let message = format!(
                        "chunks of {seconds} s (key `chunk_length_s`) are no whole number of encoder positions"
                    );
                    invalid(path, message)
                })?
            }
        };
        let encoder = EncoderConfig {
            n_mels: features.size("num_mel_bins", Some(128))?,
            n_ctx,
            n_state: audio.size("dim", None)?,
            n_heads: audio.size("n_heads", None)?,
            n_layers: audio.size("n_layers", None)?,
            n_ffn: audio.size("hidden_dim", None)?,
        };
        let head_dim = encoder.n_state / encoder.n_heads;
        refuse_others(
            path,
            "encoder_args",
            audio.size("head_dim", Some(head_dim))?,
            head_dim,
        )?;
        let n_heads = json.size("n_heads", None)?;
        let decoder = DecoderConfig {
            dim: json.size("dim", None)?,
            n_layers: json.size("n_layers", None)?,
            n_heads,
            n_kv_heads: json.size("n_kv_heads", Some(n_heads))?,
            head_dim: json.size("head_dim", None)?,
            ffn_dim: json.size("hidden_dim", None)?,
            rope_theta: json.number("rope_theta", Some(1e8))? as f32,
            norm_eps: json.number("norm_eps", Some(1e-5))? as f32,
        };
        refuse_window(json)?;
        let longest = json.size("max_seq_len", Some(USUAL_POSITIONS))?;
        Self {
            encoder,
            downsample: whisper
                .at("downsample_args")
                .size("downsample_factor", Some(4))?,
            decoder,
            n_vocab: json.size("vocab_size", None)?,
            max_positions: json.size("max_position_embeddings", Some(longest))?,
        }
        .validated(path)
    }

    fn validated(self, path: &Path) -> Result<Self> {
        let (encoder, decoder) = (&self.encoder, &self.decoder);
        let sizes = [
            ("mel bands", encoder.n_mels, 4096),
            ("encoder positions", encoder.n_ctx, 1 << 20),
            ("positions in an audio token", self.downsample, 256),
            ("layers", encoder.n_layers.max(decoder.n_layers), 4096),
            ("heads", encoder.n_heads.max(decoder.n_heads), 4096),
            ("columns in a head", decoder.head_dim, 1 << 14),
            ("columns", encoder.n_state.max(encoder.n_ffn), 1 << 20),
            ("columns", decoder.dim.max(decoder.ffn_dim), 1 << 20),
            ("tokens", self.n_vocab, 1 << 24),
            ("positions", self.max_positions, 1 << 24),
        ];
        check_limits(path, &sizes)?;
        if encoder.n_state % encoder.n_heads != 0 || encoder.n_state % 2 != 0 {
            let message = format!(
                "the encoder has {} heads in a width of {}",
                encoder.n_heads, encoder.n_state
            );
            return Err(invalid(path, message));
        }
        if decoder.n_heads % decoder.n_kv_heads != 0 || decoder.head_dim % 2 != 0 {
            let message = format!(
                "the decoder has {} query heads for {} key heads of width {}",
                decoder.n_heads, decoder.n_kv_heads, decoder.head_dim
            );
            return Err(invalid(path, message));
        }
        if encoder.n_ctx % self.downsample != 0 {
            let message = format!(
                "{} encoder positions are no whole number of audio tokens of {}",
                encoder.n_ctx, self.downsample
            );
            return Err(invalid(path, message));
        }
        Ok(self)
    }

    /// Refuses a vocabulary whose audio tokens are others than those of the encoder: prompts would not fit.
    pub(super) fn check_audio(&self, path: &Path, audio: &TekkenAudio) -> Result<()> {
        let rate = f64::from(SAMPLE_RATE);
        let token = rate / audio.frame_rate;
        let chunk = audio.chunk_length_s.map(|seconds| seconds * rate);
        let is_near = |value: f64, expected: usize| (value - expected as f64).abs() < 0.5;
        let fits = audio.sampling_rate == SAMPLE_RATE as usize
            && is_near(token, self.samples_per_token())
            && chunk.is_none_or(|chunk| is_near(chunk, self.samples_per_chunk()));
        if fits {
            return Ok(());
        }
        let message = format!(
            "key `audio` says {} audio tokens per second in chunks of {:?} s at {} Hz; the encoder makes one of {} samples, in chunks of {}",
            audio.frame_rate,
            audio.chunk_length_s,
            audio.sampling_rate,
            self.samples_per_token(),
            self.samples_per_chunk()
        );
        Err(invalid(path, message))
    }

    /// Mel frames that the encoder takes at a time.
    pub fn frames_per_chunk(&self) -> usize {
        FRAMES_PER_POSITION * self.encoder.n_ctx
    }

    /// Samples that the encoder hears at a time.
    pub fn samples_per_chunk(&self) -> usize {
        self.frames_per_chunk() * HOP_LENGTH
    }

    /// Audio tokens of a chunk.
    pub fn tokens_per_chunk(&self) -> usize {
        self.encoder.n_ctx / self.downsample
    }

    /// Samples of an audio token.
    pub fn samples_per_token(&self) -> usize {
        FRAMES_PER_POSITION * self.downsample * HOP_LENGTH
    }

    /// Chunks that so many samples fill; also no sound at all is a chunk.
    pub fn n_chunks(&self, n_samples: usize) -> usize {
        n_samples.div_ceil(self.samples_per_chunk()).max(1)
    }
}

/// Encoder positions of a chunk of sound.
fn positions_of(seconds: f64) -> Option<usize> {
    let positions = seconds * f64::from(SAMPLE_RATE) / (FRAMES_PER_POSITION * HOP_LENGTH) as f64;
    let is_whole = (positions - positions.round()).abs() < 1e-6;
    (is_whole && (1.0..1e9).contains(&positions)).then_some(positions.round() as usize)
}

/// Refuses features that are computed in another way than Whisper's.
fn check_front_end(
    json: &Settings,
    keys: [&str; 3],
    (mel_key, n_mels): (&str, usize),
) -> Result<()> {
    let expected = [SAMPLE_RATE as usize, HOP_LENGTH, N_FFT];
    let sizes = keys.into_iter().zip(expected).chain([(mel_key, n_mels)]);
    for (key, expected) in sizes {
        let found = json.size(key, Some(expected))?;
        if found != expected {
            let message = format!("key `{key}` is {found}, expected {expected}");
            return Err(invalid(json.path(), message));
        }
    }
    Ok(())
}

fn refuse_others(path: &Path, place: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let message =
        format!("key `{place}.head_dim` is {found}, expected {expected}: width over heads");
    Err(invalid(path, message))
}

fn refuse_window(json: &Settings) -> Result<()> {
    if !json.has("sliding_window") {
        return Ok(());
    }
    let message = "key `sliding_window`: no published model of this kind has one, expected null";
    Err(invalid(json.path(), message))
}

/// Whether a `params.json` is about this model: Voxtral Realtime, whose encoder is causal, has one too.
fn is_offline(json: &Settings) -> bool {
    let multimodal = json.at("multimodal");
    let encoder = multimodal.at("whisper_model_args").at("encoder_args");
    let format = encoder.at("audio_encoding_args");
    multimodal.has("whisper_model_args")
        && encoder.flag("causal") != Some(true)
        && format.text("transcription_format") != Some("streaming")
        && encoder.text("pos_embed") != Some("rope")
}
