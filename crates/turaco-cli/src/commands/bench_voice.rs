//! `turaco bench --voice`.

use std::sync::Arc;

use turaco::asr::Task;
use turaco::bench::{GOAL_MS, Percentiles, ReadyMind, VoiceProtocol};
use turaco::chat::ChatOptions;
use turaco::voice::{ChatEndpoint, ChatMind, EndpointOptions, Mind, VoiceModels, VoiceOptions};

use super::Context;
use super::bench::clips;
use crate::args::{BenchArgs, EndpointArgs};
use crate::engine;
use crate::exit::{Exit, Failure, Outcome};

/// The endpoint that the command line names, if it does.
pub fn endpoint_options(args: &EndpointArgs) -> Option<EndpointOptions> {
    let url = args.llm_url.as_ref()?;
    Some(EndpointOptions::new(url, &args.llm_model).key(args.llm_key.clone()))
}

/// The endpoint of the command line, if there is one.
pub fn endpoint(args: &EndpointArgs) -> Result<Option<ChatEndpoint>, Failure> {
    let endpoint = endpoint_options(args).map(ChatEndpoint::new);
    Ok(endpoint.transpose()?)
}

/// Ask, and measure how long one waits.
pub fn run(args: &BenchArgs, context: &Context) -> Outcome {
    let conversation = &args.conversation;
    let printer = &context.printer;
    let clips = clips(args)?;
    let mut options = VoiceOptions::default();
    options.turns = conversation.turn.options();
    let task = args.language.task.unwrap_or(Task::Transcribe);
    options.recognition = args.recognition().options(task);

    let recognizer = engine::load(&engine::load_options(&context.global), context)?;
    let mind: Box<dyn Mind> = match (endpoint(&conversation.endpoint)?, recognizer.chat()) {
        (Some(endpoint), _) => Box::new(endpoint),
        // A model that hears needs nobody who writes down.
        (None, Some(model)) => Box::new(ChatMind::new(model, ChatOptions::new())),
        (None, None) => Box::new(ReadyMind {
            text: conversation.answer.clone(),
        }),
    };
    let mut models = VoiceModels::new().map_err(Failure::from)?;
    if !mind.hears() {
        models = models.recognizer(Arc::new(recognizer));
    }
    if let Some(name) = &conversation.tts_model {
        let synthesizer = engine::load_synthesizer(name, context)?;
        models = models.synthesizer(Arc::new(synthesizer));
    }
    printer.note("talking…");
    let protocol = VoiceProtocol {
        turns: conversation.turns,
        warm_up: args.measuring.warm_up,
    };
    let report = turaco::bench::voice(&models, mind, options, &clips, protocol, &context.control)
        .map_err(Failure::from)?;
    if args.results.json {
        printer.result_line(&serde_json::to_string(&report).unwrap_or_default())?;
        return Ok(Exit::Success);
    }
    printer.result_line(&format!("{} answers; milliseconds", report.turns))?;
    printer.result_line("                                            p50     p95     p99")?;
    let rows: [(&str, Percentiles); 11] = [
        ("silence until a turn is over", report.turn_end_ms),
        ("end of turn to the question as text", report.transcript_ms),
        ("end of turn to the first text", report.first_text_ms),
        ("end of turn to the first sound", report.first_audio_ms),
        ("last word to the first sound", report.user_wait_ms),
        ("recognition", report.recognition_ms),
        ("thinking, to the first text", report.thinking_ms),
        ("voice, to the first sound", report.speaking_ms),
        ("beside the models, to the text", report.text_overhead_ms),
        ("beside the models, to the sound", report.audio_overhead_ms),
        ("speech to the end of an answer", report.interruption_ms),
    ];
    for (name, row) in rows.iter().filter(|(_, row)| row.count > 0) {
        printer.result_line(&format!(
            "{name:<40} {:>6.1}  {:>6.1}  {:>6.1}",
            row.p50, row.p95, row.p99
        ))?;
    }
    printer.result_line(&format!(
        "first text within {GOAL_MS:.0} ms of the end of a turn: {:.0} %",
        100.0 * report.within_goal
    ))?;
    Ok(Exit::Success)
}
