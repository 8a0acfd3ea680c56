//! Three primaries, one of which has a replica.

use tagcache_tests::cluster::{add_replica, addresses, builder, info_of_cluster, knows, meet};
use tagcache_tests::{DEADLINE, Engine, Reply, Server, call, module_path, wait_until};

use super::Stage;
use crate::log::{Fault, Time, now};
use crate::site::{Site, follows, moves_slots, start_migration};
use crate::worker::{KEYS, key_name};

const LAG: Time = 1_000_000_000;

/// In a cluster, writes are not sent again.
fn lost(since: Time) -> Fault {
    Fault {
        loses: true,
        undone_since: Some(since),
        keys_undone: true,
        untimed: false,
    }
}

/// Moving slots receive the invalidations meanwhile, and refuse entries that were invalidated shortly before they were
/// written.
fn moved(since: Time) -> Fault {
    Fault {
        keys_undone: false,
        ..lost(since)
    }
}

/// The places of the primary that has a replica, and of this replica, once the replica follows.
fn pair(site: &Site) -> (usize, usize) {
    let mut roles = (0, 3);
    wait_until("one follows the other", DEADLINE * 2, || {
        roles = if site.is_primary(0) { (0, 3) } else { (3, 0) };
        site.is_primary(roles.0) && follows(&site.servers[roles.1])
    });
    roles
}

fn wait_owned(site: &Site, owner: usize) {
    let (id, _) = addresses(&mut site.servers[owner].raw());
    for other in [1, 2] {
        let mut client = site.servers[other].raw();
        wait_until("the new primary is known", DEADLINE, || {
            let nodes = call!(client, "CLUSTER", "NODES").text();
            let line = nodes.lines().find(|line| line.starts_with(&id));
            line.is_some_and(|line| line.contains("master"))
                && info_of_cluster(&mut site.servers[other].raw(), "cluster_state") == "ok"
        });
    }
}

/// A requested failover: nothing is lost.
pub(super) fn failover(stage: &mut Stage) {
    let (_, replica) = pair(&stage.site);
    fail_over(stage, replica);
    pair(&stage.site);
}

