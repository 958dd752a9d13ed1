//! Sound as files and streams in the formats that people listen to.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use super::encode::{WavFormat, wav_header};
#[cfg(feature = "mp3")]
use super::mp3::Mp3Writer;
#[cfg(feature = "encode")]
use super::{flac::FlacWriter, ogg_opus::OggOpusWriter};

/// How sound is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SoundFormat {
    /// WAV, 16 bit.
    Wav,
    /// 16-bit samples, little endian, nothing else.
    Pcm,
    /// FLAC, 16 bit; lossless.
    Flac,
    /// Opus in Ogg.
    Opus,
    /// MP3, in builds with the cargo feature `mp3`.
    Mp3,
}

impl SoundFormat {
    /// All formats.
    pub const ALL: [Self; 5] = [Self::Wav, Self::Pcm, Self::Flac, Self::Opus, Self::Mp3];

    /// The short name, which is also the usual ending of files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wav => "wav",
            Self::Pcm => "pcm",
            Self::Flac => "flac",
            Self::Opus => "opus",
            Self::Mp3 => "mp3",
        }
    }

    /// Whether this build can write it.
    pub const fn is_available(self) -> bool {
        match self {
            Self::Wav | Self::Pcm => true,
            Self::Flac | Self::Opus => cfg!(feature = "encode"),
            Self::Mp3 => cfg!(feature = "mp3"),
        }
    }
}

impl fmt::Display for SoundFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SoundFormat {
    type Err = String;

    /// By name or usual ending of files, in any case.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_lowercase().as_str() {
            "wav" | "wave" => Ok(Self::Wav),
            "pcm" | "raw" | "s16le" => Ok(Self::Pcm),
            "flac" => Ok(Self::Flac),
            "opus" | "ogg" | "oga" => Ok(Self::Opus),
            "mp3" => Ok(Self::Mp3),
            other => Err(format!("`{other}` is none of wav, pcm, flac, opus, mp3")),
        }
    }
}

/// Writes mono sound while it comes.
///
/// What cannot be known before the end is written as unknown: nothing is rewound. Where that can be done, put what
/// [`finish_with_head`](Self::finish_with_head) gives over the first bytes.
pub struct SoundWriter<W> {
    writer: W,
    kind: Kind,
    sample_rate: u32,
    n_samples: u64,
}

enum Kind {
    Wav,
    Pcm,
    #[cfg(feature = "encode")]
    Flac(Box<FlacWriter>),
    #[cfg(feature = "encode")]
    Opus(Box<OggOpusWriter>),
    #[cfg(feature = "mp3")]
    Mp3(Mp3Writer),
}

impl<W: Write> SoundWriter<W> {
    /// Writes what comes before the first samples.
    ///
    /// # Errors
    /// Those of the writer; [`io::ErrorKind::Unsupported`] for a sample rate that the format does not have, or a format that this
    /// build has not.
    pub fn new(mut writer: W, format: SoundFormat, sample_rate: u32) -> io::Result<Self> {
        let kind = match format {
            SoundFormat::Wav => {
                writer.write_all(&wav_header(sample_rate, WavFormat::S16, None))?;
                Kind::Wav
            }
            SoundFormat::Pcm => Kind::Pcm,
            #[cfg(feature = "encode")]
            SoundFormat::Flac => {
                let flac = FlacWriter::new(sample_rate)?;
                writer.write_all(&flac.header(false)?)?;
                Kind::Flac(Box::new(flac))
            }
            #[cfg(feature = "encode")]
            SoundFormat::Opus => {
                let opus = OggOpusWriter::new(sample_rate)?;
                writer.write_all(&opus.header())?;
                Kind::Opus(Box::new(opus))
            }
            #[cfg(feature = "mp3")]
            SoundFormat::Mp3 => Kind::Mp3(Mp3Writer::new(sample_rate)?),
            #[cfg(not(all(feature = "encode", feature = "mp3")))]
            other => {
                let feature = match other {
                    SoundFormat::Mp3 => "mp3",
                    _ => "encode",
                };
                let message = format!(
                    "{other} is not in this build, which has to be made with the cargo feature `{feature}`"
                );
                return Err(io::Error::new(io::ErrorKind::Unsupported, message));
            }
        };
        Ok(Self {
            writer,
            kind,
            sample_rate,
            n_samples: 0,
        })
    }

