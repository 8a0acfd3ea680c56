//! Entries that arrive with a slot after the invalidation that concerns them.

use tagcache_tests::cluster::{builder, join, node};
use tagcache_tests::look::{assert_index_agrees, entry_keys, stat, wait_reclaimed, wait_rewritten};
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Server, args, call, for_all_engines, run, wait_until,
};

use crate::nodes::{
    Nodes, fill, migrate, moves_slots, start_migration, wait_migrated, wait_removed,
};

const ENTRIES: usize = 2_000;
const HALF: (u16, u16) = (0, 8191);
const REST: (u16, u16) = (8192, 16_383);

/// The number of entries with one of these tags that the nodes serve as fresh, each from its own slots.
fn fresh(nodes: [&Server; 2], parts: &[usize]) -> usize {
    let gets: Vec<_> = (0..ENTRIES)
        .filter(|n| parts.contains(&(n % 8)))
        .map(|n| args!["CACHE.GET", format!("key{n}")])
        .collect();
    let served = nodes.map(|node| {
        let mut client = node.raw();
        call!(client, "READONLY");
        let replies = client.pipeline(&gets);
        let served = replies
            .iter()
            .filter(|reply| !reply.is_null() && !reply.is_error());
        served.count()
    });
    served.into_iter().sum()
}

/// Slows each entry down so that a migration of all of them takes some seconds more than an invalidation used to be
/// remembered.
fn slow_down(client: &mut RawClient) {
    call!(client, "CONFIG", "SET", "rdb-key-save-delay", 8000);
}

/// Waits until a write counts as later than all invalidations, whatever the difference of the nodes' clocks.
fn wait_for_clocks(client: &mut RawClient) {
    let mut seconds = || {
        call!(client, "TIME").items()[0]
            .text()
            .parse::<u64>()
            .expect("a time")
    };
    let start = seconds();
    wait_until("clocks may differ no longer", DEADLINE, || {
        seconds() > start + 1
    });
}

#[test]
fn an_invalidation_during_a_migration_reaches_later_arrivals() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        for (from, to) in [
            (&nodes.source, &nodes.target),
            (&nodes.target, &nodes.source),
        ] {
            let (mut here, mut there) = (from.raw(), to.raw());
            nodes.fill(ENTRIES);
            slow_down(&mut here);
            start_migration(from, to, HALF);
            wait_until("entries arrive", DEADLINE, || {
                stat(&mut there, "entries") > 100
            });
            for client in [&mut here, &mut there] {
                run!(client, "CACHE.INVALIDATE part1 part2");
                run!(client, "CACHE.REVALIDATE part3");
                run!(client, "CACHE.INVALIDATEWHERE ANY 1 part4");
            }
            wait_migrated(from, to, HALF);
            call!(here, "CONFIG", "SET", "rdb-key-save-delay", 0);
            assert_eq!(fresh([from, to], &[1, 2, 3, 4]), 0);
            assert_eq!(fresh([from, to], &[0, 5, 6, 7]), ENTRIES / 2);
            wait_removed(&nodes.all());
            for client in [&mut here, &mut there] {
                wait_reclaimed(client);
            }
            nodes.assert_agree();
            nodes.wait_followed(to, HALF);
            let replicas = [&nodes.source_replica, &nodes.target_replica];
            assert_eq!(fresh(replicas, &[1, 2, 3, 4]), 0);
            assert_eq!(fresh(replicas, &[0, 5, 6, 7]), ENTRIES / 2);
            for client in [&mut here, &mut there] {
                run!(client, "CACHE.FLUSH");
                wait_reclaimed(client);
            }
            wait_for_clocks(&mut here);
        }
    });
}

