//! Tags to entries: who carries what, dropped in O(1).
//!
//! # How it works
//! Each entry has a [`Slot`]; each tag has a list, which is a set of slots; a slot knows the lists that it stands in.
//! So adding and removing an entry is O(its tags). To invalidate a tag is to *detach* its list ([`super::lists`]): an
//! entry in a detached list is gone from that moment, and [`Index::reclaim_step`] names such entries one by one, so
//! that the caller can take them out of the keyspace at its own pace. A flush raises the *epoch*: all lists of an
//! older epoch count as detached.
//!
//! # Invariants ([`Index::validate`] asserts them after every step of the property tests)
//! 1. A list that a slot knows contains the slot, and every slot in a list knows the list.
//! 2. A slot stands in at least one list (entries without tags in one of their own), and in no list twice.
//! 3. An attached list of this epoch with a name is in the table under that name, and nothing else is in the table.
//! 4. An attached list of this epoch is empty only while it is remembered for its last invalidation (`fading`).
//! 5. A detached list of this epoch is in `backlog` exactly once; lists of older epochs lie at or above `sweep`.
//! 6. The counts `populated`, `stale_pairs`, `flushed` and the byte sums are what a recount gives.
//! 7. While `sweep` is set, `since_flush` holds the slots of this epoch's entries.
//!
//! Rejected: a clock comparison for each tag at each read (it would cost every read, and eight bytes an entry);
//! raw pointers between lists and entries (an entry in a detached list was freed twice in a first sketch); arrays of
//! slots with each entry's position in them (12 bytes for each tag of an entry instead of 4 to 6, and every removal
//! also writes to the entry that takes the place); a list threaded through the entries (no stable place to resume
//! TAGSCAN at).

mod figures;
mod invalidate;
mod select;
#[cfg(test)]
mod validate;

use std::collections::VecDeque;

use roaring::RoaringBitmap;
use smallvec::SmallVec;

use super::lists::{History, ListRef, Lists, TagList};
use super::marks::{Marks, Softened};
use super::slots::{Slot, Slots};
use super::table::TagTable;

pub(crate) use select::{Condition, Effect};

/// At most this many tags without entries are remembered for their last invalidation.
const REMEMBER_TAGS: usize = 100_000;

/// The lists of an entry.
type ListIds = SmallVec<[u32; 8]>;

/// One unit of reclaiming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The entry in this slot is gone: take it out of the keyspace and [`Index::remove`] it.
    Gone(Slot),
    /// This entry is stale: to be told to those who hold copies, if it is new, and to be removed when its grace is over,
    /// else [`Index::grace_ends`] is to be told.
    Softened(Softened),
    /// Some bookkeeping was done; there may be more.
    Working,
    /// Nothing is left to reclaim.
    Idle,
}

/// Whether one of an entry's lists is detached.
fn is_in_detached(lists: &Lists, members: &[u32], epoch: u32) -> bool {
    members.iter().any(|&list| {
        let list = lists.get(list);
        list.detached || list.epoch != epoch
    })
}

/// What is known about a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TagInfo {
    pub(crate) entries: u32,
    pub(crate) bytes: u64,
    pub(crate) invalidations: u32,
    /// When it was last invalidated, unix ms; 0: never.
    pub(crate) last_ms: u64,
}

fn info_of(list: &TagList) -> TagInfo {
    let past = list.past();
    TagInfo {
        entries: list.ids.len(),
        bytes: list.bytes,
        invalidations: past.invalidations,
        last_ms: past.last_ms,
    }
}

/// An entry as the index takes it in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming<'t, E> {
    pub(crate) entry: E,
    /// One that is given twice counts once.
    pub(crate) tags: &'t [&'t [u8]],
    /// What it costs.
    pub(crate) bytes: u64,
    pub(crate) hits: u32,
    pub(crate) has_grace: bool,
    /// Since when it is stale by a soft invalidation.
    pub(crate) soft_since_ms: Option<u64>,
}

/// When an invalidation happens: the time, the database's clock after it, and until when its tags are remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) now_ms: u64,
    pub(crate) clock: u64,
    pub(crate) remember_until_ms: u64,
}

/// The entry that left a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) hits: u32,
    pub(crate) was_gone: bool,
}

