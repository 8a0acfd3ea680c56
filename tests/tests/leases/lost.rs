//! SET … LEASE: written if the lease was not lost, refused if the loaded value may be out of date.

use tagcache_tests::fetch::{Waiter, fetch, fetch_lease, lease, set_leased};
use tagcache_tests::look::{Snapshot, assert_index_agrees, inspect, stat};
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Server, call, on_both_protocols, run, wait_until,
};

/// Commands of other clients between the grant of a lease of `key` and the SET under it with tags `a` and `b`.
type Meanwhile = (&'static str, &'static [&'static [&'static str]]);

fn with_lease(meanwhile: &[Meanwhile], test: impl Fn(&Server, &mut RawClient, i64, &str)) {
    on_both_protocols(|server, client| {
        for (name, commands) in meanwhile {
            call!(client, "FLUSHALL");
            call!(client, "CACHE.SET", "other", "v", "TAGS", 1, "unrelated");
            let token = lease(client, "key");
            let mut other = server.raw();
            for command in *commands {
                let reply = other.call(command);
                assert!(!reply.is_error(), "{name}: {reply:?}");
            }
            test(server, client, token, name);
        }
    });
}

#[test]
fn a_value_loaded_before_an_invalidation_is_never_cached() {
    with_lease(
        &[
            ("a given tag was invalidated", &[&["CACHE.INVALIDATE", "a"]]),
            ("the other one", &[&["CACHE.INVALIDATE", "b"]]),
            (
                "one among others",
                &[&["CACHE.INVALIDATE", "x", "b", "unrelated"]],
            ),
            ("softly", &[&["CACHE.REVALIDATE", "a"]]),
            ("softly, among others", &[&["CACHE.REVALIDATE", "x", "b"]]),
            ("everything was flushed", &[&["CACHE.FLUSH"]]),
            ("the key was deleted", &[&["CACHE.DEL", "key"]]),
            (
                "the key was deleted among others",
                &[&["CACHE.DEL", "absent", "key"]],
            ),
            (
                "by a condition that its tags meet",
                &[&["CACHE.INVALIDATEWHERE", "ALL", "2", "a", "b"]],
            ),
            (
                "by one that one of them meets",
                &[&["CACHE.INVALIDATEWHERE", "ANY", "2", "b", "x"]],
            ),
            (
                "by one that they meet by not being there",
                &[&["CACHE.INVALIDATEWHERE", "NONE", "1", "x"]],
            ),
            (
                "softly by a condition",
                &[&["CACHE.INVALIDATEWHERE", "ALL", "1", "b", "SOFT"]],
            ),
            (
                "long ago",
                &[
                    &["CACHE.INVALIDATE", "a"],
                    &["CACHE.INVALIDATE", "x"],
                    &["CACHE.REVALIDATE", "y"],
                    &["CACHE.SET", "new", "v", "TAGS", "1", "a"],
                ],
            ),
            (
                "in a transaction",
                &[&["MULTI"], &["CACHE.INVALIDATE", "a"], &["EXEC"]],
            ),
            (
                "in a script",
                &[&["EVAL", "return redis.call('CACHE.REVALIDATE', 'a')", "0"]],
            ),
            (
                "deleted in a script",
                &[&[
                    "EVAL",
                    "return redis.call('CACHE.DEL', KEYS[1])",
                    "1",
                    "key",
                ]],
            ),
        ],
        |server, client, token, name| {
            let refused = stat(client, "leases_refused");
            assert!(
                !set_leased(client, "key", "old", token, &["a", "b"]),
                "{name}"
            );
            assert!(call!(client, "CACHE.GET", "key").is_null(), "{name}");
            assert_eq!(
                call!(client, "EXISTS", "key"),
                Reply::Int(0),
                "{name}: nothing was stored"
            );
            assert_eq!(stat(client, "leases_refused"), refused + 1, "{name}");
            assert!(
                !set_leased(client, "key", "old", token, &["a", "b"]),
                "{name}, tried again"
            );
            assert_index_agrees(server, &[0], &[b"b"]);
        },
    );
}

