//! Data that a server refuses, and lists that are sent in portions: no other call has to wait for them.

use std::sync::Arc;
use std::time::Duration;

use tagcache::{Cache, Entry, Error, Remedy};
use tagcache_tests::proxy::{Proxy, Weather};
use tagcache_tests::{DEADLINE, Server, args};
use tokio::sync::{Barrier, Notify};

use crate::support::{
    builder, cache_at, connected, eventually, is_local, long, on_server, run, warm,
};

/// A loader that returns at once.
fn returns<T>(value: T) -> std::future::Ready<Result<T, String>> {
    std::future::ready(Ok(value))
}

#[test]
fn unstorable_value_is_returned_and_its_lease_released() {
    let server = Server::builder()
        .module_args(&["tagcache.max-tags-per-entry", "128"])
        .start();
    run(async {
        let (cache, other) = (cache_at(&server).await, cache_at(&server).await);
        let many: Vec<String> = (0..200).map(|n| format!("tag{n}")).collect();
        let cases: [(&str, Vec<String>, f64); 4] = [
            ("long", vec!["t".repeat(600)], 1.0),
            ("many", many, 1.0),
            ("empty", vec![String::new()], 1.0),
            ("NaN", vec!["tag".to_owned()], f64::NAN),
        ];
        for (n, (key, tags, value)) in cases.iter().enumerate() {
            let value = *value;
            let entry = long().tags(tags);
            let loaded = cache.get_or_load(key, entry, move || returns(value)).await;
            assert_eq!(loaded.unwrap().to_bits(), value.to_bits(), "{key}");
            assert_eq!(cache.stats().unstorable, n as u64 + 1, "{key}");
            let loaded = other.get_or_load(key, long(), || returns(2.0_f64)).await;
            assert_eq!(loaded.unwrap().to_bits(), 2.0_f64.to_bits());
            assert_eq!(other.stats().lease_waits, 0, "{key}");
            assert_eq!(
                on_server(&mut server.raw(), key).as_deref(),
                Some("2.0"),
                "{key}"
            );
            // A caller that cannot store keeps no other one from refreshing, and gets the existing value.
            other.set(key, &3.0, long()).await.unwrap();
            let loaded = cache.get_or_load(key, long().tags(tags), || returns(4.0_f64));
            assert_eq!(loaded.await.unwrap().to_bits(), 3.0_f64.to_bits(), "{key}");
        }
        let named = ["twice"; 200];
        cache.set("key", &1, long().tags(&named)).await.unwrap();
        let error = cache.set("key", &1, long().tags([""])).await.unwrap_err();
        assert_eq!(error.remedy(), Remedy::FixCall);
        assert_eq!(cache.get("key").await.unwrap(), Some(1));
    });
}

#[test]
fn one_invalid_tag_does_not_prevent_invalidating_the_others() {
    let server = Server::start();
    server.raw().call(&[
        "ACL", "SETUSER", "app", "on", ">secret", "~key*", "~good*", "&*", "+@all",
    ]);
    run(async {
        let other = cache_at(&server).await;
        let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
        let cache = connected(Cache::builder(url)).await;
        let good: Vec<String> = (0..9).map(|n| format!("good{n}")).collect();
        for bad in ["", "denied"] {
            for (n, tag) in good.iter().enumerate() {
                let key = format!("key{n}");
                other.set(&key, &1, long().tags([tag])).await.unwrap();
            }
            let mut tags = good.clone();
            tags.insert(4, bad.to_owned());
            cache.invalidate_tags(&tags).await.unwrap_err();
            for n in 0..9 {
                let key = format!("key{n}");
                assert_eq!(on_server(&mut server.raw(), &key), None, "{key}, {bad:?}");
            }
        }
    });
}

#[test]
fn denied_tag_does_not_block_other_missed_tags() {
    let server = Server::start();
    let rule = "ACL SETUSER app on >secret ~key* ~good* &* +@all";
    let rule: Vec<&str> = rule.split(' ').collect();
    server.raw().call(&rule);
    run(async {
        let proxy = Proxy::before(server.port()).await;
        let url = format!("redis://app:secret@127.0.0.1:{}", proxy.port());
        let probing = Cache::builder(url).probe(Duration::from_millis(50), Duration::from_secs(2));
        let cache = connected(probing).await;
        let entry = long().tags(["good"]);
        cache.set("key", &1, entry).await.unwrap();
        cache.invalidate_tags(["denied"]).await.unwrap_err();
        proxy.turn(Weather::Cut);
        cache.invalidate_tags(["good"]).await.unwrap_err();
        proxy.turn(Weather::Fair);
        let mut read = None;
        eventually("the server is read again", async || {
            read = cache.get::<i32>("key").await.ok();
            read.is_some()
        })
        .await;
        assert_eq!(read, Some(None));
        assert_eq!(cache.stats().servers[0].missed_invalidations, 1);
        server.raw().call(&["ACL", "SETUSER", "app", "~denied"]);
        eventually("the other is sent too", async || {
            cache.stats().servers[0].missed_invalidations == 0
        })
        .await;
    });
}

