//! The cleanup thread of the local tier, from start to end. A program of its own with one test, because it counts the
//! threads of the process.

use std::{
    thread,
    time::{Duration, Instant},
};

use tagcache::LocalCache;

const HOUR: Duration = Duration::from_secs(3600);

/// Waits until `holds`, and fails if it never does.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "after 30 s, not yet: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(target_os = "linux")]
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

#[test]
fn cleanup_thread_reclaims_and_ends_when_replaced_or_dropped() {
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
    #[cfg(target_os = "linux")]
    wait_until("all but the last have ended", || threads() == 1);
    cache.stop_cleanup();
    cache.stop_cleanup();
    cache.set("b", 1, Duration::from_millis(1), []);
    cache.start_cleanup(HOUR);
    // The thread gets its name only once it runs.
    #[cfg(target_os = "linux")]
    wait_until("it runs", || threads() == 1);
    let clone = cache.clone();
    drop(cache);
    assert_eq!(clone.len(), 1);
    drop(clone);
    #[cfg(target_os = "linux")]
    wait_until("it has ended with the last handle", || threads() == 0);
}
