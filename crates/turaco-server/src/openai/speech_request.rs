//! What a request for speech asks for.

use std::sync::Arc;

use serde::Deserialize;
use turaco::audio::SoundFormat;
use turaco::models::qwen3_tts::TtsKind;
use turaco::tts::{SpeakOptions, TextLayout, Voice};
use turaco::{Audio, Control, Synthesizer};

use crate::app::App;
use crate::config::LogLevel;
use crate::error::ApiError;
use crate::layer::fresh_seed;
use crate::plain_json;
use crate::reference_text;
use crate::sent;
use crate::sound_room::Share;
use crate::speech_model::{model_for, settings_of};

/// Names of OpenAI's voices, which its clients have to send: each stands for the model's own choice.
const OPENAI_VOICES: &[&str] = &[
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage",
    "shimmer", "verse",
];

/// The body of `POST /v1/audio/speech`; what is not there is as the model says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SpeechRequest {
    pub model: Option<String>,
    pub input: Option<String>,
    pub voice: Option<VoiceName>,
    #[serde(alias = "instruct")]
    pub instructions: Option<String>,
    pub language: Option<String>,
    pub response_format: Option<String>,
    pub stream_format: Option<String>,
    pub speed: Option<f32>,
    pub normalize: Option<bool>,
    pub sample_rate: Option<u32>,
    pub task_type: Option<String>,
    pub ref_audio: Option<String>,
    pub ref_text: Option<String>,
    pub x_vector_only_mode: Option<bool>,
    pub non_streaming_mode: Option<bool>,
    pub do_sample: Option<bool>,
    pub temperature: Option<f32>,
    pub top_k: Option<usize>,
    pub top_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub subtalker_dosample: Option<bool>,
    pub subtalker_temperature: Option<f32>,
    pub subtalker_top_k: Option<usize>,
    pub subtalker_top_p: Option<f32>,
    pub max_new_tokens: Option<usize>,
    pub seed: Option<u64>,
    /// What `ref_audio` stands for, see [`hear`](Self::hear).
    #[serde(skip)]
    heard: Option<(Audio, Arc<Share>)>,
}

/// Refuse a text of more than `most` characters.
///
/// # Errors
/// It is longer.
pub fn check_length(param: &str, text: &str, most: usize) -> Result<(), ApiError> {
    let count = text.chars().count();
    if count <= most {
        return Ok(());
    }
    let message = format!("{count} characters are more than the limit of {most}");
    Err(ApiError::invalid(param, message))
}

/// A voice by name, as OpenAI's clients write it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a name, or an object with an `id`")]
pub enum VoiceName {
    Name(String),
    Id { id: String },
}

impl VoiceName {
    fn name(&self) -> &str {
        match self {
            Self::Name(name) | Self::Id { id: name } => name.trim(),
        }
    }
}

/// How the sound is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container {
    pub format: SoundFormat,
    /// Pieces of the file in events instead of the file.
    pub events: bool,
}

impl Container {
    /// The type of the answer.
    pub const fn content_type(self) -> &'static str {
        match (self.events, self.format) {
            (true, _) => crate::pieces::EVENT_STREAM,
            (_, SoundFormat::Opus) => "audio/ogg",
            (_, SoundFormat::Flac) => "audio/flac",
            (_, SoundFormat::Pcm) => "audio/pcm",
            (_, SoundFormat::Mp3) => "audio/mpeg",
            _ => "audio/wav",
        }
    }
}

impl SpeechRequest {
    /// A request in which only who speaks is told.
    pub fn of_voice(voice: Option<&str>, language: Option<&str>) -> Self {
        Self {
            voice: voice.map(|name| VoiceName::Name(name.to_owned())),
            language: language.map(str::to_owned),
            ..Self::default()
        }
    }

