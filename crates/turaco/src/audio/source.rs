//! Recordings block by block.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::sniff::{HEAD_BYTES, Kind, is_wave, sniff};
use super::wav::{HeaderError, PcmDecoder, WavHeader, read_header};
use super::{Audio, DecodeOptions, Resampler, audio_error, ffmpeg, read_error, resample};
use crate::Error;

/// What turns one kind of file into mono samples at the file's own rate.
pub(super) trait Decoder: Send {
    /// Rate of the next block in Hz.
    fn sample_rate(&self) -> u32;

    /// Length as far as the file tells.
    fn expected_seconds(&self) -> Option<f64>;

    /// Append a block of mono samples to `mono` and give their rate; `None` at the end. A block may be empty.
    fn next_block(&mut self, mono: &mut Vec<f32>) -> crate::Result<Option<u32>>;

    /// What there is to tell since the last call.
    fn take_notices(&mut self) -> Vec<String>;
}

/// Reads a recording as blocks of mono samples at one rate, in memory that does not grow with its length.
pub struct AudioSource<'a> {
    decoder: Box<dyn Decoder + 'a>,
    sample_rate: u32,
    resampler: Option<(u32, Resampler)>,
    /// Seconds before and in the wanted span, and how much of the input was seen.
    offset: f64,
    duration: Option<f64>,
    seen: f64,
    notices: Vec<String>,
    finished: bool,
}

impl AudioSource<'static> {
    /// Read the file at `path`, of a format found from its content. A FIFO or device is read from start to end.
    ///
    /// # Errors
    /// As [`decode`](super::decode).
    pub fn open(path: impl AsRef<Path>, options: &DecodeOptions) -> crate::Result<Self> {
        let name = path.as_ref();
        let file = File::open(name).map_err(|error| read_error(name, error))?;
        let metadata = file.metadata().map_err(|error| read_error(name, error))?;
        if options.raw.is_some() || !metadata.is_file() {
            return Self::from_reader(file, name, options);
        }
        Self::from_input(&Input::File(name.to_path_buf()), name, options)
    }

    /// Read a file that is in memory; `name` stands for it in messages.
    ///
    /// # Errors
    /// As [`decode`](super::decode).
    pub fn from_bytes(
        bytes: impl Into<Vec<u8>>,
        name: impl AsRef<Path>,
        options: &DecodeOptions,
    ) -> crate::Result<Self> {
        let name = name.as_ref();
        let bytes = SharedBytes(Arc::new(bytes.into()));
        if options.raw.is_some() {
            return AudioSource::from_reader(Cursor::new(bytes), name, options);
        }
        Self::from_input(&Input::Bytes(bytes), name, options)
    }

    fn from_input(input: &Input, name: &Path, options: &DecodeOptions) -> crate::Result<Self> {
        let mut stream = input.open().map_err(|error| read_error(name, error))?;
        let mut head = Vec::new();
        (&mut stream)
            .take(HEAD_BYTES as u64)
            .read_to_end(&mut head)
            .map_err(|error| read_error(name, error))?;
        if head.is_empty() {
            return Err(audio_error(name, "file is empty (zero bytes)"));
        }
        stream.rewind().map_err(|error| read_error(name, error))?;
        let kind = sniff(&head);
        let problem = match kind {
            Kind::Text => return Err(audio_error(name, "file is text, not audio")),
            Kind::Foreign(what) => {
                return Err(audio_error(name, format!("file is {what}, not audio")));
            }
            Kind::Wave => {
                let mut stream = BufReader::new(stream);
                match read_header(&mut stream) {
                    Ok(header) => return Self::pcm(stream, header, name, options),
                    Err(HeaderError::Io(error)) => return Err(read_error(name, error)),
                    Err(HeaderError::Invalid(message)) => return Err(audio_error(name, message)),
                    Err(HeaderError::Codec(codec)) => Self::container(input, kind, name, options)
                        .map_err(|problem| {
                            problem.reword(|_| {
                                format!("WAV file with {codec}, which is not supported")
                            })
                        }),
                }
            }
            _ => Self::container(input, kind, name, options),
        };
        match problem {
            Ok(source) => Ok(source),
            Err(Problem::Final(error)) => Err(error),
            Err(Problem::Unreadable(message)) => Self::external(input, &message, name, options),
        }
    }

    /// The last resort.
    fn external(
        input: &Input,
        problem: &str,
        name: &Path,
        options: &DecodeOptions,
    ) -> crate::Result<Self> {
        let decoder = if options.built_in_only {
            None
        } else {
            ffmpeg::open(OsStr::new("ffmpeg"), input, problem, name, options.channel)
        };
        match decoder {
            Some(decoder) => Self::new(Box::new(decoder?), name, options),
            None => Err(audio_error(name, problem)),
        }
    }

    #[cfg(feature = "decode")]
    fn container(
        input: &Input,
        kind: Kind,
        name: &Path,
        options: &DecodeOptions,
    ) -> Result<Self, Problem> {
        let decoder = super::container::open(input, kind, name, options.channel)?;
        Self::new(Box::new(decoder), name, options).map_err(Problem::Final)
    }

    #[cfg(not(feature = "decode"))]
    fn container(_: &Input, kind: Kind, _: &Path, _: &DecodeOptions) -> Result<Self, Problem> {
        Err(Problem::Unreadable(format!(
            "{} cannot be read: this build decodes only WAV (cargo feature `decode` is off)",
            kind.name()
        )))
    }
}

