//! Compressed audio and containers, through the Symphonia crates.
//!
//! Symphonia is pure Rust and safe, but parses untrusted files with arithmetic that may panic; each call into it is fenced, and a
//! panic becomes an [`Error::Audio`](crate::Error::Audio).

use std::io::{self, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known as codec;
use symphonia::core::codecs::audio::{
    AudioCodecId, AudioCodecParameters, AudioDecoder, AudioDecoderOptions,
};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, Track, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;

use super::opus::{self, OpusPackets};
use super::raw::{damage_notice, plausible};
use super::sniff::Kind;
use super::source::{Decoder, Input, Problem, Stream, check_channel};
use super::{audio_error, mp4, read_error};

/// Damaged packets in a row after which the rest is given up.
const MAX_DAMAGED_PACKETS: u32 = 500;
/// Silence put in place of one damaged packet is at most this long, whatever the packet claims.
const MAX_GAP_SECONDS: f64 = 1.0;
/// A bare MPEG stream without signature has to begin with this many good packets to be believed.
const PROOF_PACKETS: u32 = 3;

/// What to say about a file that stops in the middle of something.
const UNEXPECTED_END: &str = "it ends unexpectedly";

/// Decodes the first audio track of a container.
pub(super) struct ContainerDecoder {
    name: PathBuf,
    format: Box<dyn FormatReader>,
    codec: Codec,
    track: TrackState,
    channel: Option<usize>,
    /// Interleaved samples of one packet.
    packet: Vec<f32>,
    /// Blocks decoded while opening.
    ready: Option<(u32, Vec<f32>)>,
    ended: bool,
    notices: Vec<String>,
    damaged_packets: u64,
    damaged_samples: u64,
}

/// What decodes the packets.
enum Codec {
    Symphonia(Box<dyn AudioDecoder>),
    Opus(Box<OpusPackets>),
}

/// Where we are in the track.
struct TrackState {
    id: u32,
    rate: u32,
    /// Frames that the file says there are.
    expected: Option<u64>,
    /// Seconds per tick of a packet's duration.
    tick: f64,
    /// Frames to drop at the start, and frames to give at most, by the edit list.
    skip: u64,
    left: u64,
    decoded: u64,
    good_packets: u32,
    damaged_in_a_row: u32,
}

/// Open the first audio track of `input` and decode its first block.
pub(super) fn open(
    input: &Input,
    kind: Kind,
    name: &Path,
    channel: Option<usize>,
) -> Result<ContainerDecoder, Problem> {
    let unreadable =
        |message: &str| Problem::Unreadable(format!("{} cannot be read: {message}", kind.name()));
    let mut probed = probe(input, name, true)?;
    if probed.is_err() && kind != Kind::Unknown {
        // Readers that may seek look for what comes after the samples, and fail where a file is cut off. In one pass, what
        // is there can be had.
        probed = probe(input, name, false)?;
    }
    let format = probed.map_err(|message| match kind {
        Kind::Unknown => Problem::Unreadable("file is not audio, or of an unknown format".into()),
        _ => unreadable(&message),
    })?;
    let track = select_track(format.as_ref()).map_err(|message| unreadable(&message))?;
    let (mut state, parameters) = TrackState::new(track);
    let codec = make_codec(&parameters, &mut state).map_err(|message| unreadable(&message))?;
    if let Some(channels) = parameters
        .channels
        .as_ref()
        .map(|channels| channels.count())
        && channels > 0
    {
        check_channel(channel, channels).map_err(Problem::Final)?;
    }
    if kind == Kind::Mp4
        && let Ok(mut stream) = input.open()
        && let Some(edit) = mp4::edit_of_track(&mut stream, state.id)
    {
        state.apply_edit(edit);
    }
    let mut opened = ContainerDecoder {
        name: name.to_path_buf(),
        format,
        codec,
        track: state,
        channel,
        packet: Vec::new(),
        ready: None,
        ended: false,
        notices: Vec::new(),
        damaged_packets: 0,
        damaged_samples: 0,
    };
    opened.prove(kind)?;
    Ok(opened)
}

/// Find out the container; the inner error is for the user.
fn probe(
    input: &Input,
    name: &Path,
    seekable: bool,
) -> Result<Result<Box<dyn FormatReader>, String>, Problem> {
    let source = input
        .open()
        .and_then(|stream| Source::new(stream, seekable))
        .map_err(|error| Problem::Final(read_error(name, error)))?;
    Ok(fenced(|| {
        symphonia::default::get_probe().probe(
            &Hint::new(),
            MediaSourceStream::new(Box::new(source), Default::default()),
            FormatOptions::default(),
            MetadataOptions::default(),
        )
    }))
}

impl ContainerDecoder {
    /// Decode until something comes out, so that a file that cannot be decoded is known as such at once.
    fn prove(&mut self, kind: Kind) -> Result<(), Problem> {
        let wanted = if kind == Kind::Unknown {
            PROOF_PACKETS
        } else {
            1
        };
        let mut mono = Vec::new();
        let mut rate = self.track.rate;
        while self.track.good_packets < wanted {
            match self.advance(&mut mono) {
                Ok(Some(new_rate)) => rate = new_rate,
                Ok(None) => break,
                Err(message) => {
                    return Err(Problem::Unreadable(format!(
                        "{} cannot be read: {message}",
                        kind.name()
                    )));
                }
            }
            if kind == Kind::Unknown && self.damaged_packets > 0 {
                return Err(Problem::Unreadable(
                    "file is not audio, or of an unknown format".into(),
                ));
            }
        }
        if self.track.good_packets == 0 {
            let expected = self.track.expected.is_some_and(|frames| frames > 0);
            if self.damaged_packets > 0 || expected || kind == Kind::Unknown {
                return Err(Problem::Unreadable(format!(
                    "{} has no sample that can be decoded; it is damaged or truncated",
                    kind.name()
                )));
            }
        }
        self.track.rate = rate;
        self.ready = Some((rate, mono));
        Ok(())
    }

    /// Decode one packet onto `mono`; gives its rate, or `None` at the end of the track.
    fn advance(&mut self, mono: &mut Vec<f32>) -> Result<Option<u32>, String> {
        if self.ended {
            return Ok(None);
        }
        let packet = match fenced_raw(|| self.format.next_packet()) {
            Ok(Ok(Some(packet))) => packet,
            Ok(Ok(None)) => return self.end(None),
            // The next part of a chained stream.
            Ok(Err(SymphoniaError::ResetRequired)) => return self.restart(),
            Ok(Err(error)) => return self.end(Some(describe(error))),
            Err(panic) => return self.end(Some(panic)),
        };
        if packet.track_id != self.track.id {
            return Ok(Some(self.track.rate));
        }
        match self.decode(&packet) {
            Ok((rate, channels)) => {
                self.track.good_packets = self.track.good_packets.saturating_add(1);
                self.track.damaged_in_a_row = 0;
                self.track.rate = rate;
                self.mix(channels, mono)?;
                Ok(Some(rate))
            }
            Err(message) => {
                self.damaged_packets += 1;
                self.track.damaged_in_a_row += 1;
                if self.track.damaged_in_a_row > MAX_DAMAGED_PACKETS {
                    return self.end(Some(message));
                }
                // Keep the time of what follows.
                if self.track.good_packets > 0 {
                    let seconds = (packet.dur.get() as f64 * self.track.tick).min(MAX_GAP_SECONDS);
                    let frames = (seconds * f64::from(self.track.rate)).round() as usize;
                    self.packet.clear();
                    self.packet.resize(frames, 0.0);
                    let channel = self.channel.take();
                    self.mix(1, mono)?;
                    self.channel = channel;
                }
                Ok(Some(self.track.rate))
            }
        }
    }

    /// Decode into `self.packet`; gives rate and channels.
    fn decode(&mut self, packet: &Packet) -> Result<(u32, usize), String> {
        let interleaved = &mut self.packet;
        interleaved.clear();
        match &mut self.codec {
            Codec::Symphonia(decoder) => fenced(|| {
                let buffer = decoder.decode(packet)?;
                let (rate, channels) = (buffer.spec().rate(), buffer.spec().channels().count());
                buffer.copy_to_vec_interleaved(interleaved);
                Ok((rate, channels))
            }),
            Codec::Opus(decoder) => {
                fenced_raw(|| decoder.decode(&packet.data, packet.trim_end.get(), interleaved))??;
                Ok((opus::SAMPLE_RATE, decoder.channels()))
            }
        }
    }

    /// Mix `self.packet` down onto `mono`, without what the edit list hides.
    fn mix(&mut self, channels: usize, mono: &mut Vec<f32>) -> Result<(), String> {
        let channels = channels.max(1);
        check_channel(self.channel, channels).map_err(|error| error.to_string())?;
        let frames = (self.packet.len() / channels) as u64;
        self.track.decoded += frames;
        let skip = self.track.skip.min(frames);
        self.track.skip -= skip;
        let keep = self.track.left.min(frames - skip);
        self.track.left -= keep;
        let mut damaged = 0;
        let mut finite = |x: f32| {
            plausible(x).unwrap_or_else(|| {
                damaged += 1;
                0.0
            })
        };
        let frames = self
            .packet
            .chunks_exact(channels)
            .skip(skip as usize)
            .take(keep as usize);
        match self.channel {
            Some(channel) => mono.extend(frames.map(|frame| finite(frame[channel]))),
            None => mono.extend(frames.map(|frame| {
                let sum: f32 = frame.iter().map(|x| finite(*x)).sum();
                sum / channels as f32
            })),
        }
        self.damaged_samples += damaged;
        Ok(())
    }

    /// Go on with the next part of a chained stream.
    fn restart(&mut self) -> Result<Option<u32>, String> {
        let opened = select_track(self.format.as_ref()).and_then(|track| {
            let (mut state, parameters) = TrackState::new(track);
            let codec = make_codec(&parameters, &mut state)?;
            Ok((state, codec))
        });
        match opened {
            Ok((state, codec)) => {
                self.codec = codec;
                self.track = TrackState {
                    decoded: 0,
                    good_packets: self.track.good_packets,
                    expected: None,
                    ..state
                };
                Ok(Some(self.track.rate))
            }
            Err(message) => self.end(Some(message)),
        }
    }

    /// The end, natural or by `problem`.
    fn end(&mut self, problem: Option<String>) -> Result<Option<u32>, String> {
        self.ended = true;
        let seconds = |frames: u64| frames as f64 / f64::from(self.track.rate.max(1));
        let decoded = seconds(self.track.decoded);
        let missing = self
            .track
            .expected
            .map(|expected| seconds(expected) - decoded)
            // Encoder delay and rounding make small differences.
            .filter(|missing| *missing > 0.25);
        if self.track.good_packets == 0 {
            return match problem {
                Some(problem) => Err(problem),
                None => Ok(None),
            };
        }
        if let Some(missing) = missing {
            self.notices.push(format!(
                "file is truncated: {decoded:.2} s decoded of {:.2} s",
                decoded + missing
            ));
        } else if let Some(problem) = problem {
            self.notices.push(format!(
                "file is truncated or damaged: {decoded:.2} s decoded, then {problem}"
            ));
        }
        if self.damaged_packets > 0 {
            self.notices.push(format!(
                "{} damaged packets became silence",
                self.damaged_packets
            ));
        }
        self.notices.extend(damage_notice(self.damaged_samples));
        Ok(None)
    }
}

impl Decoder for ContainerDecoder {
    fn sample_rate(&self) -> u32 {
        self.track.rate
    }

    fn expected_seconds(&self) -> Option<f64> {
        let frames = self
            .track
            .expected?
            .saturating_sub(self.track.skip)
            .min(self.track.left);
        (self.track.rate > 0).then(|| frames as f64 / f64::from(self.track.rate))
    }

    fn next_block(&mut self, mono: &mut Vec<f32>) -> crate::Result<Option<u32>> {
        if let Some((rate, samples)) = self.ready.take() {
            *mono = samples;
            return Ok(Some(rate));
        }
        self.advance(mono)
            .map_err(|message| audio_error(&self.name, message))
    }

    fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }
}

