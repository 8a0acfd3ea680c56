//! The effects of a restart that a client sees: the lineage of CACHE.CLOCK, and `tagcache.after-restart`.

use std::thread::JoinHandle;
use tagcache_tests::look::{assert_index_agrees, info, stat, wait_reclaimed, wait_rewritten};
use tagcache_tests::state::{assert_same, wait_synchronised};

use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, ServerBuilder, args, call, for_all_engines, run,
    wait_until,
};

fn clock(client: &mut RawClient) -> (String, i64) {
    let reply = run!(client, "CACHE.CLOCK");
    (reply.items()[0].text(), reply.items()[1].int())
}

/// The clock at which the lineage began.
fn start(client: &mut RawClient) -> i64 {
    run!(client, "CACHE.CLOCK START").items()[2].int()
}

/// A primary on which a tag was invalidated, and its replica.
fn pair(engine: &Engine) -> (Server, Server) {
    let primary = Server::builder().engine(engine).start();
    let replica = Server::builder()
        .engine(engine)
        .replica_of(&primary)
        .start();
    wait_synchronised(&primary, &replica);
    run!(primary.raw(), "CACHE.INVALIDATE t");
    wait_synchronised(&primary, &replica);
    (primary, replica)
}

fn logging(engine: &Engine) -> ServerBuilder {
    Server::builder()
        .engine(engine)
        .arg("--appendonly", "yes")
        .arg("--appendfsync", "always")
}

#[test]
fn a_restart_changes_the_lineage_and_keeps_saved_entries() {
    for_all_engines(|engine| {
        let saved = Server::builder().engine(engine);
        for (builder, save, kept) in [
            (Server::builder().engine(engine), false, 0),
            (saved, true, 2),
            (logging(engine), false, 2),
            (
                logging(engine).arg("--aof-use-rdb-preamble", "no"),
                false,
                2,
            ),
        ] {
            let mut server = builder.start();
            let mut client = server.raw();
            run!(client, "CACHE.INVALIDATE t");
            run!(client, "CACHE.INVALIDATE t");
            if save {
                assert_eq!(run!(client, "SAVE"), Reply::ok());
            }
            let (before, reading) = clock(&mut client);
            assert_eq!(reading, 2);
            server.kill_9();
            server.restart();
            let (after, reading) = clock(&mut server.raw());
            assert_ne!(after, before);
            assert_eq!(reading, kept);
            let mut client = server.raw();
            run!(client, "CACHE.INVALIDATE t");
            assert_eq!(
                start(&mut client),
                kept,
                "later ones count for the clock alone"
            );
            run!(client, "SELECT 3");
            assert_eq!(start(&mut client), 0, "each database has its own");
        }
    });
}

#[test]
fn reloads_rewrites_and_reconnects_keep_the_lineage() {
    for_all_engines(|engine| {
        let server = logging(engine).start();
        let mut client = server.raw();
        run!(client, "CACHE.SET key v TAGS 1 t");
        run!(client, "CACHE.INVALIDATE t");
        let before = clock(&mut client);
        for line in [
            "DEBUG RELOAD",
            "BGREWRITEAOF",
            "DEBUG LOADAOF",
            "FLUSHALL",
            "SAVE",
        ] {
            let reply = client.call(&tagcache_tests::split(line));
            assert!(!reply.is_error(), "{line}: {reply:?}");
            if line == "BGREWRITEAOF" {
                wait_rewritten(&mut client);
            }
            assert_eq!(clock(&mut client), before, "{line}");
            assert_eq!(start(&mut client), 0, "{line}");
        }
        assert_eq!(clock(&mut server.raw()), before, "another connection");
    });
}

#[test]
fn only_a_promotion_changes_a_replicas_lineage() {
    for_all_engines(|engine| {
        let (primary, replica) = pair(engine);
        let (mut here, mut there) = (primary.raw(), replica.raw());
        let (of_primary, of_replica) = (clock(&mut here), clock(&mut there));
        assert_ne!(of_primary.0, of_replica.0, "each node has its own");
        assert_eq!(of_primary.1, of_replica.1);
        // Partial and full resync.
        run!(here, "CLIENT KILL TYPE replica");
        run!(here, "CACHE.INVALIDATE t");
        wait_synchronised(&primary, &replica);
        assert_eq!(clock(&mut there), (of_replica.0.clone(), 2));
        let port = primary.port();
        assert_eq!(run!(there, "REPLICAOF 127.0.0.1 1"), Reply::ok());
        assert_eq!(run!(here, "DEBUG CHANGE-REPL-ID"), Reply::ok());
        assert_eq!(run!(there, "REPLICAOF 127.0.0.1 {port}"), Reply::ok());
        wait_synchronised(&primary, &replica);
        assert_eq!(clock(&mut there), (of_replica.0.clone(), 2));
        assert_eq!(run!(there, "REPLICAOF NO ONE"), Reply::ok());
        let promoted = clock(&mut there);
        assert_eq!(promoted.1, 2);
        assert_eq!(start(&mut there), 2);
        assert_ne!(promoted.0, of_replica.0);
        assert_ne!(promoted.0, of_primary.0);
        assert_eq!(clock(&mut here), (of_primary.0, 2), "the primary goes on");
        assert_eq!(run!(there, "REPLICAOF NO ONE"), Reply::ok());
        assert_eq!(clock(&mut there), promoted, "it is a primary already");
        run!(there, "CACHE.INVALIDATE t");
        assert_eq!(start(&mut there), 2);
    });
}

