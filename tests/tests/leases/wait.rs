//! FETCH … WAIT: the clients that wait, and the events that end the wait.

use tagcache_tests::fetch::{Waiter, fetch, fetched, lease, set_leased, wait_for_waiters, waiters};
use tagcache_tests::look::{info, stat};
use tagcache_tests::{
    DEADLINE, RawClient, Reply, args, call, on_both_protocols, run, send, wait_until,
};

/// Requests a lease again with its own token, for 30 ms: it runs out when all expected callers wait.
fn ends_soon(holder: &mut RawClient, key: &str, token: i64) {
    let again = call!(holder, "CACHE.FETCH", key, "LEASE", 30, "TOKEN", token);
    assert_eq!(fetched(&again).token, token);
}

#[test]
fn a_waiter_gets_the_value_as_soon_as_it_is_set() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let mut waiters = [
            Waiter::start(server, "key", 600_000),
            Waiter::start_on(server, server.raw().resp3(), "key", 600_000),
        ];
        wait_for_waiters(client, 2);
        assert_eq!(info(client, "blocked_clients"), 2);
        assert!(set_leased(client, "key", "v", token, &["a", "b"]));
        for waiter in &mut waiters {
            let answer = waiter.answer();
            assert!(answer.is_hit("v"), "{answer:?}");
            assert_eq!(answer.pttl, -1);
            assert_eq!(answer.tags, [b"a".to_vec(), b"b".to_vec()]);
        }
        wait_for_waiters(client, 0);
        assert_eq!(stat(client, "leases"), 0);
    });
}

#[test]
fn a_set_without_the_lease_also_wakes_the_waiters() {
    on_both_protocols(|server, client| {
        for set in [
            &["CACHE.SET", "key", "v"][..],
            &["CACHE.SET", "key", "v", "EX", "100", "TAGS", "1", "a"],
            &[
                "EVAL",
                "return redis.call('CACHE.SET', KEYS[1], 'v')",
                "1",
                "key",
            ],
        ] {
            lease(client, "key");
            let mut waiter = Waiter::start(server, "key", 600_000);
            assert_eq!(client.call(set), Reply::ok());
            let answer = waiter.answer();
            assert!(answer.is_hit("v"), "{set:?}: {answer:?}");
            call!(client, "CACHE.DEL", "key");
        }
        lease(client, "key");
        let mut waiter = Waiter::start(server, "key", 600_000);
        call!(client, "MULTI");
        call!(client, "CACHE.SET", "key", "v");
        call!(client, "EXEC");
        assert!(waiter.answer().is_hit("v"));
    });
}

#[test]
fn a_release_passes_the_lease_to_one_waiter_only() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let mut first = Waiter::start(server, "key", 600_000);
        let mut others = [
            Waiter::start(server, "key", 600_000),
            Waiter::start(server, "key", 600_000),
        ];
        assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(1));
        let next = first.answer();
        assert!(next.is_miss_with_token(), "{next:?}");
        assert_ne!(next.token, token);
        wait_for_waiters(client, 2);
        assert_eq!(stat(client, "leases"), 1);
        assert!(!set_leased(client, "key", "late", token, &[]));
        assert!(set_leased(client, "key", "v", next.token, &[]));
        for waiter in &mut others {
            assert!(waiter.answer().is_hit("v"));
        }
    });
}

#[test]
fn a_dead_holders_lease_passes_on_when_it_runs_out() {
    on_both_protocols(|server, client| {
        let mut holder = server.raw();
        let token = lease(&mut holder, "key");
        let mut first = Waiter::start(server, "key", 600_000);
        let mut second = Waiter::start(server, "key", 600_000);
        ends_soon(&mut holder, "key", token);
        drop(holder);
        let next = first.answer();
        assert!(next.is_miss_with_token() && next.token != token, "{next:?}");
        wait_for_waiters(client, 1);
        assert!(!set_leased(client, "key", "late", token, &[]));
        assert!(set_leased(client, "key", "v", next.token, &[]));
        assert!(second.answer().is_hit("v"));
    });
}

#[test]
fn unused_leases_pass_from_waiter_to_waiter() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let mut waiting: Vec<_> = (0..5)
            .map(|_| Waiter::start(server, "key", 600_000))
            .collect();
        call!(client, "CONFIG", "SET", "tagcache.lease-max-ms", 30);
        ends_soon(client, "key", token);
        let tokens: Vec<i64> = waiting
            .iter_mut()
            .map(|waiter| {
                let answer = waiter.answer();
                assert!(answer.is_miss_with_token(), "{answer:?}");
                answer.token
            })
            .collect();
        let distinct: std::collections::BTreeSet<_> = tokens.iter().collect();
        assert_eq!(distinct.len(), 5, "{tokens:?}");
        wait_until("the last one runs out", DEADLINE, || {
            stat(client, "leases") == 0
        });
    });
}

#[test]
fn a_timed_out_wait_is_a_miss_and_the_holder_keeps_the_lease() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let mut waiter = server.raw();
        let answer = call!(waiter, "CACHE.FETCH", "key", "LEASE", 60_000, "WAIT", 300);
        assert!(fetched(&answer).is_miss(), "{answer:?}");
        wait_for_waiters(client, 0);
        assert_eq!(info(client, "blocked_clients"), 0);
        assert!(set_leased(client, "key", "v", token, &[]));
        assert!(fetch(&mut waiter, "key").is_hit("v"), "it goes on as usual");
    });
}

