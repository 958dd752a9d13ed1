//! Reading inputs as the recogniser wants them.

use std::io;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use turaco::audio::{AudioSource, DecodeOptions, RawFormat};
use turaco::{Audio, Control, Error};

use crate::args::InputArgs;
use crate::exit::{Exit, Failure};
use crate::inputs::Input;

/// Samples per second that recognisers and voice activity detection work with.
pub const SAMPLE_RATE: u32 = 16_000;

/// Which part of an input to read, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    options: DecodeOptions,
    /// Where reading starts in seconds; times of results count from the start of the file.
    pub offset: f64,
}

impl Reading {
    /// What the options say.
    pub fn new(args: &InputArgs) -> Result<Self, Failure> {
        let offset = args.offset.map_or(0.0, |seconds| seconds.0);
        let mut options = DecodeOptions::new().target_rate(SAMPLE_RATE).offset(offset);
        if let Some(raw) = &args.raw {
            options = options.raw(raw.parse::<RawFormat>()?);
        }
        if let Some(channel) = args.channel {
            options = options.channel(channel);
        }
        if let Some(duration) = args.duration {
            options = options.duration(duration.0);
        }
        Ok(Self { options, offset })
    }

    /// All of an input, as it is.
    pub fn whole() -> Self {
        Self {
            options: DecodeOptions::new(),
            offset: 0.0,
        }
    }

    /// Decode an input. It runs aside, so that Ctrl-C does not have to wait for a silent pipe or a large file.
    pub fn read(&self, input: &Input, control: &Control) -> Result<Audio, Failure> {
        let (sender, receiver) = mpsc::channel();
        let (input, options) = (input.clone(), self.options);
        std::thread::spawn(move || {
            // Nobody receives after Ctrl-C.
            let _ = sender.send(decode(&input, &options));
        });
        loop {
            match receiver.recv_timeout(Duration::from_millis(50)) {
                Ok(audio) => return audio,
                Err(RecvTimeoutError::Timeout) => control.check()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::input(Path::new("-"), "the decoder broke down"));
                }
            }
        }
    }
}

fn decode(input: &Input, options: &DecodeOptions) -> Result<Audio, Failure> {
    let audio = if input.is_stdin() {
        AudioSource::from_reader(io::stdin(), "standard input", options)
    } else {
        AudioSource::open(&input.path, options)
    };
    audio.and_then(AudioSource::collect_audio).map_err(|error| {
        let io = matches!(error, Error::Io { .. });
        let mut failure = Failure::from(error);
        if io {
            // What cannot be opened is an input that cannot be read, not one that failed on the way.
            failure.exit = Exit::NoInput;
        }
        failure.path.get_or_insert_with(|| input.path.clone());
        failure
    })
}
