//! Stale values: served while a fresh one is loaded, and when a loader fails; never longer than their grace.

use std::sync::Arc;
use std::time::Duration;

use tagcache::{Cache, Entry, Error};
use tagcache_tests::{DEADLINE, Server};
use tokio::sync::Notify;

use crate::support::{Calls, cache_at, eventually, on_server, run};

const GRACE: Duration = Duration::from_secs(300);

/// Loads `value` once `open` permits it.
async fn load_when(
    cache: &Cache,
    entry: Entry<[&'static str; 1]>,
    value: &str,
    calls: &Calls,
    open: &Arc<Notify>,
) -> Result<String, Error> {
    let (value, calls, open) = (value.to_owned(), calls.clone(), Arc::clone(open));
    let loader = move || async move {
        calls.note();
        open.notified().await;
        Ok::<_, String>(value)
    };
    cache.get_or_load("key", entry, loader).await
}

/// An entry that has just become stale.
async fn store_stale_value(cache: &Cache, server: &Server) {
    let entry = Entry::ttl(Duration::from_secs(600))
        .grace(GRACE)
        .tags(["tag"]);
    cache.set("key", &"old".to_owned(), entry).await.unwrap();
    cache.revalidate_tags(["tag"]).await.unwrap();
    assert_eq!(
        on_server(&mut server.raw(), "key"),
        None,
        "CACHE.GET shows no stale value"
    );
}

fn entry() -> Entry<[&'static str; 1]> {
    Entry::ttl(Duration::from_secs(600))
        .grace(GRACE)
        .tags(["tag"])
}

#[test]
fn stale_value_is_served_while_one_caller_refreshes_it() {
    let server = Server::start();
    run(async {
        let caches = [
            cache_at(&server).await,
            cache_at(&server).await,
            cache_at(&server).await,
        ];
        let (calls, open) = (Calls::default(), Arc::new(Notify::new()));
        store_stale_value(&caches[0], &server).await;
        for _ in 0..5 {
            for cache in &caches {
                let value = load_when(cache, entry(), "new", &calls, &open).await;
                assert_eq!(value.unwrap(), "old");
            }
        }
        eventually("one loader runs", async || calls.count() == 1).await;
        open.notify_one();
        eventually("the new value is there", async || {
            load_when(&caches[1], entry(), "newer", &calls, &open)
                .await
                .unwrap()
                == "new"
        })
        .await;
        assert_eq!(calls.count(), 1);
        assert!(
            caches
                .iter()
                .map(|cache| cache.stats().stale_served)
                .sum::<u64>()
                >= 15
        );
        assert_eq!(
            caches
                .iter()
                .map(|cache| cache.stats().refreshes)
                .sum::<u64>(),
            1
        );
    });
}

#[test]
fn get_returns_no_stale_value() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        store_stale_value(&cache, &server).await;
        assert_eq!(cache.get::<String>("key").await.unwrap(), None);
        assert_eq!(cache.get_many::<String>(["key"]).await.unwrap(), [None]);
    });
}

#[test]
fn soft_timeout_waits_for_quick_loads_only() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let (calls, open) = (Calls::default(), Arc::new(Notify::new()));
        store_stale_value(&cache, &server).await;
        open.notify_one();
        let patient = entry().soft_timeout(Duration::from_secs(20));
        assert_eq!(
            load_when(&cache, patient, "new", &calls, &open)
                .await
                .unwrap(),
            "new"
        );
        // And a slow one is not.
        store_stale_value(&cache, &server).await;
        let impatient = entry().soft_timeout(Duration::from_millis(50));
        assert_eq!(
            load_when(&cache, impatient, "newer", &calls, &open)
                .await
                .unwrap(),
            "old"
        );
        open.notify_one();
        eventually("the load goes on behind it", async || {
            cache.get::<String>("key").await.unwrap().as_deref() == Some("newer")
        })
        .await;
    });
}

#[test]
fn failing_loader_keeps_the_stale_value_and_is_throttled() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let calls = Calls::default();
        store_stale_value(&cache, &server).await;
        // A lease that is not released would block all callers for longer than this test waits.
        let patient = entry()
            .soft_timeout(Duration::from_secs(20))
            .hard_timeout(2 * DEADLINE);
        let fail = async |cache: &Cache| -> Result<String, Error> {
            let calls = calls.clone();
            let loader = move || async move {
                calls.note();
                Err::<String, _>("no database")
            };
            cache.get_or_load("key", patient, loader).await
        };
        for _ in 0..200 {
            assert_eq!(fail(&cache).await.unwrap(), "old");
        }
        // Each failure keeps the fleet from trying again for a second.
        assert!(calls.count() < 100, "{} calls", calls.count());
        assert!(cache.stats().fail_safe >= 1);
        // When the loader works again, the new value is served.
        eventually("the loader is tried again", async || {
            let loaded = cache
                .get_or_load("key", entry(), || async {
                    Ok::<_, String>("new".to_owned())
                })
                .await;
            loaded.unwrap() == "new"
        })
        .await;
    });
}

#[test]
fn without_grace_a_soft_invalidation_is_a_hard_one() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let bare = Entry::ttl(Duration::from_secs(600)).tags(["tag"]);
        cache.set("key", &"old".to_owned(), bare).await.unwrap();
        assert_eq!(cache.revalidate_tags(["tag"]).await.unwrap(), 1);
        let loaded = cache
            .get_or_load("key", bare, || async { Ok::<_, String>("new".to_owned()) })
            .await;
        assert_eq!(loaded.unwrap(), "new");
    });
}

#[test]
fn early_refresh_makes_a_slow_value_stale_before_its_ttl_ends() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let ttl = Duration::from_secs(1000);
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok::<_, String>("value".to_owned())
        };
        cache
            .get_or_load("plain", Entry::ttl(ttl), slow)
            .await
            .unwrap();
        // β is exaggerated, so that the early refresh takes the maximum: half of the TTL.
        cache
            .get_or_load("early", Entry::ttl(ttl).early_refresh(1e6), slow)
            .await
            .unwrap();
        let mut client = server.raw();
        let mut logical = |key: &str| client.call(&["CACHE.FETCH", key]).items()[2].int() / 1000;
        assert!((990..=1000).contains(&logical("plain")));
        assert!((490..=500).contains(&logical("early")));
        // For the rest of the time it is stale, so that one caller refreshes it while all others get it.
        let ttl = server.raw().call(&["TTL", "early"]).int();
        assert!((990..=1000).contains(&ttl), "{ttl}");
    });
}
