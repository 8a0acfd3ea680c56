//! Native commands on entries that are gone and not reclaimed yet: they bring nothing back.

use tagcache_tests::look::{assert_index_agrees, inspect, stat, wait_reclaimed};
use tagcache_tests::{DEADLINE, RawClient, Reply, Server, call, for_each_engine, run, wait_until};

/// Runs the command in the same transaction as the invalidation of `key`, where no reclaiming can come between, and
/// returns its reply.
fn after_invalidation(client: &mut RawClient, command: &[&str]) -> Reply {
    run!(client, "CACHE.SET key old EX 10000 TAGS 2 a b");
    call!(client, "CACHE.SET", "live", "v", "TAGS", 1, "b");
    call!(client, "MULTI");
    call!(client, "CACHE.INVALIDATE", "a");
    client.call(command);
    let replies = call!(client, "EXEC");
    assert_eq!(replies.items()[0], Reply::Int(1));
    replies.items()[1].clone()
}

fn assert_nothing_came_back(
    server: &Server,
    client: &mut RawClient,
    command: &[&str],
    database: u32,
    key: &str,
) {
    call!(client, "SELECT", database);
    assert!(call!(client, "CACHE.GET", key).is_null(), "{command:?}");
    assert!(inspect(client, key).is_none(), "{command:?}");
    wait_until(
        &format!("{command:?} leaves nothing behind"),
        DEADLINE,
        || call!(client, "EXISTS", key) == Reply::Int(0),
    );
    wait_reclaimed(client);
    assert_index_agrees(server, &[0, 1], &[b"a", b"b"]);
    call!(client, "SELECT", 0);
}

#[test]
fn commands_that_move_a_gone_entry_do_not_bring_it_back() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-inline", "0"])
            .start();
        let mut client = server.raw();
        let moves: [(&[&str], u32, &str); 8] = [
            (&["RENAME", "key", "new"], 0, "new"),
            (&["RENAMENX", "key", "new"], 0, "new"),
            (&["RENAME", "key", "key"], 0, "key"),
            (&["COPY", "key", "new"], 0, "new"),
            (&["COPY", "key", "new", "REPLACE"], 0, "new"),
            (&["COPY", "key", "key", "DB", "1"], 1, "key"),
            (&["MOVE", "key", "1"], 1, "key"),
            (&["SWAPDB", "0", "1"], 1, "key"),
        ];
        for (command, database, key) in moves {
            after_invalidation(&mut client, command);
            assert_nothing_came_back(&server, &mut client, command, database, key);
            call!(client, "FLUSHALL");
        }
    });
}

#[test]
fn commands_that_touch_a_gone_entry_do_not_bring_it_back() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-inline", "0"])
            .start();
        let mut client = server.raw();
        for command in [
            &["EXPIRE", "key", "1000"][..],
            &["PERSIST", "key"],
            &["PEXPIREAT", "key", "1"],
            &["TOUCH", "key"],
            &["DEL", "key"],
            &["UNLINK", "key"],
            &["OBJECT", "ENCODING", "key"],
            &["MEMORY", "USAGE", "key"],
            &["DEBUG", "DIGEST-VALUE", "key"],
            &["GETDEL", "key"],
            &["CACHE.TOUCH", "key", "EX", "1000"],
            &["CACHE.TOUCH", "key", "PERSIST"],
            &["CACHE.SET", "key", "new", "XX"],
            &["CACHE.INSPECT", "key"],
            &["CACHE.MGET", "key"],
            &["CACHE.TAGINFO", "a"],
        ] {
            after_invalidation(&mut client, command);
            assert_nothing_came_back(&server, &mut client, command, 0, "key");
            assert_eq!(
                call!(client, "CACHE.GET", "live"),
                Reply::bulk("v"),
                "{command:?}"
            );
        }
    });
}

#[test]
fn a_gone_key_accepts_a_new_value_of_any_type() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-inline", "0"])
            .start();
        let mut client = server.raw();
        for (command, kind) in [
            (&["CACHE.SET", "key", "new"][..], "tagcache1"),
            (
                &["CACHE.SET", "key", "new", "NX", "TAGS", "1", "b"],
                "tagcache1",
            ),
            (
                &["CACHE.SET", "key", "new", "KEEPTTL", "TAGS", "1", "a"],
                "tagcache1",
            ),
            (&["SET", "key", "new"], "string"),
            (&["COPY", "live", "key", "REPLACE"], "tagcache1"),
            (&["RENAME", "live", "key"], "tagcache1"),
        ] {
            after_invalidation(&mut client, command);
            wait_reclaimed(&mut client);
            assert_eq!(call!(client, "TYPE", "key").text(), kind, "{command:?}");
            if kind == "tagcache1" {
                let entry = inspect(&mut client, "key").unwrap();
                assert!(!entry.expires && entry.hits == 0, "{command:?}: {entry:?}");
            }
            assert_index_agrees(&server, &[0], &[b"a", b"b"]);
            call!(client, "FLUSHALL");
        }
    });
}

#[test]
fn any_flush_during_a_backlog_leaves_no_entry() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-inline", "0"])
            .start();
        let mut client = server.raw();
        for flush in [
            &["FLUSHDB", "SYNC"][..],
            &["FLUSHDB", "ASYNC"],
            &["FLUSHALL", "SYNC"],
            &["FLUSHALL", "ASYNC"],
            &["CACHE.FLUSH"],
            &["DEBUG", "RELOAD"],
        ] {
            for n in 0..3000 {
                call!(client, "CACHE.SET", n, "v", "TAGS", 2, "a", "b");
            }
            let replies = client.pipeline(&[vec!["CACHE.INVALIDATE", "a"], flush.to_vec()]);
            assert_eq!(replies[0], Reply::Int(3000));
            assert!(!replies[1].is_error(), "{flush:?}: {:?}", replies[1]);
            call!(client, "CACHE.SET", 5, "new", "TAGS", 1, "a");
            assert!(call!(client, "CACHE.GET", 6).is_null(), "{flush:?}");
            wait_reclaimed(&mut client);
            assert_eq!(
                call!(client, "CACHE.GET", 5),
                Reply::bulk("new"),
                "{flush:?}"
            );
            assert_index_agrees(&server, &[0], &[b"a", b"b"]);
            call!(client, "FLUSHALL");
            assert_eq!(stat(&mut client, "entries"), 0);
        }
    });
}
