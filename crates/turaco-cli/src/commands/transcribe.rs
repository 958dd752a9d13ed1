//! `turaco transcribe` and `turaco translate`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::json;
use turaco::asr::{Info, Task, TranscribeOptions};
use turaco::output::{self, OutputFormat, Transcript, Writer};
use turaco::{Audio, Error, LoadOptions, Recognizer, Segment};

use super::Context;
use super::lines::Lines;
use super::plan::{Plan, Target};
use crate::args::TranscribeArgs;
use crate::batch::{self, Sink, interrupted};
use crate::engine;
use crate::exit::{Exit, Failure, Outcome, Stop};
use crate::files;
use crate::inputs::{self, Input};
use crate::printer::Level;
use crate::progress::{Bar, Unit};

/// Seconds that a model without times hears at once where times are wanted.
const TIMED_STRETCH: f64 = 30.0;

/// Do it.
pub fn run(args: &TranscribeArgs, task: Task, context: &Context) -> Outcome {
    let plan = Plan::new(args, task)?;
    let load_options = engine::load_options(&context.global);
    for warning in &plan.warnings {
        context.printer.warning(warning);
    }
    let inputs = inputs::collect(&args.input)?;
    plan.check_count(inputs.found.len())?;
    if let Target::Folder { path, .. } = &plan.target {
        files::create_folder(path)?;
    }
    let jobs = plan.jobs;
    let job = Job {
        several: inputs.found.len() + inputs.failures.len() > 1,
        recognizer: Mutex::new(None),
        plan,
        load_options,
        context,
    };
    batch::run(inputs, jobs, context, |input, sink| job.input(input, sink))
}

struct Job<'a> {
    plan: Plan,
    load_options: LoadOptions,
    context: &'a Context,
    /// More than one input was named.
    several: bool,
    /// Loaded when the first input has turned out to be sound.
    recognizer: Mutex<Option<Arc<Recognizer>>>,
}

