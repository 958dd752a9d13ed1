//! What is said in the recording of a voice, where nobody says it: a recogniser of this server is asked.

use turaco::asr::TranscribeOptions;
use turaco::cache::MULTILINGUAL;
use turaco::engine::{ModelKind, Urgency};
use turaco::models::qwen3_tts::TtsKind;
use turaco::tokenizer::language_of_tag;
use turaco::{Audio, Control};

use crate::app::App;
use crate::config::LogLevel;
use crate::error::ApiError;
use crate::recognition::recognize;
use crate::speech_model::kind_of;

/// Samples per second that recognisers work with.
const SAMPLE_RATE: u32 = 16_000;

/// What is said in a recording for `model`, a model that speaks; `None` where nobody here can tell. Then only the sound of the voice
/// is taken, which is more than a text that is wrong would leave of it.
///
/// # Errors
/// Cancellation.
pub fn heard(
    (app, control): (&App, &Control),
    model: &str,
    audio: &Audio,
    language: Option<&str>,
) -> Result<Option<String>, ApiError> {
    // The others say themselves that they speak in no voice of a recording.
    if kind_of(app, model) != Some(TtsKind::Base) {
        return Ok(None);
    }
    let language = language.and_then(language_of_tag);
    let Some(recognizer) = recogniser(app, language) else {
        return Ok(None);
    };
    let mut options = TranscribeOptions::default();
    if !is_english_only(&recognizer) {
        options.language = language.map(str::to_owned);
    }
    let work = (Urgency::Normal, control);
    let attempt = || {
        let sound = audio.clone().resampled(SAMPLE_RATE)?;
        recognize(app, &recognizer, &sound, &options, work, |_| Ok(()))
    };
    match attempt() {
        Ok(transcript) => {
            let text = transcript.text.trim();
            Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
        }
        Err(turaco::Error::Cancelled) => Err(turaco::Error::Cancelled.into()),
        Err(error) => {
            let line = format!("{recognizer} did not transcribe the recording of a voice: {error}");
            app.log(LogLevel::Warning, &line);
            Ok(None)
        }
    }
}

/// Who is asked: a model that is loaded, else the one that requests get, else one that is here. One that knows English alone is
/// asked only where the language is English.
fn recogniser(app: &App, language: Option<&str>) -> Option<String> {
    let loaded = app.engine().loaded().into_iter();
    let loaded = loaded.filter(|facts| facts.kind == ModelKind::Recognizer);
    let mut names: Vec<String> = loaded.map(|facts| facts.id).collect();
    names.push(app.recognizer_name(None));
    names.extend(MULTILINGUAL.map(str::to_owned));
    let catalog = app.engine().catalog();
    names.into_iter().find(|name| {
        catalog.find(name).is_ok_and(|known| {
            let knows_english_alone = is_english_only(&known.id) || is_english_only(&known.shown());
            known.kind == ModelKind::Recognizer && (language == Some("en") || !knows_english_alone)
        })
    })
}

fn is_english_only(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".en")
}
