//! Entries by a condition on their tags: set operations on the tags' bitmaps.

use roaring::RoaringBitmap;

use super::Index;
use crate::record::Softness;

/// Which entries are meant: those that carry all of these tags, at least one of those, none of these. A clause that is
/// `None` says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Condition<'t> {
    pub(crate) all: Option<&'t [&'t [u8]]>,
    pub(crate) any: Option<&'t [&'t [u8]]>,
    pub(crate) none: Option<&'t [&'t [u8]]>,
}

/// What becomes of entries that are invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Gone,
    /// Stale where they have a grace, else gone.
    Stale,
}

impl<E: Copy + PartialEq> Index<E> {
    /// How many visible entries a condition selects. Cost as [`Index::invalidate_where`].
    pub(crate) fn count_where(&self, condition: Condition<'_>) -> u64 {
        self.select(condition).len()
    }

    /// Makes the entries that a condition selects gone or stale, and returns how many they are.
    ///
    /// O(tags given + slots / 64): bitmaps are intersected and united word by word.
    pub(crate) fn invalidate_where(
        &mut self,
        condition: Condition<'_>,
        effect: Effect,
        softness: Softness,
    ) -> u64 {
        let selected = self.select(condition);
        let dropped = selected.len();
        match effect {
            Effect::Gone => self.drop_all(selected, None),
            Effect::Stale => self.soften_all(selected, softness),
        }
        dropped
    }

    fn select(&self, condition: Condition<'_>) -> RoaringBitmap {
        let any = condition.any.map(|tags| self.union(tags));
        let mut selected = match (condition.all, any) {
            (Some(all), any) => {
                let mut selected = self.intersection(all);
                if let Some(any) = any {
                    selected &= any;
                }
                selected
            }
            (None, Some(any)) => any,
            (None, None) => self.slots.map.to_bitmap(),
        };
        for ids in self.known(condition.none.unwrap_or_default()) {
            self.lists.get(ids).ids.take_from(&mut selected);
        }
        selected -= &self.gone;
        selected
    }

    fn known(&self, tags: &[&[u8]]) -> impl Iterator<Item = u32> {
        tags.iter().filter_map(|tag| self.find(tag))
    }

    fn union(&self, tags: &[&[u8]]) -> RoaringBitmap {
        let mut union = RoaringBitmap::new();
        for list in self.known(tags) {
            self.lists.get(list).ids.add_to(&mut union);
        }
        union
    }

    /// Starts with the smallest, so that the work is in proportion to it.
    fn intersection(&self, tags: &[&[u8]]) -> RoaringBitmap {
        let mut lists: Vec<u32> = self.known(tags).collect();
        if lists.len() < tags.len() {
            return RoaringBitmap::new(); // Nothing carries a tag that is not known.
        }
        lists.sort_unstable_by_key(|&list| self.lists.get(list).ids.len());
        let mut lists = lists.into_iter().map(|list| &self.lists.get(list).ids);
        let Some(smallest) = lists.next() else {
            return RoaringBitmap::new();
        };
        let mut selected = smallest.to_bitmap();
        for ids in lists {
            ids.keep_in(&mut selected);
        }
        selected
    }
}
