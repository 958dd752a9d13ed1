//! Who may come in: keys, and origins of web pages.

use axum::http::{HeaderMap, Uri, header};

use crate::error::ApiError;
use crate::openai::models::percent_decoded;

/// How a WebSocket of a browser brings a key, which cannot set headers.
pub const KEY_PROTOCOL: &str = "openai-insecure-api-key.";

/// Whether a request brings one of `keys`; none are needed if there are none.
///
/// # Errors
/// No key, or a wrong one.
pub fn check_key(
    keys: &[String],
    headers: &HeaderMap,
    uri: &Uri,
    is_websocket: bool,
) -> Result<(), ApiError> {
    if keys.is_empty() {
        return Ok(());
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    if bearer.is_some_and(|key| is_one(keys, key)) {
        return Ok(());
    }
    if is_websocket {
        let query = uri.query().unwrap_or_default().split('&');
        let mut in_query = query
            .filter_map(|pair| pair.strip_prefix("api_key="))
            .map(percent_decoded);
        let protocols = text(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
        let mut in_protocol = protocols
            .split(',')
            .filter_map(|protocol| protocol.trim().strip_prefix(KEY_PROTOCOL));
        if in_query.any(|key| is_one(keys, &key)) || in_protocol.any(|key| is_one(keys, key)) {
            return Ok(());
        }
    }
    Err(ApiError::unauthorized())
}

fn is_one(keys: &[String], given: &str) -> bool {
    // All are compared, so that time does not tell which one is near.
    let mut found = false;
    for key in keys {
        found |= equal(key.as_bytes(), given.as_bytes());
    }
    found
}

/// Equality in a time that depends on the length of `given` alone.
fn equal(secret: &[u8], given: &[u8]) -> bool {
    let mut difference = secret.len() ^ given.len();
    for (index, byte) in given.iter().enumerate() {
        let expected = secret.get(index).copied().unwrap_or(!byte);
        difference |= usize::from(std::hint::black_box(expected ^ byte));
    }
    std::hint::black_box(difference) == 0 && !secret.is_empty()
}

/// Whether a page of this origin may use the server: the server's own, or one that was named.
pub fn allows_origin(allowed: &[String], origin: &str, headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let own = origin
        .split_once("://")
        .is_some_and(|(_, authority)| Some(authority) == host);
    own || is_named(allowed, origin)
}

/// Whether the options name this origin.
pub fn is_named(allowed: &[String], origin: &str) -> bool {
    let matches = |allowed: &String| allowed == "*" || allowed.trim_end_matches('/') == origin;
    allowed.iter().any(matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(header::HeaderName, &str)]) -> HeaderMap {
        let all = all.iter();
        all.map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn keys_are_found_where_clients_put_them() {
        let keys = ["first".to_owned(), "second".to_owned()];
        let check = |name, value, uri: &str, socket| {
            check_key(
                &keys,
                &headers(&[(name, value)]),
                &uri.parse().unwrap(),
                socket,
            )
            .is_ok()
        };
        assert!(check(header::AUTHORIZATION, "Bearer second", "/", false));
        assert!(check(header::AUTHORIZATION, "bearer first", "/", false));
        for wrong in [
            "Bearer firs",
            "Bearer firstt",
            "Bearer ",
            "first",
            "Basic first",
        ] {
            assert!(!check(header::AUTHORIZATION, wrong, "/", false), "{wrong}");
        }
        let protocol = header::SEC_WEBSOCKET_PROTOCOL;
        let offered = "realtime, openai-insecure-api-key.first";
        assert!(check(protocol.clone(), offered, "/", true));
        assert!(!check(protocol, offered, "/", false));
        assert!(check(
            header::HOST,
            "x",
            "/v1/realtime?model=a&api_key=second",
            true
        ));
        assert!(!check(
            header::HOST,
            "x",
            "/v1/models?api_key=second",
            false
        ));
        let address = "/v1/realtime?api_key=a%2Fb%26c+d";
        let given = |key: &str| {
            check_key(
                &[key.to_owned()],
                &HeaderMap::new(),
                &address.parse().unwrap(),
                true,
            )
        };
        assert!(given("a/b&c+d").is_ok() && given("a/b&c d").is_err());
        let none = HeaderMap::new();
        assert!(check_key(&[], &none, &"/".parse().unwrap(), false).is_ok());
        assert!(check_key(&[String::new()], &none, &"/".parse().unwrap(), false).is_err());
    }

    #[test]
    fn only_the_own_page_and_named_ones_come_in() {
        let headers = headers(&[(header::HOST, "localhost:8000")]);
        let named = ["https://app.example".to_owned()];
        assert!(allows_origin(&[], "http://localhost:8000", &headers));
        assert!(allows_origin(&named, "https://app.example", &headers));
        assert!(!allows_origin(&named, "https://evil.example", &headers));
        assert!(!allows_origin(&[], "null", &headers));
        assert!(allows_origin(&["*".to_owned()], "null", &headers));
    }
}
