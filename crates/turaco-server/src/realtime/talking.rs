//! The settings of a session, or of one answer, that only conversations have.

use serde_json::{Value, json};
use turaco::chat::Tool;
use turaco::tts::SpeakOptions;
use turaco::voice::{AnswerOptions, ToolChoice};
use turaco::{Control, Synthesizer};

use super::protocol::{AudioFormat, OutputUpdate, SessionUpdate};
use crate::app::App;
use crate::error::ApiError;
use crate::openai::speech_request::SpeechRequest;

/// How a conversation answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Talking {
    /// Who answers, if it was said.
    pub model: Option<String>,
    pub instructions: Option<String>,
    /// Whether answers are said, or only written.
    pub sound: bool,
    pub output_format: AudioFormat,
    pub voice: Option<String>,
    pub speed: f32,
    pub max_output_tokens: Option<usize>,
    pub temperature: Option<f32>,
    /// Functions, and as they were written.
    pub functions: Vec<Tool>,
    pub tools: Vec<Value>,
    pub tool_choice: ToolChoice,
}

/// What the updates of a session and of an answer have in common.
#[derive(Debug, Clone, Default)]
pub struct AnswerUpdate {
    pub output_modalities: Option<Vec<String>>,
    pub max_output_tokens: Option<Value>,
    pub tools: Option<Vec<Value>>,
    pub tool_choice: Option<Value>,
    pub temperature: Option<f32>,
    pub output: Option<OutputUpdate>,
}

impl Default for Talking {
    fn default() -> Self {
        Self {
            model: None,
            instructions: None,
            sound: true,
            output_format: AudioFormat::Pcm { rate: 24_000 },
            voice: None,
            speed: 1.0,
            max_output_tokens: None,
            temperature: None,
            functions: Vec::new(),
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
        }
    }
}

impl Talking {
    /// Take over what `session.update` says.
    ///
    /// # Errors
    /// A value that cannot be used; some may have been taken over then.
    pub fn update_session(&mut self, update: &mut SessionUpdate) -> Result<(), ApiError> {
        self.model = update.model.take().or(self.model.take());
        self.instructions = update.instructions.take().or(self.instructions.take());
        let update = AnswerUpdate {
            output_modalities: update.output_modalities.take().or(update.modalities.take()),
            max_output_tokens: update.max_output_tokens.take(),
            tools: update.tools.take(),
            tool_choice: update.tool_choice.take(),
            temperature: update.temperature.take(),
            output: update.audio.as_mut().and_then(|audio| audio.output.take()),
        };
        self.update(update, "session")
    }

    /// Take over what an event says about `place`, which is the session or an answer.
    ///
    /// # Errors
    /// As [`update_session`](Self::update_session).
    pub fn update(&mut self, update: AnswerUpdate, place: &str) -> Result<(), ApiError> {
        let invalid = |field: &str, message: &str| {
            Err(ApiError::invalid(&format!("{place}.{field}"), message))
        };
        if let Some(modalities) = update.output_modalities {
            let known = |name: &String| ["audio", "text"].contains(&name.as_str());
            if modalities.is_empty() || !modalities.iter().all(known) {
                return invalid("output_modalities", "expected [\"audio\"] or [\"text\"]");
            }
            self.sound = modalities.iter().any(|name| name == "audio");
        }
        match update.max_output_tokens {
            None => {}
            Some(Value::String(text)) if text == "inf" => self.max_output_tokens = None,
            Some(value) => match value.as_u64().filter(|&count| count > 0) {
                Some(count) => self.max_output_tokens = Some(count as usize),
                None => {
                    let message = "expected a number above 0, or \"inf\"";
                    return invalid("max_output_tokens", message);
                }
            },
        }
        if let Some(temperature) = update.temperature {
            if !(0.0..=2.0).contains(&temperature) {
                return invalid("temperature", "expected a number from 0 to 2");
            }
            self.temperature = Some(temperature);
        }
        if let Some(tools) = update.tools {
            self.functions = functions(&tools, place)?;
            self.tools = tools;
        }
        if let Some(choice) = update.tool_choice {
            self.tool_choice = tool_choice(&choice).ok_or_else(|| {
                let message =
                    "expected auto, none, required, or {\"type\": \"function\", \"name\": …}";
                ApiError::invalid(&format!("{place}.tool_choice"), message)
            })?;
        }
        match update.output {
            Some(output) => self.update_output(output, place),
            None => Ok(()),
        }
    }

