//! What the local tier promises beyond single calls: bounds, threads, tasks, values that misbehave, cleanup.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use tagcache::{Entry, LocalCache, local::Reservation};

const MINUTE: Duration = Duration::from_secs(60);

/// Waits until `holds`, and says so if it never does.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "after 30 s, not yet: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

mod bounds {
    use super::*;

    #[test]
    fn a_small_cache_holds_exactly_what_it_is_made_for() {
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
    fn a_large_cache_never_holds_more_and_little_less() {
        let cache: LocalCache<usize> = LocalCache::new(100_000);
        for i in 0..250_000 {
            cache.set(&i.to_string(), i, MINUTE, []);
        }
        let len = cache.len();
        assert!(len <= 100_000 && len > 95_000, "{len}");
    }

    #[test]
    fn bytes_are_bounded_whatever_the_mix() {
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
    fn the_heaviest_entry_is_kept_and_a_heavier_one_is_not() {
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
        // Not even the old value stays: it is not what was set.
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
    fn absurd_weights_and_limits_do_no_harm() {
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
    fn more_shards_than_entries_do_not_shut_entries_out() {
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
            // At least half of what the limits allow: shares are rounded down to whole entries.
            let most = max_bytes.map_or(max_entries, |bytes| bytes as usize / 204);
            assert!(
                stats.entries >= most / 2 && stats.entries <= most,
                "{stats:?}"
            );
        }
    }

    /// What is refused, overwritten or evicted at that moment does not show as held.
    #[test]
    fn no_figure_is_beyond_its_limit_or_runs_backwards_while_threads_write() {
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

    /// With a cost of tags squared this would take minutes.
    #[test]
    fn an_entry_may_have_very_many_tags() {
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
    fn a_storm_of_tags_is_forgotten() {
        const TAGS: usize = 1_000_000;
        let cache: LocalCache<usize> = LocalCache::new(1000);
        // A load under way is what makes unknown tags worth remembering.
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
}

mod time {
    use super::*;

    #[test]
    fn no_ttl_stores_nothing_and_replaces_what_was_there() {
        let cache: LocalCache<u32> = LocalCache::new(10);
        cache.set("a", 1, MINUTE, []);
        cache.set("a", 2, Duration::ZERO, []);
        assert_eq!((cache.get("a"), cache.len()), (None, 0));
        let loaded = cache.get_or_insert_with("a", Entry::ttl(Duration::ZERO), || 3);
        assert_eq!((*loaded, cache.len()), (3, 0));
    }

    #[test]
    fn very_long_ttls_do_not_wrap_around() {
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

    /// Whichever call reads it, and it is counted as what it was.
    #[test]
    fn a_read_reclaims_what_is_gone_and_leaves_what_is_stale() {
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
    fn looking_is_not_reading() {
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
}

mod loads {
    use super::*;

    #[test]
    fn one_load_however_many_ask_at_once() {
        const THREADS: usize = 16;
        let cache: LocalCache<u32> = LocalCache::new(10);
        let loads = AtomicUsize::new(0);
        let start = Barrier::new(THREADS);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    start.wait();
                    let value = cache.get_or_insert_with("key", Entry::ttl(MINUTE), || {
                        loads.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(20));
                        7
                    });
                    assert_eq!(*value, 7);
                });
            }
        });
        assert_eq!(loads.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_load_that_panics_is_taken_over() {
        let cache: LocalCache<u32> = LocalCache::new(10);
        let (entered, has_entered) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                catch_unwind(AssertUnwindSafe(|| {
                    cache.get_or_insert_with("key", Entry::ttl(MINUTE), move || {
                        entered.send(()).unwrap();
                        may_go.recv().unwrap();
                        panic!("the loader's own");
                    })
                }))
            });
            has_entered.recv().unwrap();
            let second = scope.spawn(|| cache.get_or_insert_with("key", Entry::ttl(MINUTE), || 2));
            go.send(()).unwrap();
            assert!(first.join().unwrap().is_err());
            assert_eq!(*second.join().unwrap(), 2);
        });
        assert_eq!(cache.get("key").as_deref(), Some(&2));
    }

    #[test]
    fn an_error_goes_to_its_caller_and_is_not_stored() {
        let cache: LocalCache<u32> = LocalCache::new(10);
        let failed = cache.try_get_or_insert_with("key", Entry::ttl(MINUTE), || Err("down"));
        assert_eq!(failed, Err("down"));
        let loaded = cache.try_get_or_insert_with("key", Entry::ttl(MINUTE), || Ok::<_, ()>(1));
        assert_eq!(loaded.as_deref(), Ok(&1));
    }

    #[test]
    fn a_load_may_use_the_cache_even_for_its_own_key() {
        let cache: LocalCache<u32> = LocalCache::new(10);
        let value = cache.get_or_insert_with("outer", Entry::ttl(MINUTE), || {
            let inner = cache.get_or_insert_with("inner", Entry::ttl(MINUTE), || 1);
            let own = cache.get_or_insert_with("outer", Entry::ttl(MINUTE), || 2);
            cache.invalidate_tag("whatever");
            cache.set("other", 3, MINUTE, []);
            *inner + *own
        });
        assert_eq!((*value, cache.get("outer").as_deref()), (3, Some(&3)));
    }

    #[test]
    fn a_load_that_removes_its_own_key_is_not_stored() {
        let cache: LocalCache<u32> = LocalCache::new(10);
        let value = cache.get_or_insert_with("key", Entry::ttl(MINUTE).tags(["tag"]), || {
            cache.remove("key");
            1
        });
        assert_eq!((*value, cache.contains("key")), (1, false));
        let value = cache.get_or_insert_with("key", Entry::ttl(MINUTE).tags(["tag"]), || {
            cache.invalidate_tag("tag");
            2
        });
        assert_eq!((*value, cache.contains("key")), (2, false));
    }

    /// The load begins while the new value is still being weighed: what it brings is older than what was set.
    #[test]
    fn a_load_that_begins_while_its_key_is_being_set_does_not_replace_what_was_set() {
        type Slot<T> = Arc<Mutex<Option<T>>>;
        let handle: Slot<LocalCache<u32>> = Slot::default();
        let reservation: Slot<Reservation<u32>> = Slot::default();
        let cache = LocalCache::builder()
            .weigher({
                let (handle, reservation) = (Arc::clone(&handle), Arc::clone(&reservation));
                move |key, value| {
                    if let (5, Some(cache)) = (value, &*handle.lock().unwrap()) {
                        *reservation.lock().unwrap() = Some(cache.reserve(key));
                    }
                    1
                }
            })
            .build();
        *handle.lock().unwrap() = Some(cache.clone());

        cache.set("key", 5, MINUTE, []);

        let reservation = reservation.lock().unwrap().take().unwrap();
        assert!(!reservation.is_current());
        assert!(!reservation.fill(Arc::new(0), Entry::ttl(MINUTE)));
        assert_eq!(cache.get("key").as_deref(), Some(&5));
        *handle.lock().unwrap() = None;
    }

    #[test]
    fn a_load_is_not_shared_with_who_names_a_tag_that_was_invalidated_since_it_began() {
        let cache: LocalCache<u32> = LocalCache::new(10);
        let mut first =
            Box::pin(cache.get_or_insert_async("key", Entry::ttl(MINUTE), std::future::pending));
        assert!(poll(&mut first).is_pending());
        cache.invalidate_tag("tag");
        let tagged = Entry::ttl(MINUTE).tags(["tag"]);
        let mut second = Box::pin(cache.get_or_insert_async("key", tagged, || async { 2 }));
        assert!(matches!(poll(&mut second), Poll::Ready(value) if *value == 2));
    }

    fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
        std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_task_that_is_dropped_while_it_loads_is_taken_over() {
        let cache: LocalCache<u32> = LocalCache::new(10);
        let mut first =
            Box::pin(cache.get_or_insert_async("key", Entry::ttl(MINUTE), std::future::pending));
        let mut second =
            Box::pin(cache.get_or_insert_async("key", Entry::ttl(MINUTE), || async { 2 }));
        let mut third =
            Box::pin(cache.get_or_insert_async("key", Entry::ttl(MINUTE), || async { 3 }));
        assert!(poll(&mut first).is_pending());
        assert!(poll(&mut second).is_pending());
        assert!(poll(&mut third).is_pending());
        drop(third);
        assert!(poll(&mut second).is_pending(), "one loads at a time");
        drop(first);
        match poll(&mut second) {
            Poll::Ready(value) => assert_eq!(*value, 2),
            Poll::Pending => panic!("nobody loads any more"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn tasks_share_a_load_and_are_woken() {
        let cache: LocalCache<u32> = LocalCache::new(10);
        let loads = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                let (cache, loads) = (cache.clone(), Arc::clone(&loads));
                tokio::spawn(async move {
                    let load = || async {
                        loads.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Ok::<_, ()>(7)
                    };
                    let value = cache
                        .try_get_or_insert_async("key", Entry::ttl(MINUTE), load)
                        .await;
                    assert_eq!(value.as_deref(), Ok(&7));
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(loads.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn threads_and_tasks_wait_for_each_other() {
        let cache: LocalCache<u32> = LocalCache::new(10);
        let (go, may_go) = mpsc::channel::<()>();
        let (entered, has_entered) = mpsc::channel();
        thread::scope(|scope| {
            let loader = scope.spawn(|| {
                cache.get_or_insert_with("key", Entry::ttl(MINUTE), move || {
                    entered.send(()).unwrap();
                    may_go.recv().unwrap();
                    7
                })
            });
            has_entered.recv().unwrap();
            let mut task =
                pin!(cache.get_or_insert_async("key", Entry::ttl(MINUTE), || async { 8 }));
            assert!(poll(&mut task).is_pending());
            go.send(()).unwrap();
            assert_eq!(*loader.join().unwrap(), 7);
            assert!(matches!(poll(&mut task), Poll::Ready(value) if *value == 7));
        });
    }
}

/// Readers and writers with real threads: no read returns what was out of date before it began.
#[test]
fn no_read_returns_what_was_invalidated_before_it_began() {
    const KEYS: usize = 8;
    const READS: usize = 40_000;
    let cache: LocalCache<u64> = LocalCache::new(6);
    let database: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    // What the database held before the last invalidation of the key that is over began.
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

#[test]
fn every_hit_of_every_thread_is_counted() {
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
fn counts_survive_expiry_but_not_oblivion() {
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
fn an_entry_that_is_not_tracked_keeps_its_hits_when_it_is_overwritten() {
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
fn a_key_whose_entry_has_left_keeps_its_place_by_its_hits() {
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

mod values_that_misbehave {
    use super::*;

    /// A value whose Drop uses the cache that it was in.
    struct Meddler {
        cache: LocalCache<Option<Meddler>>,
        drops: Arc<AtomicUsize>,
    }

    impl Drop for Meddler {
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
    fn a_value_may_use_the_cache_when_it_is_dropped() {
        let cache: LocalCache<Option<Meddler>> = LocalCache::builder()
            .max_entries(4)
            .max_bytes(10_000)
            .max_tracked(1)
            .build();
        let drops = Arc::new(AtomicUsize::new(0));
        let meddler = || {
            Some(Meddler {
                cache: cache.clone(),
                drops: Arc::clone(&drops),
            })
        };
        // Overwritten, evicted, several evicted by a heavy one, too heavy, removed, expired, invalidated, refused.
        for key in ["a", "a", "b", "c", "d", "e", "f"] {
            cache.set(key, meddler(), MINUTE, ["tag"]);
            cache.get(key);
        }
        cache.set_with("heavy", meddler(), Entry::ttl(MINUTE).weight(9000));
        cache.set_with("heavier", meddler(), Entry::ttl(MINUTE).weight(90_000));
        cache.remove("heavy");
        cache.set("short", meddler(), Duration::from_nanos(1), []);
        cache.get("short");
        cache.set("tagged", meddler(), MINUTE, ["tag"]);
        cache.invalidate_tag("tag");
        cache.run_cleanup();
        let reservation = cache.reserve("refused");
        cache.remove("refused");
        assert!(!reservation.fill(Arc::new(meddler()), Entry::ttl(MINUTE)));
        cache.get_or_insert_with("loaded", Entry::ttl(MINUTE).tags(["tag"]), meddler);
        cache.invalidate_all();
        assert_eq!(drops.load(Ordering::SeqCst), 13);
        assert!(cache.stats().bytes < 1000, "{:?}", cache.stats());
        cache.remove("meddled");
    }

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(thread::panicking(), "dropped");
        }
    }

    #[test]
    fn a_value_that_panics_when_it_is_dropped_breaks_nothing() {
        let cache: LocalCache<Bomb> = LocalCache::new(2);
        for key in ["a", "b", "c", "d"] {
            let _ = catch_unwind(AssertUnwindSafe(|| cache.set(key, Bomb, MINUTE, ["tag"])));
        }
        assert_eq!(cache.len(), 2);
        cache.invalidate_tag("tag");
        // The background thread goes on with the next one.
        cache.start_cleanup(Duration::from_millis(1));
        wait_until("everything is reclaimed", || cache.is_empty());
        cache.stop_cleanup();
        assert_eq!(cache.stats().bytes, 0);
    }
}

mod cleanup {
    use super::*;

    fn threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task")
            .into_iter()
            .flatten()
            .flatten();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
            .filter(|name| name.starts_with("tagcache-clean"))
            .count()
    }

    /// One test, because what it counts are the threads of this process.
    #[test]
    fn the_thread_reclaims_is_replaced_stops_at_once_and_ends_with_the_cache() {
        const HOUR: Duration = Duration::from_secs(3600);
        let others = threads();
        let cache: LocalCache<u32> = LocalCache::new(100);
        cache.stop_cleanup();

        cache.set("a", 1, Duration::from_millis(1), ["tag"]);
        cache.start_cleanup(Duration::from_millis(1));
        wait_until("the expired entry is reclaimed", || cache.is_empty());
        assert_eq!(cache.stats().expirations, 1);

        // Each replaces the one before; the last would sleep for an hour.
        for _ in 0..10 {
            cache.start_cleanup(HOUR);
        }
        cache.stop_cleanup();
        cache.stop_cleanup();
        cache.set("b", 1, Duration::from_millis(1), []);
        cache.start_cleanup(HOUR);
        let clone = cache.clone();
        drop(cache);
        assert_eq!(clone.len(), 1);
        drop(clone);
        if cfg!(target_os = "linux") {
            wait_until("the threads have ended", || threads() <= others);
        }
    }

    #[test]
    fn starting_and_stopping_from_everywhere_does_not_deadlock() {
        let cache: LocalCache<u32> = LocalCache::new(100);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        cache.start_cleanup(Duration::ZERO);
                        cache.run_cleanup();
                        cache.stop_cleanup();
                    }
                });
            }
        });
        cache.stop_cleanup();
    }
}
