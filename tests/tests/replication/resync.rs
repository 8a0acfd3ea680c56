//! Full and partial resync, chains, promotion.

use tagcache_tests::look::{assert_index_agrees, info, inspect, stat};
use tagcache_tests::state::{Hits, State, assert_same, replicated, wait_synchronised};
use tagcache_tests::traffic::{DATABASES, write};
use tagcache_tests::{
    DEADLINE, Reply, Rng, Server, args, call, for_all_engines, for_each_engine, wait_until,
};

use crate::fill;

const TAGS: [&[u8]; 4] = [b"all", b"tag1", b"old", b"large"];

#[test]
fn a_full_resync_transfers_everything_including_hits() {
    for_all_engines(|engine| {
        for diskless in ["yes", "no"] {
            let primary = Server::builder()
                .engine(engine)
                .arg("--repl-diskless-sync", diskless)
                .start();
            let mut client = primary.raw();
            write(&mut client, &mut Rng::from_env(31), 3000);
            call!(client, "SELECT", 0);
            fill(&mut client, "read", 200, "tag1");
            for n in 0..100 {
                call!(client, "CACHE.GET", format!("read{n}"));
            }
            // Reads of the comparison come later: they count as hits on neither side.
            let expected = State::of(&primary, &DATABASES, Hits::Count);
            let replica = Server::builder()
                .engine(engine)
                .replica_of(&primary)
                .start();
            wait_synchronised(&primary, &replica);
            State::of(&replica, &DATABASES, Hits::Count).must_equal(&expected, "the replica");
            assert_index_agrees(&replica, &DATABASES, &TAGS);
        }
    });
}

#[test]
fn a_full_resync_replaces_the_earlier_data_of_a_replica() {
    for_all_engines(|engine| {
        for load in ["disabled", "on-empty-db", "swapdb"] {
            let primary = Server::builder().engine(engine).start();
            fill(&mut primary.raw(), "key", 500, "tag1");
            call!(primary.raw(), "CACHE.INVALIDATE", "old");
            let replica = Server::builder()
                .engine(engine)
                .arg("--repl-diskless-load", load)
                .start();
            let mut client = replica.raw();
            for database in [0, 1] {
                call!(client, "SELECT", database);
                fill(&mut client, "old", 500, "old");
                fill(&mut client, "large", 3000, "large");
            }
            call!(client, "CACHE.INVALIDATE", "large");
            let port = primary.port();
            assert_eq!(call!(client, "REPLICAOF", "127.0.0.1", port), Reply::ok());
            assert_same(&primary, &replica, &DATABASES);
            assert_index_agrees(&replica, &DATABASES, &TAGS);
            assert_eq!(
                call!(primary.raw(), "CACHE.INVALIDATE", "tag1"),
                Reply::Int(500)
            );
            assert_same(&primary, &replica, &DATABASES);
            assert_index_agrees(&replica, &DATABASES, &TAGS);
        }
    });
}

#[test]
fn a_full_resync_during_a_backlog_transfers_no_gone_entry() {
    for_each_engine(|engine| {
        let primary = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-inline", "0", "reclaim-budget-us", "100"])
            .start();
        let replica = Server::builder().engine(engine).start();
        let mut client = primary.raw();
        fill(&mut client, "key", 20_000, "large");
        fill(&mut client, "live", 100, "tag1");
        call!(replica.raw(), "REPLICAOF", "127.0.0.1", primary.port());
        call!(client, "CACHE.INVALIDATE", "large");
        assert_same(&primary, &replica, &[0]);
        assert_index_agrees(&replica, &[0], &TAGS);
        let mut there = replica.raw();
        assert_eq!(stat(&mut there, "entries"), 100);
        assert_eq!(call!(there, "DBSIZE"), Reply::Int(100));
    });
}

#[test]
fn random_traffic_leaves_a_chain_of_replicas_equal() {
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).start();
        let replica = Server::builder()
            .engine(engine)
            .replica_of(&primary)
            .start();
        let second = Server::builder()
            .engine(engine)
            .replica_of(&replica)
            .start();
        wait_synchronised(&primary, &replica);
        wait_synchronised(&replica, &second);
        let mut client = primary.raw();
        let mut rng = Rng::from_env(32);
        for _ in 0..4 {
            write(&mut client, &mut rng, 2500);
            assert_same(&primary, &replica, &DATABASES);
            assert_same(&replica, &second, &DATABASES);
        }
        for server in [&primary, &replica, &second] {
            assert_index_agrees(server, &DATABASES, &TAGS);
        }
    });
}

#[test]
fn random_traffic_with_a_backlog_leaves_both_nodes_equal() {
    for_each_engine(|engine| {
        // Each node reclaims at its own pace.
        for (here, there) in [("0", "0"), ("0", "100000"), ("100000", "0")] {
            let slow = ["reclaim-budget-us", "100", "reclaim-inline"];
            let primary = Server::builder()
                .engine(engine)
                .module_args(&[&slow[..], &[here]].concat())
                .start();
            let replica = Server::builder()
                .engine(engine)
                .module_args(&[&slow[..], &[there]].concat())
                .replica_of(&primary)
                .start();
            wait_synchronised(&primary, &replica);
            let mut client = primary.raw();
            let mut rng = Rng::from_env(33);
            for _ in 0..3 {
                call!(client, "SELECT", 0);
                fill(&mut client, "large", 3000, "tag1");
                write(&mut client, &mut rng, 2000);
                assert_same(&primary, &replica, &DATABASES);
            }
            assert_index_agrees(&replica, &DATABASES, &TAGS);
        }
    });
}

