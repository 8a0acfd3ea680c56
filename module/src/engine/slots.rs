//! The data of each entry in the index: its handle, its hit count, and the lists of its tags.
//!
//! The data is kept beside the entry and not in it: an allocation of only header, key and value more often stays inside
//! a smaller size class of the allocator, and an entry that is only read is never written to, so that a forked child
//! shares its page.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::pages::{KINDS, PAGE, Pages, offset_of};
use super::seeds::Seeded;

/// Number of an entry in the index of its database.
///
/// A slot is reused once its entry has gone. It is therefore never trusted alone: code that comes from an entry checks
/// that the slot still holds that entry ([`Slots::holds`]); code that comes from a list takes the entry from the slot's
/// own back reference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Slot(pub(crate) u32);

/// Up to this many lists per entry, the lists of a page's entries lie in one array. Rarer, larger numbers get one array
/// per entry, on pages of the last kind.
const INLINE: usize = KINDS - 2;

/// Fills the unused places after an entry's lists.
const NO_LIST: u32 = u32::MAX;
const NO_NARROW: u16 = u16::MAX;

/// The lists of an entry.
pub(super) type ListIds = SmallVec<[u32; INLINE]>;

/// Costs of entries are kept in units of this many bytes.
pub(crate) const UNIT: u64 = 4;

/// Hits are counted in batches of this size.
const BATCH: usize = 32;

/// The cost is in `large`.
const LARGE: u16 = u16::MAX;

/// The lists of a page's entries.
#[derive(Debug)]
enum Members {
    /// Two bytes per list of an entry, while there are few tags.
    Narrow {
        each: usize,
        all: Box<[u16]>,
    },
    Packed {
        each: usize,
        all: Box<[u32]>,
    },
    Boxed(Vec<Box<[u32]>>),
}

impl Members {
    /// The lists of one entry, unless they are narrow.
    #[inline(never)]
    fn wide(&self, at: usize) -> &[u32] {
        match self {
            Self::Narrow { .. } => &[],
            Self::Packed { each, all } => used(all, *each, at, NO_LIST),
            Self::Boxed(boxes) => &boxes[at],
        }
    }
}

/// The used places of one entry, among those of its page.
#[inline(always)]
fn used<T: Copy + PartialEq>(all: &[T], each: usize, at: usize, none: T) -> &[T] {
    let places = &all[at * each..][..each];
    // A page has as many places per entry as its first entry has lists.
    if places.last() != Some(&none) {
        return places;
    }
    let used = places.iter().position(|place| *place == none);
    &places[..used.unwrap_or(each)]
}

#[derive(Debug)]
pub(super) struct Page<E> {
    entries: Box<[Option<E>; PAGE]>,
    /// The hits of each entry: 4 KiB, which allocators put on an operating system page of its own. Blocks of 1 KiB came
    /// to lie beside lists of the same size, and a child that saves copied twice as much.
    hits: Box<[u32; PAGE]>,
    /// The cost of each entry, in [`UNIT`]s; [`LARGE`] where it does not fit.
    sizes: Box<[u16; PAGE]>,
    members: Members,
}

impl<E: Copy> Page<E> {
    fn new(members: usize) -> Self {
        Self {
            entries: Box::new([None; PAGE]),
            hits: Box::new([0; PAGE]),
            sizes: Box::new([0; PAGE]),
            members: if members <= INLINE {
                Members::Narrow {
                    each: members,
                    all: vec![NO_NARROW; members * PAGE].into_boxed_slice(),
                }
            } else {
                Members::Boxed(vec![Box::default(); PAGE])
            },
        }
    }

    /// Sets the cost of an entry. True if the new or the old cost is too large for `sizes`.
    #[inline(always)]
    fn set_bytes(&mut self, at: usize, bytes: u64) -> bool {
        let units = u16::try_from(bytes / UNIT).unwrap_or(LARGE);
        let old = std::mem::replace(&mut self.sizes[at], units);
        units == LARGE || old == LARGE
    }

    fn heap_bytes(&self) -> usize {
        let members = match &self.members {
            Members::Narrow { all, .. } => size_of_val::<[u16]>(all),
            Members::Packed { all, .. } => size_of_val::<[u32]>(all),
            Members::Boxed(each) => {
                PAGE * size_of::<Box<[u32]>>()
                    + each.iter().map(|m| size_of_val::<[u32]>(m)).sum::<usize>()
            }
        };
        PAGE * (size_of::<Option<E>>() + size_of::<u32>() + size_of::<u16>()) + members
    }
}

