//! Who may load what, and who waits for it.
//!
//! A *lease* is the right to load one key, given to one caller at a time: "leases" as in Nishtala et al., *Scaling
//! Memcache at Facebook*, NSDI 2013. It solves two problems. Of many callers that miss the same key, one loads and the
//! others wait. And what was read from the database before an invalidation is not cached after it: the lease remembers
//! when it was granted, by the database's clock, and a write under it is refused if any of its tags was invalidated
//! since ([`super::database`]).
//!
//! A lease that has run out can be taken over by another caller. Until that happens its holder may still write: late,
//! but nothing newer is lost. Leases are remembered for that for [`REMEMBER_MS`], then forgotten; a write under a lease
//! that is not known is refused, which is always safe.
//!
//! All of this is the node's own, neither persisted nor replicated. Times are monotonic milliseconds.
//!
//! # Invariants ([`Leases::validate`])
//! 1. Every lease but those of nobody stands in `ends` under its token; other rows there are of leases that are over.
//! 2. `waiting` is the number of waiters in all leases.
//! 3. `awaited` holds the leases that have waiters, those of nobody as well.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};

use ahash::RandomState;

/// How long after it ran out a lease is remembered.
pub(crate) const REMEMBER_MS: u64 = 60_000;

/// At most so many leases are remembered; beyond, those that end first are forgotten.
pub(crate) const MAX_LEASES: usize = 100_000;

/// A lease, as its holder knows it: opaque, positive, and exact as a JavaScript number.
pub(crate) type Token = u64;
const TOKEN_BITS: u32 = 53;

/// Stands for the holder of a lease that is over, while callers still wait there.
const NOBODY: Token = 0;

/// A caller that waits, as the shell knows it.
pub(crate) type Waiter = u64;

#[derive(Debug)]
struct Lease {
    token: Token,
    /// The database's clock when it was granted.
    clock: u64,
    ends_ms: u64,
    waiters: VecDeque<Waiting>,
    /// It stands in `awaited`.
    is_watched: bool,
}

/// The keys that callers wait for, by the time at which the lease runs out, or was over.
type Awaited = BTreeSet<(u64, Box<[u8]>)>;

impl Lease {
    fn watch(&mut self, key: &[u8], awaited: &mut Awaited) {
        if !self.is_watched && !self.waiters.is_empty() {
            awaited.insert((self.ends_ms, key.into()));
            self.is_watched = true;
        }
    }

    fn unwatch(&mut self, key: &[u8], awaited: &mut Awaited) {
        if self.is_watched {
            awaited.remove(&(self.ends_ms, key.into()));
            self.is_watched = false;
        }
    }

    /// It is over, and nobody holds it.
    fn end(&mut self, key: &[u8], now_ms: u64, awaited: &mut Awaited) {
        self.unwatch(key, awaited);
        self.token = NOBODY;
        self.ends_ms = now_ms;
        self.watch(key, awaited);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    waiter: Waiter,
    /// The lease that it asked for itself; `None` if it only waits for the value.
    lease_ms: Option<u64>,
}

/// What a caller that found nothing gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    /// It holds the lease now.
    Lease(Token),
    /// Another caller holds it.
    Taken,
    /// There are too many leases.
    Refused,
}

/// A waiter that has waited enough: it holds the lease now, or (`None`) nobody loads any more and it did not ask for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Released {
    pub(crate) waiter: Waiter,
    pub(crate) token: Option<Token>,
}

/// When which lease of which key is forgotten.
type End = (u64, Token, Box<[u8]>);

/// All leases of a database.
#[derive(Debug)]
pub(crate) struct Leases {
    by_key: HashMap<Box<[u8]>, Lease, RandomState>,
    /// When each one is forgotten.
    ends: BinaryHeap<Reverse<End>>,
    awaited: Awaited,
    waiting: usize,
    /// State of the generator of tokens.
    seed: u64,
}

impl Default for Leases {
    fn default() -> Self {
        Self::new(RandomState::new().hash_one(0_u8))
    }
}

