//! CACHE.TAGSCAN and SCAN's guarantees.

use std::collections::BTreeSet;

use tagcache_tests::look::{scan_page, tagscan};
use tagcache_tests::{RawClient, Reply, Rng, args, call, on_both_protocols};

fn fill(client: &mut RawClient, prefix: &str, count: usize, tag: &str) -> BTreeSet<Vec<u8>> {
    let keys: BTreeSet<_> = (0..count)
        .map(|n| format!("{prefix}{n}").into_bytes())
        .collect();
    let commands: Vec<_> = keys
        .iter()
        .map(|key| args!["CACHE.SET", key, "v", "TAGS", 2, "other", tag])
        .collect();
    assert!(
        client
            .pipeline(&commands)
            .iter()
            .all(|reply| *reply == Reply::ok())
    );
    keys
}

#[test]
fn a_scan_returns_exactly_the_keys_of_the_tag() {
    on_both_protocols(|_, client| {
        let keys = fill(client, "key", 1000, "a");
        fill(client, "not", 500, "b");
        for count in [1, 7, 10, 1000, 100_000] {
            assert_eq!(tagscan(client, b"a", count), keys, "COUNT {count}");
        }
        let (next, page) = scan_page(&call!(client, "CACHE.TAGSCAN", "a", 0));
        assert!(
            next != b"0" && page.len() < 1000,
            "without COUNT a page is small: {}",
            page.len()
        );
        let reply = call!(client, "CACHE.TAGSCAN", "a", 0, "count", 1_000_000);
        assert_eq!(scan_page(&reply).1.len(), 1000);
    });
}

#[test]
fn a_scan_of_an_unknown_or_empty_tag_ends_at_once() {
    on_both_protocols(|_, client| {
        let ended = Reply::Array(vec![Reply::bulk("0"), Reply::Array(vec![])]);
        assert_eq!(call!(client, "CACHE.TAGSCAN", "unknown", 0), ended);
        fill(client, "key", 10, "a");
        call!(client, "CACHE.INVALIDATE", "a");
        assert_eq!(call!(client, "CACHE.TAGSCAN", "a", 0), ended);
        assert_eq!(call!(client, "CACHE.TAGSCAN", "a", 17), ended);
    });
}

#[test]
fn a_scan_from_any_cursor_ends() {
    on_both_protocols(|_, client| {
        let keys = fill(client, "key", 300, "a");
        for start in [
            1,
            2,
            255,
            1 << 20,
            u64::from(u32::MAX),
            1 << 40,
            i64::MAX as u64,
        ] {
            let mut cursor = start.to_string().into_bytes();
            let mut pages = 0;
            loop {
                let (next, page) =
                    scan_page(&call!(client, "CACHE.TAGSCAN", "a", cursor, "COUNT", 50));
                assert!(page.iter().all(|key| keys.contains(key)));
                pages += 1;
                assert!(pages < 10_000, "the scan from {start} does not end");
                if next == b"0" {
                    break;
                }
                cursor = next;
            }
        }
    });
}

#[test]
fn a_scan_returns_every_entry_present_throughout() {
    on_both_protocols(|_, client| {
        let mut rng = Rng::from_env(7);
        for round in 0..5 {
            let staying = fill(client, "staying", 400, "a");
            let mut passing = fill(client, "passing", 800, "a");
            let mut seen = BTreeSet::new();
            let mut cursor = b"0".to_vec();
            loop {
                let reply = call!(client, "CACHE.TAGSCAN", "a", cursor, "COUNT", 20);
                let (next, page) = scan_page(&reply);
                seen.extend(page);
                if next == b"0" {
                    break;
                }
                cursor = next;
                for _ in 0..30 {
                    let number = rng.below(1600);
                    let key = format!("passing{number}");
                    match rng.below(5) {
                        0 => call!(client, "CACHE.DEL", key),
                        1 => call!(client, "DEL", key),
                        2 => call!(client, "CACHE.SET", key, "other", "TAGS", 1, "other"),
                        3 => call!(client, "RENAME", key, format!("renamed{number}")),
                        _ => call!(client, "CACHE.SET", key, "new", "TAGS", 2, "other", "a"),
                    };
                    passing.extend([key.into_bytes(), format!("renamed{number}").into_bytes()]);
                    // An entry that is set again with the same tag keeps the tag throughout.
                    let key = format!("staying{}", rng.below(400));
                    call!(
                        client,
                        "CACHE.SET",
                        key,
                        "again",
                        "TAGS",
                        2,
                        "a",
                        format!("t{number}")
                    );
                }
            }
            let missed: Vec<_> = staying
                .difference(&seen)
                .map(|key| key.escape_ascii().to_string())
                .collect();
            assert!(missed.is_empty(), "round {round}: missed {missed:?}");
            assert!(seen.is_subset(&(&staying | &passing)), "round {round}");
            call!(client, "CACHE.FLUSH");
        }
    });
}

#[test]
fn a_scan_across_an_invalidation_returns_no_gone_entry() {
    on_both_protocols(|_, client| {
        fill(client, "old", 1000, "a");
        let (cursor, _) = scan_page(&call!(client, "CACHE.TAGSCAN", "a", 0, "COUNT", 10));
        assert_ne!(cursor, b"0");
        call!(client, "CACHE.INVALIDATE", "a");
        let mut cursor = cursor;
        while cursor != b"0" {
            let (next, page) = scan_page(&call!(client, "CACHE.TAGSCAN", "a", cursor, "COUNT", 10));
            assert_eq!(page.len(), 0);
            cursor = next;
        }
        fill(client, "new", 50, "a");
        assert!(
            tagscan(client, b"a", 7)
                .iter()
                .all(|key| key.starts_with(b"new"))
        );
        assert_eq!(tagscan(client, b"a", 7).len(), 50);
    });
}

#[test]
fn a_huge_count_is_limited_to_the_entries_of_the_tag() {
    on_both_protocols(|_, client| {
        let keys = fill(client, "key", 10, "a");
        let reply = call!(client, "CACHE.TAGSCAN", "a", 0, "COUNT", i64::MAX);
        let (next, page) = scan_page(&reply);
        assert_eq!(next, b"0");
        assert_eq!(page.into_iter().collect::<BTreeSet<_>>(), keys);
    });
}

#[test]
fn a_scan_is_complete_while_the_index_grows_and_shrinks() {
    on_both_protocols(|_, client| {
        // Between entries that will go, so that many move together.
        let mut staying = BTreeSet::new();
        for n in 0..20 {
            fill(client, &format!("passing{n}-"), 1000, "b");
            staying.extend(fill(client, &format!("staying{n}-"), 50, "a"));
        }
        let mut seen = BTreeSet::new();
        let mut cursor = b"0".to_vec();
        for round in 0.. {
            let (next, page) = scan_page(&call!(client, "CACHE.TAGSCAN", "a", cursor, "COUNT", 50));
            seen.extend(page);
            if next == b"0" {
                break;
            }
            cursor = next;
            match round % 4 {
                0 => drop(call!(client, "CACHE.INVALIDATE", "b")),
                1 => drop(fill(client, "more", 5000, "a")),
                2 => drop(
                    client.pipeline(
                        &(0..5000)
                            .map(|n| args!["DEL", format!("more{n}")])
                            .collect::<Vec<_>>(),
                    ),
                ),
                _ => drop(fill(client, "passing", 3000, "b")),
            }
        }
        let missed: Vec<_> = staying
            .difference(&seen)
            .map(|key| key.escape_ascii().to_string())
            .collect();
        assert!(missed.is_empty(), "missed {missed:?}");
    });
}