/// The index of one database. `E` is the handle of an entry; the index compares handles and never looks into them.
#[derive(Debug)]
pub(crate) struct Index<E> {
    slots: Slots<E>,
    lists: Lists,
    table: TagTable,
    /// The list of the entries without tags.
    untagged: Option<u32>,
    epoch: u32,
    /// Detached lists of this epoch, newest first.
    backlog: VecDeque<u32>,
    /// While lists of older epochs are left: below this id there are none.
    sweep: Option<u32>,
    /// Where in the list that is being reclaimed to look next.
    reclaim_from: u32,
    /// Tags to forget if they have no entries by then, oldest first.
    fading: VecDeque<ListRef>,
    /// The latest clock of an invalidation whose tag was forgotten.
    horizon: u64,
    /// The last invalidation that concerned entries whatever tags they carry.
    concerns_all: History,
    /// When a tag was last invalidated hard, unix ms.
    last_hard_ms: u64,
    marks: Marks,
    /// While a flush is worked off: the slots of the entries that came after it.
    since_flush: RoaringBitmap,
    /// Tags with at least one entry.
    populated: usize,
    bytes: u64,
    /// Entries in detached lists of this epoch, an entry in two of them counted twice.
    stale_pairs: u64,
    stale_bytes: u64,
    /// Entries in lists of older epochs.
    flushed: u64,
    flushed_bytes: u64,
}

impl<E> Default for Index<E> {
    fn default() -> Self {
        Self {
            slots: Slots::default(),
            lists: Lists::default(),
            table: TagTable::default(),
            untagged: None,
            epoch: 0,
            backlog: VecDeque::new(),
            sweep: None,
            reclaim_from: 0,
            fading: VecDeque::new(),
            horizon: 0,
            concerns_all: History::default(),
            last_hard_ms: 0,
            marks: Marks::default(),
            since_flush: RoaringBitmap::new(),
            populated: 0,
            bytes: 0,
            stale_pairs: 0,
            stale_bytes: 0,
            flushed: 0,
            flushed_bytes: 0,
        }
    }
}

impl<E: Copy + PartialEq> Index<E> {
    /// Adds an entry. O(tags).
    pub(crate) fn insert(&mut self, incoming: Incoming<'_, E>) -> Slot {
        self.insert_near(None, incoming)
    }

    /// As [`Index::insert`], in a place that an entry of that name just left, if it can be had, or above it: a scan of
    /// a tag in progress, which goes upwards, does not miss the entry.
    pub(crate) fn insert_near(&mut self, place: Option<Slot>, incoming: Incoming<'_, E>) -> Slot {
        let Incoming {
            entry, bytes, hits, ..
        } = incoming;
        let lists = self.lists_for(incoming.tags);
        let slot = match place {
            None => self.slots.insert(entry, hits, &lists),
            Some(place) => self
                .slots
                .insert_at(place, entry, hits, &lists)
                .unwrap_or_else(|| self.slots.insert_above(place, entry, hits, &lists)),
        };
        for list in lists {
            self.enlist(list, slot, bytes);
        }
        self.bytes += bytes;
        self.mark(slot, &incoming);
        slot
    }

    /// Marks a slot as its new entry is.
    fn mark(&mut self, slot: Slot, incoming: &Incoming<'_, E>) {
        if incoming.has_grace {
            self.marks.set_graced(slot);
        }
        if let Some(since_ms) = incoming.soft_since_ms {
            self.marks
                .soften(std::iter::once(slot.0).collect(), since_ms);
        }
        if self.sweep.is_some() {
            self.since_flush.insert(slot.0);
        }
    }

    /// Takes a slot out of everything that is known about single slots.
    fn unmark(&mut self, slot: Slot) {
        self.marks.forget(slot);
        if self.sweep.is_some() {
            self.since_flush.remove(slot.0);
        }
    }

    /// Adds an entry that is gone already: it was invalidated before it arrived, and only waits to be reclaimed.
    pub(crate) fn insert_gone(&mut self, entry: E, bytes: u64) -> Slot {
        let list = self.lists.create(Box::default(), 0, self.epoch);
        self.lists.get_mut(list).detached = true;
        self.queue(list);
        let slot = self.slots.insert(entry, 0, &[list]);
        if self.sweep.is_some() {
            self.since_flush.insert(slot.0);
        }
        self.enlist(list, slot, bytes);
        self.bytes += bytes;
        self.stale_pairs += 1;
        self.stale_bytes += bytes;
        slot
    }

