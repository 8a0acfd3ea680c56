//! CACHE.REVALIDATE: stale instead of gone.

use tagcache_tests::fetch::{State, fetch};
use tagcache_tests::look::{assert_index_agrees, inspect, stat, tagscan, wait_reclaimed};
use tagcache_tests::{
    DEADLINE, RawClient, Reply, args, call, command, on_both_protocols, run, wait_until,
};

use crate::LONG;

fn set(client: &mut RawClient, key: &str, grace: i64, tags: &[&str]) {
    let mut set = args!["CACHE.SET", key, "v", "TAGS", tags.len()];
    set.extend(tags.iter().map(|tag| tag.as_bytes().to_vec()));
    if grace > 0 {
        set.extend(args!["GRACE", grace]);
    }
    assert_eq!(client.call(&set), Reply::ok());
}

#[test]
fn revalidate_makes_entries_with_grace_stale_and_others_gone() {
    on_both_protocols(|server, client| {
        set(client, "with", LONG, &["a"]);
        set(client, "without", 0, &["a"]);
        set(client, "other", LONG, &["b"]);
        assert_eq!(call!(client, "CACHE.REVALIDATE", "a"), Reply::Int(2));
        assert!(fetch(client, "with").is_stale("v"));
        assert!(fetch(client, "without").is_miss());
        assert!(fetch(client, "other").is_hit("v"));
        let values = call!(client, "CACHE.MGET", "with", "without", "other");
        let expected = [Reply::Null, Reply::Null, Reply::bulk("v")];
        assert_eq!(values.items(), expected, "GET never serves stale");
        assert_eq!(inspect(client, "with").unwrap().state, "stale");
        assert!(inspect(client, "without").is_none());
        wait_reclaimed(client);
        assert_eq!(stat(client, "entries"), 2);
        let keys = tagscan(client, b"a", 10);
        assert_eq!(keys.into_iter().collect::<Vec<_>>(), [b"with".to_vec()]);
        assert_index_agrees(server, &[0], &[b"a"]);
    });
}

#[test]
fn revalidate_counts_like_invalidate() {
    on_both_protocols(|_, client| {
        set(client, "one", LONG, &["a", "b"]);
        set(client, "two", 0, &["b"]);
        set(client, "three", LONG, &["c"]);
        let reply = call!(client, "CACHE.REVALIDATE", "a", "b", "a", "unknown", "b");
        assert_eq!(reply, Reply::Int(3));
        assert_eq!(stat(client, "clock"), 1);
        assert_eq!(stat(client, "invalidations"), 1);
        assert_eq!(call!(client, "CACHE.REVALIDATE", "unknown"), Reply::Int(0));
        assert_eq!(stat(client, "clock"), 2);
        let info = call!(client, "CACHE.TAGINFO", "a");
        assert_eq!(info.field("entries"), Reply::Int(1), "it is visible");
        assert_eq!(info.field("invalidations"), Reply::Int(1));
        assert!(info.field("last_invalidated").int() > 0);
    });
}

#[test]
fn an_entry_set_after_revalidate_is_fresh() {
    on_both_protocols(|_, client| {
        for _ in 0..20 {
            set(client, "key", LONG, &["a"]);
            assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
            call!(client, "CACHE.REVALIDATE", "a");
            assert!(call!(client, "CACHE.GET", "key").is_null());
        }
        set(client, "other", LONG, &["a"]);
        assert!(fetch(client, "key").is_stale("v"));
        assert!(fetch(client, "other").is_hit("v"));
    });
}

#[test]
fn an_entry_overwritten_without_the_tag_stays_fresh() {
    on_both_protocols(|_, client| {
        set(client, "key", LONG, &["a", "b"]);
        set(client, "key", LONG, &["b"]);
        assert_eq!(call!(client, "CACHE.REVALIDATE", "a"), Reply::Int(0));
        assert!(fetch(client, "key").is_hit("v"));
    });
}

