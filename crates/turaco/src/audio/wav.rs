//! WAV files: RIFF and RF64/BW64, PCM of any depth, float, mu-law, A-law, also through `WAVE_FORMAT_EXTENSIBLE`.
//!
//! Everything is read from start to end, so that pipes work, also with the placeholder lengths that programs write to a pipe.
//! Codecs inside WAV (ADPCM, MP3) are left to the container decoder.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::raw::{PcmReader, SampleFormat, damage_notice};
use super::source::Decoder;
use super::{audio_error, read_error, resample};

/// Lengths from here on are placeholders of writers that could not know: 0x7ffff000 (SoX), 0x80000000 (arecord), 0xffffffff.
const PLACEHOLDER_LENGTH: u32 = 0x7fff_f000;
/// Of the format chunk, the longest form that is understood has this many bytes.
const FORMAT_BYTES: u64 = 40;

/// What stands before the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WavHeader {
    pub(super) sample_format: SampleFormat,
    pub(super) channels: u16,
    pub(super) sample_rate: u32,
    /// Length of the samples in bytes; `None` means until the end.
    pub(super) data_bytes: Option<u64>,
}

/// Why a header gives no samples.
#[derive(Debug)]
pub(super) enum HeaderError {
    /// Reading failed.
    Io(io::Error),
    /// The file is no correct WAV file; the text says where.
    Invalid(String),
    /// The file is correct but holds a codec that is not read here.
    Codec(String),
}

impl From<io::Error> for HeaderError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::Invalid("WAV file ends before its first sample".into())
        } else {
            Self::Io(error)
        }
    }
}

/// Read a header; afterwards `reader` is at the first sample.
pub(super) fn read_header(reader: &mut impl Read) -> Result<WavHeader, HeaderError> {
    let mut riff = [0; 12];
    reader.read_exact(&mut riff)?;
    let riff_length = u32_at(&riff, 4);
    // Bytes so far that the length of the whole file counts.
    let mut counted = 4_u64;
    let mut long_length = None;
    let mut format = None;
    loop {
        let mut chunk = [0; 8];
        reader.read_exact(&mut chunk)?;
        let length = u32_at(&chunk, 4);
        counted += 8;
        let mut body = vec![];
        match &chunk[..4] {
            b"data" => {
                let (sample_format, channels, sample_rate) = format.ok_or_else(|| {
                    HeaderError::Invalid(
                        "WAV file without a `fmt ` chunk before its samples".into(),
                    )
                })?;
                // A writer that could not go back, or was killed: nothing is promised behind this, so what stands there are
                // samples.
                let unfinished =
                    length == 0 && (u64::from(riff_length) <= counted || riff_length == u32::MAX);
                let data_bytes = match length {
                    u32::MAX if long_length.is_some() => long_length,
                    length if length >= PLACEHOLDER_LENGTH || unfinished => None,
                    length => Some(u64::from(length)),
                };
                return Ok(WavHeader {
                    sample_format,
                    channels,
                    sample_rate,
                    data_bytes,
                });
            }
            b"fmt " => {
                reader
                    .take(u64::from(length).min(FORMAT_BYTES))
                    .read_to_end(&mut body)?;
                format = Some(read_format(&body)?);
            }
            b"ds64" => {
                reader
                    .take(u64::from(length).min(24))
                    .read_to_end(&mut body)?;
                long_length = body
                    .get(8..16)
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(u64::from_le_bytes)
                    .filter(|length| !matches!(*length, 0 | u64::MAX));
            }
            _ => {}
        }
        // Chunks begin at even offsets.
        let padded = u64::from(length) + u64::from(length % 2);
        counted += padded;
        let rest = padded - body.len() as u64;
        if io::copy(&mut reader.take(rest), &mut io::sink())? < rest {
            return Err(HeaderError::Invalid(
                "WAV file ends before its first sample".into(),
            ));
        }
    }
}