#[test]
fn a_failover_changes_the_lineage_of_the_new_primary() {
    for_all_engines(|engine| {
        let (primary, replica) = pair(engine);
        let (mut here, mut there) = (primary.raw(), replica.raw());
        let (old, before) = (clock(&mut here), clock(&mut there));
        assert_eq!(run!(here, "FAILOVER"), Reply::ok());
        wait_synchronised(&replica, &primary);
        let after = clock(&mut there);
        assert_eq!((after.1, start(&mut there)), (1, 1));
        assert!(
            after.0 != before.0 && after.0 != old.0,
            "{before:?}, then {after:?}"
        );
        assert_eq!(clock(&mut here).1, 1);
    });
}

fn fill(client: &mut RawClient) {
    for n in 0..1_000 {
        call!(client, "CACHE.SET", format!("key{n}"), "v", "TAGS", 1, "t");
    }
    run!(client, "SET string v");
    run!(client, "CACHE.INVALIDATE other");
    run!(client, "SELECT 3");
    run!(client, "CACHE.SET key v TAGS 1 t");
    run!(client, "SELECT 0");
}

#[test]
fn with_drop_a_primary_keeps_no_entry_of_its_rdb() {
    for_all_engines(|engine| {
        let builder = Server::builder().engine(engine);
        let mut server = builder.module_args(&["after-restart", "drop"]).start();
        let mut client = server.raw();
        fill(&mut client);
        // Nothing was loaded at the start: this is no restart.
        assert_eq!(run!(client, "DEBUG RELOAD"), Reply::ok());
        run!(client, "SELECT 0"); // Valkey 8.1 leaves the client in another database.
        assert_eq!(stat(&mut client, "entries"), 1_000);
        assert_eq!(run!(client, "SAVE"), Reply::ok());
        server.restart();
        let mut client = server.raw();
        assert_eq!(run!(client, "CACHE.GET key7"), Reply::Null);
        assert_eq!(stat(&mut client, "entries"), 0);
        wait_reclaimed(&mut client);
        assert_eq!(run!(client, "DBSIZE"), Reply::Int(1));
        assert_eq!(run!(client, "GET string"), Reply::bulk("v"));
        assert_eq!(clock(&mut client).1, 1, "the clock stays");
        assert_index_agrees(&server, &[0, 3], &[b"t"]);
        fill(&mut client);
        assert_eq!(run!(client, "DEBUG RELOAD"), Reply::ok());
        run!(client, "SELECT 0"); // Valkey 8.1 leaves the client in another database.
        assert_eq!(
            stat(&mut client, "entries"),
            1_000,
            "a reload is no restart"
        );
    });
}

#[test]
fn drop_keeps_the_entries_of_an_append_only_file() {
    for_all_engines(|engine| {
        for preamble in ["yes", "no"] {
            let mut server = logging(engine)
                .arg("--aof-use-rdb-preamble", preamble)
                .module_args(&["after-restart", "drop"])
                .start();
            let mut client = server.raw();
            fill(&mut client);
            run!(client, "BGREWRITEAOF");
            wait_rewritten(&mut client);
            run!(client, "CACHE.SET key1000 v TAGS 1 t");
            server.kill_9();
            server.restart();
            let mut client = server.raw();
            assert_eq!(stat(&mut client, "entries"), 1_001, "preamble {preamble}");
            assert_index_agrees(&server, &[0, 3], &[b"t"]);
        }
    });
}

#[test]
fn drop_keeps_the_entries_of_a_full_sync() {
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).start();
        fill(&mut primary.raw());
        let mut replica = Server::builder()
            .engine(engine)
            .module_args(&["after-restart", "drop"])
            .replica_of(&primary)
            .start();
        wait_synchronised(&primary, &replica);
        let mut client = replica.raw();
        assert_eq!(stat(&mut client, "entries"), 1_000);
        // A replica's own file is no older than the stream that its primary sends from there on.
        assert_eq!(run!(client, "SAVE"), Reply::ok());
        replica.restart();
        wait_synchronised(&primary, &replica);
        let mut client = replica.raw();
        assert_eq!(stat(&mut client, "entries"), 1_000);
        assert_eq!(run!(client, "REPLICAOF NO ONE"), Reply::ok());
        assert_eq!(
            stat(&mut client, "entries"),
            1_000,
            "a promotion drops nothing"
        );
    });
}

