//! The events of `/v1/realtime` in OpenAI's dialect.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use turaco::voice::Detection;

use super::items::NewItem;
use super::response::ResponseRequest;
use crate::plain_json;

/// What a client says. Fields that are not known are ignored.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type")]
pub enum ClientEvent {
    #[serde(rename = "session.update")]
    SessionUpdate {
        #[serde(default)]
        session: Option<Box<SessionUpdate>>,
        /// vLLM's dialect.
        #[serde(default)]
        model: Option<String>,
        /// vLLM's dialect.
        #[serde(default)]
        timestamp_granularities: Vec<String>,
    },
    #[serde(rename = "transcription_session.update")]
    OldSessionUpdate { session: Box<OldSessionUpdate> },
    #[serde(rename = "input_audio_buffer.append")]
    Append { audio: String },
    #[serde(rename = "input_audio_buffer.commit")]
    Commit {
        /// vLLM's dialect.
        #[serde(default, rename = "final")]
        last: Option<bool>,
    },
    #[serde(rename = "input_audio_buffer.clear")]
    Clear {},
    #[serde(rename = "conversation.item.retrieve")]
    Retrieve { item_id: String },
    #[serde(rename = "conversation.item.delete")]
    Delete { item_id: String },
    #[serde(rename = "conversation.item.create")]
    CreateItem {
        item: Box<NewItem>,
        #[serde(default)]
        previous_item_id: Option<String>,
    },
    #[serde(rename = "conversation.item.truncate")]
    Truncate {
        item_id: String,
        #[serde(default)]
        content_index: u32,
        audio_end_ms: u64,
    },
    #[serde(rename = "response.create")]
    CreateResponse {
        #[serde(default)]
        response: Option<Box<ResponseRequest>>,
    },
    #[serde(rename = "response.cancel")]
    CancelResponse {
        #[serde(default)]
        response_id: Option<String>,
    },
    #[serde(rename = "output_audio_buffer.clear")]
    ClearOutput {},
}

/// Names of all events that a client may send.
const CLIENT_EVENTS: &[&str] = &[
    "session.update",
    "transcription_session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "conversation.item.create",
    "conversation.item.retrieve",
    "conversation.item.delete",
    "conversation.item.truncate",
    "response.create",
    "response.cancel",
    "output_audio_buffer.clear",
];

/// Why what a client said is no event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoEvent {
    /// What is wrong.
    pub message: String,
    /// No JSON at all.
    pub is_json: bool,
    /// The type is known, and its fields are wrong.
    pub is_known: bool,
    /// The client's own id of the event.
    pub event_id: Option<String>,
}

impl ClientEvent {
    /// Read an event and the client's own id of it.
    ///
    /// # Errors
    /// What is no event.
    pub fn read(text: &str) -> Result<(Self, Option<String>), NoEvent> {
        let mut value: Value = serde_json::from_str(text).map_err(|error| NoEvent {
            message: format!("this is no JSON: {error}"),
            is_json: false,
            is_known: false,
            event_id: None,
        })?;
        let event_id = value["event_id"].as_str().map(str::to_owned);
        let kind = value["type"].as_str().unwrap_or_default().to_owned();
        let is_known = CLIENT_EVENTS.contains(&kind.as_str());
        if kind == "session.update"
            && let Some(session) = value["session"].as_object_mut()
        {
            with_present_names(session);
        }
        let event = Self::deserialize(value).map_err(|error| NoEvent {
            message: match is_known {
                true => format!(
                    "a field of `{kind}` {}",
                    plain_json::in_words(&error.to_string())
                ),
                false => format!("`{kind}` is none of {}", CLIENT_EVENTS.join(", ")),
            },
            is_json: true,
            is_known,
            event_id: event_id.clone(),
        })?;
        Ok((event, event_id))
    }
}