impl Job<'_> {
    fn input(&self, input: &Input, sink: &mut Sink<'_>) -> Result<(), Stop> {
        let printer = &self.context.printer;
        let name = input.name();
        if self.is_done(input) {
            printer.note(&format!("{name}: skipped, its output exists"));
            return Ok(());
        }
        let audio = self.plan.reading.read(input, &self.context.control)?;
        for notice in audio.notices() {
            printer.warning(&format!("{name}: {notice}"));
        }
        let recognizer = self.recognizer()?;
        match &self.plan.target {
            Target::Language { json } => self.language(&recognizer, &audio, input, *json, sink),
            Target::Stdout(format) => {
                let mut out = Stdout::new(self, *format, &recognizer, sink);
                if self.several && *format != OutputFormat::Txt {
                    let file = json!(input.path.to_string_lossy());
                    out.tag = Some(format!("{{\"file\": {file}, ").into_bytes());
                }
                if self.several && *format == OutputFormat::Txt {
                    out.heading(&name)?;
                }
                let transcript = self.transcribe(&recognizer, &audio, input, &mut out)?;
                // What is finished stays, also when the rest was interrupted.
                out.finish(&transcript.transcript)?;
                transcript.end()
            }
            Target::Folder { path, formats, .. } => {
                let mut out = Stdout::new(self, OutputFormat::Txt, &recognizer, sink);
                out.shown = self.plan.timestamps;
                let transcript = self.transcribe(&recognizer, &audio, input, &mut out)?;
                if transcript.interrupted {
                    return Err(interrupted());
                }
                let mut outputs = Vec::new();
                for &format in formats {
                    let mut bytes = Vec::new();
                    output::write(
                        &transcript.transcript,
                        format,
                        &self.plan.layout,
                        &mut bytes,
                    )
                    .map_err(|error| Failure::write(path, &error))?;
                    outputs.push((output_file(path, input, format), bytes));
                }
                files::write_all_or_keep(&outputs)?;
                Ok(())
            }
        }
    }

    /// A model that tells no times hears half an hour at once; where times are wanted, it hears less.
    fn options_for(&self, recognizer: &Recognizer) -> TranscribeOptions {
        let mut options = self.plan.options.clone();
        let has_times = |format: &OutputFormat| {
            !matches!(
                format,
                OutputFormat::Txt | OutputFormat::Json | OutputFormat::VerboseJson
            )
        };
        let wants_times = self.plan.timestamps
            || match &self.plan.target {
                Target::Stdout(format) => has_times(format),
                Target::Folder { formats, .. } => formats.iter().any(has_times),
                Target::Language { .. } => false,
            };
        if wants_times && recognizer.chat().is_some() {
            options.chunk_length.get_or_insert(TIMED_STRETCH);
        }
        options
    }

    /// Whether `--skip-existing` leaves this input out.
    fn is_done(&self, input: &Input) -> bool {
        match &self.plan.target {
            Target::Folder {
                path,
                formats,
                skip_existing: true,
            } => formats
                .iter()
                .all(|&format| output_file(path, input, format).is_file()),
            _ => false,
        }
    }

    fn recognizer(&self) -> Result<Arc<Recognizer>, Failure> {
        let mut recognizer = self
            .recognizer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(recognizer) = &*recognizer {
            return Ok(Arc::clone(recognizer));
        }
        let loaded = Arc::new(engine::load(&self.load_options, self.context)?);
        *recognizer = Some(Arc::clone(&loaded));
        Ok(loaded)
    }

    fn language(
        &self,
        recognizer: &Recognizer,
        audio: &Audio,
        input: &Input,
        as_json: bool,
        sink: &mut Sink<'_>,
    ) -> Result<(), Stop> {
        let probabilities =
            recognizer.detect_language(audio, &self.plan.options, &self.context.control)?;
        let (language, probability) = probabilities
            .first()
            .ok_or_else(|| Failure::model("the model names no language"))?;
        let line = if as_json {
            json!({
                "file": input.path.to_string_lossy(),
                "language": language,
                "language_probability": probability,
                "all_language_probs": probabilities,
            })
            .to_string()
        } else if self.several {
            format!("{}: {language} {probability:.4}", input.name())
        } else {
            format!("{language} {probability:.4}")
        };
        sink.write(format!("{line}\n").as_bytes())
    }

    /// Run the recogniser over one input. Segments go to `out` as they become final.
    fn transcribe(
        &self,
        recognizer: &Recognizer,
        audio: &Audio,
        input: &Input,
        out: &mut Stdout<'_, '_>,
    ) -> Result<Finished, Stop> {
        let printer = &self.context.printer;
        let name = input.name();
        let started = Instant::now();
        let bar = Bar::new(printer, &name, Unit::Audio);
        let control = bar.watch(&self.context.control);
        let wrong = |error: Error| Stop::from(about_input(error, input));

        let mut transcript = Transcript {
            task: self.plan.options.task,
            duration: audio.duration(),
            ..Transcript::default()
        };
        let options = self.options_for(recognizer);
        let mut running = match recognizer.transcribe(audio, &options, &control) {
            Ok(running) => running,
            Err(Error::Cancelled) => {
                return Ok(Finished {
                    transcript,
                    interrupted: true,
                });
            }
            Err(error) => return Err(wrong(error)),
        };
        for warning in &running.info().warnings {
            printer.warning(warning);
        }
        transcript.language.clone_from(&running.info().language);
        transcript.warnings.clone_from(&running.info().warnings);
        out.begin()?;
        let mut interrupted = false;
        let late_warning = |transcript: &mut Transcript| {
            if let Some(warning) = recognizer.take_late_warning() {
                printer.warning(&warning);
                transcript.warnings.push(warning);
            }
        };
        late_warning(&mut transcript);
        loop {
            let mut stopped = None;
            let segment = running.next_with(&mut |text| {
                out.text(text).map_err(|stop| {
                    stopped = Some(stop);
                    Error::Cancelled
                })
            });
            if let Some(stop) = stopped {
                return Err(stop);
            }
            let Some(segment) = segment else {
                break;
            };
            late_warning(&mut transcript);
            match segment {
                Ok(mut segment) => {
                    shift(&mut segment, self.plan.reading.offset);
                    transcript.text.push_str(&segment.text);
                    out.segment(&segment)?;
                    transcript.segments.push(segment);
                }
                Err(Error::Cancelled) => {
                    interrupted = true;
                    break;
                }
                Err(error) => return Err(wrong(error)),
            }
        }
        late_warning(&mut transcript);
        bar.finish();
        // What turned out on the way.
        transcript.language.clone_from(&running.info().language);
        let known = transcript.warnings.clone();
        for warning in running
            .info()
            .warnings
            .iter()
            .filter(|w| !known.contains(w))
        {
            printer.warning(&format!("{name}: {warning}"));
            transcript.warnings.push(warning.clone());
        }
        if interrupted {
            return Ok(Finished {
                transcript,
                interrupted,
            });
        }

        let seconds = started.elapsed().as_secs_f64();
        let info = running.info();
        let rtf = if info.duration > 0.0 {
            seconds / info.duration
        } else {
            0.0
        };
        // Where a bar was drawn, its end says enough.
        let level = if printer.bars().is_some() {
            Level::Verbose
        } else {
            Level::Normal
        };
        printer.event(
            level,
            "file_done",
            &format!(
                "{name}: {:.1} s audio in {seconds:.1} s (rtf {rtf:.3}){}",
                info.duration,
                language_note(info)
            ),
            json!({
                "path": input.path.to_string_lossy(),
                "duration": info.duration,
                "seconds": seconds,
                "rtf": rtf,
                "language": info.language,
                "language_probability": info.language_probability,
                "segments": transcript.segments.len(),
            }),
        );
        let timings = running.timings();
        printer.message(
            Level::Debug,
            &format!(
                "{name}: vad {:.2} s, features {:.2} s, language {:.2} s, encoder {:.2} s, decoder {:.2} s, words {:.2} s; \
                 {} windows, {} tokens",
                timings.vad,
                timings.features,
                timings.language,
                timings.encoder,
                timings.decoder,
                timings.words,
                timings.windows,
                timings.tokens
            ),
        );
        Ok(Finished {
            transcript,
            interrupted,
        })
    }
}

