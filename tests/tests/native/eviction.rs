//! Eviction under maxmemory, with every policy.

use tagcache_tests::look::{assert_index_agrees, info, stat, tagscan};
use tagcache_tests::{Reply, Server, args, call, for_all_engines, for_each_engine};

/// The last two belong to servers that evict by modification.
const POLICIES: [&str; 9] = [
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
    "allkeys-lrm",
    "volatile-lrm",
];

#[test]
fn evicted_entries_leave_the_index_under_every_policy() {
    for_each_engine(|engine| {
        let policies = if engine.evicts_by_modification() {
            &POLICIES[..]
        } else {
            &POLICIES[..7]
        };
        for policy in policies {
            let server = Server::builder()
                .engine(engine)
                .arg("--maxmemory-policy", policy)
                .start();
            let mut client = server.raw();
            let limit = info(&mut client, "used_memory") + (8 << 20);
            call!(client, "CONFIG", "SET", "maxmemory", limit);
            for batch in 0..20 {
                let set = |n: i32| {
                    let key = batch * 500 + n;
                    let tag = format!("t{}", key % 100);
                    args![
                        "CACHE.SET",
                        key,
                        vec![0; 1500],
                        "EX",
                        10_000 + key,
                        "TAGS",
                        2,
                        "a",
                        tag
                    ]
                };
                let sets: Vec<_> = (0..500).map(set).collect();
                let replies = client.pipeline(&sets);
                assert!(
                    replies.iter().all(|reply| *reply == Reply::ok()),
                    "{policy}"
                );
            }
            // No more evictions: even a read-only command would continue them.
            call!(client, "CONFIG", "SET", "maxmemory", 0);
            let evicted = stat(&mut client, "evicted");
            assert!(evicted > 1000, "{policy}: {evicted} evicted");
            assert_eq!(info(&mut client, "evicted_keys"), evicted, "{policy}");
            assert_eq!(stat(&mut client, "entries"), 10_000 - evicted, "{policy}");
            assert_eq!(
                tagscan(&mut client, b"a", 1000).len() as i64,
                10_000 - evicted,
                "{policy}"
            );
            assert_index_agrees(&server, &[0], &[b"t5"]);
            assert_eq!(
                call!(client, "CACHE.INVALIDATE", "a"),
                Reply::Int(10_000 - evicted),
                "{policy}"
            );
        }
    });
}

/// The first look at the memory, at 0.88 of the limit, is followed by commands that together use a third of it. They
/// are short, so that the server runs all of them in one go, without a timer in between.
#[test]
fn large_native_writes_evict_no_live_key_before_gone_entries() {
    for_all_engines(|engine| {
        let server = Server::builder()
            .engine(engine)
            .arg("--maxmemory-policy", "allkeys-lru")
            // A slice must free enough even if this machine is busy.
            .module_args(&["reclaim-budget-us", "100000"])
            .start();
        let mut client = server.raw();
        let live = (0..60).map(|n| args!["SET", format!("live{n}"), vec![0; 1_000_000]]);
        client.pipeline(&live.collect::<Vec<_>>());
        let gone = |n: usize| {
            args![
                "CACHE.SET",
                format!("gone{n}"),
                vec![0; 1_500],
                "TAGS",
                1,
                "t"
            ]
        };
        client.pipeline(&(0..60_000).map(gone).collect::<Vec<_>>());
        let used = info(&mut client, "used_memory");
        call!(client, "CONFIG", "SET", "maxmemory", used * 100 / 88);
        let len = used / 160;
        let new = |n: usize| args!["SETRANGE", format!("new{n}"), len, "x"];
        let invalidate = [args!["CACHE.INVALIDATE", "t"]];
        let commands: Vec<_> = invalidate.into_iter().chain((0..50).map(new)).collect();
        let replies = client.pipeline(&commands);
        assert_eq!(replies[0], Reply::Int(60_000));
        for (kept, count) in [("live*", 60), ("new*", 50)] {
            assert_eq!(call!(client, "KEYS", kept).items().len(), count, "{kept}");
        }
    });
}

#[test]
fn noeviction_refuses_writes_and_keeps_all_entries_when_full() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .arg("--maxmemory-policy", "noeviction")
            .start();
        let mut client = server.raw();
        let limit = info(&mut client, "used_memory") + (2 << 20);
        call!(client, "CONFIG", "SET", "maxmemory", limit);
        let mut stored = 0;
        let refused = loop {
            let reply = call!(client, "CACHE.SET", stored, vec![0; 1500], "TAGS", 1, "a");
            if reply != Reply::ok() {
                break reply;
            }
            stored += 1;
            assert!(stored < 10_000, "never full");
        };
        assert!(
            refused.error().is_some_and(|e| e.starts_with("OOM ")),
            "{refused:?}"
        );
        assert_eq!(stat(&mut client, "entries"), stored);
        assert_eq!(stat(&mut client, "evicted"), 0);
        assert_eq!(call!(client, "CACHE.GET", 0).bytes().len(), 1500);
        call!(client, "CONFIG", "SET", "maxmemory", 0);
        assert_index_agrees(&server, &[0], &[]);
        call!(client, "CONFIG", "SET", "maxmemory", limit);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(stored));
        tagcache_tests::look::wait_reclaimed(&mut client);
        assert_eq!(
            call!(client, "CACHE.SET", "again", vec![0; 1500]),
            Reply::ok()
        );
    });
}
