//! `turaco models info`: what a model file or folder holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use turaco::models::qwen3_tts::{self, Qwen3TtsCheckpoint};
use turaco::models::voxtral_mini::VoxtralMiniCheckpoint;
use turaco::models::voxtral_realtime::VoxtralRealtimeCheckpoint;
use turaco::models::voxtral_realtime::config::StackConfig;
use turaco::models::whisper::WhisperCheckpoint;
use turaco::weights;

use crate::commands::Context;
use crate::engine;
use crate::exit::{Exit, Failure, Outcome};
use crate::progress::size;

/// Describe a model: from its files alone, nothing is loaded.
pub fn run(name: Option<&str>, as_json: bool, context: &Context) -> Outcome {
    let name = name.unwrap_or(context.global.recogniser());
    let path = engine::find_here(name, context)?;
    let facts = facts(&path)?;
    if as_json {
        context.printer.result_line(&facts.to_string())?;
        return Ok(Exit::Success);
    }
    let Value::Object(facts) = facts else {
        return Ok(Exit::Success);
    };
    for (key, value) in &facts {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Object(object) => object
                .iter()
                .map(|(key, value)| format!("{key} {value}"))
                .collect::<Vec<_>>()
                .join(", "),
            Value::Array(values) => values
                .iter()
                .map(|value| {
                    value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned)
                })
                .collect::<Vec<_>>()
                .join(" "),
            Value::Number(number) if key == "size" => size(number.as_u64().unwrap_or_default()),
            other => other.to_string(),
        };
        context
            .printer
            .result_line(&format!("{:<14} {text}", key.replace('_', " ")))?;
    }
    Ok(Exit::Success)
}

fn facts(path: &Path) -> Result<Value, Failure> {
    let checkpoint = weights::open(path).map_err(engine::model_failure)?;
    let mut dtypes: BTreeMap<String, usize> = BTreeMap::new();
    for (_, tensor) in checkpoint.weights.iter() {
        *dtypes.entry(tensor.dtype.to_string()).or_default() += 1;
    }
    let mut facts = json!({
        "name": path.file_name().map(|name| name.to_string_lossy()),
        "path": path.to_string_lossy(),
        "format": checkpoint.format.name(),
        "size": size_on_disk(path),
        "tensors": checkpoint.weights.len(),
        "dtypes": dtypes,
    });
    let more = if Qwen3TtsCheckpoint::is_one(&checkpoint)? {
        speech(&Qwen3TtsCheckpoint::from_checkpoint(checkpoint)?)
    } else if VoxtralRealtimeCheckpoint::is_one(&checkpoint)? {
        realtime(&VoxtralRealtimeCheckpoint::from_checkpoint(checkpoint)?)
    } else if VoxtralMiniCheckpoint::is_one(&checkpoint)? {
        chat(&VoxtralMiniCheckpoint::from_checkpoint(checkpoint)?)
    } else {
        whisper(&WhisperCheckpoint::from_checkpoint(checkpoint)?)?
    };
    if let (Some(facts), Value::Object(more)) = (facts.as_object_mut(), more) {
        facts.extend(more);
    }
    Ok(facts)
}

fn realtime(model: &VoxtralRealtimeCheckpoint) -> Value {
    let config = &model.config;
    let stack = |stack: &StackConfig| {
        json!({
            "layers": stack.n_layers,
            "width": stack.dim,
            "heads": stack.n_heads,
            "window": stack.window,
        })
    };
    let token_ms = config.token_seconds() * 1000.0;
    json!({
        "name": model.name,
        "kind": "voxtral-realtime",
        "parameters": model.weights.iter().map(|(_, tensor)| tensor.len()).sum::<usize>(),
        "encoder": stack(&config.encoder),
        "decoder": stack(&config.decoder),
        "mels": config.n_mels,
        "vocabulary": config.n_vocab,
        "token_ms": token_ms,
        "delay_ms": token_ms * config.default_delay as f64,
    })
}

