//! CACHE.TOP: the most-read entries.

use std::collections::BTreeMap;

use tagcache_tests::look::inspect;
use tagcache_tests::{
    DEADLINE, Reply, Rng, Server, args, call, for_each_engine, on_both_protocols, run, wait_until,
};

use crate::{read, top, top_of};

#[test]
fn the_most_read_entries_come_first_with_their_hits() {
    on_both_protocols(|_, client| {
        assert!(top_of(&call!(client, "CACHE.TOP")).is_empty());
        for n in 0..15 {
            call!(client, "CACHE.SET", format!("key{n:02}"), "v");
            read(client, &format!("key{n:02}"), n * 3 + 1);
        }
        let all: Vec<_> = (0..15)
            .rev()
            .map(|n| (format!("key{n:02}"), n * 3 + 1))
            .collect();
        let default = top_of(&call!(client, "CACHE.TOP"));
        assert_eq!(default, all[..10], "10 by default");
        for count in [1, 5, 15] {
            assert_eq!(top(client, count), all[..count]);
        }
        assert_eq!(top(client, 100), all);
    });
}

#[test]
fn every_kind_of_read_counts() {
    on_both_protocols(|_, client| {
        for key in ["get", "mget", "fetch"] {
            call!(client, "CACHE.SET", key, "v");
        }
        call!(client, "CACHE.GET", "get");
        call!(client, "CACHE.MGET", "mget", "mget", "absent");
        for _ in 0..3 {
            call!(client, "CACHE.FETCH", "fetch");
        }
        let expected = [("fetch", 3), ("mget", 2), ("get", 1)];
        let expected = expected.map(|(key, hits)| (key.to_owned(), hits));
        assert_eq!(top(client, 10), expected);
    });
}

#[test]
fn only_visible_entries_of_the_selected_database_are_listed() {
    on_both_protocols(|_, client| {
        for (key, tag) in [
            ("kept", "k"),
            ("dropped", "d"),
            ("deleted", "k"),
            ("stale", "s"),
        ] {
            run!(client, "CACHE.SET {key} v GRACE 1000000 TAGS 1 {tag}");
            read(client, key, 5);
        }
        call!(client, "CACHE.SET", "expired", "v");
        read(client, "expired", 50);
        call!(client, "PEXPIREAT", "expired", 1);
        call!(client, "CACHE.INVALIDATE", "d");
        call!(client, "CACHE.DEL", "deleted");
        call!(client, "CACHE.REVALIDATE", "s");
        let keys: Vec<_> = top(client, 10).into_iter().map(|(key, _)| key).collect();
        assert!(keys.contains(&"kept".to_owned()), "{keys:?}");
        for key in ["dropped", "deleted", "expired"] {
            assert!(!keys.contains(&key.to_owned()), "{key} is gone: {keys:?}");
        }
        call!(client, "SELECT", 1);
        assert!(top(client, 10).is_empty());
        call!(client, "CACHE.SET", "other", "v");
        read(client, "other", 2);
        assert_eq!(top(client, 10), [("other".to_owned(), 2)]);
        call!(client, "CACHE.FLUSH");
        assert!(top(client, 10).is_empty());
    });
}

#[test]
fn expired_entries_not_yet_removed_are_not_listed() {
    on_both_protocols(|server, client| {
        call!(client, "DEBUG", "SET-ACTIVE-EXPIRE", 0);
        for n in 0..50 {
            call!(client, "CACHE.SET", format!("kept{n:02}"), "v");
            call!(client, "CACHE.HITS", format!("kept{n:02}"), n + 1);
            call!(client, "CACHE.SET", format!("expired{n}"), "v");
            call!(client, "CACHE.HITS", format!("expired{n}"), 1000);
            call!(client, "PEXPIRE", format!("expired{n}"), 1);
        }
        call!(client, "SET", "last", "v", "PX", 1);
        let is_over = || server.raw().call(&["EXISTS", "last"]) == Reply::Int(0);
        wait_until("all have expired", DEADLINE, is_over);
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(100));
        let expected: Vec<_> = (40..50)
            .rev()
            .map(|n| (format!("kept{n:02}"), n + 1))
            .collect();
        assert_eq!(top(client, 10), expected);
    });
}

