//! JSON of requests, and what is wrong with it in words that do not need a look at this program.

use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Read the object that the body of a request is.
///
/// # Errors
/// What is no JSON object, and the first field of another kind than it has to be.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // What stands for a structure in other formats is none here.
    let first = body.trim_ascii_start().first();
    if matches!(
        first,
        Some(b'[' | b'"' | b'0'..=b'9' | b'-' | b't' | b'f' | b'n')
    ) {
        return Err(ApiError::malformed("the body has to be a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        wrong(&path, error.inner())
    })?;
    reader.end().map_err(|error| wrong(".", &error))?;
    Ok(read)
}

fn wrong(path: &str, error: &serde_json::Error) -> ApiError {
    if error.is_syntax() || error.is_eof() {
        return ApiError::malformed(format!("the body is no JSON: {error}"));
    }
    let message = without_place(&error.to_string());
    // The field that is missing is in what the path names.
    if let Some(field) = message.strip_prefix("missing field `") {
        let field = field.trim_end_matches('`');
        return ApiError::missing(&match path {
            "." => field.to_owned(),
            path => format!("{path}.{field}"),
        });
    }
    match (path, in_words(&message)) {
        (".", words) => ApiError::malformed(format!("the body {words}")),
        (path, words) => ApiError::invalid(path, format!("`{path}` {words}")),
    }
}

/// What is wrong with a value, as the end of a sentence about it.
pub fn in_words(message: &str) -> String {
    let message = without_place(message);
    let wrong = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "));
    match wrong.and_then(|wrong| wrong.rsplit_once(", expected ")) {
        Some((found, expected)) => format!("must be {}, not {}", kind(expected), value(found)),
        None => match message.strip_prefix("expected ") {
            Some(expected) => format!("must be {expected}"),
            None => format!("cannot be used: {message}"),
        },
    }
}

/// Lines and columns are those of the program that wrote the JSON.
fn without_place(message: &str) -> String {
    let end = message.rfind(" at line ").unwrap_or(message.len());
    message[..end].to_owned()
}

/// The kind of a value, which is told as that of a program's variable.
fn kind(expected: &str) -> &str {
    match expected {
        "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "a string" | "string" | "str" => "a text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        expected if expected.starts_with("struct ") => "an object",
        expected if expected.contains("enum ") => "an object with a known `type`",
        expected => expected,
    }
}

/// A value that was found, which is told with its kind before it.
fn value(found: &str) -> String {
    let found = match found {
        "sequence" => "a list",
        "map" => "an object",
        "unit value" => "null",
        found => found,
    };
    let number = found
        .strip_prefix("integer `")
        .or_else(|| found.strip_prefix("floating point `"))
        .or_else(|| found.strip_prefix("boolean `"));
    match (number, found.strip_prefix("string ")) {
        (Some(number), _) => number.trim_end_matches('`').to_owned(),
        (None, Some(text)) => format!("the text {}", shortened(text)),
        (None, None) => shortened(found),
    }
}

/// Enough of a text to know which it is.
fn shortened(text: &str) -> String {
    const MOST: usize = 100;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Body {
        _temperature: Option<f32>,
        _seed: Option<u64>,
        _list: Vec<Inner>,
        _stream: bool,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        _name: String,
    }

    #[test]
    fn what_is_wrong_is_said_in_plain_words() {
        for (body, param, message) in [
            (
                r#"{"_temperature": [1]}"#,
                Some("_temperature"),
                "`_temperature` must be a number, not a list",
            ),
            (
                r#"{"_temperature": "hot"}"#,
                Some("_temperature"),
                "`_temperature` must be a number, not the text \"hot\"",
            ),
            (
                r#"{"_seed": -1}"#,
                Some("_seed"),
                "`_seed` must be a whole number of 0 or more, not -1",
            ),
            (
                r#"{"_seed": 1.5}"#,
                Some("_seed"),
                "`_seed` must be a whole number of 0 or more, not 1.5",
            ),
            (
                r#"{"_stream": "yes"}"#,
                Some("_stream"),
                "`_stream` must be true or false, not the text \"yes\"",
            ),
            (
                r#"{"_list": [{"_name": "a"}, {"_name": {}}]}"#,
                Some("_list[1]._name"),
                "`_list[1]._name` must be a text, not an object",
            ),
            (
                r#"{"_list": [{}]}"#,
                Some("_list[0]._name"),
                "`_list[0]._name` is required",
            ),
            (
                r#"{"_list": 3}"#,
                Some("_list"),
                "`_list` must be a list, not 3",
            ),
            ("[1]", None, "the body has to be a JSON object"),
            ("null", None, "the body has to be a JSON object"),
        ] {
            let error = read::<Body>(body.as_bytes()).unwrap_err();
            assert_eq!(
                (error.param.as_deref(), error.message.as_str()),
                (param, message),
                "{body}"
            );
        }
        for body in ["", "{", "{}x"] {
            let error = read::<Body>(body.as_bytes()).unwrap_err();
            assert!(error.message.starts_with("the body is no JSON"), "{error}");
        }
    }
}
