//! How entries enter and leave. Nothing here drops a value, or calls user code, while it holds a lock.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use quick_cache::{DefaultHashBuilder, Lifecycle};
use smallvec::SmallVec;

use super::{
    bounds::{Bounds, ENTRY_BYTES, MAX_WEIGHT, TAG_BYTES},
    builder::Weigher,
    clock::{Clock, nanos},
    hits::Hits,
    load::Load,
    loads::Loads,
    marks::Marks,
    report::Report,
    stats::{Counters, TopKey},
    stored::{Found, Handle, Lookup, Stored},
    sync::{AtomicU64, Mutex, Ordering},
    tags::{TagSet, TagTable, are_unchanged_since},
};
use crate::{Entry, worker::Worker};

/// The state of one cache; a [`LocalCache`](super::LocalCache) is a reference to it.
pub(super) struct Inner<V: ?Sized> {
    pub(super) entries:
        quick_cache::sync::Cache<Handle, Arc<V>, Bounds, DefaultHashBuilder, Leaving>,
    /// Invalidations of everything.
    pub(super) all: Marks,
    /// From this time on no entry is served, whatever its TTL, unless the time is moved on before.
    pub(super) trusted_until: AtomicU64,
    pub(super) max_tracked: usize,
    pub(super) report: Report,
    pub(super) clock: Clock,
    pub(super) tags: TagTable,
    pub(super) loads: Loads<V>,
    pub(super) counters: Counters,
    pub(super) bounds: Bounds,
    pub(super) weigher: Box<Weigher<V>>,
    pub(super) cleaner: Mutex<Option<Worker>>,
}

/// Returns removed entries to the call that removed them, which drops them without a lock: the Drop of a value may use
/// the cache.
#[derive(Clone)]
pub(super) struct Leaving;

/// Entries that have left. Usually one or two: the one that was overwritten and one that was evicted.
pub(super) struct Removed<V: ?Sized>(SmallVec<[(Handle, Arc<V>); 2]>);

impl<V: ?Sized> Default for Removed<V> {
    fn default() -> Self {
        Self(SmallVec::new())
    }
}

impl<V: ?Sized> Lifecycle<Handle, Arc<V>> for Leaving {
    type RequestState = Removed<V>;

    fn on_evict(&self, removed: &mut Removed<V>, handle: Handle, value: Arc<V>) {
        removed.0.push((handle, value));
    }
}

impl<V: ?Sized> Inner<V> {
    /// The value if it is fresh; counts a hit or a miss.
    ///
    /// Not inlined: all callers share one copy, into which the search of the table is inlined.
    #[inline(never)]
    pub(super) fn get(&self, key: &str) -> Option<Arc<V>> {
        let (is_gone, unreported) = (Cell::new(false), Cell::new(None));
        let lookup = Lookup::new(key.as_bytes(), |handle: &Handle| {
            let stored = handle.stored();
            if !self.is_fresh(stored) {
                is_gone.set(self.is_gone(handle));
                return false;
            }
            let before = stored.hits.count_one();
            if before.count() == 0 {
                self.counters.hit_entries.fetch_add(1, Ordering::Relaxed);
            }
            if !before.is_queued() && self.report.has_room() {
                unreported.set(Some(handle.clone()));
            }
            true
        });
        let value = self.entries.get(&lookup);
        if value.is_some() {
            self.counters.hit();
            // Outside the lock.
            if let Some(handle) = unreported.take() {
                self.report.note(handle);
            }
        } else {
            self.missed(key, is_gone.get());
        }
        value
    }

    /// Not inlined, so that the code that a hit needs is close together.
    #[cold]
    #[inline(never)]
    fn is_gone(&self, handle: &Handle) -> bool {
        self.found(handle).is_none()
    }

    #[cold]
    #[inline(never)]
    fn missed(&self, key: &str, is_gone: bool) {
        self.counters.miss();
        if is_gone {
            self.reclaim(key.as_bytes());
        }
    }

    /// The value if it is fresh or stale, and its state; counts nothing, and does not defer eviction.
    pub(super) fn peek(&self, key: &str) -> Option<(Arc<V>, Found)> {
        let found = Cell::new(None);
        let value = self
            .entries
            .peek(&Lookup::new(key.as_bytes(), |handle: &Handle| {
                found.set(self.found(handle));
                found.get().is_some()
            }))?;
        Some((value, found.get()?))
    }

    /// The value if it is fresh; counts nothing.
    pub(super) fn peek_fresh(&self, key: &str) -> Option<Arc<V>> {
        self.entries
            .peek(&Lookup::new(key.as_bytes(), |handle: &Handle| {
                self.is_fresh(handle.stored())
            }))
    }

