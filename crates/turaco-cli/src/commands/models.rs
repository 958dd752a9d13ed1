//! `turaco models`.

mod info;

use std::path::Path;

use serde_json::json;
use turaco::cache::{ALIASES, CachedModel};
use turaco::hub::Hub;
use turaco::models::qwen3_tts::{self, Qwen3TtsCheckpoint};
use turaco::models::voxtral_mini::{self, VoxtralMiniCheckpoint};
use turaco::models::voxtral_realtime::{self, VoxtralRealtimeCheckpoint};
use turaco::models::whisper::{self, WhisperCheckpoint};
use turaco::weights::new_folder::NewFolder;
use turaco::weights::{self, DType, WeightType};
use turaco::{ComputeType, Control, Error};

use super::Context;
use crate::args::{ModelsArgs, ModelsCommand, PlainFormat, RandomModel, WeightFormat};
use crate::engine;
use crate::exit::{Exit, Outcome, Stop};
use crate::printer::Level;
use crate::progress::{Bar, Unit, size};
use crate::signals::Unfinished;

/// Do what the subcommand says.
pub fn run(args: &ModelsArgs, context: &Context) -> Outcome {
    match &args.command {
        ModelsCommand::List { json, cached } => list(*json, *cached, context),
        ModelsCommand::Pull { models } => pull(models, context),
        ModelsCommand::Info { name, json } => info::run(name.as_deref(), *json, context),
        ModelsCommand::Path { name } => path(name.as_deref(), context),
        ModelsCommand::Convert(args) => {
            convert(&args.input, &args.output, plain_type(args.dtype), context)
        }
        ModelsCommand::Quantize {
            input,
            output,
            weight_type,
        } => {
            let format = weight_type.unwrap_or(match context.global.compute_type {
                ComputeType::F32 => WeightFormat::F32,
                ComputeType::F16 => WeightFormat::F16,
                ComputeType::Bf16 => WeightFormat::Bf16,
                ComputeType::Q4 => WeightFormat::Q4,
                _ => WeightFormat::Q8,
            });
            convert(input, output, packed_type(format), context)
        }
        ModelsCommand::Random { name, output, seed } => random(*name, output, *seed, context),
        ModelsCommand::Remove { models } => remove(models, context),
    }
}

/// A line of the list: a model in the cache, or a known name without one.
struct Row {
    name: String,
    model: Option<CachedModel>,
    source: Option<&'static str>,
}

fn list(as_json: bool, only_cached: bool, context: &Context) -> Outcome {
    let cache = engine::cache(&context.global)?;
    let mut cached = cache.list()?;
    let mut rows = Vec::new();
    for alias in ALIASES {
        let name = alias.names.first().copied().unwrap_or_default();
        let mut found = false;
        while let Some(index) = cached.iter().position(|model| model.alias == Some(name)) {
            rows.push(Row {
                name: name.into(),
                model: Some(cached.remove(index)),
                source: alias.sources.first().copied(),
            });
            found = true;
        }
        if !found {
            rows.push(Row {
                name: name.into(),
                model: None,
                source: alias.sources.first().copied(),
            });
        }
    }
    rows.extend(cached.into_iter().map(|model| Row {
        name: model.id.clone(),
        model: Some(model),
        source: None,
    }));
    if only_cached {
        rows.retain(|row| row.model.as_ref().is_some_and(CachedModel::is_complete));
    }
    if as_json {
        let rows: Vec<_> = rows.iter().map(row_json).collect();
        context
            .printer
            .result_line(&serde_json::Value::from(rows).to_string())?;
        return Ok(Exit::Success);
    }
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in &rows {
        let state = match &row.model {
            None => "-".to_string(),
            Some(model) if model.is_complete() => {
                let format = model.format.map_or("?", |format| format.name());
                format!("{:>8}  {format:<12} {}", size(model.size), model.id)
            }
            Some(model) => format!(
                "{:>8}  incomplete   {} lacks {}",
                size(model.size),
                model.id,
                model.missing.join(", ")
            ),
        };
        context
            .printer
            .result_line(&format!("{:<width$}  {state}", row.name))?;
    }
    Ok(Exit::Success)
}

