//! Native commands that overwrite an entry with another type, and those that refuse to touch it.

use tagcache_tests::look::{assert_index_agrees, stat};
use tagcache_tests::{Reply, Server, call, for_each_engine};

use crate::WRONGTYPE;

#[test]
fn a_native_overwrite_removes_the_entry_from_the_index() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        call!(client, "SADD", "set", "m");
        call!(client, "ZADD", "zset", 1, "m");
        call!(client, "SET", "bits", "b");
        call!(client, "RPUSH", "list", "2", "1");
        for (overwrite, kind) in [
            (&["SET", "key", "v"][..], "string"),
            (&["SET", "key", "v", "XX"], "string"),
            (&["SETEX", "key", "100", "v"], "string"),
            (&["MSET", "other", "v", "key", "v"], "string"),
            (&["SUNIONSTORE", "key", "set"], "set"),
            (&["SINTERSTORE", "key", "set"], "set"),
            (&["SDIFFSTORE", "key", "set"], "set"),
            (&["ZUNIONSTORE", "key", "1", "zset"], "zset"),
            (&["BITOP", "NOT", "key", "bits"], "string"),
            (&["SORT", "list", "STORE", "key"], "list"),
            (&["SUNIONSTORE", "key", "absent"], "none"),
        ] {
            assert_eq!(
                call!(client, "CACHE.SET", "key", "v", "TAGS", 2, "a", "b"),
                Reply::ok()
            );
            let reply = client.call(overwrite);
            assert!(!reply.is_error(), "{overwrite:?}: {reply:?}");
            assert_eq!(call!(client, "TYPE", "key").text(), kind, "{overwrite:?}");
            assert_eq!(
                (stat(&mut client, "entries"), stat(&mut client, "tags")),
                (0, 0),
                "{overwrite:?}"
            );
            assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(0));
            assert_eq!(call!(client, "TYPE", "key").text(), kind, "{overwrite:?}");
            assert_index_agrees(&server, &[0], &[b"a", b"b"]);
            call!(client, "DEL", "key");
        }
    });
}

#[test]
fn a_native_command_for_another_type_is_refused() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        for command in [
            &["GET", "key"][..],
            &["GETDEL", "key"],
            &["GETSET", "key", "v"],
            &["GETEX", "key", "EX", "5"],
            &["SET", "key", "v", "GET"],
            &["APPEND", "key", "v"],
            &["INCR", "key"],
            &["LPUSH", "key", "v"],
            &["SADD", "key", "v"],
            &["HSET", "key", "f", "v"],
            &["ZADD", "key", "1", "v"],
            &["SUNION", "key"],
        ] {
            assert_eq!(
                client.call(command),
                Reply::Error(WRONGTYPE.to_owned()),
                "{command:?}"
            );
            assert_eq!(
                call!(client, "CACHE.GET", "key"),
                Reply::bulk("v"),
                "{command:?}"
            );
        }
        for command in [&["SETNX", "key", "v"][..], &["MSETNX", "key", "v"]] {
            assert_eq!(client.call(command), Reply::Int(0), "{command:?}");
        }
        assert!(call!(client, "SET", "key", "v", "NX").is_null());
        assert_eq!(call!(client, "MGET", "key").items(), [Reply::Null]);
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
        assert_index_agrees(&server, &[0], &[]);
    });
}