    /// More samples, full scale 1; louder ones are clipped.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&mut self, samples: &[f32]) -> io::Result<()> {
        self.n_samples += samples.len() as u64;
        match &mut self.kind {
            Kind::Wav | Kind::Pcm => {
                let bytes: Vec<u8> = samples.iter().flat_map(|&x| s16(x).to_le_bytes()).collect();
                self.writer.write_all(&bytes)
            }
            #[cfg(feature = "encode")]
            Kind::Flac(flac) => {
                let frames = flac.push(samples)?;
                self.writer.write_all(&frames)
            }
            #[cfg(feature = "encode")]
            Kind::Opus(opus) => {
                let page = opus.push(samples)?;
                self.writer.write_all(&page)
            }
            #[cfg(feature = "mp3")]
            Kind::Mp3(mp3) => {
                let frames = mp3.push(samples)?;
                self.writer.write_all(&frames)
            }
        }
    }

    /// What was written to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.writer
    }

    /// Write the rest, flush, and give the writer back.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(self) -> io::Result<W> {
        self.finish_with_head().map(|(writer, _)| writer)
    }

    /// As [`finish`](Self::finish), and the first bytes as they would have been written if all had been known: lengths.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish_with_head(mut self) -> io::Result<(W, Vec<u8>)> {
        let mut head = Vec::new();
        match self.kind {
            Kind::Wav => {
                let bytes = u32::try_from(2 * self.n_samples).ok();
                let bytes = bytes.filter(|bytes| *bytes <= u32::MAX - 64);
                head = wav_header(self.sample_rate, WavFormat::S16, bytes);
            }
            Kind::Pcm => {}
            #[cfg(feature = "encode")]
            Kind::Flac(mut flac) => {
                self.writer.write_all(&flac.finish()?)?;
                head = flac.header(true)?;
            }
            #[cfg(feature = "encode")]
            Kind::Opus(opus) => self.writer.write_all(&opus.finish()?)?,
            #[cfg(feature = "mp3")]
            Kind::Mp3(mp3) => self.writer.write_all(&mp3.finish()?)?,
        }
        self.writer.flush()?;
        Ok((self.writer, head))
    }
}

/// Rounded to nearest and clipped; `as` does the clipping, and makes zero of what is no number.
pub(super) fn s16(sample: f32) -> i16 {
    (sample * 32_768.0).round() as i16
}

#[cfg(all(test, feature = "encode", feature = "decode"))]
mod tests {
    use super::*;
    use crate::Audio;

    fn tone(n_samples: usize) -> Vec<f32> {
        let wave = |n: usize| 0.4 * (n as f32 * 0.07).sin() + 0.2 * (n as f32 * 0.31).sin();
        (0..n_samples).map(wave).collect()
    }

