//! The six unit tests of the memory optimization guide's cache service, one by one and by their names.
//!
//! "Force cleanup" is [`LocalCache::run_cleanup`] here, `trackingEntries` is `tracked`.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tagcache::LocalCache;

const MINUTE: Duration = Duration::from_secs(60);

/// The guide's `beforeEach`, with the limits that its tests expect.
fn cache() -> LocalCache<Value> {
    LocalCache::builder()
        .max_entries(100)
        .max_tracked(200)
        .build()
}

#[test]
fn should_set_and_get_cached_values() {
    let cache = cache();
    cache.set("test-key", json!({"data": "test"}), MINUTE, []);
    let value = cache.get("test-key");
    assert_eq!(value.as_deref(), Some(&json!({"data": "test"})));
}

#[test]
fn should_expire_cached_values_after_ttl() {
    const TTL: Duration = Duration::from_millis(100);
    let cache = cache();
    let before = Instant::now();
    cache.set("test-key", json!({"data": "test"}), TTL, []);
    let value = cache.get("test-key");
    // On a machine that stops for that long, the value may be gone already.
    if before.elapsed() < TTL {
        assert_eq!(value.as_deref(), Some(&json!({"data": "test"})));
    }

    thread::sleep(Duration::from_millis(150));

    assert_eq!(cache.get("test-key"), None);
}

#[test]
fn should_track_access_counts() {
    let cache = cache();
    cache.set("test-key", json!({"data": "test"}), MINUTE, []);

    cache.get("test-key");
    cache.get("test-key");
    cache.get("test-key");

    let top = cache.top_accessed_keys(1);
    assert_eq!(top[0].key, "test-key");
    assert_eq!(top[0].hits, 3);
}

#[test]
fn should_enforce_max_cache_size() {
    let cache = cache();
    for i in 0..150 {
        cache.set(&format!("key-{i}"), json!({"data": i}), MINUTE, []);
    }

    cache.run_cleanup();

    let stats = cache.stats();
    assert!(stats.entries <= 100, "{stats:?}");
    // No more entries were evicted than necessary.
    assert_eq!((stats.entries, stats.evictions), (100, 50), "{stats:?}");
}

#[test]
fn should_enforce_max_tracking_size() {
    let cache = cache();
    for i in 0..250 {
        let key = format!("key-{i}");
        cache.set(&key, json!({"data": i}), MINUTE, []);
        cache.get(&key);
    }

    // Not only after a cleanup.
    assert_eq!(cache.stats().tracked, 200);
    cache.run_cleanup();

    let stats = cache.stats();
    assert!(stats.tracked <= 200, "{stats:?}");
    assert_eq!((stats.hits, stats.misses), (250, 0), "{stats:?}");
}

#[test]
fn should_invalidate_by_tag() {
    let cache = cache();
    cache.set("key-1", json!({"data": 1}), MINUTE, ["tag-a"]);
    cache.set("key-2", json!({"data": 2}), MINUTE, ["tag-a"]);
    cache.set("key-3", json!({"data": 3}), MINUTE, ["tag-b"]);

    cache.invalidate_tag("tag-a");

    assert_eq!(cache.get("key-1"), None);
    assert_eq!(cache.get("key-2"), None);
    assert_eq!(cache.get("key-3").as_deref(), Some(&json!({"data": 3})));
}

/// The guide's `afterEach`, which none of its tests checks.
#[test]
fn should_stop_cleanup_and_invalidate_all() {
    let cache = cache();
    cache.set("test-key", json!({"data": "test"}), MINUTE, []);
    cache.start_cleanup(MINUTE);
    cache.stop_cleanup();
    cache.invalidate_all();
    assert_eq!(cache.get("test-key"), None);
    assert!(cache.is_empty());
}
