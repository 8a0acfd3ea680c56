//! Many keys and many callers, some of which behave badly.

use std::sync::Arc;
use std::time::Duration;

use tagcache::Error;
use tagcache_tests::Server;
use tokio::sync::Semaphore;

use crate::support::{Calls, builder, cache_at, connected, eventually, long, run};

#[test]
fn five_hundred_callers_in_ten_caches_cause_one_load() {
    let server = Server::start();
    run(async {
        let mut caches = Vec::new();
        for _ in 0..10 {
            caches.push(cache_at(&server).await);
        }
        let (calls, open) = (Calls::default(), Arc::new(Semaphore::new(0)));
        let mut callers = Vec::new();
        for n in 0..500 {
            let (cache, calls, open) = (
                caches[n % caches.len()].clone(),
                calls.clone(),
                Arc::clone(&open),
            );
            callers.push(tokio::spawn(async move {
                let loader = move || async move {
                    calls.note();
                    let _open = open.acquire().await;
                    Ok::<_, String>("value".to_owned())
                };
                cache.get_or_load("key", long(), loader).await
            }));
        }
        eventually("everybody waits", async || {
            let stats: Vec<_> = caches.iter().map(tagcache::Cache::stats).collect();
            let joined: u64 = stats.iter().map(|stats| stats.joined).sum();
            let waits: u64 = stats.iter().map(|stats| stats.lease_waits).sum();
            joined == 490 && waits == 9
        })
        .await;
        open.add_permits(1);
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap(), "value");
        }
        assert_eq!(calls.count(), 1);
    });
}

#[test]
fn more_waits_than_connections_are_served_in_turn() {
    let server = Server::start();
    run(async {
        let loading = cache_at(&server).await;
        let waiting = connected(builder(server.port()).max_waiting_connections(2)).await;
        let open = Arc::new(Semaphore::new(0));
        let ask = |cache: &tagcache::Cache, n: usize, value: &'static str| {
            let (cache, open) = (cache.clone(), Arc::clone(&open));
            tokio::spawn(async move {
                let loader = move || async move {
                    let _open = open.acquire().await;
                    Ok::<_, String>(value.to_owned())
                };
                cache.get_or_load(&format!("key{n}"), long(), loader).await
            })
        };
        let first: Vec<_> = (0..20).map(|n| ask(&loading, n, "loaded")).collect();
        eventually("all are being loaded", async || loading.stats().loads == 20).await;
        let second: Vec<_> = (0..20).map(|n| ask(&waiting, n, "not loaded")).collect();
        eventually("all wait", async || waiting.stats().lease_waits == 20).await;
        open.add_permits(1);
        for caller in first.into_iter().chain(second) {
            assert_eq!(caller.await.unwrap().unwrap(), "loaded");
        }
        assert_eq!(waiting.stats().loads, 0);
    });
}

#[test]
fn reads_continue_while_other_calls_wait() {
    let server = Server::start();
    run(async {
        let (loading, cache) = (cache_at(&server).await, cache_at(&server).await);
        let open = Arc::new(Semaphore::new(0));
        let load = |cache: &tagcache::Cache| {
            let (cache, open) = (cache.clone(), Arc::clone(&open));
            tokio::spawn(async move {
                let loader = move || async move {
                    let _open = open.acquire().await;
                    Ok::<_, String>("value".to_owned())
                };
                cache.get_or_load("slow", long(), loader).await
            })
        };
        let first = load(&loading);
        eventually("it is being loaded", async || loading.stats().loads == 1).await;
        let second = load(&cache);
        eventually("the other waits", async || cache.stats().lease_waits == 1).await;
        // A wait on the main connection would hold these up.
        for n in 0..100 {
            cache.set("other", &n, long()).await.unwrap();
            assert_eq!(cache.get::<i32>("other").await.unwrap(), Some(n));
        }
        open.add_permits(1);
        assert_eq!(first.await.unwrap().unwrap(), "value");
        assert_eq!(second.await.unwrap().unwrap(), "value");
    });
}

#[test]
fn cancelled_calls_leave_no_leases() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        for n in 0..300 {
            let key = format!("key{}", n % 7);
            let loader = || async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok::<_, String>("value".to_owned())
            };
            let within = Duration::from_micros(50 * (n % 40));
            let call = cache.get_or_load(&key, long().tags(["tag"]), loader);
            let _: Result<Result<String, Error>, _> = tokio::time::timeout(within, call).await;
            let _ = tokio::time::timeout(within, cache.get::<String>(&key)).await;
            let _ = tokio::time::timeout(within, cache.set(&key, &"set".to_owned(), long())).await;
            let _ = tokio::time::timeout(within, cache.invalidate_tags(["tag"])).await;
        }
        eventually("no lease is left", async || {
            let stats = cache.server_stats().await.remove(0).1.unwrap();
            stats["leases"] == 0.0 && stats["lease_waiters"] == 0.0
        })
        .await;
    });
}
