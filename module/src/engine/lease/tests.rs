//! Leases against a naive model, and every order of a few events against the guarantees of leases.

use std::rc::Rc;

use proptest::prelude::*;

use super::{
    Answer, Ask, Caller, Client, Freshness, LEASE_BYTES, Leases, MOST, NOBODY, REMEMBER_MS, Rows,
    Terms, Token, Used, WAITER_BYTES, Waiter,
};
use crate::engine::Facts;
use crate::engine::database::{Database, Invalidation};
use crate::engine::index::{Effect, Incoming};

impl Leases {
    fn validate(&self) {
        let mut rows = Rows::default();
        let (mut waiting, mut key_bytes) = (0, 0);
        for (key, lease) in &self.by_key {
            assert!(Rc::ptr_eq(key, &lease.key), "a key is stored once");
            rows.add(lease);
            waiting += lease.waiters.len();
            key_bytes += key.len();
            assert!(
                lease.token != NOBODY || !lease.waiters.is_empty(),
                "invariant 3"
            );
        }
        assert_eq!(self.rows, rows, "invariant 1");
        assert_eq!(
            (self.waiting, self.key_bytes),
            (waiting, key_bytes),
            "invariant 2"
        );
    }
}

/// Far from the tokens that callers choose here.
const SEED: u64 = 1 << 40;

fn leases_from(seed: u64) -> Leases {
    Leases {
        tokens: super::Tokens::new(seed),
        ..Leases::default()
    }
}

const KEYS: [&[u8]; 3] = [b"a", b"b", b"c"];

/// A request for a lease: its connection, its duration, with a chosen token or without.
type Wish = (Client, Ask);

#[derive(Debug, Clone)]
enum Op {
    Ask {
        key: usize,
        wish: Wish,
    },
    Renew {
        key: usize,
        wish: Wish,
    },
    Wait {
        key: usize,
        client: Client,
        ask: Option<Ask>,
    },
    Leave {
        which: usize,
    },
    Write {
        key: usize,
    },
    Serve {
        which: usize,
        found: Freshness,
    },
    Release {
        which: usize,
    },
    PassOn {
        key: usize,
    },
    Disconnect {
        client: Client,
        orphan_ms: u64,
    },
    EndAll,
    Time {
        ms: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..KEYS.len();
    let client = || 1_u64..4;
    let ask = || {
        let token = proptest::option::of(1_u64..4);
        (1_u64..100, token).prop_map(|(ms, token)| Ask { ms, token })
    };
    let found = prop_oneof![
        Just(Freshness::Fresh),
        Just(Freshness::Stale),
        Just(Freshness::Gone)
    ];
    prop_oneof![
        6 => (key(), client(), ask()).prop_map(|(key, client, ask)| Op::Ask { key, wish: (client, ask) }),
        3 => (key(), client(), ask()).prop_map(|(key, client, ask)| Op::Renew { key, wish: (client, ask) }),
        6 => (key(), client(), proptest::option::of(ask())).prop_map(|(key, client, ask)| Op::Wait { key, client, ask }),
        2 => any::<usize>().prop_map(|which| Op::Leave { which }),
        2 => key().prop_map(|key| Op::Write { key }),
        3 => (any::<usize>(), found).prop_map(|(which, found)| Op::Serve { which, found }),
        3 => any::<usize>().prop_map(|which| Op::Release { which }),
        4 => key().prop_map(|key| Op::PassOn { key }),
        2 => (client(), 0_u64..60).prop_map(|(client, orphan_ms)| Op::Disconnect { client, orphan_ms }),
        1 => Just(Op::EndAll),
        4 => prop_oneof![1_u64..60, Just(REMEMBER_MS)].prop_map(|ms| Op::Time { ms }),
    ]
}

/// A lease as the model sees it.
#[derive(Debug, Clone, Copy)]
struct Held {
    token: Token,
    clock: u64,
    ends: u64,
    holder: Client,
}

/// The expected state of one key.
#[derive(Debug, Default)]
struct Key {
    /// The last lease, unless it is over.
    lease: Option<Held>,
    /// The time of its end, while callers that were not served wait.
    over: u64,
    /// Tokens of leases that are over, and the time until which they cannot be granted.
    used: Vec<(Token, u64)>,
    line: Vec<(Waiter, Client, Option<Ask>)>,
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
    const fn terms(&self) -> Terms {
        Terms {
            clock: self.clock,
            now_ms: self.now,
            max_ms: 80,
            room: MOST,
        }
    }

