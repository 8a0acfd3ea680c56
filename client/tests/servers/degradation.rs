//! Servers and networks that fail: calls stay bounded, loaders and local tier go on, and the cache recovers by itself.

use std::time::{Duration, Instant};

use tagcache::{Cache, Entry, Error, Remedy, ServerState};
use tagcache_tests::proxy::{Proxy, Weather};
use tagcache_tests::{DEADLINE, Rng, Server, args, free_port};

use crate::support::{
    Calls, builder, cache_at, connected, eventually, is_local, long, on_server, run, warm,
};

fn state(cache: &Cache) -> ServerState {
    cache.stats().servers[0].state
}

async fn load(cache: &Cache, key: &str, value: &str) -> Result<String, Error> {
    let value = value.to_owned();
    cache
        .get_or_load(key, long().tags(["tag"]), move || async move {
            Ok::<_, String>(value)
        })
        .await
}

/// A cache behind a proxy, with time-outs that a test can wait for.
async fn behind(proxy: &Proxy) -> Cache {
    let building = builder(proxy.port())
        .probe(Duration::from_millis(100), Duration::from_millis(400))
        .command_timeout(Duration::from_millis(500));
    connected(building).await
}

#[test]
fn server_down_at_start_is_used_once_it_is_up() {
    let port = free_port();
    run(async {
        let cache = builder(port).build().await.unwrap();
        let error = cache.get::<String>("key").await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert_eq!(error.remedy(), Remedy::Retry);
        assert_eq!(load(&cache, "key", "loaded").await.unwrap(), "loaded");
        assert_eq!(state(&cache), ServerState::Down);
        assert!(cache.set("key", &1, long()).await.is_err());
        let proxied = Server::start();
        // No other process can start a server on that port: a proxy starts there instead.
        let passed = tokio::net::TcpListener::bind(("127.0.0.1", port))
            .await
            .unwrap();
        let target = proxied.port();
        let forward = tokio::spawn(async move {
            while let Ok((mut client, _)) = passed.accept().await {
                tokio::spawn(async move {
                    let mut server = tokio::net::TcpStream::connect(("127.0.0.1", target))
                        .await
                        .unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        cache.ready(DEADLINE).await.unwrap();
        assert_eq!(state(&cache), ServerState::Up);
        assert_eq!(load(&cache, "key", "stored").await.unwrap(), "stored");
        assert_eq!(
            on_server(&mut proxied.raw(), "key").as_deref(),
            Some(r#""stored""#)
        );
        forward.abort();
    });
}

#[test]
fn restarted_server_is_used_and_no_old_value_is_served() {
    let mut server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        cache.set("key", &"old".to_owned(), long()).await.unwrap();
        warm(&cache, "key").await;
        server.stop();
        eventually("the loss is noticed", async || {
            state(&cache) == ServerState::Down
        })
        .await;
        assert!(
            cache.get::<String>("key").await.is_err(),
            "the local tier went with the connection"
        );
        assert_eq!(load(&cache, "key", "loaded").await.unwrap(), "loaded");
        server.restart();
        cache.ready(DEADLINE).await.unwrap();
        assert_eq!(cache.get::<String>("key").await.unwrap(), None);
        assert_eq!(load(&cache, "key", "new").await.unwrap(), "new");
        let stats = cache.stats();
        assert_eq!(stats.servers[0].connects, 2);
        assert!(stats.connections_lost >= 1);
    });
}

#[test]
fn killed_connection_clears_the_local_tier() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        cache.set("key", &"value".to_owned(), long()).await.unwrap();
        warm(&cache, "key").await;
        server
            .raw()
            .call(&args!["CLIENT", "KILL", "TYPE", "pubsub"]);
        // The loss is counted a moment before the server counts as down, so `ready` alone would not show it.
        eventually("it is connected anew", async || {
            let stats = cache.stats();
            stats.connections_lost == 1 && stats.servers[0].connects == 2
        })
        .await;
        cache.ready(DEADLINE).await.unwrap();
        assert!(!is_local(&cache, "key").await);
        assert_eq!(warm(&cache, "key").await.as_deref(), Some("value"));
    });
}

#[test]
fn silently_dead_connection_is_detected_by_the_probe() {
    let server = Server::start();
    run(async {
        let proxy = Proxy::before(server.port()).await;
        let cache = behind(&proxy).await;
        let other = cache_at(&server).await;
        other.set("key", &"old".to_owned(), long()).await.unwrap();
        warm(&cache, "key").await;
        proxy.turn(Weather::Silent);
        other.set("key", &"new".to_owned(), long()).await.unwrap();
        // No push arrives. Only the probe notices.
        eventually("the probe fails", async || {
            state(&cache) == ServerState::Down
        })
        .await;
        assert!(
            cache.get::<String>("key").await.is_err(),
            "the old value is served no more"
        );
        proxy.turn(Weather::Fair);
        cache.ready(DEADLINE).await.unwrap();
        assert_eq!(
            cache.get::<String>("key").await.unwrap().as_deref(),
            Some("new")
        );
    });
}

#[test]
fn calls_to_an_unresponsive_server_time_out() {
    let server = Server::start();
    run(async {
        let proxy = Proxy::before(server.port()).await;
        let cache = behind(&proxy).await;
        proxy.turn(Weather::Silent);
        let start = Instant::now();
        let error = cache.get::<String>("key").await.unwrap_err();
        assert!(
            matches!(error, Error::Timeout { .. } | Error::Unreachable { .. }),
            "{error}"
        );
        assert_eq!(load(&cache, "key", "loaded").await.unwrap(), "loaded");
        assert!(cache.invalidate_tags(["tag"]).await.is_err());
        assert!(start.elapsed() < DEADLINE);
        eventually("it is known to be down", async || {
            state(&cache) == ServerState::Down
        })
        .await;
        // From here on no call waits for it.
        for n in 0..1000 {
            assert!(cache.get::<String>(&format!("key{n}")).await.is_err());
        }
    });
}

#[test]
fn calls_to_a_slow_server_still_work() {
    let server = Server::start();
    run(async {
        let proxy = Proxy::before(server.port()).await;
        let cache = behind(&proxy).await;
        proxy.turn(Weather::Slow(Duration::from_millis(50)));
        assert_eq!(load(&cache, "key", "value").await.unwrap(), "value");
        assert_eq!(warm(&cache, "key").await.as_deref(), Some("value"));
        // Far slower than a command time-out allows.
        proxy.turn(Weather::Slow(Duration::from_secs(3)));
        assert_eq!(load(&cache, "other", "loaded").await.unwrap(), "loaded");
        proxy.turn(Weather::Fair);
        eventually("it is as before", async || {
            cache.get::<String>("key").await.is_ok()
        })
        .await;
    });
}

#[test]
fn loads_succeed_while_connections_keep_breaking() {
    let server = Server::start();
    run(async {
        let proxy = Proxy::before(server.port()).await;
        let cache = behind(&proxy).await;
        let working = tokio::spawn({
            let cache = cache.clone();
            async move {
                let mut rng = Rng::new(3);
                for n in 0..400 {
                    let key = format!("key{}", rng.below(20));
                    assert_eq!(load(&cache, &key, &key).await.unwrap(), key, "call {n}");
                    let _ = cache.invalidate_tags(["tag"]).await;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        });
        while !working.is_finished() {
            for weather in [Weather::Cut, Weather::Fair] {
                proxy.turn(weather);
                tokio::time::sleep(Duration::from_millis(80)).await;
            }
        }
        working.await.unwrap();
        proxy.turn(Weather::Fair);
        cache.ready(DEADLINE).await.unwrap();
        eventually("what was missed has been sent", async || {
            cache.stats().servers[0].missed_invalidations == 0
        })
        .await;
    });
}

#[test]
fn garbled_replies_cause_errors_or_loads_but_no_panic() {
    let server = Server::start();
    run(async {
        let proxy = Proxy::before(server.port()).await;
        let cache = behind(&proxy).await;
        // How many bytes pass before a connection is given up depends on timing.
        for n in (0..1000).take_while(|n| *n < 100 || proxy.garbled() <= 10) {
            // Once the connection is given up nothing more can be garbled.
            if n % 5 == 0 {
                proxy.turn(Weather::Fair);
                cache.ready(DEADLINE).await.unwrap();
                proxy.turn(Weather::Garbled);
            }
            let key = format!("key{n}");
            // A value whose bytes were garbled cannot be decoded: no JSON contains 0xff.
            match load(&cache, &key, &key).await {
                Ok(value) => assert_eq!(value, key),
                Err(error) => assert_ne!(error.remedy(), Remedy::Loader, "{error}"),
            }
            if let Ok(Some(value)) = cache.get::<String>(&key).await {
                assert_eq!(value, key);
            }
            let _ = cache.get_many::<String>([&key, "other"]).await;
            let _ = cache.invalidate_tags(["tag"]).await;
            let _ = cache.top(3).await;
            let _ = cache.server_stats().await;
        }
        assert!(
            proxy.garbled() > 10,
            "only {} bytes were garbled",
            proxy.garbled()
        );
        proxy.turn(Weather::Fair);
        eventually("it is as before", async || {
            load(&cache, "key", "value").await.is_ok() && state(&cache) == ServerState::Up
        })
        .await;
    });
}

#[test]
fn stale_values_are_served_during_an_outage_if_configured() {
    let mut server = Server::start();
    run(async {
        let cache = connected(
            builder(server.port()).serve_stale_while_unreachable(Duration::from_secs(600)),
        )
        .await;
        cache
            .set("key", &"old".to_owned(), long().tags(["tag"]))
            .await
            .unwrap();
        cache
            .set("other", &"old".to_owned(), long().tags(["other"]))
            .await
            .unwrap();
        warm(&cache, "key").await;
        warm(&cache, "other").await;
        server.stop();
        eventually("the loss is noticed", async || {
            state(&cache) == ServerState::Down
        })
        .await;
        assert_eq!(
            cache.get::<String>("key").await.unwrap().as_deref(),
            Some("old")
        );
        assert_eq!(load(&cache, "key", "loaded").await.unwrap(), "old");
        // An entry that this process itself invalidates is gone all the same.
        assert!(cache.invalidate_tags(["other"]).await.is_err());
        assert!(cache.get::<String>("other").await.is_err());
        // Values that are loaded meanwhile are kept, so that the loader's source is not flooded.
        let calls = Calls::default();
        for _ in 0..10 {
            let calls = calls.clone();
            let loader = move || async move {
                calls.note();
                Ok::<_, String>("loaded".to_owned())
            };
            assert_eq!(
                cache.get_or_load("new", long(), loader).await.unwrap(),
                "loaded"
            );
        }
        assert_eq!(calls.count(), 1);
        server.restart();
        cache.ready(DEADLINE).await.unwrap();
        for key in ["key", "other", "new"] {
            assert_eq!(
                cache.get::<String>(key).await.unwrap(),
                None,
                "{key} is of before"
            );
        }
        // It is not kept for the next outage.
        server.stop();
        eventually("the second loss is noticed", async || {
            state(&cache) == ServerState::Down
        })
        .await;
        assert!(cache.get::<String>("key").await.is_err());
    });
}

#[test]
fn stale_values_are_served_only_up_to_the_configured_time() {
    let mut server = Server::start();
    run(async {
        let cache = connected(
            builder(server.port()).serve_stale_while_unreachable(Duration::from_millis(200)),
        )
        .await;
        cache.set("key", &"old".to_owned(), long()).await.unwrap();
        warm(&cache, "key").await;
        server.stop();
        eventually("it is too old", async || {
            cache.get::<String>("key").await.is_err()
        })
        .await;
    });
}

#[test]
fn missing_module_is_distinguished_from_a_server_down() {
    let server = Server::builder().without_module().start();
    run(async {
        let cache = builder(server.port()).build().await.unwrap();
        let error = cache.ready(Duration::from_millis(1)).await.unwrap_err();
        assert!(matches!(error, Error::ModuleMissing { .. }), "{error}");
        assert!(error.to_string().contains("loadmodule"), "{error}");
        assert_eq!(error.remedy(), Remedy::FixServer);
        assert_eq!(state(&cache), ServerState::ModuleMissing);
        assert!(matches!(
            cache.get::<String>("key").await,
            Err(Error::ModuleMissing { .. })
        ));
        assert_eq!(load(&cache, "key", "loaded").await.unwrap(), "loaded");
    });
}

#[test]
fn server_is_used_once_the_module_is_loaded() {
    let mut server = Server::builder()
        .without_module()
        .arg("--enable-module-command", "yes")
        .start();
    run(async {
        let cache = builder(server.port()).build().await.unwrap();
        assert_eq!(state(&cache), ServerState::ModuleMissing);
        let module = tagcache_tests::module_path().canonicalize().unwrap();
        let loaded = server
            .raw()
            .call(&["MODULE", "LOAD", &module.display().to_string()]);
        assert!(!loaded.is_error(), "{loaded:?}");
        cache.ready(DEADLINE).await.unwrap();
        assert_eq!(load(&cache, "key", "stored").await.unwrap(), "stored");
        assert!(on_server(&mut server.raw(), "key").is_some());
        assert!(server.is_alive());
    });
}

#[test]
fn full_server_still_serves_reads_invalidations_and_loads() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        cache
            .set("key", &"value".to_owned(), long().tags(["tag"]))
            .await
            .unwrap();
        let mut client = server.raw();
        client.call(&args!["CONFIG", "SET", "maxmemory", 1]);
        let error = cache.set("other", &1, long()).await.unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
        assert_eq!(error.remedy(), Remedy::FixServer);
        assert_eq!(state(&cache), ServerState::OutOfMemory);
        assert_eq!(
            cache.get::<String>("key").await.unwrap().as_deref(),
            Some("value")
        );
        assert_eq!(load(&cache, "third", "loaded").await.unwrap(), "loaded");
        assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 1);
        client.call(&args!["CONFIG", "SET", "maxmemory", 0]);
        eventually("it takes writes again", async || {
            cache.set("other", &1, long()).await.unwrap();
            state(&cache) == ServerState::Up
        })
        .await;
    });
}

