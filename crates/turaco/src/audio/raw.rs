//! Samples without a container: number formats, and readers of interleaved frames.

use std::cell::Cell;
use std::io::{self, Read};

use super::resample::{MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, accepts};
use crate::{Error, Result};

/// Bytes read at a time, unless one frame is larger.
const BLOCK_BYTES: usize = 1 << 16;
/// Floating-point samples beyond this are damage, not loudness; full scale is 1.
const ABSURD: f32 = (1 << 20) as f32;

/// How one sample is stored. Integers are scaled to `[-1, 1)` by their full scale: 16 bits by 1/32768.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SampleFormat {
    /// Unsigned 8-bit.
    U8,
    /// Signed 16-bit, little-endian.
    S16Le,
    /// Signed 24-bit in three bytes, little-endian.
    S24Le,
    /// Signed 32-bit, little-endian.
    S32Le,
    /// 32-bit float, little-endian.
    F32Le,
    /// 64-bit float, little-endian.
    F64Le,
    /// G.711 mu-law.
    MuLaw,
    /// G.711 A-law.
    ALaw,
}

impl SampleFormat {
    /// All formats, by the names that [`RawFormat`] accepts.
    const NAMES: [(&'static str, Self); 8] = [
        ("s16le", Self::S16Le),
        ("u8", Self::U8),
        ("s24le", Self::S24Le),
        ("s32le", Self::S32Le),
        ("f32le", Self::F32Le),
        ("f64le", Self::F64Le),
        ("mulaw", Self::MuLaw),
        ("alaw", Self::ALaw),
    ];

    /// Bytes per sample.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::MuLaw | Self::ALaw => 1,
            Self::S16Le => 2,
            Self::S24Le => 3,
            Self::S32Le | Self::F32Le => 4,
            Self::F64Le => 8,
        }
    }
}

/// Raw PCM as written on the command line: `s16le:16000:1` (sample format, rate in Hz, channels).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawFormat {
    /// How a sample is stored.
    pub sample_format: SampleFormat,
    /// Frames per second.
    pub sample_rate: u32,
    /// Interleaved channels.
    pub channels: u16,
}

impl std::str::FromStr for RawFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |message: String| Error::InvalidOption {
            option: "raw",
            message,
        };
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let sample_format = SampleFormat::NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, format)| *format)
            .ok_or_else(|| {
                let known: Vec<_> = SampleFormat::NAMES
                    .iter()
                    .map(|(known, _)| *known)
                    .collect();
                invalid(format!(
                    "unknown sample format `{name}`; known: {}",
                    known.join(" ")
                ))
            })?;
        let rate = parts.next().ok_or_else(|| {
            invalid(format!(
                "`{text}` lacks the rate; write for example `{name}:16000:1`"
            ))
        })?;
        let sample_rate = rate
            .parse()
            .ok()
            .filter(|rate| accepts(*rate))
            .ok_or_else(|| {
                invalid(format!(
                    "rate `{rate}` is not a number in {MIN_SAMPLE_RATE}..={MAX_SAMPLE_RATE}"
                ))
            })?;
        let channels = parts.next().unwrap_or("1");
        let channels = channels
            .parse()
            .ok()
            .filter(|channels| *channels > 0)
            .ok_or_else(|| {
                invalid(format!(
                    "channels `{channels}` is not a number in 1..=65535"
                ))
            })?;
        if let Some(rest) = parts.next() {
            return Err(invalid(format!(
                "`{rest}` is left over in `{text}`; write FORMAT:RATE:CHANNELS"
            )));
        }
        Ok(Self {
            sample_format,
            sample_rate,
            channels,
        })
    }
}

impl std::fmt::Display for RawFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = SampleFormat::NAMES
            .iter()
            .find(|(_, format)| *format == self.sample_format)
            .map_or("", |(name, _)| *name);
        write!(f, "{name}:{}:{}", self.sample_rate, self.channels)
    }
}

/// Reads interleaved frames and mixes them to mono.
pub(super) struct PcmReader<R> {
    reader: R,
    format: SampleFormat,
    channels: usize,
    channel: Option<usize>,
    buffer: Vec<u8>,
    block_bytes: usize,
    /// Float samples that were not finite or absurdly large, and so became zero.
    pub(super) damaged: u64,
}

impl<R: Read> PcmReader<R> {
    /// `channels` is at least 1; `channel`, if any, is less than it.
    pub(super) fn new(
        reader: R,
        format: SampleFormat,
        channels: usize,
        channel: Option<usize>,
    ) -> Self {
        Self {
            reader,
            format,
            channels,
            channel,
            buffer: Vec::new(),
            block_bytes: BLOCK_BYTES,
            damaged: 0,
        }
    }

