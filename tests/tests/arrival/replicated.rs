//! On replicas, and after their promotion.

use tagcache_tests::look::{assert_index_agrees, info};
use tagcache_tests::state::{assert_same, replicated, wait_synchronised};
use tagcache_tests::stream::{ReplicationStream, words};
use tagcache_tests::{DEADLINE, Reply, Server, for_all_engines, run, split, wait_until};

use crate::{WAYS, assert_fresh, assert_gone, assert_never_visible, dumped, dumped_of, restore};

#[test]
fn an_old_entry_is_gone_on_a_replica_and_after_its_promotion() {
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
fn a_full_resync_brings_what_is_remembered() {
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
        // None comes later.
        assert!(stream.commands(&primary).is_empty());
    });
}

#[test]
fn an_arrival_refused_by_the_allowance_leaves_replicas_too() {
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
fn a_replica_that_knows_folded_tags_decides_as_its_primary() {
    // A tag that entries carry keeps its own time, whatever was folded since.
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