/// Give the fields of OpenAI's beta, which were flat, the places that they have now. What stands there already counts.
fn with_present_names(session: &mut Map<String, Value>) {
    for (old, place) in [
        ("voice", &["audio", "output", "voice"][..]),
        ("speed", &["audio", "output", "speed"]),
        ("output_audio_format", &["audio", "output", "format"]),
        ("input_audio_format", &["audio", "input", "format"]),
        (
            "input_audio_transcription",
            &["audio", "input", "transcription"],
        ),
        (
            "input_audio_noise_reduction",
            &["audio", "input", "noise_reduction"],
        ),
        ("turn_detection", &["audio", "input", "turn_detection"]),
        ("max_response_output_tokens", &["max_output_tokens"]),
    ] {
        let Some(mut value) = session.remove(old) else {
            continue;
        };
        if let Some(format) = value.as_str().and_then(AudioFormat::of_old_name) {
            value = json!(format);
        }
        let Some((name, folders)) = place.split_last() else {
            continue;
        };
        let mut at = Some(&mut *session);
        for &folder in folders {
            at = at.and_then(|map| {
                let inner = map.entry(folder).or_insert_with(|| json!({}));
                inner.as_object_mut()
            });
        }
        if let Some(map) = at {
            map.entry(*name).or_insert(value);
        }
    }
}

/// A field that may be left out, be null, or be there.
fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// The changes of `session.update`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SessionUpdate {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub audio: Option<AudioUpdate>,
    pub include: Option<Vec<String>>,
    pub model: Option<String>,
    pub instructions: Option<String>,
    pub output_modalities: Option<Vec<String>>,
    /// The older name of the same.
    pub modalities: Option<Vec<String>>,
    pub max_output_tokens: Option<Value>,
    pub tools: Option<Vec<Value>>,
    pub tool_choice: Option<Value>,
    /// The older protocol's.
    pub temperature: Option<f32>,
    /// What is not known here.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl SessionUpdate {
    /// Whether this is for a session in which somebody answers.
    pub fn is_conversation(&self) -> bool {
        self.kind.as_deref() == Some("realtime")
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AudioUpdate {
    pub input: Option<InputUpdate>,
    pub output: Option<OutputUpdate>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct OutputUpdate {
    pub format: Option<AudioFormat>,
    /// A name, or an object with an `id`.
    pub voice: Option<Value>,
    pub speed: Option<f32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct InputUpdate {
    pub format: Option<AudioFormat>,
    #[serde(deserialize_with = "given")]
    pub transcription: Option<Option<Transcription>>,
    #[serde(deserialize_with = "given")]
    pub turn_detection: Option<Option<TurnDetection>>,
    pub noise_reduction: Option<Value>,
}

/// The older form of the same.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct OldSessionUpdate {
    pub input_audio_format: Option<String>,
    #[serde(deserialize_with = "given")]
    pub input_audio_transcription: Option<Option<Transcription>>,
    #[serde(deserialize_with = "given")]
    pub turn_detection: Option<Option<TurnDetection>>,
    pub input_audio_noise_reduction: Option<Value>,
    pub include: Option<Vec<String>>,
}

/// How sound is written in the client's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum AudioFormat {
    #[serde(rename = "audio/pcm")]
    Pcm {
        #[serde(default = "usual_rate")]
        rate: u32,
    },
    #[serde(rename = "audio/pcmu")]
    MuLaw,
    #[serde(rename = "audio/pcma")]
    ALaw,
}

const fn usual_rate() -> u32 {
    24_000
}

impl AudioFormat {
    /// The name of the older protocol.
    pub fn of_old_name(name: &str) -> Option<Self> {
        match name {
            "pcm16" => Some(Self::Pcm { rate: usual_rate() }),
            "g711_ulaw" => Some(Self::MuLaw),
            "g711_alaw" => Some(Self::ALaw),
            _ => None,
        }
    }

    /// Samples per second.
    pub const fn rate(self) -> u32 {
        match self {
            Self::Pcm { rate } => rate,
            Self::MuLaw | Self::ALaw => 8_000,
        }
    }
}

/// How what is heard is written down.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Transcription {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keywords: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamps: Option<bool>,
}

/// By how much the text of a streaming model follows the sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delay {
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
}

