//! One load for all callers, threads and tasks.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use tagcache::{Entry, LocalCache, local::Reservation};

use crate::MINUTE;

#[test]
fn concurrent_callers_share_one_load() {
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
fn panicking_load_is_taken_over_by_a_waiter() {
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
fn failed_load_is_an_error_for_all_waiters() {
    let cache: LocalCache<u32> = LocalCache::new(10);
    let loads = AtomicUsize::new(0);
    let (go, may_go) = mpsc::channel::<()>();
    let (entered, has_entered) = mpsc::channel();
    thread::scope(|scope| {
        let leader = scope.spawn(|| {
            cache.try_get_or_insert_with("key", Entry::ttl(MINUTE), move || {
                entered.send(()).unwrap();
                may_go.recv().unwrap();
                Err("down")
            })
        });
        has_entered.recv().unwrap();
        let load = || async {
            loads.fetch_add(1, Ordering::SeqCst);
            Err("mine")
        };
        let mut waiting: Vec<_> = (0..50)
            .map(|_| Box::pin(cache.try_get_or_insert_async("key", Entry::ttl(MINUTE), load)))
            .collect();
        for task in &mut waiting {
            assert!(
                task.as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()))
                    .is_pending()
            );
        }
        // This caller cannot take an error of another type: it loads.
        let other = || async { Ok::<_, std::num::ParseIntError>(2) };
        let mut other = Box::pin(cache.try_get_or_insert_async("key", Entry::ttl(MINUTE), other));
        assert!(
            other
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        go.send(()).unwrap();
        assert_eq!(leader.join().unwrap(), Err(Arc::new("down")));
        for task in &mut waiting {
            let polled = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(polled, Poll::Ready(Err(Arc::new("down"))));
        }
        assert_eq!(loads.load(Ordering::SeqCst), 0);
        let polled = other.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(value)) if *value == 2));
    });
}

#[test]
fn load_error_is_returned_and_not_stored() {
    let cache: LocalCache<u32> = LocalCache::new(10);
    let failed = cache.try_get_or_insert_with("key", Entry::ttl(MINUTE), || Err("down"));
    assert_eq!(failed, Err(Arc::new("down")));
    let loaded = cache.try_get_or_insert_with("key", Entry::ttl(MINUTE), || Ok::<_, ()>(1));
    assert_eq!(loaded.as_deref().ok(), Some(&1));
}

#[test]
fn loader_can_use_the_cache_even_for_its_own_key() {
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
fn load_that_removes_its_own_key_is_not_stored() {
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

/// The load begins while the new value is still being weighed: the loaded value is older than the one that was set.
#[test]
fn load_begun_during_a_set_does_not_replace_the_set_value() {
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
fn load_is_not_shared_after_invalidation_of_its_or_the_callers_tag() {
    let none: &[&str] = &[];
    for (loaded, asked) in [(none, &["tag"][..]), (&["tag"], none), (&["tag"], &["tag"])] {
        let cache: LocalCache<u32> = LocalCache::new(10);
        let entry = |tags| Entry::ttl(MINUTE).tags(tags);
        let mut first =
            Box::pin(cache.get_or_insert_async("key", entry(loaded), std::future::pending));
        assert!(poll(&mut first).is_pending());
        cache.invalidate_tag("tag");
        let mut second = Box::pin(cache.get_or_insert_async("key", entry(asked), || async { 2 }));
        assert!(matches!(poll(&mut second), Poll::Ready(value) if *value == 2));
    }
}

/// Another caller's reservation keeps the key's loads known, but not those that have ended.
#[test]
fn result_of_an_ended_load_is_not_shared() {
    let cache: LocalCache<u32> = LocalCache::new(10);
    let reservation = cache.reserve("key");
    for value in 1..3 {
        let load = || async { value };
        let mut loaded =
            Box::pin(cache.get_or_insert_async("key", Entry::ttl(Duration::ZERO), load));
        assert!(matches!(poll(&mut loaded), Poll::Ready(loaded) if *loaded == value));
    }
    assert!(reservation.fill(Arc::new(3), Entry::ttl(MINUTE)));
}

#[test]
fn end_of_an_overtaken_load_does_not_affect_the_next_one() {
    let cache: LocalCache<u32> = LocalCache::new(10);
    let tagged = Entry::ttl(MINUTE).tags(["tag"]);
    let mut overtaken = Box::pin(cache.get_or_insert_async("key", tagged, std::future::pending));
    assert!(poll(&mut overtaken).is_pending());
    cache.invalidate_tag("tag");
    let mut second = Box::pin(cache.get_or_insert_async("key", tagged, std::future::pending));
    assert!(poll(&mut second).is_pending());
    drop(overtaken);
    let mut third = Box::pin(cache.get_or_insert_async("key", tagged, || async { 3 }));
    assert!(poll(&mut third).is_pending(), "it waits for the second");
    drop(second);
    assert!(matches!(poll(&mut third), Poll::Ready(value) if *value == 3));
}

fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn load_of_a_dropped_task_is_taken_over() {
    let cache: LocalCache<u32> = LocalCache::new(10);
    let mut first =
        Box::pin(cache.get_or_insert_async("key", Entry::ttl(MINUTE), std::future::pending));
    let mut second = Box::pin(cache.get_or_insert_async("key", Entry::ttl(MINUTE), || async { 2 }));
    let mut third = Box::pin(cache.get_or_insert_async("key", Entry::ttl(MINUTE), || async { 3 }));
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

/// Counts how often it is woken.
#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll_with<T>(
    counter: &Arc<CountingWaker>,
    future: &mut (impl Future<Output = T> + Unpin),
) -> Poll<T> {
    let waker = Waker::from(Arc::clone(counter));
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

#[test]
fn only_the_last_waker_of_a_waiting_task_is_woken() {
    let cache: LocalCache<u32> = LocalCache::new(10);
    let counters: [Arc<CountingWaker>; 3] = std::array::from_fn(|_| Arc::default());
    let wait = || Box::pin(cache.get_or_insert_async("key", Entry::ttl(MINUTE), || async { 2 }));
    let mut loader =
        Box::pin(cache.get_or_insert_async("key", Entry::ttl(MINUTE), std::future::pending));
    assert!(poll(&mut loader).is_pending());
    let (mut moves, mut gives_up) = (wait(), wait());
    assert!(poll_with(&counters[0], &mut moves).is_pending());
    assert!(poll_with(&counters[1], &mut moves).is_pending());
    assert!(poll_with(&counters[2], &mut gives_up).is_pending());
    drop(gives_up);
    assert_eq!(Arc::strong_count(&counters[0]), 1);
    assert_eq!(Arc::strong_count(&counters[2]), 1);

    drop(loader);
    assert_eq!(
        counters.map(|counter| counter.0.load(Ordering::SeqCst)),
        [0, 1, 0]
    );
    assert!(matches!(poll(&mut moves), Poll::Ready(value) if *value == 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_share_one_load_and_are_woken() {
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
                assert_eq!(value.as_deref().ok(), Some(&7));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(loads.load(Ordering::SeqCst), 1);
}

#[test]
fn tasks_wait_for_the_load_of_a_thread() {
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
        let mut task = pin!(cache.get_or_insert_async("key", Entry::ttl(MINUTE), || async { 8 }));
        assert!(poll(&mut task).is_pending());
        go.send(()).unwrap();
        assert_eq!(*loader.join().unwrap(), 7);
        assert!(matches!(poll(&mut task), Poll::Ready(value) if *value == 7));
    });
}
