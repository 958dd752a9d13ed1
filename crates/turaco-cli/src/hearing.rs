//! Sound from outside: the microphone, a pipe, a file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use turaco::Error;
use turaco::audio::{AudioSource, DecodeOptions, RawFormat};

use crate::exit::{Exit, Failure};
use crate::inbox::Inbox;
use crate::inputs;
use crate::microphone::Microphone;
use crate::sound::SAMPLE_RATE;

/// Raw samples without a header, as `arecord -t raw` and voxtral.c have them.
const RAW_DEFAULT: &str = "s16le:16000:1";

/// Seconds of the blocks that are read from a pipe.
const BLOCK_SECONDS: f64 = 0.02;

/// Where sound comes from.
#[derive(Debug, PartialEq)]
pub enum Source {
    /// Standard input.
    Stdin,
    /// A file or FIFO.
    File(PathBuf),
    /// The microphone whose name holds this.
    Microphone(String),
}

impl Source {
    /// What the options name: standard input if something is piped in, else the microphone.
    pub fn new(mic: Option<&str>, audio: Option<&Path>, stdin_is_terminal: bool) -> Self {
        match (mic, audio) {
            (Some(name), _) => Self::Microphone(name.to_owned()),
            (None, Some(path)) if path == Path::new("-") => Self::Stdin,
            (None, Some(path)) => Self::File(path.to_owned()),
            (None, None) if !stdin_is_terminal => Self::Stdin,
            (None, None) => Self::Microphone(String::new()),
        }
    }
}

/// Bring sound, mono at [`SAMPLE_RATE`], into the inbox from elsewhere. What is returned keeps it coming.
pub fn hear(
    source: &Source,
    raw: Option<RawFormat>,
    channel: Option<usize>,
    inbox: &Inbox,
) -> Result<Option<Microphone>, Failure> {
    if let Source::Microphone(name) = source {
        return Microphone::open(name, SAMPLE_RATE, inbox).map(Some);
    }
    let mut options = DecodeOptions::new()
        .target_rate(SAMPLE_RATE)
        .block_seconds(BLOCK_SECONDS);
    if let Some(channel) = channel {
        options = options.channel(channel);
    }
    let path = match source {
        Source::File(path) => Some(path.clone()),
        _ => None,
    };
    if let Some(path) = &path {
        // What cannot be opened is told before anything else happens.
        File::open(path).map_err(|error| inputs::unreadable(path, &error))?;
    }
    let inbox = inbox.clone();
    std::thread::spawn(move || {
        let ended = read(path.as_deref(), raw, options, &inbox);
        inbox.end(ended);
    });
    Ok(None)
}

/// Read a file or standard input to its end.
fn read(
    path: Option<&Path>,
    raw: Option<RawFormat>,
    mut options: DecodeOptions,
    inbox: &Inbox,
) -> Result<(), Failure> {
    let failure = |error: Error| {
        let mut failure = Failure::from(error);
        failure.exit = Exit::NoInput;
        failure
    };
    let source = match (path, raw) {
        (Some(path), raw) => {
            if let Some(raw) = raw {
                options = options.raw(raw);
            }
            AudioSource::open(path, &options)
        }
        (None, Some(raw)) => {
            AudioSource::from_reader(io::stdin(), "standard input", &options.raw(raw))
        }
        (None, None) => {
            // A WAV file says so in its first four bytes; what does not is taken for samples.
            let mut head = [0; 4];
            let mut stdin = io::stdin();
            let len = fill(&mut stdin, &mut head)
                .map_err(|error| inputs::unreadable(Path::new("-"), &error))?;
            let reader = io::Read::chain(io::Cursor::new(head[..len].to_vec()), stdin);
            if !head.starts_with(b"RIFF") && !head.starts_with(b"RF64") {
                options = options.raw(RAW_DEFAULT.parse::<RawFormat>().map_err(failure)?);
            }
            AudioSource::from_reader(reader, "standard input", &options)
        }
    };
    let mut source = source.map_err(failure)?;
    while let Some(block) = source.next_block().map_err(failure)? {
        if !inbox.put(&block) {
            break;
        }
    }
    for notice in source.notices() {
        inbox.remark(notice);
    }
    Ok(())
}

/// As many bytes as there are, up to the whole of `buffer`.
fn fill(reader: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match reader.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
