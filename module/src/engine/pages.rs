//! Hands out small integers in pages of 1,024, and stores what they number page by page.
//!
//! A growing `Vec` copies everything when it doubles: with a million entries that is a stall of milliseconds in the
//! middle of a SET. Pages are added one at a time, and given back one at a time when their last number is released.

use roaring::RoaringBitmap;

/// How many ids a page holds.
pub(super) const PAGE: usize = 1_024;
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

/// One page: which of its ids are in use, and what they number.
#[derive(Debug)]
struct Page<T> {
    used: [u64; WORDS],
    live: u16,
    kind: u8,
    /// Position in `open[kind]` while the page has room, else `FULL`.
    open_at: u32,
    stored: T,
}

const FULL: u32 = u32::MAX;

impl<T> Page<T> {
    fn is_used(&self, id: u32) -> bool {
        self.used[offset_of(id) / 64] & (1 << (offset_of(id) % 64)) != 0
    }
}

/// Numbers in use, page by page. Pages of one `kind` are alike, so what they store can be laid out for that kind.
#[derive(Debug)]
pub(super) struct Pages<T> {
    by_number: Vec<Option<Page<T>>>,
    /// For each kind, the pages that have room.
    open: [Vec<u32>; KINDS],
    /// Page numbers without a page.
    vacant: Vec<u32>,
    live: usize,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self {
            by_number: Vec::new(),
            open: Default::default(),
            vacant: Vec::new(),
            live: 0,
        }
    }
}

impl<T> Pages<T> {
    /// Takes a free id on a page of this kind, which is made where there is none. O(1).
    #[inline(always)]
    pub(super) fn allocate(&mut self, kind: u8, make: impl FnOnce() -> T) -> u32 {
        let open = self.open[kind as usize].last().copied();
        let number = open.unwrap_or_else(|| self.add_page(kind, make));
        self.take(number)
    }

    /// Takes the first free id of an open page.
    #[inline(always)]
    fn take(&mut self, number: u32) -> u32 {
        let page = self.by_number[number as usize]
            .as_mut()
            .expect("an open page exists");
        let word = page.used.iter().position(|&w| w != u64::MAX);
        let word = word.expect("an open page has room");
        let at = word as u32 * 64 + page.used[word].trailing_ones();
        let id = number * PAGE as u32 + at;
        self.occupy(id);
        id
    }

