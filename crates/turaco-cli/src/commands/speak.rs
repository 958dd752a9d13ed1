//! `turaco speak`: text to speech.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use serde_json::json;
use turaco::audio::{SoundFormat, SoundWriter};
use turaco::tts::{SpeakOptions, SpeechStream, StopReason};
use turaco::{Error, Synthesizer};

use super::script::{self, Line};
use super::voices::{self, list};
use super::{Context, speech_model};
use crate::args::SpeakArgs;
use crate::engine;
use crate::exit::{Exit, Failure, Outcome, Stop};
use crate::files;
use crate::printer::Level;
use crate::recording::Recording;
use crate::speaker::Speaker;

/// Say what the command line says.
pub fn run(args: &SpeakArgs, context: &Context) -> Outcome {
    let sink_kind = SinkKind::new(args, io::stdout().is_terminal())?;
    check_plot(args)?;
    if args.list_voices {
        return list(false, context);
    }
    let mut options = args.options();
    options.seed = args.sampling.seed.unwrap_or_else(fresh_seed);
    // What cannot be said needs no model.
    let text = Text::new(args, &options, io::stdin().is_terminal())?;
    let model = speech_model(&context.global, args.who.needs_base() || text.needs_base());
    let synthesizer = engine::load_synthesizer(model, context)?;
    options.voice = voices::voice(&args.who, &synthesizer, context)?;
    let parts = text.parts(args, &options, &synthesizer)?;
    for notice in synthesizer.notices(&options) {
        context.printer.warning(&notice);
    }
    let job = Job {
        args,
        context,
        synthesizer: &synthesizer,
    };
    let mut sink = sink_kind.open(args, synthesizer.sample_rate())?;
    let mut plotted = Vec::new();
    let mut totals = Totals::default();
    let said = job.say_parts(parts, &mut sink, &mut plotted, &mut totals);
    if let Some(warning) = synthesizer.take_late_warning() {
        context.printer.warning(&warning);
    }
    match said {
        Ok(()) => sink.finish(context)?,
        Err(Stop::Failed(failure)) => return Err(sink.abandon(*failure, &totals).into()),
        Err(stop) => return Err(stop),
    }
    if let Some(path) = &args.plot {
        let picture = turaco::output::plot_sound(&plotted, synthesizer.sample_rate());
        files::write_all(&[(path.clone(), picture.into())])?;
    }
    job.report(&options, &totals)?;
    Ok(Exit::Success)
}

