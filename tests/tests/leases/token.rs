//! FETCH … LEASE … TOKEN: a caller that lost its reply repeats the request or releases the lease, and never regains
//! lost rights.

use tagcache_tests::fetch::{
    Fetched, Waiter, fetch_lease, fetched, lease, set_leased, wait_for_waiters,
};
use tagcache_tests::look::stat;
use tagcache_tests::{DEADLINE, RawClient, Reply, call, on_both_protocols, send, wait_until};

const LARGEST: i64 = (1 << 53) - 1;

fn fetch_token(client: &mut RawClient, key: &str, ms: u64, token: i64) -> Fetched {
    let fetch = call!(client, "CACHE.FETCH", key, "LEASE", ms, "TOKEN", token);
    fetched(&fetch)
}

fn granted(client: &mut RawClient, key: &str, token: i64) {
    let answer = fetch_token(client, key, 60_000, token);
    assert!(answer.is_miss_with_token(), "{answer:?}");
    assert_eq!(answer.token, token);
}

#[test]
fn a_lease_is_granted_under_the_chosen_token() {
    on_both_protocols(|_, client| {
        for (key, token) in [("a", 1), ("b", 12_345), ("c", LARGEST)] {
            granted(client, key, token);
            assert!(!set_leased(client, key, "x", token - 1, &[]));
            assert!(set_leased(client, key, "v", token, &["t"]));
            assert!(fetch_token(client, key, 60_000, token).is_hit("v"));
        }
        // The same for a stale entry.
        call!(
            client,
            "CACHE.SET",
            "s",
            "old",
            "GRACE",
            60_000,
            "TAGS",
            1,
            "soft"
        );
        call!(client, "CACHE.REVALIDATE", "soft");
        let stale = fetch_token(client, "s", 60_000, 77);
        assert!(stale.is_stale("old") && stale.token == 77, "{stale:?}");
        assert_eq!(call!(client, "CACHE.RELEASE", "s", 77), Reply::Int(1));
    });
}

#[test]
fn a_repeated_request_with_the_held_token_renews_the_lease() {
    on_both_protocols(|server, client| {
        assert_eq!(fetch_token(client, "key", 1, 7).token, 7);
        // Run out or not, the lease belongs to the caller; from now on for a minute.
        granted(client, "key", 7);
        let mut other = server.raw();
        assert!(fetch_token(&mut other, "key", 60_000, 8).is_miss());
        assert!(fetch_lease(&mut other, "key", 60_000).is_miss());
        granted(&mut other, "key", 7);
        assert_eq!(stat(client, "leases"), 1);
        assert!(set_leased(client, "key", "v", 7, &[]));
        // A token that the server chose can be renewed as well.
        let token = lease(client, "other");
        granted(client, "other", token);
    });
}

/// A caller that renews has been loading since its lease was granted: a new lease would not know what was invalidated
/// meanwhile.
#[test]
fn a_renewal_grants_no_new_lease() {
    on_both_protocols(|server, client| {
        let renew = |client: &mut RawClient, token: i64| {
            fetched(&call!(
                client,
                "CACHE.FETCH",
                "key",
                "LEASE",
                60_000,
                "TOKEN",
                token,
                "RENEW"
            ))
        };
        // As after a restart or a failover: the server does not know the lease.
        assert!(renew(client, 7).is_miss());
        assert_eq!(stat(client, "leases"), 0);
        assert_eq!(fetch_token(client, "key", 1, 7).token, 7);
        wait_until("it runs out", DEADLINE, || stat(client, "leases") == 0);
        let mut other = server.raw();
        for renewing in [&mut *client, &mut other] {
            assert!(renew(renewing, 8).is_miss(), "another one");
            assert_eq!(renew(renewing, 7).token, 7);
        }
        assert_eq!(stat(client, "leases"), 1);
        call!(client, "CACHE.INVALIDATE", "t");
        assert_eq!(renew(client, 7).token, 7);
        assert!(!set_leased(client, "key", "old", 7, &["t"]));
        assert!(renew(client, 7).is_miss(), "the refusal ended it");
        call!(client, "CACHE.SET", "key", "v");
        assert!(renew(client, 7).is_hit("v"));
        for wrong in [&["RENEW"][..], &["LEASE", "5", "RENEW"]] {
            let mut words = vec!["CACHE.FETCH", "key"];
            words.extend(wrong);
            assert!(client.call(&words).is_error());
        }
    });
}

#[test]
fn a_caller_that_lost_its_reply_can_release_the_lease() {
    on_both_protocols(|server, client| {
        let mut lost = server.raw();
        send!(lost, "CACHE.FETCH", "key", "LEASE", 60_000, "TOKEN", 42);
        wait_until("the lease is granted", DEADLINE, || {
            stat(client, "leases") == 1
        });
        assert_eq!(call!(client, "CACHE.RELEASE", "key", 42), Reply::Int(1));
        assert_eq!(call!(client, "CACHE.RELEASE", "key", 42), Reply::Int(0));
        assert_eq!(stat(client, "leases"), 0);
    });
}

