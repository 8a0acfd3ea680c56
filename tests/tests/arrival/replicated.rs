//! Arrivals on replicas, and after their promotion.

use tagcache_tests::look::{assert_index_agrees, info, info_text, wait_reclaimed};
use tagcache_tests::state::{assert_same, replicated, wait_synchronised};
use tagcache_tests::stream::{ReplicationStream, words};
use tagcache_tests::{DEADLINE, Reply, Server, args, for_all_engines, run, split, wait_until};

use crate::{
    WAYS, assert_fresh, assert_gone, assert_never_visible, dumped, dumped_of, restore,
    within_the_allowance,
};

#[test]
fn an_old_entry_is_gone_on_a_replica_and_after_promotion() {
    for_all_engines(|engine| {
        let (primary, replica) = replicated(engine);
        let (mut here, mut there) = (primary.raw(), replica.raw());
        let old = dumped(&mut here, &["t", "both"]);
        let untouched = dumped(&mut here, &["untouched"]);
        for (db, way) in (0..).zip(WAYS) {
            run!(here, "SELECT {db}");
            here.call(&split(way));
            restore(&mut here, "key", &old);
            assert_never_visible(&mut here, "key", way);
        }
        let databases: Vec<u32> = (0..WAYS.len() as u32).collect();
        assert_same(&primary, &replica, &databases);
        for (db, way) in (0..).zip(WAYS) {
            run!(there, "SELECT {db}");
            assert_never_visible(&mut there, "key", way);
            assert_eq!(run!(there, "EXISTS key"), Reply::Int(0), "{way}");
        }
        assert_eq!(run!(there, "REPLICAOF NO ONE"), Reply::ok());
        for (db, way) in (0..).zip(WAYS) {
            run!(there, "SELECT {db}");
            assert_gone(&mut there, &old, way);
            if way != "CACHE.FLUSH" && !way.contains("NONE") {
                assert_fresh(&mut there, &untouched, way);
            }
        }
        assert_index_agrees(&replica, &databases, &[b"t", b"both"]);
    });
}

#[test]
fn a_full_resync_transfers_past_invalidations() {
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).start();
        let mut here = primary.raw();
        let old = dumped(&mut here, &["t"]);
        run!(here, "CACHE.INVALIDATE t");
        let replica = Server::builder()
            .engine(engine)
            .replica_of(&primary)
            .start();
        wait_synchronised(&primary, &replica);
        let mut there = replica.raw();
        assert_eq!(run!(there, "REPLICAOF NO ONE"), Reply::ok());
        assert_gone(&mut there, &old, "after the promotion");
    });
}

#[test]
fn a_refused_arrival_is_unlinked_once_in_the_stream() {
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).start();
        let other = Server::builder().engine(engine).start();
        let mut here = primary.raw();
        let mut stream = ReplicationStream::attach(&primary);
        run!(here, "CACHE.INVALIDATE t");
        let taginfo = run!(here, "CACHE.TAGINFO t");
        let at = taginfo.field("last_invalidated").int();
        // The second is refused because of the allowance alone, which a replica does not apply.
        for written in [at - 60_000, at + 500] {
            let payload = dumped_of(&mut other.raw(), written);
            restore(&mut here, "key", &payload);
            let mut seen = Vec::new();
            wait_until("it is removed", DEADLINE, || {
                let commands = stream.commands(&primary);
                seen.extend(commands.iter().map(|command| words(command)[..2].join(" ")));
                seen.iter().any(|command| command == "unlink key")
            });
            seen.retain(|command| command != "cache.invalidate t");
            assert_eq!(seen, ["restore key", "unlink key"]);
        }
        // No command comes later.
        assert!(stream.commands(&primary).is_empty());
    });
}

