//! EARLY of CACHE.FETCH: one caller loads a fresh value again before it expires.

use tagcache_tests::fetch::{fetch, fetched, set_leased};
use tagcache_tests::{Reply, on_both_protocols, run};

#[test]
fn one_caller_gets_the_lease_of_a_fresh_value() {
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
fn what_was_invalidated_meanwhile_is_not_written_early_either() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key old TAGS 1 t");
        let early = fetched(&run!(client, "CACHE.FETCH key EARLY LEASE 60000"));
        run!(client, "CACHE.INVALIDATE t");
        assert!(!set_leased(client, "key", "late", early.token, &["t"]));
        assert!(fetch(client, "key").is_miss());
    });
}
