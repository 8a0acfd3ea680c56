//! DEL, UNLINK, RENAME, COPY, MOVE, SWAPDB.

use tagcache_tests::look::{assert_index_agrees, inspect, stat, tagscan};
use tagcache_tests::{RawClient, Reply, Server, args, call, for_all_engines, for_each_engine, run};

fn with_entries(test: impl Fn(&Server, &mut RawClient)) {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        run!(client, "CACHE.SET one 1 EX 10000 TAGS 2 a b");
        call!(client, "CACHE.SET", "two", "2", "TAGS", 2, "b", "c");
        call!(client, "SET", "string", "v");
        call!(client, "CACHE.GET", "one");
        test(&server, &mut client);
        assert_index_agrees(&server, &[0, 1, 2], &[b"a", b"b", b"c"]);
    });
}

fn has(client: &mut RawClient, key: &str, value: &str, tags: &[&str]) {
    let entry = inspect(client, key).unwrap_or_else(|| panic!("no entry {key}"));
    let tags: Vec<_> = tags.iter().map(|tag| tag.as_bytes()).collect();
    assert_eq!(entry.tags, tags);
    assert_eq!(call!(client, "CACHE.GET", key), Reply::bulk(value));
}

#[test]
fn del_and_unlink_remove_the_entry_from_its_tags() {
    with_entries(|_, client| {
        assert_eq!(
            call!(client, "DEL", "one", "string", "absent"),
            Reply::Int(2)
        );
        assert!(call!(client, "CACHE.GET", "one").is_null());
        assert!(tagscan(client, b"a", 10).is_empty());
        assert_eq!(stat(client, "entries"), 1);
        assert_eq!(call!(client, "UNLINK", "two"), Reply::Int(1));
        assert_eq!(
            (
                stat(client, "entries"),
                stat(client, "tags"),
                stat(client, "bytes")
            ),
            (0, 0, 0)
        );
    });
}

#[test]
fn unlink_of_large_values_leaves_the_index_exact() {
    with_entries(|server, client| {
        for n in 0..200 {
            call!(client, "CACHE.SET", n, vec![0; 100_000], "TAGS", 2, "a", n);
            assert_eq!(call!(client, "UNLINK", n), Reply::Int(1));
        }
        assert_index_agrees(server, &[0], &[b"7"]);
    });
}

#[test]
fn rename_keeps_value_tags_hits_and_ttl() {
    with_entries(|_, client| {
        assert_eq!(call!(client, "RENAME", "one", "renamed"), Reply::ok());
        assert!(call!(client, "CACHE.GET", "one").is_null());
        let entry = inspect(client, "renamed").unwrap();
        assert_eq!((entry.hits, entry.expires), (1, true));
        has(client, "renamed", "1", &["a", "b"]);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(1));
        assert!(call!(client, "CACHE.GET", "renamed").is_null());
    });
}

#[test]
fn rename_onto_an_entry_another_type_or_itself_works() {
    with_entries(|server, client| {
        assert_eq!(call!(client, "RENAME", "one", "one"), Reply::ok());
        has(client, "one", "1", &["a", "b"]);
        assert_eq!(call!(client, "RENAME", "one", "two"), Reply::ok());
        has(client, "two", "1", &["a", "b"]);
        assert!(tagscan(client, b"c", 10).is_empty());
        assert_index_agrees(server, &[0], &[b"c"]);
        assert_eq!(call!(client, "RENAME", "two", "string"), Reply::ok());
        has(client, "string", "1", &["a", "b"]);
        call!(client, "SET", "other", "v");
        assert_eq!(call!(client, "RENAME", "other", "string"), Reply::ok());
        assert_eq!(call!(client, "GET", "string"), Reply::bulk("v"));
        assert_eq!(stat(client, "entries"), 0);
    });
}

#[test]
fn renamenx_renames_only_to_a_free_key() {
    with_entries(|_, client| {
        assert_eq!(call!(client, "RENAMENX", "one", "two"), Reply::Int(0));
        assert_eq!(call!(client, "RENAMENX", "one", "string"), Reply::Int(0));
        has(client, "one", "1", &["a", "b"]);
        assert_eq!(call!(client, "RENAMENX", "one", "new"), Reply::Int(1));
        has(client, "new", "1", &["a", "b"]);
        assert!(inspect(client, "one").is_none());
    });
}

