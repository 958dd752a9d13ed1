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
        for part in answer
            .text()
            .split('"')
            .filter(|part| part.starts_with("/ui/"))
        {
            assert_eq!(server.get(part, &[]).status, 200, "{part}");
        }
    }
    assert!(
        server
            .get("/ui/app.js", &[])
            .text()
            .contains("/ui/capture.js")
    );
    assert_eq!(server.get("/ui/capture.js", &[]).status, 200);
    server.get("/ui/other.js", &[]).fails(404, "not_found");
    let without = TestServer::start(|config| config.ui = false);
    without.get("/", &[]).fails(404, "not_found");
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
