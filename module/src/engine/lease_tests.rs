//! Leases: against a naive model, and every order of a few events against what leases are for.

use proptest::prelude::*;

use super::database::Database;
use super::index::{Effect, Incoming};
use super::lease::{Grant, Leases, REMEMBER_MS, Token, Waiter};

const KEYS: [&[u8]; 3] = [b"a", b"b", b"c"];

#[derive(Debug, Clone)]
enum Op {
    Ask { key: usize, lease_ms: u64 },
    Wait { key: usize, lease_ms: Option<u64> },
    Leave { which: usize },
    Write { key: usize },
    Release { which: usize },
    PassOn { key: usize },
    EndAll,
    Time { ms: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..KEYS.len();
    prop_oneof![
        6 => (key(), 1_u64..100).prop_map(|(key, lease_ms)| Op::Ask { key, lease_ms }),
        6 => (key(), proptest::option::of(1_u64..100)).prop_map(|(key, lease_ms)| Op::Wait { key, lease_ms }),
        2 => any::<usize>().prop_map(|which| Op::Leave { which }),
        2 => key().prop_map(|key| Op::Write { key }),
        3 => any::<usize>().prop_map(|which| Op::Release { which }),
        4 => key().prop_map(|key| Op::PassOn { key }),
        1 => Just(Op::EndAll),
        4 => prop_oneof![1_u64..60, Just(REMEMBER_MS)].prop_map(|ms| Op::Time { ms }),
    ]
}

/// What is true of one key.
#[derive(Debug, Default)]
struct Key {
    /// The last lease, unless it is over: token, clock and end.
    lease: Option<(Token, u64, u64)>,
    /// When it was over, while callers wait who were not told.
    over: u64,
    waiters: Vec<(Waiter, Option<u64>)>,
}

#[derive(Debug)]
struct Model {
    leases: Leases,
    keys: [Key; KEYS.len()],
    given: Vec<(usize, Token)>,
    clock: u64,
    now: u64,
    next_waiter: Waiter,
}

impl Model {
    fn holder(&self, key: usize) -> Option<(Token, u64, u64)> {
        self.keys[key].lease.filter(|&(_, _, ends)| ends > self.now)
    }

    fn granted(&mut self, key: usize, token: Token, lease_ms: u64) {
        assert!(token > 0 && token < 1 << 53);
        assert!(
            self.given.iter().all(|&(_, other)| other != token),
            "no token is given twice"
        );
        self.given.push((key, token));
        self.keys[key].lease = Some((token, self.clock, self.now + lease_ms));
    }

    fn over(&mut self, key: usize) {
        self.keys[key].lease = None;
        self.keys[key].over = self.now;
    }

