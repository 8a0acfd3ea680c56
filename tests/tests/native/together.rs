//! MULTI/EXEC, scripts and DEBUG RELOAD over everything at once.

use tagcache_tests::look::{assert_index_agrees, entry_keys, inspect, stat};
use tagcache_tests::{Reply, Server, call, for_each_engine};

#[test]
fn a_transaction_sees_its_own_writes_and_invalidations() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        call!(client, "CACHE.SET", "old", "v", "TAGS", 1, "a");
        call!(client, "MULTI");
        for queued in [
            &["CACHE.SET", "key", "1", "TAGS", "1", "a"][..],
            &["CACHE.GET", "key"],
            &["CACHE.INVALIDATE", "a"],
            &["CACHE.GET", "key"],
            &["CACHE.SET", "key", "2", "NX", "TAGS", "1", "a"],
            &["CACHE.GET", "key"],
            &["CACHE.GET", "old"],
            &["CACHE.DEL", "key"],
            &["CACHE.SET", "key", "3", "XX"],
        ] {
            assert_eq!(client.call(queued), Reply::Simple("QUEUED".to_owned()));
        }
        let replies = call!(client, "EXEC");
        let expected = [
            Reply::ok(),
            Reply::bulk("1"),
            Reply::Int(2),
            Reply::Null,
            Reply::ok(),
            Reply::bulk("2"),
            Reply::Null,
            Reply::Int(1),
            Reply::Null,
        ];
        assert_eq!(replies.items(), expected);
        assert_index_agrees(&server, &[0], &[b"a"]);
    });
}

#[test]
fn a_refused_command_in_a_transaction_does_not_affect_others() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        call!(client, "SET", "string", "v");
        call!(client, "MULTI");
        call!(client, "CACHE.SET", "string", "v");
        call!(client, "CACHE.SET", "key", "v", "EX", 0);
        call!(client, "CACHE.SET", "key", "v");
        let replies = call!(client, "EXEC");
        let errors: Vec<_> = replies.items().iter().map(Reply::is_error).collect();
        assert_eq!(errors, [true, true, false]);
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
    });
}

#[test]
fn a_script_can_call_every_command() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let script = "
            redis.call('CACHE.SET', 'key', 'v', 'EX', 100, 'TAGS', 2, 'a', 'b')
            redis.call('CACHE.SET', 'other', 'v', 'TAGS', 1, 'b')
            local value = redis.call('CACHE.GET', 'key')
            local many = redis.call('CACHE.MGET', 'key', 'absent')
            redis.call('CACHE.TOUCH', 'key', 'PERSIST')
            local inspected = redis.call('CACHE.INSPECT', 'key')
            local info = redis.call('CACHE.TAGINFO', 'b')
            local page = redis.call('CACHE.TAGSCAN', 'b', '0')
            local dropped = redis.call('CACHE.INVALIDATE', 'a')
            local after = redis.call('CACHE.GET', 'key')
            redis.call('CACHE.SET', 'graced', 'v', 'GRACE', 100000, 'TAGS', 2, 'c', 'd')
            local softened = redis.call('CACHE.REVALIDATE', 'c')
            local fetched = redis.call('CACHE.FETCH', 'graced', 'LEASE', 1000, 'WAIT', 1000)
            local released = redis.call('CACHE.RELEASE', 'graced', fetched[4])
            local counted = redis.call('CACHE.HITS', 'graced', 5)
            local top = redis.call('CACHE.TOP', 1)
            local tagtop = redis.call('CACHE.TAGTOP', 'BY', 'ENTRIES', 'LIMIT', 10)
            local met = redis.call('CACHE.INVALIDATEWHERE', 'ALL', 2, 'c', 'd')
            local deleted = redis.call('CACHE.DEL', 'other')
            local flushed = redis.call('CACHE.FLUSH')
            local stats = redis.call('CACHE.STATS')
            return {value, many[1], #many, info[2], #page[2], dropped, after == false, deleted, flushed, #inspected, #stats,
                    softened, fetched[1], released, counted, top[1][1], #tagtop, met}
        ";
        let reply = call!(client, "EVAL", script, 0);
        let int = Reply::Int;
        let expected = [
            Reply::bulk("v"),
            Reply::bulk("v"),
            int(2),
            int(2),
            int(2),
            int(1),
            int(1),
            int(1),
            int(0),
            int(16),
            int(42),
            int(1),
            Reply::bulk("STALE"),
            int(1),
            int(1),
            Reply::bulk("graced"),
            int(3),
            int(1),
        ];
        assert_eq!(reply.items(), expected);
        assert_index_agrees(&server, &[0], &[b"a", b"b"]);
    });
}

#[test]
fn a_read_only_script_may_read_and_not_write() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        call!(client, "CACHE.SET", "key", "v");
        let read = "return redis.call('CACHE.GET', KEYS[1])";
        assert_eq!(call!(client, "EVAL_RO", read, 1, "key"), Reply::bulk("v"));
        let write = "return redis.call('CACHE.INVALIDATE', 'a')";
        assert!(call!(client, "EVAL_RO", write, 1, "key").is_error());
        assert_eq!(stat(&mut client, "clock"), 0);
    });
}

#[test]
fn debug_reload_keeps_the_whole_dataset() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for database in [0, 7] {
            call!(client, "SELECT", database);
            for n in 0..300 {
                call!(
                    client,
                    "CACHE.SET",
                    n,
                    n,
                    "EX",
                    10_000,
                    "TAGS",
                    2,
                    "a",
                    format!("t{}", n % 7)
                );
                call!(client, "CACHE.GET", n / 2);
            }
            call!(client, "CACHE.INVALIDATE", "t3", "unknown");
            call!(client, "CACHE.SET", "plain", "v");
        }
        tagcache_tests::look::wait_reclaimed(&mut client);
        let look = || {
            let mut client = server.raw();
            let databases = [0, 7].map(|database| {
                call!(client, "SELECT", database);
                let keys = entry_keys(&mut client);
                let entries: Vec<_> = keys
                    .iter()
                    .map(|key| (key.clone(), inspect(&mut client, key)))
                    .collect();
                (
                    entries,
                    stat(&mut client, "clock"),
                    stat(&mut client, "tags"),
                )
            });
            (databases, call!(client, "DEBUG", "DIGEST"))
        };
        let before = look();
        assert_eq!(call!(client, "DEBUG", "RELOAD"), Reply::ok());
        assert_eq!(look(), before);
        assert_index_agrees(&server, &[0, 7], &[b"t3", b"unknown"]);
    });
}
