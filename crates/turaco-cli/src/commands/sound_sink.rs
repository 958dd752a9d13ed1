//! Where the sound of `speak` goes: a file, standard output, or the loudspeaker.

use std::io;
use std::path::Path;

use turaco::audio::{Resampler, SoundFormat, SoundWriter};

use super::Context;
use crate::args::SpeakArgs;
use crate::exit::{Exit, Failure, Stop};
use crate::recording::Recording;
use crate::speaker::Speaker;

/// Where sound goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkKind {
    File(SoundFormat),
    Stdout(SoundFormat),
    Speaker,
}

/// Sound on its way there, at the rate that was asked for.
pub struct Sink {
    place: Place,
    rate: u32,
    resampler: Option<Resampler>,
}

enum Place {
    File(Recording),
    /// What was written and not passed on yet is in memory.
    Stdout(SoundWriter<Vec<u8>>),
    Speaker(Box<Speaker>),
}

impl SinkKind {
    /// What the options say.
    ///
    /// # Errors
    /// A format that cannot be written, or not at the rate that is asked for.
    pub fn new(args: &SpeakArgs, stdout_is_terminal: bool) -> Result<Self, Failure> {
        let kind = Self::of(args, stdout_is_terminal)?;
        if let (Self::File(format) | Self::Stdout(format), Some(rate)) = (kind, args.sample_rate) {
            // Known before a model is loaded.
            SoundWriter::new(Vec::new(), format, rate).map_err(|error| {
                Failure::usage(format!("invalid value for `--sample-rate`: {error}"))
            })?;
        }
        Ok(kind)
    }

    fn of(args: &SpeakArgs, stdout_is_terminal: bool) -> Result<Self, Failure> {
        let given = args.format.map(writable).transpose()?;
        let Some(path) = &args.output else {
            return Ok(match stdout_is_terminal {
                true => Self::Speaker,
                false => Self::Stdout(given.unwrap_or(SoundFormat::Wav)),
            });
        };
        if path == Path::new("-") {
            if args.json {
                return Err(
                    Failure::usage("--json and the sound cannot both go to stdout")
                        .hint("write the sound to a file: -o speech.wav"),
                );
            }
            return Ok(Self::Stdout(given.unwrap_or(SoundFormat::Wav)));
        }
        let ending = path
            .extension()
            .map(|ending| ending.to_string_lossy().into_owned());
        let format = match (given, ending) {
            (Some(format), _) => format,
            (None, None) => SoundFormat::Wav,
            (None, Some(ending)) => writable(ending.parse().map_err(|_| {
                Failure::usage(format!("cannot write `.{ending}` files")).hint(
                    "`.wav`, `.flac`, `.opus`, `.mp3` and `.pcm` can be written; others with ffmpeg: \
                     `turaco speak … | ffmpeg -i - speech.m4a`",
                )
            })?)?,
        };
        Ok(Self::File(format))
    }

    /// Open it for sound of `native` samples per second.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(self, args: &SpeakArgs, native: u32) -> Result<Sink, Stop> {
        let rate = match self {
            // The device has a rate of its own.
            Self::Speaker => native,
            _ => args.sample_rate.unwrap_or(native),
        };
        let place = match (self, &args.output) {
            (Self::File(format), Some(path)) => Place::File(match args.stream {
                true => Recording::create(path, format, rate)?,
                false => Recording::create_hidden(path, format, rate)?,
            }),
            (Self::Speaker, _) => Place::Speaker(Box::new(Speaker::open(rate)?)),
            (Self::Stdout(format) | Self::File(format), _) => {
                let writer = SoundWriter::new(Vec::new(), format, rate);
                let failed = |error| Failure::write(Path::new("-"), &error);
                Place::Stdout(writer.map_err(failed)?)
            }
        };
        let resampler = (rate != native).then(|| Resampler::new(native, rate));
        Ok(Sink {
            place,
            rate,
            resampler: resampler.transpose()?,
        })
    }
}

/// The format, if this build has it.
fn writable(format: SoundFormat) -> Result<SoundFormat, Failure> {
    match format.is_available() {
        true => Ok(format),
        false => Err(Failure::usage(format!("this build cannot write {format}")).hint(format!(
            "build with `--features {format}` (the encoder is under the LGPL, so it is no default), or convert: \
             `turaco speak … | ffmpeg -i - speech.{format}`"
        ))),
    }
}

fn put(bytes: &[u8]) -> Result<(), Stop> {
    use std::io::Write;
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Stop::ClosedPipe),
        Err(error) => Err(Failure::write(Path::new("-"), &error).into()),
        Ok(()) => Ok(()),
    }
}

impl Sink {
    /// Samples per second of what is written.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Write samples at the rate that it was opened for.
    pub fn write(&mut self, samples: &[f32], context: &Context) -> Result<(), Stop> {
        match &mut self.resampler {
            None => self.place.write(samples, context),
            Some(resampler) => {
                let mut resampled = Vec::new();
                resampler.push(samples, &mut resampled);
                self.place.write(&resampled, context)
            }
        }
    }

    /// Speech that failed in the middle, after sound or not: a file keeps what was said until then. After Ctrl-C nothing is
    /// kept, as with every command.
    pub fn abandon(self, failure: Failure, has_sound: bool) -> Failure {
        match self.place {
            Place::File(file) if has_sound && failure.exit != Exit::Interrupted => {
                let path = file.path().to_path_buf();
                match file.finish() {
                    Ok(()) => {
                        failure.hint(format!("what was said until then is in {}", path.display()))
                    }
                    // The disk is full, most likely; the first failure tells it.
                    Err(_) => failure,
                }
            }
            _ => failure,
        }
    }

    /// That was all.
    pub fn finish(mut self, context: &Context) -> Result<(), Stop> {
        if let Some(resampler) = self.resampler.take() {
            let mut rest = Vec::new();
            resampler.finish(&mut rest);
            self.place.write(&rest, context)?;
        }
        match self.place {
            Place::File(file) => Ok(file.finish()?),
            Place::Speaker(speaker) => Ok(speaker.finish(&context.control)?),
            Place::Stdout(writer) => {
                let failed = |error| Failure::write(Path::new("-"), &error);
                put(&writer.finish().map_err(failed)?)
            }
        }
    }
}

impl Place {
    fn write(&mut self, samples: &[f32], context: &Context) -> Result<(), Stop> {
        match self {
            Self::File(file) => Ok(file.write(samples)?),
            Self::Speaker(speaker) => Ok(speaker.write(samples, &context.control)?),
            Self::Stdout(writer) => {
                let failed = |error| Failure::write(Path::new("-"), &error);
                writer.write(samples).map_err(failed)?;
                put(&std::mem::take(writer.get_mut()))
            }
        }
    }
}
