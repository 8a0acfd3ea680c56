//! State, grace and soft marks follow the value: RENAME, COPY, MOVE, DUMP and RESTORE, MIGRATE, SWAPDB.

use tagcache_tests::fetch::{Fetched, fetch};
use tagcache_tests::look::{assert_index_agrees, inspect, tagscan};
use tagcache_tests::{DEADLINE, RawClient, Reply, Server, call, for_each_engine, run, wait_until};

use crate::{LONG, dataset};

/// The keys of [`dataset`] that are stale.
const STALE: [&str; 3] = ["soft", "soft timed", "expired"];

fn stale(client: &mut RawClient, key: &str) -> Fetched {
    let answer = fetch(client, key);
    assert!(answer.is_stale("v"), "{key}: {answer:?}");
    assert!(call!(client, "CACHE.GET", key).is_null(), "{key}");
    assert_eq!(
        inspect(client, key).expect("stale is visible").state,
        "stale"
    );
    answer
}

#[test]
fn rename_and_copy_keep_an_entry_stale_or_fresh() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        dataset(&mut client);
        for key in STALE {
            let tags = stale(&mut client, key).tags;
            assert_eq!(call!(client, "COPY", key, "copy", "REPLACE"), Reply::Int(1));
            assert_eq!(stale(&mut client, "copy").tags, tags);
            assert_eq!(call!(client, "RENAME", key, "renamed"), Reply::ok());
            assert_eq!(stale(&mut client, "renamed").tags, tags);
            assert_eq!(
                call!(client, "CACHE.INSPECT", "renamed").field("grace"),
                Reply::Int(LONG)
            );
            assert!(fetch(&mut client, key).is_miss());
            assert_index_agrees(&server, &[0], &[]);
        }
        for key in ["fresh", "lasting"] {
            assert_eq!(call!(client, "COPY", key, "copy", "REPLACE"), Reply::Int(1));
            assert!(fetch(&mut client, "copy").is_hit("v"), "{key}");
            assert_eq!(call!(client, "RENAME", key, "renamed"), Reply::ok());
            assert!(fetch(&mut client, "renamed").is_hit("v"), "{key}");
        }
        assert_eq!(
            call!(client, "CACHE.INSPECT", "copy").field("grace"),
            Reply::Int(LONG)
        );
        for key in ["no grace", "hard"] {
            assert_eq!(
                call!(client, "COPY", key, "never", "REPLACE"),
                Reply::Int(0)
            );
        }
    });
}

#[test]
fn an_entry_moved_to_another_database_keeps_its_state() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        // The target's clock is far ahead, and it marked the same tags before the entries were written.
        call!(client, "SELECT", 1);
        for _ in 0..50 {
            call!(client, "CACHE.REVALIDATE", "soft", "kept", "hard");
        }
        call!(client, "SELECT", 0);
        dataset(&mut client);
        for key in STALE {
            let copied = call!(client, "COPY", key, "copied", "DB", 1, "REPLACE");
            assert_eq!(copied, Reply::Int(1), "{key}");
            assert_eq!(call!(client, "MOVE", key, 1), Reply::Int(1), "{key}");
            call!(client, "SELECT", 1);
            stale(&mut client, "copied");
            stale(&mut client, key);
            call!(client, "SELECT", 0);
        }
        for key in ["fresh", "lasting"] {
            call!(client, "COPY", key, "copied", "DB", 1, "REPLACE");
            assert_eq!(call!(client, "MOVE", key, 1), Reply::Int(1));
            call!(client, "SELECT", 1);
            assert!(fetch(&mut client, "copied").is_hit("v"), "{key}");
            assert!(fetch(&mut client, key).is_hit("v"), "{key}");
            call!(client, "SELECT", 0);
        }
        call!(client, "SELECT", 1);
        // From now on this database's marks hold for these entries.
        let reply = call!(client, "CACHE.REVALIDATE", "kept").int();
        assert!(reply >= 4, "{reply}");
        stale(&mut client, "fresh");
        stale(&mut client, "lasting");
        assert_index_agrees(&server, &[0, 1], &[]);
    });
}

