//! Data about keys besides their entries: the loads under way, and the hits of entries that have left.

use std::{hash::BuildHasher, sync::Arc};

use hashbrown::HashTable;
use quick_cache::DefaultHashBuilder;

use super::{
    load::Load,
    sync::{AtomicUsize, Mutex, MutexGuard, Ordering, ThreadId, unpoisoned},
    tags::{TagSet, TagTable},
};

/// A power of two: bits of the hash select a shard.
const SHARDS: usize = 64;

/// All loads under way, and the hits of entries that have left.
///
/// This closes the race between a load and the removal of its key: a load begins and stores its result, and a key is
/// removed or overwritten, under the lock of the key's shard. So a load ends before a removal, begins after it, or is
/// marked as overtaken.
pub(super) struct Loads<V: ?Sized> {
    shards: Box<[Mutex<Shard<V>>]>,
    hash_builder: DefaultHashBuilder,
    under_way: AtomicUsize,
    /// Keys whose hits one shard remembers, up to twice as many; 0: none.
    departed: usize,
}

pub(super) struct Shard<V: ?Sized> {
    /// A key has one item here for each load under way.
    loads: HashTable<Arc<Load<V>>>,
    departed: HashTable<Departed>,
    /// Keys with at most this many hits had to make room for others, and are not remembered.
    least: u64,
}

/// A hot key with a short TTL is reloaded all the time. It would never count as hot if its hits were not remembered
/// meanwhile.
struct Departed {
    key: Box<str>,
    hash: u64,
    hits: u64,
    cleanups: u8,
}

impl<V: ?Sized> Loads<V> {
    /// Remembers the hits of about `departed` keys that have no entry.
    pub(super) fn new(departed: usize) -> Self {
        let shard = || Shard {
            loads: HashTable::new(),
            departed: HashTable::new(),
            least: 0,
        };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            hash_builder: DefaultHashBuilder::default(),
            under_way: AtomicUsize::new(0),
            departed: departed.min(8).max(departed / SHARDS),
        }
    }

    pub(super) fn shard(&self, hash: u64) -> MutexGuard<'_, Shard<V>> {
        // Uses other bits than the table in the shard.
        unpoisoned(self.shards[(hash >> 32) as usize % SHARDS].lock())
    }

    fn hash(&self, key: &str) -> u64 {
        self.hash_builder.hash_one(key)
    }

    /// Whether no load is under way. An invalidation that asks this after it took its epoch, and gets true, has no load
    /// to mark: a load that begins later has a stamp that is not behind that epoch.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) == 0
    }

    /// Begins a load that no other caller waits for.
    pub(super) fn reserve(&self, key: &str, table: &TagTable) -> Arc<Load<V>> {
        let hash = self.hash(key);
        // Counted before the epoch is read, see `is_idle`.
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let mut shard = self.shard(hash);
        let load = Load::new((key, hash), table.epoch(), TagSet::new(), None, false);
        shard.begin(load)
    }

    /// Begins a load with these tags; `Err`: a load to wait for, whose result is as good, as `is_current` decides.
    pub(super) fn join_or_begin(
        &self,
        key: &str,
        table: &TagTable,
        tags: &TagSet,
        thread: Option<ThreadId>,
        is_current: impl Fn(&Load<V>) -> bool,
    ) -> Result<Arc<Load<V>>, Arc<Load<V>>> {
        let hash = self.hash(key);
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let mut shard = self.shard(hash);
        let mut known = shard.of_key(hash, key);
        if let Some(load) = known.find(|load| load.is_open() && is_current(load)) {
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            return Err(Arc::clone(load));
        }
        drop(known);
        let load = Load::new((key, hash), table.epoch(), tags.clone(), thread, true);
        Ok(shard.begin(load))
    }

    /// The key is removed or overwritten: loads under way for it serve only their own callers, and later callers do not
    /// join them. The cache must be changed while the lock that this returns is held.
    #[must_use = "no load may begin before the cache is changed"]
    pub(super) fn overtake(&self, key: &str) -> (u64, MutexGuard<'_, Shard<V>>) {
        let hash = self.hash(key);
        let shard = self.shard(hash);
        shard.of_key(hash, key).for_each(|load| load.overtake());
        (hash, shard)
    }

    /// Ends a load, whatever its result.
    pub(super) fn release(&self, load: &Arc<Load<V>>) {
        let is_it = |other: &Arc<Load<V>>| Arc::ptr_eq(other, load);
        // Not the last reference: the caller has one.
        if let Ok(known) = self.shard(load.hash).loads.find_entry(load.hash, is_it) {
            known.remove();
        }
        self.under_way.fetch_sub(1, Ordering::SeqCst);
    }

    /// Remembers the hits of a key whose entry has left, unless `give` finds another entry of the key for them.
    pub(super) fn depart(&self, key: &str, hits: u64, give: impl FnOnce() -> bool) {
        let hash = self.hash(key);
        let mut shard = self.shard(hash);
        if self.departed > 0 && hits > shard.least && !give() {
            let hits = hits + shard.recall(hash, key);
            let departed = Departed {
                key: key.into(),
                hash,
                hits,
                cleanups: 0,
            };
            shard
                .departed
                .insert_unique(hash, departed, |departed| departed.hash);
            if shard.departed.len() > 2 * self.departed {
                shard.make_room(self.departed);
            }
        }
    }

    /// Calls `see` with the key and the hits of each entry that has left.
    pub(super) fn departed(&self, mut see: impl FnMut(&str, u64)) {
        for shard in &self.shards {
            let shard = unpoisoned(shard.lock());
            for departed in &shard.departed {
                see(&departed.key, departed.hits);
            }
        }
    }

    /// Forgets the hits of keys that had no entry at the last cleanup either.
    pub(super) fn begin_cleanup(&self) {
        for shard in &self.shards {
            let mut shard = unpoisoned(shard.lock());
            shard.least = 0;
            shard.departed.retain(|departed| {
                departed.cleanups += 1;
                departed.cleanups < 2
            });
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let lens = self.shards.iter();
        lens.map(|shard| unpoisoned(shard.lock()).loads.len()).sum()
    }
}

