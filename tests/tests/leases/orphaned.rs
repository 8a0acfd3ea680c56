//! A lease whose connection closes runs out soon, however the connection got the lease and however it closed.

use tagcache_tests::fetch::{Waiter, fetch_lease, fetched, lease, set_leased, wait_for_waiters};
use tagcache_tests::look::stat;
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Server, args, call, on_both_protocols, send, wait_until,
};

fn orphan_ms(client: &mut RawClient, ms: u64) {
    let set = call!(client, "CONFIG", "SET", "tagcache.lease-orphan-ms", ms);
    assert_eq!(set, Reply::ok());
}

fn id(client: &mut RawClient) -> i64 {
    call!(client, "CLIENT", "ID").int()
}

#[test]
fn a_lease_runs_out_soon_after_its_connection_closes() {
    on_both_protocols(|server, client| {
        let longest = call!(client, "CONFIG", "SET", "tagcache.lease-max-ms", 600_000);
        assert_eq!(longest, Reply::ok());
        for way in ["close by default", "close", "kill", "quit"] {
            if way == "close" {
                orphan_ms(client, 50);
            }
            let mut holder = server.raw();
            let token = fetch_lease(&mut holder, "key", 600_000).token;
            fetch_lease(&mut holder, "second", 600_000);
            let mut waiter = Waiter::start(server, "key", 600_000);
            let holder_id = id(&mut holder);
            match way {
                "kill" => drop(call!(client, "CLIENT", "KILL", "ID", holder_id)),
                "quit" => drop(call!(holder, "QUIT")),
                _ => {}
            }
            drop(holder);
            // Long before the ten minutes that the caller requested.
            let next = waiter.answer();
            assert!(
                next.is_miss_with_token() && next.token != token,
                "{way}: {next:?}"
            );
            wait_until("the second one runs out", DEADLINE, || {
                stat(client, "leases") == 1
            });
            assert!(set_leased(client, "key", "v", next.token, &[]), "{way}");
            call!(client, "CACHE.DEL", "key");
        }
    });
}

#[test]
fn thousands_of_leases_of_one_connection_run_out_in_slices() {
    on_both_protocols(|server, client| {
        const LEASES: usize = 20_000;
        let budget = call!(client, "CONFIG", "SET", "tagcache.reclaim-budget-us", 50);
        assert_eq!(budget, Reply::ok());
        let mut holder = server.raw();
        let fetches = (0..LEASES).map(|n| args!["CACHE.FETCH", format!("key{n}"), "LEASE", 60_000]);
        holder.pipeline(&fetches.collect::<Vec<_>>());
        assert_eq!(stat(client, "leases"), LEASES as i64);
        orphan_ms(client, 0);
        drop(holder);
        wait_until("all run out", DEADLINE, || stat(client, "leases") == 0);
    });
}

#[test]
fn leases_of_open_connections_stay_valid() {
    on_both_protocols(|server, client| {
        orphan_ms(client, 0);
        let token = lease(client, "key");
        let mut other = server.raw();
        lease(&mut other, "other");
        drop(other);
        wait_until("that of the closed connection is over", DEADLINE, || {
            stat(client, "leases") == 1
        });
        assert!(fetch_lease(client, "key", 5).is_miss(), "this one is held");
        assert!(set_leased(client, "key", "v", token, &[]));
    });
}

#[test]
fn a_lease_may_be_used_after_its_connection_closed() {
    on_both_protocols(|server, client| {
        orphan_ms(client, 0);
        let mut other = server.raw();
        let token = lease(&mut other, "key");
        drop(other);
        wait_until("it has run out", DEADLINE, || stat(client, "leases") == 0);
        // The lease has run out, but was not taken over.
        assert!(set_leased(client, "key", "v", token, &[]));
    });
}

#[test]
fn a_lease_belongs_to_the_connection_of_the_last_request() {
    on_both_protocols(|server, client| {
        orphan_ms(client, 0);
        let ask = |client: &mut RawClient| {
            let fetch = call!(client, "CACHE.FETCH", "key", "LEASE", 60_000, "TOKEN", 9);
            assert_eq!(fetched(&fetch).token, 9);
        };
        let (mut first, mut second) = (server.raw(), server.raw());
        ask(&mut first);
        ask(&mut second);
        lease(&mut first, "witness");
        drop(first);
        wait_until("the first connection is gone", DEADLINE, || {
            stat(client, "leases") == 1
        });
        assert!(
            fetch_lease(client, "key", 5).is_miss(),
            "it is the second's"
        );
        drop(second);
        wait_until("it runs out with the second", DEADLINE, || {
            stat(client, "leases") == 0
        });
    });
}

#[test]
fn a_waiter_that_got_the_lease_and_closes_passes_it_on() {
    on_both_protocols(|server, client| {
        orphan_ms(client, 50);
        let token = lease(client, "key");
        let mut given = Waiter::start(server, "key", 600_000);
        let mut next = Waiter::start(server, "key", 600_000);
        assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(1));
        assert!(given.answer().is_miss_with_token());
        drop(given);
        assert!(next.answer().is_miss_with_token());
    });
}

/// Waiters are killed in the same transaction that gives the lease to one of them.
#[test]
fn a_waiter_killed_while_blocked_never_keeps_the_lease() {
    on_both_protocols(|server, client| {
        orphan_ms(client, 0);
        for release_first in [true, false] {
            let token = lease(client, "key");
            let mut killed = server.raw();
            let killed_id = id(&mut killed);
            let killed = Waiter::start_on(server, killed, "key", 600_000);
            let mut next = Waiter::start(server, "key", 600_000);
            let release = ["CACHE.RELEASE".into(), "key".into(), token.to_string()];
            let kill = [
                "CLIENT".into(),
                "KILL".into(),
                "ID".into(),
                killed_id.to_string(),
            ];
            call!(client, "MULTI");
            if release_first {
                client.call(&release);
                client.call(&kill);
            } else {
                client.call(&kill);
                client.call(&release);
            }
            call!(client, "EXEC");
            let answer = next.answer();
            assert!(answer.is_miss_with_token(), "{release_first}: {answer:?}");
            assert!(set_leased(client, "key", "v", answer.token, &[]));
            drop(killed);
            call!(client, "CACHE.DEL", "key");
            wait_for_waiters(client, 0);
        }
    });
}

#[test]
fn a_lease_of_a_script_belongs_to_no_connection() {
    on_both_protocols(|server: &Server, client| {
        orphan_ms(client, 0);
        let mut caller = server.raw();
        let script = "return redis.call('CACHE.FETCH', KEYS[1], 'LEASE', '60000')[4]";
        let token = call!(caller, "EVAL", script, 1, "key").int();
        assert!(token > 0);
        lease(&mut caller, "witness");
        drop(caller);
        wait_until("the connection is gone", DEADLINE, || {
            stat(client, "leases") == 1
        });
        assert!(set_leased(client, "key", "v", token, &[]));
    });
}

#[test]
fn many_connections_that_close_leave_no_lease() {
    on_both_protocols(|server, client| {
        orphan_ms(client, 0);
        for _ in 0..3 {
            let mut callers: Vec<_> = (0..50).map(|_| server.raw()).collect();
            for (n, caller) in callers.iter_mut().enumerate() {
                for key in 0..5 {
                    send!(caller, "CACHE.FETCH", format!("{n} {key}"), "LEASE", 60_000);
                }
            }
            wait_until("they are granted", DEADLINE, || {
                stat(client, "leases") == 250
            });
            drop(callers);
            wait_until("all are over", DEADLINE, || stat(client, "leases") == 0);
            call!(client, "CACHE.FLUSH");
        }
    });
}