#[test]
fn large_reads_and_invalidations_stay_below_the_output_limits() {
    let server = Server::builder()
        .arg("--client-output-buffer-limit", "pubsub 8mb 8mb 60")
        .start();
    run(async {
        // This test does not check how long it takes.
        let slowly = || connected(builder(server.port()).command_timeout(DEADLINE));
        let (cache, subscriber) = (slowly().await, slowly().await);
        let mut raw = server.raw();
        let value = format!("\"{}\"", "x".repeat(4 << 10));
        let keys: Vec<String> = (0..5000).map(|n| format!("key{n}")).collect();
        for key in &keys {
            raw.call(&["CACHE.SET", key, &value]);
        }
        let read = cache.get_many::<String>(&keys).await.unwrap();
        assert!(read.iter().all(Option::is_some));
        let tags: Vec<String> = (0..30_000).map(|n| format!("{n:0500}")).collect();
        cache.invalidate_tags(&tags).await.unwrap();
        assert_eq!(subscriber.get::<String>("none").await.unwrap(), None);
        for cache in [cache, subscriber] {
            assert_eq!(cache.stats().connections_lost, 0);
        }
    });
}

#[test]
fn get_many_returns_the_values_that_can_be_decoded() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        cache.set("good", &1, long()).await.unwrap();
        server.raw().call(&["CACHE.SET", "bad", "{"]);
        let keys = ["good", "bad", "none"];
        let values = cache.get_many::<i32>(keys).await.unwrap();
        assert_eq!(values, [Some(1), None, None]);
        assert_eq!(cache.stats().undecodable, 1);
        let mut each = cache.get_each::<i32>(keys).await.into_iter();
        assert_eq!(each.next().unwrap().unwrap(), Some(1));
        let error = each.next().unwrap().unwrap_err();
        assert!(matches!(&error, Error::Codec { key, .. } if key == "bad"));
        assert_eq!(each.next().unwrap().unwrap(), None);
    });
}

#[test]
fn forever_overrides_the_default_ttl_of_the_server() {
    let server = Server::builder()
        .module_args(&["tagcache.default-ttl-ms", "50"])
        .start();
    run(async {
        let cache = cache_at(&server).await;
        cache.set("set", &1, Entry::forever()).await.unwrap();
        let load = cache.get_or_load("loaded", Entry::forever(), || returns(1));
        load.await.unwrap();
        let mut raw = server.raw();
        raw.call(&["CACHE.SET", "default", "1"]);
        eventually("the default TTL ends", async || {
            on_server(&mut raw, "default").is_none()
        })
        .await;
        for key in ["set", "loaded"] {
            assert_eq!(on_server(&mut raw, key).as_deref(), Some("1"), "{key}");
        }
    });
}

#[test]
fn invalidate_where_keeps_other_entries_in_the_local_tier() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        for (key, tags) in [("red", vec!["a", "b"]), ("blue", vec!["b"])] {
            cache
                .set(key, &key.to_owned(), long().tags(tags))
                .await
                .unwrap();
            warm(&cache, key).await.unwrap();
        }
        for (word, soft) in [("ALL", false), ("ANY", true)] {
            let mut words = args!["CACHE.INVALIDATEWHERE", word, 1, "a", "NONE", 1, "c"];
            if soft {
                words.push("SOFT".into());
            }
            cache
                .set("red", &"red".to_owned(), long().tags(["a"]))
                .await
                .unwrap();
            warm(&cache, "red").await.unwrap();
            server.raw().call(&words);
            eventually("the matching entry is gone", async || {
                !is_local(&cache, "red").await
            })
            .await;
            assert!(is_local(&cache, "blue").await, "{word}");
        }
        // The clause matches any entry without the tag, so none may stay.
        server
            .raw()
            .call(&args!["CACHE.INVALIDATEWHERE", "NONE", 1, "c"]);
        eventually("all are gone", async || !is_local(&cache, "blue").await).await;
    });
}

#[test]
fn local_values_are_weighed_by_their_uncompressed_size() {
    let server = Server::start();
    run(async {
        let small = builder(server.port()).compress_from(1000);
        let cache = connected(small).await;
        let zeros = "0".repeat(1 << 20);
        cache.set("key", &zeros, long()).await.unwrap();
        warm(&cache, "key").await.unwrap();
        let local = cache.stats().local;
        assert!(local.bytes >= 2 << 20, "{} bytes", local.bytes);
        assert_eq!(local.max_bytes, Some(256 << 20));
        // The caller states the weight.
        cache.set("stated", &1, long()).await.unwrap();
        let before = cache.stats().local.bytes;
        let entry = long().weight(5 << 20);
        cache
            .get_or_load("stated", entry, || returns(2))
            .await
            .unwrap();
        assert!(cache.stats().local.bytes >= before + (5 << 20));
    });
}

