//! The tags that entries carry, each stored once and found by name.

use std::{
    hash::BuildHasher,
    sync::{Arc, atomic::fence},
};

use hashbrown::HashTable;
use quick_cache::DefaultHashBuilder;
use smallvec::SmallVec;

use super::{
    marks::Marks,
    sync::{AtomicU64, Ordering, RwLock, unpoisoned},
};

/// A tag that entries hold, and that the table finds by name.
pub(crate) struct Tag {
    pub(super) marks: Marks,
    pub(super) name: Box<str>,
}

/// The tags of one entry. Two of them, the usual number, need no allocation of their own.
pub(crate) type TagSet = SmallVec<[Arc<Tag>; 2]>;

/// Whether none of the tags was invalidated, hard or soft, after `stamp`.
pub(super) fn are_unchanged_since(tags: &TagSet, stamp: u64) -> bool {
    tags.iter().all(|tag| tag.marks.is_unchanged_since(stamp))
}

/// A power of two: bits of the hash select a shard. There are enough shards to keep the search of one, under its lock,
/// short: a millisecond or two with a million tags.
const SHARDS: usize = 64;

/// Below this size a shard is never searched for tags without entries.
const PURGE_FROM: usize = 16;

/// All tags by name.
///
/// A tag that no entry holds stays only as long as its marks may matter to a value that is still being loaded.
/// Forgetting a tag raises the shard's horizon to its latest mark: a tag that is added (again) counts as invalidated at
/// the horizon, so an older value is refused. That errs on the safe side, bounds the table by twice the tags that
/// entries hold, and needs no knowledge of the loads under way.
pub(super) struct TagTable {
    shards: Box<[RwLock<Shard>]>,
    hash_builder: DefaultHashBuilder,
    /// Raised by one by every invalidation of any kind.
    epoch: AtomicU64,
}

#[derive(Default)]
struct Shard {
    by_name: HashTable<Arc<Tag>>,
    /// Latest mark among the tags that were forgotten.
    horizon: u64,
    purge_at: usize,
}

impl TagTable {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hash_builder: DefaultHashBuilder::default(),
            epoch: AtomicU64::new(0),
        }
    }

    /// The current epoch: the stamp of a value whose load begins now.
    pub(super) fn epoch(&self) -> u64 {
        // SeqCst here and below: "an invalidation saw no load under way" and "a load saw no invalidation" must not
        // both be true; see `Loads::is_idle`.
        self.epoch.load(Ordering::SeqCst)
    }

    /// Begins an invalidation; returns the epoch to mark it with.
    pub(super) fn next_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn hash(&self, name: &str) -> u64 {
        self.hash_builder.hash_one(name)
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        // Uses other bits than the table in the shard.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// The tags of these names, each once. O(n log n).
    pub(super) fn intern(&self, names: impl IntoIterator<Item: AsRef<str>>) -> TagSet {
        let names = names.into_iter();
        let mut tags: TagSet = names.map(|name| self.intern_one(name.as_ref())).collect();
        tags.sort_unstable_by_key(Arc::as_ptr);
        tags.dedup_by(|one, other| Arc::ptr_eq(one, other));
        tags
    }

    /// Returns the tag, and remembers it from now on if it was not known.
    pub(super) fn intern_one(&self, name: &str) -> Arc<Tag> {
        if let Some(tag) = self.find(name) {
            return tag;
        }
        let hash = self.hash(name);
        let mut shard = unpoisoned(self.shard(hash).write());
        // Another thread may have added it between the two locks.
        if let Some(tag) = shard.find(hash, name) {
            return tag;
        }
        if shard.by_name.len() >= shard.purge_at.max(PURGE_FROM) {
            shard.purge(|name| self.hash(name));
        }
        let tag = Arc::new(Tag {
            marks: Marks::not_after(shard.horizon),
            name: name.into(),
        });
        let own = Arc::clone(&tag);
        shard
            .by_name
            .insert_unique(hash, own, |tag| self.hash(&tag.name));
        tag
    }

    /// The tag, if an entry holds it or its last invalidation is remembered.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Tag>> {
        let hash = self.hash(name);
        unpoisoned(self.shard(hash).read()).find(hash, name)
    }

    /// Forgets all tags that no entry holds. O(tags), one shard at a time.
    pub(super) fn purge(&self) {
        for shard in &self.shards {
            unpoisoned(shard.write()).purge(|name| self.hash(name));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| unpoisoned(shard.read()).by_name.len())
            .sum()
    }
}

impl Shard {
    fn find(&self, hash: u64, name: &str) -> Option<Arc<Tag>> {
        let found = self.by_name.find(hash, |tag| *tag.name == *name);
        found.cloned()
    }

    fn purge(&mut self, hash: impl Fn(&str) -> u64) {
        let horizon = &mut self.horizon;
        self.by_name.retain(|tag| {
            // One reference is the table's own. No thread can take another one while the shard is locked for writing.
            let held = Arc::strong_count(tag) > 1;
            if !held {
                // The thread that dropped the last other reference may have marked the tag before: see that mark.
                fence(Ordering::Acquire);
                *horizon = (*horizon).max(tag.marks.latest());
            }
            held
        });
        // It is searched again only after as many new tags as there are old ones: O(1) per added tag.
        self.purge_at = PURGE_FROM.max(self.by_name.len() * 2);
        self.by_name.shrink_to(self.purge_at, |tag| hash(&tag.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_tags_are_stored_once() {
        let table = TagTable::new();
        let tags = table.intern(["a", "b", "a", "c", "b", "a"]);
        assert_eq!((tags.len(), table.len()), (3, 3));
    }

    #[test]
    fn purge_frees_the_memory_of_unused_tags() {
        let table = TagTable::new();
        let tags = table.intern((0..100_000).map(|i| i.to_string()));
        table.purge();
        assert_eq!(table.len(), tags.len());
        drop(tags);
        table.purge();
        assert_eq!(table.len(), 0);
        for shard in &table.shards {
            let capacity = unpoisoned(shard.read()).by_name.capacity();
            assert!(capacity <= 4 * PURGE_FROM, "{capacity}");
        }
    }

    #[test]
    fn unused_tags_are_purged_while_new_ones_are_added() {
        let table = TagTable::new();
        let held = table.intern((0..1_000).map(|i| format!("held {i}")));
        for i in 0..20_000 {
            table.intern_one(&i.to_string());
        }
        let bound = SHARDS * PURGE_FROM + 2 * held.len();
        assert!(table.len() <= 2 * bound, "{}", table.len());
        assert!((0..1_000).all(|i| table.find(&format!("held {i}")).is_some()));
    }

    #[test]
    fn purged_tag_counts_as_invalidated_when_it_is_added_again() {
        let table = TagTable::new();
        let before = table.epoch();
        let tag = table.intern_one("tag");
        assert!(tag.marks.is_unchanged_since(before));
        tag.marks.drop_at(table.next_epoch());
        drop(tag);
        table.purge();
        assert_eq!(table.len(), 0);
        let again = table.intern_one("tag");
        assert_eq!(again.marks.softened_since(before), None);
        assert!(again.marks.is_unchanged_since(table.epoch()));
    }
}
