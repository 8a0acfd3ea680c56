//! Each call has its documented effect, and a process drops values when the server reports a change.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tagcache::{Bytes, Cache, CacheStats, Entry, Error, Remedy};
use tagcache_tests::{DEADLINE, Server, args, for_each_engine};

use crate::support::{
    Slow, builder, cache_at, connected, eventually, is_local, long, on_server, run, warm,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    age: u8,
}

fn ada() -> User {
    User {
        name: "Ada".to_owned(),
        age: 36,
    }
}

#[test]
fn set_value_is_read_by_this_and_other_processes() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        run(async {
            let (here, there) = (cache_at(&server).await, cache_at(&server).await);
            here.set("user", &ada(), long().tags(["users"]))
                .await
                .unwrap();
            assert_eq!(here.get::<User>("user").await.unwrap(), Some(ada()));
            assert_eq!(there.get::<User>("user").await.unwrap(), Some(ada()));
            assert_eq!(there.get::<User>("nobody").await.unwrap(), None);
            // Plain JSON, which other programs can read.
            let json = on_server(&mut server.raw(), "user").unwrap();
            assert_eq!(json, r#"{"name":"Ada","age":36}"#);
        });
    });
}

#[test]
fn local_hit_allocates_nothing() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let value = Arc::new("value".to_owned());
        let entry = long().tags(["a", "b"]);
        cache.set("key", &value, entry).await.unwrap();
        eventually("the value is in the local tier", async || {
            cache.get::<Arc<String>>("key").await.unwrap();
            cache.stats().local.hits > 0
        })
        .await;
        let mut found = 0;
        let hits = allocation_counter::measure(|| {
            for _ in 0..1000 {
                let read = pin!(cache.get::<Arc<String>>("key"));
                let read = read.poll(&mut Context::from_waker(Waker::noop()));
                found += i32::from(matches!(read, Poll::Ready(Ok(Some(_)))));
            }
        });
        assert_eq!((found, hits.count_total), (1000, 0));
        // Shows that allocations are counted: cloning the value is one.
        let mut found = None;
        let miss = allocation_counter::measure(|| found = Some(String::clone(&value)));
        assert_eq!((found.is_some(), miss.count_total), (true, 1));
    });
}

#[test]
fn second_read_is_served_without_the_server() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        cache.set("key", &"value".to_owned(), long()).await.unwrap();
        assert_eq!(warm(&cache, "key").await.as_deref(), Some("value"));
        let before = cache.stats();
        for _ in 0..100 {
            assert_eq!(
                cache.get::<String>("key").await.unwrap().as_deref(),
                Some("value")
            );
        }
        let after = cache.stats();
        assert_eq!(after.local.hits - before.local.hits, 100);
        assert_eq!(after.server_hits, before.server_hits);
    });
}