/// Slots often move to a new node, which the invalidating clients do not know yet.
#[test]
fn an_invalidation_of_the_source_holds_for_all_migrated_entries() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let mut here = nodes.source.raw();
        run!(nodes.target.raw(), "CONFIG SET appendonly yes");
        wait_rewritten(&mut nodes.target.raw());
        nodes.fill(ENTRIES);
        during_migration(&nodes, HALF, || {
            run!(here, "CACHE.INVALIDATE part1 part2");
            run!(here, "CACHE.REVALIDATE part3");
            run!(here, "CACHE.INVALIDATEWHERE ANY 1 part4 NONE 1 part5");
            run!(here, "CACHE.HOLD 100000 part6");
        });
        for nodes in nodes.pairs() {
            assert_eq!(fresh(nodes, &[1, 2, 3, 4]), 0);
            assert_eq!(fresh(nodes, &[0, 5, 6, 7]), ENTRIES / 2);
        }
        // The hold applies at the target as well.
        let mut there = nodes.target.raw();
        let mut keys = (0..).map(|n| format!("held{n}"));
        let key = keys.find(|key| run!(there, "CACHE.SET {key} v TAGS 1 part6") == Reply::ok());
        let pttl = call!(there, "PTTL", key.expect("one of half of all slots")).int();
        assert!((0..=100_000).contains(&pttl), "{pttl}");
        for node in nodes.all() {
            wait_reclaimed(&mut node.raw());
        }
        nodes.assert_agree();
        assert_eq!(run!(there, "DEBUG LOADAOF"), Reply::ok());
        let primaries = nodes.pairs()[0];
        assert_eq!(fresh(primaries, &[1, 2, 3, 4]), 0);
        assert_eq!(fresh(primaries, &[0, 5, 6, 7]), ENTRIES / 2);
    });
}

/// Otherwise an entry that is written later under the same tag would count as older when the log is loaded, or the
/// replica promoted.
#[test]
fn an_invalidation_has_one_time_on_source_replica_and_log() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let mut here = nodes.source.raw();
        run!(here, "CONFIG SET appendonly yes");
        wait_rewritten(&mut here);
        nodes.fill(ENTRIES);
        during_migration(&nodes, HALF, || {
            run!(here, "CACHE.INVALIDATE part1");
            run!(here, "CACHE.REVALIDATE part3");
            run!(here, "CACHE.INVALIDATEWHERE ANY 1 part4");
        });
        wait_for_clocks(&mut here);
        let key = (0..1_000)
            .map(|n| format!("new{n}"))
            .find(|key| call!(here, "CACHE.SET", key, "v", "TAGS", 1, "part1") == Reply::ok());
        let get = args!["CACHE.GET", key.expect("one of half of all slots")];
        let known = |client: &mut RawClient| {
            let times = run!(client, "CACHE.TAGTIMES part1 part3 part4");
            (stat(client, "clock"), times)
        };
        let before = known(&mut here);
        nodes.wait_followed(&nodes.target, HALF);
        assert_eq!(
            known(&mut nodes.source_replica.raw()),
            before,
            "the replica"
        );
        assert_eq!(run!(here, "DEBUG LOADAOF"), Reply::ok());
        assert_eq!(known(&mut here), before, "the log");
        assert_eq!(here.call(&get), Reply::bulk("v"));
        assert_eq!(fresh(nodes.pairs()[0], &[1, 3, 4]), 0);
    });
}

#[test]
fn a_flush_on_the_source_also_flushes_the_target() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        migrate(&nodes.source, &nodes.target, HALF);
        nodes.fill(ENTRIES);
        during_migration(&nodes, REST, || {
            assert!(run!(nodes.source.raw(), "CACHE.FLUSH").int() > 0);
            wait_for_clocks(&mut nodes.source.raw());
            let new = run!(nodes.source.raw(), "CACHE.SET key0 new");
            assert_eq!(new, Reply::ok());
        });
        for nodes in nodes.pairs() {
            assert_eq!(fresh(nodes, &[0, 1, 2, 3, 4, 5, 6, 7]), 1);
        }
    });
}

/// Moves slots, and runs `body` while some entries have arrived and others have not. Little memory of gone entries is
/// reclaimed when the slots change hands.
fn during_migration(nodes: &Nodes, slots: (u16, u16), body: impl FnOnce()) {
    let (from, to) = (&nodes.source, &nodes.target);
    let (mut here, mut there) = (from.raw(), to.raw());
    call!(here, "CONFIG", "SET", "tagcache.reclaim-budget-us", 1);
    let before = stat(&mut there, "entries");
    slow_down(&mut here);
    start_migration(from, to, slots);
    wait_until("entries arrive", DEADLINE, || {
        stat(&mut there, "entries") > before + 100
    });
    body();
    wait_migrated(from, to, slots);
    call!(here, "CONFIG", "SET", "rdb-key-save-delay", 0);
    nodes.wait_followed(to, slots);
}

