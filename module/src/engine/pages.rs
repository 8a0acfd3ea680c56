//! Hands out small integers in pages of 256, so that what they number can be stored page by page.
//!
//! A growing `Vec` copies everything when it doubles: with a million entries that is a stall of milliseconds in the
//! middle of a SET. Pages are added one at a time, and given back one at a time when their last number is released.

use roaring::RoaringBitmap;

/// How many ids a page holds.
pub(super) const PAGE: usize = 256;
const WORDS: usize = PAGE / 64;

/// How many kinds of pages there are.
pub(super) const KINDS: usize = 10;

/// The page that an id lies in.
pub(super) const fn page_of(id: u32) -> usize {
    id as usize / PAGE
}

/// Where in its page an id lies.
pub(super) const fn offset_of(id: u32) -> usize {
    id as usize % PAGE
}

/// One page: which of its ids are in use, and the kind of storage behind it.
#[derive(Debug, Clone)]
struct Page {
    used: [u64; WORDS],
    live: u16,
    kind: u8,
    /// Position in `open[kind]` while the page has room, else `FULL`.
    open_at: u32,
}

const FULL: u32 = u32::MAX;

/// What `allocate` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allocated {
    pub(super) id: u32,
    /// The id's page had no storage before: the caller makes it.
    pub(super) new_page: bool,
}

/// Numbers in use, page by page. Pages of one `kind` are alike, so their storage can be laid out for that kind.
#[derive(Debug, Default)]
pub(super) struct PageMap {
    pages: Vec<Option<Page>>,
    /// For each kind, the pages that have room.
    open: [Vec<u32>; KINDS],
    /// Page numbers without a page.
    vacant: Vec<u32>,
    live: usize,
}

impl PageMap {
    /// Takes a free id on a page of this kind. O(1).
    #[inline(always)]
    pub(super) fn allocate(&mut self, kind: u8) -> Allocated {
        let open = self.open[kind as usize].last().copied();
        let number = open.unwrap_or_else(|| self.add_page(kind));
        self.take(number, open.is_none())
    }

    /// Takes the first free id of an open page.
    #[inline(always)]
    fn take(&mut self, number: u32, new_page: bool) -> Allocated {
        let page = self.pages[number as usize]
            .as_mut()
            .expect("an open page exists");
        let word = page.used.iter().position(|&w| w != u64::MAX);
        let word = word.expect("an open page has room");
        let at = word as u32 * 64 + page.used[word].trailing_ones();
        let id = number * PAGE as u32 + at;
        self.occupy(id);
        Allocated { id, new_page }
    }

    /// Notes that a free id of an open page is in use.
    #[inline(always)]
    fn occupy(&mut self, id: u32) {
        let page = self.pages[page_of(id)]
            .as_mut()
            .expect("an open page exists");
        page.used[offset_of(id) / 64] |= 1 << (offset_of(id) % 64);
        page.live += 1;
        self.live += 1;
        if page.live as usize == PAGE {
            let (kind, at) = (page.kind, page.open_at);
            page.open_at = FULL;
            self.close(kind, at);
        }
    }

    /// Takes a page out of the list of those that have room.
    #[cold]
    fn close(&mut self, kind: u8, at: u32) {
        let open = &mut self.open[kind as usize];
        open.swap_remove(at as usize);
        if let Some(&moved) = open.get(at as usize) {
            self.pages[moved as usize]
                .as_mut()
                .expect("an open page exists")
                .open_at = at;
        }
    }

    /// As [`PageMap::allocate`], on a page that lies above this one.
    #[inline(never)]
    pub(super) fn allocate_above(&mut self, kind: u8, page: usize) -> Allocated {
        /// How many open pages are looked at before a new one is made at the end.
        const LOOKS: usize = 8;
        let mut open = self.open[kind as usize].iter().rev().take(LOOKS);
        let above = open.find(|&&number| number as usize > page);
        if let Some(&number) = above {
            return self.take(number, false);
        }
        self.pages.push(None);
        let number = self.pages.len() as u32 - 1;
        self.open_page(number, kind);
        self.take(number, true)
    }

    /// Takes this very id, if it is free and its page has room for entries of this kind, or can be made so.
    pub(super) fn allocate_at(&mut self, id: u32, kind: u8) -> Option<Allocated> {
        let number = page_of(id);
        while self.pages.len() <= number {
            self.vacant.push(self.pages.len() as u32);
            self.pages.push(None);
        }
        let new_page = self.pages[number].is_none();
        if new_page {
            let mut vacant = self.vacant.iter();
            let at = vacant.rposition(|&vacant| vacant as usize == number)?;
            self.vacant.swap_remove(at);
            self.open_page(number as u32, kind);
        }
        let page = self.pages[number].as_ref()?;
        let is_used = page.used[offset_of(id) / 64] & (1 << (offset_of(id) % 64)) != 0;
        if page.kind < kind || is_used {
            return None;
        }
        self.occupy(id);
        Some(Allocated { id, new_page })
    }

    #[cold]
    fn add_page(&mut self, kind: u8) -> u32 {
        let number = self.vacant.pop().unwrap_or_else(|| {
            self.pages.push(None);
            self.pages.len() as u32 - 1
        });
        self.open_page(number, kind);
        number
    }