/// The lists of an entry, all of them in one of the two fields.
pub(super) struct ListsOf<'a> {
    narrow: std::slice::Iter<'a, u16>,
    wide: std::slice::Iter<'a, u32>,
}

impl Iterator for ListsOf<'_> {
    type Item = u32;

    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        let narrow = self.narrow.next().map(|&list| list.into());
        narrow.or_else(|| self.wide.next().copied())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = self.narrow.len() + self.wide.len();
        (len, Some(len))
    }
}

impl ExactSizeIterator for ListsOf<'_> {}

impl<'a> ListsOf<'a> {
    /// The narrow lists and the wide ones: one of the two is empty.
    #[inline(always)]
    pub(super) fn parts(&self) -> (&'a [u16], &'a [u32]) {
        (self.narrow.as_slice(), self.wide.as_slice())
    }
}

/// All slots of a database. `E` is the handle of an entry, which is stored and compared, never looked into.
#[derive(Debug, Default)]
pub(super) struct Slots<E> {
    pub(super) pages: Pages<Page<E>>,
    /// Hits that are not counted yet: in a batch, the waits for memory overlap.
    uncounted: [u32; BATCH],
    uncounted_len: usize,
    /// Costs that are too large for a page's `sizes`.
    large: HashMap<u32, u64, Seeded>,
    bytes: usize,
}

impl<E: Copy + PartialEq> Slots<E> {
    /// Takes a slot for an entry in these lists. With a `place`: that slot, if it is free and its page has room for
    /// this many lists, or one above it. The hit count starts at `hits`. O(lists).
    #[inline(always)]
    pub(super) fn insert(
        &mut self,
        place: Option<Slot>,
        entry: E,
        bytes: u64,
        hits: u32,
        lists: &[u32],
    ) -> Slot {
        // The kind of a page is the number of lists that its entries may have; in the last kind they are boxed.
        let kind = lists.len().min(INLINE + 1) as u8;
        let make = || {
            let page = Page::new(lists.len());
            self.bytes += page.heap_bytes();
            page
        };
        let slot = Slot(match place {
            None => self.pages.allocate(kind, make),
            Some(Slot(id)) => self.pages.allocate_near(id, kind, make),
        });
        self.pages.get_mut(slot.0).hits[offset_of(slot.0)] = hits;
        let fits = self.set(slot, entry, bytes, lists);
        debug_assert!(fits, "the page was made for so many");
        slot
    }

    /// Changes an entry, its cost and its lists. Returns false and does nothing if its page has no room for this many
    /// lists.
    #[inline(always)]
    pub(super) fn set(&mut self, slot: Slot, entry: E, bytes: u64, lists: &[u32]) -> bool {
        let at = offset_of(slot.0);
        if let Members::Narrow { each, all } = &mut self.pages.get_mut(slot.0).members
            && lists.len() <= *each
            && lists.iter().all(|&list| list < NO_NARROW.into())
        {
            let places = all[at * *each..][..*each].iter_mut();
            for (at, place) in places.enumerate() {
                *place = lists.get(at).map_or(NO_NARROW, |&list| list as u16);
            }
        } else if !self.set_wider(slot, lists) {
            return false;
        }
        let page = self.pages.get_mut(slot.0);
        page.entries[at] = Some(entry);
        if page.set_bytes(at, bytes) {
            self.set_large(slot, bytes);
        }
        true
    }

    /// Changes an entry's lists where there may be many, or their numbers are large. Returns false as [`Slots::set`]
    /// does.
    #[inline(never)]
    fn set_wider(&mut self, slot: Slot, lists: &[u32]) -> bool {
        let at = offset_of(slot.0);
        let page = self.pages.get_mut(slot.0);
        if let Members::Narrow { each, all } = &mut page.members {
            let each = *each;
            if lists.len() > each {
                return false;
            }
            let wide = all.iter().map(|&list| match list {
                NO_NARROW => NO_LIST,
                list => list.into(),
            });
            let all: Box<[u32]> = wide.collect();
            let more = size_of_val::<[u32]>(&all) / 2;
            page.members = Members::Packed { each, all };
            self.bytes += more;
        }
        match &mut self.pages.get_mut(slot.0).members {
            Members::Packed { each, all } => {
                let Some(rest) = each.checked_sub(lists.len()) else {
                    return false;
                };
                let (used, unused) = all[at * *each..(at + 1) * *each].split_at_mut(*each - rest);
                used.copy_from_slice(lists);
                unused.fill(NO_LIST);
            }
            Members::Boxed(boxes) => {
                let before = size_of_val::<[u32]>(&boxes[at]);
                boxes[at] = lists.into();
                self.bytes = self.bytes + size_of_val(lists) - before;
            }
            Members::Narrow { .. } => unreachable!("it was just widened"),
        }
        true
    }

