//! Tab-separated values with integer milliseconds.

use std::io::{self, Write};

use super::Writer;
use super::time::milliseconds;
use crate::asr::Segment;
use crate::text::python;

pub(super) struct TsvWriter;

impl Writer for TsvWriter {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "start\tend\ttext")
    }

    fn segment(&mut self, segment: &Segment, out: &mut dyn Write) -> io::Result<()> {
        let text = python::strip(&segment.text).replace('\t', " ");
        writeln!(
            out,
            "{}\t{}\t{text}",
            milliseconds(segment.start),
            milliseconds(segment.end)
        )
    }
}
