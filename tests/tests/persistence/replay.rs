//! The commands of an append-only file are executed as written, whatever this node would decide today.

use tagcache_tests::fetch::fetch;
use tagcache_tests::look::info;
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Server, args, call, for_all_engines, for_each_engine, run, split,
    wait_until,
};

fn logging(engine: &tagcache_tests::Engine) -> Server {
    Server::builder()
        .engine(engine)
        .arg("--appendonly", "yes")
        .start()
}

#[test]
fn replay_refuses_a_refused_arrival_again_despite_a_pause() {
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
fn lowered_limits_do_not_affect_the_replay_of_a_log() {
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

/// A log that was rewritten without preamble contains the history of invalidations as one string.
#[test]
fn a_replayed_history_is_merged_and_a_damaged_one_refused() {
    for_each_engine(|engine| {
        let server = logging(engine);
        let mut client = server.raw();
        call!(client, "CACHE.INVALIDATE", "known");
        // Database 0, clock 70,000; nothing of other tags and of all entries; one tag.
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

/// Stamps continue after those of the log, so that later writes are younger than the log's invalidations.
#[test]
fn writes_after_a_log_from_a_clock_ahead_are_newer_than_it() {
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

#[test]
fn replay_refuses_unknown_or_additional_arguments() {
    for_each_engine(|engine| {
        let server = logging(engine);
        let mut client = server.raw();
        for line in [
            "GONE key PXAT 9999999999999 more",
            "GONE key EX 100",
            "GONE key more",
            "EMPTY 0 more",
            "SELECTED more",
            "SELECTED 0",
            "SLOT 1 CACHE.GET key node",
            "SLOT 1 CACHE.FLUSH key node more",
            "SLOT 1 CACHE.INVALIDATEWHERE key node",
        ] {
            let words: Vec<&str> = ["CACHE.REPLAY"]
                .into_iter()
                .chain(line.split(' '))
                .collect();
            let reply = client.call(&words);
            assert_eq!(reply, Reply::Error("ERR syntax error".to_owned()), "{line}");
        }
        for more in [&["TAKEN", "more"][..], &["more"], &["TAKEN "]] {
            let words = [&["CACHE.REPLAY", "HISTORY", ""], more].concat();
            assert!(client.call(&words).is_error(), "{more:?}");
        }
    });
}

/// For each history its number and its clock, and nothing else.
fn histories(numbers: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for mut number in numbers {
        while number >= 0x80 {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.extend([number as u8, 1]);
        bytes.extend([0; 15]);
    }
    bytes
}

#[test]
fn histories_of_nonexistent_databases_take_no_memory() {
    for_all_engines(|engine| {
        let server = logging(engine);
        let mut client = server.raw();
        let size = |client: &mut RawClient| call!(client, "INFO", "tagcache").bytes().len();
        run!(client, "CACHE.SET key v");
        call!(client, "CACHE.REPLAY", "HISTORY", histories(0..16));
        let before = (info(&mut client, "used_memory"), size(&mut client));
        for numbers in [
            0..100_000,
            1_048_575..1_048_576,
            4_294_967_295..4_294_967_296,
        ] {
            let reply = call!(client, "CACHE.REPLAY", "HISTORY", histories(numbers));
            assert_eq!(reply, Reply::ok());
        }
        // The log's buffer may hold the command for a moment.
        wait_until("the memory is back", DEADLINE, || {
            info(&mut client, "used_memory") < before.0 + (1 << 20)
        });
        assert!(size(&mut client) < before.1 + 1_000);
    });
}

/// The log of a node that received slots contains the commands of the source in this form, with that node's times.
#[test]
fn replay_repeats_the_commands_of_a_slots_source() {
    for_each_engine(|engine| {
        let mut server = logging(engine);
        let mut client = server.raw();
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let now = now.as_millis() as i64;
        let replay = |client: &mut RawClient, at: i64, rest: &str| {
            let line = format!("CACHE.REPLAY SLOT {at} {rest}");
            assert_eq!(client.call(&split(&line)), Reply::ok(), "{line}");
        };
        call!(client, "CACHE.SET", "flushed", "v");
        replay(&mut client, now, "CACHE.FLUSH key node");
        for (key, tag) in [("hard", "a"), ("soft", "b"), ("where", "c"), ("left", "d")] {
            let set = ["CACHE.SET", key, "v", "GRACE", "600000", "TAGS", "1", tag];
            assert_eq!(client.call(&set), Reply::ok());
        }
        replay(&mut client, now + 1, "CACHE.INVALIDATE key node a");
        replay(&mut client, now + 1, "CACHE.REVALIDATE key node b");
        replay(
            &mut client,
            now + 1,
            "CACHE.INVALIDATEWHERE key node ANY 1 c",
        );
        replay(&mut client, now + 100_000, "CACHE.HOLD key node held");
        for _ in 0..2 {
            for key in ["flushed", "hard", "where"] {
                assert_eq!(call!(client, "CACHE.GET", key), Reply::Null, "{key}");
            }
            assert!(fetch(&mut client, "soft").is_stale("v"));
            assert_eq!(call!(client, "CACHE.GET", "left"), Reply::bulk("v"));
            call!(client, "CACHE.SET", "new", "v", "TAGS", 1, "held");
            assert!((1..=100_000).contains(&call!(client, "PTTL", "new").int()));
            server.restart();
            client = server.raw();
        }
    });
}

#[test]
fn a_write_after_a_forwarded_invalidation_in_one_ms_is_fresh() {
    const SCRIPT: &str = "local t = redis.call('TIME')
        local at = string.format('%d%03d', t[1], math.floor(t[2] / 1000))
        redis.call('CACHE.REPLAY', 'SLOT', at, 'CACHE.INVALIDATE', KEYS[1], 'node', 'a')
        redis.call('CACHE.SET', KEYS[1], 'v')
        return redis.call('CACHE.FETCH', KEYS[1], 'WITHTAGS', 1, 'a')";
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for n in 0..50 {
            let reply = call!(client, "EVAL", SCRIPT, 1, format!("key{n}"));
            assert_eq!(reply.items()[0].text(), "HIT", "{n}");
        }
    });
}
