//! Plain text, one segment per line.

use std::io::{self, Write};

use super::Writer;
use crate::asr::Segment;
use crate::text::python;

pub(super) struct TxtWriter;

impl Writer for TxtWriter {
    fn segment(&mut self, segment: &Segment, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", python::strip(&segment.text))
    }
}
