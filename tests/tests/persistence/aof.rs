//! AOF: with and without RDB preamble, rewritten during writes, after a power cut.

use tagcache_tests::look::{
    assert_index_agrees, info, info_text, stat, wait_reclaimed, wait_rewritten,
};
use tagcache_tests::state::{Hits, State};
use tagcache_tests::stream::{aof_commands, is, words};
use tagcache_tests::traffic::{DATABASES, write};
use tagcache_tests::{
    Engine, RawClient, Reply, Rng, Server, ServerBuilder, args, call, for_all_engines,
    for_each_engine,
};

use crate::{TAGS, bulk, dataset};

fn with_aof(engine: &Engine, preamble: &str) -> ServerBuilder {
    Server::builder()
        .engine(engine)
        .arg("--appendonly", "yes")
        .arg("--appendfsync", "always")
        .arg("--aof-use-rdb-preamble", preamble)
        .arg("--auto-aof-rewrite-percentage", "0")
}

fn wait_rewritten_well(client: &mut RawClient) {
    wait_rewritten(client);
    assert_eq!(info_text(client, "aof_last_bgrewrite_status"), "ok");
}

#[test]
fn every_write_survives_a_power_cut() {
    for_all_engines(|engine| {
        let mut server = with_aof(engine, "yes").start();
        dataset(&server);
        let before = State::of(&server, &[0, 1, 3], Hits::Ignore);
        server.kill_9();
        server.restart();
        State::of(&server, &[0, 1, 3], Hits::Ignore).must_equal(&before, "after the restart");
        assert_index_agrees(&server, &[0, 1, 3], &TAGS);
    });
}

#[test]
fn a_rewritten_log_keeps_values_tags_ttls_hits_and_clock() {
    for_all_engines(|engine| {
        for preamble in ["yes", "no"] {
            let mut server = with_aof(engine, preamble).start();
            dataset(&server);
            let mut client = server.raw();
            let before = State::of(&server, &[0, 1, 3], Hits::Count);
            call!(client, "BGREWRITEAOF");
            wait_rewritten_well(&mut client);
            server.kill_9();
            server.restart();
            let after = State::of(&server, &[0, 1, 3], Hits::Count);
            after.must_equal(&before, &format!("aof-use-rdb-preamble {preamble}"));
            assert_index_agrees(&server, &[0, 1, 3], &TAGS);
            let pttl = call!(server.raw(), "CACHE.INSPECT", 7).field("pttl").int();
            assert!(pttl > 90_000_000 && pttl <= 100_000_000, "{pttl}");
        }
    });
}

#[test]
fn a_rewrite_during_writes_loses_nothing() {
    for_each_engine(|engine| {
        for preamble in ["yes", "no"] {
            let mut server = with_aof(engine, preamble).start();
            let mut client = server.raw();
            // An fsync for each write would make this test a test of the disk.
            call!(client, "CONFIG", "SET", "appendfsync", "no");
            let mut rng = Rng::from_env(21);
            bulk(&mut client, 5000);
            for _ in 0..3 {
                write(&mut client, &mut rng, 1000);
                let started =
                    client.pipeline(&[args!["BGREWRITEAOF"], args!["CACHE.INVALIDATE", "bulk"]]);
                assert!(!started[0].is_error(), "{started:?}");
                while info(&mut client, "aof_rewrite_in_progress") == 1 {
                    write(&mut client, &mut rng, 100);
                }
                wait_rewritten_well(&mut client);
                call!(client, "SELECT", 0);
                bulk(&mut client, 2000);
            }
            let before = State::of(&server, &DATABASES, Hits::Ignore);
            server.kill_9();
            server.restart();
            assert_index_agrees(&server, &DATABASES, &TAGS);
            State::of(&server, &DATABASES, Hits::Ignore)
                .must_equal(&before, &format!("aof-use-rdb-preamble {preamble}"));
        }
    });
}

#[test]
fn random_writes_are_replayed_to_the_same_dataset() {
    for_all_engines(|engine| {
        let mut server = with_aof(engine, "no")
            .module_args(&["reclaim-inline", "0"])
            .start();
        let mut client = server.raw();
        call!(client, "CONFIG", "SET", "appendfsync", "no");
        write(&mut client, &mut Rng::from_env(22), 10_000);
        let before = State::of(&server, &DATABASES, Hits::Ignore);
        server.kill_9();
        server.restart();
        assert_index_agrees(&server, &DATABASES, &TAGS);
        State::of(&server, &DATABASES, Hits::Ignore).must_equal(&before, "after the restart");
    });
}

