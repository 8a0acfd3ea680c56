//! DUMP, RESTORE and MIGRATE.

use tagcache_tests::look::{assert_index_agrees, inspect, stat, tagscan};
use tagcache_tests::{DEADLINE, RawClient, Reply, Server, call, for_each_engine, run, wait_until};

fn start(engine: &tagcache_tests::Engine) -> (Server, RawClient) {
    let server = Server::builder().engine(engine).start();
    let client = server.raw();
    (server, client)
}

fn dumped(client: &mut RawClient) -> Vec<u8> {
    run!(client, "CACHE.SET key value EX 10000 TAGS 2 b a");
    call!(client, "CACHE.GET", "key");
    call!(client, "DUMP", "key").bytes().to_vec()
}

#[test]
fn a_restored_entry_has_value_tags_and_hits() {
    for_each_engine(|engine| {
        let (server, mut client) = start(engine);
        let payload = dumped(&mut client);
        assert_eq!(call!(client, "RESTORE", "copy", 0, payload), Reply::ok());
        let entry = inspect(&mut client, "copy").unwrap();
        assert_eq!(
            (entry.tags, entry.hits, entry.expires),
            (vec![b"b".to_vec(), b"a".to_vec()], 1, false)
        );
        assert_eq!(call!(client, "CACHE.GET", "copy"), Reply::bulk("value"));
        assert_eq!(tagscan(&mut client, b"a", 10).len(), 2);
        assert_index_agrees(&server, &[0], &[]);
        assert_eq!(
            call!(client, "RESTORE", "timed", 5_000_000, payload),
            Reply::ok()
        );
        assert!(inspect(&mut client, "timed").unwrap().expires);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "b"), Reply::Int(3));
        assert_index_agrees(&server, &[0], &[b"a", b"b"]);
    });
}

#[test]
fn restore_overwrites_only_with_replace() {
    for_each_engine(|engine| {
        let (server, mut client) = start(engine);
        let payload = dumped(&mut client);
        call!(client, "CACHE.SET", "other", "old", "TAGS", 1, "c");
        let busy = call!(client, "RESTORE", "other", 0, payload);
        assert!(
            busy.error().is_some_and(|e| e.starts_with("BUSYKEY ")),
            "{busy:?}"
        );
        assert_eq!(call!(client, "CACHE.GET", "other"), Reply::bulk("old"));
        assert_eq!(
            call!(client, "RESTORE", "other", 0, payload, "REPLACE"),
            Reply::ok()
        );
        assert_eq!(call!(client, "CACHE.GET", "other"), Reply::bulk("value"));
        assert!(tagscan(&mut client, b"c", 10).is_empty());
        assert_index_agrees(&server, &[0], &[b"c"]);
        call!(client, "SET", "string", "v");
        let string = call!(client, "DUMP", "string").bytes().to_vec();
        assert_eq!(
            call!(
                client, "RESTORE", "string", 0, payload, "REPLACE", "IDLETIME", 5
            ),
            Reply::ok()
        );
        assert_eq!(
            call!(client, "RESTORE", "other", 0, string, "REPLACE"),
            Reply::ok()
        );
        assert_eq!(call!(client, "GET", "other"), Reply::bulk("v"));
        assert_eq!(stat(&mut client, "entries"), 2);
        assert_index_agrees(&server, &[0], &[]);
    });
}

#[test]
fn restore_of_an_expired_entry_leaves_no_trace_in_the_index() {
    for_each_engine(|engine| {
        let (server, mut client) = start(engine);
        let payload = dumped(&mut client);
        assert_eq!(
            call!(client, "RESTORE", "past", 1, payload, "ABSTTL"),
            Reply::ok()
        );
        assert!(call!(client, "CACHE.GET", "past").is_null());
        assert_eq!(tagscan(&mut client, b"a", 10).len(), 1);
        assert_index_agrees(&server, &[0], &[]);
        assert_eq!(
            call!(client, "RESTORE", "key", 1, payload, "ABSTTL", "REPLACE"),
            Reply::ok()
        );
        assert!(inspect(&mut client, "key").is_none());
        assert_eq!(
            (stat(&mut client, "entries"), stat(&mut client, "tags")),
            (0, 0)
        );
        let future = call!(client, "TIME").items()[0].int() * 1000 + 1_000_000;
        assert_eq!(
            call!(client, "RESTORE", "key", future, payload, "ABSTTL"),
            Reply::ok()
        );
        assert!(inspect(&mut client, "key").unwrap().expires);
        assert_index_agrees(&server, &[0], &[]);
    });
}

