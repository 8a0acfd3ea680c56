//! CACHE.SET: the values that it stores, replaces and keeps.

use tagcache_tests::look::{inspect, tagscan};
use tagcache_tests::{Reply, call, on_both_protocols, run};

use crate::WRONGTYPE;

#[test]
fn a_value_of_any_bytes_is_returned_as_it_was_set() {
    on_both_protocols(|_, client| {
        let all_bytes: Vec<u8> = (0..=255).collect();
        for value in [
            &b"value"[..],
            b"",
            b"\0",
            b"a\r\nb",
            &all_bytes,
            &vec![7; 100_000],
        ] {
            assert_eq!(call!(client, "CACHE.SET", "key", value), Reply::ok());
            assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk(value));
            assert_eq!(inspect(client, "key").unwrap().bytes, value.len() as i64);
        }
        assert_eq!(
            call!(client, "CACHE.SET", all_bytes, "of any bytes"),
            Reply::ok()
        );
        assert_eq!(
            call!(client, "CACHE.GET", all_bytes),
            Reply::bulk("of any bytes")
        );
        assert_eq!(
            call!(client, "TYPE", all_bytes),
            Reply::Simple("tagcache1".to_owned())
        );
    });
}

/// Values of about 1,000 and 16,384 bytes are stored apart from their entries.
#[test]
fn values_of_all_sizes_replace_each_other() {
    on_both_protocols(|_, client| {
        let lens = [
            100, 1_000, 1_010, 990, 1_000, 500, 512, 16_383, 16_384, 0, 1_000,
        ];
        for (n, len) in lens.into_iter().enumerate() {
            let value = vec![n as u8; len];
            let set = call!(client, "CACHE.SET", "key", value.as_slice(), "TAGS", 1, "a");
            assert_eq!(set, Reply::ok());
            let copied = call!(client, "COPY", "key", "copy", "REPLACE");
            assert_eq!(copied, Reply::Int(1));
            call!(client, "RENAME", "copy", "renamed");
            let dumped = call!(client, "DUMP", "renamed");
            call!(client, "RESTORE", "restored", 0, dumped.bytes(), "REPLACE");
            for key in ["key", "renamed", "restored"] {
                assert_eq!(
                    call!(client, "CACHE.GET", key),
                    Reply::bulk(&value),
                    "{len}"
                );
            }
        }
        let emptied = call!(client, "CACHE.INVALIDATE", "a");
        assert_eq!(emptied, Reply::Int(3));
    });
}

#[test]
fn an_overwrite_replaces_value_tags_and_times() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key old EX 100 TAGS 2 a b");
        assert_eq!(
            call!(client, "CACHE.SET", "key", "new", "TAGS", 2, "b", "c"),
            Reply::ok()
        );
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("new"));
        let entry = inspect(client, "key").unwrap();
        assert_eq!(entry.tags, [b"b", b"c"]);
        assert!(!entry.expires, "the TTL went with the old entry");
        assert_eq!(call!(client, "PTTL", "key"), Reply::Int(-1));
        assert!(tagscan(client, b"a", 10).is_empty());
        assert_eq!(tagscan(client, b"b", 10).len(), 1);
        assert_eq!(tagscan(client, b"c", 10).len(), 1);
        call!(client, "CACHE.SET", "key", "untagged");
        assert!(inspect(client, "key").unwrap().tags.is_empty());
        assert!(tagscan(client, b"c", 10).is_empty());
    });
}

#[test]
fn an_overwrite_keeps_the_hits_and_a_new_entry_starts_at_0() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "key", "old", "TAGS", 1, "a");
        for _ in 0..3 {
            call!(client, "CACHE.GET", "key");
        }
        assert_eq!(inspect(client, "key").unwrap().hits, 3);
        call!(client, "CACHE.SET", "key", "new", "TAGS", 1, "b");
        assert_eq!(inspect(client, "key").unwrap().hits, 3);
        call!(client, "CACHE.DEL", "key");
        call!(client, "CACHE.SET", "key", "again");
        assert_eq!(inspect(client, "key").unwrap().hits, 0);
    });
}

#[test]
fn nx_and_xx_depend_on_whether_an_entry_exists() {
    on_both_protocols(|_, client| {
        assert!(call!(client, "CACHE.SET", "key", "v", "XX").is_null());
        assert!(inspect(client, "key").is_none());
        assert_eq!(
            call!(client, "CACHE.SET", "key", "first", "NX"),
            Reply::ok()
        );
        assert!(call!(client, "CACHE.SET", "key", "second", "NX", "TAGS", 1, "a").is_null());
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("first"));
        assert!(inspect(client, "key").unwrap().tags.is_empty());
        assert_eq!(
            call!(client, "CACHE.SET", "key", "third", "XX"),
            Reply::ok()
        );
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("third"));
    });
}