fn row_json(row: &Row) -> serde_json::Value {
    let model = row.model.as_ref();
    json!({
        "name": row.name,
        "source": row.source,
        "cached": model.is_some_and(CachedModel::is_complete),
        "id": model.map(|model| &model.id),
        "revision": model.and_then(|model| model.revision.as_ref()),
        "path": model.map(|model| model.path.to_string_lossy()),
        "size": model.map(|model| model.size),
        "format": model.and_then(|model| model.format).map(|format| format.name()),
        "missing": model.map(|model| &model.missing),
    })
}

fn path(name: Option<&str>, context: &Context) -> Outcome {
    let name = name.unwrap_or(context.global.recogniser());
    let path = engine::find_here(name, context)?;
    context.printer.result_line(&path.display().to_string())?;
    Ok(Exit::Success)
}

fn pull(names: &[String], context: &Context) -> Outcome {
    let cache = engine::cache(&context.global)?;
    if context.global.offline {
        return Err(Stop::from(Error::Offline {
            model: names.first().cloned().unwrap_or_default(),
        }));
    }
    let hub = Hub::from_env()?;
    let mut exit = Exit::Success;
    for name in names {
        let bar = Bar::new(&context.printer, name, Unit::Bytes);
        let control = bar.watch(&context.control);
        let pulled = hub.pull_model(&cache, name, &control, &|message| {
            context.printer.note(message);
        });
        bar.finish();
        match pulled {
            Ok(path) => context.printer.result_line(&path.display().to_string())?,
            Err(error) => {
                let failure = engine::download_failure(error);
                // One that is missing does not keep the others from being fetched.
                if names.len() == 1 || failure.exit == Exit::Interrupted {
                    return Err(failure.into());
                }
                context.printer.error(&failure);
                exit = failure.exit;
            }
        }
    }
    Ok(exit)
}

fn remove(names: &[String], context: &Context) -> Outcome {
    let cache = engine::cache(&context.global)?;
    let mut failures = 0;
    for name in names {
        match cache.remove(name) {
            Ok(removed) => {
                context
                    .printer
                    .note(&format!("removed {} ({})", removed.id, size(removed.bytes)))
            }
            Err(error) if names.len() == 1 => return Err(Stop::from(error)),
            Err(error) => {
                failures += 1;
                context.printer.error(&error.into());
            }
        }
    }
    Ok(if failures == 0 {
        Exit::Success
    } else {
        Exit::Model
    })
}

/// Numbers that every program reads.
fn plain_type(format: PlainFormat) -> DType {
    match format {
        PlainFormat::F32 => DType::F32,
        PlainFormat::F16 => DType::F16,
        PlainFormat::Bf16 => DType::Bf16,
    }
}

/// Matrices as the kernels read them.
fn packed_type(format: WeightFormat) -> DType {
    DType::Panels(match format {
        WeightFormat::F32 => WeightType::F32,
        WeightFormat::F16 => WeightType::F16,
        WeightFormat::Bf16 => WeightType::Bf16,
        WeightFormat::Q8 => WeightType::Q8,
        WeightFormat::Q4 => WeightType::Q4,
    })
}

/// Fills a folder.
type WriteInto = Box<dyn FnOnce(NewFolder, &Control) -> turaco::Result<()>>;

