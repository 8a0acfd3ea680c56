//! Hands out small integers in pages of 1,024, and stores one value per page.
//!
//! A growing `Vec` copies everything when it doubles: with a million entries that is a stall of milliseconds in the
//! middle of a SET. Pages are added one at a time, and given back one at a time when their last number is released.

use roaring::RoaringBitmap;

use super::marks::bytes_of;

/// Ids per page.
pub(super) const PAGE: usize = 1_024;
const WORDS: usize = PAGE / 64;

/// The number of kinds of pages.
pub(super) const KINDS: usize = 10;

/// The page of an id.
pub(super) const fn page_of(id: u32) -> usize {
    id as usize / PAGE
}

/// The position of an id in its page.
pub(super) const fn offset_of(id: u32) -> usize {
    id as usize % PAGE
}

/// A page: which of its ids are in use.
#[derive(Debug, Default)]
struct Page {
    used: [u64; WORDS],
    live: u16,
    kind: u8,
}

impl Page {
    fn is_used(&self, id: u32) -> bool {
        self.used[offset_of(id) / 64] & (1 << (offset_of(id) % 64)) != 0
    }
}

/// Ids in use, page by page. Pages of one `kind` are alike, so their values can be laid out for that kind.
#[derive(Debug)]
pub(super) struct Pages<T> {
    by_number: Vec<Page>,
    /// The value of each page; `None` where there is no page. Stored apart from the pages, so that values that are
    /// looked up lie close together.
    stored: Vec<Option<T>>,
    /// For each kind, the numbers of the pages that have room. The lowest is taken first, here and in `vacant`: entries
    /// that are stored after a tag was dropped then have ascending ids again, which are appended to lists.
    open: [RoaringBitmap; KINDS],
    /// Numbers without a page.
    vacant: RoaringBitmap,
    live: usize,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self {
            by_number: Vec::new(),
            stored: Vec::new(),
            open: Default::default(),
            vacant: RoaringBitmap::new(),
            live: 0,
        }
    }
}

impl<T> Pages<T> {
    /// Takes a free id on a page of this kind; makes the page if there is none. O(1).
    #[inline(always)]
    pub(super) fn allocate(&mut self, kind: u8, make: impl FnOnce() -> T) -> u32 {
        let open = self.open[kind as usize].min();
        let number = open.unwrap_or_else(|| self.add_page(kind, make));
        self.take(number)
    }

    /// Takes the first free id of an open page.
    #[inline(always)]
    fn take(&mut self, number: u32) -> u32 {
        let page = &self.by_number[number as usize];
        let word = page.used.iter().position(|&w| w != u64::MAX);
        let word = word.expect("an open page has room");
        let at = word as u32 * 64 + page.used[word].trailing_ones();
        let id = number * PAGE as u32 + at;
        self.occupy(id);
        id
    }

    /// Marks a free id of an open page as used.
    #[inline(always)]
    fn occupy(&mut self, id: u32) {
        let page = &mut self.by_number[page_of(id)];
        page.used[offset_of(id) / 64] |= 1 << (offset_of(id) % 64);
        page.live += 1;
        self.live += 1;
        if page.live as usize == PAGE {
            self.open[page.kind as usize].remove(page_of(id) as u32);
        }
    }

    /// Takes exactly this id, if it is free and its page is wide enough for this kind or does not exist yet; else an id
    /// on a page above.
    #[inline(never)]
    pub(super) fn allocate_near(&mut self, id: u32, kind: u8, make: impl FnOnce() -> T) -> u32 {
        let number = page_of(id) as u32;
        let len = self.by_number.len() as u32;
        if len <= number {
            self.vacant.insert_range(len..=number);
            self.by_number
                .resize_with(number as usize + 1, Page::default);
            self.stored.resize_with(number as usize + 1, || None);
        }
        let page = &self.by_number[number as usize];
        if self.stored[number as usize].is_none() {
            self.vacant.remove(number);
            self.open_page(number, kind, make);
        } else if page.kind < kind || page.is_used(id) {
            let above = self.open[kind as usize].range(number + 1..).next();
            let above = above.unwrap_or_else(|| self.append_page(kind, make));
            return self.take(above);
        }
        self.occupy(id);
        id
    }

    #[cold]
    fn add_page(&mut self, kind: u8, make: impl FnOnce() -> T) -> u32 {
        let Some(number) = self.vacant.min() else {
            return self.append_page(kind, make);
        };
        self.vacant.remove(number);
        self.open_page(number, kind, make);
        number
    }

    fn append_page(&mut self, kind: u8, make: impl FnOnce() -> T) -> u32 {
        self.by_number.push(Page::default());
        self.stored.push(None);
        let number = self.by_number.len() as u32 - 1;
        self.open_page(number, kind, make);
        number
    }

    fn open_page(&mut self, number: u32, kind: u8, make: impl FnOnce() -> T) {
        assert!(number < u32::MAX / PAGE as u32, "2^32 ids are in use");
        self.open[kind as usize].insert(number);
        self.by_number[number as usize].kind = kind;
        self.stored[number as usize] = Some(make());
    }

    /// The value stored for the page of this id, if the page exists.
    #[inline(always)]
    pub(super) fn find(&self, id: u32) -> Option<&T> {
        self.stored.get(page_of(id))?.as_ref()
    }