/// Whether the picture can be written is known before minutes of work.
fn check_plot(args: &SpeakArgs) -> Result<(), Failure> {
    let Some(path) = &args.plot else {
        return Ok(());
    };
    if args.output.as_ref() == Some(path) {
        return Err(Failure::usage("--plot and -o name the same file").at(path));
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    match fs::metadata(folder) {
        Ok(known) if known.is_dir() => Ok(()),
        Ok(_) => Err(Failure::write(path, &io::ErrorKind::NotADirectory.into())),
        Err(error) => Err(Failure::write(path, &error)),
    }
}

/// What is to be said.
enum Text {
    Whole(String),
    /// What several voices say.
    Script(Vec<Line>),
    /// From standard input, sentence by sentence.
    Arriving,
}

/// Some text and how it is said.
enum Part {
    Whole(String, SpeakOptions),
    Arriving(SpeakOptions),
}

impl Text {
    fn new(
        args: &SpeakArgs,
        options: &SpeakOptions,
        stdin_is_terminal: bool,
    ) -> Result<Self, Failure> {
        let whole = |text: String| match options.leaves_nothing_of(&text) {
            true => Err(no_text(options)),
            false => Ok(Self::Whole(text)),
        };
        if let Some(path) = &args.script {
            let lines = script::lines(path, &read_text(path)?, voices::is_saved)?;
            let is_empty = (lines.iter()).all(|line| options.leaves_nothing_of(&line.text));
            return match is_empty {
                true => Err(no_text(options).at(path)),
                false => Ok(Self::Script(lines)),
            };
        }
        match (&args.text, &args.file) {
            (Some(text), _) if text != "-" => whole(text.clone()),
            (None, Some(path)) if path != Path::new("-") => whole(read_text(path)?),
            (None, None) if stdin_is_terminal => Err(Failure::usage("there is no text to say")
                .hint("`turaco speak \"Good morning\"`, or pipe text in")),
            _ => Ok(Self::Arriving),
        }
    }

    /// Whether only a Base model will do.
    fn needs_base(&self) -> bool {
        let Self::Script(lines) = self else {
            return false;
        };
        let mut names = lines.iter().filter_map(|line| line.voice.as_deref());
        names.any(voices::is_cloned)
    }

    /// What is said one after the other. All voices are known to be there then, and to go with the model.
    fn parts(
        self,
        args: &SpeakArgs,
        options: &SpeakOptions,
        synthesizer: &Synthesizer,
    ) -> Result<Vec<Part>, Stop> {
        let lines = match self {
            Self::Whole(text) => return Ok(vec![Part::Whole(text, options.clone())]),
            Self::Arriving => return Ok(vec![Part::Arriving(options.clone())]),
            Self::Script(lines) => lines,
        };
        let path = args.script.as_deref().unwrap_or(Path::new("-"));
        // Each is read once: what a model makes of a recording is kept for the lines behind.
        let mut known: HashMap<Option<String>, SpeakOptions> = HashMap::new();
        let mut parts = Vec::with_capacity(lines.len());
        for line in lines {
            let options = match known.entry(line.voice) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let mut options = options.clone();
                    let found = match new.key() {
                        Some(name) => voices::named(name, synthesizer),
                        None => Ok(options.voice.clone()),
                    };
                    let checked = found.and_then(|voice| {
                        options.voice = voice;
                        Ok(synthesizer.check(&options)?)
                    });
                    checked.map_err(|stop| in_line(stop, path, line.number))?;
                    new.insert(options)
                }
            };
            parts.push(Part::Whole(line.text, options.clone()));
        }
        Ok(parts)
    }
}

/// Where in a script something is wrong.
fn in_line(stop: Stop, path: &Path, number: usize) -> Stop {
    let Stop::Failed(mut failure) = stop else {
        return stop;
    };
    failure.message = format!("line {number} of {}: {}", path.display(), failure.message);
    let lines =
        "a line is `VOICE: text`, also where the text begins with a word and a colon itself";
    failure.hint = Some(match failure.hint.take() {
        Some(hint) => format!("{hint}; {lines}"),
        None => lines.into(),
    });
    Stop::Failed(failure)
}

fn no_text(options: &SpeakOptions) -> Failure {
    let failure = Failure::usage("there is no text to say");
    match options.normalize {
        true => failure.hint("--normalize leaves out marks, pictures and addresses"),
        false => failure,
    }
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::input(path, "this text cannot be read").caused_by(error)
    };
    let bytes = match path == Path::new("-") {
        true => {
            let mut bytes = Vec::new();
            io::stdin().read_to_end(&mut bytes).map(|_| bytes)
        }
        false => fs::read(path),
    };
    let bytes = bytes.map_err(|error| failed(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| failed(&error))?;
    // Some editors begin files with a mark of their encoding.
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

/// Where sound goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SinkKind {
    File(SoundFormat),
    Stdout(SoundFormat),
    Speaker,
}

enum Sink {
    File(Recording),
    /// What was written and not passed on yet is in memory.
    Stdout(SoundWriter<Vec<u8>>),
    Speaker(Box<Speaker>),
}

