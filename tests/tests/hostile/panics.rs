//! The panic barrier, tested with a build that panics on demand.

use std::io::{ErrorKind, Write};

use tagcache_tests::fetch::{Waiter, fetched, lease, set_leased};
use tagcache_tests::look::{info, info_text, stat, wait_rewritten};
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, call, for_all_engines, panic_module_path, send,
    wait_until,
};

/// Runs the test with the module that panics on demand, or reports loudly that it did not.
pub(crate) fn with_panicking_module(test: impl Fn(&mut Server, &mut RawClient)) {
    let Some(module) = panic_module_path() else {
        // Written to standard error: the test runner hides the output of a passing test.
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

pub(crate) fn logged(server: &Server) {
    wait_until("the panic stands in the log", DEADLINE, || {
        server.log().to_lowercase().contains("panic")
    });
}

#[test]
fn a_panic_in_a_command_returns_an_error() {
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
fn a_panic_in_a_transaction_or_script_returns_an_error() {
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
fn a_panic_during_unlink_does_not_keep_the_key() {
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
fn the_server_survives_a_panic_in_an_event_handler() {
    with_panicking_module(|server, client| {
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        assert_eq!(call!(client, "CACHE.PANIC", "event"), Reply::ok());
        call!(client, "RENAME", "key", "other");
        call!(client, "COPY", "other", "third");
        logged(server);
        // Whatever the index missed, reads must not fail, and a removal removes.
        call!(client, "CACHE.GET", "other");
        call!(client, "DEL", "key", "other", "third");
        assert!(call!(client, "CACHE.GET", "other").is_null());
        assert!(!call!(client, "CACHE.INVALIDATE", "a").is_error());
    });
}

#[test]
fn the_server_survives_a_panic_while_saving_an_entry() {
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

/// Ends the server as a power cut would, and loads the last saved file.
fn restart_from_file(server: &mut Server, client: &mut RawClient) {
    server.kill_9();
    server.restart();
    *client = server.raw();
}

#[test]
fn a_panic_in_a_saving_child_fails_the_save() {
    with_panicking_module(|server, client| {
        assert_eq!(call!(client, "SAVE"), Reply::ok());
        assert_eq!(call!(client, "CACHE.PANIC", "save"), Reply::ok());
        assert!(!call!(client, "BGSAVE").is_error());
        wait_until("the child has ended", DEADLINE, || {
            info(client, "rdb_bgsave_in_progress") == 0
        });
        assert_eq!(info_text(client, "rdb_last_bgsave_status"), "err");
        for preamble in ["yes", "no"] {
            call!(client, "CONFIG", "SET", "aof-use-rdb-preamble", preamble);
            assert!(!call!(client, "BGREWRITEAOF").is_error());
            wait_rewritten(client);
            assert_eq!(info_text(client, "aof_last_bgrewrite_status"), "err");
        }
        // The earlier file is intact.
        restart_from_file(server, client);
    });
}

#[test]
fn a_panic_during_save_leaves_a_loadable_file() {
    with_panicking_module(|server, client| {
        call!(client, "CACHE.PANIC", "save");
        assert_eq!(call!(client, "SAVE"), Reply::ok());
        restart_from_file(server, client);
        assert_eq!(call!(client, "GET", "string"), Reply::bulk("value"));
    });
}

#[test]
fn a_panic_while_loading_a_payload_returns_an_error() {
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
fn the_server_survives_a_panic_in_a_digest() {
    with_panicking_module(|server, client| {
        let before = call!(client, "DEBUG", "DIGEST");
        assert_eq!(call!(client, "CACHE.PANIC", "digest"), Reply::ok());
        call!(client, "DEBUG", "DIGEST-VALUE", "kept");
        logged(server);
        assert_eq!(call!(client, "DEBUG", "DIGEST"), before);
    });
}

#[test]
fn a_panic_while_serving_a_waiter_returns_it_an_error() {
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
fn a_panic_at_the_end_of_a_wait_returns_an_error() {
    with_panicking_module(|server, client| {
        let token = lease(client, "key");
        let mut unlucky = Waiter::start(server, "key", 600_000);
        let mut next = Waiter::start(server, "key", 600_000);
        assert_eq!(call!(client, "CACHE.PANIC", "wait"), Reply::ok());
        assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(1));
        let reply = unlucky.reply();
        let error = reply.error().unwrap_or_else(|| panic!("{reply:?}"));
        assert!(error.starts_with("ERR internal error"), "{error}");
        // The lease that the caller was given passes to the next one.
        assert!(next.answer().is_miss_with_token());
        logged(server);
    });
}

/// Sends a command and reads its reply: whether it ends with the connection.
fn is_closed(client: &mut RawClient, command: &[&str]) -> bool {
    client.send(command);
    read_to_end(client)
}

fn read_to_end(client: &mut RawClient) -> bool {
    client.set_read_timeout(DEADLINE);
    loop {
        if let Err(error) = client.try_read() {
            let ends = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
            return ends.contains(&error.kind());
        }
    }
}

#[test]
fn a_panic_in_the_middle_of_a_reply_closes_that_connection() {
    with_panicking_module(|server, client| {
        for command in [
            &["CACHE.MGET", "kept", "none"][..],
            &["CACHE.FETCH", "kept"],
            &["CACHE.INSPECT", "kept"],
            &["CACHE.STATS"],
        ] {
            let mut other = server.raw();
            assert_eq!(call!(client, "CACHE.PANIC", "reply"), Reply::ok());
            assert!(is_closed(&mut other, command), "{command:?}");
        }
        let mut other = server.raw();
        assert_eq!(call!(client, "CACHE.PANIC", "reply"), Reply::ok());
        call!(other, "MULTI");
        call!(other, "CACHE.MGET", "kept");
        call!(other, "SET", "string", "value");
        assert!(is_closed(&mut other, &["EXEC"]));
        logged(server);
    });
}

#[test]
fn a_panic_in_the_lease_timer_leaves_no_client_waiting() {
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
fn a_panic_within_a_reply_to_a_script_lets_the_script_continue() {
    with_panicking_module(|server, client| {
        for script in [
            "redis.pcall('CACHE.MGET', 'kept', 'none', 'kept') return 3",
            "redis.pcall('CACHE.FETCH', 'kept') return 3",
            "redis.pcall('CACHE.STATS') return 3",
        ] {
            assert_eq!(call!(client, "CACHE.PANIC", "reply"), Reply::ok());
            let reply = call!(client, "EVAL", script, 0);
            assert_eq!(reply, Reply::Int(3));
            assert_eq!(call!(client, "PING"), Reply::Simple("PONG".to_owned()));
        }
        logged(server);
    });
}

#[test]
fn a_panic_in_the_reply_to_a_waiter_closes_its_connection() {
    with_panicking_module(|server, client| {
        assert!(!call!(client, "CACHE.FETCH", "new", "LEASE", 60_000).is_error());
        let mut waiter = server.raw();
        waiter.send(&["CACHE.FETCH", "new", "WAIT", "60000"]);
        wait_until("the client waits", DEADLINE, || {
            stat(client, "lease_waiters") == 1
        });
        let replies = client.pipeline(&[
            vec!["CACHE.PANIC", "reply"],
            vec!["CACHE.SET", "new", "value", "TAGS", "1", "new"],
        ]);
        assert_eq!(replies, [Reply::ok(), Reply::ok()]);
        assert!(read_to_end(&mut waiter));
        logged(server);
        assert_eq!(stat(client, "lease_waiters"), 0);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "new"), Reply::Int(1));
    });
}

#[test]
fn a_panic_in_a_slice_returns_an_error_to_its_caller() {
    with_panicking_module(|server, client| {
        for n in 0..20_000 {
            client.send(&["CACHE.SET", "many", "v", "TAGS", "1", &format!("tag{n}")]);
            client.send(&[
                "CACHE.SET",
                &format!("key{n}"),
                "v",
                "TAGS",
                "1",
                &format!("tag{n}"),
            ]);
            client.read();
            client.read();
        }
        call!(client, "CONFIG", "SET", "tagcache.reclaim-budget-us", 50);
        assert_eq!(call!(client, "CACHE.PANIC", "slice"), Reply::ok());
        let error = call!(client, "CACHE.TAGTOP");
        assert!(
            error
                .error()
                .is_some_and(|e| e.starts_with("ERR internal error")),
            "{error:?}"
        );
        logged(server);
        assert_eq!(call!(client, "CACHE.TAGTOP", "LIMIT", 5).items().len(), 5);
        call!(client, "CACHE.DEL", "many");
    });
}

#[test]
fn a_panic_in_fetch_leaves_no_lease_and_no_waiter() {
    with_panicking_module(|server, client| {
        // The command that was granted the lease.
        assert_eq!(call!(client, "CACHE.PANIC", "fetch"), Reply::ok());
        let reply = call!(client, "CACHE.FETCH", "key", "LEASE", 60_000);
        assert!(reply.is_error(), "{reply:?}");
        assert_eq!(stat(client, "leases"), 0);
        let token = lease(client, "key");
        // The command that was about to wait.
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

/// The primary does not send the invalidation again.
#[test]
fn a_replica_serves_no_entry_whose_invalidation_panicked() {
    with_panicking_module(|primary, client| {
        let mut replica = Server::builder()
            .engine(primary.engine())
            .module(panic_module_path().expect("the primary has it"))
            .replica_of(primary)
            .expect_complaints()
            .start();
        let mut reader = replica.raw();
        call!(client, "CACHE.SET", "key", "old", "TAGS", 1, "tag");
        wait_synchronised(primary, &replica);
        assert_eq!(call!(reader, "CACHE.GET", "key"), Reply::bulk("old"));
        call!(
            reader,
            "CONFIG",
            "SET",
            "propagation-error-behavior",
            "ignore"
        );
        call!(reader, "CACHE.PANIC", "next-command");
        assert_eq!(call!(client, "CACHE.INVALIDATE", "tag"), Reply::Int(1));
        wait_synchronised(primary, &replica);
        logged(&replica);
        assert!(call!(reader, "CACHE.GET", "key").is_null());
        assert_eq!(call!(reader, "GET", "string"), Reply::bulk("value"));
        call!(client, "CACHE.SET", "key", "new");
        wait_synchronised(primary, &replica);
        assert_eq!(call!(reader, "CACHE.GET", "key"), Reply::bulk("new"));
        assert!(replica.is_alive());
    });
}

#[test]
fn a_panic_in_the_filter_lets_the_command_through() {
    with_panicking_module(|server, client| {
        call!(client, "CONFIG", "SET", "tagcache.reclaim-inline", 0);
        for n in 0..200 {
            call!(client, "CACHE.SET", n, "v", "TAGS", 1, "a");
        }
        let replies = client.pipeline(&[
            vec!["CACHE.INVALIDATE", "a"],
            vec!["CACHE.PANIC", "filter"],
            vec!["GET", "string"],
            vec!["HGET", "100", "field"],
        ]);
        assert_eq!(replies[0], Reply::Int(200));
        assert_eq!(replies[2], Reply::bulk("value"));
        assert!(replies[3].is_null(), "{replies:?}");
        logged(server);
        wait_until("the backlog is reclaimed", DEADLINE, || {
            stat(client, "reclaim_backlog") == 0
        });
    });
}

#[test]
fn the_server_survives_a_panic_in_a_setting_callback() {
    with_panicking_module(|server, client| {
        for command in [
            &["CONFIG", "GET", "tagcache.top-keys"][..],
            &["CONFIG", "SET", "tagcache.top-keys", "7"],
        ] {
            assert_eq!(call!(client, "CACHE.PANIC", "config"), Reply::ok());
            client.call(command);
        }
        logged(server);
        assert_eq!(
            call!(client, "CONFIG", "SET", "tagcache.top-keys", 7),
            Reply::ok()
        );
        let value = call!(client, "CONFIG", "GET", "tagcache.top-keys");
        assert_eq!(value.field("tagcache.top-keys").text(), "7");
    });
}

#[test]
fn keys_lost_by_the_index_take_no_memory() {
    const KEYS: usize = 1_000;
    const NAME_BYTES: usize = 1_000;
    with_panicking_module(|_, client| {
        let before = info(client, "used_memory");
        for n in 0..KEYS {
            call!(client, "CACHE.SET", format!("{n:0NAME_BYTES$}"), "v");
        }
        call!(client, "CACHE.PANIC", "change");
        assert!(call!(client, "CACHE.SET", "lost", "v").is_error());
        wait_until("what the index does not know is removed", DEADLINE, || {
            call!(client, "DBSIZE") == Reply::Int(1)
        });
        let kept = info(client, "used_memory") - before;
        assert!(kept < (KEYS * NAME_BYTES / 2) as i64, "{kept} bytes");
        call!(client, "CACHE.SET", "kept", "value", "TAGS", 1, "kept");
    });
}

#[test]
fn a_panic_between_index_and_keyspace_empties_that_database() {
    with_panicking_module(|server, client| {
        call!(client, "SELECT", 1);
        for n in 0..100 {
            call!(client, "CACHE.SET", n, "old", "TAGS", 1, "a");
        }
        call!(client, "CACHE.PANIC", "change");
        let error = call!(client, "CACHE.SET", 7, "new", "TAGS", 1, "b");
        assert!(error.is_error(), "{error:?}");
        logged(server);
        // No invalidation would reach entries that are not in the index.
        for n in 0..100 {
            assert!(call!(client, "CACHE.GET", n).is_null(), "{n}");
        }
        assert_eq!(stat(client, "entries"), 0);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a", "b"), Reply::Int(0));
        for n in 0..50 {
            assert_eq!(
                call!(client, "CACHE.SET", n, "new", "TAGS", 1, "a"),
                Reply::ok()
            );
            call!(client, "DEL", n + 50);
        }
        assert_eq!(call!(client, "CACHE.GET", 7), Reply::bulk("new"));
        call!(client, "RENAME", 7, "renamed");
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(50));
        call!(client, "SELECT", 0);
    });
}
