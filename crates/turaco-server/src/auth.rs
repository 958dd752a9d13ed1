//! Who may come in: keys, and origins of web pages.

use std::net::{Ipv4Addr, Ipv6Addr};

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
///
/// A name of which its owner says that it is this machine leads a browser to a server that only this machine reaches, and what came
/// from there before is then of the server's own origin (DNS rebinding): with `only_local` names count as the server's own only if
/// nobody else can give them out.
pub fn allows_origin(
    allowed: &[String],
    origin: &str,
    headers: &HeaderMap,
    only_local: bool,
) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let own = host.filter(|host| !only_local || is_of_this_machine(host));
    let is_own = origin
        .split_once("://")
        .is_some_and(|(_, authority)| Some(authority) == own);
    is_own || is_named(allowed, origin)
}

/// Whether a host is `localhost` or an address, with a port or without.
fn is_of_this_machine(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let address = rest.split(']').next().unwrap_or_default();
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let name = host.split(':').next().unwrap_or_default();
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<Ipv4Addr>().is_ok()
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
        let local = headers(&[(header::HOST, "localhost:8000")]);
        let named = ["https://app.example".to_owned()];
        let allows = |allowed: &[String], origin| allows_origin(allowed, origin, &local, true);
        assert!(allows(&[], "http://localhost:8000"));
        assert!(allows(&named, "https://app.example"));
        assert!(!allows(&named, "https://evil.example"));
        assert!(!allows(&[], "null"));
        assert!(allows(&["*".to_owned()], "null"));
    }

    #[test]
    fn names_that_anybody_can_give_out_are_not_the_own_ones_of_a_local_server() {
        for (host, is_own) in [
            ("localhost:8000", true),
            ("LOCALHOST", true),
            ("turaco.localhost:8000", true),
            ("127.0.0.1:8000", true),
            ("[::1]:8000", true),
            ("192.168.1.7", true),
            ("rebound.example:8000", false),
            ("127.0.0.1.rebound.example", false),
            ("localhost.rebound.example", false),
        ] {
            let headers = headers(&[(header::HOST, host)]);
            let origin = format!("http://{host}");
            assert_eq!(
                allows_origin(&[], &origin, &headers, true),
                is_own,
                "{host}"
            );
            assert!(allows_origin(&[], &origin, &headers, false), "{host}");
            let named = [origin.clone()];
            assert!(allows_origin(&named, &origin, &headers, true), "{host}");
        }
    }
}
