//! CACHE.HITS: hits that a local tier served.

use tagcache_tests::look::{inspect, stat};
use tagcache_tests::{Reply, call, on_both_protocols, run};

use crate::top;

#[test]
fn hits_are_added_to_existing_entries_only() {
    on_both_protocols(|_, client| {
        for key in ["one", "two", "three"] {
            call!(client, "CACHE.SET", key, "v", "TAGS", 1, key);
        }
        call!(client, "CACHE.GET", "one");
        call!(client, "CACHE.INVALIDATE", "three");
        let reply = run!(client, "CACHE.HITS one 10 absent 5 two 3 three 7");
        assert_eq!(reply, Reply::Int(2));
        assert_eq!(inspect(client, "one").unwrap().hits, 11);
        assert_eq!(inspect(client, "two").unwrap().hits, 3);
        let expected = [("one", 11), ("two", 3)].map(|(key, hits)| (key.to_owned(), hits));
        assert_eq!(top(client, 10), expected);
        for key in ["absent", "three"] {
            assert!(
                call!(client, "CACHE.GET", key).is_null(),
                "nothing came to be"
            );
        }
        assert_eq!(call!(client, "CACHE.HITS", "absent", 1), Reply::Int(0));
    });
}

#[test]
fn hits_count_for_a_stale_entry_and_change_nothing_else() {
    on_both_protocols(|_, client| {
        let set = [
            "CACHE.SET",
            "key",
            "v",
            "GRACE",
            "1000000",
            "TAGS",
            "1",
            "a",
        ];
        client.call(&set);
        call!(client, "CACHE.REVALIDATE", "a");
        assert_eq!(call!(client, "CACHE.HITS", "key", 4), Reply::Int(1));
        let entry = inspect(client, "key").unwrap();
        assert_eq!((entry.state.as_str(), entry.hits), ("stale", 4));
        assert_eq!(stat(client, "entries"), 1);
        assert_eq!(call!(client, "PTTL", "key"), Reply::Int(-1));
    });
}

#[test]
fn hits_of_a_key_named_twice_are_summed() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "key", "v");
        let reply = call!(client, "CACHE.HITS", "key", 1, "key", 2).int();
        assert!((1..=2).contains(&reply));
        assert_eq!(inspect(client, "key").unwrap().hits, 3);
    });
}

#[test]
fn a_hit_count_never_overflows() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "key", "v");
        let mut before = 0;
        for count in [
            u64::from(u32::MAX) - 5,
            10,
            u64::from(u32::MAX),
            1 << 40,
            i64::MAX as u64,
        ] {
            call!(client, "CACHE.HITS", "key", count);
            let hits = inspect(client, "key").unwrap().hits;
            assert!(hits >= before, "{count}: {before}, then {hits}");
            before = hits;
        }
        assert!(before >= i64::from(u32::MAX) - 5);
        call!(client, "CACHE.GET", "key");
        assert!(inspect(client, "key").unwrap().hits >= before);
    });
}

#[test]
fn invalid_arguments_are_refused_and_nothing_is_counted() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "key", "v");
        call!(client, "SET", "string", "v");
        let arity = "ERR wrong number of arguments for 'cache.hits' command";
        for (line, error) in [
            ("CACHE.HITS", arity),
            ("CACHE.HITS key", arity),
            ("CACHE.HITS key 1 key", arity),
            (
                "CACHE.HITS key 5 key five",
                "ERR value is not an integer or out of range",
            ),
            ("CACHE.HITS key 5 key -1", "ERR "),
            (
                "CACHE.HITS key 5 key 1.5",
                "ERR value is not an integer or out of range",
            ),
            (
                "CACHE.HITS key 5 key 9223372036854775808",
                "ERR value is not an integer or out of range",
            ),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let reply = client.call(&words);
            let message = reply.error().unwrap_or_else(|| panic!("{line}: {reply:?}"));
            assert!(
                message.starts_with(error) || error == arity && message == "ERR syntax error",
                "{line}: {message}"
            );
            assert_eq!(inspect(client, "key").unwrap().hits, 0, "{line}");
        }
    });
}
