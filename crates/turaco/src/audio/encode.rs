//! WAV files out.

use std::io::{self, Write};

/// Length written where it is not known yet; readers take it as "until the end".
const UNKNOWN_LENGTH: u32 = u32::MAX;

/// How samples are stored in a WAV file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WavFormat {
    /// Signed 16-bit, rounded to nearest and clipped at full scale.
    S16,
    /// 32-bit float, exactly as given.
    F32,
}

impl WavFormat {
    const fn bytes(self) -> u32 {
        match self {
            Self::S16 => 2,
            Self::F32 => 4,
        }
    }
}

/// A complete mono WAV file.
///
/// A file beyond 4 GiB gets the length "unknown", as the format cannot say it.
pub fn wav(samples: &[f32], sample_rate: u32, format: WavFormat) -> Vec<u8> {
    let data_bytes = u32::try_from(samples.len())
        .ok()
        .and_then(|len| len.checked_mul(format.bytes()))
        .filter(|bytes| *bytes <= u32::MAX - 64);
    let mut out = wav_header(sample_rate, format, data_bytes);
    append_samples(&mut out, samples, format);
    out
}

/// Writes a mono WAV file as samples come, to something that cannot be rewound; the header says that its length is unknown.
#[derive(Debug)]
pub struct WavStream<W> {
    writer: W,
    format: WavFormat,
    buffer: Vec<u8>,
}

impl<W: Write> WavStream<W> {
    /// Write the header.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn new(mut writer: W, sample_rate: u32, format: WavFormat) -> io::Result<Self> {
        writer.write_all(&wav_header(sample_rate, format, None))?;
        Ok(Self {
            writer,
            format,
            buffer: Vec::new(),
        })
    }

    /// Write samples.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&mut self, samples: &[f32]) -> io::Result<()> {
        self.buffer.clear();
        append_samples(&mut self.buffer, samples, self.format);
        self.writer.write_all(&self.buffer)
    }

    /// Flush and give the writer back.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.writer.flush()?;
        Ok(self.writer)
    }
}

/// The header up to the first sample; `data_bytes` is `None` when it is not known how much follows.
pub fn wav_header(sample_rate: u32, format: WavFormat, data_bytes: Option<u32>) -> Vec<u8> {
    let width = format.bytes();
    let tag: u16 = match format {
        WavFormat::S16 => 1,
        WavFormat::F32 => 3,
    };
    let mut out = Vec::with_capacity(44);
    out.extend_from_slice(b"RIFF");
    out.extend_from_slice(
        &data_bytes
            .map_or(UNKNOWN_LENGTH, |bytes| bytes + 36)
            .to_le_bytes(),
    );
    out.extend_from_slice(b"WAVEfmt ");
    out.extend_from_slice(&16_u32.to_le_bytes());
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&1_u16.to_le_bytes());
    out.extend_from_slice(&sample_rate.to_le_bytes());
    out.extend_from_slice(&sample_rate.saturating_mul(width).to_le_bytes());
    out.extend_from_slice(&(width as u16).to_le_bytes());
    out.extend_from_slice(&(8 * width as u16).to_le_bytes());
    out.extend_from_slice(b"data");
    out.extend_from_slice(&data_bytes.unwrap_or(UNKNOWN_LENGTH).to_le_bytes());
    out
}

fn append_samples(out: &mut Vec<u8>, samples: &[f32], format: WavFormat) {
    match format {
        // `as` clips, and makes zero of what is no number.
        WavFormat::S16 => out.extend(
            samples
                .iter()
                .flat_map(|x| ((x * 32_768.0).round() as i16).to_le_bytes()),
        ),
        WavFormat::F32 => out.extend(samples.iter().flat_map(|x| x.to_le_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::Audio;

    #[test]
    fn what_is_written_is_read() {
        let samples: Vec<f32> = (0..1000_i16)
            .map(|i| f32::from(i * 31 - 15_000) / 32_768.0)
            .collect();
        for format in [WavFormat::S16, WavFormat::F32] {
            let whole = wav(&samples, 24_000, format);
            let mut stream = WavStream::new(Vec::new(), 24_000, format).unwrap();
            for part in samples.chunks(77) {
                stream.write(part).unwrap();
            }
            for bytes in [whole, stream.finish().unwrap()] {
                let audio = Audio::from_bytes(bytes, "test.wav").unwrap();
                assert_eq!(audio.samples(), samples);
                assert_eq!(audio.sample_rate(), 24_000);
                assert!(audio.notices().is_empty());
            }
        }
    }

    #[test]
    fn loud_samples_are_clipped() {
        let bytes = wav(&[2.0, -2.0, f32::NAN], 16_000, WavFormat::S16);
        let audio = Audio::from_bytes(bytes, "test.wav").unwrap();
        assert_eq!(audio.samples(), [32_767.0 / 32_768.0, -1.0, 0.0]);
    }
}
