//! What is left of a slot on a node that does not own it: entries leave the index as they leave the keyspace.

use tagcache_tests::cluster::{add_replica, builder, info_of_cluster, join, node};
use tagcache_tests::look::{assert_index_agrees, entry_keys, stat, wait_reclaimed};
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, args, call, for_all_engines, run, wait_until,
};

const ENTRIES: usize = 40_000;

/// Whether the server moves slots by CLUSTER MIGRATION.
fn can_migrate(engine: &Engine) -> bool {
    !engine.is_valkey() && engine.version() >= (8, 4)
}

/// A source with a replica, that owns all slots, and a target with a replica.
struct Nodes {
    source: Server,
    source_replica: Server,
    target: Server,
    target_replica: Server,
}

impl Nodes {
    fn start(engine: &Engine) -> Self {
        let [source, source_replica, target, target_replica] = [(); 4].map(|()| node(engine));
        join(&source, &target);
        add_replica(&source, &source_replica, &[&target]);
        add_replica(&target, &target_replica, &[&source, &source_replica]);
        Self {
            source,
            source_replica,
            target,
            target_replica,
        }
    }

    fn all(&self) -> [&Server; 4] {
        [
            &self.source,
            &self.source_replica,
            &self.target,
            &self.target_replica,
        ]
    }

    /// Index and keyspace agree on every node.
    fn assert_agree(&self) {
        wait_synchronised(&self.source, &self.source_replica);
        wait_synchronised(&self.target, &self.target_replica);
        for node in self.all() {
            assert_index_agrees(node, &[0], &[b"all", b"part3"]);
        }
    }

    /// All entries of all primaries, and the same on their replicas.
    fn assert_entries(&self, expected: i64) {
        let [source, source_replica, target, target_replica] =
            self.all().map(|node| stat(&mut node.raw(), "entries"));
        assert_eq!(source + target, expected, "{source} + {target}");
        assert_eq!((source_replica, target_replica), (source, target));
    }
}

fn fill(client: &mut RawClient) {
    let sets: Vec<_> = (0..ENTRIES)
        .map(|n| {
            let part = format!("part{}", n % 8);
            args![
                "CACHE.SET",
                format!("key{n}"),
                "v".repeat(100),
                "TAGS",
                2,
                "all",
                part
            ]
        })
        .collect();
    for chunk in sets.chunks(1000) {
        assert!(client.pipeline(chunk).iter().all(|r| *r == Reply::ok()));
    }
}

/// Whether an import has come to this state.
fn is(client: &mut RawClient, task: &str, state: &str) -> bool {
    let status = run!(client, "CLUSTER MIGRATION STATUS ID {task}");
    let task = status.items().first().expect("the task is known");
    task.field("state").text() == state
}

fn migrate(target: &mut RawClient, from: u16, to: u16) {
    let task = run!(target, "CLUSTER MIGRATION IMPORT {from} {to}").text();
    wait_until("the slots have moved", DEADLINE, || {
        is(target, &task, "completed")
    });
}

/// Waits until what was to be removed is removed: everything in the index can be seen.
fn wait_trimmed(nodes: &[&Server]) {
    for node in nodes {
        let mut client = node.raw();
        call!(client, "READONLY");
        wait_until("all is removed", DEADLINE, || {
            let running =
                info_of_cluster(&mut client, "cluster_slot_migration_active_trim_running");
            running == "0" && entry_keys(&mut client).len() as i64 == stat(&mut client, "entries")
        });
    }
}

/// Writes what takes the place of freed entries in the allocator.
fn overwrite_freed_memory(client: &mut RawClient) {
    let sets: Vec<_> = (0..20_000)
        .map(|n| args!["SET", format!("native{n}"), "x".repeat(80 + n % 110)])
        .collect();
    client.pipeline(&sets);
}

