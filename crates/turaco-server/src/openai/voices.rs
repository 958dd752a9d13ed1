//! `/v1/audio/voices`, and where speech is in a recording.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use turaco::asr::Task;
use turaco::asr::vad::speech_timestamps;
use turaco::engine::{KnownModel, ModelKind, Urgency};
use turaco::models::qwen3_tts::{Qwen3TtsConfig, TtsKind};
use turaco::tts::VoiceStore;
use turaco::weights::Sidecars;

use crate::app::{App, blocking};
use crate::config::LogLevel;
use crate::error::ApiError;
use crate::openai::options::transcribe_options;
use crate::openai::speech_request::check_length;
use crate::reference_text;
use crate::speech_model::model_for;
use crate::upload::Form;

/// `GET /v1/audio/voices`.
pub async fn list(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    blocking(&app, |app, _| {
        let mut voices = Vec::new();
        for model in app.engine().catalog().list()? {
            if model.kind == ModelKind::Synthesizer {
                match presets(&model) {
                    Ok(presets) => voices.extend(presets),
                    // One broken folder is no reason to hide the voices of the others.
                    Err(error) => {
                        let line = format!("the voices of {} are left out: {error}", model.id);
                        app.log(LogLevel::Warning, &line);
                    }
                }
            }
        }
        if let Some(store) = &app.config().voices {
            voices.extend(store.names()?.iter().map(|name| saved(name)));
        }
        Ok(Json(json!({"voices": voices})))
    })
    .await
}

/// `POST /v1/audio/voices`: save the voice of a recording.
pub async fn create(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (place, request) = app.admit(request).await?;
    let form = Form::receive_at(&app, request, None).await?;
    blocking(&app, move |app, control| {
        let _place = place;
        let store = store(app)?;
        let name = form.text("name").map(str::trim);
        let name = name.ok_or_else(|| ApiError::missing("name"))?;
        store.check_new(name)?;
        let audio = form
            .audio
            .as_ref()
            .ok_or_else(|| ApiError::missing("file"))?;
        let given = form.text("text").or(form.text("ref_text"));
        check_length("text", given.unwrap_or_default(), app.config().max_text)?;
        let model = model_for(app, form.text("model"), Some(TtsKind::Base));
        let given = given.map(str::trim).filter(|text| !text.is_empty());
        let only_sound = form.text("x_vector_only_mode").map(str::trim);
        let text = match (given, only_sound) {
            (_, Some("true" | "True" | "1")) => None,
            (Some(text), _) => Some(text.to_owned()),
            (None, _) => {
                reference_text::heard((app, control), &model, audio, form.text("language"))?
            }
        };
        let (lease, synthesizer) = app.engine().synthesizer(&model, control)?;
        let mut job = lease.job(Urgency::Normal, control)?;
        let turn = job.turn(control)?;
        let voice = synthesizer
            .clone_voice(audio, text.as_deref(), control)
            .map_err(|error| match error {
                turaco::Error::InvalidOption { message, .. } => ApiError::invalid("file", message),
                other => other.into(),
            })?;
        drop(turn);
        store.save(name, &voice)?;
        let mut answer = saved(name);
        // What was heard is to be read: another text makes a better voice where it is wrong.
        answer["text"] = text.into();
        Ok((StatusCode::CREATED, Json(answer)).into_response())
    })
    .await
}

/// `DELETE /v1/audio/voices/{id}`.
pub async fn remove(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    blocking(&app, move |app, _| match store(app)?.remove(&name) {
        Ok(true) => Ok(Json(json!({"id": name, "deleted": true}))),
        Ok(false) | Err(turaco::Error::InvalidOption { .. }) => Err(ApiError::no_voice(&name)),
        Err(error) => Err(error.into()),
    })
    .await
}

/// `POST /v1/audio/speech/timestamps`: spans of speech in milliseconds.
pub async fn timestamps(State(app): State<App>, request: Request) -> Result<Json<Value>, ApiError> {
    let (place, request) = app.admit(request).await?;
    let form = Form::receive(&app, request).await?;
    blocking(&app, move |_, control| {
        let _place = place;
        let options = transcribe_options(&form, Task::Transcribe)?.vad_parameters;
        let audio = form
            .audio
            .as_ref()
            .ok_or_else(|| ApiError::missing("file"))?;
        let spans = speech_timestamps(audio, &options, control)?;
        let ms = |sample: usize| sample as u64 * 1000 / u64::from(audio.sample_rate());
        let spans = spans.iter();
        Ok(Json(
            spans
                .map(|span| json!({"start": ms(span.start_sample), "end": ms(span.end_sample)}))
                .collect(),
        ))
    })
    .await
}

fn store(app: &App) -> Result<&VoiceStore, ApiError> {
    let store = app.config().voices.as_ref();
    store.ok_or_else(|| ApiError::not_found("this server has no folder for voices"))
}

fn saved(name: &str) -> Value {
    json!({"id": name, "name": name, "language": null, "model": null, "kind": "saved"})
}

/// The voices that a model knows by name.
fn presets(model: &KnownModel) -> Result<Vec<Value>, ApiError> {
    let folder = match model.path.is_dir() {
        true => model.path.as_path(),
        false => model.path.parent().unwrap_or(&model.path),
    };
    let config = Qwen3TtsConfig::read(&Sidecars::new(folder))?;
    let speakers = config.map(|config| config.speakers).unwrap_or_default();
    let voice = |speaker: &turaco::models::qwen3_tts::Speaker| {
        json!({
            "id": speaker.name,
            "name": speaker.name,
            "language": speaker.dialect,
            "model": model.shown(),
            "kind": "preset",
        })
    };
    Ok(speakers.iter().map(voice).collect())
}