    /// Read a body.
    ///
    /// # Errors
    /// What is no JSON object, or a field of another kind.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        plain_json::read(body)
    }

    /// Decode or fetch the recording of the voice, before a device is waited for, and find out what is said in it where nobody
    /// says that.
    ///
    /// # Errors
    /// As [`sent::recording`].
    pub fn hear(&mut self, app: &App, control: &Control) -> Result<(), ApiError> {
        if self.ref_audio.is_some()
            && let Some(name) = self.saved_voice(app)
        {
            let message =
                format!("`{name}` is a saved voice, and `ref_audio` is another: send one");
            return Err(ApiError::invalid("voice", message));
        }
        let model = self.model(app);
        if let Some(text) = self.ref_audio.take() {
            let mut share = app.sound_share();
            let how = (None, &mut share);
            let audio = sent::recording((app, control), &text, "ref_audio", how)?;
            let is_known = (self.ref_text.as_deref()).is_some_and(|text| !text.trim().is_empty());
            if !is_known && self.x_vector_only_mode != Some(true) {
                let language = self.language.as_deref();
                self.ref_text = reference_text::heard((app, control), &model, &audio, language)?;
            }
            self.heard = Some((audio, Arc::new(share)));
        }
        Ok(())
    }

    /// The model that is meant: the one that is named, or one that can do what is asked for.
    pub fn model(&self, app: &App) -> String {
        let task = self.task_type.as_deref();
        let wanted = match task.and_then(|task| task.parse().ok()) {
            None if self.ref_audio.is_some() || self.heard.is_some() => Some(TtsKind::Base),
            None => self.saved_voice(app).map(|_| TtsKind::Base),
            wanted => wanted,
        };
        model_for(app, self.model.as_deref(), wanted)
    }

    /// The name of the voice, if it is a saved one and none that the default model has itself.
    fn saved_voice(&self, app: &App) -> Option<&str> {
        let name = self.voice.as_ref().map(VoiceName::name)?;
        let path = app.config().voices.as_ref()?.path(name).ok()?;
        let is_preset = || {
            let model = app.synthesizer_name(self.model.as_deref());
            settings_of(app, &model).is_some_and(|config| config.speaker(name).is_some())
        };
        (path.is_file() && !is_preset()).then_some(name)
    }

    /// An error about texts that are too long together, as one about the longest of them.
    pub fn about_its_texts(&self, mut error: ApiError) -> ApiError {
        if error.param.as_deref() == Some("text") {
            let texts = [
                ("input", &self.input),
                ("instructions", &self.instructions),
                ("ref_text", &self.ref_text),
            ];
            let longest = (texts.into_iter()).max_by_key(|(_, text)| text.as_deref().map(str::len));
            let name = longest.map_or("input", |(name, _)| name);
            error.message = error.message.replacen("`text`", &format!("`{name}`"), 1);
            error.param = Some(name.to_owned());
        }
        error
    }

    /// The text.
    ///
    /// # Errors
    /// There is none, or it or another text of the request has more than `most` characters.
    pub fn text(&self, most: usize) -> Result<&str, ApiError> {
        let text = (self.input.as_deref()).ok_or_else(|| ApiError::missing("input"))?;
        if text.trim().is_empty() {
            return Err(ApiError::invalid("input", "there is no text to say"));
        }
        for (param, text) in [
            ("input", Some(text)),
            ("instructions", self.instructions.as_deref()),
            ("ref_text", self.ref_text.as_deref()),
        ] {
            check_length(param, text.unwrap_or_default(), most)?;
        }
        Ok(text)
    }

    /// How the sound is written; what nobody asked for in another way is MP3 as OpenAI's is, or WAV in builds that cannot.
    ///
    /// # Errors
    /// A format that is not known, or cannot be written.
    pub fn container(&self) -> Result<Container, ApiError> {
        let format = match self.response_format.as_deref() {
            None if SoundFormat::Mp3.is_available() => SoundFormat::Mp3,
            None | Some("wav") => SoundFormat::Wav,
            Some("mp3") if SoundFormat::Mp3.is_available() => SoundFormat::Mp3,
            Some("pcm") => SoundFormat::Pcm,
            Some("flac") => SoundFormat::Flac,
            Some("opus") => SoundFormat::Opus,
            Some(other @ ("mp3" | "aac")) => {
                let message = format!(
                    "{other} cannot be written by this server; wav, flac, opus and pcm can"
                );
                return Err(ApiError::unsupported("response_format", message));
            }
            Some(other) => {
                let message = format!("`{other}` is none of wav, flac, opus, pcm");
                return Err(ApiError::invalid("response_format", message));
            }
        };
        let events = match self.stream_format.as_deref() {
            None | Some("audio") => false,
            Some("sse") => true,
            Some(other) => {
                let message = format!("`{other}` is none of audio, sse");
                return Err(ApiError::invalid("stream_format", message));
            }
        };
        Ok(Container { format, events })
    }

    /// Refuse a limit that leaves no frame.
    ///
    /// # Errors
    /// It does.
    pub fn check_limit(&self) -> Result<(), ApiError> {
        match self.max_new_tokens {
            Some(0 | 1) => {
                let message = "expected at least 2: a frame, and the token that ends the speech";
                Err(ApiError::invalid("max_new_tokens", message))
            }
            _ => Ok(()),
        }
    }

    /// The samples per second that are asked for, if any are.
    ///
    /// # Errors
    /// A rate that sound does not have.
    pub fn sample_rate(&self) -> Result<Option<u32>, ApiError> {
        match self.sample_rate {
            Some(rate) if !(8_000..=48_000).contains(&rate) => {
                Err(ApiError::invalid("sample_rate", "expected 8000 to 48000"))
            }
            rate => Ok(rate),
        }
    }

    /// The options for a model, with the voice looked up or made of a recording.
    ///
    /// # Errors
    /// A voice that is not there, a task of another model, a recording that cannot be used.
    pub fn options(
        &self,
        app: &App,
        synthesizer: &Synthesizer,
        control: &Control,
    ) -> Result<SpeakOptions, ApiError> {
        if let Some(task) = self.task_type.as_deref() {
            synthesizer.check_task(task)?;
        }
        let mut options = SpeakOptions::new();
        options.voice = self.voice(app, synthesizer, control)?;
        let config = synthesizer.model().config();
        if self.instructions.is_some()
            && config.kind == TtsKind::CustomVoice
            && !config.takes_instructions()
        {
            // Applications send them whatever speaks, and OpenAI's own models of which this is true ignore them too.
            app.log(
                LogLevel::Warning,
                "instructions change nothing in this model's speech; qwen3-tts-1.7b-customvoice follows them",
            );
        } else {
            options.instruct.clone_from(&self.instructions);
        }
        options.language.clone_from(&self.language);
        options.layout = match self.non_streaming_mode {
            None => TextLayout::Auto,
            Some(true) => TextLayout::Whole,
            Some(false) => TextLayout::Beside,
        };
        options.speed = self.speed.unwrap_or(1.0);
        options.normalize = self.normalize.unwrap_or(options.normalize);
        options.do_sample = self.do_sample;
        options.subtalker_dosample = self.subtalker_dosample;
        options.temperature = self.temperature;
        options.top_k = self.top_k;
        options.top_p = self.top_p;
        options.repetition_penalty = self.repetition_penalty;
        options.subtalker_temperature = self.subtalker_temperature;
        options.subtalker_top_k = self.subtalker_top_k;
        options.subtalker_top_p = self.subtalker_top_p;
        if let Some(most) = self.max_new_tokens {
            options = options.max_new_tokens(most);
        }
        options.seed = self.seed.unwrap_or_else(fresh_seed);
        Ok(options)
    }

    fn voice(
        &self,
        app: &App,
        synthesizer: &Synthesizer,
        control: &Control,
    ) -> Result<Voice, ApiError> {
        if let Some((audio, _)) = &self.heard {
            let text = match self.x_vector_only_mode {
                Some(true) => None,
                _ => self.ref_text.as_deref(),
            };
            let voice = synthesizer.clone_voice(audio, text, control)?;
            return Ok(Voice::Cloned(Arc::new(voice)));
        }
        let Some(name) = self.voice.as_ref().map(VoiceName::name) else {
            return Ok(Voice::Default);
        };
        if name.is_empty() {
            return Ok(Voice::Default);
        }
        if synthesizer.model().config().speaker(name).is_some() {
            return Ok(Voice::Named(name.to_owned()));
        }
        let saved = match &app.config().voices {
            Some(store) => store.find(name)?,
            None => None,
        };
        match saved {
            Some(voice) => Ok(Voice::Cloned(Arc::new(voice))),
            None if OPENAI_VOICES.contains(&name) => Ok(Voice::Default),
            None => {
                let mut error = ApiError::no_voice(name);
                if synthesizer.kind() != TtsKind::CustomVoice {
                    error.message += &format!(
                        "; `{}` is a {} model, voices by name are in CustomVoice models, {}",
                        synthesizer.model_name(),
                        synthesizer.kind().name(),
                        TtsKind::CustomVoice.models()
                    );
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_asked_for_is_mp3_or_wav() {
        let container = |json: &str| SpeechRequest::read(json.as_bytes()).unwrap().container();
        if SoundFormat::Mp3.is_available() {
            assert_eq!(container("{}").unwrap().content_type(), "audio/mpeg");
            return;
        }
        assert_eq!(container("{}").unwrap().content_type(), "audio/wav");
        let opus = container(r#"{"response_format": "opus"}"#).unwrap();
        assert_eq!(opus.content_type(), "audio/ogg");
        let events = container(r#"{"stream_format": "sse"}"#).unwrap();
        assert_eq!(events.content_type(), "text/event-stream");
        let mp3 = container(r#"{"response_format": "mp3"}"#).unwrap_err();
        assert_eq!((mp3.code, mp3.status.as_u16()), ("unsupported_value", 400));
        assert!(container(r#"{"response_format": "midi"}"#).is_err());
    }

    #[test]
    fn texts_are_there_and_not_too_long() {
        let text = |json: &str| {
            let request = SpeechRequest::read(json.as_bytes()).unwrap();
            request
                .text(5)
                .map(str::to_owned)
                .map_err(|error| error.code)
        };
        assert_eq!(text(r#"{"input": "Hallo"}"#), Ok("Hallo".into()));
        assert_eq!(text("{}"), Err("missing_required_parameter"));
        assert_eq!(text(r#"{"input": " \n"}"#), Err("invalid_value"));
        assert_eq!(text(r#"{"input": "Hallo!"}"#), Err("invalid_value"));
        for field in ["instructions", "ref_text"] {
            let body = format!(r#"{{"input": "Hallo", "{field}": "slowly"}}"#);
            let request = SpeechRequest::read(body.as_bytes()).unwrap();
            let error = request.text(5).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(field));
        }
        let voice = SpeechRequest::read(br#"{"voice": {"id": "anna"}}"#).unwrap();
        assert_eq!(voice.voice.unwrap().name(), "anna");
        assert!(SpeechRequest::read(b"[").is_err());
    }

    #[test]
    fn fields_of_another_kind_are_told_in_plain_words() {
        let refused = |body: &str| {
            let error = SpeechRequest::read(body.as_bytes()).unwrap_err();
            (error.param.unwrap_or_default(), error.message)
        };
        for (field, value, words) in [
            ("max_new_tokens", "-1", "whole number"),
            ("top_k", "2.5", "whole number"),
            ("seed", "\"a\"", "whole number"),
            ("sample_rate", "5000000000", "whole number"),
            ("temperature", "\"hot\"", "a number"),
            ("normalize", "1", "true or false"),
            ("input", "{}", "a text"),
            ("voice", "7", "a name"),
            ("voice", "{\"name\": \"a\"}", "`id`"),
        ] {
            let (param, message) = refused(&format!("{{\"{field}\": {value}}}"));
            assert_eq!(param, field);
            assert!(message.contains(words), "{message}");
        }
        let (param, message) = refused("[]");
        assert!(
            param.is_empty() && message.contains("JSON object"),
            "{message}"
        );
        assert!(SpeechRequest::read(br#"{"voice": null, "seed": null, "other": 7}"#).is_ok());
    }
}
