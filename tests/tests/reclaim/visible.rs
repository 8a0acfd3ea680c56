//! An invalidation of any size is visible at once to every command.

use tagcache_tests::look::{assert_index_agrees, inspect, stat, tagscan, wait_reclaimed};
use tagcache_tests::threads::Threads;
use tagcache_tests::{Reply, Server, args, call, for_all_engines, for_each_engine, run};

use crate::fill;

const MANY: usize = 200_000;

#[test]
fn a_large_invalidation_is_visible_at_once_to_every_command() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        fill(&mut client, "key", MANY, b"value", "large");
        call!(client, "CACHE.SET", "live", "v", "TAGS", 1, "other");
        // In one transaction nothing can be reclaimed between the commands.
        let queued = [
            args!["MULTI"],
            args!["CACHE.INVALIDATE", "large"],
            args!["CACHE.GET", "key0"],
            args!["CACHE.MGET", "key1", "live", "key2"],
            args!["CACHE.INSPECT", "key3"],
            args!["CACHE.TAGSCAN", "large", 0, "COUNT", MANY],
            args!["CACHE.SET", "key4", "new", "XX"],
            args!["CACHE.SET", "key5", "new", "NX", "TAGS", 1, "large"],
            args!["CACHE.GET", "key5"],
            args!["CACHE.DEL", "key6", "key7"],
            args!["CACHE.TOUCH", "key8", "PERSIST"],
            args!["CACHE.INVALIDATE", "large"],
            args!["CACHE.STATS"],
            args!["EVAL", "return redis.call('CACHE.GET', KEYS[1])", 1, "key9"],
            args!["EXEC"],
        ];
        let replies = client.pipeline(&queued);
        let replies = replies.last().expect("the reply of EXEC").items();
        assert_eq!(replies[0], Reply::Int(MANY as i64));
        assert!(replies[1].is_null());
        assert_eq!(
            replies[2],
            Reply::Array(vec![Reply::Null, Reply::bulk("v"), Reply::Null])
        );
        assert!(replies[3].is_null());
        assert_eq!(
            replies[4],
            Reply::Array(vec![Reply::bulk("0"), Reply::Array(vec![])])
        );
        assert!(replies[5].is_null());
        assert_eq!(replies[6], Reply::ok());
        assert_eq!(replies[7], Reply::bulk("new"));
        assert_eq!(replies[8], Reply::Int(0));
        assert_eq!(replies[9], Reply::Int(0));
        assert_eq!(replies[10], Reply::Int(1), "of this tag only the new entry");
        assert_eq!(replies[11].field("entries"), Reply::Int(1));
        assert!(replies[11].field("reclaim_backlog").int() > MANY as i64 - 1000);
        assert!(replies[12].is_null());
        assert_index_agrees(&server, &[0], &[b"large"]);
        wait_reclaimed(&mut client);
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(1));
        assert_eq!(call!(client, "CACHE.GET", "live"), Reply::bulk("v"));
        assert_index_agrees(&server, &[0], &[b"large"]);
    });
}

