//! What a request for an answer says.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use turaco::Control;
use turaco::chat::{
    AudioClip, ChatOptions, Message, Part, Tool, ToolCall, ToolChoice, call_id_like,
};

use crate::app::App;
use crate::error::ApiError;
use crate::layer::fresh_seed;
use crate::plain_json;
use crate::realtime::tool_choice;
use crate::sent;
use crate::sound_room::Share;
use crate::upload::SAMPLE_RATE;

/// The body of `POST /v1/chat/completions`; what is not there, or null, is as the library says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    pub model: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub messages: Vec<RequestMessage>,
    #[serde(deserialize_with = "or_default")]
    pub stream: bool,
    pub stream_options: Option<StreamOptions>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<usize>,
    pub seed: Option<u64>,
    /// The newer name of the next, which it outweighs.
    pub max_completion_tokens: Option<usize>,
    pub max_tokens: Option<usize>,
    pub stop: Option<OneOrMore>,
    #[serde(deserialize_with = "or_default")]
    pub tools: Vec<RequestTool>,
    pub tool_choice: Option<Value>,
    pub n: Option<u64>,
    pub response_format: Option<ResponseFormat>,
    pub logprobs: Option<bool>,
    pub top_logprobs: Option<u64>,
    #[serde(deserialize_with = "or_default")]
    pub modalities: Vec<String>,
    pub audio: Option<Value>,
    pub frequency_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    #[serde(deserialize_with = "or_default")]
    pub logit_bias: Map<String, Value>,
    /// The older name of tools.
    #[serde(deserialize_with = "or_default")]
    pub functions: Vec<Value>,
    pub parallel_tool_calls: Option<bool>,
    /// The last message of the assistant is gone on with.
    #[serde(deserialize_with = "or_default")]
    pub continue_final_message: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    #[serde(deserialize_with = "or_default")]
    pub include_usage: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ResponseFormat {
    #[serde(rename = "type")]
    pub kind: String,
}

/// A field that may be null for what it is without being told: clients send back what they were given, with null for what is not
/// there.
pub fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Debug, Clone, Deserialize)]
pub struct RequestMessage {
    pub role: String,
    #[serde(default)]
    pub content: Option<Content>,
    #[serde(default, deserialize_with = "or_default")]
    pub tool_calls: Vec<RequestCall>,
    #[serde(default)]
    pub tool_call_id: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a text or a list of parts, each with a type"
)]
pub enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

