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
//!
//! Rejected: a clock comparison for each tag at each read (it would cost every read, and eight bytes an entry);
//! raw pointers between lists and entries (an entry in a detached list was freed twice in a first sketch); arrays of
//! slots with each entry's position in them (12 bytes for each tag of an entry instead of 4 to 6, and every removal
//! also writes to the entry that takes the place); a list threaded through the entries (no stable place to resume
//! TAGSCAN at).

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::ids::Ids;
use super::lists::{ListRef, Lists};
use super::slots::{Slot, Slots};
use super::table::TagTable;

/// How long a tag without entries is remembered after its last invalidation.
pub(crate) const REMEMBER_TAG_MS: u64 = 60_000;

/// At most this many tags are remembered for that.
const REMEMBER_TAGS: usize = 100_000;

/// The lists of an entry.
type ListIds = SmallVec<[u32; 8]>;

/// One unit of reclaiming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The entry in this slot is gone: take it out of the keyspace and [`Index::remove`] it.
    Gone(Slot),
    /// Some bookkeeping was done; there may be more.
    Working,
    /// Nothing is left to reclaim.
    Idle,
}

/// What is known about a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TagInfo {
    pub(crate) entries: u32,
    pub(crate) bytes: u64,
    pub(crate) invalidations: u32,
    pub(crate) last_invalidated_ms: u64,
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
    // ---- entries ----

    /// Adds an entry that costs `bytes`. A tag given twice counts once. O(tags).
    pub(crate) fn insert(&mut self, entry: E, tags: &[&[u8]], bytes: u64, hits: u32) -> Slot {
        let lists = self.lists_for(tags);
        let slot = self.slots.insert(entry, hits, &lists);
        for list in lists {
            self.enlist(list, slot, bytes);
        }
        self.bytes += bytes;
        slot
    }

    /// As [`Index::insert`], in a slot that was vacated just before, or above it: for an entry that takes the name of
    /// another, so that a scan in progress of a tag which both carry does not miss it.
    pub(crate) fn insert_near(
        &mut self,
        place: Option<Slot>,
        entry: E,
        tags: &[&[u8]],
        bytes: u64,
        hits: u32,
    ) -> Slot {
        let Some(place) = place else {
            return self.insert(entry, tags, bytes, hits);
        };
        let lists = self.lists_for(tags);
        let slot = self
            .slots
            .insert_at(place, entry, hits, &lists)
            .unwrap_or_else(|| self.slots.insert_above(place, entry, hits, &lists));
        for list in lists {
            self.enlist(list, slot, bytes);
        }
        self.bytes += bytes;
        slot
    }

    /// Adds an entry that is gone already: it was invalidated before it arrived, and only waits to be reclaimed.
    pub(crate) fn insert_gone(&mut self, entry: E, bytes: u64) -> Slot {
        let list = self.lists.create(Box::default(), 0, self.epoch);
        self.lists.get_mut(list).detached = true;
        self.queue(list);
        let slot = self.slots.insert(entry, 0, &[list]);
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
        entry: E,
        tags: &[&[u8]],
        old_bytes: u64,
        bytes: u64,
    ) -> Slot {
        debug_assert!(!self.is_gone(slot));
        let new = self.lists_for(tags);
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
            self.table.remove(list.hash, id);
        }
        self.lists.destroy(id);
    }

    /// Whether this slot is this entry's.
    pub(crate) fn holds(&self, slot: Slot, entry: E) -> bool {
        self.slots.holds(slot, entry)
    }

    /// The handle of the entry in a slot that is in use.
    pub(crate) fn entry(&self, slot: Slot) -> E {
        self.slots.entry(slot)
    }

    /// Whether an entry was hard-invalidated. O(tags); callers skip it while [`Index::has_backlog`] is false.
    pub(crate) fn is_gone(&self, slot: Slot) -> bool {
        self.slots.lists(slot).iter().any(|&list| {
            let list = self.lists.get(list);
            list.detached || list.epoch != self.epoch
        })
    }

    pub(crate) fn hit(&mut self, slot: Slot) {
        self.slots.hit(slot);
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

    // ---- invalidation ----

    /// Detaches a tag's list and returns how many entries were in it. O(1).
    pub(crate) fn invalidate(&mut self, tag: &[u8], now_ms: u64) -> u64 {
        self.forget_tags(now_ms);
        let hash = self.table.hash(tag);
        // A tag that is not known is remembered all the same: an entry that carries it may still be on its way here
        // (a key that a cluster moves to this node after the node saw the invalidation).
        let old = self.find(hash, tag).unwrap_or_else(|| {
            let list = self.lists.create(tag.into(), hash, self.epoch);
            self.table.insert(hash, list);
            list
        });
        let dropped = self.lists.get(old).ids.len();
        let current = if dropped == 0 { old } else { self.detach(old) };
        let list = self.lists.get_mut(current);
        list.invalidations = list.invalidations.saturating_add(1);
        list.last_invalidated_ms = now_ms;
        if !list.fading {
            list.fading = true;
            let list = ListRef {
                id: current,
                generation: list.generation,
            };
            self.fading.push_back(list);
        }
        u64::from(dropped)
    }

    /// Moves the name to a new list and leaves the old one to the backlog. Returns the new one.
    fn detach(&mut self, old: u32) -> u32 {
        let name = self.lists.take_name(old);
        let list = self.lists.get_mut(old);
        list.detached = true;
        let (hash, invalidations) = (list.hash, list.invalidations);
        self.stale_pairs += u64::from(list.ids.len());
        self.stale_bytes += list.bytes;
        self.populated -= 1;
        self.queue(old);
        let new = self.lists.create(name, hash, self.epoch);
        self.lists.get_mut(new).invalidations = invalidations;
        self.table.replace(hash, old, new);
        new
    }

    /// Puts a detached list into the backlog: the newest first, so that a small tag that can be reclaimed inside the
    /// command does not wait behind a large one.
    fn queue(&mut self, list: u32) {
        self.backlog.push_front(list);
        self.reclaim_from = 0;
    }

    /// Detaches everything and returns how many entries were visible. O(1).
    pub(crate) fn flush(&mut self) -> u64 {
        let visible = self.visible();
        self.epoch = self.epoch.wrapping_add(1);
        self.table.clear();
        self.untagged = None;
        self.backlog.clear();
        self.fading.clear();
        self.populated = 0;
        self.stale_pairs = 0;
        self.stale_bytes = 0;
        self.flushed = self.slots.len() as u64;
        self.flushed_bytes = self.bytes;
        self.sweep = (self.lists.end() > 0).then_some(0);
        self.reclaim_from = 0;
        visible
    }

    /// Forgets tags without entries whose last invalidation is long ago. Bounded work, amortised O(1) a call.
    pub(crate) fn forget_tags(&mut self, now_ms: u64) {
        for _ in 0..64 {
            let Some(&front) = self.fading.front() else {
                return;
            };
            let crowded = self.fading.len() > REMEMBER_TAGS;
            let Some(list) = self.lists.resolve(front) else {
                self.fading.pop_front();
                continue;
            };
            let due = list.last_invalidated_ms.saturating_add(REMEMBER_TAG_MS) <= now_ms;
            let detached = list.detached;
            if !due && !crowded && !detached {
                // Invalidated again since it was queued: it may hide others behind it for a while, but no longer
                // than the time it is remembered itself.
                return;
            }
            self.fading.pop_front();
            list.fading = false;
            if !detached && list.ids.is_empty() {
                let hash = list.hash;
                self.table.remove(hash, front.id);
                self.lists.destroy(front.id);
            }
        }
    }

    /// Whether entries or lists wait to be reclaimed. While not, every indexed entry is visible.
    pub(crate) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() || self.sweep.is_some()
    }

    /// The next thing to reclaim. O(1).
    pub(crate) fn reclaim_step(&mut self) -> Step {
        if let Some(&id) = self.backlog.front() {
            if let Some(slot) = self.next_in(id) {
                return Step::Gone(slot);
            }
            self.backlog.pop_front();
            self.lists.destroy(id);
            if self.backlog.is_empty() {
                self.backlog = VecDeque::new(); // Gives its memory back.
            }
            return Step::Working;
        }
        let Some(from) = self.sweep else {
            return Step::Idle;
        };
        match self.lists.next_in_page(from) {
            Err(next) => self.sweep = (next < self.lists.end()).then_some(next),
            Ok(id) => {
                let is_old = self.lists.get(id).epoch != self.epoch;
                if is_old && let Some(slot) = self.next_in(id) {
                    return Step::Gone(slot);
                }
                self.sweep = Some(id + 1);
                if is_old {
                    self.lists.destroy(id);
                }
            }
        }
        Step::Working
    }

    /// The lowest slot of the list that is being reclaimed. It is looked for from where the last one was found, since
    /// nothing is added to such a list.
    fn next_in(&mut self, list: u32) -> Option<Slot> {
        let ids = &self.lists.get(list).ids;
        if ids.is_empty() {
            self.reclaim_from = 0;
            return None;
        }
        let slot = ids
            .range(self.reclaim_from)
            .next()
            .or_else(|| ids.range(0).next())?;
        self.reclaim_from = slot;
        Some(Slot(slot))
    }

    // ---- figures ----

    /// Entries in the index, gone ones included.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Gone entries that wait to be reclaimed.
    ///
    /// Exact while no more than 64 invalidations wait; beyond, an entry that was dropped through two tags counts twice.
    /// O(1) for one, and for several O(slots / 64): the bitmaps are united.
    pub(crate) fn backlog(&self) -> u64 {
        /// Lists that are united to count an entry in several of them once.
        const UNITED: usize = 64;
        let stale = match self.backlog.len() {
            2..=UNITED => {
                Ids::count_union(self.backlog.iter().map(|&list| &self.lists.get(list).ids))
            }
            _ => self.stale_pairs,
        };
        (stale + self.flushed).min(self.slots.len() as u64)
    }

    /// Entries that can be seen.
    pub(crate) fn visible(&self) -> u64 {
        self.slots.len() as u64 - self.backlog()
    }

    /// Memory of the entries that can be seen.
    pub(crate) fn visible_bytes(&self) -> u64 {
        self.bytes
            .saturating_sub(self.stale_bytes + self.flushed_bytes)
    }

    /// Tags with at least one entry.
    pub(crate) const fn populated_tags(&self) -> usize {
        self.populated
    }

    /// Memory of the index itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.slots.heap_bytes()
            + self.lists.heap_bytes()
            + self.table.heap_bytes()
            + self.backlog.capacity() * size_of::<u32>()
            + self.fading.capacity() * size_of::<ListRef>()
    }

    /// What is known about a tag; `None` if nothing is. O(1).
    pub(crate) fn tag_info(&self, tag: &[u8]) -> Option<TagInfo> {
        let list = self.lists.get(self.find(self.table.hash(tag), tag)?);
        Some(TagInfo {
            entries: list.ids.len(),
            bytes: list.bytes,
            invalidations: list.invalidations,
            last_invalidated_ms: list.last_invalidated_ms,
        })
    }

    /// Visits up to `count` entries of a tag from `cursor` on, and returns the next cursor: 0 starts and ends.
    ///
    /// An entry that carries the tag during the whole scan is visited at least once, whatever else changes meanwhile:
    /// slots are visited upwards, and an entry keeps its slot or moves upwards.
    pub(crate) fn scan_tag(
        &self,
        tag: &[u8],
        cursor: u64,
        count: u64,
        mut visit: impl FnMut(Slot),
    ) -> u64 {
        let Some(id) = self.find(self.table.hash(tag), tag) else {
            return 0;
        };
        let Ok(from) = u32::try_from(cursor) else {
            return 0;
        };
        let mut left = count.max(1);
        for slot in self.lists.get(id).ids.range(from) {
            if left == 0 {
                return u64::from(slot);
            }
            visit(Slot(slot));
            left -= 1;
        }
        0
    }

    #[cfg(test)]
    pub(super) fn validate(&self, bytes_of: impl Fn(E) -> u64) {
        use std::collections::HashMap;

        let slots = self.slots.validate();
        let mut listed: HashMap<u32, (u32, u64)> = HashMap::new();
        let (mut bytes, mut stale_pairs, mut stale_bytes, mut flushed, mut flushed_bytes) =
            (0, 0, 0, 0, 0);
        for &slot in &slots {
            let cost = bytes_of(self.entry(slot));
            bytes += cost;
            let lists = self.slots.lists(slot);
            assert!(!lists.is_empty(), "invariant 2");
            let old = self.lists.get(lists[0]).epoch != self.epoch;
            if old {
                flushed += 1;
                flushed_bytes += cost;
            }
            for (at, &id) in lists.iter().enumerate() {
                let list = self.lists.get(id);
                assert!(list.ids.contains(slot.0), "invariant 1");
                assert!(!lists[..at].contains(&id), "invariant 2");
                assert_eq!(
                    list.epoch != self.epoch,
                    old,
                    "an entry's lists are of one epoch"
                );
                if list.detached && !old {
                    stale_pairs += 1;
                    stale_bytes += cost;
                }
                let seen = listed.entry(id).or_default();
                seen.0 += 1;
                seen.1 += cost;
            }
        }
        assert_eq!(
            (self.bytes, self.stale_pairs, self.stale_bytes),
            (bytes, stale_pairs, stale_bytes),
            "invariant 6"
        );
        assert_eq!(
            (self.flushed, self.flushed_bytes),
            (flushed, flushed_bytes),
            "invariant 6"
        );
        let (mut populated, mut named) = (0, 0);
        for id in self.lists.validate() {
            let list = self.lists.get(id);
            let (len, cost) = listed.get(&id).copied().unwrap_or_default();
            assert_eq!((list.ids.len(), list.bytes), (len, cost), "invariant 1");
            if list.epoch != self.epoch {
                assert!(self.sweep.is_some_and(|from| from <= id), "invariant 5");
            } else if list.detached {
                assert_eq!(
                    self.backlog.iter().filter(|&&b| b == id).count(),
                    1,
                    "invariant 5"
                );
            } else if list.name.is_empty() {
                assert_eq!(self.untagged, Some(id));
                assert!(len > 0, "invariant 4");
            } else {
                assert_eq!(self.find(list.hash, &list.name), Some(id), "invariant 3");
                assert!(len > 0 || list.fading, "invariant 4");
                named += 1;
                populated += usize::from(len > 0);
            }
        }
        assert_eq!(self.table.len(), named, "invariant 3");
        assert_eq!(self.populated, populated, "invariant 6");
    }
}