/// The language, where the model tells.
fn language_note(info: &Info) -> String {
    match info.language.as_str() {
        "" => String::new(),
        language => format!(", language {language} ({:.2})", info.language_probability),
    }
}

/// What came of an input.
struct Finished {
    transcript: Transcript,
    interrupted: bool,
}

impl Finished {
    fn end(self) -> Result<(), Stop> {
        if self.interrupted {
            Err(interrupted())
        } else {
            Ok(())
        }
    }
}

/// Writes one transcript to stdout, segment by segment.
struct Stdout<'a, 'b> {
    writer: Box<dyn Writer + Send>,
    /// Nothing but text is written.
    is_plain: bool,
    /// Instead of the writer: lines with times or marked words.
    lines: Option<Lines<'a>>,
    /// With several inputs, headings stand between texts,
    several: bool,
    /// and every JSON object begins with the name of its input.
    tag: Option<Vec<u8>>,
    /// Whether anything is shown at all.
    shown: bool,
    /// The text of the segment that comes next was written while it came, so far.
    ahead: String,
    /// The last byte written; the files of some formats do not end with a line end.
    last: u8,
    sink: &'a mut Sink<'b>,
}

impl<'a, 'b> Stdout<'a, 'b> {
    fn new(
        job: &Job<'_>,
        format: OutputFormat,
        recognizer: &'a Recognizer,
        sink: &'a mut Sink<'b>,
    ) -> Self {
        let plan = &job.plan;
        let lines = Lines::new(
            plan,
            recognizer.whisper().map(turaco::Transcriber::tokenizer),
            job.context.printer.colors_on_request(),
        );
        Self {
            writer: format.writer(&plan.layout),
            is_plain: format == OutputFormat::Txt && lines.is_none(),
            lines: lines.filter(|_| format == OutputFormat::Txt),
            several: job.several && format == OutputFormat::Txt,
            tag: None,
            shown: true,
            ahead: String::new(),
            last: b'\n',
            sink,
        }
    }

    fn heading(&mut self, name: &str) -> Result<(), Stop> {
        self.sink.write(format!("==> {name} <==\n").as_bytes())
    }

    fn begin(&mut self) -> Result<(), Stop> {
        self.write(|writer, out| writer.begin(out))
    }

    /// More of the segment that comes next: plain text needs not wait for its end.
    fn text(&mut self, text: &str) -> Result<(), Stop> {
        if !self.shown || !self.is_plain {
            return Ok(());
        }
        let text = match self.ahead.is_empty() {
            true => text.trim_start(),
            false => text,
        };
        self.ahead.push_str(text);
        self.sink.write(text.as_bytes())
    }

    fn segment(&mut self, segment: &Segment) -> Result<(), Stop> {
        if !self.shown {
            return Ok(());
        }
        let ahead = std::mem::take(&mut self.ahead);
        if !ahead.is_empty() {
            self.last = b'\n';
            let text = segment.text.trim();
            let rest = text.strip_prefix(ahead.as_str()).unwrap_or_default();
            return self.sink.write(format!("{rest}\n").as_bytes());
        }
        match &self.lines {
            Some(lines) => self.sink.write(lines.line(segment).as_bytes()),
            None => self.write(|writer, out| writer.segment(segment, out)),
        }
    }

    fn finish(&mut self, transcript: &Transcript) -> Result<(), Stop> {
        self.write(|writer, out| writer.finish(transcript, out))?;
        if self.last != b'\n' || self.several {
            self.sink.write(b"\n")?;
        }
        Ok(())
    }

    fn write(
        &mut self,
        write: impl FnOnce(&mut dyn Writer, &mut dyn io::Write) -> io::Result<()>,
    ) -> Result<(), Stop> {
        if !self.shown {
            return Ok(());
        }
        let mut bytes = Vec::new();
        write(&mut *self.writer, &mut bytes)
            .map_err(|error| Failure::write(Path::new("standard output"), &error))?;
        if let (Some(tag), Some(rest)) = (&self.tag, bytes.strip_prefix(b"{")) {
            bytes = [tag, rest].concat();
        }
        self.last = bytes.last().copied().unwrap_or(self.last);
        self.sink.write(&bytes)
    }
}

fn output_file(folder: &Path, input: &Input, format: OutputFormat) -> PathBuf {
    folder.join(format!("{}.{}", input.stem, format.extension()))
}

/// Times count from the start of the file, wherever reading started.
fn shift(segment: &mut Segment, offset: f64) {
    if offset == 0.0 {
        return;
    }
    segment.seek += (offset * 100.0).round() as usize;
    segment.start += offset;
    segment.end += offset;
    for word in segment.words.iter_mut().flatten() {
        word.start += offset;
        word.end += offset;
    }
}

/// An error while an input is worked on; those that name nothing get its name.
fn about_input(error: Error, input: &Input) -> Failure {
    let mut failure = Failure::from(error);
    let general = matches!(failure.exit, Exit::Usage | Exit::Model | Exit::Device);
    if failure.path.is_none() && !general {
        failure.path = Some(input.path.clone());
    }
    failure
}