/// A change by another client that removes an entry.
type Change = (&'static str, Vec<Vec<u8>>);

#[test]
fn every_change_of_a_key_removes_it_from_all_local_tiers() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let changes: Vec<Change> = vec![
            ("overwritten", args!["CACHE.SET", "key", r#""new""#]),
            ("deleted", args!["CACHE.DEL", "key"]),
            ("touched", args!["CACHE.TOUCH", "key", "EX", 900]),
            (
                "invalidated by tag",
                args!["CACHE.INVALIDATE", "other", "tag"],
            ),
            ("invalidated softly", args!["CACHE.REVALIDATE", "tag"]),
            (
                "invalidated by a condition",
                args!["CACHE.INVALIDATEWHERE", "ALL", 1, "tag"],
            ),
            ("flushed", args!["CACHE.FLUSH"]),
            ("deleted natively", args!["DEL", "key"]),
            ("unlinked", args!["UNLINK", "key"]),
            ("renamed", args!["RENAME", "key", "elsewhere"]),
            ("replaced by another", args!["RENAME", "another", "key"]),
            ("overwritten by a string", args!["SET", "key", "string"]),
            ("expired natively", args!["PEXPIRE", "key", 1]),
            ("flushed natively", args!["FLUSHALL"]),
            (
                "flushed natively in the background",
                args!["FLUSHALL", "ASYNC"],
            ),
            ("moved", args!["MOVE", "key", 5]),
            ("exchanged with another database", args!["SWAPDB", 0, 6]),
        ];
        run(async {
            let cache = cache_at(&server).await;
            let mut other = server.raw();
            for (how, change) in changes {
                other.call(&args!["FLUSHALL"]);
                other.call(&args!["CACHE.SET", "another", r#""b""#]);
                cache
                    .set("key", &"old".to_owned(), long().tags(["tag"]))
                    .await
                    .unwrap();
                assert_eq!(warm(&cache, "key").await.as_deref(), Some("old"), "{how}");
                let reply = other.call(&change);
                assert!(!reply.is_error(), "{how}: {reply:?}");
                eventually(how, async || !is_local(&cache, "key").await).await;
            }
        });
    });
}

#[test]
fn caller_reads_its_own_writes_immediately() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        for n in 0..200 {
            let value = n.to_string();
            cache
                .set("key", &value, long().tags(["tag"]))
                .await
                .unwrap();
            assert_eq!(cache.get::<String>("key").await.unwrap(), Some(value));
            let _: Option<String> = cache.get("key").await.unwrap();
            match n % 3 {
                0 => assert!(cache.remove("key").await.unwrap()),
                1 => assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 1),
                _ => assert_eq!(cache.clear().await.unwrap(), 1),
            }
            assert_eq!(cache.get::<String>("key").await.unwrap(), None, "round {n}");
        }
    });
}

#[test]
fn value_invalidated_during_its_read_is_returned_but_not_kept() {
    let server = Server::start();
    run(async {
        let slow = connected(builder(server.port()).codec(Slow(Duration::from_millis(200)))).await;
        let other = cache_at(&server).await;
        for (round, how) in (0..6).map(|round| (round, round % 3)) {
            other
                .set("key", &"old".to_owned(), long().tags(["tag"]))
                .await
                .unwrap();
            let before = slow.stats();
            let read = tokio::spawn({
                let slow = slow.clone();
                async move {
                    if round < 3 {
                        return slow.get::<String>("key").await.unwrap();
                    }
                    slow.get_many(["key"]).await.unwrap().remove(0)
                }
            });
            // The reply has arrived, but its task sleeps. Now the server reports that it is outdated.
            eventually("the server was asked", async || {
                let stats = other.server_stats().await.remove(0).1.unwrap();
                stats["hits"] as u64 > round
            })
            .await;
            match how {
                0 => drop(other.invalidate_tags(["tag"]).await.unwrap()),
                1 => drop(other.remove("key").await.unwrap()),
                _ => drop(other.clear().await.unwrap()),
            }
            assert_eq!(read.await.unwrap().as_deref(), Some("old"));
            let after = slow.stats();
            assert_eq!(
                (
                    after.overtaken - before.overtaken,
                    after.entered - before.entered
                ),
                (1, 0)
            );
            assert_eq!(slow.get::<String>("key").await.unwrap(), None);
        }
    });
}

#[test]
fn get_many_reads_several_keys() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        for n in 0..50 {
            cache.set(&format!("key{n}"), &n, long()).await.unwrap();
        }
        let keys: Vec<String> = (0..60).map(|n| format!("key{n}")).collect();
        let expected: Vec<Option<i32>> = (0..60).map(|n| (n < 50).then_some(n)).collect();
        assert_eq!(cache.get_many::<i32>(&keys).await.unwrap(), expected);
        let before = cache.stats();
        assert_eq!(cache.get_many::<i32>(&keys).await.unwrap(), expected);
        let after = cache.stats();
        assert_eq!(
            after.server_hits, before.server_hits,
            "what was found is held now"
        );
        assert_eq!(cache.get_many::<i32>(Vec::<&str>::new()).await.unwrap(), []);
    });
}

#[test]
fn local_value_expires_no_later_than_on_the_server() {
    let server = Server::start();
    run(async {
        // The value enters late; its TTL has been running since the read.
        let delay = Duration::from_millis(300);
        let cache = connected(builder(server.port()).codec(Slow(delay))).await;
        let brief = Entry::ttl(Duration::from_millis(500));
        cache.set("key", &"value".to_owned(), brief).await.unwrap();
        eventually("it expires", async || {
            let held = cache.get::<String>("key").await.unwrap();
            // Read from the server after the local read: if the value is gone there, it was not read here later.
            let there = on_server(&mut server.raw(), "key");
            assert!(
                held.is_none()
                    || there.is_some()
                    || cache.get::<String>("key").await.unwrap().is_none()
            );
            held.is_none()
        })
        .await;
    });
}

