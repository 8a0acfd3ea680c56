use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use serde_json::json;
use tagcache::memory::{LocalTier, ProcessSource, Server as Watched};
use tagcache::{Cache, Entry, LocalCache};
use tagcache_tests::{DEADLINE, Server, wait_until};

use crate::endpoint::{Endpoint, Guide, TOKEN, builder};

#[test]
fn the_two_tier_cache_shows_and_is_emptied_in_both_tiers() {
    let server = Server::start();
    let url = format!("redis://127.0.0.1:{}/", server.port());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cache = runtime.block_on(async {
        let cache = Cache::builder(url.as_str()).build().await.unwrap();
        cache.ready(DEADLINE).await.unwrap();
        for key in ["a", "b"] {
            let entry = Entry::ttl(Duration::from_secs(600)).tags([format!("tag:{key}")]);
            cache.set(key, &1, entry).await.unwrap();
        }
        cache
    });
    let get = |key: &str| runtime.block_on(cache.get::<i32>(key)).unwrap();
    wait_until("a read fills the local tier", DEADLINE, || {
        get("a");
        get("b");
        cache.figures().entries == 2
    });

    let watched = Watched::open(&url).unwrap();
    let tier: Arc<dyn LocalTier> = Arc::new(cache.clone());
    let source = ProcessSource::default()
        .local(Arc::clone(&tier))
        .server(watched.clone());
    let endpoint = Endpoint::start(builder(source).local(tier).server(watched).build());
    let local = || endpoint.get("/api/admin/memory-stats").json()["cache"]["local"].clone();
    wait_until("both show", DEADLINE, || local()["totalEntries"] == 2);
    let listed = local();
    let mut keys: Vec<_> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["key"].as_str().unwrap())
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, ["a", "b"]);

    let answer = endpoint.post("/api/admin/cache/invalidate", r#"{"tags": ["tag:a"]}"#);
    assert_eq!(answer.json(), json!({"invalidated": 1}));
    assert_eq!((get("a"), get("b")), (None, Some(1)));
    assert_eq!(
        endpoint.post("/api/admin/cache/clear", "").json()["cleared"]["redis"],
        1
    );
    assert_eq!(get("b"), None);
}

#[test]
fn the_local_cache_alone_has_an_endpoint_too() {
    let cache = LocalCache::new(100);
    cache.set("a", 1, Duration::from_secs(600), ["red"]);
    let cache = Arc::new(cache);
    let tier: Arc<dyn LocalTier> = Arc::<LocalCache<i32>>::clone(&cache);
    let endpoint = Endpoint::start(
        builder(ProcessSource::default().local(Arc::clone(&tier)))
            .local(tier)
            .build(),
    );
    let stats = endpoint.get("/api/admin/memory-stats").json();
    assert_eq!(stats["cache"]["local"]["entries"][0]["key"], "a");
    assert_eq!(stats["raw"]["server"]["state"], "none");
    let answer = endpoint.post("/api/admin/cache/invalidate", r#"{"tags": ["red"]}"#);
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({"invalidated": null}))
    );
    assert_eq!(cache.get("a"), None);
}

#[test]
fn the_router_works_below_a_prefix() {
    let nested = Router::new().nest("/ops/", builder(Guide).build().router());
    let endpoint = Endpoint::serve(nested);
    let page = endpoint.send("GET", "/ops/", &[], "");
    assert_eq!(page.status, 200);
    // The page's addresses are relative to its own.
    assert!(
        page.text.contains("href=\"assets/dashboard.css\""),
        "{}",
        page.text
    );
    assert_eq!(
        endpoint
            .send("GET", "/ops/assets/dashboard.css", &[], "")
            .status,
        200
    );
    assert_eq!(
        endpoint.get_as(TOKEN, "/ops/api/admin/memory-stats").status,
        200
    );
}
