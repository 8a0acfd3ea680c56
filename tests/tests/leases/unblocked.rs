//! A waiter that leaves, is killed, paused or unblocked does not affect the others.

use tagcache_tests::fetch::{Waiter, fetched, lease, set_leased, wait_for_waiters};
use tagcache_tests::look::{info, stat};
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Server, call, for_each_engine, on_both_protocols, send, wait_until,
};

/// A connection and its id.
fn with_id(server: &Server) -> (RawClient, i64) {
    let mut client = server.raw();
    let id = call!(client, "CLIENT", "ID").int();
    (client, id)
}

#[test]
fn a_waiter_that_disconnects_is_forgotten() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let gone = Waiter::start(server, "key", 600_000);
        let mut stays = Waiter::start(server, "key", 600_000);
        let also_gone = Waiter::start(server, "key", 600_000);
        drop((gone, also_gone));
        wait_for_waiters(client, 1);
        // Above all, the lease does not pass to a disconnected client.
        assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(1));
        let next = stays.answer();
        assert!(next.is_miss_with_token(), "{next:?}");
        assert!(set_leased(client, "key", "v", next.token, &[]));
        assert_eq!(stat(client, "leases"), 0);
    });
}

#[test]
fn the_last_waiter_that_disconnects_leaves_the_lease_free() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        drop(Waiter::start(server, "key", 600_000));
        wait_for_waiters(client, 0);
        assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(1));
        assert_eq!(stat(client, "leases"), 0);
        lease(client, "key");
    });
}

#[test]
fn a_waiter_that_is_killed_is_forgotten() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let (killed, id) = with_id(server);
        let killed = Waiter::start_on(server, killed, "key", 600_000);
        let mut stays = Waiter::start(server, "key", 600_000);
        assert_eq!(call!(client, "CLIENT", "KILL", "ID", id), Reply::Int(1));
        wait_for_waiters(client, 1);
        assert!(set_leased(client, "key", "v", token, &[]));
        assert!(stays.answer().is_hit("v"));
        assert!(
            killed.into_client().try_read().is_err(),
            "its connection is closed"
        );
    });
}

#[test]
fn client_unblock_ends_a_wait_like_its_timeout() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let (waiting, id) = with_id(server);
        let mut waiting = Waiter::start_on(server, waiting, "key", 600_000);
        let unblocked = call!(client, "CLIENT", "UNBLOCK", id, "TIMEOUT");
        assert_eq!(unblocked, Reply::Int(1));
        assert!(waiting.answer().is_miss());
        wait_for_waiters(client, 0);
        assert!(set_leased(client, "key", "v", token, &[]));
        let mut client = waiting.into_client();
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
    });
}

#[test]
fn client_unblock_error_ends_a_wait_with_an_error() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let (waiting, id) = with_id(server);
        let mut waiting = Waiter::start_on(server, waiting, "key", 600_000);
        let mut stays = Waiter::start(server, "key", 600_000);
        let unblocked = call!(client, "CLIENT", "UNBLOCK", id, "ERROR");
        assert_eq!(unblocked, Reply::Int(1));
        let reply = waiting.reply();
        let error = reply.error().unwrap_or_else(|| panic!("{reply:?}"));
        assert!(error.starts_with("UNBLOCKED "), "{error}");
        wait_for_waiters(client, 1);
        assert!(set_leased(client, "key", "v", token, &[]));
        assert!(stays.answer().is_hit("v"));
        let mut client = waiting.into_client();
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
    });
}

#[test]
fn waiters_are_served_after_a_pause_of_writes_or_all_commands() {
    on_both_protocols(|server, client| {
        for mode in ["WRITE", "ALL"] {
            let token = lease(client, "key");
            let mut waiter = Waiter::start(server, "key", 600_000);
            let mut setter = server.raw();
            let paused = call!(client, "CLIENT", "PAUSE", 300, mode);
            assert_eq!(paused, Reply::ok());
            let reply = call!(setter, "CACHE.SET", "key", "v", "LEASE", token);
            assert_eq!(reply, Reply::ok(), "{mode}");
            assert!(waiter.answer().is_hit("v"), "{mode}");
            call!(client, "CACHE.DEL", "key");
        }
    });
}

