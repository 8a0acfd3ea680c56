//! CACHE.STATS, CACHE.RESETSTATS and INFO tagcache.

use tagcache_tests::look::{STATS_FIELDS, info_text, stat, wait_reclaimed};
use tagcache_tests::{
    DEADLINE, RawClient, Reply, args, call, on_both_protocols, split, wait_until,
};

/// A little of everything in the selected database: 2 entries, 3 hits, 1 miss, 4 sets, 1 delete,
/// 1 invalidation of 1 entry.
fn traffic(client: &mut RawClient) {
    call!(client, "CACHE.SET", "one", "v", "TAGS", 2, "a", "b");
    call!(client, "CACHE.SET", "two", "v", "TAGS", 1, "b");
    call!(client, "CACHE.SET", "three", "v", "TAGS", 1, "c");
    call!(client, "CACHE.SET", "four", "v");
    call!(client, "CACHE.SET", "four", "refused", "NX");
    call!(client, "CACHE.MGET", "one", "two", "absent");
    call!(client, "CACHE.GET", "one");
    call!(client, "CACHE.DEL", "four");
    call!(client, "CACHE.INVALIDATE", "c");
}

#[test]
fn stats_reports_exact_counts_after_known_traffic() {
    on_both_protocols(|_, client| {
        traffic(client);
        let stats = call!(client, "CACHE.STATS");
        let names: Vec<_> = stats.pairs().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, STATS_FIELDS);
        let expected = [
            ("entries", 2),
            ("tags", 2),
            ("hits", 3),
            ("misses", 1),
            ("stale_hits", 0),
            ("sets", 4),
            ("deletes", 1),
            ("expired", 0),
            ("evicted", 0),
            ("invalidations", 1),
            ("invalidated", 1),
            ("reclaim_backlog", 0),
            ("reclaimed", 1),
            ("leases", 0),
            ("lease_waiters", 0),
            ("leases_refused", 0),
            ("clock", 1),
        ];
        for (name, value) in expected {
            assert_eq!(stats.field(name), Reply::Int(value), "{name}");
        }
        assert!((stats.field("hit_rate").double() - 0.75).abs() < 1e-9);
        assert!(stats.field("index_bytes").int() > 0);
        let memory =
            |client: &mut RawClient, key| call!(client, "CACHE.INSPECT", key).field("memory").int();
        let (one, two) = (memory(client, "one"), memory(client, "two"));
        assert_eq!(stats.field("bytes"), Reply::Int(one + two));
    });
}

#[test]
fn hit_rate_is_a_double_in_resp3_and_a_string_in_resp2() {
    on_both_protocols(|_, client| {
        let stats = call!(client, "CACHE.STATS");
        match (&stats, stats.field("hit_rate")) {
            (Reply::Map(_), Reply::Double(rate)) => assert!(rate.abs() < 1e-9),
            (Reply::Array(_), Reply::Bulk(rate)) => assert_eq!(rate, b"0"),
            (_, other) => panic!("hit_rate is {other:?}"),
        }
    });
}

#[test]
fn a_native_key_with_an_entrys_ttl_is_not_counted_as_expired() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "key", "v", "PX", 1_000);
        assert_eq!(call!(client, "SET", "key", "v", "KEEPTTL"), Reply::ok());
        wait_until("it expires", DEADLINE, || {
            call!(client, "EXISTS", "key") == Reply::Int(0)
        });
        assert_eq!(stat(client, "expired"), 0);
    });
}

#[test]
fn an_expired_native_key_is_not_counted_as_the_deleted_entry() {
    on_both_protocols(|_, client| {
        for delete in [
            "DEL key",
            "UNLINK key",
            "CACHE.DEL key",
            "EXPIRE key -1",
            "SET key v",
        ] {
            call!(client, "CACHE.SET", "key", "v");
            assert!([Reply::Int(1), Reply::ok()].contains(&client.call(&split(delete))));
            // Valkey since 8.1 reports the key as expired after EXPIRE with a time in the past.
            let expired = stat(client, "expired");
            call!(client, "SET", "key", "v", "PX", 1);
            wait_until("it expires", DEADLINE, || {
                call!(client, "EXISTS", "key") == Reply::Int(0)
            });
            assert_eq!(stat(client, "expired"), expired, "{delete}");
        }
    });
}

#[test]
fn an_expired_native_key_is_not_counted_as_the_replaced_entry() {
    on_both_protocols(|_, client| {
        assert_eq!(call!(client, "CONFIG", "SET", "hz", 1), Reply::ok()); // Few ticks.
        call!(client, "SET", "native", "v");
        let dump = call!(client, "DUMP", "native").bytes().to_vec();
        for overwrite in [
            args!["RENAME", "native", "key"],
            args!["COPY", "native", "key", "REPLACE"],
            args!["RESTORE", "key", 300, &dump, "REPLACE"],
        ] {
            let replies = client.pipeline(&[
                args!["SET", "native", "v", "PX", 300],
                args!["CACHE.SET", "key", "v"],
                overwrite.clone(),
            ]);
            assert!([Reply::Int(1), Reply::ok()].contains(&replies[2]));
            wait_until("it expires", DEADLINE, || {
                call!(client, "EXISTS", "key") == Reply::Int(0)
            });
            assert_eq!(stat(client, "expired"), 0, "{overwrite:?}");
        }
    });
}

