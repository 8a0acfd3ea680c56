//! Which lists are *hollow*: all of their entries are gone. So the number of tags that visible entries carry is known
//! while memory is not back, without a look at all tags.
//!
//! An invalidation does not touch the lists of the entries that it drops. They are looked at later, each once: a few with
//! each entry that is reclaimed, the rest when the number is asked for.

use roaring::RoaringBitmap;

use super::Index;
use crate::engine::marks::bytes_of;
use crate::engine::slots::Slot;

/// How many gone entries are looked at with each that is reclaimed.
const LOOKS: usize = 16;

/// Longer lists are looked at when the number is asked for, once for all of their entries.
const SHORT: u32 = 32;

/// What is known of hollow lists while entries are gone; empty otherwise.
#[derive(Debug, Default)]
pub(super) struct Hollow {
    /// Lists that are hollow.
    lists: RoaringBitmap,
    /// Lists that may be.
    doubtful: RoaringBitmap,
    /// Slots of gone entries of which each list may be.
    unseen: RoaringBitmap,
}

impl Hollow {
    /// These entries are gone now.
    pub(super) fn dropped(&mut self, slots: &RoaringBitmap) {
        self.unseen |= slots;
    }

    /// A gone entry leaves. True if that makes its lists doubtful.
    pub(super) fn left(&mut self, slot: Slot) -> bool {
        self.unseen.remove(slot.0)
    }

    /// Entries left these lists, while others are gone.
    pub(super) fn doubt(&mut self, lists: &[u32]) {
        self.doubtful.extend(lists);
    }

    /// A visible entry came to a list.
    pub(super) fn filled(&mut self, list: u32) {
        self.lists.remove(list);
    }

    /// There is no such list any more.
    pub(super) fn destroyed(&mut self, list: u32) {
        self.lists.remove(list);
        self.doubtful.remove(list);
    }

    pub(super) fn heap_bytes(&self) -> usize {
        bytes_of(&self.lists) + bytes_of(&self.doubtful) + bytes_of(&self.unseen)
    }
}

impl<E: Copy + PartialEq> Index<E> {
    /// Tags that at least one visible entry carries. O(1) while nothing is gone, else O(tags of the entries that became gone,
    /// or left, since the last call), those excepted that [`Index::look_ahead`] has seen.
    pub(crate) fn populated_tags(&mut self) -> usize {
        if self.visible() == 0 {
            return 0;
        }
        self.look(usize::MAX);
        for id in std::mem::take(&mut self.hollow.doubtful) {
            if self.lists.get(id).ids.is_subset(&self.gone) {
                self.hollow.lists.insert(id);
            }
        }
        self.lists.live() - self.hollow.lists.len() as usize
    }

    /// Looks at a few gone entries, if more are left than can be looked at when the number is asked for: those of a small tag
    /// are reclaimed at once, and nobody asks before.
    pub(super) fn look_ahead(&mut self) {
        if self.hollow.unseen.len() > LOOKS as u64 {
            self.look(LOOKS);
        }
    }

    fn look(&mut self, most: usize) {
        let Hollow {
            lists,
            doubtful,
            unseen,
        } = &mut self.hollow;
        for slot in unseen.iter().take(most) {
            for id in self.slots.lists(Slot(slot)) {
                let ids = &self.lists.get(id).ids;
                if ids.len() > SHORT {
                    doubtful.insert(id);
                } else if ids.is_subset(&self.gone) {
                    lists.insert(id);
                }
            }
        }
        match u32::try_from(most)
            .ok()
            .and_then(|most| unseen.select(most))
        {
            Some(next) => _ = unseen.remove_range(..next),
            None => *unseen = RoaringBitmap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::index::Effect;
    use crate::engine::index::tests::plain;

    #[test]
    fn the_tags_of_each_gone_entry_are_looked_at_once() {
        let mut index: Index<u64> = Index::default();
        for entry in 0..100 {
            index.insert(plain(entry, &[b"all", format!("{entry}").as_bytes()]));
        }
        index.insert(plain(100, &[b"other"]));
        index.invalidate(&[b"all"], Effect::Gone, 0);
        assert_eq!(index.hollow.unseen.len(), 100);
        index.reclaim_step(0);
        assert_eq!(index.hollow.unseen.len(), 100 - LOOKS as u64);
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
