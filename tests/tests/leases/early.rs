//! EARLY of CACHE.FETCH: one caller reloads a fresh value before it expires.

use tagcache_tests::fetch::{fetch, fetched, set_leased};
use tagcache_tests::{Reply, on_both_protocols, run};

#[test]
fn early_grants_one_caller_the_lease_of_a_fresh_value() {
    on_both_protocols(|server, client| {
        run!(client, "CACHE.SET key old EX 1000 TAGS 1 t");
        let plain = fetched(&run!(client, "CACHE.FETCH key LEASE 60000"));
        assert_eq!(plain.token, 0, "not without EARLY");
        let first = fetched(&run!(client, "CACHE.FETCH key LEASE 60000 EARLY"));
        assert!(first.is_hit_with_token("old"));
        let mut other = server.raw();
        let second = fetched(&run!(other, "CACHE.FETCH key LEASE 60000 EARLY WAIT 60000"));
        assert!(second.is_hit("old"), "no wait either");
        assert!(set_leased(client, "key", "new", first.token, &["t"]));
        assert!(fetch(client, "key").is_hit("new"));
        let again = fetched(&run!(other, "CACHE.FETCH key LEASE 60000 TOKEN 77 EARLY"));
        assert!(again.is_hit_with_token("new") && again.token == 77);
        assert_eq!(run!(other, "CACHE.RELEASE key 77"), Reply::Int(1));
    });
}

#[test]
fn keeptags_refuses_the_write_if_the_old_tags_are_lost() {
    on_both_protocols(|_, client| {
        for lost in [
            &["CACHE.INVALIDATE t"][..],
            &["CACHE.REVALIDATE t"],
            &["CACHE.INVALIDATEWHERE NONE 1 x"],
            &["CACHE.INVALIDATE t", "PEXPIRE key 0"],
            &["PEXPIRE key 0", "CACHE.INVALIDATE t"],
        ] {
            run!(client, "CACHE.SET key old TAGS 1 t");
            let token = fetched(&run!(client, "CACHE.FETCH key LEASE 60000 EARLY")).token;
            for command in lost {
                client.call(&tagcache_tests::split(command));
            }
            let set = run!(client, "CACHE.SET key late LEASE {token} KEEPTAGS");
            assert_eq!(set, Reply::Null, "{lost:?}");
            assert!(fetch(client, "key").is_miss(), "{lost:?}");
        }
        // Nothing was invalidated: there were no tags to keep.
        let token = fetched(&run!(client, "CACHE.FETCH key LEASE 60000")).token;
        let set = run!(client, "CACHE.SET key new LEASE {token} KEEPTAGS");
        assert_eq!(set, Reply::ok());
    });
}

#[test]
fn an_early_reload_is_refused_after_an_invalidation() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key old TAGS 1 t");
        let early = fetched(&run!(client, "CACHE.FETCH key EARLY LEASE 60000"));
        run!(client, "CACHE.INVALIDATE t");
        assert!(!set_leased(client, "key", "late", early.token, &["t"]));
        assert!(fetch(client, "key").is_miss());
    });
}
