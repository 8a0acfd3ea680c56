//! Native commands that only read: OBJECT, TYPE, SCAN, MEMORY USAGE, DEBUG DIGEST-VALUE.

use tagcache_tests::look::{entry_keys, info, inspect};
use tagcache_tests::{RawClient, Reply, Server, args, call, for_all_engines, for_each_engine, run};

#[test]
fn type_scan_exists_and_object_work_with_entries() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        call!(client, "SET", "string", "v");
        for n in 0..100 {
            call!(client, "CACHE.SET", n, "v");
        }
        assert_eq!(call!(client, "TYPE", 7).text(), "tagcache1");
        assert_eq!(call!(client, "EXISTS", 7, "absent"), Reply::Int(1));
        assert_eq!(entry_keys(&mut client).len(), 100);
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(101));
        assert_eq!(call!(client, "OBJECT", "ENCODING", 7).text(), "raw");
        assert_eq!(call!(client, "OBJECT", "REFCOUNT", 7), Reply::Int(1));
        assert!(call!(client, "OBJECT", "IDLETIME", 7).int() >= 0);
        assert!(
            call!(client, "OBJECT", "FREQ", 7).is_error(),
            "no LFU policy is set"
        );
        assert_eq!(call!(client, "TOUCH", 7, 8), Reply::Int(2));
        assert!(
            (0..100).contains(
                &call!(client, "RANDOMKEY")
                    .text()
                    .parse::<i32>()
                    .unwrap_or(0)
            )
        );
    });
}

#[test]
fn reads_update_object_freq_and_object_idletime() {
    for_all_engines(|engine| {
        let server = Server::builder()
            .engine(engine)
            .arg("--maxmemory-policy", "allkeys-lfu")
            .start();
        let mut client = server.raw();
        call!(client, "CACHE.SET", "hot", "v");
        call!(client, "CACHE.SET", "cold", "v");
        for _ in 0..500 {
            call!(client, "CACHE.GET", "hot");
        }
        let freq = |client: &mut RawClient, key| call!(client, "OBJECT", "FREQ", key).int();
        assert!(freq(&mut client, "hot") > freq(&mut client, "cold") + 5);
        let payload = call!(client, "DUMP", "cold").bytes().to_vec();
        assert_eq!(
            call!(client, "RESTORE", "copy", 0, payload, "FREQ", 99),
            Reply::ok()
        );
        assert_eq!(freq(&mut client, "copy"), 99);
    });
}

#[test]
fn a_read_resets_the_idle_time() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .arg("--maxmemory-policy", "allkeys-lru")
            .start();
        let mut client = server.raw();
        call!(client, "CACHE.SET", "key", "v");
        let payload = call!(client, "DUMP", "key").bytes().to_vec();
        for read in ["CACHE.GET", "CACHE.MGET"] {
            assert_eq!(
                call!(
                    client, "RESTORE", "key", 0, payload, "REPLACE", "IDLETIME", 1000
                ),
                Reply::ok()
            );
            call!(client, "CACHE.INSPECT", "key");
            assert!(
                call!(client, "OBJECT", "IDLETIME", "key").int() >= 1000,
                "looking is no use"
            );
            assert!(!call!(client, read, "key").is_null());
            assert!(
                call!(client, "OBJECT", "IDLETIME", "key").int() < 1000,
                "{read}"
            );
        }
    });
}

#[test]
fn memory_usage_includes_the_value() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let usage = |client: &mut RawClient| call!(client, "MEMORY", "USAGE", "key").int();
        call!(client, "CACHE.SET", "key", "");
        let empty = usage(&mut client);
        call!(client, "CACHE.SET", "key", vec![0; 10_000]);
        let with_value = usage(&mut client);
        assert!(
            (empty + 9_900..empty + 16_000).contains(&with_value),
            "{empty} {with_value}"
        );
        // Tags cost memory of the index, which CACHE.STATS counts separately.
        let memory = inspect(&mut client, "key").unwrap().memory;
        assert!(
            memory >= with_value && memory < with_value + 1000,
            "{memory} {with_value}"
        );
    });
}

