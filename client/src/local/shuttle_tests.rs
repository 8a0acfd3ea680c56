//! The effects of two or three threads on each other, in many of the possible orders. `make model` runs these.
//!
//! Every lock and every atomic of this tier, and the locks of `quick_cache`, are points at which the checker switches
//! threads. It explores orders of sequentially consistent steps, not the further effects of weaker memory orders.

use std::{sync::Arc, time::Duration};

use shuttle::{
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
    thread,
};

use super::LocalCache;
use crate::Entry;

/// Runs `scenario` under random orders, and under orders with few switches at unlucky places.
fn explore(scenario: impl Fn() + Send + Sync + Clone + 'static) {
    let iterations = std::env::var("SHUTTLE_ITERATIONS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2000);
    shuttle::check_random(scenario.clone(), iterations);
    shuttle::check_pct(scenario, iterations, 3);
}

fn cache() -> LocalCache<u32> {
    LocalCache::builder().max_entries(8).max_tracked(2).build()
}

fn tagged() -> Entry<[&'static str; 1]> {
    Entry::forever().tags(["tag"])
}

/// A writer that changes the database and then calls `invalidate`, against a reader that loads through the cache:
/// afterwards the cache must not hold the old value.
fn no_old_value_survives(invalidate: impl Fn(&LocalCache<u32>) + Send + Sync + Clone + 'static) {
    explore(move || {
        let cache = cache();
        let database = Arc::new(AtomicU32::new(1));
        let reader = {
            let (cache, database) = (cache.clone(), Arc::clone(&database));
            thread::spawn(move || {
                cache.get_or_insert_with("key", tagged(), || database.load(Ordering::SeqCst));
            })
        };
        let writer = {
            let (cache, database) = (cache.clone(), Arc::clone(&database));
            let invalidate = invalidate.clone();
            thread::spawn(move || {
                database.store(2, Ordering::SeqCst);
                invalidate(&cache);
                // It began after the invalidation, so it must not be given the old value: neither from the cache
                // nor by waiting for the other's load.
                let value =
                    cache.get_or_insert_with("key", tagged(), || database.load(Ordering::SeqCst));
                assert_eq!(*value, 2);
            })
        };
        reader.join().unwrap();
        writer.join().unwrap();
        // It may hold nothing: a removal may take out a newer value that has just come in.
        assert_ne!(cache.get("key").as_deref(), Some(&1));
        cache.validate();
        assert!(cache.inner.loads.is_idle());
        assert_eq!(cache.inner.loads.len(), 0);
    });
}

#[test]
fn value_loaded_before_invalidation_is_never_served_after_it() {
    no_old_value_survives(|cache| cache.invalidate_tag("tag"));
}

#[test]
fn value_loaded_before_soft_invalidation_is_never_served_after_it() {
    no_old_value_survives(|cache| cache.revalidate_tag("tag"));
}

#[test]
fn value_loaded_before_removal_is_never_served_after_it() {
    no_old_value_survives(|cache| {
        cache.remove("key");
    });
}

#[test]
fn value_loaded_before_invalidate_all_is_never_served_after_it() {
    no_old_value_survives(LocalCache::invalidate_all);
}

#[test]
fn value_loaded_before_set_is_never_served_after_it() {
    no_old_value_survives(|cache| cache.set("key", 2, Duration::MAX, []));
}

/// There is no database here: the load does not read the value that was set.
#[test]
fn set_value_is_not_replaced_by_an_earlier_load() {
    explore(|| {
        let cache = cache();
        let reader = {
            let cache = cache.clone();
            thread::spawn(move || {
                cache.get_or_insert_with("key", tagged(), || 1);
            })
        };
        cache.set("key", 2, Duration::MAX, []);
        assert_eq!(cache.get("key").as_deref(), Some(&2));
        reader.join().unwrap();
        assert_eq!(cache.get("key").as_deref(), Some(&2));
        cache.validate();
    });
}

/// The tag leaves and enters the table while it is invalidated and a value with it is being loaded.
#[test]
fn tag_purged_during_a_load_still_counts_as_invalidated() {
    explore(|| {
        let cache = cache();
        let reservation = cache.reserve("key");
        let database = Arc::new(AtomicU32::new(1));
        let threads = [
            {
                let database = Arc::clone(&database);
                thread::spawn(move || {
                    let value = database.load(Ordering::SeqCst);
                    reservation.fill(std::sync::Arc::new(value), tagged());
                })
            },
            {
                let (cache, database) = (cache.clone(), Arc::clone(&database));
                thread::spawn(move || {
                    database.store(2, Ordering::SeqCst);
                    cache.invalidate_tag("tag");
                    assert_ne!(cache.get("key").as_deref(), Some(&1));
                })
            },
            {
                let cache = cache.clone();
                thread::spawn(move || {
                    cache.run_cleanup();
                })
            },
        ];
        for thread in threads {
            thread.join().unwrap();
        }
        assert_ne!(cache.get("key").as_deref(), Some(&1));
        cache.run_cleanup();
        cache.validate();
    });
}

/// Several threads ask for one missing key: one loads, all get the value.
#[test]
fn concurrent_callers_share_one_load() {
    explore(|| {
        let cache = cache();
        let loads = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (cache, loads) = (cache.clone(), Arc::clone(&loads));
                thread::spawn(move || {
                    let value = cache.get_or_insert_with("key", tagged(), || {
                        loads.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        7
                    });
                    assert_eq!(*value, 7);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(loads.load(Ordering::SeqCst), 1);
        cache.validate();
    });
}

/// The first load fails: the second thread gets its error if it waited for it, and loads if it came later.
#[test]
fn load_error_is_returned_to_waiters() {
    explore(|| {
        let cache = cache();
        let attempts = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (cache, attempts) = (cache.clone(), Arc::clone(&attempts));
                thread::spawn(move || {
                    let value = cache.try_get_or_insert_with("key", tagged(), || {
                        match attempts.fetch_add(1, Ordering::SeqCst) {
                            0 => Err(()),
                            _ => Ok(7),
                        }
                    });
                    value.is_ok()
                })
            })
            .collect();
        let succeeded = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .filter(|succeeded| *succeeded)
            .count();
        assert!(succeeded <= 1);
        assert_eq!(attempts.load(Ordering::SeqCst), 1 + succeeded);
        assert_eq!(cache.get("key").is_some(), succeeded == 1);
        assert!(cache.inner.loads.is_idle());
    });
}

/// Several threads count hits, of more keys than are listed.
#[test]
fn concurrent_hits_are_all_counted_and_the_top_key_is_listed() {
    explore(|| {
        let cache: LocalCache<u32> = LocalCache::builder().max_entries(8).max_tracked(1).build();
        cache.set("a", 1, Duration::MAX, []);
        cache.set("b", 2, Duration::MAX, []);
        let threads: Vec<_> = [("a", 3), ("b", 2), ("b", 2)]
            .into_iter()
            .map(|(key, reads)| {
                let cache = cache.clone();
                thread::spawn(move || {
                    for _ in 0..reads {
                        assert!(cache.get(key).is_some());
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let top = cache.top_accessed_keys(2);
        assert_eq!(top.len(), 1);
        assert_eq!((top[0].key.as_str(), top[0].hits), ("b", 4));
        cache.validate();
    });
}

/// Overwriting an entry moves its hits, even while they are counted.
#[test]
fn overwritten_entry_keeps_its_hits() {
    explore(|| {
        let cache = cache();
        cache.set("a", 1, Duration::MAX, []);
        cache.get("a");
        let threads = [
            {
                let cache = cache.clone();
                thread::spawn(move || cache.set("a", 2, Duration::MAX, []))
            },
            {
                let cache = cache.clone();
                thread::spawn(move || {
                    assert!(cache.get("a").is_some());
                    assert!(cache.get("a").is_some());
                })
            },
        ];
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(cache.top_accessed_keys(1)[0].hits, 3);
        cache.validate();
    });
}

/// It is overwritten while another entry is hit more often.
#[test]
fn overwritten_entry_keeps_its_hits_if_no_longer_listed() {
    explore(|| {
        let cache: LocalCache<u32> = LocalCache::builder().max_entries(8).max_tracked(1).build();
        cache.set("a", 1, Duration::MAX, []);
        cache.set("b", 1, Duration::MAX, []);
        cache.get("a");
        let threads = [
            {
                let cache = cache.clone();
                thread::spawn(move || cache.set("a", 2, Duration::MAX, []))
            },
            {
                let cache = cache.clone();
                thread::spawn(move || {
                    cache.get("b");
                    cache.get("b");
                })
            },
        ];
        for thread in threads {
            thread.join().unwrap();
        }
        let entries = cache.entries(2);
        let hits = |key| entries.iter().find(|entry| entry.key == key).unwrap().hits;
        assert_eq!((hits("a"), hits("b")), (1, 2));
        cache.validate();
    });
}

/// A key that comes back while it is leaving counts as one key.
#[test]
fn key_set_during_its_removal_is_counted_once() {
    explore(|| {
        let cache = cache();
        cache.set("a", 1, Duration::MAX, []);
        cache.get("a");
        let threads = [
            {
                let cache = cache.clone();
                thread::spawn(move || {
                    cache.remove("a");
                })
            },
            {
                let cache = cache.clone();
                thread::spawn(move || cache.set("a", 2, Duration::MAX, []))
            },
        ];
        for thread in threads {
            thread.join().unwrap();
        }
        let hits = 1 + u64::from(cache.get("a").is_some());
        assert_eq!(cache.stats().tracked, 1);
        assert_eq!(cache.top_accessed_keys(1)[0].hits, hits);
        cache.validate();
    });
}

/// Hits are taken while they are made, and while they move to the entry that overwrites theirs.
#[test]
fn every_hit_is_reported_once() {
    explore(|| {
        let cache: LocalCache<u32> = LocalCache::builder().report_hits(true).build();
        let reported = |taken: Vec<(String, u64)>| taken.iter().map(|(_, hits)| hits).sum::<u64>();
        cache.set("a", 1, Duration::MAX, []);
        cache.get("a");
        let writer = {
            let cache = cache.clone();
            thread::spawn(move || cache.set("a", 2, Duration::MAX, []))
        };
        let reader = {
            let cache = cache.clone();
            thread::spawn(move || {
                cache.get("a");
            })
        };
        let first = reported(cache.take_hits(9));
        writer.join().unwrap();
        reader.join().unwrap();
        // The reader's hit may have been skipped, while those of the old entry were moved.
        let second = reported(cache.take_hits(9));
        assert!((1..=2).contains(&(first + second)));
        cache.get("a");
        assert_eq!(first + second + reported(cache.take_hits(9)), 3);
        assert_eq!(cache.take_hits(9), []);
    });
}

/// Hits of an entry that leaves while it is hit are forgotten in the end.
#[test]
fn hits_of_a_removed_entry_are_forgotten() {
    explore(|| {
        let cache = cache();
        cache.set("a", 1, Duration::MAX, []);
        let threads = [
            {
                let cache = cache.clone();
                thread::spawn(move || {
                    cache.get("a");
                })
            },
            {
                let cache = cache.clone();
                thread::spawn(move || {
                    cache.remove("a");
                })
            },
            {
                let cache = cache.clone();
                thread::spawn(move || cache.set("a", 2, Duration::MAX, []))
            },
        ];
        for thread in threads {
            thread.join().unwrap();
        }
        cache.validate();
        cache.remove("a");
        cache.run_cleanup();
        cache.run_cleanup();
        assert_eq!(cache.stats().tracked, 0);
    });
}
