//! Servers that can be reached but do not serve, and the data that must survive that.

use std::time::{Duration, Instant};

use tagcache::{Cache, Error, Remedy, ServerState};
use tagcache_tests::proxy::{Proxy, Weather};
use tagcache_tests::{DEADLINE, Server, free_port, run as cmd};

use crate::support::{Calls, builder, cache_at, connected, eventually, long, run, warm};

fn state(cache: &Cache) -> ServerState {
    cache.stats().servers[0].state
}

/// A cache behind a proxy, with time-outs that a test can wait for.
async fn behind(proxy: &Proxy) -> Cache {
    let building = builder(proxy.port())
        .probe(Duration::from_millis(100), Duration::from_millis(400))
        .command_timeout(Duration::from_millis(500));
    connected(building).await
}

async fn cut(proxy: &Proxy, cache: &Cache) {
    proxy.turn(Weather::Cut);
    eventually("the loss is noticed", async || {
        state(cache) == ServerState::Down
    })
    .await;
}

#[test]
fn server_that_accepts_hello_but_cannot_serve_is_down() {
    // Such a replica grants HELLO, tracking and subscriptions, like a server that loads its data, and nothing else.
    let primary = free_port().to_string();
    let server = Server::builder()
        .args("--replicaof", &["127.0.0.1", &primary])
        .arg("--replica-serve-stale-data", "no")
        .start();
    run(async {
        let cache = builder(server.port()).build().await.unwrap();
        let error = cache.get::<String>("key").await.unwrap_err();
        assert!(
            matches!(&error, Error::Unavailable { message, .. } if message.starts_with("MASTERDOWN")),
            "{error}"
        );
        assert_eq!(state(&cache), ServerState::Down);
        assert_eq!(cache.stats().servers[0].connects, 0);
        cmd!(server.raw(), "REPLICAOF NO ONE");
        cache.ready(DEADLINE).await.unwrap();
    });
}

#[test]
fn server_at_maxclients_is_used_once_it_accepts_clients() {
    let server = Server::builder().arg("--maxclients", "2").start();
    run(async {
        let held = [server.raw(), server.raw()];
        let cache = builder(server.port()).build().await.unwrap();
        let error = cache.get::<String>("key").await.unwrap_err();
        assert_eq!(error.remedy(), Remedy::Retry);
        assert!(error.to_string().contains("max"), "{error}");
        drop(held);
        cache.ready(DEADLINE).await.unwrap();
    });
}

#[test]
fn reconnect_delay_grows_if_the_connection_keeps_breaking() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let mut other = server.raw();
        let start = Instant::now();
        eventually("it has been set up seven times", async || {
            cmd!(other, "CLIENT KILL TYPE pubsub");
            cache.stats().servers[0].connects >= 7
        })
        .await;
        // The pauses before its last six attempts, each at its shortest.
        let least = Duration::from_millis((25 + 50 + 100 + 200 + 400 + 800) / 2);
        assert!(start.elapsed() >= least, "after {:?}", start.elapsed());
    });
}

#[test]
fn server_that_cannot_save_is_read_even_after_a_reconnect() {
    let server = Server::builder()
        .args("--save", &["3600", "1000"])
        .arg("--enable-protected-configs", "yes")
        .expect_complaints()
        .start();
    run(async {
        let cache = cache_at(&server).await;
        let entry = long().tags(["tag"]);
        cache.set("key", &"value".to_owned(), entry).await.unwrap();
        // The directory of its dump is gone.
        let mut client = server.raw();
        let gone = tempfile::tempdir().unwrap();
        let dir = gone.path().display();
        cmd!(client, "CONFIG SET dir {dir}");
        drop(gone);
        cmd!(client, "BGSAVE");
        eventually("it cannot save", async || {
            let info = client.call(&["INFO", "persistence"]).text();
            info.contains("rdb_last_bgsave_status:err")
        })
        .await;
        let error = cache.invalidate_tags(["tag"]).await.unwrap_err();
        assert!(error.to_string().contains("MISCONF"), "{error}");
        assert_eq!(state(&cache), ServerState::ReadOnly);
        cmd!(client, "CLIENT KILL TYPE pubsub");
        eventually("it is read through another connection", async || {
            let read = cache.get::<String>("key").await;
            cache.stats().servers[0].connects == 2 && read.is_ok_and(|value| value.is_some())
        })
        .await;
        assert_eq!(state(&cache), ServerState::ReadOnly);
        assert_eq!(cache.stats().servers[0].missed_invalidations, 1);
        cmd!(client, "CONFIG SET stop-writes-on-bgsave-error no");
        eventually("it is sent what it would not take", async || {
            cache.stats().servers[0].missed_invalidations == 0
        })
        .await;
        assert_eq!(cache.get::<String>("key").await.unwrap(), None);
        let here = server.dir().display();
        cmd!(client, "CONFIG SET dir {here}");
    });
}

