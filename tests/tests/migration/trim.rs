//! The rest of a slot on a node that does not own it: entries leave the index as they leave the keyspace.

use tagcache_tests::cluster::{builder, info_of_cluster, join, node};
use tagcache_tests::look::{assert_index_agrees, entry_keys, info_text, stat, wait_reclaimed};
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{DEADLINE, RawClient, Reply, args, call, for_all_engines, run, wait_until};

use crate::nodes::{
    Nodes, cancel, fill, migrate, moves_slots, start_migration, trims, wait_migrated, wait_removed,
};

const ENTRIES: usize = 40_000;
/// Half of all slots.
const HALF: (u16, u16) = (0, 8191);

/// Writes values that replace freed entries in the allocator.
fn overwrite_freed_memory(client: &mut RawClient) {
    let sets: Vec<_> = (0..20_000)
        .map(|n| args!["SET", format!("native{n}"), "x".repeat(80 + n % 110)])
        .collect();
    client.pipeline(&sets);
}

#[test]
fn entries_of_slots_that_moved_away_leave_the_index() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let (mut source, mut target) = (nodes.source.raw(), nodes.target.raw());
        fill(&mut source, ENTRIES);
        migrate(&nodes.source, &nodes.target, HALF);
        overwrite_freed_memory(&mut source);
        run!(source, "CACHE.INVALIDATE part3");
        wait_removed(&nodes.all());
        overwrite_freed_memory(&mut source);
        run!(source, "CACHE.INVALIDATE part4");
        nodes.assert_agree();
        // The other entries of both tags are on the target, which has not dropped them yet.
        run!(target, "CACHE.INVALIDATE part3 part4");
        wait_synchronised(&nodes.target, &nodes.target_replica);
        nodes.assert_entries(ENTRIES as i64 * 6 / 8);
        // And back again.
        migrate(&nodes.target, &nodes.source, HALF);
        wait_removed(&nodes.all());
        nodes.assert_agree();
        nodes.assert_entries(ENTRIES as i64 * 6 / 8);
        assert_eq!(stat(&mut target, "entries"), 0);
        assert_eq!(
            call!(source, "CACHE.INVALIDATE", "all"),
            Reply::Int(ENTRIES as i64 * 6 / 8)
        );
    });
}

#[test]
fn entries_of_a_cancelled_import_leave_the_index() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let (mut source, mut target) = (nodes.source.raw(), nodes.target.raw());
        fill(&mut source, ENTRIES);
        // Makes the migration of half of the slots take longer than this test.
        call!(source, "CONFIG", "SET", "rdb-key-save-delay", 1000);
        start_migration(&nodes.source, &nodes.target, HALF);
        wait_until("entries arrive", DEADLINE, || {
            stat(&mut target, "entries") > 500
        });
        // The target owns none of these slots, yet an invalidation reaches the entries that have arrived.
        assert!(run!(target, "CACHE.INVALIDATE part3").int() > 0);
        assert!(cancel(&nodes.source, &nodes.target), "it is under way");
        wait_removed(&nodes.all());
        wait_until("all that arrived is removed", DEADLINE, || {
            stat(&mut target, "entries") == 0
        });
        overwrite_freed_memory(&mut source);
        nodes.assert_agree();
        nodes.assert_entries(ENTRIES as i64);
        call!(source, "CONFIG", "SET", "rdb-key-save-delay", 0);
        migrate(&nodes.source, &nodes.target, HALF);
        wait_removed(&nodes.all());
        nodes.assert_agree();
    });
}

#[test]
fn a_backlog_in_slots_that_moved_away_is_reclaimed() {
    for_all_engines(|engine| {
        if !trims(engine) {
            return;
        }
        let lazy = || {
            builder(engine)
                .module_args(&["reclaim-budget-us", "50"])
                .start()
        };
        let (source, target) = (lazy(), lazy());
        join(&source, &target);
        let (mut here, mut there) = (source.raw(), target.raw());
        fill(&mut here, ENTRIES);
        // The removal waits, so that the backlog meets keys that are no longer visible.
        assert_eq!(run!(here, "DEBUG ASM-TRIM-METHOD default -1"), Reply::ok());
        assert_eq!(
            run!(here, "CACHE.INVALIDATE all"),
            Reply::Int(ENTRIES as i64)
        );
        migrate(&source, &target, HALF);
        wait_until("the backlog is worked off", DEADLINE, || {
            stat(&mut here, "reclaim_backlog") == 0
        });
        assert_eq!(run!(here, "DEBUG ASM-TRIM-METHOD default 0"), Reply::ok());
        wait_removed(&[&source]);
        assert_index_agrees(&source, &[0], &[b"all"]);
        assert_index_agrees(&target, &[0], &[b"all"]);
        assert_eq!(stat(&mut there, "entries"), 0, "what was gone stays gone");
    });
}

