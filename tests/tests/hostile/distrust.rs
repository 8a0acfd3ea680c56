//! After a panic where the keyspace changes: no native key is lost, and no entry is served that is not in the index.

use tagcache_tests::clock::Clock;
use tagcache_tests::look::{entry_keys, stat, wait_reclaimed};
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Server, ServerBuilder, args, call, run, wait_until,
};

use super::panics::{logged, with_panicking_module};

const MANY: usize = 2_000;

fn entries(client: &mut RawClient, count: usize) {
    let set = |n| args!["CACHE.SET", format!("key{n}"), "v", "TAGS", 1, "a"];
    client.pipeline(&(0..count).map(set).collect::<Vec<_>>());
}

fn natives(client: &mut RawClient, command: &str, count: usize) {
    let set = |n| args![command, format!("key{n}"), "native"];
    client.pipeline(&(0..count).map(set).collect::<Vec<_>>());
}

/// Restores the data that [`with_panicking_module`] checks at the end.
fn restore(client: &mut RawClient) {
    run!(client, "SELECT 0");
    run!(client, "SET string value");
    run!(client, "CACHE.SET kept value TAGS 1 kept");
}

fn replica_of(primary: &Server) -> Server {
    following(primary, |builder| builder)
}

fn following(primary: &Server, build: impl Fn(ServerBuilder) -> ServerBuilder) -> Server {
    let module = tagcache_tests::panic_module_path().expect("the primary has it");
    let builder = Server::builder()
        .engine(primary.engine())
        .module(module)
        .expect_complaints()
        .replica_of(primary);
    let replica = build(builder).start();
    wait_synchronised(primary, &replica);
    replica
}

#[test]
fn a_native_key_survives_a_panic_while_an_entry_is_unlinked() {
    with_panicking_module(|server, client| {
        let replica = replica_of(server);
        // Sizes up to a large one, which the server frees on another thread.
        for bytes in [1, 5_000_000] {
            call!(
                client,
                "CACHE.SET",
                "key",
                vec![b'v'; bytes],
                "TAGS",
                1,
                "a"
            );
            run!(client, "CACHE.PANIC unlink");
            assert_eq!(run!(client, "UNLINK key"), Reply::Int(1));
            assert_eq!(stat(client, "entries"), 1, "{bytes}");
            run!(client, "SET key native");
            assert_eq!(run!(client, "CACHE.INVALIDATE a"), Reply::Int(0));
            wait_reclaimed(client);
            wait_synchronised(server, &replica);
            for client in [&mut *client, &mut replica.raw()] {
                assert_eq!(run!(client, "GET key"), Reply::bulk("native"), "{bytes}");
            }
            run!(client, "DEL key");
        }
        logged(server);
    });
}

#[test]
fn native_keys_survive_a_panic_in_a_flush() {
    with_panicking_module(|server, client| {
        run!(client, "CONFIG SET tagcache.reclaim-inline 0");
        for flush in ["FLUSHALL ASYNC", "FLUSHDB ASYNC", "FLUSHALL SYNC"] {
            entries(client, MANY);
            let flush: Vec<_> = flush.split(' ').collect();
            let replies = client.pipeline(&[vec!["CACHE.PANIC", "event"], flush.clone()]);
            assert_eq!(replies, [Reply::ok(), Reply::ok()]);
            assert_eq!(stat(client, "entries"), 0, "{flush:?}");
            natives(client, "SET", MANY);
            assert_eq!(run!(client, "CACHE.INVALIDATE a"), Reply::Int(0));
            wait_reclaimed(client);
            assert_eq!(run!(client, "DBSIZE"), Reply::Int(MANY as i64), "{flush:?}");
            run!(client, "FLUSHALL");
        }
        logged(server);
        restore(client);
    });
}

#[test]
fn a_panic_in_swapdb_keeps_native_keys_and_serves_no_entry() {
    with_panicking_module(|server, client| {
        run!(client, "FLUSHALL");
        entries(client, MANY);
        run!(client, "SELECT 9");
        natives(client, "SET", MANY);
        let replies = client.pipeline(&[vec!["CACHE.PANIC", "event"], vec!["SWAPDB", "0", "9"]]);
        assert_eq!(replies, [Reply::ok(), Reply::ok()]);
        // No invalidation would reach this entry.
        assert!(run!(client, "CACHE.GET key7").is_null());
        assert_eq!(run!(client, "CACHE.INVALIDATE a"), Reply::Int(0));
        wait_until("the entries are removed", DEADLINE, || {
            run!(client, "DBSIZE") == Reply::Int(0)
        });
        run!(client, "SELECT 0");
        assert_eq!(run!(client, "CACHE.INVALIDATE a"), Reply::Int(0));
        wait_reclaimed(client);
        assert_eq!(run!(client, "DBSIZE"), Reply::Int(MANY as i64));
        logged(server);
        restore(client);
    });
}

#[test]
fn an_entry_is_removed_on_all_nodes_after_its_arrival_panicked() {
    with_panicking_module(|server, client| {
        let replica = replica_of(server);
        let payload = run!(client, "DUMP kept").bytes().to_vec();
        for arrival in [
            args!["COPY", "kept", "key"],
            args!["COPY", "kept", "key", "DB", 3],
            args!["RESTORE", "key", 0, payload],
        ] {
            run!(client, "SELECT 0");
            client.pipeline(&[args!["CACHE.PANIC", "event"], arrival.clone()]);
            if arrival.len() > 4 {
                run!(client, "SELECT 3");
            }
            assert!(run!(client, "CACHE.GET key").is_null(), "{arrival:?}");
            wait_until("the key is removed", DEADLINE, || {
                run!(client, "EXISTS key") == Reply::Int(0)
            });
            assert_eq!(run!(client, "SETNX key native"), Reply::Int(1));
            wait_synchronised(server, &replica);
            let mut there = replica.raw();
            if arrival.len() > 4 {
                run!(there, "SELECT 3");
            }
            assert_eq!(run!(there, "GET key"), Reply::bulk("native"), "{arrival:?}");
            run!(client, "DEL key");
        }
        logged(server);
        run!(client, "SELECT 0");
    });
}

