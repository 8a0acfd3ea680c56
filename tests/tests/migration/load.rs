//! Slots that move while clients write, read and invalidate.

#![allow(clippy::useless_vec, reason = "`args!` makes the words of a command")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tagcache_tests::look::stat;
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Rng, Server, args, call, for_all_engines, run, wait_until,
};

use crate::nodes::{
    Nodes, cancel, has_moved, migrate, moves_slots, start_migration, wait_migrated, wait_removed,
};

const TAGS: usize = 16;
const KEYS: usize = 3_000;
const HALF: (u16, u16) = (0, 8191);

/// The version of the data behind each tag. Only the holder of the lock loads or changes it, so that no value is
/// written after the invalidation that concerns it.
struct Database([Mutex<u64>; TAGS]);

/// Signals the threads that the test is over, also when it failed.
struct Done(AtomicBool);

struct Ends<'d>(&'d Done);

impl Done {
    fn when_dropped(&self) -> Ends<'_> {
        Ends(self)
    }
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// A client of both primaries.
struct Client([RawClient; 2]);

impl Client {
    fn new(nodes: &Nodes) -> Self {
        Self([nodes.source.raw(), nodes.target.raw()])
    }

    /// Sends a command to the owner of its key.
    fn call(&mut self, command: &[Vec<u8>]) -> Reply {
        let mut answer = None;
        wait_until("an owner", DEADLINE, || {
            answer = self.0.iter_mut().find_map(|client| {
                let reply = client.call(command);
                let error = reply.error().unwrap_or_default();
                let elsewhere = ["MOVED ", "ASK ", "TRYAGAIN ", "CLUSTERDOWN "];
                (!elsewhere.iter().any(|word| error.starts_with(word))).then_some(reply)
            });
            answer.is_some()
        });
        answer.expect("waited for it")
    }

    fn invalidate(&mut self, command: &[Vec<u8>]) {
        for client in &mut self.0 {
            assert!(!client.call(command).is_error());
        }
    }
}

fn key(n: usize) -> String {
    format!("key{n}")
}

fn tag(n: usize) -> String {
    format!("tag{}", n % TAGS)
}

impl Database {
    /// One random step of a client.
    fn step(&self, client: &mut Client, rng: &mut Rng) {
        let n = rng.below(KEYS);
        let mut version = self.0[n % TAGS]
            .lock()
            .unwrap_or_else(|_| panic!("another thread failed"));
        match rng.below(200) {
            0 => {
                *version += 1;
                let word = rng.pick(&["CACHE.INVALIDATE", "CACHE.REVALIDATE"]);
                client.invalidate(&args![word, tag(n)]);
            }
            1..100 => {
                let reply = client.call(&args!["CACHE.GET", key(n)]);
                is_current(&reply, *version, n);
            }
            100..120 => {
                client.call(&args!["CACHE.TOUCH", key(n), "PX", 100_000_000]);
            }
            120..122 => {
                client.call(&args!["DEL", key(n)]);
            }
            _ => {
                let set = args![
                    "CACHE.SET",
                    key(n),
                    value(*version),
                    "GRACE",
                    1_000_000,
                    "TAGS",
                    1,
                    tag(n)
                ];
                assert_eq!(client.call(&set), Reply::ok());
            }
        }
    }
}

/// The stored value: large enough that a snapshot does not wait in buffers until it is complete, even when
/// invalidations have left few entries.
fn value(version: u64) -> String {
    format!("{version:0>4000}")
}

/// Asserts that a reply shows no other version.
fn is_current(reply: &Reply, version: u64, n: usize) {
    assert!(
        reply.is_null() || reply.text() == value(version),
        "{}: version {version}, served {reply:?}",
        key(n)
    );
}

#[test]
fn no_invalidated_entry_is_served_while_slots_move() {
    for_all_engines(|engine| {
        if !moves_slots(engine) {
            return;
        }
        let nodes = Nodes::start(engine);
        let database = Database(std::array::from_fn(|_| Mutex::new(0)));
        let mut client = Client::new(&nodes);
        for n in 0..KEYS {
            client.call(&args!["CACHE.SET", key(n), value(0), "TAGS", 1, tag(n)]);
        }
        let slow_down = |us: u32| {
            for node in [&nodes.source, &nodes.target] {
                call!(node.raw(), "CONFIG", "SET", "rdb-key-save-delay", us);
            }
        };
        let (done, steps) = (Done(AtomicBool::new(false)), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for seed in 0..3 {
                let (nodes, database, done, steps) = (&nodes, &database, &done, &steps);
                scope.spawn(move || {
                    let (mut client, mut rng) = (Client::new(nodes), Rng::new(seed));
                    while !done.0.load(Ordering::Relaxed) {
                        database.step(&mut client, &mut rng);
                        steps.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let _ends = done.when_dropped();
            let (source, target) = (&nodes.source, &nodes.target);
            for _ in 0..2 {
                slow_down(300);
                migrate(source, target, HALF);
                migrate(target, source, HALF);
                slow_down(10_000);
                start_migration(source, target, HALF);
                // While tags are invalidated all the time, all arriving entries may be gone, and the slots may have
                // moved before anything is visible.
                wait_until("entries arrive", DEADLINE, || {
                    stat(&mut target.raw(), "entries") > 0 || has_moved(source, target, HALF)
                });
                if cancel(source, target) {
                    wait_until("what arrived is removed", DEADLINE, || {
                        stat(&mut target.raw(), "entries") == 0
                    });
                } else {
                    wait_migrated(source, target, HALF);
                    migrate(target, source, HALF);
                }
            }
            slow_down(300);
            migrate(source, target, HALF);
        });
        println!("{} steps", steps.load(Ordering::Relaxed));
        wait_removed(&nodes.all());
        check_all(&database, &nodes);
        nodes.assert_agree();
        for (primary, replica) in [
            (&nodes.source, &nodes.source_replica),
            (&nodes.target, &nodes.target_replica),
        ] {
            let digest = |node: &Server| run!(node.raw(), "DEBUG DIGEST");
            assert_eq!(digest(replica), digest(primary));
        }
    });
}

/// Checks that each node serves current values of the keys that it owns.
fn check_all(database: &Database, nodes: &Nodes) {
    for node in nodes.all() {
        let mut client = node.raw();
        call!(client, "READONLY");
        for n in 0..KEYS {
            let reply = call!(client, "CACHE.GET", key(n));
            if !reply.is_error() {
                let version = *database.0[n % TAGS].lock().expect("all threads are done");
                is_current(&reply, version, n);
            }
        }
    }
}
