//! Fields of a form as options of recognition.

use serde_json::{Map, Value};
use turaco::asr::{Task, TranscribeOptions};

use crate::error::ApiError;
use crate::plain_json;
use crate::upload::Form;

/// The prefix of single fields of `vad_parameters`.
const VAD: &str = "vad_";

/// Other names of options: what OpenAI and whisper.cpp call them.
const ALIASES: &[(&str, &str)] = &[
    ("prompt", "initial_prompt"),
    ("log_prob_threshold", "logprob_threshold"),
    ("temperature_inc", "temperature_increment_on_fallback"),
    ("vad", "vad_filter"),
];

/// Fields that are read elsewhere, or are read here by their own rules.
const OTHERS: &[&str] = &["temperature", "task", "realtime", "languages"];

/// What a form says about recognition.
///
/// # Errors
/// A field whose value cannot be used.
pub fn transcribe_options(form: &Form, task: Task) -> Result<TranscribeOptions, ApiError> {
    let default = serde_json::to_value(TranscribeOptions::default());
    let Ok(Value::Object(mut options)) = default else {
        return Err(ApiError::internal("the options are no object"));
    };
    for (given, text) in &form.fields {
        let alias = ALIASES.iter().find(|(alias, _)| alias == given);
        let name = alias.map_or(given.as_str(), |(_, name)| name);
        if OTHERS.contains(&name) {
            continue;
        }
        if name == "vad_parameters" {
            let value: Map<String, Value> = serde_json::from_str(text).map_err(|_| {
                ApiError::invalid(given, "expected a JSON object such as {\"threshold\": 0.5}")
            })?;
            for (key, value) in value {
                set(&mut options, &["vad_parameters", &key], vec![value], given)?;
            }
            continue;
        }
        let values = possible_values(text);
        let nested = |table: &str, key: &str| options[table].get(key).is_some();
        if options.contains_key(name) {
            set(&mut options, &[name], values, given)?;
        } else if let Some(key) = name
            .strip_prefix(VAD)
            .filter(|key| nested("vad_parameters", key))
        {
            set(&mut options, &["vad_parameters", key], values, given)?;
        } else if nested("realtime", name) {
            set(&mut options, &["realtime", name], values, given)?;
        }
    }
    let mut options = read(options).map_err(ApiError::internal)?;
    options.task = task;
    options.languages.extend(lists(form, "languages"));
    let keywords = lists(form, "keywords");
    if !keywords.is_empty() {
        options.hotwords = Some(keywords.join(", "));
    }
    // What cannot be nothing is given as nothing by clients that send all they know.
    for text in [
        &mut options.language,
        &mut options.initial_prompt,
        &mut options.prefix,
        &mut options.hotwords,
    ] {
        text.take_if(|text| text.trim().is_empty());
    }
    temperatures(form, &mut options)?;
    for granularity in lists(form, "timestamp_granularities") {
        match granularity.as_str() {
            "word" => options.word_timestamps = true,
            "segment" => {}
            other => {
                let message = format!("`{other}` is none of segment, word");
                return Err(ApiError::invalid("timestamp_granularities", message));
            }
        }
    }
    chunking(form, &mut options)?;
    Ok(options)
}

/// What a text may stand for, most likely first: nothing where it says so, itself, or a value of JSON in Python's spelling too.
fn possible_values(text: &str) -> Vec<Value> {
    let trimmed = text.trim();
    let mut values = vec![Value::String(text.to_owned())];
    let json = match trimmed.to_ascii_lowercase().as_str() {
        "" | "none" | "null" => {
            values.insert(0, Value::Null);
            "null"
        }
        "true" | "yes" | "on" => "true",
        "false" | "no" | "off" => "false",
        "1" => {
            values.push(Value::Bool(true));
            "1"
        }
        "0" => {
            values.push(Value::Bool(false));
            "0"
        }
        _ => trimmed,
    };
    if let Ok(value) = serde_json::from_str(json) {
        values.push(value);
    }
    // `0,5.5,9` is a list.
    if let Ok(value) = serde_json::from_str(&format!("[{trimmed}]")) {
        values.push(value);
    }
    values
}

