//! Limits on tags concern stored entries; a tag that an entry carries can be named whatever the limits are now.

use tagcache_tests::look::tagscan;
use tagcache_tests::state::{replicated, wait_synchronised};
use tagcache_tests::{Engine, RawClient, Reply, Server, args, call, for_all_engines, run};

use super::SYNTAX;

/// The longest tag that a server can be configured for.
const LONGEST: usize = 65_536;

fn start(engine: &Engine) -> (Server, RawClient) {
    let server = Server::builder().engine(engine).start();
    let client = server.raw();
    (server, client)
}

fn can_be_set(client: &mut RawClient) -> bool {
    !call!(client, "CONFIG", "GET", "tagcache.max-tag-bytes")
        .items()
        .is_empty()
}

/// Every command that names tags accepts this one, which three entries with a grace carry.
fn assert_can_be_named(client: &mut RawClient, tag: &str) {
    assert_eq!(
        call!(client, "CACHE.TAGINFO", tag).field("entries"),
        Reply::Int(3)
    );
    assert_eq!(tagscan(client, tag.as_bytes(), 10).len(), 3);
    for clause in ["ALL", "ANY"] {
        let count = call!(client, "CACHE.INVALIDATEWHERE", clause, 1, tag, "DRYRUN");
        assert_eq!(count, Reply::Int(3));
    }
    let none = call!(client, "CACHE.INVALIDATEWHERE", "NONE", 1, tag, "DRYRUN");
    assert_eq!(none, Reply::Int(0));
    assert_eq!(call!(client, "CACHE.REVALIDATE", tag), Reply::Int(3));
    let first = call!(client, "CACHE.INVALIDATEWHERE", "ALL", 2, tag, "first");
    assert_eq!(first, Reply::Int(1));
    assert_eq!(call!(client, "CACHE.INVALIDATE", tag), Reply::Int(2));
}

fn fill(client: &mut RawClient, tag: &str) {
    for (key, other) in [("a", "first"), ("b", "second"), ("c", "second")] {
        let set = call!(
            client,
            "CACHE.SET",
            key,
            "v",
            "GRACE",
            100_000,
            "TAGS",
            2,
            tag,
            other
        );
        assert_eq!(set, Reply::ok());
    }
}

#[test]
fn a_stored_tag_can_be_named_after_the_limit_was_lowered() {
    for_all_engines(|engine| {
        let (_server, mut client) = start(engine);
        let tag = "x".repeat(400);
        fill(&mut client, &tag);
        run!(client, "CONFIG SET tagcache.max-tag-bytes 100");
        if can_be_set(&mut client) {
            let set = call!(client, "CACHE.SET", "d", "v", "TAGS", 1, tag);
            let error = set.error().expect("it is over the limit");
            assert!(error.contains("400") && error.contains("100"), "{error}");
        }
        assert_can_be_named(&mut client, &tag);
    });
}

#[test]
fn a_promoted_replica_can_name_tags_beyond_its_own_limits() {
    for_all_engines(|engine| {
        let (primary, mut here) = start(engine);
        let replica = Server::builder()
            .engine(engine)
            .module_args(&["max-tag-bytes", "100", "max-tags-per-entry", "1"])
            .replica_of(&primary)
            .start();
        wait_synchronised(&primary, &replica);
        let tag = "x".repeat(400);
        fill(&mut here, &tag);
        wait_synchronised(&primary, &replica);
        let mut there = replica.raw();
        assert_eq!(run!(there, "REPLICAOF NO ONE"), Reply::ok());
        let set = call!(there, "CACHE.SET", "d", "v", "TAGS", 1, tag);
        assert!(
            set.error().is_some_and(|error| error.contains("100")),
            "{set:?}"
        );
        let set = run!(there, "CACHE.SET d v TAGS 2 a b");
        assert!(
            set.error().is_some_and(|error| error.contains('1')),
            "{set:?}"
        );
        assert_can_be_named(&mut there, &tag);
    });
}

