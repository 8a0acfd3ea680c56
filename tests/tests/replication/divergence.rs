//! Nodes reclaim at their own pace: a key may be gone and reclaimed on one node, gone and still present on the other.
//! No native command may have different effects on the two.

use tagcache_tests::fetch::{Waiter, lease};
use tagcache_tests::look::{assert_index_agrees, wait_reclaimed};
use tagcache_tests::state::{assert_same, replicated, wait_synchronised};
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, args, call, for_all_engines, for_each_engine, run,
    split, wait_until,
};

use crate::fill;

/// Native commands that do one thing where `key0` is absent and another where it still holds a gone entry.
const COMMANDS: [&[&str]; 32] = [
    &["SETNX", "key0", "v"],
    &["SET", "key0", "v", "NX"],
    &["SET", "key0", "v", "XX"],
    &["SET", "key0", "v", "GET"],
    &["SET", "key0", "v", "KEEPTTL"],
    &["MSETNX", "key0", "v", "fresh", "v"],
    &["GETSET", "key0", "v"],
    &["GETDEL", "key0"],
    &["APPEND", "key0", "v"],
    &["INCR", "key0"],
    &["SETBIT", "key0", "7", "1"],
    &["SETRANGE", "key0", "3", "v"],
    &["LPUSH", "key0", "v"],
    &["RPUSHX", "key0", "v"],
    &["SADD", "key0", "v"],
    &["HSET", "key0", "f", "v"],
    &["ZADD", "key0", "1", "v"],
    &["PFADD", "key0", "v"],
    &["XADD", "key0", "1-1", "f", "v"],
    &["GEOADD", "key0", "1", "1", "v"],
    &["RENAME", "live0", "key0"],
    &["RENAMENX", "live0", "key0"],
    &["RENAME", "key0", "live0"],
    &["RENAMENX", "key0", "fresh"],
    &["COPY", "live0", "key0"],
    &["COPY", "key0", "live0", "REPLACE"],
    &["MOVE", "key0", "1"],
    &["EXPIRE", "key0", "10000"],
    &["PERSIST", "key0"],
    &["SMOVE", "set", "key0", "m"],
    &["LMOVE", "list", "key0", "LEFT", "LEFT"],
    &[
        "EVAL",
        "return redis.pcall('SETNX', KEYS[1], 'v')",
        "1",
        "key0",
    ],
];

fn prepare(client: &mut RawClient) {
    call!(client, "FLUSHALL");
    fill(client, "key", 600, "gone");
    fill(client, "live", 5, "kept");
    call!(client, "CACHE.TOUCH", "key0", "EX", 10_000);
    call!(client, "SADD", "set", "m");
    call!(client, "RPUSH", "list", "m");
}

fn pair(engine: &Engine, here: &[&str], there: &[&str]) -> (Server, Server) {
    let primary = Server::builder().engine(engine).module_args(here).start();
    let replica = Server::builder()
        .engine(engine)
        .module_args(there)
        .replica_of(&primary)
        .start();
    wait_synchronised(&primary, &replica);
    (primary, replica)
}

#[test]
fn nodes_agree_if_only_the_replica_has_the_gone_key() {
    for_all_engines(|engine| {
        let (primary, replica) = pair(
            engine,
            &[],
            &["reclaim-inline", "0", "reclaim-budget-us", "100"],
        );
        let mut client = primary.raw();
        for command in COMMANDS {
            println!("{command:?}");
            prepare(&mut client);
            wait_synchronised(&primary, &replica);
            // While stopped, the replica gets everything at once later: its own timer does not run in between.
            replica.pause();
            assert_eq!(call!(client, "CACHE.INVALIDATE", "gone"), Reply::Int(600));
            wait_reclaimed(&mut client);
            client.call(command);
            replica.resume();
            assert_same(&primary, &replica, &[0, 1]);
            assert_index_agrees(&replica, &[0, 1], &[b"gone"]);
        }
    });
}