#[test]
fn missed_tags_of_any_length_are_sent_later() {
    let server = Server::start();
    run(async {
        let proxy = Proxy::before(server.port()).await;
        let cache = behind(&proxy).await;
        let other = cache_at(&server).await;
        let entry = long().tags(["good"]);
        other.set("key", &"value".to_owned(), entry).await.unwrap();
        cut(&proxy, &cache).await;
        assert!(cache.invalidate_tags(["x".repeat(5000)]).await.is_err());
        assert!(cache.invalidate_tags(["good"]).await.is_err());
        proxy.turn(Weather::Fair);
        eventually("nothing is left to send", async || {
            cache.stats().servers[0].missed_invalidations == 0
        })
        .await;
        assert_eq!(other.get::<String>("key").await.unwrap(), None);
    });
}

#[test]
fn missed_invalidations_are_sent_before_the_first_read() {
    let server = Server::start();
    run(async {
        let proxy = Proxy::before(server.port()).await;
        let cache = behind(&proxy).await;
        let other = cache_at(&server).await;
        let entry = long().tags(["tag"]);
        other.set("key", &"value".to_owned(), entry).await.unwrap();
        cut(&proxy, &cache).await;
        assert!(cache.invalidate_tags(["tag"]).await.is_err());
        // This way, the first command is executed well before the next one.
        proxy.turn(Weather::Slow(Duration::from_millis(40)));
        eventually("it is read again", async || {
            let read = cache.get::<String>("key").await;
            assert!(!matches!(read, Ok(Some(_))), "what was invalidated is read");
            read.is_ok()
        })
        .await;
    });
}

#[test]
fn denied_invalidation_is_sent_once_permission_is_granted() {
    let server = Server::start();
    let mut admin = server.raw();
    cmd!(
        admin,
        "ACL SETUSER app on >secret ~* &* +@all -cache.invalidate"
    );
    run(async {
        let other = cache_at(&server).await;
        let entry = long().tags(["tag"]);
        other.set("key", &"value".to_owned(), entry).await.unwrap();
        let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
        let probing = Cache::builder(url).probe(Duration::from_millis(50), Duration::from_secs(2));
        let cache = connected(probing).await;
        let error = cache.invalidate_tags(["tag"]).await.unwrap_err();
        assert!(
            matches!(&error, Error::Partial { retried: true, reason, .. }
                if matches!(**reason, Error::Denied { .. })),
            "{error:?}"
        );
        assert_eq!(error.remedy(), Remedy::FixServer);
        assert!(error.to_string().contains("cache.invalidate"), "{error}");
        let status = &cache.stats().servers[0];
        assert_eq!(status.state, ServerState::Up);
        assert!(matches!(status.last_error, Some(Error::Denied { .. })));
        cmd!(admin, "ACL SETUSER app +cache.invalidate");
        eventually("it is sent", async || {
            other.get::<String>("key").await.unwrap().is_none()
        })
        .await;
    });
}

#[test]
fn cancelled_invalidation_is_still_sent() {
    let server = Server::start();
    run(async {
        let proxy = Proxy::before(server.port()).await;
        let cache = behind(&proxy).await;
        let other = cache_at(&server).await;
        let entry = long().tags(["tag"]);
        other.set("key", &"value".to_owned(), entry).await.unwrap();
        proxy.turn(Weather::Silent);
        let call = cache.invalidate_tags(["tag"]);
        let given_up = tokio::time::timeout(Duration::from_millis(20), call).await;
        assert!(given_up.is_err(), "nobody answers");
        assert_eq!(cache.stats().servers[0].missed_invalidations, 1);
        proxy.turn(Weather::Fair);
        eventually("it is sent", async || {
            other.get::<String>("key").await.unwrap().is_none()
        })
        .await;
    });
}

