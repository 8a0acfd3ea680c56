//! Other events for a key, its database or its server while a caller waits for it.

use tagcache_tests::fetch::{Waiter, fetch, lease, set_leased, wait_for_waiters};
use tagcache_tests::look::{assert_index_agrees, stat};
use tagcache_tests::{RawClient, Reply, Server, call, for_each_engine, on_both_protocols};

use crate::ways;

/// One client holds the lease of `key`, and another waits for it.
fn waiting(server: &Server, client: &mut RawClient) -> (i64, Waiter) {
    call!(client, "SELECT", 0);
    call!(client, "FLUSHALL");
    let token = lease(client, "key");
    (token, Waiter::start(server, "key", 600_000))
}

#[test]
fn del_ends_the_lease_and_a_waiter_gets_the_next_one() {
    on_both_protocols(|server, client| {
        for del in [
            &["CACHE.DEL", "key"][..],
            &["CACHE.DEL", "absent", "key", "key"],
            &[
                "EVAL",
                "return redis.call('CACHE.DEL', KEYS[1])",
                "1",
                "key",
            ],
        ] {
            let (token, mut waiter) = waiting(server, client);
            assert_eq!(client.call(del), Reply::Int(0));
            let answer = waiter.answer();
            assert!(answer.is_miss_with_token(), "{del:?}: {answer:?}");
            assert_ne!(answer.token, token);
            assert!(!set_leased(client, "key", "old", token, &[]));
            assert!(set_leased(client, "key", "new", answer.token, &[]));
        }
    });
}

#[test]
fn flush_ends_the_lease_and_leaves_no_client_waiting() {
    on_both_protocols(|server, client| {
        let (token, mut waiter) = waiting(server, client);
        call!(client, "CACHE.FLUSH");
        assert!(!set_leased(client, "key", "old", token, &[]));
        // The lease passes on by the flush itself or by its end: the waiter may load.
        call!(client, "CACHE.RELEASE", "key", token);
        let answer = waiter.answer();
        assert!(answer.is_miss_with_token(), "{answer:?}");
        assert!(set_leased(client, "key", "new", answer.token, &[]));
        assert!(fetch(client, "key").is_hit("new"));
    });
}

#[test]
fn rename_copy_restore_and_move_serve_the_waiters() {
    on_both_protocols(|server, client| {
        for way in ["RENAME", "RENAMENX", "COPY", "RESTORE", "MOVE"] {
            let (_, mut waiter) = waiting(server, client);
            let reply = ways::bring(client, way, "a");
            assert!(
                reply == Reply::ok() || reply == Reply::Int(1),
                "{way}: {reply:?}"
            );
            let answer = waiter.answer();
            assert!(answer.is_hit("v"), "{way}: {answer:?}");
            assert_eq!(answer.tags, [b"a".to_vec()]);
            assert_index_agrees(server, &[0, 1], &[b"a"]);
        }
    });
}

#[test]
fn after_swapdb_waiters_get_the_entry_of_the_other_database() {
    on_both_protocols(|server, client| {
        let (token, mut waiter) = waiting(server, client);
        let mut idle = Waiter::start(server, "key", 300);
        call!(client, "SELECT", 1);
        call!(client, "CACHE.SET", "key", "of 1", "TAGS", 1, "a");
        call!(client, "SWAPDB", 0, 1);
        call!(client, "SELECT", 0);
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("of 1"));
        for waiter in [&mut waiter, &mut idle] {
            let answer = waiter.answer();
            assert!(
                answer.is_hit("of 1") || answer.value.is_none(),
                "{answer:?}"
            );
        }
        // The lease belonged to the other database's key.
        assert!(!set_leased(client, "key", "wrong", token, &[]));
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("of 1"));
        wait_for_waiters(client, 0);
    });
}

#[test]
fn native_flushes_end_waits_and_void_old_tokens() {
    on_both_protocols(|server, client| {
        for flush in [
            &["FLUSHALL"][..],
            &["FLUSHALL", "ASYNC"],
            &["FLUSHDB"],
            &["FLUSHDB", "ASYNC"],
        ] {
            let (token, mut waiter) = waiting(server, client);
            let mut short = Waiter::start(server, "key", 300);
            call!(client, "CACHE.SET", "other", "v");
            assert_eq!(client.call(flush), Reply::ok());
            let answer = short.answer();
            assert!(answer.value.is_none(), "{flush:?}: {answer:?}");
            call!(client, "CACHE.SET", "key", "new");
            let answer = waiter.answer();
            assert!(
                answer.is_hit("new") || answer.is_miss_with_token(),
                "{flush:?}: {answer:?}"
            );
            assert!(
                !set_leased(client, "key", "old", token, &[]),
                "{flush:?}: what was read before everything was dropped"
            );
            wait_for_waiters(client, 0);
        }
    });
}

#[test]
fn waiters_are_served_after_a_reload_in_place() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        call!(client, "CACHE.SET", "other", "v", "TAGS", 1, "a");
        lease(&mut client, "key");
        let mut short = Waiter::start(&server, "key", 500);
        let mut long = Waiter::start(&server, "key", 600_000);
        assert_eq!(call!(client, "DEBUG", "RELOAD"), Reply::ok());
        assert!(short.answer().value.is_none());
        call!(client, "CACHE.SET", "key", "v");
        let answer = long.answer();
        assert!(
            answer.is_hit("v") || answer.is_miss_with_token(),
            "{answer:?}"
        );
        assert_eq!(stat(&mut client, "lease_waiters"), 0);
        assert_index_agrees(&server, &[0], &[b"a"]);
    });
}
