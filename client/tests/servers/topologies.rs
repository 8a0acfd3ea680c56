//! A cluster, and a primary that sentinels name.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tagcache::{Cache, Error, ServerState, ServerStatus, Servers};
pub(crate) use tagcache_tests::cluster::nodes as cluster;
use tagcache_tests::sentinel::Sentinel;
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, call, for_each_engine, free_port, wait_until,
};

use crate::strangers::{like_a_primary, scripted};
use crate::support::{Calls, LONG, connected, eventually, is_local, long, run, warm};

pub(crate) async fn cache_of(servers: &[Server]) -> Cache {
    let urls = servers
        .iter()
        .map(|server| format!("redis://127.0.0.1:{}", server.port()));
    let building = Cache::builder(Servers::cluster(urls))
        .connect_timeout(Duration::from_secs(5))
        .command_timeout(Duration::from_secs(1))
        .probe(Duration::from_millis(100), Duration::from_millis(500));
    connected(building).await
}

#[test]
fn cluster_node_as_single_server_is_refused_unless_it_has_all_slots() {
    for_each_engine(|engine| {
        let servers = cluster(engine, 3, 3);
        let alone = cluster(engine, 1, 1);
        run(async {
            let build = |server: &Server| {
                Cache::builder(format!("redis://127.0.0.1:{}", server.port()))
                    .connect_timeout(Duration::from_secs(5))
                    .build()
            };
            let cache = build(&servers[0]).await.unwrap();
            for error in [
                cache.invalidate_tags(["tag"]).await.unwrap_err(),
                cache.set("key", &1, long()).await.unwrap_err(),
                cache.ready(Duration::ZERO).await.unwrap_err(),
            ] {
                let text = error.to_string();
                assert!(text.contains("Servers::cluster"), "{text}");
            }
            let cache = build(&alone[0]).await.unwrap();
            cache.ready(Duration::from_secs(30)).await.unwrap();
            cache.set("key", &1, long().tags(["tag"])).await.unwrap();
            assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 1);
        });
    });
}

#[test]
fn invalidations_reach_the_keys_of_all_cluster_nodes() {
    for_each_engine(|engine| {
        let servers = cluster(engine, 3, 3);
        run(async {
            // One node is enough to find the others.
            let cache = cache_of(&servers[..1]).await;
            let other = cache_of(&servers[2..]).await;
            assert_eq!(cache.stats().servers.len(), 3);
            let keys: Vec<String> = (0..60).map(|n| format!("key{n}")).collect();
            for key in &keys {
                cache.set(key, key, long().tags(["tag"])).await.unwrap();
            }
            for server in &servers {
                assert!(server.raw().call(&["DBSIZE"]).int() > 5, "keys are spread");
            }
            let values = other.get_many::<String>(&keys).await.unwrap();
            assert!(
                values
                    .iter()
                    .zip(&keys)
                    .all(|(value, key)| value.as_ref() == Some(key))
            );
            for key in &keys {
                assert!(is_local(&other, key).await);
            }
            assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 60);
            eventually("all of them are gone from the other tier", async || {
                other
                    .get_many::<String>(&keys)
                    .await
                    .unwrap()
                    .iter()
                    .all(Option::is_none)
            })
            .await;
            // A lease that ended because the cluster's epoch changed is no problem: the next load is stored.
            eventually("what is loaded is stored", async || {
                let loader = || async { Ok::<_, String>("loaded".to_owned()) };
                assert_eq!(
                    cache.get_or_load("key", long(), loader).await.unwrap(),
                    "loaded"
                );
                other.get::<String>("key").await.unwrap().is_some()
            })
            .await;
        });
    });
}

