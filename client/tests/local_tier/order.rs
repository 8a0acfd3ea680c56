//! No value outlives its invalidation.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
};

use tagcache::{Entry, LocalCache};

use crate::MINUTE;

/// Readers and writers with real threads: no read returns a value that was out of date before the read began.
#[test]
fn reads_return_nothing_invalidated_before_they_began() {
    const KEYS: usize = 8;
    const READS: usize = 40_000;
    let cache: LocalCache<u64> = LocalCache::new(6);
    let database: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    // The version in the database before the last completed invalidation of the key began.
    let settled: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let readers = AtomicUsize::new(2);
    let (cache, database, settled, readers) = (&cache, &database, &settled, &readers);
    thread::scope(|scope| {
        for writer in 0..2 {
            scope.spawn(move || {
                let mut round = writer;
                while readers.load(Ordering::SeqCst) != 0 {
                    round += 1;
                    let key = round * 7 % KEYS;
                    let (name, tag) = (format!("key-{key}"), format!("tag-{key}"));
                    let version = database[key].fetch_add(1, Ordering::SeqCst) + 1;
                    match round % 10 {
                        0 => cache.invalidate_all(),
                        1..=3 => drop(cache.remove(&name)),
                        4..=6 => cache.revalidate_tag(&tag),
                        _ => cache.invalidate_tag(&tag),
                    }
                    settled[key].fetch_max(version, Ordering::SeqCst);
                    if round % 50 == 0 {
                        cache.run_cleanup();
                    }
                    thread::yield_now();
                }
            });
        }
        for reader in 0..2 {
            scope.spawn(move || {
                let mut outdated = 0;
                for round in 0..READS {
                    let key = (round / 3 * 5 + reader) % KEYS;
                    let (name, tag) = (format!("key-{key}"), format!("tag-{key}"));
                    let least = settled[key].load(Ordering::SeqCst);
                    let seen = if round % 3 == 0 {
                        let entry = Entry::ttl(MINUTE).tags([tag]);
                        Some(cache.get_or_insert_with(&name, entry, || {
                            let value = database[key].load(Ordering::SeqCst);
                            thread::yield_now();
                            value
                        }))
                    } else {
                        cache.get(&name)
                    };
                    outdated += usize::from(seen.is_some_and(|seen| *seen < least));
                }
                readers.fetch_sub(1, Ordering::SeqCst);
                assert_eq!(outdated, 0);
            });
        }
    });
}
