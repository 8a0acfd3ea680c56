//! The loads under way, by key: who loads, who waits, and whether a result may still be stored.

use std::{hash::BuildHasher, sync::Arc};

use hashbrown::HashTable;
use quick_cache::DefaultHashBuilder;

use super::{
    load::Load,
    sync::{AtomicUsize, Mutex, MutexGuard, Ordering, ThreadId, unpoisoned},
    tags::{TagSet, TagTable},
};

/// Power of two: a shard is picked by bits of the hash.
const SHARDS: usize = 64;

/// All loads under way.
///
/// This is what closes the race between a load and the removal of its key: whoever begins a load, stores its result,
/// or removes or overwrites the key does so under the lock of the key's shard. So of a removal and a load one comes
/// first: the load ends before the removal, begins after it, or is marked as overtaken.
pub(super) struct Loads<V: ?Sized> {
    shards: Box<[Mutex<Shard<V>>]>,
    hash_builder: DefaultHashBuilder,
    under_way: AtomicUsize,
}

/// A key has as many loads here as are under way for it.
pub(super) type Shard<V> = HashTable<Arc<Load<V>>>;

/// How to get a value that is missing.
pub(super) enum Found<V: ?Sized> {
    /// Load it; others may be waiting for this load.
    Begun(Arc<Load<V>>),
    /// Wait for it.
    UnderWay(Arc<Load<V>>),
}

impl<V: ?Sized> Loads<V> {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hash_builder: DefaultHashBuilder::default(),
            under_way: AtomicUsize::new(0),
        }
    }

    pub(super) fn shard(&self, hash: u64) -> MutexGuard<'_, Shard<V>> {
        // Other bits than the table in the shard uses.
        unpoisoned(self.shards[(hash >> 32) as usize % SHARDS].lock())
    }

    /// Whether nothing is being loaded. An invalidation that asks this after it took its epoch, and gets true, has
    /// no load to mark: a load that begins later has a stamp that is not behind that epoch.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) == 0
    }

    /// Begins a load that nobody waits for.
    pub(super) fn reserve(&self, key: &str, table: &TagTable) -> Arc<Load<V>> {
        let hash = self.hash_builder.hash_one(key);
        // Counted before the epoch is read, see `is_idle`.
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let mut shard = self.shard(hash);
        let load = Load::new((key, hash), table.epoch(), TagSet::new(), None, false);
        begin(&mut shard, load)
    }

    /// Begins a load that will have these tags, unless one is under way whose result is as good, which `is_current`
    /// decides.
    pub(super) fn join_or_begin(
        &self,
        key: &str,
        table: &TagTable,
        tags: &TagSet,
        thread: Option<ThreadId>,
        is_current: impl Fn(&Load<V>) -> bool,
    ) -> Found<V> {
        let hash = self.hash_builder.hash_one(key);
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let mut shard = self.shard(hash);
        let joined = of_key(&shard, hash, key).find(|load| load.is_open() && is_current(load));
        if let Some(load) = joined.cloned() {
            drop(shard);
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            return Found::UnderWay(load);
        }
        let load = Load::new((key, hash), table.epoch(), tags.clone(), thread, true);
        Found::Begun(begin(&mut shard, load))
    }

    /// The key is removed or overwritten: what is being loaded for it is for its callers alone, and callers that come
    /// from now on wait for none of it. The cache is to be changed while the lock that this returns is held.
    #[must_use = "no load may begin before the cache is changed"]
    pub(super) fn overtake(&self, key: &str) -> MutexGuard<'_, Shard<V>> {
        let hash = self.hash_builder.hash_one(key);
        let shard = self.shard(hash);
        of_key(&shard, hash, key).for_each(|load| load.overtake());
        shard
    }

    /// Ends a load, whatever came of it.
    pub(super) fn release(&self, load: &Arc<Load<V>>) {
        let is_it = |other: &Arc<Load<V>>| Arc::ptr_eq(other, load);
        // Not the last reference: the caller has one.
        if let Ok(known) = self.shard(load.hash).find_entry(load.hash, is_it) {
            known.remove();
        }
        self.under_way.fetch_sub(1, Ordering::SeqCst);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let lens = self
            .shards
            .iter()
            .map(|shard| unpoisoned(shard.lock()).len());
        lens.sum()
    }
}

fn begin<V: ?Sized>(shard: &mut Shard<V>, load: Load<V>) -> Arc<Load<V>> {
    let load = Arc::new(load);
    shard.insert_unique(load.hash, Arc::clone(&load), |load| load.hash);
    load
}

fn of_key<'a, V: ?Sized>(
    shard: &'a Shard<V>,
    hash: u64,
    key: &'a str,
) -> impl Iterator<Item = &'a Arc<Load<V>>> {
    shard.iter_hash(hash).filter(move |load| *load.key == *key)
}