#[test]
fn unrelated_changes_do_not_void_a_lease() {
    with_lease(
        &[
            ("nothing happened", &[]),
            (
                "tags that are not given",
                &[&["CACHE.INVALIDATE", "x", "unrelated"]],
            ),
            ("softly", &[&["CACHE.REVALIDATE", "unrelated"]]),
            (
                "a condition that they do not meet",
                &[&["CACHE.INVALIDATEWHERE", "ALL", "1", "x"]],
            ),
            (
                "a condition that was only tried",
                &[&["CACHE.INVALIDATEWHERE", "ALL", "2", "a", "b", "DRYRUN"]],
            ),
            ("another key", &[&["CACHE.DEL", "other", "absent"]]),
            (
                "other keys of these tags",
                &[
                    &["CACHE.SET", "sibling", "v", "TAGS", "2", "a", "b"],
                    &["CACHE.DEL", "sibling"],
                ],
            ),
            ("another database", &[&["SELECT", "1"], &["CACHE.FLUSH"]]),
            (
                "a tag of another database",
                &[
                    &["SELECT", "1"],
                    &["CACHE.SET", "key", "v", "TAGS", "1", "a"],
                    &["CACHE.INVALIDATE", "a", "b"],
                    &["CACHE.DEL", "key"],
                ],
            ),
            (
                "somebody asked for the lease in vain",
                &[
                    &["CACHE.FETCH", "key", "LEASE", "60000"],
                    &["CACHE.RELEASE", "key", "9223372036854775807"],
                ],
            ),
            ("statistics", &[&["CACHE.RESETSTATS"], &["CACHE.STATS"]]),
        ],
        |server, client, token, name| {
            assert!(
                set_leased(client, "key", "new", token, &["a", "b"]),
                "{name}"
            );
            assert_eq!(
                call!(client, "CACHE.GET", "key"),
                Reply::bulk("new"),
                "{name}"
            );
            assert_eq!(stat(client, "leases_refused"), 0, "{name}");
            assert_index_agrees(server, &[0], &[b"x"]);
        },
    );
}

#[test]
fn an_invalidation_before_the_grant_does_not_void_the_lease() {
    on_both_protocols(|_, client| {
        for before in [
            &["CACHE.INVALIDATE", "a"][..],
            &["CACHE.REVALIDATE", "a"],
            &["CACHE.FLUSH"],
            &["CACHE.DEL", "key"],
        ] {
            client.call(before);
            let token = lease(client, "key");
            assert!(
                set_leased(client, "key", "v", token, &["a"]),
                "after {before:?}"
            );
            call!(client, "CACHE.DEL", "key");
        }
    });
}

#[test]
fn a_lease_that_ran_out_is_valid_until_it_is_superseded() {
    on_both_protocols(|_, client| {
        let token = fetch_lease(client, "key", 1).token;
        wait_until("the lease runs out", DEADLINE, || {
            stat(client, "leases") == 0
        });
        assert!(set_leased(client, "key", "v", token, &["a"]));
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
        assert_eq!(stat(client, "leases_refused"), 0);
    });
}

#[test]
fn an_invalidation_voids_a_lease_that_ran_out() {
    on_both_protocols(|_, client| {
        for meanwhile in [
            &["CACHE.INVALIDATE", "a"][..],
            &["CACHE.REVALIDATE", "a"],
            &["CACHE.FLUSH"],
            &["CACHE.DEL", "key"],
        ] {
            for before_the_end in [true, false] {
                let token = fetch_lease(client, "key", if before_the_end { 20 } else { 1 }).token;
                assert!(token > 0);
                if before_the_end {
                    client.call(meanwhile);
                }
                wait_until("the lease runs out", DEADLINE, || {
                    stat(client, "leases") == 0
                });
                if !before_the_end {
                    client.call(meanwhile);
                }
                assert!(
                    !set_leased(client, "key", "old", token, &["a"]),
                    "{meanwhile:?}, before the end: {before_the_end}"
                );
            }
        }
        assert_eq!(stat(client, "leases_refused"), 8);
    });
}