#[test]
fn nodes_agree_if_only_the_primary_has_the_gone_key() {
    for_all_engines(|engine| {
        let lazy = ["reclaim-inline", "0", "reclaim-budget-us", "100"];
        let (primary, replica) = pair(engine, &lazy, &["reclaim-inline", "100000"]);
        let mut client = primary.raw();
        for command in COMMANDS {
            println!("{command:?}");
            prepare(&mut client);
            let replies = client.pipeline(&[vec!["CACHE.INVALIDATE", "gone"], command.to_vec()]);
            assert_eq!(replies[0], Reply::Int(600));
            assert_same(&primary, &replica, &[0, 1]);
            assert_index_agrees(&replica, &[0, 1], &[b"gone"]);
        }
    });
}

/// The filter looks at no key for such a client, and without memory each command could follow an eviction.
#[test]
fn nodes_agree_if_a_no_touch_client_names_a_gone_key_without_memory() {
    for_all_engines(|engine| {
        let lazy = ["reclaim-inline", "0", "reclaim-budget-us", "100"];
        let (primary, replica) = pair(engine, &lazy, &["reclaim-inline", "100000"]);
        let mut client = primary.raw();
        call!(client, "CLIENT", "NO-TOUCH", "ON"); // Redis 7.0 does not know it.
        for command in COMMANDS {
            println!("{command:?}");
            prepare(&mut client);
            let replies = client.pipeline(&[
                vec!["CACHE.INVALIDATE", "gone"],
                vec!["CONFIG", "SET", "maxmemory", "1"],
                command.to_vec(),
                vec!["CONFIG", "SET", "maxmemory", "0"],
            ]);
            assert_eq!(replies[0], Reply::Int(600));
            assert_same(&primary, &replica, &[0, 1]);
        }
    });
}

#[test]
fn nodes_agree_in_the_transaction_of_the_invalidation() {
    for_each_engine(|engine| {
        let lazy = ["reclaim-inline", "0", "reclaim-budget-us", "100"];
        let eager = ["reclaim-inline", "100000"];
        for (here, there) in [(&lazy[..], &lazy[..]), (&lazy, &eager), (&eager, &lazy)] {
            let (primary, replica) = pair(engine, here, there);
            let mut client = primary.raw();
            for command in COMMANDS {
                println!("{command:?}, primary {here:?}, replica {there:?}");
                prepare(&mut client);
                let replies = client.pipeline(&[
                    vec!["MULTI"],
                    vec!["CACHE.INVALIDATE", "gone"],
                    command.to_vec(),
                    vec!["EXEC"],
                ]);
                assert_eq!(replies[3].items()[0], Reply::Int(600));
                assert_same(&primary, &replica, &[0, 1]);
                assert_index_agrees(&primary, &[0, 1], &[b"gone"]);
            }
        }
    });
}

#[test]
fn nodes_agree_if_the_invalidation_precedes_a_queued_exec() {
    for_each_engine(|engine| {
        let lazy = ["reclaim-inline", "0", "reclaim-budget-us", "100"];
        let eager = ["reclaim-inline", "100000"];
        for (here, there) in [(&lazy[..], &lazy[..]), (&lazy, &eager), (&eager, &lazy)] {
            let (primary, replica) = pair(engine, here, there);
            let (mut client, mut other) = (primary.raw(), primary.raw());
            for command in COMMANDS {
                println!("{command:?}, primary {here:?}, replica {there:?}");
                prepare(&mut client);
                client.pipeline(&[vec!["MULTI"], command.to_vec()]);
                assert_eq!(call!(other, "CACHE.INVALIDATE", "gone"), Reply::Int(600));
                call!(client, "EXEC");
                assert_same(&primary, &replica, &[0, 1]);
                assert_index_agrees(&primary, &[0, 1], &[b"gone"]);
            }
        }
    });
}

