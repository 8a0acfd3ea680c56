//! Maps tags to the entries that carry them, and drops all entries of a tag at once.
//!
//! `DESIGN.md` (Invalidation) explains how it works and what was rejected. [`Index::reclaim_step`] names the gone
//! entries one by one, so that the caller can remove them from the keyspace at its own pace.
//!
//! # Invariants (`Index::validate` asserts them after every step of the property tests)
//! 1. A list that a slot refers to contains the slot, and every slot in a list refers to the list, once.
//! 2. Each list has a row in the table under its tag, and no list is empty.
//! 3. Every gone slot is in use.
//! 4. The sums `bytes`, `gone_bytes` and those of the lists equal a recount.
//! 5. `hollow` covers every list whose entries are all gone, as known, doubtful, or of an unseen entry. Each list that
//!    is known there is such a list.

mod figures;
mod hollow;
mod invalidate;
mod select;
#[cfg(test)]
pub(super) mod tests;

use roaring::RoaringBitmap;

use super::lists::Lists;
use super::marks::{Marks, Softened};
use super::slots::{ListIds, Slot, Slots};
use super::table::TagTable;
use crate::record::Facts;

pub(crate) use figures::TagFigures;
use hollow::Hollow;
pub(crate) use select::{Condition, Effect};

/// One unit of reclaiming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The entry in this slot is gone: take it out of the keyspace and [`Index::remove`] it.
    Gone(Slot),
    /// This entry is stale. If it is new, the clients that hold copies are to be notified. If its grace is over, it is
    /// to be removed, else [`Marks::ends`] is to be called.
    Softened(Softened),
    /// Nothing is left to reclaim.
    Idle,
}

/// Whether an entry may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    Fresh,
    /// Served only to callers that ask for stale values as well.
    Stale,
    Gone,
}

/// An entry to be indexed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming<'t, E> {
    pub(crate) entry: E,
    /// A tag that is given twice counts once.
    pub(crate) tags: &'t [&'t [u8]],
    /// Its cost.
    pub(crate) bytes: u64,
    pub(crate) has_grace: bool,
    pub(crate) facts: Facts,
}

/// The index of one database. `E` is the handle of an entry; the index compares handles and never looks into them.
#[derive(Debug, Default)]
pub(crate) struct Index<E> {
    slots: Slots<E>,
    lists: Lists,
    table: TagTable,
    /// Invalidated entries that wait to be reclaimed.
    gone: RoaringBitmap,
    /// A few entries that became gone last: they are reclaimed first, inside the command that dropped them.
    gone_last: Vec<u32>,
    /// The position in `gone` to look at next.
    reclaim_from: u32,
    hollow: Hollow,
    pub(crate) marks: Marks,
    bytes: u64,
    gone_bytes: u64,
    /// The keyspace holds entries that are not in the index, which was emptied after an internal error. They are gone.
    pub(crate) has_orphans: bool,
}

impl<E: Copy + PartialEq> Index<E> {
    /// Adds an entry: in the slot that an entry of the same name just left, if possible, or above it, so that a scan of
    /// a tag in progress, which goes upwards, does not miss the entry. O(tags).
    #[inline(always)]
    pub(crate) fn insert_near(&mut self, place: Option<Slot>, incoming: Incoming<'_, E>) -> Slot {
        let (bytes, hits) = (incoming.bytes, incoming.facts.hits);
        let mut lists = ListIds::new();
        self.lists_for(incoming.tags, &mut lists);
        let slot = (self.slots).insert(place, incoming.entry, bytes, hits, &lists);
        for &list in &lists {
            self.enlist(list, slot, bytes);
        }
        self.bytes += bytes;
        self.mark(slot, &incoming);
        slot
    }

    /// Sets the marks of a slot's new entry.
    #[inline(always)]
    fn mark(
        &mut self,
        slot: Slot,
        &Incoming {
            has_grace, facts, ..
        }: &Incoming<'_, E>,
    ) {
        if has_grace {
            self.marks.graced.insert(slot.0);
        }
        if facts.is_foreign {
            self.marks.foreign.insert(slot.0);
        }
        // An entry without a grace is never stale.
        if facts.is_gone || facts.softness.is_some() && !has_grace {
            self.drop_one(slot);
        }
        if facts.is_doubted {
            self.marks.doubted.insert(slot.0);
        }
        if let Some(softness) = facts.softness.filter(|_| has_grace) {
            self.marks.soften([slot.0].into_iter().collect(), softness);
        }
    }

    /// Notes whether the visible entry in this slot has a grace. A stale entry without one is gone.
    pub(crate) fn set_graced(&mut self, slot: Slot, has_grace: bool) {
        if has_grace {
            self.marks.graced.insert(slot.0);
            return;
        }
        self.marks.graced.remove(slot.0);
        if self.marks.softness(slot).is_some() {
            self.drop_one(slot);
        }
    }