#[test]
fn local_ttl_max_limits_the_time_in_the_local_tier() {
    let server = Server::start();
    run(async {
        let brief = builder(server.port()).local_ttl_max(Duration::from_millis(50));
        let cache = connected(brief).await;
        for entry in [long(), Entry::forever()] {
            cache.set("key", &1, entry).await.unwrap();
            let before = cache.stats().server_hits;
            for round in 1..4 {
                eventually("the server is asked again", async || {
                    assert_eq!(cache.get("key").await.unwrap(), Some(1));
                    cache.stats().server_hits - before >= round
                })
                .await;
            }
        }
    });
}

#[test]
fn failed_write_still_drops_the_local_value() {
    let server = Server::start();
    run(async {
        // The connection is kept while the server does not reply.
        let patient = builder(server.port())
            .command_timeout(Duration::from_millis(200))
            .probe(Duration::from_secs(100), Duration::from_secs(100));
        let cache = connected(patient).await;
        for how in 0..5 {
            let old = "old".to_owned();
            cache.set("key", &old, long().tags(["tag"])).await.unwrap();
            warm(&cache, "key").await;
            server.pause();
            assert_eq!(cache.get::<String>("key").await.unwrap(), Some(old));
            let failed = match how {
                0 => cache.set("key", &"new".to_owned(), long()).await.is_err(),
                1 => cache.remove("key").await.is_err(),
                2 => cache.touch("key", long()).await.is_err(),
                3 => cache.invalidate_tags(["tag"]).await.is_err(),
                _ => cache.clear().await.is_err(),
            };
            assert!(failed, "{how}: a server that is stopped answers");
            let read = cache.get::<String>("key").await;
            assert!(read.is_err(), "{how}: {read:?}");
            server.resume();
            eventually("it answers again", async || {
                cache.get::<String>("key").await.is_ok()
            })
            .await;
            // Invalidations that it missed are sent again, and must not arrive in the next round.
            assert!(cache.finish_pending(DEADLINE).await);
        }
    });
}

#[test]
fn cancelled_invalidation_still_drops_local_entries() {
    let server = Server::start();
    run(async {
        let patient = builder(server.port())
            .command_timeout(Duration::from_millis(200))
            .probe(Duration::from_secs(100), Duration::from_secs(100));
        let cache = connected(patient).await;
        let tagged = long().tags(["tag"]);
        cache.set("key", &"old".to_owned(), tagged).await.unwrap();
        warm(&cache, "key").await;
        server.pause();
        let brief = Duration::from_millis(20);
        let given_up = tokio::time::timeout(brief, cache.invalidate_tags(["tag"])).await;
        assert!(given_up.is_err());
        let read = cache.get::<String>("key").await;
        server.resume();
        assert!(read.is_err(), "{read:?}");
    });
}

#[test]
fn touch_sets_the_ttl_and_reports_whether_the_key_existed() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        assert!(!cache.touch("key", long()).await.unwrap());
        cache.set("key", &1, long()).await.unwrap();
        assert!(
            cache
                .touch("key", Entry::ttl(Duration::from_secs(5000)))
                .await
                .unwrap()
        );
        let ttl = server.raw().call(&["TTL", "key"]).int();
        assert!((4990..=5000).contains(&ttl), "{ttl}");
        assert!(cache.touch("key", Entry::forever()).await.unwrap());
        assert_eq!(server.raw().call(&["TTL", "key"]).int(), -1);
        assert!(
            cache
                .touch("key", Entry::ttl(Duration::ZERO))
                .await
                .unwrap()
        );
        assert_eq!(cache.get::<i32>("key").await.unwrap(), None);
    });
}

