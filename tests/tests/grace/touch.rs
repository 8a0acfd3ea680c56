//! TOUCH … GRACE, and the native commands that change a TTL.

use tagcache_tests::fetch::{State, fetch};
use tagcache_tests::look::{assert_index_agrees, inspect};
use tagcache_tests::{DEADLINE, RawClient, Reply, call, on_both_protocols, run, wait_until};

use crate::LONG;

/// Logical and native TTL, and grace.
fn times(client: &mut RawClient, key: &str) -> (i64, i64, i64) {
    let inspected = call!(client, "CACHE.INSPECT", key);
    (
        inspected.field("pttl").int(),
        call!(client, "PTTL", key).int(),
        inspected.field("grace").int(),
    )
}

#[test]
fn touch_sets_ttl_and_grace() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        let now = call!(client, "TIME").items()[0].int();
        let (exat, pxat) = ((now + 100).to_string(), ((now + 100) * 1000).to_string());
        for words in [
            &["EX", "100", "GRACE", "500000"][..],
            &["PX", "100000", "GRACE", "500000"],
            &["EXAT", &exat, "GRACE", "500000"],
            &["PXAT", &pxat, "GRACE", "500000"],
        ] {
            let touch = [&["CACHE.TOUCH", "key"], words].concat();
            assert_eq!(client.call(&touch), Reply::Int(1), "{words:?}");
            let (logical, native, grace) = times(client, "key");
            assert!(
                (80_000..=100_000).contains(&logical),
                "{words:?}: {logical}"
            );
            assert!((580_000..=600_000).contains(&native), "{words:?}: {native}");
            assert_eq!(grace, 500_000);
        }
        let persist = call!(client, "CACHE.TOUCH", "key", "PERSIST", "GRACE", 7000);
        assert_eq!(persist, Reply::Int(1));
        assert_eq!(times(client, "key"), (-1, -1, 7000));
    });
}

#[test]
fn touch_makes_an_expired_entry_in_grace_fresh() {
    on_both_protocols(|server, client| {
        run!(client, "CACHE.SET key v PX 1 GRACE {LONG} TAGS 1 a");
        wait_until("its logical time is over", DEADLINE, || {
            fetch(client, "key").state == State::Stale
        });
        let touch = call!(client, "CACHE.TOUCH", "key", "EX", 1000, "GRACE", 5000);
        assert_eq!(touch, Reply::Int(1), "it is visible");
        assert!(fetch(client, "key").is_hit("v"));
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
        assert_index_agrees(server, &[0], &[]);
    });
}

#[test]
fn touch_does_not_make_an_invalidated_entry_fresh() {
    on_both_protocols(|_, client| {
        for touch in [
            &["CACHE.TOUCH", "key", "EX", "1000"][..],
            &["CACHE.TOUCH", "key", "PERSIST"],
            &["CACHE.TOUCH", "key", "EX", "1000", "GRACE", "500000"],
            &["EXPIRE", "key", "1000"],
            &["PERSIST", "key"],
        ] {
            run!(client, "CACHE.SET key v EX 500 GRACE {LONG} TAGS 1 a");
            call!(client, "CACHE.REVALIDATE", "a");
            client.call(touch);
            assert!(call!(client, "CACHE.GET", "key").is_null(), "{touch:?}");
            let answer = fetch(client, "key");
            assert!(
                answer.is_stale("v") || answer.is_miss(),
                "{touch:?}: {answer:?}"
            );
        }
    });
}

#[test]
fn touch_with_a_past_time_removes_and_set_leaves_the_grace() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key v GRACE {LONG} TAGS 1 a");
        let now = call!(client, "TIME").items()[0].int();
        let reply = call!(client, "CACHE.TOUCH", "key", "EXAT", now - 5, "GRACE", LONG);
        assert_eq!(reply, Reply::Int(1));
        assert!(fetch(client, "key").is_miss());
        let set = call!(
            client,
            "CACHE.SET",
            "born",
            "v",
            "EXAT",
            now - 5,
            "GRACE",
            LONG
        );
        assert_eq!(set, Reply::ok());
        assert!(fetch(client, "born").is_stale("v"));
        let set = call!(
            client,
            "CACHE.SET",
            "over",
            "v",
            "EXAT",
            now - 500,
            "GRACE",
            5
        );
        assert_eq!(set, Reply::ok());
        assert!(fetch(client, "over").is_miss());
    });
}

#[test]
fn expire_changes_and_persist_removes_the_end_of_an_entry() {
    on_both_protocols(|server, client| {
        run!(client, "CACHE.SET key v EX 1000 GRACE 500000 TAGS 1 a");
        assert_eq!(call!(client, "PEXPIRE", "key", 300_000), Reply::Int(1));
        let native = call!(client, "PTTL", "key").int();
        assert!((290_000..=300_000).contains(&native), "{native}");
        let (logical, _, _) = times(client, "key");
        assert!(
            logical <= 300_000,
            "never longer than the key is there: {logical}"
        );
        assert_eq!(call!(client, "PERSIST", "key"), Reply::Int(1));
        assert_eq!(call!(client, "PTTL", "key"), Reply::Int(-1));
        let entry = inspect(client, "key").unwrap();
        assert_eq!(entry.tags, [b"a".to_vec()]);
        assert!(!call!(client, "CACHE.FETCH", "key").is_error());
        assert_index_agrees(server, &[0], &[]);
    });
}
