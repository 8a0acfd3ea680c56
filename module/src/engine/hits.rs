//! How often each entry was read. Where counts lie, and why, is in `DESIGN.md` (Memory).

use super::pages::{PAGE, page_of};

/// How many pages' counts lie in one block: 4 KiB, which allocators put on a page of the operating system of their own.
/// Blocks of 1 KiB came to lie beside lists of the same size, and a child that saves copied twice as much.
const PAGES: usize = 4;

/// Hits that are written down together.
const BATCH: usize = 32;

#[derive(Debug)]
struct Block {
    counts: Box<[u32; PAGES * PAGE]>,
    pages_in_use: u8,
}

#[derive(Debug, Default)]
pub(super) struct Hits {
    blocks: Vec<Option<Block>>,
    /// For each page, no less than the highest count on it.
    pub(super) maxima: Vec<u32>,
    /// Hits that are not counted yet: by the dozen, the waits for memory overlap.
    uncounted: [u32; BATCH],
    uncounted_len: usize,
}

impl Hits {
    /// Makes room for the counts of a new page, all 0.
    pub(super) fn add_page(&mut self, number: usize) {
        if self.maxima.len() <= number {
            self.maxima.resize(number + 1, 0);
            self.blocks.resize_with(number / PAGES + 1, || None);
        }
        self.maxima[number] = 0;
        let block = self.blocks[number / PAGES].get_or_insert_with(|| Block {
            counts: Box::new([0; PAGES * PAGE]),
            pages_in_use: 0,
        });
        block.pages_in_use += 1;
        block.counts[counts_of(number)].fill(0);
    }

    /// Gives the room back. No hit of its slots may be uncounted.
    pub(super) fn remove_page(&mut self, number: usize) {
        let place = &mut self.blocks[number / PAGES];
        let block = place.as_mut().expect("the page was added");
        block.pages_in_use -= 1;
        if block.pages_in_use == 0 {
            *place = None;
        }
    }

    #[inline(always)]
    pub(super) fn hit(&mut self, id: u32) {
        let at = self.uncounted_len;
        self.uncounted[at] = id;
        self.uncounted_len = at + 1;
        if at == BATCH - 1 {
            self.count();
        }
    }

    /// Writes the uncounted hits down. Comes before anything that reads a count or gives a slot to somebody else.
    #[cold]
    pub(super) fn count(&mut self) {
        for at in 0..self.uncounted_len {
            self.add(self.uncounted[at], 1);
        }
        self.uncounted_len = 0;
    }

    /// Counts several hits. Counts stop at `u32::MAX` instead of starting anew.
    #[inline]
    pub(super) fn add(&mut self, id: u32, more: u32) {
        let count = self.place(id);
        let now = count.saturating_add(more);
        *count = now;
        let max = &mut self.maxima[page_of(id)];
        if now > *max {
            *max = now;
        }
    }

    pub(super) fn set(&mut self, id: u32, count: u32) {
        *self.place(id) = 0;
        if count > 0 {
            self.add(id, count);
        }
    }

    #[inline(always)]
    fn place(&mut self, id: u32) -> &mut u32 {
        let at = id as usize;
        let block = self.blocks[at / (PAGES * PAGE)].as_mut();
        &mut block.expect("the page was added").counts[at % (PAGES * PAGE)]
    }

    pub(super) fn get(&mut self, id: u32) -> u32 {
        self.count();
        *self.place(id)
    }

    /// The counts of a page, without what is uncounted.
    pub(super) fn page(&self, number: usize) -> &[u32] {
        let block = self.blocks[number / PAGES].as_ref();
        &block.expect("the page was added").counts[counts_of(number)]
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Option<Block>>()
            + self.maxima.capacity() * size_of::<u32>()
            + self.blocks.iter().flatten().count() * PAGES * PAGE * size_of::<u32>()
    }
}

/// Where in its block a page's counts lie.
const fn counts_of(number: usize) -> std::ops::Range<usize> {
    let start = number % PAGES * PAGE;
    start..start + PAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Hits {
        /// Checks that there is room for these pages, and for no others.
        pub(in crate::engine) fn validate(&self, pages: impl Iterator<Item = usize>) {
            let mut in_use = vec![0; self.blocks.len()];
            for number in pages {
                in_use[number / PAGES] += 1;
            }
            let held = self
                .blocks
                .iter()
                .map(|block| block.as_ref().map_or(0, |block| block.pages_in_use));
            assert_eq!(held.collect::<Vec<u8>>(), in_use);
        }
    }
}