    fn update_output(&mut self, output: OutputUpdate, place: &str) -> Result<(), ApiError> {
        let invalid = |field: &str, message: String| {
            let param = format!("{place}.audio.output.{field}");
            Err(ApiError::invalid(&param, message))
        };
        if let Some(format) = output.format {
            if let AudioFormat::Pcm { rate } = format
                && ![16_000, 24_000, 48_000].contains(&rate)
            {
                let message = format!("{rate} Hz is none of 16000, 24000, 48000");
                return invalid("format.rate", message);
            }
            self.output_format = format;
        }
        match output.voice {
            None => {}
            Some(Value::String(name)) => self.voice = Some(name),
            Some(voice) => match voice["id"].as_str() {
                Some(id) => self.voice = Some(id.to_owned()),
                None => {
                    let message = "expected a name, or an object with an `id`";
                    return invalid("voice", message.to_owned());
                }
            },
        }
        if let Some(speed) = output.speed {
            if !(0.25..=1.5).contains(&speed) {
                return invalid("speed", format!("{speed} is outside 0.25 to 1.5"));
            }
            self.speed = speed;
        }
        Ok(())
    }

    /// What answers may be.
    pub fn answers(&self) -> AnswerOptions {
        let mut options = AnswerOptions::default();
        options.tools.clone_from(&self.functions);
        options.tool_choice = self.tool_choice.clone();
        options.max_tokens = self.max_output_tokens;
        options.temperature = self.temperature;
        options.speak = self.sound;
        options
    }

    /// See that a call that is demanded can be made.
    ///
    /// # Errors
    /// There is no such function.
    pub fn check_choice(&self) -> Result<(), ApiError> {
        let is_there = match &self.tool_choice {
            ToolChoice::Auto | ToolChoice::None => true,
            ToolChoice::Required => !self.functions.is_empty(),
            ToolChoice::Named(name) => self.functions.iter().any(|tool| tool.name() == name),
        };
        match is_there {
            true => Ok(()),
            false => {
                let message = "the function that is demanded is none of the tools";
                Err(ApiError::invalid("response.tool_choice", message))
            }
        }
    }

    /// How answers are said.
    ///
    /// # Errors
    /// A voice that is not there.
    pub fn speech(
        &self,
        app: &App,
        synthesizer: &Synthesizer,
        control: &Control,
    ) -> Result<SpeakOptions, ApiError> {
        let request = SpeechRequest::of_voice(self.voice.as_deref(), None);
        let mut options = request.options(app, synthesizer, control)?;
        options.speed = self.speed;
        // The first sound is what one waits for.
        options.first_chunk = 1;
        Ok(options)
    }

    /// What the client is told of it, in the fields of a session or an answer.
    pub fn write(&self, json: &mut Value) {
        json["output_modalities"] = match self.sound {
            true => json!(["audio"]),
            false => json!(["text"]),
        };
        json["max_output_tokens"] = match self.max_output_tokens {
            Some(count) => count.into(),
            None => "inf".into(),
        };
        json["audio"]["output"] = json!({
            "format": self.output_format,
            "voice": self.voice,
            "speed": self.speed,
        });
    }

    /// Functions and whether they are called, in the fields of a session.
    pub fn write_tools(&self, json: &mut Value) {
        json["tools"] = self.tools.clone().into();
        json["tool_choice"] = match &self.tool_choice {
            ToolChoice::Auto => "auto".into(),
            ToolChoice::None => "none".into(),
            ToolChoice::Required => "required".into(),
            ToolChoice::Named(name) => json!({"type": "function", "name": name}),
        };
    }
}

/// Functions as this protocol writes them, or as requests for chats do.
fn functions(tools: &[Value], place: &str) -> Result<Vec<Tool>, ApiError> {
    let read = |(index, tool): (usize, &Value)| {
        let param = format!("{place}.tools[{index}]");
        if tool["type"] != "function" {
            let message = format!("{} is not `function`", tool["type"]);
            return Err(ApiError::unsupported(&format!("{param}.type"), message));
        }
        let function = tool.get("function").unwrap_or(tool);
        let name = function["name"].as_str();
        let name = name.ok_or_else(|| ApiError::missing(&format!("{param}.name")))?;
        let parameters = match &function["parameters"] {
            Value::Null => "{}".to_owned(),
            parameters => parameters.to_string(),
        };
        let description = function["description"].as_str().unwrap_or_default();
        let tool = Tool::new(name, description, &parameters);
        tool.map_err(|error| ApiError::from(error).about(&param))
    };
    tools.iter().enumerate().map(read).collect()
}

/// What `tool_choice` says, in this protocol or in that of chats.
pub fn tool_choice(choice: &Value) -> Option<ToolChoice> {
    match choice {
        Value::String(name) => match name.as_str() {
            "auto" => Some(ToolChoice::Auto),
            "none" => Some(ToolChoice::None),
            "required" => Some(ToolChoice::Required),
            _ => None,
        },
        choice => {
            let name = choice["name"].as_str();
            let name = name.or_else(|| choice["function"]["name"].as_str())?;
            Some(ToolChoice::Named(name.to_owned()))
        }
    }
}