impl Delay {
    /// Milliseconds.
    pub const fn ms(self) -> u32 {
        match self {
            Self::Minimal => 80,
            Self::Low => 240,
            Self::Medium => 480,
            Self::High => 960,
            Self::Xhigh => 2400,
        }
    }
}

/// Where an utterance ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TurnDetection {
    ServerVad {
        #[serde(default = "usual_threshold")]
        threshold: f64,
        #[serde(default = "usual_padding")]
        prefix_padding_ms: u32,
        #[serde(default = "usual_silence")]
        silence_duration_ms: u32,
        #[serde(default = "yes")]
        create_response: bool,
        #[serde(default = "yes")]
        interrupt_response: bool,
        #[serde(default)]
        idle_timeout_ms: Option<u32>,
        #[serde(flatten)]
        ours: OurDetection,
    },
    SemanticVad {
        #[serde(default)]
        eagerness: Eagerness,
        #[serde(default = "yes")]
        create_response: bool,
        #[serde(default = "yes")]
        interrupt_response: bool,
        #[serde(flatten)]
        ours: OurDetection,
    },
}

/// What OpenAI's detection of turns does not have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OurDetection {
    /// What tells speech from other sound; the server's choice unless told.
    pub vad: Option<Vad>,
    /// Speech lasts this long at least to interrupt an answer that is heard,
    pub interrupt_ms: u32,
    /// and has so many words.
    pub interrupt_words: usize,
    /// The same for answers of which nothing is heard yet; as the others unless told.
    pub interrupt_thinking_ms: Option<u32>,
    pub interrupt_thinking_words: Option<usize>,
}

/// What tells speech from other sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vad {
    Silero,
    Energy,
    /// Nothing: as if there were no `turn_detection`.
    None,
}

impl From<Detection> for Vad {
    fn from(detection: Detection) -> Self {
        match detection {
            Detection::Silero => Self::Silero,
            Detection::Energy => Self::Energy,
            Detection::None => Self::None,
        }
    }
}

