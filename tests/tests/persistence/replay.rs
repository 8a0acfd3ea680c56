//! What an append-only file says is done as it says, whatever this node would decide today.

use tagcache_tests::{RawClient, Reply, Server, args, call, for_each_engine};

fn logging(engine: &tagcache_tests::Engine) -> Server {
    Server::builder()
        .engine(engine)
        .arg("--appendonly", "yes")
        .start()
}

#[test]
fn an_entry_that_was_refused_on_arrival_is_refused_again_and_a_pause_does_no_harm() {
    for_each_engine(|engine| {
        let mut server = logging(engine);
        let mut client = server.raw();
        call!(client, "CACHE.SET", "key", "old", "TAGS", 1, "tag");
        let dump = call!(client, "DUMP", "key").bytes().to_vec();
        call!(client, "DEL", "key");
        call!(client, "CACHE.INVALIDATE", "tag");
        let restore =
            |key: &str| vec![b"RESTORE".to_vec(), key.into(), b"0".to_vec(), dump.clone()];
        let words = |line: &str| -> Vec<Vec<u8>> { line.split(' ').map(Into::into).collect() };
        let replies = client.pipeline(&[
            restore("a"),
            words("GET a"),
            restore("b"),
            words("CACHE.SET other v"),
            restore("c"),
            words("CLIENT PAUSE 50 WRITE"),
        ]);
        assert_eq!(replies[0], Reply::ok());
        assert!(server.is_alive());
        for _ in 0..2 {
            for key in ["a", "b", "c"] {
                assert_eq!(call!(client, "CACHE.GET", key), Reply::Null, "{key}");
            }
            assert_eq!(call!(client, "DEBUG", "LOADAOF"), Reply::ok());
        }
    });
}

#[test]
fn limits_that_were_lowered_since_do_not_undo_what_was_logged() {
    for_each_engine(|engine| {
        let server = logging(engine);
        let mut client = server.raw();
        for (setting, value) in [("max-tags-per-entry", 500), ("max-tag-bytes", 2_000)] {
            let name = format!("tagcache.{setting}");
            assert_eq!(call!(client, "CONFIG", "SET", name, value), Reply::ok());
        }
        call!(client, "CACHE.SET", "dropped", "old", "TAGS", 1, "tag");
        call!(client, "CACHE.INVALIDATE", "tag", "x".repeat(1_000));
        let mut set: Vec<Vec<u8>> = ["CACHE.SET", "many", "v", "TAGS", "200"]
            .map(Into::into)
            .into();
        set.extend((0..200).map(|n| format!("tag{n}").into_bytes()));
        assert_eq!(client.call(&set), Reply::ok());
        for (setting, value) in [("max-tags-per-entry", 128), ("max-tag-bytes", 512)] {
            call!(
                client,
                "CONFIG",
                "SET",
                format!("tagcache.{setting}"),
                value
            );
        }
        assert_eq!(call!(client, "DEBUG", "LOADAOF"), Reply::ok());
        assert_eq!(call!(client, "CACHE.GET", "dropped"), Reply::Null);
        assert_eq!(call!(client, "CACHE.GET", "many"), Reply::bulk("v"));
    });
}

/// What is remembered of invalidations stands in a log that was rewritten without preamble, as one string.
#[test]
fn a_history_is_added_to_what_is_remembered_and_a_damaged_one_is_refused() {
    for_each_engine(|engine| {
        let server = logging(engine);
        let mut client = server.raw();
        call!(client, "CACHE.INVALIDATE", "known");
        // Database 0, clock 70,000; of other tags and of all entries nothing; one tag.
        let tag = [&[3][..], b"tag", &[5, 9, 0, 2, 8, 0, 0]].concat();
        let history = [&[0, 0xf0, 0xa2, 4][..], &[0; 14], &[1], &tag].concat();
        let clock = |client: &mut RawClient| call!(client, "CACHE.STATS").field("clock").int();
        for len in 1..history.len() {
            let reply = call!(client, "CACHE.REPLAY", "HISTORY", &history[..len]);
            assert_eq!(reply, Reply::Error("ERR syntax error".to_owned()), "{len}");
            assert_eq!(clock(&mut client), 1);
        }
        let reply = call!(client, "CACHE.REPLAY", "HISTORY", &history);
        assert_eq!(reply, Reply::ok());
        for _ in 0..2 {
            assert_eq!(clock(&mut client), 70_000);
            let info = call!(client, "CACHE.TAGINFO", "tag");
            assert_eq!(info.field("invalidations").int(), 2);
            assert_eq!(info.field("last_invalidated").int(), 8);
            let info = call!(client, "CACHE.TAGINFO", "known");
            assert_eq!(info.field("invalidations").int(), 1);
            assert_eq!(call!(client, "DEBUG", "LOADAOF"), Reply::ok());
        }
    });
}

/// Stamps go on after those of the log, so that what is written afterwards is younger than what was invalidated there.
#[test]
fn what_is_written_after_a_log_of_a_clock_ahead_is_younger_than_it() {
    for_each_engine(|engine| {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let ahead = now.as_millis() as i64 + 30_000;
        for logged in [
            args!["CACHE.INVALIDATE", "", format!("@{ahead}"), "t"],
            args!["CACHE.REVALIDATE", "", format!("@{ahead}"), "t"],
            args!["CACHE.INVALIDATEWHERE", "ALL", 1, "t", "AT", ahead],
            args!["CACHE.FLUSH", "AT", ahead],
        ] {
            let mut server = logging(engine);
            let mut client = server.raw();
            assert!(!client.call(&logged).is_error());
            server.restart();
            let mut client = server.raw();
            call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "t");
            let fetched = call!(client, "CACHE.FETCH", "key", "WITHTAGS", 1, "t");
            assert_eq!(fetched.items()[0].text(), "HIT", "{logged:?}");
            let dump = call!(client, "DUMP", "key").bytes().to_vec();
            assert_eq!(call!(client, "RESTORE", "copy", 0, dump), Reply::ok());
            let copy = call!(client, "CACHE.GET", "copy");
            assert_eq!(copy, Reply::bulk("v"), "{logged:?}");
        }
    });
}