impl TrackState {
    fn new(track: &Track) -> (Self, AudioCodecParameters) {
        let parameters = match &track.codec_params {
            Some(CodecParameters::Audio(parameters)) => parameters.clone(),
            _ => AudioCodecParameters::new(),
        };
        let rate = parameters.sample_rate.unwrap_or(0);
        let tick = track.time_base.map_or(0.0, |base| {
            f64::from(base.numer.get()) / f64::from(base.denom.get())
        });
        let state = Self {
            id: track.id,
            rate,
            expected: track.num_frames,
            tick,
            skip: 0,
            left: u64::MAX,
            decoded: 0,
            good_packets: 0,
            damaged_in_a_row: 0,
        };
        (state, parameters)
    }

    /// Present only what the edit list of an MP4 file shows.
    fn apply_edit(&mut self, edit: mp4::Edit) {
        let frames = |units: u64, scale: u32| {
            (units as f64 / f64::from(scale) * f64::from(self.rate)).round() as u64
        };
        let skip = frames(edit.start, edit.timescale);
        // An edit that hides everything is an error of the file.
        if self.expected.is_some_and(|expected| skip >= expected) {
            return;
        }
        self.skip = skip;
        if edit.movie_duration > 0 {
            // Movie units are coarse (often milliseconds): round up, so that nothing is lost.
            let units = edit.movie_duration as f64 + 1.0;
            self.left =
                (units / f64::from(edit.movie_timescale) * f64::from(self.rate)).ceil() as u64;
        }
    }
}

