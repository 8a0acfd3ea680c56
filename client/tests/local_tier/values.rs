//! Values whose Drop misbehaves.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tagcache::{Entry, LocalCache};

use crate::{MINUTE, wait_until};

/// A value whose Drop uses the cache that it was in.
struct UsesCacheInDrop {
    cache: LocalCache<Option<UsesCacheInDrop>>,
    drops: Arc<AtomicUsize>,
}

impl Drop for UsesCacheInDrop {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
        for key in ["a", "b", "meddled"] {
            self.cache.get(key);
        }
        self.cache.set("meddled", None, MINUTE, ["tag"]);
        self.cache.remove("meddled");
        self.cache.invalidate_tag("tag");
        self.cache.top_accessed_keys(3);
        self.cache.run_cleanup();
        self.cache.stats();
        self.cache
            .get_or_insert_with("meddled", Entry::ttl(MINUTE), || None);
    }
}

#[test]
fn drop_of_a_value_can_use_the_cache() {
    let cache: LocalCache<Option<UsesCacheInDrop>> = LocalCache::builder()
        .max_entries(4)
        .max_bytes(10_000)
        .max_tracked(1)
        .build();
    let drops = Arc::new(AtomicUsize::new(0));
    let value = || {
        Some(UsesCacheInDrop {
            cache: cache.clone(),
            drops: Arc::clone(&drops),
        })
    };
    // Overwritten, evicted, several evicted by a heavy one, too heavy, removed, expired, invalidated, refused.
    for key in ["a", "a", "b", "c", "d", "e", "f"] {
        cache.set(key, value(), MINUTE, ["tag"]);
        cache.get(key);
    }
    cache.set_with("heavy", value(), Entry::ttl(MINUTE).weight(9000));
    cache.set_with("heavier", value(), Entry::ttl(MINUTE).weight(90_000));
    cache.remove("heavy");
    cache.set("short", value(), Duration::from_nanos(1), []);
    cache.get("short");
    cache.set("tagged", value(), MINUTE, ["tag"]);
    cache.invalidate_tag("tag");
    cache.run_cleanup();
    let reservation = cache.reserve("refused");
    cache.remove("refused");
    assert!(!reservation.fill(Arc::new(value()), Entry::ttl(MINUTE)));
    cache.get_or_insert_with("loaded", Entry::ttl(MINUTE).tags(["tag"]), value);
    cache.invalidate_all();
    assert_eq!(drops.load(Ordering::SeqCst), 13);
    assert!(cache.stats().bytes < 1000, "{:?}", cache.stats());
    cache.remove("meddled");
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        assert!(thread::panicking(), "dropped");
    }
}

#[test]
fn panic_in_drop_of_a_value_does_not_break_the_cache() {
    let cache: LocalCache<PanicsInDrop> = LocalCache::new(2);
    for key in ["a", "b", "c", "d"] {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            cache.set(key, PanicsInDrop, MINUTE, ["tag"]);
        }));
    }
    assert_eq!(cache.len(), 2);
    cache.invalidate_tag("tag");
    // The background thread continues with the next one.
    cache.start_cleanup(Duration::from_millis(1));
    wait_until("everything is reclaimed", || cache.is_empty());
    cache.stop_cleanup();
    assert_eq!(cache.stats().bytes, 0);
}
