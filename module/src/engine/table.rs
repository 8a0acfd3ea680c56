//! Maps a tag's name to its list.

use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;

use super::seeds::Seeded;

/// The table is split so that no single resize moves more than a 64th of it: a million tags grow by steps of about
/// 0.1 ms instead of one of 10 ms.
const SHARDS: usize = 64;

/// A hash table of list ids. Names stay in the lists: a row is eight bytes, and a resize touches rows alone.
#[derive(Debug, Default)]
pub(super) struct TagTable {
    hasher: Seeded,
    shards: Vec<HashTable<Row>>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    hash: u32,
    list: u32,
}

/// Spreads 32 bits of hash over the 64 that the table needs.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

const fn shard_of(hash: u32) -> usize {
    hash as usize % SHARDS
}

impl TagTable {
    #[inline(always)]
    pub(super) fn hash(&self, name: &[u8]) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(name); // Without its length, as nothing follows it.
        (hasher.finish() >> 32) as u32
    }

    /// The list of that hash for which `is_it` holds.
    #[inline(always)]
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let shard = self.shards.get(shard_of(hash))?;
        let found = shard.find(spread(hash), |row| row.hash == hash && is_it(row.list));
        found.map(|row| row.list)
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

    pub(super) fn heap_bytes(&self) -> usize {
        let rows = self.shards.iter().map(HashTable::allocation_size);
        self.shards.capacity() * size_of::<HashTable<Row>>() + rows.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_with_the_same_hash_are_distinguished() {
        let mut table = TagTable::default();
        for list in 0..3 {
            table.insert(7, list);
        }
        assert_eq!(table.find(7, |list| list == 2), Some(2));
        table.remove(7, 2);
        assert_eq!(table.find(7, |list| list == 2), None);
        assert_eq!(table.find(7, |list| list == 1), Some(1));
        // Another hash with the same place in the table.
        assert_eq!(table.find(7 + SHARDS as u32, |_| true), None);
    }

    #[test]
    fn the_tag_table_shrinks_below_one_quarter_full() {
        let counts: &[u32] = if cfg!(miri) {
            &[80]
        } else {
            &[100, 1_500, 4_000]
        };
        for &count in counts {
            let mut table = TagTable::default();
            let hash = |n: u32| n * SHARDS as u32;
            for n in 0..count {
                table.insert(hash(n), n);
            }
            for n in 0..count - 1 {
                let before = table.shards[0].capacity();
                table.remove(hash(n), n);
                let (len, after) = (table.shards[0].len(), table.shards[0].capacity());
                let is_smaller = after + 1 < before;
                // The place that was freed may or may not count as capacity.
                if before <= 64 || len * 4 >= before {
                    assert!(!is_smaller, "{len} left");
                } else if len * 4 < before - 1 {
                    assert!(is_smaller, "{len} left");
                }
                assert!(!is_smaller || after >= 2 * len, "{len} left: {after}");
            }
            assert!(table.shards[0].capacity() <= 64);
            table.remove(hash(count - 1), count - 1);
            assert_eq!(table.heap_bytes(), 0);
        }
    }
}