fn chat(model: &VoxtralMiniCheckpoint) -> Value {
    let config = &model.config;
    let rate = f64::from(turaco::features::SAMPLE_RATE);
    json!({
        "name": model.name,
        "kind": "voxtral-mini",
        "parameters": model.weights.iter().map(|(_, tensor)| tensor.len()).sum::<usize>(),
        "encoder": {
            "layers": config.encoder.n_layers,
            "width": config.encoder.n_state,
            "heads": config.encoder.n_heads,
        },
        "decoder": {
            "layers": config.decoder.n_layers,
            "width": config.decoder.dim,
            "heads": config.decoder.n_heads,
            "key_heads": config.decoder.n_kv_heads,
        },
        "mels": config.encoder.n_mels,
        "vocabulary": config.n_vocab,
        "positions": config.max_positions,
        "chunk_seconds": config.samples_per_chunk() as f64 / rate,
        "token_ms": 1000.0 * config.samples_per_token() as f64 / rate,
        "prompts": model.tokenizer.version().map(|version| format!("v{version}")),
    })
}

fn speech(model: &Qwen3TtsCheckpoint) -> Value {
    let config = &model.config;
    let stack = |stack: &qwen3_tts::config::StackConfig| {
        json!({
            "layers": stack.n_layers,
            "width": stack.dim,
            "heads": stack.n_heads,
        })
    };
    let voices: Vec<&str> = (config.speakers.iter())
        .map(|speaker| speaker.name.as_str())
        .collect();
    json!({
        "name": model.name,
        "kind": "qwen3-tts",
        "variant": config.kind.name(),
        "parameters": model.weights.iter().map(|(_, tensor)| tensor.len()).sum::<usize>(),
        "talker": stack(&config.talker),
        "code_predictor": stack(&config.code_predictor),
        "codes": config.n_codes,
        "vocabulary": config.text_vocab,
        "languages": config.language_names().collect::<Vec<_>>(),
        "voices": voices,
        "instructions": config.takes_instructions(),
        "codec": model.codec_path().is_dir(),
    })
}

fn whisper(whisper: &WhisperCheckpoint) -> Result<Value, Failure> {
    let config = &whisper.config;
    let tokenizer = match &whisper.vocab {
        Some(source) => source.tokenizer(&whisper.path, config.n_vocab)?,
        None => turaco::tokenizer::WhisperTokenizer::bundled(&whisper.path, config.n_vocab)?,
    };
    let languages: Vec<&str> = if tokenizer.is_multilingual() {
        let known = tokenizer.languages().iter();
        known.map(|(code, _)| code.as_str()).collect()
    } else {
        vec!["en"]
    };
    Ok(json!({
        "name": whisper.name,
        "kind": "whisper",
        // Of the model: files may hold the token embedding twice, and numbers that belong to their format.
        "parameters": whisper.weights.iter().map(|(_, tensor)| tensor.len()).sum::<usize>(),
        "multilingual": tokenizer.is_multilingual(),
        "encoder": {
            "layers": config.n_audio_layers,
            "width": config.n_audio_state,
            "heads": config.n_audio_heads,
            "positions": config.n_audio_ctx,
            "mels": config.n_mels,
        },
        "decoder": {
            "layers": config.n_text_layers,
            "width": config.n_text_state,
            "heads": config.n_text_heads,
            "positions": config.n_text_ctx,
        },
        "vocabulary": config.n_vocab,
        "vocabulary_source": if whisper.vocab.is_some() { "model files" } else { "built in" },
        "languages": languages,
        "notes": whisper.notes,
    }))
}

/// Bytes of a file, or of the files of a folder (through links, as the hub cache has them).
fn size_on_disk(path: &Path) -> u64 {
    match fs::read_dir(path) {
        Err(_) => fs::metadata(path).map_or(0, |metadata| metadata.len()),
        Ok(entries) => entries
            .filter_map(Result::ok)
            .map(|entry| size_on_disk(&entry.path()))
            .sum(),
    }
}