#[test]
fn node_that_missed_an_invalidation_is_named_and_sent_it_later() {
    let servers = cluster(&Engine::default_engine(), 3, 3);
    run(async {
        let cache = cache_of(&servers).await;
        for n in 0..60 {
            cache
                .set(&format!("key{n}"), &n, long().tags(["tag"]))
                .await
                .unwrap();
        }
        let held: Vec<i64> = servers
            .iter()
            .map(|server| server.raw().call(&["DBSIZE"]).int())
            .collect();
        servers[1].pause();
        let error = cache.invalidate_tags(["tag"]).await.unwrap_err();
        let Error::Partial {
            dropped,
            missed,
            retried,
            ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(dropped as i64, held[0] + held[2]);
        assert_eq!(missed, [format!("127.0.0.1:{}", servers[1].port())]);
        assert!(retried);
        servers[1].resume();
        eventually("it is sent", async || {
            let tag = servers[1].raw().call(&["CACHE.TAGINFO", "tag"]);
            !tag.is_null() && tag.field("entries").int() == 0
        })
        .await;
        eventually("nothing is left to send", async || {
            let servers = cache.stats().servers;
            servers
                .iter()
                .all(|server| server.missed_invalidations == 0)
        })
        .await;
    });
}

pub(crate) fn id(client: &mut RawClient) -> String {
    call!(client, "CLUSTER", "MYID").text()
}

#[test]
fn key_moving_to_another_node_is_followed() {
    let servers = cluster(&Engine::default_engine(), 2, 2);
    run(async {
        let cache = cache_of(&servers).await;
        let (mut first, mut second) = (servers[0].raw(), servers[1].raw());
        let slot = call!(first, "CLUSTER", "KEYSLOT", "{a}1").int();
        let (from, to) = if slot < 8192 {
            (&mut first, &mut second)
        } else {
            (&mut second, &mut first)
        };
        let target = if slot < 8192 {
            servers[1].port()
        } else {
            servers[0].port()
        };
        cache
            .set("{a}1", &"one".to_owned(), long().tags(["tag"]))
            .await
            .unwrap();
        cache
            .set("{a}2", &"two".to_owned(), long().tags(["tag"]))
            .await
            .unwrap();
        warm(&cache, "{a}1").await;
        let (from_id, to_id) = (id(from), id(to));
        assert_eq!(
            call!(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", from_id),
            Reply::ok()
        );
        assert_eq!(
            call!(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", to_id.clone()),
            Reply::ok()
        );
        assert_eq!(
            call!(from, "MIGRATE", "127.0.0.1", target, "{a}1", 0, 5000),
            Reply::ok()
        );
        // Half moved: one key here, one there.
        for _ in 0..3 {
            assert_eq!(
                cache.get::<String>("{a}1").await.unwrap().as_deref(),
                Some("one")
            );
            assert_eq!(
                cache.get::<String>("{a}2").await.unwrap().as_deref(),
                Some("two")
            );
        }
        assert!(
            !is_local(&cache, "{a}1").await,
            "what has not arrived for good is not kept"
        );
        assert_eq!(
            call!(from, "MIGRATE", "127.0.0.1", target, "{a}2", 0, 5000),
            Reply::ok()
        );
        for client in [to, from] {
            assert_eq!(
                call!(client, "CLUSTER", "SETSLOT", slot, "NODE", to_id.clone()),
                Reply::ok()
            );
        }
        for key in ["{a}1", "{a}2"] {
            warm(&cache, key).await;
        }
        // From now on the new node's pushes count.
        let mut owner = RawClient::connect(target).unwrap();
        call!(owner, "CACHE.SET", "{a}1", r#""new""#);
        eventually("the change is announced", async || {
            cache.get::<String>("{a}1").await.unwrap().as_deref() == Some("new")
        })
        .await;
        assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 1);
        assert_eq!(cache.get::<String>("{a}2").await.unwrap(), None);
    });
}

/// A cluster of one primary and its replica, which has caught up.
fn primary_and_replica() -> Vec<Server> {
    let servers = cluster(&Engine::default_engine(), 2, 1);
    let (mut first, mut second) = (servers[0].raw(), servers[1].raw());
    let primary = id(&mut first);
    assert_eq!(call!(second, "CLUSTER", "REPLICATE", primary), Reply::ok());
    wait_until("it is a replica", DEADLINE, || {
        tagcache_tests::look::info_text(&mut second, "master_link_status") == "up"
    });
    servers
}

#[test]
fn promoted_replica_is_followed() {
    let servers = primary_and_replica();
    let mut second = servers[1].raw();
    run(async {
        let cache = cache_of(&servers).await;
        cache.set("key", &"old".to_owned(), long()).await.unwrap();
        warm(&cache, "key").await;
        eventually("it is replicated", async || {
            servers[1].raw().call(&["DBSIZE"]).int() == 1
        })
        .await;
        assert_eq!(
            call!(second, "CLUSTER", "FAILOVER", "TAKEOVER"),
            Reply::ok()
        );
        eventually("writes go to the new primary", async || {
            cache.set("key", &"new".to_owned(), long()).await.is_ok()
                && cache.stats().servers[0].address == format!("127.0.0.1:{}", servers[1].port())
        })
        .await;
        eventually("the new value is read", async || {
            cache
                .get::<String>("key")
                .await
                .is_ok_and(|value| value.as_deref() == Some("new"))
        })
        .await;
        assert_eq!(warm(&cache, "key").await.as_deref(), Some("new"));
    });
}

/// Its replica was cut off for so long that the client no longer knows which invalidations it lacks.
#[test]
fn promoted_replica_that_was_cut_off_serves_no_old_value() {
    let servers = primary_and_replica();
    let mut second = servers[1].raw();
    run(async {
        let cache = cache_of(&servers).await;
        let entry = long().tags(["tag"]);
        cache.set("key", &"old".to_owned(), entry).await.unwrap();
        eventually("it is replicated", async || {
            servers[1].raw().call(&["DBSIZE"]).int() == 1
        })
        .await;
        let cut_off = call!(
            second,
            "CONFIG",
            "SET",
            "masteruser",
            "nobody",
            "masterauth",
            "x"
        );
        assert_eq!(cut_off, Reply::ok());
        call!(second, "CLIENT", "KILL", "TYPE", "MASTER");
        assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 1);
        // Enough tags that those before are forgotten.
        for round in 0..2 {
            let tags = (0..100_000).map(|n| format!("{round}:{n}"));
            cache.invalidate_tags(tags).await.unwrap();
        }
        servers[0].pause();
        assert_eq!(
            call!(second, "CLUSTER", "FAILOVER", "TAKEOVER"),
            Reply::ok()
        );
        let mut read = None;
        eventually("the new primary is read", async || {
            let there =
                cache.stats().servers[0].address == format!("127.0.0.1:{}", servers[1].port());
            read = cache.get::<String>("key").await.ok();
            there && read.is_some()
        })
        .await;
        assert_eq!(read, Some(None));
        servers[0].resume();
    });
}

#[test]
fn missed_invalidations_of_a_primary_go_to_its_promoted_replica() {
    let servers = primary_and_replica();
    let mut second = servers[1].raw();
    run(async {
        let cache = cache_of(&servers).await;
        cache
            .set("key", &"old".to_owned(), long().tags(["tag"]))
            .await
            .unwrap();
        eventually("it is replicated", async || {
            servers[1].raw().call(&["DBSIZE"]).int() == 1
        })
        .await;
        servers[0].pause();
        let error = cache.invalidate_tags(["tag"]).await.unwrap_err();
        assert!(
            matches!(error, Error::Partial { retried: true, .. }),
            "{error}"
        );
        assert_eq!(
            call!(second, "CLUSTER", "FAILOVER", "TAKEOVER"),
            Reply::ok()
        );
        eventually("the new primary is sent it", async || {
            cache
                .get::<String>("key")
                .await
                .is_ok_and(|value| value.is_none())
        })
        .await;
        let there = call!(servers[1].raw(), "CACHE.GET", "key");
        assert!(there.is_null(), "{there:?}");
        servers[0].resume();
    });
}

#[test]
fn primary_named_by_sentinels_is_followed() {
    for_each_engine(|engine| {
        let mut primary = Server::builder().engine(engine).start();
        let replica = Server::builder()
            .engine(engine)
            .replica_of(&primary)
            .start();
        let sentinel = Sentinel::watching(engine, primary.port());
        run(async {
            let url = format!("redis://127.0.0.1:{}", sentinel.port());
            // The first sentinel cannot be reached.
            let urls = [format!("redis://127.0.0.1:{}", free_port()), url];
            let building = Cache::builder(Servers::sentinel("cache", urls))
                .connect_timeout(Duration::from_secs(5))
                .probe(Duration::from_millis(100), Duration::from_millis(500));
            let cache = connected(building).await;
            cache.set("key", &"old".to_owned(), long()).await.unwrap();
            assert_eq!(warm(&cache, "key").await.as_deref(), Some("old"));
            eventually(
                "the sentinel knows the replica, and it has the key",
                async || {
                    let known = RawClient::connect(sentinel.port())
                        .unwrap()
                        .call(&["SENTINEL", "REPLICAS", "cache"]);
                    known.items().len() == 1 && replica.raw().call(&["DBSIZE"]).int() == 1
                },
            )
            .await;
            primary.kill_9();
            eventually("the replica has taken over and is used", async || {
                cache.set("key", &"new".to_owned(), long()).await.is_ok()
            })
            .await;
            let servers = cache.stats().servers;
            assert_eq!(servers[0].address, format!("127.0.0.1:{}", replica.port()));
            assert_eq!(servers[0].state, ServerState::Up);
            assert_eq!(warm(&cache, "key").await.as_deref(), Some("new"));
        });
    });
}

#[test]
fn former_primary_is_left_as_soon_as_sentinels_name_another() {
    let primary = Server::start();
    let replica = Server::builder().replica_of(&primary).start();
    let sentinel = Sentinel::watching(primary.engine(), primary.port());
    run(async {
        let url = format!("redis://127.0.0.1:{}", sentinel.port());
        let building = Cache::builder(Servers::sentinel("cache", [url]))
            .connect_timeout(Duration::from_secs(5))
            .probe(Duration::from_millis(100), Duration::from_secs(2));
        let cache = connected(building).await;
        cache.set("key", &"old".to_owned(), long()).await.unwrap();
        let mut asked = RawClient::connect(sentinel.port()).unwrap();
        eventually("the replica is known and up to date", async || {
            let known = asked.call(&["SENTINEL", "REPLICAS", "cache"]);
            known.items().len() == 1 && replica.raw().call(&["DBSIZE"]).int() == 1
        })
        .await;
        // The replica gets no more updates: a value written now is missing after the replica has taken over.
        replica.raw().call(&["REPLICAOF", "127.0.0.1", "1"]);
        cache.set("key", &"new".to_owned(), long()).await.unwrap();
        replica.raw().call(&["REPLICAOF", "NO", "ONE"]);
        // From now on the sentinels name the former replica; nothing demotes the former primary.
        let port = replica.port().to_string();
        asked.call(&["SENTINEL", "REMOVE", "cache"]);
        asked.call(&["SENTINEL", "MONITOR", "cache", "127.0.0.1", &port, "1"]);
        eventually("the new primary is used", async || {
            cache.stats().servers[0].address == format!("127.0.0.1:{port}")
                && cache.stats().servers[0].is_connected()
        })
        .await;
        assert_eq!(call!(primary.raw(), "ROLE").items()[0].text(), "master");
        let read: Option<String> = cache.get("key").await.unwrap();
        assert_ne!(read.as_deref(), Some("old"), "what was replaced comes back");
    });
}

#[test]
fn invalidation_is_not_confirmed_while_slots_have_no_primary() {
    let engine = Engine::default_engine();
    let servers = cluster(&engine, 3, 3);
    // As far as this node knows, its own slots have no owner.
    let share = 16_384 / 3;
    call!(
        servers[2].raw(),
        "CLUSTER",
        "DELSLOTSRANGE",
        2 * share,
        16_383
    );
    run(async {
        let url = format!("redis://127.0.0.1:{}", servers[2].port());
        let cache = Cache::builder(Servers::cluster([url])).build().await;
        let cache = cache.unwrap();
        eventually("the nodes that know more are asked", async || {
            let invalidated = cache.invalidate_tags(["tag"]).await;
            if invalidated.is_ok() {
                assert_eq!(cache.stats().servers.len(), 3, "one primary is left out");
            }
            invalidated.is_ok()
        })
        .await;
    });
}

#[test]
fn unknown_sentinel_service_is_named_in_the_error() {
    let primary = Server::start();
    let sentinel = Sentinel::watching(primary.engine(), primary.port());
    run(async {
        let url = format!("redis://127.0.0.1:{}", sentinel.port());
        let cache = Cache::builder(Servers::sentinel("other", [url]))
            .build()
            .await
            .unwrap();
        let error = cache.get::<String>("key").await.unwrap_err();
        assert!(error.to_string().contains("\"other\""), "{error}");
    });
}

#[test]
fn replica_named_as_primary_by_sentinels_is_not_used() {
    let elsewhere = free_port().to_string();
    let replica = Server::builder()
        .args("--replicaof", &["127.0.0.1", &elsewhere])
        .start();
    let sentinel = Sentinel::watching(replica.engine(), replica.port());
    run(async {
        let url = format!("redis://127.0.0.1:{}", sentinel.port());
        let building = Cache::builder(Servers::sentinel("cache", [url])).connect_timeout(DEADLINE);
        let cache = building.build().await.unwrap();
        let error = cache.get::<String>("key").await.unwrap_err();
        assert!(error.to_string().contains("it is a replica"), "{error}");
        assert_eq!(cache.stats().servers[0].state, ServerState::Down);
        call!(replica.raw(), "REPLICAOF", "NO", "ONE");
        cache.ready(DEADLINE).await.unwrap();
    });
}

#[test]
fn outdated_sentinel_is_not_used_forever() {
    let primary = Server::start();
    let engine = primary.engine();
    // It still names a former primary.
    let cut_off = Sentinel::watching(engine, free_port());
    let sentinel = Sentinel::watching(engine, primary.port());
    run(async {
        let urls =
            [cut_off.port(), sentinel.port()].map(|port| format!("redis://127.0.0.1:{port}"));
        connected(Cache::builder(Servers::sentinel("cache", urls))).await;
    });
}

#[test]
fn invalidations_not_replicated_are_sent_to_the_new_primary() {
    let mut primary = Server::start();
    let replica = Server::builder().replica_of(&primary).start();
    let sentinel = Sentinel::watching(primary.engine(), primary.port());
    run(async {
        let url = format!("redis://127.0.0.1:{}", sentinel.port());
        let cache = connected(Cache::builder(Servers::sentinel("cache", [url]))).await;
        let entry = long().tags(["tag"]);
        cache.set("key", &"old".to_owned(), entry).await.unwrap();
        eventually("the sentinel knows the replica", async || {
            let mut asking = RawClient::connect(sentinel.port()).unwrap();
            let known = call!(asking, "SENTINEL", "REPLICAS", "cache");
            known.items().len() == 1 && replica.raw().call(&["DBSIZE"]).int() == 1
        })
        .await;
        crate::moves::cut_replication(&primary, &replica);
        assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 1);
        primary.kill_9();
        let address = format!("127.0.0.1:{}", replica.port());
        eventually("the replica has taken over and is used", async || {
            let read = cache.get::<String>("key").await;
            assert!(!matches!(read, Ok(Some(_))), "what was invalidated is read");
            cache.stats().servers[0].address == address && read.is_ok()
        })
        .await;
        assert!(call!(replica.raw(), "CACHE.GET", "key").is_null());
    });
}

/// An address in a network that does not exist (RFC 5737).
const NOWHERE: &str = "203.0.113.7";

#[test]
fn map_addresses_applies_to_primaries_named_by_sentinels() {
    let server = Server::start();
    let sentinel = Sentinel::of(server.engine(), NOWHERE, 6379);
    run(async {
        let port = server.port();
        let urls = [format!("redis://127.0.0.1:{}", sentinel.port())];
        let servers = Servers::sentinel("cache", urls).map_addresses(move |host, announced| {
            assert_eq!((host, announced), (NOWHERE, 6379));
            ("127.0.0.1".to_owned(), port)
        });
        let cache = connected(Cache::builder(servers)).await;
        cache.set("key", &"value".to_owned(), long()).await.unwrap();
        assert_eq!(warm(&cache, "key").await.as_deref(), Some("value"));
        assert_eq!(
            cache.stats().servers[0].address,
            format!("127.0.0.1:{port}")
        );
    });
}

#[test]
fn map_addresses_applies_to_cluster_nodes() {
    let servers = cluster(&Engine::default_engine(), 3, 2);
    for (n, server) in servers.iter().enumerate() {
        let mut client = server.raw();
        let name = format!("node-{n}.invalid");
        call!(client, "CONFIG", "SET", "cluster-announce-hostname", name);
        call!(
            client,
            "CONFIG",
            "SET",
            "cluster-preferred-endpoint-type",
            "hostname"
        );
    }
    for server in &servers {
        wait_until("the names are known", DEADLINE, || {
            let nodes = call!(server.raw(), "CLUSTER", "NODES").text();
            nodes.matches(".invalid").count() == 3
        });
    }
    run(async {
        let url = [format!("redis://127.0.0.1:{}", servers[0].port())];
        let mapped = Servers::cluster(url).map_addresses(|host, port| {
            let is_announced = host.starts_with("node-") && host.ends_with(".invalid");
            let host = if is_announced { "127.0.0.1" } else { host };
            (host.to_owned(), port)
        });
        let cache = connected(Cache::builder(mapped)).await;
        let keys: Vec<String> = (0..40).map(|n| format!("key{n}")).collect();
        for key in &keys {
            cache.set(key, key, long().tags(["tag"])).await.unwrap();
        }
        assert!(
            cache
                .stats()
                .servers
                .iter()
                .all(|s| s.address.starts_with("127.0.0.1:"))
        );
        // Redirections name these addresses as well.
        crate::moves::move_all_of("key7", &servers, &servers[2], async || {
            let value = cache.get::<String>("key7").await.unwrap();
            assert_eq!(value.as_deref(), Some("key7"));
        })
        .await;
        assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 40);
    });
}