    #[inline]
    fn is_fresh(&self, stored: &Stored) -> bool {
        // Acquire: the invalidations that were known when the time was moved on are visible with it.
        let trusted_until = self.trusted_until.load(Ordering::Acquire);
        !stored.is_invalidated(&self.all)
            // Last, because reading the time costs more than all the rest.
            && self.clock.is_before(stored.expires.min(trusted_until))
    }

    /// The state of an entry, `None` if it is gone.
    pub(super) fn found(&self, handle: &Handle) -> Option<Found> {
        handle.stored().found(self.clock.now(), &self.all)
    }

    pub(super) fn intern(
        &self,
        entry: Entry<impl IntoIterator<Item: AsRef<str>>>,
    ) -> Entry<TagSet> {
        entry.map_tags(|tags| self.tags.intern(tags))
    }

    /// Stores a value in place of any older one.
    pub(super) fn set(&self, key: &str, value: Arc<V>, entry: Entry<TagSet>) {
        if entry.ttl.is_zero() {
            self.take(key);
            return;
        }
        // Read after the tags were looked up: a tag that is new to the table counts as invalidated some time ago, but
        // not later than now.
        let stamp = self.tags.epoch();
        let handle = self.describe(key, &value, stamp, entry);
        let (hash, mut shard) = self.loads.overtake(key);
        self.take_over(&handle, shard.recall(hash, key));
        let removed = self.place(&handle, value);
        drop(shard);
        self.settle(&handle, &removed);
    }

    /// Stores a loaded value, unless something has overtaken it. Returns whether it was stored.
    pub(super) fn fill(&self, load: &Load<V>, value: Arc<V>, entry: Entry<TagSet>) -> bool {
        if entry.ttl.is_zero() {
            return false;
        }
        let handle = self.describe(&load.key, &value, load.stamp, entry);
        let mut shard = self.loads.shard(load.hash);
        // Each read checks the marks again, so an invalidation that comes right after this takes effect too.
        if load.is_overtaken()
            || !self.all.is_unchanged_since(load.stamp)
            || !are_unchanged_since(&handle.stored().tags, load.stamp)
        {
            return false;
        }
        self.take_over(&handle, shard.recall(load.hash, &load.key));
        let removed = self.place(&handle, value);
        drop(shard);
        self.settle(&handle, &removed);
        true
    }

    fn describe(&self, key: &str, value: &V, stamp: u64, entry: Entry<TagSet>) -> Handle {
        let weight = entry
            .weight
            .unwrap_or_else(|| (self.weigher)(key, value))
            .saturating_add(ENTRY_BYTES + key.len() as u64 + TAG_BYTES * entry.tags.len() as u64)
            .min(MAX_WEIGHT);
        Handle::new(
            key,
            Stored {
                stamp,
                expires: self.clock.now().saturating_add(nanos(entry.ttl)),
                grace: nanos(entry.grace),
                weight,
                hits: Hits::new(self.report.is_on()),
                reported: AtomicU64::new(0),
                tags: entry.tags,
            },
        )
    }

    fn place(&self, handle: &Handle, value: Arc<V>) -> Removed<V> {
        // Counted before it is inserted, because it may be out again before this thread goes on.
        self.counters
            .bytes
            .fetch_add(handle.stored().weight, Ordering::Relaxed);
        let mut removed = Removed::default();
        self.entries
            .insert_with_lifecycle(handle.clone(), value, &mut removed);
        // A known key takes its former place, or a place among the keys that came back, and may be the first to be
        // evicted there: at once, if a shard holds few entries. Evicted as a resident it is still known, evicted after
        // a return it is not; and a new key is not evicted at once, unless it is too heavy.
        for _ in 0..2 {
            let Some(index) = removed.0.iter().position(|(left, _)| left.is(handle)) else {
                break;
            };
            let (handle, value) = removed.0.swap_remove(index);
            self.entries
                .insert_with_lifecycle(handle, value, &mut removed);
        }
        removed
    }

