//! `turaco chat`: a conversation with a model that hears.

use std::io::{self, IsTerminal};
use std::path::Path;

use serde_json::{Value, json};
use turaco::Error;
use turaco::chat::{
    AudioClip, ChatModel, ChatOptions, ChatSession, Delta, Message, Part, Summary, Tool, ToolCall,
};
use turaco::voice::{ChatEndpoint, ChatMind, Mind};

use super::{Context, bench_voice, chat_endpoint, chat_model, talk};
use crate::args::values::Number;
use crate::args::{ChatArgs, InputArgs};
use crate::engine;
use crate::exit::{Exit, Failure, Outcome, Stop};
use crate::inputs::{self, Input};
use crate::printer::Level;
use crate::progress::{Bar, Unit};
use crate::sound::Reading;
use crate::typed::TypedLines;

/// Talk.
pub fn run(args: &ChatArgs, context: &Context) -> Outcome {
    let mut options = args.options();
    if args.talking.talk {
        return by_voice(args, options, context);
    }
    if let Some(path) = &args.tools {
        options.tools = tools(path)?;
    }
    if let Some(endpoint) = endpoint(args)? {
        return chat_endpoint::run(args, options.tools, endpoint, context);
    }
    // What cannot be heard or said needs no model.
    let mut pending = sound(args, context)?;
    let model = load(context)?;
    let mut talk = Talk {
        args,
        context,
        options,
        session: model.session(),
        messages: args.system.iter().map(Message::system).collect(),
    };
    if let Some(text) = &args.text {
        pending.push(Part::Text(text.clone()));
        talk.say(pending)?;
        return Ok(Exit::Success);
    }
    let mut is_complete = true;
    let at_terminal = io::stdin().is_terminal();
    let lines = TypedLines::read();
    loop {
        if at_terminal {
            context.printer.prompt("> ");
        }
        let Some(line) = lines.next(&context.control)? else {
            break;
        };
        if !line.trim().is_empty() {
            pending.push(Part::Text(line));
            let said = talk.say(std::mem::take(&mut pending));
            // The conversation goes on without what the model cannot take.
            let Err(Stop::Failed(failure)) = said else {
                said?;
                continue;
            };
            if failure.exit != Exit::Usage {
                return Err(Stop::Failed(failure));
            }
            context.printer.warning(&format!("not said: {failure}"));
            is_complete = false;
        }
    }
    // Sound says enough by itself.
    if !pending.is_empty() {
        talk.say(pending)?;
    }
    Ok(match is_complete {
        true => Exit::Success,
        false => Exit::InputFailed,
    })
}

/// Talk with the voice.
fn by_voice(args: &ChatArgs, options: ChatOptions, context: &Context) -> Outcome {
    let written = [
        ("TEXT", args.text.is_some()),
        ("--audio", !args.audio.is_empty()),
        ("--tools", args.tools.is_some()),
        ("--json", args.json),
    ];
    if let Some((option, _)) = written.into_iter().find(|(_, given)| *given) {
        return Err(Failure::usage(format!("{option} cannot be used with --talk")).into());
    }
    let mind: Box<dyn Mind> = match endpoint(args)? {
        Some(endpoint) => Box::new(endpoint),
        None => Box::new(ChatMind::new(&load(context)?, options)),
    };
    talk::run(&args.talking, mind, args.system.as_deref(), context)
}

/// Who answers instead of a model of this machine, if the command line names somebody.
fn endpoint(args: &ChatArgs) -> Result<Option<ChatEndpoint>, Failure> {
    let Some(mut endpoint) = bench_voice::endpoint_options(&args.talking.endpoint) else {
        return Ok(None);
    };
    let sampling = &args.sampling;
    let given = [
        ("--top-p", sampling.top_p.is_some()),
        ("--top-k", sampling.top_k.is_some()),
        ("--seed", sampling.seed.is_some()),
        ("--stop", !sampling.stop.is_empty()),
    ];
    if let Some((option, _)) = given.into_iter().find(|(_, given)| *given) {
        return Err(Failure::usage(format!(
            "{option} cannot be used with --llm-url"
        )));
    }
    endpoint.max_tokens = sampling.max_tokens;
    endpoint.temperature = sampling.temperature.map(|Number(temperature)| temperature);
    Ok(Some(ChatEndpoint::new(endpoint)?))
}

/// The sound of the first message.
fn sound(args: &ChatArgs, context: &Context) -> Result<Vec<Part>, Stop> {
    if args.audio.is_empty() {
        return Ok(Vec::new());
    }
    let from_stdin = args.audio.iter().any(|path| path == Path::new("-"));
    if from_stdin && args.text.is_none() {
        return Err(Failure::usage(
            "sound from standard input leaves no place for what is said about it",
        )
        .hint("`turaco chat --audio - \"What is said?\"`")
        .into());
    }
    let inputs = InputArgs {
        audio: args.audio.clone(),
        ..InputArgs::default()
    };
    let reading = Reading::new(&inputs)?;
    let mut found = inputs::collect(&inputs)?;
    if !found.failures.is_empty() {
        return Err(found.failures.swap_remove(0).into());
    }
    let read = |input: &Input| -> Result<Part, Stop> {
        let audio = reading.read(input, &context.control)?;
        for notice in audio.notices() {
            context
                .printer
                .warning(&format!("{}: {notice}", input.name()));
        }
        Ok(Part::Audio(AudioClip::new(&audio)?))
    };
    found.found.iter().map(read).collect()
}

