//! Hits, in total and by key.

use std::thread;

use tagcache::LocalCache;

use crate::MINUTE;

#[test]
fn every_hit_of_all_threads_is_counted() {
    let cache: LocalCache<usize> = LocalCache::new(100);
    for i in 0..50 {
        cache.set(&i.to_string(), i, MINUTE, []);
    }
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..5000 {
                    cache.get(&(round % 50).to_string());
                    cache.get("missing");
                }
            });
        }
    });
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses), (20_000, 20_000));
    assert_eq!(stats.hit_rate(), Some(0.5));
    let top = cache.top_accessed_keys(usize::MAX);
    assert_eq!(top.len(), 50);
    assert!(top.iter().all(|key| key.hits == 400));
}

#[test]
fn counts_survive_invalidation_until_the_second_cleanup() {
    let cache: LocalCache<u32> = LocalCache::new(100);
    for _ in 0..3 {
        cache.set("hot", 1, MINUTE, ["tag"]);
        cache.get("hot");
        cache.invalidate_tag("tag");
        cache.run_cleanup();
        assert!(cache.is_empty());
    }
    assert_eq!(cache.top_accessed_keys(1)[0].hits, 3);
    cache.run_cleanup();
    cache.run_cleanup();
    assert_eq!(cache.top_accessed_keys(1), []);
    assert_eq!(cache.stats().tracked, 0);
}

#[test]
fn untracked_entry_keeps_its_hits_when_overwritten() {
    let cache: LocalCache<u32> = LocalCache::builder().max_tracked(1).build();
    let read = |key: &str, times: usize| (0..times).all(|_| cache.get(key).is_some());
    cache.set("leader", 1, MINUTE, []);
    cache.set("other", 1, MINUTE, []);
    assert!(read("leader", 5) && read("other", 2));
    cache.set("other", 2, MINUTE, []);
    assert!(read("other", 3));
    assert_eq!(cache.top_accessed_keys(9)[0].key, "leader");
    assert!(read("other", 1));
    let top = cache.top_accessed_keys(9);
    assert_eq!(
        (top.len(), top[0].key.as_str(), top[0].hits),
        (1, "other", 6)
    );
}

#[test]
fn removed_key_stays_listed_until_another_has_more_hits() {
    let cache: LocalCache<u32> = LocalCache::builder().max_tracked(1).build();
    let read = |key: &str, times: usize| (0..times).all(|_| cache.get(key).is_some());
    cache.set("gone", 1, MINUTE, []);
    cache.set("there", 1, MINUTE, []);
    assert!(read("gone", 5));
    cache.remove("gone");
    assert!(read("there", 5));
    assert_eq!(cache.top_accessed_keys(9)[0].key, "gone");
    assert!(read("there", 1));
    assert_eq!(cache.top_accessed_keys(9)[0].key, "there");
}

#[test]
fn key_set_again_keeps_its_hits_if_the_list_is_full() {
    let cache: LocalCache<u32> = LocalCache::builder().max_tracked(1).build();
    for hits in 1..10 {
        cache.set("key", 1, MINUTE, []);
        // Cleanups do not forget a key that has come back, whether it was read or not.
        cache.run_cleanup();
        cache.run_cleanup();
        cache.get("key");
        assert_eq!(cache.top_accessed_keys(9)[0].hits, hits);
        cache.remove("key");
        cache.run_cleanup();
    }
}

/// A cleanup forgets keys that have been gone for long, and gives their places to the entries that follow them.
#[test]
fn cleanup_replaces_forgotten_keys_by_the_next_entries() {
    let cache: LocalCache<u32> = LocalCache::builder().max_tracked(1).build();
    cache.set("gone", 1, MINUTE, []);
    cache.set("there", 1, MINUTE, []);
    for (key, times) in [("gone", 5), ("there", 4)] {
        assert!((0..times).all(|_| cache.get(key).is_some()));
    }
    cache.remove("gone");
    cache.run_cleanup();
    assert_eq!(cache.top_accessed_keys(9)[0].key, "gone");
    cache.run_cleanup();
    let top = cache.top_accessed_keys(9);
    assert_eq!((top[0].key.as_str(), top[0].hits), ("there", 4));
}