#[test]
fn a_tag_longer_than_any_limit_is_refused_with_the_limit() {
    for_all_engines(|engine| {
        let (_server, mut client) = start(engine);
        let longest = "x".repeat(LONGEST);
        let longer = "x".repeat(LONGEST + 1);
        let named = |tag: &str| {
            [
                args!["CACHE.INVALIDATE", tag],
                args!["CACHE.REVALIDATE", "a", tag],
                args!["CACHE.INVALIDATEWHERE", "ALL", 1, tag],
                args!["CACHE.INVALIDATEWHERE", "ANY", 2, "a", tag],
                args!["CACHE.INVALIDATEWHERE", "NONE", 1, tag],
                args!["CACHE.TAGINFO", tag],
                args!["CACHE.TAGSCAN", tag, 0],
            ]
        };
        for command in named(&longer) {
            let reply = client.call(&command);
            let error = reply.error().expect("it is longer than any tag");
            assert!(
                error.contains("65537") && error.contains("65536"),
                "{error}"
            );
        }
        for command in named(&longest) {
            assert!(!client.call(&command).is_error(), "as long as a tag may be");
        }
        let set = call!(client, "CACHE.SET", "key", "v", "TAGS", 1, longer);
        assert!(
            set.error().is_some_and(|error| error.contains("65537")),
            "{set:?}"
        );
    });
}

#[test]
fn tags_0_stores_an_entry_without_tags() {
    for_all_engines(|engine| {
        let (primary, replica) = replicated(engine);
        let (mut here, mut there) = (primary.raw(), replica.raw());
        assert_eq!(run!(here, "CACHE.SET key old TAGS 1 t"), Reply::ok());
        assert_eq!(run!(here, "CACHE.SET key v TAGS 0 PX 100000"), Reply::ok());
        assert_eq!(run!(here, "CACHE.INVALIDATE t"), Reply::Int(0));
        wait_synchronised(&primary, &replica);
        for client in [&mut here, &mut there] {
            assert_eq!(run!(client, "CACHE.GET key"), Reply::bulk("v"));
            let inspected = run!(client, "CACHE.INSPECT key");
            assert_eq!(inspected.field("tags"), Reply::Array(vec![]));
        }
        for wrong in ["TAGS 0 TAGS 0", "TAGS 0 t", "TAGS -1", "TAGS"] {
            let reply = run!(here, "CACHE.SET key v {wrong}");
            assert!(reply.is_error(), "{wrong}: {reply:?}");
        }
        assert_eq!(run!(here, "CACHE.SET key v TAGS 0 t").error(), Some(SYNTAX));
        // Clauses need a tag: an empty clause would select every entry, or none.
        assert!(run!(here, "CACHE.INVALIDATEWHERE ALL 0").is_error());
    });
}

#[test]
fn an_entry_can_carry_the_maximum_number_of_tags() {
    const MOST: usize = 16_384;
    for_all_engines(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&["max-tags-per-entry", "16384"])
            .start();
        let mut client = server.raw();
        let set = |count: usize| {
            let mut set = args!["CACHE.SET", "many", "v", "TAGS", count];
            set.extend((0..count).map(|n| format!("tag{n}").into_bytes()));
            set
        };
        assert_eq!(client.call(&set(MOST)), Reply::ok());
        assert_eq!(client.call(&set(MOST)), Reply::ok(), "written over");
        let over = client.call(&set(MOST + 1));
        let error = over.error().expect("over the limit");
        assert!(
            error.contains("16385") && error.contains("16384"),
            "{error}"
        );
        let tags = call!(client, "CACHE.INSPECT", "many")
            .field("tags")
            .items()
            .len();
        assert_eq!(tags, MOST);
        assert_eq!(
            call!(client, "CACHE.STATS").field("tags"),
            Reply::Int(MOST as i64)
        );
        let mut all = args!["CACHE.INVALIDATE"];
        all.extend((0..MOST).map(|n| format!("tag{n}").into_bytes()));
        assert_eq!(client.call(&all), Reply::Int(MOST as i64));
        assert_eq!(call!(client, "CACHE.GET", "many"), Reply::Null);
        assert_eq!(call!(client, "CACHE.STATS").field("tags"), Reply::Int(0));
    });
}