#[test]
fn a_superseded_lease_is_never_valid_again() {
    on_both_protocols(|_, client| {
        let first = fetch_lease(client, "key", 1).token;
        let mut second = 0;
        wait_until("somebody else gets the lease", DEADLINE, || {
            second = fetch_lease(client, "key", 60_000).token;
            second > 0
        });
        assert!(!set_leased(client, "key", "late", first, &[]));
        assert!(set_leased(client, "key", "new", second, &[]));
        assert!(!set_leased(client, "key", "late", first, &[]));
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("new"));
        let released = lease(client, "released");
        call!(client, "CACHE.RELEASE", "released", released);
        let next = lease(client, "released");
        assert!(!set_leased(client, "released", "late", released, &[]));
        assert!(set_leased(client, "released", "new", next, &[]));
        assert_eq!(stat(client, "leases_refused"), 3);
    });
}

#[test]
fn a_token_not_granted_for_this_key_and_database_is_refused() {
    on_both_protocols(|_, client| {
        let token = lease(client, "key");
        for wrong in [1, token - 1, token + 1, i64::MAX] {
            if wrong > 0 && wrong != token {
                assert!(!set_leased(client, "key", "x", wrong, &[]), "{wrong}");
            }
        }
        assert!(!set_leased(client, "never asked for", "x", token, &[]));
        call!(client, "SELECT", 1);
        assert!(!set_leased(client, "key", "x", token, &[]));
        call!(client, "SELECT", 0);
        call!(client, "CACHE.SET", "there", "v");
        assert!(!set_leased(client, "there", "x", token, &[]));
        assert_eq!(call!(client, "CACHE.GET", "there"), Reply::bulk("v"));
        assert!(
            set_leased(client, "key", "v", token, &[]),
            "none of this took the lease from its holder"
        );
    });
}

#[test]
fn zero_and_negative_tokens_are_invalid() {
    on_both_protocols(|server, client| {
        lease(client, "key");
        let before = Snapshot::take(server, &[0], &[]);
        for token in [0, -1, i64::MIN] {
            let reply = call!(client, "CACHE.SET", "key", "x", "LEASE", token);
            assert!(reply.is_null() || reply.is_error(), "{token}: {reply:?}");
            let reply = call!(client, "CACHE.RELEASE", "key", token);
            assert!(
                reply == Reply::Int(0) || reply.is_error(),
                "{token}: {reply:?}"
            );
        }
        let mut after = Snapshot::take(server, &[0], &[]);
        after.forget_changes(&before);
        assert_eq!(after, before);
        assert_eq!(stat(client, "leases"), 1);
    });
}

#[test]
fn a_refused_set_keeps_the_stale_value_and_its_times() {
    on_both_protocols(|_, client| {
        let set = [
            "CACHE.SET",
            "key",
            "old",
            "EX",
            "1000",
            "GRACE",
            "100000",
            "TAGS",
            "1",
            "a",
        ];
        client.call(&set);
        call!(client, "CACHE.REVALIDATE", "a");
        let token = fetch_lease(client, "key", 60_000).token;
        assert!(token > 0);
        call!(client, "CACHE.REVALIDATE", "a");
        assert!(!set_leased(client, "key", "new", token, &["a", "b"]));
        assert!(fetch(client, "key").is_stale("old"));
        let entry = inspect(client, "key").unwrap();
        assert_eq!(
            (entry.state.as_str(), entry.tags),
            ("stale", vec![b"a".to_vec()])
        );
        assert!(call!(client, "CACHE.TAGINFO", "b").is_null() || stat(client, "tags") == 1);
    });
}

