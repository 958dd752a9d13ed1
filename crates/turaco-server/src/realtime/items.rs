//! Items of a conversation, as clients write them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use turaco::chat::ToolCall;
use turaco::voice::{Message, Role};

use super::protocol::AudioFormat;
use super::session::decode_base64;
use super::sound::SoundReader;
use crate::config::Config;
use crate::error::ApiError;
use crate::openai::chat_request::or_default;
use crate::upload::SAMPLE_RATE;

/// Something that a client adds to a conversation.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NewItem {
    pub id: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub role: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub content: Vec<ItemContent>,
    pub call_id: Option<String>,
    pub name: Option<String>,
    pub arguments: Option<String>,
    pub output: Option<String>,
}

/// A part of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ItemContent {
    Text {
        text: String,
    },
    InputText {
        text: String,
    },
    OutputText {
        text: String,
    },
    /// What was said aloud, of which the text is kept.
    OutputAudio {
        transcript: String,
    },
    InputAudio {
        #[serde(skip_serializing)]
        audio: String,
        #[serde(default)]
        transcript: Option<String>,
    },
}

/// What an item is, read.
#[derive(Debug)]
pub enum ReadItem {
    /// What somebody said; all parts under the id of the item.
    Said(Vec<Message>),
    /// A call of a function.
    Call(ToolCall),
    /// What a call came to.
    Result { call_id: String, output: String },
    /// An item that is there already.
    Reference(String),
}

impl NewItem {
    /// The kind of item.
    pub fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or("message")
    }

    /// Read an item at `place` of an event.
    ///
    /// # Errors
    /// A kind or role that is not known, a field that is not there, sound that is none, or more than there may be.
    pub fn read(
        &self,
        place: &str,
        format: AudioFormat,
        config: &Config,
    ) -> Result<ReadItem, ApiError> {
        let field = |name: &str, value: &Option<String>| {
            let missing = || ApiError::missing(&format!("{place}.{name}"));
            value.clone().ok_or_else(missing)
        };
        match self.kind() {
            "message" => self.messages(place, format, config).map(ReadItem::Said),
            "function_call" => {
                let name = field("name", &self.name)?;
                let arguments = field("arguments", &self.arguments)?;
                if serde_json::from_str::<serde_json::Map<String, Value>>(&arguments).is_err() {
                    let message = "expected a JSON object as text";
                    return Err(ApiError::invalid(&format!("{place}.arguments"), message));
                }
                let id = field("call_id", &self.call_id)?;
                Ok(ReadItem::Call(ToolCall {
                    id,
                    name,
                    arguments,
                }))
            }
            "function_call_output" => {
                let output = field("output", &self.output)?;
                check_characters(&format!("{place}.output"), output.chars().count(), config)?;
                let call_id = field("call_id", &self.call_id)?;
                Ok(ReadItem::Result { call_id, output })
            }
            "item_reference" => field("id", &self.id).map(ReadItem::Reference),
            other => {
                let message = format!(
                    "`{other}` is none of message, function_call, function_call_output, item_reference"
                );
                Err(ApiError::invalid(&format!("{place}.type"), message))
            }
        }
    }

    fn messages(
        &self,
        place: &str,
        format: AudioFormat,
        config: &Config,
    ) -> Result<Vec<Message>, ApiError> {
        let role = match self.role.as_deref() {
            Some("system") => Role::System,
            None | Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some(other) => {
                let message = format!("`{other}` is none of system, user, assistant");
                return Err(ApiError::invalid(&format!("{place}.role"), message));
            }
        };
        let (mut messages, mut characters, mut samples_in_all) = (Vec::new(), 0, 0);
        for (index, content) in self.content.iter().enumerate() {
            messages.push(match content {
                ItemContent::Text { text }
                | ItemContent::InputText { text }
                | ItemContent::OutputText { text }
                | ItemContent::OutputAudio { transcript: text } => {
                    characters += text.chars().count();
                    Message::new(role, text.clone())
                }
                ItemContent::InputAudio { .. } if role != Role::User => {
                    let param = format!("{place}.content[{index}].type");
                    let message = "only what the user says has sound";
                    return Err(ApiError::invalid(&param, message));
                }
                ItemContent::InputAudio { audio, transcript } => {
                    let bytes = decode_base64(audio)?;
                    let samples = SoundReader::new(format)?.read(&bytes);
                    samples_in_all += samples.len();
                    let text = transcript.clone().unwrap_or_default();
                    Message::new(role, text).with_sound(Arc::from(samples))
                }
            });
        }
        check_characters(&format!("{place}.content"), characters, config)?;
        if samples_in_all as f64 > config.max_buffer * f64::from(SAMPLE_RATE) {
            let message = format!("more than {} seconds of sound", config.max_buffer);
            return Err(ApiError::invalid(&format!("{place}.content"), message));
        }
        Ok(messages)
    }

    /// The item as clients are told of it.
    pub fn to_json(&self, id: &str) -> Value {
        match self.kind() {
            "function_call" => {
                let call = ToolCall {
                    id: self.call_id.clone().unwrap_or_default(),
                    name: self.name.clone().unwrap_or_default(),
                    arguments: self.arguments.clone().unwrap_or_default(),
                };
                call_item(id, "completed", &call)
            }
            "function_call_output" => json!({
                "id": id,
                "object": "realtime.item",
                "type": "function_call_output",
                "status": "completed",
                "call_id": self.call_id,
                "output": self.output,
            }),
            _ => {
                let content = serde_json::to_value(&self.content).unwrap_or_default();
                let role = self.role.as_deref().unwrap_or("user");
                message_item(id, role, "completed", content)
            }
        }
    }
}

fn check_characters(param: &str, count: usize, config: &Config) -> Result<(), ApiError> {
    match count <= config.max_text {
        true => Ok(()),
        false => {
            let message = format!("more than {} characters", config.max_text);
            Err(ApiError::invalid(param, message))
        }
    }
}

/// What somebody said, as clients know it.
pub fn message_item(id: &str, role: &str, status: &str, content: Value) -> Value {
    json!({
        "id": id,
        "object": "realtime.item",
        "type": "message",
        "status": status,
        "role": role,
        "content": content,
    })
}

/// A call of a function, as clients know it.
pub fn call_item(id: &str, status: &str, call: &ToolCall) -> Value {
    json!({
        "id": id,
        "object": "realtime.item",
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    })
}
