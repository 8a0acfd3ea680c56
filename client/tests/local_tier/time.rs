//! How long values stay, and which reads change that.

use std::{sync::Arc, time::Duration};

use tagcache::{Entry, LocalCache};

use crate::{MINUTE, wait_until};

#[test]
fn ttl_of_zero_stores_nothing_and_removes_the_old_value() {
    let cache: LocalCache<u32> = LocalCache::new(10);
    cache.set("a", 1, MINUTE, []);
    cache.set("a", 2, Duration::ZERO, []);
    assert_eq!((cache.get("a"), cache.len()), (None, 0));
    let loaded = cache.get_or_insert_with("a", Entry::ttl(Duration::ZERO), || 3);
    assert_eq!((*loaded, cache.len()), (3, 0));
}

#[test]
fn very_long_ttls_do_not_overflow() {
    let cache: LocalCache<u32> = LocalCache::new(10);
    for (key, ttl) in [
        ("max", Duration::MAX),
        ("seconds", Duration::from_secs(u64::MAX)),
        ("nanos", Duration::from_nanos(u64::MAX)),
        ("almost", Duration::from_nanos(u64::MAX - 1)),
    ] {
        cache.set_with(key, 1, Entry::ttl(ttl).grace(Duration::MAX));
        assert_eq!(cache.remaining_ttl(key), Some(Duration::MAX), "{key}");
    }
    cache.run_cleanup();
    assert_eq!(cache.len(), 4);
}

/// With either call, and it is counted by its former state.
#[test]
fn read_reclaims_expired_entries_and_keeps_stale_ones() {
    type Read = fn(&LocalCache<u32>, &str) -> Option<Arc<u32>>;
    let cache: LocalCache<u32> = LocalCache::new(10);
    let reads: [Read; 2] = [LocalCache::get, LocalCache::get_stale];
    for (round, read) in (1..).zip(reads) {
        cache.set("gone", 1, Duration::from_nanos(1), []);
        cache.set("dropped", 1, MINUTE, ["tag"]);
        let minute = Entry::ttl(Duration::from_nanos(1)).grace(MINUTE);
        cache.set_with("stale", 1, minute);
        cache.invalidate_tag("tag");
        wait_until("a nanosecond has passed", || !cache.contains("stale"));
        for key in ["gone", "dropped", "stale"] {
            read(&cache, key);
        }
        let stats = cache.stats();
        assert_eq!(
            (stats.entries, stats.expirations, stats.invalidated),
            (1, round, round)
        );
    }
}

#[test]
fn inspecting_entries_does_not_count_as_reading() {
    let cache: LocalCache<u32> = LocalCache::new(10);
    cache.set("a", 1, MINUTE, []);
    assert!(cache.contains("a") && !cache.contains("b"));
    assert!(
        cache
            .remaining_ttl("a")
            .is_some_and(|left| left <= MINUTE && left > MINUTE / 2)
    );
    assert_eq!(cache.remaining_ttl("b"), None);
    let entries = cache.entries(10);
    assert_eq!(
        (entries.len(), entries[0].key.as_str(), entries[0].hits),
        (1, "a", 0)
    );
    let stats = cache.stats();
    assert_eq!(
        (stats.hits, stats.misses, stats.tracked, stats.hit_rate()),
        (0, 0, 0, None)
    );
}