    /// Read at most this many frames at a time.
    pub(super) fn limit_block(&mut self, frames: usize) {
        let bytes = frames.saturating_mul(self.format.bytes() * self.channels);
        self.block_bytes = bytes.clamp(1, BLOCK_BYTES);
    }

    /// Append the next block to `mono`; gives the number of frames, 0 at the end. An incomplete last frame is dropped.
    pub(super) fn next_block(&mut self, mono: &mut Vec<f32>) -> io::Result<usize> {
        let frame_bytes = self.format.bytes() * self.channels;
        let block_bytes = (self.block_bytes / frame_bytes).max(1) * frame_bytes;
        self.buffer.clear();
        // `read_to_end` grows the buffer with what is really there, whatever a header says.
        (&mut self.reader)
            .take(block_bytes as u64)
            .read_to_end(&mut self.buffer)?;
        let frames = self.buffer.len() / frame_bytes;
        let bytes = &self.buffer[..frames * frame_bytes];
        let (n, pick) = (self.channels, self.channel);
        let damaged = Cell::new(0);
        let finite = |x: f32| {
            if x.abs() <= ABSURD {
                x
            } else {
                damaged.set(damaged.get() + 1);
                0.0
            }
        };
        match self.format {
            SampleFormat::U8 => mix(bytes, n, pick, mono, |[x]: [u8; 1]| {
                (f32::from(x) - 128.0) / 128.0
            }),
            SampleFormat::S16Le => mix(bytes, n, pick, mono, |x| {
                f32::from(i16::from_le_bytes(x)) / 32_768.0
            }),
            SampleFormat::S24Le => mix(bytes, n, pick, mono, |[a, b, c]: [u8; 3]| {
                (i32::from_le_bytes([0, a, b, c]) >> 8) as f32 / 8_388_608.0
            }),
            SampleFormat::S32Le => mix(bytes, n, pick, mono, |x| {
                i32::from_le_bytes(x) as f32 / 2_147_483_648.0
            }),
            SampleFormat::F32Le => mix(bytes, n, pick, mono, |x| finite(f32::from_le_bytes(x))),
            SampleFormat::F64Le => mix(bytes, n, pick, mono, |x| {
                finite(f64::from_le_bytes(x) as f32)
            }),
            SampleFormat::MuLaw => mix(bytes, n, pick, mono, |[x]: [u8; 1]| {
                f32::from(mu_law(x)) / 32_768.0
            }),
            SampleFormat::ALaw => mix(bytes, n, pick, mono, |[x]: [u8; 1]| {
                f32::from(a_law(x)) / 32_768.0
            }),
        }
        self.damaged += damaged.get();
        Ok(frames)
    }
}

/// Convert interleaved samples of `W` bytes and append the mean of each frame, or its channel `pick`, to `mono`.
fn mix<const W: usize>(
    bytes: &[u8],
    channels: usize,
    pick: Option<usize>,
    mono: &mut Vec<f32>,
    convert: impl Fn([u8; W]) -> f32,
) {
    let (samples, _) = bytes.as_chunks::<W>();
    match (channels, pick) {
        (1, _) => mono.extend(samples.iter().map(|x| convert(*x))),
        (_, Some(channel)) => mono.extend(
            samples
                .chunks_exact(channels)
                .map(|frame| convert(frame[channel])),
        ),
        (_, None) => mono.extend(samples.chunks_exact(channels).map(|frame| {
            let sum: f32 = frame.iter().map(|x| convert(*x)).sum();
            sum / channels as f32
        })),
    }
}

/// A float sample, or `None` if it can only be damage.
pub(super) fn plausible(x: f32) -> Option<f32> {
    (x.abs() <= ABSURD).then_some(x)
}

/// What to tell about `count` samples that became zero.
pub(super) fn damage_notice(count: u64) -> Option<String> {
    (count > 0).then(|| format!("{count} samples were not numbers and became silence"))
}

/// ITU-T G.711 mu-law to linear 16-bit.
fn mu_law(code: u8) -> i16 {
    let code = !code;
    let magnitude = ((i32::from(code & 0x0f) << 3) + 0x84) << ((code & 0x70) >> 4);
    let value = if code & 0x80 == 0 {
        magnitude - 0x84
    } else {
        0x84 - magnitude
    };
    value as i16
}