impl<'a> AudioSource<'a> {
    /// Read what can only be read once. WAV and raw samples are decoded as they come; of other formats, the whole (compressed)
    /// input is read first, because some of them keep their index at the end.
    ///
    /// # Errors
    /// As [`decode`](super::decode).
    pub fn from_reader(
        reader: impl Read + Send + 'a,
        name: impl AsRef<Path>,
        options: &DecodeOptions,
    ) -> crate::Result<Self> {
        let name = name.as_ref();
        let mut reader = BufReader::new(reader);
        if let Some(raw) = options.raw {
            let header = WavHeader {
                sample_format: raw.sample_format,
                channels: raw.channels,
                sample_rate: raw.sample_rate,
                data_bytes: None,
            };
            return Self::pcm(reader, header, name, options);
        }
        let mut head = Vec::new();
        (&mut reader)
            .take(12)
            .read_to_end(&mut head)
            .map_err(|error| read_error(name, error))?;
        if is_wave(&head) {
            let mut recorder = Recorder {
                reader: Cursor::new(std::mem::take(&mut head)).chain(reader),
                seen: Vec::new(),
            };
            match read_header(&mut recorder) {
                Ok(header) => return Self::pcm(recorder.reader, header, name, options),
                Err(HeaderError::Io(error)) => return Err(read_error(name, error)),
                Err(HeaderError::Invalid(message)) => return Err(audio_error(name, message)),
                Err(HeaderError::Codec(_)) => {
                    let mut bytes = recorder.seen;
                    recorder
                        .reader
                        .read_to_end(&mut bytes)
                        .map_err(|error| read_error(name, error))?;
                    return AudioSource::from_bytes(bytes, name, options);
                }
            }
        }
        reader
            .read_to_end(&mut head)
            .map_err(|error| read_error(name, error))?;
        AudioSource::from_bytes(head, name, options)
    }

    fn pcm(
        reader: impl Read + Send + 'a,
        header: WavHeader,
        name: &Path,
        options: &DecodeOptions,
    ) -> crate::Result<Self> {
        check_channel(options.channel, usize::from(header.channels))?;
        let rate = f64::from(header.sample_rate);
        let mut decoder = PcmDecoder::new(reader, header, options.channel, name);
        if let Some(seconds) = options.block_seconds {
            decoder.limit_block((seconds * rate) as usize);
        }
        Self::new(Box::new(decoder), name, options)
    }

    pub(super) fn new(
        decoder: Box<dyn Decoder + 'a>,
        name: &Path,
        options: &DecodeOptions,
    ) -> crate::Result<Self> {
        let native = decoder.sample_rate();
        if !resample::accepts(native) {
            return Err(audio_error(name, resample::refusal(native)));
        }
        let seconds = |option, value: f64| {
            if value >= 0.0 {
                return Ok(value);
            }
            let message = format!("{value} is not a number of seconds");
            Err(Error::InvalidOption { option, message })
        };
        let sample_rate = options.target_rate.unwrap_or(native);
        Ok(Self {
            decoder,
            sample_rate,
            resampler: Some((native, Resampler::new(native, sample_rate)?)),
            offset: seconds("offset", options.offset)?,
            duration: options
                .duration
                .map(|value| seconds("duration", value))
                .transpose()?,
            seen: 0.0,
            notices: Vec::new(),
            finished: false,
        })
    }

    /// Rate of the blocks in Hz.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// How many seconds the blocks will be together, as far as the file tells.
    pub fn expected_duration(&self) -> Option<f64> {
        let rest = (self.decoder.expected_seconds()? - self.offset).max(0.0);
        Some(self.duration.map_or(rest, |duration| duration.min(rest)))
    }

