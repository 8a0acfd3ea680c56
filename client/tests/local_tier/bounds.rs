//! Entries, bytes and tags are bounded under all conditions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tagcache::{Entry, LocalCache};

use crate::MINUTE;

#[test]
fn small_cache_holds_exactly_its_maximum_of_entries() {
    for entries in 0..=130 {
        let cache: LocalCache<usize> = LocalCache::new(entries);
        for i in 0..entries {
            cache.set(&i.to_string(), i, MINUTE, []);
        }
        assert!(
            (0..entries).all(|i| cache.contains(&i.to_string())),
            "{entries} entries"
        );
        for i in 0..3 * entries {
            cache.set(&format!("more {i}"), i, MINUTE, []);
            assert!(cache.len() <= entries);
        }
        assert_eq!(cache.len(), entries);
        assert_eq!(cache.stats().max_entries, entries);
    }
}

#[test]
fn large_cache_holds_at_most_its_maximum_and_little_less() {
    let cache: LocalCache<usize> = LocalCache::new(100_000);
    for i in 0..250_000 {
        cache.set(&i.to_string(), i, MINUTE, []);
    }
    let len = cache.len();
    assert!(len <= 100_000 && len > 95_000, "{len}");
}

#[test]
fn bytes_stay_below_the_limit_for_any_mix_of_weights() {
    const MAX: u64 = 1 << 20;
    for shards in [1, 8] {
        let cache: LocalCache<u64> = LocalCache::builder()
            .max_entries(2000)
            .max_bytes(MAX)
            .shards(shards)
            .weigher(|_, weight| *weight)
            .build();
        let heaviest = cache.max_entry_bytes();
        assert!(heaviest <= MAX / shards as u64 && heaviest > MAX / shards as u64 * 9 / 10);
        let mut random = 1_u64;
        for i in 0..20_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let weight = (random >> 33) % (1 << (random >> 60));
            cache.set(&(i % 5000).to_string(), weight, MINUTE, []);
            let stats = cache.stats();
            assert!(stats.bytes <= MAX && stats.entries <= 2000, "{stats:?}");
        }
        assert!(cache.stats().bytes > MAX / 4);
    }
}

#[test]
fn entry_of_the_maximum_weight_is_kept_and_a_heavier_one_is_not() {
    let cache: LocalCache<u64> = LocalCache::builder()
        .max_entries(1000)
        .max_bytes(1_000_000)
        .weigher(|_, weight| *weight)
        .build();
    cache.set("probe", 0, MINUTE, []);
    let overhead = cache.stats().bytes;
    let most = cache.max_entry_bytes() - overhead;

    cache.set("probe", most, MINUTE, []);
    assert!(cache.contains("probe"));
    // The old value does not stay either: it is not the one that was set.
    cache.set(
        "probe",
        most + 1 + cache.max_entry_bytes() / 1000,
        MINUTE,
        [],
    );
    assert!(!cache.contains("probe"));
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.bytes, stats.rejected), (0, 0, 1));
}

#[test]
fn entry_weight_includes_value_key_and_tags() {
    let bytes = |key: &str, entry: Entry<Vec<String>>| {
        let cache: LocalCache<u32> = LocalCache::builder().weigher(|_, _| 1000).build();
        cache.set_with(key, 1, entry);
        cache.stats().bytes
    };
    let tags = |count: usize| (0..count).map(|i| i.to_string()).collect::<Vec<_>>();
    let bare = bytes("k", Entry::ttl(MINUTE).tags(tags(0)));
    assert!((1100..1300).contains(&bare), "{bare}");
    assert_eq!(
        bytes(&"k".repeat(501), Entry::ttl(MINUTE).tags(tags(0))),
        bare + 500
    );
    assert_eq!(
        bytes("k", Entry::ttl(MINUTE).tags(tags(50))),
        bare + 50 * 16
    );
    // A stated weight replaces only the weigher's result.
    assert_eq!(
        bytes("k", Entry::ttl(MINUTE).weight(7).tags(tags(0))),
        bare - 993
    );
}