#[test]
fn a_large_revalidation_is_visible_at_once_to_every_command() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let numbers: Vec<usize> = (0..MANY).collect();
        for numbers in numbers.chunks(10_000) {
            let set = |n: &usize| {
                let grace = if n.is_multiple_of(2) {
                    0
                } else {
                    1_000_000_000
                };
                args![
                    "CACHE.SET",
                    format!("key{n}"),
                    "v",
                    "GRACE",
                    grace,
                    "TAGS",
                    1,
                    "large"
                ]
            };
            client.pipeline(&numbers.iter().map(set).collect::<Vec<_>>());
        }
        let queued = [
            args!["MULTI"],
            args!["CACHE.REVALIDATE", "large"],
            args!["CACHE.MGET", "key0", "key1", "key199998", "key199999"],
            args!["CACHE.FETCH", "key0"],
            args!["CACHE.FETCH", "key1"],
            args!["CACHE.SET", "key2", "new", "NX", "TAGS", 1, "large"],
            args!["CACHE.SET", "key3", "new", "XX"],
            args!["CACHE.GET", "key2"],
            args!["CACHE.STATS"],
            args!["EXEC"],
        ];
        let exec = client.pipeline(&queued).remove(9);
        let replies = exec.items();
        assert_eq!(replies[0], Reply::Int(MANY as i64));
        assert!(replies[1].items().iter().all(Reply::is_null));
        assert_eq!(replies[2].items()[0].bytes(), b"MISS");
        assert_eq!(replies[3].items()[0].bytes(), b"STALE");
        assert_eq!(replies[4], Reply::ok());
        assert!(replies[5].is_null());
        assert_eq!(replies[6], Reply::bulk("new"));
        let entries = MANY as i64 / 2 + 1;
        assert_eq!(replies[7].field("entries"), Reply::Int(entries));
        wait_reclaimed(&mut client);
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(entries));
        assert_eq!(call!(client, "CACHE.GET", "key2"), Reply::bulk("new"));
        assert_eq!(
            call!(client, "CACHE.INVALIDATE", "large"),
            Reply::Int(entries)
        );
        assert_eq!(stat(&mut client, "entries"), 0);
        wait_reclaimed(&mut client);
        assert_index_agrees(&server, &[0], &[b"large"]);
    });
}

#[test]
fn gone_entries_stay_invisible_while_they_are_reclaimed() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-budget-us", "50"])
            .start();
        let mut client = server.raw();
        fill(&mut client, "key", MANY, b"value", "large");
        call!(client, "CACHE.SET", "live", "v", "TAGS", 1, "other");
        let mut commands = vec![args!["CACHE.INVALIDATE", "large"]];
        for n in 0..2000 {
            let (one, two) = (
                format!("key{}", n * 97),
                format!("key{}", MANY - 1 - n * 89),
            );
            commands.push(args!["CACHE.MGET", one, two, "live"]);
            commands.push(args!["DUMP", one]);
            commands.push(args!["COPY", two, "copied", "REPLACE"]);
            commands.push(args!["CACHE.GET", "copied"]);
            commands.push(args!["RENAME", two, "renamed"]);
            commands.push(args!["CACHE.GET", "renamed"]);
        }
        let replies = client.pipeline(&commands);
        assert_eq!(replies[0], Reply::Int(MANY as i64));
        let seen = Reply::Array(vec![Reply::Null, Reply::Null, Reply::bulk("v")]);
        for replies in replies[1..].chunks(6) {
            assert_eq!(replies[0], seen);
            assert!(replies[3].is_null(), "COPY brought it back: {replies:?}");
            assert!(replies[5].is_null(), "RENAME brought it back: {replies:?}");
        }
        assert!(
            stat(&mut client, "reclaim_backlog") > 0,
            "reclaiming ended too early to be seen"
        );
        assert_index_agrees(&server, &[0], &[b"large"]);
        wait_reclaimed(&mut client);
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(1));
    });
}

#[test]
fn an_entry_set_again_during_a_backlog_is_not_reclaimed() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-budget-us", "50"])
            .start();
        let mut client = server.raw();
        fill(&mut client, "key", 50_000, b"old", "large");
        let mut commands = vec![args!["CACHE.INVALIDATE", "large"]];
        commands.extend((0..50_000).map(|n| {
            args![
                "CACHE.SET",
                format!("key{n}"),
                "new",
                "NX",
                "TAGS",
                1,
                "large"
            ]
        }));
        let replies = client.pipeline(&commands);
        assert_eq!(replies[0], Reply::Int(50_000));
        assert!(replies[1..].iter().all(|reply| *reply == Reply::ok()));
        wait_reclaimed(&mut client);
        assert_eq!(stat(&mut client, "entries"), 50_000);
        assert_eq!(tagscan(&mut client, b"large", 10_000).len(), 50_000);
        assert_eq!(call!(client, "CACHE.GET", "key49999"), Reply::bulk("new"));
        assert_index_agrees(&server, &[0], &[b"large"]);
    });
}

