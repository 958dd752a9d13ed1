//! `turaco vad`.

use serde_json::json;
use turaco::asr::vad::speech_timestamps;

use super::Context;
use crate::args::VadArgs;
use crate::batch::{self, Sink};
use crate::exit::{Outcome, Stop};
use crate::inputs::{self, Input};
use crate::printer::Level;
use crate::sound::Reading;

/// Print where there is speech: start and end in seconds, one span per line.
pub fn run(args: &VadArgs, context: &Context) -> Outcome {
    let reading = Reading::new(&args.input)?;
    let options = args.speech.options();
    let inputs = inputs::collect(&args.input)?;
    let several = inputs.found.len() + inputs.failures.len() > 1;
    let work = |input: &Input, sink: &mut Sink<'_>| -> Result<(), Stop> {
        let name = input.name();
        let audio = reading.read(input, &context.control)?;
        for notice in audio.notices() {
            context.printer.warning(&format!("{name}: {notice}"));
        }
        let spans = speech_timestamps(&audio, &options, &context.control)?;
        let times: Vec<(f64, f64)> = spans
            .iter()
            .map(|span| (span.start + reading.offset, span.end + reading.offset))
            .collect();
        let speech: f64 = times.iter().map(|(start, end)| end - start).sum();
        let text = if args.json {
            let spans: Vec<_> = times
                .iter()
                .map(|(start, end)| json!({"start": start, "end": end}))
                .collect();
            let object = json!({
                "file": input.path.to_string_lossy(),
                "duration": audio.duration(),
                "speech": spans,
            });
            format!("{object}\n")
        } else {
            let mut text = String::new();
            if several {
                text.push_str(&format!("==> {name} <==\n"));
            }
            for (start, end) in &times {
                text.push_str(&format!("{start:.3}\t{end:.3}\n"));
            }
            if several {
                text.push('\n');
            }
            text
        };
        sink.write(text.as_bytes())?;
        context.printer.message(
            Level::Verbose,
            &format!(
                "{name}: {:.1} s audio, {speech:.1} s speech in {} spans",
                audio.duration(),
                times.len()
            ),
        );
        Ok(())
    };
    batch::run(inputs, 1, context, work)
}