#[test]
fn extreme_weights_and_limits_are_handled() {
    let cache: LocalCache<u64> = LocalCache::builder()
        .max_entries(usize::MAX)
        .max_bytes(u64::MAX)
        .weigher(|_, weight| *weight)
        .build();
    for i in 0..100 {
        cache.set(&i.to_string(), u64::MAX, MINUTE, ["tag"]);
    }
    cache.set("light", 1, MINUTE, []);
    assert!(cache.contains("light"));

    let unlimited: LocalCache<u64> = LocalCache::builder().weigher(|_, weight| *weight).build();
    for i in 0..100 {
        unlimited.set(&i.to_string(), u64::MAX, MINUTE, []);
    }
    assert_eq!(unlimited.stats().bytes, 100 << 40);

    let tight: LocalCache<u64> = LocalCache::builder()
        .max_bytes(10_000)
        .weigher(|_, weight| *weight)
        .build();
    tight.set("a", u64::MAX, MINUTE, []);
    let stats = tight.stats();
    assert_eq!((stats.entries, stats.bytes, stats.rejected), (0, 0, 1));

    let none: LocalCache<u64> = LocalCache::builder().max_bytes(0).build();
    none.set("a", 1, MINUTE, []);
    none.set_with("b", 1, Entry::ttl(MINUTE).weight(u64::MAX));
    assert_eq!((none.len(), none.max_entry_bytes()), (0, 0));
    assert_eq!(none.stats().bytes, 0);
}

#[test]
fn more_shards_than_entries_still_allow_entries() {
    for (max_entries, max_bytes) in [(1, None), (10, None), (100, None), (1000, Some(20_000))] {
        let mut builder = LocalCache::builder()
            .max_entries(max_entries)
            .shards(1024)
            .weigher(|_, _: &u64| 8);
        if let Some(bytes) = max_bytes {
            builder = builder.max_bytes(bytes);
        }
        let cache = builder.build();
        for i in 0..10 * max_entries as u64 {
            cache.set(&i.to_string(), i, MINUTE, []);
        }
        let stats = cache.stats();
        // At least half of the limits: shares are rounded down to whole entries.
        let most = max_bytes.map_or(max_entries, |bytes| bytes as usize / 204);
        assert!(
            stats.entries >= most / 2 && stats.entries <= most,
            "{stats:?}"
        );
    }
}

/// A value that is refused, overwritten or evicted at that moment does not count as held.
#[test]
fn stats_stay_within_limits_during_concurrent_writes() {
    const MAX: u64 = 1 << 20;
    let cache: LocalCache<u64> = LocalCache::builder()
        .max_entries(500)
        .max_bytes(MAX)
        .weigher(|_, weight| *weight)
        .build();
    let writers = AtomicUsize::new(3);
    thread::scope(|scope| {
        for writer in 0..3 {
            let (cache, writers) = (&cache, &writers);
            scope.spawn(move || {
                for i in 0..30_000_u64 {
                    let weight = if i % 5 == 0 { u64::MAX } else { i * 7 % 8000 };
                    cache.set(&(i * (writer + 1) % 2000).to_string(), weight, MINUTE, []);
                }
                writers.fetch_sub(1, Ordering::SeqCst);
            });
        }
        let mut before = cache.stats();
        while writers.load(Ordering::SeqCst) != 0 {
            let stats = cache.stats();
            assert!(stats.bytes <= MAX && stats.entries <= 500, "{stats:?}");
            assert!(
                stats.insertions >= before.insertions && stats.rejected >= before.rejected,
                "{before:?} {stats:?}"
            );
            before = stats;
        }
    });
    let stats = cache.stats();
    assert_eq!(stats.insertions + stats.rejected, 90_000);
    assert_eq!(stats.rejected, 18_000);
}

/// If the cost were quadratic in the tags, this would take minutes.
#[test]
fn entry_can_have_300000_tags() {
    const TAGS: usize = 300_000;
    let cache: LocalCache<u32> = LocalCache::new(10);
    let tags: Vec<String> = (0..TAGS).map(|i| format!("tag {}", i / 2)).collect();
    cache.set_with("key", 1, Entry::ttl(MINUTE).tags(&tags));
    assert_eq!(cache.stats().tags, TAGS / 2);
    assert!(cache.contains("key"));
    cache.invalidate_tag("tag 77777");
    assert!(!cache.contains("key"));
}

#[test]
fn millions_of_unused_tags_are_forgotten() {
    const TAGS: usize = 1_000_000;
    let cache: LocalCache<usize> = LocalCache::new(1000);
    // Only while a load is under way must unknown tags be remembered.
    let reservation = cache.reserve("slow");
    for i in 0..TAGS {
        cache.invalidate_tag(&format!("invalidated {i}"));
    }
    assert!(cache.stats().tags < 10_000, "{:?}", cache.stats());
    assert!(
        !reservation.fill(Arc::new(0), Entry::ttl(MINUTE).tags(["invalidated 7"])),
        "a value from before was stored under a tag that was invalidated since"
    );

    for i in 0..TAGS {
        cache.set(
            &(i % 5000).to_string(),
            i,
            MINUTE,
            [format!("carried {i}").as_str()],
        );
    }
    assert!(cache.stats().tags < 20_000, "{:?}", cache.stats());
    cache.invalidate_all();
    assert_eq!(cache.stats().tags, 0);
}