#[test]
fn a_hard_invalidation_drops_stale_entries() {
    on_both_protocols(|server, client| {
        for hard in [&["CACHE.INVALIDATE", "a"][..], &["CACHE.INVALIDATE", "b"]] {
            set(client, "key", LONG, &["a", "b"]);
            call!(client, "CACHE.REVALIDATE", "a");
            assert_eq!(client.call(hard), Reply::Int(1));
            assert!(fetch(client, "key").is_miss(), "{hard:?}");
        }
        set(client, "key", LONG, &["a", "b"]);
        call!(client, "CACHE.INVALIDATE", "a");
        call!(client, "CACHE.REVALIDATE", "b");
        assert!(fetch(client, "key").is_miss(), "and the other way round");
        wait_reclaimed(client);
        assert_index_agrees(server, &[0], &[b"a", b"b"]);
    });
}

#[test]
fn repeated_revalidation_does_not_restart_grace() {
    on_both_protocols(|_, client| {
        set(client, "key", 700, &["a", "b"]);
        call!(client, "CACHE.REVALIDATE", "a");
        // However often the entry is invalidated again, by whatever tag.
        let mut rounds = 0;
        wait_until("its grace is over", DEADLINE, || {
            rounds += 1;
            call!(
                client,
                "CACHE.REVALIDATE",
                if rounds % 2 == 0 { "a" } else { "b" }
            );
            fetch(client, "key").state == State::Miss
        });
        assert!(rounds > 1);
    });
}

#[test]
fn revalidate_leaves_the_native_ttl_unchanged() {
    on_both_protocols(|_, client| {
        set(client, "ever", LONG, &["a"]);
        let timed = command!("CACHE.SET timed v PX {LONG} GRACE 5000 TAGS 1 a");
        assert_eq!(client.call(&timed), Reply::ok());
        let before = call!(client, "PEXPIRETIME", "timed");
        call!(client, "CACHE.REVALIDATE", "a");
        assert!(fetch(client, "ever").is_stale("v"));
        assert_eq!(call!(client, "PTTL", "ever"), Reply::Int(-1));
        assert_eq!(call!(client, "PEXPIRETIME", "timed"), before);
        // So an entry that is rewritten with KEEPTTL has the time that was left, and is fresh.
        for key in ["ever", "timed"] {
            let reply = call!(client, "CACHE.SET", key, "new", "KEEPTTL", "TAGS", 1, "a");
            assert_eq!(reply, Reply::ok());
            assert!(fetch(client, key).is_hit("new"), "{key}");
        }
        assert_eq!(fetch(client, "ever").pttl, -1);
        let pttl = fetch(client, "timed").pttl;
        assert!((LONG - 10_000_000..=LONG).contains(&pttl), "{pttl}");
    });
}

#[test]
fn an_expired_entry_gets_no_second_grace() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key v PX 1 GRACE 700 TAGS 1 a");
        wait_until("its logical time is over", DEADLINE, || {
            call!(client, "CACHE.GET", "key").is_null()
        });
        let before = call!(client, "PTTL", "key").int();
        call!(client, "CACHE.REVALIDATE", "a");
        assert!(call!(client, "PTTL", "key").int() <= before);
        wait_until("its grace is over", DEADLINE, || {
            fetch(client, "key").state == State::Miss
        });
    });
}

