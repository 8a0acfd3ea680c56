//! The thread that cleans up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tagcache::LocalCache;

use crate::wait_until;

const HOUR: Duration = Duration::from_secs(3600);

/// Stops the cleanup that drops it.
struct Stopper(LocalCache<Stopper>);

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.stop_cleanup();
    }
}

#[test]
fn cleanup_can_be_stopped_from_within() {
    const ENTRIES: usize = 2000;
    let cache: LocalCache<Stopper> = LocalCache::new(2 * ENTRIES);
    for i in 0..ENTRIES {
        cache.set(&i.to_string(), Stopper(cache.clone()), HOUR, ["tag"]);
    }
    cache.invalidate_tag("tag");
    cache.start_cleanup(Duration::from_millis(1));
    wait_until("the cleanup has ended", || {
        cache.stats().longest_cleanup != Duration::ZERO
    });
    let left = cache.len();
    assert!(left > ENTRIES / 2 && left < ENTRIES, "{left}");
    // It does not begin again either; the entries that it left can still be reclaimed.
    assert_eq!(cache.run_cleanup(), left as u64);
}

/// Its Drop is slow.
struct Slow {
    begun: mpsc::Sender<()>,
    ended: Arc<AtomicBool>,
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = self.begun.send(());
        thread::sleep(Duration::from_millis(50));
        self.ended.store(true, Ordering::SeqCst);
    }
}

#[test]
fn stop_cleanup_waits_for_the_running_cleanup() {
    let cache: LocalCache<Slow> = LocalCache::new(10);
    let (begun, has_begun) = mpsc::channel();
    let ended = Arc::new(AtomicBool::new(false));
    let slow = Slow {
        begun,
        ended: Arc::clone(&ended),
    };
    cache.set("key", slow, Duration::from_nanos(1), []);
    cache.start_cleanup(Duration::from_millis(1));
    has_begun.recv().unwrap();
    cache.stop_cleanup();
    assert!(ended.load(Ordering::SeqCst));
}

#[test]
fn concurrent_start_and_stop_of_cleanup_do_not_deadlock() {
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
