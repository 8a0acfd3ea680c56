//! One load per key, whatever happens to the load.

use std::time::{Duration, Instant};

use tagcache::{Cache, Entry, Error};
use tagcache_tests::{DEADLINE, Server, args, for_each_engine};
use tokio::sync::Notify;

use std::sync::Arc;

use crate::support::{Calls, builder, cache_at, connected, eventually, long, on_server, run};

/// A loader that can be delayed.
#[derive(Clone, Default)]
struct Gate {
    calls: Calls,
    open: Arc<Notify>,
}

impl Gate {
    async fn pass(self, value: &str) -> Result<String, String> {
        self.calls.note();
        self.open.notified().await;
        Ok(value.to_owned())
    }
}

fn load_from(
    cache: &Cache,
    gate: &Gate,
    entry: Entry,
) -> tokio::task::JoinHandle<Result<String, Error>> {
    let (cache, gate) = (cache.clone(), gate.clone());
    tokio::spawn(async move {
        cache
            .get_or_load("key", entry, move || gate.pass("value"))
            .await
    })
}

#[test]
fn only_one_of_many_tasks_that_miss_loads() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        run(async {
            let cache = cache_at(&server).await;
            let gate = Gate::default();
            let tasks: Vec<_> = (0..100).map(|_| load_from(&cache, &gate, long())).collect();
            eventually("all but one wait", async || cache.stats().joined == 99).await;
            eventually("the loader runs", async || gate.calls.count() == 1).await;
            gate.open.notify_one();
            for task in tasks {
                assert_eq!(task.await.unwrap().unwrap(), "value");
            }
            assert_eq!(gate.calls.count(), 1);
            assert_eq!(
                on_server(&mut server.raw(), "key").as_deref(),
                Some(r#""value""#)
            );
        });
    });
}

#[test]
fn only_one_of_many_processes_that_miss_loads() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        run(async {
            let mut caches = Vec::new();
            for _ in 0..12 {
                caches.push(cache_at(&server).await);
            }
            let gate = Gate::default();
            let tasks: Vec<_> = caches
                .iter()
                .map(|cache| load_from(cache, &gate, long()))
                .collect();
            eventually("all but one wait for the lease", async || {
                caches
                    .iter()
                    .map(|cache| cache.stats().lease_waits)
                    .sum::<u64>()
                    == 11
            })
            .await;
            gate.open.notify_one();
            for task in tasks {
                assert_eq!(task.await.unwrap().unwrap(), "value");
            }
            assert_eq!(gate.calls.count(), 1);
        });
    });
}

#[test]
fn load_whose_runtime_ends_is_taken_over() {
    let server = Server::start();
    run(async {
        let other = cache_at(&server).await;
        let next = cache_at(&server).await;
        let gate = Gate::default();
        // Its runtime ends while it holds the lease, with default settings.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn({
            let (port, gate) = (server.port(), gate.clone());
            async move {
                let cache = connected(builder(port)).await;
                let _: Result<String, Error> = cache
                    .get_or_load("key", long(), move || gate.pass("dead"))
                    .await;
            }
        });
        eventually("the loader runs", async || gate.calls.count() == 1).await;
        runtime.shutdown_background();
        let ended = Instant::now();
        let loaded: Result<String, Error> = next
            .get_or_load("key", long(), || async {
                Ok::<_, String>("alive".to_owned())
            })
            .await;
        assert_eq!(loaded.unwrap(), "alive");
        // The guarantee is 2 s; the load time-out is 10 s.
        assert!(ended.elapsed() < Duration::from_secs(6));
        assert_eq!(
            other.get::<String>("key").await.unwrap().as_deref(),
            Some("alive")
        );
    });
}