    /// Whoever waits first and wants a lease gets one.
    fn pass_on(&mut self, key: usize) {
        let released = self.leases.pass_on(KEYS[key], self.clock, self.now);
        let line = std::mem::take(&mut self.keys[key].waiters);
        if self.holder(key).is_some() || line.is_empty() {
            assert_eq!(released, []);
            self.keys[key].waiters = line;
        } else if let Some(at) = line.iter().position(|(_, lease_ms)| lease_ms.is_some()) {
            assert_eq!(released.len(), 1);
            self.keys[key].lease = None;
            assert_eq!(released[0].waiter, line[at].0, "first come, first served");
            let lease_ms = line[at].1.unwrap_or(0);
            self.keys[key].waiters = line;
            self.keys[key].waiters.remove(at);
            self.granted(key, released[0].token.expect("a lease"), lease_ms);
        } else {
            let told: Vec<_> = released.iter().map(|r| (r.waiter, r.token)).collect();
            let all: Vec<_> = line.iter().map(|&(waiter, _)| (waiter, None)).collect();
            // Nobody waits any more; the lease that ran out may still be used.
            assert_eq!(told, all);
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Ask { key, lease_ms } => {
                let grant = self.leases.ask(KEYS[key], self.clock, self.now, lease_ms);
                match (self.holder(key), grant) {
                    (Some(_), Grant::Taken) => {}
                    (None, Grant::Lease(token)) => self.granted(key, token, lease_ms),
                    (held, grant) => panic!("{grant:?} although {held:?}"),
                }
            }
            Op::Wait { key, lease_ms } => {
                if self.holder(key).is_some() {
                    self.next_waiter += 1;
                    self.leases.wait(KEYS[key], self.next_waiter, lease_ms);
                    self.keys[key].waiters.push((self.next_waiter, lease_ms));
                }
            }
            Op::Leave { which } => {
                let key = which % KEYS.len();
                let line = &mut self.keys[key].waiters;
                if !line.is_empty() {
                    let (waiter, _) = line.remove(which / KEYS.len() % line.len());
                    self.leases.leave(KEYS[key], waiter);
                }
            }
            Op::Write { key } => {
                let is_awaited = self.leases.end(KEYS[key], self.now);
                assert_eq!(is_awaited, !self.keys[key].waiters.is_empty());
                self.over(key);
            }
            Op::Release { which } => {
                if !self.given.is_empty() {
                    let (key, token) = self.given[which % self.given.len()];
                    let is_last = self.keys[key].lease.is_some_and(|(last, ..)| last == token);
                    let was_held = is_last && self.holder(key).is_some();
                    assert_eq!(self.leases.release(KEYS[key], token, self.now), was_held);
                    if is_last {
                        self.over(key);
                    }
                }
            }
            Op::PassOn { key } => self.pass_on(key),
            Op::EndAll => {
                let mut awaited = self.leases.end_all(self.now);
                awaited.sort_unstable();
                let mut expected = Vec::new();
                for (key, name) in self.keys.iter_mut().zip(KEYS) {
                    key.lease = None;
                    key.over = self.now;
                    if !key.waiters.is_empty() {
                        expected.push(Box::from(name));
                    }
                }
                assert_eq!(awaited, expected);
            }
            Op::Time { ms } => {
                self.now += ms;
                self.clock += 1;
                self.leases.forget(self.now, 1_000);
                for key in &mut self.keys {
                    let is_forgotten = |&(_, _, ends): &(_, _, u64)| ends + REMEMBER_MS <= self.now;
                    if key.lease.as_ref().is_some_and(is_forgotten) {
                        key.over = key.lease.map_or(0, |(_, _, ends)| ends);
                        key.lease = None;
                    }
                }
            }
        }
    }

    fn check(&self) {
        self.leases.validate();
        let awaited = self.keys.iter().filter(|key| !key.waiters.is_empty());
        let ends = awaited.map(|key| key.lease.map_or(key.over, |(_, _, ends)| ends));
        let next = ends.min();
        assert_eq!(self.leases.next_due_ms(), next);
        let is_due = next.is_some_and(|ends| ends <= self.now);
        assert_eq!(self.leases.due(self.now).is_some(), is_due);
        let waiting: usize = self.keys.iter().map(|key| key.waiters.len()).sum();
        assert_eq!(self.leases.waiting(), waiting);
        let held = (0..KEYS.len()).filter(|&key| self.holder(key).is_some());
        assert_eq!(self.leases.held(self.now), held.count());
        for &(key, token) in &self.given {
            let last = self.keys[key].lease.filter(|&(last, ..)| last == token);
            assert_eq!(
                self.leases.granted_at(KEYS[key], token),
                last.map(|(_, clock, _)| clock)
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 1000 }))]
    #[test]
    fn leases_agree_with_a_naive_model(seed: u64, ops in proptest::collection::vec(op(), 1..80)) {
        let mut model = Model {
            leases: Leases::new(seed),
            keys: Default::default(),
            given: Vec::new(),
            clock: 0,
            now: 1_000,
            next_waiter: 0,
        };
        for op in &ops {
            model.apply(op);
            model.check();
        }
    }
}

