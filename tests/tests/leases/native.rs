//! Effects of native commands on leases and waiting clients.

use tagcache_tests::fetch::{Waiter, fetch, fetch_lease, lease, set_leased, wait_for_waiters};
use tagcache_tests::look::stat;
use tagcache_tests::{RawClient, Reply, call, on_both_protocols, run};

use crate::WRONGTYPE;

#[test]
fn a_native_write_onto_an_awaited_key_wakes_the_waiters() {
    on_both_protocols(|server, client| {
        let prepare = |client: &mut RawClient| {
            call!(client, "FLUSHALL");
            call!(client, "SET", "string", "v");
            call!(client, "SELECT", 1);
            call!(client, "SET", "key", "v");
            call!(client, "SELECT", 0);
            call!(client, "DUMP", "string").bytes().to_vec()
        };
        let payload = prepare(client);
        for way in [
            &[&b"SET"[..], b"key", b"v"][..],
            &[b"SET", b"key", b"v", b"PX", b"100000"],
            &[b"SETNX", b"key", b"v"],
            &[b"MSET", b"a", b"1", b"key", b"v"],
            &[b"APPEND", b"key", b"v"],
            &[b"INCR", b"key"],
            &[b"SETBIT", b"key", b"1", b"1"],
            &[b"LPUSH", b"key", b"v"],
            &[b"SADD", b"key", b"v"],
            &[b"HSET", b"key", b"f", b"v"],
            &[b"ZADD", b"key", b"1", b"v"],
            &[b"XADD", b"key", b"*", b"f", b"v"],
            &[b"PFADD", b"key", b"v"],
            &[b"RENAME", b"string", b"key"],
            &[b"RENAMENX", b"string", b"key"],
            &[b"COPY", b"string", b"key"],
            &[b"RESTORE", b"key", b"0", &payload],
            &[
                b"EVAL",
                b"return redis.call('SET', KEYS[1], 'v')",
                b"1",
                b"key",
            ],
        ] {
            prepare(client);
            let token = lease(client, "key");
            let mut waiters = [
                Waiter::start(server, "key", 600_000),
                Waiter::start(server, "key", 600_000),
            ];
            let reply = client.call(way);
            assert!(!reply.is_error(), "{reply:?}");
            for waiter in &mut waiters {
                let words = String::from_utf8_lossy(way[0]);
                assert_eq!(
                    waiter.reply(),
                    Reply::Error(WRONGTYPE.to_owned()),
                    "{words}"
                );
            }
            assert_eq!(stat(client, "lease_waiters"), 0);
            let late = call!(client, "CACHE.SET", "key", "v", "LEASE", token);
            assert_eq!(late, Reply::Error(WRONGTYPE.to_owned()));
        }
        prepare(client);
        lease(client, "key");
        let mut waiter = Waiter::start(server, "key", 600_000);
        call!(client, "SELECT", 1);
        assert_eq!(call!(client, "MOVE", "key", 0), Reply::Int(1));
        call!(client, "SELECT", 0);
        assert_eq!(waiter.reply(), Reply::Error(WRONGTYPE.to_owned()));
    });
}

#[test]
fn a_native_write_in_multi_wakes_waiters_of_its_database() {
    on_both_protocols(|server, client| {
        lease(client, "key");
        let mut here = Waiter::start(server, "key", 600_000);
        let mut other = server.raw();
        call!(other, "SELECT", 3);
        lease(&mut other, "key");
        let mut elsewhere = server.raw();
        call!(elsewhere, "SELECT", 3);
        let mut elsewhere = Waiter::start_on(server, elsewhere, "key", 600_000);
        for command in [
            &["MULTI"][..],
            &["SELECT", "3"],
            &["SET", "key", "v"],
            &["EXEC"],
        ] {
            client.call(command);
        }
        assert_eq!(elsewhere.reply(), Reply::Error(WRONGTYPE.to_owned()));
        call!(client, "SELECT", 0);
        wait_for_waiters(client, 1);
        call!(client, "CACHE.SET", "key", "v");
        assert!(here.answer().is_hit("v"));
    });
}

#[test]
fn a_native_write_over_a_gone_entry_wakes_the_waiters() {
    on_both_protocols(|server, client| {
        // Nothing is reclaimed before the block runs: neither inline nor by the filter, which does not see into it.
        call!(client, "CONFIG", "SET", "tagcache.reclaim-inline", 0);
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "t");
        let mut writer = server.raw();
        call!(writer, "MULTI");
        call!(writer, "CACHE.INVALIDATE", "t");
        call!(writer, "SET", "key", "native");
        let token = {
            call!(client, "CACHE.DEL", "key");
            let token = lease(client, "key");
            let mut waiter = Waiter::start(server, "key", 600_000);
            // Written and dropped within one block, then overwritten: no waiter is served in between.
            let replies = {
                call!(writer, "DISCARD");
                call!(writer, "MULTI");
                call!(writer, "CACHE.SET", "key", "v", "TAGS", 1, "t");
                call!(writer, "CACHE.INVALIDATE", "t");
                call!(writer, "SET", "key", "native");
                call!(writer, "EXEC")
            };
            assert_eq!(replies.items()[2], Reply::ok(), "{replies:?}");
            assert_eq!(waiter.reply(), Reply::Error(WRONGTYPE.to_owned()));
            token
        };
        let late = call!(client, "CACHE.SET", "key", "v", "LEASE", token);
        assert_eq!(late, Reply::Error(WRONGTYPE.to_owned()));
    });
}

#[test]
fn writes_to_other_keys_wake_no_waiter() {
    on_both_protocols(|server, client| {
        let token = lease(client, "key");
        let mut waiter = Waiter::start(server, "key", 600_000);
        for n in 0..100 {
            call!(client, "SET", format!("key{n}"), "v");
            call!(client, "CACHE.SET", format!("entry{n}"), "v");
        }
        call!(client, "SELECT", 1);
        call!(client, "SET", "key", "of another database");
        call!(client, "SELECT", 0);
        wait_for_waiters(client, 1);
        assert!(set_leased(client, "key", "v", token, &[]));
        assert!(waiter.answer().is_hit("v"));
    });
}

#[test]
fn a_native_removal_ends_the_lease_of_a_key_that_exists() {
    on_both_protocols(|_, client| {
        for remove in ["DEL", "UNLINK"] {
            run!(client, "CACHE.SET key old GRACE 100000 TAGS 1 soft");
            call!(client, "CACHE.REVALIDATE", "soft");
            let token = fetch_lease(client, "key", 60_000).token;
            assert!(token > 0);
            assert_eq!(call!(client, remove, "key"), Reply::Int(1));
            assert_eq!(stat(client, "leases"), 0, "{remove}");
            assert!(!set_leased(client, "key", "old", token, &[]), "{remove}");
        }
    });
}

#[test]
fn a_native_removal_of_a_missing_key_leaves_its_lease() {
    on_both_protocols(|_, client| {
        // The server does not report this, as the reference explains; CACHE.DEL does.
        for remove in ["DEL", "UNLINK"] {
            let token = lease(client, "key");
            assert_eq!(call!(client, remove, "key"), Reply::Int(0));
            assert!(set_leased(client, "key", "v", token, &[]), "{remove}");
            call!(client, "CACHE.DEL", "key");
            let token = lease(client, "key");
            call!(client, "CACHE.DEL", "key");
            assert!(!set_leased(client, "key", "v", token, &[]));
        }
        assert!(fetch(client, "key").is_miss());
    });
}
