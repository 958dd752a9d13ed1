//! `turaco speak`: text to speech.

use std::collections::HashMap;
use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use serde_json::json;
use turaco::models::qwen3_tts::TtsKind;
use turaco::tts::{CarriedVoice, SentenceSplitter, SpeakOptions, SpeechStream, StopReason, Voice};
use turaco::{Error, Synthesizer};

use super::script::{self, Line};
use super::sound_sink::{Sink, SinkKind};
use super::voices::{self, list};
use super::{Context, speech_model};
use crate::args::SpeakArgs;
use crate::engine;
use crate::exit::{Exit, Failure, Outcome, Stop};
use crate::files;
use crate::printer::Level;

/// Say what the command line says.
pub fn run(args: &SpeakArgs, context: &Context) -> Outcome {
    let sink_kind = SinkKind::new(args, io::stdout().is_terminal())?;
    check_plot(args, sink_kind)?;
    if args.list_voices {
        return list(false, context);
    }
    check_stdin(args)?;
    let mut options = args.options();
    options.seed = args.sampling.seed.unwrap_or_else(fresh_seed);
    // What cannot be said needs no model.
    let text = Text::new(args, &options, io::stdin().is_terminal())?;
    let kind = match args.task_type {
        Some(kind) => kind,
        None if args.who.needs_base() || text.needs_base() => TtsKind::Base,
        None => TtsKind::CustomVoice,
    };
    let synthesizer = engine::load_synthesizer(speech_model(&context.global, kind), context)?;
    if let Some(kind) = args.task_type {
        synthesizer.check_task(kind.name())?;
    }
    options.voice = voices::voice(&args.who, &synthesizer, context)?;
    let parts = text.parts(args, &options, &synthesizer)?;
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
    let rate = sink.rate();
    match said {
        Ok(()) => sink.finish(context)?,
        Err(Stop::Failed(failure)) => {
            return Err(sink.abandon(*failure, totals.n_samples > 0).into());
        }
        Err(stop) => return Err(stop),
    }
    if let Some(path) = &args.plot {
        let picture = turaco::output::plot_sound(&plotted, synthesizer.sample_rate());
        match path == Path::new("-") {
            true => context.printer.result(picture.as_bytes())?,
            false => files::write_all(&[(path.clone(), picture.into())])?,
        }
    }
    job.report(&options, rate, &totals)?;
    Ok(Exit::Success)
}

/// Whether the picture can be written is known before minutes of work.
fn check_plot(args: &SpeakArgs, sink: SinkKind) -> Result<(), Failure> {
    let Some(path) = &args.plot else {
        return Ok(());
    };
    if path == Path::new("-") {
        let other = match sink {
            SinkKind::Stdout(_) => "the sound",
            _ if args.json => "--json",
            _ => return Ok(()),
        };
        let message = format!("{other} and the picture cannot both go to stdout");
        return Err(Failure::usage(message).hint("write the picture to a file: --plot speech.svg"));
    }
    if args.output.as_ref() == Some(path) {
        return Err(Failure::usage("--plot and -o name the same file").at(path));
    }
    files::check_writable(path)
}

/// Standard input is one thing: the text, or the recording of the voice.
fn check_stdin(args: &SpeakArgs) -> Result<(), Failure> {
    let stdin = Path::new("-");
    let is_text = match (&args.text, &args.file, &args.script) {
        (Some(text), ..) => text == "-",
        (None, Some(path), _) | (None, None, Some(path)) => path == stdin,
        (None, None, None) => true,
    };
    match args.who.ref_audio.as_deref() {
        Some(path) if path == stdin && is_text => Err(Failure::usage(
            "standard input cannot be both the text and the recording",
        )
        .hint("give the text as an argument or with --file FILE")),
        _ => Ok(()),
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
    Whole {
        text: String,
        options: SpeakOptions,
        /// Parts of one number are said by one voice.
        speaker: usize,
    },
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
            Self::Script(lines) => lines,
            other => {
                synthesizer.check(options)?;
                let options = options.clone();
                return Ok(vec![match other {
                    Self::Whole(text) => Part::Whole {
                        text,
                        options,
                        speaker: 0,
                    },
                    _ => Part::Arriving(options),
                }]);
            }
        };
        let path = args.script.as_deref().unwrap_or(Path::new("-"));
        // Each voice is read once: what a model makes of a recording is kept for the lines behind.
        let mut speakers: Vec<(Option<String>, SpeakOptions)> = Vec::new();
        let mut said: HashMap<(usize, String), u64> = HashMap::new();
        let mut parts = Vec::with_capacity(lines.len());
        for line in lines {
            let known = speakers.iter().position(|(name, _)| *name == line.voice);
            let speaker = match known {
                Some(speaker) => speaker,
                None => {
                    let options = options_of(line.voice.as_deref(), options, synthesizer);
                    let options = options.map_err(|stop| in_line(stop, path, line.number))?;
                    speakers.push((line.voice, options));
                    speakers.len() - 1
                }
            };
            let mut options = speakers[speaker].1.clone();
            // A line sounds the same whatever stands before it, but not the same as its own repetition.
            let times = said.entry((speaker, line.text.clone())).or_default();
            options.seed = options.seed.wrapping_add(times.wrapping_mul(NEXT_SEED));
            *times += 1;
            parts.push(Part::Whole {
                text: line.text,
                options,
                speaker,
            });
        }
        Ok(parts)
    }
}

