//! FLAC files out, by the `flacenc` crate.

use std::io;

use flacenc::component::BitRepr;
use flacenc::error::Verify;

use super::writer::s16;

/// Samples of a block.
const BLOCK: usize = 4096;

/// Collects samples, as the encoder wants to see all of them.
pub(super) struct FlacWriter {
    sample_rate: u32,
    samples: Vec<i32>,
}

impl FlacWriter {
    pub fn new(sample_rate: u32) -> Self {
        Self {
            sample_rate,
            samples: Vec::new(),
        }
    }

    pub fn push(&mut self, samples: &[f32]) {
        self.samples
            .extend(samples.iter().map(|&x| i32::from(s16(x))));
    }

    /// The file.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        let failed = |error: &dyn std::fmt::Display| io::Error::other(format!("FLAC: {error}"));
        let config = flacenc::config::Encoder::default();
        let config = config
            .into_verified()
            .map_err(|(_, error)| failed(&error))?;
        let rate = self.sample_rate as usize;
        let source = flacenc::source::MemSource::from_samples(&self.samples, 1, 16, rate);
        let mut stream = flacenc::encode_with_fixed_block_size(&config, source, BLOCK)
            .map_err(|error| failed(&error))?;
        // The format leaves the last block out of this, which may be shorter than any other.
        let info = stream.stream_info_mut();
        info.set_block_sizes(BLOCK, BLOCK)
            .map_err(|error| failed(&error))?;
        let mut sink = flacenc::bitsink::ByteSink::new();
        stream.write(&mut sink).map_err(|error| failed(&error))?;
        Ok(sink.into_inner())
    }
}