#[test]
fn revalidate_works_alike_for_small_and_large_tags() {
    on_both_protocols(|server, client| {
        for size in [1, 127, 128, 129, 3000] {
            let sets: Vec<_> = (0..size)
                .map(|n| {
                    let grace = if n % 2 == 0 { 0 } else { LONG };
                    args![
                        "CACHE.SET",
                        format!("key{n}"),
                        "v",
                        "GRACE",
                        grace,
                        "TAGS",
                        2,
                        "a",
                        "x"
                    ]
                })
                .collect();
            assert!(client.pipeline(&sets).iter().all(|r| *r == Reply::ok()));
            set(client, "other", LONG, &["x"]);
            let reply = call!(client, "CACHE.REVALIDATE", "a");
            assert_eq!(reply, Reply::Int(i64::from(size)));
            let fetches: Vec<_> = (0..size)
                .map(|n| args!["CACHE.FETCH", format!("key{n}")])
                .collect();
            for (n, reply) in client.pipeline(&fetches).iter().enumerate() {
                let answer = tagcache_tests::fetch::fetched(reply);
                let right = if n % 2 == 0 {
                    answer.is_miss()
                } else {
                    answer.is_stale("v")
                };
                assert!(right, "{size}: key{n}: {answer:?}");
            }
            assert!(fetch(client, "other").is_hit("v"));
            wait_reclaimed(client);
            assert_eq!(stat(client, "entries"), i64::from(size) / 2 + 1);
            assert_index_agrees(server, &[0], &[b"a"]);
            call!(client, "CACHE.FLUSH");
        }
    });
}

#[test]
fn transactions_and_scripts_see_a_revalidation_at_once() {
    on_both_protocols(|_, client| {
        set(client, "key", LONG, &["a"]);
        set(client, "bare", 0, &["a"]);
        for command in [
            &["MULTI"][..],
            &["CACHE.GET", "key"],
            &["CACHE.REVALIDATE", "a"],
            &["CACHE.GET", "key"],
            &["CACHE.FETCH", "key"],
            &["CACHE.GET", "bare"],
            &["CACHE.SET", "key", "new", "TAGS", "1", "a"],
            &["CACHE.GET", "key"],
        ] {
            client.call(command);
        }
        let exec = call!(client, "EXEC");
        let replies = exec.items();
        assert_eq!(replies[..2], [Reply::bulk("v"), Reply::Int(2)]);
        assert!(replies[2].is_null() && replies[4].is_null());
        assert!(tagcache_tests::fetch::fetched(&replies[3]).is_stale("v"));
        assert_eq!(replies[5..], [Reply::ok(), Reply::bulk("new")]);
        set(client, "key", LONG, &["a"]);
        let script = "redis.call('CACHE.REVALIDATE', 'a')
                      return {redis.call('CACHE.GET', 'key'), redis.call('CACHE.FETCH', 'key')[1]}";
        let reply = call!(client, "EVAL", script, 0);
        assert!(reply.items()[0].is_null());
        assert_eq!(reply.items()[1].bytes(), b"STALE");
    });
}

#[test]
fn revalidate_affects_only_entries_of_the_selected_database() {
    on_both_protocols(|_, client| {
        set(client, "key", LONG, &["a"]);
        call!(client, "SELECT", 1);
        set(client, "key", LONG, &["a"]);
        call!(client, "SET", "a", "native");
        assert_eq!(call!(client, "CACHE.REVALIDATE", "a"), Reply::Int(1));
        assert!(fetch(client, "key").is_stale("v"));
        assert_eq!(call!(client, "GET", "a"), Reply::bulk("native"));
        call!(client, "SELECT", 0);
        assert!(fetch(client, "key").is_hit("v"));
    });
}

#[test]
fn memory_of_stale_entries_is_counted_until_they_are_dropped() {
    on_both_protocols(|server, client| {
        for n in 0..500 {
            set(
                client,
                &format!("key{n}"),
                LONG,
                &["a", &format!("t{}", n % 7)],
            );
        }
        let bytes = stat(client, "bytes");
        call!(client, "CACHE.REVALIDATE", "t1", "t2", "t3");
        assert!(stat(client, "bytes") >= bytes, "nothing was dropped");
        assert_index_agrees(server, &[0], &[]);
        call!(client, "CACHE.INVALIDATE", "t2");
        wait_reclaimed(client);
        assert_index_agrees(server, &[0], &[b"t2"]);
    });
}