#[test]
fn a_renewed_lease_keeps_the_clock_of_its_first_grant() {
    on_both_protocols(|_, client| {
        let mut token = 0;
        for invalidate in ["CACHE.INVALIDATE", "CACHE.REVALIDATE"] {
            for ms in [60_000, 1] {
                token += 1;
                // The caller read the database after the first grant, perhaps before the invalidation.
                assert_eq!(fetch_token(client, "key", ms, token).token, token);
                if ms == 1 {
                    wait_until("it runs out", DEADLINE, || stat(client, "leases") == 0);
                }
                call!(client, invalidate, "t");
                granted(client, "key", token);
                let is_written = set_leased(client, "key", "old", token, &["t"]);
                assert!(!is_written, "{invalidate}, for {ms} ms");
                // The next load takes another token.
                token += 1;
                granted(client, "key", token);
                assert!(set_leased(client, "key", "new", token, &["t"]));
                call!(client, "CACHE.DEL", "key");
            }
        }
    });
}

#[test]
fn a_token_is_not_granted_again_after_others_ended_its_lease() {
    on_both_protocols(|_, client| {
        for (n, end) in [
            &["CACHE.DEL", "key"][..],
            &["CACHE.FLUSH"],
            &["FLUSHALL"],
            &["CACHE.SET", "key", "v", "LEASE", "TOKEN", "XX"],
            &["CACHE.SET", "key", "v"],
            &["SET", "key", "v"],
        ]
        .into_iter()
        .enumerate()
        {
            let token = 100 + n as i64;
            let text = token.to_string();
            granted(client, "key", token);
            let end: Vec<&str> = end
                .iter()
                .map(|word| if *word == "TOKEN" { &*text } else { word })
                .collect();
            client.call(&end);
            call!(client, "DEL", "key");
            let again = fetch_token(client, "key", 60_000, token);
            assert!(again.is_miss(), "{end:?}: {again:?}");
            assert!(
                !set_leased(client, "key", "old", token, &[]),
                "{end:?}: it has no right to write"
            );
            // Nor is a token granted again that was taken over, or that the server issued.
            let issued = fetch_lease(client, "key", 1).token;
            wait_until("it runs out", DEADLINE, || stat(client, "leases") == 0);
            granted(client, "key", token + 1_000);
            call!(client, "CACHE.DEL", "key");
            for lost in [issued, token + 1_000] {
                assert!(fetch_token(client, "key", 60_000, lost).is_miss());
            }
            // For another key the token is valid.
            granted(client, "other", token);
            call!(client, "CACHE.RELEASE", "other", token);
        }
    });
}

#[test]
fn a_caller_may_reuse_its_token_after_ending_its_lease() {
    on_both_protocols(|_, client| {
        for token in [5, i64::MAX] {
            for _ in 0..3 {
                granted(client, "key", token);
                assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(1));
                granted(client, "key", token);
                assert!(set_leased(client, "key", "v", token, &["t"]));
                assert!(!set_leased(client, "key", "again", token, &["t"]));
                call!(client, "CACHE.DEL", "key");
            }
            // A refused write ends the lease.
            granted(client, "key", token);
            call!(client, "CACHE.INVALIDATE", "t");
            assert!(!set_leased(client, "key", "old", token, &["t"]));
            assert!(fetch_token(client, "key", 60_000, token).is_miss());
        }
    });
}

#[test]
fn a_waiter_gets_the_lease_under_its_own_token() {
    on_both_protocols(|server, client| {
        let held = lease(client, "key");
        let wait = |token: i64| {
            let mut caller = server.raw();
            let ms = 60_000;
            send!(
                caller,
                "CACHE.FETCH",
                "key",
                "LEASE",
                ms,
                "TOKEN",
                token,
                "WAIT",
                600_000
            );
            caller
        };
        let mut first = wait(5);
        wait_for_waiters(client, 1);
        let mut second = wait(6);
        wait_for_waiters(client, 2);
        assert_eq!(call!(client, "CACHE.RELEASE", "key", held), Reply::Int(1));
        assert_eq!(fetched(&first.read()).token, 5);
        assert_eq!(call!(client, "CACHE.DEL", "key"), Reply::Int(0));
        assert_eq!(fetched(&second.read()).token, 6);
        // A waiter whose token is used up waits for the value, and is skipped.
        let mut used_up = wait(5);
        wait_for_waiters(client, 1);
        let mut next = Waiter::start(server, "key", 600_000);
        assert_eq!(call!(client, "CACHE.RELEASE", "key", 6), Reply::Int(1));
        let next = next.answer();
        assert!(next.is_miss_with_token(), "{next:?}");
        assert!(set_leased(client, "key", "v", next.token, &[]));
        assert!(fetched(&used_up.read()).is_hit("v"));
    });
}

#[test]
fn tokens_out_of_range_and_without_a_lease_are_refused() {
    on_both_protocols(|_, client| {
        for token in ["0", "-1", "x", "9223372036854775808"] {
            let reply = call!(client, "CACHE.FETCH", "key", "LEASE", 5, "TOKEN", token);
            assert_eq!(
                reply,
                Reply::Error(crate::NOT_AN_INTEGER.to_owned()),
                "{token}"
            );
        }
        for words in [
            &["CACHE.FETCH", "key", "TOKEN", "1"][..],
            &["CACHE.FETCH", "key", "TOKEN", "1", "WAIT", "5"],
            &["CACHE.FETCH", "key", "LEASE", "5", "TOKEN"],
            &[
                "CACHE.FETCH",
                "key",
                "LEASE",
                "5",
                "TOKEN",
                "1",
                "TOKEN",
                "1",
            ],
        ] {
            let reply = client.call(words);
            assert_eq!(reply, Reply::Error(crate::SYNTAX.to_owned()), "{words:?}");
        }
        assert_eq!(stat(client, "leases"), 0);
    });
}
