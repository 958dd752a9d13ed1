//! Recordings in the text of a request: base64, a data URL, or an address where those are fetched.

use std::io::Cursor;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use turaco::{Audio, Control, Error, address};

use crate::app::App;
use crate::error::ApiError;
use crate::sound_room::Share;
use crate::upload;

/// The recording that `text`, the value of field `param`, stands for, at `rate` (`None` = its own); `share` is
/// taken of for it.
///
/// # Errors
/// Addresses where none are fetched, one that gives nothing, and what is no recording.
pub fn recording(
    (app, control): (&App, &Control),
    text: &str,
    param: &str,
    (rate, share): (Option<u32>, &mut Share),
) -> Result<Audio, ApiError> {
    let text = text.trim();
    if is_address(text) {
        return fetch((app, control), text, param, (rate, share));
    }
    let wrong = |message: &str| ApiError::invalid(param, message);
    let encoded = match text.strip_prefix("data:") {
        Some(url) => url
            .split_once(";base64,")
            .map(|(_, encoded)| encoded)
            .ok_or_else(|| wrong("a data URL has to be in base64"))?,
        None => text,
    };
    let bytes = STANDARD.decode(encoded.trim());
    let bytes = bytes.map_err(|_| wrong("expected a recording in base64, or a data URL of one"))?;
    let decoded = upload::decode(Cursor::new(bytes), short_name(param), rate, share);
    decoded.map_err(|error| error.about(param))
}

/// The recording at an address.
///
/// # Errors
/// As [`recording`].
pub fn fetch(
    (app, control): (&App, &Control),
    url: &str,
    param: &str,
    (rate, share): (Option<u32>, &mut Share),
) -> Result<Audio, ApiError> {
    let Some(hosts) = &app.config().fetch_from else {
        let message = "addresses are not fetched here; send the recording itself";
        return Err(ApiError::unsupported(param, message));
    };
    let failed = |error: Error| match error {
        Error::InvalidOption { message, .. } => ApiError::invalid(param, message),
        Error::Network { .. } => ApiError::invalid(param, format!("nothing came: {error}")),
        error => ApiError::from(error).about(param),
    };
    let limit = app.config().max_upload;
    let body = address::open(url.trim(), hosts, limit, control).map_err(failed)?;
    let decoded = upload::decode(body, short_name(param), rate, share);
    decoded.map_err(
        |error| match error.status == StatusCode::INTERNAL_SERVER_ERROR {
            true => {
                let message = format!("it broke off, or is larger than the limit of {limit} bytes");
                ApiError::invalid(param, message)
            }
            false => error.about(param),
        },
    )
}

fn is_address(text: &str) -> bool {
    !text.starts_with("data:")
        && text
            .get(..text.len().min(16))
            .is_some_and(|head| head.contains("://"))
}

/// The last part of a field's place, for messages about the recording in it.
fn short_name(param: &str) -> &str {
    param
        .rsplit('.')
        .find(|part| *part != "data" && *part != "url")
        .unwrap_or(param)
}

#[cfg(test)]
mod tests {
    use turaco::cache::ModelCache;
    use turaco::engine::{Catalog, Engine, EngineOptions};

    use super::*;
    use crate::config::Config;

    #[test]
    fn nothing_is_fetched_unasked() {
        let catalog = Catalog::new(ModelCache::new("/nowhere"));
        let engine = Engine::new(catalog, EngineOptions::default());
        let app = App::new(engine, Config::default());
        let (control, mut share) = (Control::new(), app.sound_share());
        for (text, code) in [
            ("https://example.org/a.wav", "unsupported_value"),
            ("file:///etc/passwd", "unsupported_value"),
            ("/etc/passwd", "invalid_value"),
            ("data:audio/wav,abc", "invalid_value"),
            ("aGVsbG8gaGVsbG8=", "audio_decode_failed"),
        ] {
            let error =
                recording((&app, &control), text, "ref_audio", (None, &mut share)).unwrap_err();
            assert_eq!(error.code, code, "{text}");
            assert_eq!(error.param.as_deref(), Some("ref_audio"));
        }
    }
}
