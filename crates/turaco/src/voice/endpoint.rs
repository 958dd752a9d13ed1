//! A mind behind any chat endpoint that speaks OpenAI's protocol (`POST …/chat/completions`, streamed).

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::chat::{Tool, ToolCall, ToolChoice};
use crate::hub::http::{Client, Failure};
use crate::{Control, Error, Result};

use super::conversation::{Message, Role};
use super::mind::{Answered, Brief, Mind};

/// Which endpoint answers, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EndpointOptions {
    /// Its address, with or without `/v1` and `/chat/completions`.
    pub url: String,
    /// The model that is asked for.
    pub model: String,
    /// What it knows its callers by.
    pub key: Option<String>,
    /// Tokens of an answer at most.
    pub max_tokens: Option<usize>,
    /// 0 = always the most probable; `None` = as the endpoint likes.
    pub temperature: Option<f64>,
}

impl EndpointOptions {
    /// A model at an address.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            model: model.into(),
            key: None,
            max_tokens: None,
            temperature: None,
        }
    }

    /// What it knows its callers by.
    #[must_use]
    pub fn key(mut self, key: Option<String>) -> Self {
        self.key = key;
        self
    }
}

/// A mind behind a chat endpoint.
pub struct ChatEndpoint {
    client: Arc<Client>,
    url: String,
    options: EndpointOptions,
    n_answers: u64,
}

/// A line of an answer is not longer, nor is an error.
const MAX_LINE: u64 = 1 << 20;

impl ChatEndpoint {
    /// An endpoint; nothing is sent yet.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(options: EndpointOptions) -> Result<Self> {
        let url = completions_url(&options.url);
        Ok(Self {
            client: Arc::new(client(&url, &options)?),
            url,
            options,
            n_answers: 0,
        })
    }

    /// The address that is asked.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn body(&self, brief: Brief<'_>) -> String {
        let messages: Vec<Value> = brief.context.iter().map(message).collect();
        let options = brief.options;
        let mut body = json!({
            "model": self.options.model,
            "messages": messages,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        if !options.tools.is_empty() {
            body["tools"] = options.tools.iter().map(Tool::to_json).collect();
            match &options.tool_choice {
                ToolChoice::Auto => {}
                ToolChoice::None => body["tool_choice"] = "none".into(),
                ToolChoice::Required => body["tool_choice"] = "required".into(),
                ToolChoice::Named(name) => {
                    body["tool_choice"] = json!({"type": "function", "function": {"name": name}});
                }
            }
        }
        if let Some(most) = options.max_tokens.or(self.options.max_tokens) {
            body["max_tokens"] = most.into();
        }
        let temperature = options.temperature.map(f64::from);
        if let Some(temperature) = temperature.or(self.options.temperature) {
            body["temperature"] = temperature.into();
        }
        body.to_string()
    }

    /// The lines of the answer, read by a thread of their own: whoever waits for them can be cancelled meanwhile.
    fn lines(&self, body: String) -> Result<Receiver<Result<String>>> {
        let (sender, lines) = mpsc::sync_channel(64);
        let (client, url) = (Arc::clone(&self.client), self.url.clone());
        let read = move || {
            let failed = |message: String| Error::Network {
                url: url.clone(),
                message,
            };
            let reply = match client.post_json(&url, &body, &[]) {
                Ok(reply) => reply,
                Err(
                    Failure::Unreachable(message)
                    | Failure::Broken(message)
                    | Failure::Refused(message),
                ) => {
                    let _ = sender.send(Err(failed(message)));
                    return;
                }
            };
            let status = reply.status();
            let mut reader = BufReader::new(reply.response.into_body().into_reader());
            if status != 200 {
                let mut text = String::new();
                let _ = reader.take(4096).read_to_string(&mut text);
                let _ = sender.send(Err(failed(format!(
                    "the endpoint answered {status}: {}",
                    error_message(&text)
                ))));
                return;
            }
            loop {
                let mut line = String::new();
                let line = match reader.by_ref().take(MAX_LINE).read_line(&mut line) {
                    Ok(0) => return,
                    Ok(_) => Ok(line),
                    Err(error) => Err(failed(format!("the answer broke off: {error}"))),
                };
                let failed = line.is_err();
                // Nobody listens any more, or nothing more will come.
                if sender.send(line).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("voice-endpoint".into());
        thread.spawn(read).map_err(|source| Error::Io {
            action: "start a thread for",
            path: "endpoint".into(),
            source,
        })?;
        Ok(lines)
    }
}

/// How often it is looked whether anybody still wants the answer.
const GLANCE: Duration = Duration::from_millis(10);

impl Mind for ChatEndpoint {
    fn answer(
        &mut self,
        brief: Brief<'_>,
        control: &Control,
        say: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Answered> {
        self.n_answers += 1;
        let answered = self.read(brief, control, say);
        if answered.is_err() {
            // Whoever still reads the answer waits no longer.
            self.client.shut_down();
            self.client = Arc::new(client(&self.url, &self.options)?);
        }
        answered
    }
}

impl Drop for ChatEndpoint {
    fn drop(&mut self) {
        self.client.shut_down();
    }
}

impl ChatEndpoint {
    fn read(
        &self,
        brief: Brief<'_>,
        control: &Control,
        say: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Answered> {
        let lines = self.lines(self.body(brief))?;
        let mut answered = Answered::default();
        let mut is_complete = false;
        loop {
            control.check()?;
            let line = match lines.recv_timeout(GLANCE) {
                Ok(line) => line?,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) if is_complete => {
                    return Ok(self.with_ids(answered));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.failed("the answer ended in the middle"));
                }
            };
            let Some(data) = line.trim().strip_prefix("data:") else {
                continue;
            };
            let data = data.trim();
            if data == "[DONE]" {
                return Ok(self.with_ids(answered));
            }
            let event: Event = serde_json::from_str(data)
                .map_err(|error| self.failed(&format!("an event that is none: {error}")))?;
            if let Some(error) = event.error {
                return Err(self.failed(&format!("the endpoint failed: {}", error.message)));
            }
            if let Some(usage) = event.usage {
                answered = Answered {
                    cut: answered.cut,
                    ..answered.tokens(usage.prompt_tokens, usage.completion_tokens)
                };
            }
            for choice in event.choices {
                if let Some(text) = choice.delta.content.filter(|text| !text.is_empty()) {
                    say(&text)?;
                }
                for (place, piece) in choice
                    .delta
                    .tool_calls
                    .unwrap_or_default()
                    .into_iter()
                    .enumerate()
                {
                    self.take_call(&mut answered.calls, place, piece)?;
                }
                if let Some(reason) = choice.finish_reason {
                    is_complete = true;
                    answered.cut |= reason == "length";
                }
            }
        }
    }
}

impl ChatEndpoint {
    /// A piece of a call, which is one of several.
    fn take_call(&self, calls: &mut Vec<ToolCall>, place: usize, piece: CallPiece) -> Result<()> {
        let index = piece.index.unwrap_or(place);
        if index > calls.len() {
            return Err(self.failed("a call of a function comes before the one in front of it"));
        }
        if index == calls.len() {
            calls.push(ToolCall {
                id: String::new(),
                name: String::new(),
                arguments: String::new(),
            });
        }
        let call = &mut calls[index];
        let function = piece.function.unwrap_or_default();
        call.id.push_str(&piece.id.unwrap_or_default());
        call.name.push_str(&function.name.unwrap_or_default());
        let arguments = function.arguments.unwrap_or_default();
        call.arguments.push_str(&arguments);
        match call.arguments.len() as u64 > MAX_LINE {
            true => Err(self.failed("the arguments of a call are too long")),
            false => Ok(()),
        }
    }

    /// Results are told apart by the ids of their calls, which some endpoints leave out.
    fn with_ids(&self, mut answered: Answered) -> Answered {
        for (index, call) in answered.calls.iter_mut().enumerate() {
            if call.id.is_empty() {
                call.id = format!("call_{}_{index}", self.n_answers);
            }
            if call.arguments.trim().is_empty() {
                "{}".clone_into(&mut call.arguments);
            }
        }
        answered
    }

    fn failed(&self, message: &str) -> Error {
        Error::Network {
            url: self.url.clone(),
            message: message.to_owned(),
        }
    }
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Deserialize, Default)]
struct Delta {
    content: Option<String>,
    tool_calls: Option<Vec<CallPiece>>,
}

#[derive(Deserialize)]
struct CallPiece {
    index: Option<usize>,
    id: Option<String>,
    function: Option<FunctionPiece>,
}

#[derive(Deserialize, Default)]
struct FunctionPiece {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: usize,
    #[serde(default)]
    completion_tokens: usize,
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    message: String,
}

fn client(url: &str, options: &EndpointOptions) -> Result<Client> {
    let key = options.key.as_deref().unwrap_or_default();
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::InvalidOption {
            option: "llm_key",
            message: "it has characters that no key has, such as a space or the end of a line"
                .into(),
        });
    }
    let client = Client::new(url, options.key.clone(), &|name| std::env::var_os(name));
    client.map_err(|error| match error {
        Error::InvalidOption {
            option: "HF_ENDPOINT",
            ..
        } => Error::InvalidOption {
            option: "llm_url",
            message: format!(
                "`{}` is no address of the form http://host:port/v1",
                options.url
            ),
        },
        error => error,
    })
}