#[derive(Debug, Clone, Deserialize)]
pub struct ContentPart {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub text: Option<String>,
    #[serde(default)]
    pub input_audio: Option<InputAudio>,
    /// As vLLM has it.
    #[serde(default)]
    pub audio_url: Option<AudioUrl>,
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
    #[serde(default, deserialize_with = "or_default")]
    pub arguments: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct RequestTool {
    pub function: Function,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Function {
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
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
        let request: Self = plain_json::read(body)?;
        if request.messages.is_empty() {
            return Err(ApiError::missing("messages"));
        }
        if request.n.is_some_and(|n| n != 1) {
            return Err(ApiError::unsupported(
                "n",
                "there is one answer to a request",
            ));
        }
        let format = request.response_format.as_ref();
        if let Some(format) = format.filter(|format| format.kind != "text") {
            let message = format!("answers are text; `{}` cannot be promised", format.kind);
            return Err(ApiError::unsupported("response_format", message));
        }
        for (param, is_wanted) in [
            ("logprobs", request.logprobs == Some(true)),
            ("top_logprobs", request.top_logprobs.is_some_and(|n| n > 0)),
        ] {
            if is_wanted {
                let message = "probabilities of words are not told";
                return Err(ApiError::unsupported(param, message));
            }
        }
        let is_penalty = |penalty: Option<f64>| penalty.is_some_and(|penalty| penalty != 0.0);
        let one_call_only = request.parallel_tool_calls == Some(false) && !request.tools.is_empty();
        for (param, is_wanted, message) in [
            (
                "modalities",
                request.modalities.iter().any(|modality| modality != "text"),
                "answers are text here; /v1/audio/speech says them",
            ),
            (
                "audio",
                request.audio.is_some(),
                "answers are text here; /v1/audio/speech says them",
            ),
            (
                "frequency_penalty",
                is_penalty(request.frequency_penalty),
                "words are not made less probable",
            ),
            (
                "presence_penalty",
                is_penalty(request.presence_penalty),
                "words are not made less probable",
            ),
            (
                "logit_bias",
                !request.logit_bias.is_empty(),
                "the probabilities of tokens are the model's",
            ),
            (
                "functions",
                !request.functions.is_empty(),
                "functions are given as `tools`",
            ),
            (
                "parallel_tool_calls",
                one_call_only,
                "the model may call several functions at once",
            ),
        ] {
            if is_wanted {
                return Err(ApiError::unsupported(param, message));
            }
        }
        Ok(request)
    }

    /// The conversation; `share` is taken of for the recordings in it.
    ///
    /// # Errors
    /// A role that is not known, sound where there can be none, sound that cannot be fetched or decoded.
    pub fn messages(
        &self,
        (app, control): (&App, &Control),
        share: &mut Share,
    ) -> Result<Vec<Message>, ApiError> {
        let mut work = Work {
            app,
            control,
            share,
        };
        let last = self.messages.len().saturating_sub(1);
        let messages = self.messages.iter().enumerate();
        messages
            .map(|(index, message)| {
                let continues = self.continue_final_message && index == last;
                message.read(&mut work, &format!("messages[{index}]"), continues)
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
        options.max_tokens = self.max_completion_tokens.or(self.max_tokens);
        options.stop = match &self.stop {
            None => Vec::new(),
            Some(OneOrMore::One(stop)) => vec![stop.clone()],
            Some(OneOrMore::More(stop)) => stop.clone(),
        };
        options.system_as_text = true;
        options.tool_choice = match &self.tool_choice {
            None | Some(Value::Null) => ToolChoice::Auto,
            Some(choice) => tool_choice(choice).ok_or_else(|| {
                let message =
                    "expected auto, none, required, or {\"type\": \"function\", \"function\": {\"name\": …}}";
                ApiError::invalid("tool_choice", message)
            })?,
        };
        for RequestTool { function } in &self.tools {
            let parameters = match &function.parameters {
                None => "{}".to_owned(),
                Some(parameters) => parameters.to_string(),
            };
            let tool = Tool::new(&function.name, &function.description, &parameters)?;
            options.tools.push(tool);
        }
        Ok(options)
    }
}

/// What reading messages takes.
struct Work<'a> {
    app: &'a App,
    control: &'a Control,
    /// Of the memory for recordings.
    share: &'a mut Share,
}

impl RequestMessage {
    fn read(&self, work: &mut Work<'_>, place: &str, continues: bool) -> Result<Message, ApiError> {
        match self.role.as_str() {
            "system" | "developer" => Ok(Message::system(self.text(work, place)?)),
            "user" => Ok(Message::User(self.parts(work, place)?)),
            "assistant" => Ok(Message::Assistant {
                text: self.text(work, place)?,
                tool_calls: self
                    .tool_calls
                    .iter()
                    // Clients may have made up ids of their own.
                    .map(|call| ToolCall {
                        id: call_id_like(&call.id),
                        name: call.function.name.clone(),
                        arguments: call.function.arguments.clone(),
                    })
                    .collect(),
                continues,
            }),
            "tool" => {
                let id = self.tool_call_id.as_deref();
                let id = id.ok_or_else(|| ApiError::missing(&format!("{place}.tool_call_id")))?;
                Ok(Message::tool(call_id_like(id), self.text(work, place)?))
            }
            other => {
                let message = format!("`{other}` is none of system, user, assistant, tool");
                Err(ApiError::invalid(&format!("{place}.role"), message))
            }
        }
    }

    fn parts(&self, work: &mut Work<'_>, place: &str) -> Result<Vec<Part>, ApiError> {
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
    fn text(&self, work: &mut Work<'_>, place: &str) -> Result<String, ApiError> {
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
    fn read(&self, work: &mut Work<'_>, place: &str) -> Result<Part, ApiError> {
        let missing = |field: &str| ApiError::missing(&format!("{place}.{field}"));
        let (text, param) = match self.kind.as_str() {
            "text" => {
                let text = self.text.clone().ok_or_else(|| missing("text"))?;
                return Ok(Part::Text(text));
            }
            "input_audio" => {
                let sent = self.input_audio.as_ref();
                (
                    &sent.ok_or_else(|| missing("input_audio"))?.data,
                    "input_audio.data",
                )
            }
            "audio_url" => {
                let sent = self.audio_url.as_ref();
                (
                    &sent.ok_or_else(|| missing("audio_url"))?.url,
                    "audio_url.url",
                )
            }
            other => {
                let message = format!("`{other}` is none of text, input_audio, audio_url");
                return Err(ApiError::unsupported(&format!("{place}.type"), message));
            }
        };
        let how = (Some(SAMPLE_RATE), &mut *work.share);
        let place = format!("{place}.{param}");
        let audio = sent::recording((work.app, work.control), text, &place, how)?;
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
        let app = App::new(engine, Config::default());
        request.messages((&app, &Control::new()), &mut app.sound_share())
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
        for (choice, read) in [
            (r#""auto""#, ToolChoice::Auto),
            (r#""none""#, ToolChoice::None),
            (r#""required""#, ToolChoice::Required),
            (
                r#"{"type": "function", "function": {"name": "weather"}}"#,
                ToolChoice::Named("weather".into()),
            ),
        ] {
            let body = format!(
                r#"{{"messages": [{{"role": "user", "content": "x"}}], "tool_choice": {choice}}}"#
            );
            let options = ChatRequest::read(body.as_bytes()).unwrap().options();
            assert_eq!(options.unwrap().tool_choice, read);
        }
    }

    #[test]
    fn null_is_as_if_it_were_not_there_and_answers_can_be_sent_back() {
        let request = ChatRequest::read(
            br#"{"messages": [
                {"role": "user", "content": "Is it noon?", "name": null},
                {"role": "assistant", "content": null, "refusal": null, "audio": null, "tool_calls":
                    [{"id": "call_abcdef123", "type": "function", "function": {"name": "clock", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "call_abcdef123", "content": "yes"},
                {"role": "assistant", "content": "Yes.", "function_call": null, "tool_calls": null},
                {"role": "user", "content": "Sure?"}],
                "model": null, "stream": null, "stream_options": null, "stop": null, "n": null, "response_format": {"type": "text"},
                "logprobs": false, "tool_choice": null, "max_tokens": 9, "max_completion_tokens": 7,
                "tools": [{"type": "function", "function": {"name": "clock", "description": null, "parameters": null}}]}"#,
        )
        .unwrap();
        assert!(!request.stream);
        let options = request.options().unwrap();
        assert_eq!((options.max_tokens, options.tools.len()), (Some(7), 1));
        let messages = messages(&request).unwrap();
        let [
            _,
            Message::Assistant { tool_calls, .. },
            Message::Tool { call_id, .. },
            ..,
        ] = &messages[..]
        else {
            panic!("{messages:?}");
        };
        assert_eq!(tool_calls[0].id, *call_id);
        assert_eq!(call_id.len(), 9);
        let none = br#"{"messages": [{"role": "user", "content": "x"}], "tools": null}"#;
        assert!(ChatRequest::read(none).unwrap().tools.is_empty());
    }

    #[test]
    fn what_would_change_the_answer_is_refused() {
        for (field, param) in [
            (
                r#""response_format": {"type": "json_object"}"#,
                "response_format",
            ),
            (r#""logprobs": true"#, "logprobs"),
            (r#""top_logprobs": 2"#, "top_logprobs"),
            (r#""n": 2"#, "n"),
        ] {
            let body = format!(r#"{{"messages": [{{"role": "user", "content": "x"}}], {field}}}"#);
            let error = ChatRequest::read(body.as_bytes()).unwrap_err();
            assert_eq!(error.code, "unsupported_value");
            assert_eq!(error.param.as_deref(), Some(param));
        }
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
