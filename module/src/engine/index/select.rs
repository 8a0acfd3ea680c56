//! Entries by a condition on their tags: set operations on the tags' bitmaps.

use roaring::{MultiOps, RoaringBitmap};

use super::Index;
use crate::engine::ids::Ids;
use crate::record::Softness;

/// Selects the entries that carry all tags of `all`, at least one of `any` and none of `none`. A clause that is `None`
/// is ignored.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Condition<'t> {
    pub(crate) all: Option<&'t [&'t [u8]]>,
    pub(crate) any: Option<&'t [&'t [u8]]>,
    pub(crate) none: Option<&'t [&'t [u8]]>,
}

/// The effect of an invalidation on its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Gone,
    /// Stale where they have a grace, else gone.
    Stale,
}

impl<E: Copy + PartialEq> Index<E> {
    /// Makes the entries that a condition selects gone or stale, and returns their number.
    ///
    /// O(tags given + slots / 64): bitmaps are intersected and united word by word.
    pub(crate) fn invalidate_where(
        &mut self,
        condition: Condition<'_>,
        effect: Effect,
        softness: Softness,
    ) -> u64 {
        self.settle(effect, softness, |index| index.named(condition));
        let selected = self.select(condition);
        let dropped = selected.len();
        match effect {
            Effect::Gone => self.drop_all(selected, None),
            Effect::Stale => self.soften_all(selected, softness),
        }
        dropped
    }

    /// The visible entries that a condition selects. Cost as [`Index::invalidate_where`].
    pub(crate) fn select(&self, condition: Condition<'_>) -> RoaringBitmap {
        self.named(condition) - &self.gone
    }

    fn named(&self, condition: Condition<'_>) -> RoaringBitmap {
        let any = condition.any.map(|tags| self.union(tags));
        let all = condition.all.map(|tags| self.intersection(tags));
        let mut selected = match (all, any) {
            (Some(all), Some(any)) => all & any,
            (Some(selected), None) | (None, Some(selected)) => selected,
            (None, None) => self.slots.pages.to_bitmap(),
        };
        selected -= self.union(condition.none.unwrap_or_default());
        selected
    }

    fn known(&self, tags: &[&[u8]]) -> impl Iterator<Item = &Ids> {
        let lists = tags.iter().filter_map(|tag| self.find(tag));
        lists.map(|list| &self.lists.get(list).ids)
    }

    pub(super) fn union(&self, tags: &[&[u8]]) -> RoaringBitmap {
        let mut union = RoaringBitmap::new();
        self.known(tags).for_each(|ids| ids.add_to(&mut union));
        union
    }

    /// Starts with the smallest set, so that the work is in proportion to it.
    fn intersection(&self, tags: &[&[u8]]) -> RoaringBitmap {
        let mut sets: Vec<&Ids> = self.known(tags).collect();
        if sets.len() < tags.len() {
            return RoaringBitmap::new(); // Nothing carries a tag that is not known.
        }
        sets.sort_unstable_by_key(|ids| ids.len());
        sets.into_iter().map(Ids::to_bitmap).intersection()
    }
}