#[test]
fn nx_and_xx_are_checked_together_with_the_lease() {
    on_both_protocols(|_, client| {
        let token = lease(client, "key");
        let nx = run!(client, "CACHE.SET key v LEASE {token} NX PX 100000");
        assert_eq!(nx, Reply::ok());
        assert!(inspect(client, "key").unwrap().expires);
        run!(client, "CACHE.SET stale old GRACE 100000 TAGS 1 soft");
        call!(client, "CACHE.REVALIDATE", "soft");
        // A stale entry counts as absent.
        let token = fetch_lease(client, "stale", 60_000).token;
        let nx = run!(client, "CACHE.SET stale new LEASE {token} NX");
        assert_eq!(nx, Reply::ok());
        assert!(fetch(client, "stale").is_hit("new"));
    });
}

#[test]
fn a_set_refused_by_xx_passes_the_lease_on() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let mut waiter = Waiter::start(server, "key", 600_000);
        let xx = call!(client, "CACHE.SET", "key", "v", "XX", "LEASE", token);
        assert!(xx.is_null(), "there is none to replace: {xx:?}");
        let next = waiter.answer();
        assert!(next.is_miss_with_token(), "{next:?}");
        assert!(!set_leased(client, "key", "late", token, &[]), "it is over");
        assert!(set_leased(client, "key", "v", next.token, &[]));
    });
}

#[test]
fn a_set_refused_by_nx_ends_the_lease() {
    on_both_protocols(|server, client| {
        run!(client, "CACHE.SET key old EX 1000 GRACE 100000 TAGS 1 soft");
        call!(client, "CACHE.REVALIDATE", "soft");
        let token = fetch_lease(client, "key", 60_000).token;
        // Another client writes the key meanwhile, in a transaction with the refused write.
        let mut waiter = server.raw();
        call!(client, "MULTI");
        run!(client, "CACHE.SET key new");
        run!(client, "CACHE.SET key late LEASE {token} NX");
        let replies = call!(client, "EXEC");
        assert!(replies.items()[1].is_null(), "{replies:?}");
        assert!(fetch(&mut waiter, "key").is_hit("new"));
        assert_eq!(stat(client, "leases"), 0);
        // A wrong token takes nothing from the lease's holder.
        let token = lease(client, "other");
        let wrong = token - 1;
        run!(client, "CACHE.SET other late LEASE {wrong} XX");
        assert!(set_leased(client, "other", "v", token, &[]));
        assert_eq!(
            stat(client, "leases_refused"),
            0,
            "these are no lost leases"
        );
    });
}

#[test]
fn a_set_without_a_lease_ignores_leases_of_other_clients() {
    on_both_protocols(|_, client| {
        lease(client, "key");
        call!(client, "CACHE.INVALIDATE", "a");
        assert_eq!(
            call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a"),
            Reply::ok()
        );
        assert!(fetch(client, "key").is_hit("v"));
        assert_eq!(stat(client, "leases_refused"), 0);
    });
}

#[test]
fn a_token_is_refused_after_a_restart() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "entry", "v");
        let token = lease(client, "key");
        assert_eq!(call!(client, "DEBUG", "RELOAD"), Reply::ok());
        // Leases belong to the node: a reload in place may keep one or not, but never a wrong one.
        call!(client, "CACHE.INVALIDATE", "a");
        assert!(!set_leased(client, "key", "old", token, &["a"]));
    });
    tagcache_tests::for_each_engine(|engine| {
        let mut server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let mut old = vec![lease(&mut client, "key")];
        for n in 0..20 {
            old.push(lease(&mut client, &format!("key{n}")));
        }
        server.kill_9();
        server.restart();
        let mut client = server.raw();
        let new = lease(&mut client, "key");
        assert!(
            !old.contains(&new),
            "a token of before must not become valid"
        );
        assert!(!set_leased(&mut client, "key", "old", old[0], &[]));
        for n in 0..20 {
            assert!(!set_leased(
                &mut client,
                &format!("key{n}"),
                "old",
                old[n + 1],
                &[]
            ));
        }
        assert!(set_leased(&mut client, "key", "new", new, &[]));
    });
}