    /// Gives the slot back.
    pub(super) fn remove(&mut self, slot: Slot) {
        self.count_hits();
        self.set_bytes(slot, 0);
        let page = self.pages.get_mut(slot.0);
        let at = offset_of(slot.0);
        page.entries[at] = None;
        if let Members::Boxed(boxes) = &mut page.members {
            let freed = size_of_val::<[u32]>(&boxes[at]);
            boxes[at] = Box::default();
            self.bytes -= freed;
        }
        if let Some(page) = self.pages.release(slot.0) {
            self.bytes -= page.heap_bytes();
        }
    }

    /// Whether this slot belongs to this entry: the check that makes a slot number kept by an entry safe to use.
    #[inline(always)]
    pub(super) fn holds(&self, slot: Slot, entry: E) -> bool {
        let page = self.pages.find(slot.0);
        page.is_some_and(|page| page.entries[offset_of(slot.0)] == Some(entry))
    }

    pub(super) fn entry(&self, slot: Slot) -> E {
        self.pages.get(slot.0).entries[offset_of(slot.0)].expect("the slot is in use")
    }

    pub(super) fn set_entry(&mut self, slot: Slot, entry: E) {
        self.pages.get_mut(slot.0).entries[offset_of(slot.0)] = Some(entry);
    }

    /// The cost of the entry, bytes.
    pub(super) fn bytes(&self, slot: Slot) -> u64 {
        match self.pages.get(slot.0).sizes[offset_of(slot.0)] {
            LARGE => self.large[&slot.0],
            units => u64::from(units) * UNIT,
        }
    }

    /// Sets the cost of the entry: a multiple of [`UNIT`].
    #[inline(always)]
    pub(super) fn set_bytes(&mut self, slot: Slot, bytes: u64) {
        debug_assert!(bytes.is_multiple_of(UNIT));
        if self
            .pages
            .get_mut(slot.0)
            .set_bytes(offset_of(slot.0), bytes)
        {
            self.set_large(slot, bytes);
        }
    }

    #[cold]
    fn set_large(&mut self, slot: Slot, bytes: u64) {
        if bytes / UNIT >= LARGE.into() {
            self.large.insert(slot.0, bytes);
        } else {
            self.large.remove(&slot.0);
            self.large.shrink_to(2 * self.large.len());
        }
    }

    #[inline(always)]
    pub(super) fn hit(&mut self, slot: Slot) {
        let at = self.uncounted_len;
        self.uncounted[at] = slot.0;
        self.uncounted_len = at + 1;
        if at == BATCH - 1 {
            self.count_hits();
        }
    }

    /// Counts the uncounted hits. Must run before a count is read and before a slot gets another entry.
    #[cold]
    pub(super) fn count_hits(&mut self) {
        for at in 0..std::mem::take(&mut self.uncounted_len) {
            self.add_hits(Slot(self.uncounted[at]), 1);
        }
    }

    /// Counts several hits. Counts stop at `u32::MAX` instead of starting again at 0.
    #[inline]
    pub(super) fn add_hits(&mut self, slot: Slot, more: u32) {
        let count = &mut self.pages.get_mut(slot.0).hits[offset_of(slot.0)];
        *count = count.saturating_add(more);
    }

    pub(super) fn hits(&mut self, slot: Slot) -> u32 {
        self.count_hits();
        self.pages.get(slot.0).hits[offset_of(slot.0)]
    }

    /// Visits the entries of a page that have more than `least` hits, uncounted ones left out: the count and the slot.
    pub(super) fn visit_hits(&self, number: usize, least: u32, mut visit: impl FnMut(u32, Slot)) {
        let first = (number * PAGE) as u32;
        let Some(page) = self.pages.find(first) else {
            return;
        };
        // Few entries do: the others cost no further lookup.
        for (at, &hits) in page.hits.iter().enumerate() {
            if hits > least && page.entries[at].is_some() {
                visit(hits, Slot(first + at as u32));
            }
        }
    }

