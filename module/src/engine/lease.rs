//! Leases: the right to load a key, and the callers that wait for its value.
//!
//! A *lease* is the right to load one key, given to one caller at a time: "leases" as in Nishtala et al., *Scaling
//! Memcache at Facebook*, NSDI 2013.
//!
//! A lease that has run out can be taken over by another caller. Until that happens its holder may still write: late,
//! but nothing newer is lost. For that, leases are remembered for [`REMEMBER_MS`], then forgotten; a write under an
//! unknown lease is refused, which is always safe.
//!
//! Leases belong to the node: they are neither persisted nor replicated. Times are monotonic milliseconds.
//!
//! # Invariants (`Leases::validate` asserts them)
//! 1. The rows are those of the leases in `by_key`: by the time at which each is forgotten, by holder, and by the end
//!    of those that callers wait for.
//! 2. `waiting` is the number of waiters in all leases, `key_bytes` the length of all keys.
//! 3. A lease that nobody holds has waiters.

mod waiters;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use super::index::Freshness;
use super::seeds::Seeded;
pub(crate) use super::token::Token;
use super::token::Tokens;

/// The most that leases may use in all databases together. They cannot be evicted, so the bound is small compared with
/// the `maxmemory` of any cache, and does not depend on it. 100,000 leases of keys of 250 bytes fit.
pub(crate) const MOST: Used = Used {
    leases: 100_000,
    bytes: 64 << 20,
};

/// Bytes of a lease without its key, and of a waiter, about: their rows, with the tables' free room.
const LEASE_BYTES: usize = 384;
const WAITER_BYTES: usize = 192;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) leases: usize,
    pub(crate) bytes: usize,
}

impl Used {
    pub(crate) const fn without(self, other: Self) -> Self {
        Self {
            leases: self.leases.saturating_sub(other.leases),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// Whether less than half of [`MOST`] would be left without `other`.
    pub(crate) const fn is_below_half_without(self, other: Self) -> bool {
        let left = self.without(other);
        left.leases < MOST.leases / 2 || left.bytes < MOST.bytes / 2
    }
}

/// The time for which a lease is remembered after it ran out.
pub(crate) const REMEMBER_MS: u64 = 60_000;

/// Stands for the holder of a lease that is over while callers still wait for it.
const NOBODY: Token = 0;

/// The connection of a caller, as the shell knows it.
pub(crate) type Client = u64;
/// Stands for the connection of a lease that belongs to no connection.
const NO_CLIENT: Client = 0;

/// A caller that waits, as the shell knows it.
pub(crate) type Waiter = u64;

/// A key, stored once and shared by all that refer to it.
pub(crate) type Key = Rc<[u8]>;

/// The lease that a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) ms: u64,
    /// The token that the caller chose.
    pub(crate) token: Option<Token>,
}

impl Ask {
    fn ends_ms(self, terms: Terms) -> u64 {
        terms.now_ms.saturating_add(self.ms.min(terms.max_ms))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) client: Client,
    pub(crate) ask: Option<Ask>,
    /// The caller only renews a lease that it has: see [`Leases::renew`].
    pub(crate) is_renewal: bool,
    /// The caller asks for the lease of a fresh value too.
    pub(crate) is_early: bool,
    pub(crate) may_wait: bool,
}

/// The terms on which leases are granted at this moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// The database's clock.
    pub(crate) clock: u64,
    pub(crate) now_ms: u64,
    /// The longest duration of a lease.
    pub(crate) max_ms: u64,
    /// The room that the leases of this database may use.
    pub(crate) room: Used,
}

/// The reply to a caller of CACHE.FETCH, with the token if the caller holds the lease now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Hit(Option<Token>),
    Stale(Option<Token>),
    Miss(Option<Token>),
    /// No reply yet: the caller waits.
    Wait,
}

#[derive(Debug)]
struct Lease {
    key: Key,
    token: Token,
    holder: Client,
    /// The database's clock at the first grant.
    clock: u64,
    ends_ms: u64,
    /// Its holder has ended it, or is about to: its token may be granted again.
    is_settled: bool,
    waiters: VecDeque<Waiting>,
}