    /// Replaces a visible entry by a new one. Hits are kept. O(tags).
    ///
    /// The entry keeps its slot, or gets a higher one if it has more tags than before: so a scan of a tag in progress,
    /// which goes upwards, does not miss it.
    pub(crate) fn replace(&mut self, slot: Slot, incoming: Incoming<'_, E>) -> Slot {
        debug_assert!(!self.is_gone(slot));
        self.marks.forget(slot);
        let placed = self.replace_in_lists(slot, &incoming);
        self.mark(placed, &incoming);
        placed
    }

    fn replace_in_lists(&mut self, slot: Slot, incoming: &Incoming<'_, E>) -> Slot {
        let &Incoming { entry, bytes, .. } = incoming;
        if self.carries(slot, incoming.tags) {
            // A value is refreshed under its old tags: no list changes, and none is looked up.
            self.slots.set_entry(slot, entry);
            self.resize(slot, bytes);
            return slot;
        }
        let mut new = ListIds::new();
        self.lists_for(incoming.tags, &mut new);
        let old: ListIds = self.slots.lists(slot).collect();
        let old_bytes = self.slots.bytes(slot);
        self.bytes = self.bytes - old_bytes + bytes;
        let placed = if self.slots.set(slot, entry, bytes, &new) {
            slot
        } else {
            let hits = self.hits(slot);
            self.slots.insert(Some(slot), entry, bytes, hits, &new)
        };
        let (mut before, mut after) = (old.clone(), new.clone());
        before.sort_unstable();
        after.sort_unstable();
        // Lists are entered before others are left, so that a list of only this entry is not dropped and made again.
        for &list in &new {
            if placed == slot && before.binary_search(&list).is_ok() {
                self.lists.get_mut(list).ids.resize(old_bytes, bytes);
            } else {
                self.enlist(list, placed, bytes);
            }
        }
        for list in old {
            if placed != slot || after.binary_search(&list).is_err() {
                self.delist(list, slot, old_bytes);
            }
        }
        if placed != slot {
            self.slots.remove(slot);
        }
        placed
    }

    /// Whether an entry has these tags, in this order, and no mark of any kind.
    #[inline(always)]
    pub(crate) fn is_plain(&self, slot: Slot, tags: &[&[u8]]) -> bool {
        self.marks.is_empty() && self.carries(slot, tags)
    }

    /// Whether an entry has these tags, in this order.
    #[inline(never)]
    fn carries(&self, slot: Slot, tags: &[&[u8]]) -> bool {
        let is = |list, tag: &[u8]| self.lists.get(list).name.is(tag);
        let (narrow, wide) = self.slots.lists(slot).parts();
        narrow.len() + wide.len() == tags.len()
            && narrow
                .iter()
                .zip(tags)
                .all(|(&list, tag)| is(list.into(), tag))
            && wide.iter().zip(tags).all(|(&list, tag)| is(list, tag))
    }

    /// Removes an entry. True if it was gone. O(tags).
    pub(crate) fn remove(&mut self, slot: Slot) -> bool {
        let lists: ListIds = self.slots.lists(slot).collect();
        let bytes = self.slots.bytes(slot);
        let was_gone = self.gone.remove(slot.0);
        if was_gone {
            self.gone_bytes -= bytes;
            self.hollow.unseen.remove(slot.0);
            if self.gone.is_empty() {
                self.gone = RoaringBitmap::new(); // Gives its memory back.
                self.gone_last = Vec::new();
                self.hollow = Hollow::default();
            }
        }
        for list in lists {
            self.delist(list, slot, bytes);
        }
        self.slots.remove(slot);
        self.marks.forget(slot);
        self.bytes -= bytes;
        was_gone
    }

    /// Changes the cost of an entry. O(tags), O(1) if the cost is the same.
    pub(crate) fn resize(&mut self, slot: Slot, bytes: u64) {
        let old_bytes = self.slots.bytes(slot);
        if bytes == old_bytes {
            return;
        }
        self.slots.set_bytes(slot, bytes);
        for list in self.slots.lists(slot) {
            self.lists.get_mut(list).ids.resize(old_bytes, bytes);
        }
        self.bytes = self.bytes - old_bytes + bytes;
        if self.is_gone(slot) {
            self.gone_bytes = self.gone_bytes - old_bytes + bytes;
        }
    }

    /// The lists of these tags, each once and in order; missing lists are made. O(tags).
    #[inline(always)]
    fn lists_for(&mut self, tags: &[&[u8]], lists: &mut ListIds) {
        /// Up to this many lists, a linear search is faster than a set.
        const FEW: usize = 64;
        let mut seen = (tags.len() > FEW).then(RoaringBitmap::new);
        for tag in tags {
            let hash = self.table.hash(tag);
            let list = self.find_hashed(hash, tag).unwrap_or_else(|| {
                let list = self.lists.create(tag);
                self.table.insert(hash, list);
                list
            });
            let is_new = match &mut seen {
                Some(seen) => seen.insert(list),
                None => lists.iter().all(|&other| other != list),
            };
            if is_new {
                lists.push(list);
            }
        }
    }