#[test]
fn entries_of_slots_that_moved_away_leave_the_index() {
    for_all_engines(|engine| {
        if !can_migrate(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let (mut source, mut target) = (nodes.source.raw(), nodes.target.raw());
        fill(&mut source);
        migrate(&mut target, 0, 8191);
        overwrite_freed_memory(&mut source);
        run!(source, "CACHE.INVALIDATE part3");
        wait_trimmed(&nodes.all());
        overwrite_freed_memory(&mut source);
        run!(source, "CACHE.INVALIDATE part4");
        nodes.assert_agree();
        // The rest of both tags is on the target, which was not asked to drop it.
        run!(target, "CACHE.INVALIDATE part3 part4");
        wait_synchronised(&nodes.target, &nodes.target_replica);
        nodes.assert_entries(ENTRIES as i64 * 6 / 8);
        // And back.
        migrate(&mut source, 0, 8191);
        wait_trimmed(&nodes.all());
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
        if !can_migrate(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let (mut source, mut target) = (nodes.source.raw(), nodes.target.raw());
        fill(&mut source);
        // So that half of the slots take longer than this test.
        call!(source, "CONFIG", "SET", "rdb-key-save-delay", 1000);
        run!(target, "CLUSTER MIGRATION IMPORT 0 8191");
        wait_until("entries arrive", DEADLINE, || {
            stat(&mut target, "entries") > 500
        });
        // The target owns none of these slots, yet an invalidation reaches what has arrived.
        assert!(run!(target, "CACHE.INVALIDATE part3").int() > 0);
        assert_eq!(run!(target, "CLUSTER MIGRATION CANCEL ALL"), Reply::Int(1));
        wait_trimmed(&nodes.all());
        wait_until("all that arrived is removed", DEADLINE, || {
            stat(&mut target, "entries") == 0
        });
        overwrite_freed_memory(&mut source);
        nodes.assert_agree();
        nodes.assert_entries(ENTRIES as i64);
        call!(source, "CONFIG", "SET", "rdb-key-save-delay", 0);
        migrate(&mut target, 0, 8191);
        wait_trimmed(&nodes.all());
        nodes.assert_agree();
    });
}

#[test]
fn a_backlog_in_slots_that_moved_away_is_worked_off() {
    for_all_engines(|engine| {
        if !can_migrate(engine) {
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
        fill(&mut here);
        // The removal waits, so that the backlog meets keys that can no longer be seen.
        assert_eq!(run!(here, "DEBUG ASM-TRIM-METHOD default -1"), Reply::ok());
        assert_eq!(
            run!(here, "CACHE.INVALIDATE all"),
            Reply::Int(ENTRIES as i64)
        );
        migrate(&mut there, 0, 8191);
        wait_until("the backlog is worked off", DEADLINE, || {
            stat(&mut here, "reclaim_backlog") == 0
        });
        assert_eq!(run!(here, "DEBUG ASM-TRIM-METHOD default 0"), Reply::ok());
        wait_trimmed(&[&source]);
        assert_index_agrees(&source, &[0], &[b"all"]);
        assert_index_agrees(&target, &[0], &[b"all"]);
        assert_eq!(stat(&mut there, "entries"), 0, "what was gone stays gone");
    });
}

#[test]
fn a_log_that_removes_slots_leaves_index_and_keyspace_agreeing() {
    for_all_engines(|engine| {
        if !can_migrate(engine) {
            return;
        }
        let mut source = builder(engine).arg("--appendonly", "yes").start();
        let target = node(engine);
        join(&source, &target);
        fill(&mut source.raw());
        migrate(&mut target.raw(), 0, 8191);
        wait_trimmed(&[&source, &target]);
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
        if !can_migrate(engine) {
            return;
        }
        let source = builder(engine).expect_complaints().start();
        let target = node(engine);
        join(&source, &target);
        let (mut here, mut there) = (source.raw(), target.raw());
        fill(&mut here);
        // By itself, the server does not do that while the module is loaded.
        assert_eq!(run!(here, "DEBUG ASM-TRIM-METHOD bg"), Reply::ok());
        migrate(&mut there, 0, 8191);
        wait_until("the slots are removed", DEADLINE, || {
            source.log().contains("Background trim started")
        });
        overwrite_freed_memory(&mut here);
        assert_eq!(run!(here, "CACHE.INVALIDATE all"), Reply::Int(0));
        call!(here, "CACHE.SET", "key3", "v", "TAGS", 1, "all");
        wait_reclaimed(&mut here);
        assert_index_agrees(&source, &[0], &[b"all"]);
        assert_index_agrees(&target, &[0], &[b"all"]);
    });
}
