//! What a request for an answer says.

use serde::Deserialize;
use serde_json::Value;
use turaco::Control;
use turaco::chat::{AudioClip, ChatOptions, Message, Part, Tool, ToolCall};

use crate::app::App;
use crate::error::ApiError;
use crate::layer::fresh_seed;
use crate::sent;
use crate::upload::SAMPLE_RATE;

/// The body of `POST /v1/chat/completions`; what is not there is as the library says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    pub model: Option<String>,
    pub messages: Vec<RequestMessage>,
    pub stream: bool,
    pub stream_options: Option<StreamOptions>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<usize>,
    pub seed: Option<u64>,
    #[serde(alias = "max_completion_tokens")]
    pub max_tokens: Option<usize>,
    pub stop: Option<OneOrMore>,
    pub tools: Vec<RequestTool>,
    pub tool_choice: Option<Value>,
    pub n: Option<u64>,
    /// The last message of the assistant is gone on with.
    pub continue_final_message: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    pub include_usage: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Debug, Clone, Deserialize)]
pub struct RequestMessage {
    pub role: String,
    #[serde(default)]
    pub content: Option<Content>,
    #[serde(default)]
    pub tool_calls: Vec<RequestCall>,
    #[serde(default)]
    pub tool_call_id: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentPart {
    Text {
        text: String,
    },
    InputAudio {
        input_audio: InputAudio,
    },
    /// As vLLM has it.
    AudioUrl {
        audio_url: AudioUrl,
    },
}

#[derive(Debug, Clone, Deserialize)]
pub struct InputAudio {
    pub data: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct AudioUrl {
    pub url: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct RequestCall {
    pub id: String,
    pub function: CalledFunction,
}

#[derive(Debug, Clone, Deserialize)]
pub struct CalledFunction {
    pub name: String,
    #[serde(default)]
    pub arguments: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct RequestTool {
    pub function: Function,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Function {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub parameters: Option<Value>,
}

impl ChatRequest {
    /// Read a body.
    ///
    /// # Errors
    /// What is no JSON object, or a field of another kind.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        let request: Self = serde_json::from_slice(body)
            .map_err(|error| ApiError::malformed(format!("the body cannot be used: {error}")))?;
        if request.messages.is_empty() {
            return Err(ApiError::missing("messages"));
        }
        if request.n.is_some_and(|n| n != 1) {
            return Err(ApiError::unsupported(
                "n",
                "there is one answer to a request",
            ));
        }
        Ok(request)
    }

    /// The conversation.
    ///
    /// # Errors
    /// A role that is not known, sound where there can be none, sound that cannot be fetched or decoded.
    pub fn messages(&self, app: &App, control: &Control) -> Result<Vec<Message>, ApiError> {
        let work = (app, control);
        let last = self.messages.len().saturating_sub(1);
        let messages = self.messages.iter().enumerate();
        messages
            .map(|(index, message)| {
                let continues = self.continue_final_message && index == last;
                message.read(work, &format!("messages[{index}]"), continues)
            })
            .collect()
    }

    /// How the answer is made.
    ///
    /// # Errors
    /// Functions that are none, or a choice that is not known.
    pub fn options(&self) -> Result<ChatOptions, ApiError> {
        let mut options = ChatOptions::new();
        options.temperature = self.temperature.unwrap_or(options.temperature);
        options.top_p = self.top_p.unwrap_or(options.top_p);
        options.top_k = self.top_k.unwrap_or(options.top_k);
        options.seed = self.seed.unwrap_or_else(fresh_seed);
        options.max_tokens = self.max_tokens;
        options.stop = match &self.stop {
            None => Vec::new(),
            Some(OneOrMore::One(stop)) => vec![stop.clone()],
            Some(OneOrMore::More(stop)) => stop.clone(),
        };
        options.system_as_text = true;
        let with_tools = match &self.tool_choice {
            None | Some(Value::Null) => true,
            Some(Value::String(choice)) if choice == "auto" => true,
            Some(Value::String(choice)) if choice == "none" => false,
            Some(_) => {
                let message = "functions cannot be demanded; auto and none are known";
                return Err(ApiError::unsupported("tool_choice", message));
            }
        };
        if with_tools {
            for RequestTool { function } in &self.tools {
                let parameters = match &function.parameters {
                    None => "{}".to_owned(),
                    Some(parameters) => parameters.to_string(),
                };
                let tool = Tool::new(&function.name, &function.description, &parameters)?;
                options.tools.push(tool);
            }
        }
        Ok(options)
    }
}

impl RequestMessage {
    fn read(
        &self,
        work: (&App, &Control),
        place: &str,
        continues: bool,
    ) -> Result<Message, ApiError> {
        match self.role.as_str() {
            "system" | "developer" => Ok(Message::system(self.text(work, place)?)),
            "user" => Ok(Message::User(self.parts(work, place)?)),
            "assistant" => Ok(Message::Assistant {
                text: self.text(work, place)?,
                tool_calls: self
                    .tool_calls
                    .iter()
                    .map(|call| ToolCall {
                        id: call.id.clone(),
                        name: call.function.name.clone(),
                        arguments: call.function.arguments.clone(),
                    })
                    .collect(),
                continues,
            }),
            "tool" => {
                let id = self.tool_call_id.as_deref();
                let id = id.ok_or_else(|| ApiError::missing(&format!("{place}.tool_call_id")))?;
                Ok(Message::tool(id, self.text(work, place)?))
            }
            other => {
                let message = format!("`{other}` is none of system, user, assistant, tool");
                Err(ApiError::invalid(&format!("{place}.role"), message))
            }
        }
    }

    fn parts(&self, work: (&App, &Control), place: &str) -> Result<Vec<Part>, ApiError> {
        match &self.content {
            None => Err(ApiError::missing(&format!("{place}.content"))),
            Some(Content::Text(text)) => Ok(vec![Part::Text(text.clone())]),
            Some(Content::Parts(parts)) => parts
                .iter()
                .enumerate()
                .map(|(index, part)| part.read(work, &format!("{place}.content[{index}]")))
                .collect(),
        }
    }

    /// Text alone.
    fn text(&self, work: (&App, &Control), place: &str) -> Result<String, ApiError> {
        if self.content.is_none() {
            return Ok(String::new());
        }
        let mut all = String::new();
        for part in self.parts(work, place)? {
            let Part::Text(text) = part else {
                let message = "only the user's messages have sound";
                return Err(ApiError::invalid(&format!("{place}.content"), message));
            };
            all.push_str(&text);
        }
        Ok(all)
    }
}

impl ContentPart {
    fn read(&self, work: (&App, &Control), place: &str) -> Result<Part, ApiError> {
        let (text, param) = match self {
            Self::Text { text } => return Ok(Part::Text(text.clone())),
            Self::InputAudio { input_audio } => (&input_audio.data, "input_audio.data"),
            Self::AudioUrl { audio_url } => (&audio_url.url, "audio_url.url"),
        };
        let audio = sent::recording(work, text, &format!("{place}.{param}"), Some(SAMPLE_RATE))?;
        Ok(Part::Audio(AudioClip::new(&audio)?))
    }
}

#[cfg(test)]
mod tests {
    use turaco::cache::ModelCache;
    use turaco::engine::{Catalog, Engine, EngineOptions};

    use super::*;
    use crate::config::Config;

    fn messages(request: &ChatRequest) -> Result<Vec<Message>, ApiError> {
        let catalog = Catalog::new(ModelCache::new("/nowhere"));
        let engine = Engine::new(catalog, EngineOptions::default());
        request.messages(&App::new(engine, Config::default()), &Control::new())
    }

    #[test]
    fn conversations_are_read() {
        let request = ChatRequest::read(
            br#"{"messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "What is the weather?"}]},
                {"role": "assistant", "content": null, "tool_calls":
                    [{"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "abcdefghi", "content": "rain"}],
                "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
                "max_completion_tokens": 7, "stop": "\n"}"#,
        )
        .unwrap();
        let roles: Vec<_> = messages(&request)
            .unwrap()
            .iter()
            .map(Message::role)
            .collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool"]);
        let options = request.options().unwrap();
        assert_eq!(
            (options.max_tokens, options.stop.len(), options.tools.len()),
            (Some(7), 1, 1)
        );
    }

    #[test]
    fn what_is_no_conversation_names_its_place() {
        for (body, param) in [
            (
                r#"{"messages": [{"role": "robot", "content": "x"}]}"#,
                "messages[0].role",
            ),
            (r#"{"messages": [{"role": "user"}]}"#, "messages[0].content"),
            (
                r#"{"messages": [{"role": "tool", "content": "x"}]}"#,
                "messages[0].tool_call_id",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "*"}}]}]}"#,
                "messages[0].content[0].input_audio.data",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "http://host/a.wav"}}]}]}"#,
                "messages[0].content[0].audio_url.url",
            ),
        ] {
            let request = ChatRequest::read(body.as_bytes()).unwrap();
            let error = messages(&request).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{error}");
        }
        assert!(ChatRequest::read(b"{}").is_err());
    }
}
