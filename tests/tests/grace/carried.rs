//! State, grace and soft marks survive in RDB files and in replication.

use tagcache_tests::fetch::fetch;
use tagcache_tests::look::{assert_index_agrees, stat};
use tagcache_tests::state::{assert_same, replicated, wait_synchronised};
use tagcache_tests::{
    DEADLINE, Reply, Server, args, call, for_all_engines, for_each_engine, run, wait_until,
};

use crate::{LONG, dataset, holds_dataset};

#[test]
fn reload_and_restart_from_an_rdb_keep_state_and_grace() {
    for_all_engines(|engine| {
        let mut server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        dataset(&mut client);
        holds_dataset(&mut client, "before");
        assert_eq!(call!(client, "DEBUG", "RELOAD"), Reply::ok());
        holds_dataset(&mut client, "after a reload");
        assert_index_agrees(&server, &[0], &[b"soft", b"hard"]);
        assert_eq!(call!(client, "SAVE"), Reply::ok());
        server.kill_9();
        server.restart();
        let mut client = server.raw();
        holds_dataset(&mut client, "after a restart");
        assert_index_agrees(&server, &[0], &[b"soft", b"hard"]);
        // The loaded state continues as before: a second mark, a hard one, the clock.
        let clock = stat(&mut client, "clock");
        assert_eq!(call!(client, "CACHE.REVALIDATE", "kept"), Reply::Int(4));
        assert!(fetch(&mut client, "fresh").is_stale("v"));
        assert_eq!(call!(client, "CACHE.INVALIDATE", "soft"), Reply::Int(2));
        assert!(fetch(&mut client, "soft").is_miss());
        assert_eq!(stat(&mut client, "clock"), clock + 2);
    });
}

#[test]
fn grace_runs_on_while_the_server_is_down() {
    for_each_engine(|engine| {
        let mut server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        run!(client, "CACHE.SET long v PX {LONG} GRACE 1500 TAGS 1 a");
        run!(client, "CACHE.SET ever v GRACE 1500 TAGS 1 a");
        run!(client, "CACHE.SET timed v PX 1 GRACE 1500 TAGS 1 a");
        run!(client, "CACHE.SET stays v GRACE {LONG} TAGS 1 a");
        call!(client, "CACHE.REVALIDATE", "a");
        let start = std::time::Instant::now();
        assert_eq!(call!(client, "SAVE"), Reply::ok());
        server.kill_9();
        wait_until("their grace is over", DEADLINE, || {
            start.elapsed().as_millis() > 1600
        });
        server.restart();
        let mut client = server.raw();
        for key in ["long", "ever", "timed"] {
            assert!(fetch(&mut client, key).is_miss(), "{key}");
        }
        assert!(fetch(&mut client, "stays").is_stale("v"));
        wait_until("their memory is back", DEADLINE, || {
            call!(client, "DBSIZE") == Reply::Int(1)
        });
        assert_eq!(stat(&mut client, "entries"), 1);
        assert_index_agrees(&server, &[0], &[b"a"]);
    });
}

#[test]
fn a_full_sync_transfers_state_and_grace() {
    for_all_engines(|engine| {
        for diskless in ["yes", "no"] {
            let primary = Server::builder()
                .engine(engine)
                .arg("--repl-diskless-sync", diskless)
                .start();
            dataset(&mut primary.raw());
            let replica = Server::builder()
                .engine(engine)
                .replica_of(&primary)
                .start();
            wait_synchronised(&primary, &replica);
            holds_dataset(&mut replica.raw(), "the replica");
            assert_same(&primary, &replica, &[0]);
            assert_index_agrees(&replica, &[0], &[b"soft", b"hard"]);
        }
    });
}