/// A message as endpoints read it.
fn message(message: &Message) -> Value {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    let mut json = json!({"role": role, "content": message.text});
    if let Some(id) = &message.call_id {
        json["tool_call_id"] = id.as_str().into();
    }
    if !message.calls.is_empty() {
        let calls = message.calls.iter().map(|call| {
            json!({
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            })
        });
        json["tool_calls"] = calls.collect();
    }
    json
}

/// What an error page says.
fn error_message(text: &str) -> String {
    #[derive(Deserialize)]
    struct Page {
        error: ErrorBody,
    }
    match serde_json::from_str::<Page>(text) {
        Ok(page) => page.error.message,
        Err(_) => text.chars().take(200).collect(),
    }
}

/// Where completions are asked for, by whatever part of the address users give.
fn completions_url(url: &str) -> String {
    let url = url.trim().trim_end_matches('/');
    let has_path = url
        .split_once("://")
        .is_some_and(|(_, rest)| rest.contains('/'));
    if url.ends_with("/chat/completions") {
        url.to_owned()
    } else if has_path {
        format!("{url}/chat/completions")
    } else {
        format!("{url}/v1/chat/completions")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed() {
        for (given, asked) in [
            (
                "http://localhost:8080",
                "http://localhost:8080/v1/chat/completions",
            ),
            (
                "http://localhost:8080/v1/",
                "http://localhost:8080/v1/chat/completions",
            ),
            (
                "https://a.example/api/v1",
                "https://a.example/api/v1/chat/completions",
            ),
            (
                "http://a/v1/chat/completions",
                "http://a/v1/chat/completions",
            ),
        ] {
            assert_eq!(completions_url(given), asked);
        }
        let refused = ChatEndpoint::new(EndpointOptions::new("nowhere", "m"));
        assert!(refused.is_err_and(|error| error.to_string().contains("llm_url")));
    }
}
