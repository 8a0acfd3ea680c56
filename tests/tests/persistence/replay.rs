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

/// Version 0.1.0 wrote soft invalidations, clocks and what scripts and arrivals met in words of its own.
#[test]
fn what_version_0_1_logged_is_understood() {
    for_each_engine(|engine| {
        let server = logging(engine);
        let mut client = server.raw();
        for (key, tag) in [("soft", "a"), ("where", "b"), ("other", "c")] {
            call!(
                client,
                "CACHE.SET",
                key,
                "v",
                "EX",
                600,
                "GRACE",
                60_000,
                "TAGS",
                1,
                tag
            );
        }
        call!(client, "CACHE.SET", "short", "v", "TAGS", 1, "a");
        let now = call!(client, "TIME").items()[0].int() * 1000;
        for words in [
            args!["REVALIDATE", now, "a", "nobody"],
            args!["INVALIDATEWHERE", now, "ALL", 1, "b", "SOFT"],
            args!["DROP", "short"],
            args!["REFUSE", "arrives"],
            args!["REFUSE", "arrives", now],
            args!["CLOCK", 0, 70_000, 3, 80_000],
        ] {
            let command = [args!["CACHE.REPLAY"], words].concat();
            assert_eq!(client.call(&command), Reply::ok(), "{command:?}");
        }
        assert_eq!(call!(client, "EXISTS", "short"), Reply::Int(0));
        for _ in 0..2 {
            let state = |client: &mut RawClient, key: &str| {
                call!(client, "CACHE.FETCH", key).items()[0].text()
            };
            assert_eq!(state(&mut client, "soft"), "STALE");
            assert_eq!(state(&mut client, "where"), "STALE");
            assert_eq!(state(&mut client, "other"), "HIT");
            assert_eq!(call!(client, "CACHE.GET", "short"), Reply::Null);
            assert_eq!(call!(client, "CACHE.STATS").field("clock").int(), 70_000);
            assert_eq!(call!(client, "DEBUG", "LOADAOF"), Reply::ok());
        }
        for words in [
            args!["REVALIDATE", "soon", "a"],
            args!["INVALIDATEWHERE", now],
            args!["CLOCK", 0],
            args!["DROP", "a", "b"],
        ] {
            let command = [args!["CACHE.REPLAY"], words].concat();
            assert!(client.call(&command).is_error(), "{command:?}");
        }
    });
}
