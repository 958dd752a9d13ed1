//! `turaco chat --llm-url`: a conversation in writing with whoever answers at an endpoint.

use std::io::{self, IsTerminal};

use serde_json::json;
use turaco::chat::{Tool, ToolCall};
use turaco::voice::{AnswerOptions, Brief, ChatEndpoint, Message, Mind, Role};

use super::Context;
use crate::args::ChatArgs;
use crate::exit::{Exit, Failure, Outcome, Stop};
use crate::typed::TypedLines;

/// Talk.
pub fn run(
    args: &ChatArgs,
    tools: Vec<Tool>,
    endpoint: ChatEndpoint,
    context: &Context,
) -> Outcome {
    if !args.audio.is_empty() {
        let failure = Failure::usage("--audio cannot be used with --llm-url");
        let hint = "an endpoint is asked in text: `turaco chat --talk --llm-url URL` writes down what is said";
        return Err(failure.hint(hint).into());
    }
    let mut options = AnswerOptions::default();
    options.tools = tools;
    let mut talk = Talk {
        args,
        context,
        options,
        endpoint,
        messages: args
            .system
            .iter()
            .map(|text| Message::new(Role::System, text))
            .collect(),
    };
    if let Some(text) = &args.text {
        talk.say(text)?;
        return Ok(Exit::Success);
    }
    let at_terminal = io::stdin().is_terminal();
    let lines = TypedLines::read();
    loop {
        if at_terminal {
            context.printer.prompt("> ");
        }
        let Some(line) = lines.next(&context.control)? else {
            return Ok(Exit::Success);
        };
        if !line.trim().is_empty() {
            talk.say(&line)?;
        }
    }
}

struct Talk<'a> {
    args: &'a ChatArgs,
    context: &'a Context,
    options: AnswerOptions,
    endpoint: ChatEndpoint,
    messages: Vec<Message>,
}

impl Talk<'_> {
    /// Say something, and print the answer while it comes.
    fn say(&mut self, text: &str) -> Result<(), Stop> {
        let printer = &self.context.printer;
        self.messages.push(Message::new(Role::User, text));
        let brief = Brief::new(&self.messages, &self.options);
        let (mut said, mut unprinted) = (String::new(), None);
        let answered = self
            .endpoint
            .answer(brief, &self.context.control, &mut |more| {
                said.push_str(more);
                if !self.args.json
                    && let Err(failure) = printer.result(more.as_bytes())
                {
                    unprinted = Some(failure);
                    return Err(turaco::Error::Cancelled);
                }
                Ok(())
            });
        if let Some(failure) = unprinted {
            return Err(failure);
        }
        let answered = answered?;
        if self.args.json {
            let usage = json!({
                "prompt_tokens": answered.prompt_tokens,
                "completion_tokens": answered.completion_tokens,
            });
            let reason = match (&answered.calls[..], answered.cut) {
                ([], false) => "stop",
                ([], true) => "length",
                _ => "tool_calls",
            };
            let answer = json!({
                "text": said,
                "tool_calls": answered.calls,
                "finish_reason": reason,
                "usage": usage,
            });
            printer.result_line(&answer.to_string())?;
        } else {
            if !said.ends_with('\n') && (answered.calls.is_empty() || !said.is_empty()) {
                printer.result(b"\n")?;
            }
            for call in &answered.calls {
                printer.result_line(&shown(call))?;
            }
        }
        // Nobody here runs functions: the conversation goes on as if the model had only spoken of them.
        let names: Vec<&str> = answered
            .calls
            .iter()
            .map(|call| call.name.as_str())
            .collect();
        if !names.is_empty() {
            said.push_str(&format!("({})", names.join(", ")));
        }
        match said.is_empty() {
            // An answer of nothing is no turn.
            true => drop(self.messages.pop()),
            false => self.messages.push(Message::new(Role::Assistant, said)),
        }
        Ok(())
    }
}

/// A call, for people.
pub fn shown(call: &ToolCall) -> String {
    format!("{}({}) [{}]", call.name, call.arguments, call.id)
}