#[test]
fn native_commands_do_not_see_a_refused_arrival() {
    for_all_engines(|engine| {
        let (primary, replica) = replicated(engine);
        let mut client = primary.raw();
        let payload = dumped(&mut client, &["t"]);
        run!(client, "CACHE.INVALIDATE t");
        for (command, reply) in [
            (args!["SETNX", "key", "native"], Reply::Int(1)),
            (args!["INCR", "key"], Reply::Int(1)),
            (args!["SET", "key", "native", "XX"], Reply::Null),
        ] {
            let restore = args!["RESTORE", "key", 0, &payload];
            let replies = client.pipeline(&[restore, command.clone()]);
            assert_eq!(replies, [Reply::ok(), reply], "{command:?}");
            run!(client, "DEL key");
        }
        run!(client, "SET native data");
        let restore = args!["RESTORE", "key", 0, &payload];
        let replies = client.pipeline(&[restore, args!["RENAME", "key", "native"]]);
        assert!(replies[1].is_error(), "{replies:?}");
        assert_eq!(run!(client, "GET native"), Reply::bulk("data"));
        assert_same(&primary, &replica, &[0]);
    });
}

#[test]
fn eviction_and_pauses_delay_no_removal_of_a_refused_arrival() {
    for_all_engines(|engine| {
        let (primary, replica) = replicated(engine);
        let mut client = primary.raw();
        let payload = dumped(&mut client, &["t"]);
        run!(client, "CACHE.INVALIDATE t");
        run!(client, "CONFIG SET maxmemory-policy allkeys-random");
        for round in 0..20 {
            let fill = |n| args!["SET", format!("filler{n}"), "x".repeat(1_000)];
            client.pipeline(&(0..50).map(fill).collect::<Vec<_>>());
            let room = info(&mut client, "used_memory") - 3_000;
            let replies = client.pipeline(&[
                args!["CONFIG", "SET", "maxmemory", room],
                args!["RESTORE", "key", 0, &payload, "REPLACE"],
                // The server evicts before this command, after the filter has run.
                args!["SETNX", "key", round],
                args!["RESTORE", "other", 0, &payload, "REPLACE"],
                split("CLIENT PAUSE 1 WRITE"),
                args!["INCR", "other"],
                args!["RESTORE", "third", 0, &payload, "REPLACE"],
                args![
                    "EVAL_RO",
                    "return redis.call('EXISTS', KEYS[1])",
                    1,
                    "third"
                ],
                split("CONFIG SET maxmemory 0"),
            ]);
            assert_eq!(replies[8], Reply::ok(), "{replies:?}");
            run!(client, "DEL key other third");
        }
        assert_same(&primary, &replica, &[0]);
    });
}

#[test]
fn an_arrival_refused_by_the_allowance_is_removed_on_replicas() {
    for_all_engines(|engine| {
        let (primary, replica) = replicated(engine);
        let other = Server::builder().engine(engine).start();
        let (mut here, mut there) = (primary.raw(), replica.raw());
        run!(here, "CACHE.INVALIDATE t");
        let taginfo = run!(here, "CACHE.TAGINFO t");
        let within = taginfo.field("last_invalidated").int() + 500;
        let payload = dumped_of(&mut other.raw(), within);
        restore(&mut here, "key", &payload);
        assert_never_visible(&mut here, "key", "on the primary");
        wait_until("it is removed", DEADLINE, || {
            run!(here, "EXISTS key") == Reply::Int(0)
        });
        assert_same(&primary, &replica, &[0]);
        assert_eq!(run!(there, "EXISTS key"), Reply::Int(0));
    });
}