/// ITU-T G.711 A-law to linear 16-bit.
fn a_law(code: u8) -> i16 {
    let code = code ^ 0x55;
    let mantissa = i32::from(code & 0x0f) << 4;
    let magnitude = match (code & 0x70) >> 4 {
        0 => mantissa + 8,
        segment => (mantissa + 0x108) << (segment - 1),
    };
    let value = if code & 0x80 == 0 {
        -magnitude
    } else {
        magnitude
    };
    value as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        bytes: &[u8],
        format: SampleFormat,
        channels: usize,
        channel: Option<usize>,
    ) -> (Vec<f32>, u64) {
        let mut reader = PcmReader::new(bytes, format, channels, channel);
        let mut mono = Vec::new();
        while reader.next_block(&mut mono).unwrap() > 0 {}
        (mono, reader.damaged)
    }

    #[test]
    fn formats_are_parsed() {
        let format: RawFormat = "s16le:16000:1".parse().unwrap();
        assert_eq!(format.sample_format, SampleFormat::S16Le);
        assert_eq!((format.sample_rate, format.channels), (16_000, 1));
        assert_eq!(
            "MuLaw:8000".parse::<RawFormat>().unwrap().to_string(),
            "mulaw:8000:1"
        );
        for (name, sample_format) in SampleFormat::NAMES {
            let format: RawFormat = format!("{name}:44100:2").parse().unwrap();
            assert_eq!(format.sample_format, sample_format);
            assert_eq!(format.to_string(), format!("{name}:44100:2"));
        }
        for wrong in [
            "",
            "s16le",
            "s16be:16000:1",
            "s16le:0:1",
            "s16le:16000:0",
            "s16le:16000:1:2",
            "s16le:-1:1",
            "u8:99999999999:1",
        ] {
            let error = wrong.parse::<RawFormat>().unwrap_err();
            assert!(
                matches!(error, Error::InvalidOption { option: "raw", .. }),
                "{wrong}"
            );
        }
    }

    #[test]
    fn full_scale_is_one() {
        assert_eq!(
            read(&[0, 128, 255], SampleFormat::U8, 1, None).0,
            [-1.0, 0.0, 127.0 / 128.0]
        );
        let s16: Vec<u8> = [i16::MIN, 1, i16::MAX]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        assert_eq!(
            read(&s16, SampleFormat::S16Le, 1, None).0,
            [-1.0, 1.0 / 32768.0, 32767.0 / 32768.0]
        );
        assert_eq!(
            read(&[0, 0, 0x80, 1, 0, 0], SampleFormat::S24Le, 1, None).0,
            [-1.0, 1.0 / 8_388_608.0]
        );
        assert_eq!(
            read(&i32::MIN.to_le_bytes(), SampleFormat::S32Le, 1, None).0,
            [-1.0]
        );
        assert_eq!(
            read(&0.125_f64.to_le_bytes(), SampleFormat::F64Le, 1, None).0,
            [0.125]
        );
    }

    #[test]
    fn companded_codes_have_their_known_values() {
        assert_eq!(
            [0x00, 0x7f, 0x80, 0xff, 0x0f].map(mu_law),
            [-32124, 0, 32124, 0, -16764]
        );
        assert_eq!(
            [0x55, 0xd5, 0x2a, 0xaa, 0x00].map(a_law),
            [-8, 8, -32256, 32256, -5504]
        );
    }

    #[test]
    fn channels_are_averaged_or_picked() {
        let bytes: Vec<u8> = [1000_i16, 3000, -200, 400]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let scaled = |x: f32| x / 32768.0;
        assert_eq!(
            read(&bytes, SampleFormat::S16Le, 2, None).0,
            [scaled(2000.0), scaled(100.0)]
        );
        assert_eq!(
            read(&bytes, SampleFormat::S16Le, 2, Some(1)).0,
            [scaled(3000.0), scaled(400.0)]
        );
        // An incomplete frame at the end is dropped.
        assert_eq!(read(&bytes[..7], SampleFormat::S16Le, 2, None).0.len(), 1);
        assert!(read(&bytes, SampleFormat::F64Le, 65_535, None).0.is_empty());
    }

    #[test]
    fn what_is_no_number_becomes_silence() {
        let bytes: Vec<u8> = [0.5, f32::NAN, f32::INFINITY, -1e30, 1.5]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        assert_eq!(
            read(&bytes, SampleFormat::F32Le, 1, None),
            (vec![0.5, 0.0, 0.0, 0.0, 1.5], 3)
        );
        assert_eq!(
            read(&1e300_f64.to_le_bytes(), SampleFormat::F64Le, 1, None),
            (vec![0.0], 1)
        );
    }
}