/// Put the first of `values` that the options take at `path`.
fn set(
    options: &mut Map<String, Value>,
    path: &[&str],
    values: Vec<Value>,
    given: &str,
) -> Result<(), ApiError> {
    let mut reason = String::new();
    for value in values {
        let mut changed = options.clone();
        match path {
            [table, key] => changed[*table][*key] = value,
            _ => changed[path[0]] = value,
        }
        match read(changed.clone()) {
            Ok(_) => {
                *options = changed;
                return Ok(());
            }
            Err(error) => reason = error,
        }
    }
    let message = format!("`{given}` {}", plain_json::in_words(&reason));
    Err(ApiError::invalid(given, message))
}

fn read(options: Map<String, Value>) -> Result<TranscribeOptions, String> {
    serde_json::from_value(Value::Object(options)).map_err(|error| error.to_string())
}

/// Repeated fields, lists of JSON and words between commas.
pub fn lists(form: &Form, name: &str) -> Vec<String> {
    let mut all = Vec::new();
    for text in form.texts(name) {
        match serde_json::from_str::<Vec<String>>(text) {
            Ok(list) => all.extend(list),
            Err(_) => all.extend(text.split(',').map(str::to_owned)),
        }
    }
    all.iter()
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        .collect()
}

/// One temperature starts the list of fallbacks; 0 alone stands for the whole default list.
fn temperatures(form: &Form, options: &mut TranscribeOptions) -> Result<(), ApiError> {
    let given = lists(form, "temperature");
    let step = form
        .text("temperature_increment_on_fallback")
        .or(form.text("temperature_inc"));
    if given.is_empty() && step.is_none() {
        return Ok(());
    }
    let number = |text: &str| {
        let number = text.trim().parse::<f64>();
        number
            .ok()
            .filter(|number| number.is_finite() && *number >= 0.0)
    };
    let wrong = |param: &str| ApiError::invalid(param, "expected numbers from 0 upwards");
    let given: Option<Vec<f64>> = given.iter().map(|text| number(text)).collect();
    let given = given.ok_or_else(|| wrong("temperature"))?;
    if given.len() > 1 {
        options.temperature = given;
        return Ok(());
    }
    let first = given.first().copied().unwrap_or(0.0);
    let step = match step.map(|text| text.trim().to_ascii_lowercase()).as_deref() {
        None => 0.2,
        Some("none" | "null" | "") => 0.0,
        Some(text) => number(text).ok_or_else(|| wrong("temperature_increment_on_fallback"))?,
    };
    // whisper.cpp switches the fallback off with a step of 0.
    let count = match step > 0.0 {
        true => (((1.0 - first) / step).floor() + 1.0).clamp(1.0, 100.0) as u32,
        false => 1,
    };
    let temperature = |index: u32| ((first + f64::from(index) * step) * 1e9).round() / 1e9;
    options.temperature = (0..count).map(temperature).collect();
    Ok(())
}