/// What can happen around one key with one tag, with two clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The client asks for the lease and, if it gets it, reads the database.
    Fetch(usize),
    /// It writes what it read.
    Set(usize),
    /// It gives up.
    Release(usize),
    /// The database changes; then the tag is invalidated.
    Invalidate,
    Revalidate,
    /// The database changes; then the key is removed.
    Del,
    Flush,
    /// The lease runs out.
    RunOut,
}

const EVENTS: [Event; 11] = [
    Event::Fetch(0),
    Event::Fetch(1),
    Event::Set(0),
    Event::Set(1),
    Event::Release(0),
    Event::Release(1),
    Event::Invalidate,
    Event::Revalidate,
    Event::Del,
    Event::Flush,
    Event::RunOut,
];

/// One server, and what is true of the database behind it.
#[derive(Default)]
struct World {
    cache: Database<u64>,
    now: u64,
    /// What the database holds.
    version: u64,
    /// What each client read, and under which lease.
    read: [Option<(u64, Token)>; 2],
    /// What is cached, while it can be seen as fresh.
    cached: Option<u64>,
    slot: Option<super::Slot>,
    /// The last lease, while nothing happened that ends it: what was read under it may be written.
    good: Option<Token>,
}

impl World {
    fn drop_entry(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.cache.index.remove(slot);
        }
        self.cached = None;
    }

    fn apply(&mut self, event: Event) {
        const TAG: &[u8] = b"tag";
        match event {
            Event::Fetch(client) => {
                let clock = self.cache.clock.reading();
                if let Grant::Lease(token) = self.cache.leases.ask(b"key", clock, self.now, 10) {
                    self.read[client] = Some((self.version, token));
                    self.good = Some(token);
                }
            }
            Event::Set(client) => {
                let Some((version, token)) = self.read[client] else {
                    return;
                };
                let may = self.cache.may_write(b"key", token, std::iter::once(TAG));
                assert_eq!(
                    may,
                    self.good == Some(token),
                    "neither too strict nor too lax"
                );
                if may {
                    self.drop_entry();
                    self.slot = Some(self.cache.index.insert(Incoming {
                        entry: 1,
                        tags: &[TAG],
                        bytes: super::slots::UNIT,
                        hits: 0,
                        has_grace: false,
                        soft_since_ms: None,
                    }));
                    self.cached = Some(version);
                    self.cache.leases.end(b"key", self.now);
                    self.good = None;
                } else {
                    self.cache.leases.release(b"key", token, self.now);
                }
            }
            Event::Release(client) => {
                if let Some((_, token)) = self.read[client] {
                    self.cache.leases.release(b"key", token, self.now);
                    self.good = self.good.filter(|&good| good != token);
                }
            }
            Event::Invalidate | Event::Revalidate => {
                self.version += 1;
                let effect = if event == Event::Invalidate {
                    Effect::Gone
                } else {
                    Effect::Stale
                };
                let tags = [TAG];
                self.cache.invalidate(&tags, effect, self.now);
                self.drop_entry();
                self.good = None;
            }
            Event::Del => {
                self.version += 1;
                self.drop_entry();
                self.cache.leases.end(b"key", self.now);
                self.good = None;
            }
            Event::Flush => {
                self.version += 1;
                self.cache.flush(self.now);
                self.cache.leases.end_all(self.now);
                self.drop_entry();
                self.good = None;
            }
            Event::RunOut => self.now += 10,
        }
        if let Some(cached) = self.cached {
            assert_eq!(cached, self.version, "an old value is cached");
        }
    }
}

/// Every order of up to so many events is tried.
const LENGTH: u32 = if cfg!(miri) { 2 } else { 5 };

#[test]
fn no_order_of_events_caches_what_was_read_before_an_invalidation() {
    for number in 0..EVENTS.len().pow(LENGTH) {
        let mut world = World::default();
        let mut rest = number;
        let mut order = Vec::new();
        for _ in 0..LENGTH {
            order.push(EVENTS[rest % EVENTS.len()]);
            rest /= EVENTS.len();
        }
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for &event in &order {
                world.apply(event);
            }
        }));
        assert!(tried.is_ok(), "{order:?}");
    }
}
