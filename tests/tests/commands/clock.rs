//! CACHE.CLOCK.

use tagcache_tests::look::stat;
use tagcache_tests::{Reply, on_both_protocols, run, split};

#[test]
fn clock_returns_the_lineage_and_reading_of_the_database() {
    on_both_protocols(|_, client| {
        let reply = run!(client, "CACHE.CLOCK");
        let [Reply::Bulk(lineage), Reply::Int(0)] = reply.items() else {
            panic!("not a lineage and a reading: {reply:?}")
        };
        assert_eq!(lineage.len(), 16, "{reply:?}");
        assert!(lineage.iter().all(u8::is_ascii_hexdigit), "{reply:?}");
        run!(client, "CACHE.INVALIDATE t");
        let mut expected = vec![Reply::bulk(lineage), Reply::Int(1)];
        assert_eq!(run!(client, "CACHE.CLOCK"), Reply::Array(expected.clone()));
        expected.push(Reply::Int(0));
        assert_eq!(run!(client, "CACHE.CLOCK start"), Reply::Array(expected));
        run!(client, "SELECT 3");
        assert_eq!(
            run!(client, "CACHE.CLOCK"),
            reply,
            "each database has its own"
        );
        for line in ["CACHE.CLOCK x", "CACHE.CLOCK START START"] {
            let error = client.call(&split(line));
            assert!(error.is_error(), "{line}: {error:?}");
        }
    });
}

#[test]
fn clock_rises_by_one_for_each_invalidating_command() {
    on_both_protocols(|_, client| {
        let mut expected = 0;
        let mut reading = |client: &mut tagcache_tests::RawClient, line: &str, rises: i64| {
            let reply = client.call(&split(line));
            assert!(!reply.is_error(), "{line}: {reply:?}");
            expected += rises;
            let reading = run!(client, "CACHE.CLOCK").items()[1].int();
            assert_eq!(reading, expected, "{line}");
            assert_eq!(stat(client, "clock"), expected, "{line}");
        };
        for line in [
            "CACHE.INVALIDATE t",
            "CACHE.INVALIDATE t u t",
            "CACHE.REVALIDATE t u",
            "CACHE.INVALIDATEWHERE ALL 1 t",
            "CACHE.INVALIDATEWHERE ANY 2 t u SOFT",
            "CACHE.FLUSH",
        ] {
            reading(client, line, 1);
        }
        for line in [
            "CACHE.SET key v TAGS 1 t",
            "CACHE.INVALIDATEWHERE ALL 1 t DRYRUN",
            "CACHE.DEL key",
            "FLUSHDB",
            "FLUSHALL",
        ] {
            reading(client, line, 0);
        }
    });
}