/// The reply of CLUSTER SLOTS for these ranges: last slot and port of each.
fn slots(ranges: &[(u16, u16)]) -> String {
    use std::fmt::Write;

    let (mut answer, mut first) = (format!("*{}\r\n", ranges.len()), 0);
    for (last, port) in ranges {
        let _ = write!(
            answer,
            "*3\r\n:{first}\r\n:{last}\r\n*2\r\n+127.0.0.1\r\n:{port}\r\n"
        );
        first = last + 1;
    }
    answer
}

#[test]
fn slot_map_of_two_nodes_overrides_an_older_one() {
    run(async {
        let ports: Arc<OnceLock<[u16; 3]>> = Arc::default();
        let mut nodes = Vec::new();
        for node in 0..3 {
            let ports = Arc::clone(&ports);
            let answer = move |words: &[String]| match (words[0].as_str(), words.get(1)) {
                ("CLUSTER", Some(what)) if what == "SLOTS" => {
                    let [old, second, third] = *ports.get().expect("all have begun");
                    if node == 0 {
                        slots(&[(5_000, old), (10_000, second), (16_383, third)])
                    } else {
                        slots(&[(8_000, second), (16_383, third)])
                    }
                }
                _ => like_a_primary(words),
            };
            nodes.push(scripted(answer).await);
        }
        ports.set([nodes[0], nodes[1], nodes[2]]).unwrap();
        let url = |port: &u16| format!("redis://127.0.0.1:{port}");
        let expected: BTreeSet<String> = nodes[1..]
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        for round in 0..6 {
            // The node with the older map is the only one that is known at first, or one of several.
            let seeds: Vec<String> = nodes[..=round % 3].iter().map(url).collect();
            let building = Cache::builder(Servers::cluster(seeds)).probe(LONG, LONG);
            let cache = connected(building).await;
            let primaries = || {
                cache
                    .stats()
                    .servers
                    .into_iter()
                    .map(|server| server.address)
            };
            eventually("the map of the two is used", async || {
                primaries().collect::<BTreeSet<_>>() == expected
            })
            .await;
        }
    });
}

