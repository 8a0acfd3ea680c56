//! SOFT GRACE of CACHE.INVALIDATEWHERE: a limit to the time that an entry may stay stale.

use std::time::Duration;

use tagcache_tests::fetch::fetch;
use tagcache_tests::look::wait_rewritten;
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, call, for_all_engines, on_both_protocols, run,
    slowed, wait_until,
};

fn until_gone(client: &mut RawClient, key: &str) {
    wait_until("its time as a stale entry is over", DEADLINE, || {
        fetch(client, key).is_miss()
    });
}

/// A primary whose log is rewritten as commands, and its replica.
fn logged_and_replicated(engine: &Engine) -> (Server, Server) {
    let builder = Server::builder().engine(engine);
    let primary = builder
        .arg("--appendonly", "yes")
        .arg("--aof-use-rdb-preamble", "no")
        .start();
    let builder = Server::builder().engine(engine);
    let replica = builder.replica_of(&primary).start();
    (primary, replica)
}

fn rewrite_and_load_log(client: &mut RawClient) {
    run!(client, "BGREWRITEAOF");
    wait_rewritten(client);
    run!(client, "DEBUG LOADAOF");
}

#[test]
fn the_shorter_of_limit_and_grace_applies() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET long v GRACE 1000000 TAGS 1 t");
        run!(client, "CACHE.SET short v GRACE 40 TAGS 1 t");
        run!(client, "CACHE.SET none v TAGS 1 t");
        run!(client, "CACHE.SET other v GRACE 1000000 TAGS 1 x");
        let dropped = run!(client, "CACHE.INVALIDATEWHERE ANY 1 t SOFT GRACE 500000");
        assert_eq!(dropped, Reply::Int(3));
        assert!(fetch(client, "long").is_stale("v"));
        assert!(fetch(client, "none").is_miss());
        assert!(fetch(client, "other").is_hit("v"));
        until_gone(client, "short");
        // An entry counts until the server removes it.
        wait_until("it leaves the keyspace", DEADLINE, || {
            run!(client, "EXISTS short") == Reply::Int(0)
        });
        // Entries that are stale already are bounded as well, and their memory is reclaimed.
        let dropped = run!(client, "CACHE.INVALIDATEWHERE ANY 1 t SOFT GRACE 30");
        assert_eq!(dropped, Reply::Int(1));
        until_gone(client, "long");
        wait_until("it leaves the keyspace", DEADLINE, || {
            run!(client, "EXISTS long none short") == Reply::Int(0)
        });
        let dropped = run!(client, "CACHE.INVALIDATEWHERE ANY 1 x SOFT GRACE 0");
        assert_eq!(dropped, Reply::Int(1));
        assert!(fetch(client, "other").is_miss());
    });
}

#[test]
fn touch_and_retag_do_not_lift_a_grace_limit() {
    on_both_protocols(|_, client| {
        let limit = slowed(Duration::from_millis(300)).as_millis();
        for commands in [
            &[
                "CACHE.TOUCH key PERSIST GRACE 2000000",
                "CACHE.TOUCH key PERSIST GRACE 9000000",
            ][..],
            &[
                "CACHE.TOUCH key EX 5 GRACE {half}",
                "CACHE.TOUCH key PERSIST GRACE 9000000",
            ],
            &[
                "CACHE.RETAG key TAGS 1 other",
                "CACHE.TOUCH key PERSIST GRACE 9000000",
            ],
            &[
                "RENAMENX key other",
                "RENAMENX other key",
                "CACHE.TOUCH key PERSIST GRACE 9000000",
            ],
            &[
                "COPY key other",
                "UNLINK key",
                "RENAMENX other key",
                "CACHE.TOUCH key PERSIST GRACE 9000000",
            ],
            &[
                "MOVE key 1",
                "SWAPDB 0 1",
                "CACHE.TOUCH key PERSIST GRACE 9000000",
            ],
            &[
                "DEBUG RELOAD",
                "SELECT 0", // Valkey 8.1 leaves the client in another database.
                "CACHE.TOUCH key PERSIST GRACE 9000000",
            ],
        ] {
            run!(client, "CACHE.SET key v GRACE 1000000 TAGS 1 t");
            run!(client, "CACHE.INVALIDATEWHERE ANY 1 t SOFT GRACE {limit}");
            for command in commands {
                let command = command.replace("{half}", &(limit / 2).to_string());
                let reply = client.call(&tagcache_tests::split(&command));
                // 0 if the limit is over by now.
                assert!(!reply.is_error(), "{command}: {reply:?}");
            }
            until_gone(client, "key");
        }
    });
}