#[test]
fn miss_is_counted_once_if_a_stale_value_is_served() {
    let server = Server::start();
    run(async {
        let stale = builder(server.port())
            .command_timeout(Duration::from_millis(200))
            .serve_stale_while_unreachable(Duration::from_secs(600));
        let cache = connected(stale).await;
        cache.set("key", &"value".to_owned(), long()).await.unwrap();
        warm(&cache, "key").await.unwrap();
        server.pause();
        eventually("the server is away", async || {
            !cache.stats().servers[0].is_connected()
        })
        .await;
        let before = cache.stats().local.misses;
        assert_eq!(
            cache.get::<String>("key").await.unwrap().as_deref(),
            Some("value")
        );
        assert_eq!(cache.stats().local.misses, before + 1);
        server.resume();
    });
}

#[test]
fn callers_do_not_queue_behind_failing_loaders() {
    let server = Server::start();
    run(async {
        let first = cache_at(&server).await;
        let go = Arc::new(Notify::new());
        // Held until the waiting callers have waited long enough.
        let entry = long().hard_timeout(4 * DEADLINE);
        let failing = tokio::spawn({
            let go = Arc::clone(&go);
            async move {
                let loader = move || async move {
                    go.notified().await;
                    Err::<i32, _>("down")
                };
                first.get_or_load("key", entry, loader).await
            }
        });
        eventually("it loads", async || leases(&server) == 1).await;
        // All of them must be loading at the same time before one of them fails.
        let together = Arc::new(Barrier::new(4));
        let mut others = Vec::new();
        for _ in 0..4 {
            let cache = cache_at(&server).await;
            let together = Arc::clone(&together);
            let waiting = cache.clone();
            others.push(tokio::spawn(async move {
                let loader = move || async move {
                    together.wait().await;
                    Err::<i32, _>("down")
                };
                cache.get_or_load("key", entry, loader).await
            }));
            eventually("it waits", async || waiting.stats().lease_waits == 1).await;
        }
        tokio::time::sleep(Duration::from_millis(2100)).await;
        go.notify_one();
        assert!(matches!(failing.await.unwrap(), Err(Error::Loader { .. })));
        for other in others {
            let loaded = tokio::time::timeout(DEADLINE, other).await;
            let loaded = loaded.expect("nobody waits for its turn").unwrap();
            assert!(matches!(loaded, Err(Error::Loader { .. })), "{loaded:?}");
        }
    });
}

/// The number of leases that the server reports as held.
fn leases(server: &Server) -> u64 {
    let stats: std::collections::HashMap<String, String> = redis::cmd("CACHE.STATS")
        .query(&mut server.connection())
        .unwrap();
    stats["leases"].parse().unwrap()
}

#[test]
fn lease_is_released_if_the_connection_breaks_during_the_set() {
    let server = Server::start();
    run(async {
        let proxy = Arc::new(Proxy::before(server.port()).await);
        let cache = connected(builder(proxy.port())).await;
        let (storing, entry) = (Arc::clone(&proxy), long().hard_timeout(2 * DEADLINE));
        let loader = move || async move {
            storing.turn(Weather::Cut);
            returns(1).await
        };
        let loaded = cache.get_or_load("key", entry, loader).await;
        assert_eq!(loaded.unwrap(), 1);
        assert_eq!(leases(&server), 1);
        proxy.turn(Weather::Fair);
        eventually("the lease is given back", async || leases(&server) == 0).await;
    });
}

#[test]
fn lease_is_released_if_its_reply_was_lost() {
    let server = Server::start();
    let known = server
        .raw()
        .call(&args!["CACHE.FETCH", "probe", "LEASE", 1, "TOKEN", 7]);
    if format!("{known:?}").contains("ERR") {
        println!("this module lets nobody choose a token: skipped");
        return;
    }
    run(async {
        let cache = connected(
            builder(server.port())
                .command_timeout(Duration::from_millis(100))
                // The connection outlives the pause.
                .probe(Duration::from_secs(600), Duration::from_secs(600)),
        )
        .await;
        server.pause();
        let mut calls = Vec::new();
        for n in 0..20 {
            let cache = cache.clone();
            calls.push(tokio::spawn(async move {
                let entry = long().hard_timeout(2 * DEADLINE);
                cache
                    .get_or_load(&format!("key{n}"), entry, || returns(1))
                    .await
            }));
        }
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap(), 1);
        }
        server.resume();
        let other = cache_at(&server).await;
        eventually("all leases are given back", async || leases(&server) == 0).await;
        for n in 0..20 {
            let key = format!("key{n}");
            other
                .get_or_load(&key, long(), || returns(2))
                .await
                .unwrap();
        }
        assert_eq!(other.stats().lease_waits, 0);
    });
}