/// There is no other hint: this process only invalidates, and first reads the epoch after the move.
#[test]
fn slots_moved_right_after_reading_the_map_are_detected() {
    run(async {
        let ports: Arc<OnceLock<[u16; 2]>> = Arc::default();
        let (looks, moved) = (Calls::default(), Arc::new(AtomicBool::new(false)));
        let mut nodes = Vec::new();
        for _ in 0..2 {
            let (ports, looks, moved) = (Arc::clone(&ports), looks.clone(), Arc::clone(&moved));
            let answer = move |words: &[String]| {
                let (what, moved) = (words.get(1), moved.load(Ordering::SeqCst));
                let [first, second] = *ports.get().expect("both have begun");
                match (words[0].as_str(), what.map(String::as_str)) {
                    ("CLUSTER", Some("SLOTS")) if moved => slots(&[(99, first), (16_383, second)]),
                    ("CLUSTER", Some("SLOTS")) => {
                        looks.note();
                        slots(&[(16_383, first)])
                    }
                    ("CLUSTER", Some("INFO")) => {
                        format!("+cluster_current_epoch:{}\r\n", u8::from(moved))
                    }
                    _ => like_a_primary(words),
                }
            };
            nodes.push(scripted(answer).await);
        }
        ports.set([nodes[0], nodes[1]]).unwrap();
        let url = format!("redis://127.0.0.1:{}", nodes[0]);
        let building = Cache::builder(Servers::cluster([url])).probe(Duration::from_secs(1), LONG);
        let cache = connected(building).await;
        // The first map is followed by a second refresh.
        eventually("the map is known", async || looks.count() >= 2).await;
        moved.store(true, Ordering::SeqCst);
        let begun = Instant::now();
        eventually("the new primary is known", async || {
            cache.stats().servers.len() == 2
        })
        .await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}");
    });
}

