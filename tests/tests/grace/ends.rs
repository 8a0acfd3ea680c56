//! The end of grace: the entry is gone, whatever made it stale, and its memory is reclaimed.

use std::time::Instant;

use tagcache_tests::fetch::{State, fetch};
use tagcache_tests::look::{assert_index_agrees, inspect, stat};
use tagcache_tests::state::{replicated, wait_synchronised};
use tagcache_tests::{
    DEADLINE, Reply, Server, args, call, command, for_all_engines, on_both_protocols, run, split,
    wait_until,
};

use crate::LONG;

#[test]
fn an_entry_past_its_ttl_and_grace_counts_as_expired() {
    on_both_protocols(|server, client| {
        run!(client, "CACHE.SET key v PX 20 GRACE 20 TAGS 1 a");
        wait_until("it is over", DEADLINE, || fetch(client, "key").is_miss());
        assert!(inspect(client, "key").is_none());
        wait_until("its memory is back", DEADLINE, || {
            call!(client, "DBSIZE") == Reply::Int(0)
        });
        assert_eq!(stat(client, "expired"), 1);
        assert_index_agrees(server, &[0], &[b"a"]);
    });
}

#[test]
fn an_entry_past_the_grace_of_its_soft_invalidation_is_gone() {
    on_both_protocols(|server, client| {
        // One entry that would live for long, and one without expiry.
        run!(client, "CACHE.SET long v PX {LONG} GRACE 300 TAGS 1 a");
        run!(client, "CACHE.SET ever v GRACE 300 TAGS 1 a");
        call!(client, "CACHE.REVALIDATE", "a");
        for key in ["long", "ever"] {
            wait_until("its grace is over", DEADLINE, || {
                fetch(client, key).is_miss()
            });
            assert!(inspect(client, key).is_none());
            assert!(call!(client, "CACHE.GET", key).is_null());
            // The server may see the end a millisecond later than the module; the entry does not return by that.
            let payload = call!(client, "DUMP", key);
            if !payload.is_null() {
                call!(client, "RESTORE", "restored", 0, payload.bytes());
            }
            call!(client, "COPY", key, "copied");
            for back in ["restored", "copied"] {
                assert!(fetch(client, back).is_miss(), "{key} comes back");
            }
        }
        wait_until("their memory is back", DEADLINE, || {
            call!(client, "DBSIZE") == Reply::Int(0)
        });
        assert_eq!(stat(client, "entries"), 0);
        assert_index_agrees(server, &[0], &[b"a"]);
    });
}

/// A replica, and a server that loads its log, leave the removal of entries past their grace to others.
#[test]
fn promotion_and_start_remove_entries_past_their_grace() {
    let soften = |server: &Server| {
        let mut client = server.raw();
        run!(client, "CACHE.SET key v GRACE 300 TAGS 1 a");
        assert_eq!(call!(client, "CACHE.REVALIDATE", "a"), Reply::Int(1));
        Instant::now()
    };
    let outlast = |softened: Instant| {
        wait_until("its grace is over, and was seen to be", DEADLINE, || {
            softened.elapsed().as_millis() > 900
        });
    };
    let leaves = |server: &Server, what: &str| {
        let mut client = server.raw();
        wait_until(what, DEADLINE, || call!(client, "DBSIZE") == Reply::Int(0));
        assert_eq!(stat(&mut client, "entries"), 0, "{what}");
        assert_index_agrees(server, &[0], &[b"a"]);
    };
    for_all_engines(|engine| {
        let (primary, replica) = replicated(engine);
        let softened = soften(&primary);
        wait_synchronised(&primary, &replica);
        primary.pause();
        outlast(softened);
        run!(replica.raw(), "REPLICAOF NO ONE");
        leaves(&replica, "the promoted replica");
        primary.resume();

        let builder = Server::builder().engine(engine).arg("--appendonly", "yes");
        let mut server = builder.arg("--appendfsync", "always").start();
        let softened = soften(&server);
        server.kill_9();
        outlast(softened);
        server.restart();
        leaves(&server, "the restarted server");
    });
}

