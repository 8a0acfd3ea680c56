//! Commands of the old node that reach the new one while a slot migrates; the new node may know other invalidations.

use std::time::{Duration, Instant};

use tagcache_tests::cluster::{add_replica, nodes};
use tagcache_tests::look::{info, stat, wait_reclaimed};
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Server, args, call, for_all_engines, run, wait_until,
};

use crate::nodes::{Nodes, migrate, moves_slots, start_migration, wait_migrated, wait_removed};

/// Keeps the migration of the slot of `{a}` busy for a second, so that commands during it are sent after it.
const FILLERS: usize = 1_000;

fn begin(nodes: &Nodes) -> (u16, u16) {
    let (mut here, mut there) = (nodes.source.raw(), nodes.target.raw());
    let fillers: Vec<_> = (0..FILLERS)
        .map(|n| args!["CACHE.SET", format!("{{a}}{n}"), "v", "TAGS", 1, "filler"])
        .collect();
    here.pipeline(&fillers);
    let slot = run!(here, "CLUSTER KEYSLOT {{a}}").int() as u16;
    call!(here, "CONFIG", "SET", "rdb-key-save-delay", 2_000);
    start_migration(&nodes.source, &nodes.target, (slot, slot));
    wait_until("entries arrive", DEADLINE, || {
        stat(&mut there, "entries") > 0
    });
    (slot, slot)
}

/// The value of each key, native or an entry, which must be the same on the target and its replica.
fn held(nodes: &Nodes, keys: &[&str]) -> Vec<Reply> {
    wait_synchronised(&nodes.target, &nodes.target_replica);
    let [at_target, at_replica] = [&nodes.target, &nodes.target_replica].map(|node| {
        let mut client = node.raw();
        call!(client, "READONLY");
        let get = |client: &mut RawClient, key: &&str| match call!(client, "CACHE.GET", key) {
            Reply::Error(_) => call!(client, "GET", key),
            entry => entry,
        };
        keys.iter()
            .map(|key| get(&mut client, key))
            .collect::<Vec<_>>()
    });
    assert_eq!(at_target, at_replica);
    at_target
}

#[test]
fn commands_of_the_source_apply_on_the_target_despite_gone_keys() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let (mut here, mut there) = (nodes.source.raw(), nodes.target.raw());
        for key in ["setnx", "incr", "renamed", "copied", "retagged"] {
            run!(here, "CACHE.SET {{a}}{key} invalidated TAGS 1 x");
        }
        run!(here, "SET {{a}}native old");
        run!(here, "CACHE.SET {{a}}entry overwritten TAGS 1 z");
        let slots = begin(&nodes);

        // First at the target, while all of it is still to arrive, then at the source.
        run!(there, "CACHE.INVALIDATE x");
        assert_eq!(run!(here, "RENAME {{a}}renamed {{a}}native"), Reply::ok());
        let copied = run!(here, "COPY {{a}}copied {{a}}entry REPLACE");
        assert_eq!(copied, Reply::Int(1));
        let retagged = run!(here, "CACHE.RETAG {{a}}retagged TAGS 1 y");
        assert_eq!(retagged, Reply::Int(1));
        run!(here, "CACHE.INVALIDATE x");
        for client in [&mut here, &mut there] {
            run!(client, "CACHE.INVALIDATE y");
        }
        assert_eq!(run!(here, "SETNX {{a}}setnx new"), Reply::Int(1));
        assert_eq!(run!(here, "INCR {{a}}incr"), Reply::Int(1));
        assert_eq!(
            run!(here, "CACHE.MSET 2 {{a}}many1 1 {{a}}many2 2 TAGS 1 m"),
            Reply::Int(2)
        );
        let elsewhere = run!(here, "CACHE.MSET 1 {{b}}other v");
        assert_eq!(elsewhere, Reply::Int(1));

        wait_migrated(&nodes.source, &nodes.target, slots);
        nodes.wait_followed(&nodes.target, slots);
        wait_removed(&nodes.all());
        wait_reclaimed(&mut there);
        let keys =
            ["native", "entry", "renamed", "copied", "retagged"].map(|k| format!("{{a}}{k}"));
        let gone = held(&nodes, &keys.each_ref().map(String::as_str));
        assert!(gone.iter().all(Reply::is_null), "{gone:?}");
        let held = held(&nodes, &["{a}setnx", "{a}incr", "{a}many1", "{a}many2"]);
        assert_eq!(held, ["new", "1", "1", "2"].map(Reply::bulk));
        assert_eq!(stat(&mut there, "entries"), FILLERS as i64 + 2);
        nodes.assert_agree();
    });
}

