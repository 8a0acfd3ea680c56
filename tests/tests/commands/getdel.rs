//! CACHE.GETDEL.

use tagcache_tests::fetch::{fetch_lease, lease, set_leased};
use tagcache_tests::look::stat;
use tagcache_tests::{Reply, on_both_protocols, run};

#[test]
fn getdel_returns_a_fresh_value_once() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key v EX 100 TAGS 1 a");
        assert_eq!(run!(client, "CACHE.GETDEL key"), Reply::bulk("v"));
        assert!(run!(client, "CACHE.GETDEL key").is_null());
        assert_eq!(run!(client, "EXISTS key"), Reply::Int(0));
        assert_eq!(run!(client, "CACHE.INVALIDATE a"), Reply::Int(0));
        let counted = ["hits", "misses", "deletes"].map(|name| stat(client, name));
        assert_eq!(counted, [1, 1, 1]);
    });
}

#[test]
fn getdel_removes_a_stale_entry_and_returns_nil() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key v GRACE 100000 TAGS 1 a");
        run!(client, "CACHE.REVALIDATE a");
        assert!(run!(client, "CACHE.GETDEL key").is_null());
        assert_eq!(run!(client, "EXISTS key"), Reply::Int(0));
    });
}

#[test]
fn getdel_ends_the_lease_of_the_key() {
    on_both_protocols(|_, client| {
        let token = lease(client, "absent");
        assert!(run!(client, "CACHE.GETDEL absent").is_null());
        assert!(!set_leased(client, "absent", "old", token, &[]));
        assert!(fetch_lease(client, "absent", 1000).is_miss_with_token());
    });
}
