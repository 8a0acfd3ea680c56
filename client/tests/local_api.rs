//! The agreed calls of the local tier: this file compiles only while names and signatures stay the same.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde_json::json;
use tagcache::{Entry, LocalCache};

#[test]
fn documented_calls_compile_and_work() {
    let value = json!({"data": 1});

    #[rustfmt::skip]
    let cache: LocalCache<serde_json::Value> = LocalCache::builder().max_entries(100).max_tracked(200).build();
    cache.set("key-1", value, Duration::from_secs(60), ["tag-a"]);
    let hit: Option<Arc<serde_json::Value>> = cache.get("key-1");
    assert_eq!(hit.as_deref(), Some(&json!({"data": 1})));
    let top = cache.top_accessed_keys(1);
    assert_eq!((top[0].key.as_str(), top[0].hits), ("key-1", 1));
    cache.run_cleanup();
    let s = cache.stats();
    assert_eq!((s.entries, s.tracked, s.hits, s.misses), (1, 1, 1, 0));
    cache.invalidate_tag("tag-a");
    assert_eq!(cache.get("key-1"), None);
    cache.set("key-2", json!(2), Duration::from_secs(60), []);
    cache.invalidate_all();
    assert_eq!(cache.get("key-2"), None);
    cache.start_cleanup(Duration::from_secs(60));
    cache.stop_cleanup();
}

#[test]
fn tags_can_come_from_any_collection() {
    const KEYS: [&str; 8] = [
        "array",
        "empty array",
        "vector",
        "strings",
        "set",
        "owned",
        "moved",
        "none",
    ];
    let cache: LocalCache<u32> = LocalCache::new(100);
    let ttl = Duration::from_secs(60);
    let owned = vec!["a".to_owned(), "b".to_owned()];

    cache.set(KEYS[0], 1, ttl, ["a", "b"]);
    cache.set(KEYS[1], 2, ttl, []);
    cache.set(KEYS[2], 3, ttl, vec!["a", "b"]);
    cache.set(KEYS[3], 4, ttl, owned.iter().map(String::as_str));
    cache.set(KEYS[4], 5, ttl, BTreeSet::from(["a", "b"]));
    cache.set_with(KEYS[5], 6, Entry::ttl(ttl).tags(&owned));
    cache.set_with(KEYS[6], 7, Entry::ttl(ttl).tags(owned));
    cache.set_with(KEYS[7], 8, Entry::ttl(ttl));
    assert!(KEYS.iter().all(|key| cache.contains(key)));

    cache.invalidate_tags(["b", "no such tag"]);

    let left: Vec<_> = KEYS.into_iter().filter(|key| cache.contains(key)).collect();
    assert_eq!(left, ["empty array", "none"]);
}

#[test]
fn handles_and_futures_are_send() {
    fn is_free<T: Send + Sync + Clone + 'static>(_: &T) {}
    fn is_send<T: Send>(_: &T) {}

    let cache: LocalCache<String> = LocalCache::new(10);
    is_free(&cache);
    let load = cache.get_or_insert_async("k", Entry::forever(), || async { "v".to_owned() });
    is_send(&load);
}
