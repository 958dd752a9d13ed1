//! Whole recordings.

use std::path::Path;

use super::{Audio, AudioSource, RawFormat};
use crate::Result;

/// How to read audio; the default takes a file as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct DecodeOptions {
    /// Use only this channel, counted from 0, instead of the mean of all.
    pub channel: Option<usize>,
    /// The input has no header but this format.
    pub raw: Option<RawFormat>,
    /// Resample to this rate in Hz while reading.
    pub target_rate: Option<u32>,
    /// Skip this many seconds at the start.
    pub offset: f64,
    /// Read at most this many seconds.
    pub duration: Option<f64>,
    /// Give out what arrives in blocks of this many seconds (WAV and raw samples): for sound that is listened to live.
    pub block_seconds: Option<f64>,
    /// Do not ask an installed `ffmpeg` for what the built-in decoders cannot read.
    pub built_in_only: bool,
}

impl DecodeOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Use only channel `channel`, counted from 0.
    #[must_use]
    pub fn channel(mut self, channel: usize) -> Self {
        self.channel = Some(channel);
        self
    }

    /// Take the input as raw samples.
    #[must_use]
    pub fn raw(mut self, format: RawFormat) -> Self {
        self.raw = Some(format);
        self
    }

    /// Resample to `sample_rate` Hz.
    #[must_use]
    pub fn target_rate(mut self, sample_rate: u32) -> Self {
        self.target_rate = Some(sample_rate);
        self
    }

    /// Start `seconds` into the recording.
    #[must_use]
    pub fn offset(mut self, seconds: f64) -> Self {
        self.offset = seconds;
        self
    }

    /// Stop after `seconds`.
    #[must_use]
    pub fn duration(mut self, seconds: f64) -> Self {
        self.duration = Some(seconds);
        self
    }

    /// Give out blocks of `seconds`.
    #[must_use]
    pub fn block_seconds(mut self, seconds: f64) -> Self {
        self.block_seconds = Some(seconds);
        self
    }

    /// Whether to leave an installed `ffmpeg` alone.
    #[must_use]
    pub fn built_in_only(mut self, only: bool) -> Self {
        self.built_in_only = only;
        self
    }
}

/// Decode a file. Memory is that of the result: mono samples at the target rate.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if the file cannot be read, [`Error::Audio`](crate::Error::Audio) if it is not audio, is broken
/// from the start, or uses a codec that neither this library nor an installed `ffmpeg` knows, and
/// [`Error::InvalidOption`](crate::Error::InvalidOption) for a channel or rate that cannot be.
pub fn decode(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<Audio> {
    AudioSource::open(path, options)?.collect_audio()
}

/// Decode a file that is in memory; `name` stands for it in messages.
///
/// # Errors
/// As [`decode`].
pub fn decode_bytes(
    bytes: impl Into<Vec<u8>>,
    name: impl AsRef<Path>,
    options: &DecodeOptions,
) -> Result<Audio> {
    AudioSource::from_bytes(bytes, name, options)?.collect_audio()
}