/// From the seed of a line to that of its repetition.
const NEXT_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The options for the lines of a voice in a script.
fn options_of(
    name: Option<&str>,
    options: &SpeakOptions,
    synthesizer: &Synthesizer,
) -> Result<SpeakOptions, Stop> {
    let mut options = options.clone();
    match name {
        Some(name) if synthesizer.kind() == TtsKind::VoiceDesign && is_description(name) => {
            options.voice = Voice::Default;
            options.instruct = Some(name.to_owned());
        }
        Some(name) => options.voice = voices::named(name, synthesizer)?,
        None => {}
    }
    match synthesizer.check(&options) {
        Err(error) if name.is_some() && synthesizer.kind() == TtsKind::VoiceDesign => {
            let hint = "with this model a voice is described: `NAME = \"an old sailor, slow and hoarse\"` in a line of its own, \
                        then `NAME: text`";
            Err(Failure::from(error).hint(hint).into())
        }
        checked => Ok(checked.map(|()| options)?),
    }
}

/// Whether this describes a voice, and is no name of one.
fn is_description(name: &str) -> bool {
    let is_word = (name.chars()).all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    !is_word && !voices::is_cloned(name)
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
        let mut carried: HashMap<usize, CarriedVoice> = HashMap::new();
        for part in parts {
            match part {
                Part::Whole {
                    text,
                    options,
                    speaker,
                } => {
                    let control = &self.context.control;
                    let mut stream = self.synthesizer.stream(&text, &options, control)?;
                    if let Some(voice) = carried.get(&speaker) {
                        stream.carry_on(voice);
                    }
                    self.drain(&mut stream, sink, plotted, totals)?;
                    self.add(&stream, totals);
                    if let Some(voice) = stream.carried_voice() {
                        carried.insert(speaker, voice);
                    }
                }
                Part::Arriving(options) => {
                    self.say_as_it_comes(&options, sink, plotted, totals)?;
                }
            }
        }
        Ok(())
    }

    /// Say the text that a stream has.
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
        let mut splitter = SentenceSplitter::new();
        // What comes faster than it is said waits in its pipe.
        let (sender, receiver) = mpsc::sync_channel(64);
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
                    // All was said: who wrote a line waits for it.
                    if let Some(piece) = splitter.next_while_waiting() {
                        stream.push_piece(&piece);
                        self.drain(&mut stream, sink, plotted, totals)?;
                    }
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
            // Some editors begin files with a mark of their encoding.
            let said = match heard_text {
                true => text.as_str(),
                false => text.trim_start_matches('\u{feff}'),
            };
            heard_text |= !said.trim().is_empty();
            splitter.push(said);
            while let Some(piece) = splitter.next() {
                stream.push_piece(&piece);
            }
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
        if let Some(piece) = splitter.finish() {
            stream.push_piece(&piece);
        }
        stream.finish();
        self.drain(&mut stream, sink, plotted, totals)?;
        self.add(&stream, totals);
        match totals.pieces.is_empty() {
            true => Err(no_text(options).into()),
            false => Ok(()),
        }
    }

    fn report(&self, options: &SpeakOptions, rate: u32, totals: &Totals) -> Result<(), Stop> {
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
                "sample_rate": rate,
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
