//! Counts stay with their entry, however it is moved.

use tagcache_tests::fetch::fetch;
use tagcache_tests::look::{inspect, wait_rewritten};
use tagcache_tests::{RawClient, Reply, Server, call, for_all_engines, for_each_engine, run};

use crate::{read, top};

fn filled(server: &Server) -> RawClient {
    let mut client = server.raw();
    for n in 0..300 {
        let key = format!("key{n}");
        call!(
            client,
            "CACHE.SET",
            key,
            "v",
            "TAGS",
            1,
            format!("t{}", n % 3)
        );
        read(&mut client, &key, n / 10);
    }
    call!(client, "CACHE.HITS", "key7", 1_000_000);
    client
}

fn hits(client: &mut RawClient, key: &str) -> Option<i64> {
    inspect(client, key).map(|entry| entry.hits)
}

fn is_filled(client: &mut RawClient, what: &str) {
    for n in (0..300).filter(|n| *n != 7) {
        let key = format!("key{n}");
        assert_eq!(hits(client, &key), Some(n / 10), "{what}: {key}");
    }
    assert_eq!(hits(client, "key7"), Some(1_000_000), "{what}");
    let list = top(client, 11);
    assert_eq!(list[0], ("key7".to_owned(), 1_000_000), "{what}");
    for (key, hits) in &list[1..] {
        let number: i64 = key["key".len()..].parse().expect("keys are numbered");
        assert_eq!((number / 10, *hits), (29, 29), "{what}: {key}");
    }
}

#[test]
fn overwrite_rename_and_expire_keep_the_hits() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = filled(&server);
        for command in [
            &["CACHE.SET", "key299", "w"][..],
            &["CACHE.SET", "key299", "w", "TAGS", "1", "new"],
            &[
                "CACHE.SET",
                "key299",
                "w",
                "XX",
                "PX",
                "10000000",
                "GRACE",
                "10000000",
            ],
            &["CACHE.TOUCH", "key299", "PERSIST"],
            &["EXPIRE", "key299", "10000"],
            &["CACHE.REVALIDATE", "new"],
            &["RENAME", "key299", "other"],
            &["RENAME", "other", "key299"],
        ] {
            assert!(!client.call(command).is_error(), "{command:?}");
        }
        is_filled(&mut client, "after all that");
        call!(client, "RENAME", "key7", "moved");
        assert_eq!(top(&mut client, 1), [("moved".to_owned(), 1_000_000)]);
        call!(client, "RENAME", "moved", "key100");
        assert_eq!(top(&mut client, 1), [("key100".to_owned(), 1_000_000)]);
        call!(client, "CACHE.DEL", "key100");
        assert_eq!(top(&mut client, 1)[0].1, 29);
        call!(client, "CACHE.SET", "key100", "new");
        assert_eq!(hits(&mut client, "key100"), Some(0), "it is another entry");
    });
}

#[test]
fn an_rdb_keeps_the_hits_and_top_lists_them_at_once() {
    for_all_engines(|engine| {
        let mut server = Server::builder().engine(engine).start();
        let mut client = filled(&server);
        assert_eq!(call!(client, "DEBUG", "RELOAD"), Reply::ok());
        is_filled(&mut client, "after a reload");
        call!(client, "SAVE");
        server.kill_9();
        server.restart();
        is_filled(&mut server.raw(), "after a restart");
    });
}

#[test]
fn a_rewritten_append_only_file_keeps_the_hits() {
    for_each_engine(|engine| {
        for preamble in ["yes", "no"] {
            let mut server = Server::builder()
                .engine(engine)
                .arg("--appendonly", "yes")
                .arg("--aof-use-rdb-preamble", preamble)
                .start();
            let mut client = filled(&server);
            call!(client, "BGREWRITEAOF");
            wait_rewritten(&mut client);
            server.stop();
            server.restart();
            is_filled(&mut server.raw(), &format!("preamble {preamble}"));
        }
    });
}

#[test]
fn a_full_sync_and_a_dump_payload_transfer_the_hits() {
    for_each_engine(|engine| {
        let primary = Server::builder().engine(engine).start();
        let mut client = filled(&primary);
        let replica = Server::builder()
            .engine(engine)
            .replica_of(&primary)
            .start();
        tagcache_tests::state::wait_synchronised(&primary, &replica);
        is_filled(&mut replica.raw(), "the replica");
        let payload = call!(client, "DUMP", "key7").bytes().to_vec();
        call!(client, "RESTORE", "restored", 0, payload);
        assert_eq!(hits(&mut client, "restored"), Some(1_000_000));
        let list = top(&mut client, 2);
        assert_eq!((list[0].1, list[1].1), (1_000_000, 1_000_000));
    });
}

#[test]
fn get_of_a_stale_entry_counts_no_hit_and_fetch_at_most_one() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        run!(client, "CACHE.SET key v GRACE 1000000 TAGS 1 a");
        read(&mut client, "key", 3);
        call!(client, "CACHE.REVALIDATE", "a");
        read(&mut client, "key", 5);
        assert_eq!(
            hits(&mut client, "key"),
            Some(3),
            "a GET finds nothing there"
        );
        fetch(&mut client, "key");
        assert!(hits(&mut client, "key").is_some_and(|hits| (3..=4).contains(&hits)));
    });
}
