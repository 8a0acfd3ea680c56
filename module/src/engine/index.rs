//! Tags to entries: who carries what, dropped in O(1).
//!
//! # How it works
//! Each entry has a [`Slot`]; each tag has a list of slots; a slot knows its position in each list that it stands in.
//! So adding and removing an entry is O(its tags). To invalidate a tag is to *detach* its list ([`super::lists`]): an
//! entry in a detached list is gone from that moment, and [`Index::reclaim_step`] names such entries one by one, so
//! that the caller can take them out of the keyspace at its own pace. A flush raises the *epoch*: all lists of an
//! older epoch count as detached.
//!
//! # Invariants ([`Index::validate`] asserts them after every step of the property tests)
//! 1. For every member `m` of a slot: `lists[m.list].ids[m.pos]` is that slot; and every id in a list is such a slot.
//! 2. A slot stands in at least one list (entries without tags in one of their own), and in no list twice.
//! 3. An attached list of this epoch with a name is in the table under that name, and nothing else is in the table.
//! 4. An attached list of this epoch is empty only while it is remembered for its last invalidation (`fading`).
//! 5. A detached list of this epoch is in `backlog` exactly once; lists of older epochs lie at or above `sweep`.
//! 6. The counts `populated`, `stale_pairs`, `flushed` and the byte sums are what a recount gives.
//!
//! Rejected: a clock comparison for each tag at each read (it would cost every read, and eight bytes an entry);
//! raw pointers between lists and entries (an entry in a detached list was freed twice in a first sketch); a list
//! threaded through the entries (no stable position to resume TAGSCAN at, and three cache misses to remove).

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::lists::{ListRef, Lists};
use super::slots::{Member, Slot, Slots};
use super::table::TagTable;

/// How long a tag without entries is remembered after its last invalidation.
pub(crate) const REMEMBER_TAG_MS: u64 = 60_000;

/// At most this many tags are remembered for that.
const REMEMBER_TAGS: usize = 100_000;

