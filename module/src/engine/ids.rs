//! A set of slots: the members of a list.

use roaring::RoaringBitmap;
use smallvec::SmallVec;

use super::marks::bytes_of;

/// Up to this many ids are one sorted array; beyond, a compressed bitmap.
const FEW: usize = 32;

/// Up to this many ids of a range of 65,536 are an array inside a bitmap.
const ARRAY: u32 = 4096;

/// New ids are put into a bitmap this many at a time. Where tags alternate, the place of each id lies outside the
/// processor's caches: waiting for each one took a fifth of the loading time.
const TOGETHER: usize = 16;

/// A sorted set of `u32`, small for few ids and dense for many, and the total cost of its members.
///
/// A tag of one entry takes no heap at all; a tag of half of all entries takes an eighth of a byte per entry (Lemire et
/// al., *Roaring Bitmaps: Implementation of an Optimized Software Library*, Software: Practice and Experience 48,
/// 2018). Adding and removing is O(1) in a bitmap, and bounded by a move of 8 KiB in an array.
///
/// The costs are stored here because a set of one id has room for them.
#[derive(Debug)]
pub(super) enum Ids {
    /// One id, or none ([`NO_ID`]).
    One {
        id: u32,
        bytes: u64,
    },
    Few(Box<Few>),
    Many(Box<Many>),
}

