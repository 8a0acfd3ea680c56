//! The figures about leases.

use tagcache_tests::fetch::{Waiter, fetch_lease, lease, set_leased, wait_for_waiters};
use tagcache_tests::look::{info, stat};
use tagcache_tests::{DEADLINE, call, on_both_protocols, wait_until};

#[test]
fn leases_and_waiters_are_counted_while_they_exist() {
    on_both_protocols(|server, client| {
        let tokens: Vec<_> = (0..10).map(|n| lease(client, &format!("key{n}"))).collect();
        assert_eq!(stat(client, "leases"), 10);
        let waiters: Vec<_> = (0..10)
            .map(|n| Waiter::start(server, &format!("key{n}"), 600_000))
            .collect();
        assert_eq!(stat(client, "lease_waiters"), 10);
        assert_eq!(info(client, "tagcache_leases"), 10);
        assert_eq!(info(client, "tagcache_lease_waiters"), 10);
        assert!(set_leased(client, "key0", "v", tokens[0], &[]));
        wait_for_waiters(client, 9);
        assert_eq!(stat(client, "leases"), 9);
        call!(client, "CACHE.RELEASE", "key1", tokens[1]);
        wait_for_waiters(client, 8);
        assert_eq!(stat(client, "leases"), 9, "its waiter has it now");
        drop(waiters);
        wait_for_waiters(client, 0);
        call!(client, "CACHE.DEL", "key2", "key3");
        assert_eq!(stat(client, "leases"), 7);
    });
}

#[test]
fn leases_are_counted_per_database_and_summed_in_info() {
    on_both_protocols(|server, client| {
        lease(client, "key");
        call!(client, "SELECT", 3);
        lease(client, "key");
        lease(client, "other");
        let mut waiting = server.raw();
        call!(waiting, "SELECT", 3);
        let waiter = Waiter::start_on(server, waiting, "key", 600_000);
        assert_eq!(
            (stat(client, "leases"), stat(client, "lease_waiters")),
            (2, 1)
        );
        assert_eq!(info(client, "tagcache_leases"), 3);
        call!(client, "SELECT", 0);
        assert_eq!(
            (stat(client, "leases"), stat(client, "lease_waiters")),
            (1, 0)
        );
        drop(waiter);
    });
}

#[test]
fn leases_refused_counts_each_set_refused_for_a_lost_lease() {
    on_both_protocols(|_, client| {
        let token = lease(client, "key");
        call!(client, "CACHE.SET", "there", "v");
        call!(client, "CACHE.SET", "there", "v", "NX");
        assert_eq!(stat(client, "leases_refused"), 0);
        for n in 1..=3 {
            assert!(!set_leased(client, "other", "v", token, &[]));
            assert_eq!(stat(client, "leases_refused"), n);
        }
        let sets = stat(client, "sets");
        assert_eq!(sets, 1, "what was refused is no set");
        call!(client, "CACHE.RESETSTATS");
        assert_eq!(stat(client, "leases_refused"), 0);
        assert_eq!(stat(client, "leases"), 1, "what is there stays");
        assert!(set_leased(client, "key", "v", token, &[]));
    });
}

#[test]
fn leases_that_run_out_are_no_longer_counted() {
    on_both_protocols(|_, client| {
        for n in 0..200 {
            fetch_lease(client, &format!("key{n}"), 1 + n % 50);
        }
        wait_until("all have run out", DEADLINE, || stat(client, "leases") == 0);
    });
}
