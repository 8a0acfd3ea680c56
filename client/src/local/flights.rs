//! Values that are being loaded: who loads, who waits, and whether the result may still be stored.

use std::{
    collections::{HashMap, hash_map},
    hash::BuildHasher,
    sync::Arc,
};

use quick_cache::DefaultHashBuilder;

use super::{
    load::Load,
    sync::{AtomicUsize, Mutex, MutexGuard, Ordering, unpoisoned},
    tags::{TagSet, TagTable},
};

/// Power of two: a shard is picked by bits of the hash.
const SHARDS: usize = 64;

/// All keys that are being loaded. Bounded by the number of loads under way.
///
/// This is what closes the race between a load and the removal of its key: whoever begins a load, stores its result,
/// or removes or overwrites the key does so under the lock of the key's shard. So of a removal and a load one comes
/// first: the load ends before the removal, begins after it, or is told that it has been overtaken.
pub(super) struct Flights<V> {
    shards: Box<[Mutex<Shard<V>>]>,
    hash_builder: DefaultHashBuilder,
    under_way: AtomicUsize,
}

pub(super) struct Shard<V> {
    by_key: HashMap<Arc<str>, Flight<V>, DefaultHashBuilder>,
}

/// One key that is being loaded, perhaps several times at once.
struct Flight<V> {
    reservations: usize,
    /// Epoch of the latest removal of the key, 0 if there was none since the flight began.
    removed: u64,
    /// The load that others may wait for.
    load: Option<Arc<Load<V>>>,
}

/// The right to store a value later, if nothing has overtaken it by then.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    pub(super) key: Arc<str>,
    /// The epoch in which the load began.
    pub(super) stamp: u64,
}

/// How to get a value that is missing.
pub(super) enum Role<V> {
    /// Load it; others may be waiting for this load.
    Lead(Ticket, Arc<Load<V>>),
    /// Wait for it.
    Join(Arc<Load<V>>),
}

impl<V> Flights<V> {
    pub(super) fn new() -> Self {
        let hash_builder = DefaultHashBuilder::default();
        let shards = (0..SHARDS)
            .map(|_| {
                Mutex::new(Shard {
                    by_key: HashMap::with_hasher(hash_builder.clone()),
                })
            })
            .collect();
        Self {
            shards,
            hash_builder,
            under_way: AtomicUsize::new(0),
        }
    }

    pub(super) fn shard(&self, key: &str) -> MutexGuard<'_, Shard<V>> {
        let index = self.hash_builder.hash_one(key) as usize % SHARDS;
        unpoisoned(self.shards[index].lock())
    }

    /// Whether nothing is being loaded. An invalidation that asks this after it took its epoch, and is told yes, has
    /// nobody to warn: whoever begins to load later has a stamp that is not behind that epoch.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) == 0
    }

    /// Begins a load that nobody waits for.
    pub(super) fn reserve(&self, key: &str, tags: &TagTable) -> Ticket {
        // Counted before the epoch is read, see `is_idle`.
        self.under_way.fetch_add(1, Ordering::SeqCst);
        self.shard(key).reserve(key, tags)
    }

    /// Begins a load, unless one is under way whose result is as good, which `is_current` judges.
    pub(super) fn join_or_lead(
        &self,
        key: &str,
        tags: &TagTable,
        is_current: impl FnOnce(&Load<V>) -> bool,
        new_load: impl FnOnce(u64) -> Load<V>,
    ) -> Role<V> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let mut shard = self.shard(key);
        if let Some(load) = shard
            .by_key
            .get(key)
            .and_then(|flight| flight.load.as_ref())
            && is_current(load)
        {
            let load = Arc::clone(load);
            drop(shard);
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            return Role::Join(load);
        }
        let ticket = shard.reserve(key, tags);
        let load = Arc::new(new_load(ticket.stamp));
        if let Some(flight) = shard.by_key.get_mut(key) {
            flight.load = Some(Arc::clone(&load));
        }
        Role::Lead(ticket, load)
    }

    /// The key is removed or overwritten: what is being loaded for it is for its callers alone, and whoever comes
    /// from now on waits for none of it. The cache is to be changed while the lock that this returns is held.
    #[must_use = "no load may begin before the cache is changed"]
    pub(super) fn overtake(&self, key: &str, tags: &TagTable) -> MutexGuard<'_, Shard<V>> {
        let mut shard = self.shard(key);
        if let Some(flight) = shard.by_key.get_mut(key) {
            flight.removed = tags.next_epoch();
            flight.load = None;
        }
        shard
    }

    /// Ends a load, whatever came of it.
    pub(super) fn release(&self, ticket: &Ticket, load: Option<&Arc<Load<V>>>) {
        self.shard(&ticket.key).release(ticket, load);
        self.under_way.fetch_sub(1, Ordering::SeqCst);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| unpoisoned(shard.lock()).by_key.len())
            .sum()
    }
}

impl<V> Shard<V> {
    fn reserve(&mut self, key: &str, tags: &TagTable) -> Ticket {
        let stamp = tags.epoch();
        let key = match self.by_key.get_key_value(key) {
            Some((key, _)) => Arc::clone(key),
            None => key.into(),
        };
        self.by_key
            .entry(Arc::clone(&key))
            .or_insert(Flight {
                reservations: 0,
                removed: 0,
                load: None,
            })
            .reservations += 1;
        Ticket { key, stamp }
    }

    /// Whether the key was neither removed nor overwritten since the load began.
    pub(super) fn is_current(&self, ticket: &Ticket) -> bool {
        self.by_key
            .get(&ticket.key)
            .is_some_and(|flight| flight.removed <= ticket.stamp)
    }

    fn release(&mut self, ticket: &Ticket, load: Option<&Arc<Load<V>>>) {
        let hash_map::Entry::Occupied(mut flight) = self.by_key.entry(Arc::clone(&ticket.key))
        else {
            return;
        };
        let state = flight.get_mut();
        state.reservations -= 1;
        if state.reservations == 0 {
            flight.remove();
        } else if let (Some(waited_for), Some(load)) = (&state.load, load)
            && Arc::ptr_eq(waited_for, load)
        {
            state.load = None;
        }
    }
}

/// Whether none of the tags was invalidated, hard or soft, after `stamp`.
pub(super) fn are_unchanged_since(tags: &TagSet, stamp: u64) -> bool {
    tags.iter().all(|tag| tag.is_unchanged_since(stamp))
}