#[test]
fn top_lists_no_more_keys_than_the_setting_allows() {
    on_both_protocols(|_, client| {
        call!(client, "CONFIG", "SET", "tagcache.top-keys", 20);
        for n in 0..50 {
            call!(client, "CACHE.SET", format!("key{n:02}"), "v");
            read(client, &format!("key{n:02}"), n + 1);
        }
        for count in [20, 21, 1000] {
            let reply = call!(client, "CACHE.TOP", count);
            if reply.is_error() {
                assert!(count > 20, "{reply:?}");
                continue;
            }
            let expected: Vec<_> = (30..50)
                .rev()
                .map(|n| (format!("key{n:02}"), n + 1))
                .collect();
            assert_eq!(top_of(&reply), expected, "{count}");
        }
    });
}

#[test]
fn top_refuses_invalid_arguments() {
    on_both_protocols(|_, client| {
        for (line, error) in [
            (
                "CACHE.TOP five",
                "ERR value is not an integer or out of range",
            ),
            ("CACHE.TOP -1", "ERR "),
            (
                "CACHE.TOP 9223372036854775808",
                "ERR value is not an integer or out of range",
            ),
            (
                "CACHE.TOP 5 5",
                "ERR wrong number of arguments for 'cache.top' command",
            ),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let reply = client.call(&words);
            let message = reply.error().unwrap_or_else(|| panic!("{line}: {reply:?}"));
            // The server itself checks the arity if it is fixed.
            assert!(
                message.starts_with(error)
                    || message == "ERR syntax error" && line.ends_with("5 5"),
                "{line}: {message}"
            );
        }
    });
}

/// Compares random reads of many keys with sorting all counts.
fn against_sorting(seed: u64, keys: usize, tracked: usize, overwrites: bool) {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&["top-keys", &tracked.to_string()])
            .start();
        let mut client = server.raw();
        let mut rng = Rng::from_env(seed);
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        let sets: Vec<_> = (0..keys)
            .map(|n| args!["CACHE.SET", format!("key{n}"), "v"])
            .collect();
        client.pipeline(&sets);
        for _ in 0..30 {
            let mut commands = Vec::new();
            for _ in 0..500 {
                // Some keys are read far more often than others.
                let key = format!("key{}", rng.below(1 + rng.clone().below(keys)));
                rng.next_u64();
                if overwrites && rng.one_in(10) {
                    commands.push(args!["CACHE.SET", key, "w", "TAGS", 1, "t"]);
                } else {
                    *counts.entry(key.clone()).or_default() += 1;
                    commands.push(args!["CACHE.GET", key]);
                }
            }
            client.pipeline(&commands);
            let mut sorted: Vec<i64> = counts.values().copied().collect();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            for count in [1, 7, tracked] {
                let seen = top(&mut client, count);
                for (key, hits) in &seen {
                    assert_eq!(counts.get(key), Some(hits), "hits of {key}");
                }
                let hits: Vec<i64> = seen.iter().map(|(_, hits)| *hits).collect();
                assert_eq!(hits, sorted[..count.min(sorted.len())], "top {count}");
            }
        }
    });
}

#[test]
fn top_matches_sorting_for_fewer_keys_than_are_tracked() {
    against_sorting(71, 150, 200, true);
}

#[test]
fn top_matches_sorting_for_many_more_keys_than_are_tracked() {
    against_sorting(72, 3000, 50, false);
}

#[test]
fn after_random_traffic_listed_keys_exist_with_exact_hits() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&["top-keys", "100"])
            .start();
        let mut client = server.raw();
        let mut rng = Rng::from_env(73);
        for _ in 0..20 {
            tagcache_tests::traffic::write(&mut client, &mut rng, 300);
            let gets: Vec<_> = (0..1000)
                .map(|_| args!["CACHE.GET", format!("key{}", rng.below(40))])
                .collect();
            client.pipeline(&gets);
            for database in tagcache_tests::traffic::DATABASES {
                call!(client, "SELECT", database);
                for (key, hits) in top(&mut client, 100) {
                    let entry = inspect(&mut client, &key);
                    let entry = entry.unwrap_or_else(|| panic!("{key} is listed and not there"));
                    assert_eq!(entry.hits, hits, "{key}");
                }
            }
        }
    });
}
