//! Samples as the bytes that clients are sent.

use turaco::audio::Resampler;

use super::protocol::AudioFormat;
use crate::error::ApiError;

/// Turns samples of a stream into bytes of a client's format.
#[derive(Debug)]
pub struct SoundWriter {
    format: AudioFormat,
    resampler: Option<Resampler>,
}

impl SoundWriter {
    /// From samples at `rate`.
    ///
    /// # Errors
    /// Rates that cannot be changed into each other.
    pub fn new(format: AudioFormat, rate: u32) -> Result<Self, ApiError> {
        let wanted = format.rate();
        let resampler = match rate == wanted {
            true => None,
            false => Some(Resampler::new(rate, wanted)?),
        };
        Ok(Self { format, resampler })
    }

    /// The bytes of the next samples.
    pub fn write(&mut self, samples: &[f32]) -> Vec<u8> {
        match &mut self.resampler {
            None => self.bytes(samples),
            Some(resampler) => {
                let mut out = Vec::new();
                resampler.push(samples, &mut out);
                self.bytes(&out)
            }
        }
    }

    /// What is still held back at the end.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(resampler) = self.resampler.take() {
            resampler.finish(&mut out);
        }
        self.bytes(&out)
    }

    fn bytes(&self, samples: &[f32]) -> Vec<u8> {
        let whole = samples
            .iter()
            .map(|sample| (sample * 32_768.0).round().clamp(-32_768.0, 32_767.0) as i16);
        match self.format {
            AudioFormat::Pcm { .. } => whole.flat_map(i16::to_le_bytes).collect(),
            AudioFormat::MuLaw => whole.map(mu_law).collect(),
            AudioFormat::ALaw => whole.map(a_law).collect(),
        }
    }
}

/// ITU-T G.711 µ-law.
fn mu_law(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = i32::from(sample).abs().min(32_635) + 0x84;
    let exponent = (magnitude >> 7).ilog2().min(7);
    let mantissa = (magnitude >> (exponent + 3)) & 0x0f;
    !(sign | (exponent as u8) << 4 | mantissa as u8)
}

/// ITU-T G.711 A-law.
fn a_law(sample: i16) -> u8 {
    // Negative values count from minus one.
    let (sign, magnitude) = match sample < 0 {
        false => (0x80, i32::from(sample)),
        true => (0, -i32::from(sample) - 1),
    };
    let code = match magnitude >> 8 {
        0 => magnitude >> 4,
        high => {
            let exponent = high.ilog2() + 1;
            ((exponent as i32) << 4) | ((magnitude >> (exponent + 3)) & 0x0f)
        }
    };
    (sign | code.min(0x7f) as u8) ^ 0x55
}

#[cfg(test)]
mod tests {
    use super::super::sound::SoundReader;
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let samples: Vec<f32> = (-1000..1000).map(|i| (i as f32 / 1000.0).powi(3)).collect();
        // Steps of telephone sound grow with the level.
        for (format, step, share) in [
            (AudioFormat::Pcm { rate: 16_000 }, 4e-5, 0.0),
            (AudioFormat::MuLaw, 4e-4, 0.035),
            (AudioFormat::ALaw, 4e-4, 0.035),
        ] {
            let bytes = SoundWriter::new(format, format.rate())
                .unwrap()
                .write(&samples);
            // Telephone sound is read at another rate, which is not what is tested here.
            let decode = |bytes: &[u8]| match format {
                AudioFormat::Pcm { .. } => SoundReader::new(format).unwrap().read(bytes),
                _ => bytes
                    .iter()
                    .map(|&code| super::super::sound::expand(format, code))
                    .collect(),
            };
            let read = decode(&bytes);
            assert_eq!(read.len(), samples.len());
            for (a, b) in read.iter().zip(&samples) {
                let close = (a - b).abs() <= step + share * b.abs();
                assert!(close, "{format:?}: {a} instead of {b}");
            }
        }
    }
}