impl From<Vad> for Detection {
    fn from(vad: Vad) -> Self {
        match vad {
            Vad::Silero => Self::Silero,
            Vad::Energy => Self::Energy,
            Vad::None => Self::None,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Eagerness {
    Low,
    Medium,
    High,
    #[default]
    Auto,
}

const fn usual_threshold() -> f64 {
    0.5
}

const fn usual_padding() -> u32 {
    300
}

const fn usual_silence() -> u32 {
    500
}

const fn yes() -> bool {
    true
}

impl TurnDetection {
    /// What OpenAI's does not have.
    pub const fn ours(&self) -> &OurDetection {
        match self {
            Self::ServerVad { ours, .. } | Self::SemanticVad { ours, .. } => ours,
        }
    }

    /// The same, to be changed.
    pub const fn ours_mut(&mut self) -> &mut OurDetection {
        match self {
            Self::ServerVad { ours, .. } | Self::SemanticVad { ours, .. } => ours,
        }
    }

    /// Whether what was said is answered without being asked.
    pub const fn creates_response(&self) -> bool {
        match self {
            Self::ServerVad {
                create_response, ..
            }
            | Self::SemanticVad {
                create_response, ..
            } => *create_response,
        }
    }
}

impl Default for TurnDetection {
    fn default() -> Self {
        Self::ServerVad {
            threshold: usual_threshold(),
            prefix_padding_ms: usual_padding(),
            silence_duration_ms: usual_silence(),
            create_response: true,
            interrupt_response: true,
            idle_timeout_ms: None,
            ours: OurDetection::default(),
        }
    }
}

/// What the server says. [`ServerEvent::to_json`] adds the id of the event.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type")]
pub enum ServerEvent {
    /// For both dialects.
    #[serde(rename = "session.created")]
    SessionCreated {
        session: Value,
        id: String,
        created: u64,
    },
    #[serde(rename = "session.updated")]
    SessionUpdated { session: Value },
    #[serde(rename = "transcription_session.updated")]
    OldSessionUpdated { session: Value },
    #[serde(rename = "input_audio_buffer.speech_started")]
    SpeechStarted {
        audio_start_ms: u64,
        item_id: String,
    },
    #[serde(rename = "input_audio_buffer.speech_stopped")]
    SpeechStopped { audio_end_ms: u64, item_id: String },
    #[serde(rename = "input_audio_buffer.committed")]
    Committed {
        previous_item_id: Option<String>,
        item_id: String,
    },
    #[serde(rename = "input_audio_buffer.cleared")]
    Cleared {},
    #[serde(rename = "conversation.item.added")]
    ItemAdded {
        previous_item_id: Option<String>,
        item: Value,
    },
    /// The older name of the same.
    #[serde(rename = "conversation.item.created")]
    ItemCreated {
        previous_item_id: Option<String>,
        item: Value,
    },
    #[serde(rename = "conversation.item.done")]
    ItemDone {
        previous_item_id: Option<String>,
        item: Value,
    },
    #[serde(rename = "conversation.item.retrieved")]
    ItemRetrieved { item: Value },
    #[serde(rename = "conversation.item.deleted")]
    ItemDeleted { item_id: String },
    #[serde(rename = "conversation.item.truncated")]
    ItemTruncated {
        item_id: String,
        content_index: u32,
        audio_end_ms: u64,
    },
    #[serde(rename = "conversation.item.input_audio_transcription.delta")]
    Delta {
        item_id: String,
        content_index: u32,
        delta: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Value>,
    },
    #[serde(rename = "conversation.item.input_audio_transcription.segment")]
    Segment {
        item_id: String,
        content_index: u32,
        id: String,
        text: String,
        start: f64,
        end: f64,
    },
    #[serde(rename = "conversation.item.input_audio_transcription.completed")]
    Completed {
        item_id: String,
        content_index: u32,
        transcript: String,
        usage: Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Value>,
    },
    #[serde(rename = "conversation.item.input_audio_transcription.failed")]
    Failed {
        item_id: String,
        content_index: u32,
        error: Value,
    },
    #[serde(rename = "error")]
    Error { error: Value },
}

impl ServerEvent {
    /// The event with an id of its own.
    pub fn to_json(&self) -> Value {
        // Numbers, texts and objects of them.
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["event_id"] = crate::layer::new_id("event").into();
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_what_is_none_is_said() {
        let (event, id) = ClientEvent::read(
            r#"{"type": "session.update", "event_id": "e1", "session": {"type": "transcription",
                "audio": {"input": {"turn_detection": null, "format": {"type": "audio/pcm"}}}}}"#,
        )
        .unwrap();
        assert_eq!(id.as_deref(), Some("e1"));
        let ClientEvent::SessionUpdate {
            session: Some(session),
            ..
        } = event
        else {
            panic!("{event:?}");
        };
        let input = session.audio.unwrap().input.unwrap();
        assert_eq!(input.turn_detection, Some(None));
        assert_eq!(input.format, Some(AudioFormat::Pcm { rate: 24_000 }));
        let wrong = |text| ClientEvent::read(text).unwrap_err();
        assert!(!wrong("{").is_json);
        assert!(!wrong(r#"{"type": "session.destroy"}"#).is_known);
        assert!(wrong(r#"{"type": "input_audio_buffer.append"}"#).is_known);
        assert_eq!(
            wrong(r#"{"event_id": "e2"}"#).event_id.as_deref(),
            Some("e2")
        );
        for text in ["null", "[]", "3", "\"x\""] {
            assert!(wrong(text).is_json, "{text}");
        }
    }

    #[test]
    fn turn_detection_has_its_defaults() {
        let read = |text| serde_json::from_str::<TurnDetection>(text).unwrap();
        assert_eq!(read(r#"{"type": "server_vad"}"#), TurnDetection::default());
        let semantic = read(r#"{"type": "semantic_vad"}"#);
        assert!(matches!(
            semantic,
            TurnDetection::SemanticVad {
                eagerness: Eagerness::Auto,
                ..
            }
        ));
    }
}