#[test]
fn replica_serves_reads_and_loads_are_not_stored() {
    let primary = Server::start();
    let replica = Server::builder().replica_of(&primary).start();
    run(async {
        let writer = cache_at(&primary).await;
        writer
            .set("key", &"value".to_owned(), long().tags(["tag"]))
            .await
            .unwrap();
        let cache = cache_at(&replica).await;
        assert_eq!(state(&cache), ServerState::ReadOnly);
        eventually("the replica has it", async || {
            cache.get::<String>("key").await.unwrap().is_some()
        })
        .await;
        assert_eq!(warm(&cache, "key").await.as_deref(), Some("value"));
        let error = cache.set("key", &1, long()).await.unwrap_err();
        assert!(matches!(error, Error::ReadOnly { .. }), "{error}");
        let quick = long().hard_timeout(Duration::from_millis(500));
        let loaded = cache
            .get_or_load("other", quick, || async {
                Ok::<_, String>("loaded".to_owned())
            })
            .await;
        assert_eq!(loaded.unwrap(), "loaded");
        // An invalidation at the primary reaches the tier of a process that reads the replica.
        writer.invalidate_tags(["tag"]).await.unwrap();
        eventually("the invalidation arrives", async || {
            cache.get::<String>("key").await.unwrap().is_none()
        })
        .await;
        // It becomes a primary.
        replica.raw().call(&["REPLICAOF", "NO", "ONE"]);
        eventually("the new role is noticed", async || {
            state(&cache) == ServerState::Up
        })
        .await;
        cache.set("key", &1, long()).await.unwrap();
    });
}