#[test]
fn invalidations_faster_than_reclaiming_are_exact_and_reclaimed() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-budget-us", "50"])
            .start();
        let mut client = server.raw();
        for round in 0..30 {
            fill(&mut client, "key", 1000 + round, b"value", "a");
            fill(&mut client, "other", 1000, b"value", "b");
            assert_eq!(
                call!(client, "CACHE.INVALIDATE", "a", "b"),
                Reply::Int(2000 + round as i64)
            );
            assert_eq!(stat(&mut client, "entries"), 0);
            fill(&mut client, "key", 500, b"value", "c");
            assert_eq!(call!(client, "CACHE.FLUSH"), Reply::Int(500));
            assert_eq!(stat(&mut client, "entries"), 0);
            assert!(inspect(&mut client, "key7").is_none());
        }
        assert_index_agrees(&server, &[0], &[b"a", b"b", b"c"]);
        wait_reclaimed(&mut client);
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(0));
    });
}

#[test]
fn each_database_reclaims_its_own_entries() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-budget-us", "50"])
            .start();
        let mut client = server.raw();
        for database in [0, 1, 9] {
            call!(client, "SELECT", database);
            fill(&mut client, "key", 20_000, b"value", "a");
            fill(&mut client, "live", 10, b"value", "b");
        }
        for database in [0, 1, 9] {
            call!(client, "SELECT", database);
            assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(20_000));
        }
        call!(client, "SWAPDB", 1, 9);
        for database in [0, 1, 9] {
            call!(client, "SELECT", database);
            assert_eq!(stat(&mut client, "entries"), 10);
            wait_reclaimed(&mut client);
            assert_eq!(call!(client, "DBSIZE"), Reply::Int(10));
        }
        assert_index_agrees(&server, &[0, 1, 9], &[b"a"]);
    });
}

#[test]
fn an_entry_dropped_through_several_tags_counts_once() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let set = |n| {
            args![
                "CACHE.SET",
                format!("key{n}"),
                "v",
                "TAGS",
                3,
                "a",
                "b",
                format!("t{}", n % 10)
            ]
        };
        client.pipeline(&(0..5000).map(set).collect::<Vec<_>>());
        fill(&mut client, "live", 100, b"value", "live");
        let queued = [
            args!["MULTI"],
            args!["CACHE.INVALIDATE", "t1", "t2"],
            args!["CACHE.STATS"],
            args!["CACHE.INVALIDATE", "a", "b"],
            args!["CACHE.STATS"],
            args!["CACHE.INVALIDATE", "t3"],
            args!["CACHE.STATS"],
            args!["CACHE.FLUSH"],
            args!["CACHE.STATS"],
            args!["EXEC"],
        ];
        let replies = client.pipeline(&queued);
        let replies = replies[9].items();
        assert_eq!(replies[0], Reply::Int(1000));
        for (at, entries, backlog) in [
            (1, 4100, 1000),
            (3, 100, 5000),
            (5, 100, 5000),
            (7, 0, 5100),
        ] {
            let seen = (
                replies[at].field("entries").int(),
                replies[at].field("reclaim_backlog").int(),
            );
            assert_eq!(seen, (entries, backlog), "after invalidation {at}");
        }
        assert_eq!(replies[6], Reply::Int(100));
        wait_reclaimed(&mut client);
        assert_eq!(stat(&mut client, "reclaimed"), 5100);
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(0));
    });
}

/// The thread began what nobody went on with: not even later invalidations were reclaimed.
#[test]
fn invalidation_from_a_thread_of_another_module_is_reclaimed() {
    let Some(threads) = Threads::new() else {
        return;
    };
    for_all_engines(|engine| {
        let builder = Server::builder().engine(engine);
        let server = threads.of(builder).start();
        let mut client = server.raw();
        fill(&mut client, "key", 3_000, b"v", "t");
        let dropped = call!(client, "THREADS.CALL", "CACHE.INVALIDATE", "t");
        assert_eq!(dropped, Reply::Int(3_000));
        wait_reclaimed(&mut client);
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(0));
        // A lease that runs out: the caller that waits gets the next one.
        run!(client, "THREADS.CALL CACHE.FETCH key LEASE 100");
        let next = call!(client, "CACHE.FETCH", "key", "LEASE", 100, "WAIT", 60_000);
        assert!(next.items()[3].int() > 0);
    });
}