/// OpenAI's way to leave silence out.
fn chunking(form: &Form, options: &mut TranscribeOptions) -> Result<(), ApiError> {
    let Some(text) = form.text("chunking_strategy").map(str::trim) else {
        return Ok(());
    };
    let wrong = |message: &str| ApiError::invalid("chunking_strategy", message);
    let strategy = match text {
        "" | "none" | "null" => return Ok(()),
        "auto" => Map::new(),
        json => serde_json::from_str(json)
            .map_err(|_| wrong("expected `auto` or {\"type\": \"server_vad\"}"))?,
    };
    if strategy
        .get("type")
        .is_some_and(|kind| kind != "server_vad")
    {
        return Err(wrong("the only type is server_vad"));
    }
    let number = |key: &str, default: f64| match strategy.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value
            .as_f64()
            .filter(|number| *number >= 0.0)
            .ok_or_else(|| wrong(&format!("`{key}` has to be a number from 0 upwards"))),
    };
    options.vad_filter = Some(true);
    options.vad_parameters.threshold = number("threshold", 0.5)?;
    options.vad_parameters.speech_pad_ms = number("prefix_padding_ms", 300.0)? as u32;
    let silence = number("silence_duration_ms", 200.0)? as u32;
    options.vad_parameters.min_silence_duration_ms = Some(silence);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(fields: &[(&str, &str)]) -> Result<TranscribeOptions, ApiError> {
        let fields = fields.iter();
        let form = Form {
            audio: None,
            share: crate::sound_room::SoundRoom::new(None).share(),
            fields: fields
                .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
                .collect(),
        };
        transcribe_options(&form, Task::Transcribe)
    }

    #[test]
    fn no_field_is_the_default() {
        let default = TranscribeOptions::default();
        assert_eq!(options(&[]).unwrap(), default);
        let given = [
            ("model", "x"),
            ("unknown", "1"),
            ("temperature", "0"),
            ("language", ""),
        ];
        assert_eq!(options(&given).unwrap(), default);
    }

    #[test]
    fn every_option_of_the_library_is_a_field() {
        let default = serde_json::to_value(TranscribeOptions::default()).unwrap();
        for (name, value) in default.as_object().unwrap() {
            if OTHERS.contains(&name.as_str()) || value.is_object() {
                continue;
            }
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let options = options(&[(name, &text)]);
            let read = serde_json::to_value(options.unwrap()).unwrap();
            assert_eq!(read[name], *value, "{name}");
        }
    }

    #[test]
    fn texts_become_what_the_option_is() {
        let options = options(&[
            ("prompt", "null and 1, 2"),
            ("beam_size", "1"),
            ("word_timestamps", "True"),
            ("vad_filter", "1"),
            ("no_speech_threshold", "none"),
            ("clip_timestamps", "0,5.5"),
            ("vad_threshold", "0.25"),
            ("vad_parameters", r#"{"speech_pad_ms": 7}"#),
            ("delay_ms", "240"),
            ("keywords", "Turaco"),
            ("keywords", "Voxtral"),
            ("languages", "de,fr"),
            ("temperature", "0.6"),
        ])
        .unwrap();
        assert_eq!(options.initial_prompt.as_deref(), Some("null and 1, 2"));
        assert_eq!((options.beam_size, options.word_timestamps), (1, true));
        assert_eq!(
            (options.vad_filter, options.no_speech_threshold),
            (Some(true), None)
        );
        assert_eq!(options.clip_timestamps, [0.0, 5.5]);
        assert_eq!(options.vad_parameters.threshold, 0.25);
        assert_eq!(options.vad_parameters.speech_pad_ms, 7);
        assert_eq!(options.realtime.delay_ms, Some(240));
        assert_eq!(options.hotwords.as_deref(), Some("Turaco, Voxtral"));
        assert_eq!(options.languages, ["de", "fr"]);
        assert_eq!(options.temperature, [0.6, 0.8, 1.0]);
    }

    #[test]
    fn chunking_is_speech_detection() {
        let strategy = r#"{"type":"server_vad","silence_duration_ms":450}"#;
        let options = options(&[("chunking_strategy", strategy)]).unwrap();
        assert_eq!(options.vad_filter, Some(true));
        assert_eq!(options.vad_parameters.speech_pad_ms, 300);
        assert_eq!(options.vad_parameters.min_silence_duration_ms, Some(450));
    }

    #[test]
    fn wrong_values_name_their_field() {
        for (name, text) in [
            ("beam_size", "many"),
            ("beam_size", "-1"),
            ("temperature", "warm"),
            ("timestamp_granularities", "syllable"),
            ("chunking_strategy", "sometimes"),
            ("vad_parameters", "loud"),
            ("vad_threshold", "high"),
        ] {
            let error = options(&[(name, text)]).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(name), "{error}");
            assert_eq!(error.code, "invalid_value");
        }
    }
}
