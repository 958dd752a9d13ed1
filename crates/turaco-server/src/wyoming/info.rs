//! What this server can do, as Wyoming tells it.

use serde_json::{Value, json};
use turaco::engine::{KnownModel, ModelKind};
use turaco::models::qwen3_tts::Qwen3TtsConfig;
use turaco::tokenizer::language_code;
use turaco::weights::Sidecars;

use super::frame::Frame;
use crate::app::App;
use crate::config::LogLevel;
use crate::error::ApiError;
use crate::family::Family;

/// Languages of Whispers that know more than English.
const MULTILINGUAL: &[&str] = &[
    "ar", "cs", "da", "de", "el", "en", "es", "fi", "fr", "he", "hi", "hu", "id", "it", "ja", "ko",
    "ms", "nl", "no", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh",
];

/// Languages that Voxtral Realtime was made for.
const VOXTRAL_REALTIME: &[&str] = &[
    "ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "ru", "zh",
];

/// Languages that Voxtral Mini and Small were made for.
const VOXTRAL_MINI: &[&str] = &["ar", "de", "en", "es", "fr", "hi", "it", "nl", "pt"];

/// The answer to `describe`.
///
/// # Errors
/// The models cannot be listed.
pub fn info(app: &App) -> Result<Frame, ApiError> {
    let catalog = app.engine().catalog();
    let models = catalog.list()?;
    let default = app.recognizer_name(None);
    let mut hearing: Vec<&KnownModel> = models
        .iter()
        .filter(|model| model.kind != ModelKind::Synthesizer)
        .collect();
    // Clients that choose none take the first.
    hearing.sort_by_key(|model| model.id != default);
    let asr = (!hearing.is_empty()).then(|| {
        let models: Vec<Value> = hearing
            .iter()
            .map(|model| {
                let languages: &[&str] = match Family::of(model) {
                    Some(Family::VoxtralRealtime) => VOXTRAL_REALTIME,
                    Some(Family::VoxtralMini) => VOXTRAL_MINI,
                    _ if model.id.contains(".en") => &["en"],
                    _ => MULTILINGUAL,
                };
                artifact(&model.id, "Speech to text", json!({"languages": languages}))
            })
            .collect();
        let more = json!({
            "models": models,
            "supports_transcript_streaming": true,
            "requires_external_vad": true,
        });
        artifact("turaco", "Speech to text", more)
    });
    let default = app.synthesizer_name(None);
    let mut speaking: Vec<&KnownModel> = models
        .iter()
        .filter(|model| model.kind == ModelKind::Synthesizer)
        .collect();
    speaking.sort_by_key(|model| model.id != default);
    let mut voices = Vec::new();
    for model in speaking {
        match voice(model) {
            Ok(voice) => voices.push(voice),
            Err(error) => {
                let line = format!("the voices of {} are left out: {error}", model.id);
                app.log(LogLevel::Warning, &line);
            }
        }
    }
    let tts = (!voices.is_empty()).then(|| {
        let more = json!({"voices": voices, "supports_synthesize_streaming": true});
        artifact("turaco", "Text to speech", more)
    });
    let programs = |program: Option<Value>| program.into_iter().collect::<Vec<_>>();
    Ok(Frame::new(
        "info",
        json!({
            "asr": programs(asr),
            "tts": programs(tts),
            "handle": [], "intent": [], "wake": [], "mic": [], "snd": [],
        }),
    ))
}

/// A model that speaks; its voices are the speakers.
fn voice(model: &KnownModel) -> Result<Value, ApiError> {
    let folder = match model.path.is_dir() {
        true => model.path.as_path(),
        false => model.path.parent().unwrap_or(&model.path),
    };
    let config = Qwen3TtsConfig::read(&Sidecars::new(folder))?;
    let (mut languages, mut speakers) = (Vec::new(), Vec::new());
    if let Some(config) = &config {
        let codes = config.language_names().filter_map(language_code);
        languages.extend(codes);
        speakers.extend(
            config
                .speakers
                .iter()
                .map(|speaker| json!({"name": speaker.name})),
        );
    }
    let speakers = match speakers.is_empty() {
        true => Value::Null,
        false => speakers.into(),
    };
    let more = json!({"languages": languages, "speakers": speakers});
    Ok(artifact(&model.id, "Text to speech", more))
}

fn artifact(name: &str, description: &str, more: Value) -> Value {
    let mut all = json!({
        "name": name,
        "description": description,
        "attribution": {"name": "Turaco", "url": env!("CARGO_PKG_REPOSITORY")},
        "installed": true,
        "version": env!("CARGO_PKG_VERSION"),
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    all
}
