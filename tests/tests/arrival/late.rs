//! Arrivals on one server, and from another server.

use tagcache_tests::look::assert_index_agrees;
use tagcache_tests::{
    DEADLINE, Reply, Server, args, call, for_all_engines, run, split, wait_until,
};

use crate::{
    WAYS, assert_fresh, assert_gone, assert_never_visible, dumped, dumped_of, restore, unix_ms,
    within_the_allowance,
};

/// How far the clocks of two nodes may differ, ms: the module's allowance.
const ALLOWANCE_MS: i64 = 1_000;

#[test]
fn an_old_entry_arrives_gone_after_each_kind_of_invalidation() {
    for_all_engines(|engine| {
        for way in WAYS {
            let server = Server::builder().engine(engine).start();
            let mut client = server.raw();
            let old = dumped(&mut client, &["t", "both"]);
            let untouched = dumped(&mut client, &["untouched"]);
            client.call(&split(way));
            assert_gone(&mut client, &old, way);
            if way != "CACHE.FLUSH" && !way.contains("NONE") {
                assert_fresh(&mut client, &untouched, way);
            }
            let new = dumped(&mut client, &["t", "both"]);
            assert_fresh(&mut client, &new, way);
            assert_gone(&mut client, &old, way);
            assert_index_agrees(&server, &[0], &[b"t", b"both"]);
        }
    });
}

#[test]
fn an_old_entry_arrives_gone_after_minutes_and_after_days() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let now = unix_ms(&mut client);
        for age_ms in [90_000_000, 600_000, 6_000, 2_000] {
            let old = dumped_of(&mut client, now - age_ms - 1);
            run!(client, "DEL arrived");
            // As in a log: the invalidation happened at this time.
            let at = format!("@{}", now - age_ms);
            assert_eq!(
                call!(client, "CACHE.INVALIDATE", "", at, "t"),
                Reply::Int(0)
            );
            assert_gone(&mut client, &old, &format!("{age_ms} ms"));
        }
    });
}

#[test]
fn native_flushes_and_swaps_keep_past_invalidations() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let old = dumped(&mut client, &["t"]);
        let untouched = dumped(&mut client, &["untouched"]);
        run!(client, "CACHE.INVALIDATE t");
        for native in [
            "FLUSHDB",
            "FLUSHDB ASYNC",
            "FLUSHALL",
            "FLUSHALL ASYNC",
            "DEBUG RELOAD",
        ] {
            run!(client, "CACHE.SET key v TAGS 1 t");
            assert_eq!(client.call(&split(native)), Reply::ok(), "{native}");
            assert_gone(&mut client, &old, native);
            assert_fresh(&mut client, &untouched, native);
        }
        assert_eq!(run!(client, "SWAPDB 0 5"), Reply::ok());
        assert_fresh(&mut client, &old, "database 5 was never invalidated");
        assert_eq!(run!(client, "SELECT 5"), Reply::ok());
        assert_gone(&mut client, &old, "SWAPDB");
        assert_fresh(&mut client, &untouched, "SWAPDB");
    });
}

#[test]
fn an_entry_moved_to_a_database_obeys_its_past_invalidations() {
    for_all_engines(|engine| {
        for way in WAYS {
            let server = Server::builder().engine(engine).start();
            let mut client = server.raw();
            for (key, tag) in [("moved", "t"), ("copied", "t"), ("free", "untouched")] {
                run!(
                    client,
                    "CACHE.SET {key} value GRACE 600000 TAGS 2 {tag} both"
                );
                assert_eq!(run!(client, "MOVE {key} 1"), Reply::Int(1));
            }
            client.call(&split(way));
            run!(client, "SELECT 1");
            for key in ["moved", "copied", "free"] {
                let value = run!(client, "CACHE.GET {key}");
                assert_eq!(value, Reply::bulk("value"), "{way}: not invalidated here");
            }
            assert_eq!(run!(client, "COPY copied copied DB 0"), Reply::Int(1));
            for key in ["moved", "free"] {
                assert_eq!(run!(client, "MOVE {key} 0"), Reply::Int(1));
            }
            run!(client, "CACHE.SET new value TAGS 2 t both");
            assert_eq!(run!(client, "MOVE new 0"), Reply::Int(1));
            run!(client, "SELECT 0");
            for key in ["moved", "copied"] {
                assert_never_visible(&mut client, key, way);
            }
            let new = run!(client, "CACHE.GET new");
            assert_eq!(new, Reply::bulk("value"), "{way}: written later");
            if way.contains("IDATE t") {
                let free = run!(client, "CACHE.GET free");
                assert_eq!(free, Reply::bulk("value"), "{way}: of another tag");
            }
            assert_index_agrees(&server, &[0, 1], &[b"t", b"both"]);
        }
    });
}