#[test]
fn a_flush_that_panics_ends_earlier_leases() {
    with_panicking_module(|server, client| {
        let token = tagcache_tests::fetch::lease(client, "key");
        client.pipeline(&[vec!["CACHE.PANIC", "event"], vec!["FLUSHALL"]]);
        let written = tagcache_tests::fetch::set_leased(client, "key", "v", token, &[]);
        assert!(!written);
        logged(server);
        restore(client);
    });
}

#[test]
fn replicas_receive_removals_by_commands_after_an_index_loss() {
    with_panicking_module(|server, client| {
        let replica = replica_of(server);
        entries(client, 100);
        // Sent at once, so that the commands come before the search for entries that the index lost.
        let mut commands = vec![
            args!["CACHE.PANIC", "change"],
            args!["CACHE.SET", "lost", "v"],
            args!["CACHE.INVALIDATE", "none"],
        ];
        commands.extend((0..50).map(|n| args!["SETNX", format!("key{n}"), "native"]));
        let script = "return redis.call('SET', KEYS[1], 'native', 'XX')";
        commands.extend((50..100).map(|n| args!["EVAL", script, 1, format!("key{n}")]));
        client.pipeline(&commands);
        wait_until("the search has ended", DEADLINE, || {
            entry_keys(client).is_empty()
        });
        restore(client);
        wait_synchronised(server, &replica);
        let digest = run!(client, "DEBUG DIGEST");
        wait_until("the replica has the same", DEADLINE, || {
            run!(replica.raw(), "DEBUG DIGEST") == digest
        });
        let natives = run!(client, "DBSIZE").int() - 2;
        assert!(natives > 0, "{natives} native keys");
        logged(server);
    });
}

#[test]
fn an_entry_lost_by_the_index_stays_gone_after_a_move_or_rename() {
    with_panicking_module(|server, client| {
        let replica = replica_of(server);
        let panics = ["change", "unlink"].into_iter();
        let moves = ["'MOVE', 'key', 3", "'RENAME', 'key', 'other'"];
        for (place, moved) in panics.flat_map(|place| moves.map(|moved| (place, moved))) {
            let (name, db) = if moved.contains("MOVE") {
                ("key", "3")
            } else {
                ("other", "0")
            };
            // In database 3, a slot of the same number is in use.
            run!(client, "SELECT 3");
            entries(client, MANY);
            run!(client, "SELECT 0");
            run!(client, "CACHE.SET key old TAGS 1 a");
            let mut commands = vec![args!["CACHE.PANIC", place]];
            if place == "change" {
                commands.push(args!["CACHE.SET", "lost", "v"]);
            }
            // The filter does not see the keys that a script names.
            let script = format!("return redis.call({moved})");
            commands.extend([
                args!["EVAL", script, 0],
                args!["CACHE.INVALIDATE", "a"],
                args!["SELECT", db],
                args!["CACHE.GET", name],
            ]);
            let replies = client.pipeline(&commands);
            let got = replies.last().expect("of CACHE.GET");
            assert!(got.is_null(), "{place}, {moved}: {got:?}");
            wait_until("the key is removed", DEADLINE, || {
                call!(client, "EXISTS", name) == Reply::Int(0)
            });
            wait_synchronised(server, &replica);
            let mut there = replica.raw();
            call!(there, "SELECT", db);
            let got = call!(there, "CACHE.GET", name);
            assert!(got.is_null(), "{place}, {moved}, replica: {got:?}");
            run!(client, "FLUSHALL");
        }
        logged(server);
        restore(client);
    });
}

#[test]
fn an_entry_lost_and_expired_on_a_replica_is_gone_there() {
    let Some(ahead) = Clock::new() else { return };
    ahead.shift(3_600_000);
    with_panicking_module(|server, client| {
        let replica = following(server, |builder| ahead.of(builder));
        let mut there = replica.raw();
        run!(client, "CACHE.SET key old PX 60000 TAGS 1 a");
        wait_synchronised(server, &replica);
        assert_eq!(run!(there, "EXISTS key"), Reply::Int(0));
        there.pipeline(&[
            args!["CONFIG", "SET", "replica-read-only", "no"],
            args!["CACHE.PANIC", "change"],
            args!["CACHE.SET", "lost", "v"],
            args!["CONFIG", "SET", "replica-read-only", "yes"],
        ]);
        wait_until("the search has ended", DEADLINE, || {
            run!(there, "EXISTS kept") == Reply::Int(0)
        });
        assert_eq!(run!(client, "PEXPIRE key 7200000"), Reply::Int(1));
        wait_synchronised(server, &replica);
        assert!(run!(there, "CACHE.GET key").is_null());
        assert_eq!(run!(client, "CACHE.INVALIDATE a"), Reply::Int(1));
        assert_eq!(run!(client, "SETNX key native"), Reply::Int(1));
        wait_synchronised(server, &replica);
        assert_eq!(run!(there, "GET key"), Reply::bulk("native"));
        logged(&replica);
    });
}
