//! SubRip subtitles.

use std::io::{self, Write};

use super::subtitles::{Cue, Subtitles};
use super::time::format_timestamp;
use super::{Transcript, WriteOptions, Writer};
use crate::asr::Segment;

pub(super) struct SrtWriter {
    subtitles: Subtitles,
    written: usize,
}

impl SrtWriter {
    pub(super) fn new(options: &WriteOptions) -> Self {
        Self {
            subtitles: Subtitles::new(options, |seconds| format_timestamp(seconds, true, ',')),
            written: 0,
        }
    }

    fn write(&mut self, cues: Vec<Cue>, out: &mut dyn Write) -> io::Result<()> {
        for Cue { start, end, text } in cues {
            self.written += 1;
            writeln!(out, "{}\n{start} --> {end}\n{text}\n", self.written)?;
        }
        Ok(())
    }
}

impl Writer for SrtWriter {
    fn segment(&mut self, segment: &Segment, out: &mut dyn Write) -> io::Result<()> {
        let cues = self.subtitles.push(segment);
        self.write(cues, out)
    }

    fn finish(&mut self, _: &Transcript, out: &mut dyn Write) -> io::Result<()> {
        let cues = self.subtitles.finish();
        self.write(cues, out)
    }
}
