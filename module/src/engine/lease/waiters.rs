//! Callers that wait for the holder of a lease, in the order in which they came.

use std::collections::VecDeque;
use std::rc::Rc;

use super::{
    Answer, Caller, Client, Freshness, Key, Lease, Leases, NOBODY, Released, Terms, WAITER_BYTES,
    Waiter, Waiting,
};

impl Leases {
    /// The reply to a waiter after its key was written. If the value is already gone or stale and nobody loads the key,
    /// this waiter is next, or the first behind it that wants to load. O(its place in the line).
    pub(crate) fn serve(
        &mut self,
        key: &[u8],
        waiter: Waiter,
        found: Freshness,
        terms: Terms,
    ) -> Answer {
        if found == Freshness::Fresh {
            self.leave(key, waiter);
            return Answer::Hit(None);
        }
        let Some(lease) = self.by_key.get(key) else {
            return Answer::Wait;
        };
        let mut line = lease.waiters.iter();
        let Some(waiting) = (!lease.is_held(terms.now_ms))
            .then(|| line.find(|w| w.waiter == waiter).copied())
            .flatten()
        else {
            return Answer::Wait;
        };
        if !self.wants_lease(lease, waiting) && self.next_in_line(lease).is_some() {
            return Answer::Wait;
        }
        let Caller { client, ask, .. } = waiting.caller;
        let token = ask.and_then(|ask| self.ask(key, client, ask, terms));
        self.leave(key, waiter);
        match found {
            Freshness::Stale => Answer::Stale(token),
            _ => Answer::Miss(token),
        }
    }

    /// Adds a caller that waits for the holder of the key's lease, and returns the key as it is stored. If nobody holds
    /// a lease or there is no room, does nothing and returns `None`. O(log leases).
    pub(crate) fn wait(
        &mut self,
        key: &[u8],
        waiter: Waiter,
        caller: Caller,
        terms: Terms,
    ) -> Option<Key> {
        if !self.is_held(key, terms.now_ms) || self.used().bytes + WAITER_BYTES > terms.room.bytes {
            return None;
        }
        let waiting = Waiting { waiter, caller };
        self.change(key, |lease| lease.waiters.push_back(waiting));
        self.by_key
            .get_key_value(key)
            .map(|(key, _)| Rc::clone(key))
    }

    /// Forgets a caller that no longer waits. O(its place in the line).
    pub(crate) fn leave(&mut self, key: &[u8], waiter: Waiter) {
        let Some(lease) = self.by_key.get(key) else {
            return;
        };
        let Some(at) = lease.waiters.iter().position(|w| w.waiter == waiter) else {
            return;
        };
        if lease.token == NOBODY && lease.waiters.len() == 1 {
            self.remove(key, 0);
        } else {
            self.change(key, |lease| _ = lease.waiters.remove(at));
        }
    }

    /// Callers that wait for a key, with their connections.
    pub(crate) fn waiters(&self, key: &[u8]) -> impl Iterator<Item = (Waiter, Client)> {
        let lines = self.by_key.get(key).map(|lease| &lease.waiters);
        lines
            .into_iter()
            .flatten()
            .map(|w| (w.waiter, w.caller.client))
    }

    pub(crate) fn is_awaited(&self, key: &[u8]) -> bool {
        self.waiters(key).next().is_some()
    }

    /// Whether the waiter may be given the lease.
    fn wants_lease(&self, lease: &Lease, waiting: Waiting) -> bool {
        waiting.caller.ask.is_some_and(|ask| {
            ask.token
                .is_none_or(|token| token == lease.token || !self.tokens.is_used(&lease.key, token))
        })
    }

    /// The first waiting caller that may be given the lease.
    fn next_in_line(&self, lease: &Lease) -> Option<Waiting> {
        let mut line = lease.waiters.iter().copied();
        line.find(|&waiting| self.wants_lease(lease, waiting))
    }

    /// If nobody holds the lease of a key but callers wait for it, the first of them that asked for a lease gets it,
    /// and the others wait for that one. If none asked for a lease, all of them stop waiting. O(waiters).
    pub(crate) fn pass_on(&mut self, key: &[u8], terms: Terms) -> Vec<Released> {
        let Some(lease) = self.by_key.get(key) else {
            return Vec::new();
        };
        if lease.is_held(terms.now_ms) || lease.waiters.is_empty() {
            return Vec::new();
        }
        if let Some(next) = self.next_in_line(lease)
            && let Some(ask) = next.caller.ask
        {
            let token = self.ask(key, next.caller.client, ask, terms);
            self.leave(key, next.waiter);
            return vec![(next.waiter, token)];
        }
        let released = self
            .waiters(key)
            .map(|(waiter, _)| (waiter, None))
            .collect();
        if lease.token == NOBODY {
            self.remove(key, terms.now_ms);
        } else {
            self.change(key, |lease| lease.waiters = VecDeque::new());
        }
        released
    }

    /// The next lease to end that callers wait for: its end and its key. The end lies in the past if the lease is over
    /// and its callers were not served yet: then it is to be passed on.
    pub(crate) fn next_due(&self) -> Option<&(u64, Key)> {
        self.rows.awaited.first()
    }
}