#[test]
fn stream_and_partial_resync_transfer_state_and_grace() {
    for_all_engines(|engine| {
        let primary = Server::builder()
            .engine(engine)
            .arg("--repl-backlog-size", "10mb")
            .start();
        let replica = Server::builder()
            .engine(engine)
            .replica_of(&primary)
            .start();
        wait_synchronised(&primary, &replica);
        let mut client = primary.raw();
        dataset(&mut client);
        // Hits of entries belong to each node.
        wait_synchronised(&primary, &replica);
        let mut there = replica.raw();
        for key in ["soft", "soft timed", "expired"] {
            assert!(fetch(&mut there, key).is_stale("v"), "{key}");
            assert!(call!(there, "CACHE.GET", key).is_null(), "{key}");
        }
        assert!(fetch(&mut there, "no grace").is_miss());
        assert_same(&primary, &replica, &[0]);
        assert_eq!(
            call!(there, "CLIENT", "KILL", "TYPE", "master"),
            Reply::Int(1)
        );
        run!(client, "CACHE.SET late v GRACE {LONG} TAGS 1 late");
        run!(client, "CACHE.TOUCH lasting EX 1000 GRACE 77000");
        call!(client, "CACHE.REVALIDATE", "late", "kept");
        assert_same(&primary, &replica, &[0]);
        assert!(fetch(&mut there, "late").is_stale("v"));
        assert!(fetch(&mut there, "fresh").is_stale("v"));
        let grace = call!(there, "CACHE.INSPECT", "soft").field("grace");
        assert_eq!(grace, Reply::Int(LONG));
        assert_index_agrees(&replica, &[0], &[b"soft", b"hard"]);
    });
}

#[test]
fn entries_past_their_grace_leave_primary_and_replica_alike() {
    for_each_engine(|engine| {
        let (primary, replica) = replicated(engine);
        let mut client = primary.raw();
        let sets: Vec<_> = (0..500)
            .map(|n| {
                let key = format!("key{n}");
                match n % 4 {
                    0 => args!["CACHE.SET", key, "v", "GRACE", 20 + n, "TAGS", 1, "a"],
                    1 => args![
                        "CACHE.SET",
                        key,
                        "v",
                        "PX",
                        LONG,
                        "GRACE",
                        20 + n,
                        "TAGS",
                        1,
                        "a"
                    ],
                    2 => args![
                        "CACHE.SET",
                        key,
                        "v",
                        "PX",
                        n + 1,
                        "GRACE",
                        n + 1,
                        "TAGS",
                        1,
                        "a"
                    ],
                    _ => args!["CACHE.SET", key, "v", "GRACE", LONG, "TAGS", 1, "a"],
                }
            })
            .collect();
        client.pipeline(&sets);
        call!(client, "CACHE.REVALIDATE", "a");
        for server in [&primary, &replica] {
            let mut client = server.raw();
            wait_until("only those with long grace are left", DEADLINE, || {
                stat(&mut client, "entries") == 125
            });
        }
        assert_same(&primary, &replica, &[0]);
        for server in [&primary, &replica] {
            assert_index_agrees(server, &[0], &[b"a"]);
        }
        wait_until("and their memory is back", DEADLINE, || {
            call!(replica.raw(), "DBSIZE") == Reply::Int(125)
        });
    });
}

#[test]
fn a_promoted_replica_keeps_entries_stale() {
    for_each_engine(|engine| {
        let mut primary = Server::builder().engine(engine).start();
        let replica = Server::builder()
            .engine(engine)
            .replica_of(&primary)
            .start();
        wait_synchronised(&primary, &replica);
        let mut client = primary.raw();
        dataset(&mut client);
        wait_synchronised(&primary, &replica);
        primary.kill_9();
        let mut there = replica.raw();
        assert_eq!(call!(there, "REPLICAOF", "NO", "ONE"), Reply::ok());
        for key in ["soft", "soft timed", "expired"] {
            assert!(fetch(&mut there, key).is_stale("v"), "{key}");
        }
        let answer = tagcache_tests::fetch::fetch_lease(&mut there, "soft", 60_000);
        assert!(answer.is_stale("v") && answer.token > 0, "{answer:?}");
        assert!(tagcache_tests::fetch::set_leased(
            &mut there,
            "soft",
            "new",
            answer.token,
            &["soft"]
        ));
        assert!(fetch(&mut there, "soft").is_hit("new"));
    });
}