    fn written(samples: &[f32], format: SoundFormat, rate: u32, piece: usize) -> Vec<u8> {
        let mut writer = SoundWriter::new(Vec::new(), format, rate).unwrap();
        for samples in samples.chunks(piece) {
            writer.write(samples).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn lossless_formats_lose_nothing() {
        for len in [0, 1, 4095, 4096, 30_001] {
            let samples: Vec<f32> = tone(len)
                .iter()
                .map(|&x| f32::from(s16(x)) / 32_768.0)
                .collect();
            for format in [SoundFormat::Wav, SoundFormat::Flac] {
                let bytes = written(&samples, format, 24_000, 1920);
                if len == 0 && format == SoundFormat::Flac {
                    assert!(bytes.starts_with(b"fLaC"));
                    continue;
                }
                let audio = Audio::from_bytes(bytes, format!("a.{format}")).unwrap();
                assert!(audio.samples() == samples, "{format} {len}");
                assert_eq!(audio.sample_rate(), 24_000);
            }
        }
    }

    #[test]
    fn sound_comes_out_while_it_goes_in() {
        let samples = tone(48_000);
        for format in SoundFormat::ALL.into_iter().filter(|f| f.is_available()) {
            let mut writer = SoundWriter::new(Vec::new(), format, 24_000).unwrap();
            let mut before = writer.get_mut().len();
            // Half a second is more than any format's block.
            for samples in samples.chunks(12_000) {
                writer.write(samples).unwrap();
                let len = writer.get_mut().len();
                assert!(len > before + 500, "{format}: {before} {len}");
                before = len;
            }
        }
    }

    #[test]
    fn what_is_known_at_the_end_fits_over_the_first_bytes() {
        for len in [1, 4096, 30_001] {
            let samples = tone(len);
            for format in [SoundFormat::Wav, SoundFormat::Flac] {
                let mut writer = SoundWriter::new(Vec::new(), format, 24_000).unwrap();
                let begun = writer.get_mut().len();
                writer.write(&samples).unwrap();
                let (mut bytes, head) = writer.finish_with_head().unwrap();
                assert_eq!(head.len(), begun);
                assert!(bytes[..begun] != head);
                bytes[..begun].copy_from_slice(&head);
                let n_samples = match format {
                    SoundFormat::Wav => u64::from(bytes[40]) + 256 * u64::from(bytes[41]),
                    // 36 bits behind sizes of blocks and frames, the rate, channels and bits of a sample.
                    _ => u64::from_be_bytes(bytes[18..26].try_into().unwrap()) & ((1 << 36) - 1),
                };
                let width = if format == SoundFormat::Wav { 2 } else { 1 };
                assert_eq!(n_samples, (width * len as u64) % 65_536, "{format}");
                let audio = Audio::from_bytes(bytes, format!("a.{format}")).unwrap();
                assert_eq!(audio.samples().len(), len, "{format}");
            }
        }
    }

    #[test]
    fn opus_sounds_as_it_did() {
        for (rate, len) in [(24_000, 48_000), (48_000, 50_000), (16_000, 16_001)] {
            let samples = tone(len);
            for piece in [1920, 77, len] {
                let bytes = written(&samples, SoundFormat::Opus, rate, piece);
                let audio = Audio::from_bytes(bytes, "a.opus")
                    .unwrap()
                    .resampled(rate)
                    .unwrap();
                let off = audio.samples().len().abs_diff(len);
                assert!(
                    off <= 2,
                    "{rate} {piece}: {} of {len}",
                    audio.samples().len()
                );
                // Where they lie beside each other best, nearly all of the energy is the same.
                let (mut signal, mut noise) = (0.0, 0.0);
                for (a, b) in samples[2000..]
                    .iter()
                    .zip(&audio.samples()[2000..])
                    .take(len - 5000)
                {
                    signal += a * a;
                    noise += (a - b) * (a - b);
                }
                assert!(noise < 0.1 * signal, "{rate} {piece}: {noise} in {signal}");
            }
        }
        assert!(SoundWriter::new(Vec::new(), SoundFormat::Opus, 44_100).is_err());
    }

    #[test]
    fn what_a_build_cannot_write_says_how_to_get_it() {
        for format in SoundFormat::ALL {
            match SoundWriter::new(Vec::new(), format, 24_000) {
                Ok(_) => assert!(format.is_available()),
                Err(error) => {
                    assert!(!format.is_available());
                    assert!(error.to_string().contains(format.name()), "{error}");
                }
            }
        }
    }

    #[cfg(feature = "mp3")]
    #[test]
    fn mp3_sounds_as_it_did() {
        for (rate, len) in [
            (24_000, 48_000),
            (48_000, 50_000),
            (44_100, 44_100),
            (16_000, 16_001),
        ] {
            let samples = tone(len);
            let mut same = None;
            for piece in [1920, 77, len] {
                let bytes = written(&samples, SoundFormat::Mp3, rate, piece);
                let first = same.get_or_insert_with(|| bytes.clone());
                assert!(first == &bytes, "{rate} {piece}");
            }
            let audio = Audio::from_bytes(same.unwrap_or_default(), "a.mp3").unwrap();
            assert!(audio.notices().is_empty(), "{:?}", audio.notices());
            let original = Audio::from_samples(samples, rate).unwrap();
            let original = original.resampled(audio.sample_rate()).unwrap();
            let (samples, heard) = (original.samples(), audio.samples());
            // The last frame is filled up with silence, and encoder and decoder look ahead.
            let n_more = heard.len().checked_sub(samples.len());
            assert!(
                n_more.is_some_and(|more| more <= 3 * 1152),
                "{rate}: {n_more:?}"
            );
            let correlation = |lag: usize| {
                let (mut product, mut squares) = (0.0_f64, [0.0_f64; 2]);
                for (a, b) in samples.iter().zip(&heard[lag..]) {
                    product += f64::from(a * b);
                    squares[0] += f64::from(a * a);
                    squares[1] += f64::from(b * b);
                }
                product / (squares[0] * squares[1]).sqrt().max(1e-9)
            };
            let best = (0..=heard.len() - samples.len())
                .map(correlation)
                .fold(0.0, f64::max);
            assert!(best > 0.99, "{rate}: {best}");
        }
        assert!(SoundWriter::new(Vec::new(), SoundFormat::Mp3, 0).is_err());
    }

    #[test]
    fn writers_go_from_thread_to_thread() {
        fn check<T: Send>() {}
        check::<SoundWriter<Vec<u8>>>();
    }
}