impl<V: ?Sized> Shard<V> {
    fn begin(&mut self, load: Load<V>) -> Arc<Load<V>> {
        let load = Arc::new(load);
        let own = Arc::clone(&load);
        self.loads.insert_unique(load.hash, own, |load| load.hash);
        load
    }

    fn of_key<'a>(&'a self, hash: u64, key: &'a str) -> impl Iterator<Item = &'a Arc<Load<V>>> {
        let same_hash = self.loads.iter_hash(hash);
        same_hash.filter(move |load| *load.key == *key)
    }

    /// Takes out the hits of a key that gets an entry again.
    pub(super) fn recall(&mut self, hash: u64, key: &str) -> u64 {
        let is_it = |departed: &Departed| *departed.key == *key;
        match self.departed.find_entry(hash, is_it) {
            Ok(departed) => departed.remove().0.hits,
            Err(_) => 0,
        }
    }

    /// Keeps at most `most` keys, those with the most hits.
    fn make_room(&mut self, most: usize) {
        let mut hits: Vec<u64> = self.departed.iter().map(|departed| departed.hits).collect();
        let first_out = hits.len() - most - 1;
        let least = *hits.select_nth_unstable(first_out).1;
        self.departed.retain(|departed| departed.hits > least);
        self.least = least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn departed(loads: &Loads<u8>) -> Vec<(String, u64)> {
        let mut departed = Vec::new();
        loads.departed(|key, hits| departed.push((key.to_owned(), hits)));
        departed
    }

    #[test]
    fn hits_without_an_entry_are_forgotten_at_the_second_cleanup() {
        let loads = Loads::new(100);
        loads.depart("key", 3, || false);
        loads.depart("key", 4, || false);
        loads.depart("given to its entry", 9, || true);
        loads.begin_cleanup();
        assert_eq!(departed(&loads), [("key".to_owned(), 7)]);
        loads.begin_cleanup();
        assert_eq!(departed(&loads), []);
    }

    #[test]
    fn hits_of_the_most_read_keys_are_kept() {
        let loads = Loads::new(8);
        let most = 100 * SHARDS as u64;
        for hits in 1..=most {
            loads.depart(&hits.to_string(), hits, || false);
        }
        let known = departed(&loads);
        for shard in &loads.shards {
            let len = unpoisoned(shard.lock()).departed.len();
            assert!((8..=2 * 8).contains(&len), "{len}");
        }
        // In each shard, the keys that came last have the most hits.
        for hits in most - 8..=most {
            assert!(known.contains(&(hits.to_string(), hits)), "{hits}");
        }
        // Keys with fewer hits than those that had to go are not remembered.
        for cold in 0..100 {
            loads.depart(&format!("cold {cold}"), 1, || false);
        }
        assert!(departed(&loads).iter().all(|(_, hits)| *hits > 1));
    }
}
