//! Single flight in a process: which callers get a loaded value, and how a load ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tagcache::{Cache, Codec, Entry, Error, ServerState};
use tagcache_tests::{DEADLINE, Server, args};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::support::{Slow, builder, cache_at, connected, eventually, long, on_server, run};

/// Loads `value` under `tag` once `open` permits it.
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

async fn load<C: Codec<String>>(
    cache: &Cache<C>,
    entry: Entry<[&'static str; 1]>,
    value: &str,
) -> String {
    let value = value.to_owned();
    let loaded = cache.get_or_load("key", entry, move || async move { Ok::<_, String>(value) });
    loaded.await.unwrap()
}

/// Stops the server's replies, until the cache has noticed.
async fn hang(server: &Server, cache: &Cache) {
    server.pause();
    eventually("the server is away", async || {
        !cache.stats().servers[0].is_connected()
    })
    .await;
}

/// A cache that serves its held values because its server cannot be reached.
async fn cache_without_its_server(server: &Server) -> Cache {
    let stale = builder(server.port())
        .command_timeout(Duration::from_millis(200))
        .probe(Duration::from_millis(50), Duration::from_millis(200))
        .serve_stale_while_unreachable(Duration::from_secs(600));
    let cache = connected(stale).await;
    hang(server, &cache).await;
    cache
}

#[test]
fn caller_does_not_get_a_value_it_has_just_invalidated() {
    let server = Server::start();
    run(async {
        let slow = builder(server.port()).codec(Slow(Duration::from_millis(300)));
        let cache = connected(slow).await;
        let tagged = args!["CACHE.SET", "key", r#""old""#, "TAGS", 1, "theirs"];
        server.raw().call(&tagged);
        let first = tokio::spawn({
            let cache = cache.clone();
            async move { load(&cache, long().tags(["mine"]), "never loaded").await }
        });
        eventually("the value was found", async || {
            let stats = cache.server_stats().await.remove(0).1.unwrap();
            stats["hits"] as u64 == 1
        })
        .await;
        // The load was not announced with this tag.
        cache.invalidate_tags(["theirs"]).await.unwrap();
        assert_eq!(load(&cache, long().tags(["mine"]), "new").await, "new");
        assert_eq!(first.await.unwrap(), "old");
    });
}

#[test]
fn overtaken_load_is_not_kept_even_without_a_server() {
    let server = Server::start();
    run(async {
        let cache = cache_without_its_server(&server).await;
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
            // This load was not overtaken, so its value is kept.
            assert_eq!(load(&cache, entry, "newer").await, "new");
            cache.remove("key").await.unwrap_err();
        }
        server.resume();
    });
}

#[test]
fn value_loaded_without_a_server_expires_after_its_ttl() {
    let server = Server::start();
    run(async {
        let cache = cache_without_its_server(&server).await;
        let brief = Entry::ttl(Duration::from_millis(300)).tags(["tag"]);
        assert_eq!(load(&cache, brief, "first").await, "first");
        eventually("it expires", async || {
            load(&cache, brief, "third").await == "third"
        })
        .await;
        server.resume();
    });
}

#[test]
fn waiter_loads_if_the_runtime_of_the_load_ends() {
    let server = Server::start();
    let short_lived = tokio::runtime::Builder::new_multi_thread()
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
            let _inside = short_lived.enter();
            drop(load_when(&cache, entry, "lost", &never));
        }
        eventually("it is being loaded", async || cache.stats().loads == 1).await;
        let waiting = tokio::spawn({
            let cache = cache.clone();
            async move { load(&cache, entry, "mine").await }
        });
        eventually("the other waits for it", async || cache.stats().joined == 1).await;
        short_lived.shutdown_background();
        assert_eq!(waiting.await.unwrap(), "mine");
    });
}

