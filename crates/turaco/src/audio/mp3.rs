//! MP3 out, by the `shine-rs` crate.
//!
//! Below 32 kHz that encoder makes frames that strict decoders refuse (seen with 0.1.5 at every bit rate), so all sound is brought
//! to a rate above.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use shine_rs::error::EncoderError;
use shine_rs::{Mp3Encoder, Mp3EncoderConfig, StereoMode};

use super::resample::Resampler;
use super::writer::s16;

/// Kilobits per second for one voice. Frames are of equal length at this one: others round differently from one to the next.
const BITRATE: u32 = 96;
/// Samples per second in the file, except for sound that has [`CD_RATE`].
const RATE: u32 = 48_000;
const CD_RATE: u32 = 44_100;
/// Samples of a frame at these rates.
const FRAME: usize = 1152;

/// Turns mono sound into frames of MP3.
///
/// The encoder holds raw pointers and stays on a thread of its own, so that a writer can go from thread to thread.
pub(super) struct Mp3Writer {
    resampler: Resampler,
    samples: SyncSender<Vec<i16>>,
    frames: Receiver<io::Result<Vec<u8>>>,
}

impl Mp3Writer {
    pub fn new(sample_rate: u32) -> io::Result<Self> {
        let unsupported = |error: &dyn std::fmt::Display| {
            let message = format!("MP3 at {sample_rate} Hz: {error}");
            io::Error::new(io::ErrorKind::Unsupported, message)
        };
        let rate = match sample_rate {
            CD_RATE => CD_RATE,
            _ => RATE,
        };
        let resampler = Resampler::new(sample_rate, rate).map_err(|error| unsupported(&error))?;
        let config = Mp3EncoderConfig::new()
            .sample_rate(rate)
            .channels(1)
            .stereo_mode(StereoMode::Mono)
            .bitrate(BITRATE);
        config.validate().map_err(|error| unsupported(&error))?;
        let (samples, receive_samples) = sync_channel(0);
        let (send_frames, frames) = sync_channel(1);
        std::thread::Builder::new()
            .name("mp3".into())
            .spawn(move || encode(config, &receive_samples, &send_frames))?;
        Ok(Self {
            resampler,
            samples,
            frames,
        })
    }

    /// The frames that samples become, if they fill any.
    pub fn push(&mut self, samples: &[f32]) -> io::Result<Vec<u8>> {
        let mut resampled = Vec::new();
        self.resampler.push(samples, &mut resampled);
        exchange(&self.samples, &self.frames, &resampled)
    }

    /// The last frames.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        let Self {
            resampler,
            samples,
            frames,
        } = self;
        let mut rest = Vec::new();
        resampler.finish(&mut rest);
        // The encoder keeps the last samples until a frame comes behind them.
        rest.resize(rest.len() + FRAME, 0.0);
        let mut bytes = exchange(&samples, &frames, &rest)?;
        drop(samples);
        bytes.extend(frames.recv().map_err(|_| broke_down())??);
        Ok(bytes)
    }
}

/// What the encoder's thread makes of samples.
fn exchange(
    to: &SyncSender<Vec<i16>>,
    from: &Receiver<io::Result<Vec<u8>>>,
    samples: &[f32],
) -> io::Result<Vec<u8>> {
    if samples.is_empty() {
        return Ok(Vec::new());
    }
    let samples = samples.iter().map(|&sample| s16(sample)).collect();
    to.send(samples).map_err(|_| broke_down())?;
    from.recv().map_err(|_| broke_down())?
}

fn broke_down() -> io::Error {
    io::Error::other("the MP3 encoder broke down")
}

/// Encodes until there are no more samples or nobody wants them.
fn encode(
    config: Mp3EncoderConfig,
    samples: &Receiver<Vec<i16>>,
    frames: &SyncSender<io::Result<Vec<u8>>>,
) {
    let mut encoder = Mp3Encoder::new(config);
    let mut with_encoder = |work: &dyn Fn(&mut Mp3Encoder) -> Result<Vec<u8>, EncoderError>| {
        let encoder = encoder
            .as_mut()
            .map_err(|error| io::Error::other(error.to_string()))?;
        work(encoder).map_err(io::Error::other)
    };
    for samples in samples {
        let encoded = with_encoder(&|encoder| Ok(encoder.encode_interleaved(&samples)?.concat()));
        if frames.send(encoded).is_err() {
            return;
        }
    }
    // The writer may be gone: what was written is left as it is then.
    let _ = frames.send(with_encoder(&Mp3Encoder::finish));
}
