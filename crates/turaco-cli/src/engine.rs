//! Finding, fetching and loading models.

use std::path::PathBuf;

use turaco::cache::{Lookup, ModelCache};
use turaco::hub;
use turaco::{ComputeType, Error, LoadOptions, Transcriber};

use crate::args::GlobalArgs;
use crate::commands::Context;
use crate::exit::{Exit, Failure};
use crate::printer::Level;
use crate::progress::{Bar, Unit};

/// What the options say about loading; wrong ones show before anything else is done.
pub fn load_options(global: &GlobalArgs) -> Result<LoadOptions, Failure> {
    let compute_type: ComputeType = global.compute_type.parse()?;
    Ok(LoadOptions::new()
        .device(&global.device)
        .compute_type(compute_type)
        .threads(global.threads))
}

/// The files of a model, downloaded if they are not here.
pub fn find(name: &str, context: &Context) -> Result<PathBuf, Failure> {
    // Without a bar for what is here already.
    if let Lookup::Found(found) = ModelCache::from_env()?.find(name)? {
        return Ok(found.path);
    }
    let bar = Bar::new(&context.printer, name, Unit::Bytes);
    let control = bar.watch(&context.control);
    let path = hub::ensure(name, context.global.offline, &control, &|message| {
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

/// Load the model of the command line, downloaded if it is not here.
pub fn load(options: &LoadOptions, context: &Context) -> Result<Transcriber, Failure> {
    let printer = &context.printer;
    let path = find(&context.global.model, context)?;
    let transcriber =
        Transcriber::load_path(&path, options, &context.control).map_err(|error| {
            match &error {
                // Model files that cannot be read are a model that cannot be used.
                Error::Io { .. } => Failure::from(error).exit(Exit::Model),
                _ => error.into(),
            }
        })?;
    for note in transcriber.notes() {
        printer.message(Level::Verbose, note);
    }
    printer.message(
        Level::Verbose,
        &format!(
            "model {} ({:?}) on {}, loaded in {:.2} s",
            transcriber.model_name(),
            transcriber.weight_type(),
            transcriber.device_description(),
            transcriber.load_seconds()
        ),
    );
    Ok(transcriber)
}