#[test]
fn swapdb_swaps_the_soft_marks_with_the_entries() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        dataset(&mut client);
        call!(client, "SWAPDB", 0, 5);
        assert!(fetch(&mut client, "soft").is_miss());
        call!(client, "SELECT", 5);
        crate::holds_dataset(&mut client, "after SWAPDB");
        assert_index_agrees(&server, &[0, 5], &[]);
    });
}

#[test]
fn a_payload_carries_state_and_grace_to_another_server() {
    for_each_engine(|engine| {
        let here = Server::builder().engine(engine).start();
        let there = Server::builder().engine(engine).start();
        let (mut client, mut other) = (here.raw(), there.raw());
        dataset(&mut client);
        // Restored as by MIGRATE: with the TTL that the key has.
        for key in ["soft", "soft timed", "expired", "fresh", "lasting"] {
            let payload = call!(client, "DUMP", key).bytes().to_vec();
            let pttl = call!(client, "PTTL", key).int().max(0);
            let restored = call!(other, "RESTORE", key, pttl, payload);
            assert_eq!(restored, Reply::ok(), "{key}");
            let (before, after) = (fetch(&mut client, key), fetch(&mut other, key));
            assert_eq!(
                (after.state, &after.value, &after.tags),
                (before.state, &before.value, &before.tags),
                "{key}"
            );
            let near = (after.pttl - before.pttl).abs() < 60_000;
            assert!(near, "{key}: {} and {}", before.pttl, after.pttl);
            let grace =
                |client: &mut RawClient| call!(client, "CACHE.INSPECT", key).field("grace").int();
            assert_eq!(grace(&mut other), grace(&mut client), "{key}");
        }
        for key in STALE {
            stale(&mut other, key);
        }
        assert_eq!(tagscan(&mut other, b"kept", 10).len(), 4);
        assert_index_agrees(&there, &[0], &[]);
        // If restored without a TTL, an invalidated entry does not become fresher.
        for key in ["soft", "soft timed"] {
            let payload = call!(client, "DUMP", key).bytes().to_vec();
            call!(other, "RESTORE", "again", 0, payload, "REPLACE");
            assert!(call!(other, "CACHE.GET", "again").is_null(), "{key}");
        }
    });
}

#[test]
fn migrate_transfers_state_and_grace() {
    for_each_engine(|engine| {
        let here = Server::builder().engine(engine).start();
        let there = Server::builder().engine(engine).start();
        let (mut client, mut other) = (here.raw(), there.raw());
        dataset(&mut client);
        let mut migrate = vec!["MIGRATE", "127.0.0.1"];
        let port = there.port().to_string();
        migrate.extend([&port, "", "0", "20000", "KEYS"]);
        migrate.extend(["soft", "soft timed", "expired", "fresh", "lasting"]);
        assert_eq!(client.call(&migrate), Reply::ok());
        crate::holds_dataset(&mut other, "after MIGRATE");
        assert_index_agrees(&there, &[0], &[]);
        assert_index_agrees(&here, &[0], &[]);
    });
}

#[test]
fn copy_and_rename_do_not_prolong_grace() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        run!(client, "CACHE.SET key v GRACE 800 TAGS 1 a");
        call!(client, "CACHE.REVALIDATE", "a");
        let mut rounds = 0;
        wait_until("its grace is over", DEADLINE, || {
            rounds += 1;
            let (from, to) = if rounds % 2 == 1 {
                ("key", "copy")
            } else {
                ("copy", "key")
            };
            call!(client, "COPY", from, to, "REPLACE");
            call!(client, "RENAME", to, "moving");
            call!(client, "RENAME", "moving", to);
            fetch(&mut client, "key").is_miss() && fetch(&mut client, "copy").is_miss()
        });
        assert!(rounds > 1);
    });
}