    fn open_page(&mut self, number: u32, kind: u8) {
        assert!(number < u32::MAX / PAGE as u32, "2^32 ids are in use");
        let open = &mut self.open[kind as usize];
        open.push(number);
        let open_at = open.len() as u32 - 1;
        self.pages[number as usize] = Some(Page {
            used: [0; WORDS],
            live: 0,
            kind,
            open_at,
        });
    }

    /// All ids in use. O(ids / 64).
    pub(super) fn to_bitmap(&self) -> RoaringBitmap {
        let used = |page: &Option<Page>| page.as_ref().map_or([0; WORDS], |page| page.used);
        let words = self.pages.iter().flat_map(used);
        let bits: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        RoaringBitmap::from_lsb0_bytes(0, &bits)
    }

    /// Gives an id back. True if its page is empty now and was dropped: the caller drops its storage. O(1).
    pub(super) fn release(&mut self, id: u32) -> bool {
        let number = page_of(id) as u32;
        let page = self.pages[number as usize]
            .as_mut()
            .expect("the id's page exists");
        let (word, bit) = (offset_of(id) / 64, offset_of(id) % 64);
        assert!(page.used[word] & (1 << bit) != 0, "id {id} is not in use");
        page.used[word] &= !(1 << bit);
        page.live -= 1;
        self.live -= 1;
        let open = &mut self.open[page.kind as usize];
        if page.open_at == FULL {
            page.open_at = open.len() as u32;
            open.push(number);
        }
        if page.live > 0 {
            return false;
        }
        let (kind, at) = (page.kind, page.open_at);
        self.close(kind, at);
        self.pages[number as usize] = None;
        self.vacant.push(number);
        if self.live == 0 {
            // Nothing is left: give the bookkeeping itself back as well.
            *self = Self::default();
        }
        true
    }

    /// One more than the highest id that may be in use.
    pub(super) fn end(&self) -> u32 {
        self.pages.len() as u32 * PAGE as u32
    }

    pub(super) const fn live(&self) -> usize {
        self.live
    }

    pub(super) fn pages_in_use(&self) -> usize {
        self.pages.len() - self.vacant.len()
    }

    /// Bytes of the bookkeeping itself.
    pub(super) fn heap_bytes(&self) -> usize {
        let numbers = self.open.iter().chain([&self.vacant]).map(Vec::capacity);
        self.pages.capacity() * size_of::<Option<Page>>()
            + numbers.sum::<usize>() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl PageMap {
        pub(in crate::engine) fn is_used(&self, id: u32) -> bool {
            self.pages
                .get(page_of(id))
                .and_then(Option::as_ref)
                .is_some_and(|page| {
                    page.used[offset_of(id) / 64] & (1 << (offset_of(id) % 64)) != 0
                })
        }

        pub(in crate::engine) fn validate(&self) {
            let mut live = 0;
            for (number, page) in self.pages.iter().enumerate() {
                let Some(page) = page else {
                    assert!(
                        self.vacant.contains(&(number as u32)),
                        "page {number} is neither there nor vacant"
                    );
                    continue;
                };
                let bits: u32 = page.used.iter().map(|w| w.count_ones()).sum();
                assert_eq!(bits, u32::from(page.live));
                assert!(page.live > 0, "an empty page is dropped");
                assert_eq!(page.open_at == FULL, page.live as usize == PAGE);
                if page.open_at != FULL {
                    assert_eq!(
                        self.open[page.kind as usize][page.open_at as usize],
                        number as u32
                    );
                }
                live += bits as usize;
            }
            assert_eq!(live, self.live);
        }
    }

    #[test]
    fn a_page_above_is_taken_although_one_below_has_room() {
        let mut map = PageMap::default();
        let page = PAGE as u32;
        assert_eq!(map.allocate(0).id, 0);
        let new_page = true;
        let above = map.allocate_above(0, 0);
        assert_eq!(above, Allocated { id: page, new_page });
        // That one has room, and lies above the first, but not above itself.
        assert_eq!(map.allocate_above(0, 0).id, page + 1);
        assert_eq!(map.allocate_above(0, 1).id, 2 * page);
        map.validate();
        assert_eq!((map.pages_in_use(), map.end()), (3, 3 * page));
        assert!(map.release(2 * page));
        assert_eq!((map.pages_in_use(), map.end()), (2, 3 * page));
    }

    #[test]
    fn a_number_is_taken_again_where_it_is_free_and_its_page_wide_enough() {
        let mut map = PageMap::default();
        for _ in 0..200 {
            map.allocate(1);
        }
        let take = |map: &mut PageMap, id, kind| {
            let taken = map.allocate_at(id, kind);
            taken.map(|Allocated { id, new_page }| (id, new_page))
        };
        for id in [0, 1, 70, 199] {
            assert_eq!(take(&mut map, id, 1), None, "{id} is in use");
            assert!(!map.release(id));
            assert_eq!(take(&mut map, id, 2), None, "its page is too narrow");
            assert_eq!(take(&mut map, id, 1), Some((id, false)));
        }
        assert_eq!(take(&mut map, 201, 0), Some((201, false)));
        // Where there is no page yet.
        assert_eq!(take(&mut map, 2_000, 3), Some((2_000, true)));
        assert!(map.is_used(2_000));
        map.validate();
    }
}