#[test]
fn fetch_does_not_wait_if_no_other_caller_loads() {
    on_both_protocols(|server, client| {
        // No caller loads it: with LEASE this caller loads, and without it nothing would ever end the wait.
        let free = fetched(&call!(client, "CACHE.FETCH", "free", "WAIT", 600_000));
        assert!(free.is_miss(), "{free:?}");
        let own = fetched(&run!(client, "CACHE.FETCH own LEASE 60000 WAIT 600000"));
        assert!(own.is_miss_with_token(), "{own:?}");
        call!(client, "CACHE.SET", "there", "v");
        let hit = fetched(&run!(client, "CACHE.FETCH there LEASE 60000 WAIT 600000"));
        assert!(hit.is_hit("v"));
        assert_eq!(waiters(&mut server.raw()), 0);
    });
}

#[test]
fn a_waiter_without_the_lease_option_never_gets_a_lease() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let wait = |ms: i32| {
            let mut waiter = server.raw();
            send!(waiter, "CACHE.FETCH", "key", "WAIT", ms);
            waiter
        };
        let mut short = wait(200);
        assert!(fetched(&short.read()).is_miss());
        let mut long = wait(600_000);
        let mut other = wait(600_000);
        wait_for_waiters(client, 2);
        assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(1));
        // No caller loads any more: the contract permits to wait on or to give up, but no token.
        assert_eq!(call!(client, "CACHE.SET", "key", "v"), Reply::ok());
        for waiter in [&mut long, &mut other] {
            let answer = fetched(&waiter.read());
            assert!(answer.is_hit("v") || answer.is_miss(), "{answer:?}");
        }
        assert_eq!(stat(client, "leases"), 0);
        let token = lease(client, "second");
        let mut waiter = server.raw();
        send!(waiter, "CACHE.FETCH", "second", "WAIT", 600_000);
        wait_for_waiters(client, 1);
        assert!(set_leased(client, "second", "v", token, &[]));
        assert!(fetched(&waiter.read()).is_hit("v"));
    });
}

#[test]
fn a_refused_set_passes_the_lease_to_a_waiter() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let mut waiter = Waiter::start(server, "key", 600_000);
        call!(client, "CACHE.INVALIDATE", "a");
        assert!(!set_leased(client, "key", "old", token, &["a"]));
        let answer = waiter.answer();
        assert!(
            answer.is_miss_with_token(),
            "the waiter is to load what is true now: {answer:?}"
        );
        assert!(set_leased(client, "key", "new", answer.token, &["a"]));
        assert!(fetch(client, "key").is_hit("new"));
    });
}

#[test]
fn a_transaction_a_script_and_a_function_do_not_wait() {
    on_both_protocols(|server, client| {
        lease(client, "key");
        let mut other = server.raw();
        let fetch = args!["CACHE.FETCH", "key", "LEASE", 60_000, "WAIT", 600_000];
        call!(other, "MULTI");
        other.call(&fetch);
        assert!(fetched(&call!(other, "EXEC").items()[0]).is_miss());
        let script = "return redis.call('CACHE.FETCH', KEYS[1], 'LEASE', 60000, 'WAIT', 600000)";
        assert!(fetched(&call!(other, "EVAL", script, 1, "key")).is_miss());
        let function = "#!lua name=waits\nredis.register_function('waits', function(keys, args) \
                        return redis.call('CACHE.FETCH', keys[1], 'LEASE', 60000, 'WAIT', 600000)[4] end)";
        assert!(!call!(other, "FUNCTION", "LOAD", function).is_error());
        assert_eq!(call!(other, "FCALL", "waits", 1, "key"), Reply::Int(0));
        assert_eq!(waiters(client), 0);
    });
}

#[test]
fn a_transaction_and_a_script_may_take_the_lease() {
    on_both_protocols(|server, client| {
        let mut other = server.raw();
        call!(client, "MULTI");
        call!(client, "CACHE.FETCH", "key", "LEASE", 60_000);
        let exec = call!(client, "EXEC");
        let held = fetched(&exec.items()[0]);
        assert!(held.is_miss_with_token(), "{held:?}");
        let mut waiter = Waiter::start(server, "key", 600_000);
        assert!(set_leased(&mut other, "key", "v", held.token, &[]));
        assert!(waiter.answer().is_hit("v"));
        let script = "return redis.call('CACHE.FETCH', KEYS[1], 'LEASE', 60000)[4]";
        let token = call!(client, "EVAL", script, 1, "scripted").int();
        assert!(token > 0);
        assert!(set_leased(&mut other, "scripted", "v", token, &[]));
    });
}

#[test]
fn commands_pipelined_after_a_waiting_fetch_run_after_it() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let mut other = server.raw();
        send!(
            other,
            "CACHE.FETCH",
            "key",
            "LEASE",
            60_000,
            "WAIT",
            600_000
        );
        send!(other, "CACHE.GET", "key");
        send!(other, "PING");
        wait_for_waiters(client, 1);
        assert!(set_leased(client, "key", "v", token, &[]));
        assert!(fetched(&other.read()).is_hit("v"));
        assert_eq!(other.read(), Reply::bulk("v"));
        assert_eq!(other.read(), Reply::Simple("PONG".to_owned()));
    });
}

#[test]
fn a_waiter_gets_a_reply_if_the_value_is_dropped_at_once() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let mut waiter = Waiter::start(server, "key", 600_000);
        // One transaction: no caller can be served between its commands.
        call!(client, "MULTI");
        run!(client, "CACHE.SET key old LEASE {token} TAGS 1 a");
        call!(client, "CACHE.INVALIDATE", "a");
        let replies = call!(client, "EXEC");
        assert_eq!(replies.items(), [Reply::ok(), Reply::Int(1)]);
        // Each reply contains a state that was true at some moment since the request. The point is that there is a
        // reply, and that nothing old is left behind.
        let answer = waiter.answer();
        assert!(answer.is_hit("old") || answer.value.is_none(), "{answer:?}");
        assert!(fetch(client, "key").value.is_none());
    });
}