fn load(context: &Context) -> Result<std::sync::Arc<ChatModel>, Failure> {
    let printer = &context.printer;
    let name = chat_model(&context.global);
    let path = engine::find(name, context)?;
    let bar = Bar::new(printer, name, Unit::Layers);
    let control = bar.watch(&context.control);
    let options = engine::load_options(&context.global);
    let model = ChatModel::load_path(&path, &options, &control).map_err(engine::model_failure)?;
    bar.finish();
    for warning in model.warnings() {
        printer.warning(warning);
    }
    let loaded = format!(
        "model {} ({:?}) on {}, loaded in {:.2} s",
        model.model_name(),
        model.weight_type(),
        model.device_description(),
        model.load_seconds()
    );
    printer.message(Level::Verbose, &loaded);
    Ok(model)
}

/// Functions as OpenAI's API describes them.
fn tools(path: &Path) -> Result<Vec<Tool>, Failure> {
    let bytes = std::fs::read(path).map_err(|error| inputs::unreadable(path, &error))?;
    let wrong = || {
        let what = "this is no list of functions: expected [{\"type\": \"function\", \"function\": {\"name\": …, \
                    \"description\": …, \"parameters\": {…}}}, …]";
        Failure::usage(what).at(path)
    };
    let json: Value = serde_json::from_slice(&bytes).map_err(|error| wrong().caused_by(&error))?;
    let tool = |tool: &Value| -> Result<Tool, Failure> {
        let function = tool.get("function").ok_or_else(wrong)?;
        let text = |key: &str| function.get(key).and_then(Value::as_str);
        let parameters = match function.get("parameters") {
            Some(parameters) => parameters.to_string(),
            None => "{}".into(),
        };
        let description = text("description").unwrap_or_default();
        Ok(Tool::new(
            text("name").ok_or_else(wrong)?,
            description,
            &parameters,
        )?)
    };
    json.as_array()
        .ok_or_else(wrong)?
        .iter()
        .map(tool)
        .collect()
}

/// Whether a conversation is longer than the model's positions.
fn is_too_long(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidOption {
            option: "messages",
            ..
        }
    )
}

struct Talk<'a> {
    args: &'a ChatArgs,
    context: &'a Context,
    options: ChatOptions,
    session: ChatSession,
    messages: Vec<Message>,
}

impl Talk<'_> {
    /// Say something, and print the answer while it comes.
    fn say(&mut self, parts: Vec<Part>) -> Result<(), Stop> {
        let printer = &self.context.printer;
        self.messages.push(Message::User(parts));
        let before = self.messages.clone();
        if let Err(error) = self.make_room() {
            // What could not be said is no part of the conversation.
            self.messages = before;
            self.messages.pop();
            return Err(error.into());
        }
        let control = &self.context.control;
        let mut text = String::new();
        let mut calls: Vec<ToolCall> = Vec::new();
        let mut summary = None;
        for delta in self
            .session
            .generate(&self.messages, &self.options, control)?
        {
            match delta? {
                Delta::Text { text: more } => {
                    if !self.args.json {
                        printer.result(more.as_bytes())?;
                    }
                    text.push_str(&more);
                }
                Delta::ToolCall(call) => calls.push(call),
                Delta::End(end) => summary = Some(end),
                _ => {}
            }
        }
        if let Some(warning) = self.session.take_late_warning() {
            printer.warning(&warning);
        }
        if self.args.json {
            let answer = json!({
                "text": text,
                "tool_calls": calls,
                "finish_reason": summary.map(|end| end.reason.name()),
                "usage": summary.map(|end| end.usage),
                "timings": summary.map(|end| end.timings),
            });
            printer.result_line(&answer.to_string())?;
        } else {
            if !text.ends_with('\n') && (calls.is_empty() || !text.is_empty()) {
                printer.result(b"\n")?;
            }
            for call in &calls {
                printer.result_line(&chat_endpoint::shown(call))?;
            }
        }
        if let Some(end) = summary {
            self.report(end);
        }
        // Nobody here runs functions: the conversation goes on as if the model had only spoken of them.
        let said = match calls.is_empty() {
            true => text,
            false => {
                let names: Vec<&str> = calls.iter().map(|call| call.name.as_str()).collect();
                format!("{text}({})", names.join(", "))
            }
        };
        if said.is_empty() {
            // An answer of nothing is no turn.
            self.messages.pop();
        } else {
            self.messages.push(Message::assistant(said));
        }
        Ok(())
    }

    /// Leave out the oldest turns until the model has room for the newest.
    fn make_room(&mut self) -> Result<(), Error> {
        let control = &self.context.control;
        let mut n_left_out = 0;
        while let Err(error) = self
            .session
            .generate(&self.messages, &self.options, control)
            .map(drop)
        {
            let is_user = |message: &Message| message.role() == "user";
            let mut turns = self.messages.iter().enumerate();
            let mut turns = turns.by_ref().filter(|(_, message)| is_user(message));
            let (first, second) = (turns.next(), turns.next());
            let (Some((from, _)), Some((to, _)), true) = (first, second, is_too_long(&error))
            else {
                return Err(error);
            };
            self.messages.drain(from..to);
            n_left_out += 1;
        }
        if n_left_out > 0 {
            let message =
                format!("the model has no room for the oldest {n_left_out} turns any more");
            self.context.printer.warning(&message);
        }
        Ok(())
    }

    fn report(&self, end: Summary) {
        let (usage, timings) = (end.usage, end.timings);
        let steps = usage.completion_tokens.saturating_sub(1);
        let rate = steps as f64 / timings.decode.max(1e-9);
        let message = format!(
            "{} tokens of prompt ({} known), {} of answer; first token {:.2} s (encoder {:.2} s for {} chunks, prompt {:.2} s), then \
             {rate:.1} tokens/s",
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            timings.first_token,
            timings.encoder,
            timings.chunks,
            timings.prefill,
        );
        let level = if self.args.timing {
            Level::Normal
        } else {
            Level::Verbose
        };
        self.context.printer.message(level, &message);
    }
}