impl Lease {
    fn is_held(&self, now_ms: u64) -> bool {
        self.ends_ms > now_ms
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    waiter: Waiter,
    /// Has an `ask` if the caller does not only wait for the value.
    caller: Caller,
}

/// A waiter whose wait is over: it holds the lease now, or (`None`) nobody loads any more and it asked for no lease.
pub(crate) type Released = (Waiter, Option<Token>);

/// Keys sorted by a number.
type Row = BTreeSet<(u64, Key)>;

/// The orders in which leases are looked up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rows {
    /// By the time at which each is forgotten: all leases that have a holder.
    forget: Row,
    /// By holder: the leases that belong to a connection.
    holders: Row,
    /// By the time of the end, past or future: the leases that callers wait for.
    awaited: Row,
}

impl Rows {
    /// The rows that contain the lease, with its number in each.
    fn of(&mut self, lease: &Lease) -> [Option<(&mut Row, u64)>; 3] {
        let is_held = lease.token != NOBODY;
        let forget_ms = lease.ends_ms.saturating_add(REMEMBER_MS);
        [
            is_held.then_some((&mut self.forget, forget_ms)),
            (lease.holder != NO_CLIENT).then_some((&mut self.holders, lease.holder)),
            (!lease.waiters.is_empty()).then_some((&mut self.awaited, lease.ends_ms)),
        ]
    }

    fn add(&mut self, lease: &Lease) {
        for (row, number) in self.of(lease).into_iter().flatten() {
            row.insert((number, Rc::clone(&lease.key)));
        }
    }