#[test]
fn copy_creates_an_independent_entry() {
    with_entries(|server, client| {
        assert_eq!(call!(client, "COPY", "one", "copy"), Reply::Int(1));
        has(client, "copy", "1", &["a", "b"]);
        assert!(inspect(client, "copy").unwrap().expires);
        assert_eq!(tagscan(client, b"a", 10).len(), 2);
        assert_index_agrees(server, &[0], &[]);
        call!(client, "CACHE.SET", "one", "new", "TAGS", 1, "c");
        has(client, "copy", "1", &["a", "b"]);
        assert_eq!(call!(client, "COPY", "one", "two"), Reply::Int(0));
        assert_eq!(
            call!(client, "COPY", "one", "two", "REPLACE"),
            Reply::Int(1)
        );
        has(client, "two", "new", &["c"]);
        assert_eq!(
            call!(client, "COPY", "two", "string", "REPLACE"),
            Reply::Int(1)
        );
        assert_index_agrees(server, &[0], &[]);
        call!(client, "SET", "other", "v");
        assert_eq!(
            call!(client, "COPY", "other", "two", "REPLACE"),
            Reply::Int(1)
        );
        assert_eq!(call!(client, "GET", "two"), Reply::bulk("v"));
    });
}

#[test]
fn a_copy_in_another_database_belongs_to_that_database() {
    with_entries(|server, client| {
        for _ in 0..5 {
            call!(client, "CACHE.INVALIDATE", "unknown");
        }
        assert_eq!(call!(client, "COPY", "one", "one", "DB", 1), Reply::Int(1));
        call!(client, "SELECT", 1);
        has(client, "one", "1", &["a", "b"]);
        assert_eq!((stat(client, "entries"), stat(client, "clock")), (1, 0));
        assert_index_agrees(server, &[0, 1], &[]);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(1));
        assert!(call!(client, "CACHE.GET", "one").is_null());
        call!(client, "SELECT", 0);
        has(client, "one", "1", &["a", "b"]);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(1));
    });
}

#[test]
fn clocks_of_databases_are_independent() {
    with_entries(|_, client| {
        call!(client, "SELECT", 1);
        for _ in 0..5 {
            call!(client, "CACHE.INVALIDATE", "a", "b");
        }
        call!(client, "SELECT", 0);
        call!(client, "CACHE.SET", "one", "later", "TAGS", 2, "a", "b");
        assert_eq!(
            call!(client, "COPY", "one", "copied", "DB", 1),
            Reply::Int(1)
        );
        assert_eq!(call!(client, "MOVE", "one", 1), Reply::Int(1));
        call!(client, "SELECT", 1);
        has(client, "copied", "later", &["a", "b"]);
        has(client, "one", "later", &["a", "b"]);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(2));
    });
}

#[test]
fn move_keeps_value_tags_hits_and_ttl() {
    with_entries(|server, client| {
        assert_eq!(call!(client, "MOVE", "one", 1), Reply::Int(1));
        assert!(call!(client, "CACHE.GET", "one").is_null());
        assert!(tagscan(client, b"a", 10).is_empty());
        call!(client, "SELECT", 1);
        let entry = inspect(client, "one").unwrap();
        assert_eq!((entry.hits, entry.expires), (1, true));
        has(client, "one", "1", &["a", "b"]);
        assert_index_agrees(server, &[0, 1], &[b"a"]);
        call!(client, "CACHE.SET", "two", "occupied");
        call!(client, "SELECT", 0);
        assert_eq!(call!(client, "MOVE", "two", 1), Reply::Int(0));
        has(client, "two", "2", &["b", "c"]);
    });
}

#[test]
fn swapdb_swaps_entries_tags_clock_and_statistics() {
    with_entries(|server, client| {
        call!(client, "SELECT", 1);
        call!(client, "CACHE.SET", "three", "3", "TAGS", 1, "a");
        for _ in 0..3 {
            call!(client, "CACHE.INVALIDATE", "unknown");
        }
        assert_eq!(call!(client, "SWAPDB", 0, 1), Reply::ok());
        has(client, "one", "1", &["a", "b"]);
        assert_eq!(
            (
                stat(client, "entries"),
                stat(client, "clock"),
                stat(client, "sets")
            ),
            (2, 0, 2)
        );
        assert_index_agrees(server, &[0, 1], &[]);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(1));
        call!(client, "SELECT", 0);
        has(client, "three", "3", &["a"]);
        assert_eq!((stat(client, "entries"), stat(client, "clock")), (1, 3));
        assert!(!call!(client, "CACHE.TAGINFO", "unknown").is_null());
        call!(client, "SWAPDB", 0, 2);
        assert_eq!(stat(client, "entries"), 0);
        call!(client, "SELECT", 2);
        has(client, "three", "3", &["a"]);
        assert_eq!(call!(client, "SWAPDB", 2, 2), Reply::ok());
        has(client, "three", "3", &["a"]);
    });
}

