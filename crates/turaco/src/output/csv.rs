//! Comma-separated values as whisper.cpp writes them: integer milliseconds, quoted text with its leading space.

use std::io::{self, Write};

use super::Writer;
use super::time::milliseconds;
use crate::asr::Segment;

pub(super) struct CsvWriter;

impl Writer for CsvWriter {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "start,end,text")
    }

    fn segment(&mut self, segment: &Segment, out: &mut dyn Write) -> io::Result<()> {
        let text = segment.text.replace('"', "\"\"");
        writeln!(
            out,
            "{},{},\"{text}\"",
            milliseconds(segment.start),
            milliseconds(segment.end)
        )
    }
}