type Members = SmallVec<[Member; 8]>;

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
        // The slot must exist before it can be listed, and is made with its places: they are known beforehand, since
        // each is the end of its list.
        let members: Members = lists
            .iter()
            .map(|&list| Member {
                list,
                pos: self.lists.get(list).ids.len(),
            })
            .collect();
        let slot = self.slots.insert(entry, hits, &members);
        for member in &members {
            self.enlist(member.list, slot, bytes);
        }
        self.bytes += bytes;
        slot
    }

    /// Adds an entry that is gone already: it was invalidated before it arrived, and only waits to be reclaimed.
    pub(crate) fn insert_gone(&mut self, entry: E, bytes: u64) -> Slot {
        let list = self.lists.create(Box::default(), 0, self.epoch);
        self.lists.get_mut(list).detached = true;
        self.backlog.push_front(list);
        let slot = self.slots.insert(entry, 0, &[Member { list, pos: 0 }]);
        self.enlist(list, slot, bytes);
        self.bytes += bytes;
        self.stale_pairs += 1;
        self.stale_bytes += bytes;
        slot
    }

    /// Puts a new entry in the place of a visible one: hits are kept, and so is the place in every list that both
    /// stand in, so that a scan of a tag in progress does not miss it. O(tags).
    pub(crate) fn replace(
        &mut self,
        slot: Slot,
        entry: E,
        tags: &[&[u8]],
        old_bytes: u64,
        bytes: u64,
    ) -> Slot {
        debug_assert!(!self.is_gone(slot));
        let lists = self.lists_for(tags);
        let same_tags = self.slots.members(slot).len() == lists.len()
            && self
                .slots
                .members(slot)
                .iter()
                .zip(&lists)
                .all(|(member, &list)| member.list == list);
        if same_tags {
            // The common case, a value refreshed under its old tags: no list changes.
            self.slots.set_entry(slot, entry);
            self.bytes = self.bytes - old_bytes + bytes;
            if old_bytes != bytes {
                for &list in &lists {
                    let list = self.lists.get_mut(list);
                    list.bytes = list.bytes - old_bytes + bytes;
                }
            }
            return slot;
        }

        let old: Members = self.slots.members(slot).into();
        // First the lists that stay or come, so that a list which only this entry holds is not dropped and made anew.
        let mut members = Members::new();
        for &list in &lists {
            let kept = old.iter().find(|member| member.list == list).copied();
            members.push(kept.unwrap_or(Member {
                list,
                pos: self.lists.get(list).ids.len(),
            }));
        }
        let new_slot = if old.len() == members.len() {
            self.slots.set_entry(slot, entry);
            self.slots.members_mut(slot).copy_from_slice(&members);
            slot
        } else {
            let hits = self.slots.hits(slot);
            self.slots.insert(entry, hits, &members)
        };
        for member in &members {
            if old.iter().any(|o| o.list == member.list) {
                let list = self.lists.get_mut(member.list);
                list.ids.set(member.pos, new_slot.0);
                list.bytes = list.bytes - old_bytes + bytes;
            } else {
                self.enlist(member.list, new_slot, bytes);
            }
        }
        for member in &old {
            if !lists.contains(&member.list) {
                self.delist(*member, old_bytes);
            }
        }
        if new_slot != slot {
            self.slots.remove(slot);
        }
        self.bytes = self.bytes - old_bytes + bytes;
        new_slot
    }

    /// Takes an entry out. O(tags).
    pub(crate) fn remove(&mut self, slot: Slot, bytes: u64) -> Removed {
        let members: Members = self.slots.members(slot).into();
        let removed = Removed {
            hits: self.slots.hits(slot),
            was_gone: self.is_gone(slot),
        };
        if self.lists.get(members[0].list).epoch != self.epoch {
            self.flushed -= 1;
            self.flushed_bytes -= bytes;
        }
        for member in members {
            self.delist(member, bytes);
        }
        self.slots.remove(slot);
        self.bytes -= bytes;
        removed
    }

    /// Changes what an entry costs.
    pub(crate) fn resize(&mut self, slot: Slot, old_bytes: u64, bytes: u64) {
        for at in 0..self.slots.members(slot).len() {
            let list = self.lists.get_mut(self.slots.members(slot)[at].list);
            list.bytes = list.bytes - old_bytes + bytes;
        }
        self.bytes = self.bytes - old_bytes + bytes;
    }

    /// The lists of these tags, made where there are none, each once and in order.
    fn lists_for(&mut self, tags: &[&[u8]]) -> SmallVec<[u32; 8]> {
        let mut lists = SmallVec::new();
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
        let pos = self.lists.push(id, slot.0);
        let list = self.lists.get_mut(id);
        list.bytes += bytes;
        if pos == 0 && !list.name.is_empty() {
            self.populated += 1;
        }
    }

    fn delist(&mut self, member: Member, bytes: u64) {
        if let Some(moved) = self.lists.swap_remove(member.list, member.pos) {
            self.slots
                .members_mut(Slot(moved))
                .iter_mut()
                .find(|m| m.list == member.list)
                .expect("invariant 1: a listed slot knows the list")
                .pos = member.pos;
        }
        let list = self.lists.get_mut(member.list);
        list.bytes -= bytes;
        if list.epoch != self.epoch {
            return; // `sweep` drops the list when it comes by.
        }
        if list.detached {
            self.stale_pairs -= 1;
            self.stale_bytes -= bytes;
            return; // It stands in `backlog`, which drops it.
        }
        if list.ids.len() > 0 {
            return;
        }
        let (hash, fading, named) = (list.hash, list.fading, !list.name.is_empty());
        if named {
            self.populated -= 1;
            if fading {
                return;
            }
            self.table.remove(hash, member.list);
        } else {
            self.untagged = None;
        }
        self.lists.destroy(member.list);
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
        self.slots.members(slot).iter().any(|member| {
            let list = self.lists.get(member.list);
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
            .members(slot)
            .iter()
            .map(|member| &*self.lists.get(member.list).name)
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
        // The newest first: a small tag that can be reclaimed inside the command does not wait behind a large one.
        self.backlog.push_front(old);
        let new = self.lists.create(name, hash, self.epoch);
        self.lists.get_mut(new).invalidations = invalidations;
        self.table.replace(hash, old, new);
        new
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
            if !detached && list.ids.len() == 0 {
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
            let len = self.lists.get(id).ids.len();
            if len > 0 {
                return Step::Gone(Slot(self.lists.get(id).ids.get(len - 1)));
            }
            self.backlog.pop_front();
            self.lists.destroy(id);
            self.shrink_queues();
            return Step::Working;
        }
        let Some(from) = self.sweep else {
            return Step::Idle;
        };
        match self.lists.next_in_page(from) {
            Err(next) => self.sweep = (next < self.lists.end()).then_some(next),
            Ok(id) => {
                let list = self.lists.get(id);
                let len = list.ids.len();
                if list.epoch != self.epoch && len > 0 {
                    return Step::Gone(Slot(list.ids.get(len - 1)));
                }
                self.sweep = Some(id + 1);
                if list.epoch != self.epoch {
                    self.lists.destroy(id);
                }
            }
        }
        Step::Working
    }

    fn shrink_queues(&mut self) {
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
        }
    }

    // ---- figures ----

    /// Entries in the index, gone ones included.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Gone entries that wait to be reclaimed. An entry dropped through two tags counts twice until then.
    pub(crate) fn backlog(&self) -> u64 {
        (self.stale_pairs + self.flushed).min(self.slots.len() as u64)
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
    /// positions are visited downwards, a removal moves only the last, already visited, entry down, and a write under
    /// the same tag keeps the position.
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
        let ids = &self.lists.get(id).ids;
        let len = u64::from(ids.len());
        let from = if cursor == 0 { len } else { cursor.min(len) };
        let to = from.saturating_sub(count.max(1));
        for pos in (to..from).rev() {
            visit(Slot(ids.get(pos as u32)));
        }
        to
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
            let members = self.slots.members(slot);
            assert!(!members.is_empty(), "invariant 2");
            let old = self.lists.get(members[0].list).epoch != self.epoch;
            if old {
                flushed += 1;
                flushed_bytes += cost;
            }
            for (at, member) in members.iter().enumerate() {
                assert_eq!(
                    self.lists.get(member.list).ids.get(member.pos),
                    slot.0,
                    "invariant 1"
                );
                assert!(
                    !members[..at].iter().any(|m| m.list == member.list),
                    "invariant 2"
                );
                let list = self.lists.get(member.list);
                assert_eq!(
                    list.epoch != self.epoch,
                    old,
                    "an entry's lists are of one epoch"
                );
                if list.detached && !old {
                    stale_pairs += 1;
                    stale_bytes += cost;
                }
                let seen = listed.entry(member.list).or_default();
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