/// The first audio track, preferably one whose codec is known.
fn select_track(format: &dyn FormatReader) -> Result<&Track, String> {
    format
        .first_track_known_codec(TrackType::Audio)
        .or_else(|| format.first_track(TrackType::Audio))
        .ok_or_else(|| "it has no audio track with a known codec".into())
}

/// The decoder for a track; Opus also tells how much of its start to skip.
fn make_codec(parameters: &AudioCodecParameters, state: &mut TrackState) -> Result<Codec, String> {
    if parameters.codec == codec::CODEC_ID_OPUS {
        let head = parameters.extra_data.as_deref().unwrap_or_default();
        let (packets, pre_skip) = fenced_raw(|| OpusPackets::new(head))??;
        state.rate = opus::SAMPLE_RATE;
        state.skip = pre_skip;
        return Ok(Codec::Opus(Box::new(packets)));
    }
    let registry = symphonia::default::get_codecs();
    fenced(|| registry.make_audio_decoder(parameters, &AudioDecoderOptions::default()))
        .map(Codec::Symphonia)
        .map_err(|message| {
            format!(
                "codec {} is not supported ({message})",
                codec_name(parameters.codec)
            )
        })
}

/// Name of a codec for messages.
fn codec_name(id: AudioCodecId) -> String {
    let name = match id {
        codec::CODEC_ID_AAC => "AAC",
        codec::CODEC_ID_AC3 => "AC-3",
        codec::CODEC_ID_EAC3 => "E-AC-3",
        codec::CODEC_ID_AC4 => "AC-4",
        codec::CODEC_ID_ALAC => "ALAC",
        codec::CODEC_ID_DCA => "DTS",
        codec::CODEC_ID_FLAC => "FLAC",
        codec::CODEC_ID_MONKEYS_AUDIO => "Monkey's Audio",
        codec::CODEC_ID_MP1 => "MP1",
        codec::CODEC_ID_MP2 => "MP2",
        codec::CODEC_ID_MP3 => "MP3",
        codec::CODEC_ID_MUSEPACK => "Musepack",
        codec::CODEC_ID_OPUS => "Opus",
        codec::CODEC_ID_SPEEX => "Speex",
        codec::CODEC_ID_TRUEHD => "TrueHD",
        codec::CODEC_ID_TTA => "TTA",
        codec::CODEC_ID_VORBIS => "Vorbis",
        codec::CODEC_ID_WAVPACK => "WavPack",
        codec::CODEC_ID_WMA => "WMA",
        codec::CODEC_ID_ADPCM_G722 => "G.722",
        codec::CODEC_ID_ADPCM_G726 | codec::CODEC_ID_ADPCM_G726LE => "G.726",
        _ => return id.to_string(),
    };
    name.into()
}

/// Call into Symphonia; errors and panics become text.
fn fenced<T>(call: impl FnOnce() -> Result<T, SymphoniaError>) -> Result<T, String> {
    fenced_raw(call)?.map_err(describe)
}

fn describe(error: SymphoniaError) -> String {
    match error {
        SymphoniaError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            UNEXPECTED_END.into()
        }
        other => other.to_string(),
    }
}

fn fenced_raw<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    // What a panic leaves behind is dropped or only reset afterwards.
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|_| "the file is damaged in a way that the decoder does not expect".into())
}

/// A file as Symphonia wants it.
struct Source {
    stream: Box<dyn Stream>,
    len: u64,
    seekable: bool,
}

impl Source {
    fn new(mut stream: Box<dyn Stream>, seekable: bool) -> io::Result<Self> {
        let len = stream.seek(SeekFrom::End(0))?;
        stream.rewind()?;
        Ok(Self {
            stream,
            len,
            seekable,
        })
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Seek for Source {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.stream.seek(position)
    }
}

impl MediaSource for Source {
    fn is_seekable(&self) -> bool {
        self.seekable
    }

    fn byte_len(&self) -> Option<u64> {
        self.seekable.then_some(self.len)
    }
}
