//! The bytes that clients send as samples.

use turaco::audio::Resampler;

use super::protocol::AudioFormat;
use crate::error::ApiError;
use crate::upload::SAMPLE_RATE;

/// Turns bytes of a stream into samples at [`SAMPLE_RATE`]; pieces may be cut anywhere.
#[derive(Debug)]
pub struct SoundReader {
    format: AudioFormat,
    /// Half of a sample.
    rest: Option<u8>,
    resampler: Option<Resampler>,
}

impl SoundReader {
    /// Bytes of this format.
    ///
    /// # Errors
    /// A rate that is not taken.
    pub fn new(format: AudioFormat) -> Result<Self, ApiError> {
        let rate = format.rate();
        if let AudioFormat::Pcm { rate } = format
            && ![16_000, 24_000, 48_000].contains(&rate)
        {
            let message = format!("{rate} Hz is none of 16000, 24000, 48000");
            return Err(ApiError::invalid(
                "session.audio.input.format.rate",
                message,
            ));
        }
        let resampler = match rate == SAMPLE_RATE {
            true => None,
            false => Some(Resampler::new(rate, SAMPLE_RATE)?),
        };
        Ok(Self {
            format,
            rest: None,
            resampler,
        })
    }

    /// The samples of the next bytes.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<f32> {
        let samples: Vec<f32> = match self.format {
            AudioFormat::Pcm { .. } => self.pcm(bytes),
            format => bytes.iter().map(|&code| expand(format, code)).collect(),
        };
        match &mut self.resampler {
            None => samples,
            Some(resampler) => {
                let mut out = Vec::new();
                resampler.push(&samples, &mut out);
                out
            }
        }
    }

    fn pcm(&mut self, bytes: &[u8]) -> Vec<f32> {
        let sample = |low: u8, high: u8| f32::from(i16::from_le_bytes([low, high])) / 32_768.0;
        let mut samples = Vec::with_capacity(bytes.len() / 2 + 1);
        let mut bytes = bytes;
        if let (Some(low), Some((&high, others))) = (self.rest, bytes.split_first()) {
            samples.push(sample(low, high));
            self.rest = None;
            bytes = others;
        }
        let mut pairs = bytes.chunks_exact(2);
        samples.extend(pairs.by_ref().map(|pair| sample(pair[0], pair[1])));
        if let [low] = pairs.remainder() {
            self.rest = Some(*low);
        }
        samples
    }
}

/// The sample of a byte of telephone sound.
pub fn expand(format: AudioFormat, code: u8) -> f32 {
    match format {
        AudioFormat::ALaw => a_law(code),
        _ => mu_law(code),
    }
}

/// ITU-T G.711 µ-law, full scale 1.
fn mu_law(code: u8) -> f32 {
    let code = !code;
    let magnitude = ((i32::from(code & 0x0f) << 3) + 0x84) << ((code & 0x70) >> 4);
    let value = magnitude - 0x84;
    (if code & 0x80 != 0 { -value } else { value }) as f32 / 32_768.0
}

/// ITU-T G.711 A-law, full scale 1.
fn a_law(code: u8) -> f32 {
    let code = code ^ 0x55;
    let mantissa = (i32::from(code & 0x0f) << 4) + 8;
    let value = match (code & 0x70) >> 4 {
        0 => mantissa,
        exponent => (mantissa + 0x100) << (exponent - 1),
    };
    (if code & 0x80 != 0 { value } else { -value }) as f32 / 32_768.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telephone_codes_are_those_of_the_standard() {
        // The ends and the middle of the tables of G.711, in 16 bits.
        for (code, value) in [
            (0x00, -32_124),
            (0x80, 32_124),
            (0xff, 0),
            (0x7f, 0),
            (0xf0, 120),
        ] {
            assert_eq!((mu_law(code) * 32_768.0) as i32, value, "{code:#x}");
        }
        for (code, value) in [
            (0x2a, -32_256),
            (0xaa, 32_256),
            (0xd5, 8),
            (0x55, -8),
            (0x80, 5_504),
        ] {
            assert_eq!((a_law(code) * 32_768.0) as i32, value, "{code:#x}");
        }
    }

    #[test]
    fn samples_may_be_cut_in_two() {
        let bytes: Vec<u8> = (0..200_u8).collect();
        let format = AudioFormat::Pcm { rate: 16_000 };
        let whole = SoundReader::new(format).unwrap().read(&bytes);
        for piece in [1, 3, 7] {
            let mut reader = SoundReader::new(format).unwrap();
            let pieces = bytes.chunks(piece).flat_map(|bytes| reader.read(bytes));
            assert_eq!(pieces.collect::<Vec<_>>(), whole);
        }
        assert!(SoundReader::new(AudioFormat::Pcm { rate: 44_100 }).is_err());
    }
}
