//! A primary and a replica whose clocks are set at random, independently.

use std::collections::BTreeMap;

use tagcache_tests::clock::Clock;
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{RawClient, Rng, Server, call, for_all_engines, run};

use crate::clock::set;

const KEYS: [&str; 5] = ["k0", "k1", "k2", "k3", "k4"];
const TAGS: [&str; 3] = ["a", "b", "c"];

/// The steps that were taken, by number.
#[derive(Debug, Default)]
struct Done {
    /// The step that wrote each entry, and whether the entry has a grace, which never ends here.
    written: BTreeMap<&'static str, (usize, bool)>,
    invalidated: BTreeMap<&'static str, usize>,
    revalidated: BTreeMap<&'static str, usize>,
}

impl Done {
    /// No node may serve an entry that was invalidated afterwards. Additional misses are no fault where clocks are set.
    fn check(&self, client: &mut RawClient, what: &str) {
        for key in KEYS {
            for tag in TAGS {
                let reply = call!(client, "CACHE.FETCH", key, "WITHTAGS", 1, tag);
                let state = reply.items()[0].text();
                let Some((written, has_grace)) = self.written.get(key) else {
                    assert_eq!(state, "MISS", "{what}: {key} {tag}");
                    continue;
                };
                let is_after = |all: &BTreeMap<_, usize>| all.get(tag) > Some(written);
                let may_be = match state.as_str() {
                    "HIT" => !is_after(&self.invalidated) && !is_after(&self.revalidated),
                    "STALE" => !is_after(&self.invalidated) && *has_grace,
                    _ => true,
                };
                assert!(may_be, "{what}: {key} by {tag} is {state}, {self:?}");
            }
        }
    }
}

#[test]
fn random_clock_changes_bring_no_entry_back_on_any_node() {
    const SHIFTS_MS: [i64; 8] = [120, 450, 900, 5_000, 55_000, 70_000, 300_000, 3_600_000];
    let (Some(here), Some(there)) = (Clock::new(), Clock::new()) else {
        return;
    };
    for_all_engines(|engine| {
        let mut rng = Rng::from_env(10);
        for round in 0..4 {
            here.shift(0);
            there.shift(rng.pick(&SHIFTS_MS) * (round % 3 - 1));
            let builder = here.of(Server::builder().engine(engine));
            let primary = builder.arg("--appendonly", "yes").start();
            let builder = there.of(Server::builder().engine(engine));
            let replica = builder.replica_of(&primary).start();
            let (mut client, mut other) = (primary.raw(), replica.raw());
            let mut done = Done::default();
            for step in 0..60 {
                let (key, tag) = (rng.pick(&KEYS), rng.pick(&TAGS));
                match rng.below(10) {
                    0..3 => {
                        let has_grace = rng.one_in(2);
                        let grace = if has_grace { "GRACE 10000000000" } else { "" };
                        run!(client, "CACHE.SET {key} v {grace}");
                        done.written.insert(key, (step, has_grace));
                    }
                    3 | 4 => {
                        run!(client, "CACHE.INVALIDATE {tag}");
                        done.invalidated.insert(tag, step);
                    }
                    5 => {
                        run!(client, "CACHE.REVALIDATE {tag}");
                        done.revalidated.insert(tag, step);
                    }
                    6 => {
                        run!(client, "DEBUG LOADAOF");
                        run!(client, "SELECT 0"); // Valkey 8.1 leaves the client in another database.
                    }
                    7 | 8 => {
                        let shift_ms = rng.pick(&SHIFTS_MS) * (rng.below(3) as i64 - 1);
                        set(&here, &mut client, shift_ms);
                    }
                    _ => {
                        let shift_ms = rng.pick(&SHIFTS_MS) * (rng.below(3) as i64 - 1);
                        set(&there, &mut other, shift_ms);
                    }
                }
                done.check(&mut client, "the primary");
                if rng.one_in(3) {
                    wait_synchronised(&primary, &replica);
                    done.check(&mut other, "the replica");
                }
            }
            wait_synchronised(&primary, &replica);
            run!(other, "REPLICAOF NO ONE");
            done.check(&mut other, "the promoted replica");
        }
    });
}