#[test]
fn index_and_keyspace_agree_after_a_log_that_removes_slots() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let mut source = builder(engine).arg("--appendonly", "yes").start();
        let target = node(engine);
        join(&source, &target);
        fill(&mut source.raw(), ENTRIES);
        migrate(&source, &target, HALF);
        wait_removed(&[&source, &target]);
        let kept = stat(&mut source.raw(), "entries");
        source.restart();
        wait_until("the node is back", DEADLINE, || {
            info_of_cluster(&mut source.raw(), "cluster_state") == "ok"
        });
        assert_eq!(stat(&mut source.raw(), "entries"), kept);
        assert_index_agrees(&source, &[0], &[b"all"]);
    });
}

#[test]
fn entries_that_a_background_thread_frees_leave_the_index() {
    for_all_engines(|engine| {
        if !trims(engine) {
            return;
        }
        let source = builder(engine).expect_complaints().start();
        let target = node(engine);
        join(&source, &target);
        let mut here = source.raw();
        fill(&mut here, ENTRIES);
        // The server does not do that by itself while the module is loaded.
        assert_eq!(run!(here, "DEBUG ASM-TRIM-METHOD bg"), Reply::ok());
        migrate(&source, &target, HALF);
        wait_until("the slots are removed", DEADLINE, || {
            source.log().contains("Background trim started")
        });
        overwrite_freed_memory(&mut here);
        assert_eq!(run!(here, "CACHE.INVALIDATE all"), Reply::Int(0));
        // This key is in a slot that stayed.
        let set = call!(here, "CACHE.SET", "key1", "v", "TAGS", 1, "all");
        assert_eq!(set, Reply::ok());
        // Entries that are not in the index are no backlog, but they are removed in the same way.
        wait_until("the entries that stayed are removed", DEADLINE, || {
            entry_keys(&mut here).len() == 1
        });
        assert_index_agrees(&source, &[0], &[b"all"]);
        assert_index_agrees(&target, &[0], &[b"all"]);
    });
}

#[test]
fn a_slow_replica_keeps_no_gone_keys_when_slots_return() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let (mut source, mut replica) = (nodes.source.raw(), nodes.source_replica.raw());
        fill(&mut source, ENTRIES);
        wait_synchronised(&nodes.source, &nodes.source_replica);
        for (client, budget) in [(&mut source, 1_000_000), (&mut replica, 50)] {
            let setting = "tagcache.reclaim-budget-us";
            call!(client, "CONFIG", "SET", setting, budget);
        }
        assert_eq!(
            run!(source, "CACHE.INVALIDATE all"),
            Reply::Int(ENTRIES as i64)
        );
        wait_reclaimed(&mut source);
        migrate(&nodes.source, &nodes.target, HALF);
        migrate(&nodes.target, &nodes.source, HALF);
        for node in nodes.all() {
            wait_reclaimed(&mut node.raw());
        }
        nodes.assert_agree();
        nodes.assert_entries(0);
    });
}

#[test]
fn a_replica_that_missed_the_end_of_an_import_frees_memory() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let (mut source, mut target) = (nodes.source.raw(), nodes.target.raw());
        let mut replica = nodes.target_replica.raw();
        fill(&mut source, ENTRIES);
        call!(source, "CONFIG", "SET", "rdb-key-save-delay", 1000);
        let (cancelled, completed) = ((0, 4095), (4096, 8191));
        start_migration(&nodes.source, &nodes.target, cancelled);
        wait_until("entries arrive at the replica", DEADLINE, || {
            stat(&mut replica, "entries") > 0
        });

        // The replica is cut off, and reconnects during the next import, with all data that is there then.
        nodes.target_replica.pause();
        run!(target, "CLIENT KILL TYPE replica");
        run!(target, "DEBUG CHANGE-REPL-ID");
        assert!(cancel(&nodes.source, &nodes.target), "it is under way");
        wait_until("all that arrived is removed", DEADLINE, || {
            stat(&mut target, "entries") == 0
        });
        start_migration(&nodes.source, &nodes.target, completed);
        wait_until("entries arrive", DEADLINE, || {
            stat(&mut target, "entries") > 0
        });
        nodes.target_replica.resume();
        wait_until("the replica follows", DEADLINE, || {
            stat(&mut replica, "entries") > 0
                && info_text(&mut replica, "master_link_status") == "up"
        });
        call!(source, "CONFIG", "SET", "rdb-key-save-delay", 0);
        wait_migrated(&nodes.source, &nodes.target, completed);
        assert!(run!(target, "CACHE.INVALIDATE all").int() > 0);
        wait_synchronised(&nodes.target, &nodes.target_replica);
        wait_reclaimed(&mut replica);
        wait_removed(&nodes.all());
        nodes.assert_agree();
    });
}
