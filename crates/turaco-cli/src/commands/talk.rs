//! `turaco chat --talk`: a conversation by voice.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use turaco::audio::{RawFormat, SoundFormat};
use turaco::voice::{
    AnswerEnd, Mind, TurnTimings, VoiceEvent, VoiceModels, VoiceOptions, VoiceSession,
};

use super::Context;
use super::voices;
use crate::args::TalkArgs;
use crate::engine;
use crate::exit::{Exit, Failure, Outcome, Stop};
use crate::files;
use crate::hearing::{Source, hear};
use crate::inbox::{Inbox, WhenFull};
use crate::printer::Level;
use crate::recording::Recording;
use crate::sound::SAMPLE_RATE;
use crate::speaker::Speaker;

/// Who writes down what a chat endpoint is asked, if nobody is named.
const DEFAULT_EAR: &str = "base";

/// Seconds of sound that may wait.
const BUFFER: usize = 60;

/// Seconds of sound that are handed over at a time.
const BLOCK: f64 = 0.1;

/// Talk until the sound ends or Ctrl-C. `mind` answers, knowing `instructions`.
pub fn run(
    args: &TalkArgs,
    mind: Box<dyn Mind>,
    instructions: Option<&str>,
    context: &Context,
) -> Outcome {
    let source = match (&args.mic, &args.listen) {
        (None, None) => Source::Microphone(String::new()),
        (mic, listen) => Source::new(mic.as_deref(), listen.as_deref(), io::stdin().is_terminal()),
    };
    let raw = args
        .raw
        .as_deref()
        .map(str::parse::<RawFormat>)
        .transpose()?;
    let mut options = VoiceOptions::default();
    options.turns = args.turn.options();
    options.conversation.instructions = instructions.map(str::to_owned);
    options.conversation.context_tokens = args.memory.context_tokens;
    if args.turn.interrupt_words > 0 && mind.hears() && args.ear.is_none() {
        context
            .printer
            .warning("--interrupt-words needs a model that writes down what is said: `--ear NAME`");
    }
    let models = models(args, mind.hears(), &mut options, context)?;
    let sink = Sink::open(args, models.sample_rate())?;

    let when_full = match source {
        Source::Microphone(_) => WhenFull::DropOldest,
        _ => WhenFull::Wait,
    };
    let inbox = Inbox::new(BUFFER * SAMPLE_RATE as usize, when_full);
    // Lives as long as it is to be listened to.
    let _hearing = hear(&source, raw, None, &inbox)?;
    if let Source::Microphone(_) = source {
        context.printer.note("listening; Ctrl-C ends");
    }
    let (sender, events) = mpsc::channel();
    let session = VoiceSession::start(&models, Some(mind), options, move |event| {
        // Nobody reads any more when the program ends.
        let _ = sender.send(event);
    })?;
    let mut screen = Screen {
        args,
        context,
        sink,
        in_answer: false,
        has_failed: false,
    };
    let talked = talk(&session, &inbox, &events, &mut screen);
    inbox.abandon();
    let conversation = match &talked {
        // What was said last is still answered.
        Ok(()) => {
            let last = thread::spawn(move || session.finish());
            let mut shown = Ok(());
            while let Ok(event) = events.recv() {
                shown = shown.and_then(|()| screen.show(event));
            }
            shown?;
            last.join().ok()
        }
        Err(_) => Some(session.conversation()),
    };
    let Screen {
        sink, has_failed, ..
    } = screen;
    sink.finish(context)?;
    if let (Some(path), Some(conversation)) = (&args.transcript, conversation) {
        let text = format!("{}\n", conversation.to_json());
        files::write_all_or_keep(&[(path.clone(), text.into_bytes())])?;
    }
    talked?;
    Ok(match has_failed {
        true => Exit::InputFailed,
        false => Exit::Success,
    })
}

/// The ear and the voice, and how they work.
fn models(
    args: &TalkArgs,
    mind_hears: bool,
    options: &mut VoiceOptions,
    context: &Context,
) -> Result<VoiceModels, Stop> {
    let mut models = VoiceModels::new()?;
    let ear = match (&args.ear, mind_hears) {
        (Some(name), _) => Some(name.as_str()),
        (None, false) => Some(DEFAULT_EAR),
        (None, true) => None,
    };
    if let Some(name) = ear {
        let recognizer = engine::load_named(name, &engine::load_options(&context.global), context)?;
        models = models.recognizer(Arc::new(recognizer));
    }
    if let Some(name) = &args.tts_model {
        let synthesizer = engine::load_synthesizer(name, context)?;
        if let Some(voice) = &args.voice {
            options.speech.voice = voices::named(voice, &synthesizer)?;
        }
        models = models.synthesizer(Arc::new(synthesizer));
    }
    Ok(models)
}