#[test]
fn entries_from_another_database_are_refused_on_replicas_too() {
    for_all_engines(|engine| {
        let (primary, replica) = replicated(engine);
        let (mut here, mut there) = (primary.raw(), replica.raw());
        for nested in ["alone", "in a transaction", "in a script"] {
            for command in ["MOVE key 0", "COPY key key DB 0"] {
                run!(here, "CACHE.SET key value TAGS 1 t");
                assert_eq!(run!(here, "MOVE key 1"), Reply::Int(1));
                run!(here, "CACHE.INVALIDATE t");
                run!(here, "SELECT 1");
                match nested {
                    "alone" => drop(here.call(&split(command))),
                    "in a script" => {
                        let eval = args!["EVAL", "return redis.call(unpack(ARGV))", 0];
                        here.call(&[eval, split(command)].concat());
                    }
                    _ => drop(here.pipeline(&[args!["MULTI"], split(command), args!["EXEC"]])),
                }
                run!(here, "SELECT 0");
                let what = format!("{command} {nested}");
                assert_never_visible(&mut here, "key", &what);
                assert_same(&primary, &replica, &[0, 1]);
                assert_eq!(run!(there, "EXISTS key"), Reply::Int(0), "{what}");
                run!(here, "FLUSHALL");
            }
        }
    });
}

#[test]
fn a_replica_decides_as_its_primary_after_tags_were_folded() {
    // A tag that entries carry keeps its own time, whatever rows were folded since.
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).start();
        let mut here = primary.raw();
        run!(here, "CACHE.SET held v TAGS 1 carried");
        run!(here, "CACHE.INVALIDATE carried");
        run!(here, "CACHE.SET held v TAGS 1 carried");
        let payload = dumped(&mut here, &["carried"]);
        for n in 0..110 {
            let mut command = tagcache_tests::args!["CACHE.INVALIDATE"];
            command.extend((0..1_000).map(|m| format!("other{n}.{m}").into_bytes()));
            here.call(&command);
        }
        let replica = Server::builder()
            .engine(engine)
            .replica_of(&primary)
            .start();
        wait_synchronised(&primary, &replica);
        let mut there = replica.raw();
        assert_fresh(&mut here, &payload, "on the primary");
        restore(&mut here, "key", &payload);
        assert_same(&primary, &replica, &[0]);
        assert_eq!(run!(there, "CACHE.GET key"), Reply::bulk("value"));
        assert!(info(&mut there, "connected_slaves") == 0);
    });
}

#[test]
fn after_a_reload_refused_arrivals_are_removed_on_replicas() {
    for_all_engines(|engine| {
        for reload in ["DEBUG RELOAD", "DEBUG LOADAOF"] {
            let logging = Server::builder().engine(engine).arg("--appendonly", "yes");
            let primary = logging.start();
            let replica = Server::builder()
                .engine(engine)
                .replica_of(&primary)
                .start();
            wait_synchronised(&primary, &replica);
            let mut here = primary.raw();
            let payload = within_the_allowance(engine, &mut here);
            // At once: replicas are notified a moment later.
            let replies = here.pipeline(&[
                args!["RESTORE", "key", 0, payload],
                args!["RESTORE", "other", 0, payload],
                args!["RESTORE", "overwritten", 0, payload],
                args!["CACHE.SET", "overwritten", "new", "TAGS", 1, "t"],
                split(reload),
                args!["SELECT", 0], // Valkey 8.1 leaves the client in another database.
                args!["CACHE.GET", "key"],
                args!["SETNX", "key", "native"],
                args!["SET", "other", "native"],
            ]);
            assert_eq!(replies[4], Reply::ok(), "{reload}: {replies:?}");
            assert_eq!(replies[6], Reply::Null, "{reload}: it came back");
            assert_same(&primary, &replica, &[0]);
            assert_eq!(run!(here, "GET key"), Reply::bulk("native"));
            assert_eq!(run!(here, "GET other"), Reply::bulk("native"));
            assert_eq!(run!(here, "CACHE.GET overwritten"), Reply::bulk("new"));
        }
    });
}

