//! FLUSHDB and FLUSHALL, at once and in the background.

use tagcache_tests::look::{assert_index_agrees, info, inspect, stat};
use tagcache_tests::{DEADLINE, RawClient, Reply, Server, call, for_each_engine, wait_until};

fn fill(client: &mut RawClient, database: u32) {
    call!(client, "SELECT", database);
    for n in 0..500 {
        call!(
            client,
            "CACHE.SET",
            n,
            "v",
            "TAGS",
            2,
            "a",
            format!("t{}", n % 10)
        );
    }
    call!(client, "CACHE.SET", "dropped", "v", "TAGS", 1, "dropped");
    call!(client, "CACHE.INVALIDATE", "dropped");
}

#[test]
fn flushdb_empties_the_index_of_its_database_only() {
    for_each_engine(|engine| {
        for mode in ["SYNC", "ASYNC"] {
            let server = Server::builder().engine(engine).start();
            let mut client = server.raw();
            fill(&mut client, 1);
            fill(&mut client, 0);
            assert_eq!(call!(client, "FLUSHDB", mode), Reply::ok());
            for name in ["entries", "tags", "bytes", "reclaim_backlog"] {
                assert_eq!(stat(&mut client, name), 0, "{mode}: {name}");
            }
            for tag in ["a", "dropped"] {
                assert!(
                    call!(client, "CACHE.TAGINFO", tag).is_null(),
                    "{mode}: {tag}"
                );
            }
            assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(0));
            call!(client, "CACHE.SET", "new", "v", "TAGS", 1, "a");
            assert!(inspect(&mut client, "new").is_some());
            call!(client, "SELECT", 1);
            assert_eq!(stat(&mut client, "entries"), 500);
            assert!(!call!(client, "CACHE.TAGINFO", "dropped").is_null());
            assert_index_agrees(&server, &[0, 1], &[b"dropped"]);
            assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(500));
        }
    });
}

#[test]
fn flushall_empties_every_index() {
    for_each_engine(|engine| {
        for mode in ["SYNC", "ASYNC"] {
            let server = Server::builder().engine(engine).start();
            let mut client = server.raw();
            for database in [0, 1, 15] {
                fill(&mut client, database);
            }
            assert_eq!(call!(client, "FLUSHALL", mode), Reply::ok());
            for database in [0, 1, 15] {
                call!(client, "SELECT", database);
                assert_eq!(
                    (stat(&mut client, "entries"), stat(&mut client, "tags")),
                    (0, 0),
                    "{mode}"
                );
                assert!(call!(client, "CACHE.GET", 7).is_null());
            }
            assert_index_agrees(&server, &[0, 1, 15], &[b"a", b"t7", b"dropped"]);
        }
    });
}

#[test]
fn writes_during_an_async_flush_stay_and_its_memory_is_freed() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        // The connection, its buffers and the index's first tables are part of the start.
        call!(client, "CACHE.SET", "warm", vec![0; 1000], "TAGS", 1, "a");
        call!(client, "FLUSHALL", "SYNC");
        let start = info(&mut client, "used_memory");
        for round in 0..5 {
            for n in 0..2000 {
                call!(client, "CACHE.SET", n, vec![0; 1000], "TAGS", 2, "a", n);
            }
            client.send(&["FLUSHALL", "ASYNC"]);
            client.send(&["CACHE.SET", "new", "v", "TAGS", "1", "a"]);
            client.send(&["CACHE.DEL", "new"]);
            client.send(&["CACHE.SET", "newer", "v", "TAGS", "1", "a"]);
            let replies: Vec<_> = (0..4).map(|_| client.read()).collect();
            assert_eq!(
                replies,
                [Reply::ok(), Reply::ok(), Reply::Int(1), Reply::ok()]
            );
            assert_eq!(stat(&mut client, "entries"), 1, "round {round}");
            assert_index_agrees(&server, &[0], &[b"7"]);
        }
        wait_until("the memory is back", DEADLINE, || {
            info(&mut client, "used_memory") < start + (1 << 20)
        });
    });
}

#[test]
fn a_flush_takes_effect_at_once_in_transactions_and_scripts() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        fill(&mut client, 0);
        call!(client, "MULTI");
        call!(client, "FLUSHDB");
        call!(client, "CACHE.GET", 7);
        call!(client, "CACHE.SET", 7, "new", "TAGS", 1, "a");
        call!(client, "CACHE.INVALIDATE", "a");
        let replies = call!(client, "EXEC");
        assert_eq!(
            replies.items(),
            [Reply::ok(), Reply::Null, Reply::ok(), Reply::Int(1)]
        );
        fill(&mut client, 0);
        let script = "redis.call('FLUSHALL'); return redis.call('CACHE.INVALIDATE', 'a')";
        assert_eq!(call!(client, "EVAL", script, 0), Reply::Int(0));
        assert_index_agrees(&server, &[0], &[b"a"]);
    });
}