#[test]
fn namespaces_on_one_server_are_separate() {
    let server = Server::start();
    run(async {
        let shop = connected(builder(server.port()).namespace("shop")).await;
        let blog = connected(builder(server.port()).namespace("blog")).await;
        for cache in [&shop, &blog] {
            cache
                .set("key", &"value".to_owned(), long().tags(["tag"]))
                .await
                .unwrap();
            cache
                .set("other", &"value".to_owned(), long())
                .await
                .unwrap();
            warm(cache, "key").await;
        }
        assert!(on_server(&mut server.raw(), "shop:key").is_some());
        assert_eq!(shop.invalidate_tags(["tag"]).await.unwrap(), 1);
        assert_eq!(shop.get::<String>("key").await.unwrap(), None);
        assert!(is_local(&blog, "key").await);
        // An empty tag is invalid, and not the tag of the whole namespace.
        let refused = shop.invalidate_tags([""]).await.unwrap_err();
        assert_eq!(refused.remedy(), Remedy::FixCall, "{refused}");
        let value = "value".to_owned();
        let refused = shop
            .set("key", &value, long().tags([""]))
            .await
            .unwrap_err();
        assert_eq!(refused.remedy(), Remedy::FixCall, "{refused}");
        assert_eq!(shop.clear().await.unwrap(), 1);
        assert_eq!(
            blog.get::<String>("other").await.unwrap().as_deref(),
            Some("value")
        );
        let top = blog.top(10).await.unwrap();
        assert!(
            top.iter()
                .all(|top| ["key", "other"].contains(&top.key.as_str())),
            "{top:?}"
        );
    });
}

#[test]
fn changes_by_other_clients_reach_a_namespaced_local_tier() {
    let server = Server::start();
    run(async {
        let cache = connected(builder(server.port()).namespace("shop")).await;
        let mut other = server.raw();
        other.call(&args![
            "CACHE.SET",
            "shop:key",
            r#""value""#,
            "TAGS",
            1,
            "foreign"
        ]);
        assert_eq!(warm(&cache, "key").await.as_deref(), Some("value"));
        other.call(&args![
            "CACHE.SET",
            "shop:key",
            r#""new""#,
            "TAGS",
            1,
            "foreign"
        ]);
        eventually("it is replaced", async || {
            cache.get::<String>("key").await.unwrap().as_deref() == Some("new")
        })
        .await;
        warm(&cache, "key").await;
        other.call(&args!["CACHE.INVALIDATE", "foreign"]);
        eventually("it is gone", async || {
            cache.get::<String>("key").await.unwrap().is_none()
        })
        .await;
    });
}

#[test]
fn local_hits_are_counted_on_the_server() {
    let server = Server::start();
    run(async {
        let often = Duration::from_millis(20);
        let caches = [
            connected(
                builder(server.port())
                    .namespace("ns")
                    .report_hits_every(often),
            )
            .await,
            connected(
                builder(server.port())
                    .namespace("ns")
                    .report_hits_every(often),
            )
            .await,
        ];
        caches[0]
            .set("cold", &"value".to_owned(), long())
            .await
            .unwrap();
        caches[0]
            .set("hot", &"value".to_owned(), long())
            .await
            .unwrap();
        let mut reads = 0;
        for cache in &caches {
            for _ in 0..500 {
                let _: Option<String> = cache.get("hot").await.unwrap();
                reads += 1;
            }
        }
        let _: Option<String> = caches[0].get("cold").await.unwrap();
        eventually("all reads are counted", async || {
            let top = caches[0].top(1).await.unwrap();
            top[0].key == "hot" && top[0].hits == reads
        })
        .await;
        let sum = |count: fn(&CacheStats) -> u64| -> u64 {
            caches.iter().map(|cache| count(&cache.stats())).sum()
        };
        let local = sum(|stats| stats.local.hits);
        eventually("the reports are answered", async || {
            sum(|stats| stats.hits_reported) == local
        })
        .await;
        assert!(local > 900, "{local} of 1000 reads were answered here");
    });
}

