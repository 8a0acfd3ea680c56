//! CACHE.FETCH without WAIT: states, forms of the reply, and the client that gets the lease.

use tagcache_tests::fetch::{State, fetch, fetch_lease, fetched, lease, set_leased};
use tagcache_tests::look::{assert_index_agrees, inspect, stat};
use tagcache_tests::{DEADLINE, Reply, call, on_both_protocols, run, wait_until};

use crate::WRONGTYPE;

#[test]
fn a_fresh_value_is_a_hit_with_ttl_and_tags_without_a_token() {
    on_both_protocols(|_, client| {
        call!(
            client,
            "CACHE.SET",
            "key",
            b"v\0\r\n",
            "TAGS",
            2,
            "b",
            b"\xff\0"
        );
        let reply = call!(client, "CACHE.FETCH", "key");
        let [state, value, pttl, token, tags] = reply.items() else {
            panic!("{reply:?}")
        };
        assert_eq!(state.bytes(), b"HIT");
        assert_eq!(*value, Reply::bulk(b"v\0\r\n"));
        assert_eq!((pttl, token), (&Reply::Int(-1), &Reply::Int(0)));
        let expected = vec![Reply::bulk("b"), Reply::bulk(b"\xff\0")];
        assert_eq!(*tags, Reply::Array(expected));
        call!(client, "CACHE.SET", "key", "v", "PX", 100_000);
        let hit = fetch_lease(client, "key", 1000);
        assert!(hit.is_hit("v") && hit.tags.is_empty(), "{hit:?}");
        assert!((1..=100_000).contains(&hit.pttl), "{hit:?}");
        assert_eq!(stat(client, "leases"), 0, "a hit needs no lease");
    });
}

#[test]
fn a_miss_grants_a_lease_only_on_request() {
    on_both_protocols(|_, client| {
        let reply = call!(client, "CACHE.FETCH", "key");
        assert_eq!(reply.items()[0].bytes(), b"MISS");
        let rest = [
            Reply::Null,
            Reply::Int(-2),
            Reply::Int(0),
            Reply::Array(vec![]),
        ];
        assert_eq!(reply.items()[1..], rest);
        assert_eq!(stat(client, "leases"), 0);
        let token = lease(client, "key");
        assert_eq!(stat(client, "leases"), 1);
        assert!(fetch(client, "key").is_miss());
        assert!(fetch_lease(client, "key", 1000).is_miss(), "it is taken");
        assert!(set_leased(client, "key", "v", token, &["a"]));
        assert!(fetch_lease(client, "key", 1000).is_hit("v"));
        assert_eq!(stat(client, "leases"), 0, "and given back by the SET");
    });
}

#[test]
fn an_invalidated_or_expired_entry_is_a_miss() {
    on_both_protocols(|_, client| {
        call!(client, "DEBUG", "SET-ACTIVE-EXPIRE", 0);
        call!(client, "CACHE.SET", "dropped", "v", "TAGS", 1, "a");
        call!(client, "CACHE.SET", "flushed", "v");
        call!(client, "CACHE.SET", "short", "v", "PX", 1);
        call!(client, "CACHE.INVALIDATE", "a");
        assert!(fetch(client, "dropped").is_miss());
        wait_until("it expires", DEADLINE, || fetch(client, "short").is_miss());
        call!(client, "CACHE.FLUSH");
        assert!(fetch(client, "flushed").is_miss());
        for key in ["dropped", "short", "flushed"] {
            assert!(fetch_lease(client, key, 1000).is_miss_with_token());
        }
    });
}

#[test]
fn leases_are_per_key_and_database_and_tokens_never_repeat() {
    on_both_protocols(|_, client| {
        let mut tokens = Vec::new();
        for database in [0, 1, 9] {
            call!(client, "SELECT", database);
            for n in 0..50 {
                tokens.push(lease(client, &format!("key{n}")));
            }
            assert_eq!(stat(client, "leases"), 50);
        }
        for _ in 0..50 {
            let token = lease(client, "again");
            assert_eq!(
                call!(client, "CACHE.RELEASE", "again", token),
                Reply::Int(1)
            );
            tokens.push(token);
        }
        let count = tokens.len();
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), count);
    });
}

#[test]
fn all_callers_get_the_stale_value_and_one_the_lease() {
    on_both_protocols(|server, client| {
        run!(client, "CACHE.SET key old GRACE 100000 TAGS 2 b a");
        call!(client, "CACHE.REVALIDATE", "a");
        let without = fetch(client, "key");
        assert!(without.is_stale("old") && without.token == 0, "{without:?}");
        let mut holder = server.raw();
        let holding = fetch_lease(&mut holder, "key", 60_000);
        assert!(holding.is_stale("old") && holding.token > 0, "{holding:?}");
        assert_eq!(holding.tags, [b"b".to_vec(), b"a".to_vec()]);
        for _ in 0..5 {
            // WAIT applies to a MISS: here a stale value is available.
            let other = fetched(&run!(client, "CACHE.FETCH key LEASE 1000 WAIT 60000"));
            assert!(other.is_stale("old") && other.token == 0, "{other:?}");
        }
        assert!(set_leased(&mut holder, "key", "new", holding.token, &["a"]));
        assert!(fetch(client, "key").is_hit("new"));
        assert_index_agrees(server, &[0], &[b"b"]);
    });
}