impl SinkKind {
    fn new(args: &SpeakArgs, stdout_is_terminal: bool) -> Result<Self, Failure> {
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

    fn open(self, args: &SpeakArgs, rate: u32) -> Result<Sink, Stop> {
        Ok(match (self, &args.output) {
            (Self::File(format), Some(path)) => Sink::File(match args.stream {
                true => Recording::create(path, format, rate)?,
                false => Recording::create_hidden(path, format, rate)?,
            }),
            (Self::Speaker, _) => Sink::Speaker(Box::new(Speaker::open(rate)?)),
            (Self::Stdout(format) | Self::File(format), _) => {
                let writer = SoundWriter::new(Vec::new(), format, rate);
                let failed = |error| Failure::write(Path::new("-"), &error);
                Sink::Stdout(writer.map_err(failed)?)
            }
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

    /// Speech that failed in the middle: a file keeps what was said until then. After Ctrl-C nothing is kept, as with every
    /// command.
    fn abandon(self, failure: Failure, totals: &Totals) -> Failure {
        match self {
            Self::File(file) if totals.n_samples > 0 && failure.exit != Exit::Interrupted => {
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

    fn finish(self, context: &Context) -> Result<(), Stop> {
        match self {
            Self::File(file) => Ok(file.finish()?),
            Self::Speaker(speaker) => Ok(speaker.finish(&context.control)?),
            Self::Stdout(writer) => {
                let failed = |error| Failure::write(Path::new("-"), &error);
                put(&writer.finish().map_err(failed)?)
            }
        }
    }
}

#[derive(Default)]
struct Totals {
    n_samples: usize,
    n_frames: usize,
    pieces: Vec<(String, StopReason)>,
    first_audio: Option<f64>,
    prefill: f64,
    generate: f64,
    decode: f64,
    total: f64,
}

struct Job<'a> {
    args: &'a SpeakArgs,
    context: &'a Context,
    synthesizer: &'a Synthesizer,
}

impl Job<'_> {
    /// Say all of it.
    fn say_parts(
        &self,
        parts: Vec<Part>,
        sink: &mut Sink,
        plotted: &mut Vec<f32>,
        totals: &mut Totals,
    ) -> Result<(), Stop> {
        for part in parts {
            match part {
                Part::Whole(text, options) => {
                    let control = &self.context.control;
                    let stream = self.synthesizer.stream(&text, &options, control)?;
                    self.say(stream, sink, plotted, totals)?;
                }
                Part::Arriving(options) => {
                    self.say_as_it_comes(&options, sink, plotted, totals)?;
                }
            }
        }
        Ok(())
    }

    /// Say the text that a stream has.
    fn say(
        &self,
        mut stream: SpeechStream<'_>,
        sink: &mut Sink,
        plotted: &mut Vec<f32>,
        totals: &mut Totals,
    ) -> Result<(), Stop> {
        self.drain(&mut stream, sink, plotted, totals)?;
        self.add(&stream, totals);
        Ok(())
    }

    fn drain(
        &self,
        stream: &mut SpeechStream<'_>,
        sink: &mut Sink,
        plotted: &mut Vec<f32>,
        totals: &mut Totals,
    ) -> Result<(), Stop> {
        while let Some(chunk) = stream.next_chunk().map_err(Failure::from)? {
            totals.n_samples += chunk.samples.len();
            if self.args.plot.is_some() {
                plotted.extend_from_slice(&chunk.samples);
            }
            if let Some(reason @ (StopReason::Budget | StopReason::Repetition)) = chunk.stopped {
                let why = match reason {
                    StopReason::Repetition => "it went in circles",
                    _ => "it took much longer than its text should",
                };
                let message = format!(
                    "piece {} was ended because {why}; another --seed may help",
                    totals.pieces.len() + chunk.piece + 1
                );
                self.context.printer.warning(&message);
            }
            sink.write(&chunk.samples, self.context)?;
        }
        Ok(())
    }

    fn add(&self, stream: &SpeechStream<'_>, totals: &mut Totals) {
        let timings = stream.timings();
        totals.n_frames += stream.n_frames();
        totals.pieces.extend_from_slice(stream.said());
        totals.first_audio.get_or_insert(timings.first_audio);
        totals.prefill += timings.prefill;
        totals.generate += timings.generate;
        totals.decode += timings.decode;
        totals.total += timings.prefill + timings.generate + timings.decode;
    }

    /// Say what comes in, as soon as a sentence is complete.
    fn say_as_it_comes(
        &self,
        options: &SpeakOptions,
        sink: &mut Sink,
        plotted: &mut Vec<f32>,
        totals: &mut Totals,
    ) -> Result<(), Stop> {
        let control = &self.context.control;
        let mut stream = self.synthesizer.open_stream(options, control)?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            loop {
                let read = match io::stdin().lock().read(&mut block) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read.map(|len| block[..len].to_vec()),
                };
                let is_end = !read.as_ref().is_ok_and(|bytes| !bytes.is_empty());
                // Nobody receives after Ctrl-C.
                if sender.send(read).is_err() || is_end {
                    break;
                }
            }
        });
        let mut pending: Vec<u8> = Vec::new();
        let mut heard_text = false;
        loop {
            let received = match receiver.recv_timeout(Duration::from_millis(50)) {
                Err(RecvTimeoutError::Timeout) => {
                    control.check()?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Ok(read) => read.map_err(|source| {
                    Failure::from(Error::Io {
                        action: "read",
                        path: "-".into(),
                        source,
                    })
                })?,
            };
            if received.is_empty() {
                break;
            }
            pending.extend(received);
            // A character may be cut in two; what is no text at all is shown as such.
            let complete = match std::str::from_utf8(&pending) {
                Ok(_) => pending.len(),
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                Err(_) => {
                    return Err(
                        Failure::input(Path::new("-"), "what comes in is not UTF-8 text").into(),
                    );
                }
            };
            let text = String::from_utf8_lossy(&pending[..complete]).into_owned();
            pending.drain(..complete);
            heard_text |= !text.trim().is_empty();
            stream.push(&text);
            self.drain(&mut stream, sink, plotted, totals)?;
        }
        if !pending.is_empty() {
            return Err(Failure::input(
                Path::new("-"),
                "what comes in ends in the middle of a character; it is not UTF-8 text",
            )
            .into());
        }
        if !heard_text {
            return Err(Failure::usage("there is no text to say: nothing came in").into());
        }
        stream.finish();
        self.drain(&mut stream, sink, plotted, totals)?;
        self.add(&stream, totals);
        match totals.pieces.is_empty() {
            true => Err(no_text(options).into()),
            false => Ok(()),
        }
    }

    fn report(&self, options: &SpeakOptions, totals: &Totals) -> Result<(), Stop> {
        let printer = &self.context.printer;
        let seconds = totals.n_samples as f64 / f64::from(self.synthesizer.sample_rate());
        let factor = totals.total / seconds.max(1e-9);
        let first = totals.first_audio.unwrap_or_default();
        let timing = format!(
            "{seconds:.2} s of speech in {:.2} s (real-time factor {factor:.2}): first sound {first:.2} s, prompts {:.2} s, frames {:.2} s, codec {:.2} s; seed {}",
            totals.total, totals.prefill, totals.generate, totals.decode, options.seed
        );
        match self.args.timing {
            true => printer.message(Level::Normal, &timing),
            false => printer.message(Level::Verbose, &timing),
        }
        if self.args.json {
            let pieces = totals.pieces.iter();
            let pieces: Vec<_> = pieces
                .map(|(text, reason)| json!({"text": text, "stopped": reason.name()}))
                .collect();
            let facts = json!({
                "model": self.synthesizer.model_name(),
                "output": self.args.output.as_ref().map(|path| path.to_string_lossy()),
                "duration": seconds,
                "sample_rate": self.synthesizer.sample_rate(),
                "frames": totals.n_frames,
                "seed": options.seed,
                "pieces": pieces,
                "timings": {
                    "first_audio": first,
                    "prefill": totals.prefill,
                    "generate": totals.generate,
                    "decode": totals.decode,
                    "total": totals.total,
                    "real_time_factor": factor,
                },
            });
            printer.result_line(&facts.to_string())?;
        }
        Ok(())
    }
}

/// Another seed each time, short enough to be typed.
fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanoseconds = now.map_or(0, |time| time.as_nanos() as u64);
    (nanoseconds ^ u64::from(std::process::id())).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}
