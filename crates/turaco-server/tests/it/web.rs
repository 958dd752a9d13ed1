//! The page and its descriptions.

use crate::support::TestServer;

#[test]
fn the_page_is_there_with_all_it_names() {
    let server = TestServer::start(|config| config.api_keys = vec!["secret".into()]);
    for page in ["/", "/docs"] {
        let answer = server.get(page, &[]);
        assert_eq!(answer.status, 200);
        assert!(
            answer
                .head
                .contains("content-security-policy: default-src 'self'")
        );
        // What it names, and what that names.
        let mut parts = named(answer.text());
        let mut seen = 0;
        while seen < parts.len() {
            let part = server.get(&parts[seen], &[]);
            assert_eq!(part.status, 200, "{}", parts[seen]);
            for further in named(part.text()) {
                if !parts.contains(&further) {
                    parts.push(further);
                }
            }
            seen += 1;
        }
        if page == "/" {
            for part in ["/ui/talk.js", "/ui/audio.js", "/ui/capture.js"] {
                assert!(parts.iter().any(|known| known == part), "{parts:?}");
            }
        }
    }
    server.get("/ui/other.js", &[]).fails(404, "not_found");
    let without = TestServer::start(|config| config.ui = false);
    without.get("/", &[]).fails(404, "not_found");
}

/// Files of the page that a text names, also as `./FILE`.
fn named(text: &str) -> Vec<String> {
    let named = text.split('"').filter_map(|part| {
        let name = part
            .strip_prefix("/ui/")
            .or_else(|| part.strip_prefix("./"))?;
        Some(format!("/ui/{name}"))
    });
    named.collect()
}

#[test]
fn every_route_is_described() {
    let server = TestServer::start(|_| {});
    let described = server.get("/openapi.json", &[]).json();
    let routes = include_str!("../../src/routes.rs");
    let texts = routes.split('"').skip(1).step_by(2);
    let routes = texts.filter(|text| text.starts_with('/'));
    for route in
        routes.filter(|route| !["/", "/docs", "/openapi.json", "/ui/{file}"].contains(route))
    {
        let route = route.replace("{*", "{");
        assert!(
            described["paths"].get(&route).is_some(),
            "{route} is not described"
        );
    }
}