/// Hand sound over as fast as it is spoken, and show what happens, until there is no more.
fn talk(
    session: &VoiceSession,
    inbox: &Inbox,
    events: &Receiver<VoiceEvent>,
    screen: &mut Screen<'_>,
) -> Result<(), Stop> {
    let block = (BLOCK * f64::from(SAMPLE_RATE)) as usize;
    let (started, mut n_samples) = (Instant::now(), 0);
    loop {
        screen.context.control.check()?;
        let taken = inbox.take(1, block, Duration::from_millis(20));
        if taken.dropped > 0 {
            let seconds = taken.dropped as f64 / f64::from(SAMPLE_RATE);
            let warning =
                format!("{seconds:.1} s of sound were lost: this machine does not keep up");
            screen.context.printer.warning(&warning);
        }
        n_samples += taken.samples.len();
        // A file is there at once; nobody speaks that fast.
        let due = Duration::from_secs_f64(n_samples as f64 / f64::from(SAMPLE_RATE));
        thread::sleep(
            due.saturating_sub(started.elapsed())
                .min(2 * Duration::from_secs_f64(BLOCK)),
        );
        while !taken.samples.is_empty() && !session.push(&taken.samples) {
            screen.context.control.check()?;
            thread::sleep(Duration::from_millis(50));
        }
        while let Ok(event) = events.try_recv() {
            screen.show(event)?;
        }
        if let Some(end) = taken.end {
            return Ok(end?);
        }
    }
}

/// Where answers can be heard.
enum Sink {
    Nowhere,
    File(Box<Recording>),
    Speaker(Box<Speaker>),
}

impl Sink {
    fn open(args: &TalkArgs, rate: Option<u32>) -> Result<Self, Failure> {
        match (rate, &args.answers) {
            (None, Some(path)) => Err(Failure::usage(
                "`--answers` needs a model that says them: `--tts-model NAME`",
            )
            .at(path)),
            (None, None) => Ok(Self::Nowhere),
            (Some(rate), Some(path)) => Ok(Self::File(Box::new(Recording::create(
                path,
                SoundFormat::Wav,
                rate,
            )?))),
            (Some(rate), None) => Ok(Self::Speaker(Box::new(Speaker::open(rate)?))),
        }
    }

    fn finish(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Nowhere => Ok(()),
            Self::File(file) => file.finish(),
            Self::Speaker(speaker) => speaker.finish(&context.control),
        }
    }
}

struct Screen<'a> {
    args: &'a TalkArgs,
    context: &'a Context,
    sink: Sink,
    /// Whether a line of an answer has begun.
    in_answer: bool,
    /// Whether something that was said was not heard or not answered.
    has_failed: bool,
}

impl Screen<'_> {
    fn show(&mut self, event: VoiceEvent) -> Result<(), Stop> {
        match &event {
            VoiceEvent::AnswerAudio { samples, .. } => match &mut self.sink {
                Sink::Nowhere => {}
                Sink::File(file) => file.write(samples)?,
                Sink::Speaker(speaker) => speaker.queue(samples)?,
            },
            // What was said of an answer that is over is heard to its end, unless somebody speaks.
            VoiceEvent::AnswerEnded {
                end: AnswerEnd::Interrupted | AnswerEnd::Cancelled | AnswerEnd::Failed,
                ..
            } => self.hush(),
            VoiceEvent::SpeechStarted { .. } if !self.args.turn.no_interrupt => self.hush(),
            VoiceEvent::Warning { message } => self.context.printer.warning(message),
            VoiceEvent::Failed { message, .. } | VoiceEvent::HearingFailed { message, .. } => {
                self.context.printer.warning(message);
                self.has_failed = true;
            }
            _ => {}
        }
        match self.args.events {
            true => self.write_event(&event),
            false => self.write_text(&event),
        }
    }

    fn hush(&mut self) {
        if let Sink::Speaker(speaker) = &mut self.sink {
            speaker.hush();
        }
    }

    fn write_event(&self, event: &VoiceEvent) -> Result<(), Stop> {
        let mut line = serde_json::to_value(event).unwrap_or_default();
        if let VoiceEvent::AnswerAudio { samples, .. } = event {
            line["samples"] = samples.len().into();
        }
        self.context.printer.result_line(&line.to_string())
    }

    fn write_text(&mut self, event: &VoiceEvent) -> Result<(), Stop> {
        let printer = &self.context.printer;
        match event {
            VoiceEvent::Heard { text, .. } if !text.is_empty() => {
                printer.result_line(&format!("> {text}"))?;
            }
            VoiceEvent::AnswerText { text, .. } => {
                printer.result(text.as_bytes())?;
                self.in_answer = true;
            }
            VoiceEvent::AnswerEnded { end, timings, .. } => {
                if std::mem::take(&mut self.in_answer) {
                    let mark = match end {
                        AnswerEnd::Completed => "",
                        AnswerEnd::Cut => " […]",
                        _ => " —",
                    };
                    printer.result_line(mark)?;
                }
                printer.message(Level::Verbose, &times(timings));
            }
            _ => {}
        }
        Ok(())
    }
}

/// What a user waited for.
fn times(timings: &TurnTimings) -> String {
    let ms = |seconds: f64| format!("{:.0} ms", 1e3 * seconds);
    let turn_end = timings.turn_end;
    let turn_end = turn_end.map(|seconds| format!("turn over after {}", ms(seconds)));
    let mut parts = Vec::from_iter(turn_end);
    for (what, seconds) in [
        ("question as text", timings.transcript),
        ("first text", timings.first_text),
        ("first sound", timings.first_audio),
        ("complete", Some(timings.total)),
    ] {
        parts.extend(seconds.map(|seconds| format!("{what} {}", ms(seconds))));
    }
    parts.join(", ")
}