/// As after a SIGSTOP, or if a task blocks the only thread: the server's pushes of that time are not read yet.
#[test]
fn local_entries_are_not_served_after_the_process_was_stopped() {
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let building = builder(server.port());
        let probes = (Duration::from_millis(100), Duration::from_millis(400));
        let cache = connected(building.probe(probes.0, probes.1)).await;
        cache.set("key", &"old".to_owned(), long()).await.unwrap();
        warm(&cache, "key").await;
        let mut other = server.raw();
        let set = other.call(&["CACHE.SET", "key", "\"new\"", "PX", "600000"]);
        assert!(!set.is_error(), "{set:?}");
        std::thread::sleep(probes.0 + probes.1 + Duration::from_millis(1200));
        let value = loop {
            // The connection may have been given up, because the probe's reply was late.
            if let Ok(value) = cache.get::<String>("key").await {
                break value;
            }
        };
        assert_eq!(value.as_deref(), Some("new"));
    });
}

#[test]
fn dead_idle_waiting_connection_causes_no_extra_load() {
    let server = Server::start();
    run(async {
        let (loading, waiting) = (cache_at(&server).await, cache_at(&server).await);
        let calls = Calls::default();
        for key in ["first", "second"] {
            let (begun, begin) = tokio::sync::oneshot::channel();
            let (go, gone) = tokio::sync::oneshot::channel();
            let load = tokio::spawn({
                let cache = loading.clone();
                let loader = move || async move {
                    begun.send(()).unwrap();
                    gone.await.unwrap();
                    Ok::<_, String>("value".to_owned())
                };
                async move { cache.get_or_load(key, long(), loader).await }
            });
            begin.await.unwrap();
            let wait = tokio::spawn({
                let (cache, calls) = (waiting.clone(), calls.clone());
                let loader = move || async move {
                    calls.note();
                    Ok::<_, String>("value".to_owned())
                };
                async move { cache.get_or_load(key, long(), loader).await }
            });
            let mut admin = server.raw();
            eventually("it waits", async || {
                let clients = admin.call(&["INFO", "clients"]).text();
                clients.contains("blocked_clients:1")
            })
            .await;
            go.send(()).unwrap();
            assert_eq!(load.await.unwrap().unwrap(), "value");
            assert_eq!(wait.await.unwrap().unwrap(), "value");
            // The main connections are subscribers; the others are those for waiting calls.
            if key == "first" {
                cmd!(admin, "CLIENT KILL TYPE normal SKIPME yes");
            }
        }
        assert_eq!(calls.count(), 0, "the one that waited loaded");
        // None is kept for a long time.
        let mut admin = server.raw();
        eventually("the connections are closed", async || {
            let clients = cmd!(admin, "CLIENT LIST TYPE normal").text();
            clients.lines().count() == 1
        })
        .await;
    });
}

#[test]
fn short_command_timeout_does_not_shorten_the_probes() {
    let server = Server::start();
    run(async {
        let proxy = Proxy::before(server.port()).await;
        let building = builder(proxy.port())
            .probe(Duration::from_millis(100), DEADLINE)
            .command_timeout(Duration::from_millis(50));
        let cache = connected(building).await;
        proxy.turn(Weather::Slow(Duration::from_millis(200)));
        for _ in 0..5 {
            let error = cache.get::<String>("key").await.unwrap_err();
            assert!(matches!(error, Error::Timeout { .. }), "{error}");
        }
        assert_eq!(cache.stats().connections_lost, 0);
        assert_eq!(state(&cache), ServerState::Up);
    });
}

#[test]
fn server_with_an_endless_script_is_busy_and_loads_continue() {
    let server = Server::builder()
        .arg("--busy-reply-threshold", "10")
        .start();
    run(async {
        let cache = cache_at(&server).await;
        let mut endless = server.raw();
        endless.send(&["EVAL", "while true do end", "0"]);
        eventually("it is reported as busy", async || {
            let status = &cache.stats().servers[0];
            let error = status.last_error.as_ref().map(ToString::to_string);
            !status.is_connected() && error.is_some_and(|error| error.contains("BUSY"))
        })
        .await;
        let loader = async || Ok::<_, String>("loaded".to_owned());
        let loaded: String = cache.get_or_load("key", long(), loader).await.unwrap();
        assert_eq!(loaded, "loaded");
        cmd!(server.raw(), "SCRIPT KILL");
        cache.ready(DEADLINE).await.unwrap();
        cache.set("key", &"value".to_owned(), long()).await.unwrap();
    });
}