#[test]
fn a_gone_key_is_found_after_it_was_renamed_or_copied() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let (mut here, mut there) = (nodes.source.raw(), nodes.target.raw());
        for key in ["renamed", "copied"] {
            run!(here, "CACHE.SET {{a}}{key} invalidated TAGS 1 x");
        }
        for key in ["native1", "native2"] {
            run!(here, "SET {{a}}{key} old");
        }
        let slots = begin(&nodes);
        run!(there, "CACHE.INVALIDATE x");
        let keys = ["native1", "native2", "new"].map(|key| format!("{{a}}{key}"));
        let [native1, native2, new] = &keys;
        assert_eq!(run!(here, "RENAME {{a}}renamed {native1}"), Reply::ok());
        let copied = run!(here, "COPY {{a}}copied {native2} REPLACE");
        assert_eq!(copied, Reply::Int(1));
        assert_eq!(run!(here, "COPY {native2} {{a}}passing"), Reply::Int(1));
        assert_eq!(run!(here, "RENAME {{a}}passing {new}"), Reply::ok());
        for key in &keys {
            assert_eq!(run!(here, "SET {key} written XX"), Reply::ok());
        }

        wait_migrated(&nodes.source, &nodes.target, slots);
        nodes.wait_followed(&nodes.target, slots);
        wait_removed(&nodes.all());
        wait_reclaimed(&mut there);
        let held = held(&nodes, &keys.each_ref().map(String::as_str));
        assert_eq!(held, [(); 3].map(|()| Reply::bulk("written")));
        nodes.assert_agree();
    });
}

#[test]
fn a_replica_that_synchronises_during_a_migration_finds_gone_keys() {
    synchronises_during_a_migration(|replica| {
        run!(replica.raw(), "CLIENT KILL TYPE master");
    });
}

#[test]
fn a_replica_that_starts_during_a_migration_finds_gone_keys() {
    synchronises_during_a_migration(Server::restart);
}

/// The replica loses its connection or its state in the middle of the migration, and loads the primary's data.
fn synchronises_during_a_migration(disconnect: impl Fn(&mut Server)) {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let mut nodes = Nodes::start(engine);
        let (mut here, mut there) = (nodes.source.raw(), nodes.target.raw());
        let keys: Vec<_> = (0..20).map(|n| format!("{{a}}key{n}")).collect();
        for key in &keys {
            run!(here, "CACHE.SET {key} invalidated TAGS 1 x");
        }
        let slots = begin(&nodes);
        run!(there, "CACHE.INVALIDATE x");
        wait_until("some gone keys have arrived", DEADLINE, || {
            stat(&mut there, "reclaim_backlog") > 3
        });
        let syncs = info(&mut there, "sync_full");
        assert_eq!(run!(there, "DEBUG CHANGE-REPL-ID"), Reply::ok());
        disconnect(&mut nodes.target_replica);
        wait_until("a full resync", DEADLINE, || {
            info(&mut there, "sync_full") > syncs
        });
        wait_synchronised(&nodes.target, &nodes.target_replica);
        for key in &keys {
            assert_eq!(run!(here, "SET {key} written XX"), Reply::ok());
        }

        wait_migrated(&nodes.source, &nodes.target, slots);
        nodes.wait_followed(&nodes.target, slots);
        wait_removed(&nodes.all());
        for node in [&nodes.target, &nodes.target_replica] {
            wait_reclaimed(&mut node.raw());
        }
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        let held = held(&nodes, &keys);
        assert!(
            held.iter().all(|value| *value == Reply::bulk("written")),
            "{held:?}"
        );
        nodes.assert_agree();
    });
}