#[test]
fn invalidation_sent_before_all_primaries_are_known_fails() {
    run(async {
        let ports: Arc<OnceLock<[u16; 2]>> = Arc::default();
        let is_whole = Arc::new(AtomicBool::new(false));
        let is_found = Arc::new(AtomicBool::new(false));
        let mut nodes = Vec::new();
        for is_second in [false, true] {
            let (ports, is_whole) = (Arc::clone(&ports), Arc::clone(&is_whole));
            let is_found = Arc::clone(&is_found);
            let answer = move |words: &[String]| {
                let [first, second] = *ports.get().expect("both have begun");
                // No other node knows the second one before it is in the map.
                is_found.fetch_or(is_second, Ordering::SeqCst);
                match (words[0].as_str(), words.get(1)) {
                    ("CLUSTER", Some(what)) if what == "SLOTS" => {
                        let map = [(9_999, first), (16_383, second)];
                        let known = 1 + usize::from(is_whole.load(Ordering::SeqCst));
                        slots(&map[..known])
                    }
                    ("CACHE.INVALIDATE", _) => {
                        is_whole.store(true, Ordering::SeqCst);
                        // The second one is found before the first one replies. This thread's tasks go on elsewhere.
                        tokio::task::block_in_place(|| {
                            let found = || is_found.load(Ordering::SeqCst);
                            wait_until("the second one is found", DEADLINE / 2, found);
                        });
                        ":1\r\n".to_owned()
                    }
                    _ => like_a_primary(words),
                }
            };
            nodes.push(scripted(answer).await);
        }
        ports.set([nodes[0], nodes[1]]).unwrap();
        let url = format!("redis://127.0.0.1:{}", nodes[0]);
        let building = Cache::builder(Servers::cluster([url])).command_timeout(DEADLINE);
        let cache = building.probe(LONG, LONG).build().await.unwrap();
        eventually("the first is connected", async || {
            let servers = cache.stats().servers;
            servers.iter().any(ServerStatus::is_connected)
        })
        .await;
        let error = cache.invalidate_tags(["tag"]).await.unwrap_err();
        assert!(matches!(error, Error::Partial { .. }), "{error}");
        assert_eq!(cache.stats().servers.len(), 2);
    });
}
