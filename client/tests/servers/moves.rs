//! Clusters whose primaries come, go and cannot be reached.

use std::time::Duration;

use tagcache::{Cache, Error, Remedy, ServerState, Servers};
use tagcache_tests::proxy::{Proxy, Weather};
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, call, free_port, look, run as cmd, wait_until,
};

use crate::support::{connected, eventually, is_local, long, run, warm};
use crate::topologies::{cache_of, cluster, id};

/// A slot whose keys move from one node to another.
struct Move {
    slot: i64,
    from: RawClient,
    to: RawClient,
    from_id: String,
    to_id: String,
    target: u16,
}

impl Move {
    /// Moves the slot of this key, from the one of two primaries that has it, to `to`.
    fn begin(key: &str, servers: &[Server], to: &Server) -> Self {
        let slot = call!(to.raw(), "CLUSTER", "KEYSLOT", key).int();
        Self::between(slot, &servers[usize::from(slot >= 8192)], to)
    }

    fn between(slot: i64, from: &Server, to: &Server) -> Self {
        let (mut from, mut client) = (from.raw(), to.raw());
        let (from_id, to_id) = (id(&mut from), id(&mut client));
        // Each must first learn the other's role.
        wait_until("the slot may move", DEADLINE, || {
            cmd!(client, "CLUSTER SETSLOT {slot} IMPORTING {from_id}") == Reply::ok()
                && cmd!(from, "CLUSTER SETSLOT {slot} MIGRATING {to_id}") == Reply::ok()
        });
        Self {
            slot,
            from,
            to: client,
            from_id,
            to_id,
            target: to.port(),
        }
    }

    fn key(&mut self, key: &str) {
        let target = self.target;
        let moved = cmd!(self.from, "MIGRATE 127.0.0.1 {target} {key} 0 5000");
        assert_eq!(moved, Reply::ok());
    }

    fn end(&mut self) {
        let (slot, to_id) = (self.slot, &self.to_id);
        assert_ne!(self.from_id, self.to_id);
        for client in [&mut self.to, &mut self.from] {
            wait_until("the slot has moved", DEADLINE, || {
                cmd!(client, "CLUSTER SETSLOT {slot} NODE {to_id}") == Reply::ok()
            });
        }
    }
}

/// Moves a key with its slot; calls `look` during the move and afterwards.
pub(crate) async fn move_all_of(key: &str, servers: &[Server], to: &Server, look: impl AsyncFn()) {
    let mut moving = Move::begin(key, servers, to);
    moving.key(key);
    look().await;
    moving.end();
    look().await;
}

#[test]
fn process_that_only_invalidates_detects_moved_slots() {
    let servers = cluster(&Engine::default_engine(), 3, 2);
    run(async {
        let cache = cache_of(&servers[..2]).await;
        // It sends no command for a key, so it gets no redirection.
        let only_invalidates = cache_of(&servers[..2]).await;
        assert_eq!(only_invalidates.stats().servers.len(), 2);
        // The map is refreshed every 15 s anyhow, which is too seldom for all of these. Each probe reads the cluster's
        // epoch, which rises with each move.
        let slot = call!(servers[0].raw(), "CLUSTER", "KEYSLOT", "key").int();
        let (owner, third) = (&servers[usize::from(slot >= 8192)], &servers[2]);
        // Without its last slot it remains a primary.
        cmd!(third.raw(), "CONFIG SET cluster-allow-replica-migration no");
        let mut rounds = 0;
        eventually("slots are seen to come and go", async || {
            let (from, to) = if rounds % 2 == 0 {
                (owner, third)
            } else {
                (third, owner)
            };
            if only_invalidates.stats().servers.len() == 2 + rounds % 2 {
                Move::between(slot, from, to).end();
                rounds += 1;
            }
            rounds == 7
        })
        .await;
        eventually("the third is known", async || {
            only_invalidates.stats().servers.len() == 3
        })
        .await;
        only_invalidates.ready(DEADLINE).await.unwrap();
        let entry = long().tags(["tag"]);
        cache.set("key", &"old".to_owned(), entry).await.unwrap();
        assert_eq!(only_invalidates.invalidate_tags(["tag"]).await.unwrap(), 1);
        assert!(call!(third.raw(), "CACHE.GET", "key").is_null());
    });
}

#[test]
fn new_primary_is_sent_recent_invalidations() {
    let servers = cluster(&Engine::default_engine(), 3, 2);
    run(async {
        let cache = cache_of(&servers[..1]).await;
        assert_eq!(cache.stats().servers.len(), 2);
        let entry = long().tags(["tag"]);
        cache.set("key", &"old".to_owned(), entry).await.unwrap();
        let mut moving = Move::begin("key", &servers, &servers[2]);
        moving.key("key");
        moving.end();
        // Both known nodes receive it, and neither has the key any more.
        assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 0);
        assert!(!call!(moving.to, "CACHE.GET", "key").is_null());
        eventually("the third is known", async || {
            let read = cache.get::<String>("key").await;
            assert!(!matches!(read, Ok(Some(_))), "what was invalidated is read");
            read.is_ok()
        })
        .await;
        assert_eq!(cache.stats().servers.len(), 3);
        assert!(call!(moving.to, "CACHE.GET", "key").is_null());
    });
}

