//! RDB.

use tagcache_tests::look::{assert_index_agrees, info, info_text, inspect, stat, wait_reclaimed};
use tagcache_tests::state::{Hits, State};
use tagcache_tests::{
    DEADLINE, Reply, Server, args, call, for_all_engines, for_each_engine, run, wait_until,
};

use crate::{TAGS, bulk, dataset};

#[test]
fn an_rdb_restores_values_tags_ttls_hits_and_clock() {
    for_all_engines(|engine| {
        let mut server = Server::builder().engine(engine).start();
        dataset(&server);
        let before = State::of(&server, &[0, 1, 3], Hits::Count);
        assert_eq!(call!(server.raw(), "SAVE"), Reply::ok());
        server.kill_9();
        server.restart();
        State::of(&server, &[0, 1, 3], Hits::Count).must_equal(&before, "after the restart");
        assert_index_agrees(&server, &[0, 1, 3], &TAGS);
        let mut client = server.raw();
        let pttl = call!(client, "CACHE.INSPECT", 7).field("pttl").int();
        assert!(pttl > 90_000_000 && pttl <= 100_000_000, "{pttl}");
        let count = call!(client, "CACHE.TAGINFO", "t4").field("entries").int();
        assert_eq!(call!(client, "CACHE.INVALIDATE", "t4"), Reply::Int(count));
        assert_index_agrees(&server, &[0, 1, 3], &TAGS);
    });
}

#[test]
fn age_continues_across_a_restart() {
    for_each_engine(|engine| {
        let mut server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        call!(client, "CACHE.SET", "key", "v");
        let age = |server: &Server| {
            call!(server.raw(), "CACHE.INSPECT", "key")
                .field("age")
                .int()
        };
        wait_until("the entry has an age", DEADLINE, || age(&server) > 20);
        let before = age(&server);
        call!(client, "SAVE");
        server.kill_9();
        server.restart();
        assert!(age(&server) >= before);
    });
}

#[test]
fn bgsave_is_consistent_during_writes() {
    for_each_engine(|engine| {
        let mut server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        bulk(&mut client, 20_000);
        let reply = client.pipeline(&[args!["BGSAVE"], args!["CACHE.INVALIDATE", "bulk"]]);
        assert_eq!(reply[1], Reply::Int(20_000));
        for n in 0..2000 {
            call!(
                client,
                "CACHE.SET",
                format!("bulk{n}"),
                "new",
                "TAGS",
                1,
                "new"
            );
        }
        wait_until("the background save ends", DEADLINE, || {
            info(&mut client, "rdb_bgsave_in_progress") == 0
        });
        assert_eq!(info_text(&mut client, "rdb_last_bgsave_status"), "ok");
        server.kill_9();
        server.restart();
        // The fork happened before the invalidation.
        let mut client = server.raw();
        assert_eq!(stat(&mut client, "entries"), 20_000);
        assert_eq!(
            call!(client, "CACHE.TAGINFO", "bulk").field("entries"),
            Reply::Int(20_000)
        );
        assert!(call!(client, "CACHE.TAGINFO", "new").is_null());
        assert_index_agrees(&server, &[0], &TAGS);
    });
}

#[test]
fn entries_in_the_backlog_are_saved_as_gone() {
    for_each_engine(|engine| {
        let mut server = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-inline", "0", "reclaim-budget-us", "100"])
            .start();
        let mut client = server.raw();
        bulk(&mut client, 20_000);
        dataset(&server);
        // In one transaction, so that no reclaiming comes between.
        call!(client, "MULTI");
        call!(client, "CACHE.INVALIDATE", "bulk");
        call!(client, "CACHE.STATS");
        call!(client, "CACHE.SET", "bulk5", "new", "TAGS", 1, "new");
        call!(client, "SAVE");
        let replies = call!(client, "EXEC");
        if replies.is_error() || replies.items().last().is_some_and(Reply::is_error) {
            // For servers that allow no SAVE in a transaction: in the same pipeline it follows as soon as possible.
            client.pipeline(&[args!["CACHE.INVALIDATE", "bulk"], args!["SAVE"]]);
        } else {
            assert_eq!(
                replies.items()[1].field("reclaim_backlog"),
                Reply::Int(20_000)
            );
        }
        let before = State::of(&server, &[0, 3], Hits::Count);
        server.kill_9();
        server.restart();
        let mut client = server.raw();
        assert!(
            inspect(&mut client, "bulk6").is_none(),
            "nothing gone comes back"
        );
        assert_index_agrees(&server, &[0, 3], &TAGS);
        State::of(&server, &[0, 3], Hits::Count).must_equal(&before, "after the restart");
        wait_reclaimed(&mut client);
        let visible = stat(&mut client, "entries");
        assert_eq!(
            call!(client, "DBSIZE").int(),
            visible + 1,
            "and its memory is not kept: the other is a string"
        );
    });
}

