//! WebVTT subtitles.

use std::io::{self, Write};

use super::subtitles::{Cue, Subtitles};
use super::time::format_timestamp;
use super::{Transcript, WriteOptions, Writer};
use crate::asr::Segment;

pub(super) struct VttWriter {
    subtitles: Subtitles,
}

impl VttWriter {
    pub(super) fn new(options: &WriteOptions) -> Self {
        Self {
            subtitles: Subtitles::new(options, |seconds| format_timestamp(seconds, false, '.')),
        }
    }
}

fn write(cues: Vec<Cue>, out: &mut dyn Write) -> io::Result<()> {
    for Cue { start, end, text } in cues {
        writeln!(out, "{start} --> {end}\n{text}\n")?;
    }
    Ok(())
}

impl Writer for VttWriter {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "WEBVTT\n")
    }

    fn segment(&mut self, segment: &Segment, out: &mut dyn Write) -> io::Result<()> {
        write(self.subtitles.push(segment), out)
    }

    fn finish(&mut self, _: &Transcript, out: &mut dyn Write) -> io::Result<()> {
        write(self.subtitles.finish(), out)
    }
}
