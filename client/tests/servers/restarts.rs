//! A server that loses confirmed invalidations: restarted from an older dump.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tagcache::{Cache, CacheBuilder};
use tagcache_tests::proxy::{Proxy, Rewrite, Weather};

use tagcache_tests::{DEADLINE, Server, call, look, run as cmd, wait_until};

use crate::strangers::{like_a_primary, scripted};
use crate::support::{builder, cache_at, connected, eventually, long, run, warm};

/// Without CACHE.CLOCK a loss cannot be detected.
fn has_clock(server: &Server) -> bool {
    let clock = format!("{:?}", server.raw().call(&["CACHE.CLOCK"]));
    if clock.contains("unknown command") {
        println!("this module has no CACHE.CLOCK: skipped");
    }
    !clock.contains("unknown command")
}

/// Reads as soon as the server replies.
async fn first_read(cache: &Cache, key: &str) -> Option<String> {
    let mut read = None;
    eventually("the server answers", async || {
        read = cache.get::<String>(key).await.ok();
        read.is_some()
    })
    .await;
    read.flatten()
}

#[test]
fn invalidation_survives_a_restart_from_an_older_dump() {
    let mut server = Server::start();
    if !has_clock(&server) {
        return;
    }
    run(async {
        let (cache, notified) = (cache_at(&server).await, cache_at(&server).await);
        for (round, by_other) in [false, true].into_iter().enumerate() {
            let (key, tag) = (format!("key{round}"), format!("tag{round}"));
            let value = "old".to_owned();
            cache.set(&key, &value, long().tags([&tag])).await.unwrap();
            for cache in [&cache, &notified] {
                assert_eq!(warm(cache, &key).await.as_deref(), Some("old"));
            }
            server.raw().call(&["SAVE"]);
            let pushed = notified.stats().tags_pushed;
            if by_other {
                // A process that ends: only another process was notified.
                let ending = cache_at(&server).await;
                assert_eq!(ending.invalidate_tags([&tag]).await.unwrap(), 1);
            } else {
                assert_eq!(cache.invalidate_tags([&tag]).await.unwrap(), 1);
            }
            eventually("the other process is notified", async || {
                notified.stats().tags_pushed > pushed
            })
            .await;
            server.kill_9();
            server.restart();
            let cache = if by_other { &notified } else { &cache };
            assert_eq!(first_read(cache, &key).await, None, "by other: {by_other}");
            for cache in [cache, &notified] {
                assert_eq!(first_read(cache, &key).await, None);
            }
        }
    });
}

#[test]
fn server_that_lost_invalidations_and_refuses_them_is_not_read() {
    let mut server = Server::builder()
        .args("--save", &["3600", "1000"])
        .arg("--enable-protected-configs", "yes")
        .expect_complaints()
        .start();
    if !has_clock(&server) {
        return;
    }
    run(async {
        let proxy = Proxy::before(server.port()).await;
        let cache = connected(builder(proxy.port())).await;
        let entry = long().tags(["tag"]);
        cache.set("key", &"old".to_owned(), entry).await.unwrap();
        server.raw().call(&["SAVE"]);
        assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 1);
        proxy.turn(Weather::Cut);
        server.kill_9();
        server.restart();
        // The directory of its dump is gone.
        let mut client = server.raw();
        let gone = tempfile::tempdir().unwrap();
        let dir = gone.path().display();
        cmd!(client, "CONFIG SET dir {dir}");
        drop(gone);
        wait_until("it cannot save", DEADLINE, || {
            call!(client, "BGSAVE");
            look::info_text(&mut client, "rdb_last_bgsave_status") == "err"
        });
        proxy.turn(Weather::Fair);
        let mut attempts = 0;
        eventually("it was tried", async || {
            let read = cache.get::<String>("key").await;
            assert!(!matches!(read, Ok(Some(_))), "what was invalidated is read");
            let error = cache.stats().servers[0].last_error.clone();
            let refused = error.is_some_and(|error| error.to_string().contains("takes none"));
            attempts += i32::from(refused);
            attempts > 20
        })
        .await;
        cmd!(client, "CONFIG SET stop-writes-on-bgsave-error no");
        assert_eq!(first_read(&cache, "key").await, None);
        let here = server.dir().display();
        cmd!(client, "CONFIG SET dir {here}");
    });
}

