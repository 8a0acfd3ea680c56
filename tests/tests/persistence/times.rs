//! The times and counts of tags' invalidations after a restart.

use tagcache_tests::look::wait_rewritten;
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{RawClient, Reply, Server, for_all_engines, run};

const TAGS: [&str; 4] = ["hard", "soft", "both", "never"];

fn times(client: &mut RawClient) -> Vec<Reply> {
    let info = |tag| run!(client, "CACHE.TAGINFO {tag}");
    TAGS.map(info).to_vec()
}

/// Entries that carry the tags, and invalidations of them at different times.
fn fill(client: &mut RawClient) {
    for round in 0..3 {
        run!(
            client,
            "CACHE.SET key{round} v GRACE 600000 TAGS 4 hard soft both never"
        );
        run!(client, "CACHE.INVALIDATE hard both");
        run!(
            client,
            "CACHE.SET key{round} v GRACE 600000 TAGS 4 hard soft both never"
        );
        run!(client, "CACHE.REVALIDATE soft");
        run!(client, "CACHE.REVALIDATE both");
    }
    run!(client, "CACHE.SET held v TAGS 4 hard soft both never");
    let seen = times(client);
    for (info, expected) in seen.iter().zip([3, 3, 6, 0]) {
        assert_eq!(
            info.field("invalidations"),
            Reply::Int(expected),
            "{seen:?}"
        );
        assert_eq!(
            info.field("last_invalidated").int() > 0,
            expected > 0,
            "{seen:?}"
        );
    }
}

#[test]
fn last_invalidation_times_survive_each_kind_of_restart() {
    for_all_engines(|engine| {
        for (log, rewrite, preamble) in [
            ("no", false, "yes"),
            ("yes", false, "yes"),
            ("yes", true, "yes"),
            ("yes", true, "no"),
        ] {
            // With "everysec" a write may wait for the sync of an earlier one.
            let builder = Server::builder()
                .engine(engine)
                .arg("--appendonly", log)
                .arg("--appendfsync", "always");
            let mut server = builder.arg("--aof-use-rdb-preamble", preamble).start();
            let mut client = server.raw();
            fill(&mut client);
            let before = times(&mut client);
            if log == "no" {
                assert_eq!(run!(client, "SAVE"), Reply::ok());
            }
            if rewrite {
                run!(client, "BGREWRITEAOF");
                wait_rewritten(&mut client);
            }
            server.kill_9();
            server.restart();
            let after = times(&mut server.raw());
            assert_eq!(
                after, before,
                "log {log}, rewritten {rewrite}, preamble {preamble}"
            );
        }
    });
}

#[test]
fn last_invalidation_times_survive_a_full_resync() {
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).start();
        fill(&mut primary.raw());
        let replica = Server::builder()
            .engine(engine)
            .replica_of(&primary)
            .start();
        wait_synchronised(&primary, &replica);
        let mut there = replica.raw();
        assert_eq!(times(&mut there), times(&mut primary.raw()));
        assert_eq!(run!(there, "DEBUG RELOAD"), Reply::ok());
        assert_eq!(times(&mut there), times(&mut primary.raw()), "reloaded");
    });
}

/// The state of each tag of a flushed database: a tag that no entry carries is unknown, and counts start again.
#[test]
fn saved_files_and_logs_keep_the_effect_of_a_flush() {
    for_all_engines(|engine| {
        for flush in ["CACHE.FLUSH", "FLUSHDB"] {
            let mut server = Server::builder()
                .engine(engine)
                .arg("--appendonly", "yes")
                .arg("--aof-use-rdb-preamble", "no")
                .arg("--appendfsync", "always")
                .start();
            let mut client = server.raw();
            fill(&mut client);
            client.call(&[flush]);
            run!(client, "CACHE.INVALIDATE soft");
            run!(client, "CACHE.INVALIDATEWHERE ANY 1 both");
            // A log without preamble contains the history before its first entry.
            run!(client, "CACHE.SET held v TAGS 1 never");
            let flushed = times(&mut client);
            let [hard, soft, both, never] = &flushed[..] else {
                panic!("four tags: {flushed:?}")
            };
            assert!(hard.is_null() && both.is_null(), "{flush}: {flushed:?}");
            assert_eq!(soft.field("invalidations"), Reply::Int(1), "{flush}");
            assert_eq!(never.field("entries"), Reply::Int(1), "{flush}");
            let replica = Server::builder().engine(engine).replica_of(&server).start();
            wait_synchronised(&server, &replica);
            assert_eq!(times(&mut replica.raw()), flushed, "{flush}: a replica");
            run!(client, "BGREWRITEAOF");
            wait_rewritten(&mut client);
            server.kill_9();
            server.restart();
            assert_eq!(times(&mut server.raw()), flushed, "{flush}: a log");
        }
    });
}
