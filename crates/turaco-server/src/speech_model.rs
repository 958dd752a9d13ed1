//! Which model speaks where a request names none.

use turaco::engine::{KnownModel, ModelKind};
use turaco::models::qwen3_tts::{Qwen3TtsConfig, TtsKind};
use turaco::weights::Sidecars;

use crate::app::App;

/// The model that a request means: the one that it names, else the default, or another of this server that is of the `wanted` kind
/// where the default is not. Those that are loaded go first.
pub fn model_for(app: &App, named: Option<&str>, wanted: Option<TtsKind>) -> String {
    let model = app.synthesizer_name(named);
    let is_named = named.is_some_and(|named| model == named.trim());
    let Some(wanted) = wanted.filter(|_| !is_named) else {
        return model;
    };
    let is_wanted = |name: &str| kind_of(app, name) == Some(wanted);
    if is_wanted(&model) {
        return model;
    }
    let loaded = app.engine().loaded().into_iter();
    let mut loaded = loaded.filter(|facts| facts.kind == ModelKind::Synthesizer);
    if let Some(facts) = loaded.find(|facts| is_wanted(&facts.id)) {
        return facts.id;
    }
    let known = app.engine().catalog().list().unwrap_or_default();
    let mut known = (known.into_iter()).filter(|known| known.kind == ModelKind::Synthesizer);
    known
        .find(|known| config_of(known).is_some_and(|config| config.kind == wanted))
        .map_or(model, |known| known.id)
}

/// What a model that is here was trained for.
pub fn kind_of(app: &App, model: &str) -> Option<TtsKind> {
    settings_of(app, model).map(|config| config.kind)
}

/// The settings of a model that is here, if it speaks.
pub fn settings_of(app: &App, model: &str) -> Option<Qwen3TtsConfig> {
    config_of(&app.engine().catalog().find(model).ok()?)
}

fn config_of(known: &KnownModel) -> Option<Qwen3TtsConfig> {
    let folder = match known.path.is_dir() {
        true => known.path.as_path(),
        false => known.path.parent().unwrap_or(&known.path),
    };
    Qwen3TtsConfig::read(&Sidecars::new(folder)).ok().flatten()
}