#[test]
fn nodes_agree_if_the_key_is_rewritten_after_the_invalidation() {
    for_each_engine(|engine| {
        let lazy = ["reclaim-inline", "0", "reclaim-budget-us", "100"];
        for (here, there) in [(&lazy[..], &[][..]), (&[], &lazy)] {
            let (primary, replica) = pair(engine, here, there);
            let mut client = primary.raw();
            for set in [
                &["CACHE.SET", "key0", "new", "NX", "TAGS", "1", "gone"][..],
                &["CACHE.SET", "key0", "new", "XX"],
                &["CACHE.SET", "key0", "new", "KEEPTTL"],
                &["CACHE.SET", "key0", "new", "TAGS", "1", "other"],
                &["CACHE.DEL", "key0"],
                &["CACHE.TOUCH", "key0", "PERSIST"],
                &["CACHE.TOUCH", "key0", "EX", "5"],
            ] {
                println!("{set:?}, primary {here:?}, replica {there:?}");
                prepare(&mut client);
                client.pipeline(&[vec!["CACHE.INVALIDATE", "gone"], set.to_vec()]);
                assert_same(&primary, &replica, &[0]);
                assert_index_agrees(&replica, &[0], &[b"gone"]);
            }
        }
    });
}

#[test]
fn nodes_agree_in_transactions_if_the_replica_has_a_backlog() {
    for_each_engine(|engine| {
        // The same settings on both. The primary's tag has 100 entries, which is few; the replica's still has 400.
        let (primary, replica) = pair(engine, &[], &[]);
        let mut client = primary.raw();
        for command in COMMANDS {
            println!("{command:?}");
            prepare(&mut client);
            fill(&mut client, "both", 300, "first");
            let tags = |n| {
                args![
                    "CACHE.SET",
                    format!("both{n}"),
                    "v",
                    "TAGS",
                    2,
                    "first",
                    "second"
                ]
            };
            client.pipeline(&(0..300).map(tags).collect::<Vec<_>>());
            let tag = |n| {
                args![
                    "CACHE.SET",
                    format!("key{n}"),
                    "v",
                    "EX",
                    10_000,
                    "TAGS",
                    1,
                    "second"
                ]
            };
            client.pipeline(&(0..100).map(tag).collect::<Vec<_>>());
            wait_synchronised(&primary, &replica);
            replica.pause();
            assert_eq!(call!(client, "CACHE.INVALIDATE", "first"), Reply::Int(300));
            wait_reclaimed(&mut client);
            let queued = [
                vec!["MULTI"],
                vec!["CACHE.INVALIDATE", "second"],
                command.to_vec(),
                vec!["EXEC"],
            ];
            assert_eq!(client.pipeline(&queued)[3].items()[0], Reply::Int(100));
            replica.resume();
            assert_same(&primary, &replica, &[0, 1]);
            assert_index_agrees(&replica, &[0, 1], &[b"first", b"second"]);
        }
    });
}

/// Commands of a script do not pass the filter: a script meets a gone key that it did not declare, and so must the
/// replica.
#[test]
fn nodes_agree_in_a_script_with_undeclared_keys() {
    for_all_engines(|engine| {
        let lazy = ["reclaim-inline", "0", "reclaim-budget-us", "100"];
        let eager = ["reclaim-inline", "100000"];
        for (here, there) in [(&lazy[..], &lazy[..]), (&lazy, &eager), (&eager, &lazy)] {
            let (primary, replica) = pair(engine, here, there);
            let mut client = primary.raw();
            for command in COMMANDS.iter().filter(|command| command[0] != "EVAL") {
                println!("{command:?}, primary {here:?}, replica {there:?}");
                for invalidates in [false, true] {
                    prepare(&mut client);
                    let script = if invalidates {
                        "redis.call('CACHE.INVALIDATE', 'gone') return redis.pcall(unpack(ARGV))"
                    } else {
                        "return redis.pcall(unpack(ARGV))"
                    };
                    let run = [&["EVAL", script, "0"][..], command].concat();
                    if invalidates {
                        client.call(&run);
                    } else {
                        client.pipeline(&[vec!["CACHE.INVALIDATE", "gone"], run]);
                    }
                    assert_same(&primary, &replica, &[0, 1]);
                    assert_index_agrees(&primary, &[0, 1], &[b"gone"]);
                }
            }
        }
    });
}