#[test]
fn entries_in_the_backlog_are_rewritten_as_gone() {
    for_each_engine(|engine| {
        for preamble in ["yes", "no"] {
            let mut server = with_aof(engine, preamble)
                .module_args(&["reclaim-inline", "0", "reclaim-budget-us", "100"])
                .start();
            let mut client = server.raw();
            call!(client, "CONFIG", "SET", "appendfsync", "no");
            bulk(&mut client, 20_000);
            dataset(&server);
            // The rewrite forks before the timer can have reclaimed much.
            let replies =
                client.pipeline(&[args!["CACHE.INVALIDATE", "bulk"], args!["BGREWRITEAOF"]]);
            assert_eq!(replies[0], Reply::Int(20_000));
            wait_rewritten_well(&mut client);
            let before = State::of(&server, &[0, 3], Hits::Count);
            server.kill_9();
            server.restart();
            let mut client = server.raw();
            assert!(
                call!(client, "CACHE.GET", "bulk7").is_null(),
                "aof-use-rdb-preamble {preamble}"
            );
            assert_index_agrees(&server, &[0, 3], &TAGS);
            wait_reclaimed(&mut client);
            let visible = stat(&mut client, "entries");
            assert_eq!(
                call!(client, "DBSIZE").int(),
                visible + 1,
                "aof-use-rdb-preamble {preamble}"
            );
            State::of(&server, &[0, 3], Hits::Count)
                .must_equal(&before, &format!("aof-use-rdb-preamble {preamble}"));
        }
    });
}

#[test]
fn one_invalidation_is_logged_once_and_reclaiming_is_not() {
    for_all_engines(|engine| {
        let server = with_aof(engine, "yes").start();
        let mut client = server.raw();
        call!(client, "CONFIG", "SET", "appendfsync", "no");
        bulk(&mut client, 5000);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "bulk"), Reply::Int(5000));
        wait_reclaimed(&mut client);
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(0));
        // The reply comes after the write to the file.
        let commands = aof_commands(server.dir(), ".incr.aof");
        let others: Vec<_> = commands
            .iter()
            .filter(|command| !is(command, "cache.set"))
            .map(words)
            .collect();
        assert_eq!(others, [["cache.invalidate", "bulk"]]);
        assert_eq!(commands.len(), 5001);
    });
}

#[test]
fn a_rewritten_log_without_preamble_consists_of_commands() {
    for_each_engine(|engine| {
        let server = with_aof(engine, "no").start();
        dataset(&server);
        let mut client = server.raw();
        call!(client, "BGREWRITEAOF");
        wait_rewritten_well(&mut client);
        let commands = aof_commands(server.dir(), ".base.aof");
        assert!(commands.len() > 500, "{} commands", commands.len());
        let relative = commands
            .iter()
            .any(|command| command.iter().any(|arg| arg == b"PX" || arg == b"EX"));
        assert!(!relative, "times are absolute");
    });
}

#[test]
fn a_rename_in_a_gone_keys_last_millisecond_is_replayed() {
    // Time stands still in a script: at this time, the server does not consider the key expired yet.
    const SCRIPT: &str = "
        local time = redis.call('TIME')
        local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
        redis.call('CACHE.SET', KEYS[1], 'v', 'PXAT', now, 'TAGS', 1, 't')
        redis.call('CACHE.INVALIDATE', 't')
        return redis.pcall('RENAME', KEYS[1], KEYS[2])";
    for_all_engines(|engine| {
        let mut server = with_aof(engine, "yes").start();
        let mut client = server.raw();
        call!(client, "SET", "text", "v");
        let renamed = call!(client, "EVAL", SCRIPT, 2, "gone", "text");
        wait_reclaimed(&mut client);
        let left = call!(client, "EXISTS", "text");
        assert_eq!(left, Reply::Int(i64::from(renamed.is_error())));
        server.kill_9();
        server.restart();
        assert_eq!(call!(server.raw(), "EXISTS", "text"), left);
    });
}
