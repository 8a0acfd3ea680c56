//! CACHE.TAGTIMES.

use tagcache_tests::{Reply, on_both_protocols, run};

use crate::unix_ms;

#[test]
fn tagtimes_reports_hard_and_soft_invalidations_separately() {
    on_both_protocols(|_, client| {
        let none = Reply::Array(vec![Reply::Int(0), Reply::Int(0)]);
        assert_eq!(
            run!(client, "CACHE.TAGTIMES a"),
            Reply::Array(vec![none.clone()])
        );
        let before = unix_ms(client);
        run!(client, "CACHE.INVALIDATE a");
        run!(client, "CACHE.REVALIDATE a b");
        run!(client, "CACHE.INVALIDATEWHERE ANY 1 c");
        let after = unix_ms(client) + 5; // Times within one millisecond are kept in order.
        let times = run!(client, "CACHE.TAGTIMES a b c d a");
        let times: Vec<(i64, i64)> = times
            .items()
            .iter()
            .map(|pair| (pair.items()[0].int(), pair.items()[1].int()))
            .collect();
        let is_now = |ms: i64| (before..=after).contains(&ms);
        assert!(is_now(times[0].0) && is_now(times[0].1) && times[0].0 <= times[0].1);
        assert!(times[1].0 == 0 && is_now(times[1].1));
        assert!(is_now(times[2].0) && times[2].1 == 0);
        assert_eq!(times[3], (0, 0));
        assert_eq!(times[4], times[0]);
        run!(client, "DEBUG RELOAD");
        let reloaded = run!(client, "CACHE.TAGTIMES a b c d a");
        let reloaded: Vec<(i64, i64)> = reloaded
            .items()
            .iter()
            .map(|pair| (pair.items()[0].int(), pair.items()[1].int()))
            .collect();
        assert_eq!(reloaded, times);
    });
}
