//! What is in the index: numbers, sizes, one tag, all tags.

use super::{Index, TagInfo, info_of};
use crate::engine::lists::ListRef;
use crate::engine::marks::bytes_of;
use crate::engine::slots::Slot;

impl<E: Copy + PartialEq> Index<E> {
    /// Entries in the index, gone ones included.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Gone entries that wait to be reclaimed.
    ///
    /// Exact while no more than 64 invalidations wait; beyond, an entry that was dropped through two tags counts twice.
    /// O(1) for one, and for several O(slots / 64): the bitmaps are united.
    pub(crate) fn backlog(&self) -> u64 {
        const UNITED: usize = 64;
        self.backlog_of(UNITED)
    }

    /// [`Index::backlog`], exact while no more than `united` invalidations wait.
    pub(super) fn backlog_of(&self, united: usize) -> u64 {
        let condemned = self.marks.condemned();
        let stale = match self.backlog.len() {
            0 => condemned.len(),
            1 if condemned.is_empty() => self.stale_pairs,
            len if len > united => self.stale_pairs + condemned.len(),
            _ => {
                let mut union = condemned.clone();
                for &list in &self.backlog {
                    self.lists.get(list).ids.add_to(&mut union);
                }
                union.len()
            }
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
            + self.marks.heap_bytes()
            + bytes_of(&self.since_flush)
            + self.backlog.capacity() * size_of::<u32>()
            + self.fading.capacity() * size_of::<ListRef>()
    }

    /// What is known about a tag; `None` if nothing is. O(1).
    pub(crate) fn tag_info(&self, tag: &[u8]) -> Option<TagInfo> {
        let list = self.lists.get(self.find(self.table.hash(tag), tag)?);
        let info = info_of(list);
        // One that was only named in a condition is remembered, but not known.
        (info.entries > 0 || info.invalidations > 0).then_some(info)
    }

    /// Visits the tags that entries carry, from a number on, `limit` numbers at most; returns where to go on, `None` at
    /// the end.
    pub(crate) fn visit_tags(
        &self,
        from: u32,
        limit: u32,
        mut visit: impl FnMut(&[u8], TagInfo),
    ) -> Option<u32> {
        self.lists.visit(from, limit, |list| {
            let is_tag = !list.name.is_empty() && list.epoch == self.epoch;
            if is_tag && !list.ids.is_empty() {
                visit(&list.name, info_of(list));
            }
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
}
