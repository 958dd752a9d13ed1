//! The settings of a session that only conversations have.

use serde_json::{Value, json};
use turaco::tts::SpeakOptions;
use turaco::{Control, Synthesizer};

use super::protocol::{AudioFormat, OutputUpdate, SessionUpdate};
use crate::app::App;
use crate::error::ApiError;
use crate::openai::speech_request::SpeechRequest;

/// How a conversation answers.
#[derive(Debug, Clone)]
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
        }
    }
}

impl Talking {
    /// Take over what `session.update` says.
    ///
    /// # Errors
    /// A value that cannot be used; some may have been taken over then.
    pub fn update(&mut self, update: &mut SessionUpdate) -> Result<(), ApiError> {
        self.model = update.model.take().or(self.model.take());
        self.instructions = update.instructions.take().or(self.instructions.take());
        let modalities = update.output_modalities.take().or(update.modalities.take());
        if let Some(modalities) = modalities {
            let known = |name: &String| ["audio", "text"].contains(&name.as_str());
            if modalities.is_empty() || !modalities.iter().all(known) {
                let message = "expected [\"audio\"] or [\"text\"]";
                return Err(ApiError::invalid("session.output_modalities", message));
            }
            self.sound = modalities.iter().any(|name| name == "audio");
        }
        match update.max_output_tokens.take() {
            None => {}
            Some(Value::String(text)) if text == "inf" => self.max_output_tokens = None,
            Some(value) => match value.as_u64().filter(|&count| count > 0) {
                Some(count) => self.max_output_tokens = Some(count as usize),
                None => {
                    let message = "expected a number above 0, or \"inf\"";
                    return Err(ApiError::invalid("session.max_output_tokens", message));
                }
            },
        }
        let output = update.audio.as_mut().and_then(|audio| audio.output.take());
        output.map_or(Ok(()), |output| self.update_output(output))
    }

    fn update_output(&mut self, output: OutputUpdate) -> Result<(), ApiError> {
        if let Some(format) = output.format {
            if let AudioFormat::Pcm { rate } = format
                && ![16_000, 24_000, 48_000].contains(&rate)
            {
                let message = format!("{rate} Hz is none of 16000, 24000, 48000");
                return Err(ApiError::invalid(
                    "session.audio.output.format.rate",
                    message,
                ));
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
                    return Err(ApiError::invalid("session.audio.output.voice", message));
                }
            },
        }
        if let Some(speed) = output.speed {
            if !(0.25..=1.5).contains(&speed) {
                let message = format!("{speed} is outside 0.25 to 1.5");
                return Err(ApiError::invalid("session.audio.output.speed", message));
            }
            self.speed = speed;
        }
        Ok(())
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

    /// For the session as the client is told.
    pub fn output_json(&self) -> Value {
        json!({
            "format": self.output_format,
            "voice": self.voice,
            "speed": self.speed,
        })
    }
}
