//! What this server can do, as Wyoming tells it.

use std::path::PathBuf;

use serde_json::{Value, json};
use turaco::engine::{KnownModel, ModelKind};
use turaco::models::qwen3_tts::Qwen3TtsConfig;
use turaco::tokenizer::{LANGUAGES, language_code};
use turaco::weights::Sidecars;

use super::frame::Frame;
use crate::app::App;
use crate::config::LogLevel;
use crate::error::ApiError;
use crate::family::Family;

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
    let offered = offered(app);
    let is_offered = |model: &&KnownModel| offered.contains(&model.path);
    let default = path_of(app, &app.recognizer_name(None));
    let mut hearing: Vec<&KnownModel> = models
        .iter()
        .filter(is_offered)
        .filter(|model| model.kind != ModelKind::Synthesizer)
        .collect();
    // Clients that choose none take the first.
    hearing.sort_by_key(|model| default.as_ref() != Some(&model.path));
    let asr = (!hearing.is_empty()).then(|| {
        let models: Vec<Value> = hearing
            .iter()
            .map(|model| {
                let name = model.shown();
                let languages = match Family::of(model) {
                    Some(Family::VoxtralRealtime) => VOXTRAL_REALTIME.to_vec(),
                    Some(Family::VoxtralMini) => VOXTRAL_MINI.to_vec(),
                    _ if name.contains(".en") => vec!["en"],
                    _ => LANGUAGES.iter().map(|(code, _)| *code).collect(),
                };
                artifact(&name, &name, json!({"languages": languages}))
            })
            .collect();
        let more = json!({
            "models": models,
            "supports_transcript_streaming": true,
            "requires_external_vad": true,
        });
        artifact("turaco", "Speech to text", more)
    });
    let default = path_of(app, &app.synthesizer_name(None));
    let mut speaking: Vec<&KnownModel> = models
        .iter()
        .filter(is_offered)
        .filter(|model| model.kind == ModelKind::Synthesizer)
        .collect();
    speaking.sort_by_key(|model| default.as_ref() != Some(&model.path));
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

/// Where the model lies that a name stands for.
fn path_of(app: &App, name: &str) -> Option<PathBuf> {
    let found = app.engine().catalog().find(name).ok();
    found.map(|model| model.path)
}

/// Where the models lie that are offered: the default ones, and those that are loaded or will be at once. Home Assistant offers the
/// languages of all models and names none when it asks, so that more would promise what the default one does not know.
fn offered(app: &App) -> Vec<PathBuf> {
    let loaded = app.engine().loaded().into_iter().map(|model| model.id);
    let defaults = [app.recognizer_name(None), app.synthesizer_name(None)];
    let names = loaded.chain(app.preload().iter().cloned()).chain(defaults);
    names.filter_map(|name| path_of(app, &name)).collect()
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
    let name = model.shown();
    Ok(artifact(&name, &name, more))
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