/// Sample format, channels and rate from a format chunk.
fn read_format(body: &[u8]) -> Result<(SampleFormat, u16, u32), HeaderError> {
    if body.len() < 16 {
        return Err(HeaderError::Invalid(format!(
            "WAV format chunk has {} bytes, at least 16 are needed",
            body.len()
        )));
    }
    let mut tag = u16_at(body, 0);
    let channels = u16_at(body, 2);
    let sample_rate = u32_at(body, 4);
    let block_align = u16_at(body, 12);
    let bits = u16_at(body, 14);
    if tag == 0xfffe && body.len() >= 26 {
        // Extensible: the tag is in the first bytes of the sub-format.
        tag = u16_at(body, 24);
    }
    if channels == 0 {
        return Err(HeaderError::Invalid("WAV file with 0 channels".into()));
    }
    if !resample::accepts(sample_rate) {
        return Err(HeaderError::Invalid(resample::refusal(sample_rate)));
    }
    // Samples fill their container from the top, so its width is what counts.
    let width = if block_align > 0 && block_align.is_multiple_of(channels) {
        block_align / channels
    } else {
        bits.div_ceil(8)
    };
    let sample_format = match (tag, width) {
        (1, 1) => SampleFormat::U8,
        (1, 2) => SampleFormat::S16Le,
        (1, 3) => SampleFormat::S24Le,
        (1, 4) => SampleFormat::S32Le,
        (3, 4) => SampleFormat::F32Le,
        (3, 8) => SampleFormat::F64Le,
        (6, 1) => SampleFormat::ALaw,
        (7, 1) => SampleFormat::MuLaw,
        (1 | 3, _) => {
            return Err(HeaderError::Invalid(format!(
                "WAV file with {bits}-bit {} samples",
                if tag == 1 { "PCM" } else { "float" }
            )));
        }
        _ => return Err(HeaderError::Codec(codec_name(tag))),
    };
    Ok((sample_format, channels, sample_rate))
}

/// Name of a format tag that is not plain samples.
fn codec_name(tag: u16) -> String {
    let name = match tag {
        0x0002 => "Microsoft ADPCM",
        0x0011 => "IMA ADPCM",
        0x0031 => "GSM 6.10",
        0x0050 => "MPEG audio",
        0x0055 => "MP3",
        0x00ff | 0x1600 | 0x1610 => "AAC",
        0x0160..=0x0163 => "Windows Media Audio",
        0x2000 => "AC-3",
        0x674f..=0x6771 => "Vorbis",
        _ => return format!("codec 0x{tag:04x}"),
    };
    name.into()
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes([
        bytes[offset],
        bytes[offset + 1],
        bytes[offset + 2],
        bytes[offset + 3],
    ])
}

/// Plain samples from a reader: the body of a WAV file, or raw PCM.
pub(super) struct PcmDecoder<R> {
    pcm: PcmReader<io::Take<R>>,
    name: PathBuf,
    sample_rate: u32,
    /// Frames promised by the header.
    expected: Option<u64>,
    decoded: u64,
    notices: Vec<String>,
}

impl<R: Read> PcmDecoder<R> {
    /// Samples as `header` describes them, from where `reader` stands.
    pub(super) fn new(reader: R, header: WavHeader, channel: Option<usize>, name: &Path) -> Self {
        let channels = usize::from(header.channels);
        let frame_bytes = (header.sample_format.bytes() * channels) as u64;
        let limit = header.data_bytes.unwrap_or(u64::MAX);
        Self {
            pcm: PcmReader::new(reader.take(limit), header.sample_format, channels, channel),
            name: name.to_path_buf(),
            sample_rate: header.sample_rate,
            expected: header.data_bytes.map(|bytes| bytes / frame_bytes),
            decoded: 0,
            notices: Vec::new(),
        }
    }

    /// Give out at most this many frames at a time.
    pub(super) fn limit_block(&mut self, frames: usize) {
        self.pcm.limit_block(frames);
    }
}

impl<R: Read + Send> Decoder for PcmDecoder<R> {
    fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    fn expected_seconds(&self) -> Option<f64> {
        self.expected
            .map(|frames| frames as f64 / f64::from(self.sample_rate))
    }

    fn next_block(&mut self, mono: &mut Vec<f32>) -> crate::Result<Option<u32>> {
        let frames = self
            .pcm
            .next_block(mono)
            .map_err(|error| read_error(&self.name, error))?;
        self.decoded += frames as u64;
        if frames > 0 {
            return Ok(Some(self.sample_rate));
        }
        if self
            .expected
            .is_some_and(|expected| self.decoded < expected)
        {
            if self.decoded == 0 {
                return Err(audio_error(
                    &self.name,
                    "file is truncated before its first sample",
                ));
            }
            let seconds = self.decoded as f64 / f64::from(self.sample_rate);
            self.notices
                .push(format!("file is truncated: {seconds:.2} s decoded"));
        }
        self.notices.extend(damage_notice(self.pcm.damaged));
        Ok(None)
    }

    fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }
}