#[test]
fn resetstats_resets_counters_and_keeps_current_sizes() {
    on_both_protocols(|_, client| {
        traffic(client);
        let before = call!(client, "CACHE.STATS");
        assert_eq!(call!(client, "CACHE.RESETSTATS"), Reply::ok());
        let stats = call!(client, "CACHE.STATS");
        for kept in [
            "entries",
            "tags",
            "bytes",
            "index_bytes",
            "reclaim_backlog",
            "clock",
        ] {
            assert_eq!(stats.field(kept), before.field(kept), "{kept}");
        }
        for counter in [
            "hits",
            "misses",
            "stale_hits",
            "sets",
            "deletes",
            "expired",
            "evicted",
            "invalidations",
            "invalidated",
            "reclaimed",
            "reclaim_max_us",
            "leases_refused",
        ] {
            assert_eq!(stats.field(counter), Reply::Int(0), "{counter}");
        }
        assert!(stats.field("hit_rate").double().abs() < 1e-9);
        let hits = call!(client, "CACHE.INSPECT", "one").field("hits");
        assert_eq!(hits, Reply::Int(2), "the hits of an entry are its own");
    });
}

#[test]
fn resetstats_affects_only_the_selected_database() {
    on_both_protocols(|_, client| {
        traffic(client);
        call!(client, "SELECT", 1);
        traffic(client);
        call!(client, "CACHE.RESETSTATS");
        assert_eq!(stat(client, "sets"), 0);
        call!(client, "SELECT", 0);
        assert_eq!(stat(client, "sets"), 4);
    });
}

#[test]
fn info_sums_the_statistics_of_all_databases() {
    on_both_protocols(|_, client| {
        for database in [0, 3] {
            call!(client, "SELECT", database);
            traffic(client);
        }
        // A third database adds only its own figures to the sums.
        call!(client, "SELECT", 5);
        call!(client, "CACHE.GET", "absent");
        call!(client, "CACHE.GET", "absent");
        let text = call!(client, "INFO", "tagcache").text();
        assert!(text.starts_with("# tagcache\r\n"), "{text}");
        assert_eq!(text.matches("# ").count(), 1, "one section: {text}");
        for name in STATS_FIELDS {
            let value = info_text(client, &format!("tagcache_{name}"));
            let per_database: Vec<Reply> = [0, 3, 5]
                .map(|database| {
                    call!(client, "SELECT", database);
                    call!(client, "CACHE.STATS").field(name)
                })
                .to_vec();
            match name {
                "hit_rate" => {
                    let rate: f64 = value.parse().unwrap();
                    assert!((rate - 0.6).abs() < 1e-6, "{rate}");
                }
                "reclaim_max_us" => {
                    let longest = per_database.iter().map(Reply::int).max().unwrap();
                    assert_eq!(value, longest.to_string(), "{name}");
                }
                _ => {
                    let sum: i64 = per_database.iter().map(Reply::int).sum();
                    assert_eq!(value, sum.to_string(), "{name}");
                }
            }
        }
        for database in [0, 3] {
            let line = info_text(client, &format!("tagcache_db{database}"));
            call!(client, "SELECT", database);
            let stats = call!(client, "CACHE.STATS");
            let figures = ["entries", "tags", "bytes", "clock"]
                .map(|name| format!("{name}={}", stats.field(name).int()))
                .join(",");
            assert_eq!(line, figures);
        }
        assert!(!text.contains("tagcache_db1:"), "{text}");
    });
}

#[test]
fn reclaimed_counts_entries_whose_memory_was_freed() {
    on_both_protocols(|_, client| {
        for n in 0..2000 {
            call!(client, "CACHE.SET", n, "v", "TAGS", 1, "a");
        }
        call!(client, "CACHE.INVALIDATE", "a");
        assert_eq!(stat(client, "invalidated"), 2000);
        wait_reclaimed(client);
        assert_eq!(stat(client, "reclaimed"), 2000);
        assert!(stat(client, "reclaim_max_us") > 0);
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(0));
    });
}

#[test]
fn reported_memory_falls_again_after_a_flush() {
    on_both_protocols(|_, client| {
        let index_before = stat(client, "index_bytes");
        for n in 0..5000 {
            call!(
                client,
                "CACHE.SET",
                n,
                "v",
                "TAGS",
                2,
                format!("tag{n}"),
                "shared"
            );
        }
        let index_full = stat(client, "index_bytes");
        assert!(
            index_full > index_before + 5000,
            "{index_before} {index_full}"
        );
        call!(client, "CACHE.FLUSH");
        wait_until("bytes are 0", DEADLINE, || stat(client, "bytes") == 0);
        wait_reclaimed(client);
        wait_until("the index gives its tables back", DEADLINE, || {
            stat(client, "index_bytes") < index_before + (index_full - index_before) / 4
        });
    });
}