#[test]
fn a_promoted_replica_refuses_the_entries_its_primary_refused() {
    for_all_engines(|engine| {
        for failover in ["FAILOVER", "REPLICAOF NO ONE"] {
            let (primary, replica) = replicated(engine);
            let (mut here, mut there) = (primary.raw(), replica.raw());
            let payload = within_the_allowance(engine, &mut here);
            run!(here, "CACHE.SET overwritten v TAGS 1 t");
            // The stream of a replica that was just attached does not begin during a pause.
            wait_synchronised(&primary, &replica);
            // While writes are paused, as during a failover, replicas cannot be notified.
            let pause = match failover {
                "FAILOVER" => split(failover),
                _ => split("CLIENT PAUSE 60000 WRITE"),
            };
            let replies = here.pipeline(&[
                args!["RESTORE", "overwritten", 0, payload, "REPLACE"],
                args!["CACHE.SET", "overwritten", "new", "TAGS", 1, "t"],
                args!["RESTORE", "key", 0, payload],
                pause,
                args!["CACHE.GET", "key"],
            ]);
            assert_eq!(replies[4], Reply::Null, "{failover}: {replies:?}");
            if failover == "FAILOVER" {
                wait_until("the failover ends", DEADLINE, || {
                    info_text(&mut there, "role") == "master"
                });
            } else {
                wait_until("the replica has it", DEADLINE, || {
                    run!(there, "EXISTS key") == Reply::Int(1)
                });
                assert_eq!(run!(there, "REPLICAOF NO ONE"), Reply::ok());
            }
            assert_never_visible(&mut there, "key", failover);
            assert_eq!(run!(there, "CACHE.GET overwritten"), Reply::bulk("new"));
            wait_until("its memory is given back", DEADLINE, || {
                run!(there, "EXISTS key") == Reply::Int(0)
            });
            assert_index_agrees(&replica, &[0], &[b"t"]);
            if failover == "FAILOVER" {
                wait_synchronised(&replica, &primary);
                assert_same(&replica, &primary, &[0]);
            }
        }
    });
}

#[test]
fn a_log_that_ends_before_a_refusal_brings_no_entry_back() {
    for_all_engines(|engine| {
        let mut server = Server::builder()
            .engine(engine)
            .arg("--appendonly", "yes")
            .arg("--appendfsync", "always")
            .start();
        let mut client = server.raw();
        let payload = within_the_allowance(engine, &mut client);
        client.pipeline(&[
            args!["RESTORE", "key", 0, payload],
            split("CLIENT PAUSE 60000 WRITE"),
        ]);
        server.kill_9();
        server.restart();
        let mut client = server.raw();
        assert_never_visible(&mut client, "key", "after the restart");
        wait_until("its memory is given back", DEADLINE, || {
            run!(client, "EXISTS key") == Reply::Int(0)
        });
    });
}

#[test]
fn an_entry_refused_on_a_writable_replica_is_not_served() {
    for_all_engines(|engine| {
        let (primary, replica) = replicated(engine);
        let (mut here, mut there) = (primary.raw(), replica.raw());
        assert_eq!(run!(there, "CONFIG SET replica-read-only no"), Reply::ok());
        let old = dumped(&mut here, &["t"]);
        run!(here, "CACHE.INVALIDATE t");
        wait_synchronised(&primary, &replica);
        for end in ["DEL", "CACHE.SET", "promotion"] {
            restore(&mut there, "key", &old);
            assert_never_visible(&mut there, "key", end);
            match end {
                "DEL" => assert_eq!(run!(there, "DEL key"), Reply::Int(1)),
                "CACHE.SET" => {
                    assert_eq!(run!(here, "CACHE.SET key new"), Reply::ok());
                    wait_synchronised(&primary, &replica);
                    assert_eq!(run!(there, "CACHE.GET key"), Reply::bulk("new"));
                }
                _ => assert_eq!(run!(there, "REPLICAOF NO ONE"), Reply::ok()),
            }
            wait_reclaimed(&mut there);
        }
        assert_eq!(run!(there, "EXISTS key"), Reply::Int(0));
        assert_index_agrees(&replica, &[0], &[b"t"]);
    });
}