#[test]
fn missed_invalidations_are_sent_after_reconnecting() {
    let server = Server::start();
    run(async {
        let proxy = Proxy::before(server.port()).await;
        let cache = behind(&proxy).await;
        let other = cache_at(&server).await;
        for tag in ["hard", "soft"] {
            let entry = long().grace(Duration::from_secs(300)).tags([tag]);
            other.set(tag, &"value".to_owned(), entry).await.unwrap();
        }
        proxy.turn(Weather::Cut);
        eventually("the loss is noticed", async || {
            state(&cache) == ServerState::Down
        })
        .await;
        let error = cache.invalidate_tags(["hard"]).await.unwrap_err();
        assert!(
            matches!(&error, Error::Partial { dropped: 0, missed, retried: true, .. } if missed.len() == 1),
            "{error}"
        );
        assert!(cache.revalidate_tags(["soft"]).await.is_err());
        assert_eq!(cache.stats().servers[0].missed_invalidations, 2);
        proxy.turn(Weather::Fair);
        eventually("it is sent", async || {
            other.get::<String>("hard").await.unwrap().is_none()
        })
        .await;
        eventually("it is sent", async || {
            other.get::<String>("soft").await.unwrap().is_none()
        })
        .await;
        eventually("nothing is left to send", async || {
            cache.stats().servers[0].missed_invalidations == 0
        })
        .await;
        let fetched = server.raw().call(&["CACHE.FETCH", "soft"]);
        assert_eq!(fetched.items()[0].text(), "STALE");
    });
}

#[test]
fn entry_without_ttl_leaves_the_local_tier_after_local_ttl_max() {
    let server = Server::start();
    run(async {
        let cache =
            connected(builder(server.port()).local_ttl_max(Duration::from_millis(100))).await;
        cache
            .set("key", &"value".to_owned(), Entry::forever())
            .await
            .unwrap();
        warm(&cache, "key").await;
        eventually("it leaves the local tier", async || {
            !is_local(&cache, "key").await
        })
        .await;
        assert_eq!(
            cache.get::<String>("key").await.unwrap().as_deref(),
            Some("value")
        );
    });
}
