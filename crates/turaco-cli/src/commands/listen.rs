//! `turaco listen`: text while sound arrives.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use serde_json::json;
use turaco::asr::realtime::{Alternative, RealtimeEvent, TrackKind};
use turaco::audio::{RawFormat, SoundFormat};
use turaco::cache::ModelName;
use turaco::output::format_timestamp;

use super::Context;
use super::ear::{Ear, not_streaming};
use crate::args::ListenArgs;
use crate::engine;
use crate::exit::{Exit, Outcome, Stop};
use crate::hearing::{Source, hear};
use crate::inbox::{Inbox, WhenFull};
use crate::microphone::Microphone;
use crate::printer::Level;
use crate::recording::Recording;

/// Samples per second that the model works with.
const SAMPLE_RATE: u32 = 16_000;

/// Seconds of sound that are worked on at a time when there is more.
const MOST_AT_ONCE: f64 = 2.0;

/// Seconds behind the sound from which on it is encoded in larger pieces.
const HURRY: f64 = 1.0;

/// Seconds behind the sound that are worth a word.
const BEHIND: f64 = 3.0;

/// Listen until the sound ends or Ctrl-C.
pub fn run(args: &ListenArgs, context: &Context) -> Outcome {
    let printer = &context.printer;
    if args.list_devices {
        printer.result(numbered(&Microphone::names()?).as_bytes())?;
        return Ok(Exit::Success);
    }
    let source = match args.stdin {
        true => Source::Stdin,
        false => Source::new(
            args.mic.as_deref(),
            args.audio.as_deref(),
            io::stdin().is_terminal(),
        ),
    };
    let raw = args
        .raw
        .as_deref()
        .map(str::parse::<RawFormat>)
        .transpose()?;
    let name = context.global.recogniser();
    if matches!(ModelName::parse(name), Ok(ModelName::Alias(alias)) if alias.is_whisper()) {
        return Err(not_streaming(name).into());
    }
    let recognizer = engine::load(&engine::load_options(&context.global), context)?;
    let ear = Ear::new(&recognizer, args.options(), context)?;
    drop(recognizer);
    let save = (args.save.as_deref())
        .map(|path| Recording::create(path, SoundFormat::Wav, SAMPLE_RATE))
        .transpose()?;

    let when_full = match source {
        Source::Microphone(_) => WhenFull::DropOldest,
        _ => WhenFull::Wait,
    };
    let inbox = Inbox::new(args.buffer * SAMPLE_RATE as usize, when_full);
    // Lives as long as it is to be listened to.
    let _hearing = hear(&source, raw, args.channel, &inbox)?;
    if let Source::Microphone(_) = source {
        printer.note("listening; Ctrl-C ends");
    }
    let mut listener = Listener {
        args,
        context,
        ear,
        screen: Screen::new(args, io::stdout().is_terminal()),
        save,
        is_live: when_full == WhenFull::DropOldest,
        worked: Duration::ZERO,
        told_behind: false,
        patience: Patience {
            seconds: args.exit_on_silence.map(|time| time.as_secs_f64()),
            last_text: 0.0,
        },
    };
    let ended = listener.listen(&inbox);
    inbox.abandon();
    ended?;
    Ok(Exit::Success)
}

struct Listener<'a> {
    args: &'a ListenArgs,
    context: &'a Context,
    ear: Ear<'a>,
    screen: Screen,
    save: Option<Recording>,
    /// The sound does not wait.
    is_live: bool,
    worked: Duration,
    told_behind: bool,
    patience: Patience,
}

/// How long to listen to sound without words.
#[derive(Debug)]
struct Patience {
    /// Seconds of sound; `None` = for ever.
    seconds: Option<f64>,
    /// Seconds of sound up to the last text.
    last_text: f64,
}

impl Patience {
    fn heed(&mut self, event: &RealtimeEvent) {
        if let RealtimeEvent::Text { text, time, .. } = event
            && !text.trim().is_empty()
        {
            self.last_text = self.last_text.max(*time);
        }
    }

    /// Whether it is over after so many seconds of sound, the text of which comes so many seconds behind it.
    fn is_over(&self, sound: f64, behind: f64) -> bool {
        self.seconds
            .is_some_and(|seconds| sound - behind - self.last_text > seconds)
    }
}

/// A line for each device: its number, its name.
fn numbered(names: &[String]) -> String {
    let lines = names.iter().enumerate();
    lines
        .map(|(number, name)| format!("{number}\t{name}\n"))
        .collect()
}