#[test]
fn an_entry_written_before_an_invalidation_arrives_gone() {
    for_each_engine(|engine| {
        let (server, mut client) = start(engine);
        let first = dumped(&mut client);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(1));
        assert_eq!(call!(client, "RESTORE", "late", 0, first), Reply::ok());
        assert!(call!(client, "CACHE.GET", "late").is_null());
        assert!(inspect(&mut client, "late").is_none());
        assert!(tagscan(&mut client, b"b", 10).is_empty());
        assert_eq!(stat(&mut client, "entries"), 0);
        wait_until("its memory is given back", DEADLINE, || {
            call!(client, "EXISTS", "late") == Reply::Int(0)
        });
        assert_index_agrees(&server, &[0], &[b"a", b"b"]);
        // An entry that is written afterwards is fresh, at once and on the same server.
        let payload = dumped(&mut client);
        assert_eq!(call!(client, "RESTORE", "late", 0, payload), Reply::ok());
        assert_eq!(call!(client, "CACHE.GET", "late"), Reply::bulk("value"));
        // However often the tags are forgotten by name, the first payload stays gone.
        call!(client, "FLUSHDB");
        assert_eq!(call!(client, "RESTORE", "late", 0, first), Reply::ok());
        assert!(call!(client, "CACHE.GET", "late").is_null());
        assert_index_agrees(&server, &[0], &[]);
    });
}

#[test]
fn a_dump_of_a_gone_entry_does_not_bring_it_back() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-inline", "0"])
            .start();
        let mut client = server.raw();
        dumped(&mut client);
        call!(client, "MULTI");
        call!(client, "CACHE.INVALIDATE", "a");
        call!(client, "DUMP", "key");
        let replies = call!(client, "EXEC");
        assert_eq!(replies.items()[0], Reply::Int(1));
        if let Reply::Bulk(payload) = &replies.items()[1] {
            // On another server, where no tag was ever invalidated, the payload alone must carry it.
            let (other, mut there) = start(engine);
            call!(there, "RESTORE", "back", 0, payload);
            assert!(call!(there, "CACHE.GET", "back").is_null());
            assert!(inspect(&mut there, "back").is_none());
            wait_until("its memory is given back", DEADLINE, || {
                call!(there, "EXISTS", "back") == Reply::Int(0)
            });
            assert_index_agrees(&other, &[0], &[b"a", b"b"]);
        }
        assert_index_agrees(&server, &[0], &[b"a", b"b"]);
    });
}

#[test]
fn migrate_moves_copies_and_replaces_between_servers() {
    for_each_engine(|engine| {
        let (source, mut here) = start(engine);
        let (target, mut there) = start(engine);
        for n in 0..200 {
            call!(
                here,
                "CACHE.SET",
                n,
                n,
                "EX",
                10_000,
                "TAGS",
                2,
                "a",
                format!("t{n}")
            );
        }
        let port = target.port();
        let migrated = call!(here, "MIGRATE", "127.0.0.1", port, 0, 0, 20_000);
        assert!(
            migrated.is_error() || migrated == Reply::ok(),
            "a key named 0: {migrated:?}"
        );
        let keys: Vec<Vec<u8>> = (1..100).map(|n: i32| n.to_string().into_bytes()).collect();
        let mut migrate =
            tagcache_tests::args!["MIGRATE", "127.0.0.1", port, "", 0, 20_000, "KEYS"];
        migrate.extend(keys.iter().cloned());
        assert_eq!(here.call(&migrate), Reply::ok());
        assert_eq!(
            call!(here, "MIGRATE", "127.0.0.1", port, "150", 1, 20_000, "COPY"),
            Reply::ok()
        );
        assert_index_agrees(&source, &[0], &[b"t1", b"t99"]);
        assert_index_agrees(&target, &[0, 1], &[b"t150"]);
        assert_eq!(stat(&mut here, "entries"), 100);
        assert_eq!(call!(there, "CACHE.GET", 42), Reply::bulk("42"));
        assert!(inspect(&mut there, "42").unwrap().expires);
        call!(here, "CACHE.SET", 42, "newer", "TAGS", 1, "b");
        assert!(
            call!(here, "MIGRATE", "127.0.0.1", port, "42", 0, 20_000).is_error(),
            "it is there already"
        );
        assert_eq!(
            run!(here, "MIGRATE 127.0.0.1 {port} 42 0 20000 REPLACE"),
            Reply::ok()
        );
        assert_eq!(call!(there, "CACHE.GET", 42), Reply::bulk("newer"));
        assert_index_agrees(&source, &[0], &[b"b"]);
        assert_index_agrees(&target, &[0, 1], &[b"t42"]);
        assert_eq!(call!(there, "CACHE.INVALIDATE", "a"), Reply::Int(99));
    });
}

#[test]
fn an_entry_migrated_after_an_invalidation_there_is_gone() {
    for_each_engine(|engine| {
        let (_source, mut here) = start(engine);
        let (target, mut there) = start(engine);
        dumped(&mut here);
        assert_eq!(call!(there, "CACHE.INVALIDATE", "a"), Reply::Int(0));
        assert_eq!(
            call!(
                here,
                "MIGRATE",
                "127.0.0.1",
                target.port(),
                "key",
                0,
                20_000
            ),
            Reply::ok()
        );
        assert!(call!(there, "CACHE.GET", "key").is_null());
        wait_until("its memory is given back", DEADLINE, || {
            call!(there, "EXISTS", "key") == Reply::Int(0)
        });
        assert_index_agrees(&target, &[0], &[b"a", b"b"]);
    });
}
