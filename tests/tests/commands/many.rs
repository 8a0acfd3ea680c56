//! CACHE.MSET, CACHE.EXISTS and CACHE.MFETCH.

use tagcache_tests::look::{inspect, stat};
use tagcache_tests::state::{replicated, wait_synchronised};
use tagcache_tests::{Reply, args, call, for_all_engines, on_both_protocols, run};

#[test]
fn mset_works_while_hotkeys_is_tracking() {
    for_all_engines(|engine| {
        let (primary, replica) = replicated(engine);
        let mut client = primary.raw();
        if run!(client, "HOTKEYS START METRICS 2 CPU NET").is_error() {
            return;
        }
        assert_eq!(run!(client, "CACHE.MSET 2 a 1 b 2"), Reply::Int(2));
        wait_synchronised(&primary, &replica);
        assert_eq!(run!(replica.raw(), "CACHE.GET b"), Reply::bulk("2"));
    });
}

#[test]
fn mset_writes_all_keys_with_the_same_tags_and_ttl() {
    on_both_protocols(|_, client| {
        let set = run!(
            client,
            "CACHE.MSET 3 a 1 b 2 c 3 EX 100 GRACE 5000 TAGS 2 t u"
        );
        assert_eq!(set, Reply::Int(3));
        for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
            assert_eq!(call!(client, "CACHE.GET", key), Reply::bulk(value));
            let seen = inspect(client, key).expect("visible");
            assert_eq!(seen.tags, [b"t".to_vec(), b"u".to_vec()]);
            let pttl = call!(client, "CACHE.INSPECT", key).field("pttl").int();
            assert!((90_000..=100_000).contains(&pttl));
            assert_eq!(
                call!(client, "CACHE.INSPECT", key).field("grace").int(),
                5000
            );
        }
        assert_eq!(run!(client, "CACHE.INVALIDATE u"), Reply::Int(3));
        assert_eq!(stat(client, "sets"), 3);
    });
}

#[test]
fn mset_applies_nx_and_xx_to_each_key() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.MSET 2 fresh 1 stale 1 GRACE 100000 TAGS 1 a");
        run!(client, "CACHE.SET stale 1 GRACE 100000 TAGS 1 soft");
        run!(client, "CACHE.REVALIDATE soft");
        let set = run!(client, "CACHE.MSET 4 fresh 2 stale 2 new 2 new 3 NX");
        assert_eq!(set, Reply::Int(2));
        let got = run!(client, "CACHE.MGET fresh stale new");
        let expected = ["1", "2", "2"].map(Reply::bulk);
        assert_eq!(got, Reply::Array(expected.to_vec()));
        assert_eq!(
            run!(client, "CACHE.MSET 3 fresh 4 none 4 new 4 XX"),
            Reply::Int(2)
        );
        let got = run!(client, "CACHE.MGET fresh none new");
        let expected = vec![Reply::bulk("4"), Reply::Null, Reply::bulk("4")];
        assert_eq!(got, Reply::Array(expected));
        assert_eq!(run!(client, "CACHE.MSET 1 none 5 XX"), Reply::Int(0));
    });
}

#[test]
fn mset_ends_leases_and_accepts_thousands_of_keys() {
    on_both_protocols(|_, client| {
        let token = call!(client, "CACHE.FETCH", "key0", "LEASE", 60_000).items()[3].int();
        let mut mset = args!["CACHE.MSET", 5000];
        for n in 0..5000 {
            mset.extend(args![format!("key{n}"), n]);
        }
        mset.extend(args!["TAGS", 1, "t"]);
        assert_eq!(client.call(&mset), Reply::Int(5000));
        let late = call!(client, "CACHE.SET", "key0", "late", "LEASE", token);
        assert!(late.is_null());
        assert_eq!(run!(client, "CACHE.INVALIDATE t"), Reply::Int(5000));
    });
}

#[test]
fn exists_counts_fresh_entries_and_no_hits() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.MSET 2 fresh v other v");
        run!(client, "CACHE.SET stale v GRACE 100000 TAGS 1 soft");
        run!(client, "CACHE.SET gone v TAGS 1 hard");
        run!(client, "SET string v");
        run!(client, "CACHE.REVALIDATE soft");
        run!(client, "CACHE.INVALIDATE hard");
        let count = run!(
            client,
            "CACHE.EXISTS fresh stale gone string absent other fresh"
        );
        assert_eq!(count, Reply::Int(3));
        assert_eq!((stat(client, "hits"), stat(client, "misses")), (0, 0));
        assert_eq!(inspect(client, "fresh").expect("visible").hits, 0);
    });
}

#[test]
fn mfetch_returns_for_each_key_what_fetch_returns() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET fresh v EX 100 TAGS 2 a b");
        run!(client, "CACHE.SET forever v");
        run!(client, "CACHE.SET stale v GRACE 100000 TAGS 1 soft");
        run!(client, "SET string v");
        run!(client, "CACHE.REVALIDATE soft");
        let reply = run!(client, "CACHE.MFETCH fresh absent string stale forever");
        let items = reply.items();
        assert!(items[2].is_null());
        for (at, key) in [(1, "absent"), (3, "stale"), (4, "forever")] {
            assert_eq!(items[at], call!(client, "CACHE.FETCH", key), "{key}");
        }
        let fresh = items[0].items();
        assert_eq!(fresh[..2], [Reply::bulk("HIT"), Reply::bulk("v")]);
        assert!((90_000..=100_000).contains(&fresh[2].int()));
        assert_eq!(fresh[4], Reply::Array(["a", "b"].map(Reply::bulk).to_vec()));
        let counted = ["hits", "stale_hits", "misses"].map(|name| stat(client, name));
        assert_eq!(counted, [3, 2, 3]);
    });
}