#[test]
fn the_digest_depends_on_value_and_tags_and_not_on_history() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let digest = |client: &mut RawClient, key: &str| {
            let reply = call!(client, "DEBUG", "DIGEST-VALUE", key);
            reply.items()[0].text()
        };
        let mut seen = std::collections::BTreeSet::new();
        let sets: [&[&str]; 7] = [
            &["value"],
            &["other"],
            &["value", "TAGS", "1", "a"],
            &["value", "TAGS", "1", "b"],
            &["value", "TAGS", "2", "a", "b"],
            &["value", "TAGS", "1", "ab"],
            &["", "TAGS", "1", "valuea"],
        ];
        for set in sets {
            let mut command = vec!["CACHE.SET", "key"];
            command.extend_from_slice(set);
            assert_eq!(client.call(&command), Reply::ok());
            let first = digest(&mut client, "key");
            assert!(first.chars().any(|c| c != '0'), "no digest at all");
            assert!(
                seen.insert(first.clone()),
                "{set:?} has the digest of another"
            );
            call!(client, "CACHE.GET", "key");
            assert_eq!(client.call(&command), Reply::ok());
            assert_eq!(
                digest(&mut client, "key"),
                first,
                "{set:?}: reads and overwrites leave no trace"
            );
        }
        let dataset = call!(client, "DEBUG", "DIGEST");
        assert_eq!(call!(client, "DEBUG", "RELOAD"), Reply::ok());
        assert_eq!(call!(client, "DEBUG", "DIGEST"), dataset);
    });
}

/// Redis before 8.6 and Valkey before 9 stop if a key is looked up for such a client while none of its commands runs:
/// before its command, while the server evicts keys for it, and while it waits.
#[test]
fn no_touch_client_can_name_gone_keys() {
    for_all_engines(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-budget-us", "50", "reclaim-inline", "0"])
            .arg("--maxmemory-policy", "allkeys-random")
            .start();
        let (mut client, mut other) = (server.raw(), server.raw());
        let fill = |other: &mut RawClient| {
            let set = |n| args!["CACHE.SET", format!("key{n}"), "v", "TAGS", 1, "t"];
            other.pipeline(&(0..20_000).map(set).collect::<Vec<_>>());
        };
        call!(client, "CLIENT", "NO-TOUCH", "ON"); // Redis 7.0 does not know it.
        call!(client, "SET", "number", 1);
        let incr = args!["INCR", "number"];
        let in_block = [
            args!["MULTI"],
            args!["CLIENT", "NO-TOUCH", "ON"],
            incr.clone(),
            args!["EXEC"],
        ];
        fill(&mut other);
        other.send(&["CACHE.INVALIDATE", "t"]);
        let replies = client.pipeline(&[incr.clone(), args!["APPEND", "key7", "v"]]);
        assert!(replies[0].int() > 1);
        call!(client, "CLIENT", "NO-TOUCH", "OFF");
        client.pipeline(&in_block);
        assert!(call!(client, "INCR", "number").int() > 2);
        other.read();
        fill(&mut other);
        let limit = info(&mut other, "used_memory") - 500_000;
        other.pipeline(&[
            args!["MULTI"],
            args!["CACHE.INVALIDATE", "t"],
            args!["CONFIG", "SET", "maxmemory", limit],
            args!["EXEC"],
        ]);
        client.pipeline(&vec![args!["GET", "absent"]; 100]);
        call!(other, "CONFIG", "SET", "maxmemory", 0);
        assert!(call!(client, "APPEND", "text", "v").int() > 0);
    });
}

#[test]
fn a_client_with_no_touch_may_wait_for_a_lease() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let (mut client, mut other) = (server.raw(), server.raw());
        run!(other, "CACHE.FETCH key LEASE 60000");
        call!(client, "CLIENT", "NO-TOUCH", "ON"); // Redis 7.0 does not know it.
        client.send(&["CACHE.FETCH", "key", "WAIT", "60000"]);
        // If it waits, it finds the value. Servers that could not serve it later answer at once.
        run!(other, "CACHE.SET key v");
        let state = client.read().items()[0].text();
        assert!(["HIT", "MISS"].contains(&&*state), "{state}");
        run!(other, "PING");
    });
}
