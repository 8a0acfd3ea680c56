//! *Hollow* lists: all of their entries are gone. They give the number of tags that visible entries carry while memory
//! is not reclaimed yet, without a look at all tags for each query.
//!
//! An invalidation does not touch the lists of the entries that it drops. They are checked once, when the number is
//! requested.

use roaring::RoaringBitmap;

use super::Index;
use crate::engine::marks::bytes_of;
use crate::engine::slots::Slot;

/// The hollow lists that are known while entries are gone; empty otherwise.
#[derive(Debug, Default)]
pub(super) struct Hollow {
    /// Lists that are hollow.
    pub(super) lists: RoaringBitmap,
    /// Lists that may be hollow: an entry left them while some were gone, and other entries remain.
    pub(super) doubtful: RoaringBitmap,
    /// Slots of gone entries, each of whose lists may be hollow.
    pub(super) unseen: RoaringBitmap,
}

impl Hollow {
    pub(super) fn heap_bytes(&self) -> usize {
        bytes_of(&self.lists) + bytes_of(&self.doubtful) + bytes_of(&self.unseen)
    }
}

impl<E: Copy + PartialEq> Index<E> {
    /// The number of tags that at least one visible entry carries, and of those that [`Index::look_for_hollow`] has yet
    /// to check. O(1).
    pub(crate) fn populated_tags(&self) -> usize {
        if self.visible() == 0 {
            return 0;
        }
        self.lists.pages.live() - self.hollow.lists.len() as usize
    }

    /// Checks up to `most` lists, or the lists of up to `most` entries, for entries that became gone, or left, since
    /// the last check; or all lists if these are fewer. True if [`Index::populated_tags`] is exact now.
    pub(crate) fn look_for_hollow(&mut self, most: u64) -> bool {
        let Hollow {
            lists,
            doubtful,
            unseen,
        } = &mut self.hollow;
        if self.slots.len() as u64 == self.gone.len() {
            return true; // Nothing is visible, so no tag is.
        }
        if unseen.len() >= self.lists.pages.live() as u64 {
            *doubtful = self.lists.pages.to_bitmap();
            unseen.clear();
        }
        if unseen.is_empty() {
            let hollow = take(doubtful, most);
            let hollow = hollow
                .iter()
                .filter(|&id| self.lists.get(id).ids.is_subset(&self.gone));
            lists.extend(hollow);
        } else {
            let carried = take(unseen, most);
            doubtful.extend(carried.iter().flat_map(|slot| self.slots.lists(Slot(slot))));
        }
        unseen.is_empty() && doubtful.is_empty()
    }
}

/// Takes the lowest numbers out of a set.
fn take(set: &mut RoaringBitmap, most: u64) -> RoaringBitmap {
    if set.len() <= most {
        return std::mem::take(set);
    }
    let taken: RoaringBitmap = set.iter().take(most as usize).collect();
    set.remove_smallest(most);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::index::Effect;
    use crate::engine::index::tests::plain;

    #[test]
    fn the_tags_of_each_gone_entry_are_checked_once() {
        let mut index: Index<u64> = Index::default();
        for entry in 0..100 {
            index.insert(plain(entry, &[b"all", format!("{entry}").as_bytes()]));
        }
        index.insert(plain(100, &[b"other"]));
        index.invalidate(&[b"all"], Effect::Gone, 0);
        assert_eq!(index.hollow.unseen.len(), 100);
        let mut steps = 0;
        while !index.look_for_hollow(16) {
            steps += 1;
            index.validate(|_| 4);
        }
        assert_eq!(steps, 13);
        assert_eq!(index.populated_tags(), 1);
        assert_eq!(index.hollow.lists.len(), 101);
        assert!(index.hollow.unseen.is_empty() && index.hollow.doubtful.is_empty());
        index.invalidate(&[b"other"], Effect::Gone, 0);
        assert_eq!(index.populated_tags(), 0);
    }

    impl<E: Copy + PartialEq> Index<E> {
        pub(in crate::engine) fn validate_hollow(&self, id: u32) {
            let (ids, hollow) = (&self.lists.get(id).ids, &self.hollow);
            let is_known = hollow.lists.contains(id);
            let may_be = hollow.doubtful.contains(id) || ids.count_in(&hollow.unseen) > 0;
            let is_hollow = ids.is_subset(&self.gone);
            assert!(is_known || may_be || !is_hollow, "invariant 5");
            assert!(is_hollow || !is_known, "invariant 5");
        }
    }
}
