//! `response.create`: an answer that is asked for, with settings of its own.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::items::NewItem;
use super::protocol::{AudioFormat, OutputUpdate};
use super::talking::{AnswerUpdate, Talking};
use crate::error::ApiError;

/// The fields of an answer that is asked for; what is not there is as in the session.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ResponseRequest {
    instructions: Option<String>,
    output_modalities: Option<Vec<String>>,
    audio: Option<ResponseAudio>,
    max_output_tokens: Option<Value>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    conversation: Option<String>,
    input: Option<Vec<NewItem>>,
    metadata: Option<Map<String, Value>>,
    /// The older protocol's.
    modalities: Option<Vec<String>>,
    voice: Option<Value>,
    output_audio_format: Option<String>,
    max_response_output_tokens: Option<Value>,
    temperature: Option<f32>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ResponseAudio {
    output: Option<OutputUpdate>,
}

/// An answer that is asked for, read.
#[derive(Debug, Clone)]
pub struct AskedResponse {
    /// What the mind is told, if it is not what the session says.
    pub instructions: Option<String>,
    /// How it is answered.
    pub talking: Talking,
    /// Whether voice or speed are not the session's.
    pub own_voice: bool,
    /// What is answered in place of the conversation.
    pub input: Option<Vec<NewItem>>,
    /// The answer is no part of the conversation.
    pub aside: bool,
    /// What the client wants to know it by.
    pub metadata: Option<Map<String, Value>>,
}

impl ResponseRequest {
    /// Read the fields, in a session that answers as `talking` says.
    ///
    /// # Errors
    /// Values that cannot be used, and fields that are not known: what has no effect is never passed over.
    pub fn read(self, talking: &Talking) -> Result<AskedResponse, ApiError> {
        if let Some((name, _)) = self.unknown.iter().find(|(_, value)| !value.is_null()) {
            let message = "this field has no effect here";
            return Err(ApiError::unsupported(&format!("response.{name}"), message));
        }
        if self.parallel_tool_calls == Some(false) {
            let message = "how many functions are called is up to who answers";
            return Err(ApiError::unsupported(
                "response.parallel_tool_calls",
                message,
            ));
        }
        let aside = match self.conversation.as_deref() {
            None | Some("auto") => false,
            Some("none") => true,
            Some(other) => {
                let message = format!("`{other}` is none of auto, none");
                return Err(ApiError::invalid("response.conversation", message));
            }
        };
        let mut output = self.audio.and_then(|audio| audio.output);
        if self.voice.is_some() || self.output_audio_format.is_some() {
            let output = output.get_or_insert_default();
            output.voice = self.voice.or(output.voice.take());
            if let Some(name) = self.output_audio_format {
                let format = AudioFormat::of_old_name(&name).ok_or_else(|| {
                    let message = format!("`{name}` is none of pcm16, g711_ulaw, g711_alaw");
                    ApiError::invalid("response.output_audio_format", message)
                })?;
                output.format = Some(format);
            }
        }
        let own_voice = output
            .as_ref()
            .is_some_and(|output| output.voice.is_some() || output.speed.is_some());
        let mut changed = talking.clone();
        let update = AnswerUpdate {
            output_modalities: self.output_modalities.or(self.modalities),
            max_output_tokens: self.max_output_tokens.or(self.max_response_output_tokens),
            tools: self.tools,
            tool_choice: self.tool_choice,
            temperature: self.temperature,
            output,
        };
        changed.update(update, "response")?;
        Ok(AskedResponse {
            instructions: self.instructions,
            own_voice: own_voice
                && (changed.voice != talking.voice || changed.speed != talking.speed),
            talking: changed,
            input: self.input,
            aside,
            metadata: self.metadata,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(fields: Value) -> Result<AskedResponse, ApiError> {
        let request: ResponseRequest = serde_json::from_value(fields).unwrap();
        request.read(&Talking::default())
    }

    #[test]
    fn fields_are_taken_over_or_refused() {
        let asked = read(json!({
            "instructions": "Be brief.", "output_modalities": ["text"], "max_output_tokens": 7,
            "tools": [{"type": "function", "name": "clock"}], "tool_choice": "none",
            "conversation": "none", "metadata": {"a": "b"}, "prompt": null,
            "input": [{"type": "item_reference", "id": "x"}],
            "audio": {"output": {"voice": "marin", "format": {"type": "audio/pcmu"}}},
        }))
        .unwrap();
        assert!(asked.aside && asked.own_voice && !asked.talking.sound);
        assert_eq!(asked.talking.max_output_tokens, Some(7));
        assert_eq!(asked.talking.functions[0].name(), "clock");
        assert_eq!(asked.input.unwrap()[0].kind(), "item_reference");
        for (fields, param) in [
            (json!({"prompt": {"id": "p"}}), "response.prompt"),
            (json!({"conversation": "other"}), "response.conversation"),
            (
                json!({"modalities": ["video"]}),
                "response.output_modalities",
            ),
            (
                json!({"max_output_tokens": 0}),
                "response.max_output_tokens",
            ),
            (
                json!({"tools": [{"type": "mcp"}]}),
                "response.tools[0].type",
            ),
            (json!({"tool_choice": "often"}), "response.tool_choice"),
            (
                json!({"parallel_tool_calls": false}),
                "response.parallel_tool_calls",
            ),
            (
                json!({"output_audio_format": "mp3"}),
                "response.output_audio_format",
            ),
            (json!({"temperature": -1.0}), "response.temperature"),
        ] {
            let error = read(fields).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{error}");
        }
    }
}
