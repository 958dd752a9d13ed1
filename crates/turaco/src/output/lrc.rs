//! Lyrics as whisper.cpp writes them: `[mm:ss.cc]` before each text, which keeps its leading space.

use std::io::{self, Write};

use super::Writer;
use crate::asr::Segment;

pub(super) struct LrcWriter;

impl Writer for LrcWriter {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "[by:turaco]")
    }

    fn segment(&mut self, segment: &Segment, out: &mut dyn Write) -> io::Result<()> {
        let all = (100.0 * segment.start).round_ties_even().max(0.0) as u64;
        // A line break would end the lyric.
        let text = segment.text.replace(['\n', '\r'], " ");
        writeln!(
            out,
            "[{:02}:{:02}.{:02}]{text}",
            all / 6000,
            all / 100 % 60,
            all % 100
        )
    }
}
