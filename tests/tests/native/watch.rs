//! WATCH and invalidations: a transaction notices that an entry is gone as soon as the entry is reclaimed.

use tagcache_tests::look::wait_reclaimed;
use tagcache_tests::{Reply, Server, args, for_all_engines, run};

const ENTRIES: usize = 20_000;

fn fill(client: &mut tagcache_tests::RawClient) {
    let set = |n| args!["CACHE.SET", format!("key{n}"), "v", "TAGS", 1, "t"];
    let replies = client.pipeline(&(0..ENTRIES).map(set).collect::<Vec<_>>());
    assert!(replies.iter().all(|reply| *reply == Reply::ok()));
}

#[test]
fn watch_aborts_if_an_invalidation_frees_the_key_at_once() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let (mut client, mut other) = (server.raw(), server.raw());
        for line in [
            "CACHE.INVALIDATE t",
            "CACHE.INVALIDATEWHERE ALL 1 t",
            "CACHE.FLUSH",
        ] {
            run!(client, "CACHE.SET key v TAGS 1 t");
            assert_eq!(run!(client, "WATCH key"), Reply::ok());
            assert_eq!(other.call(&tagcache_tests::split(line)), Reply::Int(1));
            let replies = client.pipeline(&[args!["MULTI"], args!["PING"], args!["EXEC"]]);
            assert_eq!(replies[2], Reply::Null, "{line}");
        }
    });
}

#[test]
fn watch_notices_a_large_invalidation_when_the_key_is_reclaimed() {
    for_all_engines(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-inline", "0", "reclaim-budget-us", "50"])
            .start();
        let mut client = server.raw();
        fill(&mut client);
        // A transaction reclaims nothing: the watched key is still in the backlog as the next transaction begins.
        let queued = [
            args!["WATCH", "key19999"],
            args!["MULTI"],
            args!["CACHE.GET", "key19999"],
            args!["EXEC"],
        ];
        let replies = client.pipeline(&queued);
        assert_eq!(replies[3], Reply::Array(vec![Reply::bulk("v")]));
        let queued = [
            args!["WATCH", "key19999"],
            args!["CACHE.INVALIDATE", "t"],
            args!["MULTI"],
            args!["CACHE.STATS"],
            args!["EXEC"],
        ];
        let replies = client.pipeline(&queued);
        assert_eq!(replies[1], Reply::Int(ENTRIES as i64));
        let [stats] = replies[4].items() else {
            panic!("the transaction runs: {:?}", replies[4])
        };
        assert!(stats.field("reclaim_backlog").int() > 0);
        wait_reclaimed(&mut client);
        fill(&mut client);
        assert_eq!(run!(client, "WATCH key19999"), Reply::ok());
        assert_eq!(
            run!(client, "CACHE.INVALIDATE t"),
            Reply::Int(ENTRIES as i64)
        );
        wait_reclaimed(&mut client);
        let replies = client.pipeline(&[args!["MULTI"], args!["PING"], args!["EXEC"]]);
        assert_eq!(replies[2], Reply::Null, "it is reclaimed");
    });
}