    /// Puts a new entry in the place of a visible one. Hits are kept. O(tags).
    ///
    /// The entry keeps its slot, or gets a higher one if it has more tags than before: so a scan of a tag in progress,
    /// which goes upwards, does not miss it.
    pub(crate) fn replace(
        &mut self,
        slot: Slot,
        old_bytes: u64,
        incoming: Incoming<'_, E>,
    ) -> Slot {
        debug_assert!(!self.is_gone(slot));
        self.unmark(slot);
        let placed = self.replace_in_lists(slot, old_bytes, &incoming);
        self.mark(placed, &incoming);
        placed
    }

    fn replace_in_lists(&mut self, slot: Slot, old_bytes: u64, incoming: &Incoming<'_, E>) -> Slot {
        let &Incoming { entry, bytes, .. } = incoming;
        let new = self.lists_for(incoming.tags);
        self.bytes = self.bytes - old_bytes + bytes;
        if self.slots.lists(slot) == &new[..] {
            // The common case, a value refreshed under its old tags: no list changes.
            self.slots.set_entry(slot, entry);
            if old_bytes != bytes {
                for list in new {
                    let list = self.lists.get_mut(list);
                    list.bytes = list.bytes - old_bytes + bytes;
                }
            }
            return slot;
        }

        let old: ListIds = self.slots.lists(slot).into();
        if !self.slots.set_lists(slot, &new) {
            let hits = self.slots.hits(slot);
            let moved = self.slots.insert_above(slot, entry, hits, &new);
            // First in, then out, so that a list which only this entry holds is not dropped and made anew.
            for &list in &new {
                self.enlist(list, moved, bytes);
            }
            for list in old {
                self.delist(list, slot, old_bytes);
            }
            self.slots.remove(slot);
            return moved;
        }
        self.slots.set_entry(slot, entry);
        for &list in &new {
            if old.contains(&list) {
                let list = self.lists.get_mut(list);
                list.bytes = list.bytes - old_bytes + bytes;
            } else {
                self.enlist(list, slot, bytes);
            }
        }
        for list in old {
            if !new.contains(&list) {
                self.delist(list, slot, old_bytes);
            }
        }
        slot
    }

    /// Takes an entry out. O(tags).
    pub(crate) fn remove(&mut self, slot: Slot, bytes: u64) -> Removed {
        let lists: ListIds = self.slots.lists(slot).into();
        let removed = Removed {
            hits: self.slots.hits(slot),
            was_gone: self.is_gone(slot),
        };
        if self.lists.get(lists[0]).epoch != self.epoch {
            self.flushed -= 1;
            self.flushed_bytes -= bytes;
        }
        for list in lists {
            self.delist(list, slot, bytes);
        }
        self.slots.remove(slot);
        self.unmark(slot);
        self.bytes -= bytes;
        removed
    }

    /// Changes what an entry costs.
    pub(crate) fn resize(&mut self, slot: Slot, old_bytes: u64, bytes: u64) {
        for &list in self.slots.lists(slot) {
            let list = self.lists.get_mut(list);
            list.bytes = list.bytes - old_bytes + bytes;
        }
        self.bytes = self.bytes - old_bytes + bytes;
    }

    /// The lists of these tags, made where there are none, each once and in order.
    fn lists_for(&mut self, tags: &[&[u8]]) -> ListIds {
        let mut lists = ListIds::new();
        if tags.is_empty() {
            let list = self
                .untagged
                .unwrap_or_else(|| self.lists.create(Box::default(), 0, self.epoch));
            self.untagged = Some(list);
            lists.push(list);
        }
        for tag in tags {
            let hash = self.table.hash(tag);
            let list = self.find(hash, tag).unwrap_or_else(|| {
                let list = self.lists.create((*tag).into(), hash, self.epoch);
                self.table.insert(hash, list);
                list
            });
            if !lists.contains(&list) {
                lists.push(list);
            }
        }
        lists
    }

    fn find(&self, hash: u32, tag: &[u8]) -> Option<u32> {
        self.table
            .find(hash, |list| *self.lists.get(list).name == *tag)
    }