    /// The lists that contain the entry.
    #[inline(always)]
    pub(super) fn lists(&self, slot: Slot) -> ListsOf<'_> {
        let at = offset_of(slot.0);
        let (narrow, wide): (&[u16], &[u32]) = match &self.pages.get(slot.0).members {
            Members::Narrow { each, all } => (used(all, *each, at, NO_NARROW), &[]),
            members => (&[], members.wide(at)),
        };
        let (narrow, wide) = (narrow.iter(), wide.iter());
        ListsOf { narrow, wide }
    }

    pub(super) const fn len(&self) -> usize {
        self.pages.live()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes + self.pages.heap_bytes() + self.large.capacity() * (size_of::<(u32, u64)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<E: Copy + PartialEq> Slots<E> {
        fn set_lists(&mut self, slot: Slot, lists: &[u32]) -> bool {
            self.set(slot, self.entry(slot), self.bytes(slot), lists)
        }

        pub(in crate::engine) fn validate(&self) -> Vec<Slot> {
            self.pages.validate();
            let bytes: usize = self
                .pages
                .numbered()
                .map(|(_, page)| page.heap_bytes())
                .sum();
            assert_eq!(bytes, self.bytes);
            let mut slots = Vec::new();
            for (number, page) in self.pages.numbered() {
                for (at, entry) in page.entries.iter().enumerate() {
                    let id = (number * PAGE + at) as u32;
                    assert_eq!(entry.is_some(), self.pages.is_used(id));
                    if entry.is_some() {
                        slots.push(Slot(id));
                    }
                }
            }
            assert_eq!(slots.len(), self.len());
            slots
        }
    }

    #[test]
    fn widening_a_page_keeps_its_lists() {
        let mut slots: Slots<u32> = Slots::default();
        let first = slots.insert(None, 1, 4, 0, &[3, 4]);
        let second = slots.insert(None, 2, 4, 0, &[65_534, 5]);
        let others = [3, 4, 5].map(|entry| slots.insert(None, entry, 4, 0, &[entry, 10 * entry]));
        let narrow = slots.heap_bytes();
        assert!(slots.set_lists(second, &[65_534, 65_535]));
        let wider = slots.heap_bytes() - narrow;
        assert_eq!(wider, 2 * PAGE * size_of::<u16>());
        assert!(slots.lists(first).eq([3, 4]));
        assert!(slots.lists(second).eq([65_534, 65_535]));
        assert!(!slots.set_lists(first, &[1, 2, 70_000]));
        for slot in others {
            assert!(slots.set_lists(slot, &[7]));
            assert!(slots.set_lists(slot, &[8, 80_000]));
        }
        assert!(others.iter().all(|&slot| slots.lists(slot).eq([8, 80_000])));
        assert!(slots.set_lists(others[1], &[9]));
        assert!(slots.lists(others[1]).eq([9]));
        assert!(slots.lists(others[2]).eq([8, 80_000]));
        slots.validate();
    }

    #[test]
    fn the_bytes_of_many_lists_are_counted_as_they_change() {
        let mut slots: Slots<u32> = Slots::default();
        let many: Vec<u32> = (0..50).collect();
        let narrow = slots.insert(None, 3, 0, 0, &many[..INLINE]);
        let wide = slots.insert(None, 4, 0, 0, &many[..=INLINE]);
        assert_ne!(narrow.0 as usize / PAGE, wide.0 as usize / PAGE);
        let first = slots.insert(None, 1, 0, 0, &many[..40]);
        let second = slots.insert(None, 2, 0, 0, &many);
        for len in [50, 3, 20, 0, 40] {
            assert!(slots.set_lists(first, &many[..len]));
            assert!(slots.lists(first).eq(0..len as u32));
            assert!(slots.lists(second).eq(0..50));
            slots.validate();
        }
    }

    #[test]
    fn a_freed_slot_is_reused() {
        let mut slots: Slots<u32> = Slots::default();
        let [first, second] = [1, 2].map(|entry| slots.insert(None, entry, 0, 0, &[3]));
        assert_ne!(slots.insert(Some(second), 9, 0, 0, &[3]), second);
        slots.remove(first);
        assert_eq!(slots.insert(Some(first), 3, 0, 0, &[4]), first);
        assert!(slots.holds(first, 3) && !slots.holds(first, 1));
        slots.validate();
    }
}