const NO_ID: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(super) struct Few {
    ids: SmallVec<[u32; 4]>,
    bytes: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Many {
    ids: RoaringBitmap,
    /// Ids that are not in `ids` yet, in any order: the first `new_len` of them.
    new: [u32; TOGETHER],
    new_len: usize,
    bytes: u64,
    len: u32,
    /// Heap bytes at the last count, and the lengths at which they are counted again.
    heap_bytes: usize,
    recount_below: u32,
    recount_above: u32,
}

impl Default for Ids {
    fn default() -> Self {
        Self::One {
            id: NO_ID,
            bytes: 0,
        }
    }
}

impl Ids {
    /// All ids: those outside the bitmap, and the bitmap.
    fn parts(&self) -> (&[u32], Option<&RoaringBitmap>) {
        match self {
            Self::One { id: NO_ID, .. } => (&[], None),
            Self::One { id, .. } => (std::slice::from_ref(id), None),
            Self::Few(few) => (&few.ids, None),
            Self::Many(many) => (&many.new[..many.new_len], Some(&many.ids)),
        }
    }

    pub(super) fn len(&self) -> u32 {
        match self {
            Self::Many(many) => many.len,
            _ => self.parts().0.len() as u32,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The total cost of all members, bytes.
    pub(super) const fn bytes(&self) -> u64 {
        match self {
            Self::One { bytes, .. } => *bytes,
            Self::Few(few) => few.bytes,
            Self::Many(many) => many.bytes,
        }
    }

    /// Changes the cost of a member.
    pub(super) fn resize(&mut self, old_bytes: u64, bytes: u64) {
        let sum = match self {
            Self::One { bytes, .. } => bytes,
            Self::Few(few) => &mut few.bytes,
            Self::Many(many) => &mut many.bytes,
        };
        *sum = *sum - old_bytes + bytes;
    }

    /// Inserts as [`Ids::insert`] does, if the id can wait to enter a bitmap, as it mostly can in large sets; else
    /// returns false and does nothing.
    #[inline(always)]
    pub(super) fn insert_later(&mut self, new: u32, bytes: u64) -> bool {
        match self {
            Self::Many(many) if many.new_len < TOGETHER - 1 && many.len < many.recount_above => {
                many.push(new);
                many.bytes += bytes;
                true
            }
            _ => false,
        }
    }

    /// Adds an id that is not in the set, with its cost.
    pub(super) fn insert(&mut self, new: u32, bytes: u64) {
        match self {
            Self::One { id, .. } if *id == NO_ID => *id = new,
            Self::One { id, bytes } => {
                let mut ids = SmallVec::from_slice(&[*id, new]);
                ids.sort_unstable();
                *self = Self::Few(Box::new(Few { ids, bytes: *bytes }));
            }
            Self::Few(few) => {
                let at = few.ids.partition_point(|&other| other < new);
                few.ids.insert(at, new);
                if few.ids.len() > FEW {
                    let mut many = Many {
                        ids: few.ids.iter().copied().collect(),
                        len: few.ids.len() as u32,
                        bytes: few.bytes,
                        ..Many::default()
                    };
                    many.recount();
                    *self = Self::Many(Box::new(many));
                }
            }
            Self::Many(many) => {
                many.push(new);
                if many.new_len == TOGETHER {
                    many.settle();
                }
                if many.len > many.recount_above {
                    many.recount();
                }
            }
        }
        self.resize(0, bytes);
    }

    /// Removes an id that is in the set, with its cost.
    pub(super) fn remove(&mut self, old: u32, bytes: u64) {
        self.resize(bytes, 0);
        match self {
            Self::One { id, .. } => *id = NO_ID,
            Self::Few(few) => {
                if let Ok(at) = few.ids.binary_search(&old) {
                    few.ids.remove(at);
                }
                if let [id] = few.ids[..] {
                    let bytes = few.bytes;
                    *self = Self::One { id, bytes };
                } else if few.ids.spilled() && few.ids.len() * 4 <= few.ids.capacity() {
                    few.ids.shrink_to_fit();
                }
            }
            Self::Many(many) => {
                let mut new = many.new[..many.new_len].iter();
                if let Some(at) = new.position(|&id| id == old) {
                    many.new_len -= 1;
                    many.new[at] = many.new[many.new_len];
                } else {
                    many.ids.remove(old);
                }
                many.len -= 1;
                if many.len as usize <= FEW / 2 {
                    many.settle();
                    *self = Self::Few(Box::new(Few {
                        ids: many.ids.iter().collect(),
                        bytes: many.bytes,
                    }));
                } else if many.len < many.recount_below {
                    // A copy drops the spare room of the arrays inside.
                    let copy = many.ids.clone();
                    many.ids = copy;
                    many.recount();
                }
            }
        }
    }

    pub(super) fn add_to(&self, bitmap: &mut RoaringBitmap) {
        let (few, many) = self.parts();
        if let Some(many) = many {
            *bitmap |= many;
        }
        bitmap.extend(few);
    }

    pub(super) fn to_bitmap(&self) -> RoaringBitmap {
        let mut bitmap = RoaringBitmap::new();
        self.add_to(&mut bitmap);
        bitmap
    }

    pub(super) fn count_in(&self, bitmap: &RoaringBitmap) -> u64 {
        let (few, many) = self.parts();
        let count = few.iter().filter(|&&id| bitmap.contains(id)).count() as u64;
        count + many.map_or(0, |many| many.intersection_len(bitmap))
    }

    pub(super) fn is_subset(&self, bitmap: &RoaringBitmap) -> bool {
        let (few, many) = self.parts();
        few.iter().all(|&id| bitmap.contains(id)) && many.is_none_or(|many| many.is_subset(bitmap))
    }

    /// The ids from `from` on, ascending.
    pub(super) fn range(&self, from: u32) -> impl Iterator<Item = u32> {
        let (few, many) = self.parts();
        let few = few.iter().copied().filter(|&id| id >= from);
        let mut few: SmallVec<[u32; FEW]> = few.collect();
        few.sort_unstable();
        let mut few = few.into_iter().peekable();
        let many = many.map(|many| many.range(from..));
        let mut many = many.into_iter().flatten().peekable();
        std::iter::from_fn(move || match (few.peek(), many.peek()) {
            (Some(one), Some(other)) if one > other => many.next(),
            (None, _) => many.next(),
            _ => few.next(),
        })
    }

    /// Bytes on the heap; for a bitmap, as of its last recount: it has grown by a quarter or shrunk by half at most
    /// since then.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::One { .. } => 0,
            Self::Few(few) if few.ids.spilled() => {
                size_of::<Few>() + few.ids.capacity() * size_of::<u32>()
            }
            Self::Few(_) => size_of::<Few>(),
            Self::Many(many) => many.heap_bytes,
        }
    }
}

impl Many {
    fn push(&mut self, new: u32) {
        self.new[self.new_len] = new;
        self.new_len += 1;
        self.len += 1;
    }

    /// Puts all ids into the bitmap.
    fn settle(&mut self) {
        let new = &mut self.new[..self.new_len];
        new.sort_unstable();
        // Mostly they are higher than the ids before. But `append` looks for the highest of those, in a dense bitmap by
        // a walk through up to 8 KiB; a bitmap of this few ids is not dense.
        if self.len > ARRAY || self.ids.append(new.iter().copied()).is_err() {
            self.ids.extend(&*new);
        }
        self.new_len = 0;
    }

    /// Counts the bytes. O(length / 65,536), and done once per constant fraction of the length.
    fn recount(&mut self) {
        self.heap_bytes = size_of::<Self>() + bytes_of(&self.ids);
        self.recount_below = self.len / 2;
        self.recount_above = self.len + self.len / 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    impl Ids {
        pub(in crate::engine) fn contains(&self, id: u32) -> bool {
            let (few, many) = self.parts();
            few.contains(&id) || many.is_some_and(|many| many.contains(id))
        }
    }

    fn cost(id: u32) -> u64 {
        u64::from(id) + 4
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 64 }))]
        #[test]
        fn ids_behave_like_a_sorted_set(
            start in 0_u32..if cfg!(miri) { 50 } else { 200 },
            ops in proptest::collection::vec((any::<bool>(), 0_u32..300), 0..if cfg!(miri) { 60 } else { 600 }),
        ) {
            let mut ids = Ids::default();
            let mut model = BTreeSet::new();
            // Far apart, so that several containers are used.
            for i in 0..start {
                ids.insert(i * 5_000, cost(i * 5_000));
                model.insert(i * 5_000);
            }
            for (add, x) in ops {
                let id = x * 5_000;
                if add && model.insert(id) {
                    ids.insert(id, cost(id));
                } else if !add && model.remove(&id) {
                    ids.remove(id, cost(id));
                }
                prop_assert_eq!(ids.bytes(), model.iter().map(|&id| cost(id)).sum::<u64>());
                prop_assert_eq!(ids.len() as usize, model.len());
                prop_assert_eq!(ids.contains(id), model.contains(&id));
                prop_assert_eq!(ids.range(id).next(), model.range(id..).next().copied());
            }
            prop_assert!(ids.range(0).eq(model));
        }
    }

    #[test]
    fn one_id_takes_no_heap_and_dense_ids_take_little() {
        let mut ids = Ids::default();
        ids.insert(7, 1);
        assert_eq!(ids.heap_bytes(), 0);
        let count = if cfg!(miri) { 600 } else { 100_000 };
        for id in 8..count {
            ids.insert(id, 1);
        }
        // Miri has time for only a few ids, for which a bitmap is not small.
        assert!(cfg!(miri) || ids.heap_bytes() < count as usize * 2);
    }

    #[test]
    fn ids_agree_with_bitmaps_and_convert_to_one() {
        // No id, one, an array, and bitmaps with some ids or no ids outside the bitmap.
        for count in [0, 1, 5, FEW as u32 + 1, 45, 300] {
            let mut ids = Ids::default();
            let own: BTreeSet<u32> = (0..count).map(|id| id * 3).collect();
            for &id in &own {
                ids.insert(id, 1);
            }
            let other: BTreeSet<u32> = (0..count + 10).map(|id| id * 2).collect();
            let bitmap = || other.iter().copied().collect::<RoaringBitmap>();
            assert_eq!(ids.count_in(&bitmap()), (&own & &other).len() as u64);
            assert_eq!(ids.is_subset(&bitmap()), own.is_subset(&other));
            assert!(ids.is_subset(&ids.to_bitmap()));
            assert!(ids.to_bitmap().iter().eq(own));
        }
    }

    #[test]
    fn heap_bytes_follow_a_bitmap_as_it_grows_and_shrinks() {
        let count = if cfg!(miri) { 200 } else { 20_000 };
        let mut ids = Ids::default();
        let check = |ids: &Ids| {
            if let Ids::Many(many) = ids {
                let now = size_of::<Many>() + bytes_of(&many.ids);
                let counted = ids.heap_bytes();
                assert!((now / 3..=now * 3).contains(&counted), "{counted}, {now}");
            }
        };
        for id in 0..count {
            ids.insert(id * 7, 1);
            check(&ids);
        }
        for id in 0..count {
            assert_eq!(
                matches!(ids, Ids::Many(_)),
                ids.len() as usize > FEW / 2,
                "an array once half of what makes a bitmap is left"
            );
            check(&ids);
            ids.remove(id * 7, 1);
        }
    }

    #[test]
    fn removing_ids_frees_the_memory_of_a_bitmap() {
        let count = if cfg!(miri) { 300 } else { 5_000 };
        let mut ids = Ids::default();
        for id in 0..count {
            ids.insert(id, 1);
        }
        for id in 0..count - 1 {
            ids.remove(id, 1);
        }
        assert_eq!((ids.len(), ids.bytes(), ids.heap_bytes()), (1, 1, 0));
    }

    #[test]
    fn removing_ids_frees_the_memory_of_a_short_list() {
        let count = FEW as u32;
        let mut ids = Ids::default();
        for id in 0..count {
            ids.insert(id, 1);
        }
        let full = ids.heap_bytes();
        for id in 0..count {
            ids.remove(id, 1);
            // A list that is still more than a quarter full is not moved.
            let left = count - id - 1;
            if left > count / 4 {
                assert_eq!(ids.heap_bytes(), full, "{left} left");
            } else if left > 1 {
                let most = size_of::<Few>() + 4 * left as usize * size_of::<u32>();
                assert!(ids.heap_bytes() <= most, "{left} left");
            }
        }
    }
}
