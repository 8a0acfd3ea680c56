//! SET … GRACE and the state of its entries.

use tagcache_tests::fetch::{State, fetch};
use tagcache_tests::look::{assert_index_agrees, inspect, stat, tagscan};
use tagcache_tests::{DEADLINE, RawClient, Reply, call, on_both_protocols, run, wait_until};

use crate::LONG;

fn field(client: &mut RawClient, key: &str, name: &str) -> i64 {
    call!(client, "CACHE.INSPECT", key).field(name).int()
}

/// An entry whose logical TTL is over.
fn stale(client: &mut RawClient, key: &str) {
    let set = run!(client, "CACHE.SET {key} old PX 1 GRACE {LONG} TAGS 1 a");
    assert_eq!(set, Reply::ok());
    wait_until("its logical time is over", DEADLINE, || {
        fetch(client, key).state == State::Stale
    });
}

#[test]
fn the_native_ttl_is_the_logical_ttl_plus_grace() {
    on_both_protocols(|_, client| {
        for set in [
            &["EX", "100", "GRACE", "500000"][..],
            &["GRACE", "500000", "PX", "100000"],
            &["TAGS", "2", "GRACE", "a", "GRACE", "500000", "EX", "100"],
        ] {
            let set = [&["CACHE.SET", "key", "v"], set].concat();
            assert_eq!(client.call(&set), Reply::ok(), "{set:?}");
            let logical = field(client, "key", "pttl");
            assert!((90_000..=100_000).contains(&logical), "{logical}");
            assert_eq!(field(client, "key", "grace"), 500_000);
            let native = call!(client, "PTTL", "key").int();
            assert!((590_000..=600_000).contains(&native), "{native}");
            let fetched = fetch(client, "key").pttl;
            assert!(fetched <= logical && fetched > logical - 10_000);
        }
    });
}

#[test]
fn grace_without_a_ttl_does_not_expire_an_entry() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "key", "v", "GRACE", 1000);
        assert_eq!(call!(client, "PTTL", "key"), Reply::Int(-1));
        assert_eq!(field(client, "key", "pttl"), -1);
        assert_eq!(field(client, "key", "grace"), 1000);
        assert_eq!(fetch(client, "key").pttl, -1);
    });
}

#[test]
fn grace_is_added_to_the_default_ttl() {
    on_both_protocols(|_, client| {
        call!(client, "CONFIG", "SET", "tagcache.default-ttl-ms", 50_000);
        call!(client, "CACHE.SET", "key", "v", "GRACE", 100_000);
        let logical = field(client, "key", "pttl");
        assert!((1..=50_000).contains(&logical), "{logical}");
        let native = call!(client, "PTTL", "key").int();
        assert!((100_000..=150_000).contains(&native), "{native}");
    });
}

#[test]
fn keepttl_keeps_the_logical_ttl_and_sets_the_new_grace() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key v PX 100000 GRACE 10000");
        call!(client, "CACHE.SET", "key", "w", "KEEPTTL", "GRACE", 500_000);
        let logical = field(client, "key", "pttl");
        assert!((40_000..=100_000).contains(&logical), "{logical}");
        assert_eq!(field(client, "key", "grace"), 500_000);
        let native = call!(client, "PTTL", "key").int();
        assert!((540_000..=600_000).contains(&native), "{native}");
    });
}

#[test]
fn an_expired_entry_in_grace_is_stale_for_fetch_and_nil_for_get() {
    on_both_protocols(|server, client| {
        stale(client, "key");
        let misses = stat(client, "misses");
        assert!(call!(client, "CACHE.GET", "key").is_null());
        assert!(call!(client, "CACHE.MGET", "key").items()[0].is_null());
        assert_eq!(stat(client, "misses"), misses + 2);
        let answer = fetch(client, "key");
        assert!(answer.is_stale("old"), "{answer:?}");
        assert_eq!(answer.tags, [b"a".to_vec()]);
        let inspected = call!(client, "CACHE.INSPECT", "key");
        assert_eq!(inspected.field("state").text(), "stale");
        assert_eq!(inspected.field("grace"), Reply::Int(LONG));
        assert!(inspected.field("pttl").int() <= 0, "{inspected:?}");
        // The entry is visible: to native commands, in figures, and by its tag.
        assert_eq!(call!(client, "EXISTS", "key"), Reply::Int(1));
        assert!(call!(client, "PTTL", "key").int() > LONG - 10_000_000);
        assert_eq!(stat(client, "entries"), 1);
        assert_eq!(stat(client, "expired"), 0);
        assert_eq!(tagscan(client, b"a", 10).len(), 1);
        let entries = call!(client, "CACHE.TAGINFO", "a").field("entries");
        assert_eq!(entries, Reply::Int(1));
        assert_index_agrees(server, &[0], &[]);
    });
}