#[test]
fn an_entry_that_expires_during_a_downtime_leaves_no_trace() {
    for_each_engine(|engine| {
        let mut server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        call!(client, "DEBUG", "SET-ACTIVE-EXPIRE", 0);
        let now = call!(client, "TIME").items()[0].int() * 1000;
        for n in 0..50 {
            call!(
                client,
                "CACHE.SET",
                n,
                "v",
                "PXAT",
                now + 1500,
                "TAGS",
                1,
                "short"
            );
        }
        run!(client, "CACHE.SET long v EX 100000 TAGS 1 long");
        assert_eq!(call!(client, "SAVE"), Reply::ok());
        server.kill_9();
        let over = || {
            std::time::SystemTime::UNIX_EPOCH
                .elapsed()
                .is_ok_and(|t| t.as_millis() as i64 > now + 1500)
        };
        wait_until("the time of the entries is over", DEADLINE, over);
        server.restart();
        let mut client = server.raw();
        wait_until("they are gone", DEADLINE, || {
            call!(client, "DBSIZE") == Reply::Int(1)
        });
        assert!(call!(client, "CACHE.TAGINFO", "short").is_null());
        assert_eq!(
            (stat(&mut client, "entries"), stat(&mut client, "tags")),
            (1, 1)
        );
        assert_index_agrees(&server, &[0], &[b"short"]);
    });
}

#[test]
fn databases_of_high_numbers_are_saved_and_loaded() {
    for_all_engines(|engine| {
        if !engine.is_valkey() || engine.version() < (9, 0) {
            return; // The other servers create all databases at their start.
        }
        let mut server = Server::builder()
            .engine(engine)
            .arg("--databases", "1100000")
            .start();
        let mut client = server.raw();
        run!(client, "SELECT 1099999");
        run!(client, "CACHE.SET key v TAGS 1 t");
        run!(client, "CACHE.INVALIDATE other");
        assert_eq!(run!(client, "SAVE"), Reply::ok());
        server.kill_9();
        server.restart();
        let mut client = server.raw();
        run!(client, "SELECT 1099999");
        assert_eq!(stat(&mut client, "clock"), 1);
        assert_eq!(run!(client, "CACHE.INVALIDATE t"), Reply::Int(1));
        // There is no such database, and none is created.
        assert_eq!(run!(client, "CACHE.REPLAY EMPTY 4294967295"), Reply::ok());
    });
}

#[test]
fn a_merged_file_brings_no_invalidated_entry_back() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for round in ["empty", "filled"] {
            if round == "filled" {
                run!(client, "CACHE.SET hard v TAGS 1 t");
                run!(client, "CACHE.SET soft v GRACE 1000000 TAGS 1 s");
                run!(client, "CACHE.SET kept v TAGS 1 k");
            }
            assert_eq!(run!(client, "SAVE"), Reply::ok());
            run!(client, "CACHE.INVALIDATE t u");
            run!(client, "CACHE.REVALIDATE s");
            let clock = run!(client, "CACHE.CLOCK");
            let reply = run!(client, "CACHE.FETCH loaded LEASE 60000");
            let token = reply.items()[3].int();
            assert_eq!(
                run!(client, "DEBUG RELOAD MERGE NOFLUSH NOSAVE"),
                Reply::ok()
            );
            run!(client, "SELECT 0"); // Valkey 8.1 leaves the client in another database.
            assert_eq!(run!(client, "CACHE.CLOCK"), clock, "{round}");
            for key in ["hard", "soft"] {
                assert_eq!(
                    run!(client, "CACHE.GET {key}"),
                    Reply::Null,
                    "{round}: {key}"
                );
            }
            run!(client, "CACHE.INVALIDATE u");
            let set = run!(client, "CACHE.SET loaded v LEASE {token} TAGS 1 u");
            assert_eq!(set, Reply::Null, "{round}: invalidated since the lease");
        }
        assert_eq!(run!(client, "CACHE.GET kept"), Reply::bulk("v"));
        wait_reclaimed(&mut client);
        assert_index_agrees(&server, &[0], &[b"t", b"s", b"k"]);
        // An older file alone does not lower the clock either.
        let clock = run!(client, "CACHE.CLOCK");
        assert_eq!(run!(client, "DEBUG RELOAD NOSAVE"), Reply::ok());
        run!(client, "SELECT 0");
        assert_eq!(run!(client, "CACHE.CLOCK"), clock);
        assert_eq!(run!(client, "CACHE.GET kept"), Reply::bulk("v"));
        assert_index_agrees(&server, &[0], &[b"t", b"s", b"k"]);
    });
}
