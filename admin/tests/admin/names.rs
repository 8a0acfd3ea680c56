//! Look-up of a key or a tag.

use std::net::TcpListener;

use serde_json::json;
use tagcache_admin::memory::Server as Watched;
use tagcache_tests::Server;

use crate::endpoint::{Endpoint, Guide, READER, builder};

fn endpoint(port: u16) -> Endpoint {
    let watched = Watched::open(&format!("redis://127.0.0.1:{port}/")).unwrap();
    Endpoint::start(builder(Guide).server(watched).build())
}

fn set(server: &Server, key: &[u8], tags: &[&[u8]]) {
    redis::cmd("CACHE.SET")
        .arg(key)
        .arg("value")
        .arg(&["PX", "60000", "GRACE", "5000", "TAGS"])
        .arg(tags.len())
        .arg(tags)
        .exec(&mut server.connection())
        .unwrap();
}

#[test]
fn entry_request_shows_the_entry_without_counting_a_hit() {
    let server = Server::start();
    set(&server, b"page:/a b&c", &[b"tenant:7", b"\xff"]);
    let endpoint = endpoint(server.port());
    let mut entry = serde_json::Value::Null;
    for _ in 0..2 {
        // A token for read access is enough.
        let answer = endpoint.get_as(READER, "/api/admin/entry?key=page:/a+b%26c");
        assert_eq!(answer.status, 200, "{}", answer.text);
        entry = answer.json();
    }
    let left = entry["ttlMs"].as_i64().unwrap();
    assert!((1..=60_000).contains(&left), "{entry}");
    for (field, value) in [
        (
            "key",
            json!({"text": "page:/a b&c", "query": "page%3A%2Fa%20b%26c"}),
        ),
        ("state", json!("fresh")),
        ("hits", json!(0)),
        ("bytes", json!(5)),
        ("graceMs", json!(5000)),
        (
            "tags",
            json!([{"text": "tenant:7", "query": "tenant%3A7"}, {"text": "\u{fffd}", "query": "%FF"}]),
        ),
    ] {
        assert_eq!(entry[field], value, "{field}");
    }
    redis::cmd("PERSIST")
        .arg("page:/a b&c")
        .exec(&mut server.connection())
        .unwrap();
    let entry = endpoint
        .get("/api/admin/entry?key=page%3A%2Fa%20b%26c")
        .json();
    assert_eq!(entry["ttlMs"], json!(null));
}

#[test]
fn tag_request_pages_through_keys_of_any_bytes() {
    let server = Server::start();
    for i in 0..180_u8 {
        set(&server, &[b'k', i], &[b"many"]);
    }
    let endpoint = endpoint(server.port());
    let mut keys = std::collections::BTreeSet::new();
    let mut path = "/api/admin/tag?tag=many".to_owned();
    let mut pages = 0;
    loop {
        let page = endpoint.get(&path).json();
        assert_eq!(page["entries"], 180, "{page}");
        for key in page["keys"].as_array().unwrap() {
            keys.insert(key["query"].as_str().unwrap().to_owned());
        }
        pages += 1;
        let Some(cursor) = page["cursor"].as_str() else {
            break;
        };
        path = format!("/api/admin/tag?tag=many&cursor={cursor}");
    }
    assert_eq!(keys.len(), 180);
    assert!((3..=8).contains(&pages), "{pages}");
    // The `query` of a key opens the entry, though the key is not text.
    assert!(keys.contains("k%B3"), "{keys:?}");
    let entry = endpoint.get("/api/admin/entry?key=k%B3");
    assert_eq!(entry.status, 200, "{}", entry.text);
}

#[test]
fn tag_request_shows_the_last_invalidation() {
    let server = Server::start();
    set(&server, b"a", &[b"red"]);
    let endpoint = endpoint(server.port());
    let before = endpoint.get("/api/admin/tag?tag=red").json();
    assert_eq!(
        (&before["invalidations"], &before["lastInvalidated"]),
        (&json!(0), &json!(null))
    );
    assert!(before["bytes"].as_u64().unwrap() > 50, "{before}");
    endpoint.post("/api/admin/cache/invalidate", r#"{"tags": ["red"]}"#);
    let after = endpoint.get("/api/admin/tag?tag=red").json();
    assert_eq!(
        (&after["entries"], &after["invalidations"], &after["keys"]),
        (&json!(0), &json!(1), &json!([]))
    );
    let at = after["lastInvalidated"].as_str().unwrap();
    assert!(at.starts_with("20") && at.ends_with('Z'), "{at}");
}

#[test]
fn failed_lookups_report_the_reason() {
    let server = Server::start();
    redis::cmd("SET")
        .arg("text")
        .arg("1")
        .exec(&mut server.connection())
        .unwrap();
    let here = self::endpoint(server.port());
    let without_server = Endpoint::start(builder(Guide).build());
    let bare = Server::builder().without_module().start();
    let without_module = self::endpoint(bare.port());
    for (endpoint, path, status, detail) in [
        (&here, "entry?key=none", 404, "no entry of this key"),
        (&here, "tag?tag=none", 404, "No entry carries this tag"),
        (&here, "entry?key=text", 422, "wrong kind of value"),
        (&here, "tag?tag=none&cursor=x", 404, "No entry"),
        (&here, "entry", 400, "no parameter `key`"),
        (&here, "tag?key=red", 400, "no parameter `tag`"),
        (&without_server, "entry?key=a", 404, "watches no server"),
        (
            &without_module,
            "entry?key=a",
            502,
            "has not loaded the module",
        ),
    ] {
        let answer = endpoint.get(&format!("/api/admin/{path}"));
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert_eq!(answer.kind, "application/problem+json", "{path}");
        assert!(answer.text.contains(detail), "{path}: {}", answer.text);
    }
    set(&server, b"a", &[b"red"]);
    let answer = here.get("/api/admin/tag?tag=red&cursor=x");
    assert_eq!(
        (answer.status, answer.text.contains("invalid cursor")),
        (422, true),
        "{}",
        answer.text
    );
    // Both need a token, and neither allows another method.
    for path in ["/api/admin/entry?key=a", "/api/admin/tag?tag=red"] {
        assert_eq!(here.send("GET", path, &[], "").status, 401, "{path}");
        assert_eq!(here.post(path, "").status, 405, "{path}");
    }
}

#[test]
fn lookups_in_a_hanging_server_fail_after_a_timeout() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // Reads requests and never replies.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut std::io::sink()));
        }
    });
    let endpoint = endpoint(port);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| endpoint.get("/api/admin/entry?key=a").status))
            .collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let refused = statuses.iter().filter(|&&status| status == 503).count();
    let failed = statuses.iter().filter(|&&status| status == 502).count();
    assert_eq!(refused + failed, 6, "{statuses:?}");
    assert!(refused >= 1 && failed >= 1, "{statuses:?}");
}