#[test]
fn invalidations_by_others_do_not_hide_a_loss() {
    let mut server = Server::start();
    if !has_clock(&server) {
        return;
    }
    run(async {
        let mut raw = server.raw();
        let value = serde_json::to_string("old").unwrap();
        raw.call(&[
            "CACHE.SET",
            "app:key",
            &value,
            "TAGS",
            "2",
            "app:tag",
            "app:",
        ]);
        raw.call(&["SAVE"]);
        // Before there is a process that could remember it.
        raw.call(&["CACHE.INVALIDATE", "app:tag"]);
        let proxy = Proxy::before(server.port()).await;
        let cache = connected(builder(proxy.port()).namespace("app")).await;
        assert_eq!(first_read(&cache, "key").await, None);
        proxy.turn(Weather::Cut);
        server.kill_9();
        server.restart();
        let mut raw = server.raw();
        for _ in 0..2 {
            raw.call(&["CACHE.INVALIDATE", "other"]);
        }
        let held = raw.call(&["CACHE.GET", "app:key"]);
        assert_eq!(held.text(), value, "it is back");
        proxy.turn(Weather::Fair);
        assert_eq!(first_read(&cache, "key").await, None);
    });
}

/// Otherwise a server that is slow at first would count as one that lost nothing.
#[test]
fn server_is_not_used_before_its_clock_is_known() {
    let server = Server::start();
    run(async {
        // The other command has no such form: it returns an error, but not that of an unknown command.
        let asked = Some(("CACHE.CLOCK", "CACHE.TOUCH"));
        let rewrite = Rewrite {
            asked,
            ..Rewrite::default()
        };
        let proxy = Proxy::rewriting(server.port(), rewrite).await;
        let url = format!("redis://127.0.0.1:{}", proxy.port());
        let cache = Cache::builder(url).build().await.unwrap();
        let error = cache.ready(Duration::from_secs(1)).await.unwrap_err();
        assert!(error.to_string().contains("cache.touch"), "{error}");
    });
}

/// The tags that a restarted server is sent, after one was invalidated. Its clock was 10 by then and is 90 now, because
/// others use it; `start` is the rest of its reply to CACHE.CLOCK START.
async fn sent_again(start: &'static str, with: fn(CacheBuilder) -> CacheBuilder) -> Vec<String> {
    let began_anew = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(Mutex::new(Vec::new()));
    let (is_new, log) = (Arc::clone(&began_anew), Arc::clone(&sent));
    let port = scripted(move |words| {
        let is_new = is_new.load(Ordering::SeqCst);
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["CACHE.CLOCK", "START"] if is_new => start.to_owned(),
            ["CACHE.CLOCK", "START"] => "*3\r\n+first\r\n:10\r\n:0\r\n".to_owned(),
            ["CACHE.CLOCK"] => "*2\r\n+second\r\n:90\r\n".to_owned(),
            ["CACHE.INVALIDATE", ref tags @ ..] => {
                if is_new {
                    let tags = tags.iter().map(|&tag| tag.to_owned());
                    log.lock().unwrap().extend(tags);
                }
                ":0\r\n".to_owned()
            }
            _ => like_a_primary(words),
        }
    })
    .await;
    let cache = connected(with(builder(port).namespace("app"))).await;
    cache.invalidate_tags(["recent"]).await.unwrap();
    began_anew.store(true, Ordering::SeqCst);
    eventually("it is connected again", async || {
        let server = &cache.stats().servers[0];
        server.connects == 2 && server.missed_invalidations == 0
    })
    .await;
    sent.lock().unwrap().clone()
}

#[test]
fn namespace_is_cleared_if_lost_invalidations_are_unknown() {
    run(async {
        for (start, expected) in [
            (
                "*3\r\n+second\r\n:90\r\n:9\r\n",
                &["app:", "app:recent"][..],
            ),
            ("*3\r\n+second\r\n:90\r\n:10\r\n", &["app:recent"]),
            // An older module: only its clock is known.
            ("-ERR wrong number of arguments\r\n", &["app:recent"]),
        ] {
            assert_eq!(
                sent_again(start, |builder| builder).await,
                expected,
                "{start}"
            );
        }
    });
}

#[test]
fn keep_after_loss_disables_clearing() {
    run(async {
        let start = "*3\r\n+second\r\n:90\r\n:9\r\n";
        let sent = sent_again(start, CacheBuilder::keep_after_loss).await;
        assert_eq!(sent, ["app:recent"]);
    });
}
