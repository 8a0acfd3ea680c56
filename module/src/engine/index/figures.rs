//! Figures of the index: numbers, sizes, one tag, all tags. Gone entries are not counted, except where noted.

use roaring::RoaringBitmap;
use smallvec::SmallVec;

use super::Index;
use crate::engine::lists::TagList;
use crate::engine::marks::bytes_of;
use crate::engine::pages::PAGE;
use crate::engine::slots::Slot;

/// The visible entries that carry a tag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TagFigures {
    pub(crate) entries: u64,
    /// Their cost.
    pub(crate) bytes: u64,
}

impl<E: Copy + PartialEq> Index<E> {
    /// Entries in the index, gone ones included.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn backlog(&self) -> u64 {
        self.gone.len()
    }

    pub(crate) fn visible(&self) -> u64 {
        self.slots.len() as u64 - self.backlog()
    }

    pub(crate) fn visible_bytes(&self) -> u64 {
        self.bytes - self.gone_bytes
    }

    /// Whether an entry, gone or not, carries this tag.
    pub(crate) fn is_carried(&self, tag: &[u8]) -> bool {
        self.find(tag).is_some()
    }

    /// The cost of the entries in these slots. O(slots).
    pub(super) fn bytes_of(&self, ids: &RoaringBitmap) -> u64 {
        if ids.len() == self.slots.len() as u64 {
            return self.bytes;
        }
        ids.iter().map(|id| self.slots.bytes(Slot(id))).sum()
    }

    pub(crate) fn cost(&self, slot: Slot) -> u64 {
        self.slots.bytes(slot)
    }

    /// The visible entries of a tag. O(1) while nothing is gone, else O(entries of the tag / 64), and for the bytes
    /// O(gone ones among them) or O(visible ones), whichever is less.
    pub(crate) fn tag_figures(&self, tag: &[u8]) -> TagFigures {
        let list = self.find(tag).map(|list| self.lists.get(list));
        list.map_or_else(TagFigures::default, |list| self.figures_of(list))
    }

    fn figures_of(&self, list: &TagList) -> TagFigures {
        let all = u64::from(list.ids.len());
        let gone = if self.gone.is_empty() {
            0
        } else {
            list.ids.count_in(&self.gone)
        };
        let entries = all - gone;
        let bytes = match (entries, gone) {
            (_, 0) => list.ids.bytes(),
            (0, _) => 0,
            _ => {
                let mut ids = list.ids.to_bitmap();
                if gone < entries {
                    ids &= &self.gone;
                    list.ids.bytes() - self.bytes_of(&ids)
                } else {
                    ids -= &self.gone;
                    self.bytes_of(&ids)
                }
            }
        };
        TagFigures { entries, bytes }
    }

    /// Visits the tags that visible entries carry, from a number on, up to `limit` numbers. Returns the number to
    /// continue from, `None` at the end.
    pub(crate) fn visit_tags(
        &self,
        from: u32,
        limit: u32,
        mut visit: impl FnMut(&[u8], TagFigures),
    ) -> Option<u32> {
        self.lists.visit(from, limit, |list| {
            let figures = self.figures_of(list);
            if figures.entries > 0 {
                visit(&list.name, figures);
            }
        })
    }

    /// Visits the entries of a page of slots that have more than `least` hits, gone ones included. Returns the next
    /// page, `None` at the end.
    pub(crate) fn visit_hits(
        &mut self,
        page: usize,
        least: u32,
        mut visit: impl FnMut(&Self, u32, Slot),
    ) -> Option<usize> {
        self.slots.count_hits();
        self.slots
            .visit_hits(page, least, |hits, slot| visit(self, hits, slot));
        ((page + 1) * PAGE < self.slots.pages.end() as usize).then_some(page + 1)
    }

    /// Visits up to `count` entries of a tag from `cursor` on, gone ones included, and returns the next cursor. Cursor
    /// 0 starts and ends a scan.
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
        let Some(id) = self.find(tag) else {
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

    /// The entries of a tag, gone ones included; none if there are more than `most`. O(entries returned).
    pub(crate) fn few_of_tag(&self, tag: &[u8], most: u64) -> SmallVec<[Slot; 16]> {
        let list = self.find(tag).map(|list| &self.lists.get(list).ids);
        let few = list.filter(|ids| u64::from(ids.len()) <= most);
        few.into_iter()
            .flat_map(|ids| ids.range(0))
            .map(Slot)
            .collect()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.slots.heap_bytes()
            + self.lists.heap_bytes()
            + self.table.heap_bytes()
            + self.marks.heap_bytes()
            + bytes_of(&self.gone)
            + self.hollow.heap_bytes()
            + self.gone_last.capacity() * size_of::<u32>()
    }
}
