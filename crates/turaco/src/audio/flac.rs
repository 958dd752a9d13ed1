//! FLAC out, block by block, by the `flacenc` crate.

use std::fmt::Display;
use std::io;

use flacenc::bitsink::ByteSink;
use flacenc::component::{BitRepr, Stream, StreamInfo};
use flacenc::config::Encoder;
use flacenc::error::{Verified, Verify};
use flacenc::source::{Context, Fill, FrameBuf};

use super::writer::s16;

/// Samples of a block.
const BLOCK: usize = 4096;

/// Bits of a sample.
const BITS: usize = 16;

/// Least and most bytes of a frame while no frame is known: none is so long, none so short.
const NO_FRAME: (usize, usize) = ((1 << 24) - 1, 0);

/// Makes a frame of every block of samples.
pub(super) struct FlacWriter {
    encoder: Verified<Encoder>,
    info: StreamInfo,
    block: FrameBuf,
    /// Counts samples and frames, and adds up what identifies the sound.
    context: Context,
    frame_bytes: (usize, usize),
    /// Samples that fill no block yet.
    waiting: Vec<i32>,
}

impl FlacWriter {
    pub fn new(sample_rate: u32) -> io::Result<Self> {
        let encoder = Encoder::default().into_verified();
        // The format leaves the last block out of these, which may be shorter than any other.
        let mut info = StreamInfo::new(sample_rate as usize, 1, BITS).map_err(failed)?;
        info.set_block_sizes(BLOCK, BLOCK).map_err(failed)?;
        Ok(Self {
            encoder: encoder.map_err(|(_, error)| failed(error))?,
            info,
            block: FrameBuf::with_size(1, BLOCK).map_err(failed)?,
            context: Context::new(BITS, 1),
            frame_bytes: NO_FRAME,
            waiting: Vec::new(),
        })
    }

    /// What comes before the first frame. What is not known before the end is 0, which the format reads as unknown; as long as
    /// when it is known.
    pub fn header(&self, is_complete: bool) -> io::Result<Vec<u8>> {
        let mut info = self.info.clone();
        let is_complete = is_complete && self.context.total_samples() > 0;
        let (least, most) = match is_complete {
            true => self.frame_bytes,
            false => (0, 0),
        };
        info.set_frame_sizes(least, most).map_err(failed)?;
        if is_complete {
            info.set_total_samples(self.context.total_samples());
            info.set_md5_digest(&self.context.md5_digest());
        }
        bytes_of(&Stream::with_stream_info(info))
    }

    /// The frames that samples become, if they fill blocks.
    pub fn push(&mut self, samples: &[f32]) -> io::Result<Vec<u8>> {
        (self.waiting).extend(samples.iter().map(|&x| i32::from(s16(x))));
        let waiting = std::mem::take(&mut self.waiting);
        let (blocks, rest) = waiting.as_chunks::<BLOCK>();
        let mut bytes = Vec::new();
        for block in blocks {
            bytes.extend(self.frame(block)?);
        }
        self.waiting = rest.to_vec();
        Ok(bytes)
    }

    /// The last frame, if there is one.
    pub fn finish(&mut self) -> io::Result<Vec<u8>> {
        match std::mem::take(&mut self.waiting) {
            rest if rest.is_empty() => Ok(Vec::new()),
            rest => self.frame(&rest),
        }
    }

    fn frame(&mut self, samples: &[i32]) -> io::Result<Vec<u8>> {
        self.block.fill_interleaved(samples).map_err(failed)?;
        self.context.fill_interleaved(samples).map_err(failed)?;
        let number = self.context.current_frame_number().unwrap_or_default();
        let frame =
            flacenc::encode_fixed_size_frame(&self.encoder, &self.block, number, &self.info);
        let bytes = bytes_of(&frame.map_err(failed)?)?;
        let (least, most) = self.frame_bytes;
        self.frame_bytes = (least.min(bytes.len()), most.max(bytes.len()));
        Ok(bytes)
    }
}

fn bytes_of(part: &impl BitRepr) -> io::Result<Vec<u8>> {
    let mut sink = ByteSink::new();
    part.write(&mut sink).map_err(failed)?;
    Ok(sink.into_inner())
}

fn failed(error: impl Display) -> io::Error {
    io::Error::other(format!("FLAC: {error}"))
}