    fn find(&self, tag: &[u8]) -> Option<u32> {
        self.find_hashed(self.table.hash(tag), tag)
    }

    fn find_hashed(&self, hash: u32, tag: &[u8]) -> Option<u32> {
        self.table
            .find(hash, |list| self.lists.get(list).name.is(tag))
    }

    #[inline(always)]
    fn enlist(&mut self, id: u32, slot: Slot, bytes: u64) {
        self.lists.insert(id, slot.0, bytes);
        if !self.gone.is_empty() {
            self.hollow.lists.remove(id);
        }
    }

    fn delist(&mut self, id: u32, slot: Slot, bytes: u64) {
        self.lists.change(id, |list| list.ids.remove(slot.0, bytes));
        let list = self.lists.get(id);
        if list.ids.is_empty() {
            self.table.remove(self.table.hash(&list.name), id);
            self.lists.destroy(id);
            if !self.gone.is_empty() {
                self.hollow.lists.remove(id);
                self.hollow.doubtful.remove(id);
            }
        } else if !self.gone.is_empty() {
            self.hollow.doubtful.insert(id);
        }
    }

    /// Whether this slot belongs to this entry.
    pub(crate) fn holds(&self, slot: Slot, entry: E) -> bool {
        self.slots.holds(slot, entry)
    }

    /// Sets a new handle for the entry in this slot.
    pub(crate) fn moved(&mut self, slot: Slot, entry: E) {
        self.slots.set_entry(slot, entry);
    }

    /// The handle of the entry in a slot that is in use.
    pub(crate) fn entry(&self, slot: Slot) -> E {
        self.slots.entry(slot)
    }

    /// Whether an entry was invalidated.
    pub(crate) fn is_gone(&self, slot: Slot) -> bool {
        !self.gone.is_empty() && self.gone.contains(slot.0)
    }

    /// Whether an entry of the keyspace, which refers to this slot, is to be removed.
    pub(crate) fn must_leave(&self, slot: Option<Slot>, entry: E) -> bool {
        slot.filter(|&slot| self.holds(slot, entry))
            .map_or(self.has_orphans, |slot| self.is_gone(slot))
    }

    /// Whether the entry in a slot, which has this grace, may be served. The server's deadline and the time are read
    /// only where they matter.
    #[inline(always)]
    pub(crate) fn freshness(
        &self,
        slot: Slot,
        entry: E,
        grace_ms: u64,
        deadline_ms: impl FnOnce() -> Option<u64>,
        now_ms: impl FnOnce() -> u64,
    ) -> Freshness {
        if grace_ms == 0 && self.gone.is_empty() && !self.has_orphans {
            return Freshness::Fresh; // Without a grace it is never stale.
        }
        self.freshness_of_any(slot, entry, grace_ms, deadline_ms, now_ms)
    }

    /// Separate, so that the common case, an entry that is surely fresh, does not pay for the registers used here.
    #[inline(never)]
    fn freshness_of_any(
        &self,
        slot: Slot,
        entry: E,
        grace_ms: u64,
        deadline_ms: impl FnOnce() -> Option<u64>,
        now_ms: impl FnOnce() -> u64,
    ) -> Freshness {
        if self.is_gone(slot) || (self.has_orphans && !self.holds(slot, entry)) {
            return Freshness::Gone;
        }
        if grace_ms == 0 {
            return Freshness::Fresh;
        }
        if let Some(softness) = self.marks.softness(slot) {
            return if now_ms() < softness.ends_ms_for(grace_ms) {
                Freshness::Stale
            } else {
                Freshness::Gone
            };
        }
        match deadline_ms() {
            Some(deadline) if deadline.saturating_sub(grace_ms) <= now_ms() => Freshness::Stale,
            _ => Freshness::Fresh,
        }
    }

    /// The facts about an entry.
    pub(crate) fn facts(&mut self, slot: Slot) -> Facts {
        Facts {
            is_gone: self.is_gone(slot),
            hits: self.hits(slot),
            softness: self.marks.softness(slot),
            is_foreign: self.marks.foreign.contains(slot.0),
            is_doubted: self.marks.doubted.contains(slot.0),
        }
    }

    pub(crate) fn hit(&mut self, slot: Slot) {
        self.slots.hit(slot);
    }

    /// Counts several hits.
    pub(crate) fn add_hits(&mut self, slot: Slot, more: u32) {
        self.slots.add_hits(slot, more);
    }

    pub(crate) fn hits(&mut self, slot: Slot) -> u32 {
        self.slots.hits(slot)
    }

    /// The tags of an entry, in the order in which they were given.
    #[inline(always)]
    pub(crate) fn tags(&self, slot: Slot) -> impl ExactSizeIterator<Item = &[u8]> {
        let lists = self.slots.lists(slot);
        lists.map(|list| &*self.lists.get(list).name)
    }
}
