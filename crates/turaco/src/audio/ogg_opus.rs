//! Opus in Ogg out (RFC 7845, RFC 3533): packets by the `opus-rs` crate, pages by this file.

use std::io;

use opus_rs::{Application, OpusEncoder};

/// Bits per second for one voice; transparent for speech.
const BITRATE: i32 = 48_000;

/// Ogg counts time in samples at this rate, whatever the sound has.
const GRANULE_RATE: usize = 48_000;

/// Most segments of a page.
const MAX_SEGMENTS: usize = 255;

/// The stream's number; there is only one in a file.
const SERIAL: u32 = 0x7475_7261;

/// Cuts sound into packets of 20 ms and those into pages.
pub(super) struct OggOpusWriter {
    encoder: OpusEncoder,
    sample_rate: usize,
    /// Samples of a packet.
    frame: usize,
    /// Samples that the decoder has to leave out at the start, at 48 kHz.
    pre_skip: usize,
    /// Samples that are not encoded yet.
    waiting: Vec<f32>,
    n_samples: usize,
    n_packets: usize,
    /// The next page; the header takes two.
    sequence: u32,
    /// A packet is kept back, as the last page has to say that it is the last.
    last: Option<Vec<u8>>,
}

impl OggOpusWriter {
    pub fn new(sample_rate: u32) -> io::Result<Self> {
        let unsupported = |error: &str| {
            io::Error::new(
                io::ErrorKind::Unsupported,
                format!("Opus at {sample_rate} Hz: {error}"),
            )
        };
        let rate = i32::try_from(sample_rate).unwrap_or(i32::MAX);
        let mut encoder = OpusEncoder::new(rate, 1, Application::Audio).map_err(unsupported)?;
        encoder.bitrate_bps = BITRATE;
        let sample_rate = sample_rate as usize;
        // The encoder looks ahead 2.5 ms, and 4 ms more to change between its modes.
        let look_ahead = sample_rate / 400 + sample_rate / 250;
        Ok(Self {
            encoder,
            sample_rate,
            frame: sample_rate / 50,
            pre_skip: look_ahead * GRANULE_RATE / sample_rate,
            waiting: Vec::new(),
            n_samples: 0,
            n_packets: 0,
            sequence: 2,
            last: None,
        })
    }

    /// The two pages before the sound.
    pub fn header(&self) -> Vec<u8> {
        let mut head = b"OpusHead\x01\x01".to_vec();
        head.extend((self.pre_skip as u16).to_le_bytes());
        head.extend((self.sample_rate as u32).to_le_bytes());
        // No gain, mono.
        head.extend([0, 0, 0]);
        let vendor = b"turaco";
        let mut tags = b"OpusTags".to_vec();
        tags.extend((vendor.len() as u32).to_le_bytes());
        tags.extend(vendor);
        tags.extend(0_u32.to_le_bytes());
        let mut pages = page(&[head], 0, 0, FIRST);
        pages.extend(page(&[tags], 0, 1, 0));
        pages
    }

    /// The page that samples become, if they fill packets.
    pub fn push(&mut self, samples: &[f32]) -> io::Result<Vec<u8>> {
        self.waiting.extend_from_slice(samples);
        self.n_samples += samples.len();
        let mut packets = Vec::new();
        let n_whole = self.waiting.len() / self.frame;
        for nth in 0..n_whole {
            let packet = self.encode(nth * self.frame)?;
            packets.extend(self.last.replace(packet));
        }
        self.waiting.drain(..n_whole * self.frame);
        let mut pages = Vec::new();
        let kept = usize::from(self.last.is_some());
        let mut before = self.n_packets - kept - packets.len();
        // A packet of 20 ms has at most 1275 bytes: six segments.
        for packets in packets.chunks(MAX_SEGMENTS / 6) {
            before += packets.len();
            pages.extend(page(packets, self.granule(before), self.sequence, 0));
            self.sequence += 1;
        }
        Ok(pages)
    }

    /// The last page.
    pub fn finish(mut self) -> io::Result<Vec<u8>> {
        // What the encoder still holds comes out behind silence.
        let end = self.n_samples + self.pre_skip * self.sample_rate / GRANULE_RATE;
        let silence = (end.div_ceil(self.frame) * self.frame).max(self.frame) - self.n_samples;
        let n_samples = self.n_samples;
        let mut pages = self.push(&vec![0.0; silence])?;
        let granule = self.pre_skip + n_samples * GRANULE_RATE / self.sample_rate;
        let last = self.last.take().unwrap_or_default();
        pages.extend(page(&[last], granule as u64, self.sequence, LAST));
        Ok(pages)
    }

    fn encode(&mut self, at: usize) -> io::Result<Vec<u8>> {
        let mut packet = vec![0; 1275];
        let samples = &self.waiting[at..at + self.frame];
        let len = self.encoder.encode(samples, self.frame, &mut packet);
        packet.truncate(len.map_err(|error| io::Error::other(format!("Opus: {error}")))?);
        self.n_packets += 1;
        Ok(packet)
    }

    /// The time behind so many packets.
    fn granule(&self, n_packets: usize) -> u64 {
        (n_packets * self.frame * GRANULE_RATE / self.sample_rate) as u64
    }
}

const FIRST: u8 = 2;
const LAST: u8 = 4;

/// A page of whole packets.
fn page(packets: &[Vec<u8>], granule: u64, sequence: u32, flags: u8) -> Vec<u8> {
    let mut segments = Vec::new();
    for packet in packets {
        segments.extend(std::iter::repeat_n(255, packet.len() / 255));
        segments.push((packet.len() % 255) as u8);
    }
    let mut page = b"OggS\0".to_vec();
    page.push(flags);
    page.extend(granule.to_le_bytes());
    page.extend(SERIAL.to_le_bytes());
    page.extend(sequence.to_le_bytes());
    page.extend(0_u32.to_le_bytes());
    page.push(segments.len() as u8);
    page.extend(segments);
    page.extend(packets.concat());
    let checksum = crc(&page);
    page[22..26].copy_from_slice(&checksum.to_le_bytes());
    page
}

/// CRC-32 with the polynomial 0x04c11db7, most significant bit first, starting from 0.
fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
            (crc << 1) ^ (0x04c1_1db7 & (crc >> 31).wrapping_neg())
        })
    })
}
