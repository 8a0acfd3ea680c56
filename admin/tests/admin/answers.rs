//! Properties of the responses to all requests.

use crate::endpoint::{Answer, Endpoint, Guide, TOKEN, builder};

fn is_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.kind, "application/problem+json", "{}", answer.text);
    let problem = answer.json();
    assert_eq!(problem["type"], "about:blank");
    assert_eq!(problem["status"], status);
    for field in ["title", "detail"] {
        assert!(
            problem[field].as_str().is_some_and(|text| !text.is_empty()),
            "{problem}"
        );
    }
}

#[test]
fn every_response_has_the_security_headers() {
    let endpoint = Endpoint::start(builder(Guide).build());
    let authorization = format!("Bearer {TOKEN}");
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/assets/dashboard.js"),
        ("GET", "/healthz"),
        ("GET", "/metrics"),
        ("GET", "/api/admin/memory-stats"),
        ("HEAD", "/api/admin/memory-stats"),
        ("GET", "/api/admin/charts/memory"),
        ("GET", "/api/admin/charts/nothing"),
        ("POST", "/api/admin/cache/invalidate"),
        ("DELETE", "/api/admin/overview"),
        ("GET", "/nothing"),
    ] {
        for headers in [&[][..], &[("authorization", authorization.as_str())]] {
            let answer = endpoint.send(method, path, headers, "");
            let header = |name: &str| {
                let value = answer.headers.get(name);
                value.map_or("", |value| value.to_str().unwrap())
            };
            let asked = format!("{method} {path}: {}", answer.status);
            assert_eq!(header("x-content-type-options"), "nosniff", "{asked}");
            assert_eq!(header("referrer-policy"), "no-referrer", "{asked}");
            let policy = header("content-security-policy");
            assert!(
                policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
                "{asked}: {policy}"
            );
            // The page and its parts are revalidated on each load; other responses are not stored at all.
            let kept = header("cache-control");
            let page = path == "/" || path.starts_with("/assets/");
            assert_eq!(kept, if page { "no-cache" } else { "no-store" }, "{asked}");
        }
    }
}

#[test]
fn invalid_requests_get_a_problem_document() {
    let endpoint = Endpoint::start(builder(Guide).build());
    let authorization = format!("Bearer {TOKEN}");
    let token = ("authorization", authorization.as_str());
    let json = ("content-type", "application/json");
    let send = |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        endpoint.send(method, path, headers, body)
    };
    is_problem(&send("GET", "/nothing", &[], ""), 404);
    is_problem(&send("GET", "/api/admin/charts/nothing", &[token], ""), 404);
    let width = "/api/admin/charts/memory?width=wide";
    is_problem(&send("GET", width, &[token], ""), 400);
    for (method, path, allowed) in [
        ("DELETE", "/healthz", "GET,HEAD"),
        ("POST", "/", "GET,HEAD"),
        ("POST", "/api/admin/memory-stats", "GET,HEAD"),
        ("OPTIONS", "/api/admin/memory-stats", "GET,HEAD"),
        ("GET", "/api/admin/cache/clear", "POST"),
    ] {
        let answer = send(method, path, &[token], "");
        is_problem(&answer, 405);
        assert_eq!(answer.headers["allow"], allowed, "{method} {path}");
    }
    let invalidate = "/api/admin/cache/invalidate";
    is_problem(
        &send("POST", invalidate, &[token], "{\"tags\": [\"a\"]}"),
        415,
    );
    // A little over the limit: the part that is not read fits into the connection's buffers.
    let huge = format!("{{\"tags\": [\"{}\"]}}", "x".repeat(2 << 20));
    is_problem(&send("POST", invalidate, &[token, json], &huge), 413);
    // Another site's preflight is refused, so its page cannot send the token.
    let preflight = [
        ("origin", "https://elsewhere.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    let answer = send("OPTIONS", invalidate, &preflight, "");
    is_problem(&answer, 401);
    assert!(
        answer
            .headers
            .keys()
            .all(|name| !name.as_str().starts_with("access-control"))
    );
}

#[test]
fn one_request_invalidates_many_tags_and_head_matches_get() {
    let endpoint = Endpoint::start(builder(Guide).build());
    let tags: Vec<String> = (0..10_000).map(|i| format!("tag:{i}")).collect();
    let body = serde_json::json!({ "tags": tags }).to_string();
    assert_eq!(
        endpoint.post("/api/admin/cache/invalidate", &body).status,
        200
    );
    let authorization = format!("Bearer {TOKEN}");
    for path in ["/api/admin/memory-stats", "/metrics"] {
        let head = endpoint.send("HEAD", path, &[("authorization", &authorization)], "");
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{path}");
        assert_eq!(head.kind, endpoint.get(path).kind);
    }
}