    /// Updates the counters after `placed` was inserted.
    fn settle(&self, placed: &Handle, removed: &Removed<V>) {
        let mut placing = &self.counters.insertions;
        for (handle, _) in &removed.0 {
            if handle == placed && !handle.is(placed) {
                // It was overwritten, and the new entry takes over its hits.
                let hits = self.leave(handle);
                if !self.take_over(placed, hits) {
                    self.depart(placed, hits);
                }
                continue;
            }
            if handle.is(placed) {
                placing = &self.counters.rejected;
            } else {
                self.count_removal(handle);
            }
            self.retire(handle);
        }
        placing.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds the hits that the key had before to an entry; `false`: the entry has left, too.
    fn take_over(&self, handle: &Handle, hits: u64) -> bool {
        if hits > 0 {
            let before = handle.stored().take_over(hits);
            if before.is_retired() {
                return false;
            }
            if before.count() == 0 {
                self.counters.hit_entries.fetch_add(1, Ordering::Relaxed);
            }
        }
        true
    }

    /// Handles an entry that has left the cache without a successor.
    fn retire(&self, handle: &Handle) {
        let hits = self.leave(handle);
        self.depart(handle, hits);
    }

    /// Remembers the hits of a key that has no entry, or adds them to the entry that it has by now.
    fn depart(&self, handle: &Handle, hits: u64) {
        if hits == 0 {
            return;
        }
        let mut value = None;
        self.loads.depart(handle.key(), hits, || {
            let found = Cell::new(None);
            value = self
                .entries
                .peek(&Lookup::new(handle.key_bytes(), |handle: &Handle| {
                    found.set(Some(handle.clone()));
                    true
                }));
            found.take().is_some_and(|now| self.take_over(&now, hits))
        });
        // It may be the last reference; no lock is held now.
        drop(value);
    }

    /// Counts an entry that has left the cache; returns its hits.
    fn leave(&self, handle: &Handle) -> u64 {
        let stored = handle.stored();
        self.counters
            .bytes
            .fetch_sub(stored.weight, Ordering::Relaxed);
        let hits = stored.hits.retire().count();
        let hit = u64::from(hits > 0);
        self.counters.hit_entries.fetch_sub(hit, Ordering::Relaxed);
        hits
    }

    /// Up to `n` keys with the most hits.
    pub(super) fn top(&self, n: usize) -> Vec<TopKey> {
        let n = n.min(self.max_tracked);
        let mut top = BTreeSet::new();
        let mut see = |key: &str, hits| {
            let is_behind = |(Reverse(least), _): &(Reverse<u64>, String)| *least > hits;
            if hits > 0 && (top.len() < n || !top.last().is_none_or(is_behind)) {
                top.insert((Reverse(hits), key.to_owned()));
                if top.len() > n {
                    top.pop_last();
                }
            }
        };
        for (handle, value) in self.entries.iter() {
            // It may be the last reference; no lock is held now.
            drop(value);
            see(handle.key(), handle.stored().hits.read().count());
        }
        self.loads.departed(see);
        // A key may have left since it was seen.
        let mut seen = HashSet::new();
        top.retain(|(_, key)| seen.insert(key.clone()));
        let keys = top.into_iter();
        keys.map(|(Reverse(hits), key)| TopKey { key, hits })
            .collect()
    }

    /// How many keys could be listed with their hits.
    pub(super) fn tracked(&self) -> usize {
        let mut tracked = self.counters.hit_entries.load(Ordering::Relaxed) as usize;
        self.loads.departed(|_, _| tracked += 1);
        tracked.min(self.max_tracked)
    }

    fn count_removal(&self, handle: &Handle) {
        let counter = if self.found(handle).is_some() {
            &self.counters.evictions
        } else if handle.stored().is_invalidated(&self.all) {
            &self.counters.invalidated
        } else {
            &self.counters.expirations
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the entry out, whatever its state; returns the value if it was fresh. A load under way is not stored.
    pub(super) fn take(&self, key: &str) -> Option<Arc<V>> {
        let (_, shard) = self.loads.overtake(key);
        let taken = self
            .entries
            .remove(&Lookup::new(key.as_bytes(), |_: &Handle| true));
        drop(shard);
        let (handle, value) = taken?;
        let is_fresh = self.is_fresh(handle.stored());
        self.retire(&handle);
        is_fresh.then_some(value)
    }

    /// Takes the entry out if it can no longer be served. Returns whether it did.
    fn reclaim(&self, key: &[u8]) -> bool {
        // This never matches an entry that another thread has just put in its place.
        let gone = Lookup::new(key, |handle: &Handle| self.found(handle).is_none());
        let Some((handle, _value)) = self.entries.remove(&gone) else {
            return false;
        };
        self.count_removal(&handle);
        self.retire(&handle);
        true
    }

    /// Reclaims all that can be reclaimed, until `is_stopped`; returns how many entries.
    pub(super) fn clean(&self, is_stopped: impl Fn() -> bool) -> u64 {
        /// Entries between two checks whether to stop: some ten microseconds.
        const STRIDE: u64 = 256;

        let begin = self.clock.now();
        let mut now = begin;
        self.loads.begin_cleanup();
        let (mut seen, mut reclaimed) = (0_u64, 0);
        // Locks one entry at a time. Scanning a whole shard would be faster, but block all callers that use it.
        for (handle, value) in self.entries.iter() {
            // It may be the last reference; no lock is held now.
            drop(value);
            seen += 1;
            if seen.is_multiple_of(STRIDE) {
                if is_stopped() {
                    break;
                }
                now = self.clock.now();
            }
            if handle.stored().found(now, &self.all).is_none() {
                reclaimed += u64::from(self.reclaim(handle.key_bytes()));
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