    fn enlist(&mut self, id: u32, slot: Slot, bytes: u64) {
        self.lists.change_ids(id, |ids| ids.insert(slot.0));
        let list = self.lists.get_mut(id);
        list.bytes += bytes;
        if list.ids.len() == 1 && !list.name.is_empty() {
            self.populated += 1;
        }
    }

    fn delist(&mut self, id: u32, slot: Slot, bytes: u64) {
        self.lists.change_ids(id, |ids| ids.remove(slot.0));
        let list = self.lists.get_mut(id);
        list.bytes -= bytes;
        if list.epoch != self.epoch {
            return; // `sweep` drops the list when it comes by.
        }
        if list.detached {
            self.stale_pairs -= 1;
            self.stale_bytes -= bytes;
            return; // It stands in `backlog`, which drops it.
        }
        if !list.ids.is_empty() {
            return;
        }
        if list.name.is_empty() {
            self.untagged = None;
        } else {
            self.populated -= 1;
            if list.fading {
                return;
            }
            self.forget(id);
            return;
        }
        self.lists.destroy(id);
    }

    /// Forgets a tag that has no entries.
    fn forget(&mut self, id: u32) {
        let list = self.lists.get(id);
        self.horizon = self.horizon.max(list.past().clock);
        self.table.remove(list.hash, id);
        self.lists.destroy(id);
    }

    /// Whether this slot is this entry's.
    pub(crate) fn holds(&self, slot: Slot, entry: E) -> bool {
        self.slots.holds(slot, entry)
    }

    /// Makes a single entry gone.
    pub(crate) fn condemn(&mut self, slot: Slot) {
        self.marks.condemn(&std::iter::once(slot.0).collect());
    }

    /// The entry in this slot has another handle now.
    pub(crate) fn moved(&mut self, slot: Slot, entry: E) {
        self.slots.set_entry(slot, entry);
    }

    /// The handle of the entry in a slot that is in use.
    pub(crate) fn entry(&self, slot: Slot) -> E {
        self.slots.entry(slot)
    }

    /// Whether an entry was hard-invalidated. O(tags); callers skip it while [`Index::has_backlog`] is false.
    pub(crate) fn is_gone(&self, slot: Slot) -> bool {
        let lists = self.slots.lists(slot);
        self.marks.is_condemned(slot) || is_in_detached(&self.lists, lists, self.epoch)
    }

    /// Whether some entries are stale by a soft invalidation.
    pub(crate) fn has_soft(&self) -> bool {
        self.marks.has_soft()
    }

    /// The grace of an entry that [`Index::reclaim_step`] named ends then, unix ms.
    pub(crate) fn grace_ends(&mut self, softened: Softened, at_ms: u64) {
        self.marks.ends(softened, at_ms);
    }

    /// Since when an entry is stale by a soft invalidation, unix ms. Callers skip it while [`Index::has_soft`] is false.
    pub(crate) fn soft_since_ms(&self, slot: Slot) -> Option<u64> {
        self.marks.soft_since_ms(slot)
    }

    pub(crate) fn hit(&mut self, slot: Slot) {
        self.slots.hit(slot);
    }

    /// Counts several hits.
    pub(crate) fn add_hits(&mut self, slot: Slot, more: u32) {
        self.slots.add_hits(slot, more);
    }

    /// The `count` visible entries with the most hits, most first, those without any left out: hits and slot.
    /// O(slots / 256 + 256 count).
    ///
    /// Exact, except where more than 65,536 gone entries with many hits wait to be reclaimed.
    pub(crate) fn top(&mut self, count: usize) -> Vec<(u32, Slot)> {
        const LOOKS: usize = 65_536;
        let (has_backlog, epoch) = (self.has_backlog(), self.epoch);
        let (marks, lists) = (&self.marks, &self.lists);
        self.slots.top(count, LOOKS, |slot, members| {
            !has_backlog || !(marks.is_condemned(slot) || is_in_detached(lists, members, epoch))
        })
    }

    pub(crate) fn hits(&mut self, slot: Slot) -> u32 {
        self.slots.hits(slot)
    }

    /// The tags of a visible entry, in the order in which they were given.
    pub(crate) fn tags(&self, slot: Slot) -> impl Iterator<Item = &[u8]> {
        self.slots
            .lists(slot)
            .iter()
            .map(|&list| &*self.lists.get(list).name)
            .filter(|name| !name.is_empty())
    }
}