#[test]
fn entries_lost_by_the_index_are_gone_after_the_migration() {
    let Some(module) = tagcache_tests::panic_module_path() else {
        return;
    };
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let source = node(engine);
        let target = builder(engine).module(&module).expect_complaints().start();
        join(&source, &target);
        let (mut here, mut there) = (source.raw(), target.raw());
        fill(&mut here, ENTRIES);
        slow_down(&mut here);
        start_migration(&source, &target, HALF);
        wait_until("entries arrive", DEADLINE, || {
            stat(&mut there, "entries") > 100
        });
        there.pipeline(&[
            args!["CACHE.PANIC", "change"],
            args!["CACHE.INVALIDATE", "other"],
        ]);
        wait_migrated(&source, &target, HALF);
        run!(there, "CACHE.INVALIDATE all");
        for n in 0..ENTRIES {
            let got = call!(there, "CACHE.GET", format!("key{n}"));
            let is_elsewhere = got.error().is_some_and(|error| error.contains("MOVED"));
            assert!(got.is_null() || is_elsewhere, "{n}: {got:?}");
        }
        wait_until("all is removed", DEADLINE, || {
            entry_keys(&mut there).is_empty()
        });
    });
}

#[test]
fn entries_gone_on_the_source_stay_gone_on_the_target() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let (mut here, mut there) = (nodes.source.raw(), nodes.target.raw());
        call!(here, "CONFIG", "SET", "tagcache.reclaim-budget-us", 50);
        fill(&mut here, ENTRIES);
        // A clock and a memory of invalidations that differ from the source's.
        for _ in 0..3 {
            run!(there, "CACHE.INVALIDATE unknown");
        }
        let clock = stat(&mut there, "clock");
        run!(here, "CACHE.INVALIDATE part1");
        run!(here, "CACHE.REVALIDATE part2");
        migrate(&nodes.source, &nodes.target, HALF);
        let primaries = [&nodes.source, &nodes.target];
        assert_eq!(fresh(primaries, &[1, 2]), 0);
        assert_eq!(fresh(primaries, &[0, 3, 4, 5, 6, 7]), ENTRIES * 6 / 8);
        assert_eq!(
            stat(&mut there, "clock"),
            clock,
            "the source's clock is its own"
        );
        wait_removed(&nodes.all());
        nodes.assert_agree();
        // An entry of part2 that moved, and is stale as before.
        let stale = (0..ENTRIES).map(|n| 8 * n + 2).find_map(|n| {
            let reply = call!(there, "CACHE.FETCH", format!("key{n}"));
            (!reply.is_error()).then(|| reply.items()[0].text())
        });
        assert_eq!(stale.as_deref(), Some("STALE"));
    });
}

#[test]
fn a_migrated_slot_does_not_change_the_clock_of_its_new_node() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let mut target = nodes.target.raw();
        run!(target, "CONFIG SET appendonly yes");
        fill(&mut nodes.source.raw(), 100);
        for n in 0..20 {
            run!(nodes.source.raw(), "CACHE.INVALIDATE other{n}");
        }
        run!(target, "CACHE.INVALIDATE other");
        migrate(&nodes.source, &nodes.target, HALF);
        nodes.assert_agree();
        let known = |node: &Server| {
            let mut client = node.raw();
            let times = run!(client, "CACHE.TAGTIMES other other0");
            (stat(&mut client, "clock"), times)
        };
        let before = known(&nodes.target);
        assert_eq!(before.0, 1);
        assert_eq!(known(&nodes.target_replica), before, "on the replica");
        assert_eq!(known(&nodes.source).0, 20);
        wait_rewritten(&mut target);
        assert_eq!(run!(target, "DEBUG LOADAOF"), tagcache_tests::Reply::ok());
        assert_eq!(known(&nodes.target), before, "from the log");
    });
}

#[test]
fn a_source_that_dies_leaves_no_entries_behind() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let mut nodes = Nodes::start(engine);
        let (mut here, mut there) = (nodes.source.raw(), nodes.target.raw());
        let mut replica = nodes.target_replica.raw();
        fill(&mut here, ENTRIES);
        slow_down(&mut here);
        start_migration(&nodes.source, &nodes.target, HALF);
        wait_until("entries reach the replica", DEADLINE, || {
            stat(&mut replica, "entries") > 100
        });
        run!(there, "CACHE.INVALIDATE part1");
        nodes.source.kill_9();
        wait_until("what arrived is removed", DEADLINE, || {
            stat(&mut there, "entries") == 0 && stat(&mut replica, "entries") == 0
        });
        for node in [&nodes.target, &nodes.target_replica] {
            assert_index_agrees(node, &[0], &[b"all", b"part1"]);
        }
    });
}
