//! The panic barrier, proved by a build that panics on demand.

use std::io::Write;

use tagcache_tests::fetch::{Waiter, fetched, lease, set_leased};
use tagcache_tests::look::stat;
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, call, for_all_engines, panic_module_path, send,
    wait_until,
};

/// Runs the test with the module that panics on demand, or says loudly that it did not.
fn with_panicking_module(test: impl Fn(&mut Server, &mut RawClient)) {
    let Some(module) = panic_module_path() else {
        // Straight to standard error: the test runner swallows what a passing test prints.
        let notice =
            "\n!!! TAGCACHE_MODULE_PANIC is not set: a test of the panic barrier was SKIPPED !!!\n";
        let _ = std::io::stderr().write_all(notice.as_bytes());
        return;
    };
    for_all_engines(|engine: &Engine| {
        let mut server = Server::builder()
            .engine(engine)
            .module(&module)
            .expect_complaints()
            .start();
        let mut client = server.raw();
        call!(client, "CACHE.SET", "kept", "value", "TAGS", 1, "kept");
        call!(client, "SET", "string", "value");
        test(&mut server, &mut client);
        still_serves(&mut server, &mut client);
    });
}

fn still_serves(server: &mut Server, client: &mut RawClient) {
    assert_eq!(call!(client, "PING"), Reply::Simple("PONG".to_owned()));
    assert!(server.is_alive());
    assert_eq!(call!(client, "GET", "string"), Reply::bulk("value"));
    assert_eq!(call!(client, "CACHE.GET", "kept"), Reply::bulk("value"));
    assert_eq!(
        call!(client, "CACHE.SET", "new", "value", "TAGS", 1, "new"),
        Reply::ok()
    );
    assert_eq!(call!(client, "CACHE.INVALIDATE", "new"), Reply::Int(1));
    assert!(call!(client, "CACHE.GET", "new").is_null());
    assert!(!call!(client, "CACHE.STATS").is_error());
}

fn logged(server: &Server) {
    wait_until("the panic stands in the log", DEADLINE, || {
        server.log().to_lowercase().contains("panic")
    });
}

#[test]
fn a_panic_in_a_command_is_answered_with_an_error() {
    with_panicking_module(|server, client| {
        for _ in 0..3 {
            let reply = call!(client, "CACHE.PANIC", "command");
            assert!(
                reply
                    .error()
                    .is_some_and(|e| e.starts_with("ERR internal error")),
                "{reply:?}"
            );
        }
        logged(server);
    });
}

#[test]
fn a_panic_in_a_command_inside_a_transaction_or_script_is_answered_there() {
    with_panicking_module(|server, client| {
        call!(client, "MULTI");
        call!(client, "CACHE.PANIC", "command");
        call!(client, "CACHE.SET", "after", "v");
        let replies = call!(client, "EXEC");
        assert!(replies.items()[0].is_error());
        assert_eq!(replies.items()[1], Reply::ok());
        let script = "return redis.pcall('CACHE.PANIC', 'command').err";
        let error = call!(client, "EVAL", script, 0).text();
        assert!(error.contains("internal error"), "{error}");
        logged(server);
    });
}

#[test]
fn a_panic_while_a_value_is_unlinked_does_not_keep_the_key() {
    with_panicking_module(|server, client| {
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        assert_eq!(call!(client, "CACHE.PANIC", "unlink"), Reply::ok());
        assert_eq!(call!(client, "DEL", "key"), Reply::Int(1));
        logged(server);
        assert!(call!(client, "CACHE.GET", "key").is_null());
        assert!(!call!(client, "CACHE.INVALIDATE", "a").is_error());
        call!(client, "CACHE.SET", "key", "again", "TAGS", 1, "a");
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("again"));
    });
}

#[test]
fn a_panic_in_the_reclaiming_timer_does_not_end_reclaiming() {
    with_panicking_module(|server, client| {
        for n in 0..5000 {
            call!(client, "CACHE.SET", n, "v", "TAGS", 1, "a");
        }
        assert_eq!(call!(client, "CACHE.PANIC", "timer"), Reply::ok());
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(5000));
        logged(server);
        wait_until("the backlog is reclaimed after the panic", DEADLINE, || {
            stat(client, "reclaim_backlog") == 0
        });
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(2));
    });
}

#[test]
fn a_panic_in_an_event_handler_is_survived() {
    with_panicking_module(|server, client| {
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        assert_eq!(call!(client, "CACHE.PANIC", "event"), Reply::ok());
        call!(client, "RENAME", "key", "other");
        call!(client, "COPY", "other", "third");
        logged(server);
        // Whatever the index missed, no read may fail and a removal removes.
        call!(client, "CACHE.GET", "other");
        call!(client, "DEL", "key", "other", "third");
        assert!(call!(client, "CACHE.GET", "other").is_null());
        assert!(!call!(client, "CACHE.INVALIDATE", "a").is_error());
    });
}

#[test]
fn a_panic_while_saving_is_survived() {
    with_panicking_module(|server, client| {
        assert_eq!(call!(client, "CACHE.PANIC", "save"), Reply::ok());
        call!(client, "DUMP", "kept");
        logged(server);
        let payload = call!(client, "DUMP", "kept");
        assert_eq!(
            call!(client, "RESTORE", "copy", 0, payload.bytes()),
            Reply::ok()
        );
        assert_eq!(call!(client, "CACHE.GET", "copy"), Reply::bulk("value"));
    });
}

