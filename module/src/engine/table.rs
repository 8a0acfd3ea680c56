//! From a tag's name to its list.

use ahash::RandomState;
use hashbrown::HashTable;

/// The table is split so that no single resize moves more than a 64th of it: a million tags grow by steps of about
/// 0.1 ms instead of one of 10 ms.
const SHARDS: usize = 64;

/// A hash table of list ids. Names stay in the lists: a row is eight bytes, and a resize touches rows alone.
#[derive(Debug)]
pub(super) struct TagTable {
    /// Keyed at random, so that nobody can choose tags that collide.
    hasher: RandomState,
    shards: Vec<HashTable<Row>>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    hash: u32,
    list: u32,
}

/// Spreads 32 bits of hash over the 64 that the table wants.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

const fn shard_of(hash: u32) -> usize {
    hash as usize % SHARDS
}

impl Default for TagTable {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: Vec::new(),
        }
    }
}

impl TagTable {
    pub(super) fn hash(&self, name: &[u8]) -> u32 {
        (self.hasher.hash_one(name) >> 32) as u32
    }

    /// The list of that hash for which `is_it` holds.
    pub(super) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.shards
            .get(shard_of(hash))?
            .find(spread(hash), |row| row.hash == hash && is_it(row.list))
            .map(|row| row.list)
    }

    pub(super) fn insert(&mut self, hash: u32, list: u32) {
        if self.shards.is_empty() {
            self.shards.resize_with(SHARDS, HashTable::new);
        }
        self.shards[shard_of(hash)]
            .insert_unique(spread(hash), Row { hash, list }, |row| spread(row.hash));
    }

    pub(super) fn remove(&mut self, hash: u32, list: u32) {
        let shard = &mut self.shards[shard_of(hash)];
        if let Ok(row) = shard.find_entry(spread(hash), |row| row.list == list) {
            row.remove();
        }
        if shard.capacity() > 64 && shard.len() * 4 < shard.capacity() {
            shard.shrink_to(shard.len() * 2, |row| spread(row.hash));
        }
        if shard.is_empty() && self.shards.iter().all(HashTable::is_empty) {
            self.shards = Vec::new();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum()
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.shards.capacity() * size_of::<HashTable<Row>>()
            + self
                .shards
                .iter()
                .map(HashTable::allocation_size)
                .sum::<usize>()
    }
}
