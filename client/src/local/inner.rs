//! How entries come and go. Nothing here drops a value, or calls code of the user's, while it holds a lock.

use std::{cell::Cell, sync::Arc, time::Duration};

use quick_cache::{DefaultHashBuilder, Lifecycle};
use smallvec::SmallVec;

use super::{
    bounds::{Bounds, ENTRY_BYTES, MAX_WEIGHT, TAG_BYTES},
    builder::Weigher,
    cleanup::Cleaner,
    clock::{Clock, nanos},
    flights::{Flights, Ticket, are_unchanged_since},
    hits::{Hits, Word},
    marks::Marks,
    report::Report,
    stats::Counters,
    stored::{ByKey, Check, Found, Fresh, Freshness, Gone, Handle, HitRules, Servable, Stored},
    sync::{AtomicU64, Mutex, Ordering, unpoisoned},
    tags::{TagSet, TagTable},
    tracker::Tracker,
};
use crate::Entry;

/// What one cache is; a [`LocalCache`](super::LocalCache) is a reference to it.
pub(super) struct Inner<V> {
    pub(super) entries:
        quick_cache::sync::Cache<Handle, Arc<V>, Bounds, DefaultHashBuilder, Leaving>,
    /// Invalidations of everything.
    pub(super) all: Marks,
    pub(super) tracker: Tracker,
    pub(super) report: Report,
    pub(super) clock: Clock,
    pub(super) tags: TagTable,
    pub(super) flights: Flights<V>,
    pub(super) counters: Counters,
    pub(super) bounds: Bounds,
    pub(super) weigher: Box<Weigher<V>>,
    pub(super) cleaner: Mutex<Option<Cleaner>>,
}

/// Hands entries that have to leave to whoever made them leave, so that they are dropped without a lock: the Drop
/// of a value may well use the cache.
#[derive(Clone)]
pub(super) struct Leaving;

/// Entries that have left. One or two is the rule: the one that was overwritten and one that was evicted.
pub(super) struct Departures<V>(SmallVec<[(Handle, Arc<V>); 2]>);

impl<V> Default for Departures<V> {
    fn default() -> Self {
        Self(SmallVec::new())
    }
}

impl<V> Lifecycle<Handle, Arc<V>> for Leaving {
    type RequestState = Departures<V>;

    fn on_evict(&self, departures: &mut Departures<V>, handle: Handle, value: Arc<V>) {
        departures.0.push((handle, value));
    }
}

/// An [`Entry`] whose tags have been looked up.
#[derive(Clone)]
pub(super) struct Terms {
    ttl: Duration,
    grace: Duration,
    weight: Option<u64>,
    pub(super) tags: TagSet,
}

