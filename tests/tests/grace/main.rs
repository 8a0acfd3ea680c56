//! Grace: an entry that has expired or was softly invalidated may be served as stale for a while, and only by FETCH.

mod aof;
mod carried;
mod copies;
mod ends;
mod limit;
mod revalidate;
mod set;
mod touch;

use tagcache_tests::fetch::fetch;
use tagcache_tests::look::inspect;
use tagcache_tests::{DEADLINE, RawClient, Reply, args, call, command, wait_until};

/// Longer than any test takes.
const LONG: i64 = 1_000_000_000;

/// Entries that became stale in either way, entries without any grace, and fresh ones, side by side.
fn dataset(client: &mut RawClient) {
    let sets = [
        command!("CACHE.SET fresh v PX {LONG} GRACE 5000 TAGS 1 kept"),
        command!("CACHE.SET lasting v GRACE {LONG} TAGS 1 kept"),
        command!("CACHE.SET soft v GRACE {LONG} TAGS 2 soft kept"),
        args![
            "CACHE.SET",
            "soft timed",
            "v",
            "PX",
            LONG,
            "GRACE",
            LONG,
            "TAGS",
            1,
            "soft"
        ],
        args!["CACHE.SET", "no grace", "v", "PX", LONG, "TAGS", 1, "soft"],
        command!("CACHE.SET expired v PX 1 GRACE {LONG} TAGS 1 kept"),
        command!("CACHE.SET hard v PX {LONG} GRACE {LONG} TAGS 1 hard"),
    ];
    for (set, reply) in sets.iter().zip(client.pipeline(&sets)) {
        assert_eq!(reply, Reply::ok(), "{}", set[1].escape_ascii());
    }
    for key in ["fresh", "soft", "soft"] {
        call!(client, "CACHE.GET", key);
    }
    call!(client, "CACHE.REVALIDATE", "soft");
    call!(client, "CACHE.INVALIDATE", "hard");
    wait_until("its logical time is over", DEADLINE, || {
        call!(client, "CACHE.GET", "expired").is_null()
    });
}

/// Checks a server that holds [`dataset`] against the contract.
fn holds_dataset(client: &mut RawClient, what: &str) {
    for key in ["fresh", "lasting"] {
        assert!(fetch(client, key).is_hit("v"), "{what}: {key}");
        let state = inspect(client, key).map(|entry| entry.state);
        assert_eq!(state.as_deref(), Some("fresh"), "{what}: {key}");
    }
    for key in ["soft", "soft timed", "expired"] {
        let answer = fetch(client, key);
        assert!(answer.is_stale("v"), "{what}: {key}: {answer:?}");
        assert!(
            call!(client, "CACHE.GET", key).is_null(),
            "{what}: GET serves {key}"
        );
        let state = inspect(client, key).map(|entry| entry.state);
        assert_eq!(state.as_deref(), Some("stale"), "{what}: {key}");
    }
    for key in ["no grace", "hard"] {
        assert!(fetch(client, key).is_miss(), "{what}: {key}");
        assert!(inspect(client, key).is_none(), "{what}: {key}");
    }
    for (key, grace) in [("fresh", 5000), ("lasting", LONG), ("soft", LONG)] {
        let seen = call!(client, "CACHE.INSPECT", key).field("grace");
        assert_eq!(seen, Reply::Int(grace), "{what}: {key}");
    }
    assert_eq!(fetch(client, "lasting").pttl, -1, "{what}");
    let pttl = fetch(client, "fresh").pttl;
    assert!(
        (LONG - 10_000_000..=LONG).contains(&pttl),
        "{what}: pttl {pttl}"
    );
    let hits = inspect(client, "soft").map(|entry| entry.hits);
    assert!(hits.is_some_and(|hits| hits >= 2), "{what}: {hits:?}");
}
