//! What is said in a conversation.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::features::SAMPLE_RATE;
use crate::text::python::dump_json;
use crate::{Audio, Error, Result};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Message {
    /// How the model is to behave.
    System(String),
    /// Text and sound of the user, in this order. Texts side by side are joined by an empty line.
    User(Vec<Part>),
    /// What the model said.
    Assistant {
        /// Its text; may be empty where it called functions.
        text: String,
        /// Functions that it called.
        tool_calls: Vec<ToolCall>,
        /// Whether the model is to go on with this text; only in the last message.
        continues: bool,
    },
    /// What a function that the model called came to.
    Tool {
        /// The call.
        call_id: String,
        /// The result, usually JSON.
        content: String,
    },
}

/// Text or sound of a user.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Text, taken literally: nothing in it is a control token.
    Text(String),
    /// Sound.
    Audio(AudioClip),
}

/// Sound for a conversation; clones share it. A session recognises what it has heard before.
#[derive(Debug, Clone)]
pub struct AudioClip {
    /// At 16 kHz.
    samples: Arc<[f32]>,
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    name: String,
    description: String,
    parameters: Value,
}

/// A call of a function.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ToolCall {
    /// Nine letters and digits, by which the result is told apart from others.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments: a JSON object.
    pub arguments: String,
}

impl Message {
    /// How the model is to behave.
    pub fn system(text: impl Into<String>) -> Self {
        Self::System(text.into())
    }

    /// Text of the user.
    pub fn user(text: impl Into<String>) -> Self {
        Self::User(vec![Part::Text(text.into())])
    }

    /// What the model said.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::Assistant {
            text: text.into(),
            tool_calls: Vec::new(),
            continues: false,
        }
    }

    /// What a function came to.
    pub fn tool(call_id: impl Into<String>, content: impl Into<String>) -> Self {
        Self::Tool {
            call_id: call_id.into(),
            content: content.into(),
        }
    }

    /// The role, as messages and protocols name it.
    pub const fn role(&self) -> &'static str {
        match self {
            Self::System(_) => "system",
            Self::User(_) => "user",
            Self::Assistant { .. } => "assistant",
            Self::Tool { .. } => "tool",
        }
    }

    /// Whether there is sound in it.
    pub fn has_audio(&self) -> bool {
        let is_audio = |part: &Part| matches!(part, Part::Audio(_));
        matches!(self, Self::User(parts) if parts.iter().any(is_audio))
    }
}

impl From<&str> for Part {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<AudioClip> for Part {
    fn from(clip: AudioClip) -> Self {
        Self::Audio(clip)
    }
}

impl AudioClip {
    /// Sound of any sample rate and length; none at all is silence.
    ///
    /// # Errors
    /// A sample rate that cannot be changed to 16 kHz.
    pub fn new(audio: &Audio) -> Result<Self> {
        let samples = match audio.sample_rate() {
            SAMPLE_RATE => audio.samples().into(),
            _ => audio.clone().resampled(SAMPLE_RATE)?.into_samples().into(),
        };
        Ok(Self { samples })
    }

    /// Sound that is mono at 16 kHz already.
    pub fn heard(samples: Arc<[f32]>) -> Self {
        Self { samples }
    }

    /// The samples, at 16 kHz.
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// Length in seconds.
    pub fn duration(&self) -> f64 {
        self.samples.len() as f64 / f64::from(SAMPLE_RATE)
    }
}

impl PartialEq for AudioClip {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.samples, &other.samples) || self.samples == other.samples
    }
}

impl Tool {
    /// A function with its `parameters`, which are a JSON schema.
    ///
    /// # Errors
    /// A name that is not up to 64 letters, digits, `_` and `-`, or parameters that are no JSON object.
    pub fn new(
        name: impl Into<String>,
        description: impl Into<String>,
        parameters: &str,
    ) -> Result<Self> {
        let (name, description) = (name.into(), description.into());
        let wrong = |message: String| Error::InvalidOption {
            option: "tools",
            message,
        };
        if !is_function_name(&name) {
            let name = name.escape_debug();
            return Err(wrong(format!(
                "`{name}` is no name of a function: expected up to 64 letters, digits, `_` and `-`"
            )));
        }
        match serde_json::from_str(parameters) {
            Ok(parameters @ Value::Object(_)) => Ok(Self {
                name,
                description,
                parameters,
            }),
            Ok(_) => Err(wrong(format!(
                "the parameters of `{name}` are no JSON object"
            ))),
            Err(error) => Err(wrong(format!("the parameters of `{name}`: {error}"))),
        }
    }

    /// The function's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As the model reads it.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": self.parameters,
            },
        })
    }
}

/// Tools as the model reads them.
pub(super) fn tools_text(tools: &[Tool]) -> String {
    dump_json(&tools.iter().map(Tool::to_json).collect())
}

/// Whether functions may be called so.
pub(super) fn is_function_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=64).contains(&name.len()) && name.chars().all(is_part)
}

/// Whether a text can stand for a call in prompts of the versions that name calls.
pub(super) fn is_call_id(id: &str) -> bool {
    id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric())
}