#[test]
fn the_grace_of_an_invalidated_entry_cannot_be_prolonged() {
    for_all_engines(|engine| {
        let (primary, replica) = logged_and_replicated(engine);
        let (mut client, mut other) = (primary.raw(), replica.raw());
        let grace = |client: &mut RawClient| {
            let inspected = run!(client, "CACHE.INSPECT key");
            inspected.field("grace").int()
        };
        run!(client, "CACHE.SET key v GRACE 1000000 TAGS 1 t");
        run!(client, "CACHE.TOUCH key PERSIST GRACE 2000000");
        assert_eq!(grace(&mut client), 2_000_000, "it is fresh");
        run!(client, "CACHE.REVALIDATE t");
        for (given, expected) in [
            (3_000_000, 2_000_000),
            (500_000, 500_000),
            (600_000, 500_000),
        ] {
            run!(client, "CACHE.TOUCH key EX 1000 GRACE {given}");
            assert_eq!(grace(&mut client), expected, "{given}");
            wait_synchronised(&primary, &replica);
            assert_eq!(grace(&mut other), expected, "{given}: on the replica");
        }
        rewrite_and_load_log(&mut client);
        assert_eq!(grace(&mut client), 500_000, "after the log is loaded");
        assert!(fetch(&mut client, "key").is_stale("v"));
    });
}

#[test]
fn a_grace_limit_applies_to_entries_that_arrive_stale() {
    for_all_engines(|engine| {
        let (here, there) = (
            Server::builder().engine(engine).start(),
            Server::builder().engine(engine).start(),
        );
        let mut client = here.raw();
        let stale = |client: &mut RawClient, key: &str| {
            run!(client, "CACHE.SET {key} v GRACE 3600000 TAGS 1 t");
            run!(client, "CACHE.REVALIDATE t");
        };
        stale(&mut there.raw(), "migrated");
        run!(client, "SELECT 1");
        for key in ["moved", "copied"] {
            stale(&mut client, key);
        }
        run!(client, "SELECT 0");
        stale(&mut client, "kept");
        let payload = call!(client, "DUMP", "kept").bytes().to_vec();
        run!(client, "CACHE.INVALIDATEWHERE ANY 1 t SOFT GRACE 100");
        until_gone(&mut client, "kept");
        call!(client, "RESTORE", "restored", 0, payload);
        let port = here.port();
        run!(there.raw(), "MIGRATE 127.0.0.1 {port} migrated 0 20000");
        run!(client, "SELECT 1");
        assert_eq!(run!(client, "MOVE moved 0"), Reply::Int(1));
        assert_eq!(run!(client, "COPY copied copied DB 0"), Reply::Int(1));
        run!(client, "SELECT 0");
        for key in ["restored", "migrated", "moved", "copied"] {
            assert!(fetch(&mut client, key).is_miss(), "{key}");
        }
    });
}

#[test]
fn a_grace_limit_applies_to_withtags() {
    for_all_engines(|engine| {
        let (primary, replica) = logged_and_replicated(engine);
        let (mut client, mut other) = (primary.raw(), replica.raw());
        let state = |client: &mut RawClient, tag: &str| {
            let reply = run!(client, "CACHE.FETCH key WITHTAGS 1 {tag}");
            reply.items()[0].text()
        };
        run!(client, "CACHE.SET key v GRACE 1000000000");
        run!(client, "CACHE.INVALIDATEWHERE ANY 1 long SOFT GRACE 600000");
        run!(client, "CACHE.INVALIDATEWHERE ANY 1 soon SOFT GRACE 100");
        wait_synchronised(&primary, &replica);
        let check = |client: &mut RawClient| {
            wait_until("the limit is over", DEADLINE, || {
                state(client, "soon") == "MISS"
            });
            assert_eq!(state(client, "long"), "STALE");
        };
        check(&mut client);
        check(&mut other);
        // A gone entry does not become stale again, and an entry that is written afterwards is judged separately.
        run!(client, "CACHE.REVALIDATE soon");
        assert_eq!(state(&mut client, "soon"), "MISS");
        rewrite_and_load_log(&mut client);
        check(&mut client);
        run!(client, "CACHE.SET key v GRACE 1000000000");
        assert_eq!(state(&mut client, "soon"), "HIT");
        run!(client, "CACHE.REVALIDATE soon");
        assert_eq!(state(&mut client, "soon"), "STALE");
    });
}

#[test]
fn a_grace_limit_survives_reload_replication_and_log() {
    for_all_engines(|engine| {
        let (primary, replica) = logged_and_replicated(engine);
        let (mut client, mut other) = (primary.raw(), replica.raw());
        run!(client, "CACHE.SET long v GRACE 1000000000 TAGS 1 t");
        run!(client, "CACHE.SET soon v GRACE 1000000000 TAGS 1 s");
        run!(client, "CACHE.INVALIDATEWHERE ANY 1 t SOFT GRACE 600000");
        run!(client, "CACHE.INVALIDATEWHERE ANY 1 s SOFT GRACE 1500");
        wait_synchronised(&primary, &replica);
        assert!(fetch(&mut client, "long").is_stale("v"));
        assert!(fetch(&mut other, "long").is_stale("v"));
        rewrite_and_load_log(&mut client);
        assert!(fetch(&mut client, "long").is_stale("v"));
        until_gone(&mut client, "soon");
        until_gone(&mut other, "soon");
        assert!(fetch(&mut other, "long").is_stale("v"));
    });
}