#[test]
fn moves_in_scripts_and_transactions_obey_the_target_database() {
    for_all_engines(|engine| {
        let server = Server::builder()
            .engine(engine)
            .arg("--appendonly", "yes")
            .start();
        let mut client = server.raw();
        for nested in ["script", "transaction"] {
            for command in ["MOVE key 3", "COPY key key DB 3"] {
                for (tag, is_late) in [("t", true), ("untouched", false)] {
                    let what = format!("{command} in a {nested}, {tag}");
                    run!(client, "FLUSHALL");
                    run!(client, "SELECT 3");
                    run!(client, "CACHE.SET key value TAGS 1 {tag}");
                    assert_eq!(run!(client, "MOVE key 2"), Reply::Int(1));
                    run!(client, "CACHE.INVALIDATE t");
                    run!(client, "SELECT 0");
                    if nested == "script" {
                        let body = "redis.call('SELECT', 2); return redis.call(unpack(ARGV))";
                        client.call(&[args!["EVAL", body, 0], split(command)].concat());
                        run!(client, "SET here {nested}");
                        assert_eq!(run!(client, "MOVE here 1"), Reply::Int(1), "{what}");
                    } else {
                        let queued = [split("SELECT 2"), split(command)];
                        client
                            .pipeline(&[&[args!["MULTI"]], &queued[..], &[args!["EXEC"]]].concat());
                        let error = client.call(&split("MOVE key 2"));
                        assert!(error.is_error(), "{what}: it is database 2");
                    }
                    run!(client, "SELECT 3");
                    for round in 0..2 {
                        if is_late {
                            assert_never_visible(&mut client, "key", &what);
                        } else {
                            let value = run!(client, "CACHE.GET key");
                            assert_eq!(value, Reply::bulk("value"), "{what}");
                        }
                        if round == 0 {
                            assert_eq!(run!(client, "DEBUG LOADAOF"), Reply::ok());
                        }
                    }
                    assert_index_agrees(&server, &[0, 1, 2, 3], &[b"t", b"untouched"]);
                }
            }
        }
    });
}

#[test]
fn entries_of_folded_tags_still_arrive_gone() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let old = dumped(&mut client, &["t"]);
        run!(client, "CACHE.INVALIDATE t");
        let commands = (0..110).map(|n| {
            let mut command = args!["CACHE.INVALIDATE"];
            command.extend((0..1_000).map(|m| format!("other{n}.{m}").into_bytes()));
            command
        });
        let replies = client.pipeline(&commands.collect::<Vec<_>>());
        assert!(replies.iter().all(|reply| *reply == Reply::Int(0)));
        assert_eq!(
            run!(client, "CACHE.TAGINFO t"),
            Reply::Null,
            "it was folded"
        );
        assert_gone(&mut client, &old, "folded");
        let new = dumped(&mut client, &["t"]);
        assert_fresh(&mut client, &new, "written after them all");
    });
}