#[test]
fn failed_load_is_an_error_for_its_waiters_and_frees_the_key() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let other = cache_at(&server).await;
        let start = Arc::new(Notify::new());
        let fail = |cache: &Cache| {
            let (cache, start) = (cache.clone(), Arc::clone(&start));
            tokio::spawn(async move {
                let loader = move || async move {
                    start.notified().await;
                    Err::<String, _>("no database")
                };
                let entry = long().hard_timeout(2 * DEADLINE);
                cache.get_or_load("key", entry, loader).await
            })
        };
        let failing = [fail(&cache), fail(&cache)];
        eventually("one waits", async || cache.stats().joined == 1).await;
        let next = tokio::spawn({
            let other = other.clone();
            async move {
                let entry = long().hard_timeout(2 * DEADLINE);
                other
                    .get_or_load("key", entry, || async {
                        Ok::<_, String>("loaded".to_owned())
                    })
                    .await
            }
        });
        eventually("the other process waits", async || {
            other.stats().lease_waits == 1
        })
        .await;
        start.notify_one();
        for task in failing {
            let error = task.await.unwrap().unwrap_err();
            assert!(
                matches!(&error, Error::Loader { source, .. } if source.to_string() == "no database"),
                "{error}"
            );
        }
        // The lease was passed on, long before it would have run out.
        let next = tokio::time::timeout(DEADLINE, next).await.expect("a lease");
        assert_eq!(next.unwrap().unwrap(), "loaded");
        assert_eq!(cache.stats().load_failures, 1);
    });
}

#[test]
fn panicking_loader_is_an_error_and_the_key_can_be_loaded() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let panicking = || async {
            if true {
                panic!("a bug in a loader, on purpose")
            } else {
                Ok::<String, String>(String::new())
            }
        };
        let error = cache
            .get_or_load("key", long(), panicking)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::LoaderPanicked { .. }), "{error}");
        let loaded = cache
            .get_or_load("key", long(), || async {
                Ok::<_, String>("fine".to_owned())
            })
            .await;
        assert_eq!(loaded.unwrap(), "fine");
    });
}

#[test]
fn loader_is_dropped_after_the_hard_timeout() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let held = Arc::new(());
        let guard = Arc::clone(&held);
        let loader = move || async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok::<_, String>(String::new())
        };
        let entry = long().hard_timeout(Duration::from_millis(100));
        let error = cache.get_or_load("key", entry, loader).await.unwrap_err();
        assert!(matches!(error, Error::LoadTimeout { .. }), "{error}");
        eventually("it is dropped", async || Arc::strong_count(&held) == 1).await;
        let loaded = cache
            .get_or_load("key", long(), || async {
                Ok::<_, String>("fine".to_owned())
            })
            .await;
        assert_eq!(loaded.unwrap(), "fine");
    });
}

#[test]
fn value_loaded_before_an_invalidation_is_never_stored() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        run(async {
            let cache = cache_at(&server).await;
            let other = cache_at(&server).await;
            for n in 0..4 {
                let gate = Gate::default();
                let task = tokio::spawn({
                    let (cache, gate) = (cache.clone(), gate.clone());
                    async move {
                        cache
                            .get_or_load("key", long().tags(["tag"]), move || gate.pass("old"))
                            .await
                    }
                });
                eventually("the loader runs", async || gate.calls.count() == 1).await;
                match n {
                    0 => drop(other.invalidate_tags(["tag"]).await.unwrap()),
                    1 => drop(other.revalidate_tags(["tag"]).await.unwrap()),
                    2 => drop(other.remove("key").await.unwrap()),
                    _ => drop(other.clear().await.unwrap()),
                }
                gate.open.notify_one();
                // A caller that asked before the invalidation may get the old value.
                assert_eq!(task.await.unwrap().unwrap(), "old");
                assert_eq!(on_server(&mut server.raw(), "key"), None, "round {n}");
                assert_eq!(cache.get::<String>("key").await.unwrap(), None);
            }
            assert_eq!(cache.stats().sets_refused, 4);
        });
    });
}

