//! Sound in and out: decoding, resampling, incremental sources.
//!
//! ```no_run
//! # fn main() -> turaco::Result<()> {
//! let audio = turaco::Audio::open("talk.mp3")?.resampled(16_000)?;
//! println!("{:.1} s", audio.duration());
//! # Ok(())
//! # }
//! ```
//!
//! [`decode`] and [`Audio`] give a whole recording; [`AudioSource`] gives it block by block, and is what they collect. Everything
//! is mono `f32` in `[-1, 1)` from here on: channels are averaged unless [`DecodeOptions::channel`] picks one.

mod decode;
mod encode;
mod ffmpeg;
mod raw;
mod resample;
mod sniff;
mod source;
mod stretch;
mod wav;
mod writer;

#[cfg(feature = "decode")]
mod container;
#[cfg(feature = "encode")]
mod flac;
#[cfg(feature = "mp3")]
mod mp3;
#[cfg(feature = "decode")]
mod mp4;
#[cfg(feature = "encode")]
mod ogg_opus;
#[cfg(feature = "decode")]
mod opus;

use std::io::Read;
use std::path::Path;

pub use decode::{DecodeOptions, decode, decode_bytes};
pub use encode::{WavFormat, WavStream, wav, wav_header};
pub use raw::{RawFormat, SampleFormat};
pub use resample::Resampler;
pub(crate) use resample::{accepts as is_rate, refusal as rate_refusal};
pub use source::AudioSource;
pub use stretch::TimeStretcher;
pub use writer::{SoundFormat, SoundWriter};

use crate::{Error, Result};

/// A mono recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Audio {
    samples: Vec<f32>,
    sample_rate: u32,
    notices: Vec<String>,
}

impl Audio {
    /// Decode the file at `path` at its own sample rate; the format is found from its content.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Audio`] if it is not audio or uses an unknown codec.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        decode(path, &DecodeOptions::new())
    }

    /// Decode a file that is in memory; `name` stands for it in messages.
    ///
    /// # Errors
    /// [`Error::Audio`] as for [`open`](Self::open).
    pub fn from_bytes(bytes: impl Into<Vec<u8>>, name: impl AsRef<Path>) -> Result<Self> {
        decode_bytes(bytes, name, &DecodeOptions::new())
    }

    /// Decode what can only be read once, from start to end: standard input, a FIFO, a socket.
    ///
    /// # Errors
    /// [`Error::Io`] if reading fails, [`Error::Audio`] as for [`open`](Self::open).
    pub fn read(reader: impl Read + Send, name: impl AsRef<Path>) -> Result<Self> {
        AudioSource::from_reader(reader, name, &DecodeOptions::new())?.collect_audio()
    }

    /// Mono samples, full scale 1, at `sample_rate` Hz. What is not a number becomes silence, with a notice.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a rate outside 100 Hz to 1 MHz.
    pub fn from_samples(mut samples: Vec<f32>, sample_rate: u32) -> Result<Self> {
        if !resample::accepts(sample_rate) {
            return Err(Error::InvalidOption {
                option: "sample_rate",
                message: resample::refusal(sample_rate),
            });
        }
        let mut damaged = 0;
        for sample in &mut samples {
            if raw::plausible(*sample).is_none() {
                *sample = 0.0;
                damaged += 1;
            }
        }
        let notices = raw::damage_notice(damaged).into_iter().collect();
        Ok(Self {
            samples,
            sample_rate,
            notices,
        })
    }

    /// The samples.
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// The samples, without a copy.
    pub fn into_samples(self) -> Vec<f32> {
        self.samples
    }

    /// Samples per second.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// Length in seconds.
    pub fn duration(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.sample_rate)
    }

    /// What the user should know about how this was read: truncation, damage, use of an external decoder.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// The same sound at `sample_rate` Hz (itself if it is so already); `round(len * new / old)` samples.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a rate outside 100 Hz to 1 MHz.
    pub fn resampled(self, sample_rate: u32) -> Result<Self> {
        if sample_rate == self.sample_rate {
            return Ok(self);
        }
        let mut resampler = Resampler::new(self.sample_rate, sample_rate)?;
        let mut samples = Vec::new();
        resampler.push(&self.samples, &mut samples);
        resampler.finish(&mut samples);
        Ok(Self {
            samples,
            sample_rate,
            notices: self.notices,
        })
    }
}

/// An [`Error::Audio`] for `name`.
fn audio_error(name: &Path, message: impl Into<String>) -> Error {
    Error::Audio {
        path: name.to_path_buf(),
        message: message.into(),
    }
}

/// An [`Error::Io`] of reading `name`.
fn read_error(name: &Path, source: std::io::Error) -> Error {
    Error::Io {
        action: "read",
        path: name.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests;