    fn holder(&self, key: usize) -> Option<Held> {
        self.keys[key].lease.filter(|lease| lease.ends > self.now)
    }

    fn is_used(&self, key: usize, token: Token) -> bool {
        let mut used = self.keys[key].used.iter();
        used.any(|&(other, until)| other == token && until > self.now)
    }

    fn over(&mut self, key: usize) {
        let (now, key) = (self.now, &mut self.keys[key]);
        if let Some(lease) = key.lease.take() {
            key.used.push((lease.token, now + 60_000));
        }
        key.over = now;
    }

    /// Asks in the model and returns the expected token; 0 stands for a token that the server chooses.
    fn ask(&mut self, key: usize, (client, ask): Wish) -> Option<Token> {
        let ends = self.now + ask.ms.min(80);
        if let Some(lease) = &mut self.keys[key].lease
            && ask.token == Some(lease.token)
        {
            (lease.ends, lease.holder) = (ends, client);
            return ask.token;
        }
        if self.holder(key).is_some() || ask.token.is_some_and(|token| self.is_used(key, token)) {
            return None;
        }
        self.over(key);
        self.keys[key].lease = Some(Held {
            token: ask.token.unwrap_or(0),
            clock: self.clock,
            ends,
            holder: client,
        });
        Some(ask.token.unwrap_or(0))
    }