#[test]
fn during_a_migration_native_commands_see_no_gone_keys() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let (mut here, mut there) = (nodes.source.raw(), nodes.target.raw());
        for key in ["setnx", "incr"] {
            run!(here, "CACHE.SET {{b}}{key} v TAGS 1 x");
        }
        let slot = run!(here, "CLUSTER KEYSLOT {{b}}").int() as u16;
        migrate(&nodes.source, &nodes.target, (slot, slot));

        let slots = begin(&nodes);
        assert_eq!(run!(there, "CACHE.INVALIDATE x"), Reply::Int(2));
        assert_eq!(run!(there, "SETNX {{b}}setnx new"), Reply::Int(1));
        assert_eq!(run!(there, "INCR {{b}}incr"), Reply::Int(1));
        let copied = run!(there, "COPY {{b}}setnx {{b}}copied");
        assert_eq!(copied, Reply::Int(1));

        wait_migrated(&nodes.source, &nodes.target, slots);
        nodes.wait_followed(&nodes.target, slots);
        wait_reclaimed(&mut there);
        let held = held(&nodes, &["{b}setnx", "{b}incr", "{b}copied"]);
        assert_eq!(held, ["new", "1", "new"].map(Reply::bulk));
        wait_removed(&nodes.all());
        nodes.assert_agree();
    });
}

#[test]
fn replicas_of_the_target_see_the_same_keys_as_the_target() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let (mut here, mut there) = (nodes.source.raw(), nodes.target.raw());
        let mut replica = nodes.target_replica.raw();
        let slots = begin(&nodes);
        wait_until("entries arrive at the replica", DEADLINE, || {
            stat(&mut replica, "entries") > 0
        });
        // At the target, some have arrived and are gone; the others are to arrive. At the source all are fresh.
        assert!(run!(there, "CACHE.INVALIDATE filler").int() > 0);
        let renames: Vec<_> = (0..FILLERS)
            .map(|n| args!["RENAME", format!("{{a}}{n}"), format!("{{a}}renamed{n}")])
            .collect();
        let renamed = here.pipeline(&renames);
        assert!(renamed.iter().all(|reply| *reply == Reply::ok()));

        wait_migrated(&nodes.source, &nodes.target, slots);
        nodes.wait_followed(&nodes.target, slots);
        wait_removed(&nodes.all());
        wait_reclaimed(&mut there);
        wait_synchronised(&nodes.target, &nodes.target_replica);
        let log = nodes.target_replica.log();
        assert!(!log.contains("is sending an error"), "{log}");
        nodes.assert_agree();
        nodes.assert_entries(0);
    });
}

#[test]
fn a_command_on_a_refused_key_is_preceded_by_its_removal() {
    for_all_engines(|engine| {
        // On other servers, no slot arrives while another one does.
        if !(moves_slots(engine) && engine.is_valkey()) {
            return;
        }
        let servers = nodes(engine, 4, 3);
        let [first, target, last, replica] = &servers[..] else {
            panic!("four nodes");
        };
        add_replica(target, replica, &[first, last]);
        let [mut source, mut there, mut slow] = [first, target, last].map(Server::raw);
        let mut behind = replica.raw();
        call!(behind, "READONLY");
        let slot_of = |client: &mut RawClient, tag| {
            let slot = call!(client, "CLUSTER", "KEYSLOT", tag).int() as u16;
            (slot, slot)
        };
        let (coming, moved) = (slot_of(&mut slow, "{a}"), slot_of(&mut source, "{b}"));
        let fillers: Vec<_> = (0..FILLERS)
            .map(|n| args!["CACHE.SET", format!("{{a}}{n}"), "v"])
            .collect();
        slow.pipeline(&fillers);
        call!(slow, "CONFIG", "SET", "rdb-key-save-delay", 5_000);
        start_migration(last, target, coming);
        wait_until("entries arrive", DEADLINE, || {
            stat(&mut there, "entries") > 0
        });

        // Written soon enough after the invalidation for the target alone to refuse it: clocks may differ.
        wait_until("it was written soon", DEADLINE, || {
            let begin = Instant::now();
            run!(there, "CACHE.INVALIDATE x");
            for key in ["setnx", "incr"] {
                run!(source, "CACHE.SET {{b}}{key} old TAGS 1 x");
            }
            begin.elapsed() < Duration::from_millis(500)
        });
        migrate(first, target, moved);
        assert_eq!(run!(there, "SETNX {{b}}setnx new"), Reply::Int(1));
        assert_eq!(run!(there, "INCR {{b}}incr"), Reply::Int(1));
        wait_until("the replica has done the same", DEADLINE, || {
            [("{b}setnx", "new"), ("{b}incr", "1")]
                .iter()
                .all(|(key, value)| call!(behind, "GET", key) == Reply::bulk(value))
        });
    });
}