#[test]
fn nested_copy_and_move_belong_to_the_target_database() {
    for_all_engines(|engine| {
        for nested in ["transaction", "script"] {
            let server = Server::builder().engine(engine).start();
            let mut client = server.raw();
            call!(client, "CACHE.SET", "one", "1", "TAGS", 1, "a");
            call!(client, "CACHE.SET", "two", "2", "TAGS", 1, "b");
            call!(client, "SELECT", 1);
            call!(client, "CACHE.SET", "old", "3", "TAGS", 1, "c");
            call!(client, "SELECT", 0);
            for command in [
                args!["COPY", "one", "copied", "DB", 1],
                args!["COPY", "two", "old", "DB", 1, "REPLACE"],
                args!["MOVE", "two", 1],
            ] {
                let reply = if nested == "transaction" {
                    let queued = [args!["MULTI"], command, args!["PING"], args!["EXEC"]];
                    client.pipeline(&queued)[3].items()[0].clone()
                } else {
                    let eval = args!["EVAL", "return redis.call(unpack(ARGV))", 0];
                    client.call(&[eval, command].concat())
                };
                assert_eq!(reply, Reply::Int(1), "{nested}");
                assert_index_agrees(&server, &[0, 1], &[b"a", b"b", b"c"]);
            }
            call!(client, "SELECT", 1);
            has(&mut client, "copied", "1", &["a"]);
            has(&mut client, "old", "2", &["b"]);
            has(&mut client, "two", "2", &["b"]);
            assert_eq!(call!(client, "CACHE.INVALIDATE", "b"), Reply::Int(2));
            assert_eq!(
                call!(client, "CACHE.SET", "old", "4", "TAGS", 1, "a"),
                Reply::ok()
            );
            assert_index_agrees(&server, &[0, 1], &[b"a", b"b", b"c"]);
        }
    });
}

#[test]
fn each_command_of_a_transaction_uses_its_selected_database() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let queued = [
            args!["MULTI"],
            args!["CACHE.SET", "key", "0", "TAGS", 1, "a"],
            args!["SELECT", 1],
            args!["CACHE.SET", "key", "1", "TAGS", 1, "a"],
            args!["RENAME", "key", "renamed"],
            args!["SELECT", 2],
            args!["CACHE.SET", "key", "2", "TAGS", 1, "a"],
            args!["DEL", "key"],
            args!["CACHE.SET", "key", "3", "PXAT", 1, "TAGS", 1, "a"],
            args!["EXISTS", "key"],
            args!["SELECT", 0],
            args!["CACHE.INVALIDATE", "a"],
            args!["CACHE.SET", "key", "4", "TAGS", 1, "a"],
            args!["SWAPDB", 0, 3],
            args!["CACHE.GET", "key"],
            args!["EXEC"],
        ];
        let replies = client.pipeline(&queued);
        let replies = replies[15].items();
        assert!(replies.iter().all(|reply| !reply.is_error()), "{replies:?}");
        assert_eq!(replies[10], Reply::Int(1));
        assert!(replies[13].is_null());
        assert_index_agrees(&server, &[0, 1, 2, 3], &[b"a"]);
        call!(client, "SELECT", 3);
        has(&mut client, "key", "4", &["a"]);
        call!(client, "SELECT", 1);
        has(&mut client, "renamed", "1", &["a"]);
    });
}

#[test]
fn an_entry_at_the_address_of_a_dropped_one_is_unaffected() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        run!(client, "CACHE.SET key value TAGS 1 other");
        let dump = call!(client, "DUMP", "key").bytes().to_vec();
        call!(client, "DEL", "key");
        for n in 100..120 {
            let (key, renamed) = (format!("a{n}"), format!("b{n}"));
            call!(client, "RESTORE", "key", 1, dump, "ABSTTL");
            call!(client, "CACHE.SET", key, "value", "TAGS", 1, "own");
            assert_eq!(call!(client, "RENAME", key, renamed), Reply::ok());
            has(&mut client, &renamed, "value", &["own"]);
        }
        assert_eq!(run!(client, "CACHE.INVALIDATE own"), Reply::Int(20));
        assert_index_agrees(&server, &[0], &[b"own", b"other"]);
    });
}