#[test]
fn the_memory_of_invalidations_is_bounded() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let mut round = |n: usize| {
            let commands = (0..60).map(|m| {
                let mut command = args!["CACHE.INVALIDATE"];
                command.extend((0..2_000).map(|k| format!("{n}.{m}.{k}").into_bytes()));
                command
            });
            client.pipeline(&commands.collect::<Vec<_>>());
            call!(client, "CACHE.STATS").field("index_bytes").int()
        };
        // 120,000 tags in each round, of which 100,000 are remembered.
        let (first, second) = (round(100), round(101));
        assert!(second < first * 3 / 2, "{first} bytes, then {second}");
    });
}

#[test]
fn migrate_brings_no_invalidated_entry_back() {
    for_all_engines(|engine| {
        let (source, target) = (
            Server::builder().engine(engine).start(),
            Server::builder().engine(engine).start(),
        );
        let (mut here, mut there) = (source.raw(), target.raw());
        for way in WAYS {
            run!(here, "CACHE.SET key value GRACE 600000 TAGS 2 t both");
            there.call(&split(way));
            let port = target.port();
            assert_eq!(
                run!(here, "MIGRATE 127.0.0.1 {port} key 0 20000"),
                Reply::ok()
            );
            assert_never_visible(&mut there, "key", way);
            wait_until("its memory is given back", DEADLINE, || {
                run!(there, "EXISTS key") == Reply::Int(0)
            });
        }
        assert_index_agrees(&target, &[0], &[b"t", b"both"]);
    });
}

#[test]
fn entries_of_other_servers_are_fresh_beyond_the_allowance() {
    for_all_engines(|engine| {
        let (source, target) = (
            Server::builder().engine(engine).start(),
            Server::builder().engine(engine).start(),
        );
        let (mut here, mut there) = (source.raw(), target.raw());
        run!(there, "CACHE.INVALIDATE t");
        let info = run!(there, "CACHE.TAGINFO t");
        let at = info.field("last_invalidated").int();
        let within = dumped_of(&mut here, at + ALLOWANCE_MS);
        assert_gone(&mut there, &within, "within the allowance");
        wait_until("the allowance is over", DEADLINE, || {
            unix_ms(&mut here) > at + ALLOWANCE_MS
        });
        let beyond = dumped(&mut here, &["t"]);
        assert_fresh(&mut there, &beyond, "beyond the allowance");
    });
}

#[test]
fn an_entry_from_a_clock_ahead_keeps_its_allowance_in_a_dump() {
    // The first server's clock is ahead; an entry that was written in the future stands for that here.
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let ahead = unix_ms(&mut client) + 900;
        run!(client, "CACHE.SET key value TAGS 1 t CREATED {ahead}");
        let payload = call!(client, "DUMP", "key").bytes().to_vec();
        assert_eq!(run!(client, "CACHE.INVALIDATE t"), Reply::Int(1));
        assert_gone(
            &mut client,
            &payload,
            "it was dumped before the invalidation",
        );
    });
}

#[test]
fn a_dump_here_keeps_the_allowance_of_a_foreign_entry() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let payload = within_the_allowance(engine, &mut client);
        run!(client, "SELECT 1");
        restore(&mut client, "key", &payload);
        let again = call!(client, "DUMP", "key").bytes().to_vec();
        assert_fresh(&mut client, &again, "nothing was invalidated there");
        run!(client, "SELECT 0");
        assert_gone(&mut client, &again, "by way of another database");
    });
}

#[test]
fn rapid_writes_and_invalidations_keep_their_order() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let round = [
            args!["CACHE.SET", "key", "value", "TAGS", 1, "t"],
            args!["DUMP", "key"],
            args!["CACHE.INVALIDATE", "t"],
        ];
        let rounds: Vec<_> = (0..5_000).flat_map(|_| round.clone()).collect();
        let replies = client.pipeline(&rounds);
        for reply in replies.iter().skip(1).step_by(3 * 250) {
            assert_gone(&mut client, reply.bytes(), "dumped before an invalidation");
        }
        let new = dumped(&mut client, &["t"]);
        assert_fresh(&mut client, &new, "dumped after them all");
    });
}
