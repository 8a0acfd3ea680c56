//! The thread that cleans up.

use std::{thread, time::Duration};

use tagcache::LocalCache;

use crate::wait_until;

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
