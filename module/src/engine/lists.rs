//! One list per tag: the slots of the entries that carry it.

use super::ids::Ids;
use super::pages::{PAGE, PageMap, offset_of, page_of};

/// The entries of one tag.
#[derive(Debug)]
pub(super) struct TagList {
    pub(super) name: Box<[u8]>,
    pub(super) hash: u32,
    pub(super) ids: Ids,
    /// Memory of the entries in the list.
    pub(super) bytes: u64,
}

impl TagList {
    fn heap_bytes(&self) -> usize {
        self.name.len() + self.ids.heap_bytes()
    }
}

/// All lists of a database.
#[derive(Debug, Default)]
pub(super) struct Lists {
    map: PageMap,
    pages: Vec<Option<Box<[Option<TagList>]>>>,
    /// Bytes of names and ids.
    bytes: usize,
}

impl Lists {
    /// Makes an empty list. O(1).
    pub(super) fn create(&mut self, name: Box<[u8]>, hash: u32) -> u32 {
        let allocated = self.map.allocate(0);
        let number = page_of(allocated.id);
        if allocated.new_page {
            if self.pages.len() <= number {
                self.pages.resize_with(number + 1, || None);
            }
            self.pages[number] = Some(std::iter::repeat_with(|| None).take(PAGE).collect());
        }
        self.bytes += name.len();
        self.pages[number].as_mut().expect("the page was just made")[offset_of(allocated.id)] =
            Some(TagList {
                name,
                hash,
                ids: Ids::default(),
                bytes: 0,
            });
        allocated.id
    }

    /// Drops an empty list.
    pub(super) fn destroy(&mut self, id: u32) {
        let number = page_of(id);
        let list = self.pages[number]
            .as_mut()
            .and_then(|page| page[offset_of(id)].take())
            .expect("the list exists");
        debug_assert!(list.ids.is_empty());
        self.bytes -= list.heap_bytes();
        if self.map.release(id) {
            self.pages[number] = None;
        }
        if self.map.live() == 0 {
            self.pages = Vec::new();
        }
    }

    pub(super) fn get(&self, id: u32) -> &TagList {
        self.pages[page_of(id)]
            .as_ref()
            .and_then(|page| page[offset_of(id)].as_ref())
            .expect("the list exists")
    }

    pub(super) fn get_mut(&mut self, id: u32) -> &mut TagList {
        self.pages[page_of(id)]
            .as_mut()
            .and_then(|page| page[offset_of(id)].as_mut())
            .expect("the list exists")
    }

    /// Changes a list, and keeps the sum of bytes.
    pub(super) fn change<R>(&mut self, id: u32, change: impl FnOnce(&mut TagList) -> R) -> R {
        let list = self.get_mut(id);
        let before = list.ids.heap_bytes();
        let result = change(list);
        let after = list.ids.heap_bytes();
        self.bytes = self.bytes + after - before;
        result
    }

    /// Visits lists from an id on, `limit` numbers at most, and returns where to go on; `None` at the end.
    pub(super) fn visit(
        &self,
        from: u32,
        limit: u32,
        mut visit: impl FnMut(&TagList),
    ) -> Option<u32> {
        let end = self.end().min(from.saturating_add(limit));
        let mut id = from;
        while id < end {
            match self.pages.get(page_of(id)).and_then(Option::as_ref) {
                None => id = (page_of(id) as u32 + 1) * PAGE as u32,
                Some(page) => {
                    if let Some(list) = &page[offset_of(id)] {
                        visit(list);
                    }
                    id += 1;
                }
            }
        }
        (id < self.end()).then_some(id)
    }

    /// How many there are.
    pub(super) const fn live(&self) -> usize {
        self.map.live()
    }

    fn end(&self) -> u32 {
        self.map.end()
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes
            + self.map.pages_in_use() * PAGE * size_of::<Option<TagList>>()
            + self.pages.capacity() * size_of::<Option<Box<[Option<TagList>]>>>()
            + self.map.heap_bytes()
    }

    #[cfg(test)]
    pub(super) fn validate(&self) -> Vec<u32> {
        self.map.validate();
        let mut bytes = 0;
        let mut ids = Vec::new();
        for (number, page) in self.pages.iter().enumerate() {
            for at in 0..PAGE {
                let id = (number * PAGE + at) as u32;
                let list = page.as_ref().and_then(|page| page[at].as_ref());
                assert_eq!(list.is_some(), self.map.is_used(id));
                if let Some(list) = list {
                    bytes += list.heap_bytes();
                    ids.push(id);
                }
            }
        }
        assert_eq!(bytes, self.bytes);
        ids
    }
}