    /// What the user should know so far: truncation, damage, use of an external decoder. Complete after the last block.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// The next block, never an empty one; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Io`] if reading fails; [`Error::Audio`] if there is not one sample where there should be some.
    pub fn next_block(&mut self) -> crate::Result<Option<Vec<f32>>> {
        let mut out = Vec::new();
        while out.is_empty() && !self.finished {
            let mut block = Vec::new();
            let rate = self.decoder.next_block(&mut block);
            self.notices.extend(self.decoder.take_notices());
            match rate {
                Ok(Some(rate)) => self.accept(rate, block, &mut out)?,
                Ok(None) => self.finish(&mut out),
                Err(error) => {
                    self.finished = true;
                    return Err(error);
                }
            }
        }
        Ok((!out.is_empty()).then_some(out))
    }

    /// All blocks as one recording.
    ///
    /// # Errors
    /// As [`next_block`](Self::next_block).
    pub fn collect_audio(mut self) -> crate::Result<Audio> {
        let mut samples = Vec::new();
        while let Some(block) = self.next_block()? {
            samples.extend_from_slice(&block);
        }
        Ok(Audio {
            samples,
            sample_rate: self.sample_rate,
            notices: self.notices,
        })
    }

    /// Take a block at `rate` Hz, cut it to the wanted span and resample it.
    fn accept(&mut self, rate: u32, mut block: Vec<f32>, out: &mut Vec<f32>) -> crate::Result<()> {
        if block.is_empty() {
            return Ok(());
        }
        // Positions are rounded from the start of the recording, so that blocks of any size are cut at the same sample.
        let (begin, len) = (self.seen, block.len());
        let hz = f64::from(rate);
        self.seen += len as f64 / hz;
        let position = |seconds: f64| (((seconds - begin) * hz).round().max(0.0) as usize).min(len);
        let first = position(self.offset);
        let end = self
            .duration
            .map_or(len, |duration| position(self.offset + duration));
        block.truncate(end);
        block.drain(..first.min(block.len()));

        // A stream may change its rate on the way (chained Ogg); each part is resampled on its own.
        match &mut self.resampler {
            Some((current, resampler)) if *current == rate => resampler.push(&block, out),
            _ => {
                if let Some((_, resampler)) = self.resampler.take() {
                    resampler.finish(out);
                }
                let mut resampler = Resampler::new(rate, self.sample_rate)?;
                resampler.push(&block, out);
                self.resampler = Some((rate, resampler));
            }
        }
        if end < len {
            self.finish(out);
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<f32>) {
        if let Some((_, resampler)) = self.resampler.take() {
            resampler.finish(out);
        }
        self.finished = true;
    }
}

impl Iterator for AudioSource<'_> {
    type Item = crate::Result<Vec<f32>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_block().transpose()
    }
}

impl std::fmt::Debug for AudioSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AudioSource")
            .field("sample_rate", &self.sample_rate)
            .field("offset", &self.offset)
            .field("duration", &self.duration)
            .finish_non_exhaustive()
    }
}

/// Why the built-in decoders give nothing.
#[derive(Debug)]
pub(super) enum Problem {
    /// Another decoder will not do better.
    Final(Error),
    /// Another decoder may know it; the text is for the user if there is none.
    Unreadable(String),
}

impl Problem {
    fn reword(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Unreadable(message) => Self::Unreadable(change(message)),
            other => other,
        }
    }
}

/// Whether `channel` exists among `channels`.
pub(super) fn check_channel(channel: Option<usize>, channels: usize) -> crate::Result<()> {
    match channel {
        Some(channel) if channel >= channels => Err(Error::InvalidOption {
            option: "channel",
            message: format!(
                "there is no channel {channel}; the input has {channels}, counted from 0"
            ),
        }),
        _ => Ok(()),
    }
}

/// A seekable input that can be opened more than once.
pub(super) enum Input {
    /// A regular file.
    File(PathBuf),
    /// A file in memory.
    Bytes(SharedBytes),
}

impl Input {
    pub(super) fn open(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::File(path) => Box::new(File::open(path)?),
            Self::Bytes(bytes) => Box::new(Cursor::new(bytes.clone())),
        })
    }
}

/// An open seekable input.
pub(super) trait Stream: Read + Seek + Send + Sync {}
impl<T: Read + Seek + Send + Sync> Stream for T {}

/// Bytes that several readers share.
#[derive(Clone)]
pub(super) struct SharedBytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Remembers what was read, for a second look.
struct Recorder<R> {
    reader: R,
    seen: Vec<u8>,
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.seen.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}
