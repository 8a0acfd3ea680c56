//! State, grace and soft marks survive an append-only file, rewritten or not, with RDB preamble or without.

use tagcache_tests::fetch::fetch;
use tagcache_tests::look::{assert_index_agrees, info_text, stat, wait_rewritten};
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, args, call, command, for_all_engines,
    for_each_engine, run, wait_until,
};

use crate::{LONG, dataset, holds_dataset};

fn logging(engine: &Engine, preamble: &str) -> Server {
    Server::builder()
        .engine(engine)
        .arg("--appendonly", "yes")
        .arg("--appendfsync", "always")
        .arg("--aof-use-rdb-preamble", preamble)
        .arg("--auto-aof-rewrite-percentage", "0")
        .start()
}

fn rewrite(client: &mut RawClient) {
    call!(client, "BGREWRITEAOF");
    wait_rewritten(client);
    assert_eq!(info_text(client, "aof_last_bgrewrite_status"), "ok");
}

#[test]
fn replaying_the_log_leads_to_the_same_state() {
    for_all_engines(|engine| {
        let mut server = logging(engine, "yes");
        dataset(&mut server.raw());
        server.kill_9();
        server.restart();
        let mut client = server.raw();
        for key in ["soft", "soft timed", "expired"] {
            assert!(fetch(&mut client, key).is_stale("v"), "{key}");
            assert!(call!(client, "CACHE.GET", key).is_null(), "{key}");
        }
        for key in ["no grace", "hard"] {
            assert!(fetch(&mut client, key).is_miss(), "{key}");
        }
        assert!(fetch(&mut client, "fresh").is_hit("v"));
        assert_eq!(stat(&mut client, "clock"), 2);
        assert_index_agrees(&server, &[0], &[b"soft", b"hard"]);
    });
}

#[test]
fn a_rewritten_log_keeps_state_grace_and_hits() {
    for_all_engines(|engine| {
        for preamble in ["yes", "no"] {
            let mut server = logging(engine, preamble);
            let mut client = server.raw();
            dataset(&mut client);
            rewrite(&mut client);
            run!(client, "CACHE.SET after v GRACE {LONG} TAGS 1 after");
            call!(client, "CACHE.REVALIDATE", "after");
            server.kill_9();
            server.restart();
            let mut client = server.raw();
            holds_dataset(&mut client, &format!("preamble {preamble}"));
            assert!(fetch(&mut client, "after").is_stale("v"));
            assert_eq!(stat(&mut client, "clock"), 3);
            assert_index_agrees(&server, &[0], &[b"soft", b"hard"]);
            let native = call!(client, "PTTL", "fresh").int();
            assert!(
                (LONG - 10_000_000..=LONG + 5000).contains(&native),
                "{native}"
            );
            assert_eq!(call!(client, "PTTL", "lasting"), Reply::Int(-1));
        }
    });
}

#[test]
fn a_rewrite_of_the_log_does_not_restart_grace() {
    for_each_engine(|engine| {
        for preamble in ["yes", "no"] {
            let mut server = logging(engine, preamble);
            let mut client = server.raw();
            let sets = [
                args!["CACHE.SET", "ever", "v", "GRACE", 1500, "TAGS", 1, "a"],
                command!("CACHE.SET long v PX {LONG} GRACE 1500 TAGS 1 a"),
                command!("CACHE.SET timed v PX 1 GRACE 1500 TAGS 1 b"),
                args!["CACHE.SET", "stays", "v", "GRACE", LONG, "TAGS", 1, "a"],
                args!["CACHE.REVALIDATE", "a"],
            ];
            client.pipeline(&sets);
            let start = std::time::Instant::now();
            rewrite(&mut client);
            server.kill_9();
            wait_until("their grace is over", DEADLINE, || {
                start.elapsed().as_millis() > 1600
            });
            server.restart();
            let mut client = server.raw();
            for key in ["ever", "long", "timed"] {
                assert!(
                    fetch(&mut client, key).is_miss(),
                    "preamble {preamble}: {key}"
                );
            }
            assert!(fetch(&mut client, "stays").is_stale("v"), "{preamble}");
            assert_index_agrees(&server, &[0], &[b"a"]);
        }
    });
}