/// Makes a replica primary on request.
fn fail_over(stage: &mut Stage, replica: usize) {
    let start = now();
    let mut client = stage.site.servers[replica].raw();
    wait_until("a failover", DEADLINE, || {
        let asked = call!(client, "CLUSTER", "FAILOVER");
        let begun = now();
        // The replica gives up after five seconds.
        while asked == Reply::ok()
            && !stage.site.is_primary(replica)
            && now() - begun < 6_000_000_000
        {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        stage.site.is_primary(replica)
    });
    wait_owned(&stage.site, replica);
    stage.fault("CLUSTER FAILOVER", start, moved(start));
}

/// Every node gets the module under test. A replica restarts with it and takes over, and its former primary restarts
/// with it as a replica; a primary without a replica is replaced by a new node.
pub(super) fn upgrade(stage: &mut Stage) {
    let (primary, replica) = pair(&stage.site);
    restart(stage, replica);
    fail_over(stage, replica);
    stage.sleep(0, 500);
    restart(stage, primary);
    for place in [1, 2] {
        let site = &stage.site;
        let new = builder(&site.engine)
            .arg("--cluster-node-timeout", "5000")
            // The new node must understand the stream of an older primary.
            .arg("--propagation-error-behavior", "panic")
            .start();
        let others = [primary, replica, 3 - place].map(|other| &site.servers[other]);
        add_replica(&site.servers[place], &new, &others);
        stage.site.servers.push(new);
        fail_over(stage, 4);
        stage.sleep(0, 500);
        let former = stage.site.servers.swap_remove(place);
        leave(stage, former);
    }
    *stage
        .counts
        .entry("module replaced within a cluster")
        .or_default() += 1;
}

/// Restarts a replica with the module under test.
fn restart(stage: &mut Stage, replica: usize) {
    let start = now();
    stage.site.servers[replica].restart_with(&module_path());
    pair(&stage.site);
    stage.fault("replica restarted", start, Fault::default());
}

/// The replica takes over while its primary hangs.
pub(super) fn takeover(stage: &mut Stage) {
    let (primary, replica) = pair(&stage.site);
    let start = now();
    stage.site.servers[primary].pause();
    stage.sleep(0, 500);
    let mut client = stage.site.servers[replica].raw();
    assert_eq!(
        call!(client, "CLUSTER", "FAILOVER", "TAKEOVER"),
        Reply::ok()
    );
    wait_until("it is primary", DEADLINE, || stage.site.is_primary(replica));
    stage.sleep(0, 500);
    stage.site.servers[primary].resume();
    wait_owned(&stage.site, replica);
    pair(&stage.site);
    stage.fault(
        "CLUSTER FAILOVER TAKEOVER, primary stopped",
        start,
        lost(start - LAG),
    );
}

/// The primary dies, and the others elect its replica.
pub(super) fn killed(stage: &mut Stage) {
    let (primary, replica) = pair(&stage.site);
    let start = now();
    stage.site.servers[primary].kill_9();
    wait_until("the replica is chosen", DEADLINE * 2, || {
        stage.site.is_primary(replica)
    });
    wait_owned(&stage.site, replica);
    stage.site.servers[primary].restart();
    pair(&stage.site);
    stage.fault("cluster failover, primary killed", start, lost(start - LAG));
}

fn move_slot(site: &Site, slot: i64, to: usize) {
    let (from, _) = site.owner(slot);
    if from == to {
        return;
    }
    let others = (0..site.servers.len())
        .filter(|other| ![from, to].contains(other) && site.is_primary(*other));
    let others: Vec<&Server> = others.map(|other| &site.servers[other]).collect();
    let moved = crate::site::move_slot(&site.servers[from], &site.servers[to], &others, slot);
    moved.expect("nobody dies meanwhile");
    site.wait_known(slot, to);
}

fn some_slot(stage: &mut Stage) -> i64 {
    let key = key_name(stage.rng.below(KEYS) as u32);
    call!(stage.site.servers[1].raw(), "CLUSTER", "KEYSLOT", key).int()
}

pub(super) fn reshard(stage: &mut Stage) {
    let (primary, _) = pair(&stage.site);
    let start = now();
    for _ in 0..5 {
        let slot = some_slot(stage);
        let to = stage.rng.pick(&[primary, 1, 2]);
        move_slot(&stage.site, slot, to);
        stage.sleep(0, 50);
    }
    stage.fault("slots moved key by key", start, moved(start));
}

/// A node joins, gets slots, gives them back and leaves.
pub(super) fn node(stage: &mut Stage) {
    let (primary, _) = pair(&stage.site);
    let start = now();
    let new = builder(&stage.site.engine)
        .arg("--cluster-node-timeout", "2000")
        .start();
    let others: Vec<&Server> = stage.site.servers.iter().collect();
    meet(&new, &others);
    wait_until("the new node takes part", DEADLINE, || {
        info_of_cluster(&mut new.raw(), "cluster_state") == "ok"
    });
    stage.site.servers.push(new);
    let slots: Vec<i64> = (0..5).map(|_| some_slot(stage)).collect();
    for slot in &slots {
        move_slot(&stage.site, *slot, 4);
    }
    stage.sleep(200, 1000);
    for slot in &slots {
        let to = stage.rng.pick(&[primary, 1, 2]);
        move_slot(&stage.site, *slot, to);
    }
    let new = stage.site.servers.pop().expect("it was just there");
    leave(stage, new);
    stage.fault("node added and removed", start, moved(start));
}

/// A node without slots ends, and the others forget it.
fn leave(stage: &Stage, node: Server) {
    let (id, _) = addresses(&mut node.raw());
    // Within a minute, gossip does not bring the node back.
    for server in &stage.site.servers {
        call!(server.raw(), "CLUSTER", "FORGET", id);
    }
    call!(node.raw(), "CLUSTER", "RESET", "HARD");
    drop(node);
    for server in &stage.site.servers {
        wait_until("the node is forgotten", DEADLINE, || {
            if knows(&mut server.raw(), &id) {
                call!(server.raw(), "CLUSTER", "FORGET", id);
            }
            !knows(&mut server.raw(), &id)
        });
    }
}

pub(super) fn atomic(engine: &Engine) -> Option<Site> {
    moves_slots(engine).then(|| Site::cluster(engine))
}

/// Moves a thousand slots as a whole, where the server can.
pub(super) fn migrate(stage: &mut Stage) {
    if !moves_slots(&stage.site.engine) {
        return;
    }
    let (primary, _) = pair(&stage.site);
    let start = now();
    let first = some_slot(stage);
    let (from, last) = stage.site.owner(first);
    let last = last.min(first + 1000);
    let to = [primary, 1, 2]
        .into_iter()
        .find(|to| *to != from)
        .expect("there are three");
    let (from, target) = (&stage.site.servers[from], &stage.site.servers[to]);
    let begun = start_migration(from, target, first, last).expect("nobody dies meanwhile");
    assert!(!begun.is_error(), "{begun:?}");
    wait_until("the slots have moved", DEADLINE * 2, || {
        stage.site.owner(first).0 == to && stage.site.owner(last).0 == to
    });
    for slot in [first, last] {
        stage.site.wait_known(slot, to);
    }
    stage.fault("slots moved as a whole", start, moved(start));
}