impl<V> Inner<V> {
    pub(super) fn check(&self) -> Check<'_> {
        Check {
            clock: &self.clock,
            all: &self.all,
        }
    }

    fn hit_rules(&self) -> HitRules {
        HitRules {
            tracked_above: self.tracker.floor(),
            reporting: self.report.has_room(),
        }
    }

    /// The value if it is fresh; counts a hit or a miss.
    pub(super) fn get(&self, key: &str) -> Option<Arc<V>> {
        let probe = Fresh {
            key,
            check: self.check(),
            hit_rules: self.hit_rules(),
            gone: Cell::new(false),
            notable: Cell::new(None),
        };
        let value = self.entries.get(&probe);
        if value.is_some() {
            self.counters.hit();
            if let Some(handle) = probe.notable.take() {
                self.note(&handle);
            }
        } else {
            self.counters.miss();
            if probe.gone.get() {
                self.reclaim(key.as_bytes());
            }
        }
        value
    }

    /// The value if it is fresh or stale, and which; counts a hit if it is fresh, else a miss.
    pub(super) fn look_up(&self, key: &str) -> Option<(Arc<V>, Found)> {
        let probe = Servable::new(key, self.check(), Some(self.hit_rules()));
        let value = self.entries.get(&probe);
        if let Some(handle) = probe.notable.take() {
            self.note(&handle);
        }
        if probe.gone.get() {
            self.reclaim(key.as_bytes());
        }
        let found = value.zip(probe.found.get());
        match &found {
            Some((_, found)) if found.freshness == Freshness::Fresh => self.counters.hit(),
            _ => self.counters.miss(),
        }
        found
    }

    /// The value if it is fresh; counts nothing.
    pub(super) fn peek(&self, key: &str) -> Option<Arc<V>> {
        let (value, found) = self.peek_servable(key)?;
        (found.freshness == Freshness::Fresh).then_some(value)
    }

    /// The value if it is fresh or stale, and which; counts nothing.
    pub(super) fn peek_servable(&self, key: &str) -> Option<(Arc<V>, Found)> {
        let probe = Servable::new(key, self.check(), None);
        let value = self.entries.peek(&probe)?;
        Some((value, probe.found.get()?))
    }

    /// What is known of the entry, if it is fresh or stale; counts nothing.
    pub(super) fn inspect(&self, key: &str) -> Option<Found> {
        let probe = Servable::new(key, self.check(), None);
        self.entries.contains_key(&probe);
        probe.found.get()
    }

    #[cold]
    fn note(&self, handle: &Handle) {
        let word = handle.stored().hits.read();
        if !word.is_tracked() && word.count() > self.tracker.floor() {
            self.tracker.offer(handle);
        }
        if !word.is_queued() {
            self.report.note(handle);
        }
    }

    pub(super) fn terms<T>(&self, entry: Entry<T>) -> Terms
    where
        T: IntoIterator<Item: AsRef<str>>,
    {
        Terms {
            ttl: entry.ttl,
            grace: entry.grace,
            weight: entry.weight,
            tags: self.tags.intern(entry.tags),
        }
    }

    /// Stores a value, whatever was there before.
    pub(super) fn set(&self, key: &str, value: Arc<V>, terms: Terms) {
        if terms.ttl.is_zero() {
            self.take(key);
            return;
        }
        // After the tags were looked up: a tag that is new to the table counts as invalidated some time ago, but not
        // later than now.
        let stamp = self.tags.epoch();
        let handle = self.describe(key, &value, stamp, terms);
        let flight = self.flights.overtake(key, &self.tags);
        let departures = self.place(&handle, value);
        drop(flight);
        self.settle(&handle, &departures);
    }

    /// Stores a value that was loaded, unless something has overtaken it. Whether it was stored.
    pub(super) fn fill(&self, ticket: &Ticket, value: Arc<V>, terms: Terms) -> bool {
        if terms.ttl.is_zero() {
            return false;
        }
        let handle = self.describe(&ticket.key, &value, ticket.stamp, terms);
        let flight = self.flights.shard(&ticket.key);
        // The marks are looked at again by each read, so an invalidation that comes right after this is obeyed too.
        if !flight.is_current(ticket)
            || !self.all.is_unchanged_since(ticket.stamp)
            || !are_unchanged_since(&handle.stored().tags, ticket.stamp)
        {
            return false;
        }
        let departures = self.place(&handle, value);
        drop(flight);
        self.settle(&handle, &departures);
        true
    }

    fn describe(&self, key: &str, value: &V, stamp: u64, terms: Terms) -> Handle {
        let weight = terms
            .weight
            .unwrap_or_else(|| (self.weigher)(key, value))
            .saturating_add(ENTRY_BYTES + key.len() as u64 + TAG_BYTES * terms.tags.len() as u64)
            .min(MAX_WEIGHT);
        Handle::new(
            key,
            Stored {
                stamp,
                expires: self.clock.now().saturating_add(nanos(terms.ttl)),
                grace: nanos(terms.grace),
                weight,
                hits: Hits::default(),
                reported: AtomicU64::new(0),
                tags: terms.tags,
            },
        )
    }

    fn place(&self, handle: &Handle, value: Arc<V>) -> Departures<V> {
        // Before it is in, because it may be out again before this thread goes on.
        self.counters
            .bytes
            .fetch_add(handle.stored().weight, Ordering::Relaxed);
        let mut departures = Departures::default();
        self.entries
            .insert_with_lifecycle(handle.clone(), value, &mut departures);
        // A key that is known from before takes the place that it had, or that those have which came back, and may be
        // the first to leave it: at once, where a shard holds few entries. Evicted as a resident it is still known,
        // evicted after a return it is not; and a newcomer does not leave at once, unless it is too heavy.
        for _ in 0..2 {
            let Some(index) = departures.0.iter().position(|(left, _)| left.is(handle)) else {
                break;
            };
            let (handle, value) = departures.0.swap_remove(index);
            self.entries
                .insert_with_lifecycle(handle, value, &mut departures);
        }
        departures
    }

    /// Does the books after `placed` was put in.
    fn settle(&self, placed: &Handle, departures: &Departures<V>) {
        let mut is_known = false;
        let mut placing = &self.counters.insertions;
        for (handle, _) in &departures.0 {
            if handle.is(placed) {
                placing = &self.counters.rejected;
                self.retire(handle);
            } else if handle == placed {
                is_known = true;
                self.succeed(handle, placed);
            } else {
                self.count_departure(handle);
                self.retire(handle);
            }
        }
        placing.fetch_add(1, Ordering::Relaxed);
        if !is_known {
            self.tracker.arrive(placed);
        }
    }

    /// `old` was overwritten by `new`, which goes on with its hits.
    fn succeed(&self, old: &Handle, new: &Handle) {
        let word = self.leave(old);
        if word.is_tracked() {
            self.tracker.succeed(old, word.count(), new);
        } else if word.count() != 0 {
            let word = new.stored().carry(word.count());
            if !word.is_tracked() && word.count() > self.tracker.floor() {
                self.tracker.offer(new);
            }
        }
    }

    /// The entry is no longer in the cache and nothing takes its place.
    fn retire(&self, handle: &Handle) {
        if self.leave(handle).is_tracked() {
            self.tracker.depart(handle);
        }
    }

    fn leave(&self, handle: &Handle) -> Word {
        self.counters
            .bytes
            .fetch_sub(handle.stored().weight, Ordering::Relaxed);
        handle.stored().hits.retire()
    }

    /// Counts why an entry left that nobody asked to leave.
    fn count_departure(&self, handle: &Handle) {
        let stored = handle.stored();
        let counter = match stored.freshness(self.clock.now(), &self.all) {
            Freshness::Fresh | Freshness::StaleUntil(_) => &self.counters.evictions,
            Freshness::Gone if stored.is_invalidated(&self.all) => &self.counters.invalidated,
            Freshness::Gone => &self.counters.expirations,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the entry out, whatever its state: the value if it was fresh. What is being loaded for it is not stored.
    pub(super) fn take(&self, key: &str) -> Option<Arc<V>> {
        let flight = self.flights.overtake(key, &self.tags);
        let taken = self.entries.remove(&ByKey(key));
        drop(flight);
        let (handle, value) = taken?;
        let is_fresh = handle.stored().is_fresh(&self.clock, &self.all);
        self.retire(&handle);
        is_fresh.then_some(value)
    }

    /// Takes the entry out if nobody may be served with it any more. Whether it was so.
    fn reclaim(&self, key: &[u8]) -> bool {
        let gone = Gone {
            key,
            check: self.check(),
        };
        let Some((handle, _value)) = self.entries.remove(&gone) else {
            return false;
        };
        self.count_departure(&handle);
        self.retire(&handle);
        true
    }

    /// Reclaims all that can be, until `is_stopped`: how many entries.
    pub(super) fn clean(&self, is_stopped: impl Fn() -> bool) -> u64 {
        /// Entries between two questions whether to stop: some ten microseconds.
        const STRIDE: u64 = 256;

        let begin = self.clock.now();
        let mut now = begin;
        self.tracker.begin_cleanup();
        let (mut seen, mut reclaimed) = (0_u64, 0);
        // Locks for one entry at a time. A scan of a whole shard would be faster, and hold up all who use the shard.
        for (handle, value) in self.entries.iter() {
            // It may be the last reference, and no lock is held now.
            drop(value);
            seen += 1;
            if seen.is_multiple_of(STRIDE) {
                if is_stopped() {
                    break;
                }
                now = self.clock.now();
            }
            let stored = handle.stored();
            if stored.freshness(now, &self.all) == Freshness::Gone {
                reclaimed += u64::from(self.reclaim(handle.key_bytes()));
            } else if stored.hits.read().count() > self.tracker.floor() {
                self.tracker.offer(&handle);
            }
        }
        self.tags.purge();
        let took = self.clock.now() - begin;
        self.counters
            .longest_cleanup
            .fetch_max(took, Ordering::Relaxed);
        reclaimed
    }
}

impl<V> Drop for Inner<V> {
    fn drop(&mut self) {
        if let Some(cleaner) = unpoisoned(self.cleaner.lock()).take() {
            cleaner.signal();
        }
    }
}
