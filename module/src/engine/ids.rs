//! A set of slots: who stands in a list.

use roaring::RoaringBitmap;
use smallvec::SmallVec;

use super::marks::bytes_of;

/// Up to this many ids are one sorted array; beyond, a compressed bitmap.
const FEW: usize = 32;

/// A sorted set of `u32`, small where it holds little and dense where it holds much.
///
/// A tag of one entry takes no heap at all; a tag of half of all entries an eighth of a byte an entry (Lemire et al.,
/// *Roaring Bitmaps: Implementation of an Optimized Software Library*, Software: Practice and Experience 48, 2018).
/// Adding and removing is O(1) in a bitmap, and bounded by a move of 8 KiB in an array.
#[derive(Debug)]
pub(super) enum Ids {
    Few(SmallVec<[u32; 4]>),
    Many(Box<Many>),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Many {
    ids: RoaringBitmap,
    len: u32,
    /// Heap bytes when they were counted last, and the lengths at which they are counted again.
    bytes: usize,
    recount_below: u32,
    recount_above: u32,
}

impl Default for Ids {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl Ids {
    pub(super) fn len(&self) -> u32 {
        match self {
            Self::Few(ids) => ids.len() as u32,
            Self::Many(many) => many.len,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an id that is not there.
    pub(super) fn insert(&mut self, id: u32) {
        match self {
            Self::Few(ids) => {
                let at = ids.partition_point(|&other| other < id);
                ids.insert(at, id);
                if ids.len() > FEW {
                    let mut many = Many {
                        ids: ids.iter().copied().collect(),
                        len: ids.len() as u32,
                        ..Many::default()
                    };
                    many.recount();
                    *self = Self::Many(Box::new(many));
                }
            }
            Self::Many(many) => {
                many.ids.insert(id);
                many.len += 1;
                if many.len > many.recount_above {
                    many.recount();
                }
            }
        }
    }

    /// Removes an id that is there.
    pub(super) fn remove(&mut self, id: u32) {
        match self {
            Self::Few(ids) => {
                if let Ok(at) = ids.binary_search(&id) {
                    ids.remove(at);
                }
                if ids.spilled() && ids.len() * 4 <= ids.capacity() {
                    ids.shrink_to_fit();
                }
            }
            Self::Many(many) => {
                many.ids.remove(id);
                many.len -= 1;
                if many.len as usize <= FEW / 2 {
                    *self = Self::Few(many.ids.iter().collect());
                } else if many.len < many.recount_below {
                    // A copy leaves behind what the arrays inside have grown to.
                    let copy = many.ids.clone();
                    many.ids = copy;
                    many.recount();
                }
            }
        }
    }

    /// Adds all ids to a bitmap.
    pub(super) fn add_to(&self, bitmap: &mut RoaringBitmap) {
        match self {
            Self::Few(ids) => bitmap.extend(ids.iter().copied()),
            Self::Many(many) => *bitmap |= &many.ids,
        }
    }

    /// Takes all ids out of a bitmap.
    pub(super) fn take_from(&self, bitmap: &mut RoaringBitmap) {
        match self {
            Self::Few(ids) => ids.iter().for_each(|&id| {
                bitmap.remove(id);
            }),
            Self::Many(many) => *bitmap -= &many.ids,
        }
    }

    /// Takes all other ids out of a bitmap.
    pub(super) fn keep_in(&self, bitmap: &mut RoaringBitmap) {
        match self {
            Self::Few(_) => *bitmap &= self.to_bitmap(),
            Self::Many(many) => *bitmap &= &many.ids,
        }
    }

    /// All ids as a bitmap.
    pub(super) fn to_bitmap(&self) -> RoaringBitmap {
        match self {
            Self::Few(ids) => ids.iter().copied().collect(),
            Self::Many(many) => many.ids.clone(),
        }
    }

    /// How many of the ids are in a bitmap.
    pub(super) fn count_in(&self, bitmap: &RoaringBitmap) -> u64 {
        match self {
            Self::Few(ids) => ids.iter().filter(|&&id| bitmap.contains(id)).count() as u64,
            Self::Many(many) => many.ids.intersection_len(bitmap),
        }
    }

    /// Whether all ids are in a bitmap.
    pub(super) fn is_subset(&self, bitmap: &RoaringBitmap) -> bool {
        match self {
            Self::Few(ids) => ids.iter().all(|&id| bitmap.contains(id)),
            Self::Many(many) => many.ids.is_subset(bitmap),
        }
    }

    #[cfg(test)]
    pub(super) fn contains(&self, id: u32) -> bool {
        match self {
            Self::Few(ids) => ids.binary_search(&id).is_ok(),
            Self::Many(many) => many.ids.contains(id),
        }
    }

    /// The ids from `from` on, ascending.
    pub(super) fn range(&self, from: u32) -> impl Iterator<Item = u32> {
        let (few, many) = match self {
            Self::Few(ids) => (
                Some(ids[ids.partition_point(|&id| id < from)..].iter().copied()),
                None,
            ),
            Self::Many(many) => (None, Some(many.ids.range(from..))),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }

    /// Bytes on the heap; of a bitmap as of its last recount, which is at most a quarter of its entries ago.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Few(ids) if ids.spilled() => ids.capacity() * size_of::<u32>(),
            Self::Few(_) => 0,
            Self::Many(many) => many.bytes,
        }
    }
}

impl Many {
    /// Counts the bytes. O(length / 65,536), and done once for a constant part of the length.
    fn recount(&mut self) {
        self.bytes = size_of::<Self>() + bytes_of(&self.ids);
        self.recount_below = self.len / 2;
        self.recount_above = self.len + self.len / 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 64 }))]
        #[test]
        fn it_behaves_like_a_sorted_set(start in 0_u32..200, ops in proptest::collection::vec((any::<bool>(), 0_u32..300), 0..600)) {
            let mut ids = Ids::default();
            let mut model = BTreeSet::new();
            // Far apart, so that several containers are met.
            for i in 0..start {
                ids.insert(i * 5_000);
                model.insert(i * 5_000);
            }
            for (add, x) in ops {
                let id = x * 5_000;
                if add && model.insert(id) {
                    ids.insert(id);
                } else if !add && model.remove(&id) {
                    ids.remove(id);
                }
                prop_assert_eq!(ids.len() as usize, model.len());
                prop_assert_eq!(ids.contains(id), model.contains(&id));
                prop_assert_eq!(ids.range(id).next(), model.range(id..).next().copied());
            }
            prop_assert!(ids.range(0).eq(model));
        }
    }

    #[test]
    fn one_id_takes_no_heap_and_many_dense_ones_little() {
        let mut ids = Ids::default();
        ids.insert(7);
        assert_eq!(ids.heap_bytes(), 0);
        let count = if cfg!(miri) { 6_000 } else { 100_000 };
        for id in 8..count {
            ids.insert(id);
        }
        assert!(ids.heap_bytes() < count as usize * 2);
    }

    #[test]
    fn it_gives_its_memory_back() {
        let mut ids = Ids::default();
        for id in 0..5_000 {
            ids.insert(id);
        }
        for id in 0..4_999 {
            ids.remove(id);
        }
        assert_eq!((ids.len(), ids.heap_bytes()), (1, 0));
    }
}
