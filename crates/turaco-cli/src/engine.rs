//! Finding, fetching and loading models.

use std::path::PathBuf;

use turaco::cache::{Lookup, ModelCache, ModelName};
use turaco::hub::Hub;
use turaco::models::qwen3_tts::SPEAKING;
use turaco::{Error, LoadOptions, Recognizer, Synthesizer};

use crate::args::GlobalArgs;
use crate::commands::Context;
use crate::env;
use crate::exit::{Exit, Failure};
use crate::printer::Level;
use crate::progress::{Bar, Unit};

/// What the options say about loading.
pub fn load_options(global: &GlobalArgs) -> LoadOptions {
    LoadOptions::new()
        .device(&global.device)
        .compute_type(global.compute_type)
        .threads(global.threads)
}

/// Where models are looked for.
pub fn cache(global: &GlobalArgs) -> Result<ModelCache, Failure> {
    let cache = ModelCache::from_env()?;
    let Some(folder) = &global.model_dir else {
        return Ok(cache);
    };
    let others = std::env::var_os(env::TURACO_MODEL_PATH).unwrap_or_default();
    let others: Vec<PathBuf> = std::env::split_paths(&others)
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    Ok(cache.with_search_path(std::iter::once(folder.clone()).chain(others)))
}

/// The files of a model that is here.
pub fn find_here(name: &str, context: &Context) -> Result<PathBuf, Failure> {
    let cache = cache(&context.global)?;
    match cache.find(name)? {
        Lookup::Found(found) => Ok(found.path),
        Lookup::Missing(missing) => Err(Failure::from(missing.into_error(cache.root()))
            .hint(format!("`turaco models pull {name}` downloads it"))),
    }
}

/// The files of a model, downloaded if they are not here.
pub fn find(name: &str, context: &Context) -> Result<PathBuf, Failure> {
    let cache = cache(&context.global)?;
    // Neither a bar nor a client for what is here already.
    if let Lookup::Found(found) = cache.find(name)? {
        return Ok(found.path);
    }
    let bar = Bar::new(&context.printer, name, Unit::Bytes);
    let control = bar.watch(&context.control);
    let offline = context.global.offline;
    let path = Hub::from_env()?.ensure(&cache, name, offline, &control, &|message| {
        context.printer.note(message);
    });
    bar.finish();
    path.map_err(download_failure)
}

/// A download that the disk stops is a failed download.
pub fn download_failure(error: Error) -> Failure {
    match &error {
        Error::Io { .. } => Failure::from(error).exit(Exit::Network),
        _ => error.into(),
    }
}

/// Model files that cannot be read are a model that cannot be used.
pub fn model_failure(error: Error) -> Failure {
    match &error {
        Error::Io { .. } => Failure::from(error).exit(Exit::Model),
        _ => error.into(),
    }
}

/// Load the model of the command line, downloaded if it is not here.
pub fn load(options: &LoadOptions, context: &Context) -> Result<Recognizer, Failure> {
    load_named(context.global.recogniser(), options, context)
}

/// Load a model that writes down what is said, downloaded if it is not here.
pub fn load_named(
    name: &str,
    options: &LoadOptions,
    context: &Context,
) -> Result<Recognizer, Failure> {
    let printer = &context.printer;
    let path = find(name, context)?;
    let bar = Bar::new(printer, name, Unit::Layers);
    let control = bar.watch(&context.control);
    let recognizer = Recognizer::load_path(&path, options, &control).map_err(model_failure)?;
    bar.finish();
    for warning in recognizer.warnings() {
        printer.warning(warning);
    }
    for note in recognizer.notes() {
        printer.message(Level::Verbose, note);
    }
    printer.message(
        Level::Verbose,
        &format!(
            "model {} ({:?}) on {}, loaded in {:.2} s",
            recognizer.model_name(),
            recognizer.weight_type(),
            recognizer.device_description(),
            recognizer.load_seconds()
        ),
    );
    Ok(recognizer)
}

/// A model that is known by its name to do something else than to speak is not worth a download; one that is here tells by its
/// files.
///
/// # Errors
/// It is one; the failure names models that speak.
pub fn check_speaks(name: &str, context: &Context) -> Result<(), Failure> {
    match ModelName::parse(name) {
        Ok(ModelName::Alias(alias)) if !alias.speaks() && find_here(name, context).is_err() => {
            Err(Error::UnsupportedTask {
                model: name.into(),
                task: "speak".into(),
                message: SPEAKING.into(),
            }
            .into())
        }
        _ => Ok(()),
    }
}

/// Load a model that speaks, downloaded if it is not here.
pub fn load_synthesizer(name: &str, context: &Context) -> Result<Synthesizer, Failure> {
    let printer = &context.printer;
    check_speaks(name, context)?;
    let path = find(name, context)?;
    let bar = Bar::new(printer, name, Unit::Layers);
    let control = bar.watch(&context.control);
    let options = load_options(&context.global);
    let synthesizer = Synthesizer::load_path(&path, &options, &control).map_err(model_failure)?;
    bar.finish();
    for warning in synthesizer.warnings() {
        printer.warning(warning);
    }
    printer.message(
        Level::Verbose,
        &format!(
            "model {} ({:?}) on {}, loaded in {:.2} s",
            synthesizer.model_name(),
            synthesizer.weight_type(),
            synthesizer.device_description(),
            synthesizer.load_seconds()
        ),
    );
    Ok(synthesizer)
}