#[test]
fn a_partial_resync_misses_nothing() {
    for_all_engines(|engine| {
        let primary = Server::builder()
            .engine(engine)
            .arg("--repl-backlog-size", "100mb")
            .start();
        let replica = Server::builder()
            .engine(engine)
            .replica_of(&primary)
            .start();
        wait_synchronised(&primary, &replica);
        let mut client = primary.raw();
        fill(&mut client, "large", 1000, "large");
        write(&mut client, &mut Rng::from_env(34), 1000);
        for _ in 0..3 {
            wait_synchronised(&primary, &replica);
            assert_eq!(
                call!(replica.raw(), "CLIENT", "KILL", "TYPE", "master"),
                Reply::Int(1)
            );
            call!(client, "SELECT", 0);
            fill(&mut client, "large", 1000, "large");
            call!(client, "CACHE.INVALIDATE", "large");
            write(&mut client, &mut Rng::from_env(35), 500);
            assert_same(&primary, &replica, &DATABASES);
        }
        assert!(info(&mut client, "sync_partial_ok") >= 3);
        assert_eq!(info(&mut client, "sync_full"), 1);
        assert_index_agrees(&replica, &DATABASES, &TAGS);
    });
}

#[test]
fn a_killed_replica_catches_up_after_its_restart() {
    for_each_engine(|engine| {
        let primary = Server::builder().engine(engine).start();
        let mut replica = Server::builder()
            .engine(engine)
            .arg("--appendonly", "yes")
            .replica_of(&primary)
            .start();
        let mut client = primary.raw();
        write(&mut client, &mut Rng::from_env(36), 2000);
        wait_synchronised(&primary, &replica);
        replica.kill_9();
        write(&mut client, &mut Rng::from_env(37), 2000);
        replica.restart();
        assert_same(&primary, &replica, &DATABASES);
        assert_index_agrees(&replica, &DATABASES, &TAGS);
    });
}

#[test]
fn a_promoted_replica_continues_where_the_primary_stopped() {
    for_all_engines(|engine| {
        let mut primary = Server::builder().engine(engine).start();
        let mut client = primary.raw();
        let replica = Server::builder()
            .engine(engine)
            .replica_of(&primary)
            .start();
        wait_synchronised(&primary, &replica);
        fill(&mut client, "key", 1000, "tag1");
        fill(&mut client, "other", 500, "tag2");
        for _ in 0..7 {
            call!(client, "CACHE.INVALIDATE", "unknown");
        }
        call!(client, "CACHE.INVALIDATE", "tag1");
        wait_synchronised(&primary, &replica);
        primary.kill_9();
        let mut promoted = replica.raw();
        assert_eq!(call!(promoted, "REPLICAOF", "NO", "ONE"), Reply::ok());
        assert_eq!(
            (stat(&mut promoted, "entries"), stat(&mut promoted, "clock")),
            (500, 8)
        );
        assert!(
            inspect(&mut promoted, "key5").is_none(),
            "what was dropped there stays dropped here"
        );
        assert_eq!(
            call!(promoted, "CACHE.SET", "new", "v", "TAGS", 1, "tag2"),
            Reply::ok()
        );
        assert_eq!(call!(promoted, "CACHE.INVALIDATE", "tag2"), Reply::Int(501));
        assert_eq!(stat(&mut promoted, "clock"), 9);
        wait_until("the backlog is reclaimed", DEADLINE, || {
            call!(promoted, "DBSIZE") == Reply::Int(0)
        });
        assert_index_agrees(&replica, &DATABASES, &TAGS);
        // The old primary, restarted as a replica, follows as well.
        primary.restart();
        fill(&mut promoted, "newer", 50, "tag3");
        call!(primary.raw(), "REPLICAOF", "127.0.0.1", replica.port());
        assert_same(&replica, &primary, &DATABASES);
    });
}

#[test]
fn an_invalidation_is_visible_at_once_on_the_replica() {
    for_each_engine(|engine| {
        let (primary, replica) = replicated(engine);
        let mut client = primary.raw();
        fill(&mut client, "key", 5000, "tag1");
        wait_synchronised(&primary, &replica);
        call!(client, "CACHE.INVALIDATE", "tag1");
        let mut there = replica.raw();
        wait_until("the invalidation arrives", DEADLINE, || {
            stat(&mut there, "clock") == 1
        });
        let mut mget = args!["CACHE.MGET"];
        mget.extend((0..5000).map(|n| format!("key{n}").into_bytes()));
        assert!(there.call(&mget).items().iter().all(Reply::is_null));
        assert_eq!(stat(&mut there, "entries"), 0);
        assert_same(&primary, &replica, &[0]);
    });
}