#[test]
fn nx_and_xx_treat_a_stale_entry_as_absent() {
    on_both_protocols(|_, client| {
        stale(client, "key");
        assert!(call!(client, "CACHE.SET", "key", "new", "XX").is_null());
        assert!(fetch(client, "key").is_stale("old"));
        assert_eq!(call!(client, "CACHE.SET", "key", "new", "NX"), Reply::ok());
        assert!(fetch(client, "key").is_hit("new"));
        run!(client, "CACHE.SET soft old GRACE {LONG} TAGS 1 a");
        call!(client, "CACHE.REVALIDATE", "a");
        assert!(call!(client, "CACHE.SET", "soft", "new", "XX").is_null());
        assert!(fetch(client, "soft").is_stale("old"));
        assert_eq!(call!(client, "CACHE.SET", "soft", "new", "NX"), Reply::ok());
        assert!(fetch(client, "soft").is_hit("new"));
        call!(client, "CACHE.SET", "bare", "old", "TAGS", 1, "a");
        call!(client, "CACHE.REVALIDATE", "a");
        assert!(call!(client, "CACHE.SET", "bare", "new", "XX").is_null());
        assert_eq!(call!(client, "CACHE.SET", "bare", "new", "NX"), Reply::ok());
    });
}

#[test]
fn an_overwritten_stale_entry_is_fresh_and_keeps_its_hits() {
    on_both_protocols(|server, client| {
        run!(client, "CACHE.SET key old GRACE {LONG} TAGS 2 a b");
        for _ in 0..5 {
            call!(client, "CACHE.GET", "key");
        }
        call!(client, "CACHE.REVALIDATE", "a");
        let before = inspect(client, "key").unwrap().hits;
        assert!(before >= 5);
        assert_eq!(
            call!(client, "CACHE.SET", "key", "new", "TAGS", 1, "a"),
            Reply::ok()
        );
        let entry = inspect(client, "key").unwrap();
        assert_eq!((entry.state.as_str(), entry.hits), ("fresh", before));
        assert_eq!(field(client, "key", "grace"), 0, "the new one has none");
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("new"));
        assert_index_agrees(server, &[0], &[b"b"]);
    });
}

#[test]
fn del_and_invalidate_count_a_stale_entry_as_visible() {
    on_both_protocols(|server, client| {
        stale(client, "one");
        run!(client, "CACHE.SET two v GRACE {LONG} TAGS 1 a");
        call!(client, "CACHE.REVALIDATE", "a");
        assert_eq!(call!(client, "CACHE.DEL", "one", "two"), Reply::Int(2));
        assert_eq!(stat(client, "deletes"), 2);
        assert_index_agrees(server, &[0], &[b"a"]);
        stale(client, "one");
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(1));
        assert!(fetch(client, "one").is_miss(), "hard is hard");
        stale(client, "one");
        assert_eq!(call!(client, "CACHE.FLUSH"), Reply::Int(1));
        assert!(fetch(client, "one").is_miss());
    });
}

#[test]
fn invalid_graces_are_refused_and_change_nothing() {
    on_both_protocols(|server, client| {
        run!(client, "CACHE.SET key v EX 1000 GRACE 1000 TAGS 1 a");
        let before = tagcache_tests::look::Snapshot::take(server, &[0], &[]);
        for (line, error) in [
            ("CACHE.SET key x GRACE", "ERR syntax error"),
            ("CACHE.SET key x GRACE 5 GRACE 5", "ERR syntax error"),
            (
                "CACHE.SET key x GRACE five",
                "ERR value is not an integer or out of range",
            ),
            (
                "CACHE.SET key x GRACE 1.5",
                "ERR value is not an integer or out of range",
            ),
            (
                "CACHE.SET key x GRACE 9223372036854775808",
                "ERR value is not an integer or out of range",
            ),
            ("CACHE.SET key x GRACE -1", "ERR "),
            ("CACHE.SET key x GRACE -9223372036854775808", "ERR "),
            ("CACHE.SET key x GRACE 9223372036854775807", "ERR "),
            (
                "CACHE.SET key x EX 9223372036854775 GRACE 9223372036854775",
                "ERR ",
            ),
            ("CACHE.TOUCH key EX 5 GRACE", "ERR syntax error"),
            ("CACHE.TOUCH key GRACE 5", "ERR syntax error"),
            ("CACHE.TOUCH key EX 5 GRACE 5 GRACE 5", "ERR syntax error"),
            (
                "CACHE.TOUCH key EX 5 GRACE five",
                "ERR value is not an integer or out of range",
            ),
            ("CACHE.TOUCH key EX 5 GRACE -1", "ERR "),
            (
                "CACHE.REVALIDATE",
                "ERR wrong number of arguments for 'cache.revalidate' command",
            ),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let reply = client.call(&words);
            let message = reply.error().unwrap_or_else(|| panic!("{line}: {reply:?}"));
            assert!(message.starts_with(error), "{line}: {message}");
            let after = tagcache_tests::look::Snapshot::take(server, &[0], &[]);
            assert_eq!(after, before, "{line}");
        }
    });
}