    fn remove(&mut self, lease: &Lease) {
        for (row, number) in self.of(lease).into_iter().flatten() {
            row.remove(&(number, Rc::clone(&lease.key)));
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_key: HashMap<Key, Lease, Seeded>,
    rows: Rows,
    tokens: Tokens,
    waiting: usize,
    key_bytes: usize,
}

impl Leases {
    // ---- decisions ----

    /// Decides the reply to a caller of CACHE.FETCH where the key holds such an entry, or none (`Gone`). After `Wait`
    /// the caller calls [`Leases::wait`]. O(log leases).
    pub(crate) fn fetch(
        &mut self,
        key: &[u8],
        found: Freshness,
        caller: Caller,
        terms: Terms,
    ) -> Answer {
        let ask = |ask| {
            if caller.is_renewal {
                self.renew(key, caller.client, ask, terms)
            } else {
                self.ask(key, caller.client, ask, terms)
            }
        };
        match found {
            Freshness::Fresh => Answer::Hit(caller.ask.filter(|_| caller.is_early).and_then(ask)),
            Freshness::Stale => Answer::Stale(caller.ask.and_then(ask)),
            Freshness::Gone => match caller.ask.and_then(ask) {
                None if caller.may_wait && self.is_held(key, terms.now_ms) => Answer::Wait,
                token => Answer::Miss(token),
            },
        }
    }

    /// Asks for the lease of a key. Returns its token, unless another caller holds it, there are too many leases, or
    /// the token was used before. O(log leases).
    pub(crate) fn ask(
        &mut self,
        key: &[u8],
        client: Client,
        ask: Ask,
        terms: Terms,
    ) -> Option<Token> {
        let renewed = self.renew(key, client, ask, terms);
        if renewed.is_some() {
            return renewed;
        }
        if let Some(lease) = self.by_key.get(key) {
            if lease.is_held(terms.now_ms) {
                return None;
            }
        } else if !self.make_room(LEASE_BYTES + key.len(), terms) {
            return None;
        }
        let is_used = ask
            .token
            .is_some_and(|token| self.tokens.is_used(key, token));
        (!is_used).then(|| self.grant(key, client, ask, terms))
    }

    /// Extends the lease of a key, counted from now, and returns its token, if that is the one given. Grants no lease:
    /// the caller has been loading since its lease was granted, perhaps by a server from which this one took over, and
    /// a new lease would not know what was invalidated meanwhile. O(log leases).
    fn renew(&mut self, key: &[u8], client: Client, ask: Ask, terms: Terms) -> Option<Token> {
        let lease = self.by_key.get(key)?;
        let token = ask.token.filter(|token| *token == lease.token)?;
        self.change(key, |lease| {
            lease.ends_ms = ask.ends_ms(terms);
            lease.holder = client;
        });
        Some(token)
    }

    /// Gives a key a new lease, which takes over the waiters of the old one.
    fn grant(&mut self, key: &[u8], client: Client, ask: Ask, terms: Terms) -> Token {
        let old = self.remove(key, terms.now_ms);
        let (key, waiters) = old.map_or_else(
            || (Key::from(key), VecDeque::new()),
            |old| (old.key, old.waiters),
        );
        let token = ask.token.unwrap_or_else(|| self.tokens.issue());
        self.insert(Lease {
            key,
            token,
            holder: client,
            clock: terms.clock,
            ends_ms: ask.ends_ms(terms),
            is_settled: false,
            waiters,
        });
        token
    }

    /// Makes room for that many bytes more, by forgetting leases that are over. False if that is not enough.
    fn make_room(&mut self, bytes: usize, terms: Terms) -> bool {
        loop {
            let used = self.used();
            if used.leases < terms.room.leases && used.bytes + bytes <= terms.room.bytes {
                return true;
            }
            if !self.forget_over(terms.now_ms) {
                return false;
            }
        }
    }

    /// Forgets the lease that is due first. False if it is held, or callers wait for it.
    pub(crate) fn forget_over(&mut self, now_ms: u64) -> bool {
        let over = self.rows.forget.first().map(|(_, key)| Rc::clone(key));
        let over = over.filter(|key| {
            let lease = self.by_key.get(key);
            lease.is_some_and(|lease| !lease.is_held(now_ms) && lease.waiters.is_empty())
        });
        over.is_some_and(|key| self.remove(&key, now_ms).is_some())
    }

    // ---- leases are inserted, changed and removed only here ----

    fn insert(&mut self, lease: Lease) {
        self.rows.add(&lease);
        self.waiting += lease.waiters.len();
        self.key_bytes += lease.key.len();
        self.by_key.insert(Rc::clone(&lease.key), lease);
    }

    fn change(&mut self, key: &[u8], change: impl FnOnce(&mut Lease)) {
        if let Some(lease) = self.by_key.get_mut(key) {
            self.rows.remove(lease);
            self.waiting -= lease.waiters.len();
            change(lease);
            self.waiting += lease.waiters.len();
            self.rows.add(lease);
        }
    }

    /// Removes a lease with its waiters. Its token is not granted again unless its holder settled the lease.
    fn remove(&mut self, key: &[u8], now_ms: u64) -> Option<Lease> {
        let lease = self.by_key.remove(key)?;
        self.rows.remove(&lease);
        self.waiting -= lease.waiters.len();
        self.key_bytes -= lease.key.len();
        if lease.token != NOBODY && !lease.is_settled {
            self.tokens.retire(key, lease.token, now_ms);
        }
        self.tidy();
        Some(lease)
    }

    /// Releases memory after many leases were removed.
    fn tidy(&mut self) {
        const FEW: usize = 64;
        if self.by_key.capacity() > FEW && self.by_key.len() * 8 < self.by_key.capacity() {
            self.by_key.shrink_to(2 * self.by_key.len());
        }
    }

    // ---- holders ----

    pub(crate) fn is_held(&self, key: &[u8], now_ms: u64) -> bool {
        let lease = self.by_key.get(key);
        lease.is_some_and(|lease| lease.is_held(now_ms))
    }

    /// The clock at which the key's lease was granted, if this token is that of the last lease.
    pub(crate) fn granted_at(&self, key: &[u8], token: Token) -> Option<u64> {
        let lease = self.by_key.get(key)?;
        (token != NOBODY && lease.token == token).then_some(lease.clock)
    }

    /// Ends the lease of a key that was written or removed, or whose holder gave up. True if callers wait for it.
    /// O(log leases).
    ///
    /// The callers stay in line. For a key that was written, the server notifies them, and they leave; otherwise
    /// [`Leases::pass_on`] returns the next in line.
    pub(crate) fn end(&mut self, key: &[u8], now_ms: u64) -> bool {
        let Some(over) = self.remove(key, now_ms) else {
            return false;
        };
        let is_awaited = !over.waiters.is_empty();
        if is_awaited {
            self.insert(Lease {
                token: NOBODY,
                holder: NO_CLIENT,
                ends_ms: now_ms,
                ..over
            });
        }
        is_awaited
    }

    /// The holder has finished with its lease: its value is about to be written, or it gives up.
    pub(crate) fn settle(&mut self, key: &[u8], token: Token) {
        if let Some(lease) = self.by_key.get_mut(key)
            && lease.token == token
        {
            lease.is_settled = true;
        }
    }

    /// Ends the holder's lease, and returns whether it was still held. Then [`Leases::pass_on`] returns the next in
    /// line. O(log leases).
    pub(crate) fn release(&mut self, key: &[u8], token: Token, now_ms: u64) -> bool {
        let was_held = self.is_held(key, now_ms);
        let is_its_own = self.granted_at(key, token).is_some();
        if is_its_own {
            self.end(key, now_ms);
        }
        is_its_own && was_held
    }

    /// Handles a closed connection: up to `limit` of the leases that it took end at `ends_ms` at the latest. True if
    /// these were all. O(limit × log leases).
    pub(crate) fn disconnected(&mut self, client: Client, ends_ms: u64, limit: usize) -> bool {
        let first = (client, Key::default());
        for _ in 0..limit {
            let next = self.rows.holders.range(&first..).next();
            let Some((_, key)) = next.filter(|(holder, _)| *holder == client) else {
                return true;
            };
            let key = Rc::clone(key);
            self.change(&key, |lease| {
                lease.holder = NO_CLIENT;
                lease.ends_ms = lease.ends_ms.min(ends_ms);
            });
        }
        false
    }

    /// Ends all leases, and returns the keys that callers wait for. [`Leases::pass_on`] returns the next in line for
    /// each. O(leases).
    pub(crate) fn end_all(&mut self, now_ms: u64) -> Vec<Key> {
        let mut keys: Vec<Key> = self.by_key.keys().cloned().collect();
        keys.retain(|key| self.end(key, now_ms));
        keys
    }

    /// Ends all leases and returns the callers that waited.
    pub(crate) fn clear(&mut self, now_ms: u64) -> Vec<Waiter> {
        let keys: Vec<Key> = self.by_key.keys().cloned().collect();
        let removed = keys.iter().filter_map(|key| self.remove(key, now_ms));
        removed
            .flat_map(|lease| lease.waiters.into_iter().map(|w| w.waiter))
            .collect()
    }

    /// Forgets leases that ran out long ago, `limit` at most.
    pub(crate) fn forget(&mut self, now_ms: u64, limit: usize) {
        for _ in 0..limit {
            let first = self.rows.forget.first();
            let Some((_, key)) = first.filter(|(at_ms, _)| *at_ms <= now_ms) else {
                break;
            };
            let key = Rc::clone(key);
            self.end(&key, now_ms);
        }
        self.tokens.forget(now_ms, limit);
    }

    // ---- figures ----

    pub(crate) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// The number of leases that are held. O(leases).
    pub(crate) fn held(&self, now_ms: u64) -> usize {
        let all = self.by_key.values();
        all.filter(|lease| lease.is_held(now_ms)).count()
    }

    pub(crate) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// The use that counts against [`MOST`].
    pub(crate) fn used(&self) -> Used {
        Used {
            leases: self.by_key.len(),
            bytes: self.by_key.len() * LEASE_BYTES + self.key_bytes + self.waiting * WAITER_BYTES,
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.used().bytes + self.tokens.heap_bytes()
    }
}

#[cfg(test)]
mod tests;