/// Write a copy as a Hugging Face folder with numbers of another type.
fn convert(input: &str, output: &Path, dtype: DType, context: &Context) -> Outcome {
    let path = engine::find(input, context)?;
    let opened = weights::open(&path).map_err(engine::model_failure)?;
    let is_realtime = VoxtralRealtimeCheckpoint::is_one(&opened).map_err(engine::model_failure)?;
    let is_chat = VoxtralMiniCheckpoint::is_one(&opened).map_err(engine::model_failure)?;
    let is_tts = Qwen3TtsCheckpoint::is_one(&opened).map_err(engine::model_failure)?;
    let write: WriteInto = if is_tts {
        let checkpoint =
            Qwen3TtsCheckpoint::from_checkpoint(opened).map_err(engine::model_failure)?;
        Box::new(move |folder, control| {
            qwen3_tts::convert::write_hugging_face(&checkpoint, folder, dtype, control)
        })
    } else if is_realtime {
        let checkpoint =
            VoxtralRealtimeCheckpoint::from_checkpoint(opened).map_err(engine::model_failure)?;
        Box::new(move |folder, control| {
            voxtral_realtime::convert::write_hugging_face(&checkpoint, folder, dtype, control)
        })
    } else if is_chat {
        let checkpoint =
            VoxtralMiniCheckpoint::from_checkpoint(opened).map_err(engine::model_failure)?;
        Box::new(move |folder, control| {
            voxtral_mini::convert::write_hugging_face(&checkpoint, folder, dtype, control)
        })
    } else {
        let checkpoint =
            WhisperCheckpoint::from_checkpoint(opened).map_err(engine::model_failure)?;
        for note in &checkpoint.notes {
            context.printer.message(Level::Verbose, note);
        }
        Box::new(move |folder, control| {
            whisper::convert::write_hugging_face(&checkpoint, folder, dtype, control)
        })
    };
    new_folder(output, write, context)
}

/// Writes random weights into a folder.
type WriteRandom = Box<dyn FnOnce(&Path, &Control) -> turaco::Result<()>>;

/// Write a model with random weights.
fn random(name: RandomModel, output: &Path, seed: u64, context: &Context) -> Outcome {
    use qwen3_tts::TtsKind::{Base, CustomVoice, VoiceDesign};
    use qwen3_tts::random::Size::{Large, Small};
    use voxtral_mini::random as mini;
    use voxtral_realtime::random as realtime;
    let tts = |model: qwen3_tts::Qwen3TtsConfig| -> WriteRandom {
        Box::new(move |folder, control| {
            qwen3_tts::random::write_random(&model, folder, seed, control)
        })
    };
    let realtime = |config: voxtral_realtime::VoxtralRealtimeConfig| -> WriteRandom {
        Box::new(move |folder, control| realtime::write_random(&config, folder, seed, control))
    };
    let mini = |config: voxtral_mini::VoxtralMiniConfig| -> WriteRandom {
        Box::new(move |folder, control| mini::write_random(&config, folder, seed, control))
    };
    let whisper = |config: whisper::WhisperConfig| -> WriteRandom {
        Box::new(move |folder, control| {
            whisper::random::write_random(&config, folder, seed, control)
        })
    };
    let published = qwen3_tts::random::published;
    let content = match name {
        RandomModel::VoxtralRealtime => realtime(realtime::published()),
        RandomModel::VoxtralRealtimeTiny => realtime(realtime::tiny()),
        RandomModel::VoxtralMini => mini(mini::published_mini()),
        RandomModel::VoxtralSmall => mini(mini::published_small()),
        RandomModel::VoxtralMiniTiny => mini(mini::tiny()),
        RandomModel::Qwen3Tts06bBase => tts(published(Small, Base)),
        RandomModel::Qwen3Tts06bCustomVoice => tts(published(Small, CustomVoice)),
        RandomModel::Qwen3Tts17bBase => tts(published(Large, Base)),
        RandomModel::Qwen3Tts17bCustomVoice => tts(published(Large, CustomVoice)),
        RandomModel::Qwen3Tts17bVoiceDesign => tts(published(Large, VoiceDesign)),
        RandomModel::Qwen3TtsTiny => tts(qwen3_tts::random::tiny()),
        RandomModel::WhisperLargeV3Turbo => whisper(whisper::random::published_turbo()),
    };
    let write = |folder: NewFolder, control: &Control| {
        content(folder.hidden(), control)?;
        folder.publish()
    };
    new_folder(output, write, context)
}

/// A folder that appears when it is complete, with a bar meanwhile.
fn new_folder(
    output: &Path,
    write: impl FnOnce(NewFolder, &Control) -> turaco::Result<()>,
    context: &Context,
) -> Outcome {
    let folder = NewFolder::create(output)?;
    let _unfinished = Unfinished::new(folder.hidden());
    let bar = Bar::new(&context.printer, &output.display().to_string(), Unit::Bytes);
    write(folder, &bar.watch(&context.control))?;
    bar.finish();
    context.printer.result_line(&output.display().to_string())?;
    Ok(Exit::Success)
}