#[test]
fn caller_after_an_invalidation_does_not_join_an_older_load() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let gate = Gate::default();
        let before = tokio::spawn({
            let (cache, gate) = (cache.clone(), gate.clone());
            async move {
                cache
                    .get_or_load("key", long().tags(["tag"]), move || gate.pass("old"))
                    .await
            }
        });
        eventually("the loader runs", async || gate.calls.count() == 1).await;
        cache.invalidate_tags(["tag"]).await.unwrap();
        let after = tokio::spawn({
            let cache = cache.clone();
            async move {
                cache
                    .get_or_load("key", long().tags(["tag"]), || async {
                        Ok::<_, String>("new".to_owned())
                    })
                    .await
            }
        });
        eventually("it does not join the load that is outdated", async || {
            cache.stats().lease_waits == 1
        })
        .await;
        gate.open.notify_one();
        assert_eq!(before.await.unwrap().unwrap(), "old");
        assert_eq!(after.await.unwrap().unwrap(), "new");
        assert_eq!(cache.stats().joined, 0);
        assert_eq!(
            cache.get::<String>("key").await.unwrap().as_deref(),
            Some("new")
        );
    });
}

#[test]
fn cancelled_caller_does_not_cancel_the_load_of_others() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let gate = Gate::default();
        let first = load_from(&cache, &gate, long());
        eventually("the loader runs", async || gate.calls.count() == 1).await;
        let second = load_from(&cache, &gate, long());
        eventually("the second waits", async || cache.stats().joined == 1).await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        gate.open.notify_one();
        assert_eq!(second.await.unwrap().unwrap(), "value");
        assert_eq!(gate.calls.count(), 1);
    });
}

#[test]
fn absence_is_cached() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let calls = Calls::default();
        let entry = long().negative_ttl(Duration::from_secs(100)).tags(["tag"]);
        let ask = async |cache: &Cache| -> Option<String> {
            let calls = calls.clone();
            let loader = move || async move {
                calls.note();
                Ok::<_, String>(None)
            };
            cache
                .get_or_load_optional("key", entry, loader)
                .await
                .unwrap()
        };
        for _ in 0..3 {
            assert_eq!(ask(&cache).await, None);
        }
        assert_eq!(ask(&cache_at(&server).await).await, None);
        assert_eq!(calls.count(), 1);
        let ttl = server.raw().call(&["TTL", "key"]).int();
        assert!((90..=100).contains(&ttl), "{ttl}");
        assert_eq!(cache.get::<String>("key").await.unwrap(), None);
        let error = cache
            .get_or_load("key", long(), || async {
                Ok::<_, String>("value".to_owned())
            })
            .await;
        assert!(matches!(error, Err(Error::Absent { .. })), "{error:?}");
        // The absence is dropped like any value.
        cache.invalidate_tags(["tag"]).await.unwrap();
        assert_eq!(ask(&cache).await, None);
        assert_eq!(calls.count(), 2);
    });
}

#[test]
fn undecodable_value_is_loaded_again() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        for broken in ["{\"half", "\u{0}", "17"] {
            server.raw().call(&args!["CACHE.SET", "key", broken]);
            eventually("it is seen", async || {
                cache.get::<String>("key").await.is_err()
            })
            .await;
            let loaded: Result<String, Error> = cache
                .get_or_load("key", long(), || async {
                    Ok::<_, String>("whole".to_owned())
                })
                .await;
            assert_eq!(loaded.unwrap(), "whole", "instead of {broken:?}");
            assert_eq!(
                cache.get::<String>("key").await.unwrap().as_deref(),
                Some("whole")
            );
        }
    });
}

#[test]
fn jitter_spreads_the_ttls_of_values_stored_together() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let mut client = server.raw();
        let mut ttls = Vec::new();
        for n in 0..50 {
            let key = format!("key{n}");
            cache
                .set(&key, &n, Entry::ttl(Duration::from_secs(1000)).jitter(0.5))
                .await
                .unwrap();
            ttls.push(client.call(&["TTL", &key]).int());
        }
        assert!(
            ttls.iter().all(|ttl| (490..=1000).contains(ttl)),
            "{ttls:?}"
        );
        let (least, most) = (ttls.iter().min().unwrap(), ttls.iter().max().unwrap());
        assert!(most - least > 200, "{ttls:?}");
    });
}
