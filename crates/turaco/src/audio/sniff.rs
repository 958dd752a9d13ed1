//! What a file is, from its first bytes.

/// Bytes from the start of a file that [`sniff`] likes to see.
pub(super) const HEAD_BYTES: usize = 4096;

/// A guess at what a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// RIFF or RF64 with a WAVE form.
    Wave,
    /// MP4 and its relatives.
    Mp4,
    /// Something with a known signature; the name is for messages.
    Known(&'static str),
    /// Something else altogether; the name is for messages.
    Foreign(&'static str),
    /// Characters, so certainly not audio.
    Text,
    /// No signature; it may still be a bare stream of MPEG frames.
    Unknown,
}

impl Kind {
    /// How to call it in a message.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Wave => "WAV",
            Self::Mp4 => "MP4",
            Self::Known(name) | Self::Foreign(name) => name,
            Self::Text => "text",
            Self::Unknown => "unknown format",
        }
    }
}

/// Signatures at fixed offsets.
const SIGNATURES: [(usize, &[u8], &str); 24] = [
    (0, b"fLaC", "FLAC"),
    (0, b"OggS", "Ogg"),
    (0, b"ID3", "MP3"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska/WebM"),
    (0, b"caff", "CAF"),
    (8, b"AIFF", "AIFF"),
    (8, b"AIFC", "AIFF-C"),
    (0, b"RIFX", "big-endian WAV"),
    (8, b"AVI ", "AVI"),
    (0, b"riff", "Wave64"),
    (0, b"#!AMR", "AMR"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack"),
    (0, b"TTA1", "TTA"),
    (0, b"MPCK", "Musepack"),
    (0, b"MP+", "Musepack"),
    (0, b"\x0b\x77", "AC-3"),
    (0, b"\x7f\xfe\x80\x01", "DTS"),
    (0, b"\x30\x26\xb2\x75", "ASF/WMA"),
    (0, b".snd", "AU"),
    (0, b"FLV\x01", "FLV"),
    (0, b"\0\0\x01\xba", "MPEG program stream"),
    (0, b"ADIF", "AAC (ADIF)"),
    (0, b".RMF", "RealMedia"),
];

/// Signatures of files that people mistake for audio, or that are called so.
const FOREIGN: [(usize, &[u8], &str); 27] = [
    (0, b"\x7fELF", "a program (ELF)"),
    (0, b"MZ", "a program (Windows)"),
    (0, b"\xcf\xfa\xed\xfe", "a program (Mach-O)"),
    (0, b"\xca\xfe\xba\xbe", "a program (Mach-O or Java)"),
    (0, b"\0asm", "a program (WebAssembly)"),
    (0, b"\x89PNG", "a picture (PNG)"),
    (0, b"\xff\xd8\xff", "a picture (JPEG)"),
    (0, b"GIF8", "a picture (GIF)"),
    (8, b"WEBP", "a picture (WebP)"),
    (4, b"ftypheic", "a picture (HEIC)"),
    (4, b"ftypavif", "a picture (AVIF)"),
    (0, b"II*\0", "a picture (TIFF)"),
    (0, b"%PDF", "a document (PDF)"),
    (0, b"\xd0\xcf\x11\xe0", "a document (Microsoft Office)"),
    (0, b"PK\x03\x04", "an archive or document (ZIP)"),
    (0, b"\x1f\x8b", "a compressed file (gzip)"),
    (0, b"BZh", "a compressed file (bzip2)"),
    (0, b"\xfd7zXZ", "a compressed file (xz)"),
    (0, b"\x28\xb5\x2f\xfd", "a compressed file (Zstandard)"),
    (0, b"7z\xbc\xaf", "an archive (7z)"),
    (0, b"Rar!", "an archive (RAR)"),
    (257, b"ustar", "an archive (tar)"),
    (0, b"SQLite format 3", "a database (SQLite)"),
    (0, b"lmgg", "model weights (ggml)"),
    (0, b"GGUF", "model weights (GGUF)"),
    (0, b"APR\0", "model weights (apr)"),
    (0, b"MThd", "notes (MIDI)"),
];

/// Guess what a file is from its first bytes.
pub(super) fn sniff(head: &[u8]) -> Kind {
    if is_wave(head) {
        return Kind::Wave;
    }
    let at = |offset: usize, magic: &[u8]| {
        head.get(offset..)
            .is_some_and(|rest| rest.starts_with(magic))
    };
    if let Some((_, _, name)) = FOREIGN.iter().find(|(offset, magic, _)| at(*offset, magic)) {
        return Kind::Foreign(name);
    }
    if at(4, b"ftyp") || at(4, b"moov") {
        return Kind::Mp4;
    }
    if let Some((_, _, name)) = SIGNATURES
        .iter()
        .find(|(offset, magic, _)| at(*offset, magic))
    {
        return Kind::Known(name);
    }
    if at(0, b"\x47") && at(188, b"\x47") && at(376, b"\x47") {
        return Kind::Known("MPEG transport stream");
    }
    if is_text(head) {
        Kind::Text
    } else {
        Kind::Unknown
    }
}

/// Whether a file starts as a WAV file that [`super::wav`] may read.
pub(super) fn is_wave(head: &[u8]) -> bool {
    let form = head.get(8..12);
    (head.starts_with(b"RIFF") || head.starts_with(b"RF64") || head.starts_with(b"BW64"))
        && form == Some(b"WAVE")
}

/// Whether all of it is UTF-8 (but for a character cut at the end) without control characters.
fn is_text(head: &[u8]) -> bool {
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or("")
        }
        Err(_) => return false,
    };
    !valid.is_empty()
        && !valid
            .chars()
            .any(|c| c.is_control() && !"\n\r\t\x0c".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(sniff(b"RIFF\xff\xff\xff\xffWAVEfmt "), Kind::Wave);
        assert_eq!(sniff(b"RIFF\0\0\0\0AVI LIST"), Kind::Known("AVI"));
        assert_eq!(sniff(b"\0\0\0\x20ftypM4A "), Kind::Mp4);
        assert_eq!(sniff(b"OggS\0\x02"), Kind::Known("Ogg"));
        assert_eq!(sniff("Grüße,\n\tWelt".as_bytes()), Kind::Text);
        assert_eq!(sniff(&"ü".as_bytes()[..1]), Kind::Unknown);
        assert_eq!(sniff(b"\xff\xfb\x90\x00"), Kind::Unknown);
        assert_eq!(sniff(b""), Kind::Unknown);
        assert_eq!(sniff(b"\x7fELF\x02\x01"), Kind::Foreign("a program (ELF)"));
        assert_eq!(
            sniff(b"RIFF\0\0\0\0WEBPVP8 "),
            Kind::Foreign("a picture (WebP)")
        );
    }
}
