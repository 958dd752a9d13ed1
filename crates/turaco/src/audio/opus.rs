//! Opus packets (RFC 6716) as Ogg, WebM and MP4 carry them, described by an identification header (RFC 7845, section 5.1).
//!
//! The codec itself is the `opus-rs` crate; channel mapping, pre-skip and output gain are read here.

use opus_rs::OpusDecoder;
use opus_rs::multistream::{ChannelMappingTable, MultistreamDecoder};

/// Opus always decodes at 48 kHz here, whatever the recording's original rate was.
pub(super) const SAMPLE_RATE: u32 = 48_000;
/// The longest packet: 120 ms.
const MAX_FRAMES: usize = 5760;
/// Bytes of the identification header before the channel mapping.
const FIXED_HEADER: usize = 19;

/// Decodes the packets of one stream.
pub(super) struct OpusPackets {
    decoder: Layout,
    channels: usize,
    gain: f32,
    buffer: Vec<f32>,
}

enum Layout {
    /// Mono or stereo in one elementary stream.
    Single(Box<OpusDecoder>),
    /// Several elementary streams mapped to channels.
    Multi(Box<MultistreamDecoder>),
}

impl OpusPackets {
    /// A decoder for the stream that `head` (from `OpusHead` on) describes, and the number of frames to skip at its start.
    pub(super) fn new(head: &[u8]) -> Result<(Self, u64), String> {
        if head.len() < FIXED_HEADER || !head.starts_with(b"OpusHead") {
            return Err("its Opus header is damaged".into());
        }
        let channels = usize::from(head[9]);
        let pre_skip = u16::from_le_bytes([head[10], head[11]]);
        let gain = i16::from_le_bytes([head[16], head[17]]);
        let rate = SAMPLE_RATE as i32;
        let decoder = match (head[18], channels) {
            (0, 1 | 2) => Layout::Single(Box::new(OpusDecoder::new(rate, channels)?)),
            (family, 1..) if family != 0 => {
                let table = ChannelMappingTable::parse(family, head[9], &head[FIXED_HEADER..])
                    .filter(is_consistent)
                    .ok_or("its Opus channel mapping is damaged")?;
                Layout::Multi(Box::new(MultistreamDecoder::new(rate, table)?))
            }
            (family, _) => {
                return Err(format!(
                    "Opus mapping family {family} cannot have {channels} channels"
                ));
            }
        };
        let packets = Self {
            decoder,
            channels,
            // Q7.8 decibels.
            gain: 10_f32.powf(f32::from(gain) / (20.0 * 256.0)),
            buffer: vec![0.0; MAX_FRAMES * channels],
        };
        Ok((packets, u64::from(pre_skip)))
    }

    pub(super) fn channels(&self) -> usize {
        self.channels
    }

    /// Decode one packet into interleaved `samples`, without the last `trim_end` frames.
    pub(super) fn decode(
        &mut self,
        packet: &[u8],
        trim_end: u64,
        samples: &mut Vec<f32>,
    ) -> Result<(), &'static str> {
        if packet.is_empty() {
            return Err("empty Opus packet");
        }
        let frames = match &mut self.decoder {
            Layout::Single(decoder) => decoder.decode(packet, MAX_FRAMES, &mut self.buffer)?,
            Layout::Multi(decoder) => decoder.decode(packet, MAX_FRAMES, &mut self.buffer)?,
        };
        let trim_end = usize::try_from(trim_end).unwrap_or(usize::MAX);
        let kept = self
            .buffer
            .get(..frames.saturating_sub(trim_end) * self.channels);
        samples.extend(kept.unwrap_or_default().iter().map(|x| x * self.gain));
        Ok(())
    }
}

/// Whether every channel comes from a stream that exists.
fn is_consistent(table: &ChannelMappingTable) -> bool {
    let decoded = usize::from(table.stream_count) + usize::from(table.coupled_count);
    table.stream_count > 0
        && table.coupled_count <= table.stream_count
        && decoded <= 255
        && table
            .mapping
            .iter()
            .all(|index| *index == 255 || usize::from(*index) < decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(channels: u8, gain: i16, family: u8, mapping: &[u8]) -> Vec<u8> {
        let mut head = b"OpusHead\x01".to_vec();
        head.push(channels);
        head.extend_from_slice(&312_u16.to_le_bytes());
        head.extend_from_slice(&16_000_u32.to_le_bytes());
        head.extend_from_slice(&gain.to_le_bytes());
        head.push(family);
        head.extend_from_slice(mapping);
        head
    }

    #[test]
    fn headers_are_checked() {
        let (packets, pre_skip) = OpusPackets::new(&head(2, -256, 0, &[])).unwrap();
        assert_eq!((packets.channels(), pre_skip), (2, 312));
        assert!((packets.gain - 0.891_25).abs() < 1e-5);
        assert!(OpusPackets::new(&head(6, 0, 1, &[4, 2, 0, 4, 1, 2, 3, 5])).is_ok());
        for wrong in [
            head(0, 0, 0, &[]),
            head(3, 0, 0, &[]),
            head(6, 0, 1, &[4, 2, 0, 4, 1, 2, 3]),
            head(6, 0, 1, &[4, 5, 0, 4, 1, 2, 3, 5]),
            head(2, 0, 1, &[0, 0, 0, 1]),
            head(2, 0, 1, &[1, 0, 0, 1]),
            b"OpusHead".to_vec(),
        ] {
            assert!(OpusPackets::new(&wrong).is_err());
        }
    }

    #[test]
    fn damaged_packets_are_errors_or_sound() {
        let (mut packets, _) = OpusPackets::new(&head(2, 0, 0, &[])).unwrap();
        let mut samples = Vec::new();
        assert!(packets.decode(&[], 0, &mut samples).is_err());
        let mut state = 9_u32;
        for len in 1..200 {
            let packet: Vec<u8> = (0..len)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            samples.clear();
            let _ = packets.decode(&packet, 100, &mut samples);
            assert!(samples.len() <= 2 * MAX_FRAMES);
        }
    }
}
