//! Two primaries with a replica each, and slots that move between the primaries.

use tagcache_tests::cluster::{add_replica, addresses, info_of_cluster, join, node};
use tagcache_tests::look::{assert_index_agrees, entry_keys, stat};
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{DEADLINE, Engine, RawClient, Reply, Server, args, call, run, wait_until};

/// Whether the server moves slots as a whole.
pub(crate) fn moves_slots(engine: &Engine) -> bool {
    let since = if engine.is_valkey() { (9, 0) } else { (8, 4) };
    engine.version() >= since
}

/// Whether the server uses CLUSTER MIGRATION, and removes the rest in the background.
pub(crate) fn trims(engine: &Engine) -> bool {
    moves_slots(engine) && !engine.is_valkey()
}

/// A source that owns all slots, and a target; a replica of each.
pub(crate) struct Nodes {
    pub(crate) source: Server,
    pub(crate) source_replica: Server,
    pub(crate) target: Server,
    pub(crate) target_replica: Server,
}

impl Nodes {
    pub(crate) fn start(engine: &Engine) -> Self {
        let [source, source_replica, target, target_replica] = [(); 4].map(|()| node(engine));
        join(&source, &target);
        add_replica(&source, &source_replica, &[&target]);
        add_replica(&target, &target_replica, &[&source, &source_replica]);
        let nodes = Self {
            source,
            source_replica,
            target,
            target_replica,
        };
        for node in nodes.all() {
            let mut client = node.raw();
            wait_until("every node knows all slots", DEADLINE, || {
                info_of_cluster(&mut client, "cluster_state") == "ok"
                    && info_of_cluster(&mut client, "cluster_slots_assigned") == "16384"
            });
        }
        nodes
    }

    pub(crate) fn all(&self) -> [&Server; 4] {
        [
            &self.source,
            &self.source_replica,
            &self.target,
            &self.target_replica,
        ]
    }

    /// The primaries, and the replicas.
    pub(crate) fn pairs(&self) -> [[&Server; 2]; 2] {
        let [source, source_replica, target, target_replica] = self.all();
        [[source, target], [source_replica, target_replica]]
    }

    /// Waits until the replicas also know that the slots have moved, and have the entries of these slots.
    pub(crate) fn wait_followed(&self, to: &Server, slots: (u16, u16)) {
        let (id, _) = addresses(&mut to.raw());
        for [primary, replica] in [
            [&self.source, &self.source_replica],
            [&self.target, &self.target_replica],
        ] {
            wait_until("the replica knows of the move", DEADLINE, || {
                owns(&mut replica.raw(), &id, slots)
            });
            wait_synchronised(primary, replica);
        }
    }

    /// As [`fill`], whichever primary owns the slots.
    pub(crate) fn fill(&self, entries: usize) {
        let mut written = 0;
        for primary in [&self.source, &self.target] {
            let mut client = primary.raw();
            let replies = sets(entries, |chunk| client.pipeline(chunk));
            written += replies
                .iter()
                .filter(|reply| **reply == Reply::ok())
                .count();
        }
        assert_eq!(written, entries);
    }

    /// Index and keyspace agree on every node.
    pub(crate) fn assert_agree(&self) {
        wait_synchronised(&self.source, &self.source_replica);
        wait_synchronised(&self.target, &self.target_replica);
        for node in self.all() {
            assert_index_agrees(node, &[0], &[b"all", b"part3"]);
        }
    }

    /// All entries of all primaries, and the same on their replicas.
    pub(crate) fn assert_entries(&self, expected: i64) {
        let [source, source_replica, target, target_replica] =
            self.all().map(|node| stat(&mut node.raw(), "entries"));
        assert_eq!(source + target, expected, "{source} + {target}");
        assert_eq!((source_replica, target_replica), (source, target));
    }
}

/// Writes entries `key0`, `key1`, …, each with the tags `all` and one of `part0` to `part7`.
pub(crate) fn fill(client: &mut RawClient, entries: usize) {
    let written = sets(entries, |chunk| client.pipeline(chunk));
    assert!(written.iter().all(|reply| *reply == Reply::ok()));
}

fn sets(entries: usize, send: impl FnMut(&[Vec<Vec<u8>>]) -> Vec<Reply>) -> Vec<Reply> {
    let sets: Vec<_> = (0..entries)
        .map(|n| {
            let (key, part) = (format!("key{n}"), format!("part{}", n % 8));
            let value = "v".repeat(100);
            args![
                "CACHE.SET",
                key,
                value,
                "GRACE",
                1_000_000,
                "TAGS",
                2,
                "all",
                part
            ]
        })
        .collect();
    sets.chunks(1000).flat_map(send).collect()
}

/// Begins to move slots.
pub(crate) fn start_migration(from: &Server, to: &Server, (first, last): (u16, u16)) {
    let reply = if from.engine().is_valkey() {
        let (id, _) = addresses(&mut to.raw());
        run!(
            from.raw(),
            "CLUSTER MIGRATESLOTS SLOTSRANGE {first} {last} NODE {id}"
        )
    } else {
        run!(to.raw(), "CLUSTER MIGRATION IMPORT {first} {last}")
    };
    assert!(!reply.is_error(), "{reply:?}");
}

/// Ends all migrations between the two. False if there was none.
pub(crate) fn cancel(from: &Server, to: &Server) -> bool {
    let reply = if from.engine().is_valkey() {
        run!(from.raw(), "CLUSTER CANCELSLOTMIGRATIONS")
    } else {
        run!(to.raw(), "CLUSTER MIGRATION CANCEL ALL")
    };
    let none = reply == Reply::Int(0)
        || reply
            .error()
            .is_some_and(|e| e.contains("No migrations ongoing"));
    assert!(none || !reply.is_error(), "{reply:?}");
    !none
}

/// Moves slots, and waits until both nodes know that they have moved.
pub(crate) fn migrate(from: &Server, to: &Server, slots: (u16, u16)) {
    start_migration(from, to, slots);
    wait_migrated(from, to, slots);
}

pub(crate) fn wait_migrated(from: &Server, to: &Server, slots: (u16, u16)) {
    wait_until("the slots have moved", DEADLINE, || {
        has_moved(from, to, slots)
    });
}

/// Whether both nodes know that the slots have moved.
pub(crate) fn has_moved(from: &Server, to: &Server, slots: (u16, u16)) -> bool {
    let (id, _) = addresses(&mut to.raw());
    let mut nodes = [from, to].into_iter();
    nodes.all(|node| owns(&mut node.raw(), &id, slots))
}

/// Whether a node considers another one the owner of these slots.
fn owns(client: &mut RawClient, id: &str, (first, last): (u16, u16)) -> bool {
    let nodes = call!(client, "CLUSTER", "NODES").text();
    let line = nodes.lines().find(|line| line.starts_with(id));
    line.is_some_and(|line| {
        line.split(' ').skip(8).any(|range| {
            let mut ends = range.split('-').map(str::parse::<u16>);
            let from = ends.next().and_then(Result::ok);
            let to = ends.next().map_or(from, Result::ok);
            from.is_some_and(|from| from <= first) && to.is_some_and(|to| to >= last)
        })
    })
}

/// Waits until removals have finished: everything in the index is visible.
pub(crate) fn wait_removed(nodes: &[&Server]) {
    for node in nodes {
        let mut client = node.raw();
        call!(client, "READONLY");
        wait_until("all is removed", DEADLINE, || {
            entry_keys(&mut client).len() as i64 == stat(&mut client, "entries")
        });
    }
}