#[test]
fn after_a_lease_runs_out_the_next_caller_gets_a_new_one() {
    on_both_protocols(|_, client| {
        let first = fetch_lease(client, "key", 1).token;
        assert!(first > 0);
        let mut second = 0;
        wait_until("the lease runs out", DEADLINE, || {
            second = fetch_lease(client, "key", 60_000).token;
            second > 0
        });
        assert_ne!(first, second);
        assert_eq!(stat(client, "leases"), 1);
        fetch_lease(client, "other", 1);
        wait_until("it is not counted for ever", DEADLINE, || {
            stat(client, "leases") == 1
        });
    });
}

#[test]
fn no_lease_lasts_longer_than_the_setting_allows() {
    on_both_protocols(|_, client| {
        let set = call!(client, "CONFIG", "SET", "tagcache.lease-max-ms", 1);
        assert_eq!(set, Reply::ok());
        for ms in [1_u64, 2, 3_600_000, 1 << 40] {
            let first = fetch_lease(client, "key", ms);
            assert!(first.is_miss_with_token(), "{ms}: {first:?}");
            wait_until("the lease runs out", DEADLINE, || {
                let next = fetch_lease(client, "key", ms);
                next.token > 0 && next.token != first.token
            });
            call!(client, "CACHE.DEL", "key");
        }
    });
}

#[test]
fn fetch_counts_hits_stale_hits_and_misses() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "fresh", "v");
        run!(client, "CACHE.SET stale v GRACE 100000 TAGS 1 a");
        call!(client, "CACHE.REVALIDATE", "a");
        for _ in 0..3 {
            assert_eq!(fetch(client, "fresh").state, State::Hit);
        }
        for _ in 0..2 {
            assert_eq!(fetch(client, "stale").state, State::Stale);
        }
        fetch(client, "missing");
        let counts = ["hits", "stale_hits", "misses"].map(|name| stat(client, name));
        assert_eq!(counts, [3, 2, 1]);
        assert_eq!(inspect(client, "fresh").unwrap().hits, 3);
    });
}

#[test]
fn fetch_of_another_type_is_refused_and_grants_nothing() {
    on_both_protocols(|_, client| {
        call!(client, "SET", "string", "v");
        for options in [&[][..], &["LEASE", "5"], &["LEASE", "5", "WAIT", "5"]] {
            let fetch = [&["CACHE.FETCH", "string"], options].concat();
            assert_eq!(client.call(&fetch), Reply::Error(WRONGTYPE.to_owned()));
        }
        let counts = ["hits", "misses", "leases"].map(|name| stat(client, name));
        assert_eq!(counts, [0, 0, 0]);
    });
}

#[test]
fn release_returns_1_once_for_a_held_lease_and_0_otherwise() {
    on_both_protocols(|_, client| {
        let token = lease(client, "key");
        for (key, token) in [
            ("other", token),
            ("key", token + 1),
            ("key", i64::MAX),
            ("absent", 1),
        ] {
            let reply = call!(client, "CACHE.RELEASE", key, token);
            assert_eq!(reply, Reply::Int(0), "{key} {token}");
        }
        call!(client, "SELECT", 1);
        assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(0));
        call!(client, "SELECT", 0);
        assert_eq!(stat(client, "leases"), 1, "it is held all the time");
        assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(1));
        assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(0));
        assert_eq!(stat(client, "leases"), 0);
        let next = lease(client, "key");
        assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(0));
        assert_eq!(call!(client, "CACHE.RELEASE", "key", next), Reply::Int(1));
    });
}

#[test]
fn release_returns_0_for_an_ended_lease() {
    on_both_protocols(|_, client| {
        let used = lease(client, "used");
        assert!(set_leased(client, "used", "v", used, &[]));
        assert_eq!(call!(client, "CACHE.RELEASE", "used", used), Reply::Int(0));
        let deleted = lease(client, "deleted");
        call!(client, "CACHE.DEL", "deleted");
        let release = call!(client, "CACHE.RELEASE", "deleted", deleted);
        assert_eq!(release, Reply::Int(0));
        let short = fetch_lease(client, "short", 1).token;
        wait_until("the lease runs out", DEADLINE, || {
            stat(client, "leases") == 0
        });
        assert_eq!(
            call!(client, "CACHE.RELEASE", "short", short),
            Reply::Int(0)
        );
    });
}