    /// The same for an id in use.
    #[inline(always)]
    pub(super) fn get(&self, id: u32) -> &T {
        let stored = self.stored[page_of(id)].as_ref();
        stored.expect("the id's page exists")
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, id: u32) -> &mut T {
        let stored = self.stored[page_of(id)].as_mut();
        stored.expect("the id's page exists")
    }

    /// All ids in use. O(ids / 64).
    pub(super) fn to_bitmap(&self) -> RoaringBitmap {
        let words = self.by_number.iter().flat_map(|page| page.used);
        let bits: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        RoaringBitmap::from_lsb0_bytes(0, &bits)
    }

    /// Releases an id, and its page with the stored value if the page is empty now. O(1).
    pub(super) fn release(&mut self, id: u32) -> Option<T> {
        let number = page_of(id) as u32;
        let page = &mut self.by_number[number as usize];
        assert!(page.is_used(id), "id {id} is not in use");
        page.used[offset_of(id) / 64] &= !(1 << (offset_of(id) % 64));
        page.live -= 1;
        self.live -= 1;
        let open = &mut self.open[page.kind as usize];
        if page.live as usize == PAGE - 1 {
            open.insert(number);
        }
        if page.live > 0 {
            return None;
        }
        open.remove(number);
        let stored = self.stored[number as usize].take();
        self.vacant.insert(number);
        if self.live == 0 {
            // Nothing is left: release the bookkeeping as well.
            *self = Self::default();
        }
        stored
    }

    /// One more than the highest id that may be in use.
    pub(super) fn end(&self) -> u32 {
        self.by_number.len() as u32 * PAGE as u32
    }

    pub(super) const fn live(&self) -> usize {
        self.live
    }

    pub(super) fn pages_in_use(&self) -> usize {
        self.by_number.len() - self.vacant.len() as usize
    }

    /// Bytes of the bookkeeping and of the stored values, without the heap that these refer to.
    pub(super) fn heap_bytes(&self) -> usize {
        let numbers = self.open.iter().chain([&self.vacant]).map(bytes_of);
        self.by_number.capacity() * size_of::<Page>()
            + self.stored.capacity() * size_of::<Option<T>>()
            + numbers.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<T> Pages<T> {
        pub(in crate::engine) fn is_used(&self, id: u32) -> bool {
            let page = self.by_number.get(page_of(id));
            page.is_some_and(|page| page.is_used(id))
        }

        /// The number of each page, and the value stored for it.
        pub(in crate::engine) fn numbered(&self) -> impl Iterator<Item = (usize, &T)> {
            let pages = self.stored.iter().enumerate();
            pages.filter_map(|(number, stored)| Some((number, stored.as_ref()?)))
        }

        pub(in crate::engine) fn validate(&self) {
            let (mut live, mut open) = (0, 0);
            for (number, page) in self.by_number.iter().enumerate() {
                let is_there = self.stored[number].is_some();
                assert_ne!(self.vacant.contains(number as u32), is_there, "{number}");
                if !is_there {
                    assert_eq!(page.live, 0);
                    continue;
                }
                let bits: u32 = page.used.iter().map(|w| w.count_ones()).sum();
                assert_eq!(bits, u32::from(page.live));
                assert!(page.live > 0, "an empty page is dropped");
                let is_open = |kind: usize| self.open[kind].contains(number as u32);
                let has_room = usize::from(page.live) < PAGE;
                assert_eq!(is_open(page.kind.into()), has_room);
                open += u64::from(has_room);
                live += bits as usize;
            }
            assert_eq!(live, self.live);
            assert_eq!(self.open.iter().map(RoaringBitmap::len).sum::<u64>(), open);
        }
    }

    /// Takes the id or one above it. Returns the id, and whether a page was made for it.
    fn take(pages: &mut Pages<()>, id: u32, kind: u8) -> (u32, bool) {
        let mut made = false;
        let taken = pages.allocate_near(id, kind, || made = true);
        pages.validate();
        (taken, made)
    }

    #[test]
    fn an_id_is_allocated_above_even_if_a_lower_page_has_room() {
        let mut pages = Pages::default();
        let page = PAGE as u32;
        assert_eq!(pages.allocate(0, || ()), 0);
        assert_eq!(take(&mut pages, 0, 0), (page, true));
        // That page has room and lies above the first, but not above itself.
        assert_eq!(take(&mut pages, 0, 0), (page + 1, false));
        assert_eq!(take(&mut pages, page, 0), (2 * page, true));
        assert_eq!((pages.pages_in_use(), pages.end()), (3, 3 * page));
        assert_eq!(pages.release(2 * page), Some(()));
        assert_eq!((pages.pages_in_use(), pages.end()), (2, 3 * page));
    }

    #[test]
    fn freed_pages_are_reused_from_the_lowest() {
        let mut pages = Pages::default();
        let ids = 0..4 * PAGE as u32;
        let ids: Vec<u32> = ids.map(|_| pages.allocate(0, || ())).collect();
        // One id stays, so that the bookkeeping is not dropped.
        ids[1..].iter().for_each(|&id| _ = pages.release(id));
        let again = ids[1..].iter().map(|_| pages.allocate(0, || ()));
        assert_eq!(again.collect::<Vec<_>>(), ids[1..]);
        pages.validate();
    }

    #[test]
    fn a_requested_id_is_used_if_free_and_its_page_is_wide_enough() {
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
        // The page does not exist yet.
        assert_eq!(take(&mut pages, 9_000, 3), (9_000, true));
        assert!(pages.is_used(9_000));
    }
}