#[test]
fn timeouts_and_lease_ends_during_a_pause_take_effect_after_it() {
    on_both_protocols(|server, client| {
        for mode in ["WRITE", "ALL"] {
            let token = lease(client, "key");
            let mut long = Waiter::start(server, "key", 600_000);
            let mut short = server.raw();
            call!(client, "CACHE.FETCH", "key", "LEASE", 400, "TOKEN", token);
            let misses = stat(client, "misses");
            send!(short, "CACHE.FETCH", "key", "LEASE", 60_000, "WAIT", 200);
            // Redis 8.0 and Valkey 8.0 and 8.1 lose the time-out of a command that waited for the end of a pause, also
            // that of BLPOP.
            wait_until("it waits, or has waited", DEADLINE, || {
                stat(client, "lease_waiters") == 2 || stat(client, "misses") > misses
            });
            assert_eq!(call!(client, "CLIENT", "PAUSE", 700, mode), Reply::ok());
            let answer = fetched(&short.read());
            assert!(
                answer.is_miss() || answer.is_miss_with_token(),
                "{mode}: {answer:?}"
            );
            let answer = if answer.token > 0 {
                call!(client, "CACHE.RELEASE", "key", answer.token);
                long.answer()
            } else {
                long.answer()
            };
            assert!(answer.is_miss_with_token(), "{mode}: {answer:?}");
            call!(client, "CACHE.DEL", "key");
            assert_eq!(stat(client, "lease_waiters"), 0);
        }
    });
}

#[test]
fn hundreds_of_disconnected_waiters_leave_nothing_behind() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        for _ in 0..5 {
            let mut callers: Vec<_> = (0..60).map(|_| server.raw()).collect();
            for caller in &mut callers {
                let fetch = ["CACHE.FETCH", "key", "LEASE", "1000", "WAIT", "600000"];
                caller.send(&fetch);
            }
            wait_for_waiters(client, 60);
            drop(callers);
            wait_for_waiters(client, 0);
        }
        assert_eq!(info(client, "blocked_clients"), 0);
        assert!(set_leased(client, "key", "v", token, &[]));
        let hit = call!(client, "CACHE.FETCH", "key", "LEASE", 5, "WAIT", 5);
        assert!(fetched(&hit).is_hit("v"));
    });
}

#[test]
fn a_server_with_waiters_shuts_down_and_starts_again() {
    for_each_engine(|engine| {
        let mut server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let token = lease(&mut client, "key");
        let waiters: Vec<_> = (0..20)
            .map(|_| Waiter::start(&server, "key", 600_000))
            .collect();
        server.stop();
        for waiter in waiters {
            assert!(waiter.into_client().try_read().is_err());
        }
        server.restart();
        let mut client = server.raw();
        assert_eq!(stat(&mut client, "lease_waiters"), 0);
        assert!(!set_leased(&mut client, "key", "old", token, &[]));
    });
}

#[test]
fn a_waiter_whose_user_is_deleted_is_forgotten() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let rules = ["ACL", "SETUSER", "user", "on", "nopass", "allkeys", "+@all"];
        assert_eq!(client.call(&rules), Reply::ok());
        let mut user = server.raw();
        assert_eq!(call!(user, "AUTH", "user", "x"), Reply::ok());
        let gone = Waiter::start_on(server, user, "key", 600_000);
        let mut stays = Waiter::start(server, "key", 600_000);
        assert_eq!(call!(client, "ACL", "DELUSER", "user"), Reply::Int(1));
        wait_for_waiters(client, 1);
        assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(1));
        assert!(stays.answer().is_miss_with_token());
        assert!(gone.into_client().try_read().is_err());
    });
}

#[test]
fn a_waiter_whose_user_loses_its_rights_gets_no_value() {
    on_both_protocols(|server, client| {
        for lost in ["resetkeys", "-cache.fetch"] {
            let token = lease(client, "key");
            let mut waiter = waits_without_rights(server, client, lost);
            assert!(set_leased(client, "key", "v", token, &[]));
            let answer = waiter.answer();
            assert!(answer.is_miss(), "{lost}: {answer:?}");
            call!(client, "CACHE.DEL", "key");

            let token = lease(client, "key");
            let mut waiter = waits_without_rights(server, client, lost);
            let mut next = Waiter::start(server, "key", 600_000);
            assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(1));
            let answer = waiter.answer();
            assert!(answer.is_miss(), "{lost}: {answer:?}");
            assert!(next.answer().is_miss_with_token(), "{lost}");
            call!(client, "CACHE.DEL", "key");
        }
    });
}

/// A caller that waits for `key`, as a user that has lost a right meanwhile.
fn waits_without_rights(server: &Server, client: &mut RawClient, lost: &str) -> Waiter {
    let rules = ["ACL", "SETUSER", "user", "on", "nopass", "allkeys", "+@all"];
    assert_eq!(client.call(&rules), Reply::ok());
    let mut user = server.raw();
    assert_eq!(call!(user, "AUTH", "user", "x"), Reply::ok());
    let waiter = Waiter::start_on(server, user, "key", 600_000);
    assert_eq!(call!(client, "ACL", "SETUSER", "user", lost), Reply::ok());
    waiter
}