#[test]
fn late_invalidation_also_reaches_the_new_owner_of_the_slot() {
    let servers = cluster(&Engine::default_engine(), 2, 2);
    run(async {
        let slot = call!(servers[0].raw(), "CLUSTER", "KEYSLOT", "key").int();
        let (from, to) = (
            &servers[usize::from(slot >= 8192)],
            &servers[usize::from(slot < 8192)],
        );
        let (cut_off, proxy) = (from.port(), Proxy::before(from.port()).await);
        let through = proxy.port();
        let url = [format!("redis://127.0.0.1:{}", to.port())];
        let mapped = Servers::cluster(url).map_addresses(move |host, port| {
            let port = if port == cut_off { through } else { port };
            (host.to_owned(), port)
        });
        let cache = connected(Cache::builder(mapped)).await;
        proxy.turn(Weather::Cut);
        let missed = cache.invalidate_tags(["tag"]).await.unwrap_err();
        assert!(matches!(missed, Error::Partial { .. }), "{missed}");
        // Longer than the module allows for one invalidation to reach all nodes.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cmd!(from.raw(), "CACHE.SET key old EX 1000 TAGS 1 tag");
        let mut moving = Move::begin("key", &servers, to);
        moving.key("key");
        moving.end();
        assert!(!call!(moving.to, "CACHE.GET", "key").is_null());
        proxy.turn(Weather::Fair);
        eventually("it is gone", async || {
            call!(moving.to, "CACHE.GET", "key").is_null()
        })
        .await;
    });
}

#[test]
fn key_is_followed_to_a_primary_without_slots() {
    let servers = cluster(&Engine::default_engine(), 3, 2);
    run(async {
        let cache = cache_of(&servers[..2]).await;
        for key in ["{a}1", "{a}2"] {
            let entry = long().tags(["tag"]);
            cache.set(key, &key.to_owned(), entry).await.unwrap();
        }
        let other = cache_of(&servers[..2]).await;
        let mut moving = Move::begin("{a}1", &servers, &servers[2]);
        moving.key("{a}1");
        let both = other.get_many::<String>(["{a}1", "{a}2"]).await.unwrap();
        assert_eq!(both, ["{a}1", "{a}2"].map(|key| Some(key.to_owned())));
        for key in ["{a}1", "{a}2", "{a}1"] {
            assert_eq!(
                cache.get::<String>(key).await.unwrap().as_deref(),
                Some(key)
            );
        }
        assert!(!is_local(&cache, "{a}1").await);
        // It receives the invalidation as the others do, although it has no slot.
        assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 2);
        call!(moving.to, "ASKING");
        assert!(call!(moving.to, "CACHE.GET", "{a}1").is_null());
        moving.end();
        cache.set("{a}1", &"new".to_owned(), long()).await.unwrap();
        assert_eq!(warm(&cache, "{a}1").await.as_deref(), Some("new"));
        let both = other.get_many::<String>(["{a}1", "{a}2"]).await.unwrap();
        assert_eq!(both, [Some("new".to_owned()), None]);
    });
}

