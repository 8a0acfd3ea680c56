use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tagcache::local::EntryInfo;
use tagcache_admin::memory::{LocalFigures, LocalTier, ProcessSource, Server as Watched};
use tagcache_tests::Server;

use crate::endpoint::{Endpoint, builder};

/// Counts the calls that clear it, and the tags that it drops.
#[derive(Default)]
struct Counting {
    cleared: AtomicU64,
    tags: AtomicU64,
}

impl LocalTier for Counting {
    fn figures(&self) -> LocalFigures {
        let mut figures = LocalFigures::default();
        figures.entries = 5;
        figures
    }

    fn entries(&self, _: usize) -> Vec<EntryInfo> {
        Vec::new()
    }

    fn drop_all(&self) {
        self.cleared.fetch_add(1, Ordering::Relaxed);
    }

    fn drop_tagged(&self, tags: &[String]) {
        self.tags.fetch_add(tags.len() as u64, Ordering::Relaxed);
    }
}

struct Setup {
    server: Server,
    local: Arc<Counting>,
    endpoint: Endpoint,
}

fn setup() -> Setup {
    let server = Server::start();
    let mut connection = server.connection();
    for (key, tag) in [("a", "red"), ("b", "red"), ("c", "blue")] {
        redis::cmd("CACHE.SET")
            .arg(key)
            .arg("v")
            .arg("TAGS")
            .arg(1)
            .arg(tag)
            .exec(&mut connection)
            .unwrap();
    }
    redis::cmd("SET")
        .arg("other")
        .arg("v")
        .exec(&mut connection)
        .unwrap();
    let watched = Watched::open(&format!("redis://127.0.0.1:{}/", server.port())).unwrap();
    let local = Arc::new(Counting::default());
    let source = ProcessSource::default()
        .server(watched.reader())
        .local(Arc::<Counting>::clone(&local));
    let admin = builder(source)
        .server(watched)
        .local(Arc::<Counting>::clone(&local))
        .build();
    Setup {
        server,
        local,
        endpoint: Endpoint::start(admin),
    }
}

fn get(server: &Server, command: &str, key: &str) -> Option<String> {
    redis::cmd(command)
        .arg(key)
        .query(&mut server.connection())
        .unwrap()
}

#[test]
fn invalidation_drops_tagged_entries_in_both_tiers() {
    let Setup {
        server,
        local,
        endpoint,
    } = setup();
    let answer = endpoint.post(
        "/api/admin/cache/invalidate",
        r#"{"tags": ["red", "none"]}"#,
    );
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({"invalidated": 2}))
    );
    assert_eq!(get(&server, "CACHE.GET", "a"), None);
    assert_eq!(get(&server, "CACHE.GET", "c").as_deref(), Some("v"));
    assert_eq!(local.tags.load(Ordering::Relaxed), 2);
}

#[test]
fn clear_drops_all_entries_and_no_other_keys() {
    let Setup {
        server,
        local,
        endpoint,
    } = setup();
    // As in the guide's rollback: no body, no content type.
    let authorization = format!("Bearer {}", crate::endpoint::TOKEN);
    let answer = endpoint.send(
        "POST",
        "/api/admin/cache/clear",
        &[("authorization", &authorization)],
        "",
    );
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({"cleared": {"local": 5, "redis": 3}}))
    );
    assert_eq!(get(&server, "CACHE.GET", "c"), None);
    assert_eq!(get(&server, "GET", "other").as_deref(), Some("v"));
    assert_eq!(local.cleared.load(Ordering::Relaxed), 1);
}

#[test]
fn softly_invalidated_entries_become_stale() {
    let Setup {
        server, endpoint, ..
    } = setup();
    redis::cmd("CACHE.SET")
        .arg("kept")
        .arg("v")
        .arg(&["EX", "600", "GRACE", "600000", "TAGS", "1", "green"])
        .exec(&mut server.connection())
        .unwrap();
    let answer = endpoint.post(
        "/api/admin/cache/invalidate",
        r#"{"tags": ["green"], "soft": true}"#,
    );
    assert_eq!(answer.json(), json!({"invalidated": 1}));
    let (state, value): (String, Option<String>) = redis::cmd("CACHE.FETCH")
        .arg("kept")
        .query::<Vec<redis::Value>>(&mut server.connection())
        .map(|reply| {
            let text = |at: usize| redis::from_redis_value(reply[at].clone()).ok();
            (text(0).unwrap_or_default(), text(1))
        })
        .unwrap();
    assert_eq!((state.as_str(), value.as_deref()), ("STALE", Some("v")));
}

#[test]
fn overview_shows_an_invalidation_immediately() {
    let Setup {
        server: _server,
        endpoint,
        ..
    } = setup();
    let tags = || {
        let tags = endpoint.get("/api/admin/overview").json()["tags"].clone();
        let tags: Vec<String> = tags
            .as_array()
            .unwrap()
            .iter()
            .map(|tag| tag["tag"].as_str().unwrap().to_owned())
            .collect();
        tags
    };
    assert!(tags().contains(&"red".to_owned()));
    endpoint.post("/api/admin/cache/invalidate", r#"{"tags": ["red"]}"#);
    assert_eq!(tags(), ["blue"]);
}

#[test]
fn invalid_requests_change_nothing() {
    let Setup {
        server,
        endpoint,
        local,
    } = setup();
    for (body, status) in [
        ("", 400),
        ("{", 400),
        ("{}", 422),
        (r#"{"tags": []}"#, 422),
        (r#"{"tags": ["red"], "hard": true}"#, 422),
        (r#"{"tags": "red"}"#, 422),
        (r#"{"tags": ["red", ""]}"#, 422),
        (r#"{"tags": ["red"], "soft": "yes"}"#, 422),
    ] {
        let answer = endpoint.post("/api/admin/cache/invalidate", body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        assert_eq!(answer.kind, "application/problem+json", "{body}");
    }
    assert_eq!(endpoint.get("/api/admin/cache/clear").status, 405);
    assert_eq!(get(&server, "CACHE.GET", "a").as_deref(), Some("v"));
    assert_eq!(local.tags.load(Ordering::Relaxed), 0);
}

#[test]
fn clear_without_a_server_fails_and_keeps_the_local_tier() {
    let Setup {
        mut server,
        endpoint,
        local,
    } = setup();
    server.stop();
    let answer = endpoint.post("/api/admin/cache/clear", "");
    assert_eq!(
        (answer.status, answer.kind.as_str()),
        (502, "application/problem+json")
    );
    assert_eq!(local.cleared.load(Ordering::Relaxed), 0);
    let overview = endpoint.get("/api/admin/overview").json();
    assert_eq!(overview["instances"], Value::Null);
}

#[test]
#[cfg(not(feature = "jemalloc"))]
fn heap_profile_without_jemalloc_is_not_implemented() {
    let Setup { endpoint, .. } = setup();
    let answer = endpoint.post("/api/admin/heap-profile", "");
    assert_eq!(
        (answer.status, answer.kind.as_str()),
        (501, "application/problem+json")
    );
    assert!(answer.text.contains("jemalloc"), "{}", answer.text);
}