#[test]
fn a_panic_while_loading_is_answered_with_an_error() {
    with_panicking_module(|server, client| {
        let payload = call!(client, "DUMP", "kept").bytes().to_vec();
        assert_eq!(call!(client, "CACHE.PANIC", "load"), Reply::ok());
        assert!(call!(client, "RESTORE", "copy", 0, payload).is_error());
        logged(server);
        assert_eq!(call!(client, "EXISTS", "copy"), Reply::Int(0));
        assert_eq!(call!(client, "RESTORE", "copy", 0, payload), Reply::ok());
        assert_eq!(call!(client, "CACHE.GET", "copy"), Reply::bulk("value"));
    });
}

#[test]
fn a_panic_while_a_digest_is_made_is_survived() {
    with_panicking_module(|server, client| {
        let before = call!(client, "DEBUG", "DIGEST");
        assert_eq!(call!(client, "CACHE.PANIC", "digest"), Reply::ok());
        call!(client, "DEBUG", "DIGEST-VALUE", "kept");
        logged(server);
        assert_eq!(call!(client, "DEBUG", "DIGEST"), before);
    });
}

#[test]
fn a_panic_while_a_waiter_is_served_answers_it() {
    with_panicking_module(|server, client| {
        lease(client, "key");
        let mut unlucky = Waiter::start(server, "key", 600_000);
        let mut next = Waiter::start(server, "key", 600_000);
        assert_eq!(call!(client, "CACHE.PANIC", "wait"), Reply::ok());
        call!(client, "CACHE.SET", "key", "v");
        let reply = unlucky.reply();
        let error = reply.error().unwrap_or_else(|| panic!("{reply:?}"));
        assert!(error.starts_with("ERR internal error"), "{error}");
        assert!(next.answer().is_hit("v"));
        logged(server);
        let mut client = unlucky.into_client();
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
        assert_eq!(stat(&mut client, "lease_waiters"), 0);
    });
}

#[test]
fn a_panic_while_a_wait_ends_answers_it() {
    with_panicking_module(|server, client| {
        let token = lease(client, "key");
        let mut unlucky = Waiter::start(server, "key", 600_000);
        let mut next = Waiter::start(server, "key", 600_000);
        assert_eq!(call!(client, "CACHE.PANIC", "wait"), Reply::ok());
        assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(1));
        let reply = unlucky.reply();
        let error = reply.error().unwrap_or_else(|| panic!("{reply:?}"));
        assert!(error.starts_with("ERR internal error"), "{error}");
        // The lease that it was given ends with its connection.
        drop(unlucky);
        assert!(next.answer().is_miss_with_token());
        logged(server);
    });
}

#[test]
fn a_panic_in_the_timer_of_leases_leaves_nobody_waiting() {
    with_panicking_module(|server, client| {
        let ms = 500;
        assert!(call!(client, "CACHE.FETCH", "key", "LEASE", ms).items()[3].int() > 0);
        let mut waiters = [
            Waiter::start(server, "key", 600_000),
            Waiter::start(server, "key", 600_000),
        ];
        assert_eq!(call!(client, "CACHE.PANIC", "wait"), Reply::ok());
        for waiter in &mut waiters {
            assert!(waiter.answer().value.is_none());
        }
        logged(server);
        let token = lease(client, "other");
        let mut waiter = Waiter::start(server, "other", 600_000);
        call!(client, "CACHE.RELEASE", "other", token);
        assert!(
            waiter.answer().is_miss_with_token(),
            "the next ones are served"
        );
    });
}

#[test]
fn a_panic_in_fetch_keeps_no_lease_and_no_place_in_line() {
    with_panicking_module(|server, client| {
        // The one that was granted the lease.
        assert_eq!(call!(client, "CACHE.PANIC", "fetch"), Reply::ok());
        let reply = call!(client, "CACHE.FETCH", "key", "LEASE", 60_000);
        assert!(reply.is_error(), "{reply:?}");
        assert_eq!(stat(client, "leases"), 0);
        let token = lease(client, "key");
        // The one that was about to wait.
        let mut caller = server.raw();
        for place in ["fetch", "wait"] {
            assert_eq!(call!(client, "CACHE.PANIC", place), Reply::ok());
            send!(
                caller,
                "CACHE.FETCH",
                "key",
                "LEASE",
                60_000,
                "WAIT",
                600_000
            );
            assert!(caller.read().is_error(), "{place}");
            assert_eq!(stat(client, "lease_waiters"), 0, "{place}");
        }
        let mut waiter = Waiter::start(server, "key", 600_000);
        call!(client, "CACHE.RELEASE", "key", token);
        let next = waiter.answer();
        assert!(next.is_miss_with_token(), "{next:?}");
        assert!(set_leased(client, "key", "v", next.token, &[]));
        let hit = call!(caller, "CACHE.FETCH", "key");
        assert!(fetched(&hit).is_hit("v"), "its connection is in step");
        logged(server);
    });
}