#[test]
fn a_reused_name_of_a_gone_entry_is_renamed_normally() {
    for_all_engines(|engine| {
        let (primary, replica) = pair(engine, &[], &[]);
        let mut client = primary.raw();
        run!(client, "CACHE.SET key v TAGS 1 tag");
        client.pipeline(&["MULTI", "CACHE.INVALIDATE tag", "DEL key", "EXEC"].map(split));
        run!(client, "CACHE.SET key live");
        run!(client, "RENAME key renamed");
        assert_same(&primary, &replica, &[0]);
        assert_eq!(call!(client, "CACHE.GET", "renamed"), Reply::bulk("live"));
    });
}

#[test]
fn a_rename_in_another_database_announces_no_removal() {
    for_all_engines(|engine| {
        for (between, kept_in) in [("PING", 1), ("SWAPDB 0 1", 0), ("FLUSHDB", 1)] {
            let (primary, replica) = pair(engine, &[], &[]);
            let mut client = primary.raw();
            run!(client, "CACHE.SET key v TAGS 1 tag");
            client
                .pipeline(&["SELECT 1", "CACHE.SET key live", "SELECT 5", "SET key v"].map(split));
            let block = [
                "SELECT 0",
                "MULTI",
                "CACHE.INVALIDATE tag",
                "DEL key",
                between,
                "SELECT 5",
                "RENAME key renamed",
                "SELECT 0",
                "SETNX key native",
                "EXEC",
            ];
            client.pipeline(&block.map(split));
            assert_same(&primary, &replica, &[0, 1, 5]);
            for server in [&primary, &replica] {
                let mut client = server.raw();
                call!(client, "SELECT", kept_in);
                let live = call!(client, "CACHE.GET", "key");
                assert_eq!(live, Reply::bulk("live"), "{between}");
            }
        }
    });
}

#[test]
fn a_refused_arrival_leaves_replicas_despite_a_swapdb() {
    for_all_engines(|engine| {
        let (primary, replica) = pair(engine, &[], &[]);
        let elsewhere = Server::builder().engine(engine).start();
        let (mut client, mut other) = (primary.raw(), elsewhere.raw());
        run!(client, "CACHE.INVALIDATE tag");
        // Written later, but with another node's clock that is not enough.
        run!(other, "CACHE.SET key old TAGS 1 tag");
        let dump = call!(other, "DUMP", "key").bytes().to_vec();
        client.pipeline(&[
            args!["MULTI"],
            args!["RESTORE", "key", 0, dump],
            args!["SWAPDB", 0, 1],
            args!["EXEC"],
        ]);
        wait_reclaimed(&mut client);
        assert_same(&primary, &replica, &[0, 1]);
        let mut there = replica.raw();
        call!(there, "SELECT", 1);
        assert_eq!(call!(there, "CACHE.GET", "key"), Reply::Null);
    });
}

#[test]
fn writes_with_log_options_are_replicated() {
    for_all_engines(|engine| {
        let (primary, replica) = pair(engine, &[], &[]);
        let mut client = primary.raw();
        let token = call!(client, "CACHE.FETCH", "leased", "LEASE", 10_000).items()[3].int();
        let set = args!["CACHE.SET", "leased", "v", "LEASE", token, "CREATED", 1];
        assert_eq!(client.call(&set), Reply::ok());
        run!(client, "CACHE.SET soft v GRACE 10000 HITS 7 CREATED 1 NX");
        run!(client, "CACHE.SET gone v SOFT 1 CREATED 1");
        assert_eq!(call!(client, "CACHE.GET", "gone"), Reply::Null);
        wait_reclaimed(&mut client);
        assert_same(&primary, &replica, &[0]);
        assert_eq!(
            call!(replica.raw(), "CACHE.GET", "leased"),
            Reply::bulk("v")
        );
    });
}