impl Listener<'_> {
    fn listen(&mut self, inbox: &Inbox) -> Result<(), Stop> {
        let samples = |seconds: f64| (seconds * f64::from(SAMPLE_RATE)) as usize;
        let wanted = samples(self.args.interval().min(0.08)).max(1);
        let ended = loop {
            let taken = inbox.take(wanted, samples(MOST_AT_ONCE), Duration::from_millis(200));
            if taken.dropped > 0 {
                let seconds = taken.dropped as f64 / f64::from(SAMPLE_RATE);
                self.context.printer.warning(&format!(
                    "{seconds:.1} s of sound were lost: this machine needs {:.2} s for each second, and the buffer of {} s was full",
                    self.factor(),
                    self.args.buffer
                ));
            }
            for remark in &taken.remarks {
                self.context.printer.warning(remark);
            }
            if !taken.samples.is_empty() {
                self.work(&taken.samples)?;
                self.watch_pace(taken.waiting as f64 / f64::from(SAMPLE_RATE));
            }
            if let Some(end) = taken.end {
                break end;
            }
            if self.context.control.is_cancelled() {
                break Ok(());
            }
            let behind = self.ear.delay() + self.args.interval();
            if self.patience.is_over(self.ear.seconds(), behind) {
                self.context.printer.note("no words any more; this ends");
                break Ok(());
            }
        };
        // What was heard comes out, also when hearing more failed.
        let started = Instant::now();
        let events = self.ear.finish()?;
        self.worked += started.elapsed();
        self.show(&events)?;
        self.context.printer.result(self.screen.end().as_bytes())?;
        if let Some(save) = self.save.take() {
            save.finish()?;
        }
        self.summary();
        Ok(ended?)
    }

    fn work(&mut self, samples: &[f32]) -> Result<(), Stop> {
        if let Some(save) = &mut self.save {
            save.write(samples)?;
        }
        let before = self.ear.timings();
        let started = Instant::now();
        let events = self.ear.push(samples)?;
        let took = started.elapsed();
        self.worked += took;
        if self.args.monitor {
            let after = self.ear.timings();
            let sound = samples.len() as f64 / f64::from(SAMPLE_RATE);
            let slow = took.as_secs_f64() > sound;
            let mut marks = "\u{25b6}".repeat(after.chunks.saturating_sub(before.chunks));
            if after.steps > before.steps {
                let text = after.text_tokens > before.text_tokens;
                marks.push_str(match (text, slow) {
                    (true, false) => "\u{25aa}",
                    (true, true) => "\u{25b8}",
                    (false, false) => "\u{25ab}",
                    (false, true) => "\u{25b9}",
                });
            }
            if events
                .iter()
                .any(|event| matches!(event, RealtimeEvent::End { .. }))
            {
                marks.push('\u{21ba}');
            }
            eprint!("{marks}");
        }
        self.show(&events)
    }

    fn show(&mut self, events: &[RealtimeEvent]) -> Result<(), Stop> {
        let mut out = String::new();
        for event in events {
            self.screen.event(event, &mut out);
            self.patience.heed(event);
        }
        if out.is_empty() {
            return Ok(());
        }
        self.context.printer.result(out.as_bytes())
    }

    /// Seconds of work for each second of sound.
    fn factor(&self) -> f64 {
        self.worked.as_secs_f64() / self.ear.seconds().max(0.01)
    }

    fn watch_pace(&mut self, waiting: f64) {
        // What waits, such as a file or a pipe, takes the time it takes, and the same pieces each time.
        self.ear.hurry(self.is_live && waiting > HURRY);
        if self.is_live && waiting > BEHIND && !self.told_behind {
            self.told_behind = true;
            self.context.printer.warning(&format!(
                "{waiting:.1} s behind the sound: this machine needs {:.2} s for each second; up to {} s are kept waiting (--buffer), then the oldest is lost. A larger --interval or --compute-type q4 is faster",
                self.factor(),
                self.args.buffer
            ));
        } else if waiting < BEHIND / 2.0 {
            self.told_behind = false;
        }
    }

    fn summary(&self) {
        let timings = self.ear.timings();
        let seconds = self.ear.seconds();
        let factor = self.factor();
        self.context.printer.event(
            Level::Verbose,
            "listen_done",
            &format!(
                "{seconds:.1} s of sound, {:.2} s of work for each; {} tokens in {} steps of {:.1} ms",
                factor,
                timings.steps,
                timings.passes,
                1e3 * timings.decoder / timings.passes.max(1) as f64
            ),
            json!({
                "duration": seconds,
                "rtf": factor,
                "encoder": timings.encoder,
                "prefill": timings.prefill,
                "decoder": timings.decoder,
                "tokens": timings.steps,
                "steps": timings.passes,
            }),
        );
    }
}

/// How events look on stdout.
struct Screen {
    jsonl: bool,
    partial: bool,
    timestamps: bool,
    /// Text stands in a line that has not ended.
    open: bool,
    /// The draft of what is not settled yet, on a terminal.
    draft: Option<String>,
}

impl Screen {
    fn new(args: &ListenArgs, is_terminal: bool) -> Self {
        let draft = args.partial && args.draft_delay.is_some() && is_terminal && !args.jsonl;
        Self {
            jsonl: args.jsonl,
            partial: args.partial,
            timestamps: args.timestamps,
            open: false,
            draft: draft.then(String::new),
        }
    }