/// The server removes such an entry only later, and not while it sleeps: commands meanwhile must not count it.
#[test]
fn entries_past_their_grace_or_expired_are_not_counted() {
    on_both_protocols(|_server, client| {
        for soft in [
            "CACHE.REVALIDATE a",
            "CACHE.INVALIDATEWHERE ALL 1 a SOFT",
            "CACHE.INVALIDATEWHERE ALL 1 a SOFT GRACE 10",
        ] {
            let mut after_sleep = |asked: &[&str]| {
                let mut commands = vec![
                    args!["FLUSHALL"],
                    command!("CACHE.SET other v GRACE {LONG} TAGS 1 b"),
                    args!["CACHE.SET", "past", "v", "GRACE", 20, "TAGS", 2, "a", "b"],
                    split(soft),
                    args!["CACHE.SET", "expired", "v", "PX", 1, "TAGS", 2, "a", "b"],
                    args!["CACHE.INSPECT", "other"],
                    args!["DEBUG", "SLEEP", "0.05"],
                ];
                let before = commands.len();
                commands.extend(asked.iter().map(|line| split(line)));
                let replies = client.pipeline(&commands);
                assert_eq!(replies[3], Reply::Int(1), "{soft}");
                let bytes = replies[5].field("memory").int();
                (replies[before..].to_vec(), bytes)
            };
            let (infos, bytes) = after_sleep(&["CACHE.TAGINFO a", "CACHE.TAGINFO b"]);
            // After CACHE.INVALIDATEWHERE, a tag without entries is not known by its name.
            let figures = |info: &Reply| match info {
                Reply::Null => (0, 0),
                info => (info.field("entries").int(), info.field("bytes").int()),
            };
            assert_eq!(figures(&infos[0]), (0, 0), "{soft}");
            assert_eq!(figures(&infos[1]), (1, bytes), "{soft}");
            for asked in [
                "CACHE.INVALIDATE a b",
                "CACHE.REVALIDATE a b",
                "CACHE.INVALIDATEWHERE ANY 2 a b DRYRUN",
                "CACHE.INVALIDATEWHERE ANY 2 a b SOFT",
                "CACHE.INVALIDATEWHERE ALL 1 b",
            ] {
                let (replies, _) = after_sleep(&[asked, "EXISTS past expired"]);
                assert_eq!(replies, [Reply::Int(1), Reply::Int(0)], "{soft}: {asked}");
            }
        }
    });
}

#[test]
fn each_entry_has_its_own_grace() {
    on_both_protocols(|server, client| {
        run!(client, "CACHE.SET short v GRACE 1 TAGS 1 a");
        run!(client, "CACHE.SET long v GRACE {LONG} TAGS 1 a");
        assert_eq!(call!(client, "CACHE.REVALIDATE", "a"), Reply::Int(2));
        wait_until("the short one is over", DEADLINE, || {
            fetch(client, "short").state == State::Miss
        });
        assert!(fetch(client, "long").is_stale("v"));
        wait_until("the memory of the short one is back", DEADLINE, || {
            call!(client, "DBSIZE") == Reply::Int(1)
        });
        assert_eq!(stat(client, "entries"), 1);
        assert_index_agrees(server, &[0], &[]);
    });
}

#[test]
fn thousands_of_stale_entries_end_on_time() {
    on_both_protocols(|server, client| {
        let sets: Vec<_> = (0..5000)
            .map(|n| {
                let grace = if n % 5 == 0 { LONG } else { 1 + n % 500 };
                args![
                    "CACHE.SET",
                    format!("key{n}"),
                    "v",
                    "GRACE",
                    grace,
                    "TAGS",
                    2,
                    "a",
                    "b"
                ]
            })
            .collect();
        client.pipeline(&sets);
        assert_eq!(call!(client, "CACHE.REVALIDATE", "a"), Reply::Int(5000));
        wait_until("four of five are over", DEADLINE, || {
            call!(client, "DBSIZE") == Reply::Int(1000)
        });
        assert_eq!(stat(client, "entries"), 1000);
        assert!(fetch(client, "key5").is_stale("v"));
        assert_index_agrees(server, &[0], &[b"a"]);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "b"), Reply::Int(1000));
    });
}