#[test]
fn a_native_ttl_below_the_grace_is_kept_on_both_nodes() {
    for_all_engines(|engine| {
        let (primary, replica) = pair(engine, &[], &[]);
        let mut client = primary.raw();
        run!(client, "CACHE.SET key v PX 1000 GRACE 10000000000000");
        run!(client, "PEXPIRE key 50000");
        run!(client, "CACHE.SET key new KEEPTTL");
        assert_same(&primary, &replica, &[0]);
        let mut there = replica.raw();
        for client in [&mut client, &mut there] {
            assert_eq!(
                call!(client, "CACHE.FETCH", "key").items()[1],
                Reply::bulk("new")
            );
        }
    });
}

#[test]
fn nodes_agree_if_a_command_follows_a_refused_arrival_at_once() {
    for_all_engines(|engine| {
        let (primary, replica) = pair(engine, &[], &[]);
        let elsewhere = Server::builder().engine(engine).start();
        let (mut client, mut other) = (primary.raw(), elsewhere.raw());
        for between in ["PING", "CACHE.SET other v", "CACHE.INVALIDATE tag"] {
            for follows in [
                "SETNX key0 v",
                "SET key0 v NX",
                "SET key0 v XX",
                "RENAMENX live0 key0",
                "RENAME key0 live0",
                "COPY live0 key0",
                "COPY key0 live0 REPLACE",
                "MOVE key0 1",
                "EXPIRE key0 10000",
            ] {
                println!("{between}, {follows}");
                prepare(&mut client);
                run!(client, "CACHE.INVALIDATE tag");
                // Written later, but with another node's clock that is not enough.
                run!(other, "CACHE.SET key old TAGS 1 tag");
                let dump = call!(other, "DUMP", "key").bytes().to_vec();
                let restore = args!["RESTORE", "key0", 0, dump, "REPLACE"];
                client.pipeline(&[restore, split(between), split(follows)]);
                wait_reclaimed(&mut client);
                assert_same(&primary, &replica, &[0, 1]);
                let there = call!(replica.raw(), "CACHE.MGET", "key0", "live0");
                let old = |reply: &Reply| *reply == Reply::bulk("old");
                assert!(!there.items().iter().any(old), "{there:?}");
            }
        }
    });
}

#[test]
fn a_replica_reclaims_gone_entries_that_have_expired() {
    for_all_engines(|engine| {
        let (primary, replica) = replicated(engine);
        let (mut here, mut there) = (primary.raw(), replica.raw());
        // By its timer, which does not see expired keys.
        run!(there, "CONFIG SET tagcache.reclaim-inline 0");
        replica.pause();
        let set = |n| {
            args![
                "CACHE.SET",
                format!("key{n}"),
                "v",
                "TAGS",
                1,
                "a",
                "PX",
                300
            ]
        };
        here.pipeline(&(0..100).map(set).collect::<Vec<_>>());
        run!(here, "SET last native PX 300");
        run!(here, "CACHE.INVALIDATE a");
        wait_until("all have expired", DEADLINE, || {
            run!(here, "EXISTS last") == Reply::Int(0)
        });
        replica.resume();
        wait_synchronised(&primary, &replica);
        wait_reclaimed(&mut there);
        assert_eq!(run!(there, "DBSIZE"), Reply::Int(0));
    });
}

#[test]
fn an_entry_expired_by_its_own_write_is_not_on_the_replica() {
    for_all_engines(|engine| {
        let (primary, replica) = pair(engine, &[], &[]);
        let mut client = primary.raw();
        // The second of the two meets the first, which has expired.
        run!(client, "CACHE.MSET 2 twice v twice v PXAT 1000 TAGS 1 t");
        // So does a waiter that Redis 7.0 serves before the command is done.
        lease(&mut client, "awaited");
        let mut reader = primary.raw().resp3();
        run!(reader, "CLIENT TRACKING ON");
        let mut waiter = Waiter::start_on(&primary, reader, "awaited", 600_000);
        run!(client, "CACHE.SET awaited v PXAT 1000 TAGS 1 t");
        assert!(waiter.answer().value.is_none());
        for key in ["twice", "awaited"] {
            assert_eq!(call!(client, "SADD", key, "member"), Reply::Int(1));
        }
        assert_same(&primary, &replica, &[0]);
        assert_eq!(run!(replica.raw(), "SCARD awaited"), Reply::Int(1));
    });
}
