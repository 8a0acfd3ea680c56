//! Hard and soft invalidation, and reclaiming.
//!
//! Each takes set operations on bitmaps, 64 entries at a time: some dozens of microseconds for a million entries.

use std::borrow::Cow;

use roaring::RoaringBitmap;

use super::{Effect, Index, Step};
use crate::engine::slots::Slot;
use crate::record::Softness;

/// Up to this many entries that became gone together are reclaimed before others.
const FIRST: u64 = 1_024;

impl<E: Copy + PartialEq> Index<E> {
    /// Makes the entries of these tags gone or stale, and returns the number of (entry, tag) pairs. A tag that is given
    /// twice counts once.
    pub(crate) fn invalidate(&mut self, tags: &[&[u8]], effect: Effect, now_ms: u64) -> u64 {
        let softness = Softness::since(now_ms);
        self.settle(effect, softness, |index| index.union(tags));
        let mut pairs = 0;
        let mut dropped = RoaringBitmap::new();
        let mut seen = RoaringBitmap::new();
        // The cost is known if there is one tag, and none of its entries is gone.
        let mut cost = None;
        for list in tags.iter().filter_map(|tag| self.find(tag)) {
            if !seen.insert(list) {
                continue;
            }
            let list = self.lists.get(list);
            let mut visible = list.ids.to_bitmap();
            if !self.gone.is_empty() {
                visible -= &self.gone;
            }
            pairs += visible.len();
            if dropped.is_empty() {
                let is_whole = visible.len() == u64::from(list.ids.len());
                cost = is_whole.then_some(list.ids.bytes());
                dropped = visible;
            } else {
                cost = None;
                dropped |= visible;
            }
        }
        match effect {
            Effect::Gone => self.drop_all(dropped, cost),
            Effect::Stale => self.soften_all(dropped, softness),
        }
        pairs
    }

    /// Drops all entries, and returns how many were visible.
    pub(crate) fn flush(&mut self) -> u64 {
        let dropped = self.visible();
        self.gone = self.slots.pages.to_bitmap();
        self.gone_bytes = self.bytes;
        self.hollow.unseen |= &self.gone;
        self.marks.clear_soft();
        self.marks.doubted = RoaringBitmap::new();
        dropped
    }

    /// Ends the doubt about entries that an invalidation names: every node knows now that they are gone, also those
    /// that only this node refused. Entries that became stale elsewhere become stale here, in case they are accepted
    /// after all.
    pub(super) fn settle(
        &mut self,
        effect: Effect,
        softness: Softness,
        named: impl FnOnce(&Self) -> RoaringBitmap,
    ) {
        if self.marks.doubted.is_empty() {
            return;
        }
        let mut named = named(self) & &self.marks.doubted;
        if effect == Effect::Stale {
            let graced = &named & &self.marks.graced;
            named -= &graced;
            self.marks.soften(graced, softness);
        }
        self.marks.doubted -= named;
    }

    /// Makes visible entries stale, or gone if they have no grace.
    pub(super) fn soften_all(&mut self, visible: RoaringBitmap, softness: Softness) {
        let graced = &self.marks.graced & &visible;
        self.drop_all(visible - &graced, None);
        self.marks.soften(graced, softness);
    }

    /// Makes visible entries gone. O(entries / 64) if their `cost` is given, else O(entries).
    pub(super) fn drop_all(&mut self, visible: RoaringBitmap, cost: Option<u64>) {
        self.gone_bytes += cost.unwrap_or_else(|| self.bytes_of(&visible));
        self.hollow.unseen |= &visible;
        if visible.len() > FIRST || self.gone_last.len() as u64 > FIRST {
            self.gone_last.clear();
        } else {
            self.gone_last.extend(&visible);
        }
        if self.gone.is_empty() {
            self.reclaim_from = 0;
            self.gone = visible;
        } else {
            self.gone |= visible;
        }
    }

    pub(crate) fn drop_one(&mut self, slot: Slot) {
        if self.gone.insert(slot.0) {
            self.hollow.unseen.insert(slot.0);
            self.gone_bytes += self.slots.bytes(slot);
        }
        self.marks.doubted.remove(slot.0);
    }

    /// From here on this node decides: makes the doubted entries gone and returns them, also those that were gone
    /// already. O(entries). [`Index::reclaim_step`] names entries whose grace is over once more.
    pub(crate) fn begin_to_decide(&mut self) -> Vec<Slot> {
        self.marks.look_again();
        let doubted = std::mem::take(&mut self.marks.doubted);
        self.drop_all(&doubted - &self.gone, None);
        doubted.iter().map(Slot).collect()
    }

    /// Whether entries wait to be reclaimed. If not, every indexed entry is visible.
    pub(crate) fn has_backlog(&self) -> bool {
        !self.gone.is_empty() || self.has_orphans
    }

    /// Whether [`Index::reclaim_step`] has something to do.
    pub(crate) fn has_work(&self, now_ms: u64) -> bool {
        self.has_backlog() || self.marks.has_due(now_ms)
    }

    /// The next step of reclaiming. Leaves out doubted entries, and foreign ones if `holds_foreign`. O(1),
    /// O(entries / 64) where many of those come first.
    pub(crate) fn reclaim_step(&mut self, now_ms: u64, holds_foreign: bool) -> Step {
        /// Up to this many such entries are skipped one by one.
        const FEW: usize = 64;
        let (foreign, doubted) = (&self.marks.foreign, &self.marks.doubted);
        let is_free = |&id: &u32| !(doubted.contains(id) || holds_foreign && foreign.contains(id));
        while let Some(id) = self.gone_last.pop() {
            if self.gone.contains(id) && is_free(&id) {
                return Step::Gone(Slot(id));
            }
        }
        // Starts where the last one was found, so that no search begins at words that are empty already.
        let from = self.reclaim_from;
        let next = self.gone.range(from..).take(FEW).find(is_free);
        let next = next.or_else(|| {
            let mut gone = Cow::Borrowed(&self.gone);
            for held in [Some(doubted), holds_foreign.then_some(foreign)] {
                if let Some(held) = held.filter(|held| !held.is_empty()) {
                    *gone.to_mut() -= held;
                }
            }
            gone.range(from..).next().or_else(|| gone.min())
        });
        if let Some(id) = next {
            self.reclaim_from = id;
            return Step::Gone(Slot(id));
        }
        let softened = self.marks.next_softened(now_ms);
        softened.map_or(Step::Idle, Step::Softened)
    }

    /// Marks all entries as stamped by another clock than that of later writes. O(slots / 64).
    pub(crate) fn set_all_foreign(&mut self) {
        self.marks.foreign = self.slots.pages.to_bitmap();
    }
}