    fn event(&mut self, event: &RealtimeEvent, out: &mut String) {
        if self.jsonl {
            let is_partial = match event {
                RealtimeEvent::Text { .. } => true,
                RealtimeEvent::Word { track, .. } => *track == TrackKind::Draft,
                _ => false,
            };
            if !is_partial || self.partial {
                out.push_str(&serde_json::to_string(event).unwrap_or_default());
                out.push('\n');
            }
            return;
        }
        match event {
            RealtimeEvent::Text {
                track: TrackKind::Settled,
                text,
                alternatives,
                ..
            } if !self.timestamps => {
                self.erase_draft(out);
                out.push_str(&with_alternatives(text, alternatives));
                self.open = true;
            }
            RealtimeEvent::Text {
                track: TrackKind::Draft,
                text,
                ..
            } => {
                if let Some(draft) = &mut self.draft {
                    draft.push_str(text);
                    // Behind the settled text, and gone when more of that comes.
                    out.push_str(&format!("\x1b7\x1b[2m{draft}\x1b[0m\x1b8"));
                }
            }
            RealtimeEvent::Segment(segment) if self.timestamps => {
                let time = |seconds| format_timestamp(seconds, false, '.');
                out.push_str(&format!(
                    "[{} --> {}] {}\n",
                    time(segment.start),
                    time(segment.end),
                    segment.text.trim()
                ));
            }
            _ => {}
        }
    }

    fn erase_draft(&mut self, out: &mut String) {
        if let Some(draft) = &mut self.draft
            && !draft.is_empty()
        {
            draft.clear();
            out.push_str("\x1b[J");
        }
    }

    /// What ends the text.
    fn end(&mut self) -> &'static str {
        match std::mem::take(&mut self.open) {
            true => "\n",
            false => "",
        }
    }
}

/// `[best|other|other]` where there is more than one.
fn with_alternatives(text: &str, alternatives: &[Alternative]) -> String {
    if alternatives.len() < 2 {
        return text.to_owned();
    }
    let names: Vec<&str> = alternatives.iter().map(|other| other.text.trim()).collect();
    let blank = &text[..text.len() - text.trim_start().len()];
    format!("{blank}[{}]", names.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &[&str]) -> ListenArgs {
        let line: Vec<&str> = ["listen"].iter().chain(line).copied().collect();
        crate::args::listen_for_test(&line)
    }

    #[test]
    fn sound_comes_from_where_it_is() {
        let of = |line: &[&str], terminal| {
            let args = args(line);
            Source::new(args.mic.as_deref(), args.audio.as_deref(), terminal)
        };
        assert_eq!(of(&[], false), Source::Stdin);
        assert_eq!(of(&[], true), Source::Microphone(String::new()));
        assert_eq!(of(&["-"], true), Source::Stdin);
        assert_eq!(of(&["a.wav"], true), Source::File("a.wav".into()));
        assert_eq!(of(&["--mic"], false), Source::Microphone(String::new()));
        assert_eq!(
            of(&["--mic", "usb"], false),
            Source::Microphone("usb".into())
        );
    }

    #[test]
    fn listening_ends_when_nothing_is_said_any_more() {
        let text = |text: &str, time| RealtimeEvent::Text {
            track: TrackKind::Settled,
            text: text.into(),
            time,
            alternatives: Vec::new(),
        };
        let mut patience = Patience {
            seconds: Some(2.0),
            last_text: 0.0,
        };
        assert!(!patience.is_over(2.9, 1.0));
        assert!(patience.is_over(3.1, 1.0));
        patience.heed(&text("Hello", 4.0));
        patience.heed(&text(" ", 9.0));
        assert!(!patience.is_over(6.9, 1.0));
        assert!(patience.is_over(7.1, 1.0));
        patience.seconds = None;
        assert!(!patience.is_over(1e9, 1.0));
        let asked = args(&["--exit-on-silence", "1.5"]).exit_on_silence;
        assert_eq!(asked, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn text_comes_as_it_is_said() {
        let text = |text: &str, alternatives: &[&str]| RealtimeEvent::Text {
            track: TrackKind::Settled,
            text: text.into(),
            time: 0.0,
            alternatives: alternatives
                .iter()
                .map(|text| Alternative {
                    text: (*text).into(),
                    probability: 0.5,
                })
                .collect(),
        };
        let mut screen = Screen::new(&args(&[]), false);
        let mut out = String::new();
        screen.event(&text("Hello", &[]), &mut out);
        screen.event(&text(" wor", &[" wor", " war"]), &mut out);
        screen.event(&text("ld", &["ld"]), &mut out);
        assert_eq!(out, "Hello [wor|war]ld");
        assert_eq!((screen.end(), screen.end()), ("\n", ""));

        let mut screen = Screen::new(&args(&["--jsonl"]), false);
        let mut out = String::new();
        screen.event(&text("Hello", &[]), &mut out);
        assert_eq!(out, "");
        let mut screen = Screen::new(&args(&["--jsonl", "--partial"]), false);
        screen.event(&text("Hello", &[]), &mut out);
        assert_eq!(
            out,
            "{\"type\":\"text\",\"track\":\"settled\",\"text\":\"Hello\",\"time\":0.0}\n"
        );
    }
}