#[test]
fn null_replies_use_the_null_of_the_clients_protocol() {
    on_both_protocols(|_, client| {
        let resp3 = matches!(call!(client, "CACHE.STATS"), Reply::Map(_));
        let null: &[u8] = if resp3 { b"_\r\n" } else { b"$-1\r\n" };
        client.send(&["CACHE.SET", "key", "v", "XX"]);
        assert_eq!(client.read_bytes(null.len()).unwrap(), null);
        client.send(&["CACHE.GET", "key"]);
        assert_eq!(client.read_bytes(null.len()).unwrap(), null);
    });
}

#[test]
fn nx_and_xx_ignore_an_invalidated_or_expired_entry() {
    on_both_protocols(|_, client| {
        for gone in ["invalidated", "expired"] {
            call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
            if gone == "invalidated" {
                assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(1));
            } else {
                call!(client, "CACHE.TOUCH", "key", "PXAT", 1);
            }
            assert!(
                call!(client, "CACHE.SET", "key", "v", "XX").is_null(),
                "{gone}"
            );
            assert_eq!(
                call!(client, "CACHE.SET", "key", "v", "NX"),
                Reply::ok(),
                "{gone}"
            );
        }
    });
}

#[test]
fn duplicate_tags_are_stored_once_in_the_order_given() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key v TAGS 6 c a c b a c");
        assert_eq!(inspect(client, "key").unwrap().tags, [b"c", b"a", b"b"]);
        assert_eq!(call!(client, "CACHE.STATS").field("tags"), Reply::Int(3));
        assert_eq!(
            call!(client, "CACHE.TAGINFO", "c").field("entries"),
            Reply::Int(1)
        );
        assert_eq!(call!(client, "CACHE.INVALIDATE", "c"), Reply::Int(1));
    });
}

#[test]
fn tags_are_arbitrary_bytes_and_compared_byte_by_byte() {
    on_both_protocols(|_, client| {
        let tags: [&[u8]; 7] = [
            b"tag",
            b"TAG",
            b"tag\0",
            b"\0tag",
            b"t\r\nag",
            b"\xff\xfe",
            b"XX",
        ];
        for (number, tag) in tags.iter().enumerate() {
            assert_eq!(
                call!(client, "CACHE.SET", number, "v", "TAGS", 1, tag),
                Reply::ok()
            );
        }
        for (number, tag) in tags.iter().enumerate() {
            let keys = tagscan(client, tag, 10);
            assert_eq!(
                keys.into_iter().collect::<Vec<_>>(),
                [number.to_string().into_bytes()]
            );
            assert_eq!(
                inspect(client, &number.to_string()).unwrap().tags,
                [tag.to_vec()]
            );
        }
    });
}

#[test]
fn tags_up_to_the_limits_of_count_and_length_are_accepted() {
    on_both_protocols(|_, client| {
        let long = "t".repeat(512);
        assert_eq!(
            call!(client, "CACHE.SET", "long", "v", "TAGS", 1, long),
            Reply::ok()
        );
        assert_eq!(inspect(client, "long").unwrap().tags, [long.as_bytes()]);
        let mut set = tagcache_tests::args!["CACHE.SET", "many", "v", "TAGS", 128];
        set.extend((0..128).map(|n: i32| format!("tag{n}").into_bytes()));
        assert_eq!(client.call(&set), Reply::ok());
        assert_eq!(inspect(client, "many").unwrap().tags, set[5..]);
        assert_eq!(call!(client, "CACHE.STATS").field("tags"), Reply::Int(129));
    });
}

#[test]
fn a_key_of_another_type_is_refused_and_unchanged() {
    on_both_protocols(|_, client| {
        call!(client, "RPUSH", "list", "a");
        for options in [&["TAGS", "1", "a"][..], &["NX"], &["XX"], &["KEEPTTL"], &[]] {
            let mut set = vec!["CACHE.SET", "list", "v"];
            set.extend_from_slice(options);
            assert_eq!(
                client.call(&set),
                Reply::Error(WRONGTYPE.to_owned()),
                "{options:?}"
            );
        }
        assert_eq!(
            call!(client, "LRANGE", "list", 0, -1),
            Reply::Array(vec![Reply::bulk("a")])
        );
        assert!(tagscan(client, b"a", 10).is_empty());
    });
}

#[test]
fn setting_the_same_key_many_times_leaves_one_entry() {
    on_both_protocols(|_, client| {
        for n in 0..500 {
            call!(
                client,
                "CACHE.SET",
                "key",
                n,
                "TAGS",
                2,
                "shared",
                format!("own{n}")
            );
        }
        let stats = call!(client, "CACHE.STATS");
        assert_eq!(stats.field("entries"), Reply::Int(1));
        assert_eq!(stats.field("tags"), Reply::Int(2));
        assert_eq!(stats.field("sets"), Reply::Int(500));
        assert_eq!(
            call!(client, "CACHE.TAGINFO", "shared").field("entries"),
            Reply::Int(1)
        );
        assert!(call!(client, "CACHE.TAGINFO", "own7").is_null());
    });
}