#[test]
fn a_drop_reaches_a_replica_that_resyncs_partially() {
    for_all_engines(|engine| {
        let builder = Server::builder().engine(engine);
        let builder = builder.module_args(&["after-restart", "drop"]);
        let mut primary = builder.clone().start();
        let replica = builder.replica_of(&primary).start();
        let mut client = primary.raw();
        fill(&mut client);
        run!(client, "SET native v");
        wait_synchronised(&primary, &replica);
        wait_until(
            "the child that wrote for the replica is gone",
            DEADLINE,
            || info(&mut client, "rdb_bgsave_in_progress") == 0,
        );
        assert_eq!(run!(client, "SAVE"), Reply::ok());
        primary.kill_9();
        primary.restart();
        wait_synchronised(&primary, &replica);
        let (mut here, mut there) = (primary.raw(), replica.raw());
        // These find nothing here, and must find nothing on the replica.
        assert_eq!(run!(here, "SETNX key1 native"), Reply::Int(1));
        assert_eq!(run!(here, "RENAMENX native key2"), Reply::Int(1));
        assert_same(&primary, &replica, &[0, 3]);
        assert_eq!(stat(&mut there, "entries"), 0);
        assert_eq!(run!(there, "GET key1"), Reply::bulk("native"));
        let log = replica.log();
        assert!(log.contains("Successful partial"), "{log}");
    });
}

/// Sends a command repeatedly, from the start of its server, until it is not refused because the server still loads.
fn call_until_loaded(port: u16, command: Vec<Vec<u8>>) -> JoinHandle<Reply> {
    std::thread::spawn(move || {
        let mut client = loop {
            match RawClient::connect(port) {
                Ok(client) => break client,
                Err(_) => std::thread::yield_now(),
            }
        };
        loop {
            let reply = client.call(&command);
            if !reply.error().is_some_and(|e| e.starts_with("LOADING")) {
                return reply;
            }
        }
    })
}

#[test]
fn commands_right_after_a_drop_have_the_same_effect_on_replicas() {
    for_all_engines(|engine| {
        for command in [
            args!["SETNX", "key0", "native"],
            args!["SET", "key0", "native"],
            args!["RENAME", "key0", "native"],
            args!["CLIENT", "PAUSE", 500, "WRITE"],
        ] {
            let builder = Server::builder()
                .engine(engine)
                .module_args(&["after-restart", "drop"]);
            // A client that connects while the file is loaded is served before any timer.
            let slow = builder
                .clone()
                .arg("--key-load-delay", "1000")
                .arg("--loading-process-events-interval-bytes", "1024");
            let mut primary = slow.start();
            let replica = builder.replica_of(&primary).start();
            let mut client = primary.raw();
            for n in 0..100 {
                let value = vec![b'v'; 2_000];
                call!(
                    client,
                    "CACHE.SET",
                    format!("key{n}"),
                    value,
                    "TAGS",
                    1,
                    "t"
                );
            }
            wait_synchronised(&primary, &replica);
            wait_until("the child is gone", DEADLINE, || {
                info(&mut client, "rdb_bgsave_in_progress") == 0
            });
            assert_eq!(run!(client, "SAVE"), Reply::ok());
            let port = primary.port();
            primary.kill_9();
            let insisting = call_until_loaded(port, command.clone());
            primary.restart();
            let reply = insisting.join().expect("a reply");
            wait_synchronised(&primary, &replica);
            assert_same(&primary, &replica, &[0]);
            let mut there = replica.raw();
            assert_eq!(stat(&mut there, "entries"), 0, "{command:?}: {reply:?}");
            let log = replica.log();
            assert!(log.contains("Successful partial"), "{log}");
        }
    });
}

#[test]
fn an_invalid_value_of_after_restart_is_refused() {
    for_all_engines(|engine| {
        let builder = Server::builder().engine(engine);
        let started = builder.module_args(&["after-restart", "x"]).try_start();
        let log = started.map(|_| ()).expect_err("the server must not start");
        assert!(log.contains("keep or drop, not 'x'"), "{log}");
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        if run!(client, "CONFIG GET tagcache.after-restart")
            .items()
            .is_empty()
        {
            return;
        }
        let refused = run!(client, "CONFIG SET tagcache.after-restart x");
        let error = refused.error().expect("no such word");
        assert!(error.contains("keep") && error.contains("drop"), "{error}");
        assert_eq!(
            run!(client, "CONFIG SET tagcache.after-restart Drop"),
            Reply::ok()
        );
        let shown = run!(client, "CONFIG GET tagcache.after-restart");
        assert_eq!(shown.items()[1], Reply::bulk("drop"));
    });
}
