//! Single flight in a process: who may have what is being loaded, and what ends a flight.

use std::sync::Arc;
use std::time::Duration;

use tagcache::{Cache, Entry, Error};
use tagcache_tests::{Server, args};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::support::{builder, cache_at, connected, eventually, long, on_server, run};

/// Loads `value` under `tag` after `open` lets it.
fn load_when(
    cache: &Cache,
    entry: Entry<[&'static str; 1]>,
    value: &'static str,
    open: &Arc<Notify>,
) -> JoinHandle<Result<String, Error>> {
    let (cache, open) = (cache.clone(), Arc::clone(open));
    tokio::spawn(async move {
        let loader = move || async move {
            open.notified().await;
            Ok::<_, String>(value.to_owned())
        };
        cache.get_or_load("key", entry, loader).await
    })
}

async fn load(cache: &Cache, entry: Entry<[&'static str; 1]>, value: &str) -> String {
    let value = value.to_owned();
    let loaded = cache.get_or_load("key", entry, move || async move { Ok::<_, String>(value) });
    loaded.await.unwrap()
}

#[test]
fn who_invalidates_a_tag_of_a_value_that_was_just_found_does_not_get_it() {
    let server = Server::start();
    run(async {
        let slow = builder(server.port()).entering_delay(Duration::from_millis(300));
        let cache = connected(slow).await;
        let tagged = args!["CACHE.SET", "key", r#""old""#, "TAGS", 1, "theirs"];
        server.raw().call(&tagged);
        let first = tokio::spawn({
            let cache = cache.clone();
            async move { load(&cache, long().tags(["mine"]), "never loaded").await }
        });
        eventually("the value was found", async || {
            let stats = cache.server_stats().await.remove(0).1.unwrap();
            stats.get("hits") == Some(1.0)
        })
        .await;
        // Its tag is not one that the flight was announced with.
        cache.invalidate_tags(["theirs"]).await.unwrap();
        assert_eq!(load(&cache, long().tags(["mine"]), "new").await, "new");
        assert_eq!(first.await.unwrap(), "old");
    });
}

#[test]
fn what_a_loader_read_before_an_invalidation_is_not_kept_without_a_server_either() {
    let server = Server::start();
    run(async {
        let stale = builder(server.port())
            .command_timeout(Duration::from_millis(200))
            .probe(Duration::from_millis(50), Duration::from_millis(200))
            .serve_stale_while_unreachable(Duration::from_secs(600));
        let cache = connected(stale).await;
        server.pause();
        eventually("the server is away", async || {
            !cache.stats().servers[0].is_connected()
        })
        .await;
        let entry = long().tags(["tag"]);
        let open = Arc::new(Notify::new());
        for by_key in [false, true] {
            let loads = cache.stats().loads;
            let before = load_when(&cache, entry, "old", &open);
            eventually("it is being loaded", async || cache.stats().loads > loads).await;
            if by_key {
                cache.remove("key").await.unwrap_err();
            } else {
                cache.invalidate_tags(["tag"]).await.unwrap_err();
            }
            open.notify_one();
            assert_eq!(before.await.unwrap().unwrap(), "old");
            assert_eq!(load(&cache, entry, "new").await, "new", "by key: {by_key}");
            // This one was not overtaken and is kept.
            assert_eq!(load(&cache, entry, "newer").await, "new");
            cache.remove("key").await.unwrap_err();
        }
        server.resume();
    });
}

#[test]
fn passengers_survive_the_runtime_of_their_pilot() {
    let server = Server::start();
    let doomed = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    run(async {
        let cache = cache_at(&server).await;
        let never = Arc::new(Notify::new());
        let entry = long()
            .tags(["tag"])
            .hard_timeout(Duration::from_millis(500));
        {
            let _inside = doomed.enter();
            drop(load_when(&cache, entry, "lost", &never));
        }
        eventually("it is being loaded", async || cache.stats().loads == 1).await;
        let passenger = tokio::spawn({
            let cache = cache.clone();
            async move { load(&cache, entry, "mine").await }
        });
        eventually("the other waits for it", async || cache.stats().joined == 1).await;
        doomed.shutdown_background();
        assert_eq!(passenger.await.unwrap(), "mine");
    });
}

#[test]
fn a_new_type_takes_the_place_of_the_old_one_also_where_the_old_one_is_waited_for() {
    let server = Server::start();
    run(async {
        let (old, new) = (cache_at(&server).await, cache_at(&server).await);
        let open = Arc::new(Notify::new());
        let text = load_when(&old, long().tags(["tag"]), "text", &open);
        eventually("the old one loads", async || old.stats().loads == 1).await;
        let number = tokio::spawn({
            let new = new.clone();
            async move {
                new.get_or_load("key", long(), || async { Ok::<_, String>(7_u32) })
                    .await
            }
        });
        eventually("the new one waits", async || new.stats().lease_waits == 1).await;
        open.notify_one();
        assert_eq!(text.await.unwrap().unwrap(), "text");
        assert_eq!(number.await.unwrap().unwrap(), 7);
        assert_eq!(on_server(&mut server.raw(), "key").as_deref(), Some("7"));
    });
}

#[test]
fn a_stale_value_that_nobody_can_read_any_more_is_loaded_anew() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let mut other = server.raw();
        let broken = args![
            "CACHE.SET",
            "key",
            "{half",
            "GRACE",
            600_000,
            "TAGS",
            1,
            "tag"
        ];
        other.call(&broken);
        other.call(&["CACHE.REVALIDATE", "tag"]);
        assert_eq!(load(&cache, long().tags(["tag"]), "whole").await, "whole");
        assert_eq!(on_server(&mut other, "key").as_deref(), Some(r#""whole""#));
    });
}

#[test]
fn a_load_inside_a_load_of_the_same_key_ends_with_the_hard_time_out() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let entry = long().hard_timeout(Duration::from_millis(300));
        let inner = cache.clone();
        let loader = move || async move {
            let again = || async { Ok::<_, String>("inner".to_owned()) };
            inner.get_or_load("key", entry, again).await
        };
        let error = cache.get_or_load("key", entry, loader).await.unwrap_err();
        assert!(matches!(error, Error::LoadTimeout { .. }), "{error}");
        assert_eq!(load(&cache, long().tags(["tag"]), "value").await, "value");
    });
}