#[test]
fn loss_of_a_primary_affects_only_its_own_keys() {
    let mut servers = cluster(&Engine::default_engine(), 2, 2);
    run(async {
        let cache = cache_of(&servers).await;
        for n in 0..40 {
            let entry = long().tags(["tag"]);
            cache.set(&format!("key{n}"), &n, entry).await.unwrap();
        }
        let left = servers[0].raw().call(&["DBSIZE"]).int();
        servers[1].kill_9();
        eventually("the loss is noticed", async || {
            let servers = cache.stats().servers;
            servers.iter().any(|s| s.state == ServerState::Down)
        })
        .await;
        let mut read = 0;
        for n in 0..40 {
            match cache.get::<i32>(&format!("key{n}")).await {
                Ok(value) => {
                    assert_eq!(value, Some(n));
                    read += 1;
                }
                Err(error) => assert_eq!(error.remedy(), Remedy::Retry, "{error}"),
            }
        }
        assert_eq!(read, left);
        let error = cache.invalidate_tags(["tag"]).await.unwrap_err();
        let Error::Partial {
            dropped,
            missed,
            retried: true,
            ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(dropped as i64, left);
        assert_eq!(missed, [format!("127.0.0.1:{}", servers[1].port())]);
    });
}

/// Ends a replica's link to its primary.
pub(crate) fn cut_replication(primary: &Server, replica: &Server) {
    let mut client = replica.raw();
    cmd!(client, "CONFIG SET masteruser nobody masterauth none");
    cmd!(primary.raw(), "CLIENT KILL TYPE replica");
    wait_until("it is cut off", DEADLINE, || {
        look::info_text(&mut client, "master_link_status") == "down"
    });
}

#[test]
fn promoted_replica_is_sent_the_last_invalidation() {
    let servers = cluster(&Engine::default_engine(), 2, 1);
    let (mut first, mut second) = (servers[0].raw(), servers[1].raw());
    let primary = id(&mut first);
    assert_eq!(cmd!(second, "CLUSTER REPLICATE {primary}"), Reply::ok());
    run(async {
        let cache = cache_of(&servers).await;
        let entry = long().tags(["tag"]);
        cache.set("key", &"old".to_owned(), entry).await.unwrap();
        eventually("it is replicated", async || {
            call!(second, "DBSIZE").int() == 1
        })
        .await;
        cut_replication(&servers[0], &servers[1]);
        assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 1);
        assert_eq!(cmd!(second, "CLUSTER FAILOVER TAKEOVER"), Reply::ok());
        assert!(!call!(second, "CACHE.GET", "key").is_null());
        let address = format!("127.0.0.1:{}", servers[1].port());
        eventually("the new primary is used", async || {
            let read = cache.get::<String>("key").await;
            assert!(!matches!(read, Ok(Some(_))), "what was invalidated is read");
            cache.stats().servers[0].address == address && read.is_ok()
        })
        .await;
        assert!(call!(second, "CACHE.GET", "key").is_null());
    });
}

#[test]
fn cluster_user_needs_few_permissions_and_missing_ones_are_named() {
    let servers = cluster(&Engine::default_engine(), 2, 2);
    let grant = |rules: &str| {
        for server in &servers {
            let set = cmd!(server.raw(), "ACL SETUSER app {rules}");
            assert_eq!(set, Reply::ok());
        }
    };
    grant("on >secret ~shop:* &__cache@0__:invalidate -@all +ping +client|tracking +subscribe");
    grant("+cache.fetch +cache.set +cache.del +cache.touch +cache.release +cache.hits");
    grant("+cache.invalidate +cache.revalidate");
    let url = |user: &str| format!("redis://{user}@127.0.0.1:{}", servers[0].port());
    run(async {
        let building = |user: &str| {
            Cache::builder(Servers::cluster([url(user)]))
                .namespace("shop")
                .connect_timeout(DEADLINE)
        };
        let cache = building("app:secret").build().await.unwrap();
        for error in [
            cache.get::<String>("key").await.unwrap_err(),
            cache.invalidate_tags(["tag"]).await.unwrap_err(),
            cache.ready(Duration::ZERO).await.unwrap_err(),
        ] {
            assert!(
                matches!(&error, Error::Denied { message, .. } if message.contains("cluster|slots")),
                "{error}"
            );
        }
        assert_eq!(cache.stats().servers[0].state, ServerState::Denied);
        grant("+cluster|slots");
        cache.ready(DEADLINE).await.unwrap();
        for n in 0..20 {
            let (key, entry) = (format!("key{n}"), long().tags(["tag"]));
            cache.set(&key, &"value".to_owned(), entry).await.unwrap();
            assert_eq!(warm(&cache, &key).await.as_deref(), Some("value"));
        }
        assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 20);
        let wrong = building("app:wrong").build().await.unwrap();
        let error = wrong.get::<String>("key").await;
        assert!(matches!(error, Err(Error::Denied { .. })), "{error:?}");
    });
}

#[test]
fn standalone_server_as_cluster_is_reported_as_an_error() {
    let server = Server::start();
    run(async {
        let urls = [
            format!("redis://127.0.0.1:{}", free_port()),
            format!("redis://127.0.0.1:{}", server.port()),
        ];
        for urls in [&urls[1..], &urls[..]] {
            let building = Cache::builder(Servers::cluster(urls.iter().cloned()));
            let cache = building.build().await.unwrap();
            eventually("somebody was asked", async || {
                let error = cache.get::<String>("key").await.unwrap_err();
                error.to_string().contains("cluster support disabled")
                    || urls.len() == 2 && error.to_string().contains("refused")
            })
            .await;
            assert_eq!(cache.stats().servers[0].state, ServerState::Down);
        }
        // Two addresses of the same cluster, one of them unreachable.
        let nodes = cluster(server.engine(), 2, 2);
        let there = format!("redis://127.0.0.1:{}", nodes[1].port());
        let either = Servers::cluster([urls[0].clone(), there]);
        connected(Cache::builder(either)).await;
    });
}
