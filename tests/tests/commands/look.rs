//! CACHE.INSPECT and CACHE.TAGINFO.

use tagcache_tests::look::{inspect, stat};
use tagcache_tests::{DEADLINE, Reply, call, on_both_protocols, run, wait_until};

use crate::WRONGTYPE;

fn names(reply: &Reply) -> Vec<String> {
    reply.pairs().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn inspect_shows_an_entry_in_full() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key 12345 PX 100000 TAGS 2 b a");
        let reply = call!(client, "CACHE.INSPECT", "key");
        let expected = [
            "state", "tags", "hits", "bytes", "memory", "pttl", "grace", "age",
        ];
        assert_eq!(names(&reply), expected);
        assert_eq!(reply.field("state").text(), "fresh");
        let tags = vec![Reply::bulk("b"), Reply::bulk("a")];
        assert_eq!(reply.field("tags"), Reply::Array(tags));
        assert_eq!(reply.field("hits"), Reply::Int(0));
        assert_eq!(reply.field("bytes"), Reply::Int(5));
        assert_eq!(reply.field("grace"), Reply::Int(0));
        assert!(matches!(reply.field("pttl"), Reply::Int(1..=100_000)));
        assert!(matches!(reply.field("age"), Reply::Int(0..=60_000)));
        wait_until("the entry ages", DEADLINE, || {
            call!(client, "CACHE.INSPECT", "key").field("age").int() > 1
        });
        call!(client, "CACHE.SET", "key", "12345");
        assert_eq!(
            call!(client, "CACHE.INSPECT", "key").field("pttl"),
            Reply::Int(-1)
        );
        assert_eq!(
            call!(client, "CACHE.INSPECT", "key").field("tags"),
            Reply::Array(vec![])
        );
    });
}

#[test]
fn inspect_counts_no_hit() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "key", "v");
        for _ in 0..5 {
            call!(client, "CACHE.INSPECT", "key");
            call!(client, "CACHE.INSPECT", "absent");
        }
        assert_eq!((stat(client, "hits"), stat(client, "misses")), (0, 0));
        assert_eq!(inspect(client, "key").unwrap().hits, 0);
    });
}

#[test]
fn inspect_of_no_entry_is_nil_and_of_another_type_an_error() {
    on_both_protocols(|_, client| {
        assert!(call!(client, "CACHE.INSPECT", "absent").is_null());
        call!(client, "SET", "string", "v");
        assert_eq!(
            call!(client, "CACHE.INSPECT", "string"),
            Reply::Error(WRONGTYPE.to_owned())
        );
    });
}

#[test]
fn memory_grows_with_value_and_key() {
    on_both_protocols(|_, client| {
        let memory = |client: &mut _, key: &str| inspect(client, key).unwrap().memory;
        call!(client, "CACHE.SET", "k", "");
        let empty = memory(client, "k");
        assert!(empty > 0);
        call!(client, "CACHE.SET", "k", vec![0; 10_000]);
        let with_value = memory(client, "k");
        assert!(
            (empty + 9_900..empty + 16_000).contains(&with_value),
            "{empty} {with_value}"
        );
        let long = "k".repeat(10_000);
        call!(client, "CACHE.SET", long, "");
        assert!(memory(client, &long) >= empty + 9_900);
    });
}

#[test]
fn taginfo_counts_entries_and_their_memory() {
    on_both_protocols(|_, client| {
        assert!(call!(client, "CACHE.TAGINFO", "a").is_null());
        call!(client, "CACHE.SET", "one", "v", "TAGS", 1, "a");
        call!(
            client,
            "CACHE.SET",
            "two",
            vec![1; 5000],
            "TAGS",
            2,
            "b",
            "a"
        );
        let reply = call!(client, "CACHE.TAGINFO", "a");
        assert_eq!(
            names(&reply),
            ["entries", "bytes", "invalidations", "last_invalidated"]
        );
        assert_eq!(reply.field("entries"), Reply::Int(2));
        let (one, two) = (
            inspect(client, "one").unwrap().memory,
            inspect(client, "two").unwrap().memory,
        );
        assert_eq!(reply.field("bytes"), Reply::Int(one + two));
        call!(client, "CACHE.SET", "two", "v", "TAGS", 1, "b");
        assert_eq!(
            call!(client, "CACHE.TAGINFO", "a").field("bytes"),
            Reply::Int(one)
        );
        call!(client, "CACHE.DEL", "one");
        assert!(
            call!(client, "CACHE.TAGINFO", "a").is_null(),
            "no entry and never invalidated"
        );
    });
}

#[test]
fn inspection_commands_change_nothing() {
    on_both_protocols(|server, client| {
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        call!(client, "CACHE.GET", "key");
        let before = tagcache_tests::look::Snapshot::take(server, &[0, 1], &[b"b"]);
        for command in [
            &["CACHE.INSPECT", "key"][..],
            &["CACHE.TAGINFO", "a"],
            &["CACHE.TAGINFO", "b"],
            &["CACHE.TAGSCAN", "a", "0"],
            &["CACHE.STATS"],
            &["INFO", "tagcache"],
        ] {
            assert!(!client.call(command).is_error(), "{command:?}");
        }
        assert_eq!(
            tagcache_tests::look::Snapshot::take(server, &[0, 1], &[b"b"]),
            before
        );
    });
}

#[test]
fn expired_entries_are_not_counted_in_small_tags() {
    on_both_protocols(|_, client| {
        // The server removes nothing by itself.
        run!(client, "DEBUG SET-ACTIVE-EXPIRE 0");
        for n in 0..10 {
            let ms = if n < 4 { 1 } else { 100_000 };
            call!(
                client,
                "CACHE.SET",
                n,
                "value",
                "PX",
                ms,
                "TAGS",
                2,
                "t",
                "u"
            );
        }
        wait_until("four are over", DEADLINE, || {
            (0..4).all(|n| call!(client, "CACHE.GET", n).is_null())
        });
        // Reads have removed the entries above. The commands must find the next ones.
        for n in 0..4 {
            call!(
                client,
                "CACHE.SET",
                n,
                "value",
                "PX",
                1,
                "TAGS",
                2,
                "t",
                "u"
            );
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        let info = run!(client, "CACHE.TAGINFO t");
        assert_eq!(info.field("entries"), Reply::Int(6));
        assert_eq!(info.field("bytes").int() % 6, 0);
        for (n, (command, dropped)) in [("CACHE.REVALIDATE", 6), ("CACHE.INVALIDATE", 0)]
            .into_iter()
            .enumerate()
        {
            call!(
                client,
                "CACHE.SET",
                "short",
                n,
                "PX",
                1,
                "TAGS",
                2,
                "t",
                "u"
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
            let pairs = call!(client, command, "t", "u");
            assert_eq!(pairs, Reply::Int(2 * dropped), "{command}");
        }
    });
}