impl Leases {
    /// With a seed that should differ from start to start, so that tokens of an earlier one are not met again.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            by_key: HashMap::default(),
            ends: BinaryHeap::new(),
            awaited: Awaited::new(),
            waiting: 0,
            seed,
        }
    }

    /// A token that nobody can have: Steele et al., *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014.
    fn next_token(&mut self) -> Token {
        loop {
            self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = self.seed;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let token = (mixed ^ (mixed >> 31)) >> (u64::BITS - TOKEN_BITS);
            if token != NOBODY {
                return token;
            }
        }
    }

    /// Asks for the lease of a key for `lease_ms`. O(1).
    pub(crate) fn ask(&mut self, key: &[u8], clock: u64, now_ms: u64, lease_ms: u64) -> Grant {
        match self.by_key.get(key) {
            Some(lease) if lease.ends_ms > now_ms => Grant::Taken,
            _ => self
                .grant(key, clock, now_ms, lease_ms)
                .map_or(Grant::Refused, Grant::Lease),
        }
    }

    /// Whether somebody holds the lease of a key.
    pub(crate) fn is_held(&self, key: &[u8], now_ms: u64) -> bool {
        self.by_key
            .get(key)
            .is_some_and(|lease| lease.ends_ms > now_ms)
    }

    /// Whether some caller that waits for a key wants its lease.
    pub(crate) fn has_heir(&self, key: &[u8]) -> bool {
        self.by_key
            .get(key)
            .is_some_and(|lease| lease.waiters.iter().any(|w| w.lease_ms.is_some()))
    }

    /// When the next lease runs out that callers wait for; in the past where one is over and they were not told yet.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.awaited.first().map(|&(ends_ms, _)| ends_ms)
    }

    /// The key of a lease that has run out while callers wait for it: to be passed on.
    pub(crate) fn due(&self, now_ms: u64) -> Option<Box<[u8]>> {
        let (ends_ms, key) = self.awaited.first()?;
        (*ends_ms <= now_ms).then(|| key.clone())
    }

    /// Gives a key a new lease, whose waiters are those of the old one.
    fn grant(&mut self, key: &[u8], clock: u64, now_ms: u64, lease_ms: u64) -> Option<Token> {
        if self.by_key.len() >= MAX_LEASES && !self.by_key.contains_key(key) && !self.make_room() {
            return None;
        }
        let token = self.next_token();
        let ends_ms = now_ms.saturating_add(lease_ms);
        let lease = Lease {
            token,
            clock,
            ends_ms,
            waiters: VecDeque::new(),
            is_watched: false,
        };
        if let Some(mut old) = self.by_key.insert(key.into(), lease)
            && let Some(new) = self.by_key.get_mut(key)
        {
            old.unwatch(key, &mut self.awaited);
            new.waiters = old.waiters;
            new.watch(key, &mut self.awaited);
        }
        let forgotten_ms = ends_ms.saturating_add(REMEMBER_MS);
        self.ends.push(Reverse((forgotten_ms, token, key.into())));
        Some(token)
    }

    /// Forgets the lease that would be forgotten first. False if somebody waits for it.
    fn make_room(&mut self) -> bool {
        while let Some(Reverse((_, token, key))) = self.ends.peek() {
            match self.by_key.get(key).filter(|lease| lease.token == *token) {
                Some(lease) if !lease.waiters.is_empty() => return false,
                Some(_) => {
                    if let Some(Reverse((_, _, key))) = self.ends.pop() {
                        self.by_key.remove(&key);
                    }
                    return true;
                }
                None => {
                    self.ends.pop();
                }
            }
        }
        true
    }

    /// The clock at which the key's lease was granted, if this is the last one that was.
    pub(crate) fn granted_at(&self, key: &[u8], token: Token) -> Option<u64> {
        let lease = self.by_key.get(key)?;
        (token != NOBODY && lease.token == token).then_some(lease.clock)
    }

    /// Adds a caller that waits for the holder of the key's lease. O(1), and O(log leases) for the first.
    pub(crate) fn wait(&mut self, key: &[u8], waiter: Waiter, lease_ms: Option<u64>) {
        if let Some(lease) = self.by_key.get_mut(key) {
            lease.waiters.push_back(Waiting { waiter, lease_ms });
            lease.watch(key, &mut self.awaited);
            self.waiting += 1;
        }
    }

    /// Forgets a caller that waits no longer. O(its place in the line).
    pub(crate) fn leave(&mut self, key: &[u8], waiter: Waiter) {
        let Some(lease) = self.by_key.get_mut(key) else {
            return;
        };
        let Some(at) = lease.waiters.iter().position(|w| w.waiter == waiter) else {
            return;
        };
        lease.waiters.remove(at);
        self.waiting -= 1;
        if lease.waiters.is_empty() {
            lease.unwatch(key, &mut self.awaited);
            if lease.token == NOBODY {
                self.by_key.remove(key);
            }
        }
    }

    /// Ends the lease of a key: it was written, or removed, or its holder gave up. O(1). True if callers wait for it.
    ///
    /// They stay in line: of a key that was written the server tells them, and they leave; otherwise
    /// [`Leases::pass_on`] says who is next.
    pub(crate) fn end(&mut self, key: &[u8], now_ms: u64) -> bool {
        let Some(lease) = self.by_key.get_mut(key) else {
            return false;
        };
        let is_awaited = !lease.waiters.is_empty();
        if is_awaited {
            lease.end(key, now_ms, &mut self.awaited);
        } else {
            self.by_key.remove(key);
        }
        self.tidy();
        is_awaited
    }

    /// The holder gives its lease back: whether it still held it. Then [`Leases::pass_on`] says who is next. O(1).
    pub(crate) fn release(&mut self, key: &[u8], token: Token, now_ms: u64) -> bool {
        match self.by_key.get(key) {
            Some(lease) if token != NOBODY && lease.token == token => {
                let was_held = lease.ends_ms > now_ms;
                self.end(key, now_ms);
                was_held
            }
            _ => false,
        }
    }

    /// Where nobody holds the lease of a key but callers wait for it: the first of them that asked for a lease gets it,
    /// and the others go on waiting, for that one. If none of them asked for one, they all wait for nothing. O(waiters)
    pub(crate) fn pass_on(&mut self, key: &[u8], clock: u64, now_ms: u64) -> Vec<Released> {
        let Some(lease) = self.by_key.get_mut(key) else {
            return Vec::new();
        };
        if lease.ends_ms > now_ms || lease.waiters.is_empty() {
            return Vec::new();
        }
        let heir = lease.waiters.iter().position(|w| w.lease_ms.is_some());
        let heir = heir.and_then(|at| lease.waiters.remove(at));
        if let Some(Waiting { waiter, lease_ms }) = heir {
            self.waiting -= 1;
            let granted = self.grant(key, clock, now_ms, lease_ms.unwrap_or(0));
            return vec![Released {
                waiter,
                token: granted,
            }];
        }
        let waiters = std::mem::take(&mut lease.waiters);
        lease.unwatch(key, &mut self.awaited);
        self.waiting -= waiters.len();
        if lease.token == NOBODY {
            self.by_key.remove(key);
        }
        let free = |w: Waiting| Released {
            waiter: w.waiter,
            token: None,
        };
        waiters.into_iter().map(free).collect()
    }

    /// Ends all leases; [`Leases::pass_on`] says for each of the keys returned who is next. O(leases).
    pub(crate) fn end_all(&mut self, now_ms: u64) -> Vec<Box<[u8]>> {
        self.by_key.retain(|_, lease| !lease.waiters.is_empty());
        let mut awaited = Vec::with_capacity(self.by_key.len());
        for (key, lease) in &mut self.by_key {
            lease.end(key, now_ms, &mut self.awaited);
            awaited.push(key.clone());
        }
        self.tidy();
        awaited
    }

    /// Ends all leases and returns those who waited.
    pub(crate) fn clear(&mut self) -> Vec<Waiter> {
        let leases = std::mem::take(&mut self.by_key).into_values();
        self.ends = BinaryHeap::new();
        self.awaited = Awaited::new();
        self.waiting = 0;
        leases
            .flat_map(|lease| lease.waiters.into_iter().map(|w| w.waiter))
            .collect()
    }

    /// Forgets leases that ran out long ago, `limit` at most.
    pub(crate) fn forget(&mut self, now_ms: u64, limit: usize) {
        for _ in 0..limit {
            let due = self
                .ends
                .peek()
                .is_some_and(|Reverse((at, ..))| *at <= now_ms);
            let Some(Reverse((_, token, key))) = due.then(|| self.ends.pop()).flatten() else {
                break;
            };
            match self.by_key.get_mut(&key) {
                Some(lease) if lease.token != token => {}
                Some(lease) if !lease.waiters.is_empty() => lease.token = NOBODY,
                _ => {
                    self.by_key.remove(&key);
                }
            }
        }
        self.tidy();
    }

    /// Gives memory back: rows of leases that are over, and room that many leases left behind.
    fn tidy(&mut self) {
        const FEW: usize = 64;
        if self.ends.len() > FEW && self.ends.len() > 2 * self.by_key.len() {
            let by_key = &self.by_key;
            self.ends.retain(|Reverse((_, token, key))| {
                by_key.get(key).is_some_and(|lease| lease.token == *token)
            });
            self.ends.shrink_to(2 * self.ends.len());
        }
        if self.by_key.capacity() > FEW && self.by_key.len() * 8 < self.by_key.capacity() {
            self.by_key.shrink_to(2 * self.by_key.len());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Leases that somebody holds. O(leases).
    pub(crate) fn held(&self, now_ms: u64) -> usize {
        let all = self.by_key.values();
        all.filter(|lease| lease.ends_ms > now_ms).count()
    }

    /// Callers that wait.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Bytes on the heap, about: keys are taken for 32 bytes each.
    pub(crate) fn heap_bytes(&self) -> usize {
        const KEY: usize = 32;
        self.by_key.capacity() * (size_of::<(Box<[u8]>, Lease)>() + 1)
            + self.ends.capacity() * size_of::<End>()
            + self.awaited.len() * size_of::<End>()
            + (self.by_key.len() + self.ends.len() + self.awaited.len()) * KEY
            + self.waiting * size_of::<Waiting>()
    }
}

#[cfg(test)]
impl Leases {
    pub(crate) fn validate(&self) {
        let rows = |key: &[u8], token| {
            let mut rows = self.ends.iter();
            rows.any(|Reverse((_, t, k))| *t == token && **k == *key)
        };
        let mut waiting = 0;
        for (key, lease) in &self.by_key {
            if lease.token == NOBODY {
                assert!(!lease.waiters.is_empty());
            } else {
                assert!(rows(key, lease.token), "invariant 1");
            }
            waiting += lease.waiters.len();
        }
        assert_eq!(self.waiting, waiting, "invariant 2");
        let mut awaited = Awaited::new();
        for (key, lease) in &self.by_key {
            if !lease.waiters.is_empty() {
                awaited.insert((lease.ends_ms, key.clone()));
            }
        }
        assert_eq!(self.awaited, awaited, "invariant 3");
        assert!(self.by_key.len() <= MAX_LEASES);
    }
}