    /// Asks the model, and compares it with the token that was granted.
    fn granted(&mut self, key: usize, wish: Wish, token: Option<Token>) {
        let expected = self.ask(key, wish);
        match (expected, token) {
            (None, None) => {}
            (Some(chosen), Some(token)) => {
                assert!(token > 0 && token < 1 << 53);
                assert!(chosen == 0 || chosen == token);
                if chosen == 0 {
                    assert!(
                        self.given.iter().all(|&(_, other)| other != token),
                        "no issued token comes twice"
                    );
                }
                self.given.push((key, token));
                if let Some(lease) = &mut self.keys[key].lease {
                    lease.token = token;
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn wants(&self, key: usize, ask: Option<Ask>) -> bool {
        let own = self.keys[key].lease.map(|lease| lease.token);
        ask.is_some_and(|ask| {
            ask.token
                .is_none_or(|token| own == Some(token) || !self.is_used(key, token))
        })
    }

    /// The first waiter that may be given a lease gets one.
    fn pass_on(&mut self, key: usize) {
        let released = self.leases.pass_on(KEYS[key], self.terms());
        let line = std::mem::take(&mut self.keys[key].line);
        if self.holder(key).is_some() || line.is_empty() {
            assert_eq!(released, []);
            self.keys[key].line = line;
        } else if let Some(at) = line.iter().position(|&(.., ask)| self.wants(key, ask)) {
            assert_eq!(released.len(), 1);
            let (waiter, client, ask) = line[at];
            assert_eq!(released[0].0, waiter, "first come, first served");
            self.keys[key].line = line;
            self.keys[key].line.remove(at);
            self.granted(key, (client, ask.expect("it wants one")), released[0].1);
        } else {
            let all: Vec<_> = line.iter().map(|&(waiter, ..)| (waiter, None)).collect();
            // No caller waits any more; the lease that ran out may still be used.
            assert_eq!(released, all);
        }
    }

    fn serve(&mut self, key: usize, at: usize, found: Freshness) {
        let (waiter, client, ask) = self.keys[key].line[at];
        let answer = self.leases.serve(KEYS[key], waiter, found, self.terms());
        let is_held = self.holder(key).is_some();
        let goes_on = is_held || {
            let mut line = self.keys[key].line.iter();
            !self.wants(key, ask) && line.any(|&(.., ask)| self.wants(key, ask))
        };
        match answer {
            Answer::Hit(token) => assert_eq!((found, token), (Freshness::Fresh, None)),
            Answer::Wait => assert!(goes_on && found != Freshness::Fresh),
            Answer::Stale(token) | Answer::Miss(token) => {
                assert_eq!(
                    matches!(answer, Answer::Stale(_)),
                    found == Freshness::Stale
                );
                assert!(!goes_on && found != Freshness::Fresh);
                match ask {
                    Some(ask) => self.granted(key, (client, ask), token),
                    None => assert_eq!(token, None),
                }
            }
        }
        if answer != Answer::Wait {
            self.keys[key].line.remove(at);
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Ask { key, wish } => {
                let token = self.leases.ask(KEYS[key], wish.0, wish.1, self.terms());
                self.granted(key, wish, token);
            }
            Op::Renew {
                key,
                wish: (client, ask),
            } => {
                let own = self.keys[key].lease.map(|lease| lease.token);
                let expected = own.filter(|own| ask.token == Some(*own));
                let token = self.leases.renew(KEYS[key], client, ask, self.terms());
                assert_eq!(token, expected);
                if token.is_some() {
                    self.granted(key, (client, ask), token);
                }
            }
            Op::Wait { key, client, ask } => {
                self.next_waiter += 1;
                let caller = Caller {
                    client,
                    ask,
                    is_renewal: false,
                    is_early: false,
                    may_wait: true,
                };
                let terms = self.terms();
                let waits = self.leases.wait(KEYS[key], self.next_waiter, caller, terms);
                assert_eq!(waits.is_some(), self.holder(key).is_some());
                if waits.is_some() {
                    self.keys[key].line.push((self.next_waiter, client, ask));
                }
            }
            Op::Leave { which } => {
                let key = which % KEYS.len();
                let line = &mut self.keys[key].line;
                if !line.is_empty() {
                    let (waiter, ..) = line.remove(which / KEYS.len() % line.len());
                    self.leases.leave(KEYS[key], waiter);
                }
            }
            Op::Write { key } => {
                let is_awaited = self.leases.end(KEYS[key], self.now);
                assert_eq!(is_awaited, !self.keys[key].line.is_empty());
                self.over(key);
            }
            Op::Serve { which, found } => {
                let (key, at) = (which % KEYS.len(), which / KEYS.len());
                let len = self.keys[key].line.len();
                if len > 0 {
                    self.serve(key, at % len, found);
                }
            }
            Op::Release { which } => {
                if !self.given.is_empty() {
                    let (key, token) = self.given[which % self.given.len()];
                    let is_last = self.keys[key].lease.is_some_and(|last| last.token == token);
                    let was_held = is_last && self.holder(key).is_some();
                    assert_eq!(self.leases.release(KEYS[key], token, self.now), was_held);
                    if is_last {
                        self.over(key);
                    }
                }
            }
            Op::PassOn { key } => self.pass_on(key),
            Op::Disconnect { client, orphan_ms } => {
                while !(self.leases).disconnected(client, self.now + orphan_ms, 1) {}
                for lease in self.keys.iter_mut().filter_map(|key| key.lease.as_mut()) {
                    if lease.holder == client {
                        lease.holder = 0;
                        lease.ends = lease.ends.min(self.now + orphan_ms);
                    }
                }
            }
            Op::EndAll => {
                let mut awaited = self.leases.end_all(self.now);
                awaited.sort_unstable();
                let mut expected = Vec::new();
                for (key, name) in KEYS.iter().enumerate() {
                    self.over(key);
                    if !self.keys[key].line.is_empty() {
                        expected.push(std::rc::Rc::from(*name));
                    }
                }
                assert_eq!(awaited, expected);
            }
            Op::Time { ms } => {
                self.now += ms;
                self.clock += 1;
                self.leases.forget(self.now, 1_000);
                for key in 0..KEYS.len() {
                    let is_forgotten = |lease: &Held| lease.ends + REMEMBER_MS <= self.now;
                    if self.keys[key].lease.as_ref().is_some_and(is_forgotten) {
                        self.over(key);
                    }
                }
            }
        }
    }

    fn check(&self) {
        self.leases.validate();
        let awaited = self.keys.iter().filter(|key| !key.line.is_empty());
        let ends = awaited.map(|key| key.lease.map_or(key.over, |lease| lease.ends));
        let next = ends.min();
        assert_eq!(self.leases.next_due().map(|(at_ms, _)| *at_ms), next);
        let waiting: usize = self.keys.iter().map(|key| key.line.len()).sum();
        assert_eq!(self.leases.waiting(), waiting);
        let held = (0..KEYS.len()).filter(|&key| self.holder(key).is_some());
        assert_eq!(self.leases.held(self.now), held.count());
        for &(key, token) in &self.given {
            let last = self.keys[key].lease.filter(|last| last.token == token);
            assert_eq!(
                self.leases.granted_at(KEYS[key], token),
                last.map(|lease| lease.clock)
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::engine::index::tests::cases(1000)))]
    #[test]
    fn leases_agree_with_a_naive_model(seed: u64, ops in proptest::collection::vec(op(), 1..if cfg!(miri) { 20 } else { 80 })) {
        let mut model = Model {
            leases: leases_from(seed | SEED),
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

/// Asks for a lease of a key for a minute, from a connection of its own.
fn ask_for(leases: &mut Leases, key: &[u8], now_ms: u64, room: Used) -> Option<Token> {
    let terms = Terms {
        clock: 0,
        now_ms,
        max_ms: 60_000,
        room,
    };
    let ask = Ask {
        ms: 60_000,
        token: None,
    };
    leases.ask(key, 1, ask, terms)
}

#[test]
#[cfg_attr(miri, ignore = "hashes 200 MB")]
fn leases_are_bounded_in_bytes_and_ended_ones_make_room() {
    let mut leases = leases_from(SEED);
    let key = |n: u32| [n.to_be_bytes().to_vec(), vec![b'x'; 500_000]].concat();
    let count = (0..400)
        .filter(|&n| ask_for(&mut leases, &key(n), 0, MOST).is_some())
        .count();
    assert_eq!(count, MOST.bytes / (500_004 + 384));
    assert!(leases.used().bytes <= MOST.bytes);
    assert_eq!(ask_for(&mut leases, &key(500), 59_999, MOST), None);
    // The leases have run out: there is room again, although they are remembered.
    assert_ne!(ask_for(&mut leases, &key(500), 60_000, MOST), None);
    assert_eq!(leases.used().leases, count);
    leases.validate();
}

#[test]
fn leases_are_bounded_by_number_and_by_remaining_room() {
    let room = Used {
        leases: 3,
        bytes: MOST.bytes,
    };
    let mut leases = leases_from(SEED);
    for n in 0..5_u8 {
        let is_granted = ask_for(&mut leases, &[n], 0, room).is_some();
        assert_eq!(is_granted, n < 3);
    }
    assert_eq!(ask_for(&mut leases, b"x", 60_000, Used::default()), None);
    assert_eq!(leases.used(), Used::default(), "all that was over went");
}

#[test]
fn a_repeated_request_keeps_the_clock_of_the_first_grant() {
    let mut leases = leases_from(SEED);
    let ask = |leases: &mut Leases, token, clock, now_ms| {
        let (ask, room) = (Ask { ms: 10, token }, MOST);
        let terms = Terms {
            clock,
            now_ms,
            max_ms: 100,
            room,
        };
        leases.ask(b"key", 1, ask, terms)
    };
    assert_eq!(ask(&mut leases, Some(7), 1, 0), Some(7));
    assert_eq!(ask(&mut leases, Some(8), 2, 0), None);
    // While it runs, and when it has run out but no caller took it over.
    for now_ms in [5, 500] {
        assert_eq!(ask(&mut leases, Some(7), 2, now_ms), Some(7));
        assert_eq!(leases.granted_at(b"key", 7), Some(1));
        assert!(leases.is_held(b"key", now_ms + 9));
    }
    // However a lease ended, its token is not granted again.
    let issued = ask(&mut leases, None, 3, 1_000).expect("it ran out");
    leases.end(b"key", 1_000);
    for used in [7, issued] {
        assert_eq!(ask(&mut leases, Some(used), 4, 1_000), None);
    }
    assert_eq!(ask(&mut leases, Some(9), 4, 1_000), Some(9));
}

/// What can happen around one key with one tag, with two clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The client asks for the lease and, if it gets it, reads the database. The second client chooses its token, and
    /// keeps it until it wrote or gave up; it will write the value that it read first under this token.
    Fetch(usize),
    /// The client writes the value that it read.
    Set(usize),
    /// The client gives up.
    Release(usize),
    /// The database changes; then the tag is invalidated.
    Invalidate,
    Revalidate,
    /// The database changes; then the key is removed.
    Del,
    Flush,
    /// Both connections are closed.
    Disconnect,
    /// Time goes on: a lease runs out after two of these, that of a closed connection after one.
    Wait,
}

const EVENTS: [Event; 12] = [
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
    Event::Disconnect,
    Event::Wait,
];

/// One server, and the true state of the database behind it.
#[derive(Default)]
struct World {
    cache: Database<u64>,
    now: u64,
    /// The version that the database holds.
    version: u64,
    /// The version that each client read, and its lease.
    read: [Option<(u64, Token)>; 2],
    /// The version that is cached, while it is visible as fresh.
    cached: Option<u64>,
    slot: Option<crate::engine::Slot>,
    /// How many tokens the second client has used.
    chosen: Token,
    /// The last lease, while nothing happened that ends it: a value that was read under it may be written.
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
                let terms = Terms {
                    clock: self.cache.clock,
                    now_ms: self.now,
                    max_ms: 20,
                    room: MOST,
                };
                let ask = Ask {
                    ms: 20,
                    token: (client == 1).then_some(1 + self.chosen),
                };
                let leases = &mut self.cache.leases;
                if let Some(token) = leases.ask(b"key", client as u64 + 1, ask, terms)
                    && self.read[client].is_none_or(|(_, last)| last != token)
                {
                    self.read[client] = Some((self.version, token));
                    self.good = Some(token);
                }
            }
            Event::Set(client) => {
                let Some((version, token)) = self.read[client] else {
                    return;
                };
                self.chosen += Token::from(client == 1);
                let may = self.cache.decide_write(
                    b"key",
                    token,
                    Some(std::iter::once(TAG)),
                    true,
                    self.now,
                );
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
                        bytes: crate::engine::slots::UNIT,
                        has_grace: false,
                        facts: Facts::default(),
                    }));
                    self.cached = Some(version);
                    self.cache.leases.end(b"key", self.now);
                    self.good = None;
                }
            }
            Event::Release(client) => {
                if let Some((_, token)) = self.read[client] {
                    self.chosen += Token::from(client == 1);
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
                let what = Invalidation::Tags(effect, &tags);
                self.cache.invalidate(what, self.now, self.now);
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
                self.cache
                    .invalidate(Invalidation::Everything, self.now, self.now);
                self.cache.leases.end_all(self.now);
                self.drop_entry();
                self.good = None;
            }
            Event::Disconnect => {
                for client in 1..=2 {
                    let ends_ms = self.now + 5;
                    assert!(self.cache.leases.disconnected(client, ends_ms, 2));
                }
            }
            Event::Wait => self.now += 10,
        }
        if let Some(cached) = self.cached {
            assert_eq!(cached, self.version, "an old value is cached");
        }
    }
}

/// Every order of up to this many events is tried.
const LENGTH: u32 = if cfg!(miri) { 2 } else { 5 };

#[test]
fn no_order_of_events_caches_a_value_older_than_an_invalidation() {
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

#[test]
fn usage_is_below_half_if_leases_or_bytes_are() {
    let used = |leases, bytes| Used { leases, bytes };
    assert_eq!(used(5, 70).without(used(2, 100)), used(3, 0));
    let half = used(MOST.leases / 2, MOST.bytes / 2);
    let others = used(7, 9);
    let all = used(half.leases + 7, half.bytes + 9);
    assert!(!all.is_below_half_without(others));
    assert!(used(all.leases - 1, all.bytes).is_below_half_without(others));
    assert!(used(all.leases, all.bytes - 1).is_below_half_without(others));
}

fn terms(now_ms: u64) -> Terms {
    Terms {
        clock: 0,
        now_ms,
        max_ms: 100,
        room: MOST,
    }
}

#[test]
fn a_caller_waits_if_it_may_and_another_holds_the_lease() {
    let mut leases = leases_from(SEED);
    let ask = Some(Ask {
        ms: 100,
        token: None,
    });
    let mut fetch = |ask, may_wait, now_ms| {
        let caller = Caller {
            client: 1,
            ask,
            is_renewal: false,
            is_early: false,
            may_wait,
        };
        leases.fetch(b"key", Freshness::Gone, caller, terms(now_ms))
    };
    assert_eq!(fetch(None, true, 0), Answer::Miss(None));
    assert!(matches!(fetch(ask, true, 0), Answer::Miss(Some(_))));
    assert_eq!(fetch(ask, true, 0), Answer::Wait);
    assert_eq!(fetch(None, true, 99), Answer::Wait);
    assert_eq!(fetch(ask, false, 99), Answer::Miss(None));
    assert_eq!(fetch(None, true, 100), Answer::Miss(None));
}

#[test]
fn a_settled_token_can_be_granted_again() {
    let grant = |settled: Option<Token>| {
        let mut leases = leases_from(SEED);
        let (ms, token) = (100, Some(7));
        let ask = |leases: &mut Leases| leases.ask(b"key", 1, Ask { ms, token }, terms(0));
        assert_eq!(ask(&mut leases), token);
        settled.inspect(|&token| leases.settle(b"key", token));
        leases.end(b"key", 0);
        ask(&mut leases)
    };
    assert_eq!(grant(Some(7)), Some(7));
    // The holder settles no lease but its own.
    assert_eq!([grant(None), grant(Some(8))], [None, None]);
}

#[test]
fn clear_removes_all_leases_and_returns_the_waiters() {
    let mut leases = leases_from(SEED);
    assert!(leases.is_empty());
    ask_for(&mut leases, b"a", 0, MOST);
    ask_for(&mut leases, b"longer", 0, MOST);
    let caller = Caller {
        client: 2,
        ask: None,
        is_renewal: false,
        is_early: false,
        may_wait: true,
    };
    for waiter in [11, 12] {
        assert!(leases.wait(b"a", waiter, caller, terms(0)).is_some());
    }
    let bytes = 2 * LEASE_BYTES + "alonger".len() + 2 * WAITER_BYTES;
    assert_eq!(leases.used(), Used { leases: 2, bytes });
    assert!(!leases.is_empty());
    assert_eq!(leases.clear(0), [11, 12]);
    assert!(leases.is_empty());
    leases.validate();
}

#[test]
fn the_lease_table_shrinks_below_one_eighth_full() {
    let counts: &[u32] = if cfg!(miri) {
        &[80]
    } else {
        &[100, 1_500, 5_000]
    };
    for &count in counts {
        let mut leases = leases_from(SEED);
        for n in 0..count {
            ask_for(&mut leases, &n.to_be_bytes(), 0, MOST);
        }
        for n in 0..count {
            let before = leases.by_key.capacity();
            leases.end(&n.to_be_bytes(), 0);
            let (len, after) = (leases.by_key.len(), leases.by_key.capacity());
            let is_smaller = after + 1 < before;
            // The place that was freed may or may not count as capacity.
            if before <= 64 || len * 8 >= before {
                assert!(!is_smaller, "{len} left");
            } else if len * 8 < before - 1 {
                assert!(is_smaller, "{len} left");
            }
            assert!(!is_smaller || after >= 2 * len, "{len} left: {after}");
        }
        assert!(leases.by_key.capacity() <= 64);
    }
}

#[test]
fn a_caller_waits_only_if_memory_for_it_is_left() {
    let mut leases = leases_from(SEED);
    ask_for(&mut leases, b"key", 0, MOST);
    let caller = Caller {
        client: 2,
        ask: None,
        is_renewal: false,
        is_early: false,
        may_wait: true,
    };
    let mut wait = |waiter, bytes| {
        let room = Used { bytes, ..MOST };
        let terms = Terms { room, ..terms(0) };
        leases.wait(b"key", waiter, caller, terms).is_some()
    };
    let one = LEASE_BYTES + "key".len() + WAITER_BYTES;
    assert!(!wait(1, one - 1));
    assert!(wait(1, one));
    assert!(!wait(2, one + WAITER_BYTES - 1));
    assert!(wait(2, one + WAITER_BYTES));
}

#[test]
fn a_lease_passes_to_the_first_waiter_with_an_unused_token() {
    let mut leases = leases_from(SEED);
    let ask = |token| Ask { ms: 100, token };
    let chosen = Some(7);
    assert_eq!(leases.ask(b"key", 1, ask(chosen), terms(0)), chosen);
    leases.end(b"key", 0);
    let current = Some(8);
    assert_eq!(leases.ask(b"key", 1, ask(current), terms(0)), current);
    // A waiter whose token was used up, the holder itself once more, and a waiter with its own token.
    let own = Some(9);
    for (waiter, token) in [(11, chosen), (12, current), (13, own)] {
        let caller = Caller {
            client: waiter,
            ask: Some(ask(token)),
            is_renewal: false,
            is_early: false,
            may_wait: true,
        };
        assert!(leases.wait(b"key", waiter, caller, terms(0)).is_some());
    }
    let late = terms(100);
    assert_eq!(
        leases.serve(b"key", 11, Freshness::Stale, late),
        Answer::Wait,
        "others can have it"
    );
    assert_eq!(leases.pass_on(b"key", late), [(12, current)]);
    leases.end(b"key", 100);
    let served = leases.serve(b"key", 13, Freshness::Stale, late);
    assert_eq!(served, Answer::Stale(own));
    let served = leases.serve(b"key", 11, Freshness::Stale, terms(300));
    assert_eq!(served, Answer::Stale(None));
    leases.validate();
}