#[test]
fn value_of_a_new_type_replaces_the_one_waited_for() {
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
fn undecodable_stale_value_is_loaded_again() {
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
fn nested_load_of_the_same_key_ends_with_the_hard_timeout() {
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

#[test]
fn finish_pending_waits_for_loads_hits_and_invalidations() {
    let server = Server::start();
    run(async {
        let seldom = builder(server.port()).report_hits_every(Duration::from_secs(3600));
        let cache = connected(seldom).await;
        let open = Arc::new(Notify::new());
        cache.set("hot", &1, long()).await.unwrap();
        for _ in 0..100 {
            assert_eq!(cache.get("hot").await.unwrap(), Some(1));
        }
        let loading = load_when(&cache, long().tags(["tag"]), "value", &open);
        eventually("it is being loaded", async || cache.stats().loads == 1).await;
        loading.abort();
        let brief = Duration::from_millis(50);
        assert!(!cache.finish_pending(brief).await, "the loader still runs");
        assert!(on_server(&mut server.raw(), "key").is_none());
        open.notify_one();
        assert!(cache.finish_pending(DEADLINE).await);
        let mut other = server.raw();
        let top = cache.top(1).await.unwrap();
        assert_eq!((top[0].key.as_str(), top[0].hits), ("hot", 100));
        assert!(on_server(&mut other, "key").is_some());

        hang(&server, &cache).await;
        cache.invalidate_tags(["tag"]).await.unwrap_err();
        assert!(!cache.finish_pending(brief).await, "it has not been sent");
        server.resume();
        assert!(cache.finish_pending(DEADLINE).await);
        assert!(on_server(&mut other, "key").is_none());
    });
}

/// No lease is held on the server, long before one would have run out.
async fn wait_for_no_leases(cache: &Cache) {
    eventually("no lease is left", async || {
        let stats = cache.server_stats().await.remove(0).1.unwrap();
        stats["leases"] == 0.0
    })
    .await;
}

#[test]
fn lease_is_released_if_the_value_cannot_be_stored() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let entry = long().hard_timeout(2 * DEADLINE);
        // JSON does not allow such keys.
        let odd = || async { Ok::<_, String>(HashMap::from([((1, 2), 3)])) };
        let loaded = cache.get_or_load("key", entry, odd).await.unwrap();
        assert_eq!(loaded, HashMap::from([((1, 2), 3)]));
        wait_for_no_leases(&cache).await;

        let mut other = server.raw();
        other.call(&["CONFIG", "SET", "maxmemory", "1"]);
        let tagged = entry.tags(["tag"]);
        assert_eq!(load(&cache, tagged, "value").await, "value");
        assert!(on_server(&mut other, "key").is_none());
        wait_for_no_leases(&cache).await;
        assert_eq!(cache.stats().servers[0].state, ServerState::OutOfMemory);
        other.call(&["CONFIG", "SET", "maxmemory", "0"]);
        assert_eq!(load(&cache, tagged, "value").await, "value");
        assert!(on_server(&mut other, "key").is_some());
        eventually("it is seen to take writes again", async || {
            cache.set("other", &1, long()).await.unwrap();
            cache.stats().servers[0].state == ServerState::Up
        })
        .await;
    });
}

#[test]
fn end_of_an_overtaken_load_does_not_affect_the_next_one() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let entry = long().tags(["tag"]);
        let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let overtaken = load_when(&cache, entry, "old", &first);
        eventually("it is being loaded", async || cache.stats().loads == 1).await;
        cache.remove("key").await.unwrap();
        let current = load_when(&cache, entry, "new", &second);
        eventually("it is being loaded anew", async || cache.stats().loads == 2).await;
        first.notify_one();
        assert_eq!(overtaken.await.unwrap().unwrap(), "old");
        let late = load_when(&cache, entry, "never loaded", &second);
        eventually("the third joins the second", async || {
            cache.stats().joined == 1
        })
        .await;
        second.notify_one();
        assert_eq!(current.await.unwrap().unwrap(), "new");
        assert_eq!(late.await.unwrap().unwrap(), "new");
    });
}

/// Panics on the number 13.
#[derive(Clone, Copy, Debug)]
struct PanickingCodec;

impl Codec<u8> for PanickingCodec {
    fn encode(&self, value: &u8) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        assert_ne!(*value, 13, "a bug in a codec, on purpose");
        Ok(vec![*value])
    }

    fn decode(&self, bytes: &[u8]) -> Result<u8, Box<dyn std::error::Error + Send + Sync>> {
        Ok(bytes[0])
    }
}

#[test]
fn panicking_codec_is_an_error_and_the_key_can_be_loaded() {
    let server = Server::start();
    run(async {
        let cache = connected(builder(server.port()).codec(PanickingCodec)).await;
        let load = async |value: u8| {
            let entry = long().hard_timeout(Duration::from_millis(200));
            let loader = move || async move { Ok::<_, String>(value) };
            cache.get_or_load("key", entry, loader).await
        };
        let error = load(13).await.unwrap_err();
        assert!(matches!(error, Error::LoaderPanicked { .. }), "{error}");
        assert_eq!(load(7).await.unwrap(), 7);
    });
}

#[test]
fn entries_kept_during_an_outage_are_dropped_on_reconnect() {
    let server = Server::start();
    run(async {
        let stale = builder(server.port())
            .command_timeout(Duration::from_millis(200))
            .probe(Duration::from_secs(100), Duration::from_secs(100))
            .serve_stale_while_unreachable(Duration::from_secs(600));
        let cache = connected(stale).await;
        let entry = long().tags(["tag"]);
        assert_eq!(load(&cache, entry, "old").await, "old");
        eventually("it is held", async || {
            cache.get::<String>("key").await.unwrap();
            cache.stats().local.hits > 0
        })
        .await;
        let mut other = server.raw();
        other.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        other.call(&args!["CACHE.SET", "key", r#""new""#]);
        eventually("it is connected again", async || {
            let server = &cache.stats().servers[0];
            server.connects == 2 && server.is_connected()
        })
        .await;
        // Now there is a connection, without replies.
        server.pause();
        let read = cache.get::<String>("key").await;
        server.resume();
        assert!(read.is_err(), "{read:?}");
    });
}