    /// Notes that a free id of an open page is in use.
    #[inline(always)]
    fn occupy(&mut self, id: u32) {
        let page = self.by_number[page_of(id)]
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
            self.by_number[moved as usize]
                .as_mut()
                .expect("an open page exists")
                .open_at = at;
        }
    }

    /// Takes this very id, if it is free and its page has room for entries of this kind, or can be made so; else one on a page
    /// that lies above.
    #[inline(never)]
    pub(super) fn allocate_near(&mut self, id: u32, kind: u8, make: impl FnOnce() -> T) -> u32 {
        /// How many open pages are looked at before a new one is made at the end.
        const LOOKS: usize = 8;
        let number = page_of(id);
        while self.by_number.len() <= number {
            self.vacant.push(self.by_number.len() as u32);
            self.by_number.push(None);
        }
        match &self.by_number[number] {
            None => {
                self.vacant.retain(|&vacant| vacant as usize != number);
                self.open_page(number as u32, kind, make);
            }
            Some(page) if page.kind < kind || page.is_used(id) => {
                let mut open = self.open[kind as usize].iter().rev().take(LOOKS);
                let above = open.find(|&&open| open as usize > number).copied();
                let above = above.unwrap_or_else(|| self.append_page(kind, make));
                return self.take(above);
            }
            Some(_) => {}
        }
        self.occupy(id);
        id
    }

    #[cold]
    fn add_page(&mut self, kind: u8, make: impl FnOnce() -> T) -> u32 {
        let Some(number) = self.vacant.pop() else {
            return self.append_page(kind, make);
        };
        self.open_page(number, kind, make);
        number
    }

    fn append_page(&mut self, kind: u8, make: impl FnOnce() -> T) -> u32 {
        self.by_number.push(None);
        let number = self.by_number.len() as u32 - 1;
        self.open_page(number, kind, make);
        number
    }

    fn open_page(&mut self, number: u32, kind: u8, make: impl FnOnce() -> T) {
        assert!(number < u32::MAX / PAGE as u32, "2^32 ids are in use");
        let open = &mut self.open[kind as usize];
        open.push(number);
        let open_at = open.len() as u32 - 1;
        self.by_number[number as usize] = Some(Page {
            used: [0; WORDS],
            live: 0,
            kind,
            open_at,
            stored: make(),
        });
    }

    /// What is stored on the page of an id, if there is that page.
    #[inline(always)]
    pub(super) fn find(&self, id: u32) -> Option<&T> {
        let page = self.by_number.get(page_of(id))?.as_ref()?;
        Some(&page.stored)
    }

    /// The same of an id in use.
    #[inline(always)]
    pub(super) fn get(&self, id: u32) -> &T {
        let page = self.by_number[page_of(id)].as_ref();
        &page.expect("the id's page exists").stored
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, id: u32) -> &mut T {
        let page = self.by_number[page_of(id)].as_mut();
        &mut page.expect("the id's page exists").stored
    }

    /// All ids in use. O(ids / 64).
    pub(super) fn to_bitmap(&self) -> RoaringBitmap {
        let used = |page: &Option<Page<T>>| page.as_ref().map_or([0; WORDS], |page| page.used);
        let words = self.by_number.iter().flat_map(used);
        let bits: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        RoaringBitmap::from_lsb0_bytes(0, &bits)
    }

    /// Gives an id back, and its page, with what is stored there, if it is empty now. O(1).
    pub(super) fn release(&mut self, id: u32) -> Option<T> {
        let number = page_of(id) as u32;
        let page = self.by_number[number as usize]
            .as_mut()
            .expect("the id's page exists");
        assert!(page.is_used(id), "id {id} is not in use");
        page.used[offset_of(id) / 64] &= !(1 << (offset_of(id) % 64));
        page.live -= 1;
        self.live -= 1;
        let open = &mut self.open[page.kind as usize];
        if page.open_at == FULL {
            page.open_at = open.len() as u32;
            open.push(number);
        }
        if page.live > 0 {
            return None;
        }
        let (kind, at) = (page.kind, page.open_at);
        self.close(kind, at);
        let page = self.by_number[number as usize].take();
        self.vacant.push(number);
        if self.live == 0 {
            // Nothing is left: give the bookkeeping itself back as well.
            *self = Self::default();
        }
        page.map(|page| page.stored)
    }

    /// One more than the highest id that may be in use.
    pub(super) fn end(&self) -> u32 {
        self.by_number.len() as u32 * PAGE as u32
    }

    pub(super) const fn live(&self) -> usize {
        self.live
    }

    pub(super) fn pages_in_use(&self) -> usize {
        self.by_number.len() - self.vacant.len()
    }

    /// Bytes of the bookkeeping itself, and of what is stored but for the heap that it refers to.
    pub(super) fn heap_bytes(&self) -> usize {
        let numbers = self.open.iter().chain([&self.vacant]).map(Vec::capacity);
        self.by_number.capacity() * size_of::<Option<Page<T>>>()
            + numbers.sum::<usize>() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<T> Pages<T> {
        pub(in crate::engine) fn is_used(&self, id: u32) -> bool {
            let page = self.by_number.get(page_of(id)).and_then(Option::as_ref);
            page.is_some_and(|page| page.is_used(id))
        }

        /// What is stored on each page, by number.
        pub(in crate::engine) fn numbered(&self) -> impl Iterator<Item = (usize, &T)> {
            let pages = self.by_number.iter().enumerate();
            pages.filter_map(|(number, page)| Some((number, &page.as_ref()?.stored)))
        }

        pub(in crate::engine) fn validate(&self) {
            let mut live = 0;
            for (number, page) in self.by_number.iter().enumerate() {
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

    /// Takes the id or one above it, and whether that made a page.
    fn take(pages: &mut Pages<()>, id: u32, kind: u8) -> (u32, bool) {
        let mut made = false;
        let taken = pages.allocate_near(id, kind, || made = true);
        pages.validate();
        (taken, made)
    }

    #[test]
    fn a_page_above_is_taken_although_one_below_has_room() {
        let mut pages = Pages::default();
        let page = PAGE as u32;
        assert_eq!(pages.allocate(0, || ()), 0);
        assert_eq!(take(&mut pages, 0, 0), (page, true));
        // That one has room, and lies above the first, but not above itself.
        assert_eq!(take(&mut pages, 0, 0), (page + 1, false));
        assert_eq!(take(&mut pages, page, 0), (2 * page, true));
        assert_eq!((pages.pages_in_use(), pages.end()), (3, 3 * page));
        assert_eq!(pages.release(2 * page), Some(()));
        assert_eq!((pages.pages_in_use(), pages.end()), (2, 3 * page));
    }

    #[test]
    fn a_number_is_taken_again_where_it_is_free_and_its_page_wide_enough() {
        let mut pages = Pages::default();
        let above = PAGE as u32..;
        for _ in 0..200 {
            pages.allocate(1, || ());
        }
        for id in [0, 1, 70, 199] {
            let (other, _) = take(&mut pages, id, 1);
            assert!(above.contains(&other), "{id} is in use");
            assert_eq!(pages.release(id), None);
            let (other, _) = take(&mut pages, id, 2);
            assert!(above.contains(&other), "the page of {id} is too narrow");
            assert_eq!(take(&mut pages, id, 1), (id, false));
        }
        assert_eq!(take(&mut pages, 201, 0), (201, false));
        // Where there is no page yet.
        assert_eq!(take(&mut pages, 9_000, 3), (9_000, true));
        assert!(pages.is_used(9_000));
    }
}
