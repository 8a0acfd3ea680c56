//! Damaged requests: the endpoint responds or closes the connection, and stays up.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use tagcache_tests::DEADLINE;
use tagcache_tests::fuzz::fuzz;

use crate::endpoint::{Endpoint, Guide, TOKEN, builder};

/// Requests with credentials, which reach more code than those without.
fn requests() -> Vec<Vec<u8>> {
    let get = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
        )
    };
    let post = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let requests = [
        get("/"),
        get("/metrics"),
        get("/api/admin/memory-stats"),
        get("/api/admin/overview?tags=3&keys=5"),
        get("/api/admin/charts/memory?from=0&width=400"),
        get("/assets/dashboard.js"),
        post("/api/admin/cache/invalidate", "{\"tags\":[\"a\",\"\\u0000\"]}"),
        post("/api/admin/cache/invalidate", "{\"tags\":[[[[{}]]]]}"),
        post("/api/admin/cache/clear", "{}"),
        "GET /healthz HTTP/1.0\r\n\r\n".to_owned(),
        "POST /api/admin/cache/clear HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(),
    ];
    requests.into_iter().map(String::into_bytes).collect()
}

#[test]
fn fuzzed_requests_do_not_stop_the_endpoint() {
    let endpoint = Endpoint::start(builder(Guide).build());
    let mut answered = 0;
    fuzz("HTTP requests", 800, &requests(), |request| {
        let mut stream = TcpStream::connect(endpoint.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // The endpoint may close the connection before everything is written.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(Shutdown::Write);
        // A stream of events does not end, so its beginning is enough.
        let mut answer = Vec::new();
        let _ = stream.take(100_000).read_to_end(&mut answer);
        if answer.is_empty() {
            return;
        }
        answered += 1;
        let text = String::from_utf8_lossy(&answer);
        let status = text.split(' ').nth(1).unwrap_or_default();
        assert!(text.starts_with("HTTP/1."), "{text}");
        // 502 and 503: there is no server behind this endpoint. 501: no heap profiles in this build.
        assert!(
            matches!(status, "501" | "502" | "503") || !status.starts_with('5'),
            "{text}"
        );
    });
    assert!(answered > 100, "{answered} were answered");
    assert_eq!(endpoint.get("/healthz").text, "ok\n");
}