#[test]
fn reading_a_value_of_another_type_is_an_error() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        cache.set("key", &"text".to_owned(), long()).await.unwrap();
        let error = cache.get::<User>("key").await.unwrap_err();
        assert!(matches!(error, Error::Codec { .. }), "{error}");
        assert_eq!(error.remedy(), Remedy::FixCall);
        // Held as one type and read as another that also decodes it: the server is asked.
        cache.set("number", &7_u8, long()).await.unwrap();
        for _ in 0..3 {
            assert_eq!(cache.get::<u8>("number").await.unwrap(), Some(7));
            assert_eq!(cache.get::<u64>("number").await.unwrap(), Some(7));
        }
        server.raw().call(&["SET", "string", "value"]);
        let error = cache.get::<String>("string").await.unwrap_err();
        assert!(matches!(error, Error::WrongType { .. }), "{error}");
    });
}

#[test]
fn server_refusal_is_returned_to_the_caller() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let long_tag = "t".repeat(600);
        let error = cache
            .set("key", &1, long().tags([&long_tag]))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, Error::Rejected { message, .. } if message.contains("512")),
            "{error}"
        );
        assert_eq!(error.remedy(), Remedy::FixCall);
        assert_eq!(cache.get::<i32>("key").await.unwrap(), None);
    });
}

#[test]
fn bytes_are_stored_unchanged() {
    let server = Server::start();
    run(async {
        let cache: Cache<Bytes> = connected(builder(server.port()).codec(Bytes)).await;
        let odd: Vec<Vec<u8>> = vec![
            vec![],
            vec![0, 255, 10, 13],
            b"\xc1tc1N".to_vec(),
            vec![7; 100_000],
        ];
        for bytes in &odd {
            cache.set("key", bytes, long()).await.unwrap();
            for _ in 0..2 {
                assert_eq!(
                    cache.get::<Vec<u8>>("key").await.unwrap().as_ref(),
                    Some(bytes)
                );
            }
        }
        cache
            .set("text", &"plain".to_owned(), long())
            .await
            .unwrap();
        assert_eq!(
            on_server(&mut server.raw(), "text").as_deref(),
            Some("plain")
        );
        let shared = cache.get::<Arc<[u8]>>("text").await.unwrap().unwrap();
        assert_eq!(&*shared, b"plain");
    });
}

#[cfg(feature = "msgpack")]
#[test]
fn message_pack_is_smaller_than_json_and_round_trips() {
    let server = Server::start();
    run(async {
        let cache = connected(builder(server.port()).codec(tagcache::MessagePack)).await;
        cache.set("user", &ada(), long()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(cache.get::<User>("user").await.unwrap(), Some(ada()));
        }
        let stored = server.raw().call(&["CACHE.GET", "user"]);
        assert!(stored.bytes().len() < serde_json::to_vec(&ada()).unwrap().len());
    });
}

#[cfg(feature = "compression")]
#[test]
fn large_values_are_compressed_on_the_server() {
    let server = Server::start();
    run(async {
        let cache = connected(builder(server.port()).compress_from(1000)).await;
        let text = "again and ".repeat(1000);
        cache.set("key", &text, long()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(
                cache.get::<String>("key").await.unwrap().as_ref(),
                Some(&text)
            );
        }
        let stored = server.raw().call(&["CACHE.GET", "key"]);
        assert!(stored.bytes().len() < 1000);
        // A process without compression reads it all the same.
        assert_eq!(
            cache_at(&server).await.get::<String>("key").await.unwrap(),
            Some(text)
        );
    });
}

#[test]
fn cache_works_without_a_local_tier() {
    let server = Server::start();
    run(async {
        let cache = connected(builder(server.port()).local_max_entries(0)).await;
        cache.set("key", &1, long()).await.unwrap();
        for _ in 0..3 {
            assert_eq!(cache.get::<i32>("key").await.unwrap(), Some(1));
        }
        assert_eq!(cache.stats().local.hits, 0);
        assert_eq!(cache.stats().server_hits, 3);
    });
}

#[test]
fn invalid_settings_are_refused_by_build() {
    run(async {
        let config = |result: Result<Cache, Error>| matches!(result, Err(Error::Config { .. }));
        assert!(config(Cache::builder("no address").build().await));
        assert!(config(
            Cache::builder(tagcache::Servers::cluster(Vec::<String>::new()))
                .build()
                .await
        ));
        let zero = Cache::builder("redis://127.0.0.1:1").command_timeout(Duration::ZERO);
        assert!(config(zero.build().await));
    });
}
