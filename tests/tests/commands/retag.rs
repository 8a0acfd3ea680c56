//! CACHE.RETAG, and KEEPTAGS of CACHE.SET.

use tagcache_tests::fetch::{fetch, fetched, lease};
use tagcache_tests::look::{inspect, tagscan};
use tagcache_tests::{Reply, call, on_both_protocols, run};

#[test]
fn retag_changes_the_tags_and_nothing_else() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key v EX 100 GRACE 7000 TAGS 2 a b");
        run!(client, "CACHE.GET key");
        let before = inspect(client, "key").expect("visible");
        let pttl = run!(client, "PTTL key").int();
        assert_eq!(run!(client, "CACHE.RETAG key TAGS 3 c a c"), Reply::Int(1));
        let after = inspect(client, "key").expect("visible");
        assert_eq!(after.tags, [b"c".to_vec(), b"a".to_vec()]);
        assert_eq!((after.hits, after.bytes), (before.hits, before.bytes));
        assert!((pttl - run!(client, "PTTL key").int()).abs() < 50_000);
        assert_eq!(run!(client, "CACHE.INVALIDATE b"), Reply::Int(0));
        assert!(tagscan(client, b"c", 10).contains(b"key".as_slice()));
        assert_eq!(run!(client, "CACHE.RETAG key TAGS 0"), Reply::Int(1));
        assert_eq!(run!(client, "CACHE.INVALIDATE a c"), Reply::Int(0));
        assert_eq!(run!(client, "CACHE.GET key"), Reply::bulk("v"));
        assert_eq!(run!(client, "CACHE.RETAG absent TAGS 1 a"), Reply::Int(0));
    });
}

#[test]
fn retag_leaves_a_stale_entry_stale_and_a_gone_one_gone() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET soft v GRACE 100000 TAGS 1 s");
        run!(client, "CACHE.SET hard v TAGS 1 h");
        run!(client, "CACHE.REVALIDATE s");
        run!(client, "CACHE.INVALIDATE h");
        assert_eq!(run!(client, "CACHE.RETAG soft TAGS 1 x"), Reply::Int(1));
        assert_eq!(run!(client, "CACHE.RETAG hard TAGS 1 x"), Reply::Int(0));
        assert!(fetch(client, "soft").is_stale("v"));
        assert_eq!(run!(client, "CACHE.INVALIDATE x"), Reply::Int(1));
        assert!(fetch(client, "soft").is_miss());
    });
}

#[test]
fn retag_to_a_tag_invalidated_since_the_write_removes_the_entry() {
    on_both_protocols(|_, client| {
        for (invalidate, kept) in [
            ("CACHE.INVALIDATE late", false),
            ("CACHE.REVALIDATE late", false),
            ("CACHE.INVALIDATE other", true),
        ] {
            run!(client, "CACHE.SET key v GRACE 100000 TAGS 1 a");
            let words: Vec<&str> = invalidate.split(' ').collect();
            client.call(&words);
            let retagged = run!(client, "CACHE.RETAG key TAGS 2 a late");
            assert_eq!(retagged, Reply::Int(1), "it was visible");
            assert_eq!(
                run!(client, "CACHE.EXISTS key").int() == 1,
                kept,
                "{invalidate}"
            );
            assert_eq!(run!(client, "EXISTS key").int() == 1, kept, "{invalidate}");
        }
        // Written after the invalidation, or with the former tag: kept.
        run!(client, "CACHE.SET key v TAGS 1 a");
        run!(client, "CACHE.RETAG key TAGS 1 late");
        run!(client, "CACHE.INVALIDATEWHERE ALL 2 late none");
        run!(client, "CACHE.RETAG key TAGS 2 late b");
        assert_eq!(run!(client, "CACHE.GET key"), Reply::bulk("v"));
    });
}

#[test]
fn keeptags_keeps_the_tags_of_the_visible_entry() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key 1 TAGS 2 a b");
        assert_eq!(run!(client, "CACHE.SET key 2 KEEPTAGS"), Reply::ok());
        assert_eq!(
            inspect(client, "key").expect("visible").tags,
            [b"a".to_vec(), b"b".to_vec()]
        );
        run!(client, "CACHE.INVALIDATE a");
        // The entry is gone: there are no tags to keep.
        assert_eq!(run!(client, "CACHE.SET key 3 KEEPTAGS EX 100"), Reply::ok());
        assert!(inspect(client, "key").expect("visible").tags.is_empty());
        assert_eq!(run!(client, "CACHE.SET new 1 KEEPTAGS"), Reply::ok());
        assert!(inspect(client, "new").expect("visible").tags.is_empty());
        // Keeps the tags of a stale entry, which becomes fresh again.
        run!(client, "CACHE.SET key 4 GRACE 100000 TAGS 1 c");
        run!(client, "CACHE.REVALIDATE c");
        assert_eq!(run!(client, "CACHE.SET key 5 KEEPTAGS"), Reply::ok());
        assert_eq!(run!(client, "CACHE.GET key"), Reply::bulk("5"));
        assert_eq!(run!(client, "CACHE.INVALIDATE c"), Reply::Int(1));
    });
}

#[test]
fn keeptags_checks_the_lease_against_the_kept_tags() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key 1 GRACE 100000 TAGS 1 a");
        run!(client, "CACHE.REVALIDATE a");
        let stale = fetched(&run!(client, "CACHE.FETCH key LEASE 5000"));
        run!(client, "CACHE.REVALIDATE a");
        let late = call!(
            client,
            "CACHE.SET",
            "key",
            2,
            "LEASE",
            stale.token,
            "KEEPTAGS"
        );
        assert!(late.is_null(), "a was invalidated since");
        let token = lease(client, "other");
        let set = call!(client, "CACHE.SET", "other", 2, "LEASE", token, "KEEPTAGS");
        assert_eq!(set, Reply::ok());
    });
}
